//! Rules that are iptables' own: direct.xml.

use super::rich::number;
use super::xml::{Element, Mistakes, Place, Value};
use crate::facts::Family;

/// What direct.xml says, in its order.
#[derive(Debug, Default)]
pub(super) struct Direct {
    pub chains: Vec<Chain>,
    pub rules: Vec<Rule>,
    pub passed: Vec<Passed>,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub family: Family,
    pub table: String,
    pub chain: String,
    pub at: Place,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub chain: Chain,
    pub priority: i32,
    pub words: Vec<String>,
}

/// Words of an iptables command that are passed on.
#[derive(Debug)]
pub(super) struct Passed {
    pub family: Family,
    pub words: Vec<String>,
    pub at: Place,
}

pub(super) fn direct(root: Element, mistakes: &mut Mistakes) -> Direct {
    root.only(&["version"], &["chain", "rule", "passthrough"], mistakes);
    let mut direct = Direct::default();
    for element in root.elements() {
        match element.name() {
            "chain" => {
                element.only(&["ipv", "table", "chain"], &[], mistakes);
                direct.chains.extend(chain(element, mistakes));
            }
            "rule" => {
                let text = element.only_text(&["ipv", "table", "chain", "priority"], mistakes);
                let priority =
                    element.need("priority", mistakes).map(|value| number(&value, i32::MIN, i32::MAX, mistakes));
                let (chain, words) = (chain(element, mistakes), words(&text, mistakes));
                if let (Some(chain), Some(priority), Some(words)) = (chain, priority, words) {
                    direct.rules.push(Rule { chain: Chain { at: text.at, ..chain }, priority, words });
                }
            }
            "passthrough" => {
                let text = element.only_text(&["ipv"], mistakes);
                if let (Some(family), Some(words)) = (family(element, mistakes), words(&text, mistakes)) {
                    direct.passed.push(Passed { family, words, at: text.at });
                }
            }
            _ => {}
        }
    }
    direct.rules.sort_by_key(|rule| rule.priority);
    direct
}

fn chain(element: Element, mistakes: &mut Mistakes) -> Option<Chain> {
    let (family, table, chain) =
        (family(element, mistakes), element.need("table", mistakes), element.need("chain", mistakes));
    Some(Chain { family: family?, table: table?.text, chain: chain?.text, at: element.at() })
}

fn family(element: Element, mistakes: &mut Mistakes) -> Option<Family> {
    let value = element.need("ipv", mistakes)?;
    match value.text.as_str() {
        "ipv4" => Some(Family::V4),
        "ipv6" => Some(Family::V6),
        other => {
            mistakes.add(&value.at, format!("`ipv` cannot be `{other}`: there are no bridges here"), "ipv4 or ipv6");
            None
        }
    }
}

/// Words as a shell splits them, but nothing else means anything.
fn words(text: &Value, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.text.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(open) if c == open => quote = None,
            Some('"') if c == '\\' => word.get_or_insert_default().extend(chars.next()),
            None if c == '\\' => word.get_or_insert_default().extend(chars.next()),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        mistakes.add(
            &text.at,
            format!("a quote is not closed: {}", text.text),
            format!("{open} at the end of the word"),
        );
        return None;
    }
    words.extend(word);
    Some(words)
}
