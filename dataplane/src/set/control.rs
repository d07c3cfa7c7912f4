//! What control asks of sets: ipset's commands.

use super::content::Content;
use super::extras::Carried;
use super::list::List;
use super::{Beside, Place, Set, Sets, State, names};
use crate::protocol::{SetAnswer, SetRequest, SetRow};
use std::collections::HashMap;
use std::sync::Arc;
use sumun_config::set::{Element, Header, Kind, MAX_SETS, entry, is_name};

/// Slots of a table that one page of a listing looks at.
const PAGE: usize = 65_536;

impl Sets {
    /// Does what is asked. `references` tells how many rules know a slot.
    pub fn answer(&self, request: SetRequest, references: &dyn Fn(u32) -> u32, now: u64) -> Result<SetAnswer, String> {
        let done = |()| SetAnswer::Done;
        let mut state = self.state();
        match request {
            SetRequest::List { name } => state.rows(name.as_deref(), references).map(SetAnswer::Sets),
            SetRequest::Elements { name, from } => state.elements(&name, from, now),
            SetRequest::Add { name, elements, exist } => self.add(&mut state, &name, &elements, exist, now).map(done),
            SetRequest::Delete { name, elements, exist } => {
                self.delete(&mut state, &name, &elements, exist, now).map(done)
            }
            SetRequest::Test { name, element } => state.test(&name, &element, now).map(SetAnswer::Tested),
            SetRequest::Flush { name } => self.flush(&mut state, name.as_deref()).map(done),
            SetRequest::Swap { from, to } => self.swap(&mut state, &from, &to).map(done),
            SetRequest::Rename { from, to } => state.rename(&from, to, references).map(done),
            SetRequest::Create { header, exist } => self.create(&mut state, header, exist).map(done),
            SetRequest::Destroy { name } => self.destroy(&mut state, name.as_deref(), references).map(done),
        }
    }

    fn add(&self, state: &mut State, name: &str, elements: &[Element], exist: bool, now: u64) -> Result<(), String> {
        let (slot, set) = state.find(name)?;
        match &*set {
            Set::Content(content) => {
                content.tidy();
                for element in elements {
                    entry::verify(&content.header, element)?;
                    let added = content.add(&element.key, &Carried::of(element), exist, now);
                    added.map_err(|why| why.text().to_string())?;
                }
                Ok(())
            }
            Set::List(list) => {
                let mut list = list.clone();
                for element in elements {
                    let (member, beside) = state.member(&list, element)?;
                    list.put(Some(member), beside, element, exist, now)?;
                }
                self.replace(state, slot, Set::List(list));
                Ok(())
            }
        }
    }

    fn delete(&self, state: &mut State, name: &str, elements: &[Element], exist: bool, now: u64) -> Result<(), String> {
        let (slot, set) = state.find(name)?;
        match &*set {
            Set::Content(content) => {
                for element in elements {
                    entry::verify(&content.header, element)?;
                    let deleted = content.delete(&element.key, now);
                    deleted.or(if exist { Ok(()) } else { deleted }).map_err(|why| why.text().to_string())?;
                }
                Ok(())
            }
            Set::List(list) => {
                let mut list = list.clone();
                for element in elements {
                    let (member, beside) = state.member(&list, element)?;
                    match list.position(member, beside, now) {
                        Some(at) => drop(list.members.remove(at)),
                        None if exist => {}
                        None => return Err("the set is not in the list, or not there".to_string()),
                    }
                }
                self.replace(state, slot, Set::List(list));
                Ok(())
            }
        }
    }

    /// Another set in a slot, for packets after this.
    fn replace(&self, state: &mut State, slot: u32, set: Set) {
        let mut slots = state.view.slots.clone();
        slots[slot as usize] = Some(Arc::new(set));
        self.publish(state, slots);
    }

