//! Elements as ipset(8) writes them: `192.0.2.0/24,tcp:80-82,10.0.0.1 timeout 30 comment "x"`.
//!
//! One text may mean many elements: a range of addresses, a network where hosts are stored, a range of ports. Ranges that
//! the type stores as networks are cut into the fewest prefixes (`ip_set_range_to_cidr`). Names of hosts are not resolved:
//! a ruleset that means something else tomorrow is none.

use super::header::timeout;
use super::{Element, Extra, Header, Key, Kind, MAX_COMMENT, Part, SkbInfo, icmp, iface_number, is_name, mac_number};
use crate::facts::{Family, proto};
use crate::rule::matches::address::{parse_address, parse_prefix};
use crate::rule::matches::mac;
use crate::rule::matches::protocol::{name as protocol_name, parse_protocol};
use crate::rule::option::{Complaint, Word};
use crate::rule::word::{either, nearest, number, port, split, split_once};
use std::ops::RangeInclusive;

/// What an element is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To be added: with everything that it carries.
    Add,
    /// To be deleted.
    Delete,
    /// To be asked for: exactly one.
    Test,
}

/// Splits a line into words. Double quotes keep blanks; nothing else has a meaning in them.
pub fn words(text: &str, base: usize) -> Result<Vec<Word>, Complaint> {
    let mut words = Vec::with_capacity(4);
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let start = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok(words) };
        let (word, len) = if first == '"' {
            let Some(end) = rest[1..].find('"') else {
                let at = base + start..base + text.len();
                let accepts = Some("\" at the end of the word".to_string());
                return Err(Complaint { at, what: "this quote is not closed".to_string(), accepts });
            };
            (&rest[1..=end], end + 2)
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (&rest[..end], end)
        };
        words.push(Word { text: word.to_string(), at: base + start..base + start + len });
        rest = &rest[len..];
    }
}

/// Reads an element and its options, and hands out every element that they mean.
pub fn read(header: &Header, words: &[Word], purpose: Purpose, each: &mut dyn FnMut(Element)) -> Result<(), Complaint> {
    let Some((entry, options)) = words.split_first() else {
        let accepts = Some(shape(header.kind));
        return Err(Complaint { at: 0..0, what: "an element is missing".to_string(), accepts });
    };
    let options = Options::read(header, options, purpose)?;
    Entry { header, purpose, word: entry }.read(&mut |key, mac, set| {
        let mut extra = options.extra.clone();
        if mac.is_some() || set.is_some() {
            let extra = extra.get_or_insert_with(Box::default);
            extra.mac = mac;
            extra.set = set.unwrap_or_default().to_string();
        }
        each(Element { key, nomatch: options.nomatch, wildcard: options.wildcard, extra });
    })
}

/// How elements of a type look.
pub fn shape(kind: Kind) -> String {
    if kind == Kind::BitmapIpMac {
        return "IP[,MAC]".to_string();
    }
    let part = |part: &Part| match part {
        Part::Ip => "IP",
        Part::Net => "IP[/LENGTH]",
        Part::Mac => "MAC",
        Part::Mark => "MARK",
        Part::Port if kind == Kind::BitmapPort => "PORT",
        Part::Port => "[PROTOCOL:]PORT",
        Part::Iface => "[physdev:]INTERFACE",
        Part::Set => "SET",
    };
    kind.parts().iter().map(part).collect::<Vec<_>>().join(",")
}

/// What stands behind an element.
#[derive(Default)]
struct Options {
    nomatch: bool,
    wildcard: bool,
    extra: Option<Box<Extra>>,
}

const OPTIONS: [&str; 11] = [
    "timeout", "nomatch", "wildcard", "packets", "bytes", "comment", "skbmark", "skbprio", "skbqueue", "before",
    "after",
];

