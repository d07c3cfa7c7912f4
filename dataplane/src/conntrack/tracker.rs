//! A worker's hand on the flow table: track, confirm, abandon, remove.
//!
//! The steps and their order are those of the kernel's `nf_conntrack_core.c`. A packet that is tracked ends with either
//! [`Tracker::confirm`] or [`Tracker::abandon`]; until then its worker holds the flow. Packets of one burst that start
//! the same flow share its unconfirmed entry.

use super::entry::{clamp, millis};
use super::protocol::{self, Verdict};
use super::reclaim::Store;
use super::tuple::{Tuple, WORDS, has_ports};
use super::{Conntrack, Counts, Ct, Entry, Flow, Life, SWEEP_PERIOD, SWEEP_STEP, Word, tcp};
use crate::packet::parse;
use crate::reason::DropReason;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sumun_config::facts::{CtState, Dir, Facts, Family, PortId, proto, status};
use sumun_config::model::Sysctl;

/// Most unconfirmed flows of a worker at a time: several bursts' worth.
const PENDING: usize = 512;
/// Slots in which packets of one burst are warmed up.
const BURST: usize = 64;

/// An unconfirmed flow.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub id: u32,
    /// Packets of this worker that hold it.
    holders: u32,
    /// Of its two tuples.
    pub hashes: [u64; 2],
}

/// Where a packet was placed.
enum Placed {
    Flow(Flow, CtState),
    Untracked,
    Invalid,
}

/// One worker's access to the flow table. Made and owned by its engine; there is one for each worker number at a time.
pub struct Tracker {
    pub(crate) shared: Arc<Conntrack>,
    worker: usize,
    store: Store,
    pub(super) pending: Vec<Pending>,
    /// Time of the last packet or burst, in the clock of deadlines.
    pub(crate) now: u32,
    alone: bool,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.abandon_all();
        self.store.close(&self.shared.depot);
    }
}

impl Tracker {
    /// The tracker of worker number `worker` (below the number that the table was made for). It is online: others wait for
    /// its [`Tracker::quiescent`].
    pub fn new(shared: Arc<Conntrack>, worker: usize) -> Tracker {
        assert!(worker < shared.depot.workers(), "worker {worker} of a table made for fewer");
        let store = Store::new(&shared.depot, worker);
        let alone = shared.depot.workers() == 1;
        Tracker { shared, worker, store, pending: Vec::with_capacity(PENDING), now: 0, alone }
    }

    /// The table.
    pub fn conntrack(&self) -> &Arc<Conntrack> {
        &self.shared
    }

