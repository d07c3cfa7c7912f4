//! What is swapped at run time, and whether it can be run.

use super::routing::{DSCP_BITS, IPV6_MIN_MTU, MAX_NEXTHOPS, MAX_ROUTES, MAX_VRFS, MIN_MTU, gateway_number, table};
use super::{
    Label, Names, PortSettings, Route, RouteAction, RoutesFrom, RoutingRule, RuleIif, StaticNeighbour, Sysctl, Vrf,
};
use crate::facts::{Family, PortId, number};
use crate::rule::matches::connlabel::LABELS;
use crate::rule::matches::interface::MAX_PORTS;
use crate::rule::matches::nfacct::Account;
use crate::rule::matches::osf::{Fingerprint, MAX_FINGERPRINTS};
use crate::rule::matches::recent::Sizes as RecentSizes;
use crate::rule::targets::ct::Ct;
use crate::rule::{Match, Target};
use crate::ruleset::Ruleset;
use crate::set::Declaration;
use crate::timeout::{MAX_POLICIES, TimeoutPolicy};
use serde::{Deserialize, Serialize};

/// What is swapped at run time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// The names of the ports that this was compiled against, in order: the dataplane refuses another list.
    pub ports: Vec<String>,
    /// Per-port settings, by [`PortId`].
    pub port_settings: Vec<PortSettings>,
    /// Static neighbours.
    pub neighbours: Vec<StaticNeighbour>,
    /// Where routes, rules and neighbours come from.
    pub routes_from: RoutesFrom,
    /// VRFs that interfaces may be in.
    pub vrfs: Vec<Vrf>,
    /// Static routes; connected and local ones follow from the addresses.
    pub routes: Vec<Route>,
    /// Policy routing rules in order of priority, the three of the kernel's default included unless the file replaces them.
    pub rules: Vec<RoutingRule>,
    /// Settings by the names of the sysctls.
    pub sysctl: Sysctl,
    /// Other times for flows that rules choose.
    pub timeouts: Vec<TimeoutPolicy>,
    /// Names of conntrack labels.
    pub labels: Vec<Label>,
    /// Sets that rules ask and change.
    pub sets: Vec<Declaration>,
    /// Fingerprints of operating systems, for `osf`.
    pub fingerprints: Vec<Fingerprint>,
    /// Accounts that rules may count for, for `nfacct`.
    pub accounts: Vec<Account>,
    /// The status page and metrics, where the router shows them.
    pub metrics: Option<Metrics>,
    /// The compiled ruleset.
    pub ruleset: Ruleset,
}

/// The status page (`/`) and metrics (`/metrics`) over HTTP, on all of the router's own addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Metrics {
    /// TCP port.
    pub port: u16,
}

