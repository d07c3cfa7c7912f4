//! What the differential tester (testbed/differential) found, each as small as it became.

mod common;

use common::*;
use sumun_config::facts::Family;
use sumun_config::rule::Table;

#[test]
fn ctproto_is_the_protocol_of_the_flow() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new("[mangle.FORWARD]\nrules = [\"-m conntrack --ctproto 17 -j DROP\"]\n");
        assert!(rig.send(LAN, &udp(family, client, server, (5, 7), b"x")).is_empty());
        assert_eq!(rig.send(LAN, &tcp(family, client, server, (5, 7), "S", b"")).len(), 1);
    }
}

#[test]
fn an_error_of_the_local_udp_is_placed_by_conntrack_like_any_packet() {
    for family in Family::ALL {
        let (client, _) = ends(family);
        let own = if family == Family::V4 { 0xc0a8_0101 } else { 0xfd00_0001 << 96 | 1 };
        let rules = "[raw.OUTPUT]\nrules = [\"-j NOTRACK\"]\n[mangle.OUTPUT]\nrules = [\"-j CONNMARK --set-xmark 0x20/0xf0\"]\n";
        let mut rig = Rig::new(rules);
        assert_eq!(rig.send(LAN, &udp(family, client, own, (5, 7), b"x")).len(), 1);
        let mut marks = Vec::new();
        rig.router.conntrack.list(rig.now, |flow| marks.push(flow.mark));
        assert_eq!(marks, [0]);
    }
}

#[test]
fn raw_has_no_say_in_answers_to_what_is_not_tracked() {
    let rules = "
[raw.PREROUTING]
rules = [\"-p udp -j NOTRACK\"]
[raw.OUTPUT]
rules = [\"-j NOTRACK\", \"-m conntrack --ctstate INVALID\"]
[filter.FORWARD]
rules = [\"-p udp -j REJECT\"]
[filter.OUTPUT]
rules = [\"-m conntrack --ctstate INVALID\", \"-m conntrack --ctstate UNTRACKED\"]
";
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(rules);
        assert_eq!(rig.send(LAN, &udp(family, client, server, (5, 7), b"")).len(), 1);
        assert_eq!(rig.packets(family, "raw.OUTPUT"), [1, 1, 1]);
        assert_eq!(rig.packets(family, "filter.OUTPUT"), [1, 0, 1]);
    }
}

#[test]
fn a_reset_that_ends_an_unanswered_flow_is_an_answer_to_rules() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new("[mangle.POSTROUTING]\nrules = [\"-m conntrack --ctstatus SEEN_REPLY\"]\n");
        rig.send(LAN, &tcp(family, client, server, (5, 7), "S", b""));
        assert_eq!(rig.send(WAN, &tcp(family, server, client, (7, 5), "RA", b"")).len(), 1);
        assert_eq!(rig.counters(family, Table::Mangle as usize, 4)[0].0, 1);
        assert_eq!(rig.router.conntrack.count(), 0);
    }
}

#[test]
fn what_is_sent_to_many_is_answered_on_its_link_or_not_at_all() {
    let all_nodes = 0xff02 << 112 | 1;
    let mut rig = Rig::new("");
    for (client, answers) in [(ends(Family::V6).0, 1), (0x2001_0db8_0077 << 80 | 8, 0)] {
        let mut ping = ping(Family::V6, client, all_nodes, 5, b"to many");
        ping[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(rig.send(LAN, &ping).len(), answers, "{:?}", rig.drops());
    }
}

#[test]
fn a_damaged_error_does_not_pass_nat_even_where_nothing_is_mapped() {
    let rules = "nf_conntrack_checksum = false\n[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW\"]\n";
    for (nat, passed) in [("", 1), ("[nat.POSTROUTING]\nrules = [\"-j ACCEPT\"]\n", 0)] {
        let (client, server) = ends(Family::V4);
        let mut rig = Rig::new(&format!("{rules}{nat}"));
        let sent = rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b"x"));
        let quoted = sent[0].1[14..].to_vec();
        let mut error = ping(Family::V4, server, client, 0, &quoted);
        // An echo request becomes an error, and its checksum is that of the request.
        error[34] = 3;
        assert_eq!(rig.send(WAN, &error).len(), passed, "{:?}", rig.drops());
    }
}

#[test]
fn a_segment_without_ack_to_a_closed_port_is_reset_with_one() {
    for family in Family::ALL {
        let (client, _) = ends(family);
        let own = if family == Family::V4 { 0xc0a8_0101 } else { 0xfd00_0001 << 96 | 1 };
        let mut rig = Rig::new("");
        let sent = rig.send(LAN, &tcp(family, client, own, (5, 7), "P", b"12345"));
        let [(_, frame)] = &sent[..] else { panic!("one answer") };
        let l4 = if family == Family::V4 { 34 } else { 54 };
        assert_eq!(frame[l4 + 4..l4 + 14], [0, 0, 0, 0, 0, 0, 3, 0xee, 0x50, 0x14], "RST and ACK of 1006");
        let mut to_all = tcp(family, client, own, (5, 7), "S", b"");
        to_all[..6].fill(0xff);
        assert!(rig.send(LAN, &to_all).is_empty(), "not for a frame to the whole link");
    }
}

#[test]
fn ipv6_without_an_upper_layer_is_not_tracked() {
    let (client, server) = ends(Family::V6);
    let mut frame = Vec::new();
    ip(Family::V6, client, server, 64)
        .write(&mut frame, etherparse::IpNumber::IPV6_NO_NEXT_HEADER, b"x")
        .expect("a frame");
    let mut rig = Rig::new("");
    assert_eq!(rig.send(LAN, &frame).len(), 1);
    assert_eq!(rig.router.conntrack.count(), 0);
}
