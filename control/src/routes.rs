//! `sumun routes`: the routes in force, with the words and in the format of `ip route`.
//!
//! ```text
//! sumun routes                              the main table of both families
//! sumun routes list table 100               another one; `table all`, `table local`, `vrf blue`
//! sumun routes get 192.0.2.1 from 10.0.0.5 iif lan0 mark 7
//! ```

use crate::ask::{Control, astray};
use anyhow::bail;
use clap::Args;
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use sumun_config::facts::{Family, LOOPBACK};
use sumun_config::model::table;
use sumun_dataplane::protocol::{
    HopRow, Request, Response, RouteQuestion, RouteRow, RouteWay, RoutesAnswer, RoutesRequest, TableName,
};

/// The command line after `sumun routes`.
#[derive(Args)]
pub struct Options {
    /// `list [table NUMBER|NAME|all] [vrf NAME]`, or `get ADDRESS [from ADDRESS] [iif INTERFACE] [mark NUMBER] [tos NUMBER]`
    #[arg(value_name = "WORDS")]
    words: Vec<String>,
    #[command(flatten)]
    family: crate::FamilyArgs,
    /// For programs, one object a line
    #[arg(long)]
    json: bool,
}

/// Tables by the names that iproute2 has for them.
const TABLES: [(&str, u32); 3] = [("main", table::MAIN), ("local", table::LOCAL), ("default", table::DEFAULT)];

/// What `ip route` calls who put a route there, where the file of these names is as it comes (`rt_protos`).
const PROTOCOLS: [(u8, &str); 20] = [
    (1, "redirect"),
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (8, "gated"),
    (9, "ra"),
    (10, "mrt"),
    (11, "zebra"),
    (12, "bird"),
    (13, "dnrouted"),
    (14, "xorp"),
    (15, "ntk"),
    (16, "dhcp"),
    (18, "keepalived"),
    (42, "babel"),
    (186, "bgp"),
    (187, "isis"),
    (188, "ospf"),
    (189, "rip"),
    (192, "eigrp"),
];

