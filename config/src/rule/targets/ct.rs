//! `-j CT --notrack`, in table `raw`: how conntrack treats the packet. `--notrack` is what NOTRACK does.
//!
//! TOML: `{ in = "lan0", target = "CT", notrack = true }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ct {
    /// `--notrack`
    Notrack,
}

/// CT
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "CT",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Raw],
    hooks: ANY_HOOK,
    options: &[Opt::flag("notrack", &[])],
    build,
    summary: "Says how conntrack treats the packet.",
    example: r#"{ in = "lan0", target = "CT", notrack = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-j CT --notrack", "="),
        Case::Prints(Family::V6, "-s 2001:db8::/32 -j CT --notrack", "="),
        Case::Refused(Family::V4, "-j CT", "needs one of"),
        Case::Refused(Family::V4, "-j CT ! --notrack", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    match given.get(0) {
        Some(_) => Ok(Target::Ct(Ct::Notrack)),
        None => Err(mark::needs(given, EXTENSION.options)),
    }
}

impl Action for Ct {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        match self {
            Ct::Notrack => Effect::Untrack,
        }
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        match self {
            Ct::Notrack => out.push_str(" --notrack"),
        }
    }
}
