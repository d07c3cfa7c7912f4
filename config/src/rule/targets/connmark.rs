//! `-j CONNMARK`: the flow's mark, or the packet's mark from it. Packets without a flow pass untouched.
//!
//! Set: `ct = (ct & !M) ^ V`. Save: `ct = (ct & !ctmask) ^ (packet & nfmask)`. Restore: `packet = (packet & !nfmask) ^
//! (ct & ctmask)` (`connmark_tg_shift` of the kernel). A shift moves what is saved or restored, and what was set. TOML: `{ target = "CONNMARK", restore-mark = true }`.

use super::mark::{self, Mark};
use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConnMark {
    what: What,
    shift: Shift,
}

/// Bits by which a mark moves on its way: left, or right where it is negative; fewer than 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Shift(i8);

impl Shift {
    fn of(self, mark: u32) -> u32 {
        let bits = self.0.unsigned_abs().into();
        if self.0 < 0 { mark.checked_shr(bits).unwrap_or(0) } else { mark.checked_shl(bits).unwrap_or(0) }
    }
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum What {
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
const LEFT: usize = 10;
const RIGHT: usize = 11;

const OPTIONS: [Opt; 12] = {
    let [xmark, set, and, or, xor] = mark::OPTIONS;
    [
        xmark,
        set,
        and,
        or,
        xor,
        Opt::flag("save-mark", &[]).about("", "keeps the packet's mark with the flow"),
        Opt::flag("restore-mark", &[]).about("", "gives the packet the flow's mark"),
        Opt::plain("nfmask", &[]).about("MASK", "bits of the packet's mark that are kept or replaced"),
        Opt::plain("ctmask", &[]).about("MASK", "bits of the flow's mark that are replaced or taken"),
        Opt::plain("mask", &[]).about("MASK", "both masks"),
        Opt::plain("left-shift-mark", &[]).about("0..31", "moves the mark so many bits to the left on its way"),
        Opt::plain("right-shift-mark", &[]).about("0..31", "moves it to the right"),
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
        Case::Prints(Family::V4, "-j CONNMARK --left-shift-mark 4 --set-mark 1", "-j CONNMARK --set-xmark 0x1/0xffffffff --left-shift-mark 4"),
        Case::Prints(Family::V4, "-j CONNMARK --set-xmark 0x10/0xff --right-shift-mark 0", "-j CONNMARK --set-xmark 0x10/0xff"),
        Case::Prints(Family::V6, "-j CONNMARK --save-mark --right-shift-mark 31", "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff --right-shift-mark 31"),
        Case::Prints(Family::V4, "-j CONNMARK --restore-mark --right-shift-mark 0x8 --nfmask 0xff --ctmask 0xff00", "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff00 --right-shift-mark 8"),
        Case::Prints(Family::V4, "-j CONNMARK --restore-mark --left-shift-mark 8 --right-shift-mark 4", "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff --right-shift-mark 4"),
        Case::Prints(Family::V4, "-j CONNMARK --save-mark --right-shift-mark 4 --left-shift-mark 0", "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
        Case::Refused(Family::V4, "-j CONNMARK --left-shift-mark 4", "needs one of"),
        Case::Refused(Family::V4, "-j CONNMARK --set-mark 5 --left-shift-mark 32", "not a number of bits"),
        Case::Refused(Family::V4, "-j CONNMARK --save-mark --right-shift-mark x", "not a number of bits"),
        Case::Refused(Family::V4, "-j CONNMARK --set-xmark foo", "not a mark"),
        Case::Refused(Family::V4, "-j CONNMARK --and-mark 1 --or-mark 2", "cannot stand with"),
        Case::Refused(Family::V4, "-j CONNMARK --xor-mark 0x1ffffffff", "not a mark"),
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
    let mut shift = Shift(0);
    for option in given.options.iter().filter(|o| matches!(o.option, LEFT | RIGHT)) {
        let Some(word) = option.values.first() else { continue };
        let bits = number(word, "a number of bits", 0..=31)? as i8;
        shift = Shift(if option.option == LEFT { bits } else { -bits });
    }
    let made = |what| Ok(Target::ConnMark(ConnMark { what, shift }));
    let both = mask(MASK)?;
    let (nfmask, ctmask) = (mask(NFMASK)?.or(both).unwrap_or(u32::MAX), mask(CTMASK)?.or(both).unwrap_or(u32::MAX));
    if let Some(set) = mark::read(given)? {
        for option in 0..mark::OPTIONS.len() {
            for masks in [NFMASK, CTMASK] {
                mark::exclusive(given, &[option, masks])?;
            }
        }
        let set = both.map_or(set, |mask| Mark { mask, ..set });
        return made(What::Set(set));
    }
    match (given.get(SAVE), given.get(RESTORE)) {
        (Some(_), _) => made(What::Save { nfmask, ctmask }),
        (None, Some(_)) => made(What::Restore { nfmask, ctmask }),
        (None, None) => Err(mark::needs(given, &OPTIONS[..NFMASK])),
    }
}

impl Action for ConnMark {
    #[inline]
    fn act(&self, facts: &Facts, _: &Context) -> Effect<'_> {
        if !facts.has_ct {
            return Effect::Continue;
        }
        let Facts { mark, ct_mark, .. } = *facts;
        match self.what {
            What::Set(set) => Effect::ConnMark(self.shift.of(set.of(ct_mark))),
            What::Save { nfmask, ctmask } => Effect::ConnMark((ct_mark & !ctmask) ^ self.shift.of(mark & nfmask)),
            What::Restore { nfmask, ctmask } => Effect::Mark((mark & !nfmask) ^ self.shift.of(ct_mark & ctmask)),
        }
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, family: Family, out: &mut String) {
        let copied = match self.what {
            What::Set(set) => {
                set.print(family, out);
                None
            }
            What::Save { nfmask, ctmask } => Some(("save", nfmask, ctmask)),
            What::Restore { nfmask, ctmask } => Some(("restore", nfmask, ctmask)),
        };
        if let Some((option, nfmask, ctmask)) = copied {
            let _ = write!(out, " --{option}-mark --nfmask {nfmask:#x} --ctmask {ctmask:#x}");
        }
        let _ = match self.shift.0 {
            0 => Ok(()),
            bits @ 1.. => write!(out, " --left-shift-mark {bits}"),
            bits => write!(out, " --right-shift-mark {}", -i16::from(bits)),
        };
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self.shift.0 {
            -31..=31 => Ok(()),
            bits => Err(format!("CONNMARK that moves a mark by {bits} bits")),
        }
    }
}
