//! Work ahead of a packet's turn: memory is loaded, and who knows already what rules will say has it tracked.

use super::entry::{clamp, millis};
use super::protocol::{self, Part};
use super::tell::{Joined, state_of};
use super::tracker::Placed;
use super::{Entry, Flow, Tracker, Tuple, Word};
use crate::packet::parse;
use crate::sync::atomic::Ordering;
use crate::umem::prefetch::prefetch;
use sumun_config::facts::{Dir, Facts, proto, status};
use sumun_config::model::Sysctl;

/// A flow as somebody remembers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub flow: Flow,
    /// How it stood then ([`Tracker::known`]).
    pub standing: u32,
    /// Its mark.
    pub mark: u32,
}

impl Known {
    /// Tells what rules may know of a flow that stands so.
    #[inline]
    pub fn tell(&self, facts: &mut Facts) {
        let (dir, status) = (self.flow.dir, self.standing & 0xffff);
        (facts.has_ct, facts.ct_dir, facts.ct_state) = (true, dir, state_of(dir, status));
        (facts.ct_proto, facts.ct_status, facts.ct_mark) = (facts.proto, status, self.mark);
    }

    /// Whether it is as a packet with these facts has been told, direction and state included.
    pub fn is_as(&self, facts: &Facts) -> bool {
        let status = self.standing & 0xffff;
        status == facts.ct_status && self.mark == facts.ct_mark && facts.ct_state == state_of(self.flow.dir, status)
    }
}

/// What became of a packet of a flow that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// It is tracked, and all is as it is known.
    AsKnown,
    /// It is tracked, and something has changed by it: [`Tracker::track`] takes it for placed.
    Changed,
    /// The flow is another one, or over, or stands otherwise: nothing was done.
    Unknown,
    /// It is not part of the flow any more, and nothing was done for it.
    Apart,
}

impl Tracker {
    /// Asks for what a packet of this flow will need.
    #[inline(always)]
    pub(crate) fn prefetch_flow(&self, id: u32, protocol: u8) {
        if (id as usize) < self.shared.entries() {
            self.shared.entry(id).prefetch();
            if protocol == proto::TCP {
                prefetch(self.shared.private(id));
            }
        }
    }

    /// The hash of a tuple, for what asks ahead; never zero.
    #[inline(always)]
    pub(crate) fn hash_of(&self, tuple: &Tuple) -> u64 {
        self.shared.hash(tuple).max(1)
    }

    /// Asks for the place where a flow is to be found by this hash.
    #[inline(always)]
    pub(crate) fn prefetch_index(&self, hash: u64) {
        self.shared.index.prefetch(hash);
    }

    /// Asks for what a flow will need that begins with this tuple and gets a mapping: the list of its source, and where its
    /// answers are to be found if it is mapped to the address that the last one was. The hash of its source; never zero.
    #[inline]
    pub(crate) fn prefetch_mapping(&self, tuple: &Tuple) -> u64 {
        let source = self.shared.hasher.hash_source(tuple);
        self.shared.sources.prefetch(source);
        if let Some(mut reply) = tuple.inverted() {
            reply.dst = self.mapped_to[tuple.family.index()].unwrap_or(reply.dst);
            self.shared.index.prefetch(self.shared.hash(&reply));
        }
        source.max(1)
    }

    /// Asks for what a new flow will need of the list of its source, whose hash this is, once that is there.
    #[inline]
    pub(crate) fn prefetch_source(&self, source: u64) {
        self.shared.sources.prefetch_first(&self.shared, source);
    }

    /// The free entry that the next flow to begin will take, if one is at hand.
    #[inline]
    pub(crate) fn spare(&self) -> Option<u32> {
        self.store.next()
    }

    /// Asks for a free entry, and tells the one behind it.
    #[inline]
    pub(crate) fn prefetch_spare(&self, spare: Option<u32>) -> Option<u32> {
        let id = spare?;
        let entry = self.shared.entry(id);
        entry.prefetch();
        entry.prefetch_ends();
        prefetch(self.shared.cold(id));
        self.shared.depot.behind(id)
    }

