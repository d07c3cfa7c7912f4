//! One set: is a packet in it, and what changes it? The kernel's `ip_set_hash_gen.h` and `ip_set_bitmap_gen.h`.
//!
//! All types but list:set keep their elements in one [`Table`]; what tells them apart is how a packet becomes a key
//! ([`packet_key`](super::packet)) and which prefixes are tried. A bitmap is a table over its range.

use super::extras::{Carried, Extras};
use super::key::Keys;
use super::packet::{Ifaces, packet_key};
use super::prefixes::Prefixes;
use super::table::{Table, Words};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sumun_config::facts::{Facts, Family};
use sumun_config::set::ask::{Asked, Change, Ends};
use sumun_config::set::{Element, Header, Key, Kind, Part, SkbInfo, iface_mask};

/// Interfaces that one network can stand with (`AHASH_MAX`): all of them are looked at for a packet of it.
const MOST_IFACES: usize = 64;
/// Slots that a worker looks through for time that is over, where a set is full.
const SLICE: usize = 1024;

/// The elements of a set of any type but list:set.
pub struct Content {
    /// What the set is.
    pub header: Header,
    keys: Keys,
    table: Table,
    extras: Extras,
    /// Lengths of the first and of the second network.
    prefixes: [Prefixes; 2],
    /// Some element has or had a flag.
    flagged: AtomicBool,
    /// The next slot to look at for time that is over.
    sweep: AtomicU64,
}

/// What a lookup says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// No element.
    No,
    /// An element, and what it gives.
    Yes(SkbInfo),
    /// An element with `nomatch`.
    Nomatch(SkbInfo),
}

/// Why an element is not added or deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is there already.
    Exists,
    /// It is not there.
    Missing,
    /// The set holds as many as it may.
    Full,
}

