//! The writable side of the [`Fib`]: which routes, rules, addresses and links are there, and what has changed since?
//!
//! One for each router, owned by whoever publishes. A policy gives the configured part ([`Table::adopt`]), the mirror of the
//! kernel the rest in batches of [`Change`]s ([`Table::apply`]); [`Table::fib`] makes the next immutable FIB, which shares with
//! the one before what has not changed.
//!
//! An address of the configuration has the routes that follow from it until the same address is mirrored: then the kernel's
//! own routes hold, as they are.

use super::derive;
use super::entry::{self, Change, Entry, Hop, Kind, LinkState};
use super::half::{Half, Held, Spot};
use super::leads::{Lead, Leads, Ports};
use super::lpm::Address;
use super::rules::{self, Refusals};
use super::{Fib, Own};
use crate::port::Link;
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{MAX_ROUTES, MIN_MTU, Policy, RoutesFrom, RoutingRule, RpFilter};

/// Most nexthop objects, rules and own addresses.
pub const MAX_OTHERS: usize = 1 << 16;

/// Orders of candidates: derived from addresses, of the configuration, and mirrored, the first of which stand in the middle.
const CONFIGURED: u32 = 1 << 30;
const MIRRORED: u32 = 2 << 30;
const FIRST_MIRRORED: u32 = 3 << 30;

/// Where a candidate is, and what: what [`Table::adopt`] compares.
type Placed = (Family, u32, Spot<u128>, Held);

/// Routes, rules, addresses and ports.
pub struct Table {
    links: Vec<Link>,
    pub(super) ports: Ports,
    pub(super) leads: Leads,
    pub(super) v4: Half<u32>,
    pub(super) v6: Half<u128>,
    /// Candidates of the configuration and of its addresses, sorted.
    placed: Vec<Placed>,
    configured: Side,
    mirrored: Side,
    from: RoutesFrom,
    routes: Vec<Entry>,
    rp_filter: Vec<RpFilter>,
    own: Arc<[Vec<Own>]>,
    /// By port: groups that the host has joined, sorted.
    groups: Arc<[Vec<(Family, u128)>]>,
    refusals: Refusals,
}

/// What the configuration and the kernel each say, beside routes.
#[derive(Default)]
struct Side {
    /// By port.
    addresses: Vec<Vec<Own>>,
    rules: Vec<RoutingRule>,
    /// By port: the table of its VRF.
    vrfs: Vec<Option<u32>>,
}

impl Side {
    fn of(ports: usize) -> Side {
        Side { addresses: vec![Vec::new(); ports], rules: Vec::new(), vrfs: vec![None; ports] }
    }
}

impl Table {
    /// No addresses and no rules, on these ports.
    pub fn new(links: &[Link]) -> Table {
        let n = links.len();
        let ports = Ports { mtu: links.iter().map(|link| link.mtu).collect(), down: vec![false; n] };
        let mut leads = Leads::new();
        let mut refusal = |kind| {
            let lead = Lead { family: Family::V4, kind, mtu: None, source: None, realm: 0 };
            leads.take(lead, &ports)
        };
        let refusals = Refusals {
            blackhole: refusal(Kind::Blackhole),
            unreachable: refusal(Kind::Unreachable),
            prohibit: refusal(Kind::Prohibit),
        };
        Table {
            refusals,
            ports,
            links: links.to_vec(),
            leads,
            v4: Half::new(),
            v6: Half::new(),
            placed: Vec::new(),
            configured: Side::of(n),
            mirrored: Side::of(n),
            from: RoutesFrom::default(),
            routes: Vec::new(),
            rp_filter: vec![RpFilter::default(); n],
            own: Arc::new([]),
            groups: vec![Vec::new(); n].into(),
        }
    }

    /// Takes what is mirrored, without a policy that says so.
    #[cfg(test)]
    pub fn from_kernel(&mut self) {
        self.from = RoutesFrom::Kernel;
    }

