//! firewalld's permanent configuration as rules.
//!
//! ```text
//! files ──▶ xml ──▶ zones, policies, services, sets ──▶ chains, rules ──▶ script ──▶ crate::iptables ──▶ TOML
//! ```
//!
//! What a zone means is said as commands of iptables, each with its place in the files; [`crate::iptables`] reads them, so
//! that what it complains of is told at the place in the XML. The meaning is that of firewalld's iptables backend: see
//! firewalld.zone(5), firewalld.policy(5) and firewalld.richlanguage(5). Nothing comes out of files with mistakes.

use crate::diag::{Diagnostic, Source};
use crate::facts::Family;
use crate::iptables::{self, Surroundings};
use crate::model::Names;
use crate::rule::Hook;
use crate::set;
use chains::Chains;
use files::Config;
use script::{Script, quoted};
use xml::{Mistakes, Place};

mod chains;
mod direct;
mod files;
mod rich;
mod rules;
mod script;
mod service;
mod xml;
mod zone;

#[cfg(test)]
mod tests;

pub use files::Files;

/// The TOML sections that files amount to; or all that is wrong with them, by file. `ports` and `names` are those of the
/// configuration that they are for.
pub fn toml(files: Files, ports: &[String], names: Names) -> Result<String, Vec<(Source, Vec<Diagnostic>)>> {
    let mut mistakes = Mistakes::default();
    let config = Config::read(files, &mut mistakes);
    let direct = config.direct(&mut mistakes);
    let mut script = Script::default();
    for chain in direct.chains.iter() {
        script.chain(chain.family, &chain.table, &chain.chain, &chain.at);
    }
    for rule in &direct.rules {
        let words: Vec<String> = rule.words.iter().map(|word| quoted(word)).collect();
        let direct::Chain { family, table, chain, at } = &rule.chain;
        let chain = if is_hook(chain) { format!("{chain}_direct") } else { chain.clone() };
        script.rule(*family, table, &chain, &words.join(" "), at);
    }
    let mut chains = Chains { config: &config, script: &mut script, mistakes: &mut mistakes };
    chains.bodies();
    chains.hooks(|family: Family, table: &str, hook: &str| {
        direct.rules.iter().any(|rule| {
            let direct::Chain { family: of, table: in_table, chain, .. } = &rule.chain;
            *of == family && in_table == table && chain == hook
        })
    });
    for passed in &direct.passed {
        script.command(passed.family, &passed.words, &passed.at);
    }
    let (text, places) = script.finish();
    let others = names.sets.iter().filter(|set| !config.sets.iter().any(|own| own.header.name == set.header.name));
    let sets: Vec<_> = others.chain(&config.sets).cloned().collect();
    let names = Names { sets: &sets, ..names };
    match iptables::read(&Source::new("", text.as_str()), Surroundings { family: None, ports, names }) {
        Ok(import) if mistakes.0.is_empty() => {
            let rules = import.toml();
            let sets = set::toml::toml(&config.sets);
            Ok(if sets.is_empty() { rules } else { format!("{sets}\n{rules}") })
        }
        found => {
            for complaint in found.err().into_iter().flatten() {
                told(&text, &places, complaint, &mut mistakes);
            }
            Err(by_file(config.files(), mistakes))
        }
    }
}

fn is_hook(chain: &str) -> bool {
    Hook::ALL.iter().any(|hook| hook.name() == chain)
}

/// What is wrong with a text that was made here is told at the place that the line comes from.
fn told(text: &str, places: &[Place], found: Diagnostic, mistakes: &mut Mistakes) {
    let line = text[..found.at.start.min(text.len())].matches('\n').count();
    let Some(place) = places.get(line).or(places.last()) else { return };
    let found = Diagnostic { at: place.start..place.end, labels: Vec::new(), ..found };
    if !mistakes.0.iter().any(|(file, known)| *file == place.file && *known == found) {
        mistakes.0.push((place.file, found));
    }
}

fn by_file(files: &Files, mistakes: Mistakes) -> Vec<(Source, Vec<Diagnostic>)> {
    let mut found = mistakes.0;
    found.sort_by_key(|(file, diagnostic)| (*file, diagnostic.at.start, diagnostic.at.end));
    let mut told: Vec<(usize, Vec<Diagnostic>)> = Vec::new();
    for (file, diagnostic) in found {
        match told.last_mut().filter(|(last, _)| *last == file) {
            Some((_, all)) => all.push(diagnostic),
            None => told.push((file, vec![diagnostic])),
        }
    }
    told.into_iter().map(|(file, found)| (files.source(file).clone(), found)).collect()
}
