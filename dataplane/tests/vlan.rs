//! VLAN ports: tagged frames in, tagged frames out, and between them packets like any others.
//!
//! | port | frames on | IPv4 | IPv6 |
//! |---|---|---|---|
//! | office | trunk0, 802.1Q 10 | 10.0.10.1/24 | fd00:10::1/64 |
//! | trunk0 | | 10.0.1.1/24 | fd00:1::1/64 |
//! | guests | trunk0, 802.1Q 20 (MTU 1400) | 10.0.20.1/24 | fd00:20::1/64 |
//! | customer | trunk0, 802.1ad 100, 802.1Q 10 | 10.0.100.1/24 | fd00:100::1/64 |
//! | wan0 | | 203.0.113.2/24 | 2001:db8:2::2/64 |
//!
//! Every network has a host with the last number 9.

mod common;

use common::*;
use sumun_config::facts::{Family, PortId};
use sumun_dataplane::log::line;
use sumun_dataplane::port::Link;

const OFFICE: PortId = PortId(0);
const TRUNK: PortId = PortId(1);
const GUESTS: PortId = PortId(2);
const CUSTOMER: PortId = PortId(3);
const OUTSIDE: PortId = PortId(4);

const TAG_10: &[u8] = &[0x81, 0, 0, 10];
const TAG_20: &[u8] = &[0x81, 0, 0, 20];
const TAGS_100_10: &[u8] = &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 10];

const PORTS: &str = r#"
[dataplane]
cores = [0]
max-flows = 1024
max-neighbours = 64

[interfaces.office]
parent = "trunk0"
vlan = 10
addresses = ["10.0.10.1/24", "fd00:10::1/64"]

[interfaces.trunk0]
addresses = ["10.0.1.1/24", "fd00:1::1/64"]

[interfaces.guests]
parent = "trunk0"
vlan = 20
mtu = 1400
addresses = ["10.0.20.1/24", "fd00:20::1/64"]

[interfaces.customer]
parent = "trunk0"
vlan = [100, 10]
vlan-protocol = "802.1ad"
addresses = ["10.0.100.1/24", "fd00:100::1/64"]

[interfaces.wan0]
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]

[sysctl]
icmp_ratelimit = 0
icmpv6_ratelimit = 0
"#;

/// A router of [`PORTS`] that knows the host of each network.
fn rig(rules: &str) -> Rig {
    let hosts = [
        ("office", "10.0.10.9", "fd00:10::9"),
        ("trunk0", "10.0.1.9", "fd00:1::9"),
        ("guests", "10.0.20.9", "fd00:20::9"),
        ("customer", "10.0.100.9", "fd00:100::9"),
        ("wan0", "203.0.113.9", "2001:db8:2::9"),
    ];
    let neighbour = |port: &str, address: &str| {
        format!("[[neighbours]]\ninterface = \"{port}\"\naddress = \"{address}\"\nmac = \"02:00:00:00:00:02\"\n")
    };
    let known: String =
        hosts.iter().map(|(port, v4, v6)| neighbour(port, v4) + &neighbour(port, v6)).collect::<Vec<_>>().concat();
    Rig::of_file(&format!("{PORTS}{known}{rules}"))
}

/// An address in the network of a port.
fn at(family: Family, port: PortId, last: u128) -> u128 {
    let third = [10u128, 1, 20, 100, 0][usize::from(port.0)];
    match (family, port) {
        (Family::V4, OUTSIDE) => 0xcb00_7100 | last,
        (Family::V6, OUTSIDE) => 0x2001_0db8_0002 << 80 | last,
        (Family::V4, _) => 0x0a00_0000 | third << 8 | last,
        // As they are written, the numbers of the IPv6 networks are the same, in hexadecimal.
        (Family::V6, _) => {
            let written = u128::from_str_radix(&third.to_string(), 16).unwrap();
            (0xfd00 << 16 | written) << 96 | last
        }
    }
}

