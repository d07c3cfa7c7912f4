//! A table that goes on where another ended: which flows of a dead process are sound, and how they get into a new table.
//!
//! What is left of a table ([`Remains`]) may have been cut off at any instruction of the process that had it, and is read as
//! if an enemy had written it. Two things follow.
//!
//! **No torn flow makes a wrong mapping.** A thread that is killed has done all stores before some point of its program and
//! none after it, so what is found in memory is what another thread could have seen, and the order that lookups rely on is the order
//! that counts here too:
//!
//! - A flow is taken only where its life is Live. Tuples, status, mapping, mark and notes are written while it is
//!   unconfirmed, and the step to Live is a release after all of them (`confirm`): who is Live is whole.
//! - A flow ends with one store to its life (Live to Dead), before anything else of it changes; its tuples change only
//!   after the next use has begun as unconfirmed, which is a store before them (`Entry::start`).
//! - A flow that takes a tuple over from one whose time was over turns that one Dead before it is Live itself, so no
//!   two live flows ever have one tuple; if two have, it was not us who wrote them, and the second is refused.
//! - While a flow lives, its tuples and its mapping do not change at all. Status and protocol state are one word, deadline,
//!   mark and each counter are one word each: whole, old or new. A packet may be missing in the count of bytes.
//! - The private words change one by one. Half of them may be of after a packet whose other half, and whose state, are
//!   of before it. That packet has not left the router (a worker sends only after the burst), so its sender repeats it or
//!   does without it, and each word is a bound that the packet moved or did not move: the repeated one moves the rest
//!   (tested: `tcp::tests`).
//!
//! **Any bytes are safe.** A flow is refused unless each of its parts is one that this code could have written
//! ([`Flaw`]); what remains then is a flow that could have been.

use super::tuple::WORDS;
use super::{Cold, Conntrack, Entry, Life, Lines, Private, Tuple, Word, sctp, tcp};
use crate::sync::atomic::Ordering;
use std::fmt;
use sumun_config::facts::{Dir, PortId, proto, status};
use sumun_config::helper::Helper;
use zerocopy::FromBytes;

/// The lines of one flow as they were found.
pub(crate) struct Remains {
    pub entry: Entry,
    pub private: Private,
    pub cold: Cold,
}

/// What a flow cannot have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// Status bits that no flow in the table has, or not together.
    Status,
    /// A tuple that no packet has.
    Tuple,
    /// A difference between the tuples that no mapping makes, or that the status does not speak of.
    Mapping,
    /// A state that its protocol does not know.
    State,
    /// Windows or tags that nobody could have written.
    Private,
    /// A note of MASQUERADE on a flow that was not masqueraded.
    Masquerade,
    /// A helper that does not exist, or reads another protocol.
    Helper,
}

/// What became of the flows of a table.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// Flows that live on.
    pub flows: u32,
    /// Their time was over, or an operator had deleted them.
    pub over: u32,
    /// Not as this program writes them.
    pub unsound: u32,
    /// Masqueraded on a port that the router no longer has.
    pub homeless: u32,
    /// The table has no room for them.
    pub surplus: u32,
}

impl fmt::Display for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} flows taken over", self.flows)?;
        let gone = [
            (self.over, "were over"),
            (self.unsound, "were damaged"),
            (self.homeless, "were masqueraded on ports that are gone"),
            (self.surplus, "had no room"),
        ];
        gone.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, why)| write!(f, ", {n} {why}"))
    }
}

/// Status bits that a flow in the table may have.
const KNOWN: u32 = status::EXPECTED
    | status::SEEN_REPLY
    | status::ASSURED
    | status::CONFIRMED
    | status::SRC_NAT
    | status::DST_NAT
    | status::SRC_NAT_DONE
    | status::DST_NAT_DONE
    | status::FIXED_TIMEOUT
    | status::SEQ_ADJUST
    | status::HELPER
    | status::EXTRA
    | status::PROXIED;

impl Remains {
    /// Out of the bytes of its lines; none where there are too few.
    pub fn read(entry: &[u8], private: &[u8], cold: &[u8]) -> Option<Remains> {
        let entry = Entry::read_from_bytes(entry).ok()?;
        Some(Remains {
            entry,
            private: Private::read_from_bytes(private).ok()?,
            cold: Cold::read_from_bytes(cold).ok()?,
        })
    }

