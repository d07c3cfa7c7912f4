//! The short way of a packet: from what it looks like to the line of its port.
//!
//! A burst goes through stages, so that its cache misses overlap:
//!
//! | stage | reads | asks for |
//! |---|---|---|
//! | [`Eyes::see`] | headers | tags of memos |
//! | [`Eyes::recall`] | tags | memos; where there are none, where flows are found |
//! | [`Eyes::meet`] | memos | flows; where memos are old, where flows are found |
//! | [`Eyes::find`] | where flows are found | flows; where there are none, what new ones need |
//! | [`Engine::pass`] | flows | |
//!
//! In the last one packets go in the order in which they came, each the short way or the long one.

use super::Engine;
use super::fast::{FastPath, Look, Memo, NO_FLOW, Recall, Remembered, Way};
use super::fate::{ETHERNET, Fate, link_header};
use super::memory::Memory;
use super::order::Needs;
use super::packet::{Hop, Packet};
use super::place::Place;
use super::running::Running;
use crate::conntrack::{Ct, Part, Told, Tracker};
use crate::neigh::Hop as Next;
use crate::packet::glance::{self, Glance, Mac, V4, V6};
use crate::packet::vlan;
use crate::reason::DropReason;
use crate::umem::Frame;
use crate::umem::prefetch::prefetch;
use sumun_config::facts::{Family, PortId};
use sumun_config::model::Checksums;

/// How many frames ahead headers are asked for.
const AHEAD: usize = 4;

/// What a frame of the burst looks like.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// The port that it came in on, behind its tags.
    port: PortId,
    kind: Kind,
    /// Where its memo may be; none: nothing like it was seen before, or nothing is remembered.
    place: Option<u32>,
    hash: u64,
    /// Of its tuple, where its flow will be looked for; zero: it will not.
    flow_hash: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing that a memo could be of.
    Other,
    /// Its tags lead to no port.
    Refused(DropReason),
    V4,
    V6,
}

/// Why a packet goes the long way.
enum Off {
    /// What it meets there is to be noted.
    New,
    /// Rules are to be asked.
    Judged(Recall),
    /// It is not as others of its flow.
    Apart,
}

/// Who looks at a burst.
struct Eyes<'a> {
    fast: &'a FastPath,
    tracker: &'a Tracker,
}

impl Eyes<'_> {
    #[inline(always)]
    fn see(&self, bytes: &[u8], port: PortId, mac: Mac) -> Sight {
        if let Some(seen) = glance::v4(bytes, port, mac) {
            let hash = seen.hash(&self.fast.keys);
            self.fast.v4.prefetch_tags(hash);
            Sight { port, kind: Kind::V4, hash, place: None, flow_hash: 0 }
        } else if let Some(seen) = glance::v6(bytes, port, mac) {
            let hash = seen.hash(&self.fast.keys);
            self.fast.v6.prefetch_tags(hash);
            Sight { port, kind: Kind::V6, hash, place: None, flow_hash: 0 }
        } else {
            Sight { port, kind: Kind::Other, hash: 0, place: None, flow_hash: 0 }
        }
    }

    /// Asks for the memo of what was seen; where there is none, for where its flow is to be found.
    #[inline(always)]
    fn recall<const N: usize>(&self, sight: &mut Sight, memory: &Memory<Memo<N>>, bytes: &[u8], needs: &Needs) {
        sight.place = if self.fast.remembers() { memory.find(sight.hash) } else { None };
        match sight.place {
            Some(place) => memory.prefetch(place),
            None if needs.tracking => self.seek(sight, &Glance::<N>::again(bytes, sight.port)),
            None => {}
        }
    }

    /// Nothing is remembered of it: asks where its flow is to be found.
    #[inline(always)]
    fn seek<const N: usize>(&self, sight: &mut Sight, seen: &Glance<N>) {
        sight.flow_hash = self.tracker.hash_of(&seen.tuple());
        self.tracker.prefetch_index(sight.flow_hash);
    }

    /// Asks for the flow that was sought; where there is none, for what the next one will need.
    #[inline(always)]
    fn find<const N: usize>(&self, sight: &Sight, bytes: &[u8], needs: &Needs) {
        if !self.tracker.prefetch_found(sight.flow_hash) && needs.nat {
            self.tracker.prefetch_mapping(&Glance::<N>::again(bytes, sight.port).tuple());
        }
    }

    /// Asks for the flow that a memo tells of; where it is of earlier rules, for where that is to be found.
    #[inline(always)]
    fn meet<const N: usize>(&self, sight: &mut Sight, memory: &Memory<Memo<N>>, bytes: &[u8], needs: &Needs) {
        let Some(place) = sight.place else { return };
        let memo = memory.at(place);
        if memo.epoch == self.fast.epoch {
            self.tracker.prefetch_flow(memo.flow, (memo.rest >> 32) as u8);
        } else if needs.tracking {
            self.seek(sight, &Glance::<N>::again(bytes, sight.port));
        }
    }
}

