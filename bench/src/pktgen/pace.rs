//! When frames are sent: as fast as it goes, or evenly at a rate; for so long or so many.

use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A way to send frames.
pub trait Sender {
    /// The least rate, in frames a second, that it keeps itself once [`Sender::pace`] has told it.
    fn slowest_pace(&self) -> f64;
    /// Sends at this rate from now on, or as fast as it goes.
    fn pace(&mut self, rate: Option<f64>) -> Result<()>;
    /// Sends so many frames; fewer where a signal comes.
    fn send(&mut self, count: u32) -> Result<()>;
    /// What was sent so far.
    fn sent(&self) -> Result<Sent>;
}

/// What a sender gave to the device.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Their bytes, FCS not counted.
    pub bytes: u64,
    /// Frames that it could not make.
    pub failed: u64,
}

/// How fast, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames a second; as fast as it goes where there is none.
    pub rate: Option<f64>,
    /// At most for so long.
    pub duration: Duration,
    /// At most so many.
    pub count: Option<u64>,
}

/// A call lasts between these, so that ends and signals are noticed soon and calls do not cost.
const CALL: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(20)];
/// Frames of the first call, and at most.
const FRAMES: [u32; 2] = [64, 1 << 16];
/// Frames that are made up for at once, where the sender does not keep the pace itself.
const BEHIND: u64 = 256;

/// Sends within the limits, or until `stop` is set. Returns how long that took.
pub fn drive(sender: &mut dyn Sender, limits: &Limits, stop: &AtomicBool) -> Result<Duration> {
    let own = limits.rate.filter(|rate| *rate < sender.slowest_pace());
    sender.pace(if own.is_some() { None } else { limits.rate })?;
    let (begun, before) = (Instant::now(), sender.sent()?);
    let most = limits.count.unwrap_or(u64::MAX);
    let mut call = FRAMES[0];
    let mut done = 0;
    loop {
        let now = begun.elapsed();
        if done >= most || now >= limits.duration || stop.load(Ordering::Relaxed) {
            return Ok(now);
        }
        let room = (most - done).min(u64::from(u32::MAX)) as u32;
        if let Some(rate) = own {
            let due = ((now.as_secs_f64() * rate) as u64 + 1).saturating_sub(done).min(BEHIND);
            if due == 0 {
                let next = Duration::from_secs_f64(done as f64 / rate).saturating_sub(now);
                // A sleep ends some 60 µs late.
                match next.checked_sub(Duration::from_micros(100)) {
                    Some(sleep) => std::thread::sleep(sleep.min(limits.duration - now).min(CALL[1])),
                    None => std::hint::spin_loop(),
                }
                continue;
            }
            sender.send((due as u32).min(room))?;
        } else {
            sender.send(call.min(room))?;
            let took = begun.elapsed() - now;
            if took < CALL[0] {
                call = (call * 2).min(FRAMES[1]);
            } else if took > CALL[1] {
                call = (call / 2).max(1);
            }
        }
        let sent = sender.sent()?;
        let tried = sent.frames + sent.failed - before.frames - before.failed;
        if tried == done && !stop.load(Ordering::Relaxed) && begun.elapsed() - now < Duration::from_micros(1) {
            bail!("the sender makes no frames");
        }
        done = tried;
    }
}

/// A flag that SIGINT and SIGTERM set.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("waiting for signals")?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts; a frame takes so long.
    struct Counter {
        sent: Sent,
        calls: Vec<u32>,
        slowest: f64,
        paced: Option<f64>,
    }

    impl Sender for Counter {
        fn slowest_pace(&self) -> f64 {
            self.slowest
        }
        fn pace(&mut self, rate: Option<f64>) -> Result<()> {
            self.paced = rate;
            Ok(())
        }
        fn send(&mut self, count: u32) -> Result<()> {
            std::thread::sleep(Duration::from_micros(20));
            self.calls.push(count);
            self.sent.frames += u64::from(count);
            Ok(())
        }
        fn sent(&self) -> Result<Sent> {
            Ok(self.sent)
        }
    }

    fn counter(slowest: f64) -> Counter {
        Counter { sent: Sent { frames: 7, ..Sent::default() }, calls: Vec::new(), slowest, paced: Some(1.0) }
    }

    #[test]
    fn exactly_as_many_frames_are_sent_as_were_asked_for() {
        for (rate, slowest) in [(None, 0.0), (Some(1e6), 1e9), (Some(1e6), 1e3)] {
            let mut sender = counter(slowest);
            let limits = Limits { rate, duration: Duration::from_secs(60), count: Some(20_001) };
            drive(&mut sender, &limits, &AtomicBool::new(false)).expect("sent");
            assert_eq!(sender.sent.frames, 7 + 20_001);
            assert_eq!(sender.paced, rate.filter(|_| slowest < 1e6));
        }
    }

    #[test]
    fn a_rate_is_kept_and_not_exceeded() {
        let mut sender = counter(f64::INFINITY);
        let limits = Limits { rate: Some(10_000.0), duration: Duration::from_millis(200), count: None };
        drive(&mut sender, &limits, &AtomicBool::new(false)).expect("sent");
        assert!((1..=2001).contains(&(sender.sent.frames - 7)), "{}", sender.sent.frames);
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let limits = Limits { rate: None, duration: Duration::from_secs(3600), count: None };
        let mut sender = counter(0.0);
        drive(&mut sender, &limits, &AtomicBool::new(true)).expect("nothing");
        assert!(sender.calls.is_empty());
    }
}
