//! The bytes of an answer: a whole IP packet at the start of an empty frame, with the headroom for a link header kept.
//!
//! Errors are `icmp_send`'s and `icmp6_send`'s, resets are `nf_send_reset`'s and `nf_send_reset6`'s. A false means that
//! none is due or that it does not fit, and leaves the frame empty.

use super::Error;
use super::due::is_one_host;
use crate::packet::checksum::Sum;
use crate::packet::extension;
use crate::packet::parse::l4_checksum_ok;
use crate::packet::view::{DONT_FRAGMENT, Icmp, Ipv4, Ipv6, Tcp, tcp_flag};
use crate::umem::Frame;
use sumun_config::facts::{Facts, Family, proto};

/// Most bytes of an IPv4 error: what every host takes (RFC 1812 section 4.3.2.3).
const IPV4_LONGEST: usize = 576;
/// Most bytes of an IPv6 error: the least MTU (RFC 4443 section 2.4 (c)).
const IPV6_LONGEST: usize = 1280;
/// Keep the TOS bits and say "internetwork control" (RFC 1812 section 4.3.2.5).
const TOS_KEPT: u8 = 0x1e;
const TOS_CONTROL: u8 = 0xc0;

/// Writes the error about a packet (`facts` and `l3`) from `source` back to its source. Ask [`is_due`](super::is_due) first.
pub fn build_error(error: Error, facts: &Facts, l3: &[u8], source: u128, hop_limit: u8, into: &mut Frame) -> bool {
    let family = facts.family;
    let (header_len, longest, protocol) = match family {
        Family::V4 => (Ipv4::LEN, IPV4_LONGEST, proto::ICMP),
        Family::V6 => (Ipv6::LEN, IPV6_LONGEST, proto::ICMPV6),
    };
    let quote = &l3[..usize::from(facts.len).min(l3.len()).min(longest - header_len - Icmp::LEN)];
    let len = header_len + Icmp::LEN + quote.len();
    into.reset();
    if !into.resize(len) {
        return false;
    }
    let (kind, code, rest) = error.message(family);
    let rest = match (family, error) {
        (Family::V6, Error::ProtoUnreachable) => next_header_at(l3).unwrap_or(rest),
        _ => rest,
    };
    let (ip, message) = into.bytes_mut().split_at_mut(header_len);
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    message[8..].copy_from_slice(quote);
    let pseudo = match family {
        Family::V4 => Sum::new(),
        Family::V6 => Sum::new().pseudo(source, facts.src, protocol, message.len()),
    };
    let check = pseudo.bytes(message).checksum();
    message[2..4].copy_from_slice(&check.to_be_bytes());
    match family {
        Family::V4 => {
            let tos = facts.tos & TOS_KEPT | TOS_CONTROL;
            // May be fragmented, so it needs an identification that differs from packet to packet; its checksum does.
            ipv4_header(ip, len, protocol, (source, facts.src), hop_limit, tos, check, 0);
        }
        Family::V6 => ipv6_header(ip, len, protocol, (source, facts.src), hop_limit),
    }
    true
}

/// Writes the reset that answers a TCP segment. False where none is due: not TCP, a fragment, a reset itself, a wrong
/// checksum, not from one host to one host.
pub fn build_tcp_reset(facts: &Facts, l3: &[u8], hop_limit: u8, into: &mut Frame) -> bool {
    into.reset();
    let family = facts.family;
    let is_between_hosts = is_one_host(family, facts.src) && is_one_host(family, facts.dst);
    if facts.proto != proto::TCP || facts.is_fragment() || !facts.has_l4 || !is_between_hosts {
        return false;
    }
    let Some(segment) = l3.get(usize::from(facts.l4_off)..usize::from(facts.len)) else { return false };
    let Some(tcp) = Tcp::new(segment) else { return false };
    if tcp.flags() & tcp_flag::RST != 0 || !l4_checksum_ok(facts, l3) {
        return false;
    }
    // RFC 9293 section 3.5.2: in the place that the sender awaits, or acknowledging all that it sent.
    let (sequence, acknowledgement, flags) = if tcp.flags() & tcp_flag::ACK != 0 {
        (tcp.acknowledgement(), 0, tcp_flag::RST)
    } else {
        let has = |flag| u32::from(tcp.flags() & flag != 0);
        let counted = has(tcp_flag::SYN) + has(tcp_flag::FIN);
        let payload = (segment.len() as u32).wrapping_sub(tcp.header_len() as u32);
        (0, tcp.sequence().wrapping_add(counted).wrapping_add(payload), tcp_flag::RST | tcp_flag::ACK)
    };
    let reset = Segment {
        family,
        addresses: (facts.dst, facts.src),
        ports: (tcp.destination(), tcp.source()),
        seq: sequence,
        ack: acknowledgement,
        flags,
        window: 0,
        options: &[],
    };
    reset.build(hop_limit, into)
}

