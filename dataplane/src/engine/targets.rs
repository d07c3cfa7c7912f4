//! What targets do to a packet that goes on to the next rule.

use super::Engine;
use super::packet::{Hop, Packet};
use super::running::Running;
use crate::conntrack::Ct;
use crate::fib::{Key, Route};
use crate::icmp::Error;
use crate::log::{LogEvent, PacketEvent};
use crate::nat::prefix;
use crate::packet::edit;
use crate::packet::mss::clamp_mss;
use crate::packet::tcp_bits;
use crate::reason::DropReason;
use sumun_config::facts::{CtState, Dir, Facts, Family, PortId, Surroundings, status};
use sumun_config::rule::targets::connsecmark::ConnSecMark;
use sumun_config::rule::targets::nflog::Nflog;
use sumun_config::rule::targets::npt::{End, Npt};
use sumun_config::rule::targets::tcpmss::Mss;
use sumun_config::rule::targets::tee::Tee;
use sumun_config::rule::{Effect, Hook};

impl Engine {
    /// Carries out what the target of the rule `at` wants, which is no verdict; or the packet ends.
    #[inline]
    pub(super) fn carry_out(
        &mut self,
        g: &Running,
        hook: Hook,
        at: u32,
        effect: Effect,
        p: &mut Packet,
    ) -> Result<(), DropReason> {
        match effect {
            Effect::Log(log) => self.router.log.push(LogEvent::new(log, &p.facts, p.l3(), self.wall())),
            Effect::Mark(mark) => p.facts.mark = mark,
            Effect::ConnMark(mark) => {
                if p.facts.has_ct {
                    if p.facts.ct_mark != mark {
                        // Rules before this one saw another mark than those of the next packet will.
                        self.fast.notes.stop();
                    }
                    self.tracker.set_mark(p.ct, mark);
                    p.facts.ct_mark = mark;
                }
            }
            Effect::Ttl(ttl) => p.edit(|l3, facts| edit::set_ttl(l3, facts, ttl)),
            Effect::Tos(tos) => p.edit(|l3, facts| edit::set_tos(l3, facts, tos)),
            Effect::Mss(mss) => self.set_mss(g, p, mss)?,
            Effect::Ct(_) => {
                // Rules of raw behind this one see what the kernel shows them: a flow that is none.
                if matches!(p.ct, Ct::None) {
                    p.ct = Ct::Template(at);
                    p.facts.has_ct = true;
                    p.facts.ct_state = CtState::New;
                    p.facts.ct_status = status::CONFIRMED | status::TEMPLATE;
                }
            }
            Effect::Npt(npt) => self.set_prefix(g, p, npt)?,
            Effect::Synproxy(rule) => self.take_place(g, p, rule)?,
            Effect::Untrack => {
                if matches!(p.ct, Ct::None) {
                    p.ct = Ct::Untracked;
                    p.facts.ct_state = CtState::Untracked;
                }
            }
            Effect::Priority(priority) => p.priority = priority,
            Effect::Ecn(ecn) => p.edit(|l3, facts| Some(tcp_bits::set_ecn(l3, facts, ecn))).unwrap_or(Ok(()))?,
            Effect::Strip(strip) => {
                p.edit(|l3, facts| Some(tcp_bits::strip_options(l3, facts, strip))).unwrap_or(Ok(()))?
            }
            Effect::Trace => p.is_traced = true,
            Effect::Audit => {
                let log = &self.router.log;
                log.push(LogEvent::audit(log.next_audit(), &p.facts, p.l3(), self.wall()));
            }
            Effect::Nflog(nflog) => {
                if self.router.packets.is_wanted() {
                    self.hand_on(hook, p, nflog);
                }
            }
            Effect::SecMark(number) => p.secmark = number,
            Effect::ConnSecMark(ConnSecMark::Save) => {
                if p.secmark != 0 {
                    self.tracker.save_secmark(p.ct, p.secmark);
                }
            }
            Effect::ConnSecMark(ConnSecMark::Restore) => {
                if p.secmark == 0 {
                    p.secmark = self.tracker.secmark(p.ct);
                }
            }
            Effect::Tee(tee) => {
                // What the copy meets is not what the packet meets.
                self.fast.notes.stop();
                if !p.is_copy {
                    self.tee(g, hook, p, tee);
                }
            }
            Effect::Continue
            | Effect::Accept
            | Effect::Drop
            | Effect::Return
            | Effect::Jump(_)
            | Effect::Goto(_)
            | Effect::Reject(_)
            | Effect::Nat(_)
            | Effect::Queue { .. } => {}
        }
        Ok(())
    }

    /// Tells who listens to NFLOG of a packet. Out of line: its two kilobytes are no part of the frame of every walk.
    #[cold]
    #[inline(never)]
    fn hand_on(&self, hook: Hook, p: &Packet, nflog: &Nflog) {
        let mut event = PacketEvent::new(nflog, hook, &p.facts, p.l3(), self.wall());
        (event.priority, event.context) = (p.priority, p.secmark);
        self.router.packets.push(event);
    }

