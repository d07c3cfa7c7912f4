//! What is said about routes: one route as `ip route` would say it, and changes to them.

use super::Own;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{
    self, DSCP_BITS, IPV6_MIN_MTU, MAX_NEXTHOPS, MIN_MTU, RouteAction, RoutingRule, RuleIif, gateway_number,
};

/// Who put a route there (`rtm_protocol`), as `ip route` names them.
pub mod protocol {
    /// The kernel, for an address.
    pub const KERNEL: u8 = 2;
    /// The administrator: routes of the configuration.
    pub const STATIC: u8 = 4;
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Table number.
    pub table: u32,
    /// Destination; host bits do not count.
    pub prefix: IpNet,
    /// The lower wins among equal prefixes.
    pub metric: u32,
    /// What to do.
    pub kind: Kind,
    /// MTU of the path where smaller than the port's.
    pub mtu: Option<u16>,
    /// Preferred source of the router's own packets.
    pub source: Option<IpAddr>,
    /// For packets whose old TOS (`tos & 0x1c`) is this; 0 for all. IPv4 only.
    pub tos: u8,
    /// Realms: of sources in the high 16 bits, of destinations in the low ones; 0 is none.
    pub realm: u32,
    /// Who put it there, of [`protocol`] and `/etc/iproute2/rt_protos`; for people.
    pub protocol: u8,
}

/// What a route does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Sends on; several are multipath.
    Via(Vec<Hop>),
    /// Sends on by the nexthop object of this number; as long as there is none, the route does not count.
    Object(u32),
    /// To the router, by an address of this port; of `lo` where none.
    Local(PortId),
    /// To everybody on the link of a port.
    Broadcast(PortId),
    /// To the router, as one of those that have the address.
    Anycast(PortId),
    /// Drops without a word.
    Blackhole,
    /// Refuses: host unreachable.
    Unreachable,
    /// Refuses: administratively prohibited.
    Prohibit,
    /// As if there were no route in this table.
    Throw,
}

/// A next hop.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Hop {
    /// Where it leaves.
    pub out: Out,
    /// The gateway, of the route's family, or of IPv6 for an IPv4 route (RFC 5549); none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Share of flows, 1 to 256.
    pub weight: u16,
    /// The gateway is on the link whether or not a network there has it; for people.
    pub onlink: bool,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Out {
    /// A port.
    Port(PortId),
    /// Of the host, but no port: packets that would leave there are dropped.
    Other(Arc<str>),
}

/// Whether a port's link can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// It can.
    Up,
    /// It was set down: next hops over it do not count.
    Down,
}

/// A change of what is mirrored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Forgets everything that was mirrored, links and MTUs too: a full resynchronisation begins.
    Forget,
    /// Adds a route behind those of its table, prefix, TOS and metric.
    Append(Entry),
    /// Adds a route in front of those.
    Prepend(Entry),
    /// Puts a route in the place of those.
    Replace(Entry),
    /// Puts a route in the place of the first of those; the others stay.
    ReplaceFirst(Entry),
    /// Takes a route away: the first of its table, prefix, TOS and metric that does the same. `Via` without hops is whatever it
    /// does. Of an IPv6 route with several next hops, whose hops are told one by one, only those named.
    Remove(Entry),
    /// Sets the nexthop object of a number.
    Nexthops {
        /// Its number.
        id: u32,
        /// Its next hops, those of its members if it is a group.
        hops: Vec<Hop>,
    },
    /// There is no nexthop object of this number any more.
    NoNexthops {
        /// Its number.
        id: u32,
    },
    /// Adds a rule behind those of its priority.
    Rule(RoutingRule),
    /// Takes the first rule away that is equal.
    NoRule(RoutingRule),
    /// Adds an own address behind those of its port.
    Address(Own),
    /// Takes an own address away.
    NoAddress(Own),
    /// Sets the MTU of a port.
    Mtu {
        /// The port.
        port: PortId,
        /// Its IP MTU.
        mtu: u16,
    },
    /// Sets the state of a port's link.
    Link {
        /// The port.
        port: PortId,
        /// The state.
        state: LinkState,
    },
    /// Sets the groups that the host has joined on a port, in place of those before.
    Groups {
        /// The port.
        port: PortId,
        /// The groups.
        groups: Vec<(Family, u128)>,
    },
    /// Binds a port to the VRF of this table, or to none.
    Vrf {
        /// The port.
        port: PortId,
        /// The table of its VRF.
        table: Option<u32>,
    },
}

