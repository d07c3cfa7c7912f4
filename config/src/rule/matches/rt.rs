//! `-m rt`: the routing header of IPv6 (`ip6t_rt.c`).
//!
//! A packet without the header never matches, negated or not, nor does one that is smaller than the header says; one whose headers are
//! cut short is dropped. The list of addresses must be the whole list, in order; with `--rt-0-not-strict` its addresses
//! must be among the header's in this order.
//!
//! TOML: `{ rt-type = 0, rt-segsleft = "1:", jump = "DROP" }`

use super::span::Span;
use super::{Condition, Match, address, headers, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a routing header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Rt {
    /// The bare `-m rt`: there is a header.
    Header,
    /// `--rt-type`
    Type(u32),
    /// `--rt-segsleft`
    SegmentsLeft(Span),
    /// `--rt-len`: bytes of the header.
    Length(u32),
    /// `--rt-0-res`: the reserved field is zero.
    Reserved,
    /// `--rt-0-addrs`
    Addresses(Box<[u128]>),
    /// `--rt-0-addrs` with `--rt-0-not-strict`
    Among(Box<[u128]>),
}

const TYPE: usize = 0;
const SEGSLEFT: usize = 1;
const LEN: usize = 2;
const RES: usize = 3;
const ADDRS: usize = 4;
const NOT_STRICT: usize = 5;

/// Most addresses in a rule (`IP6T_RT_HOPS`).
const MOST: usize = 16;
/// Bytes before the addresses.
const FIXED: usize = 8;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "rt",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("rt-type", &[]).about("TYPE", "type of routing"),
        Opt::negatable("rt-segsleft", &[]).about("N[:N]", "segments left"),
        Opt::negatable("rt-len", &[]).about("BYTES", "length of the header"),
        Opt::flag("rt-0-res", &[]).about("", "the reserved field of type 0 is zero"),
        Opt::plain("rt-0-addrs", &[]).about("ADDRESS[,...]", "addresses of type 0, at most 16"),
        Opt::flag("rt-0-not-strict", &[]).about("", "other addresses may stand between"),
    ],
    build,
    summary: "the routing header of IPv6",
    example: r#"{ rt-type = 0, rt-segsleft = "1:", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m rt", "="),
        Case::Prints(Family::V6, "-m rt --rt-type 0x0", "-m rt --rt-type 0"),
        Case::Prints(Family::V6, "-m rt ! --rt-type 4294967295", "="),
        Case::Prints(Family::V6, "-m rt --rt-segsleft 1", "="),
        Case::Prints(Family::V6, "-m rt ! --rt-segsleft :2", "-m rt ! --rt-segsleft 0:2"),
        Case::Prints(Family::V6, "-m rt --rt-segsleft 5:", "-m rt --rt-segsleft 5:4294967295"),
        Case::Prints(Family::V6, "-m rt --rt-segsleft :", "-m rt"),
        Case::Prints(Family::V6, "-m rt --rt-len 24", "="),
        Case::Prints(Family::V6, "-m rt ! --rt-len 0", "="),
        Case::Prints(Family::V6, "-m rt --rt-type 0 --rt-0-res", "="),
        Case::Prints(Family::V6, "-m rt --rt-type 0 --rt-0-addrs ::1,2001:DB8::2", "-m rt --rt-type 0 --rt-0-addrs ::1,2001:db8::2"),
        Case::Prints(Family::V6, "-m rt --rt-type 0 --rt-0-addrs ::1,2001:db8::2 --rt-0-not-strict", "="),
        Case::Prints(Family::V6, "-m rt --rt-type 0 --rt-0-addrs ::ffff:1.2.3.4", "="),
        Case::Prints(
            Family::V6,
            "-m rt --rt-type 0 --rt-0-addrs ::1,::2,::3,::4,::5,::6,::7,::8,::9,::a,::b,::c,::d,::e,::f,::10",
            "=",
        ),
        Case::Prints(
            Family::V6,
            "-m rt --rt-type 0 --rt-0-addrs ::1 ! --rt-len 4 --rt-0-res --rt-segsleft 1:2",
            "-m rt --rt-type 0 --rt-segsleft 1:2 ! --rt-len 4 --rt-0-res --rt-0-addrs ::1",
        ),
        Case::Refused(Family::V6, "-m rt --rt-type 1:2", "`1:2` is not a type of routing"),
        Case::Refused(Family::V6, "-m rt --rt-type 4294967296", "`4294967296` is not a type of routing"),
        Case::Refused(Family::V6, "-m rt --rt-segsleft 2:1", "runs backwards"),
        Case::Refused(Family::V6, "-m rt --rt-segsleft some", "`some` is not a number of segments"),
        Case::Refused(Family::V6, "-m rt --rt-len long", "`long` is not a length"),
        Case::Refused(Family::V6, "-m rt --rt-0-res", "of type 0 only"),
        Case::Refused(Family::V6, "-m rt --rt-type 2 --rt-0-res", "of type 0 only"),
        Case::Refused(Family::V6, "-m rt ! --rt-type 0 --rt-0-res", "of type 0 only"),
        Case::Refused(Family::V6, "-m rt --rt-type 0 ! --rt-0-res", "cannot be negated"),
        Case::Refused(Family::V6, "-m rt --rt-0-addrs ::1", "of type 0 only"),
        Case::Refused(Family::V6, "-m rt --rt-type 2 --rt-0-addrs ::1", "of type 0 only"),
        Case::Refused(Family::V6, "-m rt --rt-type 0 ! --rt-0-addrs ::1", "cannot be negated"),
        Case::Refused(Family::V6, "-m rt --rt-type 0 --rt-0-addrs 1.2.3.4", "`1.2.3.4` is an IPv4 address"),
        Case::Refused(Family::V6, "-m rt --rt-type 0 --rt-0-addrs ::1,", "`` is not an IPv6 address"),
        Case::Refused(Family::V6, "-m rt --rt-type 0 --rt-0-addrs ::1/64", "`::1/64` is not an IPv6 address"),
        Case::Refused(
            Family::V6,
            "-m rt --rt-type 0 --rt-0-addrs ::1,::2,::3,::4,::5,::6,::7,::8,::9,::a,::b,::c,::d,::e,::f,::10,::11",
            "17 addresses",
        ),
        Case::Refused(Family::V6, "-m rt --rt-type 0 --rt-0-not-strict", "`--rt-0-not-strict` without addresses"),
        Case::Refused(Family::V4, "-m rt --rt-type 0", "there is no match `rt` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    let mut push = |negate, test| conds.push(Cond::new(negate, Match::Rt(test)));
    let number = |word, what| word::number(word, what, 0..=u32::MAX.into()).map(|n| n as u32);
    let mut is_type_0 = false;
    if let Some(option) = given.get(TYPE) {
        let kind = number(&option.values[0], "a type of routing")?;
        is_type_0 = kind == 0 && !option.negate;
        push(option.negate, Rt::Type(kind));
    }
    if let Some((negate, span)) = Span::asked(given, SEGSLEFT, "a number of segments")? {
        push(negate, Rt::SegmentsLeft(span));
    }
    if let Some(option) = given.get(LEN) {
        push(option.negate, Rt::Length(number(&option.values[0], "a length")?));
    }
    if let Some(option) = given.get(RES).or(given.get(ADDRS)).filter(|_| !is_type_0) {
        let what = format!("`{}` asks for a field of type 0 only", option.word.text);
        return Err(option.word.complain(what, "--rt-type 0 with it"));
    }
    if given.get(RES).is_some() {
        push(false, Rt::Reserved);
    }
    match (given.value(ADDRS), given.get(NOT_STRICT)) {
        (None, None) => {}
        (None, Some(option)) => {
            let what = format!("`{}` without addresses", option.word.text);
            return Err(option.word.complain(what, "--rt-0-addrs with it"));
        }
        (Some(list), not_strict) => {
            let read = |part| address::parse_address(part, Family::V6);
            let addresses = word::split(list, ',').iter().map(read).collect::<Result<Vec<_>, _>>()?;
            if addresses.len() > MOST {
                return Err(list.complain(format!("{} addresses", addresses.len()), format!("at most {MOST}")));
            }
            let make = if not_strict.is_some() { Rt::Among } else { Rt::Addresses };
            push(false, make(addresses.into()));
        }
    }
    if conds.is_empty() {
        conds.push(Cond::new(false, Match::Rt(Rt::Header)));
    }
    Ok(conds)
}

