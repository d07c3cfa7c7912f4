//! What elements have besides their key, by slot: time, counters, marks, comments. A set has those that it was created with.
//!
//! Every number is an atomic of its own: who lists a set while packets are counted may see a packet without its bytes, as
//! in the kernel.

use super::table::zeroed;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use sumun_config::facts::Facts;
use sumun_config::set::ask::Asked;
use sumun_config::set::{Element, Extra, Header, Kind, SkbInfo};

const SECOND: u64 = 1_000_000_000;
/// Of a time: it has not begun yet, and these are its seconds.
const WAITING: u64 = 1 << 63;
/// Of a MAC address: it is known.
const KNOWN: u64 = 1 << 48;
/// Of flags.
const NOMATCH: u64 = 1;
const WILDCARD: u64 = 2;

type Column = Option<Box<[AtomicU64]>>;

/// The columns. Where a slot is none of an element, they hold anything.
pub struct Extras {
    /// When an element ends, in nanoseconds of the monotonic clock; 0 is never.
    times: Column,
    packets: Column,
    bytes: Column,
    /// Mark in the lower half and mask in the upper.
    marks: Column,
    /// Class in the lower half and queue above it.
    classes: Column,
    macs: Column,
    flags: Column,
    /// Numbers of comments, from 1.
    comments: Column,
    texts: Mutex<Vec<Option<String>>>,
    /// Seconds of elements that give none.
    timeout: u32,
}

/// What an element is added with. What is none stays as it is where the element is there, and begins at zero where not.
#[derive(Clone, Default)]
pub struct Carried {
    /// Seconds; the set's own where none.
    pub timeout: Option<u32>,
    /// Packets counted.
    pub packets: Option<u64>,
    /// Bytes counted.
    pub bytes: Option<u64>,
    /// What it gives to packets.
    pub skb: SkbInfo,
    /// The MAC address of bitmap:ip,mac.
    pub mac: Option<u64>,
    /// For people.
    pub comment: Option<String>,
    /// See [`Element`].
    pub nomatch: bool,
    /// See [`Element`].
    pub wildcard: bool,
}

impl Carried {
    /// By control.
    pub fn of(element: &Element) -> Carried {
        let none = Extra::default();
        let Extra { timeout, packets, bytes, comment, skb, mac, .. } = element.extra.as_deref().unwrap_or(&none);
        let (nomatch, wildcard) = (element.nomatch, element.wildcard);
        Carried {
            timeout: *timeout,
            packets: *packets,
            bytes: *bytes,
            skb: *skb,
            mac: *mac,
            comment: comment.clone(),
            nomatch,
            wildcard,
        }
    }

    /// By a packet, which counts.
    pub fn by_packet(facts: &Facts, timeout: Option<u32>) -> Carried {
        Carried { timeout, packets: Some(1), bytes: Some(facts.len.into()), ..Carried::default() }
    }
}

impl Extras {
    /// Columns for so many slots.
    pub fn new(header: &Header, slots: usize) -> Result<Extras, String> {
        let column = |wanted: bool| wanted.then(|| zeroed(slots)).transpose();
        Ok(Extras {
            times: column(header.timeout.is_some())?,
            packets: column(header.counters)?,
            bytes: column(header.counters)?,
            marks: column(header.skbinfo)?,
            classes: column(header.skbinfo)?,
            macs: column(header.kind == Kind::BitmapIpMac)?,
            flags: column(header.kind.has_nets())?,
            comments: column(header.comment)?,
            texts: Mutex::default(),
            timeout: header.timeout.unwrap_or(0),
        })
    }

    /// Bytes that are reserved.
    pub fn memory(&self) -> usize {
        let columns = [&self.times, &self.packets, &self.bytes, &self.marks, &self.classes];
        let more = [&self.macs, &self.flags, &self.comments];
        columns.iter().chain(&more).filter_map(|column| column.as_ref()).map(|column| column.len() * 8).sum()
    }

