//! Routes, addresses and rules of the kernel's namespace of TAPs hold in the router, while it runs.

use anyhow::{Context, Result};
use sumun_testbed::router::{INTERFACES, wait};
use sumun_testbed::{Appliance, Host, Lab};

const REST: &str = r#"
[routes]
from = "kernel"

[filter.INPUT]
policy = "DROP"
rules = ["-p icmp -j ACCEPT", "-p ipv6-icmp -j ACCEPT"]
"#;

/// The link-local address of a host's `eth0`.
fn link_local(host: &Host) -> Result<String> {
    let shown = host.ip("-6 -br addr show dev eth0 scope link")?;
    let words = shown.split_whitespace().find_map(|word| word.strip_suffix("/64"));
    words.map(String::from).context("a link-local address")
}

#[test]
fn what_ip_says_in_the_namespace_of_taps_is_what_the_router_does() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    let Appliance { router, host } = &appliance;
    lab.server.ip("addr add 198.51.100.1/32 dev lo")?;
    lab.server.ip("addr add 2001:db8:99::1/128 dev lo nodad")?;

    // Addresses of the configuration are on the TAPs, and their networks are reached.
    for to in ["192.168.1.1", "fd00:1::1", "203.0.113.1", "2001:db8:2::1"] {
        wait(&format!("{to} from client1"), || lab.client1.pings_once(to))?;
    }

    // A route is followed as soon as it is there, and no longer when it is gone.
    for (family, prefix, gateway, to) in [
        ("-4", "198.51.100.0/24", "203.0.113.1", "198.51.100.1"),
        ("-6", "2001:db8:99::/48", "2001:db8:2::1", "2001:db8:99::1"),
    ] {
        assert!(!lab.client1.pings_once(to)?, "there is no route yet");
        host.ip(&format!("{family} route add {prefix} via {gateway}"))?;
        wait(&format!("the route to {prefix}"), || {
            Ok(router.ask(&["routes", "get", to])?.contains(&format!("via {gateway}")))
        })?;
        assert!(lab.client1.pings_once(to)?, "the route holds");
        host.ip(&format!("{family} route del {prefix}"))?;
        wait(&format!("{prefix} to be forgotten"), || Ok(!router.ask(&["routes"])?.contains(gateway)))?;
        assert!(!lab.client1.pings_once(to)?, "the route is gone");
    }

    // IPv4 by an IPv6 gateway, as BGP without addresses of links has it (RFC 5549).
    for gateway in ["2001:db8:2::1".to_string(), link_local(&lab.server)?] {
        host.ip(&format!("route add 198.51.100.0/24 via inet6 {gateway} dev wan0"))?;
        let way = format!("via inet6 {gateway} dev wan0");
        wait("the route by an IPv6 gateway", || Ok(router.ask(&["routes", "get", "198.51.100.1"])?.contains(&way)))?;
        assert!(router.ask(&["routes"])?.contains(&format!("198.51.100.0/24 {way}")));
        assert!(lab.client1.pings_once("198.51.100.1")?, "by {gateway}");
        // An address that goes has everything read again.
        let read = || anyhow::Ok(router.status()?["mirror"]["synchronisations"].as_u64());
        let before = read()?;
        host.ip("addr add 198.18.0.1/24 dev wan0")?;
        host.ip("addr del 198.18.0.1/24 dev wan0")?;
        wait("everything to be read again", || Ok(read()? > before))?;
        assert!(lab.client1.pings_once("198.51.100.1")?, "still by {gateway}");
        host.ip("route del 198.51.100.0/24")?;
        wait("it to be forgotten", || Ok(!router.ask(&["routes"])?.contains("inet6")))?;
    }

    // A route for a TOS, and rules as wg-quick makes them: of main all but its default route, then another table.
    host.ip("route add 198.51.100.0/24 tos 0x10 via 203.0.113.1")?;
    wait("the route for a TOS", || Ok(router.ask(&["routes"])?.contains("198.51.100.0/24 tos 0x10 via 203.0.113.1")))?;
    let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-Q", "0x10", "198.51.100.1"];
    assert!(lab.client1.output(&ping)?.status.success(), "with the TOS");
    assert!(!lab.client1.pings_once("198.51.100.1")?, "without");
    host.ip("route add default via 203.0.113.77")?;
    host.ip("route add default via 203.0.113.1 table 51820")?;
    host.ip("rule add not fwmark 51820 table 51820 pref 200")?;
    host.ip("rule add table main suppress_prefixlength 0 pref 100")?;
    for (to, gateway) in [("198.51.100.1", "via 203.0.113.1 "), ("192.168.1.11", "dev lan0")] {
        wait(to, || Ok(router.ask(&["routes", "get", to])?.contains(gateway)))?;
        assert!(lab.client2.pings_once(to)?, "{to}");
    }
    assert!(router.ask(&["routes", "get", "198.51.100.1", "mark", "51820"])?.contains("via 203.0.113.77 "));

    // An address that somebody else puts there is the router's own.
    host.ip("addr add 192.168.1.200/24 dev lan0")?;
    wait("an answer from the new address", || lab.client1.pings_once("192.168.1.200"))?;
    host.ip("addr del 192.168.1.200/24 dev lan0")?;
    wait("no answer from it any more", || Ok(!lab.client1.pings_once("192.168.1.200")?))?;

    // The host's own stack reaches the world through OUTPUT.
    assert!(host.pings_once("203.0.113.1")?);
    assert!(host.pings_once("2001:db8:2::1")?);
    let status = router.status()?;
    assert_eq!(status["mirror"]["synchronised"].as_bool(), Some(true), "{}", status["mirror"]);
    Ok(())
}

#[test]
fn addresses_come_back_to_a_tap_that_was_down_for_a_moment() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    let host = &appliance.host;
    let has = || Ok(host.ip("-6 addr show dev lan0")?.contains("fd00:1::1/64"));
    wait("the address", has)?;
    // Down and up in one breath: whoever looks afterwards sees a device that is up.
    let batch = lab.path("batch");
    std::fs::write(&batch, "link set lan0 down\nlink set lan0 up\n")?;
    for _ in 0..5 {
        host.run(&["ip", "-batch", &batch.display().to_string()])?;
        wait("the address to come back", has)?;
    }
    wait("an answer to client1", || lab.client1.pings_once("fd00:1::1"))?;
    Ok(())
}
