//! Connection tracking: which flow does a packet belong to, and what is known of it?
//!
//! ```text
//!            Conntrack (one; shared by all workers and by operators)
//!   index: buckets of tag + entry number ──▶ entries: 128 hot bytes each ─ cold twins
//!        ▲ lookups without locks                  ▲ state changed by compare-and-swap
//!        │ short spin flags to insert, remove     │
//!   Tracker 0    Tracker 1   ...   (one for each worker, owned by its engine: free entries, unconfirmed flows,
//!                                   removed entries that wait for the others' quiescent states)
//! ```
//!
//! The semantics are the kernel's `nf_conntrack_in` and `nf_conntrack_confirm`: a flow is found or made at PREROUTING or
//! OUTPUT ([`Tracker::track`]), and it exists for others only once its first packet has left ([`Tracker::confirm`]). What is
//! taken for a flow, and for how long, is each protocol's business (`protocol`, [`tcp`]).
//!
//! Invariants:
//! - Memory is fixed at start; nothing here allocates, locks or sleeps for a packet of a known flow.
//! - A number in a [`Flow`] is valid until the worker's next [`Tracker::quiescent`].
//! - At most one live flow has a given tuple, in either direction.
//! - The same seed, times and packets give the same answers.
//!
//! Protocols: TCP with its windows ([`tcp`]), SCTP by its chunks ([`sctp`]), UDP and UDP-Lite, ICMP and ICMPv6 queries and
//! errors, GRE (by call where it is enhanced), everything else by addresses: DCCP too, as kernels do since 6.16. Zones are
//! part of tuples: what CT of table raw asks for is a packet's [`Template`]. A packet that cannot be placed is INVALID, and
//! [`Tracker::why_invalid`] says why.

#[cfg(not(feature = "model"))]
mod adopt;
mod ahead;
mod confirm;
mod connections;
mod entry;
mod events;
mod expect;
mod help;
mod helped;
mod index;
mod invalid;
mod list;
mod private;
mod protocol;
mod proxied;
mod reclaim;
mod removal;
mod secmark;
mod seqadj;
mod tell;
mod template;
mod tracker;

pub mod helper;
pub mod sctp;
pub mod tcp;
pub mod tuple;

#[cfg(not(feature = "model"))]
pub use adopt::Adopted;
pub use events::{FlowEvent, Happened, change};
pub use expect::{ExpectationView, Flags, Follow, Mask, Refusal};
pub use invalid::Invalid;
pub use list::{FlowView, Side};
pub use private::Step;
pub use template::{Template, Timeouts};
pub use tracker::Tracker;
pub use tuple::Tuple;

#[cfg(not(feature = "model"))]
pub(crate) use adopt::Remains;
pub(crate) use ahead::{Known, Told};
pub(crate) use entry::{Entry, Life, Word, left, millis};
pub(crate) use index::{Flag, Held};
pub(crate) use protocol::Part;
pub(crate) use reclaim::NONE;

use crate::nat::Sources;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering};
#[cfg(not(feature = "model"))]
use crate::umem::shared::Mapping;
use crate::umem::shared::Slab;
use connections::Connections;
use entry::Cold;
use events::Events;
use expect::Expectations;
use helped::Helped;
use index::Index;
use private::Private;
use reclaim::Depot;
use std::sync::OnceLock;
use sumun_config::facts::{Dir, PortId, status};
use sumun_config::helper::Helper;
use tuple::{Hasher, WORDS};

/// What a packet has to do with connection tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ct {
    /// Nothing: it could not be placed (INVALID).
    None,
    /// It is not to be tracked.
    Untracked,
    /// Nothing yet, and raw has no say: it answers a packet that is not tracked (`nf_ct_attach` attaches it to no flow).
    Unplaced,
    /// It is not yet tracked, and this rule of its family's program says how.
    Template(u32),
    /// It is not yet tracked, and the flow that it begins is one that SYNPROXY opens.
    Proxied,
    /// It belongs to a flow.
    Flow(Flow),
}

