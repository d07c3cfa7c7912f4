//! A ruleset as sections of a configuration.

use super::Notes;
use crate::facts::Family;
use crate::rule::{Policy, Table, print as rule_text};
use crate::ruleset::{Chain, Ruleset};
use std::fmt::Write;

/// The rules of the families, and the names that they use and no port has.
pub(super) fn print(ruleset: &Ruleset, families: &[Family], foreign: &[String], notes: &Notes) -> String {
    let mut out = String::new();
    if !foreign.is_empty() {
        let names: Vec<String> = foreign.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(out, "[foreign]\ninterfaces = [{}]", names.join(", "));
    }
    for &family in families {
        for table in Table::ALL {
            let chains = &ruleset.of(family).tables[table as usize].chains;
            let mut order: Vec<&Chain> = chains.iter().collect();
            order[table.hooks().len()..].sort_by(|a, b| a.name.cmp(&b.name));
            for chain in order {
                section(family, table, chain, chains, notes, &mut out);
            }
        }
    }
    out
}

/// A chain, unless it says nothing.
fn section(family: Family, table: Table, chain: &Chain, chains: &[Chain], notes: &Notes, out: &mut String) {
    if chain.rules.is_empty() && chain.policy == Some(Policy::Accept) {
        return;
    }
    let name = |index: u32| chains.get(index as usize).map_or("", |chain| chain.name.as_str());
    let notes = notes.get(&(family, table, chain.name.clone()));
    if !out.is_empty() {
        out.push('\n');
    }
    notes.iter().flat_map(|notes| &notes.chain).for_each(|note| comment("", note, out));
    let _ = writeln!(out, "[{}.{}.{}]", family.name(), table.name(), key(&chain.name));
    if chain.policy == Some(Policy::Drop) {
        out.push_str("policy = \"DROP\"\n");
    }
    if chain.rules.is_empty() {
        return;
    }
    out.push_str("rules = [\n");
    for (i, rule) in chain.rules.iter().enumerate() {
        notes.and_then(|notes| notes.rules.get(i)).into_iter().flatten().for_each(|note| comment("  ", note, out));
        let _ = writeln!(out, "  {},", quoted(&rule_text(rule, family, name)));
    }
    out.push_str("]\n");
}

fn comment(indent: &str, text: &str, out: &mut String) {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(out, "{indent}# {text}");
}

/// A name as the part of a key.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_string() } else { quoted(name) }
}

/// A string of one line.
fn quoted(text: &str) -> String {
    let plain = !text.contains(['\'', '\n']) && !text.contains(char::is_control);
    if text.contains(['"', '\\']) && plain {
        return format!("'{text}'");
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
