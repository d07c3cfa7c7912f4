//! What each protocol but TCP and SCTP makes of a packet of its flow: is it part of it, is the flow ASSURED, how long does it live?

use super::entry::{Entry, Life, Word, left};
use super::tuple::has_ports;
use super::{Invalid, Tuple};
use crate::packet::view::Udp;
use sumun_config::facts::{Facts, Family, proto, status};
use sumun_config::model::Sysctl;

/// What a protocol's tracker says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is part of the flow.
    Accept,
    /// It is not part of the flow.
    Invalid(Invalid),
    /// It is, and the flow ends with it.
    Refused,
    /// The flow is over, and this packet begins another.
    Reopen,
}

/// What a protocol's tracker reads of a packet of its flow.
pub(crate) struct Part<'a> {
    pub family: Family,
    pub proto: u8,
    /// Type and code of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// Bytes of the IP packet.
    pub len: u16,
    /// The upper layer; empty where the packet ends before it.
    pub l4: &'a [u8],
}

impl<'a> Part<'a> {
    /// That of a packet with these facts.
    #[inline]
    pub fn of(facts: &Facts, l3: &'a [u8]) -> Part<'a> {
        let l4 = l3.get(usize::from(facts.l4_off)..usize::from(facts.len)).unwrap_or_default();
        Part { family: facts.family, proto: facts.proto, icmp: facts.icmp(), len: facts.len, l4 }
    }
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
        // Multicast listener query, report, done; router and neighbour solicitation and advertisement; MLDv2 report; multicast
        // router discovery (RFC 4286).
        (Family::V6, 130..=136 | 143 | 151 | 152) => Icmp::Untracked,
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

/// The tuple of a packet, with what only its bytes tell: the key of enhanced GRE (`gre_pkt_to_tuple`). Other GRE is told
/// apart by addresses only.
///
/// # Errors
/// Why the packet has none.
#[inline]
pub(super) fn tuple(facts: &Facts, l3: &[u8]) -> Result<Tuple, Invalid> {
    // IPv6 that ends with its headers has nothing to track (`ipv6_skip_exthdr` finds no upper layer).
    if facts.family == Family::V6 && facts.proto == proto::NONE {
        return Err(Invalid::Truncated);
    }
    // Later fragments have no ports to be placed by (`ipv4_get_l4proto`); defragmentation comes before us.
    if facts.is_later_fragment() {
        return Err(Invalid::Fragment);
    }
    if has_ports(facts.proto) && !facts.has_l4 {
        return Err(Invalid::Truncated);
    }
    let tuple = Tuple::of(facts);
    if facts.proto == proto::GRE {
        keyed(tuple, l3.get(usize::from(facts.l4_off)..).unwrap_or_default())
    } else {
        Ok(tuple)
    }
}

/// RFC 2637 4.1: version 1 carries PPP and has a call identifier.
#[cold]
fn keyed(tuple: Tuple, l4: &[u8]) -> Result<Tuple, Invalid> {
    const PPP: [u8; 2] = [0x88, 0x0b];
    let Some(header) = l4.first_chunk::<8>() else { return Ok(tuple) };
    match (header[1] & 7, [header[2], header[3]]) {
        (1, PPP) => Ok(Tuple { dport: u16::from_be_bytes([header[6], header[7]]), ..tuple }),
        (1, _) => Err(Invalid::GreVersion),
        _ => Ok(tuple),
    }
}

/// Milliseconds that the flow lives from this packet on; for protocols that keep nothing beyond the state word.
///
/// # Errors
/// Why the packet is not part of it.
#[inline]
pub(super) fn judge(entry: &Entry, word: Word, part: &Part, now: u32, s: &Sysctl) -> Result<u64, Invalid> {
    match part.proto {
        proto::UDP | proto::UDPLITE => udp(entry, word, part, now, s),
        proto::ICMP | proto::ICMPV6 if part.icmp.is_some() => query(word, part, s),
        proto::GRE => Ok(if word.status() & status::SEEN_REPLY != 0 {
            entry.set_status(status::ASSURED);
            s.nf_conntrack_gre_timeout_stream
        } else {
            s.nf_conntrack_gre_timeout
        }),
        _ => Ok(s.nf_conntrack_generic_timeout),
    }
}

/// Milliseconds after which an answered exchange of datagrams counts as a stream.
const STREAM_AFTER: u32 = 2000;

/// Whether a datagram of UDP or UDP-Lite is well formed.
///
/// # Errors
/// Why it is not.
#[inline(always)]
pub(super) fn check_datagram(part: &Part) -> Result<(), Invalid> {
    let header = Udp::new(part.l4).ok_or(Invalid::Truncated)?;
    let length = usize::from(header.length());
    let malformed = if part.proto == proto::UDPLITE {
        // RFC 3828: the length is the checksum's coverage, zero is all, and there is no packet without a checksum.
        (length != 0 && length < Udp::LEN) || length > part.l4.len() || header.checksum() == 0
    } else {
        length < Udp::LEN || length > part.l4.len()
    };
    if malformed { Err(Invalid::UdpLength) } else { Ok(()) }
}

/// What a flow of datagrams becomes with one more: milliseconds that it lives from now on, and whether it is ASSURED.
#[inline(always)]
pub(super) fn life_of_datagrams(word: Word, is_lite: bool, now: u32, s: &Sysctl) -> (u64, bool) {
    if word.status() & status::SEEN_REPLY == 0 {
        return (s.nf_conntrack_udp_timeout, false);
    }
    // UDP-Lite is for media: whatever is answered is a stream.
    let is_whole = word.status() & status::NAT_CLASH == 0;
    match is_whole && (is_lite || left(word.protocol(), now) < 0) {
        true => (s.nf_conntrack_udp_timeout_stream, true),
        false => (s.nf_conntrack_udp_timeout, false),
    }
}

/// UDP and UDP-Lite. The protocol word is the millisecond from which on the flow is a stream, if it is answered.
#[inline]
fn udp(entry: &Entry, mut word: Word, part: &Part, now: u32, s: &Sysctl) -> Result<u64, Invalid> {
    check_datagram(part)?;
    if word.life() == Life::Unconfirmed {
        let stream = now.wrapping_add(STREAM_AFTER);
        while let Err(changed) = entry.swap(word, word.with_protocol(stream)) {
            word = changed;
        }
    }
    let (timeout, is_assured) = life_of_datagrams(word, part.proto == proto::UDPLITE, now, s);
    if is_assured {
        entry.set_status(status::ASSURED);
    }
    Ok(timeout)
}

/// ICMP and ICMPv6 queries and their answers; only a query may begin a flow.
fn query(word: Word, part: &Part, s: &Sysctl) -> Result<u64, Invalid> {
    let (kind, _) = part.icmp.ok_or(Invalid::Truncated)?;
    let begins = match part.family {
        // Echo, timestamp, information, address mask.
        Family::V4 => matches!(kind, 8 | 13 | 15 | 17),
        // Echo, node information.
        Family::V6 => matches!(kind, 128 | 139),
    };
    if word.life() == Life::Unconfirmed && !begins {
        return Err(Invalid::NoQuery);
    }
    Ok(match part.family {
        Family::V4 => s.nf_conntrack_icmp_timeout,
        Family::V6 => s.nf_conntrack_icmpv6_timeout,
    })
}
