//! From bytes to [`Facts`]: once for each packet, the first stage of its way.
//!
//! Answers what the packet says of itself, and nothing about the router: routes, flows and marks come later. The checks
//! are those that `ip_rcv` and `ip6_rcv` make before the first hook. What passed is safe to read by its facts: the IP
//! packet is `l3 .. l3 + len` of the frame (behind it there may be padding), `l4_off` is inside it, and where `has_l4` is
//! set the fixed L4 header is too.

use super::checksum::Sum;
use super::view::{DONT_FRAGMENT, Ethernet, Icmp, Ipv4, Ipv6, MORE_FRAGMENTS, Ports, Tcp, Udp, ethertype, icmp_has_id};
use super::{crc32c, extension};
use crate::reason::DropReason;
use sumun_config::facts::{CtState, Dir, Facts, Family, PacketType, PortId, proto};

pub use super::options::{check as check_options, end_for_good as end_options, has_source_route};

/// What a frame is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives on the stack of one burst; boxing would allocate per packet")]
pub enum Parsed {
    /// An IP packet.
    Ip {
        /// What it says; `iif` is filled in.
        facts: Facts,
        /// Offset of its IP header in the frame.
        l3: u16,
    },
    /// An ARP message, not looked at yet.
    Arp {
        /// Offset of the message in the frame.
        l3: u16,
    },
    /// Neither; it ends here.
    Drop(DropReason),
}

/// A frame that is no IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotIp {
    /// An ARP message, not looked at yet.
    Arp {
        /// Offset of the message in the frame.
        l3: u16,
    },
    /// A frame with a tag: what it is shows when its tags are off ([`super::vlan`]).
    Tagged,
    /// It ends here.
    Drop(DropReason),
}

/// What a link header says.
#[derive(Clone, Copy)]
struct Link {
    smac: [u8; 6],
    dmac: [u8; 6],
    pkt_type: PacketType,
    iif: PortId,
    is_there: bool,
}

/// What an IP header says, extension headers included.
#[derive(Clone, Copy)]
struct Network {
    src: u128,
    dst: u128,
    proto: u8,
    tos: u8,
    ttl: u8,
    len: u16,
    l4_off: u16,
    frag_off: u16,
    more_frags: bool,
    dont_frag: bool,
    ip_id: u16,
    flow_label: u32,
    has_options: bool,
}

/// What an upper-layer header says.
#[derive(Clone, Copy)]
struct Upper {
    sport: u16,
    dport: u16,
    tcp_flags: u8,
    is_there: bool,
}

impl Link {
    /// No link header.
    const NONE: Link =
        Link { smac: [0; 6], dmac: [0; 6], pkt_type: PacketType::Host, iif: PortId::NONE, is_there: false };
}

impl Upper {
    /// No whole header.
    const NONE: Upper = Upper { sport: 0, dport: 0, tcp_flags: 0, is_there: false };

    #[inline(always)]
    const fn ports(sport: u16, dport: u16) -> Upper {
        Upper { sport, dport, tcp_flags: 0, is_there: true }
    }
}

/// All facts in one piece: the parts stay in registers until here, so that facts are written once and never copied.
#[inline(always)]
fn facts_of(family: Family, link: Link, network: Network, upper: Upper) -> Facts {
    Facts {
        src: network.src,
        dst: network.dst,
        family,
        proto: network.proto,
        sport: upper.sport,
        dport: upper.dport,
        has_l4: upper.is_there,
        tcp_flags: upper.tcp_flags,
        tos: network.tos,
        ttl: network.ttl,
        len: network.len,
        l4_off: network.l4_off,
        frag_off: network.frag_off,
        more_frags: network.more_frags,
        dont_frag: network.dont_frag,
        ip_id: network.ip_id,
        flow_label: network.flow_label,
        has_options: network.has_options,
        smac: link.smac,
        dmac: link.dmac,
        has_link: link.is_there,
        pkt_type: link.pkt_type,
        iif: link.iif,
        oif: PortId::NONE,
        mark: 0,
        ct_state: CtState::Invalid,
        ct_dir: Dir::Original,
        ct_status: 0,
        ct_mark: 0,
        ct_proto: 0,
        has_ct: false,
    }
}

