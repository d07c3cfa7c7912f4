//! Expectations and helped flows as a router's workers use them.

use super::expect::{Expectation, Tally};
use super::tests::{A, B, Sample, tcp, udp};
use super::*;
use crate::packet::sample;
use crate::umem::{Frame, Pool};
use std::sync::Arc;
use sumun_config::facts::{CtState, Family, proto, status};
use sumun_config::model::Sysctl;
use sumun_config::rule::targets::ct::{Ct as Rule, Zone};

const WORKERS: usize = 2;

fn rule(helper: Helper) -> Rule {
    Rule { notrack: false, helper: Some(helper), timeout: None, events: 0, expect_events: 0, zone: Zone::DEFAULT }
}

fn request(src: u128, sport: u16) -> Sample {
    super::tests::sample(Family::V4, src, B, proto::UDP, &sample::udp(sport, 69, b"\0\x01file\0octet\0"))
}

fn framed(p: &Sample) -> Frame {
    let mut frame = Pool::fresh(1, 2048).take().unwrap();
    assert!(frame.set(&p.l3));
    frame
}

/// Tracks a packet of a helped flow and shows it to the helper, but does not confirm it.
fn begin(t: &mut Tracker, helper: Helper, p: &mut Sample) -> Flow {
    let rule = rule(helper);
    let template = Template { rule: Some(&rule), ..Template::default() };
    let Ok(Ct::Flow(flow)) = t.track_as(&template, &mut p.facts, &p.l3, 0, &Sysctl::default()) else {
        panic!("the packet is tracked")
    };
    if p.facts.ct_status & status::HELPER != 0 {
        t.help(flow, &mut framed(p), 0, &mut p.facts, 0, 0).unwrap();
    }
    flow
}

/// A table with a confirmed FTP connection, whose flow it is.
fn connected() -> (Arc<Conntrack>, Tracker, Flow) {
    let shared = Arc::new(Conntrack::new(128, 1, 4));
    let mut t = Tracker::new(shared.clone(), 0);
    let mut syn = tcp(A, 40_000, B, 21, 2);
    let flow = begin(&mut t, Helper::Ftp, &mut syn);
    t.confirm(Ct::Flow(flow), &mut syn.facts, 0).unwrap();
    (shared, t, flow)
}

/// What a flow may expect: a connection to this port.
fn expectation(shared: &Conntrack, flow: Flow, dport: u16) -> Expectation {
    let tuple = Tuple { dport, sport: 0, ..shared.entry(flow.id).tuple(Dir::Reply) };
    Expectation {
        tuple,
        mask: Mask::any_port(Family::V4),
        class: 0,
        flags: Flags::NONE,
        follow: None,
        assigned: None,
        helper: Helper::Ftp,
        master: flow.id,
        slot: shared.cold(flow.id).helped.load(Ordering::Relaxed) - 1,
        word: shared.entry(flow.id).word(),
        deadline: 1000,
    }
}

fn add(shared: &Conntrack, new: &Expectation, most: u32) -> Result<(), Refusal> {
    shared.expectations.add(shared, new, most, 0, &mut Tally::default())
}

fn find(shared: &Conntrack, dport: u16, now: u32) -> bool {
    let tuple = Tuple { src: B, dst: A, sport: 777, dport, proto: proto::TCP, family: Family::V4, zone: 0 };
    shared.expectations.find(shared, &tuple, now, &mut Tally::default()).is_some()
}

#[test]
fn permanent_expectations_stay_and_inactive_ones_fit_nothing() {
    let (shared, _t, flow) = connected();
    let new = expectation(&shared, flow, 5);
    add(&shared, &Expectation { flags: Flags::PERMANENT, ..new }, 0).unwrap();
    assert!(find(&shared, 5, 0) && find(&shared, 5, 999) && !find(&shared, 5, 1000), "until its time is over");
    assert!(!find(&shared, 6, 0));
    let other = expectation(&shared, flow, 7);
    add(&shared, &Expectation { flags: Flags::INACTIVE, ..other }, 0).unwrap();
    assert!(!find(&shared, 7, 0));
    add(&shared, &other, 0).unwrap();
    assert!(find(&shared, 7, 0) && !find(&shared, 7, 0), "once");
}

#[test]
fn what_two_flows_expect_must_differ_where_both_look() {
    let (shared, mut t, flow) = connected();
    let mut syn = tcp(A, 40_001, B, 21, 2);
    let second = begin(&mut t, Helper::Ftp, &mut syn);
    t.confirm(Ct::Flow(second), &mut syn.facts, 0).unwrap();
    add(&shared, &expectation(&shared, flow, 5), 0).unwrap();
    assert_eq!(add(&shared, &expectation(&shared, second, 5), 0), Err(Refusal::Clash));
    let exact = Expectation {
        mask: Mask { src: u128::MAX, sport: u16::MAX },
        tuple: Tuple { sport: 20, ..expectation(&shared, second, 5).tuple },
        ..expectation(&shared, second, 5)
    };
    assert_eq!(add(&shared, &exact, 0), Err(Refusal::Clash), "the wider one fits it");
    assert_eq!(add(&shared, &Expectation { class: 1, ..expectation(&shared, flow, 5) }, 0), Err(Refusal::Already));
    add(&shared, &expectation(&shared, second, 6), 0).unwrap();
    assert_eq!(shared.expectations(0).len(), 2);
}

