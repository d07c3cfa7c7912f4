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
use crate::protocol::{ObjectRequest, RecentRequest};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use sumun_config::facts::{self, Family};
use sumun_config::object::{Kind, Object};

pub mod account;
pub mod estimator;
pub mod hashlimit;
pub mod recent;
pub mod timer;

/// Times of a list of `recent` and entries of a table of `hashlimit` that are told at most: lines of more would take the
/// memory of the machine that routes.
const MOST_TIMES: usize = 1 << 22;
const MOST_ENTRIES: usize = 1 << 20;

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
    /// An estimator of RATEEST.
    Estimator(estimator::Estimator) estimator,
    /// A timer of IDLETIMER.
    Timer(timer::Timer) timer,
    /// An account of `nfacct`.
    Account(account::Account) account,
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

    /// What an operator asks of them: lines for people, or why there are none.
    pub fn answer(&self, ask: &ObjectRequest, now: u64) -> Result<Vec<String>, String> {
        match ask {
            ObjectRequest::Recent { name, what } => {
                let list = self.named(name, None, "list of recent", |number| self.recent(number))?;
                match what {
                    RecentRequest::List => {
                        let rows = list.rows(MOST_TIMES);
                        let rows =
                            rows.ok_or_else(|| format!("more than {MOST_TIMES} times are too many to be told"))?;
                        return Ok(rows.iter().map(recent::Row::to_string).collect());
                    }
                    RecentRequest::Flush => drop(list.flush()),
                    RecentRequest::Add(address) => {
                        let (family, addr) = facts::number(*address);
                        list.put(family, addr, now);
                    }
                    RecentRequest::Remove(address) => {
                        let (family, addr) = facts::number(*address);
                        if !list.forget(family, addr) {
                            return Err(format!("the list of recent {name} does not have {address}"));
                        }
                    }
                }
                Ok(Vec::new())
            }
            ObjectRequest::Hashlimit { name, family } => {
                let table = self.named(name, Some(*family), "table of hashlimit", |number| self.hashlimit(number))?;
                let rows = table.rows(now, MOST_ENTRIES);
                let rows = rows.ok_or_else(|| format!("more than {MOST_ENTRIES} entries are too many to be told"))?;
                Ok(rows.iter().map(|row| row.line(*family)).collect())
            }
            ObjectRequest::Names => Ok(self.held.iter().map(|held| held.object.to_string()).collect()),
        }
    }

    /// The timers and their names.
    pub fn timers(&self) -> impl Iterator<Item = (&str, &timer::Timer)> {
        self.held.iter().filter_map(|held| match &held.state {
            State::Timer(timer) => Some((held.object.name.as_str(), timer)),
            _ => None,
        })
    }

    /// The state of a name.
    fn named<'a, T>(
        &'a self,
        name: &str,
        family: Option<Family>,
        what: &str,
        state: impl Fn(u32) -> Option<&'a T>,
    ) -> Result<&'a T, String> {
        let is_it = |held: &Held| held.object.name == name && held.object.family == family;
        let numbers = self.held.iter().zip(0..).filter(|(held, _)| is_it(held)).map(|(_, number)| number);
        let found = numbers.filter_map(state).next();
        let of = family.map_or_else(String::new, |family| format!(" of {}", family.name()));
        found.ok_or_else(|| format!("no rule{of} has the {what} `{name}`"))
    }
}

/// An address with all its digits, as the kernel's `%pI4` and `%pI6` print it.
fn in_full(family: Family, addr: u128) -> String {
    match family.address(addr) {
        IpAddr::V4(addr) => addr.to_string(),
        IpAddr::V6(addr) => addr.segments().map(|part| format!("{part:04x}")).join(":"),
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
    fn an_operator_reads_and_changes_lists_by_their_names() {
        let objects = Objects::none(1).next(&[list("a", 2), list("b", 2)]);
        let ask = |name: &str, what| objects.answer(&ObjectRequest::Recent { name: name.into(), what }, 4_000_000_000);
        let address = "10.0.0.1".parse().expect("an address");
        assert_eq!(ask("a", RecentRequest::Add(address)), Ok(Vec::new()));
        let line = "src=10.0.0.1 ttl: 0 last_seen: 1000 oldest_pkt: 1 1000";
        assert_eq!(ask("a", RecentRequest::List), Ok(vec![line.to_string()]));
        assert_eq!(ask("b", RecentRequest::List), Ok(Vec::new()));
        assert!(ask("b", RecentRequest::Remove(address)).unwrap_err().contains("does not have"));
        assert_eq!(ask("a", RecentRequest::Remove(address)), Ok(Vec::new()));
        assert_eq!(ask("a", RecentRequest::Flush), Ok(Vec::new()));
        assert_eq!(ask("c", RecentRequest::List), Err("no rule has the list of recent `c`".into()));
        let hashlimit = ObjectRequest::Hashlimit { name: "a".into(), family: Family::V6 };
        assert_eq!(objects.answer(&hashlimit, 0), Err("no rule of ipv6 has the table of hashlimit `a`".into()));
        let names = ["list of recent a", "list of recent b"].map(String::from).to_vec();
        assert_eq!(objects.answer(&ObjectRequest::Names, 0), Ok(names));
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
        assert!(third.held.is_empty());
    }
}
