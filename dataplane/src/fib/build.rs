//! From a policy to a [`Fib`]: derives the kernel's own routes, resolves metrics, merges tables, numbers targets.

use super::lpm::{Address, Entry, Lpm};
use super::own::link_local_of;
use super::rules::{Condition, Step, Then};
use super::{Fib, NOWHERE, Own, Route, Side, Target, Way};
use crate::port::Link;
use ipnet::IpNet;
use std::collections::HashMap;
use sumun_config::facts::{AddrType, Family, PortId, number};
use sumun_config::model::{self, Policy, RouteAction, RuleAction, table};

/// A prefix in a table, before metrics are settled. The order of fields is the order of preference among equal prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate<A> {
    key: A,
    len: u8,
    metric: u32,
    /// Earlier ones win among equals.
    order: u32,
    target: u32,
}

/// The tables of a family by number, while they are collected.
type Tables<A> = HashMap<u32, Vec<Candidate<A>>>;

/// A step before its tables are built: which tables it asks, one after the other, or where it ends.
struct Plan<A> {
    when: Option<Condition<A>>,
    then: Result<Vec<u32>, u32>,
}

/// Metric of routes that the kernel derives from IPv6 addresses (`IP6_RT_PRIO_ADDRCONF`).
const CONNECTED_V6: u32 = 256;

#[derive(Default)]
struct Builder {
    v4: Tables<u32>,
    v6: Tables<u128>,
    targets: Vec<Target>,
    numbers: HashMap<(Target, Vec<Way>), u32>,
    ways: Vec<Way>,
    mtu: Vec<u16>,
    order: u32,
}

impl Fib {
    /// Builds the tables of a policy for these ports. Routes and addresses that name a port that is not there are left out.
    pub fn build(policy: &Policy, links: &[Link]) -> Fib {
        let mut builder = Builder { mtu: links.iter().map(|link| link.mtu).collect(), ..Builder::default() };
        builder.targets.push(NOWHERE);
        let own = own_addresses(policy, links);
        builder.derive(&own);
        for route in &policy.routes {
            builder.configured(route);
        }
        let v4 = builder.side(policy, Family::V4, |builder| &mut builder.v4);
        let v6 = builder.side(policy, Family::V6, |builder| &mut builder.v6);
        let rp_filter = (0..links.len())
            .map(|i| policy.port_settings.get(i).map_or_else(Default::default, |s| s.rp_filter))
            .collect();
        let has_realms = builder.targets.iter().any(|target| target.realm != 0);
        Fib {
            number: 0,
            v4,
            v6,
            targets: builder.targets,
            ways: builder.ways,
            own,
            rp_filter,
            has_realms,
            mtu: builder.mtu,
        }
    }
}

/// Own addresses by port: as configured, then the link-local one that the MAC gives.
fn own_addresses(policy: &Policy, links: &[Link]) -> Vec<Vec<Own>> {
    let of_port = |(i, link): (usize, &Link)| {
        let port = PortId(i as u16);
        let configured = policy.port_settings.get(i).map_or(&[][..], |settings| &settings.addresses);
        let mut own: Vec<Own> = Vec::with_capacity(configured.len() + 1);
        let derived = Own { port, family: Family::V6, addr: link_local_of(link.mac), prefix: 64 };
        let configured = configured.iter().map(|net| {
            let (family, addr) = number(net.addr());
            Own { port, family, addr, prefix: net.prefix_len() }
        });
        for address in configured.chain([derived]) {
            if !own.iter().any(|other| (other.family, other.addr) == (address.family, address.addr)) {
                own.push(address);
            }
        }
        own
    };
    links.iter().enumerate().map(of_port).collect()
}

impl Builder {
    /// The number of a target, the same for equal ones: a million routes have few next hops.
    fn number(&mut self, target: Target, ways: Vec<Way>) -> u32 {
        let key = (target, ways);
        if let Some(&number) = self.numbers.get(&key) {
            return number;
        }
        let number = self.targets.len() as u32;
        let first = self.ways.len() as u32;
        self.ways.extend_from_slice(&key.1);
        self.targets.push(Target { first, count: key.1.len() as u32, ..target });
        self.numbers.insert(key, number);
        number
    }

    fn add(&mut self, family: Family, table: u32, addr: u128, len: u8, metric: u32, target: u32) {
        self.order += 1;
        let order = self.order;
        let bits = addr & family.mask(len);
        match family {
            Family::V4 => {
                let key = bits as u32;
                self.v4.entry(table).or_default().push(Candidate { key, len, metric, order, target });
            }
            Family::V6 => {
                self.v6.entry(table).or_default().push(Candidate { key: bits, len, metric, order, target });
            }
        }
    }

