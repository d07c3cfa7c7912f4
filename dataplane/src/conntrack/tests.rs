//! The tracker as a router uses it: packets in, states out.

use super::*;
use crate::packet::parse;
use crate::packet::sample;
use crate::reason::DropReason;
use std::collections::HashMap;
use std::sync::Arc;
use sumun_config::facts::{CtState, Facts, Family, PortId, proto, status};
use sumun_config::model::Sysctl;

const S: u64 = 1_000_000_000;

/// A packet with its facts.
pub(crate) struct Sample {
    pub facts: Facts,
    pub l3: Vec<u8>,
}

/// A packet of `family` between two small addresses, as if it came in on a port.
pub(crate) fn sample(family: Family, src: u128, dst: u128, proto: u8, l4: &[u8]) -> Sample {
    let mut l3 = sample::packet(family, proto, l4);
    let mut facts = parse::ip(family, &l3).expect("a good packet");
    crate::packet::edit::set_source(&mut l3, &mut facts, src);
    crate::packet::edit::set_destination(&mut l3, &mut facts, dst);
    facts.iif = PortId(0);
    Sample { facts, l3 }
}

pub(crate) const A: u128 = 0x0a00_0002;
pub(crate) const B: u128 = 0x0a00_0102;

pub(crate) fn udp(src: u128, sport: u16, dst: u128, dport: u16) -> Sample {
    sample(Family::V4, src, dst, proto::UDP, &sample::udp(sport, dport, b"hello"))
}

/// A segment of a connection whose sides both begin at zero and have sent nothing but their SYNs.
pub(crate) fn tcp(src: u128, sport: u16, dst: u128, dport: u16, flags: u8) -> Sample {
    let p = sample(Family::V4, src, dst, proto::TCP, &sample::tcp(sport, dport, flags, &[], b""));
    tcp_at(p, u32::from(flags & 0x02 == 0), u32::from(flags & 0x10 != 0))
}

/// The same with sequence numbers.
pub(crate) fn tcp_at(mut p: Sample, seq: u32, ack: u32) -> Sample {
    p.l3[24..28].copy_from_slice(&seq.to_be_bytes());
    p.l3[28..32].copy_from_slice(&ack.to_be_bytes());
    sample::fix_l4(Family::V4, &mut p.l3);
    p
}

pub(crate) fn ping(src: u128, dst: u128, kind: u8, id: u16) -> Sample {
    sample(Family::V4, src, dst, proto::ICMP, &sample::icmp(kind, 0, u32::from(id) << 16 | 1, b"data"))
}

/// The kernel's settings, and flows that count.
fn counting() -> Sysctl {
    Sysctl { nf_conntrack_acct: true, ..Sysctl::default() }
}

fn table(flows: u32) -> (Arc<Conntrack>, Tracker) {
    let shared = Arc::new(Conntrack::new(flows, 1, 42));
    let tracker = Tracker::new(shared.clone(), 0);
    (shared, tracker)
}

/// Tracks and confirms one packet: its state, direction and status.
fn pass(t: &mut Tracker, p: &mut Sample, now: u64) -> Result<(CtState, Dir, u32), DropReason> {
    let ct = t.track(&mut p.facts, &p.l3, now, &counting())?;
    t.confirm(ct, &mut p.facts, now)?;
    t.quiescent(now);
    Ok((p.facts.ct_state, p.facts.ct_dir, p.facts.ct_status & !status::CONFIRMED))
}

fn views(shared: &Conntrack, now: u64) -> Vec<String> {
    let mut lines = Vec::new();
    shared.list(now, |v| lines.push(v.to_string()));
    lines
}

use CtState::*;
use Dir::*;

#[test]
fn udp_is_new_then_established_then_assured_with_the_kernels_timeouts() {
    let (shared, mut t) = table(100);
    let (mut there, mut back) = (udp(A, 1000, B, 53), udp(B, 53, A, 1000));
    let mut at = |p: &mut Sample, now: u64| {
        let seen = pass(&mut t, p, now).unwrap();
        let (view, _) = shared.flow_of(&p.facts, now).unwrap();
        (seen, view.left)
    };
    assert_eq!(at(&mut there, S), ((New, Original, 0), 30_000));
    assert_eq!(at(&mut there, 2 * S), ((New, Original, 0), 30_000));
    // The reply is judged before it sets SEEN_REPLY.
    assert_eq!(at(&mut back, 5 * S), ((Established, Reply, status::SEEN_REPLY), 30_000));
    let both = status::SEEN_REPLY | status::ASSURED;
    assert_eq!(at(&mut there, 6 * S), ((Established, Original, both), 120_000));
    assert_eq!(shared.count(), 1);
    assert_eq!(
        views(&shared, 6 * S),
        [
            "udp      17 120 src=10.0.0.2 dst=10.0.1.2 sport=1000 dport=53 packets=3 bytes=99 src=10.0.1.2 dst=10.0.0.2 sport=53 dport=1000 packets=1 bytes=33 [ASSURED] mark=0 use=1"
        ]
    );
}

