//! The MSS option of TCP SYNs, as `tcpmss_mangle_packet` treats it.
//!
//! An MSS is only ever lowered. A header without the option gets one, no larger than what its absence means (RFC 9293
//! section 3.7.1), unless data follow or the header is full.

use super::checksum::{Sum, replace};
use super::view::Tcp;
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{Facts, Family};

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;
const LONGEST_HEADER: usize = 60;

/// Lowers the MSS of the TCP packet at `l3` in the frame to `mss`, or adds the option. Facts and checksums follow.
/// Fragments behind the first are left alone. Errors: a TCP header that does not fit its packet; no room in the frame.
pub fn clamp_mss(frame: &mut Frame, l3: u16, facts: &mut Facts, mss: u16) -> Result<(), DropReason> {
    if facts.is_later_fragment() {
        return Ok(());
    }
    let l3 = usize::from(l3);
    let (l4, end) = (l3 + usize::from(facts.l4_off), l3 + usize::from(facts.len));
    let segment = frame.bytes_mut().get_mut(l4..end).ok_or(DropReason::MalformedTcp)?;
    let len = segment.len();
    let header_len = Tcp::new(segment).ok_or(DropReason::MalformedTcp)?.header_len();
    if header_len < Tcp::LEN || header_len > len {
        return Err(DropReason::MalformedTcp);
    }
    if let Some(at) = find(&segment[..header_len]) {
        lower(segment, at, mss);
        return Ok(());
    }
    if len > header_len || header_len == LONGEST_HEADER {
        return Ok(());
    }
    // The default that RFC 9293 has for a missing option: 536, and 1220 with IPv6.
    let mss = mss.min(match facts.family {
        Family::V4 => 536,
        Family::V6 => 1220,
    });
    if !frame.resize(end + MSS_LEN) {
        return Err(DropReason::MalformedTcp);
    }
    insert(&mut frame.bytes_mut()[l4..], len, mss);
    grow_ip(&mut frame.bytes_mut()[l3..], facts);
    Ok(())
}

/// Offset of a well-formed MSS option in a TCP header.
fn find(header: &[u8]) -> Option<usize> {
    let mut at = Tcp::LEN;
    while let Some([kind, len, ..]) = header.get(at..).and_then(|rest| rest.first_chunk::<MSS_LEN>()) {
        match (*kind, *len) {
            (MSS, 4) => return Some(at),
            // The kernel steps over an end of options, and over an option of length zero, as if it were one byte.
            (END | NOP, _) | (_, 0) => at += 1,
            (_, len) => at += usize::from(len),
        }
    }
    None
}

/// Lowers the MSS of a TCP segment that has the option; its checksum follows.
pub fn lower_mss(segment: &mut [u8], mss: u16) {
    let header_len = Tcp::new(segment).map_or(0, Tcp::header_len);
    if let Some(at) = segment.get(..header_len).and_then(find) {
        lower(segment, at, mss);
    }
}

fn lower(segment: &mut [u8], at: usize, mss: u16) {
    let old = u16::from_be_bytes([segment[at + 2], segment[at + 3]]);
    if old <= mss {
        return;
    }
    segment[at + 2..at + 4].copy_from_slice(&mss.to_be_bytes());
    let check = u16::from_be_bytes([segment[16], segment[17]]);
    // An option at an odd offset straddles two words, so that its bytes are summed swapped.
    let check = match at % 2 {
        0 => replace(check, old, mss),
        _ => replace(check, old.swap_bytes(), mss.swap_bytes()),
    };
    segment[16..18].copy_from_slice(&check.to_be_bytes());
}

/// Puts the option in front of all others. `segment` has `len` bytes and room for four more.
fn insert(segment: &mut [u8], len: usize, mss: u16) {
    let option = [MSS, MSS_LEN as u8, (mss >> 8) as u8, mss as u8];
    segment.copy_within(Tcp::LEN..len, Tcp::LEN + MSS_LEN);
    segment[Tcp::LEN..Tcp::LEN + MSS_LEN].copy_from_slice(&option);
    let old = u16::from_be_bytes([segment[12], segment[13]]);
    let new = old + 0x1000;
    segment[12..14].copy_from_slice(&new.to_be_bytes());
    let check = u16::from_be_bytes([segment[16], segment[17]]);
    let check = replace(check, old, new);
    // The pseudo header's length.
    let check = replace(check, len as u16, (len + MSS_LEN) as u16);
    let check = replace(check, 0, Sum::new().bytes(&option).fold());
    segment[16..18].copy_from_slice(&check.to_be_bytes());
}