impl Options {
    fn read(header: &Header, mut words: &[Word], purpose: Purpose) -> Result<Options, Complaint> {
        let mut options = Options::default();
        while let Some((name, rest)) = words.split_first() {
            words = rest;
            options.check(header, name, purpose)?;
            match name.text.as_str() {
                "nomatch" => options.nomatch = true,
                "wildcard" => options.wildcard = true,
                _ => {
                    let Some((value, rest)) = words.split_first() else {
                        return Err(name.complain(format!("`{}` wants a value", name.text), "a word behind it"));
                    };
                    words = rest;
                    options.set(name, value)?;
                }
            }
        }
        Ok(options)
    }

    /// Whether the set's elements may have the option.
    fn check(&self, header: &Header, name: &Word, purpose: Purpose) -> Result<(), Complaint> {
        let text = name.text.as_str();
        let needs = |has: bool, what: &str| match has {
            true => Ok(()),
            false => {
                Err(name
                    .complain(format!("`{text}` cannot be used: the set was created without {what}"), "no such option"))
            }
        };
        let known = match text {
            "nomatch" => header.kind.has_nets() && purpose != Purpose::Delete,
            "wildcard" => header.kind == Kind::HashNetIface && purpose == Purpose::Add,
            "before" | "after" => header.kind == Kind::ListSet,
            text => OPTIONS.contains(&text) && purpose == Purpose::Add,
        };
        if !known {
            let near = nearest(text, OPTIONS.into_iter()).filter(|near| *near != text);
            let accepts = near.map_or("the end of the line".to_string(), |near| format!("did you mean `{near}`?"));
            return Err(
                name.complain(format!("elements of {} have no option `{text}` here", header.kind.name()), accepts)
            );
        }
        match text {
            "timeout" => needs(header.timeout.is_some(), "timeout"),
            "packets" | "bytes" => needs(header.counters, "counters"),
            "comment" => needs(header.comment, "comment"),
            "skbmark" | "skbprio" | "skbqueue" => needs(header.skbinfo, "skbinfo"),
            _ => Ok(()),
        }
    }

    fn set(&mut self, name: &Word, value: &Word) -> Result<(), Complaint> {
        let extra = self.extra.get_or_insert_with(Box::default);
        match name.text.as_str() {
            "timeout" => extra.timeout = Some(timeout(value)?),
            "packets" => extra.packets = Some(number(value, "a number of packets", 0..=u64::MAX)?),
            "bytes" => extra.bytes = Some(number(value, "a number of bytes", 0..=u64::MAX)?),
            "comment" => extra.comment = Some(comment(value)?),
            "skbmark" => (extra.skb.mark, extra.skb.mask) = skbmark(value)?,
            "skbprio" => extra.skb.prio = skbprio(value)?,
            "skbqueue" => extra.skb.queue = number(value, "a queue", 0..=u64::from(u16::MAX))? as u16,
            side => {
                set_name(value)?;
                extra.beside = Some((side == "before", value.text.clone()));
            }
        }
        Ok(())
    }
}

fn comment(word: &Word) -> Result<String, Complaint> {
    if word.text.contains('"') || word.text.chars().any(char::is_control) {
        return Err(
            word.complain("quotes and control characters cannot be in a comment".to_string(), "other characters")
        );
    }
    if word.text.len() > MAX_COMMENT {
        let what = format!("the comment has {} bytes", word.text.len());
        return Err(word.complain(what, format!("at most {MAX_COMMENT} bytes")));
    }
    Ok(word.text.clone())
}

/// `0xMARK` or `0xMARK/0xMASK`.
fn skbmark(word: &Word) -> Result<(u32, u32), Complaint> {
    let hex = |text: &str| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
        (!digits.starts_with('+')).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let found = match word.text.split_once('/') {
        None => hex(&word.text).map(|mark| (mark, u32::MAX)),
        Some((mark, mask)) => hex(mark).zip(hex(mask)),
    };
    found.ok_or_else(|| word.complain(format!("`{}` is not a mark", word.text), "0xMARK or 0xMARK/0xMASK"))
}