#[test]
fn a_flow_is_got_by_either_direction_and_is_another_one_after_its_deletion() {
    let (shared, mut t) = table(100);
    let mut there = udp(A, 1000, B, 53);
    pass(&mut t, &mut there, 0).unwrap();
    let tuple = Tuple::of(&there.facts);
    let answer = tuple.inverted().unwrap();
    let first = shared.get(&tuple, Original, 0).expect("it is there");
    assert_eq!(shared.get(&answer, Reply, 0), Some(first));
    assert_eq!([shared.get(&answer, Original, 0), shared.get(&tuple, Reply, 0)], [None; 2]);
    let mut deleted = Vec::new();
    assert_eq!(shared.delete_part(0, 1000, 0, |view| view.mark == 0, |view| deleted.push(*view)), None);
    assert_eq!((deleted, shared.get(&tuple, Original, 0)), (vec![first], None));
    pass(&mut t, &mut there, 0).unwrap();
    assert_ne!(shared.get(&tuple, Original, 0).expect("another one").id, first.id);
}

#[test]
fn a_quick_exchange_of_datagrams_is_no_stream() {
    let (shared, mut t) = table(100);
    for (now, p) in [(0, &mut udp(A, 1, B, 53)), (S, &mut udp(B, 53, A, 1)), (2 * S, &mut udp(A, 1, B, 53))] {
        pass(&mut t, p, now).unwrap();
        assert_eq!(shared.flow_of(&p.facts, now).unwrap().0.left, 30_000);
    }
}

#[test]
fn any_answered_exchange_of_udp_lite_is_a_stream() {
    let (shared, mut t) = table(100);
    let lite =
        |src, dst, sport, dport| sample(Family::V4, src, dst, proto::UDPLITE, &sample::udp(sport, dport, b"lite"));
    for (mut p, left, bits) in [
        (lite(A, B, 1, 53), 30_000, 0),
        (lite(B, A, 53, 1), 30_000, status::SEEN_REPLY),
        (lite(A, B, 1, 53), 120_000, status::SEEN_REPLY | status::ASSURED),
    ] {
        assert_eq!(pass(&mut t, &mut p, S).unwrap().2, bits);
        assert_eq!(shared.flow_of(&p.facts, S).unwrap().0.left, left);
    }
}

#[test]
fn pings_are_flows_by_identifier_and_answers_begin_none() {
    let (shared, mut t) = table(100);
    assert_eq!(pass(&mut t, &mut ping(A, B, 8, 7), 0).unwrap(), (New, Original, 0));
    assert_eq!(pass(&mut t, &mut ping(B, A, 0, 7), 0).unwrap(), (Established, Reply, status::SEEN_REPLY));
    assert_eq!(pass(&mut t, &mut ping(A, B, 8, 8), 0).unwrap(), (New, Original, 0));
    for (kind, id) in [(0, 9), (14, 9), (16, 9), (18, 9), (19, 9), (1, 9)] {
        assert_eq!(pass(&mut t, &mut ping(B, A, kind, id), 0).unwrap().0, Invalid, "type {kind}");
    }
    for kind in [13, 15, 17] {
        assert_eq!(pass(&mut t, &mut ping(A, B, kind, 9), 0).unwrap().0, New, "type {kind}");
    }
    assert_eq!(shared.count(), 5);
    assert_eq!(shared.stats().invalid, 6);
}

#[test]
fn icmpv6_neighbour_discovery_is_untracked_and_echo_is_a_flow() {
    let (shared, mut t) = table(100);
    for kind in [130, 131, 132, 133, 134, 135, 136, 143, 151, 152] {
        let mut p = sample(Family::V6, A, B, proto::ICMPV6, &sample::icmpv6(kind, 0, 0, &[0; 20]));
        assert_eq!(t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()), Ok(Ct::Untracked));
        assert_eq!((p.facts.ct_state, p.facts.has_ct), (Untracked, false));
    }
    for (kind, state) in [(128, New), (129, Established), (139, New), (150, Invalid), (137, Invalid)] {
        let (src, dst) = if kind == 129 { (B, A) } else { (A, B) };
        let mut p = sample(Family::V6, src, dst, proto::ICMPV6, &sample::icmpv6(kind, 0, 7 << 16, &[0; 20]));
        assert_eq!(pass(&mut t, &mut p, 0).unwrap().0, state, "type {kind}");
    }
    assert_eq!(shared.count(), 2);
    // Node information is told apart by what stands where an echo has its identifier, too.
    for (id, state) in [(7, Established), (8, Invalid)] {
        let mut p = sample(Family::V6, B, A, proto::ICMPV6, &sample::icmpv6(140, 0, id << 16, &[0; 20]));
        assert_eq!(pass(&mut t, &mut p, 0).unwrap().0, state, "{id}");
    }
}

