//! `-j HMARK`: a mark by a hash of the packet's addresses, ports (or SPI) and protocol, or of its flow's (`xt_HMARK.c`).
//!
//! Both directions of a flow get the same mark: the smaller address and port are hashed first. The hash is the kernel's, so
//! several routers agree. ICMP errors are hashed as what they quote, fragments and ICMP without ports. `--hmark-tuple` takes parts
//! as a whole; the other options take bits of a part, and `--hmark-sport`, `--hmark-dport` and `--hmark-spi` set bits. What is not
//! named does not count. With `ct` in the tuple the flow's addresses and ports are hashed, and packets without one left alone.
//! TOML: `{ in = "wan0", target = "HMARK", hmark-tuple = "src,dst", hmark-mod = 4, hmark-offset = 100, hmark-rnd = "0xfeed" }`.

use super::{Action, Target};
use crate::facts::{Context, Dir, Facts, Family, proto};
use crate::jhash::jhash;
use crate::rule::matches::address::parse_length;
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, GivenOption, Opt, TargetExtension, Word};
use crate::rule::word::{number, split};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hmark(Box<Parts>);

/// What is hashed, and what becomes of the hash.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Parts {
    /// Bits of prefixes.
    src: Option<u8>,
    dst: Option<u8>,
    /// Bits of ports that count.
    sport_mask: Option<u16>,
    dport_mask: Option<u16>,
    spi_mask: Option<u32>,
    /// Bits of ports that are set.
    sport: Option<u16>,
    dport: Option<u16>,
    spi: Option<u32>,
    proto_mask: Option<u16>,
    rnd: u32,
    modulus: u32,
    offset: Option<u32>,
    ct: bool,
}

const TUPLE: usize = 0;
const SRC: usize = 1;
const DST: usize = 2;
const SPORT_MASK: usize = 3;
const DPORT_MASK: usize = 4;
const SPI_MASK: usize = 5;
const SPORT: usize = 6;
const DPORT: usize = 7;
const SPI: usize = 8;
const PROTO_MASK: usize = 9;
const RND: usize = 10;
const MOD: usize = 11;
const OFFSET: usize = 12;

/// Words of `--hmark-tuple` in the order in which abbreviations are looked for, and the option whose part each is.
const TUPLE_WORDS: [(&str, usize); 7] = [
    ("ct", TUPLE),
    ("src", SRC),
    ("dst", DST),
    ("sport", SPORT_MASK),
    ("dport", DPORT_MASK),
    ("proto", PROTO_MASK),
    ("spi", SPI_MASK),
];

