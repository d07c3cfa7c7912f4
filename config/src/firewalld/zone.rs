//! Zones and policies.

use super::rich::{Address, End, Rich, SUBJECTS, address, number, plain, rule};
use super::xml::{Element, Mistakes, Place, Value, expected};

/// What becomes of packets that no rule of a zone or a policy decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// Refused, but pings and other ICMP pass.
    Default,
    Accept,
    Drop,
    Reject,
    /// The next policy, or the zone.
    Continue,
}

/// What zones and policies have in common.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub name: String,
    /// The name of its root.
    pub at: Place,
    pub target: Target,
    pub rules: Vec<Rich>,
    /// ICMP types that are named pass, the others do not.
    pub inverted: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub body: Body,
    pub interfaces: Vec<Value>,
    pub sources: Vec<Address>,
    /// Its interfaces and sources reach each other.
    pub forward: Option<Place>,
    /// Order among zones, of packets that come and of those that go.
    pub priorities: (i32, i32),
}

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub body: Body,
    pub priority: i32,
    pub ingress: Vec<Value>,
    pub egress: Vec<Value>,
}

/// Most bytes of a name.
const MAX_NAME: usize = 17;

fn body(root: Element, name: &str, targets: &[(&str, Target)], mistakes: &mut Mistakes) -> Body {
    if name.len() > MAX_NAME {
        let what = format!("the name `{name}` is longer than {MAX_NAME} bytes");
        mistakes.add(&root.at(), what, "a shorter name of the file");
    }
    let usual = targets.first().map_or(Target::Default, |(_, target)| *target);
    let target = root.get("target").map_or(usual, |value| {
        let found = targets.iter().find(|(name, _)| *name == value.text);
        found.map_or_else(
            || {
                let names: Vec<&str> = targets.iter().map(|(name, _)| *name).collect();
                let what = format!("`target` cannot be `{}`", value.text);
                mistakes.add(&value.at, what, expected(&value.text, &names, ""));
                usual
            },
            |(_, target)| *target,
        )
    });
    Body { name: name.to_string(), at: root.at(), target, rules: Vec::new(), inverted: false }
}

impl Body {
    /// An element that a zone and a policy may have alike.
    fn take(&mut self, element: Element, mistakes: &mut Mistakes) {
        match element.name() {
            "short" | "description" => drop(element.only_text(&[], mistakes)),
            "icmp-block-inversion" => {
                element.only(&[], &[], mistakes);
                self.inverted = true;
            }
            "rule" => self.rules.extend(rule(element, mistakes)),
            name if SUBJECTS.contains(&name) && name != "tcp-mss-clamp" => self.rules.extend(plain(element, mistakes)),
            _ => {}
        }
    }
}

const COMMON: [&str; 10] = [
    "short",
    "description",
    "rule",
    "service",
    "port",
    "source-port",
    "protocol",
    "icmp-block",
    "masquerade",
    "forward-port",
];

/// `zones/NAME.xml`
pub(super) fn zone(root: Element, name: &str, mistakes: &mut Mistakes) -> Zone {
    let mut children = COMMON.to_vec();
    children.extend(["interface", "source", "forward", "icmp-block-inversion"]);
    root.only(&["version", "target", "name", "ingress-priority", "egress-priority"], &children, mistakes);
    let targets = [
        ("default", Target::Default),
        ("ACCEPT", Target::Accept),
        ("DROP", Target::Drop),
        ("%%REJECT%%", Target::Reject),
        ("REJECT", Target::Reject),
    ];
    let priority =
        |name: &str, mistakes: &mut Mistakes| root.get(name).map_or(0, |value| number(&value, -32768, 32767, mistakes));
    let priorities = (priority("ingress-priority", mistakes), priority("egress-priority", mistakes));
    let body = body(root, name, &targets, mistakes);
    let mut zone = Zone { body, interfaces: Vec::new(), sources: Vec::new(), forward: None, priorities };
    for element in root.elements() {
        match element.name() {
            "interface" => {
                element.only(&["name"], &[], mistakes);
                zone.interfaces.extend(element.need("name", mistakes));
            }
            "source" => zone.sources.extend(address(element, false, mistakes)),
            "forward" => {
                element.only(&[], &[], mistakes);
                zone.forward = Some(element.at());
            }
            _ => zone.body.take(element, mistakes),
        }
    }
    zone
}

/// `policies/NAME.xml`
pub(super) fn policy(root: Element, name: &str, mistakes: &mut Mistakes) -> Policy {
    let mut children = COMMON.to_vec();
    children.extend(["ingress-zone", "egress-zone"]);
    root.only(&["version", "target", "priority"], &children, mistakes);
    let targets = [
        ("CONTINUE", Target::Continue),
        ("ACCEPT", Target::Accept),
        ("DROP", Target::Drop),
        ("REJECT", Target::Reject),
    ];
    let priority = root.get("priority").map_or(-1, |value| {
        let found = number(&value, -32768, 32767, mistakes);
        if found == 0 {
            mistakes.add(&value.at, "a policy cannot have priority 0", "less: before zones; more: after them");
        }
        found
    });
    let body = body(root, name, &targets, mistakes);
    let mut policy = Policy { body, priority, ingress: Vec::new(), egress: Vec::new() };
    for element in root.elements() {
        match element.name() {
            "ingress-zone" | "egress-zone" => {
                element.only(&["name"], &[], mistakes);
                let side = if element.name() == "ingress-zone" { &mut policy.ingress } else { &mut policy.egress };
                side.extend(element.need("name", mistakes));
            }
            _ => policy.body.take(element, mistakes),
        }
    }
    for (name, side) in [("ingress-zone", &policy.ingress), ("egress-zone", &policy.egress)] {
        if side.is_empty() {
            mistakes.add(&root.at(), format!("the policy has no <{name}>"), "a zone, ANY or HOST");
        }
        if let Some(odd) =
            side.iter().find(|zone| matches!(zone.text.as_str(), "ANY" | "HOST")).filter(|_| side.len() > 1)
        {
            mistakes.add(&odd.at, format!("`{}` stands beside other zones", odd.text), "ANY or HOST alone");
        }
    }
    policy
}

/// Interfaces and sources that two zones have.
pub(super) fn shared(zones: &[&Zone], mistakes: &mut Mistakes) {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for zone in zones {
        let ends = zone.sources.iter().map(|source| match &source.end {
            End::Address(value) | End::Mac(value) => (value.text.clone(), &value.at),
            End::Set(value) => (format!("ipset {}", value.text), &value.at),
        });
        let interfaces = zone.interfaces.iter().map(|name| (format!("interface {}", name.text), &name.at));
        for (what, at) in interfaces.chain(ends) {
            if let Some((_, other)) = seen.iter().find(|(seen, _)| *seen == what) {
                mistakes.add(at, format!("{what} is in the zone {other} already"), "one zone for each");
            }
            seen.push((what, &zone.body.name));
        }
    }
}
