//! Routes as they are spoken of between the processes.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use sumun_config::facts::Family;

/// What is asked of the routes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RoutesRequest {
    /// A page of them.
    List {
        /// Of this family; of both where there is none.
        family: Option<Family>,
        /// Of this table.
        table: TableName,
        /// Where to begin: none, then what the last page gave as `next`.
        from: Option<RoutePlace>,
    },
    /// Where a packet would go.
    Get(RouteQuestion),
}

/// Which table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TableName {
    /// All of them.
    All,
    /// That of this number.
    Number(u32),
    /// That of a VRF.
    Vrf(String),
}

/// A packet whose way is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteQuestion {
    /// Its destination.
    pub to: IpAddr,
    /// Its source.
    pub from: Option<IpAddr>,
    /// The port that it comes in on; else it is the router's own.
    pub iif: Option<String>,
    /// Its mark.
    pub mark: u32,
    /// Its TOS byte or traffic class.
    pub tos: u8,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RoutesAnswer {
    /// A page of routes.
    List {
        /// The routes.
        routes: Vec<RouteRow>,
        /// Where the next page begins; none after the last.
        next: Option<RoutePlace>,
    },
    /// The way of a packet.
    Way(RouteWay),
}

/// A place among the routes.
pub type RoutePlace = (u8, u32, u128, u8, u8, u32, u32);

/// A route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteRow {
    /// Number of its table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// Its type, as `ip route` names it.
    pub kind: String,
    /// The device of a type without next hops.
    pub device: Option<String>,
    /// Number of its nexthop object.
    pub object: Option<u32>,
    /// Next hops.
    pub hops: Vec<HopRow>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Metric.
    pub metric: u32,
    /// Who put it there (`rtm_protocol`).
    pub protocol: u8,
    /// MTU of the path.
    pub mtu: Option<u16>,
    /// The TOS that it is for; 0 for all.
    pub tos: u8,
    /// Realms.
    pub realm: u32,
    /// No packet takes it, since none of its next hops can be used.
    pub dead: bool,
}

/// A next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HopRow {
    /// Where it leaves.
    pub device: String,
    /// That is no port of the router: packets are dropped.
    pub foreign: bool,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// Share of flows.
    pub weight: u16,
    /// The gateway is on the link whether or not a network there has it.
    pub onlink: bool,
    /// The link is down.
    pub down: bool,
}

/// Where a packet goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteWay {
    /// Type of the route: `unicast`, `local`, `unreachable` and so on; `none` where there is no route.
    pub kind: String,
    /// Where it leaves.
    pub device: Option<String>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The source that the router's own packets have.
    pub source: Option<IpAddr>,
    /// Largest IP packet on the way.
    pub mtu: Option<u16>,
}
