//! Three tagged networks and an untagged one on one cable, real programs in each, and the outside.

use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, send};
use serde_json::Value;
use std::os::fd::AsRawFd;
use sumun_testbed::craft::packet_socket;
use sumun_testbed::router::{head_in, wait};
use sumun_testbed::trunk::{INTERFACES, NETWORKS, Network};
use sumun_testbed::{Host, Router, Trunk, talk};

const RULES: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE", "-o guests -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-i office -o guests -p icmp -j LOG --log-prefix office:",
  "-i guests -o customer -j REJECT",
  "-i wan0 -j DROP",
  "-j ACCEPT",
]
"#;

fn start<'a>(trunk: &'a Trunk, rules: &str) -> Result<Router<'a>> {
    let dir = trunk.dir.path();
    Router::start_in(&trunk.router, dir, &format!("{}{INTERFACES}{rules}", head_in(dir, "1")))
}

/// The addresses of the host of a network, and of the router there.
fn addresses(network: &str) -> [(String, String); 2] {
    let net = NETWORKS.iter().find(|known| known.name == network).expect("a network").number;
    [(format!("10.0.{net}.9"), format!("10.0.{net}.1")), (format!("fd00:{net}::9"), format!("fd00:{net}::1"))]
}

fn port(router: &Router, name: &str) -> Result<Value> {
    let status = router.status()?;
    let ports = status["ports"].as_array().context("ports")?;
    Ok(ports.iter().find(|port| port["name"] == name).context("the port")?.clone())
}

/// What iperf3 measures from one host to another, in bits a second.
fn iperf(server: &Host, client: &Host, address: &str, more: &[&str]) -> Result<f64> {
    let mut serving = server.command("iperf3").args(["-s", "-1"]).stdout(std::process::Stdio::null()).spawn()?;
    wait("iperf3 to listen", || Ok(server.run(&["ss", "-Hltn", "sport = :5201"])?.contains("5201")))?;
    let report = client.run(&[&["iperf3", "-J", "-t", "1", "-c", address], more].concat());
    let _ = serving.kill();
    serving.wait()?;
    let report: Value = serde_json::from_str(&report?)?;
    report["end"]["sum_received"]["bits_per_second"].as_f64().context("a rate")
}

#[test]
fn hosts_of_tagged_networks_reach_each_other_the_router_and_the_outside() -> Result<()> {
    let trunk = Trunk::new()?;
    let router = start(&trunk, RULES)?;
    for Network { name: from, .. } in NETWORKS {
        let host = trunk.host(from);
        for (_, own) in addresses(from) {
            assert!(host.pings(&own, 2), "{from} pings the router's {own}");
        }
        for server in ["203.0.113.1", "2001:db8:2::1"] {
            assert!(host.pings(server, 2), "{from} pings {server}");
        }
        for Network { name: to, .. } in NETWORKS {
            if to == from || (from, to) == ("guests", "customer") {
                continue;
            }
            for (address, _) in addresses(to) {
                assert!(host.pings(&address, 2), "{from} pings {to}: {address}");
            }
        }
    }
    // REJECT answers on the VLAN that was asked on; and what is masqueraded shows the router's address on that VLAN.
    let refused = trunk.host("guests").output(&["ping", "-n", "-c", "1", "-W", "2", "10.0.100.9"])?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(said.contains("From 10.0.20.1") && said.contains("Port Unreachable"), "{said}");
    for (at, [guest, own]) in [
        ("10.0.20.9:7001", ["10.0.20.9:7001", "10.0.20.1"]),
        ("[fd00:20::9]:7001", ["[fd00:20::9]:7001", "fd00:20::1"]),
    ] {
        let seen = talk::tcp_transfer(trunk.host("office"), trunk.host("guests"), at, guest, 1_000_000)?;
        assert_eq!(seen.to_string(), own);
    }
    for (at, own) in [("203.0.113.1:7001", "203.0.113.2"), ("[2001:db8:2::1]:7001", "2001:db8:2::2")] {
        let seen = talk::tcp_transfer(trunk.host("customer"), &trunk.server, at, at, 1_000_000)?;
        assert_eq!(seen.to_string(), own);
    }
    // Each network has its own neighbours, counters and log lines.
    let neighbours = router.ask(&["neighbours"])?;
    for Network { name, .. } in NETWORKS {
        for (address, _) in addresses(name) {
            let found = neighbours.lines().any(|line| {
                line.contains(&format!("{address} ")) && line.contains(name.replace("native", "trunk0").as_str())
            });
            assert!(found, "{address} of {name} in\n{neighbours}");
        }
    }
    let (office, customer, cable) = (port(&router, "office")?, port(&router, "customer")?, port(&router, "trunk0")?);
    assert_eq!((&office["device"], &office["mode"]), (&"trunk0".into(), &"VLAN 802.1Q 10 of trunk0".into()));
    assert_eq!(customer["mode"], "VLAN 802.1ad 100, 802.1Q 10 of trunk0");
    assert_eq!((&office["mac"], &office["mtu"]), (&cable["mac"], &1500.into()));
    let packets = |port: &Value, way: &str| port[format!("{way}_packets")].as_u64().unwrap_or(0);
    for way in ["rx", "tx"] {
        // Two streams of a million bytes came from the customer; acknowledgements are as many as its stack likes.
        let least = if way == "rx" { 1300 } else { 20 };
        assert!(packets(&office, way) > 20 && packets(&customer, way) > least, "{office} {customer}");
        assert!(packets(&cable, way) > packets(&office, way) + packets(&customer, way), "{cable}");
    }
    wait("the log", || Ok(router.log("packets.log").contains("office:IN=office OUT=guests MAC=")))?;
    assert_eq!(router.dropped("unknown-vlan")?, 0);
    Ok(())
}

