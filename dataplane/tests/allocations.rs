//! The engine allocates nothing per packet: counted, in steady state, for every kind of packet that has its own way.

mod common;

use allocation_counter::{AllocationInfo, measure};
use common::*;
use sumun_config::facts::{Family, PortId};
use sumun_dataplane::conntrack::Conntrack;
use sumun_dataplane::umem::Frame;

const RULES: &str = r#"
[raw.PREROUTING]
rules = ["-p udp -m udp --dport 9 -j NOTRACK"]

[mangle.FORWARD]
rules = ["-p tcp -m tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "-j MARK --set-mark 7", "-m mark --mark 7 -j CONNMARK --save-mark"]

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]

[filter.INPUT]
rules = ["-m limit --limit 1000/sec --limit-burst 1000 -j LOG --log-prefix in", "-j ACCEPT"]

[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  "-p tcp --dport 23 -j REJECT --reject-with tcp-reset",
  "-p tcp --dport 24 -j REJECT",
  "-i lan0 -j deeper",
]

[filter.deeper]
rules = ["-p udp -m multiport --dports 1,2,3,4 -j RETURN", "-m statistic --mode nth --every 2 --packet 0 -j LOG", "-j ACCEPT"]
"#;

fn traffic(n: u16) -> Vec<(PortId, Vec<u8>)> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let (client, server) = ends(family);
        let own = match family {
            Family::V4 => 0xc0a8_0101,
            Family::V6 => 0xfd00_0001 << 96 | 1,
        };
        let fresh = 2000 + n;
        all.push((LAN, udp(family, client, server, (1000, 53), b"query")));
        all.push((LAN, udp(family, client, server, (fresh, 53), b"a new flow")));
        all.push((LAN, udp(family, client, server, (1000, 9), b"untracked")));
        all.push((LAN, tcp(family, client, server, (fresh, 80), "S", b"")));
        all.push((LAN, tcp(family, client, server, (fresh, 23), "S", b"")));
        all.push((LAN, tcp(family, client, server, (fresh, 24), "S", b"")));
        all.push((LAN, ping(family, client, server, n, b"ping")));
        all.push((LAN, ping(family, client, own, n, b"to the router")));
        all.push((LAN, tcp(family, client, own, (fresh, 22), "S", b"")));
        all.push((WAN, udp(family, server, client, (1, 1), b"dropped by policy")));
        all.push((LAN, udp(family, client, server + 100, (1, 5), b"nobody there")));
        let mut expired = Vec::new();
        ip(family, client, server, 1).udp(1, 5).write(&mut expired, b"ttl").expect("a frame");
        all.push((LAN, expired));
        let large = udp(family, client, server, (fresh, 53), &[9; 2000]);
        all.extend(halves(&large).map(|half| (LAN, half)));
        all.extend(halves(&ping(family, client, own, n, &[9; 2000])).map(|half| (LAN, half)));
        if family == Family::V6 {
            // One that stays incomplete.
            let [mut lonely, _] = halves(&large);
            lonely[58..60].copy_from_slice(&fresh.to_be_bytes());
            all.push((LAN, lonely));
        }
    }
    all.push((LAN, arp_request(0xc0a8_0109, 0xc0a8_0101)));
    all.push((LAN, vec![0; 20]));
    all
}

#[test]
fn the_memory_of_a_flow_table_is_what_was_said_beforehand() {
    for (flows, workers) in [(1, 1), (1000, 1), (1000, 4), (262_144, 2), (300_000, 3)] {
        let mut made = None;
        let taken = measure(|| made = Some(Conntrack::new(flows, workers, 1))).bytes_total as usize;
        let table = made.expect("a table");
        assert_eq!((taken, table.memory()), (Conntrack::memory_for(flows, workers), taken), "{flows} flows");
        let more = measure(|| table.count_connections(1)).bytes_total as usize;
        assert_eq!(taken + more, table.memory(), "{flows} flows and as many connections");
    }
    let each = Conntrack::memory_for(1_000_000, 1) / 1_000_000;
    assert!((200..=400).contains(&each), "{each} bytes for each flow");
}

#[test]
fn the_engine_allocates_nothing_per_packet() {
    let mut rig = Rig::new(RULES);
    // The first rounds fill what grows once: queues, the neighbour table's lists.
    for round in 0..20 {
        for (port, frame) in traffic(round) {
            rig.send(port, &frame);
            while rig.router.log.pop().is_some() {}
        }
        rig.wait(1_000_000);
    }
    let mut rx: Vec<Frame> = Vec::with_capacity(64);
    for round in 20..60 {
        for (port, bytes) in traffic(round) {
            let mut frame = rig.engine.pool().take().expect("a free frame");
            assert!(frame.set(&bytes));
            rx.push(frame);
            rig.now += 100_000;
            let allocated = measure(|| {
                rig.engine.process(rig.now, port, &mut rx);
                rig.engine.tick(rig.now);
            });
            assert_eq!(allocated, AllocationInfo::default(), "round {round}, a frame of port {}: {bytes:02x?}", port.0);
            for out in [LAN, WAN] {
                while let Some(frame) = rig.engine.take_tx(out).pop() {
                    rig.engine.pool().give(frame);
                }
            }
            while rig.router.log.pop().is_some() {}
        }
    }
    assert!(rig.router.conntrack.count() > 100, "flows were made");
}

#[test]
fn nor_does_it_for_packets_whose_flow_tells_their_way() {
    let (client, server) = ends(Family::V4);
    let mut rig = Rig::new("[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n");
    // Each flow from its first packet on.
    for port in 2000..2100 {
        for time in 0..4 {
            let mut frame = rig.engine.pool().take().expect("a free frame");
            assert!(frame.set(&udp(Family::V4, client, server, (port, 53), b"query")));
            let mut rx = vec![frame];
            let allocated = measure(|| rig.engine.process(rig.now, LAN, &mut rx));
            assert_eq!(allocated, AllocationInfo::default(), "port {port}, time {time}");
            let sent = rig.engine.take_tx(WAN).pop().expect("a frame");
            rig.engine.pool().give(sent);
        }
    }
    assert_eq!(rig.engine.replayed(), 200);
}
