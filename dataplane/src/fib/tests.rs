//! The FIB against the kernel's rules and against a naive linear reference.

use super::*;
use crate::port::Link;
use ipnet::IpNet;
use sumun_config::facts::{WayBack, number};
use sumun_config::model::{
    Checksums, Nexthop, Policy, PortSettings, Route as Configured, RouteAction, RoutingRule, RuleAction, RuleIif,
    Sysctl, table,
};
use sumun_config::rule::Policy as Verdict;
use sumun_config::ruleset::Ruleset;

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);
const DMZ: PortId = PortId(2);

pub(super) fn links() -> Vec<Link> {
    let link = |(i, name): (usize, &&str)| Link {
        name: name.to_string(),
        mac: [2, 0, 0, 0, 0, i as u8],
        mtu: 1500,
        checksums: Checksums::AsTheyAre,
        trunk: None,
    };
    ["lan", "wan", "dmz"].iter().enumerate().map(link).collect()
}

fn rule(family: Family, priority: u32, table: u32) -> RoutingRule {
    RoutingRule::bare(priority, family, RuleAction::Lookup(table))
}

/// What a kernel starts with.
fn default_rules() -> Vec<RoutingRule> {
    vec![
        rule(Family::V4, 0, table::LOCAL),
        rule(Family::V4, 32766, table::MAIN),
        rule(Family::V4, 32767, table::DEFAULT),
        rule(Family::V6, 0, table::LOCAL),
        rule(Family::V6, 32766, table::MAIN),
    ]
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> u128 {
    number(text.parse().unwrap()).1
}

pub(super) fn policy() -> Policy {
    let addresses = [
        &["10.0.0.1/24", "10.0.0.2/24", "2001:db8::1/64"][..],
        &["192.0.2.1/31", "2001:db8:1::1/127"],
        &["198.51.100.1/32", "10.0.0.9/16", "2001:db8:2::1/64"],
    ];
    Policy {
        ports: links().into_iter().map(|link| link.name).collect(),
        port_settings: addresses
            .map(|list| PortSettings { addresses: list.iter().map(|a| net(a)).collect(), ..Default::default() })
            .to_vec(),
        neighbours: Vec::new(),
        routes_from: Default::default(),
        vrfs: Vec::new(),
        routes: Vec::new(),
        rules: default_rules(),
        sysctl: Sysctl::default(),
        timeouts: Vec::new(),
        labels: Vec::new(),
        sets: Vec::new(),
        fingerprints: Vec::new(),
        accounts: Vec::new(),
        metrics: None,
        ruleset: Ruleset::empty(Verdict::Accept),
    }
}

fn route(prefix: &str, action: RouteAction) -> Configured {
    Configured { table: table::MAIN, prefix: net(prefix), action, metric: 0, mtu: None, source: None, tos: 0, realm: 0 }
}

fn via(gateway: &str, port: PortId) -> RouteAction {
    RouteAction::Via(vec![hop(gateway, port, 1)])
}

fn hop(gateway: &str, port: PortId, weight: u16) -> Nexthop {
    let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
    Nexthop { port, gateway, weight }
}

fn key(dst: &str) -> Key {
    let (family, dst) = number(dst.parse().unwrap());
    Key { family, src: 0, dst, iif: LAN, mark: 0, tos: 0, hash: 0 }
}

fn from_to(src: &str, dst: &str) -> Key {
    Key { src: addr(src), ..key(dst) }
}

/// A decision in words: `local`, `via PORT GATEWAY`, ...
pub(super) fn say(family: Family, route: Route) -> String {
    match route {
        Route::Via { port, gateway: None, .. } => format!("on {}", port.0),
        Route::Via { port, gateway: Some(gateway), .. } => format!("via {} {}", port.0, family.address(gateway)),
        Route::Broadcast { port } => format!("broadcast {}", port.0),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn check(fib: &Fib, cases: &[(&str, &str)]) {
    for (dst, expected) in cases {
        let key = key(dst);
        assert_eq!(say(key.family, fib.lookup(&key)), *expected, "{dst}");
    }
}

/// `ip route show table all` of a kernel 6.18 with the same addresses.
#[test]
fn addresses_imply_the_routes_that_the_kernel_derives() {
    let fib = Fib::build(&policy(), &links());
    check(
        &fib,
        &[
            ("10.0.0.1", "local"),
            ("10.0.0.2", "local"),
            ("10.0.0.255", "broadcast 0"),
            ("10.0.0.0", "on 0"),
            ("10.0.0.77", "on 0"),
            ("10.0.255.255", "broadcast 2"),
            ("10.0.1.1", "on 2"),
            ("192.0.2.1", "local"),
            ("192.0.2.0", "on 1"),
            ("198.51.100.1", "local"),
            ("198.51.100.2", "none"),
            ("127.0.0.1", "local"),
            ("127.1.2.3", "local"),
            ("255.255.255.255", "broadcast 0"),
            ("224.0.0.1", "multicast"),
            ("239.1.2.3", "multicast"),
            ("240.0.0.1", "none"),
            ("2001:db8::1", "local"),
            ("2001:db8::", "local"),
            ("2001:db8::2", "on 0"),
            ("2001:db8:1::1", "local"),
            ("2001:db8:1::", "on 1"),
            ("2001:db8:2::5", "on 2"),
            ("2001:db8:3::5", "none"),
            ("::1", "local"),
            ("fe80::ff:fe00:0", "local"),
            ("fe80::ff:fe00:1", "on 0"),
            ("fe80::", "local"),
            ("fe80:0:0:1::5", "none"),
            ("fec0::1", "none"),
            ("ff02::1", "multicast"),
        ],
    );
}

#[test]
fn connected_routes_carry_the_primary_address_as_source() {
    let fib = Fib::build(&policy(), &links());
    let expected = Route::Via { port: LAN, gateway: None, mtu: 1500, source: Some(addr("10.0.0.1")) };
    assert_eq!(fib.lookup(&key("10.0.0.77")), expected);
}

#[test]
fn link_local_destinations_mean_the_link() {
    let fib = Fib::build(&policy(), &links());
    let to = key("fe80::ff:fe00:1");
    assert_eq!(fib.lookup(&Key { iif: WAN, ..to }), Route::Local);
    assert_eq!(fib.lookup(&Key { iif: PortId::NONE, ..to }), Route::Local);
    assert_eq!(say(Family::V6, fib.lookup_on(&Key { iif: PortId::NONE, ..to }, DMZ)), "on 2");
    assert_eq!(fib.lookup(&Key { iif: PortId::NONE, ..key("fe80::77") }), Route::None);
}

#[test]
fn static_routes_by_length_metric_and_type() {
    let mut policy = policy();
    policy.routes = vec![
        route("0.0.0.0/0", via("192.0.2.0", WAN)),
        Configured { metric: 5, ..route("203.0.113.0/24", via("10.0.0.3", LAN)) },
        Configured { metric: 4, mtu: Some(1400), ..route("203.0.113.0/24", via("10.0.0.4", LAN)) },
        route("203.0.113.128/25", RouteAction::Blackhole),
        route("203.0.113.64/26", RouteAction::Unreachable),
        route("203.0.113.65/32", RouteAction::Prohibit),
        // Connected routes come first among equals for IPv4, and have metric 256 for IPv6.
        route("10.0.0.0/24", via("192.0.2.0", WAN)),
        Configured { metric: 255, ..route("2001:db8::/64", via("fe80::9", DMZ)) },
        Configured { metric: 1024, ..route("2001:db8:2::/64", via("fe80::9", LAN)) },
        route("::/0", via("fe80::1", WAN)),
        // Not usable: no such port, an IPv4 gateway of an IPv6 route.
        route("203.0.113.65/32", via("10.0.0.3", PortId(9))),
        Configured { metric: 1, ..route("2a00::/16", via("192.0.2.9", WAN)) },
    ];
    let fib = Fib::build(&policy, &links());
    check(
        &fib,
        &[
            ("8.8.8.8", "via 1 192.0.2.0"),
            ("203.0.113.1", "via 0 10.0.0.4"),
            ("203.0.113.129", "blackhole"),
            ("203.0.113.64", "unreachable"),
            ("203.0.113.65", "prohibit"),
            ("10.0.0.7", "on 0"),
            ("2001:db8::7", "via 2 fe80::9"),
            ("2001:db8::1", "local"),
            ("2001:db8:2::7", "on 2"),
            ("2a00::1", "via 1 fe80::1"),
        ],
    );
    assert!(matches!(fib.lookup(&key("203.0.113.1")), Route::Via { mtu: 1400, .. }));
}

/// RFC 5549: `ip route add 198.51.100.0/24 via inet6 fe80::9 dev wan0`.
#[test]
fn an_ipv4_route_may_lead_by_an_ipv6_gateway() {
    let mut policy = policy();
    policy.routes = vec![route("198.51.100.0/24", via("fe80::9", WAN)), route("198.18.0.0/15", via("::9", WAN))];
    let fib = Fib::build(&policy, &links());
    let Route::Via { port: WAN, gateway: Some(gateway), .. } = fib.lookup(&key("198.51.100.7")) else {
        panic!("{:?}", fib.lookup(&key("198.51.100.7")))
    };
    assert_eq!((gateway_family(Family::V4, gateway), gateway), number("fe80::9".parse().expect("an address")));
    assert_eq!(gateway_family(Family::V4, 0xc000_0209), Family::V4);
    assert_eq!(fib.lookup(&key("198.18.0.1")), Route::None, "its number is one of IPv4");
    // `rt_nexthop`: what chooses a source by the next hop looks at the destination.
    assert_eq!(towards(Family::V4, Some(gateway), 7), 7);
    assert_eq!(towards(Family::V4, Some(9), 7), 9);
}

#[test]
fn an_earlier_table_wins_over_a_longer_prefix_of_a_later_one() {
    let mut policy = policy();
    policy.routes = vec![
        Configured { table: table::LOCAL, ..route("203.0.113.0/24", RouteAction::Blackhole) },
        route("203.0.113.7/32", via("10.0.0.3", LAN)),
        route("203.0.112.0/23", via("10.0.0.4", LAN)),
        Configured { table: table::DEFAULT, ..route("203.0.112.9/32", RouteAction::Prohibit) },
        Configured { table: table::DEFAULT, ..route("0.0.0.0/0", RouteAction::Prohibit) },
    ];
    let fib = Fib::build(&policy, &links());
    check(
        &fib,
        &[
            ("203.0.113.7", "blackhole"),
            ("203.0.112.9", "via 0 10.0.0.4"),
            ("203.0.114.1", "prohibit"),
            ("10.0.0.1", "local"),
        ],
    );
}

#[test]
fn rules_are_asked_in_order_of_priority() {
    let mut policy = policy();
    let in_table = |number, action| Configured { table: number, ..route("0.0.0.0/0", action) };
    policy.routes = vec![
        in_table(table::MAIN, via("192.0.2.0", WAN)),
        in_table(100, via("10.0.0.100", LAN)),
        in_table(101, via("10.0.0.101", LAN)),
        Configured { table: 102, ..route("8.0.0.0/8", via("10.0.0.102", LAN)) },
    ];
    let v4 = |priority, table| rule(Family::V4, priority, table);
    policy.rules.extend([
        RoutingRule { fwmark: Some((0x10, 0xf0)), ..v4(100, 100) },
        RoutingRule { from: Some(net("10.9.0.0/16")), ..v4(90, 101) },
        RoutingRule { iif: Some(RuleIif::Port(DMZ)), ..v4(110, 102) },
        RoutingRule { iif: Some(RuleIif::Local), action: RuleAction::Prohibit, ..v4(120, 0) },
        RoutingRule { tos: Some((0x10, 0x1c)), action: RuleAction::Blackhole, ..v4(130, 0) },
        RoutingRule { tos: Some((0xb8, 0xfc)), action: RuleAction::Unreachable, ..v4(140, 0) },
        RoutingRule { not: true, to: Some(net("0.0.0.0/1")), ..v4(150, 100) },
        RoutingRule { not: true, action: RuleAction::Blackhole, ..v4(1, 0) },
        RoutingRule { from: Some(net("2001:db8::/32")), action: RuleAction::Blackhole, ..v4(2, 0) },
    ]);
    let fib = Fib::build(&policy, &links());
    let base = from_to("10.0.0.5", "8.8.8.8");
    for (what, key, expected) in [
        ("no condition holds", base, "via 1 192.0.2.0"),
        ("mark under its mask", Key { mark: 0xf1f, ..base }, "via 0 10.0.0.100"),
        ("another mark", Key { mark: 0x20, ..base }, "via 1 192.0.2.0"),
        ("source before mark", Key { src: addr("10.9.1.1"), mark: 0x10, ..base }, "via 0 10.0.0.101"),
        ("incoming port", Key { iif: DMZ, ..base }, "via 0 10.0.0.102"),
        ("table without an answer", Key { iif: DMZ, dst: addr("9.9.9.9"), ..base }, "via 1 192.0.2.0"),
        ("own packets", Key { iif: PortId::NONE, ..base }, "prohibit"),
        ("legacy tos ignores the upper bits", Key { tos: 0xf0, ..base }, "blackhole"),
        ("dscp, ecn bits ignored", Key { tos: 0xb9, ..base }, "unreachable"),
        ("negated", Key { dst: addr("200.1.1.1"), ..base }, "via 0 10.0.0.100"),
        ("local comes first", Key { dst: addr("10.0.0.1"), mark: 0x10, ..base }, "local"),
    ] {
        assert_eq!(say(Family::V4, fib.lookup(&key)), expected, "{what}");
    }
}

#[test]
fn without_rules_there_are_no_routes() {
    let mut policy = policy();
    policy.rules.clear();
    let fib = Fib::build(&policy, &links());
    check(&fib, &[("10.0.0.1", "none"), ("2001:db8::1", "none")]);
}

#[test]
fn multipath_shares_flows_by_weight() {
    let mut policy = policy();
    let hops = vec![hop("10.0.0.3", LAN, 1), hop("192.0.2.0", WAN, 3), hop("10.0.0.4", LAN, 4)];
    policy.routes = vec![route("0.0.0.0/0", RouteAction::Via(hops))];
    let fib = Fib::build(&policy, &links());
    // The bounds of fib_rebalance for weights 1, 3, 4: an eighth, a half, all of 2^31.
    for (hash, expected) in [
        (0, "via 0 10.0.0.3"),
        (0x1fff_ffff, "via 0 10.0.0.3"),
        (0x2000_0000, "via 1 192.0.2.0"),
        (0x7fff_ffff, "via 1 192.0.2.0"),
        (0x8000_0000, "via 0 10.0.0.4"),
        (0xffff_ffff, "via 0 10.0.0.4"),
    ] {
        assert_eq!(say(Family::V4, fib.lookup(&Key { hash, ..key("8.8.8.8") })), expected, "{hash:#x}");
    }
    let mut share = [0u32; 3];
    for n in 0..8000u32 {
        let facts = Facts { src: 0x0a00_0000 + n as u128, dst: 0x0808_0808, ..Facts::blank(Family::V4) };
        let Route::Via { gateway: Some(gateway), .. } =
            fib.lookup(&Key { hash: Fib::flow_hash(&facts, 0), ..key("8.8.8.8") })
        else {
            panic!("not sent on");
        };
        share[[addr("10.0.0.3"), addr("192.0.2.0"), addr("10.0.0.4")].iter().position(|g| *g == gateway).unwrap()] += 1;
    }
    for (got, expected) in share.into_iter().zip([1000u32, 3000, 4000]) {
        assert!(got.abs_diff(expected) < 250, "{share:?}");
    }
}

#[test]
fn the_flow_hash_looks_at_what_its_policy_says() {
    let base =
        Facts { src: 1, dst: 2, proto: proto::TCP, sport: 5, dport: 80, has_l4: true, ..Facts::blank(Family::V4) };
    let other_port = Facts { sport: 6, ..base };
    assert_eq!(Fib::flow_hash(&base, 0), Fib::flow_hash(&other_port, 0));
    assert_ne!(Fib::flow_hash(&base, 1), Fib::flow_hash(&other_port, 1));
    assert_ne!(Fib::flow_hash(&base, 0), Fib::flow_hash(&Facts { src: 3, ..base }, 0));
    let first = Facts { more_frags: true, ..base };
    let later = Facts { frag_off: 1480, has_l4: false, sport: 0, dport: 0, ..base };
    assert_eq!(Fib::flow_hash(&first, 1), Fib::flow_hash(&later, 1));
    let echo = Facts { proto: proto::ICMP, ..base };
    assert_eq!(Fib::flow_hash(&echo, 1), Fib::flow_hash(&Facts { sport: 9, ..echo }, 1));
    let v6 = Facts { family: Family::V6, flow_label: 7, ..base };
    assert_ne!(Fib::flow_hash(&v6, 0), Fib::flow_hash(&Facts { flow_label: 8, ..v6 }, 0));
}

#[test]
fn address_types_are_those_of_addrtype() {
    let mut policy = policy();
    policy.routes =
        vec![route("203.0.113.0/24", RouteAction::Blackhole), route("2001:db8:9::/48", RouteAction::Prohibit)];
    let fib = Fib::build(&policy, &links());
    for (address, port, expected) in [
        ("10.0.0.1", PortId::NONE, AddrType::Local),
        ("10.0.0.1", LAN, AddrType::Local),
        ("10.0.0.1", WAN, AddrType::Unicast),
        ("10.0.0.255", PortId::NONE, AddrType::Broadcast),
        ("10.0.0.255", WAN, AddrType::Unicast),
        ("127.0.0.1", PortId::NONE, AddrType::Local),
        ("255.255.255.255", WAN, AddrType::Broadcast),
        ("0.0.0.0", PortId::NONE, AddrType::Broadcast),
        ("224.0.0.5", PortId::NONE, AddrType::Multicast),
        ("8.8.8.8", PortId::NONE, AddrType::Unicast),
        ("203.0.113.1", PortId::NONE, AddrType::Unicast),
        ("::", PortId::NONE, AddrType::Unspec),
        ("2001:db8::1", PortId::NONE, AddrType::Local),
        ("2001:db8::1", LAN, AddrType::Local),
        ("2001:db8::1", WAN, AddrType::Unicast),
        ("2001:db8::", PortId::NONE, AddrType::Anycast),
        ("2001:db8::5", PortId::NONE, AddrType::Unicast),
        ("2001:db8:9::5", PortId::NONE, AddrType::Unreachable),
        ("2a00::1", PortId::NONE, AddrType::Unreachable),
        ("fe80::ff:fe00:1", PortId::NONE, AddrType::Local),
        ("fe80::ff:fe00:1", LAN, AddrType::Unicast),
        ("ff02::1", PortId::NONE, AddrType::Multicast),
    ] {
        let (family, addr) = number(address.parse().unwrap());
        assert_eq!(fib.addr_type(family, addr, port), expected, "{address} {port:?}");
    }
}

#[test]
fn sources_are_judged_as_ip_route_input_does() {
    let mut policy = policy();
    policy.routes = vec![route("0.0.0.0/0", via("192.0.2.0", WAN)), route("203.0.113.0/24", RouteAction::Blackhole)];
    for (port, filter) in [(0, RpFilter::Off), (1, RpFilter::Strict), (2, RpFilter::Loose)] {
        policy.port_settings[port].rp_filter = filter;
    }
    let fib = Fib::build(&policy, &links());
    let martian = Err(DropReason::Martian);
    let filtered = Err(DropReason::ReversePath);
    use crate::reason::DropReason;
    for (src, dst, iif, expected) in [
        ("10.0.0.5", "8.8.8.8", LAN, Ok(())),
        ("172.16.0.1", "8.8.8.8", LAN, Ok(())),
        ("203.0.113.1", "8.8.8.8", LAN, Ok(())),
        ("10.0.0.1", "8.8.8.8", LAN, martian),
        ("192.0.2.1", "8.8.8.8", LAN, martian),
        ("127.0.0.1", "8.8.8.8", LAN, martian),
        ("10.0.0.5", "127.0.0.1", LAN, martian),
        ("224.0.0.1", "8.8.8.8", LAN, martian),
        ("255.255.255.255", "8.8.8.8", LAN, martian),
        ("0.0.0.0", "8.8.8.8", LAN, martian),
        ("10.0.0.5", "0.0.0.0", LAN, martian),
        ("0.0.0.0", "255.255.255.255", LAN, Ok(())),
        ("0.0.0.0", "224.0.0.1", LAN, Ok(())),
        ("0.0.0.0", "239.0.0.1", LAN, martian),
        ("8.8.8.8", "10.0.0.1", WAN, Ok(())),
        ("10.0.0.5", "10.0.0.1", WAN, filtered),
        ("203.0.113.1", "10.0.0.1", WAN, filtered),
        ("10.0.0.255", "8.8.8.8", WAN, martian),
        ("10.0.0.1", "8.8.8.8", WAN, martian),
        ("8.8.8.8", "10.0.0.1", DMZ, Ok(())),
        ("203.0.113.1", "10.0.0.1", DMZ, filtered),
        ("2001:db8::5", "2001:db8::1", LAN, Ok(())),
        ("::1", "2001:db8::1", LAN, martian),
        ("ff02::1", "2001:db8::1", LAN, martian),
        ("::ffff:1.2.3.4", "2001:db8::1", WAN, Ok(())),
        ("2001:db8::5", "ff01::1", LAN, martian),
    ] {
        let key = Key { iif, ..from_to(src, dst) };
        assert_eq!(fib.check_source(&key, &fib.lookup(&key)), expected, "{src} to {dst} on {iif:?}");
    }
}

#[test]
fn strict_reverse_path_takes_any_next_hop_of_a_multipath_route() {
    let mut policy = policy();
    policy.routes = vec![route("0.0.0.0/0", RouteAction::Via(vec![hop("192.0.2.0", WAN, 1), hop("10.0.9.9", DMZ, 1)]))];
    let fib = Fib::build(&policy, &links());
    let strict = WayBack { loose: false, by_mark: false, to_local: false };
    let packet = Facts { src: addr("8.8.8.8"), dst: addr("10.0.0.1"), ..Facts::blank(Family::V4) };
    let passes = |iif| fib.has_way_back(&Facts { iif, ..packet }, strict);
    assert_eq!([LAN, WAN, DMZ].map(passes), [false, true, true]);
}

#[test]
fn the_filter_of_rules_asks_for_the_route_to_the_source() {
    let mut policy = policy();
    policy.routes = vec![
        route("0.0.0.0/0", via("192.0.2.0", WAN)),
        route("203.0.113.0/24", RouteAction::Blackhole),
        route("::/0", via("fe80::9", WAN)),
        route("2001:db8:99::/48", RouteAction::Unreachable),
    ];
    let marked = RoutingRule { fwmark: Some((7, 7)), ..rule(Family::V4, 5, 100) };
    policy.rules.push(marked);
    policy.routes.push(Configured { table: 100, ..route("8.8.8.8/32", via("10.0.0.77", LAN)) });
    let fib = Fib::build(&policy, &links());
    let wanted = |loose, by_mark, to_local| WayBack { loose, by_mark, to_local };
    let (strict, loose, local) = (wanted(false, false, false), wanted(true, false, false), wanted(false, false, true));
    let by_mark = wanted(false, true, false);
    // Source, the port that it came in on, and whether it passes strictly, loosely, strictly with own addresses.
    for (src, iif, passes) in [
        ("10.0.0.5", LAN, [true, true, true]),
        ("10.0.0.5", WAN, [false, true, false]),
        ("8.8.8.8", WAN, [true, true, true]),
        ("8.8.8.8", LAN, [false, true, false]),
        ("203.0.113.1", WAN, [false; 3]),
        ("10.0.0.1", LAN, [false, false, true]),
        ("10.0.0.1", WAN, [false, false, false]),
        ("10.0.0.255", LAN, [false; 3]),
        ("127.0.0.1", LAN, [false; 3]),
        // No table has them, so that the default route does.
        ("224.0.0.1", WAN, [true, true, true]),
        ("255.255.255.255", WAN, [true, true, true]),
        ("0.0.0.0", LAN, [false, true, false]),
        ("2001:db8::5", LAN, [true, true, true]),
        ("2001:db8::5", DMZ, [false, true, false]),
        ("2a00::5", WAN, [true, true, true]),
        ("2001:db8:99::5", WAN, [false; 3]),
        ("2001:db8::1", LAN, [false, false, true]),
        ("2001:db8::1", WAN, [false, false, true]),
        ("2001:db8::", LAN, [false; 3]),
        ("fe80::5", DMZ, [true, true, true]),
        ("fe80:5::5", WAN, [true, true, true]),
        ("fe80:5::5", DMZ, [false; 3]),
        ("fe80::ff:fe00:0", LAN, [false, false, true]),
        ("fe80::ff:fe00:0", WAN, [true, true, true]),
    ] {
        let (family, src_addr) = number(src.parse().unwrap());
        let dst = if family == Family::V4 { addr("10.0.0.9") } else { addr("2001:db8::9") };
        let packet = Facts { src: src_addr, dst, iif, ..Facts::blank(family) };
        let found = [strict, loose, local].map(|wanted| fib.has_way_back(&packet, wanted));
        assert_eq!(found, passes, "{src} on {iif:?}");
    }
    let packet = Facts { src: addr("8.8.8.8"), dst: addr("10.0.0.9"), iif: LAN, mark: 7, ..Facts::blank(Family::V4) };
    assert_eq!([strict, by_mark].map(|wanted| fib.has_way_back(&packet, wanted)), [false, true]);
}

#[test]
fn realms_are_those_of_the_routes_to_the_destination_and_back_to_the_source() {
    let mut policy = policy();
    policy.routes = vec![
        Configured { realm: 10, ..route("0.0.0.0/0", via("192.0.2.0", WAN)) },
        Configured { realm: 0x0005_0014, ..route("203.0.113.0/24", via("10.0.0.77", LAN)) },
        Configured { realm: 30, ..route("203.0.114.0/24", via("10.0.0.77", LAN)) },
    ];
    let fib = Fib::build(&policy, &links());
    assert!(fib.has_realms());
    for (src, dst, iif, expected) in [
        ("10.0.0.5", "8.8.8.8", LAN, 10),
        ("203.0.114.5", "8.8.8.8", LAN, 30 << 16 | 10),
        ("8.8.8.8", "203.0.114.5", WAN, 10 << 16 | 30),
        // Where the route to the destination has a realm of sources, that is it; of the way back it does not count.
        ("8.8.8.8", "203.0.113.5", WAN, 5 << 16 | 20),
        ("203.0.113.5", "8.8.8.8", LAN, 20 << 16 | 10),
        // To the router itself.
        ("8.8.8.8", "10.0.0.1", WAN, 10 << 16),
        ("0.0.0.0", "255.255.255.255", LAN, 0),
    ] {
        let key = Key { iif, ..from_to(src, dst) };
        assert_eq!(fib.realms_in(&key, &fib.lookup(&key)), expected, "{src} to {dst}");
    }
    assert_eq!(fib.realms_out(&from_to("192.0.2.1", "8.8.8.8"), PortId::NONE), 10);
    assert!(!Fib::build(&super::tests::policy(), &links()).has_realms());
}

#[test]
fn the_router_speaks_with_the_address_that_fits() {
    let mut policy = policy();
    policy.port_settings[0].addresses.push(net("172.16.0.1/12"));
    policy.port_settings[0].addresses.push(net("fd00::1/64"));
    policy.port_settings[1].addresses.clear();
    let fib = Fib::build(&policy, &links());
    for (port, towards, expected) in [
        (LAN, "10.0.0.9", Some("10.0.0.1")),
        (LAN, "172.20.0.9", Some("172.16.0.1")),
        (LAN, "8.8.8.8", Some("10.0.0.1")),
        (WAN, "8.8.8.8", Some("10.0.0.1")),
        (LAN, "2001:db8::9", Some("2001:db8::1")),
        (LAN, "2a00::9", Some("2001:db8::1")),
        (LAN, "fd00::9", Some("fd00::1")),
        (LAN, "fd77::9", Some("fd00::1")),
        (LAN, "fe80::9", Some("fe80::ff:fe00:0")),
        (LAN, "ff02::1", Some("fe80::ff:fe00:0")),
        (DMZ, "2a00::9", Some("2001:db8:2::1")),
        (WAN, "2001:db8:2::9", Some("2001:db8:2::1")),
        (WAN, "fe80::9", Some("fe80::ff:fe00:1")),
    ] {
        let (family, towards) = number(towards.parse().unwrap());
        assert_eq!(fib.port_address(port, family, towards), expected.map(addr), "{port:?} {towards:x}");
    }
    policy.port_settings.clear();
    assert_eq!(Fib::build(&policy, &links()).port_address(LAN, Family::V4, 0), None);
}

/// `ip maddr` of a kernel with the same addresses.
#[test]
fn groups_that_the_router_is_in() {
    let fib = Fib::build(&policy(), &links());
    for (group, port, expected) in [
        ("224.0.0.1", LAN, true),
        ("224.0.0.2", LAN, false),
        ("ff02::1", LAN, true),
        ("ff02::2", LAN, true),
        ("ff05::2", LAN, true),
        ("ff02::1:ff00:1", LAN, true),
        ("ff02::1:ff00:0", LAN, true),
        ("ff02::1:ff00:5", LAN, false),
        ("ff02::1:ff00:2", DMZ, true),
        ("ff02::1:ff00:2", LAN, false),
        ("ff02::fb", LAN, false),
    ] {
        let (family, group) = number(group.parse().unwrap());
        assert_eq!(fib.listens(family, group, port), expected, "{group:x} {port:?}");
    }
}

mod lpm {
    use super::super::lpm::{Address, Entry, Lpm, Source};
    use proptest::prelude::*;

    fn naive<A: Address>(entries: &[Entry<A>], key: A) -> u32 {
        let covering = entries.iter().filter(|e| key.prefix(e.len) == e.key);
        covering.max_by_key(|e| e.len).map_or(0, |e| e.value)
    }

    /// Compares with the reference at each prefix's edges and just outside of them.
    fn agree<A: Address>(mut entries: Vec<Entry<A>>, more: &[A], step: impl Fn(A, u8) -> [A; 4]) {
        entries.sort();
        entries.dedup_by_key(|e| (e.key, e.len));
        let lpm = Lpm::build(&entries);
        let edges = entries.iter().flat_map(|e| step(e.key, e.len));
        for key in edges.chain(more.iter().copied()) {
            assert_eq!(lpm.lookup(key), naive(&entries, key), "{key:x?} in {entries:x?}");
        }
    }

    fn edges4(key: u32, len: u8) -> [u32; 4] {
        let last = key | u32::MAX.checked_shr(len as u32).unwrap_or(0);
        [key, last, key.wrapping_sub(1), last.wrapping_add(1)]
    }

    fn edges6(key: u128, len: u8) -> [u128; 4] {
        let last = key | u128::MAX.checked_shr(len as u32).unwrap_or(0);
        [key, last, key.wrapping_sub(1), last.wrapping_add(1)]
    }

    /// Entries in order.
    struct Listed<A>(std::collections::BTreeMap<(A, u8), u32>);

    impl<A: Address> Source<A> for Listed<A> {
        fn within(&self, key: A, len: u8, entries: &mut Vec<Entry<A>>) -> u32 {
            let from = self.0.range((key, len + 1)..).take_while(|((other, _), _)| other.prefix(len) == key);
            let longer = from.filter(|((_, its), _)| *its > len);
            entries.extend(longer.map(|(&(key, len), &value)| Entry { key, len, value }));
            (0..=len).rev().find_map(|len| self.0.get(&(key.prefix(len), len))).copied().unwrap_or(0)
        }
    }

    /// Batches of changes, after each of which the table answers as one that was built from scratch.
    fn keeps_up<A: Address>(batches: Vec<Vec<(A, u8, u32)>>, step: impl Fn(A, u8) -> [A; 4]) {
        let mut listed = Listed(Default::default());
        let mut lpm = Lpm::build(&[]);
        for batch in batches {
            let mut changed = Vec::new();
            for (key, len, value) in batch {
                let at = (key.prefix(len), len);
                match value {
                    0 => listed.0.remove(&at),
                    value => listed.0.insert(at, value),
                };
                changed.push(at);
            }
            changed.sort();
            changed.dedup();
            lpm = lpm.updated(&changed, &listed, listed.0.len());
            let fresh = Lpm::gather(&listed, listed.0.len());
            let places = listed.0.keys().chain(&changed);
            for key in places.flat_map(|&(key, len)| step(key, len)) {
                assert_eq!(lpm.lookup(key), fresh.lookup(key), "{key:x?}");
            }
        }
    }

    /// A few hundred prefixes below one, some nested in each other, so that pages nest; and changes of some of them.
    fn crowded() -> impl Strategy<Value = Vec<Vec<(u128, u8, u32)>>> {
        let change = (0u32..40, any::<u16>(), prop_oneof![3 => 20u8..=32, 1 => 0u8..20], 0u32..4);
        let batch = prop::collection::vec(change, 1..40);
        let first = prop::collection::vec((0u32..3, any::<u16>(), 22u8..=32, 1u32..4), 300..1500);
        (first, prop::collection::vec(batch, 1..8)).prop_map(|(first, rest)| {
            let place = |(net, low, len, value)| {
                let net = if net < 3 { net } else { net % 3 * 0x1234 };
                let bits = 0x0a00_0000u32 | net << 12 | low as u32;
                ((bits as u128) << 96, len, value)
            };
            let batches = std::iter::once(first.into_iter().map(place).collect());
            batches.chain(rest.into_iter().map(|batch| batch.into_iter().map(place).collect())).collect()
        })
    }

    #[test]
    fn an_empty_table_answers_nothing() {
        let lpm = Lpm::<u32>::build(&[]);
        assert_eq!((lpm.lookup(0), lpm.lookup(u32::MAX)), (0, 0));
    }

    #[test]
    fn every_length_nested_in_the_next() {
        let v4 = (0..=32).map(|len| Entry { key: 0xaaaa_aaaau32.prefix(len), len, value: len as u32 + 1 }).collect();
        agree(v4, &[0xaaaa_aaaa, 0, u32::MAX], edges4);
        let bits = u128::MAX / 3 * 2;
        let v6 = (0..=128).map(|len| Entry { key: bits.prefix(len), len, value: len as u32 + 1 }).collect();
        agree(v6, &[bits, 0, u128::MAX], edges6);
    }

    #[test]
    fn large_tables_use_the_wider_roots() {
        for n in [60u32, 2000, 40_000] {
            let mut entries: Vec<_> = (0..n)
                .map(|i| {
                    let hash = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let len = 8 + (hash % 25) as u8;
                    Entry { key: ((hash >> 32) as u32).prefix(len), len, value: i + 1 }
                })
                .collect();
            entries.sort();
            entries.dedup_by_key(|e| (e.key, e.len));
            let lpm = Lpm::build(&entries);
            for entry in entries.iter().step_by(1 + entries.len() / 200) {
                for key in edges4(entry.key, entry.len) {
                    assert_eq!(lpm.lookup(key), naive(&entries, key), "{n} {key:x}");
                }
            }
        }
    }

    /// Addresses that share long prefixes, so that nodes nest and paths branch.
    fn clustered() -> impl Strategy<Value = u128> {
        let base = prop_oneof![Just(0x2001_0db8u128 << 96), Just(u128::MAX << 70), Just(0)];
        (base, 0u32..128, any::<u128>()).prop_map(|(base, shift, noise)| base ^ noise.checked_shr(shift).unwrap_or(0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_changed_table_answers_as_a_new_one(batches in crowded()) {
            let v4 = |batch: &Vec<(u128, u8, u32)>| {
                batch.iter().map(|&(key, len, value)| ((key >> 96) as u32, len, value)).collect()
            };
            keeps_up(batches.iter().map(v4).collect(), edges4);
            // The same further down, and with what the addresses are spread over doubled.
            let deep = |batch: &Vec<(u128, u8, u32)>| {
                let place = |&(key, len, value): &(u128, u8, u32)| (key >> 16 | 0x2001 << 112, (len + 16) * (len > 8) as u8, value);
                batch.iter().map(place).collect()
            };
            keeps_up(batches.iter().map(deep).collect(), edges6);
        }

        #[test]
        fn ipv4_as_the_linear_search(
            nets in prop::collection::vec((clustered(), 0u8..=32), 0..60),
            more in prop::collection::vec(clustered(), 20),
        ) {
            let entry = |(i, &(bits, len)): (usize, &(u128, u8))| {
                Entry { key: ((bits >> 96) as u32).prefix(len), len, value: i as u32 + 1 }
            };
            let more: Vec<u32> = more.iter().map(|bits| (bits >> 96) as u32).collect();
            agree(nets.iter().enumerate().map(entry).collect(), &more, edges4);
        }

        #[test]
        fn ipv6_as_the_linear_search(
            nets in prop::collection::vec((clustered(), 0u8..=128), 0..60),
            more in prop::collection::vec(clustered(), 20),
        ) {
            let entry = |(i, &(bits, len)): (usize, &(u128, u8))| {
                Entry { key: bits.prefix(len), len, value: i as u32 + 1 }
            };
            agree(nets.iter().enumerate().map(entry).collect(), &more, edges6);
        }
    }
}
