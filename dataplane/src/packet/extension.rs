//! IPv6 extension headers: what is the upper layer, where does it start, which fragment is this?
//!
//! The walk is that of the kernel's `ipv6_find_hdr` without a target, bounded in the number of headers. Hop-by-hop
//! options are checked as `ipv6_parse_hopopts` does; a packet whose options say "discard" ends here.

use sumun_config::facts::proto;

pub use sumun_config::facts::proto::is_extension;

/// Most extension headers of a packet.
const MOST_HEADERS: usize = 12;
/// Most hop-by-hop options beside padding (`net.ipv6.max_hbh_opts_number`).
const MOST_OPTIONS: usize = 8;
/// Most bytes of padding in a row (`ip6_parse_tlv`).
const MOST_PADDING: usize = 7;

/// What the walk found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upper {
    /// Upper-layer protocol; behind a later fragment's header the protocol it names, even if that is an extension header.
    pub proto: u8,
    /// Its offset from the IPv6 header.
    pub offset: usize,
    /// Offset of the byte that names it.
    pub named_at: usize,
    /// Offset of this fragment in bytes.
    pub frag_off: u16,
    /// More fragments follow.
    pub more_frags: bool,
    /// Identification of the fragment header, where there is one.
    pub frag_id: Option<u32>,
}

impl Upper {
    /// An upper layer right behind the IPv6 header.
    #[inline]
    pub const fn bare(proto: u8) -> Upper {
        Upper { proto, offset: 40, named_at: 6, frag_off: 0, more_frags: false, frag_id: None }
    }
}

/// Walks the headers of a packet (`packet` starts at the IPv6 header, `next` is that header's next header). None where
/// a header is cut off or there are too many.
pub fn walk(packet: &[u8], next: u8) -> Option<Upper> {
    let mut upper = Upper::bare(next);
    for _ in 0..=MOST_HEADERS {
        if !is_extension(upper.proto) {
            return Some(upper);
        }
        let header = packet.get(upper.offset..)?;
        let [next, len, ..] = *header else { return None };
        let bytes = match upper.proto {
            proto::FRAGMENT => {
                let fragment: &[u8; 8] = header.first_chunk()?;
                let word = u16::from_be_bytes([fragment[2], fragment[3]]);
                upper.frag_off = word & !7;
                upper.more_frags = word & 1 != 0;
                upper.frag_id = Some(u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]));
                8
            }
            // RFC 4302 section 2.2: in 32-bit words, less two.
            proto::AH => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        upper.proto = next;
        upper.named_at = upper.offset;
        upper.offset += bytes;
        if upper.offset > packet.len() {
            return None;
        }
        if upper.frag_off != 0 {
            return Some(upper);
        }
    }
    None
}

/// Whether the destination of a packet is only a station of its source route: a routing header with segments left.
pub fn has_segments_left(packet: &[u8], mut next: u8) -> bool {
    let mut at = 40;
    for _ in 0..MOST_HEADERS {
        let Some([following, len, _, left]) = packet.get(at..).and_then(|header| header.first_chunk()) else { break };
        at += match next {
            proto::ROUTING if *left != 0 => return true,
            proto::ROUTING | proto::HOPOPTS | proto::DSTOPTS => (usize::from(*len) + 1) * 8,
            proto::AH => (usize::from(*len) + 2) * 4,
            proto::FRAGMENT => 8,
            _ => break,
        };
        next = *following;
    }
    false
}

/// Whether the hop-by-hop header at the start of `header` lets the packet pass: well-formed, no jumbo payload, no
/// option that asks routers to discard what they do not know (RFC 8200 section 4.2).
pub fn hop_by_hop_ok(header: &[u8]) -> bool {
    let [_, len, ..] = *header else { return false };
    let Some(mut options) = header.get(2..(usize::from(len) + 1) * 8) else { return false };
    let (mut count, mut padding) = (0, 0);
    while let [kind, rest @ ..] = options {
        if *kind == 0 {
            padding += 1;
            options = rest;
        } else {
            let [len, rest @ ..] = rest else { return false };
            let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else { return false };
            match *kind {
                1 => {
                    padding += 2 + value.len();
                    if value.iter().any(|byte| *byte != 0) {
                        return false;
                    }
                }
                kind => {
                    padding = 0;
                    count += 1;
                    let known_and_wrong = kind == ROUTER_ALERT && value.len() != 2;
                    if known_and_wrong || kind >> 6 != 0 || count > MOST_OPTIONS {
                        return false;
                    }
                }
            }
            options = rest;
        }
        if padding > MOST_PADDING {
            return false;
        }
    }
    true
}

