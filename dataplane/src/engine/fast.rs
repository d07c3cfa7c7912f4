//! The flow fast path: what the walk found out about one direction of a flow is replayed for its later packets.
//!
//! Every packet of a flow is judged, as in the kernel. But most rules ask only what the packets of one direction of a flow have
//! in common ([`Asks`](sumun_config::rule::matches::Asks)), and then the answer is known: the same rules count, the same mapping is written, the same way is
//! taken. While such a packet goes the long way, it is noted what rules it asks of and which of them count; when it has found
//! its way out, that is remembered under what it looked like when it came in. A later packet that looks the same is tracked,
//! rewritten and sent at once ([`express`](super::express)). Where nothing is tracked, or raw has let it pass untracked, there is
//! no flow, and only looks count.
//!
//! ```text
//! glance ─▶ memo: what must be the same, the flow, the change ─▶ path: counters to raise
//!                                                             └▶ way: port and next hop
//! ```
//!
//! Where rules ask for more than that (a length, the time, an element of a set), or a target does more than give verdicts and
//! marks, the chains in question are asked about every packet ([`asked`](super::asked)), as long as they only let packets pass,
//! end them or tell of them. Else all rules are, and flow, route and next hop alone are remembered ([`Recall`]).
//!
//! Exact: the replay does what the walk would do, to the last counter, or is not taken. It is taken only by whole packets of TCP
//! and UDP that are forwarded; first packets and flows with a helper go the long way. A new generation of rules or routes forgets
//! everything at once. Counters are raised once a burst for all packets of one path.

use super::Engine;
use super::express::Sight;
use super::fate::ETHERNET;
use super::memory::Memory;
use super::notes::{Notes, Script};
use super::packet::{Hop, Packet};
use super::running::Running;
use super::stats::{Bank, WorkerStats};
use crate::conntrack::{Ct, Flow, Known};
use crate::nat::Manip;
use crate::packet::glance::{Change, Glance, V4, V6};
use crate::umem::huge::Reservation;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use sumun_config::facts::{Dir, Facts, Family, status};
use sumun_config::model::Checksums;
use zerocopy::FromBytes;

/// Places for memos of each flow: one for each direction, and as many so that few sets are full.
const ROOM: usize = 4;
/// Most paths that a worker knows.
const PATHS: usize = 4096;
/// Most ways that a worker knows.
const WAYS: usize = 1 << 15;
/// Nanoseconds after which flows that found no room have their turn.
const TURN: u64 = 1_000_000_000;
/// Flows with any of these have their packets read or changed beyond their mapping.
const HELPED: u32 = status::HELPER | status::SEQ_ADJUST | status::PROXIED;
/// Flows with any of these have a mapping.
const MAPPED: u32 = status::SRC_NAT | status::DST_NAT;

/// What is remembered of packets that look alike. All zero is nothing. One cache line for IPv4, two for IPv6.
#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
pub(super) struct Memo<const N: usize> {
    /// What they look like.
    pub addresses: [u64; N],
    pub rest: u64,
    /// What becomes of them.
    pub change: Change<N>,
    /// When it was noted ([`Atlas::epoch`]).
    pub epoch: u32,
    /// The flow, how it stood ([`Known`]), and its mark. No flow is [`NO_FLOW`].
    pub flow: u32,
    pub standing: u32,
    pub mark: u32,
    pub path: u16,
    pub way: u16,
    /// Zero or one: the answers' direction.
    pub dir: u8,
    /// [`HAS_FLAGS`] and so on.
    pub bits: u8,
    pub tcp_flags: u8,
    unused: u8,
    /// Mark and TOS that it was routed with.
    routed_mark: u32,
    routed_tos: u8,
    rest_unused: [u8; 3],
}

/// Of a memo: some rule asks for the flags of TCP.
pub(super) const HAS_FLAGS: u8 = 1;
/// Of a memo: all rules are to be asked, since some ask for what differs from packet to packet. The way alone is remembered.
pub(super) const IS_JUDGED: u8 = 2;
/// Of a memo: its path has chains that are to be asked.
pub(super) const HAS_ASKS: u8 = 4;
/// Of a memo: its change is that of PREROUTING. Otherwise it is that of POSTROUTING.
pub(super) const IS_EARLY: u8 = 8;
/// Of a memo: raw has let them pass untracked.
pub(super) const IS_UNTRACKED: u8 = 16;
/// Of a memo: only those whose upper layer's checksum is right.
pub(super) const IS_SUMMED: u8 = 32;
/// Of a memo: they are of a flow.
pub(super) const HAS_FLOW: u8 = 64;

/// What is remembered of packets without a flow.
pub(super) const NO_FLOW: u32 = u32::MAX;

