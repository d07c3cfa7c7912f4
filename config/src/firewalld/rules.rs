//! What the rules of a zone or a policy are in the chains of iptables.
//!
//! A zone has one chain for each hook that it says something of: `IN_zone` and `FWD_zone` in filter, `PRE_zone` in raw, mangle
//! and nat, `POST_zone` in nat. In each, rules stand by priority; those of priority 0 as log, deny, allow.

use super::files::Config;
use super::rich::{Act, Action, Address, End, How, Limit, Log, Ports, Rich, What, family_of};
use super::script::{Script, quoted};
use super::service::usual_port;
use super::xml::{Mistakes, Place, Value};
use super::zone::Body;
use crate::facts::Family;
use crate::helper::ABSENT;
use crate::rule::Table;

/// The order of rules in a chain: before those of priority 0, three kinds of these, and behind them.
type Slot = (u8, i32);

const LOG: Slot = (1, 0);
const DENY: Slot = (2, 0);
const ALLOW: Slot = (3, 0);

struct Line {
    family: Family,
    table: Table,
    way: &'static str,
    slot: Slot,
    text: String,
    note: Option<String>,
    at: Place,
}

/// Writes the rules of one body.
pub(super) struct Writer<'a> {
    pub config: &'a Config,
    pub body: &'a Body,
    /// Where it judges packets: `IN`, `FWD` or `OUT`.
    pub main: &'static str,
    /// Where it forwards packets, if it does.
    pub forward: &'static str,
    /// What denied ICMP is logged as.
    pub icmp_prefix: String,
    lines: Vec<Line>,
}

/// The refusal of what an administrator has forbidden.
pub(super) fn prohibited(family: Family) -> &'static str {
    match family {
        Family::V4 => "-j REJECT --reject-with icmp-host-prohibited",
        Family::V6 => "-j REJECT --reject-with icmp6-adm-prohibited",
    }
}

/// ICMP of a family.
pub(super) fn icmp(family: Family) -> &'static str {
    match family {
        Family::V4 => "-p icmp",
        Family::V6 => "-p ipv6-icmp",
    }
}

fn limited(limit: Option<&Limit>) -> String {
    limit.map_or(String::new(), |limit| {
        let burst =
            limit.burst.as_ref().map_or(String::new(), |burst| format!(" --limit-burst {}", quoted(&burst.text)));
        format!(" -m limit --limit {}{burst}", quoted(&limit.value.text))
    })
}

/// ` -s 192.0.2.1`, or nothing for a family that it is not of.
pub(super) fn end(config: &Config, address: &Address, family: Family, flag: &str) -> Option<String> {
    let not = if address.invert { " !" } else { "" };
    match &address.end {
        End::Address(value) => {
            (family_of(&value.text) == Some(family)).then(|| format!("{not} {flag} {}", quoted(&value.text)))
        }
        End::Mac(value) => (flag == "-s").then(|| format!(" -m mac{not} --mac-source {}", quoted(&value.text))),
        End::Set(value) => {
            let (families, parts) = config.set(value);
            let direction = if flag == "-s" { "src" } else { "dst" };
            let flags = vec![direction; parts].join(",");
            let text = || format!(" -m set{not} --match-set {} {flags}", quoted(&value.text));
            families.contains(&family).then(text)
        }
    }
}

