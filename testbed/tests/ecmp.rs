//! Two firewalls share the flows to one address, which both announce by BGP to a Linux router that spreads flows over them.
//!
//! ```text
//!                                ┌─ wan0 │ one   │ dmz0 ─┐
//!  client ── edge ── transit ────┤                       ├─ inner ── server
//!         (BIRD, ECMP)           └─ wan0 │ other │ dmz0 ─┘
//! ```
//! Each firewall leads the address on to the server, as its own address, so that answers come back to it.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use sumun_testbed::daemons::bird;
use sumun_testbed::host::{PREFIX, join};
use sumun_testbed::router::{head_in, wait};
use sumun_testbed::talk::{steady_after, tcp_connect, tcp_echo, udp_ask, udp_connect, udp_echo};
use sumun_testbed::{Beside, Host, Router};

/// The address of both, by family.
const SERVICE: [&str; 2] = ["198.51.100.80", "2001:db8:100::80"];
/// Flows of each family and protocol.
const FLOWS: usize = 100;
/// BFD asks every 50 ms and gives up after so many: then routes change. On a busy machine a pause must not look like a lost link;
/// `SUMUN_BFD` says how few are enough on a quiet one.
fn bfd() -> String {
    let multiplier = std::env::var("SUMUN_BFD").unwrap_or_else(|_| "20".into());
    format!("protocol bfd {{ interface \"*\" {{ interval 50 ms; multiplier {multiplier}; }}; }}")
}

const RULES: &str = r#"
[routes]
from = "kernel"

[sysctl]
icmp_ratelimit = 0

[filter.INPUT]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "-i wan0 -p tcp --dport 179 -j ACCEPT",
  "-i wan0 -p udp --dport 3784 -j ACCEPT",
]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
  "-i wan0 -p tcp --syn -m conntrack --ctstate NEW -j ACCEPT",
  "-i wan0 -p udp -m conntrack --ctstate NEW -j ACCEPT",
]

[ipv4.nat]
PREROUTING.rules = ["-d 198.51.100.80 -j DNAT --to-destination 10.9.0.80"]
[ipv6.nat]
PREROUTING.rules = ["-d 2001:db8:100::80 -j DNAT --to-destination fd00:9::80"]

[nat.POSTROUTING]
rules = ["-o dmz0 -j MASQUERADE"]
"#;

/// A firewall's configuration; `n` is the last part of its addresses.
fn config(dir: &Path, taps: &Host, n: u32) -> String {
    format!(
        "{}[host]\nnamespace = \"{}\"\n[interfaces.wan0]\naddresses = [\"10.0.0.{n}/24\", \"fd00::{n}/64\"]\n\
         [interfaces.dmz0]\naddresses = [\"10.9.0.{n}/24\", \"fd00:9::{n}/64\"]\n{RULES}",
        head_in(dir, "1"),
        taps.name()
    )
}

/// The two sessions of a BIRD with one other: its address ends in `own`, the other's in `other`.
fn sessions(name: &str, own: u32, own_as: u32, other: u32, other_as: u32, export: &str) -> String {
    let timers = "hold time 9; connect delay time 1; connect retry time 1; error wait time 1, 2; bfd on;";
    let mut all = String::new();
    for (version, network) in [("4", "10.0.0."), ("6", "fd00::")] {
        all += &format!(
            "protocol bgp {name}{version} {{ local {network}{own} as {own_as}; neighbor {network}{other} as {other_as}; {timers}\n\
             ipv{version} {{ import all; export {export}; next hop self; }}; }}\n"
        );
    }
    all
}

fn daemon(n: u32, rest: &str) -> String {
    let bfd = bfd();
    format!(
        "router id 10.0.0.{n};\nprotocol device {{ scan time 1; }}\n{bfd}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n\
         protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}\n{rest}"
    )
}

/// A firewall's BIRD announces the service and learns the client's network.
fn firewall(taps: &Host, dir: &Path, n: u32) -> Result<Beside> {
    let service = format!(
        "protocol static {{ ipv4; route {}/32 blackhole; }}\nprotocol static {{ ipv6; route {}/128 blackhole; }}\n",
        SERVICE[0], SERVICE[1]
    );
    let sessions = sessions("edge", n, 65100, 1, 65000, "where source = RTS_STATIC");
    bird(taps, dir, "bird", &daemon(n, &format!("{service}{sessions}")))
}

/// The edge's BIRD announces the client's network and has two ways to the service.
fn edge(edge: &Host, dir: &Path) -> Result<Beside> {
    let client = "protocol static { ipv4; route 192.168.50.0/24 via \"lan\"; }\n\
                  protocol static { ipv6; route fd00:50::/64 via \"lan\"; }\n";
    let sessions =
        [("one", 2), ("other", 3)].map(|(name, n)| sessions(name, 1, 65000, n, 65100, "where source = RTS_STATIC"));
    bird(edge, dir, "edge", &daemon(1, &format!("{client}{}", sessions.concat())))
}

