//! Masquerade, DNAT, hairpin and REJECT as real clients and servers see them.

use anyhow::Result;
use std::time::{Duration, Instant};
use sumun_testbed::router::{INTERFACES, head};
use sumun_testbed::{Lab, Router, talk};

const MASQUERADE: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-m conntrack --ctstate DNAT -j ACCEPT",
  "-i lan0 -j ACCEPT",
]
"#;

#[test]
fn two_clients_with_the_same_source_port_share_one_address() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, MASQUERADE)?;
    for (any, clients, to) in [
        ("203.0.113.1:5300", ["192.168.1.11:4000", "192.168.1.12:4000"], "203.0.113.1:5300"),
        ("[2001:db8:2::1]:5300", ["[fd00:1::11]:4000", "[fd00:1::12]:4000"], "[2001:db8:2::1]:5300"),
    ] {
        let echo = talk::udp_echo(&lab.server, any, 4)?;
        let first = talk::udp_connect(&lab.client1, clients[0], to)?;
        let second = talk::udp_connect(&lab.client2, clients[1], to)?;
        talk::udp_ask(&first, b"one")?;
        talk::udp_ask(&second, b"two")?;
        talk::udp_ask(&first, b"three")?;
        talk::udp_ask(&second, b"four")?;
        let peers = echo.join().expect("no panic")?;
        assert_eq!((peers[0], peers[1]), (peers[2], peers[3]), "each flow keeps its mapping");
        assert_eq!(peers[0].ip(), peers[1].ip());
        assert_eq!(peers[0].port(), 4000, "the first keeps its port");
        assert!(peers[1].port() >= 1024 && peers[1].port() != 4000, "the second gets another of its class");
    }
    let listing = router.ask(&["conntrack"])?;
    assert_eq!(listing.lines().filter(|l| l.contains("dport=5300")).count(), 4, "{listing}");
    for (from, to) in [("192.168.1.11:4001", "203.0.113.1:5301"), ("[fd00:1::11]:4001", "[2001:db8:2::1]:5301")] {
        let sink = talk::tcp_sink(&lab.server, to, 100_000)?;
        let mut stream = talk::tcp_connect(&lab.client1, to, Some(from.parse()?))?;
        talk::tcp_send(&mut stream, 100_000, |_| {})?;
        assert_eq!(sink.join().expect("no panic")?.port(), 4001);
    }
    Ok(())
}

#[test]
fn ping_and_its_errors_come_back_through_masquerade() -> Result<()> {
    let lab = Lab::new(1)?;
    let _router = Router::start(&lab, MASQUERADE)?;
    lab.server.ip("route del 192.168.1.0/24")?;
    lab.server.ip("route del fd00:1::/64")?;
    for server in ["203.0.113.1", "2001:db8:2::1"] {
        assert!(lab.client1.pings(server, 5) && lab.client2.pings(server, 5), "{server}");
        // An error from outside about a masqueraded flow reaches the client's socket.
        let to = if server.contains(':') { format!("[{server}]:9") } else { format!("{server}:9") };
        let any = if server.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = talk::udp_connect(&lab.client1, any, &to)?;
        let refused = talk::udp_ask(&socket, b"anybody?").expect_err("nothing listens");
        assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    }
    Ok(())
}

