//! A packet before a chain: the walk through rules, jumps and policies. What targets do on the way is in [`targets`](super::targets).
//!
//! Follows `ipt_do_table`: a rule counts when all its conditions hold, whether or not it ends the walk; a jump leaves the
//! place to come back to on a stack, a goto does not; the end of a user chain, like RETURN, goes back to the top of the stack
//! or, with nothing on it, to the policy of the built-in chain.

use super::Engine;
use super::notes::Ask;
use super::order::Idle;
use super::packet::Packet;
use super::program::{Chain, Found, Program};
use super::running::Running;
use super::trace::Step;
use crate::log::LogEvent;
use crate::reason::DropReason;
use std::ops::Range;
use sumun_config::rule::matches::Asks;
use sumun_config::rule::targets::Action;
use sumun_config::rule::targets::nat::Nat;
use sumun_config::rule::targets::verdict::Verdict;
use sumun_config::rule::{Effect, Hook, Policy, Table, Target};

/// How a packet goes on from a table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Passed<'g> {
    /// To the next one.
    Plainly,
    /// With the mapping that a rule of `nat` chose.
    Mapped(&'g Nat),
    /// Past a queue that nobody listens to: what table `nat` does beyond its chain is left out.
    Bypassing,
}

/// Where a walk goes on when a chain ends.
pub(super) type Return = (u32, Range<u32>);

