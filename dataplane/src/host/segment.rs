//! From what the host's stack gives a TAP to frames that a wire could carry.
//!
//! A [`Cut`] is a frame's way through the knife: it is made once, with every check, and then writes one segment after the
//! other, so that whoever has no empty frame now can go on later. What comes out is what the kernel's own segmentation
//! (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`) would have sent: identifications count up, PSH and FIN are the last
//! segment's, CWR is the first one's.
//!
//! Nothing here panics or reads beyond the frame, whatever the host says of it.

use super::vnet::{Kind, Offload};
use crate::packet::checksum::Sum;
use crate::packet::parse;
use crate::packet::view::{Ethernet, ethertype, tcp_flag};
use crate::umem::Frame;
use sumun_config::facts::{Family, proto};

/// Why a frame of the host is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Header and frame contradict each other.
    #[error("its virtio header does not fit it")]
    Malformed,
    /// A piece of it is longer than what its port sends.
    #[error("it is longer than what its port sends")]
    TooLong,
}

/// A frame that is being cut.
#[derive(Debug)]
pub struct Cut {
    plan: Plan,
    /// The next byte to be taken.
    at: usize,
    /// Where the packet ends.
    end: usize,
}

#[derive(Debug)]
enum Plan {
    /// It goes as it is.
    Whole,
    Segments(Segments),
}

/// How segments are made. All offsets are from the start of the frame.
#[derive(Debug)]
struct Segments {
    family: Family,
    kind: Kind,
    l3: usize,
    l4: usize,
    /// Where the data begins.
    data: usize,
    size: usize,
    src: u128,
    dst: u128,
    sequence: u32,
    flags: u8,
    id: u16,
}

impl Cut {
    /// Looks at a frame and finishes its checksum where that is all it lacks. `room` is the size of the longest piece that can
    /// be written.
    pub fn new(offload: Offload, frame: &mut [u8], room: usize) -> Result<Cut, Refused> {
        let end = frame.len();
        if end < Ethernet::LEN {
            return Err(Refused::Malformed);
        }
        match offload {
            Offload::None => {}
            Offload::Sum { start, offset } => finish(frame, start.into(), offset.into())?,
            Offload::Cut { kind, size, start } => {
                let (segments, end) = Segments::new(kind, size.into(), start.into(), frame)?;
                if end - segments.data > segments.size {
                    if segments.data + segments.size > room {
                        return Err(Refused::TooLong);
                    }
                    return Ok(Cut { at: segments.data, end, plan: Plan::Segments(segments) });
                }
                // One segment, and it is there already: only its sum is missing.
                finish(&mut frame[..end], start.into(), kind.sum_offset().into())?;
            }
        }
        if end > room { Err(Refused::TooLong) } else { Ok(Cut { plan: Plan::Whole, at: 0, end }) }
    }

    /// Whether all pieces were written.
    pub fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// Bytes of the next piece.
    pub fn next_len(&self) -> usize {
        let left = self.end - self.at.min(self.end);
        match &self.plan {
            Plan::Whole => left,
            Plan::Segments(segments) => segments.data + left.min(segments.size),
        }
    }

    /// Writes the next piece. `frame` is the one that the cut was made of. False where there is none, or where it does not fit.
    pub fn write(&mut self, frame: &[u8], out: &mut Frame) -> bool {
        if self.is_done() {
            return false;
        }
        match &mut self.plan {
            Plan::Whole => {
                let written = frame.get(self.at..self.end).is_some_and(|bytes| out.set(bytes));
                self.at = self.end;
                written
            }
            Plan::Segments(segments) => {
                let next = (self.at + segments.size).min(self.end);
                let (Some(headers), Some(data)) = (frame.get(..segments.data), frame.get(self.at..next)) else {
                    return false;
                };
                out.reset();
                if !out.resize(headers.len() + data.len()) {
                    return false;
                }
                let bytes = out.bytes_mut();
                bytes[..headers.len()].copy_from_slice(headers);
                bytes[headers.len()..].copy_from_slice(data);
                let place = Place::of(self.at == segments.data, next == self.end);
                segments.finish(bytes, place);
                self.at = next;
                true
            }
        }
    }
}

/// Where a segment stands among those of its frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Middle,
    Last,
}

impl Place {
    fn of(is_first: bool, is_last: bool) -> Place {
        match (is_first, is_last) {
            (true, _) => Place::First,
            (_, true) => Place::Last,
            _ => Place::Middle,
        }
    }
}

