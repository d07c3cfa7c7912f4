//! The way of a packet. Who reads only this file knows the router.
//!
//! ```text
//! ingress: PREROUTING ─ route ─┬─ to this host: INPUT ─ deliver
//!                              └─ elsewhere: forward (TTL, MTU) ─ FORWARD ─ egress
//! output:  route ─ OUTPUT ─ egress                         egress: POSTROUTING ─ neighbour ─ transmit
//! ```
//!
//! Each function takes the packet as far as it goes and says how it ended; `?` ends it with a [`DropReason`]. What happens at
//! a hook, and in which order, is [`Order`](super::order::Order).

use super::Engine;
use super::fate::Fate;
use super::judge::Passed;
use super::order::Stage;
use super::packet::{Hop, Packet};
use super::running::Running;
use crate::conntrack::{Ct, Invalid, Template, Tracker};
use crate::defrag::User;
use crate::fib::{Fib, Key, Route, is_forwardable_source, is_link_local, is_loopback};
use crate::icmp::Error;
use crate::log::LogEvent;
use crate::nat::{Manip, NatRange};
use crate::packet::{edit, parse};
use crate::reason::DropReason;
use sumun_config::facts::{CtState, Facts, Family, PacketType, PortId, proto, status};
use sumun_config::rule::targets::nat::Kind;
use sumun_config::rule::{Hook, Table, Target};

impl Engine {
    /// A packet that came in on a port.
    pub(super) fn ingress(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        if let Some(waits) = self.hook(g, Hook::Prerouting, p)? {
            return Ok(waits);
        }
        match self.route_in(g, p)? {
            Way::Host => self.input(g, p),
            Way::Onwards => self.forward(g, p),
        }
    }

    /// To this host.
    fn input(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        // IPv4 gathers before INPUT (`ip_local_deliver`), IPv6 behind it, as an extension header like any other.
        if p.facts.family == Family::V4
            && let Some(waits) = self.gather(g, User::Local, p)?
        {
            return Ok(waits);
        }
        self.hook(g, Hook::Input, p)?;
        if p.facts.family == Family::V6
            && let Some(waits) = self.gather(g, User::Local, p)?
        {
            return Ok(waits);
        }
        self.deliver(g, p)
    }

    /// To another host (`ip_forward`, `ip6_forward`).
    fn forward(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        if p.facts.pkt_type != PacketType::Host && !is_for_the_cluster(g, p) {
            return Err(DropReason::NotForwarded);
        }
        if p.facts.ttl <= 1 {
            self.answer(g, p, Error::TimeExceeded);
            return Err(DropReason::TtlExpired);
        }
        if p.hop.port != p.facts.iif && !is_forwardable_source(p.facts.family, p.facts.src) {
            if is_link_local(p.facts.family, p.facts.src) {
                self.answer(g, p, Error::BeyondScope);
            }
            return Err(DropReason::NotForwarded);
        }
        self.check_size(g, p)?;
        p.edit(edit::decrement_ttl);
        p.facts.oif = p.hop.port;
        self.hook(g, Hook::Forward, p)?;
        if p.facts.has_options {
            // Only now does the sum follow what was found behind the end of options (`ip_forward_options`).
            p.edit(edit::sum_header);
        }
        self.egress(g, p)
    }

    /// From this host (`__ip_local_out`, `ip6_local_out`).
    pub(super) fn output(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        match p.tap {
            PortId::NONE => self.route_out(g, p)?,
            _ => p.hop = Hop::NOWHERE,
        }
        self.output_routed(g, p)
    }

    /// The same of a packet that has its way already.
    pub(super) fn output_routed(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        // What OUTPUT changes may change the way; its rules all see the port that was first found (`nf_hook_state`).
        p.facts.oif = p.hop.port;
        if let Some(waits) = self.hook(g, Hook::Output, p)? {
            return Ok(waits);
        }
        p.facts.oif = p.hop.port;
        if p.hop == Hop::NOWHERE && p.tap != PortId::NONE {
            // About what the host has sent.
            self.hook(g, Hook::Postrouting, p)?;
            return Ok(Fate::Host { port: p.tap });
        }
        if p.hop == Hop::NOWHERE {
            // To the router itself, and nobody there waits for anything.
            return Err(DropReason::NoListener);
        }
        if p.made_for != PortId::NONE { self.egress_copy(g, p) } else { self.egress(g, p) }
    }

