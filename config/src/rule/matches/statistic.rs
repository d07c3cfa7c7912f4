//! `-m statistic`: by chance, or every nth packet (`xt_statistic.c`).
//!
//! `--mode random` holds with a probability kept in units of 2^-31, as the kernel does. `--mode nth` counts the packets that
//! reach it: packet `--packet` (from 0, which is the default) of each `--every` holds; negated, all others. The count is one
//! cell, added to atomically, so it is exact under several workers.
//!
//! TOML: `{ mode = "nth", every = 3, packet = 0, jump = "ACCEPT" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// How packets are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Statistic {
    /// `--mode random`
    Random {
        /// In units of 2^-31: at most 2^31, which is always.
        probability: u32,
    },
    /// `--mode nth`
    Nth {
        /// Length of the cycle, at least 1.
        every: u32,
        /// Which packet of the cycle, from 0.
        packet: u32,
        /// Number of its cell, which counts packets.
        cell: u32,
    },
}

/// Probability 1.
const ALWAYS: u32 = 1 << 31;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "statistic",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("mode", &[]).about("random|nth", "how packets are chosen"),
        Opt::negatable("probability", &[]).about("P", "by this chance, from 0 to 1"),
        Opt::negatable("every", &[]).about("N", "one of so many"),
        Opt::plain("packet", &[]).about("P", "which of them, from 0, which is the default"),
    ],
    build,
    summary: "by chance, or every nth packet",
    example: r#"{ mode = "nth", every = 3, packet = 0, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-m statistic --mode random --probability 0.5",
            "-m statistic --mode random --probability 0.50000000000",
        ),
        Case::Prints(Family::V6, "-m statistic --mode random ! --probability 0.33333333349", "="),
        Case::Prints(
            Family::V4,
            "-m statistic --mode random --probability .33",
            "-m statistic --mode random --probability 0.33000000007",
        ),
        Case::Prints(
            Family::V4,
            "-m statistic --mode random --probability 1e-3",
            "-m statistic --mode random --probability 0.00100000016",
        ),
        Case::Prints(Family::V4, "-m statistic --mode random --probability 1.00000000000", "="),
        Case::Prints(Family::V4, "-m statistic --mode nth --every 3 --packet 2", "="),
        Case::Prints(Family::V4, "-m statistic --mode nth ! --every 3 --packet 1", "="),
        Case::Prints(
            Family::V4,
            "-m statistic --mode nth --every 3",
            "-m statistic --mode nth --every 3 --packet 0",
        ),
        Case::Prints(Family::V4, "-m statistic --mode nth --every 4294967295 --packet 7", "="),
        Case::Refused(Family::V4, "-m statistic --mode random --probability 1.1", "`1.1` is not a probability"),
        Case::Refused(Family::V4, "-m statistic --mode random --probability nan", "`nan` is not a probability"),
        Case::Refused(Family::V4, "-m statistic --mode random", "--probability"),
        Case::Refused(Family::V4, "-m statistic --mode nth --packet 1", "--every"),
        Case::Refused(Family::V4, "-m statistic --mode nth --every 3 --packet 3", "`3` is not a packet of 3"),
        Case::Refused(Family::V4, "-m statistic --mode nth --every 0", "`0` is not a cycle"),
        Case::Refused(Family::V4, "-m statistic --mode nth --every 3 --probability 0.5", "mode random"),
        Case::Refused(Family::V4, "-m statistic --mode random --every 3 --probability 0.5", "mode nth"),
        Case::Refused(Family::V4, "-m statistic --mode rand --probability 0.5", "`rand` is not a mode"),
        Case::Refused(Family::V4, "-m statistic --every 3", "--mode"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(mode) = given.value(0) else { return Err(given.complain("statistic asks for --mode random or nth")) };
    let random = word::named(mode, "a mode of statistic", &[("random", true), ("nth", false)])?;
    let strangers: &[usize] = if random { &[2, 3] } else { &[1] };
    if let Some(stranger) = strangers.iter().find_map(|&option| given.get(option)) {
        let belongs = if random { "nth" } else { "random" };
        return Err(stranger.word.complain(
            format!("`{}` belongs to mode {belongs}", stranger.word.text),
            if random { "--probability" } else { "--every and --packet" },
        ));
    }
    let (negate, test) = if random { build_random(given)? } else { build_nth(given)? };
    Ok(vec![Cond::new(negate, Match::Statistic(test))])
}

