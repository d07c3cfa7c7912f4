//! NPTv6 (RFC 6296), as `ip6t_NPT.c` does it: an address gets another prefix, and one word behind the prefix takes up the
//! difference, so that checksums over the address stay right and are not touched.
//!
//! As many bits are replaced as the longer of the two prefixes has. Where that is at most 48, the fourth word is adjusted; else
//! the first of the last four that is not 0xffff. A word that would become 0xffff becomes zero: in ones' complement they are
//! the same.

use crate::packet::checksum::Sum;
use sumun_config::facts::{Facts, Family, proto};
use sumun_config::rule::targets::npt::{End, Npt};

/// Offset of an address in the IPv6 header.
const fn at(end: End) -> usize {
    match end {
        End::Source => 8,
        End::Destination => 24,
    }
}

/// The address with the other prefix, and whether it is adjusted: with 0xffff in all of its last four words it cannot be.
fn map(npt: &Npt, addr: u128) -> (u128, bool) {
    let length = npt.from.length.max(npt.to.length);
    let mut addr = addr & !Family::V6.mask(length) | npt.to.bits;
    let word = |n: u32| addr >> (112 - 16 * n) & 0xffff;
    let adjusted = if length <= 48 { Some(3) } else { (4..8).find(|&n| word(n) != 0xffff) };
    let Some(n) = adjusted else { return (addr, false) };
    let sum = Sum::new().word(word(n) as u16).wide(npt.from.bits).word(!Sum::new().wide(npt.to.bits).fold()).fold();
    let sum = if sum == 0xffff { 0 } else { sum };
    let shift = 112 - 16 * n;
    addr = addr & !(0xffff << shift) | u128::from(sum) << shift;
    (addr, true)
}

/// Gives the packet's address its other prefix, and in an ICMPv6 error also the address that it quotes from the other end, where
/// that has the prefix. False: the address has no word to adjust; its prefix has changed even so.
pub(crate) fn is_mapped(npt: &Npt, l3: &mut [u8], facts: &mut Facts) -> bool {
    let (old, quoted) = match npt.end {
        End::Source => (&mut facts.src, End::Destination),
        End::Destination => (&mut facts.dst, End::Source),
    };
    let (addr, is_adjusted) = map(npt, *old);
    let Some(field) = l3.get_mut(at(npt.end)..).and_then(|bytes| bytes.first_chunk_mut()) else { return false };
    *field = addr.to_be_bytes();
    *old = addr;
    if is_adjusted && l3.get(6) == Some(&proto::ICMPV6) {
        map_quoted(npt, quoted, l3);
    }
    is_adjusted
}

