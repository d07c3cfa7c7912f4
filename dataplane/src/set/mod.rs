//! Sets at run time: which sets are there, who sees which, and how they change while workers run.
//!
//! ```text
//!  names ──▶ slot ──▶ Set ── Content (table · extras · prefixes)      every type with elements
//!              ▲          └─ List ──▶ slots                           list:set
//!  rules ──────┘
//! ```
//!
//! A rule knows its set by a slot, which the router gives it when it takes the rules. Workers see slots through a [`View`],
//! which never changes: swapping two sets, creating or destroying one makes another view, and each worker takes it up
//! between two bursts, so that a packet never meets a set that was swapped half way. Elements change in place, at once for
//! everybody. Sets come from two sides: those that the configuration *declares* begin as it says and stay as they are as
//! long as their declaration does; others are created by control and last until they are destroyed. A set that is declared
//! anew, or no longer, stays in its slot until no worker runs rules that know it by that.

use self::content::{Content, Found, Refused};
use self::extras::Carried;
use self::list::{List, Member};
use self::packet::Ifaces;
use crate::protocol::{Digest, encode};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sumun_config::facts::Facts;
use sumun_config::set::ask::{Asked, Change, Ends};
use sumun_config::set::{Declaration, Element, Extra, Header, Kind, MAX_MEMBERS, MAX_SETS, SkbInfo, entry};

pub mod content;
mod control;
mod extras;
mod key;
mod list;
pub mod packet;
mod prefixes;
mod table;
#[cfg(test)]
mod tests;

/// A set.
pub enum Set {
    /// With elements.
    Content(Box<Content>),
    /// Of sets.
    List(List),
}

impl Set {
    /// What it is.
    pub fn header(&self) -> &Header {
        match self {
            Set::Content(content) => &content.header,
            Set::List(list) => &list.header,
        }
    }
}

/// The sets that workers see, by slot.
#[derive(Default)]
pub struct View {
    number: u64,
    slots: Vec<Option<Arc<Set>>>,
}

impl View {
    /// Counted up with every change.
    pub fn number(&self) -> u64 {
        self.number
    }

    fn set(&self, slot: u32) -> Option<&Set> {
        self.slots.get(slot as usize)?.as_deref()
    }

    /// Whether a packet is in a set, and what its element gives.
    pub fn test(
        &self,
        slot: u32,
        ends: Ends,
        asked: &Asked,
        facts: &Facts,
        ifaces: &Ifaces,
        now: u64,
    ) -> Option<SkbInfo> {
        match self.set(slot)? {
            Set::Content(content) => match (content.test(ends, asked, facts, ifaces, now), asked.return_nomatch) {
                (Found::Yes(skb), false) => Some(skb),
                (Found::Nomatch(skb), true) => Some(skb),
                // Only types with networks know of nomatch.
                (Found::Yes(skb), true) if !content.header.kind.has_nets() => Some(skb),
                _ => None,
            },
            Set::List(list) => self.test_list(list, ends, asked, facts, ifaces, now),
        }
    }

    /// The first set that the packet is in; counters of its elements are not compared, those of the list are.
    fn test_list(
        &self,
        list: &List,
        ends: Ends,
        asked: &Asked,
        facts: &Facts,
        ifaces: &Ifaces,
        now: u64,
    ) -> Option<SkbInfo> {
        let update_counters = asked.update_counters && asked.update_subcounters;
        let inner = Asked { packets: None, bytes: None, update_counters, ..*asked };
        for (slot, member) in &list.members {
            // A list holds no lists: this goes one step deep.
            let Some(Set::Content(_)) = self.set(*slot) else { continue };
            let Some(skb) = self.test(*slot, ends, &inner, facts, ifaces, now) else { continue };
            if list.header.timeout.is_some() && member.is_expired(now) {
                continue;
            }
            if list.header.counters && !member.count(asked, facts.len) {
                continue;
            }
            return Some(if list.header.skbinfo { member.skb } else { skb });
        }
        None
    }

