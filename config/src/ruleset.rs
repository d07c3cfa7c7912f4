//! The compiled ruleset: what control sends and the dataplane runs. Chains are numbers here, not names.
//!
//! One [`Tables`] for each family, since iptables and ip6tables are two rulesets. A table's built-in chains come first, in
//! the order of [`Table::hooks`]; user chains follow. A jump names the index of a user chain of its own table.
//! Whoever receives a ruleset calls [`Ruleset::verify`] before use: it holds for any bytes that decode.

use crate::facts::Family;
use crate::link::bad_chain_name;
use crate::object::{self, Object};
use crate::rule::option::MatchExtension;
use crate::rule::targets::verdict::Verdict;
use crate::rule::{Hook, Policy, Rule, Table, Target};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt::Write;

/// The rules of both families.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ruleset {
    /// By [`Family::index`].
    pub families: [Tables; 2],
    /// Cells that the stateful matches of all rules own together ([`crate::facts::Context::cells`]).
    pub cells: u32,
    /// What rules share by name; they know it by its index here.
    pub objects: Vec<Object>,
}

/// The five tables of a family, by [`Table`] as index.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tables {
    /// By `Table as usize`.
    pub tables: [Chains; 5],
}

/// The chains of one table.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Chains {
    /// Built-in chains in the order of [`Table::hooks`], then user chains.
    pub chains: Vec<Chain>,
}

/// A chain and its rules.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// `FORWARD`, or the user's name.
    pub name: String,
    /// The policy of a built-in chain; none for a user chain.
    pub policy: Option<Policy>,
    /// In order.
    pub rules: Vec<Rule>,
}

impl Ruleset {
    /// No rules, and `policy` in every chain of the filter table; ACCEPT elsewhere.
    pub fn empty(policy: Policy) -> Ruleset {
        let tables = || Tables {
            tables: Table::ALL.map(|table| Chains {
                chains: table
                    .hooks()
                    .iter()
                    .map(|hook| Chain {
                        name: hook.name().to_string(),
                        policy: Some(if table == Table::Filter { policy } else { Policy::Accept }),
                        rules: Vec::new(),
                    })
                    .collect(),
            }),
        };
        Ruleset { families: [tables(), tables()], cells: 0, objects: Vec::new() }
    }

    /// The tables of a family.
    pub fn of(&self, family: Family) -> &Tables {
        &self.families[family.index()]
    }
}

/// From where the chains of a table are reached.
pub struct Reached {
    /// For each chain, the hooks that lead to it (bits).
    pub hooks: Vec<u8>,
    /// For each chain, the most chains that can lie below it on a packet's way: 0 where it jumps nowhere.
    pub depth: Vec<u32>,
}

