//! Routes that change while the router runs.

mod common;

use common::{LAN, Rig, WAN, config, describe, described, ends, ip, ping, udp, udp_ttl};
use std::sync::Arc;
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{RoutesFrom, StaticNeighbour, table};
use sumun_dataplane::fib::{Change, Entry, Hop, Kind, LinkState, Out, Own};

/// A router that takes its routes from the kernel and forwards everything.
fn rig() -> Rig {
    rig_with("[filter.FORWARD]\npolicy = \"ACCEPT\"\n[filter.INPUT]\npolicy = \"ACCEPT\"\n")
}

/// The same with these rules.
fn rig_with(rules: &str) -> Rig {
    let mut policy = config(rules).policy;
    policy.routes_from = RoutesFrom::Kernel;
    let neighbours = std::mem::take(&mut policy.neighbours);
    let rig = Rig::of(policy);
    rig.router.neighbours.set_static(&neighbours, 0);
    rig
}

fn entry(prefix: &str, kind: Kind) -> Entry {
    let prefix = prefix.parse().unwrap();
    Entry { table: table::MAIN, prefix, metric: 20, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 186 }
}

fn via(out: Out, gateway: &str) -> Kind {
    Kind::Via(vec![Hop { out, gateway: Some(gateway.parse().unwrap()), weight: 1, onlink: false }])
}

/// Somebody on the LAN to somebody behind other routers, of both families.
fn strangers() -> [(Family, Vec<u8>, &'static str, &'static str); 2] {
    let frame = |family, to: &str| udp(family, ends(family).0, number(to.parse().unwrap()).1, (1000, 53), b"?");
    [
        (Family::V4, frame(Family::V4, "198.51.100.1"), "198.51.100.0/24", "203.0.113.9"),
        (Family::V6, frame(Family::V6, "2001:db8:99::1"), "2001:db8:99::/48", "2001:db8:2::9"),
    ]
}

#[test]
fn a_change_holds_from_the_next_burst_on() {
    let mut rig = rig();
    for (_, frame, prefix, gateway) in strangers() {
        let out = |rig: &mut Rig| rig.send(LAN, &frame).iter().map(|(port, _)| *port).collect::<Vec<_>>();
        // Only the error goes back.
        assert_eq!(out(&mut rig), [LAN]);
        let route = entry(prefix, via(Out::Port(WAN), gateway));
        assert_eq!(rig.router.routes(vec![Change::Append(route.clone())]).left_out, []);
        assert_eq!(out(&mut rig), [WAN]);
        rig.router.routes(vec![Change::Replace(entry(prefix, Kind::Blackhole))]);
        assert_eq!(out(&mut rig), []);
        rig.router.routes(vec![Change::Replace(route.clone()), Change::Link { port: WAN, state: LinkState::Down }]);
        assert_eq!(out(&mut rig), [LAN]);
        rig.router.routes(vec![Change::Link { port: WAN, state: LinkState::Up }]);
        assert_eq!(out(&mut rig), [WAN]);
        rig.router.routes(vec![Change::Remove(route)]);
        assert_eq!(out(&mut rig), [LAN]);
    }
    assert_eq!(rig.drops(), [("blackhole", 2), ("no-route", 6)]);
    rig.assert_census();
}

#[test]
fn packets_of_a_flow_follow_its_route() {
    for (_, frame, prefix, gateway) in strangers() {
        let mut rig = rig_with("[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW\"]\n");
        let route = entry(prefix, via(Out::Port(WAN), gateway));
        rig.router.routes(vec![Change::Append(route.clone())]);
        let out = |rig: &mut Rig| rig.send(LAN, &frame).iter().map(|(port, _)| *port).collect::<Vec<_>>();
        assert_eq!([out(&mut rig), out(&mut rig), out(&mut rig)], [[WAN], [WAN], [WAN]]);
        assert_eq!(rig.engine.replayed(), 1);
        rig.router.routes(vec![Change::Replace(entry(prefix, Kind::Blackhole))]);
        assert_eq!([out(&mut rig), out(&mut rig)], [[], []]);
        rig.router.routes(vec![Change::Replace(route)]);
        assert_eq!([out(&mut rig), out(&mut rig)], [[WAN], [WAN]]);
        assert_eq!(rig.engine.replayed(), 2);
        rig.assert_census();
    }
}

