//! What the kernel's self-tests of connection tracking and NAT show, rebuilt over real AF_XDP sockets.
//!
//! | tools/testing/selftests/net/netfilter | here |
//! |---|---|
//! | conntrack_clash.sh | `two_workers.rs`: `first_packets_of_one_flow_may_come_to_both_workers_at_once` |
//! | conntrack_dump_flush.c | [`flows_are_listed_counted_and_deleted_by_zone`] |
//! | conntrack_icmp_related.sh | [`an_error_from_beyond_about_a_masqueraded_ping_is_related`]; redirects: the router sends none |
//! | conntrack_ipip_mtu.sh | [`fragments_that_are_put_together_for_tracking_still_fit_a_smaller_path`], without the tunnel |
//! | conntrack_resize.sh | [`a_full_table_keeps_its_bound_and_every_listing_is_whole`]; the table is never resized |
//! | conntrack_reverse_clash.sh | `two_workers.rs`: `both_ends_may_send_first_at_the_same_moment` |
//! | conntrack_sctp_collision.sh | [`an_sctp_association_survives_a_stale_answer_to_its_colliding_init`] and [`...a_stale_init`](an_sctp_association_survives_a_stale_init) |
//! | conntrack_tcp_unreplied.sh | [`a_connection_that_nobody_answers_ends_though_its_syn_is_repeated`] |
//! | conntrack_vrf.sh | no: there are no VRF devices. Zones by interface: nft_nat_zones.sh |
//! | nf_conntrack_packetdrill.sh | `selftests_tcp.rs` |
//! | nf_nat_edemux.sh | [`one_source_port_reaches_one_service_by_three_names`] |
//! | nft_conntrack_helper.sh | [`a_flow_has_the_helper_that_a_rule_gave_it_and_no_other`] |
//! | nft_fib.sh, nft_fib_nexthop.sh | no: iptables has no `fib`; what `addrtype` asks of it is tried with the match |
//! | nft_nat.sh, masquerade and redirect | [`a_masqueraded_ping_seems_to_be_the_routers`], [`a_redirected_ping_is_answered_by_the_router`] |
//! | nft_nat.sh, port shadowing | [`a_client_may_shadow_a_port_of_the_router_and_rules_prevent_it`] |
//! | nft_nat.sh, DNAT clash | [`a_flow_may_have_the_addresses_that_another_one_was_mapped_to`] |
//! | nft_nat.sh, local DNAT | `nat.rs` where the router itself sends; stateless: iptables has none (NPTv6: `nat.rs`) |
//! | nft_nat_zones.sh | [`clients_with_the_same_address_are_told_apart_by_zone`] |
//! | nft_zones_many.sh | [`the_same_addresses_are_a_flow_in_each_of_many_zones`] |
//! | rpath.sh | [`a_source_that_lies_elsewhere_fails_the_reverse_path_filter`] by `rp-filter`; no `-m rpfilter` yet |
//! | vxlan_mtu_frag.sh, br_netfilter.sh, br_netfilter_queue.sh, bridge_brouter.sh | no: a router, not a bridge |
//! | ipvs.sh, nft_flowtable.sh, nft_offload.sh, nft_audit.sh, nft_concat_range.sh, nft_interface_stress.sh | no: not of iptables |
//! | nft_queue.sh, nft_synproxy.sh, nft_tproxy_tcp.sh, nft_tproxy_udp.sh, xt_string.sh | no: no NFQUEUE, SYNPROXY, TPROXY, `string` yet |

use anyhow::Result;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};
use sumun_config::facts::{Family, proto};
use sumun_dataplane::packet::crc32c::crc32c;
use sumun_testbed::craft::{End, Ends, Sent, Tcp};
use sumun_testbed::router::{INTERFACES, head, wait};
use sumun_testbed::{Host, Lab, Router, talk};

/// Packets and bytes of the rules of a chain, as the kernel prints them before a rule.
fn counted(router: &Router, family: &str, rule: &str) -> Result<String> {
    let rules = router.ask(&["rules", "--counters", family])?;
    let line = rules.lines().find(|line| line.contains(rule)).unwrap_or_else(|| panic!("{rule} in\n{rules}"));
    Ok(line.split(']').next().unwrap_or_default().trim_start_matches('[').to_string())
}

