//! From [`News`] in the kernel's numbers to [`Change`]s in the router's: what does it mean for the FIB?
//!
//! A view begins empty with every resynchronisation and knows links, addresses, nexthop objects and rules; routes go through
//! without being kept. Whatever is told twice changes nothing: events that came while a dump was read are told again after it.
//!
//! Some things the kernel does without a word about them: it flushes IPv4 routes when a link is set down, when an address goes that was
//! their preferred source, and when a nexthop object goes. Then a view asks for another resynchronisation ([`View::doubt`]).

use super::news::{self, Address, How, LeftOut, Neighbour, News, Nexthop, Reason, Route, What};
use crate::fib::{Change, Entry, Hop, Kind, LinkState, Own};
use crate::fib::{MAX_OTHERS, Out};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use sumun_config::facts::{LOOPBACK, PortId, number};
use sumun_config::model::{RoutingRule, RuleAction, RuleIif};

/// Most devices that are known; what is said of more is taken for a device that is no port.
const MOST_LINKS: usize = 1 << 16;
/// Most members of a group that are looked at.
const MOST_MEMBERS: usize = 1 << 10;
/// Weights of next hops end here.
const HEAVIEST: u32 = 256;

/// What is known of the kernel's side.
pub struct View {
    ports: HashMap<String, PortId>,
    links: HashMap<u32, Known>,
    addresses: HashSet<(u32, ipnet::IpNet)>,
    nexthops: BTreeMap<u32, Nexthop>,
    /// Nexthop objects that are gone, whose routes the kernel may have flushed.
    gone: HashSet<u32>,
    rules: HashSet<news::Rule>,
    left_out: HashMap<What, Reason>,
    foreign: HashMap<u32, Arc<str>>,
    /// By port: its device is set up.
    devices: Vec<bool>,
    told: Vec<Told>,
    what: Follows,
    changes: Vec<Change>,
    neighbours: Vec<(PortId, Learned)>,
    doubt: Option<&'static str>,
    groups_changed: bool,
}

struct Known {
    link: news::Link,
    port: Option<PortId>,
}

/// What the FIB was told of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    is_up: bool,
    mtu: Option<u16>,
    vrf: Option<u32>,
}

/// How much of the kernel counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follows {
    /// Only the state of links.
    Links,
    /// The state of links, and routes too.
    Routes,
}

/// What is said of a neighbour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It is so.
    Is(Neighbour),
    /// It is forgotten.
    Gone(Neighbour),
}

