//! Packets of up to 9,000 bytes: received and sent in pieces, forwarded, translated, cut, and refused where they are too long.

use anyhow::{Result, ensure};
use nix::sys::socket::{self, MsgFlags};
use std::os::fd::AsRawFd;
use sumun_config::facts::{Family, proto};
use sumun_testbed::craft::packet_socket;
use sumun_testbed::differential::net::address;
use sumun_testbed::differential::wire::{self, Ip};
use sumun_testbed::router::{INTERFACES, head};
use sumun_testbed::{Appliance, Lab, Router, talk};

const MEGABYTE: usize = 1 << 20;

const MASQUERADE: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate INVALID -j DROP",
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-i lan0 -j ACCEPT",
]
"#;

const OPEN: &str = "[filter.FORWARD]\npolicy = \"ACCEPT\"\n";

/// The network with these MTUs of the LAN and of the WAN.
fn lab(lan: u32, wan: u32, queues: u32) -> Result<Lab> {
    let lab = Lab::new(queues)?;
    for (host, devices, mtu) in [
        (&lab.client1, &["eth0"][..], lan),
        (&lab.client2, &["eth0"], lan),
        (&lab.switch, &["c1", "c2", "r", "br0"], lan),
        (&lab.router, &["lan0"], lan),
        (&lab.router, &["wan0"], wan),
        (&lab.server, &["eth0"], wan),
    ] {
        for device in devices {
            host.ip(&format!("link set {device} mtu {mtu}"))?;
        }
    }
    Ok(lab)
}

fn started<'a>(lab: &'a Lab, cores: &str, rules: &str) -> Result<Router<'a>> {
    Router::start_with(lab, &format!("{}{INTERFACES}{rules}", head(lab, cores)))
}