#[test]
fn an_error_from_beyond_about_a_masqueraded_ping_is_related() -> Result<()> {
    let lab = Lab::new(1)?;
    let far = Host::new(&format!("{}-far", std::process::id()))?;
    lab.join(&lab.server, "far0", &far, "eth0", 1)?;
    for (host, device) in [(&lab.server, "far0"), (&far, "eth0")] {
        host.ip(&format!("link set {device} mtu 1280"))?;
    }
    lab.server.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    for (prefix, length, flags) in [("198.51.100.", 24, ""), ("2001:db8:9::", 64, " nodad")] {
        lab.server.ip(&format!("addr add {prefix}1/{length} dev far0{flags}"))?;
        far.ip(&format!("addr add {prefix}2/{length} dev eth0{flags}"))?;
        far.ip(&format!("route add default via {prefix}1"))?;
    }
    let rules = r#"
[[routes]]
to = "198.51.100.0/24"
via = "203.0.113.1"

[[routes]]
to = "2001:db8:9::/64"
via = "2001:db8:2::1"

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[ipv4.filter.FORWARD]
policy = "DROP"
rules = [
  "-p icmp -m icmp --icmp-type 3/4 -m conntrack --ctstate RELATED -j ACCEPT",
  "-p icmp -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
]

[ipv6.filter.FORWARD]
policy = "DROP"
rules = [
  "-p ipv6-icmp -m icmp6 --icmpv6-type 2 -m conntrack --ctstate RELATED -j ACCEPT",
  "-p ipv6-icmp -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
]
"#;
    let router = Router::start(&lab, rules)?;
    for (flag, to, related) in [("-4", "198.51.100.2", "1:576"), ("-6", "2001:db8:9::2", "1:1280")] {
        lab.client1.run(&["ping", "-n", "-c", "1", "-W", "2", "-s", "1000", "-M", "do", to])?;
        assert_eq!(counted(&router, flag, "RELATED")?, "0:0");
        let ping = lab.client1.output(&["ping", "-n", "-c", "1", "-W", "1", "-s", "1300", "-M", "do", to])?;
        let text = String::from_utf8_lossy(&ping.stdout).into_owned() + &String::from_utf8_lossy(&ping.stderr);
        assert!(!ping.status.success() && (text.contains("mtu = 1280") || text.contains("mtu=1280")), "{text}");
        assert_eq!(counted(&router, flag, "RELATED")?, related);
    }
    assert_eq!(router.dropped("policy-drop")?, 0);
    Ok(())
}

#[test]
fn a_connection_that_nobody_answers_ends_though_its_syn_is_repeated() -> Result<()> {
    let lab = Lab::new(1)?;
    let ends = Ends::new(&lab)?;
    let rules = |nat: &str| {
        format!(
            "nf_conntrack_tcp_timeout_syn_sent = 1\n{}[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW\"]\n[ipv4.nat.PREROUTING]\nrules = [{nat}]\n",
            ends.neighbours()
        )
    };
    let mut router = Router::start(&lab, &rules(""))?;
    let client = Tcp { family: Family::V4, from: End::Near, ports: (4000, 80) };
    let syn = client.segment("S", 0, 0, 65_535, &[], 0);
    let port = |out: Vec<Vec<u8>>| out.first().map(|p| u16::from_be_bytes([p[22], p[23]]));
    let began = Instant::now();
    assert_eq!(port(ends.send(&syn)?), Some(80));
    router.rewrite(&rules("\"-d 203.0.113.50/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination :8080\""))?;
    router.wait_for_generation(2)?;
    if began.elapsed() < Duration::from_millis(700) {
        assert_eq!(port(ends.send(&syn)?), Some(80), "a flow keeps what it has");
    }
    wait("the new mapping", || Ok(port(ends.send(&syn)?) == Some(8080)))?;
    assert!(began.elapsed() < Duration::from_secs(5), "the time of the first is not extended by repeating it");
    assert_eq!(router.flows(&["tcp ", "dport=80 ", "SYN_SENT", "[UNREPLIED]", "sport=8080"])?.len(), 1);
    Ok(())
}

