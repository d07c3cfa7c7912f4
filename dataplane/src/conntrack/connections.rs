//! How many connections are there under a key? What `connlimit` asks (`nf_conncount.c`).
//!
//! Under a key (rule, masked address, zone) stand the flows that met the rule. Who asks walks them, and what is gone goes:
//! flows that ended, and TCP connections in TIME_WAIT or CLOSE, but for the flow of the packet itself. So the number is
//! exact each time that somebody asks, with any number of workers, and nothing need be done when a flow ends. Where they
//! are many, they are looked through once a millisecond, and for each 1,024 of them a millisecond later: between, newcomers
//! are added to what was counted then, and who is in is known by a memory of who was found lately. Memory is fixed: nodes
//! are made when a ruleset with a `connlimit` is published, as many as all flows may take that meet all such rules; each
//! question also clears a bucket that nobody may ever ask for again.
//!
//! A node names its flow by the number of the entry and the use of it, as other words of the table do. Rules are known by
//! stamps that are never given twice, kept in their cells: a cell that goes to another rule begins at zero.

use super::entry::millis;
use super::index::Flag;
use super::{Conntrack, Ct, Life, NONE, Word, protocol, tcp};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64 as Cell;
use sumun_config::facts::{ConnectionKey, Dir, Facts, proto};

const FLAGS: usize = 256;
/// From this many on, connections of a key are looked through only now and then.
const MANY: u32 = 64;
/// For so many of them a millisecond passes more.
const PER_MILLISECOND: u32 = 1024;
/// Most pieces that nodes are made in; what does not fit into them is not counted.
const PIECES: usize = 64;

/// The counted connections of a table.
pub(super) struct Connections {
    heads: Box<[AtomicU32]>,
    flags: Box<[Flag]>,
    nodes: Nodes,
    /// Nodes by key and connection, as far as there is room: to be checked, with the bucket's flag held.
    found: Box<[AtomicU32]>,
    free: AtomicU32,
    /// Pieces whose nodes have come among the free ones.
    hung: AtomicU32,
    free_flag: Flag,
    /// The bucket to be cleared next.
    sweep: AtomicU32,
    stamps: AtomicU32,
}

/// Nodes by number, in pieces of equal size that are never moved.
struct Nodes {
    pieces: [OnceLock<Box<[Node]>>; PIECES],
    /// Nodes of a piece, as a power of two.
    shift: u32,
}

/// A counted connection. Read and written under its bucket's flag, but for who finds it by [`Connections::found`].
#[derive(Default)]
struct Node {
    next: AtomicU32,
    stamp: AtomicU32,
    addr: [AtomicU64; 2],
    /// Family in the upper half, zone in the lower.
    place: AtomicU32,
    /// Entry of the flow.
    flow: AtomicU32,
    /// Which use of the entry, and which direction's tuple was counted.
    usage: AtomicU32,
    /// Millisecond of the last look through the key, and how many there were then and came since: of the newest node of a
    /// key.
    looked: AtomicU32,
    seen: AtomicU32,
}

/// What connections stand under.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    stamp: u32,
    addr: [u64; 2],
    place: u32,
}

/// The connection of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Member {
    flow: u32,
    usage: u32,
}

impl Node {
    fn key(&self) -> Key {
        Key {
            stamp: self.stamp.load(Ordering::Relaxed),
            addr: [self.addr[0].load(Ordering::Relaxed), self.addr[1].load(Ordering::Relaxed)],
            place: self.place.load(Ordering::Relaxed),
        }
    }

    fn member(&self) -> Member {
        Member { flow: self.flow.load(Ordering::Relaxed), usage: self.usage.load(Ordering::Relaxed) }
    }

    /// When the key of this node was looked through last and how many there are since, if that is enough for now.
    fn still_holds(&self, now: u32) -> Option<(u32, u32)> {
        let (looked, seen) = (self.looked.load(Ordering::Relaxed), self.seen.load(Ordering::Relaxed));
        let is_recent = now.wrapping_sub(looked) <= seen / PER_MILLISECOND;
        (seen >= MANY && is_recent).then_some((looked, seen))
    }

