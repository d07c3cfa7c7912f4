//! What operators are told of routes: the tables as they are, and the way of a packet.

use super::{Fib, Key, Kind, Listed, Out, Place, Route, Selection, towards};
use crate::engine::Router;
use crate::protocol::{HopRow, RouteQuestion, RouteRow, RouteWay, RoutesAnswer, RoutesRequest, TableName};
use sumun_config::facts::{Facts, LOOPBACK, PortId, number};
use sumun_config::model::gateway_family;

/// Routes in one page.
const PAGE: usize = 4096;

/// Answers what is asked of the routes, or says why not.
pub fn answer(router: &Router, request: RoutesRequest) -> Result<RoutesAnswer, String> {
    match request {
        RoutesRequest::List { family, table, from } => {
            let table = match table {
                TableName::All => None,
                TableName::Number(number) => Some(number),
                TableName::Vrf(name) => {
                    let policy = &router.current().policy;
                    let vrf = policy.vrfs.iter().find(|vrf| vrf.name == name);
                    Some(vrf.ok_or_else(|| format!("there is no VRF {name}"))?.table)
                }
            };
            let (listed, next) = router.list_routes(Selection { family, table }, from.map(Place::of), PAGE);
            let routes = listed.iter().map(|listed| row(router, listed)).collect();
            Ok(RoutesAnswer::List { routes, next: next.map(Place::parts) })
        }
        RoutesRequest::Get(question) => way(router, &question).map(RoutesAnswer::Way),
    }
}

fn device(router: &Router, port: PortId) -> String {
    let link = port.index().and_then(|i| router.links.get(i));
    link.map_or(LOOPBACK, |link| &link.name).to_string()
}

fn row(router: &Router, listed: &Listed) -> RouteRow {
    let entry = &listed.entry;
    let (kind, on) = match entry.kind {
        Kind::Via(_) | Kind::Object(_) => ("unicast", None),
        Kind::Local(port) => ("local", Some(port)),
        Kind::Broadcast(port) => ("broadcast", Some(port)),
        Kind::Anycast(port) => ("anycast", Some(port)),
        Kind::Blackhole => ("blackhole", None),
        Kind::Unreachable => ("unreachable", None),
        Kind::Prohibit => ("prohibit", None),
        Kind::Throw => ("throw", None),
    };
    let hop = |(hop, down): &(super::Hop, bool)| {
        let (device, foreign) = match &hop.out {
            Out::Port(port) => (device(router, *port), false),
            Out::Other(name) => (name.to_string(), true),
        };
        HopRow { device, foreign, gateway: hop.gateway, weight: hop.weight, onlink: hop.onlink, down: *down }
    };
    RouteRow {
        table: entry.table,
        prefix: entry.prefix,
        kind: kind.to_string(),
        device: on.map(|port| device(router, port)),
        object: match entry.kind {
            Kind::Object(id) => Some(id),
            _ => None,
        },
        hops: listed.hops.iter().map(hop).collect(),
        source: entry.source,
        metric: entry.metric,
        protocol: entry.protocol,
        mtu: entry.mtu,
        tos: entry.tos,
        realm: entry.realm,
        dead: listed.is_dead,
    }
}

