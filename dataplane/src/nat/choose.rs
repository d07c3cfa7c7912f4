//! Which mapping does a flow get? `get_unique_tuple` of `nf_nat_core.c`.
//!
//! The tuple that a flow's packets will have must be nobody else's when answered: what is looked up is its inverse, in the
//! table and among this worker's unconfirmed flows. Another worker may take the same one at the same time; the later to
//! confirm then is a clash.

use super::{Manip, NatRange, spread};
use crate::conntrack::{Flow, Life, Tracker, Tuple};
use crate::packet::view::icmp_has_id;
use crate::reason::DropReason;
use sumun_config::facts::{CtState, Dir, Facts, proto, status};

/// Most ports that one round of the search tries (`NF_NAT_MAX_ATTEMPTS`).
const ATTEMPTS: u32 = 128;
/// A round of fewer is the last.
const LAST_ROUND: u32 = 16;
/// In the last tries of a round a connection that is over gives way (`NF_NAT_HARDER_THRESH`).
const HARDER: u32 = ATTEMPTS / 4;

impl Tracker {
    /// Whether a mapping of this end is still to be chosen: only then do the chains of table nat see the packet.
    #[inline]
    pub fn is_unmapped(&self, flow: Flow, manip: Manip) -> bool {
        let word = self.shared.entry(flow.id).word();
        word.life() == Life::Unconfirmed && word.status() & manip.done() == 0
    }

    /// Whether the packet's flow was confirmed without a mapping of this end, as behind a queue, and has not been answered: then
    /// table nat is asked again, and in vain (`nf_nat_inet_fn`, `nf_nat_setup_info`).
    #[inline]
    pub fn asks_in_vain(facts: &Facts, manip: Manip) -> bool {
        facts.ct_status & manip.done() == 0 && matches!(facts.ct_state, CtState::New | CtState::Related)
    }

    /// Source and destination of a flow's first packet, before any mapping.
    pub fn first_ends(&self, flow: Flow) -> (u128, u128) {
        let tuple = self.shared.entry(flow.id).tuple(Dir::Original);
        (tuple.src, tuple.dst)
    }

    /// Chooses the mapping of one end of a new flow (`nf_nat_setup_info`). Without a range nothing changes but what must:
    /// a source port whose answers would be another flow's (`nf_nat_alloc_null_binding`). Nothing happens to flows that
    /// are mapped already. `random` is a fresh random number.
    ///
    /// # Errors
    /// [`DropReason::NatExhausted`]: no free tuple was found.
    pub fn map(
        &mut self,
        flow: Flow,
        manip: Manip,
        range: Option<&NatRange>,
        facts: &Facts,
        random: u32,
    ) -> Result<(), DropReason> {
        match self.is_unmapped(flow, manip) {
            true => self.choose(flow, manip, range, facts, random),
            false => Ok(()),
        }
    }

    /// The same of a flow of which that is known.
    ///
    /// # Errors
    /// As [`Tracker::map`].
    pub(crate) fn choose(
        &mut self,
        flow: Flow,
        manip: Manip,
        range: Option<&NatRange>,
        facts: &Facts,
        random: u32,
    ) -> Result<(), DropReason> {
        let entry = self.shared.entry(flow.id);
        if manip == Manip::Dst && range.is_none() && facts.icmp().is_none() {
            // Without a range only the identifier of ICMP is ever changed for a destination: nothing is looked for.
            entry.set_own_status(manip.done());
            return Ok(());
        }
        let reply = entry.tuple(Dir::Reply);
        // What packets look like now: as the inverse of what is expected back, so an earlier mapping of the other end counts.
        let Some(current) = reply.inverted() else { return Ok(()) };
        let own = entry.tuple(Dir::Original);
        let any = NatRange::default();
        let range = range.unwrap_or(&any);
        let mut search =
            Search { tracker: self, flow, own, manip, range, random, status: facts.ct_status, source: None };
        let mapped = search.unique(current)?;
        let source = search.source;
        let mut bits = manip.done();
        if mapped != current
            && let Some(reply) = mapped.inverted()
        {
            self.alter_reply(flow.id, &reply, source);
            bits |= manip.bit();
            if manip == Manip::Src {
                self.mapped_to[reply.family.index()] = Some(reply.dst);
            }
        }
        self.shared.entry(flow.id).set_own_status(bits);
        Ok(())
    }
}

struct Search<'a> {
    tracker: &'a mut Tracker,
    flow: Flow,
    /// The flow's source and destination as they came, which mappings are remembered by.
    own: Tuple,
    manip: Manip,
    range: &'a NatRange,
    random: u32,
    status: u32,
    /// The hash of the source, once it was needed.
    source: Option<u64>,
}

