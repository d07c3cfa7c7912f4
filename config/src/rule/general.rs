//! The options of iptables itself: what loads a match or names a target, what says which chain is meant, and what only
//! concerns the program. [`super::sort`] reads them in one pass with the options of rules, as getopt_long does.

use super::option::Word;
use crate::facts::Family;

/// What an option of iptables itself does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum General {
    /// `-m NAME`
    Match,
    /// `-j NAME`, `-g NAME`
    Jump { goto: bool },
    /// `-4`, `-6`
    Family(Family),
    /// `-c PACKETS BYTES`
    Counters,
    /// `-t TABLE`
    Table,
    /// `-A CHAIN` and the like
    Command(Verb),
    /// `-w [SECONDS]`, `-W [MICROSECONDS]`: says how to wait for the lock.
    Wait,
    /// `-v`, `-n`: says how to list.
    Listing,
    /// `-M PROGRAM`
    Modprobe,
    /// `-h`, `-V`: instead of a command.
    Help,
}

/// What a command does to a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    /// `-A CHAIN RULE`
    Append,
    /// `-C CHAIN RULE`
    Check,
    /// `-D CHAIN RULE`, `-D CHAIN NUMBER`
    Delete,
    /// `-I CHAIN [NUMBER] RULE`
    Insert,
    /// `-R CHAIN NUMBER RULE`
    Replace,
    /// `-L [CHAIN [NUMBER]]`, `-S [CHAIN [NUMBER]]`
    List,
    /// `-F [CHAIN]`
    Flush,
    /// `-Z [CHAIN [NUMBER]]`
    Zero,
    /// `-N CHAIN`
    New,
    /// `-X [CHAIN]`
    Remove,
    /// `-E OLD NEW`
    Rename,
    /// `-P CHAIN POLICY`
    Policy,
}

/// What stands behind a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Operands {
    /// A chain must be named; else it may.
    pub chain: bool,
    /// A second word.
    pub second: Second,
    /// A rule.
    pub rule: bool,
}

/// The second word behind a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Second {
    /// There is none.
    None,
    /// The number of a rule may stand there.
    MayNumber,
    /// The number of a rule must stand there.
    Number,
    /// A word must stand there; what it is, and what would be accepted.
    Word(&'static str, &'static str),
}

impl Verb {
    /// What stands behind it.
    pub(super) fn operands(self) -> Operands {
        let (chain, second, rule) = match self {
            Verb::Append | Verb::Check => (true, Second::None, true),
            Verb::Delete | Verb::Insert => (true, Second::MayNumber, true),
            Verb::Replace => (true, Second::Number, true),
            Verb::List | Verb::Zero => (false, Second::MayNumber, false),
            Verb::Flush | Verb::Remove => (false, Second::None, false),
            Verb::New => (true, Second::None, false),
            Verb::Rename => (true, Second::Word("a new name", "the new name behind the old one"), false),
            Verb::Policy => (true, Second::Word("a policy", "ACCEPT or DROP"), false),
        };
        Operands { chain, second, rule }
    }
}

/// A command as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    /// The option that gives it.
    pub word: Word,
    /// What it does.
    pub verb: Verb,
    /// The chain, where one is named.
    pub chain: Option<Word>,
    /// A number, a new name or a policy.
    pub second: Option<Word>,
}

/// An option of iptables itself.
pub(super) struct GeneralOption {
    /// Its long name.
    pub long: &'static str,
    /// Its letter.
    pub letter: Option<char>,
    /// What it does.
    pub does: General,
}

const fn both(long: &'static str, letter: char, does: General) -> GeneralOption {
    GeneralOption { long, letter: Some(letter), does }
}

/// All of them.
pub(super) static GENERAL: &[GeneralOption] = &[
    both("match", 'm', General::Match),
    both("jump", 'j', General::Jump { goto: false }),
    both("goto", 'g', General::Jump { goto: true }),
    both("ipv4", '4', General::Family(Family::V4)),
    both("ipv6", '6', General::Family(Family::V6)),
    both("set-counters", 'c', General::Counters),
    both("table", 't', General::Table),
    both("append", 'A', General::Command(Verb::Append)),
    both("check", 'C', General::Command(Verb::Check)),
    both("delete", 'D', General::Command(Verb::Delete)),
    both("insert", 'I', General::Command(Verb::Insert)),
    both("replace", 'R', General::Command(Verb::Replace)),
    both("list", 'L', General::Command(Verb::List)),
    both("list-rules", 'S', General::Command(Verb::List)),
    both("flush", 'F', General::Command(Verb::Flush)),
    both("zero", 'Z', General::Command(Verb::Zero)),
    both("new-chain", 'N', General::Command(Verb::New)),
    both("delete-chain", 'X', General::Command(Verb::Remove)),
    both("rename-chain", 'E', General::Command(Verb::Rename)),
    both("policy", 'P', General::Command(Verb::Policy)),
    both("wait", 'w', General::Wait),
    both("wait-interval", 'W', General::Wait),
    both("verbose", 'v', General::Listing),
    both("numeric", 'n', General::Listing),
    both("exact", 'x', General::Listing),
    GeneralOption { long: "line-numbers", letter: None, does: General::Listing },
    both("modprobe", 'M', General::Modprobe),
    both("help", 'h', General::Help),
    both("version", 'V', General::Help),
];