    /// Adds a packet to a set or deletes it; whether that was done. In a list the first set that does it ends it.
    pub fn change(&self, slot: u32, ends: Ends, change: Change, facts: &Facts, ifaces: &Ifaces, now: u64) -> bool {
        match self.set(slot) {
            None => false,
            Some(Set::Content(content)) => content.change(ends, change, facts, ifaces, now).is_ok(),
            Some(Set::List(list)) => {
                list.members.iter().filter(|(_, member)| !member.is_expired(now)).any(|(slot, _)| {
                    match self.set(*slot) {
                        Some(Set::Content(content)) => content.change(ends, change, facts, ifaces, now).is_ok(),
                        _ => false,
                    }
                })
            }
        }
    }
}

/// Where a set of some name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    slot: u32,
    /// What the configuration says of it; none of a set that control created.
    declared: Option<Digest>,
}

/// All sets of a router. One for each router.
pub struct Sets {
    /// Held while something changes, which may take its time.
    state: Mutex<State>,
    /// The newest view: held for as long as it takes to copy a pointer, since workers take it.
    shared: Mutex<Arc<View>>,
    /// Its number.
    newest: AtomicU64,
    seed: u64,
}

struct State {
    places: BTreeMap<String, Place>,
    view: Arc<View>,
    /// Views before it that some worker may still have: who gives one up must not be the one that frees its sets.
    outdated: Vec<Arc<View>>,
    /// Slots that nobody needs once all workers run this generation.
    retired: Vec<(u64, Vec<u32>)>,
}

/// Sets of a policy that is about to be put in force.
pub struct Plan {
    places: BTreeMap<String, Place>,
    fresh: Vec<(u32, Arc<Set>)>,
    gone: Vec<u32>,
}

impl Plan {
    /// Where the set of a name will be.
    pub fn slot(&self, name: &str) -> Option<u32> {
        self.places.get(name).map(|place| place.slot)
    }
}

impl Sets {
    /// None.
    pub fn new(seed: u64) -> Sets {
        let state = State { places: BTreeMap::new(), view: Arc::default(), outdated: Vec::new(), retired: Vec::new() };
        Sets { state: Mutex::new(state), shared: Mutex::default(), newest: AtomicU64::new(0), seed }
    }

    /// A panic while the lock is held leaves the names whole: they are changed by single assignments.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the newest view.
    #[inline]
    pub fn number(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, state: &mut State, slots: Vec<Option<Arc<Set>>>) {
        let number = state.view.number + 1;
        let before = std::mem::replace(&mut state.view, Arc::new(View { number, slots }));
        state.outdated.push(before);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = state.view.clone();
        self.newest.store(number, Ordering::Release);
    }

    /// The sets that there are, as a plan that changes nothing.
    pub fn unchanged(&self) -> Plan {
        Plan { places: self.state().places.clone(), fresh: Vec::new(), gone: Vec::new() }
    }