impl Content {
    /// An empty set.
    pub fn new(header: Header, seed: u64) -> Result<Content, String> {
        let keys = Keys::of(&header, seed);
        let table = Table::new(keys.words(), header.capacity())?;
        let extras = Extras::new(&header, table.slots())?;
        let prefixes = [Prefixes::new(), Prefixes::new()];
        let (flagged, sweep) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Content { header, keys, table, extras, prefixes, flagged, sweep })
    }

    /// Bytes that are reserved.
    pub fn memory(&self) -> usize {
        self.table.memory() + self.extras.memory()
    }

    /// Elements there are, those whose time is over and who were not swept yet included.
    pub fn len(&self) -> u64 {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn family(&self) -> Family {
        self.header.family.unwrap_or(Family::V4)
    }

    /// Whether the first part, and whether the last one, is a network.
    #[inline]
    fn nets(&self) -> (bool, bool) {
        let parts = self.header.kind.parts();
        (parts[0] == Part::Net, parts.len() > 1 && parts[parts.len() - 1] == Part::Net)
    }

    /// Looks for a packet.
    pub fn test(&self, ends: Ends, asked: &Asked, facts: &Facts, ifaces: &Ifaces, now: u64) -> Found {
        let Some(key) = packet_key(&self.header, ends, facts, ifaces) else { return Found::No };
        if self.header.kind == Kind::BitmapIpMac {
            return self.test_station(&key, asked, facts, now);
        }
        self.search(&key, &mut |slot| {
            if self.extras.is_expired(slot, now) || !self.extras.count(slot, asked, facts.len) {
                return Found::No;
            }
            let skb = self.extras.skb(slot);
            match self.flagged.load(Ordering::Relaxed) && self.extras.is_nomatch(slot) {
                true => Found::Nomatch(skb),
                false => Found::Yes(skb),
            }
        })
    }

    /// An address with another MAC address is not in the set; one without gets that of the packet.
    fn test_station(&self, key: &Key, asked: &Asked, facts: &Facts, now: u64) -> Found {
        let mac = key.mac();
        let words = self.keys.pack(&Key { rest: 0, ..*key });
        let hash = self.keys.hash(&words);
        let Some(slot) = self.table.find_exact(hash, &words) else { return Found::No };
        match self.extras.mac(slot) {
            Some(known) if known != mac => return Found::No,
            Some(_) => {}
            None => {
                let _held = self.table.lock(hash);
                if self.table.find_exact(hash, &words) == Some(slot) && self.extras.mac(slot).is_none() {
                    self.extras.complete(slot, mac, &Carried::by_packet(facts, None), now);
                    return Found::Yes(SkbInfo::default());
                }
            }
        }
        if self.extras.is_expired(slot, now) || !self.extras.count(slot, asked, facts.len) {
            return Found::No;
        }
        Found::Yes(self.extras.skb(slot))
    }

    /// Tries the elements that hold for a host, the most specific first, until one is more than nothing.
    fn search(&self, host: &Key, check: &mut dyn FnMut(usize) -> Found) -> Found {
        let family = self.family();
        let iface = self.header.kind == Kind::HashNetIface;
        match self.nets() {
            (false, false) => self.probe(host, check),
            (true, false) if iface => self.search_iface(host, check),
            (true, false) => {
                for len in self.prefixes[0].longest_first() {
                    match self.probe(&host.with_a(family, host.a, len), check) {
                        Found::No => {}
                        found => return found,
                    }
                }
                Found::No
            }
            (first, true) => {
                // The kernel tries the second network's lengths for each of the first's.
                let outer = self.prefixes[0].longest_first().filter(|_| first).chain((!first).then_some(0));
                for len_a in outer {
                    let key = if first { host.with_a(family, host.a, len_a) } else { *host };
                    for len_b in self.prefixes[1].longest_first() {
                        match self.probe(&key.with_b(family, host.b, len_b), check) {
                            Found::No => {}
                            found => return found,
                        }
                    }
                }
                Found::No
            }
        }
    }

    #[inline]
    fn probe(&self, key: &Key, check: &mut dyn FnMut(usize) -> Found) -> Found {
        let words = self.keys.pack(key);
        self.table.find_exact(self.keys.hash(&words), &words).map_or(Found::No, check)
    }

    /// A network that stands with other interfaces only ends the search all the same, as in the kernel: shorter prefixes
    /// are not tried (the `multi` of `mtype_test_cidrs`).
    fn search_iface(&self, host: &Key, check: &mut dyn FnMut(usize) -> Found) -> Found {
        for len in self.prefixes[0].longest_first() {
            let key = host.with_a(self.family(), host.a, len);
            let words = self.keys.pack(&key);
            let (mut others, mut found) = (false, Found::No);
            self.table.find(self.keys.hash(&words), |at, slot| {
                let stored = self.keys.unpack(at);
                if (stored.a, stored.rest) != (key.a, key.rest) {
                    return false;
                }
                if !self.is_iface(&stored, &key, slot) {
                    others = true;
                    return false;
                }
                found = check(slot);
                others = false;
                found != Found::No
            });
            if others || found != Found::No {
                return found;
            }
        }
        Found::No
    }

    /// Whether a stored element holds for the interface of a key with the same network.
    fn is_iface(&self, stored: &Key, key: &Key, slot: usize) -> bool {
        let wildcard = self.flagged.load(Ordering::Relaxed) && self.extras.is_wildcard(slot);
        let mask = if wildcard { iface_mask(stored.b) } else { u128::MAX };
        (stored.b ^ key.b) & mask == 0
    }

    /// The slot of exactly this element.
    fn find(&self, key: &Key, hash: u64, words: &Words) -> Option<usize> {
        if self.header.kind != Kind::HashNetIface {
            return self.table.find_exact(hash, words);
        }
        self.table.find(hash, |at, slot| {
            let stored = self.keys.unpack(at);
            (stored.a, stored.rest) == (key.a, key.rest) && self.is_iface(&stored, key, slot)
        })
    }

    /// Adds a packet, or deletes it. What cannot be is no matter of the packet's.
    pub fn change(&self, ends: Ends, change: Change, facts: &Facts, ifaces: &Ifaces, now: u64) -> Result<(), Refused> {
        let Some(mut key) = packet_key(&self.header, ends, facts, ifaces) else { return Err(Refused::Missing) };
        let family = self.family();
        let (first, second) = self.nets();
        // By the most specific prefix there is, else as hosts.
        if first {
            key = key.with_a(family, key.a, self.prefixes[0].longest().unwrap_or(family.bits()));
        }
        if second {
            key = key.with_b(family, key.b, self.prefixes[1].longest().unwrap_or(family.bits()));
        }
        let mac = (self.header.kind == Kind::BitmapIpMac).then(|| key.mac());
        if mac.is_some() {
            key.rest = 0;
        }
        match change {
            Change::Delete => self.delete(&key, now),
            Change::Add { exist, timeout } => {
                let carried = Carried { mac, ..Carried::by_packet(facts, timeout) };
                self.add(&key, &carried, exist, now)
            }
        }
    }

    /// Adds an element; with `exist` one that is there begins anew.
    pub fn add(&self, key: &Key, carried: &Carried, exist: bool, now: u64) -> Result<(), Refused> {
        let words = self.keys.pack(key);
        let hash = self.keys.hash(&words);
        if carried.nomatch || carried.wildcard {
            self.flagged.store(true, Ordering::Relaxed);
        }
        let _held = self.table.lock(hash);
        if let Some(slot) = self.find(key, hash, &words) {
            let completes = self.header.kind == Kind::BitmapIpMac && self.extras.mac(slot).is_none();
            if let (true, Some(mac)) = (completes, carried.mac) {
                self.extras.complete(slot, mac, carried, now);
                return Ok(());
            }
            if !exist && !self.extras.is_expired(slot, now) {
                return Err(Refused::Exists);
            }
            self.extras.renew(slot, carried, now);
            return Ok(());
        }
        if self.header.kind == Kind::HashNetIface && self.ifaces_of(key, hash) >= MOST_IFACES {
            return Err(Refused::Full);
        }
        let fill = |slot| self.extras.fill(slot, carried, now);
        let mut placed = self.table.insert(hash, &words, fill);
        if placed.is_none() && (self.free_some(hash, now) || self.header.forceadd && self.evict(hash)) {
            placed = self.table.insert(hash, &words, fill);
        }
        if placed.is_none() {
            return Err(Refused::Full);
        }
        self.note(key, true);
        Ok(())
    }

    /// How many interfaces a network stands with.
    fn ifaces_of(&self, key: &Key, hash: u64) -> usize {
        let mut count = 0;
        self.table.find(hash, |at, _| {
            let stored = self.keys.unpack(at);
            count += usize::from((stored.a, stored.rest) == (key.a, key.rest));
            false
        });
        count
    }

    /// Deletes an element.
    pub fn delete(&self, key: &Key, now: u64) -> Result<(), Refused> {
        let words = self.keys.pack(key);
        let hash = self.keys.hash(&words);
        let _held = self.table.lock(hash);
        let slot = self.find(key, hash, &words).filter(|slot| !self.extras.is_expired(*slot, now));
        let slot = slot.ok_or(Refused::Missing)?;
        self.remove(hash, slot);
        Ok(())
    }

    /// Under the lock of its home.
    fn remove(&self, hash: u64, slot: usize) {
        let Some(words) = self.table.at(slot) else { return };
        self.table.remove(hash, slot);
        self.note(&self.keys.unpack(&words), false);
    }

    /// Keeps the list of lengths.
    fn note(&self, key: &Key, added: bool) {
        let (first, second) = self.nets();
        for (is_net, prefixes, len) in
            [(first, &self.prefixes[0], key.len_a()), (second, &self.prefixes[1], key.len_b())]
        {
            match (is_net, added) {
                (false, _) => {}
                (true, true) => prefixes.add(len),
                (true, false) => prefixes.remove(len),
            }
        }
    }

    /// Whether time was over for some of the next elements; for whoever holds the lock of `home` and finds the set full.
    fn free_some(&self, home: u64, now: u64) -> bool {
        self.header.timeout.is_some() && self.sweep_part(SLICE, now, Some(home)) > 0
    }

    /// Looks at the next `most` slots and deletes elements whose time is over; how many.
    pub fn sweep(&self, most: usize, now: u64) -> usize {
        if self.header.timeout.is_none() || self.is_empty() {
            return 0;
        }
        self.sweep_part(most, now, None)
    }

    fn sweep_part(&self, most: usize, now: u64, held: Option<u64>) -> usize {
        let slots = self.table.slots();
        let most = most.min(slots);
        let from = self.sweep.fetch_add(most as u64, Ordering::Relaxed) as usize;
        (0..most).filter(|i| self.drop_expired((from + i) % slots, now, held)).count()
    }

    fn drop_expired(&self, slot: usize, now: u64, held: Option<u64>) -> bool {
        if !self.extras.is_expired(slot, now) {
            return false;
        }
        self.drop_slot(slot, held, |slot| self.extras.is_expired(slot, now))
    }

    /// Deletes what lies in a slot if `is` still holds under its lock. Whoever holds another lock does not wait for this one.
    fn drop_slot(&self, slot: usize, held: Option<u64>, is: impl Fn(usize) -> bool) -> bool {
        let Some(words) = self.table.at(slot) else { return false };
        let hash = self.keys.hash(&words);
        let _held = match held {
            Some(home) if self.table.is_one_home(home, hash) => None,
            Some(_) => match self.table.try_lock(hash) {
                None => return false,
                held => held,
            },
            None => Some(self.table.lock(hash)),
        };
        if self.table.at(slot) != Some(words) || !is(slot) {
            return false;
        }
        self.remove(hash, slot);
        true
    }

    /// Throws some element near the home of a hash out, whose lock the caller holds.
    fn evict(&self, home: u64) -> bool {
        self.table.near(home).any(|slot| self.drop_slot(slot, Some(home), |_| true))
    }

    /// Deletes all elements.
    pub fn flush(&self) {
        (0..self.table.slots()).for_each(|slot| {
            self.drop_slot(slot, None, |_| true);
        });
    }

    /// Whether control's element is in the set, as `ipset test` asks: an address is looked for in the networks.
    pub fn has(&self, element: &Element, now: u64) -> bool {
        let (first, second) = self.nets();
        let bits = self.family().bits();
        let key = &element.key;
        let host = (first || second) && (!first || key.len_a() == bits) && (!second || key.len_b() == bits);
        let mut check = |slot: usize| match self.extras.is_expired(slot, now) {
            true => Found::No,
            false if self.extras.is_nomatch(slot) => Found::Nomatch(SkbInfo::default()),
            false => Found::Yes(SkbInfo::default()),
        };
        let found = if host {
            self.search(key, &mut check)
        } else {
            let words = self.keys.pack(key);
            self.find(key, self.keys.hash(&words), &words).map_or(Found::No, |slot| {
                let mac = element.extra.as_ref().and_then(|extra| extra.mac);
                match mac.zip(self.extras.mac(slot)).is_some_and(|(a, b)| a != b) {
                    true => Found::No,
                    false => check(slot),
                }
            })
        };
        found == if element.nomatch { Found::Nomatch(SkbInfo::default()) } else { Found::Yes(SkbInfo::default()) }
    }

    /// Elements from a slot on, out of at most `most` slots, and the slot to go on with.
    pub fn list(&self, from: usize, most: usize, now: u64) -> (Vec<Element>, Option<usize>) {
        let to = self.table.slots().min(from.saturating_add(most));
        let elements = (from..to).filter_map(|slot| {
            let words = self.table.at(slot).filter(|_| !self.extras.is_expired(slot, now))?;
            let mut element = Element { key: self.keys.unpack(&words), ..Element::default() };
            self.extras.list(slot, &mut element, now);
            Some(element)
        });
        (elements.collect(), (to < self.table.slots()).then_some(to))
    }

    /// Frees what deleted elements left behind; for the thread that alone adds comments.
    pub fn tidy(&self) {
        if self.extras.comments() as u64 > 2 * self.len() + 64 {
            self.extras.forget_comments((0..self.table.slots()).filter(|slot| self.table.at(*slot).is_some()));
        }
    }
}
