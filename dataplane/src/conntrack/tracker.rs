//! A worker's hand on the flow table: track, confirm, abandon, remove.
//!
//! The steps and their order are those of the kernel's `nf_conntrack_core.c`. A packet that is tracked ends with either
//! [`Tracker::confirm`] or [`Tracker::abandon`]; until then its worker holds the flow. Packets of one burst that start
//! the same flow share its unconfirmed entry.

use super::entry::millis;
use super::protocol::{self, Part};
use super::reclaim::Store;
use super::tell::Joined;
use super::tuple::{Tuple, WORDS};
use super::{Conntrack, Counts, Ct, Entry, Flow, Invalid, Life, Template, Timeouts, Word, change};
use crate::packet::parse;
use crate::reason::DropReason;
use crate::sync::atomic::Ordering;
use std::cell::Cell;
use std::sync::Arc;
use sumun_config::facts::{CtState, Dir, Facts, PortId, status};
use sumun_config::model::Sysctl;

/// Milliseconds by which kernels count the lives of flows (`jiffies`, at 250 a second).
const JIFFY: u32 = 4;
/// Most unconfirmed flows of a worker at a time: several bursts' worth.
const PENDING: usize = 512;

/// An unconfirmed flow.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub id: u32,
    /// Packets of this worker that hold it.
    holders: u32,
    /// Of its two tuples.
    pub hashes: [u64; 2],
    /// Of its source, where that was mapped.
    pub source: Option<u64>,
}

/// Where a packet was placed.
#[derive(Clone, Copy)]
pub(super) enum Placed {
    Flow(Flow, CtState),
    Untracked,
    Invalid(Invalid),
}

