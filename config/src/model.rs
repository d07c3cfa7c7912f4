//! The validated configuration: everything that a TOML file can say, checked and in the engine's terms.
//!
//! [`Config`] has two halves that live differently. [`Appliance`] is what the dataplane process opens at its start: ports,
//! workers, memory; changing it needs a restart. [`Policy`] is what control publishes as a generation and the workers swap
//! between bursts: addresses, routes, neighbours, settings, rules.

mod appliance;
mod names;
mod policy;
mod routing;
mod sysctl;

use serde::{Deserialize, Serialize};

pub use crate::vlan::{TagProtocol, Tags, Vlan};
pub use appliance::{
    Appliance, Attach, Checksums, CopyMode, Device, Host, Idle, Interface, Kind, LocalStack, LogTo, OtherFrames,
    Transmit,
};
pub use names::{Label, MAX_LABEL_NAME, Names};
pub use policy::{Metrics, Policy};
pub use routing::{
    DSCP_BITS, IPV6_MIN_MTU, MAX_NEXTHOPS, MAX_ROUTES, MAX_VRFS, MIN_MTU, Nexthop, PortSettings, Route, RouteAction,
    RoutesFrom, RoutingRule, RpFilter, RuleAction, RuleIif, StaticNeighbour, TOS_BITS, Vrf, gateway_family,
    gateway_number, table,
};
pub use sysctl::Sysctl;

/// A whole configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Opened once.
    pub appliance: Appliance,
    /// Swapped at run time.
    pub policy: Policy,
}
