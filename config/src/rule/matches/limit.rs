//! `-m limit`: holds at most so often, after a burst (`xt_limit.c`). One bucket for each rule, whatever the packets.
//!
//! The bucket holds credits; time adds 32,000 a second up to the burst's worth, a packet takes its cost or does not match.
//! The costs are rounded as the kernel rounds them with HZ 250 or 1000. Where the kernel's 32 bits would overflow (a day's
//! burst), this counts on, as nftables does.
//!
//! The cell holds the time, in credits, since when the bucket fills: time minus credit. So an idle bucket needs no
//! upkeep, one compare-and-swap takes a packet's cost exactly under any number of workers, and a cell of 0 is a full
//! bucket: `FULL` stands before every burst.
//!
//! TOML: `{ limit = "5/sec", limit-burst = 10, jump = "LOG" }`

use super::{Condition, Match};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// `--limit`, `--limit-burst`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Time between packets, in 1/10,000 seconds.
    pub period: u32,
    /// Packets that may come at once.
    pub burst: u16,
    /// Number of its cell.
    pub cell: u32,
}

/// Units of [`Limit::period`] in a second.
const SCALE: u32 = 10_000;
/// Credits that a second adds.
const CREDITS: u64 = 32_000;
/// Nanoseconds for one credit.
const NS_PER_CREDIT: u64 = 1_000_000_000 / CREDITS;
/// Periods above this are rounded down to whole seconds.
const WHOLE_SECONDS: u64 = u32::MAX as u64 / CREDITS;
/// More credits than any burst is worth: time in the cell begins here.
const FULL: u64 = 1 << 48;

const DEFAULT_BURST: u16 = 5;
const MAX_BURST: u16 = 10_000;
const MAX_PERIOD: u32 = 24 * 60 * 60 * SCALE;

/// Units of time: the name, the name as printed, and its length in seconds.
const UNITS: [(&str, &str, u64); 4] =
    [("day", "day", 24 * 60 * 60), ("hour", "hour", 60 * 60), ("minute", "min", 60), ("second", "sec", 1)];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "limit",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("limit", &[]).about("COUNT[/second|/minute|/hour|/day]", "at most so often; 3/hour where it is not said"),
        Opt::plain("limit-burst", &[]).about("COUNT", "so many at once, before the rate counts; 5 where it is not said"),
    ],
    build,
    summary: "holds at most so often, after a burst",
    example: r#"{ limit = "5/sec", limit-burst = 10, jump = "LOG" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m limit", "-m limit --limit 3/hour"),
        Case::Prints(Family::V6, "-m limit --limit 5/sec", "="),
        Case::Prints(Family::V4, "-m limit --limit 5/s", "-m limit --limit 5/sec"),
        Case::Prints(Family::V4, "-m limit --limit 5", "-m limit --limit 5/sec"),
        Case::Prints(Family::V4, "-m limit --limit 5/SECOND", "-m limit --limit 5/sec"),
        Case::Prints(Family::V4, "-m limit --limit 7/minute", "-m limit --limit 7/min"),
        Case::Prints(Family::V4, "-m limit --limit 60/min", "-m limit --limit 1/sec"),
        Case::Prints(Family::V4, "-m limit --limit 90/min", "="),
        Case::Prints(Family::V4, "-m limit --limit 24/day", "-m limit --limit 1/hour"),
        Case::Prints(Family::V4, "-m limit --limit 1000000/day", "-m limit --limit 694/min"),
        Case::Prints(Family::V4, "-m limit --limit 3333/sec", "="),
        Case::Prints(Family::V4, "-m limit --limit 10000/sec", "="),
        Case::Prints(Family::V4, "-m limit --limit 999/hour", "="),
        Case::Prints(Family::V4, "-m limit --limit 1/d --limit-burst 1", "-m limit --limit 1/day --limit-burst 1"),
        Case::Prints(Family::V4, "-m limit --limit-burst 0x10", "-m limit --limit 3/hour --limit-burst 16"),
        Case::Prints(Family::V4, "-m limit --limit 5/sec --limit-burst 5", "-m limit --limit 5/sec"),
        Case::Prints(Family::V4, "-m limit --limit 1/day --limit-burst 10000", "="),
        Case::Refused(Family::V4, "-m limit --limit 10001/sec", "is too fast"),
        Case::Refused(Family::V4, "-m limit --limit 0/sec", "`0/sec` is not a rate"),
        Case::Refused(Family::V4, "-m limit --limit -1/sec", "`-1/sec` is not a rate"),
        Case::Refused(Family::V4, "-m limit --limit 3/hours", "`3/hours` is not a rate"),
        Case::Refused(Family::V4, "-m limit --limit 3/", "`3/` is not a rate"),
        Case::Refused(Family::V4, "-m limit --limit 5/sec --limit-burst 0", "`0` is not a burst"),
        Case::Refused(Family::V4, "-m limit --limit 5/sec --limit-burst 10001", "`10001` is not a burst"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let period = match given.value(0) {
        Some(word) => parse_rate(word, SCALE.into())?.0 as u32,
        None => MAX_PERIOD / 24 / 3,
    };
    let burst = match given.value(1) {
        Some(word) => word::number(word, "a burst", 1..=MAX_BURST as u64)? as u16,
        None => DEFAULT_BURST,
    };
    Ok(vec![Cond::new(false, Match::Limit(Limit { period, burst, cell: 0 }))])
}