/// RFC 2711.
const ROUTER_ALERT: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(headers: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes.extend(headers);
        bytes
    }

    fn upper(proto: u8, offset: usize) -> Option<Upper> {
        let named_at = if offset == 40 { 6 } else { 40 };
        Some(Upper { proto, offset, named_at, frag_off: 0, more_frags: false, frag_id: None })
    }

    #[test]
    fn walks_as_ipv6_find_hdr() {
        let options = [6, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(walk(&packet(&[]), 6), upper(6, 40));
        assert_eq!(walk(&packet(&[]), proto::NONE), upper(proto::NONE, 40));
        for extension in [proto::HOPOPTS, proto::ROUTING, proto::DSTOPTS, proto::AH] {
            assert_eq!(walk(&packet(&options), extension), upper(6, 48), "{extension}");
            assert_eq!(walk(&packet(&options[..7]), extension), None, "{extension}");
        }
        let long_ah = [58, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(walk(&packet(&long_ah), proto::AH), upper(58, 64));
        assert_eq!(walk(&packet(&[]), proto::ESP), upper(proto::ESP, 40));
        assert_eq!(walk(&packet(&[60, 0]), proto::HOPOPTS), None);
    }

    #[test]
    fn a_later_fragment_ends_the_walk() {
        let first = [60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0];
        let found = Upper { proto: 17, offset: 56, named_at: 48, frag_off: 0, more_frags: true, frag_id: Some(9) };
        assert_eq!(walk(&packet(&first), proto::FRAGMENT), Some(found));
        let later = [60, 0, 5, 0xa8, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0];
        let found = Upper { proto: 60, offset: 48, named_at: 40, frag_off: 1448, more_frags: false, frag_id: Some(9) };
        assert_eq!(walk(&packet(&later), proto::FRAGMENT), Some(found));
    }

    #[test]
    fn the_number_of_headers_is_bounded() {
        let chain = |n: usize| {
            let mut headers = [60, 0, 1, 4, 0, 0, 0, 0].repeat(n);
            headers[8 * (n - 1)] = 6;
            packet(&headers)
        };
        assert_eq!(walk(&chain(MOST_HEADERS), 60).map(|u| u.offset), Some(40 + 8 * MOST_HEADERS));
        assert_eq!(walk(&chain(MOST_HEADERS + 1), 60), None);
    }

    #[test]
    fn segments_left_are_found_behind_other_headers() {
        let route = |left| packet(&[43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 4, left, 0, 0, 0, 0]);
        assert!(has_segments_left(&route(1), proto::HOPOPTS));
        assert!(!has_segments_left(&route(0), proto::HOPOPTS));
        assert!(!has_segments_left(&route(1), proto::UDP));
        assert!(!has_segments_left(&[], proto::ROUTING));
    }

    #[test]
    fn hop_by_hop_options_are_judged_as_by_the_kernel() {
        let cases: &[(&[u8], bool)] = &[
            (&[6, 0, 1, 4, 0, 0, 0, 0], true),
            (&[6, 0, 1, 4, 0, 0, 1, 0], false),
            (&[6, 0, 5, 2, 0, 0, 1, 0], true),
            (&[6, 0, 5, 1, 0, 1, 1, 0], false),
            (&[6, 0, 0xc2, 4, 0, 1, 0, 0], false),
            (&[6, 0, 0x1e, 4, 0, 1, 0, 0], true),
            (&[6, 0, 0x5e, 4, 0, 1, 0, 0], false),
            (&[6, 0, 0x9e, 4, 0, 1, 0, 0], false),
            (&[6, 0, 1, 5, 0, 0, 0, 0], false),
            (&[6, 0, 0, 0, 0, 0, 0, 1], false),
            (&[6, 1, 1, 6, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0], false),
            (&[6, 1, 1, 4, 0, 0, 0, 0], false),
            (&[6], false),
        ];
        for (header, expected) in cases {
            assert_eq!(hop_by_hop_ok(header), *expected, "{header:?}");
        }
    }
}
