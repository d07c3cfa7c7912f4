//! Packets whose flow tells their way: which they are, and what ends it.

mod common;

use common::{LAN, Rig, WAN, ends, ip, tcp, udp};
use sumun_config::facts::{Family, PortId};

/// Everything is tracked, masqueraded and let through.
const OPEN: &str = "\
[nat.POSTROUTING]
rules = [\"-o wan0 -j MASQUERADE\"]
[filter.FORWARD]
policy = \"DROP\"
rules = [\"-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\", \"-i lan0 -j ACCEPT\"]
";

/// A datagram of a client's.
fn question(family: Family) -> Vec<u8> {
    let (client, server) = ends(family);
    udp(family, client, server, (1000, 53), b"?")
}

/// Sends one frame several times; how many of them were replayed.
fn replayed(rig: &mut Rig, frame: &[u8], times: usize) -> u64 {
    let before = rig.engine.replayed();
    for _ in 0..times {
        rig.send(LAN, frame);
    }
    rig.engine.replayed() - before
}

#[test]
fn the_first_packet_makes_the_flow_the_second_notes_its_way_and_the_others_go_it() {
    for family in Family::ALL {
        let mut rig = Rig::new(OPEN);
        let frames = vec![question(family); 10];
        let out = rig.burst(LAN, &frames);
        assert_eq!(out.len(), 10);
        assert!(out.iter().all(|sent| *sent == out[0]), "{out:?}");
        assert_eq!(rig.engine.replayed(), 8);
        // One to ESTABLISHED, none; nine went as the first one did.
        assert_eq!(rig.packets(family, "filter.FORWARD"), [0, 10, 0]);
        assert_eq!(rig.packets(family, "mangle.PREROUTING"), [10]);
        assert_eq!(rig.packets(family, "nat.POSTROUTING"), [1, 0]);
        rig.assert_census();
    }
}

#[test]
fn other_rules_judge_the_next_packet() {
    let mut rig = Rig::new(OPEN);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 4), 2);
    rig.swap("[filter.FORWARD]\nrules = [\"-p udp -j DROP\"]\n");
    assert_eq!(rig.send(LAN, &question(Family::V4)), []);
    assert_eq!(rig.packets(Family::V4, "filter.FORWARD"), [1, 0]);
    rig.swap(OPEN);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 3), 2);
}

#[test]
fn a_rule_that_asks_more_of_a_packet_than_its_flow_tells_is_asked_every_time() {
    for rule in [
        "-m length --length 30:60 -j ACCEPT",
        "-m limit --limit 1000/sec -j ACCEPT",
        "-m ttl --ttl-gt 5 -j ACCEPT",
        "-m statistic --mode nth --every 2 --packet 0",
        "-j LOG",
        "-j TTL --ttl-set 9",
    ] {
        let chain = if rule.contains("TTL") { "mangle.FORWARD" } else { "filter.FORWARD" };
        let mut rig = Rig::new(&format!("[{chain}]\nrules = [\"-4 {rule}\", \"-m conntrack --ctstate NEW\"]\n"));
        assert_eq!(replayed(&mut rig, &question(Family::V4), 5), 0, "{rule}");
        // Nor is anything else asked twice: flow, route and MAC are known.
        assert_eq!(rig.engine.recalled(), 3, "{rule}");
    }
}

