//! One neighbour as shared memory: a cache line of atomics that readers may look at while it changes.
//!
//! Ordering. The identity of an entry (port, family, address) changes only under the table's lock, between two increments
//! of `seq`: a reader that finds the same even `seq` before and after has read one identity, and what it read of `word`
//! belongs to that identity or to the time just after it was taken from it. MAC and state are one word, so that no reader
//! sees the MAC of one state with another. `timer` is written before the `word` that it belongs to (release), and read after
//! it (acquire): a reader may see a newer timer, never an older one. Only the start of a delay, which takes no lock, writes it
//! after the word: a timer that is seen too early there merely begins the probing early.

use super::Learned;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use sumun_config::facts::{Family, PortId};

/// What is known of a neighbour (`NUD_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// No neighbour.
    None = 0,
    /// Asked for, no answer yet.
    Incomplete = 1,
    /// Known, and confirmed not long ago.
    Reachable = 2,
    /// Known, not confirmed lately.
    Stale = 3,
    /// Stale and in use: about to be probed.
    Delay = 4,
    /// Being probed.
    Probe = 5,
    /// Did not answer.
    Failed = 6,
    /// Configured.
    Permanent = 7,
}

impl State {
    const ALL: [State; 8] = [
        State::None,
        State::Incomplete,
        State::Reachable,
        State::Stale,
        State::Delay,
        State::Probe,
        State::Failed,
        State::Permanent,
    ];

    /// Whether a MAC is known (`NUD_VALID`).
    pub const fn is_valid(self) -> bool {
        matches!(self, State::Reachable | State::Stale | State::Delay | State::Probe | State::Permanent)
    }

    /// Whether a timer of a resolver decides what is next.
    pub const fn is_timed(self) -> bool {
        matches!(self, State::Incomplete | State::Delay | State::Probe)
    }

    /// As `ip neigh` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::Incomplete => "INCOMPLETE",
            State::Reachable => "REACHABLE",
            State::Stale => "STALE",
            State::Delay => "DELAY",
            State::Probe => "PROBE",
            State::Failed => "FAILED",
            State::Permanent => "PERMANENT",
        }
    }
}

/// MAC, state, number of probes sent and flags in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(pub u64);

const STATE: u32 = 48;
const DRIVEN: u64 = 1 << 52;
const ROUTER: u64 = 1 << 53;
const PROBES: u32 = 56;
const MAC: u64 = (1 << STATE) - 1;

impl Word {
    pub const NONE: Word = Word(0);

    pub fn state(self) -> State {
        State::ALL[(self.0 >> STATE & 7) as usize]
    }

    pub fn mac(self) -> [u8; 6] {
        let [_, _, mac @ ..] = self.0.to_be_bytes();
        mac
    }

    pub fn probes(self) -> u8 {
        (self.0 >> PROBES) as u8
    }

    /// Whether it is on the list of a resolver, which will look at its timer.
    pub fn is_driven(self) -> bool {
        self.0 & DRIVEN != 0
    }

    pub fn is_router(self) -> bool {
        self.0 & ROUTER != 0
    }

    /// Another state; the probes sent are counted anew.
    pub fn with_state(self, state: State) -> Word {
        Word(self.0 & !(7 << STATE) & !(0xff << PROBES) | (state as u64) << STATE)
    }

    pub fn with_mac(self, mac: [u8; 6]) -> Word {
        let [a, b, c, d, e, f] = mac;
        Word(self.0 & !MAC | u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    pub fn with_probes(self, probes: u8) -> Word {
        Word(self.0 & !(0xff << PROBES) | (probes as u64) << PROBES)
    }

    pub fn with_driven(self, driven: bool) -> Word {
        Word(if driven { self.0 | DRIVEN } else { self.0 & !DRIVEN })
    }

    pub fn with_router(self, router: bool) -> Word {
        Word(if router { self.0 | ROUTER } else { self.0 & !ROUTER })
    }
}

/// Who a neighbour is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Who {
    pub port: PortId,
    pub family: Family,
    pub addr: u128,
}

impl Who {
    pub fn of(learned: &Learned) -> Who {
        Who { port: learned.port, family: learned.family, addr: learned.addr }
    }

