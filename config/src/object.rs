//! Objects: memory that rules share by name and that outlives the ruleset they stand in.
//!
//! A match or target whose state is its own has a cell. Where several rules name one thing (the list `ssh` of `recent`,
//! the table of a `hashlimit`), each of them declares the [`Object`] that it means: its kind and what it asks of it, its
//! name, and its family where the kernel keeps families apart. [`crate::link`] gives equal names one number, the index in
//! [`Ruleset::objects`](crate::ruleset::Ruleset::objects), and writes it into the rules; it complains where two rules ask for what one object cannot be. The
//! dataplane makes the state when a ruleset is published, or takes over what the ruleset before has under that name, and
//! frees it when no ruleset has it any more.
//!
//! # A new kind
//! 1. A struct of what its state must be like (sizes, intervals), beside its match or target, with [`Shared`].
//! 2. A line in the list of [`Kind`] below.
//! 3. `objects` and `set_objects` of the match's [`Condition`](crate::rule::matches::Condition) or the target's
//!    [`Action`](crate::rule::targets::Action): the object with its number, and a place for the number.
//! 4. Its state in `dataplane/src/engine/objects`: a file and a line in the list there.
//! 5. A method of [`Surroundings`](crate::facts::Surroundings) that asks the state by its number, for the match to call.
//!
//! Two options of one rule can name two objects: `objects` lists both, in an order that `set_objects` keeps.

use crate::facts::Family;
use crate::rule::Rule;
use crate::rule::option::{Complaint, Word};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::{HashMap, HashSet};

/// A thing that rules share.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Object {
    /// What rules call it.
    pub name: String,
    /// The family whose rules share it; none where both do.
    pub family: Option<Family>,
    /// What it is, and how it has to be.
    pub kind: Kind,
}

/// What each kind of object says of how it has to be.
pub trait Shared: Sized {
    /// Takes up what another rule asks of the same object; or says why it cannot be both. Asked in the order of the
    /// rules, and the same for what has been taken up already: that changes nothing.
    fn join(&mut self, other: &Self) -> Result<(), String>;

    /// Whether the state that was made like `before` serves as it is: else a new one begins empty.
    fn goes_on_from(&self, before: &Self) -> bool;

    /// Whether a value decoded from untrusted bytes is one that the linker could have made.
    fn verify(&self) -> Result<(), String>;

    /// Bytes that its state takes, at most.
    fn memory(&self) -> u64;

    /// What no rule has said of it and some rule has to.
    fn lacks(&self) -> Option<&'static str> {
        None
    }
}

/// Lists the kinds: a new one is a line here.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($type:path) = $name:literal,)*) => {
        /// What an object is, and how it has to be.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $kind($type),)*
        }

        impl Kind {
            /// What people call it: objects of different kinds may have one name.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Kind::$kind(_) => $name,)*
                }
            }

            /// How it has to be, where it is of that kind.
            pub fn get<T: 'static>(&self) -> Option<&T> {
                let own: &dyn Any = match self {
                    $(Kind::$kind(own) => own,)*
                };
                own.downcast_ref()
            }

            /// See [`Shared::join`].
            pub fn join(&mut self, other: &Kind) -> Result<(), String> {
                let kinds = || format!("a {} is none", other.name());
                match self {
                    $(Kind::$kind(own) => own.join(other.get().ok_or_else(kinds)?),)*
                }
            }

            /// See [`Shared::goes_on_from`].
            pub fn goes_on_from(&self, before: &Kind) -> bool {
                match self {
                    $(Kind::$kind(own) => before.get().is_some_and(|before| own.goes_on_from(before)),)*
                }
            }

            fn verify(&self) -> Result<(), String> {
                match self {
                    $(Kind::$kind(own) => own.verify(),)*
                }
            }

            /// See [`Shared::lacks`].
            pub fn lacks(&self) -> Option<&'static str> {
                match self {
                    $(Kind::$kind(own) => own.lacks(),)*
                }
            }

            /// See [`Shared::memory`].
            pub fn memory(&self) -> u64 {
                match self {
                    $(Kind::$kind(own) => own.memory(),)*
                }
            }
        }
    };
}

kinds! {
    /// A list of addresses that were seen.
    Recent(crate::rule::matches::recent::List) = "list of recent",
    /// How much there was of each kind of packet.
    Hashlimit(crate::rule::matches::hashlimit::Table) = "table of hashlimit",
    /// An estimator of rates.
    Estimator(crate::rule::targets::rateest::Estimator) = "estimator",
    /// A timer of IDLETIMER.
    Timer(crate::rule::targets::idletimer::Timer) = "timer",
    /// What rules of `nfacct` count together.
    Account(crate::rule::matches::nfacct::Limits) = "account",
}