/// Parses a received Ethernet frame of the port `iif`, whose own address is `mac`. It has no tags any more.
pub fn frame(bytes: &[u8], iif: PortId, mac: [u8; 6]) -> Parsed {
    let mut facts = Facts::blank(Family::V4);
    match frame_into(bytes, iif, mac, &mut facts) {
        Ok(l3) => Parsed::Ip { facts, l3 },
        Err(NotIp::Arp { l3 }) => Parsed::Arp { l3 },
        Err(NotIp::Tagged) => Parsed::Drop(DropReason::UnknownVlan),
        Err(NotIp::Drop(reason)) => Parsed::Drop(reason),
    }
}

/// As [`frame`]: writes what an IP packet says where it is wanted, and gives the offset of its IP header. `facts` are
/// unchanged where it is none.
#[inline(always)]
pub fn frame_into(bytes: &[u8], iif: PortId, mac: [u8; 6], facts: &mut Facts) -> Result<u16, NotIp> {
    let Some(ethernet) = Ethernet::new(bytes) else { return Err(NotIp::Drop(DropReason::ShortFrame)) };
    let dmac = ethernet.destination();
    let pkt_type = packet_type(dmac, mac);
    if pkt_type == PacketType::OtherHost {
        return Err(NotIp::Drop(DropReason::OtherHost));
    }
    let link = Link { smac: ethernet.source(), dmac, pkt_type, iif, is_there: true };
    let (packet, l3) = (&bytes[Ethernet::LEN..], Ethernet::LEN as u16);
    match ethernet.ethertype() {
        ethertype::IPV4 => match ipv4(packet) {
            Ok((network, upper)) => *facts = facts_of(Family::V4, link, network, upper),
            Err(reason) => return Err(NotIp::Drop(reason)),
        },
        ethertype::IPV6 => match ipv6(packet) {
            Ok((network, upper)) => *facts = facts_of(Family::V6, link, network, upper),
            Err(reason) => return Err(NotIp::Drop(reason)),
        },
        ethertype::ARP => return Err(NotIp::Arp { l3 }),
        ethertype::VLAN | ethertype::QINQ => return Err(NotIp::Tagged),
        _ => return Err(NotIp::Drop(DropReason::EtherType)),
    }
    Ok(l3)
}

/// As [`frame_into`] of a frame that was found [ordinary](super::glance), in which nothing is left to check.
#[inline(always)]
pub fn ordinary_into(family: Family, bytes: &[u8], iif: PortId, facts: &mut Facts) -> Result<u16, NotIp> {
    let short = Err(NotIp::Drop(DropReason::ShortFrame));
    let Some(ethernet) = Ethernet::new(bytes) else { return short };
    let packet = &bytes[Ethernet::LEN..];
    match family {
        Family::V4 => {
            let Some(ports) = packet.get(Ipv4::LEN..).and_then(Ports::new) else { return short };
            let Some(header) = Ipv4::new(packet) else { return short };
            ordinary(family, Ipv4::LEN, iif, facts);
            (facts.src, facts.dst) = (header.source().into(), header.destination().into());
            (facts.sport, facts.dport) = (ports.source(), ports.destination());
            (facts.proto, facts.tos, facts.ttl) = (header.protocol(), header.tos(), header.ttl());
            (facts.len, facts.ip_id, facts.flow_label) = (header.total_len(), header.id(), 0);
            facts.dont_frag = header.fragment() & DONT_FRAGMENT != 0;
        }
        Family::V6 => {
            let Some(ports) = packet.get(Ipv6::LEN..).and_then(Ports::new) else { return short };
            let Some(header) = Ipv6::new(packet) else { return short };
            ordinary(family, Ipv6::LEN, iif, facts);
            (facts.src, facts.dst) = (header.source(), header.destination());
            (facts.sport, facts.dport) = (ports.source(), ports.destination());
            (facts.proto, facts.tos, facts.ttl) = (header.next_header(), header.traffic_class(), header.hop_limit());
            (facts.len, facts.ip_id, facts.flow_label) = (header.total_len(), 0, header.flow_label());
            facts.dont_frag = false;
        }
    }
    (facts.dmac, facts.smac) = (ethernet.destination(), ethernet.source());
    facts.tcp_flags = match facts.proto {
        proto::TCP => packet.get(usize::from(facts.l4_off) + 13).copied().unwrap_or(0),
        _ => 0,
    };
    Ok(Ethernet::LEN as u16)
}

