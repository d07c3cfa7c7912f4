//! From frames of a burst to super-frames for the host's stack, which takes 64 kilobytes as easily as one segment.
//!
//! What belongs together is what the kernel's own GRO would join (`tcp_gro_receive`, `udp_gro_receive`, `inet_gro_receive`): segments of one
//! flow that follow each other without a gap, of one size save the last, equal in everything that their headers say beside
//! length, sequence number and identification; PSH and FIN only on the last. Nothing is lost by it: [`segment`](super::segment)
//! would cut a super-frame into the very frames that it was made of. The one exception is the kernel's, too: identifications of packets
//! with DF, which mean nothing (RFC 6864), may stand still.
//!
//! A joined frame's checksum is not looked at any more, so a frame with a wrong one is never joined.
//!
//! Frames of one flow keep their order; those of different flows may not. No bytes are copied: a super-frame is the first
//! frame, with its headers changed, and the data of the others.

use super::segment::network;
use super::vnet::{self, Kind, Offload};
use crate::packet::checksum::Sum;
use crate::packet::view::{DONT_FRAGMENT, Ethernet, Ipv4, Ipv6, tcp_flag};
use crate::umem::Frame;
use arrayvec::ArrayVec;
use std::io::IoSlice;
use sumun_config::facts::{Family, proto};

/// Flows that are joined at the same time: as many as the kernel's GRO has in a bucket.
const FLOWS: usize = 8;

/// Most frames of a super-frame.
const MOST: usize = 64;

/// Where the IP header begins: frames with tags are not joined.
const L3: usize = Ethernet::LEN;

/// One frame, or several that are one.
#[derive(Debug)]
pub struct Run {
    frames: Vec<Frame>,
    /// What the first frame says of itself, where others may follow it.
    first: Option<Piece>,
    /// Where the packet in the last frame ends.
    end: usize,
    /// Bytes of data of all frames.
    data: usize,
    /// The last frame can be followed.
    is_open: bool,
    header: [u8; vnet::LEN],
}

/// A frame that can be joined with its like.
#[derive(Clone, Copy, Debug)]
struct Piece {
    family: Family,
    kind: Kind,
    l4: usize,
    data: usize,
    end: usize,
}

/// Runs of frames to one TAP.
#[derive(Debug)]
pub struct Join {
    kinds: Kinds,
    open: Vec<Run>,
    /// Empty ones, kept for their memory.
    spare: Vec<Run>,
}

/// What the TAP takes as super-frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kinds {
    /// TCP.
    Tcp,
    /// TCP and UDP (since Linux 6.2).
    TcpAndUdp,
}

impl Join {
    /// Nothing yet.
    pub fn new(kinds: Kinds) -> Join {
        Join { kinds, open: Vec::new(), spare: Vec::new() }
    }

    /// Takes the next frame. What is complete by that goes to `done`, which takes the frames out of the run.
    pub fn push(&mut self, mut frame: Frame, done: &mut impl FnMut(&mut Run)) {
        let piece = Piece::of(frame.bytes(), self.kinds);
        match piece {
            Some(piece) => {
                // Padding would be data.
                let _ = frame.resize(piece.end);
                if let Some(at) = self.open.iter().position(|run| run.is_of_flow(frame.bytes(), &piece)) {
                    if self.open[at].takes(frame.bytes(), &piece) {
                        self.open[at].append(frame, &piece);
                        if !self.open[at].is_open {
                            self.close(at, done);
                        }
                        return;
                    }
                    self.close(at, done);
                }
            }
            None => {
                while let Some(at) = self.open.iter().position(|run| run.is_between_the_same(frame.bytes())) {
                    self.close(at, done);
                }
            }
        }
        if self.open.len() == FLOWS {
            self.close(0, done);
        }
        let mut run = self.spare.pop().unwrap_or_else(Run::empty);
        run.start(frame, piece);
        self.open.push(run);
        if !self.open.last().is_some_and(|run| run.is_open) {
            self.close(self.open.len() - 1, done);
        }
    }

    /// Ends all runs: no more frames come now.
    pub fn finish(&mut self, done: &mut impl FnMut(&mut Run)) {
        while !self.open.is_empty() {
            self.close(0, done);
        }
    }

    fn close(&mut self, at: usize, done: &mut impl FnMut(&mut Run)) {
        let mut run = self.open.remove(at);
        run.complete();
        done(&mut run);
        run.frames.clear();
        self.spare.push(run);
    }
}

impl Run {
    fn empty() -> Run {
        Run { frames: Vec::with_capacity(MOST), first: None, end: 0, data: 0, is_open: false, header: [0; vnet::LEN] }
    }

    /// The frames, to be given back.
    pub fn frames(&mut self) -> &mut Vec<Frame> {
        &mut self.frames
    }

