//! The sets that the cases of `-m set` and `-j SET` name, with elements that some of the traffic is in.

use std::fmt::Write;
use std::sync::LazyLock;
use sumun_config::set::{Kind, print, samples, save, toml};

/// What is in a set at first.
const ELEMENTS: [(&str, &[&str]); 11] = [
    ("hosts4", &["192.168.1.11", "203.0.113.10", "203.0.113.2"]),
    ("hosts6", &["fd00:1::11", "2001:db8:2::10", "2001:db8:2::2"]),
    ("nets4", &["192.168.1.0/24", "192.168.1.12/31 nomatch", "203.0.113.0/24"]),
    ("nets6", &["fd00:1::/64", "fd00:1::12/127 nomatch", "2001:db8:2::/64"]),
    ("services4", &["203.0.113.1,tcp:80", "203.0.113.1,udp:53", "203.0.113.10,icmp:echo-request"]),
    ("services6", &["2001:db8:2::1,tcp:80", "2001:db8:2::1,udp:53", "2001:db8:2::10,ipv6-icmp:echo-request"]),
    ("triples4", &["192.168.1.11,tcp:80,203.0.113.0/24", "192.168.1.12,udp:53,203.0.0.0/16 nomatch"]),
    ("links4", &["192.168.1.0/24,lan0", "203.0.113.0/24,wan0"]),
    ("stations4", &["10.0.0.1"]),
    ("ports", &["53", "80", "443"]),
    ("lists", &["hosts4", "nets6", "ports"]),
];

/// The sets as both routers take them.
pub struct Sets {
    /// For `ipset -exist restore`, which makes and empties them first.
    pub commands: String,
    /// Sections of a configuration.
    pub sections: String,
}

static SETS: LazyLock<Sets> = LazyLock::new(|| {
    let (mut commands, mut saved) = (String::new(), String::new());
    for set in samples::sets() {
        let mut header = set.header.clone();
        header.counters = true;
        // Those that hosts and services are added to for a while.
        header.timeout = matches!(header.kind, Kind::HashIp | Kind::HashIpPort).then_some(600);
        let name = &header.name;
        let create = format!("create {name} {} {}\n", header.kind.name(), print::header(&header));
        let elements = ELEMENTS.iter().find(|(of, _)| of == name).map_or(&[][..], |(_, elements)| elements);
        // A bitmap of the kernel would go on counting where it was before it was flushed.
        let add = |element: &&str| format!("add {name} {element} packets 0 bytes 0\n");
        let elements: String = elements.iter().map(add).collect();
        let _ = write!(commands, "{create}flush {name}\n{elements}");
        saved += &(create + &elements);
    }
    let sets = save::sets(&saved).unwrap_or_else(|wrong| panic!("{saved}{wrong:?}"));
    Sets { commands, sections: toml::toml(&sets) }
});

/// The sets, where a rule asks for one.
pub fn of<'a>(mut rules: impl Iterator<Item = &'a str>) -> Option<&'static Sets> {
    rules.any(|rule| rule.contains("-set ")).then(|| &*SETS)
}
