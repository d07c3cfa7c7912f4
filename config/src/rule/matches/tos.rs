//! `-m tos`: the TOS byte or IPv6 traffic class, ECN bits included (`xt_dscp.c`, `tos_mt`): `tos & MASK == VALUE`.
//!
//! A number without a mask means all eight bits; a name means the bits 0x3f, as in iptables. A value with bits outside of
//! its mask never matches; it is kept as written.
//!
//! TOML: `{ tos = "Minimize-Delay", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--tos VALUE[/MASK]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tos {
    /// What the examined bits are.
    pub value: u8,
    /// Bits examined.
    pub mask: u8,
}

/// Names of RFC 1349.
const NAMES: [(&str, u8); 5] = [
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];
/// The bits that a name means.
const NAME_MASK: u8 = 0x3f;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "tos",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("tos", &[]).about("VALUE[/MASK]", "TOS byte or traffic class, or a name such as Minimize-Delay")],
    build,
    summary: "the TOS byte or traffic class",
    example: r#"{ tos = "Minimize-Delay", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m tos --tos 0x10", "-m tos --tos 0x10/0xff"),
        Case::Prints(Family::V6, "-m tos --tos 16/0x3f", "-m tos --tos 0x10/0x3f"),
        Case::Prints(Family::V4, "-m tos ! --tos minimize-delay", "-m tos ! --tos 0x10/0x3f"),
        Case::Prints(Family::V4, "-m tos --tos Normal-Service", "-m tos --tos 0x00/0x3f"),
        Case::Prints(Family::V4, "-m tos --tos 0x11/0x10", "="),
        Case::Prints(Family::V4, "-m tos --tos 0/0", "-m tos --tos 0x00/0x00"),
        Case::Refused(Family::V4, "-m tos --tos 0x100", "`0x100` is not a TOS"),
        Case::Refused(Family::V4, "-m tos --tos Minimise-Delay", "`Minimise-Delay` is not a TOS"),
        Case::Refused(Family::V4, "-m tos", "--tos"),
        Case::Prints(Family::V4, "-m tos --tos 0", "-m tos --tos 0x00/0xff"),
        Case::Prints(Family::V4, "-m tos ! --tos 16", "-m tos ! --tos 0x10/0xff"),
        Case::Prints(Family::V4, "-m tos --tos 0x3f/0x0f", "="),
        Case::Prints(Family::V6, "-m tos --tos Minimize-Delay", "-m tos --tos 0x10/0x3f"),
        Case::Refused(Family::V4, "-m tos --tos Minimize", "`Minimize` is not a TOS"),
        Case::Refused(Family::V4, "-m tos --tos 256", "`256` is not a TOS"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("tos asks for --tos")) };
    let (value, mask) = parse(&option.values[0])?;
    Ok(vec![Cond::new(option.negate, Match::Tos(Tos { value, mask }))])
}

/// Value and mask of `VALUE[/MASK]` or of a name.
pub fn parse(word: &Word) -> Result<(u8, u8), Complaint> {
    if word.text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return word::named(word, "a TOS", &NAMES).map(|value| (value, NAME_MASK));
    }
    word::masked(word, "a TOS", 0xff).map(|(value, mask)| (value as u8, mask as u8))
}

impl Condition for Tos {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(facts.tos & self.mask == self.value)
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --tos 0x{:02x}/0x{:02x}", not(negate), self.value, self.mask);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn only_the_bits_of_the_mask_count() {
        for (text, tos, expected) in [
            ("--tos 0x10", 0x10, Yes),
            ("--tos 0x10", 0x11, No),
            ("--tos 0x10/0xfc", 0x13, Yes),
            ("--tos Minimize-Delay", 0xd0, Yes),
            ("! --tos Minimize-Delay", 0xd1, Yes),
            ("--tos 0x11/0x10", 0x11, No),
            ("--tos 0/0", 0xff, Yes),
        ] {
            let facts = Facts { tos, ..Facts::blank(Family::V6) };
            assert_eq!(outcome(&format!("-m tos {text}"), &facts), expected, "{text} {tos:x}");
        }
    }
}
