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
/// Longest prefix: of a rule (29 bytes), or of an INVALID packet with its protocol and the name of a reason.
pub const PREFIX: usize = 48;

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
        LogEvent {
            level: log.level & 7,
            tcp_sequence: log.tcp_sequence,
            tcp_options: log.tcp_options,
            ip_options: log.ip_options,
            macdecode: log.macdecode,
            ..LogEvent::bare(&[log.prefix.as_bytes()], facts, l3, wall)
        }
    }

    /// The event of a packet that conntrack could not place, and why: without ports, as conntrack has none to tell
    /// (`nf_ct_l4proto_log_invalid`).
    pub fn invalid(why: &str, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        let digit = |unit: u8| b'0' + facts.proto / unit % 10;
        let digits = [digit(100), digit(10), digit(1)];
        let first = match facts.proto {
            0..=9 => 2,
            10..=99 => 1,
            _ => 0,
        };
        let prefix = [b"nf_ct_proto_", &digits[first..], b": ", why.as_bytes(), b" "];
        LogEvent { iif: PortId::NONE, oif: PortId::NONE, has_link: false, ..LogEvent::bare(&prefix, facts, l3, wall) }
    }

    /// An event of level notice with all details.
    fn bare(parts: &[&[u8]], facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        let (mut prefix, mut prefix_len) = ([0; PREFIX], 0);
        for byte in parts.iter().flat_map(|part| part.iter()).take(PREFIX) {
            prefix[prefix_len] = *byte;
            prefix_len += 1;
        }
        let kept = l3.len().min(usize::from(facts.len)).min(KEPT);
        let mut bytes = [0; KEPT];
        bytes[..kept].copy_from_slice(&l3[..kept]);
        LogEvent {
            wall,
            level: 5,
            tcp_sequence: true,
            tcp_options: true,
            ip_options: true,
            macdecode: false,
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
    fn an_invalid_packet_has_its_protocol_and_reason_before_its_line() {
        for (number, expected) in
            [(6, "nf_ct_proto_6: tcp-new "), (17, "nf_ct_proto_17: tcp-new "), (132, "nf_ct_proto_132: tcp-new ")]
        {
            let facts = Facts { proto: number, iif: PortId(0), ..Facts::blank(Family::V4) };
            let event = LogEvent::invalid("tcp-new", &facts, &[], 0);
            assert_eq!(line(&event, &["lan0".into()]), format!("{expected}IN= OUT= TRUNCATED"));
            assert_eq!(event.level, 5);
        }
        for why in crate::conntrack::Invalid::ALL {
            assert!("nf_ct_proto_255:  ".len() + why.name().len() <= PREFIX, "{}", why.name());
        }
    }

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
