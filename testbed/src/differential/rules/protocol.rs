//! Protocols, and what their headers show: ports, flags, options, ICMP types.

use super::super::rng::Rng;
use super::super::traffic::SERVICES;
use super::address::not;
use super::draw::Place;

/// `-p` and, as a rule, something of its header.
pub(super) fn condition(place: &Place, rng: &mut Rng) -> String {
    let icmp = place.of("icmp", "ipv6-icmp");
    let names = ["tcp", "tcp", "tcp", "udp", "udp", icmp, icmp, "89", "103", "sctp", "gre", "udplite"];
    let name = rng.pick(&names);
    if rng.chance(10) {
        return format!("! -p {name}");
    }
    let more = match name {
        "tcp" | "udp" | "sctp" | "udplite" if rng.chance(15) => several_ports(rng),
        "tcp" | "udp" | "sctp" if rng.chance(50) => ports(name, rng),
        "tcp" => flags(rng),
        "sctp" => chunks(rng),
        "icmp" if rng.chance(70) => {
            let kind = rng.pick(&["8", "0", "3", "3/3", "3/4", "11", "any", "5"]);
            format!("-m icmp {}--icmp-type {kind}", not(rng))
        }
        "ipv6-icmp" if rng.chance(70) => {
            let kind = rng.pick(&["128", "129", "1", "1/4", "2", "3", "136"]);
            format!("-m icmp6 {}--icmpv6-type {kind}", not(rng))
        }
        _ => String::new(),
    };
    format!("-p {name} {more}")
}

/// The protocol that conditions ask for, if they ask for one.
pub(super) fn of(conditions: &str) -> Option<&str> {
    let (before, after) = conditions.split_once("-p ")?;
    if before.ends_with("! ") { None } else { after.split(' ').next() }
}

fn several_ports(rng: &mut Rng) -> String {
    let side = rng.pick(&["--sports", "--dports", "--ports"]);
    format!("-m multiport {}{side} 22,53,{},1000:1030", not(rng), rng.pick(&SERVICES))
}

fn ports(name: &str, rng: &mut Rng) -> String {
    let source = if rng.chance(30) { format!("{}--sport {} ", not(rng), port(rng)) } else { String::new() };
    format!("-m {name} {source}{}--dport {}", not(rng), port(rng))
}

fn port(rng: &mut Rng) -> String {
    match rng.below(5) {
        0..=2 => rng.pick(&SERVICES).to_string(),
        3 => "1024:65535".into(),
        _ => format!("{}:{}", 50 + rng.below(50), 200 + rng.below(300)),
    }
}

fn flags(rng: &mut Rng) -> String {
    let flags = rng.pick(&[
        "--tcp-flags SYN,RST,ACK SYN",
        "--tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
        "--tcp-flags ACK ACK",
        "--tcp-flags FIN,RST FIN",
        "--tcp-option 2",
        "--tcp-option 4",
    ]);
    format!("-m tcp {}{flags}", not(rng))
}

fn chunks(rng: &mut Rng) -> String {
    let how = rng.pick(&["any", "all", "only"]);
    let chunks = rng.pick(&["INIT", "DATA", "INIT,INIT_ACK", "ABORT:xt", "SACK", "SHUTDOWN,COOKIE_ECHO"]);
    format!("-m sctp {}--chunk-types {how} {chunks}", not(rng))
}
