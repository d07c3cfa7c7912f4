//! `-m tcp`: ports, flags and options of TCP (`xt_tcpudp.c`, `tcp_mt`).
//!
//! Every option, and also the bare `-m tcp`, asks for the header first: a later fragment never matches, negated or not; a
//! header cut short drops the packet, and so does the IPv4 fragment at offset 8, which could overwrite flags already
//! judged (RFC 1858, 3). The kernel knows the offset of IPv6 fragments in bytes, not in units of 8, and so lets those pass.
//! `--tcp-option` walks the options that the data offset announces: a data offset below 5 or beyond the packet drops it.
//!
//! TOML: `{ protocol = "tcp", dport = "ssh", syn = true, jump = "ACCEPT" }`

use super::ports::{DPORT, Ports, SPORT};
use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Tcp {
    /// `-m tcp` without options that ask for something: there is a header.
    Header,
    /// `--sport`
    Source(Ports),
    /// `--dport`
    Destination(Ports),
    /// `--tcp-flags`, and `--syn`: of the flags in `mask` exactly those of `set`.
    Flags {
        /// Flags examined, bits of the flags byte.
        mask: u8,
        /// Those that must be set. One that is not examined makes the condition false for all packets.
        set: u8,
    },
    /// `--tcp-option`: an option of this kind is there.
    Option(u8),
}