/// What a packet that rules are asked about takes from others that looked the same: their flow, their route and their next
/// hop's MAC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recall {
    /// The flow as it stands; none where there was none.
    pub known: Option<Known>,
    pub way: u16,
    routed_mark: u32,
    routed_tos: u8,
}

/// How much a worker remembers of flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Remembered {
    /// Nothing: every packet goes all of the long way.
    Nothing,
    /// Routes and neighbours; rules are asked about every packet.
    Ways,
    /// What rules said, too.
    Verdicts,
}

/// What a packet looks like, and where that is to be remembered.
#[derive(Clone, Copy)]
pub(super) enum Look {
    V4(Glance<V4>, u32),
    V6(Glance<V6>, u32),
}

/// Packets of this burst, and their bytes of IP.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    packets: u64,
    bytes: u64,
}

impl Tally {
    /// Counts one on a path or way, which is busy from the first on.
    #[inline(always)]
    pub fn count(&mut self, bytes: u16, at: u16, busy: &mut Vec<u16>) {
        if self.packets == 0 {
            busy.push(at);
        }
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

/// A port and a next hop for packets of a family, by routes of these realms, and the link's header at a moment ([`Atlas::moment`]).
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub tally: Tally,
    pub hop: Hop,
    /// That of the packets; the next hop may be of another.
    pub family: Family,
    /// Of the route, for rules that ask.
    pub realms: u32,
    pub moment: u64,
    pub header: [u8; ETHERNET],
}

/// One worker's memory of flows.
pub(super) struct FastPath {
    pub remembered: Remembered,
    /// Packets so far that took a [`Recall`] with them.
    pub recalled: u64,
    /// When the epoch of the atlas began, in nanoseconds.
    since: u64,
    /// Some flow found no room: there are too many paths or ways.
    is_full: bool,
    pub v4: Memory<Memo<V4>>,
    pub v6: Memory<Memo<V6>>,
    pub atlas: Atlas,
    /// Of the hashes of looks.
    pub keys: [u64; 2],
    /// What the frames of the burst look like, and room for more.
    pub sights: Vec<Sight>,
    pub notes: Notes,
}

/// The paths and ways that memos name by number.
pub(super) struct Atlas {
    /// Raised with every new generation of rules or routes: memos of an earlier one are worth nothing.
    pub epoch: u32,
    /// Raised whenever neighbours may have changed: with each burst, and with each packet that is not sent on.
    pub moment: u64,
    pub ways: Vec<Way>,
    way_index: HashTable<u16>,
    /// What packets raise and are asked on their way, and how many there are, by path.
    paths: Vec<Script>,
    pub tallies: Vec<Tally>,
    path_index: HashTable<u16>,
    /// Paths and ways with packets in this burst.
    pub busy_paths: Vec<u16>,
    pub busy_ways: Vec<u16>,
    hasher: RandomState,
}

impl Recall {
    /// Whether the route of a packet with these facts depends on nothing but what was the same for those that it is like.
    #[inline]
    pub fn was_routed_as(&self, facts: &Facts) -> bool {
        (self.routed_mark, self.routed_tos) == (facts.mark, facts.tos)
    }
}

impl FastPath {
    /// The memory for so many flows, of both families.
    ///
    /// # Panics
    /// There is no memory for it.
    pub fn new(flows: usize) -> FastPath {
        let atlas = Atlas::new();
        FastPath {
            remembered: Remembered::Verdicts,
            recalled: 0,
            since: 0,
            is_full: false,
            v4: Memory::new(ROOM * flows),
            v6: Memory::new(ROOM * flows),
            keys: [atlas.hasher.hash_one(0), atlas.hasher.hash_one(1)],
            atlas,
            sights: vec![Sight::BLANK; super::BURST],
            notes: Notes::default(),
        }
    }

    /// What is to be done for its memory to be there before it is touched.
    pub fn reserve(&self) -> impl Iterator<Item = Reservation> {
        self.v4.reserve().chain(self.v6.reserve())
    }

    /// Bytes that it takes for so many flows of each family once it is in use, by [`Family::index`].
    pub fn memory(flows: usize) -> [usize; 2] {
        [Memory::<Memo<V4>>::bytes(ROOM * flows), Memory::<Memo<V6>>::bytes(ROOM * flows)]
    }

    /// Forgets everything. Between bursts only: counters of a burst are raised first.
    pub fn forget(&mut self, now: u64) {
        (self.since, self.is_full) = (now, false);
        if !self.atlas.begin_anew() {
            // Memos of four thousand million generations ago are gone.
            self.v4.clear();
            self.v6.clear();
        }
    }

    /// From now on remembers no more than that. Between bursts only.
    pub fn remember_only(&mut self, what: Remembered, now: u64) {
        self.remembered = what;
        self.notes.asks_all = what == Remembered::Ways;
        self.forget(now);
    }

