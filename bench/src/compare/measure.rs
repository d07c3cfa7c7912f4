//! One measurement: the generator runs on its core while the sink's counters are read.

use super::contestants::Cores;
use super::topology::Site;
use crate::pktgen::live::Live;
use crate::pktgen::pace::{Limits, drive};
use crate::pktgen::sink::Latency;
use anyhow::{Context, Result, ensure};
use core_affinity::CoreId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Before anything counts.
    pub warm_up: Duration,
    /// What counts.
    pub lasts: Duration,
    /// Where everything runs.
    pub cores: Cores,
    /// Set by a signal.
    pub stop: &'a AtomicBool,
}

/// Packets a second that reach the sink while the generator floods.
pub fn throughput(site: &Site, generator: &mut Live, window: Window) -> Result<f64> {
    during(generator, None, window, || {
        let (begun, before) = (Instant::now(), site.sink.packets()?);
        sleep(window.lasts, window.stop)?;
        Ok((site.sink.packets()? - before) as f64 / begun.elapsed().as_secs_f64())
    })
}

/// What a paced run came to.
#[derive(Clone, Copy, Debug)]
pub struct Paced {
    /// By the sink's clock, from the frame's making to its end.
    pub latency: Latency,
    /// Share of the frames that did not arrive.
    pub lost: f64,
}

/// How long packets take at so many a second.
pub fn latency(site: &Site, generator: &mut Live, rate: f64, window: Window) -> Result<Paced> {
    during(generator, Some(rate), window, || {
        let (begun, before) = (Instant::now(), site.sink.tally()?);
        sleep(window.lasts, window.stop)?;
        let tally = site.sink.tally()?.since(&before);
        let expected = rate * begun.elapsed().as_secs_f64();
        let latency = tally.latency().context("no packet with a time in it reached the sink")?;
        Ok(Paced { latency, lost: (1.0 - tally.stamped as f64 / expected).max(0.0) })
    })
}

/// Reads while the generator runs.
fn during<T>(generator: &mut Live, rate: Option<f64>, window: Window, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    // A generator that nobody stops ends all the same.
    let limits = Limits { rate, duration: window.warm_up + 2 * window.lasts + Duration::from_secs(5), count: None };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let core = window.cores.generator;
            ensure!(core_affinity::set_for_current(CoreId { id: core }), "cannot run on core {core}");
            drive(generator, &limits, &over)
        });
        let answer = sleep(window.warm_up, window.stop).and_then(|()| read());
        over.store(true, Ordering::Relaxed);
        let sent = running.join().map_err(|_| anyhow::anyhow!("the generator's thread panicked"))?;
        sent.and(answer)
    })
}

/// Sleeps; an error when a signal ends it.
fn sleep(lasts: Duration, stop: &AtomicBool) -> Result<()> {
    let begun = Instant::now();
    loop {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        match lasts.checked_sub(begun.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(50))),
            _ => return Ok(()),
        }
    }
}

/// The middle one, or the mean of the two in the middle; zero of none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_is_the_middle_of_what_was_measured() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), 3.0);
    }
}
