//! `-j CONNMARK`: the flow's mark, or the packet's mark from it. Packets without a flow pass untouched.
//!
//! Set: `ct = (ct & !M) ^ V`. Save: `ct = (ct & !ctmask) ^ (packet & nfmask)`. Restore: `packet = (packet & !nfmask) ^
//! (ct & ctmask)` (`connmark_tg` of the kernel). TOML: `{ target = "CONNMARK", restore-mark = true }`.

use super::mark::{self, Mark};
use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ConnMark {
    /// The flow's mark from its old one.
    Set(Mark),
    /// The flow's mark from the packet's.
    Save {
        /// Bits of the packet's mark that are taken.
        nfmask: u32,
        /// Bits of the flow's mark that are cleared.
        ctmask: u32,
    },
    /// The packet's mark from the flow's.
    Restore {
        /// Bits of the packet's mark that are cleared.
        nfmask: u32,
        /// Bits of the flow's mark that are taken.
        ctmask: u32,
    },
}

const SAVE: usize = 5;
const RESTORE: usize = 6;
const NFMASK: usize = 7;
const CTMASK: usize = 8;
const MASK: usize = 9;

const OPTIONS: [Opt; 10] = {
    let [xmark, set, and, or, xor] = mark::OPTIONS;
    [
        xmark,
        set,
        and,
        or,
        xor,
        Opt::flag("save-mark", &[]),
        Opt::flag("restore-mark", &[]),
        Opt::plain("nfmask", &[]),
        Opt::plain("ctmask", &[]),
        Opt::plain("mask", &[]),
    ]
};

/// CONNMARK
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "CONNMARK",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &OPTIONS,
    build,
    summary: "Sets the mark of the packet's flow, saves the packet's mark there, or restores it from there.",
    example: r#"{ target = "CONNMARK", restore-mark = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-j CONNMARK --set-mark 1", "-j CONNMARK --set-xmark 0x1/0xffffffff"),
        Case::Prints(Family::V4, "-j CONNMARK --set-mark 0x10/0xff", "-j CONNMARK --set-xmark 0x10/0xff"),
        Case::Prints(Family::V4, "-j CONNMARK --set-xmark 0x11/0xf", "="),
        Case::Prints(Family::V4, "-j CONNMARK --and-mark 0xf0", "-j CONNMARK --set-xmark 0x0/0xffffff0f"),
        Case::Prints(Family::V4, "-j CONNMARK --or-mark 0xf", "-j CONNMARK --set-xmark 0xf/0xf"),
        Case::Prints(Family::V6, "-j CONNMARK --xor-mark 0x3", "-j CONNMARK --set-xmark 0x3/0x0"),
        Case::Prints(Family::V4, "-j CONNMARK --set-mark 1 --mask 3", "-j CONNMARK --set-xmark 0x1/0x3"),
        Case::Prints(Family::V4, "-j CONNMARK --save-mark", "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
        Case::Prints(Family::V4, "-j CONNMARK --save-mark --mask 0xff", "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff"),
        Case::Prints(Family::V6, "-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff", "="),
        Case::Prints(Family::V4, "-j CONNMARK --restore-mark --nfmask 0xf", "-j CONNMARK --restore-mark --nfmask 0xf --ctmask 0xffffffff"),
        Case::Prints(Family::V4, "-j CONNMARK --restore-mark --ctmask 0xf", "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xf"),
        Case::Refused(Family::V4, "-j CONNMARK", "needs one of"),
        Case::Refused(Family::V4, "-j CONNMARK --mask 3", "needs one of"),
        Case::Refused(Family::V4, "-j CONNMARK --save-mark --restore-mark", "cannot stand with"),
        Case::Refused(Family::V4, "-j CONNMARK --save-mark --mask 0xf --nfmask 0xf", "cannot stand with"),
        Case::Refused(Family::V4, "-j CONNMARK --set-mark 1 --ctmask 1", "cannot stand with"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[0, 1, 2, 3, 4, SAVE, RESTORE])?;
    for pair in [[MASK, NFMASK], [MASK, CTMASK]] {
        mark::exclusive(given, &pair)?;
    }
    let mask = |option| match given.value(option) {
        Some(word) => number(word, "a mask", 0..=u32::MAX as u64).map(|n| Some(n as u32)),
        None => Ok(None),
    };
    let both = mask(MASK)?;
    let (nfmask, ctmask) = (mask(NFMASK)?.or(both).unwrap_or(u32::MAX), mask(CTMASK)?.or(both).unwrap_or(u32::MAX));
    if let Some(set) = mark::read(given)? {
        for option in 0..mark::OPTIONS.len() {
            for masks in [NFMASK, CTMASK] {
                mark::exclusive(given, &[option, masks])?;
            }
        }
        let set = both.map_or(set, |mask| Mark { mask, ..set });
        return Ok(Target::ConnMark(ConnMark::Set(set)));
    }
    match (given.get(SAVE), given.get(RESTORE)) {
        (Some(_), _) => Ok(Target::ConnMark(ConnMark::Save { nfmask, ctmask })),
        (None, Some(_)) => Ok(Target::ConnMark(ConnMark::Restore { nfmask, ctmask })),
        (None, None) => Err(mark::needs(given, &OPTIONS[..NFMASK])),
    }
}

impl Action for ConnMark {
    #[inline]
    fn act(&self, facts: &Facts, _: &Context) -> Effect<'_> {
        if !facts.has_ct {
            return Effect::Continue;
        }
        match *self {
            ConnMark::Set(set) => Effect::ConnMark(set.of(facts.ct_mark)),
            ConnMark::Save { nfmask, ctmask } => Effect::ConnMark((facts.ct_mark & !ctmask) ^ (facts.mark & nfmask)),
            ConnMark::Restore { nfmask, ctmask } => Effect::Mark((facts.mark & !nfmask) ^ (facts.ct_mark & ctmask)),
        }
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, family: Family, out: &mut String) {
        let (option, nfmask, ctmask) = match self {
            ConnMark::Set(set) => return set.print(family, out),
            ConnMark::Save { nfmask, ctmask } => ("save", nfmask, ctmask),
            ConnMark::Restore { nfmask, ctmask } => ("restore", nfmask, ctmask),
        };
        let _ = write!(out, " --{option}-mark --nfmask {nfmask:#x} --ctmask {ctmask:#x}");
    }
}
