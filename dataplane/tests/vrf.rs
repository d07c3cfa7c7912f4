//! VRFs in the engine: two customers with the same addresses, behind one router.

mod common;

use common::{FRAMES, HOST, ROUTER, Sent, arp_request, describe, ping, udp};
use std::sync::Arc;
use sumun_config::diag::{Source, render};
use sumun_config::facts::{Family, PortId, number};
use sumun_dataplane::engine::{Engine, Router};
use sumun_dataplane::port::Link;
use sumun_dataplane::umem::Pool;

const RED: [PortId; 2] = [PortId(0), PortId(1)];
const BLUE: [PortId; 2] = [PortId(2), PortId(3)];

/// A LAN and a WAN for each of two customers: all addresses are there twice, and a third of the default gateway's only once.
const CUSTOMERS: &str = r#"
[dataplane]
cores = [0]
max-flows = 1024
[vrfs.red]
table = 100
[vrfs.blue]
table = 200
[interfaces.red0]
vrf = "red"
addresses = ["192.168.1.1/24", "fd00:1::1/64"]
rp-filter = "strict"
[interfaces.red1]
vrf = "red"
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]
[interfaces.blue0]
vrf = "blue"
addresses = ["192.168.1.1/24", "fd00:1::1/64"]
rp-filter = "strict"
[interfaces.blue1]
vrf = "blue"
addresses = ["203.0.113.3/24", "2001:db8:2::3/64"]
[[routes]]
to = "default"
via = "203.0.113.9"
table = 100
[filter.FORWARD]
policy = "ACCEPT"
[filter.INPUT]
policy = "ACCEPT"
[sysctl]
icmp_ratelimit = 0
icmpv6_ratelimit = 0
"#;

struct Rig {
    router: Arc<Router>,
    engine: Engine,
    now: u64,
}

impl Rig {
    fn new(rules: &str) -> Rig {
        let source = Source::new("test.toml", format!("{CUSTOMERS}{rules}"));
        let (config, _) =
            sumun_config::schema::load(&source).unwrap_or_else(|found| panic!("{}", render(&source, &found, false)));
        let link = |name: &str| Link {
            name: name.into(),
            mac: ROUTER,
            mtu: 1500,
            checksums: sumun_config::model::Checksums::AsTheyAre,
            trunk: None,
        };
        let links = ["red0", "red1", "blue0", "blue1"].map(link).to_vec();
        let router = Router::new(&config.appliance, links, 7);
        let mut engine = router.engine(0, Pool::fresh(FRAMES, 2048));
        engine.assume_neighbours();
        router.publish(config.policy).expect("a valid policy");
        engine.tick(1_000_000_000);
        Rig { router, engine, now: 1_000_000_000 }
    }

    fn send(&mut self, port: PortId, frame: &[u8]) -> Vec<Sent> {
        let mut frame_in = self.engine.pool().take().expect("a free frame");
        assert!(frame_in.set(frame));
        self.engine.process(self.now, port, &mut vec![frame_in]);
        self.engine.tick(self.now);
        let mut out = Vec::new();
        for port in RED.into_iter().chain(BLUE) {
            for frame in self.engine.take_tx(port).drain(..).collect::<Vec<_>>() {
                out.push((port, frame.bytes().to_vec()));
                self.engine.pool().give(frame);
            }
        }
        out
    }

    /// The port that a frame leaves by, and what it is.
    fn one(&mut self, port: PortId, frame: &[u8]) -> (PortId, String) {
        match &self.send(port, frame)[..] {
            [(port, frame)] => (*port, describe(frame)),
            other => panic!("{} frames", other.len()),
        }
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.router.drops().into_iter().find(|(r, _)| r.name() == reason).map_or(0, |(_, count)| count)
    }
}

fn addr(text: &str) -> u128 {
    number(text.parse().unwrap()).1
}

fn packet(from: &str, to: &str, sport: u16) -> Vec<u8> {
    let family = if from.contains(':') { Family::V6 } else { Family::V4 };
    udp(family, addr(from), addr(to), (sport, 53), b"?")
}

