//! Rules that ask of a packet's flow: ends, counters, life, labels, connections.

mod common;

use common::{LAN, Rig, WAN, ends, udp};
use sumun_config::facts::Family;

/// Packets that each rule of FORWARD has counted; the policy's are left out.
fn hits(rig: &Rig, family: Family) -> Vec<u64> {
    let mut packets = rig.packets(family, "mangle.FORWARD");
    packets.pop();
    packets
}

#[test]
fn a_flows_ends_are_those_before_and_behind_its_mapping() {
    let mut rig = Rig::new(
        r#"
        [ipv4.nat.POSTROUTING]
        rules = ["-p udp -j SNAT --to-source 203.0.113.77:4000"]
        [ipv4.mangle.FORWARD]
        rules = [
            "-m conntrack --ctorigsrc 192.168.1.9 --ctorigdst 203.0.113.0/24 --ctorigsrcport 5 --ctorigdstport 7",
            "-m conntrack --ctrepldst 203.0.113.77 --ctrepldstport 4000 --ctreplsrcport 6:8",
            "-m conntrack --ctrepldst 192.168.1.9",
            "-m conntrack ! --ctreplsrc 203.0.113.9",
            "-m conntrack --ctexpire 0",
            "-m conntrack --ctexpire 29:30",
        ]
        "#,
    );
    let (client, server) = ends(Family::V4);
    assert_eq!(rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b"")).len(), 1);
    // The mapping is chosen behind FORWARD: replies are still expected at the client, and the flow has no time yet.
    assert_eq!(hits(&rig, Family::V4), [1, 0, 1, 0, 1, 0]);
    let mapped = 0xcb00_714d;
    assert_eq!(rig.send(WAN, &udp(Family::V4, server, mapped, (7, 4000), b"")).len(), 1);
    assert_eq!(hits(&rig, Family::V4), [2, 1, 1, 0, 1, 1]);
}

#[test]
fn counters_include_the_packet_and_turn_accounting_on() {
    for family in Family::ALL {
        let mut rig = Rig::new(
            r#"
            nf_conntrack_acct = 0
            [mangle.FORWARD]
            rules = [
                "-m connbytes --connbytes 2 --connbytes-mode packets --connbytes-dir original",
                "-m connbytes --connbytes 1 --connbytes-mode packets --connbytes-dir reply",
                "-m connbytes ! --connbytes 0:3 --connbytes-mode packets --connbytes-dir both",
            ]
            "#,
        );
        let (client, server) = ends(family);
        for _ in 0..2 {
            rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        }
        assert_eq!(hits(&rig, family), [1, 0, 0]);
        for _ in 0..2 {
            rig.send(WAN, &udp(family, server, client, (7, 5), b""));
        }
        assert_eq!(hits(&rig, family), [3, 2, 1]);
    }
}

#[test]
fn a_packet_that_raw_has_given_a_template_has_no_counters_yet() {
    let mut rig = Rig::new(
        r#"
        [raw.PREROUTING]
        rules = [
            "-j CT --zone 1",
            "-m connbytes ! --connbytes 2:3 --connbytes-mode bytes --connbytes-dir original",
            "-m connbytes --connbytes 0 --connbytes-mode packets --connbytes-dir both",
        ]
        "#,
    );
    let (client, server) = ends(Family::V4);
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b""));
    assert_eq!(rig.packets(Family::V4, "raw.PREROUTING")[..3], [1, 0, 0]);
}

#[test]
fn labels_stay_with_the_flow() {
    for family in Family::ALL {
        let mut rig = Rig::new(
            r#"
            [conntrack.labels]
            seen = 100
            [mangle.FORWARD]
            rules = [
                "-m connlabel --label seen",
                "-p udp -m udp --dport 7 -m connlabel --label seen --set",
                "-m connlabel ! --label 3",
            ]
            "#,
        );
        let (client, server) = ends(family);
        rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        assert_eq!(hits(&rig, family), [0, 1, 1]);
        rig.send(WAN, &udp(family, server, client, (7, 5), b""));
        assert_eq!(hits(&rig, family), [1, 1, 2]);
        rig.send(LAN, &udp(family, client, server, (5, 8), b""));
        assert_eq!(hits(&rig, family), [1, 1, 3]);
    }
}

#[test]
fn connections_are_counted_by_address_and_dropped_ones_do_not_stay() {
    for family in Family::ALL {
        let mut rig = Rig::new(
            r#"
            [mangle.FORWARD]
            rules = [
                "-m connlimit --connlimit-above 1",
                "-m connlimit --connlimit-upto 2 --connlimit-mask 0",
                "-p udp -m connlimit --connlimit-above 2 --connlimit-daddr -j DROP",
            ]
            "#,
        );
        let (client, server) = ends(family);
        let mut sent = Vec::new();
        for port in [1, 2, 3, 4, 1] {
            rig.now += 1_000_000;
            sent.push(rig.send(LAN, &udp(family, client, server, (port, 7), b"")).len());
        }
        // As the kernel counts them: 1, 2, 3, 3 and, a flow that is known, 2.
        assert_eq!(sent, [1, 1, 0, 0, 1]);
        assert_eq!(hits(&rig, family), [4, 3, 2]);
    }
}
