//! `-j NFQUEUE [--queue-num N | --queue-balance A:B] [--queue-bypass] [--queue-cpu-fanout]`: to a program that decides.
//!
//! No program can listen to a queue of the router. So it does what the kernel does for a queue that nobody listens to
//! (`nf_queue`): the packet is dropped; with `--queue-bypass` the table is done with it, and the next one sees it. In table
//! `nat` that leaves the flow without a mapping of this hook.
//! TOML: `{ protocol = "tcp", dport = 80, target = "NFQUEUE", queue-num = 5, queue-bypass = true }`.

use super::{Action, Target, mark};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::word::{number, split_once};
use crate::rule::{Effect, Families};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// First and last queue.
    pub queues: (u16, u16),
    /// `--queue-bypass`
    pub bypass: bool,
    /// `--queue-cpu-fanout`
    pub fanout: bool,
}

const NUM: usize = 0;
const BALANCE: usize = 1;
const BYPASS: usize = 2;
const FANOUT: usize = 3;
/// `xt_NFQ_info_v3` counts queues in 16 bits.
const MOST_QUEUES: u16 = u16::MAX;

/// NFQUEUE
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "NFQUEUE",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("queue-num", &[]).about("NUMBER", "to this queue, from 0 to 65535; 0 where it is not given"),
        Opt::plain("queue-balance", &[]).about("FIRST:LAST", "to one of these queues, the same for all of a flow"),
        Opt::flag("queue-bypass", &[]).about("", "lets the packet pass where nobody listens: nobody does here"),
        Opt::flag("queue-cpu-fanout", &[]).about("", "the queue is chosen by the processor"),
    ],
    build,
    summary: "Asks a program; nobody listens here, so it drops or, with --queue-bypass, lets pass.",
    example: r#"{ protocol = "tcp", dport = 80, target = "NFQUEUE", queue-num = 5, queue-bypass = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-j NFQUEUE", "-j NFQUEUE --queue-num 0"),
        Case::Prints(Family::V4, "-j NFQUEUE --queue-num 65535", "="),
        Case::Prints(Family::V6, "-j NFQUEUE --queue-num 0x10", "-j NFQUEUE --queue-num 16"),
        Case::Prints(Family::V4, "-j NFQUEUE --queue-bypass", "-j NFQUEUE --queue-num 0 --queue-bypass"),
        Case::Prints(Family::V4, "-j NFQUEUE --queue-balance 0:3", "="),
        Case::Prints(Family::V4, "-j NFQUEUE --queue-balance :3", "-j NFQUEUE --queue-balance 0:3"),
        Case::Prints(Family::V4, "-j NFQUEUE --queue-balance 3:", "-j NFQUEUE --queue-balance 3:65535"),
        Case::Prints(Family::V6, "-j NFQUEUE --queue-balance 0:65534", "="),
        Case::Prints(
            Family::V6,
            "-j NFQUEUE --queue-cpu-fanout --queue-bypass --queue-balance 1:2",
            "-j NFQUEUE --queue-balance 1:2 --queue-bypass --queue-cpu-fanout",
        ),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-num 65536", "`65536` is not a queue"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-num web", "`web` is not a queue"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-balance 3", "`3` is not a range of queues"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-balance 3:0", "`3:0` is not a range of queues"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-balance 3:3", "`3:3` is not a range of queues"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-balance 0:65536", "`65536` is not a queue"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-balance 0:65535", "more than 65535 queues"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-num 1 --queue-balance 0:3", "cannot stand with"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-cpu-fanout", "`--queue-cpu-fanout` needs --queue-balance"),
        Case::Refused(Family::V4, "-j NFQUEUE --queue-num 5 --queue-cpu-fanout", "`--queue-cpu-fanout` needs"),
        Case::Refused(Family::V6, "-j NFQUEUE ! --queue-bypass", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    mark::exclusive(given, &[NUM, BALANCE])?;
    let queues = match (given.value(NUM), given.value(BALANCE)) {
        (Some(word), _) => queue(word).map(|queue| (queue, queue))?,
        (None, Some(word)) => range(word)?,
        (None, None) => (0, 0),
    };
    if let (Some(fanout), None) = (given.get(FANOUT), given.get(BALANCE)) {
        return Err(fanout.word.complain("`--queue-cpu-fanout` needs --queue-balance", "--queue-balance FIRST:LAST beside it"));
    }
    Ok(Target::Queue(Queue { queues, bypass: given.get(BYPASS).is_some(), fanout: given.get(FANOUT).is_some() }))
}

fn queue(word: &Word) -> Result<u16, Complaint> {
    number(word, "a queue", 0..=u16::MAX.into()).map(|queue| queue as u16)
}

fn range(word: &Word) -> Result<(u16, u16), Complaint> {
    let wrong = || word.complain(format!("`{}` is not a range of queues", word.text), "FIRST:LAST, the smaller number first");
    let (first, last) = split_once(word, ':').ok_or_else(wrong)?;
    let end = |part: &Word, open| if part.text.is_empty() { Ok(open) } else { queue(part) };
    match (end(&first, 0)?, end(&last, u16::MAX)?) {
        (first, last) if first >= last => Err(wrong()),
        (0, MOST_QUEUES) => Err(word.complain("these are more than 65535 queues", "one queue less")),
        range => Ok(range),
    }
}

impl Action for Queue {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Queue { bypass: self.bypass }
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let (first, last) = self.queues;
        let _ = match first == last {
            true => write!(out, " --queue-num {first}"),
            false => write!(out, " --queue-balance {first}:{last}"),
        };
        out.push_str(if self.bypass { " --queue-bypass" } else { "" });
        out.push_str(if self.fanout { " --queue-cpu-fanout" } else { "" });
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let (first, last) = self.queues;
        let is_sound = first <= last && self.queues != (0, MOST_QUEUES) && (!self.fanout || first < last);
        if is_sound { Ok(()) } else { Err("NFQUEUE with queues that cannot be".to_string()) }
    }
}
