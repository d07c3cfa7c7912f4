//! `-m connbytes`: packets or bytes that the flow has transferred so far, this packet included (`xt_connbytes.c`).
//!
//! `avgpkt` is bytes by packets, 0 where there is none. A packet without a flow never matches, negated or not. A rule with it
//! turns per-flow accounting on, as in the kernel. What is negated is the range: `! --connbytes 5:5` cannot be said, and is
//! `--connbytes 5:5` to iptables.
//!
//! TOML: `{ connbytes = "1000000:", connbytes-mode = "bytes", connbytes-dir = "both", target = "MARK", set-mark = 1 }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Dir, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is counted, of which direction, and the range for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connbytes {
    /// `--connbytes-mode`
    pub mode: Mode,
    /// `--connbytes-dir`; none is both together.
    pub dir: Option<Dir>,
    /// At least.
    pub from: u64,
    /// At most.
    pub to: u64,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Packets.
    Packets,
    /// Bytes of IP.
    Bytes,
    /// Bytes of a packet on average.
    Average,
}

const MODES: [(&str, Mode); 3] = [("packets", Mode::Packets), ("bytes", Mode::Bytes), ("avgpkt", Mode::Average)];
const DIRS: [(&str, Option<Dir>); 3] =
    [("original", Some(Dir::Original)), ("reply", Some(Dir::Reply)), ("both", None)];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "connbytes",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("connbytes", &[]).about("FROM[:[TO]]", "so much of it has passed, this packet included"),
        Opt::plain("connbytes-mode", &[]).about("packets|bytes|avgpkt", "what is counted"),
        Opt::plain("connbytes-dir", &[]).about("original|reply|both", "in which direction of the flow"),
    ],
    build,
    summary: "packets or bytes that the flow has transferred so far",
    example: r#"{ connbytes = "1000000:", connbytes-mode = "bytes", connbytes-dir = "both", target = "MARK", set-mark = 1 }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-m connbytes --connbytes 10:20 --connbytes-dir original --connbytes-mode packets",
            "-m connbytes --connbytes 10:20 --connbytes-mode packets --connbytes-dir original",
        ),
        Case::Prints(
            Family::V6,
            "-m connbytes --connbytes 10: --connbytes-mode avgpkt --connbytes-dir both",
            "-m connbytes --connbytes 10 --connbytes-mode avgpkt --connbytes-dir both",
        ),
        Case::Prints(Family::V4, "-m connbytes ! --connbytes 10:20 --connbytes-mode bytes --connbytes-dir reply", "="),
        Case::Prints(Family::V4, "-m connbytes ! --connbytes 10 --connbytes-mode bytes --connbytes-dir reply", "="),
        Case::Prints(
            Family::V4,
            "-m connbytes ! --connbytes 5:5 --connbytes-mode bytes --connbytes-dir both",
            "-m connbytes --connbytes 5:5 --connbytes-mode bytes --connbytes-dir both",
        ),
        Case::Prints(
            Family::V4,
            "-m connbytes --connbytes :0x10 --connbytes-mode bytes --connbytes-dir both",
            "-m connbytes --connbytes 0:16 --connbytes-mode bytes --connbytes-dir both",
        ),
        Case::Refused(Family::V4, "-m connbytes --connbytes 20:10 --connbytes-mode bytes --connbytes-dir both", "backwards"),
        Case::Refused(Family::V4, "-m connbytes --connbytes 10 --connbytes-dir both", "--connbytes-mode"),
        Case::Refused(Family::V4, "-m connbytes --connbytes 10 --connbytes-mode bytes", "--connbytes-dir"),
        Case::Refused(Family::V4, "-m connbytes --connbytes-mode bytes --connbytes-dir both", "--connbytes"),
        Case::Refused(
            Family::V4,
            "-m connbytes --connbytes 18446744073709551616 --connbytes-mode bytes --connbytes-dir both",
            "is not a number",
        ),
        Case::Refused(
            Family::V4,
            "-m connbytes --connbytes 1 --connbytes-mode bits --connbytes-dir both",
            "`bits` is not a mode of connbytes",
        ),
        Case::Refused(
            Family::V4,
            "-m connbytes --connbytes 1 --connbytes-mode bytes --connbytes-dir orig",
            "`orig` is not a direction",
        ),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let needs = |name: &str| given.complain(format!("connbytes asks for {name}"));
    let option = given.get(0).ok_or_else(|| needs("--connbytes"))?;
    let mode = given.value(1).ok_or_else(|| needs("--connbytes-mode packets, bytes or avgpkt"))?;
    let dir = given.value(2).ok_or_else(|| needs("--connbytes-dir original, reply or both"))?;
    let mode = word::named(mode, "a mode of connbytes", &MODES)?;
    let dir = word::named(dir, "a direction of connbytes", &DIRS)?;
    let text = &option.values[0];
    let (from, to) = match word::integer(&text.text) {
        Some(from) => (from, u64::MAX),
        None => word::range(text, ':', "a number of packets or bytes", 0..=u64::MAX)?,
    };
    let negate = option.negate && from != to;
    Ok(vec![Cond::new(negate, Match::Connbytes(Connbytes { mode, dir, from, to }))])
}

