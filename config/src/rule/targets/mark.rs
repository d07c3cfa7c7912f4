//! `-j MARK`: the packet's mark. `--set-xmark V/M` makes it `(mark & !M) ^ V`; the other options are ways to write that.
//!
//! TOML: `{ in = "lan0", target = "MARK", set-mark = "0x1/0xff" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::{masked, number};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Clears bits, then flips bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Flipped.
    pub value: u32,
    /// Cleared before.
    pub mask: u32,
}

impl Mark {
    /// The new mark.
    #[inline]
    pub fn of(self, mark: u32) -> u32 {
        (mark & !self.mask) ^ self.value
    }
}

/// The options that MARK and CONNMARK share, by index.
pub(super) const OPTIONS: [Opt; 5] = [
    Opt::plain("set-xmark", &[]).about("VALUE[/MASK]", "clears the bits of the mask, then flips those of the value"),
    Opt::plain("set-mark", &[]).about("VALUE[/MASK]", "clears the bits of mask and value, then sets those of the value"),
    Opt::plain("and-mark", &[]).about("BITS", "clears all other bits"),
    Opt::plain("or-mark", &[]).about("BITS", "sets these bits"),
    Opt::plain("xor-mark", &[]).about("BITS", "flips these bits"),
];

/// MARK
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "MARK",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &OPTIONS,
    build,
    summary: "Sets the packet's mark, which rules and policy routing can ask for.",
    example: r#"{ in = "lan0", target = "MARK", set-mark = "0x1/0xff" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j MARK --set-mark 1", "-j MARK --set-xmark 0x1/0xffffffff"),
        Case::Prints(Family::V4, "-j MARK --set-mark 0x10/0xff", "-j MARK --set-xmark 0x10/0xff"),
        Case::Prints(Family::V4, "-j MARK --set-mark 10/0x3", "-j MARK --set-xmark 0xa/0xb"),
        Case::Prints(Family::V4, "-j MARK --set-mark 010", "-j MARK --set-xmark 0x8/0xffffffff"),
        Case::Prints(Family::V4, "-j MARK --set-mark 1/0", "-j MARK --set-xmark 0x1/0x1"),
        Case::Prints(Family::V6, "-j MARK --set-xmark 0x10", "-j MARK --set-xmark 0x10/0xffffffff"),
        Case::Prints(Family::V6, "-j MARK --set-xmark 0x11/0xf", "="),
        Case::Prints(Family::V4, "-j MARK --and-mark 0xf0", "-j MARK --set-xmark 0x0/0xffffff0f"),
        Case::Prints(Family::V4, "-j MARK --or-mark 0xf", "-j MARK --set-xmark 0xf/0xf"),
        Case::Prints(Family::V4, "-j MARK --xor-mark 0x3", "-j MARK --set-xmark 0x3/0x0"),
        Case::Refused(Family::V4, "-j MARK", "needs one of"),
        Case::Refused(Family::V4, "-j MARK --set-mark 1 --or-mark 2", "cannot stand with"),
        Case::Refused(Family::V4, "-j MARK --set-mark 0x1ffffffff", "not a mark"),
        Case::Refused(Family::V4, "-j MARK --set-mark -1", "not a mark"),
        Case::Refused(Family::V4, "-j MARK ! --set-mark 1", "cannot be negated"),
        Case::Refused(Family::V4, "-j MARK --set-xmark 1/", "not a mark"),
        Case::Refused(Family::V6, "-j MARK --and-mark 0x1ffffffff", "not a mark"),
        Case::Refused(Family::V4, "-j MARK --or-mark one", "not a mark"),
        Case::Refused(Family::V4, "-j MARK --xor-mark 1/2", "not a mark"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    exclusive(given, &[0, 1, 2, 3, 4])?;
    read(given)?.map(Target::Mark).ok_or_else(|| needs(given, &OPTIONS))
}

/// A complaint that names the options of which one must be given.
pub(super) fn needs(given: &Given, options: &[Opt]) -> Complaint {
    let names: Vec<String> = options.iter().map(|o| format!("--{}", o.name)).collect();
    given.word.complain(format!("{} needs one of its options", given.word.text), names.join(", "))
}

/// Complains where two of these options are given.
pub(super) fn exclusive(given: &Given, options: &[usize]) -> Result<(), Complaint> {
    let mut present = given.options.iter().filter(|o| options.contains(&o.option));
    match (present.next(), present.next()) {
        (Some(first), Some(second)) => {
            Err(second.word.complain(format!("`{}` cannot stand with `{}`", second.word.text, first.word.text), "one of the two"))
        }
        _ => Ok(()),
    }
}

/// What the options of [`OPTIONS`] say, where one is given.
pub(super) fn read(given: &Given) -> Result<Option<Mark>, Complaint> {
    const MAX: u64 = u32::MAX as u64;
    let Some(option) = given.options.iter().find(|o| o.option < OPTIONS.len()) else {
        return Ok(None);
    };
    let Some(word) = option.values.first() else {
        return Ok(None);
    };
    let one = || number(word, "a mark", 0..=MAX).map(|n| n as u32);
    let pair = || masked(word, "a mark", MAX).map(|(value, mask)| (value as u32, mask as u32));
    Ok(Some(match option.option {
        0 => {
            let (value, mask) = pair()?;
            Mark { value, mask }
        }
        1 => {
            let (value, mask) = pair()?;
            Mark { value, mask: mask | value }
        }
        2 => Mark { value: 0, mask: !one()? },
        3 => {
            let bits = one()?;
            Mark { value: bits, mask: bits }
        }
        _ => Mark { value: one()?, mask: 0 },
    }))
}

impl Action for Mark {
    #[inline]
    fn act(&self, facts: &Facts, _: &Context) -> Effect<'_> {
        Effect::Mark(self.of(facts.mark))
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let _ = write!(out, " --set-xmark {:#x}/{:#x}", self.value, self.mask);
    }
}
