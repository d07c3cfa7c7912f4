//! FTP (RFC 959, RFC 2428): the ends tell each other where the data connection goes to (`nf_conntrack_ftp.c`).
//!
//! | side | line | names |
//! |---|---|---|
//! | client | `PORT h1,h2,h3,h4,p1,p2` | where the client listens |
//! | client | `EPRT \|1\|132.235.1.2\|6275\|`, `EPRT \|2\|1080::8:800:200C:417A\|5282\|` | the same |
//! | server | `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)` | where the server listens |
//! | server | `229 Entering Extended Passive Mode (\|\|\|6446\|)` | the same, at the address of the control connection |
//!
//! Only segments that begin where a line begins are read, so that nobody can hide a line in the middle of a file name: the
//! last two places of each side behind a line feed are remembered ([`Lines`]). A segment that ends within such a line is
//! dropped, since what follows could not be understood; its sender repeats it with more. An address that is not the
//! speaker's own is not followed (`loose` off): it would open the way to a third host.

use super::{Class, Exchange, Mask, Protocol, Wanted, from_any_port};
use crate::conntrack::helped::MEMORY;
use crate::conntrack::tcp::{after, before};
use crate::reason::DropReason;
use std::io::Write;
use std::net::Ipv6Addr;
use std::ops::Range;
use sumun_config::facts::{CtState, Dir, Family};
use sumun_config::helper::Helper;

/// FTP
pub static PROTOCOL: Protocol =
    Protocol { helper: Helper::Ftp, port: 21, classes: &[Class { most: 1, seconds: 300 }], help };

/// A line that names an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Port,
    Eprt,
    Pasv,
    Epsv,
}

/// What a segment says.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    /// Nothing of interest.
    Nothing,
    /// The beginning of a line of interest, or one that makes no sense.
    Partly,
    /// Where the other side is to connect to.
    Listens { kind: Kind, at: Range<usize>, address: u128, port: u16 },
}

/// An address and port as written, and how many bytes that took.
type Number = Option<(u128, u16, usize)>;

fn help(x: &mut Exchange) -> Result<(), DropReason> {
    // Until both sides have spoken nothing is read.
    if x.state != CtState::Established {
        return Ok(());
    }
    let Some((seq, data)) = x.stream() else { return Ok(()) };
    let own = x.tuples[x.dir as usize];
    let next = data.ends_with(b"\n").then(|| seq.wrapping_add(data.len() as u32));
    let lines = Lines::of(&x.memory(), x.dir);
    let said = if lines.begins_at(seq) { read(x.dir, own.family, own.src, data) } else { Said::Nothing };
    match said {
        Said::Partly => return Err(DropReason::HelperPartial),
        Said::Listens { kind, at, address, port } if address == own.src => announce(x, kind, at, port)?,
        Said::Listens { .. } | Said::Nothing => {}
    }
    if let Some(next) = next {
        let mut memory = x.memory();
        let mut lines = Lines::of(&memory, x.dir);
        lines.ends_at(next);
        lines.write(&mut memory, x.dir);
        x.remember(&memory);
    }
    Ok(())
}

/// Expects the data connection, and tells the other side the address that it can reach.
fn announce(x: &mut Exchange, kind: Kind, at: Range<usize>, port: u16) -> Result<(), DropReason> {
    let back = x.tuples[x.dir.other() as usize];
    let tuple = from_any_port(crate::conntrack::Tuple { dport: port, ..back });
    let mut wanted = Wanted { tuple, mask: Mask::any_port(back.family), class: 0, follow: None };
    if !x.is_mapped() {
        return x.expect(&wanted).map_err(|_| DropReason::ExpectationRefused);
    }
    wanted.follow = Some(x.follow(x.dir.other(), port));
    let port = x.expect_near(&mut wanted).map_err(|_| DropReason::ExpectationRefused)?;
    let mut text = [0; TEXT];
    let len = write(kind, back.family, back.dst, port, &mut text);
    if !x.replace(at, &text[..len]) {
        x.unexpect();
        return Err(DropReason::HelperNoRoom);
    }
    Ok(())
}