#[test]
fn other_protocols_are_flows_by_their_addresses() {
    let (shared, mut t) = table(100);
    let mut ospf = sample(Family::V4, A, B, 89, &[1; 40]);
    let mut dccp = sample(Family::V4, A, B, proto::DCCP, &[5; 16]);
    let mut gre = sample(Family::V4, A, B, proto::GRE, &[0; 16]);
    for p in [&mut ospf, &mut dccp, &mut gre] {
        assert_eq!(pass(&mut t, p, 0).unwrap().0, New);
    }
    let mut back = sample(Family::V4, B, A, proto::GRE, &[0; 16]);
    assert_eq!(pass(&mut t, &mut back, 0).unwrap().0, Established);
    assert_eq!(pass(&mut t, &mut gre, 0).unwrap().2, status::SEEN_REPLY | status::ASSURED);
    let left: Vec<u32> = [&ospf, &dccp, &gre].map(|p| shared.flow_of(&p.facts, 0).unwrap().0.left).to_vec();
    assert_eq!(left, [600_000, 600_000, 180_000]);
    // Other ports of a protocol whose ports do not count.
    assert_eq!(pass(&mut t, &mut sample(Family::V4, B, A, proto::DCCP, &[6; 16]), 0).unwrap().0, Established);
}

#[test]
fn enhanced_gre_is_a_flow_by_its_call() {
    let (shared, mut t) = table(100);
    let gre = |src, dst, protocol: [u8; 2], call: u8| {
        sample(Family::V4, src, dst, proto::GRE, &[0x30, 1, protocol[0], protocol[1], 0, 0, 0, call, 0, 0, 0, 0])
    };
    let ppp = [0x88, 0x0b];
    assert_eq!(pass(&mut t, &mut gre(A, B, ppp, 1), 0).unwrap().0, New);
    assert_eq!(pass(&mut t, &mut gre(A, B, ppp, 2), 0).unwrap().0, New);
    // Without a helper nobody knows which calls belong together.
    assert_eq!(pass(&mut t, &mut gre(B, A, ppp, 1), 0).unwrap().0, New);
    assert_eq!(pass(&mut t, &mut gre(B, A, ppp, 0), 0).unwrap().0, New);
    assert_eq!(pass(&mut t, &mut gre(A, B, [8, 0], 1), 0).unwrap().0, Invalid);
    assert_eq!(t.why_invalid(), Some(super::Invalid::GreVersion));
    assert_eq!(shared.count(), 4);
    assert!(views(&shared, 0)[0].contains("srckey=0x0 dstkey=0x1 "));
}

#[test]
fn a_tcp_connection_is_tracked_from_syn_to_reset() {
    let (shared, mut t) = table(100);
    let both = status::SEEN_REPLY | status::ASSURED;
    assert_eq!(pass(&mut t, &mut tcp_at(tcp(A, 1, B, 80, 0x02), 0, 0), 0).unwrap(), (New, Original, 0));
    assert_eq!(
        pass(&mut t, &mut tcp_at(tcp(B, 80, A, 1, 0x12), 100, 1), 0).unwrap(),
        (Established, Reply, status::SEEN_REPLY)
    );
    assert_eq!(pass(&mut t, &mut tcp_at(tcp(A, 1, B, 80, 0x10), 1, 101), 0).unwrap(), (Established, Original, both));
    assert!(views(&shared, 0)[0].starts_with("tcp      6 432000 ESTABLISHED src=10.0.0.2"));
    assert_eq!(pass(&mut t, &mut tcp(A, 1, B, 80, 0x3f), 0).unwrap().0, Invalid, "a christmas tree");
    assert_eq!(pass(&mut t, &mut tcp_at(tcp(A, 1, B, 80, 0x14), 1, 101), 0).unwrap(), (Established, Original, both));
    assert!(views(&shared, 0)[0].starts_with("tcp      6 10 CLOSE src=10.0.0.2"));
    // Aborted and begun again by the same side: a new flow.
    assert_eq!(pass(&mut t, &mut tcp(A, 1, B, 80, 0x02), S).unwrap(), (New, Original, 0));
    assert_eq!((shared.count(), shared.stats().insert, shared.stats().delete), (1, 2, 1));
}

#[test]
fn a_refused_tcp_connection_leaves_the_table_with_its_reset() {
    let (shared, mut t) = table(100);
    pass(&mut t, &mut tcp_at(tcp(A, 1, B, 80, 0x02), 0, 0), 0).unwrap();
    assert_eq!(pass(&mut t, &mut tcp_at(tcp(B, 80, A, 1, 0x14), 0, 1), 0).unwrap().0, Established);
    assert_eq!(shared.count(), 0);
    assert!(shared.index.is_clean());
    assert_eq!(pass(&mut t, &mut tcp_at(tcp(B, 80, A, 1, 0x14), 0, 1), 0).unwrap().0, Invalid);
}

