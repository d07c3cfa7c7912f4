//! LOG: from a packet on the data path to a line in the log, without a word being said on the data path.
//!
//! A worker takes an event of fixed size ([`LogEvent`]) and pushes it into a bounded [`LogRing`]; what does not fit is
//! counted. The housekeeping thread pops events, formats them as the kernel does ([`line`](line::line)) and hands them
//! to a [`Writer`].

pub mod line;
pub mod writer;

pub use line::line;
pub use writer::Writer;

use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::facts::{Facts, Family, PortId};
use sumun_config::rule::targets::log::Log;

/// Bytes of a packet that an event keeps, from the IP header on: all headers of an ICMP error and of the packet it quotes.
pub const KEPT: usize = 256;
/// Longest prefix.
pub const PREFIX: usize = 29;

/// What a LOG rule saw: everything that its line needs, on no heap.
#[derive(Clone, Copy, Debug)]
pub struct LogEvent {
    /// Wall-clock time in nanoseconds since 1970.
    pub wall: u64,
    /// syslog level, 0 to 7.
    pub level: u8,
    tcp_sequence: bool,
    tcp_options: bool,
    ip_options: bool,
    macdecode: bool,
    prefix: [u8; PREFIX],
    prefix_len: u8,
    family: Family,
    iif: PortId,
    oif: PortId,
    has_link: bool,
    smac: [u8; 6],
    dmac: [u8; 6],
    mark: u32,
    len: u32,
    kept: u16,
    bytes: [u8; KEPT],
}

impl LogEvent {
    /// The event of a rule with the target `log` and a packet, whose bytes `l3` start at the IP header.
    pub fn new(log: &Log, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        let prefix_len = log.prefix.len().min(PREFIX);
        let mut prefix = [0; PREFIX];
        prefix[..prefix_len].copy_from_slice(&log.prefix.as_bytes()[..prefix_len]);
        let kept = l3.len().min(usize::from(facts.len)).min(KEPT);
        let mut bytes = [0; KEPT];
        bytes[..kept].copy_from_slice(&l3[..kept]);
        LogEvent {
            wall,
            level: log.level & 7,
            tcp_sequence: log.tcp_sequence,
            tcp_options: log.tcp_options,
            ip_options: log.ip_options,
            macdecode: log.macdecode,
            prefix,
            prefix_len: prefix_len as u8,
            family: facts.family,
            iif: facts.iif,
            oif: facts.oif,
            has_link: facts.has_link,
            smac: facts.smac,
            dmac: facts.dmac,
            mark: facts.mark,
            len: u32::from(facts.len),
            kept: kept as u16,
            bytes,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.kept)]
    }

    fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_len)]
    }
}

/// The way of events from workers to the housekeeping thread: bounded, lock-free, overflow counted.
#[derive(Debug)]
pub struct LogRing {
    events: ArrayQueue<LogEvent>,
    lost: AtomicU64,
}

impl LogRing {
    /// A ring for `capacity` events (at least one).
    pub fn new(capacity: usize) -> LogRing {
        LogRing { events: ArrayQueue::new(capacity.max(1)), lost: AtomicU64::new(0) }
    }

    /// Pushes an event, or counts it as lost.
    pub fn push(&self, event: LogEvent) {
        if self.events.push(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest event.
    pub fn pop(&self) -> Option<LogEvent> {
        self.events.pop()
    }

    /// Events that found the ring full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_counts_what_it_loses() {
        let log = Log {
            level: 4,
            prefix: "p".into(),
            tcp_sequence: false,
            tcp_options: false,
            ip_options: false,
            uid: false,
            macdecode: false,
        };
        let ring = LogRing::new(2);
        for wall in 0..5 {
            ring.push(LogEvent::new(&log, &Facts::blank(Family::V4), &[], wall));
        }
        assert_eq!(ring.lost(), 3);
        assert_eq!([ring.pop(), ring.pop(), ring.pop()].map(|e| e.map(|e| e.wall)), [Some(0), Some(1), None]);
    }
}