/// HMARK
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "HMARK",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("hmark-tuple", &[]).about("PART[,PART...]", "hashes these: src, dst, sport, dport, spi, proto; ct: of the flow"),
        Opt::plain("hmark-src-prefix", &[]).about("LENGTH", "hashes so many bits of the source address"),
        Opt::plain("hmark-dst-prefix", &[]).about("LENGTH", "hashes so many bits of the destination address"),
        Opt::plain("hmark-sport-mask", &[]).about("MASK", "hashes these bits of the source port"),
        Opt::plain("hmark-dport-mask", &[]).about("MASK", "hashes these bits of the destination port"),
        Opt::plain("hmark-spi-mask", &[]).about("MASK", "hashes these bits of the SPI of AH and ESP"),
        Opt::plain("hmark-sport", &[]).about("BITS", "sets these bits of the source port before it is hashed"),
        Opt::plain("hmark-dport", &[]).about("BITS", "sets these bits of the destination port before it is hashed"),
        Opt::plain("hmark-spi", &[]).about("BITS", "sets these bits of the SPI before it is hashed"),
        Opt::plain("hmark-proto-mask", &[]).about("MASK", "takes these bits of the protocol's number into the hash"),
        Opt::plain("hmark-rnd", &[]).about("NUMBER", "seeds the hash"),
        Opt::plain("hmark-mod", &[]).about("NUMBER", "there are so many marks"),
        Opt::plain("hmark-offset", &[]).about("NUMBER", "the first of the marks"),
    ],
    build,
    summary: "Sets the packet's mark by a hash of addresses and ports.",
    example: r#"{ in = "wan0", target = "HMARK", hmark-tuple = "src,dst", hmark-mod = 4, hmark-offset = 100, hmark-rnd = "0xfeed" }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-tuple src --hmark-mod 10 --hmark-rnd 0xcafe",
            "-j HMARK --hmark-src-prefix 32 --hmark-rnd 0x0000cafe --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-tuple src,dst,sport,dport,proto --hmark-mod 10 --hmark-rnd 5 --hmark-offset 100",
            "-j HMARK --hmark-src-prefix 32 --hmark-dst-prefix 32 --hmark-sport-mask 0xffff --hmark-dport-mask 0xffff --hmark-proto-mask 0xffff --hmark-rnd 0x00000005 --hmark-mod 10 --hmark-offset 100",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-tuple S,d,sp,DP,pro --hmark-mod 10 --hmark-rnd 5",
            "-j HMARK --hmark-src-prefix 32 --hmark-dst-prefix 32 --hmark-sport-mask 0xffff --hmark-dport-mask 0xffff --hmark-proto-mask 0xffff --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-tuple spi,proto --hmark-mod 10 --hmark-rnd 5",
            "-j HMARK --hmark-spi-mask 0xffffffff --hmark-proto-mask 0xffff --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V6,
            "-j HMARK --hmark-tuple ct,src,dst --hmark-mod 10 --hmark-rnd 5",
            "-j HMARK --hmark-src-prefix 128 --hmark-dst-prefix 128 --hmark-rnd 0x00000005 --hmark-mod 10 --hmark-tuple ct",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-tuple ct --hmark-mod 10 --hmark-rnd 5",
            "-j HMARK --hmark-rnd 0x00000005 --hmark-mod 10 --hmark-tuple ct",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-tuple src,src --hmark-mod 1 --hmark-rnd 5",
            "-j HMARK --hmark-src-prefix 32 --hmark-rnd 0x00000005 --hmark-mod 1",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-rnd 0xffffffff --hmark-mod 0xffffffff --hmark-offset 0xffffffff --hmark-tuple src",
            "-j HMARK --hmark-src-prefix 32 --hmark-rnd 0xffffffff --hmark-mod 4294967295 --hmark-offset 4294967295",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-rnd 5 --hmark-mod 10 --hmark-offset 0 --hmark-src-prefix 255.255.255.0 --hmark-dst-prefix 0",
            "-j HMARK --hmark-src-prefix 24 --hmark-dst-prefix 0 --hmark-rnd 0x00000005 --hmark-mod 10 --hmark-offset 0",
        ),
        Case::Prints(
            Family::V6,
            "-j HMARK --hmark-rnd 5 --hmark-mod 10 --hmark-src-prefix ffff:ffff:: --hmark-dst-prefix 128",
            "-j HMARK --hmark-src-prefix 32 --hmark-dst-prefix 128 --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-proto-mask 0xf --hmark-dport-mask 0xff00 --hmark-sport-mask 0xff --hmark-rnd 5 --hmark-mod 10",
            "-j HMARK --hmark-sport-mask 0x00ff --hmark-dport-mask 0xff00 --hmark-proto-mask 0x0f --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-rnd 5 --hmark-mod 10 --hmark-dst-prefix 24 --hmark-spi 0x10 --hmark-spi-mask 0xff00",
            "-j HMARK --hmark-dst-prefix 24 --hmark-spi-mask 0x0000ff00 --hmark-spi 0x00000010 --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-rnd 5 --hmark-mod 10 --hmark-spi-mask 5 --hmark-dport 5 --hmark-sport 6",
            "-j HMARK --hmark-spi-mask 0x00000005 --hmark-sport 0x0006 --hmark-dport 0x0005 --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-rnd 5 --hmark-mod 10 --hmark-spi 5 --hmark-sport-mask 5",
            "-j HMARK --hmark-sport-mask 0x0005 --hmark-spi 0x00000005 --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Prints(
            Family::V4,
            "-j HMARK --hmark-rnd 5 --hmark-mod 10 --hmark-sport-mask 0xff --hmark-tuple sport",
            "-j HMARK --hmark-sport-mask 0xffff --hmark-rnd 0x00000005 --hmark-mod 10",
        ),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple src --hmark-rnd 1", "HMARK needs --hmark-mod"),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple src --hmark-mod 10", "HMARK needs --hmark-rnd"),
        Case::Refused(Family::V4, "-j HMARK --hmark-mod 10 --hmark-rnd 5 --hmark-offset 7", "nothing to hash"),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple src --hmark-mod 0 --hmark-rnd 5", "`0` is not a number of marks"),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple src --hmark-mod 4294967296 --hmark-rnd 5", "is not a number of marks"),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple src --hmark-mod 9 --hmark-rnd 0x100000000", "is not a seed"),
        Case::Refused(
            Family::V4,
            "-j HMARK --hmark-tuple src --hmark-mod 9 --hmark-rnd 5 --hmark-offset 0x100000000",
            "is not a mark",
        ),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple foo --hmark-mod 10 --hmark-rnd 5", "`foo` is not a part"),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple src, --hmark-mod 10 --hmark-rnd 5", "`` is not a part"),
        Case::Refused(Family::V4, "-j HMARK --hmark-tuple srcs --hmark-mod 10 --hmark-rnd 5", "`srcs` is not a part"),
        Case::Refused(
            Family::V4,
            "-j HMARK --hmark-tuple src,dst,spi,sport --hmark-mod 10 --hmark-rnd 5",
            "either the SPI or ports",
        ),
        Case::Refused(
            Family::V4,
            "-j HMARK --hmark-spi-mask 1 --hmark-dport-mask 1 --hmark-mod 10 --hmark-rnd 5",
            "either the SPI or ports",
        ),
        Case::Refused(
            Family::V4,
            "-j HMARK --hmark-spi 1 --hmark-sport 1 --hmark-mod 10 --hmark-rnd 5",
            "either the SPI or ports",
        ),
        Case::Refused(
            Family::V4,
            "-j HMARK --hmark-tuple src --hmark-src-prefix 24 --hmark-mod 10 --hmark-rnd 5",
            "`--hmark-src-prefix` is in the tuple",
        ),
        Case::Refused(Family::V6, "-j HMARK --hmark-src-prefix 129 --hmark-mod 10 --hmark-rnd 5", "`129` is not a prefix length"),
        Case::Refused(Family::V4, "-j HMARK --hmark-dst-prefix foo --hmark-mod 10 --hmark-rnd 5", "`foo` is not a prefix length"),
        Case::Refused(Family::V4, "-j HMARK --hmark-sport http --hmark-mod 10 --hmark-rnd 5", "`http` is not"),
        Case::Refused(Family::V4, "-j HMARK --hmark-dport 65536 --hmark-mod 10 --hmark-rnd 5", "`65536` is not"),
        Case::Refused(Family::V4, "-j HMARK --hmark-spi 0x100000000 --hmark-mod 10 --hmark-rnd 5", "`0x100000000` is not"),
        Case::Refused(Family::V4, "-j HMARK --hmark-sport-mask 0x10000 --hmark-mod 10 --hmark-rnd 5", "`0x10000` is not"),
        Case::Refused(Family::V4, "-j HMARK --hmark-spi-mask 0x100000000 --hmark-mod 10 --hmark-rnd 5", "is not"),
        Case::Refused(Family::V4, "-j HMARK --hmark-proto-mask 0x10000 --hmark-mod 10 --hmark-rnd 5", "`0x10000` is not"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let mut parts = Parts::default();
    let long = |word: &Word, what, least| number(word, what, least..=u32::MAX.into()).map(|n| n as u32);
    parts.modulus = long(given.required(MOD, "hmark-mod")?, "a number of marks", 1)?;
    parts.rnd = long(given.required(RND, "hmark-rnd")?, "a seed", 0)?;
    parts.offset = given.value(OFFSET).map(|word| long(word, "a mark", 0)).transpose()?;
    for option in given.options.iter().filter(|o| !matches!(o.option, RND | MOD | OFFSET)) {
        take(&mut parts, given, option)?;
    }
    if parts.hashes_nothing() {
        return Err(given.word.complain("HMARK has nothing to hash", "--hmark-tuple, or a mask or bits of a part"));
    }
    match parts.mixes() {
        true => Err(given.word.complain("HMARK hashes either the SPI or ports", "one of the two")),
        false => Ok(Target::Hmark(Hmark(Box::new(parts)))),
    }
}

