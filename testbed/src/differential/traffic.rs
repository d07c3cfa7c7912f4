//! Traffic aimed at rulesets: flows in both directions, errors about them and about nothing, damage, and odd addresses.
//!
//! A [`Step`] is either a frame, the same for both routers, or an answer to what came out earlier: it is built from each
//! router's own output, so that ports which NAT chose by chance find their way back.

use super::aim::Aim;
use super::net::{HOST, LAN, MTU, ROUTER, WAN, address, of};
use super::rng::Rng;
use super::wire::{self, Ip, describe, hex};
use std::fmt;
use sumun_config::facts::{Family, PortId, proto};
use sumun_dataplane::packet::parse;

/// What happens next.
#[derive(Clone)]
pub enum Step {
    /// A frame comes in.
    Fresh {
        /// On this port.
        port: PortId,
        /// Its bytes.
        frame: Vec<u8>,
    },
    /// Somebody answers the first frame that came out at an earlier step.
    Answer {
        /// Number of that step.
        to: usize,
        /// With what.
        with: Answer,
    },
}

/// How a host answers a packet.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A TCP segment the other way.
    Segment {
        /// Sequence number.
        seq: u32,
        /// Acknowledgement.
        ack: u32,
        /// Flags.
        flags: u8,
        /// Bytes of payload.
        len: usize,
    },
    /// A datagram the other way, or an echo reply.
    Reply {
        /// Bytes of payload.
        len: usize,
    },
    /// SCTP chunks the other way.
    Chunks {
        /// The verification tag.
        tag: u32,
        /// The chunks.
        chunks: Vec<u8>,
    },
    /// An ICMP error that quotes the packet.
    Error {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// Its second word.
        rest: u32,
        /// Who sends it; the packet's destination if not given.
        from: Option<u128>,
        /// Most bytes that it quotes.
        quote: usize,
    },
}

impl Answer {
    /// The packet, about one that came out.
    pub fn packet(&self, l3: &[u8]) -> Option<Vec<u8>> {
        let family = wire::family(l3);
        let f = parse::ip(family, l3).ok()?;
        let l4 = &l3[usize::from(f.l4_off)..usize::from(f.len)];
        let back = Ip::new(family, f.dst, f.src);
        let ports = (f.dport, f.sport);
        let icmp = of(family, proto::ICMP, proto::ICMPV6);
        match *self {
            Answer::Segment { seq, ack, flags, len } if f.proto == proto::TCP && f.has_l4 => {
                let options: &[u8] = if flags & 2 != 0 { &[2, 4, 5, 0xb4] } else { &[] };
                Some(back.packet(proto::TCP, &wire::tcp(ports, seq, ack, flags, options, &pattern(len)), 7))
            }
            Answer::Reply { len } if f.proto == proto::UDP && f.has_l4 => {
                Some(back.packet(proto::UDP, &wire::udp(ports, &pattern(len)), 8))
            }
            Answer::Chunks { tag, ref chunks } if f.proto == proto::SCTP && f.has_l4 => {
                Some(back.packet(proto::SCTP, &wire::sctp(ports, tag, chunks), 10))
            }
            Answer::Reply { .. } if f.proto == icmp && f.has_l4 => {
                let reply = of(family, 0, 129);
                let rest = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]);
                Some(back.packet(icmp, &wire::icmp(reply, 0, rest, &l4[8..]), 9))
            }
            Answer::Reply { .. } if f.proto != proto::TCP => {
                let mut l4 = l4.to_vec();
                if matches!(f.proto, proto::SCTP | proto::UDPLITE) && f.has_l4 {
                    l4[..2].copy_from_slice(&f.dport.to_be_bytes());
                    l4[2..4].copy_from_slice(&f.sport.to_be_bytes());
                }
                Some(back.packet(f.proto, &l4, 10))
            }
            Answer::Error { kind, code, rest, from, quote } => {
                let quoted = &l3[..l3.len().min(quote)];
                let mut ip = Ip::new(family, from.unwrap_or(f.dst), f.src);
                ip.tos = of(family, 0xc0, 0);
                Some(ip.packet(icmp, &wire::icmp(kind, code, rest, quoted), 11))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Step::Fresh { port, frame } => write!(out, "port {} {}\n      {}", port.0, describe(frame), hex(frame)),
            Step::Answer { to, with } => write!(out, "answer to {to}: {with:?}"),
        }
    }
}

