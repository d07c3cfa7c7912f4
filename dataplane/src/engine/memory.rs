//! Where the fast path finds what it remembers: sets of eight memos, each told by a tag.
//!
//! A packet's hash names its set and a tag. The tags of a set are one load; the memo that a tag leads to has the whole key. A
//! tag is set by the first packet that has it and a memo by the next, so what comes once costs no more than a tag. Where a
//! set is full, what comes later takes the place of what was there: memos are worth what they save, and no more.

use crate::umem::huge::{Reservation, Zeros};
use crate::umem::prefetch::prefetch;
use zerocopy::{FromBytes, FromZeros};

/// Memos of a set.
const PLACES: usize = 8;
/// Tags in a word.
const LANES: u32 = 4;
/// One in each lane.
const ONES: u64 = 0x0001_0001_0001_0001;

/// Tags of the memos of a set, 16 bits each, the first one lowest. Zero is none.
type Tags = [u64; 2];

/// The lowest 16 bits in a row that are zero; [`LANES`] where there are none.
#[inline(always)]
fn zero_lane(word: u64) -> u32 {
    // A lane's highest bit is set where taking one off borrows: at the first zero, and only then possibly above it.
    (word.wrapping_sub(ONES) & !word & ONES << 15).trailing_zeros() / u16::BITS
}

/// Memos of one kind, by the hash of their keys.
pub(super) struct Memory<M> {
    tags: Zeros<Tags>,
    memos: Zeros<M>,
}

impl<M: FromBytes + Copy> Memory<M> {
    /// Room for about so many. Pages that were never used cost nothing.
    ///
    /// # Panics
    /// There is no memory for it.
    pub fn new(memos: usize) -> Memory<M> {
        let sets = memos.div_ceil(PLACES).clamp(1, u32::MAX as usize / PLACES);
        let memory = "memory for the fast path";
        Memory { tags: Zeros::new(sets).expect(memory), memos: Zeros::new(sets * PLACES).expect(memory) }
    }

    /// What is to be done for its pages to be there before they are touched.
    pub fn reserve(&self) -> impl Iterator<Item = Reservation> {
        self.tags.reserve().into_iter().chain(self.memos.reserve())
    }

    /// Bytes that so many take once all are in use.
    pub const fn bytes(memos: usize) -> usize {
        memos.div_ceil(PLACES) * (PLACES * size_of::<M>() + size_of::<Tags>())
    }

    #[inline(always)]
    fn set(&self, hash: u64) -> usize {
        (((hash >> 32) * self.tags.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn tag(hash: u64) -> u16 {
        hash as u16 | 1
    }

    /// The place of the memo that this hash leads to; none where it was not [marked](Memory::mark).
    #[inline(always)]
    pub fn find(&self, hash: u64) -> Option<u32> {
        let set = self.set(hash);
        let [low, high] = self.tags[set];
        let wanted = u64::from(Self::tag(hash)) * ONES;
        let found = match zero_lane(low ^ wanted) {
            LANES => LANES + zero_lane(high ^ wanted),
            found => found,
        };
        (found < PLACES as u32).then_some((set * PLACES) as u32 + found)
    }

    /// Makes a place for a memo under this hash.
    pub fn mark(&mut self, hash: u64) {
        let set = self.set(hash);
        let free = match self.tags[set].map(zero_lane) {
            [LANES, LANES] => (hash >> 16) as u32 % PLACES as u32,
            [LANES, high] => LANES + high,
            [low, _] => low,
        };
        let tag = u64::from(Self::tag(hash)) << (free % LANES * u16::BITS);
        let word = &mut self.tags[set][(free / LANES) as usize];
        *word = *word & !(u64::from(u16::MAX) << (free % LANES * u16::BITS)) | tag;
    }

    /// The memo at a place.
    #[inline(always)]
    pub fn at(&self, place: u32) -> &M {
        &self.memos[place as usize]
    }

    /// Replaces the memo at a place.
    pub fn set_at(&mut self, place: u32, memo: M) {
        self.memos[place as usize] = memo;
    }

    /// Asks for the tags that a hash leads to.
    #[inline(always)]
    pub fn prefetch_tags(&self, hash: u64) {
        prefetch(&self.tags[self.set(hash)]);
    }

    /// Asks for a memo.
    #[inline(always)]
    pub fn prefetch(&self, place: u32) {
        prefetch(&self.memos[place as usize]);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.tags.fill([0; 2]);
        self.memos.zero();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_is_found_and_keeps_its_memo() {
        let mut memory: Memory<u64> = Memory::new(64);
        for n in 0..8u64 {
            let hash = (n << 40) + 2 * n + 1;
            assert_eq!(memory.find(hash).map(|at| *memory.at(at)), None);
            memory.mark(hash);
            let at = memory.find(hash).expect("marked");
            memory.set_at(at, n + 1);
        }
        memory.clear();
        assert_eq!((0..8u64).find_map(|n| memory.find((n << 40) + 2 * n + 1)), None);
    }

    #[test]
    fn a_full_set_makes_room_for_what_comes_later_and_no_more() {
        let mut memory: Memory<u64> = Memory::new(1);
        let hash = |n: u64| (n << 16) + 2 * n + 1;
        for n in 0..9 {
            memory.mark(hash(n));
        }
        assert_eq!((0..9).filter(|n| memory.find(hash(*n)).is_none()).collect::<Vec<_>>(), [0]);
    }
}
