//! From chains by name to a ruleset by index: jumps find their chains, hooks find what they reach.
//!
//! What can only be said of a whole table is checked here: chains that are there twice or in the wrong table, jumps to
//! nowhere, loops, and matches and targets that a hook which reaches their chain does not allow. The kernel checks a
//! user chain against the built-in chains that lead to it, however long the way (`mark_source_chains`); so does this.

use crate::facts::Family;
use crate::rule::option::Complaint;
use crate::rule::targets::verdict::Verdict;
use crate::rule::{self, Families, Hook, JumpTo, ParsedRule, Policy, Rule, Table, Target};
use crate::ruleset::{Chain, Chains, Reached, Ruleset};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A chain as it was written.
#[derive(Clone, Debug)]
pub struct ChainSource {
    /// Its table.
    pub table: Table,
    /// Families that have it.
    pub families: Families,
    /// `FORWARD`, or a name of its own.
    pub name: String,
    /// For a built-in chain; ACCEPT where none.
    pub policy: Option<Policy>,
    /// In order.
    pub rules: Vec<ParsedRule>,
    /// Its place in the file.
    pub at: Range<usize>,
}

/// Most characters of a chain's name (`XT_EXTENSION_MAXNAMELEN` less one).
const MAX_NAME: usize = 28;

/// Puts chains together. `ports` are those that the rules were parsed with.
pub fn link(sources: Vec<ChainSource>, ports: &[String]) -> Result<Ruleset, Vec<Complaint>> {
    let mut complaints = Complaints::default();
    for source in &sources {
        check_name(source, &mut complaints);
    }
    let mut ruleset = Ruleset::empty(Policy::Accept);
    let everywhere = Existing::of(&sources);
    for family in Family::ALL {
        for table in Table::ALL {
            let chains: Vec<&ChainSource> =
                sources.iter().filter(|s| s.table == table && s.families.has(family)).collect();
            let linker = Linker { family, table, ports, existing: &everywhere };
            ruleset.families[family.index()].tables[table as usize] = linker.link(&chains, &mut complaints);
        }
    }
    number_cells(&mut ruleset);
    complaints.into_result().map(|()| ruleset)
}

/// Complaints, each once although both families may bring it.
#[derive(Default)]
struct Complaints(Vec<Complaint>);

impl Complaints {
    fn add(&mut self, at: &Range<usize>, what: String, accepts: Option<String>) {
        self.extend([Complaint { at: at.clone(), what, accepts }]);
    }

    fn extend(&mut self, complaints: impl IntoIterator<Item = Complaint>) {
        for complaint in complaints {
            if !self.0.contains(&complaint) {
                self.0.push(complaint);
            }
        }
    }

    fn into_result(self) -> Result<(), Vec<Complaint>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// User chains by table and name, with the families that have them.
struct Existing(BTreeSet<(Table, Family, String)>);

impl Existing {
    fn of(sources: &[ChainSource]) -> Existing {
        let each = |s: &ChainSource| {
            Family::ALL
                .into_iter()
                .filter(|&f| s.families.has(f))
                .map(|f| (s.table, f, s.name.clone()))
                .collect::<Vec<_>>()
        };
        Existing(sources.iter().flat_map(each).collect())
    }

    fn has(&self, table: Table, family: Family, name: &str) -> bool {
        self.0.contains(&(table, family, name.to_string()))
    }
}

fn builtin(name: &str) -> Option<Hook> {
    Hook::ALL.into_iter().find(|hook| hook.name() == name)
}

fn check_name(source: &ChainSource, complaints: &mut Complaints) {
    let ChainSource { table, name, at, .. } = source;
    if let Some(hook) = builtin(name) {
        if !table.hooks().contains(&hook) {
            let accepts = rule::word::either(table.hooks().iter().map(|h| h.name()));
            complaints.add(at, format!("table {} has no chain {name}", table.name()), Some(accepts));
        }
        return;
    }
    if source.policy.is_some() {
        complaints.add(
            at,
            format!("the user chain `{name}` cannot have a policy"),
            Some("a last rule with the policy as target".to_string()),
        );
    }
    let odd = name.starts_with(['-', '!']) || name.contains(|c: char| c.is_whitespace() || c.is_control());
    let what = match name {
        _ if name.is_empty() => "a chain needs a name".to_string(),
        _ if odd => format!("`{}` cannot be the name of a chain", name.escape_debug()),
        _ if name.len() > MAX_NAME => format!("the name of the chain `{name}` is longer than {MAX_NAME} bytes"),
        _ if rule::targets::is_name(name) => format!("a chain cannot have the name of the target {name}"),
        _ => return,
    };
    complaints.add(at, what, None);
}

/// Puts one table of one family together.
struct Linker<'a> {
    family: Family,
    table: Table,
    ports: &'a [String],
    existing: &'a Existing,
}

