//! From sorted words to rules: checks that hold for every match and target, then their own `build`.
//!
//! A rule may give several bodies: one for each family that it can serve, and one for each pair of addresses where `-s` or
//! `-d` is a list. Which hooks reach a user chain is known only when the whole table is; so rules of user chains are built
//! again by [`crate::link`], with the hooks that do.

use super::draft::{Aim, Draft, JumpTo, Loaded, Unfit, complain};
use super::option::{Complaint, Extension, Given, GivenOption, Opt, Word};
use super::{Cond, Families, Hook, Rule, Table, Target, core, matches};
use crate::facts::{Family, proto};
use crate::model::Names;
use std::ops::Range;

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Families that its chain serves.
    pub families: Families,
    /// Its table.
    pub table: Table,
    /// From where its chain is reached.
    pub reach: Reach,
    /// Names of the ports, in order.
    pub ports: &'a [String],
    /// Names that other sections of the file define.
    pub names: Names<'a>,
    /// Where the rule's text begins in its file: added to all places.
    pub base: usize,
    /// The line it stands on, 1-based; 0 where there is none.
    pub line: u32,
}

/// From where a chain is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It is the built-in chain of this hook.
    BuiltIn(Hook),
    /// It is a user chain, reached from these hooks (bits); 0 is not known yet, or from none.
    User(u8),
}

impl Reach {
    /// As bits of hooks.
    pub fn hooks(self) -> u8 {
        match self {
            Reach::BuiltIn(hook) => hook.bit(),
            Reach::User(hooks) => hooks,
        }
    }

    pub(super) fn builtin(self) -> Option<Hook> {
        match self {
            Reach::BuiltIn(hook) => Some(hook),
            Reach::User(_) => None,
        }
    }
}

/// A rule that was understood, but for the chains it jumps to.
#[derive(Clone, Debug)]
pub struct ParsedRule {
    /// What it is for the chain, in order.
    pub bodies: Vec<Body>,
    /// Its place in the file.
    pub at: Range<usize>,
    pub(super) drafts: Vec<Draft>,
}

/// A rule for one family.
#[derive(Clone, Debug)]
pub struct Body {
    /// The family it serves.
    pub family: Family,
    /// The rule; its target is still missing where `jump` is there.
    pub rule: Rule,
    /// The chain it goes to.
    pub jump: Option<JumpTo>,
}

impl ParsedRule {
    /// Understands a sorted rule: one for each pair of its addresses, in their order.
    pub(crate) fn each(draft: Draft, at: Range<usize>, site: &Site) -> Result<Vec<ParsedRule>, Vec<Complaint>> {
        let bodies = build(&draft, site)?;
        let parsed = |body| ParsedRule { bodies: vec![body], at: at.clone(), drafts: vec![draft.clone()] };
        Ok(bodies.into_iter().map(parsed).collect())
    }

    /// Whether it asks the same and does the same, wherever it stands.
    pub(crate) fn is_same(&self, other: &ParsedRule) -> bool {
        let to = |body: &Body| body.jump.as_ref().map(|jump| (jump.chain.text.clone(), jump.goto));
        let same = |(a, b): (&Body, &Body)| {
            a.family == b.family && a.rule.conds == b.rule.conds && a.rule.target == b.rule.target && to(a) == to(b)
        };
        self.bodies.len() == other.bodies.len() && self.bodies.iter().zip(&other.bodies).all(same)
    }

    /// A chain has another name now.
    pub(crate) fn rename_jumps(&mut self, old: &str, new: &str) {
        let bodies = self.bodies.iter_mut().filter_map(|body| body.jump.as_mut());
        let drafts = self.drafts.iter_mut().filter_map(|draft| match &mut draft.aim {
            Some(Aim::Chain(jump)) => Some(jump),
            _ => None,
        });
        for jump in bodies.chain(drafts).filter(|jump| jump.chain.text == old) {
            jump.chain.text = new.to_string();
        }
    }

