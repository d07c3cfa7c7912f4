//! Flows that are expected: what helpers have read of them (`nf_conntrack_expect.c`).
//!
//! One table for all workers, of a fixed size. It is asked only when a flow begins and anything is expected at all, which is
//! one look at a counter; then at the bucket of the packet's destination, which mostly is empty. Only behind both is the
//! table held, for the length of a short list, and for changes: a lock that is spun for and never slept on, as nobody who
//! holds it waits for anything else.
//!
//! An expectation ends with the first flow that fits it (unless it is permanent), with its master, when its time is over,
//! or when the same one is made again.

use super::helped::Helped;
use super::{Conntrack, Life, NONE, Tuple, Word, left};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};
use std::fmt;
use std::sync::TryLockError;
use sumun_config::facts::{Dir, Family, proto, status};
use sumun_config::helper::Helper;

/// What of a tuple's source counts; all of the destination does (`struct nf_conntrack_tuple_mask`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mask {
    /// Of the address.
    pub src: u128,
    /// Of the port.
    pub sport: u16,
}

impl Mask {
    /// From any port of the address.
    pub const fn any_port(family: Family) -> Mask {
        Mask { src: family.ones(), sport: 0 }
    }

    fn and(self, other: Mask) -> Mask {
        Mask { src: self.src & other.src, sport: self.sport & other.sport }
    }

    /// Whether two tuples are the same as far as the mask says (`nf_ct_tuple_mask_cmp`).
    fn same(self, a: &Tuple, b: &Tuple) -> bool {
        let masked = |t: &Tuple| Tuple { src: t.src & self.src, sport: t.sport & self.sport, ..*t };
        masked(a) == masked(b)
    }
}

/// Properties of an expectation, with the kernel's bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(pub u8);

impl Flags {
    /// Nothing special.
    pub const NONE: Flags = Flags(0);
    /// Stays when a flow fits it.
    pub const PERMANENT: Flags = Flags(1);
    /// No flow fits it yet.
    pub const INACTIVE: Flags = Flags(2);

    /// Whether it has all of these.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How an expected flow is mapped: like its master (`nf_nat_follow_master`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follow {
    /// The direction of the master in which the expected flow's first packet goes.
    pub dir: Dir,
    /// The port that it really is to.
    pub port: u16,
}

/// An expected flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expectation {
    /// Its first packet, as far as `mask` says.
    pub tuple: Tuple,
    pub mask: Mask,
    /// Class of its helper.
    pub class: u8,
    pub flags: Flags,
    pub follow: Option<Follow>,
    /// The helper that the flow gets.
    pub assigned: Option<Helper>,
    /// The helper that expects it.
    pub helper: Helper,
    /// The flow that it belongs to, its line and its state word.
    pub master: u32,
    pub slot: u32,
    pub word: Word,
    /// Millisecond at which it ends.
    pub deadline: u32,
}

/// Why a flow cannot be expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Another flow is expected there (`EBUSY`).
    Clash,
    /// As many are expected as may be (`EMFILE`).
    Full,
    /// The same flow expects it as something else (`EALREADY`).
    Already,
}

/// What became of expectations, for the counters of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tally {
    pub made: u32,
    pub removed: u32,
}

#[derive(Clone, Copy)]
struct Place {
    expectation: Option<Expectation>,
    /// Next in its bucket, or in the list of free places.
    next: u32,
    /// Next older one of the same master.
    older: u32,
}

struct Table {
    places: Box<[Place]>,
    heads: Box<[u32]>,
    /// By line: the newest expectation of its flow.
    masters: Box<[u32]>,
    free: u32,
    /// Lines that no flow has.
    lines: Vec<u32>,
    swept: u32,
}

/// All expectations of a router.
pub(crate) struct Expectations {
    count: AtomicU32,
    /// By bucket, how many it has.
    filled: Box<[AtomicU32]>,
    table: Mutex<Table>,
}

