//! What of a TCP segment matters to conntrack, and whether it is sane at all (`tcp_error`).

use super::super::Invalid;
use super::{ACK, FIN, Kind, RST, SYN, after, has_valid_flags};
use crate::packet::view::Tcp;

/// Option kinds and lengths (RFC 9293 3.2, RFC 7323 2.2, RFC 2018 2 and 3).
mod option {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const WINDOW_SCALE: u8 = 3;
    pub const SACK_PERMITTED: u8 = 4;
    pub const SACK: u8 = 5;
    /// NOP, NOP, timestamps of ten bytes: what nearly every segment carries, alone.
    pub const TIMESTAMPS: [u8; 4] = [NOP, NOP, 8, 10];
    pub const TIMESTAMPS_LEN: usize = 12;
}

/// RFC 7323 2.3: more than this is taken for this.
const MAX_SCALE: u8 = 14;

/// A segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its kind.
    pub kind: Kind,
    flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Sequence number after it: SYN and FIN count one each.
    pub end: u32,
    /// Window as in the header, unscaled.
    pub window: u16,
    /// By how much the numbers of the side that it answers have moved on the way to its sender.
    pub moved: u32,
    options: &'a [u8],
}

/// What a SYN offers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub scale: Option<u8>,
    pub sack: bool,
}

impl<'a> Segment<'a> {
    /// The segment that is an IP packet's payload.
    ///
    /// # Errors
    /// Why it is none.
    #[inline]
    pub fn of(l4: &'a [u8]) -> Result<Segment<'a>, Invalid> {
        let header = Tcp::new(l4).ok_or(Invalid::Truncated)?;
        let header_len = header.header_len();
        let options = l4.get(Tcp::LEN..header_len).ok_or(Invalid::Truncated)?;
        let flags = header.flags();
        if !has_valid_flags(flags) {
            return Err(Invalid::TcpFlags);
        }
        let occupies = (l4.len() - header_len) as u32 + u32::from(flags & FIN != 0) + u32::from(flags & SYN != 0);
        let seq = header.sequence();
        Ok(Segment {
            kind: Kind::of(flags),
            flags,
            seq,
            ack: header.acknowledgement(),
            end: seq.wrapping_add(occupies),
            window: header.window(),
            moved: 0,
            options,
        })
    }

    /// Whether it has SYN.
    #[inline]
    pub fn is_syn(&self) -> bool {
        self.flags & SYN != 0
    }

    /// Whether it has RST.
    #[inline]
    pub fn is_rst(&self) -> bool {
        self.flags & RST != 0
    }

    /// Whether its acknowledgement number means something.
    #[inline]
    pub fn has_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// What a SYN offers in its options; none where it has no options.
    pub(super) fn offer(&self) -> Option<Offer> {
        if self.options.is_empty() {
            return None;
        }
        let mut offer = Offer::default();
        for (kind, value) in Options(self.options) {
            match (kind, value) {
                (option::SACK_PERMITTED, []) => offer.sack = true,
                (option::WINDOW_SCALE, [scale]) => offer.scale = Some((*scale).min(MAX_SCALE)),
                _ => {}
            }
        }
        Some(offer)
    }

    /// The highest sequence number that is acknowledged, selectively or not.
    #[inline]
    pub(super) fn sack(&self) -> u32 {
        let plain = self.options.is_empty()
            || (self.options.len() == option::TIMESTAMPS_LEN && self.options.starts_with(&option::TIMESTAMPS));
        if plain { self.ack } else { self.sack_of_options() }
    }

    fn sack_of_options(&self) -> u32 {
        let blocks = |(kind, value): (u8, &'a [u8])| {
            (kind == option::SACK && !value.is_empty() && value.len().is_multiple_of(8)).then_some(value)
        };
        let mut highest = self.ack;
        for block in Options(self.options).find_map(blocks).unwrap_or_default().chunks_exact(8) {
            let right = u32::from_be_bytes([block[4], block[5], block[6], block[7]]);
            if after(right, highest) {
                highest = right;
            }
        }
        highest
    }
}

/// Kinds and values of options; ends where they are malformed.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        loop {
            match *self.0 {
                [option::NOP, ref rest @ ..] => self.0 = rest,
                [kind, len, ..] if kind != option::END => {
                    let value = self.0.get(2..usize::from(len))?;
                    self.0 = &self.0[usize::from(len)..];
                    return Some((kind, value));
                }
                _ => return None,
            }
        }
    }
}
