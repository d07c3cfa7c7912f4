//! How matches and targets say what can be written: extensions, their options, and what was given for them.
//!
//! An [`Extension`] is the description that each match or target file exports beside its struct. Whatever form a rule was
//! written in (iptables text or TOML fields), the parser first sorts its words into [`Given`] options, then calls the
//! extension's `build`. So a file never sees a tokenizer, and both forms accept the same things.

use super::{Cond, Families, Hook, Table, Target};
use crate::facts::Family;
use crate::model::Names;
use std::ops::Range;

/// What one match or target offers.
pub struct Extension<T: 'static> {
    /// As in `-m NAME` or `-j NAME`.
    pub name: &'static str,
    /// Other names that load it (`-m state` has none; `-m icmpv6` is `icmp6`).
    pub aliases: &'static [&'static str],
    /// Families that have it.
    pub families: Families,
    /// The protocol that must be given with `-p` before it (`tcp` of `-m tcp`), if any.
    pub protocol: Option<u8>,
    /// Tables that allow it; empty is all.
    pub tables: &'static [Table],
    /// Hooks that allow it, bits of [`Hook::bit`].
    pub hooks: u8,
    /// Its options, in canonical (iptables-save) order.
    pub options: &'static [Opt],
    /// Checks what was given and makes of it what the rule needs.
    pub build: fn(&Given) -> Result<T, Complaint>,
    /// One line for people: what it is for.
    pub summary: &'static str,
    /// A rule as a TOML inline table that shows it.
    pub example: &'static str,
    /// The specification in cases; the registry test runs them all.
    pub cases: &'static [Case],
}

/// A match: its conditions, in canonical order.
pub type MatchExtension = Extension<Vec<Cond>>;
/// A target.
pub type TargetExtension = Extension<Target>;

/// All five hooks.
pub const ANY_HOOK: u8 = 0b11111;

/// One option of an extension.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Without the dashes: `dport`.
    pub name: &'static str,
    /// Other spellings: `destination-port`.
    pub aliases: &'static [&'static str],
    /// Words it takes.
    pub values: Values,
    /// `!` may stand before it.
    pub negatable: bool,
    /// It may be given several times (`--next` of policy); its extension says how often.
    pub repeats: bool,
    /// What its words are, for people: `PORT[:PORT]`. Empty for a flag.
    pub value: &'static str,
    /// What it asks or does, for people.
    pub about: &'static str,
}

impl Opt {
    /// An option of one word that `!` may negate.
    pub const fn negatable(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { name, aliases, values: Values::One, negatable: true, repeats: false, value: "", about: "" }
    }

    /// An option of one word that cannot be negated.
    pub const fn plain(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { name, aliases, values: Values::One, negatable: false, repeats: false, value: "", about: "" }
    }

    /// An option without a word.
    pub const fn flag(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { name, aliases, values: Values::None, negatable: false, repeats: false, value: "", about: "" }
    }

    /// An option without a word that `!` may negate.
    pub const fn negatable_flag(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { negatable: true, ..Opt::flag(name, aliases) }
    }

    /// An option of two words that cannot be negated.
    pub const fn pair(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { values: Values::Two, ..Opt::plain(name, aliases) }
    }

    /// An option of two words that `!` may negate.
    pub const fn negatable_pair(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { values: Values::Two, ..Opt::negatable(name, aliases) }
    }

    /// The same option, to be given as often as wanted.
    pub const fn repeated(self) -> Opt {
        Opt { repeats: true, ..self }
    }

    /// An option with or without a word.
    pub const fn optional(name: &'static str, aliases: &'static [&'static str]) -> Opt {
        Opt { values: Values::Optional, ..Opt::plain(name, aliases) }
    }

    /// With what the reference says of it: its words (`PORT[:PORT]`, empty for a flag) and its meaning.
    pub const fn about(self, value: &'static str, about: &'static str) -> Opt {
        Opt { value, about, ..self }
    }
}

/// How many words an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// None.
    None,
    /// One, or none: the next word, unless that is an option or a `!`.
    Optional,
    /// One.
    One,
    /// Two (`--tcp-flags MASK COMP`).
    Two,
}

/// A word of the rule and where it stands, in bytes of the text it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// Without quotes.
    pub text: String,
    /// Its place, quotes included.
    pub at: Range<usize>,
}

/// An option as it was given.
#[derive(Clone, Debug)]
pub struct GivenOption {
    /// Index in [`Extension::options`].
    pub option: usize,
    /// A `!` stood before it.
    pub negate: bool,
    /// The option itself as written.
    pub word: Word,
    /// Its words.
    pub values: Vec<Word>,
}

/// What was given for one extension, and around it.
pub struct Given<'a> {
    /// The family the rule is compiled for.
    pub family: Family,
    /// The table and the hooks from which its chain can be reached (bits).
    pub table: Table,
    /// Hook bits.
    pub hooks: u8,
    /// Protocol of `-p` and whether it was negated.
    pub protocol: Option<(u8, bool)>,
    /// The name of the extension as written.
    pub word: &'a Word,
    /// The options in the order written.
    pub options: &'a [GivenOption],
    /// Names of the ports, for matches that name interfaces.
    pub ports: &'a [String],
    /// Names that other sections of the file define.
    pub names: Names<'a>,
}

impl Given<'_> {
    /// The option of that index, where given.
    pub fn get(&self, option: usize) -> Option<&GivenOption> {
        self.options.iter().find(|o| o.option == option)
    }

    /// The first word of the option of that index, where given.
    pub fn value(&self, option: usize) -> Option<&Word> {
        self.get(option).and_then(|o| o.values.first())
    }

    /// The first word of an option that must be given.
    ///
    /// # Errors
    /// It is not; the complaint names it.
    pub fn required(&self, option: usize, name: &str) -> Result<&Word, Complaint> {
        self.value(option).ok_or_else(|| self.lacks(name))
    }

    /// A complaint that an option is missing.
    pub fn lacks(&self, name: &str) -> Complaint {
        self.word.complain(format!("{} needs --{name}", self.word.text), format!("--{name} in the rule"))
    }

    /// A complaint about the extension as a whole.
    pub fn complain(&self, what: impl Into<String>) -> Complaint {
        Complaint { at: self.word.at.clone(), what: what.into(), accepts: None }
    }
}

/// What is wrong with a word, and what would be accepted in its place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Complaint {
    /// Bytes of the text.
    pub at: Range<usize>,
    /// What was found and why it cannot stand.
    pub what: String,
    /// What would be accepted.
    pub accepts: Option<String>,
}

impl Word {
    /// A complaint about this word.
    pub fn complain(&self, what: impl Into<String>, accepts: impl Into<String>) -> Complaint {
        Complaint { at: self.at.clone(), what: what.into(), accepts: Some(accepts.into()) }
    }
}

/// A line of an extension's case table.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// This text (without `-A CHAIN`) is accepted for the family and printed back as the second, canonical text
    /// (`=` where it is the same).
    Prints(Family, &'static str, &'static str),
    /// This text is refused, with these words in the complaint.
    Refused(Family, &'static str, &'static str),
}

/// Which hooks a table's user chain may be reached from: all of the table's.
pub fn table_hooks(table: Table) -> u8 {
    table.hooks().iter().fold(0, |bits, hook: &Hook| bits | hook.bit())
}
