//! How a packet ends, and what is done with its frame then: the one place where frames leave the engine.

use super::Engine;
use super::packet::{Hop, Packet};
use super::place::Place;
use super::running::Running;
use super::trace::End;
use crate::conntrack::Ct;
use crate::defrag::Ticket;
use crate::neigh::{Hop as Next, NeighId};
use crate::packet::{edit, fragment, vlan};
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{Facts, Family, PortId};
use sumun_config::model::Vlan;

/// The end of a packet that was not dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Out on the port of its hop, to this MAC.
    Send { mac: [u8; 6] },
    /// Held until the neighbour's address is known.
    Wait(NeighId),
    /// A fragment, held for the rest of its packet.
    Gather(Ticket),
    /// The local stack has it.
    Delivered,
    /// To the host, on the TAP of this port.
    Host { port: PortId },
    /// The engine itself was meant (neighbour discovery).
    Consumed,
}

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// An Ethernet header without tags.
#[inline(always)]
pub(super) fn link_header(family: Family, to: [u8; 6], from: [u8; 6]) -> [u8; ETHERNET] {
    let kind = match family {
        Family::V4 => [0x08, 0x00],
        Family::V6 => [0x86, 0xdd],
    };
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..].copy_from_slice(&kind);
    header
}

/// Whose MAC was asked for, and in which [moment](super::fast::Atlas::moment).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    hop: (PortId, Family, u128),
    moment: u64,
}

impl Asked {
    /// Nobody's.
    pub const NOBODY: Asked = Asked { hop: (PortId::NONE, Family::V4, 0), moment: u64::MAX };
}

impl Engine {
    /// The next hop's MAC, or a wait for it.
    pub(super) fn neighbour(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        let hop = p.hop;
        if self.assumes_neighbours {
            let [.., a, b, c, d] = hop.address.to_be_bytes();
            return Ok(Fate::Send { mac: [2, 0, a, b, c, d] });
        }
        if let Some(mac) = self.mac_again(g, p) {
            return Ok(Fate::Send { mac });
        }
        let asked = Asked { hop: (hop.port, hop.family(p.facts.family), hop.address), moment: self.fast.atlas.moment };
        if self.told.0 == asked {
            return Ok(Fate::Send { mac: self.told.1 });
        }
        let (port, family, address) = asked.hop;
        match self.resolver.lookup(port, family, address, self.now, &g.policy.sysctl) {
            Next::Mac(mac) => {
                self.told = (asked, mac);
                Ok(Fate::Send { mac })
            }
            Next::Wait(id) => Ok(Fate::Wait(id)),
            Next::Full => Err(DropReason::NeighbourTable),
            Next::Failed => {
                self.unreachable(g, p);
                Err(DropReason::NeighbourFailed)
            }
        }
    }

    /// Ends the packet that stands there. The common end takes its frame out.
    #[inline(always)]
    pub(super) fn finish_place(&mut self, g: &Running, stand: &mut Place, end: Result<Fate, DropReason>) {
        let p = stand.packet();
        match end {
            Ok(Fate::Send { mac }) if self.trace.is_none() && p.cut_to().is_none() => {
                let (span, port, family) = ((p.l3, p.facts.len), p.hop.port, p.facts.family);
                if let Some(frame) = stand.take_frame() {
                    self.send_whole(frame, span, port, family, mac);
                }
            }
            end => {
                if let Some(p) = stand.take() {
                    self.finish_otherwise(g, p, end);
                }
            }
        }
    }

    /// Ends a packet.
    #[inline(always)]
    pub(super) fn finish(&mut self, g: &Running, p: Packet, end: Result<Fate, DropReason>) {
        match end {
            Ok(Fate::Send { mac }) if self.trace.is_none() => self.send(g, p, mac),
            end => self.finish_otherwise(g, p, end),
        }
    }

    #[inline(never)]
    fn finish_otherwise(&mut self, g: &Running, p: Packet, end: Result<Fate, DropReason>) {
        if let Some(trace) = &mut self.trace {
            trace.end.get_or_insert(match end {
                Ok(Fate::Send { .. }) => End::Forwarded,
                Ok(Fate::Wait(_) | Fate::Gather(_)) => End::Waiting,
                Ok(Fate::Delivered | Fate::Host { .. }) => End::Delivered,
                Ok(Fate::Consumed) => End::Consumed,
                Err(reason) => End::Dropped(reason),
            });
        }
        match end {
            Ok(Fate::Send { mac }) => self.send(g, p, mac),
            Ok(Fate::Wait(id)) => {
                // The flow may be gone before the neighbour answers: an error about the packet finds it anew by its tuple.
                let held = Packet { ct: Ct::None, ..p };
                if !self.pool.may_keep(&held.frame) {
                    return self.discard(DropReason::NeighbourQueue, held.frame);
                }
                if let Err(displaced) = self.resolver.hold(id, held, &g.policy.sysctl) {
                    self.discard(DropReason::NeighbourQueue, displaced.frame);
                }
            }
            Ok(Fate::Gather(ticket)) => self.defrag.hold(ticket, p.frame, p.l3),
            Ok(Fate::Delivered) => {
                self.stats.delivered.add(1);
                if let Some(trace) = &mut self.trace {
                    trace.delivered.push(p.frame.bytes().to_vec());
                }
                self.pool.give(p.frame);
            }
            Ok(Fate::Host { port }) => self.hand_to_host(port, p),
            Ok(Fate::Consumed) => {
                self.stats.consumed.add(1);
                self.pool.give(p.frame);
            }
            Err(reason) => {
                self.tracker.abandon(p.ct);
                self.discard(reason, p.frame);
            }
        }
    }

