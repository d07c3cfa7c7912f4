//! `-m dscp`: the differentiated services code point (`xt_dscp.c`), the upper six bits of the TOS byte or traffic class.
//!
//! By value or by class: BE, EF, AF11 to AF43, CS0 to CS7.
//!
//! TOML: `{ dscp-class = "EF", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--dscp`, `--dscp-class`: 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dscp(pub u8);

/// The highest code point.
pub const MAX: u8 = 63;

#[rustfmt::skip]
const CLASSES: [(&str, u8); 22] = [
    ("CS0", 0), ("CS1", 8), ("CS2", 16), ("CS3", 24), ("CS4", 32), ("CS5", 40), ("CS6", 48), ("CS7", 56),
    ("BE", 0),
    ("AF11", 10), ("AF12", 12), ("AF13", 14), ("AF21", 18), ("AF22", 20), ("AF23", 22),
    ("AF31", 26), ("AF32", 28), ("AF33", 30), ("AF41", 34), ("AF42", 36), ("AF43", 38),
    ("EF", 46),
];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "dscp",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("dscp", &[]).about("N", "code point, 0 to 63"), Opt::negatable("dscp-class", &[]).about("CLASS", "code point by its class: BE, EF, AF11 to AF43, CS0 to CS7")],
    build,
    summary: "the differentiated services code point",
    example: r#"{ dscp-class = "EF", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m dscp --dscp 10", "-m dscp --dscp 0x0a"),
        Case::Prints(Family::V6, "-m dscp --dscp 0x3f", "="),
        Case::Prints(Family::V4, "-m dscp ! --dscp-class EF", "-m dscp ! --dscp 0x2e"),
        Case::Prints(Family::V4, "-m dscp --dscp-class af11", "-m dscp --dscp 0x0a"),
        Case::Prints(Family::V4, "-m dscp --dscp-class BE", "-m dscp --dscp 0x00"),
        Case::Prints(Family::V4, "-m dscp --dscp-class CS7", "-m dscp --dscp 0x38"),
        Case::Refused(Family::V4, "-m dscp --dscp 64", "`64` is not a code point"),
        Case::Refused(Family::V4, "-m dscp --dscp-class AF14", "`AF14` is not a class"),
        Case::Refused(Family::V4, "-m dscp --dscp 1 --dscp-class EF", "--dscp and --dscp-class"),
        Case::Refused(Family::V4, "-m dscp", "--dscp"),
        Case::Prints(Family::V4, "-m dscp --dscp-class CS0", "-m dscp --dscp 0x00"),
        Case::Prints(Family::V6, "-m dscp ! --dscp-class AF43", "-m dscp ! --dscp 0x26"),
        Case::Prints(Family::V4, "-m dscp ! --dscp 0", "-m dscp ! --dscp 0x00"),
        Case::Refused(Family::V4, "-m dscp --dscp-class LE", "`LE` is not a class"),
        Case::Refused(Family::V4, "-m dscp --dscp-class VA", "`VA` is not a class"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let option = match given.options {
        [one] => one,
        [] => return Err(given.complain("dscp asks for --dscp or --dscp-class")),
        [_, second, ..] => return Err(second.word.complain("--dscp and --dscp-class in one match", "one of them")),
    };
    let word = &option.values[0];
    let value = if option.option == 0 { parse(word)? } else { parse_class(word)? };
    Ok(vec![Cond::new(option.negate, Match::Dscp(Dscp(value)))])
}

/// A code point as a number.
pub fn parse(word: &Word) -> Result<u8, Complaint> {
    word::number(word, "a code point", 0..=MAX as u64).map(|value| value as u8)
}

/// The code point of a class.
pub fn parse_class(word: &Word) -> Result<u8, Complaint> {
    word::named(word, "a class", &CLASSES)
}

impl Condition for Dscp {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(facts.tos >> 2 == self.0)
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --dscp 0x{:02x}", not(negate), self.0);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.0 > MAX { Err(format!("code point {}", self.0)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;

    #[test]
    fn the_upper_six_bits_count() {
        for (text, tos, expected) in [
            ("--dscp-class EF", 0xb8, Outcome::Yes),
            ("--dscp-class EF", 0xbb, Outcome::Yes),
            ("--dscp-class EF", 0xbc, Outcome::No),
            ("! --dscp 0", 4, Outcome::Yes),
            ("! --dscp 0", 3, Outcome::No),
        ] {
            let facts = Facts { tos, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m dscp {text}"), &facts), expected, "{text} {tos:x}");
        }
        assert!(Dscp(64).verify(Family::V4).is_err());
    }
}
