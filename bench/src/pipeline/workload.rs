//! What the router has to do: rules, routes, and which packets meet them.

use crate::frames::{HOST_MAC, ROUTER_MAC, server};
use anyhow::{Result, bail};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use sumun_config::diag::{Source, render};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::{Checksums, Config, Nexthop, Route, RouteAction, table};
use sumun_dataplane::port::Link;

/// The clients' port.
pub const LAN: PortId = PortId(0);
/// The server's port.
pub const WAN: PortId = PortId(1);
/// Gateways on the WAN, from the host number 8 on.
const GATEWAYS: u32 = 8;

/// Which packets there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packets {
    /// Of flows that are known, from the clients.
    OneWay,
    /// The same, and as many answers.
    BothWays,
    /// Each opens a flow.
    New,
}

/// A row of the table.
pub struct Workload {
    /// As it is printed.
    pub name: &'static str,
    pub packets: Packets,
    /// Nothing that a flow tells is used: rules judge every packet.
    pub judges_all: bool,
    rules: String,
    /// Networks at random places to which flows lead; none is the one server.
    routes: u32,
}

/// All of them.
pub fn workloads() -> Vec<Workload> {
    let stateful = "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\", \"-i lan0 -j ACCEPT\"]\n";
    let masquerade = "[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n";
    // Nothing lets established flows pass early.
    let many = |n| many(n, "-m conntrack --ctstate ESTABLISHED,NEW -j ACCEPT") + masquerade;
    let workload = |name, rules, packets| Workload { name, rules, packets, judges_all: false, routes: 0 };
    let stateless =
        |name, n| Workload { judges_all: true, ..workload(name, self::many(n, "-j ACCEPT"), Packets::OneWay) };
    vec![
        workload("plain forward", String::new(), Packets::OneWay),
        Workload { routes: 100_000, ..workload("plain forward, 100,000 routes", String::new(), Packets::OneWay) },
        workload("five hooks with conntrack", stateful.into(), Packets::BothWays),
        workload("conntrack and masquerade", format!("{stateful}{masquerade}"), Packets::BothWays),
        workload("masquerade, 1,000 rules", many(1000), Packets::BothWays),
        workload("masquerade, 10,000 rules", many(10_000), Packets::BothWays),
        stateless("stateless, all judged, 10 rules", 10),
        stateless("stateless, all judged, 1,000 rules", 1000),
        stateless("stateless, all judged, 10,000 rules", 10_000),
        workload("masquerade, new flows", format!("{stateful}{masquerade}"), Packets::New),
        workload("masquerade, new flows, 10,000 rules", many(10_000), Packets::New),
    ]
}

/// Mixed rules that no packet meets, and one that all do. No packet uses the ports and addresses that are named.
fn many(n: u32, last: &str) -> String {
    let mut text = "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\n".to_string();
    for i in 0..n {
        text += &match i % 3 {
            0 => format!(
                "\"-4 -s 172.{}.{}.0/24 -p tcp -m tcp --dport {} -j DROP\",\n",
                16 + i / 256 % 16,
                i % 256,
                i % 60_000 + 1
            ),
            1 => format!("\"-p udp -m udp --dport {} -j DROP\",\n", 52_000 + i % 10_000),
            _ => format!("\"-4 -d 198.51.{}.{}/32 -j DROP\",\n", i / 256 % 256, i % 256),
        };
    }
    text + &format!("\"{last}\",\n]\n")
}

impl Workload {
    /// Its router, for so many flows and workers.
    pub fn config(&self, family: Family, max_flows: u32, workers: usize) -> Result<Config> {
        let mut config = config(&self.rules, max_flows)?;
        config.appliance.cores = (0..workers).collect();
        config.policy.routes.extend((0..self.routes).map(|n| Route {
            table: table::MAIN,
            prefix: prefix(family, n),
            action: RouteAction::Via(vec![Nexthop { port: WAN, gateway: Some(gateway(family, n)), weight: 1 }]),
            metric: 0,
            mtu: None,
            source: None,
            tos: 0,
            realm: 0,
        }));
        Ok(config)
    }