impl Entry {
    /// A route of the configuration.
    pub fn of(route: &model::Route) -> Entry {
        let model::Route { table, prefix, ref action, metric, mtu, source, tos, realm } = *route;
        let hop = |hop: &model::Nexthop| Hop {
            out: Out::Port(hop.port),
            gateway: hop.gateway,
            weight: hop.weight,
            onlink: false,
        };
        let kind = match action {
            RouteAction::Via(hops) => Kind::Via(hops.iter().map(hop).collect()),
            RouteAction::Blackhole => Kind::Blackhole,
            RouteAction::Unreachable => Kind::Unreachable,
            RouteAction::Prohibit => Kind::Prohibit,
        };
        Entry { table, prefix, metric, kind, mtu, source, tos, realm, protocol: protocol::STATIC }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        number(self.prefix.network()).0
    }

    /// What is wrong with it, for a router of so many ports.
    pub(super) fn unfit(&self, ports: usize) -> Option<String> {
        let family = self.family();
        let least = if family == Family::V4 { MIN_MTU } else { IPV6_MIN_MTU };
        if self.table == 0 {
            return Some("there is no table 0".into());
        }
        if self.mtu.is_some_and(|mtu| mtu < least) {
            return Some(format!("an MTU below {least}"));
        }
        if self.source.is_some_and(|source| number(source).0 != family) {
            return Some("a source of the other family".into());
        }
        if self.tos != 0 && (family == Family::V6 || self.tos & !DSCP_BITS != 0) {
            return Some("a TOS that it cannot have".into());
        }
        if self.realm != 0 && family == Family::V6 {
            return Some("IPv6 routes have no realms".into());
        }
        match &self.kind {
            Kind::Via(hops) => {
                let is_wrong = |hop: &Hop| hop.gateway.is_some_and(|via| gateway_number(family, via).is_none());
                let wrong = hops.iter().any(is_wrong).then(|| "a gateway of the other family".into());
                wrong.or_else(|| unfit(hops, ports))
            }
            Kind::Local(port) | Kind::Broadcast(port) | Kind::Anycast(port) => no_port(*port, ports),
            _ => None,
        }
    }
}

/// What is wrong with next hops.
pub(super) fn unfit(hops: &[Hop], ports: usize) -> Option<String> {
    if hops.len() > MAX_NEXTHOPS {
        return Some(format!("{} next hops are more than {MAX_NEXTHOPS}", hops.len()));
    }
    if hops.iter().any(|hop| !(1..=256).contains(&hop.weight)) {
        return Some("a weight beyond 1 to 256".into());
    }
    hops.iter().find_map(|hop| match hop.out {
        Out::Port(PortId::NONE) => Some("a next hop without a port".into()),
        Out::Port(port) => no_port(port, ports),
        Out::Other(_) => None,
    })
}

/// What is wrong with a rule.
pub(super) fn unfit_rule(rule: &RoutingRule, ports: usize) -> Option<String> {
    if [rule.from, rule.to].into_iter().flatten().any(|net| number(net.addr()).0 != rule.family) {
        return Some("a network of the other family".into());
    }
    match rule.iif {
        Some(RuleIif::Port(port)) => no_port(port, ports),
        _ => None,
    }
}

/// Whether a port is there, or none is meant.
pub(super) fn no_port(port: PortId, ports: usize) -> Option<String> {
    port.index().filter(|&i| i >= ports).map(|i| format!("there is no port {i}"))
}