/// The host behind us sent what the error quotes, and must know it again.
fn map_quoted(npt: &Npt, end: End, l3: &mut [u8]) {
    const IP: usize = 40;
    const QUOTE: usize = IP + 8;
    let is_error = l3.get(IP).is_some_and(|kind| (1..=4).contains(kind));
    if !is_error || l3.len() < QUOTE + IP {
        return;
    }
    if let Some(field) = l3.get_mut(QUOTE + at(end)..).and_then(|bytes| bytes.first_chunk_mut()) {
        let addr = u128::from_be_bytes(*field);
        if addr & Family::V6.mask(npt.from.length) == npt.from.bits {
            *field = map(npt, addr).0.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample::{self, v6};
    use crate::packet::{edit, parse};
    use proptest::prelude::*;
    use std::net::Ipv6Addr;
    use sumun_config::rule::targets::npt::Prefix;

    fn address(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().to_bits()
    }

    fn npt(end: End, from: &str, from_length: u8, to: &str, to_length: u8) -> Npt {
        let prefix = |text, length| Prefix { bits: address(text), length };
        Npt { end, from: prefix(from, from_length), to: prefix(to, to_length) }
    }

    fn mapped(npt: &Npt, addr: &str) -> Option<String> {
        let (addr, is_adjusted) = map(npt, address(addr));
        is_adjusted.then(|| Ipv6Addr::from(addr).to_string())
    }

    #[test]
    fn the_example_of_rfc_6296() {
        // Section 3.5: FD01:0203:0405:/48 to 2001:0DB8:0001:/48, and back.
        let (inner, outer) = ("fd01:203:405:1::1234", "2001:db8:1:d550::1234");
        let out = npt(End::Source, "fd01:203:405::", 48, "2001:db8:1::", 48);
        assert_eq!(mapped(&out, inner).as_deref(), Some(outer));
        let back = npt(End::Destination, "2001:db8:1::", 48, "fd01:203:405::", 48);
        assert_eq!(mapped(&back, outer).as_deref(), Some(inner));
    }

    #[test]
    fn behind_a_long_prefix_the_first_word_that_is_not_all_ones_is_adjusted() {
        let out = npt(End::Source, "fd00:1::", 64, "2001:db8:2::", 64);
        assert_eq!(mapped(&out, "fd00:1::11").as_deref(), Some("2001:db8:2:0:cf46::11"));
        assert_eq!(mapped(&out, "fd00:1::ffff:0:0:11").as_deref(), Some("2001:db8:2:0:ffff:cf46:0:11"));
        assert_eq!(mapped(&out, "fd00:1::ffff:ffff:ffff:11").as_deref(), Some("2001:db8:2:0:ffff:ffff:ffff:cf57"));
        assert_eq!(mapped(&out, "fd00:1::ffff:ffff:ffff:ffff"), None);
    }

    #[test]
    fn the_longer_prefix_counts_and_all_ones_become_zero() {
        let out = npt(End::Source, "fd00:1::", 48, "2001:db8:2:100::", 56);
        assert_eq!(mapped(&out, "fd00:1::ab:5:0:0:11").as_deref(), Some("2001:db8:2:1ab:ce4b::11"));
        let same = npt(End::Source, "fd00:1::", 48, "fd00:1::", 48);
        assert_eq!(mapped(&same, "fd00:1:0:ffff::1").as_deref(), Some("fd00:1::1"));
        assert_eq!(mapped(&same, "fd00:1::1").as_deref(), Some("fd00:1::1"));
    }

    #[test]
    fn errors_bring_back_the_address_that_their_receiver_knows() {
        let (outer, inner) = (address("2001:db8:2::9"), address("fd00:1::11"));
        let out = npt(End::Source, "fd00:1::", 64, "2001:db8:2::", 64);
        let back = npt(End::Destination, "2001:db8:2::", 64, "fd00:1::", 64);
        let known = map(&out, inner).0;
        for (npt, from, to) in [(&back, known, outer), (&out, outer, inner)] {
            let mut quoted = v6(proto::UDP, &sample::udp(1000, 53, b"question"));
            let mut facts = parse::ip(Family::V6, &quoted).unwrap();
            edit::set_source(&mut quoted, &mut facts, from);
            edit::set_destination(&mut quoted, &mut facts, to);
            let mut bytes = v6(proto::ICMPV6, &sample::icmpv6(1, 4, 0, &quoted));
            let mut facts = parse::ip(Family::V6, &bytes).unwrap();
            assert!(is_mapped(npt, &mut bytes, &mut facts));
            let quote = parse::embedded(Family::V6, &bytes[48..]).unwrap();
            let expected = if npt.end == End::Destination { (inner, outer) } else { (outer, map(&out, inner).0) };
            assert_eq!((quote.src, quote.dst), expected);
        }
    }

    proptest! {
        #[test]
        fn checksums_stay_right(from: u128, to: u128, from_length in 0..=64u8, to_length in 0..=64u8, src: u128, payload in proptest::collection::vec(any::<u8>(), 0..20)) {
            let prefix = |bits: u128, length| Prefix { bits: bits & Family::V6.mask(length), length };
            let (from, to) = (prefix(from, from_length), prefix(to, to_length));
            let mut bytes = v6(proto::TCP, &sample::tcp(1, 2, 2, &[], &payload));
            let mut facts = parse::ip(Family::V6, &bytes).unwrap();
            let length = from_length.max(to_length);
            // Only the own prefix can be made up for.
            let src = src & !Family::V6.mask(length) | from.bits;
            edit::set_source(&mut bytes, &mut facts, src);
            let npt = Npt { end: End::Source, from, to };
            let is_adjusted = is_mapped(&npt, &mut bytes, &mut facts);
            prop_assert!(is_adjusted);
            prop_assert_eq!(facts.src & Family::V6.mask(length.min(48)), to.bits & Family::V6.mask(length.min(48)));
            prop_assert!(parse::l4_checksum_ok(&facts, &bytes));
            prop_assert_eq!(parse::ip(Family::V6, &bytes).unwrap().src, facts.src);
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut facts = Facts::blank(Family::V6);
            for end in [End::Source, End::Destination] {
                is_mapped(&npt(end, "fd00:1::", 48, "2001:db8:2::", 64), &mut bytes, &mut facts);
            }
        }
    }
}
