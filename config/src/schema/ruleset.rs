//! The rules of all chains: each understood where it stands, then all linked into a [`Ruleset`].
//!
//! The rule language counts places in the text that it is given. A string that stands in the file as it means has its own
//! place there; one with escapes gets places beyond the end of the file, which [`Places`] leads back.

use super::chains::Chain;
use super::fields;
use super::literal::Literal;
use super::reader::Field;
use super::report::Sink;
use crate::diag::{Diagnostic, Source};
use crate::link::{ChainSource, link};
use crate::model::Names;
use crate::rule::option::Complaint;
use crate::rule::targets::verdict::Verdict;
use crate::rule::{ParsedRule, Policy, Reach, Site, Target, parse_fields, parse_text};
use crate::ruleset::Ruleset;
use std::collections::HashSet;
use std::ops::Range;
use toml::de::DeValue;

/// Understands and links the rules of all chains.
pub(super) fn read(chains: Vec<Chain>, ports: &[String], names: Names, source: &Source, sink: &mut Sink) -> Ruleset {
    let mut places = Places { strings: Vec::new(), end: source.text().len() + 1 };
    let mut sources = Vec::with_capacity(chains.len());
    for chain in chains {
        let reach = chain.hook.map_or(Reach::User(0), Reach::BuiltIn);
        let mut rules = Vec::with_capacity(chain.rules.len());
        for field in &chain.rules {
            let line = source.line(field.at().start);
            let site = Site { families: chain.families, table: chain.table, reach, ports, names, base: 0, line };
            match rule(field, site, source, &mut places, sink) {
                Some(Ok(rule)) => {
                    unheard(&rule, &places, sink);
                    rules.push(rule);
                }
                Some(Err(complaints)) => {
                    for complaint in complaints {
                        sink.push(places.diagnostic(complaint));
                    }
                }
                None => {}
            }
        }
        if !chain.repeated {
            let Chain { table, families, name, policy, key, .. } = chain;
            sources.push(ChainSource { table, families, name: name.to_string(), policy, rules, at: key });
        }
    }
    if !sink.has_errors() {
        unused(&sources, sink);
    }
    link(sources, ports, names).unwrap_or_else(|complaints| {
        for complaint in complaints {
            let Diagnostic { at, message, help, .. } = places.diagnostic(complaint);
            let complaint = sink.conflict(at, message);
            if let Some(help) = help {
                complaint.help(help);
            }
        }
        Ruleset::empty(Policy::Accept)
    })
}

/// Warns of chains of the user's that no rule goes to.
fn unused(sources: &[ChainSource], sink: &mut Sink) {
    let mut wanted = HashSet::new();
    for source in sources {
        let bodies = source.rules.iter().flat_map(|rule| &rule.bodies);
        wanted.extend(bodies.filter_map(|body| Some((source.table, body.jump.as_ref()?.chain.text.as_str()))));
    }
    for ChainSource { table, name, at, .. } in sources {
        let builtin = table.hooks().iter().any(|hook| hook.name() == name);
        if !builtin && !wanted.contains(&(*table, name.as_str())) {
            sink.warning(at.clone(), format!("no rule of table {} goes to the chain {name}", table.name()))
                .help(format!("a rule such as \"-j {name}\""));
        }
    }
}

/// Warns of a rule that asks a program, since none can listen.
fn unheard(rule: &ParsedRule, places: &Places, sink: &mut Sink) {
    let targets = rule.bodies.iter().filter_map(|body| body.rule.target.as_ref());
    let bypasses = targets.filter_map(|target| match target {
        Target::Queue(queue) => Some(queue.bypass),
        Target::Verdict(Verdict::Queue) => Some(false),
        _ => None,
    });
    let Some(bypasses) = bypasses.max() else { return };
    let end = if bypasses { "the packet passes the table" } else { "the packet is dropped" };
    let complaint =
        sink.warning(places.resolve(rule.at.clone()), format!("no program can listen to a queue here: {end}"));
    if !bypasses {
        complaint.help("-j NFQUEUE with --queue-bypass lets it pass the table");
    }
}

/// Understands one rule; none where a complaint about its TOML has been made.
fn rule(
    field: &Field,
    site: Site,
    source: &Source,
    places: &mut Places,
    sink: &mut Sink,
) -> Option<Result<ParsedRule, Vec<Complaint>>> {
    match field.node.get_ref() {
        DeValue::String(text) => {
            let base = places.base(Literal::new(source.text(), field.at(), text), text.len());
            Some(parse_text(text, &Site { base, ..site }))
        }
        DeValue::Table(_) => {
            let mut table = field.table("a rule", "", sink)?;
            let items = fields::items(&mut table, source.text(), sink)?;
            Some(parse_fields(&items, field.at(), &site))
        }
        _ => {
            let example = "\"-i lan0 -j ACCEPT\" or { in = \"lan0\", target = \"ACCEPT\" }";
            field.mistyped("an array of strings and tables", example, sink);
            None
        }
    }
}

/// The strings whose places in the rule language are not those of the file.
struct Places {
    /// Where each begins, and what it is; in order.
    strings: Vec<(usize, Literal)>,
    /// Where the next one begins.
    end: usize,
}

impl Places {
    /// What the rule language is to add to offsets in the string.
    fn base(&mut self, literal: Literal, len: usize) -> usize {
        if let Some(content) = literal.verbatim() {
            return content.start;
        }
        let base = self.end;
        // One more, so that the place behind the last character is still of this string.
        self.end += len + 1;
        self.strings.push((base, literal));
        base
    }

    /// A place of the rule language as a place of the file.
    fn resolve(&self, at: Range<usize>) -> Range<usize> {
        let index = self.strings.partition_point(|(base, _)| *base <= at.start);
        match index.checked_sub(1).and_then(|index| self.strings.get(index)) {
            Some((base, literal)) => literal.place(at.start - base..at.end.max(at.start) - base),
            None => at,
        }
    }

    /// A complaint of the rule language.
    fn diagnostic(&self, complaint: Complaint) -> Diagnostic {
        let diagnostic = Diagnostic::error(self.resolve(complaint.at), complaint.what);
        Diagnostic { help: complaint.accepts, ..diagnostic }
    }
}
