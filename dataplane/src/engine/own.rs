//! What the router itself says and hears: ICMP errors, refusals, the local stack, ARP and neighbour discovery.
//!
//! Everything the router says over IP is local output: it waits in `own` until the packet that caused it has come to its end,
//! then passes OUTPUT and POSTROUTING. An error belongs to the flow of the packet that caused it, as RELATED, even when that
//! flow is not confirmed (`nf_conntrack_attach`), so NAT translates what it quotes.

use super::Engine;
use super::fate::{ETHERNET, Fate};
use super::packet::{Hop, Packet};
use super::running::Running;
use super::trace::End;
use crate::conntrack::{Ct, Tracker};
use crate::fib::{Key, Route, is_link_local, towards};
use crate::icmp::{self, Error};
use crate::local::Refusal;
use crate::nat::NatRange;
use crate::neigh::{arp, ndp};
use crate::packet::{edit, parse};
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{AddrType, Facts, Family, PacketType, PortId, proto};
use sumun_config::rule::Hook;
use sumun_config::rule::targets::nat::{Kind, Nat};
use sumun_config::rule::targets::reject::With;

impl Engine {
    /// Sends an ICMP error about a packet to its source, where one is due and the rate allows it.
    pub(super) fn answer(&mut self, g: &Running, p: &Packet, error: Error) {
        let facts = &p.facts;
        let s = &g.policy.sysctl;
        let (interval, hop_limit) = match facts.family {
            Family::V4 => (s.icmp_ratelimit, s.ip_default_ttl),
            Family::V6 => (s.icmpv6_ratelimit, s.ipv6_hop_limit),
        };
        // A copy goes to its gateway, whatever its own destination is.
        if !icmp::is_due(facts, p.l3()) || !p.is_copy && is_to_all(g, facts) {
            return;
        }
        if error.is_limited() && !self.icmp_limit.allow(facts.family, facts.src, self.now, interval) {
            return;
        }
        // The host takes nothing from its own address that comes from outside: it hears from whom it has spoken to.
        let of_host = Some(facts.dst).filter(|_| p.tap != PortId::NONE);
        let Some(source) = of_host.or_else(|| self.own_source(g, p)) else { return };
        self.say(p, |facts, l3, frame| icmp::build_error(error, facts, l3, source, hop_limit, frame));
    }

    /// The address from which the router speaks about a packet: the one it was sent to, if that is the router's own. Else
    /// IPv4 takes the one of the way back to the sender (`icmp_route_lookup`), IPv6 the best one of the port that the packet
    /// came in on (`icmp6_send`). None where there is no way back.
    fn own_source(&self, g: &Running, p: &Packet) -> Option<u128> {
        /// What a router without any IPv4 address says it is (RFC 7600).
        const DUMMY: u128 = 0xc000_0008;
        let Facts { family, src, dst, iif, .. } = p.facts;
        let is_own = match is_link_local(family, dst) {
            // It asks the packet's route, and that of a copy leads to its gateway.
            _ if family == Family::V4 && p.is_copy => false,
            true => g.fib.is_own_on(family, dst, iif),
            false => g.fib.is_own(family, dst, iif) || (family == Family::V6 && g.fib.is_anycast_on(dst, iif)),
        };
        if is_own {
            return Some(dst);
        }
        let back = Key { family, src: 0, dst: src, iif: PortId::NONE, mark: 0, tos: 0, hash: dst as u32 };
        match (g.fib.lookup_on(&back, iif), family) {
            (Route::Via { source: Some(source), .. }, _) => Some(source),
            (Route::Via { port, gateway, .. }, Family::V4) => {
                Some(g.fib.port_address(port, family, towards(family, gateway, src)).unwrap_or(DUMMY))
            }
            (Route::Via { port, .. }, Family::V6) => {
                g.fib.port_address(if iif == PortId::NONE { port } else { iif }, family, src)
            }
            // The packet was mapped to the router's own address: OUTPUT will find its sender.
            (Route::Local, _) => Some(src),
            _ => None,
        }
    }

    /// No answer from the next hop (`ipv4_link_failure`, `ndisc_error_report`).
    pub(super) fn unreachable(&mut self, g: &Running, p: &Packet) {
        if p.facts.iif != PortId::NONE || p.tap != PortId::NONE {
            self.answer(g, p, Error::HostUnreachable);
        }
    }

    /// REJECT.
    pub(super) fn refuse(&mut self, g: &Running, p: &Packet, with: With) {
        match Error::of_reject(with) {
            Some(error) if icmp::is_reject_due(&p.facts, p.l3()) => self.answer(g, p, error),
            Some(_) => {}
            None if is_to_all(g, &p.facts) || !icmp::is_reset_due(&p.facts) => {}
            None => {
                if self.reset(g, p, Refuses::Rule) {
                    self.disown();
                    self.tracker.set_closing(p.ct, &g.policy.sysctl);
                }
            }
        }
    }