const FLAGS: [(&str, u8); 8] = [
    ("FIN", 0x01),
    ("SYN", 0x02),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
    ("ALL", 0x3f),
    ("NONE", 0x00),
];
const ALL: u8 = 0x3f;
/// What `--syn` examines: FIN, SYN, RST and ACK.
const SYN_MASK: u8 = 0x17;
const SYN: u8 = 0x02;
/// Bytes of the fixed TCP header.
const FIXED: usize = 20;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "tcp",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::TCP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        SPORT,
        DPORT,
        Opt::negatable("tcp-option", &[]).about("KIND", "an option of this kind is there"),
        Opt::negatable_pair("tcp-flags", &[]).about("MASK SET", "of the flags in MASK exactly those of SET are set"),
        Opt::negatable_flag("syn", &[]).about("", "first segment of a connection: SYN without ACK, FIN and RST"),
    ],
    build,
    summary: "ports, flags and options of TCP",
    example: r#"{ protocol = "tcp", dport = "ssh", syn = true, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -m tcp --dport 22", "="),
        Case::Prints(Family::V6, "-p tcp -m tcp --dport ssh --sport 1:5", "-p tcp -m tcp --sport 1:5 --dport 22"),
        Case::Prints(Family::V4, "-p tcp -m tcp ! --source-port :1024", "-p tcp -m tcp ! --sport 0:1024"),
        Case::Prints(Family::V4, "-p tcp -m tcp --sport 1024:", "-p tcp -m tcp --sport 1024:65535"),
        Case::Prints(Family::V4, "-p tcp -m tcp --sport 5:5", "-p tcp -m tcp --sport 5"),
        Case::Prints(Family::V4, "-p tcp -m tcp --sport 0", "="),
        Case::Prints(Family::V4, "-p tcp -m tcp --dport 0x16", "-p tcp -m tcp --dport 22"),
        Case::Prints(Family::V4, "-p tcp -m tcp --dport 010", "-p tcp -m tcp --dport 8"),
        Case::Prints(Family::V4, "-p tcp -m tcp --dport 0:65535", "-p tcp -m tcp"),
        Case::Prints(Family::V4, "-p tcp -m tcp", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -m tcp --syn --dport 22",
            "-p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN",
        ),
        Case::Prints(Family::V4, "-p tcp -m tcp ! --syn", "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
        Case::Prints(
            Family::V4,
            "-p tcp -m tcp --tcp-flags ALL NONE",
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
        ),
        Case::Prints(
            Family::V4,
            "-p tcp -m tcp --tcp-flags syn,ack,FIN FIN",
            "-p tcp -m tcp --tcp-flags FIN,SYN,ACK FIN",
        ),
        Case::Prints(Family::V4, "-p tcp -m tcp --tcp-flags NONE NONE", "-p tcp -m tcp"),
        Case::Prints(Family::V4, "-p tcp -m tcp ! --tcp-flags NONE NONE", "="),
        Case::Prints(Family::V4, "-p tcp -m tcp --tcp-option 4", "="),
        Case::Prints(Family::V4, "-p tcp -m tcp ! --tcp-option 4", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -m tcp --syn --tcp-option 2",
            "-p tcp -m tcp --tcp-option 2 --tcp-flags FIN,SYN,RST,ACK SYN",
        ),
        Case::Refused(Family::V4, "-p tcp -m tcp --tcp-option 0", "not a kind of TCP option"),
        Case::Refused(Family::V4, "-p tcp -m tcp --dport 5:3", "runs backwards"),
        Case::Refused(Family::V4, "-p tcp -m tcp --dport 99999", "`99999` is not a port"),
        Case::Refused(Family::V4, "-p tcp -m tcp --dport sssh", "`sssh` is not a port or a service"),
        Case::Refused(Family::V4, "-p tcp -m tcp --sport 99:98", "99:98"),
        Case::Refused(Family::V4, "-p tcp -m tcp --dport 65536", "65536"),
        Case::Refused(Family::V4, "-p tcp -m tcp --tcp-option 256", "256"),
        Case::Refused(Family::V4, "-p tcp -m tcp --dport 22,23", "multiport"),
        Case::Refused(Family::V4, "-p tcp -m tcp --tcp-flags SYN,FOO SYN", "`FOO` is not a TCP flag"),
        Case::Refused(Family::V4, "-p tcp -m tcp --syn --tcp-flags ALL SYN", "--syn and --tcp-flags"),
        Case::Prints(Family::V4, "-p tcp -m tcp --tcp-option 0x2", "-p tcp -m tcp --tcp-option 2"),
        Case::Refused(Family::V4, "-p tcp -m tcp --tcp-option 256", "`256` is not a kind of TCP option"),
        Case::Refused(Family::V4, "-p tcp -m tcp --tcp-option mss", "`mss` is not a kind of TCP option"),
        Case::Refused(Family::V4, "-p tcp -m tcp --tcp-flags SYN", "wants 2 values"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    let mut push = |negate, test| conds.push(Cond::new(negate, Match::Tcp(test)));
    for (option, make) in [(0, Tcp::Source as fn(Ports) -> Tcp), (1, Tcp::Destination)] {
        let Some(option) = given.get(option) else { continue };
        let ports = Ports::parse(&option.values[0])?;
        // Neither asks anything nor is printed, as for UDP.
        if option.negate || !ports.is_all() {
            push(option.negate, make(ports));
        }
    }
    if let Some(option) = given.get(2) {
        let kind = word::number(&option.values[0], "a kind of TCP option", 1..=255)?;
        push(option.negate, Tcp::Option(kind as u8));
    }
    let flags = match (given.get(3), given.get(4)) {
        (Some(_), Some(syn)) => {
            return Err(syn.word.complain("--syn and --tcp-flags in one match", "one of them, or a second `-m tcp`"));
        }
        (Some(flags), None) => Some((flags.negate, parse_flags(&flags.values[0])?, parse_flags(&flags.values[1])?)),
        (None, Some(syn)) => Some((syn.negate, SYN_MASK, SYN)),
        (None, None) => None,
    };
    if let Some((negate, mask, set)) = flags
        && (negate || mask != 0 || set != 0)
    {
        push(negate, Tcp::Flags { mask, set });
    }
    if conds.is_empty() {
        conds.push(Cond::new(false, Match::Tcp(Tcp::Header)));
    }
    Ok(conds)
}

fn parse_flags(word: &Word) -> Result<u8, Complaint> {
    Ok(word::named_list(word, "a TCP flag", &FLAGS)?.into_iter().fold(0, |bits, flag| bits | flag))
}

fn print_flags(out: &mut String, flags: u8) {
    if flags == 0 {
        out.push_str("NONE");
    }
    let set = FLAGS.iter().filter(|(_, bit)| bit.count_ones() == 1 && flags & bit != 0);
    for (i, (name, _)) in set.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(name);
    }
}

