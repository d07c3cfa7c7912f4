//! The short way of a packet: from what it looks like to the line of its port.
//!
//! A burst goes through stages, so that its cache misses overlap:
//!
//! | stage | reads | asks for |
//! |---|---|---|
//! | [`Eyes::see`] | headers | tags of memos |
//! | [`Eyes::recall`] | tags | memos; where there are none, where flows are found |
//! | [`Eyes::meet`] | memos | flows; where memos are old, where flows are found |
//! | [`Engine::look_ahead`] | where flows are found | flows; where there are none, what new ones need |
//! | [`Engine::pass`] | flows | |
//!
//! In the last one packets go in the order in which they came, each the short way or the long one.

use super::Engine;
use super::fast::{Atlas, FastPath, HAS_ASKS, HAS_FLAGS, HAS_FLOW, IS_JUDGED, IS_SUMMED, Look, Memo, Recall, Way};
use super::fate::{ETHERNET, Fate, link_header};
use super::memory::{Memory, Spot};
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

/// How many frames ahead headers are asked for.
const AHEAD: usize = 4;

/// What a frame of the burst looks like.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    spot: Spot,
    /// Of its look ([`Glance::rest`]).
    rest: u64,
    /// Of its tuple, where its flow will be looked for; zero: it will not. From [`Eyes::find`] on that of its source, if it begins a
    /// flow.
    flow_hash: u64,
    /// Where its memo may be; [`NOWHERE`]: nothing like it was seen before, or nothing is remembered.
    place: u32,
    /// The port that it came in on, behind its tags.
    port: PortId,
    kind: Kind,
    /// Why it ends here, if it does.
    refused: DropReason,
}

/// The place of no memo.
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    V4,
    V6,
    /// Nothing that a memo could be of.
    Other,
    /// Its tags lead to no port.
    Refused,
}

/// Why a packet does not go the short way.
enum Off {
    /// It looks like others, and there is no memo of what they met, or they met something else.
    New,
    /// All rules are to be asked.
    Judged,
    /// It is as others and tracked, and some chains are to be asked.
    Asked,
    /// The MAC of this way is to be asked for.
    Stale(u16),
    /// It is not as others of its flow.
    Apart,
}

/// What a replay takes beside the memo and the frame.
struct Hands<'a> {
    atlas: &'a mut Atlas,
    tracker: &'a mut Tracker,
    g: &'a Running,
}

impl Sight {
    /// Of no frame yet.
    pub const BLANK: Sight = Sight {
        spot: Spot::NONE,
        rest: 0,
        flow_hash: 0,
        place: NOWHERE,
        port: PortId::NONE,
        kind: Kind::Other,
        refused: DropReason::UnknownVlan,
    };

    /// What its frame shows, which was found ordinary.
    #[inline(always)]
    fn glance<const N: usize>(&self, frame: &[u8]) -> Glance<N> {
        Glance::again(frame, self.rest).0
    }
}

/// Who looks at a burst.
struct Eyes<'a> {
    fast: &'a FastPath,
    tracker: &'a Tracker,
    /// Memos are looked for.
    remembers: bool,
}

