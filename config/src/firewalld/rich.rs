//! What zones and policies allow and refuse: rich rules, and the elements that are short for one.

use super::xml::{Element, Mistakes, Place, Value, expected};
use crate::facts::Family;

/// A rich rule, or an element that means one.
#[derive(Clone, Debug)]
pub(super) struct Rich {
    pub at: Place,
    /// An element of the zone itself.
    pub plain: bool,
    pub family: Option<Family>,
    pub priority: i32,
    pub source: Option<Address>,
    pub destination: Option<Address>,
    pub what: Option<What>,
    pub logs: Vec<Log>,
    pub action: Option<Action>,
}

/// One end.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub invert: bool,
    pub end: End,
}

/// What an end is known by.
#[derive(Clone, Debug)]
pub(super) enum End {
    Address(Value),
    Mac(Value),
    Set(Value),
}

/// Ports of a protocol.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// `80` or `80-90`; none is all.
    pub ports: Option<Value>,
    pub protocol: Value,
}

/// What a rule is about.
#[derive(Clone, Debug)]
pub(super) enum What {
    Service(Value),
    Port(Ports),
    SourcePort(Ports),
    Protocol(Value),
    IcmpBlock(Value),
    IcmpType(Value),
    Masquerade,
    Forward { from: Ports, port: Option<Value>, address: Option<Value> },
    Clamp(Option<Value>),
}

/// What is noted of a packet.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub at: Place,
    pub how: How,
    pub limit: Option<Limit>,
}

/// Where it is noted.
#[derive(Clone, Debug)]
pub(super) enum How {
    Log { prefix: Option<Value>, level: Option<Value> },
    Nflog { group: Option<Value>, prefix: Option<Value>, size: Option<Value> },
    Audit,
}

#[derive(Clone, Debug)]
pub(super) struct Limit {
    pub value: Value,
    pub burst: Option<Value>,
}

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub(super) struct Action {
    pub act: Act,
    pub limit: Option<Limit>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Act {
    Accept,
    Drop,
    Reject(Option<Value>),
    Mark(Value),
}

/// The elements that stand in zones, policies and rules alike.
pub(super) const SUBJECTS: [&str; 8] =
    ["service", "port", "source-port", "protocol", "icmp-block", "masquerade", "forward-port", "tcp-mss-clamp"];

/// An element of a zone that means a rule.
pub(super) fn plain(element: Element, mistakes: &mut Mistakes) -> Option<Rich> {
    let what = subject(element, mistakes)?;
    let acts = !matches!(what, What::Masquerade | What::Forward { .. } | What::IcmpBlock(_));
    let action = acts.then_some(Action { act: Act::Accept, limit: None });
    Some(Rich {
        at: element.at(),
        plain: true,
        family: None,
        priority: 0,
        source: None,
        destination: None,
        what: Some(what),
        logs: Vec::new(),
        action,
    })
}

fn ports(element: Element, mistakes: &mut Mistakes) -> Option<Ports> {
    let (ports, protocol) = (element.need("port", mistakes), element.need("protocol", mistakes));
    let protocol = protocol?;
    let protocols = ["tcp", "udp", "sctp", "dccp"];
    if !protocols.contains(&protocol.text.as_str()) {
        let what = format!("`{}` is not a protocol with ports", protocol.text);
        mistakes.add(&protocol.at, what, expected(&protocol.text, &protocols, ""));
        return None;
    }
    let ports = ports?;
    check_ports(&ports, mistakes)?;
    Some(Ports { ports: (!ports.text.is_empty()).then_some(ports), protocol })
}

/// `80` or `80-90`, or nothing where a service has a protocol alone.
pub(super) fn check_ports(ports: &Value, mistakes: &mut Mistakes) -> Option<()> {
    let number = |text: &str| text.parse::<u16>().ok();
    let right = match ports.text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first < last),
        None => ports.text.is_empty() || number(&ports.text).is_some(),
    };
    if !right {
        mistakes.add(
            &ports.at,
            format!("`{}` is not a port", ports.text),
            "a number up to 65535, or two such as 80-90",
        );
    }
    right.then_some(())
}