fn tagged(tags: &[u8], frame: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

/// A frame without its tags, all of which it has.
fn untagged(tags: &[u8], frame: &[u8]) -> Vec<u8> {
    assert_eq!(&frame[12..12 + tags.len()], tags, "{:02x?}", &frame[..24]);
    [&frame[..12], &frame[12 + tags.len()..]].concat()
}

/// Packets that a port has received and sent, and their bytes.
fn traffic(rig: &Rig, port: PortId) -> [(u64, u64); 2] {
    let (rx, tx) = rig.router.port_traffic()[usize::from(port.0)];
    [rx, tx].map(|counter| (counter.packets, counter.bytes))
}

#[test]
fn packets_go_from_one_vlan_to_another_with_its_tags() {
    for family in Family::ALL {
        let ways = [
            (OFFICE, TAG_10, GUESTS, TAG_20),
            (GUESTS, TAG_20, CUSTOMER, TAGS_100_10),
            (CUSTOMER, TAGS_100_10, OFFICE, TAG_10),
            (TRUNK, &[][..], CUSTOMER, TAGS_100_10),
            (CUSTOMER, TAGS_100_10, TRUNK, &[][..]),
        ];
        for (from, came, to, goes) in ways {
            let mut rig = rig("");
            let (src, dst) = (at(family, from, 9), at(family, to, 9));
            let frame = udp(family, src, dst, (5, 7), b"12345678901234567890");
            let sent = rig.send(TRUNK, &tagged(came, &frame));
            assert_eq!(sent.len(), 1, "{:?}", rig.drops());
            assert_eq!(sent[0].0, TRUNK);
            let out = untagged(goes, &sent[0].1);
            assert_eq!((&out[..6], &out[6..12]), (&HOST[..], &ROUTER[..]));
            let expected = format!("udp {}:5 > {}:7 ttl 63", family.address(src), family.address(dst));
            assert_eq!(describe(&out), expected);
            // The device counts whole frames, a VLAN its own without tags.
            let len = frame.len() as u64;
            let (with, without) = (len + came.len() as u64, len + goes.len() as u64);
            assert_eq!(traffic(&rig, TRUNK), [(1, with), (1, without)]);
            if from != TRUNK {
                assert_eq!(traffic(&rig, from), [(1, len), (0, 0)]);
            }
            if to != TRUNK {
                assert_eq!(traffic(&rig, to), [(0, 0), (1, len)]);
            }
            rig.assert_census();
        }
    }
}

#[test]
fn masquerade_between_a_vlan_and_the_outside_finds_back() {
    for family in Family::ALL {
        let mut rig = rig("[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\", \"-o guests -j MASQUERADE\"]\n");
        for (to, goes, answers) in [(OUTSIDE, &[][..], OUTSIDE), (GUESTS, TAG_20, TRUNK)] {
            let (client, server, own) = (at(family, CUSTOMER, 9), at(family, to, 9), at(family, to, 0));
            let own = own + if to == OUTSIDE { 2 } else { 1 };
            let sent = rig.send(TRUNK, &tagged(TAGS_100_10, &udp(family, client, server, (5, 7), b"ask")));
            assert_eq!(sent[0].0, answers);
            let (own_, server_) = (family.address(own), family.address(server));
            assert_eq!(describe(&untagged(goes, &sent[0].1)), format!("udp {own_}:5 > {server_}:7 ttl 63"));
            let sent = rig.send(answers, &tagged(goes, &udp(family, server, own, (7, 5), b"answer")));
            assert_eq!(sent[0].0, TRUNK);
            let client_ = family.address(client);
            let back = describe(&untagged(TAGS_100_10, &sent[0].1));
            assert_eq!(back, format!("udp {server_}:7 > {client_}:5 ttl 63"));
        }
        rig.assert_census();
    }
}

#[test]
fn what_no_port_has_is_dropped_and_priority_tags_are_looked_through() {
    for family in Family::ALL {
        let mut rig = rig("");
        let frame = udp(family, at(family, TRUNK, 9), at(family, OFFICE, 9), (5, 7), b"");
        let unknown: [&[u8]; 8] = [
            &[0x81, 0, 0, 11],
            &[0x88, 0xa8, 0, 10],
            &[0x88, 0xa8, 0, 100],
            &[0x88, 0xa8, 0, 100, 0x88, 0xa8, 0, 10],
            &[0x81, 0, 0, 100, 0x81, 0, 0, 10],
            &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 20],
            &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 10, 0x81, 0, 0, 10],
            &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0],
        ];
        for tags in unknown {
            assert_eq!(rig.send(TRUNK, &tagged(tags, &frame)), [], "{tags:02x?}");
        }
        assert_eq!(rig.drops(), [("unknown-vlan", unknown.len() as u64)]);
        // The same tags mean nothing on another device.
        assert_eq!(rig.send(OUTSIDE, &tagged(TAG_10, &frame)), []);
        assert_eq!(rig.drops(), [("unknown-vlan", unknown.len() as u64 + 1)]);
        assert_eq!(traffic(&rig, OFFICE), [(0, 0); 2]);
        let looked_through: [&[u8]; 3] =
            [&[0x81, 0, 0xe0, 0], &[0x88, 0xa8, 0, 0], &[0x88, 0xa8, 0x30, 0, 0x81, 0, 0xf0, 0]];
        for tags in looked_through {
            let sent = rig.send(TRUNK, &tagged(tags, &frame));
            assert_eq!(sent.len(), 1, "{tags:02x?}");
            untagged(TAG_10, &sent[0].1);
        }
        let urgent = udp(family, at(family, OFFICE, 9), at(family, TRUNK, 9), (5, 7), b"");
        let sent = rig.send(TRUNK, &tagged(&[0x81, 0, 0xa0, 0, 0x81, 0, 0xf0, 10], &urgent));
        assert_eq!(sent[0].1[12..14], if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] });
        assert_eq!(traffic(&rig, OFFICE), [(1, urgent.len() as u64), (3, 3 * frame.len() as u64)]);
        rig.assert_census();
    }
}

