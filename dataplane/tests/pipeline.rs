//! The way of a packet: hooks and tables in order, counters, tracking, mapping, routing by mark, fragments.

mod common;

use common::*;
use sumun_config::facts::Family;
use sumun_dataplane::engine::Trace;
use sumun_dataplane::log::line;

const NAT: &str = r#"[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]
"#;

/// `PREROUTING/mangle` for each chain whose end or rule was asked, in order.
fn steps(trace: &Trace) -> Vec<String> {
    trace.steps.iter().map(|step| format!("{}/{}", step.hook.name(), step.table.name())).collect()
}

#[test]
fn a_packet_passes_hooks_and_tables_in_the_order_of_netfilter() {
    let forwarded = "PREROUTING/raw PREROUTING/mangle PREROUTING/nat FORWARD/mangle FORWARD/filter FORWARD/security \
                     POSTROUTING/mangle POSTROUTING/nat";
    let answered = "PREROUTING/raw PREROUTING/mangle PREROUTING/nat INPUT/mangle INPUT/filter INPUT/security INPUT/nat \
                    OUTPUT/raw OUTPUT/mangle OUTPUT/filter OUTPUT/security POSTROUTING/mangle";
    for family in Family::ALL {
        let (client, server) = ends(family);
        let (lan, _) = own(family);
        let with_nat = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let without =
            |text: &str| with_nat(text).into_iter().filter(|step| !step.ends_with("/nat")).collect::<Vec<_>>();
        let mut rig = Rig::new(NAT);
        let first = udp(family, client, server, (5, 7), b"");
        let (trace, _) = rig.traced(LAN, &first);
        assert_eq!(steps(&trace), with_nat(forwarded));
        let (trace, _) = rig.traced(LAN, &first);
        assert_eq!(steps(&trace), without(forwarded), "table nat sees first packets only");
        let (trace, _) = rig.traced(LAN, &ping(family, client, lan, 1, b""));
        assert_eq!(steps(&trace), with_nat(answered));
        let mut rig = Rig::new("");
        let (trace, _) = rig.traced(LAN, &first);
        assert_eq!(steps(&trace), without(forwarded), "no table nat without rules");
    }
}

#[test]
fn rules_count_as_iptables_does() {
    // RETURN and the end of a chain go back to the caller, a goto does not; every match counts its IP length.
    let rules = r#"
[filter.FORWARD]
rules = ["-p udp -j first", "-p udp", "-p udp -g second", "-p udp"]
[filter.first]
rules = ["-p udp -m udp --dport 7 -j RETURN", "-p udp -j second", "-p udp"]
[filter.second]
rules = ["-p udp", "-p udp -j third"]
[filter.third]
rules = ["-p tcp"]
"#;
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(rules);
        rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        rig.send(LAN, &udp(family, client, server, (5, 8), b"12"));
        let (one, both) = match family {
            Family::V4 => (30, 28 + 30),
            Family::V6 => (50, 48 + 50),
        };
        let of = |chain| rig.counters(family, 3, chain);
        assert_eq!(of(1), [(2, both), (2, both), (2, both), (0, 0), (2, both)], "FORWARD: the goto ends at the policy");
        assert_eq!(of(3), [(1, both - one), (1, one), (1, one), (0, 0)]);
        assert_eq!(of(4), [(3, both + one), (3, both + one), (0, 0)]);
        assert_eq!(of(5), [(0, 0), (0, 0)]);
        assert_eq!(of(0), [(0, 0)], "INPUT");
        assert_eq!(rig.drops(), []);
        rig.assert_census();
    }
}

#[test]
fn return_in_a_built_in_chain_means_its_policy() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new("[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-j RETURN\", \"-j ACCEPT\"]\n");
        assert!(rig.send(LAN, &udp(family, client, server, (5, 7), b"")).is_empty());
        assert_eq!(rig.packets(family, "filter.FORWARD"), [1, 0, 1]);
        assert_eq!(rig.drops(), [("policy-drop", 1)]);
    }
}

