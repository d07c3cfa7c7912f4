//! A list of `recent`: addresses and when they were seen (`xt_recent.c`).
//!
//! Addresses are in a hash table of chains and in the order in which they were seen last; the times of each are a ring of
//! jiffies. All of it is one part that is taken for each question that may find something. That an address is in a bucket
//! that is empty, which is the common case, is said without: beside the table stands how many addresses are in each bucket.

use super::{Turn, in_full};
use crate::conntrack::tuple::Hasher;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use sumun_config::facts::Family;
use sumun_config::rule::matches::recent::{self, Ask, Sighting, What};

/// Jiffies of a second, and nanoseconds of a jiffy.
const HZ: u64 = 250;
const NS_PER_JIFFY: u64 = 1_000_000_000 / HZ;

/// Entries that are listed at once, and times: what is copied while workers wait.
const SLICE: usize = 64;
const SLICE_STAMPS: usize = 4096;
/// No entry.
const NONE: u32 = u32::MAX;

/// A list.
pub struct List {
    like: recent::List,
    hasher: Hasher,
    /// Addresses in each bucket.
    present: Box<[AtomicU32]>,
    table: Turn<Table>,
}

/// What is remembered of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its family.
    pub family: Family,
    /// The address, masked.
    pub addr: u128,
    /// Of its last packet; 0 where it was put in by hand.
    pub ttl: u8,
    /// Where in the ring the next time goes, counted from 1.
    pub index: u32,
    /// Times of its packets in jiffies.
    pub stamps: Vec<u64>,
}

struct Table {
    heads: Box<[u32]>,
    entries: Box<[Entry]>,
    /// Rings of the entries, one behind the other.
    stamps: Box<[u64]>,
    /// Times of a ring.
    packets: u32,
    /// The first free entry; the next is its `next`.
    free: u32,
    /// Ends of the chain by last sighting.
    oldest: u32,
    newest: u32,
    /// Sightings so far.
    turns: u64,
}

#[derive(Clone)]
struct Entry {
    addr: u128,
    family: Family,
    ttl: u8,
    bucket: u32,
    /// Where the next time goes, unless the ring is full there.
    index: u32,
    /// How many times there are.
    /// 0 where the entry is free.
    count: u32,
    /// Number of its last sighting, of all of the list.
    turn: u64,
    /// In the bucket.
    next: u32,
    older: u32,
    newer: u32,
}

impl List {
    /// An empty list.
    pub fn new(like: &recent::List, hasher: Hasher) -> List {
        let (addresses, packets) = (like.addresses as usize, like.packets as usize);
        let buckets = addresses.next_power_of_two();
        let free = |next: u32| Entry {
            addr: 0,
            family: Family::V4,
            ttl: 0,
            bucket: 0,
            index: 0,
            count: 0,
            turn: 0,
            next: if next < like.addresses { next } else { NONE },
            older: NONE,
            newer: NONE,
        };
        let table = Table {
            heads: vec![NONE; buckets].into(),
            entries: (1..=like.addresses).map(free).collect(),
            stamps: vec![0; addresses * packets].into(),
            packets: like.packets,
            free: 0,
            oldest: NONE,
            newest: NONE,
            turns: 0,
        };
        let present = (0..buckets).map(|_| AtomicU32::new(0)).collect();
        List { like: *like, hasher, present, table: Turn::new(table) }
    }

    fn bucket(&self, family: Family, addr: u128) -> u32 {
        let words = [addr as u64, (addr >> 64) as u64, family as u64, 0, 0];
        self.hasher.hash(&words) as u32 & (self.present.len() as u32 - 1)
    }

    /// What a rule wants to know of a packet, and what it wants done (`recent_mt`).
    pub fn ask(&self, ask: &Ask, seen: &Sighting, now: u64) -> bool {
        let Sighting { family, ttl, .. } = *seen;
        let addr = self.like.masked(family, seen.addr);
        let bucket = self.bucket(family, addr);
        if ask.what != What::Set && self.present[bucket as usize].load(Ordering::Relaxed) == 0 {
            return ask.invert;
        }
        let now = now / NS_PER_JIFFY;
        let mut table = self.table.take();
        let wanted = if ask.ttl { ttl } else { 0 };
        let Some(id) = table.find(bucket, family, addr, wanted) else {
            let is_set = ask.what == What::Set;
            if is_set {
                self.add(&mut table, bucket, family, addr, ttl, now);
            }
            return is_set != ask.invert;
        };
        let oldest = table.oldest;
        let mut is_gone = false;
        let holds = match ask.what {
            What::Set => true,
            What::Remove => {
                self.remove(&mut table, id);
                true
            }
            What::Check | What::Update => {
                let since = now as i64 - (u64::from(ask.seconds) * HZ) as i64;
                let holds = table.has(id, ask, since);
                if ask.reap && table.last(oldest) < since {
                    self.remove(&mut table, oldest);
                    is_gone = oldest == id;
                }
                holds
            }
        };
        let yes = holds != ask.invert;
        if !is_gone && (ask.what == What::Set || ask.what == What::Update && yes) {
            table.stamp(id, now);
            table.entries[id as usize].ttl = ttl;
        }
        yes
    }