impl Eyes<'_> {
    /// Writes down what a frame looks like, and asks for the tags of its memo.
    #[inline(always)]
    fn see(&self, bytes: &[u8], port: PortId, mac: Mac, sight: &mut Sight) {
        (sight.flow_hash, sight.place, sight.port) = (0, NOWHERE, port);
        if let Some(seen) = glance::v4(bytes, port, mac) {
            (sight.kind, sight.rest) = (Kind::V4, seen.rest);
            sight.spot = self.fast.v4.spot(seen.hash(&self.fast.keys));
            self.fast.v4.prefetch_tags(sight.spot);
        } else if let Some(seen) = glance::v6(bytes, port, mac) {
            (sight.kind, sight.rest) = (Kind::V6, seen.rest);
            sight.spot = self.fast.v6.spot(seen.hash(&self.fast.keys));
            self.fast.v6.prefetch_tags(sight.spot);
        } else {
            sight.kind = Kind::Other;
        }
    }

    /// Asks for the memo of what was seen; where there is none, for where its flow is to be found.
    #[inline(always)]
    fn recall<const N: usize>(&self, sight: &mut Sight, memory: &Memory<Memo<N>>, bytes: &[u8], needs: &Needs) {
        let found = if self.remembers { memory.find(sight.spot) } else { None };
        match found {
            Some(place) => {
                sight.place = place;
                memory.prefetch(place);
            }
            None if needs.tracking => self.seek::<N>(sight, bytes),
            None => {}
        }
    }

    /// Nothing is remembered of it: asks where its flow is to be found.
    #[inline(always)]
    fn seek<const N: usize>(&self, sight: &mut Sight, bytes: &[u8]) {
        sight.flow_hash = self.tracker.hash_of(&sight.glance::<N>(bytes).tuple());
        self.tracker.prefetch_index(sight.flow_hash);
    }

    /// Asks for the flow that was sought; where there is none, for what the next one will need: a free entry, and the places of its
    /// mapping.
    #[inline(always)]
    fn find<const N: usize>(&self, sight: &mut Sight, bytes: &[u8], needs: &Needs, spare: &mut Option<u32>) {
        let is_found = self.tracker.prefetch_found(sight.flow_hash);
        sight.flow_hash = 0;
        if is_found {
            return;
        }
        *spare = self.tracker.prefetch_spare(*spare);
        if needs.nat {
            sight.flow_hash = self.tracker.prefetch_mapping(&sight.glance::<N>(bytes).tuple());
        }
    }

    /// Asks for the flow that a memo tells of; where it is of earlier rules, for where that is to be found.
    #[inline(always)]
    fn meet<const N: usize>(&self, sight: &mut Sight, memory: &Memory<Memo<N>>, bytes: &[u8], needs: &Needs) {
        if sight.place == NOWHERE {
            return;
        }
        let memo = memory.at(sight.place);
        if memo.epoch == self.fast.atlas.epoch {
            self.tracker.prefetch_flow(memo.flow, (memo.rest >> 32) as u8);
        } else if needs.tracking {
            self.seek::<N>(sight, bytes);
        }
    }
}

impl Engine {
    /// All stages but the last of a burst that came in on a port. Tags are off afterwards.
    #[inline]
    pub(super) fn meet(&mut self, g: &Running, port: PortId, rx: &mut [Frame]) {
        let own = glance::mac(self.router.links[port.0 as usize].mac);
        let mut all = std::mem::take(&mut self.fast.sights);
        let sights = &mut all[..rx.len()];
        let (mut bytes, mut are_tagged) = (0, false);
        let eyes = self.eyes();
        for (at, (sight, frame)) in sights.iter_mut().zip(rx.iter()).enumerate() {
            if let Some(ahead) = rx.get(at + AHEAD) {
                prefetch(ahead.bytes());
            }
            bytes += frame.len() as u64;
            eyes.see(frame.bytes(), port, own, sight);
            are_tagged |= sight.kind == Kind::Other && vlan::is_tagged(frame.bytes());
        }
        if are_tagged {
            self.untag(port, rx, sights);
        }
        self.stats.rx[port.0 as usize].add(rx.len() as u64, bytes);
        let eyes = self.eyes();
        for (sight, frame) in sights.iter_mut().zip(rx.iter()) {
            if sight.kind == Kind::V4 {
                eyes.recall(sight, &self.fast.v4, frame.bytes(), &g.needs[0]);
            } else if sight.kind == Kind::V6 {
                eyes.recall(sight, &self.fast.v6, frame.bytes(), &g.needs[1]);
            }
        }
        if g.needs.iter().any(|needs| needs.tracking) {
            let mut are_sought = false;
            for (sight, frame) in sights.iter_mut().zip(rx.iter()) {
                if sight.kind == Kind::V4 {
                    eyes.meet(sight, &self.fast.v4, frame.bytes(), &g.needs[0]);
                } else if sight.kind == Kind::V6 {
                    eyes.meet(sight, &self.fast.v6, frame.bytes(), &g.needs[1]);
                }
                are_sought |= sight.flow_hash != 0;
            }
            if are_sought {
                self.look_ahead(g, rx, sights);
            }
        }
        self.fast.sights = all;
    }