    /// Counts a drop and frees the frame.
    pub(super) fn discard(&mut self, reason: DropReason, frame: Frame) {
        self.stats.dropped(reason);
        self.pool.give(frame);
    }

    /// Writes the link header and puts the frame, or its fragments, in line for its port.
    #[inline(always)]
    pub(super) fn send(&mut self, _: &Running, mut p: Packet, mac: [u8; 6]) {
        let cut = p.cut_to();
        if cut.is_some() && p.is_loose {
            p.edit(edit::clear_dont_fragment);
        }
        let has_sizes = p.has_noted_sizes();
        let Packet { frame, facts, l3, hop, .. } = p;
        let Some(most) = cut else { return self.send_whole(frame, (l3, facts.len), hop.port, facts.family, mac) };
        self.send_pieces(frame, l3, &facts, hop, mac, (most, has_sizes));
    }

    /// Sends the packet of so many bytes that starts there.
    #[inline(always)]
    fn send_whole(&mut self, mut frame: Frame, (l3, len): (u16, u16), port: PortId, family: Family, mac: [u8; 6]) {
        // What the link padded, and any tag, stays behind.
        let whole = frame.resize(l3 as usize + len as usize);
        debug_assert!(whole);
        if usize::from(l3) != ETHERNET {
            frame.pull_front(l3 as usize);
            return self.transmit(port, family, mac, frame);
        }
        self.dispatch(port, family, mac, frame);
    }

    /// Sends a packet that is too large, or came in fragments, as fragments.
    #[cold]
    fn send_pieces(&mut self, mut frame: Frame, l3: u16, facts: &Facts, hop: Hop, mac: [u8; 6], cut: (u16, bool)) {
        let (most, has_sizes) = cut;
        let sizes = match has_sizes {
            true => fragment::noted_sizes(&mut frame),
            false => fragment::Sizes::default(),
        };
        let cut = fragment::Cut { most, sizes: &sizes, id: self.rng.next().max(1) };
        let mut pieces = std::mem::take(&mut self.pieces);
        let packet = frame.bytes().get(l3 as usize..l3 as usize + facts.len as usize).unwrap_or_default();
        let whole = fragment::split(facts.family, packet, &cut, |len| self.pool.take_for(len), &mut pieces);
        if whole {
            self.stats.pieces.add(pieces.len().saturating_sub(1) as u64);
        }
        for piece in pieces.drain(..) {
            match whole {
                true => self.transmit(hop.port, facts.family, mac, piece),
                false => self.pool.give(piece),
            }
        }
        self.pieces = pieces;
        match whole {
            true => self.pool.give(frame),
            false => self.discard(DropReason::NoFrame, frame),
        }
    }

    /// An IP packet at the start of its frame goes out.
    #[inline]
    fn transmit(&mut self, port: PortId, family: Family, mac: [u8; 6], mut frame: Frame) {
        if !frame.push_front(ETHERNET) {
            return self.discard(DropReason::NoFrame, frame);
        }
        self.dispatch(port, family, mac, frame);
    }

    /// A frame with room for the link's header goes out.
    #[inline]
    fn dispatch(&mut self, port: PortId, family: Family, mac: [u8; 6], mut frame: Frame) {
        let Some(i) = port.index().filter(|i| self.lines.has(*i)) else {
            return self.discard(DropReason::NoRoute, frame);
        };
        if let Some(header) = frame.bytes_mut().first_chunk_mut() {
            *header = link_header(family, mac, self.router.links[i].mac);
        }
        self.queue(i, frame);
    }

    /// A whole Ethernet frame, without tags, in line for a port.
    #[inline]
    pub(super) fn queue(&mut self, port: usize, frame: Frame) {
        self.lines.count(port, &frame);
        self.queue_counted(port, frame);
    }

    /// The same of one that is [counted by its way](super::fast::Tally::count).
    #[inline(always)]
    pub(super) fn queue_counted(&mut self, port: usize, frame: Frame) {
        match self.lines.of(port) {
            Ok(line) => line.push(frame),
            Err(vlan) => self.queue_tagged(vlan, frame),
        }
    }

    /// The same on a VLAN: in line for the device of its parent.
    #[inline(never)]
    pub(super) fn queue_tagged(&mut self, vlan: Vlan, mut frame: Frame) {
        if !vlan::tag(&mut frame, &vlan.tags) {
            return self.discard(DropReason::NoFrame, frame);
        }
        self.queue(vlan.parent.0 as usize, frame);
    }
}
