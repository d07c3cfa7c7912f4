//! The flow fast path: what the walk found out about one direction of a flow is replayed for its later packets.
//!
//! Every packet of a flow is judged, as in the kernel. But most rules ask only what the packets of one direction of a flow have
//! in common ([`Asks`]), and then the answer is known: the same rules count, the same mapping is written, the same way is
//! taken. While such a packet goes the long way, it is noted what rules it asks of and which of them count; when it has found
//! its way out, that is remembered under the flow's number. A later packet that fits is tracked, mapped and sent at once.
//!
//! ```text
//! flow ─▶ memo: what must be the same ─▶ path: counters to raise
//!                                     └▶ way: port and next hop
//! ```
//!
//! Exact: the replay does what the walk would do, to the last counter, or is not taken. It is taken only by whole packets of TCP
//! and UDP that are forwarded; rules that ask for anything else of a packet, the time or an element of a set, targets with an
//! effect beyond verdicts and marks, first packets, and flows with a helper make a packet go the long way. A new generation of
//! rules or routes forgets everything at once. Counters are raised once a burst for all packets of one path.

use super::Engine;
use super::fate::Fate;
use super::packet::{Hop, Packet};
use super::running::Running;
use super::stats::{Bank, WorkerStats};
use crate::conntrack::Ct;
use crate::packet::edit;
use crate::reason::DropReason;
use arrayvec::ArrayVec;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use sumun_config::facts::{Dir, Family, PacketType, proto, status};
use sumun_config::rule::Target;
use sumun_config::rule::matches::Asks;
use zerocopy::{FromBytes, FromZeros};

/// Most counters of a path.
const COUNTERS: usize = 28;
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

/// What is remembered of one direction of a flow. All zero is nothing.
#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(32))]
struct Memo {
    /// When it was noted ([`FastPath::epoch`]).
    epoch: u32,
    /// The flow's mark.
    mark: u32,
    /// Which use of the flow's entry.
    generation: u32,
    /// `IPS_*` of the flow.
    status: u16,
    /// `ct_state`.
    state: u16,
    iif: u16,
    path: u16,
    way: u16,
    tos: u8,
    tcp_flags: u8,
    /// The flags count: some rule asks for them.
    has_flags: u8,
    unused: [u8; 7],
}

/// The counters that a packet raises on its way.
#[derive(Clone, Default)]
struct Path {
    slots: ArrayVec<u32, COUNTERS>,
    /// Packets and bytes of this burst.
    packets: u64,
    bytes: u64,
}

/// A port and a next hop, and its MAC at a moment ([`FastPath::moment`]).
#[derive(Clone, Copy)]
struct Way {
    hop: Hop,
    moment: u64,
    mac: [u8; 6],
}

/// What a packet on the long way meets.
#[derive(Default)]
pub(super) struct Notes {
    is_on: bool,
    asks: Asks,
    slots: ArrayVec<u32, COUNTERS>,
}

/// One worker's memory of flows.
pub(super) struct FastPath {
    is_on: bool,
    /// Raised with every new generation of rules or routes: memos of an earlier one are worth nothing.
    epoch: u32,
    /// When it began, in nanoseconds.
    since: u64,
    /// Some flow found no room: there are too many paths or ways.
    is_full: bool,
    /// Raised whenever neighbours may have changed: with each burst, and with each packet that goes the long way.
    moment: u64,
    memos: Vec<Memo>,
    paths: Vec<Path>,
    path_index: HashTable<u16>,
    ways: Vec<Way>,
    way_index: HashTable<u16>,
    /// Paths with packets in this burst.
    busy: Vec<u16>,
    hasher: RandomState,
    pub notes: Notes,
}

impl Notes {
    /// A counter was raised.
    #[inline]
    pub fn count(&mut self, slot: u32) {
        if self.is_on && self.slots.try_push(slot).is_err() {
            self.is_on = false;
        }
    }

    /// The target of a rule acts. One that writes the flow's mark may, as long as it stays the same.
    #[inline]
    pub fn act(&mut self, target: &Option<Target>) {
        let is_replayed = matches!(target, None | Some(Target::Verdict(_) | Target::Mark(_) | Target::ConnMark(_)));
        self.is_on &= is_replayed;
    }

    /// Something happened that a replay would not do.
    #[inline]
    pub fn stop(&mut self) {
        self.is_on = false;
    }

    /// Whether the packet at work is noted.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    fn start(&mut self) {
        (self.is_on, self.asks) = (true, Asks::Flow);
        self.slots.clear();
    }

    /// Rules were asked; what their answers depended on.
    #[inline]
    pub fn ask(&mut self, asks: Asks) {
        self.asks = self.asks.max(asks);
        self.is_on &= self.asks < Asks::Packet;
    }
}