impl Engine {
    /// All stages but the last of a burst that came in on a port. Tags are off afterwards.
    #[inline]
    pub(super) fn meet(&mut self, g: &Running, port: PortId, rx: &mut [Frame]) {
        let own = glance::mac(self.router.links[port.0 as usize].mac);
        let mut sights = std::mem::take(&mut self.fast.sights);
        sights.clear();
        let (mut bytes, mut are_tagged) = (0, false);
        let eyes = Eyes { fast: &self.fast, tracker: &self.tracker };
        sights.extend(rx.iter().enumerate().map(|(at, frame)| {
            if let Some(ahead) = rx.get(at + AHEAD) {
                prefetch(ahead.bytes());
            }
            bytes += frame.len() as u64;
            let sight = eyes.see(frame.bytes(), port, own);
            are_tagged |= sight.kind == Kind::Other && vlan::is_tagged(frame.bytes());
            sight
        }));
        if are_tagged {
            self.untag(port, rx, &mut sights);
        }
        self.stats.rx[port.0 as usize].add(rx.len() as u64, bytes);
        let eyes = Eyes { fast: &self.fast, tracker: &self.tracker };
        for (sight, frame) in sights.iter_mut().zip(rx.iter()) {
            match sight.kind {
                Kind::V4 => eyes.recall(sight, &self.fast.v4, frame.bytes(), &g.needs[0]),
                Kind::V6 => eyes.recall(sight, &self.fast.v6, frame.bytes(), &g.needs[1]),
                Kind::Other | Kind::Refused(_) => {}
            }
        }
        let mut are_sought = false;
        for (sight, frame) in sights.iter_mut().zip(rx.iter()) {
            match sight.kind {
                Kind::V4 => eyes.meet(sight, &self.fast.v4, frame.bytes(), &g.needs[0]),
                Kind::V6 => eyes.meet(sight, &self.fast.v6, frame.bytes(), &g.needs[1]),
                Kind::Other | Kind::Refused(_) => {}
            }
            are_sought |= sight.flow_hash != 0;
        }
        if are_sought {
            for (sight, frame) in sights.iter().zip(rx.iter()).filter(|(sight, _)| sight.flow_hash != 0) {
                match sight.kind {
                    Kind::V4 => eyes.find::<V4>(sight, frame.bytes(), &g.needs[0]),
                    Kind::V6 => eyes.find::<V6>(sight, frame.bytes(), &g.needs[1]),
                    Kind::Other | Kind::Refused(_) => {}
                }
            }
        }
        self.fast.sights = sights;
    }

    /// Frames with tags: go on without them, on the ports that they lead to.
    #[inline(never)]
    fn untag(&self, port: PortId, rx: &mut [Frame], sights: &mut [Sight]) {
        let eyes = Eyes { fast: &self.fast, tracker: &self.tracker };
        for (frame, sight) in rx.iter_mut().zip(sights).filter(|(frame, _)| vlan::is_tagged(frame.bytes())) {
            match self.router.vlans.untag(port, frame) {
                Ok(owner) => {
                    let link = owner.0 as usize;
                    if owner != port {
                        self.stats.rx[link].count(frame.len());
                    }
                    *sight = eyes.see(frame.bytes(), owner, glance::mac(self.router.links[link].mac));
                }
                Err(reason) => sight.kind = Kind::Refused(reason),
            }
        }
    }