#[test]
fn nothing_is_tracked_unless_a_rule_asks_for_it() {
    let asks = [
        ("", 0),
        ("[raw.PREROUTING]\nrules = [\"-p tcp -j NOTRACK\", \"-p tcp -j CT --notrack\"]\n", 0),
        ("[mangle.FORWARD]\nrules = [\"-j MARK --set-mark 1\"]\n", 0),
        ("[filter.INPUT]\nrules = [\"-m state --state NEW\"]\n", 1),
        ("[filter.INPUT]\nrules = [\"-m conntrack --ctstate NEW\"]\n", 1),
        ("[filter.INPUT]\nrules = [\"-m connmark --mark 1\"]\n", 1),
        ("[mangle.FORWARD]\nrules = [\"-j CONNMARK --set-mark 1\"]\n", 1),
        ("[nat.OUTPUT]\nrules = [\"-p tcp\"]\n", 0),
        ("[nat.OUTPUT]\nrules = [\"-p tcp -j REDIRECT\"]\n", 1),
        ("[mangle.FORWARD]\nrules = [\"-j CONNSECMARK --save\"]\n", 1),
        ("[raw.PREROUTING]\nrules = [\"-p udp -j CT --zone 5\"]\n", 1),
        ("[filter.FORWARD]\nrules = [\"-m connlabel --label 5\"]\n", 1),
        ("[filter.FORWARD]\nrules = [\"-m helper --helper ftp\"]\n", 1),
        ("[filter.FORWARD]\nrules = [\"-m connlimit --connlimit-above 5\"]\n", 1),
        ("[filter.FORWARD]\nrules = [\"-m connbytes --connbytes 5 --connbytes-mode bytes --connbytes-dir both\"]\n", 1),
    ];
    for family in Family::ALL {
        let (client, server) = ends(family);
        for (rules, flows) in asks {
            let mut rig = Rig::new(rules);
            let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b""));
            assert_eq!(described(&sent), [said(family, "wan0 udp CLIENT:5 > SERVER:7 ttl 63")]);
            assert_eq!(rig.router.conntrack.count(), flows, "{rules}");
        }
        // One family's rules track that family only.
        let mut rig = Rig::new("[ipv6.filter.FORWARD]\nrules = [\"-m state --state NEW\"]\n");
        rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        assert_eq!(rig.router.conntrack.count(), u32::from(family == Family::V6));
    }
}

#[test]
fn the_first_ct_or_notrack_of_raw_counts_and_looks_like_a_new_flow_to_the_rules_behind_it() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(
            r#"
            [raw.PREROUTING]
            rules = [
                "-p udp -m udp --dport 7 -j CT --zone mark",
                "-p udp -m udp --dport 7 -j NOTRACK",
                "-m conntrack --ctstate NEW --ctstatus CONFIRMED --ctdir ORIGINAL --ctproto 0",
                "-p udp -m udp --dport 8 -j NOTRACK",
                "-p udp -m udp --dport 8 -j CT --zone 3",
                "-m conntrack --ctstate UNTRACKED",
                "-p udp -m udp --dport 9 -m conntrack --ctstate INVALID",
                "-j MARK --set-mark 0x10009",
            ]
            "#,
        );
        for port in [7, 8, 9] {
            assert_eq!(rig.send(LAN, &udp(family, client, server, (5, port), b"")).len(), 1);
        }
        assert_eq!(rig.packets(family, "raw.PREROUTING"), [1, 1, 1, 1, 1, 1, 1, 3, 3]);
        let mut zones = Vec::new();
        rig.router.conntrack.list(rig.now, |flow| zones.push((flow.original.tuple.dport, flow.zones())));
        zones.sort_unstable();
        assert_eq!(zones, [(7, [9, 9]), (9, [0, 0])]);
    }
}

#[test]
fn tracking_that_begins_in_mid_flow_picks_connections_up() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new("");
        for (port, frame) in [
            (LAN, tcp(family, client, server, (5, 80), "S", b"")),
            (WAN, tcp(family, server, client, (80, 5), "SA", b"")),
        ] {
            assert_eq!(rig.send(port, &frame).len(), 1);
        }
        rig.swap("[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-m state --state NEW,ESTABLISHED -j ACCEPT\"]\n");
        assert_eq!(rig.send(LAN, &tcp(family, client, server, (5, 80), "A", b"")).len(), 1);
        assert_eq!(rig.send(WAN, &tcp(family, server, client, (80, 5), "PA", b"x")).len(), 1);
        assert_eq!(rig.router.conntrack.count(), 1);
    }
}

