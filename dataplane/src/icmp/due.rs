//! May a packet be answered with an ICMP error?
//!
//! The rules of RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e) as `icmp_send`, `icmp6_send` and `nf_reject` apply
//! them. Whether a destination is the broadcast address of a network only routing knows; the engine asks it.

use crate::packet::checksum::Sum;
use crate::packet::view::Udp;
use sumun_config::facts::{Facts, Family, PacketType, proto};

/// Whether an error may be sent about this packet at all.
///
/// Never about packets to or from groups or everybody, without a source, or about ICMP errors. IPv4 wants no errors about
/// later fragments; IPv6 does.
pub fn is_due(facts: &Facts, l3: &[u8]) -> bool {
    if facts.pkt_type != PacketType::Host || !is_one_host(facts.family, facts.src) {
        return false;
    }
    let l4 = || l3.get(usize::from(facts.l4_off)..usize::from(facts.len)).and_then(|l4| l4.first());
    match facts.family {
        Family::V4 if is_group(facts.family, facts.dst) || facts.is_later_fragment() => false,
        Family::V4 if facts.proto == proto::ICMP => l4().is_some_and(|kind| matches!(kind, 0 | 8 | 13..=18)),
        Family::V6 if is_group(facts.family, facts.dst) => false,
        Family::V6 if facts.proto == proto::ICMPV6 && !facts.is_later_fragment() => {
            l4().is_some_and(|kind| kind & 0x80 != 0)
        }
        _ => true,
    }
}

/// Whether REJECT may answer this packet with an error: as [`is_due`], and in neither family a later fragment or a packet
/// whose checksum is wrong, which may come from somebody else than it says.
pub fn is_reject_due(facts: &Facts, l3: &[u8]) -> bool {
    is_due(facts, l3) && !facts.is_later_fragment() && is_vouched_for(facts, l3)
}

/// Whether REJECT may answer this segment with a reset, as far as its addresses say: to it an IPv4 address in the place of an IPv6
/// one is nobody's (`nf_reject_ip6_tcphdr_get` asks for unicast). Local sockets are not so strict.
pub fn is_reset_due(facts: &Facts) -> bool {
    let is_mapped = |addr: u128| facts.family == Family::V6 && addr >> 32 == 0xffff;
    !is_mapped(facts.src) && !is_mapped(facts.dst)
}

/// Whether the checksum confirms who sent the packet, as `nf_reject_verify_csum` and `nf_checksum` see it: a first
/// fragment is summed as if it were whole, and a protocol that the kernel does not know as if its checksum covered all.
fn is_vouched_for(facts: &Facts, l3: &[u8]) -> bool {
    let Some(l4) = l3.get(usize::from(facts.l4_off)..usize::from(facts.len)) else { return false };
    let plain = Sum::new().bytes(l4);
    let with_pseudo = plain.pseudo(facts.src, facts.dst, facts.proto, l4.len());
    match (facts.proto, facts.family) {
        (_, Family::V6) if l4.is_empty() => false,
        (proto::GRE | proto::AH | proto::ESP | proto::SCTP | proto::UDPLITE | proto::DCCP, _) => true,
        (proto::UDP, _) if Udp::new(l4).is_some_and(|udp| udp.checksum() == 0) => true,
        (proto::TCP | proto::UDP, _) | (_, Family::V6) => with_pseudo.is_valid(),
        // Summed together with the IP header, whose own sum is all ones.
        (_, Family::V4) => matches!(plain.fold(), 0 | 0xffff),
    }
}

/// Whether an address stands for exactly one host.
pub(super) fn is_one_host(family: Family, addr: u128) -> bool {
    addr != 0 && !is_group(family, addr)
}