impl Chains {
    /// The index of the chain that a rule goes to.
    fn next(rule: &Rule) -> Option<usize> {
        match rule.target {
            Some(Target::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))) => Some(chain as usize),
            _ => None,
        }
    }

    /// Which hooks reach which chain; the chains of a circle where jumps make one. Jumps out of range lead nowhere.
    pub fn reach(&self, hooks: &[Hook]) -> Result<Reached, Vec<usize>> {
        let order = self.callees_first()?;
        let mut reached = Reached { hooks: vec![0; self.chains.len()], depth: vec![0; self.chains.len()] };
        for (bits, hook) in reached.hooks.iter_mut().zip(hooks) {
            *bits = hook.bit();
        }
        let successors =
            |i: usize| self.chains[i].rules.iter().filter_map(Chains::next).filter(|&next| next < self.chains.len());
        for &caller in order.iter().rev() {
            for callee in successors(caller) {
                reached.hooks[callee] |= reached.hooks[caller];
            }
        }
        for &caller in &order {
            reached.depth[caller] = successors(caller).map(|callee| reached.depth[callee] + 1).max().unwrap_or(0);
        }
        Ok(reached)
    }

    /// All chains, each after those that it jumps to. Without recursion: the chains may come from an enemy.
    fn callees_first(&self) -> Result<Vec<usize>, Vec<usize>> {
        let mut order = Vec::with_capacity(self.chains.len());
        let mut begun = vec![false; self.chains.len()];
        let mut done = vec![false; self.chains.len()];
        // Chains on the way, each with the rule to look at next.
        let mut way: Vec<(usize, usize)> = Vec::new();
        for start in 0..self.chains.len() {
            if !begun[start] {
                begun[start] = true;
                way.push((start, 0));
            }
            while let Some((chain, at)) = way.last_mut() {
                let Some(rule) = self.chains[*chain].rules.get(*at) else {
                    done[*chain] = true;
                    order.push(*chain);
                    way.pop();
                    continue;
                };
                *at += 1;
                let Some(next) = Chains::next(rule).filter(|&next| next < self.chains.len()) else { continue };
                if begun[next] && !done[next] {
                    let circle = way.iter().map(|&(chain, _)| chain).skip_while(|&chain| chain != next);
                    return Err(circle.collect());
                }
                if !begun[next] {
                    begun[next] = true;
                    way.push((next, 0));
                }
            }
        }
        Ok(order)
    }

    /// See [`Ruleset::verify`].
    fn verify(&self, family: Family, table: Table, ports: usize, memory: &mut Memory) -> Result<(), String> {
        let hooks = table.hooks();
        let mut names = HashSet::new();
        for (i, chain) in self.chains.iter().enumerate() {
            let builtin = hooks.get(i);
            if builtin.is_some_and(|hook| hook.name() != chain.name) || builtin.is_some() != chain.policy.is_some() {
                return Err(format!("chain {} is not where it belongs", chain.name));
            }
            if builtin.is_none() {
                if let Some(why) = bad_chain_name(&chain.name) {
                    return Err(why);
                }
                if Hook::ALL.iter().any(|hook| hook.name() == chain.name) || !names.insert(chain.name.as_str()) {
                    return Err(format!("the chain {} is there twice or has a built-in chain's name", chain.name));
                }
            }
            let own =
                |rule: &Rule| Chains::next(rule).is_none_or(|next| next >= hooks.len() && next < self.chains.len());
            if !chain.rules.iter().all(own) {
                return Err(format!("chain {} has a jump to no user chain", chain.name));
            }
        }
        if self.chains.len() < hooks.len() {
            return Err("a built-in chain is missing".to_string());
        }
        let reached = self.reach(hooks).map_err(|_| "the jumps go in a circle".to_string())?;
        for (chain, &hooks) in self.chains.iter().zip(&reached.hooks) {
            for (number, rule) in chain.rules.iter().enumerate() {
                verify_rule(rule, family, table, hooks, ports, memory)
                    .map_err(|why| format!("chain {}, rule {}: {why}", chain.name, number + 1))?;
            }
        }
        Ok(())
    }
}

/// The memory of rules: which cells have an owner, and what is shared.
struct Memory<'a> {
    owned: Vec<bool>,
    objects: &'a [Object],
}

impl Memory<'_> {
    fn take(&mut self, cell: u32) -> Result<(), String> {
        match self.owned.get_mut(cell as usize) {
            Some(taken @ false) => {
                *taken = true;
                Ok(())
            }
            Some(true) => Err(format!("cell {cell} has two owners")),
            None => Err(format!("there is no cell {cell}")),
        }
    }
}

fn verify_rule(
    rule: &Rule,
    family: Family,
    table: Table,
    hooks: u8,
    ports: usize,
    memory: &mut Memory,
) -> Result<(), String> {
    let mut before = None;
    for cond in &rule.conds {
        cond.test.verify(family)?;
        let extension = cond.test.extension();
        let same = |a: &MatchExtension, b: &MatchExtension| std::ptr::eq(a, b);
        let placed = match (before, extension) {
            (_, None) => !cond.opens,
            (Some(a), Some(b)) if same(a, b) => true,
            (_, Some(_)) => cond.opens,
        };
        if !placed {
            return Err("a condition that belongs to no match".to_string());
        }
        before = extension;
        if let Some(extension) = extension {
            let name = extension.name;
            if !extension.tables.is_empty() && !extension.tables.contains(&table) {
                return Err(format!("{name} cannot be used in table {}", table.name()));
            }
            if hooks & !extension.hooks != 0 {
                return Err(format!("{name} cannot be used in a chain that is reached from these hooks"));
            }
        }
        if let Some(cell) = cond.test.cell() {
            memory.take(cell)?;
        }
        object::verify_declared(&cond.test.objects(), memory.objects)?;
        if let crate::rule::Match::Interface(interface) = &cond.test
            && interface.parts().1.beyond(ports)
        {
            return Err("an interface that is not there".to_string());
        }
    }
    let Some(target) = &rule.target else { return Ok(()) };
    object::verify_declared(&target.objects(), memory.objects)?;
    target.verify(family, table, hooks, &rule.conds)
}

/// Packets and bytes, as counters are printed.
pub type Count = (u64, u64);

impl Ruleset {
    /// Most cells that a ruleset may declare: they are allocated before any rule runs.
    pub const MAX_CELLS: u32 = 1 << 20;