impl Expectations {
    /// Room for `most` expectations and for the lines of `helped` flows.
    pub fn new(most: u32, helped: u32) -> Expectations {
        let buckets = most.next_power_of_two() as usize;
        let place = |i| Place { expectation: None, next: if i + 1 < most { i + 1 } else { NONE }, older: NONE };
        Expectations {
            count: AtomicU32::new(0),
            filled: (0..buckets).map(|_| AtomicU32::new(0)).collect(),
            table: Mutex::new(Table {
                places: (0..most).map(place).collect(),
                heads: vec![NONE; buckets].into(),
                masters: vec![NONE; helped as usize].into(),
                free: if most == 0 { NONE } else { 0 },
                lines: (0..helped).rev().collect(),
                swept: 0,
            }),
        }
    }

    /// Bytes that room for so many takes.
    pub fn memory(most: u32, helped: u32) -> usize {
        let buckets = most.next_power_of_two() as usize;
        most as usize * size_of::<Place>() + buckets * 8 + helped as usize * (size_of::<Helped>() + 8)
    }

    /// Whether nothing is expected.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn hold(&self) -> MutexGuard<'_, Table> {
        let mut spins = 0u32;
        loop {
            match self.table.try_lock() {
                Ok(table) => return table,
                Err(TryLockError::Poisoned(table)) => return table.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    spins = spins.wrapping_add(1);
                    crate::sync::wait(spins);
                }
            }
        }
    }

    fn bucket(&self, shared: &Conntrack, tuple: &Tuple) -> usize {
        let destination = Tuple { src: 0, sport: 0, zone: 0, ..*tuple };
        shared.hash(&destination) as usize & (self.filled.len() - 1)
    }

    /// A line for a flow that gets a helper, if there is one left.
    pub fn take_line(&self) -> Option<u32> {
        self.hold().lines.pop()
    }

    /// A flow with a helper has ended: its expectations end with it, its line is free.
    pub fn give_line(&self, shared: &Conntrack, slot: u32, tally: &mut Tally) {
        let mut table = self.hold();
        self.forget_held(&mut table, shared, slot, tally);
        table.lines.push(slot);
    }

    /// Removes the newest expectation of the flow that has this line (`nf_ct_unexpect_related`).
    pub fn forget_newest(&self, shared: &Conntrack, slot: u32, tally: &mut Tally) {
        let mut table = self.hold();
        let newest = table.masters[slot as usize];
        if newest != NONE {
            self.remove(&mut table, shared, newest, tally);
        }
    }

    fn forget_held(&self, table: &mut Table, shared: &Conntrack, slot: u32, tally: &mut Tally) {
        while table.masters[slot as usize] != NONE {
            let newest = table.masters[slot as usize];
            self.remove(table, shared, newest, tally);
        }
    }

    /// Takes an expectation out of its lists.
    fn remove(&self, table: &mut Table, shared: &Conntrack, place: u32, tally: &mut Tally) {
        let Some(gone) = table.places[place as usize].expectation.take() else { return };
        let bucket = self.bucket(shared, &gone.tuple);
        let Place { next, older, .. } = table.places[place as usize];
        unlink(&mut table.heads[bucket], &mut table.places, place, next, |p| &mut p.next);
        unlink(&mut table.masters[gone.slot as usize], &mut table.places, place, older, |p| &mut p.older);
        table.places[place as usize] = Place { expectation: None, next: table.free, older: NONE };
        table.free = place;
        self.filled[bucket].fetch_sub(1, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        tally.removed += 1;
    }

    /// Expects a flow (`__nf_ct_expect_check`, `nf_ct_expect_insert`). The same one, made again by its master, takes the place
    /// of the older; of more than `most` of a class the oldest goes.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn add(
        &self,
        shared: &Conntrack,
        new: &Expectation,
        most: u32,
        now: u32,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let bucket = self.bucket(shared, &new.tuple);
        let mut table = self.hold();
        let mut at = table.heads[bucket];
        while let Some(Place { expectation: Some(there), next, .. }) = table.places.get(at as usize).copied() {
            if left(there.deadline, now) <= 0 || !is_alive(shared, &there) {
                self.remove(&mut table, shared, at, tally);
            } else if (there.master, there.tuple, there.mask) == (new.master, new.tuple, new.mask) {
                if there.class != new.class {
                    return Err(Refusal::Already);
                }
                self.remove(&mut table, shared, at, tally);
                break;
            } else if there.mask.and(new.mask).same(&there.tuple, &new.tuple) {
                return Err(Refusal::Clash);
            }
            at = next;
        }
        let (of_class, oldest) = table.of_class(new.slot, new.class);
        if most != 0 && of_class >= most && oldest != NONE {
            self.remove(&mut table, shared, oldest, tally);
        }
        if table.free == NONE {
            return Err(Refusal::Full);
        }
        let place = table.free;
        table.free = table.places[place as usize].next;
        let (next, older) = (table.heads[bucket], table.masters[new.slot as usize]);
        table.places[place as usize] = Place { expectation: Some(*new), next, older };
        table.heads[bucket] = place;
        table.masters[new.slot as usize] = place;
        self.filled[bucket].fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        tally.made += 1;
        Ok(())
    }

    /// What a first packet fits (`nf_ct_find_expectation`); it is expected no longer, unless for good. The master is in the
    /// table, and its memory stays as it is until the worker's next quiescent state.
    pub fn find(&self, shared: &Conntrack, tuple: &Tuple, now: u32, tally: &mut Tally) -> Option<Expectation> {
        let bucket = self.bucket(shared, tuple);
        if self.filled[bucket].load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut table = self.hold();
        let mut at = table.heads[bucket];
        while let Some(Place { expectation: Some(there), next, .. }) = table.places.get(at as usize).copied() {
            let fits = !there.flags.has(Flags::INACTIVE) && there.mask.same(&there.tuple, tuple);
            if fits && left(there.deadline, now) > 0 {
                // Of one whose master has not left yet nobody can know.
                let word = shared.entry(there.master).word();
                if word.status() & status::CONFIRMED == 0 || !is_alive(shared, &there) {
                    return None;
                }
                if !there.flags.has(Flags::PERMANENT) {
                    self.remove(&mut table, shared, at, tally);
                }
                return Some(there);
            }
            at = next;
        }
        None
    }

    /// Removes what is over among some of the places; all of them are passed in turn.
    pub fn sweep(&self, shared: &Conntrack, now: u32, tally: &mut Tally) {
        const STEP: u32 = 64;
        let Ok(mut table) = self.table.try_lock() else { return };
        let from = table.swept;
        let end = (from + STEP).min(table.places.len() as u32);
        for place in from..end {
            let over = table.places[place as usize]
                .expectation
                .is_some_and(|there| left(there.deadline, now) <= 0 || !is_alive(shared, &there));
            if over {
                self.remove(&mut table, shared, place, tally);
            }
        }
        table.swept = if end == table.places.len() as u32 { 0 } else { end };
    }

    /// Whether nothing is expected, nothing is linked and all lines are free.
    #[cfg(test)]
    pub fn is_clean(&self, lines: usize) -> bool {
        let table = self.hold();
        self.is_empty()
            && self.filled.iter().all(|n| n.load(Ordering::Relaxed) == 0)
            && table.heads.iter().chain(&table.masters).all(|head| *head == NONE)
            && table.lines.len() == lines
    }
}

