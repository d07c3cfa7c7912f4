//! Where the fast path finds what it remembers: sets of eight memos, each told by a tag.
//!
//! A packet's hash names its set and a tag. The tags of a set are one load; the memo that a tag leads to has the whole key. A
//! tag is set by the first packet that has it and a memo by the next, so what comes once costs no more than a tag. Where a
//! set is full, what comes later takes the place of what was there: memos are worth what they save, and no more.

use crate::umem::huge::{Reservation, Zeros};
use crate::umem::prefetch::prefetch;
use std::num::NonZeroU32;
use wide::u16x8;
use zerocopy::{FromBytes, FromZeros};

/// Memos of a set.
const PLACES: usize = 8;

/// Tags of the memos of a set. Zero is none.
#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(16))]
struct Tags([u16; PLACES]);

impl Tags {
    /// The first memo with this tag.
    #[inline(always)]
    fn find(&self, tag: u16) -> Option<u32> {
        let same = u16x8::new(self.0).simd_eq(u16x8::splat(tag));
        NonZeroU32::new(same.to_bitmask()).map(NonZeroU32::trailing_zeros)
    }
}

/// Where in a memory the memo of a hash is: its set, and its tag there.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    set: u32,
    tag: u16,
}

impl Spot {
    /// Where nothing is looked for.
    pub const NONE: Spot = Spot { set: 0, tag: 0 };
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

    /// Where the memo of a hash is.
    #[inline(always)]
    pub fn spot(&self, hash: u64) -> Spot {
        let set = ((hash >> 32) * self.tags.len() as u64) >> 32;
        Spot { set: set as u32, tag: hash as u16 | 1 }
    }

    /// The place of the memo that is at this spot; none where it was not [marked](Memory::mark).
    #[inline(always)]
    pub fn find(&self, spot: Spot) -> Option<u32> {
        let found = self.tags[spot.set as usize].find(spot.tag)?;
        Some(spot.set * PLACES as u32 + found)
    }

    /// Makes a place for a memo at this spot.
    pub fn mark(&mut self, spot: Spot) {
        let tags = &mut self.tags[spot.set as usize];
        let at = tags.find(0).unwrap_or(u32::from(spot.tag) / 2);
        tags.0[at as usize % PLACES] = spot.tag;
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

    /// Asks for the tags of a spot.
    #[inline(always)]
    pub fn prefetch_tags(&self, spot: Spot) {
        prefetch(&self.tags[spot.set as usize]);
    }

    /// Asks for a memo.
    #[inline(always)]
    pub fn prefetch(&self, place: u32) {
        prefetch(&self.memos[place as usize]);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.tags.fill(Tags([0; PLACES]));
        self.memos.zero();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_is_found_and_keeps_its_memo() {
        let mut memory: Memory<u64> = Memory::new(64);
        let spots: Vec<Spot> = (0..8u64).map(|n| memory.spot((n << 40) + 2 * n + 1)).collect();
        for (n, spot) in spots.iter().enumerate() {
            assert_eq!(memory.find(*spot).map(|at| *memory.at(at)), None);
            memory.mark(*spot);
            let at = memory.find(*spot).expect("marked");
            memory.set_at(at, n as u64 + 1);
        }
        assert!(spots.iter().filter_map(|spot| memory.find(*spot)).map(|at| *memory.at(at)).eq(1..=8));
        memory.clear();
        assert_eq!(spots.iter().find_map(|spot| memory.find(*spot)), None);
    }

    #[test]
    fn a_full_set_makes_room_for_what_comes_later_and_no_more() {
        let mut memory: Memory<u64> = Memory::new(1);
        let spots: Vec<Spot> = (0..9).map(|n| memory.spot(2 * n + 1)).collect();
        spots.iter().for_each(|spot| memory.mark(*spot));
        assert_eq!((0..9).filter(|n| memory.find(spots[*n]).is_none()).collect::<Vec<_>>(), [0]);
    }
}
