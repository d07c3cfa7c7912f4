//! `-j DSCP --set-dscp N | --set-dscp-class NAME`, in table `mangle`: the upper six bits of the TOS byte or traffic class.
//! The two ECN bits stay.
//!
//! TOML: `{ protocol = "udp", dport = 5060, target = "DSCP", set-dscp-class = "EF" }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::{named, number};
use crate::rule::{Effect, Families, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The new code point, 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dscp(pub u8);

/// RFC 2474 (CS), RFC 2597 (AF), RFC 3246 (EF).
const CLASSES: &[(&str, u8)] = &[
    ("CS0", 0x00),
    ("CS1", 0x08),
    ("CS2", 0x10),
    ("CS3", 0x18),
    ("CS4", 0x20),
    ("CS5", 0x28),
    ("CS6", 0x30),
    ("CS7", 0x38),
    ("BE", 0x00),
    ("AF11", 0x0a),
    ("AF12", 0x0c),
    ("AF13", 0x0e),
    ("AF21", 0x12),
    ("AF22", 0x14),
    ("AF23", 0x16),
    ("AF31", 0x1a),
    ("AF32", 0x1c),
    ("AF33", 0x1e),
    ("AF41", 0x22),
    ("AF42", 0x24),
    ("AF43", 0x26),
    ("EF", 0x2e),
];

const OPTIONS: [Opt; 2] = [Opt::plain("set-dscp", &[]).about("0..63", "sets the code point to this number"), Opt::plain("set-dscp-class", &[]).about("CLASS", "sets it to that of a class: CS0 to CS7, BE, AF11 to AF43, EF")];

/// DSCP
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "DSCP",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Mangle],
    hooks: ANY_HOOK,
    options: &OPTIONS,
    build,
    summary: "Sets the differentiated-services code point.",
    example: r#"{ protocol = "udp", dport = 5060, target = "DSCP", set-dscp-class = "EF" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j DSCP --set-dscp 0", "-j DSCP --set-dscp 0x00"),
        Case::Prints(Family::V4, "-j DSCP --set-dscp 46", "-j DSCP --set-dscp 0x2e"),
        Case::Prints(Family::V6, "-j DSCP --set-dscp-class ef", "-j DSCP --set-dscp 0x2e"),
        Case::Prints(Family::V4, "-j DSCP --set-dscp-class BE", "-j DSCP --set-dscp 0x00"),
        Case::Prints(Family::V4, "-j DSCP --set-dscp-class AF11", "-j DSCP --set-dscp 0x0a"),
        Case::Prints(Family::V4, "-j DSCP --set-dscp-class CS7", "-j DSCP --set-dscp 0x38"),
        Case::Refused(Family::V4, "-j DSCP", "needs one of"),
        Case::Refused(Family::V4, "-j DSCP --set-dscp 64", "not a code point"),
        Case::Refused(Family::V4, "-j DSCP --set-dscp-class AF44", "not a class"),
        Case::Refused(Family::V4, "-j DSCP --set-dscp 1 --set-dscp-class EF", "cannot stand with"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[0, 1])?;
    let point = match (given.value(0), given.value(1)) {
        (Some(word), _) => number(word, "a code point", 0..=63)? as u8,
        (None, Some(word)) => named(word, "a class", CLASSES)?,
        (None, None) => return Err(mark::needs(given, &OPTIONS)),
    };
    Ok(Target::Dscp(Dscp(point)))
}

impl Action for Dscp {
    #[inline]
    fn act(&self, facts: &Facts, _: &Context) -> Effect<'_> {
        Effect::Tos(facts.tos & 0b11 | self.0 << 2)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let _ = write!(out, " --set-dscp {:#04x}", self.0);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.0 > 63 { Err(format!("DSCP {} is more than 63", self.0)) } else { Ok(()) }
    }
}
