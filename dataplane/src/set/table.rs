//! The elements of a set: which slot has this key?
//!
//! Workers look up while other workers and control add and delete, and nobody waits for a lock on the way to an answer.
//! No library's hash table can be read while it is written without unsafe code, copies of the whole, or an epoch for every
//! lookup; so this is an own one of atomics. It is made for a fixed number of elements and never moves one: memory is
//! reserved at once (untouched pages cost nothing) and nothing is allocated on the data path.
//!
//! ```text
//! bucket │ header: six fingerprints, version, lock │ overflow │ six keys of 1 to 5 words
//! ```
//!
//! A key's home is a bucket chosen by its hash; where that is full it lies in the next that is not, and every bucket passed
//! counts one in `overflow`, so that a lookup stops at the first bucket that nothing has passed: there are no tombstones.
//! With IPv4 addresses a bucket is one cache line. What else elements have (time-outs, counters, ...) lies apart, by slot.
//!
//! Readers: the fingerprint is published after key and extras (Release), and the header's version changes with every
//! change of a fingerprint; a key that was read between two looks at the same version (a seqlock) is whole. Writers hold
//! the lock bit of the key's home bucket, so a key is never there twice; slots of other buckets are claimed by compare and
//! swap. A claimed slot has fingerprint 1, which no key has. The lock is held for some tens of nanoseconds, by whoever
//! changes this one bucket.

use crate::sync::wait;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use zerocopy::FromZeros;

/// Slots of a bucket.
const SLOTS: usize = 6;
/// Words of the longest key.
pub const MAX_WORDS: usize = 5;
/// Cells of a cache line.
const LINE: usize = 8;

const LOCK: u64 = 1 << 63;
const FINGERPRINTS: u64 = (1 << 48) - 1;
const VERSION: u64 = 1 << 48;
/// A slot that is being filled.
const CLAIMED: u64 = 1;
const ONES: u64 = 0x0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080;

/// A key as the table keeps it; words that a set's keys have not are zero.
pub type Words = [u64; MAX_WORDS];

/// A table. One for each set, alive as long as the set.
pub struct Table {
    cells: Box<[AtomicU64]>,
    /// The first cell of the first bucket: at the beginning of a cache line.
    first: usize,
    words: usize,
    stride: usize,
    mask: usize,
    len: AtomicU64,
    capacity: u64,
}

/// Cells that start as zero, without touching their memory.
pub fn zeroed(count: usize) -> Result<Box<[AtomicU64]>, String> {
    <[AtomicU64]>::new_box_zeroed_with_elems(count)
        .map_err(|_| format!("there is no memory for {} MB of elements", (count * 8) >> 20))
}

/// The lock of a bucket, until it is dropped.
pub struct Held<'t>(&'t AtomicU64);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_and(!LOCK, Ordering::Release);
    }
}

impl Table {
    /// A table for at most `capacity` keys of `words` words.
    pub fn new(words: usize, capacity: u32) -> Result<Table, String> {
        let words = words.clamp(1, MAX_WORDS);
        let stride = 2 + SLOTS * words;
        // At most four fifths full: beyond, too many keys are not at home.
        let buckets = (capacity as usize * 5 / 4).div_ceil(SLOTS).max(2).next_power_of_two();
        let cells = zeroed(buckets * stride + LINE)?;
        let first = (LINE - (cells.as_ptr() as usize / 8) % LINE) % LINE;
        Ok(Table { cells, first, words, stride, mask: buckets - 1, len: AtomicU64::new(0), capacity: capacity.into() })
    }

    /// Slots there are: extras have one of each for every slot.
    pub fn slots(&self) -> usize {
        (self.mask + 1) * SLOTS
    }

    /// Keys there are.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Bytes that are reserved.
    pub fn memory(&self) -> usize {
        self.cells.len() * 8
    }

    #[inline]
    fn bucket(&self, at: usize) -> usize {
        self.first + (at & self.mask) * self.stride
    }

    #[inline]
    fn key(&self, bucket: usize, slot: usize) -> Words {
        let mut words = [0; MAX_WORDS];
        let from = bucket + 2 + slot * self.words;
        for (word, cell) in words.iter_mut().zip(&self.cells[from..from + self.words]) {
            *word = cell.load(Ordering::Relaxed);
        }
        words
    }

