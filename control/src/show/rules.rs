//! `sumun rules`, in the format of iptables-save and ip6tables-save.

use std::io::Write;
use sumun_config::facts::Family;
use sumun_config::model::Policy;
use sumun_config::rule::{self, Rule, Table};
use sumun_config::ruleset::{Chain, Chains};
use sumun_dataplane::protocol::{self, ChainCounters, Counter, Counters, Rules};

/// What of the ruleset is wanted.
#[derive(Clone, Copy, Default)]
pub struct Selection {
    /// One family only.
    pub family: Option<Family>,
    /// One table only.
    pub table: Option<Table>,
    /// Counters before each rule.
    pub counters: bool,
}

/// Prints the running rules.
pub fn print(out: &mut impl Write, rules: &Rules, selection: &Selection, json: bool) -> anyhow::Result<()> {
    let policy: Option<Policy> = rules.policy.as_deref().map(protocol::decode).transpose()?;
    if json {
        serde_json::to_writer_pretty(&mut *out, &as_json(rules, policy.as_ref(), selection))?;
        return Ok(writeln!(out)?);
    }
    let Some(policy) = policy else {
        return Ok(writeln!(out, "# no ruleset has been published yet: the initial policy runs")?);
    };
    writeln!(out, "# generation {}", rules.generation)?;
    for (family, table, chains) in selected(&policy, selection) {
        if selection.table.is_none() && is_default(table, chains) {
            continue;
        }
        let count = |table: Table, chain: usize, rule: Option<usize>| {
            let Counter { packets, bytes } = counter(&rules.counters, family, table, chain, rule);
            (packets, bytes)
        };
        let mut text = String::new();
        policy.ruleset.print_table(family, table, selection.counters.then_some(&count), &mut text);
        let title = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(out, "# {title}\n{text}")?;
    }
    Ok(())
}