#[test]
fn a_packet_ends_in_a_chain_that_is_asked_with_the_counters_that_it_has_raised_until_then() {
    for (family, tail) in Family::ALL.into_iter().flat_map(|family| [(family, "DROP"), (family, "REJECT")]) {
        let mut rig = Rig::new(&format!(
            "{OPEN}[mangle.FORWARD]\nrules = [\"-m conntrack --ctstate NEW -j MARK --set-mark 5\"]\n\
             [security.FORWARD]\nrules = [\"-m mark --mark 5 -m limit --limit 1/hour --limit-burst 4 -j ACCEPT\", \"-j DROP\"]\n"
        )
        .replace("\"-i lan0 -j ACCEPT\"", &format!("\"-m length --length 0:60 -j ACCEPT\", \"-j {tail}\"")));
        let out = rig.burst(LAN, &vec![question(family); 6]);
        assert_eq!(out.len(), 4, "{out:?}");
        assert!(out.iter().all(|sent| *sent == out[0]), "{out:?}");
        let (client, server) = ends(family);
        let long = rig.send(LAN, &udp(family, client, server, (1000, 53), &[7; 60]));
        assert_eq!(long.len(), usize::from(tail == "REJECT"), "{long:?}");
        assert_eq!((rig.engine.replayed(), rig.engine.recalled()), (0, 5));
        let counted = |chain| rig.packets(family, chain);
        assert_eq!(counted("mangle.PREROUTING"), [7]);
        assert_eq!(counted("mangle.FORWARD"), [7, 7]);
        assert_eq!(counted("filter.FORWARD"), [0, 6, 1, 0]);
        assert_eq!(counted("security.FORWARD"), [4, 2, 0]);
        assert_eq!(counted("mangle.POSTROUTING")[0] - u64::from(tail == "REJECT"), 4);
        rig.assert_census();
    }
}

#[test]
fn every_packet_is_copied_whatever_its_copies_meet() {
    let mut rig = Rig::new(
        "[mangle.FORWARD]\nrules = [\"-4 -p udp -j TEE --gateway 192.168.1.9\"]\n\
         [mangle.POSTROUTING]\nrules = [\"-m conntrack --ctstate UNTRACKED\"]\n",
    );
    for _ in 0..6 {
        assert_eq!(rig.send(LAN, &question(Family::V4)).len(), 2);
    }
    assert_eq!(rig.engine.replayed(), 0);
    assert_eq!(rig.packets(Family::V4, "mangle.FORWARD"), [6, 6]);
    assert_eq!(rig.packets(Family::V4, "mangle.POSTROUTING"), [6, 12]);
}

#[test]
fn a_mark_that_a_set_gives_is_taken_from_it_every_time() {
    let (from, to) = ends(Family::V4);
    let client = Family::V4.address(from);
    let mut rig = Rig::new(&format!(
        "[sets.marks]\ntype = \"hash:ip\"\nskbinfo = true\nelements = [\"{client} skbmark 0x5\"]\n\
         [mangle.PREROUTING]\nrules = [\"-4 -j SET --map-set marks src --map-mark\", \
         \"-4 -p udp -m udp --dport 99 -j SET --del-set marks src\"]\n\
         [filter.FORWARD]\nrules = [\"-m mark --mark 5\", \"-m mark --mark 0\"]\n"
    ));
    let marked = |rig: &mut Rig| {
        for _ in 0..4 {
            rig.send(LAN, &question(Family::V4));
        }
        rig.packets(Family::V4, "filter.FORWARD")[..2].to_vec()
    };
    assert_eq!(marked(&mut rig), [4, 0]);
    rig.send(LAN, &udp(Family::V4, from, to, (1000, 99), b"gone"));
    assert_eq!(marked(&mut rig), [5, 4]);
    assert_eq!((rig.engine.replayed(), rig.engine.recalled()), (0, 6));
}

#[test]
fn a_flow_is_not_taken_from_packets_that_raw_put_into_another_zone() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(
        "[raw.PREROUTING]\nrules = [\"-p tcp -m tcp --tcp-flags ACK ACK -j CT --zone 2\"]\n\
         [filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW,ESTABLISHED\", \"-m conntrack --ctstate INVALID\"]\n",
    );
    let segment = |flags: &str| tcp(Family::V4, client, server, (1000, 80), flags, b"");
    // With ACK it is picked up in the one zone, SYN opens another flow in the other.
    for flags in ["A", "A", "A", "S", "S", "A", "S"] {
        rig.send(LAN, &segment(flags));
    }
    assert_eq!(rig.router.conntrack.count(), 2);
    assert_eq!(rig.packets(Family::V4, "filter.FORWARD"), [7, 0, 7]);
}