/// Where a packet would go: one that comes in on a port, or the router's own.
fn way(router: &Router, question: &RouteQuestion) -> Result<RouteWay, String> {
    let RouteQuestion { to, from, ref iif, mark, tos } = *question;
    let iif = match iif {
        None => PortId::NONE,
        Some(name) => {
            let at = router.links.iter().position(|link| link.name == *name);
            PortId(at.ok_or_else(|| format!("there is no interface {name}"))? as u16)
        }
    };
    let (family, dst) = number(to);
    let src = match from.map(number) {
        Some((its, _)) if its != family => return Err("the two addresses are of different families".into()),
        Some((_, src)) => src,
        None => 0,
    };
    let policy = &router.current().policy;
    let fib = router.fib();
    let facts = Facts { src, dst, ..Facts::blank(family) };
    let hash = Fib::flow_hash(&facts, policy.sysctl.fib_multipath_hash_policy);
    let route = fib.lookup(&Key { family, src, dst, iif, mark, tos, hash });
    let refused =
        |kind: &str| RouteWay { kind: kind.to_string(), device: None, gateway: None, source: None, mtu: None };
    Ok(match route {
        Route::Via { port, gateway, mtu, source } => {
            let own = source.or_else(|| fib.port_address(port, family, towards(family, gateway, dst)));
            let link = port.index().and_then(|i| router.links.get(i)).map(|link| link.mtu);
            RouteWay {
                kind: "unicast".to_string(),
                device: Some(device(router, port)),
                gateway: gateway.map(|gateway| gateway_family(family, gateway).address(gateway)),
                source: own.filter(|_| iif == PortId::NONE).map(|own| family.address(own)),
                mtu: Some(mtu).filter(|mtu| link.is_some_and(|link| *mtu < link)),
            }
        }
        Route::Local => RouteWay { device: Some(LOOPBACK.to_string()), ..refused("local") },
        Route::Broadcast { port } => RouteWay { device: Some(device(router, port)), ..refused("broadcast") },
        Route::Multicast => refused("multicast"),
        Route::Blackhole => refused("blackhole"),
        Route::Unreachable => refused("unreachable"),
        Route::Prohibit => refused("prohibit"),
        Route::NotAPort => refused("not-a-port"),
        Route::None => refused("none"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fib::{Change, Entry, Hop, LinkState};
    use std::net::IpAddr;
    use sumun_config::model::{RoutesFrom, table};

    /// A router that takes its routes from the kernel, where there are these.
    fn router(entries: Vec<Entry>) -> std::sync::Arc<Router> {
        let text =
            "[interfaces.lan0]\naddresses = [\"10.0.0.1/24\"]\n[interfaces.wan0]\naddresses = [\"192.0.2.9/24\"]\n";
        let source = sumun_config::diag::Source::new("test.toml", text.to_string());
        let (mut config, _) = sumun_config::schema::load(&source).expect("it is right");
        config.policy.routes_from = RoutesFrom::Kernel;
        let link = |name: &str| crate::port::Link {
            name: name.into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            checksums: sumun_config::model::Checksums::AsTheyAre,
            trunk: None,
        };
        let router = Router::new(&config.appliance, vec![link("lan0"), link("wan0")], 1);
        router.publish(config.policy).unwrap();
        let applied = router.routes(entries.into_iter().map(Change::Append).collect());
        assert_eq!(applied.left_out, []);
        router
    }

    fn entry(prefix: &str, kind: Kind) -> Entry {
        let prefix = prefix.parse().unwrap();
        Entry { table: table::MAIN, prefix, metric: 32, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 12 }
    }

    fn hop(out: Out, gateway: &str) -> Hop {
        Hop { out, gateway: Some(gateway.parse().unwrap()), weight: 1, onlink: false }
    }

    fn list(router: &Router, table: TableName) -> Vec<RouteRow> {
        let (mut rows, mut from) = (Vec::new(), None);
        loop {
            match answer(router, RoutesRequest::List { family: None, table: table.clone(), from }) {
                Ok(RoutesAnswer::List { routes, next }) => {
                    rows.extend(routes);
                    from = next;
                    if from.is_none() {
                        return rows;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn get(router: &Router, to: &str, from: Option<&str>, iif: Option<&str>) -> RouteWay {
        let from: Option<IpAddr> = from.map(|from| from.parse().unwrap());
        let question = RouteQuestion { to: to.parse().unwrap(), from, iif: iif.map(String::from), mark: 0, tos: 0 };
        match answer(router, RoutesRequest::Get(question)) {
            Ok(RoutesAnswer::Way(way)) => way,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn more_routes_than_a_page_come_in_order_and_each_once() {
        let port = || Out::Port(PortId(1));
        let many =
            |i: u32| entry(&format!("172.16.{}.{}/32", i >> 8, i & 255), Kind::Via(vec![hop(port(), "192.0.2.1")]));
        let router = router((0..10_000).rev().map(many).collect());
        let rows = list(&router, TableName::Number(table::MAIN));
        // The two networks of the addresses, and no link-local ones.
        assert_eq!(rows.len(), 10_002);
        assert!(rows.is_sorted_by_key(|row| row.prefix));
        assert_eq!(rows[1].prefix.to_string(), "172.16.0.0/32");
        assert!(list(&router, TableName::All).len() > rows.len());
        let unknown =
            answer(&router, RoutesRequest::List { family: None, table: TableName::Vrf("red".into()), from: None });
        assert_eq!(unknown, Err("there is no VRF red".into()));
    }

    #[test]
    fn a_route_shows_its_next_hops_and_what_is_wrong_with_them() {
        let ports = vec![hop(Out::Port(PortId(1)), "192.0.2.1"), hop(Out::Other("docker0".into()), "172.17.0.2")];
        let router = router(vec![entry("203.0.113.0/24", Kind::Via(ports))]);
        router.routes(vec![Change::Link { port: PortId(1), state: LinkState::Down }]);
        let rows = list(&router, TableName::Number(table::MAIN));
        let row = rows.iter().find(|row| row.metric == 32).unwrap();
        let hops: Vec<_> = row.hops.iter().map(|hop| (hop.device.as_str(), hop.foreign, hop.down)).collect();
        assert_eq!(hops, [("wan0", false, true), ("docker0", true, false)]);
        assert!(!row.dead);
        assert_eq!(get(&router, "203.0.113.1", None, None).kind, "not-a-port");
    }

    #[test]
    fn the_way_of_a_packet_is_the_one_that_it_would_take() {
        let router = router(vec![
            entry("0.0.0.0/0", Kind::Via(vec![hop(Out::Port(PortId(1)), "192.0.2.1")])),
            entry("198.51.100.0/24", Kind::Prohibit),
        ]);
        let own = get(&router, "203.0.113.7", None, None);
        assert_eq!(own.device.as_deref(), Some("wan0"));
        assert_eq!(own.gateway, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(own.source, Some("192.0.2.9".parse().unwrap()));
        let forwarded = get(&router, "203.0.113.7", Some("10.0.0.5"), Some("lan0"));
        assert_eq!((forwarded.kind.as_str(), forwarded.source), ("unicast", None));
        for (to, kind) in
            [("198.51.100.1", "prohibit"), ("10.0.0.1", "local"), ("10.0.0.255", "broadcast"), ("2001:db8::1", "none")]
        {
            assert_eq!(get(&router, to, None, None).kind, kind, "{to}");
        }
    }
}
