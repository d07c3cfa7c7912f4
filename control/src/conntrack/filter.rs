//! Which flows an operator means: the options of conntrack(8), and the filter that the dataplane applies.

use clap::Args;
use ipnet::IpNet;
use std::net::IpAddr;
use sumun_config::facts::{Family, proto, status};
use sumun_dataplane::conntrack::{sctp, tcp};
use sumun_dataplane::protocol::{FlowFilter, FlowKey, FlowTuple, IcmpFilter, Masked, TupleFilter, has_ports};

/// Protocols that conntrack(8) knows by name.
pub const NAMES: &[(&str, u8)] = &[
    ("tcp", proto::TCP),
    ("udp", proto::UDP),
    ("udplite", proto::UDPLITE),
    ("icmp", proto::ICMP),
    ("icmpv6", proto::ICMPV6),
    ("sctp", proto::SCTP),
    ("dccp", proto::DCCP),
    ("gre", proto::GRE),
];

/// Status bits that can be asked for. `UNSET` is neither of the first two.
const STATUSES: &[(&str, u32)] = &[
    ("ASSURED", status::ASSURED),
    ("SEEN_REPLY", status::SEEN_REPLY),
    ("FIXED_TIMEOUT", status::FIXED_TIMEOUT),
    ("EXPECTED", status::EXPECTED),
];

/// Which flows; all conditions that are given must hold
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Which flows")]
pub struct Matching {
    /// IPv4 only
    #[arg(short = '4', long, conflicts_with_all = ["ipv6", "family"])]
    ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long, conflicts_with = "family")]
    ipv6: bool,
    /// `ipv4` or `ipv6`; without it both
    #[arg(long, short, value_name = "FAMILY", value_parser = family)]
    family: Option<Family>,
    /// This protocol: tcp, udp, ... or a number
    #[arg(long, short, visible_alias = "protonum", value_name = "PROTOCOL", value_parser = protocol)]
    proto: Option<u8>,
    /// Source of the original direction: an address or a prefix
    #[arg(long, short, visible_aliases = ["orig-src", "source"], value_name = "ADDRESS", value_parser = net)]
    src: Option<IpNet>,
    /// Destination of the original direction
    #[arg(long, short, visible_aliases = ["orig-dst", "destination"], value_name = "ADDRESS", value_parser = net)]
    dst: Option<IpNet>,
    /// Source of the reply direction
    #[arg(long, short, value_name = "ADDRESS", value_parser = net)]
    reply_src: Option<IpNet>,
    /// Destination of the reply direction
    #[arg(long, short = 'q', value_name = "ADDRESS", value_parser = net)]
    reply_dst: Option<IpNet>,
    /// Source port of the original direction
    #[arg(long, visible_alias = "orig-port-src", value_name = "PORT", value_parser = port)]
    sport: Option<u16>,
    /// Destination port of the original direction
    #[arg(long, visible_alias = "orig-port-dst", value_name = "PORT", value_parser = port)]
    dport: Option<u16>,
    /// Source port of the reply direction
    #[arg(long, value_name = "PORT", value_parser = port)]
    reply_port_src: Option<u16>,
    /// Destination port of the reply direction
    #[arg(long, value_name = "PORT", value_parser = port)]
    reply_port_dst: Option<u16>,
    /// Source key of GRE in the original direction
    #[arg(long, visible_alias = "orig-key-src", value_name = "KEY", value_parser = port)]
    srckey: Option<u16>,
    /// Destination key of GRE in the original direction
    #[arg(long, visible_alias = "orig-key-dst", value_name = "KEY", value_parser = port)]
    dstkey: Option<u16>,
    /// Source key of GRE in the reply direction
    #[arg(long, value_name = "KEY", value_parser = port)]
    reply_key_src: Option<u16>,
    /// Destination key of GRE in the reply direction
    #[arg(long, value_name = "KEY", value_parser = port)]
    reply_key_dst: Option<u16>,
    /// Type of the ICMP or ICMPv6 query
    #[arg(long, visible_alias = "icmpv6-type", value_name = "TYPE", value_parser = byte)]
    icmp_type: Option<u8>,
    /// Code of the ICMP or ICMPv6 query
    #[arg(long, visible_alias = "icmpv6-code", value_name = "CODE", value_parser = byte)]
    icmp_code: Option<u8>,
    /// Identifier of the ICMP or ICMPv6 query
    #[arg(long, visible_alias = "icmpv6-id", value_name = "ID", value_parser = port)]
    icmp_id: Option<u16>,
    /// State of a TCP connection or an SCTP association, such as ESTABLISHED
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<String>,
    /// ASSURED, SEEN_REPLY, FIXED_TIMEOUT, EXPECTED: all of those named; or UNSET: neither ASSURED nor SEEN_REPLY
    #[arg(long, short = 'u', value_name = "STATUS[,...]", value_parser = status_bits)]
    status: Option<Status>,
    /// The flow's mark; with a mask only its bits count
    #[arg(long, short, value_name = "VALUE[/MASK]", value_parser = mark)]
    mark: Option<Masked>,
    /// A label that it has, by number; several all of them
    #[arg(long, short = 'l', value_name = "LABEL[,...]", value_delimiter = ',', value_parser = label)]
    label: Vec<u8>,
    /// The flow's zone
    #[arg(long, short = 'w', value_name = "ZONE", value_parser = port)]
    zone: Option<u16>,
    /// The zone of the original direction
    #[arg(long, value_name = "ZONE", value_parser = port)]
    orig_zone: Option<u16>,
    /// The zone of the reply direction
    #[arg(long, value_name = "ZONE", value_parser = port)]
    reply_zone: Option<u16>,
    /// Flows whose source is rewritten; with an address or a prefix: to it
    #[arg(long, short = 'n', value_name = "ADDRESS", value_parser = net, num_args = 0..=1)]
    src_nat: Option<Option<IpNet>>,
    /// Flows whose destination is rewritten; with an address or a prefix: to it
    #[arg(long, short = 'g', value_name = "ADDRESS", value_parser = net, num_args = 0..=1)]
    dst_nat: Option<Option<IpNet>>,
    /// Flows whose source or destination is rewritten; with an address or a prefix: to it
    #[arg(long, short = 'j', value_name = "ADDRESS", value_parser = net, num_args = 0..=1)]
    any_nat: Option<Option<IpNet>>,
}