#[test]
fn dnat_reaches_an_inner_server_from_outside_and_by_hairpin_from_inside() -> Result<()> {
    let lab = Lab::new(1)?;
    let dnat = r#"
[ipv4.nat.PREROUTING]
rules = ["-d 203.0.113.2/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.1.12:80"]

[ipv6.nat.PREROUTING]
rules = ["-d 2001:db8:2::2/128 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00:1::12]:80"]

[ipv4.nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE", "-s 192.168.1.0/24 -o lan0 -j MASQUERADE"]

[ipv6.nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE", "-s fd00:1::/64 -o lan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT"]
"#;
    let _router = Router::start(&lab, dnat)?;
    let size = 2_000_000;
    for (public, inner, outside, own) in [
        ("203.0.113.2:8080", "192.168.1.12:80", "203.0.113.1", "192.168.1.1"),
        ("[2001:db8:2::2]:8080", "[fd00:1::12]:80", "2001:db8:2::1", "fd00:1::1"),
    ] {
        let peer = talk::tcp_transfer(&lab.server, &lab.client2, inner, public, size)?;
        assert_eq!(peer.to_string(), outside, "from outside the source stays");
        let peer = talk::tcp_transfer(&lab.client1, &lab.client2, inner, public, size)?;
        assert_eq!(peer.to_string(), own, "hairpin: the router stands in for the client");
    }
    Ok(())
}

#[test]
fn masqueraded_flows_end_with_the_address_that_they_had() -> Result<()> {
    let lab = Lab::new(1)?;
    let with = |last: u32, rules: &str| {
        let interfaces = INTERFACES
            .replace("203.0.113.2/24", &format!("203.0.113.{last}/24"))
            .replace("2001:db8:2::2/64", &format!("2001:db8:2::{last}/64"));
        format!("{}{interfaces}{rules}", head(&lab, "1"))
    };
    let rules = "[nat.POSTROUTING]\nrules = [\"-p udp -o wan0 -j MASQUERADE\"]\n";
    let router = Router::start_with(&lab, &with(3, rules))?;
    let mut asking = Vec::new();
    for (any, client, server) in [
        ("203.0.113.1:5300", "192.168.1.11:4000", "203.0.113.1:5300"),
        ("[2001:db8:2::1]:5300", "[fd00:1::11]:4000", "[2001:db8:2::1]:5300"),
    ] {
        let echo = talk::udp_echo(&lab.server, any, 2)?;
        let socket = talk::udp_connect(&lab.client1, client, server)?;
        talk::udp_ask(&socket, b"one")?;
        asking.push((echo, socket));
    }
    let old = |address: &str| router.flows(&[&format!(" dst={address} "), "udp"]);
    assert_eq!((old("203.0.113.3")?.len(), old("2001:db8:2::3")?.len()), (1, 1));
    // A flow that keeps its own address. Its answers do not come back.
    assert!(!lab.client2.pings("203.0.113.1", 1));

    let file = lab.path("moved.toml");
    std::fs::write(&file, with(2, rules))?;
    router.ask(&["apply", &file.display().to_string()])?;
    sumun_testbed::router::wait("the flows to be forgotten", || {
        Ok(old("203.0.113.3")?.is_empty() && old("2001:db8:2::3")?.is_empty())
    })?;
    assert_eq!(router.flows(&["icmp", "src=192.168.1.12"])?.len(), 1, "not masqueraded");
    for ((echo, socket), address) in asking.into_iter().zip(["203.0.113.2", "2001:db8:2::2"]) {
        talk::udp_ask(&socket, b"two")?;
        let peers = echo.join().expect("no panic")?;
        assert_ne!(peers[0].ip(), peers[1].ip());
        assert_eq!(peers[1].ip().to_string(), address, "the next packet begins the flow anew");
    }
    Ok(())
}

#[test]
fn mappings_stay_when_the_rules_change() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, MASQUERADE)?;
    let whole = std::fs::read_to_string(&router.config)?;
    let echo = talk::udp_echo(&lab.server, "203.0.113.1:5300", 3)?;
    let first = talk::udp_connect(&lab.client1, "192.168.1.11:4000", "203.0.113.1:5300")?;
    talk::udp_ask(&first, b"one")?;
    let file = lab.path("other.toml");
    std::fs::write(&file, whole.replace("-o wan0 -j MASQUERADE", "-o wan0 -j RETURN"))?;
    router.ask(&["apply", &file.display().to_string()])?;
    talk::udp_ask(&first, b"two")?;
    let second = talk::udp_connect(&lab.client2, "192.168.1.12:4000", "203.0.113.1:5300")?;
    talk::udp_ask(&second, b"three")?;
    let peers: Vec<String> = echo.join().expect("no panic")?.iter().map(|peer| peer.to_string()).collect();
    assert_eq!(peers, ["203.0.113.2:4000", "203.0.113.2:4000", "192.168.1.12:4000"]);
    Ok(())
}

#[test]
fn a_rejected_client_is_told_at_once() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = r#"
[filter.FORWARD]
policy = "ACCEPT"
rules = [
  "-p tcp --dport 23 -j REJECT --reject-with tcp-reset",
  "-p tcp --dport 24 -j REJECT",
  { protocol = "udp", dport = 53, target = "REJECT" },
  { protocol = "udp", dport = 54, target = "DROP" },
]
"#;
    let router = Router::start(&lab, rules)?;
    for (server, any) in [("203.0.113.1", "0.0.0.0:0"), ("[2001:db8:2::1]", "[::]:0")] {
        for port in [23, 24] {
            let before = Instant::now();
            let refused = talk::tcp_connect(&lab.client1, &format!("{server}:{port}"), None).expect_err("rejected");
            assert!(format!("{refused:#}").contains("refused"), "{server}:{port}: {refused:#}");
            assert!(before.elapsed() < Duration::from_secs(2));
        }
        let socket = talk::udp_connect(&lab.client1, any, &format!("{server}:53"))?;
        let refused = talk::udp_ask(&socket, b"?").expect_err("rejected");
        assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    }
    assert_eq!(router.dropped("reject")?, 6);
    let rules = router.ask(&["rules", "--counters", "--table", "filter", "-4"])?;
    assert!(rules.contains("[1:60] -A FORWARD -p tcp -m tcp --dport 23 -j REJECT --reject-with tcp-reset"), "{rules}");
    Ok(())
}

#[test]
fn a_logged_packet_is_written_in_the_kernels_format() -> Result<()> {
    let lab = Lab::new(1)?;
    let rules = "[filter.FORWARD]\nrules = [\"-p icmp -j LOG --log-prefix \\\"seen: \\\"\"]\n";
    let _router = Router::start(&lab, rules)?;
    assert!(lab.client1.pings("203.0.113.1", 1));
    let path = lab.path("packets.log");
    sumun_testbed::router::wait("the log line", || {
        Ok(std::fs::read_to_string(&path).is_ok_and(|log| log.lines().count() >= 2))
    })?;
    let log = std::fs::read_to_string(&path)?;
    let first = log.lines().next().unwrap_or_default();
    for part in [
        "seen: IN=lan0 OUT=wan0 MAC=",
        " SRC=192.168.1.11 DST=203.0.113.1 LEN=84 ",
        " TTL=63 ",
        " PROTO=ICMP TYPE=8 CODE=0 ID=",
    ] {
        assert!(first.contains(part), "{part} in {first}");
    }
    Ok(())
}
