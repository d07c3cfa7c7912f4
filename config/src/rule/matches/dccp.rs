//! `-m dccp`: ports, type and options of DCCP (`xt_dccp.c`).
//!
//! A later fragment never matches, negated or not; a header cut short drops the packet. Both hold for the bare `-m dccp` too.
//! `--dccp-option` walks the options that the data offset announces: one that is too small for the type, or beyond the packet,
//! drops it. INVALID is all types that have no name: 10 and more.
//!
//! TOML: `{ protocol = "dccp", dport = 5060, dccp-types = ["REQUEST", "RESPONSE"], jump = "ACCEPT" }`

use super::ports::{self, DPORT, L4, SPORT};
use super::{Asks, Condition, Match, headers, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a DCCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Dccp {
    /// `--sport`, `--dport`, or neither.
    Ports(L4),
    /// `--dccp-types`: a bit for each type.
    Types(u16),
    /// `--dccp-option`: an option of this type is there.
    Option(u8),
}

/// By number.
const TYPES: [&str; 11] =
    ["REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK", "INVALID"];
const INVALID: u8 = TYPES.len() as u8 - 1;
const OPTION_TYPES: usize = 2;
const OPTION_OPTION: usize = 3;
/// Bytes of the generic header with short sequence numbers (`struct dccp_hdr`).
const FIXED: usize = 12;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "dccp",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::DCCP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        SPORT,
        DPORT,
        Opt::negatable("dccp-types", &[]).about("TYPE[,...]", "type of the packet"),
        Opt::negatable("dccp-option", &[]).about("N", "an option of this type is there"),
    ],
    build,
    summary: "ports, type and options of DCCP",
    example: r#"{ protocol = "dccp", dport = 5060, dccp-types = ["REQUEST", "RESPONSE"], jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p dccp -m dccp --dport 53 --sport 1:", "-p dccp -m dccp --sport 1:65535 --dport 53"),
        Case::Prints(Family::V6, "-p dccp -m dccp ! --destination-port 80", "-p dccp -m dccp ! --dport 80"),
        Case::Prints(Family::V4, "-p dccp -m dccp --dport 0:65535", "="),
        Case::Prints(Family::V4, "-p dccp -m dccp", "="),
        Case::Prints(Family::V4, "-p dccp -m dccp --dccp-types REQUEST", "="),
        Case::Prints(
            Family::V6,
            "-p dccp -m dccp --dccp-types REQUEST,RESPONSE,DATA,ACK,DATAACK,CLOSEREQ,CLOSE,RESET,SYNC,SYNCACK,INVALID",
            "=",
        ),
        Case::Prints(Family::V4, "-p dccp -m dccp ! --dccp-types sync,ACK,SYNC,", "-p dccp -m dccp ! --dccp-types ACK,SYNC"),
        Case::Prints(Family::V4, "-p dccp -m dccp --dccp-option 0x5", "-p dccp -m dccp --dccp-option 5"),
        Case::Prints(Family::V4, "-p dccp -m dccp ! --dccp-option 255", "="),
        Case::Prints(
            Family::V4,
            "-p dccp --dccp-option 5 ! --dccp-types ACK --dport 5 ! --sport 4",
            "-p dccp -m dccp ! --sport 4 --dport 5 ! --dccp-types ACK --dccp-option 5",
        ),
        Case::Refused(Family::V4, "-p dccp -m dccp --dport 53:52", "runs backwards"),
        Case::Refused(Family::V4, "-p dccp -m dccp --sport 65536", "`65536` is not a port"),
        Case::Refused(Family::V4, "-p dccp -m dccp --sport 1,2", "multiport"),
        Case::Refused(Family::V4, "-p dccp -m dccp --dccp-types REQ", "`REQ` is not a type of DCCP"),
        Case::Refused(Family::V4, "-p dccp -m dccp --dccp-types 5", "`5` is not a type of DCCP"),
        Case::Refused(Family::V4, "-p dccp -m dccp --dccp-option 0", "`0` is not a type of option"),
        Case::Refused(Family::V4, "-p dccp -m dccp --dccp-option 256", "`256` is not a type of option"),
        Case::Refused(Family::V4, "-m dccp --dccp-types ACK", "for protocol dccp only"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = ports::build(given, |l4| Match::Dccp(Dccp::Ports(l4)))?;
    let mut push = |negate, test| {
        conds.retain(|cond| cond.test != Match::Dccp(Dccp::Ports(L4::Header)));
        conds.push(Cond::new(negate, Match::Dccp(test)));
    };
    if let Some(option) = given.get(OPTION_TYPES) {
        let names: Vec<(&str, u16)> = TYPES.iter().enumerate().map(|(kind, name)| (*name, 1 << kind)).collect();
        let mut types = 0;
        for part in word::split(&option.values[0], ',').iter().filter(|part| !part.text.is_empty()) {
            types |= word::named(part, "a type of DCCP", &names)?;
        }
        if types == 0 {
            return Err(option.values[0].complain("no type is named", word::either(TYPES.into_iter())));
        }
        push(option.negate, Dccp::Types(types));
    }
    if let Some(option) = given.get(OPTION_OPTION) {
        let kind = word::number(&option.values[0], "a type of option", 1..=255)?;
        push(option.negate, Dccp::Option(kind as u8));
    }
    Ok(conds)
}

