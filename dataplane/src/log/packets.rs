//! NFLOG: whole packets on their way from workers to who listens, without a word being said on the data path.
//!
//! As in the kernel nothing happens while nobody listens: one load. The ring is made for the first listener.

use super::LogEvent;
use crossbeam_queue::ArrayQueue;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sumun_config::facts::Facts;
use sumun_config::rule::Hook;
use sumun_config::rule::targets::nflog::Nflog;

/// Most bytes of a packet that are told: a packet of an Ethernet link, and some more.
pub const MOST: usize = 1600;
/// Packets that wait to be told: about 4 MB.
const RING: usize = 2048;

/// What an NFLOG rule saw.
#[derive(Clone, Copy, Debug)]
pub struct PacketEvent {
    /// What its line is made of.
    pub line: LogEvent,
    /// Who listens to this group is told.
    pub group: u16,
    /// Where it was.
    pub hook: Hook,
    /// As CLASSIFY has set it.
    pub priority: u32,
    /// Number of its security context; zero is none.
    pub context: u32,
    kept: u16,
    bytes: [u8; MOST],
}

impl PacketEvent {
    /// The event of a rule with the target `nflog` and a packet, whose bytes `l3` start at the IP header.
    pub fn new(nflog: &Nflog, hook: Hook, facts: &Facts, l3: &[u8], wall: u64) -> PacketEvent {
        let most = nflog.size.map_or(MOST, |size| (size as usize).min(MOST));
        let kept = l3.len().min(most);
        let mut bytes = [0; MOST];
        bytes[..kept].copy_from_slice(&l3[..kept]);
        let line = LogEvent::bare(format_args!("{}", nflog.prefix), facts, l3, wall);
        PacketEvent { line, group: nflog.group, hook, priority: 0, context: 0, kept: kept as u16, bytes }
    }

    /// The packet from its IP header on, as far as it is told.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.kept)]
    }
}

/// The way of packets to who listens: bounded, lock-free, overflow counted.
#[derive(Debug, Default)]
pub struct PacketRing {
    is_wanted: AtomicBool,
    events: OnceLock<ArrayQueue<PacketEvent>>,
    lost: AtomicU64,
}

impl PacketRing {
    /// Whether somebody listens.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// From now on packets are kept, or not. What came for listeners of before is forgotten.
    pub fn listen(&self, wanted: bool) {
        if wanted && !self.is_wanted() {
            let events = self.events.get_or_init(|| ArrayQueue::new(RING));
            (0..RING).map_while(|_| events.pop()).for_each(drop);
        }
        if wanted != self.is_wanted() {
            self.is_wanted.store(wanted, Ordering::Relaxed);
        }
    }

    /// Pushes a packet, or counts it as lost.
    #[cold]
    pub fn push(&self, event: PacketEvent) {
        let Some(events) = self.events.get() else { return };
        if events.push(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The packets that there are, oldest first, a ring full at most.
    pub fn take(&self) -> impl Iterator<Item = PacketEvent> {
        let events = self.events.get();
        (0..RING).map_while(move |_| events.and_then(ArrayQueue::pop))
    }

    /// Packets since the start that found the ring full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::facts::Family;

    #[test]
    fn packets_are_kept_for_listeners_and_only_so_much_of_them_as_the_rule_says() {
        let nflog = |size| Nflog { prefix: "p: ".into(), group: 5, size, range: 0, threshold: 0 };
        let event =
            |size| PacketEvent::new(&nflog(size), Hook::Forward, &Facts::blank(Family::V4), &[7; MOST + 100], 9);
        let ring = PacketRing::default();
        ring.push(event(None));
        assert_eq!((ring.take().count(), ring.is_wanted()), (0, false));
        ring.listen(true);
        for size in [None, Some(0), Some(64), Some(u32::MAX)] {
            ring.push(event(size));
        }
        let lengths: Vec<usize> = ring.take().map(|event| event.bytes().len()).collect();
        assert_eq!(lengths, [MOST, 0, 64, MOST]);
        (0..RING + 3).for_each(|_| ring.push(event(Some(1))));
        assert_eq!(ring.lost(), 3);
        ring.listen(false);
        ring.listen(true);
        assert_eq!(ring.take().count(), 0, "what came for others is forgotten");
    }
}
