//! `-i NAME[+]`, `-o NAME[+]`: incoming and outgoing interface.
//!
//! Names are resolved to ports when the ruleset is compiled, so a test is one bit of a set. A trailing `+` stands for any
//! rest of the name; `+` alone means every interface and writes no condition, also where there is none (local output).
//! Any name is accepted here, as in iptables; one that no port has never holds, and [`Interface::is_unknown`] lets the caller
//! warn or refuse. `lo` is known, and holds for what OUTPUT leads to an own address: all else that the router's host says to itself
//! does not pass the data path.
//!
//! TOML: `{ in = "lan+", out = "!wan0", jump = "ACCEPT" }`

use super::{Asks, Condition, not, yes};
use crate::facts::{Context, Facts, Family, LOOPBACK, PortId};
use crate::rule::Outcome;
use crate::rule::option::{Complaint, Word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Most ports that a router can have.
pub const MAX_PORTS: usize = 256;

/// Longest name of an interface (IFNAMSIZ without its end).
pub const MAX_NAME: usize = 15;

/// A set of ports. The last word is the loopback's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortSet([u64; MAX_PORTS / 64 + 1]);

impl PortSet {
    /// Adds a port; one beyond [`MAX_PORTS`] cannot exist and is not added, save [`PortId::LOOPBACK`].
    pub fn insert(&mut self, port: PortId) {
        if let Some(i) = PortSet::place(port) {
            self.0[i / 64] |= 1 << (i % 64);
        }
    }

    /// Whether the port is in the set; [`PortId::NONE`] never is.
    #[inline]
    pub fn contains(&self, port: PortId) -> bool {
        PortSet::place(port).is_some_and(|i| self.0[i / 64] >> (i % 64) & 1 != 0)
    }

    #[inline]
    fn place(port: PortId) -> Option<usize> {
        match port {
            PortId(i) if usize::from(i) < MAX_PORTS => Some(i.into()),
            PortId::LOOPBACK => Some(MAX_PORTS),
            _ => None,
        }
    }

    /// Whether a port is in it that a router of so many ports does not have.
    pub fn beyond(&self, ports: usize) -> bool {
        (ports..MAX_PORTS).any(|port| self.contains(PortId(port as u16)))
    }

    /// Whether no port is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }
}

/// Which side, the name as written, and the ports that it means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Interface {
    /// `-i`
    In {
        /// As written, with its `+`.
        name: Box<str>,
        /// The ports so named.
        ports: PortSet,
    },
    /// `-o`
    Out {
        /// As written, with its `+`.
        name: Box<str>,
        /// The ports so named.
        ports: PortSet,
    },
}

impl Interface {
    /// The name as written and its ports.
    pub fn parts(&self) -> (&str, &PortSet) {
        match self {
            Interface::In { name, ports } | Interface::Out { name, ports } => (name, ports),
        }
    }

    /// Whether no port has such a name, which deserves a warning: the condition never holds.
    pub fn is_unknown(&self) -> bool {
        self.parts().1.is_empty()
    }
}

/// Whether a name, or a beginning with a `+`, means an interface.
pub fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(stem) => name.starts_with(stem),
        None => name == pattern,
    }
}

/// Whether an interface can have such a name.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

/// The name of `-i` or `-o` and the ports it means; none for `+`, which means every packet.
pub fn parse(word: &Word, ports: &[String]) -> Result<Option<(Box<str>, PortSet)>, Complaint> {
    let name = &word.text;
    let accepts = || format!("the name of an interface, 1 to {MAX_NAME} characters, or its beginning and `+`");
    if name.is_empty() {
        return Err(word.complain("an empty interface name", accepts()));
    }
    if name.len() > MAX_NAME {
        return Err(word.complain(format!("`{name}` is longer than an interface name can be"), accepts()));
    }
    if name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Err(word.complain(format!("`{}` is not an interface name", name.escape_debug()), accepts()));
    }
    if name == "+" {
        return Ok(None);
    }
    let mut set = PortSet::default();
    for (i, _) in ports.iter().enumerate().filter(|(_, port)| covers(name, port)) {
        set.insert(PortId(i as u16));
    }
    if covers(name, LOOPBACK) {
        set.insert(PortId::LOOPBACK);
    }
    Ok(Some((name.as_str().into(), set)))
}

impl Condition for Interface {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(match self {
            Interface::In { ports, .. } => ports.contains(facts.iif),
            Interface::Out { ports, .. } => ports.contains(facts.oif),
        })
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let option = if matches!(self, Interface::In { .. }) { "-i" } else { "-o" };
        let _ = write!(out, "{} {option} {}", not(negate), self.parts().0);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let (name, _) = self.parts();
        let word = Word { text: name.to_string(), at: 0..0 };
        match parse(&word, &[]) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("an interface condition that means every packet".to_string()),
            Err(complaint) => Err(complaint.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<Option<(Box<str>, PortSet)>, Complaint> {
        let ports = ["lan0", "lan1", "wan0", "lo0"].map(String::from);
        parse(&Word { text: text.to_string(), at: 0..text.len() }, &ports)
    }

    #[test]
    fn a_name_means_one_port_and_a_plus_all_that_begin_so() {
        for (text, members, unknown) in [
            ("lan0", &[0u16][..], false),
            ("lan+", &[0, 1], false),
            ("l+", &[0, 1, 3], false),
            ("wan0+", &[2], false),
            ("wan", &[], true),
            ("la+n", &[], true),
            ("lo", &[], false),
            ("eth0", &[], true),
        ] {
            let (name, ports) = named(text).unwrap().unwrap();
            for port in 0..4 {
                assert_eq!(ports.contains(PortId(port)), members.contains(&port), "{text} {port}");
            }
            assert!(!ports.contains(PortId::NONE));
            assert_eq!(ports.contains(PortId::LOOPBACK), ["l+", "lo"].contains(&text), "{text}");
            let condition = Interface::Out { name, ports };
            assert_eq!(condition.is_unknown(), unknown, "{text}");
            assert_eq!(condition.verify(Family::V4), Ok(()));
            let mut out = String::new();
            condition.print(true, Family::V4, &mut out);
            assert_eq!(out, format!(" ! -o {text}"));
        }
        assert_eq!(named("+").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for text in ["", "abcdefghijklmnop", "abcdefghijklmno+", "eth 0", "eth0/1"] {
            assert!(named(text).is_err(), "{text:?}");
        }
        assert!(named("abcdefghijklmno").is_ok());
    }

    #[test]
    fn the_highest_port_is_in_and_those_beyond_are_never() {
        let mut ports = PortSet::default();
        for port in [255, 256, 65534, 65535] {
            ports.insert(PortId(port));
        }
        assert!(ports.contains(PortId(255)));
        assert!(!ports.contains(PortId(256)) && !ports.contains(PortId(0)));
        assert!(!ports.is_empty() && PortSet::default().is_empty());
    }
}