    /// Builds what is declared and not there yet; nobody sees it before [`Sets::commit`]. An error says what cannot be.
    pub fn prepare(&self, declared: &[Declaration], now: u64) -> Result<Plan, String> {
        let state = self.state();
        let mut plan = Plan { places: BTreeMap::new(), fresh: Vec::new(), gone: Vec::new() };
        let named: HashMap<&str, &Declaration> = declared.iter().map(|set| (set.header.name.as_str(), set)).collect();
        for (name, place) in &state.places {
            match (place.declared, named.contains_key(name.as_str())) {
                (None, false) => drop(plan.places.insert(name.clone(), *place)),
                (Some(_), false) | (None, true) => plan.gone.push(place.slot),
                (Some(_), true) => {}
            }
        }
        let mut next = state.view.slots.len() as u32;
        let mut free = (0..next).filter(|slot| state.view.set(*slot).is_none());
        let mut free_slot = move || {
            free.next().unwrap_or_else(|| {
                next += 1;
                next - 1
            })
        };
        for set in declared.iter().filter(|set| set.header.kind != Kind::ListSet) {
            let digest = digest(set)?;
            let before = state.places.get(&set.header.name).filter(|place| place.declared.is_some());
            let place = match before {
                Some(place) if place.declared == Some(digest) => *place,
                before => {
                    plan.gone.extend(before.map(|place| place.slot));
                    let slot = free_slot();
                    plan.fresh.push((slot, Arc::new(Set::Content(Box::new(filled(set, self.seed, now)?)))));
                    Place { slot, declared: Some(digest) }
                }
            };
            plan.places.insert(set.header.name.clone(), place);
        }
        let before_names = names(&state.places);
        for set in declared.iter().filter(|set| set.header.kind == Kind::ListSet) {
            let digest = digest(set)?;
            let before = state.places.get(&set.header.name).filter(|place| place.declared.is_some()).copied();
            let kept = before.filter(|place| place.declared == Some(digest));
            // Where its sets are in other slots now, the list is another one too, with the same members.
            let list = match kept.and_then(|place| state.view.set(place.slot)) {
                Some(Set::List(list)) => moved(list, &before_names, &plan.places),
                _ => listed(set, &plan.places, now)?,
            };
            let same = |place: &Place| match state.view.set(place.slot) {
                Some(Set::List(old)) => list.has_slots_of(old),
                _ => false,
            };
            let place = match kept.filter(same) {
                Some(place) => place,
                None => {
                    plan.gone.extend(before.map(|place| place.slot));
                    let slot = free_slot();
                    plan.fresh.push((slot, Arc::new(Set::List(list))));
                    Place { slot, declared: Some(digest) }
                }
            };
            plan.places.insert(set.header.name.clone(), place);
        }
        // The lists of control too: a slot that is given up may be another set's soon.
        for (name, before) in state.places.iter().filter(|(_, place)| place.declared.is_none()) {
            let Some(Set::List(old)) = state.view.set(before.slot) else { continue };
            let list = moved(old, &before_names, &plan.places);
            if plan.places.get(name) != Some(before) || list.has_slots_of(old) {
                continue;
            }
            let slot = free_slot();
            plan.gone.push(before.slot);
            plan.fresh.push((slot, Arc::new(Set::List(list))));
            plan.places.insert(name.clone(), Place { slot, declared: None });
        }
        match plan.places.len() > MAX_SETS {
            true => Err(format!("more than {MAX_SETS} sets")),
            false => Ok(plan),
        }
    }

    /// Puts a plan in force for the generation of that number, which workers take up after this.
    pub fn commit(&self, plan: Plan, generation: u64) {
        let Plan { places, fresh, gone } = plan;
        let mut state = self.state();
        state.places = places;
        if !gone.is_empty() {
            state.retired.push((generation, gone));
        }
        if !fresh.is_empty() {
            let mut slots = state.view.slots.clone();
            for (slot, set) in fresh {
                if slots.len() <= slot as usize {
                    slots.resize(slot as usize + 1, None);
                }
                slots[slot as usize] = Some(set);
            }
            self.publish(&mut state, slots);
        }
    }

    /// Drops the sets that no generation from this one on knows; time that is over is looked for in some slots of each set.
    pub fn settle(&self, reached: u64, now: u64) {
        // Who changes sets meanwhile may take his time.
        let Ok(mut state) = self.state.try_lock() else { return };
        let (due, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.retired).into_iter().partition(|(generation, _)| *generation <= reached);
        state.retired = waiting;
        if !due.is_empty() {
            let mut slots = state.view.slots.clone();
            for slot in due.into_iter().flat_map(|(_, gone)| gone) {
                if let Some(set) = slots.get_mut(slot as usize) {
                    *set = None;
                }
            }
            self.publish(&mut state, slots);
        }
        // Nobody can get one of them any more, so that one is the last.
        let is_free = |view: &mut Arc<View>| Arc::strong_count(view) == 1;
        let free: Vec<Arc<View>> = state.outdated.extract_if(.., is_free).collect();
        let view = state.view.clone();
        drop(state);
        drop(free);
        for set in view.slots.iter().flatten() {
            if let Set::Content(content) = &**set {
                content.sweep(SWEEP, now);
            }
        }
    }
}

/// Slots of a set that housekeeping looks at in one round.
const SWEEP: usize = 16_384;

fn digest(set: &Declaration) -> Result<Digest, String> {
    encode(set).map(|bytes| Digest::of(&bytes)).map_err(|error| error.to_string())
}

/// A set with its first elements. The last of equal ones counts.
fn filled(set: &Declaration, seed: u64, now: u64) -> Result<Content, String> {
    let content = Content::new(set.header.clone(), seed)?;
    for element in &set.elements {
        entry::verify(&set.header, element)?;
        let added = content.add(&element.key, &Carried::of(element), true, now);
        added.map_err(|why| format!("the set {:?}: {}", set.header.name, why.text()))?;
    }
    Ok(content)
}