impl Search<'_> {
    fn unique(&mut self, current: Tuple) -> Result<Tuple, DropReason> {
        // Only sources are worth keeping as they are: the first and best choice, and what other flows of the source got.
        if self.manip == Manip::Src && !self.range.is_random() {
            if self.fits(current.src, self.key(&current), &current) {
                if !self.is_used_at_first(&current) {
                    return Ok(current);
                }
            } else {
                let shared = &self.tracker.shared;
                let hash = shared.hasher.hash_source(&self.own);
                let fits = |src, port| self.fits(src, port, &current);
                let found = shared.sources.find(shared, &self.own, hash, fits);
                self.source = Some(hash);
                if let Some((src, sport)) = found {
                    let tuple = Tuple { src, sport, ..current };
                    if !self.is_used(&tuple) {
                        return Ok(tuple);
                    }
                }
            }
        }
        let mut tuple = self.with_address(current);
        if !self.range.is_random() {
            match self.range.ports {
                Some((low, high)) if self.range.port_base.is_none() => {
                    let inside = !has_key(&tuple) || (low..=high).contains(&self.key(&tuple));
                    if inside && (low == high || !self.is_used(&tuple)) {
                        return Ok(tuple);
                    }
                }
                Some(_) => {}
                // Where no other port could be chosen nothing depends on whether this one is free.
                None if self.ports(&tuple).is_none() || !self.is_used(&tuple) => return Ok(tuple),
                None => {}
            }
        }
        self.with_port(&mut tuple);
        // A destination may still be made unique by the source, later on the packet's way.
        if self.manip == Manip::Src && self.is_used(&tuple) {
            return Err(DropReason::NatExhausted);
        }
        Ok(tuple)
    }

    /// The port (or identifier) that this manip changes.
    fn key(&self, t: &Tuple) -> u16 {
        if t.is_icmp() || self.manip == Manip::Src { t.sport } else { t.dport }
    }

    /// Whether an address and port are within the range (`nf_in_range`).
    fn fits(&self, addr: u128, port: u16, t: &Tuple) -> bool {
        let address = self.range.addresses.is_none_or(|(low, high)| (low..=high).contains(&addr));
        address && self.range.ports.is_none_or(|(low, high)| !has_key(t) || (low..=high).contains(&port))
    }

    fn is_used(&self, t: &Tuple) -> bool {
        self.is_used_unless(t, |_, _| false)
    }

    /// Whether a tuple's answers are another flow's.
    fn is_used_unless(&self, t: &Tuple, spare: impl Fn(&Tuple, &Tuple) -> bool) -> bool {
        let Some(reply) = t.inverted() else { return false };
        self.tracker.is_taken(&reply, self.flow.id, |other| {
            let original = other.tuple(Dir::Original);
            // The same flow, begun by two workers: confirming resolves it, and a mapping would make two of it.
            original == self.own
                || (other.word().status() & (status::SRC_NAT | status::DST_NAT) == 0 && spare(&original, &self.own))
        })
    }

    /// The same where nothing else was free: a TCP connection that is over gives its tuple to a new one, and ends.
    fn is_used_for_long(&mut self, t: &Tuple) -> bool {
        match t.inverted() {
            Some(reply) if t.proto == proto::TCP => !self.tracker.give_up(&reply, self.flow.id) && self.is_used(t),
            _ => self.is_used(t),
        }
    }

    /// The same for a tuple that nothing was done to: datagrams that both ends sent at once began two flows, each the
    /// reverse of the other; mapping one would make its answers unknown (`nf_nat_used_tuple_new`).
    fn is_used_at_first(&self, t: &Tuple) -> bool {
        let plain = self.status & (status::SRC_NAT | status::DST_NAT) == 0;
        let datagram = matches!(t.proto, proto::UDP | proto::UDPLITE);
        self.is_used_unless(t, |original, own| plain && datagram && original.inverted() == Some(*own))
    }

    /// An address of the range, always the same for the same source and destination (`find_best_ips_proto`).
    fn with_address(&self, t: Tuple) -> Tuple {
        let Some((low, high)) = self.range.addresses else { return t };
        let addr = match low == high {
            true => low,
            false => {
                let zone = self.own.zone | t.zone;
                spread::address((low, high), &t, self.manip, self.range.persistent, zone)
            }
        };
        match self.manip {
            Manip::Src => Tuple { src: addr, ..t },
            Manip::Dst => Tuple { dst: addr, ..t },
        }
    }

    /// The first of the ports to choose from, and how many there are; none where the port stays as it is.
    fn ports(&self, t: &Tuple) -> Option<(u16, u32)> {
        if !has_key(t) {
            return None;
        }
        match self.range.ports {
            Some((a, b)) => Some((a.min(b), u32::from(a.abs_diff(b)) + 1)),
            None if t.is_icmp() => Some((0, 1 << 16)),
            None if self.manip == Manip::Dst => None,
            // Some services trust low ports: a port stays in its class.
            None => Some(match self.key(t) {
                0..512 => (1, 511),
                512..1024 => (600, 424),
                1024.. => (1024, 64512),
            }),
        }
    }

    /// Looks for a free port in bounded time: 128 in a row from a starting point, then from others with ever fewer
    /// (`nf_nat_l4proto_unique_tuple`). Leaves the last one tried where none is free.
    fn with_port(&mut self, t: &mut Tuple) {
        let Some((low, size)) = self.ports(t) else { return };
        let key = self.key(t);
        let mut offset = match self.range.port_base {
            Some(base) => u32::from(key.wrapping_sub(base)),
            None if self.range.is_random() || self.manip == Manip::Src => self.next_random(),
            None => 0,
        };
        let mut attempts = size.min(ATTEMPTS);
        loop {
            for i in 0..attempts {
                let port = low + ((offset + i) % size) as u16;
                if t.is_icmp() || self.manip == Manip::Src {
                    t.sport = port;
                } else {
                    t.dport = port;
                }
                let is_used = if attempts - i > HARDER { self.is_used(t) } else { self.is_used_for_long(t) };
                if !is_used {
                    return;
                }
            }
            if attempts >= size || attempts < LAST_ROUND {
                return;
            }
            attempts /= 2;
            offset = self.next_random();
        }
    }

    /// 16 more random bits, drawn from the packet's random number.
    fn next_random(&mut self) -> u32 {
        let drawn = self.random >> 16;
        self.random = self.random.wrapping_mul(0x9e37_79b1).rotate_left(15) ^ 0x85eb_ca6b;
        drawn
    }
}

/// Whether the protocol has a port or identifier that can be changed.
fn has_key(t: &Tuple) -> bool {
    match t.proto {
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP => true,
        _ => t.is_icmp() && icmp_has_id(t.family, (t.dport >> 8) as u8),
    }
}