/// Does what the command line says.
pub fn run(options: &Options, run_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let asked = match parse(&words, options.family.family()) {
        Ok(asked) => asked,
        Err(mistake) => {
            eprintln!("sumun: {mistake}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut control = Control::connect(run_dir)?;
    let is_all = matches!(asked, RoutesRequest::List { table: TableName::All, .. });
    let mut next = Some(asked);
    while let Some(request) = next.take() {
        match control.dataplane(Request::Routes(request.clone()))? {
            Response::Routes(RoutesAnswer::List { routes, next: further }) => {
                for route in &routes {
                    match options.json {
                        true => writeln!(out, "{}", as_json(route))?,
                        false => writeln!(out, "{}", line(route, is_all))?,
                    }
                }
                if let (RoutesRequest::List { family, table, .. }, Some(from)) = (request, further) {
                    next = Some(RoutesRequest::List { family, table, from: Some(from) });
                }
            }
            Response::Routes(RoutesAnswer::Way(way)) => {
                let RoutesRequest::Get(question) = request else { bail!("an answer to another question came") };
                if way.kind == "none" {
                    bail!("there is no route to {}", question.to);
                }
                match options.json {
                    true => writeln!(out, "{}", way_as_json(&question, &way))?,
                    false => writeln!(out, "{}", way_line(&question, &way))?,
                }
            }
            other => bail!(astray(&other)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the words ask.
fn parse(words: &[&str], family: Option<Family>) -> Result<RoutesRequest, String> {
    match words {
        ["get", to, rest @ ..] => get(to, rest).map(RoutesRequest::Get),
        ["get"] => Err("get the route to which address?".into()),
        [] => Ok(RoutesRequest::List { family, table: TableName::Number(table::MAIN), from: None }),
        ["list" | "show", rest @ ..] => list(rest, family),
        rest => list(rest, family),
    }
}

fn list(words: &[&str], family: Option<Family>) -> Result<RoutesRequest, String> {
    let table = match words {
        [] => TableName::Number(table::MAIN),
        ["vrf", name] => TableName::Vrf(name.to_string()),
        ["table", "all"] => TableName::All,
        ["table", name] => {
            let named = TABLES.iter().find(|(known, _)| known == name).map(|(_, number)| *number);
            let number = named.or_else(|| name.parse().ok()).filter(|&number| number != 0);
            TableName::Number(number.ok_or_else(|| {
                format!("there is no table {name}: a table is a number from 1, main, local, default or all")
            })?)
        }
        [other, ..] => {
            return Err(format!("what is {other:?}? `list` may be followed by `table NUMBER` or `vrf NAME`"));
        }
    };
    Ok(RoutesRequest::List { family, table, from: None })
}

fn get(to: &str, mut words: &[&str]) -> Result<RouteQuestion, String> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no address, such as 192.0.2.1"));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let mut question = RouteQuestion { to: address(to)?, from: None, iif: None, mark: 0, tos: 0 };
    while let [word, value, rest @ ..] = words {
        match *word {
            "from" => question.from = Some(address(value)?),
            "iif" => question.iif = Some(value.to_string()),
            "mark" => question.mark = number(value).ok_or_else(|| format!("{value:?} is no mark, such as 7 or 0x7"))?,
            "tos" => {
                let tos = number(value).and_then(|tos| u8::try_from(tos).ok());
                question.tos = tos.ok_or_else(|| format!("{value:?} is no TOS, such as 16 or 0x10"))?;
            }
            other => return Err(format!("what is {other:?}? An address may be followed by from, iif, mark and tos")),
        }
        words = rest;
    }
    match words {
        [] if question.from.is_some_and(|from| from.is_ipv4() != question.to.is_ipv4()) => {
            Err("the two addresses are of different families".into())
        }
        [] => Ok(question),
        [word, ..] => Err(format!("a value is missing behind {word:?}")),
    }
}

/// The name of a table, as `ip route` prints it.
fn table_name(number: u32) -> String {
    let named = TABLES.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| name.to_string())
}

fn protocol_name(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string(), |(_, name)| name.to_string())
}

fn destination(row: &RouteRow) -> String {
    let (len, most) = (row.prefix.prefix_len(), row.prefix.max_prefix_len());
    match len {
        0 => "default".into(),
        len if len == most => row.prefix.addr().to_string(),
        _ => row.prefix.to_string(),
    }
}

/// The scope that the kernel gives such a route; none where it is the world's.
fn scope(row: &RouteRow) -> Option<&'static str> {
    let is_v4 = row.prefix.addr().is_ipv4();
    match row.kind.as_str() {
        "local" if is_v4 => Some("host"),
        "broadcast" | "anycast" if is_v4 => Some("link"),
        "unicast" if is_v4 && row.hops.len() == 1 && row.hops[0].gateway.is_none() => Some("link"),
        _ => None,
    }
}

/// A gateway towards an address.
fn gateway(to: IpAddr, via: IpAddr) -> String {
    let family = if to.is_ipv4() && via.is_ipv6() { "inet6 " } else { "" };
    format!("via {family}{via}")
}

/// A route on a line; a further line for each of several next hops.
fn line(row: &RouteRow, with_table: bool) -> String {
    let is_v4 = row.prefix.addr().is_ipv4();
    let mut line = String::new();
    let mut word = |text: String| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&text);
    };
    if row.kind != "unicast" {
        word(row.kind.clone());
    }
    word(destination(row));
    if let Some(id) = row.object {
        word(format!("nhid {id}"));
    }
    if row.tos != 0 {
        word(format!("tos {:#04x}", row.tos));
    }
    let one = if row.hops.len() == 1 { row.hops.first() } else { None };
    if let Some(hop) = one {
        if let Some(via) = hop.gateway {
            word(gateway(row.prefix.addr(), via));
        }
        word(format!("dev {}", hop.device));
    } else if let Some(device) = &row.device {
        word(format!("dev {device}"));
    } else if !is_v4 && row.hops.is_empty() && row.object.is_none() {
        // What refuses is on the loopback device for IPv6.
        word(format!("dev {LOOPBACK}"));
    }
    if with_table && row.table != table::MAIN {
        word(format!("table {}", table_name(row.table)));
    }
    word(format!("proto {}", protocol_name(row.protocol)));
    if let Some(scope) = scope(row) {
        word(format!("scope {scope}"));
    }
    if let Some(source) = row.source {
        word(format!("src {source}"));
    }
    if row.metric != 0 || !is_v4 {
        word(format!("metric {}", row.metric));
    }
    match one {
        Some(hop) => flags(hop).into_iter().for_each(|flag| word(flag.into())),
        None if row.dead => word("dead".into()),
        None => {}
    }
    match (row.realm >> 16, row.realm & 0xffff) {
        (0, 0) => {}
        (0, to) => word(format!("realm {to}")),
        (from, to) => word(format!("realms {from}/{to}")),
    }
    if let Some(mtu) = row.mtu {
        word(format!("mtu {mtu}"));
    }
    if !is_v4 {
        word("pref medium".into());
    }
    if row.hops.len() > 1 {
        for hop in &row.hops {
            let _ = write!(line, "\n\tnexthop ");
            if let Some(via) = hop.gateway {
                let _ = write!(line, "{} ", gateway(row.prefix.addr(), via));
            }
            let _ = write!(line, "dev {} weight {}", hop.device, hop.weight);
            for flag in flags(hop) {
                let _ = write!(line, " {flag}");
            }
        }
    }
    line
}

/// What is said of a next hop. `not-a-port` is not `ip route`'s.
fn flags(hop: &HopRow) -> Vec<&'static str> {
    let flags = [(hop.down, "dead"), (hop.onlink, "onlink"), (hop.down, "linkdown"), (hop.foreign, "not-a-port")];
    flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect()
}