/// An SCTP packet of one chunk between port 1234 of both ends.
fn sctp(from: End, family: Family, vtag: u32, kind: u8, value: &[u8]) -> Sent {
    let mut l4 = [1234u16.to_be_bytes(), 1234u16.to_be_bytes()].concat();
    l4.extend(vtag.to_be_bytes());
    l4.extend([0; 4]);
    l4.extend([kind, 0]);
    l4.extend((4 + value.len() as u16).to_be_bytes());
    l4.extend(value);
    let sum = crc32c(&l4);
    l4[8..12].copy_from_slice(&sum.to_le_bytes());
    (from, from.ip(family).packet(proto::SCTP, &l4, 0))
}

/// The fixed part of INIT and INIT ACK with this tag.
fn init(tag: u32) -> Vec<u8> {
    let mut value = tag.to_be_bytes().to_vec();
    value.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    value
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const DATA: u8 = 0;
const STALE: &str = "[filter.FORWARD]\npolicy = \"ACCEPT\"\nrules = [\"-m conntrack --ctstate INVALID -j DROP\"]\n\n";

#[test]
fn an_sctp_association_survives_a_stale_answer_to_its_colliding_init() -> Result<()> {
    let lab = Lab::new(1)?;
    let ends = Ends::new(&lab)?;
    let router = Router::start(&lab, &format!("{STALE}{}", ends.neighbours()))?;
    let (client, server, stale) = (2_017_837_359, 1_187_206_187, 164_579_970);
    for family in Family::ALL {
        let near = |vtag, kind, value: &[u8]| ends.passes(&sctp(End::Near, family, vtag, kind, value));
        let far = |vtag, kind, value: &[u8]| ends.passes(&sctp(End::Far, family, vtag, kind, value));
        assert!(near(0, INIT, &init(client))?);
        assert!(far(0, INIT, &init(server))?);
        assert!(near(server, INIT_ACK, &init(client))?);
        assert!(far(client, COOKIE_ECHO, &[0; 4])?);
        assert!(near(server, COOKIE_ACK, &[])?);
        assert!(!far(client, INIT_ACK, &init(stale))?, "{family:?}: the delayed answer to the first INIT");
        assert!(near(server, DATA, &[0; 16])?);
        assert!(far(client, DATA, &[0; 16])?);
    }
    // As the kernel has it, which takes the colliding INIT for no beginning.
    assert_eq!(router.flows(&["sctp ", "CLOSED"])?.len(), 2);
    Ok(())
}

#[test]
fn an_sctp_association_survives_a_stale_init() -> Result<()> {
    let lab = Lab::new(1)?;
    let ends = Ends::new(&lab)?;
    let router = Router::start(&lab, &format!("{STALE}{}", ends.neighbours()))?;
    let (client, server, stale) = (2_017_837_359, 1_187_206_187, 164_579_970);
    for family in Family::ALL {
        let near = |vtag, kind, value: &[u8]| ends.passes(&sctp(End::Near, family, vtag, kind, value));
        let far = |vtag, kind, value: &[u8]| ends.passes(&sctp(End::Far, family, vtag, kind, value));
        assert!(far(0, INIT, &init(server))?);
        assert!(near(server, INIT_ACK, &init(client))?);
        assert!(far(client, COOKIE_ECHO, &[0; 4])?);
        assert!(near(server, COOKIE_ACK, &[])?);
        assert!(near(0, INIT, &init(client))?, "{family:?}: the delayed INIT");
        assert!(!far(client, INIT_ACK, &init(stale))?, "{family:?}: its answer");
        assert!(near(server, DATA, &[0; 16])?);
        assert!(far(client, DATA, &[0; 16])?);
    }
    assert_eq!(router.flows(&["sctp ", "ESTABLISHED", "[ASSURED]"])?.len(), 2);
    Ok(())
}

#[test]
fn flows_are_listed_counted_and_deleted_by_zone() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = r#"
[raw.PREROUTING]
rules = [
  "-p udp -m udp --dport 5123 -j CT --zone 123",
  "-p udp -m udp --sport 5123 -j CT --zone 123",
  "-p udp -m udp --dport 5124 -j CT --zone 124",
  "-p udp -m udp --sport 5124 -j CT --zone 124",
]

[filter.FORWARD]
policy = "ACCEPT"
rules = ["-m conntrack --ctstate INVALID -j DROP"]
"#;
    let router = Router::start(&lab, rules)?;
    let count = |zone: &str| -> Result<String> {
        Ok(router.ask(&["conntrack", "count", "-p", "udp", "--zone", zone])?.trim().to_string())
    };
    let make = || -> Result<()> {
        for (server, any) in [("203.0.113.1", "0.0.0.0:4000"), ("[2001:db8:2::1]", "[::]:4000")] {
            for port in [5123, 5124, 5125] {
                let echo = talk::udp_echo(&lab.server, &format!("{server}:{port}"), 1)?;
                let socket = talk::udp_connect(&lab.client1, any, &format!("{server}:{port}"))?;
                talk::udp_ask(&socket, b"zone")?;
                echo.join().expect("no panic")?;
            }
        }
        Ok(())
    };
    make()?;
    assert_eq!([count("123")?, count("124")?, count("0")?], ["2", "2", "2"]);
    let listed = router.ask(&["conntrack", "list", "--zone", "123"])?;
    assert!(listed.lines().count() == 2 && listed.lines().all(|flow| flow.contains("dport=5123")), "{listed}");
    router.ask(&["conntrack", "delete", "--zone", "123"])?;
    assert_eq!([count("123")?, count("124")?, count("0")?], ["0", "2", "2"]);
    make()?;
    router.ask(&["conntrack", "delete", "-p", "udp", "--zone", "0"])?;
    assert_eq!([count("123")?, count("124")?, count("0")?], ["2", "2", "0"]);
    router.ask(&["conntrack", "flush"])?;
    assert_eq!([count("123")?, count("124")?, count("0")?], ["0", "0", "0"]);
    Ok(())
}

