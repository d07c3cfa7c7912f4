//! `[[routes]]`: static routes, or `[routes]`: where they come from instead. Connected ones follow from the addresses and are not written.
//!
//! A route is read first and finished when all are read: a gateway may be on a network that another route puts on a link.

use super::interfaces::Interfaces;
use super::reader::{Field, Fields};
use super::report::{Sink, nearest};
use super::rules::tos;
use super::values::{broadcast, everything, family_of, family_of_net, host, is_link_local, network, said};
use crate::facts::{Family, PortId};
use crate::model::{Host, IPV6_MIN_MTU, MIN_MTU, Nexthop, Route, RouteAction, RoutesFrom, gateway_number, table};
use crate::rule::matches::realm::REALMS;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use toml::de::DeValue;

/// What the kernel gives IPv6 routes that name no metric (`IP6_RT_PRIO_USER`).
const IPV6_METRIC: u32 = 1024;

/// Names of tables.
const TABLES: [(&str, u32); 3] = [("main", table::MAIN), ("default", table::DEFAULT), ("local", table::LOCAL)];

/// A route as far as it can be understood by itself.
struct Draft<'a> {
    prefix: IpNet,
    prefix_at: Range<usize>,
    table: u32,
    metric: u32,
    mtu: Option<u16>,
    source: Option<IpAddr>,
    tos: u8,
    realm: u32,
    action: Action<'a>,
}

enum Action<'a> {
    Hops(Vec<Hop<'a>>),
    Ends(RouteAction),
}

/// A next hop as written.
struct Hop<'a> {
    via: Option<(IpAddr, Field<'a>)>,
    /// Something was given for `via` or `dev` that cannot be understood.
    broken: bool,
    dev: Option<PortId>,
    onlink: bool,
    weight: u16,
    at: Range<usize>,
}

/// What the file says of routes.
#[derive(Default)]
pub(super) struct Routes {
    pub routes: Vec<Route>,
    pub from: RoutesFrom,
    /// Where it says that they come from the kernel.
    at: Option<Range<usize>>,
}

impl Routes {
    /// Sections that have no place where what they say comes from the kernel; there `ip COMMAND` says it.
    pub fn beside<'a>(&self, field: Option<Field<'a>>, what: &str, command: &str, sink: &mut Sink) -> Vec<Fields<'a>> {
        match (field, &self.at) {
            (Some(field), Some(at)) => {
                sink.conflict(field.key(), format!("{what} come from the kernel"))
                    .help(format!("`ip {command}` in the namespace of [host], or no `from = \"kernel\"`"))
                    .label(at.clone(), "said here");
                Vec::new()
            }
            (field, _) => field.map(|field| field.tables(sink)).unwrap_or_default(),
        }
    }
}

/// Reads `[[routes]]` or `[routes]`.
pub(super) fn read(field: Option<Field>, host: Option<&Host>, interfaces: &Interfaces, sink: &mut Sink) -> Routes {
    match field {
        Some(field) if field.node.get_ref().is_table() => source(&field, host, sink),
        field => {
            let sections = field.map(|field| field.tables(sink)).unwrap_or_default();
            Routes { routes: configured(sections, interfaces, sink), ..Routes::default() }
        }
    }
}

/// `[routes]`: where they come from.
fn source(field: &Field, host: Option<&Host>, sink: &mut Sink) -> Routes {
    let Some(mut fields) = field.table("[routes]", "`from = \"kernel\"`", sink) else { return Routes::default() };
    let given = fields.require("from", "from = \"kernel\"", sink);
    let from = given.and_then(|field| field.choice(&[("kernel", RoutesFrom::Kernel)], sink));
    fields.finish(sink);
    if let (Some(given), Some(_), None) = (given, from, host) {
        sink.conflict(given.at(), "without [host] there is no kernel to take routes from")
            .help("add a section `[host]`: every interface then has a TAP in the kernel, and those have routes");
    }
    Routes { from: from.unwrap_or_default(), at: given.map(|field| field.at()), routes: Vec::new() }
}

