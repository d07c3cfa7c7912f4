//! The host's own stack behind the TAPs: its frames go out through OUTPUT and POSTROUTING, and what INPUT has let through goes
//! to it.
//!
//! The host has routed what it sends: the TAP says the port, the frame the next hop's MAC. What is neither IPv4 nor IPv6 leaves as
//! it is, and goes to the host so where it is to have it. What goes to the host is an ordinary frame, no longer than the port's MTU: what was gathered for INPUT is
//! cut again.
//!
//! What the host sends to itself never comes here, but OUTPUT may lead to an own address what was sent elsewhere:
//!
//! ```text
//!  client ─ to A:80 ─▶ TAP ─▶ OUTPUT: to 127.0.0.1:8080 ─▶ POSTROUTING: from A ─▶ PREROUTING, INPUT ─▶ TAP ─▶ server
//!  client ◀─ TAP ◀─ INPUT, PREROUTING ◀─ POSTROUTING: from A:80 ◀─ OUTPUT: to the client ◀─ TAP ◀─ to A ─ server
//! ```
//! To the server it comes from the address that was asked, A: to the client's own it would answer the short way through its `lo`,
//! past the flow that changed the addresses. All hooks see `lo`, as in the kernel.
//!
//! Errors and resets about what the host has sent come back to it, on the TAP that it used, through OUTPUT and POSTROUTING.

use super::fate::ETHERNET;
use super::packet::{Hop, Packet};
use super::running::Running;
use super::trace::End;
use super::{BURST, Engine, Router};
use crate::conntrack::Ct;
use crate::fib::{Route, is_loopback, is_on_no_link};
use crate::host::exchange::Sent;
use crate::packet::fragment;
use crate::packet::parse;
use crate::packet::view::{Ethernet, ethertype};
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{Dir, Facts, Family, PacketType, PortId, proto, status};

/// Ports of DHCP: of servers, of clients.
const DHCP: (u16, u16) = (67, 68);

impl Router {
    /// Whether a port has a TAP.
    #[inline]
    pub fn has_tap(&self, port: PortId) -> bool {
        port.index().and_then(|port| self.taps.get(port)).is_some_and(|has| *has)
    }
}

impl Engine {
    /// From now on somebody takes frames for TAPs out of [`Engine::take_for_host`]. Without, what is for the host ends here.
    pub fn attach_host(&mut self) {
        self.to_host = Some(Vec::with_capacity(4 * BURST));
    }

    /// Frames for TAPs, in order, with the TAPs' ports. The worker takes them out. None where nobody serves TAPs.
    pub fn take_for_host(&mut self) -> Option<&mut Vec<(PortId, Frame)>> {
        self.to_host.as_mut()
    }

    /// Takes what the host sent on TAPs; leaves `sent` empty. `now` as in [`Engine::process`].
    pub fn from_host(&mut self, now: u64, sent: &mut Vec<Sent>) {
        self.now = now;
        self.adopt();
        self.fast.atlas.move_on();
        let g = self.running.clone();
        for sent in sent.drain(..) {
            self.stats.originated.add(1);
            self.send_for_host(&g, sent);
            self.settle(&g);
        }
        self.lines.settle(&self.stats);
        self.tracker.quiescent(now);
    }

    fn send_for_host(&mut self, g: &Running, sent: Sent) {
        let Sent { port, frame, owner } = sent;
        let Some(link) = port.index().and_then(|i| self.router.links.get(i)) else {
            return self.refuse_frame(DropReason::NoRoute, frame);
        };
        let hop = Hop { port, address: 0, mtu: link.mtu };
        let Some(ethernet) = Ethernet::new(frame.bytes()) else {
            return self.refuse_frame(DropReason::ShortFrame, frame);
        };
        if !matches!(ethernet.ethertype(), ethertype::IPV4 | ethertype::IPV6) {
            return self.queue(usize::from(port.0), frame);
        }
        let mac = ethernet.destination();
        let mut facts = Facts::blank(Family::V4);
        match parse::frame_into(frame.bytes(), PortId::NONE, mac, &mut facts) {
            Ok(_) if is_on_no_link(facts.family, facts.src, facts.dst) => {
                self.refuse_frame(DropReason::Martian, frame);
            }
            Ok(l3) => {
                // At the hooks of local output a packet has no link header yet, and is of nobody else.
                (facts.pkt_type, facts.has_link, facts.smac, facts.dmac) = (PacketType::Host, false, [0; 6], [0; 6]);
                let mut p = Packet { hop, has_socket: true, owner, tap: port, ..Packet::new(frame, facts, l3) };
                let end = self.output_of_host(g, &mut p, mac);
                self.finish(g, p, end);
            }
            Err(parse::NotIp::Drop(reason)) => self.refuse_frame(reason, frame),
            Err(parse::NotIp::Arp { .. } | parse::NotIp::Tagged) => self.queue(usize::from(port.0), frame),
        }
    }

    /// The port on whose TAP the host gets a packet: that which it came in on, else the one that has its destination.
    #[inline]
    pub(super) fn tap_for(&self, g: &Running, facts: &Facts) -> Option<PortId> {
        if !self.router.has_taps {
            return None;
        }
        if self.router.has_tap(facts.iif) {
            return Some(facts.iif);
        }
        let is_its = |own: &&crate::fib::Own| own.family == facts.family && own.addr == facts.dst;
        g.fib.own_addresses().filter(is_its).map(|own| own.port).find(|port| self.router.has_tap(*port))
    }