fn build_random(given: &Given) -> Result<(bool, Statistic), Complaint> {
    let Some(option) = given.get(1) else { return Err(given.complain("mode random asks for --probability")) };
    let probability = parse_probability(&option.values[0])?;
    Ok((option.negate, Statistic::Random { probability }))
}

fn parse_probability(word: &Word) -> Result<u32, Complaint> {
    match word.text.parse::<f64>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok((p * ALWAYS as f64).round() as u32),
        _ => Err(word.complain(format!("`{}` is not a probability", word.text), "a number from 0 to 1, such as 0.5")),
    }
}

fn build_nth(given: &Given) -> Result<(bool, Statistic), Complaint> {
    let Some(option) = given.get(2) else { return Err(given.complain("mode nth asks for --every")) };
    let every = word::number(&option.values[0], "a cycle of packets", 1..=u32::MAX as u64)?;
    let packet = match given.value(3) {
        Some(word) => word::number(word, &format!("a packet of {every}"), 0..=every - 1)?,
        None => 0,
    };
    Ok((option.negate, Statistic::Nth { every: every as u32, packet: packet as u32, cell: 0 }))
}

impl Condition for Statistic {
    #[inline]
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        match *self {
            Statistic::Random { probability } => yes(cx.around.random() & (ALWAYS - 1) < probability),
            Statistic::Nth { every, packet, cell } => match cx.cells.get(cell as usize) {
                // The cell guards no other memory: Relaxed is enough.
                Some(count) => yes(count.fetch_add(1, Ordering::Relaxed) % every.max(1) as u64 == packet as u64),
                None => Outcome::Never,
            },
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let not = not(negate);
        let _ = match *self {
            Statistic::Random { probability } => {
                write!(out, " --mode random{not} --probability {:.11}", probability as f64 / ALWAYS as f64)
            }
            Statistic::Nth { every, packet, .. } => {
                write!(out, " --mode nth{not} --every {every} --packet {packet}")
            }
        };
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match *self {
            Statistic::Random { probability } if probability > ALWAYS => Err("a probability above 1".to_string()),
            Statistic::Nth { every, packet, .. } if packet >= every => Err(format!("packet {packet} of {every}")),
            _ => Ok(()),
        }
    }

    fn cell(&self) -> Option<u32> {
        match self {
            Statistic::Random { .. } => None,
            Statistic::Nth { cell, .. } => Some(*cell),
        }
    }

    fn cell_mut(&mut self) -> Option<&mut u32> {
        match self {
            Statistic::Random { .. } => None,
            Statistic::Nth { cell, .. } => Some(cell),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;

    #[test]
    fn the_nth_of_each_cycle_holds() {
        for (text, expected) in [
            ("--mode nth --every 3 --packet 0", [1, 0, 0, 1, 0, 0, 1]),
            ("--mode nth --every 3 --packet 2", [0, 0, 1, 0, 0, 1, 0]),
            ("--mode nth ! --every 3 --packet 1", [1, 0, 1, 1, 0, 1, 1]),
            ("--mode nth --every 1", [1; 7]),
        ] {
            let judge = Judge::new(Family::V4, &format!("-m statistic {text}"));
            let got = expected.map(|_| (judge.ask(&Facts::blank(Family::V4), &[]) == Outcome::Yes) as i32);
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn chance_is_31_bits_of_the_random_number() {
        for (text, random, expected) in [
            ("--probability 0.5", 0x3fff_ffff, Outcome::Yes),
            ("--probability 0.5", 0x4000_0000, Outcome::No),
            ("--probability 0.5", 0x8000_0000, Outcome::Yes), // the highest bit does not count
            ("--probability 1", 0xffff_ffff, Outcome::Yes),
            ("--probability 0", 0, Outcome::No),
            ("! --probability 0", 0, Outcome::Yes),
        ] {
            let judge = Judge::new(Family::V6, &format!("-m statistic --mode random {text}"));
            judge.random.set(random);
            assert_eq!(judge.ask(&Facts::blank(Family::V6), &[]), expected, "{text} {random:x}");
        }
    }

    #[test]
    fn values_out_of_range_do_not_verify() {
        assert!(Statistic::Random { probability: ALWAYS + 1 }.verify(Family::V4).is_err());
        assert!(Statistic::Nth { every: 0, packet: 0, cell: 0 }.verify(Family::V4).is_err());
        assert!(Statistic::Nth { every: 3, packet: 3, cell: 0 }.verify(Family::V4).is_err());
    }
}
