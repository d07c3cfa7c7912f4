//! The chains that lead to zones and policies.
//!
//! ```text
//! INPUT ──▶ INPUT_ZONES ──▶ IN_zone ──▶ policies before it, its rules, policies behind it, its target
//! ```
//!
//! A packet is in the first zone whose source it has, else in that of its interface, else in the default zone. The same is
//! asked of where it goes for the zones of POSTROUTING and for the egress zones of policies (`TO_policy`).

use super::files::Config;
use super::rich::{Act, Rich, What};
use super::rules::{Writer, end, icmp, prohibited};
use super::script::{Script, quoted};
use super::xml::{Mistakes, Place, Value};
use super::zone::{Policy, Target, Zone};
use crate::facts::Family;
use crate::rule::Table;

/// Networks of IPv6 addresses that hold IPv4 addresses which belong to no one host (RFC 3964).
const EMBEDDED: [&str; 9] = [
    "::/96",
    "::ffff:0:0/96",
    "2002::/24",
    "2002:a00::/24",
    "2002:7f00::/24",
    "2002:ac10::/28",
    "2002:c0a8::/32",
    "2002:a9fe::/32",
    "2002:e000::/19",
];

/// Writes everything but direct.xml.
pub(super) struct Chains<'a> {
    pub config: &'a Config,
    pub script: &'a mut Script,
    pub mistakes: &'a mut Mistakes,
}

/// A question where packets are from or go, the zone that they are in, and its place.
type End<'a> = (String, &'a Zone, Place);

/// Where a policy judges packets.
fn way(policy: &Policy) -> &'static str {
    match (names(&policy.ingress, "HOST"), names(&policy.egress, "HOST")) {
        (_, true) => "IN",
        (true, _) => "OUT",
        _ => "FWD",
    }
}

fn names(zones: &[Value], name: &str) -> bool {
    zones.iter().any(|zone| zone.text == name)
}