/// Flows to the service of one family.
struct Flows {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
}

impl Flows {
    fn open(client: &Host, service: &str) -> Result<Flows> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for _ in 0..FLOWS {
            tcp.push(connect(client, service)?);
            udp.push(udp_connect(client, any(service), &at(service, 5353))?);
        }
        Ok(Flows { tcp, udp })
    }

    /// Their protocols and ports.
    fn ports(&self) -> Result<Vec<(&'static str, u16)>> {
        let tcp = self.tcp.iter().map(|stream| Ok(("tcp", stream.local_addr()?.port())));
        tcp.chain(self.udp.iter().map(|socket| Ok(("udp", socket.local_addr()?.port())))).collect()
    }

    /// A question and its answer on each.
    fn ask(&mut self) -> Result<()> {
        for stream in &mut self.tcp {
            ask(stream)?;
        }
        self.udp.iter().try_for_each(|socket| udp_ask(socket, b"is it you?"))
    }
}

fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

fn any(address: &str) -> &'static str {
    if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" }
}

fn connect(client: &Host, service: &str) -> Result<TcpStream> {
    let stream = tcp_connect(client, &at(service, 8080), None)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    let question = b"is it you?";
    stream.write_all(question)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == question);
    Ok(())
}

/// The ports of the client whose flows to the service a firewall knows, by protocol.
fn known(router: &Router, service: &str) -> Result<Vec<(&'static str, u16)>> {
    let to = format!("dst={} ", service.parse::<IpAddr>()?);
    let mut known = Vec::new();
    for line in router.ask(&["conntrack", "-f", if service.contains(':') { "ipv6" } else { "ipv4" }])?.lines() {
        if line.contains(&to) {
            let protocol = if line.starts_with("tcp") { "tcp" } else { "udp" };
            let port = line.split("sport=").nth(1).and_then(|rest| rest.split(' ').next()).context("a port")?;
            known.push((protocol, port.parse()?));
        }
    }
    Ok(known)
}

