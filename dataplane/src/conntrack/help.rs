//! What a tracker does for helpers: flows get one, packets are shown to it, expected flows are welcomed.

use super::expect::{Expectation, Tally};
use super::helper::{Exchange, protocol_of};
use super::seqadj::adjust;
use super::{Conntrack, Flow, NONE, Tracker, change, millis};
use crate::reason::DropReason;
use crate::sync::atomic::Ordering;
use crate::umem::Frame;
use sumun_config::facts::{CtState, Dir, Facts, proto, status};

impl Conntrack {
    /// The flow's cold line says that it has a helper: gives it its line of what helped flows have. Where none is left it
    /// goes on without.
    pub(super) fn take_helper(&self, id: u32) {
        let cold = self.cold(id);
        match self.expectations.take_line() {
            Some(line) => {
                self.helped[line as usize].take(id);
                cold.helped.store(line + 1, Ordering::Relaxed);
                self.entry(id).set_status(status::HELPER);
            }
            None => cold.helper.store(0, Ordering::Relaxed),
        }
    }
}

impl Tracker {
    /// A flow has ended: gives its line back, and with it what it expected (`nf_ct_helper_destroy`).
    #[cold]
    pub(super) fn give_helper(&mut self, id: u32) {
        let line = {
            let _held = (!self.alone).then(|| self.shared.private(id).hold());
            let line = self.shared.cold(id).helped.swap(0, Ordering::Relaxed).wrapping_sub(1);
            if line != NONE {
                self.shared.helped[line as usize].give();
            }
            line
        };
        if line != NONE {
            let mut tally = Tally::default();
            self.shared.expectations.give_line(&self.shared, line, &mut tally);
            self.count_expectations(tally);
        }
    }

    fn count_expectations(&self, tally: Tally) {
        self.counts().expect_create.add(tally.made.into());
        self.counts().expect_delete.add(tally.removed.into());
    }

    /// The expectation that a first packet fits, if anything is expected at all.
    #[inline]
    pub(super) fn expected(&self, tuple: &super::Tuple) -> Option<Expectation> {
        if self.shared.expectations.is_empty() {
            return None;
        }
        let mut tally = Tally::default();
        let found = self.shared.expectations.find(&self.shared, tuple, self.now, &mut tally);
        self.count_expectations(tally);
        found
    }

    /// Removes some of the expectations whose time is over.
    pub(super) fn sweep_expectations(&self) {
        if !self.shared.expectations.is_empty() {
            let mut tally = Tally::default();
            self.shared.expectations.sweep(&self.shared, self.now, &mut tally);
            self.count_expectations(tally);
        }
    }

    /// A new flow is one that was expected (`init_conntrack`): it has its master's marks, and goes where its master goes.
    pub(super) fn welcome(&mut self, flow: Flow, e: &Expectation) -> Result<(), DropReason> {
        let (entry, cold) = (self.shared.entry(flow.id), self.shared.cold(flow.id));
        let master = self.shared.entry(e.master);
        entry.mark.store(master.mark.load(Ordering::Relaxed), Ordering::Relaxed);
        self.shared.begin_secmark(flow.id, self.shared.secmark_of(e.master));
        cold.master_helper.store(e.helper as u8, Ordering::Relaxed);
        cold.helper.store(e.assigned.map_or(0, |helper| helper as u8), Ordering::Relaxed);
        entry.set_status(status::EXPECTED | status::EXTRA);
        if e.assigned.is_some() {
            self.shared.take_helper(flow.id);
        }
        self.counts().expect_new.bump();
        match e.follow {
            Some(follow) => self.follow(flow, e.master, follow, self.shared.hash(&e.tuple) as u32 ^ self.now),
            None => Ok(()),
        }
    }

    /// Shows a packet that leaves to its flow's helper, and moves its sequence numbers by what was changed before it
    /// (`nf_confirm`). Only where the flow's status says HELPER or SEQ_ADJUST. `random` is a fresh random number.
    ///
    /// # Errors
    /// The packet is to be dropped: the helper says so, or its options are malformed.
    pub fn help(
        &mut self,
        flow: Flow,
        frame: &mut Frame,
        l3: u16,
        facts: &mut Facts,
        now: u64,
        random: u32,
    ) -> Result<(), DropReason> {
        self.now = millis(now);
        // Errors about the flow are not part of it.
        if flow.related {
            return Ok(());
        }
        let _held = (!self.alone).then(|| self.shared.private(flow.id).hold());
        let cold = self.shared.cold(flow.id);
        let slot = cold.helped.load(Ordering::Relaxed).wrapping_sub(1);
        let moves = facts.ct_status & status::SEQ_ADJUST != 0;
        if let Some(protocol) = cold.helper().and_then(protocol_of)
            && protocol.helper.protocol() == facts.proto
            && self.shared.helped.get(slot as usize).is_some_and(|helped| helped.is_of(flow.id))
        {
            let entry = self.shared.entry(flow.id);
            let mut exchange = Exchange {
                shared: &self.shared,
                id: flow.id,
                slot,
                protocol,
                tuples: [Dir::Original, Dir::Reply].map(|dir| entry.tuple(dir)),
                dir: flow.dir,
                state: facts.ct_state,
                status: entry.word().status(),
                now: self.now,
                random,
                made: Tally::default(),
                frame,
                l3,
                facts,
            };
            let before = cold.shift(flow.dir);
            let said = (protocol.help)(&mut exchange);
            let made = exchange.made;
            if cold.shift(flow.dir) != before {
                self.changed(flow.id, change::SEQADJ);
            }
            self.count_expectations(made);
            if said.is_err() {
                self.counts().drop.bump();
            }
            said?;
        }
        if moves && facts.proto == proto::TCP {
            let (own, other) = (cold.shift(flow.dir), cold.shift(flow.dir.other()));
            let start = usize::from(l3);
            let bytes = frame.bytes_mut().get_mut(start..start + usize::from(facts.len)).unwrap_or_default();
            if !adjust(bytes, facts, &own, &other) {
                self.counts().drop.bump();
                return Err(DropReason::MalformedTcp);
            }
        }
        Ok(())
    }

    /// By how much what a segment acknowledges has moved on its way to its sender. To be called with the flow's private
    /// line held.
    #[cold]
    pub(super) fn moved(&self, flow: Flow, acknowledgement: u32) -> u32 {
        self.shared.cold(flow.id).shift(flow.dir.other()).of(acknowledgement.wrapping_sub(1))
    }
}

/// What a packet of the original direction is to its flow until it is answered.
#[inline]
pub(super) const fn unanswered(bits: u32) -> CtState {
    if bits & status::EXPECTED != 0 { CtState::Related } else { CtState::New }
}
