//! Who owns free entries, and when a removed one may be used again.
//!
//! Memory is fixed: all entries are made at start and lie in the [`Depot`] in batches, a lock-free stack of chains. Each
//! worker has a [`Store`]: a chain of free entries, the credit to use them (so that no more than the configured number of
//! flows exist), and bags of entries that it removed.
//!
//! A worker may hold the number of a flow, or be in the middle of comparing its tuple, until its burst ends. So a removed
//! entry waits until every worker has passed a quiescent state. Workers publish the global epoch that they saw at their
//! last quiescent state; the epoch moves on when all that are online have seen it. A bag is sealed at a quiescent state with
//! the epoch G read there, and is opened at G + 3. Why three: the step to G + 2 needs this worker's own announcement of
//! G + 1, which it makes after the seal, so whoever sees G + 2 sees the removals; the step to G + 3 needs every worker to
//! have announced G + 2, so every worker has ended a burst since it could last find the entries. A sleeping worker is
//! offline and holds up nobody.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

/// No entry.
pub(crate) const NONE: u32 = u32::MAX;

const OFFLINE: u64 = u64::MAX;

#[derive(Default)]
#[repr(align(64))]
struct Line<T>(T);

/// Links of free entries: to the next of the chain, and at a chain's head to the next chain and the chain's length.
#[derive(Default)]
struct Links {
    next: AtomicU32,
    next_chain: AtomicU32,
    length: AtomicU32,
}

/// What the workers share: free chains, room for flows, epochs.
pub(crate) struct Depot {
    links: Box<[Links]>,
    /// Head of the stack of chains, with a count above it so that a pop cannot mistake a head for an older one.
    stack: Line<AtomicU64>,
    /// Flows that may still be made, not counting the credit of workers.
    room: Line<AtomicI64>,
    /// One more than the highest entry that ever left the depot: nothing above it needs to be swept or listed.
    used: AtomicU32,
    epoch: Line<AtomicU64>,
    seen: Box<[Line<AtomicU64>]>,
    /// What ended workers had removed and nobody has taken over yet. Touched only where workers start and end.
    orphans: Mutex<Chain>,
    batch: u32,
}

/// A chain of entries.
#[derive(Clone, Copy)]
struct Chain {
    head: u32,
    tail: u32,
    length: u32,
}

impl Chain {
    const EMPTY: Chain = Chain { head: NONE, tail: NONE, length: 0 };

    fn push(&mut self, depot: &Depot, id: u32) {
        depot.links[id as usize].next.store(self.head, Ordering::Relaxed);
        if self.head == NONE {
            self.tail = id;
        }
        self.head = id;
        self.length += 1;
    }

    fn pop(&mut self, depot: &Depot) -> Option<u32> {
        if self.head == NONE {
            return None;
        }
        let id = self.head;
        self.head = depot.links[id as usize].next.load(Ordering::Relaxed);
        self.length -= 1;
        if self.head == NONE {
            self.tail = NONE;
        }
        Some(id)
    }

    /// Puts all of another chain in front.
    fn prepend(&mut self, depot: &Depot, other: Chain) {
        if other.head == NONE {
            return;
        }
        depot.links[other.tail as usize].next.store(self.head, Ordering::Relaxed);
        if self.head == NONE {
            self.tail = other.tail;
        }
        self.head = other.head;
        self.length += other.length;
    }

    /// Cuts `n` entries (at least one, fewer than all) off the front.
    fn split(&mut self, depot: &Depot, n: u32) -> Chain {
        let head = self.head;
        let mut tail = head;
        for _ in 1..n {
            tail = depot.links[tail as usize].next.load(Ordering::Relaxed);
        }
        self.head = depot.links[tail as usize].next.swap(NONE, Ordering::Relaxed);
        self.length -= n;
        Chain { head, tail, length: n }
    }
}

