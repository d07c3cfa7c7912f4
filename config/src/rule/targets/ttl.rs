//! `-j TTL --ttl-set|--ttl-dec|--ttl-inc N` (IPv4) and `-j HL --hl-...` (IPv6), in table `mangle`: the hop count.
//!
//! Steps stop at 0 and 255 (`ttl_tg`, `hl_tg6`). A packet that leaves with 0 is the engine's matter.
//! TOML: `{ out = "wan0", target = "TTL", ttl-set = 64 }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How the hop count changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// To this.
    Set(u8),
    /// Less.
    Dec(u8),
    /// More.
    Inc(u8),
}

/// The target: TTL of IPv4 or HL of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ttl {
    /// Which of the two.
    pub family: Family,
    /// What it does.
    pub step: Step,
}

const fn extension(name: &'static str, family: Family, options: &'static [Opt], example: &'static str, cases: &'static [Case]) -> TargetExtension {
    TargetExtension {
        name,
        aliases: &[],
        families: Families::Only(family),
        protocol: None,
        tables: &[Table::Mangle],
        hooks: ANY_HOOK,
        options,
        build,
        summary: "Sets, lowers or raises the hop count.",
        example,
        cases,
    }
}

/// TTL
pub static TTL: TargetExtension = extension(
    "TTL",
    Family::V4,
    &[Opt::plain("ttl-set", &[]).about("0..255", "sets the TTL"), Opt::plain("ttl-dec", &[]).about("1..255", "lowers the TTL, to 0 at most"), Opt::plain("ttl-inc", &[]).about("1..255", "raises the TTL, to 255 at most")],
    r#"{ out = "wan0", target = "TTL", ttl-set = 64 }"#,
    &[
        Case::Prints(Family::V4, "-j TTL --ttl-set 64", "="),
        Case::Prints(Family::V4, "-j TTL --ttl-set 0", "="),
        Case::Prints(Family::V4, "-j TTL --ttl-set 0x10", "-j TTL --ttl-set 16"),
        Case::Prints(Family::V4, "-j TTL --ttl-dec 1", "="),
        Case::Prints(Family::V4, "-j TTL --ttl-inc 255", "="),
        Case::Refused(Family::V4, "-j TTL --ttl-dec 0", "not a number of hops"),
        Case::Refused(Family::V4, "-j TTL --ttl-inc 0", "not a number of hops"),
        Case::Refused(Family::V4, "-j TTL --ttl-set 256", "not a number of hops"),
        Case::Refused(Family::V4, "-j TTL", "needs one of"),
        Case::Refused(Family::V4, "-j TTL --ttl-set 1 --ttl-inc 1", "cannot stand with"),
        Case::Refused(Family::V6, "-j TTL --ttl-set 1", "no target `TTL` for ipv6"),
    ],
);

/// HL
pub static HL: TargetExtension = extension(
    "HL",
    Family::V6,
    &[Opt::plain("hl-set", &[]).about("0..255", "sets the hop limit"), Opt::plain("hl-dec", &[]).about("1..255", "lowers the hop limit, to 0 at most"), Opt::plain("hl-inc", &[]).about("1..255", "raises the hop limit, to 255 at most")],
    r#"{ out = "wan0", target = "HL", hl-set = 64 }"#,
    &[
        Case::Prints(Family::V6, "-j HL --hl-set 64", "="),
        Case::Prints(Family::V6, "-j HL --hl-dec 1", "="),
        Case::Prints(Family::V6, "-j HL --hl-inc 3", "="),
        Case::Refused(Family::V6, "-j HL --hl-dec 0", "not a number of hops"),
        Case::Refused(Family::V6, "-j HL --hl-set 300", "not a number of hops"),
        Case::Refused(Family::V6, "-j HL", "needs one of"),
        Case::Refused(Family::V4, "-j HL --hl-set 1", "no target `HL` for ipv4"),
        Case::Prints(Family::V6, "-j HL --hl-set 0x40", "-j HL --hl-set 64"),
        Case::Refused(Family::V6, "-j HL --hl-inc 256", "not a number of hops"),
        Case::Refused(Family::V6, "-j HL --hl-inc 1 --hl-dec 1", "cannot stand with"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[0, 1, 2])?;
    let option = given.options.first().and_then(|o| Some((o.option, o.values.first()?)));
    let options = extension_of(given.family).options;
    let (option, word) = option.ok_or_else(|| mark::needs(given, options))?;
    let least = if option == 0 { 0 } else { 1 };
    let hops = number(word, "a number of hops", least..=255)? as u8;
    let step = match option {
        0 => Step::Set(hops),
        1 => Step::Dec(hops),
        _ => Step::Inc(hops),
    };
    Ok(Target::Ttl(Ttl { family: given.family, step }))
}

fn extension_of(family: Family) -> &'static TargetExtension {
    match family {
        Family::V4 => &TTL,
        Family::V6 => &HL,
    }
}

impl Action for Ttl {
    #[inline]
    fn act(&self, facts: &Facts, _: &Context) -> Effect<'_> {
        Effect::Ttl(match self.step {
            Step::Set(hops) => hops,
            Step::Dec(hops) => facts.ttl.saturating_sub(hops),
            Step::Inc(hops) => facts.ttl.saturating_add(hops),
        })
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(extension_of(self.family))
    }

    fn print(&self, _: Family, out: &mut String) {
        let (option, hops) = match self.step {
            Step::Set(hops) => (0, hops),
            Step::Dec(hops) => (1, hops),
            Step::Inc(hops) => (2, hops),
        };
        let _ = write!(out, " --{} {hops}", extension_of(self.family).options[option].name);
    }
}
