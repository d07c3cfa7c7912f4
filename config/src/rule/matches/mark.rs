//! `-m mark`: the packet's mark (`xt_mark.c`): `mark & MASK == VALUE`.
//!
//! A value with bits outside of its mask never matches; it is kept as written, as the kernel does.
//!
//! TOML: `{ mark = "0x10/0xff", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--mark VALUE[/MASK]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// What the examined bits are.
    pub value: u32,
    /// Bits examined.
    pub mask: u32,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "mark",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("mark", &[]).about("VALUE[/MASK]", "the mark of the packet, as far as the mask goes")],
    build,
    summary: "the packet's mark",
    example: r#"{ mark = "0x10/0xff", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m mark --mark 1", "-m mark --mark 0x1"),
        Case::Prints(Family::V6, "-m mark --mark 0x10/0xff", "="),
        Case::Prints(Family::V4, "-m mark ! --mark 1/1", "-m mark ! --mark 0x1/0x1"),
        Case::Prints(Family::V4, "-m mark --mark 0x100/0xff", "="),
        Case::Prints(Family::V4, "-m mark --mark 010", "-m mark --mark 0x8"),
        Case::Prints(Family::V4, "-m mark --mark 4294967295", "-m mark --mark 0xffffffff"),
        Case::Prints(Family::V4, "-m mark --mark 0x0/0xffffffff", "-m mark --mark 0x0"),
        Case::Refused(Family::V4, "-m mark --mark 4294967296", "`4294967296` is not a mark"),
        Case::Refused(Family::V4, "-m mark --mark 1/", "`1/` is not a mark"),
        Case::Refused(Family::V4, "-m mark --mark -1", "`-1` is not a mark"),
        Case::Refused(Family::V4, "-m mark", "--mark"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    parse(given).map(|(negate, mark)| vec![Cond::new(negate, Match::Mark(mark))])
}

/// The `--mark` of `mark` and `connmark`.
pub fn parse(given: &Given) -> Result<(bool, Mark), Complaint> {
    let Some(option) = given.get(0) else {
        return Err(given.complain(format!("{} asks for --mark", given.word.text)));
    };
    let (value, mask) = word::masked(&option.values[0], "a mark", u32::MAX as u64)?;
    Ok((option.negate, Mark { value: value as u32, mask: mask as u32 }))
}

impl Mark {
    /// Whether a mark is this one.
    #[inline]
    pub fn has(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }

    /// Writes the option.
    pub fn print_option(self, negate: bool, out: &mut String) {
        let _ = write!(out, "{} --mark ", not(negate));
        word::print_masked(out, self.value, self.mask, u32::MAX);
    }
}

impl Condition for Mark {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(self.has(facts.mark))
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.print_option(negate, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn only_the_bits_of_the_mask_count() {
        for (text, mark, expected) in [
            ("--mark 0x10", 0x10, Yes),
            ("--mark 0x10", 0x110, No),
            ("--mark 0x10/0xff", 0x110, Yes),
            ("! --mark 0x10/0xff", 0x110, No),
            ("! --mark 0x10/0xff", 0x111, Yes),
            ("--mark 0x100/0xff", 0x100, No),
            ("--mark 0/0", 7, Yes),
        ] {
            let facts = Facts { mark, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m mark {text}"), &facts), expected, "{text} {mark:x}");
        }
    }
}
