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