fn pings(lab: &Lab, to: &str, bytes: u32, fragmenting: &str) -> Result<String> {
    let bytes = bytes.to_string();
    let ping = ["ping", "-n", "-i", "0.05", "-W", "2", "-c", "5", "-M", fragmenting, "-s", &bytes, to];
    let output = lab.client1.output(&ping)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn pings_and_bulk_transfers_use_the_whole_mtu_both_ways() -> Result<()> {
    let lab = lab(9000, 9000, 1)?;
    let router = started(&lab, "1", MASQUERADE)?;
    for port in router.status()?["ports"].as_array().expect("ports") {
        assert_eq!(
            (port["mtu"].as_u64(), port["mode"].as_str().map(|m| m.contains("jumbo"))),
            (Some(9000), Some(true))
        );
    }
    for (to, headers) in [("203.0.113.1", 28), ("2001:db8:2::1", 48)] {
        for bytes in [8, 1700, 1800, 5000, 9000 - headers] {
            let report = pings(&lab, to, bytes, "do")?;
            assert!(report.contains(" 0% packet loss"), "{to} {bytes}: {report}");
        }
    }
    for (server, masked) in [("203.0.113.1", "203.0.113.2"), ("[2001:db8:2::1]", "2001:db8:2::2")] {
        let to = format!("{server}:7001");
        let peer = talk::tcp_transfer(&lab.client1, &lab.server, &to, &to, 32 * MEGABYTE)?;
        assert_eq!(peer.to_string(), masked);
    }
    // Segments of the whole MTU: 32 MB in 1,460 bytes each would be 23,000.
    let wan = &router.status()?["ports"][1];
    let (packets, bytes) = (wan["tx_packets"].as_u64().unwrap_or(0), wan["tx_bytes"].as_u64().unwrap_or(0));
    assert!(bytes > 64 << 20 && packets < 16_000, "{packets} packets, {bytes} bytes");
    for reason in ["no-frame", "frame-too-long", "tx-ring", "ip-header", "rule-drop"] {
        assert_eq!(router.dropped(reason)?, 0, "{reason}");
    }
    router.end_whole()
}

#[test]
fn downloads_come_in_jumbo_packets_too() -> Result<()> {
    let lab = lab(9000, 9000, 1)?;
    let router = started(&lab, "1", OPEN)?;
    for to in ["192.168.1.11:7002", "[fd00:1::11]:7002"] {
        talk::tcp_transfer(&lab.server, &lab.client1, to, to, 16 * MEGABYTE)?;
    }
    assert_eq!((router.dropped("no-frame")?, router.dropped("tx-ring")?), (0, 0));
    router.end_whole()
}

#[test]
fn two_workers_hand_jumbo_packets_over() -> Result<()> {
    let lab = lab(9000, 9000, 2)?;
    let router = started(&lab, "0, 1", MASQUERADE)?;
    for round in 0..4 {
        let to = format!("203.0.113.1:{}", 7100 + round);
        talk::tcp_transfer(&lab.client1, &lab.server, &to, &to, 4 * MEGABYTE)?;
    }
    assert_eq!((router.dropped("no-frame")?, router.dropped("ip-header")?), (0, 0));
    router.end_whole()
}

#[test]
fn where_the_way_becomes_narrow_senders_are_told_or_packets_are_cut() -> Result<()> {
    let lab = lab(9000, 1500, 1)?;
    let router = started(&lab, "1", MASQUERADE)?;
    for (to, headers) in [("203.0.113.1", 28), ("2001:db8:2::1", 48)] {
        let told = pings(&lab, to, 9000 - headers, "do")?;
        assert!(told.contains("mtu = 1500") || told.contains("mtu=1500"), "{told}");
        let fits = pings(&lab, to, 1500 - headers, "do")?;
        assert!(fits.contains(" 0% packet loss"), "{fits}");
        let listen = if to.contains(':') { format!("[{to}]:7003") } else { format!("{to}:7003") };
        talk::tcp_transfer(&lab.client1, &lab.server, &listen, &listen, 4 * MEGABYTE)?;
    }
    assert!(router.dropped("too-big")? >= 2);
    // Without Don't Fragment the router cuts; the answers come in fragments and leave in the same, or in one piece less.
    lab.client1.run(&["ip", "route", "flush", "cache"])?;
    let cut = pings(&lab, "203.0.113.1", 8972, "dont")?;
    assert!(cut.contains(" 0% packet loss"), "{cut}");
    router.end_whole()
}

#[test]
fn packets_that_come_in_large_fragments_leave_in_such() -> Result<()> {
    let lab = lab(9000, 9000, 1)?;
    let router = started(&lab, "1", MASQUERADE)?;
    for to in ["203.0.113.1", "2001:db8:2::1"] {
        let report = pings(&lab, to, 30_000, "dont")?;
        assert!(report.contains(" 0% packet loss"), "{to}: {report}");
    }
    assert_eq!(router.dropped("no-frame")?, 0);
    router.end_whole()
}

#[test]
fn longer_ones_than_any_frame_are_dropped_and_counted() -> Result<()> {
    let lab = lab(9000, 9000, 1)?;
    let router = started(&lab, "1", OPEN)?;
    // What is longer than its MTU a veth does not even take: somebody has raised that meanwhile.
    lab.router.ip("link set wan0 mtu 12000")?;
    lab.server.ip("link set eth0 mtu 12000")?;
    let mac = lab.router.inside(|| Ok(packet_socket("wan0")?.1))?;
    let (fd, own) = lab.server.inside(|| packet_socket("eth0"))?;
    let ip = Ip::new(Family::V4, address("203.0.113.1"), address("192.168.1.11"));
    for len in [12_000usize, 9_100, 9_500] {
        let packet = ip.packet(proto::UDP, &wire::udp((1, 2), &vec![1; len - 28]), 0);
        socket::send(fd.as_raw_fd(), &wire::frame(Family::V4, own, mac, &packet), MsgFlags::empty())?;
    }
    ensure!(lab.client1.pings("203.0.113.1", 3), "what comes behind them passes");
    assert_eq!(router.dropped("frame-too-long")?, 2, "those of 12,000 and of 9,500 bytes; 9,100 are cut");
    assert_eq!(router.dropped("no-frame")?, 0);
    router.end_whole()
}

#[test]
fn the_routers_own_host_uses_the_whole_mtu_both_ways() -> Result<()> {
    let lab = lab(9000, 9000, 1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{OPEN}"))?;
    let Appliance { router, host } = &appliance;
    for (own, client) in [("192.168.1.1", "192.168.1.11"), ("fd00:1::1", "fd00:1::11")] {
        for (from, to, address) in [(host, &lab.client1, client), (&lab.client1, host, own)] {
            let listen = if address.contains(':') { format!("[{address}]:7004") } else { format!("{address}:7004") };
            talk::tcp_transfer(from, to, &listen, &listen, 16 * MEGABYTE)?;
        }
        let (here, there) = (talk::udp_bind(host, own)?, talk::udp_bind(&lab.client1, client)?);
        let last = if own.contains(':') { 9000 - 48 } else { 9000 - 28 };
        for len in [1743usize, 1744, 3000, 8900, last] {
            let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            talk::udp_both_ways(&here, &there, &data)?;
        }
    }
    // Segments of the whole MTU: 32 MB in 1,460 bytes each would be 23,000, and as many answers.
    let tap = &router.status()?["ports"][0]["tap"];
    for way in ["from", "to"] {
        let number = |what: &str| tap[format!("{way}_{what}")].as_u64().unwrap_or(0);
        assert!(number("bytes") > 32 << 20 && number("packets") < 16_000, "{tap}");
    }
    assert_eq!((&tap["refused"], &tap["failed"]), (&0.into(), &0.into()), "{tap}");
    appliance.router.end_whole()
}
