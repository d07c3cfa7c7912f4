//! Source and destination ports: what `tcp`, `udp`, `sctp` and `dccp` share.

use super::{Match, not, yes};
use crate::facts::Facts;
use crate::rule::option::{Complaint, Given, Opt, Word};
use crate::rule::{Cond, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The option of source ports.
pub const SPORT: Opt = Opt::negatable("sport", &["source-port"]).about("PORT[:PORT]", "source port or ports");
/// The option of destination ports.
pub const DPORT: Opt = Opt::negatable("dport", &["destination-port"]).about("PORT[:PORT]", "destination port or ports");

/// A range of ports, both ends in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// The range of a `--sport` or `--dport`.
    pub fn parse(word: &Word) -> Result<Ports, Complaint> {
        if word.text.contains(',') {
            let what = format!("`{}` is several ports; a list of them belongs to multiport", word.text);
            return Err(word.complain(what, format!("one port or range, or `-m multiport --dports {}`", word.text)));
        }
        word::port_range(word, ':').map(|(first, last)| Ports { first, last })
    }

    /// Whether every port is in it.
    pub fn is_all(self) -> bool {
        (self.first, self.last) == (0, u16::MAX)
    }

    /// Whether the port is in it.
    #[inline]
    pub fn has(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Writes ` --OPTION FIRST[:LAST]`. (iptables-legacy-save leaves out a negated `0:65535` and with it the meaning: a
    /// rule that never matches. Here it stays.)
    pub fn print(self, option: &str, negate: bool, out: &mut String) {
        let _ = write!(out, "{} --{option} {}", not(negate), self.first);
        if self.first != self.last {
            let _ = write!(out, ":{}", self.last);
        }
    }

    /// Whether its ends are in order.
    pub fn verify(self) -> Result<(), String> {
        if self.first > self.last { Err("a range of ports that runs backwards".to_string()) } else { Ok(()) }
    }
}

/// The answer for the packet's L4 header, as the kernel's port matches ask for it: a later fragment has none, so nothing
/// can be said; a packet that ought to have one and does not is dropped.
#[inline]
pub fn of_header(facts: &Facts, hit: impl FnOnce() -> bool) -> Outcome {
    if facts.has_l4 {
        yes(hit())
    } else if facts.is_later_fragment() {
        Outcome::Never
    } else {
        Outcome::Hotdrop
    }
}

/// One condition on a header that begins with the two ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum L4 {
    /// The bare `-m NAME`: there is a header.
    Header,
    /// `--sport`
    Source(Ports),
    /// `--dport`
    Destination(Ports),
}

/// The conditions of an extension whose first options are [`SPORT`] and [`DPORT`].
pub fn build(given: &Given, make: impl Fn(L4) -> Match) -> Result<Vec<Cond>, Complaint> {
    sides(given).map(|sides| conditions(sides, make))
}

/// The same for TCP and UDP, whose `0:65535` asks nothing and is not printed either, unless negated.
pub fn build_lean(given: &Given, make: impl Fn(L4) -> Match) -> Result<Vec<Cond>, Complaint> {
    let mut sides = sides(given)?;
    sides.retain(|&(negate, l4)| negate || !matches!(l4, L4::Source(ports) | L4::Destination(ports) if ports.is_all()));
    Ok(conditions(sides, make))
}

fn sides(given: &Given) -> Result<Vec<(bool, L4)>, Complaint> {
    let mut sides = Vec::new();
    if let Some(option) = given.get(0) {
        sides.push((option.negate, L4::Source(Ports::parse(&option.values[0])?)));
    }
    if let Some(option) = given.get(1) {
        sides.push((option.negate, L4::Destination(Ports::parse(&option.values[0])?)));
    }
    Ok(sides)
}

fn conditions(sides: Vec<(bool, L4)>, make: impl Fn(L4) -> Match) -> Vec<Cond> {
    if sides.is_empty() {
        return vec![Cond::new(false, make(L4::Header))];
    }
    sides.into_iter().map(|(negate, l4)| Cond::new(negate, make(l4))).collect()
}

impl L4 {
    /// See [`of_header`].
    #[inline]
    pub fn test(self, facts: &Facts) -> Outcome {
        of_header(facts, || match self {
            L4::Header => true,
            L4::Source(ports) => ports.has(facts.sport),
            L4::Destination(ports) => ports.has(facts.dport),
        })
    }

    /// Writes the option, if there is one.
    pub fn print(self, negate: bool, out: &mut String) {
        match self {
            L4::Header => {}
            L4::Source(ports) => ports.print("sport", negate, out),
            L4::Destination(ports) => ports.print("dport", negate, out),
        }
    }

    /// Whether ranges are in order.
    pub fn verify(self) -> Result<(), String> {
        match self {
            L4::Header => Ok(()),
            L4::Source(ports) | L4::Destination(ports) => ports.verify(),
        }
    }
}
