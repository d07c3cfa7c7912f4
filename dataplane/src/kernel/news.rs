//! What the kernel tells about its routing, in the kernel's own numbers, decoded.

use ipnet::IpNet;
use std::net::IpAddr;
use sumun_config::facts::Family;

/// Something that is, has become, or is no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// A device is there, as it is now.
    Link(Link),
    /// A device is gone.
    NoLink(u32),
    /// A device has an address.
    Address(Address),
    /// A device no longer has an address.
    NoAddress(Address),
    /// A neighbour is known, or what is known of it has changed.
    Neighbour(Neighbour),
    /// A neighbour is forgotten.
    NoNeighbour(Neighbour),
    /// A nexthop object is there.
    Nexthop(u32, Nexthop),
    /// A nexthop object is gone.
    NoNexthop(u32),
    /// A route was added.
    Route(How, Route),
    /// A route was taken away.
    NoRoute(Route),
    /// A routing rule was added.
    Rule(Rule),
    /// A routing rule was taken away.
    NoRule(Rule),
    /// Something that exists and that the dataplane cannot do.
    LeftOut(LeftOut),
    /// Such a route, in the place of another one.
    LeftOutInstead(LeftOut),
    /// Something of that kind is gone.
    NoLeftOut(LeftOut),
    /// Which groups are joined has changed.
    Groups,
    /// Nothing that matters here.
    Other,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// It was set up.
    pub is_up: bool,
    /// Its link works.
    pub has_carrier: bool,
    /// Its MTU.
    pub mtu: u32,
    /// The device that it belongs to: a bridge, a bond, a VRF.
    pub master: Option<u32>,
    /// The table, where it is a VRF itself.
    pub vrf: Option<u32>,
}

/// An address of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The device.
    pub link: u32,
    /// The address and the length of its network.
    pub net: IpNet,
    /// Nobody may use it: it is being checked for duplicates, or has failed.
    pub is_tentative: bool,
}

/// A neighbour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The device.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, where known.
    pub mac: Option<[u8; 6]>,
    /// What is known.
    pub state: NeighbourState,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighbourState {
    /// The administrator, or a daemon, has said so.
    Permanent,
    /// It has answered.
    Reachable,
    /// It has answered once, or its MAC was heard.
    Known,
    /// It does not answer.
    Failed,
    /// It is being asked, or needs no MAC.
    Nothing,
}

/// A nexthop object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nexthop {
    /// One next hop.
    Hop(Hop),
    /// Several objects with their weights, 1 to 65,536.
    Group(Vec<(u32, u32)>),
    /// Drops.
    Blackhole,
    /// One that the dataplane cannot do.
    Unfit(Reason),
}

/// A next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The device.
    pub link: u32,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// 1 to 256.
    pub weight: u16,
    /// The gateway is on the link whatever networks there are.
    pub onlink: bool,
}

/// Where a new route stands among those of its table, prefix and metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is one of a dump.
    Dumped,
    /// There was none.
    Alone,
    /// In front of the others.
    First,
    /// Behind the others, or beside them.
    Last,
    /// In their place.
    Instead,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Number of its table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// The lower wins.
    pub metric: u32,
    /// What it does.
    pub kind: Kind,
    /// MTU of its path.
    pub mtu: Option<u32>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// The TOS that it is for; 0 for all.
    pub tos: u8,
    /// Realms.
    pub realm: u32,
    /// Who put it there.
    pub protocol: u8,
}

/// What a route does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Sends on.
    Via(Vec<Hop>),
    /// Sends on by a nexthop object.
    Object(u32),
    /// To the host, by an address of this device.
    Local(u32),
    /// To everybody on the link of this device.
    Broadcast(u32),
    /// To the host, as one of several.
    Anycast(u32),
    /// Drops.
    Blackhole,
    /// Refuses.
    Unreachable,
    /// Refuses.
    Prohibit,
    /// Leaves the table.
    Throw,
}

/// A routing rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// Serves this family.
    pub family: Family,
    /// Order.
    pub priority: u32,
    /// Its conditions are negated.
    pub not: bool,
    /// Source.
    pub from: Option<IpNet>,
    /// Destination.
    pub to: Option<IpNet>,
    /// Name of the incoming device.
    pub iif: Option<String>,
    /// Mark and mask.
    pub fwmark: Option<(u32, u32)>,
    /// TOS byte, and the bits of it that count.
    pub tos: Option<(u8, u8)>,
    /// Prefixes of this length or shorter are not to be found.
    pub suppress: Option<u8>,
    /// What then.
    pub action: RuleAction,
}

/// What a routing rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RuleAction {
    /// Looks in a table.
    Lookup(u32),
    /// Looks in the table of the packet's VRF.
    Vrf,
    /// Drops.
    Blackhole,
    /// Refuses.
    Unreachable,
    /// Refuses.
    Prohibit,
}

/// A route or a rule that the dataplane cannot do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LeftOut {
    /// What it is, so that it is known again when it goes.
    pub what: What,
    /// Why.
    pub reason: Reason,
}

/// Which route or rule is left out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// A route: table, destination, TOS, metric.
    Route(u32, IpNet, u8, u32),
    /// A rule: family, priority.
    Rule(Family, u32),
    /// A nexthop object, with all routes over it.
    Nexthop(u32),
}

/// Why something is left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// MPLS, SRv6 and other tunnels of the route itself.
    Encapsulation,
    /// A gateway of another family, but for IPv6 gateways of IPv4 routes.
    OtherFamily,
    /// A route for packets from certain sources only.
    SourceSpecific,
    /// A type of route that only the kernel has.
    RouteType,
    /// A next hop that forwards for a bridge.
    BridgeNexthop,
    /// Shares of next hops that change with the load.
    ResilientGroup,
    /// A condition of a rule: outgoing device, user, protocol, ports, tunnel, ...
    RuleCondition,
    /// `goto`, `nop`, or realms of a rule.
    RuleAction,
    /// Suppression of what a rule has found, by the group of its device.
    RuleSuppress,
}

impl Reason {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Encapsulation => "routes with an encapsulation (MPLS, SRv6, ...)",
            Reason::OtherFamily => "routes with a gateway of another family",
            Reason::SourceSpecific => "routes for certain sources only",
            Reason::RouteType => "routes of a type that only the kernel has",
            Reason::BridgeNexthop => "nexthop objects of bridges",
            Reason::ResilientGroup => "resilient groups of nexthops",
            Reason::RuleCondition => "rules with a condition that Sumun does not know",
            Reason::RuleAction => "rules with an action that Sumun does not know",
            Reason::RuleSuppress => "rules that suppress what they find by the group of its device",
        }
    }
}
