//! Flows and their mappings outlive the dataplane: connections run on through its restart, however it ended.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::time::Duration;
use sumun_testbed::router::{INTERFACES, head};
use sumun_testbed::{Lab, Router, talk};

/// A connection gets through only where its first packet was seen, and a mapping is unlike any other that could be made.
const RULES: &str = r#"
nf_conntrack_acct = 1

[ipv4.nat.PREROUTING]
rules = ["-d 203.0.113.2/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.1.12:80"]

[ipv4.nat.POSTROUTING]
rules = ["-o wan0 -p tcp -j MASQUERADE --to-ports 20000-29999 --random", "-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-m conntrack --ctstate NEW -p tcp --syn -j ACCEPT",
  "-m conntrack --ctstate NEW -p udp -j ACCEPT",
  "-m conntrack --ctstate NEW -p icmp -j ACCEPT",
]
"#;

const WAYS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGKILL];

fn restart(router: &mut Router, signal: Signal) -> Result<()> {
    router.end_dataplane(signal)?;
    router.start_dataplane()?;
    router.wait_for_generation(1)
}

/// The value of the `n`th `key=` of a line.
fn field(line: &str, key: &str, n: usize) -> Result<u64> {
    let key = format!("{key}=");
    let value = line.split_whitespace().filter_map(|word| word.strip_prefix(&key)).nth(n);
    value.and_then(|v| v.parse().ok()).with_context(|| format!("no {key} in {line}"))
}

#[test]
fn connections_run_on_through_the_end_and_the_killing_of_the_dataplane() -> Result<()> {
    const SIZE: usize = 48 << 20;
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, RULES)?;
    // One from outside to a published server, which is slow enough to last.
    let inner = talk::tcp_sink(&lab.client2, "192.168.1.12:80", 16 << 20)?;
    let mut inward = talk::tcp_connect(&lab.server, "203.0.113.2:8080", None)?;
    let inward = std::thread::spawn(move || -> Result<()> {
        talk::tcp_send(&mut inward, 16 << 20, |_| std::thread::sleep(Duration::from_millis(25)))
    });
    // One from inside, masqueraded to a port that another would not get.
    let outer = talk::tcp_sink(&lab.server, "203.0.113.1:7000", SIZE)?;
    let mut outward = talk::tcp_connect(&lab.client1, "203.0.113.1:7000", None)?;
    let port = field(&router.flows(&["dport=7000"])?.concat(), "dport", 1)?;
    let mut ways = WAYS.into_iter().zip([SIZE / 4, SIZE / 2]).peekable();
    let mut failed = None;
    talk::tcp_send(&mut outward, SIZE, |sent| {
        if let Some((signal, _)) = ways.next_if(|(_, at)| sent >= *at) {
            failed = failed.take().or(restart(&mut router, signal).err());
        }
    })?;
    assert!(failed.is_none() && ways.peek().is_none(), "{failed:?}");
    let seen = outer.join().expect("no panic")?;
    assert_eq!((seen.ip().to_string(), u64::from(seen.port())), ("203.0.113.2".to_string(), port));
    assert_eq!(field(&router.flows(&["dport=7000"])?.concat(), "dport", 1)?, port);
    inward.join().expect("no panic")?;
    assert_eq!(inner.join().expect("no panic")?.ip().to_string(), "203.0.113.1");

    let line = router.flows(&["dport=7000"])?.concat();
    assert!(field(&line, "bytes", 0)? > SIZE as u64, "bytes of all three dataplanes: {line}");
    assert!(router.status()?["adopted_flows"].as_u64().is_some_and(|n| n >= 2));
    assert_eq!(router.log("dataplane.log").matches(" flows taken over").count(), 3);
    assert!(router.ask(&["status"])?.contains(" taken over at the start"));
    Ok(())
}

#[test]
fn mappings_of_datagrams_and_pings_stay_and_their_time_goes_on() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, RULES)?;
    let echo = talk::udp_echo(&lab.server, "203.0.113.1:5300", 8)?;
    let first = talk::udp_connect(&lab.client1, "192.168.1.11:4000", "203.0.113.1:5300")?;
    let second = talk::udp_connect(&lab.client2, "192.168.1.12:4000", "203.0.113.1:5300")?;
    for socket in [&first, &second] {
        talk::udp_ask(socket, b"before")?;
    }
    assert!(lab.client1.pings("203.0.113.1", 3));
    let left = |line: &str| line.split_whitespace().nth(2).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    for (round, signal) in WAYS.into_iter().enumerate() {
        let before = router.flows(&["icmp"])?.concat();
        std::thread::sleep(Duration::from_millis(1100));
        restart(&mut router, signal)?;
        let after = router.flows(&["icmp"])?.concat();
        assert_eq!(field(&before, "id", 1)?, field(&after, "id", 1)?);
        assert_eq!((field(&after, "packets", 0)?, field(&after, "packets", 1)?), (3, 3));
        assert!(left(&after) < left(&before) && left(&after) > 0, "{before}\n{after}");
        for socket in [&first, &second] {
            talk::udp_ask(socket, b"after")?;
        }
        for client in ["192.168.1.11", "192.168.1.12"] {
            let line = router.flows(&[&format!("src={client} "), "dport=5300"])?.concat();
            assert_eq!(field(&line, "packets", 0)?, 2 + round as u64, "{line}");
        }
    }
    for socket in [&first, &second] {
        talk::udp_ask(socket, b"at last")?;
    }
    let peers = echo.join().expect("no panic")?;
    assert!(peers.chunks(2).all(|pair| pair == &peers[..2]), "each keeps its own: {peers:?}");
    assert_ne!(peers[0], peers[1]);
    Ok(())
}

#[test]
fn flows_of_an_address_or_a_setting_that_is_gone_do_not_come_back() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut router = Router::start(&lab, RULES)?;
    let config =
        |rest: &str| format!("{}{INTERFACES}{RULES}", head(&lab, "1").replace("cores", &format!("{rest}cores")));
    assert!(lab.client1.pings("203.0.113.1", 1));
    assert_eq!(router.flows(&["icmp"])?.len(), 1);
    // The address goes while the router is down.
    router.end_control(Signal::SIGTERM)?;
    router.end_dataplane(Signal::SIGTERM)?;
    std::fs::write(&router.config, config("").replace("203.0.113.2/24", "203.0.113.9/24"))?;
    router.start_dataplane()?;
    router.start_control()?;
    router.wait_for_generation(1)?;
    assert_eq!(router.status()?["adopted_flows"], 1);
    assert!(router.flows(&["icmp"])?.is_empty());
    // Nobody wants flows kept.
    assert!(lab.client1.pings("203.0.113.1", 1));
    std::fs::write(&router.config, config("keep-flows = false\n"))?;
    restart(&mut router, Signal::SIGKILL)?;
    assert!(router.flows(&["icmp"])?.is_empty());
    assert!(!lab.path("run/flows").exists());
    Ok(())
}
