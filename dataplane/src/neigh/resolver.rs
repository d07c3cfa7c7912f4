//! A worker's side of neighbour resolution: looks up, holds packets, and drives the timers of what it started.
//!
//! An entry in a timed state is on the list of exactly one resolver, marked so in its word: whoever brings it into such a
//! state puts it on the own list, unless it is on one already. Other workers see the outcome in the table. Nothing here
//! allocates after the start; the lock of the table is taken only on misses, for messages, and for timers that are due.

use super::Learned;
use super::entry::{NeighId, State, Who, Word};
use super::held::Held;
use super::table::{Expired, Neighbours, ms};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sumun_config::facts::{Family, PortId};
use sumun_config::model::Sysctl;

/// What a lookup finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Send to this MAC.
    Mac([u8; 6]),
    /// It is being asked: [`Resolver::hold`] the packet.
    Wait(NeighId),
    /// It cannot be asked.
    Failed,
    /// No room for another neighbour.
    Full,
}

/// What [`Resolver::poll`] wants done.
#[derive(Debug)]
pub enum Event<T> {
    /// Send an ARP request or a neighbour solicitation.
    Solicit {
        /// On this link.
        port: PortId,
        /// ARP or NDP.
        family: Family,
        /// For this address.
        target: u128,
        /// To this MAC alone; none: to all who may have the address.
        unicast: Option<[u8; 6]>,
    },
    /// A held packet can go.
    Ready {
        /// The packet.
        packet: T,
        /// Its next hop.
        mac: [u8; 6],
    },
    /// A held packet cannot go: host unreachable.
    Failed {
        /// The packet.
        packet: T,
    },
}

/// Packets held by one worker when it does not say otherwise.
const HELD: usize = 1024;
/// New questions between two polls.
const FRESH: usize = 1024;
/// Timers looked at in one poll.
const SLICE: usize = 256;
/// Time between two looks at timers or at what others resolved and did not announce.
const TICK: u64 = ms(10);
/// Time between two slices of garbage collection.
const GC: u64 = ms(100);
/// How exactly the time of last use is kept: writing it for each packet would make workers fight over the cache line.
const USED: u64 = ms(1000);

/// A worker's resolver. `T` is a held packet.
#[derive(Debug)]
pub struct Resolver<T> {
    table: Arc<Neighbours>,
    /// Questions to send at the next poll.
    fresh: Vec<NeighId>,
    /// Entries whose timers this resolver drives.
    driven: Vec<NeighId>,
    cursor: usize,
    /// When to look at timers next, and the earliest timer that the round so far has seen.
    next_look: u64,
    earliest: u64,
    held: Held<T>,
    next_wait: u64,
    seen: u64,
    next_gc: u64,
    /// What a slice of timers wants sent, until the lock is released.
    solicit: Vec<(Who, Option<[u8; 6]>)>,
    done: Vec<NeighId>,
}

impl<T> Resolver<T> {
    /// The resolver of a worker. Workers are numbered from 0; the number spreads their housekeeping over time.
    pub fn new(table: Arc<Neighbours>, worker: usize) -> Resolver<T> {
        Resolver::with_held(table, worker, HELD)
    }

    /// The same, holding at most so many packets in total.
    pub fn with_held(table: Arc<Neighbours>, worker: usize, most: usize) -> Resolver<T> {
        let capacity = table.capacity();
        Resolver {
            fresh: Vec::with_capacity(FRESH.min(capacity)),
            driven: Vec::with_capacity(capacity),
            cursor: 0,
            next_look: u64::MAX,
            earliest: u64::MAX,
            held: Held::new(most),
            next_wait: 0,
            seen: table.generation(),
            next_gc: GC / 16 * (worker as u64 % 16),
            solicit: Vec::with_capacity(SLICE),
            done: Vec::with_capacity(most),
            table,
        }
    }

    /// The table that all workers share.
    pub fn table(&self) -> &Arc<Neighbours> {
        &self.table
    }