/// Facts that all ordinary packets with so many bytes of IP header have in common. Each is written where it belongs at once: in one
/// piece they would be more than there are registers.
#[inline(always)]
fn ordinary(of: Family, header: usize, port: PortId, facts: &mut Facts) {
    let Facts {
        // What packets say.
        src: _,
        dst: _,
        proto: _,
        sport: _,
        dport: _,
        tcp_flags: _,
        tos: _,
        ttl: _,
        len: _,
        ip_id: _,
        flow_label: _,
        dont_frag: _,
        smac: _,
        dmac: _,
        family,
        has_l4,
        l4_off,
        frag_off,
        more_frags,
        has_options,
        has_link,
        pkt_type,
        iif,
        oif,
        mark,
        ct_state,
        ct_dir,
        ct_status,
        ct_mark,
        ct_proto,
        has_ct,
    } = facts;
    (*family, *l4_off, *iif, *oif, *pkt_type) = (of, header as u16, port, PortId::NONE, PacketType::Host);
    (*has_l4, *has_link, *frag_off, *more_frags, *has_options) = (true, true, 0, false, false);
    (*mark, *ct_state, *ct_dir, *ct_status) = (0, CtState::Invalid, Dir::Original, 0);
    (*ct_mark, *ct_proto, *has_ct) = (0, 0, false);
}

/// How a frame to `dmac` looks to the port with the address `mac`, as `eth_type_trans`.
#[inline]
pub fn packet_type(dmac: [u8; 6], mac: [u8; 6]) -> PacketType {
    if dmac == mac {
        PacketType::Host
    } else if dmac[0] & 1 == 0 {
        PacketType::OtherHost
    } else if dmac == [0xff; 6] {
        PacketType::Broadcast
    } else {
        PacketType::Multicast
    }
}

/// Parses an IP packet without a link header: the router's own output. Bytes behind the IP length are ignored.
#[inline]
pub fn ip(family: Family, l3: &[u8]) -> Result<Facts, DropReason> {
    let (network, upper) = match family {
        Family::V4 => ipv4(l3)?,
        Family::V6 => ipv6(l3)?,
    };
    Ok(facts_of(family, Link::NONE, network, upper))
}

#[inline(always)]
fn ipv4(l3: &[u8]) -> Result<(Network, Upper), DropReason> {
    let Some(header) = Ipv4::new(l3) else { return Err(DropReason::IpHeader) };
    let header_len = header.header_len();
    let total_len = usize::from(header.total_len());
    if header.version() != 4 || header_len < Ipv4::LEN || total_len < header_len || total_len > l3.len() {
        return Err(DropReason::IpHeader);
    }
    let sum = Sum::new().bytes(&l3[..Ipv4::LEN]);
    let sum = if header_len > Ipv4::LEN { sum.bytes(&l3[Ipv4::LEN..header_len]) } else { sum };
    if !sum.is_valid() {
        return Err(DropReason::IpChecksum);
    }
    let network = ipv4_network(header);
    let upper = if network.frag_off == 0 {
        upper_layer(Family::V4, network.proto, &l3[header_len..total_len])
    } else {
        Upper::NONE
    };
    Ok((network, upper))
}