    /// A TCP reset as the answer to a packet.
    fn reset(&mut self, g: &Running, p: &Packet, who: Refuses) -> bool {
        let tos = match who {
            Refuses::Rule => 0,
            // `tcp_v4_send_reset` leaves ECN out.
            Refuses::Stack => p.facts.tos & !3,
        };
        // A sum that the kernel leaves to the device, and so does last, is never zero (`skb_checksum_help`).
        let is_late = matches!((p.facts.family, who), (Family::V4, Refuses::Rule) | (Family::V6, Refuses::Stack));
        let hop_limit = match p.facts.family {
            Family::V4 => g.policy.sysctl.ip_default_ttl,
            Family::V6 => g.policy.sysctl.ipv6_hop_limit,
        };
        let said = self.say(p, |facts, l3, frame| {
            let built = icmp::build_tcp_reset(facts, l3, hop_limit, frame);
            if built {
                edit::set_tos(frame.bytes_mut(), &mut facts.clone(), tos);
            }
            built
        });
        if let Some(reset) = self.own.back_mut().filter(|_| said) {
            reset.is_summed_late = is_late;
        }
        said
    }

    /// Puts a packet of the router's own, built about `cause`, in line for local output. False where none is due or there is
    /// no frame for it.
    fn say(&mut self, cause: &Packet, build: impl FnOnce(&Facts, &[u8], &mut Frame) -> bool) -> bool {
        self.say_as(cause, build, |tracker, facts| tracker.attach(cause.ct, facts))
    }

    /// The same, where conntrack takes it for what `place` says.
    pub(super) fn say_as(
        &mut self,
        cause: &Packet,
        build: impl FnOnce(&Facts, &[u8], &mut Frame) -> bool,
        place: impl FnOnce(&mut Tracker, &mut Facts) -> Ct,
    ) -> bool {
        let Some(mut frame) = self.frame() else { return false };
        if !build(&cause.facts, cause.l3(), &mut frame) {
            self.pool.give(frame);
            return false;
        }
        let Ok(mut facts) = parse::ip(cause.facts.family, frame.bytes()) else {
            self.pool.give(frame);
            return false;
        };
        let ct = place(&mut self.tracker, &mut facts);
        let hop = Hop { port: cause.facts.iif, ..Hop::NOWHERE };
        self.stats.originated.add(1);
        self.own.push_back(Packet { ct, hop, has_socket: true, tap: cause.tap, ..Packet::new(frame, facts, 0) });
        true
    }

    /// What was said last came from no socket: a reset of REJECT (`nf_send_reset`), or of IPv6 (`tcp_v6_send_response`), or
    /// what SYNPROXY said.
    pub(super) fn disown(&mut self) {
        if let Some(said) = self.own.back_mut() {
            said.has_socket = false;
        }
    }

    /// A frame for a packet of the router's own; that packet counts as dropped where there is none.
    fn frame(&mut self) -> Option<Frame> {
        let frame = self.pool.take();
        if frame.is_none() {
            self.stats.originated.add(1);
            self.stats.dropped(DropReason::NoFrame);
        }
        frame
    }

    /// Sends what the router has to say.
    #[inline]
    pub(super) fn settle(&mut self, g: &Running) {
        if !self.own.is_empty() || !self.messages.is_empty() {
            self.speak(g);
        }
    }

    #[cold]
    fn speak(&mut self, g: &Running) {
        while let Some(p) = self.own.pop_front() {
            self.utter(g, p);
        }
        while let Some(mut p) = self.messages.pop_front() {
            let end = self.discovery(g, &mut p);
            self.finish(g, p, end);
        }
    }

    /// One packet of what the router has to say.
    pub(super) fn utter(&mut self, g: &Running, mut p: Packet) {
        let end = self.output(g, &mut p);
        if p.is_summed_late {
            p.edit(edit::avoid_zero_tcp_sum);
        }
        self.finish(g, p, end);
    }

