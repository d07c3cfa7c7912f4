//! A table of `hashlimit`: credits by address and port (`xt_hashlimit.c`).
//!
//! Entries are made once and stand in chains of a hash table. A bucket is taken by its flag for each question: of an
//! entry nothing is read or changed without. What is not used any more goes when somebody passes it, when the table is full,
//! and in slices with time ([`Table::sweep`]); for answers it is gone at the first collection after its end, whoever
//! comes first.

use super::in_full;
use crate::conntrack::Flag;
use crate::conntrack::tuple::Hasher;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use sumun_config::facts::{Facts, Family, proto};
use sumun_config::rule::matches::hashlimit::{self, BYTE_CREDITS, CREDITS, DSTIP, DSTPORT, HZ, SRCIP, SRCPORT};

const NS_PER_JIFFY: u64 = 1_000_000_000 / HZ;
/// No entry.
const NONE: u32 = u32::MAX;
/// Most flags of buckets; more than workers can fight over.
const FLAGS: u32 = 256;
/// Buckets of a slice.
const SLICE: u32 = 64;
/// Slices that a packet clears at most that finds the table full.
const SLICES_WHEN_FULL: u32 = 4;

/// A table.
pub struct Table {
    like: hashlimit::Table,
    hasher: Hasher,
    heads: Box<[AtomicU32]>,
    flags: Box<[Flag]>,
    entries: Box<[Entry]>,
    /// The first free entry; the next is its `next`.
    free: AtomicU32,
    free_flag: Flag,
    /// The bucket to be cleared next, counted on and on.
    sweep: AtomicU64,
    /// Jiffy of the last collection that anybody met, and the bucket up to which `sweep` goes for it.
    met: AtomicU64,
    lap: AtomicU64,
}

/// What packets are told apart by, as far as the table does; the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Key {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// An entry for people, as `/proc/net/ipt_hashlimit` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// What it counts.
    pub key: Key,
    /// Seconds until it is not used any more.
    pub left: i64,
    /// Its credit; where rates are compared the interval, and 2³² where the last was above the rate.
    pub credit: u64,
    /// Most credit; of bytes, how often it fills; where rates are compared, what came in this interval.
    pub most: u64,
    /// What a packet costs; where rates are compared, the rate.
    pub cost: u64,
}

/// Read and written under its bucket's flag.
#[derive(Default)]
struct Entry {
    src: [AtomicU64; 2],
    dst: [AtomicU64; 2],
    /// The credit; where rates are compared, what came in this interval.
    credit: AtomicU64,
    /// Jiffy of the last packet; where rates are compared, of the beginning of the interval.
    since: AtomicU64,
    /// Jiffy from which on it is not used any more.
    expires: AtomicU64,
    /// Where bytes are counted, how often the credit fills yet.
    fills: AtomicU32,
    next: AtomicU32,
    sport: AtomicU16,
    dport: AtomicU16,
    /// The last interval was above the rate.
    was_above: AtomicU8,
}

impl Entry {
    fn key(&self) -> Key {
        let wide =
            |words: &[AtomicU64; 2]| u128::from(words[0].load(Relaxed)) | u128::from(words[1].load(Relaxed)) << 64;
        Key {
            src: wide(&self.src),
            dst: wide(&self.dst),
            sport: self.sport.load(Relaxed),
            dport: self.dport.load(Relaxed),
        }
    }

    /// Begins with all the credit there can be (`rateinfo_init`).
    fn begin(&self, key: &Key, like: &hashlimit::Table, now: u64) {
        for (words, addr) in [(&self.src, key.src), (&self.dst, key.dst)] {
            words[0].store(addr as u64, Relaxed);
            words[1].store((addr >> 64) as u64, Relaxed);
        }
        self.sport.store(key.sport, Relaxed);
        self.dport.store(key.dport, Relaxed);
        self.since.store(now, Relaxed);
        self.credit.store(if like.rate_match { 0 } else { like.full().unwrap_or(u64::MAX) }, Relaxed);
        self.fills.store(if like.bytes { like.burst as u32 } else { 0 }, Relaxed);
        self.was_above.store(0, Relaxed);
    }

