//! Rewriting a packet in place: bytes, checksums and facts change together.
//!
//! Checksums are updated from the difference (RFC 1624), so a packet that came with a wrong one leaves with a wrong one,
//! and nothing beyond the header is read. A UDP checksum of zero stays zero, as the kernel's NAT keeps it; one that
//! becomes zero is written 0xffff (RFC 768). Without an L4 header (later fragments) only the IP header changes. SCTP's CRC
//! cannot be updated so and is computed anew, which needs the whole packet: ports of SCTP fragments are left alone.
//!
//! `l3` starts at the IP header; the facts must be those of its packet. Bytes that do not fit them are left unchanged.

use super::checksum::{Sum, replace, replace_wide};
use super::crc32c;
use super::view::icmp_has_id;
use sumun_config::facts::{Facts, Family, proto};

#[inline]
fn read(l3: &[u8], at: usize) -> Option<u16> {
    l3.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

#[inline]
fn write(l3: &mut [u8], at: usize, value: u16) {
    if let Some(field) = l3.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

/// Where the L4 checksum is, for the protocols that have an Internet checksum; none without an L4 header.
#[inline]
fn checksum_at(facts: &Facts) -> Option<usize> {
    let within = match facts.proto {
        proto::TCP => 16,
        proto::UDP | proto::UDPLITE | proto::DCCP => 6,
        proto::ICMP | proto::ICMPV6 => 2,
        _ => return None,
    };
    facts.has_l4.then_some(usize::from(facts.l4_off) + within)
}

/// Updates the L4 checksum by `change`, with the rules of UDP.
#[inline]
fn update_l4(l3: &mut [u8], facts: &Facts, change: impl FnOnce(u16) -> u16) {
    let Some(at) = checksum_at(facts) else { return };
    let Some(check) = read(l3, at) else { return };
    let check = match (facts.proto, check) {
        (proto::UDP, 0) => return,
        (proto::UDP | proto::UDPLITE, check) => match change(check) {
            0 => 0xffff,
            check => check,
        },
        (_, check) => change(check),
    };
    write(l3, at, check);
}

/// Changes a 16-bit word of the IPv4 header at `at`.
#[inline]
fn set_ipv4_word(l3: &mut [u8], at: usize, new: u16) {
    if let (Some(old), Some(check)) = (read(l3, at), read(l3, 10)) {
        write(l3, 10, replace(check, old, new));
        write(l3, at, new);
    }
}

#[inline]
fn set_address(l3: &mut [u8], facts: &Facts, old: u128, new: u128, v4_at: usize, v6_at: usize) {
    let [was, is] = [old, new].map(|address| Sum::new().wide(address).fold());
    match facts.family {
        Family::V4 => {
            let Some(check) = read(l3, 10) else { return };
            let Some(field) = l3.get_mut(v4_at..).and_then(|bytes| bytes.first_chunk_mut()) else { return };
            *field = (new as u32).to_be_bytes();
            write(l3, 10, replace(check, was, is));
            // Only ICMPv4 has no pseudo header.
            if facts.proto == proto::ICMP {
                return;
            }
        }
        Family::V6 => {
            let Some(field) = l3.get_mut(v6_at..).and_then(|bytes| bytes.first_chunk_mut()) else { return };
            *field = new.to_be_bytes();
        }
    }
    update_l4(l3, facts, |check| replace(check, was, is));
}

/// Sets the source address.
#[inline]
pub fn set_source(l3: &mut [u8], facts: &mut Facts, addr: u128) {
    set_address(l3, facts, facts.src, addr, 12, 8);
    facts.src = addr;
}

/// Sets the destination address.
#[inline]
pub fn set_destination(l3: &mut [u8], facts: &mut Facts, addr: u128) {
    set_address(l3, facts, facts.dst, addr, 16, 24);
    facts.dst = addr;
}

/// Sets the source port of TCP, UDP, UDP-Lite, SCTP and DCCP; nothing for others.
#[inline]
pub fn set_sport(l3: &mut [u8], facts: &mut Facts, port: u16) {
    if set_port(l3, facts, 0, facts.sport, port) {
        facts.sport = port;
    }
}

/// Sets the destination port of TCP, UDP, UDP-Lite, SCTP and DCCP; nothing for others.
#[inline]
pub fn set_dport(l3: &mut [u8], facts: &mut Facts, port: u16) {
    if set_port(l3, facts, 2, facts.dport, port) {
        facts.dport = port;
    }
}

#[inline]
fn set_port(l3: &mut [u8], facts: &Facts, within: usize, old: u16, new: u16) -> bool {
    let at = usize::from(facts.l4_off) + within;
    match facts.proto {
        _ if !facts.has_l4 => return false,
        proto::TCP | proto::UDP | proto::UDPLITE | proto::DCCP => {
            write(l3, at, new);
            update_l4(l3, facts, |check| replace(check, old, new));
        }
        proto::SCTP if !facts.is_fragment() => {
            write(l3, at, new);
            let packet = l3.get_mut(usize::from(facts.l4_off)..usize::from(facts.len));
            if let Some((packet, crc)) = packet.and_then(|packet| crc32c::sctp(packet).map(|crc| (packet, crc))) {
                packet[8..12].copy_from_slice(&crc);
            }
        }
        _ => return false,
    }
    true
}

/// Sets the identifier of an ICMP query or its answer, or of an ICMPv6 echo (`icmpv6_manip_pkt`); nothing for other messages.
#[inline]
pub fn set_icmp_id(l3: &mut [u8], facts: &mut Facts, id: u16) {
    let is_written = |kind| match facts.family {
        Family::V4 => icmp_has_id(Family::V4, kind),
        Family::V6 => matches!(kind, 128 | 129),
    };
    if facts.icmp().is_some_and(|(kind, _)| is_written(kind)) {
        write(l3, usize::from(facts.l4_off) + 4, id);
        update_l4(l3, facts, |check| replace(check, facts.sport, id));
        facts.sport = id;
    }
}

/// Sets a 32-bit field of the TCP header at `at`, which may be odd.
pub fn set_long(l3: &mut [u8], facts: &Facts, at: usize, new: u32) {
    let Some(field) = l3.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) else { return };
    let old = u32::from_be_bytes(*field);
    *field = new.to_be_bytes();
    // At an odd place the bytes are summed swapped.
    let summed = |value: u32| match (at - usize::from(facts.l4_off).min(at)) % 2 {
        0 => value,
        _ => value.rotate_left(8),
    };
    update_l4(l3, facts, |check| replace_wide(check, summed(old).into(), summed(new).into()));
}

/// Sets the length of the packet: total length, or the length of what is behind the IPv6 header.
pub fn set_length(l3: &mut [u8], facts: &mut Facts, len: u16) {
    match facts.family {
        Family::V4 => set_ipv4_word(l3, 2, len),
        Family::V6 => write(l3, 4, len.saturating_sub(40)),
    }
    facts.len = len;
}

/// Writes an IPv4 header's checksum anew. Nothing for IPv6.
pub fn sum_header(l3: &mut [u8], facts: &mut Facts) {
    if facts.family == Family::V4 {
        write(l3, 10, 0);
        let sum = Sum::new().bytes(l3.get(..usize::from(facts.l4_off)).unwrap_or_default()).checksum();
        write(l3, 10, sum);
    }
}

/// Sets TTL or hop limit.
#[inline]
pub fn set_ttl(l3: &mut [u8], facts: &mut Facts, ttl: u8) {
    match facts.family {
        Family::V4 => {
            if let Some(word) = read(l3, 8) {
                set_ipv4_word(l3, 8, u16::from(ttl) << 8 | word & 0xff);
            }
        }
        Family::V6 => {
            if let Some(field) = l3.get_mut(7) {
                *field = ttl;
            }
        }
    }
    facts.ttl = ttl;
}

/// Takes one off TTL or hop limit, which must not be zero (zero stays zero).
#[inline]
pub fn decrement_ttl(l3: &mut [u8], facts: &mut Facts) {
    set_ttl(l3, facts, facts.ttl.saturating_sub(1));
}

/// Lets an unfragmented IPv4 packet be fragmented: clears Don't Fragment and gives it an identification. Nothing for IPv6.
pub fn allow_fragments(l3: &mut [u8], facts: &mut Facts, id: u16) {
    if facts.family == Family::V4 {
        set_ipv4_word(l3, 4, id);
        set_ipv4_word(l3, 6, 0);
        (facts.ip_id, facts.dont_frag) = (id, false);
    }
}

/// Forbids that an IPv4 packet be fragmented: sets Don't Fragment. Nothing for IPv6.
pub fn forbid_fragments(l3: &mut [u8], facts: &mut Facts) {
    if let (Family::V4, Some(word)) = (facts.family, read(l3, 6)) {
        set_ipv4_word(l3, 6, word | 0x4000);
        facts.dont_frag = true;
    }
}

/// Writes the sum of a TCP segment as one that is never zero: both zeros mean the same.
pub fn avoid_zero_tcp_sum(l3: &mut [u8], facts: &mut Facts) {
    let at = usize::from(facts.l4_off) + 16;
    if let Some(sum) = l3.get_mut(at..at + 2).filter(|sum| **sum == [0, 0]) {
        sum.fill(0xff);
    }
}

/// Takes Don't Fragment from an IPv4 packet. Nothing for IPv6.
pub fn clear_dont_fragment(l3: &mut [u8], facts: &mut Facts) {
    if let (Family::V4, Some(word)) = (facts.family, read(l3, 6)) {
        set_ipv4_word(l3, 6, word & !0x4000);
        facts.dont_frag = false;
    }
}

/// Sets the whole TOS byte or traffic class, ECN bits included.
#[inline]
pub fn set_tos(l3: &mut [u8], facts: &mut Facts, tos: u8) {
    if let Some(word) = read(l3, 0) {
        match facts.family {
            Family::V4 => set_ipv4_word(l3, 0, word & 0xff00 | u16::from(tos)),
            Family::V6 => write(l3, 0, word & 0xf00f | u16::from(tos) << 4),
        }
    }
    facts.tos = tos;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::sample::{self, packet, v4, v6};
    use proptest::prelude::*;

    /// What a checksum must be once it is not allowed to be zero.
    fn recomputed(family: Family, bytes: &[u8]) -> Vec<u8> {
        let mut again = bytes.to_vec();
        if family == Family::V4 {
            sample::fix_ipv4_header(&mut again);
        }
        sample::fix_l4(family, &mut again);
        again
    }

    /// Facts after an edit must be those of a fresh parse.
    fn assert_true(family: Family, bytes: &[u8], facts: &Facts) {
        let fresh = parse::ip(family, bytes).expect("still a packet");
        assert_eq!(format!("{fresh:?}"), format!("{facts:?}"));
        assert!(parse::l4_checksum_ok(facts, bytes));
    }

    #[test]
    fn a_translated_syn_has_the_checksums_of_a_fresh_one() {
        let mut bytes = v4(proto::TCP, &sample::tcp(40000, 80, 2, &[2, 4, 5, 0xb4], b""));
        let mut facts = parse::ip(Family::V4, &bytes).unwrap();
        set_source(&mut bytes, &mut facts, 0xcb00_7105);
        set_sport(&mut bytes, &mut facts, 50000);
        assert_eq!(bytes[12..16], [203, 0, 113, 5]);
        assert_eq!(bytes[20..22], 50000u16.to_be_bytes());
        assert_eq!(recomputed(Family::V4, &bytes), bytes);
        assert_true(Family::V4, &bytes, &facts);
    }

    #[test]
    fn udp_zero_stays_zero_and_a_zero_result_is_all_ones() {
        for family in Family::ALL {
            let mut bytes = packet(family, proto::UDP, &sample::udp(1000, 2000, b"x"));
            let mut facts = parse::ip(family, &bytes).unwrap();
            let at = usize::from(facts.l4_off) + 6;
            let check = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            // The port that makes the checksum zero: what is left of the sum goes into it.
            set_sport(&mut bytes, &mut facts, 1000 + check);
            assert_eq!(bytes[at..at + 2], [0xff, 0xff]);
            assert_true(family, &bytes, &facts);

            bytes[at..at + 2].fill(0);
            set_sport(&mut bytes, &mut facts, 7);
            set_source(&mut bytes, &mut facts, 9);
            assert_eq!(bytes[at..at + 2], [0, 0]);
        }
    }

    #[test]
    fn later_fragments_change_only_in_the_ip_header() {
        let payload = [0xaa; 32];
        let mut bytes = sample::v4_with(&[], 185, proto::TCP, &payload);
        let mut facts = parse::ip(Family::V4, &bytes).unwrap();
        set_source(&mut bytes, &mut facts, 0x0102_0304);
        set_sport(&mut bytes, &mut facts, 99);
        assert_eq!(bytes[20..], payload);
        assert_eq!(facts.sport, 0);
        assert_true(Family::V4, &bytes, &facts);

        let fragment = [&[proto::UDP, 0, 5, 0xa8, 0, 0, 0, 9][..], &payload].concat();
        let mut bytes = v6(proto::FRAGMENT, &fragment);
        let mut facts = parse::ip(Family::V6, &bytes).unwrap();
        set_destination(&mut bytes, &mut facts, 77);
        set_dport(&mut bytes, &mut facts, 99);
        assert_eq!(bytes[40..], fragment);
        assert_true(Family::V6, &bytes, &facts);
    }

    #[test]
    fn sctp_gets_a_new_crc() {
        let mut bytes = v4(proto::SCTP, &sample::sctp(1, 2, b"chunks"));
        let mut facts = parse::ip(Family::V4, &bytes).unwrap();
        set_dport(&mut bytes, &mut facts, 9);
        set_source(&mut bytes, &mut facts, 5);
        assert_eq!(bytes[20..], sample::sctp(1, 9, b"chunks"));
        assert_true(Family::V4, &bytes, &facts);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut bytes = v4(proto::TCP, &sample::tcp(1, 2, 2, &[], b""));
        bytes[36] ^= 1;
        let mut facts = parse::ip(Family::V4, &bytes).unwrap();
        set_source(&mut bytes, &mut facts, 5);
        assert!(!parse::l4_checksum_ok(&facts, &bytes));
    }

    fn upper_layers() -> impl Strategy<Value = (Family, u8, Vec<u8>)> {
        let payload = proptest::collection::vec(any::<u8>(), 0..40);
        (any::<bool>(), 0..5usize, payload).prop_map(|(is_v6, kind, payload)| {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let (proto, l4) = match kind {
                0 => (proto::TCP, sample::tcp(1000, 2000, 0x18, &[1, 1, 1, 1], &payload)),
                1 => (proto::UDP, sample::udp(1000, 2000, &payload)),
                2 => (proto::UDPLITE, sample::udp(1000, 2000, &payload)),
                3 => (proto::SCTP, sample::sctp(1000, 2000, &payload)),
                _ if is_v6 => (proto::ICMPV6, sample::icmpv6(128, 0, 0x0102_0304, &payload)),
                _ => (proto::ICMP, sample::icmp(8, 0, 0x0102_0304, &payload)),
            };
            (family, proto, l4)
        })
    }

    proptest! {
        #[test]
        fn edits_are_recomputations((family, proto, l4) in upper_layers(), edits in proptest::collection::vec((0..9u8, any::<u128>()), 1..6)) {
            let mut bytes = packet(family, proto, &l4);
            let mut facts = parse::ip(family, &bytes).unwrap();
            for (kind, value) in edits {
                let addr = value & family.ones();
                match kind {
                    0 => set_source(&mut bytes, &mut facts, addr),
                    1 => set_destination(&mut bytes, &mut facts, addr),
                    2 => set_sport(&mut bytes, &mut facts, value as u16),
                    3 => set_dport(&mut bytes, &mut facts, value as u16),
                    4 => set_icmp_id(&mut bytes, &mut facts, value as u16),
                    5 => set_ttl(&mut bytes, &mut facts, value as u8),
                    6 => decrement_ttl(&mut bytes, &mut facts),
                    7 => allow_fragments(&mut bytes, &mut facts, value as u16),
                    _ => set_tos(&mut bytes, &mut facts, value as u8),
                }
                assert_true(family, &bytes, &facts);
                if proto != proto::SCTP {
                    prop_assert_eq!(&recomputed(family, &bytes), &bytes);
                }
            }
        }

        #[test]
        fn facts_of_another_packet_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), off: u16, len: u16, proto: u8, is_v6: bool) {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let mut facts = Facts { proto, l4_off: off % 80, len: len % 80, has_l4: true, ..Facts::blank(family) };
            set_source(&mut bytes, &mut facts, 1);
            set_destination(&mut bytes, &mut facts, 1);
            set_sport(&mut bytes, &mut facts, 1);
            set_dport(&mut bytes, &mut facts, 1);
            set_icmp_id(&mut bytes, &mut facts, 1);
            decrement_ttl(&mut bytes, &mut facts);
            set_tos(&mut bytes, &mut facts, 1);
        }
    }
}
