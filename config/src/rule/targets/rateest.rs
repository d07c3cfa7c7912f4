//! `-j RATEEST`: counts a packet for a named estimator, which says at what rate packets and bytes come (`xt_RATEEST.c`). The
//! next rule follows; `-m rateest` asks the estimator.
//!
//! Every interval (a quarter of a second to eight seconds) the average moves towards the rate in it, by a power of two that
//! keeps it within the time constant. Names are shared by both families, all tables and all rules; rules of one name must
//! want the same of it.
//!
//! TOML: `{ out = "wan0", target = "RATEEST", rateest-name = "wan", rateest-interval = "250ms", rateest-ewmalog = "500ms" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::object::{self, Kind, Object, Shared};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rateest {
    /// The estimator's.
    pub name: String,
    /// How it averages.
    pub average: Average,
    /// Number of the estimator.
    pub object: u32,
}

/// How an estimator averages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Average {
    /// A quarter of a second, shifted by this, is its interval.
    pub interval: u8,
    /// A rate counts one to two to the power of this.
    pub log: u8,
}

/// An estimator; how it averages is known as soon as a rule counts for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Estimator(pub Option<Average>);

/// Bytes of the longest name (`IFNAMSIZ` less one).
pub const MAX_NAME: usize = 15;
/// The longest interval: eight seconds.
const MAX_INTERVAL: u8 = 5;
/// The largest shift (`gen_new_estimator`).
const MAX_LOG: u8 = 30;
/// Microseconds.
const QUARTER: u32 = 250_000;

const NAME: usize = 0;
const INTERVAL: usize = 1;
const EWMALOG: usize = 2;

/// RATEEST
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "RATEEST",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("rateest-name", &[]).about("NAME", "the estimator that counts the packet"),
        Opt::plain("rateest-interval", &[]).about("TIME", "how often it looks at what it counted: 250ms to 8s"),
        Opt::plain("rateest-ewmalog", &[]).about("TIME", "the time constant of its average"),
    ],
    build,
    summary: "Counts the packet for a named estimator of rates.",
    example: r#"{ target = "RATEEST", rateest-name = "wan", rateest-interval = "250ms", rateest-ewmalog = "500ms" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 250.0ms --rateest-ewmalog 500.0ms", "="),
        Case::Prints(Family::V6, "-j RATEEST --rateest-name a6 --rateest-interval 1.0s --rateest-ewmalog 2.0s", "="),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-ewmalog 2s --rateest-name b --rateest-interval 1s",
            "-j RATEEST --rateest-name b --rateest-interval 1.0s --rateest-ewmalog 2.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name c --rateest-interval 1 --rateest-ewmalog 2",
            "-j RATEEST --rateest-name c --rateest-interval 250.0ms --rateest-ewmalog 500.0ms",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name f --rateest-interval 3s --rateest-ewmalog 20s",
            "-j RATEEST --rateest-name f --rateest-interval 4.0s --rateest-ewmalog 16.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name g --rateest-interval 8s --rateest-ewmalog 16secs",
            "-j RATEEST --rateest-name g --rateest-interval 8.0s --rateest-ewmalog 16.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name i --rateest-interval 100000us --rateest-ewmalog 1500msec",
            "-j RATEEST --rateest-name i --rateest-interval 250.0ms --rateest-ewmalog 2.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name j --rateest-interval 0.5s --rateest-ewmalog 1.5sec",
            "-j RATEEST --rateest-name j --rateest-interval 500.0ms --rateest-ewmalog 1.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name l --rateest-interval 1usec --rateest-ewmalog 300usecs",
            "-j RATEEST --rateest-name l --rateest-interval 250.0ms --rateest-ewmalog 64.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name o --rateest-interval 0x1S --rateest-ewmalog 1e6MS",
            "-j RATEEST --rateest-name o --rateest-interval 1.0s --rateest-ewmalog 512.0s",
        ),
        Case::Prints(
            Family::V4,
            "-j RATEEST --rateest-name a23456789012345 --rateest-interval 500msecs --rateest-ewmalog 60s",
            "-j RATEEST --rateest-name a23456789012345 --rateest-interval 500.0ms --rateest-ewmalog 32.0s",
        ),
        Case::Prints(Family::V4, "-j RATEEST --rateest-name y --rateest-interval 1.0s --rateest-ewmalog 2.0s", "="),
        Case::Prints(Family::V6, "-j RATEEST --rateest-name z --rateest-interval 1.0s --rateest-ewmalog 2.0s", "="),
        Case::Refused(Family::V4, "-j RATEEST", "RATEEST asks for --rateest-name"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a", "RATEEST asks for --rateest-interval"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 1s", "RATEEST asks for --rateest-ewmalog"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-interval 1s --rateest-ewmalog 4s", "RATEEST asks for --rateest-name"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 9s --rateest-ewmalog 20s", "`9s` is too long"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval x --rateest-ewmalog 3s", "`x` is not a time"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 1d --rateest-ewmalog 3s", "`1d` is not a time"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 1s --rateest-ewmalog s", "`s` is not a time"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 8s --rateest-ewmalog 8s", "`8s` is no time constant"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-interval 0 --rateest-ewmalog 8s", "`8s` is no time constant"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a234567890123456 --rateest-interval 1s --rateest-ewmalog 2s", "is not a name"),
        Case::Refused(Family::V4, "-j RATEEST ! --rateest-name a --rateest-interval 1s --rateest-ewmalog 4s", "cannot be negated"),
        Case::Refused(Family::V4, "-j RATEEST --rateest-name a --rateest-name b --rateest-interval 1s --rateest-ewmalog 4s", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let wanted = |option: usize| {
        let asks = || given.complain(format!("RATEEST asks for --{}", EXTENSION.options[option].name));
        given.value(option).ok_or_else(asks)
    };
    let (name, interval, constant) = (wanted(NAME)?, wanted(INTERVAL)?, wanted(EWMALOG)?);
    let name = object::read_name(name, MAX_NAME)?;
    let every = read_time(interval)?;
    let shift = (0..=MAX_INTERVAL).find(|shift| every <= f64::from(QUARTER << shift));
    let shift = shift.ok_or_else(|| interval.complain(format!("`{}` is too long", interval.text), "at most 8s"))?;
    let log = log(every, read_time(constant)?).filter(|log| fits(shift, *log)).ok_or_else(|| {
        let found = format!("`{}` is no time constant for this interval", constant.text);
        constant.complain(found, "a time that is longer than the interval by half, at least, such as twice as long")
    })?;
    Ok(Target::Rateest(Rateest { name, average: Average { interval: shift, log }, object: 0 }))
}