    /// A packet for this host that INPUT let through.
    pub(super) fn deliver(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        let tap = self.tap_for(g, &p.facts);
        if ndp::is_ndp(&p.facts) {
            return self.discovered(g, p, tap);
        }
        if let Some(port) = tap {
            return Ok(Fate::Host { port });
        }
        let Facts { family, src, dst, iif, .. } = p.facts;
        let own = match g.fib.is_own(family, dst, iif) {
            true => dst,
            false if family == Family::V6 && self.is_beyond(g, src, iif) => return Err(DropReason::NoRoute),
            false => g.fib.port_address(iif, family, src).ok_or(DropReason::NoListener)?,
        };
        if p.facts.has_options && p.facts.proto == proto::ICMP {
            // What the end of options has changed counts for nobody but the stack, which sums again.
            p.edit(edit::sum_header);
        }
        let start = p.l3 as usize;
        let l3 = p.frame.bytes().get(start..start + p.facts.len as usize).unwrap_or_default();
        match self.local.input(l3, &p.facts, own)? {
            None => Ok(Fate::Delivered),
            Some(Refusal::Reset) => {
                p.ct = Ct::None;
                if self.reset(g, p, Refuses::Stack) && family == Family::V6 {
                    self.disown();
                }
                Ok(Fate::Delivered)
            }
            Some(Refusal::Error(error)) => {
                // UDP forgets a packet's flow before it looks for a socket (`nf_reset_ct` in `udp_rcv`): conntrack places the
                // error by what it quotes, and raw may say that it shall not.
                if matches!(p.facts.proto, proto::UDP | proto::UDPLITE) {
                    p.ct = Ct::None;
                }
                self.answer(g, p, error);
                Err(DropReason::NoListener)
            }
        }
    }

    /// Whether the way to an IPv6 address leads over another link than this one: from there nobody answers what was sent to
    /// many (`icmpv6_echo_reply` binds the route to the link).
    fn is_beyond(&self, g: &Running, address: u128, link: PortId) -> bool {
        let key = Key { family: Family::V6, src: 0, dst: address, iif: PortId::NONE, mark: 0, tos: 0, hash: 0 };
        !matches!(g.fib.lookup_on(&key, link), Route::Via { port, .. } if port == link)
    }

    /// Lets the local stack speak.
    pub(super) fn poll_local(&mut self, g: &Running) {
        let (local, pool, own, stats) = (&mut self.local, &mut self.pool, &mut self.own, &self.stats);
        local.poll(self.now, &mut |packet: &[u8], port| {
            stats.originated.add(1);
            let family = match packet.first().map(|b| b >> 4) {
                Some(6) => Family::V6,
                _ => Family::V4,
            };
            let Some(mut frame) = pool.take_for(packet.len()) else { return stats.dropped(DropReason::NoFrame) };
            match frame.set(packet).then(|| parse::ip(family, packet)) {
                Some(Ok(facts)) => {
                    let hop = Hop { port, ..Hop::NOWHERE };
                    own.push_back(Packet { hop, has_socket: true, ..Packet::new(frame, facts, 0) });
                }
                _ => {
                    stats.dropped(DropReason::IpHeader);
                    pool.give(frame);
                }
            }
        });
        self.settle(g);
    }

    /// An ARP frame: learns from it and answers it (`arp_process`). It passes no hook of iptables.
    pub(super) fn arp(&mut self, g: &Running, port: PortId, l3: usize, mut frame: Frame) {
        let link = &self.router.links[port.0 as usize];
        let pkt_type =
            frame.bytes().first_chunk().map_or(PacketType::OtherHost, |to| parse::packet_type(*to, link.mac));
        let outcome = match arp::process(frame.bytes().get(l3..).unwrap_or_default(), port, pkt_type, &g.fib) {
            Ok(outcome) => outcome,
            Err(reason) => return self.refuse_frame(reason, frame),
        };
        if let Some(trace) = &mut self.trace {
            trace.end = Some(End::Consumed);
        }
        if let Some(learned) = outcome.learned {
            self.resolver.learn(&learned, self.now, &g.policy.sysctl);
        }
        self.stats.consumed.add(1);
        match outcome.reply {
            Some(reply) if arp::reply(&mut frame, link.mac, &reply) => {
                self.stats.originated.add(1);
                self.queue(port.0 as usize, frame);
            }
            // The host asks for itself, and watches who says that he has its addresses.
            _ if self.router.has_tap(port) => self.queue_for_host(port, frame),
            _ => self.pool.give(frame),
        }
    }

    /// A neighbour discovery message that INPUT let through.
    fn discovered(&mut self, g: &Running, p: &mut Packet, tap: Option<PortId>) -> Result<Fate, DropReason> {
        let port = p.facts.iif;
        let mac = port.index().and_then(|i| self.router.links.get(i)).map(|link| link.mac).ok_or(DropReason::Arp)?;
        let outcome = ndp::process(p.l3(), &p.facts, port, &g.fib)?;
        if let Some(learned) = outcome.learned {
            self.resolver.learn(&learned, self.now, &g.policy.sysctl);
        }
        if let Some(advert) = outcome.advert {
            let Some(mut frame) = self.frame() else { return Ok(Fate::Consumed) };
            match ndp::advertise(&mut frame, mac, &advert) {
                true => self.discover(port, frame),
                false => self.pool.give(frame),
            }
            return Ok(Fate::Consumed);
        }
        // What the host asked for, and what is none of the engine's business: router discovery, redirects, other addresses.
        Ok(tap.map_or(Fate::Consumed, |port| Fate::Host { port }))
    }