    #[inline]
    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts[self.worker]
    }

    /// Loads what the packets of a burst will need (buckets, then entries), so that their cache misses overlap. `hashes`
    /// come from [`Conntrack::hash_of`].
    pub fn warm(&self, hashes: &[u64]) {
        for burst in hashes.chunks(BURST) {
            let mut found = [None; BURST];
            for (slot, hash) in found.iter_mut().zip(burst) {
                *slot = self.shared.index.candidate(*hash);
            }
            let mut sum = 0u64;
            for id in found.iter().flatten() {
                let entry = self.shared.entry(*id);
                sum ^= entry.word().0 ^ entry.counters(Dir::Reply).1;
            }
            black_box(sum);
        }
    }

    /// Places a packet (`nf_conntrack_in`): finds its flow or begins one, and tells the protocol's tracker. Sets all `ct_*`
    /// of the facts and `has_ct`. `l3` starts at the IP header; `now` is monotonic, in nanoseconds.
    ///
    /// # Errors
    /// The packet is to be dropped: no room for the flow, or its protocol says so.
    #[inline]
    pub fn track(&mut self, facts: &mut Facts, l3: &[u8], now: u64, s: &Sysctl) -> Result<Ct, DropReason> {
        self.now = millis(now);
        facts.has_ct = false;
        facts.ct_dir = Dir::Original;
        facts.ct_status = 0;
        facts.ct_mark = 0;
        let placed = self.place(facts, l3, s).inspect_err(|_| self.counts().drop.bump())?;
        Ok(match placed {
            Placed::Flow(flow, state) => {
                self.describe(flow, state, facts);
                Ct::Flow(flow)
            }
            Placed::Untracked => {
                facts.ct_state = CtState::Untracked;
                Ct::Untracked
            }
            Placed::Invalid => {
                self.counts().invalid.bump();
                facts.ct_state = CtState::Invalid;
                Ct::None
            }
        })
    }

    #[inline]
    fn describe(&self, flow: Flow, state: CtState, facts: &mut Facts) {
        let entry = self.shared.entry(flow.id);
        facts.has_ct = true;
        facts.ct_state = state;
        facts.ct_dir = flow.dir;
        facts.ct_proto = if flow.related { entry.tuple(Dir::Original).proto } else { facts.proto };
        facts.ct_status = entry.word().status();
        facts.ct_mark = entry.mark.load(Ordering::Relaxed);
    }

    #[inline]
    fn place(&mut self, facts: &Facts, l3: &[u8], s: &Sysctl) -> Result<Placed, DropReason> {
        // Later fragments have no ports to be placed by (`ipv4_get_l4proto`); defragmentation comes before us.
        if facts.is_later_fragment() || (has_ports(facts.proto) && !facts.has_l4) {
            return Ok(Placed::Invalid);
        }
        // IPv6 that ends with its headers has nothing to track (`ipv6_skip_exthdr` finds no upper layer).
        if facts.family == Family::V6 && facts.proto == proto::NONE {
            return Ok(Placed::Invalid);
        }
        // Only what came in on a port is checked: what the router makes itself has no other chance to be wrong.
        if s.nf_conntrack_checksum && facts.iif != PortId::NONE && !parse::l4_checksum_ok(facts, l3) {
            if facts.icmp().is_some() {
                self.counts().error.bump();
            }
            return Ok(Placed::Invalid);
        }
        if let Some((kind, _)) = facts.icmp() {
            match protocol::icmp(facts, kind, l3) {
                protocol::Icmp::Query => {}
                protocol::Icmp::Untracked => return Ok(Placed::Untracked),
                protocol::Icmp::Invalid => {
                    self.counts().error.bump();
                    return Ok(Placed::Invalid);
                }
                protocol::Icmp::Error { quote } => return Ok(self.place_error(facts, l3, quote)),
            }
        }
        let tuple = Tuple::of(facts);
        let words = tuple.words();
        let hash = self.shared.hasher.hash(&words);
        // Twice: the protocol may end the flow that was found, and the packet begins another.
        for _ in 0..2 {
            let (flow, word) = match self.lookup(hash, &words) {
                Some((id, dir, word)) => (Flow { id, dir, related: false }, word),
                None => match self.begin(&tuple, hash)? {
                    Some(found) => found,
                    None => return Ok(Placed::Invalid),
                },
            };
            let state = match flow.dir {
                Dir::Original if word.status() & status::SEEN_REPLY == 0 => CtState::New,
                _ => CtState::Established,
            };
            let held = word.life() == Life::Unconfirmed;
            match self.tell(flow, word, facts, l3, s) {
                Verdict::Accept => {
                    if flow.dir == Dir::Reply && word.status() & status::SEEN_REPLY == 0 {
                        self.shared.entry(flow.id).set_status(status::SEEN_REPLY);
                    }
                    return Ok(Placed::Flow(flow, state));
                }
                Verdict::Refused => {
                    // The refusal is an answer too, and its rules see so.
                    if flow.dir == Dir::Reply {
                        self.shared.entry(flow.id).set_status(status::SEEN_REPLY);
                    }
                    self.remove(flow.id);
                    return Ok(Placed::Flow(flow, state));
                }
                Verdict::Invalid => {
                    if held {
                        self.let_go(flow.id);
                    }
                    return Ok(Placed::Invalid);
                }
                Verdict::Reopen => {
                    if held || !self.remove(flow.id) {
                        // Somebody else is removing it: the kernel drops the packet, and its sender repeats it.
                        break;
                    }
                }
            }
        }
        self.counts().invalid.bump();
        Err(DropReason::ConntrackDrop)
    }

    /// The flow that an ICMP error is about (`nf_conntrack_inet_error`).
    #[cold]
    fn place_error(&mut self, facts: &Facts, l3: &[u8], quote: usize) -> Placed {
        match self.find_quoted(facts, l3, quote) {
            Some(flow) => Placed::Flow(flow, CtState::Related),
            None => {
                self.counts().error.bump();
                Placed::Invalid
            }
        }
    }

    fn find_quoted(&mut self, facts: &Facts, l3: &[u8], quote: usize) -> Option<Flow> {
        let quoted = parse::embedded(facts.family, l3.get(quote..usize::from(facts.len))?)?;
        if quoted.is_later_fragment() || (has_ports(quoted.proto) && !quoted.has_l4) {
            return None;
        }
        let tuple = Tuple::of(&quoted).inverted()?;
        let words = tuple.words();
        let (id, dir, _) = self.lookup_known(self.shared.hasher.hash(&words), &words)?;
        // The error must go to the end whose packet it quotes, else anybody could make packets RELATED.
        (self.shared.entry(id).tuple(dir).dst == facts.dst).then_some(Flow { id, dir, related: true })
    }

    /// The flow that has this tuple: in the table, or begun by this worker in this burst, which then holds it once more.
    #[inline]
    fn lookup(&mut self, hash: u64, words: &[u64; WORDS]) -> Option<(u32, Dir, Word)> {
        let known = self.lookup_known(hash, words);
        if known.is_some() || self.pending.is_empty() {
            return known;
        }
        let (at, dir) = self.find_pending(hash, words)?;
        self.pending[at].holders += 1;
        let id = self.pending[at].id;
        Some((id, dir, self.shared.entry(id).word()))
    }

    /// The flow in the table that has this tuple. Expired ones are removed on the way.
    #[inline]
    fn lookup_known(&mut self, hash: u64, words: &[u64; WORDS]) -> Option<(u32, Dir, Word)> {
        while let Some((id, dir, word)) = self.shared.find(hash, words) {
            if !self.shared.entry(id).is_over(word, self.now) {
                return Some((id, dir, word));
            }
            self.remove(id);
        }
        None
    }

    fn find_pending(&self, hash: u64, words: &[u64; WORDS]) -> Option<(usize, Dir)> {
        self.pending.iter().enumerate().find_map(|(at, p)| {
            let is = |dir: Dir| p.hashes[dir as usize] == hash && self.shared.entry(p.id).is(dir, words);
            [Dir::Original, Dir::Reply].into_iter().find(|d| is(*d)).map(|d| (at, d))
        })
    }

    /// Begins a flow (`init_conntrack`); none where the tuple has no answer.
    #[cold]
    fn begin(&mut self, tuple: &Tuple, hash: u64) -> Result<Option<(Flow, Word)>, DropReason> {
        let Some(reply) = tuple.inverted() else { return Ok(None) };
        if self.pending.len() == PENDING {
            return Err(DropReason::ConntrackFull);
        }
        let id = match self.store.take(&self.shared.depot) {
            Some(id) => id,
            None if self.early_drop(hash) => self.store.take(&self.shared.depot).ok_or(DropReason::ConntrackFull)?,
            None => return Err(DropReason::ConntrackFull),
        };
        let entry = self.shared.entry(id);
        entry.start(tuple, &reply);
        self.pending.push(Pending { id, holders: 1, hashes: [hash, self.shared.hash(&reply)] });
        Ok(Some((Flow { id, dir: Dir::Original, related: false }, entry.word())))
    }

    /// Makes room by removing what is over or not ASSURED in the neighbourhood of a hash.
    fn early_drop(&mut self, hash: u64) -> bool {
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

    /// Tells the protocol's tracker of a packet, and carries out what it says of state and time.
    #[inline]
    fn tell(&mut self, flow: Flow, mut word: Word, facts: &Facts, l3: &[u8], s: &Sysctl) -> Verdict {
        let entry = self.shared.entry(flow.id);
        let timeout = if facts.proto == proto::TCP {
            let Some(segment) = protocol::segment(facts, l3) else { return Verdict::Invalid };
            loop {
                let c = tcp::Connection::from_bits(word.protocol());
                let syn_end = &self.shared.cold(flow.id).syn_end;
                let last_end = syn_end.load(Ordering::Relaxed);
                let (new, timeout) = match tcp::judge(c, flow.dir, &segment, word.status(), last_end, s) {
                    tcp::Step::Invalid => return Verdict::Invalid,
                    tcp::Step::Reopen => return Verdict::Reopen,
                    tcp::Step::Refused => {
                        self.account(entry, flow.dir, facts, s);
                        return Verdict::Refused;
                    }
                    tcp::Step::Ignored(to, end) => {
                        if let Some(end) = end {
                            syn_end.store(end, Ordering::Relaxed);
                        }
                        (word.with_protocol(to.bits()), None)
                    }
                    tcp::Step::Moved { to, status, timeout } => {
                        (word.with_protocol(to.bits()).with_status(status), timeout)
                    }
                };
                if new == word {
                    break timeout;
                }
                match entry.swap(word, new) {
                    Ok(()) => break timeout,
                    Err(now) if now.life() == word.life() => word = now,
                    // Removed by another worker at this moment.
                    Err(_) => return Verdict::Reopen,
                }
            }
        } else {
            match protocol::judge(entry, word, facts, l3, self.now, s) {
                Some(timeout) => Some(timeout),
                None => return Verdict::Invalid,
            }
        };
        if let Some(timeout) = timeout {
            let timeout = clamp(timeout);
            let live = word.life() != Life::Unconfirmed;
            if word.status() & status::FIXED_TIMEOUT == 0 {
                entry.set_deadline(if live { self.now.wrapping_add(timeout) } else { timeout });
            }
            self.account(entry, flow.dir, facts, s);
        }
        Verdict::Accept
    }

    #[inline]
    fn account(&self, entry: &Entry, dir: Dir, facts: &Facts, s: &Sysctl) {
        match (s.nf_conntrack_acct, self.alone) {
            (false, _) => {}
            (true, true) => entry.count_alone(dir, u64::from(facts.len)),
            (true, false) => entry.count_shared(dir, 1, u64::from(facts.len)),
        }
    }

    /// A packet ends before it could confirm: a flow that it begins never was.
    #[inline]
    pub fn abandon(&mut self, ct: Ct) {
        if let Ct::Flow(flow) = ct
            && !self.pending.is_empty()
        {
            self.let_go(flow.id);
        }
    }

    /// One packet less holds an unconfirmed flow; the last one frees it.
    #[cold]
    pub(super) fn let_go(&mut self, id: u32) {
        if let Some(at) = self.pending.iter().position(|p| p.id == id) {
            self.pending[at].holders -= 1;
            if self.pending[at].holders == 0 {
                self.pending.swap_remove(at);
                self.shared.entry(id).turn(Life::Unconfirmed, Life::Free, 0);
                self.store.put_back(&self.shared.depot, id);
            }
        }
    }

    fn abandon_all(&mut self) {
        while let Some(pending) = self.pending.pop() {
            self.shared.entry(pending.id).turn(Life::Unconfirmed, Life::Free, 0);
            self.store.put_back(&self.shared.depot, pending.id);
        }
    }

    /// Makes a packet of the router's own an error about the flow of its cause (`nf_conntrack_attach`, for REJECT and for
    /// ICMP errors about forwarded packets): RELATED, the other way. Sets the facts. Ends with confirm or abandon as well.
    pub fn attach(&mut self, cause: Ct, facts: &mut Facts) -> Ct {
        let Ct::Flow(cause) = cause else { return Ct::None };
        if let Some(p) = self.pending.iter_mut().find(|p| p.id == cause.id) {
            p.holders += 1;
        }
        let flow = Flow { id: cause.id, dir: cause.dir.other(), related: true };
        self.describe(flow, CtState::Related, facts);
        Ct::Flow(flow)
    }

    /// The router reset a connection (`nf_conntrack_tcp_set_closing`): it ends as if a reset had been seen.
    pub fn set_closing(&mut self, ct: Ct, s: &Sysctl) {
        let Ct::Flow(flow) = ct else { return };
        let entry = self.shared.entry(flow.id);
        let mut word = entry.word();
        if entry.tuple(Dir::Original).proto != proto::TCP {
            return;
        }
        while word.life() == Life::Live {
            let before = tcp::Connection::from_bits(word.protocol());
            let mut closed = before;
            closed.state = tcp::State::Close;
            match entry.swap(word, word.with_protocol(closed.bits())) {
                Ok(()) => {
                    if before.state != tcp::State::Close && word.status() & status::FIXED_TIMEOUT == 0 {
                        let timeout = clamp(tcp::State::Close.timeout(s));
                        entry.set_deadline(self.now.wrapping_add(timeout));
                    }
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Sets the flow's mark.
    pub fn set_mark(&mut self, ct: Ct, mark: u32) {
        if let Ct::Flow(flow) = ct {
            self.shared.entry(flow.id).mark.store(mark, Ordering::Relaxed);
        }
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
            let _held = shared.index.hold(original, reply);
            shared.index.remove(original, id, Dir::Original);
            shared.index.remove(reply, id, Dir::Reply);
        }
        if last.status() & status::SRC_NAT != 0 {
            shared.sources.remove(shared, id);
        }
        if last.status() & status::DYING != 0 {
            shared.deleted.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts().delete.bump();
        self.store.retire(&self.shared.depot, id);
    }

    /// Between bursts: no packet of this worker holds a flow any more. Entries that were removed long enough ago become free.
    #[inline]
    pub fn quiescent(&mut self, now: u64) {
        self.now = millis(now);
        if !self.pending.is_empty() {
            self.abandon_all();
        }
        self.store.quiescent(&self.shared.depot);
    }

    /// Before the worker sleeps: the others need not wait for it. It must hold no packet that is tracked.
    pub fn offline(&mut self) {
        self.abandon_all();
        self.store.offline(&self.shared.depot);
    }

    /// After the worker slept, before it tracks anything.
    pub fn online(&mut self) {
        self.store.online(&self.shared.depot);
    }

    /// Removes expired flows. Looks at no more than about `budget` entries, and at fewer where the sweep is ahead of its
    /// time: all workers together pass the table once in eight seconds. A table that is nearly full loses
    /// closing connections too (`gc_worker_can_early_drop`).
    pub fn sweep(&mut self, now: u64, budget: usize) {
        self.now = millis(now);
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
            let tight = shared.count() > shared.max_flows - shared.max_flows / 20;
            for id in start..used.min(start + SWEEP_STEP) {
                let entry = self.shared.entry(id);
                let word = entry.word();
                let over = entry.is_over(word, self.now) || (tight && is_expendable(entry, word));
                if word.life() == Life::Live && over {
                    self.remove(id);
                }
            }
        }
    }

    /// Whether a tuple is somebody's: of a flow in the table, or of one that this worker has begun. Flow `but` does not
    /// count. `spare` is asked about the flow found.
    pub(crate) fn is_taken(&self, tuple: &Tuple, but: u32, spare: impl Fn(&Entry) -> bool) -> bool {
        let words = tuple.words();
        let hash = self.shared.hasher.hash(&words);
        let in_table = self.shared.find(hash, &words).is_some_and(|(id, _, word)| {
            let entry = self.shared.entry(id);
            id != but && !entry.is_over(word, self.now) && !spare(entry)
        });
        let taken = in_table
            || self.pending.iter().any(|p| {
                let entry = self.shared.entry(p.id);
                let is = |dir: Dir| p.hashes[dir as usize] == hash && entry.is(dir, &words);
                p.id != but && (is(Dir::Original) || is(Dir::Reply)) && !spare(entry)
            });
        if taken {
            self.counts().found.bump();
        }
        taken
    }

    /// Changes the reply tuple of an unconfirmed flow (`nf_conntrack_alter_reply`).
    pub(crate) fn alter_reply(&mut self, id: u32, reply: &Tuple) {
        let hash = self.shared.hash(reply);
        if let Some(pending) = self.pending.iter_mut().find(|p| p.id == id) {
            pending.hashes[Dir::Reply as usize] = hash;
            self.shared.entry(id).set_tuple(Dir::Reply, reply);
        }
    }
}

/// Whether a flow may go when the table is nearly full: it is not ASSURED, or closing.
fn is_expendable(entry: &Entry, word: Word) -> bool {
    let tcp = entry.tuple(Dir::Original).proto == proto::TCP;
    word.status() & status::ASSURED == 0 || (tcp && tcp::Connection::from_bits(word.protocol()).state.is_closing())
}
