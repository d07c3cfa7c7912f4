//! VRFs: what a port in one sees of the router, and what the router sees of it.

use super::tests::{links, policy, say};
use super::*;
use crate::reason::DropReason;
use ipnet::IpNet;
use sumun_config::facts::{WayBack, number};
use sumun_config::model::{Nexthop, Policy, Route as Configured, RouteAction, RoutingRule, RuleAction, RuleIif, table};

const LAN: PortId = PortId(0);
const RED: PortId = PortId(1);
const BLUE: PortId = PortId(2);

/// The LAN is in no VRF; red and blue have the same network each, in tables 100 and 200, and the same default gateway.
fn two_vrfs() -> Policy {
    let mut policy = policy();
    let lists =
        [&["10.0.0.1/24", "2001:db8::1/64"][..], &["192.168.1.1/24", "fd00::1/64"], &["192.168.1.1/24", "fd00::1/64"]];
    for (settings, (list, vrf)) in
        policy.port_settings.iter_mut().zip(lists.into_iter().zip([None, Some(100), Some(200)]))
    {
        settings.addresses = list.iter().map(|net| net.parse().unwrap()).collect();
        settings.vrf = vrf;
        settings.rp_filter = RpFilter::Strict;
    }
    policy.routes = vec![
        route(100, "0.0.0.0/0", "192.168.1.254", RED),
        route(200, "198.51.100.0/24", "192.168.1.253", BLUE),
        route(table::MAIN, "203.0.113.0/24", "10.0.0.9", LAN),
    ];
    policy
}

fn route(table: u32, prefix: &str, gateway: &str, port: PortId) -> Configured {
    let prefix: IpNet = prefix.parse().unwrap();
    let gateway = Some(gateway.parse().unwrap());
    let action = RouteAction::Via(vec![Nexthop { port, gateway, weight: 1 }]);
    Configured { table, prefix, action, metric: 0, mtu: None, source: None, tos: 0, realm: 0 }
}

fn addr(text: &str) -> u128 {
    number(text.parse().unwrap()).1
}

fn key(src: &str, dst: &str, iif: PortId) -> Key {
    let (family, dst) = number(dst.parse().unwrap());
    Key { family, src: addr(src), dst, iif, mark: 0, tos: 0, hash: 0 }
}

fn check(fib: &Fib, cases: &[(&str, PortId, &str)]) {
    for (dst, port, expected) in cases {
        let src = if dst.contains(':') { "::" } else { "0.0.0.0" };
        let came = key(src, dst, *port);
        assert_eq!(say(came.family, fib.lookup(&came)), *expected, "{dst} from {port:?}");
        let own = Key { iif: PortId::NONE, ..came };
        assert_eq!(say(came.family, fib.lookup_on(&own, *port)), *expected, "{dst} on {port:?}");
    }
}

#[test]
fn each_vrf_has_routes_and_own_addresses_for_itself() {
    let fib = Fib::build(&two_vrfs(), &links());
    check(
        &fib,
        &[
            ("192.168.1.1", RED, "local"),
            ("192.168.1.1", BLUE, "local"),
            ("192.168.1.1", LAN, "none"),
            ("192.168.1.255", BLUE, "broadcast 2"),
            ("192.168.1.7", RED, "on 1"),
            ("192.168.1.7", BLUE, "on 2"),
            ("10.0.0.1", RED, "via 1 192.168.1.254"),
            ("10.0.0.1", BLUE, "none"),
            ("10.0.0.1", LAN, "local"),
            ("198.51.100.1", RED, "via 1 192.168.1.254"),
            ("198.51.100.1", BLUE, "via 2 192.168.1.253"),
            ("203.0.113.1", LAN, "via 0 10.0.0.9"),
            // What a VRF has no route to is not sought elsewhere.
            ("203.0.113.1", BLUE, "none"),
            ("fd00::1", RED, "local"),
            ("fd00::7", BLUE, "on 2"),
            ("fd00::7", LAN, "none"),
            ("2001:db8::1", BLUE, "none"),
        ],
    );
    assert!(fib.is_own(Family::V4, addr("192.168.1.1"), RED));
    assert!(!fib.is_own(Family::V4, addr("192.168.1.1"), LAN));
    assert!(!fib.is_own(Family::V4, addr("10.0.0.1"), BLUE));
    let type_from = |address: &str, port| fib.addr_type_from(Family::V4, addr(address), port);
    assert_eq!(type_from("192.168.1.1", BLUE), AddrType::Local);
    assert_eq!(type_from("192.168.1.255", BLUE), AddrType::Broadcast);
    assert_eq!(type_from("192.168.1.1", LAN), AddrType::Unicast);
    // `addrtype` without an interface asks the table of no VRF (`inet_dev_addr_type`).
    assert_eq!(fib.addr_type(Family::V4, addr("192.168.1.1"), PortId::NONE), AddrType::Unicast);
    assert_eq!(fib.addr_type(Family::V4, addr("192.168.1.1"), RED), AddrType::Local);
}

