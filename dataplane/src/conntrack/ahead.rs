//! Tracking a packet ahead of its turn: for whoever knows already what rules will say of it.
//!
//! [`Tracker::peek`] changes nothing. [`Tracker::track_ahead`] does all that [`Tracker::track`] would, and what it found out is kept
//! for the case that rules are asked after all: then [`Tracker::track`] takes it as its own.

use super::entry::millis;
use super::tell::Joined;
use super::tracker::{Placed, is_sum_right};
use super::{Ct, Flow, Life, Tracker, Tuple, Word};
use sumun_config::facts::{Dir, Facts};
use sumun_config::model::Sysctl;

impl Tracker {
    /// The live flow of a packet of TCP or UDP, and its word. `hash` is that of its tuple, `likely` what it may be.
    #[inline]
    pub(crate) fn peek(&self, hash: u64, likely: Option<(u32, Dir)>, facts: &Facts, now: u64) -> Option<(Flow, Word)> {
        let words = Tuple::of(facts).words();
        let at_once = likely.and_then(|(id, dir)| {
            let entry = self.shared.entry(id);
            let word = entry.word();
            (word.life() == Life::Live && entry.is(dir, &words)).then_some((id, dir, word))
        });
        let (id, dir, word) = match at_once {
            Some(found) => found,
            None => self.shared.find(hash, &words)?,
        };
        let is_over = self.shared.entry(id).is_over(word, millis(now));
        (!is_over).then_some((Flow { id, dir, related: false }, word))
    }

    /// Tells the protocol's tracker of a packet of a flow that was found by [`Tracker::peek`]; its flow, with the `ct_*` of the
    /// facts set, if it is part of that. Else, and where its checksum is wrong, it has to go the long way.
    #[inline]
    pub(crate) fn track_ahead(
        &mut self,
        (flow, word): (Flow, Word),
        facts: &mut Facts,
        l3: &[u8],
        now: u64,
        s: &Sysctl,
    ) -> Option<Ct> {
        self.now = millis(now);
        if s.nf_conntrack_checksum && !is_sum_right(facts, l3) {
            return None;
        }
        let Joined::Placed(placed) = self.join(flow, word, facts, l3, s) else { return None };
        self.ahead = Some(placed);
        let Placed::Flow(flow, state) = placed else { return None };
        self.describe(flow, state, facts);
        Some(Ct::Flow(flow))
    }

    /// What a packet of a flow becomes by its mapping: the inverse of what is expected the other way.
    #[inline]
    pub(crate) fn becomes(&self, flow: Flow) -> Option<Tuple> {
        self.shared.entry(flow.id).tuple(flow.dir.other()).inverted()
    }

    /// Which use of its entry a flow is.
    pub(crate) fn generation(&self, flow: Flow) -> u32 {
        self.shared.entry(flow.id).word().generation()
    }

    /// Forgets what the last [`Tracker::track_ahead`] found out: its packet needs no rules.
    #[inline]
    pub(crate) fn is_through(&mut self) {
        self.ahead = None;
    }
}