    /// Asks for the flow that may be found by this hash, once its place is there; false where there is none.
    #[inline(always)]
    pub(crate) fn prefetch_found(&self, hash: u64) -> bool {
        let found = self.shared.index.candidate(hash);
        if let Some((id, _)) = found {
            self.prefetch_flow(id, proto::TCP);
            self.shared.entry(id).prefetch_ends();
        }
        found.is_some()
    }

    /// How a flow stands: which use of its entry it is, its life and its status. Rules see nothing else of it but its mark and
    /// what only some flows have.
    pub(crate) fn known(&self, flow: Flow) -> Known {
        let entry = self.shared.entry(flow.id);
        Known { flow, standing: entry.word().0 as u32, mark: entry.mark.load(Ordering::Relaxed) }
    }

    /// Whether packets may be of other flows than those that looked the same were of before. A burst begins.
    pub(crate) fn is_overtaken(&mut self) -> bool {
        self.overtakes.set(false);
        let overtaken = self.shared.overtaken.load(Ordering::Acquire);
        std::mem::replace(&mut self.overtaken, overtaken) != overtaken
    }

    /// Says what time it is for [`Tracker::track_known`], in nanoseconds.
    pub(crate) fn set_time(&mut self, now: u64) {
        self.now = millis(now);
    }

    /// Tracks a packet of TCP or UDP whose flow is known, as [`Tracker::track`] would. Its checksum is right.
    #[inline(always)]
    pub(crate) fn track_known(&mut self, known: &Known, part: &Part, s: &Sysctl) -> Told {
        let flow = known.flow;
        let entry = self.shared.entry(flow.id);
        let word = entry.word();
        let is_known = word.0 as u32 == known.standing && entry.mark.load(Ordering::Relaxed) == known.mark;
        if !is_known || self.overtakes.get() || entry.is_over(word, self.now) {
            return Told::Unknown;
        }
        if part.proto == proto::UDP && self.tell_known(entry, flow.dir, word, part, s) {
            return Told::AsKnown;
        }
        let Joined::Placed(placed) = self.join(flow, word, part, s) else { return Told::Apart };
        match placed {
            Placed::Flow(..) if self.shared.entry(flow.id).word().0 as u32 == known.standing => {
                self.tell_any(flow.id);
                Told::AsKnown
            }
            placed => {
                self.ahead = Some(placed);
                Told::Changed
            }
        }
    }

    /// Whether a flow stands as it is known.
    #[inline]
    pub(crate) fn stands(&self, known: &Known) -> bool {
        self.shared.entry(known.flow.id).word().0 as u32 == known.standing && !self.overtakes.get()
    }

    /// Tracks a packet of TCP or UDP whose flow is known, and tells its facts; false where [`Tracker::track`] is to place it.
    #[inline]
    pub(crate) fn track_again(&mut self, known: &Known, facts: &mut Facts, l3: &[u8], s: &Sysctl) -> bool {
        if s.nf_conntrack_checksum && !parse::l4_checksum_ok(facts, l3) {
            return false;
        }
        if self.track_known(known, &Part::of(facts, l3), s) != Told::AsKnown {
            return false;
        }
        self.begin_to_track(facts);
        known.tell(facts);
        true
    }

    /// A datagram that changes nothing of its flow but for how long it lives, and what it counts; false and nothing done for others.
    /// The same as [`Tracker::join`] would do.
    #[inline(always)]
    fn tell_known(&self, entry: &Entry, dir: Dir, word: Word, part: &Part, s: &Sysctl) -> bool {
        let (timeout, is_assured) = protocol::life_of_datagrams(word, false, self.now, s);
        let bits = word.status();
        let is_first_answer = dir == Dir::Reply && bits & status::SEEN_REPLY == 0;
        let becomes_assured = is_assured && bits & status::ASSURED == 0;
        let has_more = bits & (status::EXTRA | status::FIXED_TIMEOUT) != 0;
        if is_first_answer || becomes_assured || has_more || protocol::check_datagram(part).is_err() {
            return false;
        }
        entry.set_deadline(self.now.wrapping_add(clamp(timeout)), self.near);
        self.account(entry, dir, part, s);
        true
    }

    /// Forgets what [`Tracker::track_known`] found out last: its packet has come to its end.
    #[inline]
    pub(crate) fn is_through(&mut self) {
        self.ahead = None;
    }
}
