//! `-m frag`: the fragment header of IPv6 (`ip6t_frag.c`).
//!
//! Where packets are tracked their fragments are gathered before any rule sees them, and only a header on a whole packet (RFC 6946)
//! is left to find. A packet without the header never matches, negated or not; one whose headers are cut short is
//! dropped. `--fraglen` is taken and asks nothing, as in the kernel: the header always has 8 bytes.
//!
//! TOML: `{ fragfirst = true, fragmore = true, jump = "DROP" }`

use super::span::Span;
use super::{Condition, Match, headers, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a fragment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Frag {
    /// The bare `-m frag`: there is a header.
    Header,
    /// `--fragid`
    Id(Span),
    /// `--fraglen`, which holds even negated.
    Length {
        /// What was written.
        length: u32,
        /// With a `!`.
        negated: bool,
    },
    /// `--fragres`: the reserved fields are zero.
    Reserved,
    /// `--fragfirst`: the first fragment.
    First,
    /// `--fragmore`: others follow.
    More,
    /// `--fraglast`: no other follows.
    Last,
}

/// Bytes of the header.
const FIXED: usize = 8;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "frag",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("fragid", &[]).about("ID[:ID]", "identification of the packet"),
        Opt::negatable("fraglen", &[]).about("BYTES", "asks nothing, as in the kernel"),
        Opt::flag("fragres", &[]).about("", "the reserved fields are zero"),
        Opt::flag("fragfirst", &[]).about("", "it is the first fragment"),
        Opt::flag("fragmore", &[]).about("", "others follow"),
        Opt::flag("fraglast", &[]).about("", "no other follows"),
    ],
    build,
    summary: "the fragment header of IPv6",
    example: r#"{ fragfirst = true, fragmore = true, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m frag", "="),
        Case::Prints(Family::V6, "-m frag --fragid 5", "="),
        Case::Prints(Family::V6, "-m frag ! --fragid 5:0x42", "-m frag ! --fragid 5:66"),
        Case::Prints(Family::V6, "-m frag --fragid 5:", "-m frag --fragid 5:4294967295"),
        Case::Prints(Family::V6, "-m frag --fragid :", "-m frag"),
        Case::Prints(Family::V6, "-m frag --fragid 4294967295", "="),
        Case::Prints(Family::V6, "-m frag --fraglen 8", "="),
        Case::Prints(Family::V6, "-m frag ! --fraglen 0", "="),
        Case::Prints(Family::V6, "-m frag --fraglen 4294967295", "="),
        Case::Prints(Family::V6, "-m frag --fragres", "="),
        Case::Prints(Family::V6, "-m frag --fragfirst", "="),
        Case::Prints(Family::V6, "-m frag --fragmore", "="),
        Case::Prints(Family::V6, "-m frag --fraglast", "="),
        Case::Prints(
            Family::V6,
            "-m frag --fraglast --fragfirst --fragres --fraglen 5 --fragid 1:2",
            "-m frag --fragid 1:2 --fraglen 5 --fragres --fragfirst --fraglast",
        ),
        Case::Prints(Family::V6, "-m frag --fragfirst --fragmore -m frag --fragid 9", "="),
        Case::Refused(Family::V6, "-m frag --fragid 4294967296", "`4294967296` is not an identification"),
        Case::Refused(Family::V6, "-m frag --fragid 1:2:3", "`2:3` is not an identification"),
        Case::Refused(Family::V6, "-m frag --fragid 6:5", "runs backwards"),
        Case::Refused(Family::V6, "-m frag --fraglen 1:2", "`1:2` is not a length"),
        Case::Refused(Family::V6, "-m frag --fragmore --fraglast", "--fragmore and --fraglast"),
        Case::Refused(Family::V6, "-m frag ! --fragres", "cannot be negated"),
        Case::Refused(Family::V6, "-m frag ! --fragfirst", "cannot be negated"),
        Case::Refused(Family::V6, "-m frag ! --fragmore", "cannot be negated"),
        Case::Refused(Family::V6, "-m frag ! --fraglast", "cannot be negated"),
        Case::Refused(Family::V4, "-m frag", "there is no match `frag` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    let mut push = |negate, test| conds.push(Cond::new(negate, Match::Frag(test)));
    if let Some((negate, span)) = Span::asked(given, 0, "an identification")? {
        push(negate, Frag::Id(span));
    }
    if let Some(option) = given.get(1) {
        let length = word::number(&option.values[0], "a length", 0..=u32::MAX.into())? as u32;
        push(false, Frag::Length { length, negated: option.negate });
    }
    for (option, test) in [(2, Frag::Reserved), (3, Frag::First), (4, Frag::More), (5, Frag::Last)] {
        if given.get(option).is_some() {
            push(false, test);
        }
    }
    if let (Some(_), Some(last)) = (given.get(4), given.get(5)) {
        return Err(last.word.complain("--fragmore and --fraglast in one match", "one of the two"));
    }
    if conds.is_empty() {
        conds.push(Cond::new(false, Match::Frag(Frag::Header)));
    }
    Ok(conds)
}