    /// From the host, which has found the way: the port, and the MAC of the next hop. Where OUTPUT changes what the way depends
    /// on, it is found anew (`ip_route_me_harder`).
    pub(super) fn output_of_host(&mut self, g: &Running, p: &mut Packet, mac: [u8; 6]) -> Result<Fate, DropReason> {
        // The kernel cuts packets behind POSTROUTING, so what comes cut is made whole before OUTPUT.
        if let Some(waits) = self.gather(g, User::Output, p)? {
            return Ok(waits);
        }
        let given = p.hop;
        // Such a source has only what goes over the loopback.
        let is_looped = p.facts.family == Family::V4 && is_loopback(p.facts.src);
        p.facts.oif = if is_looped { PortId::LOOPBACK } else { given.port };
        if g.fib.has_realms() && p.facts.family == Family::V4 {
            p.realms = g.fib.realms_out(&key(g, &p.facts), given.port);
        }
        if let Some(waits) = self.hook(g, Hook::Output, p)? {
            return Ok(waits);
        }
        p.facts.oif = p.hop.port;
        if p.hop == Hop::NOWHERE {
            return self.loop_back(g, p);
        }
        if p.facts.family == Family::V4 && is_loopback(p.facts.src) {
            // An answer that came too late for its flow (`ip_route_output_key_hash_rcu`).
            return Err(DropReason::Martian);
        }
        if p.hop != given {
            return self.egress(g, p);
        }
        self.hook(g, Hook::Postrouting, p)?;
        self.check_size(g, p)?;
        Ok(Fate::Send { mac })
    }

    /// From the host to the host, because OUTPUT says so: over the loopback, where a packet keeps its flow (`loopback_xmit`).
    fn loop_back(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        if !self.can_loop(g, p) {
            return Err(DropReason::NoListener);
        }
        p.facts.oif = PortId::LOOPBACK;
        self.hook(g, Hook::Postrouting, p)?;
        (p.facts.iif, p.facts.oif, p.facts.has_link) = (PortId::LOOPBACK, PortId::NONE, true);
        if let Some(waits) = self.hook(g, Hook::Prerouting, p)? {
            return Ok(waits);
        }
        self.hook(g, Hook::Input, p)?;
        p.facts.has_link = false;
        Ok(Fate::Host { port: p.tap })
    }

    /// Out of the router (`ip_output`, `ip6_output`).
    fn egress(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        self.hook(g, Hook::Postrouting, p)?;
        self.leave(g, p)
    }

    /// The same of a copy: to POSTROUTING it has come in on the port that it was made for, to nobody else.
    #[cold]
    fn egress_copy(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        p.facts.iif = p.made_for;
        self.hook(g, Hook::Postrouting, p)?;
        p.facts.iif = PortId::NONE;
        self.leave(g, p)
    }

    fn leave(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        self.check_size(g, p)?;
        self.neighbour(g, p)
    }

    /// What may not be fragmented must fit its path (`ip_exceeds_mtu`, `ip6_pkt_too_big`).
    fn check_size(&mut self, g: &Running, p: &mut Packet) -> Result<(), DropReason> {
        if p.must_fit() {
            self.answer(g, p, Error::FragNeeded { mtu: p.hop.mtu });
            return Err(DropReason::TooBig);
        }
        Ok(())
    }

    /// A neighbour discovery message of the router's own: its link is given, no route is asked (`ndisc_send_skb`).
    pub(super) fn discovery(&mut self, g: &Running, p: &mut Packet) -> Result<Fate, DropReason> {
        let (to, link) = (p.facts.dst, p.hop.port);
        self.hook(g, Hook::Output, p)?;
        (p.facts.iif, p.facts.oif) = (link, p.hop.port);
        if p.facts.dst != to {
            // It was sent elsewhere, and goes there as any packet.
            return self.egress(g, p);
        }
        self.hook(g, Hook::Postrouting, p)?;
        Ok(Fate::Send { mac: p.facts.dmac })
    }

