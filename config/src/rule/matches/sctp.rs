//! `-m sctp`: ports and chunks of SCTP (`xt_sctp.c`).
//!
//! A later fragment never matches, negated or not; a header cut short drops the packet. Both hold for the bare `-m sctp` too.
//! `--chunk-types` walks all chunks: one that is cut short, or that says it has no length, drops the packet.
//!
//! ```text
//!   all INIT,SACK      each of these types is there
//!   any DATA:Be        one of these is: here a first piece of data that is not the last
//!   only DATA,SACK     all that is there is of these types
//! ```
//!
//! A capital letter is a flag that must be set, a small one a flag that must not be.
//!
//! TOML: `{ protocol = "sctp", chunk-types = ["any", "INIT"], dport = 5060, jump = "ACCEPT" }`

use super::ports::{self, DPORT, L4, SPORT};
use super::{Asks, Condition, Match, headers, not};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on an SCTP packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Sctp {
    /// `--sport`, `--dport`, or neither.
    Ports(L4),
    /// `--chunk-types`
    Chunks(Box<Chunks>),
}

/// Chunks that are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunks {
    /// How many of them.
    pub quantity: Quantity,
    /// Bits of their types, from type 0 on.
    pub types: [u64; 4],
    /// What is asked of the flags of some.
    pub flags: Vec<Flags>,
}

/// How many of the types named must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Quantity {
    /// Each of them.
    All,
    /// One of them.
    Any,
    /// No others.
    Only,
}

/// Flags of a type of chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Flags {
    /// The type.
    pub kind: u8,
    /// Flags that are looked at.
    pub mask: u8,
    /// Those of them that must be set.
    pub set: u8,
}

