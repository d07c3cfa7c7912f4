//! Defragmentation: which packet does a fragment belong to, and is it whole now?
//!
//! Conntrack and NAT need whole packets, so fragments are gathered before them, at the priority that the kernel has for it
//! (`ip_defrag` and `nf_ct_frag6_gather`, whose verdicts these are): overlaps end a packet (RFC 5722), copies of what is
//! there are dropped, a queue that is not whole in time ends, and so does one that its sender has gone too far beyond
//! (`ipfrag_max_dist`). A whole packet lies in one frame, like any other: in a large one ([`Pool::take_for`]) where it is
//! too long. So everything behind treats it like any other packet. It is cut again on its way out, see
//! [`crate::packet::fragment`]: the sizes of its fragments lie in the headroom of its frame.
//!
//! Memory is fixed: a worker holds at most a share of its frames here ([`Defrag::new`]), and each family at most its
//! threshold. Frames wait in place; a packet is copied once, when it is whole. The fragments of a packet come in on one
//! queue, as devices choose queues of fragments by the addresses alone, so each worker gathers its own.
//!
//! Differs from the kernel: a packet has at most [`MOST_PIECES`] fragments, and the extension headers of IPv6 must all be in
//! the first one (RFC 7112).

use crate::packet::checksum::Sum;
use crate::packet::fragment::{self, MOST_PIECES};
use crate::packet::parse;
use crate::reason::DropReason;
use crate::umem::{Frame, Pool};
use piece::{Fragment, Unfit};
use queue::{Added, NONE, Pieces, Queue};
use source::Sources;
use std::collections::HashMap;
use std::num::NonZeroU16;
use sumun_config::facts::{Facts, Family, PortId};
use sumun_config::model::Sysctl;

mod piece;
mod queue;
mod source;
#[cfg(test)]
mod tests;

/// Who wants whole packets; each has its own queues (`ip_defrag_users`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum User {
    /// Conntrack, for what came in.
    Prerouting,
    /// Conntrack, for what the router says.
    Output,
    /// The local stack, where nothing is tracked.
    Local,
}

/// What makes fragments parts of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    whose: Whose,
    family: Family,
    src: u128,
    dst: u128,
    id: u32,
    /// IPv4: the protocol. IPv6: the port, as addresses may mean another host on each link.
    of: u16,
}

/// Which fragments may come together: those that one user sees in one VRF.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Whose {
    /// Who gathers them.
    pub user: User,
    /// Number of the VRF, whose addresses others may have too; 0 is none.
    pub vrf: u16,
}

/// Where a fragment was placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is no fragment.
    Passes,
    /// IPv6: it is not the last and its length is no multiple of eight. Routers let it pass, its destination complains.
    Uneven,
    /// It waits for others: give its frame to [`Defrag::hold`].
    Waits(Ticket),
    /// It was the last one missing: [`Defrag::complete`].
    Completes(Ticket),
}

/// A fragment's place, to be used at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    queue: u32,
    piece: u32,
}

/// A packet that has come together.
#[derive(Debug)]
pub struct Whole {
    /// Its frame; the IP header is at the start.
    pub frame: Frame,
    /// What is known of it.
    pub facts: Facts,
    /// Largest fragment that came of it, in bytes of IP.
    pub largest: NonZeroU16,
    /// How many fragments it came in.
    pub pieces: usize,
}

/// The first fragment of a packet that did not come together in time.
#[derive(Debug)]
pub struct Late {
    /// Its frame.
    pub frame: Frame,
    /// What is known of it.
    pub facts: Facts,
    /// Where in the frame its IP header starts.
    pub l3: u16,
    /// Who waited.
    pub user: User,
}

/// A worker's incomplete packets. Owned by its engine.
#[derive(Debug)]
pub struct Defrag {
    keys: HashMap<Key, u32>,
    queues: Box<[Queue]>,
    free: Vec<u32>,
    pieces: Pieces,
    sources: Sources,
    /// Frames held, by [`Family::index`].
    held: [usize; 2],
    /// Oldest and newest queue, by [`Family::index`].
    ages: [[u32; 2]; 2],
    /// Most frames held, both families together.
    most: usize,
    /// Fragments that have come to their end and wait for [`Defrag::ended`].
    ended: Vec<(DropReason, Frame)>,
}

