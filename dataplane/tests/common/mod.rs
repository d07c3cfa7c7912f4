//! A router in memory: frames in, frames out, time as the test says.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod hostile;

use etherparse::{PacketBuilder, PacketBuilderStep};
use std::sync::Arc;
use sumun_config::diag::{Source, render};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::{Appliance, Checksums, Config, Policy};
use sumun_config::rule::Table;
use sumun_dataplane::engine::stats::Traffic;
use sumun_dataplane::engine::{Engine, Router, Trace};
use sumun_dataplane::port::{Link, links};
use sumun_dataplane::reason::DropReason;
use sumun_dataplane::umem::Pool;

/// MAC of both ports.
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC of every host.
pub const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The port with 192.168.1.1/24 and fd00:1::1/64.
pub const LAN: PortId = PortId(0);
/// The port with 203.0.113.2/24 and 2001:db8:2::2/64.
pub const WAN: PortId = PortId(1);

/// Frames that the router has.
pub const FRAMES: u32 = 256;

/// Interfaces, and neighbours .9 on both links, with IPv6 ::9.
const BASE: &str = r#"
[dataplane]
cores = [0]
max-flows = 1024
max-neighbours = 64

[interfaces.lan0]
addresses = ["192.168.1.1/24", "fd00:1::1/64"]

[interfaces.wan0]
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]

[[neighbours]]
interface = "lan0"
address = "192.168.1.9"
mac = "02:00:00:00:00:02"

[[neighbours]]
interface = "lan0"
address = "fd00:1::9"
mac = "02:00:00:00:00:02"

[[neighbours]]
interface = "wan0"
address = "203.0.113.9"
mac = "02:00:00:00:00:02"

[[neighbours]]
interface = "wan0"
address = "2001:db8:2::9"
mac = "02:00:00:00:00:02"

[sysctl]
icmp_ratelimit = 0
icmpv6_ratelimit = 0
"#;

/// Parses rules behind the base configuration.
pub fn config(rules: &str) -> Config {
    read(format!("{BASE}{rules}"))
}

/// Parses a whole configuration.
fn read(text: String) -> Config {
    let source = Source::new("test.toml", text);
    match sumun_config::schema::load(&source) {
        Ok((config, _)) => config,
        Err(mistakes) => panic!("{}", render(&source, &mistakes, false)),
    }
}

/// A router with one worker.
pub struct Rig {
    /// What the processes share.
    pub router: Arc<Router>,
    /// The worker's engine.
    pub engine: Engine,
    /// Nanoseconds.
    pub now: u64,
}

/// A frame that came out of a port.
pub type Sent = (PortId, Vec<u8>);

impl Rig {
    /// A router with these rules in force.
    pub fn new(rules: &str) -> Rig {
        Rig::of(config(rules).policy)
    }

    /// A router with this policy in force.
    pub fn of(policy: Policy) -> Rig {
        Rig::linked(policy, 1500)
    }

    /// A router with these rules in force and room for so many flows.
    pub fn with_flows(rules: &str, flows: u32) -> Rig {
        let mut config = config(rules);
        config.appliance.max_flows = flows;
        Rig::on(&config.appliance, config.policy, 1500)
    }

    /// A router with these rules and another MTU of the WAN.
    pub fn with_mtu(rules: &str, mtu: u16) -> Rig {
        Rig::linked(config(rules).policy, mtu)
    }

    fn linked(policy: Policy, mtu: u16) -> Rig {
        Rig::on(&config("").appliance, policy, mtu)
    }

    /// A router on the same two ports with these settings of the appliance.
    pub fn on(appliance: &Appliance, policy: Policy, mtu: u16) -> Rig {
        let links = [("lan0", 1500), ("wan0", mtu)];
        let links = links
            .map(|(name, mtu)| Link {
                name: name.into(),
                mac: ROUTER,
                mtu,
                checksums: Checksums::AsTheyAre,
                trunk: None,
            })
            .to_vec();
        Rig::made(appliance, links, policy)
    }

    /// A router with this whole configuration. Its devices have the MAC [`ROUTER`] and an MTU of 1500.
    pub fn of_file(text: &str) -> Rig {
        let Config { appliance, policy } = read(text.to_string());
        let own = appliance.interfaces.iter().map(|interface| {
            let link = |_| Link {
                name: interface.name.clone(),
                mac: ROUTER,
                mtu: 1500,
                checksums: Checksums::AsTheyAre,
                trunk: None,
            };
            interface.device().map(link)
        });
        let links = links(&appliance.interfaces, own.collect()).expect("VLANs on devices");
        Rig::made(&appliance, links, policy)
    }