impl Table {
    /// How many expectations of a class the flow of a line has, and the oldest.
    fn of_class(&self, slot: u32, class: u8) -> (u32, u32) {
        let (mut count, mut oldest) = (0, NONE);
        let mut at = self.masters[slot as usize];
        while let Some(place) = self.places.get(at as usize) {
            if place.expectation.is_some_and(|there| there.class == class) {
                count += 1;
                oldest = at;
            }
            at = place.older;
        }
        (count, oldest)
    }
}

/// Takes a place out of a list that hangs off `head`; `after` is what follows it.
fn unlink(head: &mut u32, places: &mut [Place], place: u32, after: u32, link: fn(&mut Place) -> &mut u32) {
    if *head == place {
        *head = after;
        return;
    }
    let mut at = *head;
    while let Some(there) = places.get_mut(at as usize) {
        let next = link(there);
        if *next == place {
            *next = after;
            return;
        }
        at = *next;
    }
}

/// Whether the flow that an expectation belongs to is still there: unconfirmed in the hand of its worker, or in the table.
fn is_alive(shared: &Conntrack, there: &Expectation) -> bool {
    let entry = shared.entry(there.master);
    let word = entry.word();
    matches!(word.life(), Life::Live | Life::Unconfirmed)
        && word.status() & status::DYING == 0
        && word.is_same_generation(there.word)
}