    /// Asks the link for the MAC of an address: to all, or as a probe to the MAC that it had.
    pub(super) fn solicit(
        &mut self,
        g: &Running,
        port: PortId,
        family: Family,
        target: u128,
        unicast: Option<[u8; 6]>,
    ) {
        let Some(mac) = port.index().and_then(|i| self.router.links.get(i)).map(|link| link.mac) else { return };
        let Some(mut frame) = self.frame() else { return };
        // The source of what waits, where it is an own one, in IPv6 of this link (`arp_solicit` with `arp_announce` 0, `ndisc_solicit`).
        let waits = self.resolver.newest_for(port, family, target).map(|packet| packet.facts.src);
        let spoken = waits.filter(|&source| match family {
            Family::V4 => g.fib.is_own(family, source, port),
            Family::V6 => g.fib.is_own_on(family, source, port),
        });
        match family {
            Family::V4 => {
                let source = spoken.or_else(|| g.fib.port_address(port, family, target)).unwrap_or(0) as u32;
                if arp::request(&mut frame, mac, source, target as u32, unicast) {
                    self.stats.originated.add(1);
                    return self.queue(port.0 as usize, frame);
                }
            }
            Family::V6 => {
                let source = spoken.or_else(|| g.fib.link_local(port)).unwrap_or(0);
                if ndp::solicit(&mut frame, mac, source, target, unicast) {
                    return self.discover(port, frame);
                }
            }
        }
        self.pool.give(frame);
    }

    /// Puts a neighbour discovery message, a whole frame, in line for output on its link.
    pub(super) fn discover(&mut self, port: PortId, frame: Frame) {
        self.stats.originated.add(1);
        let dmac = frame.bytes().first_chunk().copied().unwrap_or_default();
        let l3 = frame.bytes().get(ETHERNET..).unwrap_or_default();
        match parse::ip(Family::V6, l3) {
            Ok(mut facts) => {
                facts.oif = port;
                facts.dmac = dmac;
                let hop = Hop { port, ..Hop::NOWHERE };
                let p = Packet { hop, has_socket: true, ..Packet::new(frame, facts, ETHERNET as u16) };
                self.messages.push_back(p);
            }
            Err(reason) => self.discard(reason, frame),
        }
    }

    /// Addresses for a mapping whose rule names none: MASQUERADE takes the outgoing port's, REDIRECT the incoming port's, or
    /// the loopback address in OUTPUT (`nf_nat_masquerade_ipv4`, `nf_nat_redirect`).
    pub(super) fn resolve_range(&self, g: &Running, hook: Hook, p: &Packet, nat: &Nat) -> Result<NatRange, DropReason> {
        let family = p.facts.family;
        let own = match (nat.kind, hook) {
            (Kind::Snat | Kind::Dnat, _) => return Ok(NatRange::of(nat, None)),
            (Kind::Masquerade, _) => {
                // IPv4 looks towards the next hop, IPv6, whose next hops have addresses of their link, to the destination.
                let gateway = Some(p.hop.address).filter(|_| family == Family::V4);
                g.fib.port_address(p.facts.oif, family, towards(family, gateway, p.facts.dst))
            }
            (Kind::Redirect, Hook::Output) => Some(match family {
                Family::V4 => 0x7f00_0001,
                // The host takes nothing for ::1 that comes on a TAP.
                Family::V6 if p.tap != PortId::NONE => p.facts.src,
                Family::V6 => 1,
            }),
            (Kind::Redirect, _) => g.fib.first_address(p.facts.iif, family, p.facts.dst),
            (Kind::Netmap, Hook::Prerouting | Hook::Output) => return Ok(NatRange::in_network(nat, p.facts.dst)),
            (Kind::Netmap, _) => return Ok(NatRange::in_network(nat, p.facts.src)),
        };
        let own = own.ok_or(DropReason::NatExhausted)?;
        Ok(NatRange::of(nat, Some((own, own))))
    }
}

/// Who says no to a connection.
#[derive(Clone, Copy)]
enum Refuses {
    /// REJECT.
    Rule,
    /// The stack, where nobody listens.
    Stack,
}

/// Whether a packet is to the broadcast address of a network that the router is on: nothing is said about those
/// (`RTCF_BROADCAST`).
fn is_to_all(g: &Running, facts: &Facts) -> bool {
    facts.family == Family::V4 && g.fib.addr_type_from(facts.family, facts.dst, facts.iif) == AddrType::Broadcast
}
