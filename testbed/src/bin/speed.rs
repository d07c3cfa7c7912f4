//! `testbed/speed`: what iperf3 gets through the router, to its own host and from it, over TCP and UDP, both families.

use anyhow::Result;
use serde_json::Value;
use sumun_testbed::appliance::{Appliance, Beside};
use sumun_testbed::router::{INTERFACES, wait};
use sumun_testbed::{Host, Lab};

/// A stateful firewall.
const RULES: &str = r#"
[filter.INPUT]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "-i lan0 -j ACCEPT",
]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-i lan0 -j ACCEPT"]
"#;

/// Seconds of a measurement.
const SECONDS: &str = "4";

fn main() -> Result<()> {
    sumun_testbed::sweep()?;
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{RULES}"))?;
    let ways = [
        ("through the router", &lab.client1, &lab.server, ["203.0.113.1", "2001:db8:2::1"]),
        ("to the router", &lab.client1, &appliance.host, ["192.168.1.1", "fd00:1::1"]),
    ];
    println!("{:<20} {:<8} {:<6} Gbit/s", "", "", "");
    for (way, from, to, addresses) in ways {
        let _server = Beside::start(to.command("iperf3").arg("-s"))?;
        for (family, address) in ["IPv4", "IPv6"].into_iter().zip(addresses) {
            wait("iperf3", || Ok(measure(from, address, &["-n", "1"]).is_ok()))?;
            for (what, more) in [("TCP", &[][..]), ("UDP", &["-u", "-b", "0"])] {
                for (back, reverse) in [("", &[][..]), (", and back", &["-R"])] {
                    let (rate, lost) = measure(from, address, &[more, reverse, &["-t", SECONDS]].concat())?;
                    println!("{:<30} {family} {what} {rate:.2}{lost}", format!("{way}{back}"));
                }
            }
        }
    }
    println!("{}", appliance.router.ask(&["status"])?);
    Ok(())
}

/// Gbit/s that arrived, and what was lost.
fn measure(from: &Host, to: &str, more: &[&str]) -> Result<(f64, String)> {
    let report: Value = serde_json::from_str(&from.run(&[&["iperf3", "-J", "-c", to][..], more].concat())?)?;
    let end = &report["end"];
    let received = if end["sum_received"].is_null() { &end["sum"] } else { &end["sum_received"] };
    let lost = received["lost_percent"].as_f64().map_or(String::new(), |lost| format!(", {lost:.0} % lost"));
    Ok((received["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9, lost))
}