#[test]
fn packets_stay_in_the_vrf_that_they_came_in_on() {
    let mut rig = Rig::new("");
    for (lan, wan) in [("192.168.1.9", "203.0.113.77"), ("fd00:1::9", "2001:db8:2::77")] {
        for ([inside, outside], sport) in [(RED, 1001), (BLUE, 1002)] {
            let (port, what) = rig.one(inside, &packet(lan, wan, sport));
            assert_eq!(port, outside, "{what}");
            assert!(what.contains(lan) && what.contains(wan), "{what}");
        }
    }
    // Only red has a default route.
    assert_eq!(rig.one(RED[0], &packet("192.168.1.9", "8.8.8.8", 7)).0, RED[1]);
    let (port, what) = rig.one(BLUE[0], &packet("192.168.1.9", "8.8.8.8", 8));
    assert_eq!(port, BLUE[0]);
    assert!(what.contains("192.168.1.1 > 192.168.1.9"), "the error comes from the VRF's own address: {what}");
    // 203.0.113.3 is blue's, and somebody else in red.
    assert_eq!(rig.one(RED[0], &packet("192.168.1.9", "203.0.113.3", 9)).0, RED[1]);
    // The way back is sought in the VRF: red's default route leads elsewhere, blue has none.
    assert!(rig.send(BLUE[0], &packet("8.8.8.8", "203.0.113.77", 10)).is_empty());
    assert!(rig.send(RED[0], &packet("8.8.8.8", "203.0.113.77", 11)).is_empty());
    assert_eq!(rig.dropped("reverse-path"), 2);
}

#[test]
fn own_addresses_are_answered_for_in_their_vrf_only() {
    let mut rig = Rig::new("");
    for [inside, _] in [RED, BLUE] {
        for (family, client, own) in
            [(Family::V4, "192.168.1.9", "192.168.1.1"), (Family::V6, "fd00:1::9", "fd00:1::1")]
        {
            let (port, what) = rig.one(inside, &ping(family, addr(client), addr(own), 7, b"x"));
            assert_eq!(port, inside, "{what}");
            assert!(what.contains(&format!("{own} > {client}")), "{what}");
        }
    }
    let asked = |rig: &mut Rig, port, target: &str| {
        let sent = rig.send(port, &arp_request(addr("203.0.113.77") as u32, addr(target) as u32));
        sent.iter().map(|(port, frame)| (*port, frame[..6] == HOST)).collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut rig, BLUE[1], "203.0.113.3"), [(BLUE[1], true)]);
    assert_eq!(asked(&mut rig, RED[1], "203.0.113.3"), []);
}

#[test]
fn masquerade_takes_an_address_of_the_vrf_and_zones_keep_flows_apart() {
    let mut rig = Rig::new(
        r#"
[nat.POSTROUTING]
rules = ["-o red1 -j MASQUERADE", "-o blue1 -j MASQUERADE"]
[raw.PREROUTING]
rules = [
  "-i red0 -j CT --zone 1", "-i red1 -j CT --zone 1",
  "-i blue0 -j CT --zone 2", "-i blue1 -j CT --zone 2",
]
"#,
    );
    for ([inside, outside], own) in [(RED, "203.0.113.2"), (BLUE, "203.0.113.3")] {
        // The very same packet from both.
        let (port, what) = rig.one(inside, &packet("192.168.1.9", "203.0.113.77", 4000));
        assert_eq!(port, outside);
        assert!(what.contains(&format!("{own}:4000 > 203.0.113.77:53")), "{what}");
        let answer = udp(Family::V4, addr("203.0.113.77"), addr(own), (53, 4000), b"!");
        let (port, what) = rig.one(outside, &answer);
        assert_eq!(port, inside);
        assert!(what.contains("203.0.113.77:53 > 192.168.1.9:4000"), "{what}");
    }
    assert_eq!(rig.router.conntrack.count(), 2);
}
