//! Where headers begin that the facts do not tell of, and what becomes of a packet that lacks them.

use crate::facts::{Facts, proto};
use crate::rule::Outcome;

/// The packet from its upper-layer header on, at least `fixed` bytes of it. A later fragment has none, so nothing can be said
/// of it; a packet that is too short is dropped, as the kernel's matches do (`par->hotdrop`).
#[inline]
pub fn upper<'a>(facts: &Facts, l3: &'a [u8], fixed: usize) -> Result<&'a [u8], Outcome> {
    if facts.is_later_fragment() {
        return Err(Outcome::Never);
    }
    l3.get(facts.l4_off.into()..).filter(|header| header.len() >= fixed).ok_or(Outcome::Hotdrop)
}

/// The packet from its first IPv6 extension header of this kind on, at least `fixed` bytes of it (`ipv6_find_hdr`). Where
/// there is none nothing can be said; where it cannot be told, since headers are cut off, the packet is dropped.
pub fn extension(l3: &[u8], kind: u8, fixed: usize) -> Result<&[u8], Outcome> {
    let mut next = *l3.get(6).ok_or(Outcome::Hotdrop)?;
    let mut at = 40;
    while proto::is_extension(next) {
        let header = l3.get(at..).unwrap_or_default();
        let &[following, len, ..] = header else { return Err(Outcome::Hotdrop) };
        if matches!(next, proto::ROUTING | proto::FRAGMENT) && header.len() < 4 {
            return Err(Outcome::Hotdrop);
        }
        if next == kind {
            return if header.len() < fixed { Err(Outcome::Hotdrop) } else { Ok(header) };
        }
        // Behind the header of a later fragment there are no headers.
        if next == proto::FRAGMENT && u16::from_be_bytes([header[2], header[3]]) & !7 != 0 {
            break;
        }
        at += extension_len(next, len);
        next = following;
    }
    Err(Outcome::Never)
}

/// Bytes of an extension header whose second byte is `len`.
pub fn extension_len(kind: u8, len: u8) -> usize {
    match kind {
        proto::FRAGMENT => 8,
        // RFC 4302 section 2.2: in 32-bit words, less two.
        proto::AH => (usize::from(len) + 2) * 4,
        _ => (usize::from(len) + 1) * 8,
    }
}

/// The big-endian word at an offset.
#[inline]
pub fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// For tests: an IPv6 packet of these bytes behind its header.
#[cfg(test)]
pub fn packet(next: u8, headers: &[u8]) -> Vec<u8> {
    let mut l3 = vec![0; 40];
    l3[0] = 0x60;
    l3[6] = next;
    l3.extend_from_slice(headers);
    l3
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Hotdrop, Never};

    #[test]
    fn the_first_header_of_a_kind_is_found_behind_others() {
        let chain = [60, 0, 1, 4, 0, 0, 0, 0, 51, 0, 1, 4, 0, 0, 0, 0, 43, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0];
        let l3 = [packet(0, &chain), vec![6, 0, 4, 7, 0, 0, 0, 0]].concat();
        for (kind, expected) in [
            (proto::HOPOPTS, Ok(40)),
            (proto::DSTOPTS, Ok(48)),
            (proto::AH, Ok(56)),
            (proto::ROUTING, Ok(68)),
            (proto::FRAGMENT, Err(Never)),
        ] {
            assert_eq!(extension(&l3, kind, 8).map(|header| l3.len() - header.len()), expected, "{kind}");
        }
    }

    #[test]
    fn what_is_cut_off_is_dropped_and_what_is_absent_says_nothing() {
        for (next, headers, kind, fixed, expected) in [
            (6, &[][..], proto::ROUTING, 4, Never),
            (59, &[], proto::ROUTING, 4, Never),
            (50, &[43, 0, 0, 0], proto::ROUTING, 4, Never),
            (43, &[], proto::ROUTING, 4, Hotdrop),
            (43, &[6, 0, 0], proto::ROUTING, 2, Hotdrop),
            (44, &[6, 0, 0], proto::FRAGMENT, 2, Hotdrop),
            (44, &[6, 0, 0, 0], proto::FRAGMENT, 8, Hotdrop),
            (60, &[43, 1, 0, 0, 0, 0, 0, 0], proto::ROUTING, 4, Hotdrop),
            (60, &[6, 1, 0, 0, 0, 0, 0, 0], proto::ROUTING, 4, Never),
            (44, &[43, 0, 0, 8, 0, 0, 0, 0, 6, 0, 4, 0], proto::ROUTING, 4, Never),
        ] {
            assert_eq!(extension(&packet(next, headers), kind, fixed), Err(expected), "{next} {headers:?}");
        }
        assert_eq!(extension(&[0x60; 6], proto::ROUTING, 4), Err(Hotdrop));
        assert!(extension(&packet(44, &[43, 0, 0, 8, 0, 0, 0, 0]), proto::FRAGMENT, 8).is_ok());
    }
}
