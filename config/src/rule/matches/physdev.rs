//! `-m physdev`: the ports of a bridge that the packet came in by and leaves by (`xt_physdev.c`).
//!
//! Sumun routes and bridges nothing, so no packet has such a port: every option says no, and yes where it is negated, as the
//! kernel says of packets that passed no bridge. Names need not be those of the router's interfaces.
//!
//! In OUTPUT `--physdev-out` and `--physdev-is-out` can stand only beside `--physdev-is-bridged`, as in the kernel.
//!
//! TOML: `{ physdev-is-bridged = true, jump = "ACCEPT" }`

use super::interface::{self, MAX_NAME};
use super::{Asks, Condition, Match, not};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Hook, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One option.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Physdev {
    /// `--physdev-is-in`
    IsIn,
    /// `--physdev-in NAME[+]`
    In(String),
    /// `--physdev-is-out`
    IsOut,
    /// `--physdev-out NAME[+]`
    Out(String),
    /// `--physdev-is-bridged`
    IsBridged,
}

const IS_IN: usize = 0;
const IN: usize = 1;
const IS_OUT: usize = 2;
const OUT: usize = 3;
const IS_BRIDGED: usize = 4;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "physdev",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable_flag("physdev-is-in", &[]).about("", "it came in by a port of a bridge"),
        Opt::negatable("physdev-in", &[]).about("NAME[+]", "it came in by this port of a bridge"),
        Opt::negatable_flag("physdev-is-out", &[]).about("", "it leaves by a port of a bridge"),
        Opt::negatable("physdev-out", &[]).about("NAME[+]", "it leaves by this port of a bridge"),
        Opt::negatable_flag("physdev-is-bridged", &[]).about("", "it is bridged, not routed"),
    ],
    build,
    summary: "ports of a bridge: no packet has them here",
    example: r#"{ physdev-is-bridged = true, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m physdev --physdev-in lan0", "="),
        Case::Prints(Family::V6, "-m physdev ! --physdev-in lan+", "="),
        Case::Prints(Family::V4, "-m physdev --physdev-in +", "="),
        Case::Prints(Family::V4, "-m physdev --physdev-in nonesuch", "="),
        Case::Prints(Family::V4, "-m physdev --physdev-in abcdefghijklmno", "="),
        Case::Prints(Family::V4, "-m physdev --physdev-out vnet3", "="),
        Case::Prints(Family::V6, "-m physdev ! --physdev-out lan0 --physdev-is-bridged", "="),
        Case::Prints(Family::V4, "-m physdev --physdev-out a --physdev-in b", "-m physdev --physdev-in b --physdev-out a"),
        Case::Prints(Family::V4, "-m physdev --physdev-is-in --physdev-is-out --physdev-is-bridged", "="),
        Case::Prints(Family::V4, "-m physdev ! --physdev-is-in ! --physdev-is-out ! --physdev-is-bridged", "="),
        Case::Prints(
            Family::V4,
            "-m physdev --physdev-is-bridged --physdev-out a --physdev-in b --physdev-is-in",
            "-m physdev --physdev-is-in --physdev-in b --physdev-out a --physdev-is-bridged",
        ),
        Case::Refused(Family::V4, "-m physdev", "physdev asks for one of its options"),
        Case::Refused(Family::V4, "-m physdev --physdev-in abcdefghijklmnop", "longer than an interface name"),
        Case::Refused(Family::V4, "-m physdev --physdev-in a --physdev-in b", "given twice"),
        Case::Refused(Family::V6, "-m physdev --physdev-out \"\"", "an empty interface name"),
        Case::Refused(Family::V4, "-m physdev --physdev-out \"a b\"", "not an interface name"),
        Case::Refused(Family::V4, "-m physdev --physdev-is-in lan0", "`lan0` is not expected"),
        Case::Refused(Family::V4, "-m physdev --physdev-is-out --physdev-is-out", "given twice"),
        Case::Refused(Family::V4, "-m physdev --physdev-is-bridged --physdev-is-bridged", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut options: Vec<_> = given.options.iter().collect();
    options.sort_by_key(|option| option.option);
    if options.is_empty() {
        return Err(given.complain("physdev asks for one of its options, such as --physdev-in"));
    }
    let leaves = given.get(OUT).or_else(|| given.get(IS_OUT));
    let bridged = given.get(IS_BRIDGED).is_some_and(|option| !option.negate);
    if let Some(option) = leaves.filter(|_| !bridged && given.hooks & Hook::Output.bit() != 0) {
        let what = format!("`{}` cannot be used in OUTPUT, where no port is known", option.word.text);
        return Err(option.word.complain(what, "FORWARD or POSTROUTING, or --physdev-is-bridged beside it"));
    }
    options
        .into_iter()
        .map(|option| {
            let test = match option.option {
                IS_IN => Physdev::IsIn,
                IN => Physdev::In(parse_name(&option.values[0])?),
                IS_OUT => Physdev::IsOut,
                OUT => Physdev::Out(parse_name(&option.values[0])?),
                _ => Physdev::IsBridged,
            };
            Ok(Cond::new(option.negate, Match::Physdev(test)))
        })
        .collect()
}