    /// Adds what time brought (`rateinfo_recalc`).
    fn refill(&self, like: &hashlimit::Table, now: u64) {
        // Another worker's clock reading may be ahead of this one's.
        let passed = now.saturating_sub(self.since.load(Relaxed));
        if passed == 0 {
            return;
        }
        let credit = self.credit.load(Relaxed);
        if like.rate_match {
            let interval = u64::from(like.interval) * HZ;
            if passed >= interval {
                let (rate, _) = like.rate();
                let is_above = u128::from(credit) * u128::from(interval) > u128::from(passed) * u128::from(rate);
                self.was_above.store(is_above.into(), Relaxed);
                self.credit.store(0, Relaxed);
                self.since.store(now, Relaxed);
            }
            return;
        }
        self.since.store(now, Relaxed);
        let per_jiffy = if like.bytes { BYTE_CREDITS } else { CREDITS };
        let most = like.full().unwrap_or(u64::MAX);
        self.credit.store(credit.saturating_add(per_jiffy.saturating_mul(passed)).min(most), Relaxed);
    }

    /// Whether a packet of this length is below the limit; then it costs (`hashlimit_mt_common`).
    fn takes(&self, like: &hashlimit::Table, len: u16) -> bool {
        let credit = self.credit.load(Relaxed);
        if like.rate_match {
            let came = credit.saturating_add(if like.bytes { len.into() } else { 1 });
            self.credit.store(came, Relaxed);
            return self.was_above.load(Relaxed) == 0 && came <= like.rate().1;
        }
        let (cost, credit) = match like.bytes {
            false => (like.cost(), credit),
            true => {
                let (cost, fills) = (like.cost_of(len), self.fills.load(Relaxed));
                match credit < cost && fills > 0 {
                    true => {
                        self.fills.store(fills - 1, Relaxed);
                        (cost, HZ * BYTE_CREDITS)
                    }
                    false => (cost, credit),
                }
            }
        };
        let is_below = credit >= cost;
        self.credit.store(if is_below { credit - cost } else { credit }, Relaxed);
        is_below
    }
}

impl Table {
    /// An empty table.
    pub fn new(like: &hashlimit::Table, hasher: Hasher) -> Table {
        let (entries, buckets) = (like.entries(), like.buckets());
        let entry =
            |next: u32| Entry { next: AtomicU32::new(if next < entries { next } else { NONE }), ..Entry::default() };
        Table {
            like: *like,
            hasher,
            heads: (0..buckets).map(|_| AtomicU32::new(NONE)).collect(),
            flags: (0..buckets.min(FLAGS)).map(|_| Flag::default()).collect(),
            entries: (1..=entries).map(entry).collect(),
            free: AtomicU32::new(0),
            free_flag: Flag::default(),
            sweep: AtomicU64::new(0),
            met: AtomicU64::new(0),
            lap: AtomicU64::new(0),
        }
    }

    /// Whether what the packet belongs to is below the limit; none where the packet has no ports that could be told, or the
    /// table no room for it.
    pub fn ask(&self, facts: &Facts, l3: &[u8], now: u64) -> Option<bool> {
        let key = self.key(facts, l3)?;
        let now = now / NS_PER_JIFFY;
        let bucket = self.bucket(&key);
        let mut is_below = self.ask_bucket(bucket, &key, facts.len, now);
        // Who floods a full table finds it looked through already.
        if is_below.is_none() && (0..SLICES_WHEN_FULL).filter(|_| self.clear_due(now)).count() > 0 {
            is_below = self.ask_bucket(bucket, &key, facts.len, now);
        }
        is_below
    }

    /// None where there is no room.
    fn ask_bucket(&self, bucket: u32, key: &Key, len: u16, now: u64) -> Option<bool> {
        let _held = self.flags[(bucket % self.flags.len() as u32) as usize].hold();
        let entry = match self.find(bucket, key, now) {
            Some(entry) => {
                entry.refill(&self.like, now);
                entry
            }
            None => {
                let id = self.take()?;
                let (entry, head) = (&self.entries[id as usize], &self.heads[bucket as usize]);
                entry.begin(key, &self.like, now);
                entry.next.store(head.load(Relaxed), Relaxed);
                head.store(id, Relaxed);
                entry
            }
        };
        entry.expires.store(now + (u64::from(self.like.expire) * HZ).div_ceil(1000), Relaxed);
        Some(entry.takes(&self.like, len))
    }