impl Condition for Frag {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let header = match headers::extension(cx.l3, proto::FRAGMENT, FIXED) {
            Ok(header) => header.first_chunk::<FIXED>().unwrap_or(&[0; FIXED]),
            Err(outcome) => return outcome,
        };
        let [_, reserved, high, low, id @ ..] = *header;
        let offset = u16::from_be_bytes([high, low]);
        match *self {
            Frag::Header | Frag::Length { .. } => Outcome::Yes,
            Frag::Id(span) => yes(span.has(u32::from_be_bytes(id))),
            Frag::Reserved => yes(reserved == 0 && offset & 6 == 0),
            Frag::First => yes(offset & !7 == 0),
            Frag::More => yes(offset & 1 != 0),
            Frag::Last => yes(offset & 1 == 0),
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        match *self {
            Frag::Header => {}
            Frag::Id(span) => span.print("fragid", negate, out),
            Frag::Length { length, negated } => {
                let _ = write!(out, "{} --fraglen {length}", not(negated));
            }
            Frag::Reserved => out.push_str(" --fragres"),
            Frag::First => out.push_str(" --fragfirst"),
            Frag::More => out.push_str(" --fragmore"),
            Frag::Last => out.push_str(" --fraglast"),
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Frag::Id(span) => span.verify(),
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
        Judge::new(Family::V6, &format!("-m frag {text}")).ask(&Facts::blank(Family::V6), l3)
    }

    #[test]
    fn the_fields_of_the_header_are_compared() {
        for (text, reserved, offset, expected) in [
            ("", 9, 0xffff, Yes),
            ("--fragid 7", 0, 0, Yes),
            ("! --fragid 7", 0, 0, No),
            ("--fragid 8:", 0, 0, No),
            ("! --fragid :", 0, 0, No),
            ("--fraglen 9", 0, 0, Yes),
            ("! --fraglen 8", 0, 0, Yes),
            ("--fragres", 0, 0xfff9, Yes),
            ("--fragres", 1, 0, No),
            ("--fragres", 0, 2, No),
            ("--fragfirst", 0, 7, Yes),
            ("--fragfirst", 0, 8, No),
            ("--fragmore", 0, 1, Yes),
            ("--fragmore", 0, 8, No),
            ("--fraglast", 0, 8, Yes),
            ("--fraglast", 0, 9, No),
            ("--fragfirst --fragmore --fragid 7", 0, 1, Yes),
        ] {
            let [high, low] = u16::to_be_bytes(offset);
            let l3 = headers::packet(44, &[6, reserved, high, low, 0, 0, 0, 7]);
            assert_eq!(ask(text, &l3), expected, "{text} {reserved} {offset:x}");
        }
    }

    #[test]
    fn without_a_header_nothing_matches_and_half_a_header_drops() {
        for text in ["", "! --fragid 5", "! --fraglen 5", "--fraglast"] {
            assert_eq!(ask(text, &headers::packet(6, &[0; 20])), Never, "{text}");
            assert_eq!(ask(text, &headers::packet(44, &[6, 0, 0, 0, 0, 0, 0])), Hotdrop, "{text}");
        }
    }
}