/// Reads a segment at whose beginning a line begins.
fn read(dir: Dir, family: Family, source: u128, data: &[u8]) -> Said {
    // Of an IPv6 address PORT and 227 could name the first four bytes only.
    let whole = |(address, port, len): (u128, u16, usize)| match family {
        Family::V4 => (address, port, len),
        Family::V6 => (source << 32 >> 32 | address << 96, port, len),
    };
    let said = |kind: Kind| match kind {
        Kind::Port => find(data, b"PORT", Some(b' '), |d| address_and_port(d, Some(b'\r')).map(whole)),
        Kind::Eprt => find(data, b"EPRT", Some(b' '), |d| extended(family, d)),
        Kind::Pasv => find(data, b"227 ", None, |d| address_and_port(d, None).map(whole)),
        Kind::Epsv => find(data, b"229 ", Some(b'('), |d| port_alone(source, d)),
    };
    let kinds = match dir {
        Dir::Original => [Kind::Port, Kind::Eprt],
        Dir::Reply => [Kind::Pasv, Kind::Epsv],
    };
    for kind in kinds {
        match said(kind) {
            None => {}
            Some(None) => return Said::Partly,
            Some(Some((at, address, port))) => return Said::Listens { kind, at, address, port },
        }
    }
    Said::Nothing
}

/// None where a segment does not begin with the pattern as far as it goes; else where the number is, unless it is partial.
fn find(
    data: &[u8],
    pattern: &[u8],
    skip: Option<u8>,
    number: impl Fn(&[u8]) -> Number,
) -> Option<Option<(Range<usize>, u128, u16)>> {
    let begins = data.iter().zip(pattern).all(|(a, b)| a.eq_ignore_ascii_case(b));
    if !begins || data.is_empty() {
        return None;
    }
    let rest = data.get(pattern.len()..).unwrap_or_default();
    let start = match skip {
        Some(skip) => rest.iter().position(|b| *b == skip).map(|at| at + 1),
        // RFC 1123 4.1.2.6: the answer to PASV is searched for its first digit.
        None => rest.iter().position(u8::is_ascii_digit),
    };
    Some(start.map(|start| start + pattern.len()).and_then(|start| {
        let (address, port, len) = number(data.get(start..)?)?;
        Some((start..start + len, address, port))
    }))
}

/// Numbers with a separator, ended by this byte or, without one, by any other; how many bytes they took.
fn numbers<const N: usize>(data: &[u8], separator: u8, end: Option<u8>) -> Option<([u32; N], usize)> {
    let mut numbers = [0u32; N];
    let mut at = 0;
    for (len, byte) in data.iter().enumerate() {
        match *byte {
            b'0'..=b'9' => numbers[at] = numbers[at].wrapping_mul(10).wrapping_add(u32::from(byte - b'0')),
            byte if byte == separator => {
                at += 1;
                if at == N {
                    return None;
                }
            }
            byte => return (end.is_none_or(|end| end == byte) && at == N - 1 && len != 0).then_some((numbers, len)),
        }
    }
    None
}

fn v4(n: &[u32]) -> u128 {
    n.iter().take(4).fold(0u32, |address, n| address << 8 | n).into()
}

/// `h1,h2,h3,h4,p1,p2`
fn address_and_port(data: &[u8], end: Option<u8>) -> Number {
    let (n, len) = numbers::<6>(data, b',', end)?;
    Some((v4(&n), (n[4] << 8 | n[5]) as u16, len))
}

/// The delimiter that an RFC 2428 argument begins with.
fn delimiter(data: &[u8]) -> Option<u8> {
    let delimiter = *data.first()?;
    (data.len() > 3 && delimiter.is_ascii_graphic() && !delimiter.is_ascii_digit()).then_some(delimiter)
}

/// `|1|132.235.1.2|6275|` or `|2|1080::8:800:200C:417A|5282|`
fn extended(family: Family, data: &[u8]) -> Number {
    let end = delimiter(data)?;
    let digit = match family {
        Family::V4 => b'1',
        Family::V6 => b'2',
    };
    if data[1] != digit || data[2] != end {
        return None;
    }
    let (address, len) = match family {
        Family::V4 => numbers::<4>(&data[3..], b'.', Some(end)).map(|(n, len)| (v4(&n), len))?,
        Family::V6 => {
            let len = data[3..].iter().take(LONGEST + 1).position(|b| *b == end)?;
            let text = std::str::from_utf8(&data[3..3 + len]).ok()?;
            (text.parse::<Ipv6Addr>().ok()?.to_bits(), len)
        }
    };
    let (port, len) = port_until(data, 3 + len + 1, end)?;
    Some((address, port, len))
}

