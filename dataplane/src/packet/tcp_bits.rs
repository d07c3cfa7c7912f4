//! What ECN and TCPOPTSTRIP change in a TCP header, checksums and facts with it.

use super::checksum::replace;
use super::edit;
use super::view::Tcp;
use crate::reason::DropReason;
use sumun_config::facts::{Facts, proto};
use sumun_config::rule::targets::ecn::Ecn;
use sumun_config::rule::targets::tcpoptstrip::Strip;

const NOP: u8 = 1;
/// ECN-Echo and congestion window reduced, in the byte of flags.
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Sets or clears bits of ECN (`ecn_tg`).
///
/// # Errors
/// TCP is to be changed and there is no room for its header. As in the kernel nobody asks whether there is one.
pub fn set_ecn(l3: &mut [u8], facts: &mut Facts, ecn: Ecn) -> Result<(), DropReason> {
    if let Some(ect) = ecn.ect {
        edit::set_tos(l3, facts, facts.tos & !3 | ect & 3);
    }
    if facts.proto != proto::TCP || (ecn.ece.is_none() && ecn.cwr.is_none()) {
        return Ok(());
    }
    let header = l3.get_mut(usize::from(facts.l4_off)..usize::from(facts.len)).unwrap_or_default();
    let header: &mut [u8; Tcp::LEN] = header.first_chunk_mut().ok_or(DropReason::MalformedTcp)?;
    let bit = |flags: u8, bit: u8, to: Option<bool>| match to {
        Some(true) => flags | bit,
        Some(false) => flags & !bit,
        None => flags,
    };
    let (old, flags) = (header[13], bit(bit(header[13], ECE, ecn.ece), CWR, ecn.cwr));
    if old != flags {
        header[13] = flags;
        let check = u16::from_be_bytes([header[16], header[17]]);
        header[16..18].copy_from_slice(&replace(check, old.into(), flags.into()).to_be_bytes());
        if facts.has_l4 {
            facts.tcp_flags = flags;
        }
    }
    Ok(())
}

/// Turns options of some kinds into no-ops (`tcpoptstrip_mangle_packet`). Later fragments are left alone.
///
/// # Errors
/// The TCP header is not all there.
pub fn strip_options(l3: &mut [u8], facts: &Facts, strip: &Strip) -> Result<(), DropReason> {
    if facts.is_later_fragment() {
        return Ok(());
    }
    let segment = l3.get_mut(usize::from(facts.l4_off)..usize::from(facts.len)).unwrap_or_default();
    let end = Tcp::new(segment).ok_or(DropReason::MalformedTcp)?.header_len();
    let header = segment.get_mut(..end).filter(|_| end >= Tcp::LEN).ok_or(DropReason::MalformedTcp)?;
    let mut at = Tcp::LEN;
    while at + 1 < end {
        // An end of options, and an option of length zero, are stepped over as if they were one byte.
        let len = match (header[at], header[at + 1]) {
            (0 | NOP, _) | (_, 0) => 1,
            (_, len) => usize::from(len),
        };
        if at + len > end {
            break;
        }
        if strip.has(header[at]) {
            for place in at..at + len {
                let summed = |byte: u8| u16::from(byte) << if place % 2 == 0 { 8 } else { 0 };
                let check = u16::from_be_bytes([header[16], header[17]]);
                let check = replace(check, summed(header[place]), summed(NOP));
                header[16..18].copy_from_slice(&check.to_be_bytes());
                header[place] = NOP;
            }
        }
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::sample::{self, packet};
    use sumun_config::facts::Family;

    fn stripped(family: Family, options: &[u8], kinds: &str) -> Result<Vec<u8>, DropReason> {
        let mut bytes = packet(family, proto::TCP, &sample::tcp(1, 2, 2, options, b"data"));
        let facts = parse::ip(family, &bytes).unwrap();
        strip_options(&mut bytes, &facts, &Strip::of(kinds))?;
        assert!(parse::l4_checksum_ok(&facts, &bytes), "{options:?}");
        Ok(bytes[usize::from(facts.l4_off) + Tcp::LEN..bytes.len() - 4].to_vec())
    }

    #[test]
    fn options_of_the_list_become_no_ops_and_others_stay() {
        for family in Family::ALL {
            let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7];
            let timestamps = [2, 4, 5, 0xb4, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 7];
            assert_eq!(stripped(family, &syn, "8"), Ok(timestamps.to_vec()));
            let odd = [1, 3, 3, 7, 2, 4, 5, 0xb4];
            assert_eq!(stripped(family, &odd, "3"), Ok([1, 1, 1, 1, 2, 4, 5, 0xb4].to_vec()));
            // A length of zero is one byte, and one beyond the header ends it.
            assert_eq!(stripped(family, &[8, 0, 0, 9, 30, 1, 8, 2], "8,9"), Ok([1, 0, 0, 9, 30, 1, 8, 2].to_vec()));
        }
    }

    #[test]
    fn bits_of_ecn_change_with_their_checksums() {
        let mut bytes = packet(Family::V4, proto::TCP, &sample::tcp(1, 2, 0xc2, &[], b"data"));
        let mut facts = parse::ip(Family::V4, &bytes).unwrap();
        let change = |bytes: &mut [u8], facts: &mut Facts, ece, cwr, ect| {
            set_ecn(bytes, facts, Ecn { ece, cwr, ect }).unwrap();
            let fresh = parse::ip(Family::V4, bytes).unwrap();
            assert_eq!(format!("{fresh:?}"), format!("{facts:?}"));
            assert!(parse::l4_checksum_ok(facts, bytes));
            (facts.tcp_flags, facts.tos & 3)
        };
        assert_eq!(change(&mut bytes, &mut facts, None, Some(false), Some(1)), (0x42, 1));
        assert_eq!(change(&mut bytes, &mut facts, Some(false), None, None), (0x02, 1));
        assert_eq!(change(&mut bytes, &mut facts, Some(true), Some(true), Some(2)), (0xc2, 2));
        let mut short = packet(Family::V4, proto::TCP, &[0; 12]);
        let mut facts = parse::ip(Family::V4, &short).unwrap();
        let remove = Ecn { ece: Some(false), cwr: Some(false), ect: None };
        assert_eq!(set_ecn(&mut short, &mut facts, remove), Err(DropReason::MalformedTcp));
        assert_eq!(strip_options(&mut short, &facts, &Strip::default()), Err(DropReason::MalformedTcp));
        // A header that says that it is shorter than one can be.
        bytes[32] = 0x30;
        let facts = parse::ip(Family::V4, &bytes).unwrap();
        assert_eq!(strip_options(&mut bytes, &facts, &Strip::default()), Err(DropReason::MalformedTcp));
    }
}