impl Policy {
    /// Whether a policy of whatever origin is one that the engine can run: ports exist, families agree, values are in range.
    /// The ruleset has its own check ([`Ruleset::verify`]).
    pub fn verify(&self) -> Result<(), String> {
        let ports = self.ports.len();
        if ports > MAX_PORTS || self.port_settings.len() != ports {
            return Err(format!("{ports} ports with {} settings", self.port_settings.len()));
        }
        let port = |port: PortId| match port.index() {
            Some(i) if i < ports => Ok(()),
            _ => Err(format!("there is no port {}", port.0)),
        };
        for neighbour in &self.neighbours {
            port(neighbour.port)?;
        }
        self.verify_vrfs()?;
        if self.routes.len() > MAX_ROUTES {
            return Err(format!("{} routes are more than {MAX_ROUTES}", self.routes.len()));
        }
        if self.routes_from == RoutesFrom::Kernel && !self.routes.is_empty() {
            return Err("routes come from the kernel, and there are others".into());
        }
        for route in &self.routes {
            let (family, is_v4) = (number(route.prefix.addr()).0, route.prefix.addr().is_ipv4());
            let least = if is_v4 { MIN_MTU } else { IPV6_MIN_MTU };
            if route.realm != 0 && !is_v4 {
                return Err(format!("the route to {} has a realm", route.prefix));
            }
            if route.tos & !DSCP_BITS != 0 || (route.tos != 0 && !is_v4) {
                return Err(format!("the route to {} has a TOS of {}", route.prefix, route.tos));
            }
            if route.mtu.is_some_and(|mtu| mtu < least) {
                return Err(format!("the route to {} has an MTU below {least}", route.prefix));
            }
            let RouteAction::Via(nexthops) = &route.action else { continue };
            if nexthops.is_empty() || nexthops.len() > MAX_NEXTHOPS {
                return Err(format!("the route to {} has {} next hops", route.prefix, nexthops.len()));
            }
            for hop in nexthops {
                port(hop.port)?;
                let is_fit = hop.gateway.is_none_or(|via| gateway_number(family, via).is_some());
                if !(1..=256).contains(&hop.weight) || !is_fit {
                    return Err(format!("the route to {} has a wrong next hop", route.prefix));
                }
            }
            if route.source.is_some_and(|source| source.is_ipv4() != is_v4) {
                return Err(format!("the route to {} has a source of the other family", route.prefix));
            }
        }
        for rule in &self.rules {
            let is_v4 = rule.family == Family::V4;
            if [rule.from, rule.to].into_iter().flatten().any(|net| net.addr().is_ipv4() != is_v4) {
                return Err(format!("the routing rule {} mixes families", rule.priority));
            }
            if let Some(RuleIif::Port(iif)) = rule.iif {
                port(iif)?;
            }
        }
        self.verify_timeouts()?;
        if let Some(label) = self.labels.iter().find(|label| label.bit >= LABELS || !Label::is_name(&label.name)) {
            return Err(format!("the label {:?} of bit {}", label.name, label.bit));
        }
        self.verify_sets()?;
        if self.fingerprints.len() > MAX_FINGERPRINTS {
            return Err(format!("{} fingerprints are more than {MAX_FINGERPRINTS}", self.fingerprints.len()));
        }
        self.fingerprints.iter().try_for_each(Fingerprint::verify)?;
        self.accounts.iter().try_for_each(Account::verify)?;
        if self.metrics.is_some_and(|metrics| metrics.port == 0) {
            return Err("metrics cannot be on port 0".to_string());
        }
        crate::schema::sysctl::verify(&self.sysctl)
    }

    /// VRFs with tables of their own, and interfaces in those only.
    fn verify_vrfs(&self) -> Result<(), String> {
        if self.vrfs.len() > MAX_VRFS {
            return Err(format!("{} VRFs are more than {MAX_VRFS}", self.vrfs.len()));
        }
        for (i, vrf) in self.vrfs.iter().enumerate() {
            let is_own = vrf.table == 0 || (table::DEFAULT..=table::LOCAL).contains(&vrf.table);
            let is_there = |other: &Vrf| other.name == vrf.name || other.table == vrf.table;
            if is_own || self.vrfs[..i].iter().any(is_there) {
                return Err(format!("the VRF {:?} of table {}", vrf.name, vrf.table));
            }
        }
        let is_known = |table: &u32| self.vrfs.iter().any(|vrf| vrf.table == *table);
        match self.port_settings.iter().filter_map(|settings| settings.vrf).find(|table| !is_known(table)) {
            Some(table) => Err(format!("no VRF has the table {table}")),
            None => Ok(()),
        }
    }

    /// Sets that could be in a file, each name once.
    fn verify_sets(&self) -> Result<(), String> {
        if self.sets.len() > crate::set::MAX_SETS {
            return Err(format!("{} sets are more than {}", self.sets.len(), crate::set::MAX_SETS));
        }
        let mut names = std::collections::HashSet::new();
        for set in &self.sets {
            set.verify()?;
            if !names.insert(set.header.name.as_str()) {
                return Err(format!("the set {:?} is there twice", set.header.name));
            }
        }
        Ok(())
    }