/// `|||6446|`
fn port_alone(source: u128, data: &[u8]) -> Number {
    let end = delimiter(data)?;
    if data[1] != end || data[2] != end {
        return None;
    }
    port_until(data, 3, end).map(|(port, len)| (source, port, len))
}

/// A port from `start` on, and the number of bytes up to and with the delimiter behind it.
fn port_until(data: &[u8], start: usize, end: u8) -> Option<(u16, usize)> {
    let mut port = 0u16;
    for (at, byte) in data.iter().enumerate().skip(start) {
        match *byte {
            byte if byte == end => return (port != 0).then_some((port, at + 1)),
            b'0'..=b'9' => port = port.wrapping_mul(10).wrapping_add(u16::from(byte - b'0')),
            _ => return None,
        }
    }
    None
}

/// The longest text of an IPv6 address.
const LONGEST: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();

/// The longest text that is written: `|2|`, 39 bytes of address, `|65535|`.
const TEXT: usize = 3 + 39 + 7;

/// Writes an address and port in the form of a line; its length.
fn write(kind: Kind, family: Family, address: u128, port: u16, text: &mut [u8; TEXT]) -> usize {
    let mut rest = &mut text[..];
    let [a, b, c, d] = match (family, address.to_be_bytes()) {
        (Family::V4, [.., a, b, c, d]) | (Family::V6, [a, b, c, d, ..]) => [a, b, c, d],
    };
    let written = match (kind, family) {
        (Kind::Port | Kind::Pasv, _) => write!(rest, "{a},{b},{c},{d},{},{}", port >> 8, port & 0xff),
        (Kind::Eprt, Family::V4) => write!(rest, "|1|{a}.{b}.{c}.{d}|{port}|"),
        (Kind::Eprt, Family::V6) => {
            let s = Ipv6Addr::from_bits(address).segments();
            write!(rest, "|2|")
                .and_then(|()| {
                    s.iter().enumerate().try_for_each(|(i, s)| write!(rest, "{}{s:04x}", if i == 0 { "" } else { ":" }))
                })
                .and_then(|()| write!(rest, "|{port}|"))
        }
        (Kind::Epsv, _) => write!(rest, "|||{port}|"),
    };
    let left = rest.len();
    debug_assert!(written.is_ok());
    TEXT - left
}

/// Where lines of one side begin: the last two places behind a line feed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Lines {
    known: u32,
    at: [u32; 2],
}

impl Lines {
    fn of(memory: &[u32; MEMORY], dir: Dir) -> Lines {
        let base = dir as usize * 3;
        Lines { known: memory[base], at: [memory[base + 1], memory[base + 2]] }
    }

    fn write(&self, memory: &mut [u32; MEMORY], dir: Dir) {
        let base = dir as usize * 3;
        memory[base..base + 3].copy_from_slice(&[self.known, self.at[0], self.at[1]]);
    }

    /// Whether a line begins there (`find_nl_seq`).
    fn begins_at(&self, seq: u32) -> bool {
        self.at.iter().take(self.known as usize).any(|at| *at == seq)
    }