impl Condition for Connbytes {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let Some(flow) = cx.around.flow().filter(|_| facts.has_ct) else { return Outcome::Never };
        let (Some(original), Some(reply)) = (flow.counters(Dir::Original), flow.counters(Dir::Reply)) else {
            return Outcome::Never;
        };
        let (packets, bytes) = match self.dir {
            Some(Dir::Original) => original,
            Some(Dir::Reply) => reply,
            None => (original.0.wrapping_add(reply.0), original.1.wrapping_add(reply.1)),
        };
        let what = match self.mode {
            Mode::Packets => packets,
            Mode::Bytes => bytes,
            Mode::Average => bytes.checked_div(packets).unwrap_or(0),
        };
        yes((self.from..=self.to).contains(&what))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let not = super::not(negate);
        let _ = write!(out, "{not} --connbytes {}", self.from);
        if self.to != u64::MAX {
            let _ = write!(out, ":{}", self.to);
        }
        let mode = MODES.iter().find(|(_, mode)| *mode == self.mode).map_or("", |(name, _)| name);
        let dir = DIRS.iter().find(|(_, dir)| *dir == self.dir).map_or("", |(name, _)| name);
        let _ = write!(out, " --connbytes-mode {mode} --connbytes-dir {dir}");
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.from > self.to { Err("a range that runs backwards".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Never, No, Yes};

    #[test]
    fn counters_of_the_flow_are_compared() {
        for (text, expected) in [
            ("--connbytes 3:3 --connbytes-mode packets --connbytes-dir original", Yes),
            ("--connbytes 1 --connbytes-mode packets --connbytes-dir reply", No),
            ("--connbytes 0 --connbytes-mode avgpkt --connbytes-dir reply", Yes),
            ("--connbytes 1 --connbytes-mode avgpkt --connbytes-dir reply", No),
            ("--connbytes 100:101 --connbytes-mode avgpkt --connbytes-dir both", Yes),
            ("--connbytes 301:400 --connbytes-mode bytes --connbytes-dir both", Yes),
            ("! --connbytes 301:400 --connbytes-mode bytes --connbytes-dir both", No),
            ("! --connbytes 5:6 --connbytes-mode bytes --connbytes-dir both", Yes),
        ] {
            let mut judge = Judge::new(Family::V4, &format!("-m connbytes {text}"));
            judge.flow.counters = [(3, 302), (0, 0)];
            assert_eq!(judge.ask(&Facts { has_ct: true, ..Facts::blank(Family::V4) }, &[]), expected, "{text}");
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), Never, "{text}");
        }
    }
}
