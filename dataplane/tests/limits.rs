//! What cannot be without end has an end, and what is known goes on beyond it.

mod common;

use common::*;
use std::sync::Arc;
use sumun_config::facts::{CtState, Dir, Facts, Family, PortId};
use sumun_config::model::Sysctl;
use sumun_dataplane::conntrack::{Conntrack, Ct, Tracker};
use sumun_dataplane::packet::parse;

const STATEFUL: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-m conntrack --ctstate NEW -i lan0 -j ACCEPT"]
"#;

/// The engine's table has room for 1,024 flows; a third are connections, and forty times as many SYNs as there is
/// room come on top, a burst of them for each packet of a connection.
#[test]
fn a_flood_of_syns_takes_nothing_from_connections_in_a_full_table() {
    const CONNECTIONS: u16 = 340;
    let mut rig = Rig::new(STATEFUL);
    for family in Family::ALL {
        let (client, server) = ends(family);
        let outer = match family {
            Family::V4 => 0xcb00_7102,
            Family::V6 => 0x2001_0db8_0002 << 80 | 2,
        };
        let port = |n: u16| 10_000 + 2 * n + u16::from(family == Family::V6);
        for n in 0..CONNECTIONS / 2 {
            for (flags, from) in [("S", LAN), ("SA", WAN), ("A", LAN)] {
                let frame = match from {
                    LAN => tcp(family, client, server, (port(n), 80), flags, b""),
                    _ => tcp(family, server, outer, (80, port(n)), flags, b""),
                };
                assert_eq!(rig.send(from, &frame).len(), 1, "{n} {flags}");
            }
        }
    }
    let connections = rig.router.conntrack.count();
    assert_eq!(connections, CONNECTIONS.into());
    let (client, server) = ends(Family::V4);
    let mut lost = 0;
    for round in 0..1280u32 {
        let syns: Vec<_> = (0..32)
            .map(|n| {
                let at = round * 32 + n;
                tcp(Family::V4, client + u128::from(at >> 14), server, (20_000 + (at & 0x3fff) as u16, 9), "S", b"")
            })
            .collect();
        lost += syns.len() - rig.burst(LAN, &syns).len();
        let n = (round % u32::from(CONNECTIONS / 2)) as u16;
        let outward = tcp(Family::V4, client, server, (10_000 + 2 * n, 80), "A", b"");
        let inward = tcp(Family::V4, server, 0xcb00_7102, (80, 10_000 + 2 * n), "A", b"");
        assert_eq!((rig.send(LAN, &outward).len(), rig.send(WAN, &inward).len()), (1, 1), "round {round}");
        // A flood at full rate: 33 packets in 10 microseconds.
        rig.wait(10_000);
        assert!(rig.router.conntrack.count() <= 1024);
    }
    let stats = rig.router.conntrack.stats();
    assert!(rig.router.conntrack.count() > 900, "the table is full: {}", rig.router.conntrack.count());
    assert!(stats.early_drop > 30_000, "{stats:?}");
    let full = rig.drops().iter().find(|(name, _)| *name == "conntrack-full").map_or(0, |(_, n)| *n);
    assert_eq!(
        (lost as u64, stats.drop),
        (full, full),
        "SYNs are refused only where none could make room, and counted"
    );
    let mut assured = 0;
    rig.router.conntrack.list(rig.now, |flow| assured += u32::from(flow.state == Some("ESTABLISHED")));
    assert_eq!(assured, connections, "not one of them was dropped");
    rig.assert_census();
}

/// A datagram's facts; the bytes say nothing of addresses, which conntrack takes from the facts.
fn datagram() -> (Facts, Vec<u8>) {
    let (client, server) = ends(Family::V4);
    let frame = udp(Family::V4, client, server, (1, 53), b"hello");
    let l3 = frame[14..].to_vec();
    let mut facts = parse::ip(Family::V4, &l3).expect("a good packet");
    facts.iif = PortId(0);
    (facts, l3)
}

#[test]
fn a_million_flows_are_held_found_in_both_directions_and_swept() {
    const FLOWS: u32 = 1_000_000;
    const S: u64 = 1_000_000_000;
    let shared = Arc::new(Conntrack::new(FLOWS, 1, 5));
    let mut t = Tracker::new(shared.clone(), 0);
    let s = Sysctl { nf_conntrack_checksum: false, ..Sysctl::default() };
    let (facts, l3) = datagram();
    let there = |n: u32| {
        let mut facts = facts;
        facts.src = 0x0a00_0000 + u128::from(n >> 14);
        facts.sport = (n & 0x3fff) as u16;
        facts
    };
    let mut pass = |mut facts: Facts, now: u64| {
        let Ok(ct @ Ct::Flow(flow)) = t.track(&mut facts, &l3, now, &s) else { panic!("{:?}", facts.ct_state) };
        t.confirm(ct, &mut facts, now).expect("room");
        t.quiescent(now);
        (facts.ct_state, flow.dir)
    };
    for n in 0..FLOWS {
        assert_eq!(pass(there(n), S), (CtState::New, Dir::Original));
    }
    assert_eq!((shared.count(), shared.stats().early_drop), (FLOWS, 0));
    for n in 0..FLOWS {
        let facts = there(n);
        let back = Facts { src: facts.dst, dst: facts.src, sport: facts.dport, dport: facts.sport, ..facts };
        assert_eq!(pass(back, 2 * S), (CtState::Established, Dir::Reply));
        assert_eq!(pass(facts, 2 * S), (CtState::Established, Dir::Original));
    }
    assert_eq!((shared.count(), shared.stats().insert), (FLOWS, FLOWS.into()));
    let mut now = 1000 * S;
    while shared.count() > 0 {
        now += S / 100;
        t.sweep(now, 4096);
        t.quiescent(now);
        assert!(now < 1010 * S, "one round of the sweep is eight seconds: {} are left", shared.count());
    }
    assert_eq!(shared.stats().delete, FLOWS.into());
}
