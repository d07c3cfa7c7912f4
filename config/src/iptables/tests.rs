//! Files and what they become; text that comes back as it went.

use super::*;
use crate::diag::short;
use crate::rule::option::Case;
use crate::rule::{Families, Hook, Reach, Site, Table, matches, parse_text, targets};
use crate::set::{Declaration, Header, Kind, samples};
use std::net::Ipv4Addr;

fn ports() -> Vec<String> {
    ["lan0", "lan1", "wan0", "eth0"].map(String::from).to_vec()
}

fn import(text: &str) -> Result<Import, Vec<String>> {
    let ports = ports();
    let source = Source::new("f", text);
    let around = Surroundings { family: None, ports: &ports, names: samples::names() };
    read(&source, around).map_err(|found| found.iter().map(|d| short(&source, d)).collect())
}

#[test]
fn files_become_what_iptables_would_make_of_them() {
    let cases = include_str!("../../tests/iptables.txt").split("====\n").skip(1);
    let mut wrong = String::new();
    for case in cases {
        let (text, expected) = case.split_once("-----\n").expect("a file and what becomes of it");
        let found = match import(text) {
            Ok(import) => {
                assert_eq!(bare(&toml_ruleset(&import.toml())), bare(&import.ruleset), "{text}");
                import.toml()
            }
            Err(found) => found.iter().map(|line| format!("=> {}\n", line.replacen("f:", "", 1))).collect(),
        };
        if found != expected {
            wrong.push_str(&format!("{text}-----\n{found}====\n"));
        }
    }
    assert!(wrong.is_empty(), "these files become something else now:\n{wrong}");
}

/// The ruleset of a TOML text with our ports.
fn toml_ruleset(text: &str) -> Ruleset {
    let ports: String = ports().iter().map(|port| format!("[interfaces.{port}]\n")).collect();
    let set = |set: &Declaration| {
        let Header { name, kind, family, range, .. } = &set.header;
        let family = family
            .filter(|_| kind.name().starts_with("hash"))
            .map_or(String::new(), |f| format!("family = \"{}\"\n", if f == Family::V4 { "inet" } else { "inet6" }));
        let range = match kind {
            Kind::BitmapPort => format!("range = \"{}-{}\"\n", range.0, range.1),
            Kind::BitmapIpMac => format!("range = \"{}-{}\"\n", Ipv4Addr::from(range.0), Ipv4Addr::from(range.1)),
            _ => String::new(),
        };
        format!("[sets.{name}]\ntype = \"{}\"\n{family}{range}", kind.name())
    };
    let sets: String = samples::sets().iter().map(set).collect();
    let source = Source::new("t", format!("{text}\n{ports}{sets}"));
    let loaded = crate::schema::load(&source);
    loaded
        .unwrap_or_else(|found| panic!("{text}: {:?}", found.iter().map(|d| short(&source, d)).collect::<Vec<_>>()))
        .0
        .policy
        .ruleset
}

/// Both families as iptables-save and ip6tables-save print them.
fn saved(ruleset: &Ruleset) -> String {
    let one = |(family, program)| save(ruleset, family, (program, "a day"), None);
    [(Family::V4, "iptables-save"), (Family::V6, "ip6tables-save")].map(one).concat()
}

/// The rules alone, without the lines that they stood on.
fn bare(ruleset: &Ruleset) -> Ruleset {
    let mut ruleset = ruleset.clone();
    let chains = ruleset.families.iter_mut().flat_map(|family| &mut family.tables).flat_map(|table| &mut table.chains);
    chains.flat_map(|chain| &mut chain.rules).for_each(|rule| rule.line = 0);
    ruleset
}

/// TOML, iptables-save text, and TOML again are the same rules.
fn comes_back(toml: &str) {
    let ruleset = toml_ruleset(toml);
    let text = saved(&ruleset);
    let read = import(&text).unwrap_or_else(|found| panic!("{found:?}\n{text}"));
    assert_eq!(bare(&read.ruleset), bare(&ruleset), "{toml}\n{text}");
    let again = read.toml();
    assert_eq!(bare(&toml_ruleset(&again)), bare(&ruleset), "{toml}\n{again}");
    assert_eq!(saved(&toml_ruleset(&again)), text);
}

/// Where a rule may stand: the first built-in chain that takes it.
fn place(family: Family, text: &str) -> Option<(Table, Hook)> {
    let ports = ports();
    let mut places = Table::ALL.into_iter().flat_map(|table| table.hooks().iter().map(move |&hook| (table, hook)));
    places.find(|&(table, hook)| {
        let families = Families::Only(family);
        let reach = Reach::BuiltIn(hook);
        parse_text(text, &Site { families, table, reach, ports: &ports, names: samples::names(), base: 0, line: 0 })
            .is_ok()
    })
}