impl Defrag {
    /// Holds at most `most` frames.
    pub fn new(most: usize) -> Defrag {
        Defrag {
            // Twice the room, so that places of removed keys are reused without ever growing.
            keys: HashMap::with_capacity(2 * most),
            queues: (0..most).map(|_| Queue::default()).collect(),
            free: (0..most as u32).rev().collect(),
            pieces: Pieces::new(most),
            sources: Sources::new(most),
            held: [0; 2],
            ages: [[NONE; 2]; 2],
            most,
            ended: Vec::with_capacity(most),
        }
    }

    /// Frames held, for the census.
    pub fn held(&self) -> usize {
        self.held.iter().sum::<usize>() + self.ended.len()
    }

    /// The next fragment that ended without becoming part of a packet, and why. To be asked until there is none, after every
    /// [`Defrag::place`], [`Defrag::complete`] and [`Defrag::late`].
    pub fn ended(&mut self) -> Option<(DropReason, Frame)> {
        self.ended.pop()
    }

    /// Finds the place of a fragment; `l3` is its IP packet. `room` is the size of its frame, which is what it costs.
    ///
    /// # Errors
    /// The fragment is to be dropped, and maybe others with it ([`Defrag::ended`]).
    pub fn place(
        &mut self,
        whose: Whose,
        facts: &Facts,
        l3: &[u8],
        room: usize,
        now: u64,
        s: &Sysctl,
    ) -> Result<Place, DropReason> {
        let fragment = match Fragment::of(facts, l3) {
            Ok(fragment) => fragment,
            Err(Unfit::Whole) => return Ok(Place::Passes),
            Err(Unfit::Malformed) => return Err(DropReason::FragmentMalformed),
            Err(Unfit::Uneven) => return Ok(Place::Uneven),
        };
        let family = facts.family;
        let (timeout, threshold) = match family {
            Family::V4 => (s.ipfrag_time, s.ipfrag_high_thresh),
            Family::V6 => (s.nf_conntrack_frag6_timeout, s.nf_conntrack_frag6_high_thresh),
        };
        let is_full = self.held[family.index()].saturating_mul(room) >= threshold as usize;
        if is_full || self.held.iter().sum::<usize>() >= self.most {
            return Err(DropReason::FragmentQueue);
        }
        let of = match (family, whose.user) {
            (Family::V4, _) => u16::from(facts.proto),
            (Family::V6, User::Local) if !crate::fib::is_link_local(family, facts.dst) => PortId::NONE.0,
            (Family::V6, _) => facts.iif.0,
        };
        let key = Key { whose, family, src: facts.src, dst: facts.dst, id: fragment.id, of };
        let deadline = now.saturating_add(timeout.saturating_mul(1_000_000));
        let at = match self.keys.get(&key) {
            Some(at) => *at,
            None => self.open(key, deadline).ok_or(DropReason::FragmentQueue)?,
        };
        if family == Family::V4 && s.ipfrag_max_dist > 0 && self.is_too_far(at, s.ipfrag_max_dist) {
            self.empty(at, DropReason::FragmentTimeout);
            self.unlink(at);
            self.queues[at as usize].restart(deadline);
            self.link(at);
        }
        match self.queues[at as usize].add(&fragment, facts, &mut self.pieces) {
            Added::At(piece) => {
                let ticket = Ticket { queue: at, piece };
                match self.queues[at as usize].is_whole() {
                    true => Ok(Place::Completes(ticket)),
                    false => Ok(Place::Waits(ticket)),
                }
            }
            Added::Known => Err(DropReason::FragmentDuplicate),
            Added::Full => {
                self.end(at, DropReason::FragmentQueue);
                Err(DropReason::FragmentQueue)
            }
            Added::Overlaps => {
                self.end(at, DropReason::FragmentOverlap);
                Err(DropReason::FragmentOverlap)
            }
            Added::Contradicts => {
                // IPv4 gives the packet up, IPv6 the fragment alone.
                if family == Family::V4 || !self.queues[at as usize].holds_any() {
                    self.end(at, DropReason::FragmentMalformed);
                }
                Err(DropReason::FragmentMalformed)
            }
        }
    }

