//! Two workers, and every answer comes in on another one than what it answers.
//!
//! The queues of the network are crossed ([`Lab::crossed`]): what client1 sends is worker 0's, what client2 and the server
//! send is worker 1's. Each test ends with the kernel's counters of the queues, which tell that it was so, and with the
//! router's: nothing was lost because two workers had a flow in their hands.

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use sumun_testbed::lab::{cpus, send_by_cpu};
use sumun_testbed::router::wait;
use sumun_testbed::{Lab, Router, talk};

const MASQUERADE: &str = r#"
nf_conntrack_acct = 1

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-i lan0 -j ACCEPT",
]
"#;

/// The server and what a client's mapped packets look as if from, in both families.
const SERVERS: [(&str, &str); 2] = [("203.0.113.1", "203.0.113.2"), ("[2001:db8:2::1]", "2001:db8:2::2")];

/// Frames that came in on lan0 and wan0, by queue.
type Received = [Vec<u64>; 2];

fn received(lab: &Lab) -> Result<Received> {
    Ok([lab.received("lan0")?, lab.received("wan0")?])
}

fn since(lab: &Lab, before: &Received) -> Result<Received> {
    let mut now = received(lab)?;
    for (now, before) in now.iter_mut().flatten().zip(before.iter().flatten()) {
        *now -= before;
    }
    Ok(now)
}

/// Asserts that at least so many frames came in on queue 0 of lan0 and on queue 1 of wan0, none on queue 0 of wan0, and that no
/// frame was dropped for want of room or for a clash of flows.
fn assert_crossed(lab: &Lab, before: &Received, router: &Router, originals: u64, replies: u64) -> Result<()> {
    let [lan, wan] = since(lab, before)?;
    assert!(lan[0] >= originals, "{originals} originals on queue 0: {lan:?}");
    assert!(wan[0] == 0 && wan[1] >= replies, "{replies} replies on queue 1: {wan:?}");
    assert_nothing_lost(router)
}

fn assert_nothing_lost(router: &Router) -> Result<()> {
    let overload = ["conntrack-full", "fragment-queue", "no-frame", "tx-ring", "handover", "nat-exhausted"];
    for reason in ["conntrack-clash", "conntrack-drop", "nat-failed"].iter().chain(&overload) {
        assert_eq!(router.dropped(reason)?, 0, "{reason}");
    }
    Ok(())
}

/// So many TCP connections that both ends used, once all have closed. Who closes while the other's FIN is on its way may answer
/// it with a reset.
fn closed(router: &Router, count: usize) -> Result<Vec<String>> {
    let mut flows = Vec::new();
    wait("the last segments", || {
        flows = router.flows(&["tcp "])?;
        let is_closed = |flow: &String| flow.contains(" TIME_WAIT ") || flow.contains(" CLOSE ");
        Ok(flows.len() == count && flows.iter().all(|flow| is_closed(flow) && flow.contains("[ASSURED]")))
    })?;
    Ok(flows)
}

/// The values of `name=` in a flow: the first is the original direction's, the second the reply's.
fn values<'a>(flow: &'a str, name: &str) -> Vec<&'a str> {
    flow.split(' ').filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn a_tcp_transfer_arrives_whole_and_its_flow_is_assured() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let router = Router::start_two(&lab, MASQUERADE)?;
    for (server, mapped) in SERVERS {
        let to = format!("{server}:7000");
        let peer = talk::tcp_transfer(&lab.client1, &lab.server, &to, &to, 8 << 20)?;
        assert_eq!(peer.to_string(), mapped);
    }
    let flows = closed(&router, 2)?;
    let mut seen = [0, 0];
    for flow in &flows {
        for (sum, packets) in seen.iter_mut().zip(values(flow, "packets")) {
            *sum += packets.parse::<u64>()?;
        }
        assert!(values(flow, "bytes")[0].parse::<u64>()? > 8 << 20, "{flow}");
    }
    assert!(seen[0] > 10_000 && seen[1] > 100, "{flows:?}");
    assert_crossed(&lab, &before, &router, seen[0], seen[1])
}

