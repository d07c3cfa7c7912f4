//! What the router says itself: errors, refusals and answers, translated, routed and counted as the kernel does.

mod common;

use common::*;
use sumun_config::facts::Family;

const ANY: &str = r#"[filter.FORWARD]
rules = ["-m conntrack --ctstate INVALID -j DROP"]
"#;
const MASQUERADE: &str = r#"[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]
"#;
const PORT_FORWARD: &str = r#"[nat.PREROUTING]
rules = ["-4 -i wan0 -d 203.0.113.2 -j DNAT --to-destination 192.168.1.9", "-6 -i wan0 -d 2001:db8:2::2 -j DNAT --to-destination fd00:1::9"]
"#;

/// What a frame makes a router with these rules say, with quotes; and the flows that are there afterwards.
fn answer(
    rules: &str,
    port: sumun_config::facts::PortId,
    frame: &[u8],
) -> (Vec<String>, Vec<(&'static str, u64)>, u32) {
    let mut rig = Rig::new(rules);
    let sent = rig.send(port, frame);
    rig.assert_census();
    (told(&sent), rig.drops(), rig.router.conntrack.count())
}

#[test]
fn an_expired_packet_is_answered_from_the_address_that_faces_its_sender() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        for ttl in [0, 1] {
            let expected = said(
                family,
                &format!("lan0 ICMP LAN > CLIENT TIME-EXCEEDED ttl 64 about udp CLIENT:5 > SERVER:7 ttl {ttl}"),
            );
            let frame = udp_ttl(family, client, server, (5, 7), ttl);
            for rules in ["", ANY, MASQUERADE] {
                assert_eq!(
                    answer(rules, LAN, &frame),
                    (vec![expected.clone()], vec![("ttl-expired", 1)], 0),
                    "{rules}"
                );
            }
        }
        let mut rig = Rig::new("");
        let sent = rig.send(LAN, &udp_ttl(family, client, server, (5, 7), 2));
        assert_eq!(described(&sent), [said(family, "wan0 udp CLIENT:5 > SERVER:7 ttl 1")]);
    }
}

#[test]
fn errors_about_mapped_packets_quote_what_the_sender_sent() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let (_, wan) = own(family);
        // From outside to a forwarded address, the first packet: the inner address is nowhere to be seen.
        let frame = udp_ttl(family, server, wan, (5, 7), 1);
        let expected = said(family, "wan0 ICMP WAN > SERVER TIME-EXCEEDED ttl 64 about udp SERVER:5 > WAN:7 ttl 1");
        assert_eq!(answer(PORT_FORWARD, WAN, &frame), (vec![expected], vec![("ttl-expired", 1)], 0));

        // An answer to a masqueraded flow expires here: the server sees its own packet to the outer address.
        let mut rig = Rig::new(MASQUERADE);
        let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b"data"));
        assert_eq!(described(&sent), [said(family, "wan0 udp WAN:5 > SERVER:7 ttl 63")]);
        let sent = rig.send(WAN, &udp_ttl(family, server, wan, (7, 5), 1));
        let expected = said(family, "wan0 ICMP WAN > SERVER TIME-EXCEEDED ttl 64 about udp SERVER:7 > WAN:5 ttl 1");
        assert_eq!(told(&sent), [expected]);

        // An error from the server about a masqueraded packet reaches the client about the client's packet.
        let sent = rig.send(LAN, &udp(family, client, server, (6, 7), b"data"));
        let code = if family == Family::V4 { (3, 3) } else { (1, 4) };
        let sent = rig.send(WAN, &error(family, server, wan, code, &sent[0].1));
        let expected =
            said(family, "lan0 ICMP SERVER > CLIENT PORT-UNREACHABLE ttl 63 about udp CLIENT:6 > SERVER:7 ttl 63");
        assert_eq!(told(&sent), [expected]);
        rig.assert_census();
    }
}

