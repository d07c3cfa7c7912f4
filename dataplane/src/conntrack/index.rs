//! Where tuples are found: buckets of one cache line, read without locks.
//!
//! A bucket has seven slots and a count. A slot is one word: 31 bits of the hash, the direction, and the entry's number
//! plus one; zero is empty. A tuple sits in the first bucket with an empty slot from its home on, and every full bucket
//! that it had to pass counts it, so a search ends at the first bucket that nobody passed: normally its home, and one
//! cache line tells that a tuple is not there. Tuples never move, so a reader cannot miss one that stays.
//!
//! Writers take the spin flag of the tuple's shard (a run of buckets that probing wraps in). An insertion of a flow holds
//! both tuples' shards, taken in order, so "both were absent" and "both are there" is one step. A worker that is alone takes
//! none. Readers may still see a slot whose entry is just being confirmed or removed; the entry's life tells.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::umem::huge::filled;
use crate::umem::prefetch::prefetch;
use sumun_config::facts::Dir;

const SLOTS: usize = 7;
/// Most buckets that a tuple may be away from home. With load at most one half this is never reached but under attack.
const PROBES: usize = 8;
/// Most shards; more than workers can fight over.
const SHARDS: usize = 1024;

#[derive(Default)]
#[repr(align(64))]
struct Bucket {
    slots: [AtomicU64; SLOTS],
    passed: AtomicU64,
}

/// A spin flag: 1 while it is taken.
#[derive(Default)]
#[cfg_attr(not(feature = "model"), derive(zerocopy::FromBytes))]
#[repr(transparent)]
pub(crate) struct Spin(AtomicU32);

/// A spin flag in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Flag(Spin);

/// The index of all tuples of a table.
pub(crate) struct Index {
    buckets: Box<[Bucket]>,
    shards: Box<[Flag]>,
    /// Hash bits to shift out to get a bucket.
    shift: u32,
    /// Buckets of a shard, less one.
    within: usize,
}

/// The flags of one or two shards, held until dropped.
pub(crate) struct Held<'a> {
    first: &'a Spin,
    second: Option<&'a Spin>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(second) = self.second {
            second.0.store(0, Ordering::Release);
        }
        self.first.0.store(0, Ordering::Release);
    }
}

impl Flag {
    /// Takes the flag until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.0.hold()
    }
}

impl Spin {
    /// Takes the flag until the guard is dropped.
    #[inline]
    pub fn hold(&self) -> Held<'_> {
        self.take();
        Held { first: self, second: None }
    }

    #[inline]
    fn take(&self) {
        let mut spins = 0u32;
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spins = spins.wrapping_add(1);
            crate::sync::wait(spins);
        }
    }
}

fn slot(hash: u64, id: u32, dir: Dir) -> u64 {
    hash << 33 | (dir as u64) << 32 | (u64::from(id) + 1)
}

impl Index {
    /// An index for this many flows (two tuples each), at most half full.
    pub fn new(flows: usize) -> Index {
        let (buckets, shards) = Index::size(flows);
        Index {
            buckets: filled(buckets, Bucket::default),
            shards: (0..shards).map(|_| Flag::default()).collect(),
            shift: 64 - buckets.trailing_zeros(),
            within: buckets / shards - 1,
        }
    }

    /// Buckets and shards for this many flows.
    fn size(flows: usize) -> (usize, usize) {
        let buckets = (flows * 4).div_ceil(SLOTS).next_power_of_two().max(8);
        (buckets, (buckets / PROBES).clamp(1, SHARDS))
    }

    /// Bytes that an index for this many flows takes.
    pub fn memory(flows: usize) -> usize {
        let (buckets, shards) = Index::size(flows);
        buckets * size_of::<Bucket>() + shards * size_of::<Flag>()
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline]
    fn after(&self, bucket: usize) -> usize {
        bucket & !self.within | (bucket + 1) & self.within
    }