/// Status bits that must be set, and those that must not.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Status {
    set: u32,
    unset: u32,
}

impl Matching {
    /// What the dataplane is asked.
    pub fn filter(&self) -> FlowFilter {
        let status = self.status.unwrap_or_default();
        FlowFilter {
            family: match (self.ipv4, self.ipv6) {
                (true, _) => Some(Family::V4),
                (_, true) => Some(Family::V6),
                _ => self.family,
            },
            proto: self.proto,
            original: TupleFilter {
                source: self.src,
                destination: self.dst,
                sport: self.sport,
                dport: self.dport,
                srckey: self.srckey,
                dstkey: self.dstkey,
                zone: self.orig_zone,
            },
            reply: TupleFilter {
                source: self.reply_src,
                destination: self.reply_dst,
                sport: self.reply_port_src,
                dport: self.reply_port_dst,
                srckey: self.reply_key_src,
                dstkey: self.reply_key_dst,
                zone: self.reply_zone,
            },
            icmp: IcmpFilter { kind: self.icmp_type, code: self.icmp_code, id: self.icmp_id },
            state: self.state.clone(),
            set: status.set,
            unset: status.unset,
            mark: self.mark,
            labels: self.label.iter().fold(0, |labels, label| labels | 1 << label),
            zone: self.zone,
            src_nat: self.src_nat,
            dst_nat: self.dst_nat,
            any_nat: self.any_nat,
        }
    }

