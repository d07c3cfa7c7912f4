//! The order of hooks and tables, as data: the only place where it is written.
//!
//! Priorities are netfilter's: defragmentation -400, raw -300, conntrack -200, mangle -150, dstnat -100, filter 0, security 50, srcnat 100,
//! helpers and confirm last (`enum nf_ip_hook_priorities`).

use super::program::Program;
use crate::nat::Manip;
use sumun_config::rule::{Hook, Match, Policy, Table, Target};
use sumun_config::ruleset::Tables;

/// Most tables in a row at a hook.
const ROW: usize = 3;

/// Tables and policies' counters of idle chains.
pub type Idle = [Option<(Table, u32)>; ROW];

/// One thing that happens to a packet at a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The table's chain for this hook judges it.
    Chain(Table),
    /// Chains without a rule that let everything pass, one after the other: they count, and that is all.
    Idle(Idle),
    /// Fragments wait until their packet is whole (`nf_defrag_ipv4`, `nf_defrag_ipv6`).
    Defrag,
    /// Conntrack places it (`nf_conntrack_in`).
    Track,
    /// The flow's first packet chooses the mapping, every packet is rewritten (`nf_nat_inet_fn`).
    Nat(Manip),
    /// Local output only: the route is looked up again if the stage before changed what it depends on
    /// (`ip_route_me_harder`).
    Reroute,
    /// SYNPROXY and the flow's helper read the packet, sequence numbers move (`nf_confirm` before it confirms).
    Help,
    /// The flow enters the table (`nf_conntrack_confirm`).
    Confirm,
}

/// What happens at a hook, in order, where the rules need all of it.
pub const fn stages(hook: Hook) -> &'static [Stage] {
    use Stage::*;
    match hook {
        Hook::Prerouting => &[Defrag, Chain(Table::Raw), Track, Chain(Table::Mangle), Nat(Manip::Dst)],
        Hook::Input => {
            &[Chain(Table::Mangle), Chain(Table::Filter), Chain(Table::Security), Nat(Manip::Src), Help, Confirm]
        }
        Hook::Forward => &[Chain(Table::Mangle), Chain(Table::Filter), Chain(Table::Security)],
        Hook::Output => &[
            Defrag,
            Chain(Table::Raw),
            Track,
            Chain(Table::Mangle),
            Reroute,
            Nat(Manip::Dst),
            Reroute,
            Chain(Table::Filter),
            Chain(Table::Security),
        ],
        Hook::Postrouting => &[Chain(Table::Mangle), Nat(Manip::Src), Help, Confirm],
    }
}

/// Which stages beside tables a family's rules need. As in the kernel, nothing is tracked unless some rule asks for it
/// (`nf_ct_netns_get`): a match on flows, a mapping, CONNMARK, CONNSECMARK, CT, SYNPROXY. NOTRACK alone asks for nothing, nor do
/// other rules of table nat: its chains see no packet until somebody asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// Flows are tracked.
    pub tracking: bool,
    /// Fragments are put together.
    pub defrag: bool,
    /// A rule asks for the node of a cluster.
    pub cluster: bool,
    /// Flows get mappings. Once so it stays so, since mappings outlive the rules that chose them.
    pub nat: bool,
}

impl Needs {
    /// What the rules of a family need, after a generation that needed `before`.
    pub fn of(tables: &Tables, before: Needs) -> Needs {
        let nat = &tables.tables[Table::Nat as usize].chains;
        let says_anything = nat.len() > Table::Nat.hooks().len()
            || nat.iter().any(|chain| !chain.rules.is_empty() || chain.policy == Some(Policy::Drop));
        let rules = || tables.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
        let has = |is: fn(&Match) -> bool| rules().any(|rule| rule.conds.iter().any(|cond| is(&cond.test)));
        let asks = rules().any(|rule| {
            matches!(
                &rule.target,
                Some(Target::Nat(_) | Target::ConnMark(_) | Target::ConnSecMark(_) | Target::Synproxy(_))
            ) || matches!(&rule.target, Some(Target::Ct(ct)) if !ct.notrack)
                || rule.conds.iter().any(|c| asks_for_flows(&c.test))
        });
        let tracking = before.nat || asks;
        let nat = before.nat || (says_anything && tracking);
        // As in the kernel, who looks for sockets wants whole packets (`socket_mt_enable_defrag`).
        let defrag = tracking || has(|test| matches!(test, Match::Socket(_)));
        Needs { tracking, defrag, cluster: has(|test| matches!(test, Match::Cluster(_))), nat }
    }
}

/// Whether a match is about flows.
fn asks_for_flows(test: &Match) -> bool {
    use Match::*;
    matches!(
        test,
        Conntrack(_) | State(_) | Connmark(_) | Connbytes(_) | Connlabel(_) | Connlimit(_) | Helper(_) | Cluster(_)
    )
}