#[test]
fn hundred_connections_at_once_arrive_whole() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let router = Router::start_two(&lab, MASQUERADE)?;
    let size = 200_000;
    for (server, _) in SERVERS {
        let to: Vec<String> = (0..50).map(|n| format!("{server}:{}", 7000 + n)).collect();
        let sinks: Vec<_> = to.iter().map(|to| talk::tcp_sink(&lab.server, to, size)).collect::<Result<_>>()?;
        std::thread::scope(|scope| {
            let sending: Vec<_> = to
                .iter()
                .map(|to| {
                    scope.spawn(|| {
                        let mut stream = talk::tcp_connect(&lab.client1, to, None)?;
                        talk::tcp_send(&mut stream, size, |_| {})
                    })
                })
                .collect();
            sending.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        for sink in sinks {
            sink.join().expect("no panic")?;
        }
    }
    closed(&router, 100)?;
    assert_crossed(&lab, &before, &router, 100 * 138, 100 * 4)
}

#[test]
fn datagrams_are_counted_one_by_one() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let router = Router::start_two(&lab, MASQUERADE)?;
    for (server, mapped) in SERVERS {
        let to = format!("{server}:5300");
        let any = if server.starts_with('[') { "[::]:4000" } else { "0.0.0.0:4000" };
        let echo = talk::udp_echo(&lab.server, &to, 200)?;
        let socket = talk::udp_connect(&lab.client1, any, &to)?;
        for n in 0..200u8 {
            talk::udp_ask(&socket, &[n; 100])?;
        }
        let peers = echo.join().expect("no panic")?;
        assert!(peers.iter().all(|peer| peer.ip().to_string() == mapped && peer.port() == 4000), "{peers:?}");
        let headers = if server.starts_with('[') { 48 } else { 28 };
        let flows = router.flows(&["udp ", "dport=5300", &format!("dst={mapped}")])?;
        assert_eq!(flows.len(), 1, "{flows:#?}");
        assert_eq!(values(&flows[0], "packets"), ["200", "200"]);
        assert_eq!(values(&flows[0], "bytes"), vec![(200 * (headers + 100)).to_string(); 2]);
    }
    assert_crossed(&lab, &before, &router, 400, 400)
}

#[test]
fn pings_are_answered_through_masquerade() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let router = Router::start_two(&lab, MASQUERADE)?;
    for server in ["203.0.113.1", "2001:db8:2::1"] {
        assert!(lab.client1.pings(server, 20), "{server}");
        assert!(lab.client1.pings_with(server, 5, 20_000), "{server} with fragments");
    }
    assert_crossed(&lab, &before, &router, 2 * (20 + 5 * 14), 2 * (20 + 5 * 14))
}

#[test]
fn fragmented_datagrams_go_both_ways() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let router = Router::start_two(&lab, MASQUERADE)?;
    for (server, mapped) in SERVERS {
        let to = format!("{server}:5400");
        let any = if server.starts_with('[') { "[::]:4100" } else { "0.0.0.0:4100" };
        let echo = talk::udp_echo(&lab.server, &to, 40)?;
        let socket = talk::udp_connect(&lab.client1, any, &to)?;
        let text: Vec<u8> = (0..8000).map(|i| (i % 251) as u8).collect();
        for _ in 0..40 {
            talk::udp_ask(&socket, &text)?;
        }
        assert!(echo.join().expect("no panic")?.iter().all(|peer| peer.ip().to_string() == mapped));
        let flows = router.flows(&["udp ", "dport=5400", &format!("dst={mapped}")])?;
        assert_eq!(values(&flows[0], "packets"), ["40", "40"], "a flow counts whole packets");
    }
    assert_crossed(&lab, &before, &router, 2 * 40 * 6, 2 * 40 * 6)
}

#[test]
fn a_published_server_is_reached_from_outside_and_by_hairpin() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let dnat = r#"
[ipv4.nat.PREROUTING]
rules = [
  "-d 203.0.113.2/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.1.11:80",
  "-d 203.0.113.2/32 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 192.168.1.12:80",
]

[ipv6.nat.PREROUTING]
rules = [
  "-d 2001:db8:2::2/128 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00:1::11]:80",
  "-d 2001:db8:2::2/128 -p tcp -m tcp --dport 8081 -j DNAT --to-destination [fd00:1::12]:80",
]

[ipv4.nat.POSTROUTING]
rules = ["-s 192.168.1.0/24 -o lan0 -j MASQUERADE"]

