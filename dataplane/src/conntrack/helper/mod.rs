//! Helpers: protocols whose packets say which flows are to come.
//!
//! A helper reads the packets of its flows as the last thing before they leave (`nf_confirm`, that is: after NAT), says
//! which flow it expects, and where addresses are mapped writes what the other side will see into the packet. A flow has a
//! helper where `CT --helper` said so for its first packet. One helper is one file and one line of [`PROTOCOLS`]; its name
//! is one line of `sumun_config::helper`.
//!
//! Helpers are called one at a time for a flow. They see bytes of strangers: nothing here may panic on any, and what they
//! keep of a flow is [`MEMORY`] words.

pub mod ftp;
pub mod tftp;

use super::expect::{Expectation, Flags, Follow, Mask, Refusal};
use super::helped::{Helped, MEMORY};
use super::{Conntrack, Tuple};
use crate::packet::mangle;
use crate::packet::view::Tcp;
use crate::reason::DropReason;
use crate::umem::Frame;
use std::ops::Range;
use sumun_config::facts::{CtState, Dir, Facts, proto, status};
use sumun_config::helper::Helper;

/// What the expectations of a helper are bound by (`struct nf_conntrack_expect_policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// Most of one flow at a time; one more and the oldest goes.
    pub most: u32,
    /// Seconds that they wait.
    pub seconds: u32,
}

/// A helper.
pub struct Protocol {
    /// Its name and number.
    pub helper: Helper,
    /// The port that its servers listen on, where nothing else is said.
    pub port: u16,
    /// Classes of its expectations.
    pub classes: &'static [Class],
    /// Reads a packet of a flow; an error drops it.
    pub help: fn(&mut Exchange) -> Result<(), DropReason>,
}

/// All helpers.
pub static PROTOCOLS: &[&Protocol] = &[&ftp::PROTOCOL, &tftp::PROTOCOL];

/// What a helper does for flows that have it.
pub fn protocol_of(helper: Helper) -> Option<&'static Protocol> {
    PROTOCOLS.iter().copied().find(|protocol| protocol.helper == helper)
}

/// A packet of a helped flow, what is known of the flow, and what a helper may do about it.
pub struct Exchange<'a> {
    pub(super) shared: &'a Conntrack,
    pub(super) id: u32,
    pub(super) slot: u32,
    pub(super) protocol: &'static Protocol,
    pub(super) frame: &'a mut Frame,
    pub(super) l3: u16,
    pub(super) facts: &'a mut Facts,
    /// The flow's tuples, by direction.
    pub tuples: [Tuple; 2],
    /// Which way the packet goes.
    pub dir: Dir,
    /// What the packet is to its flow.
    pub state: CtState,
    /// Status bits of the flow.
    pub status: u32,
    /// The clock of deadlines.
    pub(super) now: u32,
    /// Draws for ports.
    pub(super) random: u32,
    /// Expectations made, replaced or removed by this packet.
    pub(super) made: super::expect::Tally,
}

/// What a helper expects.
pub struct Wanted {
    /// The first packet's tuple, as far as the mask says.
    pub tuple: Tuple,
    /// What of its source counts.
    pub mask: Mask,
    /// Which of the helper's classes it is of.
    pub class: u8,
    /// How the flow is mapped, where its master is.
    pub follow: Option<Follow>,
}

/// A tuple whose source port does not count.
pub(super) fn from_any_port(tuple: Tuple) -> Tuple {
    Tuple { sport: 0, ..tuple }
}