/// Whether the time constant can be printed.
fn fits(interval: u8, log: u8) -> bool {
    u64::from(QUARTER) << interval.saturating_add(log).min(32) <= u64::from(u32::MAX)
}

/// Microseconds of a time, whose unit they are where it has none.
fn read_time(word: &Word) -> Result<f64, Complaint> {
    const UNITS: [(&str, f64); 10] = [
        ("s", 1e6),
        ("sec", 1e6),
        ("secs", 1e6),
        ("ms", 1e3),
        ("msec", 1e3),
        ("msecs", 1e3),
        ("us", 1.0),
        ("usec", 1.0),
        ("usecs", 1.0),
        ("", 1.0),
    ];
    let parse = || {
        let (number, unit) = split_number(&word.text)?;
        let (_, factor) = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?;
        let time = number * factor;
        (time <= f64::from(u32::MAX)).then(|| time.trunc())
    };
    parse().ok_or_else(|| {
        word.complain(format!("`{}` is not a time", word.text), "a number and s, ms or us, such as 250ms; at most 4294s")
    })
}

/// The number at the beginning of a text, as `strtod` finds one that is not negative, and the rest.
pub(crate) fn split_number(text: &str) -> Option<(f64, &str)> {
    if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        return u32::from_str_radix(&hex[..end], 16).ok().map(|number| (f64::from(number), &hex[end..]));
    }
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    // The longest beginning that is a number.
    let end = (1..=text.len()).rev().find(|&end| text.get(..end).is_some_and(|start| start.parse::<f64>().is_ok()))?;
    let number = text[..end].parse().ok().filter(|number: &f64| starts && number.is_finite())?;
    Some((number, &text[end..]))
}

/// By what power of two an average over intervals has this time constant, at most (`RATEEST_final_check`).
fn log(interval: f64, constant: f64) -> Option<u8> {
    let constant_of = |log: u8| interval / -(1.0 - 1.0 / f64::from(1u32 << log)).ln();
    let above = (1..=MAX_LOG + 1).find(|log| constant_of(*log) > constant)?;
    (above > 1).then_some(above - 1)
}

/// A time as iptables prints it.
fn print_time(out: &mut String, microseconds: u32) {
    let time = f64::from(microseconds);
    let _ = if time >= 1e6 { write!(out, "{:.1}s", time / 1e6) } else { write!(out, "{:.1}ms", time / 1e3) };
}

impl Average {
    /// Whether it is one that can be asked for.
    fn is_possible(self) -> bool {
        self.interval <= MAX_INTERVAL && (1..=MAX_LOG).contains(&self.log) && fits(self.interval, self.log)
    }
}

impl Shared for Estimator {
    fn join(&mut self, other: &Estimator) -> Result<(), String> {
        match (self.0, other.0) {
            (Some(own), Some(other)) if own != other => Err("another rule wants another interval or time constant".into()),
            (None, _) => {
                *self = *other;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn goes_on_from(&self, before: &Estimator) -> bool {
        self == before
    }

    fn verify(&self) -> Result<(), String> {
        match self.0 {
            Some(average) if !average.is_possible() => Err(format!("{average:?}")),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> u64 {
        128
    }

    fn lacks(&self) -> Option<&'static str> {
        self.0.is_none().then_some("no rule with -j RATEEST counts for it")
    }
}

/// An estimator of this name as an object.
pub(crate) fn estimator(name: &str, average: Option<Average>) -> Object {
    Object { name: name.to_string(), family: None, kind: Kind::Estimator(Estimator(average)) }
}

impl Action for Rateest {
    #[inline]
    fn act(&self, facts: &Facts, cx: &Context) -> Effect<'_> {
        cx.around.count_for(self.object, facts.len, cx.now);
        Effect::Continue
    }

    fn changes_packets(&self) -> bool {
        false
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let Average { interval, log } = self.average;
        let _ = write!(out, " --rateest-name {} --rateest-interval ", self.name);
        print_time(out, QUARTER << interval.min(MAX_INTERVAL));
        out.push_str(" --rateest-ewmalog ");
        print_time(out, (u64::from(QUARTER) << interval.saturating_add(log).min(32)) as u32);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if !object::is_name(&self.name, MAX_NAME) || !self.average.is_possible() {
            return Err("an estimator that cannot be".to_string());
        }
        Ok(())
    }

    fn objects(&self) -> Vec<(Object, u32)> {
        vec![(estimator(&self.name, Some(self.average)), self.object)]
    }

    fn set_objects(&mut self, numbers: &[u32]) {
        self.object = numbers.first().copied().unwrap_or(self.object);
    }
}
