//! Checksums that their sender left to its device.
//!
//! The sockets of a host leave TCP's, UDP's and SCTP's checksum to a device that computes it (CHECKSUM_PARTIAL). Behind a
//! veth, a virtio device or a TAP there is no such device, only a note in the skb that XDP never sees: the packet comes with
//! a field that holds the sum of the pseudo header, folded and not complemented (SCTP: zero), and would be thrown away by
//! whoever checks it next. On ports that finish checksums such a packet gets the one that it was to have.
//!
//! What is right as it is stays, and so does what is neither right nor unfinished: damage stays damage. Fragments are never
//! unfinished: the kernel sums before it cuts. Nor are ICMP, ICMPv6, UDP-Lite and DCCP, which it always sums itself.
//!
//! The common case costs the sum of the pseudo header: all else is done only where that is what the field holds.

use super::checksum::Sum;
use super::crc32c;
use sumun_config::facts::{Facts, proto};

/// Offsets of the checksum in TCP, UDP and SCTP headers.
const TCP: usize = 16;
const UDP: usize = 6;
const SCTP: std::ops::Range<usize> = 8..12;

/// Finishes the checksum of an IP packet with these facts where it is unfinished. Whether it was.
#[inline]
pub fn finish(l3: &mut [u8], facts: &Facts) -> bool {
    if !facts.has_l4 || facts.is_fragment() {
        return false;
    }
    let Some(l4) = l3.get_mut(usize::from(facts.l4_off)..usize::from(facts.len)) else { return false };
    let at = match facts.proto {
        proto::TCP => TCP,
        proto::UDP => UDP,
        proto::SCTP => return finish_sctp(l4),
        _ => return false,
    };
    let pseudo = Sum::new().pseudo(facts.src, facts.dst, facts.proto, l4.len());
    let holds = l4.get(at..at + 2).and_then(|field| field.first_chunk().copied());
    holds.is_some_and(|field| u16::from_be_bytes(field) == pseudo.fold()) && finish_sum(l4, at, pseudo)
}

/// Of a packet whose field holds the sum of the pseudo header.
#[cold]
fn finish_sum(l4: &mut [u8], at: usize, pseudo: Sum) -> bool {
    // The field holds that sum, so what it adds to the packet's is what the pseudo header would.
    let sum = Sum::new().bytes(l4);
    if Sum::new().word(sum.fold()).word(pseudo.fold()).is_valid() {
        return false;
    }
    let check = match sum.checksum() {
        0 if at == UDP => 0xffff,
        check => check,
    };
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    true
}