impl Exchange<'_> {
    /// The packet behind its IP header.
    pub fn l4(&self) -> &[u8] {
        let start = usize::from(self.l3);
        self.frame
            .bytes()
            .get(start + usize::from(self.facts.l4_off)..start + usize::from(self.facts.len))
            .unwrap_or_default()
    }

    /// Sequence number and data of a TCP segment; none where it has no data.
    pub fn stream(&self) -> Option<(u32, &[u8])> {
        let l4 = self.l4();
        let header = Tcp::new(l4)?;
        let data = l4.get(header.header_len()..).filter(|data| !data.is_empty())?;
        Some((header.sequence(), data))
    }

    /// Whether NAT changes the flow's packets.
    pub fn is_mapped(&self) -> bool {
        self.status & (status::SRC_NAT | status::DST_NAT) != 0
    }

    /// The mapping of an expected flow that follows its master's: its packets go like those of the master's direction
    /// `dir`, and come to `port` of the other end.
    pub fn follow(&self, dir: Dir, port: u16) -> Follow {
        Follow { dir, port }
    }

    /// The flow's memory.
    pub fn memory(&self) -> [u32; MEMORY] {
        self.helped().memory()
    }

    /// Replaces the flow's memory.
    pub fn remember(&self, words: &[u32; MEMORY]) {
        self.helped().remember(words);
    }

    fn helped(&self) -> &Helped {
        &self.shared.helped[self.slot as usize]
    }

    /// Expects a flow (`nf_ct_expect_related`).
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn expect(&mut self, wanted: &Wanted) -> Result<(), Refusal> {
        let class = self.protocol.classes[usize::from(wanted.class)];
        let new = Expectation {
            tuple: wanted.tuple,
            mask: wanted.mask,
            class: wanted.class,
            flags: Flags::NONE,
            follow: wanted.follow,
            assigned: None,
            helper: self.protocol.helper,
            master: self.id,
            slot: self.slot,
            word: self.shared.entry(self.id).word(),
            deadline: self.now.wrapping_add(class.seconds * 1000),
        };
        self.shared.expectations.add(self.shared, &new, class.most, self.now, &mut self.made)
    }

    /// Expects a flow to this port, or to one behind it where another flow is expected there already: 128 are tried
    /// (`nf_nat_exp_find_port`). Which it is.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn expect_near(&mut self, wanted: &mut Wanted) -> Result<u16, Refusal> {
        const ATTEMPTS: u16 = 128;
        let first = wanted.tuple.dport;
        let range = u16::MAX - first;
        let mut result = self.expect(wanted);
        for _ in 0..range.min(ATTEMPTS) {
            if result != Err(Refusal::Clash) {
                break;
            }
            self.random = self.random.wrapping_mul(0x9e37_79b1).rotate_left(15) ^ 0x85eb_ca6b;
            wanted.tuple.dport = first + (self.random >> 16) as u16 % range;
            result = self.expect(wanted);
        }
        result.map(|()| wanted.tuple.dport)
    }

    /// Takes back what was expected with this packet.
    pub fn unexpect(&mut self) {
        self.shared.expectations.forget_newest(self.shared, self.slot, &mut self.made);
    }

    /// Replaces a part of the packet's data (`nf_nat_mangle_tcp_packet`, `nf_nat_mangle_udp_packet`): lengths, checksums and
    /// the numbers of what follows change with it. False where the packet has no room for it.
    #[must_use]
    pub fn replace(&mut self, part: Range<usize>, with: &[u8]) -> bool {
        let change = with.len() as i32 - part.len() as i32;
        let seq = self.stream().map(|(seq, _)| seq);
        if !mangle::replace(self.frame, self.l3, self.facts, part, with) {
            return false;
        }
        if change != 0
            && self.facts.proto == proto::TCP
            && let Some(seq) = seq
        {
            let cold = self.shared.cold(self.id);
            let mut shift = cold.shift(self.dir);
            shift.note(seq, change);
            cold.set_shift(self.dir, &shift);
            self.shared.entry(self.id).set_status(status::SEQ_ADJUST);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_helper_of_the_configuration_is_there() {
        assert_eq!(PROTOCOLS.len(), Helper::ALL.len());
        for helper in Helper::ALL {
            let protocol = protocol_of(*helper).unwrap_or_else(|| panic!("{}", helper.name()));
            assert!(protocol.port != 0 && !protocol.classes.is_empty());
        }
    }
}
