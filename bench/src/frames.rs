//! Frames to forward: 64 bytes on the wire (60 without the checksum of the link), UDP over IPv4 or IPv6.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use sumun_config::facts::Family;

/// One packet of a flow: no more than 64 bytes of memory, for there are millions of them.
#[derive(Clone, Copy)]
pub struct Template {
    len: u8,
    bytes: [u8; 63],
}

impl Template {
    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn of(frame: &[u8]) -> Template {
        let mut bytes = [0; 63];
        bytes[..frame.len()].copy_from_slice(frame);
        Template { len: frame.len() as u8, bytes }
    }
}

/// The MAC that the router's ports have.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC of every neighbour.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Flows to one port of the server. Behind a masquerade they share its 64,512 ports.
const FLOWS_A_SERVICE: u32 = 50_000;

/// One packet of flow `n` from the LAN (10.0.0.0/9, fd00::/17) to the server; each flow has its own source address and port.
pub fn outbound(family: Family, n: u32) -> Template {
    let sport = 1024 + (n % FLOWS_A_SERVICE) as u16;
    let dport = 5000 + (n / FLOWS_A_SERVICE % 5000) as u16;
    let host = n / 7 + 2;
    match family {
        Family::V4 => {
            udp(Ipv4Addr::from(0x0a00_0000 | host).into(), Ipv4Addr::new(203, 0, 113, 1).into(), sport, dport)
        }
        Family::V6 => {
            let client = Ipv6Addr::from(0xfd00 << 112 | u128::from(host));
            udp(client.into(), Ipv6Addr::from(0x2001_0db8_0002 << 80 | 1).into(), sport, dport)
        }
    }
}

/// The answer to a packet as it left the router: both ends exchanged, TTL fresh.
pub fn answer(sent: &[u8]) -> Option<Template> {
    let packet = SlicedPacket::from_ethernet(sent).ok()?;
    let (src, dst) = match packet.net? {
        etherparse::NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        etherparse::NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return None,
    };
    match packet.transport? {
        TransportSlice::Udp(header) => Some(udp(dst, src, header.destination_port(), header.source_port())),
        _ => None,
    }
}

fn udp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Template {
    let link = PacketBuilder::ethernet2(HOST_MAC, ROUTER_MAC);
    let network = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("both ends are of one family"),
    };
    let headers = if src.is_ipv4() { 42 } else { 62 };
    let payload = vec![0x5a; 60usize.saturating_sub(headers)];
    let mut frame = Vec::new();
    network.udp(sport, dport).write(&mut frame, &payload).expect("a vector takes all");
    Template::of(&frame)
}
