//! The last step of a flow's first packet: from now on everybody knows the flow (`nf_conntrack_confirm`).
//!
//! Both tuples appear at once or not at all: where there are several workers their shards are held together while both are
//! looked for and put in, and lookups do not see the entry before it is live. So of two first packets that race one wins,
//! and the other either joins it or is dropped.

use super::entry::{TENTH, millis};
use super::tracker::Pending;
use super::{Ct, Entry, Flow, Life, Tracker, Word};
use crate::reason::DropReason;
use crate::sync::atomic::Ordering;
use sumun_config::facts::{Dir, Facts, proto, status};

impl Tracker {
    /// The last step of a packet that leaves (`nf_conntrack_confirm`): a flow that it begins is now known to all.
    ///
    /// # Errors
    /// The packet is to be dropped: its flow clashes with another, or there is no room.
    #[inline]
    pub fn confirm(&mut self, ct: Ct, facts: &mut Facts, now: u64) -> Result<(), DropReason> {
        match ct {
            Ct::Flow(flow) if facts.ct_status & status::CONFIRMED == 0 => self.confirm_first(flow, facts, now),
            Ct::Flow(flow) => {
                self.tell_any(flow.id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn confirm_first(&mut self, flow: Flow, facts: &mut Facts, now: u64) -> Result<(), DropReason> {
        self.now = millis(now);
        let Some(at) = self.pending.iter().position(|p| p.id == flow.id) else {
            // Another packet of the burst was first.
            facts.ct_status = self.shared.entry(flow.id).word().status();
            return Ok(());
        };
        if flow.related || flow.dir == Dir::Reply {
            // An answer of the router's own to a first packet that goes no further (REJECT): confirms nothing.
            self.let_go(flow.id);
            return Ok(());
        }
        let pending = self.pending[at];
        let start = if self.stamps { ((now / TENTH) as u32).max(1) } else { 0 };
        self.shared.cold(flow.id).start.store(start, Ordering::Relaxed);
        let number = self.number_event();
        match self.insert(&pending) {
            Ok(()) => {
                self.tell_new(flow.id, number);
                self.pending.swap_remove(at);
                self.counts().insert.bump();
                facts.ct_status = self.shared.entry(flow.id).word().status();
                Ok(())
            }
            Err(clash) => {
                if clash.is_none() {
                    self.counts().chaintoolong.bump();
                }
                let result = self.resolve(flow.id, clash, facts);
                if result == Err(DropReason::ConntrackClash) && self.insert_answers(&pending, facts) {
                    self.pending.swap_remove(at);
                    return Ok(());
                }
                if result.is_err() {
                    self.counts().insert_failed.bump();
                    self.counts().drop.bump();
                }
                self.let_go(flow.id);
                result
            }
        }
    }

    /// Puts both tuples of an unconfirmed flow into the index, unless one is there. The clashing flow, or none for no room.
    fn insert(&mut self, pending: &Pending) -> Result<(), Option<u32>> {
        let mut over = [None; 2];
        let result = self.insert_held(pending, &mut over);
        for (other, last) in over.into_iter().flatten() {
            self.unlink(other, last);
        }
        result
    }

    /// The same with the shards held; flows whose time was over and that are in the way are turned dead and put into `over`.
    fn insert_held(&self, pending: &Pending, over: &mut [Option<(u32, Word)>; 2]) -> Result<(), Option<u32>> {
        let Pending { id, hashes: [original, reply], .. } = *pending;
        let (shared, entry) = (&*self.shared, self.shared.entry(id));
        let _held = (!self.alone).then(|| shared.index.hold(original, reply));
        let divided = entry.zone(Dir::Original) != entry.zone(Dir::Reply);
        for (dir, hash) in [(Dir::Original, original), (Dir::Reply, reply)] {
            let words = entry.words(dir);
            while let Some((other, _, word)) = shared.find_as(divided.then_some(dir), hash, &words) {
                let there = shared.entry(other);
                if !there.is_over(word, self.now) {
                    return Err(Some(other));
                }
                if let Some(last) = there.turn(Life::Live, Life::Dead, status::DYING) {
                    over[dir as usize] = Some((other, last));
                }
            }
        }
        // The answer first: where a host reaches itself under the router's address, both tuples are one, and the kernel takes
        // such packets for answers.
        if !shared.index.insert(reply, id, Dir::Reply) {
            return Err(None);
        }
        if !shared.index.insert(original, id, Dir::Original) {
            shared.index.remove(reply, id, Dir::Reply);
            return Err(None);
        }
        let mut has_overtaken = false;
        if divided {
            // Another flow may have the tuple in the other direction; the kernel puts the later one in front.
            for (dir, hash) in [(Dir::Original, original), (Dir::Reply, reply)] {
                if let Some((other, there, _)) = shared.find_as(Some(dir.other()), hash, &entry.words(dir)) {
                    shared.index.overtake(hash, (id, dir), (other, there));
                    has_overtaken = true;
                }
            }
        }
        if entry.word().status() & status::SRC_NAT != 0 {
            // Before the entry is live: whoever removes it must find it here.
            shared.sources.insert(shared, id, self.hash_source(pending));
        }
        // The time-out counts from now on (the kernel: relative to confirmation, not to the first packet).
        entry.deadline.store(entry.deadline.load(Ordering::Relaxed).wrapping_add(self.now), Ordering::Relaxed);
        entry.enter(status::CONFIRMED);
        if has_overtaken {
            // Behind that: who forgets what packets looked like finds this flow from then on.
            shared.overtaken.fetch_add(1, Ordering::Release);
            self.overtakes.set(true);
        }
        Ok(())
    }

    /// The hash of the source of an unconfirmed flow.
    fn hash_source(&self, pending: &Pending) -> u64 {
        let anew = || self.shared.hasher.hash_source(&self.shared.entry(pending.id).tuple(Dir::Original));
        pending.source.unwrap_or_else(anew)
    }

    /// Two first packets of one flow were mapped each to another destination (`nf_ct_resolve_clash_harder`): the later one's
    /// answers are still to find their way, for a moment. All other packets of the flow go as the first one did. False: the
    /// answers are somebody's already, or the protocol repeats its first packets.
    fn insert_answers(&self, pending: &Pending, facts: &mut Facts) -> bool {
        /// Milliseconds.
        const MOMENT: u32 = 1000;
        let Pending { id, hashes: [_, reply], .. } = *pending;
        let (shared, entry) = (&*self.shared, self.shared.entry(id));
        let _held = (!self.alone).then(|| shared.index.hold(reply, reply));
        let divided = entry.zone(Dir::Original) != entry.zone(Dir::Reply);
        let other = shared.find_as(divided.then_some(Dir::Reply), reply, &entry.words(Dir::Reply));
        let may = other.is_none() && matches!(facts.proto, proto::UDP | proto::UDPLITE);
        if !may || !shared.index.insert(reply, id, Dir::Reply) {
            return false;
        }
        if entry.word().status() & status::SRC_NAT != 0 {
            shared.sources.insert(shared, id, self.hash_source(pending));
        }
        entry.deadline.store(self.now.wrapping_add(MOMENT), Ordering::Relaxed);
        let bits = status::CONFIRMED | status::FIXED_TIMEOUT | status::NAT_CLASH;
        entry.enter(bits);
        facts.ct_status = entry.word().status();
        // It is one flow more, which its removal counts too.
        self.counts().insert.bump();
        self.counts().clash_resolve.bump();
        true
    }

    /// Two first packets met (`nf_ct_resolve_clash`): where the flows mean the same, this packet joins the other flow.
    /// Only datagrams of UDP and UDP-Lite may; a TCP SYN is repeated by its sender.
    fn resolve(&self, loser: u32, clash: Option<u32>, facts: &mut Facts) -> Result<(), DropReason> {
        let Some(winner) = clash else { return Err(DropReason::ConntrackFull) };
        let [winner, loser] = [winner, loser].map(|id| self.shared.entry(id));
        let words = |e: &Entry| [e.words(Dir::Original), e.words(Dir::Reply)];
        let ([a, b], mine) = (words(winner), words(loser));
        let dir = match mine {
            m if m == [a, b] => Dir::Original,
            // Both ends sent at once, and each worker took its packet for the first.
            m if m == [b, a] => Dir::Reply,
            _ => return Err(DropReason::ConntrackClash),
        };
        if !matches!(facts.proto, proto::UDP | proto::UDPLITE) {
            return Err(DropReason::ConntrackClash);
        }
        let (packets, bytes) = loser.counters(Dir::Original);
        winner.count_shared(dir, packets, bytes);
        let seen = if dir == Dir::Reply { status::SEEN_REPLY } else { 0 };
        facts.ct_status = winner.set_status(seen).status();
        facts.ct_dir = dir;
        self.counts().clash_resolve.bump();
        Ok(())
    }
}