    /// Writes everything for an element that is new in its slot.
    pub fn fill(&self, slot: usize, carried: &Carried, now: u64) {
        store(&self.packets, slot, carried.packets.unwrap_or(0));
        store(&self.bytes, slot, carried.bytes.unwrap_or(0));
        self.comment(slot, carried.comment.as_deref());
        self.describe(slot, carried);
        store(&self.macs, slot, carried.mac.map_or(0, |mac| mac | KNOWN));
        self.begin(slot, carried, now);
    }

    /// Its time begins; without a MAC address it waits for that (`bitmap_ipmac_add_timeout`).
    fn begin(&self, slot: usize, carried: &Carried, now: u64) {
        let seconds = carried.timeout.unwrap_or(self.timeout);
        let waits = self.macs.is_some() && self.mac(slot).is_none();
        store(&self.times, slot, if waits { WAITING | u64::from(seconds) } else { end(seconds, now) });
    }

    /// Writes what an addition changes of an element that is there.
    pub fn renew(&self, slot: usize, carried: &Carried, now: u64) {
        for (column, given) in [(&self.packets, carried.packets), (&self.bytes, carried.bytes)] {
            given.into_iter().for_each(|value| store(column, slot, value));
        }
        self.comment(slot, carried.comment.as_deref());
        self.describe(slot, carried);
        if let (Some(_), Some(mac)) = (&self.macs, carried.mac) {
            store(&self.macs, slot, mac | KNOWN);
        }
        self.begin(slot, carried, now);
    }

    fn describe(&self, slot: usize, carried: &Carried) {
        let SkbInfo { mark, mask, prio, queue } = carried.skb;
        store(&self.marks, slot, u64::from(mask) << 32 | u64::from(mark));
        store(&self.classes, slot, u64::from(queue) << 32 | u64::from(prio));
        let flag = |given: bool, bit| if given { bit } else { 0 };
        store(&self.flags, slot, flag(carried.nomatch, NOMATCH) | flag(carried.wildcard, WILDCARD));
    }

    /// Comments are control's: workers, which give none, take no lock where the element had none.
    fn comment(&self, slot: usize, text: Option<&str>) {
        let Some(column) = &self.comments else { return };
        let Some(text) = text else { return column[slot].store(0, Ordering::Relaxed) };
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() > 1024 && texts.len() > 4 * column.len() {
            return;
        }
        texts.push(Some(text.to_string()));
        column[slot].store(texts.len() as u64, Ordering::Relaxed);
    }

    /// Forgets comments that no element has any more; the caller keeps others from adding some meanwhile.
    pub fn forget_comments(&self, used: impl Iterator<Item = usize>) {
        let Some(column) = &self.comments else { return };
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = Vec::new();
        for slot in used {
            let number = column[slot].load(Ordering::Relaxed) as usize;
            if let Some(text) = number.checked_sub(1).and_then(|at| texts.get_mut(at)).and_then(Option::take) {
                kept.push(Some(text));
                column[slot].store(kept.len() as u64, Ordering::Relaxed);
            }
        }
        *texts = kept;
    }