    /// All that happens to a packet at a hook. A fragment may end here, to wait for the rest of its packet.
    #[inline(always)]
    fn hook(&mut self, g: &Running, hook: Hook, p: &mut Packet) -> Result<Option<Fate>, DropReason> {
        let mut before = RoutedBy(0, 0, 0, 0, 0);
        for stage in g.order(p.facts.family).at(hook) {
            if hook == Hook::Output && *stage != Stage::Reroute {
                before = RoutedBy::of(&p.facts);
            }
            match *stage {
                Stage::Chain(table) => {
                    self.judge(g, hook, table, p)?;
                }
                Stage::Idle(ref chains) => self.pass_idle(g, hook, chains, p)?,
                Stage::Defrag => {
                    let user = if hook == Hook::Output { User::Output } else { User::Prerouting };
                    if let Some(waits) = self.gather(g, user, p)? {
                        return Ok(Some(waits));
                    }
                }
                Stage::Track => {
                    self.track(g, p)?;
                    if hook == Hook::Output && self.answers_itself(g, p) {
                        p.facts.oif = PortId::LOOPBACK;
                    }
                }
                Stage::Nat(manip) => self.nat(g, hook, manip, p)?,
                Stage::Reroute => {
                    if RoutedBy::of(&p.facts) != before {
                        self.route_out(g, p)?;
                    }
                }
                Stage::Help => {
                    if p.facts.ct_status & (status::HELPER | status::SEQ_ADJUST | status::PROXIED) != 0 {
                        self.help(g, p)?;
                    }
                }
                Stage::Confirm => {
                    let now = self.now;
                    self.tracker.confirm(p.ct, &mut p.facts, now)?;
                }
            }
        }
        Ok(None)
    }

    /// Conntrack places the packet, unless raw said not to or it is an answer that belongs to a flow already.
    fn track(&mut self, g: &Running, p: &mut Packet) -> Result<(), DropReason> {
        if p.ct == Ct::None && self.track_again(g, p) {
            return Ok(());
        }
        let template = match p.ct {
            Ct::None | Ct::Unplaced => Template::default(),
            Ct::Template(rule) => {
                // Others that look the same may be of another zone.
                self.fast.notes.stop();
                template(g, p, rule)
            }
            Ct::Proxied => Template::proxied(),
            Ct::Untracked | Ct::Flow(_) => return Ok(()),
        };
        let start = p.l3 as usize;
        let l3 = p.frame.bytes().get(start..start + p.facts.len as usize).unwrap_or_default();
        p.ct = self.tracker.track_as(&template, &mut p.facts, l3, self.now, &g.policy.sysctl)?;
        if let Some(why) = self.tracker.why_invalid() {
            self.tell_invalid(g, p, why);
        }
        Ok(())
    }

    /// Tracks a packet whose flow others that look the same have; false where it is to be placed.
    #[inline]
    fn track_again(&mut self, g: &Running, p: &mut Packet) -> bool {
        let Some(known) = p.recall.as_ref().and_then(|recall| recall.known) else { return false };
        let start = p.l3 as usize;
        let l3 = p.frame.bytes().get(start..start + p.facts.len as usize).unwrap_or_default();
        let is_known = self.tracker.track_again(&known, &mut p.facts, l3, &g.policy.sysctl);
        if is_known {
            p.ct = Ct::Flow(known.flow);
        }
        is_known
    }

    /// Logs that a packet is INVALID where the settings ask for it (`nf_l4proto_log_invalid`).
    #[cold]
    fn tell_invalid(&mut self, g: &Running, p: &Packet, why: Invalid) {
        if let Some(trace) = &mut self.trace {
            trace.invalid = Some(why);
        }
        let logged = g.policy.sysctl.nf_conntrack_log_invalid;
        if logged != 0 && (logged == u8::MAX || logged == p.facts.proto) {
            self.router.log.push(LogEvent::invalid(why.name(), &p.facts, p.l3(), self.wall()));
        }
    }

    /// The first packet of a flow asks the chain of `nat` for its mapping; every packet is rewritten by it.
    fn nat(&mut self, g: &Running, hook: Hook, manip: Manip, p: &mut Packet) -> Result<(), DropReason> {
        let Ct::Flow(flow) = p.ct else { return Ok(()) };
        // ICMP errors have their flow's mapping. A reset in the name of a flow that is still new asks for one, as the kernel's; what
        // SYNPROXY answers in its name is ESTABLISHED and does not.
        let is_error = flow.related && matches!(p.facts.proto, proto::ICMP | proto::ICMPV6);
        if !is_error && self.tracker.is_unmapped(flow, manip) && p.facts.ct_state != CtState::Established {
            self.fast.notes.stop();
            let nat = match self.judge(g, hook, Table::Nat, p)? {
                Passed::Plainly => None,
                Passed::Mapped(nat) => Some(nat),
                Passed::Bypassing => return Ok(()),
            };
            let is_looped = hook == Hook::Postrouting && p.facts.oif == PortId::LOOPBACK;
            let range = match nat {
                _ if is_looped => Some(NatRange::at(self.tracker.first_ends(flow).1)),
                Some(nat) => Some(self.resolve_range(g, hook, p, nat)?),
                None => None,
            };
            let random = self.rng.next();
            self.tracker.choose(flow, manip, range.as_ref(), &p.facts, random)?;
            if !is_looped && nat.is_some_and(|nat| nat.kind == Kind::Masquerade) {
                self.tracker.set_masqueraded(flow, p.facts.oif);
            }
        } else if !is_error && Tracker::asks_in_vain(&p.facts, manip) {
            self.fast.notes.stop();
            if self.judge(g, hook, Table::Nat, p)? == Passed::Bypassing {
                return Ok(());
            }
        } else if !is_error && hook == Hook::Postrouting {
            self.tracker.stay_masqueraded(flow, p.facts.ct_status, p.facts.oif)?;
        }
        // An error must be right, mapped or not, unless conntrack has seen to that (`nf_nat_icmp_reply_translation`).
        let is_unseen = hook == Hook::Output || (hook == Hook::Prerouting && !g.policy.sysctl.nf_conntrack_checksum);
        if is_error && is_unseen && !parse::l4_checksum_ok(&p.facts, p.l3()) {
            return Err(DropReason::NatFailed);
        }
        let start = p.l3 as usize;
        let end = start + p.facts.len as usize;
        let l3 = p.frame.bytes_mut().get_mut(start..end).unwrap_or_default();
        self.tracker.translate(flow, hook, l3, &mut p.facts)
    }