    fn write(&self, key: &Key, member: Member) {
        self.stamp.store(key.stamp, Ordering::Relaxed);
        self.addr[0].store(key.addr[0], Ordering::Relaxed);
        self.addr[1].store(key.addr[1], Ordering::Relaxed);
        self.place.store(key.place, Ordering::Relaxed);
        self.usage.store(member.usage, Ordering::Relaxed);
        // Release: who reads the flow reads the key that belongs to it.
        self.flow.store(member.flow, Ordering::Release);
    }
}

impl Nodes {
    /// None yet.
    fn new(flows: usize) -> Nodes {
        Nodes { pieces: std::array::from_fn(|_| OnceLock::new()), shift: flows.max(64).ilog2() }
    }

    #[inline]
    fn get(&self, id: u32) -> Option<&Node> {
        let piece = self.pieces.get((id >> self.shift) as usize)?.get()?;
        piece.get(id as usize & ((1 << self.shift) - 1))
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.made().map(|piece| piece.len()).sum()
    }

    fn made(&self) -> impl Iterator<Item = &[Node]> {
        self.pieces.iter().map_while(|piece| piece.get().map(|piece| &**piece))
    }
}

impl Connections {
    /// No room yet, in a table of so many flows.
    pub fn new(flows: usize) -> Connections {
        let heads = flows.next_power_of_two().clamp(64, 1 << 18);
        let empty = || (0..heads).map(|_| AtomicU32::new(NONE)).collect();
        Connections {
            heads: empty(),
            flags: (0..FLAGS).map(|_| Flag::default()).collect(),
            nodes: Nodes::new(flows),
            found: empty(),
            free: AtomicU32::new(NONE),
            hung: AtomicU32::new(0),
            free_flag: Flag::default(),
            sweep: AtomicU32::new(0),
            stamps: AtomicU32::new(1),
        }
    }