const QUANTITIES: [(&str, Quantity); 3] = [("all", Quantity::All), ("any", Quantity::Any), ("only", Quantity::Only)];
/// Names and numbers, in the order of numbers, and letters of the flags down to the lowest bit.
const TYPES: [(&str, u8, &str); 22] = [
    ("DATA", 0, "IUBE"),
    ("INIT", 1, ""),
    ("INIT_ACK", 2, ""),
    ("SACK", 3, ""),
    ("HEARTBEAT", 4, ""),
    ("HEARTBEAT_ACK", 5, ""),
    ("ABORT", 6, "T"),
    ("SHUTDOWN", 7, ""),
    ("SHUTDOWN_ACK", 8, ""),
    ("ERROR", 9, ""),
    ("COOKIE_ECHO", 10, ""),
    ("COOKIE_ACK", 11, ""),
    ("ECN_ECNE", 12, ""),
    ("ECN_CWR", 13, ""),
    ("SHUTDOWN_COMPLETE", 14, "T"),
    ("I_DATA", 64, "IUBE"),
    ("ASCONF_ACK", 128, ""),
    ("RE_CONFIG", 130, ""),
    ("PAD", 132, ""),
    ("FORWARD_TSN", 192, ""),
    ("ASCONF", 193, ""),
    ("I_FORWARD_TSN", 194, ""),
];
const EVERY_TYPE: [u64; 4] = [u64::MAX; 4];
const CHUNKS: usize = 2;
/// Bytes of the common header.
const FIXED: usize = 12;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "sctp",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::SCTP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        SPORT,
        DPORT,
        Opt::negatable_pair("chunk-types", &[])
            .about("all|any|only TYPE[:FLAGS][,...]", "types of its chunks; ALL is every type, NONE no type"),
    ],
    build,
    summary: "ports and chunks of SCTP",
    example: r#"{ protocol = "sctp", chunk-types = ["any", "INIT"], dport = 5060, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p sctp -m sctp --dport 53 --sport 1:", "-p sctp -m sctp --sport 1:65535 --dport 53"),
        Case::Prints(Family::V6, "-p sctp -m sctp ! --destination-port 80", "-p sctp -m sctp ! --dport 80"),
        Case::Prints(Family::V4, "-p sctp -m sctp --dport 0:65535", "="),
        Case::Prints(Family::V4, "-p sctp -m sctp", "="),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types all DATA", "="),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types ANY data,INIT,DATA", "-p sctp -m sctp --chunk-types any DATA,INIT"),
        Case::Prints(Family::V6, "-p sctp -m sctp ! --chunk-types Only SACK,,DATA", "-p sctp -m sctp ! --chunk-types only DATA,SACK"),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types all ALL", "="),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types only none", "-p sctp -m sctp --chunk-types only NONE"),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types any DATA:Be,ABORT:T,SHUTDOWN_COMPLETE:t", "="),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types any DATA:UBEubeIi", "-p sctp -m sctp --chunk-types any DATA:IUBE"),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types any DATA:beu", "-p sctp -m sctp --chunk-types any DATA:ube"),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types any DATA:B,DATA:E", "-p sctp -m sctp --chunk-types any DATA:BE"),
        Case::Prints(Family::V4, "-p sctp -m sctp --chunk-types any DATA:", "-p sctp -m sctp --chunk-types any DATA"),
        Case::Prints(
            Family::V4,
            "-p sctp --chunk-types all DATA,INIT,INIT_ACK,SACK,HEARTBEAT,HEARTBEAT_ACK,ABORT,SHUTDOWN,SHUTDOWN_ACK,ERROR,COOKIE_ECHO,COOKIE_ACK,ECN_ECNE,ECN_CWR,SHUTDOWN_COMPLETE,ASCONF,ASCONF_ACK,FORWARD_TSN,I_DATA,RE_CONFIG,PAD,I_FORWARD_TSN",
            "-p sctp -m sctp --chunk-types all DATA,INIT,INIT_ACK,SACK,HEARTBEAT,HEARTBEAT_ACK,ABORT,SHUTDOWN,SHUTDOWN_ACK,ERROR,COOKIE_ECHO,COOKIE_ACK,ECN_ECNE,ECN_CWR,SHUTDOWN_COMPLETE,I_DATA,ASCONF_ACK,RE_CONFIG,PAD,FORWARD_TSN,ASCONF,I_FORWARD_TSN",
        ),
        Case::Prints(
            Family::V4,
            "-p sctp ! --chunk-types any DATA:Be,INIT --dport 5 --sport 1:2",
            "-p sctp -m sctp --sport 1:2 --dport 5 ! --chunk-types any DATA:Be,INIT",
        ),
        Case::Refused(Family::V4, "-p sctp -m sctp --dport 53:52", "runs backwards"),
        Case::Refused(Family::V4, "-p sctp -m sctp --sport 65536", "`65536` is not a port"),
        Case::Refused(Family::V4, "-p sctp -m sctp --sport 1,2", "multiport"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any", "wants 2 values"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types none DATA", "`none` is not a quantity"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any FOO", "`FOO` is not a type of chunk"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any 5", "`5` is not a type of chunk"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any DATA,NONE", "`NONE` is not a type of chunk"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any ALL:U", "`ALL` is not a type of chunk"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any DATA:x", "`x` is not a flag of DATA"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any DATA:B:E", "`:` is not a flag of DATA"),
        Case::Refused(Family::V4, "-p sctp -m sctp --chunk-types any INIT:T", "`T` is not a flag of INIT"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = ports::build(given, |l4| Match::Sctp(Sctp::Ports(l4)))?;
    if let Some(option) = given.get(CHUNKS) {
        let quantity = word::named(&option.values[0], "a quantity of chunks", &QUANTITIES)?;
        let mut chunks = Chunks { quantity, types: [0; 4], flags: Vec::new() };
        chunks.name(&option.values[1])?;
        conds.retain(|cond| cond.test != Match::Sctp(Sctp::Ports(L4::Header)));
        conds.push(Cond::new(option.negate, Match::Sctp(Sctp::Chunks(chunks.into()))));
    }
    Ok(conds)
}