/// RFC 5549: the link is asked by NDP, and the frame that goes there is one of IPv4.
#[test]
fn an_ipv4_packet_waits_for_the_mac_of_its_ipv6_gateway() {
    const GATEWAY: u128 = 0xfe80 << 112 | 0x77;
    let mut rig = rig();
    rig.router.routes(vec![Change::Append(entry("198.51.100.0/24", via(Out::Port(WAN), "fe80::77")))]);
    let (_, frame, ..) = strangers()[0].clone();
    assert_eq!(described(&rig.send(LAN, &frame)), ["wan0 icmp6 fe80::ff:fe00:1 > ff02::1:ff00:77 135/0 ttl 255"]);
    let target = [&GATEWAY.to_be_bytes()[..], &[2, 1], &[2, 0, 0, 0, 0, 0x77]].concat();
    let mut advert = Vec::new();
    ip(Family::V6, GATEWAY, 0xfe80 << 112 | 0xff_fe00_0001, 255)
        .icmpv6_raw(136, 0, [0x60, 0, 0, 0])
        .write(&mut advert, &target)
        .expect("a frame");
    for sent in [rig.send(WAN, &advert), rig.send(LAN, &frame)] {
        assert_eq!(described(&sent), ["wan0 udp 192.168.1.9:1000 > 198.51.100.1:53 ttl 63"]);
        assert_eq!((&sent[0].1[..6], &sent[0].1[12..14]), (&[2, 0, 0, 0, 0, 0x77][..], &[8, 0][..]));
    }
    rig.assert_census();
}

#[test]
fn masquerade_by_an_ipv6_gateway_takes_the_address_towards_the_destination() {
    let mut rig = rig_with("[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n");
    // The last 32 bits of the gateway are of the network of the port's second address.
    let (family, addr) = number("10.7.0.1".parse().unwrap());
    let gateway = "2001:db8:2::a07:9";
    let (_, via_number) = number(gateway.parse().unwrap());
    rig.router
        .neighbours
        .set_static(&[StaticNeighbour { port: WAN, address: gateway.parse().unwrap(), mac: [2, 0, 0, 0, 0, 2] }], 0);
    assert_eq!(via_number as u32 >> 16, 0x0a07);
    rig.router.routes(vec![
        Change::Address(Own { port: WAN, family, addr, prefix: 16 }),
        Change::Append(entry("198.51.100.0/24", via(Out::Port(WAN), gateway))),
    ]);
    let sent = rig.send(LAN, &strangers()[0].1);
    assert_eq!(described(&sent), ["wan0 udp 203.0.113.2:1000 > 198.51.100.1:53 ttl 63"]);
    // And so does an error for somebody behind it.
    let far = number("198.51.100.1".parse().unwrap()).1;
    let sent = rig.send(WAN, &udp_ttl(Family::V4, far, ends(Family::V4).0, (5, 7), 1));
    assert_eq!(described(&sent), ["wan0 icmp 203.0.113.2 > 198.51.100.1 11/0 ttl 64"]);
}

#[test]
fn flow_labels_spread_the_packets_of_one_flow_over_two_ways_as_before() {
    // `fib_multipath_hash_policy` 0 hashes the label of IPv6, which need not be the same in all packets of a flow.
    let (client, _) = ends(Family::V6);
    let far = number("2001:db8:99::1".parse().unwrap()).1;
    let hops = ["2001:db8:2::9", "2001:db8:2::8"].map(|gateway| Hop {
        out: Out::Port(WAN),
        gateway: Some(gateway.parse().unwrap()),
        weight: 1,
        onlink: false,
    });
    let other = "[[neighbours]]\ninterface = \"wan0\"\naddress = \"2001:db8:2::8\"\nmac = \"02:00:00:00:00:08\"\n";
    let macs = |judge_all: bool| {
        let mut rig = rig_with(&format!("{other}[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW\"]\n"));
        rig.router.routes(vec![Change::Append(entry("2001:db8:99::/48", Kind::Via(hops.to_vec())))]);
        if judge_all {
            rig.engine.remember_only(sumun_dataplane::engine::Remembered::Nothing);
        }
        let labelled = |label: u8| {
            let mut frame = udp(Family::V6, client, far, (1000, 53), b"?");
            frame[17] = label;
            frame
        };
        (0..32).map(|n| rig.send(LAN, &labelled(n % 8))[0].1[5]).collect::<Vec<_>>()
    };
    let judged = macs(true);
    assert!(judged.contains(&2) && judged.contains(&8), "{judged:?}");
    assert_eq!(macs(false), judged);
}

