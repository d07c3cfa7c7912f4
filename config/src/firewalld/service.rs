//! Services, helpers, ICMP types and sets.

use super::rich::{Ports, check_ports, family_of};
use super::xml::{Element, Mistakes, Place, Value};
use crate::facts::Family;
use crate::helper::Helper;

/// What a service is known by.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub ports: Vec<Ports>,
    pub source_ports: Vec<Ports>,
    pub protocols: Vec<Value>,
    /// Services that it is too.
    pub includes: Vec<Value>,
    pub helpers: Vec<Value>,
    /// Where its packets go, of each family; empty is anywhere.
    pub destinations: Vec<(Family, Value)>,
}

impl Service {
    /// Where its packets go; none where they are not of this family.
    pub fn destination(&self, family: Family) -> Option<Option<&Value>> {
        let found = self.destinations.iter().find(|(of, _)| *of == family).map(|(_, to)| to);
        (self.destinations.is_empty() || found.is_some()).then_some(found)
    }
}

fn ports(element: Element, mistakes: &mut Mistakes) -> Option<Ports> {
    element.only(&["port", "protocol"], &[], mistakes);
    let protocol = element.need("protocol", mistakes)?;
    let ports = element.get("port").filter(|ports| !ports.text.is_empty());
    if let Some(ports) = &ports {
        check_ports(ports, mistakes)?;
    }
    Some(Ports { ports, protocol })
}

/// `services/NAME.xml`
pub(super) fn service(root: Element, mistakes: &mut Mistakes) -> Service {
    let children =
        ["short", "description", "port", "source-port", "protocol", "include", "helper", "module", "destination"];
    root.only(&["name", "version"], &children, mistakes);
    let mut service = Service::default();
    for element in root.elements() {
        match element.name() {
            "port" => match ports(element, mistakes) {
                Some(Ports { ports: None, protocol }) => service.protocols.push(protocol),
                ports => service.ports.extend(ports),
            },
            "source-port" => service.source_ports.extend(ports(element, mistakes)),
            "protocol" => {
                element.only(&["value"], &[], mistakes);
                service.protocols.extend(element.need("value", mistakes));
            }
            "include" => {
                element.only(&["service"], &[], mistakes);
                service.includes.extend(element.need("service", mistakes));
            }
            "helper" | "module" => {
                element.only(&["name"], &[], mistakes);
                service.helpers.extend(element.need("name", mistakes).map(helper_name));
            }
            "destination" => {
                element.only(&["ipv4", "ipv6"], &[], mistakes);
                for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
                    let Some(to) = element.get(name).filter(|to| !to.text.is_empty()) else { continue };
                    if family_of(&to.text) != Some(family) {
                        mistakes.add(
                            &to.at,
                            format!("`{}` is not an {name} address", to.text),
                            "an address or a network",
                        );
                    }
                    service.destinations.push((family, to));
                }
            }
            "short" | "description" => drop(element.only_text(&[], mistakes)),
            _ => {}
        }
    }
    service
}

/// `nf_conntrack_netbios_ns` is `netbios-ns`.
fn helper_name(value: Value) -> Value {
    let short = value.text.trim_start_matches("nf_conntrack_").replace('_', "-");
    Value { text: short, ..value }
}

/// `helpers/NAME.xml`: the helper that it means, and its ports.
pub(super) fn helper(root: Element, mistakes: &mut Mistakes) -> (Option<Value>, Vec<Ports>) {
    root.only(&["name", "version", "family", "module"], &["short", "description", "port"], mistakes);
    let found = root.elements().filter(|element| element.name() == "port");
    let ports = found.filter_map(|element| ports(element, mistakes)).collect();
    (root.need("module", mistakes).map(helper_name), ports)
}

/// The port that a helper's protocol has; none where it is not there.
pub(super) fn usual_port(helper: &str) -> Option<(&'static str, u16)> {
    match Helper::named(helper)? {
        Helper::Ftp => Some(("tcp", 21)),
        Helper::Tftp => Some(("udp", 69)),
    }
}

/// `icmptypes/NAME.xml`: the families that have it.
pub(super) fn icmp_type(root: Element, mistakes: &mut Mistakes) -> Vec<Family> {
    root.only(&["name", "version"], &["short", "description", "destination"], mistakes);
    let mut said = Vec::new();
    for element in root.elements().filter(|element| element.name() == "destination") {
        element.only(&["ipv4", "ipv6"], &[], mistakes);
        for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let Some(value) = element.get(name) else { continue };
            match value.text.to_lowercase().as_str() {
                "yes" | "true" => said.push(family),
                "no" | "false" => {}
                other => mistakes.add(&value.at, format!("`{name}` cannot be `{other}`"), "yes or no"),
            }
        }
    }
    if said.is_empty() { Family::ALL.to_vec() } else { said }
}

/// The families of the types that firewalld knows; both where it is not said.
pub(super) fn icmp_families(name: &str) -> &'static [Family] {
    match name {
        "address-unreachable"
        | "bad-header"
        | "beyond-scope"
        | "failed-policy"
        | "neighbour-advertisement"
        | "neighbour-solicitation"
        | "no-route"
        | "packet-too-big"
        | "reject-route"
        | "unknown-header-type"
        | "unknown-option" => &[Family::V6],
        "fragmentation-needed"
        | "host-precedence-violation"
        | "host-prohibited"
        | "host-redirect"
        | "host-unknown"
        | "host-unreachable"
        | "ip-header-bad"
        | "network-prohibited"
        | "network-redirect"
        | "network-unknown"
        | "network-unreachable"
        | "precedence-cutoff"
        | "protocol-unreachable"
        | "required-option-missing"
        | "source-quench"
        | "source-route-failed"
        | "timestamp-reply"
        | "timestamp-request"
        | "tos-host-redirect"
        | "tos-host-unreachable"
        | "tos-network-redirect"
        | "tos-network-unreachable" => &[Family::V4],
        _ => &Family::ALL,
    }
}

/// `ipsets/NAME.xml` as lines of `ipset save`, each with its place.
pub(super) fn set(root: Element, name: &str, mistakes: &mut Mistakes) -> Vec<(String, Place)> {
    root.only(&["type", "name", "version"], &["short", "description", "option", "entry"], mistakes);
    let Some(kind) = root.need("type", mistakes) else { return Vec::new() };
    let mut create = format!("create {name} {}", kind.text);
    let mut entries = Vec::new();
    for element in root.elements() {
        match element.name() {
            "option" => {
                element.only(&["name", "value"], &[], mistakes);
                let Some(name) = element.need("name", mistakes) else { continue };
                let value = element.get("value").map_or(String::new(), |value| format!(" {}", value.text));
                create.push_str(&format!(" {}{value}", name.text));
            }
            "entry" => {
                let entry = element.only_text(&[], mistakes);
                if entry.text.is_empty() || entry.text.contains(char::is_whitespace) {
                    mistakes.add(
                        &entry.at,
                        format!("`{}` is not an element of a set", entry.text),
                        "one without blanks",
                    );
                } else {
                    entries.push((format!("add {name} {}", entry.text), entry.at));
                }
            }
            "short" | "description" => drop(element.only_text(&[], mistakes)),
            _ => {}
        }
    }
    let mut lines = vec![(create, kind.at)];
    lines.extend(entries);
    lines
}