    /// Whether a ruleset of whatever origin is one that the engine can run, for a router of so many ports: built-in chains
    /// in place, jumps to user chains of the same table and never in a circle, matches and targets where they are allowed,
    /// values in range, each cell owned by one match at most, named objects as the rules want them.
    pub fn verify(&self, ports: usize) -> Result<(), String> {
        if self.cells > Self::MAX_CELLS {
            return Err(format!("{} cells are more than {}", self.cells, Self::MAX_CELLS));
        }
        object::verify(&self.objects)?;
        let mut memory = Memory { owned: vec![false; self.cells as usize], objects: &self.objects };
        for family in Family::ALL {
            for table in Table::ALL {
                let chains = &self.of(family).tables[table as usize];
                chains
                    .verify(family, table, ports, &mut memory)
                    .map_err(|why| format!("{} {}: {why}", family.name(), table.name()))?;
            }
        }
        Ok(())
    }

    /// The tables of a family as iptables-save prints them. `count` tells packets and bytes of a chain's policy (no rule) or of
    /// a rule, by table, chain and rule; without it policies have zeros and rules nothing.
    pub fn print(&self, family: Family, count: Option<&dyn Fn(Table, usize, Option<usize>) -> Count>) -> String {
        let mut out = String::new();
        for table in Table::ALL {
            self.print_table(family, table, count, &mut out);
        }
        out
    }

    /// One table as iptables-save prints it; see [`Ruleset::print`].
    pub fn print_table(
        &self,
        family: Family,
        table: Table,
        count: Option<&dyn Fn(Table, usize, Option<usize>) -> Count>,
        out: &mut String,
    ) {
        let all: Vec<usize> = (0..self.of(family).tables[table as usize].chains.len()).collect();
        self.print_ordered(family, table, &all, count, out);
    }

