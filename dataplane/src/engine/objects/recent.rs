//! A list of `recent`: addresses and when they were seen (`xt_recent.c`).
//!
//! Addresses are in a hash table of chains and in the order in which they were seen last; the times of each are a ring of
//! jiffies. All of it is one part that is taken for each question that may find something. That an address is in a bucket
//! that is empty, which is the common case, is said without: beside the table stands how many addresses are in each bucket.

use super::Turn;
use crate::conntrack::tuple::Hasher;
use std::sync::atomic::{AtomicU32, Ordering};
use sumun_config::facts::Family;
use sumun_config::rule::matches::recent::{self, Ask, Sighting, What};

/// Jiffies of a second, and nanoseconds of a jiffy.
const HZ: u64 = 250;
const NS_PER_JIFFY: u64 = 1_000_000_000 / HZ;

/// No entry.
const NONE: u32 = u32::MAX;

/// A list.
pub struct List {
    like: recent::List,
    hasher: Hasher,
    /// Addresses in each bucket.
    present: Box<[AtomicU32]>,
    table: Turn<Table>,
}

/// What is remembered of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its family.
    pub family: Family,
    /// The address, masked.
    pub addr: u128,
    /// Of its last packet; 0 where it was put in by hand.
    pub ttl: u8,
    /// Where in the ring the next time goes, counted from 1.
    pub index: u32,
    /// Times of its packets in jiffies.
    pub stamps: Vec<u64>,
}

struct Table {
    heads: Box<[u32]>,
    entries: Box<[Entry]>,
    /// Rings of the entries, one behind the other.
    stamps: Box<[u64]>,
    /// Times of a ring.
    packets: u32,
    /// The first free entry; the next is its `next`.
    free: u32,
    /// Ends of the chain by last sighting.
    oldest: u32,
    newest: u32,
}

#[derive(Clone)]
struct Entry {
    addr: u128,
    family: Family,
    ttl: u8,
    bucket: u32,
    /// Where the next time goes, unless the ring is full there.
    index: u32,
    /// How many times there are.
    count: u32,
    /// In the bucket.
    next: u32,
    older: u32,
    newer: u32,
}

impl List {
    /// An empty list.
    pub fn new(like: &recent::List, hasher: Hasher) -> List {
        let (addresses, packets) = (like.addresses as usize, like.packets as usize);
        let buckets = addresses.next_power_of_two();
        let free = |next: u32| Entry {
            addr: 0,
            family: Family::V4,
            ttl: 0,
            bucket: 0,
            index: 0,
            count: 0,
            next: if next < like.addresses { next } else { NONE },
            older: NONE,
            newer: NONE,
        };
        let table = Table {
            heads: vec![NONE; buckets].into(),
            entries: (1..=like.addresses).map(free).collect(),
            stamps: vec![0; addresses * packets].into(),
            packets: like.packets,
            free: 0,
            oldest: NONE,
            newest: NONE,
        };
        let present = (0..buckets).map(|_| AtomicU32::new(0)).collect();
        List { like: *like, hasher, present, table: Turn::new(table) }
    }

    fn bucket(&self, family: Family, addr: u128) -> u32 {
        let words = [addr as u64, (addr >> 64) as u64, family as u64, 0, 0];
        self.hasher.hash(&words) as u32 & (self.present.len() as u32 - 1)
    }

    /// What a rule wants to know of a packet, and what it wants done (`recent_mt`).
    pub fn ask(&self, ask: &Ask, seen: &Sighting, now: u64) -> bool {
        let Sighting { family, ttl, .. } = *seen;
        let addr = self.like.masked(family, seen.addr);
        let bucket = self.bucket(family, addr);
        if ask.what != What::Set && self.present[bucket as usize].load(Ordering::Relaxed) == 0 {
            return ask.invert;
        }
        let now = now / NS_PER_JIFFY;
        let mut table = self.table.take();
        let wanted = if ask.ttl { ttl } else { 0 };
        let Some(id) = table.find(bucket, family, addr, wanted) else {
            let is_set = ask.what == What::Set;
            if is_set {
                self.add(&mut table, bucket, family, addr, ttl, now);
            }
            return is_set != ask.invert;
        };
        let oldest = table.oldest;
        let mut is_gone = false;
        let holds = match ask.what {
            What::Set => true,
            What::Remove => {
                self.remove(&mut table, id);
                true
            }
            What::Check | What::Update => {
                let since = now as i64 - (u64::from(ask.seconds) * HZ) as i64;
                let holds = table.has(id, ask, since);
                if ask.reap && table.last(oldest) < since {
                    self.remove(&mut table, oldest);
                    is_gone = oldest == id;
                }
                holds
            }
        };
        let yes = holds != ask.invert;
        if !is_gone && (ask.what == What::Set || ask.what == What::Update && yes) {
            table.stamp(id, now);
            table.entries[id as usize].ttl = ttl;
        }
        yes
    }