#[test]
fn what_would_leave_by_another_device_is_refused_and_counted() {
    let mut rig = rig();
    let other = || Out::Other("docker0".into());
    for (_, frame, prefix, gateway) in strangers() {
        rig.router.routes(vec![Change::Append(entry(prefix, via(other(), gateway)))]);
        let sent = rig.send(LAN, &frame);
        assert!(matches!(&sent[..], [(LAN, error)] if describe(error).contains("icmp")), "{sent:?}");
    }
    assert_eq!(rig.drops(), [("not-a-port", 2)]);
}

#[test]
fn mirrored_addresses_are_the_routers_own_and_those_of_the_file_stay() {
    let mut rig = rig();
    let own = |text: &str| {
        let (family, addr) = number(text.parse().unwrap());
        Own { port: LAN, family, addr, prefix: family.bits() }
    };
    let client = ends(Family::V4).0;
    let answers = |to: &str, rig: &mut Rig| {
        let to = number(to.parse().unwrap()).1;
        !rig.send(LAN, &ping(Family::V4, client, to, 1, b"x")).is_empty()
    };
    assert!(answers("192.168.1.1", &mut rig));
    let added = own("192.168.1.200");
    let local = entry("192.168.1.200/32", Kind::Local(LAN));
    let local = Entry { table: table::LOCAL, metric: 0, ..local };
    rig.router.routes(vec![Change::Address(added), Change::Append(local.clone())]);
    assert!(rig.router.fib().is_own(Family::V4, added.addr, LAN));
    assert!(answers("192.168.1.200", &mut rig));
    rig.router.routes(vec![Change::NoAddress(added), Change::Remove(local)]);
    assert!(!rig.router.fib().is_own(Family::V4, added.addr, LAN));
    rig.router.routes(vec![Change::Forget]);
    assert!(answers("192.168.1.1", &mut rig));
}

#[test]
fn an_address_and_the_rules_of_a_policy_come_together() {
    let mut rig = rig();
    let before = (rig.router.generation(), rig.router.routes_number());
    rig.swap("");
    assert!(rig.router.is_settled());
    let after = (rig.router.generation(), rig.router.routes_number());
    assert_eq!(after, (before.0 + 1, before.1 + 1));
    // Routes of their own do not make rules new.
    let refused = rig.router.routes(vec![Change::Forget]).left_out;
    assert_eq!(refused.len(), 1, "routes come from the file now");
    assert!(!rig.router.is_settled());
    rig.wait(1);
    assert!(rig.router.is_settled());
    assert_eq!(rig.router.generation(), after.0);
}

#[test]
fn routes_that_no_worker_has_are_freed_by_who_settles() {
    let mut rig = rig();
    let old = Arc::downgrade(&rig.router.fib());
    rig.router.routes(vec![Change::Append(entry("198.51.100.0/24", Kind::Blackhole))]);
    rig.router.settle();
    assert!(old.upgrade().is_some(), "the worker has not looked yet");
    rig.wait(1);
    assert!(old.upgrade().is_some(), "not on the worker");
    rig.router.settle();
    assert!(old.upgrade().is_none());
}

#[test]
fn nonsense_is_left_out_and_the_rest_of_the_batch_holds() {
    let rig = rig();
    let far = PortId(7);
    let nonsense = vec![
        Change::Append(entry("198.51.100.0/24", via(Out::Port(far), "203.0.113.9"))),
        Change::Append(entry("198.51.100.0/24", via(Out::Port(WAN), "::9"))),
        Change::Append(entry("2001:db8:99::/48", via(Out::Port(WAN), "203.0.113.9"))),
        Change::Append(entry("198.51.100.0/24", Kind::Local(far))),
        Change::Append(Entry { table: 0, ..entry("198.51.100.0/24", Kind::Blackhole) }),
        Change::Remove(entry("198.51.100.0/24", Kind::Blackhole)),
        Change::Mtu { port: far, mtu: 1400 },
        Change::Mtu { port: LAN, mtu: 20 },
        Change::Link { port: PortId::NONE, state: LinkState::Down },
        Change::Vrf { port: far, table: Some(100) },
        Change::NoAddress(Own { port: LAN, family: Family::V4, addr: 1, prefix: 24 }),
        Change::Address(Own { port: LAN, family: Family::V4, addr: 1, prefix: 33 }),
    ];
    let good = entry("198.51.100.0/24", via(Out::Port(WAN), "203.0.113.9"));
    let count = rig.router.fib().routes();
    let batch = nonsense.iter().cloned().chain([Change::Append(good)]).collect();
    let applied = rig.router.routes(batch);
    let left_out: Vec<Change> = applied.left_out.into_iter().map(|(change, _)| change).collect();
    assert_eq!(left_out, nonsense);
    assert_eq!(rig.router.fib().routes(), count + 1);
}