/// A TCP segment of the router's own, without data.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its family.
    pub family: Family,
    /// Source and destination.
    pub addresses: (u128, u128),
    /// Source and destination.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, whether or not the flags say that it is one.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window, as in the header.
    pub window: u16,
    /// Options: a multiple of four bytes, at most 40.
    pub options: &'a [u8],
}

impl Segment<'_> {
    /// Writes the segment as a whole IP packet that may not be fragmented; false where it does not fit.
    pub fn build(&self, hop_limit: u8, into: &mut Frame) -> bool {
        let &Segment { family, addresses, .. } = self;
        let header_len = match family {
            Family::V4 => Ipv4::LEN,
            Family::V6 => Ipv6::LEN,
        };
        let tcp_len = Tcp::LEN + self.options.len();
        let len = header_len + tcp_len;
        into.reset();
        if !into.resize(len) {
            return false;
        }
        let (ip, tcp) = into.bytes_mut().split_at_mut(header_len);
        tcp.fill(0);
        tcp[0..2].copy_from_slice(&self.ports.0.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = ((tcp_len / 4) << 4) as u8;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[Tcp::LEN..].copy_from_slice(self.options);
        let check = Sum::new().pseudo(addresses.0, addresses.1, proto::TCP, tcp_len).bytes(tcp).checksum();
        tcp[16..18].copy_from_slice(&check.to_be_bytes());
        match family {
            Family::V4 => ipv4_header(ip, len, proto::TCP, addresses, hop_limit, 0, 0, DONT_FRAGMENT),
            Family::V6 => ipv6_header(ip, len, proto::TCP, addresses, hop_limit),
        }
        true
    }
}

/// Offset of the field that names the upper layer of an IPv6 packet.
fn next_header_at(l3: &[u8]) -> Option<u32> {
    let header = Ipv6::new(l3)?;
    extension::walk(l3, header.next_header()).map(|upper| upper.named_at as u32)
}

#[allow(clippy::too_many_arguments, reason = "the fields of a header")]
fn ipv4_header(
    ip: &mut [u8],
    len: usize,
    protocol: u8,
    addresses: (u128, u128),
    ttl: u8,
    tos: u8,
    id: u16,
    fragment: u16,
) {
    ip[0] = 0x45;
    ip[1] = tos;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip[8] = ttl;
    ip[9] = protocol;
    ip[10..12].fill(0);
    ip[12..16].copy_from_slice(&(addresses.0 as u32).to_be_bytes());
    ip[16..20].copy_from_slice(&(addresses.1 as u32).to_be_bytes());
    let check = Sum::new().bytes(ip).checksum();
    ip[10..12].copy_from_slice(&check.to_be_bytes());
}