/// Takes one option into account; the order counts.
fn take(parts: &mut Parts, given: &Given, option: &GivenOption) -> Result<(), Complaint> {
    let Some(word) = option.values.first() else { return Ok(()) };
    let family = given.family;
    if option.option == TUPLE {
        for part in split(word, ',') {
            let is_meant = |name: &str| {
                !part.text.is_empty()
                    && name.get(..part.text.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(&part.text))
            };
            match TUPLE_WORDS.iter().find(|(name, _)| is_meant(name)).map(|(_, option)| *option) {
                Some(TUPLE) => parts.ct = true,
                Some(SRC) => parts.src = Some(family.bits()),
                Some(DST) => parts.dst = Some(family.bits()),
                Some(SPORT_MASK) => parts.sport_mask = Some(u16::MAX),
                Some(DPORT_MASK) => parts.dport_mask = Some(u16::MAX),
                Some(PROTO_MASK) => parts.proto_mask = Some(u16::MAX),
                Some(_) => parts.spi_mask = Some(u32::MAX),
                None => {
                    let accepts = "src, dst, sport, dport, spi, proto or ct, with commas between them";
                    return Err(part.complain(format!("`{}` is not a part of a packet", part.text), accepts));
                }
            }
        }
        return Ok(());
    }
    let length = || parse_length(word, family);
    let short = |what| number(word, what, 0..=u16::MAX.into()).map(|n| n as u16);
    let long = |what| number(word, what, 0..=u32::MAX.into()).map(|n| n as u32);
    let is_new = match option.option {
        SRC => parts.src.replace(length()?).is_none(),
        DST => parts.dst.replace(length()?).is_none(),
        SPORT_MASK => parts.sport_mask.replace(short("a mask of a port")?).is_none(),
        DPORT_MASK => parts.dport_mask.replace(short("a mask of a port")?).is_none(),
        SPI_MASK => parts.spi_mask.replace(long("a mask of an SPI")?).is_none(),
        SPORT => parts.sport.replace(short("bits of a port")?).is_none(),
        DPORT => parts.dport.replace(short("bits of a port")?).is_none(),
        SPI => parts.spi.replace(long("bits of an SPI")?).is_none(),
        _ => parts.proto_mask.replace(short("a mask of a protocol")?).is_none(),
    };
    match is_new {
        true => Ok(()),
        false => Err(option.word.complain(format!("`{}` is in the tuple already", option.word.text), "one of the two")),
    }
}