#[test]
fn a_full_table_keeps_its_bound_and_every_listing_is_whole() -> Result<()> {
    let lab = Lab::new(1)?;
    const MOST: usize = 500;
    let small = head(&lab, "1").replace("cores = [1]", &format!("cores = [1]\nmax-flows = {MOST}"));
    let rules = "[filter.FORWARD]\npolicy = \"ACCEPT\"\nrules = [\"-m conntrack --ctstate INVALID -j DROP\"]\n";
    let router = Router::start_with(&lab, &format!("{small}{INTERFACES}{rules}"))?;
    // One that both ends have used, which nobody may push out.
    let sink = talk::tcp_sink(&lab.server, "203.0.113.1:7000", 1000)?;
    let mut stream = talk::tcp_connect(&lab.client2, "203.0.113.1:7000", None)?;
    let flood = || -> Result<()> {
        lab.client1.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:4000")?;
            for port in 10_000..12_000u16 {
                // The server says that nothing listens, which the socket reports.
                let _ = socket.send_to(b"?", ("203.0.113.1", port));
                let _ = socket.take_error();
                if port % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        })
    };
    std::thread::scope(|scope| -> Result<()> {
        let flooding = scope.spawn(flood);
        while !flooding.is_finished() {
            let listed = router.ask(&["conntrack"])?;
            let mut keys: Vec<&str> =
                listed.lines().filter_map(|flow| flow.split_once(" src=").map(|(_, key)| key)).collect();
            assert_eq!(keys.iter().filter(|key| key.contains("dport=7000")).count(), 1, "who was there all the time");
            // A listing takes its time: it may hold flows that are gone beside those that took their places.
            keys.sort_unstable();
            let all = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), all, "a flow is listed twice");
            let count: usize = router.ask(&["conntrack", "count"])?.trim().parse()?;
            assert!(count <= MOST, "{count} flows");
        }
        flooding.join().expect("no panic")
    })?;
    let count: usize = router.ask(&["conntrack", "count"])?.trim().parse()?;
    assert!(count <= MOST && count > MOST * 8 / 10, "{count} flows");
    talk::tcp_send(&mut stream, 1000, |_| {})?;
    sink.join().expect("no panic")?;
    Ok(())
}