#[test]
fn every_case_of_every_extension_comes_back_from_iptables_text() {
    let matches = matches::EXTENSIONS.iter().flat_map(|extension| extension.cases);
    let targets = targets::EXTENSIONS.iter().flat_map(|extension| extension.cases);
    let mut chains: BTreeMap<(&str, Table, &str), Vec<String>> = BTreeMap::new();
    for case in matches.chain(targets) {
        let Case::Prints(family, text, _) = *case else { continue };
        let (table, hook) = place(family, text).unwrap_or_else(|| panic!("{text:?} is accepted nowhere"));
        let rules = chains.entry((family.name(), table, hook.name())).or_default();
        rules.push(::toml::Value::String(text.to_string()).to_string());
    }
    let section = |((family, table, chain), rules): (&(&str, Table, &str), &Vec<String>)| {
        format!("[{family}.{}.{chain}]\nrules = [\n{}\n]\n", table.name(), rules.join(",\n"))
    };
    comes_back(&chains.iter().map(section).collect::<String>());
}

const RULES: &[&str] = &[
    "",
    "-i lan0",
    "! -o wan+ -s 10.0.0.0/8,192.0.2.1",
    "-d 2001:db8::/32 -j ACCEPT",
    "-p tcp --dport 22 -j DROP",
    "-m comment --comment \"a 'b' \\\"c\\\" \\\\\" -j RETURN",
    "-m limit --limit 5/min -j LOG --log-prefix 'x y '",
    "-p icmp --icmp-type 8 -j ACCEPT",
    "-m mark --mark 1/3",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn generated_rulesets_come_back_from_iptables_text(
        names in proptest::collection::btree_set("[a-zA-Z][a-z0-9.+_-]{0,8}", 0..5),
        builtin in proptest::collection::vec((0usize..5, 0usize..5, proptest::bool::ANY, proptest::collection::vec(0..RULES.len(), 0..4)), 0..6),
        user in proptest::collection::vec(proptest::collection::vec((0..RULES.len(), proptest::option::of(0usize..5), proptest::bool::ANY), 0..4), 5),
    ) {
        let quoted = |text: &str| ::toml::Value::String(text.to_string()).to_string();
        let names: Vec<&String> = names.iter().filter(|name| !targets::is_name(name)).collect();
        let mut chains: BTreeMap<String, String> = BTreeMap::new();
        for (table, hook, drop, rules) in builtin {
            let table = Table::ALL[table];
            let hook = table.hooks()[hook % table.hooks().len()];
            let jumps = (table == Table::Mangle).then(|| names.iter().map(|name| format!("-j {name}"))).into_iter().flatten();
            let texts = rules.iter().map(|&rule| RULES[rule].to_string()).chain(jumps);
            let ours = texts.filter(|text| text.starts_with("-j") || place(Family::V4, text).or(place(Family::V6, text)).is_some());
            let taken = ours.filter(|text| {
                let site = Site { families: Families::Both, table, reach: Reach::BuiltIn(hook), ports: &ports(), names: samples::names(), base: 0, line: 0 };
                parse_text(text, &site).is_ok()
            });
            let policy = if drop { "policy = \"DROP\"\n" } else { "" };
            let rules: Vec<String> = taken.map(|text| quoted(&text)).collect();
            chains.insert(format!("{}.{}", table.name(), hook.name()), format!("{policy}rules = [{}]\n", rules.join(", ")));
        }
        for (i, name) in names.iter().enumerate() {
            // Only to chains behind it: no circles.
            let rule = |&(rule, to, goto): &(usize, Option<usize>, bool)| {
                let conditions = RULES[rule].split(" -j ").next().unwrap_or_default();
                let to = to.and_then(|to| names.get(i + 1 + to)).map(|to| format!(" {} {to}", if goto { "-g" } else { "-j" }));
                quoted(format!("{conditions}{}", to.unwrap_or_default()).trim_start())
            };
            let rules: Vec<String> = user[i].iter().map(rule).collect();
            chains.insert(format!("mangle.{}", quoted(name)), format!("rules = [{}]\n", rules.join(", ")));
        }
        let toml: String = chains.iter().map(|(chain, body)| format!("[{chain}]\n{body}")).collect();
        comes_back(&toml);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "([-!*:a-zA-Z0-9./,'\"\\\\#$;&|<>{}\\[\\] \n]|iptables -A INPUT |-j |\\*filter\n|COMMIT\n|:a - \n|-[AIDRNXEPFZ] ){0,40}") {
        let _ = import(&text);
    }
}