/// A packet's flow, and its place in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Number of the entry. Valid until the worker's next quiescent state.
    pub id: u32,
    /// Which way the packet goes.
    pub dir: Dir,
    /// The packet is an error about the flow, not part of it.
    pub related: bool,
}

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        #[derive(Default)]
        #[repr(align(64))]
        pub(crate) struct Counts {
            $(pub $name: Count,)*
        }

        /// Counters of conntrack since start, by the names of `conntrack -S` where it has them.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Stats {
            fn add(&mut self, counts: &Counts) {
                $(self.$name += counts.$name.get();)*
            }

            /// Names and values, in order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counts! {
    /// Tuples that a mapping would have had and that were taken.
    found,
    /// Packets that could not be placed.
    invalid,
    /// Flows confirmed.
    insert,
    /// Flows that could not be confirmed, because of a clash or for want of room.
    insert_failed,
    /// Packets dropped by conntrack.
    drop,
    /// Flows that were sacrificed because the table was full.
    early_drop,
    /// ICMP errors that are malformed or about no flow.
    error,
    /// Clashes of first packets that were resolved.
    clash_resolve,
    /// Flows that found no room near their place in the index.
    chaintoolong,
    /// Flows removed, for whatever reason.
    delete,
    /// Flows that were expected.
    expect_new,
    /// Expectations made.
    expect_create,
    /// Expectations removed, for whatever reason.
    expect_delete,
    /// SYNs that SYNPROXY saw.
    syn_received,
    /// Acknowledgements that SYNPROXY saw and that have no cookie of its.
    cookie_invalid,
    /// Acknowledgements that have.
    cookie_valid,
    /// Acknowledgements that have, and whose server had not answered yet.
    cookie_retrans,
    /// Connections of SYNPROXY that were closed and opened anew.
    conn_reopened,
}

/// A counter that only its worker writes.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn bump(&self) {
        self.add(1);
    }

    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets that a worker could not place, by reason.
#[derive(Default)]
#[repr(align(64))]
struct InvalidCounts([Count; Invalid::ALL.len()]);

/// Entries that one step of a sweep looks at.
const SWEEP_STEP: u32 = 64;
/// Nanoseconds in which the sweep passes the whole table once.
const SWEEP_PERIOD: u64 = 8_000_000_000;

/// The memory in which flows are: all that a table needs to be made again.
pub(crate) struct Lines {
    entries: Slab<Entry>,
    private: Slab<Private>,
    cold: Slab<Cold>,
}

impl Lines {
    /// Bytes of one flow.
    pub const EACH: usize = size_of::<Entry>() + size_of::<Private>() + size_of::<Cold>();

    /// Bytes of each kind of line, in the order of [`Lines::mapped`].
    pub const SIZES: [u32; 3] = [size_of::<Entry>() as u32, size_of::<Private>() as u32, size_of::<Cold>() as u32];

    /// How many a table for so many flows and workers has: some more than flows, to have free ones while removed ones wait.
    pub fn needed(max_flows: u32, workers: usize) -> u32 {
        let max_flows = most(max_flows);
        max_flows + max_flows / 16 + SPARE * workers.max(1) as u32
    }

    /// `count` of each kind on the heap.
    pub fn heap(count: usize) -> Lines {
        Lines { entries: Slab::heap(count), private: Slab::heap(count), cold: Slab::heap(count) }
    }

    /// The same in a file: `count` times each kind of line, one kind after the other.
    #[cfg(not(feature = "model"))]
    pub fn mapped(mapping: &mut Mapping, count: usize) -> Option<Lines> {
        let (entries, private) = (mapping.cut(count)?, mapping.cut(count)?);
        Some(Lines { entries, private, cold: mapping.cut(count)? })
    }
}

/// Entries beyond flows for each worker: what a burst or two can remove. A model checker would have to look after them all.
const SPARE: u32 = if cfg!(feature = "model") { 6 } else { 512 };

/// The maximum of flows that a table has for the one that is asked for.
fn most(max_flows: u32) -> u32 {
    max_flows.clamp(1, 1 << 30)
}

/// The maximum of expectations, in the kernel's proportion to flows (`nf_conntrack_expect_max`).
fn expectations(max_flows: u32) -> u32 {
    (max_flows / 64).max(64)
}

/// The maximum of flows that have a helper.
fn helped(max_flows: u32) -> u32 {
    (max_flows / 16).max(64)
}

/// The flow table. One for the router, shared by its workers; lives as long as the router.
pub struct Conntrack {
    pub(crate) hasher: Hasher,
    entries: Slab<Entry>,
    private: Slab<Private>,
    cold: Slab<Cold>,
    /// By entry, one more than the port of MASQUERADE; zero is none. The cold line has it too, for a restart, but every packet of
    /// a mapped flow asks, and so many lines would not stay in the cache.
    masqueraded: Box<[AtomicU16]>,
    index: Index,
    pub(crate) expectations: Expectations,
    helped: Box<[Helped]>,
    pub(crate) sources: Sources,
    /// Raised when a flow is found from now on by a tuple that another one was found by.
    overtaken: AtomicU32,
    depot: Depot,
    connections: OnceLock<Connections>,
    counts: Box<[Counts]>,
    invalid: Box<[InvalidCounts]>,
    max_flows: u32,
    /// Flows that were taken over from the table before.
    adopted: u32,
    /// Flows that operators deleted and no worker has removed yet.
    deleted: AtomicI64,
    /// A packet was refused for want of room since the sweep began its round.
    pressed: AtomicBool,
    sweep_due: AtomicU64,
    sweep_at: AtomicU32,
    events: Events,
    secmarks: secmark::Marks,
}