    /// SYNPROXY, then the helper of the packet's flow read it, and it moves by what was changed before.
    #[cold]
    fn help(&mut self, g: &Running, p: &mut Packet) -> Result<(), DropReason> {
        let Ct::Flow(flow) = p.ct else { return Ok(()) };
        if p.facts.ct_status & status::PROXIED != 0 {
            self.proxied(g, flow, p)?;
        }
        let random = self.rng.next();
        self.tracker.help(flow, &mut p.frame, p.l3, &mut p.facts, self.now, random)
    }

    /// The routing decision for a packet from outside (`ip_route_input`).
    fn route_in(&mut self, g: &Running, p: &mut Packet) -> Result<Way, DropReason> {
        if let Some((hop, realms)) = self.way_again(p) {
            (p.hop, p.realms) = (hop, realms);
            return Ok(Way::Onwards);
        }
        let key = key(g, &p.facts);
        let route = g.fib.lookup(&key);
        if self.is_lease(p, &route) {
            return Ok(Way::Host);
        }
        g.fib.check_source(&key, &route)?;
        if g.fib.has_realms() && p.facts.family == Family::V4 {
            p.realms = g.fib.realms_in(&key, &route);
        }
        if p.facts.family == Family::V4 && p.facts.has_options {
            self.check_options(g, p)?;
        }
        let forwarding = match p.facts.family {
            Family::V4 => g.policy.sysctl.ip_forward,
            Family::V6 => g.policy.sysctl.ipv6_forwarding,
        };
        match route {
            Route::Local | Route::Broadcast { .. } => Ok(Way::Host),
            Route::Multicast if g.fib.listens(key.family, key.dst, key.iif) => Ok(Way::Host),
            Route::Multicast => Err(DropReason::NotForwarded),
            // Without forwarding IPv6 still says that there is no way (`ip6_pkt_discard`), IPv4 does not (`ip_error`).
            Route::Via { .. } if !forwarding => Err(DropReason::ForwardingOff),
            _ if !forwarding && key.family == Family::V4 => Err(DropReason::ForwardingOff),
            Route::Via { port, gateway, mtu, .. } => {
                p.hop = self.hop(p, port, gateway, mtu);
                self.fast.notes.route(&p.facts);
                Ok(Way::Onwards)
            }
            nowhere => Err(self.no_way(g, p, nowhere)),
        }
    }

    /// IPv4 options: malformed ones are answered, source routes are not taken (`ip_rcv_options`, `accept_source_route` 0).
    #[cold]
    fn check_options(&mut self, g: &Running, p: &mut Packet) -> Result<(), DropReason> {
        let header = p.l3().get(..p.facts.l4_off as usize).unwrap_or_default();
        match parse::check_options(header) {
            Ok(()) if parse::has_source_route(header) => Err(DropReason::IpOptions),
            Ok(()) => {
                p.edit(|l3, facts| parse::end_options(l3.get_mut(..facts.l4_off as usize).unwrap_or_default()));
                Ok(())
            }
            Err(at) => {
                self.answer(g, p, Error::ParamProblem { code: 0, pointer: at.into() });
                Err(DropReason::IpOptions)
            }
        }
    }