#[test]
fn hostile_frames_end_with_a_reason_and_no_frame_is_lost() {
    let mut rig = rig("");
    for tags in [TAG_10, TAGS_100_10] {
        let whole = tagged(tags, &udp(Family::V4, at(Family::V4, OFFICE, 9), at(Family::V4, GUESTS, 9), (5, 7), b"x"));
        for len in 0..whole.len() {
            assert_eq!(rig.send(TRUNK, &whole[..len]), [], "{len} bytes");
        }
        let lldp = [&whole[..12], tags, &[0x88, 0xcc, 0, 0]].concat();
        assert_eq!(rig.send(TRUNK, &lldp), []);
        let other = [&[2, 9, 9, 9, 9, 9][..], &whole[6..]].concat();
        assert_eq!(rig.send(TRUNK, &other), []);
    }
    let named: Vec<&str> = rig.drops().iter().map(|(name, _)| *name).collect();
    assert_eq!(named, ["short-frame", "ethertype", "other-host", "ip-header"]);
    rig.assert_census();
}

#[test]
fn neighbours_are_asked_and_answered_on_their_vlan() {
    let v4 = |port: PortId, last| at(Family::V4, port, last) as u32;
    let mut rig = rig("");
    for (port, tags) in [(OFFICE, TAG_10), (GUESTS, TAG_20), (CUSTOMER, TAGS_100_10)] {
        // The router's answer.
        let sent = rig.send(TRUNK, &tagged(tags, &arp_request(v4(port, 9), v4(port, 1))));
        assert_eq!(sent.len(), 1);
        let reply = untagged(tags, &sent[0].1);
        assert_eq!((&reply[..6], &reply[6..12], &reply[12..14]), (&HOST[..], &ROUTER[..], &[8, 6][..]));
        assert_eq!((&reply[20..22], &reply[28..32]), (&[0, 2][..], &v4(port, 1).to_be_bytes()[..]));
        // Its question, and the answer to that.
        let from = udp(Family::V4, at(Family::V4, OUTSIDE, 9), at(Family::V4, port, 77), (5, 7), b"");
        let sent = rig.send(OUTSIDE, &from);
        assert_eq!((sent.len(), sent[0].0), (1, TRUNK));
        let asked = untagged(tags, &sent[0].1);
        assert_eq!((&asked[..6], &asked[12..14], &asked[20..22]), (&[0xff; 6][..], &[8, 6][..], &[0, 1][..]));
        assert_eq!((&asked[28..32], &asked[38..42]), (&v4(port, 1).to_be_bytes()[..], &v4(port, 77).to_be_bytes()[..]));
        let mut answer = arp_request(v4(port, 77), v4(port, 1));
        answer[..6].copy_from_slice(&ROUTER);
        answer[21] = 2;
        answer[32..38].copy_from_slice(&ROUTER);
        // On another VLAN it would be nobody's answer.
        let elsewhere = if port == OFFICE { TAG_20 } else { TAG_10 };
        assert_eq!(rig.send(TRUNK, &tagged(elsewhere, &answer)), []);
        let sent = rig.send(TRUNK, &tagged(tags, &answer));
        assert_eq!(sent.len(), 1);
        assert_eq!(
            describe(&untagged(tags, &sent[0].1)),
            format!("udp 203.0.113.9:5 > {}:7 ttl 63", Family::V4.address(at(Family::V4, port, 77)))
        );
        // A question for an address of another VLAN is answered there too, as the kernel does (arp_ignore 0).
        let sent = rig.send(TRUNK, &tagged(tags, &arp_request(v4(port, 9), v4(TRUNK, 1))));
        untagged(tags, &sent[0].1);
    }
    rig.assert_census();
}

