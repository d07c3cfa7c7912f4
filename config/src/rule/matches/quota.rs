//! `-m quota`: holds until so many bytes have passed (`xt_quota.c`), IP headers included.
//!
//! A packet that is larger than what is left takes it all and does not match, nor does any after it. Negated, it holds from
//! then on. The quota goes on as long as the rule stays; a rule that is new begins anew. The cell holds the bytes that are
//! used up, so that one compare-and-swap is exact under any number of workers.
//!
//! TOML: `{ quota = 1000000, jump = "ACCEPT" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// `--quota BYTES`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes in all.
    pub bytes: u64,
    /// Number of its cell.
    pub cell: u32,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "quota",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("quota", &[]).about("BYTES", "until so many bytes have passed")],
    build,
    summary: "holds until so many bytes have passed",
    example: r#"{ quota = 1000000, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m quota --quota 1000", "="),
        Case::Prints(Family::V6, "-m quota ! --quota 1000", "="),
        Case::Prints(Family::V4, "-m quota --quota 0", "="),
        Case::Prints(Family::V4, "-m quota --quota 0x10", "-m quota --quota 16"),
        Case::Prints(Family::V6, "-m quota --quota 18446744073709551615", "="),
        Case::Refused(Family::V4, "-m quota", "quota asks for --quota"),
        Case::Refused(Family::V4, "-m quota --quota 18446744073709551616", "is not a number of bytes"),
        Case::Refused(Family::V4, "-m quota --quota -1", "`-1` is not a number of bytes"),
        Case::Refused(Family::V6, "-m quota --quota 1k", "`1k` is not a number of bytes"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("quota asks for --quota")) };
    let bytes = word::number(&option.values[0], "a number of bytes", 0..=u64::MAX)?;
    Ok(vec![Cond::new(option.negate, Match::Quota(Quota { bytes, cell: 0 }))])
}

impl Condition for Quota {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let Some(used) = cx.cells.get(self.cell as usize) else { return Outcome::Never };
        let len = u64::from(facts.len);
        let fits = |used: u64| self.bytes.saturating_sub(used) >= len;
        // The cell guards no other memory: Relaxed is enough.
        let before = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            Some(if fits(used) { used.saturating_add(len) } else { self.bytes })
        });
        yes(before.is_ok_and(fits))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --quota {}", not(negate), self.bytes);
    }

    fn cell(&self) -> Option<u32> {
        Some(self.cell)
    }

    fn cell_mut(&mut self) -> Option<&mut u32> {
        Some(&mut self.cell)
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;

    #[test]
    fn what_does_not_fit_takes_all_that_is_left() {
        for (text, lengths, expected) in [
            ("--quota 100", [40, 60, 20, 0], [1, 1, 0, 1]),
            ("--quota 100", [60, 60, 20, 20], [1, 0, 0, 0]),
            ("! --quota 100", [60, 60, 20, 20], [0, 1, 1, 1]),
            ("--quota 0", [20, 20, 20, 20], [0; 4]),
            ("--quota 18446744073709551615", [65535; 4], [1; 4]),
        ] {
            let judge = Judge::new(Family::V4, &format!("-m quota {text}"));
            let got = lengths.map(|len| {
                let facts = Facts { len, ..Facts::blank(Family::V4) };
                (judge.ask(&facts, &[]) == Outcome::Yes) as i32
            });
            assert_eq!(got, expected, "{text} {lengths:?}");
        }
    }

    #[test]
    fn several_workers_together_get_exactly_the_quota() {
        let cells = [std::sync::atomic::AtomicU64::new(0)];
        let quota = Quota { bytes: 20 * 1000 + 19, cell: 0 };
        let worker = || {
            let judge = Judge::new(Family::V4, "");
            let cx = Context { l3: &[], now: 0, wall: 0, around: &judge, cells: &cells };
            (0..1000).filter(|_| quota.test(&Facts::blank(Family::V4), &cx) == Outcome::Yes).count()
        };
        let hits: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|t| t.join().expect("a worker ends")).sum()
        });
        assert_eq!(hits, 1000);
        assert_eq!(cells[0].load(Ordering::Relaxed), quota.bytes);
    }
}