#[test]
fn fragments_that_are_put_together_for_tracking_still_fit_a_smaller_path() -> Result<()> {
    for rules in ["", "[filter.FORWARD]\nrules = [\"-m conntrack --ctstate NEW\"]\n"] {
        let lab = Lab::new(1)?;
        let routes = "[[routes]]\nto = \"198.51.100.0/24\"\nvia = \"203.0.113.1\"\nmtu = 1380\n\
                      [[routes]]\nto = \"2001:db8:9::/64\"\nvia = \"2001:db8:2::1\"\nmtu = 1380\n";
        let router = Router::start(&lab, &format!("{routes}{rules}"))?;
        lab.server.ip("addr add 198.51.100.1/32 dev lo")?;
        lab.server.ip("addr add 2001:db8:9::1/128 dev lo nodad")?;
        // The client knows of the path already and fragments.
        lab.client1.ip("route add 198.51.100.0/24 via 192.168.1.1 mtu lock 1380")?;
        lab.client1.ip("route add 2001:db8:9::/64 via fd00:1::1 mtu lock 1380")?;
        for (far, any) in [("198.51.100.1:5000", "0.0.0.0:0"), ("[2001:db8:9::1]:5000", "[::]:0")] {
            let echo = talk::udp_echo(&lab.server, far, 3)?;
            let socket = talk::udp_connect(&lab.client1, any, far)?;
            for _ in 0..3 {
                talk::udp_ask(&socket, &[b'a'; 1400])?;
            }
            echo.join().expect("no panic")?;
        }
        assert_eq!(router.dropped("too-big")?, 0);
    }
    Ok(())
}

#[test]
fn one_source_port_reaches_one_service_by_three_names() -> Result<()> {
    let lab = Lab::new(1)?;
    let nat = r#"
[ipv4.nat.PREROUTING]
rules = [
  "-d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 203.0.113.1:5201",
  "-d 203.0.113.1/32 -p tcp -m tcp --dport 5202:5203 -j DNAT --to-destination 203.0.113.1:5201",
]
[ipv6.nat.PREROUTING]
rules = [
  "-d fd96::1/128 -p tcp -m tcp --dport 443 -j DNAT --to-destination [2001:db8:2::1]:5201",
  "-d 2001:db8:2::1/128 -p tcp -m tcp --dport 5202:5203 -j DNAT --to-destination [2001:db8:2::1]:5201",
]
"#;
    let router = Router::start(&lab, nat)?;
    for (server, names, from) in [
        (
            "203.0.113.1:5201",
            ["203.0.113.1:5201", "10.96.0.1:443", "203.0.113.1:5202", "203.0.113.1:5203"],
            "192.168.1.11:10000",
        ),
        (
            "[2001:db8:2::1]:5201",
            ["[2001:db8:2::1]:5201", "[fd96::1]:443", "[2001:db8:2::1]:5202", "[2001:db8:2::1]:5203"],
            "[fd00:1::11]:10000",
        ),
    ] {
        let listener = lab.server.inside(|| Ok(TcpListener::bind(server)?))?;
        let from: SocketAddr = from.parse()?;
        let mut open = Vec::new();
        let mut ports = Vec::new();
        for name in names {
            let stream = talk::tcp_connect(&lab.client1, name, Some(from))?;
            let (accepted, peer) = listener.accept()?;
            assert_eq!(peer.ip(), from.ip());
            ports.push(peer.port());
            open.push((stream, accepted));
        }
        assert_eq!(ports[0], 10_000, "the first keeps its port");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 4, "the others get ports of their own");
        let flows = router.flows(&["tcp ", "ESTABLISHED", &format!("src={} ", from.ip()), "sport=10000"])?;
        assert_eq!(flows.len(), 4, "{flows:#?}");
        for (mut stream, mut accepted) in open {
            stream.write_all(b"x")?;
            let mut byte = [0];
            accepted.read_exact(&mut byte)?;
            assert_eq!(&byte, b"x");
        }
    }
    Ok(())
}