    fn flush(&self, state: &mut State, name: Option<&str>) -> Result<(), String> {
        let slots = match name {
            Some(name) => vec![state.find(name)?.0],
            None => state.places.values().map(|place| place.slot).collect(),
        };
        for slot in slots {
            let set = state.view.slots.get(slot as usize).cloned().flatten();
            match set.as_deref() {
                Some(Set::Content(content)) => content.flush(),
                Some(Set::List(List { header, .. })) => {
                    self.replace(state, slot, Set::List(List { header: header.clone(), members: Vec::new() }));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn swap(&self, state: &mut State, from: &str, to: &str) -> Result<(), String> {
        let ((a, set_a), (b, set_b)) = (state.find(from)?, state.find(to)?);
        if !set_a.header().is_like(set_b.header()) {
            return Err("the sets cannot be swapped: their type does not match".to_string());
        }
        let mut slots = state.view.slots.clone();
        (slots[a as usize], slots[b as usize]) = (Some(set_b), Some(set_a));
        self.publish(state, slots);
        Ok(())
    }

    fn create(&self, state: &mut State, header: Header, exist: bool) -> Result<(), String> {
        header.verify()?;
        if let Ok((_, set)) = state.find(&header.name) {
            let same = Header { name: header.name.clone(), ..set.header().clone() } == header;
            return match exist && same {
                true => Ok(()),
                false => Err(format!("the set {} cannot be created: one with this name is there", header.name)),
            };
        }
        if state.places.len() >= MAX_SETS {
            return Err(format!("there are {MAX_SETS} sets already"));
        }
        let name = header.name.clone();
        let set = match header.kind {
            Kind::ListSet => Set::List(List { header, members: Vec::new() }),
            _ => Set::Content(Box::new(Content::new(header, self.seed)?)),
        };
        let mut slots = state.view.slots.clone();
        let free = slots.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        slots[slot] = Some(Arc::new(set));
        state.places.insert(name, Place { slot: slot as u32, declared: None });
        self.publish(state, slots);
        Ok(())
    }

    fn destroy(&self, state: &mut State, name: Option<&str>, references: &dyn Fn(u32) -> u32) -> Result<(), String> {
        let names: Vec<String> = match name {
            Some(name) => vec![name.to_string()],
            None => state.places.iter().filter(|(_, p)| p.declared.is_none()).map(|(name, _)| name.clone()).collect(),
        };
        let mut slots = state.view.slots.clone();
        let lists = state.lists_with();
        for name in &names {
            let (slot, _) = state.find(name)?;
            if state.places.get(name).is_some_and(|place| place.declared.is_some()) {
                return Err(format!(
                    "the set {name} is declared in the configuration: it goes when it is taken out there"
                ));
            }
            if references(slot) > 0 || lists.contains_key(&slot) {
                return Err(format!("the set {name} cannot be destroyed: it is in use"));
            }
            slots[slot as usize] = None;
        }
        for name in &names {
            state.places.remove(name);
        }
        self.publish(state, slots);
        Ok(())
    }
}

impl State {
    fn find(&self, name: &str) -> Result<(u32, Arc<Set>), String> {
        let place = self.places.get(name);
        let set = place.and_then(|place| Some((place.slot, self.view.slots.get(place.slot as usize)?.clone()?)));
        set.ok_or_else(|| format!("the set {name} does not exist"))
    }

    /// The slot of a list's member, and of the one it stands beside.
    fn member(&self, list: &List, element: &Element) -> Result<(u32, Option<Beside>), String> {
        entry::verify(&list.header, element)?;
        let Some(extra) = &element.extra else { return Err("the name of a set is missing".to_string()) };
        let (slot, set) = self.find(&extra.set)?;
        if set.header().kind == Kind::ListSet {
            return Err("sets of type list:set cannot be in a list".to_string());
        }
        let slot_of = |name: &String| self.places.get(name).map(|place| place.slot);
        Ok((slot, extra.beside.as_ref().map(|(before, name)| (*before, slot_of(name)))))
    }

    /// How many lists have a set, by its slot.
    fn lists_with(&self) -> HashMap<u32, u32> {
        let mut lists = HashMap::new();
        for set in self.view.slots.iter().flatten() {
            if let Set::List(list) = &**set {
                list.members.iter().for_each(|(slot, _)| *lists.entry(*slot).or_insert(0) += 1);
            }
        }
        lists
    }

    fn rows(&self, name: Option<&str>, references: &dyn Fn(u32) -> u32) -> Result<Vec<SetRow>, String> {
        if let Some(name) = name {
            self.find(name)?;
        }
        let lists = self.lists_with();
        let wanted = self.places.iter().filter(|(of, _)| name.is_none_or(|name| name == of.as_str()));
        let row = |(name, place): (&String, &Place)| {
            let set = self.view.slots.get(place.slot as usize)?.as_ref()?;
            let (memory, entries) = match &**set {
                Set::Content(content) => (content.memory(), content.len()),
                Set::List(list) => (size_of_val(&*list.members), list.members.len() as u64),
            };
            Some(SetRow {
                name: name.clone(),
                header: set.header().clone(),
                memory: memory as u64,
                references: references(place.slot) + lists.get(&place.slot).copied().unwrap_or(0),
                entries,
                declared: place.declared.is_some(),
            })
        };
        Ok(wanted.filter_map(row).collect())
    }

    fn elements(&self, name: &str, from: u64, now: u64) -> Result<SetAnswer, String> {
        let (_, set) = self.find(name)?;
        let (elements, next) = match &*set {
            Set::Content(content) => content.list(from as usize, PAGE, now),
            Set::List(list) => {
                let names = names(&self.places);
                let alive = (0..list.members.len()).filter(|i| !list.members[*i].1.is_expired(now));
                let element = |i: usize| Some(list.element(i, names.get(&list.members[i].0)?.to_string(), now));
                (alive.filter_map(element).collect(), None)
            }
        };
        Ok(SetAnswer::Elements { elements, next: next.map(|next| next as u64) })
    }

    fn test(&self, name: &str, element: &Element, now: u64) -> Result<bool, String> {
        let (_, set) = self.find(name)?;
        match &*set {
            Set::Content(content) => {
                entry::verify(&content.header, element)?;
                Ok(content.has(element, now))
            }
            Set::List(list) => {
                let (member, beside) = self.member(list, element)?;
                Ok(list.position(member, beside, now).is_some())
            }
        }
    }

    fn rename(&mut self, from: &str, to: String, references: &dyn Fn(u32) -> u32) -> Result<(), String> {
        let (slot, _) = self.find(from)?;
        if !is_name(&to) {
            return Err(format!("{to:?} cannot be the name of a set"));
        }
        if self.places.contains_key(&to) {
            return Err("the set cannot be renamed: one with the new name is there".to_string());
        }
        if references(slot) > 0 || self.places.get(from).is_some_and(|place| place.declared.is_some()) {
            return Err("the set cannot be renamed: rules or the configuration name it".to_string());
        }
        if let Some(place) = self.places.remove(from) {
            self.places.insert(to, place);
        }
        Ok(())
    }
}
