//! `-m ipcomp`: the index of compressed payload (`xt_ipcomp.c`).
//!
//! The index (CPI) has 16 bits, iptables takes 32. Without `--ipcompspi` it is 0 that is asked for, so that of all numbers is
//! printed here, which iptables-save leaves out. `--compres` is taken and asks nothing, as in the kernel. A later fragment never matches, negated or not; a header cut short drops the packet.
//!
//! TOML: `{ protocol = "ipcomp", ipcompspi = "500:", jump = "ACCEPT" }`

use super::span::Span;
use super::{Condition, Match, headers, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// One condition on the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ipcomp {
    /// `--ipcompspi`
    Spi(Span),
    /// `--compres`
    Reserved,
}

/// Bytes of the header (`struct ip_comp_hdr`).
const FIXED: usize = 4;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "ipcomp",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::IPCOMP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("ipcompspi", &[]).about("CPI[:CPI]", "compression parameter index; 0 where it is not given"),
        Opt::flag("compres", &[]).about("", "asks nothing, as in the kernel"),
    ],
    build,
    summary: "the index of compressed payload (IPComp)",
    example: r#"{ protocol = "ipcomp", ipcompspi = "500:", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p ipcomp -m ipcomp", "-p ipcomp -m ipcomp --ipcompspi 0"),
        Case::Prints(Family::V4, "-p ipcomp -m ipcomp --ipcompspi 5", "="),
        Case::Prints(Family::V4, "-p 108 --ipcompspi 5:", "-p ipcomp -m ipcomp --ipcompspi 5:4294967295"),
        Case::Prints(Family::V6, "-p ipcomp -m ipcomp ! --ipcompspi 5:0x10", "-p ipcomp -m ipcomp ! --ipcompspi 5:16"),
        Case::Prints(Family::V4, "-p ipcomp -m ipcomp --ipcompspi 65536", "="),
        Case::Prints(Family::V4, "-p ipcomp -m ipcomp --ipcompspi 4294967295", "="),
        Case::Prints(Family::V6, "-p ipcomp -m ipcomp --compres", "-p ipcomp -m ipcomp --ipcompspi 0 --compres"),
        Case::Prints(
            Family::V4,
            "-p ipcomp -m ipcomp --compres ! --ipcompspi 5",
            "-p ipcomp -m ipcomp ! --ipcompspi 5 --compres",
        ),
        Case::Refused(Family::V4, "-p ipcomp -m ipcomp --ipcompspi 4294967296", "`4294967296` is not a CPI"),
        Case::Refused(Family::V4, "-p ipcomp -m ipcomp --ipcompspi deflate", "`deflate` is not a CPI"),
        Case::Refused(Family::V4, "-p ipcomp -m ipcomp ! --compres", "cannot be negated"),
        Case::Refused(Family::V6, "-m ipcomp --ipcompspi 5", "for protocol ipcomp only"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (negate, span) = match given.get(0) {
        Some(option) => (option.negate, Span::parse(&option.values[0], "a CPI", u32::MAX)?),
        None => (false, Span { first: 0, last: 0 }),
    };
    let mut conds = vec![Cond::new(negate, Match::Ipcomp(Ipcomp::Spi(span)))];
    if given.get(1).is_some() {
        conds.push(Cond::new(false, Match::Ipcomp(Ipcomp::Reserved)));
    }
    Ok(conds)
}

impl Condition for Ipcomp {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let header = match headers::upper(facts, cx.l3, FIXED) {
            Ok(header) => header,
            Err(outcome) => return outcome,
        };
        match self {
            Ipcomp::Reserved => Outcome::Yes,
            Ipcomp::Spi(span) => yes(headers::word_at(header, 0).is_some_and(|word| span.has(word & 0xffff))),
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        match self {
            Ipcomp::Spi(span) => span.print("ipcompspi", negate, out),
            Ipcomp::Reserved => out.push_str(" --compres"),
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Ipcomp::Reserved => Ok(()),
            Ipcomp::Spi(span) => span.verify(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn the_index_is_compared_and_is_zero_where_none_is_asked_for() {
        for (text, index, expected) in [
            ("", 0, Yes),
            ("", 1, No),
            ("--ipcompspi :", 1, Yes),
            ("--ipcompspi 5", 5, Yes),
            ("--ipcompspi 5", 6, No),
            ("! --ipcompspi 5:7", 6, No),
            ("! --ipcompspi 5:7", 8, Yes),
            ("--ipcompspi 65536:", 0xffff, No),
            ("--ipcompspi 5 --compres", 5, Yes),
        ] {
            for family in Family::ALL {
                let facts = Facts { proto: proto::IPCOMP, ..Facts::blank(family) };
                let mut l3 = vec![0; facts.l4_off.into()];
                l3.extend([6, 0xff]);
                l3.extend(u16::to_be_bytes(index));
                let judge = Judge::new(family, &format!("-p ipcomp -m ipcomp {text}"));
                assert_eq!(judge.ask(&facts, &l3), expected, "{text} {index}");
            }
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for text in ["", "--ipcompspi :", "! --ipcompspi 5", "--compres"] {
            let judge = Judge::new(Family::V4, &format!("-p ipcomp -m ipcomp {text}"));
            let facts = Facts { proto: proto::IPCOMP, ..Facts::blank(Family::V4) };
            assert_eq!(judge.ask(&facts, &[0; 23]), Hotdrop, "{text}");
            assert_eq!(judge.ask(&Facts { frag_off: 8, ..facts }, &[0; 24]), Never, "{text}");
        }
    }
}