/// Whether an option of that kind is among those that the data offset announces.
fn find_option(kind: u8, facts: &Facts, l3: &[u8]) -> Outcome {
    let header = l3.get(facts.l4_off as usize..).unwrap_or(&[]);
    let Some(&offset) = header.get(12) else { return Outcome::Hotdrop };
    let length = (offset >> 4) as usize * 4;
    let Some(options) = header.get(FIXED..length) else { return Outcome::Hotdrop };
    let mut i = 0;
    while i < options.len() {
        if options[i] == kind {
            return Outcome::Yes;
        }
        // End of list and no-operation are one byte; the kernel goes on behind the end of the list. A length of 0 counts
        // as 1.
        i += match options[i] {
            0 | 1 => 1,
            _ => options.get(i + 1).map_or(1, |&length| length.max(1) as usize),
        };
    }
    Outcome::No
}

impl Condition for Tcp {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        if !facts.has_l4 {
            let evil = facts.family == Family::V4 && facts.frag_off == 8;
            return if facts.is_later_fragment() && !evil { Outcome::Never } else { Outcome::Hotdrop };
        }
        match *self {
            Tcp::Header => Outcome::Yes,
            Tcp::Source(ports) => yes(ports.has(facts.sport)),
            Tcp::Destination(ports) => yes(ports.has(facts.dport)),
            Tcp::Flags { mask, set } => yes(facts.tcp_flags & mask == set),
            Tcp::Option(kind) => find_option(kind, facts, cx.l3),
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        match *self {
            Tcp::Header => {}
            Tcp::Source(ports) => ports.print("sport", negate, out),
            Tcp::Destination(ports) => ports.print("dport", negate, out),
            Tcp::Flags { mask, set } => {
                let _ = write!(out, "{} --tcp-flags ", not(negate));
                print_flags(out, mask);
                out.push(' ');
                print_flags(out, set);
            }
            Tcp::Option(kind) => {
                let _ = write!(out, "{} --tcp-option {kind}", not(negate));
            }
        }
    }