    /// The last stage: a frame goes its way.
    #[inline(always)]
    pub(super) fn pass(&mut self, g: &Running, sight: &Sight, mut frame: Frame, stand: &mut Place) {
        let remembers = self.fast.remembers();
        let out = match sight.kind {
            Kind::V4 => match recall(&mut self.fast.v4, sight, remembers) {
                Some(place) => {
                    let memo = *self.fast.v4.at(place);
                    self.ride(g, sight.port, &memo, &mut frame, |seen| Look::V4(seen, place))
                }
                None => Err(None),
            },
            Kind::V6 => match recall(&mut self.fast.v6, sight, remembers) {
                Some(place) => {
                    let memo = *self.fast.v6.at(place);
                    self.ride(g, sight.port, &memo, &mut frame, |seen| Look::V6(seen, place))
                }
                None => Err(None),
            },
            Kind::Other => Err(None),
            Kind::Refused(reason) => return self.refuse_frame(reason, frame),
        };
        match out {
            Ok(out) => self.queue(out, frame),
            Err(recall) => self.walk_through(g, sight, recall, frame, stand),
        }
    }

    /// Makes a frame ready that can go the short way; the port that it leaves by, or else what it takes on the long way.
    #[inline(always)]
    fn ride<const N: usize>(
        &mut self,
        g: &Running,
        port: PortId,
        memo: &Memo<N>,
        frame: &mut Frame,
        look: impl FnOnce(Glance<N>) -> Look,
    ) -> Result<usize, Option<Recall>> {
        let seen = Glance::<N>::again(frame.bytes(), port);
        match self.replay(g, port, memo, &seen, frame) {
            Ok(out) => Ok(out),
            Err(Off::New) => {
                self.fast.notes.start(look(seen));
                Err(None)
            }
            Err(Off::Judged(recall)) => {
                self.fast.recalled += 1;
                Err(Some(recall))
            }
            Err(Off::Apart) => Err(None),
        }
    }

    /// Does to a packet what was remembered of others that look the same; the port that it leaves by.
    #[inline(always)]
    fn replay<const N: usize>(
        &mut self,
        g: &Running,
        port: PortId,
        memo: &Memo<N>,
        seen: &Glance<N>,
        frame: &mut Frame,
    ) -> Result<usize, Off> {
        let Some((len, upper)) = Glance::<N>::extent(frame.bytes()) else { return Err(Off::Apart) };
        let fits = (memo.addresses, memo.rest, memo.epoch) == (seen.addresses, seen.rest, self.fast.epoch)
            && (memo.has_flags == 0 || memo.tcp_flags == glance::tcp_flags(upper));
        if !fits || self.trace.is_some() {
            return Err(Off::New);
        }
        if memo.is_judged != 0 || self.fast.remembered == Remembered::Ways {
            let recall = memo.recall();
            let stands = recall.known.is_none_or(|known| self.tracker.stands(&known));
            return Err(if stands { Off::Judged(recall) } else { Off::New });
        }
        let way = &self.fast.ways[memo.way as usize];
        if len > way.hop.mtu || frame.is_large() {
            return Err(Off::Apart);
        }
        let family = Glance::<N>::FAMILY;
        if way.moment != self.fast.moment && !self.ask_way(g, memo.way) {
            return Err(Off::Apart);
        }
        let s = &g.policy.sysctl;
        let is_summed = memo.flow != NO_FLOW && s.nf_conntrack_checksum;
        let must_be_right = is_summed || self.router.links[port.0 as usize].checksums == Checksums::Finish;
        if must_be_right && !seen.is_sum_right(upper) {
            return Err(Off::Apart);
        }
        if let Some(known) = memo.known() {
            let part = Part { family, proto: seen.protocol(), icmp: None, len, l4: upper };
            match self.tracker.track_known(&known, &part, s) {
                Told::AsKnown => {}
                Told::Changed | Told::Unknown => return Err(Off::New),
                Told::Apart => return Err(Off::Apart),
            }
        }
        self.fast.count(memo.path, len);
        // What the link padded stays behind.
        let whole = frame.resize(ETHERNET + usize::from(len));
        debug_assert!(whole, "it was there");
        let way = &self.fast.ways[memo.way as usize];
        let bytes = frame.bytes_mut();
        if let Some(link) = bytes.first_chunk_mut() {
            *link = way.header;
        }
        memo.change.apply(bytes);
        Ok(way.hop.port.0 as usize)
    }