    /// What the packet is told apart by (`hashlimit_init_dst`); none where its ports are not all there.
    fn key(&self, facts: &Facts, l3: &[u8]) -> Option<Key> {
        let hashlimit::Table { mode, srcmask, dstmask, .. } = self.like;
        let masked = |bit, addr, len: u8| match mode & bit {
            0 => 0,
            _ => addr & facts.family.mask(len.min(facts.family.bits())),
        };
        let mut key =
            Key { src: masked(SRCIP, facts.src, srcmask), dst: masked(DSTIP, facts.dst, dstmask), ..Key::default() };
        if mode & (SRCPORT | DSTPORT) != 0 {
            let (sport, dport) = ports(facts, l3)?;
            key.sport = if mode & SRCPORT != 0 { sport } else { 0 };
            key.dport = if mode & DSTPORT != 0 { dport } else { 0 };
        }
        Some(key)
    }

    fn bucket(&self, key: &Key) -> u32 {
        let Key { src, dst, sport, dport } = *key;
        let ports = u64::from(sport) << 16 | u64::from(dport);
        let hash = self.hasher.hash(&[src as u64, (src >> 64) as u64, dst as u64, (dst >> 64) as u64, ports]);
        (((hash >> 32) * self.heads.len() as u64) >> 32) as u32
    }

    /// The entry of a key; what is not used any more before it goes. The bucket's flag is held.
    fn find(&self, bucket: u32, key: &Key, now: u64) -> Option<&Entry> {
        let mut link = &self.heads[bucket as usize];
        loop {
            let id = link.load(Relaxed);
            let entry = self.entries.get(id as usize)?;
            if self.is_gone(entry, now) {
                link.store(entry.next.load(Relaxed), Relaxed);
                self.put_back(id);
                continue;
            }
            if entry.key() == *key {
                return Some(entry);
            }
            link = &entry.next;
        }
    }

    /// Jiffy of the last collection.
    fn collected(&self, now: u64) -> u64 {
        let interval = (u64::from(self.like.gc_interval) * HZ).div_ceil(1000);
        now - now % interval
    }

    /// Whether a collection has passed since the entry was not used any more.
    fn is_gone(&self, entry: &Entry, now: u64) -> bool {
        entry.expires.load(Relaxed) <= self.collected(now)
    }

    fn take(&self) -> Option<u32> {
        let _held = self.free_flag.hold();
        let id = self.free.load(Relaxed);
        let entry = self.entries.get(id as usize)?;
        self.free.store(entry.next.load(Relaxed), Relaxed);
        Some(id)
    }

    fn put_back(&self, id: u32) {
        let _held = self.free_flag.hold();
        self.entries[id as usize].next.store(self.free.load(Relaxed), Relaxed);
        self.free.store(id, Relaxed);
    }

    /// Clears some buckets of what a collection would have taken. Now and then; it does nothing where all are clear.
    pub fn sweep(&self, now: u64) {
        self.clear_due(now / NS_PER_JIFFY);
    }

    /// Clears a slice, if there is one that was not cleared since the last collection; whether there was. Until the next
    /// collection nothing more goes.
    fn clear_due(&self, now: u64) -> bool {
        let collection = self.collected(now);
        if self.met.load(Acquire) < collection {
            // The lap first: who sees that the collection was met sees how far it goes.
            self.lap.fetch_max(self.sweep.load(Relaxed) + self.heads.len() as u64, Relaxed);
            self.met.fetch_max(collection, Release);
        }
        let is_due = self.sweep.load(Relaxed) < self.lap.load(Relaxed);
        if is_due {
            self.clear_slice(now);
        }
        is_due
    }

    fn clear_slice(&self, now: u64) {
        let from = self.sweep.fetch_add(SLICE.into(), Relaxed);
        let buckets = self.heads.len() as u64;
        for bucket in (from..from + u64::from(SLICE).min(buckets)).map(|at| (at % buckets) as u32) {
            if self.heads[bucket as usize].load(Relaxed) != NONE {
                let _held = self.flags[(bucket % self.flags.len() as u32) as usize].hold();
                self.each(bucket, now, |_| {});
            }
        }
    }

