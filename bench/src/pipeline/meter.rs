//! What the processor counts while it works, where it counts and tells (perf_event_open(2)).
//!
//! Only the program's own instructions count, not the kernel's, and only between the two calls around a burst. These take
//! longer than a clock does, so that rounds that are counted are not timed.

use super::lane::Watch;
use anyhow::{Context, Result};
use nix::errno::Errno;
use perf_event::events::{Event, Hardware};
use perf_event::{Builder, Counter, Group};
use serde::Serialize;
use std::io;

/// A packet's share of what was counted.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Counts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_misses: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch_misses: Option<f64>,
}

impl Counts {
    /// Of several workers.
    pub fn mean(all: &[Counts]) -> Counts {
        let mean = |of: fn(&Counts) -> Option<f64>| {
            let shares: Option<Vec<f64>> = all.iter().map(of).collect();
            shares.filter(|shares| !shares.is_empty()).map(|shares| shares.iter().sum::<f64>() / shares.len() as f64)
        };
        Counts {
            cycles: mean(|counts| counts.cycles),
            instructions: mean(|counts| counts.instructions),
            cache_misses: mean(|counts| counts.cache_misses),
            branch_misses: mean(|counts| counts.branch_misses),
        }
    }
}

/// In the order of [`Counts`].
const EVENTS: [Hardware; 4] =
    [Hardware::CPU_CYCLES, Hardware::INSTRUCTIONS, Hardware::CACHE_MISSES, Hardware::BRANCH_MISSES];

/// Counters of the thread that opened it.
pub struct Meter {
    group: Group,
    /// None for what this processor does not count.
    counters: Vec<Option<Counter>>,
    failure: Option<io::Error>,
}

impl Meter {
    /// Counters of cycles, instructions, cache misses and branches that were not foreseen.
    ///
    /// # Errors
    /// There are no counters, with the reason for people.
    pub fn open() -> Result<Meter> {
        Meter::of(&EVENTS)
    }

    /// The first of the events must be counted, the others may.
    fn of<E: Clone + Into<Event>>(events: &[E]) -> Result<Meter> {
        let mut group = Group::new().map_err(reason)?;
        let mut counters = Vec::new();
        for event in events {
            match Builder::new().group(&mut group).kind(event.clone()).build() {
                Ok(counter) => counters.push(Some(counter)),
                Err(error) if counters.is_empty() => return Err(reason(error)),
                Err(_) => counters.push(None),
            }
        }
        Ok(Meter { group, counters, failure: None })
    }

    /// Shares of so many packets.
    ///
    /// # Errors
    /// The kernel did not start or stop the counters, or does not tell them.
    pub fn counts(self, packets: usize) -> Result<Counts> {
        let mut shares = self.shares(packets)?.into_iter().chain(std::iter::repeat(None));
        let mut next = || shares.next().flatten();
        Ok(Counts { cycles: next(), instructions: next(), cache_misses: next(), branch_misses: next() })
    }

    fn shares(mut self, packets: usize) -> Result<Vec<Option<f64>>> {
        if let Some(failure) = self.failure {
            return Err(failure).context("starting or stopping the counters of the processor");
        }
        let counts = self.group.read().context("reading the counters of the processor")?;
        // Where there are fewer counters than events the group had none for some of the time.
        let (enabled, running) = (counts.time_enabled() as f64, counts.time_running() as f64);
        let share = |counter: &Counter| counts[counter] as f64 * (enabled / running) / packets as f64;
        Ok(self.counters.iter().map(|counter| counter.as_ref().map(share).filter(|share| share.is_finite())).collect())
    }
}

impl Watch for Meter {
    #[inline(always)]
    fn over(&mut self, work: impl FnOnce()) {
        let started = self.group.enable();
        work();
        let stopped = self.group.disable();
        if let Err(error) = started.and(stopped) {
            self.failure = Some(error);
        }
    }
}

/// Why there are no counters.
fn reason(error: io::Error) -> anyhow::Error {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => {
            "this machine has no hardware counters, as most virtual machines"
        }
        Some(Errno::EACCES | Errno::EPERM) => {
            "the kernel does not let this user count: run as root, or `sysctl kernel.perf_event_paranoid=2`"
        }
        Some(Errno::ENOSYS) => "this kernel has no performance events (CONFIG_PERF_EVENTS)",
        _ => return error.into(),
    };
    anyhow::Error::msg(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use perf_event::events::Software;
    use std::hint::black_box;

    fn touch_pages() {
        black_box(vec![1u8; 64 << 20]);
    }

    #[test]
    fn only_what_is_watched_is_counted() {
        // Page faults are the kernel's own count, which every machine has.
        let meter = || Meter::of(&[Software::PAGE_FAULTS, Software::PAGE_FAULTS_MAJ]);
        let Ok(mut meter) = meter() else { return };
        touch_pages();
        meter.over(|| ());
        touch_pages();
        let within = |meter: Meter, packets| meter.shares(packets).expect("counts")[0].expect("a count");
        let quiet = within(meter, 1);
        let mut meter = Meter::of(&[Software::PAGE_FAULTS]).expect("as before");
        meter.over(touch_pages);
        let busy = within(meter, 2);
        assert!(quiet < 4.0 && busy > 4.0, "{quiet} and {busy} page faults");
    }

    #[test]
    fn without_counters_the_reason_is_told() {
        let told = |errno: Errno| reason(io::Error::from(errno)).to_string();
        assert!(told(Errno::ENOENT).contains("no hardware counters"));
        assert!(told(Errno::EACCES).contains("perf_event_paranoid"));
        assert!(told(Errno::EMFILE).contains("Too many open files"));
    }
}