/// Asks by a new flow every 10 ms, for so long; from when on they are answered.
fn last_unanswered(client: &Host, service: &str, lasts: Duration) -> Result<Duration> {
    let begun = Instant::now();
    let mut asked = Vec::new();
    while begun.elapsed() < lasts {
        let socket = udp_connect(client, any(service), &at(service, 5353))?;
        asked.push((begun.elapsed(), socket));
        // What is asked where the route has just gone is an error.
        let _ = asked.last().expect("just pushed").1.send(b"still there?");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    let answered = |(when, socket): (Duration, UdpSocket)| {
        socket.set_nonblocking(true)?;
        Ok((when, socket.recv(&mut [0; 64]).is_ok()))
    };
    Ok(steady_after(asked.into_iter().map(answered).collect::<Result<Vec<_>>>()?))
}

/// Whether the edge has routes by both firewalls, or by how many.
fn ways(edge: &Host) -> Result<[usize; 2]> {
    let count = |family: &str, service: &str, via: &str| -> Result<usize> {
        Ok(edge.ip(&format!("{family} route show {service}"))?.matches(via).count())
    };
    Ok([count("-4", SERVICE[0], "via 10.0.0.")?, count("-6", SERVICE[1], "via fd00::")?])
}

#[test]
fn flows_to_an_address_of_two_firewalls_stay_together_and_move_when_one_is_lost() -> Result<()> {
    let tag = format!("{}-ecmp", std::process::id());
    let named = |name: &str| Host::new(&format!("{tag}-{name}"));
    let (client, linux, transit, inner, server) =
        (named("client")?, named("edge")?, named("transit")?, named("inner")?, named("server")?);
    let (one, other, one_taps, other_taps) = (named("one")?, named("other")?, named("one-host")?, named("other-host")?);
    for (switch, ports) in [
        (&transit, [("p1", &linux, "wan"), ("p2", &one, "wan0"), ("p3", &other, "wan0")]),
        (&inner, [("p1", &server, "eth0"), ("p2", &one, "dmz0"), ("p3", &other, "dmz0")]),
    ] {
        switch.ip("link add br0 type bridge mcast_snooping 0")?;
        switch.ip("link set br0 up")?;
        for (port, host, device) in ports {
            join(host, device, switch, port, 1)?;
            switch.ip(&format!("link set {port} master br0"))?;
        }
    }
    join(&client, "eth0", &linux, "lan", 1)?;
    for (host, device, addresses) in [
        (&client, "eth0", ["192.168.50.9/24", "fd00:50::9/64"]),
        (&linux, "lan", ["192.168.50.1/24", "fd00:50::1/64"]),
        (&linux, "wan", ["10.0.0.1/24", "fd00::1/64"]),
        (&server, "eth0", ["10.9.0.80/24", "fd00:9::80/64"]),
    ] {
        host.ip(&format!("addr add {} dev {device}", addresses[0]))?;
        host.ip(&format!("addr add {} dev {device} nodad", addresses[1]))?;
    }
    client.ip("route add default via 192.168.50.1")?;
    client.ip("route add default via fd00:50::1")?;
    for family in ["ipv4", "ipv6"] {
        let forwarding = if family == "ipv4" { "net.ipv4.ip_forward=1" } else { "net.ipv6.conf.all.forwarding=1" };
        linux.run(&["sysctl", "-qw", forwarding, &format!("net.{family}.fib_multipath_hash_policy=1")])?;
    }
    for (router, device) in [(&one, "wan0"), (&one, "dmz0"), (&other, "wan0"), (&other, "dmz0")] {
        router.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")])?;
    }
    let dir = || tempfile::Builder::new().prefix(PREFIX).tempdir();
    let (edge_dir, one_dir, other_dir) = (dir()?, dir()?, dir()?);
    let first = Router::start_in(&one, one_dir.path(), &config(one_dir.path(), &one_taps, 2))?;
    let second = Router::start_in(&other, other_dir.path(), &config(other_dir.path(), &other_taps, 3))?;
    for taps in [&one_taps, &other_taps] {
        wait("addresses on the TAPs", || Ok(taps.ip("addr show dev wan0")?.contains("fd00::")))?;
    }
    let _one = firewall(&one_taps, one_dir.path(), 2)?;
    let _other = firewall(&other_taps, other_dir.path(), 3)?;
    let _edge = edge(&linux, edge_dir.path())?;
    wait("two ways to the service", || Ok(ways(&linux)? == [2, 2]))?;
    for router in [&first, &second] {
        wait("the way back to the client", || {
            let routes = router.ask(&["routes"])?;
            Ok(["192.168.50.0/24 via 10.0.0.1", "fd00:50::/64 via fd00::1"].iter().all(|way| routes.contains(way)))
        })?;
    }

    // Each flow is known to one firewall only, and each has a share.
    tcp_echo(&server, "10.9.0.80:8080")?;
    tcp_echo(&server, "[fd00:9::80]:8080")?;
    let _echoes =
        [udp_echo(&server, "10.9.0.80:5353", usize::MAX)?, udp_echo(&server, "[fd00:9::80]:5353", usize::MAX)?];
    let mut of_first = Vec::new();
    let mut all = Vec::new();
    for service in SERVICE {
        let mut flows = Flows::open(&client, service)?;
        for _ in 0..3 {
            flows.ask().with_context(|| service.to_string())?;
        }
        let (here, there) = (known(&first, service)?, known(&second, service)?);
        for flow in flows.ports()? {
            ensure!(here.contains(&flow) != there.contains(&flow), "{service} {flow:?}: {here:?} {there:?}");
        }
        for protocol in ["tcp", "udp"] {
            let share = here.iter().filter(|(known, _)| *known == protocol).count();
            println!("{service}: of {FLOWS} {protocol} flows {share} go by the first firewall");
            ensure!((FLOWS / 5..=FLOWS * 4 / 5).contains(&share), "{share} of {FLOWS}");
        }
        of_first.push(here);
        all.push(flows);
    }

    // The first firewall's link is lost where no other sees it: new flows go by the other as soon as BFD has found out.
    transit.ip("link set p2 down")?;
    let took = last_unanswered(&client, SERVICE[0], Duration::from_secs(4))?;
    println!("new flows are answered again {} ms after the link was lost", took.as_millis());
    ensure!(took < Duration::from_secs(3), "{took:?}");
    wait("one way to the service", || Ok(ways(&linux)? == [1, 1]))?;
    for (service, (flows, of_first)) in SERVICE.into_iter().zip(all.iter_mut().zip(&of_first)) {
        for _ in 0..30 {
            ask(&mut connect(&client, service)?)?;
        }
        // Those of the other never notice; the lost ones are nobody's, and their packets are refused.
        let mut lost = None;
        for stream in &mut flows.tcp {
            match of_first.contains(&("tcp", stream.local_addr()?.port())) {
                true => lost = Some(stream),
                false => ask(stream).context("a flow of the firewall that is left")?,
            }
        }
        let lost = lost.context("a flow that is lost")?;
        lost.set_read_timeout(Some(Duration::from_millis(300)))?;
        ensure!(ask(lost).is_err(), "a connection that the other firewall does not know");
        let port = lost.local_addr()?.port();
        ensure!(!known(&second, service)?.contains(&("tcp", port)), "it must not become one");
    }

    // And back.
    transit.ip("link set p2 up")?;
    wait("two ways to the service again", || Ok(ways(&linux)? == [2, 2]))?;
    let before = known(&first, SERVICE[0])?.len();
    for _ in 0..30 {
        ask(&mut connect(&client, SERVICE[0])?)?;
    }
    ensure!(known(&first, SERVICE[0])?.len() > before, "it has its share again");
    Ok(())
}