impl Linker<'_> {
    fn link(&self, sources: &[&ChainSource], complaints: &mut Complaints) -> Chains {
        let hooks = self.table.hooks();
        let mut index: BTreeMap<&str, usize> = hooks.iter().enumerate().map(|(i, hook)| (hook.name(), i)).collect();
        let mut placed: Vec<Option<&ChainSource>> = vec![None; hooks.len()];
        for &source in sources {
            let name = source.name.as_str();
            let place = *index.entry(name).or_insert(placed.len());
            if place == placed.len() {
                placed.push(Some(source));
            } else if placed[place].replace(source).is_some() {
                complaints.add(
                    &source.at,
                    format!("the chain {name} of table {} is there twice", self.table.name()),
                    None,
                );
            }
        }
        let chains = placed.iter().enumerate().map(|(i, source)| {
            let rules = source
                .map(|s| s.rules.iter().flat_map(|rule| self.bodies(rule, &index, complaints)).collect())
                .unwrap_or_default();
            let name =
                hooks.get(i).map(|hook| hook.name().to_string()).or(source.map(|s| s.name.clone())).unwrap_or_default();
            let policy = hooks.get(i).map(|_| source.and_then(|s| s.policy).unwrap_or_default());
            Chain { name, policy, rules }
        });
        let linked = Chains { chains: chains.collect() };
        match linked.reach(hooks) {
            Ok(reached) => self.check_reached(&placed, &reached, complaints),
            Err(cycle) => {
                let name = |i: &usize| linked.chains[*i].name.as_str();
                let way: Vec<&str> = cycle.iter().chain(cycle.first()).map(name).collect();
                let at = cycle.first().and_then(|&i| placed[i]).map_or(0..0, |source| source.at.clone());
                complaints.add(
                    &at,
                    format!("the jumps of table {} go in a circle: {}", self.table.name(), way.join(" -> ")),
                    None,
                );
            }
        }
        linked
    }

    /// The rules of this family that a parsed rule is, with its jump found.
    fn bodies(&self, parsed: &ParsedRule, index: &BTreeMap<&str, usize>, complaints: &mut Complaints) -> Vec<Rule> {
        let mut rules = Vec::new();
        for body in parsed.bodies.iter().filter(|body| body.family == self.family) {
            let mut rule = body.rule.clone();
            if let Some(jump) = &body.jump {
                match self.find(jump, index) {
                    Ok(target) => rule.target = Some(Target::Verdict(target)),
                    Err(_) if self.serves_elsewhere(parsed, jump) => continue,
                    Err(complaint) => {
                        complaints.extend([complaint]);
                        continue;
                    }
                }
            }
            rules.push(rule);
        }
        rules
    }

    /// Whether the rule is one of the other family too and the chain is there: then it is meant for that family.
    fn serves_elsewhere(&self, parsed: &ParsedRule, jump: &JumpTo) -> bool {
        let other = |body: &&rule::Body| {
            body.family != self.family && self.existing.has(self.table, body.family, &jump.chain.text)
        };
        builtin(&jump.chain.text).is_none() && parsed.bodies.iter().any(|body| other(&body))
    }

    fn find(&self, jump: &JumpTo, index: &BTreeMap<&str, usize>) -> Result<Verdict, Complaint> {
        let name = jump.chain.text.as_str();
        let complain = |what: String, accepts| Complaint { at: jump.chain.at.clone(), what, accepts };
        if builtin(name).is_some() {
            return Err(complain(
                format!("the built-in chain {name} cannot be jumped to"),
                Some("a user chain of the same table".to_string()),
            ));
        }
        if let Some(&chain) = index.get(name) {
            let chain = chain as u32;
            return Ok(if jump.goto { Verdict::Goto(chain) } else { Verdict::Jump(chain) });
        }
        let chains = index.keys().copied().filter(|name| builtin(name).is_none());
        let targets =
            rule::targets::EXTENSIONS.iter().filter(|t| !jump.goto && t.families.has(self.family)).map(|t| t.name);
        let near = rule::word::nearest(name, chains.chain(targets)).map(|near| format!("did you mean `{near}`?"));
        let what = match jump.goto {
            true => format!("table {} has no chain `{name}`", self.table.name()),
            false => format!("`{name}` is neither a target nor a chain of table {}", self.table.name()),
        };
        Err(complain(what, near))
    }

    /// Rules of user chains are built once more, for the hooks that lead to them.
    fn check_reached(&self, placed: &[Option<&ChainSource>], reached: &Reached, complaints: &mut Complaints) {
        for (source, &hooks) in placed.iter().zip(&reached.hooks).skip(self.table.hooks().len()) {
            for rule in source.iter().flat_map(|source| &source.rules) {
                if let (true, Err(found)) = (hooks != 0, rule.rebuild(self.family, self.table, hooks, self.ports)) {
                    complaints.extend(found);
                }
            }
        }
    }
}

/// Gives each stateful match its own cell.
fn number_cells(ruleset: &mut Ruleset) {
    let mut next = 0;
    let chains = ruleset.families.iter_mut().flat_map(|family| &mut family.tables).flat_map(|table| &mut table.chains);
    for cond in chains.flat_map(|chain| &mut chain.rules).flat_map(|rule| &mut rule.conds) {
        if let Some(cell) = cond.test.cells() {
            *cell = next;
            next += 1;
        }
    }
    ruleset.cells = next;
}