fn as_json(row: &RouteRow) -> serde_json::Value {
    let hop = |hop: &HopRow| {
        serde_json::json!({
            "dev": hop.device, "gateway": hop.gateway, "weight": hop.weight, "flags": flags(hop),
        })
    };
    serde_json::json!({
        "type": row.kind, "dst": destination(row), "table": table_name(row.table), "nhid": row.object, "dev": row.device,
        "nexthops": row.hops.iter().map(hop).collect::<Vec<_>>(), "protocol": protocol_name(row.protocol),
        "scope": scope(row), "prefsrc": row.source, "metric": row.metric, "mtu": row.mtu, "tos": row.tos, "realm": row.realm,
        "dead": row.dead,
    })
}

/// The way of a packet, as `ip route get` prints it.
fn way_line(question: &RouteQuestion, way: &RouteWay) -> String {
    let mut line = String::new();
    if way.kind != "unicast" {
        let _ = write!(line, "{} ", way.kind);
    }
    let _ = write!(line, "{}", question.to);
    if let Some(from) = question.from {
        let _ = write!(line, " from {from}");
    }
    if let Some(via) = way.gateway {
        let _ = write!(line, " {}", gateway(question.to, via));
    }
    if let Some(device) = &way.device {
        let _ = write!(line, " dev {device}");
    }
    if let (Some(source), None) = (way.source, question.from) {
        let _ = write!(line, " src {source}");
    }
    if question.mark != 0 {
        let _ = write!(line, " mark {:#x}", question.mark);
    }
    if let Some(mtu) = way.mtu {
        let _ = write!(line, " mtu {mtu}");
    }
    if let Some(iif) = &question.iif {
        let _ = write!(line, " iif {iif}");
    }
    line
}

