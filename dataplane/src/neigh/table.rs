//! The table of neighbours that all workers share.
//!
//! Chains of entries hang off an array of heads, twice as many as entries, so that a hit costs two cache lines. Readers walk
//! without a lock; a walk that a removal leads astray ends after a bounded number of steps and counts as a miss, and a
//! miss is looked up again under the lock before anything is added. A hit of `Resolver::lookup` at random among 256 neighbours
//! took 8-15 ns, among 16,384 10-21 ns (method and machine as in `fib::lpm`, three runs).
//!
//! When it is full. Entries that failed go first, oldest first; then stale ones, the longest unused of a window that moves
//! on through the table. Entries that wait for a first answer may be no more than half of the table, and past that a new one
//! takes the place of the oldest only when that has waited for a second: a scan of a /64 can neither push out neighbours
//! that are in use, nor keep those out that speak to the router, nor make it ask faster than that.

use super::entry::{END, Entry, NeighId, State, Who, Word};
use super::{Learned, Replaces};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{StaticNeighbour, Sysctl};

/// Milliseconds to nanoseconds.
pub(super) const fn ms(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}

/// Steps of a walk without the lock, far more than any chain of a keyed hash has.
const WALK: usize = 64;
/// How long a new entry may at least wait for its answer before a newer one may take its place.
const PATIENCE: u64 = ms(1000);
/// `locktime`: how long the first of several ARP answers stands.
const LOCKTIME: u64 = ms(1000);
/// How long nobody looks for something stale after nothing was found.
const BARREN: u64 = ms(10);

/// All neighbours of the router. One, shared by all workers, for the life of the process.
#[derive(Debug)]
pub struct Neighbours {
    heads: Box<[AtomicU32]>,
    entries: Box<[Entry]>,
    seed: u64,
    changes: AtomicU64,
    writer: Mutex<Writer>,
}

/// What only the holder of the lock may touch.
#[derive(Debug)]
pub(super) struct Writer {
    free: Vec<u32>,
    /// Entries that wait for their first answer, oldest first, with some that no longer do.
    asked: VecDeque<NeighId>,
    /// How many do.
    unanswered: u32,
    /// Entries that failed, oldest first, with some that no longer have.
    failed: VecDeque<NeighId>,
    /// Where the search for something stale goes on, and where the collection of garbage does.
    hand: usize,
    broom: usize,
    barren_until: u64,
}

/// A neighbour as operators see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// On this link.
    pub port: PortId,
    /// Family of the address.
    pub family: Family,
    /// Its address.
    pub addr: u128,
    /// Its MAC, where known.
    pub mac: Option<[u8; 6]>,
    /// What is known of it.
    pub state: State,
    /// It said that it is a router.
    pub router: bool,
}

impl Neighbours {
    /// A table of at most `most` neighbours (at least one). `seed` is random, so that nobody can guess chains.
    pub fn new(most: u32, seed: u64) -> Neighbours {
        let most = most.clamp(1, END / 4) as usize;
        let heads = (2 * most).next_power_of_two();
        Neighbours {
            heads: (0..heads).map(|_| AtomicU32::new(END)).collect(),
            entries: (0..most).map(|_| Entry::free()).collect(),
            seed,
            changes: AtomicU64::new(0),
            writer: Mutex::new(Writer {
                free: (0..most as u32).rev().collect(),
                asked: VecDeque::with_capacity(most),
                unanswered: 0,
                failed: VecDeque::with_capacity(most),
                hand: 0,
                broom: 0,
                barren_until: 0,
            }),
        }
    }

    /// Most neighbours that the table holds.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Rises whenever a neighbour's MAC becomes known, changes or is forgotten: what was remembered of a lookup holds while
    /// this number does.
    pub fn generation(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// All neighbours now.
    pub fn list(&self, now: u64) -> Vec<Listed> {
        let listed = |entry: &Entry| {
            let (who, word) = entry.read(entry.seq.load(Ordering::Acquire))?;
            let mac = word.state().is_valid().then(|| word.mac());
            let Who { port, family, addr } = who;
            Some(Listed { port, family, addr, mac, state: entry.state_at(word, now), router: word.is_router() })
        };
        self.entries.iter().filter_map(listed).collect()
    }

    /// Makes exactly these the configured neighbours; what was configured before and is not among them is forgotten. Says
    /// how many were left out because the table was full of neighbours in use. Not for workers: it waits for the lock.
    pub fn set_static(&self, neighbours: &[StaticNeighbour], now: u64) -> usize {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.load().state() == State::Permanent {
                self.remove(&mut writer, index as u32);
            }
        }
        let mut left_out = 0;
        for neighbour in neighbours {
            let (family, addr) = number(neighbour.address);
            let who = Who { port: neighbour.port, family, addr };
            let permanent = |word: Word| word.with_state(State::Permanent).with_mac(neighbour.mac);
            if let Some((id, _)) = self.find(&who) {
                let entry = self.entry(id);
                let change = |word| Some(permanent(Word(word)).0);
                let old = entry.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
                if old.is_ok_and(|word| Word(word).state() == State::Incomplete) {
                    writer.unanswered -= 1;
                }
                self.changed();
                continue;
            }
            writer.barren_until = 0;
            match self.insert(&mut writer, &who, permanent(Word::NONE), now) {
                Some(_) => self.changed(),
                None => left_out += 1,
            }
        }
        left_out
    }