#[test]
fn mappings_outlive_the_rules_that_chose_them() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let (_, wan) = own(family);
        let mut rig = Rig::new(NAT);
        rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        rig.swap("");
        let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        assert_eq!(described(&sent), [said(family, "wan0 udp WAN:5 > SERVER:7 ttl 63")]);
        let sent = rig.send(WAN, &udp(family, server, wan, (7, 5), b""));
        assert_eq!(described(&sent), [said(family, "lan0 udp SERVER:7 > CLIENT:5 ttl 63")]);
        // A new flow is not mapped.
        let sent = rig.send(LAN, &udp(family, client, server, (6, 7), b""));
        assert_eq!(described(&sent), [said(family, "wan0 udp CLIENT:6 > SERVER:7 ttl 63")]);
    }
}

#[test]
fn a_dropped_first_packet_leaves_nothing() {
    for (chain, reason) in [
        ("filter.FORWARD", "rule-drop"),
        ("mangle.PREROUTING", "rule-drop"),
        ("mangle.POSTROUTING", "rule-drop"),
        ("security.FORWARD", "rule-drop"),
    ] {
        for family in Family::ALL {
            let (client, server) = ends(family);
            let mut rig = Rig::new(&format!("{NAT}[{chain}]\nrules = [\"-p udp -j DROP\"]\n"));
            // Twice in a burst: the second packet holds the first one's flow.
            let frame = udp(family, client, server, (5, 7), b"");
            assert!(rig.burst(LAN, &[frame.clone(), frame]).is_empty());
            assert_eq!((rig.router.conntrack.count(), rig.drops()), (0, vec![(reason, 2)]), "{chain}");
            rig.swap(NAT);
            let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b""));
            assert_eq!(described(&sent), [said(family, "wan0 udp WAN:5 > SERVER:7 ttl 63")]);
            rig.assert_census();
        }
    }
}

#[test]
fn untracked_packets_are_not_mapped() {
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(&format!("{NAT}[raw.PREROUTING]\nrules = [\"-p udp -j NOTRACK\"]\n"));
        let sent = rig.send(LAN, &udp(family, client, server, (5, 7), b""));
        assert_eq!(described(&sent), [said(family, "wan0 udp CLIENT:5 > SERVER:7 ttl 63")]);
        assert_eq!(rig.packets(family, "nat.POSTROUTING"), [0, 0]);
        assert_eq!(rig.router.conntrack.count(), 0);
    }
}

#[test]
fn a_client_reaches_an_inner_server_at_the_outer_address() {
    let rules = r#"
[nat.PREROUTING]
rules = ["-4 -d 203.0.113.2 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.168.1.9:8080", "-6 -d 2001:db8:2::2 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:1::9]:8080"]
[nat.POSTROUTING]
rules = ["-o lan0 -p tcp -m tcp --dport 8080 -m conntrack --ctstate DNAT -j MASQUERADE"]
"#;
    for family in Family::ALL {
        // The client is another host of the LAN: its address is the server's plus one.
        let (server, _) = ends(family);
        let client = server + 1;
        let (lan, wan) = own(family);
        let mut rig = Rig::new(rules);
        let sent = rig.send(LAN, &tcp(family, client, wan, (5, 80), "S", b""));
        assert_eq!(described(&sent), [said(family, "lan0 tcp LAN:5 > CLIENT:8080 S ttl 63")]);
        // The answer, once the client's MAC is known.
        rig.send(LAN, &tcp(family, server, lan, (8080, 5), "SA", b""));
        assert_eq!(rig.engine.held(), 1);
        let waiting = rig.drops();
        assert_eq!(waiting, []);
        rig.assert_census();
    }
}