#[test]
fn a_masqueraded_ping_seems_to_be_the_routers() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.server.ip("route del 192.168.1.0/24")?;
    lab.server.ip("route del fd00:1::/64")?;
    let rules = |nat: &str| format!("nf_conntrack_acct = 1\n[nat.POSTROUTING]\nrules = [{nat}]\n");
    let mut router = Router::start(&lab, &rules(""))?;
    let pairs = [("203.0.113.1", "203.0.113.2"), ("2001:db8:2::1", "2001:db8:2::2")];
    for (server, _) in pairs {
        assert!(!lab.client1.pings(server, 1), "the server knows no way back");
    }
    router.ask(&["conntrack", "flush"])?;
    for (number, flags) in ["", " --random", " --random-fully"].iter().enumerate() {
        router.rewrite(&rules(&format!("\"-o wan0 -j MASQUERADE{flags}\"")))?;
        router.wait_for_generation(2 + number as u64)?;
        for (server, own) in pairs {
            assert!(lab.client1.pings(server, 2), "{server}{flags}");
            let to = format!("dst={own} ");
            let flows = router.flows(&["icmp", &format!("src={server} {to}"), "packets=2 "])?;
            assert_eq!(flows.len(), 1, "{flags}: {flows:#?}");
        }
        router.ask(&["conntrack", "flush"])?;
    }
    Ok(())
}

#[test]
fn a_redirected_ping_is_answered_by_the_router() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = r#"
[ipv4.nat.PREROUTING]
rules = ["-i lan0 -p icmp -d 203.0.113.1/32 -j REDIRECT"]
[ipv6.nat.PREROUTING]
rules = ["-i lan0 -p ipv6-icmp -d 2001:db8:2::1/128 -j REDIRECT"]
"#;
    let router = Router::start(&lab, rules)?;
    let forwarded = |router: &Router| -> Result<u64> {
        let status = router.status()?;
        Ok(status["ports"][1]["tx_packets"].as_u64().unwrap_or_default())
    };
    let before = forwarded(&router)?;
    for server in ["203.0.113.1", "2001:db8:2::1"] {
        assert!(lab.client1.pings(server, 3), "{server}: the answer looks as if from there");
    }
    assert_eq!(forwarded(&router)?, before, "nothing went on to the server");
    assert_eq!(router.flows(&["icmp", "src=192.168.1.1 "])?.len(), 1);
    assert_eq!(router.flows(&["icmp", "src=fd00:1::1 "])?.len(), 1);
    Ok(())
}

/// Whether a datagram comes; that nothing listened for what the socket sent before does not matter.
fn hears(socket: &UdpSocket) -> bool {
    loop {
        match socket.recv(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            heard => return heard.is_ok(),
        }
    }
}

#[test]
fn a_client_may_shadow_a_port_of_the_router_and_rules_prevent_it() -> Result<()> {
    let lab = Lab::new(1)?;
    let masquerade = "[nat.POSTROUTING]\nrules = [PAT\"-o wan0 -j MASQUERADE\"]\n";
    let plain = masquerade.replace("PAT", "");
    let filter = format!("{plain}[filter.FORWARD]\nrules = [\"-i lan0 -p udp -m udp --sport 1405 -j DROP\"]\n");
    let notrack = format!(
        "{plain}[raw.PREROUTING]\nrules = [\"-i wan0 -p udp -m udp --dport 1405 -j NOTRACK\"]\n\
         [raw.OUTPUT]\nrules = [\"-o wan0 -p udp -m udp --sport 1405 -j NOTRACK\"]\n"
    );
    let pat =
        masquerade.replace("PAT", "\"-p udp -m udp --sport :1405 -j MASQUERADE --to-ports 1406-65535 --random\", ");
    let mut router = Router::start(&lab, &plain)?;
    for (number, (rules, shadowed)) in
        [(plain, true), (filter, false), (notrack, false), (pat, false)].iter().enumerate()
    {
        if number > 0 {
            router.rewrite(rules)?;
            router.wait_for_generation(1 + number as u64)?;
        }
        for (client, server, own) in
            [("192.168.1.11", "203.0.113.1", "203.0.113.2"), ("[fd00:1::11]", "[2001:db8:2::1]", "[2001:db8:2::2]")]
        {
            let fake = talk::udp_connect(&lab.client1, &format!("{client}:1405"), &format!("{server}:41404"))?;
            fake.send(b"fake-entry")?;
            let asks = talk::udp_connect(&lab.server, &format!("{server}:41404"), &format!("{own}:1405"))?;
            // Whatever came of the fake entry has come.
            wait("the ping after it", || Ok(lab.client1.pings(server.trim_matches(['[', ']']), 1)))?;
            asks.send(b"data")?;
            fake.set_read_timeout(Some(Duration::from_millis(if *shadowed { 3000 } else { 150 })))?;
            assert_eq!(hears(&fake), *shadowed, "{own}:\n{rules}");
            if !shadowed {
                let refused = asks.recv(&mut [0; 16]).expect_err("the router has no such service");
                assert!(refused.to_string().contains("refused"), "{own}: {refused}\n{rules}");
            }
        }
        router.ask(&["conntrack", "flush"])?;
    }
    Ok(())
}

