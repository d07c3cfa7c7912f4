//! What CT of table raw asks for: zones of both directions, helpers, events.

use super::tests::{A, B, Sample, ping, sample, tcp, udp};
use super::*;
use crate::nat::{Manip, NatRange};
use crate::packet::sample as bytes;
use crate::reason::DropReason;
use std::sync::Arc;
use sumun_config::facts::{CtState, Family, proto, status};
use sumun_config::helper::Helper;
use sumun_config::model::Sysctl;
use sumun_config::rule::targets::ct::{Ct as Rule, Zone, ZoneId};

const PLAIN: Rule =
    Rule { notrack: false, helper: None, timeout: None, events: 0, expect_events: 0, zone: Zone::DEFAULT };

fn zone(id: u16, original: bool, reply: bool) -> Rule {
    Rule { zone: Zone { id: ZoneId::Number(id), original, reply }, ..PLAIN }
}

fn table() -> (Arc<Conntrack>, Tracker) {
    let shared = Arc::new(Conntrack::new(64, 1, 42));
    let tracker = Tracker::new(shared.clone(), 0);
    (shared, tracker)
}

/// Tracks and confirms a packet under a rule.
fn pass(t: &mut Tracker, rule: &Rule, p: &mut Sample) -> (CtState, Ct) {
    let template = Template::of(rule, p.facts.mark);
    let ct = t.track_as(&template, &mut p.facts, &p.l3, 0, &Sysctl::default()).expect("room");
    t.confirm(ct, &mut p.facts, 0).expect("no clash");
    t.quiescent(0);
    (p.facts.ct_state, ct)
}

fn state(t: &mut Tracker, rule: &Rule, mut p: Sample) -> CtState {
    pass(t, rule, &mut p).0
}

fn zones(shared: &Conntrack) -> Vec<[u16; 2]> {
    let mut found = Vec::new();
    shared.list(0, |view| found.push(view.zones()));
    found.sort_unstable();
    found
}

use CtState::{Established, Invalid, New, Related};

#[test]
fn equal_tuples_of_different_zones_are_different_flows() {
    let (shared, mut t) = table();
    let (one, two) = (zone(1, true, true), zone(2, true, true));
    for rule in [&PLAIN, &one, &two] {
        assert_eq!(state(&mut t, rule, udp(A, 1, B, 2)), New);
    }
    assert_eq!(zones(&shared), [[0, 0], [1, 1], [2, 2]]);
    assert_eq!(state(&mut t, &one, udp(B, 2, A, 1)), Established);
    assert_eq!(state(&mut t, &two, udp(A, 1, B, 2)), New);
    assert_eq!(state(&mut t, &zone(3, true, true), udp(B, 2, A, 1)), New, "zone 3 knows nothing of it");
    assert_eq!(shared.count(), 4);
}

#[test]
fn a_zone_of_one_direction_leaves_the_other_to_zone_0() {
    let (shared, mut t) = table();
    let original = zone(5, true, false);
    assert_eq!(state(&mut t, &original, udp(A, 1, B, 2)), New);
    assert_eq!(state(&mut t, &original, udp(A, 1, B, 2)), New, "the same flow again");
    assert_eq!(zones(&shared), [[5, 0]]);
    // Answers need no rule, and have the zone's for original packets where they meet it.
    assert_eq!(state(&mut t, &PLAIN, udp(B, 2, A, 1)), Established);
    assert_eq!(state(&mut t, &original, udp(B, 2, A, 1)), Established);
    // Another flow in zone 0 would have the same answers.
    let mut other = udp(A, 1, B, 2);
    let ct = t.track(&mut other.facts, &other.l3, 0, &Sysctl::default()).expect("room");
    assert_eq!(t.confirm(ct, &mut other.facts, 0), Err(DropReason::ConntrackClash));
    t.quiescent(0);
    assert_eq!(shared.count(), 1);

    let (shared, mut t) = table();
    let reply = zone(7, false, true);
    assert_eq!(state(&mut t, &reply, udp(A, 1, B, 2)), New);
    assert_eq!(zones(&shared), [[0, 7]]);
    assert_eq!(state(&mut t, &PLAIN, udp(A, 1, B, 2)), New, "found: it is in zone 0 that way");
    assert_eq!(shared.count(), 1);
    assert_eq!(state(&mut t, &reply, udp(B, 2, A, 1)), Established);
}