#[test]
fn marks_choose_the_route() {
    let rules = r#"
[[routes]]
to = "198.51.100.0/24"
type = "unreachable"
[[routes]]
to = "2001:db8:9::/48"
type = "unreachable"
[[routes]]
to = "198.51.100.0/24"
via = "203.0.113.9"
table = 100
[[routes]]
to = "2001:db8:9::/48"
via = "2001:db8:2::9"
table = 100
[[rules]]
priority = 100
fwmark = "0x1"
table = 100
[mangle.PREROUTING]
rules = ["-j CONNMARK --restore-mark", "-p udp -m mark --mark 0 -m length --length 0:60 -j MARK --set-mark 1", "-j CONNMARK --save-mark"]
"#;
    for family in Family::ALL {
        let (client, _) = ends(family);
        let far = if family == Family::V4 { 0xc633_6401 } else { 0x2001_0db8_0009 << 80 | 1 };
        let mut rig = Rig::new(rules);
        assert_eq!(rig.send(LAN, &udp(family, client, far, (5, 7), b""))[0].0, WAN);
        // A long packet takes its mark from its flow, or has none.
        assert_eq!(rig.send(LAN, &udp(family, client, far, (5, 7), &[0; 100]))[0].0, WAN);
        assert_eq!(rig.drops(), []);
        let unreachable = rig.send(LAN, &udp(family, client, far, (5, 8), &[0; 100]));
        assert_eq!(unreachable[0].0, LAN);
        assert_eq!(rig.drops(), [("no-route", 1)]);
        rig.assert_census();
    }
}

#[test]
fn rules_of_output_see_the_port_that_was_first_found() {
    // The answer goes out on the WAN by its mark; only POSTROUTING sees that. So does the kernel.
    let rules = r#"
[[routes]]
to = "192.168.1.9/32"
via = "203.0.113.9"
table = 100
[[rules]]
priority = 1
fwmark = "0x1"
iif = "lo"
table = 100
[mangle.OUTPUT]
rules = ["-4 -p icmp -j MARK --set-mark 1"]
[filter.OUTPUT]
rules = ["-o lan0", "-o wan0"]
[mangle.POSTROUTING]
rules = ["-o lan0", "-o wan0"]
"#;
    let (client, _) = ends(Family::V4);
    let (lan, _) = own(Family::V4);
    let mut rig = Rig::new(rules);
    // Without the local table's precedence the LAN's own addresses would not be found: rule 0 stays before rule 1.
    let sent = rig.send(LAN, &ping(Family::V4, client, lan, 1, b""));
    assert_eq!(described(&sent), ["wan0 icmp 192.168.1.1 > 192.168.1.9 0/0 ttl 64"]);
    assert_eq!(rig.packets(Family::V4, "filter.OUTPUT"), [1, 0, 1]);
    assert_eq!(rig.packets(Family::V4, "mangle.POSTROUTING"), [0, 1, 1]);
}

#[test]
fn masquerade_behind_a_link_local_gateway_takes_a_global_address() {
    let rules = format!(
        "[[routes]]\nto = \"2001:db8:9::/48\"\nvia = \"fe80::9\"\ndev = \"wan0\"\n
         [[neighbours]]\ninterface = \"wan0\"\naddress = \"fe80::9\"\nmac = \"02:00:00:00:00:02\"\n{NAT}"
    );
    let (client, _) = ends(Family::V6);
    let far = 0x2001_0db8_0009 << 80 | 1;
    let mut rig = Rig::new(&rules);
    let sent = rig.send(LAN, &udp(Family::V6, client, far, (5, 7), b""));
    assert_eq!(described(&sent), ["wan0 udp 2001:db8:2::2:5 > 2001:db8:9::1:7 ttl 63"]);
    // And an error for a host behind that gateway comes from the router's global address.
    let sent = rig.send(WAN, &udp_ttl(Family::V6, far, client, (5, 7), 1));
    assert_eq!(described(&sent), ["wan0 icmp6 2001:db8:2::2 > 2001:db8:9::1 3/0 ttl 64"]);
}

