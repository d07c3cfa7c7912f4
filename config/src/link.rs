//! From chains by name to a ruleset by index: jumps find their chains, hooks find what they reach.
//!
//! What can only be said of a whole table is checked here: chains that are there twice or in the wrong table, jumps to
//! nowhere, loops, and matches and targets that a hook which reaches their chain does not allow. The kernel checks a
//! user chain against the built-in chains that lead to it, however long the way (`mark_source_chains`); so does this.
//! What rules share by name ([`crate::object`]) gets its numbers here, in the order of families, tables, chains and rules.

use crate::facts::Family;
use crate::model::Names;
use crate::object::Objects;
use crate::rule::option::Complaint;
use crate::rule::targets::absent;
use crate::rule::targets::verdict::Verdict;
use crate::rule::{self, Families, Hook, JumpTo, ParsedRule, Policy, Rule, Table, Target};
use crate::ruleset::{Chain, Chains, Reached, Ruleset};
use std::collections::{BTreeMap, BTreeSet, HashSet};
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

/// Puts chains together. `ports` and `names` are those that the rules were parsed with.
pub fn link(sources: Vec<ChainSource>, ports: &[String], names: Names) -> Result<Ruleset, Vec<Complaint>> {
    let mut complaints = Complaints::default();
    for source in &sources {
        check_name(source, &mut complaints);
    }
    let mut ruleset = Ruleset::empty(Policy::Accept);
    let mut objects = Objects::default();
    let everywhere = Existing::of(&sources);
    for family in Family::ALL {
        for table in Table::ALL {
            let chains: Vec<&ChainSource> =
                sources.iter().filter(|s| s.table == table && s.families.has(family)).collect();
            let linker = Linker { family, table, ports, names, existing: &everywhere };
            ruleset.families[family.index()].tables[table as usize] =
                linker.link(&chains, &mut objects, &mut complaints);
        }
    }
    for parsed in sources.iter().flat_map(|source| &source.rules) {
        if let Some(what) = parsed.bodies.iter().find_map(|body| objects.lacks(&body.rule)) {
            complaints.add(&parsed.at, what, None);
        }
    }
    number_cells(&mut ruleset);
    ruleset.objects = objects.into_vec();
    complaints.into_result().map(|()| ruleset)
}

/// Complaints, each once although both families may bring it.
#[derive(Default)]
struct Complaints {
    told: HashSet<Complaint>,
    in_order: Vec<Complaint>,
}

impl Complaints {
    fn add(&mut self, at: &Range<usize>, what: String, accepts: Option<String>) {
        self.extend([Complaint { at: at.clone(), what, accepts }]);
    }

    fn extend(&mut self, complaints: impl IntoIterator<Item = Complaint>) {
        for complaint in complaints {
            if self.told.insert(complaint.clone()) {
                self.in_order.push(complaint);
            }
        }
    }

    fn into_result(self) -> Result<(), Vec<Complaint>> {
        if self.in_order.is_empty() { Ok(()) } else { Err(self.in_order) }
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
    if let Some(what) = bad_chain_name(name) {
        complaints.add(at, what, None);
    }
}

/// Why a chain cannot have this name.
pub(crate) fn bad_chain_name(name: &str) -> Option<String> {
    let odd = name.starts_with(['-', '!'])
        || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '\'');
    Some(match name {
        _ if name.is_empty() => "a chain needs a name".to_string(),
        _ if odd => format!("`{}` cannot be the name of a chain", name.escape_debug()),
        _ if name.len() > MAX_NAME => format!("the name of the chain `{name}` is longer than {MAX_NAME} bytes"),
        _ if rule::targets::is_name(name) => format!("a chain cannot have the name of the target {name}"),
        _ => return None,
    })
}

/// Puts one table of one family together.
struct Linker<'a> {
    family: Family,
    table: Table,
    ports: &'a [String],
    names: Names<'a>,
    existing: &'a Existing,
}