/// What goes into the hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tuple {
    src: u32,
    dst: u32,
    ports: u32,
    proto: u8,
}

impl Parts {
    fn hashes_nothing(&self) -> bool {
        let asked = Parts { rnd: self.rnd, modulus: self.modulus, offset: self.offset, ..Parts::default() };
        *self == asked
    }

    fn mixes(&self) -> bool {
        self.spi_mask.is_some() && (self.sport_mask.is_some() || self.dport_mask.is_some())
            || self.spi.is_some() && (self.sport.is_some() || self.dport.is_some())
    }

    /// An address as far as it counts, folded to 32 bits.
    fn address(&self, family: Family, addr: u128, prefix: Option<u8>) -> u32 {
        let masked = addr & prefix.map_or(0, |length| family.mask(length.min(family.bits())));
        (0..4).fold(0, |folded, word| folded ^ (masked >> (32 * word)) as u32)
    }

    /// Ports, or an SPI, as far as they count, the larger half first. Ports and SPI share their place in the kernel.
    fn ports(&self, ports: u32) -> u32 {
        let halves = |high: Option<u16>, low: Option<u16>| u32::from(high.unwrap_or(0)) << 16 | u32::from(low.unwrap_or(0));
        let mask = self.spi_mask.unwrap_or_else(|| halves(self.sport_mask, self.dport_mask));
        let set = self.spi.unwrap_or_else(|| halves(self.sport, self.dport));
        let ports = ports & mask | set;
        ports.max(ports.rotate_left(16))
    }