/// Most bytes of a name.
pub const MAX_NAME: usize = 255;
/// Most objects of a ruleset.
pub const MAX_OBJECTS: usize = 1 << 12;
/// Most bytes that the objects of a ruleset take together.
pub const MAX_MEMORY: u64 = 1 << 30;

/// What makes two declarations one object.
pub type Key = (&'static str, Option<Family>, String);

impl Object {
    /// See [`Key`].
    pub fn key(&self) -> Key {
        (self.kind.name(), self.family, self.name.clone())
    }

    /// Whether both are one object, whatever they ask of it.
    pub fn is(&self, other: &Object) -> bool {
        self.kind.name() == other.kind.name() && self.family == other.family && self.name == other.name
    }

    /// For complaints: `the list of recent ssh`.
    fn describe(&self) -> String {
        format!("the {} {}", self.kind.name(), self.name)
    }
}

/// `list of recent ssh`, `ipv4 table of hashlimit flood`
impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let family = self.family.map_or_else(String::new, |family| format!("{} ", family.name()));
        write!(f, "{family}{} {}", self.kind.name(), self.name)
    }
}

/// The objects of a ruleset while it is put together.
#[derive(Default)]
pub struct Objects {
    declared: Vec<Object>,
    numbers: HashMap<Key, u32>,
}

impl Objects {
    /// Gives the objects of a rule their numbers; or says what of them cannot be.
    pub fn link(&mut self, rule: &mut Rule) -> Result<(), String> {
        for cond in &mut rule.conds {
            let numbers = self.number(cond.test.objects())?;
            cond.test.set_objects(&numbers);
        }
        if let Some(target) = &mut rule.target {
            let numbers = self.number(target.objects())?;
            target.set_objects(&numbers);
        }
        Ok(())
    }

    fn number(&mut self, declared: Vec<(Object, u32)>) -> Result<Vec<u32>, String> {
        declared.into_iter().map(|(object, _)| self.declare(object)).collect()
    }

    /// Adds an object, or joins it with the one of its name; its number.
    pub fn declare(&mut self, object: Object) -> Result<u32, String> {
        let next = self.declared.len() as u32;
        let number = *self.numbers.entry(object.key()).or_insert(next);
        match self.declared.get_mut(number as usize) {
            Some(known) => {
                let joined = known.kind.join(&object.kind);
                joined.map_err(|why| format!("{} cannot be shared: {why}", object.describe()))?;
            }
            None => self.declared.push(object),
        }
        Ok(number)
    }

    /// What some object lacks, by what the objects of a rule are.
    pub fn lacks(&self, rule: &Rule) -> Option<String> {
        let conds = rule.conds.iter().flat_map(|cond| cond.test.objects());
        let mut all = conds.chain(rule.target.iter().flat_map(|target| target.objects()));
        all.find_map(|(object, _)| {
            let known = self.declared.get(*self.numbers.get(&object.key())? as usize)?;
            known.kind.lacks().map(|what| format!("{}: {what}", known.describe()))
        })
    }

    /// All of them, by number.
    pub fn into_vec(self) -> Vec<Object> {
        self.declared
    }
}

/// Whether objects of whatever origin are ones that the dataplane can make: values in range, each name once, and their
/// memory within its bounds.
pub fn verify(objects: &[Object]) -> Result<(), String> {
    if objects.len() > MAX_OBJECTS {
        return Err(format!("{} named objects are more than {MAX_OBJECTS}", objects.len()));
    }
    let mut seen = HashSet::new();
    let mut memory = 0u64;
    for object in objects {
        if object.name.is_empty() || object.name.len() > MAX_NAME {
            return Err(format!("a {} whose name has {} bytes", object.kind.name(), object.name.len()));
        }
        if !seen.insert(object.key()) {
            return Err(format!("{} is there twice", object.describe()));
        }
        object.kind.verify().map_err(|why| format!("{}: {why}", object.describe()))?;
        memory = memory.saturating_add(object.kind.memory());
    }
    if memory > MAX_MEMORY {
        return Err(format!(
            "lists, tables and other named objects take {} MB together: {} MB can be",
            memory >> 20,
            MAX_MEMORY >> 20
        ));
    }
    Ok(())
}