/// An element that says what a rule is about.
pub(super) fn subject(element: Element, mistakes: &mut Mistakes) -> Option<What> {
    let attributes: &[&str] = match element.name() {
        "service" | "icmp-block" | "icmp-type" => &["name"],
        "port" | "source-port" => &["port", "protocol"],
        "protocol" | "tcp-mss-clamp" => &["value"],
        "forward-port" => &["port", "protocol", "to-port", "to-addr"],
        _ => &[],
    };
    element.only(attributes, &[], mistakes);
    Some(match element.name() {
        "service" => What::Service(element.need("name", mistakes)?),
        "icmp-block" => What::IcmpBlock(element.need("name", mistakes)?),
        "icmp-type" => What::IcmpType(element.need("name", mistakes)?),
        "port" => What::Port(ports(element, mistakes)?),
        "source-port" => What::SourcePort(ports(element, mistakes)?),
        "protocol" => What::Protocol(element.need("value", mistakes)?),
        "masquerade" => What::Masquerade,
        "forward-port" => {
            let (port, address) = (element.get("to-port"), element.get("to-addr").filter(|to| !to.text.is_empty()));
            let port = port.filter(|port| !port.text.is_empty());
            if let Some(port) = &port {
                check_ports(port, mistakes)?;
            }
            if port.is_none() && address.is_none() {
                mistakes.add(&element.at(), "<forward-port> goes nowhere", "to-port=\"...\" or to-addr=\"...\"");
            }
            What::Forward { from: ports(element, mistakes)?, port, address }
        }
        "tcp-mss-clamp" => What::Clamp(element.get("value").filter(|value| value.text != "pmtu")),
        _ => return None,
    })
}

/// An attribute that is yes or no.
fn yes(element: Element, name: &str, mistakes: &mut Mistakes) -> bool {
    let Some(value) = element.get(name) else { return false };
    match value.text.to_lowercase().as_str() {
        "yes" | "true" => true,
        "no" | "false" => false,
        other => {
            mistakes.add(&value.at, format!("`{name}` cannot be `{other}`"), "yes or no");
            false
        }
    }
}

/// The source or destination of a rule, or a source of a zone.
pub(super) fn address(element: Element, invertible: bool, mistakes: &mut Mistakes) -> Option<Address> {
    let attributes = ["address", "ipset", "mac", "family", "invert"];
    let macs = element.name() == "source";
    let known: Vec<&str> =
        attributes.into_iter().filter(|&a| (macs || a != "mac") && (invertible || a != "invert")).collect();
    element.only(&known, &[], mistakes);
    let mut ends = Vec::new();
    ends.extend(
        element.get("address").map(|value| if is_mac(&value.text) { End::Mac(value) } else { End::Address(value) }),
    );
    ends.extend(element.get("mac").map(End::Mac));
    ends.extend(element.get("ipset").map(End::Set));
    for end in &ends {
        check_end(end, mistakes);
    }
    let invert = yes(element, "invert", mistakes);
    let many = ends.len() > 1;
    match ends.pop() {
        Some(end) if !many => Some(Address { invert, end }),
        _ => {
            let what = format!("<{}> has {} address", element.name(), if many { "more than one" } else { "no" });
            mistakes.add(
                &element.at(),
                what,
                format!("one of {}", if macs { "address, mac and ipset" } else { "address and ipset" }),
            );
            None
        }
    }
}

fn check_end(end: &End, mistakes: &mut Mistakes) {
    match end {
        End::Mac(value) if !is_mac(&value.text) => {
            mistakes.add(&value.at, format!("`{}` is not a MAC address", value.text), "one such as 00:11:22:33:44:55");
        }
        End::Address(value) if family_of(&value.text).is_none() => {
            let what = format!("`{}` is not an address", value.text);
            mistakes.add(&value.at, what, "an address or a network such as 192.0.2.0/24 or 2001:db8::/32");
        }
        _ => {}
    }
}

pub(super) fn is_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split(':').collect();
    bytes.len() == 6 && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The family of an address or a network.
pub(super) fn family_of(text: &str) -> Option<Family> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    match address.parse().ok()? {
        std::net::IpAddr::V4(_) => Some(Family::V4),
        std::net::IpAddr::V6(_) => Some(Family::V6),
    }
}

fn limit(element: Element, mistakes: &mut Mistakes) -> Option<Limit> {
    let limit = element.elements().find(|child| child.name() == "limit")?;
    limit.only(&["value", "burst"], &[], mistakes);
    Some(Limit { value: limit.need("value", mistakes)?, burst: limit.get("burst") })
}

/// A number of a range.
pub(super) fn number(value: &Value, low: i32, high: i32, mistakes: &mut Mistakes) -> i32 {
    match value.text.trim().parse::<i32>() {
        Ok(number) if (low..=high).contains(&number) => number,
        _ => {
            mistakes.add(
                &value.at,
                format!("`{}` is not a number from {low} to {high}", value.text),
                "one such as 100",
            );
            0
        }
    }
}