    /// Packets held now.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The MAC of a next hop. A hit reads two cache lines and takes no lock; using a stale entry starts its probing
    /// (`neigh_event_send`), a miss starts the asking.
    #[inline]
    pub fn lookup(&mut self, port: PortId, family: Family, addr: u128, now: u64, s: &Sysctl) -> Hop {
        let who = Who { port, family, addr };
        if let Some((id, word)) = self.table.find(&who) {
            let entry = self.table.entry(id);
            match entry.state_at(word, now) {
                State::Permanent => return Hop::Mac(word.mac()),
                State::Reachable | State::Delay | State::Probe => {
                    if now.saturating_sub(entry.used.load(Ordering::Relaxed)) > USED {
                        entry.used.store(now, Ordering::Relaxed);
                    }
                    return Hop::Mac(word.mac());
                }
                State::Stale => {
                    self.suspect(id, word, now, s);
                    return Hop::Mac(word.mac());
                }
                State::Incomplete => return Hop::Wait(id),
                State::Failed | State::None => {}
            }
        }
        self.ask(&who, now, s)
    }

    /// A stale entry is used: it is to be probed unless somebody confirms it soon.
    #[cold]
    fn suspect(&mut self, id: NeighId, word: Word, now: u64, s: &Sysctl) {
        let has_room = self.driven.len() + self.fresh.len() < self.driven.capacity();
        if !word.is_driven() && !has_room {
            return;
        }
        let entry = self.table.entry(id);
        let timer = now + ms(s.neigh_delay_first_probe_time);
        entry.used.store(now, Ordering::Relaxed);
        let next = word.with_state(State::Delay).with_driven(true);
        if entry.word.compare_exchange(word.0, next.0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        entry.timer.store(timer, Ordering::Release);
        if !word.is_driven() {
            // Between reading and writing the entry may have become another neighbour's with the very same word: then it
            // is that one that is probed, and it is that one's life that the list must name.
            let id = NeighId { seq: entry.seq.load(Ordering::Acquire), ..id };
            self.driven.push(id);
            self.next_look = self.next_look.min(timer);
        }
    }

    #[cold]
    fn ask(&mut self, who: &Who, now: u64, s: &Sysctl) -> Hop {
        if s.neigh_mcast_solicit == 0 {
            return Hop::Failed;
        }
        let table = self.table.clone();
        let Some(mut writer) = table.write() else { return Hop::Full };
        if let Some((id, word)) = table.find(who) {
            match word.state() {
                State::Incomplete => return Hop::Wait(id),
                state if state.is_valid() => return Hop::Mac(word.mac()),
                _ => {}
            }
        }
        let has_room = self.driven.len() + self.fresh.len() < self.driven.capacity();
        if !has_room || self.fresh.len() == self.fresh.capacity() {
            return Hop::Full;
        }
        match table.ask(&mut writer, who, now, s) {
            Some(id) => {
                self.fresh.push(id);
                Hop::Wait(id)
            }
            None => Hop::Full,
        }
    }

    /// Holds a packet until its neighbour answers or fails. What has to be dropped for it comes back: the neighbour's oldest
    /// where it has `unres_qlen`, the oldest of all where the worker holds no more.
    pub fn hold(&mut self, id: NeighId, packet: T, s: &Sysctl) -> Result<(), T> {
        match self.held.push(id, packet, s.neigh_unres_qlen as u32) {
            None => Ok(()),
            Some(dropped) => Err(dropped),
        }
    }

    /// The newest packet of this worker that waits for an address, if one does: who asks for it may speak with its source.
    pub fn newest_for(&self, port: PortId, family: Family, addr: u128) -> Option<&T> {
        let (id, _) = self.table.find(&Who { port, family, addr })?;
        self.held.newest(id)
    }

    /// Takes in what an ARP or NDP message says. Packets that it sets free come with the next [`Resolver::poll`].
    pub fn learn(&mut self, learned: &Learned, now: u64, s: &Sysctl) {
        // Where the lock is not to be had, the message is lost as if the link had lost it.
        if let Some(mut writer) = self.table.write() {
            self.table.learn(&mut writer, learned, now, s);
        }
    }

    /// Does what is due, in bounded slices: sends questions, hands out packets whose neighbour is known or failed, also by
    /// another worker's doing, probes, forgets. Call it on every turn of the loop; it costs next to nothing when idle.
    pub fn poll(&mut self, now: u64, s: &Sysctl, out: &mut impl FnMut(Event<T>)) {
        self.send_fresh(now, out);
        if now >= self.next_look {
            self.look_at_timers(now, s, out);
        }
        let generation = self.table.generation();
        if !self.held.is_empty() && (generation != self.seen || now >= self.next_wait) {
            self.next_wait = now + TICK;
            self.release(out);
        }
        self.seen = generation;
        if now >= self.next_gc {
            self.next_gc = now + GC;
            if let Some(mut writer) = self.table.write() {
                self.table.sweep(&mut writer, 64.max(self.table.capacity() / 256), now, s);
            }
        }
    }

    /// When [`Resolver::poll`] has something to do at the latest, as far as can be known.
    pub fn next_deadline(&self, now: u64) -> u64 {
        let fresh = if self.fresh.is_empty() { u64::MAX } else { now };
        let waiting = if self.held.is_empty() { u64::MAX } else { self.next_wait };
        fresh.min(waiting).min(self.next_look)
    }

    fn send_fresh(&mut self, now: u64, out: &mut impl FnMut(Event<T>)) {
        for id in self.fresh.drain(..) {
            self.driven.push(id);
            let entry = self.table.entry(id);
            if let Some((Who { port, family, addr }, word)) = entry.read(id.seq)
                && word.state() == State::Incomplete
            {
                self.next_look = self.next_look.min(entry.timer.load(Ordering::Acquire).max(now));
                out(Event::Solicit { port, family, target: addr, unicast: None });
            } else {
                self.next_look = now;
            }
        }
    }

    fn look_at_timers(&mut self, now: u64, s: &Sysctl, out: &mut impl FnMut(Event<T>)) {
        let Some(mut writer) = self.table.write() else { return };
        for _ in 0..SLICE {
            let Some(&id) = self.driven.get(self.cursor) else { break };
            match self.table.expire(&mut writer, id, now, s) {
                Expired::Released => {
                    self.driven.swap_remove(self.cursor);
                    continue;
                }
                Expired::Later => {}
                Expired::Solicit { who, unicast } => self.solicit.push((who, unicast)),
            }
            self.earliest = self.earliest.min(self.table.entry(id).timer.load(Ordering::Acquire));
            self.cursor += 1;
        }
        drop(writer);
        if self.cursor >= self.driven.len() {
            // The round is complete. A timer in the past belongs to an entry that changed meanwhile.
            self.next_look = if self.driven.is_empty() { u64::MAX } else { self.earliest.max(now + TICK) };
            self.cursor = 0;
            self.earliest = u64::MAX;
        }
        for (Who { port, family, addr }, unicast) in self.solicit.drain(..) {
            out(Event::Solicit { port, family, target: addr, unicast });
        }
    }

    /// Hands out the packets of neighbours that no longer wait for an answer.
    fn release(&mut self, out: &mut impl FnMut(Event<T>)) {
        let table = &self.table;
        let outcome = |id: NeighId| match table.entry(id).read(id.seq) {
            Some((_, word)) if word.state() == State::Incomplete => None,
            Some((_, word)) if word.state().is_valid() => Some(Some(word.mac())),
            _ => Some(None),
        };
        self.done.extend(self.held.waiting().filter(|id| outcome(*id).is_some()));
        for id in self.done.drain(..) {
            let mac = outcome(id).flatten();
            while let Some(packet) = self.held.pop(id) {
                out(match mac {
                    Some(mac) => Event::Ready { packet, mac },
                    None => Event::Failed { packet },
                });
            }
        }
    }
}