    /// What is to be written to the TAP, in one piece.
    pub fn slices(&self) -> ArrayVec<IoSlice<'_>, { MOST + 1 }> {
        let mut slices = ArrayVec::new();
        slices.push(IoSlice::new(&self.header));
        let mut frames = self.frames.iter();
        slices.extend(frames.next().map(|first| IoSlice::new(first.bytes())));
        if let Some(piece) = self.first {
            slices.extend(frames.filter_map(|frame| frame.bytes().get(piece.data..)).map(IoSlice::new));
        }
        slices
    }

    fn start(&mut self, frame: Frame, piece: Option<Piece>) {
        self.is_open = piece.is_some_and(|piece| piece.can_be_followed(frame.bytes()));
        self.end = frame.len();
        self.data = piece.map_or(0, |piece| piece.end - piece.data);
        self.first = piece;
        self.frames.push(frame);
    }

    fn append(&mut self, frame: Frame, piece: &Piece) {
        let size = self.size();
        self.is_open = piece.end - piece.data == size && piece.can_be_followed(frame.bytes());
        self.is_open &= self.frames.len() + 1 < MOST;
        self.data += piece.end - piece.data;
        self.end = piece.end;
        self.frames.push(frame);
    }

    /// Bytes of data of each frame.
    fn size(&self) -> usize {
        self.first.map_or(0, |first| first.end - first.data)
    }

    fn head(&self) -> &[u8] {
        self.frames.first().map_or(&[], Frame::bytes)
    }

    /// Whether a piece belongs to the flow of this run.
    fn is_of_flow(&self, bytes: &[u8], piece: &Piece) -> bool {
        let Some(first) = &self.first else { return false };
        first.family == piece.family && first.kind == piece.kind && first.flow(self.head()) == piece.flow(bytes)
    }

    /// Whether a frame that is no piece is between the same addresses: then it must not overtake.
    fn is_between_the_same(&self, bytes: &[u8]) -> bool {
        let (Some(first), Some((family, l3))) = (&self.first, network(bytes)) else { return false };
        first.family == family && addresses(family, bytes, l3) == addresses(family, self.head(), L3)
    }

    /// Whether a piece of the same flow goes on where this run ends.
    fn takes(&self, bytes: &[u8], piece: &Piece) -> bool {
        let (Some(first), head) = (&self.first, self.head()) else { return false };
        let (size, more) = (self.size(), piece.end - piece.data);
        let total = first.data - L3 + self.data + more;
        if !self.is_open || more > size || total > usize::from(u16::MAX) || first.data != piece.data {
            return false;
        }
        if head[..L3] != bytes[..L3] {
            return false;
        }
        let same = |range: std::ops::Range<usize>| head[range.clone()] == bytes[range];
        let network = match first.family {
            // Version, header length and TOS; fragment word, TTL and protocol.
            Family::V4 => same(L3..L3 + 2) && same(L3 + 6..L3 + 10) && self.is_next_id(bytes),
            // Version, class and label; next header and hop limit.
            Family::V6 => same(L3..L3 + 4) && same(L3 + 6..L3 + 8),
        };
        let l4 = first.l4;
        network
            && match first.kind {
                Kind::Udp => true,
                Kind::Tcp4 | Kind::Tcp6 => {
                    let next = long(head, l4 + 4).wrapping_add(self.data as u32);
                    let flags = (head[l4 + 13] ^ bytes[l4 + 13]) & !(tcp_flag::PSH | tcp_flag::FIN);
                    // Acknowledgement and data offset; window; urgent pointer and options.
                    long(bytes, l4 + 4) == next
                        && flags == 0
                        && same(l4 + 8..l4 + 13)
                        && same(l4 + 14..l4 + 16)
                        && same(l4 + 18..first.data)
                }
            }
    }

    /// Whether the identification is the one that cutting would give, or that of all packets of the flow (with DF).
    fn is_next_id(&self, bytes: &[u8]) -> bool {
        let (first, id) = (word(self.head(), L3 + 4), word(bytes, L3 + 4));
        let count = self.frames.len() as u16;
        let may_stand = word(bytes, L3 + 6) & DONT_FRAGMENT != 0;
        let second = self.frames.get(1).map(|frame| word(frame.bytes(), L3 + 4));
        match second {
            Some(second) if second == first => may_stand && id == first,
            Some(_) => id == first.wrapping_add(count),
            None => id == first.wrapping_add(1) || may_stand && id == first,
        }
    }

    /// Makes the first frame's headers those of the whole, and says what the whole is.
    fn complete(&mut self) {
        self.header = [0; vnet::LEN];
        let (Some(first), Some(last)) = (self.first, self.frames.last()) else { return };
        if self.frames.len() < 2 {
            return;
        }
        let last_flags = last.bytes().get(first.l4 + 13).copied().unwrap_or_default();
        let total = first.data - L3 + self.data;
        let bytes = self.frames[0].bytes_mut();
        let (src, dst) = match first.family {
            Family::V4 => {
                bytes[L3 + 2..L3 + 4].copy_from_slice(&(total as u16).to_be_bytes());
                bytes[L3 + 10..L3 + 12].fill(0);
                let sum = Sum::new().bytes(&bytes[L3..first.l4]).checksum();
                bytes[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
                (long(bytes, L3 + 12).into(), long(bytes, L3 + 16).into())
            }
            Family::V6 => {
                bytes[L3 + 4..L3 + 6].copy_from_slice(&((total - Ipv6::LEN) as u16).to_be_bytes());
                (wide(bytes, L3 + 8), wide(bytes, L3 + 24))
            }
        };
        let upper = first.data - first.l4 + self.data;
        let number = match first.kind {
            Kind::Udp => {
                bytes[first.l4 + 4..first.l4 + 6].copy_from_slice(&(upper as u16).to_be_bytes());
                proto::UDP
            }
            Kind::Tcp4 | Kind::Tcp6 => {
                bytes[first.l4 + 13] |= last_flags & (tcp_flag::PSH | tcp_flag::FIN);
                proto::TCP
            }
        };
        let sum = Sum::new().pseudo(src, dst, number, upper).fold();
        let at = first.l4 + usize::from(first.kind.sum_offset());
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let size = (first.end - first.data) as u16;
        let offload = Offload::Cut { kind: first.kind, size, start: first.l4 as u16 };
        self.header = offload.write(first.data as u16);
    }
}

