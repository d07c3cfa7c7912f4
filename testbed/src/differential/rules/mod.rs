//! Rulesets: as both routers read them, and random ones.
//!
//! | file | thought |
//! |---|---|
//! | [`draw`] | the chains of a random ruleset, and its rules |
//! | [`registry`] | conditions and targets out of the accepted cases of all matches and targets |
//! | [`address`] | who: addresses, interfaces |
//! | [`protocol`] | protocols, ports, flags, ICMP types |
//! | [`packet`] | what else a packet shows |
//! | [`tracked`] | what conntrack knows |
//! | [`stateful`] | what a rule remembers |
//! | [`sets`] | the sets that cases name |
//! | [`verdict`] | ends of packets, jumps |
//! | [`alteration`], [`mapping`] | targets of raw and mangle, and of nat |
//!
//! What the makers write is aimed at the traffic; the registry brings every match and target there is, without a maker of its
//! own, and now and then the traffic is aimed at what it brings ([`super::aim`]).

mod address;
mod alteration;
mod draw;
mod mapping;
mod packet;
mod protocol;
mod registry;
mod sets;
mod stateful;
mod tracked;
mod verdict;

use super::net::{PORTS, of};
use std::collections::BTreeSet;
use std::fmt::Write;
use sumun_config::facts::{Family, LOOPBACK};
use sumun_config::rule::{Hook, Table};

pub use draw::rules;
pub use sets::Sets;

/// Of the security table: conntrack watches the kernel's router whatever the rules are. Sumun's has the same chain.
const WATCH: &str = ":watch - [0:0]\n[0:0] -A watch -m conntrack --ctstate NEW\n";

/// A chain and its rules without `-A CHAIN`.
#[derive(Clone)]
pub struct Chain {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub name: String,
    /// The policy of a built-in chain.
    pub policy: Option<&'static str>,
    /// The rules.
    pub rules: Vec<String>,
}

impl Chain {
    /// Whether it is reached from one of these hooks, given in lower case: its name says so.
    fn is_of(&self, hooks: &[&str]) -> bool {
        let name = self.name.to_lowercase();
        name.starts_with("shared") || hooks.iter().any(|hook| name.starts_with(hook))
    }
}

/// A ruleset of one family.
#[derive(Clone)]
pub struct Rules {
    /// The family.
    pub family: Family,
    /// All built-in chains, and some of its own.
    pub chains: Vec<Chain>,
}