#[test]
fn malformed_packets_and_bad_checksums_are_invalid() {
    let (shared, mut t) = table(100);
    let mut cases: Vec<(&str, Sample)> = Vec::new();
    let mut bad = udp(A, 1, B, 2);
    *bad.l3.last_mut().unwrap() ^= 1;
    cases.push(("checksum", bad));
    let mut short = udp(A, 1, B, 2);
    short.l3[24..26].copy_from_slice(&7u16.to_be_bytes());
    short.l3[26..28].fill(0);
    cases.push(("UDP length below its header", short));
    let mut long = udp(A, 1, B, 2);
    long.l3[24..26].copy_from_slice(&99u16.to_be_bytes());
    long.l3[26..28].fill(0);
    cases.push(("UDP length beyond the packet", long));
    let mut doff = tcp(A, 1, B, 2, 2);
    doff.l3[32] = 0x40;
    doff.facts.iif = PortId::NONE;
    cases.push(("TCP data offset", doff));
    cases.push(("TCP flags", tcp(A, 1, B, 2, 0)));
    let mut later = udp(A, 1, B, 2);
    (later.facts.frag_off, later.facts.has_l4) = (8, false);
    cases.push(("later fragment", later));
    let mut first = sample(Family::V6, A, B, proto::UDP, &sample::udp(1, 2, &[0; 13]));
    first.facts.more_frags = true;
    first.l3.pop();
    first.facts.len -= 1;
    cases.push(("first fragment of an odd length", first));
    let mut cut = tcp(A, 1, B, 2, 2);
    cut.facts.has_l4 = false;
    cases.push(("truncated header", cut));
    cases.push(("ICMP error about nothing", ping(A, B, 3, 0)));
    let n = cases.len() as u64;
    for (what, mut p) in cases {
        assert_eq!(pass(&mut t, &mut p, 0).unwrap().0, Invalid, "{what}");
        assert!(!p.facts.has_ct);
    }
    assert_eq!((shared.count(), shared.stats().invalid), (0, n));
    // The sysctl and local output are exempt from checksums.
    let mut bad = udp(A, 1, B, 2);
    *bad.l3.last_mut().unwrap() ^= 1;
    bad.facts.iif = PortId::NONE;
    assert_eq!(pass(&mut t, &mut bad, 0).unwrap().0, New);
    bad.facts.iif = PortId(0);
    let s = Sysctl { nf_conntrack_checksum: false, ..Sysctl::default() };
    assert!(matches!(t.track(&mut bad.facts, &bad.l3, 0, &s), Ok(Ct::Flow(_))));
}

#[test]
fn an_abandoned_flow_never_was() {
    let (shared, mut t) = table(100);
    let mut p = udp(A, 1, B, 2);
    let ct = t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
    t.abandon(ct);
    assert_eq!(shared.flow_of(&p.facts, 0), None);
    let mut back = udp(B, 2, A, 1);
    assert_eq!(pass(&mut t, &mut back, 0).unwrap(), (New, Original, 0));
    assert_eq!(shared.stats().insert, 1);
}

#[test]
fn packets_of_one_burst_share_the_flow_that_they_begin() {
    let (shared, mut t) = table(100);
    let s = counting();
    let mut p: Vec<Sample> = (0..3).map(|_| udp(A, 1, B, 2)).collect();
    let cts: Vec<Ct> = p.iter_mut().map(|p| t.track(&mut p.facts, &p.l3, 0, &s).unwrap()).collect();
    assert!(cts.iter().all(|ct| *ct == cts[0]));
    t.abandon(cts[0]);
    t.confirm(cts[1], &mut p[1].facts, 0).unwrap();
    t.abandon(cts[2]);
    t.quiescent(0);
    assert_eq!(shared.count(), 1);
    assert_eq!(shared.flow_of(&p[0].facts, 0).unwrap().0.original.packets, 3);
}

#[test]
fn icmp_errors_are_related_to_the_flow_they_quote_in_both_families_and_directions() {
    for family in Family::ALL {
        let (_, mut t) = table(100);
        let l4 = |a, b| sample::udp(a, b, b"payload");
        let mut there = sample(family, A, B, proto::UDP, &l4(1000, 53));
        let mut back = sample(family, B, A, proto::UDP, &l4(53, 1000));
        pass(&mut t, &mut there, 0).unwrap();
        pass(&mut t, &mut back, 0).unwrap();
        let (icmp, kind) = if family == Family::V4 { (proto::ICMP, 3) } else { (proto::ICMPV6, 1) };
        let error = |from, to, quoted: &[u8]| sample(family, from, to, icmp, &sample::icmp(kind, 1, 0, quoted));
        let router = 0x0a63_0001;

        // The error flows against the packet that it quotes.
        let mut about_there = error(router, A, &there.l3);
        assert_eq!(pass(&mut t, &mut about_there, 0).unwrap().0, Related);
        assert_eq!((about_there.facts.ct_dir, about_there.facts.has_ct), (Reply, true));
        let mut about_back = error(router, B, &back.l3);
        assert_eq!(pass(&mut t, &mut about_back, 0).unwrap().0, Related);
        assert_eq!(about_back.facts.ct_dir, Original);

        let mut elsewhere = error(router, 0x0a63_0002, &there.l3);
        assert_eq!(pass(&mut t, &mut elsewhere, 0).unwrap().0, Invalid, "not to the sender of what it quotes");
        let cut = there.l3.len() - l4(1, 1).len() + 4;
        let mut enough = error(router, A, &there.l3[..cut]);
        assert_eq!(pass(&mut t, &mut enough, 0).unwrap().0, Related, "the ports are enough");
        for cut in 0..cut {
            let mut short = error(router, A, &there.l3[..cut]);
            assert_eq!(pass(&mut t, &mut short, 0).unwrap().0, Invalid, "cut at {cut}");
        }
        let stranger = sample(family, A, B, proto::UDP, &l4(1000, 54));
        let mut unknown = error(router, A, &stranger.l3);
        assert_eq!(pass(&mut t, &mut unknown, 0).unwrap().0, Invalid);
    }
}