#[test]
fn fragments_pass_where_nothing_needs_them_whole() {
    // Where flows are tracked they come together first, so that no rule sees a later one.
    let fragment = |offset: u16, more: bool| {
        let mut header =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [192, 168, 1, 9], [203, 0, 113, 9])
                .expect("a header");
        header.more_fragments = more;
        header.fragment_offset = etherparse::IpFragOffset::try_new(offset / 8).expect("an offset");
        let mut frame = Vec::new();
        let headers = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
        // Ports 5 and 7, a length of both fragments, and no checksum.
        let mut part = [0; 64];
        part[..8].copy_from_slice(&[0, 5, 0, 7, 0, 128, 0, 0]);
        link().ip(headers).write(&mut frame, etherparse::IpNumber::UDP, &part).expect("a frame");
        frame
    };
    for (rules, passed) in [
        ("", 2),
        ("[filter.FORWARD]\nrules = [\"-m state --state NEW\"]\n", 2),
        ("[filter.FORWARD]\nrules = [\"-m state --state INVALID -j DROP\"]\n", 2),
        ("[ipv4.filter.FORWARD]\nrules = [\"-f -j DROP\"]\n", 1),
        ("[ipv4.filter.FORWARD]\nrules = [\"-f -j DROP\", \"-m state --state NEW\"]\n", 2),
    ] {
        let mut rig = Rig::new(rules);
        let sent = rig.burst(LAN, &[fragment(0, true), fragment(64, false)]);
        assert_eq!(sent.len(), passed, "{rules}");
        rig.assert_census();
    }
}

#[test]
fn what_goes_nowhere_is_refused_before_its_way_back_is_asked() {
    for family in Family::ALL {
        let (client, _) = ends(family);
        let nowhere = if family == Family::V4 { 0x0808_0808 } else { 0x2001_4860 << 96 | 8 };
        let mut rig = Rig::new("");
        let sent = rig.send(LAN, &udp(family, client, nowhere, (5, 7), b""));
        let code = if family == Family::V4 { "3/0" } else { "1/0" };
        assert_eq!(described(&sent), [said(family, "lan0 ICMP LAN > CLIENT CODE ttl 64").replace("CODE", code)]);
        assert_eq!(rig.drops(), [("no-route", 1)]);
        rig.assert_census();
    }
}

#[test]
fn limits_refill_with_time_and_statistics_count_in_order() {
    let rules = r#"
[filter.FORWARD]
policy = "DROP"
rules = ["-p udp -m limit --limit 2/second --limit-burst 3 -j ACCEPT", "-p tcp -m statistic --mode nth --every 3 --packet 1 -j ACCEPT"]
"#;
    for family in Family::ALL {
        let (client, server) = ends(family);
        let mut rig = Rig::new(rules);
        let burst = vec![udp(family, client, server, (5, 7), b""); 5];
        assert_eq!(rig.burst(LAN, &burst).len(), 3);
        rig.wait(500_000_000);
        assert_eq!(rig.burst(LAN, &burst).len(), 1);
        rig.wait(10_000_000_000);
        assert_eq!(rig.burst(LAN, &burst).len(), 3);
        let passed: Vec<usize> =
            (0..7).map(|_| rig.send(LAN, &tcp(family, client, server, (5, 80), "S", b"")).len()).collect();
        assert_eq!(passed, [0, 1, 0, 0, 1, 0, 0]);
        rig.assert_census();
    }
}

#[test]
fn log_lines_say_what_the_rule_saw() {
    let rules = r#"
[mangle.PREROUTING]
rules = ["-p udp -j MARK --set-mark 7"]
[filter.FORWARD]
rules = ["-p udp -j LOG --log-prefix \"in: \""]
[mangle.POSTROUTING]
rules = ["-p udp -j LOG --log-prefix \"out: \""]
"#;
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new(&format!("{NAT}{rules}"));
    rig.send(LAN, &udp(Family::V4, client, server, (5, 7), b"x"));
    let ports = ["lan0".to_string(), "wan0".to_string()];
    let lines: Vec<String> = std::iter::from_fn(|| rig.router.log.pop()).map(|event| line(&event, &ports)).collect();
    let rest = "IN=lan0 OUT=wan0 MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 SRC=192.168.1.9 DST=203.0.113.9 LEN=29 \
                TOS=0x00 PREC=0x00 TTL=63 ID=0 DF PROTO=UDP SPT=5 DPT=7 LEN=9 MARK=0x7";
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    assert_eq!(lines, [format!("in: {rest}"), format!("out: {rest}")]);
}