impl Linker<'_> {
    fn link(&self, sources: &[&ChainSource], objects: &mut Objects, complaints: &mut Complaints) -> Chains {
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
                .map(|s| s.rules.iter().flat_map(|rule| self.bodies(rule, &index, objects, complaints)).collect())
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
    fn bodies(
        &self,
        parsed: &ParsedRule,
        index: &BTreeMap<&str, usize>,
        objects: &mut Objects,
        complaints: &mut Complaints,
    ) -> Vec<Rule> {
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
            if let Err(what) = objects.link(&mut rule) {
                complaints.add(&parsed.at, what, None);
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
        if let Some(absent) = absent::find(name, absent::FORGOTTEN).filter(|_| !jump.goto) {
            return Err(complain(absent.refusal("target"), Some(absent.instead.to_string())));
        }
        let chains = index.keys().copied().filter(|name| builtin(name).is_none());
        let targets =
            rule::targets::EXTENSIONS.iter().filter(|t| !jump.goto && t.families.has(self.family)).map(|t| t.name);
        let near = rule::word::nearest(name, targets.chain(chains)).map(|near| format!("did you mean `{near}`?"));
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
                if let (true, Err(found)) =
                    (hooks != 0, rule.rebuild(self.family, self.table, hooks, self.ports, self.names))
                {
                    complaints.extend(found);
                }
            }
        }
    }
}