    /// A new address, in the place of the one seen longest ago where there is no room.
    fn add(&self, table: &mut Table, bucket: u32, family: Family, addr: u128, ttl: u8, now: u64) {
        if table.free == NONE {
            let oldest = table.oldest;
            self.remove(table, oldest);
        }
        let id = table.free;
        let next = table.heads[bucket as usize];
        table.heads[bucket as usize] = id;
        let entry = &mut table.entries[id as usize];
        table.free = entry.next;
        *entry = Entry { addr, family, ttl, bucket, index: 0, count: 0, turn: 0, next, older: NONE, newer: NONE };
        table.append(id);
        table.stamp(id, now);
        self.present[bucket as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self, table: &mut Table, id: u32) {
        let Entry { bucket, next, .. } = table.entries[id as usize];
        table.detach(id);
        let mut before = NONE;
        let mut at = table.heads[bucket as usize];
        while at != id {
            before = at;
            at = table.entries[at as usize].next;
        }
        match before {
            NONE => table.heads[bucket as usize] = next,
            before => table.entries[before as usize].next = next,
        }
        let entry = &mut table.entries[id as usize];
        (entry.next, entry.count) = (table.free, 0);
        table.free = id;
        self.present[bucket as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Remembers an address now, as `+ADDRESS` in `/proc/net/xt_recent` does: unmasked and for any TTL.
    pub fn put(&self, family: Family, addr: u128, now: u64) {
        let (bucket, now) = (self.bucket(family, addr), now / NS_PER_JIFFY);
        let mut table = self.table.take();
        match table.find(bucket, family, addr, 0) {
            Some(id) => table.stamp(id, now),
            None => self.add(&mut table, bucket, family, addr, 0, now),
        }
    }

    /// Forgets an address; whether it was there.
    pub fn forget(&self, family: Family, addr: u128) -> bool {
        let mut table = self.table.take();
        let found = table.find(self.bucket(family, addr), family, addr, 0);
        found.inspect(|id| self.remove(&mut table, *id)).is_some()
    }

    /// Forgets all addresses; how many there were.
    pub fn flush(&self) -> u32 {
        // One at a time, so that no worker waits for long; and no more than there can be, since they add others meanwhile.
        let is_gone = |_: &u32| {
            let mut table = self.table.take();
            let oldest = Some(table.oldest).filter(|oldest| *oldest != NONE);
            oldest.inspect(|oldest| self.remove(&mut table, *oldest)).is_some()
        };
        (0..self.like.addresses).take_while(is_gone).count() as u32
    }

    /// What is remembered, the address seen longest ago first; none where it is more than `most` times.
    pub fn rows(&self, most: usize) -> Option<Vec<Row>> {
        let (mut rows, mut times) = (Vec::new(), 0);
        let addresses = self.like.addresses;
        // In slices, so that no worker waits for long.
        let slice = (SLICE_STAMPS / self.like.packets as usize).clamp(1, SLICE);
        for from in (0..addresses).step_by(slice) {
            rows.reserve(slice);
            let table = self.table.take();
            for id in (from..addresses).take(slice) {
                let Entry { family, addr, ttl, index, count, turn, .. } = table.entries[id as usize];
                if count > 0 {
                    rows.push((turn, Row { family, addr, ttl, index, stamps: table.ring(id).to_vec() }));
                    times += count as usize;
                }
            }
            drop(table);
            if times > most {
                return None;
            }
        }
        rows.sort_by_key(|(turn, _)| *turn);
        Some(rows.into_iter().map(|(_, row)| row).collect())
    }
}

/// As `/proc/net/xt_recent` has it.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Row { family, addr, ttl, index, stamps } = self;
        let last = stamps.get(*index as usize - 1).copied().unwrap_or(0);
        let stamps: Vec<String> = stamps.iter().map(u64::to_string).collect();
        write!(f, "src={} ttl: {ttl} last_seen: {last} oldest_pkt: {index} ", in_full(*family, *addr))?;
        f.write_str(&stamps.join(", "))
    }
}

impl Table {
    /// The entry of an address. A TTL of 0 is any, on either side.
    fn find(&self, bucket: u32, family: Family, addr: u128, ttl: u8) -> Option<u32> {
        let next = |id: &u32| Some(self.entries[*id as usize].next).filter(|id| *id != NONE);
        let head = Some(self.heads[bucket as usize]).filter(|id| *id != NONE);
        std::iter::successors(head, next).find(|id| {
            let entry = &self.entries[*id as usize];
            entry.addr == addr && entry.family == family && (ttl == entry.ttl || ttl == 0 || entry.ttl == 0)
        })
    }