    fn owner(&self) -> u64 {
        (self.port.0 as u64) << 8 | self.family as u64
    }

    /// A keyed hash: strangers choose addresses, and shall not choose chains.
    #[inline]
    pub fn hash(&self, seed: u64) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = a as u128 * b as u128;
            product as u64 ^ (product >> 64) as u64
        };
        let low = fold(self.addr as u64 ^ seed, 0xe703_7ed1_a0b4_28db ^ self.owner());
        fold(low ^ (self.addr >> 64) as u64, 0x8ebc_6af0_9c88_c6e3 ^ seed.rotate_left(32))
    }
}

/// A neighbour for as long as its entry is not given to another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NeighId {
    pub(super) index: u32,
    pub(super) seq: u32,
}

/// The end of a chain.
pub(super) const END: u32 = u32::MAX;

/// An entry of the table.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Entry {
    pub seq: AtomicU32,
    pub next: AtomicU32,
    owner: AtomicU64,
    high: AtomicU64,
    low: AtomicU64,
    pub word: AtomicU64,
    /// When `word`'s state ends, in nanoseconds.
    pub timer: AtomicU64,
    /// About when a packet last used it.
    pub used: AtomicU64,
    /// When MAC or state last changed.
    pub updated: AtomicU64,
}

impl Entry {
    pub fn free() -> Entry {
        Entry {
            seq: AtomicU32::new(0),
            next: AtomicU32::new(END),
            owner: AtomicU64::new(0),
            high: AtomicU64::new(0),
            low: AtomicU64::new(0),
            word: AtomicU64::new(Word::NONE.0),
            timer: AtomicU64::new(0),
            used: AtomicU64::new(0),
            updated: AtomicU64::new(0),
        }
    }

    #[inline]
    pub fn load(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// The entry's number and word, where it is of this neighbour.
    #[inline]
    pub fn read_if(&self, who: &Who) -> Option<(u32, Word)> {
        let seq = self.seq.load(Ordering::Acquire);
        if self.owner.load(Ordering::Relaxed) != who.owner()
            || self.low.load(Ordering::Relaxed) != who.addr as u64
            || self.high.load(Ordering::Relaxed) != (who.addr >> 64) as u64
        {
            return None;
        }
        let word = self.load();
        fence(Ordering::Acquire);
        (seq & 1 == 0 && self.seq.load(Ordering::Relaxed) == seq).then_some((seq, word))
    }

    /// Whose the entry is and its word, where it is still in the life that `seq` names.
    pub fn read(&self, seq: u32) -> Option<(Who, Word)> {
        if self.seq.load(Ordering::Acquire) != seq || seq & 1 != 0 {
            return None;
        }
        let owner = self.owner.load(Ordering::Relaxed);
        let (high, low) = (self.high.load(Ordering::Relaxed), self.low.load(Ordering::Relaxed));
        let word = self.load();
        fence(Ordering::Acquire);
        if self.seq.load(Ordering::Relaxed) != seq || word.state() == State::None {
            return None;
        }
        let family = if owner as u8 == Family::V4 as u8 { Family::V4 } else { Family::V6 };
        let addr = (high as u128) << 64 | low as u128;
        Some((Who { port: PortId((owner >> 8) as u16), family, addr }, word))
    }

    /// Gives the entry another identity, or none. Under the table's lock.
    pub fn rename(&self, who: Option<&Who>, word: Word) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.owner.store(who.map_or(0, Who::owner), Ordering::Relaxed);
        self.high.store(who.map_or(0, |who| (who.addr >> 64) as u64), Ordering::Relaxed);
        self.low.store(who.map_or(0, |who| who.addr as u64), Ordering::Relaxed);
        self.word.store(word.0, Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(2), Ordering::Release);
    }

    /// The state at a time: reachability ends by itself.
    pub fn state_at(&self, word: Word, now: u64) -> State {
        match word.state() {
            State::Reachable if now >= self.timer.load(Ordering::Acquire) => State::Stale,
            state => state,
        }
    }
}