/// `MAJOR:MINOR`, both hexadecimal without `0x`.
fn skbprio(word: &Word) -> Result<u32, Complaint> {
    let hex = |text: &str| (!text.starts_with('+')).then(|| u16::from_str_radix(text, 16).ok()).flatten();
    let found = word.text.split_once(':').and_then(|(major, minor)| hex(major).zip(hex(minor)));
    found.map(|(major, minor)| u32::from(major) << 16 | u32::from(minor)).ok_or_else(|| {
        word.complain(format!("`{}` is not a class", word.text), "MAJOR:MINOR, both up to ffff, hexadecimal without 0x")
    })
}

/// Checks the name of a set.
pub fn set_name(word: &Word) -> Result<(), Complaint> {
    match is_name(&word.text) {
        true => Ok(()),
        false => {
            let accepts = format!("1 to {} characters without white space", super::MAX_NAME);
            Err(word.complain(format!("`{}` cannot be the name of a set", word.text), accepts))
        }
    }
}

/// A first part that stands for several: hosts to store one by one, or networks.
struct Addresses {
    ranges: Vec<(u128, u128)>,
    /// Networks with this prefix length are stored; else the range is cut into prefixes.
    len: Option<u8>,
}

struct Entry<'a> {
    header: &'a Header,
    purpose: Purpose,
    word: &'a Word,
}

/// Takes what was read: the key, the MAC address of bitmap:ip,mac, the name of list:set.
type Each<'e> = dyn FnMut(Key, Option<u64>, Option<&str>) + 'e;