    /// Builds the bodies again for a user chain that is reached from these hooks; those of families left out before stay out.
    pub(crate) fn rebuild(
        &self,
        family: Family,
        table: Table,
        hooks: u8,
        ports: &[String],
        names: Names,
    ) -> Result<(), Vec<Complaint>> {
        let families = Families::Only(family);
        let site = Site { families, table, reach: Reach::User(hooks), ports, names, base: 0, line: 0 };
        self.drafts.iter().filter(|draft| draft.family == family).try_for_each(|draft| build(draft, &site).map(drop))
    }
}

/// Sorts and builds a rule for each family that its site wants. A family that it cannot serve is left out as long as there
/// is another.
pub(super) fn for_families(
    site: &Site,
    at: Range<usize>,
    sort: impl Fn(Family) -> Result<Draft, Unfit>,
) -> Result<ParsedRule, Vec<Complaint>> {
    let mut parsed = ParsedRule { bodies: Vec::new(), at, drafts: Vec::new() };
    let mut declined = Vec::new();
    let mut wrong = Vec::new();
    for family in Family::ALL.into_iter().filter(|&f| site.families.has(f)) {
        let built = sort(family).and_then(|draft| {
            if site.families == Families::Both {
                serves_protocol(&draft)?;
            }
            let bodies = build(&draft, site).map_err(Unfit::Wrong)?;
            Ok((draft, bodies))
        });
        match built {
            Ok((draft, bodies)) => {
                parsed.bodies.extend(bodies);
                parsed.drafts.push(draft);
            }
            Err(Unfit::Declined(complaint)) => declined.push(complaint),
            Err(Unfit::Wrong(complaints)) => wrong.push((family, complaints)),
        }
    }
    match wrong.as_mut_slice() {
        _ if !parsed.bodies.is_empty() => Ok(parsed),
        [] => Err(declined),
        [(_, complaints)] => Err(std::mem::take(complaints)),
        [first, second, ..] => Err(both_wrong(first, second)),
    }
}

/// Protocol 1 is ICMP and 58 is ICMPv6: a rule for one of them, in a chain for both families, is meant for its own.
fn serves_protocol(draft: &Draft) -> Result<(), Unfit> {
    let foreign = match draft.family {
        Family::V4 => proto::ICMPV6,
        Family::V6 => proto::ICMP,
    };
    match core::protocol(&draft.core) {
        Some((number, false)) if number == foreign => {
            let at = draft.core.iter().find(|o| o.option == core::PROTOCOL).map_or(0..0, |o| o.word.at.clone());
            Err(Unfit::Declined(complain(&at, format!("this protocol is not one of {}", draft.family.name()))))
        }
        _ => Ok(()),
    }
}

/// What is wrong for both families is the mistake; where nothing is, the rule mixes what only one family has.
fn both_wrong(first: &(Family, Vec<Complaint>), second: &(Family, Vec<Complaint>)) -> Vec<Complaint> {
    let shared: Vec<Complaint> = first.1.iter().filter(|a| second.1.iter().any(|b| a.at == b.at)).cloned().collect();
    if !shared.is_empty() {
        return shared;
    }
    let label = |(family, complaints): &(Family, Vec<Complaint>)| -> Vec<Complaint> {
        let labelled = |c: &Complaint| Complaint {
            what: format!("the rule serves no family; as {}: {}", family.name(), c.what),
            ..c.clone()
        };
        complaints.iter().map(labelled).collect()
    };
    [label(first), label(second)].concat()
}