/// One worker's access to the flow table. Made and owned by its engine; there is one for each worker number at a time.
pub struct Tracker {
    pub(crate) shared: Arc<Conntrack>,
    pub(super) worker: usize,
    pub(super) store: Store,
    pub(super) pending: Vec<Pending>,
    /// Time of the last packet or burst, in the clock of deadlines.
    pub(crate) now: u32,
    pub(super) alone: bool,
    /// Ends of a flow's life that are nearer than so many milliseconds count as one. Where packets come to several workers a line
    /// that all of them read is not to be written for each.
    pub(super) near: u32,
    /// [`Conntrack::overtaken`] when this burst began, and whether this worker has raised it since.
    pub(super) overtaken: u32,
    pub(super) overtakes: Cell<bool>,
    /// Why the last packet is INVALID.
    why: Option<Invalid>,
    /// Where the packet at work was placed ahead of its turn ([`Tracker::track_known`]).
    pub(super) ahead: Option<Placed>,
    pub(super) timeouts: Timeouts,
    /// The address that the last source was mapped to, by family: where the next one is likely to go.
    pub(crate) mapped_to: [Option<u128>; 2],
    /// Something changed in this burst that is to be told.
    pub(super) eventful: Cell<bool>,
    /// Flows that begin keep when they did.
    pub(super) stamps: bool,
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
        Tracker {
            shared,
            worker,
            store,
            pending: Vec::with_capacity(PENDING),
            now: 0,
            overtaken: 0,
            overtakes: Cell::new(false),
            alone,
            near: if alone { 1 } else { JIFFY },
            why: None,
            ahead: None,
            eventful: Cell::new(false),
            stamps: false,
            timeouts: Timeouts::default(),
            mapped_to: [None; 2],
        }
    }

    /// From now on flows that have a time-out policy have these settings.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// The table.
    pub fn conntrack(&self) -> &Arc<Conntrack> {
        &self.shared
    }

    #[inline]
    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts[self.worker]
    }

    /// Places a packet (`nf_conntrack_in`): finds its flow or begins one, and tells the protocol's tracker. Sets all `ct_*`
    /// of the facts and `has_ct`. `l3` starts at the IP header; `now` is monotonic, in nanoseconds.
    ///
    /// # Errors
    /// The packet is to be dropped: no room for the flow, or its protocol says so.
    #[inline]
    pub fn track(&mut self, facts: &mut Facts, l3: &[u8], now: u64, s: &Sysctl) -> Result<Ct, DropReason> {
        self.track_as(&Template::default(), facts, l3, now, s)
    }

    /// The same for a packet with a template.
    ///
    /// # Errors
    /// As [`Tracker::track`].
    #[inline]
    pub fn track_as(
        &mut self,
        template: &Template,
        facts: &mut Facts,
        l3: &[u8],
        now: u64,
        s: &Sysctl,
    ) -> Result<Ct, DropReason> {
        self.now = millis(now);
        self.begin_to_track(facts);
        let placed = match self.ahead.take() {
            Some(placed) => placed,
            None => self.place(template, facts, l3, s).inspect_err(|_| self.counts().drop.bump())?,
        };
        Ok(match placed {
            Placed::Flow(flow, state) => {
                self.describe(flow, state, facts);
                Ct::Flow(flow)
            }
            Placed::Untracked => {
                facts.ct_state = CtState::Untracked;
                Ct::Untracked
            }
            Placed::Invalid(why) => {
                self.counts().invalid.bump();
                self.shared.invalid[self.worker].0[why as usize].bump();
                self.why = Some(why);
                facts.ct_state = CtState::Invalid;
                Ct::None
            }
        })
    }

    /// Nothing is known of a packet yet.
    #[inline]
    pub(super) fn begin_to_track(&mut self, facts: &mut Facts) {
        (facts.has_ct, facts.ct_dir, facts.ct_status, facts.ct_mark) = (false, Dir::Original, 0, 0);
        self.why = None;
    }

    /// The entries that this worker has free, waiting or unconfirmed, and its credit.
    #[cfg(all(test, feature = "model"))]
    pub(super) fn inventory(&self) -> (Vec<u32>, u32) {
        let (mut ids, credit) = self.store.inventory(&self.shared.depot);
        ids.extend(self.pending.iter().map(|p| p.id));
        (ids, credit)
    }

    /// Why the packet that was tracked last is INVALID, if it is.
    pub fn why_invalid(&self) -> Option<Invalid> {
        self.why
    }

    #[inline]
    pub(super) fn describe(&self, flow: Flow, state: CtState, facts: &mut Facts) {
        let entry = self.shared.entry(flow.id);
        facts.has_ct = true;
        facts.ct_state = state;
        facts.ct_dir = flow.dir;
        facts.ct_proto = if flow.related { entry.tuple(Dir::Original).proto } else { facts.proto };
        facts.ct_status = entry.word().status();
        facts.ct_mark = entry.mark.load(Ordering::Relaxed);
    }

    #[inline]
    fn place(&mut self, template: &Template, facts: &Facts, l3: &[u8], s: &Sysctl) -> Result<Placed, DropReason> {
        let mut tuple = match protocol::tuple(facts, l3) {
            Ok(tuple) => tuple,
            Err(why) => return Ok(Placed::Invalid(why)),
        };
        // Only what came in on a port is checked: what the router makes itself has no other chance to be wrong.
        if s.nf_conntrack_checksum && facts.iif != PortId::NONE && !is_sum_right(facts, l3) {
            if facts.icmp().is_some() {
                self.counts().error.bump();
            }
            return Ok(Placed::Invalid(Invalid::Checksum));
        }
        if let Some((kind, _)) = facts.icmp() {
            match protocol::icmp(facts, kind, l3) {
                protocol::Icmp::Query => {}
                protocol::Icmp::Untracked => return Ok(Placed::Untracked),
                protocol::Icmp::Invalid => {
                    self.counts().error.bump();
                    return Ok(Placed::Invalid(Invalid::IcmpType));
                }
                protocol::Icmp::Error { quote } => return Ok(self.place_error(template, facts, l3, quote)),
            }
        }
        tuple.zone = template.zones[0];
        let words = tuple.words();
        let hash = self.shared.hasher.hash(&words);
        // Twice: the protocol may end the flow that was found, and the packet begins another.
        for _ in 0..2 {
            let found = match template.is_divided() {
                false => self.lookup(None, hash, &words),
                true => self.lookup_divided(template, &tuple),
            };
            let (flow, word) = match found {
                Some((id, dir, word)) => (Flow { id, dir, related: false }, word),
                None => {
                    self.stamps = s.nf_conntrack_timestamp;
                    match self.begin(&tuple, hash, template)? {
                        Some(found) => found,
                        None => return Ok(Placed::Invalid(Invalid::NoQuery)),
                    }
                }
            };
            match self.join(flow, word, &Part::of(facts, l3), s) {
                Joined::Placed(placed) => return Ok(placed),
                Joined::Anew => {}
                Joined::Lost => break,
            }
        }
        self.counts().invalid.bump();
        Err(DropReason::ConntrackDrop)
    }

    /// The flow that an ICMP error is about (`nf_conntrack_inet_error`).
    #[cold]
    fn place_error(&mut self, template: &Template, facts: &Facts, l3: &[u8], quote: usize) -> Placed {
        match self.find_quoted(template, facts, l3, quote) {
            Some(flow) => Placed::Flow(flow, CtState::Related),
            None => {
                self.counts().error.bump();
                Placed::Invalid(Invalid::IcmpError)
            }
        }
    }

    fn find_quoted(&mut self, template: &Template, facts: &Facts, l3: &[u8], quote: usize) -> Option<Flow> {
        let packet = l3.get(quote..usize::from(facts.len))?;
        let quoted = parse::embedded(facts.family, packet)?;
        let tuple = protocol::tuple(&quoted, packet).ok()?.inverted()?;
        let [original, reply] = template.zones;
        let (id, dir, _) = match template.is_divided() {
            false => self.lookup_in(original, None, &tuple),
            true => self
                .lookup_in(original, Some(Dir::Original), &tuple)
                .or_else(|| self.lookup_in(reply, Some(Dir::Reply), &tuple)),
        }?;
        // The error must go to the end whose packet it quotes, else anybody could make packets RELATED.
        (self.shared.entry(id).tuple(dir).dst == facts.dst).then_some(Flow { id, dir, related: true })
    }

    /// The flow that has this tuple: in the table, or begun by this worker in this burst, which then holds it once more.
    #[inline]
    fn lookup(&mut self, only: Option<Dir>, hash: u64, words: &[u64; WORDS]) -> Option<(u32, Dir, Word)> {
        let known = self.lookup_known(only, hash, words);
        if known.is_some() || self.pending.is_empty() {
            return known;
        }
        let (at, dir) = self.find_pending(only, hash, words)?;
        self.pending[at].holders += 1;
        let id = self.pending[at].id;
        Some((id, dir, self.shared.entry(id).word()))
    }

    /// The flow that has this tuple in zones that are not the same for both directions: as an original one in the one, or
    /// else as a reply in the other (`resolve_normal_ct`).
    #[cold]
    fn lookup_divided(&mut self, template: &Template, tuple: &Tuple) -> Option<(u32, Dir, Word)> {
        [Dir::Original, Dir::Reply].into_iter().find_map(|dir| {
            let words = Tuple { zone: template.zones[dir as usize], ..*tuple }.words();
            self.lookup(Some(dir), self.shared.hasher.hash(&words), &words)
        })
    }

    /// The flow in the table that has this tuple in a zone.
    fn lookup_in(&mut self, zone: u16, only: Option<Dir>, tuple: &Tuple) -> Option<(u32, Dir, Word)> {
        let words = Tuple { zone, ..*tuple }.words();
        self.lookup_known(only, self.shared.hasher.hash(&words), &words)
    }

    /// The flow in the table that has this tuple. Expired ones are removed on the way.
    #[inline]
    pub(super) fn lookup_known(
        &mut self,
        only: Option<Dir>,
        hash: u64,
        words: &[u64; WORDS],
    ) -> Option<(u32, Dir, Word)> {
        while let Some((id, dir, word)) = self.shared.find_as(only, hash, words) {
            if !self.shared.entry(id).is_over(word, self.now) {
                return Some((id, dir, word));
            }
            self.remove(id);
        }
        None
    }

    fn find_pending(&self, only: Option<Dir>, hash: u64, words: &[u64; WORDS]) -> Option<(usize, Dir)> {
        self.pending.iter().enumerate().find_map(|(at, p)| {
            let is = |dir: Dir| {
                only.is_none_or(|only| only == dir)
                    && p.hashes[dir as usize] == hash
                    && self.shared.entry(p.id).is(dir, words)
            };
            [Dir::Original, Dir::Reply].into_iter().find(|d| is(*d)).map(|d| (at, d))
        })
    }

    /// Begins a flow (`init_conntrack`); none where the tuple has no answer.
    #[cold]
    fn begin(&mut self, tuple: &Tuple, hash: u64, template: &Template) -> Result<Option<(Flow, Word)>, DropReason> {
        let Some(mut reply) = tuple.inverted() else { return Ok(None) };
        reply.zone = template.zones[Dir::Reply as usize];
        if self.pending.len() == PENDING {
            return Err(DropReason::ConntrackFull);
        }
        let id = match self.store.take(&self.shared.depot) {
            Some(id) => id,
            None if self.early_drop(hash) => self.store.take(&self.shared.depot).ok_or(DropReason::ConntrackFull)?,
            None => {
                self.shared.pressed.store(true, Ordering::Relaxed);
                return Err(DropReason::ConntrackFull);
            }
        };
        let (entry, cold) = (self.shared.entry(id), self.shared.cold(id));
        if entry.word().status() & status::EXTRA != 0 {
            cold.clear_extra();
        }
        entry.start(tuple, &reply);
        if self.shared.masqueraded_on(id).is_some() {
            self.shared.note_masquerade(id, None);
        }
        self.shared.begin_secmark(id, 0);
        if cold.changes.load(Ordering::Relaxed) != 0 {
            cold.changes.store(0, Ordering::Relaxed);
        }
        if template.write(cold) {
            entry.set_status(status::EXTRA);
        }
        if template.proxied {
            self.begin_proxied(id);
        }
        let cold_helper = cold.helper().is_some();
        self.pending.push(Pending { id, holders: 1, hashes: [hash, self.shared.hash(&reply)], source: None });
        let flow = Flow { id, dir: Dir::Original, related: false };
        match self.expected(tuple) {
            Some(expectation) => self.welcome(flow, &expectation).inspect_err(|_| self.let_go(id))?,
            None if cold_helper => self.shared.take_helper(id),
            None => {}
        }
        Ok(Some((flow, self.shared.entry(id).word())))
    }

    /// A packet ends before it could confirm: a flow that it begins never was.
    #[inline]
    pub fn abandon(&mut self, ct: Ct) {
        if let Ct::Flow(flow) = ct {
            self.tell_any(flow.id);
            if !self.pending.is_empty() {
                self.let_go(flow.id);
            }
        }
    }

    /// One packet less holds an unconfirmed flow; the last one frees it.
    #[cold]
    pub(super) fn let_go(&mut self, id: u32) {
        if let Some(at) = self.pending.iter().position(|p| p.id == id) {
            self.pending[at].holders -= 1;
            if self.pending[at].holders == 0 {
                self.pending.swap_remove(at);
                if self.shared.entry(id).word().status() & status::HELPER != 0 {
                    self.give_helper(id);
                }
                self.shared.entry(id).turn(Life::Unconfirmed, Life::Free, 0);
                self.store.put_back(&self.shared.depot, id);
            }
        }
    }

    fn abandon_all(&mut self) {
        while let Some(pending) = self.pending.pop() {
            if self.shared.entry(pending.id).word().status() & status::HELPER != 0 {
                self.give_helper(pending.id);
            }
            self.shared.entry(pending.id).turn(Life::Unconfirmed, Life::Free, 0);
            self.store.put_back(&self.shared.depot, pending.id);
        }
    }

    /// Makes a packet of the router's own an error about the flow of its cause (`nf_conntrack_attach`, for REJECT and for
    /// ICMP errors about forwarded packets): RELATED, the other way. Sets the facts. Ends with confirm or abandon as well.
    pub fn attach(&mut self, cause: Ct, facts: &mut Facts) -> Ct {
        let cause = match cause {
            Ct::Flow(cause) => cause,
            Ct::Untracked => return Ct::Unplaced,
            Ct::None | Ct::Unplaced | Ct::Template(_) | Ct::Proxied => return Ct::None,
        };
        self.hold_pending(cause.id);
        let flow = Flow { id: cause.id, dir: cause.dir.other(), related: true };
        self.describe(flow, CtState::Related, facts);
        Ct::Flow(flow)
    }

    /// One packet more holds the flow, if it is unconfirmed.
    pub(super) fn hold_pending(&mut self, id: u32) {
        if let Some(p) = self.pending.iter_mut().find(|p| p.id == id) {
            p.holders += 1;
        }
    }

    /// Sets the flow's mark.
    pub fn set_mark(&mut self, ct: Ct, mark: u32) {
        if let Ct::Flow(flow) = ct {
            let entry = self.shared.entry(flow.id);
            if entry.mark.load(Ordering::Relaxed) != mark {
                entry.mark.store(mark, Ordering::Relaxed);
                self.changed(flow.id, change::MARK);
            }
        }
    }

    /// Between bursts: no packet of this worker holds a flow any more. Entries that were removed long enough ago become free.
    #[inline]
    pub fn quiescent(&mut self, now: u64) {
        self.now = millis(now);
        if !self.pending.is_empty() {
            self.abandon_all();
        }
        self.eventful.set(false);
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

    /// Whether a tuple is somebody's: of a flow in the table, or of one that this worker has begun. Flow `but` does not
    /// count. `spare` is asked about the flow found.
    pub(crate) fn is_taken(&self, tuple: &Tuple, but: u32, spare: impl Fn(&Entry) -> bool) -> bool {
        let words = tuple.words();
        let hash = self.shared.hasher.hash(&words);
        // In divided zones the tuple of answers may be another flow's as an original one.
        let own = self.shared.entry(but);
        let only = (own.zone(Dir::Original) != own.zone(Dir::Reply)).then_some(Dir::Reply);
        let in_table = self.shared.find_as(only, hash, &words).is_some_and(|(id, _, word)| {
            let entry = self.shared.entry(id);
            id != but && !entry.is_over(word, self.now) && !spare(entry)
        });
        let taken = in_table
            || self.pending.iter().any(|p| {
                let entry = self.shared.entry(p.id);
                let is = |dir: Dir| {
                    only.is_none_or(|only| only == dir) && p.hashes[dir as usize] == hash && entry.is(dir, &words)
                };
                p.id != but && (is(Dir::Original) || is(Dir::Reply)) && !spare(entry)
            });
        if taken {
            self.counts().found.bump();
        }
        taken
    }

    /// Changes the reply tuple of an unconfirmed flow (`nf_conntrack_alter_reply`), whose source has this hash if it is known.
    pub(crate) fn alter_reply(&mut self, id: u32, reply: &Tuple, source: Option<u64>) {
        let hash = self.shared.hash(reply);
        if let Some(pending) = self.pending.iter_mut().find(|p| p.id == id) {
            pending.hashes[Dir::Reply as usize] = hash;
            pending.source = pending.source.or(source);
            self.shared.entry(id).set_tuple(Dir::Reply, reply);
        }
    }
}

/// Whether the checksum is right. A fragment that is here and has ports is one that could not be gathered (IPv6's of an odd
/// length): it is taken for a packet.
#[inline]
pub(super) fn is_sum_right(facts: &Facts, l3: &[u8]) -> bool {
    match facts.is_fragment() {
        false => parse::l4_checksum_ok(facts, l3),
        true => parse::l4_checksum_ok(&Facts { frag_off: 0, more_frags: false, ..*facts }, l3),
    }
}
