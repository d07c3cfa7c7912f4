//! The ruleset of one family as the workers run it: chains, rules and conditions in three flat arrays.
//!
//! A chain is a range of rules, a rule a range of conditions; jumps name chains of the whole program, so a walk follows
//! numbers only. [`Program::find`] answers the one question of a walk: which rule, from here to the end of the chain, is
//! the first that matches? Long chains have an index that prunes ([`classify`](super::classify)); what a condition means is
//! said by [`Cond::holds`] alone.

use super::classify::{Classified, Index, WORTHWHILE};
use std::ops::Range;
use sumun_config::facts::{Context, Facts, Family};
use sumun_config::rule::matches::Asks;
use sumun_config::rule::targets::verdict::Verdict;
use sumun_config::rule::{Cond, Hook, Match, Outcome, Policy, Table, Target};
use sumun_config::ruleset::Tables;

/// The rules of a family, ready to run.
#[derive(Debug)]
pub struct Program {
    family: Family,
    chains: Vec<Chain>,
    rules: Vec<Rule>,
    conds: Vec<Cond>,
    /// First chain of each table.
    bases: [u32; 5],
    /// By table and hook: its built-in chain.
    entries: [[Option<u32>; 5]; 5],
    /// By table: whether a rule does more with packets than let them pass, end them or tell of them.
    changes: [bool; 5],
    /// Longest possible stack of jumps.
    depth: usize,
}

/// A chain.
#[derive(Debug)]
pub struct Chain {
    /// For traces.
    pub name: String,
    /// Its rules in [`Program::rule`].
    pub rules: Range<u32>,
    /// Policy of a built-in chain.
    pub policy: Policy,
    /// Counter slot of the policy.
    pub slot: u32,
    index: Option<Box<Index>>,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    conds: Range<u32>,
    /// It asks nothing at all, not even for a comment.
    pub is_bare: bool,
    /// What happens to what it matches; jumps name chains of the program.
    pub target: Option<Target>,
    /// Counter slot.
    pub slot: u32,
}

/// The answer of [`Program::find`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// This rule matches.
    Rule(u32),
    /// None does.
    End,
    /// A match of this rule drops the packet.
    Hotdrop,
}

impl Program {
    /// Flattens the tables of a family. Counter slots are given out by `slot`, called for each chain's policy and then for
    /// each of its rules, in order. The tables have been verified.
    pub fn build(family: Family, tables: &Tables, mut slot: impl FnMut() -> u32) -> Program {
        let mut program = Program {
            family,
            chains: Vec::new(),
            rules: Vec::new(),
            conds: Vec::new(),
            bases: [0; 5],
            entries: [[None; 5]; 5],
            changes: [false; 5],
            depth: 0,
        };
        for table in Table::ALL {
            let base = program.chains.len() as u32;
            program.bases[table as usize] = base;
            for (at, hook) in table.hooks().iter().enumerate() {
                program.entries[table as usize][*hook as usize] = Some(base + at as u32);
            }
            let chains = &tables.tables[table as usize].chains;
            program.depth = program.depth.max(chains.len());
            let mut targets = chains.iter().flat_map(|chain| &chain.rules).filter_map(|rule| rule.target.as_ref());
            program.changes[table as usize] = targets.any(Target::changes_packets);
            for chain in chains {
                let chain_slot = slot();
                let first = program.rules.len() as u32;
                for rule in &chain.rules {
                    let conds = program.conds.len() as u32;
                    program.conds.extend(rule.conds.iter().filter(|c| !matches!(c.test, Match::Comment(_))).cloned());
                    let target = match &rule.target {
                        Some(Target::Verdict(Verdict::Jump(to))) => Some(Target::Verdict(Verdict::Jump(base + to))),
                        Some(Target::Verdict(Verdict::Goto(to))) => Some(Target::Verdict(Verdict::Goto(base + to))),
                        other => other.clone(),
                    };
                    let conds = conds..program.conds.len() as u32;
                    let is_bare = rule.conds.is_empty();
                    program.rules.push(Rule { conds, is_bare, target, slot: slot() });
                }
                program.chains.push(Chain {
                    name: chain.name.clone(),
                    rules: first..program.rules.len() as u32,
                    policy: chain.policy.unwrap_or_default(),
                    slot: chain_slot,
                    index: None,
                });
            }
        }
        program.index(family);
        program
    }

    /// Gives the long chains their indices.
    fn index(&mut self, family: Family) {
        for chain in self.chains.iter_mut().filter(|chain| chain.rules.len() >= WORTHWHILE) {
            let rules = chain.rules.clone().map(|rule| {
                let conds = &self.rules[rule as usize].conds;
                (rule, &self.conds[conds.start as usize..conds.end as usize])
            });
            chain.index = Index::build(family, rules).map(Box::new);
        }
    }