fn ipv6_header(ip: &mut [u8], len: usize, protocol: u8, addresses: (u128, u128), hop_limit: u8) {
    ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    ip[4..6].copy_from_slice(&((len - Ipv6::LEN) as u16).to_be_bytes());
    ip[6] = protocol;
    ip[7] = hop_limit;
    ip[8..24].copy_from_slice(&addresses.0.to_be_bytes());
    ip[24..40].copy_from_slice(&addresses.1.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::sample::{self, packet, v4, v6};
    use crate::umem::Pool;
    use proptest::prelude::*;

    const ROUTER: u128 = 0xc0a8_0001;

    fn frame() -> Frame {
        Pool::fresh(1, 2048).take().unwrap()
    }

    fn error(error: Error, family: Family, bytes: &[u8]) -> (Facts, Vec<u8>) {
        let facts = parse::ip(family, bytes).unwrap();
        let mut into = frame();
        assert!(build_error(error, &facts, bytes, ROUTER, 64, &mut into));
        let answer = parse::ip(family, into.bytes()).unwrap();
        assert!(parse::l4_checksum_ok(&answer, into.bytes()));
        assert_eq!((answer.src, answer.dst, usize::from(answer.len)), (ROUTER, facts.src, into.len()));
        (answer, into.bytes().to_vec())
    }

    /// What the kernel chooses anew for each packet: the identification of errors and what follows from it, flow labels.
    fn masked(mut bytes: Vec<u8>) -> Vec<u8> {
        match bytes[0] >> 4 {
            4 if bytes[9] == proto::ICMP => {
                bytes[4..6].fill(0);
                bytes[10..12].fill(0);
            }
            6 => {
                bytes[1] &= 0xf0;
                bytes[2..4].fill(0);
            }
            _ => {}
        }
        bytes
    }

    #[test]
    fn answers_are_those_of_the_kernel() {
        let unhex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
        };
        let lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (packet, expected) = line.split_once(' ').unwrap();
            let bytes = unhex(packet);
            let family = if bytes[0] >> 4 == 4 { Family::V4 } else { Family::V6 };
            let facts = parse::ip(family, &bytes).unwrap();
            let mut into = frame();
            let is_sent = if facts.proto == proto::TCP {
                build_tcp_reset(&facts, &bytes, 64, &mut into)
            } else {
                super::super::is_reject_due(&facts, &bytes)
                    && build_error(Error::PortUnreachable, &facts, &bytes, facts.dst, 64, &mut into)
            };
            assert_eq!(is_sent, expected != "-", "{line}");
            if is_sent {
                assert_eq!(masked(into.bytes().to_vec()), masked(unhex(expected)), "{line}");
            }
        }
    }

    #[test]
    fn an_ipv4_error_quotes_the_packet() {
        let bytes = v4(proto::UDP, &sample::udp(1, 2, b"payload"));
        let (answer, error) = error(Error::FragNeeded { mtu: 1400 }, Family::V4, &bytes);
        assert_eq!((answer.tos, answer.ttl, answer.dont_frag, answer.len), (0xd0, 64, false, 28 + 35));
        assert_eq!(error[20..22], [3, 4]);
        assert_eq!(error[24..28], [0, 0, 0x05, 0x78]);
        assert_eq!(error[28..], bytes);
    }

    #[test]
    fn an_ipv6_error_quotes_the_packet() {
        let bytes = v6(proto::UDP, &sample::udp(1, 2, b"payload"));
        let (answer, error) = error(Error::FragNeeded { mtu: 1400 }, Family::V6, &bytes);
        assert_eq!((answer.tos, answer.flow_label, answer.ttl, answer.len), (0, 0, 64, 48 + 55));
        assert_eq!(error[40..42], [2, 0]);
        assert_eq!(error[44..48], [0, 0, 0x05, 0x78]);
        assert_eq!(error[48..], bytes);
    }

    #[test]
    fn quotes_are_cut_and_padding_is_not_quoted() {
        for (family, longest) in [(Family::V4, 576), (Family::V6, 1280)] {
            let bytes = packet(family, proto::UDP, &sample::udp(1, 2, &[7; 1400]));
            assert_eq!(error(Error::TimeExceeded, family, &bytes).1.len(), longest);
            let mut padded = packet(family, proto::UDP, &sample::udp(1, 2, b""));
            let len = padded.len();
            padded.extend([0xee; 18]);
            let answer = error(Error::TimeExceeded, family, &padded).1;
            assert_eq!(answer[answer.len() - len..], padded[..len]);
        }
    }

    #[test]
    fn the_family_picks_type_and_code() {
        let cases = [
            (Error::TimeExceeded, (11, 0), (3, 0)),
            (Error::FragReassembly, (11, 1), (3, 1)),
            (Error::NetUnreachable, (3, 0), (1, 0)),
            (Error::HostUnreachable, (3, 1), (1, 3)),
            (Error::ProtoUnreachable, (3, 2), (4, 1)),
            (Error::PortUnreachable, (3, 3), (1, 4)),
            (Error::NetProhibited, (3, 9), (1, 1)),
            (Error::HostProhibited, (3, 10), (1, 1)),
            (Error::AdminProhibited, (3, 13), (1, 1)),
            (Error::PolicyFail, (3, 13), (1, 5)),
            (Error::RejectRoute, (3, 13), (1, 6)),
        ];
        for (what, with_v4, with_v6) in cases {
            for (family, expected) in [(Family::V4, with_v4), (Family::V6, with_v6)] {
                let bytes = packet(family, proto::UDP, &sample::udp(1, 2, b""));
                assert_eq!(error(what, family, &bytes).0.icmp(), Some(expected), "{what:?}");
            }
        }
    }

    #[test]
    fn problems_point_at_their_field() {
        let bytes = v4(proto::UDP, &sample::udp(1, 2, b""));
        let problem = error(Error::ParamProblem { code: 0, pointer: 22 }, Family::V4, &bytes).1;
        assert_eq!(problem[20..28], [&[12, 0][..], &problem[22..24], &[22, 0, 0, 0]].concat());
        let bytes = v6(proto::DSTOPTS, &[99, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(error(Error::ProtoUnreachable, Family::V6, &bytes).1[44..48], [0, 0, 0, 40]);
        let bytes = v6(99, &[]);
        assert_eq!(error(Error::ProtoUnreachable, Family::V6, &bytes).1[44..48], [0, 0, 0, 6]);
    }

    fn reset(family: Family, bytes: &[u8]) -> Option<(Facts, Vec<u8>)> {
        let facts = parse::ip(family, bytes).unwrap();
        let mut into = frame();
        if !build_tcp_reset(&facts, bytes, 64, &mut into) {
            assert!(into.is_empty());
            return None;
        }
        let answer = parse::ip(family, into.bytes()).unwrap();
        assert!(parse::l4_checksum_ok(&answer, into.bytes()));
        assert_eq!((answer.src, answer.dst), (facts.dst, facts.src));
        assert_eq!((answer.sport, answer.dport), (facts.dport, facts.sport));
        Some((answer, into.bytes()[usize::from(answer.l4_off)..].to_vec()))
    }

    #[test]
    fn a_syn_is_acknowledged_and_an_ack_answered_in_its_place() {
        for family in Family::ALL {
            let syn = packet(family, proto::TCP, &sample::tcp(1000, 80, tcp_flag::SYN, &[1, 1, 1, 1], b""));
            let (answer, bytes) = reset(family, &syn).unwrap();
            assert_eq!((answer.tcp_flags, answer.ttl, answer.tos, answer.ip_id), (0x14, 64, 0, 0));
            assert_eq!(answer.dont_frag, family == Family::V4);
            assert_eq!(bytes[4..12], [0, 0, 0, 0, 0x11, 0x22, 0x33, 0x45]);
            assert_eq!(bytes[12..16], [0x50, 0x14, 0, 0]);

            let fin = packet(family, proto::TCP, &sample::tcp(1000, 80, tcp_flag::FIN, &[], b"abc"));
            assert_eq!(reset(family, &fin).unwrap().1[4..12], [0, 0, 0, 0, 0x11, 0x22, 0x33, 0x48]);

            let ack = packet(family, proto::TCP, &sample::tcp(1000, 80, tcp_flag::ACK | tcp_flag::PSH, &[], b"abc"));
            let (answer, bytes) = reset(family, &ack).unwrap();
            assert_eq!(answer.tcp_flags, tcp_flag::RST);
            assert_eq!(bytes[4..12], [0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn no_reset_where_none_is_due() {
        let reset_itself = v4(proto::TCP, &sample::tcp(1, 2, tcp_flag::RST | tcp_flag::ACK, &[], b""));
        assert!(reset(Family::V4, &reset_itself).is_none());
        assert!(reset(Family::V4, &v4(proto::UDP, &sample::udp(1, 2, b""))).is_none());
        assert!(reset(Family::V4, &v4(proto::TCP, &[0; 19])).is_none());
        let first = sample::v4_with(&[], 0x2000, proto::TCP, &sample::tcp(1, 2, 2, &[], b""));
        assert!(reset(Family::V4, &first).is_none());
        let mut wrong = v6(proto::TCP, &sample::tcp(1, 2, 2, &[], b"x"));
        *wrong.last_mut().unwrap() ^= 1;
        assert!(reset(Family::V6, &wrong).is_none());
    }

    proptest! {
        #[test]
        fn any_packet_can_be_answered(bytes in proptest::collection::vec(any::<u8>(), 0..80), l4_off: u16, len: u16, proto: u8, is_v6: bool) {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let facts = Facts { src: 1, dst: 2, proto, l4_off: l4_off % 90, len: len % 90, has_l4: true, ..Facts::blank(family) };
            let mut into = frame();
            prop_assert!(build_error(Error::ProtoUnreachable, &facts, &bytes, ROUTER, 64, &mut into));
            let _ = build_tcp_reset(&Facts { proto: proto::TCP, ..facts }, &bytes, 64, &mut into);
            let _ = super::super::is_reject_due(&facts, &bytes);
        }
    }
}