    /// The one flow that is meant: by its protocol and either direction, whole.
    ///
    /// # Errors
    /// What is missing.
    pub fn key(&self) -> Result<FlowKey, String> {
        let filter = self.filter();
        let number = filter.proto.ok_or("which protocol? Give -p, such as `-p tcp`")?;
        let named = |tuple: &TupleFilter| *tuple != TupleFilter::default();
        let reply = named(&filter.reply) && !named(&filter.original) && filter.icmp == IcmpFilter::default();
        let (tuple, names) = if reply {
            (&filter.reply, ["--reply-src", "--reply-dst", "--reply-port-src", "--reply-port-dst"])
        } else {
            (&filter.original, ["--src", "--dst", "--sport", "--dport"])
        };
        let source = one(tuple.source, names[0])?;
        let destination = one(tuple.destination, names[1])?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(format!("{source} and {destination} are of two families"));
        }
        let missing = |name: &str| format!("one flow has all of its tuple: {name} is missing");
        let (sport, dport) = match number {
            _ if has_ports(number) => {
                let sport = tuple.sport.ok_or_else(|| missing(names[2]))?;
                (sport, tuple.dport.ok_or_else(|| missing(names[3]))?)
            }
            proto::ICMP | proto::ICMPV6 => {
                let kind = filter.icmp.kind.ok_or_else(|| missing("--icmp-type"))?;
                let id = filter.icmp.id.ok_or_else(|| missing("--icmp-id"))?;
                (id, u16::from(kind) << 8 | u16::from(filter.icmp.code.unwrap_or(0)))
            }
            _ => (tuple.srckey.unwrap_or(0), tuple.dstkey.unwrap_or(0)),
        };
        let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
        let zone = tuple.zone.or(filter.zone).unwrap_or(0);
        let tuple = FlowTuple { source, destination, sport, dport, zone, counter: None };
        Ok(FlowKey { family, proto: number, tuple, reply })
    }
}

/// The only address of a prefix.
fn one(net: Option<IpNet>, name: &str) -> Result<IpAddr, String> {
    match net {
        Some(net) if net.prefix_len() == net.max_prefix_len() => Ok(net.addr()),
        Some(net) => Err(format!("one flow has one address: {net} given to {name} is a prefix")),
        None => Err(format!("one flow has all of its tuple: {name} is missing")),
    }
}

/// A protocol by name or number, for the command line.
fn protocol(text: &str) -> Result<u8, String> {
    let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|&(_, number)| number);
    let names = || NAMES.iter().map(|&(name, _)| name).collect::<Vec<_>>().join(", ");
    named.or_else(|| text.parse().ok()).ok_or_else(|| format!("protocols are {} or a number up to 255", names()))
}

fn family(text: &str) -> Result<Family, String> {
    Family::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| "families are ipv4 and ipv6".to_string())
}

/// An address, or the addresses of a prefix.
fn net(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let says = || "an address such as 192.0.2.1 or 2001:db8::1, or a prefix such as 192.0.2.0/24".to_string();
    address.or_else(|_| text.parse::<IpNet>()).map(|net| net.trunc()).map_err(|_| says())
}

/// A number of 16 bits, decimal or hexadecimal.
fn port(text: &str) -> Result<u16, String> {
    number(text).and_then(|n| u16::try_from(n).ok()).ok_or_else(|| "a number from 0 to 65535".to_string())
}

/// A number of 8 bits, the same way.
fn byte(text: &str) -> Result<u8, String> {
    number(text).and_then(|n| u8::try_from(n).ok()).ok_or_else(|| "a number from 0 to 255".to_string())
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn mark(text: &str) -> Result<Masked, String> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value), number(mask)),
        None => (number(text), Some(u32::MAX)),
    };
    let says = "a mark is a number of 32 bits, with a mask or without: 5, 0x10/0xf0";
    let (Some(value), Some(mask)) = (value, mask) else { return Err(says.to_string()) };
    if value & !mask != 0 {
        return Err(format!("{value:#x} has bits outside of the mask {mask:#x}: no flow could match"));
    }
    Ok(Masked { value, mask })
}

fn label(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|label| *label < 128).ok_or_else(|| "labels are numbers from 0 to 127".to_string())
}