#[inline(always)]
fn ipv4_network(header: Ipv4) -> Network {
    let fragment = header.fragment();
    Network {
        src: u128::from(header.source()),
        dst: u128::from(header.destination()),
        proto: header.protocol(),
        tos: header.tos(),
        ttl: header.ttl(),
        len: header.total_len(),
        l4_off: header.header_len() as u16,
        frag_off: fragment << 3,
        more_frags: fragment & MORE_FRAGMENTS != 0,
        dont_frag: fragment & DONT_FRAGMENT != 0,
        ip_id: header.id(),
        flow_label: 0,
        has_options: header.header_len() > Ipv4::LEN,
    }
}

#[inline(always)]
fn ipv6(l3: &[u8]) -> Result<(Network, Upper), DropReason> {
    let Some(header) = Ipv6::new(l3) else { return Err(DropReason::IpHeader) };
    let total_len = Ipv6::LEN + usize::from(header.payload_len());
    if header.version() != 6 || total_len > l3.len().min(usize::from(u16::MAX)) {
        return Err(DropReason::IpHeader);
    }
    let packet = &l3[..total_len];
    let next = header.next_header();
    if next == proto::HOPOPTS && !extension::hop_by_hop_ok(&packet[Ipv6::LEN..]) {
        return Err(DropReason::Ipv6Extension);
    }
    let Some(network) = ipv6_network(header, packet) else { return Err(DropReason::Ipv6Extension) };
    let upper = if network.frag_off == 0 {
        upper_layer(Family::V6, network.proto, &packet[usize::from(network.l4_off)..])
    } else {
        Upper::NONE
    };
    Ok((network, upper))
}

#[inline(always)]
fn ipv6_network(header: Ipv6, packet: &[u8]) -> Option<Network> {
    let next = header.next_header();
    let plain = ipv6_plain(header);
    if !extension::is_extension(next) {
        return Some(plain);
    }
    let upper = extension::walk(packet, next)?;
    Some(Network {
        proto: upper.proto,
        l4_off: upper.offset as u16,
        frag_off: upper.frag_off,
        more_frags: upper.more_frags,
        has_options: upper.offset > Ipv6::LEN,
        ..plain
    })
}

/// The same of a header without extensions.
#[inline(always)]
fn ipv6_plain(header: Ipv6) -> Network {
    Network {
        src: header.source(),
        dst: header.destination(),
        proto: header.next_header(),
        tos: header.traffic_class(),
        ttl: header.hop_limit(),
        len: header.total_len(),
        l4_off: Ipv6::LEN as u16,
        frag_off: 0,
        more_frags: false,
        dont_frag: false,
        ip_id: 0,
        flow_label: header.flow_label(),
        has_options: false,
    }
}

/// Ports and the like of an upper-layer header that must be there in full.
#[inline(always)]
fn upper_layer(family: Family, protocol: u8, l4: &[u8]) -> Upper {
    match (protocol, family) {
        (proto::TCP, _) => match Tcp::new(l4) {
            Some(tcp) => Upper { tcp_flags: tcp.flags(), ..Upper::ports(tcp.source(), tcp.destination()) },
            None => Upper::NONE,
        },
        (proto::UDP | proto::UDPLITE, _) => match Udp::new(l4) {
            Some(udp) => Upper::ports(udp.source(), udp.destination()),
            None => Upper::NONE,
        },
        (proto::ICMP, Family::V4) | (proto::ICMPV6, Family::V6) => match Icmp::new(l4) {
            Some(icmp) => {
                let id = if icmp_has_id(family, icmp.kind()) { icmp.id() } else { 0 };
                Upper::ports(id, u16::from_be_bytes([icmp.kind(), icmp.code()]))
            }
            None => Upper::NONE,
        },
        (proto::SCTP | proto::DCCP, _) if l4.len() >= 12 => quoted_ports(l4),
        _ => Upper::NONE,
    }
}

