//! Whatever batches have come, the FIB answers as a linear search through the routes that are there.

use super::super::{Fib, Key, Out, Route};
use super::*;
use crate::fib::tests::{links, policy};
use proptest::prelude::*;
use std::net::IpAddr;
use sumun_config::model::{RuleAction, RuleIif, table as kernel};

/// What the rules let main only say by longer prefixes, before table 100 is asked.
const SUPPRESS: u8 = 16;

/// Ports: the first asks table 100 first, the last may be in the VRF of table 200.
const PORTS: u16 = 3;

/// What the tables should say, kept as plain lists.
#[derive(Default)]
struct Plain {
    /// In order of preference among those with the same place.
    routes: Vec<Entry>,
    objects: Vec<(u32, Vec<Hop>)>,
    down: [bool; PORTS as usize],
    vrf: Option<u32>,
}

impl Plain {
    fn apply(&mut self, change: &Change) {
        let place = |e: &Entry| (e.table, e.prefix.trunc(), e.tos, e.metric);
        let same = |a: &Entry, b: &Entry| place(a) == place(b);
        match change {
            Change::Forget => *self = Plain::default(),
            Change::Append(entry) => self.routes.push(entry.clone()),
            Change::Prepend(entry) => self.routes.insert(0, entry.clone()),
            Change::Replace(entry) => {
                let at = self.routes.iter().position(|other| same(other, entry)).unwrap_or(self.routes.len());
                self.routes.retain(|other| !same(other, entry));
                self.routes.insert(at.min(self.routes.len()), entry.clone());
            }
            Change::ReplaceFirst(entry) => match self.routes.iter_mut().find(|other| same(other, entry)) {
                Some(first) => *first = entry.clone(),
                None => self.routes.push(entry.clone()),
            },
            Change::Remove(entry) => {
                let is = |other: &Entry| {
                    same(other, entry) && (entry.kind == Kind::Via(Vec::new()) || other.kind == entry.kind)
                };
                if let Some(at) = self.routes.iter().position(is) {
                    self.routes.remove(at);
                } else if let Kind::Via(gone) = &entry.kind
                    && entry.family() == Family::V6
                {
                    let of = |route: &Entry| match &route.kind {
                        Kind::Via(hops) => hops.clone(),
                        _ => Vec::new(),
                    };
                    let is_gone = |hop: &Hop| gone.iter().any(|g| (&g.out, g.gateway) == (&hop.out, hop.gateway));
                    let at = self.routes.iter().position(|other| same(other, entry) && of(other).iter().any(is_gone));
                    if let Some(at) = at {
                        let left: Vec<Hop> = of(&self.routes[at]).into_iter().filter(|hop| !is_gone(hop)).collect();
                        match left.is_empty() {
                            true => drop(self.routes.remove(at)),
                            false => self.routes[at].kind = Kind::Via(left),
                        }
                    }
                }
            }
            Change::Nexthops { id, hops } => {
                self.objects.retain(|(other, _)| other != id);
                self.objects.push((*id, hops.clone()));
            }
            Change::NoNexthops { id } => self.objects.retain(|(other, _)| other != id),
            Change::Link { port, state } => self.down[port.0 as usize] = *state == LinkState::Down,
            Change::Vrf { table, .. } => self.vrf = *table,
            other => panic!("not among those that are tried: {other:?}"),
        }
    }

    /// All that a kind can lead to; none where it does not count.
    fn ways(&self, kind: &Kind) -> Option<Vec<Route>> {
        let hops = match kind {
            Kind::Via(hops) => hops.clone(),
            Kind::Object(id) => self.objects.iter().find(|(other, _)| other == id).map(|(_, hops)| hops.clone())?,
            Kind::Local(_) | Kind::Anycast(_) => return Some(vec![Route::Local]),
            Kind::Broadcast(port) => return Some(vec![Route::Broadcast { port: *port }]),
            Kind::Blackhole => return Some(vec![Route::Blackhole]),
            Kind::Unreachable => return Some(vec![Route::Unreachable]),
            Kind::Prohibit => return Some(vec![Route::Prohibit]),
            Kind::Throw => return Some(Vec::new()),
        };
        let way = |hop: &Hop| match hop.out {
            Out::Other(_) => Some(Route::NotAPort),
            Out::Port(port) if self.down[port.0 as usize] => None,
            Out::Port(port) => {
                let gateway = hop.gateway.map(|gateway| number(gateway).1);
                Some(Route::Via { port, gateway, mtu: 1500, source: None })
            }
        };
        Some(hops.iter().filter_map(way).collect::<Vec<_>>()).filter(|ways| !ways.is_empty())
    }

