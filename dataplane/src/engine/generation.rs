//! One published policy, built for running: rules, settings, and the counters that go with them. Its routes and addresses are
//! part of the [`Fib`](crate::fib::Fib), which is published with it and between generations too.
//!
//! Built by the publisher, shared by all workers, dropped when the last worker has moved on. A rule that stays (same
//! family, table, chain and meaning) keeps its counters and the memory of its stateful matches: rules are recognised by
//! their text, the second of two equal rules of a chain by its being the second. What rules share by name is in
//! [`objects`](super::objects).

use super::objects::Objects;
use super::order::{Needs, Order};
use super::program::Program;
use super::stats::Bank;
use crate::conntrack::Timeouts;
use crate::set::Plan;
use std::collections::HashMap;
use sumun_config::facts::Family;
use sumun_config::model::Policy;
use sumun_config::rule::{Match, Rule, Table, Target};
use sumun_config::ruleset::Ruleset;
use sumun_config::set::ask::Named;

/// Cells of stateful matches that a router has, over all generations alive.
pub const MAX_CELLS: usize = 1 << 16;

/// What workers run.
pub struct Generation {
    /// Counted from 1.
    pub number: u64,
    /// As published; its ruleset has the cells of this router.
    pub policy: Policy,
    /// By [`Family::index`].
    pub programs: [Program; 2],
    /// What happens at each hook, by [`Family::index`].
    pub orders: [Order; 2],
    /// What of flows the rules need, by [`Family::index`].
    pub needs: [Needs; 2],
    /// Settings of flows with a time-out policy.
    pub timeouts: Timeouts,
    /// What its rules share by name.
    pub objects: Objects,
    /// How many rules know a set, by its slot.
    pub set_uses: HashMap<u32, u32>,
    /// Rule counters, by worker.
    pub banks: Vec<Bank>,
    /// For each counter slot the slot of the generation before that it continues.
    pub carry: Vec<Option<u32>>,
    identities: HashMap<Identity, Owned>,
}

/// What makes a rule (or a policy) the same rule in the next generation.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Identity {
    family: Family,
    table: Table,
    chain: String,
    /// The canonical text; none for the policy.
    rule: Option<String>,
    /// How many equal rules stand before it in the chain.
    copies_before: u32,
}

/// What a rule keeps from generation to generation.
struct Owned {
    slot: u32,
    cells: Vec<u32>,
}

/// Gives out cells of stateful matches.
#[derive(Debug)]
pub struct CellPool {
    free: Vec<u32>,
}

impl CellPool {
    /// All cells free.
    pub fn full() -> CellPool {
        CellPool { free: (0..MAX_CELLS as u32).rev().collect() }
    }

    /// Takes cells back.
    pub fn give(&mut self, cells: Vec<u32>) {
        self.free.extend(cells);
    }
}

impl Generation {
    /// Builds a verified policy as the successor of `before`. `fresh` counters and cells start at zero; with `keep` false
    /// all counters do. Cells newly taken are returned too, to be zeroed before use.
    pub fn build(
        number: u64,
        mut policy: Policy,
        workers: usize,
        before: Option<&Generation>,
        keep: Keep,
        cells: &mut CellPool,
    ) -> Result<(Generation, Vec<u32>), String> {
        // As in the kernel, whoever asks for counters turns them on for all flows (`connbytes_mt_check`).
        policy.sysctl.nf_conntrack_acct |= has(&policy.ruleset, |test| matches!(test, Match::Connbytes(_)));
        let timeouts = Timeouts::of(&policy);
        let mut carry = Vec::new();
        let mut identities = HashMap::new();
        let mut taken = Vec::new();
        let result = identify(&mut policy.ruleset, |identity, needs| {
            let old = before.and_then(|g| g.identities.get(&identity));
            let slot = carry.len() as u32;
            carry.push(match keep {
                Keep::Counters => old.map(|o| o.slot),
                Keep::Nothing => None,
            });
            let owned = match old {
                Some(o) if o.cells.len() == needs => o.cells.clone(),
                _ => {
                    let at = cells.free.len().checked_sub(needs).ok_or_else(|| {
                        format!("more than {MAX_CELLS} stateful matches (limit, statistic, connlimit) over the rulesets alive")
                    })?;
                    let fresh = cells.free.split_off(at);
                    taken.extend_from_slice(&fresh);
                    fresh
                }
            };
            identities.insert(identity, Owned { slot, cells: owned.clone() });
            Ok(owned)
        });
        if let Err(reason) = result {
            cells.free.append(&mut taken);
            return Err(reason);
        }
        let mut next = 0..;
        let mut slot = || next.next().expect("slots do not run out");
        let programs = Family::ALL.map(|family| Program::build(family, policy.ruleset.of(family), &mut slot));
        let needs = Family::ALL.map(|family| {
            let needed = before.map_or_else(Needs::default, |g| g.needs[family.index()]);
            Needs::of(policy.ruleset.of(family), needed)
        });
        let orders = Family::ALL.map(|family| Order::of(needs[family.index()]).for_rules(&programs[family.index()]));
        let banks = (0..workers).map(|_| Bank::new(carry.len())).collect();
        let declared = &policy.ruleset.objects;
        let objects = before.map_or_else(|| Objects::none(0).next(declared), |g| g.objects.next(declared));
        let generation = Generation {
            number,
            policy,
            programs,
            orders,
            needs,
            timeouts,
            objects,
            set_uses: HashMap::new(),
            banks,
            carry,
            identities,
        };
        Ok((generation, taken))
    }

