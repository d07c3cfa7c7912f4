//! `-m connlimit`: how many connections there are from (or to) an address or its network (`xt_connlimit.c`).
//!
//! Counted are flows that met this rule, by the masked address of their packet and their zone, this packet's flow included.
//! Flows that are gone do not count, nor TCP connections in TIME_WAIT or CLOSE. A packet that cannot be counted is dropped.
//!
//! TOML: `{ protocol = "tcp", syn = true, connlimit-above = 20, connlimit-mask = 24, target = "DROP" }`

use super::{Condition, Match, yes};
use crate::facts::{ConnectionKey, Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::word::number;
use crate::rule::{Cond, Families, Outcome, matches::address};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--connlimit-upto N`, `--connlimit-above N`, which is the same negated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connlimit {
    /// Most connections.
    pub limit: u32,
    /// Matches where there are more; else where there are not.
    pub above: bool,
    /// Length of the prefix that counts.
    pub len: u8,
    /// Of the destination address.
    pub destination: bool,
    /// Number of its cell, by which its connections are known.
    pub cell: u32,
}

const UPTO: usize = 0;
const ABOVE: usize = 1;
const MASK: usize = 2;
const SADDR: usize = 3;
const DADDR: usize = 4;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "connlimit",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("connlimit-upto", &[]).about("N", "there are at most so many, this one included"),
        Opt::negatable("connlimit-above", &[]).about("N", "there are more"),
        Opt::plain("connlimit-mask", &[]).about("LENGTH", "of the network that counts together; all of the address where it is not said"),
        Opt::flag("connlimit-saddr", &[]).about("", "from the packet's source, as without it"),
        Opt::flag("connlimit-daddr", &[]).about("", "to the packet's destination"),
    ],
    build,
    summary: "how many connections there are from an address or its network",
    example: r#"{ protocol = "tcp", syn = true, connlimit-above = 20, connlimit-mask = 24, target = "DROP" }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-m connlimit --connlimit-above 3",
            "-m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr",
        ),
        Case::Prints(
            Family::V6,
            "-m connlimit --connlimit-upto 0x3",
            "-m connlimit --connlimit-upto 3 --connlimit-mask 128 --connlimit-saddr",
        ),
        Case::Prints(
            Family::V4,
            "-m connlimit ! --connlimit-above 3",
            "-m connlimit --connlimit-upto 3 --connlimit-mask 32 --connlimit-saddr",
        ),
        Case::Prints(
            Family::V4,
            "-m connlimit --connlimit-mask 255.255.0.0 ! --connlimit-upto 3 --connlimit-daddr",
            "-m connlimit --connlimit-above 3 --connlimit-mask 16 --connlimit-daddr",
        ),
        Case::Prints(Family::V6, "-m connlimit --connlimit-upto 0 --connlimit-mask 0 --connlimit-daddr", "="),
        Case::Prints(
            Family::V4,
            "-m connlimit --connlimit-saddr --connlimit-upto 7 --connlimit-mask 24",
            "-m connlimit --connlimit-upto 7 --connlimit-mask 24 --connlimit-saddr",
        ),
        Case::Refused(Family::V4, "-m connlimit", "asks for --connlimit-upto or --connlimit-above"),
        Case::Refused(Family::V4, "-m connlimit --connlimit-upto 1 --connlimit-above 2", "cannot stand with"),
        Case::Refused(Family::V4, "-m connlimit --connlimit-upto 1 --connlimit-saddr --connlimit-daddr", "cannot stand with"),
        Case::Refused(Family::V4, "-m connlimit --connlimit-upto 1 --connlimit-mask 33", "`33` is not a mask"),
        Case::Refused(Family::V6, "-m connlimit --connlimit-upto 1 --connlimit-mask 129", "`129` is not a mask"),
        Case::Refused(Family::V4, "-m connlimit --connlimit-upto many", "`many` is not a number of connections"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    for [a, b] in [[UPTO, ABOVE], [SADDR, DADDR]] {
        if let (Some(first), Some(second)) = (given.get(a), given.get(b)) {
            let what = format!("`{}` cannot stand with `{}`", second.word.text, first.word.text);
            return Err(second.word.complain(what, "one of the two"));
        }
    }
    let Some(option) = given.get(UPTO).or_else(|| given.get(ABOVE)) else {
        return Err(given.complain("connlimit asks for --connlimit-upto or --connlimit-above"));
    };
    let limit = number(&option.values[0], "a number of connections", 0..=u32::MAX.into())? as u32;
    let above = (option.option == ABOVE) != option.negate;
    let len = given.value(MASK).map_or(Ok(given.family.bits()), |word| mask(word, given.family))?;
    let destination = given.get(DADDR).is_some();
    Ok(vec![Cond::new(false, Match::Connlimit(Connlimit { limit, above, len, destination, cell: 0 }))])
}

/// The length of a prefix, or its netmask.
pub(super) fn mask(word: &Word, family: Family) -> Result<u8, Complaint> {
    // With an address before it the mask is one of a network, which has its reader.
    let network = Word { text: format!("{}/{}", family.address(0), word.text), at: word.at.clone() };
    address::parse_prefix(&network, family).map(|(_, len)| len).map_err(|_| {
        let accepts = format!("a length from 0 to {} or its netmask", family.bits());
        word.complain(format!("`{}` is not a mask", word.text), accepts)
    })
}

impl Condition for Connlimit {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let addr = if self.destination { facts.dst } else { facts.src };
        let mask = facts.family.mask(self.len.min(facts.family.bits()));
        let key = ConnectionKey { cell: self.cell, family: facts.family, addr: addr & mask };
        match cx.around.connections(&key, facts, cx.l3) {
            None | Some(0) => Outcome::Hotdrop,
            Some(connections) => yes((connections > self.limit) == self.above),
        }
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        let limit = if self.above { "above" } else { "upto" };
        let side = if self.destination { "daddr" } else { "saddr" };
        let Connlimit { limit: n, len, .. } = self;
        let _ = write!(out, " --connlimit-{limit} {n} --connlimit-mask {len} --connlimit-{side}");
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        if self.len > family.bits() { Err(format!("a prefix of {} bits", self.len)) } else { Ok(()) }
    }

    fn cell(&self) -> Option<u32> {
        Some(self.cell)
    }

    fn cell_mut(&mut self) -> Option<&mut u32> {
        Some(&mut self.cell)
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Hotdrop, No, Yes};

    #[test]
    fn the_number_of_connections_is_compared_and_none_drops() {
        for (text, connections, expected) in [
            ("--connlimit-above 3", Some(3), No),
            ("--connlimit-above 3", Some(4), Yes),
            ("--connlimit-upto 3", Some(3), Yes),
            ("--connlimit-upto 3", Some(4), No),
            ("--connlimit-upto 0", Some(1), No),
            ("--connlimit-upto 3", Some(0), Hotdrop),
            ("--connlimit-upto 3", None, Hotdrop),
        ] {
            let judge = Judge::new(Family::V4, &format!("-m connlimit {text}"));
            judge.connections.set(connections);
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text} {connections:?}");
        }
    }
}