#[test]
fn a_refused_first_packet_leaves_no_flow_and_its_sender_is_told() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let (_, wan) = own(family);
        let rules = |chain| format!("{MASQUERADE}{PORT_FORWARD}[filter.{chain}]\nrules = [\"-j REJECT\"]\n");
        let (told, drops, flows) = answer(&rules("FORWARD"), LAN, &udp(family, client, server, (5, 7), b""));
        let expected =
            said(family, "lan0 ICMP LAN > CLIENT PORT-UNREACHABLE ttl 64 about udp CLIENT:5 > SERVER:7 ttl 63");
        assert_eq!((told, drops, flows), (vec![expected], vec![("reject", 1)], 0));

        let (told, drops, flows) = answer(&rules("FORWARD"), WAN, &udp(family, server, wan, (5, 7), b""));
        let expected = said(family, "wan0 ICMP WAN > SERVER PORT-UNREACHABLE ttl 64 about udp SERVER:5 > WAN:7 ttl 63");
        assert_eq!((told, drops, flows), (vec![expected], vec![("reject", 1)], 0));
    }
}

#[test]
fn a_reset_for_a_new_flow_asks_table_nat_and_an_error_does_not() {
    let rules = |with| {
        format!(
            "[filter.FORWARD]\nrules = [\"-p tcp -m tcp --dport 80 -j REJECT{with}\"]\n{PORT_FORWARD}
             [nat.POSTROUTING]\nrules = [\"-p tcp\"]\n[nat.OUTPUT]\nrules = [\"-p tcp\"]\n"
        )
    };
    for family in Family::ALL {
        let (_, server) = ends(family);
        let (_, wan) = own(family);
        let syn = tcp(family, server, wan, (5, 80), "S", b"");
        let mut rig = Rig::new(&rules(" --reject-with tcp-reset"));
        let sent = rig.send(WAN, &syn);
        assert_eq!(described(&sent), [said(family, "wan0 tcp WAN:80 > SERVER:5 AR ttl 64")]);
        assert_eq!(rig.packets(family, "nat.PREROUTING").iter().sum::<u64>(), 1);
        assert_eq!(rig.packets(family, "nat.POSTROUTING"), [1, 1]);
        assert_eq!(rig.packets(family, "nat.OUTPUT"), [0, 0]);
        assert_eq!(rig.packets(family, "filter.OUTPUT"), [1]);
        assert_eq!(rig.router.conntrack.count(), 0);

        let mut rig = Rig::new(&rules(""));
        let sent = rig.send(WAN, &syn);
        let expected =
            said(family, "wan0 ICMP WAN > SERVER PORT-UNREACHABLE ttl 64 about tcp SERVER:5 > WAN:80 S ttl 63");
        assert_eq!(told(&sent), [expected]);
        assert_eq!(rig.packets(family, "nat.POSTROUTING"), [0, 0]);
        rig.assert_census();
    }
}

#[test]
fn a_reset_that_is_summed_last_never_has_the_sum_zero_not_even_after_its_mapping() {
    let rules = "[nat.PREROUTING]\nrules = [\"-p tcp -j REDIRECT\"]\n";
    let (client, server) = ends(Family::V6);
    let sum_of_reset = |port: u16| {
        let sent = Rig::new(rules).send(LAN, &tcp(Family::V6, client, server, (port, 80), "S", b""));
        let [(LAN, reset)] = &sent[..] else { panic!("{sent:?}") };
        u16::from_be_bytes([reset[14 + 40 + 16], reset[14 + 40 + 17]])
    };
    // The sum falls by one with each port: that far on it would be zero.
    let port = 1000 + sum_of_reset(1000);
    assert_eq!(sum_of_reset(port), 0xffff);
}

#[test]
fn a_reset_connection_is_closing() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(ANY);
        rig.send(LAN, &tcp(family, client, server, (5, 80), "S", b""));
        rig.send(WAN, &tcp(family, server, client, (80, 5), "SA", b""));
        rig.send(LAN, &tcp(family, client, server, (5, 80), "A", b""));
        rig.swap(
            "[filter.FORWARD]\nrules = [\"-p tcp -m state --state ESTABLISHED -j REJECT --reject-with tcp-reset\"]\n",
        );
        let state = |rig: &Rig| {
            let mut rows = Vec::new();
            rig.router.conntrack.list(rig.now, |flow| rows.push((flow.seconds_left(), flow.state)));
            rows
        };
        // A wrong checksum is no packet of the flow: nothing is said and nothing happens to it.
        let mut wrong = tcp(family, client, server, (5, 80), "A", b"x");
        *wrong.last_mut().expect("a byte") ^= 1;
        assert_eq!(rig.send(LAN, &wrong).len(), 1, "INVALID, so not refused");
        assert_eq!(state(&rig), [(432_000, Some("ESTABLISHED"))]);
        let sent = rig.send(LAN, &tcp(family, client, server, (5, 80), "A", b"x"));
        assert_eq!(described(&sent), [said(family, "lan0 tcp SERVER:80 > CLIENT:5 R ttl 64")]);
        assert_eq!(state(&rig), [(10, Some("CLOSE"))]);
    }
}