impl Depot {
    /// Entries 0 to `entries` - 1, of which at most `flows` are in use at a time. The first `taken` are in use, the others free.
    pub fn new(entries: u32, flows: u32, workers: usize, taken: u32) -> Depot {
        let batch = (flows / (workers as u32 * 8)).clamp(1, 32);
        let links: Box<[Links]> = (0..entries).map(|_| Links::default()).collect();
        let depot = Depot {
            links,
            stack: Line(AtomicU64::new(u64::from(NONE))),
            room: Line(AtomicI64::new(i64::from(flows) - i64::from(taken))),
            used: AtomicU32::new(taken),
            epoch: Line(AtomicU64::new(0)),
            seen: (0..workers).map(|_| Line(AtomicU64::new(OFFLINE))).collect(),
            orphans: Mutex::new(Chain::EMPTY),
            batch,
        };
        let mut end = entries;
        while end > taken {
            let start = end.saturating_sub(batch).max(taken);
            let mut chain = Chain::EMPTY;
            for id in (start..end).rev() {
                chain.push(&depot, id);
            }
            depot.give(chain);
            end = start;
        }
        depot
    }

    /// Bytes that a depot of so many entries takes.
    pub fn memory(entries: usize, workers: usize) -> usize {
        entries * size_of::<Links>() + workers * size_of::<Line<AtomicU64>>()
    }

    /// How many workers there may be.
    pub fn workers(&self) -> usize {
        self.seen.len()
    }