/// The sections `[[routes]]`.
fn configured(sections: Vec<Fields>, interfaces: &Interfaces, sink: &mut Sink) -> Vec<Route> {
    let drafts: Vec<Draft> = sections.into_iter().filter_map(|fields| draft(fields, interfaces, sink)).collect();
    let links = links(&drafts, interfaces);
    let mut seen: HashMap<(u32, IpNet, u8, u32), Range<usize>> = HashMap::with_capacity(drafts.len());
    let mut routes = Vec::with_capacity(drafts.len());
    for draft in drafts {
        if let Some(first) = seen.insert((draft.table, draft.prefix, draft.tos, draft.metric), draft.prefix_at.clone())
        {
            sink.conflict(draft.prefix_at.clone(), format!("the route to {} is given twice", draft.prefix))
                .help("another `metric` or `table`, or one route with `nexthops`")
                .label(first, "first given here");
        }
        let family = family_of_net(draft.prefix);
        let action = match draft.action {
            Action::Ends(action) => action,
            Action::Hops(hops) => RouteAction::Via(
                hops.into_iter()
                    .filter_map(|hop| resolve(hop, family, draft.table, &links, interfaces, sink))
                    .collect(),
            ),
        };
        let Draft { table, prefix, metric, mtu, source, tos, realm, .. } = draft;
        routes.push(Route { table, prefix, action, metric, mtu, source, tos, realm });
    }
    routes
}

/// Reads one route.
fn draft<'a>(mut fields: Fields<'a>, interfaces: &Interfaces, sink: &mut Sink) -> Option<Draft<'a>> {
    let to = fields.require("to", "to = \"10.0.0.0/8\"", sink);
    let source_field = fields.take("source");
    let source = source_field.and_then(|field| host(&field, "192.168.1.1", sink));
    let table = fields.take("table").map_or(Some(table::MAIN), |field| table_number(&field, sink));
    let metric = fields.take("metric").and_then(|field| field.integer(0..=u32::MAX.into(), sink));
    let mtu_field = fields.take("mtu");
    let mtu: Option<u16> = mtu_field.and_then(|field| field.integer(u64::from(MIN_MTU)..=65535, sink));
    let realm_field = fields.take("realm");
    let realm = realm_field.and_then(|field| realm(&field, sink)).unwrap_or(0);
    let tos_field = fields.take("tos");
    let tos = tos_field.and_then(|field| tos(&field, sink)).unwrap_or(0);
    let (action, family_hint) = action(&mut fields, interfaces, sink);
    let prefix = to.and_then(|to| {
        let text = to.string("a network, such as \"10.0.0.0/8\", or \"default\"", sink)?;
        if text != "default" {
            if nearest(text, &["default"]).is_some() {
                to.refuse("did you mean \"default\"?", sink);
                return None;
            }
            return network(&to, sink);
        }
        let family = family_hint.or(source.map(family_of));
        if family.is_none() {
            sink.error(to.at(), "it cannot be told of which family this default route is")
                .help("\"0.0.0.0/0\" or \"::/0\"");
        }
        family.map(everything)
    });
    fields.finish(sink);
    let (to, prefix) = (to?, prefix?);
    let family = family_of_net(prefix);
    if let (Some(source), Some(field)) = (source, source_field) {
        check_source(source, family, table.and_then(|table| interfaces.vrf_of(table)), &field, interfaces, sink);
    }
    if let (Some(mtu), Some(field), Family::V6) = (mtu, mtu_field, family)
        && mtu < IPV6_MIN_MTU
    {
        sink.error(field.at(), format!("IPv6 needs an MTU of 1280, but this is {mtu}")).help("1280 or more");
    }
    if let (Some(field), Family::V6) = (realm_field, family) {
        sink.error(field.key(), "IPv6 routes have no realms").help("remove `realm`");
    }
    if let (Some(field), Family::V6) = (tos_field, family) {
        sink.error(field.key(), "IPv6 routes are for any TOS")
            .help("remove `tos`, or give the route a table that a rule asks");
    }
    let (table, action) = (table?, action?);
    let metric = match (family, metric.unwrap_or(0)) {
        (Family::V6, 0) => IPV6_METRIC,
        (_, metric) => metric,
    };
    Some(Draft { prefix, prefix_at: to.at(), table, metric, mtu, source, tos, realm, action })
}

/// `realm`: one of destinations, or one of sources and one of destinations with `/` between, as `ip route` reads it.
fn realm(field: &Field, sink: &mut Sink) -> Option<u32> {
    let accepts = format!("a number up to 65535 or a name of {}, or two with `/` between", REALMS.file);
    let text = match field.node.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(_) => return field.integer(0..=u16::MAX.into(), sink),
        _ => {
            field.mistyped("a realm", &accepts, sink);
            return None;
        }
    };
    let names = REALMS.names();
    let one = |part: &str| {
        let named = names.iter().find(|(_, name)| name == part).map(|(number, _)| *number);
        named.or_else(|| part.parse().ok()).filter(|realm| *realm <= u16::MAX.into())
    };
    let (from, to) = text.split_once('/').unwrap_or(("0", &text));
    let found = one(from).zip(one(to)).map(|(from, to)| from << 16 | to);
    if found.is_none() {
        field.refuse(accepts, sink);
    }
    found
}

