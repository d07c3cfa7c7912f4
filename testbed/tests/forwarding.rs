//! What every router does, over real AF_XDP sockets, for both families.

use anyhow::Result;
use std::time::Duration;
use sumun_testbed::{Lab, Router, talk};

const OPEN: &str = "[filter.FORWARD]\npolicy = \"ACCEPT\"\n";
const MEGABYTE: usize = 1 << 20;

#[test]
fn ping_tcp_and_udp_pass_both_ways() -> Result<()> {
    let lab = Lab::new(1)?;
    let _router = Router::start(&lab, OPEN)?;
    for (client, server) in [("192.168.1.11", "203.0.113.1"), ("fd00:1::11", "2001:db8:2::1")] {
        assert!(lab.client1.pings(server, 20), "client to {server}");
        assert!(lab.server.pings(client, 20), "server to {client}");
        let bracket = |a: &str| if a.contains(':') { format!("[{a}]:7000") } else { format!("{a}:7000") };
        let peer = talk::tcp_transfer(&lab.client1, &lab.server, &bracket(server), &bracket(server), 16 * MEGABYTE)?;
        assert_eq!(peer.to_string(), client);
        let peer = talk::tcp_transfer(&lab.server, &lab.client1, &bracket(client), &bracket(client), 16 * MEGABYTE)?;
        assert_eq!(peer.to_string(), server);
        let echo = talk::udp_echo(&lab.server, &bracket(server), 10)?;
        let socket = talk::udp_connect(&lab.client1, &bracket(client), &bracket(server))?;
        for n in 0..10u8 {
            talk::udp_ask(&socket, &vec![n; 100 * n as usize])?;
        }
        assert_eq!(echo.join().expect("no panic")?.len(), 10);
    }
    Ok(())
}

#[test]
fn the_router_answers_for_itself() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, "[filter.INPUT]\npolicy = \"ACCEPT\"\n")?;
    for own in ["192.168.1.1", "203.0.113.2", "fd00:1::1", "2001:db8:2::2"] {
        assert!(lab.client1.pings(own, 5), "ping {own}");
        let address = if own.contains(':') { format!("[{own}]:81") } else { format!("{own}:81") };
        let refused = talk::tcp_connect(&lab.client1, &address, None).expect_err("nothing listens");
        assert!(format!("{refused:#}").contains("refused"), "{own}: {refused:#}");
        let any = if own.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = talk::udp_connect(&lab.client1, any, &address)?;
        let refused = talk::udp_ask(&socket, b"anybody?").expect_err("nothing listens");
        assert!(format!("{refused:#}").contains("refused"), "{own}: {refused:#}");
    }
    assert_eq!(router.dropped("policy-drop")?, 0);
    Ok(())
}

#[test]
fn traceroute_sees_the_router() -> Result<()> {
    let lab = Lab::new(1)?;
    let _router = Router::start(&lab, OPEN)?;
    for (family, server, hop) in [("-4", "203.0.113.1", "192.168.1.1"), ("-6", "2001:db8:2::1", "fd00:1::1")] {
        let trace = lab.client1.run(&["traceroute", family, "-n", "-q", "1", "-w", "2", "-m", "4", server])?;
        let hops: Vec<&str> = trace.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
        assert_eq!(hops, [hop, server], "{trace}");
    }
    Ok(())
}

#[test]
fn path_mtu_is_discovered() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = OPEN.to_string()
        + "[[routes]]\nto = \"198.51.100.0/24\"\nvia = \"203.0.113.1\"\nmtu = 1300\n"
        + "[[routes]]\nto = \"2001:db8:9::/64\"\nvia = \"2001:db8:2::1\"\nmtu = 1300\n";
    let _router = Router::start(&lab, &config)?;
    lab.server.ip("addr add 198.51.100.1/32 dev lo")?;
    lab.server.ip("addr add 2001:db8:9::1/128 dev lo nodad")?;
    for (far, size, listen) in
        [("198.51.100.1", "1272", "198.51.100.1:7001"), ("2001:db8:9::1", "1252", "[2001:db8:9::1]:7001")]
    {
        let too_big = lab.client1.output(&["ping", "-n", "-M", "do", "-s", "1400", "-c", "1", "-W", "2", far])?;
        let text = String::from_utf8_lossy(&too_big.stdout).into_owned() + &String::from_utf8_lossy(&too_big.stderr);
        assert!(!too_big.status.success(), "{text}");
        assert!(text.contains("mtu = 1300") || text.contains("mtu=1300"), "{text}");
        lab.client1.run(&["ping", "-n", "-M", "do", "-s", size, "-c", "1", "-W", "2", far])?;
        talk::tcp_transfer(&lab.client1, &lab.server, listen, listen, 4 * MEGABYTE)?;
    }
    // Without DF the router fragments, and the server puts the pieces together.
    lab.client1.run(&["ping", "-n", "-M", "dont", "-s", "1400", "-c", "3", "-i", "0.1", "-W", "2", "198.51.100.1"])?;
    Ok(())
}

#[test]
fn a_destination_that_does_not_exist_is_said_to_be_unreachable() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, OPEN)?;
    for (target, reason) in [("203.0.113.99", "Host Unreachable"), ("10.99.0.1", "Net Unreachable")] {
        let output = lab.client1.output(&["ping", "-n", "-c", "1", "-W", "5", target])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(reason), "{target}: {text}");
    }
    for (target, reason) in [("2001:db8:2::99", "Address unreachable"), ("2001:db8:ffff::1", "No route")] {
        let output = lab.client1.output(&["ping", "-n", "-c", "1", "-W", "5", target])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(reason), "{target}: {text}");
    }
    assert!(router.dropped("neighbour-failed")? >= 2);
    assert_eq!(router.dropped("no-route")?, 2);
    Ok(())
}

#[test]
fn an_idle_router_uses_no_core() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, OPEN)?;
    assert!(lab.client1.pings("203.0.113.1", 3));
    let spent = || -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", router.dataplane_pid()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    std::thread::sleep(Duration::from_millis(300));
    let before = spent()?;
    std::thread::sleep(Duration::from_secs(2));
    // Clock ticks of 10 ms: at most 5 % of one core.
    let ticks = spent()? - before;
    assert!(ticks <= 10, "{ticks} ticks in two idle seconds");
    Ok(())
}

#[test]
fn replies_may_come_in_on_another_queue_and_worker() -> Result<()> {
    let lab = Lab::new(2)?;
    let head = sumun_testbed::router::head(&lab, "0, 1");
    let rules = "[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n".to_string() + OPEN;
    let config = format!("{head}{}{rules}", sumun_testbed::router::INTERFACES);
    let router = Router::start_with(&lab, &config)?;
    for round in 0..8u16 {
        let to = format!("203.0.113.1:{}", 7100 + round);
        let peer = talk::tcp_transfer(&lab.client1, &lab.server, &to, &to, MEGABYTE)?;
        assert_eq!(peer.to_string(), "203.0.113.2");
        let to = format!("[2001:db8:2::1]:{}", 7100 + round);
        talk::tcp_transfer(&lab.client2, &lab.server, &to, &to, MEGABYTE)?;
    }
    for reason in ["handover", "conntrack-clash", "no-frame", "tx-ring"] {
        assert_eq!(router.dropped(reason)?, 0, "{reason}");
    }
    Ok(())
}