    /// Policies that could be in a file, and rules that use those only.
    fn verify_timeouts(&self) -> Result<(), String> {
        let policies = &self.timeouts;
        if policies.len() > MAX_POLICIES {
            return Err(format!("{} time-out policies are more than {MAX_POLICIES}", policies.len()));
        }
        for (i, policy) in policies.iter().enumerate() {
            let known = policy.tracker.times().len();
            let wrong = policy.times.len() > known
                || policy
                    .times
                    .iter()
                    .any(|&(index, value)| usize::from(index) >= known || value > crate::schema::sysctl::LONGEST_MS);
            if wrong || !TimeoutPolicy::is_name(&policy.name) || policies[..i].iter().any(|p| p.id() == policy.id()) {
                return Err(format!("the time-out policy {:?} cannot be", policy.name));
            }
        }
        for family in Family::ALL {
            for rule in self.ruleset.of(family).tables.iter().flat_map(|t| &t.chains).flat_map(|chain| &chain.rules) {
                let Some(Target::Ct(Ct { notrack: false, timeout: Some(name), .. })) = &rule.target else { continue };
                let protocol = rule.conds.iter().find_map(|cond| match cond.test {
                    Match::Protocol(protocol) => Some((protocol.0, cond.negate)),
                    _ => None,
                });
                let policy = policies.iter().find(|policy| policy.name == *name);
                let policy = policy.ok_or_else(|| format!("there is no time-out policy {name:?}"))?;
                policy.unfit(family, protocol).map_or(Ok(()), Err)?;
            }
        }
        Ok(())
    }

    /// The names that its rules may use.
    pub fn names(&self) -> Names<'_> {
        let recent = RecentSizes::of(&self.sysctl);
        let Policy { timeouts, labels, sets, accounts, .. } = self;
        Names { timeouts, labels, sets, accounts, mistaken: &[], foreign: &[], recent }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::rule;

    /// Two ports, a route through each kind of next hop, a rule of each kind: all in order.
    fn policy() -> Policy {
        let via = |port, gateway: Option<&str>| Nexthop {
            port: PortId(port),
            gateway: gateway.map(|via| via.parse().expect("an address")),
            weight: 1,
        };
        let route = |prefix: &str, action| Route {
            table: table::MAIN,
            prefix: prefix.parse().expect("a prefix"),
            action,
            metric: 0,
            mtu: None,
            source: None,
            tos: 0,
            realm: 0,
        };
        let from = |family, net: &str| RoutingRule {
            from: Some(net.parse().expect("a prefix")),
            iif: Some(RuleIif::Port(PortId(1))),
            ..RoutingRule::bare(5, family, RuleAction::Prohibit)
        };
        let settings = |net: &str| PortSettings {
            addresses: vec![net.parse().expect("an address")],
            rp_filter: RpFilter::Strict,
            ..Default::default()
        };
        Policy {
            ports: ["lan0", "wan0"].map(String::from).to_vec(),
            port_settings: vec![settings("10.0.0.1/24"), settings("2001:db8::1/64")],
            neighbours: vec![StaticNeighbour {
                port: PortId(1),
                address: "2001:db8::2".parse().expect("an address"),
                mac: [2; 6],
            }],
            routes_from: RoutesFrom::File,
            vrfs: Vec::new(),
            routes: vec![
                route("192.0.2.0/24", RouteAction::Via(vec![via(0, Some("10.0.0.9")), via(1, None)])),
                route("::/0", RouteAction::Via(vec![via(1, Some("2001:db8::9"))])),
                route("198.51.100.0/24", RouteAction::Blackhole),
            ],
            rules: vec![from(Family::V4, "10.0.0.0/8"), from(Family::V6, "2001:db8::/32")],
            sysctl: Sysctl::default(),
            timeouts: Vec::new(),
            labels: Vec::new(),
            sets: Vec::new(),
            fingerprints: Vec::new(),
            accounts: Vec::new(),
            metrics: Some(Metrics { port: 9100 }),
            ruleset: Ruleset::empty(rule::Policy::Accept),
        }
    }