#[test]
fn the_way_back_is_sought_in_the_vrf_that_a_packet_came_in_on() {
    let fib = Fib::build(&two_vrfs(), &links());
    let judged = |src: &str, dst: &str, iif| {
        let key = key(src, dst, iif);
        fib.check_source(&key, &fib.lookup(&key))
    };
    assert_eq!(judged("192.168.1.7", "198.51.100.1", BLUE), Ok(()));
    assert_eq!(judged("192.168.1.7", "198.51.100.1", RED), Ok(()));
    assert_eq!(judged("203.0.113.1", "192.168.1.1", BLUE), Err(DropReason::ReversePath));
    // The other VRF's, or nobody's here: not an own address.
    assert_eq!(judged("10.0.0.1", "192.168.1.1", RED), Ok(()));
    assert_eq!(judged("192.168.1.1", "192.168.1.1", RED), Err(DropReason::Martian));
    let strict = WayBack { loose: false, by_mark: false, to_local: false };
    let back = |src: &str, iif| {
        fib.has_way_back(&Facts { src: addr(src), dst: addr("192.168.1.1"), iif, ..Facts::blank(Family::V4) }, strict)
    };
    assert_eq!([RED, BLUE, LAN].map(|port| back("192.168.1.7", port)), [true, true, false]);
    assert_eq!([RED, BLUE].map(|port| back("8.8.8.8", port)), [true, false]);
}

#[test]
fn the_router_speaks_in_a_vrf_with_the_vrfs_addresses() {
    let mut policy = two_vrfs();
    policy.port_settings[2].addresses.clear();
    let fib = Fib::build(&policy, &links());
    assert_eq!(fib.port_address(RED, Family::V4, addr("8.8.8.8")), Some(addr("192.168.1.1")));
    // The other ports' addresses are of no use.
    assert_eq!(fib.port_address(BLUE, Family::V4, addr("8.8.8.8")), None);
    let blue = fib.port_address(BLUE, Family::V6, addr("2a00::1")).unwrap();
    assert!(is_link_local(Family::V6, blue));
}

#[test]
fn rules_with_a_condition_hold_in_vrfs_too() {
    let mut policy = two_vrfs();
    policy.routes.push(route(300, "8.0.0.0/8", "192.168.1.99", BLUE));
    let iif = Some(RuleIif::Port(BLUE));
    policy.rules.push(RoutingRule { iif, ..RoutingRule::bare(500, Family::V4, RuleAction::Lookup(300)) });
    let fib = Fib::build(&policy, &links());
    let from = |iif| say(Family::V4, fib.lookup(&key("0.0.0.0", "8.8.8.8", iif)));
    assert_eq!([BLUE, RED].map(from), ["via 2 192.168.1.99", "via 1 192.168.1.254"]);
}

/// `ip rule` of a kernel with a VRF: `1000: from all lookup [l3mdev-table]`, behind the table of local addresses.
#[test]
fn rules_of_the_kernel_are_asked_in_its_order() {
    let mut policy = two_vrfs();
    for family in Family::ALL {
        policy.rules.push(RoutingRule::bare(1000, family, RuleAction::Vrf));
    }
    let fib = Fib::build(&policy, &links());
    check(
        &fib,
        &[
            ("192.168.1.7", BLUE, "on 2"),
            ("192.168.1.7", RED, "on 1"),
            ("192.168.1.7", LAN, "none"),
            ("10.0.0.1", BLUE, "local"),
            ("203.0.113.1", BLUE, "via 0 10.0.0.9"),
            ("203.0.113.1", RED, "via 1 192.168.1.254"),
        ],
    );
}
