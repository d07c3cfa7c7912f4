//! Fragmentation of packets that are larger than their way allows, or that came in fragments (RFC 791 §3.2, RFC 8200 §4.5,
//! `ip_do_fragment`, `ip6_fragment`).
//!
//! A packet that came in fragments leaves in the same ones where they fit, else it is cut anew: the sizes of its fragments
//! are noted in the headroom of its frame. The first fragment of IPv4 keeps all options, later ones only those with the copied
//! flag; offsets and the more-fragments flag of a packet that is itself a fragment go on.

use super::checksum::Sum;
use crate::umem::{Frame, HEADROOM};
use sumun_config::facts::{Family, proto};

const FLAGS: usize = 6;
const LENGTH: usize = 2;
const CHECKSUM: usize = 10;
const DONT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Bytes of an IPv6 fragment header.
const HEADER: usize = 8;

/// Most fragments that a packet may come in: 65,535 bytes at an MTU of 576 make 119.
pub const MOST_PIECES: usize = HEADROOM / 2;

/// Bytes of data of the fragments that a packet came in, in order; zero ends them.
#[derive(Clone, Copy, Debug)]
pub struct Sizes([u16; MOST_PIECES]);

impl Default for Sizes {
    /// It came whole.
    fn default() -> Sizes {
        Sizes([0; MOST_PIECES])
    }
}

/// Notes the sizes of its fragments with a packet whose headroom is [`HEADROOM`].
pub fn note_sizes(frame: &mut Frame, sizes: &[u16]) {
    let (start, len) = (frame.start(), frame.len());
    if start == HEADROOM && frame.place(0, HEADROOM) {
        let all = sizes.iter().copied().chain(std::iter::repeat(0));
        for (word, size) in frame.bytes_mut().chunks_exact_mut(2).zip(all) {
            word.copy_from_slice(&size.to_ne_bytes());
        }
        let back = frame.place(start, len);
        debug_assert!(back);
    }
}

/// What was noted; nothing where the headroom was used since.
pub fn noted_sizes(frame: &mut Frame) -> Sizes {
    let mut sizes = Sizes::default();
    let (start, len) = (frame.start(), frame.len());
    if start == HEADROOM && frame.place(0, HEADROOM) {
        for (size, word) in sizes.0.iter_mut().zip(frame.bytes().chunks_exact(2)) {
            *size = u16::from_ne_bytes([word[0], word[1]]);
        }
        let back = frame.place(start, len);
        debug_assert!(back);
    }
    sizes
}

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Most bytes of IP in a fragment.
    pub most: u16,
    /// The fragments that it came in.
    pub sizes: &'a Sizes,
    /// Identification of IPv6 fragments; IPv4 packets have theirs.
    pub id: u32,
}

impl Cut<'_> {
    /// Bytes of the first fragment's data, where the packet may leave as it came: every fragment fits and all but the last are
    /// multiples of eight. Headers may have grown or moved meanwhile; that is the first one's.
    fn first_as_it_came(&self, data: usize, room: usize) -> Option<usize> {
        let came = self.sizes.0.split(|size| *size == 0).next()?;
        let (_, later) = came.split_first()?;
        let first = data.checked_sub(later.iter().map(|size| usize::from(*size)).sum()).filter(|first| *first > 0)?;
        let sizes = || std::iter::once(first).chain(later.iter().map(|size| usize::from(*size)));
        let fits = sizes().all(|size| size <= room) && sizes().take(later.len()).all(|size| size % 8 == 0);
        fits.then_some(first)
    }
}

