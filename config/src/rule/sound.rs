//! What the parser makes is sound: it passes the checks for rules from an enemy, travels, and reads back as it prints.
//!
//! Asked of every case of every extension, for both families, in every built-in chain that takes it.

use super::option::{Case, Extension};
use super::{Body, Families, Hook, Reach, Rule, Site, Table, matches, parse_text, print, targets};
use crate::facts::Family;
use crate::object::Objects;
use crate::ruleset::Ruleset;
use crate::set::samples;

const PORTS: usize = 4;

fn parse(family: Family, table: Table, hook: Hook, text: &str) -> Vec<Body> {
    let ports = ["lan0", "lan1", "wan0", "eth0"].map(String::from);
    let reach = Reach::BuiltIn(hook);
    let site = Site {
        families: Families::Only(family),
        table,
        reach,
        ports: &ports,
        names: samples::names(),
        base: 0,
        line: 0,
    };
    parse_text(text, &site).map(|parsed| parsed.bodies).unwrap_or_default()
}

/// A ruleset with these rules in one built-in chain, each stateful match with a cell of its own.
fn ruleset(family: Family, table: Table, at: usize, rules: &[Rule]) -> Ruleset {
    let mut ruleset = Ruleset::empty(super::Policy::Accept);
    let mut rules = rules.to_vec();
    for cell in rules.iter_mut().flat_map(|rule| &mut rule.conds).filter_map(|cond| cond.test.cells()) {
        *cell = ruleset.cells;
        ruleset.cells += 1;
    }
    let mut objects = Objects::default();
    rules.iter_mut().for_each(|rule| objects.link(rule).unwrap_or_else(|why| panic!("{why}")));
    ruleset.objects = objects.into_vec();
    ruleset.families[family.index()].tables[table as usize].chains[at].rules = rules;
    ruleset
}

/// Checks a text wherever it is accepted; how many places that were.
fn sound(text: &str) -> usize {
    let mut places = 0;
    for family in Family::ALL {
        for table in Table::ALL {
            for (at, &hook) in table.hooks().iter().enumerate() {
                let rules: Vec<Rule> = parse(family, table, hook, text).into_iter().map(|body| body.rule).collect();
                if rules.is_empty() {
                    continue;
                }
                places += 1;
                let place = format!("{text:?}, {} {} {}", family.name(), table.name(), hook.name());
                let ruleset = ruleset(family, table, at, &rules);
                ruleset.verify(PORTS).unwrap_or_else(|why| panic!("{place}: {why}"));
                let bytes = postcard::to_stdvec(&ruleset).unwrap_or_else(|why| panic!("{place}: {why}"));
                assert_eq!(postcard::from_bytes::<Ruleset>(&bytes).as_ref(), Ok(&ruleset), "{place}");
                for rule in &rules {
                    let printed = print(rule, family, |_| "chain");
                    let again = parse(family, table, hook, &printed);
                    let [again] = again.as_slice() else { panic!("{place}: {printed:?} is {} rules", again.len()) };
                    assert_eq!(again.rule, *rule, "{place}: {printed}");
                }
            }
        }
    }
    places
}

fn all_sound<T>(extension: &Extension<T>) {
    for case in extension.cases {
        if let Case::Prints(_, text, _) = *case {
            assert!(sound(text) > 0, "{text:?} of {} is accepted nowhere", extension.name);
        }
    }
}

#[test]
fn every_target_that_parses_verifies_travels_and_prints() {
    targets::EXTENSIONS.iter().for_each(|extension| all_sound(extension));
}

#[test]
fn every_match_that_parses_verifies_travels_and_prints() {
    matches::EXTENSIONS.iter().for_each(|extension| all_sound(extension));
}

#[test]
fn core_conditions_that_parse_verify_travel_and_print() {
    let texts = [
        "-s 10.0.0.0/8 ! -d 192.0.2.1",
        "-s 10.0.0.0/255.0.255.0",
        "-s 10.0.0.1,10.0.0.2 -d 10.1.0.0/16,10.2.0.0/16",
        "-s 2001:db8::/32 ! -d ::1",
        "-s 0.0.0.0/0",
        "-d ::/0",
        "-i lan0",
        "! -i lan+",
        "-i +",
        "-o wan0",
        "-i lan1 ! -o eth0",
        "-f",
        "! -f",
        "-p all",
        "-p 41",
        "-p 0",
        "! -p ipv6-icmp",
        "-p 255",
    ];
    for text in texts {
        assert!(sound(text) > 0, "{text:?} is accepted nowhere");
    }
}