    fn asks(&self) -> Asks {
        match self {
            Tcp::Header | Tcp::Source(_) | Tcp::Destination(_) => Asks::Flow,
            Tcp::Flags { .. } => Asks::TcpFlags,
            Tcp::Option(_) => Asks::Packet,
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match *self {
            Tcp::Header => Ok(()),
            Tcp::Source(ports) | Tcp::Destination(ports) => ports.verify(),
            Tcp::Flags { mask, set } if (mask | set) & !ALL != 0 => Err("unknown TCP flags".to_string()),
            Tcp::Flags { .. } => Ok(()),
            Tcp::Option(0) => Err("the end of TCP's option list is no option".to_string()),
            Tcp::Option(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, l4, outcome};
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn ports_hit_within_their_range() {
        for (text, sport, dport, expected) in [
            ("--dport 22", 1, 22, Yes),
            ("--dport 22", 22, 1, No),
            ("! --dport 22", 1, 22, No),
            ("! --dport 22", 1, 23, Yes),
            ("--sport 1000:2000", 1000, 1, Yes),
            ("--sport 1000:2000", 2000, 1, Yes),
            ("--sport 1000:2000", 999, 1, No),
            ("--sport 1000:2000", 2001, 1, No),
            ("--sport 1 --dport 2", 1, 2, Yes),
            ("--sport 1 --dport 2", 2, 2, No),
            ("! --sport 0:65535", 1, 2, No),
            ("", 1, 2, Yes),
        ] {
            for family in Family::ALL {
                let facts = l4(family, proto::TCP, sport, dport);
                assert_eq!(outcome(&format!("-p tcp -m tcp {text}"), &facts), expected, "{text} {sport} {dport}");
            }
        }
        assert_eq!(outcome("-p tcp -m tcp --dport 22", &l4(Family::V4, proto::UDP, 1, 22)), No);
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for (family, frag_off, expected) in [
            (Family::V4, 0, Hotdrop),
            (Family::V4, 8, Hotdrop),
            (Family::V4, 16, Never),
            (Family::V6, 0, Hotdrop),
            (Family::V6, 8, Never),
            (Family::V6, 16, Never),
        ] {
            let facts = Facts { proto: proto::TCP, frag_off, ..Facts::blank(family) };
            for text in ["", "--dport 22", "! --dport 22", "--syn", "! --tcp-option 4"] {
                assert_eq!(outcome(&format!("-p tcp -m tcp {text}"), &facts), expected, "{text} at {frag_off}");
            }
        }
    }

    #[test]
    fn flags_are_those_examined() {
        for (text, flags, expected) in [
            ("--syn", 0x02, Yes),
            ("--syn", 0x42, Yes), // ECE and CWR are not examined
            ("--syn", 0x12, No),
            ("! --syn", 0x12, Yes),
            ("--tcp-flags ALL NONE", 0x00, Yes),
            ("--tcp-flags ALL NONE", 0xc0, Yes),
            ("--tcp-flags ALL NONE", 0x01, No),
            ("--tcp-flags SYN,FIN SYN,FIN", 0x13, Yes),
            ("--tcp-flags SYN FIN", 0x01, No),
            ("--tcp-flags SYN FIN", 0x03, No),
            ("! --tcp-flags NONE NONE", 0x02, No),
        ] {
            let facts = Facts { tcp_flags: flags, ..l4(Family::V4, proto::TCP, 1, 2) };
            assert_eq!(outcome(&format!("-p tcp -m tcp {text}"), &facts), expected, "{text} {flags:x}");
        }
    }

    #[test]
    fn options_are_walked_as_the_kernel_walks_them() {
        // data offset in words, option bytes present, kind asked
        for (words, options, kind, expected) in [
            (6, &[2, 4, 5, 0xb4][..], 2, Yes),
            (6, &[2, 4, 5, 0xb4], 4, No),
            (6, &[1, 1, 4, 2], 4, Yes),
            (6, &[0, 4, 2, 0], 4, Yes),   // behind the end of the list
            (6, &[2, 4, 4, 4], 4, No),    // inside another option
            (6, &[9, 0, 4, 2], 4, Yes),   // a length of 0 counts as 1
            (6, &[9, 255, 4, 2], 4, No),  // a length beyond the end
            (6, &[1, 1, 1, 8], 4, No),    // a kind without its length, last byte
            (5, &[4, 2, 1, 1], 4, No),    // payload
            (5, &[], 4, No),
            (4, &[], 4, Hotdrop),
            (0, &[], 4, Hotdrop),
            (6, &[4, 2, 1], 4, Hotdrop),  // cut short
            (15, &[4, 2, 1, 1], 4, Hotdrop),
        ] {
            for (negate, expected) in [("", expected), ("! ", negated(expected))] {
                let mut l3 = vec![0; 20 + 20];
                l3[20 + 12] = words << 4;
                l3.extend_from_slice(options);
                let facts = l4(Family::V4, proto::TCP, 1, 2);
                let judge = Judge::new(Family::V4, &format!("-p tcp -m tcp {negate}--tcp-option {kind}"));
                assert_eq!(judge.ask(&facts, &l3), expected, "{negate}{words} {options:?}");
            }
        }
    }

    fn negated(outcome: Outcome) -> Outcome {
        match outcome {
            Yes => No,
            No => Yes,
            other => other,
        }
    }

    #[test]
    fn facts_that_the_bytes_do_not_bear_out_do_not_panic() {
        let facts = Facts { l4_off: u16::MAX, ..l4(Family::V4, proto::TCP, 1, 2) };
        assert_eq!(Judge::new(Family::V4, "-p tcp -m tcp --tcp-option 4").ask(&facts, &[0; 40]), Hotdrop);
    }
}