#[test]
fn an_error_about_a_ping_is_related_to_it() {
    let (_, mut t) = table(10);
    let mut request = ping(A, B, 8, 77);
    pass(&mut t, &mut request, 0).unwrap();
    let mut error = sample(Family::V4, 9, A, proto::ICMP, &sample::icmp(11, 0, 0, &request.l3));
    assert_eq!(pass(&mut t, &mut error, 0).unwrap(), (Related, Reply, 0));
}

#[test]
fn the_routers_own_error_is_related_to_its_cause_and_confirms_nothing() {
    let (shared, mut t) = table(10);
    let mut p = udp(A, 1, B, 2);
    let ct = t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
    let mut error = sample(Family::V4, B, A, proto::ICMP, &sample::icmp(3, 3, 0, &p.l3));
    let own = t.attach(ct, &mut error.facts);
    assert_eq!((error.facts.ct_state, error.facts.ct_dir), (Related, Reply));
    t.abandon(ct);
    t.confirm(own, &mut error.facts, 0).unwrap();
    assert_eq!(shared.count(), 0);
    assert_eq!(shared.stats().insert_failed, 0);
}

#[test]
fn expired_flows_are_absent_at_once_and_swept_in_time() {
    let (shared, mut t) = table(1000);
    for port in 0..200 {
        pass(&mut t, &mut udp(A, port, B, 53), 0).unwrap();
    }
    assert_eq!(pass(&mut t, &mut udp(A, 0, B, 53), 29 * S).unwrap(), (New, Original, 0));
    let now = 30 * S;
    assert_eq!(views(&shared, now).len(), 1);
    assert_eq!(shared.flow_of(&udp(A, 1, B, 53).facts, now), None);
    // A reply that comes too late begins a flow of its own.
    assert_eq!(pass(&mut t, &mut udp(B, 53, A, 1), now).unwrap(), (New, Original, 0));
    let mut turn = now;
    while turn < now + 9 * S {
        t.sweep(turn, 64);
        t.quiescent(turn);
        turn += S / 10;
    }
    assert_eq!(shared.count(), 2);
    assert_eq!((shared.stats().insert, shared.stats().delete), (201, 199));
}

#[test]
fn a_sweep_stays_within_its_budget_and_its_pace() {
    let (shared, mut t) = table(1000);
    for port in 0..1000 {
        pass(&mut t, &mut udp(A, port, B, 53), 0).unwrap();
    }
    t.sweep(100 * S, 64);
    assert_eq!(shared.stats().delete, 64);
    for _ in 0..20 {
        t.sweep(100 * S, 10_000);
    }
    assert!(shared.count() <= 64, "{}", shared.count());
    assert_eq!(shared.stats().delete + u64::from(shared.count()), 1000);
}

#[test]
fn a_full_table_drops_unassured_flows_early_and_else_refuses() {
    let (shared, mut t) = table(4);
    for port in 1..=4 {
        pass(&mut t, &mut udp(A, port, B, 53), 0).unwrap();
    }
    pass(&mut t, &mut udp(A, 5, B, 53), 0).unwrap();
    let stats = shared.stats();
    assert!(stats.early_drop >= 1);
    assert_eq!(u64::from(shared.count()), 5 - stats.early_drop);

    let (shared, mut t) = table(4);
    for port in 1..=4 {
        for (now, mut p) in [(0, udp(A, port, B, 53)), (0, udp(B, 53, A, port)), (3 * S, udp(A, port, B, 53))] {
            pass(&mut t, &mut p, now).unwrap();
        }
    }
    assert_eq!(pass(&mut t, &mut udp(A, 5, B, 53), 4 * S), Err(DropReason::ConntrackFull));
    assert_eq!((shared.count(), shared.stats().drop), (4, 1));
    // Room comes back when flows end.
    assert_eq!(pass(&mut t, &mut udp(A, 5, B, 53), 200 * S).unwrap().0, New);
}

