//! A fragment by itself: where its data lies in the whole, and whether it can be part of one.

use crate::packet::extension::is_extension;
use sumun_config::facts::{Facts, Family, proto};

/// What a fragment says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub id: u32,
    /// First byte of its data in the whole packet's data.
    pub start: u32,
    /// Byte after its data.
    pub end: u32,
    /// More fragments follow.
    pub more: bool,
    /// Bytes in front of its data.
    pub skip: u16,
    /// Bytes of headers that the whole packet has in front of all data.
    pub header_len: u16,
    /// IPv6: where the fragment header is named, and what it names.
    pub named_at: u16,
    pub next_header: u8,
    /// The ECN field.
    pub ecn: u8,
    /// Bytes of IP.
    pub size: u16,
    /// IPv4 Don't Fragment.
    pub dont_frag: bool,
}

/// Why a packet is not gathered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unfit {
    /// It is no fragment.
    Whole,
    /// IPv6: it is not the last and its length is no multiple of eight.
    Uneven,
    /// No data, or beyond what a packet can have.
    Malformed,
}

impl Fragment {
    /// Reads a fragment's IP packet (`ip_frag_queue`, `nf_ct_frag6_queue`).
    #[inline]
    pub fn of(facts: &Facts, l3: &[u8]) -> Result<Fragment, Unfit> {
        match facts.family {
            Family::V4 if facts.is_fragment() => Fragment::of_v4(facts),
            // Also the fragment that is a whole packet (RFC 6946).
            Family::V6 if facts.has_options => Fragment::of_v6(facts, l3),
            _ => Err(Unfit::Whole),
        }
    }

    fn of_v4(facts: &Facts) -> Result<Fragment, Unfit> {
        let data = u32::from(facts.len.saturating_sub(facts.l4_off));
        let start = u32::from(facts.frag_off);
        let mut end = start + data;
        if facts.more_frags {
            end &= !7;
        }
        let size = facts.l4_off + (end - start) as u16;
        Ok(Fragment {
            id: u32::from(facts.ip_id),
            start,
            end,
            more: facts.more_frags,
            skip: facts.l4_off,
            header_len: facts.l4_off,
            named_at: 0,
            next_header: 0,
            ecn: facts.tos & 3,
            size,
            dont_frag: facts.dont_frag,
        })
    }

    fn of_v6(facts: &Facts, l3: &[u8]) -> Result<Fragment, Unfit> {
        let (named_at, at) = find_header(l3).ok_or(Unfit::Whole)?;
        let header: &[u8; 8] = l3.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Unfit::Whole)?;
        let word = u16::from_be_bytes([header[2], header[3]]);
        let more = word & 1 != 0;
        let start = u32::from(word & !7);
        let data = usize::from(facts.len).checked_sub(at + 8).ok_or(Unfit::Malformed)?;
        let end = start + data as u32;
        if end > u32::from(u16::MAX) {
            return Err(Unfit::Malformed);
        }
        if more && !end.is_multiple_of(8) {
            return Err(Unfit::Uneven);
        }
        Ok(Fragment {
            id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            start,
            end,
            more,
            skip: (at + 8) as u16,
            header_len: at as u16,
            named_at: named_at as u16,
            next_header: header[0],
            ecn: facts.tos & 3,
            size: facts.len,
            dont_frag: false,
        })
    }
}

/// Where the fragment header is named and where it starts (`find_prev_fhdr`).
fn find_header(l3: &[u8]) -> Option<(usize, usize)> {
    let (mut named_at, mut at) = (6, 40);
    // Each header has at least eight bytes and the parser bounded their number.
    loop {
        let next = *l3.get(named_at)?;
        if next == proto::FRAGMENT {
            return Some((named_at, at));
        }
        if !is_extension(next) {
            return None;
        }
        let len = usize::from(*l3.get(at + 1)?);
        named_at = at;
        at += if next == proto::AH { (len + 2) * 4 } else { (len + 1) * 8 };
    }
}
