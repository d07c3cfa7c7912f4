//! A rule whose words are sorted but not yet understood: which option belongs to which match or to the target.
//!
//! Both forms of a rule (iptables text, TOML fields) end here; [`super::build`] makes conditions and a target of it.

use super::option::{Complaint, Extension, GivenOption, MatchExtension, Opt, TargetExtension, Word};
use super::targets::absent;
use super::word::{either, nearest};
use super::{core, matches, targets};
use crate::facts::{Family, proto};
use std::ops::Range;

/// A rule for one family with its words sorted.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// The family it is read for.
    pub family: Family,
    /// Core options, by index in [`core::OPTIONS`].
    pub core: Vec<GivenOption>,
    /// Matches in the order loaded.
    pub matches: Vec<Loaded<Vec<super::Cond>>>,
    /// Target or jump.
    pub aim: Option<Aim>,
}

/// What a rule does.
#[derive(Clone, Debug)]
pub(crate) enum Aim {
    /// `-j TARGET`
    Target(Loaded<super::Target>),
    /// `-j CHAIN`, `-g CHAIN`
    Chain(JumpTo),
}

impl Aim {
    /// The name of the target or chain.
    pub fn word(&self) -> &Word {
        match self {
            Aim::Target(target) => &target.word,
            Aim::Chain(to) => &to.chain,
        }
    }
}

/// A jump to a chain by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JumpTo {
    /// The chain's name as written.
    pub chain: Word,
    /// `-g`: without coming back.
    pub goto: bool,
}

/// A match or target named by a rule, with its options.
pub(crate) struct Loaded<T: 'static> {
    /// Which.
    pub extension: &'static Extension<T>,
    /// Its name as written, or the option that loaded it.
    pub word: Word,
    /// Its options as given.
    pub options: Vec<GivenOption>,
}

impl<T> std::fmt::Debug for Loaded<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {:?}", self.extension.name, self.options)
    }
}

impl<T> Clone for Loaded<T> {
    fn clone(&self) -> Self {
        Loaded { extension: self.extension, word: self.word.clone(), options: self.options.clone() }
    }
}

impl<T> Loaded<T> {
    /// Just named.
    pub fn new(extension: &'static Extension<T>, word: Word) -> Self {
        Loaded { extension, word, options: Vec::new() }
    }
}

/// Why a rule could not be sorted for a family.
pub(crate) enum Unfit {
    /// It says itself that it is for the other family.
    Declined(Complaint),
    /// Mistakes.
    Wrong(Vec<Complaint>),
}

/// Who owns an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The rule itself.
    Core,
    /// A loaded match, by index.
    Match(usize),
    /// The target.
    Target,
}

impl Draft {
    /// Nothing written yet.
    pub fn new(family: Family) -> Draft {
        Draft { family, core: Vec::new(), matches: Vec::new(), aim: None }
    }

    /// The options of an owner.
    pub fn options(&self, owner: Owner) -> &'static [Opt] {
        match owner {
            Owner::Core => &core::OPTIONS,
            Owner::Match(i) => self.matches[i].extension.options,
            Owner::Target => match &self.aim {
                Some(Aim::Target(target)) => target.extension.options,
                _ => &[],
            },
        }
    }

    /// Notes an option as given.
    pub fn give(&mut self, owner: Owner, option: GivenOption) {
        match owner {
            Owner::Core => self.core.push(option),
            Owner::Match(i) => self.matches[i].options.push(option),
            Owner::Target => {
                if let Some(Aim::Target(target)) = &mut self.aim {
                    target.options.push(option);
                }
            }
        }
    }

    /// The match that `-p` makes available without `-m`, where it is not loaded yet.
    pub fn protocol_match(&self) -> Option<&'static MatchExtension> {
        let (number, negated) = core::protocol(&self.core)?;
        let extension = own_match(self.family, number).filter(|_| !negated)?;
        (!self.matches.iter().any(|m| std::ptr::eq(m.extension, extension))).then_some(extension)
    }
}

/// The index of the option of that exact name.
pub(super) fn position(options: &[Opt], name: &str) -> Option<usize> {
    options.iter().position(|o| o.name == name || o.aliases.contains(&name))
}

/// The match of a protocol's own header.
pub(super) fn own_match(family: Family, protocol: u8) -> Option<&'static MatchExtension> {
    let name = match protocol {
        proto::ICMPV6 => "icmp6",
        number => matches::protocol::name(number)?,
    };
    find_match(family, name).filter(|m| m.protocol == Some(protocol))
}

fn is_named<T>(extension: &Extension<T>, name: &str) -> bool {
    extension.name == name || extension.aliases.contains(&name)
}

/// The match of that name that the family has.
pub(super) fn find_match(family: Family, name: &str) -> Option<&'static MatchExtension> {
    matches::EXTENSIONS.iter().copied().find(|m| m.families.has(family) && is_named(m, name))
}

/// The target of that name that the family has.
pub(super) fn find_target(family: Family, name: &str) -> Option<&'static TargetExtension> {
    targets::EXTENSIONS.iter().copied().find(|t| t.families.has(family) && is_named(t, name))
}

/// The family that is not this one.
fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// The target of that name, or a jump to the chain of that name.
pub(super) fn aim(family: Family, name: Word, goto: bool) -> Result<Aim, Complaint> {
    if let Some(absent) = absent::find(&name.text, absent::ABSENT).filter(|_| !goto) {
        return Err(name.complain(absent.refusal("target"), absent.instead));
    }
    match find_target(family, &name.text).filter(|_| !goto) {
        Some(extension) => Ok(Aim::Target(Loaded::new(extension, name))),
        None if !goto && find_target(other(family), &name.text).is_some() => {
            let known = targets::EXTENSIONS.iter().filter(|t| t.families.has(family)).map(|t| t.name);
            let what = format!("there is no target `{}` for {}", name.text, family.name());
            Err(Complaint { at: name.at.clone(), what, accepts: suggest(&name.text, known) })
        }
        None => Ok(Aim::Chain(JumpTo { chain: name, goto })),
    }
}

/// A complaint about the name of a match.
pub(super) fn unknown_match(name: &Word, family: Family) -> Complaint {
    if let Some(absent) = absent::find(&name.text, absent::MATCHES) {
        return name.complain(absent.refusal("match"), absent.instead);
    }
    let known = matches::EXTENSIONS.iter().filter(|m| m.families.has(family)).map(|m| m.name);
    let what = match find_match(other(family), &name.text).is_some() {
        true => format!("there is no match `{}` for {}", name.text, family.name()),
        false => format!("there is no match `{}`", name.text),
    };
    Complaint { at: name.at.clone(), what, accepts: suggest(&name.text, known) }
}

/// A complaint without a suggestion.
pub(super) fn complain(at: &Range<usize>, what: impl Into<String>) -> Complaint {
    Complaint { at: at.clone(), what: what.into(), accepts: None }
}

/// `did you mean ...?` where something near is known, else the list of all.
pub(crate) fn suggest<'a>(found: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    match nearest(found, known.clone()) {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None => {
            let all = either(known);
            (!all.is_empty()).then_some(all)
        }
    }
}