impl Segments {
    /// Reads the headers of a super-frame. The end of its packet comes with them: there may be padding behind it.
    fn new(kind: Kind, size: usize, start: usize, frame: &[u8]) -> Result<(Segments, usize), Refused> {
        let (family, l3) = network(frame).ok_or(Refused::Malformed)?;
        let packet = frame.get(l3..).ok_or(Refused::Malformed)?;
        let facts = parse::ip(family, packet).map_err(|_| Refused::Malformed)?;
        let l4 = l3 + usize::from(facts.l4_off);
        let (end, is_fragment) = (l3 + usize::from(facts.len), facts.more_frags || facts.frag_off != 0);
        let fits = match kind {
            Kind::Tcp4 => family == Family::V4 && facts.proto == proto::TCP,
            Kind::Tcp6 => family == Family::V6 && facts.proto == proto::TCP,
            Kind::Udp => facts.proto == proto::UDP,
        };
        if !fits || l4 != start || is_fragment || !facts.has_l4 {
            return Err(Refused::Malformed);
        }
        let header = frame.get(l4..end).ok_or(Refused::Malformed)?;
        let header_len = match kind {
            Kind::Udp => 8,
            Kind::Tcp4 | Kind::Tcp6 => header.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4),
        };
        let sequence = header.get(4..8).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u32::from_be_bytes);
        let data = l4 + header_len;
        if header_len < 8 || (kind != Kind::Udp && header_len < 20) || data > end {
            return Err(Refused::Malformed);
        }
        let segments = Segments {
            family,
            kind,
            l3,
            l4,
            data,
            size,
            src: facts.src,
            dst: facts.dst,
            sequence,
            flags: facts.tcp_flags,
            id: facts.ip_id,
        };
        Ok((segments, end))
    }

    /// Makes the copied headers those of this segment.
    fn finish(&mut self, bytes: &mut [u8], place: Place) {
        let (l3, l4) = (self.l3, self.l4);
        match self.family {
            Family::V4 => {
                let total = (bytes.len() - l3) as u16;
                let header = &mut bytes[l3..l4];
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[4..6].copy_from_slice(&self.id.to_be_bytes());
                header[10..12].fill(0);
                let sum = Sum::new().bytes(header).checksum();
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                self.id = self.id.wrapping_add(1);
            }
            Family::V6 => {
                let payload = (bytes.len() - l3 - 40) as u16;
                bytes[l3 + 4..l3 + 6].copy_from_slice(&payload.to_be_bytes());
            }
        }
        let upper = &mut bytes[l4..];
        let number = match self.kind {
            Kind::Tcp4 | Kind::Tcp6 => {
                upper[4..8].copy_from_slice(&self.sequence.to_be_bytes());
                let (not_last, not_first) = (tcp_flag::PSH | tcp_flag::FIN, tcp_flag::CWR);
                upper[13] = match place {
                    Place::First => self.flags & !not_last,
                    Place::Middle => self.flags & !not_last & !not_first,
                    Place::Last => self.flags & !not_first,
                };
                self.sequence = self.sequence.wrapping_add(self.size as u32);
                proto::TCP
            }
            Kind::Udp => {
                let len = upper.len() as u16;
                upper[4..6].copy_from_slice(&len.to_be_bytes());
                proto::UDP
            }
        };
        let at = usize::from(self.kind.sum_offset());
        upper[at..at + 2].fill(0);
        let sum = Sum::new().pseudo(self.src, self.dst, number, upper.len()).bytes(upper).checksum();
        // What the kernel does for all protocols (`gso_make_checksum` and CSUM_MANGLED_0): only UDP would have to.
        let sum = if sum == 0 && self.kind == Kind::Udp { 0xffff } else { sum };
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Family and offset of the IP packet in a frame, behind up to two VLAN tags.
pub(super) fn network(frame: &[u8]) -> Option<(Family, usize)> {
    let mut at = Ethernet::LEN;
    loop {
        let kind = frame.get(at - 2..at)?;
        match u16::from_be_bytes([kind[0], kind[1]]) {
            ethertype::IPV4 => return Some((Family::V4, at)),
            ethertype::IPV6 => return Some((Family::V6, at)),
            ethertype::VLAN | ethertype::QINQ if at < Ethernet::LEN + 8 => at += 4,
            _ => return None,
        }
    }
}

/// Writes a checksum that covers all from `start` on, as `skb_checksum_help`. What is at its place counts: the sum of the pseudo header.
fn finish(frame: &mut [u8], start: usize, offset: usize) -> Result<(), Refused> {
    let covered = frame.get(start..).ok_or(Refused::Malformed)?;
    if start < Ethernet::LEN || covered.get(offset..offset + 2).is_none() {
        return Err(Refused::Malformed);
    }
    let sum = match Sum::new().bytes(covered).checksum() {
        0 => 0xffff,
        sum => sum,
    };
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