    /// Whether this is a flow at all: not a free line, nor one that had not begun, nor one that had ended.
    pub fn is_live(&self) -> bool {
        self.entry.word().life() == Life::Live
    }

    /// Whether it was there for its answers only, for a second (`Tracker::insert_answers`): that is over.
    fn is_for_answers(&self) -> bool {
        self.entry.word().status() & status::NAT_CLASH != 0
    }

    /// Whether it could have been written by this program.
    pub fn check(&self) -> Result<(), Flaw> {
        let word = self.entry.word();
        let bits = word.status();
        let mapped = |bit: u32, done: u32| bits & bit == 0 || bits & done != 0;
        let sane = bits & !KNOWN == 0
            && bits & status::CONFIRMED != 0
            && mapped(status::SRC_NAT, status::SRC_NAT_DONE)
            && mapped(status::DST_NAT, status::DST_NAT_DONE);
        if !sane {
            return Err(Flaw::Status);
        }
        let original = tuple(self.entry.words(Dir::Original))?;
        let proxied = bits & status::PROXIED;
        if proxied != 0 && (original.proto != proto::TCP || bits & status::EXTRA == 0) {
            return Err(Flaw::Status);
        }
        let reply = tuple(self.entry.words(Dir::Reply))?;
        check_mapping(&original, &reply, bits)?;
        self.check_state(original.proto, word)?;
        match self.cold.masquerade.load(Ordering::Relaxed) {
            0 => {}
            port if port <= u32::from(u16::MAX) && bits & status::SRC_NAT_DONE != 0 => {}
            _ => return Err(Flaw::Masquerade),
        }
        let helper = self.cold.helper.load(Ordering::Relaxed);
        let reads = Helper::from_number(helper).is_some_and(|helper| helper.protocol() == original.proto);
        if bits & status::EXTRA == 0 || helper == 0 || reads { Ok(()) } else { Err(Flaw::Helper) }
    }

    /// Any words must at least be safe (they are: all arithmetic on them wraps); but only those that would be written
    /// back as they are were written by us.
    fn check_state(&self, protocol: u8, word: Word) -> Result<(), Flaw> {
        let (state, words) = (word.protocol(), self.private.words());
        match protocol {
            proto::TCP => {
                let connection = tcp::Connection::from_words(state, &words);
                if connection.state as u32 != state || connection.state == tcp::State::None {
                    return Err(Flaw::State);
                }
                if connection.words() == words { Ok(()) } else { Err(Flaw::Private) }
            }
            proto::SCTP => {
                let association = sctp::Association::from_words(state, &words);
                if association.state as u32 != state || association.state == sctp::State::None {
                    return Err(Flaw::State);
                }
                if association.words() == words { Ok(()) } else { Err(Flaw::Private) }
            }
            // The millisecond at which it becomes a stream: any will do.
            proto::UDP | proto::UDPLITE => Ok(()),
            _ if state != 0 => Err(Flaw::State),
            _ => Ok(()),
        }
    }
}

/// The tuple with these words, if there is one.
fn tuple(words: [u64; WORDS]) -> Result<Tuple, Flaw> {
    let tuple = Tuple::from_words(words);
    let fits = (tuple.src | tuple.dst) & !tuple.family.ones() == 0;
    if tuple.words() == words && fits && tuple.inverted().is_some() { Ok(tuple) } else { Err(Flaw::Tuple) }
}

/// The ends of packets after the mapping may differ from those before it only where the status says so.
fn check_mapping(original: &Tuple, reply: &Tuple, bits: u32) -> Result<(), Flaw> {
    let mapped = reply.inverted().ok_or(Flaw::Tuple)?;
    let (src, dst) = (bits & status::SRC_NAT != 0, bits & status::DST_NAT != 0);
    let kind = (mapped.proto, mapped.family) == (original.proto, original.family);
    // Of a query the identifier is what either mapping changes; its type and code stay.
    let icmp = original.is_icmp();
    let right = kind
        && (src || mapped.src == original.src)
        && (dst || mapped.dst == original.dst)
        && (src || (icmp && dst) || mapped.sport == original.sport)
        && ((dst && !icmp) || mapped.dport == original.dport);
    if right { Ok(()) } else { Err(Flaw::Mapping) }
}

