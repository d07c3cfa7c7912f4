//! `-j NFLOG`: the packet itself to whoever listens to a group: `sumun nflog --group N`. The next rule follows.
//!
//! Where nobody listens nothing happens, as in the kernel. `--nflog-size` says how much of the packet is told at most;
//! `--nflog-range` has the kernel ignored for ever, and `--nflog-threshold` asks it to wait for so many packets: here what there is
//! is told at once.
//! TOML: `{ in = "wan0", target = "NFLOG", nflog-group = 5, nflog-prefix = "refused: " }`.

use super::{Action, Target, log, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::{number, print_text};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Most bytes of a prefix: `struct xt_nflog_info` holds 64 with the terminating zero.
pub const MAX_PREFIX: usize = 63;

/// The target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nflog {
    /// Stands before the line; at most 63 bytes.
    pub prefix: String,
    /// Who listens to this group is told.
    pub group: u16,
    /// Most bytes of the packet that are told.
    pub size: Option<u32>,
    /// `--nflog-range`, which does nothing.
    pub range: u32,
    /// `--nflog-threshold`, which has nothing to do here.
    pub threshold: u16,
}

const PREFIX: usize = 0;
const GROUP: usize = 1;
const SIZE: usize = 2;
const RANGE: usize = 3;
const THRESHOLD: usize = 4;

/// NFLOG
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "NFLOG",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("nflog-prefix", &[]).about("TEXT", "stands before the line; at most 63 bytes"),
        Opt::plain("nflog-group", &[]).about("NUMBER", "who listens to this group is told; 0 where it is not given"),
        Opt::plain("nflog-size", &[]).about("BYTES", "tells at most so much of the packet"),
        Opt::plain("nflog-range", &[]).about("BYTES", "does nothing, as in the kernel: --nflog-size is meant"),
        Opt::plain("nflog-threshold", &[]).about("PACKETS", "the kernel waits for so many; here all are told at once"),
    ],
    build,
    summary: "Tells who listens (`sumun nflog`) of the packet and goes on to the next rule.",
    example: r#"{ in = "wan0", target = "NFLOG", nflog-group = 5, nflog-prefix = "refused: " }"#,
    cases: &[
        Case::Prints(Family::V4, "-j NFLOG", "="),
        Case::Prints(Family::V4, "-j NFLOG --nflog-group 0", "-j NFLOG"),
        Case::Prints(Family::V6, "-j NFLOG --nflog-group 65535", "="),
        Case::Prints(Family::V4, "-j NFLOG --nflog-group 0x10", "-j NFLOG --nflog-group 16"),
        Case::Prints(Family::V4, "-j NFLOG --nflog-prefix x", "="),
        Case::Prints(
            Family::V4,
            r#"-j NFLOG --nflog-threshold 10 --nflog-size 64 --nflog-group 5 --nflog-prefix "hello world""#,
            r#"-j NFLOG --nflog-prefix "hello world" --nflog-group 5 --nflog-size 64 --nflog-threshold 10"#,
        ),
        Case::Prints(
            Family::V6,
            "-j NFLOG --nflog-prefix 123456789012345678901234567890123456789012345678901234567890123",
            "=",
        ),
        Case::Prints(Family::V4, "-j NFLOG --nflog-size 0", "="),
        Case::Prints(Family::V4, "-j NFLOG --nflog-size 4294967295", "="),
        Case::Prints(Family::V4, "-j NFLOG --nflog-range 64", "="),
        Case::Prints(Family::V4, "-j NFLOG --nflog-range 0", "-j NFLOG"),
        Case::Prints(Family::V4, "-j NFLOG --nflog-threshold 65535", "="),
        Case::Prints(Family::V4, "-j NFLOG --nflog-threshold 0", "-j NFLOG"),
        Case::Refused(Family::V4, "-j NFLOG --nflog-group 65536", "`65536` is not a group"),
        Case::Refused(Family::V4, "-j NFLOG --nflog-prefix ''", "empty"),
        Case::Refused(
            Family::V4,
            "-j NFLOG --nflog-prefix 1234567890123456789012345678901234567890123456789012345678901234",
            "64 bytes",
        ),
        Case::Refused(Family::V4, "-j NFLOG --nflog-size 4294967296", "`4294967296` is not a size"),
        Case::Refused(Family::V4, "-j NFLOG --nflog-range -1", "`-1` is not a size"),
        Case::Refused(Family::V4, "-j NFLOG --nflog-threshold 65536", "`65536` is not a number of packets"),
        Case::Refused(Family::V4, "-j NFLOG --nflog-size 64 --nflog-range 32", "cannot stand with"),
        Case::Refused(Family::V6, "-j NFLOG ! --nflog-group 1", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[SIZE, RANGE])?;
    let read = |option, what, most| given.value(option).map(|word| number(word, what, 0..=most)).transpose();
    let short = |option, what| read(option, what, u16::MAX.into()).map(|n| n.map_or(0, |n| n as u16));
    let size = |option| read(option, "a size", u32::MAX.into()).map(|n| n.map(|n| n as u32));
    Ok(Target::Nflog(Nflog {
        prefix: given.value(PREFIX).map_or(Ok(String::new()), |word| log::read_prefix(word, MAX_PREFIX))?,
        group: short(GROUP, "a group")?,
        size: size(SIZE)?,
        range: size(RANGE)?.unwrap_or(0),
        threshold: short(THRESHOLD, "a number of packets")?,
    }))
}

impl Action for Nflog {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Nflog(self)
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        if !self.prefix.is_empty() {
            out.push_str(" --nflog-prefix ");
            print_text(out, &self.prefix);
        }
        let some = |number: u32| (number != 0).then_some(number);
        let numbers =
            [(GROUP, some(self.group.into())), (SIZE, self.size), (RANGE, some(self.range)), (THRESHOLD, some(self.threshold.into()))];
        for (option, number) in numbers {
            if let Some(number) = number {
                let _ = write!(out, " --{} {number}", EXTENSION.options[option].name);
            }
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let is_sound = log::is_prefix(&self.prefix, MAX_PREFIX) && (self.size.is_none() || self.range == 0);
        if is_sound { Ok(()) } else { Err("NFLOG with a prefix or a size that cannot be".to_string()) }
    }
}