impl Piece {
    /// What a frame is, where it may be part of a run. Its checksums are right then.
    fn of(bytes: &[u8], kinds: Kinds) -> Option<Piece> {
        let (family, l3) = network(bytes)?;
        (l3 == L3).then_some(())?;
        let (number, l4, end) = match family {
            Family::V4 => {
                let header = Ipv4::new(&bytes[L3..])?;
                let fragment = header.fragment() & !DONT_FRAGMENT;
                if header.version() != 4 || header.header_len() != Ipv4::LEN || fragment != 0 {
                    return None;
                }
                if !Sum::new().bytes(&bytes[L3..L3 + Ipv4::LEN]).is_valid() {
                    return None;
                }
                (header.protocol(), L3 + Ipv4::LEN, L3 + usize::from(header.total_len()))
            }
            Family::V6 => {
                let header = Ipv6::new(&bytes[L3..])?;
                (header.version() == 6).then_some(())?;
                (header.next_header(), L3 + Ipv6::LEN, L3 + Ipv6::LEN + usize::from(header.payload_len()))
            }
        };
        let upper = bytes.get(l4..end)?;
        let (kind, header_len) = match (number, family) {
            (proto::TCP, family) if upper.len() > 20 => {
                // No SYN, RST, URG or CWR: nothing is joined with them.
                let flags = upper[13];
                let good = flags & !(tcp_flag::PSH | tcp_flag::FIN | tcp_flag::ECE) == tcp_flag::ACK;
                let header_len = usize::from(upper[12] >> 4) * 4;
                (good && header_len >= 20).then_some(())?;
                (if family == Family::V4 { Kind::Tcp4 } else { Kind::Tcp6 }, header_len)
            }
            (proto::UDP, _) if kinds == Kinds::TcpAndUdp && upper.len() > 8 => {
                (usize::from(word(upper, 4)) == upper.len() && word(upper, 6) != 0).then_some(())?;
                (Kind::Udp, 8)
            }
            _ => return None,
        };
        let piece = Piece { family, kind, l4, data: l4 + header_len, end };
        (piece.data < end && piece.is_whole(bytes, number)).then_some(piece)
    }

    fn is_whole(&self, bytes: &[u8], number: u8) -> bool {
        let upper = &bytes[self.l4..self.end];
        let (src, dst) = match self.family {
            Family::V4 => (long(bytes, L3 + 12).into(), long(bytes, L3 + 16).into()),
            Family::V6 => (wide(bytes, L3 + 8), wide(bytes, L3 + 24)),
        };
        Sum::new().pseudo(src, dst, number, upper.len()).bytes(upper).is_valid()
    }

    /// Addresses and ports.
    fn flow<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let from = match self.family {
            Family::V4 => L3 + 12,
            Family::V6 => L3 + 8,
        };
        bytes.get(from..self.l4 + 4)
    }

    /// Whether data that follows may be joined to it.
    fn can_be_followed(&self, bytes: &[u8]) -> bool {
        match self.kind {
            Kind::Udp => true,
            Kind::Tcp4 | Kind::Tcp6 => bytes[self.l4 + 13] & (tcp_flag::PSH | tcp_flag::FIN) == 0,
        }
    }
}

fn addresses(family: Family, bytes: &[u8], l3: usize) -> Option<&[u8]> {
    match family {
        Family::V4 => bytes.get(l3 + 12..l3 + 20),
        Family::V6 => bytes.get(l3 + 8..l3 + 40),
    }
}

// All offsets below are within headers that `Piece::of` has seen.

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn wide(bytes: &[u8], at: usize) -> u128 {
    u128::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
