//! What is told of flows: the events of the kernel's for the same packets, in order, and none where nobody listens.

mod common;

use common::*;
use sumun_config::facts::{Family, status};
use sumun_dataplane::conntrack::{FlowEvent, Happened, change};

const TRACKED: &str = "[filter.FORWARD]\nrules = [\"-m conntrack --ctstate INVALID -j DROP\"]\n";

/// `update ESTABLISHED assured+protoinfo` for each event since the last time.
fn events(rig: &Rig) -> Vec<String> {
    let mut events = Vec::new();
    rig.router.conntrack.take_events(&mut events);
    events.iter().map(described).collect()
}

fn described(event: &FlowEvent) -> String {
    let what = match event.what {
        Happened::New => "new",
        Happened::Update => "update",
        Happened::Destroy => "destroy",
    };
    let names = [
        (change::NEW, "new"),
        (change::REPLY, "reply"),
        (change::ASSURED, "assured"),
        (change::PROTOINFO, "protoinfo"),
        (change::HELPER, "helper"),
        (change::MARK, "mark"),
    ];
    let changes: Vec<&str> = names.iter().filter(|(bit, _)| event.changes & bit != 0).map(|(_, name)| *name).collect();
    let replied = if event.flow.status & status::SEEN_REPLY == 0 { "unreplied" } else { "replied" };
    let state = event.flow.state.unwrap_or("-");
    format!("{what} {state} {} {replied} mark={}", changes.join("+"), event.flow.mark)
}

fn listening(rules: &str) -> Rig {
    let rig = Rig::new(rules);
    rig.router.conntrack.listen(Happened::ALL);
    rig
}

#[test]
fn a_connection_is_told_from_its_first_segment_to_its_last() {
    // As `conntrack -E` of the kernel tells it: nothing of segments that change nothing.
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = listening(TRACKED);
        let there = |flags| (LAN, tcp(family, client, server, (5, 80), flags, b""));
        let back = |flags| (WAN, tcp(family, server, client, (80, 5), flags, b""));
        for (port, frame) in [there("S"), there("S"), back("SA"), there("A"), there("A"), back("A")] {
            rig.send(port, &frame);
        }
        assert_eq!(
            events(&rig),
            [
                "new SYN_SENT new+protoinfo unreplied mark=0",
                "update SYN_RECV reply+protoinfo replied mark=0",
                "update ESTABLISHED assured+protoinfo replied mark=0",
            ]
        );
        rig.send(LAN, &tcp(family, client, server, (5, 80), "RA", b""));
        assert_eq!(events(&rig), ["update CLOSE protoinfo replied mark=0"]);
        rig.wait(30_000_000_000);
        assert_eq!(events(&rig), ["destroy CLOSE  replied mark=0"], "its time is over");
    }
}

#[test]
fn a_refused_connection_is_gone_before_it_was_answered() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = listening(TRACKED);
        rig.send(LAN, &tcp(family, client, server, (5, 80), "S", b""));
        rig.send(WAN, &tcp(family, server, client, (80, 5), "RA", b""));
        assert_eq!(events(&rig), ["new SYN_SENT new+protoinfo unreplied mark=0", "destroy CLOSE  unreplied mark=0"]);
    }
}

#[test]
fn what_rules_set_is_told_with_the_packet_that_they_set_it_for() {
    let rules = "[mangle.FORWARD]\nrules = [\"-p udp -m udp --dport 54 -j CONNMARK --set-mark 7\", \
                 \"-p udp -m udp --sport 55 -j CONNMARK --set-mark 9\"]\n";
    for family in Family::ALL {
        let (client, server) = ends(family);
        for (port, expected) in [
            (54, ["new - new+mark unreplied mark=7", "update - reply replied mark=7"]),
            (55, ["new - new unreplied mark=0", "update - reply+mark replied mark=9"]),
        ] {
            let mut rig = listening(rules);
            for _ in 0..2 {
                rig.send(LAN, &udp(family, client, server, (5, port), b""));
                rig.send(WAN, &udp(family, server, client, (port, 5), b""));
            }
            assert_eq!(events(&rig), expected);
        }
    }
}