#[test]
fn closing_connections_make_room_only_once_a_packet_was_refused() {
    const FLOWS: u16 = 400;
    let (shared, mut t) = table(FLOWS.into());
    for port in 1..=FLOWS {
        let fin = |p| tcp_at(p, 1, 1);
        for mut p in [
            tcp(A, port, B, 80, 0x02),
            tcp(B, 80, A, port, 0x12),
            tcp(A, port, B, 80, 0x10),
            fin(tcp(A, port, B, 80, 0x11)),
        ] {
            pass(&mut t, &mut p, 0).unwrap();
        }
    }
    let round = |t: &mut Tracker, from: u64| (0..10).for_each(|n| t.sweep(from + n * S, 10_000));
    round(&mut t, S);
    assert_eq!(shared.count(), u32::from(FLOWS), "a full table is nobody's business yet");
    // All are ASSURED: early drop finds none, but the sweep may take those that close.
    assert_eq!(pass(&mut t, &mut udp(A, 9, B, 9), 12 * S), Err(DropReason::ConntrackFull));
    round(&mut t, 12 * S);
    assert_eq!(shared.count(), u32::from(FLOWS - FLOWS / 20), "a twentieth is free and no more was taken");
    round(&mut t, 30 * S);
    assert_eq!(shared.count(), u32::from(FLOWS - FLOWS / 20));
    t.quiescent(40 * S);
    assert_eq!(pass(&mut t, &mut udp(A, 9, B, 9), 40 * S).unwrap().0, New);
}

#[test]
fn a_flood_of_new_flows_is_served_for_ever_by_early_drop() {
    let (shared, mut t) = table(64);
    for i in 0..20_000u32 {
        let mut p = tcp(A + u128::from(i >> 14), (i & 0x3fff) as u16, B, 80, 2);
        let ct = t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
        t.confirm(ct, &mut p.facts, 0).unwrap();
        if i % 64 == 0 {
            t.quiescent(0);
        }
    }
    assert!(shared.count() <= 64);
    shared.flush(0);
    let mut now = 0;
    while shared.stats().delete < shared.stats().insert {
        now += S;
        t.sweep(now, 10_000);
        assert!(now < 100 * S);
    }
    assert!(shared.index.is_clean());
}

#[test]
fn operators_delete_flush_and_count() {
    let (shared, mut t) = table(100);
    for port in 1..=10 {
        pass(&mut t, &mut udp(A, port, B, 53), 0).unwrap();
    }
    assert_eq!(shared.delete(0, |v| v.original.tuple.sport <= 3), 3);
    assert_eq!(shared.delete(0, |v| v.original.tuple.sport <= 3), 0);
    assert_eq!((shared.count(), views(&shared, 0).len()), (7, 7));
    // A packet of a deleted flow begins it anew.
    pass(&mut t, &mut udp(A, 1, B, 53), 0).unwrap();
    assert_eq!(shared.count(), 8);
    assert_eq!(shared.flush(0), 8);
    assert_eq!((shared.count(), views(&shared, 0).len()), (0, 0));
    for turn in 1..200 {
        t.sweep(turn * S / 10, 64);
    }
    assert_eq!((shared.count(), shared.stats().delete), (0, 11));
    assert!(shared.index.is_clean());
}

#[test]
fn marks_stay_with_the_flow() {
    let (shared, mut t) = table(100);
    let mut p = udp(A, 1, B, 53);
    let ct = t.track(&mut p.facts, &p.l3, 0, &Sysctl::default()).unwrap();
    t.set_mark(ct, 0xbeef);
    t.confirm(ct, &mut p.facts, 0).unwrap();
    let mut back = udp(B, 53, A, 1);
    pass(&mut t, &mut back, 0).unwrap();
    assert_eq!((back.facts.ct_mark, shared.flow_of(&p.facts, 0).unwrap().0.mark), (0xbeef, 0xbeef));
}

#[test]
fn first_packets_that_race_are_one_flow_for_udp_and_a_clash_for_tcp() {
    let shared = Arc::new(Conntrack::new(100, 2, 1));
    let (mut one, mut two) = (Tracker::new(shared.clone(), 0), Tracker::new(shared.clone(), 1));
    let s = counting();
    let mut race = |mut p: Sample, mut q: Sample| {
        let a = one.track(&mut p.facts, &p.l3, 0, &s).unwrap();
        let b = two.track(&mut q.facts, &q.l3, 0, &s).unwrap();
        one.confirm(a, &mut p.facts, 0).unwrap();
        let result = two.confirm(b, &mut q.facts, 0);
        (result, q.facts.ct_dir)
    };
    assert_eq!(race(udp(A, 1, B, 53), udp(A, 1, B, 53)), (Ok(()), Original));
    assert_eq!(race(udp(A, 2, B, 53), udp(B, 53, A, 2)), (Ok(()), Reply), "both ends at once");
    assert_eq!(race(tcp(A, 1, B, 80, 2), tcp(A, 1, B, 80, 2)), (Err(DropReason::ConntrackClash), Original));
    let stats = shared.stats();
    assert_eq!((stats.insert, stats.clash_resolve, stats.insert_failed, stats.drop), (3, 2, 1, 1));
    let view = shared.flow_of(&udp(A, 1, B, 53).facts, 0).unwrap().0;
    assert_eq!((view.original.packets, view.original.bytes), (2, 66));
    let view = shared.flow_of(&udp(A, 2, B, 53).facts, 0).unwrap().0;
    assert_eq!((view.reply.packets, view.status & status::SEEN_REPLY), (1, status::SEEN_REPLY));
}