    /// A new address, in the place of the one seen longest ago where there is no room.
    fn add(&self, table: &mut Table, bucket: u32, family: Family, addr: u128, ttl: u8, now: u64) {
        if table.free == NONE {
            let oldest = table.oldest;
            self.remove(table, oldest);
        }
        let id = table.free;
        let next = table.heads[bucket as usize];
        table.heads[bucket as usize] = id;
        let entry = &mut table.entries[id as usize];
        table.free = entry.next;
        *entry = Entry { addr, family, ttl, bucket, index: 0, count: 0, next, older: NONE, newer: NONE };
        table.append(id);
        table.stamp(id, now);
        self.present[bucket as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self, table: &mut Table, id: u32) {
        let Entry { bucket, next, .. } = table.entries[id as usize];
        table.detach(id);
        let mut before = NONE;
        let mut at = table.heads[bucket as usize];
        while at != id {
            before = at;
            at = table.entries[at as usize].next;
        }
        match before {
            NONE => table.heads[bucket as usize] = next,
            before => table.entries[before as usize].next = next,
        }
        table.entries[id as usize].next = table.free;
        table.free = id;
        self.present[bucket as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Remembers an address now, as `+ADDRESS` in `/proc/net/xt_recent` does: unmasked and for any TTL.
    pub fn put(&self, family: Family, addr: u128, now: u64) {
        let (bucket, now) = (self.bucket(family, addr), now / NS_PER_JIFFY);
        let mut table = self.table.take();
        match table.find(bucket, family, addr, 0) {
            Some(id) => table.stamp(id, now),
            None => self.add(&mut table, bucket, family, addr, 0, now),
        }
    }

    /// Forgets an address; whether it was there.
    pub fn forget(&self, family: Family, addr: u128) -> bool {
        let mut table = self.table.take();
        let found = table.find(self.bucket(family, addr), family, addr, 0);
        found.inspect(|id| self.remove(&mut table, *id)).is_some()
    }

    /// Forgets all addresses; how many there were.
    pub fn flush(&self) -> u32 {
        let mut gone = 0;
        // One at a time, so that no worker waits for long.
        loop {
            let mut table = self.table.take();
            let oldest = table.oldest;
            if oldest == NONE {
                return gone;
            }
            self.remove(&mut table, oldest);
            gone += 1;
        }
    }

    /// What is remembered, the address seen longest ago first.
    pub fn rows(&self) -> Vec<Row> {
        let table = self.table.take();
        let newer = |id: &u32| Some(table.entries[*id as usize].newer).filter(|id| *id != NONE);
        let ids = std::iter::successors(Some(table.oldest).filter(|id| *id != NONE), newer);
        ids.map(|id| {
            let Entry { family, addr, ttl, index, .. } = table.entries[id as usize];
            Row { family, addr, ttl, index, stamps: table.ring(id).to_vec() }
        })
        .collect()
    }
}

impl Table {
    /// The entry of an address. A TTL of 0 is any, on either side.
    fn find(&self, bucket: u32, family: Family, addr: u128, ttl: u8) -> Option<u32> {
        let next = |id: &u32| Some(self.entries[*id as usize].next).filter(|id| *id != NONE);
        let head = Some(self.heads[bucket as usize]).filter(|id| *id != NONE);
        std::iter::successors(head, next).find(|id| {
            let entry = &self.entries[*id as usize];
            entry.addr == addr && entry.family == family && (ttl == entry.ttl || ttl == 0 || entry.ttl == 0)
        })
    }

    /// The times of an entry.
    fn ring(&self, id: u32) -> &[u64] {
        let first = id as usize * self.packets as usize;
        &self.stamps[first..first + self.entries[id as usize].count as usize]
    }

    /// Whether enough packets were seen, from that time on where the rule says so.
    fn has(&self, id: u32, ask: &Ask, since: i64) -> bool {
        let counts = |stamp: &&u64| ask.seconds == 0 || **stamp as i64 >= since;
        self.ring(id).iter().filter(counts).take(ask.hits.max(1) as usize).count() == ask.hits.max(1) as usize
    }

    /// When an entry was seen last.
    fn last(&self, id: u32) -> i64 {
        self.ring(id).get(self.entries[id as usize].index as usize - 1).map_or(i64::MAX, |stamp| *stamp as i64)
    }

    /// An entry is seen now (`recent_entry_update`).
    fn stamp(&mut self, id: u32, now: u64) {
        let entry = &mut self.entries[id as usize];
        let at = entry.index & (self.packets - 1);
        self.stamps[id as usize * self.packets as usize + at as usize] = now;
        entry.index = at + 1;
        entry.count = entry.count.max(entry.index);
        self.detach(id);
        self.append(id);
    }

    /// Takes an entry out of the order of last sightings.
    fn detach(&mut self, id: u32) {
        let Entry { older, newer, .. } = self.entries[id as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    /// Puts an entry behind all others.
    fn append(&mut self, id: u32) {
        let newest = std::mem::replace(&mut self.newest, id);
        let entry = &mut self.entries[id as usize];
        (entry.older, entry.newer) = (newest, NONE);
        match newest {
            NONE => self.oldest = id,
            newest => self.entries[newest as usize].newer = id,
        }
    }
}