/// The IP length after the option was inserted.
fn grow_ip(l3: &mut [u8], facts: &mut Facts) {
    let at = match facts.family {
        Family::V4 => 2,
        Family::V6 => 4,
    };
    let old = u16::from_be_bytes([l3[at], l3[at + 1]]);
    let new = old.wrapping_add(MSS_LEN as u16);
    l3[at..at + 2].copy_from_slice(&new.to_be_bytes());
    if facts.family == Family::V4 {
        let check = replace(u16::from_be_bytes([l3[10], l3[11]]), old, new);
        l3[10..12].copy_from_slice(&check.to_be_bytes());
    }
    facts.len += MSS_LEN as u16;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::sample::{self, packet};
    use crate::umem::Pool;
    use proptest::prelude::*;
    use sumun_config::facts::proto;

    /// Clamps a segment; what it is then, header checks and checksums verified.
    fn clamped(family: Family, segment: &[u8], mss: u16) -> Result<Vec<u8>, DropReason> {
        let bytes = packet(family, proto::TCP, segment);
        let mut facts = parse::ip(family, &bytes).unwrap();
        let mut frame = Pool::fresh(1, 2048).take().unwrap();
        // A link header in front and padding behind must not matter.
        assert!(frame.set(&[&[0xee; 14][..], &bytes, &[0xee; 6]].concat()));
        clamp_mss(&mut frame, 14, &mut facts, mss)?;
        let fresh = parse::ip(family, &frame.bytes()[14..]).unwrap();
        assert_eq!(format!("{fresh:?}"), format!("{facts:?}"));
        let l3 = &frame.bytes()[14..14 + usize::from(facts.len)];
        assert!(parse::l4_checksum_ok(&facts, l3));
        let mut segment = l3[usize::from(facts.l4_off)..].to_vec();
        segment[16..18].fill(0);
        Ok(segment)
    }

    #[test]
    fn mss_is_lowered_never_raised() {
        let cases: &[(&[u8], &[u8])] = &[
            (&[2, 4, 0x05, 0xb4], &[2, 4, 0x05, 0x00]),
            (&[2, 4, 0x04, 0xff], &[2, 4, 0x04, 0xff]),
            (&[1, 2, 4, 0x05, 0xb4, 0, 0, 0], &[1, 2, 4, 0x05, 0x00, 0, 0, 0]),
            (&[1, 1, 4, 2, 2, 4, 0x05, 0xb4], &[1, 1, 4, 2, 2, 4, 0x05, 0x00]),
            (&[0, 2, 4, 0x05, 0xb4, 0, 0, 0], &[0, 2, 4, 0x05, 0x00, 0, 0, 0]),
            (&[9, 0, 2, 4, 0x05, 0xb4, 0, 0], &[9, 0, 2, 4, 0x05, 0x00, 0, 0]),
        ];
        for family in Family::ALL {
            for (before, after) in cases {
                let expected = sample::tcp(1, 2, 2, after, b"data");
                assert_eq!(clamped(family, &sample::tcp(1, 2, 2, before, b"data"), 0x500), Ok(expected), "{before:?}");
            }
        }
    }

    #[test]
    fn a_missing_option_is_added_in_front() {
        for (family, most) in [(Family::V4, 536u16), (Family::V6, 1220)] {
            for (asked, given) in [(500, 500), (1400, most)] {
                let option = [&[2, 4][..], &u16::to_be_bytes(given)].concat();
                let expected = sample::tcp(1, 2, 2, &option, b"");
                assert_eq!(clamped(family, &sample::tcp(1, 2, 2, &[], b""), asked), Ok(expected));
                let others = [4, 2, 1, 1];
                let expected = sample::tcp(1, 2, 2, &[&option[..], &others].concat(), b"");
                assert_eq!(clamped(family, &sample::tcp(1, 2, 2, &others, b""), asked), Ok(expected));
            }
        }
    }

    #[test]
    fn no_option_is_added_before_data_or_to_a_full_header() {
        for segment in [sample::tcp(1, 2, 2, &[], b"x"), sample::tcp(1, 2, 2, &[1; 40], b"")] {
            assert_eq!(clamped(Family::V4, &segment, 500), Ok(segment));
        }
    }

    #[test]
    fn a_header_that_does_not_fit_is_malformed() {
        let mut segment = sample::tcp(1, 2, 2, &[], b"");
        segment[12] = 0x60;
        assert_eq!(clamped(Family::V4, &segment, 500), Err(DropReason::MalformedTcp));
        segment[12] = 0x40;
        assert_eq!(clamped(Family::V4, &segment, 500), Err(DropReason::MalformedTcp));
        assert_eq!(clamped(Family::V4, &segment[..19], 500), Err(DropReason::MalformedTcp));
    }

    proptest! {
        #[test]
        fn any_options_keep_the_checksum_right(options in proptest::collection::vec(any::<u8>(), 0..10), mss: u16, data: bool) {
            let options: Vec<u8> = options.iter().flat_map(|o| [o % 6, 2 + o % 3, *o, 4]).collect();
            let _ = clamped(Family::V6, &sample::tcp(1, 2, 2, &options, if data { b"odd" } else { b"" }), mss);
        }
    }
}