    /// Whether the host can hear of this packet, which OUTPUT has led to an own address: it has that, and not the one that was asked.
    pub(super) fn can_loop(&self, g: &Running, p: &Packet) -> bool {
        let Facts { family, dst, .. } = p.facts;
        let Ct::Flow(flow) = p.ct else { return false };
        self.is_hosts(g, family, dst) && !self.is_hosts(g, family, self.tracker.first_ends(flow).1)
    }

    /// Whether the host answers here what it has sent to itself by way of OUTPUT.
    #[inline]
    pub(super) fn answers_itself(&self, g: &Running, p: &Packet) -> bool {
        const BOTH: u32 = status::SRC_NAT | status::DST_NAT;
        match p.ct {
            Ct::Flow(flow) if p.tap != PortId::NONE && flow.dir == Dir::Reply && p.facts.ct_status & BOTH == BOTH => {
                self.is_hosts(g, p.facts.family, self.tracker.first_ends(flow).0)
            }
            _ => false,
        }
    }

    /// Whether the host has this address: of a port with a TAP, or of its loopback.
    fn is_hosts(&self, g: &Running, family: Family, addr: u128) -> bool {
        if family == Family::V4 && is_loopback(addr) {
            return true;
        }
        let mut of_port = false;
        for own in g.fib.own_addresses().filter(|own| own.family == family && own.addr == addr) {
            if self.router.has_tap(own.port) {
                return true;
            }
            of_port = true;
        }
        // What is no port's is an address of its `lo`, which only a route tells.
        !of_port && g.fib.is_own(family, addr, PortId::NONE)
    }

    /// An answer of a DHCP server to a client on the host, whose address it offers: nobody has that yet. Leases of others that
    /// are renewed through the router leave by another port than the one that they came in on.
    #[inline]
    pub(super) fn is_lease(&self, p: &Packet, route: &Route) -> bool {
        let Facts { family, dst, proto, sport, dport, has_l4, iif, .. } = p.facts;
        self.router.has_taps
            && (family, proto, has_l4, (sport, dport)) == (Family::V4, proto::UDP, true, DHCP)
            && self.router.has_tap(iif)
            && !is_loopback(dst)
            && !matches!(route, Route::Via { port, .. } if *port != iif)
    }

    /// Puts a packet in line for the TAP of a port.
    pub(super) fn hand_to_host(&mut self, port: PortId, mut p: Packet) {
        self.stats.delivered.add(1);
        if let Some(trace) = &mut self.trace {
            trace.delivered.push(p.frame.bytes().to_vec());
        }
        let Some(link) = port.index().and_then(|i| self.router.links.get(i)) else { return self.pool.give(p.frame) };
        let (mac, mtu) = (link.mac, link.mtu);
        let Facts { family, len, pkt_type, has_link, .. } = p.facts;
        let (to, from) = match (has_link, pkt_type) {
            (true, PacketType::Host) => (mac, p.facts.smac),
            (true, _) => (p.facts.dmac, p.facts.smac),
            (false, _) => (mac, mac),
        };
        let start = usize::from(p.l3);
        if len <= mtu && !p.frame.is_large() {
            // What the link padded stays behind.
            let whole = p.frame.resize(start + usize::from(len));
            debug_assert!(whole);
            p.frame.pull_front(start);
            return self.address_to_host(port, p.frame, family, (to, from));
        }
        let sizes = fragment::Sizes::default();
        let cut = fragment::Cut { most: mtu, sizes: &sizes, id: self.rng.next().max(1) };
        let mut pieces = std::mem::take(&mut self.pieces);
        let whole = fragment::split(family, p.l3(), &cut, |len| self.pool.take_for(len), &mut pieces);
        for piece in pieces.drain(..) {
            match whole {
                true => self.address_to_host(port, piece, family, (to, from)),
                false => self.pool.give(piece),
            }
        }
        self.pieces = pieces;
        if !whole {
            self.stats.dropped(DropReason::NoFrame);
        }
        self.pool.give(p.frame);
    }

    /// Writes the link header of a packet at the start of its frame.
    fn address_to_host(&mut self, port: PortId, mut frame: Frame, family: Family, macs: ([u8; 6], [u8; 6])) {
        if !frame.push_front(ETHERNET) {
            return self.discard(DropReason::NoFrame, frame);
        }
        let header = &mut frame.bytes_mut()[..ETHERNET];
        header[..6].copy_from_slice(&macs.0);
        header[6..12].copy_from_slice(&macs.1);
        header[12..].copy_from_slice(&match family {
            Family::V4 => ethertype::IPV4.to_be_bytes(),
            Family::V6 => ethertype::IPV6.to_be_bytes(),
        });
        self.queue_for_host(port, frame);
    }

    /// A frame that is neither IP nor ARP: the host's, where it wants such.
    #[cold]
    pub(super) fn other(&mut self, port: PortId, frame: Frame) {
        if !port.index().and_then(|port| self.router.all_frames.get(port)).is_some_and(|all| *all) {
            return self.refuse_frame(DropReason::EtherType, frame);
        }
        self.stats.delivered.add(1);
        if let Some(trace) = &mut self.trace {
            trace.end = Some(End::Delivered);
            trace.delivered.push(frame.bytes().to_vec());
        }
        self.queue_for_host(port, frame);
    }

    /// A whole frame in line for the TAP of a port. A host that is slow does not keep the jumbo frames that others need, and never
    /// gets one of the few that packets are put together in: it would keep that for frames of its own.
    pub(super) fn queue_for_host(&mut self, port: PortId, frame: Frame) {
        if frame.is_large() || !self.pool.may_keep(&frame) {
            return self.discard(DropReason::HostQueue, frame);
        }
        match &mut self.to_host {
            Some(line) => line.push((port, frame)),
            None => self.pool.give(frame),
        }
    }
}
