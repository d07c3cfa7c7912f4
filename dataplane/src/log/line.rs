//! The line that the kernel would write: `nf_log_ip_packet` and `nf_log_ip6_packet` of nf_log_syslog, blank for blank.
//!
//! Every piece ends with a space, so a line does too. Where a header is not all there, the line says so in the kernel's
//! words and, as the kernel's, ends there or goes on.

use super::LogEvent;
use crate::packet::extension::is_extension;
use crate::packet::view::{Icmp, Ipv4, Ipv6, Tcp, Udp};
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use sumun_config::facts::{Family, LOOPBACK, PortId, proto};

/// The line of an event, without time and level; `ports` are the names by [`PortId`].
pub fn line(event: &LogEvent, ports: &[String]) -> String {
    let mut out = String::with_capacity(512);
    let mut packet = Packet { event, bytes: event.bytes(), out: &mut out };
    // Writing to a String cannot fail.
    let _ = packet.line(ports);
    out
}

/// Whether the caller goes on with the line, or the kernel would have returned.
type Goes = Result<bool, fmt::Error>;
const ON: Goes = Ok(true);
const ENDS: Goes = Ok(false);

struct Packet<'a> {
    event: &'a LogEvent,
    bytes: &'a [u8],
    out: &'a mut String,
}

impl<'a> Packet<'a> {
    fn line(&mut self, ports: &[String]) -> fmt::Result {
        let event = self.event;
        if let Some(number) = event.audit {
            return self.audit(number);
        }
        let name = |port: PortId| match port {
            PortId::LOOPBACK => LOOPBACK,
            _ => port.index().and_then(|index| ports.get(index)).map_or("", String::as_str),
        };
        let prefix = event.prefix_text();
        write!(self.out, "{prefix}IN={} OUT={} ", name(event.iif), name(event.oif))?;
        if event.iif != PortId::NONE {
            self.mac()?;
        }
        let goes = match event.family {
            Family::V4 => self.ipv4(0, true)?,
            Family::V6 => self.ipv6(0, true)?,
        };
        if goes && event.mark != 0 {
            write!(self.out, "MARK=0x{:x} ", event.mark)?;
        }
        Ok(())
    }

    /// The record as the kernel prints it where no daemon takes it, under the number that it has for NETFILTER_PKT.
    fn audit(&mut self, number: u64) -> fmt::Result {
        let LogEvent { wall, mark, .. } = *self.event;
        let (seconds, millis) = (wall / 1_000_000_000, wall / 1_000_000 % 1000);
        write!(self.out, "audit: type=1324 audit({seconds}.{millis:03}:{number}): mark=0x{mark:x} ")?;
        match self.event.family {
            Family::V4 => match Ipv4::new(self.bytes) {
                Some(ip) => {
                    let (source, destination) = (Ipv4Addr::from(ip.source()), Ipv4Addr::from(ip.destination()));
                    write!(self.out, "saddr={source} daddr={destination} proto={}", ip.protocol())
                }
                None => self.out.write_str("saddr=? daddr=? proto=-1"),
            },
            Family::V6 => match Ipv6::new(self.bytes) {
                Some(ip) => {
                    let (source, destination) = (Ipv6Addr::from(ip.source()), Ipv6Addr::from(ip.destination()));
                    let upper = self.audited(ip.next_header()).unwrap_or(ip.next_header());
                    write!(self.out, "saddr={source} daddr={destination} proto={upper}")
                }
                None => self.out.write_str("saddr=? daddr=? proto=-1"),
            },
        }
    }

    /// The header behind IPv6 extension headers (`ipv6_skip_exthdr`), which is the fragment header in a later fragment.
    fn audited(&self, mut next: u8) -> Option<u8> {
        let mut at = Ipv6::LEN;
        while is_extension(next) {
            let header = self.from(at);
            let [following, len, ..] = *header else { return None };
            at += match next {
                proto::FRAGMENT => match u16::from_be_bytes([*header.get(2)?, *header.get(3)?]) & 0xfff8 {
                    0 => 8,
                    _ => return Some(next),
                },
                proto::AH => (usize::from(len) + 2) * 4,
                _ => (usize::from(len) + 1) * 8,
            };
            next = following;
        }
        (next != proto::NONE).then_some(next)
    }