    fn hops(policy: &mut Policy) -> &mut Vec<Nexthop> {
        match &mut policy.routes[0].action {
            RouteAction::Via(hops) => hops,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_in_order_verifies() {
        assert_eq!(policy().verify(), Ok(()));
        let mut widest = policy();
        *hops(&mut widest) = vec![Nexthop { port: PortId(0), gateway: None, weight: 256 }; MAX_NEXTHOPS];
        assert_eq!(widest.verify(), Ok(()));
        // RFC 5549.
        let mut mixed = policy();
        hops(&mut mixed)[0].gateway = Some("fe80::9".parse().expect("an address"));
        assert_eq!(mixed.verify(), Ok(()));
    }

    #[test]
    fn forged_policies_are_refused_with_the_reason() {
        type Forge = fn(&mut Policy);
        let cases: &[(&str, Forge)] = &[
            ("2 ports with 1 settings", |p| p.port_settings.truncate(1)),
            ("3 ports with 2 settings", |p| p.ports.push("more".into())),
            ("there is no port 2", |p| p.neighbours[0].port = PortId(2)),
            ("there is no port 65535", |p| p.neighbours[0].port = PortId::NONE),
            ("the route to 192.0.2.0/24 has 0 next hops", |p| hops(p).clear()),
            ("the route to 192.0.2.0/24 has 257 next hops", |p| {
                let hop = hops(p)[0];
                hops(p).resize(MAX_NEXTHOPS + 1, hop);
            }),
            ("there is no port 7", |p| hops(p)[1].port = PortId(7)),
            ("there is no port 65535", |p| hops(p)[1].port = PortId::NONE),
            ("the route to 192.0.2.0/24 has a wrong next hop", |p| hops(p)[0].weight = 0),
            ("the route to 192.0.2.0/24 has a wrong next hop", |p| hops(p)[0].weight = 257),
            ("the route to 192.0.2.0/24 has a wrong next hop", |p| {
                hops(p)[0].gateway = Some("::9".parse().expect("an address"));
            }),
            ("the route to ::/0 has a wrong next hop", |p| {
                p.routes[1].action = RouteAction::Via(vec![Nexthop {
                    port: PortId(1),
                    gateway: Some("10.0.0.9".parse().expect("an address")),
                    weight: 1,
                }]);
            }),
            ("the route to 192.0.2.0/24 has a source of the other family", |p| {
                p.routes[0].source = Some("2001:db8::1".parse().expect("an address"));
            }),
            ("the route to ::/0 has a realm", |p| p.routes[1].realm = 1),
            ("the route to ::/0 has a TOS of 16", |p| p.routes[1].tos = 16),
            ("the route to 192.0.2.0/24 has a TOS of 17", |p| p.routes[0].tos = 17),
            ("the routing rule 5 mixes families", |p| p.rules[0].to = Some("::/0".parse().expect("a prefix"))),
            ("the routing rule 5 mixes families", |p| p.rules[1].family = Family::V4),
            ("the route to 192.0.2.0/24 has an MTU below 68", |p| p.routes[0].mtu = Some(67)),
            ("the route to ::/0 has an MTU below 1280", |p| p.routes[1].mtu = Some(1279)),
            ("neigh_retrans_time is 18446744073709551615: 0 to 21427200000 can be", |p| {
                p.sysctl.neigh_retrans_time = u64::MAX;
            }),
            ("icmp_ratelimit is 4294967295: 0 to 2147483647 can be", |p| p.sysctl.icmp_ratelimit = u32::MAX),
            ("ip_default_ttl is 0: 1 to 255 can be", |p| p.sysctl.ip_default_ttl = 0),
            ("fib_multipath_hash_policy is 2: 0 to 1 can be", |p| p.sysctl.fib_multipath_hash_policy = 2),
            ("neigh_unres_qlen is 1025: 0 to 1024 can be", |p| p.sysctl.neigh_unres_qlen = 1025),
            ("there is no port 2", |p| p.rules[0].iif = Some(RuleIif::Port(PortId(2)))),
        ];
        for (reason, forge) in cases {
            let mut forged = policy();
            forge(&mut forged);
            assert_eq!(forged.verify(), Err(reason.to_string()));
        }
        let names: Vec<String> = (0..=MAX_PORTS).map(|i| format!("p{i}")).collect();
        let many = Policy { port_settings: vec![PortSettings::default(); names.len()], ports: names, ..policy() };
        assert_eq!(many.verify(), Err(format!("{0} ports with {0} settings", MAX_PORTS + 1)));
    }
}