/// `<rule>`
pub(super) fn rule(element: Element, mistakes: &mut Mistakes) -> Option<Rich> {
    let before = mistakes.0.len();
    let mut children = SUBJECTS.to_vec();
    children.extend([
        "icmp-type",
        "source",
        "destination",
        "log",
        "nflog",
        "audit",
        "accept",
        "reject",
        "drop",
        "mark",
    ]);
    element.only(&["family", "priority"], &children, mistakes);
    let family = match element.get("family") {
        None => None,
        Some(value) => match value.text.as_str() {
            "ipv4" => Some(Family::V4),
            "ipv6" => Some(Family::V6),
            other => {
                mistakes.add(&value.at, format!("`family` cannot be `{other}`"), "ipv4 or ipv6");
                None
            }
        },
    };
    let priority = element.get("priority").map_or(0, |value| number(&value, -32768, 32767, mistakes));
    let (source, destination, what, logs, action) = (None, None, None, Vec::new(), None);
    let mut rich = Rich { at: element.at(), plain: false, family, priority, source, destination, what, logs, action };
    for child in element.elements() {
        let twice = match child.name() {
            "source" => rich
                .source
                .replace(match address(child, true, mistakes) {
                    Some(address) => address,
                    None => continue,
                })
                .is_some(),
            "destination" => rich
                .destination
                .replace(match address(child, true, mistakes) {
                    Some(address) => address,
                    None => continue,
                })
                .is_some(),
            "log" | "nflog" | "audit" => {
                let twice = rich.logs.iter().any(|log| same_kind(&log.how, child.name()));
                rich.logs.push(log(child, mistakes));
                twice
            }
            "accept" | "reject" | "drop" | "mark" => match action_of(child, mistakes) {
                Some(action) => rich.action.replace(action).is_some(),
                None => false,
            },
            _ => match subject(child, mistakes) {
                Some(what) => rich.what.replace(what).is_some(),
                None => false,
            },
        };
        if twice {
            mistakes.add(&child.at(), format!("<{}> is one too many in this rule", child.name()), "one of its kind");
        }
    }
    if mistakes.0.len() == before {
        check(&rich, mistakes);
    }
    (mistakes.0.len() == before).then_some(rich)
}

fn same_kind(how: &How, name: &str) -> bool {
    matches!((how, name), (How::Log { .. } | How::Nflog { .. }, "log" | "nflog") | (How::Audit, "audit"))
}

fn log(element: Element, mistakes: &mut Mistakes) -> Log {
    let how = match element.name() {
        "log" => {
            element.only(&["prefix", "level"], &["limit"], mistakes);
            How::Log { prefix: element.get("prefix"), level: element.get("level") }
        }
        "nflog" => {
            element.only(&["group", "prefix", "queue-size"], &["limit"], mistakes);
            How::Nflog { group: element.get("group"), prefix: element.get("prefix"), size: element.get("queue-size") }
        }
        _ => {
            element.only(&[], &["limit"], mistakes);
            How::Audit
        }
    };
    Log { at: element.at(), how, limit: limit(element, mistakes) }
}

fn action_of(element: Element, mistakes: &mut Mistakes) -> Option<Action> {
    let attributes: &[&str] = match element.name() {
        "reject" => &["type"],
        "mark" => &["set"],
        _ => &[],
    };
    element.only(attributes, &["limit"], mistakes);
    let act = match element.name() {
        "accept" => Act::Accept,
        "drop" => Act::Drop,
        "reject" => Act::Reject(element.get("type")),
        _ => Act::Mark(element.need("set", mistakes)?),
    };
    Some(Action { act, limit: limit(element, mistakes) })
}

/// What a rule must have, and cannot have together.
fn check(rich: &Rich, mistakes: &mut Mistakes) {
    let at = &rich.at;
    for end in [&rich.source, &rich.destination].into_iter().flatten() {
        let End::Address(value) = &end.end else { continue };
        match (rich.family, family_of(&value.text)) {
            (None, _) => {
                mistakes.add(at, "a rule with an address lacks its family", "family=\"ipv4\" or family=\"ipv6\"")
            }
            (family, found) if family != found => {
                mistakes.add(
                    &value.at,
                    format!("`{}` is not an address of the rule's family", value.text),
                    "one of its family",
                );
            }
            _ => {}
        }
    }
    let alone =
        matches!(rich.what, Some(What::Masquerade | What::Forward { .. } | What::IcmpBlock(_) | What::Clamp(_)));
    if alone && rich.action.is_some() {
        mistakes.add(at, "this rule says itself what becomes of packets", "no accept, reject, drop or mark");
    }
    if !alone && rich.action.is_none() && rich.logs.is_empty() {
        mistakes.add(at, "the rule does nothing", "accept, reject, drop, mark, log, nflog or audit");
    }
    if matches!(rich.what, Some(What::Masquerade | What::Clamp(_))) && !rich.logs.is_empty() {
        mistakes.add(at, "nothing can be logged here", "a second rule with <log>");
    }
    let bare = rich.what.is_none() && rich.source.is_none() && rich.destination.is_none();
    if bare && rich.priority == 0 {
        mistakes.add(
            at,
            "the rule is about nothing",
            "a source, a destination, an element such as <service>, or a priority",
        );
    }
    let audits = rich.logs.iter().find(|log| matches!(log.how, How::Audit));
    let judges = rich.action.as_ref().is_some_and(|action| !matches!(action.act, Act::Mark(_)));
    if let Some(log) = audits.filter(|_| !judges) {
        mistakes.add(&log.at, "<audit> needs to know what becomes of packets", "accept, reject or drop");
    }
}
