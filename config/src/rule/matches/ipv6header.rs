//! `-m ipv6header`: which extension headers an IPv6 packet has (`ip6t_ipv6header.c`).
//!
//! Without `--soft` it has exactly those named, the upper layer (`prot`) counted; with it those at least. `! ... --soft` is not
//! the contrary: it has none of them. The walk goes on behind the header of a later fragment, into whatever is there. A packet
//! that ends where a header should begin never matches, negated or not.
//!
//! TOML: `{ header = "frag", soft = true, jump = "DROP" }`

use super::{Condition, Match, headers, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Bits of headers, as in [`HEADERS`], and how they are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ipv6header {
    /// These and no others.
    Exactly(u8),
    /// `--soft`: all of these.
    All(u8),
    /// `! ... --soft`: none of these.
    NoneOf(u8),
}

/// Protocol number, printed name, further names; bits from the lowest on. That of the upper layer has no number.
const HEADERS: [(u8, &str, &[&str]); 8] = [
    (proto::HOPOPTS, "hop-by-hop", &["hop", "0", "hopopt"]),
    (proto::DSTOPTS, "ipv6-opts", &["dst", "60"]),
    (proto::ROUTING, "ipv6-route", &["route", "43"]),
    (proto::FRAGMENT, "ipv6-frag", &["frag", "44"]),
    (proto::AH, "ah", &["auth", "51"]),
    (proto::ESP, "esp", &["50"]),
    (proto::NONE, "ipv6-nonxt", &["none", "59"]),
    (255, "protocol", &["prot", "255"]),
];
const UPPER: u8 = 1 << 7;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "ipv6header",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("header", &[]).about("NAME[,...]", "hop, dst, route, frag, auth, esp, none or prot"),
        Opt::flag("soft", &[]).about("", "others may be there too"),
    ],
    build,
    summary: "which extension headers an IPv6 packet has",
    example: r#"{ header = "frag", soft = true, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m ipv6header --header hop", "-m ipv6header --header hop-by-hop"),
        Case::Prints(Family::V6, "-m ipv6header ! --header hopopt,protocol", "-m ipv6header ! --header hop-by-hop,protocol"),
        Case::Prints(
            Family::V6,
            "-m ipv6header --header prot,none,esp,auth,frag,route,dst,hop",
            "-m ipv6header --header hop-by-hop,ipv6-opts,ipv6-route,ipv6-frag,ah,esp,ipv6-nonxt,protocol",
        ),
        Case::Prints(
            Family::V6,
            "-m ipv6header --header hop-by-hop,ipv6-opts,ipv6-route,ipv6-frag,ah,esp,ipv6-nonxt,protocol",
            "=",
        ),
        Case::Prints(
            Family::V6,
            "-m ipv6header --header 0,60,43,44,51,50,59,255",
            "-m ipv6header --header hop-by-hop,ipv6-opts,ipv6-route,ipv6-frag,ah,esp,ipv6-nonxt,protocol",
        ),
        Case::Prints(Family::V6, "-m ipv6header --header frag,44,", "-m ipv6header --header ipv6-frag"),
        Case::Prints(Family::V6, "-m ipv6header --soft --header ah", "-m ipv6header --header ah --soft"),
        Case::Prints(Family::V6, "-m ipv6header ! --header ipv6-frag --soft", "="),
        Case::Refused(Family::V6, "-m ipv6header", "ipv6header asks for --header"),
        Case::Refused(Family::V6, "-m ipv6header --soft", "ipv6header asks for --header"),
        Case::Refused(Family::V6, "-m ipv6header --header hop ! --soft", "cannot be negated"),
        Case::Refused(Family::V6, "-m ipv6header --header hop --soft --soft", "twice"),
        Case::Refused(Family::V6, "-m ipv6header --header tcp", "`tcp` is not an extension header"),
        Case::Refused(Family::V6, "-m ipv6header --header 6", "`6` is not an extension header"),
        Case::Refused(Family::V6, "-m ipv6header --header 0x2c", "`0x2c` is not an extension header"),
        Case::Refused(Family::V6, "-m ipv6header --header HOP", "`HOP` is not an extension header"),
        Case::Refused(Family::V6, r#"-m ipv6header --header """#, "no header is named"),
        Case::Refused(Family::V4, "-m ipv6header --header frag", "there is no match `ipv6header` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("ipv6header asks for --header")) };
    let mut bits = 0;
    for part in word::split(&option.values[0], ',').iter().filter(|part| !part.text.is_empty()) {
        bits |= bit(part)?;
    }
    if bits == 0 {
        return Err(option.values[0].complain("no header is named", names()));
    }
    let (negate, test) = match (given.get(1).is_some(), option.negate) {
        (false, negate) => (negate, Ipv6header::Exactly(bits)),
        (true, false) => (false, Ipv6header::All(bits)),
        (true, true) => (false, Ipv6header::NoneOf(bits)),
    };
    Ok(vec![Cond::new(negate, Match::Ipv6header(test))])
}

fn names() -> String {
    word::either(HEADERS.iter().map(|(_, name, others)| others.iter().find(|o| o.len() > 2).unwrap_or(name)).copied())
}

fn bit(part: &Word) -> Result<u8, Complaint> {
    let text = part.text.as_str();
    let found = HEADERS.iter().position(|(_, name, others)| *name == text || others.contains(&text));
    let at = found.ok_or_else(|| part.complain(format!("`{text}` is not an extension header"), names()))?;
    Ok(1 << at)
}

/// The bit of a header; none of what is no extension header.
fn bit_of(next: u8) -> Option<u8> {
    HEADERS[..7].iter().position(|(number, ..)| *number == next).map(|at| 1 << at)
}

/// Bits of the headers that the packet has; none where it ends too early.
fn found(l3: &[u8]) -> Option<u8> {
    let mut next = *l3.get(6)?;
    let (mut bits, mut at) = (0, 40);
    while let Some(bit) = bit_of(next) {
        if next == proto::NONE {
            return Some(bits | bit);
        }
        let &[following, len, ..] = l3.get(at..)? else { return None };
        bits |= bit;
        if next == proto::ESP {
            return Some(bits);
        }
        at += headers::extension_len(next, len);
        next = following;
        if at > l3.len() {
            break;
        }
    }
    // What is beyond the packet counts for the upper layer, unless it names itself otherwise.
    Some(if matches!(next, proto::NONE | proto::ESP) { bits } else { bits | UPPER })
}

impl Condition for Ipv6header {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let Some(found) = found(cx.l3) else { return Outcome::Never };
        yes(match *self {
            Ipv6header::Exactly(bits) => found == bits,
            Ipv6header::All(bits) => found & bits == bits,
            Ipv6header::NoneOf(bits) => found & bits == 0,
        })
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let (Ipv6header::Exactly(bits) | Ipv6header::All(bits) | Ipv6header::NoneOf(bits)) = *self;
        let _ = write!(out, "{} --header", not(negate || matches!(self, Ipv6header::NoneOf(_))));
        let named = HEADERS.iter().enumerate().filter(|(at, _)| bits >> at & 1 != 0);
        for (i, (_, (_, name, _))) in named.enumerate() {
            let _ = write!(out, "{}{name}", if i == 0 { " " } else { "," });
        }
        if !matches!(self, Ipv6header::Exactly(_)) {
            out.push_str(" --soft");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let (Ipv6header::Exactly(bits) | Ipv6header::All(bits) | Ipv6header::NoneOf(bits)) = *self;
        if bits == 0 { Err("a list of no headers".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Never, No, Yes};

    fn ask(text: &str, l3: &[u8]) -> Outcome {
        Judge::new(Family::V6, &format!("-m ipv6header {text}")).ask(&Facts::blank(Family::V6), l3)
    }

    /// A hop-by-hop header and a routing header before `next`.
    fn packet(next: u8) -> Vec<u8> {
        headers::packet(0, &[43, 0, 1, 4, 0, 0, 0, 0, next, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 8, 0, 0, 0, 0])
    }

    #[test]
    fn headers_are_counted_up_to_the_upper_layer() {
        for (text, next, expected) in [
            ("--header hop,route,prot", 17, Yes),
            ("--header hop,route", 17, No),
            ("! --header hop,route", 17, Yes),
            ("--header hop,route,none", 59, Yes),
            ("--header hop,route,esp", 50, Yes),
            ("--header hop,route,frag,prot", 44, Yes),
            ("--header hop,route,auth,prot", 51, Yes),
            ("--header hop --soft", 17, Yes),
            ("--header hop,frag --soft", 17, No),
            ("! --header hop --soft", 17, No),
            ("! --header hop,frag --soft", 17, No),
            ("! --header frag,auth --soft", 17, Yes),
        ] {
            assert_eq!(ask(text, &packet(next)), expected, "{text} {next}");
        }
    }

    #[test]
    fn a_packet_that_ends_too_early_never_matches() {
        for text in ["--header hop,route,prot", "! --header hop", "! --header frag --soft"] {
            assert_eq!(ask(text, &packet(44)[..57]), Never, "{text}");
            assert_eq!(ask(text, &[0x60; 3]), Never, "{text}");
        }
        assert_eq!(ask("--header hop,route,prot", &packet(17)[..56]), Yes);
        assert_eq!(ask("--header hop,prot", &headers::packet(0, &[43, 1, 0, 0])), Yes); // beyond the packet
    }
}