/// The answer for a packet, its type and where its options begin (`__dccp_hdr_len`).
fn of_packet(facts: &Facts, cx: &Context, ask: impl FnOnce(&[u8], u8, usize) -> Outcome) -> Outcome {
    let packet = match headers::upper(facts, cx.l3, FIXED) {
        Ok(packet) => packet,
        Err(outcome) => return outcome,
    };
    let shape = packet.get(8).copied().unwrap_or(0);
    let (kind, has_long_numbers) = (shape >> 1 & 0xf, shape & 1 != 0);
    let own = match TYPES.get(usize::from(kind)) {
        Some(&"DATA") => 0,
        Some(&"REQUEST") => 4,
        Some(&("ACK" | "DATAACK" | "CLOSEREQ" | "CLOSE" | "SYNC" | "SYNCACK")) => 8,
        _ => 12,
    };
    ask(packet, kind, FIXED + if has_long_numbers { 4 } else { 0 } + own)
}

/// Whether an option of that type is among those announced.
fn has_option(wanted: u8, packet: &[u8], begin: usize) -> Outcome {
    let end = usize::from(packet.get(4).copied().unwrap_or(0)) * 4;
    let Some(mut options) = packet.get(begin..end) else { return Outcome::Hotdrop };
    while let [kind, rest @ ..] = options {
        if *kind == wanted {
            return Outcome::Yes;
        }
        // Types 0 and 1 are one byte, though more of one byte there are; a length of 0 counts as 1.
        let len = match kind {
            0 | 1 => 1,
            _ => rest.first().map_or(1, |&length| length.max(1).into()),
        };
        options = options.get(len..).unwrap_or_default();
    }
    Outcome::No
}

impl Condition for Dccp {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        match *self {
            Dccp::Ports(l4) => l4.test(facts),
            Dccp::Types(types) => of_packet(facts, cx, |_, kind, _| yes(types >> kind.min(INVALID) & 1 != 0)),
            Dccp::Option(wanted) => of_packet(facts, cx, |packet, _, begin| has_option(wanted, packet, begin)),
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        match *self {
            Dccp::Ports(l4) => l4.print(negate, out),
            Dccp::Types(types) => {
                let _ = write!(out, "{} --dccp-types", not(negate));
                let named = TYPES.iter().enumerate().filter(|(kind, _)| types >> kind & 1 != 0);
                for (i, (_, name)) in named.enumerate() {
                    let _ = write!(out, "{}{name}", if i == 0 { " " } else { "," });
                }
            }
            Dccp::Option(kind) => {
                let _ = write!(out, "{} --dccp-option {kind}", not(negate));
            }
        }
    }

