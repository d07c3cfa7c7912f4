//! LOG: from a packet on the data path to a line in the log, without a word being said on the data path.
//!
//! A worker takes an event of fixed size ([`LogEvent`]) and pushes it into a bounded [`LogRing`]; what does not fit is
//! counted. The housekeeping thread pops events, formats them as the kernel does ([`line`](line::line)) and hands them
//! to a [`Writer`].

pub mod line;
pub mod packets;
pub mod writer;

pub use line::line;
pub use packets::{PacketEvent, PacketRing};
pub use writer::Writer;

use crossbeam_queue::ArrayQueue;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::facts::{Facts, Family, PortId};
use sumun_config::rule::targets::log::Log;

/// Bytes of a packet that an event keeps, from the IP header on: all headers of an ICMP error and of the packet it quotes.
pub const KEPT: usize = 256;
/// Longest prefix, as in the kernel (`NF_LOG_PREFIXLEN`): of a rule (29 bytes), of an INVALID packet with its protocol and the
/// name of a reason, of a traced one with its table, its chain (28 bytes) and the number of a rule, or what `osf` has found.
pub const PREFIX: usize = 127;

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
    prefix: Prefix,
    /// Not a line about the packet but an audit record with this number.
    audit: Option<u64>,
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
            ..LogEvent::bare(format_args!("{}", log.prefix), facts, l3, wall)
        }
    }

    /// The event of a packet that conntrack could not place, and why: without ports, as conntrack has none to tell
    /// (`nf_ct_l4proto_log_invalid`).
    pub fn invalid(why: &str, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        let prefix = format_args!("nf_ct_proto_{}: {why} ", facts.proto);
        LogEvent { iif: PortId::NONE, oif: PortId::NONE, has_link: false, ..LogEvent::bare(prefix, facts, l3, wall) }
    }

    /// The event of a traced packet at a rule, a chain's end or a policy (`trace_packet` of ip_tables). `place` is
    /// `TABLE:CHAIN:KIND:NUMBER`.
    pub fn trace(place: fmt::Arguments, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        LogEvent { level: 4, ..LogEvent::bare(format_args!("TRACE: {place} "), facts, l3, wall) }
    }

    /// The event of a match that tells what it has found.
    pub fn note(text: fmt::Arguments, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        LogEvent::bare(text, facts, l3, wall)
    }

    /// The audit record of that number of a packet (`audit_tg`).
    pub fn audit(number: u64, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        LogEvent { audit: Some(number), ..LogEvent::bare(format_args!(""), facts, l3, wall) }
    }

    /// An event of level notice with all details.
    fn bare(prefix: fmt::Arguments, facts: &Facts, l3: &[u8], wall: u64) -> LogEvent {
        let mut text = Prefix { bytes: [0; PREFIX], len: 0 };
        // What does not fit is left out, and nothing else can go wrong.
        let _ = text.write_fmt(prefix);
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
            prefix: text,
            audit: None,
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

    /// What stands before the line.
    pub fn prefix_text(&self) -> String {
        String::from_utf8_lossy(self.prefix()).into_owned()
    }

    /// Bytes of IP that the packet has.
    pub fn packet_len(&self) -> u32 {
        self.len
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.kept)]
    }

    fn prefix(&self) -> &[u8] {
        &self.prefix.bytes[..usize::from(self.prefix.len)]
    }
}

/// What stands before a line. Text that is too long is cut.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    bytes: [u8; PREFIX],
    len: u8,
}

impl fmt::Write for Prefix {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let at = usize::from(self.len);
        let len = text.len().min(PREFIX - at);
        self.bytes[at..at + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len as u8;
        Ok(())
    }
}

/// The way of events from workers to the housekeeping thread: bounded, lock-free, overflow counted.
#[derive(Debug)]
pub struct LogRing {
    events: ArrayQueue<LogEvent>,
    lost: AtomicU64,
    audits: AtomicU64,
}

impl LogRing {
    /// A ring for `capacity` events (at least one).
    pub fn new(capacity: usize) -> LogRing {
        LogRing { events: ArrayQueue::new(capacity.max(1)), lost: AtomicU64::new(0), audits: AtomicU64::new(0) }
    }

    /// The number of the next audit record.
    pub fn next_audit(&self) -> u64 {
        self.audits.fetch_add(1, Ordering::Relaxed) + 1
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