#[test]
fn a_dead_host_behind_a_masquerade_is_told_to_the_client() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let rules = format!("{MASQUERADE}[filter.OUTPUT]\nrules = [\"-m conntrack --ctstate RELATED\", \"-o lan0\"]\n");
        let mut rig = Rig::new(&rules);
        rig.send(LAN, &udp(family, client, server + 1, (5, 7), b"data"));
        assert_eq!(rig.engine.held(), 1);
        let mut sent = Vec::new();
        for _ in 0..8 {
            sent.extend(rig.wait(1_000_000_000).into_iter().filter(|(port, _)| *port == LAN));
        }
        let code = if family == Family::V4 { "3/1" } else { "1/3" };
        let dead = family.address(server + 1).to_string();
        let expected = said(family, "lan0 ICMP WAN > CLIENT CODE ttl 64 about udp CLIENT:5 > DEAD:7 ttl 63");
        assert_eq!(told(&sent), [expected.replace("CODE", code).replace("DEAD", &dead)]);
        assert_eq!(rig.drops(), [("neighbour-failed", 1)]);
        // It went to the router's own address when OUTPUT began.
        let [related, to_lan, _] = rig.packets(family, "filter.OUTPUT")[..] else { panic!("two rules") };
        assert_eq!((related, to_lan), (1, 0));
        rig.assert_census();
    }
}

#[test]
fn options_are_judged_after_prerouting() {
    // Options; what is said; the drop. Record route and unknown options pass.
    type Case = (&'static [u8], Option<&'static str>, &'static [(&'static str, u64)]);
    let cases: [Case; 5] = [
        (&[131, 7, 4, 203, 0, 113, 9, 0], None, &[("ip-options", 1)]),
        (&[137, 7, 4, 203, 0, 113, 9, 0], None, &[("ip-options", 1)]),
        (&[99, 9, 0, 0], Some("lan0 icmp 192.168.1.1 > 192.168.1.9 12/0 ttl 64"), &[("ip-options", 1)]),
        (&[99, 4, 0, 0], Some("wan0 udp 192.168.1.9:5 > 203.0.113.9:7 ttl 63"), &[]),
        (&[148, 4, 0, 0], Some("wan0 udp 192.168.1.9:5 > 203.0.113.9:7 ttl 63"), &[]),
    ];
    for (options, said, drops) in cases {
        let header = etherparse::Ipv4Header {
            options: options.try_into().expect("options"),
            ..etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [192, 168, 1, 9], [203, 0, 113, 9])
                .expect("a header")
        };
        let mut frame = Vec::new();
        let headers = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
        link().ip(headers).udp(5, 7).write(&mut frame, b"data").expect("a frame");
        let mut rig = Rig::new("");
        let sent = rig.send(LAN, &frame);
        assert_eq!(described(&sent), said.into_iter().collect::<Vec<_>>(), "{options:?}");
        assert_eq!(rig.drops(), drops);
        assert_eq!(rig.packets(Family::V4, "mangle.PREROUTING"), [1]);
        rig.assert_census();
    }
}