    fn asks(&self) -> Asks {
        match self {
            Dccp::Ports(_) => Asks::Flow,
            _ => Asks::Packet,
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match *self {
            Dccp::Ports(l4) => l4.verify(),
            Dccp::Types(types) if types == 0 || types >> TYPES.len() != 0 => Err("types without a name".to_string()),
            Dccp::Option(0) => Err("an option of type 0".to_string()),
            Dccp::Types(_) | Dccp::Option(_) => Ok(()),
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
            ("--dport 53", 1, 53, Yes),
            ("--dport 53", 53, 1, No),
            ("! --dport 53", 53, 1, Yes),
            ("--sport 1:5 ! --dport 53", 5, 54, Yes),
            ("--sport 1:5 ! --dport 53", 6, 54, No),
            ("! --dport 0:65535", 1, 2, No),
            ("", 0, 0, Yes),
        ] {
            let facts = l4(Family::V6, proto::DCCP, sport, dport);
            assert_eq!(outcome(&format!("-p dccp -m dccp {text}"), &facts), expected, "{text} {sport} {dport}");
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for (family, frag_off, expected) in
            [(Family::V4, 0, Hotdrop), (Family::V4, 8, Never), (Family::V6, 0, Hotdrop), (Family::V6, 8, Never)]
        {
            let facts = Facts { proto: proto::DCCP, frag_off, ..Facts::blank(family) };
            for text in ["", "--dport 53", "! --dport 53"] {
                assert_eq!(outcome(&format!("-p dccp -m dccp {text}"), &facts), expected, "{text} at {frag_off}");
            }
        }
    }

    #[test]
    fn a_range_that_runs_backwards_does_not_verify() {
        assert!(Dccp::Ports(L4::Source(ports::Ports { first: 2, last: 1 })).verify(Family::V4).is_err());
        assert!(Dccp::Types(1 << 11).verify(Family::V4).is_err());
        assert!(Dccp::Option(0).verify(Family::V4).is_err());
    }

    /// A packet of a type with long sequence numbers, a data offset in words and these bytes behind the generic header.
    fn ask(text: &str, kind: u8, offset: u8, behind: &[u8]) -> Outcome {
        let mut l3 = vec![0; 32];
        (l3[24], l3[28]) = (offset, kind << 1 | 1);
        l3.extend_from_slice(behind);
        let judge = Judge::new(Family::V4, &format!("-p dccp -m dccp {text}"));
        judge.ask(&l4(Family::V4, proto::DCCP, 1, 2), &l3)
    }

    #[test]
    fn types_are_those_of_the_header() {
        for (text, kind, expected) in [
            ("--dccp-types REQUEST", 0, Yes),
            ("--dccp-types REQUEST", 1, No),
            ("! --dccp-types REQUEST,SYNCACK", 9, No),
            ("--dccp-types INVALID", 10, Yes),
            ("--dccp-types INVALID", 15, Yes),
            ("! --dccp-types INVALID", 15, No),
        ] {
            assert_eq!(ask(text, kind, 4, &[0; 4]), expected, "{text} {kind}");
        }
    }

    #[test]
    fn options_are_walked_behind_the_header_of_the_type() {
        // type, data offset in words, bytes behind the generic header
        for (kind, offset, behind, expected) in [
            (2, 5, &[0, 0, 0, 0, 32, 3, 7, 0][..], Yes),
            (2, 5, &[0, 0, 0, 0, 33, 4, 32, 0], No),
            (2, 5, &[0, 0, 0, 0, 33, 0, 32, 0], Yes),
            (2, 5, &[0, 0, 0, 0, 1, 0, 1, 32], Yes),
            (2, 5, &[0, 0, 0, 0, 1, 1, 1, 33], No), // its length would be behind the end
            (2, 4, &[0, 0, 0, 0, 32, 3, 7, 0], No),
            (0, 5, &[0, 0, 0, 0, 32, 0, 0, 0], No),
            (0, 4, &[0, 0, 0, 0, 0, 0, 0, 0], Hotdrop),
            (3, 5, &[0; 12], Hotdrop),
            (3, 6, &[0; 12], No),
            (7, 6, &[0; 12], Hotdrop),
            (12, 7, &[0; 16], No),
            (2, 3, &[0; 4], Hotdrop),
            (2, 255, &[0; 4], Hotdrop),
        ] {
            let negated = match expected {
                Yes => No,
                No => Yes,
                other => other,
            };
            assert_eq!(ask("--dccp-option 32", kind, offset, behind), expected, "{kind} {offset} {behind:?}");
            assert_eq!(ask("! --dccp-option 32", kind, offset, behind), negated, "{kind} {offset} {behind:?}");
        }
    }
}