    /// One more than the highest entry that was ever used.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    fn give(&self, chain: Chain) {
        let links = &self.links[chain.head as usize];
        links.length.store(chain.length, Ordering::Relaxed);
        let mut old = self.stack.0.load(Ordering::Relaxed);
        loop {
            links.next_chain.store(old as u32, Ordering::Relaxed);
            let new = (old >> 32).wrapping_add(1) << 32 | u64::from(chain.head);
            match self.stack.0.compare_exchange_weak(old, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    fn take(&self) -> Chain {
        let mut old = self.stack.0.load(Ordering::Acquire);
        loop {
            let head = old as u32;
            if head == NONE {
                return Chain::EMPTY;
            }
            // May be read while another worker takes the chain and changes it: then the count has changed and so fails the swap.
            let next = self.links[head as usize].next_chain.load(Ordering::Relaxed);
            let new = (old >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.stack.0.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let length = self.links[head as usize].length.load(Ordering::Relaxed);
                    // The tail of a chain out of the depot is never needed: it goes into an empty store.
                    return self.whole(head, length);
                }
                Err(now) => old = now,
            }
        }
    }

    /// The entry behind a free one in its chain.
    #[inline]
    pub fn behind(&self, id: u32) -> Option<u32> {
        Some(self.links[id as usize].next.load(Ordering::Relaxed)).filter(|id| *id != NONE)
    }

    fn whole(&self, head: u32, length: u32) -> Chain {
        let (mut tail, mut highest) = (head, head);
        for _ in 1..length {
            tail = self.links[tail as usize].next.load(Ordering::Relaxed);
            highest = highest.max(tail);
        }
        self.used.fetch_max(highest + 1, Ordering::Relaxed);
        Chain { head, tail, length }
    }

    /// The entries of all chains in it, and room for how many flows it has.
    #[cfg(all(test, feature = "model"))]
    pub fn inventory(&self) -> (Vec<u32>, i64) {
        let mut ids = Vec::new();
        let mut head = self.stack.0.load(Ordering::Relaxed) as u32;
        while head != NONE {
            let links = &self.links[head as usize];
            ids.extend(self.ids(Chain { head, tail: NONE, length: links.length.load(Ordering::Relaxed) }));
            head = links.next_chain.load(Ordering::Relaxed);
        }
        ids.extend(self.ids(*self.orphans.lock().unwrap_or_else(|e| e.into_inner())));
        (ids, self.room.0.load(Ordering::Relaxed))
    }

    #[cfg(all(test, feature = "model"))]
    fn ids(&self, chain: Chain) -> Vec<u32> {
        let next = |id: &u32| Some(self.links[*id as usize].next.load(Ordering::Relaxed));
        std::iter::successors((chain.length > 0).then_some(chain.head), next).take(chain.length as usize).collect()
    }

    /// Takes room for up to a batch of flows; what it got.
    fn take_room(&self) -> u32 {
        let mut room = self.room.0.load(Ordering::Relaxed);
        loop {
            let n = room.clamp(0, i64::from(self.batch));
            if n == 0 {
                return 0;
            }
            match self.room.0.compare_exchange_weak(room, room - n, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return n as u32,
                Err(now) => room = now,
            }
        }
    }

    /// Moves the epoch on if every worker that is online has seen it.
    fn advance(&self, epoch: u64) {
        fence(Ordering::SeqCst);
        let all = self.seen.iter().all(|seen| {
            let seen = seen.0.load(Ordering::Acquire);
            seen == epoch || seen == OFFLINE
        });
        if all {
            let _ = self.epoch.0.compare_exchange(epoch, epoch + 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Copy)]
struct Bag {
    sealed: u64,
    chain: Chain,
}

/// A worker's free entries, credit, and removed entries that wait.
pub(crate) struct Store {
    worker: usize,
    free: Chain,
    credit: u32,
    open: Chain,
    bags: [Bag; 4],
    waiting: u32,
}

impl Store {
    /// The store of a worker, online from now on.
    pub fn new(depot: &Depot, worker: usize) -> Store {
        let mut orphans = depot.orphans.lock().unwrap_or_else(|e| e.into_inner());
        let open = std::mem::replace(&mut *orphans, Chain::EMPTY);
        let store = Store {
            worker,
            free: Chain::EMPTY,
            credit: 0,
            open,
            bags: [Bag { sealed: 0, chain: Chain::EMPTY }; 4],
            waiting: open.length,
        };
        store.online(depot);
        store
    }

    /// A free entry; none where the table has as many flows as it may.
    pub fn take(&mut self, depot: &Depot) -> Option<u32> {
        if self.credit == 0 {
            self.credit = depot.take_room();
        }
        if self.free.head == NONE {
            self.free = depot.take();
        }
        if self.credit == 0 {
            return None;
        }
        let id = self.free.pop(depot)?;
        self.credit -= 1;
        Some(id)
    }

    /// The free entry that [`Store::take`] will give next, where it has one at hand.
    #[inline]
    pub fn next(&self) -> Option<u32> {
        Some(self.free.head).filter(|id| *id != NONE)
    }

    /// Takes back an entry that no other worker has ever seen.
    pub fn put_back(&mut self, depot: &Depot, id: u32) {
        self.free.push(depot, id);
        self.add_credit(depot);
        self.spill(depot);
    }

    /// Takes a removed entry, for use when all workers have forgotten it.
    pub fn retire(&mut self, depot: &Depot, id: u32) {
        self.open.push(depot, id);
        self.waiting += 1;
        self.add_credit(depot);
    }

    fn add_credit(&mut self, depot: &Depot) {
        self.credit += 1;
        if self.credit > 2 * depot.batch {
            self.credit -= depot.batch;
            depot.room.0.fetch_add(i64::from(depot.batch), Ordering::Relaxed);
        }
    }

    fn spill(&mut self, depot: &Depot) {
        while self.free.length > 2 * depot.batch {
            let chain = self.free.split(depot, depot.batch);
            depot.give(chain);
        }
    }

    /// This worker holds no flow: announces the epoch, opens the bags that are due.
    #[inline]
    pub fn quiescent(&mut self, depot: &Depot) {
        let epoch = depot.epoch.0.load(Ordering::Acquire);
        let seen = &depot.seen[self.worker].0;
        if seen.load(Ordering::Relaxed) != epoch {
            seen.store(epoch, Ordering::Release);
        }
        if self.waiting != 0 {
            self.turn_bags(depot, epoch);
        }
    }

    fn turn_bags(&mut self, depot: &Depot, epoch: u64) {
        for bag in &mut self.bags {
            if bag.chain.head != NONE && epoch >= bag.sealed + 3 {
                self.waiting -= bag.chain.length;
                self.free.prepend(depot, std::mem::replace(&mut bag.chain, Chain::EMPTY));
            }
        }
        self.spill(depot);
        if self.open.head != NONE {
            // Stamps of bags that wait are epoch, epoch - 1 or epoch - 2, so one of four is free or has this stamp.
            let bag = &mut self.bags[(epoch % 4) as usize];
            bag.sealed = epoch;
            bag.chain.prepend(depot, std::mem::replace(&mut self.open, Chain::EMPTY));
        }
        depot.advance(epoch);
    }

    /// Before sleeping: others need not wait for this worker. It must hold no flow.
    pub fn offline(&self, depot: &Depot) {
        depot.seen[self.worker].0.store(OFFLINE, Ordering::Release);
    }

    /// After sleeping, before anything is looked up.
    pub fn online(&self, depot: &Depot) {
        let seen = &depot.seen[self.worker].0;
        loop {
            let epoch = depot.epoch.0.load(Ordering::SeqCst);
            seen.store(epoch, Ordering::SeqCst);
            // Orders the announcement before every lookup that follows: whoever moves the epoch on either sees the
            // announcement, or its removals are seen by the lookups.
            fence(Ordering::SeqCst);
            if depot.epoch.0.load(Ordering::SeqCst) == epoch {
                return;
            }
        }
    }

    /// The entries that are free or wait here, and the credit.
    #[cfg(all(test, feature = "model"))]
    pub fn inventory(&self, depot: &Depot) -> (Vec<u32>, u32) {
        let chains = self.bags.iter().map(|bag| bag.chain).chain([self.free, self.open]);
        (chains.flat_map(|chain| depot.ids(chain)).collect(), self.credit)
    }

    /// Gives everything back; the worker ends. What still waits is left to the next worker that starts.
    pub fn close(&mut self, depot: &Depot) {
        depot.room.0.fetch_add(i64::from(self.credit), Ordering::Relaxed);
        self.credit = 0;
        if self.free.head != NONE {
            depot.give(std::mem::replace(&mut self.free, Chain::EMPTY));
        }
        let mut orphans = depot.orphans.lock().unwrap_or_else(|e| e.into_inner());
        orphans.prepend(depot, std::mem::replace(&mut self.open, Chain::EMPTY));
        for bag in &mut self.bags {
            orphans.prepend(depot, std::mem::replace(&mut bag.chain, Chain::EMPTY));
        }
        self.waiting = 0;
        self.offline(depot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_flows_than_allowed_though_more_entries_exist() {
        let depot = Depot::new(20, 10, 1, 0);
        let mut store = Store::new(&depot, 0);
        let taken: Vec<u32> = std::iter::from_fn(|| store.take(&depot)).collect();
        assert_eq!(taken.len(), 10);
        store.put_back(&depot, taken[3]);
        assert_eq!(store.take(&depot), Some(taken[3]));
        assert_eq!(store.take(&depot), None);
        assert!(depot.used() >= 10);
    }

    #[test]
    fn a_retired_entry_frees_room_at_once_and_itself_after_the_grace() {
        let depot = Depot::new(11, 10, 1, 0);
        let mut store = Store::new(&depot, 0);
        let taken: Vec<u32> = std::iter::from_fn(|| store.take(&depot)).collect();
        store.retire(&depot, taken[0]);
        let spare = store.take(&depot).expect("the spare entry");
        assert!(!taken.contains(&spare));
        store.retire(&depot, taken[1]);
        assert_eq!(store.take(&depot), None, "room, but every entry is in use or waits");
        for _ in 0..5 {
            store.quiescent(&depot);
        }
        assert!(store.take(&depot).is_some());
    }

    #[test]
    fn a_worker_in_its_burst_holds_entries_up_and_an_offline_one_does_not() {
        let depot = Depot::new(16, 16, 2, 0);
        let mut a = Store::new(&depot, 0);
        let mut b = Store::new(&depot, 1);
        let id = a.take(&depot).unwrap();
        a.retire(&depot, id);
        for _ in 0..10 {
            a.quiescent(&depot);
        }
        assert_eq!(a.waiting, 1, "b has not been quiescent since");
        for _ in 0..4 {
            b.quiescent(&depot);
            a.quiescent(&depot);
        }
        assert_eq!(a.waiting, 0);
        let id = a.take(&depot).unwrap();
        a.retire(&depot, id);
        b.offline(&depot);
        for _ in 0..5 {
            a.quiescent(&depot);
        }
        assert_eq!(a.waiting, 0);
    }

    #[test]
    fn a_closed_store_loses_nothing() {
        let depot = Depot::new(64, 64, 1, 0);
        for _ in 0..3 {
            let mut store = Store::new(&depot, 0);
            for _ in 0..5 {
                store.quiescent(&depot);
            }
            let taken: Vec<u32> = std::iter::from_fn(|| store.take(&depot)).collect();
            assert_eq!(taken.len(), 64);
            for id in taken {
                store.retire(&depot, id);
            }
            store.close(&depot);
        }
    }
}
