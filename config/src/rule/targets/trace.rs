//! `-j TRACE`, in table `raw`: from here on every rule, return and policy that the packet meets is logged.
//!
//! The lines are the kernel's (`trace_packet` of ip_tables): `TRACE: filter:FORWARD:rule:3 IN=lan0 OUT=wan0 ...`, for the rules
//! after this one, in the log that LOG writes to. As in the kernel a rule without conditions whose target is ACCEPT, DROP or
//! RETURN is told as `policy` in a built-in chain and as `return` in another.
//! TOML: `{ in = "lan0", source = "192.0.2.7", target = "TRACE" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trace;

/// TRACE
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "TRACE",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Raw],
    hooks: ANY_HOOK,
    options: &[],
    build: |_| Ok(Target::Trace(Trace)),
    summary: "Logs every rule that the packet meets from here on.",
    example: r#"{ in = "lan0", source = "192.0.2.7", target = "TRACE" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j TRACE", "="),
        Case::Prints(Family::V6, "-i lan0 -p tcp -j TRACE", "="),
        Case::Refused(Family::V4, "-j TRACE --foo", "no option `--foo`"),
    ],
};

impl Action for Trace {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Trace
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, _: &mut String) {}
}