/// `source`: one of the router's own addresses.
fn check_source(
    source: IpAddr,
    family: Family,
    vrf: Option<u32>,
    field: &Field,
    interfaces: &Interfaces,
    sink: &mut Sink,
) {
    if family_of(source) != family {
        sink.conflict(field.at(), format!("{source} cannot be the source of an {} route", said(family)))
            .help(format!("an {} address of the router", said(family)));
    } else if !interfaces.owns(source, vrf) {
        let where_ = if vrf.is_some() { " in this VRF" } else { "" };
        sink.conflict(field.at(), format!("{source} is not an address of the router{where_}"))
            .help("an address of one of the interfaces");
    }
}

/// Types of routes as `ip route` names them.
#[derive(Clone, Copy)]
enum Kind {
    Unicast,
    Blackhole,
    Unreachable,
    Prohibit,
}

const KINDS: [(&str, Kind); 4] = [
    ("unicast", Kind::Unicast),
    ("blackhole", Kind::Blackhole),
    ("unreachable", Kind::Unreachable),
    ("prohibit", Kind::Prohibit),
];

/// What the route does, and the family that its gateway shows.
fn action<'a>(
    fields: &mut Fields<'a>,
    interfaces: &Interfaces,
    sink: &mut Sink,
) -> (Option<Action<'a>>, Option<Family>) {
    let kind = fields.take("type").map(|field| (field, field.choice(&KINDS, sink)));
    let direct = hop(fields, interfaces, sink);
    let several = fields.take("nexthops");
    if let (Some(direct), Some(several)) = (&direct, several) {
        sink.conflict(direct.at.clone(), "a route has either `nexthops` or `via` and `dev`")
            .help("move this into `nexthops`")
            .label(several.key(), "given here");
    }
    let hops = match several {
        Some(field) => Some(nexthops(&field, interfaces, sink)),
        None => direct.map(|hop| vec![hop]),
    };
    let family = hops.iter().flatten().find_map(|hop| hop.via.map(|(via, _)| family_of(via)));
    let action = match (kind, hops) {
        (Some((_, None)), _) => None,
        (None | Some((_, Some(Kind::Unicast))), Some(hops)) => Some(Action::Hops(hops)),
        (None | Some((_, Some(Kind::Unicast))), None) => {
            sink.conflict(fields.at.clone(), "this route goes nowhere")
                .help("add `via`, `dev`, `nexthops`, or `type = \"blackhole\"`");
            None
        }
        (Some((_, Some(Kind::Blackhole))), None) => Some(Action::Ends(RouteAction::Blackhole)),
        (Some((_, Some(Kind::Unreachable))), None) => Some(Action::Ends(RouteAction::Unreachable)),
        (Some((_, Some(Kind::Prohibit))), None) => Some(Action::Ends(RouteAction::Prohibit)),
        (Some((field, Some(_))), Some(_)) => {
            sink.conflict(field.at(), "a route of this type has no next hop").help("remove `type`, or the next hop");
            None
        }
    };
    (action, family)
}

/// `nexthops`: one or more.
fn nexthops<'a>(field: &Field<'a>, interfaces: &Interfaces, sink: &mut Sink) -> Vec<Hop<'a>> {
    let example = "an array, such as `nexthops = [{ via = \"192.0.2.1\" }, { via = \"192.0.2.2\", weight = 2 }]`";
    let Some(list) = field.list(example, sink) else { return Vec::new() };
    if list.is_empty() {
        sink.error(field.at(), "`nexthops` is empty").help(example);
    }
    let mut hops = Vec::with_capacity(list.len());
    for element in list {
        let Some(mut fields) = element.table("a next hop", example, sink) else { continue };
        let weight = fields.take("weight").and_then(|field| field.integer(1..=256, sink));
        match hop(&mut fields, interfaces, sink) {
            Some(hop) => hops.push(Hop { weight: weight.unwrap_or(1), ..hop }),
            None => {
                sink.conflict(fields.at.clone(), "this next hop goes nowhere")
                    .help("add `via = \"192.0.2.1\"` or `dev = \"wan0\"`");
            }
        }
        fields.finish(sink);
    }
    hops
}

/// `via`, `dev` and `onlink`, where one of the first two is given.
fn hop<'a>(fields: &mut Fields<'a>, interfaces: &Interfaces, sink: &mut Sink) -> Option<Hop<'a>> {
    let via_field = fields.take("via");
    let dev_field = fields.take("dev");
    let onlink_field = fields.take("onlink");
    let onlink = onlink_field.and_then(|field| field.boolean(sink)).unwrap_or(false);
    let via = via_field.map(|field| host(&field, "192.0.2.1", sink).map(|via| (via, field)));
    let dev = dev_field.map(|field| interfaces.find(&field, sink));
    if let Some(field) = onlink_field
        && onlink
        && (via.is_none() || dev.is_none())
    {
        sink.conflict(field.key(), "`onlink` needs both `via` and `dev`")
            .help("it says that the gateway is on that link although no network there has it");
    }
    let at = via_field.or(dev_field)?.at();
    let broken = matches!(via, Some(None)) || matches!(dev, Some(None));
    Some(Hop { via: via.flatten(), broken, dev: dev.flatten(), onlink, weight: 1, at })
}