impl Chains<'_> {
    /// The chains of zones and policies, with their rules.
    pub fn bodies(&mut self) {
        for policy in &self.config.policies {
            self.policy(policy);
        }
        for zone in &self.config.zones {
            self.zone(zone);
        }
    }

    fn policy(&mut self, policy: &Policy) {
        let Policy { body, ingress, egress, .. } = policy;
        for rich in &body.rules {
            self.check(policy, rich);
        }
        if names(ingress, "HOST") && names(egress, "HOST") {
            self.mistakes.add(&body.at, "the policy goes from HOST to HOST", "a zone or ANY at one end");
        }
        let way = way(policy);
        let prefix = format!("{}_ICMP_BLOCK", body.name);
        let forward = if way == "FWD" { "FWD" } else { way };
        Writer::new(self.config, body, (way, forward), prefix).write(self.script, self.mistakes);
        self.target(&body.at, body.target, way, &body.name);
        if !names(egress, "HOST") && !names(egress, "ANY") {
            self.egress(policy, way);
        }
    }

    /// What a policy between these zones cannot do.
    fn check(&mut self, policy: &Policy, rich: &Rich) {
        let (ingress, egress) = (&policy.ingress, &policy.egress);
        match &rich.what {
            Some(What::Masquerade) if names(egress, "HOST") || names(ingress, "HOST") => {
                self.mistakes.add(&rich.at, "HOST cannot be masqueraded", "zones or ANY at both ends");
            }
            Some(What::Masquerade) => {
                if let Some(zone) = ingress.iter().find(|zone| self.has_interfaces(zone)) {
                    let what =
                        format!("the ingress zone `{}` has interfaces, which masquerading does not see", zone.text);
                    self.mistakes.add(&rich.at, what, "ANY, or zones of sources alone");
                }
            }
            Some(What::Forward { .. }) if names(ingress, "HOST") => {
                self.mistakes.add(&rich.at, "ports of what HOST sends are not forwarded", "another ingress zone");
            }
            Some(What::Forward { address: None, .. }) if !names(egress, "HOST") => {
                self.mistakes.add(&rich.at, "<forward-port> needs `to-addr` in this policy", "to-addr=\"...\"");
            }
            Some(What::Forward { address: Some(to), .. }) if names(egress, "HOST") => {
                self.mistakes.add(&to.at, "`to-addr` leads away from HOST", "`to-port` alone, or another egress zone");
            }
            _ => {}
        }
        let marks = rich.action.as_ref().is_some_and(|action| matches!(action.act, Act::Mark(_)));
        if !marks && !matches!(rich.what, Some(What::Forward { .. })) {
            return;
        }
        if let Some(zone) = egress.iter().find(|zone| self.has_interfaces(zone)) {
            let what = format!("the egress zone `{}` has interfaces, which are not known before routing", zone.text);
            self.mistakes.add(&rich.at, what, "ANY, HOST, or zones of sources alone");
        }
    }

    fn zone(&mut self, zone: &Zone) {
        let body = &zone.body;
        for way in ["IN", "FWD"] {
            self.policies(zone, way, |priority| priority < 0);
        }
        for (table, way) in NAT {
            self.nat_policies(zone, table, way);
        }
        let prefix = format!("zone_{}_HOST_ICMP_BLOCK", body.name);
        Writer::new(self.config, body, ("IN", "FWD"), prefix).write(self.script, self.mistakes);
        self.forward(zone);
        for way in ["IN", "FWD"] {
            self.policies(zone, way, |priority| priority > 0);
        }
        self.icmp(zone);
        self.target(&body.at, body.target, "IN", &body.name);
        self.target(&body.at, body.target, "FWD", &body.name);
    }

    /// Jumps to the policies of what comes from a zone.
    fn policies(&mut self, zone: &Zone, way: &str, when: fn(i32) -> bool) {
        let name = &zone.body.name;
        for policy in self.config.policies.iter().filter(|p| self::way(p) == way && when(p.priority)) {
            if !names(&policy.ingress, "ANY") && !names(&policy.ingress, name) {
                continue;
            }
            for family in Family::ALL {
                self.jump(family, &format!("{way}_{name}"), policy, way);
            }
        }
    }

    /// A jump to a policy, by way of the question where packets go.
    fn jump(&mut self, family: Family, chain: &str, policy: &Policy, way: &str) {
        let name = &policy.body.name;
        let anywhere = names(&policy.egress, "HOST") || names(&policy.egress, "ANY");
        let to = if anywhere { format!("{way}_{name}") } else { format!("TO_{name}") };
        if self.script.has(family, Table::Filter, &to) {
            self.script.rule(family, "filter", chain, &format!("-j {}", quoted(&to)), &policy.body.at);
        }
    }

    /// Jumps to what policies do in other tables.
    fn nat_policies(&mut self, zone: &Zone, table: Table, way: &str) {
        let name = &zone.body.name;
        for policy in &self.config.policies {
            let side = if way == "POST" { &policy.egress } else { &policy.ingress };
            let chain = format!("{way}_{}", policy.body.name);
            if !names(side, "ANY") && !names(side, name) {
                continue;
            }
            for family in Family::ALL.into_iter().filter(|f| self.script.has(*f, table, &chain)).collect::<Vec<_>>() {
                for from in self.known_ends(policy, family, table, way) {
                    let rule = format!("{from} -j {}", quoted(&chain));
                    let into = format!("{way}_{name}");
                    self.script.rule(family, table.name(), &into, rule.trim_start(), &policy.body.at);
                }
            }
        }
    }

    /// What of a policy's zones can be asked: in POSTROUTING sources of those that packets are from, in PREROUTING of those
    /// that they go to. Helpers are given to all, where their way is not known yet.
    fn known_ends(&self, policy: &Policy, family: Family, table: Table, way: &str) -> Vec<String> {
        let (side, flag) = if way == "POST" { (&policy.ingress, "-s") } else { (&policy.egress, "-d") };
        let open = names(side, "ANY") || names(side, "HOST");
        if open || table == Table::Raw && side.iter().any(|zone| self.has_interfaces(zone)) {
            return vec![String::new()];
        }
        let zones = self.config.zones.iter().filter(|zone| names(side, &zone.body.name));
        zones.flat_map(|zone| &zone.sources).filter_map(|source| end(self.config, source, family, flag)).collect()
    }

    /// Whether packets are in the zone by their interface.
    fn has_interfaces(&self, zone: &Value) -> bool {
        let named = |z: &Zone| z.body.name == zone.text && !z.interfaces.is_empty();
        zone.text == self.config.settings.default_zone.text || self.config.zones.iter().any(named)
    }

    /// Zones in the order in which packets are looked for: each question, and the zone.
    fn ends(&self, family: Family, outwards: bool) -> Vec<End<'_>> {
        let (address, interface) = if outwards { ("-d", "-o") } else { ("-s", "-i") };
        let mut found: Vec<((i32, u8), End)> = Vec::new();
        for zone in &self.config.zones {
            let priority = if outwards { zone.priorities.1 } else { zone.priorities.0 };
            for source in &zone.sources {
                let words = end(self.config, source, family, address);
                found.extend(
                    words.map(|words| ((priority, 0), (words.trim_start().into(), zone, zone.body.at.clone()))),
                );
            }
            for name in &zone.interfaces {
                let kind = if name.text.ends_with('+') { 2 } else { 1 };
                let words = format!("{interface} {}", quoted(&name.text));
                found.push(((priority, kind), (words, zone, name.at.clone())));
            }
        }
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// Whether packets go to a zone of a policy.
    fn egress(&mut self, policy: &Policy, way: &str) {
        let name = &policy.body.name;
        let (chain, to) = (format!("TO_{name}"), format!("{way}_{name}"));
        for family in Family::ALL.into_iter().filter(|f| self.script.has(*f, Table::Filter, &to)).collect::<Vec<_>>() {
            let mut rules: Vec<(String, bool, Place)> = Vec::new();
            for (words, zone, at) in self.ends(family, true) {
                rules.push((words, names(&policy.egress, &zone.body.name), at));
            }
            let at = policy.body.at.clone();
            rules.push((String::new(), names(&policy.egress, &self.config.settings.default_zone.text), at));
            self.dispatch(
                family,
                "filter",
                &chain,
                rules.into_iter().map(|(w, hit, at)| (w, hit.then(|| to.clone()), at)),
            );
        }
    }

    /// Rules that lead to chains, or back.
    fn dispatch(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        rules: impl Iterator<Item = (String, Option<String>, Place)>,
    ) {
        let mut rules: Vec<(String, Option<String>, Place)> = rules.collect();
        while rules.last().is_some_and(|(_, to, _)| to.is_none()) {
            rules.pop();
        }
        for (words, to, at) in rules {
            let to = to.map_or("-j RETURN".to_string(), |to| format!("-g {}", quoted(&to)));
            self.script.rule(family, table, chain, format!("{words} {to}").trim_start(), &at);
        }
    }

    /// What is in a zone reaches what else is in it.
    fn forward(&mut self, zone: &Zone) {
        let Some(at) = &zone.forward else { return };
        let chain = format!("FWD_{}", zone.body.name);
        for family in Family::ALL {
            for name in &zone.interfaces {
                self.script.rule(family, "filter", &chain, &format!("-o {} -j ACCEPT", quoted(&name.text)), at);
            }
            for words in zone.sources.iter().filter_map(|source| end(self.config, source, family, "-d")) {
                self.script.rule(family, "filter", &chain, &format!("{} -j ACCEPT", words.trim_start()), at);
            }
        }
    }

    /// What a zone does with ICMP that no rule speaks of.
    fn icmp(&mut self, zone: &Zone) {
        let body = &zone.body;
        let chain = format!("IN_{}", body.name);
        for family in Family::ALL {
            let icmp = icmp(family);
            match (body.inverted, body.target) {
                (true, Target::Default | Target::Accept) => {
                    if let Some(log) = self.config.log_denied(&format!("{chain}_ICMP_BLOCK")) {
                        self.script.rule(family, "filter", &chain, &format!("{icmp} {log}"), &body.at);
                    }
                    self.script.rule(family, "filter", &chain, &format!("{icmp} {}", prohibited(family)), &body.at);
                }
                (false, Target::Default) => {
                    self.script.rule(family, "filter", &chain, &format!("{icmp} -j ACCEPT"), &body.at);
                }
                _ => {}
            }
        }
    }

    fn target(&mut self, at: &Place, target: Target, way: &str, name: &str) {
        let chain = format!("{way}_{name}");
        let is_zone = self.config.zones.iter().any(|zone| zone.body.name == name);
        for family in Family::ALL {
            let (kind, rule) = match target {
                Target::Continue => return,
                Target::Accept => ("", "-j ACCEPT"),
                Target::Drop => ("DROP", "-j DROP"),
                Target::Reject if is_zone => ("REJECT", prohibited(family)),
                Target::Reject | Target::Default => ("REJECT", "-j REJECT"),
            };
            if let Some(log) = self.config.log_denied(&format!("{chain}_{kind}")).filter(|_| !kind.is_empty()) {
                self.script.rule(family, "filter", &chain, &log, at);
            }
            self.script.rule(family, "filter", &chain, rule, at);
        }
    }

    /// From the hooks to the zones. `direct` are chains of direct.xml that hooks lead to first.
    pub fn hooks(&mut self, direct: impl Fn(Family, &str, &str) -> bool) {
        let at = self.config.settings.default_zone.at.clone();
        for family in Family::ALL {
            self.rpfilter(family, &at);
            for table in Table::ALL {
                for hook in table.hooks() {
                    let (table, hook) = (table.name(), hook.name());
                    let guarded = table == "filter";
                    if guarded {
                        self.known(family, hook, &at);
                    }
                    if direct(family, table, hook) {
                        self.script.rule(family, table, hook, &format!("-j {hook}_direct"), &at);
                    }
                    if guarded && hook != "INPUT" {
                        self.embedded(family, hook, &at);
                    }
                    match hook {
                        "OUTPUT" if guarded => self.output(family),
                        "INPUT" if guarded => self.lead(family, Table::Filter, hook, "IN", &at),
                        "FORWARD" if guarded => self.lead(family, Table::Filter, hook, "FWD", &at),
                        _ => {}
                    }
                    if let Some((table, way)) = NAT.into_iter().find(|(t, w)| t.name() == table && hook_of(w) == hook) {
                        self.lead(family, table, hook, way, &at);
                    }
                    if guarded && hook != "OUTPUT" {
                        if let Some(log) = self.config.log_denied("FINAL_REJECT") {
                            self.script.rule(family, table, hook, &log, &at);
                        }
                        self.script.rule(family, table, hook, prohibited(family), &at);
                    }
                }
            }
        }
    }

    /// IPv6 from where no answer would go.
    fn rpfilter(&mut self, family: Family, at: &Place) {
        let Some(words) = self.config.settings.rpfilter.filter(|_| family == Family::V6) else { return };
        let mut rules = vec![
            "-p ipv6-icmp -m icmp6 --icmpv6-type router-advertisement -j ACCEPT".to_string(),
            "-p ipv6-icmp -m icmp6 --icmpv6-type neighbour-solicitation -j ACCEPT".to_string(),
        ];
        let matches = format!("-m rpfilter --invert --validmark{words}");
        rules.extend(self.config.log_any("rpfilter_DROP").map(|log| format!("{matches} {log}")));
        rules.push(format!("{matches} -j DROP"));
        for rule in rules {
            self.script.rule(family, "mangle", "PREROUTING", &rule, at);
        }
    }

    /// Packets of flows that are known, and of none.
    fn known(&mut self, family: Family, hook: &str, at: &Place) {
        let (states, interface) = match hook {
            "OUTPUT" => ("RELATED,ESTABLISHED", "-o"),
            _ => ("RELATED,ESTABLISHED,DNAT", "-i"),
        };
        let mut rules = vec![format!("-m conntrack --ctstate {states} -j ACCEPT"), format!("{interface} lo -j ACCEPT")];
        if hook != "OUTPUT" {
            let log = self.config.log_denied("STATE_INVALID_DROP");
            rules.extend(log.map(|log| format!("-m conntrack --ctstate INVALID {log}")));
            rules.push("-m conntrack --ctstate INVALID -j DROP".to_string());
        }
        for rule in rules {
            self.script.rule(family, "filter", hook, &rule, at);
        }
    }

    fn embedded(&mut self, family: Family, hook: &str, at: &Place) {
        if family == Family::V4 || !self.config.settings.rfc3964 {
            return;
        }
        if !self.script.has(family, Table::Filter, "RFC3964_IPv4") {
            for network in EMBEDDED {
                let refusal = "-j REJECT --reject-with icmp6-addr-unreachable".to_string();
                for rule in self.config.log_any("RFC3964_IPv4_REJECT").into_iter().chain([refusal]) {
                    self.script.rule(family, "filter", "RFC3964_IPv4", &format!("-d {network} {rule}"), at);
                }
            }
        }
        self.script.rule(family, "filter", hook, "-j RFC3964_IPv4", at);
    }

    fn output(&mut self, family: Family) {
        for policy in self.config.policies.iter().filter(|policy| way(policy) == "OUT") {
            self.jump(family, "OUTPUT", policy, "OUT");
        }
    }

    /// A hook leads to zones, if one of them says something there.
    fn lead(&mut self, family: Family, table: Table, hook: &str, way: &str, at: &Place) {
        let chain_of = |zone: &str| format!("{way}_{zone}");
        let mut ends: Vec<(String, String, Place)> = self
            .ends(family, way == "POST")
            .into_iter()
            .map(|(words, zone, at)| (words, chain_of(&zone.body.name), at))
            .collect();
        ends.push((String::new(), chain_of(&self.config.settings.default_zone.text), at.clone()));
        if !ends.iter().any(|(_, chain, _)| self.script.has(family, table, chain)) {
            return;
        }
        let zones = format!("{hook}_ZONES");
        self.script.rule(family, table.name(), hook, &format!("-j {zones}"), at);
        let rules: Vec<_> = ends
            .into_iter()
            .map(|(words, chain, at)| {
                let there = self.script.has(family, table, &chain);
                (words, there.then_some(chain), at)
            })
            .collect();
        self.dispatch(family, table.name(), &zones, rules.into_iter());
    }
}

/// Tables beside filter in which zones and policies have chains.
const NAT: [(Table, &str); 4] =
    [(Table::Raw, "PRE"), (Table::Mangle, "PRE"), (Table::Nat, "PRE"), (Table::Nat, "POST")];

fn hook_of(way: &str) -> &'static str {
    if way == "POST" { "POSTROUTING" } else { "PREROUTING" }
}