impl Entry<'_> {
    fn family(&self) -> Family {
        self.header.family.unwrap_or(Family::V4)
    }

    fn read(&self, each: &mut Each) -> Result<(), Complaint> {
        let kind = self.header.kind;
        let parts = split(self.word, ',');
        let least = if kind == Kind::BitmapIpMac { 1 } else { kind.dimension() };
        if parts.len() < least || parts.len() > kind.dimension() || parts.iter().any(|part| part.text.is_empty()) {
            let what = format!("`{}` is not an element of {}", self.word.text, kind.name());
            return Err(self.word.complain(what, shape(kind)));
        }
        match (kind, parts.as_slice()) {
            (Kind::ListSet, [name, ..]) => {
                set_name(name)?;
                each(Key::default(), None, Some(&name.text));
                Ok(())
            }
            (Kind::BitmapPort, [ports, ..]) => self.ports_alone(ports, each),
            (Kind::HashMac, [mac, ..]) => {
                each(Key::default().with_mac(self.mac(mac)?), None, None);
                Ok(())
            }
            (_, [first, rest @ ..]) => self.with_address(first, rest, each),
            (_, []) => Ok(()),
        }
    }

    fn ports_alone(&self, word: &Word, each: &mut Each) -> Result<(), Complaint> {
        let bare = match split_once(word, ':') {
            Some((protocol, ports)) => parse_protocol(&protocol).map(|_| ports)?,
            None => word.clone(),
        };
        let ports = self.port_range(&bare)?;
        let (first, last) = self.header.range;
        if u32::from(*ports.start()) < first || u32::from(*ports.end()) > last {
            return Err(
                word.complain(format!("`{}` is out of the range of the set", word.text), format!("{first}-{last}"))
            );
        }
        ports.for_each(|port| each(Key::default().with_port(0, port), None, None));
        Ok(())
    }

    /// All types with an address in front.
    fn with_address(&self, first: &Word, rest: &[Word], each: &mut Each) -> Result<(), Complaint> {
        let (header, family) = (self.header, self.family());
        let is_net = header.kind.parts()[0] == Part::Net;
        let addresses = if is_net { self.networks(first)? } else { self.hosts(first)? };
        let mut base = Key::default();
        let mut mac_of_bitmap = None;
        let mut ports = None;
        let mut second = None;
        for (part, word) in header.kind.parts()[1..].iter().zip(rest) {
            match part {
                Part::Mac if header.kind == Kind::BitmapIpMac => mac_of_bitmap = Some(self.mac(word)?),
                Part::Mac => base = base.with_mac(self.mac(word)?),
                Part::Mark => {
                    let mark = number(word, "a mark", 0..=u64::from(u32::MAX))? as u32;
                    base = base.with_mark(mark & header.markmask);
                }
                Part::Port => ports = Some(self.protocol_ports(word)?),
                Part::Iface => base = self.iface(word, base)?,
                Part::Net => second = Some(self.networks(word)?),
                Part::Ip | Part::Set => {
                    let addr = parse_address(word, family)?;
                    second = Some(Addresses { ranges: vec![(addr, addr)], len: None });
                }
            }
        }
        self.bounded(first, &addresses, &ports, &second)?;
        let is_net_b = header.kind.parts().last() == Some(&Part::Net);
        addresses.each(family, is_net, header, &mut |addr, len| {
            let key = match is_net {
                true => base.with_a(family, addr & header.mask(), len),
                false => Key { a: addr & header.mask(), ..base },
            };
            let mut with_ports = |key: Key| match &second {
                None => each(key, mac_of_bitmap, None),
                Some(second) => second.each(family, is_net_b, header, &mut |addr, len| {
                    let addr = if header.kind == Kind::HashNetNet { addr & header.mask() } else { addr };
                    let key = if is_net_b { key.with_b(family, addr, len) } else { Key { b: addr, ..key } };
                    each(key, None, None);
                }),
            };
            match &ports {
                None => with_ports(key),
                Some((proto, ports)) => ports.clone().for_each(|port| with_ports(key.with_port(*proto, port))),
            }
        });
        Ok(())
    }

    /// A range is bounded by what the set can hold, before any of it is made.
    fn bounded(
        &self,
        word: &Word,
        first: &Addresses,
        ports: &Option<(u8, RangeInclusive<u16>)>,
        second: &Option<Addresses>,
    ) -> Result<(), Complaint> {
        let (header, family) = (self.header, self.family());
        let parts = header.kind.parts();
        let mut count = first.count(family, parts[0] == Part::Net, header);
        count = count.saturating_mul(ports.as_ref().map_or(1, |(_, ports)| ports.len() as u128));
        let second = second.as_ref().map_or(1, |second| second.count(family, parts.last() == Some(&Part::Net), header));
        count = count.saturating_mul(second);
        let most = if self.purpose == Purpose::Test { 1 } else { u128::from(header.capacity()) };
        if count > most {
            let what = format!("`{}` is {count} elements", self.word.text);
            let accepts = match self.purpose {
                Purpose::Test => "one element".to_string(),
                _ => format!("at most the {most} that the set can hold"),
            };
            return Err(self.word.complain(what, accepts));
        }
        if header.kind.is_bitmap() {
            let (low, high) = header.range;
            let inside = |addr: u128| (u128::from(low)..=u128::from(high)).contains(&addr);
            if !first.ranges.iter().all(|&(from, to)| inside(from) && inside(to)) {
                let accepts = format!("{}-{}", family.address(low.into()), family.address(high.into()));
                return Err(word.complain(format!("`{}` is out of the range of the set", word.text), accepts));
            }
        }
        if header.kind == Kind::HashIp {
            let zero = first.ranges.iter().any(|&(from, to)| from & header.mask() == 0 || to & header.mask() == 0);
            if zero {
                return Err(word.complain(
                    format!("`{}` holds the zero address, which a hash cannot store", word.text),
                    "other addresses",
                ));
            }
        }
        Ok(())
    }

    /// An address; for IPv4 also a range or a network of them.
    fn hosts(&self, word: &Word) -> Result<Addresses, Complaint> {
        let family = self.family();
        let many = family == Family::V4 && !matches!(self.header.kind, Kind::BitmapIpMac | Kind::HashIpMac);
        let one = |addr| Addresses { ranges: vec![(addr, addr)], len: None };
        if word.text.contains('/') {
            let (addr, len) = parse_prefix(word, family)?;
            if !many && len != family.bits() {
                return Err(word.complain(format!("`{}` is a network", word.text), "one address"));
            }
            let mask = family.mask(len);
            return Ok(Addresses { ranges: vec![(addr & mask, addr & mask | family.ones() & !mask)], len: None });
        }
        match split_once(word, '-') {
            Some((from, to)) if many => {
                let (from, to) = (parse_address(&from, family)?, parse_address(&to, family)?);
                Ok(Addresses { ranges: vec![(from.min(to), from.max(to))], len: None })
            }
            _ => parse_address(word, family).map(one),
        }
    }

    /// A network; for IPv4 also a range.
    fn networks(&self, word: &Word) -> Result<Addresses, Complaint> {
        let family = self.family();
        if let Some((from, to)) = split_once(word, '-').filter(|_| family == Family::V4) {
            let (from, to) = (parse_address(&from, family)?, parse_address(&to, family)?);
            let (from, to) = (from.min(to), from.max(to));
            if from == 0 && to == family.ones() {
                return Err(word.complain(format!("`{}` is every address", word.text), "a smaller range"));
            }
            return Ok(Addresses { ranges: vec![(from, to)], len: None });
        }
        let (addr, len) = parse_prefix(word, family)?;
        if len == 0 && !matches!(self.header.kind, Kind::HashNetIface | Kind::HashNetPortNet) {
            let accepts = format!("a length from 1 to {}: two halves are everything", family.bits());
            return Err(
                word.complain(format!("{} cannot store a prefix of length 0", self.header.kind.name()), accepts)
            );
        }
        Ok(Addresses { ranges: vec![(addr, addr)], len: Some(len) })
    }

    fn mac(&self, word: &Word) -> Result<u64, Complaint> {
        let mac = mac_number(mac::parse(word)?);
        if mac == 0 && self.header.kind != Kind::BitmapIpMac {
            return Err(word.complain("a hash cannot store the zero MAC address".to_string(), "another one"));
        }
        Ok(mac)
    }

    fn iface(&self, word: &Word, key: Key) -> Result<Key, Complaint> {
        let (physdev, name) = match word.text.strip_prefix("physdev:") {
            Some(name) => (true, name),
            None => (false, word.text.as_str()),
        };
        let odd = |c: char| c == '/' || c == '"' || c.is_control();
        if name.is_empty() || name.len() > 15 || name.contains(odd) {
            let what = format!("`{}` cannot be the name of an interface", name.escape_debug());
            return Err(word.complain(what, "1 to 15 characters"));
        }
        Ok(key.with_iface(iface_number(name), physdev))
    }

    /// `[PROTOCOL:]PORT[-PORT]`, and what stands for ports elsewhere.
    fn protocol_ports(&self, word: &Word) -> Result<(u8, RangeInclusive<u16>), Complaint> {
        let Some((name, value)) = split_once(word, ':') else { return Ok((proto::TCP, self.port_range(word)?)) };
        let protocol = parse_protocol(&name)?;
        match protocol {
            0 => Err(name.complain("protocol 0 cannot be stored".to_string(), "a protocol such as tcp or udp")),
            proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP => Ok((protocol, self.port_range(&value)?)),
            proto::ICMP | proto::ICMPV6 => self.icmp(protocol, &name, &value),
            _ if value.text == "0" => Ok((protocol, 0..=0)),
            _ => {
                let shown = protocol_name(protocol).unwrap_or(&name.text);
                Err(value.complain(format!("{shown} has no ports"), format!("{shown}:0")))
            }
        }
    }

    fn icmp(&self, protocol: u8, name: &Word, value: &Word) -> Result<(u8, RangeInclusive<u16>), Complaint> {
        let family = self.family();
        let own = if family == Family::V4 { proto::ICMP } else { proto::ICMPV6 };
        if protocol != own {
            let other = if family == Family::V4 { "inet6" } else { "inet" };
            return Err(
                name.complain(format!("`{}` is for sets of family {other}", name.text), "a protocol of this family")
            );
        }
        if let Some(port) = icmp::number(family, &value.text) {
            return Ok((protocol, port..=port));
        }
        let Some((kind, code)) = split_once(value, '/') else {
            let near = nearest(&value.text, icmp::all(family));
            let accepts = near.map_or("a name or TYPE/CODE".to_string(), |near| format!("did you mean `{near}`?"));
            return Err(value.complain(format!("`{}` is not an ICMP type", value.text), accepts));
        };
        let byte = |word: &Word, what| number(word, what, 0..=255).map(|n| n as u8);
        let port = u16::from_be_bytes([byte(&kind, "an ICMP type")?, byte(&code, "an ICMP code")?]);
        Ok((protocol, port..=port))
    }

    /// A port, or a range of them; names with a dash stand in brackets.
    fn port_range(&self, word: &Word) -> Result<RangeInclusive<u16>, Complaint> {
        let bare = |word: &Word| {
            let inner = word.text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            inner.map_or_else(|| word.clone(), |inner| Word { text: inner.to_string(), at: word.at.clone() })
        };
        let dash = match word.text.strip_prefix('[').and_then(|rest| rest.find(']')) {
            Some(close) => word.text[close + 2..].starts_with('-').then_some(close + 2),
            None => word.text.find('-'),
        };
        let Some(dash) = dash else { return port(&bare(word)).map(|port| port..=port) };
        let part = |text: &str| bare(&Word { text: text.to_string(), at: word.at.clone() });
        let (from, to) = (port(&part(&word.text[..dash]))?, port(&part(&word.text[dash + 1..]))?);
        if self.purpose == Purpose::Test && from != to {
            return Err(word.complain(format!("`{}` is a range of ports", word.text), "one port"));
        }
        Ok(from.min(to)..=from.max(to))
    }
}

