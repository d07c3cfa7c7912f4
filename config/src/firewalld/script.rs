//! The commands of iptables that a configuration amounts to, each with the place that it comes from.

use super::xml::Place;
use crate::facts::Family;
use crate::rule::Table;
use std::collections::BTreeSet;

/// Commands in order, and the chains that they need.
#[derive(Default)]
pub(super) struct Script {
    lines: Vec<(String, Place)>,
    notes: Vec<(usize, String)>,
    chains: BTreeSet<(Family, String, String)>,
    made: Vec<(String, Place)>,
}

fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/+%=@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''").replace(['\n', '\r'], " "))
}

impl Script {
    /// Makes a chain; what is there already, or is built in, stays.
    pub fn chain(&mut self, family: Family, table: &str, chain: &str, at: &Place) {
        let builtin = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&chain);
        if !builtin && self.chains.insert((family, table.to_string(), chain.to_string())) {
            let text = format!("{} -t {} -N {}", program(family), quoted(table), quoted(chain));
            self.made.push((text, at.clone()));
        }
    }

    /// Whether something was put into the chain, or it was made.
    pub fn has(&self, family: Family, table: Table, chain: &str) -> bool {
        self.chains.contains(&(family, table.name().to_string(), chain.to_string()))
    }

    /// A rule at the end of a chain, which it makes.
    pub fn rule(&mut self, family: Family, table: &str, chain: &str, rule: &str, at: &Place) {
        self.chain(family, table, chain, at);
        let text = format!("{} -t {} -A {} {rule}", program(family), quoted(table), quoted(chain));
        self.lines.push((text, at.clone()));
    }

    /// Words that are a command by themselves.
    pub fn command(&mut self, family: Family, words: &[String], at: &Place) {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        self.lines.push((format!("{} {}", program(family), words.join(" ")), at.clone()));
    }

    /// A comment before the next rule.
    pub fn note(&mut self, text: &str) {
        self.notes.push((self.lines.len(), text.replace(['\n', '\r'], " ")));
    }

    /// The text, and the place of each of its lines.
    pub fn finish(self) -> (String, Vec<Place>) {
        let (mut text, mut places) = (String::new(), Vec::new());
        let mut add = |line: &str, at: &Place| {
            text.push_str(line);
            text.push('\n');
            places.push(at.clone());
        };
        self.made.iter().for_each(|(line, at)| add(line, at));
        let mut notes = self.notes.iter().peekable();
        for (i, (line, at)) in self.lines.iter().enumerate() {
            while let Some((_, note)) = notes.next_if(|(before, _)| *before <= i) {
                add(&format!("# {note}"), at);
            }
            add(line, at);
        }
        (text, places)
    }
}
