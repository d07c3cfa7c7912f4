//! Tests of the language as a whole: every extension's cases, both forms, and text that comes back as it went.

use super::option::{Case, Complaint, Extension};
use super::{Families, Reach, Rule, Site, Table, matches, parse_text, print, targets};
use crate::facts::Family;

fn ports() -> Vec<String> {
    ["lan0", "lan1", "wan0", "eth0"].map(String::from).to_vec()
}

fn parse(family: Family, table: Table, text: &str) -> Result<Vec<Rule>, Vec<Complaint>> {
    let ports = ports();
    let site = Site { families: Families::Only(family), table, reach: Reach::User(0), ports: &ports, base: 0, line: 0 };
    parse_text(text, &site).map(|parsed| parsed.bodies.into_iter().map(|body| body.rule).collect())
}

fn show(rule: &Rule, family: Family) -> String {
    print(rule, family, |_| "chain")
}

/// One rule comes out, prints as the case says, and the print is a fixed point; or the complaint has the words.
fn run(case: &Case, table: Table) {
    match *case {
        Case::Prints(family, text, canonical) => {
            let canonical = if canonical == "=" { text } else { canonical };
            let rules = parse(family, table, text).unwrap_or_else(|complaints| panic!("{text}: {complaints:?}"));
            let [rule] = rules.as_slice() else { panic!("{text}: {} rules", rules.len()) };
            assert_eq!(show(rule, family), canonical, "{text}");
            let again =
                parse(family, table, canonical).unwrap_or_else(|complaints| panic!("{canonical}: {complaints:?}"));
            assert_eq!(again, rules, "{canonical}");
        }
        Case::Refused(family, text, words) => match parse(family, table, text) {
            Ok(rules) => panic!("{text} was accepted: {}", show(&rules[0], family)),
            Err(complaints) => {
                assert!(complaints.iter().any(|c| c.what.contains(words)), "{text}: {complaints:?}");
                assert!(complaints.iter().all(|c| c.at.end <= text.len()), "{text}: {complaints:?}");
            }
        },
    }
}

fn run_all<T>(extension: &Extension<T>) {
    let table = extension.tables.first().copied().unwrap_or(Table::Mangle);
    extension.cases.iter().for_each(|case| run(case, table));
    assert!(!extension.cases.is_empty() && !extension.summary.is_empty(), "{}", extension.name);
}

#[test]
fn every_target_keeps_its_cases() {
    targets::EXTENSIONS.iter().for_each(|extension| run_all(extension));
}

#[test]
fn every_match_keeps_its_cases() {
    matches::EXTENSIONS.iter().for_each(|extension| run_all(extension));
}