/// Some bytes of payload.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| i as u8).collect()
}

/// Hosts of a family: LAN, WAN.
pub fn hosts(family: Family) -> ([u128; 3], [u128; 4]) {
    of(
        family,
        (
            ["192.168.1.11", "192.168.1.12", "192.168.1.13"].map(address),
            ["203.0.113.1", "203.0.113.9", "198.51.100.7", "203.0.113.10"].map(address),
        ),
        (
            ["fd00:1::11", "fd00:1::12", "fd00:1::13"].map(address),
            ["2001:db8:2::1", "2001:db8:2::9", "2001:db8:77::7", "2001:db8:2::10"].map(address),
        ),
    )
}

/// The router's own addresses: LAN, WAN.
pub fn own(family: Family) -> [u128; 2] {
    of(family, ["192.168.1.1", "203.0.113.2"], ["fd00:1::1", "2001:db8:2::2"]).map(address)
}

/// Ports that rules and traffic share.
pub const SERVICES: [u16; 8] = [22, 53, 80, 443, 1024, 5353, 8080, 40000];

/// Makes the traffic of one ruleset.
pub struct Traffic {
    pub(super) family: Family,
    aim: Aim,
    pub(super) rng: Rng,
    steps: Vec<Step>,
    pub(super) id: u16,
    /// The port that the ends chosen last are to be asked at.
    dport: Option<u16>,
}

/// Traffic of about `packets` frames, some of it aimed.
pub fn traffic(family: Family, packets: usize, aim: Aim, rng: Rng) -> Vec<Step> {
    let mut traffic = Traffic { family, aim, rng, steps: Vec::new(), id: 100, dport: None };
    while traffic.steps.len() < packets {
        traffic.scene();
    }
    traffic.steps
}

impl Traffic {
    fn scene(&mut self) {
        match self.rng.below(28) {
            20..=21 => self.fragments(),
            22..=24 => self.dialogue(),
            25 => self.association(),
            26 => self.tunnel(),
            27 => self.discovery(),
            0..=5 => self.connection(),
            6..=9 => self.datagrams(),
            10..=11 => self.ping(),
            12 => self.other_protocol(),
            13 => self.stray_error(),
            14..=15 => self.damaged(),
            16 => self.odd_addresses(),
            17 => self.large(),
            18 => self.optional(),
            _ => self.stray_segment(),
        }
    }

    /// Two ends, and the port of the first.
    pub(super) fn ends(&mut self) -> (PortId, u128, u128) {
        let (lan, wan) = hosts(self.family);
        let own = own(self.family);
        let (l, mut w) = (self.rng.pick(&lan), self.rng.pick(&wan));
        if self.rng.chance(20) {
            w = self.aim.host(&mut self.rng).unwrap_or(w);
        }
        self.dport = None;
        if self.rng.chance(40)
            && let Some(asked) = self.aim.asked(&mut self.rng)
        {
            self.dport = asked.dport;
            let (port, src, usual) = match self.rng.chance(50) {
                true => (LAN, l, w),
                false => (WAN, w, self.rng.pick(&[l, own[1]])),
            };
            let dst = asked.dst.unwrap_or(usual);
            // Who asks many is one of that link: see the head of [`super::compare`].
            let is_to_many = self.family == Family::V6 && dst >> 120 == 0xff;
            return (port, asked.src.filter(|_| !is_to_many).unwrap_or(src), dst);
        }
        match self.rng.below(12) {
            0..=5 => (LAN, l, w),
            6..=8 => (WAN, w, l),
            9 => (LAN, l, own[0]),
            10 => (WAN, w, own[1]),
            _ => {
                let own = self.rng.pick(&own);
                if self.rng.chance(50) { (LAN, l, own) } else { (WAN, w, own) }
            }
        }
    }

