//! Replacing a part of what a TCP or UDP packet carries: the packet grows or shrinks, its lengths and checksums follow.

use super::checksum::Sum;
use super::edit;
use super::view::{Tcp, Udp};
use crate::umem::Frame;
use std::ops::Range;
use sumun_config::facts::{Facts, proto};

/// Replaces bytes of the data behind the L4 header of the packet at `l3` in the frame. Facts follow; the L4 checksum is
/// computed anew, but for UDP without one. False and nothing changed where the packet is no whole TCP or UDP packet, has no
/// such part, or would be too long for its frame or for IP.
#[must_use]
pub fn replace(frame: &mut Frame, l3: u16, facts: &mut Facts, part: Range<usize>, with: &[u8]) -> bool {
    let start = usize::from(l3);
    let (l4, end) = (start + usize::from(facts.l4_off), start + usize::from(facts.len));
    let Some(header) = frame.bytes().get(l4..end).and_then(|l4| header_len(facts.proto, l4)) else { return false };
    let part = l4 + header + part.start..l4 + header + part.end;
    if facts.is_fragment() || part.start > part.end || part.end > end {
        return false;
    }
    let new_end = end - part.len() + with.len();
    let Ok(len) = u16::try_from(new_end - start) else { return false };
    let behind = part.end..end;
    if with.len() > part.len() && !frame.resize(new_end) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(behind, part.start + with.len());
    bytes[part.start..part.start + with.len()].copy_from_slice(with);
    if !frame.resize(new_end) {
        return false;
    }
    let l3 = &mut frame.bytes_mut()[start..new_end];
    edit::set_length(l3, facts, len);
    let l4 = &mut l3[usize::from(facts.l4_off)..];
    let l4_len = l4.len();
    let check = match facts.proto {
        proto::UDP => {
            l4[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            if l4[6..8] == [0, 0] {
                return true;
            }
            6
        }
        _ => 16,
    };
    l4[check..check + 2].fill(0);
    let sum = Sum::new().pseudo(facts.src, facts.dst, facts.proto, l4_len).bytes(l4).checksum();
    let sum = if sum == 0 && facts.proto == proto::UDP { 0xffff } else { sum };
    l4[check..check + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Bytes of the L4 header.
fn header_len(protocol: u8, l4: &[u8]) -> Option<usize> {
    let len = match protocol {
        proto::TCP => Tcp::new(l4)?.header_len(),
        proto::UDP => Udp::LEN,
        _ => return None,
    };
    (len <= l4.len() && (protocol != proto::TCP || len >= Tcp::LEN)).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{parse, sample};
    use crate::umem::Pool;
    use proptest::prelude::*;
    use sumun_config::facts::Family;

    /// Replaces a part of a packet that has a link header in front and padding behind; what it carries then.
    fn replaced(family: Family, protocol: u8, l4: &[u8], part: Range<usize>, with: &[u8]) -> Option<Vec<u8>> {
        let bytes = sample::packet(family, protocol, l4);
        let mut facts = parse::ip(family, &bytes).unwrap();
        let mut frame = Pool::fresh(1, 2048).take().unwrap();
        assert!(frame.set(&[&[0xee; 14][..], &bytes, &[0xee; 6]].concat()));
        if !replace(&mut frame, 14, &mut facts, part, with) {
            assert_eq!(frame.bytes()[14..14 + bytes.len()], bytes);
            return None;
        }
        let fresh = parse::ip(family, &frame.bytes()[14..]).unwrap();
        assert_eq!(format!("{fresh:?}"), format!("{facts:?}"));
        let l3 = &frame.bytes()[14..];
        assert!(parse::l4_checksum_ok(&facts, l3) && l3.len() == usize::from(facts.len));
        Some(l3[usize::from(facts.l4_off)..].to_vec())
    }

    #[test]
    fn packets_grow_shrink_and_stay_with_true_lengths_and_checksums() {
        for family in Family::ALL {
            for with in [&b"a much longer text than it was"[..], b"", b"22", b"x"] {
                let tcp = sample::tcp(1, 2, 0x18, &[1, 1, 1, 1], b"PORT 11\r\n");
                let new = replaced(family, proto::TCP, &tcp, 5..7, with).unwrap();
                assert_eq!(new[24..], [b"PORT ", with, b"\r\n"].concat());
                let udp = sample::udp(1, 2, b"PORT 11\r\n");
                let new = replaced(family, proto::UDP, &udp, 5..7, with).unwrap();
                assert_eq!(new[8..], [b"PORT ", with, b"\r\n"].concat());
                assert_eq!(usize::from(u16::from_be_bytes([new[4], new[5]])), new.len());
            }
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let tcp = sample::tcp(1, 2, 0x18, &[], b"data");
        assert_eq!(replaced(Family::V4, proto::TCP, &tcp, 0..5, b""), None);
        assert_eq!(replaced(Family::V4, proto::TCP, &tcp, 0..4, &[0; 4096]), None);
        assert_eq!(replaced(Family::V4, proto::TCP, &tcp[..19], 0..0, b""), None);
        assert_eq!(replaced(Family::V4, proto::SCTP, &tcp, 0..0, b""), None);
        let mut short = tcp.clone();
        for offset in [0x40, 0xf0] {
            short[12] = offset;
            assert_eq!(replaced(Family::V4, proto::TCP, &short, 0..1, b"x"), None);
        }
    }

    proptest! {
        #[test]
        fn any_part_is_replaced(data in proptest::collection::vec(any::<u8>(), 0..60), a in 0..70usize, b in 0..70usize, with in proptest::collection::vec(any::<u8>(), 0..60)) {
            let part = a.min(b)..a.max(b);
            let new = replaced(Family::V6, proto::TCP, &sample::tcp(1, 2, 0x18, &[], &data), part.clone(), &with);
            prop_assert_eq!(new.is_some(), part.end <= data.len());
            if let Some(new) = new {
                prop_assert_eq!(&new[20..], [&data[..part.start], &with, &data[part.end..]].concat());
            }
        }
    }
}
