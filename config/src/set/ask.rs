//! What rules say of sets: which ends of a packet make an element, and what is asked or changed.

use super::MAX_NAME;
use crate::rule::option::{Complaint, Given, Word};
use crate::rule::word::split;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Most ends that a rule may name (`IPSET_DIM_MAX`).
pub const MAX_ENDS: u8 = 6;
/// The number of a set before the router gave it one.
pub const NO_SLOT: u32 = u32::MAX;

/// `src,dst`: for each part of an element the end of the packet that it is taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ends {
    /// How many.
    pub count: u8,
    /// A bit for each that is `src`.
    pub src: u8,
}

impl Ends {
    /// Reads a list of `src` and `dst`.
    pub fn parse(word: &Word) -> Result<Ends, Complaint> {
        // Blanks end the list, as in iptables.
        let text = word.text.split(' ').next().unwrap_or_default();
        let parts = split(&Word { text: text.to_string(), at: word.at.clone() }, ',');
        let mut ends = Ends { count: 0, src: 0 };
        for part in &parts {
            let bit = match part.text.as_str() {
                "src" => 1,
                "dst" => 0,
                other => {
                    let what = format!("`{other}` is neither src nor dst");
                    return Err(
                        part.complain(what, "a list of src and dst with commas, one for each part of an element")
                    );
                }
            };
            if ends.count == MAX_ENDS {
                return Err(part.complain(format!("more than {MAX_ENDS} ends"), "at most six of src and dst"));
            }
            ends.src |= bit << ends.count;
            ends.count += 1;
        }
        Ok(ends)
    }

    /// Whether the part of that number is taken from the source.
    #[inline]
    pub fn is_src(self, part: usize) -> bool {
        u32::from(self.src).checked_shr(part as u32).unwrap_or(0) & 1 != 0
    }

    /// Writes the list.
    pub fn print(self, out: &mut String) {
        for part in 0..self.count {
            let comma = if part == 0 { "" } else { "," };
            let end = if self.is_src(part.into()) { "src" } else { "dst" };
            let _ = write!(out, "{comma}{end}");
        }
    }

    /// Whether it is one that [`Ends::parse`] could have made.
    pub fn verify(self) -> Result<(), String> {
        match (1..=MAX_ENDS).contains(&self.count) && self.src >> self.count == 0 {
            true => Ok(()),
            false => Err("ends of a packet that no rule can name".to_string()),
        }
    }
}

/// A set and the ends of a packet that a rule names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The set's name.
    pub name: String,
    /// The ends.
    pub ends: Ends,
    /// Where the router keeps it; [`NO_SLOT`] in a ruleset that no router has taken yet.
    pub slot: u32,
}

impl Named {
    /// Reads `NAME src,dst` and finds the set.
    pub fn parse(given: &Given, name: &Word, ends: &Word) -> Result<Named, Complaint> {
        if name.text.len() > MAX_NAME {
            let what = format!("`{}` is longer than the name of a set can be", name.text);
            return Err(name.complain(what, format!("at most {MAX_NAME} characters")));
        }
        let ends = Ends::parse(ends)?;
        let sets = given.names.sets;
        if let Some(set) = sets.iter().find(|set| set.header.name == name.text) {
            if set.header.family.is_some_and(|family| family != given.family) {
                let what = format!("the set `{}` is not one of {}", name.text, given.family.name());
                let fitting = sets.iter().map(|set| &set.header).filter(|h| h.family.is_none_or(|f| f == given.family));
                return Err(name.complain(what, one_of(fitting.map(|h| h.name.as_str()))));
            }
        } else if !given.names.mistaken.contains(&name.text) {
            let what = format!("there is no set `{}`", name.text);
            return Err(name.complain(what, one_of(sets.iter().map(|set| set.header.name.as_str()))));
        }
        Ok(Named { name: name.text.clone(), ends, slot: NO_SLOT })
    }

    /// Writes ` NAME src,dst`.
    pub fn print(&self, out: &mut String) {
        let _ = write!(out, " {} ", self.name);
        self.ends.print(out);
    }

    /// Whether it is one that [`Named::parse`] could have made.
    pub fn verify(&self) -> Result<(), String> {
        match super::is_name(&self.name) {
            true => self.ends.verify(),
            false => Err(format!("{:?} cannot be the name of a set", self.name)),
        }
    }
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.truncate(8);
    match names.is_empty() {
        true => "a section [sets.NAME]".to_string(),
        false => crate::rule::word::either(names.into_iter()),
    }
}

/// How a counter of an element is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Compare {
    /// It is so many.
    Equal(u64),
    /// It is another number.
    Unequal(u64),
    /// It is fewer.
    Less(u64),
    /// It is more.
    Greater(u64),
}

impl Compare {
    /// Whether a counter is as asked.
    #[inline]
    pub fn holds(self, counter: u64) -> bool {
        match self {
            Compare::Equal(value) => counter == value,
            Compare::Unequal(value) => counter != value,
            Compare::Less(value) => counter < value,
            Compare::Greater(value) => counter > value,
        }
    }
}

/// What a rule asks of the element that it finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Elements with `nomatch` are what is looked for.
    pub return_nomatch: bool,
    /// The element counts the packet.
    pub update_counters: bool,
    /// Elements of the sets in a list:set count it.
    pub update_subcounters: bool,
    /// Of its packets.
    pub packets: Option<Compare>,
    /// Of its bytes.
    pub bytes: Option<Compare>,
}

impl Asked {
    /// Is the packet in the set? And it is counted.
    pub const PLAIN: Asked =
        Asked { return_nomatch: false, update_counters: true, update_subcounters: true, packets: None, bytes: None };
}

/// What a rule changes in a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// The packet's element is added.
    Add {
        /// One that is there begins anew.
        exist: bool,
        /// Seconds, instead of the set's own.
        timeout: Option<u32>,
    },
    /// It is deleted.
    Delete,
}