    /// Visits what is used of a bucket; the rest goes. The bucket's flag is held.
    fn each(&self, bucket: u32, now: u64, mut visit: impl FnMut(&Entry)) {
        let mut link = &self.heads[bucket as usize];
        while let Some(entry) = self.entries.get(link.load(Relaxed) as usize) {
            match self.is_gone(entry, now) {
                true => {
                    let id = link.load(Relaxed);
                    link.store(entry.next.load(Relaxed), Relaxed);
                    self.put_back(id);
                }
                false => {
                    visit(entry);
                    link = &entry.next;
                }
            }
        }
    }

    /// All entries, with the credit that they would have now; none where they are more than `most`.
    pub fn rows(&self, now: u64, most: usize) -> Option<Vec<Row>> {
        let now = now / NS_PER_JIFFY;
        // What is long grows without a flag, so that no worker waits for it.
        let (mut rows, mut chain) = (Vec::new(), Vec::new());
        for bucket in 0..self.heads.len() as u32 {
            let held = self.flags[(bucket % self.flags.len() as u32) as usize].hold();
            self.each(bucket, now, |entry| {
                entry.refill(&self.like, now);
                chain.push(self.row(entry, now));
            });
            drop(held);
            rows.append(&mut chain);
            if rows.len() > most {
                return None;
            }
        }
        Some(rows)
    }

    fn row(&self, entry: &Entry, now: u64) -> Row {
        let left = (entry.expires.load(Relaxed) as i64 - now as i64) / HZ as i64;
        let (key, credit) = (entry.key(), entry.credit.load(Relaxed));
        if self.like.rate_match {
            // What stands where the kernel has the credit.
            let first = u64::from(self.like.interval) | u64::from(entry.was_above.load(Relaxed)) << 32;
            return Row { key, left, credit: first, most: credit, cost: self.like.rate().0 };
        }
        let most = if self.like.bytes { entry.fills.load(Relaxed).into() } else { self.like.full().unwrap_or(0) };
        Row { key, left, credit, most, cost: self.like.cost() }
    }
}

impl Row {
    /// As `/proc/net/ipt_hashlimit` and `ip6t_hashlimit` have it.
    pub fn line(&self, family: Family) -> String {
        let Row { key: Key { src, dst, sport, dport }, left, credit, most, cost } = self;
        let (src, dst) = (in_full(family, *src), in_full(family, *dst));
        format!("{left} {src}:{sport}->{dst}:{dport} {credit} {most} {cost}")
    }
}