/// The tables wanted, family by family.
fn selected<'a>(
    policy: &'a Policy,
    selection: &'a Selection,
) -> impl Iterator<Item = (Family, Table, &'a Chains)> + 'a {
    let families = Family::ALL.into_iter().filter(|&f| selection.family.is_none_or(|wanted| wanted == f));
    families.flat_map(move |family| {
        let tables = Table::ALL.into_iter().filter(|&t| selection.table.is_none_or(|wanted| wanted == t));
        tables.map(move |table| (family, table, &policy.ruleset.of(family).tables[table as usize]))
    })
}

/// Nothing was written in the table. The filter table is always shown.
fn is_default(table: Table, chains: &Chains) -> bool {
    let untouched = |chain: &Chain| chain.rules.is_empty() && chain.policy == Some(rule::Policy::Accept);
    table != Table::Filter && chains.chains.iter().all(untouched)
}

/// The counter of a rule, or of a chain's policy. What the dataplane did not send is zero.
pub fn counter(counters: &Counters, family: Family, table: Table, chain: usize, rule: Option<usize>) -> Counter {
    let chain: Option<&ChainCounters> = counters.families[family.index()][table as usize].get(chain);
    let counter = chain.and_then(|chain| match rule {
        None => Some(chain.policy),
        Some(rule) => chain.rules.get(rule).copied(),
    });
    counter.unwrap_or_default()
}

fn as_json(rules: &Rules, policy: Option<&Policy>, selection: &Selection) -> serde_json::Value {
    let mut tables = Vec::new();
    for (family, table, chains) in policy.into_iter().flat_map(|policy| selected(policy, selection)) {
        let name = |chain: u32| chains.chains.get(chain as usize).map_or("", |chain| chain.name.as_str());
        let chain_as_json = |(i, chain): (usize, &Chain)| {
            let rule_as_json = |(j, rule): (usize, &Rule)| {
                let Counter { packets, bytes } = counter(&rules.counters, family, table, i, Some(j));
                let text = rule::print(rule, family, name);
                serde_json::json!({"rule": text, "line": rule.line, "packets": packets, "bytes": bytes})
            };
            let policy = chain.policy.map(|policy| match policy {
                rule::Policy::Accept => "ACCEPT",
                rule::Policy::Drop => "DROP",
            });
            let Counter { packets, bytes } = counter(&rules.counters, family, table, i, None);
            serde_json::json!({
                "name": chain.name,
                "policy": policy,
                "packets": packets,
                "bytes": bytes,
                "rules": chain.rules.iter().enumerate().map(rule_as_json).collect::<Vec<_>>(),
            })
        };
        tables.push(serde_json::json!({
            "family": family.name(),
            "table": table.name(),
            "chains": chains.chains.iter().enumerate().map(chain_as_json).collect::<Vec<_>>(),
        }));
    }
    serde_json::json!({"generation": rules.generation, "published": policy.is_some(), "tables": tables})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate;

    const TEXT: &str = r#"
[interfaces.lan0]
addresses = ["10.0.0.1/24"]
[interfaces.wan0]
addresses = ["10.0.1.1/24"]
[ipv4.filter.INPUT]
policy = "DROP"
rules = ["-i lan0 -p tcp --dport 22 -j ACCEPT"]
"#;

    fn rules() -> Rules {
        let checked = candidate::check("router.toml", TEXT.as_bytes().to_vec()).map_err(|m| m.render(false)).unwrap();
        let mut counters = Counters::default();
        let (policy, rule) = (Counter { packets: 3, bytes: 300 }, Counter { packets: 7, bytes: 700 });
        counters.families[0][Table::Filter as usize] = vec![ChainCounters { policy, rules: vec![rule] }];
        Rules { generation: 4, policy: Some(protocol::encode(&checked.config.policy).unwrap()), counters }
    }

    fn printed(rules: &Rules, selection: Selection, json: bool) -> String {
        let mut out = Vec::new();
        print(&mut out, rules, &selection, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    const V4: &str = "# generation 4
# IPv4
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lan0 -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
";

    #[test]
    fn rules_read_as_iptables_save_prints_them() {
        let selection = Selection { family: Some(Family::V4), ..Selection::default() };
        assert_eq!(printed(&rules(), selection, false), V4);
        let counted = V4.replace("-A", "[7:700] -A").replace("DROP [0:0]", "DROP [3:300]");
        assert_eq!(printed(&rules(), Selection { counters: true, ..selection }, false), counted);
    }

    #[test]
    fn tables_without_rules_are_shown_only_when_asked_for() {
        let all = printed(&rules(), Selection::default(), false);
        assert_eq!((all.matches("*filter").count(), all.matches("COMMIT").count()), (2, 2));
        let raw = printed(&rules(), Selection { table: Some(Table::Raw), ..Selection::default() }, false);
        assert_eq!((raw.matches("*raw").count(), raw.matches("COMMIT").count()), (2, 2));
    }

    #[test]
    fn before_the_first_ruleset_that_is_said() {
        let rules = Rules { policy: None, ..rules() };
        assert!(printed(&rules, Selection::default(), false).starts_with("# no ruleset"));
        let json: serde_json::Value = serde_json::from_str(&printed(&rules, Selection::default(), true)).unwrap();
        assert_eq!(json["published"], false);
    }

    #[test]
    fn json_has_text_and_counters_of_each_rule() {
        let json: serde_json::Value = serde_json::from_str(&printed(&rules(), Selection::default(), true)).unwrap();
        let filter = json["tables"].as_array().unwrap().iter().find(|t| t["table"] == "filter").unwrap();
        let input = &filter["chains"][0];
        assert_eq!((&input["name"], &input["policy"], &input["packets"]), (&"INPUT".into(), &"DROP".into(), &3.into()));
        assert_eq!(input["rules"][0]["rule"], "-i lan0 -p tcp -m tcp --dport 22 -j ACCEPT");
        assert_eq!(input["rules"][0]["packets"], 7);
    }
}