    /// Comments held.
    pub fn comments(&self) -> usize {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether the element's time is over.
    #[inline]
    pub fn is_expired(&self, slot: usize, now: u64) -> bool {
        let Some(times) = &self.times else { return false };
        let time = times[slot].load(Ordering::Relaxed);
        time != 0 && time & WAITING == 0 && now > time
    }

    /// Whether it has the flag.
    #[inline]
    pub fn is_nomatch(&self, slot: usize) -> bool {
        self.flag(slot, NOMATCH)
    }

    /// Whether its interface is the beginning of a name.
    #[inline]
    pub fn is_wildcard(&self, slot: usize) -> bool {
        self.flag(slot, WILDCARD)
    }

    #[inline]
    fn flag(&self, slot: usize, bit: u64) -> bool {
        self.flags.as_ref().is_some_and(|flags| flags[slot].load(Ordering::Relaxed) & bit != 0)
    }

    /// The MAC address of an element of bitmap:ip,mac, where it has one.
    pub fn mac(&self, slot: usize) -> Option<u64> {
        let mac = load(&self.macs, slot);
        (mac & KNOWN != 0).then_some(mac & !KNOWN)
    }

    /// Gives an element of bitmap:ip,mac the MAC address of a packet; its time and counters begin.
    pub fn complete(&self, slot: usize, mac: u64, carried: &Carried, now: u64) {
        let waiting = load(&self.times, slot);
        store(&self.packets, slot, carried.packets.unwrap_or(0));
        store(&self.bytes, slot, carried.bytes.unwrap_or(0));
        let stored = (waiting & !WAITING) as u32;
        let seconds = carried.timeout.filter(|seconds| *seconds != self.timeout).unwrap_or(stored);
        store(&self.times, slot, end(seconds, now));
        store(&self.macs, slot, mac | KNOWN);
    }

    /// Counts a packet where it should be, and says whether the counters are as asked. Without counters they are.
    #[inline]
    pub fn count(&self, slot: usize, asked: &Asked, len: u16) -> bool {
        let (Some(packets), Some(bytes)) = (&self.packets, &self.bytes) else { return true };
        if asked.update_counters {
            bytes[slot].fetch_add(len.into(), Ordering::Relaxed);
            packets[slot].fetch_add(1, Ordering::Relaxed);
        }
        asked.packets.is_none_or(|compare| compare.holds(packets[slot].load(Ordering::Relaxed)))
            && asked.bytes.is_none_or(|compare| compare.holds(bytes[slot].load(Ordering::Relaxed)))
    }

    /// What the element gives to packets.
    #[inline]
    pub fn skb(&self, slot: usize) -> SkbInfo {
        if self.marks.is_none() {
            return SkbInfo::default();
        }
        let (marks, class) = (load(&self.marks, slot), load(&self.classes, slot));
        SkbInfo { mark: marks as u32, mask: (marks >> 32) as u32, prio: class as u32, queue: (class >> 32) as u16 }
    }

    /// Everything of an element for a listing.
    pub fn list(&self, slot: usize, element: &mut Element, now: u64) {
        let time = load(&self.times, slot);
        let comment = {
            let number = load(&self.comments, slot) as usize;
            let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
            number.checked_sub(1).and_then(|at| texts.get(at).cloned().flatten())
        };
        element.nomatch = self.is_nomatch(slot);
        element.wildcard = self.is_wildcard(slot);
        let extra = Extra {
            timeout: self.times.as_ref().map(|_| left(time, now)),
            packets: self.packets.as_ref().map(|column| column[slot].load(Ordering::Relaxed)),
            bytes: self.bytes.as_ref().map(|column| column[slot].load(Ordering::Relaxed)),
            comment,
            skb: self.skb(slot),
            mac: self.mac(slot),
            ..Extra::default()
        };
        element.extra = (extra != Extra::default()).then(|| Box::new(extra));
    }
}

/// When so many seconds from now are over; 0 is never.
pub fn end(seconds: u32, now: u64) -> u64 {
    match seconds {
        0 => 0,
        seconds => (now + u64::from(seconds) * SECOND).max(1),
    }
}

/// Seconds until a time, as they are shown: whole ones, and 1 where there is less, since 0 would be for ever.
pub fn left(time: u64, now: u64) -> u32 {
    match time {
        0 => 0,
        time if time & WAITING != 0 => (time & !WAITING) as u32,
        time => (time.saturating_sub(now) / SECOND).max(1) as u32,
    }
}

#[inline]
fn store(column: &Column, slot: usize, value: u64) {
    if let Some(column) = column {
        column[slot].store(value, Ordering::Relaxed);
    }
}

#[inline]
fn load(column: &Column, slot: usize) -> u64 {
    column.as_ref().map_or(0, |column| column[slot].load(Ordering::Relaxed))
}
