//! How flows leave the table: deleted, over, early for want of room, or for another connection that has their tuple.

use super::entry::millis;
use super::{Entry, Life, SWEEP_PERIOD, SWEEP_STEP, Tracker, Tuple, Word, sctp, tcp};
use crate::sync::atomic::Ordering;
use sumun_config::facts::{Dir, proto, status};

impl Tracker {
    /// Makes room by removing what is over or not ASSURED in the neighbourhood of a hash.
    pub(super) fn early_drop(&mut self, hash: u64) -> bool {
        for n in 0.. {
            let Some(ids) = self.shared.index.nearby(hash, n) else { return false };
            let mut dropped = false;
            for id in ids.into_iter().flatten() {
                let entry = self.shared.entry(id);
                let word = entry.word();
                let over = entry.is_over(word, self.now);
                if word.life() == Life::Live && (over || word.status() & status::ASSURED == 0) && self.remove(id) {
                    if !over {
                        self.counts().early_drop.bump();
                    }
                    dropped = true;
                }
            }
            if dropped {
                return true;
            }
        }
        false
    }

    /// Takes a flow out of the table (`nf_ct_kill`); false where it was not in, or somebody else was first. Packets of this
    /// burst may still hold it.
    #[cold]
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        match self.shared.entry(id).turn(Life::Live, Life::Dead, status::DYING) {
            Some(last) => {
                self.unlink(id, last);
                true
            }
            None => false,
        }
    }

    /// Takes an entry that this worker turned dead out of the index; `last` is its word before.
    pub(super) fn unlink(&mut self, id: u32, last: Word) {
        let shared = &self.shared;
        let entry = shared.entry(id);
        let [original, reply] = [Dir::Original, Dir::Reply].map(|dir| shared.hasher.hash(&entry.words(dir)));
        {
            let _held = (!self.alone).then(|| shared.index.hold(original, reply));
            shared.index.remove(original, id, Dir::Original);
            shared.index.remove(reply, id, Dir::Reply);
        }
        if last.status() & status::SRC_NAT != 0 {
            shared.sources.remove(shared, id);
        }
        if last.status() & status::HELPER != 0 {
            self.give_helper(id);
        }
        let shared = &self.shared;
        if last.status() & status::DYING != 0 {
            shared.deleted.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts().delete.bump();
        self.tell_destroyed(id, last);
        self.store.retire(&self.shared.depot, id);
    }

    /// Removes expired flows. Looks at no more than about `budget` entries, and at fewer where the sweep is ahead of its
    /// time: all workers together pass the table once in eight seconds. Where a packet was refused for want of room, the
    /// rest of the round also takes what is not ASSURED or is closing, until a twentieth is free (`gc_worker_can_early_drop`).
    pub fn sweep(&mut self, now: u64, budget: usize) {
        self.now = millis(now);
        self.sweep_expectations();
        let used = self.shared.depot.used();
        if used == 0 {
            return;
        }
        let each = SWEEP_PERIOD / u64::from(used.div_ceil(SWEEP_STEP));
        for _ in 0..(budget as u64).div_ceil(SWEEP_STEP.into()) {
            let shared = &*self.shared;
            let due = shared.sweep_due.load(Ordering::Relaxed);
            // What was missed in a long sleep is not made up for: one period is the most that a sweep can be behind.
            let next = due.max(now.saturating_sub(SWEEP_PERIOD)) + each;
            if due > now || shared.sweep_due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                return;
            }
            let start = shared.sweep_at.fetch_add(SWEEP_STEP, Ordering::Relaxed) % used.next_multiple_of(SWEEP_STEP);
            if start == 0 {
                shared.pressed.store(false, Ordering::Relaxed);
            }
            let pressed = shared.pressed.load(Ordering::Relaxed);
            let enough = shared.max_flows - shared.max_flows.div_ceil(20);
            for id in start..used.min(start + SWEEP_STEP) {
                let entry = self.shared.entry(id);
                let word = entry.word();
                let over = entry.is_over(word, self.now)
                    || (pressed && self.shared.count() > enough && is_expendable(entry, word));
                if word.life() == Life::Live && over {
                    self.remove(id);
                }
            }
        }
    }

    /// Ends the connection whose answers have this tuple, if it is over and a new one wants it (`nf_nat_used_tuple_harder`): it
    /// was mapped, is in TIME_WAIT or closed, and the new one's sequence numbers have gone on from its own, so that what is
    /// still under way to the old one is not taken for the new one's. Whether it did.
    #[cold]
    pub(crate) fn give_up(&mut self, reply: &Tuple, to: u32) -> bool {
        let words = reply.words();
        let Some((old, Dir::Reply, word)) = self.lookup_known(None, self.shared.hasher.hash(&words), &words) else {
            return false;
        };
        let connection = |id: u32, word: Word| {
            let private = self.shared.private(id);
            let _held = (!self.alone).then(|| private.hold());
            tcp::Connection::from_words(word.protocol(), &private.words())
        };
        let new = connection(to, self.shared.entry(to).word());
        let is_over = tcp::State::from_bits(word.protocol()) as u32 >= tcp::State::TimeWait as u32;
        let may = word.status() & (status::FIXED_TIMEOUT | status::SRC_NAT) == status::SRC_NAT;
        new.state == tcp::State::SynSent
            && is_over
            && may
            && new.is_ahead_of(&connection(old, word))
            && self.remove(old)
    }
}

/// Whether a flow may go when the table is nearly full: it is not ASSURED, or closing.
fn is_expendable(entry: &Entry, word: Word) -> bool {
    word.status() & status::ASSURED == 0
        || match entry.tuple(Dir::Original).proto {
            proto::TCP => tcp::State::from_bits(word.protocol()).is_closing(),
            proto::SCTP => sctp::State::from_bits(word.protocol()).is_closing(),
            _ => false,
        }
}
