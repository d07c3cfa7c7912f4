//! From netlink messages to [`News`]: pure, and safe with whatever bytes come in.
//!
//! A message that cannot be read is an error of its own; it never hides the others of its datagram. What can be read and not
//! be done by the dataplane is [`News::LeftOut`], so that operators learn of it.

use super::news::*;
use super::nexthop;
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, DefaultNla, NetlinkBuffer, Nla, ParseableParametrized};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{self, NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteType,
    RouteVia,
};
use netlink_packet_route::rule::{self, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use sumun_config::facts::Family;
use sumun_config::model::RoutingRule;

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLMSG_OVERRUN`.
const OVERRUN: u16 = 4;
/// `RTM_NEWMULTICAST` and `RTM_DELMULTICAST`.
const MULTICAST: [u16; 2] = [56, 57];
/// `FRA_DSCP` and `FRA_DSCP_MASK`.
const DSCP: u16 = 25;
const DSCP_MASK: u16 = 30;
/// `RTM_NEWROUTE` and the like are even, what takes away is odd.
const FIRST: u16 = 16;
/// Flags of a header: the dump is not of one moment.
const INTERRUPTED: u16 = 0x10;
const REPLACE: u16 = 0x100;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// A message of a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// News.
    News(News),
    /// The dump is complete.
    Done,
    /// The kernel has lost messages.
    Overrun,
    /// The answer to a request: 0 or an `errno`.
    Answer(i32),
    /// It cannot be read.
    Unreadable(String),
}

/// The messages of a datagram. `dump` says that they answer one; the second half of what comes out, that the dump was
/// interrupted.
pub fn datagram(bytes: &[u8], dump: Source, mut each: impl FnMut(Message)) -> Continuity {
    let (mut rest, mut continuity) = (bytes, Continuity::Whole);
    while !rest.is_empty() {
        let Ok(buffer) = NetlinkBuffer::new_checked(rest) else {
            each(Message::Unreadable(format!("a header of {} bytes that says it is longer", rest.len())));
            break;
        };
        let (kind, flags, payload) = (buffer.message_type(), buffer.flags(), buffer.payload());
        if flags & INTERRUPTED != 0 && dump == Source::Dump {
            continuity = Continuity::Interrupted;
        }
        each(message(kind, flags, payload, dump));
        let next = (buffer.length() as usize).next_multiple_of(4).min(rest.len());
        rest = &rest[next..];
    }
    continuity
}

/// Where messages come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// They answer a dump.
    Dump,
    /// They tell what happens.
    Events,
}

/// Whether a dump is of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Continuity {
    /// It is.
    Whole,
    /// Something changed meanwhile.
    Interrupted,
}

fn message(kind: u16, flags: u16, payload: &[u8], dump: Source) -> Message {
    match kind {
        DONE | ERROR => {
            let errno = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            match (kind, dump) {
                (DONE, _) if errno == 0 => Message::Done,
                _ => Message::Answer(errno.checked_neg().unwrap_or(i32::MAX)),
            }
        }
        OVERRUN => Message::Overrun,
        kind if kind < FIRST => Message::News(News::Other),
        kind if MULTICAST.contains(&kind) => Message::News(News::Groups),
        nexthop::NEW | nexthop::DEL => nexthop::decode(kind, payload).map_or_else(unreadable, Message::News),
        _ => match RouteNetlinkMessage::parse_with_param(payload, kind) {
            Ok(message) => Message::News(news(message, flags, dump)),
            Err(error) => unreadable(error),
        },
    }
}

fn unreadable(error: DecodeError) -> Message {
    Message::Unreadable(error.to_string())
}

fn news(message: RouteNetlinkMessage, flags: u16, dump: Source) -> News {
    use RouteNetlinkMessage as M;
    match message {
        // Bridges tell of their ports in messages of their own family.
        M::NewLink(message) if message.header.interface_family != AddressFamily::Unspec => News::Other,
        M::DelLink(message) if message.header.interface_family != AddressFamily::Unspec => News::Other,
        M::NewLink(message) => link(message).map_or(News::Other, News::Link),
        M::DelLink(message) => News::NoLink(message.header.index),
        M::NewAddress(message) => address(&message).map_or(News::Other, News::Address),
        M::DelAddress(message) => address(&message).map_or(News::Other, News::NoAddress),
        M::NewNeighbour(message) => neighbour(&message).map_or(News::Other, News::Neighbour),
        M::DelNeighbour(message) => neighbour(&message).map_or(News::Other, News::NoNeighbour),
        M::NewRoute(message) => match route(&message) {
            Ok(Some(route)) => News::Route(how(flags, dump), route),
            Ok(None) => News::Other,
            Err(left_out) if how(flags, dump) == How::Instead => News::LeftOutInstead(left_out),
            Err(left_out) => News::LeftOut(left_out),
        },
        M::DelRoute(message) => match route(&message) {
            Ok(Some(route)) => News::NoRoute(route),
            Ok(None) => News::Other,
            Err(left_out) => News::NoLeftOut(left_out),
        },
        M::NewRule(message) => match rule(&message) {
            Ok(Some(rule)) => News::Rule(rule),
            Ok(None) => News::Other,
            Err(left_out) => News::LeftOut(left_out),
        },
        M::DelRule(message) => match rule(&message) {
            Ok(Some(rule)) => News::NoRule(rule),
            Ok(None) => News::Other,
            Err(left_out) => News::NoLeftOut(left_out),
        },
        _ => News::Other,
    }
}

/// `fib_table_insert` and `ip6_route_add` hand on the flags of who asked, and the former says what came of it.
fn how(flags: u16, dump: Source) -> How {
    match flags {
        _ if dump == Source::Dump => How::Dumped,
        flags if flags & REPLACE != 0 => How::Instead,
        flags if flags & APPEND != 0 => How::Last,
        flags if flags & EXCL != 0 => How::Alone,
        flags if flags & CREATE != 0 => How::First,
        _ => How::Last,
    }
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn link(message: LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        is_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        master: None,
        vrf: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|&master| master != 0),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Data(InfoData::Vrf(vrf)) = info {
                        link.vrf = vrf.into_iter().find_map(|info| match info {
                            InfoVrf::TableId(table) => Some(table),
                            _ => None,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let family = family(header.family)?;
    let (mut peer, mut local, mut flags) = (None, None, AddressFlags::from_bits_retain(header.flags.bits().into()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link the address itself is the local one, and the network is the peer's.
    let net = net(family, local.or(peer)?, header.prefix_len)?;
    let bad = AddressFlags::Tentative | AddressFlags::Dadfailed;
    let is_tentative = flags.intersects(bad) && !flags.contains(AddressFlags::Optimistic);
    Some(Address { link: header.index, net, is_tentative })
}

/// A prefix, where the address is of the family and the length is one of it.
fn net(family: Family, address: IpAddr, len: u8) -> Option<IpNet> {
    let fits = address.is_ipv4() == (family == Family::V4);
    fits.then(|| IpNet::new(address, len).ok()).flatten()
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    family(message.header.family)?;
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => address = Some(IpAddr::V4(*to)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => address = Some(IpAddr::V6(*to)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    use neighbour::NeighbourState as S;
    let state = match message.header.state {
        S::Permanent => NeighbourState::Permanent,
        S::Reachable => NeighbourState::Reachable,
        S::Stale | S::Delay | S::Probe => NeighbourState::Known,
        S::Failed => NeighbourState::Failed,
        _ => NeighbourState::Nothing,
    };
    Some(Neighbour { link: message.header.ifindex, address: address?, mac, state })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// What the attributes of a next hop say, or those of a route with one next hop.
#[derive(Default)]
struct Parts {
    gateway: Option<IpAddr>,
    link: Option<u32>,
    unfit: Option<Reason>,
}

impl Parts {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Gateway(to) => self.gateway = ip(to),
            RouteAttribute::Oif(link) => self.link = Some(*link),
            RouteAttribute::Via(RouteVia::Inet6(to)) => self.gateway = Some(IpAddr::V6(*to)),
            RouteAttribute::Via(_) => self.unfit = Some(Reason::OtherFamily),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => self.unfit = Some(Reason::Encapsulation),
            _ => {}
        }
    }
}

/// A route; none where it is no business of routers here (a cached one, another family).
fn route(message: &RouteMessage) -> Result<Option<Route>, LeftOut> {
    let header = &message.header;
    let Some(family) = family(header.address_family) else { return Ok(None) };
    if header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let mut table = u32::from(header.table);
    let (mut to, mut metric, mut mtu, mut source, mut realm, mut object) = (None, 0, None, None, 0, None);
    let (mut parts, mut several) = (Parts::default(), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Realm(realms) => realm = u32::from(realms.source) << 16 | u32::from(realms.destination),
            RouteAttribute::NhId(id) => object = Some(*id),
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            attribute => parts.take(attribute),
        }
    }
    let any = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let Some(prefix) = net(family, to.unwrap_or(any), header.destination_prefix_length) else { return Ok(None) };
    let tos = header.tos;
    let left_out = |reason| LeftOut { what: What::Route(table, prefix, tos, metric), reason };
    if header.source_prefix_length != 0 {
        return Err(left_out(Reason::SourceSpecific));
    }
    // The kernel tells what a nexthop object is with each of its routes, too.
    if let Some(reason) = parts.unfit {
        return Err(left_out(reason));
    }
    let link = parts.link.unwrap_or(0);
    let kind = match header.kind {
        RouteType::Unicast => {
            let onlink = header.flags.contains(RouteFlags::Onlink);
            let hops = match several {
                Some(hops) => hops.iter().map(hop).collect::<Result<_, _>>().map_err(left_out)?,
                None => vec![Hop { link, gateway: parts.gateway, weight: 1, onlink }],
            };
            object.map_or(Kind::Via(hops), Kind::Object)
        }
        RouteType::Local => Kind::Local(link),
        RouteType::Broadcast => Kind::Broadcast(link),
        RouteType::Anycast => Kind::Anycast(link),
        RouteType::BlackHole => Kind::Blackhole,
        RouteType::Unreachable => Kind::Unreachable,
        RouteType::Prohibit => Kind::Prohibit,
        RouteType::Throw => Kind::Throw,
        // ff00::/8 of every device; the engine knows what multicast is.
        RouteType::Multicast => return Ok(None),
        _ => return Err(left_out(Reason::RouteType)),
    };
    let protocol = header.protocol.into();
    Ok(Some(Route { table, prefix, metric, kind, mtu, source, tos, realm, protocol }))
}

fn hop(hop: &RouteNextHop) -> Result<Hop, Reason> {
    let mut parts = Parts::default();
    hop.attributes.iter().for_each(|attribute| parts.take(attribute));
    match parts.unfit {
        Some(reason) => Err(reason),
        None => Ok(Hop {
            link: hop.interface_index,
            gateway: parts.gateway,
            weight: u16::from(hop.hops) + 1,
            onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        }),
    }
}

/// The value of an attribute that is a byte.
fn byte(nla: &DefaultNla) -> Option<u8> {
    let mut value = [0];
    (nla.value_len() == 1).then(|| nla.emit_value(&mut value))?;
    Some(value[0])
}

fn rule(message: &RuleMessage) -> Result<Option<Rule>, LeftOut> {
    let header = &message.header;
    let Some(family) = family(header.family) else { return Ok(None) };
    let mut table = u32::from(header.table);
    let mut rule = Rule {
        family,
        priority: 0,
        not: header.flags.contains(RuleFlags::Invert),
        from: None,
        to: None,
        iif: None,
        fwmark: None,
        tos: RoutingRule::tos(family, header.tos),
        suppress: None,
        action: RuleAction::Vrf,
    };
    let (mut mark, mut mask, mut vrf, mut unfit) = (None, None, false, None);
    let (mut dscp, mut dscp_mask) = (None, 0x3f);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => rule.priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Source(address) => rule.from = net(family, *address, header.src_len),
            RuleAttribute::Destination(address) => rule.to = net(family, *address, header.dst_len),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::FwMark(number) => mark = Some(*number),
            RuleAttribute::FwMask(number) => mask = Some(*number),
            RuleAttribute::L3MDev(is) => vrf = *is,
            RuleAttribute::Protocol(_) => {}
            // Negative numbers are none.
            RuleAttribute::SuppressPrefixLen(len) if *len > i32::MAX as u32 => {}
            RuleAttribute::SuppressPrefixLen(len) => rule.suppress = Some((*len).min(u8::MAX.into()) as u8),
            RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::SuppressIfGroup(_) => unfit = Some(Reason::RuleSuppress),
            RuleAttribute::Realm(_) | RuleAttribute::Goto(_) => unfit = Some(Reason::RuleAction),
            RuleAttribute::TunId(0) => {}
            RuleAttribute::Other(nla) if nla.kind() == DSCP => dscp = byte(nla),
            RuleAttribute::Other(nla) if nla.kind() == DSCP_MASK => dscp_mask = byte(nla).unwrap_or(dscp_mask),
            // An attribute of a newer kernel may be a condition too: better no rule than one that holds too often.
            _ => unfit = unfit.or(Some(Reason::RuleCondition)),
        }
    }
    rule.fwmark = match (mark, mask) {
        (None, None | Some(0)) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    if let Some(dscp) = dscp {
        // Six bits, the lowest of which is the third of the byte.
        rule.tos = Some((dscp << 2, dscp_mask << 2)).filter(|(_, mask)| *mask != 0);
    }
    let left_out = |reason| LeftOut { what: What::Rule(family, rule.priority), reason };
    if let Some(reason) = unfit {
        return Err(left_out(reason));
    }
    rule.action = match header.action {
        rule::RuleAction::ToTable if vrf => RuleAction::Vrf,
        rule::RuleAction::ToTable => RuleAction::Lookup(table),
        rule::RuleAction::Blackhole => RuleAction::Blackhole,
        rule::RuleAction::Unreachable => RuleAction::Unreachable,
        rule::RuleAction::Prohibit => RuleAction::Prohibit,
        _ => return Err(left_out(Reason::RuleAction)),
    };
    Ok(Some(rule))
}