/// The period of `COUNT[/UNIT]`, where the unit's beginning is enough, with so many of its units in a second; and the
/// length of the unit in seconds.
pub(super) fn parse_rate(word: &Word, scale: u64) -> Result<(u64, u64), Complaint> {
    let (count, unit) = word.text.split_once('/').unwrap_or((&word.text, "second"));
    let unit = unit.to_ascii_lowercase();
    let length =
        UNITS.iter().find(|(name, ..)| !unit.is_empty() && name.starts_with(&unit)).map(|&(_, _, length)| length);
    let digits = count.chars().all(|c| c.is_ascii_digit());
    let count = digits.then(|| count.parse::<u32>().ok()).flatten().filter(|&n| n > 0);
    let (Some(length), Some(count)) = (length, count) else {
        return Err(word.complain(
            format!("`{}` is not a rate", word.text),
            "a number of packets and second, minute, hour or day, such as 5/second or 3/hour",
        ));
    };
    match length * scale / u64::from(count) {
        0 => Err(word.complain(format!("`{}` is too fast", word.text), format!("at most {scale}/second"))),
        period => Ok((period, length)),
    }
}

/// Writes a rate in the smallest unit in which it is nearly whole, as libxt_limit's print_rate chooses it; the length of
/// the unit in seconds.
pub(super) fn print_rate(out: &mut String, period: u64, scale: u64) -> u64 {
    let period = period.max(1);
    let length = |unit: &(_, _, u64)| unit.2 * scale;
    let nearly = UNITS[1..].iter().take_while(|unit| period <= length(unit) && length(unit) / period >= length(unit) % period);
    let (_, name, seconds) = nearly.last().unwrap_or(&UNITS[0]);
    let _ = write!(out, " {}/{name}", seconds * scale / period);
    *seconds
}

/// What a span in 1/10,000 seconds is worth.
fn credits(span: u64) -> u64 {
    if span > WHOLE_SECONDS { span / SCALE as u64 * CREDITS } else { span * CREDITS / SCALE as u64 }
}

impl Condition for Limit {
    #[inline]
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let Some(cell) = cx.cells.get(self.cell as usize) else { return Outcome::Never };
        let cost = credits(self.period as u64);
        let most = credits(self.period as u64 * self.burst as u64);
        let now = cx.now / NS_PER_CREDIT + FULL;
        // The cell guards no other memory: Relaxed is enough.
        let mut since = cell.load(Ordering::Relaxed);
        loop {
            // Another worker's clock reading may be ahead of this one's.
            let credit = now.saturating_sub(since).min(most);
            if credit < cost {
                return Outcome::No;
            }
            let left = now - (credit - cost);
            match cell.compare_exchange_weak(since, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Outcome::Yes,
                Err(newer) => since = newer,
            }
        }
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        out.push_str(" --limit");
        print_rate(out, self.period.into(), SCALE.into());
        if self.burst != DEFAULT_BURST {
            let _ = write!(out, " --limit-burst {}", self.burst);
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if !(1..=MAX_PERIOD).contains(&self.period) || !(1..=MAX_BURST).contains(&self.burst) {
            return Err("a limit out of range".to_string());
        }
        Ok(())
    }

    fn cell(&self) -> Option<u32> {
        Some(self.cell)
    }