    fn tuple(&self, family: Family, src: u128, dst: u128, proto: u8) -> Tuple {
        Tuple {
            src: self.address(family, src, self.src),
            dst: self.address(family, dst, self.dst),
            ports: 0,
            proto,
        }
    }

    /// Of the flow (`hmark_ct_set_htuple`).
    fn of_flow(&self, facts: &Facts, cx: &Context) -> Option<Tuple> {
        let flow = cx.around.flow()?;
        let (original, reply) = (flow.ends(Dir::Original), flow.ends(Dir::Reply));
        let mut tuple = self.tuple(facts.family, original.src, reply.src, facts.ct_proto);
        if facts.ct_proto != proto::ICMP {
            tuple.ports = self.ports(u32::from(original.sport) << 16 | u32::from(reply.sport));
        }
        Some(tuple)
    }

    /// Of the packet (`hmark_pkt_set_htuple_ipv4`); none where what an error quotes cannot be read.
    fn of_ipv4(&self, l3: &[u8]) -> Option<Tuple> {
        let mut header = Ipv4::at(l3)?;
        if header.proto == proto::ICMP && matches!(header.upper.first(), Some(3 | 4 | 5 | 11 | 12)) {
            // An error too short for its own header is hashed as itself.
            if let Some(quoted) = header.upper.get(8..) {
                header = Ipv4::at(quoted)?;
            }
        }
        let mut tuple = self.tuple(Family::V4, header.src, header.dst, header.proto);
        if header.proto != proto::ICMP && !header.is_fragment {
            self.take_ports(&mut tuple, header.upper);
        }
        Some(tuple)
    }

    /// The same (`hmark_pkt_set_htuple_ipv6`). Of a packet whose extension headers cannot be read nothing is hashed.
    fn of_ipv6(&self, l3: &[u8]) -> Option<Tuple> {
        let Some(mut header) = Ipv6::at(l3) else { return Some(Tuple::default()) };
        let is_error = |icmp: &[u8]| icmp.len() >= 8 && (1..128).contains(&icmp[0]);
        if header.proto == proto::ICMPV6 && !header.is_fragment && is_error(header.upper) {
            header = Ipv6::at(&header.upper[8..])?;
        }
        let mut tuple = self.tuple(Family::V6, header.src, header.dst, header.proto);
        if header.proto != proto::ICMPV6 && !header.is_fragment {
            self.take_ports(&mut tuple, header.upper);
        }
        Some(tuple)
    }

    /// Ports or SPI of a header, where its protocol has them and they are all there (`proto_ports_offset`).
    fn take_ports(&self, tuple: &mut Tuple, header: &[u8]) {
        let at = match tuple.proto {
            proto::TCP | proto::UDP | proto::DCCP | proto::ESP | proto::SCTP | proto::UDPLITE => 0,
            proto::AH => 4,
            _ => return,
        };
        if let Some(ports) = header.get(at..).and_then(|bytes| bytes.first_chunk()) {
            tuple.ports = self.ports(u32::from_be_bytes(*ports));
        }
    }

    /// The mark (`hmark_hash`).
    fn mark(&self, tuple: &Tuple) -> u32 {
        let (src, dst) = (tuple.src.min(tuple.dst), tuple.src.max(tuple.dst));
        let hash = jhash(&[src, dst, tuple.ports], self.rnd) ^ u32::from(tuple.proto) & u32::from(self.proto_mask.unwrap_or(0));
        let scaled = ((u64::from(hash) * u64::from(self.modulus)) >> 32) as u32;
        scaled.wrapping_add(self.offset.unwrap_or(0))
    }
}

/// What is hashed of an IPv4 header, and what is behind it.
struct Ipv4<'a> {
    src: u128,
    dst: u128,
    proto: u8,
    is_fragment: bool,
    upper: &'a [u8],
}