fn way_as_json(question: &RouteQuestion, way: &RouteWay) -> serde_json::Value {
    serde_json::json!({
        "type": way.kind, "dst": question.to, "from": question.from, "iif": question.iif, "mark": question.mark,
        "gateway": way.gateway, "dev": way.device, "prefsrc": way.source, "mtu": way.mtu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prefix: &str, kind: &str, hops: Vec<HopRow>) -> RouteRow {
        RouteRow {
            table: table::MAIN,
            prefix: prefix.parse().unwrap(),
            kind: kind.into(),
            device: None,
            object: None,
            hops,
            source: None,
            metric: 0,
            protocol: 4,
            mtu: None,
            tos: 0,
            realm: 0,
            dead: false,
        }
    }

    fn hop(device: &str, gateway: &str) -> HopRow {
        let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
        HopRow { device: device.into(), foreign: false, gateway, weight: 1, onlink: false, down: false }
    }

    /// The lines are those of iproute2 6.1 for the same routes.
    #[test]
    fn routes_read_as_ip_prints_them() {
        let cases = [
            (
                RouteRow { protocol: 12, metric: 32, ..row("0.0.0.0/0", "unicast", vec![hop("wan0", "192.0.2.1")]) },
                "default via 192.0.2.1 dev wan0 proto bird metric 32",
            ),
            (
                RouteRow {
                    protocol: 2,
                    source: Some("10.0.0.1".parse().unwrap()),
                    ..row("10.0.0.0/24", "unicast", vec![hop("lan0", "")])
                },
                "10.0.0.0/24 dev lan0 proto kernel scope link src 10.0.0.1",
            ),
            (
                RouteRow {
                    table: table::LOCAL,
                    protocol: 2,
                    device: Some("lan0".into()),
                    source: Some("10.0.0.1".parse().unwrap()),
                    ..row("10.0.0.1/32", "local", vec![])
                },
                "local 10.0.0.1 dev lan0 table local proto kernel scope host src 10.0.0.1",
            ),
            (
                RouteRow { metric: 1024, ..row("2001:db8:8::/48", "unreachable", vec![]) },
                "unreachable 2001:db8:8::/48 dev lo proto static metric 1024 pref medium",
            ),
            (row("198.51.100.0/24", "blackhole", vec![]), "blackhole 198.51.100.0/24 proto static"),
            (
                RouteRow {
                    metric: 1024,
                    mtu: Some(1400),
                    ..row("2001:db8:7::/48", "unicast", vec![HopRow { onlink: true, ..hop("wan0", "fe80::1") }])
                },
                "2001:db8:7::/48 via fe80::1 dev wan0 proto static metric 1024 onlink mtu 1400 pref medium",
            ),
            (
                RouteRow { tos: 8, ..row("10.9.7.0/24", "unicast", vec![hop("wan0", "10.1.0.8")]) },
                "10.9.7.0/24 tos 0x08 via 10.1.0.8 dev wan0 proto static",
            ),
            (
                row("198.18.0.0/15", "unicast", vec![hop("wan0", "fe80::1")]),
                "198.18.0.0/15 via inet6 fe80::1 dev wan0 proto static",
            ),
            (
                RouteRow {
                    object: Some(7),
                    ..row(
                        "203.0.113.0/24",
                        "unicast",
                        vec![HopRow { weight: 2, ..hop("wan0", "192.0.2.1") }, HopRow { down: true, ..hop("dmz", "") }],
                    )
                },
                "203.0.113.0/24 nhid 7 proto static\n\tnexthop via 192.0.2.1 dev wan0 weight 2\n\tnexthop dev dmz \
                 weight 1 dead linkdown",
            ),
        ];
        for (row, expected) in cases {
            assert_eq!(line(&row, true), expected);
        }
    }

    #[test]
    fn words_are_those_of_ip_route() {
        let main = RoutesRequest::List { family: None, table: TableName::Number(254), from: None };
        assert_eq!(parse(&[], None), Ok(main.clone()));
        assert_eq!(parse(&["list", "table", "main"], None), Ok(main));
        let of = |words: &[&str]| match parse(words, Some(Family::V6)) {
            Ok(RoutesRequest::List { family: Some(Family::V6), table, from: None }) => table,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&["table", "100"]), TableName::Number(100));
        assert_eq!(of(&["show", "table", "all"]), TableName::All);
        assert_eq!(of(&["vrf", "blue"]), TableName::Vrf("blue".into()));
        let question = RouteQuestion {
            to: "192.0.2.1".parse().unwrap(),
            from: Some("10.0.0.5".parse().unwrap()),
            iif: Some("lan0".into()),
            mark: 7,
            tos: 0x10,
        };
        let words = ["get", "192.0.2.1", "from", "10.0.0.5", "iif", "lan0", "mark", "0x7", "tos", "16"];
        assert_eq!(parse(&words, None), Ok(RoutesRequest::Get(question)));
        for (words, part) in [
            (&["list", "tabel"][..], "what is \"tabel\"?"),
            (&["table", "0"], "there is no table 0"),
            (&["get"], "which address"),
            (&["get", "lan0"], "no address"),
            (&["get", "192.0.2.1", "from"], "a value is missing"),
            (&["get", "192.0.2.1", "from", "::1"], "different families"),
            (&["get", "192.0.2.1", "mark", "x"], "no mark"),
            (&["get", "192.0.2.1", "tos", "256"], "no TOS"),
        ] {
            let mistake = parse(words, None).unwrap_err();
            assert!(mistake.contains(part), "{mistake}");
        }
    }

    #[test]
    fn ways_read_as_ip_route_get_prints_them() {
        let question = |from: Option<&str>, iif: Option<&str>| RouteQuestion {
            to: "192.0.2.77".parse().unwrap(),
            from: from.map(|from| from.parse().unwrap()),
            iif: iif.map(String::from),
            mark: 0,
            tos: 0,
        };
        let way = RouteWay {
            kind: "unicast".into(),
            device: Some("wan0".into()),
            gateway: Some("203.0.113.1".parse().unwrap()),
            source: Some("203.0.113.2".parse().unwrap()),
            mtu: None,
        };
        assert_eq!(way_line(&question(None, None), &way), "192.0.2.77 via 203.0.113.1 dev wan0 src 203.0.113.2");
        assert_eq!(
            way_line(&question(Some("10.0.0.5"), Some("lan0")), &way),
            "192.0.2.77 from 10.0.0.5 via 203.0.113.1 dev wan0 iif lan0"
        );
    }
}
