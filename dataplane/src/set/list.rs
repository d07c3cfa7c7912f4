//! list:set: sets in an order, asked one after the other (`ip_set_list_set.c`).
//!
//! Only control changes the list, by another one; workers count in its members, which both share.

use super::extras::{Carried, end, left};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::set::ask::Asked;
use sumun_config::set::{Extra, Header, SkbInfo};

/// A set of sets.
#[derive(Clone)]
pub struct List {
    /// What the set is.
    pub header: Header,
    /// In order, each with where its set is kept.
    pub members: Vec<(u32, Arc<Member>)>,
}

/// A set in a list.
pub struct Member {
    /// When it leaves the list, in nanoseconds of the monotonic clock; 0 is never.
    time: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    /// What it gives to packets.
    pub skb: SkbInfo,
    comment: Option<String>,
}

impl Member {
    /// A member that begins now.
    pub fn new(header: &Header, carried: &Carried, now: u64) -> Member {
        let seconds = header.timeout.map_or(0, |own| carried.timeout.unwrap_or(own));
        Member {
            time: AtomicU64::new(end(seconds, now)),
            packets: AtomicU64::new(carried.packets.unwrap_or(0)),
            bytes: AtomicU64::new(carried.bytes.unwrap_or(0)),
            skb: carried.skb,
            comment: carried.comment.clone(),
        }
    }

    /// Whether its time is over.
    #[inline]
    pub fn is_expired(&self, now: u64) -> bool {
        let time = self.time.load(Ordering::Relaxed);
        time != 0 && now > time
    }

    /// Counts a packet where it should be, and says whether the counters are as asked.
    pub fn count(&self, asked: &Asked, len: u16) -> bool {
        if asked.update_counters {
            self.bytes.fetch_add(len.into(), Ordering::Relaxed);
            self.packets.fetch_add(1, Ordering::Relaxed);
        }
        asked.packets.is_none_or(|compare| compare.holds(self.packets.load(Ordering::Relaxed)))
            && asked.bytes.is_none_or(|compare| compare.holds(self.bytes.load(Ordering::Relaxed)))
    }

    /// What it carries, for a listing.
    pub fn extra(&self, header: &Header, name: String, now: u64) -> Extra {
        Extra {
            timeout: header.timeout.map(|_| left(self.time.load(Ordering::Relaxed), now)),
            packets: header.counters.then(|| self.packets.load(Ordering::Relaxed)),
            bytes: header.counters.then(|| self.bytes.load(Ordering::Relaxed)),
            comment: self.comment.clone(),
            skb: self.skb,
            set: name,
            ..Extra::default()
        }
    }
}
