//! The rule language: what can be written in a rule, and what it means for a packet.
//!
//! A rule is a list of conditions and at most one target. A condition is one option of one match (`--dport 22` of
//! `tcp`) with or without a `!`. Each match and each target is one file that holds its spelling, its checks, its meaning
//! and its cases; the lists in [`mod@matches`] and [`targets`] name them all.
//!
//! Meaning is pure: a match looks at [`Facts`] and answers an [`Outcome`]; a target looks at them and answers an
//! [`Effect`], which the engine carries out. So one piece of code says what a rule means, wherever it is evaluated.

use crate::facts::{Context, Facts, Family};
use serde::{Deserialize, Serialize};

mod build;
mod core;
mod draft;
mod fields;
mod general;
pub mod matches;
pub mod option;
mod print;
pub mod reference;
mod sort;
pub mod targets;
mod text;
pub mod word;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod coverage;
#[cfg(test)]
mod sound;

pub use build::{Body, ParsedRule, Reach, Site};
pub use draft::JumpTo;
pub(crate) use draft::{Draft, Unfit, suggest as draft_suggest};
pub use fields::{Item, parse_fields};
pub(crate) use general::{Command, Verb};
pub use matches::Match;
pub use print::print;
pub(crate) use sort::{Form, Line, sort_line};
pub use targets::Target;
pub use text::parse_text;

/// What a match says of a packet, before its rule's negation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// It cannot be said (a later fragment has no ports): the rule does not match, negated or not.
    Never,
    /// The packet is malformed in a way that the kernel's match drops on sight (`par->hotdrop`).
    Hotdrop,
}

/// One condition of a rule.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cond {
    /// A `!` stood before it.
    pub negate: bool,
    /// What is asked.
    pub test: Match,
    /// It is the first of its `-m`: a rule may ask the same match several times.
    pub opens: bool,
}

impl Cond {
    /// A condition that goes on with the `-m` before it.
    pub const fn new(negate: bool, test: Match) -> Cond {
        Cond { negate, test, opens: false }
    }

    /// The answer with the negation applied. Never negates [`Outcome::Never`] or [`Outcome::Hotdrop`].
    #[inline]
    pub fn holds(&self, facts: &Facts, cx: &Context) -> Outcome {
        match (self.test.test(facts, cx), self.negate) {
            (Outcome::Yes, true) => Outcome::No,
            (Outcome::No, true) => Outcome::Yes,
            (outcome, _) => outcome,
        }
    }
}

/// A rule of a chain.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// Conditions in the order written; all must hold.
    pub conds: Vec<Cond>,
    /// What happens then; none only counts.
    pub target: Option<Target>,
    /// Line of the file it was written on, 1-based; 0 where there is none.
    pub line: u32,
}

/// What a target wants done with the packet.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Effect<'a> {
    /// Nothing; on to the next rule.
    Continue,
    /// This table is satisfied.
    Accept,
    /// The packet ends here.
    Drop,
    /// Back to the calling chain, or the policy.
    Return,
    /// To a user chain of the same table, and back after it.
    Jump(u32),
    /// To a user chain of the same table, returning to the caller's caller.
    Goto(u32),
    /// Answer and drop.
    Reject(targets::reject::With),
    /// Write a line to the log; then the next rule.
    Log(&'a targets::log::Log),
    /// Set the packet's mark.
    Mark(u32),
    /// Set the flow's mark.
    ConnMark(u32),
    /// Set TTL or hop limit.
    Ttl(u8),
    /// Set the TOS byte or traffic class.
    Tos(u8),
    /// Clamp or set the MSS option of a TCP SYN; a packet that cannot be parsed is dropped, as the kernel does.
    Mss(targets::tcpmss::Mss),
    /// Do not track (raw only); then the next rule.
    Untrack,
    /// Track like this (raw only); then the next rule.
    Ct(&'a targets::ct::Ct),
    /// Choose the flow's mapping; ACCEPTs.
    Nat(&'a targets::nat::Nat),
    /// Answer a SYN in the place of its server, or open the connection of a client that sent its cookie back; other segments
    /// go on to the next rule.
    Synproxy(&'a targets::synproxy::Synproxy),
    /// Give an address another prefix; a packet whose address has no room for the adjustment is answered and dropped.
    Npt(&'a targets::npt::Npt),
    /// Set the packet's priority.
    Priority(u32),
    /// Change the bits of congestion notification; a packet without room for a TCP header is dropped, as the kernel does.
    Ecn(targets::ecn::Ecn),
    /// Turn TCP options into no-ops; a packet whose TCP header is not all there is dropped.
    Strip(&'a targets::tcpoptstrip::Strip),
    /// From here on log every rule that the packet meets.
    Trace,
    /// Write an audit record; then the next rule.
    Audit,
    /// Tell who listens; then the next rule.
    Nflog(&'a targets::nflog::Nflog),
    /// Send a copy to another host; then the next rule.
    Tee(&'a targets::tee::Tee),
    /// Set the packet's security context, by its number.
    SecMark(u32),
    /// Save the packet's security context with its flow, or restore it from there.
    ConnSecMark(targets::connsecmark::ConnSecMark),
    /// To a program, which cannot be there: past this table, or the end.
    Queue {
        /// Past this table.
        bypass: bool,
    },
}

/// The tables, in the order of their priority at a hook.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Table {
    /// Before conntrack.
    Raw,
    /// Packet alteration.
    Mangle,
    /// First packets of flows only.
    Nat,
    /// Filtering.
    Filter,
    /// Security labels.
    Security,
}

/// The five hooks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Hook {
    /// All that comes in.
    Prerouting,
    /// To this host.
    Input,
    /// To another host.
    Forward,
    /// From this host.
    Output,
    /// All that goes out.
    Postrouting,
}

impl Hook {
    /// All hooks, in the order of the kernel's numbers.
    pub const ALL: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The name of the built-in chain at this hook.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        }
    }

    /// A bit for masks of hooks.
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Table {
    /// All tables, in the order of [`Table`].
    pub const ALL: [Table; 5] = [Table::Raw, Table::Mangle, Table::Nat, Table::Filter, Table::Security];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Raw => "raw",
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Security => "security",
        }
    }

    /// The hooks at which the table has a built-in chain, in hook order.
    pub const fn hooks(self) -> &'static [Hook] {
        use Hook::*;
        match self {
            Table::Raw => &[Prerouting, Output],
            Table::Mangle => &[Prerouting, Input, Forward, Output, Postrouting],
            Table::Nat => &[Prerouting, Input, Output, Postrouting],
            Table::Filter | Table::Security => &[Input, Forward, Output],
        }
    }
}

/// A chain's policy: what happens to packets that reach its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Policy {
    /// The next table sees the packet.
    #[default]
    Accept,
    /// The packet ends here.
    Drop,
}

/// Families that a rule, match or target can serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Families {
    /// Either.
    Both,
    /// One only.
    Only(Family),
}

impl Families {
    /// Whether `family` is among them.
    pub fn has(self, family: Family) -> bool {
        match self {
            Families::Both => true,
            Families::Only(f) => f == family,
        }
    }
}