/// A list with its first members.
fn listed(set: &Declaration, places: &BTreeMap<String, Place>, now: u64) -> Result<List, String> {
    let mut list = List { header: set.header.clone(), members: Vec::new() };
    for element in &set.elements {
        entry::verify(&set.header, element)?;
        let extra = element.extra.as_deref().cloned().unwrap_or_default();
        let slot = |name: &str| places.get(name).map(|place| place.slot);
        list.put(
            slot(&extra.set),
            extra.beside.as_ref().map(|(before, name)| (*before, slot(name))),
            element,
            true,
            now,
        )
        .map_err(|why| format!("the set {:?}: {why}", set.header.name))?;
    }
    Ok(list)
}

/// The names of sets by their slots.
fn names(places: &BTreeMap<String, Place>) -> HashMap<u32, &str> {
    places.iter().map(|(name, place)| (place.slot, name.as_str())).collect()
}

/// A list whose sets may lie elsewhere now; those that are gone are left out.
fn moved(list: &List, before: &HashMap<u32, &str>, after: &BTreeMap<String, Place>) -> List {
    let slot = |slot: u32| before.get(&slot).and_then(|name| after.get(*name)).map(|place| place.slot);
    let members = list.members.iter().filter_map(|(old, member)| Some((slot(*old)?, member.clone()))).collect();
    List { header: list.header.clone(), members }
}

/// On which side of another set, before it or behind, and where that is kept.
type Beside = (bool, Option<u32>);

impl List {
    /// Adds a set, at the end or beside another one.
    fn put(
        &mut self,
        slot: Option<u32>,
        beside: Option<Beside>,
        element: &Element,
        exist: bool,
        now: u64,
    ) -> Result<(), String> {
        let slot = slot.ok_or("the set to be added does not exist")?;
        self.members.retain(|(_, member)| !member.is_expired(now));
        let at = |slot: Option<u32>| self.members.iter().position(|(of, _)| Some(*of) == slot);
        let place = match beside {
            None => self.members.len(),
            Some((before, other)) => {
                let other = at(other).ok_or("the set beside which it shall stand is not in the list")?;
                other + usize::from(!before)
            }
        };
        let member = Arc::new(Member::new(&self.header, &Carried::of(element), now));
        match at(Some(slot)) {
            Some(_) if !exist => return Err(Refused::Exists.text().to_string()),
            Some(at) => self.members[at].1 = member,
            None if self.members.len() >= MAX_MEMBERS => return Err(Refused::Full.text().to_string()),
            None => self.members.insert(place, (slot, member)),
        }
        Ok(())
    }

    /// Whether the members of another list are kept where those of this one are.
    fn has_slots_of(&self, other: &List) -> bool {
        self.members.iter().map(|(slot, _)| slot).eq(other.members.iter().map(|(slot, _)| slot))
    }

    /// Where a set stands, if it stands beside the other one where that is asked.
    fn position(&self, slot: u32, beside: Option<Beside>, now: u64) -> Option<usize> {
        let alive: Vec<usize> = (0..self.members.len()).filter(|i| !self.members[*i].1.is_expired(now)).collect();
        let at = alive.iter().position(|i| self.members[*i].0 == slot)?;
        let neighbour = |step: Option<usize>| step.and_then(|at| alive.get(at)).map(|i| self.members[*i].0);
        match beside {
            None => Some(alive[at]),
            Some((true, other)) => (other.is_some() && neighbour(Some(at + 1)) == other).then_some(alive[at]),
            Some((false, other)) => (other.is_some() && neighbour(at.checked_sub(1)) == other).then_some(alive[at]),
        }
    }

    fn element(&self, index: usize, name: String, now: u64) -> Element {
        let extra: Extra = self.members[index].1.extra(&self.header, name, now);
        Element { extra: Some(Box::new(extra)), ..Element::default() }
    }
}

impl Refused {
    /// As ipset says it.
    pub fn text(self) -> &'static str {
        match self {
            Refused::Exists => "the element cannot be added: it is already added",
            Refused::Missing => "the element cannot be deleted: it is not added",
            Refused::Full => "the set is full: it holds as many elements as it may",
        }
    }
}
