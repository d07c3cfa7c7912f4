//! An estimator of RATEEST: what was counted, and the average of its rate (`gen_estimator.c`).
//!
//! The kernel has a timer for each estimator. Here who counts or asks first looks whether the interval is over, and makes up for
//! all intervals that are: everything counted until then came in the first of them. One worker does that at a time, and
//! the others count on meanwhile.

use super::Turn;
use crate::conntrack::tuple::Hasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sumun_config::rule::matches::rateest::Rate;
use sumun_config::rule::targets::rateest::{self, Average};

/// Nanoseconds of the shortest interval.
const QUARTER: u64 = 250_000_000;
/// Bits behind the point of an average.
const FRACTION: u32 = 8;
/// Intervals without a packet that are gone through one by one.
const STEPS: u64 = 4096;

/// An estimator.
pub struct Estimator {
    /// None where no rule counts for it.
    average: Option<Average>,
    bytes: AtomicU64,
    packets: AtomicU64,
    /// The rates, with [`FRACTION`].
    rates: [AtomicU64; 2],
    /// When the interval is over; 0 before the first packet or question.
    until: AtomicU64,
    /// What was counted when the last interval was over.
    last: Turn<[u64; 2]>,
}

impl Estimator {
    /// One that has seen nothing.
    pub fn new(like: &rateest::Estimator, _: Hasher) -> Estimator {
        Estimator {
            average: like.0,
            bytes: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            rates: [AtomicU64::new(0), AtomicU64::new(0)],
            until: AtomicU64::new(0),
            last: Turn::new([0; 2]),
        }
    }

    /// Counts a packet.
    pub fn count(&self, bytes: u16, now: u64) {
        self.keep_up(now);
        self.bytes.fetch_add(bytes.into(), Relaxed);
        self.packets.fetch_add(1, Relaxed);
    }

    /// The rates.
    pub fn rate(&self, now: u64) -> Rate {
        self.keep_up(now);
        let [bytes, packets] = [0, 1].map(|i| self.rates[i].load(Relaxed) >> FRACTION);
        Rate { bytes, packets }
    }

    #[inline]
    fn keep_up(&self, now: u64) {
        if now >= self.until.load(Relaxed) {
            self.make_up(now);
        }
    }

    #[cold]
    fn make_up(&self, now: u64) {
        let Some(Average { interval, log }) = self.average else { return };
        let mut last = self.last.take();
        let (until, every) = (self.until.load(Relaxed), QUARTER << interval);
        if until == 0 {
            return self.until.store(now.saturating_add(every), Relaxed);
        }
        // Another worker may have done it while this one waited.
        let Some(late) = now.checked_sub(until) else { return };
        let counted = [self.bytes.load(Relaxed), self.packets.load(Relaxed)];
        for (i, rate) in self.rates.iter().enumerate() {
            let came = counted[i].wrapping_sub(last[i]) << (FRACTION + 2 - u32::from(interval));
            let average = rate.load(Relaxed);
            let average = average.wrapping_add(came >> log).wrapping_sub(average >> log);
            rate.store(faded(average, log, late / every), Relaxed);
        }
        *last = counted;
        self.until.store(until.saturating_add((late / every + 1).saturating_mul(every)), Relaxed);
    }
}

/// An average after so many intervals in which nothing came.
fn faded(mut average: u64, log: u8, intervals: u64) -> u64 {
    for _ in 0..intervals.min(STEPS) {
        if average >> log == 0 {
            return average;
        }
        average -= average >> log;
    }
    match intervals.saturating_sub(STEPS) {
        0 => average,
        // What is less than its weight does not fade any more: no step takes a whole unit from it.
        more => ((average as f64 * (1.0 - 0.5f64.powi(log.into())).powf(more as f64)) as u64).max((1 << log) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn estimator(interval: u8, log: u8) -> Estimator {
        let estimator = Estimator::new(&rateest::Estimator(Some(Average { interval, log })), Hasher::new(1));
        assert_eq!(estimator.rate(1), Rate::default());
        estimator
    }

    #[test]
    fn the_average_moves_by_its_weight_at_the_end_of_each_interval() {
        // Every quarter of a second ten packets of 100 bytes: 4,000 bytes and 40 packets a second.
        let estimator = estimator(0, 1);
        let mut seen = Vec::new();
        for quarter in 0..6u64 {
            for n in 0..10 {
                estimator.count(100, quarter * 250 * MS + 2 + n * MS);
            }
            seen.push(estimator.rate(quarter * 250 * MS + 200 * MS));
        }
        let bytes: Vec<u64> = seen.iter().map(|rate| rate.bytes).collect();
        assert_eq!(bytes, [0, 2000, 3000, 3500, 3750, 3875]);
        let packets: Vec<u64> = seen.iter().map(|rate| rate.packets).collect();
        assert_eq!(packets, [0, 20, 30, 35, 37, 38]);
    }

    #[test]
    fn longer_intervals_count_by_the_second_too() {
        let estimator = estimator(5, 2);
        (0..80).for_each(|n| estimator.count(1000, 2 + n * 90 * MS));
        // 80,000 bytes in eight seconds, of which the average takes a quarter.
        assert_eq!(estimator.rate(8_001 * MS), Rate { bytes: 2500, packets: 2 });
    }

    #[test]
    fn what_is_made_up_for_is_the_same_as_what_was_done_in_time() {
        let (often, late) = (estimator(0, 3), estimator(0, 3));
        for estimator in [&often, &late] {
            (0..100).for_each(|n| estimator.count(1500, 2 + n * MS));
        }
        for quarter in 1..200 {
            let now = quarter * 250 * MS + 2;
            let rate = often.rate(now);
            if quarter % 37 == 0 {
                assert_eq!(late.rate(now), rate, "{quarter}");
            }
        }
        assert_eq!(late.rate(u64::MAX / 2), Rate::default());
    }

    #[test]
    fn fading_in_one_go_is_as_fading_step_by_step() {
        for log in [1, 8, 16] {
            let mut average = 1u64 << 50;
            (0..2 * STEPS).for_each(|_| average -= average >> log);
            let faded = faded(1 << 50, log, 2 * STEPS);
            assert!(faded.abs_diff(average) <= 2 + (average >> 20), "{log}: {faded} {average}");
        }
    }

    #[test]
    fn several_workers_count_every_packet() {
        let estimator = estimator(0, 1);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..10_000).for_each(|n| estimator.count(1, 2 + n)));
            }
        });
        assert_eq!(estimator.rate(250 * MS + 2).packets, 60_000);
    }

    #[test]
    fn nobody_counts_for_an_estimator_that_no_rule_makes() {
        let estimator = Estimator::new(&rateest::Estimator(None), Hasher::new(1));
        estimator.count(100, 5);
        assert_eq!(estimator.rate(u64::MAX), Rate::default());
    }
}
