//! The state of named objects ([`sumun_config::object`]): made with the ruleset that first has them, handed on to the next
//! that has them too, gone with the last.
//!
//! A rule asks by the object's number, which is an index into the list of its own generation; several generations may
//! hold the same state while workers step from one to the next. Memory is what [`Shared::memory`] said beforehand, taken
//! here and nowhere else. Workers share a state without waiting for each other on their common way: what they only read is in
//! atomics, what they change is in parts that are each taken for a moment ([`Turn`]).
//!
//! A new kind is a file here and a line in the list of [`State`].
//!
//! [`Shared::memory`]: sumun_config::object::Shared::memory

use crate::conntrack::tuple::Hasher;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use sumun_config::object::{Kind, Object};

pub mod hashlimit;
pub mod recent;

/// Lists the states by the kinds that they are of, with the name of the question for them.
macro_rules! states {
    ($($(#[$doc:meta])* $kind:ident($type:path) $ask:ident,)*) => {
        enum State {
            $($(#[$doc])* $kind($type),)*
        }

        impl State {
            fn new(kind: &Kind, hasher: Hasher) -> State {
                match kind {
                    $(Kind::$kind(like) => State::$kind(<$type>::new(like, hasher)),)*
                }
            }
        }

        impl Objects {
            $(
                $(#[$doc])*
                /// By its number; none where that number is something else.
                #[inline]
                pub fn $ask(&self, number: u32) -> Option<&$type> {
                    match &self.held.get(number as usize)?.state {
                        State::$kind(state) => Some(state),
                        _ => None,
                    }
                }
            )*
        }
    };
}

states! {
    /// A list of `recent`.
    Recent(recent::List) recent,
    /// A table of `hashlimit`.
    Hashlimit(hashlimit::Table) hashlimit,
}

/// The objects of a generation, by number.
pub struct Objects {
    held: Vec<Arc<Held>>,
    seed: u64,
}

/// An object and its state.
struct Held {
    /// As the state was made.
    object: Object,
    state: State,
}

impl Objects {
    /// None. The seed makes it unforeseeable what meets what in hash tables.
    pub fn none(seed: u64) -> Objects {
        Objects { held: Vec::new(), seed }
    }

    /// Those of the next ruleset: what goes on is shared with these, the rest is new and empty. They are verified.
    pub fn next(&self, declared: &[Object]) -> Objects {
        let known: HashMap<_, _> = self.held.iter().map(|held| (held.object.key(), held)).collect();
        let held = declared.iter().map(|object| match known.get(&object.key()) {
            Some(held) if object.kind.goes_on_from(&held.object.kind) => Arc::clone(held),
            _ => Arc::new(Held { object: object.clone(), state: State::new(&object.kind, Hasher::new(self.seed)) }),
        });
        Objects { held: held.collect(), seed: self.seed }
    }

    /// A slice of what is to be done with time, for one of them; the next one's the next time.
    pub fn tick(&self, turn: usize, now: u64) {
        let at = turn.checked_rem(self.held.len()).unwrap_or(0);
        if let Some(State::Hashlimit(table)) = self.held.get(at).map(|held| &held.state) {
            table.sweep(now);
        }
    }

    /// The number of an object.
    pub fn find(&self, is: impl Fn(&Object) -> bool) -> Option<u32> {
        self.held.iter().position(|held| is(&held.object)).map(|number| number as u32)
    }

    /// All objects, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.held.iter().map(|held| &held.object)
    }
}

/// Something that one worker at a time changes, for some tens of nanoseconds: who comes meanwhile spins. Nobody sleeps
/// while it is taken, and no call of the system is made for it.
pub(super) struct Turn<T>(Mutex<T>);

impl<T> Turn<T> {
    pub(super) fn new(part: T) -> Turn<T> {
        Turn(Mutex::new(part))
    }

    /// Takes it until the guard is dropped.
    #[inline]
    pub(super) fn take(&self) -> MutexGuard<'_, T> {
        let mut spins = 0u32;
        loop {
            match self.0.try_lock() {
                Ok(part) => return part,
                // Every change leaves it whole: there is nothing in between at which a worker could panic.
                Err(TryLockError::Poisoned(part)) => return part.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    spins = spins.wrapping_add(1);
                    crate::sync::wait(spins);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_config::rule::matches::recent::List;

    fn list(name: &str, packets: u32) -> Object {
        let list = List { addresses: 4, packets, mask: u128::MAX };
        Object { name: name.into(), family: None, kind: Kind::Recent(list) }
    }

    fn is_same(a: &Objects, b: &Objects, number: [u32; 2]) -> bool {
        let [a, b] = [a.recent(number[0]), b.recent(number[1])].map(|list| list.expect("a list"));
        std::ptr::eq(a, b)
    }

    #[test]
    fn what_has_the_same_name_goes_on_and_what_must_be_another_begins_anew() {
        let first = Objects::none(1).next(&[list("a", 32), list("b", 32)]);
        assert!(!is_same(&first, &first, [0, 1]));
        let second = first.next(&[list("b", 4), list("a", 64)]);
        assert!(is_same(&first, &second, [1, 0]), "it remembers more than enough");
        assert!(!is_same(&first, &second, [0, 1]), "it remembers too little");
        let third = second.next(&[list("b", 32)]);
        assert!(is_same(&first, &third, [1, 0]), "it is still as it was made");
        assert!(third.recent(1).is_none());
        let fourth = third.next(&[list("a", 64)]);
        assert!(!is_same(&second, &fourth, [1, 0]), "nobody had it in between");
    }

    #[test]
    fn a_state_is_freed_with_the_last_generation_that_has_it() {
        let first = Objects::none(1).next(&[list("a", 32)]);
        let watched = Arc::downgrade(&first.held[0]);
        let second = first.next(&[list("a", 32)]);
        drop(first);
        assert!(watched.upgrade().is_some());
        let third = second.next(&[]);
        drop(second);
        assert!(watched.upgrade().is_none());
        assert_eq!(third.iter().count(), 0);
    }
}