#[test]
fn a_flow_is_not_taken_from_packets_before_another_one_whose_answers_are_in_a_zone_of_their_own() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(
        "[raw.PREROUTING]\nrules = [\"-i wan0 -p tcp -m tcp --tcp-flags PSH PSH -j CT --zone-reply 3\"]\n\
         [filter.FORWARD]\nrules = [\"-i wan0 -m conntrack --ctdir REPLY\", \"-i wan0 -m conntrack --ctdir ORIGINAL\"]\n",
    );
    rig.send(LAN, &tcp(Family::V4, client, server, (1000, 80), "S", b""));
    let answered = |rig: &mut Rig, flags: &[&str]| {
        for flags in flags {
            rig.send(WAN, &tcp(Family::V4, server, client, (80, 1000), flags, b""));
        }
        rig.packets(Family::V4, "filter.FORWARD")[..2].to_vec()
    };
    assert_eq!(answered(&mut rig, &["SA"]), [1, 0]);
    rig.send(LAN, &tcp(Family::V4, client, server, (1000, 80), "A", b""));
    assert_eq!(answered(&mut rig, &["A"; 4]), [5, 0]);
    // This one is no answer, and the flow that it begins is found before the one that the others were answers of.
    assert_eq!(answered(&mut rig, &["PA"]), [5, 1]);
    assert_eq!(answered(&mut rig, &["A"; 3]), [5, 4]);
    assert_eq!(rig.router.conntrack.count(), 2);
}

#[test]
fn a_chain_that_is_asked_sees_the_ends_and_the_hop_that_it_would_on_the_long_way() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(&format!(
        "{OPEN}[mangle.FORWARD]\nrules = [\"-4 -m length --length 20: -s {client} -o wan0 -m ttl --ttl-eq 63\", \
         \"-4 -m length --length 20: -d {client} -o lan0 -m ttl --ttl-eq 63\"]\n\
         [mangle.PREROUTING]\nrules = [\"-4 -m ttl --ttl-eq 64 -d {own}\"]\n\
         [mangle.POSTROUTING]\nrules = [\"-4 -m ttl --ttl-eq 63 -s {client}\", \"-4 -m ttl --ttl-eq 63 -d {client}\"]\n",
        client = Family::V4.address(client),
        own = "203.0.113.2",
    ));
    let sent = rig.send(LAN, &question(Family::V4));
    let mapped = u128::from(u32::from_be_bytes(sent[0].1[26..30].try_into().unwrap()));
    let answer = udp(Family::V4, server, mapped, (53, 1000), b"!");
    for _ in 0..5 {
        rig.send(WAN, &answer);
        rig.send(LAN, &question(Family::V4));
    }
    assert!(rig.engine.recalled() >= 6, "{}", rig.engine.recalled());
    assert_eq!(rig.packets(Family::V4, "mangle.FORWARD"), [6, 5, 11]);
    assert_eq!(rig.packets(Family::V4, "mangle.PREROUTING"), [5, 11]);
    assert_eq!(rig.packets(Family::V4, "mangle.POSTROUTING"), [6, 5, 11]);
}

#[test]
fn a_rule_that_is_not_reached_is_not_asked() {
    let mut rig = Rig::new(
        "[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW -j ACCEPT\", \"-m limit --limit 1/hour -j DROP\"]\n",
    );
    assert_eq!(replayed(&mut rig, &question(Family::V4), 5), 3);
}

#[test]
fn what_rules_ask_of_tcp_flags_is_asked_of_each_kind_of_segment() {
    let rules = "[filter.FORWARD]\nrules = [\"-p tcp -m tcp --tcp-flags PSH PSH\", \"-m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\"]\n";
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(rules);
    let segment = |flags: &str, data: &[u8]| tcp(Family::V4, client, server, (1000, 80), flags, data);
    rig.send(LAN, &segment("S", b""));
    rig.send(WAN, &tcp(Family::V4, server, client, (80, 1000), "SA", b""));
    assert_eq!(replayed(&mut rig, &segment("A", b""), 4), 3);
    assert_eq!(replayed(&mut rig, &segment("AP", b"data"), 4), 3);
    assert_eq!(rig.packets(Family::V4, "filter.FORWARD"), [4, 10, 0]);
}