impl Addresses {
    /// How far it is from one host to the next that is stored apart.
    fn step(header: &Header) -> u128 {
        let family = header.family.unwrap_or(Family::V4);
        header.netmask.map_or(1, |len| 1 << (family.bits() - len.min(family.bits())).min(127))
    }

    fn count(&self, family: Family, as_nets: bool, header: &Header) -> u128 {
        let one = |&(from, to): &(u128, u128)| match (as_nets, self.len) {
            (true, Some(_)) => 1,
            (true, None) => prefixes(family, from, to).count() as u128,
            (false, _) => (to - from) / Addresses::step(header) + 1,
        };
        self.ranges.iter().map(one).sum()
    }

    fn each(&self, family: Family, as_nets: bool, header: &Header, each: &mut dyn FnMut(u128, u8)) {
        for &(from, to) in &self.ranges {
            match (as_nets, self.len) {
                (true, Some(len)) => each(from, len),
                (true, None) => prefixes(family, from, to).for_each(|(addr, len)| each(addr, len)),
                (false, _) => {
                    let step = Addresses::step(header);
                    let mut addr = from & !(step - 1);
                    while addr <= to {
                        each(addr, 0);
                        let Some(next) = addr.checked_add(step) else { break };
                        addr = next;
                    }
                }
            }
        }
    }
}

