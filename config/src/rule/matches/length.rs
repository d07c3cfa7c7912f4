//! `-m length`: bytes of the IP packet (`xt_length.c`): IPv4's total length, IPv6's payload length and 40.
//!
//! TOML: `{ length = "1400:", jump = "ACCEPT" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--length MIN[:MAX]`, both ends in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Length {
    /// The least.
    pub min: u16,
    /// The most.
    pub max: u16,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "length",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("length", &[]).about("BYTES[:BYTES]", "length of the IP packet")],
    build,
    summary: "bytes of the IP packet",
    example: r#"{ length = "1400:", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m length --length 100", "="),
        Case::Prints(Family::V6, "-m length --length 100:200", "="),
        Case::Prints(Family::V4, "-m length ! --length :200", "-m length ! --length 0:200"),
        Case::Prints(Family::V4, "-m length --length 100:", "-m length --length 100:65535"),
        Case::Prints(Family::V4, "-m length --length :", "-m length --length 0:65535"),
        Case::Refused(Family::V4, "-m length --length 65536", "`65536` is not a length"),
        Case::Refused(Family::V4, "-m length --length 200:100", "runs backwards"),
        Case::Refused(Family::V4, "-m length --length long", "`long` is not a length"),
        Case::Refused(Family::V4, "-m length", "--length"),
        Case::Prints(Family::V4, "-m length --length 5:5", "-m length --length 5"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("length asks for --length")) };
    let (min, max) = word::range(&option.values[0], ':', "a length", 0..=u16::MAX as u64)?;
    let test = Match::Length(Length { min: min as u16, max: max as u16 });
    Ok(vec![Cond::new(option.negate, test)])
}

impl Condition for Length {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(self.min <= facts.len && facts.len <= self.max)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --length {}", not(negate), self.min);
        if self.min != self.max {
            let _ = write!(out, ":{}", self.max);
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.min > self.max { Err("a range of lengths that runs backwards".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn both_ends_are_in_the_range() {
        for (text, len, expected) in [
            ("--length 100:200", 100, Yes),
            ("--length 100:200", 200, Yes),
            ("--length 100:200", 99, No),
            ("--length 100:200", 201, No),
            ("! --length 100:200", 201, Yes),
            ("--length 84", 84, Yes),
            ("--length 1400:", 65535, Yes),
        ] {
            let facts = Facts { len, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m length {text}"), &facts), expected, "{text} {len}");
        }
        assert!(Length { min: 2, max: 1 }.verify(Family::V4).is_err());
    }
}