    /// Whether anything is remembered.
    #[inline]
    pub fn remembers(&self) -> bool {
        self.remembered != Remembered::Nothing
    }

    /// Raises the counters of what came by in this burst. Where there was no room, all flows have their turn again, at most once
    /// a second.
    #[inline]
    pub fn settle(&mut self, bank: &Bank, stats: &WorkerStats, now: u64) {
        self.atlas.settle(bank, stats);
        if self.is_full && now.saturating_sub(self.since) >= TURN {
            self.forget(now);
        }
    }
}

impl Atlas {
    fn new() -> Atlas {
        Atlas {
            epoch: 1,
            moment: 0,
            ways: Vec::with_capacity(WAYS),
            way_index: HashTable::with_capacity(WAYS),
            paths: Vec::with_capacity(PATHS),
            tallies: Vec::with_capacity(PATHS),
            path_index: HashTable::with_capacity(PATHS),
            busy_paths: Vec::with_capacity(super::BURST),
            busy_ways: Vec::with_capacity(super::BURST),
            hasher: RandomState::new(),
        }
    }

    /// Forgets all paths and ways, and begins the next epoch; false where that is the first one again.
    fn begin_anew(&mut self) -> bool {
        debug_assert!(
            self.busy_paths.is_empty() && self.busy_ways.is_empty(),
            "counters of a burst are not raised yet"
        );
        let next = self.epoch.checked_add(1);
        self.epoch = next.unwrap_or(1);
        self.paths.clear();
        self.tallies.clear();
        self.path_index.clear();
        self.ways.clear();
        self.way_index.clear();
        next.is_some()
    }

    /// Neighbours may have changed.
    #[inline]
    pub fn move_on(&mut self) {
        self.moment += 1;
    }

    #[inline]
    fn settle(&mut self, bank: &Bank, stats: &WorkerStats) {
        self.moment += 1;
        for at in self.busy_paths.drain(..) {
            let Tally { packets, bytes } = std::mem::take(&mut self.tallies[at as usize]);
            let script = &self.paths[at as usize];
            if !script.has_asks() {
                stats.replayed.add(packets);
            }
            for slot in &script.slots {
                bank.slot(*slot).add(packets, bytes);
            }
        }
        for at in self.busy_ways.drain(..) {
            let Way { tally, hop, .. } = &mut self.ways[at as usize];
            let Tally { packets, bytes } = std::mem::take(tally);
            stats.tx[hop.port.0 as usize].add(packets, bytes + packets * ETHERNET as u64);
        }
    }

    /// A packet of so many bytes of IP goes this path this way: both count it. The way.
    #[inline(always)]
    pub fn go(&mut self, path: u16, way: u16, bytes: u16) -> &Way {
        self.tallies[path as usize].count(bytes, path, &mut self.busy_paths);
        let known = &mut self.ways[way as usize];
        known.tally.count(bytes, way, &mut self.busy_ways);
        known
    }

    /// What packets of a path raise and are asked.
    pub fn script(&self, path: u16) -> &Script {
        &self.paths[path as usize]
    }

    /// The number of the path with this script; none where there are too many.
    fn path(&mut self, script: &Script) -> Option<u16> {
        let (paths, hasher) = (&self.paths, &self.hasher);
        let hash = hasher.hash_one(script);
        if let Some(known) = self.path_index.find(hash, |at| paths[*at as usize] == *script) {
            return Some(*known);
        }
        let at = u16::try_from(paths.len()).ok().filter(|at| usize::from(*at) < PATHS)?;
        self.path_index.insert_unique(hash, at, |at| hasher.hash_one(&paths[*at as usize]));
        self.paths.push(script.clone());
        self.tallies.push(Tally::default());
        Some(at)
    }