    /// A number that the rules speak of, or one beside it.
    pub(super) fn number(&mut self) -> Option<u16> {
        self.aim.number(&mut self.rng)
    }

    pub(super) fn ports(&mut self) -> (u16, u16) {
        let mut sport = self.rng.pick(&[1024, 1025, 5000, 5001, 40000, 68]);
        match self.rng.below(10) {
            0..3 => sport = 2000 + self.rng.below(2000) as u16,
            3 => sport = self.number().unwrap_or(sport),
            _ => {}
        }
        if sport < 1024 && self.aim.has_low_range() {
            sport += 1024;
        }
        let dport = match self.rng.chance(20) {
            true => self.number().unwrap_or(22),
            false => self.rng.pick(&SERVICES),
        };
        (sport, self.dport.unwrap_or(dport))
    }

    pub(super) fn ip(&mut self, src: u128, dst: u128) -> Ip {
        let mut ip = Ip::new(self.family, src, dst);
        if self.rng.chance(10) {
            ip.ttl = self.rng.pick(&[0, 1, 2, 3, 255, 128]);
        }
        if self.rng.chance(10) {
            ip.ttl = self.number().map_or(ip.ttl, |n| n as u8);
        }
        match self.rng.below(10) {
            0..2 => ip.tos = self.rng.next() as u8,
            2 => ip.tos = self.number().map_or(0, |n| (n << (n & 2)) as u8),
            _ => {}
        }
        ip.df = self.rng.chance(50);
        ip
    }

    /// Number of steps so far.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// One step more.
    pub(super) fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(super) fn push(&mut self, port: PortId, packet: &[u8]) -> usize {
        let p = port.0 as usize;
        self.steps.push(Step::Fresh { port, frame: wire::frame(self.family, HOST[p], ROUTER[p], packet) });
        self.steps.len() - 1
    }

    pub(super) fn send(&mut self, port: PortId, ip: &Ip, protocol: u8, l4: &[u8]) -> usize {
        self.id = self.id.wrapping_add(1);
        let packet = ip.packet(protocol, l4, self.id);
        self.push(port, &packet)
    }

    pub(super) fn answer(&mut self, to: usize, with: Answer) {
        self.steps.push(Step::Answer { to, with });
    }

    /// A random error about a packet that came out.
    pub(super) fn error(&mut self, to: usize) {
        let (_, wan) = hosts(self.family);
        let (kind, code, rest) = match self.family {
            Family::V4 => self.rng.pick(&[
                (3, 0, 0),
                (3, 1, 0),
                (3, 2, 0),
                (3, 3, 0),
                (3, 9, 0),
                (3, 4, 1000),
                (3, 13, 0),
                (11, 0, 0),
                (11, 1, 0),
                (12, 0, 0),
                (5, 1, 0xc0a8_0101),
                (4, 0, 0),
            ]),
            Family::V6 => self.rng.pick(&[
                (1, 0, 0),
                (1, 1, 0),
                (1, 4, 0),
                (2, 0, 1280),
                (3, 0, 0),
                (3, 1, 0),
                (4, 1, 40),
                (1, 6, 0),
            ]),
        };
        let from = self.rng.chance(40).then(|| self.rng.pick(&wan));
        let least = of(self.family, 28, 48);
        let quote = self.rng.pick(&[least, 1000, least, least - 4, 200]);
        self.answer(to, Answer::Error { kind, code, rest, from, quote });
    }

