//! iptables text in and out: what iptables-save prints, what scripts of iptables commands do, and both as TOML.
//!
//! ```text
//!  text ──▶ words ──▶ lines ──▶ state (chains as the commands leave them) ──▶ link ──▶ Import ──▶ toml
//!                                                                    Ruleset ──▶ save
//! ```
//!
//! A file is read as iptables-restore or a shell would run it: tables begin empty, each line changes them. What one line
//! means is [`crate::rule`]'s, so a rule in a file and a rule in TOML are the same. Mistakes are collected, each at its place
//! in the file; nothing comes out of a file with mistakes.

use crate::diag::{Diagnostic, Source};
use crate::facts::{Family, LOOPBACK};
use crate::link::link;
use crate::model::Names;
use crate::rule::matches::interface::covers;
use crate::rule::{Match, Table};
use crate::ruleset::Ruleset;
use state::Tables;
use std::collections::{BTreeMap, BTreeSet};

mod lines;
mod save;
mod state;
mod toml;
mod words;

#[cfg(test)]
mod tests;

pub use save::save;

/// What a file is read with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The family of iptables-save text whose header does not say it, and of lines without a program's name.
    pub family: Option<Family>,
    /// Names of the ports, in order.
    pub ports: &'a [String],
    /// Names that the configuration defines.
    pub names: Names<'a>,
}

/// What a file makes.
#[derive(Debug)]
pub struct Import {
    /// Its rules; families that it does not speak of are empty.
    pub ruleset: Ruleset,
    /// The families that it speaks of.
    pub families: Vec<Family>,
    /// Names of interfaces in its rules that no port has and the configuration does not call foreign.
    pub foreign: Vec<String>,
    notes: Notes,
}

/// Comments of the file, by chain.
type Notes = BTreeMap<(Family, Table, String), ChainNotes>;

/// Comments that stood before a chain and before each of its rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct ChainNotes {
    chain: Vec<String>,
    rules: Vec<Vec<String>>,
}

/// Reads a file; or all that is wrong with it, in the order of the file.
pub fn read(source: &Source, around: Surroundings) -> Result<Import, Vec<Diagnostic>> {
    let any = ["+".to_string()];
    let names = Names { foreign: &any, ..around.names };
    let (states, mut found) = lines::read(source, Surroundings { names, ..around });
    let families: Vec<Family> = Family::ALL.into_iter().filter(|f| states[f.index()].is_some()).collect();
    let mut sources = Vec::new();
    let mut notes = Notes::new();
    for (family, state) in Family::ALL.into_iter().zip(states) {
        let Some(state) = state else { continue };
        let (chains, more) = Tables::into_sources(state, family);
        sources.extend(chains);
        notes.extend(more);
    }
    let linked = link(sources, around.ports, names);
    let ruleset = match linked {
        Ok(ruleset) if found.is_empty() => ruleset,
        Ok(_) => return Err(sorted(found)),
        Err(complaints) => {
            found.extend(complaints.into_iter().map(Diagnostic::from));
            return Err(sorted(found));
        }
    };
    let foreign = foreign(&ruleset, around.names.foreign);
    Ok(Import { ruleset, families, foreign, notes })
}

impl Import {
    /// As TOML sections, with the comments of the file.
    pub fn toml(&self) -> String {
        toml::print(&self.ruleset, &self.families, &self.foreign, &self.notes)
    }
}

fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort_by_key(|d| (d.at.start, d.at.end));
    found.dedup();
    found
}

/// Names of interfaces that no port has, but for `lo`, those that `known` has already, and beginnings.
pub fn foreign(ruleset: &Ruleset, known: &[String]) -> Vec<String> {
    let tables = Family::ALL.into_iter().flat_map(|family| &ruleset.of(family).tables);
    let conds = tables.flat_map(|table| &table.chains).flat_map(|chain| &chain.rules).flat_map(|rule| &rule.conds);
    let mut names = BTreeSet::new();
    for cond in conds {
        if let Match::Interface(interface) = &cond.test {
            let (name, ports) = interface.parts();
            let declared = name == LOOPBACK || name.ends_with('+') || known.iter().any(|pattern| covers(pattern, name));
            if ports.is_empty() && !declared {
                names.insert(name.to_string());
            }
        }
    }
    names.into_iter().collect()
}