    fn mac(&mut self) -> fmt::Result {
        let event = self.event;
        let ethertype = match event.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        };
        if event.macdecode {
            self.out.write_str("MACSRC=")?;
            self.colons(&event.smac)?;
            self.out.write_str(" MACDST=")?;
            self.colons(&event.dmac)?;
            return write!(self.out, " MACPROTO={ethertype:04x} ");
        }
        self.out.write_str("MAC=")?;
        if event.has_link {
            self.colons(&event.dmac)?;
            self.out.write_char(':')?;
            self.colons(&event.smac)?;
            write!(self.out, ":{:02x}:{:02x}", ethertype >> 8, ethertype & 0xff)?;
        }
        self.out.write_char(' ')
    }

    fn colons(&mut self, mac: &[u8; 6]) -> fmt::Result {
        let [a, b, c, d, e, f] = mac;
        write!(self.out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }

    /// What was kept of the packet from `at` on.
    fn from(&self, at: usize) -> &'a [u8] {
        self.bytes.get(at..).unwrap_or(&[])
    }

    /// Bytes of the packet from `at` on, as the kernel counts them.
    fn left(&self, at: usize) -> u32 {
        self.event.len.wrapping_sub(at as u32)
    }

    fn incomplete(&mut self, at: usize) -> fmt::Result {
        write!(self.out, "INCOMPLETE [{} bytes] ", self.left(at))
    }

    fn ipv4(&mut self, at: usize, is_outer: bool) -> Goes {
        let Some(ip) = Ipv4::new(self.from(at)) else {
            self.out.write_str("TRUNCATED")?;
            return ENDS;
        };
        let (source, destination) = (Ipv4Addr::from(ip.source()), Ipv4Addr::from(ip.destination()));
        write!(self.out, "SRC={source} DST={destination} LEN={} ", ip.total_len())?;
        let (tos, precedence) = (ip.tos() & 0x1e, ip.tos() & 0xe0);
        write!(self.out, "TOS=0x{tos:02X} PREC=0x{precedence:02X} TTL={} ID={} ", ip.ttl(), ip.id())?;
        for (bit, word) in [(0x8000, "CE "), (0x4000, "DF "), (0x2000, "MF ")] {
            if ip.fragment() & bit != 0 {
                self.out.write_str(word)?;
            }
        }
        let offset = ip.fragment() & 0x1fff;
        if offset != 0 {
            write!(self.out, "FRAG:{offset} ")?;
        }
        let l4 = at + ip.header_len();
        if self.event.ip_options && ip.header_len() > Ipv4::LEN {
            let Some(options) = self.bytes.get(at + Ipv4::LEN..l4) else {
                self.out.write_str("TRUNCATED")?;
                return ENDS;
            };
            self.options(options)?;
        }
        let is_later = offset != 0;
        match ip.protocol() {
            proto::TCP => return self.tcp(l4, is_later),
            proto::UDP | proto::UDPLITE => return self.udp(l4, is_later, ip.protocol()),
            proto::ICMP => {
                self.out.write_str("PROTO=ICMP ")?;
                if !is_later {
                    self.icmp(l4, is_outer)?;
                }
            }
            proto::AH => {
                self.out.write_str("PROTO=AH ")?;
                if !is_later {
                    self.spi(l4, 4, 12)?;
                }
            }
            proto::ESP => {
                self.out.write_str("PROTO=ESP ")?;
                if !is_later {
                    self.spi(l4, 0, 8)?;
                }
            }
            protocol => write!(self.out, "PROTO={protocol} ")?,
        }
        ON
    }

    fn ipv6(&mut self, at: usize, is_outer: bool) -> Goes {
        let Some(ip) = Ipv6::new(self.from(at)) else {
            self.out.write_str("TRUNCATED")?;
            return ENDS;
        };
        self.out.write_str("SRC=")?;
        self.ipv6_address(ip.source())?;
        self.out.write_str(" DST=")?;
        self.ipv6_address(ip.destination())?;
        write!(self.out, " LEN={} TC={} ", Ipv6::LEN + usize::from(ip.payload_len()), ip.traffic_class())?;
        write!(self.out, "HOPLIMIT={} FLOWLBL={} ", ip.hop_limit(), ip.flow_label())?;
        let Some((upper, l4, is_later)) = self.extensions(ip.next_header(), at + Ipv6::LEN)? else { return ENDS };
        match upper {
            proto::TCP => self.tcp(l4, is_later),
            proto::UDP | proto::UDPLITE => self.udp(l4, is_later, upper),
            proto::ICMPV6 => {
                self.out.write_str("PROTO=ICMPv6 ")?;
                if is_later { ON } else { self.icmpv6(l4, is_outer) }
            }
            upper => {
                write!(self.out, "PROTO={upper} ")?;
                ON
            }
        }
    }

    /// All groups with all digits.
    fn ipv6_address(&mut self, addr: u128) -> fmt::Result {
        for group in (0..8).rev() {
            let separator = if group == 0 { "" } else { ":" };
            write!(self.out, "{:04x}{separator}", addr >> (16 * group) & 0xffff)?;
        }
        Ok(())
    }

    /// The upper layer, its offset and whether this is a later fragment; none where the line ends.
    fn extensions(&mut self, mut next: u8, mut at: usize) -> Result<Option<(u8, usize, bool)>, fmt::Error> {
        let is_shown = self.event.ip_options;
        let mut is_later = false;
        while is_extension(next) || next == proto::ESP {
            let header = self.from(at);
            let [following, len, ..] = *header else {
                self.out.write_str("TRUNCATED")?;
                return Ok(None);
            };
            if is_shown {
                self.out.write_str("OPT ( ")?;
            }
            let ends = |packet: &mut Self| if is_shown { packet.out.write_char(')') } else { Ok(()) };
            at += match next {
                proto::FRAGMENT => {
                    let Some(fragment) = header.first_chunk::<8>() else {
                        self.out.write_str("FRAG:TRUNCATED ")?;
                        return Ok(None);
                    };
                    let word = u16::from_be_bytes([fragment[2], fragment[3]]);
                    let more = if word & 1 != 0 { "INCOMPLETE " } else { "" };
                    let id = u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]);
                    write!(self.out, "FRAG:{} {more}ID:{id:08x} ", word & 0xfff8)?;
                    is_later |= word & 0xfff8 != 0;
                    8
                }
                proto::AH | proto::ESP if is_shown => {
                    self.out.write_str(if next == proto::AH { "AH " } else { "ESP " })?;
                    let (spi, fixed) = if next == proto::AH { (4, 12) } else { (0, 8) };
                    let is_whole = header.len() >= fixed;
                    if !is_later {
                        self.spi(at, spi, fixed)?;
                    }
                    if is_later || !is_whole || next == proto::ESP {
                        ends(self)?;
                        return Ok(None);
                    }
                    (usize::from(len) + 2) * 4
                }
                proto::AH => (usize::from(len) + 2) * 4,
                proto::ESP => return Ok(None),
                _ if is_later => {
                    ends(self)?;
                    return Ok(None);
                }
                _ => (usize::from(len) + 1) * 8,
            };
            if is_shown {
                self.out.write_str(") ")?;
            }
            next = following;
        }
        Ok(Some((next, at, is_later)))
    }

    fn options(&mut self, options: &[u8]) -> fmt::Result {
        self.out.write_str("OPT (")?;
        options.iter().try_for_each(|byte| write!(self.out, "{byte:02X}"))?;
        self.out.write_str(") ")
    }

    /// The SPI at `within` of a header that has `fixed` bytes.
    fn spi(&mut self, at: usize, within: usize, fixed: usize) -> fmt::Result {
        let spi = self.from(at).get(..fixed).and_then(|header| header[within..].first_chunk());
        match spi {
            Some(spi) => write!(self.out, "SPI=0x{:x} ", u32::from_be_bytes(*spi)),
            None => self.incomplete(at),
        }
    }

    fn tcp(&mut self, at: usize, is_later: bool) -> Goes {
        self.out.write_str("PROTO=TCP ")?;
        if is_later {
            return ON;
        }
        let Some(tcp) = Tcp::new(self.from(at)) else {
            self.incomplete(at)?;
            return ENDS;
        };
        write!(self.out, "SPT={} DPT={} ", tcp.source(), tcp.destination())?;
        if self.event.tcp_sequence {
            write!(self.out, "SEQ={} ACK={} ", tcp.sequence(), tcp.acknowledgement())?;
        }
        // The lowest reserved bit is accurate ECN's and shown as a flag.
        write!(self.out, "WINDOW={} RES=0x{:02x} ", tcp.window(), (tcp.reserved() & 0xe) << 2)?;
        if tcp.reserved() & 1 != 0 {
            self.out.write_str("AE ")?;
        }
        for (bit, name) in ["CWR ", "ECE ", "URG ", "ACK ", "PSH ", "RST ", "SYN ", "FIN "].iter().enumerate() {
            if tcp.flags() & 0x80 >> bit != 0 {
                self.out.write_str(name)?;
            }
        }
        write!(self.out, "URGP={} ", tcp.urgent())?;
        if self.event.tcp_options && tcp.header_len() > Tcp::LEN {
            let Some(options) = self.bytes.get(at + Tcp::LEN..at + tcp.header_len()) else {
                self.out.write_str("OPT (TRUNCATED)")?;
                return ENDS;
            };
            self.options(options)?;
        }
        ON
    }

    fn udp(&mut self, at: usize, is_later: bool, protocol: u8) -> Goes {
        self.out.write_str(if protocol == proto::UDP { "PROTO=UDP " } else { "PROTO=UDPLITE " })?;
        if is_later {
            return ON;
        }
        let Some(udp) = Udp::new(self.from(at)) else {
            self.incomplete(at)?;
            return ENDS;
        };
        write!(self.out, "SPT={} DPT={} LEN={} ", udp.source(), udp.destination(), udp.length())?;
        ON
    }

    fn icmp(&mut self, at: usize, is_outer: bool) -> fmt::Result {
        let Some(icmp) = Icmp::new(self.from(at)) else { return self.incomplete(at) };
        write!(self.out, "TYPE={} CODE={} ", icmp.kind(), icmp.code())?;
        let required = match icmp.kind() {
            3 | 4 | 5 | 11 | 12 => 28,
            13 | 14 => 20,
            17 | 18 => 12,
            _ => 4,
        };
        if self.left(at) < required {
            return self.incomplete(at);
        }
        match icmp.kind() {
            0 | 8 => write!(self.out, "ID={} SEQ={} ", icmp.id(), icmp.sequence()),
            12 => write!(self.out, "PARAMETER={} ", icmp.rest() >> 24),
            kind @ (3 | 4 | 5 | 11) => {
                if kind == 5 {
                    write!(self.out, "GATEWAY={} ", Ipv4Addr::from(icmp.rest()))?;
                }
                if is_outer {
                    self.out.write_char('[')?;
                    self.ipv4(at + Icmp::LEN, false)?;
                    self.out.write_str("] ")?;
                }
                if (kind, icmp.code()) == (3, 4) {
                    write!(self.out, "MTU={} ", icmp.sequence())?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn icmpv6(&mut self, at: usize, is_outer: bool) -> Goes {
        let Some(icmp) = Icmp::new(self.from(at)) else {
            self.incomplete(at)?;
            return ENDS;
        };
        write!(self.out, "TYPE={} CODE={} ", icmp.kind(), icmp.code())?;
        match icmp.kind() {
            128 | 129 => write!(self.out, "ID={} SEQ={} ", icmp.id(), icmp.sequence())?,
            kind @ 1..=4 => {
                if kind == 4 {
                    write!(self.out, "POINTER={:08x} ", icmp.rest())?;
                }
                if is_outer {
                    self.out.write_char('[')?;
                    self.ipv6(at + Icmp::LEN, false)?;
                    self.out.write_str("] ")?;
                }
                if kind == 2 {
                    write!(self.out, "MTU={} ", icmp.rest())?;
                }
            }
            _ => {}
        }
        ON
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse::{self, Parsed};
    use crate::packet::sample;
    use crate::packet::vlan::Vlans;
    use crate::umem::Pool;
    use proptest::prelude::*;
    use sumun_config::facts::Facts;
    use sumun_config::rule::targets::log::Log;

    fn log(prefix: &str, options: &str) -> Log {
        Log {
            level: 4,
            prefix: prefix.into(),
            tcp_sequence: options.contains('s'),
            tcp_options: options.contains('t'),
            ip_options: options.contains('i'),
            uid: options.contains('u'),
            macdecode: options.contains('m'),
        }
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn lines_are_those_of_the_kernel() {
        let ports = ["r0".to_string()];
        let mut lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        while let (Some(frame), Some(expected)) = (lines.next(), lines.next()) {
            let mut bytes = unhex(frame);
            let (facts, l3, options) = match &expected[..1] {
                "O" => {
                    let family = if bytes[0] >> 4 == 4 { Family::V4 } else { Family::V6 };
                    let facts = parse::ip(family, &bytes).unwrap();
                    (Facts { oif: PortId(0), ..facts }, 0, "u")
                }
                kind => {
                    let mut untagged = Pool::fresh(1, 2048).take().unwrap();
                    assert!(untagged.set(&bytes));
                    assert_eq!(Vlans::of(&[]).untag(PortId(0), &mut untagged), Ok(PortId(0)));
                    bytes = untagged.bytes().to_vec();
                    let Parsed::Ip { facts, l3 } = parse::frame(&bytes, PortId(0), [2, 0, 0, 0, 0, 1]) else {
                        panic!("{frame}");
                    };
                    let mark = if kind == "D" { 0x1a } else { 0 };
                    let options = match kind {
                        "B" => "stiu",
                        "C" => "im",
                        _ => "",
                    };
                    (Facts { mark, ..facts }, usize::from(l3), options)
                }
            };
            let event = LogEvent::new(&log(&expected[..3], options), &facts, &bytes[l3..], 0);
            assert_eq!(line(&event, &ports), expected, "{frame}");
            count += 1;
        }
        assert!(count > 80);
    }

    #[test]
    fn an_audit_record_is_the_kernels() {
        let record = |family, bytes: &[u8]| {
            let facts = Facts { mark: 0x1a, len: bytes.len() as u16, ..Facts::blank(family) };
            line(&LogEvent::audit(7, &facts, bytes, 1_700_000_000_123_456_789), &[])
        };
        let before = "audit: type=1324 audit(1700000000.123:7): mark=0x1a ";
        let v4 = sample::packet(Family::V4, proto::UDP, &sample::udp(1, 2, b""));
        let (source, destination) = (
            Ipv4Addr::from_octets(*v4[12..].first_chunk().unwrap()),
            Ipv4Addr::from_octets(*v4[16..].first_chunk().unwrap()),
        );
        assert_eq!(record(Family::V4, &v4), format!("{before}saddr={source} daddr={destination} proto=17"));
        assert_eq!(record(Family::V4, &v4[..12]), format!("{before}saddr=? daddr=? proto=-1"));
        let proto_of = |next: u8, payload: &[u8]| {
            let line = record(Family::V6, &sample::packet(Family::V6, next, payload));
            line.split_once("proto=").unwrap().1.to_string()
        };
        assert_eq!(proto_of(0, &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]), "17");
        assert_eq!(proto_of(44, &[17, 0, 0, 8, 0, 0, 0, 9]), "44");
        assert_eq!(proto_of(44, &[17, 0, 0, 1, 0, 0, 0, 9]), "17");
        assert_eq!(proto_of(60, &[59, 0, 1, 4, 0, 0, 0, 0]), "60");
    }

    #[test]
    fn a_port_without_a_link_header_has_an_empty_mac() {
        let facts = Facts { iif: PortId(0), mark: 5, ..Facts::blank(Family::V4) };
        let event = LogEvent::new(&log("", ""), &facts, &[], 0);
        assert_eq!(line(&event, &["lo".into()]), "IN=lo OUT= MAC= TRUNCATED");
    }

    proptest! {
        #[test]
        fn any_packet_has_a_line(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), len: u16, next in 0usize..12, kind: u8, is_v6: bool) {
            let (family, at, first) = if is_v6 { (Family::V6, 6, 0x60) } else { (Family::V4, 9, 0x45) };
            if bytes.len() > 48 {
                bytes[0] = first;
                bytes[at] = [0, 1, 6, 17, 43, 44, 50, 51, 58, 60, 132, 136][next];
                bytes[if is_v6 { 40 } else { 20 }] = kind % 16;
            }
            let facts = Facts { len, mark: 1, ..Facts::blank(family) };
            let event = LogEvent::new(&log("all options: ", "stium"), &facts, &bytes, 0);
            prop_assert!(line(&event, &[]).starts_with("all options: IN= OUT= "));
        }
    }
}