    /// The number of a way; none where there are too many.
    fn way(&mut self, wanted: (Hop, Family, u32)) -> Option<u16> {
        let (ways, hasher) = (&self.ways, &self.hasher);
        let key = |at: u16| {
            let Way { hop, family, realms, .. } = ways[usize::from(at)];
            (hop, family, realms)
        };
        let hash = hasher.hash_one(wanted);
        if let Some(known) = self.way_index.find(hash, |at| key(*at) == wanted) {
            return Some(*known);
        }
        let at = u16::try_from(ways.len()).ok().filter(|at| usize::from(*at) < WAYS)?;
        self.way_index.insert_unique(hash, at, |at| hasher.hash_one(key(*at)));
        let (hop, family, realms) = wanted;
        let header = [0; ETHERNET];
        self.ways.push(Way { tally: Tally::default(), hop, family, realms, moment: u64::MAX, header });
        Some(at)
    }
}

impl Engine {
    /// Remembers what was noted of a packet that is to be sent.
    #[cold]
    #[inline(never)]
    pub(super) fn remember(&mut self, g: &Running, p: &Packet) {
        let f = &p.facts;
        let known = match p.ct {
            Ct::Flow(flow) => {
                let known = self.tracker.known(flow);
                let is_fixed = f.ct_status & status::CONFIRMED != 0 && f.ct_status & HELPED == 0 && !flow.related;
                // Another worker may have moved it on meanwhile.
                if !is_fixed || !known.is_as(f) {
                    return;
                }
                Some(known)
            }
            Ct::Untracked => None,
            Ct::None if !g.needs[f.family.index()].tracking => None,
            _ => return,
        };
        if p.largest.is_some() || p.is_traced || p.priority != 0 || p.secmark != 0 {
            return;
        }
        if f.family == Family::V6 && g.fib.is_multipath() && g.policy.sysctl.fib_multipath_hash_policy == 0 {
            // The way depends on the flow label, which is the packet's own.
            return;
        }
        let Some(look) = self.fast.notes.look.filter(|_| self.router.links.get(p.hop.port.0 as usize).is_some()) else {
            return;
        };
        let FastPath { atlas, notes, .. } = &mut self.fast;
        let has_asks = notes.script.has_asks();
        // A change of both ends is made in two steps, and a chain between them sees the first one.
        let is_doubly_mapped = f.ct_status & MAPPED == MAPPED;
        let is_judged = notes.is_judged() || (has_asks && is_doubly_mapped);
        let path = if is_judged { Some(0) } else { atlas.path(&notes.script) };
        let (Some(path), Some(way)) = (path, atlas.way((p.hop, f.family, p.realms))) else {
            self.fast.is_full = true;
            return;
        };
        let early = known.is_some_and(|known| f.ct_status & Manip::Dst.bit_for(known.flow.dir) != 0);
        let came_in = self.router.links.get(f.iif.0 as usize);
        let is_finished = came_in.is_some_and(|link| link.checksums == Checksums::Finish);
        let is_summed = is_finished || (known.is_some() && g.policy.sysctl.nf_conntrack_checksum);
        let bits = [
            (HAS_FLAGS, notes.has_flags()),
            (IS_JUDGED, is_judged),
            (HAS_ASKS, has_asks && !is_judged),
            (IS_EARLY, early),
            (IS_UNTRACKED, p.ct == Ct::Untracked),
            (IS_SUMMED, is_summed),
            (HAS_FLOW, known.is_some()),
        ];
        let bits = bits.iter().filter(|(_, is_so)| *is_so).fold(0, |bits, (bit, _)| bits | bit);
        let memo = Noted { known, epoch: atlas.epoch, path, way, bits, routed: notes.routed };
        match look {
            Look::V4(glance, place) => self.fast.v4.set_at(place, memo.of(&glance, f)),
            Look::V6(glance, place) => self.fast.v6.set_at(place, memo.of(&glance, f)),
        }
    }
}

/// A memo but for what depends on the family.
struct Noted {
    known: Option<Known>,
    epoch: u32,
    path: u16,
    way: u16,
    bits: u8,
    routed: (u32, u8),
}

impl Noted {
    /// The memo of packets that look so and leave with these facts.
    fn of<const N: usize>(&self, glance: &Glance<N>, left: &Facts) -> Memo<N> {
        let change = match left.ct_status & MAPPED {
            0 => Change::NONE,
            _ => Change::of(glance, left),
        };
        let (flow, dir) = self.known.map_or((NO_FLOW, Dir::Original), |known| (known.flow.id, known.flow.dir));
        Memo {
            addresses: glance.addresses,
            rest: glance.rest,
            change,
            epoch: self.epoch,
            flow,
            standing: self.known.map_or(0, |known| known.standing),
            mark: self.known.map_or(0, |known| known.mark),
            path: self.path,
            way: self.way,
            dir: dir as u8,
            bits: self.bits,
            tcp_flags: left.tcp_flags,
            unused: 0,
            routed_mark: self.routed.0,
            routed_tos: self.routed.1,
            rest_unused: [0; 3],
        }
    }
}

impl<const N: usize> Memo<N> {
    /// The flow as it was then; none where there was none.
    #[inline(always)]
    pub fn known(&self) -> Option<Known> {
        let dir = if self.dir == 0 { Dir::Original } else { Dir::Reply };
        let flow = Flow { id: self.flow, dir, related: false };
        (self.bits & HAS_FLOW != 0).then_some(Known { flow, standing: self.standing, mark: self.mark })
    }

    /// What is left of it where rules are asked.
    pub fn recall(&self) -> Recall {
        let Memo { way, routed_mark, routed_tos, .. } = *self;
        Recall { known: self.known(), way, routed_mark, routed_tos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_is_one_cache_line_for_ipv4_and_two_for_ipv6() {
        assert_eq!((size_of::<Memo<V4>>(), size_of::<Memo<V6>>()), (64, 128));
    }
}
