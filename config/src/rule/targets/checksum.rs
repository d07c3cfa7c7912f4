//! `-j CHECKSUM --checksum-fill`, in table `mangle`: computes the checksum of a packet whose sender left that to its device.
//!
//! Packets that come over a link have their checksums, and the router's own are complete when they are made: there is never
//! anything to fill in, as the kernel finds nothing in packets from a wire. So a rule with it only counts.
//! TOML: `{ out = "lan0", protocol = "udp", dport = 68, target = "CHECKSUM", checksum-fill = true }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checksum;

/// CHECKSUM
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "CHECKSUM",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Mangle],
    hooks: ANY_HOOK,
    options: &[Opt::flag("checksum-fill", &[]).about("", "computes the checksum where it is not there yet: it always is here")],
    build,
    summary: "Fills in checksums that were left to a device; here none ever are.",
    example: r#"{ out = "lan0", protocol = "udp", dport = 68, target = "CHECKSUM", checksum-fill = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-j CHECKSUM --checksum-fill", "="),
        Case::Prints(Family::V6, "-p udp -j CHECKSUM --checksum-fill", "="),
        Case::Refused(Family::V4, "-j CHECKSUM", "CHECKSUM needs --checksum-fill"),
        Case::Refused(Family::V4, "-j CHECKSUM ! --checksum-fill", "cannot be negated"),
        Case::Refused(Family::V4, "-j CHECKSUM --checksum-fill --checksum-fill", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    match given.get(0) {
        Some(_) => Ok(Target::Checksum(Checksum)),
        None => Err(given.lacks("checksum-fill")),
    }
}

impl Action for Checksum {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Continue
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        out.push_str(" --checksum-fill");
    }
}