fn parse_name(word: &Word) -> Result<String, Complaint> {
    interface::parse(word, &[]).map(|_| word.text.clone())
}

impl Condition for Physdev {
    fn test(&self, _: &Facts, _: &Context) -> Outcome {
        Outcome::No
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let not = not(negate);
        let _ = match self {
            Physdev::IsIn => write!(out, "{not} --physdev-is-in"),
            Physdev::In(name) => write!(out, "{not} --physdev-in {name}"),
            Physdev::IsOut => write!(out, "{not} --physdev-is-out"),
            Physdev::Out(name) => write!(out, "{not} --physdev-out {name}"),
            Physdev::IsBridged => write!(out, "{not} --physdev-is-bridged"),
        };
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let (Physdev::In(name) | Physdev::Out(name)) = self else { return Ok(()) };
        match parse_name(&Word { text: name.clone(), at: 0..0 }) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("a port's name of 1 to {MAX_NAME} characters was expected")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{outcome, parse_at};
    use super::*;

    #[test]
    fn no_packet_passed_a_bridge() {
        for (text, expected) in [
            ("--physdev-in lan0", Outcome::No),
            ("! --physdev-in lan0", Outcome::Yes),
            ("--physdev-in +", Outcome::No),
            ("! --physdev-is-in ! --physdev-is-out ! --physdev-is-bridged", Outcome::Yes),
            ("! --physdev-is-in --physdev-is-out", Outcome::No),
            ("! --physdev-out lan0 --physdev-is-bridged", Outcome::No),
        ] {
            assert_eq!(outcome(&format!("-m physdev {text}"), &Facts::blank(Family::V4)), expected, "{text}");
        }
    }

    #[test]
    fn in_output_a_port_of_departure_stands_only_beside_is_bridged() {
        for (text, allowed) in [
            ("--physdev-in a", true),
            ("--physdev-out a", false),
            ("! --physdev-out a", false),
            ("--physdev-is-out", false),
            ("--physdev-is-bridged", true),
            ("--physdev-out a --physdev-is-bridged", true),
            ("--physdev-out a ! --physdev-is-bridged", false),
        ] {
            for hook in Hook::ALL {
                let answer = parse_at(Family::V4, hook.bit(), &format!("-m physdev {text}"));
                assert_eq!(answer.is_ok(), allowed || hook != Hook::Output, "{text} in {}", hook.name());
            }
        }
    }

    #[test]
    fn names_that_cannot_be_do_not_verify() {
        for name in ["", "abcdefghijklmnop", "a b"] {
            assert!(Physdev::In(name.to_string()).verify(Family::V4).is_err(), "{name:?}");
        }
        assert_eq!(Physdev::Out("+".to_string()).verify(Family::V4), Ok(()));
    }
}