    /// Takes the shards of two tuples.
    pub fn hold(&self, a: u64, b: u64) -> Held<'_> {
        // Buckets of a shard are a power of two: its bits below are all ones.
        let bits = self.within.trailing_ones();
        let (a, b) = (self.home(a) >> bits, self.home(b) >> bits);
        let (low, high) = (a.min(b), a.max(b));
        self.shards[low].0.take();
        let second = (low != high).then(|| &self.shards[high].0);
        if let Some(flag) = second {
            flag.take();
        }
        Held { first: &self.shards[low].0, second }
    }

    /// The first entry under this hash that `is` says yes to.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32, Dir) -> bool) -> Option<(u32, Dir)> {
        let tag = hash << 33 >> 33;
        let mut at = self.home(hash);
        for _ in 0..PROBES {
            let bucket = &self.buckets[at];
            for cell in &bucket.slots {
                // Acquire: what the entry's maker wrote before it put the slot here is seen by `is`.
                let word = cell.load(Ordering::Acquire);
                if word >> 33 == tag && word as u32 != 0 {
                    let dir = if word >> 32 & 1 == 0 { Dir::Original } else { Dir::Reply };
                    let id = word as u32 - 1;
                    if is(id, dir) {
                        return Some((id, dir));
                    }
                }
            }
            if bucket.passed.load(Ordering::Acquire) == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Puts a tuple in; false where there is no room near its home. The shard must be held where there are other workers.
    pub fn insert(&self, hash: u64, id: u32, dir: Dir) -> bool {
        let mut at = self.home(hash);
        for passed in 0..PROBES {
            let bucket = &self.buckets[at];
            if let Some(cell) = bucket.slots.iter().find(|c| c.load(Ordering::Relaxed) == 0) {
                let mut full = self.home(hash);
                for _ in 0..passed {
                    self.buckets[full].passed.fetch_add(1, Ordering::Release);
                    full = self.after(full);
                }
                cell.store(slot(hash, id, dir), Ordering::Release);
                return true;
            }
            at = self.after(at);
            if at == self.home(hash) {
                break;
            }
        }
        false
    }

    /// Lets `later` be found before `earlier`, which has the same tuple and was there first. Both are in, and the shard is held.
    /// Readers find the earlier one all the while.
    pub fn overtake(&self, hash: u64, later: (u32, Dir), earlier: (u32, Dir)) {
        let [later, earlier] = [later, earlier].map(|(id, dir)| slot(hash, id, dir));
        let mut place = None;
        let mut at = self.home(hash);
        for _ in 0..PROBES {
            for cell in &self.buckets[at].slots {
                match cell.load(Ordering::Relaxed) {
                    word if word == earlier => place = Some(cell),
                    word if word == later => {
                        if let Some(place) = place {
                            cell.store(earlier, Ordering::Release);
                            place.store(later, Ordering::Release);
                        }
                        return;
                    }
                    _ => {}
                }
            }
            at = self.after(at);
        }
    }

    /// Takes a tuple out again, where it is in. The shard must be held where there are other workers.
    pub fn remove(&self, hash: u64, id: u32, dir: Dir) {
        let word = slot(hash, id, dir);
        let mut at = self.home(hash);
        for passed in 0..PROBES {
            if let Some(cell) = self.buckets[at].slots.iter().find(|c| c.load(Ordering::Relaxed) == word) {
                cell.store(0, Ordering::Release);
                let mut full = self.home(hash);
                for _ in 0..passed {
                    self.buckets[full].passed.fetch_sub(1, Ordering::Release);
                    full = self.after(full);
                }
                return;
            }
            at = self.after(at);
        }
    }

    /// The entries of the `n`th bucket from a hash's home on; none beyond the neighbourhood that `early_drop` may plunder.
    pub fn nearby(&self, hash: u64, n: usize) -> Option<[Option<u32>; SLOTS]> {
        let at = (self.home(hash) + n) & (self.buckets.len() - 1);
        let entry = |i: usize| (self.buckets[at].slots[i].load(Ordering::Acquire) as u32).checked_sub(1);
        (n < PROBES).then(|| std::array::from_fn(entry))
    }

    /// Asks for the home bucket of a hash.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// Loads the home bucket of a hash and returns the first tuple there that may be it: the first touch of a burst.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<(u32, Dir)> {
        let tag = hash << 33 >> 33;
        let bucket = &self.buckets[self.home(hash)];
        let found = bucket.slots.iter().map(|c| c.load(Ordering::Relaxed)).find(|w| w >> 33 == tag && *w as u32 != 0);
        found.map(|w| (w as u32 - 1, if w >> 32 & 1 == 0 { Dir::Original } else { Dir::Reply }))
    }

    /// Whether nothing is in the index and no bucket counts a passer-by.
    #[cfg(test)]
    pub fn is_clean(&self) -> bool {
        self.buckets
            .iter()
            .all(|b| b.passed.load(Ordering::Relaxed) == 0 && b.slots.iter().all(|s| s.load(Ordering::Relaxed) == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_that_overflow_their_bucket_are_found_and_removed() {
        let index = Index::new(64);
        let hash = |i: u64| i; // the same home bucket for all, tags differ
        for i in 1..=20u32 {
            let _held = index.hold(hash(i.into()), hash(i.into()));
            assert!(index.insert(hash(i.into()), i, Dir::Original));
        }
        for i in 1..=20u32 {
            assert_eq!(index.find(hash(i.into()), |_, _| true), Some((i, Dir::Original)));
        }
        // Holes in the home bucket do not hide what lies behind it.
        for i in 1..=7u32 {
            index.remove(hash(i.into()), i, Dir::Original);
        }
        for i in 8..=20u32 {
            assert_eq!(index.find(hash(i.into()), |_, _| true), Some((i, Dir::Original)));
            index.remove(hash(i.into()), i, Dir::Original);
        }
        assert!(index.is_clean());
    }

    #[test]
    fn a_full_neighbourhood_refuses() {
        let index = Index::new(1);
        let room = SLOTS * 8;
        for i in 0..room as u32 {
            assert!(index.insert(5, i, Dir::Reply));
        }
        assert!(!index.insert(5, 1000, Dir::Reply));
        for i in 0..room as u32 {
            index.remove(5, i, Dir::Reply);
        }
        assert!(index.is_clean());
    }

    #[test]
    fn both_directions_of_one_entry_are_told_apart() {
        let index = Index::new(4);
        assert!(index.insert(9, 3, Dir::Original) && index.insert(9, 3, Dir::Reply));
        assert_eq!(index.find(9, |_, dir| dir == Dir::Reply), Some((3, Dir::Reply)));
        index.remove(9, 3, Dir::Original);
        assert_eq!(index.find(9, |_, _| true), Some((3, Dir::Reply)));
    }
}
