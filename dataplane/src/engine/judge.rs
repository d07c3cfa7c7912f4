//! A packet before a chain: the walk through rules, jumps and policies, and what targets do on the way.
//!
//! Follows `ipt_do_table`: a rule counts when all its conditions hold, whether or not it ends the walk; a jump leaves the
//! place to come back to on a stack, a goto does not; the end of a user chain, like RETURN, goes back to the top of the stack
//! or, with nothing on it, to the policy of the built-in chain.

use super::Engine;
use super::generation::Generation;
use super::packet::Packet;
use super::program::{Chain, Found, Program};
use super::trace::Step;
use crate::conntrack::Ct;
use crate::icmp::Error;
use crate::log::LogEvent;
use crate::nat::prefix;
use crate::packet::edit;
use crate::packet::mss::clamp_mss;
use crate::reason::DropReason;
use std::ops::Range;
use sumun_config::facts::{CtState, Family, Surroundings, status};
use sumun_config::rule::targets::nat::Nat;
use sumun_config::rule::targets::npt::{End, Npt};
use sumun_config::rule::targets::tcpmss::Mss;
use sumun_config::rule::{Effect, Hook, Policy, Table};

/// Where a walk goes on when a chain ends.
pub(super) type Return = (u32, Range<u32>);

impl Engine {
    /// The verdict of the table's chain at this hook: on with the packet, with a mapping where a rule of `nat` chose one, or
    /// its end. Nothing happens where the table has no chain here.
    #[inline(always)]
    pub(super) fn judge<'g>(
        &mut self,
        g: &'g Generation,
        hook: Hook,
        table: Table,
        p: &mut Packet,
    ) -> Result<Option<&'g Nat>, DropReason> {
        let Some(base) = g.program(p.facts.family).entry(table, hook) else { return Ok(None) };
        match g.program(p.facts.family).chain(base).rules.is_empty() {
            // Most chains of most routers.
            true => self.policy(g, hook, table, base, p).map(|()| None),
            false => self.walk(g, hook, table, base, p),
        }
    }

    /// From the first rule of a built-in chain to the verdict.
    #[inline(never)]
    fn walk<'g>(
        &mut self,
        g: &'g Generation,
        hook: Hook,
        table: Table,
        base: u32,
        p: &mut Packet,
    ) -> Result<Option<&'g Nat>, DropReason> {
        let program = g.program(p.facts.family);
        let mut chain = base;
        let mut rules = program.chain(base).rules.clone();
        self.returns.clear();
        loop {
            let around = self.around(g, p);
            let cx = self.context(&around, p);
            let at = match program.find(chain, rules.start, &p.facts, &cx) {
                Found::Rule(at) => at,
                Found::Hotdrop => return Err(DropReason::RuleDrop),
                Found::End => match self.returns.pop() {
                    Some(back) => {
                        (chain, rules) = back;
                        continue;
                    }
                    None => return self.policy(g, hook, table, base, p).map(|()| None),
                },
            };
            let rule = program.rule(at);
            g.banks[self.worker].slot(rule.slot).count(p.facts.len as usize);
            rules.start = at + 1;
            let effect = match &rule.target {
                Some(target) => target.act(&p.facts, &cx),
                None => Effect::Continue,
            };
            if self.trace.is_some() {
                self.note(program, hook, table, chain, at, effect);
            }
            match effect {
                Effect::Continue => {}
                Effect::Accept => return Ok(None),
                Effect::Drop => return Err(DropReason::RuleDrop),
                Effect::Return => match self.returns.pop() {
                    Some(back) => (chain, rules) = back,
                    None => return self.policy(g, hook, table, base, p).map(|()| None),
                },
                Effect::Jump(to) => {
                    self.returns.push((chain, rules));
                    chain = to;
                    rules = program.chain(to).rules.clone();
                }
                Effect::Goto(to) => {
                    chain = to;
                    rules = program.chain(to).rules.clone();
                }
                Effect::Reject(with) => {
                    self.refuse(g, p, with);
                    return Err(DropReason::Reject);
                }
                Effect::Nat(nat) => return Ok(Some(nat)),
                Effect::Log(log) => {
                    let wall = self.now.wrapping_add(self.wall_offset);
                    self.router.log.push(LogEvent::new(log, &p.facts, p.l3(), wall));
                }
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
                Effect::Untrack => {
                    if matches!(p.ct, Ct::None) {
                        p.ct = Ct::Untracked;
                        p.facts.ct_state = CtState::Untracked;
                    }
                }
            }
        }
    }

    /// The end of a built-in chain: its policy decides and counts.
    #[inline]
    fn policy(&mut self, g: &Generation, hook: Hook, table: Table, base: u32, p: &Packet) -> Result<(), DropReason> {
        let chain = g.program(p.facts.family).chain(base);
        g.banks[self.worker].slot(chain.slot).count(p.facts.len as usize);
        if self.trace.is_some() {
            self.note_policy(hook, table, chain);
        }
        match chain.policy {
            Policy::Accept => Ok(()),
            Policy::Drop => Err(DropReason::PolicyDrop),
        }
    }

    #[cold]
    fn note_policy(&mut self, hook: Hook, table: Table, chain: &Chain) {
        let Some(trace) = &mut self.trace else { return };
        let verdict = match chain.policy {
            Policy::Accept => "ACCEPT",
            Policy::Drop => "DROP",
        };
        trace.steps.push(Step { hook, table, chain: chain.name.clone(), rule: None, verdict: verdict.into() });
    }

    /// Records a matched rule where a trace is wanted.
    #[cold]
    fn note(&mut self, program: &Program, hook: Hook, table: Table, chain: u32, rule: u32, effect: Effect) {
        let Some(trace) = &mut self.trace else { return };
        let chain = program.chain(chain);
        let verdict = match effect {
            Effect::Continue => "CONTINUE".into(),
            Effect::Accept => "ACCEPT".into(),
            Effect::Drop => "DROP".into(),
            Effect::Return => "RETURN".into(),
            Effect::Jump(to) | Effect::Goto(to) => program.chain(to).name.clone(),
            Effect::Reject(_) => "REJECT".into(),
            Effect::Log(_) => "LOG".into(),
            Effect::Mark(_) => "MARK".into(),
            Effect::ConnMark(_) => "CONNMARK".into(),
            Effect::Ttl(_) => "TTL".into(),
            Effect::Tos(_) => "TOS".into(),
            Effect::Mss(_) => "TCPMSS".into(),
            Effect::Untrack => "NOTRACK".into(),
            Effect::Ct(_) => "CT".into(),
            Effect::Npt(npt) => match npt.end {
                End::Source => "SNPT".into(),
                End::Destination => "DNPT".into(),
            },
            Effect::Nat(nat) => format!("{:?}", nat.kind).to_uppercase(),
        };
        let rule = Some(rule - chain.rules.start + 1);
        trace.steps.push(Step { hook, table, chain: chain.name.clone(), rule, verdict });
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