/// The networks that are on a link: of addresses, and of routes without a gateway in the main table or a VRF's.
fn links(drafts: &[Draft], interfaces: &Interfaces) -> Vec<(IpNet, PortId)> {
    let mut links: Vec<_> = interfaces.addresses.iter().map(|(port, net, _)| (net.trunc(), *port)).collect();
    for draft in drafts.iter().filter(|draft| draft.table == table::MAIN || interfaces.vrf_of(draft.table).is_some()) {
        let Action::Hops(hops) = &draft.action else { continue };
        let direct = hops.iter().filter(|hop| hop.via.is_none() && !hop.broken);
        links.extend(direct.filter_map(|hop| Some((draft.prefix, hop.dev?))));
    }
    // The longest prefix first, so that the first hit is the route that the kernel would take.
    links.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    links
}

/// Finds the port of a next hop, and checks what the kernel checks of a gateway (`fib_check_nh`).
fn resolve(
    hop: Hop,
    family: Family,
    table: u32,
    links: &[(IpNet, PortId)],
    interfaces: &Interfaces,
    sink: &mut Sink,
) -> Option<Nexthop> {
    if hop.broken {
        return None;
    }
    let Some((via, field)) = hop.via else {
        return Some(Nexthop { port: hop.dev?, gateway: None, weight: hop.weight });
    };
    let weight = hop.weight;
    let vrf = interfaces.vrf_of(table);
    if gateway_number(family, via).is_none() {
        sink.conflict(field.at(), format!("{via} cannot be the gateway of an {} route", said(family)))
            .help(format!("an {} address", said(family)));
        return None;
    }
    if interfaces.owns(via, vrf) && !is_link_local(via) {
        sink.conflict(field.at(), format!("{via} is the router's own address")).help("the address of another router");
        return None;
    }
    if let Some(port) = hop.dev
        && (hop.onlink || is_link_local(via))
    {
        return Some(Nexthop { port, gateway: Some(via), weight });
    }
    if is_link_local(via) {
        sink.conflict(field.at(), format!("{via} is on every link")).help("add `dev` to say on which");
        return None;
    }
    // A route may lead into another VRF, but has to say by which interface.
    let is_meant = |port: PortId| hop.dev.map_or_else(|| interfaces.vrf(port) == vrf, |dev| dev == port);
    let link = links.iter().find(|(net, port)| net.contains(&via) && is_meant(*port));
    let Some((net, port)) = link else {
        let others: Vec<String> = interfaces
            .addresses
            .iter()
            .filter(|(port, net, _)| family_of_net(*net) == family_of(via) && is_meant(*port))
            .map(|(port, net, _)| format!("{} ({})", net.trunc(), interfaces.name(*port)))
            .collect();
        let where_ = hop.dev.map_or("any interface", |port| interfaces.name(port));
        let help = if others.is_empty() {
            format!("there is no {} address on {where_}", said(family_of(via)))
        } else {
            format!("an address within {}", others.join(" or "))
        };
        sink.conflict(field.at(), format!("the gateway {via} is on no network of {where_}")).help(help);
        return None;
    };
    if broadcast(*net) == Some(via) {
        sink.conflict(field.at(), format!("{via} is the broadcast address of {net}")).help("the address of a router");
        return None;
    }
    Some(Nexthop { port: *port, gateway: Some(via), weight })
}

/// A table by name or number.
pub(super) fn table_number(field: &Field, sink: &mut Sink) -> Option<u32> {
    let accepts = "\"main\", \"default\", \"local\" or a number from 1 to 4294967295";
    match field.node.get_ref() {
        toml::de::DeValue::String(text) => {
            let number = text.parse::<u32>().ok().filter(|number| *number != 0);
            let found = number.or_else(|| TABLES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number));
            if found.is_none() {
                let near = nearest(text, &TABLES.map(|(name, _)| name));
                let help = near.map_or(accepts.to_string(), |name| format!("did you mean \"{name}\"?"));
                field.refuse(help, sink);
            }
            found
        }
        toml::de::DeValue::Integer(_) => field.integer(1..=u32::MAX.into(), sink),
        _ => {
            field.mistyped("the name or number of a table", accepts, sink);
            None
        }
    }
}