    fn made(appliance: &Appliance, links: Vec<Link>, policy: Policy) -> Rig {
        let router = Router::new(appliance, links, 7);
        let engine = router.engine(0, Pool::fresh(FRAMES, 2048));
        router.publish(policy).expect("a valid policy");
        let mut rig = Rig { router, engine, now: 1_000_000_000 };
        rig.turn();
        rig
    }

    /// Puts other rules in force.
    pub fn swap(&mut self, rules: &str) {
        self.router.publish(config(rules).policy).expect("a valid policy");
        self.turn();
    }

    /// Lets time pass.
    pub fn wait(&mut self, nanoseconds: u64) -> Vec<Sent> {
        self.now += nanoseconds;
        self.turn();
        self.sent()
    }

    fn turn(&mut self) {
        self.engine.tick(self.now);
    }

    /// A burst of frames in on one port; what comes out, by port.
    pub fn burst(&mut self, port: PortId, frames: &[Vec<u8>]) -> Vec<Sent> {
        let mut rx = Vec::new();
        for bytes in frames {
            let mut frame = self.engine.pool().take().expect("a free frame");
            assert!(frame.set(bytes), "{} bytes fit a frame", bytes.len());
            rx.push(frame);
        }
        self.engine.process(self.now, port, &mut rx);
        assert!(rx.is_empty(), "every frame was taken");
        self.turn();
        self.sent()
    }

    /// One frame in.
    pub fn send(&mut self, port: PortId, frame: &[u8]) -> Vec<Sent> {
        self.burst(port, &[frame.to_vec()])
    }

    /// One frame in, with what was asked of it.
    pub fn traced(&mut self, port: PortId, frame: &[u8]) -> (Trace, Vec<Sent>) {
        self.engine.trace();
        let sent = self.send(port, frame);
        (self.engine.trace(), sent)
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut out = Vec::new();
        for port in (0..self.router.links.len()).map(|number| PortId(number as u16)) {
            let frames: Vec<_> = self.engine.take_tx(port).drain(..).collect();
            for frame in frames {
                out.push((port, frame.bytes().to_vec()));
                self.engine.pool().give(frame);
            }
        }
        out
    }

    /// Reasons with a count, by name.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.router.drops().into_iter().filter(|(_, n)| *n > 0).map(|(r, n): (DropReason, u64)| (r.name(), n)).collect()
    }

    /// Packets of the rules of a family's chain, named as `filter.FORWARD`, the policy last.
    pub fn packets(&self, family: Family, chain: &str) -> Vec<u64> {
        let (table, name) = chain.split_once('.').expect("table.CHAIN");
        let table = Table::ALL.into_iter().find(|t| t.name() == table).expect("a table") as usize;
        let policy = self.router.current();
        let chains = &policy.policy.ruleset.of(family).tables[table].chains;
        let at = chains.iter().position(|c| c.name == name).expect("a chain");
        self.counters(family, table, at).iter().map(|(packets, _)| *packets).collect()
    }

    /// Packets and bytes of the rules of a chain, the policy last.
    pub fn counters(&self, family: Family, table: usize, chain: usize) -> Vec<(u64, u64)> {
        let counters = self.router.counters();
        let chain = &counters.families[family.index()][table][chain];
        chain.rules.iter().chain([&chain.policy]).map(|c| (c.packets, c.bytes)).collect()
    }

    /// Every frame is free, or held for a reason that the engine names; and every packet had exactly one fate.
    pub fn assert_census(&mut self) {
        let stats = &self.router.stats[0];
        // Frames of a VLAN count on its device, too.
        let frames = |ports: &[Traffic]| {
            let devices = self.router.links.iter().zip(ports).filter(|(link, _)| link.trunk.is_none());
            devices.map(|(_, traffic)| traffic.packets.get()).sum::<u64>()
        };
        let drops: u64 = stats.drops.iter().map(|n| n.get()).sum();
        let came = frames(&stats.rx) + stats.originated.get() + stats.pieces.get();
        let went = frames(&stats.tx) + stats.delivered.get() + stats.consumed.get() + drops;
        assert_eq!(came, went + self.engine.held() as u64, "packets that came and that went: {:?}", self.drops());
        let held = self.engine.held();
        let pool = self.engine.pool();
        assert_eq!(pool.free() + held, pool.made(), "frames free and held, of all");
    }
}