    /// The slot of a key with this hash that `is` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(&Words, usize) -> bool) -> Option<usize> {
        let fingerprint = fingerprint(hash);
        let home = hash as usize;
        for step in 0..=self.mask {
            let at = home.wrapping_add(step) & self.mask;
            let bucket = self.bucket(at);
            'again: loop {
                let header = self.cells[bucket].load(Ordering::Acquire);
                let mut hits = matching(header, fingerprint);
                while hits != 0 {
                    let slot = hits.trailing_zeros() as usize / 8;
                    hits &= hits - 1;
                    let key = self.key(bucket, slot);
                    fence(Ordering::Acquire);
                    if (self.cells[bucket].load(Ordering::Relaxed) ^ header) & !LOCK != 0 {
                        continue 'again;
                    }
                    if is(&key, at * SLOTS + slot) {
                        return Some(at * SLOTS + slot);
                    }
                }
                break;
            }
            if self.cells[bucket + 1].load(Ordering::Acquire) == 0 {
                return None;
            }
        }
        None
    }

    /// The slot of a key.
    #[inline]
    pub fn find_exact(&self, hash: u64, key: &Words) -> Option<usize> {
        self.find(hash, |found, _| found == key)
    }

    /// Locks the home of a hash against other writers of its keys.
    pub fn lock(&self, hash: u64) -> Held<'_> {
        let mut times = 0;
        loop {
            if let Some(held) = self.try_lock(hash) {
                return held;
            }
            times += 1;
            wait(times);
        }
    }

    /// The same where nobody has it.
    pub fn try_lock(&self, hash: u64) -> Option<Held<'_>> {
        let cell = &self.cells[self.bucket(hash as usize)];
        let header = cell.load(Ordering::Relaxed);
        let free = header & LOCK == 0
            && cell.compare_exchange(header, header | LOCK, Ordering::Acquire, Ordering::Relaxed).is_ok();
        // Made only where it is held: dropping it lets go.
        free.then(|| Held(cell))
    }

    /// Whether two hashes have one home, and so one lock.
    pub fn is_one_home(&self, a: u64, b: u64) -> bool {
        (a ^ b) as usize & self.mask == 0
    }

    /// Adds a key that is not there; the caller holds its lock. `fill` writes the extras of its slot before anybody sees
    /// it. None where the table holds as many as it may.
    pub fn insert(&self, hash: u64, key: &Words, fill: impl FnOnce(usize)) -> Option<usize> {
        let room = |len: u64| (len < self.capacity).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        for step in 0..=self.mask {
            let at = (hash as usize).wrapping_add(step) & self.mask;
            let bucket = self.bucket(at);
            let Some(slot) = self.claim(bucket) else {
                self.cells[bucket + 1].fetch_add(1, Ordering::Release);
                continue;
            };
            // Whoever reads one of these words sees the claim when it looks at the header again.
            fence(Ordering::Release);
            let from = bucket + 2 + slot * self.words;
            for (word, cell) in key.iter().zip(&self.cells[from..from + self.words]) {
                cell.store(*word, Ordering::Relaxed);
            }
            fill(at * SLOTS + slot);
            self.set(bucket, slot, fingerprint(hash));
            return Some(at * SLOTS + slot);
        }
        // Not reached: there are more slots than keys.
        self.len.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Deletes the key in a slot; the caller holds the lock of its home and knows that it is there.
    pub fn remove(&self, hash: u64, slot: usize) {
        let at = slot / SLOTS;
        self.set(self.bucket(at), slot % SLOTS, 0);
        let mut passed = hash as usize & self.mask;
        while passed != at {
            self.cells[self.bucket(passed) + 1].fetch_sub(1, Ordering::Release);
            passed = (passed + 1) & self.mask;
        }
        self.len.fetch_sub(1, Ordering::Relaxed);
    }

    /// A free slot of the bucket, which is nobody else's from now on.
    fn claim(&self, bucket: usize) -> Option<usize> {
        let cell = &self.cells[bucket];
        let mut header = cell.load(Ordering::Relaxed);
        loop {
            let free = matching(header, 0);
            if free == 0 {
                return None;
            }
            let slot = free.trailing_zeros() as usize / 8;
            match cell.compare_exchange_weak(
                header,
                changed(header, slot, CLAIMED),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(slot),
                Err(now) => header = now,
            }
        }
    }

    fn set(&self, bucket: usize, slot: usize, fingerprint: u64) {
        let change = |header| Some(changed(header, slot, fingerprint));
        let _ = self.cells[bucket].fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
    }

    /// The key in a slot, where there is one.
    pub fn at(&self, slot: usize) -> Option<Words> {
        let (bucket, slot) = (self.bucket(slot / SLOTS), slot % SLOTS);
        loop {
            let header = self.cells[bucket].load(Ordering::Acquire);
            if header >> (8 * slot) & 0xff <= CLAIMED {
                return None;
            }
            let key = self.key(bucket, slot);
            fence(Ordering::Acquire);
            if (self.cells[bucket].load(Ordering::Relaxed) ^ header) & !LOCK == 0 {
                return Some(key);
            }
        }
    }

    /// The first slots to look in for some key near a hash: those of its home and the bucket behind it.
    pub fn near(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let (home, mask) = (hash as usize & self.mask, self.mask);
        (0..2 * SLOTS).map(move |i| ((home + i / SLOTS) & mask) * SLOTS + i % SLOTS)
    }
}

/// One byte of a hash, neither of the two that mean something else.
#[inline]
fn fingerprint(hash: u64) -> u64 {
    2 + (hash >> 56) % 254
}

/// A high bit for each slot with this fingerprint; perhaps more, never fewer.
#[inline]
fn matching(header: u64, fingerprint: u64) -> u64 {
    let differs = (header & FINGERPRINTS) ^ (fingerprint * ONES);
    // Exact, not only where a lower byte was no hit: a claimed slot must not look free.
    !((differs & !HIGHS).wrapping_add(!HIGHS & FINGERPRINTS) | differs) & HIGHS
}

/// The header with another fingerprint in a slot, and the next version.
#[inline]
fn changed(header: u64, slot: usize, fingerprint: u64) -> u64 {
    let fingerprints = header & FINGERPRINTS & !(0xff << (8 * slot)) | fingerprint << (8 * slot);
    let version = (header & !LOCK & !FINGERPRINTS).wrapping_add(VERSION) & !LOCK;
    header & LOCK | version | fingerprints
}
