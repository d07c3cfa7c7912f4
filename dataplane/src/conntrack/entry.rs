//! One flow in memory: two cache lines of atomic words, and how they are read and written.
//!
//! What every packet of a flow touches is in the 128 bytes of an [`Entry`]; what TCP and SCTP need beyond that is in the
//! line of the same number in [`super::private`], and what few packets touch is in its [`Cold`] twin, so that the hot
//! array stays dense. All are safe to read at any time by any thread:
//!
//! - Tuples are written only while the entry is unconfirmed, when one worker owns it. They stay as they are until the
//!   entry is reused, and it is reused only after every worker has passed a quiescent state (see `reclaim`).
//! - Status, life and protocol state are one word, so a compare-and-swap changes them together and two workers that
//!   see packets of one flow cannot lose each other's change.
//! - The word carries a generation that changes with every reuse: readers that are no workers (listing) check it before
//!   and after they copy an entry.

use super::seqadj::Shift;
use super::tuple::{Tuple, WORDS};
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use crate::umem::prefetch::prefetch;
use sumun_config::facts::{Dir, status};
use sumun_config::helper::Helper;

/// Where an entry is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Life {
    /// Belongs to nobody.
    Free = 0,
    /// Belongs to the worker that made it, and is not in the index.
    Unconfirmed = 1,
    /// In the index; lookups find it.
    Live = 2,
    /// Being taken out of the index, or waiting for the workers to forget it.
    Dead = 3,
}

/// The state word: status in bits 0-15, life in 16-17, generation in 18-31, protocol state in 32-63.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(pub u64);

const LIFE: u64 = 3 << 16;
const GENERATION: u64 = 0x3fff << 18;