#[test]
fn an_answer_that_ends_in_the_router_still_changed_its_flow() {
    let rules = "[filter.FORWARD]\nrules = [\"-m conntrack --ctdir REPLY -j DROP\"]\n";
    let (client, server) = ends(Family::V4);
    let mut rig = listening(rules);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    assert!(rig.send(WAN, &udp(Family::V4, server, client, (7, 5), b"")).is_empty());
    assert_eq!(events(&rig), ["new - new unreplied mark=0", "update - reply replied mark=0"]);
}

#[test]
fn a_flow_that_never_left_is_never_told() {
    let mut rig = listening("[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW -j DROP\"]\n");
    let (client, server) = ends(Family::V4);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    assert_eq!(events(&rig), [""; 0]);
}

#[test]
fn deletion_is_told_once_and_at_once() {
    let (client, server) = ends(Family::V4);
    let mut rig = listening(TRACKED);
    let first = udp(Family::V4, client, server, (5, 7), b"");
    rig.send(LAN, &first);
    assert_eq!(rig.router.conntrack.flush(rig.now), 1);
    assert_eq!(events(&rig), ["new - new unreplied mark=0", "destroy -  unreplied mark=0"]);
    // The flow's packets go on and are another flow.
    rig.send(LAN, &first);
    assert_eq!(events(&rig), ["new - new unreplied mark=0"]);
    rig.wait(40_000_000_000);
    assert_eq!(events(&rig), ["destroy -  unreplied mark=0"]);
}

#[test]
fn flows_tell_what_ct_of_table_raw_lets_them() {
    let rules = "[raw.PREROUTING]\nrules = [\"-p udp -j CT --ctevents destroy,mark\"]\n";
    let (client, server) = ends(Family::V4);
    let mut rig = listening(rules);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    rig.send(WAN, &udp(Family::V4, server, client, (7, 5), b""));
    rig.router.conntrack.flush(rig.now);
    assert_eq!(events(&rig), ["destroy -  replied mark=0"]);
}

#[test]
fn a_flow_with_a_helper_tells_so_as_it_begins() {
    let rules = "[raw.PREROUTING]\nrules = [\"-p udp -m udp --dport 69 -j CT --helper tftp --ctevents helper\"]\n";
    let (client, server) = ends(Family::V4);
    let mut rig = listening(rules);
    for port in [69, 70] {
        rig.send(LAN, &udp(Family::V4, client, server, (5, port), b""));
    }
    assert_eq!(events(&rig), ["new - new+helper unreplied mark=0", "new - new unreplied mark=0"]);
    rig.router.conntrack.flush(rig.now);
    assert_eq!(events(&rig).len(), 1, "the other one only: an end is no event of the helper's");
}

#[test]
fn nothing_is_kept_for_nobody_nor_of_before_somebody_listens() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(TRACKED);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    assert_eq!(events(&rig), [""; 0]);
    rig.router.conntrack.listen(Happened::Update as u8);
    rig.send(LAN, &udp(Family::V4, client, server, (6, 7), b""));
    rig.send(WAN, &udp(Family::V4, server, client, (7, 6), b""));
    assert_eq!(events(&rig), ["update - reply replied mark=0"]);
    rig.send(WAN, &udp(Family::V4, server, client, (7, 5), b""));
    rig.router.conntrack.listen(0);
    rig.router.conntrack.listen(Happened::ALL);
    assert_eq!(events(&rig), [""; 0]);
    rig.router.conntrack.flush(rig.now);
    assert_eq!(events(&rig).len(), 2, "flows of before are told when they go");
}

#[test]
fn what_finds_no_room_is_counted() {
    let (client, server) = ends(Family::V4);
    let mut rig = listening(TRACKED);
    let frame = |n: u32| udp(Family::V4, client, server, (n as u16, 7), b"");
    let frames = 17_000;
    for n in 0..frames {
        rig.send(LAN, &frame(n));
        if n % 64 == 63 {
            rig.router.conntrack.flush(rig.now);
        }
    }
    let told = events(&rig).len() as u64;
    let flows = rig.router.conntrack.stats().insert;
    assert!(rig.router.conntrack.lost_events() > 0);
    let left = u64::from(rig.router.conntrack.count());
    assert_eq!(told + rig.router.conntrack.lost_events(), flows + (flows - left));
}
