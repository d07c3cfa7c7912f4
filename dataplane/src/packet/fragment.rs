//! IPv4 fragmentation of packets that are larger than their way allows (RFC 791 §3.2, `ip_do_fragment`).
//!
//! The first fragment keeps all options, later ones only those with the copied flag; offsets and the more-fragments flag of a
//! packet that is itself a fragment go on.

use super::checksum::Sum;
use crate::umem::Frame;

const FLAGS: usize = 6;
const LENGTH: usize = 2;
const CHECKSUM: usize = 10;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Cuts the IPv4 packet `packet` into fragments of at most `mtu` bytes, each an IP packet at the start of a frame from
/// `take`, appended to `out` in order. False where frames ran out or `mtu` leaves no room for data; `out` then holds an
/// incomplete set.
#[must_use]
pub fn split(packet: &[u8], mtu: u16, mut take: impl FnMut() -> Option<Frame>, out: &mut Vec<Frame>) -> bool {
    let Some(first) = packet.first() else { return false };
    let header_len = (first & 0x0f) as usize * 4;
    if packet.len() < 20 || header_len < 20 || header_len > packet.len() {
        return false;
    }
    let total = (u16::from_be_bytes([packet[LENGTH], packet[LENGTH + 1]]) as usize).min(packet.len());
    let word = u16::from_be_bytes([packet[FLAGS], packet[FLAGS + 1]]);
    let (header, data) = (&packet[..header_len], &packet[header_len..total.max(header_len)]);
    let room = (mtu as usize).saturating_sub(header_len) & !7;
    if room == 0 {
        return false;
    }
    for (i, piece) in data.chunks(room).enumerate() {
        let Some(mut frame) = take() else { return false };
        let fits = frame.resize(header_len + piece.len());
        if !fits {
            out.push(frame);
            return false;
        }
        let last = (i + 1) * room >= data.len();
        let more = if last { word & MORE } else { MORE };
        let offset = (word & OFFSET) + (i * room / 8) as u16;
        let bytes = frame.bytes_mut();
        bytes[..header_len].copy_from_slice(header);
        bytes[header_len..].copy_from_slice(piece);
        if i > 0 {
            blank_uncopied_options(&mut bytes[20..header_len]);
        }
        bytes[LENGTH..LENGTH + 2].copy_from_slice(&((header_len + piece.len()) as u16).to_be_bytes());
        bytes[FLAGS..FLAGS + 2].copy_from_slice(&((word & 0x4000) | more | (offset & OFFSET)).to_be_bytes());
        bytes[CHECKSUM..CHECKSUM + 2].fill(0);
        let sum = Sum::new().bytes(&bytes[..header_len]).checksum();
        bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        out.push(frame);
    }
    true
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

    /// Length, flags and offset word, and data of each fragment.
    fn cut(p: &[u8], mtu: u16) -> Vec<(u16, u16, Vec<u8>)> {
        let mut pool = Pool::fresh(16, 2048);
        let mut out = Vec::new();
        assert!(split(p, mtu, || pool.take(), &mut out));
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
        assert!(split(&packet(&options, 100, 0), 80, || pool.take(), &mut out));
        assert_eq!(out[0].bytes()[20..28], options);
        assert_eq!(out[1].bytes()[20..28], [1, 1, 1, 1, 0x94, 4, 0, 0]);
    }

    #[test]
    fn too_few_frames_or_too_small_an_mtu_is_said() {
        let mut out = Vec::new();
        let mut pool = Pool::fresh(1, 2048);
        assert!(!split(&packet(&[], 100, 0), 60, || pool.take(), &mut out));
        assert_eq!(out.len(), 1);
        let mut pool = Pool::fresh(8, 2048);
        assert!(!split(&packet(&[], 100, 0), 27, || pool.take(), &mut Vec::new()));
        assert!(!split(&[0x4f; 20], 60, || pool.take(), &mut Vec::new()));
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