/// Whether an object can have this name, as a file under `/proc` could (`xt_check_proc_name`) and as iptables-save can
/// print it: it does not quote names.
pub fn is_name(name: &str, most: usize) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '"' | '\'' | '\\');
    !name.is_empty() && name.len() <= most && name != "." && name != ".." && !name.contains(odd)
}

/// The name of an object.
pub fn read_name(word: &Word, most: usize) -> Result<String, Complaint> {
    if is_name(&word.text, most) {
        return Ok(word.text.clone());
    }
    Err(word.complain(
        format!("`{}` is not a name", word.text.escape_debug()),
        format!("up to {most} bytes without blanks, quotes, backslashes and slashes"),
    ))
}

/// Whether what a rule declares is in the list under the number that it has, and asks for nothing that the linker has not
/// taken up.
pub(crate) fn verify_declared(declared: &[(Object, u32)], objects: &[Object]) -> Result<(), String> {
    for (object, number) in declared {
        let Some(known) = objects.get(*number as usize).filter(|known| known.is(object)) else {
            return Err(format!("{} is not object {number}", object.describe()));
        };
        let mut joined = known.kind.clone();
        if joined.join(&object.kind).is_err() || joined != known.kind {
            return Err(format!("{} is not as a rule wants it", object.describe()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::matches::recent::List;

    fn list(name: &str, packets: u32) -> Object {
        let list = List { addresses: 100, packets, mask: u128::MAX };
        Object { name: name.into(), family: None, kind: Kind::Recent(list) }
    }

    #[test]
    fn equal_names_are_one_object_that_takes_up_what_all_ask_of_it() {
        let mut objects = Objects::default();
        let numbers = [list("a", 4), list("b", 8), list("a", 64), list("a", 2)].map(|object| objects.declare(object));
        assert_eq!(numbers, [Ok(0), Ok(1), Ok(0), Ok(0)]);
        assert_eq!(objects.into_vec(), [list("a", 64), list("b", 8)]);
    }

    #[test]
    fn families_are_apart_where_an_object_has_one() {
        let mut objects = Objects::default();
        let of = |family| Object { family, ..list("a", 4) };
        let numbers = [Some(Family::V4), Some(Family::V6), None, Some(Family::V6)].map(|f| objects.declare(of(f)));
        assert_eq!(numbers, [Ok(0), Ok(1), Ok(2), Ok(1)]);
    }

    #[test]
    fn objects_of_an_enemy_are_refused() {
        for (objects, words) in [
            (vec![list("", 4)], "has 0 bytes"),
            (vec![list(&"x".repeat(256), 4)], "has 256 bytes"),
            (vec![list("a", 4), list("b", 4), list("a", 8)], "list of recent a is there twice"),
            (vec![list("a", 3)], "3 packets for each address"),
            (vec![list("a", 1 << 17)], "131072 packets"),
            (vec![list("a", 4); MAX_OBJECTS + 1], "4097 named objects"),
            ((0..30).map(|i| list(&i.to_string(), 1 << 16)).collect(), "take 1500 MB together: 1024 MB can be"),
        ] {
            let why = verify(&objects).expect_err(words);
            assert!(why.contains(words), "{words}: {why}");
        }
        assert_eq!(verify(&[list("a", 1), list("b", 1 << 16)]), Ok(()));
    }

    #[test]
    fn a_rule_has_the_object_that_it_declares() {
        let objects = [list("a", 4), list("b", 8)];
        for (declared, words) in [
            ((list("a", 4), 0), ""),
            ((list("b", 2), 1), ""),
            ((list("b", 16), 1), "not as a rule wants it"),
            ((list("a", 4), 1), "a is not object 1"),
            ((list("a", 4), 2), "a is not object 2"),
            ((Object { family: Some(Family::V4), ..list("a", 4) }, 0), "a is not object 0"),
        ] {
            let verdict = verify_declared(&[declared], &objects);
            assert_eq!(verdict.is_ok(), words.is_empty(), "{words}");
            assert!(verdict.err().unwrap_or_default().contains(words), "{words}");
        }
    }

    #[test]
    fn names_are_those_that_proc_can_have_and_iptables_save_can_print() {
        for (name, fits) in [
            ("DEFAULT", true),
            ("a..b", true),
            ("é", true),
            ("12345678", true),
            ("123456789", false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("a\tb", false),
            ("a\"b", false),
            ("a\\b", false),
        ] {
            assert_eq!(is_name(name, 8), fits, "{name:?}");
        }
    }
}