    /// Sends a copy on its way, before the packet itself (`nf_dup_ipv4`, `nf_dup_ipv6`).
    #[cold]
    fn tee(&mut self, g: &Running, hook: Hook, p: &Packet, tee: &Tee) {
        self.stats.originated.add(1);
        let taken = self.pool.take_for(p.l3().len());
        let Some(mut frame) = taken else { return self.stats.dropped(DropReason::NoFrame) };
        if !frame.set(p.l3()) {
            return self.discard(DropReason::NoFrame, frame);
        }
        let facts = Facts {
            iif: PortId::NONE,
            oif: PortId::NONE,
            has_link: false,
            has_ct: false,
            ct_state: CtState::Untracked,
            ct_dir: Dir::Original,
            ct_status: 0,
            ct_mark: 0,
            ct_proto: 0,
            ..p.facts
        };
        let Packet { priority, is_traced, secmark, largest, .. } = *p;
        let mut copy = Packet {
            ct: Ct::Untracked,
            priority,
            is_traced,
            secmark,
            largest,
            is_copy: true,
            is_loose: !p.facts.dont_frag && (largest.is_some() || p.facts.iif == PortId::NONE),
            ..Packet::new(frame, facts, 0)
        };
        copy.edit(edit::forbid_fragments);
        copy.edit(edit::sum_header);
        if matches!(hook, Hook::Prerouting | Hook::Input) {
            copy.edit(|l3, facts| edit::set_ttl(l3, facts, facts.ttl.wrapping_sub(1)));
        }
        let ended = self.trace.as_mut().and_then(|trace| trace.end.take());
        let said = self.own.len();
        let end = self.route_copy(g, &copy, tee).and_then(|(hop, realms)| {
            (copy.hop, copy.made_for, copy.realms) = (hop, hop.port, realms);
            self.output_routed(g, &mut copy)
        });
        self.finish(g, copy, end);
        // What is said about the copy comes before what becomes of the packet, whose flow may not be there yet.
        while let Some(mut about) = self.own.remove(said) {
            about.is_copy = true;
            self.utter(g, about);
        }
        if let Some(trace) = &mut self.trace {
            trace.end = ended;
        }
    }

    /// The way of a copy: that of its gateway, whatever the copy's own addresses and mark are. A port that no way to the gateway
    /// leads over has IPv4 packets sent to their destination, as if that were on its link.
    fn route_copy(&self, g: &Running, copy: &Packet, tee: &Tee) -> Result<(Hop, u32), DropReason> {
        let family = copy.facts.family;
        let key = Key { family, src: 0, dst: tee.gateway, iif: PortId::NONE, mark: 0, tos: copy.facts.tos, hash: 0 };
        let port = tee.oif.as_ref().map_or(PortId::NONE, |port| port.id);
        match g.fib.lookup_on(&key, port) {
            Route::Via { port: over, gateway, mtu, .. } if port == PortId::NONE || port == over => {
                let realms = if family == Family::V4 { g.fib.realms_out(&key, port) } else { 0 };
                Ok((Hop { address: gateway.unwrap_or(tee.gateway), ..self.hop(copy, over, gateway, mtu) }, realms))
            }
            Route::Local if port == PortId::NONE => Ok((Hop::NOWHERE, 0)),
            _ if port != PortId::NONE && family == Family::V4 => Ok((self.hop(copy, port, None, u16::MAX), 0)),
            _ => Err(DropReason::NoRoute),
        }
    }

    /// Nanoseconds since 1970.
    pub(super) fn wall(&self) -> u64 {
        self.now.wrapping_add(self.wall_offset)
    }

    /// TCPMSS: the clamped value is the smaller MTU of both directions less the headers (`tcpmss_mangle_packet`).
    fn set_mss(&mut self, g: &Running, p: &mut Packet, mss: Mss) -> Result<(), DropReason> {
        let mss = match mss {
            Mss::Set(mss) => mss,
            Mss::Clamp => {
                let around = self.around(g, p);
                let mtu = p.hop.mtu.min(around.path_mtu(&p.facts, true));
                let headers = match p.facts.family {
                    Family::V4 => 40,
                    Family::V6 => 60,
                };
                mtu.checked_sub(headers).filter(|mss| *mss > 0).ok_or(DropReason::MalformedTcp)?
            }
        };
        clamp_mss(&mut p.frame, p.l3, &mut p.facts, mss)
    }

    /// SNPT and DNPT; an address that cannot be mapped is a problem of its header (`ip6t_snpt_tg`, `ip6t_dnpt_tg`).
    fn set_prefix(&mut self, g: &Running, p: &mut Packet, npt: &Npt) -> Result<(), DropReason> {
        // Other ends than those that the way was found by, and no flow to tell so.
        p.recall = None;
        self.fast.notes.stop();
        if p.edit(|l3, facts| prefix::is_mapped(npt, l3, facts)) {
            return Ok(());
        }
        let pointer = match npt.end {
            End::Source => 8,
            End::Destination => 24,
        };
        self.answer(g, p, Error::ParamProblem { code: 0, pointer });
        Err(DropReason::NatFailed)
    }
}
