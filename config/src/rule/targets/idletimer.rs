//! `-j IDLETIMER`: a packet starts a named timer anew; what sees no packet for its time is told to have run out
//! (`xt_IDLETIMER.c`). The next rule follows.
//!
//! A label is one timer for both families, all tables and all rules; each rule gives it its own time. It begins with the
//! ruleset that first names it, and goes on through those after it. `sumun timers` shows what `/sys/class/xt_idletimer` does.
//! `--alarm` asks for a clock that wakes a machine which sleeps; a router does not sleep, so the timer is the same, but rules of
//! one label must agree on it.
//!
//! TOML: `{ in = "lan0", target = "IDLETIMER", timeout = 300, label = "lan" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::object::{self, Kind, Object, Shared};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Idletimer {
    /// The timer's name.
    pub label: String,
    /// What it has from a packet on.
    pub timer: Timer,
    /// Number of the timer.
    pub object: u32,
}

/// A timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timer {
    /// Seconds that it has at first.
    pub seconds: u32,
    /// `--alarm`
    pub alarm: bool,
}

/// Bytes of the longest label (`MAX_IDLETIMER_LABEL_SIZE` less one).
const MAX_LABEL: usize = 27;
/// The kernel counts milliseconds in 31 bits.
const MAX_SECONDS: u32 = i32::MAX as u32 / 1000 - 1;

const TIMEOUT: usize = 0;
const LABEL: usize = 1;
const ALARM: usize = 2;

/// IDLETIMER
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "IDLETIMER",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("timeout", &[]).about("SECONDS", "how long the timer runs from the packet on"),
        Opt::plain("label", &[]).about("NAME", "the timer"),
        Opt::flag("alarm", &[]).about("", "it would wake a machine that sleeps"),
    ],
    build,
    summary: "Starts a named timer anew; that it has run out is told.",
    example: r#"{ in = "lan0", target = "IDLETIMER", timeout = 300, label = "lan" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j IDLETIMER --timeout 5 --label sumun-a", "="),
        Case::Prints(Family::V6, "-j IDLETIMER --label sumun-a --timeout 1", "-j IDLETIMER --timeout 1 --label sumun-a"),
        Case::Prints(Family::V4, "-j IDLETIMER --label sumun-a --timeout 0x10", "-j IDLETIMER --timeout 16 --label sumun-a"),
        Case::Prints(Family::V4, "-j IDLETIMER --timeout 2147482 --label sumun-a", "="),
        Case::Prints(Family::V4, "-j IDLETIMER --alarm --label sumun-b --timeout 5", "-j IDLETIMER --timeout 5 --label sumun-b --alarm"),
        Case::Prints(Family::V6, "-i lan0 -j IDLETIMER --timeout 5 --label sumun-b --alarm", "="),
        Case::Prints(Family::V4, "-j IDLETIMER --timeout 5 --label sumun-789012345678901234567", "="),
        Case::Refused(Family::V4, "-j IDLETIMER", "IDLETIMER asks for --timeout"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a", "IDLETIMER asks for --timeout"),
        Case::Refused(Family::V4, "-j IDLETIMER --timeout 5", "IDLETIMER asks for --label"),
        Case::Refused(Family::V4, "-j IDLETIMER --timeout 5 --alarm", "IDLETIMER asks for --label"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a --timeout 0", "`0` is not a number of seconds"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a --timeout 2147483", "`2147483` is not a number of seconds"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a --timeout -1", "`-1` is not a number of seconds"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a --timeout 5x", "`5x` is not a number of seconds"),
        Case::Refused(Family::V4, "-j IDLETIMER --label sumun-7890123456789012345678 --timeout 5", "is not a name"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a --timeout 5 --timeout 6", "given twice"),
        Case::Refused(Family::V4, "-j IDLETIMER ! --label a --timeout 5", "cannot be negated"),
        Case::Refused(Family::V4, "-j IDLETIMER --label a --timeout 5 ! --alarm", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let Some(seconds) = given.value(TIMEOUT) else { return Err(given.complain("IDLETIMER asks for --timeout")) };
    let Some(label) = given.value(LABEL) else { return Err(given.complain("IDLETIMER asks for --label")) };
    let seconds = number(seconds, "a number of seconds", 1..=MAX_SECONDS.into())? as u32;
    let label = object::read_name(label, MAX_LABEL)?;
    let alarm = given.get(ALARM).is_some();
    Ok(Target::Idletimer(Idletimer { label, timer: Timer { seconds, alarm }, object: 0 }))
}

impl Shared for Timer {
    fn join(&mut self, other: &Timer) -> Result<(), String> {
        if self.alarm != other.alarm {
            return Err("another rule wants it with --alarm, or without".to_string());
        }
        Ok(())
    }

    fn goes_on_from(&self, before: &Timer) -> bool {
        self.alarm == before.alarm
    }

    fn verify(&self) -> Result<(), String> {
        match self.seconds {
            1..=MAX_SECONDS => Ok(()),
            seconds => Err(format!("a timer of {seconds} seconds")),
        }
    }

    fn memory(&self) -> u64 {
        64
    }
}

impl Action for Idletimer {
    #[inline]
    fn act(&self, _: &Facts, cx: &Context) -> Effect<'_> {
        cx.around.start_timer(self.object, self.timer.seconds, cx.now);
        Effect::Continue
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let _ = write!(out, " --timeout {} --label {}", self.timer.seconds, self.label);
        if self.timer.alarm {
            out.push_str(" --alarm");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match object::is_name(&self.label, MAX_LABEL) {
            true => self.timer.verify(),
            false => Err("a timer with a label that it cannot have".to_string()),
        }
    }

    fn objects(&self) -> Vec<(Object, u32)> {
        let object = Object { name: self.label.clone(), family: None, kind: Kind::Timer(self.timer) };
        vec![(object, self.object)]
    }

    fn set_objects(&mut self, numbers: &[u32]) {
        self.object = numbers.first().copied().unwrap_or(self.object);
    }
}
