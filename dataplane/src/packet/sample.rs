//! Packets for tests, with every length and checksum right.

use super::checksum::Sum;
use super::crc32c;
use crate::packet::parse;
use sumun_config::facts::{Family, proto};

/// Source address of [`v6`].
pub const V6_SRC: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0001;
/// Destination address of [`v6`].
pub const V6_DST: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0002;

/// From 10.0.0.1 to 10.0.0.2, DF set.
pub fn v4(protocol: u8, l4: &[u8]) -> Vec<u8> {
    v4_with(&[], 0x4000, protocol, l4)
}

/// The same with options (a multiple of four bytes) and a fragment word.
pub fn v4_with(options: &[u8], fragment: u16, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45 + (options.len() / 4) as u8, 0x10, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(options);
    packet.extend(l4);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    fix_ipv4_header(&mut packet);
    fix_l4(Family::V4, &mut packet);
    packet
}

/// Between [`V6_SRC`] and [`V6_DST`]; `l4` may start with extension headers, `next` being the first.
pub fn v6(next: u8, l4: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6b, 0x81, 0x23, 0x45];
    packet.extend((l4.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(V6_SRC.to_be_bytes());
    packet.extend(V6_DST.to_be_bytes());
    packet.extend(l4);
    fix_l4(Family::V6, &mut packet);
    packet
}

/// [`v4`] or [`v6`].
pub fn packet(family: Family, protocol: u8, l4: &[u8]) -> Vec<u8> {
    match family {
        Family::V4 => v4(protocol, l4),
        Family::V6 => v6(protocol, l4),
    }
}

/// Computes the IPv4 header checksum anew.
pub fn fix_ipv4_header(packet: &mut [u8]) {
    let len = (usize::from(packet[0] & 0xf) * 4).min(packet.len());
    if len >= 12 {
        packet[10..12].fill(0);
        let check = Sum::new().bytes(&packet[..len]).checksum();
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }
}

/// Computes the L4 checksum anew.
pub fn fix_l4(family: Family, packet: &mut [u8]) {
    let Ok(facts) = parse::ip(family, packet) else { return };
    if !facts.has_l4 {
        return;
    }
    let (src, dst, proto) = (facts.src, facts.dst, facts.proto);
    let l4 = &mut packet[usize::from(facts.l4_off)..usize::from(facts.len)];
    let (at, pseudo, covered) = match proto {
        proto::TCP => (16, true, l4.len()),
        proto::UDP => (6, true, l4.len()),
        proto::UDPLITE => (6, true, usize::from(u16::from_be_bytes([l4[4], l4[5]])).min(l4.len())),
        proto::ICMP => (2, false, l4.len()),
        proto::ICMPV6 => (2, true, l4.len()),
        _ => return,
    };
    l4[at..at + 2].fill(0);
    let start = if pseudo { Sum::new().pseudo(src, dst, proto, l4.len()) } else { Sum::new() };
    let check = match start.bytes(&l4[..covered]).checksum() {
        0 if matches!(proto, proto::UDP | proto::UDPLITE) => 0xffff,
        check => check,
    };
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// A TCP segment; `options` is a multiple of four bytes.
pub fn tcp(sport: u16, dport: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut segment = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    segment.extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    segment.extend([((20 + options.len()) * 4) as u8, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// A UDP datagram.
pub fn udp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let head = [sport.to_be_bytes(), dport.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    [head, payload.to_vec()].concat()
}

/// An ICMP or ICMPv6 message.
pub fn icmp(kind: u8, code: u8, rest: u32, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &rest.to_be_bytes(), payload].concat()
}

/// The same by another name, where the test speaks of IPv6.
pub use icmp as icmpv6;

/// An SCTP packet.
pub fn sctp(sport: u16, dport: u16, chunks: &[u8]) -> Vec<u8> {
    let mut packet = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    packet.extend([1, 2, 3, 4, 0, 0, 0, 0]);
    packet.extend(chunks);
    let crc = crc32c::sctp(&packet).unwrap();
    packet[8..12].copy_from_slice(&crc);
    packet
}