    fn connection(&mut self) {
        let (port, src, dst) = self.ends();
        let ports = self.ports();
        let (c, s) = (1000 + self.rng.below(1 << 30) as u32, 5_000_000 + self.rng.below(1 << 30) as u32);
        let ip = self.ip(src, dst);
        let mss: &[u8] = self.rng.pick(&[&[2, 4, 5, 0xb4][..], &[], &[1, 1, 1, 1, 2, 4, 4, 0]]);
        let client = |t: &mut Traffic, seq, ack, flags, options: &[u8], len| {
            t.send(port, &ip, proto::TCP, &wire::tcp(ports, seq, ack, flags, options, &pattern(len)))
        };
        let syn = client(self, c, 0, 0x02, mss, 0);
        if self.rng.chance(15) {
            client(self, c, 0, 0x02, mss, 0);
        }
        if self.rng.chance(10) {
            self.error(syn);
        }
        if self.rng.chance(15) {
            return self.answer(syn, Answer::Segment { seq: 0, ack: c + 1, flags: 0x14, len: 0 });
        }
        self.answer(syn, Answer::Segment { seq: s, ack: c + 1, flags: 0x12, len: 0 });
        client(self, c + 1, s + 1, 0x10, &[], 0);
        if self.rng.chance(20) {
            return;
        }
        let data = client(self, c + 1, s + 1, 0x18, &[], 20);
        if self.rng.chance(20) {
            self.error(data);
        }
        self.answer(syn, Answer::Segment { seq: s + 1, ack: c + 21, flags: 0x18, len: 30 });
        if self.rng.chance(20) {
            let other = self.rng.below(3);
            if other == 0 {
                return self.answer(syn, Answer::Segment { seq: s + 31, ack: c + 21, flags: 0x14, len: 0 });
            }
            client(self, c + 21, s + 31, 0x14, &[], 0);
            return;
        }
        if self.rng.chance(50) {
            client(self, c + 21, s + 31, 0x11, &[], 0);
            self.answer(syn, Answer::Segment { seq: s + 31, ack: c + 22, flags: 0x10, len: 0 });
            self.answer(syn, Answer::Segment { seq: s + 31, ack: c + 22, flags: 0x11, len: 0 });
            client(self, c + 22, s + 32, 0x10, &[], 0);
            if self.rng.chance(30) {
                client(self, c + 100_000, 0, 0x02, mss, 0);
            }
        } else {
            self.answer(syn, Answer::Segment { seq: s + 31, ack: c + 21, flags: 0x11, len: 0 });
            client(self, c + 21, s + 32, 0x11, &[], 0);
            self.answer(syn, Answer::Segment { seq: s + 32, ack: c + 22, flags: 0x10, len: 0 });
        }
    }

    fn stray_segment(&mut self) {
        let (port, src, dst) = self.ends();
        let ports = self.ports();
        let ip = self.ip(src, dst);
        let flags = match self.rng.below(3) {
            0 => self.rng.next() as u8,
            _ => self.rng.pick(&[0x10, 0x12, 0x04, 0x14, 0x11, 0x18, 0x01, 0x00, 0x29, 0x3f, 0x03, 0x06, 0x42, 0xc2]),
        };
        let (seq, ack, len) = (self.rng.next() as u32, self.rng.next() as u32, self.rng.below(30));
        self.send(port, &ip, proto::TCP, &wire::tcp(ports, seq, ack, flags, &[], &pattern(len)));
    }

    fn datagrams(&mut self) {
        let (port, src, dst) = self.ends();
        let ports = self.ports();
        let ip = self.ip(src, dst);
        let aimed = self.number().map(usize::from).filter(|&n| n < 1200 && self.rng.chance(20));
        let len = aimed.map_or_else(|| self.rng.below(100), |n| n.saturating_sub(of(self.family, 28, 48)));
        let first = self.send(port, &ip, proto::UDP, &wire::udp(ports, &pattern(len)));
        for _ in 0..self.rng.below(4) {
            match self.rng.below(5) {
                0..=1 => self.answer(first, Answer::Reply { len: 11 }),
                2 => self.error(first),
                _ => {
                    self.send(port, &ip, proto::UDP, &wire::udp(ports, &pattern(7)));
                }
            }
        }
    }