/// Cuts a packet into fragments, each an IP packet at the start of a frame for its length from `take`, appended to `out` in order. False
/// where frames ran out or the limit leaves no room for data; `out` then holds an incomplete set.
#[must_use]
pub fn split(
    family: Family,
    packet: &[u8],
    cut: &Cut,
    mut take: impl FnMut(usize) -> Option<Frame>,
    out: &mut Vec<Frame>,
) -> bool {
    let Some((header, data, extra)) = (match family {
        Family::V4 => parts_of_v4(packet),
        Family::V6 => parts_of_v6(packet),
    }) else {
        return false;
    };
    let room = (cut.most as usize).saturating_sub(header.len() + extra);
    if room < 8 {
        return false;
    }
    let as_it_came = cut.first_as_it_came(data.len(), room);
    let mut at = 0;
    for i in 0.. {
        let left = data.len() - at;
        let size = match as_it_came {
            Some(first) if i == 0 => first,
            Some(_) => cut.sizes.0.get(i).map_or(left, |size| usize::from(*size)),
            None if left <= room => left,
            None => room & !7,
        };
        let Some(piece) = data.get(at..at + size) else { return false };
        let is_last = at + size == data.len();
        let Some(mut frame) = take(header.len() + extra + size) else { return false };
        let fits = frame.resize(header.len() + extra + size);
        if fits {
            let bytes = frame.bytes_mut();
            bytes[..header.len()].copy_from_slice(header);
            bytes[header.len() + extra..].copy_from_slice(piece);
            match family {
                Family::V4 => head_v4(bytes, header.len(), at, is_last, as_it_came.is_some()),
                Family::V6 => head_v6(bytes, header.len(), at, is_last, cut.id),
            }
        }
        out.push(frame);
        if !fits || size == 0 {
            return false;
        }
        at += size;
        if is_last {
            return true;
        }
    }
    false
}

/// Header, data, and bytes between them in a fragment.
fn parts_of_v4(packet: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let header_len = (packet.first()? & 0x0f) as usize * 4;
    if packet.len() < 20 || header_len < 20 || header_len > packet.len() {
        return None;
    }
    let total = (u16::from_be_bytes([packet[LENGTH], packet[LENGTH + 1]]) as usize).clamp(header_len, packet.len());
    Some((&packet[..header_len], &packet[header_len..total], 0))
}

/// The part that every fragment has, the rest, and the length of the header between them (`ip6_find_1stfragopt`).
fn parts_of_v6(packet: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let (_, at) = fragmentable(packet)?;
    Some((packet.get(..at)?, packet.get(at..)?, HEADER))
}

/// Where the fragmentable part is named and where it starts.
fn fragmentable(packet: &[u8]) -> Option<(usize, usize)> {
    let (mut named_at, mut at, mut is_routed) = (6, 40, false);
    loop {
        match *packet.get(named_at)? {
            proto::HOPOPTS => {}
            proto::ROUTING => is_routed = true,
            proto::DSTOPTS if !is_routed => {}
            _ => return (at <= packet.len()).then_some((named_at, at)),
        }
        named_at = at;
        at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
    }
}