#[test]
fn a_packet_that_its_way_has_no_room_for_is_answered_by_the_router() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::with_mtu(OPEN, 600);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 4), 2);
    let large = udp(Family::V4, client, server, (1000, 53), &[7; 800]);
    let out = rig.send(LAN, &large);
    assert_eq!(out.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [LAN]);
    assert_eq!(rig.drops(), [("too-big", 1)]);
}

#[test]
fn a_packet_at_the_end_of_its_time_is_answered_by_the_router() {
    let mut rig = Rig::new(OPEN);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 4), 2);
    let mut frame = question(Family::V4);
    // TTL 64 becomes 1, and the header's checksum larger by the difference.
    frame[22] = 1;
    let sum = u16::from_be_bytes([frame[24], frame[25]]).wrapping_add(63 << 8);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let out = rig.send(LAN, &frame);
    assert_eq!(out.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [LAN], "{:?}", rig.drops());
}

#[test]
fn a_damaged_packet_is_invalid_whatever_its_flow_is() {
    let mut rig = Rig::new(OPEN);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 4), 2);
    let mut frame = question(Family::V4);
    *frame.last_mut().unwrap() ^= 1;
    // To the rules it is of no flow: the second one lets it pass, and it keeps its source.
    let out = rig.send(LAN, &frame);
    assert_eq!((out[0].0, &out[0].1[26..30]), (WAN, &[192, 168, 1, 9][..]));
    assert_eq!(rig.packets(Family::V4, "filter.FORWARD"), [0, 5, 0]);
}

#[test]
fn a_flow_that_was_answered_is_judged_anew_and_so_are_its_answers() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(OPEN);
    let sent = rig.send(LAN, &question(Family::V4));
    let mapped = u128::from(u32::from_be_bytes(sent[0].1[26..30].try_into().unwrap()));
    let answer = udp(Family::V4, server, mapped, (53, 1000), b"!");
    for _ in 0..3 {
        rig.send(WAN, &answer);
        rig.send(LAN, &question(Family::V4));
    }
    assert_eq!(rig.packets(Family::V4, "filter.FORWARD"), [6, 1, 0]);
    assert!(rig.engine.replayed() >= 2, "{}", rig.engine.replayed());
    let back = rig.send(WAN, &answer);
    assert_eq!(&back[0].1[30..34], (client as u32).to_be_bytes());
}

#[test]
fn a_flow_that_an_operator_deleted_begins_anew() {
    let mut rig = Rig::new(OPEN);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 4), 2);
    assert_eq!(rig.router.conntrack.flush(rig.now), 1);
    assert_eq!(replayed(&mut rig, &question(Family::V4), 4), 2);
    assert_eq!(rig.packets(Family::V4, "nat.POSTROUTING"), [2, 0]);
}

#[test]
fn a_packet_behind_an_advertisement_in_its_burst_goes_to_the_new_mac() {
    // In and out on one link: only so both are in one burst.
    let (_, server) = ends(Family::V6);
    let (mine, other) = (server, server + 0x68);
    let advert = |mac: [u8; 6]| {
        let mut frame = Vec::new();
        let option = [&[2, 1][..], &mac].concat();
        let target = [&other.to_be_bytes()[..], &option].concat();
        ip(Family::V6, other, 0x2001_0db8_0002 << 80 | 2, 255)
            .icmpv6_raw(136, 0, [0x60, 0, 0, 0])
            .write(&mut frame, &target)
            .expect("a frame");
        frame
    };
    let mut rig = Rig::new("[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW\"]\n");
    let frame = udp(Family::V6, mine, other, (1000, 53), b"?");
    let (old, new) = ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]);
    rig.send(WAN, &frame);
    rig.send(WAN, &advert(old));
    rig.send(WAN, &frame);
    let out = rig.burst(WAN, &[frame.clone(), advert(new), frame.clone()]);
    let macs = |out: &[(PortId, Vec<u8>)]| out.iter().map(|(_, frame)| frame[..6].to_vec()).collect::<Vec<_>>();
    assert_eq!(macs(&out), [old, new]);
    assert_eq!(rig.engine.replayed(), 2);
    // First packets of flows, which go the long way.
    let first = |port| udp(Family::V6, mine, other, (port, 53), b"?");
    let out = rig.burst(WAN, &[first(2000), first(2001), advert(old), first(2002)]);
    assert_eq!((macs(&out), rig.engine.replayed()), (vec![new.to_vec(), new.to_vec(), old.to_vec()], 2));
}