impl Ruleset {
    /// The same with the rules of these families from another ruleset, linked anew; or why the two cannot go together.
    pub fn with_rules_of(&self, other: &Ruleset, families: &[Family]) -> Result<Ruleset, String> {
        let mut ruleset = self.clone();
        for family in families {
            ruleset.families[family.index()] = other.families[family.index()].clone();
        }
        let mut objects = Objects::default();
        let tables = ruleset.families.iter_mut().flat_map(|family| &mut family.tables);
        let chains = tables.flat_map(|table| &mut table.chains);
        chains.flat_map(|chain| &mut chain.rules).try_for_each(|rule| objects.link(rule))?;
        number_cells(&mut ruleset);
        ruleset.objects = objects.into_vec();
        Ok(ruleset)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::matches::recent::List;
    use crate::rule::{Reach, Site, parse_text};

    const PORTS: [&str; 2] = ["lan0", "wan0"];

    /// A chain whose rules are given one a line; places count from the beginning of each rule.
    fn chain(table: Table, families: Families, name: &str, rules: &[&str]) -> ChainSource {
        let ports = PORTS.map(String::from);
        let reach = builtin(name).map_or(Reach::User(0), Reach::BuiltIn);
        let site = Site { families, table, reach, ports: &ports, names: Names::NONE, base: 0, line: 0 };
        let parse = |text: &&str| parse_text(text, &site).unwrap_or_else(|complaints| panic!("{text}: {complaints:?}"));
        ChainSource {
            table,
            families,
            name: name.to_string(),
            policy: None,
            rules: rules.iter().map(parse).collect(),
            at: 0..name.len(),
        }
    }

    fn filter(name: &str, rules: &[&str]) -> ChainSource {
        chain(Table::Filter, Families::Both, name, rules)
    }

    fn linked(sources: &[ChainSource]) -> Result<Ruleset, Vec<Complaint>> {
        let ruleset = link(sources.to_vec(), &PORTS.map(String::from), Names::NONE)?;
        assert_eq!(ruleset.verify(PORTS.len()), Ok(()), "what is linked verifies");
        Ok(ruleset)
    }

    #[test]
    fn a_linked_table_prints_as_iptables_save_does() {
        let mut forward = filter("FORWARD", &["-i lan0 -g web", "-s 10.0.0.1 -j icmp"]);
        forward.policy = Some(Policy::Drop);
        let sources =
            [forward, filter("web", &["-p tcp -j icmp", "", "-j RETURN"]), filter("icmp", &["-p icmp -j REJECT"])];
        let ruleset = linked(&sources).expect("a ruleset");
        let mut out = String::new();
        ruleset.print_table(Family::V4, Table::Filter, None, &mut out);
        let expected = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:web - [0:0]\n:icmp - [0:0]\n\
            -A FORWARD -i lan0 -g web\n-A FORWARD -s 10.0.0.1/32 -j icmp\n-A web -p tcp -j icmp\n-A web\n-A web -j RETURN\n\
            -A icmp -p icmp -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";
        assert_eq!(out, expected);
        let mut counted = String::new();
        let count = |_: Table, chain: usize, rule: Option<usize>| (chain as u64, rule.map_or(7, |rule| rule as u64));
        ruleset.print_table(Family::V6, Table::Filter, Some(&count), &mut counted);
        let expected = "*filter\n:INPUT ACCEPT [0:7]\n:FORWARD DROP [1:7]\n:OUTPUT ACCEPT [2:7]\n:web - [0:0]\n:icmp - [0:0]\n\
            [1:0] -A FORWARD -i lan0 -g web\n[3:0] -A web -p tcp -j icmp\n[3:1] -A web\n[3:2] -A web -j RETURN\nCOMMIT\n";
        assert_eq!(counted, expected);
    }

    #[test]
    fn what_is_wrong_with_a_whole_table_is_told() {
        let v6 = |name, rules: &[&str]| chain(Table::Filter, Families::Only(Family::V6), name, rules);
        let nat = |name, rules: &[&str]| chain(Table::Nat, Families::Only(Family::V4), name, rules);
        let policy = |mut source: ChainSource| {
            source.policy = Some(Policy::Drop);
            source
        };
        let long = "x".repeat(29);
        let cases: Vec<(Vec<ChainSource>, &str)> = vec![
            (vec![filter("INPUT", &["-j nowhere"])], "neither a target nor a chain"),
            (vec![filter("INPUT", &["-g DROP"])], "no chain `DROP`"),
            (vec![filter("INPUT", &["-j MIRROR"])], "the target MIRROR left the kernel"),
            (vec![filter("LED", &[])], "name of the target"),
            (vec![filter("INPUT", &["-j FORWARD"])], "built-in chain FORWARD cannot be jumped to"),
            (vec![filter("a", &["-j a"])], "circle: a -> a"),
            (vec![filter("a", &["-j b"]), filter("b", &["-g c"]), filter("c", &["-j b"])], "circle: b -> c -> b"),
            (vec![filter("a", &[]), filter("a", &[])], "is there twice"),
            (vec![filter("a", &[]), v6("a", &[])], "is there twice"),
            (vec![filter("INPUT", &[]), filter("INPUT", &[])], "is there twice"),
            (vec![filter("PREROUTING", &[])], "no chain PREROUTING"),
            (vec![policy(filter("a", &[]))], "cannot have a policy"),
            (vec![filter("LOG", &[])], "name of the target"),
            (vec![filter("-a", &[])], "cannot be the name"),
            (vec![filter("a b", &[])], "cannot be the name"),
            (vec![filter(&long, &[])], "longer than 28"),
            (vec![filter("", &[])], "needs a name"),
            (vec![filter("a", &[]), nat("INPUT", &["-j a"])], "neither a target nor a chain of table nat"),
            (vec![nat("u", &["-j SNAT --to-source 1.2.3.4"]), nat("PREROUTING", &["-j u"])], "reached from PREROUTING"),
            (
                vec![
                    nat("u", &["-j v"]),
                    nat("v", &["-j MASQUERADE"]),
                    nat("POSTROUTING", &["-j u"]),
                    nat("OUTPUT", &["-g u"]),
                ],
                "reached from OUTPUT",
            ),
            (
                vec![filter(
                    "INPUT",
                    &[
                        "-m hashlimit --hashlimit-upto 5/s --hashlimit-name a",
                        "-m hashlimit --hashlimit-upto 5kb/s --hashlimit-name a",
                    ],
                )],
                "the table of hashlimit a cannot be shared: one rule takes packets, another takes bytes",
            ),
            (
                vec![filter("m", &["-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu"]), filter("INPUT", &["-j m"])],
                "path MTU is not known",
            ),
        ];
        for (sources, words) in cases {
            let complaints = linked(&sources).map(|ruleset| ruleset.print(Family::V4, None)).expect_err(words);
            assert_eq!(complaints.len(), 1, "{words}: {complaints:?}");
            assert!(complaints[0].what.contains(words), "{words}: {complaints:?}");
        }
    }

    #[test]
    fn what_no_hook_reaches_is_not_asked_for_its_hooks() {
        let nat = |name, rules: &[&str]| chain(Table::Nat, Families::Both, name, rules);
        assert!(linked(&[nat("u", &["-j MASQUERADE"])]).is_ok());
        assert!(linked(&[nat("u", &["-j MASQUERADE"]), nat("POSTROUTING", &["-j u"])]).is_ok());
        // As in the kernel, an interface that a hook has not is only an error in the built-in chain itself.
        assert!(linked(&[filter("u", &["-i lan0"]), filter("OUTPUT", &["-j u"])]).is_ok());
    }

    #[test]
    fn a_jump_to_a_chain_of_one_family_is_a_rule_of_that_family() {
        let v4 = |name, rules: &[&str]| chain(Table::Filter, Families::Only(Family::V4), name, rules);
        let ruleset =
            linked(&[filter("INPUT", &["-j only4", "-j ACCEPT"]), v4("only4", &["-j DROP"])]).expect("a ruleset");
        let rules = |family: Family| ruleset.of(family).tables[Table::Filter as usize].chains[0].rules.len();
        assert_eq!((rules(Family::V4), rules(Family::V6)), (2, 1));
    }

    #[test]
    fn each_stateful_match_has_its_own_cell() {
        let limits = ["-m limit --limit 1/s", "-m limit --limit 2/s -m statistic --mode nth --every 3 --packet 0"];
        let ruleset = linked(&[filter("INPUT", &limits)]).expect("a ruleset");
        assert_eq!(ruleset.cells, 6);
        let mut shared = ruleset.clone();
        let conds = &mut shared.families[0].tables[Table::Filter as usize].chains[0].rules[0].conds;
        *conds[0].test.cells().expect("a cell") = 5;
        assert!(shared.verify(PORTS.len()).unwrap_err().contains("two owners"));
        let fewer = Ruleset { cells: 5, ..ruleset };
        assert!(fewer.verify(PORTS.len()).unwrap_err().contains("no cell 5"));
    }

    #[test]
    fn rules_of_a_family_may_come_from_another_ruleset() {
        let first = linked(&[filter("INPUT", &["-m limit --limit 1/s -m recent --set --name a"])]).expect("a ruleset");
        let rules = ["-m recent --rcheck --name b", "-m limit --limit 2/s -m limit --limit 3/s"];
        let second = linked(&[filter("INPUT", &rules)]).expect("a ruleset");
        let mixed = first.with_rules_of(&second, &[Family::V4]).expect("a ruleset");
        assert_eq!(mixed.verify(PORTS.len()), Ok(()));
        assert_eq!(mixed.print(Family::V4, None), second.print(Family::V4, None));
        assert_eq!(mixed.print(Family::V6, None), first.print(Family::V6, None));
        let names: Vec<&str> = mixed.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!((mixed.cells, names), (3, vec!["b", "a"]));
    }

    #[test]
    fn an_estimator_is_asked_for_only_where_some_rule_counts_for_it() {
        let asks = filter("INPUT", &["-j ACCEPT", "-m rateest --rateest1 a --rateest2 b --rateest-lt --rateest-bps"]);
        let counts =
            |name: &str| format!("-j RATEEST --rateest-name {name} --rateest-interval 1s --rateest-ewmalog 2s");
        let mangle = |rules: &[&str]| chain(Table::Mangle, Families::Both, "FORWARD", rules);
        let complaints = linked(&[asks.clone(), mangle(&[&counts("a")])]).expect_err("b is missing");
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert_eq!(complaints[0].what, "the estimator b: no rule with -j RATEEST counts for it");
        let ruleset = linked(&[asks, mangle(&[&counts("b"), &counts("a"), &counts("a")])]).expect("both are there");
        assert_eq!(ruleset.objects.len(), 2);
        let other = counts("a").replace("2s", "8s");
        let complaints = linked(&[mangle(&[&counts("a"), &other])]).expect_err("two of one name");
        assert!(complaints[0].what.contains("the estimator a cannot be shared"), "{complaints:?}");
    }

    #[test]
    fn rules_that_name_one_list_share_it_over_tables_and_families() {
        let mangle = chain(Table::Mangle, Families::Both, "FORWARD", &["-m recent --rcheck --hitcount 40 --name ssh"]);
        let sources = [filter("INPUT", &["-m recent --set --name ssh -m recent --set", "-j ACCEPT"]), mangle];
        let ruleset = linked(&sources).expect("a ruleset");
        let names: Vec<&str> = ruleset.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["ssh", "DEFAULT"]);
        let kinds = ruleset.objects.iter().map(|object| object.kind.get().copied());
        let packets: Vec<Option<u32>> = kinds.map(|list: Option<List>| list.map(|list| list.packets)).collect();
        assert_eq!(packets, [Some(64), Some(32)]);
        for family in Family::ALL {
            let rules = &ruleset.of(family).tables[Table::Filter as usize].chains[0].rules;
            let numbers: Vec<u32> = rules[0].conds.iter().flat_map(|c| c.test.objects()).map(|(_, n)| n).collect();
            assert_eq!(numbers, [0, 1]);
        }
        let mut other = ruleset.clone();
        other.objects.swap(0, 1);
        assert!(other.verify(PORTS.len()).unwrap_err().contains("is not object"));
    }
}
