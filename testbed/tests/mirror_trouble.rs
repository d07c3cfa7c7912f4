//! What befalls the TAPs and their namespace while the router runs: it forwards on, mends what it can, and tells the rest.

use anyhow::{Context, Result, ensure};
use sumun_testbed::daemons::bird;
use sumun_testbed::router::{INTERFACES, wait};
use sumun_testbed::{Appliance, Lab, Router};

const REST: &str = r#"
[routes]
from = "kernel"
"#;

/// Routes that are in force, by family.
fn routes(router: &Router) -> Result<[u64; 2]> {
    let routes = &router.status()?["routes"];
    let of = |family: &str| routes[family].as_u64().context("a number of routes");
    Ok([of("ipv4")?, of("ipv6")?])
}

/// Whether client1 reaches the server through the router, by both families.
fn forwards(lab: &Lab) -> Result<bool> {
    Ok(lab.client1.pings_once("203.0.113.1")? && lab.client1.pings_once("2001:db8:2::1")?)
}

#[test]
fn a_daemon_that_comes_and_goes_leaves_no_route_behind() -> Result<()> {
    let lab = Lab::new(1)?;
    let Appliance { router, host } = &Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    wait("the networks", || forwards(&lab))?;
    let mut config = String::from("router id 203.0.113.2;\nprotocol device { scan time 1; }\n");
    for (family, prefix, len, gateway) in
        [("ipv4", "20.0.", ".0/24", "203.0.113.1"), ("ipv6", "2001:db8:", "::/48", "2001:db8:2::1")]
    {
        config +=
            &format!("protocol kernel {{ {family} {{ import none; export all; }}; }}\nprotocol static {{ {family};\n");
        (100..200).for_each(|i| config += &format!("route {prefix}{i}{len} via {gateway};\n"));
        config += "}\n";
    }
    let learned = || anyhow::Ok(router.ask(&["routes"])?.matches(" proto bird ").count());
    let mut left = Vec::new();
    for _ in 0..5 {
        let daemon = bird(host, lab.dir.path(), "static", &config)?;
        wait("its routes", || Ok(learned()? == 200))?;
        drop(daemon);
        wait("none of its routes", || Ok(learned()? == 0))?;
        left.push(routes(router)?);
    }
    ensure!(left.iter().all(|count| *count == left[0]), "{left:?}");
    ensure!(forwards(&lab)?);
    let mirror = &router.status()?["mirror"];
    ensure!(mirror["refused"] == 0 && mirror["synchronised"] == true, "{mirror}");
    Ok(())
}

#[test]
fn a_tap_that_somebody_deletes_is_made_again_with_its_addresses() -> Result<()> {
    let lab = Lab::new(1)?;
    let Appliance { router, host } = &Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    wait("the networks", || forwards(&lab))?;
    host.ip("route add 198.51.100.0/24 via 203.0.113.1")?;
    host.ip("route add 198.18.0.0/15 via 192.168.1.11")?;
    wait("routes", || Ok(router.ask(&["routes"])?.matches(" proto boot").count() == 2))?;

    for round in 1..=2 {
        let begun = std::time::Instant::now();
        host.ip("link del wan0")?;
        ensure!(forwards(&lab)?, "the port has the configuration's addresses and their networks");
        // The kernel has forgotten the routes over it, and the programs' connections are as if the device had gone.
        wait("the TAP", || {
            let shown = host.output(&["ip", "addr", "show", "dev", "wan0"])?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            Ok(shown.contains("203.0.113.2/24") && shown.contains("2001:db8:2::2/64"))
        })?;
        println!("back after {:?}", begun.elapsed());
        wait("the host to reach the outside", || {
            Ok(host.pings_once("203.0.113.1")? && host.pings_once("2001:db8:2::1")?)
        })?;
        wait("status", || {
            let ports = router.status()?["ports"].clone();
            let wan = ports.as_array().and_then(|all| all.iter().find(|port| port["name"] == "wan0")).cloned();
            Ok(wan.is_some_and(|wan| wan["tap"]["there"] == true && wan["tap"]["made_again"] == round))
        })?;
    }
    let left = router.ask(&["routes"])?;
    ensure!(!left.contains("198.51.100.0/24") && left.contains("198.18.0.0/15"), "{left}");
    // What is said of the new device is followed.
    host.ip("route add 198.51.100.0/24 via 203.0.113.1")?;
    wait("a route over it", || Ok(router.ask(&["routes"])?.contains("198.51.100.0/24 via 203.0.113.1 dev wan0")))?;
    let mirror = &router.status()?["mirror"];
    ensure!(mirror["synchronised"] == true, "{mirror}");
    let log = router.log("dataplane.log");
    ensure!(log.contains("the TAP wan0 is gone") && log.contains("the TAP wan0 is made again"), "{log}");
    Ok(())
}

#[test]
fn a_tap_whose_device_is_down_comes_back_without_a_carrier() -> Result<()> {
    let lab = Lab::new(1)?;
    let Appliance { host, .. } = &Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    let is_dark = || {
        let shown = host.output(&["ip", "link", "show", "dev", "wan0"])?;
        Ok(String::from_utf8_lossy(&shown.stdout).contains("NO-CARRIER"))
    };
    lab.server.ip("link set eth0 down")?;
    wait("the lost carrier", is_dark)?;
    host.ip("link del wan0")?;
    wait("the TAP without one", is_dark)?;
    lab.server.ip("link set eth0 up")?;
    wait("the carrier", || Ok(host.ip("link show dev wan0")?.contains("LOWER_UP")))?;
    Ok(())
}

#[test]
fn forwarding_goes_on_where_the_namespace_of_taps_loses_its_name_and_that_is_told() -> Result<()> {
    let lab = Lab::new(1)?;
    let Appliance { router, host } = &mut Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    wait("the networks", || forwards(&lab))?;
    // The TAPs and the thread that follows hold the namespace.
    sumun_testbed::host::ip(&["netns", "del", host.name()])?;
    ensure!(forwards(&lab)?, "it has no name any more");
    wait("status", || Ok(router.ask(&["status"])?.contains("is no longer the name of the namespace of the TAPs")))?;
    let log = router.log("dataplane.log");
    ensure!(log.contains("is no longer that of the namespace of the TAPs"), "{log}");
    router.rewrite(&format!(
        "[host]\nnamespace = \"{}\"\n{REST}[filter.FORWARD]\nrules = [\"-j ACCEPT\"]\n",
        host.name()
    ))?;
    router.wait_for_generation(2)?;
    ensure!(forwards(&lab)?, "and a new configuration takes");
    Ok(())
}