/// An SCTP packet whose field is zero is unfinished, unless its CRC is.
fn finish_sctp(l4: &mut [u8]) -> bool {
    if l4.get(SCTP).is_none_or(|field| field != [0; 4]) {
        return false;
    }
    let Some(crc) = crc32c::sctp(l4) else { return false };
    l4[SCTP].copy_from_slice(&crc);
    crc != [0; 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample::{self, packet, tcp, udp};
    use crate::packet::{checksum, parse};
    use proptest::prelude::*;
    use sumun_config::facts::Family;

    /// What a socket leaves to its device.
    fn unfinished(family: Family, whole: &[u8], at: usize) -> Vec<u8> {
        let facts = parse::ip(family, whole).unwrap();
        let mut packet = whole.to_vec();
        let l4 = usize::from(facts.l4_off);
        let pseudo = checksum::Sum::new().pseudo(facts.src, facts.dst, facts.proto, whole.len() - l4).fold();
        packet[l4 + at..l4 + at + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet
    }

    fn finished(family: Family, packet: &[u8]) -> (bool, Vec<u8>) {
        let mut packet = packet.to_vec();
        let facts = parse::ip(family, &packet).unwrap();
        (finish(&mut packet, &facts), packet)
    }

    proptest! {
        #[test]
        fn what_was_left_to_a_device_is_finished(payload in proptest::collection::vec(any::<u8>(), 0..99), six: bool) {
            let family = if six { Family::V6 } else { Family::V4 };
            for (proto, at, l4) in [(proto::TCP, TCP, tcp(1, 2, 0x10, &[], &payload)), (proto::UDP, UDP, udp(1, 2, &payload))] {
                let whole = packet(family, proto, &l4);
                prop_assert_eq!(finished(family, &whole), (false, whole.clone()), "right as it is");
                prop_assert_eq!(finished(family, &unfinished(family, &whole, at)), (true, whole.clone()));
                let mut damaged = whole;
                let last = damaged.len() - 1;
                damaged[last] ^= 0x55;
                prop_assert_eq!(finished(family, &damaged), (false, damaged.clone()), "damage stays");
            }
        }
    }

    #[test]
    fn a_checksum_that_is_right_and_looks_unfinished_stays() {
        // The payload sums to zero, and so does the rest of the packet: the right field is the pseudo header's own sum.
        for family in [Family::V4, Family::V6] {
            let mut whole = packet(family, proto::UDP, &udp(1, 2, &[0, 0]));
            let facts = parse::ip(family, &whole).unwrap();
            let (l4, end) = (usize::from(facts.l4_off), whole.len());
            let pseudo = Sum::new().pseudo(facts.src, facts.dst, proto::UDP, end - l4).fold();
            let filling = Sum::new().word(pseudo).word(pseudo).bytes(&[0, 1, 0, 2, 0, 10]).checksum();
            whole[end - 2..].copy_from_slice(&filling.to_be_bytes());
            whole[l4 + UDP..l4 + UDP + 2].copy_from_slice(&pseudo.to_be_bytes());
            let mut again = whole.clone();
            sample::fix_l4(family, &mut again);
            assert_eq!(whole, again, "it is right");
            assert_eq!(finished(family, &whole), (false, whole));
        }
    }

    #[test]
    fn no_checksum_of_udp_is_not_an_unfinished_one() {
        let mut none = packet(Family::V4, proto::UDP, &udp(1, 2, b"none"));
        none[26..28].fill(0);
        assert_eq!(finished(Family::V4, &none), (false, none));
    }

    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
        let mut whole = packet(Family::V4, proto::UDP, &udp(1, 2, &[0, 0]));
        let sum = u16::from_be_bytes([whole[26], whole[27]]);
        whole[28..30].copy_from_slice(&sum.to_be_bytes());
        sample::fix_l4(Family::V4, &mut whole);
        assert_eq!(whole[26..28], [0xff, 0xff]);
        assert_eq!(finished(Family::V4, &unfinished(Family::V4, &whole, UDP)), (true, whole));
    }

    #[test]
    fn sctp_is_left_to_a_device_as_zero() {
        let whole = packet(Family::V6, proto::SCTP, &sample::sctp(1, 2, b"chunk"));
        let mut left = whole.clone();
        left[48..52].fill(0);
        assert_eq!(finished(Family::V6, &left), (true, whole.clone()));
        left[48] = 1;
        assert_eq!(finished(Family::V6, &left), (false, left));
        assert_eq!(finished(Family::V6, &whole), (false, whole));
    }

    #[test]
    fn fragments_and_what_is_never_left_to_devices_stay() {
        let first = sample::v4_with(&[], 0x2000, proto::UDP, &udp(1, 2, b"in parts"));
        assert_eq!(
            finished(Family::V4, &unfinished(Family::V4, &first, UDP)),
            (false, unfinished(Family::V4, &first, UDP))
        );
        let ping = packet(Family::V6, proto::ICMPV6, &sample::icmpv6(128, 0, 7, b"ping"));
        assert_eq!(finished(Family::V6, &unfinished(Family::V6, &ping, 2)), (false, unfinished(Family::V6, &ping, 2)));
        let short = packet(Family::V4, proto::TCP, &[0; 12]);
        assert_eq!(finished(Family::V4, &short), (false, short));
    }
}