/// Writes the header of an IPv4 fragment. Fragments that leave as they came have no DF, as the kernel's.
fn head_v4(bytes: &mut [u8], header_len: usize, at: usize, is_last: bool, as_it_came: bool) {
    let word = u16::from_be_bytes([bytes[FLAGS], bytes[FLAGS + 1]]);
    let more = if is_last { word & MORE } else { MORE };
    let dont = if as_it_came { 0 } else { word & DONT };
    let offset = ((word & OFFSET) + (at / 8) as u16) & OFFSET;
    if at > 0 {
        blank_uncopied_options(&mut bytes[20..header_len]);
    }
    let len = bytes.len() as u16;
    bytes[LENGTH..LENGTH + 2].copy_from_slice(&len.to_be_bytes());
    bytes[FLAGS..FLAGS + 2].copy_from_slice(&(dont | more | offset).to_be_bytes());
    bytes[CHECKSUM..CHECKSUM + 2].fill(0);
    let sum = Sum::new().bytes(&bytes[..header_len]).checksum();
    bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the fragment header and what names it.
fn head_v6(bytes: &mut [u8], header_len: usize, at: usize, is_last: bool, id: u32) {
    let Some((named_at, _)) = fragmentable(bytes) else { return };
    let next = std::mem::replace(&mut bytes[named_at], proto::FRAGMENT);
    let len = (bytes.len() - 40) as u16;
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    let header = &mut bytes[header_len..header_len + HEADER];
    header[..2].copy_from_slice(&[next, 0]);
    header[2..4].copy_from_slice(&(at as u16 | u16::from(!is_last)).to_be_bytes());
    header[4..].copy_from_slice(&id.to_be_bytes());
}

/// Options without the copied flag become no-operations in later fragments (`ip_options_fragment`).
fn blank_uncopied_options(options: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => match options.get(at + 1) {
                Some(&len) if len >= 2 && at + len as usize <= options.len() => len as usize,
                _ => return,
            },
        };
        if kind & 0x80 == 0 {
            options[at..at + len].fill(1);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::Pool;

    fn packet(options: &[u8], data: usize, flags: u16) -> Vec<u8> {
        let header = 20 + options.len();
        let mut p = vec![0u8; header + data];
        p[0] = 0x40 | (header / 4) as u8;
        let len = p.len() as u16;
        p[2..4].copy_from_slice(&len.to_be_bytes());
        p[4..6].copy_from_slice(&[0xab, 0xcd]);
        p[6..8].copy_from_slice(&flags.to_be_bytes());
        p[8] = 64;
        p[9] = 17;
        p[20..header].copy_from_slice(options);
        for (i, b) in p[header..].iter_mut().enumerate() {
            *b = i as u8;
        }
        p
    }

    fn split4(p: &[u8], most: u16, take: impl FnMut(usize) -> Option<Frame>, out: &mut Vec<Frame>) -> bool {
        split(Family::V4, p, &Cut { most, sizes: &Sizes::default(), id: 0 }, take, out)
    }

    /// Length, flags and offset word, and data of each fragment.
    fn cut(p: &[u8], mtu: u16) -> Vec<(u16, u16, Vec<u8>)> {
        let mut pool = Pool::fresh(16, 2048);
        let mut out = Vec::new();
        assert!(split4(p, mtu, |_| pool.take(), &mut out));
        out.iter()
            .map(|f| {
                let b = f.bytes();
                let header = (b[0] & 15) as usize * 4;
                assert_eq!(Sum::new().bytes(&b[..header]).checksum(), 0, "header checksum");
                let word = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
                assert_eq!(word(4), 0xabcd);
                (word(2), word(6), b[header..].to_vec())
            })
            .collect()
    }

    #[test]
    fn data_is_cut_at_multiples_of_eight_and_comes_together_again() {
        let p = packet(&[], 1400, 0);
        let pieces = cut(&p, 580);
        let heads: Vec<_> = pieces.iter().map(|(len, word, _)| (*len, *word)).collect();
        assert_eq!(heads, [(580, 0x2000), (580, 0x2000 | 70), (300, 140)]);
        assert_eq!(pieces.concat_data(), p[20..]);
    }

    #[test]
    fn a_fragment_is_cut_further_and_keeps_its_place() {
        let pieces = cut(&packet(&[], 64, 0x2000 | 10), 60);
        let heads: Vec<_> = pieces.iter().map(|(len, word, _)| (*len, *word)).collect();
        assert_eq!(heads, [(60, 0x2000 | 10), (44, 0x2000 | 15)]);
    }

    #[test]
    fn options_without_the_copied_flag_stay_in_the_first_fragment_only() {
        let options = [7, 3, 4, 1, 0x94, 4, 0, 0];
        let mut pool = Pool::fresh(16, 2048);
        let mut out = Vec::new();
        assert!(split4(&packet(&options, 100, 0), 80, |_| pool.take(), &mut out));
        assert_eq!(out[0].bytes()[20..28], options);
        assert_eq!(out[1].bytes()[20..28], [1, 1, 1, 1, 0x94, 4, 0, 0]);
    }

    #[test]
    fn too_few_frames_or_too_small_an_mtu_is_said() {
        let mut out = Vec::new();
        let mut pool = Pool::fresh(1, 2048);
        assert!(!split4(&packet(&[], 100, 0), 60, |_| pool.take(), &mut out));
        assert_eq!(out.len(), 1);
        let mut pool = Pool::fresh(8, 2048);
        assert!(!split4(&packet(&[], 100, 0), 27, |_| pool.take(), &mut Vec::new()));
        assert!(!split4(&[0x4f; 20], 60, |_| pool.take(), &mut Vec::new()));
    }

    trait ConcatData {
        fn concat_data(&self) -> Vec<u8>;
    }

    impl ConcatData for Vec<(u16, u16, Vec<u8>)> {
        fn concat_data(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, _, data)| data.clone()).collect()
        }
    }
}
