//! VLAN ports among `[interfaces.NAME]`: `parent`, `vlan`, `vlan-protocol`.
//!
//! The parent may stand anywhere in the file, so a section is read as a [`Draft`], and all drafts are resolved when every
//! interface has been read.

use super::interfaces::Interfaces;
use super::reader::{Field, Fields};
use super::report::Sink;
use super::values::family_of_net;
use crate::facts::{Family, PortId};
use crate::model::{IPV6_MIN_MTU, Kind, TagProtocol, Tags, Vlan};
use std::collections::HashMap;
use std::ops::Range;
use toml::de::DeValue;

/// Keys that only interfaces with a device have.
const DEVICE_KEYS: [&str; 5] = ["device", "attach", "copy", "ring", "tx"];

/// The section of a VLAN, whose parent is not known yet.
pub(super) struct Draft<'a> {
    port: PortId,
    parent: Option<Field<'a>>,
    tags: Option<(Tags, Range<usize>)>,
}

impl Draft<'_> {
    /// What stands in for the VLAN until it is resolved, and in a file with mistakes.
    pub fn unresolved(&self) -> Vlan {
        let none = Tags { protocol: TagProtocol::default(), outer: *Tags::NUMBERS.start(), inner: None };
        Vlan { parent: PortId::NONE, tags: self.tags.as_ref().map_or(none, |(tags, _)| *tags) }
    }
}

/// Reads the keys of a VLAN, where the section has any of them.
pub(super) fn read<'a>(port: PortId, fields: &mut Fields<'a>, sink: &mut Sink) -> Option<Draft<'a>> {
    let protocol = fields.take("vlan-protocol");
    fields.take("parent").or(fields.take("vlan")).or(protocol)?;
    let parent = fields.require("parent", "parent = \"trunk0\"", sink);
    let numbers = fields.require("vlan", "vlan = 10", sink);
    let protocol =
        protocol.and_then(|field| field.choice(&TagProtocol::ALL.map(|protocol| (protocol.name(), protocol)), sink));
    for key in DEVICE_KEYS {
        if let Some(field) = fields.take(key) {
            sink.conflict(field.key(), format!("`{key}` cannot be set on a VLAN: its parent has the device"))
                .help(format!("set `{key}` there, or remove `parent` and `vlan`"));
        }
    }
    let tags = numbers.and_then(|field| Some((tags(&field, protocol.unwrap_or_default(), sink)?, field.at())));
    Some(Draft { port, parent, tags })
}

/// `vlan`: one number or two.
fn tags(field: &Field, protocol: TagProtocol, sink: &mut Sink) -> Option<Tags> {
    let accepts = "`vlan = 10`, or `vlan = [100, 10]` for two tags, the outer one first";
    let range = u64::from(*Tags::NUMBERS.start())..=u64::from(*Tags::NUMBERS.end());
    match field.node.get_ref() {
        DeValue::Integer(_) => Some(Tags { protocol, outer: field.integer(range, sink)?, inner: None }),
        DeValue::Array(_) => {
            let list = field.list(accepts, sink)?;
            let [outer, inner] = list.as_slice() else {
                let tags = if list.len() == 1 { "tag" } else { "tags" };
                sink.error(field.at(), format!("`vlan` cannot be an array of {} {tags}", list.len())).help(accepts);
                return None;
            };
            let outer = outer.integer(range.clone(), sink);
            let inner = inner.integer(range, sink);
            Some(Tags { protocol, outer: outer?, inner: Some(inner?) })
        }
        _ => {
            field.mistyped("a number or an array of two", accepts, sink);
            None
        }
    }
}

/// Finds the parents. `mtus` says where each interface has its `mtu`.
pub(super) fn resolve(drafts: Vec<Draft>, all: &mut Interfaces, mtus: &[Option<Range<usize>>], sink: &mut Sink) {
    let mut places: HashMap<Vlan, Range<usize>> = HashMap::new();
    for Draft { port, parent, tags } in drafts {
        let Some(field) = parent else { continue };
        let Some(parent) = all.find(&field, sink) else { continue };
        let name = all.name(parent).to_string();
        if all.vlan(parent).is_some() {
            sink.conflict(field.at(), format!("{name} is a VLAN itself"))
                .help("an interface with a device; for two tags `vlan = [100, 10]`, the outer one first");
            continue;
        }
        check_mtu(port, parent, &field, all, mtus, sink);
        let Some((tags, at)) = tags else { continue };
        let vlan = Vlan { parent, tags };
        if let Some(first) = places.get(&vlan) {
            sink.conflict(at, format!("{name} has the VLAN {tags} already"))
                .help("other tags, or another parent")
                .label(first.clone(), "first given here");
            continue;
        }
        places.insert(vlan, at);
        all.interfaces[usize::from(port.0)].kind = Kind::Vlan(vlan);
    }
}

/// What a VLAN sends must fit its parent; and where it has the parent's MTU, IPv6 must fit that.
fn check_mtu(
    port: PortId,
    parent: PortId,
    field: &Field,
    all: &Interfaces,
    mtus: &[Option<Range<usize>>],
    sink: &mut Sink,
) {
    let (own, above) = (usize::from(port.0), usize::from(parent.0));
    let Some(most) = all.interfaces[above].mtu else { return };
    let name = all.name(parent);
    let complaint = match (all.interfaces[own].mtu, &mtus[own]) {
        (Some(mtu), Some(at)) if mtu > most => sink
            .conflict(at.clone(), format!("packets of {mtu} bytes do not fit {name}, whose MTU is {most}"))
            .help(format!("at most {most}")),
        (None, None) if most < IPV6_MIN_MTU && all.has_family(port, Family::V6) => sink
            .conflict(field.at(), format!("IPv6 needs an MTU of 1280, but that of {name} is {most}"))
            .help("1280 or more there, or no IPv6 address on this interface"),
        _ => return,
    };
    if let Some(at) = &mtus[above] {
        complaint.label(at.clone(), "the parent's");
    }
}

impl Interfaces {
    /// The VLAN that a port is, where it is one.
    fn vlan(&self, port: PortId) -> Option<Vlan> {
        port.index().and_then(|index| self.interfaces.get(index)).and_then(|interface| interface.vlan())
    }

    /// Whether a port has addresses of a family.
    fn has_family(&self, port: PortId, family: Family) -> bool {
        self.addresses.iter().any(|(of, net, _)| *of == port && family_of_net(*net) == family)
    }
}