impl Conntrack {
    /// A table for `max_flows` flows (at least one) and `workers` workers (at least one). `seed` keys the hash: to be random
    /// where packets come from strangers.
    ///
    /// Takes about 360 bytes for each of a million flows: 272 for its lines, the spare ones included, the rest to find them.
    pub fn new(max_flows: u32, workers: usize, seed: u64) -> Conntrack {
        let lines = Lines::heap(Lines::needed(max_flows, workers) as usize);
        Conntrack::over(lines, max_flows, workers, seed)
    }

    /// The same with as many lines as [`Lines::needed`] says, all of zeros.
    fn over(lines: Lines, max_flows: u32, workers: usize, seed: u64) -> Conntrack {
        let (max_flows, workers) = (most(max_flows), workers.max(1));
        let Lines { entries, private, cold } = lines;
        let helped = helped(max_flows);
        Conntrack {
            masqueraded: (0..entries.len()).map(|_| AtomicU16::default()).collect(),
            hasher: Hasher::new(seed),
            index: Index::new(max_flows as usize),
            expectations: Expectations::new(expectations(max_flows), helped),
            helped: (0..helped).map(|_| Helped::default()).collect(),
            sources: Sources::new(max_flows as usize, workers),
            overtaken: AtomicU32::new(0),
            depot: Depot::new(entries.len() as u32, max_flows, workers, 0),
            connections: OnceLock::new(),
            counts: (0..workers).map(|_| Counts::default()).collect(),
            invalid: (0..workers).map(|_| InvalidCounts::default()).collect(),
            max_flows,
            adopted: 0,
            entries,
            private,
            cold,
            deleted: AtomicI64::new(0),
            pressed: AtomicBool::new(false),
            sweep_due: AtomicU64::new(0),
            sweep_at: AtomicU32::new(0),
            events: Events::new(workers),
            secmarks: secmark::Marks::new(),
        }
    }

    /// Bytes that the table takes. Only [`Conntrack::count_connections`] and
    /// [`Conntrack::keep_contexts`] ever add to them.
    pub fn memory(&self) -> usize {
        let connections = self.connections.get().map_or(0, Connections::memory);
        let contexts = self.secmarks.get().map_or(0, |marks| size_of_val(&**marks));
        Conntrack::memory_for(self.max_flows, self.counts.len()) + connections + contexts
    }

    /// Bytes that a table for so many flows and workers takes.
    pub fn memory_for(max_flows: u32, workers: usize) -> usize {
        let (workers, lines) = (workers.max(1), Lines::needed(max_flows, workers) as usize);
        let flows = most(max_flows) as usize;
        lines * (Lines::EACH + size_of::<AtomicU16>())
            + Index::memory(flows)
            + Sources::memory(flows, workers)
            + Depot::memory(lines, workers)
            + Expectations::memory(expectations(flows as u32), helped(flows as u32))
            + workers * (size_of::<Counts>() + size_of::<InvalidCounts>())
    }

    /// Most flows (`nf_conntrack_max`). With several workers the last few may be out of reach: each keeps some in reserve.
    pub fn max_flows(&self) -> u32 {
        self.max_flows
    }

    /// Flows in the table now (`nf_conntrack_count`), expired ones included until they are swept.
    pub fn count(&self) -> u32 {
        let sum = |count: fn(&Counts) -> &Count| self.counts.iter().map(|c| count(c).get() as i64).sum::<i64>();
        let live =
            i64::from(self.adopted) + sum(|c| &c.insert) - sum(|c| &c.delete) - self.deleted.load(Ordering::Relaxed);
        live.clamp(0, i64::from(u32::MAX)) as u32
    }

