//! Policy routing: which tables does this packet ask, and in which order (`fib_rules_lookup`)?

use super::half::{CLASSES, Half, List, class};
use super::leads::Leads;
use super::lpm::{Address, Lpm};
use super::{Domain, Key, Side};
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{RoutingRule, RuleAction, RuleIif, table};

/// One or several rules in order: a condition, and what then.
#[derive(Debug)]
pub(super) struct Step<A> {
    pub when: Option<Condition<A>>,
    pub then: Then,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// Looks in the table of this index; goes on where it has no route.
    Look(usize),
    /// Ends here, with this target.
    End(u32),
}

/// The condition of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Condition<A> {
    not: bool,
    from: Option<(A, u8)>,
    to: Option<(A, u8)>,
    iif: Option<PortId>,
    mark: Option<(u32, u32)>,
    /// Value and mask.
    tos: Option<(u8, u8)>,
    /// The [`class`]es of packets that routes for a TOS leave to the step, whatever else; a bit each.
    classes: u8,
}

/// All classes.
const ALL: u8 = u8::MAX;

impl<A: Address> Condition<A> {
    /// The condition of a rule, whose prefixes are of its family; none where it holds for every packet.
    pub fn of(rule: &RoutingRule) -> Option<Condition<A>> {
        let prefix = |net: ipnet::IpNet| (A::of(number(net.network()).1), net.prefix_len());
        let condition = Condition {
            not: rule.not,
            from: rule.from.map(prefix).filter(|&(_, len)| len != 0),
            to: rule.to.map(prefix).filter(|&(_, len)| len != 0),
            iif: rule.iif.map(|iif| match iif {
                RuleIif::Port(port) => port,
                RuleIif::Local => PortId::NONE,
            }),
            mark: rule.fwmark,
            tos: rule.tos,
            classes: ALL,
        };
        (condition != Condition::ALWAYS).then_some(condition)
    }

    const ALWAYS: Condition<A> =
        Condition { not: false, from: None, to: None, iif: None, mark: None, tos: None, classes: ALL };

    /// Whether no packet can meet the condition: `not` and nothing else.
    pub fn is_never(&self) -> bool {
        *self == Condition { not: true, ..Condition::ALWAYS }
    }

    #[inline]
    fn holds(&self, key: &Key) -> bool {
        let within = |net: Option<(A, u8)>, addr: u128| net.is_none_or(|(bits, len)| A::of(addr).prefix(len) == bits);
        let all = self.iif.is_none_or(|iif| iif == key.iif)
            && self.mark.is_none_or(|(value, mask)| (value ^ key.mark) & mask == 0)
            && self.tos.is_none_or(|(value, mask)| key.tos & mask == value)
            && within(self.from, key.src)
            && within(self.to, key.dst);
        all != self.not && self.classes & 1 << class(key.tos) != 0
    }
}

/// Priority of the rule that leads packets of VRFs to their tables, where no rule says it (`FIB_RULE_PREF_L3MDEV`).
const VRF_PRIORITY: u32 = 1000;

/// A step before its tables are built: which tables it asks, or where it ends.
struct Plan<A> {
    when: Option<Condition<A>>,
    then: Result<List, u32>,
}

/// Numbers of the targets of rules that refuse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusals {
    pub blackhole: u32,
    pub unreachable: u32,
    pub prohibit: u32,
}

/// Whether a rule is one of those that a kernel starts with.
fn is_default<A: Address>(rule: &RoutingRule) -> bool {
    let defaults = [table::LOCAL, table::MAIN, table::DEFAULT];
    let asks_default = matches!(rule.action, RuleAction::Lookup(table) if defaults.contains(&table));
    asks_default && rule.suppress.is_none() && Condition::<A>::of(rule).is_none()
}

/// The rules of a family, in order of priority, as steps for packets of the VRF of this table, or of none.
///
/// Where a rule leads to the tables of VRFs, as the kernel's has it, all rules are asked in its order. Where none does, what
/// is in a VRF stays there: the tables that belong to no VRF are asked by rules with a condition only.
fn plan<A: Address>(rules: &[&RoutingRule], vrf: Option<u32>, refusals: Refusals) -> Vec<Plan<A>> {
    let knows_vrfs = rules.iter().any(|rule| rule.action == RuleAction::Vrf);
    let mut plan: Vec<Plan<A>> = Vec::new();
    let mut add = |when: Option<Condition<A>>, then: Result<List, u32>| match (plan.last_mut(), &then) {
        (Some(Plan { when: None, then: Ok(before) }), Ok(list))
            if when.is_none() && before.suppress.is_none() && list.suppress.is_none() =>
        {
            before.tables.extend(&list.tables);
        }
        _ => plan.push(Plan { when, then }),
    };
    let mut implied = vrf.filter(|_| !knows_vrfs);
    for rule in rules {
        if rule.priority > VRF_PRIORITY
            && let Some(table) = implied.take()
        {
            add(None, Ok(List::of(vec![table])));
        }
        let when = Condition::of(rule);
        if when.as_ref().is_some_and(Condition::is_never) {
            continue;
        }
        let then = match (rule.action, vrf) {
            (RuleAction::Lookup(_), Some(_)) if !knows_vrfs && is_default::<A>(rule) => continue,
            (RuleAction::Lookup(table), _) | (RuleAction::Vrf, Some(table)) => {
                Ok(List { suppress: rule.suppress, ..List::of(vec![table]) })
            }
            (RuleAction::Vrf, None) => continue,
            (RuleAction::Blackhole, _) => Err(refusals.blackhole),
            (RuleAction::Unreachable, _) => Err(refusals.unreachable),
            (RuleAction::Prohibit, _) => Err(refusals.prohibit),
        };
        add(when, then);
    }
    if let Some(table) = implied {
        add(None, Ok(List::of(vec![table])));
    }
    plan
}

