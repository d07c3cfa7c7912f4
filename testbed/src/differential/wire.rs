//! Packets as bytes: made with every length and checksum right, turned round, quoted in errors, shown to people.

use std::fmt::Write;
use sumun_config::facts::{Family, proto};
use sumun_dataplane::packet::checksum::Sum;
use sumun_dataplane::packet::{crc32c, parse};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// What an IP packet is made of.
#[derive(Clone)]
pub struct Ip {
    /// Its family.
    pub family: Family,
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Don't Fragment; IPv4 only.
    pub df: bool,
    /// IPv4 options, or IPv6 extension headers without the first one's number.
    pub options: Vec<u8>,
    /// Number of the first IPv6 extension header, where `options` are given.
    pub extension: u8,
}

impl Ip {
    /// A plain header.
    pub fn new(family: Family, src: u128, dst: u128) -> Ip {
        Ip { family, src, dst, ttl: 64, tos: 0, df: false, options: Vec::new(), extension: 0 }
    }

    /// The packet with this payload; `id` is IPv4's.
    pub fn packet(&self, protocol: u8, l4: &[u8], id: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        let len = self.options.len() + l4.len();
        match self.family {
            Family::V4 => {
                packet.extend([0x45 + (self.options.len() / 4) as u8, self.tos]);
                packet.extend(((20 + len) as u16).to_be_bytes());
                packet.extend(id.to_be_bytes());
                packet.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
                packet.extend((self.src as u32).to_be_bytes());
                packet.extend((self.dst as u32).to_be_bytes());
            }
            Family::V6 => {
                packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                packet.extend((len as u16).to_be_bytes());
                packet.push(if self.options.is_empty() { protocol } else { self.extension });
                packet.push(self.ttl);
                packet.extend(self.src.to_be_bytes());
                packet.extend(self.dst.to_be_bytes());
            }
        }
        packet.extend(&self.options);
        packet.extend(l4);
        fix(&mut packet);
        packet
    }
}

/// A TCP segment, checksum to be filled in.
pub fn tcp(ports: (u16, u16), seq: u32, ack: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut l4 = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(if flags & 0x10 != 0 { ack } else { 0 }.to_be_bytes());
    l4.extend([(5 + options.len() / 4) as u8 * 16, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(options);
    l4.extend(payload);
    l4
}

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;

/// A TCP segment in the making.
#[derive(Clone, Debug)]
pub struct Segment {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<u8>,
    len: usize,
}

/// A segment with these flags; its numbers are zero, its window is 65,535.
pub fn segment(flags: u8) -> Segment {
    Segment { flags, seq: 0, ack: 0, window: 0xffff, options: Vec::new(), len: 0 }
}

impl Segment {
    /// With a sequence number.
    pub fn seq(mut self, seq: u32) -> Segment {
        self.seq = seq;
        self
    }

    /// With an acknowledgement number, whether it has the flag or not.
    pub fn ack(mut self, ack: u32) -> Segment {
        self.ack = ack;
        self
    }

    /// With a window.
    pub fn window(mut self, window: u16) -> Segment {
        self.window = window;
        self
    }

    /// With options: a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Segment {
        self.options = options.to_vec();
        self
    }

    /// With so many bytes of payload.
    pub fn data(mut self, len: usize) -> Segment {
        self.len = len;
        self
    }

    /// Its bytes, checksum to be filled in.
    pub fn bytes(&self, ports: (u16, u16)) -> Vec<u8> {
        let payload: Vec<u8> = (0..self.len).map(|i| i as u8).collect();
        let mut l4 = tcp(ports, self.seq, 0, self.flags, &self.options, &payload);
        l4[8..12].copy_from_slice(&self.ack.to_be_bytes());
        l4[14..16].copy_from_slice(&self.window.to_be_bytes());
        l4
    }
}

/// A UDP datagram, checksum to be filled in.
pub fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut l4 = [ports.0, ports.1, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    l4.extend(payload);
    l4
}

/// An ICMP or ICMPv6 message, checksum to be filled in.
pub fn icmp(kind: u8, code: u8, rest: u32, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &rest.to_be_bytes(), payload].concat()
}

/// An SCTP packet of these chunks, checksum to be filled in.
pub fn sctp(ports: (u16, u16), tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut l4 = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    l4.extend(tag.to_be_bytes());
    l4.extend([0; 4]);
    l4.extend(chunks);
    l4
}

/// An SCTP chunk: its kind, its flags, and what it carries (a multiple of four bytes).
pub fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, flags][..], &(4 + value.len() as u16).to_be_bytes(), value].concat()
}