    /// Keeps the frame of a fragment that waits; its IP header starts at `l3`.
    pub fn hold(&mut self, ticket: Ticket, frame: Frame, l3: u16) {
        let family = self.queues[ticket.queue as usize].key.map_or(Family::V4, |key| key.family);
        self.held[family.index()] += 1;
        self.pieces.put(ticket.piece, frame, l3);
    }

    /// Puts a packet together whose last missing fragment, with the IP packet `last` and its facts, was placed just now. The
    /// frames of the others go back to the pool.
    ///
    /// # Errors
    /// Its parts do not make a packet, or there is no frame for it. All its fragments end.
    pub fn complete(
        &mut self,
        ticket: Ticket,
        last: &[u8],
        facts: &Facts,
        pool: &mut Pool,
    ) -> Result<Whole, DropReason> {
        match self.assemble(ticket, last, facts, pool) {
            Ok(whole) => {
                let queue = &mut self.queues[ticket.queue as usize];
                let family = facts.family.index();
                while let Some(frame) = queue.pop(&mut self.pieces) {
                    if let Some((frame, _)) = frame {
                        self.held[family] -= 1;
                        pool.give(frame);
                    }
                }
                self.close(ticket.queue);
                Ok(whole)
            }
            Err(reason) => {
                self.end(ticket.queue, reason);
                Err(reason)
            }
        }
    }

    /// `ip_frag_reasm`, `nf_ct_frag6_reasm`.
    fn assemble(&self, ticket: Ticket, last: &[u8], facts: &Facts, pool: &mut Pool) -> Result<Whole, DropReason> {
        let queue = &self.queues[ticket.queue as usize];
        let bytes_of = |piece: u32| if piece == ticket.piece { last } else { self.pieces.l3(piece) };
        let ecn = queue.ecn().ok_or(DropReason::FragmentMalformed)?;
        let (first, header_len) = (bytes_of(queue.first()), queue.header_len as usize);
        let header = first.get(..header_len).ok_or(DropReason::FragmentMalformed)?;
        let len = header_len + queue.len as usize;
        if len > usize::from(u16::MAX) {
            return Err(DropReason::FragmentMalformed);
        }
        let mut frame = pool.take_for(len).ok_or(DropReason::NoFrame)?;
        let mut sizes = [0u16; MOST_PIECES];
        let mut n = 0;
        let fits = frame.resize(len);
        debug_assert!(fits);
        if let Some(to) = frame.bytes_mut().get_mut(..len) {
            to[..header_len].copy_from_slice(header);
            for piece in self.pieces.of(queue) {
                let from = bytes_of(piece.0).get(piece.1.skip as usize..).unwrap_or_default();
                let (start, size) = (header_len + piece.1.start as usize, piece.1.size());
                if let (Some(to), Some(from)) = (to.get_mut(start..start + size), from.get(..size)) {
                    to.copy_from_slice(from);
                }
                sizes[n] = size as u16;
                n += 1;
            }
            finish_header(facts.family, to, queue, ecn);
        }
        fragment::note_sizes(&mut frame, &sizes[..n]);
        let head = &queue.head;
        match parse::ip(facts.family, frame.bytes()) {
            Ok(whole) => {
                let facts = Facts {
                    smac: head.smac,
                    dmac: head.dmac,
                    has_link: head.has_link,
                    pkt_type: head.pkt_type,
                    iif: facts.iif,
                    oif: facts.oif,
                    mark: head.mark,
                    ..whole
                };
                let largest = NonZeroU16::new(queue.largest).unwrap_or(NonZeroU16::MAX);
                Ok(Whole { frame, facts, largest, pieces: n })
            }
            Err(reason) => {
                pool.give(frame);
                Err(reason)
            }
        }
    }