impl Conntrack {
    /// A table in these lines (as many as [`Lines::needed`] says, all of zeros) that goes on with the flows of another,
    /// and what became of those. `port` says which port one of the other table's is now.
    pub(crate) fn adopting(
        lines: Lines,
        max_flows: u32,
        workers: usize,
        seed: u64,
        mut flows: Vec<Remains>,
        now: u32,
        port: impl Fn(PortId) -> Option<PortId>,
    ) -> (Conntrack, Adopted) {
        let mut table = Conntrack::over(lines, max_flows, workers, seed);
        let mut adopted = Adopted::default();
        if flows.len() > table.max_flows as usize {
            // Those that early drop would spare are the last to go.
            flows.sort_by_key(|flow| flow.entry.word().status() & status::ASSURED == 0);
        }
        for flow in flows.iter().filter(|flow| flow.is_live()) {
            let place = match () {
                () if flow.entry.is_over(flow.entry.word(), now) || flow.is_for_answers() => &mut adopted.over,
                () if flow.check().is_err() => &mut adopted.unsound,
                () => match table.masqueraded_now(flow, &port) {
                    None => &mut adopted.homeless,
                    Some(_) if adopted.flows == table.max_flows => &mut adopted.surplus,
                    Some(masquerade) => match table.adopt(adopted.flows, flow, masquerade) {
                        true => &mut adopted.flows,
                        false => &mut adopted.unsound,
                    },
                },
            };
            *place += 1;
        }
        if adopted.flows > 0 {
            table.depot = super::Depot::new(table.entries.len() as u32, table.max_flows, workers.max(1), adopted.flows);
            table.adopted = adopted.flows;
        }
        (table, adopted)
    }

    /// The port of MASQUERADE, if it has one, by its number of today; nothing where that port is gone.
    fn masqueraded_now(&self, flow: &Remains, port: impl Fn(PortId) -> Option<PortId>) -> Option<Option<PortId>> {
        match flow.cold.masquerade.load(Ordering::Relaxed) {
            0 => Some(None),
            note => port(PortId((note - 1) as u16)).map(Some),
        }
    }

    /// Puts a sound flow into a free line; false where one of its tuples is another's already.
    fn adopt(&self, id: u32, flow: &Remains, masquerade: Option<PortId>) -> bool {
        let [original, reply] = [Dir::Original, Dir::Reply].map(|dir| flow.entry.words(dir));
        let [a, b] = [&original, &reply].map(|words| self.hasher.hash(words));
        // Zones of one direction may have the same tuple as another flow's other direction (`Tracker::confirm`).
        let divided = flow.entry.zone(Dir::Original) != flow.entry.zone(Dir::Reply);
        let taken = |dir: Dir, hash, words| self.find_as(divided.then_some(dir), hash, words).is_some();
        if taken(Dir::Original, a, &original) || taken(Dir::Reply, b, &reply) {
            return false;
        }
        // In the order of `confirm`: where both tuples are one, packets are answers.
        if !self.index.insert(b, id, Dir::Reply) {
            return false;
        }
        if !self.index.insert(a, id, Dir::Original) {
            self.index.remove(b, id, Dir::Reply);
            return false;
        }
        self.private(id).change(&[0; super::private::PRIVATE], &flow.private.words());
        self.private(id).stamps.store(flow.private.stamps.load(Ordering::Relaxed), Ordering::Relaxed);
        self.cold(id).become_as(&flow.cold, flow.entry.word().status());
        self.note_masquerade(id, masquerade);
        self.entry(id).become_as(&flow.entry);
        if self.cold(id).helper().is_some() {
            self.take_helper(id);
        }
        if flow.entry.word().status() & status::SRC_NAT != 0 {
            let source = self.hasher.hash_source(&self.entry(id).tuple(Dir::Original));
            self.sources.insert(self, id, source);
        }
        true
    }
}