fn state(text: &str) -> Result<String, String> {
    let tcp = tcp::State::ALL.map(tcp::State::name);
    let sctp = sctp::State::ALL.map(sctp::State::name);
    match tcp.iter().chain(&sctp).find(|name| name.eq_ignore_ascii_case(text)) {
        Some(name) => Ok(name.to_string()),
        None => Err(format!("states of TCP are {}; of SCTP {}", tcp.join(", "), sctp.join(", "))),
    }
}

fn status_bits(text: &str) -> Result<Status, String> {
    let mut status = Status::default();
    for word in text.split(',') {
        match STATUSES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            Some((_, bits)) => status.set |= bits,
            None if word.eq_ignore_ascii_case("UNSET") => status.unset |= status::ASSURED | status::SEEN_REPLY,
            None => {
                let names: Vec<&str> = STATUSES.iter().map(|&(name, _)| name).collect();
                return Err(format!("`{word}` is none of {} and UNSET", names.join(", ")));
            }
        }
    }
    match status.set & status.unset {
        0 => Ok(status),
        _ => Err("UNSET means neither ASSURED nor SEEN_REPLY: no flow could match".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        matching: Matching,
    }

    fn parsed(line: &str) -> Result<Matching, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.matching).map_err(|error| error.to_string())
    }

    fn half(source: &str, destination: &str, sport: u16, dport: u16) -> FlowTuple {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        FlowTuple { source, destination, sport, dport, zone: 0, counter: None }
    }

    fn flow() -> sumun_dataplane::protocol::FlowRow {
        sumun_dataplane::protocol::FlowRow {
            id: 1,
            family: Family::V4,
            proto: proto::TCP,
            timeout: 10,
            state: Some("ESTABLISHED".into()),
            original: half("10.0.0.2", "192.0.2.9", 5000, 80),
            reply: half("192.0.2.9", "203.0.113.1", 80, 6000),
            status: status::SEEN_REPLY | status::ASSURED | status::SRC_NAT,
            mark: 0x15,
            secctx: None,
            labels: 1 << 5 | 1 << 127,
            helper: None,
            start: None,
            stop: None,
        }
    }

    #[test]
    fn each_option_takes_its_flows_and_no_others() {
        for (takes, misses) in [
            ("", "-6"),
            ("-4", "-f ipv6"),
            ("-f ipv4", "--ipv6"),
            ("-p tcp", "-p udp"),
            ("-p 6", "--protonum 7"),
            ("-s 10.0.0.2", "--src 10.0.0.3"),
            ("--orig-src 10.0.0.0/24", "--source 10.0.1.0/24"),
            ("-d 192.0.2.9", "--orig-dst ::1"),
            ("--destination 192.0.0.0/16", "-d 10.0.0.2"),
            ("-r 192.0.2.9", "--reply-src 10.0.0.2"),
            ("-q 203.0.113.1", "--reply-dst 10.0.0.2"),
            ("--sport 5000", "--sport 80"),
            ("--orig-port-dst 80", "--dport 5000"),
            ("--reply-port-src 80", "--reply-port-src 81"),
            ("--reply-port-dst 6000", "--reply-port-dst 5000"),
            ("--state established", "--state SYN_SENT"),
            ("-u ASSURED", "-u UNSET"),
            ("--status seen_reply,assured", "-u EXPECTED"),
            ("-m 21", "-m 5"),
            ("-m 0x5/0xf", "--mark 0x1/0xf"),
            ("-l 5", "-l 6"),
            ("-l 5,127", "--label 5,6"),
            ("-w 0", "-w 1"),
            ("--orig-zone 0", "--reply-zone 7"),
            ("-n", "-g"),
            ("-n 203.0.113.1 -p tcp", "-n 203.0.113.2"),
            ("-j -p tcp", "-j 10.0.0.2"),
            ("--any-nat 203.0.113.0/24", "--dst-nat 192.0.2.9"),
            ("--src-nat", "--icmp-id 5000"),
            ("-s 10.0.0.2 --dport 80", "--srckey 5000"),
        ] {
            assert!(parsed(takes).unwrap().filter().takes(&flow()), "{takes}");
            assert!(!parsed(misses).unwrap().filter().takes(&flow()), "{misses}");
        }
    }

    #[test]
    fn icmp_and_gre_have_options_of_their_own() {
        let ping = sumun_dataplane::protocol::FlowRow {
            proto: proto::ICMP,
            state: None,
            original: half("10.0.0.2", "192.0.2.9", 77, 8 << 8),
            ..flow()
        };
        let gre = sumun_dataplane::protocol::FlowRow { proto: proto::GRE, ..ping.clone() };
        for (line, [of_ping, of_gre]) in [
            ("--icmp-type 8 --icmp-code 0 --icmp-id 77", [true, false]),
            ("--icmp-type 0", [false, false]),
            ("--sport 77", [false, false]),
            ("--srckey 0x4d --dstkey 2048", [false, true]),
        ] {
            let filter = parsed(line).unwrap().filter();
            assert_eq!([filter.takes(&ping), filter.takes(&gre)], [of_ping, of_gre], "{line}");
        }
    }

    #[test]
    fn mistakes_say_what_would_be_accepted() {
        for (line, says) in [
            ("-p tpc", "protocols are tcp, udp, udplite"),
            ("-p 256", "a number up to 255"),
            ("-s 10.0.0", "an address such as 192.0.2.1"),
            ("--sport 65536", "a number from 0 to 65535"),
            ("--state ESTABLISHD", "states of TCP are NONE, SYN_SENT"),
            ("-u ASSURED,REPLIED", "`REPLIED` is none of ASSURED, SEEN_REPLY"),
            ("-u UNSET,ASSURED", "no flow could match"),
            ("-l 128", "numbers from 0 to 127"),
            ("--icmp-type echo", "a number from 0 to 255"),
            ("--icmpv6-code 256", "a number from 0 to 255"),
            ("-m x", "a mark is a number of 32 bits"),
            ("-m 0x10/0xf", "has bits outside of the mask"),
            ("-f ip", "families are ipv4 and ipv6"),
            ("-4 -6", "cannot be used with"),
            ("-4 -f ipv6", "cannot be used with"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn one_flow_is_named_by_either_direction() {
        let key = |line| parsed(line).unwrap().key();
        let original = key("-p tcp -s 10.0.0.2 -d 192.0.2.9 --sport 5000 --dport 80 -w 3").unwrap();
        assert_eq!(original.tuple, FlowTuple { zone: 3, ..half("10.0.0.2", "192.0.2.9", 5000, 80) });
        let reply = key("-p udp -r fd00::1 -q fd00::2 --reply-port-src 1 --reply-port-dst 2").unwrap();
        assert_eq!((reply.reply, reply.family, reply.tuple), (true, Family::V6, half("fd00::1", "fd00::2", 1, 2)));
        let ping = key("-p icmp -s 10.0.0.2 -d 10.0.0.1 --icmp-type 8 --icmp-id 5").unwrap();
        assert_eq!(ping.tuple, half("10.0.0.2", "10.0.0.1", 5, 0x800));
        for (line, says) in [
            ("-s 10.0.0.2", "which protocol?"),
            ("-p tcp", "--src is missing"),
            ("-p tcp -s 10.0.0.2", "--dst is missing"),
            ("-p tcp -s 10.0.0.0/24 -d 10.0.0.1", "is a prefix"),
            ("-p tcp -s 10.0.0.2 -d ::1", "are of two families"),
            ("-p tcp -s 10.0.0.2 -d 10.0.0.1 --sport 1", "--dport is missing"),
            ("-p icmp -s 10.0.0.2 -d 10.0.0.1", "--icmp-type is missing"),
            ("-p tcp -r 10.0.0.2", "--reply-dst is missing"),
        ] {
            assert!(key(line).unwrap_err().contains(says), "{line}");
        }
    }
}