    /// Makes room for this many connections, as far as it is not there.
    pub fn make_room(&self, connections: usize) {
        let size = 1 << self.nodes.shift;
        let wanted = connections.div_ceil(size).clamp(1, PIECES.min(NONE as usize / size));
        for (at, piece) in self.nodes.pieces.iter().enumerate().take(wanted) {
            piece.get_or_init(|| {
                let first = (at * size) as u32;
                let nodes: Box<[Node]> = (0..size).map(|_| Node::default()).collect();
                for (node, next) in nodes.iter().zip(first + 1..) {
                    node.next.store(next, Ordering::Relaxed);
                }
                nodes
            });
            let last = ((at + 1) * size - 1) as u32;
            // The chain of a new piece ends in the number behind it; one that is in use has been hung in already.
            let _held = self.free_flag.hold();
            if self.hung.load(Ordering::Relaxed) as usize == at {
                if let Some(node) = self.nodes.get(last) {
                    node.next.store(self.free.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                self.free.store((at * size) as u32, Ordering::Relaxed);
                self.hung.store(at as u32 + 1, Ordering::Relaxed);
            }
        }
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        2 * size_of_val(&*self.heads) + size_of_val(&*self.flags) + self.nodes.len() * size_of::<Node>()
    }

    /// The stamp of the rule that owns a cell.
    fn stamp(&self, cell: &Cell) -> u32 {
        let stamp = cell.load(Ordering::Relaxed);
        if stamp != 0 {
            return stamp as u32;
        }
        let new = u64::from(self.stamps.fetch_add(1, Ordering::Relaxed));
        match cell.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => new as u32,
            Err(other) => other as u32,
        }
    }

    fn take(&self) -> Option<u32> {
        let _held = self.free_flag.hold();
        let id = self.free.load(Ordering::Relaxed);
        let node = self.nodes.get(id)?;
        self.free.store(node.next.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(id)
    }

    fn put_back(&self, id: u32) {
        let Some(node) = self.nodes.get(id) else { return };
        // Nobody finds it any more.
        node.flow.store(NONE, Ordering::Relaxed);
        let _held = self.free_flag.hold();
        node.next.store(self.free.load(Ordering::Relaxed), Ordering::Relaxed);
        self.free.store(id, Ordering::Relaxed);
    }

    /// Throws out what is gone of a bucket, but for `own`, which comes to its front; how many stand under the key, and the node
    /// of `own` if it is among them. The bucket's flag is held.
    fn look_through(
        &self,
        bucket: usize,
        table: &Conntrack,
        now: u32,
        key: &Key,
        own: Option<Member>,
    ) -> (u32, Option<u32>) {
        let (mut count, mut own_node) = (0, None);
        let head = &self.heads[bucket];
        let mut link = head;
        loop {
            let at = link.load(Ordering::Relaxed);
            let Some(node) = self.nodes.get(at) else { break };
            let (under, member) = (node.key(), node.member());
            if under == *key && own == Some(member) {
                count += 1;
                own_node = Some((at, node));
                link.store(node.next.load(Ordering::Relaxed), Ordering::Relaxed);
            } else if table.counts_as_connection(member, now) {
                count += u32::from(under == *key);
                link = &node.next;
            } else {
                link.store(node.next.load(Ordering::Relaxed), Ordering::Relaxed);
                self.put_back(at);
            }
        }
        let Some((id, node)) = own_node else { return (count, None) };
        node.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(id, Ordering::Relaxed);
        node.looked.store(now, Ordering::Relaxed);
        node.seen.store(count, Ordering::Relaxed);
        (count, Some(id))
    }

    /// The connections under a key, the packet's own included, which is added where it has a flow. None: no room.
    fn count(&self, table: &Conntrack, now: u32, key: &Key, own: Option<Member>) -> Option<u32> {
        self.clear_one(table, now, key);
        let hash = |member: u64| {
            table.hasher.hash(&[key.addr[0], key.addr[1], u64::from(key.stamp), u64::from(key.place), member]) as usize
        };
        let bucket = hash(0) & (self.heads.len() - 1);
        let found = own.map(|own| &self.found[hash(u64::from(own.flow) + 1) & (self.found.len() - 1)]);
        let _held = self.flags[bucket % FLAGS].hold();
        let head = &self.heads[bucket];
        let is_found = found.zip(own).is_some_and(|(found, own)| self.is_at(found.load(Ordering::Relaxed), key, own));
        // Who is in the table already may stand under the key anywhere.
        let is_newcomer = own.is_none_or(|own| table.entry(own.flow).word().life() == Life::Unconfirmed);
        let newest = self.nodes.get(head.load(Ordering::Relaxed)).filter(|node| node.key() == *key);
        let looked = newest.filter(|_| is_found || is_newcomer).and_then(|node| node.still_holds(now));
        let (looked, others, is_in) = match looked {
            Some((looked, seen)) => (looked, seen, is_found),
            None => {
                let (others, own_node) = self.look_through(bucket, table, now, key, own);
                if let (Some(found), Some(id)) = (found, own_node) {
                    found.store(id, Ordering::Relaxed);
                }
                (now, others, own_node.is_some())
            }
        };
        let Some(own) = own.filter(|_| !is_in) else { return Some(others + u32::from(!is_in)) };
        let id = self.take()?;
        let node = self.nodes.get(id)?;
        node.write(key, own);
        node.looked.store(looked, Ordering::Relaxed);
        node.seen.store(others + 1, Ordering::Relaxed);
        node.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(id, Ordering::Relaxed);
        if let Some(found) = found {
            found.store(id, Ordering::Relaxed);
        }
        Some(others + 1)
    }

    /// Whether the node of this number is the connection's under the key. The bucket's flag is held, so a node with this key
    /// stays what it is; of others the flow is read first, and theirs is never written before their key.
    fn is_at(&self, id: u32, key: &Key, own: Member) -> bool {
        self.nodes.get(id).is_some_and(|node| {
            node.flow.load(Ordering::Acquire) == own.flow && node.key() == *key && node.member() == own
        })
    }

    /// Clears the bucket whose turn it is.
    fn clear_one(&self, table: &Conntrack, now: u32, key: &Key) {
        let bucket = self.sweep.fetch_add(1, Ordering::Relaxed) as usize & (self.heads.len() - 1);
        if self.heads[bucket].load(Ordering::Relaxed) != NONE {
            let _held = self.flags[bucket % FLAGS].hold();
            self.look_through(bucket, table, now, key, None);
        }
    }

    #[cfg(test)]
    fn nodes_in_use(&self) -> usize {
        let next = |id: &u32| self.nodes.get(*id).map(|node| node.next.load(Ordering::Relaxed));
        let free = std::iter::successors(Some(self.free.load(Ordering::Relaxed)), next);
        self.nodes.len() - (free.count() - 1)
    }
}

impl Conntrack {
    /// Makes room for counted connections, for rulesets in which a flow can meet so many rules with a `connlimit`. Once made
    /// it stays.
    pub fn count_connections(&self, rules: usize) {
        let flows = self.max_flows as usize;
        self.connections.get_or_init(|| Connections::new(flows)).make_room(flows.saturating_mul(rules));
    }

    /// The connections under a key of the rule that owns `cell`, the packet's own included. None where they cannot be
    /// counted: the packet has no tuple, or there is no room.
    pub fn connections(
        &self,
        cell: &Cell,
        key: &ConnectionKey,
        ct: Ct,
        facts: &Facts,
        l3: &[u8],
        now: u64,
    ) -> Option<u32> {
        let connections = self.connections.get()?;
        let now = millis(now);
        let (own, zone) = match ct {
            Ct::Flow(flow) => {
                let entry = self.entry(flow.id);
                let zone = entry.zone(Dir::Original).max(entry.zone(Dir::Reply));
                (Some(Member::of(flow.id, entry.word(), Dir::Original)), zone)
            }
            _ => {
                let words = protocol::tuple(facts, l3).ok()?.words();
                let known = self.find(self.hasher.hash(&words), &words);
                (known.map(|(id, dir, word)| Member::of(id, word, dir)), 0)
            }
        };
        let place = (key.family as u32) << 16 | u32::from(zone);
        let addr = [key.addr as u64, (key.addr >> 64) as u64];
        connections.count(self, now, &Key { stamp: connections.stamp(cell), addr, place }, own)
    }

    /// Whether a connection still counts.
    fn counts_as_connection(&self, member: Member, now: u32) -> bool {
        let Some(entry) = self.entries.get(member.flow as usize) else { return false };
        let word = entry.word();
        if Member::of(member.flow, word, Dir::Original).usage != member.usage & !1 {
            return false;
        }
        match word.life() {
            Life::Unconfirmed => true,
            Life::Live if entry.is_over(word, now) => false,
            Life::Live => {
                let state = tcp::State::from_bits(word.protocol());
                entry.tuple(Dir::Original).proto != proto::TCP
                    || !matches!(state, tcp::State::TimeWait | tcp::State::Close)
            }
            Life::Free | Life::Dead => false,
        }
    }
}

impl Member {
    fn of(flow: u32, word: Word, dir: Dir) -> Member {
        Member { flow, usage: word.generation() << 1 | dir as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{A, B, Sample, tcp, udp};
    use super::super::{Conntrack, Tracker};
    use super::*;
    use std::sync::Arc;
    use sumun_config::facts::Family;
    use sumun_config::model::Sysctl;

    const MS: u64 = 1_000_000;
    const KEY: ConnectionKey = ConnectionKey { cell: 0, family: Family::V4, addr: A };

    struct Rig {
        shared: Arc<Conntrack>,
        tracker: Tracker,
        cell: Cell,
        now: u64,
    }

    impl Rig {
        fn new(flows: u32) -> Rig {
            let shared = Arc::new(Conntrack::new(flows, 1, 42));
            shared.count_connections(1);
            Rig { tracker: Tracker::new(shared.clone(), 0), shared, cell: Cell::new(0), now: 1000 * MS }
        }

        /// A packet is tracked and counted, and confirmed or dropped; the connections with it.
        fn pass(&mut self, mut p: Sample, confirm: bool) -> Option<u32> {
            self.now += MS;
            let ct = self.tracker.track(&mut p.facts, &p.l3, self.now, &Sysctl::default()).expect("room");
            let count = self.shared.connections(&self.cell, &KEY, ct, &p.facts, &p.l3, self.now);
            if confirm {
                self.tracker.confirm(ct, &mut p.facts, self.now).expect("room");
            } else {
                self.tracker.abandon(ct);
            }
            self.tracker.quiescent(self.now);
            count
        }
    }

    #[test]
    fn flows_count_once_each_and_as_long_as_they_live() {
        let mut rig = Rig::new(64);
        assert_eq!(rig.pass(udp(A, 1, B, 9), true), Some(1));
        assert_eq!(rig.pass(udp(A, 2, B, 9), true), Some(2));
        assert_eq!(rig.pass(udp(A, 1, B, 9), true), Some(2), "known");
        assert_eq!(rig.pass(udp(A, 3, B, 9), false), Some(3));
        assert_eq!(rig.pass(udp(A, 4, B, 9), false), Some(3), "the one before was dropped");
        assert_eq!(rig.pass(udp(A, 1, B, 9), true), Some(2));
        rig.now += 31_000 * MS;
        assert_eq!(rig.pass(udp(A, 5, B, 9), true), Some(1), "the others ran out of time");
        rig.shared.flush(rig.now);
        assert_eq!(rig.pass(udp(A, 6, B, 9), true), Some(1));
        assert_eq!(rig.shared.connections.get().expect("made").nodes_in_use(), 1);
    }

    #[test]
    fn packets_without_a_flow_count_beside_the_others_and_are_forgotten() {
        let mut rig = Rig::new(64);
        assert_eq!(rig.pass(udp(A, 1, B, 9), true), Some(1));
        let stranger = udp(A, 2, B, 9);
        for _ in 0..3 {
            let count = rig.shared.connections(&rig.cell, &KEY, Ct::None, &stranger.facts, &stranger.l3, rig.now);
            assert_eq!(count, Some(2));
        }
        let known = udp(A, 1, B, 9);
        let count = rig.shared.connections(&rig.cell, &KEY, Ct::Untracked, &known.facts, &known.l3, rig.now);
        assert_eq!(count, Some(1), "its flow is there already");
    }

    #[test]
    fn closed_tcp_connections_do_not_count_but_for_their_own_packets() {
        const SYN: u8 = 2;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        let mut rig = Rig::new(64);
        assert_eq!(rig.pass(tcp(A, 1, B, 80, SYN), true), Some(1));
        assert_eq!(rig.pass(tcp(B, 80, A, 1, SYN | ACK), true), Some(1));
        assert_eq!(rig.pass(tcp(A, 1, B, 80, ACK), true), Some(1));
        assert_eq!(rig.pass(tcp(A, 2, B, 80, SYN), true), Some(2));
        assert_eq!(rig.pass(tcp(B, 80, A, 1, RST | ACK), true), Some(2), "its own reset");
        assert_eq!(rig.pass(tcp(A, 3, B, 80, SYN), true), Some(2), "1 is closed");
    }

    #[test]
    fn keys_are_counted_apart_and_a_cell_begins_anew_with_another_rule() {
        let mut rig = Rig::new(64);
        assert_eq!(rig.pass(udp(A, 1, B, 9), true), Some(1));
        rig.cell.store(0, Ordering::Relaxed);
        assert_eq!(rig.pass(udp(A, 2, B, 9), true), Some(1));
        let other = ConnectionKey { addr: B, ..KEY };
        let p = udp(A, 7, B, 9);
        assert_eq!(rig.shared.connections(&rig.cell, &other, Ct::None, &p.facts, &p.l3, rig.now), Some(1));
    }

    #[test]
    fn without_room_nothing_is_counted_and_room_comes_back() {
        let mut rig = Rig::new(64);
        for port in 0..64 {
            assert_eq!(rig.pass(udp(A, port, B, 9), true), Some(u32::from(port) + 1));
        }
        let other = Cell::new(0);
        let mut p = udp(A, 1, B, 9);
        let ct = rig.tracker.track(&mut p.facts, &p.l3, rig.now, &Sysctl::default()).expect("a flow");
        assert_eq!(rig.shared.connections(&other, &KEY, ct, &p.facts, &p.l3, rig.now), None);
        rig.shared.flush(rig.now);
        assert_eq!(rig.pass(udp(A, 99, B, 9), true), Some(1));
    }

    #[test]
    fn many_connections_are_looked_through_once_a_millisecond() {
        let mut rig = Rig::new(1024);
        for port in 0..100 {
            assert_eq!(rig.pass(udp(A, port, B, 9), true), Some(u32::from(port) + 1));
        }
        rig.shared.flush(rig.now);
        let now = rig.now;
        rig.now = now - MS;
        assert_eq!(rig.pass(udp(A, 200, B, 9), true), Some(101), "in the same millisecond");
        assert_eq!(rig.pass(udp(A, 201, B, 9), true), Some(2));
    }

    #[test]
    fn among_many_a_known_connection_is_not_counted_again() {
        let mut rig = Rig::new(1024);
        for port in 0..100 {
            assert_eq!(rig.pass(udp(A, port, B, 9), true), Some(u32::from(port) + 1));
        }
        for port in [3, 50, 3] {
            rig.now -= MS;
            assert_eq!(rig.pass(udp(A, port, B, 9), true), Some(100), "in the millisecond of the newest");
        }
        assert_eq!(rig.shared.connections.get().expect("made").nodes_in_use(), 100);
    }

    #[test]
    fn the_more_there_are_the_less_often_they_are_looked_through() {
        let mut rig = Rig::new(8192);
        for port in 0..3000 {
            assert_eq!(rig.pass(udp(A, port, B, 9), true), Some(u32::from(port) + 1));
        }
        rig.now += 10 * MS;
        assert_eq!(rig.pass(udp(A, 3000, B, 9), true), Some(3001));
        rig.shared.flush(rig.now);
        assert_eq!(rig.pass(udp(A, 5000, B, 9), true), Some(3002), "they were looked through a millisecond ago");
        assert_eq!(rig.pass(udp(A, 5000, B, 9), true), Some(3002), "and who is in is known");
        rig.now += 2 * MS;
        assert_eq!(rig.pass(udp(A, 5001, B, 9), true), Some(2));
        assert_eq!(rig.shared.connections.get().expect("made").nodes_in_use(), 2);
    }

    #[test]
    fn room_grows_with_the_rules_that_count() {
        let mut rig = Rig::new(100);
        let rules = [Cell::new(0), Cell::new(0)];
        let pass = |rig: &mut Rig| -> u32 {
            let counted = |rig: &mut Rig, port| {
                let mut p = udp(A, port, B, 9);
                let ct = rig.tracker.track(&mut p.facts, &p.l3, rig.now, &Sysctl::default()).expect("room");
                let count = |cell| rig.shared.connections(cell, &KEY, ct, &p.facts, &p.l3, rig.now);
                let counts = rules.each_ref().map(count);
                rig.tracker.confirm(ct, &mut p.facts, rig.now).expect("room");
                rig.tracker.quiescent(rig.now);
                counts.iter().flatten().count() as u32
            };
            (0..100).map(|port| counted(rig, port)).sum()
        };
        assert_eq!(pass(&mut rig), 128, "two pieces of 64");
        let before = rig.shared.connections.get().expect("made").memory();
        rig.shared.count_connections(2);
        assert_eq!(pass(&mut rig), 200);
        assert!(rig.shared.connections.get().expect("made").memory() > before);
        rig.shared.count_connections(1);
        assert_eq!(rig.shared.connections.get().expect("made").nodes_in_use(), 200);
    }

    #[test]
    fn several_workers_count_each_flow_once() {
        let shared = Arc::new(Conntrack::new(4096, 3, 42));
        shared.count_connections(1);
        let cell = Cell::new(0);
        std::thread::scope(|scope| {
            for worker in 0..3u16 {
                let (shared, cell) = (shared.clone(), &cell);
                scope.spawn(move || {
                    let mut tracker = Tracker::new(shared.clone(), usize::from(worker));
                    for port in 0..20 {
                        let mut p = udp(A, worker * 100 + port, B, 9);
                        let ct = tracker.track(&mut p.facts, &p.l3, MS, &Sysctl::default()).expect("room");
                        shared.connections(cell, &KEY, ct, &p.facts, &p.l3, MS).expect("room");
                        tracker.confirm(ct, &mut p.facts, MS).expect("room");
                        tracker.quiescent(MS);
                    }
                    tracker.offline();
                });
            }
        });
        let p = udp(A, 999, B, 9);
        assert_eq!(shared.connections(&cell, &KEY, Ct::None, &p.facts, &p.l3, MS), Some(61));
    }
}
