//! `[TABLE.CHAIN]`, `[ipv4.TABLE.CHAIN]`, `[ipv6.TABLE.CHAIN]`: which chains there are, for which families, and where their
//! rules stand. What a rule says is [`super::ruleset`]'s.

use super::appliance::POLICIES;
use super::reader::{Field, Fields};
use super::report::{Sink, nearest, one_of, suggest};
use crate::facts::Family;
use crate::rule::{Families, Hook, Policy, Table};
use std::collections::HashMap;
use std::ops::Range;

/// A chain as the file gives it.
pub(super) struct Chain<'a> {
    /// Families whose ruleset has it.
    pub families: Families,
    pub table: Table,
    pub name: &'a str,
    /// Where the name stands.
    pub key: Range<usize>,
    /// The hook of a built-in chain.
    pub hook: Option<Hook>,
    /// Of a built-in chain.
    pub policy: Option<Policy>,
    /// Strings and tables, in order.
    pub rules: Vec<Field<'a>>,
    /// A family has it from another section already.
    pub repeated: bool,
}

/// Longest name of a chain (`XT_EXTENSION_MAXNAMELEN` less its end).
const LONGEST_NAME: usize = 28;

/// Reads the sections of all tables.
pub(super) fn read<'a>(top: &mut Fields<'a>, sink: &mut Sink) -> Vec<Chain<'a>> {
    let mut chains = Vec::new();
    tables(top, "", Families::Both, &mut chains, sink);
    for family in Family::ALL {
        let name = family.name();
        let accepts = format!("sections such as `[{name}.nat.POSTROUTING]`");
        let fields = top.take(name).and_then(|field| field.table(format!("[{name}]"), &accepts, sink));
        let Some(mut fields) = fields else { continue };
        tables(&mut fields, &format!("{name}."), Families::Only(family), &mut chains, sink);
        fields.finish(sink);
    }
    once(&mut chains, sink);
    chains
}

/// The tables of a place.
fn tables<'a>(fields: &mut Fields<'a>, prefix: &str, families: Families, chains: &mut Vec<Chain<'a>>, sink: &mut Sink) {
    for table in Table::ALL {
        let Some(field) = fields.take(table.name()) else { continue };
        let title = format!("[{prefix}{}]", table.name());
        let accepts = format!("sections such as `[{prefix}{}.{}]`", table.name(), table.hooks()[0].name());
        let Some(mut section) = field.table(title, &accepts, sink) else { continue };
        for field in section.rest() {
            let title = format!("[{prefix}{}.{}]", table.name(), field.name);
            let accepts = format!("a section `{title}` with `policy` and `rules`");
            let Some(fields) = field.table(title, &accepts, sink) else { continue };
            chains.extend(chain(&field, fields, families, table, sink));
        }
    }
}

/// One chain. Where its name cannot stand, its rules are not read.
fn chain<'a>(
    section: &Field<'a>,
    mut fields: Fields<'a>,
    families: Families,
    table: Table,
    sink: &mut Sink,
) -> Option<Chain<'a>> {
    let name = section.name;
    let hook = table.hooks().iter().copied().find(|hook| hook.name() == name);
    let policy_field = fields.take("policy");
    if let Some(wrong) = bad_name(name, table, hook, policy_field.is_some()) {
        sink.error(section.key(), wrong.0).help(wrong.1);
        return None;
    }
    let policy = policy_field.and_then(|field| {
        let policy = field.choice(&POLICIES, sink)?;
        if hook.is_none() {
            sink.error(field.key(), format!("`{name}` is a chain of your own: it has no policy")).help(
                "a last rule such as \"-j DROP\"; what reaches the end of the chain goes back to where it came from",
            );
            return None;
        } else if table == Table::Nat && policy == Policy::Drop {
            // iptables -P refuses it, iptables-restore and the kernel do not.
            sink.warning(field.at(), "table nat sees the first packets of flows only: its policy is no filter")
                .help("\"ACCEPT\"; filter in table filter");
        }
        Some(policy)
    });
    let example = "an array, such as `rules = [\"-i lan0 -j ACCEPT\", { in = \"lan0\", target = \"ACCEPT\" }]`";
    let rules = fields.take("rules").and_then(|field| field.list(example, sink)).unwrap_or_default();
    fields.finish(sink);
    Some(Chain { families, table, name, key: section.key(), hook, policy, rules, repeated: false })
}

/// Why a chain cannot have this name, and what would be accepted.
fn bad_name(name: &str, table: Table, hook: Option<Hook>, has_policy: bool) -> Option<(String, String)> {
    if hook.is_some() {
        return None;
    }
    let here: Vec<&str> = table.hooks().iter().map(|hook| hook.name()).collect();
    if Hook::ALL.iter().any(|hook| hook.name() == name) {
        return Some((format!("table {} has no chain {name}", table.name()), one_of(&here, '`')));
    }
    // A policy says that a built-in chain is meant.
    if has_policy && nearest(name, &here).is_some() {
        return Some((format!("table {} has no chain {name}", table.name()), suggest(name, &here)));
    }
    let accepts =
        format!("{}, or a name of your own, up to {LONGEST_NAME} letters, digits and dashes", one_of(&here, '`'));
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > LONGEST_NAME {
        "it is longer than 28 bytes"
    } else if name.starts_with(['-', '!']) {
        "rules would read it as an option"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"' || c == '\'') {
        "it has white space or quotes"
    } else if crate::rule::targets::is_name(name) {
        "it is a target"
    } else {
        return None;
    };
    Some((format!("`{name}` cannot name a chain: {why}"), accepts))
}

/// A family has a chain from one place only: the file does not say in which order rules of two places would go.
fn once(chains: &mut [Chain], sink: &mut Sink) {
    let mut seen: HashMap<(Family, Table, &str), Range<usize>> = HashMap::with_capacity(chains.len() * 2);
    for chain in chains {
        for family in Family::ALL.into_iter().filter(|family| chain.families.has(*family)) {
            let Some(first) = seen.insert((family, chain.table, chain.name), chain.key.clone()) else { continue };
            let (name, table) = (chain.name, chain.table.name());
            sink.conflict(
                chain.key.clone(),
                format!("{} has the chain {name} of table {table} already", family.name()),
            )
            .help(format!("either [{table}.{name}], or [ipv4.{table}.{name}] and [ipv6.{table}.{name}]"))
            .label(first, "given here");
            chain.repeated = true;
        }
    }
}