    /// Where flow `n` leads. With routes to all of these: to one at random, and a host there.
    pub fn destination(&self, family: Family, n: u32) -> IpAddr {
        if self.routes == 0 {
            return server(family);
        }
        let chance = mixed(n);
        let route = (u64::from(chance) * u64::from(self.routes)) >> 32;
        let host = chance & 0xff;
        match prefix(family, route as u32).network() {
            IpAddr::V4(net) => Ipv4Addr::from(u32::from(net) | host).into(),
            IpAddr::V6(net) => Ipv6Addr::from(u128::from(net) | u128::from(host)).into(),
        }
    }
}

/// Network `n` of two million: /24 of 64.0.0.0/3, /48 of 2a00::/27. An odd factor makes each number another one.
fn prefix(family: Family, n: u32) -> IpNet {
    let at = n.wrapping_mul(2_654_435_761) & 0x1f_ffff;
    match family {
        Family::V4 => IpNet::new(Ipv4Addr::from(0x4000_0000 | at << 8).into(), 24),
        Family::V6 => IpNet::new(Ipv6Addr::from(0x2a00 << 112 | u128::from(at) << 80).into(), 48),
    }
    .expect("a length of the family")
}

fn gateway(family: Family, n: u32) -> IpAddr {
    let host = 8 + n % GATEWAYS;
    match family {
        Family::V4 => Ipv4Addr::from(0xcb00_7100 | host).into(),
        Family::V6 => Ipv6Addr::from(0x2001_0db8_0002 << 80 | u128::from(host)).into(),
    }
}

/// Another number for each number, with all bits mixed (the finish of MurmurHash3).
fn mixed(n: u32) -> u32 {
    let n = (n ^ n >> 16).wrapping_mul(0x85eb_ca6b);
    let n = (n ^ n >> 13).wrapping_mul(0xc2b2_ae35);
    n ^ n >> 16
}

/// The ports of that router.
pub fn links() -> Vec<Link> {
    ["lan0", "wan0"]
        .map(|name| Link {
            name: name.into(),
            mac: ROUTER_MAC,
            mtu: 1500,
            checksums: Checksums::AsTheyAre,
            trunk: None,
        })
        .to_vec()
}

/// The two-port router of every workload.
pub fn config(rules: &str, max_flows: u32) -> Result<Config> {
    let mac = HOST_MAC.map(|b| format!("{b:02x}")).join(":");
    let families = Family::ALL;
    let lan = ["10.255.255.253", "fd00::fffe"].map(|address| ("lan0", address.to_string()));
    let wan = families
        .map(server)
        .into_iter()
        .chain(families.iter().flat_map(|family| (0..GATEWAYS).map(|n| gateway(*family, n))));
    let neighbours: String = (lan.into_iter().chain(wan.map(|address| ("wan0", address.to_string()))))
        .map(|(port, address)| {
            format!("[[neighbours]]\ninterface = \"{port}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n\n")
        })
        .collect();
    let text = format!(
        r#"
[dataplane]
cores = [0]
max-flows = {max_flows}

[interfaces.lan0]
addresses = ["10.255.255.254/8", "fd00::ffff/16"]

[interfaces.wan0]
addresses = ["203.0.113.2/24", "203.0.113.3/24", "2001:db8:2::2/64"]

{neighbours}
[[routes]]
to = "10.0.0.0/9"
via = "10.255.255.253"

[[routes]]
to = "fd00::/17"
via = "fd00::fffe"

{rules}
"#
    );
    let source = Source::new("bench.toml", &text);
    match sumun_config::schema::load(&source) {
        Ok((config, _)) => Ok(config),
        Err(mistakes) => bail!("{}", render(&source, &mistakes, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn flows_lead_to_networks_that_have_a_route_and_nearly_all_of_these_are_used() {
        let workloads = workloads();
        let workload = workloads.iter().find(|workload| workload.routes > 0).expect("one with routes");
        for family in Family::ALL {
            let known: HashSet<IpNet> = (0..workload.routes).map(|n| prefix(family, n)).collect();
            assert_eq!(known.len(), workload.routes as usize, "each another one");
            let len = if family == Family::V4 { 24 } else { 48 };
            let net = |n| IpNet::new(workload.destination(family, n), len).expect("a length of the family").trunc();
            let used: HashSet<IpNet> = (0..1_000_000).map(net).collect();
            assert!(used.is_subset(&known) && used.len() > 99_900, "{} of them are used", used.len());
        }
    }
}
