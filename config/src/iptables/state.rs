//! The tables of one family while commands change them, with iptables' meaning.

use super::{ChainNotes, Notes, Surroundings};
use crate::facts::Family;
use crate::link::{ChainSource, bad_chain_name};
use crate::rule::option::{Complaint, Word};
use crate::rule::word::{either, integer, nearest};
use crate::rule::{Command, Draft, Families, Hook, Line, ParsedRule, Policy, Reach, Site, Table, Unfit, Verb};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Why a command changed nothing.
pub(super) enum Notice {
    /// It cannot be done as things stand; where its author expects that, it is no mistake.
    Failed(Complaint),
    /// It is wrong in itself.
    Wrong(Vec<Complaint>),
}

impl From<Complaint> for Notice {
    fn from(complaint: Complaint) -> Notice {
        Notice::Failed(complaint)
    }
}

/// The five tables of a family.
pub(super) struct Tables<'a> {
    family: Family,
    around: Surroundings<'a>,
    tables: [Chains; 5],
}

/// The chains of a table: built-in ones first, the others in any order.
struct Chains {
    chains: Vec<Chain>,
    /// Where each is: lines ask for chains by name, and there may be tens of thousands of both.
    places: HashMap<String, usize>,
}

impl Chains {
    fn new(chains: Vec<Chain>) -> Chains {
        let places = chains.iter().enumerate().map(|(i, chain)| (chain.name.clone(), i)).collect();
        Chains { chains, places }
    }

    fn push(&mut self, chain: Chain) {
        self.places.insert(chain.name.clone(), self.chains.len());
        self.chains.push(chain);
    }

    /// Takes a chain away; the last one takes its place.
    fn remove(&mut self, index: usize) {
        let gone = self.chains.swap_remove(index);
        self.places.remove(&gone.name);
        if let Some(moved) = self.chains.get(index) {
            self.places.insert(moved.name.clone(), index);
        }
    }

    fn rename(&mut self, index: usize, new: &Word) {
        let chain = &mut self.chains[index];
        self.places.remove(&chain.name);
        self.places.insert(new.text.clone(), index);
        chain.name = new.text.clone();
        chain.at = new.at.clone();
    }

    /// Names of the chains that rules go to.
    fn aims(&self) -> impl Iterator<Item = &str> {
        let bodies = self.chains.iter().flat_map(|chain| &chain.rules).flat_map(|entry| &entry.rule.bodies);
        bodies.filter_map(|body| body.jump.as_ref()).map(|to| to.chain.text.as_str())
    }
}

/// A chain as it is now.
struct Chain {
    name: String,
    /// Where its name was given.
    at: Range<usize>,
    hook: Option<Hook>,
    policy: Option<Policy>,
    rules: Vec<Entry>,
    comments: Vec<String>,
    /// A rule with a mistake was meant for it, so that numbers and comparisons say nothing.
    doubtful: bool,
}

/// Which chain.
#[derive(Clone, Copy)]
struct Spot {
    table: Table,
    index: usize,
}

impl Spot {
    fn of<'t>(self, tables: &'t mut Tables) -> &'t mut Chain {
        &mut tables.tables[self.table as usize].chains[self.index]
    }
}

/// A rule of a chain: of one pair of addresses.
struct Entry {
    rule: ParsedRule,
    comments: Vec<String>,
}

fn builtin(table: Table) -> Vec<Chain> {
    let chain = |&hook: &Hook| Chain {
        name: hook.name().to_string(),
        at: 0..0,
        hook: Some(hook),
        policy: None,
        rules: Vec::new(),
        comments: Vec::new(),
        doubtful: false,
    };
    table.hooks().iter().map(chain).collect()
}