    /// Ends one packet that did not come together in time; true as long as there was one. Its first fragment is given where
    /// it came and an error may be due, the others are [`Defrag::ended`].
    pub fn late(&mut self, now: u64) -> Option<Option<Late>> {
        let at =
            self.ages.iter().map(|ages| ages[0]).find(|at| *at != NONE && self.queues[*at as usize].deadline <= now)?;
        let queue = &mut self.queues[at as usize];
        let key = queue.key?;
        let first = if queue.has_first { queue.pop(&mut self.pieces).flatten() } else { None };
        let facts = queue.head;
        if first.is_some() {
            self.held[key.family.index()] -= 1;
        }
        self.end(at, DropReason::FragmentTimeout);
        Some(first.map(|(frame, l3)| Late { frame, facts, l3, user: key.whose.user }))
    }

    /// When the next packet is late.
    pub fn next_deadline(&self) -> Option<u64> {
        let oldest = self.ages.iter().map(|ages| ages[0]).filter(|at| *at != NONE);
        oldest.map(|at| self.queues[at as usize].deadline).min()
    }

    /// Whether more fragments than `most` came from the sender since the last one of this queue (`ip_frag_too_far`).
    fn is_too_far(&mut self, at: u32, most: u32) -> bool {
        let queue = &mut self.queues[at as usize];
        let Some(key) = queue.key else { return false };
        let before = queue.sender_count;
        queue.sender_count = self.sources.count(key.src);
        queue.holds_any() && queue.sender_count.wrapping_sub(before) > most
    }

    fn open(&mut self, key: Key, deadline: u64) -> Option<u32> {
        let at = self.free.pop()?;
        let sender_count = match key.family {
            Family::V4 => self.sources.enter(key.src),
            Family::V6 => 0,
        };
        let queue = &mut self.queues[at as usize];
        queue.key = Some(key);
        queue.sender_count = sender_count;
        queue.restart(deadline);
        self.keys.insert(key, at);
        self.link(at);
        Some(at)
    }

    /// Ends a queue and all its fragments.
    fn end(&mut self, at: u32, reason: DropReason) {
        self.empty(at, reason);
        self.close(at);
    }

    fn empty(&mut self, at: u32, reason: DropReason) {
        let queue = &mut self.queues[at as usize];
        let family = queue.key.map_or(Family::V4, |key| key.family);
        while let Some(frame) = queue.pop(&mut self.pieces) {
            if let Some((frame, _)) = frame {
                self.held[family.index()] -= 1;
                self.ended.push((reason, frame));
            }
        }
    }

    fn close(&mut self, at: u32) {
        self.unlink(at);
        if let Some(key) = self.queues[at as usize].key.take() {
            self.keys.remove(&key);
            if key.family == Family::V4 {
                self.sources.leave(key.src);
            }
            self.free.push(at);
        }
    }

    /// Puts a queue at the young end.
    fn link(&mut self, at: u32) {
        let Some(key) = self.queues[at as usize].key else { return };
        let ages = &mut self.ages[key.family.index()];
        let [_, newest] = *ages;
        self.queues[at as usize].older = newest;
        self.queues[at as usize].younger = NONE;
        match newest {
            NONE => ages[0] = at,
            newest => self.queues[newest as usize].younger = at,
        }
        ages[1] = at;
    }

    fn unlink(&mut self, at: u32) {
        let Queue { key: Some(key), older, younger, .. } = self.queues[at as usize] else { return };
        let ages = &mut self.ages[key.family.index()];
        match older {
            NONE => ages[0] = younger,
            older => self.queues[older as usize].younger = younger,
        }
        match younger {
            NONE => ages[1] = older,
            younger => self.queues[younger as usize].older = older,
        }
    }
}

/// Makes the first fragment's header that of the whole packet.
fn finish_header(family: Family, packet: &mut [u8], queue: &Queue, ecn: u8) {
    let len = packet.len();
    match family {
        Family::V4 => {
            packet[1] |= ecn;
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            // DF is kept only where the largest fragment had it: else small ones with it could make others undeliverable.
            let flags: u16 = if queue.largest_unfragmentable == queue.largest { 0x4000 } else { 0 };
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            packet[10..12].fill(0);
            let sum = Sum::new().bytes(&packet[..queue.header_len as usize]).checksum();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Family::V6 => {
            packet[1] |= ecn << 4;
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            packet[queue.named_at as usize] = queue.next_header;
        }
    }
}