#[test]
fn a_flow_may_have_the_addresses_that_another_one_was_mapped_to() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = r#"
[ipv4.nat.PREROUTING]
rules = ["-d 203.0.113.2/32 -p udp -m udp --dport 1234 -j DNAT --to-destination 192.168.1.11:1234"]
[ipv6.nat.PREROUTING]
rules = ["-d 2001:db8:2::2/128 -p udp -m udp --dport 1234 -j DNAT --to-destination [fd00:1::11]:1234"]
"#;
    let _router = Router::start(&lab, rules)?;
    for (client, server, own) in [
        ("192.168.1.11:1234", "203.0.113.1:4321", "203.0.113.2:1234"),
        ("[fd00:1::11]:1234", "[2001:db8:2::1]:4321", "[2001:db8:2::2]:1234"),
    ] {
        let echo = talk::udp_echo(&lab.client1, client, 2)?;
        // By the mapping, then straight: both flows' answers have the same addresses but for the port that is found.
        for to in [own, client] {
            let socket = talk::udp_connect(&lab.server, server, to)?;
            talk::udp_ask(&socket, b"PING")?;
        }
        let peers = echo.join().expect("no panic")?;
        assert_eq!(peers[0].port(), 4321);
        assert_ne!(peers[1], peers[0], "the second flow's source is told apart");
    }
    Ok(())
}

#[test]
fn clients_with_the_same_address_are_told_apart_by_zone() -> Result<()> {
    let lab = Lab::new(1)?;
    let twin = Host::new(&format!("{}-twin", std::process::id()))?;
    lab.join(&lab.router, "lan1", &twin, "eth0", 1)?;
    lab.router.run(&["sysctl", "-qw", "net.ipv6.conf.lan1.disable_ipv6=1"])?;
    twin.ip("addr add 192.168.1.11/24 dev eth0")?;
    twin.ip("addr add fd00:1::11/64 dev eth0 nodad")?;
    twin.ip("route add default via 192.168.1.2")?;
    twin.ip("route add default via fd00:1::2")?;
    let rules = r#"
[interfaces.lan1]
addresses = ["192.168.1.2/32", "fd00:1::2/128"]

[[routes]]
to = "192.168.1.0/24"
dev = "lan1"
table = 1002

[[routes]]
to = "fd00:1::/64"
dev = "lan1"
table = 1002

[[rules]]
priority = 100
fwmark = "2"
table = 1002

[raw.PREROUTING]
rules = ["-i lan1 -j CT --zone-orig 2"]

[mangle.PREROUTING]
rules = ["-m conntrack --ctdir REPLY -j CONNMARK --restore-mark"]

[mangle.FORWARD]
rules = ["-i lan1 -j CONNMARK --set-mark 2"]

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]
"#;
    let router = Router::start(&lab, rules)?;
    for (server, any) in [("203.0.113.1", "0.0.0.0:10000"), ("[2001:db8:2::1]", "[::]:10000")] {
        let echo = talk::udp_echo(&lab.server, &format!("{server}:5201"), 4)?;
        let sockets = [
            talk::udp_connect(&lab.client1, any, &format!("{server}:5201"))?,
            talk::udp_connect(&twin, any, &format!("{server}:5201"))?,
        ];
        for text in ["one", "two"] {
            for socket in &sockets {
                talk::udp_ask(socket, text.as_bytes())?;
            }
        }
        let peers = echo.join().expect("no panic")?;
        assert_eq!((peers[0], peers[1]), (peers[2], peers[3]));
        assert_eq!((peers[0].port(), peers[0].ip()), (10_000, peers[1].ip()));
        assert_ne!(peers[0].port(), peers[1].port(), "the second's port is another");
        for host in [&lab.client1, &twin] {
            assert!(host.pings(server.trim_matches(['[', ']']), 3));
        }
    }
    assert_eq!(router.flows(&["udp ", "sport=10000 dport=5201", "zone-orig=2"])?.len(), 2);
    Ok(())
}

