//! Ports' addresses, routes, routing rules, VRFs and neighbours.

use crate::facts::{Family, PortId, number};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Least MTU of IPv4 (RFC 791).
pub const MIN_MTU: u16 = 68;
/// Least MTU of IPv6 (RFC 8200 section 5).
pub const IPV6_MIN_MTU: u16 = 1280;
/// Most routes of both families together.
pub const MAX_ROUTES: usize = 1 << 22;
/// Most VRFs.
pub const MAX_VRFS: usize = 4096;
/// Most next hops of a multipath route.
pub const MAX_NEXTHOPS: usize = 256;

/// What of a port can change at run time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortSettings {
    /// Own addresses with the prefix of their network, in order: the first of a family is the primary one.
    pub addresses: Vec<IpNet>,
    /// Reverse-path filter.
    pub rp_filter: RpFilter,
    /// Its group, for `devgroup`.
    pub group: u32,
    /// The table of the VRF that it is in.
    pub vrf: Option<u32>,
}

/// Where routes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RoutesFrom {
    /// From this configuration.
    #[default]
    File,
    /// From the kernel, in the namespace of the TAPs; rules and neighbours too. The policy itself has none.
    Kernel,
}

/// A VRF: interfaces with a routing table and own addresses for themselves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vrf {
    /// Its name.
    pub name: String,
    /// Its table.
    pub table: u32,
}

/// Reverse-path filter (`rp_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RpFilter {
    /// None.
    #[default]
    Off,
    /// The route back must leave by the port that the packet came in on.
    Strict,
    /// There must be a route back.
    Loose,
}

/// A neighbour that is known beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StaticNeighbour {
    /// On this link.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: [u8; 6],
}

/// Numbers of the kernel's own tables.
pub mod table {
    /// Local and broadcast addresses.
    pub const LOCAL: u32 = 255;
    /// Where routes go that name no table.
    pub const MAIN: u32 = 254;
    /// Empty by default.
    pub const DEFAULT: u32 = 253;
}

/// The bits of the old TOS, which routes and rules look at (`INET_DSCP_LEGACY_TOS_MASK`).
pub const TOS_BITS: u8 = 0x1c;
/// The bits of a TOS byte or traffic class that are not ECN's.
pub const DSCP_BITS: u8 = 0xfc;

/// A route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Table number.
    pub table: u32,
    /// Destination; host bits are zero.
    pub prefix: IpNet,
    /// What to do.
    pub action: RouteAction,
    /// The lower wins among equal prefixes.
    pub metric: u32,
    /// MTU of the path where smaller than the port's.
    pub mtu: Option<u16>,
    /// Preferred source of the router's own packets.
    pub source: Option<IpAddr>,
    /// For packets whose old TOS (`tos & 0x1c`) is this; 0 for all. IPv4 only.
    pub tos: u8,
    /// Realms for `realm`: of sources in the high 16 bits, of destinations in the low ones; 0 is none. IPv4 only.
    pub realm: u32,
}

/// What a route does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RouteAction {
    /// Sends on; several are multipath.
    Via(Vec<Nexthop>),
    /// Drops without a word.
    Blackhole,
    /// Drops with host unreachable / no route.
    Unreachable,
    /// Drops with administratively prohibited.
    Prohibit,
}

/// A next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nexthop {
    /// Where it leaves. Resolved by the parser from the connected networks where the file gives only `via`.
    pub port: PortId,
    /// The gateway; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Share of flows, 1 to 256.
    pub weight: u16,
}

/// The family of the gateway of a route: IPv4 packets may go by IPv6 gateways (RFC 5549), and those have numbers that no IPv4
/// address has.
#[inline]
pub fn gateway_family(route: Family, gateway: u128) -> Family {
    if gateway > u128::from(u32::MAX) { Family::V6 } else { route }
}

/// The number of a gateway for routes of this family; none where it cannot be one.
pub fn gateway_number(route: Family, gateway: IpAddr) -> Option<u128> {
    let (family, number) = number(gateway);
    (gateway_family(route, number) == family).then_some(number)
}

/// A rule of policy routing, as `ip rule`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoutingRule {
    /// Order: lower first.
    pub priority: u32,
    /// Serves this family.
    pub family: Family,
    /// All conditions together are negated.
    pub not: bool,
    /// Source prefix.
    pub from: Option<IpNet>,
    /// Destination prefix.
    pub to: Option<IpNet>,
    /// Incoming port.
    pub iif: Option<RuleIif>,
    /// Mark and mask.
    pub fwmark: Option<(u32, u32)>,
    /// TOS byte or traffic class, and the bits of it that count.
    pub tos: Option<(u8, u8)>,
    /// Of what it finds, routes with a prefix of this length or shorter do not count unless they refuse
    /// (`suppress_prefixlength`).
    pub suppress: Option<u8>,
    /// What then.
    pub action: RuleAction,
}

impl RoutingRule {
    /// The rules that the kernel starts with, by priority and table: local, main, default.
    pub const KERNEL: [(u32, u32); 3] = [(0, table::LOCAL), (32766, table::MAIN), (32767, table::DEFAULT)];

    /// A rule without a condition.
    pub fn bare(priority: u32, family: Family, action: RuleAction) -> RoutingRule {
        let (from, to, iif, fwmark, tos, suppress) = (None, None, None, None, None, None);
        RoutingRule { priority, family, not: false, from, to, iif, fwmark, tos, suppress, action }
    }

    /// The condition of `ip rule add tos`: 0 is none. `ip` may only set bits of the old TOS for IPv4, and the kernel then ignores
    /// the upper three of the DSCP (`fib_dscp_masked_match`).
    pub fn tos(family: Family, tos: u8) -> Option<(u8, u8)> {
        let mask = if family == Family::V4 && tos & !TOS_BITS == 0 { TOS_BITS } else { DSCP_BITS };
        (tos != 0).then_some((tos & mask, mask))
    }

    /// The condition of `ip rule add dscp`, of a number up to 63.
    pub fn dscp(dscp: u8) -> (u8, u8) {
        (dscp << 2, DSCP_BITS)
    }

    /// [`RoutingRule::KERNEL`] for both families.
    pub fn defaults() -> Vec<RoutingRule> {
        let of = |(priority, table)| Family::ALL.map(|f| RoutingRule::bare(priority, f, RuleAction::Lookup(table)));
        RoutingRule::KERNEL.into_iter().flat_map(of).collect()
    }
}

/// The incoming side of a routing rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RuleIif {
    /// This port.
    Port(PortId),
    /// The router's own packets (`iif lo`).
    Local,
}

/// What a routing rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RuleAction {
    /// Look in this table; go on where it has no route.
    Lookup(u32),
    /// Look in the table of the VRF that the packet is in; go on where there is none (`l3mdev`).
    Vrf,
    /// Drop.
    Blackhole,
    /// Drop, host unreachable.
    Unreachable,
    /// Drop, prohibited.
    Prohibit,
}