    /// The times of an entry.
    fn ring(&self, id: u32) -> &[u64] {
        let first = id as usize * self.packets as usize;
        &self.stamps[first..first + self.entries[id as usize].count as usize]
    }

    /// Whether enough packets were seen, from that time on where the rule says so.
    fn has(&self, id: u32, ask: &Ask, since: i64) -> bool {
        let counts = |stamp: &&u64| ask.seconds == 0 || **stamp as i64 >= since;
        self.ring(id).iter().filter(counts).take(ask.hits.max(1) as usize).count() == ask.hits.max(1) as usize
    }

    /// When an entry was seen last.
    fn last(&self, id: u32) -> i64 {
        self.ring(id).get(self.entries[id as usize].index as usize - 1).map_or(i64::MAX, |stamp| *stamp as i64)
    }

    /// An entry is seen now (`recent_entry_update`).
    fn stamp(&mut self, id: u32, now: u64) {
        let entry = &mut self.entries[id as usize];
        let at = entry.index & (self.packets - 1);
        self.stamps[id as usize * self.packets as usize + at as usize] = now;
        entry.index = at + 1;
        entry.count = entry.count.max(entry.index);
        self.turns += 1;
        entry.turn = self.turns;
        self.detach(id);
        self.append(id);
    }

    /// Takes an entry out of the order of last sightings.
    fn detach(&mut self, id: u32) {
        let Entry { older, newer, .. } = self.entries[id as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    /// Puts an entry behind all others.
    fn append(&mut self, id: u32) {
        let newest = std::mem::replace(&mut self.newest, id);
        let entry = &mut self.entries[id as usize];
        (entry.older, entry.newer) = (newest, NONE);
        match newest {
            NONE => self.oldest = id,
            newest => self.entries[newest as usize].newer = id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const CHECK: Ask =
        Ask { what: What::Check, invert: false, seconds: 0, hits: 0, ttl: false, reap: false, destination: false };
    const SET: Ask = Ask { what: What::Set, ..CHECK };

    fn list(addresses: u32, packets: u32) -> List {
        List::new(&recent::List { addresses, packets, mask: u128::MAX }, Hasher::new(5))
    }

    impl List {
        fn all(&self) -> Vec<Row> {
            self.rows(usize::MAX).expect("any number")
        }
    }

    fn from(addr: u128) -> Sighting {
        Sighting { family: Family::V4, addr, ttl: 64 }
    }

    /// The same by the book: addresses in the order of their last sighting, times in the order they came.
    struct Model {
        addresses: usize,
        packets: usize,
        seen: Vec<Row>,
    }

    impl Model {
        fn ask(&mut self, ask: &Ask, seen: &Sighting, now: u64) -> bool {
            let fits = |row: &Row| !ask.ttl || row.ttl == 0 || seen.ttl == 0 || row.ttl == seen.ttl;
            let known =
                self.seen.iter().position(|row| row.addr == seen.addr && row.family == seen.family && fits(row));
            let Some(at) = known else {
                if ask.what == What::Set {
                    if self.seen.len() == self.addresses {
                        self.seen.remove(0);
                    }
                    let Sighting { family, addr, ttl } = *seen;
                    self.seen.push(Row { family, addr, ttl, index: 1, stamps: vec![now] });
                }
                return (ask.what == What::Set) != ask.invert;
            };
            let since = now as i64 - i64::from(ask.seconds) * 250;
            let young = |stamp: &&u64| ask.seconds == 0 || **stamp as i64 >= since;
            let hits = self.seen[at].stamps.iter().filter(young).count();
            let enough = hits >= 1.max(ask.hits as usize);
            let yes = (matches!(ask.what, What::Set | What::Remove) || enough) != ask.invert;
            let oldest = &self.seen[0];
            let is_reaped = ask.reap && (oldest.stamps[oldest.index as usize - 1] as i64) < since;
            let is_stamped = ask.what == What::Set || ask.what == What::Update && yes && !(is_reaped && at == 0);
            if is_stamped {
                let mut row = self.seen.remove(at);
                let place = row.index as usize % self.packets;
                match row.stamps.get_mut(place) {
                    Some(stamp) => *stamp = now,
                    None => row.stamps.push(now),
                }
                row.index = place as u32 + 1;
                row.ttl = seen.ttl;
                self.seen.push(row);
            }
            match ask.what {
                What::Remove => drop(self.seen.remove(at)),
                _ if is_reaped => drop(self.seen.remove(0)),
                _ => {}
            }
            yes
        }
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let what = prop_oneof![Just(What::Set), Just(What::Check), Just(What::Update), Just(What::Remove)];
        (what, any::<bool>(), 0..4u32, 0..6u32, any::<bool>(), any::<bool>()).prop_map(
            |(what, invert, seconds, hits, ttl, reap)| match what {
                What::Set | What::Remove => Ask { what, invert, ..CHECK },
                _ => Ask { what, invert, seconds, hits, ttl, reap: reap && seconds != 0, destination: false },
            },
        )
    }

    proptest! {
        #[test]
        fn a_list_answers_and_remembers_as_the_kernel_s(
            (addresses, packets) in (1..6u32, 0..4u32),
            steps in prop::collection::vec((ask(), 0..8u128, any::<bool>(), 60..64u8, 0..400u64), 1..120),
        ) {
            let list = list(addresses, 1 << packets);
            let mut model = Model { addresses: addresses as usize, packets: 1 << packets, seen: Vec::new() };
            let mut now = 1000;
            for (ask, addr, v6, ttl, pause) in steps {
                now += pause;
                let seen = Sighting { family: if v6 { Family::V6 } else { Family::V4 }, addr, ttl };
                let expected = model.ask(&ask, &seen, now);
                prop_assert_eq!(list.ask(&ask, &seen, now * NS_PER_JIFFY), expected, "{:?}", ask);
                prop_assert_eq!(list.all(), model.seen.clone());
                let present: u32 = list.present.iter().map(|count| count.load(Ordering::Relaxed)).sum();
                prop_assert_eq!(present as usize, model.seen.len());
            }
        }
    }

    #[test]
    fn a_packet_counts_at_exactly_so_many_seconds_and_not_a_jiffy_later() {
        let list = list(4, 4);
        assert!(list.ask(&SET, &from(7), 10 * SECOND));
        let check = Ask { seconds: 3, ..CHECK };
        assert!(list.ask(&check, &from(7), 13 * SECOND + NS_PER_JIFFY - 1));
        assert!(!list.ask(&check, &from(7), 13 * SECOND + NS_PER_JIFFY));
        assert!(list.ask(&check, &from(7), SECOND), "another worker's clock may be behind");
    }

    #[test]
    fn a_list_has_one_mask_for_the_addresses_of_both_families() {
        let like = recent::List { addresses: 4, packets: 4, mask: u128::MAX << 104 };
        let list = List::new(&like, Hasher::new(5));
        assert!(list.ask(&SET, &from(0x0a01_0203), SECOND));
        assert!(list.ask(&CHECK, &from(0x0a01_02ff), SECOND));
        assert!(!list.ask(&CHECK, &from(0x0a01_0303), SECOND));
        let v6 = |addr| Sighting { family: Family::V6, addr, ttl: 64 };
        assert!(list.ask(&SET, &v6(0x2001_0db8 << 96 | 5), SECOND));
        assert!(list.ask(&CHECK, &v6(0x2001_0dff << 96), SECOND));
        let addresses: Vec<u128> = list.all().iter().map(|row| row.addr).collect();
        assert_eq!(addresses, [0x0a01_0200, 0x2001_0d00 << 96]);
    }

    #[test]
    fn a_list_reads_as_in_proc() {
        let list = list(4, 2);
        list.put(Family::V4, 0x0a00_0001, 2 * SECOND);
        for second in 3..6 {
            list.ask(&SET, &Sighting { family: Family::V6, addr: 0x2001_0db8 << 96 | 0x12, ttl: 63 }, second * SECOND);
        }
        let lines: Vec<String> = list.all().iter().map(Row::to_string).collect();
        let expected = [
            "src=10.0.0.1 ttl: 0 last_seen: 500 oldest_pkt: 1 500",
            "src=2001:0db8:0000:0000:0000:0000:0000:0012 ttl: 63 last_seen: 1250 oldest_pkt: 1 1250, 1000",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_the_operator_puts_in_is_there_for_any_ttl_until_taken_out() {
        let list = list(4, 4);
        list.put(Family::V4, 7, SECOND);
        list.put(Family::V4, 7, 2 * SECOND);
        list.put(Family::V4, 8, 2 * SECOND);
        assert_eq!(list.all()[0].stamps, [250, 500]);
        assert!(list.ask(&Ask { ttl: true, ..CHECK }, &from(7), 2 * SECOND));
        assert!(list.forget(Family::V4, 7));
        assert!(!list.forget(Family::V4, 7));
        assert!(!list.ask(&CHECK, &from(7), 2 * SECOND));
        list.put(Family::V6, 8, 2 * SECOND);
        assert_eq!((list.flush(), list.flush()), (2, 0));
        assert_eq!(list.all(), []);
    }

    #[test]
    fn more_times_than_are_wanted_are_not_told() {
        let list = list(200, 4);
        (0..150).for_each(|addr| assert!(list.ask(&SET, &from(addr), SECOND)));
        assert!(list.ask(&SET, &from(7), SECOND));
        assert_eq!((list.rows(150), list.rows(151).map(|rows| rows.len())), (None, Some(150)));
        let long = self::list(3, 65536);
        (0..3).for_each(|addr| assert!(long.ask(&SET, &from(addr), SECOND)));
        assert_eq!(long.all().len(), 3, "one at a time");
    }

    /// Workers that go on while the operator flushes do not keep him for ever.
    #[test]
    fn a_flush_ends_although_workers_add_addresses() {
        let list = list(64, 1);
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..2u128 {
                let (list, is_done) = (&list, &is_done);
                scope.spawn(move || {
                    let mut addr = worker << 64;
                    while !is_done.load(Ordering::Relaxed) {
                        addr += 1;
                        list.ask(&SET, &from(addr), SECOND);
                    }
                });
            }
            (0..20).for_each(|_| assert!(list.flush() <= 64));
            is_done.store(true, Ordering::Relaxed);
        });
        list.flush();
        assert_eq!(list.all(), []);
    }

    /// Every packet is remembered once, whoever sees it, and no address is lost or there twice.
    #[test]
    fn several_workers_lose_nothing() {
        const WORKERS: u64 = 4;
        const ROUNDS: u64 = 2000;
        let list = list(8, 65536);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let list = &list;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        assert!(list.ask(&SET, &from(u128::from(round % 8)), SECOND));
                        let passing = Sighting { family: Family::V6, addr: u128::from(worker), ttl: 1 };
                        assert!(!list.ask(&CHECK, &passing, SECOND));
                    }
                });
            }
        });
        let mut rows = list.all();
        rows.sort_by_key(|row| row.addr);
        let counts: Vec<(u128, u64)> = rows.iter().map(|row| (row.addr, row.stamps.len() as u64)).collect();
        assert_eq!(counts, (0..8).map(|addr| (addr, WORKERS * ROUNDS / 8)).collect::<Vec<_>>());
    }

    /// Workers that drive out each other's addresses leave a list that is whole.
    #[test]
    fn several_workers_leave_a_full_list_whole() {
        let list = list(3, 2);
        std::thread::scope(|scope| {
            for worker in 0..3u128 {
                let list = &list;
                scope.spawn(move || {
                    for round in 0..2000u64 {
                        let seen = from(worker + u128::from(round % 5));
                        list.ask(&SET, &seen, round * SECOND);
                        let ask = match round % 3 {
                            0 => Ask { what: What::Remove, ..CHECK },
                            1 => Ask { what: What::Update, seconds: 1, reap: true, ..CHECK },
                            _ => CHECK,
                        };
                        list.ask(&ask, &seen, round * SECOND);
                    }
                });
            }
        });
        let rows = list.all();
        assert!(rows.len() <= 3);
        let present: u32 = list.present.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert_eq!(present as usize, rows.len());
        (10..13).for_each(|addr| assert!(list.ask(&SET, &from(addr), SECOND)));
        assert_eq!(list.all().iter().map(|row| row.addr).collect::<Vec<_>>(), [10, 11, 12]);
    }
}