#[test]
fn the_same_addresses_are_a_flow_in_each_of_many_zones() -> Result<()> {
    let lab = Lab::new(1)?;
    const ZONES: usize = 300;
    let rule = |n: usize| format!("\"-i lan0 -p udp -m length --length {} -j CT --zone {n}\",\n", 28 + n);
    let rules: String = (1..=ZONES).map(rule).collect();
    let filter = "[filter.FORWARD]\nrules = [\"-m conntrack --ctstate INVALID -j DROP\"]\n";
    let router = Router::start(&lab, &format!("[ipv4.raw.PREROUTING]\nrules = [\n{rules}]\n{filter}"))?;
    assert!(lab.client1.pings("203.0.113.1", 1));
    let socket = talk::udp_connect(&lab.client1, "192.168.1.11:12345", "203.0.113.1:12345")?;
    for n in 1..=ZONES {
        // The server says that nothing listens, which the socket reports at the next chance.
        while socket.send(&vec![0; n]).is_err() {}
    }
    wait("all flows", || Ok(router.ask(&["conntrack", "count", "-p", "udp"])?.trim() == ZONES.to_string()))?;
    for zone in ["1", "150", "300"] {
        assert_eq!(router.ask(&["conntrack", "count", "--zone", zone])?.trim(), "1");
    }
    Ok(())
}

#[test]
fn a_flow_has_the_helper_that_a_rule_gave_it_and_no_other() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = r#"
[raw.PREROUTING]
rules = ["-p tcp -m tcp --dport 2121 -j CT --helper ftp"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-p tcp -m multiport --dports 21,2121 -j ACCEPT",
  "-p tcp -j REJECT --reject-with tcp-reset",
]
"#;
    let _router = Router::start(&lab, rules)?;
    for (server, ask, answer) in [
        ("203.0.113.1", "PASV\r\n", "227 Entering Passive Mode (203,0,113,1,200,1)\r\n"),
        ("[2001:db8:2::1]", "EPSV\r\n", "229 Entering Extended Passive Mode (|||51201|)\r\n"),
    ] {
        let listen = |port| lab.server.inside(move || Ok(TcpListener::bind(format!("{server}:{port}"))?));
        let _data = listen(51_201)?;
        for (port, is_followed) in [(2121, true), (21, false)] {
            let listener = listen(port)?;
            let client = talk::tcp_connect(&lab.client1, &format!("{server}:{port}"), None)?;
            let (accepted, _) = listener.accept()?;
            for (mut from, mut to, text) in
                [(&accepted, &client, "220 ready\r\n"), (&client, &accepted, ask), (&accepted, &client, answer)]
            {
                from.write_all(text.as_bytes())?;
                let mut heard = vec![0; text.len()];
                to.read_exact(&mut heard)?;
                assert_eq!(heard, text.as_bytes());
            }
            let data = talk::tcp_connect(&lab.client1, &format!("{server}:51201"), None);
            assert_eq!(data.is_ok(), is_followed, "{server}: no helper by the port alone");
        }
    }
    Ok(())
}

#[test]
fn a_source_that_lies_elsewhere_fails_the_reverse_path_filter() -> Result<()> {
    let lab = Lab::new(1)?;
    let strict = INTERFACES
        .replace("[interfaces.wan0]\n", "rp-filter = \"strict\"\n\n[interfaces.wan0]\nrp-filter = \"strict\"\n");
    let router = Router::start_with(&lab, &format!("{}{strict}", head(&lab, "1")))?;
    // The router would answer this one by wan0. As the kernel's, the setting is IPv4's.
    lab.client1.ip("addr add 203.0.113.77/32 dev eth0")?;
    assert!(lab.client1.pings("192.168.1.1", 1));
    assert_eq!(router.dropped("reverse-path")?, 0);
    let ping = lab.client1.output(&["ping", "-n", "-c", "1", "-W", "1", "-I", "203.0.113.77", "192.168.1.1"])?;
    assert!(!ping.status.success());
    assert_eq!(router.dropped("reverse-path")?, 1);
    Ok(())
}