#[test]
fn nothing_is_said_about_packets_to_everybody() {
    let reject = "[filter.INPUT]\nrules = [\"-p udp -j REJECT\", \"-p tcp -j REJECT --reject-with tcp-reset\"]\n";
    for dst in [0xc0a8_01ff, 0xffff_ffff, 0xe000_0001] {
        for frame in
            [udp(Family::V4, 0xc0a8_0109, dst, (5, 7), b""), tcp(Family::V4, 0xc0a8_0109, dst, (5, 7), "S", b"")]
        {
            assert_eq!(answer(reject, LAN, &frame), (vec![], vec![("reject", 1)], 0), "{dst:x}");
        }
        let mut rig = Rig::new("");
        assert!(rig.send(LAN, &udp(Family::V4, 0xc0a8_0109, dst, (5, 7), b"")).is_empty());
        assert_eq!(rig.drops(), [("no-listener", 1)]);
        assert_eq!(rig.packets(Family::V4, "filter.INPUT"), [1], "it passed INPUT");
        rig.assert_census();
    }
}

#[test]
fn neighbours_are_asked_with_the_source_of_what_waits_where_it_is_an_own_one() {
    // Mapped to the address of the other port, or to nobody's: then the port's own is spoken with. In IPv6 the other port's
    // will not do.
    for (to, sender) in [("192.168.1.1", 0xc0a8_0101), ("203.0.113.77", 0xcb00_7102)] {
        let mut rig = Rig::new(&format!("[nat.POSTROUTING]\nrules = [\"-j SNAT --to-source {to}\"]\n"));
        let sent = rig.send(LAN, &udp(Family::V4, 0xc0a8_0109, 0xcb00_7142, (5, 7), b""));
        let [(WAN, frame)] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((&frame[12..14], &frame[28..32]), (&[8, 6][..], &u32::to_be_bytes(sender)[..]), "{to}");
    }
    for (to, sender) in [("2001:db8:2::2", "2001:db8:2::2"), ("fd00:1::1", "fe80::ff:fe00:1")] {
        let mut rig = Rig::new(&format!("[nat.POSTROUTING]\nrules = [\"-j SNAT --to-source {to}\"]\n"));
        let (client, server) = ends(Family::V6);
        let sent = rig.send(LAN, &udp(Family::V6, client, server + 0x42, (5, 7), b""));
        let told = described(&sent).join(" ");
        assert!(told.starts_with(&format!("wan0 icmp6 {sender} > ff02::1:ff00:")) && told.contains("135/0"), "{told}");
    }
}

#[test]
fn answers_to_link_local_addresses_leave_where_the_question_came_in() {
    const HOST_LL: u128 = 0xfe80 << 112 | 9;
    // Both ports have this address: their MACs are equal.
    const ROUTER_LL: u128 = 0xfe80 << 112 | 0x0000_00ff_fe00_0001;
    let (_, server) = ends(Family::V6);
    for (port, name) in [(LAN, "lan0"), (WAN, "wan0")] {
        let mut rig = Rig::new("");
        let solicits = |rig: &mut Rig, frame: Vec<u8>| -> Vec<String> { described(&rig.send(port, &frame)) };
        let asked = format!("{name} icmp6 fe80::ff:fe00:1 > ff02::1:ff00:9 135/0 ttl 255");
        assert_eq!(solicits(&mut rig, ping(Family::V6, HOST_LL, ROUTER_LL, 1, b"")), [asked]);
        assert_eq!(rig.drops(), []);
        assert_eq!(rig.engine.held(), 1);
        // The host's advertisement releases the answer.
        let mut advert = Vec::new();
        let mut target = HOST_LL.to_be_bytes().to_vec();
        target.extend([2, 1]);
        target.extend(HOST);
        ip(Family::V6, HOST_LL, ROUTER_LL, 255)
            .icmpv6_raw(136, 0, [0x60, 0, 0, 0])
            .write(&mut advert, &target)
            .expect("a frame");
        let answered = format!("{name} icmp6 fe80::ff:fe00:1 > fe80::9 129/0 ttl 64");
        assert_eq!(solicits(&mut rig, advert), [answered]);
        // A closed port, and a packet that may not leave its link (code 2: beyond scope of source address).
        let closed = format!("{name} icmp6 fe80::ff:fe00:1 > fe80::9 1/4 ttl 64");
        assert_eq!(solicits(&mut rig, udp(Family::V6, HOST_LL, ROUTER_LL, (5, 7), b"")), [closed]);
        rig.assert_census();
    }
    // What may not leave its link (code 2: beyond scope of source address), what cannot, and what lived too long.
    let known = "[[neighbours]]\ninterface = \"lan0\"\naddress = \"fe80::9\"\nmac = \"02:00:00:00:00:02\"\n";
    for (dst, ttl, code, drop) in [
        (server, 64, "1/2", "not-forwarded"),
        (server, 1, "3/0", "ttl-expired"),
        (0x2001_4860 << 96, 64, "1/0", "no-route"),
    ] {
        let mut rig = Rig::new(known);
        let sent = rig.send(LAN, &udp_ttl(Family::V6, HOST_LL, dst, (5, 7), ttl));
        assert_eq!(described(&sent), [format!("lan0 icmp6 fe80::ff:fe00:1 > fe80::9 {code} ttl 64")]);
        assert_eq!(rig.drops(), [(drop, 1)]);
        rig.assert_census();
    }
}