/// The ports alone.
#[inline(always)]
fn quoted_ports(l4: &[u8]) -> Upper {
    Ports::new(l4).map_or(Upper::NONE, |ports| Upper::ports(ports.source(), ports.destination()))
}

/// Parses the packet that an ICMP error quotes: it may be cut off anywhere behind the first eight bytes of its L4 header,
/// and neither its version, nor its lengths, nor its header checksum are held against it. None where not even the addresses can be read,
/// or its IPv6 headers are cut off.
///
/// `has_l4` means here that the first eight bytes are there, which is all that any quote must have (RFC 792), or at least the
/// ports, which is all that conntrack asks for; TCP flags are there only where quoted.
pub fn embedded(family: Family, bytes: &[u8]) -> Option<Facts> {
    let network = match family {
        Family::V4 => {
            let header = Ipv4::new(bytes)?;
            if header.header_len() < Ipv4::LEN {
                return None;
            }
            ipv4_network(header)
        }
        Family::V6 => ipv6_network(Ipv6::new(bytes)?, bytes)?,
    };
    let l4 = bytes.get(usize::from(network.l4_off)..)?;
    let upper = match network.proto {
        _ if network.frag_off != 0 => Upper::NONE,
        proto::TCP if l4.len() >= 4 => Upper { tcp_flags: Tcp::new(l4).map_or(0, Tcp::flags), ..quoted_ports(l4) },
        proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP if l4.len() >= 4 => quoted_ports(l4),
        _ if l4.len() < 8 => Upper::NONE,
        protocol => upper_layer(family, protocol, l4),
    };
    Some(facts_of(family, Link::NONE, network, upper))
}