impl Rules {
    /// A ruleset of iptables-save's text: lines `*TABLE`, `:CHAIN POLICY` and `-A CHAIN ...` count. Built-in chains that are not
    /// named are there and accept.
    pub fn of_text(family: Family, text: &str) -> Rules {
        let chain = |table, name: &str, policy| Chain { table, name: name.into(), policy, rules: Vec::new() };
        let built_in = |table: Table| {
            table.hooks().iter().map(move |hook: &Hook| chain(table.name(), hook.name(), Some("ACCEPT")))
        };
        let mut chains: Vec<Chain> = Table::ALL.into_iter().flat_map(built_in).collect();
        let mut table = "filter";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                let named = Table::ALL.into_iter().find(|table| table.name() == name);
                table = named.unwrap_or_else(|| panic!("no table {name}")).name();
            } else if let Some((name, rest)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
                match chains.iter_mut().find(|c| c.table == table && c.name == name) {
                    Some(chain) if rest.starts_with("DROP") => chain.policy = Some("DROP"),
                    Some(_) => {}
                    None => chains.push(chain(table, name, None)),
                }
            } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|line| line.split_once(' ')) {
                let chain = chains.iter_mut().find(|c| c.table == table && c.name == name);
                chain.unwrap_or_else(|| panic!("no chain {name}")).rules.push(rule.into());
            }
        }
        Rules { family, chains }
    }

    /// As iptables-restore -c takes it.
    pub fn restore(&self) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let _ = writeln!(text, "*{}", table.name());
            let chains = || self.chains.iter().filter(|c| c.table == table.name());
            for chain in chains() {
                let _ = writeln!(text, ":{} {} [0:0]", chain.name, chain.policy.unwrap_or("-"));
            }
            for chain in chains() {
                for rule in &chain.rules {
                    let _ = writeln!(text, "[0:0] -A {} {rule}", chain.name);
                }
            }
            text += if table == Table::Security { WATCH } else { "" };
            text += "COMMIT\n";
        }
        text
    }

    /// As Sumun's configuration has it.
    pub fn toml(&self) -> String {
        let mut text = self.foreign();
        let family = of(self.family, "ipv4", "ipv6");
        for chain in &self.chains {
            let _ = writeln!(text, "[{family}.{}.{}]", chain.table, chain.name);
            if let Some(policy) = chain.policy.filter(|_| chain.table != "nat") {
                let _ = writeln!(text, "policy = \"{policy}\"");
            }
            let rules: Vec<_> = chain.rules.iter().map(|rule| quoted(rule)).collect();
            let _ = writeln!(text, "rules = [{}]", rules.join(",\n"));
        }
        text
    }

    /// A section for the interfaces that rules name and no port is.
    fn foreign(&self) -> String {
        let is_foreign = |name: &&str| !PORTS.contains(name) && *name != LOOPBACK && !name.ends_with('+');
        let named = |rule| {
            let words: Vec<&str> = str::split(rule, ' ').collect();
            let pairs = words.windows(2).filter(|pair| matches!(pair[0], "-i" | "-o")).map(|pair| pair[1]);
            pairs.filter(is_foreign).collect::<Vec<_>>()
        };
        let names: BTreeSet<&str> = self.lines().flat_map(named).collect();
        if names.is_empty() { String::new() } else { format!("[foreign]\ninterfaces = {:?}\n", Vec::from_iter(names)) }
    }

    /// Whether some rule may change the source of what comes to the router before it is answered.
    pub fn changes_sources_in_input(&self) -> bool {
        self.of_hooks("mangle", &["input"]).any(|chain| chain.rules.iter().any(|rule| rule.contains("SNPT")))
    }

    /// Whether some rule may map the source of what comes to the router before it is answered.
    pub fn maps_sources_in_input(&self) -> bool {
        let is_mapping = |rule: &String| rule.contains("-j SNAT") || rule.contains("-j NETMAP");
        self.of_hooks("nat", &["input"]).any(|chain| chain.rules.iter().any(is_mapping))
    }

    /// The same without copies of what comes to the router, if OUTPUT may send them another way: to the router again. Nor of
    /// what the router asks many for neighbours that are not there, where DNPT sends packets to such; nor of what SNPT changes.
    pub fn without_returning_copies(mut self) -> Rules {
        const TURNING: [&str; 7] = ["-j MARK", "-j HMARK", "-j TOS", "-j DSCP", "-j ECN", "-j HL", "--map-mark"];
        let turns = |rule: &String| TURNING.iter().any(|target| rule.contains(target));
        if self.of_hooks("mangle", &["output"]).any(|chain| chain.rules.iter().any(turns)) {
            for chain in self.chains.iter_mut().filter(|chain| chain.is_of(&["prerouting", "input"])) {
                chain.rules.retain(|rule| !rule.contains("-j TEE"));
            }
        }
        if self.lines().any(|rule| rule.contains("-j DNPT")) {
            for chain in self.chains.iter_mut().filter(|chain| chain.is_of(&["output", "postrouting"])) {
                chain.rules.retain(|rule| !rule.contains("-j TEE"));
            }
        }
        if self
            .of_hooks("mangle", &["postrouting"])
            .any(|chain| chain.rules.iter().any(|rule| rule.contains("-j SNPT")))
        {
            for chain in &mut self.chains {
                chain.rules.retain(|rule| !rule.contains("-j TEE"));
            }
        }
        self
    }

    /// The chains of a table that are reached from one of these hooks.
    fn of_hooks<'a>(&'a self, table: &'a str, hooks: &'a [&str]) -> impl Iterator<Item = &'a Chain> {
        self.chains.iter().filter(move |chain| chain.table == table && chain.is_of(hooks))
    }

    /// The text of all rules, a line each.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().flat_map(|chain| &chain.rules).map(String::as_str)
    }

    /// The sets that both routers need for these rules.
    pub fn sets(&self) -> Option<&'static Sets> {
        sets::of(self.lines())
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.chains.iter().map(|c| c.rules.len()).sum()
    }

    /// Whether it has no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ruleset with every `n`th of its rules only.
    pub fn every(mut self, n: usize) -> Rules {
        let mut at = 0..;
        for chain in &mut self.chains {
            chain.rules.retain(|_| at.next().is_some_and(|at| at % n == 0));
        }
        self
    }

    /// The ruleset without its rule number `n`.
    pub fn without(&self, mut n: usize) -> Rules {
        let mut rules = self.clone();
        for chain in &mut rules.chains {
            if n < chain.rules.len() {
                chain.rules.remove(n);
                break;
            }
            n -= chain.rules.len();
        }
        rules
    }
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\t', "\\t"))
}
