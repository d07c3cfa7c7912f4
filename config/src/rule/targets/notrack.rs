//! `-j NOTRACK`, in table `raw`: conntrack leaves the packet alone; its state is UNTRACKED. The next rule follows.
//!
//! TOML: `{ protocol = "udp", dport = 53, target = "NOTRACK" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Notrack;

/// NOTRACK
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "NOTRACK",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Raw],
    hooks: ANY_HOOK,
    options: &[],
    build: |_| Ok(Target::Notrack(Notrack)),
    summary: "Keeps conntrack away from the packet.",
    example: r#"{ protocol = "udp", dport = 53, target = "NOTRACK" }"#,
    cases: &[
        Case::Prints(Family::V4, "-i lan0 -j NOTRACK", "="),
        Case::Prints(Family::V6, "-j NOTRACK", "="),
        Case::Refused(Family::V4, "-j NOTRACK --notrack", "no option `--notrack`"),
    ],
};

impl Action for Notrack {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Untrack
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, _: &mut String) {}
}