/// INIT (1) or INIT ACK (2) that asks for a tag.
pub fn init(kind: u8, tag: u32) -> Vec<u8> {
    chunk(kind, 0, &[&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]].concat())
}

/// The family of an IP packet.
pub fn family(l3: &[u8]) -> Family {
    if l3.first().is_some_and(|b| b >> 4 == 6) { Family::V6 } else { Family::V4 }
}

/// Computes the checksums of a packet anew.
pub fn fix(packet: &mut [u8]) {
    let family = family(packet);
    if family == Family::V4 {
        fix_header(packet);
    }
    let Ok(facts) = parse::ip(family, packet) else { return };
    if !facts.has_l4 {
        return;
    }
    let l4 = &mut packet[usize::from(facts.l4_off)..usize::from(facts.len)];
    let (at, pseudo) = match facts.proto {
        proto::TCP => (16, true),
        proto::UDP | proto::UDPLITE => (6, true),
        proto::SCTP => {
            if let Some(check) = crc32c::sctp(l4) {
                l4[8..12].copy_from_slice(&check);
            }
            return;
        }
        proto::ICMP => (2, false),
        proto::ICMPV6 => (2, true),
        _ => return,
    };
    l4[at..at + 2].fill(0);
    let sum = if pseudo { Sum::new().pseudo(facts.src, facts.dst, facts.proto, l4.len()) } else { Sum::new() };
    let check = match sum.bytes(l4).checksum() {
        0 if matches!(facts.proto, proto::UDP | proto::UDPLITE) => 0xffff,
        check => check,
    };
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// Computes the checksum of an IPv4 header anew.
pub fn fix_header(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let check = Sum::new().bytes(&packet[..len]).checksum();
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Writes a packet's length into its header.
pub fn set_length(packet: &mut [u8]) {
    let len = packet.len() as u16;
    match family(packet) {
        Family::V4 => packet[2..4].copy_from_slice(&len.to_be_bytes()),
        Family::V6 => packet[4..6].copy_from_slice(&(len - 40).to_be_bytes()),
    }
}

/// The fragments of a packet without options, each with up to `size` bytes of its payload (a multiple of eight). `id` is
/// IPv6's; IPv4 has one already.
pub fn fragments(packet: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    let header = if family(packet) == Family::V4 { 20 } else { 40 };
    let payload = &packet[header..];
    (0..payload.len()).step_by(size).map(|at| fragment(packet, at, (payload.len() - at).min(size), id)).collect()
}

/// The fragment that carries so many bytes of a packet's payload, from `at` (a multiple of eight) on. More follow unless it
/// reaches the end.
pub fn fragment(packet: &[u8], at: usize, len: usize, id: u32) -> Vec<u8> {
    let header = if family(packet) == Family::V4 { 20 } else { 40 };
    let end = header + at + len;
    let more = u16::from(end < packet.len());
    let mut piece = packet[..header].to_vec();
    match family(packet) {
        Family::V4 => {
            let df = u16::from_be_bytes([packet[6], packet[7]]) & 0x4000;
            piece[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
            piece[6..8].copy_from_slice(&(df | more << 13 | (at / 8) as u16).to_be_bytes());
            fix_header(&mut piece);
        }
        Family::V6 => {
            piece[4..6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
            piece[6] = 44;
            piece.extend([packet[6], 0]);
            piece.extend((at as u16 | more).to_be_bytes());
            piece.extend(id.to_be_bytes());
        }
    }
    piece.extend(&packet[header + at..end]);
    piece
}

/// A frame as run number `run` sends it: fragments have another id each time.
pub fn of_run(frame: &[u8], run: u32) -> Vec<u8> {
    // More than a run of some hundred packets uses; in IPv4 the numbers come again after as many runs as take half a minute.
    const APART: [u32; 2] = [509, 1 << 16];
    let mut frame = frame.to_vec();
    let salt = APART.map(|apart| run.wrapping_mul(apart));
    if let Some(l3) = frame.get_mut(ETHERNET..) {
        match family(l3) {
            Family::V4 if l3.len() >= 20 && l3[0] == 0x45 && (l3[6] & 0x3f, l3[7]) != (0, 0) => {
                let id = u16::from_be_bytes([l3[4], l3[5]]).wrapping_add(salt[0] as u16);
                l3[4..6].copy_from_slice(&id.to_be_bytes());
                fix_header(l3);
            }
            Family::V6 if l3.len() >= 48 && l3[6] == 44 => {
                let id = u32::from_be_bytes([l3[44], l3[45], l3[46], l3[47]]).wrapping_add(salt[1]);
                l3[44..48].copy_from_slice(&id.to_be_bytes());
            }
            _ => {}
        }
    }
    frame
}

/// A frame of a packet, which may be damaged.
pub fn frame(family: Family, from: [u8; 6], to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: u16 = if family == Family::V6 { 0x86dd } else { 0x0800 };
    let mut frame = [to, from].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An ARP request.
pub fn arp_request(mac: [u8; 6], sender: u32, target: u32) -> Vec<u8> {
    let mut frame = [0xff; 6].to_vec();
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(target.to_be_bytes());
    frame
}

/// Whether a frame asks for neighbours, or tells of them.
pub fn is_discovery(frame: &[u8]) -> bool {
    frame.get(ETHERNET..).is_some_and(|l3| {
        family(l3) == Family::V6 && l3.get(6) == Some(&proto::ICMPV6) && matches!(l3.get(40), Some(133..=137))
    })
}

/// Whether it is a part of a packet.
pub fn is_fragment(packet: &[u8]) -> bool {
    match family(packet) {
        Family::V4 => packet.len() >= 8 && (packet[6] & 0x3f, packet[7]) != (0, 0),
        Family::V6 => packet.get(6) == Some(&44),
    }
}

/// Whether a frame is a part of an ICMP message.
pub fn is_ping_in_pieces(frame: &[u8]) -> bool {
    frame.get(ETHERNET..).is_some_and(|l3| {
        let protocol = match family(l3) {
            Family::V4 => l3.get(9) == Some(&proto::ICMP),
            Family::V6 => l3.get(40) == Some(&proto::ICMPV6),
        };
        is_fragment(l3) && protocol
    })
}

/// The source of a packet.
pub fn source(packet: &[u8]) -> u128 {
    let field = match family(packet) {
        Family::V4 => packet.get(12..16),
        Family::V6 => packet.get(8..24),
    };
    field.unwrap_or_default().iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Whether a frame holds an IPv6 packet to a group.
pub fn is_to_many(frame: &[u8]) -> bool {
    frame.get(ETHERNET..).is_some_and(|l3| family(l3) == Family::V6 && l3.get(24) == Some(&0xff))
}

/// What a frame is, for people.
pub fn describe(frame: &[u8]) -> String {
    let Some(l3) = frame.get(ETHERNET..) else { return format!("{} bytes", frame.len()) };
    if frame[12..14] == [8, 6] {
        return "ARP".into();
    }
    let mut text = describe_packet(l3);
    if frame[0] & 1 != 0 {
        text += " (link multicast)";
    }
    text
}

fn describe_packet(l3: &[u8]) -> String {
    let family = family(l3);
    let Ok(f) = parse::ip(family, l3) else { return format!("malformed {}", hex(&l3[..l3.len().min(40)])) };
    let mut text = format!("{} > {} proto {}", family.address(f.src), family.address(f.dst), f.proto);
    let l4 = &l3[usize::from(f.l4_off)..usize::from(f.len)];
    match f.proto {
        _ if !f.has_l4 => text += " (no L4)",
        proto::TCP => {
            let word = |at: usize| u32::from_be_bytes([l4[at], l4[at + 1], l4[at + 2], l4[at + 3]]);
            let flags: String = (0..8).filter(|i| l4[13] & 1 << i != 0).map(|i| b"FSRPAUEC"[i] as char).collect();
            let _ = write!(text, " tcp {}>{} {flags} seq {} ack {}", f.sport, f.dport, word(4), word(8));
        }
        proto::UDP => {
            let _ = write!(text, " udp {}>{}", f.sport, f.dport);
        }
        proto::ICMP | proto::ICMPV6 => {
            let _ = write!(text, " icmp {}/{} {}", l4[0], l4[1], hex(&l4[4..8]));
            let error = if family == Family::V4 { matches!(l4[0], 3 | 4 | 5 | 11 | 12) } else { l4[0] < 128 };
            if error && l4.len() > 28 {
                let _ = write!(text, " [{}]", describe_packet(&l4[8..]));
            }
        }
        _ => {}
    }
    if !parse::l4_checksum_ok(&f, l3) {
        text += " BAD-CHECKSUM";
    }
    let _ = write!(text, " ttl {} tos {:#x} len {}", f.ttl, f.tos, f.len);
    if f.has_options {
        text += " options";
    }
    if f.dont_frag {
        text += " DF";
    }
    if f.frag_off != 0 || f.more_frags {
        let _ = write!(text, " frag {}", f.frag_off);
    }
    text
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