#[test]
fn marking_neighbour_discovery_does_not_lose_it() {
    let mut rig = Rig::new("[ipv6.mangle.OUTPUT]\nrules = [\"-j MARK --set-mark 1\"]\n");
    let (client, server) = ends(Family::V6);
    let sent = rig.send(LAN, &udp(Family::V6, client, server + 1, (5, 7), b""));
    assert_eq!(described(&sent), ["wan0 icmp6 fe80::ff:fe00:1 > ff02::1:ff00:a 135/0 ttl 255"]);
    assert_eq!(rig.drops(), []);
    rig.assert_census();
}

#[test]
fn the_router_answers_as_the_address_that_was_asked() {
    const REDIRECT: &str =
        "[nat.PREROUTING]\nrules = [\"-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81\", \"-p udp -j REDIRECT\"]\n";
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(REDIRECT);
        let sent = rig.send(LAN, &tcp(family, client, server, (5, 80), "S", b""));
        assert_eq!(described(&sent), [said(family, "lan0 tcp SERVER:80 > CLIENT:5 AR ttl 64")]);
        let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b"data"));
        let expected =
            said(family, "lan0 ICMP SERVER > CLIENT PORT-UNREACHABLE ttl 64 about udp CLIENT:5 > SERVER:7 ttl 64");
        assert_eq!(told(&sent), [expected]);
        assert_eq!(rig.drops(), [("no-listener", 1)]);
        // A ping to the outer address from inside.
        let (_, wan) = own(family);
        let sent = rig.send(LAN, &ping(family, client, wan, 1, b"abc"));
        let kind = if family == Family::V4 { "0/0" } else { "129/0" };
        assert_eq!(described(&sent), [said(family, "lan0 ICMP WAN > CLIENT KIND ttl 64").replace("KIND", kind)]);
        rig.assert_census();
    }
}

#[test]
fn the_path_mtu_is_said_where_fragmenting_is_forbidden() {
    const NARROW: &str = "
[[routes]]
to = \"198.51.100.0/24\"
via = \"203.0.113.9\"
mtu = 1300
[[routes]]
to = \"2001:db8:9::/48\"
via = \"2001:db8:2::9\"
mtu = 1300
";
    for family in Family::ALL {
        let (client, _) = ends(family);
        let far = if family == Family::V4 { 0xc633_6401 } else { 0x2001_0db8_0009 << 80 | 1 };
        let headers = if family == Family::V4 { 28 } else { 48 };
        let mut rig = Rig::new(NARROW);
        let fits = udp(family, client, far, (5, 7), &vec![1; 1300 - headers]);
        assert_eq!(rig.send(LAN, &fits).len(), 1);
        let sent = rig.send(LAN, &udp(family, client, far, (5, 7), &vec![1; 1301 - headers]));
        let [(port, frame)] = &sent[..] else { panic!("one answer") };
        let at = if family == Family::V4 { 14 + 20 } else { 54 };
        let (kind, len) = if family == Family::V4 { ([3, 4], 576) } else { ([2, 0], 1280) };
        assert_eq!((*port, &frame[at..at + 2], frame.len() - 14), (LAN, &kind[..], len));
        assert_eq!(frame[at + 4..at + 8], [0, 0, 0x05, 0x14]);
        assert_eq!(rig.drops(), [("too-big", 1)]);
        rig.assert_census();
    }
}