#[test]
fn one_gateway_of_ipv6_is_two_ways_where_both_families_go_by_it() {
    let mut rig = Rig::new(
        "[[routes]]\nto = \"198.51.100.0/24\"\nvia = \"2001:db8:2::9\"\n[[routes]]\nto = \"2001:db8:9::/48\"\nvia = \"2001:db8:2::9\"\n",
    );
    let far = |family| match family {
        Family::V4 => 0xc633_6407,
        Family::V6 => 0x2001_0db8_0009 << 80 | 7,
    };
    for _ in 0..4 {
        for (family, kind) in [(Family::V4, [8, 0]), (Family::V6, [0x86, 0xdd])] {
            let out = rig.send(LAN, &udp(family, ends(family).0, far(family), (1000, 53), b"?"));
            assert_eq!(out.len(), 1, "nobody is asked for");
            let (port, frame) = &out[0];
            assert_eq!((*port, &frame[..6], &frame[12..14]), (WAN, &[2, 0, 0, 0, 0, 2][..], &kind[..]));
        }
    }
    assert_eq!(rig.engine.replayed(), 4);
}

#[test]
fn packets_that_are_not_tracked_go_the_short_way_too() {
    for (rules, tracked) in [("", 0), ("[filter.FORWARD]\nrules = [\"-m conntrack --ctstate UNTRACKED\"]\n", 1)] {
        let mut rig = Rig::new(rules);
        assert_eq!(replayed(&mut rig, &question(Family::V4), 5), 3, "{rules}");
        assert_eq!((rig.packets(Family::V4, "mangle.FORWARD"), rig.router.conntrack.count()), (vec![5], tracked));
        rig.assert_census();
    }
}

#[test]
fn more_ways_than_are_remembered_at_a_time_do_not_end_it() {
    // Each source ends in a chain of its own: as many paths as there are sources.
    const SOURCES: u128 = 5000;
    let rules = (0..SOURCES).fold(String::new(), |mut rules, n| {
        let address = sumun_config::facts::Family::V4.address(0x0a00_0000 | n);
        rules += &format!("\"-s {address} -j ACCEPT\",\n");
        rules
    });
    let text = format!(
        "[[routes]]\nto = \"10.0.0.0/8\"\nvia = \"192.168.1.9\"\n[filter.FORWARD]\nrules = [\n{rules}]\n[raw.PREROUTING]\nrules = [\"-m comment --comment all\"]\n[mangle.POSTROUTING]\nrules = [\"-m conntrack --ctstate NEW\"]\n"
    );
    let mut rig = Rig::with_flows(&text, 8192);
    let (_, server) = ends(Family::V4);
    let all = |rig: &mut Rig| {
        let before = rig.engine.replayed();
        for n in 0..SOURCES {
            rig.send(LAN, &udp(Family::V4, 0x0a00_0000 | n, server, (1000, 53), b"?"));
        }
        rig.engine.replayed() - before
    };
    assert_eq!([all(&mut rig), all(&mut rig)], [0, 0]);
    assert!(all(&mut rig) > 4000);
    // A second later the others have their turn too, and nothing was counted twice.
    rig.wait(2_000_000_000);
    let last = udp(Family::V4, 0x0a00_0000 | (SOURCES - 1), server, (1000, 53), b"?");
    for _ in 0..4 {
        rig.send(LAN, &last);
    }
    let before = rig.engine.replayed();
    rig.send(LAN, &last);
    assert_eq!(rig.engine.replayed() - before, 1);
    let packets = rig.packets(Family::V4, "filter.FORWARD");
    assert!(packets[..SOURCES as usize - 1].iter().all(|packets| *packets == 3));
    assert_eq!(packets[SOURCES as usize - 1..], [8, 0]);
}
