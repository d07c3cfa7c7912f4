//! A packet on its way: the frame, what is known of it, and the flow it belongs to.

use super::fast::Recall;
use crate::conntrack::Ct;
use crate::host::owner::Owner;
use crate::umem::Frame;
use std::num::NonZeroU16;
use sumun_config::facts::{Facts, Family, PortId};
use sumun_config::model::gateway_family;

/// One packet. Lives in the engine from its frame's parsing to its fate; may wait for a neighbour in between.
#[derive(Debug)]
pub struct Packet {
    /// The frame; it holds at least `l3 + facts.len` bytes.
    pub frame: Frame,
    /// What is known of it, kept true through every rewrite.
    pub facts: Facts,
    /// Where in the frame the IP header starts.
    pub l3: u16,
    /// Its flow, once conntrack has placed it.
    pub ct: Ct,
    /// Where it goes, once it was routed onwards.
    pub hop: Hop,
    /// Bytes of the largest fragment that it came in, where it did; it leaves in fragments again.
    pub largest: Option<NonZeroU16>,
    /// As CLASSIFY has set it (`skb->priority`).
    pub priority: u32,
    /// TRACE has met it: what rules say of it is logged (`skb->nf_trace`).
    pub is_traced: bool,
    /// Realms of its route, for `realm`.
    pub realms: u32,
    /// It is the router's own or the host's and comes from a socket, for `owner`.
    pub has_socket: bool,
    /// Whose that socket is, where it is a process's and was asked for.
    pub owner: Option<Owner>,
    /// The host has sent it, or it is about what the host has sent, on the TAP of this port.
    pub tap: PortId,
    /// Number of the security context that SECMARK or CONNSECMARK gave it; zero is none (`skb->secmark`).
    pub secmark: u32,
    /// TEE has made it: it is not copied again.
    pub is_copy: bool,
    /// The port that a copy was first sent over: to POSTROUTING it looks as if it had come in there (`skb->dev`).
    pub made_for: PortId,
    /// A copy with Don't Fragment of what came in fragments without, or was made here without: where it leaves in fragments,
    /// they have none either (`ignore_df`).
    pub is_loose: bool,
    /// A TCP segment of the router's own whose sum the kernel would leave to the device, and so compute last.
    pub is_summed_late: bool,
    /// What others that looked the same have met; none where nothing is known, or it has been changed since.
    pub(super) recall: Option<Recall>,
}

/// Where a packet goes next: the port, the address on its link, and the largest packet for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hop {
    /// Outgoing port.
    pub port: PortId,
    /// Gateway, or the destination itself.
    pub address: u128,
    /// Path MTU in bytes of IP.
    pub mtu: u16,
}

impl Hop {
    /// Not routed yet.
    pub const NOWHERE: Hop = Hop { port: PortId::NONE, address: 0, mtu: u16::MAX };

    /// The family of its address, for a packet of this family.
    #[inline]
    pub fn family(&self, packet: Family) -> Family {
        gateway_family(packet, self.address)
    }
}

impl Packet {
    /// A packet that conntrack has not seen.
    #[inline]
    pub fn new(frame: Frame, facts: Facts, l3: u16) -> Packet {
        Packet {
            frame,
            facts,
            l3,
            ct: Ct::None,
            hop: Hop::NOWHERE,
            largest: None,
            priority: 0,
            is_traced: false,
            realms: 0,
            has_socket: false,
            owner: None,
            tap: PortId::NONE,
            secmark: 0,
            is_copy: false,
            made_for: PortId::NONE,
            is_loose: false,
            is_summed_late: false,
            recall: None,
        }
    }

    /// Forgets all but its frame and its facts, which are then to be replaced.
    #[inline(always)]
    pub fn renew(&mut self) {
        let Packet {
            frame: _,
            facts: _,
            l3,
            ct,
            hop,
            largest,
            priority,
            is_traced,
            realms,
            has_socket,
            owner,
            tap,
            secmark,
            is_copy,
            made_for,
            is_loose,
            is_summed_late,
            recall,
        } = self;
        (*l3, *ct, *hop, *largest, *priority, *realms, *owner) = (0, Ct::None, Hop::NOWHERE, None, 0, 0, None);
        (*is_traced, *has_socket, *is_copy, *is_loose, *is_summed_late) = (false, false, false, false, false);
        (*tap, *made_for, *secmark, *recall) = (PortId::NONE, PortId::NONE, 0, None);
    }

    /// The IP packet: header to the end of what its length says; what the link padded is not part of it.
    #[inline]
    pub fn l3(&self) -> &[u8] {
        let start = self.l3 as usize;
        self.frame.bytes().get(start..start + self.facts.len as usize).unwrap_or_default()
    }

    /// Larger than its path allows, and not to be fragmented. IPv6 packets are fragmented where they are made, and so are
    /// the router's own; a packet that came in fragments may leave in fragments of their size.
    pub fn must_fit(&self) -> bool {
        let is_own = self.facts.iif == PortId::NONE && !self.is_copy && self.tap == PortId::NONE;
        self.facts.len > self.hop.mtu
            && !(self.is_loose && self.largest.is_none())
            && (self.facts.dont_frag || (self.facts.family == Family::V6 && !is_own))
            && self.largest.is_none_or(|largest| largest.get() > self.hop.mtu)
    }

    /// What it is to be cut to on its way out, where it is (`ip_finish_output`, `ip6_finish_output`): to its path's size, and
    /// never to more than the fragments that it came in; for IPv6 that is at least 1280.
    pub fn cut_to(&self) -> Option<u16> {
        let (len, mtu) = (self.facts.len, self.hop.mtu);
        match (self.largest.map(NonZeroU16::get), self.facts.family) {
            (Some(largest), Family::V4) => Some(largest.min(mtu)),
            (Some(largest), Family::V6) if len > largest || len > mtu => Some(largest.max(1280)),
            _ if len > mtu || self.frame.is_large() => Some(mtu),
            _ => None,
        }
    }

    /// Whether its frame notes the fragments that it came in. A copy's does not.
    pub fn has_noted_sizes(&self) -> bool {
        self.largest.is_some() && !self.is_copy
    }

    /// Changes header bytes and facts together.
    #[inline]
    pub fn edit<R: Default>(&mut self, change: impl FnOnce(&mut [u8], &mut Facts) -> R) -> R {
        let start = self.l3 as usize;
        match self.frame.bytes_mut().get_mut(start..start + self.facts.len as usize) {
            Some(l3) => change(l3, &mut self.facts),
            None => R::default(),
        }
    }
}