impl Word {
    /// The flow's `IPS_*` bits.
    #[inline]
    pub fn status(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// Where the entry is in its life.
    #[inline]
    pub fn life(self) -> Life {
        match (self.0 & LIFE) >> 16 {
            0 => Life::Free,
            1 => Life::Unconfirmed,
            2 => Life::Live,
            _ => Life::Dead,
        }
    }

    /// What the protocol's tracker keeps.
    #[inline]
    pub fn protocol(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// A number that this use of the entry number `entry` has alone among the entry's uses, and that is unlike those of
    /// other entries.
    pub fn identity(self, entry: u32) -> u32 {
        // An odd factor: other entries of the same generation have other products.
        (entry + 1).wrapping_mul(0x9e37_79b1) ^ (self.0 & GENERATION) as u32
    }

    /// Which use of the entry this is.
    #[inline]
    pub fn generation(self) -> u32 {
        ((self.0 & GENERATION) >> 18) as u32
    }

    /// With these status bits set as well.
    #[inline]
    pub fn with_status(self, bits: u32) -> Word {
        Word(self.0 | u64::from(bits & 0xffff))
    }

    /// With another life.
    #[inline]
    pub fn with_life(self, life: Life) -> Word {
        Word(self.0 & !LIFE | (life as u64) << 16)
    }

    /// With another protocol state.
    #[inline]
    pub fn with_protocol(self, bits: u32) -> Word {
        Word(self.0 & 0xffff_ffff | u64::from(bits) << 32)
    }

    /// Whether both are words of the same use of an entry.
    pub fn is_same_generation(self, other: Word) -> bool {
        (self.0 ^ other.0) & GENERATION == 0
    }

    /// The first word of the next use: a new generation and nothing else.
    fn reused(self) -> Word {
        Word(self.0.wrapping_add(1 << 18) & GENERATION)
    }
}

/// The hot part of a flow. What every packet changes is in the first line; most of what a lookup compares is in the second.
#[derive(Default)]
#[cfg_attr(not(feature = "model"), derive(zerocopy::FromBytes))]
#[repr(C, align(128))]
pub(crate) struct Entry {
    word: AtomicU64,
    /// Millisecond at which the flow expires; while unconfirmed, milliseconds that it will have.
    pub deadline: AtomicU32,
    /// The flow's mark.
    pub mark: AtomicU32,
    original_packets: AtomicU64,
    original_bytes: AtomicU64,
    reply_packets: AtomicU64,
    reply_bytes: AtomicU64,
    original: [AtomicU64; WORDS],
    reply: [AtomicU64; WORDS],
}

/// The part of a flow that few packets touch.
#[derive(Default)]
#[cfg_attr(not(feature = "model"), derive(zerocopy::FromBytes))]
#[repr(C)]
pub(crate) struct Cold {
    /// Next in the list of one NAT source ([`crate::nat`]).
    pub source_next: AtomicU32,
    /// One more than the port whose address MASQUERADE took; zero is none ([`crate::nat`]).
    pub masquerade: AtomicU32,
    /// Labels, by bit.
    pub labels: [AtomicU64; 2],
    /// Events that are not told: of the flow in the lower 12 bits, of its expectations in the upper 4.
    pub silent: AtomicU16,
    /// Its time-out policy ([`sumun_config::timeout::id`]); zero is none.
    pub timeout: AtomicU16,
    /// Number of its helper; zero is none.
    pub helper: AtomicU8,
    /// Number of the helper that expected the flow: its master's; zero is none.
    pub master_helper: AtomicU8,
    /// What changed of the flow and has not been told ([`super::events`]).
    pub changes: AtomicU16,
    /// One more than its line of what helped flows have; zero is none ([`mod@super::helped`]).
    pub helped: AtomicU32,
    /// By how much the numbers of each side have moved ([`super::seqadj`]). Changed with the flow's private line held.
    shifts: [[AtomicU32; 3]; 2],
    /// Tenth of a second at which it entered the table; zero where that is not kept.
    pub start: AtomicU32,
}

impl Cold {
    /// Clears what stands behind [`status::EXTRA`]: the line of an entry without that bit is clear.
    pub fn clear_extra(&self) {
        self.labels.iter().for_each(|label| label.store(0, Ordering::Relaxed));
        self.silent.store(0, Ordering::Relaxed);
        self.timeout.store(0, Ordering::Relaxed);
        self.helper.store(0, Ordering::Relaxed);
        self.master_helper.store(0, Ordering::Relaxed);
        self.helped.store(0, Ordering::Relaxed);
        [Dir::Original, Dir::Reply].iter().for_each(|dir| self.set_shift(*dir, &Shift::default()));
    }

    /// By how much the numbers of a side have moved.
    pub fn shift(&self, dir: Dir) -> Shift {
        let [position, before, after] = std::array::from_fn(|i| self.shifts[dir as usize][i].load(Ordering::Relaxed));
        Shift { position, before, after }
    }

    /// Replaces that.
    pub fn set_shift(&self, dir: Dir, shift: &Shift) {
        let words = [shift.position, shift.before, shift.after];
        for (cell, word) in self.shifts[dir as usize].iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// Takes over what a flow has of another table, where its status says that it has something.
    pub fn become_as(&self, other: &Cold, bits: u32) {
        // The list of its source and the port of MASQUERADE are noted anew, and lines of helped flows are given out again. Who
        // listened to what changed has gone with the other table.
        let Cold {
            source_next: _,
            masquerade: _,
            labels,
            silent,
            helper,
            master_helper,
            timeout,
            changes: _,
            helped: _,
            shifts: _,
            start,
        } = other;
        self.start.store(start.load(Ordering::Relaxed), Ordering::Relaxed);
        if bits & status::EXTRA == 0 {
            return;
        }
        for (own, label) in self.labels.iter().zip(labels) {
            own.store(label.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.silent.store(silent.load(Ordering::Relaxed), Ordering::Relaxed);
        self.helper.store(helper.load(Ordering::Relaxed), Ordering::Relaxed);
        self.master_helper.store(master_helper.load(Ordering::Relaxed), Ordering::Relaxed);
        [Dir::Original, Dir::Reply].iter().for_each(|dir| self.set_shift(*dir, &other.shift(*dir)));
        self.timeout.store(timeout.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether it has the label of this bit.
    pub fn has_label(&self, bit: u8) -> bool {
        let word = &self.labels[usize::from(bit >> 6 & 1)];
        word.load(Ordering::Relaxed) >> (bit & 63) & 1 != 0
    }

    /// Bits of the events of the flow that are told (`enum ip_conntrack_events`).
    pub fn event_mask(&self) -> u16 {
        !self.silent.load(Ordering::Relaxed) & 0x0fff
    }

    /// Bits of the events of its expectations that are told (`enum ip_conntrack_expect_events`).
    pub fn expect_mask(&self) -> u16 {
        !self.silent.load(Ordering::Relaxed) >> 12
    }

    /// Its helper.
    pub fn helper(&self) -> Option<Helper> {
        Helper::from_number(self.helper.load(Ordering::Relaxed))
    }

    /// The helper of the flow that has led to this one.
    pub fn master_helper(&self) -> Option<Helper> {
        Helper::from_number(self.master_helper.load(Ordering::Relaxed))
    }
}

impl Entry {
    /// Asks for the line that every packet changes.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch(&self.word);
    }

    /// Asks for the line that a lookup compares.
    #[inline(always)]
    pub fn prefetch_ends(&self) {
        prefetch(&self.reply);
    }

    /// The state word.
    #[inline]
    pub fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Replaces the state word if it still is `old`; else what it is now.
    #[inline]
    pub fn swap(&self, old: Word, new: Word) -> Result<(), Word> {
        self.word.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire).map(|_| ()).map_err(Word)
    }

    /// Moves to a protocol state and sets status bits, of an entry that is in this life; false where it no longer is.
    #[inline]
    pub fn advance(&self, mut word: Word, protocol: u32, bits: u32) -> bool {
        let life = word.life();
        loop {
            let new = word.with_protocol(protocol).with_status(bits);
            if new == word {
                return true;
            }
            match self.swap(word, new) {
                Ok(()) => return true,
                Err(now) if now.life() == life => word = now,
                Err(_) => return false,
            }
        }
    }

    /// Sets status bits; the word after that.
    #[inline]
    pub fn set_status(&self, bits: u32) -> Word {
        let mut word = self.word();
        loop {
            let new = word.with_status(bits);
            if new == word {
                return word;
            }
            match self.swap(word, new) {
                Ok(()) => return new,
                Err(now) => word = now,
            }
        }
    }

    /// Sets status bits of an unconfirmed entry, whose word nobody but its worker writes: without the read-modify-write, which
    /// waits for all stores before it.
    #[inline]
    pub fn set_own_status(&self, bits: u32) {
        let word = self.word();
        debug_assert_eq!(word.life(), Life::Unconfirmed);
        self.word.store(word.with_status(bits).0, Ordering::Release);
    }

    /// An unconfirmed entry goes live and gets these status bits: until then nobody else writes its word.
    #[inline]
    pub fn enter(&self, bits: u32) {
        let word = self.word();
        debug_assert_eq!(word.life(), Life::Unconfirmed);
        self.word.store(word.with_life(Life::Live).with_status(bits).0, Ordering::Release);
    }

    /// Moves from one life to another and sets status bits; the word before, or none where somebody else was first.
    pub fn turn(&self, from: Life, to: Life, bits: u32) -> Option<Word> {
        let mut word = self.word();
        while word.life() == from {
            match self.swap(word, word.with_life(to).with_status(bits)) {
                Ok(()) => return Some(word),
                Err(now) => word = now,
            }
        }
        None
    }

    #[inline]
    fn words_of(&self, dir: Dir) -> &[AtomicU64; WORDS] {
        match dir {
            Dir::Original => &self.original,
            Dir::Reply => &self.reply,
        }
    }

    /// The words of the tuple of one direction.
    #[inline]
    pub fn words(&self, dir: Dir) -> [u64; WORDS] {
        let words = self.words_of(dir);
        std::array::from_fn(|i| words[i].load(Ordering::Relaxed))
    }

    /// The tuple of one direction.
    #[inline]
    pub fn tuple(&self, dir: Dir) -> Tuple {
        Tuple::from_words(self.words(dir))
    }

    /// The zone of one direction.
    pub fn zone(&self, dir: Dir) -> u16 {
        (self.words_of(dir)[WORDS - 1].load(Ordering::Relaxed) >> 48) as u16
    }

    /// Whether the tuple of one direction has these words. Word by word: a comparison of arrays would store them first, and
    /// loading them again in wider pieces waits for the stores.
    #[inline]
    pub fn is(&self, dir: Dir, words: &[u64; WORDS]) -> bool {
        let cells = self.words_of(dir).iter().zip(words);
        cells.fold(0, |differs, (cell, word)| differs | (cell.load(Ordering::Relaxed) ^ word)) == 0
    }

    /// Replaces the tuple of one direction. Only while the entry is unconfirmed.
    pub fn set_tuple(&self, dir: Dir, tuple: &Tuple) {
        for (cell, word) in self.words_of(dir).iter().zip(tuple.words()) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// Starts a new life as an unconfirmed flow that nothing is known of yet.
    pub fn start(&self, original: &Tuple, reply: &Tuple) {
        let word = self.word().reused().with_life(Life::Unconfirmed);
        self.word.store(word.0, Ordering::Relaxed);
        // Orders the new generation before the new contents: who copies them sees the generation change.
        fence(Ordering::Release);
        self.set_tuple(Dir::Original, original);
        self.set_tuple(Dir::Reply, reply);
        self.deadline.store(0, Ordering::Relaxed);
        self.mark.store(0, Ordering::Relaxed);
        for counter in [&self.original_packets, &self.original_bytes, &self.reply_packets, &self.reply_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Becomes the same flow as another entry, of a table that is no more.
    pub fn become_as(&self, other: &Entry) {
        for dir in [Dir::Original, Dir::Reply] {
            self.set_tuple(dir, &other.tuple(dir));
            let (packets, bytes) = other.counters(dir);
            self.count_shared(dir, packets, bytes);
        }
        self.deadline.store(other.deadline.load(Ordering::Relaxed), Ordering::Relaxed);
        self.mark.store(other.mark.load(Ordering::Relaxed), Ordering::Relaxed);
        self.word.store(other.word().0, Ordering::Release);
    }

    fn counters_of(&self, dir: Dir) -> (&AtomicU64, &AtomicU64) {
        match dir {
            Dir::Original => (&self.original_packets, &self.original_bytes),
            Dir::Reply => (&self.reply_packets, &self.reply_bytes),
        }
    }

    /// Packets and bytes of one direction.
    pub fn counters(&self, dir: Dir) -> (u64, u64) {
        let (packets, bytes) = self.counters_of(dir);
        (packets.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Counts a packet where this worker is the only one: no read-modify-write, which costs several nanoseconds.
    #[inline]
    pub fn count_alone(&self, dir: Dir, bytes: u64) {
        let (p, b) = self.counters_of(dir);
        p.store(p.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        b.store(b.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Counts packets where other workers may count at the same time.
    #[inline]
    pub fn count_shared(&self, dir: Dir, packets: u64, bytes: u64) {
        let (p, b) = self.counters_of(dir);
        p.fetch_add(packets, Ordering::Relaxed);
        b.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Moves the end of the flow's life, without a store where it is there already, or less than `near` milliseconds before.
    #[inline]
    pub fn set_deadline(&self, deadline: u32, near: u32) {
        if deadline.wrapping_sub(self.deadline.load(Ordering::Relaxed)) >= near {
            self.deadline.store(deadline, Ordering::Relaxed);
        }
    }

    /// Whether lookups must take the flow for absent: its time is over, or an operator deleted it.
    #[inline]
    pub fn is_over(&self, word: Word, now: u32) -> bool {
        word.status() & status::DYING != 0 || left(self.deadline.load(Ordering::Relaxed), now) <= 0
    }

    /// Whether this is still the same use of the entry as when `word` was read. To be asked after copying its contents.
    pub fn is_same_use(&self, word: Word) -> bool {
        fence(Ordering::Acquire);
        let now = Word(self.word.load(Ordering::Relaxed));
        now.0 & GENERATION == word.0 & GENERATION && now.life() == word.life()
    }
}

/// Nanoseconds of a tenth of a second.
pub(crate) const TENTH: u64 = 100_000_000;

/// The clock of deadlines: milliseconds that wrap, as the kernel's `nfct_time_stamp` does.
#[inline]
pub(crate) fn millis(now: u64) -> u32 {
    (now / 1_000_000) as u32
}

/// Milliseconds until `deadline`; zero or less once it has passed.
#[inline]
pub(crate) fn left(deadline: u32, now: u32) -> i32 {
    deadline.wrapping_sub(now) as i32
}

/// A time-out in the width of deadlines: at most what the wrapping clock can tell from the past (24 days).
#[inline]
pub(crate) fn clamp(timeout: u64) -> u32 {
    timeout.min(i32::MAX as u64 - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::super::private::Private;
    use super::*;
    use sumun_config::facts::Family;

    #[test]
    fn the_hot_part_is_two_cache_lines() {
        assert_eq!(size_of::<Entry>(), 128);
        assert!(size_of::<Entry>() + size_of::<Private>() + size_of::<Cold>() <= 256);
    }

    #[test]
    fn the_parts_of_the_word_do_not_touch_each_other() {
        let word = Word(0).with_status(0xffff).with_life(Life::Dead).with_protocol(0xdead_beef);
        assert_eq!((word.status(), word.life(), word.protocol()), (0xffff, Life::Dead, 0xdead_beef));
        let word = word.with_life(Life::Live).with_protocol(1);
        assert_eq!((word.status(), word.life(), word.protocol()), (0xffff, Life::Live, 1));
    }

    #[test]
    fn a_reused_entry_is_not_the_same_use() {
        let t = Tuple { src: 1, dst: 2, sport: 3, dport: 4, proto: 17, family: Family::V4, zone: 0 };
        let entry = Entry::default();
        entry.start(&t, &t.inverted().unwrap());
        let word = entry.word();
        assert!(entry.is_same_use(word));
        entry.start(&t, &t);
        assert!(!entry.is_same_use(word));
        assert_eq!(entry.word().life(), Life::Unconfirmed);
    }

    #[test]
    fn only_one_turns_an_entry() {
        let entry = Entry::default();
        assert!(entry.turn(Life::Free, Life::Live, status::CONFIRMED).is_some());
        assert!(entry.turn(Life::Live, Life::Dead, status::DYING).is_some());
        assert!(entry.turn(Life::Live, Life::Dead, 0).is_none());
        assert_eq!(entry.word().status(), status::CONFIRMED | status::DYING);
    }

    #[test]
    fn deadlines_compare_across_the_wrap_of_the_clock() {
        assert_eq!(left(10, u32::MAX - 9), 20);
        assert_eq!(left(u32::MAX - 9, 10), -20);
        assert_eq!(clamp(u64::MAX), i32::MAX as u32 - 1);
    }
}