    /// The family whose rules these are.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The built-in chain of a table at a hook, where the table has one.
    #[inline]
    pub fn entry(&self, table: Table, hook: Hook) -> Option<u32> {
        self.entries[table as usize][hook as usize]
    }

    /// The policy's counter of a table's chain at a hook, where that has no rule and lets everything pass.
    pub fn idle(&self, table: Table, hook: Hook) -> Option<u32> {
        let chain = self.chain(self.entry(table, hook)?);
        (chain.rules.is_empty() && chain.policy == Policy::Accept).then_some(chain.slot)
    }

    /// Whether a rule of a table does more with packets than let them pass, end them or tell of them.
    #[inline]
    pub fn changes_packets(&self, table: Table) -> bool {
        self.changes[table as usize]
    }

    /// The chains of a table, built-in ones first.
    pub fn chains_of(&self, table: Table) -> &[Chain] {
        let from = self.bases[table as usize] as usize;
        let to = self.bases.get(table as usize + 1).map_or(self.chains.len(), |base| *base as usize);
        &self.chains[from..to]
    }

    /// A chain by its number.
    #[inline]
    pub fn chain(&self, chain: u32) -> &Chain {
        &self.chains[chain as usize]
    }

    /// A rule by its number.
    #[inline]
    pub fn rule(&self, rule: u32) -> &Rule {
        &self.rules[rule as usize]
    }

    /// Jumps that can be open at once: no chain can be open twice, since a loop of jumps is refused.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The first rule of a chain that matches, from rule `start` on.
    #[inline(always)]
    pub fn find(&self, chain: u32, start: u32, facts: &Facts, cx: &Context) -> Found {
        let chain = self.chain(chain);
        match &chain.index {
            None => self.first(start..chain.rules.end, facts, cx),
            Some(index) => match index.classify(facts) {
                found if found.is_nothing() => self.first(index.without_key(start).iter().copied(), facts, cx),
                found => self.first_with_key(index, found, start, facts, cx),
            },
        }
    }

    /// The same where some rules have the packet's values as their keys.
    #[inline(never)]
    fn first_with_key(&self, index: &Index, found: Classified, start: u32, facts: &Facts, cx: &Context) -> Found {
        self.first(index.candidates(found, start), facts, cx)
    }

    /// What the answer of [`Program::find`] depended on. Asks again only what has no memory.
    pub fn asks(&self, chain: u32, start: u32, found: Found, facts: &Facts, cx: &Context) -> Asks {
        let last = match found {
            Found::Rule(at) => at,
            Found::End | Found::Hotdrop => u32::MAX,
        };
        let chain = self.chain(chain);
        match &chain.index {
            None => self.asked_of((start..chain.rules.end).take_while(|at| *at <= last), facts, cx),
            Some(index) => {
                let candidates = index.candidates(index.classify(facts), start);
                self.asked_of(candidates.take_while(|at| *at <= last), facts, cx)
            }
        }
    }

    fn asked_of(&self, rules: impl Iterator<Item = u32>, facts: &Facts, cx: &Context) -> Asks {
        let mut asks = Asks::Flow;
        for at in rules {
            let rule = self.rule(at);
            for cond in &self.conds[rule.conds.start as usize..rule.conds.end as usize] {
                asks = asks.max(cond.test.asks());
                if asks == Asks::Packet {
                    return asks;
                }
                if cond.holds(facts, cx) != Outcome::Yes {
                    break;
                }
            }
        }
        asks
    }

    /// The same, rule by rule: what [`Program::find`] must mean.
    #[cfg(test)]
    pub fn find_by_walk(&self, chain: u32, start: u32, facts: &Facts, cx: &Context) -> Found {
        self.first(start..self.chain(chain).rules.end, facts, cx)
    }

    /// How many rules of a chain are asked of a packet that none of them matches, at most.
    #[cfg(test)]
    pub fn asked(&self, chain: u32, facts: &Facts) -> usize {
        let chain = self.chain(chain);
        let candidates = |index: &Index| index.candidates(index.classify(facts), chain.rules.start).count();
        chain.index.as_deref().map_or(chain.rules.len(), candidates)
    }

    /// The first of these rules that matches.
    #[inline]
    fn first(&self, rules: impl Iterator<Item = u32>, facts: &Facts, cx: &Context) -> Found {
        'rules: for at in rules {
            let rule = self.rule(at);
            for cond in &self.conds[rule.conds.start as usize..rule.conds.end as usize] {
                match cond.holds(facts, cx) {
                    Outcome::Yes => {}
                    Outcome::No | Outcome::Never => continue 'rules,
                    Outcome::Hotdrop => return Found::Hotdrop,
                }
            }
            return Found::Rule(at);
        }
        Found::End
    }
}