    fn simple(&mut self, route: Route, kind: AddrType, port: PortId) -> u32 {
        self.number(Target { route, kind, port, first: 0, count: 0, realm: 0 }, Vec::new())
    }

    /// What follows from addresses: `fib_add_ifaddr` for IPv4, `addrconf` for IPv6.
    ///
    /// Link-local prefixes are not in the tables, since which link they mean depends on the port: [`Fib::lookup`] knows them.
    fn derive(&mut self, own: &[Vec<Own>]) {
        let lo = self.simple(Route::Local, AddrType::Local, PortId::NONE);
        let lo_broadcast = self.simple(Route::Broadcast { port: PortId::NONE }, AddrType::Broadcast, PortId::NONE);
        self.add(Family::V4, table::LOCAL, 127 << 24, 8, 0, lo);
        self.add(Family::V4, table::LOCAL, 0x7fff_ffff, 32, 0, lo_broadcast);
        self.add(Family::V6, table::LOCAL, 1, 128, 0, lo);
        for own in own {
            for (i, address) in own.iter().enumerate() {
                if super::is_link_local(address.family, address.addr) {
                    continue;
                }
                let Own { port, family, addr, prefix } = *address;
                let local = self.simple(Route::Local, AddrType::Local, port);
                self.add(family, table::LOCAL, addr, family.bits(), 0, local);
                // The first address of a network is the primary one: its prefix route and broadcast are there already for
                // the others, and the others' packets have its source.
                let primary = own[..i].iter().find(|other| {
                    other.family == family && other.prefix == prefix && other.covers(addr) && family == Family::V4
                });
                if primary.is_none() && !(family == Family::V4 && prefix == 32) {
                    self.connected(address);
                }
                if primary.is_none() && family == Family::V4 && prefix < 31 {
                    let broadcast = self.simple(Route::Broadcast { port }, AddrType::Broadcast, port);
                    // The lowest address of a network is unicast since Linux 5.14.
                    self.add(family, table::LOCAL, addr | !family.mask(prefix) & family.ones(), 32, 0, broadcast);
                }
                if let Some(anycast) = Fib::anycast_of(address) {
                    let target = self.simple(Route::Local, AddrType::Anycast, port);
                    self.add(family, table::LOCAL, anycast, family.bits(), 0, target);
                }
            }
        }
    }

    fn connected(&mut self, address: &Own) {
        let Own { port, family, addr, prefix } = *address;
        let Some(mtu) = self.mtu_of(port) else { return };
        let (metric, source) = match family {
            Family::V4 => (0, Some(addr)),
            Family::V6 => (CONNECTED_V6, None),
        };
        let target = self.simple(Route::Via { port, gateway: None, mtu, source }, AddrType::Unicast, port);
        self.add(family, table::MAIN, addr, prefix, metric, target);
    }

    fn mtu_of(&self, port: PortId) -> Option<u16> {
        port.index().and_then(|i| self.mtu.get(i)).copied()
    }

    /// A route of the configuration.
    fn configured(&mut self, route: &model::Route) {
        let (family, addr) = number(route.prefix.network());
        let target = match &route.action {
            RouteAction::Via(hops) => match self.via(route, family, hops) {
                Some(target) => target,
                None => return,
            },
            RouteAction::Blackhole => self.refusal(Route::Blackhole),
            RouteAction::Unreachable => self.refusal(Route::Unreachable),
            RouteAction::Prohibit => self.refusal(Route::Prohibit),
        };
        self.add(family, route.table, addr, route.prefix.prefix_len(), route.metric, target);
    }

    fn refusal(&mut self, route: Route) -> u32 {
        let kind = match route {
            Route::Blackhole => AddrType::Blackhole,
            Route::Prohibit => AddrType::Prohibit,
            _ => AddrType::Unreachable,
        };
        self.simple(route, kind, PortId::NONE)
    }

    /// The target of next hops; none where none of them can be used.
    fn via(&mut self, route: &model::Route, family: Family, hops: &[model::Nexthop]) -> Option<u32> {
        let same = |addr: std::net::IpAddr| {
            let (its, addr) = number(addr);
            (its == family).then_some(addr)
        };
        let source = route.source.and_then(same);
        let mut ways: Vec<(u64, Route)> = Vec::with_capacity(hops.len());
        for hop in hops {
            let Some(mtu) = self.mtu_of(hop.port) else { continue };
            let gateway = match hop.gateway {
                None => None,
                Some(gateway) => match same(gateway) {
                    Some(gateway) => Some(gateway),
                    None => continue,
                },
            };
            let mtu = route.mtu.map_or(mtu, |limit| limit.min(mtu));
            ways.push((hop.weight.max(1) as u64, Route::Via { port: hop.port, gateway, mtu, source }));
        }
        let &(_, first) = ways.first()?;
        let Route::Via { port, .. } = first else { return None };
        let target = Target { route: first, kind: AddrType::Unicast, port, first: 0, count: 0, realm: route.realm };
        if ways.len() == 1 {
            return Some(self.number(target, Vec::new()));
        }
        // Hash threshold of 31 bits (`fib_rebalance`): each way gets the share of the range that its weight is of the sum.
        let total: u64 = ways.iter().map(|(weight, _)| weight).sum();
        let mut sum = 0;
        let bounded = ways.into_iter().map(|(weight, route)| {
            sum += weight;
            let bound = ((sum << 31) + total / 2) / total - 1;
            Way { bound: bound as u32, route }
        });
        let bounded = bounded.collect();
        Some(self.number(target, bounded))
    }