/// Starts a frame from a host to the router.
pub fn link() -> PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(HOST, ROUTER)
}

/// Addresses of both families: `(client on the LAN, server on the WAN)`.
pub fn ends(family: Family) -> (u128, u128) {
    match family {
        Family::V4 => (0xc0a8_0109, 0xcb00_7109),
        Family::V6 => (0xfd00_0001 << 96 | 9, 0x2001_0db8_0002 << 80 | 9),
    }
}

/// A network header.
pub fn ip(family: Family, src: u128, dst: u128, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    match family {
        Family::V4 => link().ipv4((src as u32).to_be_bytes(), (dst as u32).to_be_bytes(), ttl),
        Family::V6 => link().ipv6(src.to_be_bytes(), dst.to_be_bytes(), ttl),
    }
}

/// A UDP frame.
pub fn udp(family: Family, src: u128, dst: u128, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(family, src, dst, 64).udp(ports.0, ports.1).write(&mut frame, payload).expect("a frame");
    frame
}

/// A TCP frame with one flag or two: `S`, `A`, `F`, `R`, `P`. Both ends begin at 1000 and have said nothing before.
pub fn tcp(family: Family, src: u128, dst: u128, ports: (u16, u16), flags: &str, payload: &[u8]) -> Vec<u8> {
    let sequence = if flags.contains('S') { 1000 } else { 1001 };
    let mut step = ip(family, src, dst, 64).tcp(ports.0, ports.1, sequence, 65_000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(1001),
            'F' => step.fin(),
            'R' => step.rst(),
            'P' => step.psh(),
            other => panic!("no TCP flag {other}"),
        };
    }
    let mut frame = Vec::new();
    step.write(&mut frame, payload).expect("a frame");
    frame
}

/// An echo request.
pub fn ping(family: Family, src: u128, dst: u128, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(family, src, dst, 64);
    match family {
        Family::V4 => step.icmpv4_echo_request(id, 1).write(&mut frame, payload),
        Family::V6 => step.icmpv6_echo_request(id, 1).write(&mut frame, payload),
    }
    .expect("a frame");
    frame
}