/// An expectation as it was at one moment. Prints as `conntrack -L expect` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpectationView {
    /// The first packet of the flow, as far as the mask says.
    pub tuple: Tuple,
    /// What of its source counts.
    pub mask: Mask,
    /// The original tuple of the flow that it belongs to.
    pub master: Tuple,
    /// Its class.
    pub class: u8,
    /// Its properties.
    pub flags: Flags,
    /// The helper that expects it.
    pub helper: Helper,
    /// Milliseconds that it has left.
    pub left: u32,
}

impl fmt::Display for ExpectationView {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let family = self.tuple.family;
        let ends = |f: &mut fmt::Formatter, prefix: &str, src, dst, sport: u16, dport: u16| {
            let [src, dst] = [src, dst].map(|address| family.address(address));
            write!(f, "{prefix}src={src} {prefix}dst={dst} ")?;
            match self.tuple.proto {
                proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP => write!(f, "sport={sport} dport={dport} "),
                _ => Ok(()),
            }
        };
        let (t, m) = (&self.tuple, &self.master);
        write!(f, "{} proto={} ", self.left / 1000, t.proto)?;
        ends(f, "", t.src, t.dst, t.sport, t.dport)?;
        ends(f, "mask-", self.mask.src, family.ones(), self.mask.sport, u16::MAX)?;
        ends(f, "master-", m.src, m.dst, m.sport, m.dport)?;
        if m.zone != 0 {
            write!(f, "zone={} ", m.zone)?;
        }
        if self.flags.has(Flags::PERMANENT) {
            write!(f, "PERMANENT ")?;
        }
        if self.flags.has(Flags::INACTIVE) {
            write!(f, "INACTIVE ")?;
        }
        write!(f, "class={} helper={}", self.class, self.helper.name())
    }
}

impl Conntrack {
    /// The flows that are expected at time `now` (monotonic nanoseconds). For operators: it allocates, and looks at a few
    /// places at a time, so that no worker that has something to expect waits for long.
    pub fn expectations(&self, now: u64) -> Vec<ExpectationView> {
        const PIECE: usize = 64;
        let now = super::millis(now);
        let mut all = Vec::new();
        for from in (0..).step_by(PIECE) {
            // Here, and not while the table is held.
            all.reserve(PIECE);
            let table = self.expectations.hold();
            let Some(places) = table.places.get(from..) else { break };
            let there = places.iter().take(PIECE).filter_map(|place| place.expectation);
            let there = there.filter(|there| left(there.deadline, now) > 0 && is_alive(self, there));
            all.extend(there.map(|there| ExpectationView {
                tuple: there.tuple,
                mask: there.mask,
                master: self.entry(there.master).tuple(Dir::Original),
                class: there.class,
                flags: there.flags,
                helper: there.helper,
                left: left(there.deadline, now) as u32,
            }));
        }
        all
    }
}