    /// The counters of all workers together.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.counts.iter().for_each(|c| stats.add(c));
        stats
    }

    /// The counters of each worker.
    pub fn stats_of_workers(&self) -> Vec<Stats> {
        let of = |counts: &Counts| {
            let mut stats = Stats::default();
            stats.add(counts);
            stats
        };
        self.counts.iter().map(of).collect()
    }

    /// Packets that could not be placed, by reason, of all workers together. Their sum is [`Stats::invalid`], but for
    /// packets that were dropped because their flow was just being removed.
    pub fn invalid(&self) -> impl Iterator<Item = (Invalid, u64)> {
        Invalid::ALL.iter().map(|why| (*why, self.invalid.iter().map(|c| c.0[*why as usize].get()).sum()))
    }

    /// The keyed hash of a tuple.
    #[inline]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        self.hasher.hash(&tuple.words())
    }

    /// Entries, free ones included: the numbers of flows are below.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(crate) fn entry(&self, id: u32) -> &Entry {
        &self.entries[id as usize]
    }

    #[inline]
    fn private(&self, id: u32) -> &Private {
        &self.private[id as usize]
    }

    #[inline]
    pub(crate) fn cold(&self, id: u32) -> &Cold {
        &self.cold[id as usize]
    }

    /// The helper of a flow, if it has one.
    pub fn helper_of(&self, flow: Flow) -> Option<Helper> {
        self.cold(flow.id).helper()
    }

    /// The helper of the flow that has led to this one, if it was expected.
    pub fn master_helper_of(&self, flow: Flow) -> Option<Helper> {
        self.cold(flow.id).master_helper()
    }

    /// Bits of the events that are told of a flow, and of its expectations ([`sumun_config::rule::targets::ct`]).
    pub fn event_masks_of(&self, flow: Flow) -> (u16, u16) {
        let cold = self.cold(flow.id);
        (cold.event_mask(), cold.expect_mask())
    }

    /// Gives a flow a label.
    pub fn set_label(&self, flow: Flow, bit: u8) {
        // First the bit that says that the line is not clear.
        self.entry(flow.id).set_status(status::EXTRA);
        let word = &self.cold(flow.id).labels[usize::from(bit >> 6 & 1)];
        word.fetch_or(1 << (bit & 63), Ordering::Relaxed);
    }

    /// Whether a flow has a label.
    pub fn has_label(&self, flow: Flow, bit: u8) -> bool {
        self.cold(flow.id).has_label(bit)
    }

    /// Packets and bytes of a direction of a flow.
    pub fn counters_of(&self, flow: Flow, dir: Dir) -> (u64, u64) {
        self.entry(flow.id).counters(dir)
    }

    /// The tuple of a direction of a flow.
    pub fn tuple_of(&self, flow: Flow, dir: Dir) -> Tuple {
        self.entry(flow.id).tuple(dir)
    }

    /// Milliseconds that a flow has left (`nf_ct_expires`); none while it is unconfirmed.
    pub fn left_of(&self, flow: Flow, now: u64) -> u32 {
        let entry = self.entry(flow.id);
        match entry.word().life() {
            Life::Unconfirmed => 0,
            _ => left(entry.deadline.load(Ordering::Relaxed), millis(now)).max(0) as u32,
        }
    }

    /// The port whose address MASQUERADE gave to the flow, if it did.
    #[inline]
    pub(crate) fn masqueraded_on(&self, id: u32) -> Option<PortId> {
        let note = self.masqueraded[id as usize].load(Ordering::Relaxed);
        (note != 0).then(|| PortId(note - 1))
    }

    /// Notes the port whose address MASQUERADE gave to the flow, or that it gave none.
    pub(crate) fn note_masquerade(&self, id: u32, port: Option<PortId>) {
        let note = port.map_or(0, |port| port.0.wrapping_add(1));
        self.masqueraded[id as usize].store(note, Ordering::Relaxed);
        self.cold(id).masquerade.store(note.into(), Ordering::Relaxed);
    }

    /// Whether no tuple is in the index.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.index.is_clean()
    }

    /// The live flow that has this tuple, with the state word it was found with; it may be over.
    #[inline]
    pub(crate) fn find(&self, hash: u64, words: &[u64; WORDS]) -> Option<(u32, Dir, Word)> {
        self.find_as(None, hash, words)
    }

    /// The same, of flows that have the tuple in a certain direction: in zones that are for one direction only, another
    /// flow may have it in the other.
    #[inline]
    pub(crate) fn find_as(&self, only: Option<Dir>, hash: u64, words: &[u64; WORDS]) -> Option<(u32, Dir, Word)> {
        let mut word = Word(0);
        let (id, dir) = self.index.find(hash, |id, dir| {
            let entry = self.entry(id);
            word = entry.word();
            word.life() == Life::Live && only.is_none_or(|only| only == dir) && entry.is(dir, words)
        })?;
        Some((id, dir, word))
    }
}

#[cfg(test)]
pub(crate) mod tests;

#[cfg(all(test, feature = "model"))]
mod model;

#[cfg(test)]
mod recorded_tests;

#[cfg(test)]
mod help_tests;

#[cfg(test)]
mod template_tests;