impl<'a> Writer<'a> {
    pub fn new(
        config: &'a Config,
        body: &'a Body,
        ways: (&'static str, &'static str),
        icmp_prefix: String,
    ) -> Writer<'a> {
        Writer { config, body, main: ways.0, forward: ways.1, icmp_prefix, lines: Vec::new() }
    }

    /// Puts all rules of the body into their chains.
    pub fn write(mut self, script: &mut Script, mistakes: &mut Mistakes) {
        for rich in &self.body.rules {
            let before = (self.lines.len(), mistakes.0.len());
            for family in Family::ALL.into_iter().filter(|family| rich.family.is_none_or(|of| of == *family)) {
                self.rich(rich, family, mistakes);
            }
            if (self.lines.len(), mistakes.0.len()) == before {
                mistakes.add(&rich.at, "this is of no family that the rule is for", "things of one family in a rule");
            }
        }
        self.lines.sort_by_key(|line| line.slot);
        for line in &self.lines {
            if let Some(note) = &line.note {
                script.note(note);
            }
            let chain = format!("{}_{}", line.way, self.body.name);
            script.rule(line.family, line.table.name(), &chain, line.text.trim_start(), &line.at);
        }
    }

    fn push(&mut self, rich: &Rich, family: Family, (table, way): (Table, &'static str), slot: Slot, text: String) {
        let slot = match rich.priority {
            0 => slot,
            before if before < 0 => (0, before),
            behind => (4, behind),
        };
        self.lines.push(Line { family, table, way, slot, text, note: None, at: rich.at.clone() });
    }

    fn rich(&mut self, rich: &Rich, family: Family, mistakes: &mut Mistakes) {
        let source = rich.source.as_ref().map(|source| end(self.config, source, family, "-s"));
        let destination = rich.destination.as_ref().map(|to| end(self.config, to, family, "-d"));
        if matches!(source, Some(None)) || matches!(destination, Some(None)) {
            return;
        }
        let ends = source.flatten().unwrap_or_default() + &destination.flatten().unwrap_or_default();
        match &rich.what {
            None => self.act(rich, family, &ends),
            Some(What::Port(ports)) => self.act(rich, family, &(ends + &port_words(ports, "--dport"))),
            Some(What::SourcePort(ports)) => self.act(rich, family, &(ends + &port_words(ports, "--sport"))),
            Some(What::Protocol(protocol)) => self.act(rich, family, &format!("{ends} -p {}", quoted(&protocol.text))),
            Some(What::IcmpType(name)) => {
                if let Some(icmp) = self.icmp(name, family) {
                    self.act(rich, family, &(ends + &icmp));
                }
            }
            Some(What::IcmpBlock(name)) => {
                if let Some(icmp) = self.icmp(name, family) {
                    self.block(rich, family, &(ends + &icmp));
                }
            }
            Some(What::Service(name)) => self.service(rich, family, &ends, name, mistakes),
            Some(What::Masquerade) if rich.plain && family == Family::V6 => {}
            Some(What::Masquerade) => {
                self.push(rich, family, (Table::Nat, "POST"), ALLOW, format!("{ends} ! -o lo -j MASQUERADE"));
            }
            Some(What::Forward { from, port, address }) => {
                let of = address.as_ref().map_or(rich.family.or(Some(Family::V4)), |to| family_of(&to.text));
                if of.is_none() || rich.family.is_some_and(|family| of != Some(family)) {
                    let at = address.as_ref().map_or(&rich.at, |to| &to.at);
                    mistakes.add(at, "`to-addr` is not an address of the rule's family", "one address");
                } else if of == Some(family) {
                    let matches = ends + &port_words(from, "--dport");
                    self.forward_port(rich, family, &matches, port.as_ref(), address.as_ref());
                }
            }
            Some(What::Clamp(size)) => {
                let size = match size {
                    None => "--clamp-mss-to-pmtu".to_string(),
                    Some(size) => format!("--set-mss {}", quoted(&size.text)),
                };
                let text = format!("{ends} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS {size}");
                self.push(rich, family, (Table::Filter, self.forward), ALLOW, text);
            }
        }
    }

    /// ICMP of a type, if the family has it.
    fn icmp(&self, name: &Value, family: Family) -> Option<String> {
        let option = if family == Family::V4 { "--icmp-type" } else { "--icmpv6-type" };
        let has = self.config.icmp_families(&name.text).contains(&family);
        has.then(|| format!(" {} {option} {}", icmp(family), quoted(&name.text)))
    }

    fn logs(&mut self, rich: &Rich, family: Family, place: (Table, &'static str), matches: &str) {
        for log in &rich.logs {
            let text = format!("{matches}{} {}", limited(log.limit.as_ref()), log_words(log, rich.action.as_ref()));
            self.push(rich, family, place, LOG, text);
        }
    }

    /// Logs, and what becomes of the packets.
    fn act(&mut self, rich: &Rich, family: Family, matches: &str) {
        let marks = matches!(rich.action, Some(Action { act: Act::Mark(_), .. }));
        let place = if marks { (Table::Mangle, "PRE") } else { (Table::Filter, self.main) };
        self.logs(rich, family, place, matches);
        let Some(Action { act, limit }) = &rich.action else { return };
        let (slot, target) = match act {
            Act::Accept => (ALLOW, "ACCEPT".to_string()),
            Act::Drop => (DENY, "DROP".to_string()),
            Act::Reject(None) => (DENY, "REJECT".to_string()),
            Act::Reject(Some(with)) => (DENY, format!("REJECT --reject-with {}", quoted(&with.text))),
            Act::Mark(value) => (ALLOW, format!("MARK --set-xmark {}", quoted(&value.text))),
        };
        self.push(rich, family, place, slot, format!("{matches}{} -j {target}", limited(limit.as_ref())));
    }

    fn block(&mut self, rich: &Rich, family: Family, matches: &str) {
        let place = (Table::Filter, self.main);
        self.logs(rich, family, place, matches);
        if rich.plain && self.body.inverted {
            return self.push(rich, family, place, ALLOW, format!("{matches} -j ACCEPT"));
        }
        if let Some(log) = self.config.log_denied(&self.icmp_prefix).filter(|_| rich.plain) {
            self.push(rich, family, place, DENY, format!("{matches} {log}"));
        }
        self.push(rich, family, place, DENY, format!("{matches} {}", prohibited(family)));
    }

    fn forward_port(&mut self, rich: &Rich, family: Family, matches: &str, port: Option<&Value>, to: Option<&Value>) {
        self.logs(rich, family, (Table::Nat, "PRE"), matches);
        let port = port.map_or(String::new(), |port| format!(":{}", port.text));
        let to = match to {
            Some(to) if family == Family::V6 && !port.is_empty() => format!("[{}]", to.text),
            to => to.map_or(String::new(), |to| to.text.clone()),
        };
        let text = format!("{matches} -j DNAT --to-destination {}", quoted(&format!("{to}{port}")));
        self.push(rich, family, (Table::Nat, "PRE"), ALLOW, text);
    }

    /// A service, and those that it includes.
    fn service(&mut self, rich: &Rich, family: Family, ends: &str, name: &Value, mistakes: &mut Mistakes) {
        for (name, service) in self.config.service(name, mistakes) {
            let Some(to) = service.destination(family) else { continue };
            if to.is_some() && rich.destination.is_some() {
                let what = format!("the service {name} has a destination of its own");
                mistakes.add(&rich.at, what, "a rule without <destination>");
                continue;
            }
            let matches = to.map_or(ends.to_string(), |to| format!("{ends} -d {}", quoted(&to.text)));
            let before = self.lines.len();
            for ports in &service.ports {
                self.act(rich, family, &(matches.clone() + &port_words(ports, "--dport")));
            }
            for protocol in &service.protocols {
                self.act(rich, family, &format!("{matches} -p {}", quoted(&protocol.text)));
            }
            for ports in &service.source_ports {
                self.act(rich, family, &(matches.clone() + &port_words(ports, "--sport")));
            }
            if rich.action.as_ref().is_some_and(|action| action.act == Act::Accept) {
                for helper in &service.helpers {
                    self.helper(rich, family, &matches, helper, before, mistakes);
                }
            }
        }
    }

    /// The helper of a service; where it is not there, a note says so.
    fn helper(
        &mut self,
        rich: &Rich,
        family: Family,
        matches: &str,
        helper: &Value,
        first: usize,
        mistakes: &mut Mistakes,
    ) {
        let (name, ports) = self.config.helper(helper);
        if let Some((protocol, port)) = usual_port(&name) {
            let usual = || format!("-p {protocol} --dport {port}");
            let own = ports.iter().map(|ports| port_words(ports, "--dport")).collect::<Vec<_>>();
            for words in if own.is_empty() { vec![usual()] } else { own } {
                let text = format!("{matches} {} -j CT --helper {name}", words.trim_start());
                self.push(rich, family, (Table::Raw, "PRE"), ALLOW, text);
            }
        } else if ABSENT.contains(&name.as_str()) || name == "proto-gre" {
            let note = format!("without the helper {name}: Sumun has none");
            if let Some(line) = self.lines.get_mut(first) {
                line.note = Some(note);
            }
        } else {
            let what = format!("there is no helper `{}`", helper.text);
            mistakes.add(&helper.at, what, format!("ftp, tftp, {}", ABSENT.join(", ")));
        }
    }
}

fn port_words(ports: &Ports, option: &str) -> String {
    let protocol = quoted(&ports.protocol.text);
    match &ports.ports {
        Some(found) => format!(" -p {protocol} {option} {}", quoted(&found.text.replace('-', ":"))),
        None => format!(" -p {protocol}"),
    }
}

fn log_words(log: &Log, action: Option<&Action>) -> String {
    let option = |name: &str, value: &Option<Value>| {
        value.as_ref().map_or(String::new(), |value| format!(" {name} {}", quoted(&value.text)))
    };
    match &log.how {
        How::Log { prefix, level } => {
            format!("-j LOG{}{}", option("--log-prefix", prefix), option("--log-level", level))
        }
        How::Nflog { group, prefix, size } => format!(
            "-j NFLOG{}{}{}",
            option("--nflog-group", group),
            option("--nflog-prefix", prefix),
            option("--nflog-threshold", size)
        ),
        How::Audit => {
            let kind = match action.map(|action| &action.act) {
                Some(Act::Drop) => "drop",
                Some(Act::Reject(_)) => "reject",
                _ => "accept",
            };
            format!("-j AUDIT --type {kind}")
        }
    }
}
