//! The kernel's own stack on devices that belong to the router: it hears nothing any more, and must not speak.

use super::device::ports;
use super::facts::Facts;
use super::{Findings, Remedy, Severity};
use std::net::IpAddr;
use sumun_config::model::Appliance;

/// The checks of this group.
pub fn check(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    for (_, wanted) in ports(appliance) {
        let name = wanted.name.as_str();
        let Some(device) = facts.devices.get(name) else { continue };
        for address in device.addresses.iter().filter(|address| !is_link_local(address)) {
            findings.add(
                Severity::Broken,
                name,
                format!("the kernel has the address {address} on this device"),
                "programs of this machine speak from it and hear no answers: those go to the router",
                Remedy::Command(format!("ip address flush dev {name}")),
            );
        }
        if device.ipv6 {
            findings.add(
                Severity::Note,
                name,
                "the kernel speaks IPv6 on this device",
                "it asks for routers and announces itself beside the router",
                match device.addresses.iter().any(|address| address.is_ipv6() && !is_link_local(address)) {
                    // Addresses would go with it.
                    true => Remedy::Command(format!("sysctl -w net.ipv6.conf.{}.disable_ipv6=1", sysctl(name))),
                    false => Remedy::run(&format!("sysctl -qw net.ipv6.conf.{}.disable_ipv6=1", sysctl(name))),
                },
            );
        }
    }
}

/// A device as sysctl(8) names it: dots are slashes there.
fn sysctl(name: &str) -> String {
    name.replace('.', "/")
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{appliance, said};
    use super::*;

    #[test]
    fn addresses_of_the_kernel_are_told() {
        assert_eq!(said(check, &appliance(), |_| ()), [""; 0]);
        let found = said(check, &appliance(), |f| {
            f.device("eth2").addresses = vec!["203.0.113.2".parse().unwrap(), "fe80::1".parse().unwrap()];
        });
        assert_eq!(
            found,
            ["Broken eth2: the kernel has the address 203.0.113.2 on this device -> ip address flush dev eth2"]
        );
    }

    #[test]
    fn ipv6_is_switched_off_only_where_no_address_goes() {
        let found = |address: &str| {
            said(check, &appliance(), |f| {
                f.device("eth1").ipv6 = true;
                f.device("eth1").addresses = vec![address.parse().unwrap()];
            })
        };
        let safe = found("fe80::1");
        assert_eq!(
            safe,
            ["Note eth1: the kernel speaks IPv6 on this device -> sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1"]
        );
        assert!(found("2001:db8::1")[1].contains("-> sysctl -w net"));
    }
}