[ipv6.nat.POSTROUTING]
rules = ["-s fd00:1::/64 -o lan0 -j MASQUERADE"]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT"]
"#;
    let router = Router::start_two(&lab, dnat)?;
    let size = 4 << 20;
    for (public, one, other, outside, own) in [
        ("203.0.113.2", "192.168.1.11:80", "192.168.1.12:80", "203.0.113.1", "192.168.1.1"),
        ("[2001:db8:2::2]", "[fd00:1::11]:80", "[fd00:1::12]:80", "2001:db8:2::1", "fd00:1::1"),
    ] {
        // From outside: originals on worker 1, replies on worker 0.
        let peer = talk::tcp_transfer(&lab.server, &lab.client1, one, &format!("{public}:8080"), size)?;
        assert_eq!(peer.to_string(), outside);
        // Hairpin, both on the same device: originals on worker 0, replies on worker 1.
        let peer = talk::tcp_transfer(&lab.client1, &lab.client2, other, &format!("{public}:8081"), size)?;
        assert_eq!(peer.to_string(), own);
    }
    let [lan, _] = since(&lab, &before)?;
    assert!(lan[1] > 200, "replies of client2 come in on queue 1: {lan:?}");
    closed(&router, 4)?;
    assert_crossed(&lab, &before, &router, 2 * 2900, 2 * 2900)
}

#[test]
fn a_rejected_answer_closes_its_connection() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let rules = r#"
[filter.FORWARD]
rules = [
  "-i lan0 -p tcp -m tcp --dport 23 -j REJECT --reject-with tcp-reset",
  "-i wan0 -p tcp -m tcp --sport 24 -m conntrack --ctstate ESTABLISHED -j REJECT --reject-with tcp-reset",
]
policy = "ACCEPT"
"#;
    let router = Router::start_two(&lab, rules)?;
    for (server, _) in SERVERS {
        for n in 0..10 {
            let before = Instant::now();
            let refused = talk::tcp_connect(&lab.client1, &format!("{server}:23"), None).expect_err("rejected");
            assert!(format!("{refused:#}").contains("refused"), "{server} {n}: {refused:#}");
            assert!(before.elapsed() < Duration::from_secs(1));
        }
        assert_eq!(router.flows(&["dport=23"])?, Vec::<String>::new(), "what is refused at once leaves no flow");
        // Worker 1 resets what worker 0 began. The client hears nothing of it and goes on asking.
        let to: SocketAddr = format!("{server}:24").parse()?;
        let _listens = lab.server.inside(|| Ok(TcpListener::bind(to)?))?;
        std::thread::scope(|scope| {
            let ask = || lab.client1.inside(|| Ok(TcpStream::connect_timeout(&to, Duration::from_millis(300))?));
            let asking: Vec<_> = (0..10).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().for_each(|thread| assert!(thread.join().expect("no panic").is_err()));
        });
        let flows = router.flows(&["tcp ", "dport=24", &format!("src={}", to.ip())])?;
        assert_eq!(flows.len(), 10, "{flows:?}");
        assert!(flows.iter().all(|flow| flow.contains("CLOSE")), "{flows:#?}");
    }
    assert_crossed(&lab, &before, &router, 40, 20)
}

