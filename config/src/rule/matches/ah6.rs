//! `-m ah` of IPv6: the authentication header, an extension header like others (`ip6t_ah.c`).
//!
//! It needs no `-p`, and `-p ah` never holds: behind this header there is another. A packet without one never matches, negated or
//! not; one whose headers are cut short is dropped. `--ahlen` is in bytes; 0 asks nothing, even negated.
//!
//! TOML: `{ family = "ipv6", ahspi = 500, ahlen = 24, jump = "ACCEPT" }`

use super::ah::{AHSPI, FIXED};
use super::span::Span;
use super::{Condition, Match, headers, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on an authentication header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ah6 {
    /// The bare `-m ah`: there is a header.
    Header,
    /// `--ahspi`
    Spi(Span),
    /// `--ahlen`: bytes of the header, not 0.
    Length(u32),
    /// `! --ahlen 0`: any.
    AnyLength,
    /// `--ahres`: the reserved field is zero.
    Reserved,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "ah",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        AHSPI,
        Opt::negatable("ahlen", &[]).about("BYTES", "length of the header"),
        Opt::flag("ahres", &[]).about("", "the reserved field is zero"),
    ],
    build,
    summary: "SPI and length of an authentication header (IPsec)",
    example: r#"{ family = "ipv6", ahspi = 500, ahlen = 24, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m ah", "="),
        Case::Prints(Family::V6, "-m ah --ahspi 5", "="),
        Case::Prints(Family::V6, "-p ah -m ah ! --ahspi 5:6", "="),
        Case::Prints(Family::V6, "-m ah --ahspi 0x10:", "-m ah --ahspi 16:4294967295"),
        Case::Prints(Family::V6, "-m ah --ahspi 0:0xffffffff", "-m ah"),
        Case::Prints(Family::V6, "-m ah --ahlen 24", "="),
        Case::Prints(Family::V6, "-m ah ! --ahlen 0x18", "-m ah ! --ahlen 24"),
        Case::Prints(Family::V6, "-m ah --ahlen 4294967295", "="),
        Case::Prints(Family::V6, "-m ah --ahlen 0", "-m ah"),
        Case::Prints(Family::V6, "-m ah ! --ahlen 0", "="),
        Case::Prints(Family::V6, "-m ah --ahres", "="),
        Case::Prints(
            Family::V6,
            "-m ah --ahres --ahlen 24 ! --ahspi 5:6",
            "-m ah ! --ahspi 5:6 --ahlen 24 --ahres",
        ),
        Case::Prints(Family::V6, "-m ah --ahspi 5 --ahlen 24 -m ah --ahres", "="),
        Case::Refused(Family::V6, "-m ah --ahspi 4294967296", "`4294967296` is not an SPI"),
        Case::Refused(Family::V6, "-m ah --ahspi five", "`five` is not an SPI"),
        Case::Refused(Family::V6, "-m ah --ahlen 5:6", "`5:6` is not a length"),
        Case::Refused(Family::V6, "-m ah --ahlen 4294967296", "`4294967296` is not a length"),
        Case::Refused(Family::V6, "-m ah ! --ahres", "cannot be negated"),
        Case::Refused(Family::V6, "-m ah --ahres --ahres", "twice"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    let mut push = |negate, test| conds.push(Cond::new(negate, Match::Ah6(test)));
    if let Some((negate, span)) = Span::asked(given, 0, "an SPI")? {
        push(negate, Ah6::Spi(span));
    }
    if let Some(option) = given.get(1) {
        match word::number(&option.values[0], "a length", 0..=u32::MAX.into())? as u32 {
            0 if option.negate => push(false, Ah6::AnyLength),
            0 => {}
            length => push(option.negate, Ah6::Length(length)),
        }
    }
    if given.get(2).is_some() {
        push(false, Ah6::Reserved);
    }
    if conds.is_empty() {
        conds.push(Cond::new(false, Match::Ah6(Ah6::Header)));
    }
    Ok(conds)
}

impl Condition for Ah6 {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let header = match headers::extension(cx.l3, proto::AH, FIXED) {
            Ok(header) => header,
            Err(outcome) => return outcome,
        };
        let [_, len, reserved @ .., _, _, _, _] = header.first_chunk::<8>().unwrap_or(&[0; 8]);
        match *self {
            Ah6::Header | Ah6::AnyLength => Outcome::Yes,
            Ah6::Spi(span) => yes(headers::word_at(header, 4).is_some_and(|spi| span.has(spi))),
            Ah6::Length(length) => yes(headers::extension_len(proto::AH, *len) == length as usize),
            Ah6::Reserved => yes(*reserved == [0, 0]),
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        match self {
            Ah6::Header => {}
            Ah6::Spi(span) => span.print("ahspi", negate, out),
            Ah6::Length(length) => {
                let _ = write!(out, "{} --ahlen {length}", not(negate));
            }
            Ah6::AnyLength => out.push_str(" ! --ahlen 0"),
            Ah6::Reserved => out.push_str(" --ahres"),
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Ah6::Spi(span) => span.verify(),
            Ah6::Length(0) => Err("a length of 0 asks nothing".to_string()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    /// An authentication header of 24 bytes, SPI 5, behind destination options.
    fn packet(reserved: u8) -> Vec<u8> {
        let mut chain = vec![51, 0, 1, 4, 0, 0, 0, 0, 6, 4, 0, reserved, 0, 0, 0, 5];
        chain.extend([0; 16]);
        headers::packet(proto::DSTOPTS, &chain)
    }

    #[test]
    fn spi_length_and_reserved_field_are_compared() {
        for (text, reserved, expected) in [
            ("", 1, Yes),
            ("--ahspi 5", 0, Yes),
            ("! --ahspi 5", 0, No),
            ("--ahspi 6", 0, No),
            ("! --ahspi 6:", 0, Yes),
            ("--ahlen 24", 0, Yes),
            ("--ahlen 4", 0, No),
            ("! --ahlen 24", 0, No),
            ("! --ahlen 0", 0, Yes),
            ("--ahres", 0, Yes),
            ("--ahres", 1, No),
            ("--ahspi 5 --ahlen 24 --ahres", 0, Yes),
        ] {
            let judge = Judge::new(Family::V6, &format!("-m ah {text}"));
            assert_eq!(judge.ask(&Facts::blank(Family::V6), &packet(reserved)), expected, "{text}");
        }
    }

    #[test]
    fn without_a_header_nothing_matches_and_half_a_header_drops() {
        for text in ["", "! --ahspi 6", "! --ahlen 3", "! --ahlen 0", "--ahres"] {
            let judge = Judge::new(Family::V6, &format!("-m ah {text}"));
            let facts = Facts::blank(Family::V6);
            assert_eq!(judge.ask(&facts, &headers::packet(6, &[0; 40])), Never, "{text}");
            assert_eq!(judge.ask(&facts, &packet(0)[..59]), Hotdrop, "{text}");
            // The kernel does not look whether the rest is there.
            assert_eq!(judge.ask(&facts, &packet(0)[..60]), Yes, "{text}");
        }
        assert!(Ah6::Length(0).verify(Family::V6).is_err());
    }
}
