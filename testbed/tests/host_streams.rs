//! Programs of the router's own host behind its TAPs: much data both ways, both families, through OUTPUT and INPUT.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sumun_testbed::router::{INTERFACES, head, wait};
use sumun_testbed::{Appliance, Host, Lab, Router};

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
    let address: IpAddr = address.parse()?;
    let listener = to.inside(|| Ok(TcpListener::bind((address, 0))?))?;
    listener.set_nonblocking(true)?;
    let there: SocketAddr = listener.local_addr()?;
    let given_up = &AtomicBool::new(false);
    let byte = |i: usize| (i ^ i >> 8 ^ i >> 16) as u8;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Result<usize> {
            let mut met = None;
            wait("a connection", || {
                met = listener.accept().ok();
                Ok(met.is_some() || given_up.load(Ordering::Relaxed))
            })?;
            let (mut stream, _) = met.context("nobody came")?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let (mut buffer, mut at) = (vec![0; 1 << 16], 0);
            loop {
                let n = stream.read(&mut buffer).context("reading")?;
                if n == 0 {
                    return Ok(at);
                }
                ensure!(buffer[..n].iter().enumerate().all(|(i, b)| *b == byte(at + i)), "wrong bytes from {at} on");
                at += n;
            }
        });
        let connected = from.inside(|| Ok(TcpStream::connect_timeout(&there, Duration::from_secs(3))?));
        given_up.store(connected.is_err(), Ordering::Relaxed);
        let mut stream = connected?;
        stream.write_all(&(0..len).map(byte).collect::<Vec<u8>>())?;
        drop(stream);
        let got = receiver.join().expect("no panic")?;
        ensure!(got == len, "{got} of {len} bytes to {there}");
        Ok(())
    })
}

#[test]
fn streams_and_datagrams_reach_the_host_and_leave_it_whole() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut appliance = start(&lab)?;
    for (own, client) in ADDRESSES {
        transfer(&lab.client1, &appliance.host, own, 8 << 20).with_context(|| format!("to {own}"))?;
        transfer(&appliance.host, &lab.client1, client, 8 << 20).with_context(|| format!("from {own}"))?;
        let (own, client): (IpAddr, IpAddr) = (own.parse()?, client.parse()?);
        let here = appliance.host.inside(|| Ok(UdpSocket::bind((own, 0))?))?;
        let there = lab.client1.inside(|| Ok(UdpSocket::bind((client, 0))?))?;
        let mut buffer = vec![0; 1 << 16];
        for len in [0, 18, 1452, 4000] {
            let data: Vec<u8> = (0..len).map(|i| (i * 3) as u8).collect();
            for (from, to) in [(&there, &here), (&here, &there)] {
                to.set_read_timeout(Some(Duration::from_secs(5)))?;
                from.send_to(&data, to.local_addr()?)?;
                let (n, _) = to.recv_from(&mut buffer).with_context(|| format!("{len} bytes to {to:?}"))?;
                ensure!(buffer[..n] == data, "{len} bytes to {to:?}");
            }
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