    pub(super) fn ping(&mut self) {
        let (port, src, dst) = self.ends();
        let ip = self.ip(src, dst);
        let (icmp, echo) = of(self.family, (proto::ICMP, 8), (proto::ICMPV6, 128));
        let id = self.rng.pick(&[1, 77, 40000]) << 16;
        let first = self.send(port, &ip, icmp, &wire::icmp(echo, 0, id | 1, b"ping"));
        for n in 0..self.rng.below(4) {
            match self.rng.below(4) {
                0..=1 => self.answer(first, Answer::Reply { len: 0 }),
                2 => self.error(first),
                _ => {
                    self.send(port, &ip, icmp, &wire::icmp(echo, 0, id | (n + 2) as u32, b"ping"));
                }
            }
        }
    }

    fn other_protocol(&mut self) {
        let (port, src, dst) = self.ends();
        let ip = self.ip(src, dst);
        let protocol = self.rng.pick(&[50, 89, 100, 200, 255]);
        let len = self.rng.below(50);
        let first = self.send(port, &ip, protocol, &pattern(len));
        if self.rng.chance(50) {
            self.answer(first, Answer::Reply { len: 0 });
        }
    }

    /// An ICMP message about a flow that is not there, or of an odd type.
    fn stray_error(&mut self) {
        let (port, src, dst) = self.ends();
        let ip = self.ip(src, dst);
        let (p, s) = self.ports();
        let inner = Ip::new(self.family, dst, src).packet(proto::UDP, &wire::udp((p, s), b"lost"), 1);
        let icmp = of(self.family, proto::ICMP, proto::ICMPV6);
        let kind = match self.family {
            Family::V4 => self.rng.pick(&[3, 11, 12, 4, 0, 14, 16, 18, 19, 30, 42]),
            Family::V6 => self.rng.pick(&[1, 2, 3, 4, 129, 100, 5, 150, 200]),
        };
        self.send(port, &ip, icmp, &wire::icmp(kind, 0, 0, &inner));
    }

    fn damaged(&mut self) {
        let (port, src, dst) = self.ends();
        let ports = self.ports();
        let ip = self.ip(src, dst);
        let (protocol, l4) = match self.rng.below(3) {
            0 => (proto::TCP, wire::tcp(ports, 1, 1, 0x02, &[], &[])),
            1 => (proto::UDP, wire::udp(ports, b"damaged")),
            _ => {
                let (icmp, echo) = of(self.family, (proto::ICMP, 8), (proto::ICMPV6, 128));
                (icmp, wire::icmp(echo, 0, 5, b"x"))
            }
        };
        let mut packet = ip.packet(protocol, &l4, 3);
        let header = of(self.family, 20, 40);
        let mut reheader = false;
        match self.rng.below(9) {
            // L4 checksum.
            0 => {
                let at = packet.len() - 1;
                packet[at] ^= 0x55;
            }
            // One bit of the L4 header.
            1 => {
                let at = header + self.rng.below(packet.len() - header);
                packet[at] ^= 1 << self.rng.below(8);
            }
            // Any bit of the IP header.
            2 => {
                // Not of the destination, nor of the host part of the source: nobody might be there.
                let at = self.rng.below(of(self.family, 16, 16));
                packet[at] ^= 1 << self.rng.below(8);
            }
            // A bit of the IPv4 header with its checksum right; the fragment word is left as it is.
            3 => {
                let at = self.rng.pick(&[0, 1, 2, 3, 4, 8, 9, 12]);
                packet[at] ^= 1 << self.rng.below(8);
                // Not what was ICMP as DCCP.
                if self.family == Family::V4 && packet[9] == proto::DCCP {
                    packet[9] = proto::ICMP;
                }
                reheader = true;
            }
            // Cut off.
            4 => {
                let len = self.rng.below(packet.len());
                packet.truncate(len);
            }
            // Cut off, the length right.
            5 => {
                packet.truncate(header + self.rng.below(packet.len() - header));
                wire::set_length(&mut packet);
                reheader = true;
            }
            // Padded by the link.
            6 => packet.extend([0xaa; 20]),
            // TCP data offset.
            7 if protocol == proto::TCP => packet[header + 12] = (self.rng.below(16) as u8) << 4,
            // UDP length.
            7 if protocol == proto::UDP => packet[header + 5] = self.rng.next() as u8,
            // UDP without a checksum.
            _ if protocol == proto::UDP => packet[header + 6..header + 8].fill(0),
            _ => packet[header] ^= 3,
        }
        if reheader && self.family == Family::V4 && packet.len() >= 20 {
            let len = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
            packet[10..12].fill(0);
            let check = sumun_dataplane::packet::checksum::Sum::new().bytes(&packet[..len]).checksum();
            packet[10..12].copy_from_slice(&check.to_be_bytes());
        }
        if !wire::is_fragment(&packet) {
            self.push(port, &packet);
        }
    }