/// A step for each old TOS that routes of its tables are for, and one for all other packets.
fn by_class<A: Address>(plan: Plan<A>, half: &Half<A>) -> Vec<Plan<A>> {
    let Plan { when, then: Ok(list) } = plan else { return vec![plan] };
    let classes = half.classes(&list.tables);
    let of = |class: usize| classes[class].then_some(class);
    let special: Vec<usize> = (0..CLASSES).filter_map(of).collect();
    if special.is_empty() {
        return vec![Plan { when, then: Ok(list) }];
    }
    let condition = when.unwrap_or(Condition::ALWAYS);
    let others = special.iter().fold(ALL, |others, class| others & !(1 << class));
    let one = |tos: u8, classes: u8| Plan {
        when: Some(Condition { classes, ..condition.clone() }),
        then: Ok(List { tos, ..list.clone() }),
    };
    special.iter().map(|&class| one((class as u8) << 2, 1 << class)).chain([one(0, others)]).collect()
}

/// What lookups of a family need: its rules (in order of priority) as steps, for no VRF and for each of these, and the tables
/// that they look in.
pub(super) fn side<A: Address>(
    rules: &[RoutingRule],
    vrfs: &[u32],
    family: Family,
    half: &mut Half<A>,
    leads: &Leads,
    refusals: Refusals,
) -> Side<A> {
    let of_family = |net: Option<ipnet::IpNet>| net.is_none_or(|net| number(net.addr()).0 == family);
    let is_usable = |rule: &&RoutingRule| rule.family == family && of_family(rule.from) && of_family(rule.to);
    let rules: Vec<&RoutingRule> = rules.iter().filter(is_usable).collect();
    let domains: Vec<Option<u32>> = std::iter::once(None).chain(vrfs.iter().copied().map(Some)).collect();
    let of =
        |vrf: &Option<u32>| plan(&rules, *vrf, refusals).into_iter().flat_map(|plan| by_class(plan, half)).collect();
    let plans: Vec<Vec<Plan<A>>> = domains.iter().map(of).collect();
    let local = |vrf: &Option<u32>| List::of(vec![vrf.unwrap_or(table::LOCAL)]);
    let mut wanted: Vec<List> = domains.iter().map(local).collect();
    wanted.extend(plans.iter().flatten().filter_map(|plan| plan.then.as_ref().ok().cloned()));
    wanted.sort_unstable();
    wanted.dedup();
    half.bring_up(&wanted, leads);
    let at = |list: &List| wanted.partition_point(|other| other < list);
    let step =
        |Plan { when, then }: Plan<A>| Step { when, then: then.map_or_else(Then::End, |list| Then::Look(at(&list))) };
    let mut domains = domains
        .iter()
        .zip(plans)
        .map(|(vrf, plan)| Domain { steps: plan.into_iter().map(step).collect(), local: half.list(&local(vrf)) });
    let main = domains.next().expect("the first is there always");
    Side {
        main,
        vrfs: domains.collect(),
        lpms: wanted.iter().map(|list| half.list(list)).collect(),
        has_custom_rules: !vrfs.is_empty() || !rules.iter().all(|rule| is_default::<A>(rule)),
    }
}

impl<A: Address> Side<A> {
    /// What holds for a VRF by its number; for 0, of no VRF.
    #[inline]
    pub fn domain(&self, vrf: u16) -> &Domain<A> {
        match vrf {
            0 => &self.main,
            vrf => self.vrfs.get(vrf as usize - 1).unwrap_or(&self.main),
        }
    }

    /// The value that the first table with an answer gives, 0 where none has one.
    #[inline]
    pub fn find(&self, key: &Key, vrf: u16) -> u32 {
        let dst = A::of(key.dst);
        for step in &self.domain(vrf).steps {
            if step.when.as_ref().is_some_and(|condition| !condition.holds(key)) {
                continue;
            }
            match step.then {
                Then::Look(table) => {
                    let value = self.lpms.get(table).map_or(0, |lpm: &Lpm<A>| lpm.lookup(dst));
                    if value != 0 {
                        return value;
                    }
                }
                Then::End(value) => return value,
            }
        }
        0
    }

    /// Bytes of memory that the tables hold.
    pub fn bytes(&self) -> usize {
        self.lpms.iter().map(Lpm::bytes).sum()
    }
}