/// Whether the addresses wanted are among those there, in their order.
fn are_among(wanted: &[u128], mut there: impl Iterator<Item = u128>) -> bool {
    wanted.iter().all(|wanted| there.any(|address| address == *wanted))
}

impl Condition for Rt {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let header = match headers::extension(cx.l3, proto::ROUTING, 4) {
            Ok(header) => header,
            Err(outcome) => return outcome,
        };
        let &[_, len, kind, left, ..] = header else { return Outcome::Hotdrop };
        let length = headers::extension_len(proto::ROUTING, len);
        let Some((fixed, rest)) = header.get(..length).and_then(|whole| whole.split_first_chunk::<FIXED>()) else {
            return Outcome::Never;
        };
        let (addresses, _) = rest.as_chunks::<16>();
        let there = addresses.iter().map(|bytes| u128::from_be_bytes(*bytes));
        match self {
            Rt::Header => Outcome::Yes,
            Rt::Type(asked) => yes(*asked == kind.into()),
            Rt::SegmentsLeft(span) => yes(span.has(left.into())),
            Rt::Length(asked) => yes(*asked as usize == length),
            Rt::Reserved => yes(fixed[4..] == [0; 4]),
            Rt::Addresses(wanted) => yes(there.eq(wanted.iter().copied())),
            Rt::Among(wanted) => yes(are_among(wanted, there)),
        }
    }

    fn print(&self, negate: bool, family: Family, out: &mut String) {
        match self {
            Rt::Header => {}
            Rt::Type(kind) => {
                let _ = write!(out, "{} --rt-type {kind}", not(negate));
            }
            Rt::SegmentsLeft(span) => span.print("rt-segsleft", negate, out),
            Rt::Length(length) => {
                let _ = write!(out, "{} --rt-len {length}", not(negate));
            }
            Rt::Reserved => out.push_str(" --rt-0-res"),
            Rt::Addresses(addresses) | Rt::Among(addresses) => {
                for (i, address) in addresses.iter().enumerate() {
                    out.push_str(if i == 0 { " --rt-0-addrs " } else { "," });
                    address::print_address(out, family, *address);
                }
                if let Rt::Among(_) = self {
                    out.push_str(" --rt-0-not-strict");
                }
            }
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Rt::SegmentsLeft(span) => span.verify(),
            Rt::Addresses(addresses) | Rt::Among(addresses) if !(1..=MOST).contains(&addresses.len()) => {
                Err(format!("a list of {} addresses", addresses.len()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    fn ask(text: &str, l3: &[u8]) -> Outcome {
        Judge::new(Family::V6, &format!("-m rt {text}")).ask(&Facts::blank(Family::V6), l3)
    }

    /// A header of a type with these addresses, behind hop-by-hop options.
    fn packet(kind: u8, left: u8, reserved: u8, addresses: &[u128]) -> Vec<u8> {
        let mut chain = vec![43, 0, 1, 4, 0, 0, 0, 0, 6, addresses.len() as u8 * 2, kind, left, 0, reserved, 0, 0];
        addresses.iter().for_each(|address| chain.extend(address.to_be_bytes()));
        headers::packet(0, &chain)
    }

    #[test]
    fn the_fields_of_the_header_are_compared() {
        let l3 = packet(0, 2, 0, &[1, 2, 3]);
        for (text, expected) in [
            ("", Yes),
            ("--rt-type 0", Yes),
            ("! --rt-type 0", No),
            ("--rt-type 256", No),
            ("--rt-segsleft 2", Yes),
            ("--rt-segsleft 3:", No),
            ("! --rt-segsleft 3:", Yes),
            ("! --rt-segsleft :", No),
            ("--rt-len 56", Yes),
            ("! --rt-len 6", Yes),
            ("--rt-type 0 --rt-0-res", Yes),
            ("--rt-type 0 --rt-0-addrs ::1,::2,::3", Yes),
            ("--rt-type 0 --rt-0-addrs ::1,::2", No),
            ("--rt-type 0 --rt-0-addrs ::1,::3,::2", No),
            ("--rt-type 0 --rt-0-addrs ::1,::2,::3,::4", No),
            ("--rt-type 0 --rt-0-addrs ::1,::3 --rt-0-not-strict", Yes),
            ("--rt-type 0 --rt-0-addrs ::3,::1 --rt-0-not-strict", No),
            ("--rt-type 0 --rt-0-addrs ::3,::3 --rt-0-not-strict", No),
        ] {
            assert_eq!(ask(text, &l3), expected, "{text}");
        }
        assert_eq!(ask("--rt-type 0 --rt-0-res", &packet(0, 0, 1, &[])), No);
        assert_eq!(ask("--rt-type 0 --rt-0-addrs ::1 --rt-0-not-strict", &packet(0, 0, 1, &[])), No);
    }

    #[test]
    fn without_the_header_nothing_matches_and_half_of_it_drops() {
        let l3 = packet(0, 2, 0, &[1, 2, 3]);
        for text in ["", "! --rt-type 5", "! --rt-len 5"] {
            assert_eq!(ask(text, &l3[..l3.len() - 1]), Never, "{text}");
            assert_eq!(ask(text, &l3[..51]), Hotdrop, "{text}");
            assert_eq!(ask(text, &headers::packet(6, &[0; 20])), Never, "{text}");
        }
        assert!(Rt::Among(Box::new([])).verify(Family::V6).is_err());
        assert!(Rt::Addresses(vec![0; 17].into()).verify(Family::V6).is_err());
    }
}
