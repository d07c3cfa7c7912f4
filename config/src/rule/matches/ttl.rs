//! `-m ttl`: the TTL (`xt_hl.c`, `ttl_mt`), IPv4 only. IPv6 has `-m hl`.
//!
//! One comparison for each match: equal (which alone may be negated), less, greater. A forwarded packet has been
//! decremented from FORWARD on.
//!
//! TOML: `{ ttl-lt = 5, jump = "DROP" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How a TTL or hop limit is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Compare {
    /// It is this.
    Equal(u8),
    /// It is less.
    Less(u8),
    /// It is greater.
    Greater(u8),
}

/// `--ttl-eq`, `--ttl-lt`, `--ttl-gt`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ttl(pub Compare);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "ttl",
    aliases: &[],
    families: Families::Only(Family::V4),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("ttl-eq", &["ttl"]).about("N", "time to live"), Opt::plain("ttl-lt", &[]).about("N", "it is less"), Opt::plain("ttl-gt", &[]).about("N", "it is more")],
    build,
    summary: "the TTL",
    example: r#"{ ttl-lt = 5, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m ttl --ttl 3", "-m ttl --ttl-eq 3"),
        Case::Prints(Family::V4, "-m ttl ! --ttl-eq 0x3", "-m ttl ! --ttl-eq 3"),
        Case::Prints(Family::V4, "-m ttl --ttl-lt 255", "="),
        Case::Prints(Family::V4, "-m ttl --ttl-gt 0", "="),
        Case::Refused(Family::V4, "-m ttl --ttl-eq 256", "`256` is not a TTL"),
        Case::Refused(Family::V4, "-m ttl --ttl-lt 3 --ttl-gt 1", "two comparisons"),
        Case::Refused(Family::V4, "-m ttl", "--ttl-eq"),
        Case::Refused(Family::V4, "-m ttl ! --ttl-lt 64", "cannot be negated"),
        Case::Refused(Family::V4, "-m ttl ! --ttl-gt 64", "cannot be negated"),
        Case::Refused(Family::V4, "-m ttl --ttl-lt 256", "`256` is not a TTL"),
        Case::Refused(Family::V6, "-m ttl --ttl 64", "there is no match `ttl` for ipv6"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (negate, compare) = parse(given, "a TTL")?;
    Ok(vec![Cond::new(negate, Match::Ttl(Ttl(compare)))])
}

/// The one comparison given, of an extension with the options equal, less and greater.
pub fn parse(given: &Given, what: &str) -> Result<(bool, Compare), Complaint> {
    let name = &given.word.text;
    let option = match given.options {
        [one] => one,
        [] => return Err(given.complain(format!("{name} asks for one of --{name}-eq, --{name}-lt or --{name}-gt"))),
        [_, second, ..] => {
            let accepts = format!("one, and `-m {name}` again for another");
            return Err(second.word.complain(format!("two comparisons in one {name}"), accepts));
        }
    };
    let value = word::number(&option.values[0], what, 0..=255)? as u8;
    let compare = [Compare::Equal, Compare::Less, Compare::Greater][option.option](value);
    Ok((option.negate, compare))
}

impl Compare {
    /// Whether a value compares so.
    #[inline]
    pub fn has(self, value: u8) -> bool {
        match self {
            Compare::Equal(than) => value == than,
            Compare::Less(than) => value < than,
            Compare::Greater(than) => value > than,
        }
    }

    /// Writes the option.
    pub fn print(self, name: &str, negate: bool, out: &mut String) {
        let (how, value) = match self {
            Compare::Equal(value) => ("eq", value),
            Compare::Less(value) => ("lt", value),
            Compare::Greater(value) => ("gt", value),
        };
        let _ = write!(out, "{} --{name}-{how} {value}", not(negate));
    }
}

impl Condition for Ttl {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(self.0.has(facts.ttl))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print("ttl", negate, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn the_ttl_is_compared() {
        for (text, ttl, expected) in [
            ("--ttl-eq 64", 64, Yes),
            ("--ttl-eq 64", 63, No),
            ("! --ttl-eq 64", 63, Yes),
            ("--ttl-lt 5", 4, Yes),
            ("--ttl-lt 5", 5, No),
            ("--ttl-lt 0", 0, No),
            ("--ttl-gt 5", 6, Yes),
            ("--ttl-gt 5", 5, No),
            ("--ttl-gt 255", 255, No),
        ] {
            let facts = Facts { ttl, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m ttl {text}"), &facts), expected, "{text} {ttl}");
        }
    }
}
