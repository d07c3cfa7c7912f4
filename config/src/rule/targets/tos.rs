//! `-j TOS`, in table `mangle`: the TOS byte or traffic class. `--set-tos V/M` makes it `(tos & !M) ^ V`; the other options
//! are ways to write that. A symbolic name counts without the two ECN-side bits: mask 0x3f, as iptables has it.
//!
//! TOML: `{ protocol = "tcp", dport = 22, target = "TOS", set-tos = "Minimize-Delay" }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::{masked, number};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Clears bits, then flips bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tos {
    /// Flipped.
    pub value: u8,
    /// Cleared before.
    pub mask: u8,
}

const NAMES: &[(&str, u8)] = &[
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];

/// The mask of the symbolic names.
const NAMED_MASK: u8 = 0x3f;

const OPTIONS: [Opt; 4] =
    [Opt::plain("set-tos", &[]).about("VALUE[/MASK]|NAME", "clears the bits of the mask (0x3f for a name), then flips those of the value"), Opt::plain("and-tos", &[]).about("BITS", "clears all other bits"), Opt::plain("or-tos", &[]).about("BITS", "sets these bits"), Opt::plain("xor-tos", &[]).about("BITS", "flips these bits")];

/// TOS
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "TOS",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Mangle],
    hooks: ANY_HOOK,
    options: &OPTIONS,
    build,
    summary: "Sets bits of the TOS byte or traffic class.",
    example: r#"{ protocol = "tcp", dport = 22, target = "TOS", set-tos = "Minimize-Delay" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j TOS --set-tos 0x10", "-j TOS --set-tos 0x10/0xff"),
        Case::Prints(Family::V4, "-j TOS --set-tos 16", "-j TOS --set-tos 0x10/0xff"),
        Case::Prints(Family::V6, "-j TOS --set-tos minimize-delay", "-j TOS --set-tos 0x10/0x3f"),
        Case::Prints(Family::V4, "-j TOS --set-tos Normal-Service", "-j TOS --set-tos 0x00/0x3f"),
        Case::Prints(Family::V4, "-j TOS --set-tos 0x1f/0xf0", "="),
        Case::Prints(Family::V4, "-j TOS --set-tos 0x4/0", "-j TOS --set-tos 0x04/0x00"),
        Case::Prints(Family::V6, "-j TOS --and-tos 0xf", "-j TOS --set-tos 0x00/0xf0"),
        Case::Prints(Family::V4, "-j TOS --or-tos 0xf", "-j TOS --set-tos 0x0f/0x0f"),
        Case::Prints(Family::V4, "-j TOS --xor-tos 0xf", "-j TOS --set-tos 0x0f/0x00"),
        Case::Refused(Family::V4, "-j TOS", "needs one of"),
        Case::Refused(Family::V4, "-j TOS --set-tos 256", "not a TOS value"),
        Case::Refused(Family::V4, "-j TOS --set-tos Minimize-Cost/0xff", "not a TOS value"),
        Case::Refused(Family::V4, "-j TOS --set-tos Minimise-Delay", "not a TOS value"),
        Case::Refused(Family::V4, "-j TOS --set-tos 1 --or-tos 2", "cannot stand with"),
        Case::Prints(Family::V4, "-j TOS --set-tos Maximize-Throughput", "-j TOS --set-tos 0x08/0x3f"),
        Case::Prints(Family::V4, "-j TOS --set-tos Maximize-Reliability", "-j TOS --set-tos 0x04/0x3f"),
        Case::Prints(Family::V6, "-j TOS --set-tos Minimize-Cost", "-j TOS --set-tos 0x02/0x3f"),
        Case::Refused(Family::V4, "-j TOS --and-tos 256", "not a TOS value"),
        Case::Refused(Family::V4, "-j TOS --or-tos Minimize-Cost", "not a TOS value"),
        Case::Refused(Family::V6, "-j TOS --xor-tos -1", "not a TOS value"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[0, 1, 2, 3])?;
    let option = given.options.first().and_then(|o| Some((o.option, o.values.first()?)));
    let (option, word) = option.ok_or_else(|| mark::needs(given, &OPTIONS))?;
    let one = || number(word, "a TOS value", 0..=255).map(|n| n as u8);
    Ok(Target::Tos(match option {
        0 if word.text.starts_with(|c: char| c.is_ascii_digit()) => {
            let (value, mask) = masked(word, "a TOS value", 255)?;
            Tos { value: value as u8, mask: mask as u8 }
        }
        0 => Tos { value: crate::rule::word::named(word, "a TOS value", NAMES)?, mask: NAMED_MASK },
        1 => Tos { value: 0, mask: !one()? },
        2 => {
            let bits = one()?;
            Tos { value: bits, mask: bits }
        }
        _ => Tos { value: one()?, mask: 0 },
    }))
}

impl Action for Tos {
    #[inline]
    fn act(&self, facts: &Facts, _: &Context) -> Effect<'_> {
        Effect::Tos((facts.tos & !self.mask) ^ self.value)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let _ = write!(out, " --set-tos {:#04x}/{:#04x}", self.value, self.mask);
    }
}
