//! What happens to flows, for those who listen: new, changed, gone.
//!
//! As the kernel does (`nf_conntrack_ecache`), what a packet changes is remembered with its flow and told once, when the
//! packet leaves; so a mark that a rule sets is in the event of the packet that it was set for. Events go into one bounded
//! ring for each worker and one for operators; what finds its ring full is counted. While nobody listens, all of this is one
//! load where a flow begins, changes or ends, and nothing for other packets.

use super::{Conntrack, FlowView, Life, Tracker};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crossbeam_queue::ArrayQueue;
use std::sync::OnceLock;
use sumun_config::facts::status;

/// Events that wait in one ring: those of about 20 ms at a million a second.
const RING: usize = 16_384;

/// What changed of a flow, by the bits of the kernel's `IPCT_*`.
pub mod change {
    /// The flow is new.
    pub const NEW: u32 = 1;
    /// It is new, and was expected.
    pub const RELATED: u32 = 1 << 1;
    /// It is gone.
    pub const DESTROY: u32 = 1 << 2;
    /// The first packet of the reply direction came.
    pub const REPLY: u32 = 1 << 3;
    /// It is ASSURED now.
    pub const ASSURED: u32 = 1 << 4;
    /// Its protocol's state.
    pub const PROTOINFO: u32 = 1 << 5;
    /// Its helper.
    pub const HELPER: u32 = 1 << 6;
    /// Its mark.
    pub const MARK: u32 = 1 << 7;
    /// By how much a helper moved the sequence numbers of a side.
    pub const SEQADJ: u32 = 1 << 8;
    /// Its security context.
    pub const SECMARK: u32 = 1 << 9;
}

/// What happened to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Happened {
    /// It entered the table.
    New = 1,
    /// It changed.
    Update = 2,
    /// It left the table.
    Destroy = 4,
}

impl Happened {
    /// All kinds, as a set of bits.
    pub const ALL: u8 = 7;
}

/// Something happened to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEvent {
    /// What.
    pub what: Happened,
    /// Bits of [`change`].
    pub changes: u32,
    /// The flow, as it was right after that.
    pub flow: FlowView,
    /// Its place among all events.
    pub number: u64,
}

struct Ring {
    events: ArrayQueue<FlowEvent>,
    lost: AtomicU64,
}

/// The way of events to who listens.
pub(super) struct Events {
    /// The kinds that somebody listens for.
    wanted: AtomicU32,
    /// How many events there were.
    number: AtomicU64,
    /// One for each worker, and one for everybody else; made for the first listener.
    rings: OnceLock<Box<[Ring]>>,
    workers: usize,
}

impl Events {
    pub fn new(workers: usize) -> Events {
        Events { wanted: AtomicU32::new(0), number: AtomicU64::new(0), rings: OnceLock::new(), workers }
    }

    #[inline]
    fn is_wanted(&self, what: Happened) -> bool {
        self.wanted.load(Ordering::Relaxed) & what as u32 != 0
    }

