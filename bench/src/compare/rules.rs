//! What the router has to do, in the language of each contestant, with one meaning.

use super::topology::{LAN, LAN_ADDRESS, TARGET, TARGET_MAC, WAN, WAN_ADDRESS};
use serde::Serialize;
use std::fmt::{self, Write};
use std::net::Ipv4Addr;

/// The work of a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Two connected networks.
    Forward,
    /// A stateful filter and masquerade.
    Masquerade,
    /// So many rules that no packet meets: a source address and a UDP port each.
    Rules(u32),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Work::Forward => f.write_str("plain forward"),
            Work::Masquerade => f.write_str("conntrack and masquerade"),
            Work::Rules(1) => f.write_str("1 rule"),
            Work::Rules(count) => write!(f, "{} rules", crate::pktgen::report::grouped(u64::from(*count))),
        }
    }
}

/// Address and port that rule `n` asks for; no packet of the bench has them.
fn asked(n: u32) -> (Ipv4Addr, u32) {
    (Ipv4Addr::from(0xac10_0001 + n), 10_000 + n % 50_000)
}

/// In the syntax of iptables, of chain FORWARD.
fn drops(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(asked).map(|(address, port)| format!("-s {address}/32 -p udp -m udp --dport {port} -j DROP"))
}

const STATEFUL: [&str; 2] = ["-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-i sblan -j ACCEPT"];
const MASQUERADE: &str = "-o sbwan -j MASQUERADE";

/// For iptables-restore.
pub fn iptables(work: Work) -> String {
    match work {
        Work::Forward => String::new(),
        Work::Masquerade => {
            let filter: String = STATEFUL.map(|rule| format!("-A FORWARD {rule}\n")).concat();
            format!(
                "*filter\n:FORWARD DROP\n{filter}COMMIT\n*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING {MASQUERADE}\nCOMMIT\n"
            )
        }
        Work::Rules(count) => {
            let rules = drops(count).map(|rule| format!("-A FORWARD {rule}\n"));
            format!("*filter\n:FORWARD ACCEPT\n{}COMMIT\n", rules.collect::<String>())
        }
    }
}

/// For `nft -f`: what is many is a set.
pub fn nft(work: Work) -> String {
    match work {
        Work::Forward => String::new(),
        Work::Masquerade => format!(
            "table ip bench {{\n\
             chain forward {{ type filter hook forward priority filter; policy drop;\n\
             ct state established,related accept\niifname {LAN} accept\n}}\n\
             chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
             oifname {WAN} masquerade\n}}\n}}\n"
        ),
        Work::Rules(count) => {
            let elements: Vec<String> =
                (0..count).map(asked).map(|(address, port)| format!("{address} . {port}")).collect();
            format!(
                "table ip bench {{\n\
                 set refused {{ type ipv4_addr . inet_service; elements = {{ {} }} }}\n\
                 chain forward {{ type filter hook forward priority filter; policy accept;\n\
                 ip saddr . udp dport @refused drop\n}}\n}}\n",
                elements.join(", ")
            )
        }
    }
}

/// The rest of a configuration of Sumun, behind `[dataplane]`.
pub fn toml(work: Work) -> String {
    let mut text = format!(
        "[interfaces.{LAN}]\naddresses = [\"{LAN_ADDRESS}\"]\n\n[interfaces.{WAN}]\naddresses = [\"{WAN_ADDRESS}\"]\n\n\
         [[neighbours]]\ninterface = \"{WAN}\"\naddress = \"{TARGET}\"\nmac = \"{TARGET_MAC}\"\n\n"
    );
    let mut chain = |head: &str, rules: &mut dyn Iterator<Item = String>| {
        let rules: String = rules.map(|rule| format!("  \"{rule}\",\n")).collect();
        write!(text, "[{head}rules = [\n{rules}]\n\n").expect("a string takes all");
    };
    match work {
        Work::Forward => {}
        Work::Masquerade => {
            chain("filter.FORWARD]\npolicy = \"DROP\"\n", &mut STATEFUL.iter().map(|rule| rule.to_string()));
            chain("nat.POSTROUTING]\n", &mut std::iter::once(MASQUERADE.to_string()));
        }
        Work::Rules(count) => chain("ipv4.filter.FORWARD]\n", &mut drops(count)),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::diag::{Source, render};

    #[test]
    fn sumun_takes_what_it_is_to_do() {
        for work in [Work::Forward, Work::Masquerade, Work::Rules(1), Work::Rules(1000)] {
            let text = toml(work);
            let source = Source::new("compare.toml", &text);
            if let Err(mistakes) = sumun_config::schema::load(&source) {
                panic!("{}", render(&source, &mistakes, false));
            }
        }
    }

    #[test]
    fn all_languages_name_the_same_addresses_and_ports() {
        let rule = "-A FORWARD -s 172.16.3.232/32 -p udp -m udp --dport 10999 -j DROP\n";
        assert!(iptables(Work::Rules(1000)).contains(rule));
        assert!(toml(Work::Rules(1000)).contains(rule.trim_start_matches("-A FORWARD ").trim_end()));
        let nft = nft(Work::Rules(1000));
        assert!(nft.contains("172.16.0.1 . 10000, 172.16.0.2 . 10001,") && nft.contains("172.16.3.232 . 10999 }"));
        assert_eq!(iptables(Work::Rules(1000)).lines().count(), 1000 + 3);
    }
}
