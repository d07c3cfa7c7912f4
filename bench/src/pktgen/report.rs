//! What was sent and what arrived, as text and as JSON.

use super::Method;
use super::frame::{FCS, GAP};
use super::pace::Sent;
use super::sink::{Latency, Sink, Tally};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Both ends, where they are.
#[derive(Serialize)]
pub struct Report {
    /// The generator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Departed>,
    /// The sink's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<Arrived>,
}

/// What left.
#[derive(Serialize)]
pub struct Departed {
    /// How.
    method: &'static str,
    /// Frames that the device took.
    pub frames: u64,
    /// Their bytes, FCS counted.
    bytes: u64,
    /// Frames that the device was given and dropped.
    device_dropped: u64,
    /// Frames that could not be made or given to the device.
    failed: u64,
    seconds: f64,
    pps: f64,
}

/// What arrived.
#[derive(Serialize)]
pub struct Arrived {
    /// Where the sink's program ran: `native` or `generic`.
    xdp: &'static str,
    /// Frames of UDP.
    frames: u64,
    /// Their bytes, FCS counted.
    bytes: u64,
    pps: f64,
    /// Those of them with sequence and time.
    stamped: u64,
    /// Where the sender is known: of what it sent. Else of what the sequences leave out.
    lost: u64,
    /// By RFC 4737.
    reordered: u64,
    /// The farthest of these, in packets of its flow.
    reordered_by_at_most: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ns: Option<Latency>,
    /// Packets whose time is another machine's.
    without_latency: u64,
}

impl Departed {
    /// Frames that the device did not take do not count as sent.
    pub fn new(method: Method, sent: &Sent, device_dropped: u64, took: Duration) -> Departed {
        let frames = sent.frames.saturating_sub(device_dropped);
        let mean = if sent.frames > 0 { sent.bytes as f64 / sent.frames as f64 } else { 0.0 };
        let seconds = took.as_secs_f64();
        Departed {
            method: match method {
                Method::Live => "live",
                Method::Ring => "ring",
                Method::Auto | Method::Kernel => "kernel",
            },
            frames,
            bytes: ((mean + f64::from(FCS)) * frames as f64) as u64,
            device_dropped,
            failed: sent.failed,
            seconds,
            pps: frames as f64 / seconds,
        }
    }
}

impl Arrived {
    /// `sent`: how many frames left, where that is known.
    pub fn new(sink: &Sink, tally: &Tally, took: Duration, sent: Option<u64>) -> Arrived {
        let lost = match sent {
            Some(sent) => sent.saturating_sub(tally.packets),
            None => tally.missing.saturating_sub(tally.reordered),
        };
        Arrived {
            xdp: if sink.native { "native" } else { "generic" },
            frames: tally.packets,
            bytes: tally.bytes + u64::from(FCS) * tally.packets,
            pps: tally.packets as f64 / took.as_secs_f64(),
            stamped: tally.stamped,
            lost,
            reordered: tally.reordered,
            reordered_by_at_most: tally.furthest,
            latency_ns: tally.latency(),
            without_latency: tally.foreign,
        }
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3.21 Mpps, 2.16 Gbit/s on the link`: with preamble and gap.
fn speed(pps: f64, frames: u64, bytes: u64) -> String {
    let mean = if frames > 0 { bytes as f64 / frames as f64 } else { 0.0 };
    format!("{:.3} Mpps, {:.2} Gbit/s on the link", pps / 1e6, pps * (mean + f64::from(GAP)) * 8.0 / 1e9)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(sent) = &self.sent {
            let Departed { method, frames, bytes, device_dropped, failed, seconds, pps } = sent;
            writeln!(f, "sent      {} frames in {seconds:.2} s ({method})", grouped(*frames))?;
            writeln!(f, "          {}", speed(*pps, *frames, *bytes))?;
            if *device_dropped + *failed > 0 {
                writeln!(
                    f,
                    "          besides: {} that the device dropped, {} that could not be given to it",
                    grouped(*device_dropped),
                    grouped(*failed)
                )?;
            }
        }
        if let Some(received) = &self.received {
            writeln!(f, "received  {} frames ({} XDP)", grouped(received.frames), received.xdp)?;
            writeln!(f, "          {}", speed(received.pps, received.frames, received.bytes))?;
            writeln!(f, "lost      {}", grouped(received.lost))?;
            if received.stamped > 0 {
                let (reordered, furthest) = (grouped(received.reordered), received.reordered_by_at_most);
                writeln!(f, "reordered {reordered}, by {furthest} packets of a flow at most")?;
            }
            if let Some(latency) = &received.latency_ns {
                let Latency { min, p50, p90, p99, p999, max } = latency;
                let us = |ns: &f64| format!("{:.1}", ns / 1e3);
                writeln!(
                    f,
                    "latency   min {}, 50 % {}, 90 % {}, 99 % {}, 99.9 % {}, max {} µs",
                    us(min),
                    us(p50),
                    us(p90),
                    us(p99),
                    us(p999),
                    us(max)
                )?;
            }
            if received.without_latency > 0 {
                writeln!(f, "          {} frames with another machine's time", grouped(received.without_latency))?;
            }
        }
        Ok(())
    }
}