    /// Cells of this generation that `next` does not use: free again once no worker runs this one.
    pub fn cells_left_by(&self, next: &Generation) -> Vec<u32> {
        self.identities
            .iter()
            .filter(|(identity, owned)| next.identities.get(identity).is_none_or(|n| n.cells != owned.cells))
            .flat_map(|(_, owned)| owned.cells.iter().copied())
            .collect()
    }

    /// What happens to packets of a family at each hook.
    #[inline]
    pub fn order(&self, family: Family) -> &Order {
        &self.orders[family.index()]
    }

    /// The program of a family.
    #[inline]
    pub fn program(&self, family: Family) -> &Program {
        &self.programs[family.index()]
    }
}

/// What a generation takes over from the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Counters of the rules that stay.
    Counters,
    /// All counters start at zero.
    Nothing,
}

/// Whether some rule has such a condition.
pub(super) fn has(ruleset: &Ruleset, is: impl Fn(&Match) -> bool) -> bool {
    rules(ruleset).flat_map(|rule| &rule.conds).any(|cond| is(&cond.test))
}

/// How many such conditions there are in the family that has more of them.
pub(super) fn count(ruleset: &Ruleset, is: impl Fn(&Match) -> bool) -> usize {
    let rules = |family| {
        let chains = ruleset.of(family).tables.iter().flat_map(|table| &table.chains);
        chains.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.conds).filter(|cond| is(&cond.test)).count()
    };
    Family::ALL.into_iter().map(rules).max().unwrap_or(0)
}

/// Whether some rule has such a target.
pub(super) fn does(ruleset: &Ruleset, is: impl Fn(&Target) -> bool) -> bool {
    rules(ruleset).filter_map(|rule| rule.target.as_ref()).any(is)
}

fn rules(ruleset: &Ruleset) -> impl Iterator<Item = &Rule> {
    let chains = ruleset.families.iter().flat_map(|family| &family.tables).flat_map(|table| &table.chains);
    chains.flat_map(|chain| &chain.rules)
}

/// Writes into every rule where its sets are; how many rules know each.
pub(super) fn place_sets(ruleset: &mut Ruleset, sets: &Plan) -> Result<HashMap<u32, u32>, String> {
    let mut uses = HashMap::new();
    let mut place = |named: &mut Named| {
        named.slot = sets
            .slot(&named.name)
            .ok_or_else(|| format!("a rule names the set {:?}, which is not there", named.name))?;
        *uses.entry(named.slot).or_insert(0) += 1;
        Ok::<_, String>(())
    };
    let chains = ruleset.families.iter_mut().flat_map(|family| &mut family.tables).flat_map(|table| &mut table.chains);
    for rule in chains.flat_map(|chain| &mut chain.rules) {
        for cond in &mut rule.conds {
            if let Match::Set(set) = &mut cond.test {
                place(set.named_mut())?;
            }
        }
        if let Some(Target::Set(set)) = &mut rule.target {
            set.named_mut().try_for_each(&mut place)?;
        }
    }
    Ok(uses)
}

/// Visits every policy and rule in the order in which [`Program::build`] asks for slots, and writes the cells that the
/// visitor gives into the rule's stateful matches.
fn identify(
    ruleset: &mut Ruleset,
    mut visit: impl FnMut(Identity, usize) -> Result<Vec<u32>, String>,
) -> Result<(), String> {
    for family in Family::ALL {
        for table in Table::ALL {
            let chains = &mut ruleset.families[family.index()].tables[table as usize].chains;
            let names: Vec<String> = chains.iter().map(|c| c.name.clone()).collect();
            let name = |chain: u32| names.get(chain as usize).map_or("", String::as_str);
            for chain in chains.iter_mut() {
                let at =
                    |rule, copies_before| Identity { family, table, chain: chain.name.clone(), rule, copies_before };
                visit(at(None, 0), 0)?;
                let mut seen: HashMap<String, u32> = HashMap::new();
                for rule in &mut chain.rules {
                    let text = sumun_config::rule::print(rule, family, name);
                    let copies = seen.entry(text.clone()).or_insert(0);
                    let identity = at(Some(text), *copies);
                    *copies += 1;
                    let needs = rule.conds.iter_mut().filter_map(|c| c.test.cells()).count();
                    let given = visit(identity, needs)?;
                    for (cell, number) in rule.conds.iter_mut().filter_map(|c| c.test.cells()).zip(given) {
                        *cell = number;
                    }
                }
            }
        }
    }
    Ok(())
}
