//! `-m cpu`: the core that handles the packet (`xt_cpu.c`): the one that its worker is pinned to.
//!
//! TOML: `{ cpu = 1, target = "MARK", set-mark = 1 }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--cpu NUMBER`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cpu(pub u32);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "cpu",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("cpu", &[]).about("NUMBER", "the core of the worker that handles the packet, from 0")],
    build,
    summary: "the core that handles the packet",
    example: r#"{ cpu = 1, target = "MARK", set-mark = 1 }"#,
    cases: &[
        Case::Prints(Family::V4, "-m cpu --cpu 1", "="),
        Case::Prints(Family::V6, "-m cpu ! --cpu 0", "="),
        Case::Prints(Family::V4, "-m cpu --cpu 0x3", "-m cpu --cpu 3"),
        Case::Prints(Family::V4, "-m cpu --cpu 4294967295", "="),
        Case::Refused(Family::V4, "-m cpu", "cpu asks for --cpu"),
        Case::Refused(Family::V4, "-m cpu --cpu 4294967296", "`4294967296` is not a core"),
        Case::Refused(Family::V4, "-m cpu --cpu -1", "`-1` is not a core"),
        Case::Refused(Family::V6, "-m cpu --cpu x", "`x` is not a core"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("cpu asks for --cpu")) };
    let core = word::number(&option.values[0], "a core", 0..=u32::MAX.into())? as u32;
    Ok(vec![Cond::new(option.negate, Match::Cpu(Cpu(core)))])
}

impl Condition for Cpu {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        yes(cx.around.core() == self.0)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --cpu {}", not(negate), self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;

    #[test]
    fn the_workers_core_is_compared() {
        for (text, expected) in [("--cpu 3", Outcome::Yes), ("--cpu 2", Outcome::No), ("! --cpu 2", Outcome::Yes)] {
            let mut judge = Judge::new(Family::V4, &format!("-m cpu {text}"));
            judge.core = 3;
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text}");
        }
    }
}