/// The ports of a packet as `hashlimit` sees them: bytes of the upper header, whatever the fragment; none where they should
/// be there and are not.
fn ports(facts: &Facts, l3: &[u8]) -> Option<(u16, u16)> {
    use Family::{V4, V6};
    let at = match (facts.family, facts.proto) {
        // `ipv6_skip_exthdr` goes no further than a later fragment, and refuses a packet without anything.
        (V6, _) if facts.is_later_fragment() => return Some((0, 0)),
        (V6, proto::NONE) => return None,
        (_, proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP | proto::ESP) => 0,
        (V4, proto::AH) => 4,
        _ => return Some((0, 0)),
    };
    let from = usize::from(facts.l4_off) + at;
    let [a, b, c, d] = *l3.get(from..from + 4)?.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECOND: u64 = 1_000_000_000;
    /// One packet a second after five at once, for each source.
    const LIKE: hashlimit::Table = hashlimit::Table {
        mode: SRCIP,
        bytes: false,
        rate_match: false,
        avg: 1_000_000,
        burst: 5,
        interval: 0,
        size: 4,
        max: 8,
        gc_interval: 1000,
        expire: 10_000,
        srcmask: 32,
        dstmask: 32,
    };

    fn table(like: hashlimit::Table) -> Table {
        Table::new(&like, Hasher::new(5))
    }

    fn from(src: u128) -> Facts {
        Facts { src, dst: 9, len: 100, ..Facts::blank(Family::V4) }
    }

    impl Table {
        fn all(&self, now: u64) -> Vec<Row> {
            self.rows(now, usize::MAX).expect("any number")
        }

        fn used(&self) -> usize {
            let next = |id: &u32| self.entries.get(*id as usize).map(|entry| entry.next.load(Relaxed));
            self.entries.len() + 1 - std::iter::successors(Some(self.free.load(Relaxed)), next).count()
        }
    }

    /// The same by the book, in numbers that never overflow.
    #[derive(Default)]
    struct Model {
        entries: HashMap<Key, Counted>,
    }

    #[derive(Clone, Copy)]
    struct Counted {
        credit: u128,
        since: u64,
        expires: u64,
        fills: u64,
        was_above: bool,
    }

    impl Model {
        fn ask(&mut self, like: &hashlimit::Table, key: Key, len: u16, now: u64) -> Option<bool> {
            let gc = u64::from(like.gc_interval) / 4;
            self.entries.retain(|_, entry| entry.expires > now / gc * gc);
            let second = if like.bytes { 250 << 24 } else { u128::from(like.avg * like.burst) * 137_438_953 };
            if !self.entries.contains_key(&key) {
                if self.entries.len() == like.max as usize {
                    return None;
                }
                let credit = if like.rate_match { 0 } else { second };
                let fills = if like.bytes { like.burst } else { 0 };
                self.entries.insert(key, Counted { credit, since: now, expires: 0, fills, was_above: false });
            }
            let entry = self.entries.get_mut(&key)?;
            entry.expires = now + u64::from(like.expire) / 4;
            let passed = now - entry.since;
            if like.rate_match {
                let rate = if like.bytes {
                    (u128::from(u32::MAX / like.avg as u32) - 1) * 16
                } else {
                    1_000_000 / u128::from(like.avg)
                };
                let burst =
                    if like.bytes { rate * u128::from(like.burst.max(1)) } else { rate + u128::from(like.burst) };
                if passed >= u64::from(like.interval) * 250 && passed > 0 {
                    entry.was_above = entry.credit * u128::from(like.interval) * 250 > u128::from(passed) * rate;
                    (entry.credit, entry.since) = (0, now);
                }
                entry.credit += if like.bytes { len.into() } else { 1 };
                return Some(!entry.was_above && entry.credit <= burst);
            }
            entry.since = now;
            entry.credit = second.min(entry.credit + u128::from(passed) * if like.bytes { 1 << 24 } else { 1 << 39 });
            let cost = match like.bytes {
                true => second.min(u128::from(len / 16 + 1) * ((u128::from(like.avg) * (250 << 24)) >> 32)),
                false => u128::from(like.avg) * 137_438_953,
            };
            if entry.credit < cost && entry.fills > 0 {
                entry.fills -= 1;
                entry.credit = second;
            }
            let is_below = entry.credit >= cost;
            entry.credit -= if is_below { cost } else { 0 };
            Some(is_below)
        }
    }

    fn like() -> impl Strategy<Value = hashlimit::Table> {
        let sizes = (1..5u32, 1..7u32, 1..4u32, 1..8u32);
        (any::<bool>(), any::<bool>(), 1..30u64, 1..5u64, 0..3u8, sizes).prop_map(
            |(bytes, rate_match, rate, burst, mode, (size, max, gc, expire))| hashlimit::Table {
                mode: [SRCIP, SRCIP | DSTIP, 0][mode as usize],
                bytes,
                rate_match,
                avg: if bytes { u64::from(u32::MAX) / (rate * 4 + 1) } else { 1_000_000 / rate },
                burst: if bytes { burst - 1 } else { burst },
                interval: if rate_match { burst as u32 } else { 0 },
                size,
                max: max.max(size),
                gc_interval: gc * 400,
                expire: expire * 800,
                ..LIKE
            },
        )
    }

    proptest! {
        #[test]
        fn a_table_limits_as_the_book_says(
            like in like(),
            steps in prop::collection::vec((0..6u128, 0..2u128, 20..400u16, prop_oneof![0..10u64, 0..600u64]), 1..150),
        ) {
            let table = table(like);
            let mut model = Model::default();
            let mut now = 100_000;
            for (src, dst, len, pause) in steps {
                now += pause;
                let facts = Facts { dst, len, ..from(src) };
                let key = table.key(&facts, &[]).expect("it asks for no ports");
                let expected = model.ask(&like, key, len, now);
                prop_assert_eq!(table.ask(&facts, &[], now * NS_PER_JIFFY), expected, "{:?}", like);
                prop_assert!(model.entries.len() <= table.used());
            }
            let mut keys: Vec<Key> = table.all(now * NS_PER_JIFFY).iter().map(|row| row.key).collect();
            keys.sort_by_key(|key| (key.src, key.dst));
            let mut expected: Vec<Key> = model.entries.keys().copied().collect();
            expected.sort_by_key(|key| (key.src, key.dst));
            prop_assert_eq!(keys, expected);
            prop_assert_eq!(table.used(), model.entries.len(), "what was listed is clear");
        }
    }

    #[test]
    fn the_burst_comes_first_and_then_what_time_brings() {
        let table = table(LIKE);
        let passed = |at| (0..10).filter(|_| table.ask(&from(1), &[], at) == Some(true)).count();
        assert_eq!(passed(SECOND), 5);
        // The kernel's arithmetic makes a cost of 137,438,953,000,000 of a second's 137,438,953,472,000.
        assert_eq!([1_996_000_000, 2_000_000_000, 4_500_000_000].map(passed), [0, 1, 2]);
        assert_eq!(passed(60 * SECOND), 5, "no more than the burst is saved");
        assert_eq!(passed(SECOND), 0, "a clock reading of the past gains nothing");
    }

    #[test]
    fn an_entry_begins_anew_after_the_collection_that_follows_its_end() {
        let table = table(hashlimit::Table { expire: 1500, gc_interval: 4000, ..LIKE });
        let ask = |at| table.ask(&from(1), &[], at);
        assert_eq!([SECOND; 6].map(ask), [true, true, true, true, true, false].map(Some));
        assert_eq!(table.all(3_900_000_000).len(), 1, "it is not used any more, but nobody has collected it");
        assert_eq!(table.all(4_000_000_000), []);
        assert_eq!([4_000_000_000; 6].map(ask), [true, true, true, true, true, false].map(Some));
    }

    #[test]
    fn a_full_table_says_nothing_until_entries_are_collected() {
        let table = table(LIKE);
        for src in 0..8 {
            assert_eq!(table.ask(&from(src), &[], SECOND), Some(true));
        }
        assert_eq!(table.ask(&from(8), &[], 5 * SECOND), None);
        assert_eq!(table.ask(&from(3), &[], 5 * SECOND), Some(true), "who is in goes on");
        assert_eq!(table.ask(&from(8), &[], 11 * SECOND), Some(true), "seven are collected");
        assert_eq!((table.all(11 * SECOND).len(), table.used()), (2, 2));
    }

    #[test]
    fn slices_clear_a_table_that_nobody_asks() {
        let table = table(hashlimit::Table { size: 1000, max: 1000, ..LIKE });
        (0..500).for_each(|src| assert_eq!(table.ask(&from(src), &[], SECOND), Some(true)));
        (0..100).for_each(|_| table.sweep(10 * SECOND));
        assert_eq!(table.used(), 500, "all are used yet");
        (0..16).for_each(|_| table.sweep(11 * SECOND));
        assert_eq!(table.used(), 0);
        let swept = table.sweep.load(Relaxed);
        (0..16).for_each(|_| table.sweep(11 * SECOND));
        assert_eq!(table.sweep.load(Relaxed), swept, "there is nothing to do before the next collection");
    }

    #[test]
    fn a_full_table_is_looked_through_once_for_each_collection() {
        let table = table(hashlimit::Table { size: 1000, max: 1000, ..LIKE });
        (0..1000).for_each(|src| assert_eq!(table.ask(&from(src), &[], SECOND), Some(true)));
        for (collection, at) in [(1, 2 * SECOND), (2, 3 * SECOND)] {
            (0..50).for_each(|src| assert_eq!(table.ask(&from(1000 + src), &[], at), None));
            assert_eq!(
                table.sweep.load(Relaxed),
                collection * 1024,
                "sixteen slices of buckets, not four for each packet"
            );
        }
        (0..50).for_each(|src| assert_eq!(table.ask(&from(1000 + src), &[], 11 * SECOND), Some(true)));
    }

    #[test]
    fn more_entries_than_are_wanted_are_not_told() {
        let table = table(LIKE);
        (0..4).for_each(|src| assert_eq!(table.ask(&from(src), &[], SECOND), Some(true)));
        assert_eq!((table.rows(SECOND, 3), table.rows(SECOND, 4).map(|rows| rows.len())), (None, Some(4)));
    }

    #[test]
    fn ports_are_those_of_the_upper_header_and_missing_ones_cannot_be_said() {
        let all = table(hashlimit::Table { mode: SRCPORT | DSTPORT, ..LIKE });
        let l3: Vec<u8> = (0..60).collect();
        let key = |family, proto, frag_off, l3: &[u8]| {
            let facts = Facts { family, proto, frag_off, l4_off: 20, ..Facts::blank(family) };
            all.key(&facts, l3).map(|key| (key.sport, key.dport))
        };
        let first = Some((0x1415, 0x1617));
        for proto in [proto::TCP, proto::UDP, proto::UDPLITE, proto::SCTP, proto::DCCP, proto::ESP] {
            assert_eq!(key(Family::V4, proto, 0, &l3), first, "{proto}");
            assert_eq!(key(Family::V6, proto, 0, &l3), first, "{proto}");
            assert_eq!(key(Family::V4, proto, 0, &l3[..23]), None, "{proto}");
            assert_eq!(key(Family::V4, proto, 8, &l3), first, "of a later fragment its first bytes");
            assert_eq!(key(Family::V6, proto, 8, &l3), Some((0, 0)));
        }
        assert_eq!(key(Family::V4, proto::AH, 0, &l3), Some((0x1819, 0x1a1b)));
        assert_eq!(key(Family::V4, proto::ICMP, 0, &l3), Some((0, 0)));
        assert_eq!(key(Family::V6, proto::NONE, 0, &l3), None);
        let one = table(hashlimit::Table { mode: DSTPORT, ..LIKE });
        let facts = Facts { proto: proto::UDP, l4_off: 20, ..from(7) };
        assert_eq!(one.key(&facts, &l3), Some(Key { dport: 0x1617, ..Key::default() }));
        assert_eq!(one.ask(&facts, &l3[..23], SECOND), None);
    }

    #[test]
    fn rows_are_what_proc_shows() {
        let table = table(LIKE);
        assert_eq!(table.ask(&from(7), &[], SECOND), Some(true));
        let key = Key { src: 7, ..Key::default() };
        let cost = 137_438_953_000_000;
        let row = Row { key, left: 10, credit: 4 * cost, most: 5 * cost, cost };
        assert_eq!(table.all(SECOND), [row]);
        let line = "10 0.0.0.7:0->0.0.0.0:0 549755812000000 687194765000000 137438953000000";
        assert_eq!(row.line(Family::V4), line);
        let later = Row { left: 9, credit: 4 * cost + 10 * CREDITS, ..row };
        assert_eq!(table.all(SECOND + 40_000_000), [later]);
    }

    /// Of each source exactly the burst passes, whoever sees its packets.
    #[test]
    fn several_workers_take_exactly_the_burst() {
        for (bytes, burst, expected) in [(false, 1000, 1000), (true, 300, 301)] {
            // A packet of 100 bytes costs 7 pieces, all that a second brings at 16 × 6 bytes.
            let avg = if bytes { u64::from(u32::MAX / 7) } else { LIKE.avg };
            let table = table(hashlimit::Table { bytes, avg, burst, size: 2, ..LIKE });
            let total = |_| -> usize {
                let worker = || (0..2000).filter(|n| table.ask(&from(n % 3), &[], SECOND) == Some(true)).count();
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
                    threads.into_iter().map(|thread| thread.join().expect("a worker ends")).sum()
                })
            };
            assert_eq!([0, 1].map(total), [3 * expected, 0], "bytes: {bytes}");
            assert_eq!(table.used(), 3);
        }
    }

    /// Workers that fill, collect and fill again lose no entry.
    #[test]
    fn several_workers_leave_a_full_table_whole() {
        let table = table(hashlimit::Table { expire: 4, gc_interval: 4, ..LIKE });
        std::thread::scope(|scope| {
            for worker in 0..4u64 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..5000u64 {
                        table.ask(&from(u128::from((n + worker * 7) % 20)), &[], n * NS_PER_JIFFY);
                        table.sweep(n * NS_PER_JIFFY);
                    }
                });
            }
        });
        table.all(3600 * SECOND);
        assert_eq!(table.used(), 0);
        let asked: Vec<_> = (0..9).map(|src| table.ask(&from(src), &[], 3600 * SECOND)).collect();
        assert_eq!(asked, [vec![Some(true); 8], vec![None]].concat());
    }
}