    #[inline(always)]
    fn eyes(&self) -> Eyes<'_> {
        Eyes { fast: &self.fast, tracker: &self.tracker, remembers: self.remembers() }
    }

    /// Whether memos are looked for: something is remembered, and nobody wants to hear of each rule.
    #[inline(always)]
    fn remembers(&self) -> bool {
        self.fast.remembers() && self.trace.is_none()
    }

    /// The stages of packets without a memo that is worth anything: their flows, or what it takes to begin one.
    #[inline(never)]
    fn look_ahead(&self, g: &Running, rx: &[Frame], sights: &mut [Sight]) {
        let eyes = self.eyes();
        let mut spare = self.tracker.spare();
        for (sight, frame) in sights.iter_mut().zip(rx).filter(|(sight, _)| sight.flow_hash != 0) {
            match sight.kind {
                Kind::V4 => eyes.find::<V4>(sight, frame.bytes(), &g.needs[0], &mut spare),
                Kind::V6 => eyes.find::<V6>(sight, frame.bytes(), &g.needs[1], &mut spare),
                Kind::Other | Kind::Refused => {}
            }
        }
        for sight in sights.iter().filter(|sight| sight.flow_hash != 0) {
            self.tracker.prefetch_source(sight.flow_hash);
        }
    }

    /// Frames with tags: go on without them, on the ports that they lead to.
    #[inline(never)]
    fn untag(&self, port: PortId, rx: &mut [Frame], sights: &mut [Sight]) {
        let eyes = self.eyes();
        for (frame, sight) in rx.iter_mut().zip(sights).filter(|(frame, _)| vlan::is_tagged(frame.bytes())) {
            match self.router.vlans.untag(port, frame) {
                Ok(owner) => {
                    let link = owner.0 as usize;
                    if owner != port {
                        self.stats.rx[link].count(frame.len());
                    }
                    eyes.see(frame.bytes(), owner, glance::mac(self.router.links[link].mac), sight);
                }
                Err(reason) => (sight.kind, sight.refused) = (Kind::Refused, reason),
            }
        }
    }

    /// The last stage: a frame goes its way.
    #[inline(always)]
    pub(super) fn pass(&mut self, g: &Running, sight: &Sight, mut frame: Frame, stand: &mut Place) {
        let mut place = sight.place;
        if place == NOWHERE {
            place = self.mark(sight);
        }
        let off = loop {
            if place == NOWHERE {
                break Off::Apart;
            }
            let Engine { fast: FastPath { v4, v6, atlas, .. }, tracker, .. } = self;
            let hands = Hands { atlas, tracker, g };
            let told = if sight.kind == Kind::V4 {
                hands.replay(v4.at(place), sight.rest, &mut frame)
            } else if sight.kind == Kind::V6 {
                hands.replay(v6.at(place), sight.rest, &mut frame)
            } else {
                break Off::Apart;
            };
            match told {
                Ok(out) => {
                    return match self.lines.of(out) {
                        Ok(line) => line.push(frame),
                        Err(vlan) => self.queue_tagged(vlan, frame),
                    };
                }
                Err(Off::Stale(way)) if self.ask_way(g, way) => {}
                Err(off) => break off,
            }
        };
        match (off, sight.kind) {
            (Off::Asked, Kind::V4) => {
                let memo = *self.fast.v4.at(place);
                self.ask_again(g, sight.port, &memo, frame, stand);
            }
            (Off::Asked, Kind::V6) => {
                let memo = *self.fast.v6.at(place);
                self.ask_again(g, sight.port, &memo, frame, stand);
            }
            (off, _) => self.walk_through(g, sight, (off, place), frame, stand),
        }
    }

    /// Makes a place for the memo of what has not been seen before in earlier bursts, and maybe in this one.
    #[inline(never)]
    fn mark(&mut self, sight: &Sight) -> u32 {
        fn marked<const N: usize>(memory: &mut Memory<Memo<N>>, spot: Spot) -> u32 {
            memory.find(spot).unwrap_or_else(|| {
                memory.mark(spot);
                NOWHERE
            })
        }
        match sight.kind {
            Kind::V4 if self.remembers() => marked(&mut self.fast.v4, sight.spot),
            Kind::V6 if self.remembers() => marked(&mut self.fast.v6, sight.spot),
            _ => NOWHERE,
        }
    }

    /// Writes the link's header of a way, whose MAC is asked for once a moment; false where it is not known.
    fn ask_way(&mut self, g: &Running, way: u16) -> bool {
        let Way { hop, family, .. } = self.fast.atlas.ways[way as usize];
        let next = self.resolver.lookup(hop.port, hop.family(family), hop.address, self.now, &g.policy.sysctl);
        let Next::Mac(mac) = next else { return false };
        let way = &mut self.fast.atlas.ways[way as usize];
        way.moment = self.fast.atlas.moment;
        way.header = link_header(family, mac, self.router.links[hop.port.0 as usize].mac);
        true
    }

    /// The long way.
    #[inline(never)]
    fn walk_through(&mut self, g: &Running, sight: &Sight, why: (Off, u32), frame: Frame, stand: &mut Place) {
        let (ordinary, recall) = match sight.kind {
            Kind::V4 => (Some(Family::V4), self.take_along(&why, |fast, at| fast.v4.at(at).recall())),
            Kind::V6 => (Some(Family::V6), self.take_along(&why, |fast, at| fast.v6.at(at).recall())),
            Kind::Other => (None, None),
            Kind::Refused => return self.refuse_frame(sight.refused, frame),
        };
        if ordinary.is_some() && recall.is_none() && matches!(why.0, Off::New | Off::Judged) {
            let seen = |frame: &Frame| match sight.kind {
                Kind::V4 => Look::V4(sight.glance(frame.bytes()), why.1),
                _ => Look::V6(sight.glance(frame.bytes()), why.1),
            };
            self.fast.notes.start(seen(&frame));
        }
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
            self.fast.atlas.move_on();
        }
        if let Some(end) = end {
            self.finish_place(g, stand, end);
            self.settle(g);
        }
    }

    /// What a packet that rules are asked about takes with it, unless its flow stands otherwise by now.
    #[inline(always)]
    fn take_along(&mut self, (off, place): &(Off, u32), of: impl Fn(&FastPath, u32) -> Recall) -> Option<Recall> {
        if !matches!(off, Off::Judged) {
            return None;
        }
        let recall = of(&self.fast, *place);
        let stands = recall.known.is_none_or(|known| self.tracker.stands(&known));
        self.fast.recalled += u64::from(stands);
        stands.then_some(recall)
    }

    /// The next hop and the realms of a packet whose like has been routed as it would be; none where the routing decision is to
    /// be made.
    #[inline]
    pub(super) fn way_again(&self, p: &Packet) -> Option<(Hop, u32)> {
        let recall = p.recall.as_ref()?;
        let is_of_it = match (p.ct, recall.known) {
            // Its mapping, if any, is as it was.
            (Ct::Flow(flow), Some(known)) => flow == known.flow && known.is_as(&p.facts),
            (Ct::None | Ct::Untracked, None) => true,
            _ => false,
        };
        let way = &self.fast.atlas.ways[usize::from(recall.way)];
        (is_of_it && recall.was_routed_as(&p.facts)).then_some((way.hop, way.realms))
    }

    /// The MAC of its next hop, which somebody has asked for in this moment.
    #[inline]
    pub(super) fn mac_again(&mut self, g: &Running, p: &Packet) -> Option<[u8; 6]> {
        let at = p.recall.as_ref()?.way;
        let way = &self.fast.atlas.ways[usize::from(at)];
        let is_known = way.hop == p.hop && (way.moment == self.fast.atlas.moment || self.ask_way(g, at));
        is_known.then(|| std::array::from_fn(|i| self.fast.atlas.ways[usize::from(at)].header[i]))
    }
}