impl View {
    /// Nothing is known yet; devices of these names are ports.
    pub fn new<'a>(ports: impl Iterator<Item = &'a str>, what: Follows) -> View {
        let ports: HashMap<String, PortId> =
            ports.enumerate().map(|(i, name)| (name.to_string(), PortId(i as u16))).collect();
        View {
            devices: vec![true; ports.len()],
            told: vec![Told { is_up: true, mtu: None, vrf: None }; ports.len()],
            what,
            ports,
            links: HashMap::new(),
            addresses: HashSet::new(),
            nexthops: BTreeMap::new(),
            gone: HashSet::new(),
            rules: HashSet::new(),
            left_out: HashMap::new(),
            foreign: HashMap::new(),
            changes: Vec::new(),
            neighbours: Vec::new(),
            doubt: None,
            groups_changed: true,
        }
    }

    /// Takes news in.
    pub fn take(&mut self, news: News) {
        match news {
            News::Link(link) => self.link(link),
            News::NoLink(index) => self.no_link(index),
            News::Address(address) => self.address(&address),
            News::NoAddress(address) => self.no_address(&address),
            News::Neighbour(neighbour) => self.neighbour(neighbour, Learned::Is),
            News::NoNeighbour(neighbour) => self.neighbour(neighbour, Learned::Gone),
            News::Nexthop(id, what) => self.nexthop(id, what),
            News::NoNexthop(id) => self.no_nexthop(id),
            News::Route(how, route) => self.route(how, route),
            News::NoRoute(route) => {
                let entry = self.entry(route);
                self.changes.push(Change::Remove(entry));
            }
            News::Rule(rule) => self.rule(rule),
            News::NoRule(rule) => {
                if self.rules.remove(&rule)
                    && let Some(rule) = self.known_rule(&rule)
                {
                    self.changes.push(Change::NoRule(rule));
                }
            }
            News::LeftOut(LeftOut { what, reason }) => {
                // Bounded: of more there is only less to tell.
                if self.left_out.len() < MAX_OTHERS {
                    self.left_out.insert(what, reason);
                }
            }
            News::LeftOutInstead(left_out) => {
                if let (What::Route(table, prefix, tos, metric), false) =
                    (&left_out.what, stands_beside(left_out.reason))
                {
                    let (table, prefix, tos, metric) = (*table, prefix.trunc(), *tos, *metric);
                    let (kind, mtu, source, realm, protocol) = (Kind::Blackhole, None, None, 0, 0);
                    let gone = Entry { table, prefix, metric, kind, mtu, source, tos, realm, protocol };
                    self.changes.extend([instead(gone.clone()), Change::Remove(gone)]);
                }
                self.take(News::LeftOut(left_out));
            }
            News::NoLeftOut(LeftOut { what, .. }) => {
                self.left_out.remove(&what);
            }
            News::Groups => self.groups_changed = true,
            News::Other => {}
        }
    }

    /// What has to change, in order, since the last time.
    pub fn changes(&mut self) -> Vec<Change> {
        self.tell_ports();
        std::mem::take(&mut self.changes)
    }

    /// How many changes wait to be taken.
    pub fn waiting(&self) -> usize {
        self.changes.len() + self.neighbours.len()
    }

    /// What was said of neighbours of ports since the last time.
    pub fn neighbours(&mut self) -> Vec<(PortId, Learned)> {
        std::mem::take(&mut self.neighbours)
    }

    /// Why what was told may not be all; asked once, it is forgotten.
    pub fn doubt(&mut self) -> Option<&'static str> {
        self.doubt.take()
    }

    /// Whether other groups may be joined since the last time.
    pub fn groups_changed(&mut self) -> bool {
        std::mem::take(&mut self.groups_changed)
    }

    /// What is left out, by reason.
    pub fn left_out(&self) -> BTreeMap<Reason, u64> {
        let mut counts = BTreeMap::new();
        for reason in self.left_out.values() {
            *counts.entry(*reason).or_default() += 1;
        }
        counts
    }

    /// The device of a port.
    pub fn device(&self, port: PortId) -> Option<&news::Link> {
        self.links.values().find(|known| known.port == Some(port)).map(|known| &known.link)
    }

    /// The port of a device.
    pub fn port(&self, index: u32) -> Option<PortId> {
        self.links.get(&index).and_then(|known| known.port)
    }

    fn doubt_it(&mut self, why: &'static str) {
        self.doubt.get_or_insert(why);
    }

    fn link(&mut self, link: news::Link) {
        let port = self.ports.get(&link.name).copied();
        let before = self.links.get(&link.index);
        match before {
            Some(known) if known.port != port => self.doubt_it("a device has another name"),
            Some(known) if known.link.is_up && !link.is_up => self.doubt_it("a device was set down"),
            None if self.links.len() >= MOST_LINKS => return,
            _ => {}
        }
        self.foreign.remove(&link.index);
        self.groups_changed = true;
        self.links.insert(link.index, Known { link, port });
    }

    fn no_link(&mut self, index: u32) {
        if self.links.remove(&index).is_some() {
            self.addresses.retain(|(link, _)| *link != index);
            self.foreign.remove(&index);
            self.doubt_it("a device is gone");
        }
    }

    fn own(&self, address: &Address) -> Option<Own> {
        let port = self.port(address.link)?;
        let (family, addr) = number(address.net.addr());
        Some(Own { port, family, addr, prefix: address.net.prefix_len() })
    }

    fn address(&mut self, address: &Address) {
        let key = (address.link, address.net);
        if address.is_tentative || self.addresses.contains(&key) || self.addresses.len() >= MAX_OTHERS {
            return;
        }
        self.addresses.insert(key);
        if let Some(own) = self.own(address) {
            self.changes.push(Change::Address(own));
        }
    }

    fn no_address(&mut self, address: &Address) {
        if !self.addresses.remove(&(address.link, address.net)) {
            return;
        }
        if let Some(own) = self.own(address) {
            self.changes.push(Change::NoAddress(own));
        }
        if address.net.addr().is_ipv4() {
            self.doubt_it("an address is gone");
        }
    }

    fn neighbour(&mut self, neighbour: Neighbour, what: impl FnOnce(Neighbour) -> Learned) {
        if let Some(port) = self.port(neighbour.link)
            && !neighbour.address.is_multicast()
        {
            self.neighbours.push((port, what(neighbour)));
        }
    }

    fn nexthop(&mut self, id: u32, what: Nexthop) {
        if self.gone.remove(&id) {
            self.doubt_it("a nexthop object has come back");
        }
        match &what {
            Nexthop::Unfit(reason) => self.take(News::LeftOut(LeftOut { what: What::Nexthop(id), reason: *reason })),
            _ => drop(self.left_out.remove(&What::Nexthop(id))),
        }
        if self.nexthops.len() < MAX_OTHERS || self.nexthops.contains_key(&id) {
            self.nexthops.insert(id, what);
            self.tell_nexthop(id);
        }
    }

    fn no_nexthop(&mut self, id: u32) {
        self.left_out.remove(&What::Nexthop(id));
        if self.nexthops.remove(&id).is_some() {
            self.changes.push(Change::NoNexthops { id });
            if self.gone.len() < MAX_OTHERS {
                self.gone.insert(id);
            } else {
                self.doubt_it("many nexthop objects are gone");
            }
            self.tell_groups_of(id);
        }
    }

    fn tell_nexthop(&mut self, id: u32) {
        let hops = self.hops(id);
        self.changes.push(Change::Nexthops { id, hops });
        self.tell_groups_of(id);
    }

    /// Groups are told as what they consist of.
    fn tell_groups_of(&mut self, member: u32) {
        let has = |what: &Nexthop| matches!(what, Nexthop::Group(all) if all.iter().any(|(id, _)| *id == member));
        let groups: Vec<u32> = self.nexthops.iter().filter(|(_, what)| has(what)).map(|(id, _)| *id).collect();
        for id in groups {
            let hops = self.hops(id);
            self.changes.push(Change::Nexthops { id, hops });
        }
    }

    fn hops(&mut self, id: u32) -> Vec<Hop> {
        match self.nexthops.get(&id).cloned() {
            Some(Nexthop::Hop(hop)) => vec![self.hop(&hop)],
            // Routes over it are told as blackhole routes.
            Some(Nexthop::Blackhole | Nexthop::Unfit(_)) | None => Vec::new(),
            Some(Nexthop::Group(members)) => {
                let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(HEAVIEST);
                let mut hops = Vec::new();
                for (member, weight) in members.into_iter().take(MOST_MEMBERS) {
                    if let Some(Nexthop::Hop(hop)) = self.nexthops.get(&member).cloned() {
                        let weight = (u64::from(weight) * u64::from(HEAVIEST)).div_ceil(u64::from(heaviest));
                        hops.push(Hop { weight: weight.clamp(1, u64::from(HEAVIEST)) as u16, ..self.hop(&hop) });
                    }
                }
                hops
            }
        }
    }

    fn hop(&mut self, hop: &news::Hop) -> Hop {
        let news::Hop { link, gateway, weight, onlink } = *hop;
        Hop { out: self.out(link), gateway, weight, onlink }
    }

    fn out(&mut self, link: u32) -> Out {
        if let Some(port) = self.port(link) {
            return Out::Port(port);
        }
        if let Some(name) = self.foreign.get(&link) {
            return Out::Other(name.clone());
        }
        let name: Arc<str> = match self.links.get(&link) {
            Some(known) => known.link.name.as_str().into(),
            None => return Out::Other(format!("if{link}").into()),
        };
        self.foreign.insert(link, name.clone());
        Out::Other(name)
    }

    /// The port of a device, or none as for `lo`.
    fn at(&self, link: u32) -> PortId {
        self.port(link).unwrap_or(PortId::NONE)
    }

    fn entry(&mut self, route: Route) -> Entry {
        let Route { table, prefix, metric, kind, mtu, source, tos, realm, protocol } = route;
        let kind = match kind {
            news::Kind::Via(hops) => Kind::Via(hops.iter().map(|hop| self.hop(hop)).collect()),
            news::Kind::Object(id) => Kind::Object(id),
            news::Kind::Local(link) => Kind::Local(self.at(link)),
            news::Kind::Broadcast(link) => Kind::Broadcast(self.at(link)),
            news::Kind::Anycast(link) => Kind::Anycast(self.at(link)),
            news::Kind::Blackhole => Kind::Blackhole,
            news::Kind::Unreachable => Kind::Unreachable,
            news::Kind::Prohibit => Kind::Prohibit,
            news::Kind::Throw => Kind::Throw,
        };
        // IPv6 routes that refuse are on `lo` and have no realms.
        let mtu = mtu.map(|mtu| mtu.min(u32::from(u16::MAX)) as u16).filter(|&mtu| mtu != 0);
        Entry { table, prefix: prefix.trunc(), metric, kind, mtu, source, tos, realm, protocol }
    }

    fn route(&mut self, how: How, route: Route) {
        let what = What::Route(route.table, route.prefix, route.tos, route.metric);
        let in_its_place = matches!(how, How::Alone | How::Instead);
        let was_left_out = in_its_place && !self.left_out.is_empty() && self.is_replaced(&what);
        let entry = self.entry(route);
        match how {
            How::Dumped => self.changes.push(Change::Append(entry)),
            How::Alone => self.changes.push(Change::Replace(entry)),
            // The one that it replaces is not here: those that are stand behind it.
            How::Instead if was_left_out && entry.prefix.addr().is_ipv4() => self.changes.push(Change::Prepend(entry)),
            How::Instead => self.changes.push(instead(entry)),
            // An IPv6 route comes with all its next hops whenever one is added, and all may be told a second time.
            How::First => self.changes.extend([Change::Remove(entry.clone()), Change::Prepend(entry)]),
            How::Last => self.changes.extend([Change::Remove(entry.clone()), Change::Append(entry)]),
        }
    }

    /// Whether a route that was left out goes for another one with the same destination.
    fn is_replaced(&mut self, what: &What) -> bool {
        match self.left_out.get(what) {
            Some(reason) if !stands_beside(*reason) => self.left_out.remove(what).is_some(),
            _ => false,
        }
    }

    fn rule(&mut self, rule: news::Rule) {
        if self.rules.len() < MAX_OTHERS
            && self.rules.insert(rule.clone())
            && let Some(rule) = self.known_rule(&rule)
        {
            self.changes.push(Change::Rule(rule));
        }
    }

    /// A rule with the router's numbers; none where its device is no port, so that no packet of the router's meets it. Where it is
    /// negated every packet meets it, whatever else it asks (`fib_rule_match`).
    fn known_rule(&self, rule: &news::Rule) -> Option<RoutingRule> {
        let iif = match rule.iif.as_deref() {
            None => None,
            Some(LOOPBACK) => Some(RuleIif::Local),
            Some(name) => match self.ports.get(name) {
                Some(port) => Some(RuleIif::Port(*port)),
                None if rule.not => {
                    let bare =
                        news::Rule { not: false, from: None, to: None, iif: None, fwmark: None, tos: None, ..*rule };
                    return self.known_rule(&bare);
                }
                None => return None,
            },
        };
        let action = match rule.action {
            news::RuleAction::Lookup(table) => RuleAction::Lookup(table),
            news::RuleAction::Vrf => RuleAction::Vrf,
            news::RuleAction::Blackhole => RuleAction::Blackhole,
            news::RuleAction::Unreachable => RuleAction::Unreachable,
            news::RuleAction::Prohibit => RuleAction::Prohibit,
        };
        Some(RoutingRule {
            priority: rule.priority,
            family: rule.family,
            not: rule.not,
            from: rule.from,
            to: rule.to,
            iif,
            fwmark: rule.fwmark,
            tos: rule.tos,
            suppress: rule.suppress,
            action,
        })
    }

    /// Whether the device of a port is set up, which is not in the TAPs' namespace.
    pub fn device_is(&mut self, port: PortId, is_up: bool) {
        if let Some(device) = port.index().and_then(|i| self.devices.get_mut(i)) {
            *device = is_up;
        }
    }

    /// What ports are now, where the FIB was told something else.
    fn tell_ports(&mut self) {
        let mut now: Vec<Told> = self.devices.iter().map(|&is_up| Told { is_up, mtu: None, vrf: None }).collect();
        for known in self.links.values() {
            let Some(told) = known.port.and_then(PortId::index).and_then(|i| now.get_mut(i)) else { continue };
            told.is_up &= known.link.is_up;
            told.mtu = Some(known.link.mtu.min(u32::from(u16::MAX)) as u16);
            if self.what == Follows::Routes {
                told.vrf = known.link.master.and_then(|master| self.links.get(&master)?.link.vrf);
            }
        }
        for (i, told) in now.into_iter().enumerate() {
            let (port, before) = (PortId(i as u16), std::mem::replace(&mut self.told[i], told));
            if before.is_up != told.is_up {
                let state = if told.is_up { LinkState::Up } else { LinkState::Down };
                self.changes.push(Change::Link { port, state });
            }
            if let Some(mtu) = told.mtu.filter(|_| before.mtu != told.mtu) {
                self.changes.push(Change::Mtu { port, mtu });
            }
            if before.vrf != told.vrf {
                self.changes.push(Change::Vrf { port, table: told.vrf });
            }
        }
    }
}

/// Whether such a route stands beside one with the same destination: one for other sources is another route.
fn stands_beside(reason: Reason) -> bool {
    reason == Reason::SourceSpecific
}

/// With NLM_F_REPLACE an IPv4 route takes the place of the first one only (`fib_table_insert`), an IPv6 one of all
/// (`fib6_add_rt2node`).
fn instead(entry: Entry) -> Change {
    if entry.prefix.addr().is_ipv4() { Change::ReplaceFirst(entry) } else { Change::Replace(entry) }
}