    /// The rules of a family as steps, and the tables that they look in.
    fn side<A: Address>(
        &mut self,
        policy: &Policy,
        family: Family,
        tables: impl Fn(&mut Builder) -> &mut Tables<A>,
    ) -> Side<A> {
        let of_family = |net: Option<IpNet>| net.is_none_or(|net| number(net.addr()).0 == family);
        let is_usable =
            |rule: &&model::RoutingRule| rule.family == family && of_family(rule.from) && of_family(rule.to);
        let mut rules: Vec<_> = policy.rules.iter().filter(is_usable).collect();
        rules.sort_by_key(|rule| rule.priority);
        let mut plan: Vec<Plan<A>> = Vec::new();
        for rule in &rules {
            let when = Condition::of(rule);
            if when.as_ref().is_some_and(Condition::is_never) {
                continue;
            }
            let then = match rule.action {
                RuleAction::Lookup(table) => Ok(vec![table]),
                RuleAction::Blackhole => Err(self.refusal(Route::Blackhole)),
                RuleAction::Unreachable => Err(self.refusal(Route::Unreachable)),
                RuleAction::Prohibit => Err(self.refusal(Route::Prohibit)),
            };
            match (plan.last_mut(), &then) {
                (Some(Plan { when: None, then: Ok(before) }), Ok(tables)) if when.is_none() => before.extend(tables),
                _ => plan.push(Plan { when, then }),
            }
        }
        let defaults = [table::LOCAL, table::MAIN, table::DEFAULT];
        let is_default = |rule: &&model::RoutingRule| {
            let asks_default = matches!(rule.action, RuleAction::Lookup(table) if defaults.contains(&table));
            asks_default && Condition::<A>::of(rule).is_none()
        };
        let has_custom_rules = !rules.iter().all(is_default);

        let tables = tables(self);
        for table in tables.values_mut() {
            table.sort_unstable();
            table.dedup_by_key(|candidate| (candidate.key, candidate.len));
        }
        let mut lpms: Vec<Lpm<A>> = Vec::new();
        let mut built: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut look = |numbers: Vec<u32>| {
            *built.entry(numbers).or_insert_with_key(|numbers| {
                lpms.push(Lpm::build(&merge(tables, numbers)));
                lpms.len() - 1
            })
        };
        let steps = plan
            .into_iter()
            .map(|Plan { when, then }| Step {
                when,
                then: then.map_or_else(Then::End, |tables| Then::Look(look(tables))),
            })
            .collect();
        let local = Lpm::build(&merge(tables, &[table::LOCAL]));
        Side { steps, lpms, local, has_custom_rules }
    }
}

/// One table that answers as these tables do when asked one after the other.
///
/// An earlier table's answer stands even where a later one has a longer prefix, so a prefix is left out that lies in or
/// equals one of an earlier table; what remains is found by its length alone.
fn merge<A: Address>(tables: &Tables<A>, numbers: &[u32]) -> Vec<Entry<A>> {
    let mut all: Vec<(A, u8, u32, u32)> = Vec::new();
    for (rank, number) in numbers.iter().enumerate() {
        let candidates = tables.get(number).map_or(&[][..], Vec::as_slice);
        all.extend(candidates.iter().map(|c| (c.key, c.len, rank as u32, c.target)));
    }
    all.sort_unstable();
    let mut entries: Vec<Entry<A>> = Vec::with_capacity(all.len());
    // The prefixes around the current one, outermost first, each with the lowest rank among itself and those around it.
    let mut around: Vec<(A, u8, u32)> = Vec::new();
    for (key, len, rank, value) in all {
        while around.pop_if(|(outer, outer_len, _)| key.prefix(*outer_len) != *outer).is_some() {}
        let lowest = around.last().map_or(u32::MAX, |&(_, _, lowest)| lowest);
        let is_same = around.last().is_some_and(|&(outer, outer_len, _)| (outer, outer_len) == (key, len));
        if rank > lowest || is_same {
            continue;
        }
        around.push((key, len, rank.min(lowest)));
        entries.push(Entry { key, len, value });
    }
    entries
}