impl Engine {
    /// The verdict of the table's chain at this hook: on with the packet, or its end. Nothing happens where the table has no chain here.
    #[inline(always)]
    pub(super) fn judge<'g>(
        &mut self,
        g: &'g Running,
        hook: Hook,
        table: Table,
        p: &mut Packet,
    ) -> Result<Passed<'g>, DropReason> {
        let Some(base) = g.program(p.facts.family).entry(table, hook) else { return Ok(Passed::Plainly) };
        match g.program(p.facts.family).chain(base).rules.is_empty() {
            // Most chains of most routers.
            true => self.policy::<true>(g, hook, table, base, p),
            false => self.walk(g, hook, table, base, p),
        }
    }

    /// Past chains that only count.
    #[inline(always)]
    pub(super) fn pass_idle(
        &mut self,
        g: &Running,
        hook: Hook,
        chains: &Idle,
        p: &mut Packet,
    ) -> Result<(), DropReason> {
        let chains = chains.iter().flatten();
        if p.is_traced || self.trace.is_some() {
            // Somebody wants to hear of each.
            return chains.map(|(table, _)| *table).try_for_each(|table| self.judge(g, hook, table, p).map(|_| ()));
        }
        let bank = &g.banks[self.worker];
        for (_, slot) in chains {
            bank.slot(*slot).count(p.facts.len as usize);
            self.fast.notes.count(*slot);
        }
        Ok(())
    }

    /// The verdict of a chain that is asked about every packet. Nothing is noted, and nobody wants to hear of each rule.
    #[inline(always)]
    pub(super) fn ask_chain(&mut self, g: &Running, ask: &Ask, p: &mut Packet) -> Result<(), DropReason> {
        let floor = self.returns.len();
        let passed = self.walk_from::<false>(g, ask.hook, ask.table, ask.chain, floor, p);
        self.returns.truncate(floor);
        passed.map(|_| ())
    }

    /// From the first rule of a built-in chain to the verdict.
    #[inline(never)]
    fn walk<'g>(
        &mut self,
        g: &'g Running,
        hook: Hook,
        table: Table,
        base: u32,
        p: &mut Packet,
    ) -> Result<Passed<'g>, DropReason> {
        // Below is what belongs to a packet that waits for its copy.
        let floor = self.returns.len();
        // In raw a packet may be marked for being told of.
        if !self.fast.notes.is_on() && self.trace.is_none() && !p.is_traced && table != Table::Raw {
            let passed = self.walk_from::<false>(g, hook, table, base, floor, p);
            self.returns.truncate(floor);
            return passed;
        }
        self.fast.notes.enter(hook, table, base, p.facts.mark);
        let passed = self.walk_from::<true>(g, hook, table, base, floor, p);
        self.fast.notes.leave(g.program(p.facts.family).changes_packets(table));
        self.returns.truncate(floor);
        passed
    }

    /// The same; `NOTED` where notes are taken or somebody wants to hear of each rule.
    #[inline(always)]
    fn walk_from<'g, const NOTED: bool>(
        &mut self,
        g: &'g Running,
        hook: Hook,
        table: Table,
        base: u32,
        floor: usize,
        p: &mut Packet,
    ) -> Result<Passed<'g>, DropReason> {
        let program = g.program(p.facts.family);
        let mut chain = base;
        let mut rules = program.chain(base).rules.clone();
        loop {
            let around = self.around(g, p);
            let cx = self.context(&around, p);
            let found = program.find(chain, rules.start, &p.facts, &cx);
            let asks = match NOTED && self.fast.notes.is_asking() {
                true => program.asks(chain, rules.start, found, &p.facts, &cx),
                false => Asks::Flow,
            };
            let at = match found {
                Found::Rule(at) => at,
                Found::Hotdrop => return Err(DropReason::RuleDrop),
                Found::End => {
                    if NOTED {
                        self.fast.notes.ask(asks);
                    }
                    if NOTED && p.is_traced && chain != base {
                        self.tell_end(program, table, chain, "return", p);
                    }
                    match self.back(floor) {
                        Some(back) => {
                            (chain, rules) = back;
                            continue;
                        }
                        None => return self.policy::<NOTED>(g, hook, table, base, p),
                    }
                }
            };
            let rule = program.rule(at);
            g.banks[self.worker].slot(rule.slot).count(p.facts.len as usize);
            rules.start = at + 1;
            let effect = match &rule.target {
                // Most rules': said without a call.
                Some(Target::Verdict(verdict)) => verdict.act(&p.facts, &cx),
                Some(target) => target.act(&p.facts, &cx),
                None => Effect::Continue,
            };
            if NOTED {
                self.fast.notes.ask(asks);
                self.fast.notes.count(rule.slot);
                self.fast.notes.act(&rule.target);
            }
            if NOTED && p.is_traced {
                self.tell_rule(program, table, chain, at, chain == base, p);
            }
            if NOTED && self.trace.is_some() {
                self.note(program, hook, table, chain, at);
            }
            match effect {
                Effect::Continue => {}
                Effect::Accept => return Ok(Passed::Plainly),
                Effect::Drop => return Err(DropReason::RuleDrop),
                Effect::Return => match self.back(floor) {
                    Some(back) => (chain, rules) = back,
                    None => return self.policy::<NOTED>(g, hook, table, base, p),
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
                Effect::Nat(nat) => return Ok(Passed::Mapped(nat)),
                Effect::Queue { bypass: true } => return Ok(Passed::Bypassing),
                Effect::Queue { bypass: false } => return Err(DropReason::QueueUnheard),
                effect => self.carry_out(g, hook, at, effect, p)?,
            }
        }
    }

    /// The place to come back to, of this walk.
    #[inline]
    fn back(&mut self, floor: usize) -> Option<Return> {
        if self.returns.len() > floor { self.returns.pop() } else { None }
    }

    /// The end of a built-in chain: its policy decides and counts.
    #[inline]
    fn policy<const NOTED: bool>(
        &mut self,
        g: &Running,
        hook: Hook,
        table: Table,
        base: u32,
        p: &Packet,
    ) -> Result<Passed<'static>, DropReason> {
        let program = g.program(p.facts.family);
        let chain = program.chain(base);
        g.banks[self.worker].slot(chain.slot).count(p.facts.len as usize);
        if NOTED {
            self.fast.notes.count(chain.slot);
        }
        if NOTED && p.is_traced {
            self.tell_end(program, table, base, "policy", p);
        }
        if NOTED && self.trace.is_some() {
            self.note_policy(hook, table, chain);
        }
        match chain.policy {
            Policy::Accept => Ok(Passed::Plainly),
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
    fn note(&mut self, program: &Program, hook: Hook, table: Table, chain: u32, rule: u32) {
        let Some(trace) = &mut self.trace else { return };
        let verdict = match &program.rule(rule).target {
            None => "CONTINUE".into(),
            Some(Target::Verdict(Verdict::Jump(to) | Verdict::Goto(to))) => program.chain(*to).name.clone(),
            Some(target) => target.told(program.family()),
        };
        let chain = program.chain(chain);
        let rule = Some(rule - chain.rules.start + 1);
        trace.steps.push(Step { hook, table, chain: chain.name.clone(), rule, verdict });
    }

    /// Logs the rule that a traced packet meets. As the kernel has it, a rule without conditions that ends its chain is told as
    /// the chain's end (`get_chaininfo_rulenum`).
    #[cold]
    fn tell_rule(&self, program: &Program, table: Table, chain: u32, at: u32, is_base: bool, p: &Packet) {
        let (rule, chain) = (program.rule(at), program.chain(chain));
        let ends = matches!(
            rule.target,
            Some(Target::Verdict(Verdict::Accept | Verdict::Drop | Verdict::Return | Verdict::Queue))
        );
        let kind = match (ends && rule.is_bare, is_base) {
            (false, _) => "rule",
            (true, true) => "policy",
            (true, false) => "return",
        };
        self.tell(table, &chain.name, kind, at - chain.rules.start + 1, p);
    }

    /// Logs the end of a chain that a traced packet meets.
    #[cold]
    fn tell_end(&self, program: &Program, table: Table, chain: u32, kind: &str, p: &Packet) {
        let chain = program.chain(chain);
        self.tell(table, &chain.name, kind, chain.rules.end - chain.rules.start + 1, p);
    }

    fn tell(&self, table: Table, chain: &str, kind: &str, number: u32, p: &Packet) {
        let place = format_args!("{}:{chain}:{kind}:{number}", table.name());
        self.router.log.push(LogEvent::trace(place, &p.facts, p.l3(), self.wall()));
    }
}
