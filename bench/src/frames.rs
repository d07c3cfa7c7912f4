//! Frames to forward: UDP over IPv4 or IPv6, of 64 bytes on the wire (60 without the checksum of the link; IPv6: 66 and 62) or
//! longer.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use sumun_config::facts::Family;
use sumun_dataplane::umem::Frame;

/// What UDP carries.
const FILL: u8 = 0x5a;
/// Where the IP header starts.
const IP: usize = 14;

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

    /// Writes the frame with `len` bytes, which are no less than the template's. False where they do not fit.
    #[must_use]
    pub fn write(&self, frame: &mut Frame, len: usize) -> bool {
        let least = usize::from(self.len);
        let fits = frame.set(self.bytes()) && frame.resize(len);
        if fits && len > least {
            stretch(frame.bytes_mut(), least);
        }
        fits
    }

    /// Addresses and ports as they stand in the packet, which is what a device's hash is of (RSS).
    pub fn ends(&self) -> &[u8] {
        match self.family() {
            Family::V4 => &self.bytes[IP + 12..IP + 24],
            Family::V6 => &self.bytes[IP + 8..IP + 44],
        }
    }

    fn family(&self) -> Family {
        if self.bytes[IP] >> 4 == 4 { Family::V4 } else { Family::V6 }
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

/// Makes a packet longer than its first `from` bytes, an even number: fills it, and corrects lengths and checksums (RFC 1624).
fn stretch(frame: &mut [u8], from: usize) {
    let more = (frame.len() - from) as u32;
    frame[from..].fill(FILL);
    let (is_v4, word) = (frame[IP] >> 4 == 4, u32::from(u16::from_be_bytes([FILL; 2])));
    let udp = IP + if is_v4 { 20 } else { 40 };
    add(frame, if is_v4 { IP + 2 } else { IP + 4 }, more);
    add(frame, udp + 4, more);
    if is_v4 {
        correct(frame, IP + 10, more);
    }
    // The length counts twice: once in the pseudo header.
    correct(frame, udp + 6, 2 * more + more / 2 * word + more % 2 * (word & 0xff00));
    if frame[udp + 6..udp + 8] == [0; 2] {
        frame[udp + 6..udp + 8].fill(0xff);
    }
}

/// Adds to a number of 16 bits.
fn add(frame: &mut [u8], at: usize, more: u32) {
    let number = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add(more as u16);
    frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// Corrects a checksum for a sum that has grown.
fn correct(frame: &mut [u8], at: usize, more: u32) {
    let mut sum = u32::from(!u16::from_be_bytes([frame[at], frame[at + 1]])) + more;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[at..at + 2].copy_from_slice(&(!sum as u16).to_be_bytes());
}

/// The server that flows lead to.
pub fn server(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
        Family::V6 => Ipv6Addr::from(0x2001_0db8_0002 << 80 | 1).into(),
    }
}

/// One packet of flow `n` from the LAN (10.0.0.0/9, fd00::/17) to a destination; each flow has its own source address and port.
pub fn outbound(n: u32, dst: IpAddr) -> Template {
    let sport = 1024 + (n % FLOWS_A_SERVICE) as u16;
    let dport = 5000 + (n / FLOWS_A_SERVICE % 5000) as u16;
    let host = n / 7 + 2;
    let src = match dst {
        IpAddr::V4(_) => Ipv4Addr::from(0x0a00_0000 | host).into(),
        IpAddr::V6(_) => Ipv6Addr::from(0xfd00 << 112 | u128::from(host)).into(),
    };
    udp(src, dst, sport, dport)
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
    let payload = vec![FILL; 60usize.saturating_sub(headers)];
    let mut frame = Vec::new();
    network.udp(sport, dport).write(&mut frame, &payload).expect("a vector takes all");
    Template::of(&frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::frame::tests::check;
    use sumun_dataplane::umem::Pool;

    #[test]
    fn frames_of_any_length_have_right_lengths_and_checksums() {
        let mut pool = Pool::fresh(1, 2048);
        let mut frame = pool.take().expect("a frame");
        for family in Family::ALL {
            for n in (0..2_000_000).step_by(100_003) {
                let template = outbound(n, server(family));
                let answer = answer(template.bytes()).expect("a packet to answer");
                for template in [template, answer] {
                    let least = template.bytes().len();
                    for len in [least, least + 1, 590, 591, 1514] {
                        assert!(template.write(&mut frame, len));
                        assert_eq!(frame.len(), len);
                        let packet = check(frame.bytes());
                        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
                        assert_eq!(udp.payload().len(), len - if family == Family::V4 { 42 } else { 62 });
                        assert!(udp.payload().iter().all(|byte| *byte == FILL));
                    }
                }
            }
        }
    }
}
