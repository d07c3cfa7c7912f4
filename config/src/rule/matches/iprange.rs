//! `-m iprange`: ranges of addresses (`xt_iprange.c`), both ends in them; one address is a range of itself.
//!
//! A range that runs backwards, which iptables 1.8 takes and the kernel never matches, is refused.
//!
//! TOML: `{ src-range = "10.0.0.10-10.0.0.99", jump = "ACCEPT" }`

use super::address::{parse_address, print_address};
use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A range for one of the two addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Iprange {
    /// `--src-range`
    Source {
        /// The lowest.
        first: u128,
        /// The highest.
        last: u128,
    },
    /// `--dst-range`
    Destination {
        /// The lowest.
        first: u128,
        /// The highest.
        last: u128,
    },
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "iprange",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("src-range", &[]).about("ADDRESS[-ADDRESS]", "the source is one of these, both ends included"),
        Opt::negatable("dst-range", &[]).about("ADDRESS[-ADDRESS]", "the destination is one of these"),
    ],
    build,
    summary: "ranges of addresses",
    example: r#"{ src-range = "10.0.0.10-10.0.0.99", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m iprange --src-range 10.0.0.1-10.0.0.9", "="),
        Case::Prints(Family::V4, "-m iprange ! --dst-range 10.0.0.1-10.0.0.9", "="),
        Case::Prints(
            Family::V4,
            "-m iprange --dst-range 1.1.1.1-2.2.2.2 ! --src-range 10.0.0.1",
            "-m iprange ! --src-range 10.0.0.1-10.0.0.1 --dst-range 1.1.1.1-2.2.2.2",
        ),
        Case::Prints(Family::V6, "-m iprange --src-range fd00::1-fd00::9", "="),
        Case::Refused(Family::V4, "-m iprange --src-range 10.0.0.9-10.0.0.1", "runs backwards"),
        Case::Refused(Family::V4, "-m iprange --src-range 10.0.0.1-foo", "`foo` is not an IPv4 address"),
        Case::Refused(Family::V4, "-m iprange --src-range 10.0.0.1-", "`` is not an IPv4 address"),
        Case::Refused(Family::V4, "-m iprange --src-range ::1-::2", "an IPv6 address in an IPv4 rule"),
        Case::Refused(Family::V6, "-m iprange --src-range 1.1.1.1-1.1.1.2", "an IPv4 address in an IPv6 rule"),
        Case::Refused(Family::V4, "-m iprange --src-range 10.0.0.0/24", "is not an IPv4 address"),
        Case::Refused(Family::V4, "-m iprange --dst-range 10.0.0.1-10.0.0.256", "`10.0.0.256` is not an IPv4 address"),
        Case::Refused(Family::V6, "-m iprange --dst-range fd00::1-fd00::2 --dst-range ::1", "given twice"),
        Case::Refused(Family::V4, "-m iprange", "--src-range"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    if let Some(option) = given.get(0) {
        let (first, last) = parse(&option.values[0], given.family)?;
        conds.push(Cond::new(option.negate, Match::Iprange(Iprange::Source { first, last })));
    }
    if let Some(option) = given.get(1) {
        let (first, last) = parse(&option.values[0], given.family)?;
        conds.push(Cond::new(option.negate, Match::Iprange(Iprange::Destination { first, last })));
    }
    if conds.is_empty() {
        return Err(given.complain("iprange asks for --src-range or --dst-range"));
    }
    Ok(conds)
}

/// `FIRST-LAST` or one address.
pub fn parse(word: &Word, family: Family) -> Result<(u128, u128), Complaint> {
    let Some((first, last)) = word::split_once(word, '-') else {
        return parse_address(word, family).map(|addr| (addr, addr));
    };
    match (parse_address(&first, family)?, parse_address(&last, family)?) {
        (low, high) if low > high => Err(word.complain(
            format!("`{}` runs backwards: it would match nothing", word.text),
            format!("the lower address first: `{}-{}`", last.text, first.text),
        )),
        range => Ok(range),
    }
}

impl Iprange {
    /// First and last address.
    pub fn ends(&self) -> (u128, u128) {
        match *self {
            Iprange::Source { first, last } | Iprange::Destination { first, last } => (first, last),
        }
    }
}

impl Condition for Iprange {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(match *self {
            Iprange::Source { first, last } => first <= facts.src && facts.src <= last,
            Iprange::Destination { first, last } => first <= facts.dst && facts.dst <= last,
        })
    }

    fn print(&self, negate: bool, family: Family, out: &mut String) {
        let option = if matches!(self, Iprange::Source { .. }) { "src-range" } else { "dst-range" };
        let _ = write!(out, "{} --{option} ", not(negate));
        let (first, last) = self.ends();
        print_address(out, family, first);
        out.push('-');
        print_address(out, family, last);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let (first, last) = self.ends();
        if first > last || last > family.ones() {
            return Err("a range of addresses that cannot be".to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn both_ends_are_in_the_range() {
        for (text, last_octet, expected) in [
            ("--src-range 10.0.0.10-10.0.0.99", 10, Yes),
            ("--src-range 10.0.0.10-10.0.0.99", 99, Yes),
            ("--src-range 10.0.0.10-10.0.0.99", 9, No),
            ("--src-range 10.0.0.10-10.0.0.99", 100, No),
            ("! --src-range 10.0.0.10-10.0.0.99", 100, Yes),
            ("--dst-range 10.0.0.10-10.0.0.99", 50, No),
            ("! --dst-range 10.0.0.10-10.0.0.99", 50, Yes),
        ] {
            let facts = Facts { src: 0x0a00_0000 + last_octet, dst: 0x0a00_0000, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m iprange {text}"), &facts), expected, "{text} {last_octet}");
        }
    }

    #[test]
    fn ipv6_ranges_span_all_bits() {
        let facts = Facts { src: 0xfd00_u128 << 112 | 7, ..Facts::blank(Family::V6) };
        assert_eq!(outcome("-m iprange --src-range fd00::-fd00::ffff", &facts), Yes);
        assert_eq!(outcome("-m iprange --src-range fd01::-fd01::ffff", &facts), No);
    }

    #[test]
    fn ranges_that_cannot_be_do_not_verify() {
        assert!(Iprange::Source { first: 2, last: 1 }.verify(Family::V4).is_err());
        let wide = Iprange::Destination { first: 0, last: 1 << 32 };
        assert!(wide.verify(Family::V4).is_err() && wide.verify(Family::V6).is_ok());
    }
}
