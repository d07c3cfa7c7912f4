//! The tables of one family, writable, and what lookups see of them.
//!
//! A table is an ordered map of candidates: by prefix, and among equal prefixes by preference. A list of tables that are
//! asked one after the other is one [`Lpm`]; lists are kept from version to version and only what has changed in one of
//! their tables is built anew.
//!
//! What depends on a packet's TOS, and what a rule suppresses, is decided when a list is built: there is one for each old TOS that
//! routes of its tables are for, and one for each length of suppression.

use super::leads::{Answer, Leads};
use super::lpm::{Address, Entry, Lpm, Source};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use sumun_config::model::TOS_BITS;

/// Where a candidate stands in its table. The order of fields is the order of preference among equal prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Spot<A> {
    pub key: A,
    pub len: u8,
    /// Routes for a TOS come before those for all (`fib_find_alias`).
    pub tos: Reverse<u8>,
    pub metric: u32,
    /// Earlier ones win among equals.
    pub order: u32,
}

/// A route in its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// Of [`Leads`].
    pub lead: u32,
    pub protocol: u8,
}

impl<A> Spot<A> {
    /// The first place of a prefix.
    fn first(key: A, len: u8) -> Spot<A> {
        Spot { key, len, tos: Reverse(u8::MAX), metric: 0, order: 0 }
    }

    /// The [`class`] of its packets; 0 for all, and for none: no packet has an old TOS beyond [`TOS_BITS`].
    fn class(&self) -> usize {
        if self.tos.0 & !TOS_BITS == 0 { class(self.tos.0) } else { 0 }
    }

    /// The last place of a prefix.
    fn last(key: A, len: u8) -> Spot<A> {
        Spot { key, len, tos: Reverse(0), metric: u32::MAX, order: u32::MAX }
    }
}

/// Tables that are asked one after the other, as one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct List {
    pub tables: Vec<u32>,
    /// By packets of this old TOS.
    pub tos: u8,
    /// Routes with a prefix of this length or shorter do not count unless they refuse (`fib4_rule_suppress`).
    pub suppress: Option<u8>,
}

impl List {
    /// These tables, asked by packets without a TOS.
    pub fn of(tables: Vec<u32>) -> List {
        List { tables, tos: 0, suppress: None }
    }
}

/// A table.
pub(super) struct Routes<A> {
    pub spots: BTreeMap<Spot<A>, Held>,
    /// How many candidates there are of each length.
    lens: Vec<u32>,
    /// How many candidates there are for each old TOS.
    classes: [u32; CLASSES],
}

/// Values of the old TOS.
pub(super) const CLASSES: usize = 8;

/// The number of a packet's old TOS among its values (`fib_dscp_masked_match`).
#[inline]
pub(super) fn class(tos: u8) -> usize {
    usize::from((tos & TOS_BITS) >> 2)
}

impl<A: Address> Routes<A> {
    fn new() -> Routes<A> {
        Routes { spots: BTreeMap::new(), lens: vec![0; A::BITS as usize + 1], classes: [0; CLASSES] }
    }

    fn insert(&mut self, spot: Spot<A>, held: Held) -> Option<Held> {
        let before = self.spots.insert(spot, held);
        if before.is_none() {
            self.lens[spot.len as usize] += 1;
            self.classes[spot.class()] += 1;
        }
        before
    }

    fn remove(&mut self, spot: &Spot<A>) -> Option<Held> {
        let held = self.spots.remove(spot)?;
        self.lens[spot.len as usize] -= 1;
        self.classes[spot.class()] -= 1;
        Some(held)
    }

    /// The candidates of a prefix, TOS and metric, in order of preference.
    pub fn equals(&self, like: Spot<A>) -> impl DoubleEndedIterator<Item = (&Spot<A>, &Held)> {
        let spot = |order| Spot { order, ..like };
        self.spots.range(spot(0)..=spot(u32::MAX))
    }

    /// What holds for a prefix as a whole: of itself, or of the longest around it.
    fn around(&self, key: A, len: u8, asks: Asks) -> Answer {
        for len in (0..=len).rev().filter(|&len| self.lens[len as usize] != 0) {
            let key = key.prefix(len);
            let mut candidates = self.spots.range(Spot::first(key, len)..=Spot::last(key, len));
            if let Some(answer) = candidates.find_map(|(spot, held)| asks.of(spot, held)) {
                return answer;
            }
        }
        Answer::Throw
    }
}

/// How a list asks its tables.
#[derive(Clone, Copy)]
struct Asks<'a> {
    tos: u8,
    suppress: Option<u8>,
    leads: &'a Leads,
}

impl Asks<'_> {
    /// What a candidate says; none where it does not count.
    fn of<A>(&self, spot: &Spot<A>, held: &Held) -> Option<Answer> {
        if spot.tos.0 != 0 && spot.tos.0 != self.tos {
            return None;
        }
        match self.leads.answer(held.lead) {
            Answer::Dead => None,
            Answer::Value(_)
                if self.suppress.is_some_and(|most| spot.len <= most) && !self.leads.refuses(held.lead) =>
            {
                Some(Answer::Throw)
            }
            answer => Some(answer),
        }
    }
}

/// All tables of a family.
pub(super) struct Half<A> {
    pub tables: HashMap<u32, Routes<A>>,
    /// Tables that are asked one after the other, as one: in force, and to be brought up to date.
    lists: HashMap<List, Lpm<A>>,
    /// Prefixes whose candidates have changed, by table.
    changed: HashMap<u32, Vec<(A, u8)>>,
    /// Everything may have changed.
    is_stale: bool,
    pub count: usize,
}

