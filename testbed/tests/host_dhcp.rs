//! A port whose address comes by DHCP: the client runs behind the TAP, as on any host.

use anyhow::Result;
use sumun_testbed::router::wait;
use sumun_testbed::{Appliance, Beside, Lab};

/// The WAN has no address of its own, and lets nothing in but answers of DHCP and what is asked of the address that it gets.
const CONFIG: &str = r#"
[interfaces.lan0]
addresses = ["192.168.1.1/24", "fd00:1::1/64"]

[interfaces.wan0]
addresses = []

[routes]
from = "kernel"

[filter.INPUT]
policy = "DROP"
rules = ["-4 -i wan0 -p udp --sport 67 --dport 68 -j ACCEPT", "-4 -p icmp -j ACCEPT"]

[ipv4.nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]
"#;

const SERVER: &str = "\
interface eth0
start 203.0.113.77
end 203.0.113.77
option subnet 255.255.255.0
option router 203.0.113.1
option lease 600
";

/// What the client runs when it gets a lease.
const SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip addr add \"$ip/24\" dev \"$interface\"
ip route add default via \"$router\"
";

#[test]
fn a_dhcp_client_behind_the_tap_gets_an_address_and_the_lan_goes_out_by_it() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, CONFIG)?;
    let host = &appliance.host;
    let (settings, script, leases) = (lab.path("udhcpd.conf"), lab.path("lease.sh"), lab.path("leases"));
    std::fs::write(&leases, "")?;
    std::fs::write(
        &settings,
        format!("{SERVER}lease_file {}\npidfile {}\n", leases.display(), lab.path("udhcpd.pid").display()),
    )?;
    std::fs::write(&script, SCRIPT)?;
    host.run(&["chmod", "+x", &script.to_string_lossy()])?;
    let mut command = lab.server.command("busybox");
    let _server = Beside::start(command.args(["udhcpd", "-f"]).arg(&settings))?;
    wait("a lease", || {
        let got = host.output(&[
            "busybox",
            "udhcpc",
            "-i",
            "wan0",
            "-n",
            "-q",
            "-t",
            "3",
            "-T",
            "1",
            "-s",
            &script.to_string_lossy(),
        ])?;
        Ok(got.status.success())
    })?;
    assert!(host.ip("addr show dev wan0")?.contains("203.0.113.77/24"));
    lab.server.ip("route del 192.168.1.0/24")?;
    wait("the LAN goes out by the address", || Ok(lab.client1.pings("203.0.113.1", 1)))?;
    wait("the address answers", || Ok(lab.server.pings("203.0.113.77", 1)))
}