    /// Writes the link's header of a way, whose MAC is asked for once a moment; false where it is not known.
    fn ask_way(&mut self, g: &Running, way: u16) -> bool {
        let Way { hop, family, .. } = self.fast.ways[way as usize];
        let next = self.resolver.lookup(hop.port, hop.family(family), hop.address, self.now, &g.policy.sysctl);
        let Next::Mac(mac) = next else { return false };
        let way = &mut self.fast.ways[way as usize];
        way.moment = self.fast.moment;
        way.header = link_header(family, mac, self.router.links[hop.port.0 as usize].mac);
        true
    }

    /// The long way.
    #[inline(never)]
    fn walk_through(&mut self, g: &Running, sight: &Sight, recall: Option<Recall>, frame: Frame, stand: &mut Place) {
        let ordinary = match sight.kind {
            Kind::V4 => Some(Family::V4),
            Kind::V6 => Some(Family::V6),
            Kind::Other | Kind::Refused(_) => None,
        };
        let end = self.parse(g, sight.port, ordinary, frame, stand).then(|| {
            let p = stand.packet();
            p.recall = recall;
            let end = self.ingress(g, p);
            if self.fast.notes.is_on() && matches!(end, Ok(Fate::Send { .. })) {
                self.remember(g, p);
            }
            end
        });
        // What was noted and found out is this packet's alone.
        self.fast.notes.stop();
        self.tracker.is_through();
        if !matches!(end, Some(Ok(Fate::Send { .. }))) {
            // ARP and neighbour discovery change MACs.
            self.fast.move_on();
        }
        if let Some(end) = end {
            self.finish_place(g, stand, end);
            self.settle(g);
        }
    }

    /// The next hop of a packet whose like has been routed as it would be; none where the routing decision is to be made.
    #[inline]
    pub(super) fn hop_again(&self, p: &Packet) -> Option<Hop> {
        let recall = p.recall.as_ref()?;
        let is_of_it = match (p.ct, recall.known) {
            // Its mapping, if any, is as it was.
            (Ct::Flow(flow), Some(known)) => flow == known.flow && known.is_as(&p.facts),
            (Ct::None | Ct::Untracked, None) => true,
            _ => false,
        };
        (is_of_it && recall.was_routed_as(&p.facts)).then(|| self.fast.ways[usize::from(recall.way)].hop)
    }

    /// The MAC of its next hop, which somebody has asked for in this moment.
    #[inline]
    pub(super) fn mac_again(&mut self, g: &Running, p: &Packet) -> Option<[u8; 6]> {
        let at = p.recall.as_ref()?.way;
        let way = &self.fast.ways[usize::from(at)];
        let is_known = way.hop == p.hop && (way.moment == self.fast.moment || self.ask_way(g, at));
        is_known.then(|| std::array::from_fn(|i| self.fast.ways[usize::from(at)].header[i]))
    }
}

/// Where the memo of what looks so is; none where it has been seen for the first time.
#[inline(always)]
fn recall<const N: usize>(memory: &mut Memory<Memo<N>>, sight: &Sight, is_on: bool) -> Option<u32> {
    if sight.place.is_some() || !is_on {
        return sight.place;
    }
    // Another of the same burst may have been the first.
    let place = memory.find(sight.hash);
    if place.is_none() {
        memory.mark(sight.hash);
    }
    place
}