/// Builds the bodies of a rule.
pub(super) fn build(draft: &Draft, site: &Site) -> Result<Vec<Body>, Vec<Complaint>> {
    let mut complaints = Vec::new();
    check_options(&draft.core, &core::OPTIONS, &mut complaints);
    let core = core::build(draft, site, &mut complaints);
    let mut conds = core.others;
    for loaded in &draft.matches {
        let mut asked: Vec<Cond> = extension(loaded, draft, site, &mut complaints).unwrap_or_default();
        if let Some(first) = asked.first_mut() {
            first.opens = true;
        }
        conds.append(&mut asked);
    }
    let mut jump = None;
    let mut target = None;
    match &draft.aim {
        Some(Aim::Chain(to)) => jump = Some(to.clone()),
        Some(Aim::Target(loaded)) => {
            target = extension(loaded, draft, site, &mut complaints);
            if let Some(what) = target.as_ref().and_then(|target: &Target| target.misses(&conds)) {
                complaints.push(complain(&loaded.word.at, what));
            }
        }
        None => {}
    }
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let pairs =
        core.sources.iter().flat_map(|source| core.destinations.iter().map(move |destination| (source, destination)));
    let body = |(source, destination): (&Option<Cond>, &Option<Cond>)| {
        let conds = source.iter().chain(destination).chain(&conds).cloned().collect();
        Body { family: draft.family, rule: Rule { conds, target: target.clone(), line: site.line }, jump: jump.clone() }
    };
    Ok(pairs.map(body).collect())
}

/// Checks a match or target and builds it.
fn extension<T>(loaded: &Loaded<T>, draft: &Draft, site: &Site, complaints: &mut Vec<Complaint>) -> Option<T> {
    let before = complaints.len();
    check_options(&loaded.options, loaded.extension.options, complaints);
    let protocol = core::protocol(&draft.core);
    complaints.extend(check_place(loaded.extension, &loaded.word, protocol, site));
    if complaints.len() > before {
        return None;
    }
    let given = Given {
        family: draft.family,
        table: site.table,
        hooks: site.reach.hooks(),
        protocol,
        word: &loaded.word,
        options: &loaded.options,
        ports: site.ports,
        names: site.names,
    };
    (loaded.extension.build)(&given).map_err(|complaint| complaints.push(complaint)).ok()
}

/// Each option once, and no `!` where it has no meaning.
fn check_options(given: &[GivenOption], options: &[Opt], complaints: &mut Vec<Complaint>) {
    for (i, option) in given.iter().enumerate() {
        let described = &options[option.option];
        if option.negate && !described.negatable {
            complaints.push(complain(&option.word.at, format!("`{}` cannot be negated", option.word.text)));
        }
        if !described.repeats && given[..i].iter().any(|earlier| earlier.option == option.option) {
            complaints.push(complain(&option.word.at, format!("`{}` is given twice", option.word.text)));
        }
    }
}

/// Table, hooks and protocol that a match or target asks for.
fn check_place<T>(
    extension: &Extension<T>,
    word: &Word,
    protocol: Option<(u8, bool)>,
    site: &Site,
) -> Option<Complaint> {
    let name = extension.name;
    if !extension.tables.is_empty() && !extension.tables.contains(&site.table) {
        let tables = super::word::either(extension.tables.iter().map(|t| t.name()));
        return Some(
            word.complain(format!("`{name}` cannot be used in table {}", site.table.name()), format!("table {tables}")),
        );
    }
    let denied = site.reach.hooks() & !extension.hooks;
    if denied != 0 {
        let from = hook_names(denied);
        let what = match site.reach {
            Reach::BuiltIn(_) => format!("`{name}` cannot be used in {from}"),
            Reach::User(_) => format!("`{name}` cannot be used here: the chain is reached from {from}"),
        };
        return Some(word.complain(what, hook_names(extension.hooks & super::option::table_hooks(site.table))));
    }
    let wanted = extension.protocol.filter(|&wanted| protocol != Some((wanted, false)))?;
    let wanted = matches::protocol::name(wanted).unwrap_or_default();
    Some(word.complain(format!("`{name}` is for protocol {wanted} only"), format!("-p {wanted} in the rule")))
}

fn hook_names(hooks: u8) -> String {
    super::word::either(Hook::ALL.iter().filter(|h| hooks & h.bit() != 0).map(|h| h.name()))
}