    fn odd_addresses(&mut self) {
        let (port, mut src, mut dst) = self.ends();
        let p = port.0 as usize;
        let odd = match self.family {
            Family::V4 => [
                "255.255.255.255",
                "192.168.1.255",
                "203.0.113.255",
                "224.0.0.1",
                "224.0.0.251",
                "239.1.2.3",
                "0.0.0.0",
                "127.0.0.1",
                "0.0.0.1",
                "240.0.0.1",
                "192.168.1.12",
                "10.67.0.1",
                "192.168.1.11",
                "169.254.1.1",
                "192.168.1.1",
                "203.0.113.2",
            ],
            Family::V6 => [
                "2001:db8:77::8",
                "::1",
                "ff02::1",
                "ff02::2",
                "ff02::fb",
                "ff05::2",
                "ff0e::1",
                "fd66::1",
                "fd67::1",
                "fd68::1",
                "fe80::9",
                "fe80::ff:fe00:1",
                "fe80::ff:fe00:101",
                "::ffff:1.2.3.4",
                "fd00:1::1",
                "fd00:1::12",
            ],
        };
        let odd = address(self.rng.pick(&odd));
        // Nobody has a broadcast address, and the kernel would answer it by broadcast.
        // What the router itself sends to itself would come in again, which Sumun does not do.
        let everybody = self.family == Family::V4 && odd & 0xff == 0xff;
        let own = own(self.family).contains(&odd) || (odd >> 112 == 0xfe80 && odd as u16 != 9);
        if everybody || own || self.rng.chance(70) {
            dst = odd
        } else {
            src = odd
        }
        let ip = self.ip(src, dst);
        let ports = self.ports();
        let (icmp, echo) = of(self.family, (proto::ICMP, 8), (proto::ICMPV6, 128));
        let to_many = self.family == Family::V6 && dst >> 120 == 0xff;
        let (protocol, l4) = match self.rng.below(if to_many { 2 } else { 3 }) {
            0 => (proto::TCP, wire::tcp(ports, 1, 1, 0x02, &[], &[])),
            1 => (proto::UDP, wire::udp(ports, b"odd")),
            _ => (icmp, wire::icmp(echo, 0, 5, b"odd")),
        };
        let packet = ip.packet(protocol, &l4, 3);
        let multicast = match self.family {
            Family::V4 => dst >> 28 == 0xe,
            Family::V6 => dst >> 120 == 0xff,
        };
        let to = match self.rng.below(10) {
            _ if multicast => [1, 0, 0x5e, dst as u8 & 0x7f, 0, 1],
            0 => [0xff; 6],
            1 => [2, 0, 0, 0, 9, 9],
            _ => ROUTER[p],
        };
        self.steps.push(Step::Fresh { port, frame: wire::frame(self.family, HOST[p], to, &packet) });
    }

    /// Larger than the MTU of the other port.
    fn large(&mut self) {
        let (port, src, dst) = self.ends();
        let mut ip = self.ip(src, dst);
        ip.df = self.rng.chance(80);
        let ports = self.ports();
        let most = usize::from(MTU[port.0 as usize]) - of(self.family, 28, 48);
        let len = (self.rng.pick(&[1272, 1273, 1252, 1253, 1300, 1400]) - of(self.family, 0, 20)).min(most);
        let first = self.send(port, &ip, proto::UDP, &wire::udp(ports, &pattern(len)));
        if self.rng.chance(30) {
            self.answer(first, Answer::Reply { len: 11 });
        }
    }
}
