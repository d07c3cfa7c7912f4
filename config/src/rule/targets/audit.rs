//! `-j AUDIT --type accept|drop|reject`: a record of the packet in the form of the kernel's audit (`audit_tg`), in the log that LOG
//! writes to: `audit: type=1324 audit(1700000000.123:7): mark=0x0 saddr=192.0.2.1 daddr=198.51.100.1 proto=6`.
//!
//! The type says what a rule that follows is going to do. As in the kernel it is checked and then not told.
//! TOML: `{ in = "wan0", protocol = "tcp", dport = 22, target = "AUDIT", type = "drop" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::named;
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is going to happen to the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Audit {
    /// It is accepted.
    Accept,
    /// It is dropped.
    Drop,
    /// It is rejected.
    Reject,
}

const TYPES: &[(&str, Audit)] = &[("accept", Audit::Accept), ("drop", Audit::Drop), ("reject", Audit::Reject)];

/// AUDIT
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "AUDIT",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::plain("type", &[]).about("accept|drop|reject", "what is going to happen to the packet")],
    build,
    summary: "Writes an audit record of the packet to the log.",
    example: r#"{ in = "wan0", protocol = "tcp", dport = 22, target = "AUDIT", type = "drop" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j AUDIT --type accept", "="),
        Case::Prints(Family::V6, "-p tcp -j AUDIT --type drop", "="),
        Case::Prints(Family::V4, "-j AUDIT --type REJECT", "-j AUDIT --type reject"),
        Case::Refused(Family::V4, "-j AUDIT", "AUDIT needs --type"),
        Case::Refused(Family::V4, "-j AUDIT --type denied", "`denied` is not a type of record"),
        Case::Refused(Family::V4, "-j AUDIT ! --type drop", "cannot be negated"),
        Case::Refused(Family::V6, "-j AUDIT --type drop --type accept", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    named(given.required(0, "type")?, "a type of record", TYPES).map(Target::Audit)
}

impl Action for Audit {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Audit
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let name = TYPES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        let _ = write!(out, " --type {name}");
    }
}
