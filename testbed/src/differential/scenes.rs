//! Further scenes of the traffic: fragments, TCP dialogues that go astray, SCTP, tunnels, neighbour discovery, options.

use super::net::{HOST, LAN, MTU, ROUTER, WAN, of};
use super::traffic::{Answer, Step, Traffic, hosts, own, pattern};
use super::wire::{self, ACK, FIN, PSH, RST, SYN, URG, chunk, fragment, init, segment};
use sumun_config::facts::{Family, proto};

impl Traffic {
    /// A packet in fragments: in any order, some of them twice or never, now and then with an overlap.
    pub(super) fn fragments(&mut self) {
        let (port, src, dst) = self.ends();
        let ip = self.ip(src, dst);
        let len = self.rng.pick(&[60, 500, 1300, 1480, 2000, 2900]) + self.rng.below(16);
        let (icmp, echo) = of(self.family, (proto::ICMP, 8), (proto::ICMPV6, 128));
        let (protocol, l4) = match self.rng.below(4) {
            0 if !own(self.family).contains(&dst) => (icmp, wire::icmp(echo, 0, 0x4444_0001, &pattern(len))),
            1 => (proto::SCTP, wire::sctp((5000, 22), 0, &[init(1, 9), pattern(len / 4 * 4)].concat())),
            _ => {
                let ports = self.ports();
                (proto::UDP, wire::udp(ports, &pattern(len)))
            }
        };
        self.id = self.id.wrapping_add(1);
        let packet = ip.packet(protocol, &l4, self.id);
        let most = usize::from(MTU[port.0 as usize]) - of(self.family, 20, 48);
        let size = self.rng.pick(&[256, 504, 1000, 1200, most]) / 8 * 8;
        let size = size.min(most / 8 * 8);
        let id = u32::from(self.id);
        let mut pieces: Vec<_> =
            (0..l4.len()).step_by(size).map(|at| (at, fragment(&packet, at, size.min(l4.len() - at), id))).collect();
        // The kernel tells the sender when what is to itself stays in pieces, half a minute later.
        let is_awaited = self.family == Family::V4 && own(self.family).contains(&dst);
        if self.rng.chance(10) && pieces.len() > 1 && !is_awaited {
            let at = pieces[1].0 - 8;
            pieces.push((at, fragment(&packet, at, size.min(l4.len() - at), id)));
        }
        if self.rng.chance(10) && !is_awaited {
            let again = self.rng.below(pieces.len());
            pieces.push(pieces[again].clone());
        }
        if self.rng.chance(40) {
            for i in (1..pieces.len()).rev() {
                pieces.swap(i, self.rng.below(i + 1));
            }
        }
        if self.rng.chance(10) && !is_awaited {
            pieces.remove(self.rng.below(pieces.len()));
        }
        let first = self.len();
        for (_, piece) in &pieces {
            self.push(port, piece);
        }
        if pieces.is_empty() {
            return;
        }
        let last = first + pieces.len() - 1;
        match self.rng.below(4) {
            0 => self.answer(last, Answer::Reply { len: 11 }),
            1 => self.error(last),
            _ => {}
        }
    }

    /// Segments of one connection from both sides, most of them as they should be.
    pub(super) fn dialogue(&mut self) {
        let (port, src, dst) = self.ends();
        let ports = self.ports();
        let ip = self.ip(src, dst);
        let mut next = [1000 + self.rng.below(1 << 30) as u32, 0xffff_ff00u32.wrapping_add(self.rng.below(512) as u32)];
        let options: &[u8] =
            self.rng.pick(&[&[][..], &[2, 4, 5, 0xb4, 3, 3, 2, 1], &[2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 1, 1, 1]]);
        let syn = segment(SYN).seq(next[0]).options(options).bytes(ports);
        let syn = self.send(port, &ip, proto::TCP, &syn);
        next[0] += 1;
        for n in 0..4 + self.rng.below(10) {
            let client = if n == 0 { false } else { self.rng.chance(55) };
            let (own, other) = if client { (0, 1) } else { (1, 0) };
            let usual = if n == 0 { SYN | ACK } else { ACK };
            let flags = match self.rng.below(10) {
                0..=6 => usual,
                7 => FIN | ACK,
                8 => self.rng.pick(&[RST, RST | ACK, SYN, SYN | ACK]),
                _ => self.rng.pick(&[PSH | ACK, URG | ACK, FIN, 0, SYN | FIN]),
            };
            let astray = |t: &mut Traffic| match t.rng.below(12) {
                0 => t.rng.pick(&[1u32, u32::MAX, 100, 70_000, 1 << 20, 1 << 31]),
                _ => 0,
            };
            let len = if flags & (SYN | RST) == 0 && self.rng.chance(40) { self.rng.below(600) } else { 0 };
            let seq = next[own].wrapping_add(astray(self));
            let ack = if flags & ACK != 0 { next[other].wrapping_add(astray(self)) } else { 0 };
            if client {
                let window = self.rng.pick(&[0xffff, 0xffff, 1000, 0]);
                let l4 = segment(flags).seq(seq).ack(ack).window(window).data(len).bytes(ports);
                self.send(port, &ip, proto::TCP, &l4);
            } else {
                self.answer(syn, Answer::Segment { seq, ack, flags, len });
            }
            let said = len as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            if seq == next[own] {
                next[own] = next[own].wrapping_add(said);
            }
        }
    }