impl Ipv4<'_> {
    fn at(bytes: &[u8]) -> Option<Ipv4<'_>> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let long = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]).into();
        Some(Ipv4 {
            src: long(12),
            dst: long(16),
            proto: header[9],
            is_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
            upper: bytes.get(usize::from(header[0] & 15) * 4..).unwrap_or_default(),
        })
    }
}

/// What is hashed of an IPv6 header, and what is behind it and its extension headers, AH not being one (`ipv6_find_hdr`).
struct Ipv6<'a> {
    src: u128,
    dst: u128,
    proto: u8,
    is_fragment: bool,
    upper: &'a [u8],
}

impl Ipv6<'_> {
    fn at(bytes: &[u8]) -> Option<Ipv6<'_>> {
        let header: &[u8; 40] = bytes.first_chunk()?;
        let wide = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        let (src, dst) = (wide(8), wide(24));
        let (mut next, mut upper, mut is_fragment) = (header[6], &bytes[40..], false);
        if header[0] >> 4 != 6 {
            return None;
        }
        loop {
            let len = match next {
                proto::HOPOPTS | proto::ROUTING | proto::DSTOPTS => usize::from(*upper.get(1)?) * 8 + 8,
                proto::FRAGMENT => {
                    is_fragment = true;
                    let word = u16::from_be_bytes([*upper.get(2)?, *upper.get(3)?]);
                    let is_last = !matches!(upper[0], proto::HOPOPTS | proto::ROUTING | proto::DSTOPTS | proto::FRAGMENT | proto::AH);
                    if word & 0xfff8 != 0 {
                        return is_last.then_some(Ipv6 { src, dst, proto: upper[0], is_fragment, upper: &[] });
                    }
                    8
                }
                proto => return Some(Ipv6 { src, dst, proto, is_fragment, upper }),
            };
            next = *upper.first()?;
            upper = upper.get(len..).unwrap_or_default();
        }
    }
}

impl Action for Hmark {
    fn act(&self, facts: &Facts, cx: &Context) -> Effect<'_> {
        let parts = &*self.0;
        let tuple = match facts.family {
            _ if parts.ct => parts.of_flow(facts, cx),
            Family::V4 => parts.of_ipv4(cx.l3),
            Family::V6 => parts.of_ipv6(cx.l3),
        };
        tuple.map_or(Effect::Continue, |tuple| Effect::Mark(parts.mark(&tuple)))
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let parts = &*self.0;
        for (option, length) in [(SRC, parts.src), (DST, parts.dst)] {
            if let Some(length) = length {
                let _ = write!(out, " --{} {length}", EXTENSION.options[option].name);
            }
        }
        let short = |value: Option<u16>| value.map(u32::from);
        let mut hex = |option: usize, value: Option<u32>, digits: usize| {
            if let Some(value) = value {
                let _ = write!(out, " --{} 0x{value:0digits$x}", EXTENSION.options[option].name);
            }
        };
        hex(SPORT_MASK, short(parts.sport_mask), 4);
        hex(DPORT_MASK, short(parts.dport_mask), 4);
        hex(SPI_MASK, parts.spi_mask, 8);
        hex(SPORT, short(parts.sport), 4);
        hex(DPORT, short(parts.dport), 4);
        hex(SPI, parts.spi, 8);
        hex(PROTO_MASK, short(parts.proto_mask), 2);
        hex(RND, Some(parts.rnd), 8);
        let _ = write!(out, " --hmark-mod {}", parts.modulus);
        if let Some(offset) = parts.offset {
            let _ = write!(out, " --hmark-offset {offset}");
        }
        out.push_str(if parts.ct { " --hmark-tuple ct" } else { "" });
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let parts = &*self.0;
        let lengths = [parts.src, parts.dst].into_iter().flatten().all(|length| length <= family.bits());
        match lengths && parts.modulus != 0 && !parts.hashes_nothing() && !parts.mixes() {
            true => Ok(()),
            false => Err("HMARK with a hash that cannot be".to_string()),
        }
    }
}