    /// One table with its chains in the order of these indices.
    pub(crate) fn print_ordered(
        &self,
        family: Family,
        table: Table,
        order: &[usize],
        count: Option<&dyn Fn(Table, usize, Option<usize>) -> Count>,
        out: &mut String,
    ) {
        let chains = &self.of(family).tables[table as usize].chains;
        let ordered = || order.iter().filter_map(|&i| Some((i, chains.get(i)?)));
        let name = |chain: u32| chains.get(chain as usize).map_or("", |chain| chain.name.as_str());
        let _ = writeln!(out, "*{}", table.name());
        for (i, chain) in ordered() {
            let policy = match chain.policy {
                Some(Policy::Accept) => "ACCEPT",
                Some(Policy::Drop) => "DROP",
                None => "-",
            };
            let (packets, bytes) =
                count.filter(|_| chain.policy.is_some()).map_or((0, 0), |count| count(table, i, None));
            let _ = writeln!(out, ":{} {policy} [{packets}:{bytes}]", chain.name);
        }
        for (i, chain) in ordered() {
            for (j, rule) in chain.rules.iter().enumerate() {
                if let Some((packets, bytes)) = count.map(|count| count(table, i, Some(j))) {
                    let _ = write!(out, "[{packets}:{bytes}] ");
                }
                let text = crate::rule::print(rule, family, name);
                let blank = if text.is_empty() { "" } else { " " };
                let _ = writeln!(out, "-A {}{blank}{text}", chain.name);
            }
        }
        out.push_str("COMMIT\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::matches::address::Address;
    use crate::rule::targets::{dscp::Dscp, nat, reject, tcpmss::Mss, ttl};
    use crate::rule::{Cond, Match};

    fn rule(target: Target) -> Rule {
        Rule { conds: Vec::new(), target: Some(target), line: 0 }
    }

    fn user(name: &str, rules: Vec<Rule>) -> Chain {
        Chain { name: name.to_string(), policy: None, rules }
    }

    fn jump(chain: u32) -> Rule {
        rule(Target::Verdict(Verdict::Jump(chain)))
    }

    #[test]
    fn empty_rulesets_verify() {
        for policy in [Policy::Accept, Policy::Drop] {
            assert_eq!(Ruleset::empty(policy).verify(0), Ok(()));
        }
    }

    #[test]
    fn what_the_linker_would_not_make_is_refused() {
        const FILTER: usize = Table::Filter as usize;
        type Spoil = fn(&mut Tables);
        let cases: [(&str, Spoil); 17] = [
            ("is missing", |t| t.tables[FILTER].chains.truncate(2)),
            ("where it belongs", |t| t.tables[FILTER].chains.swap(0, 1)),
            ("where it belongs", |t| t.tables[FILTER].chains[0].policy = None),
            ("where it belongs", |t| {
                t.tables[FILTER].chains.push(Chain { policy: Some(Policy::Drop), ..user("u", vec![]) })
            }),
            ("to no user chain", |t| t.tables[FILTER].chains[0].rules.push(jump(3))),
            ("to no user chain", |t| t.tables[FILTER].chains[0].rules.push(jump(1))),
            ("to no user chain", |t| t.tables[FILTER].chains[0].rules.push(jump(u32::MAX))),
            ("circle", |t| t.tables[FILTER].chains.push(user("u", vec![jump(3)]))),
            ("circle", |t| t.tables[FILTER].chains.extend([user("u", vec![jump(4)]), user("v", vec![jump(3)])])),
            ("table mangle", |t| {
                t.tables[Table::Mangle as usize].chains[1]
                    .rules
                    .push(rule(Target::Reject(reject::Reject(reject::With::IcmpHostUnreachable))))
            }),
            ("REJECT with an answer that is not one of ipv4", |t| {
                let reject = reject::Reject(reject::With::Icmp6NoRoute);
                t.tables[FILTER].chains[0].rules.push(rule(Target::Reject(reject)));
            }),
            ("needs -p tcp", |t| {
                t.tables[FILTER].chains[0].rules.push(rule(Target::Reject(reject::Reject(reject::With::TcpReset))))
            }),
            ("these hooks", |t| {
                let nat = &mut t.tables[Table::Nat as usize].chains;
                nat[0].rules.push(jump(4));
                nat.push(user("u", vec![rule(Target::Nat(nat::Nat::new(nat::Kind::Masquerade)))]));
            }),
            ("cannot be", |t| {
                let wide = nat::Nat { addresses: Some((5, 1 << 40)), ..nat::Nat::new(nat::Kind::Snat) };
                t.tables[Table::Nat as usize].chains[3].rules.push(rule(Target::Nat(wide)));
            }),
            ("more than 63", |t| t.tables[Table::Mangle as usize].chains[0].rules.push(rule(Target::Dscp(Dscp(64))))),
            ("does not exist for ipv4", |t| {
                let hl = ttl::Ttl { family: Family::V6, step: ttl::Step::Set(1) };
                t.tables[Table::Mangle as usize].chains[0].rules.push(rule(Target::Ttl(hl)));
            }),
            ("mask wider", |t| {
                let test = Match::Address(Address::Source { net: 0, mask: u128::MAX });
                t.tables[FILTER].chains[0].rules.push(Rule {
                    conds: vec![Cond::new(false, test)],
                    target: None,
                    line: 0,
                });
            }),
        ];
        let named = |name: &str| user(name, Vec::new());
        for (words, names) in [
            ("cannot be the name", &["two words"][..]),
            ("longer than", &[&"x".repeat(29)]),
            ("is there twice", &["u", "u"]),
            ("is there twice", &["PREROUTING"]),
        ] {
            let mut ruleset = Ruleset::empty(Policy::Accept);
            ruleset.families[0].tables[FILTER].chains.extend(names.iter().map(|name| named(name)));
            let why = ruleset.verify(0).expect_err(words);
            assert!(why.contains(words), "{words}: {why}");
        }
        for (words, spoil) in cases {
            let mut ruleset = Ruleset::empty(Policy::Accept);
            spoil(&mut ruleset.families[0]);
            let why = ruleset.verify(4).expect_err(words);
            assert!(why.contains(words), "{words}: {why}");
        }
        let mut clamp = Ruleset::empty(Policy::Accept);
        clamp.families[1].tables[FILTER].chains[0].rules.push(rule(Target::Mss(Mss::Clamp)));
        assert!(clamp.verify(0).unwrap_err().contains("these hooks"));
        let greedy = Ruleset { cells: u32::MAX, ..Ruleset::empty(Policy::Accept) };
        assert!(greedy.verify(0).unwrap_err().contains("cells"));
    }

    #[test]
    fn a_long_way_of_jumps_is_walked_without_recursion() {
        let mut ruleset = Ruleset::empty(Policy::Accept);
        let chains = &mut ruleset.families[0].tables[Table::Filter as usize];
        chains.chains.extend((4..100_004).map(|next| user(&next.to_string(), vec![jump(next)])));
        chains.chains.push(user("last", Vec::new()));
        chains.chains[0].rules.push(jump(3));
        assert_eq!(ruleset.verify(0), Ok(()));
        let reached = ruleset.families[0].tables[Table::Filter as usize]
            .reach(Table::Filter.hooks())
            .map(|r| (r.hooks[100_003], r.depth[0]));
        assert_eq!(reached.ok(), Some((Hook::Input.bit(), 100_001)));
    }
}