    fn cell_mut(&mut self) -> Option<&mut u32> {
        Some(&mut self.cell)
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use crate::facts::{AddrType, PortId, Surroundings};
    use std::sync::atomic::AtomicU64;

    const MS: u64 = 1_000_000;

    fn hits(judge: &Judge, at: u64, tries: usize) -> usize {
        judge.now.set(at);
        (0..tries).filter(|_| judge.ask(&Facts::blank(Family::V4), &[]) == Outcome::Yes).count()
    }

    #[test]
    fn the_burst_comes_first_and_then_one_in_each_period() {
        for start in [0, 1, 5_000 * MS, u64::MAX / 2] {
            let judge = Judge::new(Family::V4, "-m limit --limit 10/sec --limit-burst 3");
            assert_eq!(hits(&judge, start, 10), 3);
            assert_eq!(hits(&judge, start + 99 * MS, 10), 0);
            assert_eq!(hits(&judge, start + 101 * MS, 10), 1);
            assert_eq!(hits(&judge, start + 199 * MS, 10), 0);
            assert_eq!(hits(&judge, start + 201 * MS, 10), 1);
            assert_eq!(hits(&judge, start + 406 * MS, 10), 2);
            assert_eq!(hits(&judge, start + 60_000 * MS, 10), 3, "no more than the burst is saved");
            assert_eq!(hits(&judge, start + 60_000 * MS + 100 * 86_400_000 * MS, 10), 3, "after a hundred days too");
        }
    }

    #[test]
    fn a_burst_rounded_down_to_whole_seconds_is_short_as_in_the_kernel() {
        let judge = Judge::new(Family::V4, "-m limit --limit 7/min --limit-burst 2");
        assert_eq!(hits(&judge, 0, 5), 1);
    }

    #[test]
    fn a_clock_reading_of_the_past_gains_nothing() {
        let judge = Judge::new(Family::V4, "-m limit --limit 1/sec --limit-burst 1");
        assert_eq!(hits(&judge, 10_000 * MS, 2), 1);
        assert_eq!(hits(&judge, 0, 2), 0);
        assert_eq!(hits(&judge, 10_999 * MS, 2), 0);
        assert_eq!(hits(&judge, 11_001 * MS, 2), 1);
    }

    #[test]
    fn costs_are_rounded_as_the_kernel_rounds_them() {
        // 10000/sec; 7/min; 1000/day, which is rounded down to whole seconds; a burst that overflows the kernel's 32 bits
        for (span, expected) in
            [(1, 3), (85_714, 274_284), (864_000, 86 * 32_000), (864_000_000 * 10_000, 864_000_000 * 32_000)]
        {
            assert_eq!(credits(span), expected);
        }
        assert!(credits(MAX_PERIOD as u64 * MAX_BURST as u64) < FULL);
    }

    struct Nowhere;
    impl Surroundings for Nowhere {
        fn addr_type(&self, _: Family, _: u128, _: PortId) -> AddrType {
            AddrType::Unspec
        }
        fn random(&self) -> u32 {
            0
        }
        fn path_mtu(&self, _: &Facts, _: bool) -> u16 {
            0
        }
        fn port_address(&self, _: PortId, _: Family, _: u128) -> Option<u128> {
            None
        }
    }

    #[test]
    fn several_workers_together_get_exactly_the_burst() {
        let cells = [AtomicU64::new(0)];
        let limit = Limit { period: SCALE, burst: 1000, cell: 0 };
        let total: usize = std::thread::scope(|scope| {
            let worker = || {
                let cx = Context { l3: &[], now: 7, wall: 0, around: &Nowhere, cells: &cells };
                (0..1000).filter(|_| limit.test(&Facts::blank(Family::V4), &cx) == Outcome::Yes).count()
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|t| t.join().expect("a worker ends")).sum()
        });
        assert_eq!(total, 1000);
    }

    #[test]
    fn a_cell_that_is_not_there_never_matches_and_values_out_of_range_do_not_verify() {
        let limit = Limit { period: SCALE, burst: 1, cell: 3 };
        let cx = Context { l3: &[], now: 7, wall: 0, around: &Nowhere, cells: &[] };
        assert_eq!(limit.test(&Facts::blank(Family::V4), &cx), Outcome::Never);
        for limit in [Limit { period: 0, ..limit }, Limit { burst: 0, ..limit }, Limit { burst: 10_001, ..limit }] {
            assert!(limit.verify(Family::V4).is_err());
        }
    }
}