/// Whether the L4 checksum of an unfragmented packet is right, as `nf_ip_checksum` and the protocol trackers judge it. A
/// UDP checksum of zero is none. True for protocols without one, and for fragments, where it cannot be told.
pub fn l4_checksum_ok(facts: &Facts, l3: &[u8]) -> bool {
    let Some(l4) = l3.get(usize::from(facts.l4_off)..usize::from(facts.len)) else { return false };
    if !facts.has_l4 || facts.is_fragment() {
        return true;
    }
    let pseudo = || Sum::new().pseudo(facts.src, facts.dst, facts.proto, l4.len());
    match facts.proto {
        proto::ICMP => Sum::new().bytes(l4).is_valid(),
        proto::TCP | proto::ICMPV6 => pseudo().bytes(l4).is_valid(),
        proto::UDP => Udp::new(l4).is_some_and(|udp| udp.checksum() == 0) || pseudo().bytes(l4).is_valid(),
        // RFC 3828 section 3.1: the length field says how much is covered, zero means all, and zero is no checksum.
        proto::UDPLITE => Udp::new(l4).is_some_and(|udp| {
            let covered = match usize::from(udp.length()) {
                0 => l4.len(),
                length => length,
            };
            let covered = l4.get(..covered).filter(|covered| covered.len() >= Udp::LEN);
            udp.checksum() != 0 && covered.is_some_and(|covered| pseudo().bytes(covered).is_valid())
        }),
        proto::SCTP => crc32c::sctp(l4).is_some_and(|crc| l4.get(8..12) == Some(&crc[..])),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample::{self, v4, v6};
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PORT: PortId = PortId(3);

    fn ethernet(dmac: [u8; 6], tail: &[u8]) -> Vec<u8> {
        [&dmac[..], &[2, 0, 0, 0, 0, 9], tail].concat()
    }

    fn reason(bytes: &[u8]) -> Option<DropReason> {
        match frame(bytes, PORT, MAC) {
            Parsed::Drop(reason) => Some(reason),
            _ => None,
        }
    }

    fn facts(bytes: &[u8]) -> Facts {
        match frame(bytes, PORT, MAC) {
            Parsed::Ip { facts, .. } => facts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tcp_frame_gives_all_its_facts() {
        let packet = v4(proto::TCP, &sample::tcp(1234, 80, 0x12, &[], b"x"));
        let mut bytes = ethernet(MAC, &[&[8, 0][..], &packet].concat());
        bytes.resize(60, 0xee);
        let f = facts(&bytes);
        assert_eq!((f.src, f.dst), (0x0a00_0001, 0x0a00_0002));
        assert_eq!((f.family, f.proto, f.sport, f.dport, f.tcp_flags), (Family::V4, proto::TCP, 1234, 80, 0x12));
        assert_eq!((f.tos, f.ttl, f.len, f.l4_off, f.ip_id), (0x10, 64, 41, 20, 0x1234));
        assert!(f.has_l4 && f.has_link && f.dont_frag && !f.more_frags && !f.has_options);
        assert_eq!((f.smac, f.dmac, f.pkt_type), ([2, 0, 0, 0, 0, 9], MAC, PacketType::Host));
        assert_eq!((f.iif, f.oif), (PORT, PortId::NONE));
    }

    #[test]
    fn an_ipv6_frame_gives_what_is_behind_its_extensions() {
        let udp = sample::udp(5000, 53, b"hello");
        let packet = v6(proto::DSTOPTS, &[&[proto::UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp].concat());
        let f = facts(&ethernet([0x33, 0x33, 0, 0, 0, 1], &[&[0x86, 0xdd][..], &packet].concat()));
        assert_eq!((f.family, f.proto, f.sport, f.dport, f.l4_off), (Family::V6, proto::UDP, 5000, 53, 48));
        assert_eq!((f.src, f.dst), (sample::V6_SRC, sample::V6_DST));
        assert_eq!((f.tos, f.ttl, f.len, f.flow_label), (0xb8, 64, 61, 0x12345));
        assert!(f.has_l4 && f.has_options);
        assert_eq!(f.pkt_type, PacketType::Multicast);
    }

    #[test]
    fn link_headers_are_judged() {
        let ip = v4(proto::UDP, &sample::udp(1, 2, b""));
        let behind = |head: &[u8]| ethernet(MAC, &[head, &ip].concat());
        let cases: &[(Vec<u8>, Option<DropReason>)] = &[
            (vec![0; 13], Some(DropReason::ShortFrame)),
            (behind(&[8, 0]), None),
            (behind(&[0x81, 0, 0, 0, 8, 0]), Some(DropReason::UnknownVlan)),
            (behind(&[0x88, 0xcc]), Some(DropReason::EtherType)),
            (behind(&[0, 46]), Some(DropReason::EtherType)),
            (ethernet([2, 0, 0, 0, 0, 2], &[8, 0]), Some(DropReason::OtherHost)),
            (ethernet([0xff; 6], &[8, 6, 1]), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(reason(bytes), *expected, "{bytes:02x?}");
        }
        assert!(matches!(frame(&ethernet([0xff; 6], &[8, 6, 1]), PORT, MAC), Parsed::Arp { l3: 14 }));
        assert_eq!(facts(&ethernet([0xff; 6], &[&[8, 0][..], &ip].concat())).pkt_type, PacketType::Broadcast);
    }

    #[test]
    fn ipv4_headers_are_judged_as_by_ip_rcv() {
        let good = v4(proto::UDP, &sample::udp(1, 2, b"abc"));
        let broken = |change: fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            change(&mut packet);
            sample::fix_ipv4_header(&mut packet);
            ip(Family::V4, &packet).err()
        };
        assert_eq!(broken(|_| ()), None);
        assert_eq!(broken(|p| p[0] = 0x65), Some(DropReason::IpHeader));
        assert_eq!(broken(|p| p[0] = 0x44), Some(DropReason::IpHeader));
        assert_eq!(broken(|p| p[3] = 19), Some(DropReason::IpHeader));
        assert_eq!(broken(|p| p[3] += 1), Some(DropReason::IpHeader));
        assert_eq!(broken(|p| p.truncate(19)), Some(DropReason::IpHeader));
        let mut wrong = good.clone();
        wrong[10] ^= 1;
        assert_eq!(ip(Family::V4, &wrong).err(), Some(DropReason::IpChecksum));
        let options = sample::v4_with(&[7, 7, 3, 0, 0, 0, 0, 0], 0x4000, proto::UDP, &sample::udp(1, 2, b""));
        // Options are judged after PREROUTING (`ip_rcv_options`).
        assert_eq!(ip(Family::V4, &options).err(), None);
    }

    #[test]
    fn ipv6_headers_are_judged_as_by_ip6_rcv() {
        let good = v6(proto::UDP, &sample::udp(1, 2, b"abc"));
        assert_eq!(ip(Family::V6, &good).err(), None);
        assert_eq!(ip(Family::V6, &good[..good.len() - 1]).err(), Some(DropReason::IpHeader));
        assert_eq!(ip(Family::V6, &good[..39]).err(), Some(DropReason::IpHeader));
        assert_eq!(ip(Family::V4, &good).err(), Some(DropReason::IpHeader));
        let jumbo = v6(proto::HOPOPTS, &[proto::UDP, 0, 0xc2, 4, 0, 1, 0, 0]);
        assert_eq!(ip(Family::V6, &jumbo).err(), Some(DropReason::Ipv6Extension));
        let cut = v6(proto::DSTOPTS, &[proto::UDP, 1, 1, 4, 0, 0, 0, 0]);
        assert_eq!(ip(Family::V6, &cut).err(), Some(DropReason::Ipv6Extension));
    }

    #[test]
    fn only_whole_l4_headers_of_first_fragments_count() {
        let cases: &[(u16, u8, Vec<u8>, bool)] = &[
            (0x4000, proto::TCP, sample::tcp(1, 2, 2, &[], b""), true),
            (0x4000, proto::TCP, sample::tcp(1, 2, 2, &[], b"")[..19].to_vec(), false),
            (0x2000, proto::UDP, sample::udp(1, 2, b""), true),
            (0x0001, proto::UDP, sample::udp(1, 2, b""), false),
            (0x4000, proto::UDP, vec![0; 7], false),
            (0x4000, proto::ICMP, vec![8, 0, 0, 0, 0, 7, 0], false),
            (0x4000, proto::ICMPV6, vec![0; 8], false),
            (0x4000, proto::SCTP, vec![0; 11], false),
            (0x4000, proto::SCTP, vec![0; 12], true),
            (0x4000, proto::GRE, vec![0; 12], false),
        ];
        for (fragment, proto, l4, expected) in cases {
            let f = ip(Family::V4, &sample::v4_with(&[], *fragment, *proto, l4)).unwrap();
            assert_eq!(f.has_l4, *expected, "{fragment:#x} {proto}");
            assert_eq!(f.frag_off, fragment << 3);
        }
    }

    #[test]
    fn icmp_has_type_code_and_only_queries_an_identifier() {
        let echo = ip(Family::V4, &v4(proto::ICMP, &sample::icmp(8, 0, 0x0007_0001, b"ping"))).unwrap();
        assert_eq!((echo.sport, echo.dport, echo.icmp()), (7, 0x0800, Some((8, 0))));
        let error = ip(Family::V4, &v4(proto::ICMP, &sample::icmp(3, 4, 0x0007_0001, b"..."))).unwrap();
        assert_eq!((error.sport, error.dport), (0, 0x0304));
        let echo = ip(Family::V6, &v6(proto::ICMPV6, &sample::icmpv6(128, 0, 0x0007_0001, b"ping"))).unwrap();
        assert_eq!((echo.sport, echo.icmp()), (7, Some((128, 0))));
    }

    #[test]
    fn quoted_packets_need_only_their_ports() {
        let whole = v4(proto::TCP, &sample::tcp(1234, 80, 0x12, &[], &[0; 100]));
        let quoted = embedded(Family::V4, &whole[..28]).unwrap();
        assert_eq!((quoted.sport, quoted.dport, quoted.has_l4, quoted.tcp_flags), (1234, 80, true, 0));
        assert_eq!(quoted.len, 140);
        assert_eq!(embedded(Family::V4, &whole[..40]).unwrap().tcp_flags, 0x12);
        assert_eq!(embedded(Family::V4, &whole[..24]).unwrap().sport, 1234, "the ports are enough to find a flow");
        assert!(!embedded(Family::V4, &whole[..23]).unwrap().has_l4);
        assert!(embedded(Family::V4, &whole[..19]).is_none());
        let mut wrong = whole.clone();
        (wrong[0], wrong[10]) = (0xc5, wrong[10] ^ 1);
        assert!(embedded(Family::V4, &wrong).is_some(), "as long as its header has a length");
        let whole = v6(proto::UDP, &sample::udp(5, 6, &[0; 100]));
        let quoted = embedded(Family::V6, &whole[..48]).unwrap();
        assert_eq!((quoted.sport, quoted.dport, quoted.has_l4, quoted.len), (5, 6, true, 148));
        assert!(embedded(Family::V6, &whole[..39]).is_none());
        assert!(embedded(Family::V4, &[0x44; 60]).is_none(), "a header that is shorter than any");
    }

    #[test]
    fn checksums_of_the_upper_layer_are_verified() {
        let mut udp_lite = sample::udp(1, 2, b"payload");
        udp_lite[4..8].copy_from_slice(&[0, 8, 0, 0]);
        let packets = [
            (Family::V4, v4(proto::TCP, &sample::tcp(1, 2, 2, &[2, 4, 5, 0xb4], b"odd"))),
            (Family::V6, v6(proto::TCP, &sample::tcp(1, 2, 2, &[], b"even"))),
            (Family::V4, v4(proto::UDP, &sample::udp(1, 2, b"odd"))),
            (Family::V6, v6(proto::UDP, &sample::udp(1, 2, b"odd"))),
            (Family::V4, v4(proto::UDPLITE, &udp_lite)),
            (Family::V4, v4(proto::ICMP, &sample::icmp(8, 0, 1, b"ping"))),
            (Family::V6, v6(proto::ICMPV6, &sample::icmpv6(128, 0, 1, b"ping"))),
            (Family::V4, v4(proto::SCTP, &sample::sctp(1, 2, b"chunk"))),
        ];
        for (family, packet) in packets {
            let f = ip(family, &packet).unwrap();
            assert!(l4_checksum_ok(&f, &packet), "{f:?}");
            let mut wrong = packet.clone();
            wrong[usize::from(f.l4_off)] ^= 0x10;
            assert!(!l4_checksum_ok(&f, &wrong), "{f:?}");
        }
        for family in Family::ALL {
            let mut packet = sample::packet(family, proto::UDP, &sample::udp(1, 2, b"abc"));
            let f = ip(family, &packet).unwrap();
            packet[usize::from(f.l4_off) + 6..][..2].fill(0);
            assert!(l4_checksum_ok(&f, &packet));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            let mut bytes = bytes;
            if let [a, b, c, d, e, f, ..] = &mut bytes[..] {
                [*a, *b, *c, *d, *e, *f] = MAC;
            }
            let _ = frame(&bytes, PORT, MAC);
            if let Some(kind) = bytes.get_mut(12..15) {
                kind.copy_from_slice(if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
            }
            if bytes.len() > 34 && !v6 {
                bytes[16..18].copy_from_slice(&[0, 30]);
                sample::fix_ipv4_header(&mut bytes[14..]);
            }
            if let Parsed::Ip { facts, l3 } = frame(&bytes, PORT, MAC) {
                let l3 = &bytes[usize::from(l3)..];
                prop_assert!(usize::from(facts.len) <= l3.len() && facts.l4_off <= facts.len);
                let _ = l4_checksum_ok(&facts, l3);
                let _ = has_source_route(l3);
            }
            for family in Family::ALL {
                let _ = embedded(family, &bytes);
            }
        }
    }
}
