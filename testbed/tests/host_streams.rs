//! Programs of the router's own host behind its TAPs: much data both ways, both families, through OUTPUT and INPUT.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use sumun_testbed::router::{INTERFACES, head, wait};
use sumun_testbed::{Appliance, Host, Lab, Router, talk};

const RULES: &str = r#"
[filter.INPUT]
policy = "DROP"
rules = [
  "-p icmp -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-i lan0 -p tcp -j ACCEPT",
  "-i lan0 -p udp -j ACCEPT",
]
"#;

const ADDRESSES: [(&str, &str); 2] = [("192.168.1.1", "192.168.1.11"), ("fd00:1::1", "fd00:1::11")];

fn start(lab: &Lab) -> Result<Appliance<'_>> {
    Appliance::start(lab, &format!("{INTERFACES}{RULES}"))
}

/// What `sumun status` says of the TAP of the first port.
fn tap(appliance: &Appliance) -> Result<Value> {
    Ok(appliance.router.status()?["ports"][0]["tap"].clone())
}

/// Sends that much over one connection between namespaces; what comes must be what went.
fn transfer(from: &Host, to: &Host, address: &str, len: usize) -> Result<()> {
    let to_whom = SocketAddr::new(address.parse()?, 5001).to_string();
    talk::tcp_transfer(from, to, &to_whom, &to_whom, len).map(|_| ())
}

#[test]
fn streams_and_datagrams_reach_the_host_and_leave_it_whole() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut appliance = start(&lab)?;
    for (own, client) in ADDRESSES {
        transfer(&lab.client1, &appliance.host, own, 8 << 20).with_context(|| format!("to {own}"))?;
        transfer(&appliance.host, &lab.client1, client, 8 << 20).with_context(|| format!("from {own}"))?;
        let (here, there) = (talk::udp_bind(&appliance.host, own)?, talk::udp_bind(&lab.client1, client)?);
        for len in [0, 18, 1452, 4000] {
            let data: Vec<u8> = (0..len).map(|i| (i * 3) as u8).collect();
            talk::udp_both_ways(&there, &here, &data)?;
        }
    }
    let tap = tap(&appliance)?;
    ensure!(tap["namespace"] == appliance.host.name() && tap["refused"] == 0 && tap["failed"] == 0, "{tap}");
    for key in ["from_bytes", "to_bytes"] {
        ensure!(tap[key].as_u64().is_some_and(|bytes| bytes > 16 << 20), "{tap}");
    }
    // INPUT says no on the other port.
    ensure!(transfer(&lab.server, &appliance.host, "203.0.113.2", 1).is_err());

    // The router's cable is pulled, and the host sees it.
    let carrier = |wanted: &str| wait("the carrier", || Ok(appliance.host.ip("link show lan0")?.contains(wanted)));
    lab.switch.ip("link set r down")?;
    carrier("NO-CARRIER")?;
    lab.switch.ip("link set r up")?;
    carrier("LOWER_UP")?;
    ensure!(lab.client1.pings("192.168.1.1", 3));

    appliance.router.end_dataplane(Signal::SIGTERM)?;
    ensure!(appliance.host.ip("link show lan0").is_err(), "a TAP goes with its process");
    let log = appliance.router.log("dataplane.log");
    ensure!(!log.contains("frames were lost"), "{log}");
    Ok(())
}

#[test]
fn what_keeps_taps_from_being_made_is_said_at_the_start() -> Result<()> {
    let lab = Lab::new(1)?;
    let start = |host: &str| {
        let config = format!("{}[host]\n{host}\n{INTERFACES}{RULES}", head(&lab, "1"));
        Router::start_with(&lab, &config).err().map_or_else(String::new, |error| error.to_string())
    };
    let missing = start("namespace = \"sumun-not-there\"");
    ensure!(missing.contains("there is no network namespace `sumun-not-there`"), "{missing}");
    let taken = start(&format!("namespace = \"{}\"", lab.router.name()));
    ensure!(taken.contains("would have the name of a device that is there already"), "{taken}");
    Ok(())
}

/// A rule that counts what user 65534 or group 65533 sends, and one that refuses it.
const OWNERS: &str = r#"
[filter.OUTPUT]
rules = [
  "-p tcp --dport 7777 -m owner --gid-owner 65533",
  "-p tcp --dport 7777 -m owner --socket-exists --uid-owner 65534 -j REJECT --reject-with tcp-reset",
]
"#;

#[test]
fn rules_know_whose_socket_sent_a_packet() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = start(&lab)?;
    let with_owners = lab.path("owners.toml");
    std::fs::write(&with_owners, std::fs::read_to_string(&appliance.router.config)? + OWNERS)?;
    appliance.router.ask(&["apply", &with_owners.display().to_string()])?;
    let _server = lab.client1.inside(|| Ok(TcpListener::bind("[::]:7777")?))?;
    for (_, client) in ADDRESSES {
        let connect = format!("import socket; socket.create_connection((\"{client}\", 7777), 3)");
        let python = ["/usr/bin/python3", "-c", &connect];
        let somebody = [&["setpriv", "--reuid", "65534", "--regid", "65533", "--clear-groups"][..], &python].concat();
        ensure!(appliance.host.output(&python)?.status.success(), "root may: {client}");
        let refused = appliance.host.output(&somebody)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(said.contains("ConnectionRefusedError"), "{client}: {said}");
    }
    let rules = appliance.router.ask(&["rules", "--counters", "--table", "filter"])?;
    let counted = |bytes: u32, option: &str| {
        let counter = format!("[1:{bytes}]");
        rules.lines().any(|line| line.starts_with(&counter) && line.contains(option))
    };
    for bytes in [60, 80] {
        ensure!(counted(bytes, "--gid-owner") && counted(bytes, "--uid-owner"), "{rules}");
    }
    Ok(())
}