/// Multicast, or IPv4's limited broadcast.
fn is_group(family: Family, addr: u128) -> bool {
    match family {
        Family::V4 => addr >> 28 == 0xe || addr == Family::V4.ones(),
        Family::V6 => addr >> 120 == 0xff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::sample::{self, packet, v4, v6};

    fn due(family: Family, bytes: &[u8], change: fn(&mut Facts)) -> (bool, bool) {
        let mut facts = parse::ip(family, bytes).unwrap();
        change(&mut facts);
        (is_due(&facts, bytes), is_reject_due(&facts, bytes))
    }

    #[test]
    fn an_ipv4_address_in_the_place_of_an_ipv6_one_gets_no_reset_from_reject() {
        let facts = parse::ip(Family::V6, &v6(proto::TCP, &sample::tcp(1, 2, 2, &[], b""))).unwrap();
        for (mapped, is_answered) in [(0xffff_0102_0304, false), (0xfffe_0102_0304, true)] {
            assert_eq!(is_reset_due(&Facts { src: mapped, ..facts }), is_answered, "{mapped:x}");
            assert_eq!(is_reset_due(&Facts { dst: mapped, ..facts }), is_answered, "{mapped:x}");
        }
    }

    #[test]
    fn errors_are_never_answered_queries_are() {
        for kind in 0..=255u8 {
            let bytes = v4(proto::ICMP, &sample::icmp(kind, 0, 0, b""));
            let expected = matches!(kind, 0 | 8 | 13 | 14 | 15 | 16 | 17 | 18);
            assert_eq!(due(Family::V4, &bytes, |_| ()), (expected, expected), "{kind}");
            let bytes = v6(proto::ICMPV6, &sample::icmpv6(kind, 0, 0, b""));
            assert_eq!(due(Family::V6, &bytes, |_| ()), (kind >= 128, kind >= 128), "{kind}");
        }
        // An ICMP packet too short to tell what it is.
        assert_eq!(due(Family::V4, &v4(proto::ICMP, &[]), |_| ()), (false, false));
        assert_eq!(due(Family::V6, &v6(proto::ICMPV6, &[]), |_| ()), (false, false));
    }

    #[test]
    fn only_packets_between_two_hosts_are_answered() {
        type Change = fn(&mut Facts);
        let cases: &[(Change, bool)] = &[
            (|_| (), true),
            (|f| f.src = 0, false),
            (|f| f.pkt_type = PacketType::Broadcast, false),
            (|f| f.pkt_type = PacketType::Multicast, false),
            (|f| f.src = if f.family == Family::V4 { 0xe000_0001 } else { 0xff02 << 112 | 1 }, false),
            (|f| f.dst = if f.family == Family::V4 { 0xefff_ffff } else { 0xff02 << 112 | 1 }, false),
            (|f| f.dst = if f.family == Family::V4 { 0xffff_ffff } else { 0xffff << 112 }, false),
        ];
        for family in Family::ALL {
            // Checksum zero, so that the addresses do not matter to it.
            let mut bytes = packet(family, proto::UDP, &sample::udp(1, 2, b""));
            let at = bytes.len() - 2;
            bytes[at..].fill(0);
            for (change, expected) in cases {
                assert_eq!(due(family, &bytes, *change), (*expected, *expected));
            }
        }
    }

    #[test]
    fn later_fragments_are_answered_with_ipv6_only_and_never_rejected() {
        let later = sample::v4_with(&[], 7, proto::UDP, &[0; 16]);
        assert_eq!(due(Family::V4, &later, |_| ()), (false, false));
        let first = sample::v4_with(&[], 0x2000, proto::UDP, &sample::udp(1, 2, b""));
        assert_eq!(due(Family::V4, &first, |_| ()), (true, true));
        let later = v6(proto::FRAGMENT, &[proto::ICMPV6, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(due(Family::V6, &later, |_| ()), (true, false));
    }

    #[test]
    fn a_wrong_checksum_is_not_rejected() {
        for family in Family::ALL {
            let mut bytes = packet(family, proto::TCP, &sample::tcp(1, 2, 2, &[], b"x"));
            *bytes.last_mut().unwrap() ^= 1;
            assert_eq!(due(family, &bytes, |_| ()), (true, false));
        }
    }
}