    #[inline]
    fn is_any_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// A place among all events, for one that is about to happen.
    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Pushes an event, or counts it as lost.
    #[cold]
    fn push(&self, ring: usize, event: FlowEvent) {
        let Some(ring) = self.rings.get().and_then(|rings| rings.get(ring)) else { return };
        if ring.events.push(event).is_err() {
            ring.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Conntrack {
    /// From now on these kinds of events (bits of [`Happened`]) are kept for [`Conntrack::take_events`]; none ends it. Events
    /// of before are forgotten. Whether there are listeners.
    pub fn listen(&self, kinds: u8) -> bool {
        let events = &self.events;
        if kinds != 0 && !events.is_any_wanted() {
            let ring = || Ring { events: ArrayQueue::new(RING), lost: AtomicU64::new(0) };
            let rings = events.rings.get_or_init(|| (0..=events.workers).map(|_| ring()).collect());
            rings.iter().for_each(|ring| (0..RING).map_while(|_| ring.events.pop()).for_each(drop));
        }
        if events.wanted.load(Ordering::Relaxed) != u32::from(kinds) {
            events.wanted.store(kinds.into(), Ordering::Relaxed);
        }
        kinds != 0
    }

    /// Takes the events that there are, oldest first, into `into`; for one thread at a time.
    pub fn take_events(&self, into: &mut Vec<FlowEvent>) {
        let rings = self.events.rings.get().into_iter().flatten();
        rings.for_each(|ring| into.extend((0..RING).map_while(|_| ring.events.pop())));
        into.sort_by_key(|event| event.number);
    }

    /// Events since the start that found their ring full.
    pub fn lost_events(&self) -> u64 {
        self.events.rings.get().into_iter().flatten().map(|ring| ring.lost.load(Ordering::Relaxed)).sum()
    }

    /// An operator deleted a flow.
    pub(super) fn tell_deleted(&self, flow: FlowView) {
        if self.events.is_wanted(Happened::Destroy) && flow.told & change::DESTROY as u16 != 0 {
            let number = self.events.next_number();
            self.events.push(
                self.events.workers,
                FlowEvent { what: Happened::Destroy, changes: change::DESTROY, flow, number },
            );
        }
    }
}

impl Tracker {
    /// Remembers what a packet changed of its flow (`nf_conntrack_event_cache`), where somebody listens.
    #[inline]
    pub(crate) fn changed(&self, id: u32, changes: u32) {
        if self.shared.events.is_any_wanted() {
            self.remember(id, changes);
        }
    }

    /// Tells what a packet that ends here changed of its flow.
    #[inline]
    pub(super) fn tell_any(&self, id: u32) {
        if self.eventful.get() {
            self.tell_changes(id);
        }
    }

    #[cold]
    fn remember(&self, id: u32, changes: u32) {
        self.shared.cold(id).changes.fetch_or(changes as u16, Ordering::Relaxed);
        self.eventful.set(true);
    }

    /// A place for the event of a flow that is about to enter the table.
    pub(super) fn number_event(&self) -> u64 {
        if self.shared.events.is_wanted(Happened::New) { self.shared.events.next_number() } else { 0 }
    }

    /// Whether the flow's own mask lets one of these changes be told.
    fn is_told(&self, id: u32, changes: u32) -> bool {
        changes & u32::from(self.shared.cold(id).event_mask()) != 0
    }

    /// Tells of a flow that entered the table.
    pub(super) fn tell_new(&self, id: u32, number: u64) {
        let events = &self.shared.events;
        if !events.is_any_wanted() {
            return;
        }
        let changes = u32::from(self.shared.cold(id).changes.swap(0, Ordering::Relaxed));
        let word = self.shared.entry(id).word();
        let mut born = if word.status() & status::EXPECTED != 0 { change::RELATED } else { change::NEW };
        if self.shared.cold(id).helper().is_some() {
            born |= change::HELPER;
        }
        if events.is_wanted(Happened::New) && self.is_told(id, changes | born) {
            let flow = FlowView::of(&self.shared, id, word, self.now);
            events.push(self.worker, FlowEvent { what: Happened::New, changes: changes | born, flow, number });
        }
    }

    /// Tells what was remembered of a flow in the table (`nf_ct_deliver_cached_events`).
    #[cold]
    fn tell_changes(&self, id: u32) {
        let (events, entry) = (&self.shared.events, self.shared.entry(id));
        let word = entry.word();
        if word.life() != Life::Live || word.status() & status::DYING != 0 {
            return;
        }
        let changes = u32::from(self.shared.cold(id).changes.swap(0, Ordering::Relaxed));
        if changes != 0 && events.is_wanted(Happened::Update) && self.is_told(id, changes) {
            let flow = FlowView::of(&self.shared, id, word, self.now);
            let number = events.next_number();
            events.push(self.worker, FlowEvent { what: Happened::Update, changes, flow, number });
        }
    }

    /// Tells of a flow that this worker took out of the table, whose word before was `last`.
    pub(super) fn tell_destroyed(&self, id: u32, last: super::Word) {
        let events = &self.shared.events;
        // Who sets DYING tells.
        let wanted = last.status() & status::DYING == 0 && events.is_wanted(Happened::Destroy);
        if wanted && self.is_told(id, change::DESTROY) {
            let flow = FlowView::of(&self.shared, id, last, self.now);
            let number = events.next_number();
            events.push(self.worker, FlowEvent { what: Happened::Destroy, changes: change::DESTROY, flow, number });
        }
    }
}