#[test]
fn frames_of_full_size_fit_with_both_tags_and_longer_ones_are_cut_or_answered() -> Result<()> {
    let trunk = Trunk::new()?;
    let router = start(&trunk, RULES)?;
    let pings = |from: &str, to: &str, bytes: u32, may_cut: bool| {
        let bytes = (bytes - if to.contains(':') { 48 } else { 28 }).to_string();
        let discover = if may_cut { "dont" } else { "do" };
        let ping = ["ping", "-n", "-i", "0.05", "-W", "1", "-c", "3", "-M", discover, "-s", &bytes, to];
        trunk.host(from).output(&ping).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (from, to) in [("customer", "office"), ("office", "customer"), ("native", "customer")] {
        for (address, _) in addresses(to) {
            let said = pings(from, &address, 1500, false)?;
            assert!(said.contains(" 0% packet loss"), "{from} to {address}: {said}");
        }
    }
    // The guests' network takes 1400: the sender is told, and cuts from then on; or the router cuts.
    let [(v4, _), (v6, _)] = addresses("guests");
    let said = pings("native", &v4, 1500, true)?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    let said = pings("customer", &v4, 1500, false)?;
    assert!(said.contains("mtu = 1400") || said.contains("mtu=1400"), "{said}");
    let said = pings("customer", &v6, 1500, false)?;
    assert!(said.contains("Packet too big: mtu=1400"), "{said}");
    // Bursts of full-sized frames with tags leave through XDP or the ring, and none gets lost for its length.
    for (from, to, address) in [("office", "customer", "10.0.100.9"), ("customer", "office", "fd00:10::9")] {
        let rate = iperf(trunk.host(to), trunk.host(from), address, &[])?;
        println!("{from} to {to}: {:.2} Gbit/s", rate / 1e9);
        assert!(rate > 50e6, "{from} to {to}: {rate} bit/s");
    }
    let rate = iperf(&trunk.server, trunk.host("guests"), "203.0.113.1", &["-R"])?;
    println!("server to guests: {:.2} Gbit/s", rate / 1e9);
    assert!(rate > 50e6, "server to guests: {rate} bit/s");
    assert_eq!(router.dropped("tx-ring")?, 0);
    Ok(())
}

#[test]
fn tags_that_nobody_has_are_counted_and_priority_tags_do_not_matter() -> Result<()> {
    let trunk = Trunk::new()?;
    let router = start(&trunk, RULES)?;
    let mac = port(&router, "trunk0")?["mac"].as_str().context("a MAC")?.to_string();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    // A question that the router answers: who has 10.0.1.1, which is the untagged network's?
    let question = [
        &[0xff; 6][..],
        &[2, 0, 0, 0, 0, 0x77],
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0x77, 10, 0, 1, 77],
        &[0; 6],
        &[10, 0, 1, 1],
    ]
    .concat();
    let tagged = |tags: &[u8]| [&question[..12], tags, &question[12..]].concat();
    let before = port(&router, "trunk0")?;
    let mut frames = [
        tagged(&[0x81, 0, 0, 11]),
        tagged(&[0x88, 0xa8, 0, 100]),
        tagged(&[0x81, 0, 0, 100, 0x81, 0, 0, 10]),
        tagged(&[0x81, 0, 0xe0, 0]),
    ];
    for frame in &mut frames[..3] {
        frame[..6].copy_from_slice(&mac);
    }
    trunk.switch.inside(|| {
        let (socket, _) = packet_socket("t0")?;
        for frame in &frames {
            send(socket.as_raw_fd(), frame, MsgFlags::empty())?;
        }
        Ok(())
    })?;
    wait("the drops", || Ok(router.dropped("unknown-vlan")? == 3))?;
    wait("the answer", || {
        let now = port(&router, "trunk0")?;
        Ok(now["tx_packets"].as_u64() > before["tx_packets"].as_u64())
    })?;
    assert!(router.ask(&["neighbours"])?.contains("10.0.1.77"));
    Ok(())
}