/// The stages of a family in one generation.
#[derive(Debug)]
pub struct Order {
    stages: [Vec<Stage>; 5],
}

impl Order {
    /// [`stages`] without those that nobody needs.
    pub fn of(needs: Needs) -> Order {
        let is_needed = |stage: &Stage| match stage {
            Stage::Defrag => needs.defrag,
            Stage::Track | Stage::Help | Stage::Confirm => needs.tracking,
            Stage::Nat(_) => needs.nat,
            Stage::Chain(_) | Stage::Idle(_) | Stage::Reroute => true,
        };
        Order { stages: Hook::ALL.map(|hook| stages(hook).iter().copied().filter(is_needed).collect()) }
    }

    /// The same for these rules: their idle chains are taken together where they follow each other.
    pub fn for_rules(mut self, program: &Program) -> Order {
        for hook in Hook::ALL {
            let mut merged: Vec<Stage> = Vec::new();
            for stage in std::mem::take(&mut self.stages[hook as usize]) {
                let idle = match stage {
                    Stage::Chain(table) => program.idle(table, hook).map(|slot| (table, slot)),
                    _ => None,
                };
                let Some(idle) = idle else {
                    merged.push(stage);
                    continue;
                };
                let free = match merged.last_mut() {
                    Some(Stage::Idle(chains)) => chains.iter_mut().find(|chain| chain.is_none()),
                    _ => None,
                };
                match free {
                    Some(chain) => *chain = Some(idle),
                    None => merged.push(Stage::Idle([Some(idle), None, None])),
                }
            }
            self.stages[hook as usize] = merged;
        }
        self
    }

    /// What happens at a hook, in order.
    #[inline]
    pub fn at(&self, hook: Hook) -> &[Stage] {
        &self.stages[hook as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::facts::Family;
    use sumun_config::ruleset::Ruleset;

    #[test]
    fn without_rules_there_is_no_tracking_and_nat_once_there_stays() {
        let empty = Ruleset::empty(Policy::Drop);
        let none = Needs::of(empty.of(Family::V4), Needs::default());
        assert_eq!(none, Needs::default());
        let order = Order::of(none);
        assert_eq!(order.at(Hook::Postrouting), [Stage::Chain(Table::Mangle)]);
        let all = Needs { tracking: true, defrag: true, cluster: false, nat: true };
        assert_eq!(Needs::of(empty.of(Family::V4), all), all);
        let tracked = Needs { nat: false, ..all };
        assert_eq!(Needs::of(empty.of(Family::V4), tracked), none);
        assert_eq!(
            Order::of(tracked).at(Hook::Postrouting),
            [Stage::Chain(Table::Mangle), Stage::Help, Stage::Confirm]
        );
        for hook in Hook::ALL {
            assert_eq!(Order::of(all).at(hook), stages(hook));
        }
    }

    #[test]
    fn chains_that_only_count_are_taken_together_and_others_stand_alone() {
        let mut ruleset = Ruleset::empty(Policy::Drop);
        let order = |ruleset: &Ruleset| {
            let mut slots = 0..;
            let program = Program::build(Family::V4, ruleset.of(Family::V4), || slots.next().expect("slots"));
            Order::of(Needs { tracking: true, defrag: true, cluster: false, nat: true }).for_rules(&program)
        };
        let before = order(&ruleset);
        // Policies of filter drop: they are no idle chains.
        let tables = |idle: &Idle| idle.iter().flatten().map(|(table, _)| *table).collect::<Vec<_>>();
        match before.at(Hook::Forward) {
            [Stage::Idle(first), Stage::Chain(Table::Filter), Stage::Idle(last)] => {
                assert_eq!((tables(first), tables(last)), (vec![Table::Mangle], vec![Table::Security]));
            }
            other => panic!("{other:?}"),
        }
        ruleset = Ruleset::empty(Policy::Accept);
        let all = order(&ruleset);
        let [Stage::Idle(idle)] = all.at(Hook::Forward) else { panic!("{:?}", all.at(Hook::Forward)) };
        assert_eq!(tables(idle), [Table::Mangle, Table::Filter, Table::Security]);
    }

    #[test]
    fn every_table_is_asked_at_exactly_the_hooks_that_have_its_chain() {
        for hook in Hook::ALL {
            for table in Table::ALL {
                let asked = stages(hook).iter().any(|s| match s {
                    Stage::Chain(t) => *t == table,
                    Stage::Nat(_) => table == Table::Nat,
                    _ => false,
                });
                assert_eq!(asked, table.hooks().contains(&hook), "{} at {}", table.name(), hook.name());
            }
        }
    }
}
