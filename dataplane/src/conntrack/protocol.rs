//! What each protocol but TCP makes of a packet of its flow: is it part of it, is the flow ASSURED, how long does it live?

use super::entry::{Entry, Life, Word, left};
use super::tcp;
use crate::packet::view::{Tcp, Udp};
use sumun_config::facts::{Facts, Family, proto, status};
use sumun_config::model::Sysctl;

/// What a protocol's tracker says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is part of the flow.
    Accept,
    /// It is not part of the flow.
    Invalid,
    /// It is, and the flow ends with it.
    Refused,
    /// The flow is over, and this packet begins another.
    Reopen,
}

/// What an ICMP or ICMPv6 message is to conntrack.
pub(super) enum Icmp {
    /// To be looked up as any packet.
    Query,
    /// An error that quotes a packet; its offset from the IP header.
    Error { quote: usize },
    /// Never tracked: neighbour discovery and multicast listeners.
    Untracked,
    /// Unknown or malformed.
    Invalid,
}

/// Sorts ICMP messages as `nf_conntrack_icmpv4_error` and `nf_conntrack_icmpv6_error` do.
pub(super) fn icmp(facts: &Facts, kind: u8, l3: &[u8]) -> Icmp {
    let quote = usize::from(facts.l4_off) + 8;
    match (facts.family, kind) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (Family::V4, 3 | 4 | 5 | 11 | 12) => Icmp::Error { quote },
        (Family::V4, 0..=18) => Icmp::Query,
        (Family::V4, _) => Icmp::Invalid,
        // Multicast listener query, report, done; router and neighbour solicitation and advertisement; MLDv2 report.
        (Family::V6, 130..=136 | 143) => Icmp::Untracked,
        (Family::V6, 137) => redirect(facts, l3),
        (Family::V6, 0..=127) => Icmp::Error { quote },
        (Family::V6, _) => Icmp::Query,
    }
}

/// An ICMPv6 redirect (RFC 4861 4.5) that carries the redirected packet as its first option.
fn redirect(facts: &Facts, l3: &[u8]) -> Icmp {
    const OPTIONS: usize = 40;
    const REDIRECTED: u8 = 4;
    let options = usize::from(facts.l4_off) + OPTIONS;
    let code = facts.dport as u8;
    match l3.get(options..usize::from(facts.len)).and_then(|o| o.first_chunk::<8>()) {
        Some([REDIRECTED, 1..=255, ..]) if facts.ttl == 255 && code == 0 => Icmp::Error { quote: options + 8 },
        _ => Icmp::Invalid,
    }
}

/// The TCP segment of a packet; none where its header or its flags are malformed (`tcp_error`).
#[inline]
pub(super) fn segment(facts: &Facts, l3: &[u8]) -> Option<tcp::Segment> {
    let l4 = l3.get(usize::from(facts.l4_off)..usize::from(facts.len))?;
    let header = Tcp::new(l4)?;
    let flags = header.flags();
    let payload = l4.len().checked_sub(header.header_len())?;
    if header.header_len() < Tcp::LEN || !tcp::has_valid_flags(flags) {
        return None;
    }
    let occupies = payload as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
    Some(tcp::Segment {
        kind: tcp::Kind::of(flags),
        ack: header.acknowledgement(),
        end: header.sequence().wrapping_add(occupies),
        window: header.window(),
    })
}

/// Milliseconds that the flow lives from this packet on; none where the packet is not part of it.
#[inline]
pub(super) fn judge(entry: &Entry, word: Word, facts: &Facts, l3: &[u8], now: u32, s: &Sysctl) -> Option<u64> {
    match facts.proto {
        proto::UDP | proto::UDPLITE => udp(entry, word, facts, l3, now, s),
        proto::ICMP | proto::ICMPV6 => query(word, facts, s),
        proto::GRE => Some(if word.status() & status::SEEN_REPLY != 0 {
            entry.set_status(status::ASSURED);
            s.nf_conntrack_gre_timeout_stream
        } else {
            s.nf_conntrack_gre_timeout
        }),
        _ => Some(s.nf_conntrack_generic_timeout),
    }
}

/// Milliseconds after which an answered exchange of datagrams counts as a stream.
const STREAM_AFTER: u32 = 2000;

/// UDP and UDP-Lite. The protocol word is the millisecond from which on the flow is a stream, if it is answered.
#[inline]
fn udp(entry: &Entry, mut word: Word, facts: &Facts, l3: &[u8], now: u32, s: &Sysctl) -> Option<u64> {
    let l4 = l3.get(usize::from(facts.l4_off)..usize::from(facts.len))?;
    let header = Udp::new(l4)?;
    let length = usize::from(header.length());
    let whole = !facts.is_fragment();
    let malformed = if facts.proto == proto::UDP {
        length < Udp::LEN || (whole && length > l4.len())
    } else {
        // RFC 3828: the length is the checksum's coverage, zero is all, and there is no packet without a checksum.
        (length != 0 && length < Udp::LEN) || (whole && length > l4.len()) || header.checksum() == 0
    };
    if malformed {
        return None;
    }
    if word.life() == Life::Unconfirmed {
        let stream = now.wrapping_add(STREAM_AFTER);
        while let Err(changed) = entry.swap(word, word.with_protocol(stream)) {
            word = changed;
        }
    }
    if word.status() & status::SEEN_REPLY == 0 {
        return Some(s.nf_conntrack_udp_timeout);
    }
    if left(word.protocol(), now) < 0 {
        entry.set_status(status::ASSURED);
        return Some(s.nf_conntrack_udp_timeout_stream);
    }
    Some(s.nf_conntrack_udp_timeout)
}

/// ICMP and ICMPv6 queries and their answers; only a query may begin a flow.
fn query(word: Word, facts: &Facts, s: &Sysctl) -> Option<u64> {
    let (kind, _) = facts.icmp()?;
    let begins = match facts.family {
        // Echo, timestamp, information, address mask.
        Family::V4 => matches!(kind, 8 | 13 | 15 | 17),
        // Echo, node information.
        Family::V6 => matches!(kind, 128 | 139),
    };
    if word.life() == Life::Unconfirmed && !begins {
        return None;
    }
    Some(match facts.family {
        Family::V4 => s.nf_conntrack_icmp_timeout,
        Family::V6 => s.nf_conntrack_icmpv6_timeout,
    })
}