impl FastPath {
    /// The memory for a table of so many flows. Pages that no flow has used cost nothing.
    ///
    /// # Panics
    /// There is no memory for it.
    pub fn new(flows: usize) -> FastPath {
        FastPath {
            is_on: true,
            epoch: 1,
            since: 0,
            is_full: false,
            moment: 0,
            memos: Memo::new_vec_zeroed(2 * flows).expect("memory for the fast path"),
            paths: Vec::with_capacity(PATHS),
            path_index: HashTable::with_capacity(PATHS),
            ways: Vec::with_capacity(WAYS),
            way_index: HashTable::with_capacity(WAYS),
            busy: Vec::with_capacity(super::BURST),
            hasher: RandomState::new(),
            notes: Notes::default(),
        }
    }

    /// Forgets everything. Between bursts only: counters of a burst are raised first.
    pub fn forget(&mut self, now: u64) {
        debug_assert!(self.busy.is_empty(), "counters of a burst are not raised yet");
        (self.since, self.is_full) = (now, false);
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            // Memos of four thousand million generations ago are gone.
            self.memos.fill(Memo::new_zeroed());
            self.epoch = 1;
        }
        self.paths.clear();
        self.path_index.clear();
        self.ways.clear();
        self.way_index.clear();
    }

    /// From now on no packet takes it.
    pub fn close(&mut self) {
        self.is_on = false;
    }

    /// A packet goes the long way.
    #[inline]
    pub fn move_on(&mut self) {
        self.moment += 1;
    }

    /// Raises the counters of what came by in this burst. Where there was no room, all flows have their turn again, at most once
    /// a second.
    #[inline]
    pub fn settle(&mut self, bank: &Bank, stats: &WorkerStats, now: u64) {
        self.moment += 1;
        for path in self.busy.drain(..) {
            let path = &mut self.paths[path as usize];
            stats.replayed.add(path.packets);
            for slot in &path.slots {
                bank.slot(*slot).add(path.packets, path.bytes);
            }
            (path.packets, path.bytes) = (0, 0);
        }
        if self.is_full && now.saturating_sub(self.since) >= TURN {
            self.forget(now);
        }
    }

    #[inline]
    fn count(&mut self, path: u16, bytes: u16) {
        let known = &mut self.paths[path as usize];
        if known.packets == 0 {
            self.busy.push(path);
        }
        known.packets += 1;
        known.bytes += u64::from(bytes);
    }

    /// The number of the path with the counters that were noted; none where there are too many.
    fn path(&mut self) -> Option<u16> {
        let (paths, hasher) = (&self.paths, &self.hasher);
        let slots = &self.notes.slots;
        let hash = hasher.hash_one(slots.as_slice());
        if let Some(known) = self.path_index.find(hash, |at| paths[*at as usize].slots == *slots) {
            return Some(*known);
        }
        let at = u16::try_from(paths.len()).ok().filter(|at| usize::from(*at) < PATHS)?;
        self.path_index.insert_unique(hash, at, |at| hasher.hash_one(paths[*at as usize].slots.as_slice()));
        self.paths.push(Path { slots: slots.clone(), ..Path::default() });
        Some(at)
    }

    /// The number of a way; none where there are too many.
    fn way(&mut self, hop: Hop) -> Option<u16> {
        let (ways, hasher) = (&self.ways, &self.hasher);
        let hash = hasher.hash_one(hop);
        if let Some(known) = self.way_index.find(hash, |at| ways[*at as usize].hop == hop) {
            return Some(*known);
        }
        let at = u16::try_from(ways.len()).ok().filter(|at| usize::from(*at) < WAYS)?;
        self.way_index.insert_unique(hash, at, |at| hasher.hash_one(ways[*at as usize].hop));
        self.ways.push(Way { hop, moment: u64::MAX, mac: [0; 6] });
        Some(at)
    }
}

/// Where the memo of a direction of a flow is.
#[inline]
fn place(flow: u32, dir: Dir) -> usize {
    flow as usize * 2 + dir as usize
}

/// Whether a packet is of the kind whose way a flow can fix: whole and ordinary, and sent to this router to be forwarded.
#[inline]
fn is_ordinary(p: &Packet) -> bool {
    let f = &p.facts;
    matches!(f.proto, proto::TCP | proto::UDP)
        && f.has_l4
        && f.ttl > 1
        && f.pkt_type == PacketType::Host
        && !(f.is_fragment() || f.has_options || p.frame.is_large())
}

impl Engine {
    /// Loads what packets will need that may be of these flows, so that their cache misses overlap.
    #[inline]
    pub(super) fn warm_memos(&self) {
        let memos = self.found.iter().flatten().filter_map(|(id, dir)| self.fast.memos.get(place(*id, *dir)));
        std::hint::black_box(memos.fold(0, |all, memo| all ^ memo.epoch));
    }