    /// A segment ends with a line feed there (`update_nl_seq`): the older place makes room, if it is older.
    fn ends_at(&mut self, seq: u32) {
        if self.begins_at(seq) {
            return;
        }
        match self.known {
            known @ 0..2 => {
                self.at[known as usize] = seq;
                self.known += 1;
            }
            _ => {
                let oldest = usize::from(!before(self.at[0], self.at[1]));
                if after(seq, self.at[oldest]) {
                    self.at[oldest] = seq;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const SOURCE: u128 = 0x84eb_0102;

    fn addr(text: &str) -> u128 {
        match text.parse::<std::net::IpAddr>().unwrap() {
            std::net::IpAddr::V4(a) => a.to_bits().into(),
            std::net::IpAddr::V6(a) => a.to_bits(),
        }
    }

    fn listens(kind: Kind, line: &str, part: &str, address: &str, port: u16) -> Said {
        let at = line.find(part).unwrap();
        Said::Listens { kind, at: at..at + part.len(), address: addr(address), port }
    }

    #[test]
    fn lines_of_the_rfcs_are_read() {
        let cases = [
            (
                Dir::Original,
                Family::V4,
                Kind::Port,
                "PORT 132,235,1,2,24,131\r\n",
                "132,235,1,2,24,131",
                "132.235.1.2",
                6275,
            ),
            (Dir::Original, Family::V4, Kind::Port, "port 10,0,0,2,0,21\r\n", "10,0,0,2,0,21", "10.0.0.2", 21),
            (
                Dir::Original,
                Family::V4,
                Kind::Eprt,
                "EPRT |1|132.235.1.2|6275|\r\n",
                "|1|132.235.1.2|6275|",
                "132.235.1.2",
                6275,
            ),
            (
                Dir::Original,
                Family::V6,
                Kind::Eprt,
                "EPRT |2|1080::8:800:200C:417A|5282|\r\n",
                "|2|1080::8:800:200C:417A|5282|",
                "1080::8:800:200C:417A",
                5282,
            ),
            (Dir::Original, Family::V4, Kind::Eprt, "eprt !1!10.0.0.2!99!\r\n", "!1!10.0.0.2!99!", "10.0.0.2", 99),
            (
                Dir::Reply,
                Family::V4,
                Kind::Pasv,
                "227 Entering Passive Mode (132,235,1,2,24,131)\r\n",
                "132,235,1,2,24,131",
                "132.235.1.2",
                6275,
            ),
            // RFC 1123 4.1.2.6: the parentheses may lack.
            (
                Dir::Reply,
                Family::V4,
                Kind::Pasv,
                "227 =132,235,1,2,24,131\r\n",
                "132,235,1,2,24,131",
                "132.235.1.2",
                6275,
            ),
            (
                Dir::Reply,
                Family::V4,
                Kind::Epsv,
                "229 Entering Extended Passive Mode (|||6446|)\r\n",
                "|||6446|",
                "132.235.1.2",
                6446,
            ),
            (Dir::Reply, Family::V6, Kind::Epsv, "229 ok ($$$6446$)\r\n", "$$$6446$", "::84eb:102", 6446),
        ];
        for (dir, family, kind, line, part, address, port) in cases {
            assert_eq!(read(dir, family, SOURCE, line.as_bytes()), listens(kind, line, part, address, port), "{line}");
        }
    }

    #[test]
    fn other_lines_and_the_other_sides_lines_say_nothing() {
        for line in
            ["USER anonymous\r\n", "PASV\r\n", "POR 1,2\r\n", "227 Entering Passive Mode (1,2,3,4,5,6)\r\n", "EPSV\r\n"]
        {
            assert_eq!(read(Dir::Original, Family::V4, SOURCE, line.as_bytes()), Said::Nothing, "{line}");
        }
        for line in ["220 ready\r\n", "PORT 1,2,3,4,5,6\r\n", "2277 x 1,2,3,4,5,6\r\n", "226 done\r\n"] {
            assert_eq!(read(Dir::Reply, Family::V4, SOURCE, line.as_bytes()), Said::Nothing, "{line}");
        }
    }

    #[test]
    fn what_is_cut_off_or_makes_no_sense_is_partial() {
        for line in [
            "P",
            "PORT",
            "EPR",
            "PORT ",
            "PORT 1",
            "PORT 1,2,3,4,5",
            "PORT 1,2,3,4,5,6",
            "PORT 1,2,3,4,5,6\n",
            "PORT 1,2,3,4,5,6,7\r\n",
            "PORT 1.2.3.4.5.6\r\n",
            "PORT x\r\n",
            "PORTx\r\n",
            "EPRT |1|1.2.3.4|6275",
            "EPRT |1|1.2.3.4|0|\r\n",
            "EPRT |2|::1|6275|\r\n",
            "EPRT |1|1.2.3|6275|\r\n",
            "EPRT 111.2.3.4162751\r\n",
            "EPRT |1|\r\n",
            "EPRT \r\n",
            "EPRT |1|1.2.3.4|62x75|\r\n",
        ] {
            assert_eq!(read(Dir::Original, Family::V4, SOURCE, line.as_bytes()), Said::Partly, "{line:?}");
        }
        for line in [
            "2",
            "227",
            "227 no digits\r\n",
            "227 (1,2,3,4,5)\r\n",
            "227 (1,2,3,4,5,6",
            "229 (|||6446",
            "229 (||6446|)\r\n",
            "229 none\r\n",
        ] {
            assert_eq!(read(Dir::Reply, Family::V4, SOURCE, line.as_bytes()), Said::Partly, "{line:?}");
        }
        for line in ["EPRT |2|::g|6275|\r\n", "EPRT |2|::1\r\n", "EPRT |1|1.2.3.4|6275|\r\n"] {
            assert_eq!(read(Dir::Original, Family::V6, 1, line.as_bytes()), Said::Partly, "{line:?}");
        }
    }

    #[test]
    fn what_is_written_has_the_kernels_form() {
        let written = |kind, family, address: &str, port| {
            let mut text = [0; TEXT];
            let len = write(kind, family, addr(address), port, &mut text);
            String::from_utf8(text[..len].to_vec()).unwrap()
        };
        assert_eq!(written(Kind::Port, Family::V4, "203.0.113.2", 6275), "203,0,113,2,24,131");
        assert_eq!(written(Kind::Pasv, Family::V4, "203.0.113.2", 21), "203,0,113,2,0,21");
        assert_eq!(written(Kind::Eprt, Family::V4, "203.0.113.2", 65535), "|1|203.0.113.2|65535|");
        assert_eq!(
            written(Kind::Eprt, Family::V6, "2001:db8::2", 65535),
            "|2|2001:0db8:0000:0000:0000:0000:0000:0002|65535|"
        );
        assert_eq!(written(Kind::Epsv, Family::V6, "::", 1), "|||1|");
    }

    #[test]
    fn two_places_behind_lines_are_remembered_and_old_ones_do_not_push_out_newer() {
        let mut lines = Lines::default();
        assert!(!lines.begins_at(0));
        lines.ends_at(u32::MAX - 4);
        lines.ends_at(10);
        lines.ends_at(10);
        assert!(lines.begins_at(u32::MAX - 4) && lines.begins_at(10));
        lines.ends_at(20);
        assert!(!lines.begins_at(u32::MAX - 4) && lines.begins_at(10) && lines.begins_at(20));
        lines.ends_at(5);
        assert!(lines.begins_at(10) && lines.begins_at(20));
        let mut memory = [7; MEMORY];
        for dir in [Dir::Original, Dir::Reply] {
            lines.write(&mut memory, dir);
            assert_eq!(Lines::of(&memory, dir), lines);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(data in proptest::collection::vec(any::<u8>(), 0..80), start in 0..6usize, v6: bool, reply: bool) {
            let head: &[u8] = [&b""[..], b"PORT ", b"EPRT |", b"EPRT |2|", b"227 (", b"229 (|||"][start];
            let data = [head, &data].concat();
            let family = if v6 { Family::V6 } else { Family::V4 };
            let dir = if reply { Dir::Reply } else { Dir::Original };
            if let Said::Listens { at, .. } = read(dir, family, 1, &data) {
                prop_assert!(!at.is_empty() && at.end <= data.len());
            }
        }

        #[test]
        fn what_is_written_is_read_again(address: u32, wide: u128, port in 1..=u16::MAX) {
            let mut text = [0; TEXT];
            for (kind, head, tail, dir) in [
                (Kind::Port, "PORT ", "\r\n", Dir::Original),
                (Kind::Eprt, "EPRT ", "\r\n", Dir::Original),
                (Kind::Pasv, "227 x (", ")\r\n", Dir::Reply),
                (Kind::Epsv, "229 x (", ")\r\n", Dir::Reply),
            ] {
                for family in Family::ALL {
                    let address = if family == Family::V4 { u128::from(Ipv4Addr::from_bits(address).to_bits()) } else { wide };
                    if family == Family::V6 && matches!(kind, Kind::Port | Kind::Pasv) {
                        continue;
                    }
                    let len = write(kind, family, address, port, &mut text);
                    let line = [head.as_bytes(), &text[..len], tail.as_bytes()].concat();
                    let at = head.len()..head.len() + len;
                    prop_assert_eq!(read(dir, family, address, &line), Said::Listens { kind, at, address, port });
                }
            }
        }
    }
}