#[test]
fn what_is_a_reply_in_one_zone_may_begin_a_flow_in_another() {
    let (shared, mut t) = table();
    assert_eq!(state(&mut t, &zone(5, true, false), udp(A, 1, B, 2)), New);
    // Its original tuple in zone 0 is the reply tuple of the first; its replies are in zone 5.
    assert_eq!(state(&mut t, &zone(5, false, true), udp(B, 2, A, 1)), New);
    assert_eq!(zones(&shared), [[0, 5], [5, 0]]);
}

#[test]
fn of_two_flows_with_one_tuple_the_later_has_the_packets() {
    let (shared, mut t) = table();
    assert_eq!(state(&mut t, &PLAIN, udp(A, 1, B, 2)), New);
    // An answer to the first, but for the rule: only its own replies are in zone 3.
    assert_eq!(state(&mut t, &zone(3, false, true), udp(B, 2, A, 1)), New);
    assert_eq!(zones(&shared), [[0, 0], [0, 3]]);
    assert_eq!(state(&mut t, &PLAIN, udp(B, 2, A, 1)), New, "of the later flow");
    shared.delete(0, |view| view.zones() == [0, 3]);
    assert_eq!(state(&mut t, &PLAIN, udp(B, 2, A, 1)), Established, "of the first again");
    shared.flush(0);
    t.sweep(10_000_000_000, 1024);
    assert!(shared.is_clean());
}

#[test]
fn errors_are_about_flows_of_their_zone() {
    for family in Family::ALL {
        let (_, mut t) = table();
        let (protocol, kind, code) = match family {
            Family::V4 => (proto::ICMP, 3, 3),
            Family::V6 => (proto::ICMPV6, 1, 4),
        };
        let mut query = sample(family, A, B, proto::UDP, &bytes::udp(1, 2, b"hello"));
        let quote = query.l3.clone();
        let error = || {
            let mut error = sample(family, B, A, protocol, &bytes::icmp(kind, code, 0, &quote));
            bytes::fix_l4(family, &mut error.l3);
            error
        };
        let five = zone(5, true, true);
        pass(&mut t, &five, &mut query);
        assert_eq!(state(&mut t, &PLAIN, error()), Invalid, "{family:?}");
        assert_eq!(state(&mut t, &five, error()), Related, "{family:?}");

        let mut query = sample(family, A, B, proto::UDP, &bytes::udp(1, 2, b"hello"));
        pass(&mut t, &zone(6, true, false), &mut query);
        assert_eq!(state(&mut t, &PLAIN, error()), Related, "{family:?}: replies are in zone 0");
    }
}

#[test]
fn ports_are_free_in_each_zone() {
    let (shared, mut t) = table();
    let range = NatRange { addresses: Some((0x01010101, 0x01010101)), ..NatRange::default() };
    let mut mapped = |rule: &Rule, src: u128| {
        let mut p = udp(src, 1000, B, 53);
        let template = Template::of(rule, 0);
        let ct = t.track_as(&template, &mut p.facts, &p.l3, 0, &Sysctl::default()).expect("room");
        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
        t.map(flow, Manip::Src, Some(&range), &p.facts, 0x1234_5678).expect("a port");
        t.confirm(ct, &mut p.facts, 0).expect("no clash");
        t.quiescent(0);
        shared.entry(flow.id).tuple(Dir::Reply)
    };
    let (one, two) = (zone(1, true, true), zone(2, true, true));
    assert_eq!((mapped(&one, A).dport, mapped(&two, A + 1).dport), (1000, 1000));
    let third = mapped(&one, A + 1);
    assert!(third.dport != 1000 && third.zone == 1, "taken in zone 1: {third:?}");
    // Replies of this one are in zone 0, where the port is free.
    let divided = mapped(&zone(1, true, false), A + 2);
    assert_eq!((divided.dport, divided.zone), (1000, 0));
}

#[test]
fn a_packet_of_the_burst_finds_the_unconfirmed_flow_of_its_zone() {
    let (_, mut t) = table();
    let s = Sysctl::default();
    let five = zone(5, true, false);
    let mut first = tcp(A, 1, B, 2, 0x02);
    let ct = t.track_as(&Template::of(&five, 0), &mut first.facts, &first.l3, 0, &s).expect("room");
    let mut again = tcp(A, 1, B, 2, 0x02);
    assert_eq!(t.track_as(&Template::of(&five, 0), &mut again.facts, &again.l3, 0, &s), Ok(ct));
    let mut other = tcp(A, 1, B, 2, 0x02);
    assert_ne!(t.track(&mut other.facts, &other.l3, 0, &s), Ok(ct));
}