#[test]
fn neighbour_discovery_stays_on_its_vlan() {
    let mut rig = rig("");
    for (port, tags) in [(OFFICE, TAG_10), (CUSTOMER, TAGS_100_10)] {
        let (own, host) = (at(Family::V6, port, 1), at(Family::V6, port, 9));
        // A solicitation for the router's address on that port.
        let solicitation = [&[0; 4][..], &own.to_be_bytes(), &[1, 1], &HOST].concat();
        let mut frame = Vec::new();
        let group = 0xff02_0000_0000_0000_0000_0001_ff00_0001u128;
        etherparse::PacketBuilder::ethernet2(HOST, [0x33, 0x33, 0xff, 0, 0, 1])
            .ipv6(host.to_be_bytes(), group.to_be_bytes(), 255)
            .icmpv6_raw(135, 0, [0; 4])
            .write(&mut frame, &solicitation[4..])
            .unwrap();
        let sent = rig.send(TRUNK, &tagged(tags, &frame));
        assert_eq!(sent.len(), 1, "{:?}", rig.drops());
        let advert = untagged(tags, &sent[0].1);
        assert_eq!((advert[54], &advert[62..78]), (136, &own.to_be_bytes()[..]));
        // On another VLAN nobody has that address.
        let elsewhere = if port == OFFICE { TAG_20 } else { TAG_10 };
        assert_eq!(rig.send(TRUNK, &tagged(elsewhere, &frame)), []);
        // The router's own question.
        let unknown = udp(Family::V6, at(Family::V6, OUTSIDE, 9), at(Family::V6, port, 0x77), (5, 7), b"");
        let sent = rig.send(OUTSIDE, &unknown);
        assert_eq!((sent.len(), sent[0].0), (1, TRUNK));
        let asked = untagged(tags, &sent[0].1);
        assert_eq!((&asked[..6], asked[54]), (&[0x33, 0x33, 0xff, 0, 0, 0x77][..], 135));
    }
    rig.assert_census();
}