    /// The routing decision for a packet of the router's own (`ip_route_output`). The port of its hop, where it has one
    /// already, is the link of destinations that mean another host on each link.
    fn route_out(&mut self, g: &Running, p: &mut Packet) -> Result<(), DropReason> {
        let link = p.hop.port;
        let key = key(g, &p.facts);
        if g.fib.has_realms() && p.facts.family == Family::V4 {
            p.realms = g.fib.realms_out(&key, link);
        }
        match g.fib.lookup_on(&key, link) {
            Route::Via { port, gateway, mtu, .. } => {
                p.hop = self.hop(p, port, gateway, mtu);
                Ok(())
            }
            // An error about a packet that has the router's address by now goes through OUTPUT, where its flow's mapping
            // leads it on to the host that has sent it.
            Route::Local => {
                p.hop = Hop::NOWHERE;
                Ok(())
            }
            Route::Multicast if link != PortId::NONE => Ok(()),
            // The host knows what it says to all of a link.
            Route::Broadcast { .. } if p.tap != PortId::NONE && link != PortId::NONE => Ok(()),
            Route::Broadcast { .. } | Route::Multicast => Err(DropReason::NoListener),
            Route::Blackhole => Err(DropReason::Blackhole),
            Route::Prohibit => Err(DropReason::Prohibit),
            Route::NotAPort => Err(DropReason::NotAPort),
            Route::Unreachable | Route::None => Err(DropReason::NoRoute),
        }
    }

    pub(super) fn hop(&self, p: &Packet, port: PortId, gateway: Option<u128>, mtu: u16) -> Hop {
        let link = port.index().and_then(|i| self.router.links.get(i));
        let mtu = link.map_or(mtu, |l| l.mtu.min(mtu));
        let mtu = match p.facts.family {
            Family::V4 => mtu,
            // No IPv6 path has less (RFC 8200 section 5).
            Family::V6 => mtu.max(1280),
        };
        Hop { port, address: gateway.unwrap_or(p.facts.dst), mtu }
    }

    /// No route onwards: says so to the sender where the kernel does (`ip_error`, `ip6_pkt_discard`).
    fn no_way(&mut self, g: &Running, p: &mut Packet, route: Route) -> DropReason {
        let (error, reason) = match (route, p.facts.family) {
            (Route::Blackhole, _) => return DropReason::Blackhole,
            (Route::Prohibit, _) => (Error::AdminProhibited, DropReason::Prohibit),
            (Route::NotAPort, Family::V4) => (Error::HostUnreachable, DropReason::NotAPort),
            (Route::NotAPort, Family::V6) => (Error::NetUnreachable, DropReason::NotAPort),
            (Route::Unreachable, Family::V4) => (Error::HostUnreachable, DropReason::NoRoute),
            _ => (Error::NetUnreachable, DropReason::NoRoute),
        };
        self.answer(g, p, error);
        reason
    }
}

/// A frame to a group's MAC whose packet goes to one host: what the routers of a cluster see together. In the kernel the match
/// changes the packet's type (`xt_cluster_mt`), and means it to do so for all that comes in.
#[cold]
fn is_for_the_cluster(g: &Running, p: &mut Packet) -> bool {
    let is_so = p.facts.pkt_type == PacketType::Multicast && g.needs[p.facts.family.index()].cluster;
    if is_so {
        p.facts.pkt_type = PacketType::Host;
    }
    is_so
}

/// What the CT rule of that number asks for.
#[cold]
fn template<'g>(g: &'g Running, p: &Packet, rule: u32) -> Template<'g> {
    match &g.program(p.facts.family).rule(rule).target {
        Some(Target::Ct(ct)) => Template::of(ct, p.facts.mark),
        _ => Template::default(),
    }
}

/// The answer of the routing decision.
enum Way {
    Host,
    Onwards,
}

/// What a packet's route depends on and OUTPUT may change.
#[derive(PartialEq, Eq)]
struct RoutedBy(u128, u128, u32, u8, u8);

impl RoutedBy {
    fn of(f: &Facts) -> RoutedBy {
        // IPv6 asks for the hop limit too, though no route depends on it: a copy loses its gateway (`ip6t_mangle_out`).
        RoutedBy(f.src, f.dst, f.mark, f.tos, if f.family == Family::V6 { f.ttl } else { 0 })
    }
}

/// What the FIB is asked for a packet.
pub(super) fn key(g: &Running, f: &Facts) -> Key {
    Key {
        family: f.family,
        src: f.src,
        dst: f.dst,
        iif: f.iif,
        mark: f.mark,
        tos: f.tos,
        hash: match g.fib.is_multipath() {
            true => Fib::flow_hash(f, g.policy.sysctl.fib_multipath_hash_policy),
            false => 0,
        },
    }
}