#[test]
fn the_end_of_a_life_is_moved_for_each_packet_and_once_a_jiffy_where_workers_share_it() {
    let ends = |workers| {
        let shared = Arc::new(Conntrack::new(100, workers, 1));
        let mut t = Tracker::new(shared.clone(), 0);
        let mut end = |ms: u64| {
            let mut p = udp(A, 1, B, 53);
            pass(&mut t, &mut p, ms * 1_000_000).unwrap();
            let tuple = Tuple::of(&p.facts);
            let (id, ..) = shared.find(shared.hash(&tuple), &tuple.words()).unwrap();
            shared.entry(id).deadline.load(Ordering::Relaxed)
        };
        [0, 1, 3, 4, 6, 9].map(&mut end)
    };
    assert_eq!(ends(1), [30_000, 30_001, 30_003, 30_004, 30_006, 30_009]);
    assert_eq!(ends(2), [30_000, 30_000, 30_000, 30_004, 30_004, 30_009]);
}

#[test]
fn prefetching_changes_nothing() {
    let (shared, mut t) = table(100);
    let hash = |port| shared.hash(&Tuple::of(&udp(A, port, B, 53).facts));
    for port in 0..100 {
        pass(&mut t, &mut udp(A, port, B, 53), 0).unwrap();
    }
    for port in 0..150 {
        t.prefetch_index(hash(port));
        t.prefetch_found(hash(port));
        t.prefetch_flow(port.into(), 6);
    }
    t.prefetch_flow(u32::MAX, 6);
    assert_eq!((shared.count(), shared.stats().insert), (100, 100));
}

#[test]
fn workers_that_make_find_and_lose_flows_at_once_keep_the_table_whole() {
    const WORKERS: usize = 2;
    let shared = Arc::new(Conntrack::new(256, WORKERS, 3));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let shared = shared.clone();
            scope.spawn(move || {
                let mut t = Tracker::new(shared.clone(), worker);
                let s = Sysctl { nf_conntrack_udp_timeout: 20, ..Sysctl::default() };
                let mut rng = worker as u64 + 1;
                for turn in 0..1500u64 {
                    let now = turn * 1_000_000;
                    for _ in 0..16 {
                        rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let port = (rng >> 33) as u16 % 400;
                        let mut p = if rng >> 63 == 0 { udp(A, port, B, 53) } else { udp(B, 53, A, port) };
                        let Ok(ct) = t.track(&mut p.facts, &p.l3, now, &s) else { continue };
                        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
                        // What was found is what was looked for, whoever changes the table meanwhile.
                        assert_eq!(shared.entry(flow.id).tuple(flow.dir), Tuple::of(&p.facts));
                        if rng >> 40 & 7 == 0 {
                            t.abandon(ct);
                        } else {
                            let _ = t.confirm(ct, &mut p.facts, now);
                        }
                    }
                    t.sweep(now, 64);
                    t.quiescent(now);
                    if turn % 100 == 0 {
                        shared.list(now, |v| assert_eq!(v.original.tuple.inverted(), Some(v.reply.tuple)));
                        shared.delete(now, |v| v.original.tuple.sport % 7 == 0);
                        t.offline();
                        t.online();
                    }
                }
            });
        }
    });
    shared.flush(0);
    let mut t = Tracker::new(shared.clone(), 0);
    let mut now = 1_000 * S;
    while shared.stats().delete < shared.stats().insert {
        t.sweep(now, 1024);
        t.quiescent(now);
        now += S;
        assert!(now < 1_100 * S);
    }
    assert!(shared.index.is_clean());
    assert_eq!(shared.count(), 0);
    // All entries and all room came back.
    for _ in 0..5 {
        t.quiescent(now);
    }
    for port in 0..256 {
        pass(&mut t, &mut udp(A, port, B, 54), now).unwrap();
    }
    assert_eq!((shared.count(), shared.stats().early_drop > 0), (256, shared.stats().early_drop > 0));
}

