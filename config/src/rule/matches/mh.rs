//! `-m mh`: the type of a message of Mobile IPv6 (`ip6t_mh.c`, RFC 6275 section 6.1).
//!
//! A later fragment never matches, negated or not. A header cut short drops the packet, and so does one that says that
//! something follows it. All that holds for the bare `-m mh` too.
//!
//! TOML: `{ protocol = "mh", mh-type = "binding-update", jump = "ACCEPT" }`

use super::span::Span;
use super::{Condition, Match, headers, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};

/// One condition on a mobility header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mh {
    /// The bare `-m mh`: there is a header.
    Header,
    /// `--mh-type`
    Type(Span),
}

const TYPES: [(&str, u8); 16] = [
    ("binding-refresh-request", 0),
    ("brr", 0),
    ("home-test-init", 1),
    ("hoti", 1),
    ("careof-test-init", 2),
    ("coti", 2),
    ("home-test", 3),
    ("hot", 3),
    ("careof-test", 4),
    ("cot", 4),
    ("binding-update", 5),
    ("bu", 5),
    ("binding-acknowledgement", 6),
    ("ba", 6),
    ("binding-error", 7),
    ("be", 7),
];
/// Bytes of the fixed header (`struct ip6_mh`).
const FIXED: usize = 6;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "mh",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: Some(proto::MH),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("mh-type", &[]).about("TYPE[:TYPE]", "type of the message, by name or number")],
    build,
    summary: "the type of a message of Mobile IPv6",
    example: r#"{ protocol = "mh", mh-type = "binding-update", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V6, "-p mh -m mh", "-p mobility-header -m mh"),
        Case::Prints(Family::V6, "-p mobility-header -m mh --mh-type 1", "="),
        Case::Prints(Family::V6, "-p 135 -m mh ! --mh-type brr", "-p mobility-header -m mh ! --mh-type 0"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type binding-refresh-request", "-p mobility-header -m mh --mh-type 0"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type hoti:cot", "-p mobility-header -m mh --mh-type 1:4"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type home-test", "-p mobility-header -m mh --mh-type 3"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type BU:9", "-p mobility-header -m mh --mh-type 5:9"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type binding-a", "-p mobility-header -m mh --mh-type 6"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type 0x3:", "-p mobility-header -m mh --mh-type 3:255"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type :3", "-p mobility-header -m mh --mh-type 0:3"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type 3:3", "-p mobility-header -m mh --mh-type 3"),
        Case::Prints(Family::V6, "-p mh -m mh --mh-type :", "-p mobility-header -m mh"),
        Case::Refused(Family::V6, "-p mh -m mh --mh-type 256", "`256` is not a type"),
        Case::Refused(Family::V6, "-p mh -m mh --mh-type 1:300", "`300` is not a type"),
        Case::Refused(Family::V6, "-p mh -m mh --mh-type 1:2:3", "`2:3` is not a type"),
        Case::Refused(Family::V6, "-p mh -m mh --mh-type update", "`update` is not a type"),
        Case::Refused(Family::V6, "-p mh -m mh --mh-type cot:hoti", "runs backwards"),
        Case::Refused(Family::V6, "-m mh --mh-type 3", "for protocol mobility-header only"),
        Case::Refused(Family::V6, "! -p mh -m mh --mh-type 3", "for protocol mobility-header only"),
        Case::Refused(Family::V4, "-p mh -m mh --mh-type 3", "there is no match `mh` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut cond = Cond::new(false, Match::Mh(Mh::Header));
    if let Some(option) = given.get(0) {
        let (first, last) = word::open_range(&option.values[0], ':', 0..=u8::MAX.into(), kind)?;
        if option.negate || (first, last) != (0, u8::MAX.into()) {
            cond = Cond::new(option.negate, Match::Mh(Mh::Type(Span { first: first as u32, last: last as u32 })));
        }
    }
    Ok(vec![cond])
}

fn kind(word: &Word) -> Result<u64, Complaint> {
    if let Some(number) = word::integer(&word.text).filter(|&number| number <= u8::MAX.into()) {
        return Ok(number);
    }
    word::abbreviated(word, &TYPES)?.map(u64::from).ok_or_else(|| {
        let names = word::either(TYPES.iter().map(|(name, _)| *name));
        word.complain(format!("`{}` is not a type of mobility message", word.text), format!("0 to 255, {names}"))
    })
}

impl Condition for Mh {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let header = match headers::upper(facts, cx.l3, FIXED) {
            Ok(header) => header,
            Err(outcome) => return outcome,
        };
        match (header, self) {
            ([proto::NONE, _, kind, ..], Mh::Type(span)) => yes(span.has((*kind).into())),
            ([proto::NONE, ..], Mh::Header) => Outcome::Yes,
            _ => Outcome::Hotdrop,
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        if let Mh::Type(span) = self {
            span.print("mh-type", negate, out);
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Mh::Type(span) if span.last > u8::MAX.into() => Err("a type of more than 8 bits".to_string()),
            Mh::Type(span) => span.verify(),
            Mh::Header => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn the_type_is_compared_where_nothing_follows() {
        for (text, next, kind, frag_off, expected) in [
            ("", 59, 5, 0, Yes),
            ("--mh-type bu", 59, 5, 0, Yes),
            ("--mh-type bu", 59, 6, 0, No),
            ("! --mh-type bu:9", 59, 9, 0, No),
            ("! --mh-type bu:9", 59, 10, 0, Yes),
            ("! --mh-type :", 59, 10, 0, No),
            ("", 6, 5, 0, Hotdrop),
            ("! --mh-type bu", 6, 5, 0, Hotdrop),
            ("! --mh-type bu", 59, 6, 8, Never),
        ] {
            let facts = Facts { proto: proto::MH, frag_off, ..Facts::blank(Family::V6) };
            let judge = Judge::new(Family::V6, &format!("-p mh -m mh {text}"));
            let l3 = headers::packet(proto::MH, &[next, 0, kind, 0, 0, 0, 0, 0]);
            assert_eq!(judge.ask(&facts, &l3), expected, "{text} {next} {kind}");
            assert_eq!(judge.ask(&Facts { frag_off: 0, ..facts }, &l3[..45]), Hotdrop, "{text}");
        }
        assert!(Mh::Type(Span { first: 0, last: 256 }).verify(Family::V6).is_err());
    }
}