impl<A: Address> Half<A> {
    pub fn new() -> Half<A> {
        Half { tables: HashMap::new(), lists: HashMap::new(), changed: HashMap::new(), is_stale: false, count: 0 }
    }

    pub fn insert(&mut self, table: u32, spot: Spot<A>, held: Held) -> Option<Held> {
        let before = self.tables.entry(table).or_insert_with(Routes::new).insert(spot, held);
        self.count += usize::from(before.is_none());
        self.changed.entry(table).or_default().push((spot.key, spot.len));
        before
    }

    pub fn remove(&mut self, table: u32, spot: &Spot<A>) -> Option<Held> {
        let routes = self.tables.get_mut(&table)?;
        let held = routes.remove(spot)?;
        self.count -= 1;
        if routes.spots.is_empty() {
            self.tables.remove(&table);
        }
        self.changed.entry(table).or_default().push((spot.key, spot.len));
        Some(held)
    }

    /// Whether routes of these tables are for an old TOS, by its [`class`]; those for all are not meant.
    pub fn classes(&self, tables: &[u32]) -> [bool; CLASSES] {
        let of =
            |class: usize| tables.iter().filter_map(|number| self.tables.get(number)).any(|t| t.classes[class] != 0);
        std::array::from_fn(|class| class != 0 && of(class))
    }

    /// Which leads count has changed.
    pub fn spoil(&mut self) {
        self.is_stale = true;
    }

    /// Brings the lists up to date, with these lists wanted. They answer for what the tables are now.
    pub fn bring_up(&mut self, wanted: &[List], leads: &Leads) {
        let mut before = std::mem::take(&mut self.lists);
        for changed in self.changed.values_mut() {
            changed.sort_unstable();
            changed.dedup();
        }
        for list in wanted {
            let List { tables: numbers, tos, suppress } = list;
            let tables: Vec<&Routes<A>> = numbers.iter().filter_map(|number| self.tables.get(number)).collect();
            let count = tables.iter().map(|table| table.spots.len()).sum();
            let merged = Merged { tables, asks: Asks { tos: *tos, suppress: *suppress, leads } };
            let lpm = match before.remove(list) {
                Some(lpm) if !self.is_stale => {
                    let mut changed: Vec<&Vec<(A, u8)>> =
                        numbers.iter().filter_map(|number| self.changed.get(number)).collect();
                    match changed.len() {
                        0 => lpm,
                        1 => lpm.updated(changed.pop().map_or(&[], Vec::as_slice), &merged, count),
                        _ => {
                            let mut all: Vec<(A, u8)> = changed.into_iter().flatten().copied().collect();
                            all.sort_unstable();
                            all.dedup();
                            lpm.updated(&all, &merged, count)
                        }
                    }
                }
                _ => Lpm::gather(&merged, count),
            };
            self.lists.insert(list.clone(), lpm);
        }
        self.changed.clear();
        self.is_stale = false;
    }

    /// A list that was wanted.
    pub fn list(&self, list: &List) -> Lpm<A> {
        self.lists.get(list).cloned().unwrap_or_else(|| Lpm::build(&[]))
    }
}

/// Tables that answer as one: each where those before it have nothing to say.
///
/// An earlier table's answer stands even where a later one has a longer prefix.
struct Merged<'a, A> {
    tables: Vec<&'a Routes<A>>,
    asks: Asks<'a>,
}

/// What the first table that has an answer says; by table, [`Answer::Throw`] where it has none.
fn first(answers: &[Answer]) -> u32 {
    let value = answers.iter().find_map(|answer| match answer {
        Answer::Value(value) => Some(*value),
        _ => None,
    });
    value.unwrap_or(0)
}

impl<'a, A: Address> Source<A> for Merged<'a, A> {
    fn within(&self, key: A, len: u8, entries: &mut Vec<Entry<A>>) -> u32 {
        let n = self.tables.len();
        if n == 0 {
            return 0;
        }
        // The answers of each table for the prefixes around the current one, outermost first, and where those are.
        let mut answers: Vec<Answer> = self.tables.iter().map(|table| table.around(key, len, self.asks)).collect();
        let mut around: Vec<(A, u8)> = vec![(key, len)];
        let otherwise = first(&answers);
        let from = Spot::first(key, len + 1);
        let inside = |table: &'a Routes<A>| {
            let spots = table.spots.range(from..);
            spots.take_while(move |(spot, _)| spot.key.prefix(len) == key).peekable()
        };
        if len == A::BITS {
            return otherwise;
        }
        let mut tables: Vec<Peekable<_>> = self.tables.iter().copied().map(inside).collect();
        loop {
            let next = tables.iter_mut().filter_map(|table| table.peek().map(|(spot, _)| (spot.key, spot.len))).min();
            let Some(place) = next else { break };
            while around.pop_if(|(outer, outer_len)| place.0.prefix(*outer_len) != *outer).is_some() {
                answers.truncate(answers.len() - n);
            }
            let outer = answers.len() - n;
            answers.extend_from_within(outer..);
            around.push(place);
            for (i, table) in tables.iter_mut().enumerate() {
                let mut found = None;
                while let Some((spot, held)) = table.next_if(|(spot, _)| (spot.key, spot.len) == place) {
                    found = found.or_else(|| self.asks.of(spot, held));
                }
                if let Some(found) = found {
                    answers[outer + n + i] = found;
                }
            }
            let value = first(&answers[outer + n..]);
            if value != first(&answers[outer..outer + n]) {
                entries.push(Entry { key: place.0, len: place.1, value });
            }
        }
        otherwise
    }
}