    /// What one table says (`fib_table_lookup`); none where it has no route, or only one that is suppressed
    /// (`fib4_rule_suppress`).
    fn table(&self, (table, suppress): (u32, Option<u8>), family: Family, dst: IpAddr, tos: u8) -> Option<Vec<Route>> {
        let covers = |entry: &&Entry| {
            let is_for = entry.tos == 0 || entry.tos == tos & 0x1c;
            is_for && entry.table == table && entry.family() == family && entry.prefix.contains(&dst)
        };
        let mut best: Option<(u8, u8, u32, Vec<Route>)> = None;
        for entry in self.routes.iter().filter(covers) {
            let Some(ways) = self.ways(&entry.kind) else { continue };
            let (len, tos, metric) = (entry.prefix.prefix_len(), entry.tos, entry.metric);
            let rank = |len, tos, metric| (len, tos, u32::MAX - metric);
            if best.as_ref().is_none_or(|&(l, t, m, _)| rank(len, tos, metric) > rank(l, t, m)) {
                best = Some((len, tos, metric, ways));
            }
        }
        let (len, _, _, ways) = best?;
        let refuses = matches!(ways[..], [Route::Blackhole | Route::Unreachable | Route::Prohibit]);
        let is_suppressed = suppress.is_some_and(|most| len <= most) && !refuses;
        Some(ways).filter(|ways| !ways.is_empty() && !is_suppressed)
    }

    fn lookup(&self, family: Family, dst: IpAddr, iif: PortId, tos: u8) -> Vec<Route> {
        let main = [(kernel::MAIN, Some(SUPPRESS)), (100, None), (kernel::MAIN, None)];
        let before = match (iif, self.vrf) {
            (PortId(2), Some(vrf)) => vec![(vrf, None), (kernel::LOCAL, None)],
            (PortId(0), _) => vec![(kernel::LOCAL, None), (100, None)],
            _ => vec![(kernel::LOCAL, None)],
        };
        let mut tables = before.into_iter().chain(main);
        tables.find_map(|table| self.table(table, family, dst, tos)).unwrap_or_else(|| vec![Route::None])
    }
}

fn entry(table: u32, prefix: IpNet, metric: u32, kind: Kind) -> Entry {
    Entry { table, prefix, metric, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 186 }
}

fn hops(is_v6: bool) -> impl Strategy<Value = Vec<Hop>> {
    let hop = (0..=PORTS, 1u8..4, 1u16..4).prop_map(move |(out, low, weight)| {
        let gateway = if is_v6 { format!("fe80::{low}") } else { format!("192.0.2.{low}") };
        let out = if out == PORTS { Out::Other("docker0".into()) } else { Out::Port(PortId(out)) };
        Hop { out, gateway: Some(gateway.parse().unwrap()), weight, onlink: false }
    });
    prop::collection::vec(hop, 1..4)
}

fn kinds(is_v6: bool) -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => hops(is_v6).prop_map(Kind::Via),
        // Objects are IPv4's here.
        1 => (1u32..3).prop_map(move |id| if is_v6 { Kind::Blackhole } else { Kind::Object(id) }),
        1 => Just(Kind::Throw),
        1 => Just(Kind::Unreachable),
        1 => Just(Kind::Local(PortId(1))),
    ]
}

fn entries() -> impl Strategy<Value = Entry> {
    let tables = prop_oneof![Just(kernel::LOCAL), Just(kernel::MAIN), Just(kernel::MAIN), Just(100u32), Just(200u32)];
    any::<bool>().prop_flat_map(move |is_v6| {
        let net = (0u32..48, prop_oneof![Just(0u8), 8u8..=16, 17u8..=28, 29u8..=32]).prop_map(move |(low, len)| {
            let v4 = std::net::Ipv4Addr::from_bits(10 << 24 | (low & 3) << 14 | (low >> 2 & 3) << 8 | low >> 4);
            let v6 = format!("2001:db8:{:x}:{:x}::", low & 7, low >> 3).parse().unwrap();
            let (addr, len) = if is_v6 { (IpAddr::V6(v6), len * 2) } else { (IpAddr::V4(v4), len) };
            IpNet::new(addr, len).unwrap().trunc()
        });
        let tos = if is_v6 { Just(0u8).boxed() } else { prop::sample::select(vec![0, 0, 0, 8, 0x10, 0x20]).boxed() };
        (tables.clone(), net, tos, 0u32..3, kinds(is_v6))
            .prop_map(|(table, net, tos, metric, kind)| Entry { tos, ..entry(table, net, metric, kind) })
    })
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => entries().prop_map(Change::Append),
        2 => entries().prop_map(Change::Prepend),
        6 => entries().prop_map(Change::Replace),
        3 => entries().prop_map(Change::ReplaceFirst),
        6 => entries().prop_map(Change::Remove),
        6 => entries().prop_map(|entry| Change::Remove(Entry { kind: Kind::Via(Vec::new()), ..entry })),
        2 => (1u32..3, hops(false)).prop_map(|(id, hops)| Change::Nexthops { id, hops }),
        1 => (1u32..3).prop_map(|id| Change::NoNexthops { id }),
        2 => (0..PORTS, any::<bool>()).prop_map(|(port, up)| {
            Change::Link { port: PortId(port), state: if up { LinkState::Up } else { LinkState::Down } }
        }),
        1 => any::<bool>().prop_map(|is_in| Change::Vrf { port: PortId(2), table: is_in.then_some(200) }),
    ]
}

