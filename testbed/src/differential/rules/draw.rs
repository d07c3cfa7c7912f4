//! The chains of a random ruleset, and its rules.

use super::super::net::of;
use super::super::rng::Rng;
use super::{Chain, Rules, address, alteration, mapping, packet, protocol, registry, stateful, tracked, verdict};
use sumun_config::facts::Family;
use sumun_config::rule::option::table_hooks;
use sumun_config::rule::{Hook, Table};

/// Where a rule is to stand.
pub(super) struct Place<'a> {
    /// Its family.
    pub family: Family,
    /// Its table.
    pub table: Table,
    /// The hooks that its chain is reached from, as bits.
    pub hooks: u8,
    /// Whether it is the built-in chain of its hook.
    pub is_builtin: bool,
    /// Chains of its table that it may jump to.
    pub later: &'a [String],
}

impl Place<'_> {
    /// Whether it is reached from these hooks only.
    pub fn is_within(&self, hooks: &[Hook]) -> bool {
        hooks.iter().fold(self.hooks, |left, hook| left & !hook.bit()) == 0
    }

    /// Whether it is reached from this hook.
    pub fn is_at(&self, hook: Hook) -> bool {
        self.hooks & hook.bit() != 0
    }

    /// One of two by its family.
    pub fn of<T>(&self, v4: T, v6: T) -> T {
        of(self.family, v4, v6)
    }
}

/// Writes a condition that is aimed at the traffic, if it has one for the place.
type Maker = fn(&Place, &mut Rng) -> Option<String>;

/// What writes conditions beside addresses and protocols.
const MAKERS: [Maker; 4] = [packet::condition, tracked::condition, stateful::condition, registry::condition];

/// A random ruleset.
pub fn rules(family: Family, mut rng: Rng) -> Rules {
    let mut chains = Vec::new();
    for table in Table::ALL {
        let shared = if rng.chance(30) { vec!["shared-0".to_string()] } else { Vec::new() };
        for &hook in table.hooks() {
            let own = (0..[0, 0, 0, 1, 2][rng.below(5)]).map(|n| format!("{}-{n}", hook.name().to_lowercase()));
            let names: Vec<_> = std::iter::once(hook.name().to_string()).chain(own).chain(shared.clone()).collect();
            let mut place = Place { family, table, hooks: hook.bit(), is_builtin: true, later: &[] };
            for (i, name) in names[..names.len() - shared.len()].iter().enumerate() {
                (place.is_builtin, place.later) = (i == 0, &names[i + 1..]);
                let mut rules = some_rules(&place, &mut rng);
                let from = if i == 0 { place.later } else { &[] };
                for chain in from {
                    let at = rng.below(rules.len() + 1);
                    rules.insert(at, format!("{}{}", conditions(&place, &mut rng), verdict::jump(chain, &mut rng)));
                }
                let policy = (i == 0).then(|| verdict::policy(table, &mut rng));
                chains.push(Chain { table: table.name(), name: name.clone(), policy, rules });
            }
        }
        for name in shared {
            let place = Place { family, table, hooks: table_hooks(table), is_builtin: false, later: &[] };
            let rules = some_rules(&place, &mut rng);
            chains.push(Chain { table: table.name(), name, policy: None, rules });
        }
    }
    Rules { family, chains }
}

fn some_rules(place: &Place, rng: &mut Rng) -> Vec<String> {
    let most = match place.table {
        Table::Filter => 9,
        Table::Nat => 4,
        Table::Security => 3,
        Table::Raw | Table::Mangle => 5,
    };
    (0..rng.below(most)).map(|_| rule(place, rng)).collect()
}

/// One rule, which Sumun takes at its place.
fn rule(place: &Place, rng: &mut Rng) -> String {
    for _ in 0..20 {
        let conditions = conditions(place, rng);
        let rule = match target(place, &conditions, rng) {
            Some(target) if target.starts_with("-j") || target.starts_with("-g") => format!("{conditions}{target}"),
            // It brings the conditions that it asks for.
            Some(rule) => rule,
            None => conditions,
        };
        let rule = rule.trim_end();
        if registry::takes(rule, place) {
            return rule.into();
        }
    }
    "-j RETURN".into()
}

/// Conditions, with a blank behind each.
fn conditions(place: &Place, rng: &mut Rng) -> String {
    for _ in 0..20 {
        let mut parts = Vec::new();
        if rng.chance(10) {
            parts.extend(registry::protocol(place, rng));
        } else {
            parts.extend(address::conditions(place, rng));
            parts.extend(rng.chance(50).then(|| protocol::condition(place, rng)));
        }
        for _ in 0..[0, 0, 1, 1, 2, 3][rng.below(6)] {
            parts.extend(rng.pick(&MAKERS)(place, rng));
        }
        let text: String = parts.iter().map(|part| format!("{} ", part.trim_end())).collect();
        if !registry::is_misread(&text) && registry::takes(&text, place) {
            return text;
        }
    }
    String::new()
}

/// A target, or a rule of it and the conditions that it asks for; none only counts.
fn target(place: &Place, conditions: &str, rng: &mut Rng) -> Option<String> {
    match rng.below(100) {
        0..6 => None,
        6..12 => registry::target(place, rng),
        12..30 if !place.later.is_empty() => Some(verdict::jump(&place.later[rng.below(place.later.len())], rng)),
        30..36 => Some("-j RETURN".into()),
        _ => Some(match place.table {
            Table::Raw => alteration::of_raw(rng),
            Table::Mangle => alteration::of_mangle(place, rng),
            Table::Nat => mapping::target(place, conditions, rng),
            Table::Filter | Table::Security => verdict::target(place, conditions, rng),
        }),
    }
}