impl<'a> Tables<'a> {
    /// All empty.
    pub fn new(family: Family, around: Surroundings<'a>) -> Tables<'a> {
        Tables { family, around, tables: Table::ALL.map(|table| Chains::new(builtin(table))) }
    }

    /// As iptables-restore begins a table: policies stay.
    pub fn clear(&mut self, table: Table) {
        let Chains { chains, places } = &mut self.tables[table as usize];
        chains.truncate(table.hooks().len());
        places.retain(|_, place| *place < chains.len());
        for chain in chains {
            chain.rules.clear();
            chain.doubtful = false;
        }
    }

    /// `:CHAIN POLICY` of iptables-restore.
    pub fn declare(&mut self, table: Table, chain: Word, policy: Word, comments: Vec<String>) -> Result<(), Notice> {
        let is_builtin = table.hooks().iter().any(|hook| hook.name() == chain.text);
        match (is_builtin, policy.text.as_str()) {
            (true, "-") => Ok(()),
            (true, _) => self.set_policy(table, &chain, &policy, comments),
            (false, "-") => self.create(table, &chain, comments),
            (false, _) => {
                let at = if Hook::ALL.iter().any(|hook| hook.name() == chain.text) { &chain } else { &policy };
                let what = match at.at == chain.at {
                    true => format!("table {} has no chain {}", table.name(), chain.text),
                    false => format!("`{}` is a chain of your own: it has no policy", chain.text),
                };
                Err(at.complain(what, if at.at == chain.at { builtin_names(table) } else { "-".into() }).into())
            }
        }
    }

    /// Carries out a line.
    pub fn run(
        &mut self,
        table: Table,
        line: Line,
        draft: Result<Draft, Unfit>,
        number: u32,
        at: Range<usize>,
        comments: Vec<String>,
    ) -> Result<(), Notice> {
        let draft = match draft {
            Ok(draft) => draft,
            // A line for the other family is for the other program.
            Err(Unfit::Declined(_)) => return Ok(()),
            Err(Unfit::Wrong(mut complaints)) => {
                if let Some(Command { verb, chain: Some(chain), .. }) = line.command {
                    complaints.extend(self.doubt(table, verb, &chain));
                }
                return Err(Notice::Wrong(complaints));
            }
        };
        let Some(command) = line.command else { return Ok(()) };
        let Some(chain) = &command.chain else {
            match command.verb {
                Verb::Flush => self.tables[table as usize].chains.iter_mut().for_each(|chain| chain.rules.clear()),
                Verb::Remove => return self.remove_all(table, &command.word),
                _ => {}
            }
            return Ok(());
        };
        match (command.verb, &command.second) {
            (Verb::New, _) => self.create(table, chain, comments),
            (Verb::Remove, _) => self.remove(table, chain),
            (Verb::Rename, Some(new)) => self.rename(table, chain, new),
            (Verb::Policy, Some(policy)) => self.command_policy(table, chain, policy, comments),
            (Verb::Flush, _) => {
                self.find(table, chain)?.of(self).rules.clear();
                Ok(())
            }
            (Verb::Delete, Some(number)) => {
                let spot = self.find(table, chain)?;
                if let Some(place) = self.place(spot, number, 0)? {
                    spot.of(self).rules.remove(place);
                }
                Ok(())
            }
            (Verb::Append | Verb::Insert | Verb::Replace | Verb::Delete | Verb::Check, _) => {
                let spot = self.find(table, chain)?;
                match self.parse(spot, draft, number, at) {
                    Ok(rules) => self.place_rules(spot, &command, rules, comments),
                    Err(complaints) => {
                        spot.of(self).doubtful = true;
                        Err(Notice::Wrong(complaints))
                    }
                }
            }
            _ => self.find(table, chain).map(drop).map_err(Notice::from),
        }
    }

    /// A command with a mistake: what it would have made is taken for made, so that later lines find it.
    fn doubt(&mut self, table: Table, verb: Verb, chain: &Word) -> Option<Complaint> {
        match verb {
            Verb::New => {
                let _ = self.create(table, chain, Vec::new());
                None
            }
            _ => match self.find(table, chain) {
                Ok(spot) => {
                    spot.of(self).doubtful = true;
                    None
                }
                Err(complaint) => Some(complaint),
            },
        }
    }

    fn seek(&self, table: Table, name: &str) -> Option<Spot> {
        let index = self.tables[table as usize].places.get(name);
        index.map(|&index| Spot { table, index })
    }

    fn find(&self, table: Table, name: &Word) -> Result<Spot, Complaint> {
        self.seek(table, &name.text).ok_or_else(|| {
            let known = self.tables[table as usize].chains.iter().map(|chain| chain.name.as_str());
            let accepts = match nearest(&name.text, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{}, or `-N {}` before this line", builtin_names(table), name.text),
            };
            name.complain(format!("table {} has no chain `{}`", table.name(), name.text), accepts)
        })
    }

    fn create(&mut self, table: Table, name: &Word, comments: Vec<String>) -> Result<(), Notice> {
        if let Some(spot) = self.seek(table, &name.text) {
            let what = format!("table {} has the chain `{}` already", table.name(), name.text);
            let mine = self.chain(spot).hook.is_none();
            let accepts = if mine { "another name" } else { "no -N for a built-in chain" };
            return Err(name.complain(what, accepts).into());
        }
        if let Some(what) = bad_chain_name(&name.text) {
            return Err(Notice::Wrong(vec![name.complain(what, "another name")]));
        }
        self.tables[table as usize].push(Chain {
            name: name.text.clone(),
            at: name.at.clone(),
            hook: None,
            policy: None,
            rules: Vec::new(),
            comments,
            doubtful: false,
        });
        Ok(())
    }

    fn chain(&self, spot: Spot) -> &Chain {
        &self.tables[spot.table as usize].chains[spot.index]
    }

    fn remove(&mut self, table: Table, name: &Word) -> Result<(), Notice> {
        let is_aim = self.tables[table as usize].aims().any(|aim| aim == name.text);
        self.remove_unless(is_aim, table, name)
    }

    fn remove_unless(&mut self, is_aim: bool, table: Table, name: &Word) -> Result<(), Notice> {
        let spot = self.find(table, name)?;
        let chain = self.chain(spot);
        let what = if chain.hook.is_some() {
            format!("the built-in chain {} cannot be removed", name.text)
        } else if chain.doubtful {
            return Ok(());
        } else if is_aim {
            format!("rules go to the chain `{}`", name.text)
        } else if !chain.rules.is_empty() {
            format!("the chain `{}` has rules", name.text)
        } else {
            self.tables[table as usize].remove(spot.index);
            return Ok(());
        };
        Err(name.complain(what, "an empty chain that no rule goes to").into())
    }

    /// `-X`: those that can be, up to the first that cannot.
    fn remove_all(&mut self, table: Table, word: &Word) -> Result<(), Notice> {
        // What is removed has no rules, so that these stay.
        let aims: HashSet<String> = self.tables[table as usize].aims().map(str::to_string).collect();
        let chains = self.tables[table as usize].chains.iter().filter(|chain| chain.hook.is_none());
        let mut names: Vec<String> = chains.map(|chain| chain.name.clone()).collect();
        names.sort();
        for name in names {
            self.remove_unless(aims.contains(&name), table, &Word { text: name, at: word.at.clone() })?;
        }
        Ok(())
    }

    fn rename(&mut self, table: Table, old: &Word, new: &Word) -> Result<(), Notice> {
        if self.seek(table, &new.text).is_some() {
            let what = format!("table {} has the chain `{}` already", table.name(), new.text);
            return Err(new.complain(what, "another name").into());
        }
        let spot = self.find(table, old)?;
        if self.chain(spot).hook.is_some() {
            return Err(old
                .complain(format!("the built-in chain {} keeps its name", old.text), "a chain of your own")
                .into());
        }
        if let Some(what) = bad_chain_name(&new.text) {
            return Err(Notice::Wrong(vec![new.complain(what, "another name")]));
        }
        let chains = &mut self.tables[table as usize];
        chains.rename(spot.index, new);
        let entries = chains.chains.iter_mut().flat_map(|chain| &mut chain.rules);
        entries.for_each(|entry| entry.rule.rename_jumps(&old.text, &new.text));
        Ok(())
    }

    /// `-P` of iptables, which keeps DROP from table nat; iptables-restore does not.
    fn command_policy(
        &mut self,
        table: Table,
        chain: &Word,
        policy: &Word,
        comments: Vec<String>,
    ) -> Result<(), Notice> {
        if table == Table::Nat && policy.text == "DROP" {
            let what = "table nat sees the first packets of flows only: it is not for dropping";
            return Err(Notice::Wrong(vec![policy.complain(what, "ACCEPT; filter in table filter")]));
        }
        self.set_policy(table, chain, policy, comments)
    }

    fn set_policy(&mut self, table: Table, chain: &Word, policy: &Word, comments: Vec<String>) -> Result<(), Notice> {
        let found = self.find(table, chain)?.of(self);
        if found.hook.is_none() {
            let what = format!("`{}` is a chain of your own: it has no policy", chain.text);
            return Err(Notice::Wrong(vec![chain.complain(what, builtin_names(table))]));
        }
        let value = match policy.text.as_str() {
            "ACCEPT" => Policy::Accept,
            "DROP" => Policy::Drop,
            other => {
                let what = format!("`{other}` is not a policy");
                return Err(Notice::Wrong(vec![policy.complain(what, "ACCEPT or DROP")]));
            }
        };
        found.policy = Some(value);
        found.comments.extend(comments);
        Ok(())
    }

    /// Understands a rule where it stands: one for each pair of its addresses.
    fn parse(&self, spot: Spot, draft: Draft, line: u32, at: Range<usize>) -> Result<Vec<ParsedRule>, Vec<Complaint>> {
        let (table, chain) = (spot.table, self.chain(spot));
        let site = Site {
            families: Families::Only(self.family),
            table,
            reach: chain.hook.map_or(Reach::User(0), Reach::BuiltIn),
            ports: self.around.ports,
            names: self.around.names,
            base: 0,
            line,
        };
        let rules = ParsedRule::each(draft, at, &site)?;
        let jump = rules.first().and_then(|rule| rule.bodies.first()).and_then(|body| body.jump.as_ref());
        match jump.map(|jump| (jump, self.find(table, &jump.chain))) {
            Some((jump, Err(_))) => Err(vec![self.no_target(table, jump.goto, &jump.chain)]),
            _ => Ok(rules),
        }
    }

    fn no_target(&self, table: Table, goto: bool, name: &Word) -> Complaint {
        let user = self.tables[table as usize].chains.iter().filter(|chain| chain.hook.is_none());
        let targets = crate::rule::targets::EXTENSIONS.iter().filter(|t| !goto && t.families.has(self.family));
        let known = targets.map(|target| target.name).chain(user.map(|chain| chain.name.as_str()));
        let accepts = match nearest(&name.text, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("`-N {}` or `:{} -` before this line", name.text, name.text),
        };
        let kind = if goto { "no chain" } else { "neither a target nor a chain" };
        name.complain(format!("`{}` is {kind} of table {} here", name.text, table.name()), accepts)
    }

    /// The rule that a number means; `more` beyond the last are allowed. None where that cannot be said.
    fn place(&self, spot: Spot, number: &Word, more: usize) -> Result<Option<usize>, Notice> {
        let chain = self.chain(spot);
        let wanted = integer(&number.text).filter(|&n| n > 0 && n <= u32::MAX.into());
        let Some(wanted) = wanted else {
            let what = format!("`{}` is not the number of a rule", number.text);
            return Err(Notice::Wrong(vec![number.complain(what, "a number from 1")]));
        };
        match wanted as usize - 1 {
            place if place < chain.rules.len() + more => Ok(Some(place)),
            _ if chain.doubtful => Ok(None),
            _ => {
                let what = format!("the chain {} has {} rules here", chain.name, chain.rules.len());
                let most = chain.rules.len() + more;
                let accepts = if most == 0 { "no number".to_string() } else { format!("a number from 1 to {most}") };
                Err(number.complain(what, accepts).into())
            }
        }
    }

    /// Does with the rules what the command says.
    fn place_rules(
        &mut self,
        spot: Spot,
        command: &Command,
        rules: Vec<ParsedRule>,
        comments: Vec<String>,
    ) -> Result<(), Notice> {
        let Command { word, verb, second, .. } = command;
        let place = match (verb, second) {
            (Verb::Insert, Some(number)) => self.place(spot, number, 1)?,
            (Verb::Replace, Some(number)) => self.place(spot, number, 0)?,
            _ => Some(0),
        };
        let chain = spot.of(self);
        let Some(place) = place else { return Ok(()) };
        let mut entries = rules.into_iter().map(|rule| Entry { rule, comments: Vec::new() });
        match verb {
            Verb::Append => {
                let first = chain.rules.len();
                chain.rules.extend(entries);
                if let Some(entry) = chain.rules.get_mut(first) {
                    entry.comments = comments;
                }
            }
            // Each pair of addresses goes to the same place, before the one inserted last.
            Verb::Insert => {
                entries.for_each(|entry| chain.rules.insert(place, entry));
                if let Some(entry) = chain.rules.get_mut(place) {
                    entry.comments = comments;
                }
            }
            Verb::Replace => match (entries.next(), entries.next()) {
                (Some(entry), None) => chain.rules[place] = Entry { comments, ..entry },
                _ => {
                    let what = "a rule with several addresses cannot replace one";
                    return Err(Notice::Wrong(vec![word.complain(what, "one source and one destination")]));
                }
            },
            _ => {
                for entry in entries {
                    let found = chain.rules.iter().position(|other| other.rule.is_same(&entry.rule));
                    match found {
                        Some(found) if *verb == Verb::Delete => drop(chain.rules.remove(found)),
                        None if !chain.doubtful => {
                            let what = format!("the chain {} has no such rule here", chain.name);
                            return Err(word.complain(what, "a rule of the chain, or its number").into());
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// What the linker makes a ruleset of: user chains by name, as iptables lists them.
    pub fn into_sources(self, family: Family) -> (Vec<ChainSource>, Notes) {
        let mut sources = Vec::new();
        let mut notes = Notes::new();
        for (table, Chains { mut chains, .. }) in Table::ALL.into_iter().zip(self.tables) {
            chains[table.hooks().len()..].sort_by(|a, b| a.name.cmp(&b.name));
            for chain in chains {
                let (rules, comments): (Vec<ParsedRule>, Vec<Vec<String>>) =
                    chain.rules.into_iter().map(|entry| (entry.rule, entry.comments)).unzip();
                let note = ChainNotes { chain: chain.comments, rules: comments };
                notes.insert((family, table, chain.name.clone()), note);
                sources.push(ChainSource {
                    table,
                    families: Families::Only(family),
                    name: chain.name,
                    policy: chain.policy,
                    rules,
                    at: chain.at,
                });
            }
        }
        (sources, notes)
    }
}

fn builtin_names(table: Table) -> String {
    either(table.hooks().iter().map(|hook| hook.name()))
}