/// A frame of more than 1,024 bytes of data as two fragments.
pub fn halves(frame: &[u8]) -> [Vec<u8>; 2] {
    const CUT: usize = 1024;
    let header = if frame[12] == 8 { 34 } else { 54 };
    let (head, data) = frame.split_at(header);
    [(0, CUT, true), (CUT, data.len(), false)].map(|(start, end, more)| {
        let mut piece = head.to_vec();
        let len = end - start;
        if header == 34 {
            let word = (start / 8) as u16 | if more { 0x2000 } else { 0 };
            piece[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&word.to_be_bytes());
            piece[24..26].fill(0);
            let sum = piece[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
            let sum = (sum & 0xffff) + (sum >> 16);
            piece[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        } else {
            piece[18..20].copy_from_slice(&(8 + len as u16).to_be_bytes());
            let next = std::mem::replace(&mut piece[20], 44);
            piece.extend([next, 0]);
            piece.extend((start as u16 | u16::from(more)).to_be_bytes());
            piece.extend([0, 0, 0, 1]);
        }
        piece.extend(&data[start..end]);
        piece
    })
}

/// An ARP request of a host for an address of the router.
pub fn arp_request(sender: u32, target: u32) -> Vec<u8> {
    let mut frame = [0xff; 6].to_vec();
    frame.extend(HOST);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(HOST);
    frame.extend(sender.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(target.to_be_bytes());
    frame
}

/// What a frame is, for people: `udp 1.2.3.4:5 > 6.7.8.9:10 ttl 63`; checksums are verified.
pub fn describe(frame: &[u8]) -> String {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(net) = packet.net else { return "not IP".into() };
    let (src, dst, ttl): (std::net::IpAddr, std::net::IpAddr, u8) = match &net {
        NetSlice::Ipv4(ip) => {
            let h = ip.header();
            assert_eq!(h.to_header().calc_header_checksum(), h.header_checksum(), "IPv4 header checksum");
            (h.source_addr().into(), h.destination_addr().into(), h.ttl())
        }
        NetSlice::Ipv6(ip) => {
            let h = ip.header();
            (h.source_addr().into(), h.destination_addr().into(), h.hop_limit())
        }
        _ => return "ARP".into(),
    };
    let facts = sumun_dataplane::packet::parse::ip(if src.is_ipv4() { Family::V4 } else { Family::V6 }, &frame[14..])
        .expect("facts");
    assert!(sumun_dataplane::packet::parse::l4_checksum_ok(&facts, &frame[14..]), "L4 checksum");
    match packet.transport {
        Some(TransportSlice::Udp(h)) => {
            format!("udp {src}:{} > {dst}:{} ttl {ttl}", h.source_port(), h.destination_port())
        }
        Some(TransportSlice::Tcp(h)) => {
            let flags = [(h.syn(), 'S'), (h.ack(), 'A'), (h.fin(), 'F'), (h.rst(), 'R'), (h.psh(), 'P')];
            let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, c)| *c).collect();
            format!("tcp {src}:{} > {dst}:{} {flags} ttl {ttl}", h.source_port(), h.destination_port())
        }
        Some(TransportSlice::Icmpv4(h)) => format!("icmp {src} > {dst} {}/{} ttl {ttl}", h.type_u8(), h.code_u8()),
        Some(TransportSlice::Icmpv6(h)) => format!("icmp6 {src} > {dst} {}/{} ttl {ttl}", h.type_u8(), h.code_u8()),
        _ => format!("ip {src} > {dst} ttl {ttl}"),
    }
}

/// What came out, for people.
pub fn described(sent: &[Sent]) -> Vec<String> {
    sent.iter()
        .map(|(port, frame)| format!("{} {}", if *port == LAN { "lan0" } else { "wan0" }, describe(frame)))
        .collect()
}

/// What came out, and what the ICMP errors among it quote.
pub fn told(sent: &[Sent]) -> Vec<String> {
    let quote = |frame: &Vec<u8>| {
        let header = if frame[12..14] == [8, 0] { 14 + usize::from(frame[14] & 15) * 4 } else { 54 };
        [&frame[..14], &frame[header + 8..]].concat()
    };
    let lines = described(sent);
    sent.iter().zip(lines).map(|((_, frame), line)| format!("{line} about {}", describe(&quote(frame)))).collect()
}

/// An ICMP error from a host that quotes a frame of the router.
pub fn error(family: Family, src: u128, dst: u128, (kind, code): (u8, u8), quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(family, src, dst, 64);
    match family {
        Family::V4 => step.icmpv4_raw(kind, code, [0; 4]).write(&mut frame, &quoted[14..]),
        Family::V6 => step.icmpv6_raw(kind, code, [0; 4]).write(&mut frame, &quoted[14..]),
    }
    .expect("a frame");
    frame
}

/// A UDP frame with a TTL of its own.
pub fn udp_ttl(family: Family, src: u128, dst: u128, ports: (u16, u16), ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(family, src, dst, ttl).udp(ports.0, ports.1).write(&mut frame, b"data").expect("a frame");
    frame
}

/// The router's own addresses: `(on the LAN, on the WAN)`.
pub fn own(family: Family) -> (u128, u128) {
    match family {
        Family::V4 => (0xc0a8_0101, 0xcb00_7102),
        Family::V6 => (0xfd00_0001 << 96 | 1, 0x2001_0db8_0002 << 80 | 2),
    }
}

/// Replaces `CLIENT`, `SERVER`, `LAN` and `WAN` by the addresses of a family, and the ICMP errors by their numbers.
pub fn said(family: Family, text: &str) -> String {
    let (client, server) = ends(family);
    let (lan, wan) = own(family);
    let show = |addr| family.address(addr).to_string();
    let (icmp, unreachable, exceeded) = match family {
        Family::V4 => ("icmp ", "3/3", "11/0"),
        Family::V6 => ("icmp6 ", "1/4", "3/0"),
    };
    [("CLIENT", show(client)), ("SERVER", show(server)), ("LAN", show(lan)), ("WAN", show(wan))]
        .iter()
        .fold(text.to_string(), |text, (name, addr)| text.replace(name, addr))
        .replace("ICMP ", icmp)
        .replace("PORT-UNREACHABLE", unreachable)
        .replace("TIME-EXCEEDED", exceeded)
}