    /// The end of a packet whose flow tells it; none where it has to go the long way, which is noted then. `at` is its place
    /// in the burst.
    #[inline]
    pub(super) fn replay(&mut self, g: &Running, p: &mut Packet, at: usize) -> Option<Result<Fate, DropReason>> {
        self.fast.notes.stop();
        self.tracker.is_through();
        if !self.fast.is_on || !is_ordinary(p) {
            return None;
        }
        let (hash, likely) = (*self.hashes.get(at)?, *self.found.get(at)?);
        let (flow, word) = self.tracker.peek(hash, likely, &p.facts, self.now)?;
        let memo = *self.fast.memos.get(place(flow.id, flow.dir))?;
        let f = &p.facts;
        let fits = memo.epoch == self.fast.epoch
            && memo.generation == word.generation()
            && (memo.iif, memo.tos) == (f.iif.0, f.tos)
            && (memo.has_flags == 0 || memo.tcp_flags == f.tcp_flags);
        if !fits || self.trace.is_some() {
            self.fast.notes.start();
            return None;
        }
        let way = self.fast.ways[memo.way as usize];
        if f.len > way.hop.mtu {
            return None;
        }
        let start = usize::from(p.l3);
        let l3 = start..start + usize::from(f.len);
        let packet = p.frame.bytes().get(l3.clone()).unwrap_or_default();
        let ct = self.tracker.track_ahead((flow, word), &mut p.facts, packet, self.now, &g.policy.sysctl)?;
        let f = &p.facts;
        if (u32::from(memo.status), memo.state, memo.mark) != (f.ct_status, f.ct_state as u16, f.ct_mark) {
            self.fast.notes.start();
            // To rules of raw it is not tracked yet.
            p.facts.forget_flow();
            return None;
        }
        let to = match f.ct_status & MAPPED {
            0 => None,
            _ => Some(self.tracker.becomes(flow)?),
        };
        self.tracker.is_through();
        (p.ct, p.hop, p.facts.oif) = (ct, way.hop, way.hop.port);
        self.fast.count(memo.path, p.facts.len);
        let packet = p.frame.bytes_mut().get_mut(l3).unwrap_or_default();
        match to {
            None => edit::decrement_ttl(packet, &mut p.facts),
            Some(to) => edit::forward_as(packet, &mut p.facts, &to),
        }
        if let Err(reason) = self.tracker.confirm(ct, &mut p.facts, self.now) {
            return Some(Err(reason));
        }
        Some(self.leave_by(g, p, memo.way))
    }

    /// To the next hop of a way, whose MAC is asked for once a moment.
    #[inline]
    fn leave_by(&mut self, g: &Running, p: &mut Packet, way: u16) -> Result<Fate, DropReason> {
        let Way { moment, mac, .. } = self.fast.ways[way as usize];
        if moment == self.fast.moment {
            return Ok(Fate::Send { mac });
        }
        let end = self.neighbour(g, p);
        if let Ok(Fate::Send { mac }) = end {
            let way = &mut self.fast.ways[way as usize];
            (way.moment, way.mac) = (self.fast.moment, mac);
        }
        end
    }

    /// Remembers what was noted of a packet that is to be sent.
    #[cold]
    #[inline(never)]
    pub(super) fn remember(&mut self, g: &Running, p: &Packet) {
        let Ct::Flow(flow) = p.ct else { return };
        let f = &p.facts;
        let is_fixed = f.ct_status & status::CONFIRMED != 0 && f.ct_status & HELPED == 0 && !flow.related;
        if !is_fixed || p.largest.is_some() || p.is_traced || p.priority != 0 || p.secmark != 0 {
            return;
        }
        if f.family == Family::V6 && g.fib.is_multipath() && g.policy.sysctl.fib_multipath_hash_policy == 0 {
            // The way depends on the flow label, which is the packet's own.
            return;
        }
        let (Some(path), Some(way)) = (self.fast.path(), self.fast.way(p.hop)) else {
            self.fast.is_full = true;
            return;
        };
        let memo = Memo {
            epoch: self.fast.epoch,
            mark: f.ct_mark,
            generation: self.tracker.generation(flow),
            status: f.ct_status as u16,
            state: f.ct_state as u16,
            iif: f.iif.0,
            path,
            way,
            tos: f.tos,
            tcp_flags: f.tcp_flags,
            has_flags: u8::from(self.fast.notes.asks == Asks::TcpFlags),
            unused: [0; 7],
        };
        if let Some(place) = self.fast.memos.get_mut(place(flow.id, flow.dir)) {
            *place = memo;
        }
    }
}
