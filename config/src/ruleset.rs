//! The compiled ruleset: what control sends and the dataplane runs. Chains are numbers here, not names.
//!
//! One [`Tables`] for each family, since iptables and ip6tables are two rulesets. A table's built-in chains come first, in
//! the order of [`Table::hooks`]; user chains follow. A jump names the index of a user chain of its own table.
//! Whoever receives a ruleset calls [`Ruleset::verify`] before use: it holds for any bytes that decode.

use crate::facts::Family;
use crate::rule::{Policy, Rule, Table};
use serde::{Deserialize, Serialize};

/// The rules of both families.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ruleset {
    /// By [`Family::index`].
    pub families: [Tables; 2],
}

/// The five tables of a family, by [`Table`] as index.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tables {
    /// By `Table as usize`.
    pub tables: [Chains; 5],
}

/// The chains of one table.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Chains {
    /// Built-in chains in the order of [`Table::hooks`], then user chains.
    pub chains: Vec<Chain>,
}

/// A chain and its rules.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// `FORWARD`, or the user's name.
    pub name: String,
    /// The policy of a built-in chain; none for a user chain.
    pub policy: Option<Policy>,
    /// In order.
    pub rules: Vec<Rule>,
}

impl Ruleset {
    /// No rules, and `policy` in every chain of the filter table; ACCEPT elsewhere.
    pub fn empty(policy: Policy) -> Ruleset {
        let tables = || Tables {
            tables: Table::ALL.map(|table| Chains {
                chains: table
                    .hooks()
                    .iter()
                    .map(|hook| Chain {
                        name: hook.name().to_string(),
                        policy: Some(if table == Table::Filter { policy } else { Policy::Accept }),
                        rules: Vec::new(),
                    })
                    .collect(),
            }),
        };
        Ruleset { families: [tables(), tables()] }
    }

    /// The tables of a family.
    pub fn of(&self, family: Family) -> &Tables {
        &self.families[family.index()]
    }
}