#[test]
fn helper_and_events_are_the_flows_for_its_life_and_not_of_the_next_in_its_entry() {
    let shared = Arc::new(Conntrack::new(1, 1, 42));
    let mut t = Tracker::new(shared.clone(), 0);
    let rule = Rule { helper: Some(Helper::Tftp), events: 5, ..PLAIN };
    let (_, ct) = pass(&mut t, &rule, &mut udp(A, 1, B, 69));
    let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
    assert_eq!((shared.helper_of(flow), shared.event_masks_of(flow)), (Some(Helper::Tftp), (5, 0)));
    // Later packets of the flow are found whatever their template says.
    let (_, ct) = pass(&mut t, &PLAIN, &mut udp(A, 1, B, 69));
    assert_eq!(ct, Ct::Flow(flow));
    assert_eq!(shared.helper_of(flow), Some(Helper::Tftp));
    let (mut last, mut seen) = (flow, Vec::new());
    while !seen.contains(&flow.id) {
        assert!(t.remove(last.id));
        (0..8).for_each(|_| t.quiescent(0));
        let mut p = ping(A, B, 8, seen.len() as u16);
        let (_, ct) = pass(&mut t, &PLAIN, &mut p);
        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
        last = flow;
        seen.push(flow.id);
        assert!(seen.len() < 10_000, "the entry comes back");
        assert_eq!((shared.helper_of(flow), shared.event_masks_of(flow)), (None, (0x0fff, 0x000f)));
        assert_eq!(p.facts.ct_status & status::EXTRA, 0);
    }
}

#[test]
fn a_flow_keeps_its_timeout_policy_while_there_is_one_of_the_name() {
    use sumun_config::rule::Families;
    use sumun_config::timeout::{TimeoutPolicy, Tracker as Protocol};
    let short = |millis| {
        let policy = TimeoutPolicy {
            name: "short".into(),
            families: Families::Both,
            tracker: Protocol::Udp,
            times: vec![(0, millis)],
        };
        Timeouts::from_policies(&[policy], &Sysctl::default())
    };
    let (shared, mut t) = table();
    let rule = Rule { timeout: Some("short".into()), ..PLAIN };
    let left = |t: &mut Tracker, rule: &Rule, p: Sample| {
        let (_, ct) = pass(t, rule, &mut { p });
        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
        shared.left_of(flow, 0)
    };
    t.set_timeouts(short(5_000));
    assert_eq!(left(&mut t, &PLAIN, udp(A, 1, B, 2)), 30_000);
    assert_eq!(left(&mut t, &rule, udp(A, 3, B, 4)), 5_000);
    assert_eq!(left(&mut t, &rule, udp(A, 1, B, 2)), 30_000, "it began without");
    t.set_timeouts(short(6_000));
    assert_eq!(left(&mut t, &PLAIN, udp(A, 3, B, 4)), 6_000);
    assert_eq!(left(&mut t, &PLAIN, udp(B, 4, A, 3)), 6_000, "a quick exchange is no stream");
    t.set_timeouts(Timeouts::default());
    assert_eq!(left(&mut t, &rule, udp(A, 5, B, 6)), 30_000);
    t.set_timeouts(short(7_000));
    assert_eq!(left(&mut t, &PLAIN, udp(A, 5, B, 6)), 7_000);
}

#[test]
fn labels_are_the_flows_and_not_of_the_next_in_its_entry() {
    let (shared, mut t) = table();
    let (_, ct) = pass(&mut t, &PLAIN, &mut udp(A, 1, B, 2));
    let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
    for bit in [0, 63, 64, 127] {
        assert!(!shared.has_label(flow, bit));
        shared.set_label(flow, bit);
        assert!(shared.has_label(flow, bit) && !shared.has_label(flow, bit ^ 1));
    }
    assert!(t.remove(flow.id));
    for port in 0..10_000 {
        (0..4).for_each(|_| t.quiescent(0));
        let (_, ct) = pass(&mut t, &PLAIN, &mut udp(A, port, B, 3));
        let Ct::Flow(next) = ct else { panic!("{ct:?}") };
        assert!([0, 63, 64, 127].iter().all(|bit| !shared.has_label(next, *bit)));
        if next.id == flow.id {
            return;
        }
        assert!(t.remove(next.id));
    }
    panic!("the entry does not come back");
}