    /// Takes over what a policy says of routing. Routes and addresses that name a port that is not there are left out.
    pub fn adopt(&mut self, policy: &Policy) {
        let setting = |i: usize| policy.port_settings.get(i);
        let n = self.links.len();
        let addresses = |i| {
            let nets: &[IpNet] = setting(i).map_or(&[], |settings| &settings.addresses);
            nets.iter().map(|net| derive::own(PortId(i as u16), *net)).collect()
        };
        self.configured.addresses = (0..n).map(addresses).collect();
        self.configured.vrfs = (0..n).map(|i| setting(i).and_then(|settings| settings.vrf)).collect();
        self.configured.rules = policy.rules.clone();
        self.rp_filter = (0..n).map(|i| setting(i).map_or_else(Default::default, |s| s.rp_filter)).collect();
        self.from = policy.routes_from;
        self.routes = policy.routes.iter().map(Entry::of).collect();
        if self.from == RoutesFrom::File {
            self.forget();
        }
        self.place();
    }

    /// Applies changes of what is mirrored, in order. Gives back those that cannot be, with the reason.
    pub fn apply(&mut self, changes: Vec<Change>) -> Vec<(Change, String)> {
        let mut refused = Vec::new();
        let mut addresses_changed = false;
        for change in changes {
            addresses_changed |=
                matches!(change, Change::Forget | Change::Address(_) | Change::NoAddress(_) | Change::Vrf { .. });
            if let Err(reason) = self.change(&change) {
                refused.push((change, reason));
            }
        }
        if addresses_changed {
            self.place();
        }
        refused
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.v4.count + self.v6.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The FIB that answers for all that was said until now.
    pub fn fib(&mut self) -> Fib {
        // The VRFs of ports, numbered by their tables' order; 0 is none.
        let of_port: Vec<Option<u32>> = (0..self.links.len()).map(|i| self.vrf(PortId(i as u16))).collect();
        let mut vrfs: Vec<u32> = of_port.iter().flatten().copied().collect();
        vrfs.sort_unstable();
        vrfs.dedup();
        let number =
            |table: &Option<u32>| table.map_or(0, |table| 1 + vrfs.partition_point(|other| *other < table) as u16);
        let vrf_of = if vrfs.is_empty() { Vec::new() } else { of_port.iter().map(number).collect() };
        let mut rules = match self.from {
            RoutesFrom::Kernel if !self.mirrored.rules.is_empty() => self.mirrored.rules.clone(),
            _ => self.configured.rules.clone(),
        };
        rules.sort_by_key(|rule| rule.priority);
        let v4 = rules::side(&rules, &vrfs, Family::V4, &mut self.v4, &self.leads, self.refusals);
        let v6 = rules::side(&rules, &vrfs, Family::V6, &mut self.v6, &self.leads, self.refusals);
        Fib {
            number: 0,
            v4,
            v6,
            targets: self.leads.targets.clone(),
            own: self.own.clone(),
            vrf_of,
            rp_filter: self.rp_filter.clone(),
            has_realms: self.leads.has_realms(),
            is_multipath: self.leads.is_multipath(),
            mtu: self.ports.mtu.clone(),
            routes: [self.v4.count, self.v6.count],
            groups: self.groups.clone(),
        }
    }

    /// The own addresses of ports, of the configuration first.
    fn collect(&mut self) {
        let own = |(i, link): (usize, &Link)| {
            let sides = [&self.configured, &self.mirrored];
            let addresses = sides.into_iter().flat_map(|side| side.addresses[i].iter().copied());
            derive::own_addresses(PortId(i as u16), addresses, link.mac)
        };
        let own: Vec<Vec<Own>> = self.links.iter().enumerate().map(own).collect();
        if *self.own != *own {
            self.own = own.into();
        }
    }

    fn vrf(&self, port: PortId) -> Option<u32> {
        let of = |side: &Side| port.index().and_then(|i| side.vrfs.get(i)).copied().flatten();
        of(&self.mirrored).or_else(|| of(&self.configured))
    }

    /// Compares the candidates that follow from the configuration with those that are in the tables, and changes those.
    fn place(&mut self) {
        self.collect();
        let derived_of = |i: usize| {
            let mirrored = &self.mirrored.addresses[i];
            let mirrored: HashSet<_> = mirrored.iter().map(|own| (own.family, own.addr)).collect();
            let known = |own: &&Own| !mirrored.contains(&(own.family, own.addr));
            self.configured.addresses[i].iter().filter(known).copied().collect()
        };
        let addresses: Vec<Vec<Own>> = (0..self.links.len()).map(derived_of).collect();
        let derived = derive::routes(&addresses, |port| self.vrf(port));
        let configured = std::mem::take(&mut self.routes);
        let orders = (0..CONFIGURED).zip(&derived).chain((CONFIGURED..MIRRORED).zip(&configured));
        let mut wanted: Vec<Placed> = Vec::with_capacity(derived.len() + configured.len());
        for (order, entry) in orders.take(MAX_ROUTES) {
            if entry.unfit(self.links.len()).is_none() {
                let lead = self.lead(entry);
                let spot = spot(entry, order);
                wanted.push((entry.family(), entry.table, spot, Held { lead, protocol: entry.protocol }));
            }
        }
        self.routes = configured;
        let order = |placed: &Placed| (placed.0.index(), placed.1, placed.2);
        wanted.sort_by_key(order);
        let before = std::mem::replace(&mut self.placed, wanted.clone());
        // Both are sorted: what is in one only goes or comes.
        let (mut old, mut new) = (before.iter().peekable(), wanted.iter().peekable());
        loop {
            let (a, b) = (old.peek().map(|p| order(p)), new.peek().map(|p| order(p)));
            match (a, b) {
                (None, None) => break,
                (Some(a), b) if b.is_none_or(|b| a < b) => {
                    let (family, table, spot, _) = *old.next().expect("peeked");
                    self.take_out(family, table, spot);
                }
                (a, Some(b)) if a.is_none_or(|a| b < a) => {
                    let (family, table, spot, held) = *new.next().expect("peeked");
                    self.put_in(family, table, spot, held);
                }
                _ => {
                    let (old, new) = (old.next().expect("peeked"), new.next().expect("peeked"));
                    match old.3 == new.3 {
                        true => self.leads.give(new.3.lead),
                        false => self.put_in(new.0, new.1, new.2, new.3),
                    }
                }
            }
        }
    }

    /// The number of what a route says, taken once more.
    fn lead(&mut self, entry: &Entry) -> u32 {
        let Entry { ref kind, mtu, source, realm, .. } = *entry;
        self.leads.take(Lead { family: entry.family(), kind: kind.clone(), mtu, source, realm }, &self.ports)
    }

    fn put_in(&mut self, family: Family, table: u32, spot: Spot<u128>, held: Held) {
        let before = match family {
            Family::V4 => self.v4.insert(table, narrow(spot), held),
            Family::V6 => self.v6.insert(table, spot, held),
        };
        if let Some(before) = before {
            self.leads.give(before.lead);
        }
    }

    fn take_out(&mut self, family: Family, table: u32, spot: Spot<u128>) {
        let held = match family {
            Family::V4 => self.v4.remove(table, &narrow(spot)),
            Family::V6 => self.v6.remove(table, &spot),
        };
        if let Some(held) = held {
            self.leads.give(held.lead);
        }
    }

    /// The mirrored candidates of a route's table, prefix, TOS and metric, in order.
    fn equals(&self, entry: &Entry) -> Vec<(Spot<u128>, Held)> {
        let at = spot(entry, 0);
        fn of<A: Address>(half: &Half<A>, table: u32, at: Spot<A>) -> Vec<(Spot<u128>, Held)> {
            let Some(routes) = half.tables.get(&table) else { return Vec::new() };
            let mirrored = routes.equals(at).filter(|(spot, _)| spot.order >= MIRRORED);
            mirrored.map(|(spot, held)| (widen(*spot), *held)).collect()
        }
        match entry.family() {
            Family::V4 => of(&self.v4, entry.table, narrow(at)),
            Family::V6 => of(&self.v6, entry.table, at),
        }
    }

    fn add(&mut self, entry: &Entry, order: impl Fn(&[(Spot<u128>, Held)]) -> Option<u32>) -> Result<(), String> {
        self.fit(entry)?;
        let equals = self.equals(entry);
        let order = match equals.is_empty() {
            true => FIRST_MIRRORED,
            false => order(&equals).ok_or("too many routes with this prefix and metric")?,
        };
        let lead = self.lead(entry);
        self.put_in(entry.family(), entry.table, spot(entry, order), Held { lead, protocol: entry.protocol });
        Ok(())
    }

    fn fit(&self, entry: &Entry) -> Result<(), String> {
        if self.len() >= MAX_ROUTES {
            return Err(format!("there are {MAX_ROUTES} routes already"));
        }
        entry.unfit(self.links.len()).map_or(Ok(()), Err)
    }

    fn replace(&mut self, entry: &Entry) -> Result<(), String> {
        self.fit(entry)?;
        let equals = self.equals(entry);
        let lead = self.lead(entry);
        let held = Held { lead, protocol: entry.protocol };
        if let [(_, only)] = equals[..]
            && only == held
        {
            self.leads.give(lead);
            return Ok(());
        }
        let order = equals.first().map_or(FIRST_MIRRORED, |(spot, _)| spot.order);
        for (spot, _) in equals.iter().skip(1) {
            self.take_out(entry.family(), entry.table, *spot);
        }
        self.put_in(entry.family(), entry.table, spot(entry, order), held);
        Ok(())
    }

    fn remove(&mut self, entry: &Entry) -> Result<(), String> {
        let equals = self.equals(entry);
        let is_any = entry.kind == Kind::Via(Vec::new());
        let says = |held: &Held| self.leads.lead(held.lead).map(|lead| &lead.kind);
        let same = equals.iter().find(|(_, held)| is_any || says(held) == Some(&entry.kind));
        if let Some(&(spot, _)) = same {
            self.take_out(entry.family(), entry.table, spot);
            return Ok(());
        }
        // Hops that are told one by one (`ip6_route_multipath_del`).
        let Kind::Via(gone) = &entry.kind else { return Err("there is no such route".into()) };
        let is_gone = |hop: &Hop| gone.iter().any(|gone| (&gone.out, gone.gateway) == (&hop.out, hop.gateway));
        for (spot, held) in equals {
            let Some(lead) = self.leads.lead(held.lead).cloned() else { continue };
            let Kind::Via(hops) = &lead.kind else { continue };
            if entry.family() != Family::V6 || !hops.iter().any(is_gone) {
                continue;
            }
            let left: Vec<Hop> = hops.iter().filter(|hop| !is_gone(hop)).cloned().collect();
            if left.is_empty() {
                self.take_out(Family::V6, entry.table, spot);
            } else {
                let number = self.leads.take(Lead { kind: Kind::Via(left), ..(*lead).clone() }, &self.ports);
                self.put_in(Family::V6, entry.table, spot, Held { lead: number, ..held });
            }
            return Ok(());
        }
        Err("there is no such route".into())
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        let is_of_link = matches!(change, Change::Mtu { .. } | Change::Link { .. } | Change::Groups { .. });
        if self.from != RoutesFrom::Kernel && !is_of_link {
            return Err("routes are not taken from the kernel".into());
        }
        let ports = self.links.len();
        let wrong = |reason: Option<String>| reason.map_or(Ok(()), Err);
        let index =
            |port: PortId| port.index().filter(|&i| i < ports).ok_or_else(|| "there is no such port".to_string());
        let after = |order: u32| order.checked_add(1);
        let before = |order: u32| order.checked_sub(1).filter(|&order| order >= MIRRORED);
        match change {
            Change::Forget => {
                self.forget();
                self.ports.mtu = self.links.iter().map(|link| link.mtu).collect();
                self.ports.down.fill(false);
                self.renew();
            }
            Change::Append(entry) => self.add(entry, |equals| equals.last().and_then(|(spot, _)| after(spot.order)))?,
            Change::Prepend(entry) => {
                self.add(entry, |equals| equals.first().and_then(|(spot, _)| before(spot.order)))?
            }
            Change::Replace(entry) => self.replace(entry)?,
            Change::ReplaceFirst(entry) => {
                self.add(entry, |equals| equals.first().map(|(spot, _)| spot.order))?;
            }
            Change::Remove(entry) => self.remove(entry)?,
            Change::Nexthops { id, hops } => {
                wrong(entry::unfit(hops, ports))?;
                if self.leads.objects() >= MAX_OTHERS {
                    return Err(format!("there are {MAX_OTHERS} nexthop objects already"));
                }
                let revived = self.leads.set_object(*id, Some(hops.clone()), &self.ports);
                self.spoil(revived);
            }
            Change::NoNexthops { id } => {
                let revived = self.leads.set_object(*id, None, &self.ports);
                self.spoil(revived);
            }
            Change::Rule(rule) => {
                wrong(entry::unfit_rule(rule, ports))?;
                if self.mirrored.rules.len() >= MAX_OTHERS {
                    return Err(format!("there are {MAX_OTHERS} rules already"));
                }
                self.mirrored.rules.push(rule.clone());
            }
            Change::NoRule(rule) => {
                let at = self.mirrored.rules.iter().position(|other| other == rule).ok_or("there is no such rule")?;
                self.mirrored.rules.remove(at);
            }
            Change::Address(own) => {
                let i = index(own.port)?;
                if own.prefix > own.family.bits() {
                    return Err("a prefix that is too long".into());
                }
                let addresses = &mut self.mirrored.addresses[i];
                let known = addresses.iter().position(|other| (other.family, other.addr) == (own.family, own.addr));
                match known {
                    Some(at) => addresses[at] = *own,
                    None if addresses.len() >= MAX_OTHERS => return Err(format!("a port with {MAX_OTHERS} addresses")),
                    None => addresses.push(*own),
                }
            }
            Change::NoAddress(own) => {
                let addresses = &mut self.mirrored.addresses[index(own.port)?];
                let is = |other: &Own| (other.family, other.addr) == (own.family, own.addr);
                let at = addresses.iter().position(is).ok_or("there is no such address")?;
                addresses.remove(at);
            }
            Change::Mtu { port, mtu } => {
                let i = index(*port)?;
                wrong((*mtu < MIN_MTU).then(|| format!("an MTU below {MIN_MTU}")))?;
                self.ports.mtu[i] = (*mtu).min(self.links[i].mtu);
                self.renew();
            }
            Change::Link { port, state } => {
                let i = index(*port)?;
                self.ports.down[i] = *state == LinkState::Down;
                self.renew();
            }
            Change::Groups { port, groups } => {
                let i = index(*port)?;
                if groups.len() > MAX_OTHERS {
                    return Err(format!("a port with {} groups", groups.len()));
                }
                let mut all = self.groups.to_vec();
                all[i] = groups.clone();
                all[i].sort_unstable_by_key(|(family, group)| (family.index(), *group));
                self.groups = all.into();
            }
            Change::Vrf { port, table } => {
                let i = index(*port)?;
                self.mirrored.vrfs[i] = *table;
            }
        }
        Ok(())
    }

    fn renew(&mut self) {
        let revived = self.leads.renew(&self.ports, |lead| matches!(lead.kind, Kind::Via(_) | Kind::Object(_)));
        self.spoil(revived);
    }

    /// Which routes count has changed, so that all tables are built anew.
    fn spoil(&mut self, is_so: bool) {
        if is_so {
            self.v4.spoil();
            self.v6.spoil();
        }
    }

    /// Forgets all that was mirrored.
    fn forget(&mut self) {
        fn mirrored<A: Address>(half: &Half<A>) -> Vec<(u32, Spot<A>)> {
            let of = |(&table, routes): (&u32, &super::half::Routes<A>)| -> Vec<(u32, Spot<A>)> {
                routes.spots.keys().filter(|spot| spot.order >= MIRRORED).map(|spot| (table, *spot)).collect()
            };
            half.tables.iter().flat_map(of).collect()
        }
        for (table, spot) in mirrored(&self.v4) {
            self.take_out(Family::V4, table, widen(spot));
        }
        for (table, spot) in mirrored(&self.v6) {
            self.take_out(Family::V6, table, spot);
        }
        self.leads.forget_objects();
        self.mirrored = Side::of(self.links.len());
        self.renew();
    }
}

/// Where a route stands in its table.
fn spot(entry: &Entry, order: u32) -> Spot<u128> {
    let (_, key) = number(entry.prefix.network());
    Spot { key, len: entry.prefix.prefix_len(), tos: Reverse(entry.tos), metric: entry.metric, order }
}

fn narrow(spot: Spot<u128>) -> Spot<u32> {
    let Spot { key, len, tos, metric, order } = spot;
    Spot { key: key as u32, len, tos, metric, order }
}

fn widen<A: Address>(spot: Spot<A>) -> Spot<u128> {
    let Spot { key, len, tos, metric, order } = spot;
    Spot { key: key.number(), len, tos, metric, order }
}

#[cfg(test)]
mod tests;
