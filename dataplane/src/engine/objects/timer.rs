//! A timer of IDLETIMER: packets start it anew, the housekeeping thread sees it run out.

use crate::conntrack::tuple::Hasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sumun_config::rule::targets::idletimer;

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// [`Timer::until`] of a timer that has run out, and was told to have.
const TOLD: u64 = u64::MAX;

/// A timer.
pub struct Timer {
    like: idletimer::Timer,
    /// When it runs out; 0 before it was looked at first.
    until: AtomicU64,
}

impl Timer {
    /// One that begins when it is looked at first.
    pub fn new(like: &idletimer::Timer, _: Hasher) -> Timer {
        Timer { like: *like, until: AtomicU64::new(0) }
    }

    /// Starts it anew.
    #[inline]
    pub fn start(&self, seconds: u32, now: u64) {
        self.until.store(now.saturating_add(u64::from(seconds) * SECOND), Relaxed);
    }

    /// Whether it has run out since this was asked last. For one thread.
    pub fn runs_out(&self, now: u64) -> bool {
        match self.until.load(Relaxed) {
            0 => {
                let until = now.saturating_add(u64::from(self.like.seconds) * SECOND);
                // A packet may be first.
                let _ = self.until.compare_exchange(0, until, Relaxed, Relaxed);
                false
            }
            TOLD => false,
            until if until > now => false,
            // A packet that comes at this moment starts it anew, and it has not run out.
            until => self.until.compare_exchange(until, TOLD, Relaxed, Relaxed).is_ok(),
        }
    }

    /// Seconds that it has left; none where it has run out.
    pub fn left(&self, now: u64) -> Option<u32> {
        match self.until.load(Relaxed) {
            0 => Some(self.like.seconds),
            TOLD => None,
            until => until.checked_sub(now).filter(|left| *left > 0).map(|left| (left / SECOND) as u32),
        }
    }

    /// Whether its rules ask for a clock that wakes the machine.
    pub fn is_alarm(&self) -> bool {
        self.like.alarm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(seconds: u32) -> Timer {
        Timer::new(&idletimer::Timer { seconds, alarm: false }, Hasher::new(1))
    }

    #[test]
    fn it_begins_when_it_is_looked_at_and_runs_out_once() {
        let timer = timer(5);
        assert_eq!(timer.left(100 * SECOND), Some(5));
        assert!(!timer.runs_out(100 * SECOND));
        assert_eq!(timer.left(102 * SECOND + 1), Some(2));
        assert!(!timer.runs_out(105 * SECOND - 1));
        assert_eq!(timer.left(105 * SECOND), None);
        assert!(timer.runs_out(105 * SECOND));
        assert!(!timer.runs_out(200 * SECOND), "it was told");
        assert_eq!(timer.left(200 * SECOND), None);
    }

    #[test]
    fn each_packet_gives_it_the_time_of_its_rule() {
        let timer = timer(5);
        timer.start(9, 100 * SECOND);
        assert!(!timer.runs_out(108 * SECOND));
        timer.start(2, 108 * SECOND);
        assert_eq!(timer.left(109 * SECOND), Some(1));
        assert!(timer.runs_out(110 * SECOND));
        timer.start(2, 120 * SECOND);
        assert_eq!(timer.left(121 * SECOND), Some(1));
        assert!(timer.runs_out(122 * SECOND), "it has run out again");
    }
}