#[test]
fn ports_are_used_again_as_soon_as_a_connection_is_closed() -> Result<()> {
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let router = Router::start_two(&lab, MASQUERADE)?;
    const ROUNDS: usize = 60;
    for (server, _) in SERVERS {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u16)
                .map(|n| {
                    let (lab, to) = (&lab, format!("{server}:{}", 7000 + n));
                    scope.spawn(move || -> Result<()> {
                        let from: SocketAddr = if server.starts_with('[') {
                            format!("[::]:{}", 4000 + n)
                        } else {
                            format!("0.0.0.0:{}", 4000 + n)
                        }
                        .parse()?;
                        let server = talk::tcp_greet(&lab.server, &to, ROUNDS)?;
                        for round in 0..ROUNDS {
                            talk::tcp_greeted(&lab.client1, &to, from)
                                .map_err(|e| e.context(format!("round {round}")))?;
                        }
                        server.join().expect("no panic")
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
    }
    closed(&router, 8)?;
    assert_crossed(&lab, &before, &router, 8 * 4 * ROUNDS as u64, 8 * 3 * ROUNDS as u64)
}

/// Waits until `sockets` have each got `count` datagrams; what was missing is the error.
fn all_got(sockets: &[UdpSocket], count: usize) -> Result<()> {
    let mut buffer = [0; 64];
    for (n, socket) in sockets.iter().enumerate() {
        for k in 0..count {
            socket.recv(&mut buffer).map_err(|e| anyhow::anyhow!("socket {n}, datagram {k} of {count}: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn both_ends_may_send_first_at_the_same_moment() -> Result<()> {
    const PAIRS: u16 = 400;
    for nat in ["", "[nat.POSTROUTING]\nrules = [\"-s 192.0.2.1/32 -j ACCEPT\"]\n"] {
        let lab = Lab::crossed()?;
        let before = received(&lab)?;
        let tracked = "nf_conntrack_acct = 1\n[filter.FORWARD]\npolicy = \"ACCEPT\"\nrules = [\"-m conntrack --ctstate INVALID -j DROP\"]\n";
        let router = Router::start_two(&lab, &format!("{tracked}{nat}"))?;
        for (client, server) in [("192.168.1.11", "203.0.113.1"), ("[fd00:1::11]", "[2001:db8:2::1]")] {
            // Neighbours are known before it begins.
            assert!(lab.client1.pings(server.trim_matches(['[', ']']), 1));
            let open = |host, near: &str, far: &str, ports: (u16, u16)| -> Result<Vec<UdpSocket>> {
                (0..PAIRS)
                    .map(|n| {
                        talk::udp_connect(host, &format!("{near}:{}", ports.0 + n), &format!("{far}:{}", ports.1 + n))
                    })
                    .collect()
            };
            let inner = open(&lab.client1, client, server, (20_000, 30_000))?;
            let outer = open(&lab.server, server, client, (30_000, 20_000))?;
            let start = Barrier::new(2);
            let send = |sockets: &[UdpSocket]| -> Result<()> {
                for chunk in sockets.chunks(20) {
                    start.wait();
                    for socket in chunk {
                        socket.send(b"first")?;
                    }
                }
                Ok(())
            };
            std::thread::scope(|scope| {
                let threads = [scope.spawn(|| send(&inner)), scope.spawn(|| send(&outer))];
                threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
            })?;
            all_got(&inner, 1)?;
            all_got(&outer, 1)?;
            let flows = router.flows(&["udp ", &format!("src={} ", client.trim_matches(['[', ']']))])?;
            assert_eq!(flows.len(), usize::from(PAIRS), "one flow for each pair");
            let partial = |flow: &&String| values(flow, "packets") != ["1", "1"];
            assert_eq!(flows.iter().find(partial), None);
        }
        assert_crossed(&lab, &before, &router, 2 * u64::from(PAIRS), 2 * u64::from(PAIRS))?;
    }
    Ok(())
}

#[test]
fn first_packets_of_one_flow_may_come_to_both_workers_at_once() -> Result<()> {
    const FLOWS: u16 = 400;
    let lab = Lab::crossed()?;
    let before = received(&lab)?;
    let dnat = r#"
nf_conntrack_acct = 1
[ipv4.nat.PREROUTING]
rules = ["-d 203.0.113.2/32 -p udp -j DNAT --to-destination 192.168.1.11:5500"]
[ipv6.nat.PREROUTING]
rules = ["-d 2001:db8:2::2/128 -p udp -j DNAT --to-destination [fd00:1::11]:5500"]
"#;
    let router = Router::start_two(&lab, dnat)?;
    // What the server sends goes to the worker by the processor that it is sent on.
    let cpus = cpus()?;
    send_by_cpu(&lab.server, "eth0", [&cpus[..1], &cpus[1..]])?;
    for (client, public, any) in [("192.168.1.11", "203.0.113.2", "0.0.0.0"), ("fd00:1::11", "[2001:db8:2::2]", "[::]")]
    {
        assert!(lab.server.pings(client, 1), "neighbours are known before it begins");
        let sink = lab.client1.inside(|| Ok(UdpSocket::bind(format!("{any}:5500"))?))?;
        sink.set_read_timeout(Some(Duration::from_secs(3)))?;
        let to: SocketAddr = format!("{public}:5500").parse()?;
        let open = || (0..FLOWS).map(|n| Ok(UdpSocket::bind(format!("{any}:{}", 20_000 + n))?)).collect();
        let sockets: Vec<UdpSocket> = lab.server.inside(open)?;
        let start = Barrier::new(2);
        let send = |cpu: usize| -> Result<()> {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            for socket in &sockets {
                start.wait();
                socket.send_to(b"first", to)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(|| send(cpus[0])), scope.spawn(|| send(cpus[1]))];
            // The socket's buffer would not hold all of them.
            let got = all_got(std::slice::from_ref(&sink), 2 * usize::from(FLOWS));
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))?;
            got
        })?;
        let flows = router.flows(&["udp ", "dport=5500", &format!("src={client} ")])?;
        assert_eq!(flows.len(), usize::from(FLOWS), "one flow for each socket");
        assert_eq!(flows.iter().find(|flow| values(flow, "packets") != ["2", "0"]), None);
    }
    let [_, wan] = since(&lab, &before)?;
    assert!(wan.iter().all(|frames| *frames >= 2 * u64::from(FLOWS)), "{wan:?}");
    assert_nothing_lost(&router)
}