#[test]
fn both_directions_of_a_connection_on_two_workers_at_once_never_tear_its_windows() {
    const SEGMENTS: u32 = 20_000;
    let shared = Arc::new(Conntrack::new(64, 2, 3));
    let mut one = Tracker::new(shared.clone(), 0);
    let s = Sysctl { nf_conntrack_checksum: false, ..counting() };
    for mut p in [tcp(A, 1, B, 80, 0x02), tcp(B, 80, A, 1, 0x12), tcp(A, 1, B, 80, 0x10)] {
        let ct = one.track(&mut p.facts, &p.l3, 0, &s).unwrap();
        one.confirm(ct, &mut p.facts, 0).unwrap();
    }
    // Both sides' numbers wander inside the windows of the handshake: none is refused if every update is seen whole.
    let invalid: u32 = std::thread::scope(|scope| {
        let ends = [(A, 1, B, 80, one), (B, 80, A, 1, Tracker::new(shared.clone(), 1))];
        let threads = ends.map(|(src, sport, dst, dport, mut t)| {
            let s = &s;
            scope.spawn(move || {
                let mut invalid = 0;
                for n in 0..SEGMENTS {
                    let mut p = tcp_at(tcp(src, sport, dst, dport, 0x18), 1 + n % 4096, 1);
                    let ct = t.track(&mut p.facts, &p.l3, 0, s).unwrap();
                    invalid += u32::from(p.facts.ct_state != Established);
                    t.confirm(ct, &mut p.facts, 0).unwrap();
                    t.quiescent(0);
                }
                t.offline();
                invalid
            })
        });
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert_eq!((invalid, shared.stats().invalid), (0, 0));
    let view = shared.flow_of(&tcp(A, 1, B, 80, 0x10).facts, 0).unwrap().0;
    assert_eq!((view.original.packets, view.reply.packets), (2 + u64::from(SEGMENTS), 1 + u64::from(SEGMENTS)));
    assert_eq!(view.state, Some("ESTABLISHED"));
}

/// The model: flows by tuple in a `HashMap`, expiry by comparing times.
#[derive(Default)]
struct Model {
    flows: Vec<(Tuple, u64, bool)>,
    by_tuple: HashMap<Tuple, (usize, Dir)>,
}

impl Model {
    fn pass(&mut self, tuple: Tuple, now: u64) -> (CtState, Dir) {
        if let Some(&(at, dir)) = self.by_tuple.get(&tuple) {
            let (original, until, answered) = &mut self.flows[at];
            if now < *until {
                let state = if dir == Original && !*answered { New } else { Established };
                *until = now + 30 * S;
                *answered |= dir == Reply;
                return (state, dir);
            }
            let original = *original;
            self.by_tuple.remove(&original);
            self.by_tuple.remove(&original.inverted().unwrap());
        }
        let at = self.flows.len();
        self.flows.push((tuple, now + 30 * S, false));
        self.by_tuple.insert(tuple, (at, Original));
        self.by_tuple.insert(tuple.inverted().unwrap(), (at, Reply));
        (New, Original)
    }
}

mod model {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_table_agrees_with_a_hash_map(steps in proptest::collection::vec((0..40u16, any::<bool>(), 0..6_000u64), 1..300), seed: u64) {
            // Streams live as long as others here, so that the model needs to know nothing of ASSURED.
            let s = Sysctl { nf_conntrack_udp_timeout_stream: 30_000, ..Sysctl::default() };
            let shared = Arc::new(Conntrack::new(64, 1, seed));
            let mut t = Tracker::new(shared.clone(), 0);
            let mut model = Model::default();
            let mut now = 0;
            for (port, back, wait) in steps {
                now += wait * 1_000_000;
                let mut p = if back { udp(B, 53, A, port) } else { udp(A, port, B, 53) };
                let ct = t.track(&mut p.facts, &p.l3, now, &s).unwrap();
                t.confirm(ct, &mut p.facts, now).unwrap();
                prop_assert_eq!((p.facts.ct_state, p.facts.ct_dir), model.pass(Tuple::of(&p.facts), now));
                t.sweep(now, 64);
                t.quiescent(now);
            }
            let mut alive = 0;
            shared.list(now, |_| alive += 1);
            let expected = model.by_tuple.values().filter(|(at, dir)| *dir == Original && now < model.flows[*at].1).count();
            prop_assert_eq!(alive, expected);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), proto in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), Just(132), any::<u8>()], v6: bool, checked: bool) {
            let (_, mut t) = table(16);
            let family = if v6 { Family::V6 } else { Family::V4 };
            let l3 = sample::packet(family, proto, &bytes);
            let Ok(mut facts) = parse::ip(family, &l3) else { return Ok(()) };
            facts.iif = if checked { PortId(0) } else { PortId::NONE };
            let ct = t.track(&mut facts, &l3, 0, &Sysctl::default()).unwrap();
            t.confirm(ct, &mut facts, 0).unwrap();
            // And where the facts promise more than the bytes hold.
            for cut in [0, 1, 19, 20, 24, 40, 44] {
                let mut facts = facts;
                if let Ok(ct) = t.track(&mut facts, l3.get(..cut).unwrap_or(&l3), 0, &Sysctl::default()) {
                    t.abandon(ct);
                }
            }
        }
    }
}