#[test]
fn rules_and_logs_see_the_vlans_port_and_no_tag() {
    for family in Family::ALL {
        let mut rig = rig(r#"
            [filter.FORWARD]
            rules = [
                "-i office -o guests",
                "-i trunk0",
                "-o trunk0",
                "-m mac --mac-source 02:00:00:00:00:02",
                "-m pkttype --pkt-type unicast",
                "-i office -j LOG --log-prefix vlan:",
            ]
            "#);
        let frame = udp(family, at(family, OFFICE, 9), at(family, GUESTS, 9), (5, 7), b"");
        assert_eq!(rig.send(TRUNK, &tagged(TAG_10, &frame)).len(), 1);
        assert_eq!(rig.packets(family, "filter.FORWARD"), [1, 0, 0, 1, 1, 1, 1]);
        let names: Vec<String> = rig.router.links.iter().map(|link: &Link| link.name.clone()).collect();
        let logged = line(&rig.router.log.pop().expect("a line"), &names);
        let kind = if family == Family::V4 { "08:00" } else { "86:dd" };
        let expected = format!("vlan:IN=office OUT=guests MAC=02:00:00:00:00:01:02:00:00:00:00:02:{kind} SRC=");
        assert!(logged.starts_with(&expected), "{logged}");
    }
}

#[test]
fn the_router_answers_on_the_vlan_that_it_is_asked_on() {
    for family in Family::ALL {
        let mut rig = rig("");
        for (port, tags) in [(OFFICE, TAG_10), (CUSTOMER, TAGS_100_10)] {
            let (host, own) = (at(family, port, 9), at(family, port, 1));
            let sent = rig.send(TRUNK, &tagged(tags, &ping(family, host, own, 3, b"hello")));
            assert_eq!(sent.len(), 1);
            let (host_, own_) = (family.address(host), family.address(own));
            let kind = if family == Family::V4 { "icmp" } else { "icmp6" };
            let echo = if family == Family::V4 { "0/0" } else { "129/0" };
            assert_eq!(describe(&untagged(tags, &sent[0].1)), format!("{kind} {own_} > {host_} {echo} ttl 64"));
            // An error about a packet that no route takes on.
            let nowhere = if family == Family::V4 { 0x0b00_0001 } else { 0xfd77 << 112 | 1 };
            let sent = rig.send(TRUNK, &tagged(tags, &udp(family, host, nowhere, (5, 7), b"")));
            let error = if family == Family::V4 { "3/0" } else { "1/0" };
            assert_eq!(describe(&untagged(tags, &sent[0].1)), format!("{kind} {own_} > {host_} {error} ttl 64"));
        }
        rig.assert_census();
    }
}

#[test]
fn packets_that_are_too_long_for_a_vlan_are_cut_or_answered() {
    let long = |family, may_be_cut: bool| {
        let mut frame = udp(family, at(family, CUSTOMER, 9), at(family, GUESTS, 9), (5, 7), &[7; 1450]);
        if may_be_cut {
            // No Don't Fragment, and the header's checksum without it.
            frame[20] = 0;
            let (sum, carry) = u16::from_be_bytes([frame[24], frame[25]]).overflowing_add(0x4000);
            frame[24..26].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
        }
        tagged(TAGS_100_10, &frame)
    };
    let mut rig = rig("");
    let sent = rig.send(TRUNK, &long(Family::V4, true));
    let pieces: Vec<usize> = sent.iter().map(|(_, frame)| untagged(TAG_20, frame).len() - 14).collect();
    assert_eq!(pieces, [1396, 102], "fragments, each with its tag");
    let sent = rig.send(TRUNK, &long(Family::V4, false));
    assert_eq!(sent.len(), 1);
    let error = untagged(TAGS_100_10, &sent[0].1);
    assert_eq!((error[34], error[35], &error[40..42]), (3, 4, &1400u16.to_be_bytes()[..]));
    let sent = rig.send(TRUNK, &long(Family::V6, false));
    let error = untagged(TAGS_100_10, &sent[0].1);
    assert_eq!((error[54], &error[58..62]), (2, &1400u32.to_be_bytes()[..]));
    // A packet that came in fragments leaves in fragments, all of which have tags.
    let mut rig = rig_with_tracking();
    for family in Family::ALL {
        let whole = udp(family, at(family, OFFICE, 9), at(family, GUESTS, 9), (5, 7), &[7; 1300]);
        let halves = halves(&whole).map(|half| tagged(TAG_10, &half));
        let sent = rig.burst(TRUNK, &halves);
        let lengths: Vec<usize> = sent.iter().map(|(_, frame)| untagged(TAG_20, frame).len()).collect();
        assert_eq!(lengths, halves.each_ref().map(|half| half.len() - 4));
    }
    rig.assert_census();
}

/// With rules that ask for flows: what comes in fragments is gathered.
fn rig_with_tracking() -> Rig {
    rig("[filter.FORWARD]\nrules = [\"-m conntrack --ctstate INVALID -j DROP\"]\n")
}

#[test]
fn copies_of_tee_leave_with_tags() {
    for family in Family::ALL {
        let gateway = family.address(at(family, CUSTOMER, 9));
        let tee =
            format!("[{}.mangle.PREROUTING]\nrules = [\"-i office -j TEE --gateway {gateway}\"]\n", family.name());
        let mut rig = rig(&tee);
        let frame = udp(family, at(family, OFFICE, 9), at(family, OUTSIDE, 9), (5, 7), b"data");
        let sent = rig.send(TRUNK, &tagged(TAG_10, &frame));
        assert_eq!(sent.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [TRUNK, OUTSIDE]);
        assert_eq!(describe(&untagged(TAGS_100_10, &sent[0].1)), describe(&sent[1].1));
        rig.assert_census();
    }
}

#[test]
fn sets_and_addresses_know_the_vlans_port() {
    for family in Family::ALL {
        let net = if family == Family::V4 { "10.0.10.0/24" } else { "fd00:10::/64" };
        let inet = if family == Family::V4 { "inet" } else { "inet6" };
        let rules = format!(
            r#"
            [sets.places]
            type = "hash:net,iface"
            family = "{inet}"
            elements = ["{net},office"]
            [{0}.filter.FORWARD]
            rules = [
                "-m set --match-set places src,src",
                "-m set --match-set places dst,dst",
                "-m rpfilter",
            ]
            "#,
            family.name()
        );
        // rpfilter stands in raw and mangle PREROUTING only.
        let rules = rules.replace("                \"-m rpfilter\",\n", "")
            + &format!("[{}.raw.PREROUTING]\nrules = [\"-m rpfilter\"]\n", family.name());
        let mut rig = rig(&rules);
        let (office, guests) = (at(family, OFFICE, 9), at(family, GUESTS, 9));
        rig.send(TRUNK, &tagged(TAG_10, &udp(family, office, guests, (5, 7), b"")));
        rig.send(TRUNK, &tagged(TAG_20, &udp(family, guests, office, (7, 5), b"")));
        // An address of another VLAN.
        rig.send(TRUNK, &tagged(TAG_20, &udp(family, office, at(family, OUTSIDE, 9), (5, 7), b"")));
        assert_eq!(rig.packets(family, "filter.FORWARD"), [1, 1, 3]);
        assert_eq!(rig.packets(family, "raw.PREROUTING"), [2, 3]);
    }
}
