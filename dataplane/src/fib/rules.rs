//! Policy routing: which tables does this packet ask, and in which order (`fib_rules_lookup`)?

use super::lpm::{Address, Lpm};
use super::{Key, Side};
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{RoutingRule, RuleIif};

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
}

impl<A: Address> Condition<A> {
    /// The condition of a rule, whose prefixes are of its family; none where it holds for every packet.
    pub fn of(rule: &RoutingRule) -> Option<Condition<A>> {
        let prefix = |net: ipnet::IpNet| (A::of(number(net.network()).1), net.prefix_len());
        let tos = rule.tos.filter(|&tos| tos != 0).map(|tos| match rule.family {
            // `ip rule add tos` may only set these bits, and the kernel then ignores the upper three of the DSCP.
            Family::V4 if tos & !0x1c == 0 => (tos, 0x1c),
            _ => (tos & 0xfc, 0xfc),
        });
        let condition = Condition {
            not: rule.not,
            from: rule.from.map(prefix).filter(|&(_, len)| len != 0),
            to: rule.to.map(prefix).filter(|&(_, len)| len != 0),
            iif: rule.iif.map(|iif| match iif {
                RuleIif::Port(port) => port,
                RuleIif::Local => PortId::NONE,
            }),
            mark: rule.fwmark,
            tos,
        };
        let always = Condition { not: false, from: None, to: None, iif: None, mark: None, tos: None };
        (condition != always).then_some(condition)
    }

    /// Whether no packet can meet the condition: `not` and nothing else.
    pub fn is_never(&self) -> bool {
        let Condition { not, from, to, iif, mark, tos } = self;
        *not && from.is_none() && to.is_none() && iif.is_none() && mark.is_none() && tos.is_none()
    }

    #[inline]
    fn holds(&self, key: &Key) -> bool {
        let within = |net: Option<(A, u8)>, addr: u128| net.is_none_or(|(bits, len)| A::of(addr).prefix(len) == bits);
        let all = self.iif.is_none_or(|iif| iif == key.iif)
            && self.mark.is_none_or(|(value, mask)| (value ^ key.mark) & mask == 0)
            && self.tos.is_none_or(|(value, mask)| key.tos & mask == value)
            && within(self.from, key.src)
            && within(self.to, key.dst);
        all != self.not
    }
}

impl<A: Address> Side<A> {
    /// The value that the first table with an answer gives, 0 where none has one.
    #[inline]
    pub fn find(&self, key: &Key) -> u32 {
        let dst = A::of(key.dst);
        for step in &self.steps {
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
        self.lpms.iter().map(Lpm::bytes).sum::<usize>() + self.local.bytes()
    }
}
