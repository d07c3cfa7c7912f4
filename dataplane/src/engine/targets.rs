//! What targets do to a packet that goes on to the next rule.

use super::Engine;
use super::generation::Generation;
use super::packet::Packet;
use crate::conntrack::Ct;
use crate::icmp::Error;
use crate::log::LogEvent;
use crate::nat::prefix;
use crate::packet::edit;
use crate::packet::mss::clamp_mss;
use crate::packet::tcp_bits;
use crate::reason::DropReason;
use sumun_config::facts::{CtState, Family, Surroundings, status};
use sumun_config::rule::Effect;
use sumun_config::rule::targets::npt::{End, Npt};
use sumun_config::rule::targets::tcpmss::Mss;

impl Engine {
    /// Carries out what the target of the rule `at` wants, which is no verdict; or the packet ends.
    #[inline]
    pub(super) fn carry_out(
        &mut self,
        g: &Generation,
        at: u32,
        effect: Effect,
        p: &mut Packet,
    ) -> Result<(), DropReason> {
        match effect {
            Effect::Log(log) => self.router.log.push(LogEvent::new(log, &p.facts, p.l3(), self.wall())),
            Effect::Mark(mark) => p.facts.mark = mark,
            Effect::ConnMark(mark) => {
                if p.facts.has_ct {
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

    /// Nanoseconds since 1970.
    pub(super) fn wall(&self) -> u64 {
        self.now.wrapping_add(self.wall_offset)
    }

    /// TCPMSS: the clamped value is the smaller MTU of both directions less the headers (`tcpmss_mangle_packet`).
    fn set_mss(&mut self, g: &Generation, p: &mut Packet, mss: Mss) -> Result<(), DropReason> {
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
    fn set_prefix(&mut self, g: &Generation, p: &mut Packet, npt: &Npt) -> Result<(), DropReason> {
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