impl Chunks {
    /// Takes the types of a list.
    fn name(&mut self, list: &Word) -> Result<(), Complaint> {
        match &list.text {
            text if text.eq_ignore_ascii_case("ALL") => self.types = EVERY_TYPE,
            text if text.eq_ignore_ascii_case("NONE") => {}
            _ => {
                for part in word::split(list, ',').iter().filter(|part| !part.text.is_empty()) {
                    self.add(part)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, part: &Word) -> Result<(), Complaint> {
        let names = TYPES.map(|(name, kind, letters)| (name, (name, kind, letters)));
        let (name, flags) = part.text.split_once(':').unwrap_or((&part.text, ""));
        let named = Word { text: name.to_string(), at: part.at.clone() };
        let (name, kind, letters) = word::named(&named, "a type of chunk", &names)?;
        self.types[usize::from(kind / 64)] |= 1 << (kind % 64);
        for letter in flags.chars() {
            let Some(bit) = letters.find(letter.to_ascii_uppercase()).map(|at| letters.len() - 1 - at) else {
                let accepts = if letters.is_empty() { "no flags".into() } else { format!("letters of {letters}") };
                return Err(part.complain(format!("`{letter}` is not a flag of {name}"), accepts));
            };
            let at = self.flags.iter().position(|flags| flags.kind == kind).unwrap_or_else(|| {
                self.flags.push(Flags { kind, mask: 0, set: 0 });
                self.flags.len() - 1
            });
            self.flags[at].mask |= 1 << bit;
            if letter.is_ascii_uppercase() {
                self.flags[at].set |= 1 << bit;
            }
        }
        Ok(())
    }

    fn has(types: &[u64; 4], kind: u8) -> bool {
        types[usize::from(kind / 64)] >> (kind % 64) & 1 != 0
    }

    fn asks_for(&self, kind: u8, flags: u8) -> bool {
        let asked = self.flags.iter().find(|asked| asked.kind == kind);
        Self::has(&self.types, kind) && asked.is_none_or(|asked| flags & asked.mask == asked.set)
    }

    /// What this says of the chunks of a packet (`match_packet`).
    fn test(&self, packet: &[u8]) -> Outcome {
        let mut missing = self.types;
        let mut at = FIXED;
        loop {
            let Some(&[kind, flags, high, low, ..]) = packet.get(at..) else { return Outcome::Hotdrop };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length == 0 {
                return Outcome::Hotdrop;
            }
            match (self.quantity, self.asks_for(kind, flags)) {
                (Quantity::Any, true) => return Outcome::Yes,
                (Quantity::Only, false) => return Outcome::No,
                (Quantity::All, true) => missing[usize::from(kind / 64)] &= !(1 << (kind % 64)),
                _ => {}
            }
            at += length.next_multiple_of(4);
            if at >= packet.len() {
                break;
            }
        }
        match self.quantity {
            Quantity::All if missing == [0; 4] => Outcome::Yes,
            Quantity::All | Quantity::Any => Outcome::No,
            Quantity::Only => Outcome::Yes,
        }
    }

    fn print(&self, out: &mut String) {
        let quantity = QUANTITIES.iter().find(|(_, quantity)| *quantity == self.quantity);
        let _ = write!(out, " --chunk-types {} ", quantity.map_or("", |(name, _)| name));
        if self.types == EVERY_TYPE || self.types == [0; 4] {
            out.push_str(if self.types == [0; 4] { "NONE" } else { "ALL" });
            return;
        }
        let there = TYPES.iter().filter(|(_, kind, _)| Self::has(&self.types, *kind));
        for (i, (name, kind, letters)) in there.enumerate() {
            let _ = write!(out, "{}{name}", if i == 0 { "" } else { "," });
            let Some(flags) = self.flags.iter().find(|flags| flags.kind == *kind) else { continue };
            out.push(':');
            for (at, letter) in letters.chars().enumerate() {
                let bit = letters.len() - 1 - at;
                if flags.mask >> bit & 1 != 0 {
                    out.push(if flags.set >> bit & 1 != 0 { letter } else { letter.to_ascii_lowercase() });
                }
            }
        }
    }

    fn verify(&self) -> Result<(), String> {
        let named = TYPES.iter().fold([0; 4], |mut types: [u64; 4], (_, kind, _)| {
            types[usize::from(kind / 64)] |= 1 << (kind % 64);
            types
        });
        if self.types != EVERY_TYPE && self.types.iter().zip(named).any(|(types, named)| types & !named != 0) {
            return Err("types of chunks without a name".to_string());
        }
        for (i, flags) in self.flags.iter().enumerate() {
            let letters = TYPES.iter().find(|(_, kind, _)| *kind == flags.kind).map_or(0, |(.., letters)| letters.len());
            let is_known = flags.mask != 0 && flags.mask >> letters == 0 && flags.set & !flags.mask == 0;
            let is_named = self.types != EVERY_TYPE && Self::has(&self.types, flags.kind);
            if !is_known || !is_named || self.flags[..i].iter().any(|other| other.kind == flags.kind) {
                return Err("flags of chunks that cannot be asked for".to_string());
            }
        }
        Ok(())
    }
}

impl Condition for Sctp {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        match self {
            Sctp::Ports(l4) => l4.test(facts),
            Sctp::Chunks(chunks) => match headers::upper(facts, cx.l3, FIXED) {
                Ok(packet) => chunks.test(packet),
                Err(outcome) => outcome,
            },
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        match self {
            Sctp::Ports(l4) => l4.print(negate, out),
            Sctp::Chunks(chunks) => {
                out.push_str(not(negate));
                chunks.print(out);
            }
        }
    }

    fn asks(&self) -> Asks {
        match self {
            Sctp::Ports(_) => Asks::Flow,
            _ => Asks::Packet,
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Sctp::Ports(l4) => l4.verify(),
            Sctp::Chunks(chunks) => chunks.verify(),
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
            let facts = l4(Family::V6, proto::SCTP, sport, dport);
            assert_eq!(outcome(&format!("-p sctp -m sctp {text}"), &facts), expected, "{text} {sport} {dport}");
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for (family, frag_off, expected) in
            [(Family::V4, 0, Hotdrop), (Family::V4, 8, Never), (Family::V6, 0, Hotdrop), (Family::V6, 8, Never)]
        {
            let facts = Facts { proto: proto::SCTP, frag_off, ..Facts::blank(family) };
            for text in ["", "--dport 53", "! --dport 53"] {
                assert_eq!(outcome(&format!("-p sctp -m sctp {text}"), &facts), expected, "{text} at {frag_off}");
            }
        }
    }

    #[test]
    fn a_range_that_runs_backwards_does_not_verify() {
        assert!(Sctp::Ports(L4::Source(ports::Ports { first: 2, last: 1 })).verify(Family::V4).is_err());
    }

    fn chunks(text: &str, chunks: &[u8]) -> Outcome {
        let l3 = [&[0; 32], chunks].concat();
        let judge = Judge::new(Family::V4, &format!("-p sctp -m sctp {text}"));
        judge.ask(&l4(Family::V4, proto::SCTP, 1, 2), &l3)
    }

    #[test]
    fn chunks_are_walked_to_the_end() {
        // DATA with B and not E, five bytes; then SACK
        let packet = [0, 2, 0, 5, 9, 0, 0, 0, 3, 0, 0, 4];
        for (text, expected) in [
            ("all DATA,SACK", Yes),
            ("all DATA", Yes),
            ("all DATA,INIT", No),
            ("all NONE", Yes),
            ("all ALL", No),
            ("any SACK,INIT", Yes),
            ("any INIT", No),
            ("any ALL", Yes),
            ("any NONE", No),
            ("only DATA,SACK,INIT", Yes),
            ("only DATA", No),
            ("only ALL", Yes),
            ("only NONE", No),
            ("any DATA:B", Yes),
            ("any DATA:Be", Yes),
            ("any DATA:BE", No),
            ("any DATA:b,SACK", Yes),
            ("all DATA:b,SACK", No),
            ("only DATA:e,SACK", Yes),
            ("only DATA:E,SACK", No),
        ] {
            let negated = if expected == Yes { No } else { Yes };
            assert_eq!(chunks(&format!("--chunk-types {text}"), &packet), expected, "{text}");
            assert_eq!(chunks(&format!("! --chunk-types {text}"), &packet), negated, "! {text}");
        }
    }

    #[test]
    fn chunks_that_are_not_sound_drop_the_packet() {
        for (bytes, text, expected) in [
            (&[][..], "! --chunk-types any NONE", Hotdrop),
            (&[3, 0, 0], "--chunk-types any ALL", Hotdrop),
            (&[3, 0, 0, 0], "--chunk-types any ALL", Hotdrop),
            (&[3, 0, 0, 4, 0, 0, 0, 0], "--chunk-types all SACK", Hotdrop),
            (&[3, 0, 0, 4, 0], "--chunk-types all SACK", Hotdrop),
            (&[3, 0, 0, 4, 0], "--chunk-types any SACK", Yes),
            (&[3, 0, 0, 1], "--chunk-types all SACK", Yes), // shorter than its header
            (&[3, 0, 0xff, 0xff], "--chunk-types all SACK", Yes), // beyond the packet
        ] {
            assert_eq!(chunks(text, bytes), expected, "{text} {bytes:?}");
        }
        let later = Facts { frag_off: 8, proto: proto::SCTP, ..Facts::blank(Family::V4) };
        assert_eq!(outcome("-p sctp -m sctp ! --chunk-types any DATA", &later), Never);
    }

    #[test]
    fn chunks_that_have_no_name_do_not_verify() {
        let chunks = |types, flags: &[Flags]| {
            Sctp::Chunks(Chunks { quantity: Quantity::Any, types, flags: flags.to_vec() }.into()).verify(Family::V4)
        };
        let flags = Flags { kind: 0, mask: 3, set: 1 };
        assert!(chunks([1, 1, 0, 0], &[flags]).is_ok());
        assert!(chunks(EVERY_TYPE, &[]).is_ok());
        assert!(chunks([1 << 15, 0, 0, 0], &[]).is_err());
        for broken in [
            Flags { kind: 1, ..flags },
            Flags { kind: 6, mask: 1, set: 1 },
            Flags { mask: 0x10, ..flags },
            Flags { set: 4, ..flags },
            Flags { mask: 0, set: 0, ..flags },
        ] {
            assert!(chunks([3, 0, 0, 0], &[broken]).is_err(), "{broken:?}");
        }
        assert!(chunks([1, 0, 0, 0], &[flags, flags]).is_err());
    }
}
