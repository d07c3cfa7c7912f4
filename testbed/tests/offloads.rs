//! Hosts whose devices have the offloads that a veth has by default: their checksums come unfinished and their segments are cut
//! late. What they send arrives whole nevertheless.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use sumun_config::facts::{Family, proto};
use sumun_testbed::craft::{End, Ends};
use sumun_testbed::differential::wire;
use sumun_testbed::router::{INTERFACES, head};
use sumun_testbed::{Host, Lab, Router, talk};

const MEGABYTE: usize = 1 << 20;

const RULES: &str = r#"
[ipv4.nat.PREROUTING]
rules = [
  "-i wan0 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.11:8000",
  "-i wan0 -p udp --dport 5353 -j DNAT --to-destination 192.168.1.11:53",
]

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate INVALID -j DROP",
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-m conntrack --ctstate DNAT -j ACCEPT",
  "-i lan0 -j ACCEPT",
]
"#;

/// A process that ends with the test.
struct Beside(Child);

impl Beside {
    fn start(host: &Host, args: &[&str]) -> Result<Beside> {
        let mut command = host.command(args[0]);
        Ok(Beside(command.args(&args[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until somebody listens to a TCP port of the host.
fn wait_for(host: &Host, port: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while host.run(&["ss", "-Hltn", &format!("sport = :{port}")])?.is_empty() {
        ensure!(Instant::now() < until, "nobody listens to {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Every device of the network as it is made, but those of the router.
fn offloading() -> Result<Lab> {
    let lab = Lab::new(1)?;
    for (host, devices) in [
        (&lab.client1, &["eth0"][..]),
        (&lab.client2, &["eth0"]),
        (&lab.switch, &["c1", "c2", "r"]),
        (&lab.server, &["eth0"]),
    ] {
        for device in devices {
            host.run(&["ethtool", "-K", device, "tx", "on", "gso", "on", "tso", "on"])?;
        }
    }
    let features = lab.client1.run(&["ethtool", "-k", "eth0"])?;
    for feature in ["tx-checksum-ip-generic: on", "tx-tcp-segmentation: on", "generic-segmentation-offload: on"] {
        ensure!(features.contains(feature), "{feature} in {features}");
    }
    Ok(lab)
}

#[test]
fn tcp_and_udp_of_both_families_arrive_whole_through_nat() -> Result<()> {
    let lab = offloading()?;
    let router = Router::start(&lab, RULES)?;
    for (server, masked) in [("203.0.113.1", "203.0.113.2"), ("[2001:db8:2::1]", "2001:db8:2::2")] {
        let to = format!("{server}:7001");
        let peer = talk::tcp_transfer(&lab.client1, &lab.server, &to, &to, 8 * MEGABYTE)?;
        assert_eq!(peer.to_string(), masked);
        let to = format!("{server}:7002");
        let echo = talk::udp_echo(&lab.server, &to, 20)?;
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = talk::udp_connect(&lab.client1, any, &to)?;
        for n in 0..20u8 {
            // The last ones come in fragments.
            talk::udp_ask(&socket, &vec![n; 200 * n as usize])?;
        }
        assert!(echo.join().expect("no panic")?.iter().all(|peer| peer.ip().to_string() == masked));
    }
    // The other way round: the server opens the connections.
    let echo = talk::udp_echo(&lab.client1, "192.168.1.11:53", 3)?;
    let socket = talk::udp_connect(&lab.server, "203.0.113.1:0", "203.0.113.2:5353")?;
    for n in 0..3u8 {
        talk::udp_ask(&socket, &[n; 500])?;
    }
    echo.join().expect("no panic")?;
    for reason in ["rule-drop", "policy-drop", "frame-too-long", "ip-header", "too-big"] {
        assert_eq!(router.dropped(reason)?, 0, "{reason}");
    }
    Ok(())
}

#[test]
fn as_they_are_nobody_takes_them() -> Result<()> {
    let lab = offloading()?;
    let interfaces = INTERFACES.replace("[interfaces.lan0]", "[interfaces.lan0]\nchecksums = \"as-they-are\"");
    let router =
        Router::start_with(&lab, &format!("{}{interfaces}[filter.FORWARD]\npolicy = \"ACCEPT\"\n", head(&lab, "1")))?;
    let _echo = talk::udp_echo(&lab.server, "203.0.113.1:7003", 1)?;
    let socket = talk::udp_connect(&lab.client1, "0.0.0.0:0", "203.0.113.1:7003")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    talk::udp_ask(&socket, b"unfinished").expect_err("the server's kernel sums it");
    let seen = lab.server.run(&["nstat", "-asz", "UdpInCsumErrors"])?;
    assert!(seen.lines().any(|line| line.split_whitespace().nth(1) == Some("1")), "{seen}");
    // What the other port receives is finished as ever.
    let echo = talk::udp_echo(&lab.client1, "192.168.1.11:7004", 1)?;
    let answer = talk::udp_connect(&lab.server, "203.0.113.1:0", "192.168.1.11:7004")?;
    answer.set_read_timeout(Some(Duration::from_millis(500)))?;
    talk::udp_ask(&answer, b"one way").expect_err("the answer comes in on lan0");
    assert_eq!(echo.join().expect("no panic")?.len(), 1);
    drop(router);
    Ok(())
}

#[test]
fn curl_gets_files_behind_both_kinds_of_nat() -> Result<()> {
    let lab = offloading()?;
    let _router = Router::start(&lab, RULES)?;
    let file = lab.path("file");
    let content: Vec<u8> = (0..8 * MEGABYTE).map(|i| (i % 65_521 % 251) as u8).collect();
    std::fs::write(&file, &content)?;
    let folder = lab.dir.path().to_str().context("a path")?;
    for (host, bind, client, url) in [
        (&lab.server, "203.0.113.1", &lab.client1, "http://203.0.113.1:8000/file"),
        (&lab.server, "2001:db8:2::1", &lab.client1, "http://[2001:db8:2::1]:8000/file"),
        (&lab.client1, "192.168.1.11", &lab.server, "http://203.0.113.2:8080/file"),
    ] {
        let _http = Beside::start(host, &["python3", "-m", "http.server", "-b", bind, "-d", folder, "8000"])?;
        wait_for(host, 8000)?;
        let got = client.output(&["curl", "-sS", "-m", "15", url])?;
        ensure!(got.stdout == content, "{url}: {} bytes: {}", got.stdout.len(), String::from_utf8_lossy(&got.stderr));
    }
    Ok(())
}

#[test]
fn iperf3_runs_through_both_ways() -> Result<()> {
    let lab = offloading()?;
    let router = Router::start(&lab, RULES)?;
    let _server = Beside::start(&lab.server, &["iperf3", "-s"])?;
    wait_for(&lab.server, 5201)?;
    for (server, extra) in [
        ("203.0.113.1", &[][..]),
        ("2001:db8:2::1", &["-R"]),
        ("203.0.113.1", &["-u", "-b", "50M", "-R"]),
        ("2001:db8:2::1", &["-u", "-b", "50M"]),
    ] {
        let mut args = vec!["iperf3", "-c", server, "-t", "1", "-J", "--connect-timeout", "3000"];
        args.extend(extra);
        let report: Value = serde_json::from_str(&lab.client1.run(&args)?)?;
        let sum = if extra.contains(&"-u") { &report["end"]["sum"] } else { &report["end"]["sum_received"] };
        let rate = sum["bits_per_second"].as_f64().context("a rate")?;
        // A stream whose segments nobody takes stands still.
        ensure!(rate > 20e6, "{args:?}: {rate} bit/s: {report}");
    }
    for reason in ["frame-too-long", "too-big", "ip-header"] {
        assert_eq!(router.dropped(reason)?, 0, "{reason}");
    }
    Ok(())
}

#[test]
fn sctp_without_its_checksum_gets_it() -> Result<()> {
    // What a kernel with SCTP leaves to a device that computes its CRC: zero.
    let lab = Lab::new(1)?;
    let ends = Ends::new(&lab)?;
    let config = format!("{}{INTERFACES}{}[filter.FORWARD]\npolicy = \"ACCEPT\"\n", head(&lab, "1"), ends.neighbours());
    let _router = Router::start_with(&lab, &config)?;
    for family in Family::ALL {
        let whole = End::Near.ip(family).packet(proto::SCTP, &wire::sctp((5000, 5001), 0, &wire::init(1, 7)), 0);
        let l4 = if family == Family::V4 { 20 } else { 40 };
        let mut left = whole.clone();
        left[l4 + 8..l4 + 12].fill(0);
        let mut damaged = whole.clone();
        damaged[l4 + 8] ^= 1;
        for (sent, wanted) in [(&left, &whole), (&whole, &whole), (&damaged, &damaged)] {
            let out = ends.send(&(End::Near, sent.clone()))?;
            ensure!(
                out.len() == 1 && out[0][l4..] == wanted[l4..],
                "{family:?}: {:?}",
                out.first().map(|p| wire::hex(p))
            );
        }
    }
    Ok(())
}