    /// An association, or what looks like one.
    pub(super) fn association(&mut self) {
        let (port, src, dst) = self.ends();
        let ports = self.ports();
        let ip = self.ip(src, dst);
        let tags = (self.rng.next() as u32 | 1, self.rng.next() as u32 | 1);
        let first = self.send(port, &ip, proto::SCTP, &wire::sctp(ports, 0, &init(1, tags.0)));
        let steps = [
            (false, 2u8),
            (true, 10),
            (false, 11),
            (true, 0),
            (false, 3),
            (true, 4),
            (false, 5),
            (true, 7),
            (false, 8),
            (true, 14),
        ];
        let most = 1 + self.rng.below(steps.len());
        for (client, kind) in &steps[..most] {
            let kind = if self.rng.chance(8) { self.rng.below(16) as u8 } else { *kind };
            let tag = if *client { tags.1 } else { tags.0 };
            let tag = if self.rng.chance(5) { 0 } else { tag };
            let chunks = match kind {
                1 | 2 => init(kind, if *client { tags.0 } else { tags.1 }),
                _ => chunk(kind, self.rng.below(2) as u8, &[0; 12]),
            };
            match client {
                true => {
                    self.send(port, &ip, proto::SCTP, &wire::sctp(ports, tag, &chunks));
                }
                false => self.answer(first, Answer::Chunks { tag, chunks }),
            }
            if self.rng.chance(5) {
                self.error(first);
            }
        }
    }

    /// GRE of both kinds, and of none.
    pub(super) fn tunnel(&mut self) {
        let (port, src, dst) = self.ends();
        let ip = self.ip(src, dst);
        let l4: &[u8] = self.rng.pick(&[
            &[0, 0, 8, 0, 1, 2, 3, 4][..],
            &[0x30, 1, 0x88, 0x0b, 0, 4, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4],
            &[0x30, 1, 0x88, 0x0b, 0, 4, 0, 10, 0, 0, 0, 1, 1, 2, 3, 4],
            &[0x20, 0, 8, 0, 0, 0, 0, 7, 1, 2, 3, 4],
            &[0, 1, 8, 0, 0, 4, 0, 9],
        ]);
        let first = self.send(port, &ip, proto::GRE, l4);
        match self.rng.below(4) {
            0..=1 => self.answer(first, Answer::Reply { len: 0 }),
            2 => self.error(first),
            _ => {}
        }
    }

    /// Somebody on a link asks who has an address, or says so. IPv6 only.
    pub(super) fn discovery(&mut self) {
        if self.family == Family::V4 {
            return self.ping();
        }
        let port = self.rng.pick(&[LAN, WAN]);
        let p = port.0 as usize;
        // Of hosts that the kernel knows for good: others it would ask for later.
        let (lan, wan) = hosts(self.family);
        let src = if port == LAN { self.rng.pick(&lan) } else { self.rng.pick(&wan[..2]) };
        let target = self.rng.pick(&own(self.family));
        let node = 0xff02 << 112 | 0x0001_ff00_0000 | (target & 0xff_ffff);
        let dst = if self.rng.chance(50) { target } else { node };
        let mut ip = self.ip(src, dst);
        ip.ttl = if self.rng.chance(85) { 255 } else { 64 };
        let mut body = target.to_be_bytes().to_vec();
        if self.rng.chance(60) {
            body.extend([1, 1]);
            body.extend(HOST[p]);
        }
        let kind = if self.rng.chance(80) { 135 } else { 136 };
        let packet = ip.packet(proto::ICMPV6, &wire::icmp(kind, 0, 0, &body), 1);
        let to =
            if dst == node { [0x33, 0x33, 0xff, (node >> 16) as u8, (node >> 8) as u8, node as u8] } else { ROUTER[p] };
        let frame = wire::frame(self.family, HOST[p], to, &packet);
        self.step(Step::Fresh { port, frame });
    }

    /// IPv4 options or IPv6 extension headers.
    pub(super) fn optional(&mut self) {
        let (port, src, dst) = self.ends();
        let mut ip = self.ip(src, dst);
        match self.family {
            Family::V4 => {
                ip.options = self
                    .rng
                    .pick(&[
                        &[1, 1, 1, 0][..],
                        &[148, 4, 0, 0],
                        &[131, 7, 4, 203, 0, 113, 9, 0],
                        &[137, 7, 4, 203, 0, 113, 9, 0],
                        &[130, 4, 0, 0],
                        &[200, 0, 0, 0],
                        &[200, 9, 0, 0],
                        &[200, 4, 0, 0],
                    ])
                    .to_vec();
            }
            Family::V6 => {
                let headers: [(u8, &[u8]); 4] = [
                    (0, &[17, 0, 1, 4, 0, 0, 0, 0]),
                    (0, &[17, 0, 5, 2, 0, 0, 1, 0]),
                    (60, &[17, 0, 1, 4, 0, 0, 0, 0]),
                    (43, &[17, 0, 0, 0, 0, 0, 0, 0]),
                ];
                let (number, header) = self.rng.pick(&headers);
                (ip.extension, ip.options) = (number, header.to_vec());
            }
        }
        let ports = self.ports();
        let first = self.send(port, &ip, proto::UDP, &wire::udp(ports, b"options"));
        if self.rng.chance(30) {
            self.answer(first, Answer::Reply { len: 11 });
        }
    }
}