#[test]
fn errors_about_untracked_packets_are_in_no_state() {
    // As the kernel: the error is looked at on its own, and what it quotes is no flow.
    let rules = "
[raw.PREROUTING]
rules = [\"-p udp -j NOTRACK\"]
[filter.FORWARD]
rules = [\"-p udp -m conntrack --ctstate UNTRACKED -j REJECT\"]
[filter.OUTPUT]
rules = [\"-m conntrack --ctstate INVALID\", \"-m conntrack --ctstate UNTRACKED\", \"-m conntrack --ctstate RELATED\"]
";
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(rules);
        assert_eq!(rig.send(LAN, &udp(family, client, server, (5, 7), b"")).len(), 1);
        assert_eq!(rig.packets(family, "filter.OUTPUT"), [1, 0, 0, 1]);
    }
}

#[test]
fn errors_come_from_the_way_back_in_ipv4_and_from_the_way_in_in_ipv6() {
    let rules = "
[[routes]]
to = \"198.51.100.0/24\"
via = \"203.0.113.9\"
[[routes]]
to = \"2001:db8:9::/48\"
via = \"2001:db8:2::9\"
";
    for (family, far, nowhere, expected) in [
        (Family::V4, 0xc633_6401, 0x0808_0808, "wan0 icmp 203.0.113.2 > 198.51.100.1 3/0 ttl 64"),
        (Family::V6, 0x2001_0db8_0009 << 80 | 1, 0x2001_4860 << 96, "wan0 icmp6 fd00:1::1 > 2001:db8:9::1 1/0 ttl 64"),
    ] {
        let mut rig = Rig::new(rules);
        let sent = rig.send(LAN, &udp(family, far, nowhere, (5, 7), b""));
        assert_eq!(described(&sent), [expected]);
        assert_eq!(rig.drops(), [("no-route", 1)]);
    }
}

#[test]
fn without_forwarding_only_ipv6_says_that_there_is_no_way() {
    let rules = "ip_forward = false\nipv6_forwarding = false\n";
    for family in Family::ALL {
        let (client, server) = ends(family);
        let nowhere = if family == Family::V4 { 0x0808_0808 } else { 0x2001_4860 << 96 };
        assert_eq!(answer(rules, LAN, &udp(family, client, server, (5, 7), b"")).1, [("forwarding-off", 1)]);
        let (told, drops, _) = answer(rules, LAN, &udp(family, client, nowhere, (5, 7), b""));
        match family {
            Family::V4 => assert_eq!((told.len(), drops), (0, vec![("forwarding-off", 1)])),
            Family::V6 => assert_eq!((told.len(), drops), (1, vec![("no-route", 1)])),
        }
    }
}

#[test]
fn sources_mapped_in_input_get_their_answers() {
    let rules =
        "[nat.INPUT]\nrules = [\"-4 -j SNAT --to-source 203.0.113.77\", \"-6 -j SNAT --to-source 2001:db8:2::77\"]\n";
    for family in Family::ALL {
        let (client, _) = ends(family);
        let (lan, _) = own(family);
        let mut rig = Rig::new(rules);
        let sent = rig.send(LAN, &udp(family, client, lan, (5, 7), b""));
        let expected = said(family, "lan0 ICMP LAN > CLIENT PORT-UNREACHABLE ttl 64 about udp CLIENT:5 > LAN:7 ttl 64");
        assert_eq!(told(&sent), [expected]);
        let sent = rig.send(LAN, &tcp(family, client, lan, (5, 80), "S", b""));
        assert_eq!(described(&sent), [said(family, "lan0 tcp LAN:80 > CLIENT:5 AR ttl 64")]);
        assert_eq!(rig.router.conntrack.count(), 1, "a refused connection is no flow");
        rig.assert_census();
    }
}

#[test]
fn redirect_takes_the_first_address_of_the_port() {
    let rules = "[nat.PREROUTING]\nrules = [\"-p udp -j REDIRECT\"]\n[filter.INPUT]\nrules = [\"-4 -d 192.168.1.1\", \"-6 -d fd00:1::1\"]\n";
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(rules);
        rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        assert_eq!(rig.packets(family, "filter.INPUT"), [1, 1]);
        assert_eq!(rig.drops(), [("no-listener", 1)]);
    }
}