/// What a kernel has whose VRFs come before its local addresses, and rules of our own, some of them as wg-quick makes them.
fn rules() -> Vec<Change> {
    let both = |priority, action: RuleAction| {
        Family::ALL.map(|family| Change::Rule(RoutingRule::bare(priority, family, action))).to_vec()
    };
    let mut rules = both(0, RuleAction::Vrf);
    rules.extend(both(1, RuleAction::Lookup(kernel::LOCAL)));
    for family in Family::ALL {
        let iif = Some(RuleIif::Port(PortId(0)));
        rules.push(Change::Rule(RoutingRule { iif, ..RoutingRule::bare(50, family, RuleAction::Lookup(100)) }));
    }
    for family in Family::ALL {
        let main = RoutingRule::bare(60, family, RuleAction::Lookup(kernel::MAIN));
        rules.push(Change::Rule(RoutingRule { suppress: Some(SUPPRESS), ..main }));
        rules.push(Change::Rule(RoutingRule::bare(70, family, RuleAction::Lookup(100))));
    }
    rules.extend(both(32766, RuleAction::Lookup(kernel::MAIN)));
    rules
}

/// A table that takes its routes from the kernel, and has none yet.
fn mirrored() -> Table {
    let mut table = Table::new(&links());
    let mut policy = policy();
    policy.routes_from = RoutesFrom::Kernel;
    policy.port_settings.iter_mut().for_each(|settings| settings.addresses.clear());
    table.adopt(&policy);
    assert_eq!(table.apply(rules()), []);
    table
}

fn agree(plain: &Plain, fib: &Fib, dst: IpAddr) {
    let (family, addr) = number(dst);
    let whole = (0..PORTS).flat_map(|port| [0, 1 << 30, 2 << 30, u32::MAX].map(|hash| (PortId(port), hash, 0)));
    let marked = [8, 0x10, 0x30, 0x20, 0x14].map(|tos| (PortId(1), 0, tos));
    for (iif, hash, tos) in whole.chain(marked) {
        let key = Key { family, src: 0, dst: addr, iif, mark: 0, tos, hash };
        let expected = plain.lookup(family, dst, iif, tos);
        let found = fib.lookup(&key);
        assert!(expected.contains(&found), "{dst} from {iif:?}: {found:?}, not {expected:?}");
        let on = fib.lookup_on(&Key { iif: PortId::NONE, ..key }, iif);
        if iif != PortId(0) {
            assert!(expected.contains(&on), "{dst} on {iif:?}: {on:?}, not {expected:?}");
        }
    }
}

/// Addresses at the edges of a prefix.
fn edges(net: IpNet) -> Vec<IpAddr> {
    let (family, first) = number(net.network());
    let last = first | family.ones() & !family.mask(net.prefix_len());
    let places = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
    let plain = |addr: &u128| {
        let special = match family {
            Family::V4 => *addr >= 0xe000_0000 || addr >> 24 == 127,
            Family::V6 => *addr <= 1 || addr >> 112 >= 0xfe80,
        };
        *addr <= family.ones() && !special
    };
    places.into_iter().filter(plain).map(|addr| family.address(addr)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn batches_lead_where_the_routes_that_are_there_lead(
        batches in prop::collection::vec(prop::collection::vec(changes(), 1..30), 1..8),
    ) {
        let (mut table, mut plain) = (mirrored(), Plain::default());
        // Enough routes that pages do not begin anew with every change.
        let many = (0..600u32).map(|i| {
            let net = IpNet::new(std::net::Ipv4Addr::from_bits(10 << 24 | i << 6).into(), 26).unwrap();
            Change::Append(entry(kernel::MAIN, net, 1, Kind::Prohibit))
        });
        let first: Vec<Change> = many.collect();
        for batch in std::iter::once(first).chain(batches) {
            let places: Vec<IpNet> = batch.iter().filter_map(|change| match change {
                Change::Append(e) | Change::Prepend(e) | Change::Replace(e) | Change::ReplaceFirst(e) | Change::Remove(e) => Some(e.prefix),
                _ => None,
            }).collect();
            batch.iter().for_each(|change| plain.apply(change));
            table.apply(batch);
            let fib = table.fib();
            let all = plain.routes.iter().map(|entry| entry.prefix).step_by(7).chain(places.into_iter().take(40));
            for dst in all.flat_map(edges) {
                agree(&plain, &fib, dst);
            }
        }
        // Nothing is left behind.
        let entries: Vec<Entry> = plain.routes.drain(..).collect();
        table.apply(entries.into_iter().map(Change::Remove).collect());
        table.apply(vec![Change::Forget]);
        let empty = mirrored();
        prop_assert_eq!(table.len(), empty.len());
        prop_assert_eq!(table.leads.numbers(), empty.leads.numbers());
    }
}