#[test]
fn the_oldest_of_a_class_makes_room_and_a_full_table_refuses() {
    let (shared, mut t, flow) = connected();
    for port in [5, 6, 7] {
        add(&shared, &expectation(&shared, flow, port), 2).unwrap();
        add(&shared, &Expectation { class: 1, ..expectation(&shared, flow, port + 10) }, 1).unwrap();
    }
    let mut ports: Vec<u16> = shared.expectations(0).iter().map(|e| e.tuple.dport).collect();
    ports.sort_unstable();
    assert_eq!(ports, [6, 7, 17]);
    let made = (100..).take_while(|port| add(&shared, &expectation(&shared, flow, *port), 0).is_ok()).count();
    assert_eq!(made + 3, 64);
    assert_eq!(add(&shared, &expectation(&shared, flow, 9), 0), Err(Refusal::Full));
    t.remove(flow.id);
    assert!(shared.expectations.is_clean(64), "all end with their master");
}

#[test]
fn a_flow_that_was_never_confirmed_leaves_nothing_expected() {
    let shared = Arc::new(Conntrack::new(128, 1, 4));
    let mut t = Tracker::new(shared.clone(), 0);
    let mut first = request(A, 5000);
    let flow = begin(&mut t, Helper::Tftp, &mut first);
    assert_eq!(shared.expectations(0).len(), 1);
    // Nobody can know of it before the request has left.
    let mut answer = udp(B, 99, A, 5000);
    t.track(&mut answer.facts, &answer.l3, 0, &Sysctl::default()).unwrap();
    assert_eq!(answer.facts.ct_state, CtState::New);
    t.abandon(Ct::Flow(flow));
    assert!(shared.expectations.is_clean(64));
    t.quiescent(0);
    // A clash ends it too.
    let mut second = request(A, 5000);
    begin(&mut t, Helper::Tftp, &mut second);
    t.offline();
    assert!(shared.expectations.is_clean(64));
}

#[test]
fn flows_go_on_without_a_helper_where_no_line_is_left() {
    let shared = Arc::new(Conntrack::new(128, 1, 4));
    let mut t = Tracker::new(shared.clone(), 0);
    for port in 0..65 {
        let mut p = request(A, 5000 + port);
        let flow = begin(&mut t, Helper::Tftp, &mut p);
        t.confirm(Ct::Flow(flow), &mut p.facts, 0).unwrap();
        assert_eq!(p.facts.ct_status & status::HELPER != 0, port < 64);
        assert_eq!(shared.helper_of(flow).is_some(), port < 64);
    }
    assert_eq!(shared.count(), 65);
}

#[test]
fn two_workers_expect_welcome_and_forget_without_losing_a_line() {
    let shared = Arc::new(Conntrack::new(128, WORKERS, 3));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let shared = shared.clone();
            scope.spawn(move || {
                let mut t = Tracker::new(shared.clone(), worker);
                for round in 0..4000u64 {
                    let now = round * 1_000_000;
                    // Both workers have the same few clients, so they clash, and meet each other's expectations.
                    let port = 5000 + (round * 7 % 13) as u16;
                    let mut p = request(A + u128::from(round % 3), port);
                    let rule = rule(Helper::Tftp);
                    let template = Template { rule: Some(&rule), ..Template::default() };
                    if let Ok(Ct::Flow(flow)) = t.track_as(&template, &mut p.facts, &p.l3, now, &Sysctl::default()) {
                        let helped = p.facts.ct_status & status::HELPER != 0
                            && t.help(flow, &mut framed(&p), 0, &mut p.facts, now, round as u32).is_err();
                        if helped || round % 5 == 0 {
                            t.abandon(Ct::Flow(flow));
                        } else {
                            let _ = t.confirm(Ct::Flow(flow), &mut p.facts, now);
                        }
                    }
                    let mut answer = udp(B, 1000 + (round % 50) as u16, A + u128::from(round % 3), port);
                    if let Ok(ct) = t.track(&mut answer.facts, &answer.l3, now, &Sysctl::default()) {
                        let _ = t.confirm(ct, &mut answer.facts, now);
                    }
                    if round % 97 == 0 {
                        shared.flush(now);
                    }
                    t.sweep(now, 64);
                    t.quiescent(now);
                }
            });
        }
    });
    shared.flush(4_000_000_000);
    let mut t = Tracker::new(shared.clone(), 0);
    for second in 5..60u64 {
        t.sweep(second * 1_000_000_000, 1 << 16);
        t.quiescent(second * 1_000_000_000);
    }
    let stats = shared.stats();
    assert!(stats.expect_new > 100 && stats.expect_create == stats.expect_delete, "{stats:?}");
    assert_eq!(shared.count(), 0);
    assert!(shared.expectations.is_clean(64));
}