    /// What somebody else has learned of a neighbour. Not for workers: it waits for the lock.
    pub fn hint(&self, learned: &Learned, now: u64, s: &Sysctl) {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.learn(&mut writer, learned, now, s);
    }

    /// Forgets a neighbour of which nothing certain is known: it is stale, or failed. Not for workers: it waits for the lock.
    pub fn forget_unsure(&self, port: PortId, family: Family, addr: u128, now: u64) {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((id, word)) = self.find(&Who { port, family, addr })
            && matches!(self.entry(id).state_at(word, now), State::Stale | State::Failed)
        {
            self.remove(&mut writer, id.index);
        }
    }

    /// The lock, unless another worker keeps it for long: then whoever asked does without.
    pub(super) fn write(&self) -> Option<MutexGuard<'_, Writer>> {
        // The lock is held for microseconds. Trying beats waiting, which could put the worker to sleep.
        for _ in 0..2000 {
            match self.writer.try_lock() {
                Ok(writer) => return Some(writer),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }

    pub(super) fn entry(&self, id: NeighId) -> &Entry {
        &self.entries[id.index as usize]
    }

    #[inline]
    fn head(&self, who: &Who) -> &AtomicU32 {
        &self.heads[who.hash(self.seed) as usize & (self.heads.len() - 1)]
    }

    /// The neighbour's entry, without a lock. Under the lock a miss is certain, else it may be a removal's doing.
    #[inline]
    pub(super) fn find(&self, who: &Who) -> Option<(NeighId, Word)> {
        let mut index = self.head(who).load(Ordering::Acquire);
        for _ in 0..WALK {
            let entry = self.entries.get(index as usize)?;
            if let Some((seq, word)) = entry.read_if(who) {
                return Some((NeighId { index, seq }, word));
            }
            index = entry.next.load(Ordering::Acquire);
        }
        None
    }

    /// Time for which a confirmation is good: `base_reachable_time` times 0.5 to 1.5 (RFC 4861 section 6.3.2), by the
    /// address instead of by chance.
    fn reachable_time(&self, who: &Who, s: &Sysctl) -> u64 {
        let base = ms(s.neigh_base_reachable_time);
        base / 2 + (base as u128 * (who.hash(self.seed) >> 54) as u128 / 1024) as u64
    }

    /// Begins to ask for a neighbour that is not known or failed. None: the table is full.
    pub(super) fn ask(&self, writer: &mut Writer, who: &Who, now: u64, s: &Sysctl) -> Option<NeighId> {
        let word = Word::NONE.with_state(State::Incomplete).with_probes(1).with_driven(true);
        let timer = now + ms(s.neigh_retrans_time);
        let most = (self.capacity() as u32).div_ceil(2);
        if writer.unanswered >= most {
            self.give_up_oldest(writer, now)?;
        }
        if let Some((id, _)) = self.find(who) {
            let entry = self.entry(id);
            entry.timer.store(timer, Ordering::Relaxed);
            entry.updated.store(now, Ordering::Relaxed);
            entry.word.store(word.0, Ordering::Release);
            writer.note_asked(id);
            return Some(id);
        }
        let id = self.insert(writer, who, word, now)?;
        self.entry(id).timer.store(timer, Ordering::Relaxed);
        writer.note_asked(id);
        Some(id)
    }

    /// Removes the entry that has waited longest for its answer, if it has waited long enough.
    fn give_up_oldest(&self, writer: &mut Writer, now: u64) -> Option<()> {
        while let Some(&id) = writer.asked.front() {
            let waits = self.entry(id).read(id.seq).is_some_and(|(_, word)| word.state() == State::Incomplete);
            let since = self.entry(id).updated.load(Ordering::Relaxed);
            if waits && now.saturating_sub(since) < PATIENCE {
                return None;
            }
            writer.asked.pop_front();
            if waits {
                self.remove(writer, id.index);
                return Some(());
            }
        }
        None
    }

    /// Applies what a message says (`neigh_update`). The identity of a neighbour that is not known comes from the message.
    pub(super) fn learn(&self, writer: &mut Writer, learned: &Learned, now: u64, s: &Sysctl) {
        let who = Who::of(learned);
        let Some((id, _)) = self.find(&who) else {
            if let (true, Some(mac)) = (learned.creates, learned.mac) {
                let state = if learned.confirms { State::Reachable } else { State::Stale };
                let word = Word::NONE.with_state(state).with_mac(mac).with_router(learned.router.unwrap_or(false));
                if let Some(id) = self.insert(writer, &who, word, now) {
                    self.entry(id).timer.store(now + self.reachable_time(&who, s), Ordering::Relaxed);
                    self.changed();
                }
            }
            return;
        };
        let entry = self.entry(id);
        // A lookup may turn reachable or stale into delay meanwhile, without the lock: then judge again.
        loop {
            let word = entry.load();
            let old = entry.state_at(word, now);
            // `ndisc_recv_na` leaves failed entries alone; ARP revives them.
            let is_dead = old == State::Failed && learned.family == Family::V6 && !learned.creates;
            if old == State::Permanent || is_dead {
                return;
            }
            let mut mac = match learned.mac {
                Some(mac) => mac,
                None if old.is_valid() => word.mac(),
                None => return,
            };
            let mut new = if learned.confirms { State::Reachable } else { State::Stale };
            let mut router = learned.router.unwrap_or(word.is_router());
            if old.is_valid() && mac != word.mac() {
                let settled = now.saturating_sub(entry.updated.load(Ordering::Relaxed)) > LOCKTIME;
                match learned.replaces {
                    Replaces::Always => {}
                    Replaces::Settled if settled => {}
                    Replaces::Never if old == State::Reachable => {
                        (mac, new, router) = (word.mac(), State::Stale, word.is_router());
                    }
                    Replaces::Settled | Replaces::Never => return,
                }
            } else if old.is_valid() && new == State::Stale {
                new = old;
            }
            let mut next = word.with_mac(mac).with_router(router);
            if new != word.state() {
                next = next.with_state(new);
            }
            if new == State::Reachable && learned.confirms {
                entry.timer.store(now + self.reachable_time(&who, s), Ordering::Relaxed);
            }
            if entry.word.compare_exchange(word.0, next.0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            if new != old || mac != word.mac() {
                entry.updated.store(now, Ordering::Relaxed);
            }
            if old == State::Incomplete {
                writer.unanswered -= 1;
            }
            if !old.is_valid() || mac != word.mac() {
                self.changed();
            }
            return;
        }
    }

    /// What the end of an entry's timer brings (`neigh_timer_handler`). The lock is held.
    pub(super) fn expire(&self, writer: &mut Writer, id: NeighId, now: u64, s: &Sysctl) -> Expired {
        let entry = self.entry(id);
        let Some((who, word)) = entry.read(id.seq) else { return Expired::Released };
        let (state, probes) = (word.state(), word.probes());
        // Under the lock nothing leaves these three states, and the others are left only for them.
        let (next, expired) = match state {
            State::Incomplete | State::Delay | State::Probe if now < entry.timer.load(Ordering::Acquire) => {
                return Expired::Later;
            }
            State::Incomplete if probes < s.neigh_mcast_solicit => {
                (word.with_probes(probes + 1), Expired::Solicit { who, unicast: None })
            }
            State::Delay if s.neigh_ucast_solicit > 0 => {
                (word.with_state(State::Probe).with_probes(1), Expired::Solicit { who, unicast: Some(word.mac()) })
            }
            State::Probe if probes < s.neigh_ucast_solicit => {
                (word.with_probes(probes + 1), Expired::Solicit { who, unicast: Some(word.mac()) })
            }
            State::Incomplete | State::Delay | State::Probe => {
                (word.with_state(State::Failed).with_driven(false), Expired::Released)
            }
            _ => {
                let next = word.with_driven(false);
                let same = entry.word.compare_exchange(word.0, next.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
                return if same { Expired::Released } else { Expired::Later };
            }
        };
        entry.timer.store(now + ms(s.neigh_retrans_time), Ordering::Relaxed);
        entry.word.store(next.0, Ordering::Release);
        if next.state() == State::Failed {
            entry.updated.store(now, Ordering::Relaxed);
            match state {
                State::Incomplete => writer.unanswered -= 1,
                _ => self.changed(),
            }
            push_bounded(&mut writer.failed, id);
        }
        expired
    }

    /// Forgets what has failed, and what is stale and was not used for `gc_stale_time`, in the next `count` entries.
    pub(super) fn sweep(&self, writer: &mut Writer, count: usize, now: u64, s: &Sysctl) {
        for _ in 0..count.min(self.capacity()) {
            let index = writer.broom;
            writer.broom = (index + 1) % self.capacity();
            let entry = &self.entries[index];
            let unused = now.saturating_sub(entry.used.load(Ordering::Relaxed)) > ms(s.neigh_gc_stale_time);
            let unchanged = now.saturating_sub(entry.updated.load(Ordering::Relaxed)) > ms(s.neigh_gc_stale_time);
            match entry.state_at(entry.load(), now) {
                State::Failed if unchanged => self.remove(writer, index as u32),
                State::Stale if unused && unchanged => self.remove(writer, index as u32),
                _ => {}
            }
        }
    }

    /// Puts a new neighbour into a free entry, or into one that can be spared. The lock is held.
    fn insert(&self, writer: &mut Writer, who: &Who, word: Word, now: u64) -> Option<NeighId> {
        if writer.free.is_empty() {
            self.spare(writer, now)?;
        }
        let index = writer.free.pop()?;
        let entry = &self.entries[index as usize];
        entry.used.store(now, Ordering::Relaxed);
        entry.updated.store(now, Ordering::Relaxed);
        entry.rename(Some(who), word);
        let head = self.head(who);
        entry.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(index, Ordering::Release);
        Some(NeighId { index, seq: entry.seq.load(Ordering::Relaxed) })
    }

    /// Frees the entry that will be missed least: the oldest failed one, else one that has long been stale, else one that
    /// has waited too long for its answer.
    fn spare(&self, writer: &mut Writer, now: u64) -> Option<()> {
        while let Some(id) = writer.failed.pop_front() {
            if self.entry(id).read(id.seq).is_some_and(|(_, word)| word.state() == State::Failed) {
                self.remove(writer, id.index);
                return Some(());
            }
        }
        if now >= writer.barren_until {
            let window = self.capacity().min(256.max(self.capacity() / 16));
            let mut oldest: Option<(u64, usize)> = None;
            for _ in 0..window {
                let index = writer.hand;
                writer.hand = (index + 1) % self.capacity();
                let entry = &self.entries[index];
                if entry.state_at(entry.load(), now) == State::Stale {
                    let used = entry.used.load(Ordering::Relaxed).max(entry.updated.load(Ordering::Relaxed));
                    if oldest.is_none_or(|(least, _)| used < least) {
                        oldest = Some((used, index));
                    }
                }
            }
            if let Some((_, index)) = oldest {
                self.remove(writer, index as u32);
                return Some(());
            }
            writer.barren_until = now + BARREN;
        }
        self.give_up_oldest(writer, now)
    }

    /// Takes an entry out of its chain and frees it. The lock is held.
    fn remove(&self, writer: &mut Writer, index: u32) {
        let entry = &self.entries[index as usize];
        let Some((who, word)) = entry.read(entry.seq.load(Ordering::Relaxed)) else { return };
        let mut link = self.head(&who);
        let mut at = link.load(Ordering::Relaxed);
        while at != index {
            let Some(other) = self.entries.get(at as usize) else { return };
            link = &other.next;
            at = link.load(Ordering::Relaxed);
        }
        link.store(entry.next.load(Ordering::Relaxed), Ordering::Release);
        entry.rename(None, Word::NONE);
        match word.state() {
            State::Incomplete => writer.unanswered -= 1,
            State::Failed => {}
            _ => self.changed(),
        }
        writer.free.push(index);
    }
}

impl Writer {
    fn note_asked(&mut self, id: NeighId) {
        self.unanswered += 1;
        push_bounded(&mut self.asked, id);
    }
}

/// Remembers an entry in a list that never grows; what falls out at the front is merely not the first to be spared.
fn push_bounded(list: &mut VecDeque<NeighId>, id: NeighId) {
    if list.len() == list.capacity() {
        list.pop_front();
    }
    list.push_back(id);
}

/// What became of an entry whose timer was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expired {
    /// Its time has not come.
    Later,
    /// It is to be asked, all or it alone.
    Solicit { who: Who, unicast: Option<[u8; 6]> },
    /// It has no timer any more.
    Released,
}