/// The fewest prefixes that make up a range, from its beginning on.
fn prefixes(family: Family, from: u128, to: u128) -> impl Iterator<Item = (u128, u8)> {
    let mut next = Some(from);
    std::iter::from_fn(move || {
        let addr = next.filter(|addr| *addr <= to)?;
        let fits = |len: &u8| {
            let host = family.ones() & !family.mask(*len);
            addr & host == 0 && addr | host <= to
        };
        let len = (1..=family.bits()).find(fits).unwrap_or(family.bits());
        next = (addr | family.ones() & !family.mask(len)).checked_add(1);
        Some((addr, len))
    })
}

/// Checks an element decoded from untrusted bytes: one that the parser could have made for the set.
pub fn verify(header: &Header, element: &Element) -> Result<(), String> {
    let Element { key, nomatch, wildcard, extra } = element;
    let family = header.family.unwrap_or(Family::V4);
    let parts = header.kind.parts();
    let wrong = |what: &str| Err(format!("an element of the set {:?} with {what}", header.name));
    let (nets_a, nets_b) = (parts.first() == Some(&Part::Net), parts.len() > 1 && parts.last() == Some(&Part::Net));
    let least = u8::from(!matches!(header.kind, Kind::HashNetIface | Kind::HashNetPortNet));
    for (nets, addr, len) in [(nets_a, key.a, key.len_a()), (nets_b, key.b, key.len_b())] {
        let named = nets_a && parts.contains(&Part::Iface) && addr == key.b && !nets;
        let mask = if nets && (least..=family.bits()).contains(&len) { family.mask(len) } else { family.ones() };
        if nets != (len != 0 || least == 0 && nets) || len > family.bits() || !named && addr & !mask != 0 {
            return wrong("a prefix that cannot be");
        }
    }
    if *nomatch && !header.kind.has_nets() || *wildcard && header.kind != Kind::HashNetIface {
        return wrong("a flag that its type has not");
    }
    let low = Key { a: 0, b: 0, rest: key.rest & 0xffff_ffff_ffff };
    let allowed = match header.kind {
        Kind::HashMac | Kind::HashIpMac => low.mac() != 0,
        Kind::HashIpMark => u64::from(low.mark() & header.markmask) == low.rest,
        Kind::HashNetIface => low.rest <= PHYSDEV_ONLY && key.b != 0 && key.b & 0xff == 0,
        Kind::BitmapPort => low.rest <= u64::from(u16::MAX) && inside(header, low.rest),
        _ if parts.contains(&Part::Port) => low.rest <= 0xff_ffff && low.proto() != 0,
        Kind::BitmapIp | Kind::BitmapIpMac => low.rest == 0 && inside(header, key.a as u64),
        Kind::HashIp => low.rest == 0 && key.a != 0,
        _ => low.rest == 0,
    };
    let masked =
        key.a & !header.mask() != 0 && parts[0] != Part::Mac && parts[0] != Part::Port && parts[0] != Part::Set;
    if !allowed || masked {
        return wrong("a part that cannot be");
    }
    let Some(extra) = extra else { return if header.kind == Kind::ListSet { wrong("no name") } else { Ok(()) } };
    let Extra { timeout, packets, bytes, comment, skb, mac, set, beside } = &**extra;
    let named = |name: &str| is_name(name);
    let unfit = timeout.is_some_and(|seconds| header.timeout.is_none() || seconds > super::MAX_TIMEOUT)
        || (packets.is_some() || bytes.is_some()) && !header.counters
        || comment.as_ref().is_some_and(|c| !header.comment || c.len() > MAX_COMMENT || c.contains('"'))
        || *skb != SkbInfo::default() && !header.skbinfo
        || mac.is_some_and(|mac| header.kind != Kind::BitmapIpMac || mac >> 48 != 0)
        || (header.kind == Kind::ListSet) != named(set)
        || beside.as_ref().is_some_and(|(_, name)| header.kind != Kind::ListSet || !named(name));
    if unfit { wrong("what the set was created without") } else { Ok(()) }
}

const PHYSDEV_ONLY: u64 = 1;

fn inside(header: &Header, number: u64) -> bool {
    let host = header.netmask.map_or(0, |len| (Family::V4.ones() & !Family::V4.mask(len.min(32))) as u32);
    (u64::from(header.range.0 & !host)..=u64::from(header.range.1)).contains(&number)
}

/// The types, for messages.
pub fn kinds() -> String {
    either(Kind::ALL.iter().map(|(name, _)| *name))
}

#[cfg(test)]
mod tests;