impl Hands<'_> {
    /// Does to a packet what was remembered of others that look the same; the port that it leaves by.
    #[inline(always)]
    fn replay<const N: usize>(self, memo: &Memo<N>, rest: u64, frame: &mut Frame) -> Result<usize, Off> {
        let (seen, len) = Glance::<N>::again(frame.bytes(), rest);
        if (memo.addresses, memo.rest, memo.epoch) != (seen.addresses, seen.rest, self.atlas.epoch) {
            return Err(Off::New);
        }
        if memo.bits & IS_JUDGED != 0 {
            return Err(Off::Judged);
        }
        let Atlas { ways, busy_ways, tallies, busy_paths, moment, .. } = self.atlas;
        let way = &mut ways[memo.way as usize];
        if len > way.hop.mtu || frame.is_large() {
            return Err(Off::Apart);
        }
        if way.moment != *moment {
            return Err(Off::Stale(memo.way));
        }
        if memo.bits & (HAS_FLOW | HAS_FLAGS | IS_SUMMED) != 0 {
            let upper = Glance::<N>::upper(frame.bytes(), len);
            if memo.bits & HAS_FLAGS != 0 && memo.tcp_flags != glance::tcp_flags(upper) {
                return Err(Off::New);
            }
            if memo.bits & IS_SUMMED != 0 && !seen.is_sum_right(upper) {
                return Err(Off::Apart);
            }
            if let Some(known) = memo.known() {
                let part = Part { family: Glance::<N>::FAMILY, proto: seen.protocol(), icmp: None, len, l4: upper };
                match self.tracker.track_known(&known, &part, &self.g.policy.sysctl) {
                    Told::AsKnown => {}
                    Told::Changed | Told::Unknown => return Err(Off::New),
                    Told::Apart => return Err(Off::Apart),
                }
            }
        }
        if memo.bits & HAS_ASKS != 0 {
            return Err(Off::Asked);
        }
        // What the link padded stays behind.
        frame.truncate(ETHERNET + usize::from(len));
        let bytes = frame.bytes_mut();
        if let Some(link) = bytes.first_chunk_mut() {
            *link = way.header;
        }
        memo.change.apply(bytes);
        way.tally.count(len, memo.way, busy_ways);
        tallies[memo.path as usize].count(len, memo.path, busy_paths);
        Ok(way.hop.port.0 as usize)
    }
}
