//! `-m state`: the conntrack state; the older spelling of `-m conntrack --ctstate`, without SNAT and DNAT.
//!
//! Packets without a flow are INVALID, or UNTRACKED where raw said so.
//!
//! TOML: `{ state = ["RELATED", "ESTABLISHED"], jump = "ACCEPT" }`

use super::conntrack::{STATES, print_states};
use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// States accepted, bits of [`CtState`](crate::facts::CtState).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State(pub u16);

/// How many of [`STATES`] this match knows: all but the virtual ones.
const KNOWN: usize = 5;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "state",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("state", &[]).about("STATE[,STATE...]", "INVALID, NEW, RELATED, ESTABLISHED or UNTRACKED")],
    build,
    summary: "conntrack state",
    example: r#"{ state = ["RELATED", "ESTABLISHED"], jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m state --state NEW", "="),
        Case::Prints(Family::V6, "-m state --state ESTABLISHED,RELATED", "-m state --state RELATED,ESTABLISHED"),
        Case::Prints(
            Family::V4,
            "-m state --state ESTABLISHED,RELATED,NEW,INVALID,UNTRACKED",
            "-m state --state INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED",
        ),
        Case::Prints(Family::V4, "-m state --state EST,REL", "-m state --state RELATED,ESTABLISHED"),
        Case::Prints(Family::V4, "-m state ! --state new", "-m state ! --state NEW"),
        Case::Refused(Family::V4, "-m state --state SNAT", "`SNAT` is not a state"),
        Case::Refused(Family::V4, "-m state --state NEW,", "`` is not a state"),
        Case::Refused(Family::V4, "-m state --state ESTABLISHD", "`ESTABLISHD` is not a state"),
        Case::Refused(Family::V4, "-m state", "--state"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("state asks for --state")) };
    let states = word::abbreviated_list(&option.values[0], "a state", &STATES[..KNOWN])?;
    let mask = states.into_iter().fold(0, |mask, state| mask | state);
    Ok(vec![Cond::new(option.negate, Match::State(State(mask)))])
}

impl Condition for State {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(self.0 & facts.ct_state as u16 != 0)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --state ", not(negate));
        print_states(out, self.0);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let known = STATES[..KNOWN].iter().fold(0, |mask, (_, bit)| mask | bit);
        if self.0 == 0 || self.0 & !known != 0 { Err("unknown conntrack states".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use crate::facts::CtState;
    use Outcome::{No, Yes};

    #[test]
    fn the_state_is_one_of_those_listed() {
        for (text, ct_state, expected) in [
            ("--state NEW", CtState::New, Yes),
            ("--state NEW", CtState::Established, No),
            ("--state RELATED,ESTABLISHED", CtState::Related, Yes),
            ("! --state RELATED,ESTABLISHED", CtState::Invalid, Yes),
            ("--state INVALID", CtState::Invalid, Yes),
            ("--state UNTRACKED", CtState::Untracked, Yes),
            ("--state INVALID", CtState::Untracked, No),
        ] {
            let facts = Facts { ct_state, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m state {text}"), &facts), expected, "{text} {ct_state:?}");
        }
        assert!(State(0).verify(Family::V4).is_err() && State(128).verify(Family::V4).is_err());
    }
}
