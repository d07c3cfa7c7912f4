//! `[interfaces.NAME]`: the ports, and who may name them.

use super::host;
use super::reader::{Field, Fields};
use super::report::{Sink, suggest_quoted};
use super::values::{bad_device_name, family_of_net, interface_address, is_link_local};
use super::vlan;
use super::vrfs::Vrfs;
use crate::facts::{Family, LOOPBACK, PortId};
use crate::model::{
    Attach, Checksums, CopyMode, Device, Host, IPV6_MIN_MTU, Interface, Kind, PortSettings, RpFilter, Transmit,
};
use crate::rule::matches::devgroup::GROUPS;
use ipnet::IpNet;
use std::ops::Range;
use toml::de::DeValue;

/// The ports of the file, in its order.
#[derive(Default)]
pub(super) struct Interfaces {
    pub interfaces: Vec<Interface>,
    pub settings: Vec<PortSettings>,
    /// All addresses with their places, port by port.
    pub addresses: Vec<(PortId, IpNet, Range<usize>)>,
    /// Devices with their places.
    pub devices: Vec<(String, Range<usize>)>,
}

/// Longest IP packet of a port. What does not fit a frame comes and goes in pieces.
const JUMBO_MTU: u16 = 9000;

impl Interfaces {
    /// Names by [`PortId`].
    pub fn names(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// The name of a port.
    pub fn name(&self, port: PortId) -> &str {
        port.index().and_then(|index| self.interfaces.get(index)).map_or("?", |interface| &interface.name)
    }

    /// The port that a field names.
    pub fn find(&self, field: &Field, sink: &mut Sink) -> Option<PortId> {
        let text = field.string("the name of an interface", sink)?;
        let found = self.interfaces.iter().position(|interface| interface.name == text);
        // Where there are no interfaces at all, that has been said.
        if found.is_none() && !self.interfaces.is_empty() {
            let names: Vec<&str> = self.interfaces.iter().map(|interface| interface.name.as_str()).collect();
            sink.conflict(field.at(), format!("there is no interface \"{text}\""))
                .help(suggest_quoted(text, &names, '"'));
        }
        found.map(|index| PortId(index as u16))
    }

    /// The table of a port's VRF, where it is in one.
    pub fn vrf(&self, port: PortId) -> Option<u32> {
        port.index().and_then(|index| self.settings.get(index)).and_then(|settings| settings.vrf)
    }

    /// The table, if it is a VRF's with interfaces in it.
    pub fn vrf_of(&self, table: u32) -> Option<u32> {
        self.settings.iter().any(|settings| settings.vrf == Some(table)).then_some(table)
    }

    /// Whether an address is one of the router's own in this VRF, or in none.
    pub fn owns(&self, address: std::net::IpAddr, vrf: Option<u32>) -> bool {
        self.addresses.iter().any(|(port, net, _)| net.addr() == address && self.vrf(*port) == vrf)
    }
}

/// Reads `[interfaces]`.
pub(super) fn read(field: Option<Field>, vrfs: &Vrfs, host: Option<&Host>, sink: &mut Sink) -> Interfaces {
    let accepts = "a section such as `[interfaces.lan0]`";
    let mut all = Interfaces::default();
    let mut vlans: Vec<vlan::Draft> = Vec::new();
    let mut mtus: Vec<Option<Range<usize>>> = Vec::new();
    let fields = field.map(|field| (field, field.table("[interfaces]", accepts, sink)));
    let (sections, at) = match fields {
        Some((_, None)) => return all,
        Some((field, Some(mut fields))) => (fields.rest(), field.key()),
        None => (Vec::new(), 0..0),
    };
    if sections.is_empty() {
        sink.conflict(at, "there is no interface").help(format!("add {accepts}"));
    }
    let mut names = Vec::new();
    for section in sections {
        if all.interfaces.len() == usize::from(u16::MAX) {
            sink.conflict(section.key(), "there are more than 65535 interfaces");
            break;
        }
        let title = format!("[interfaces.{}]", section.name);
        let Some(mut fields) = section.table(title, accepts, sink) else { continue };
        check_name(&section, sink);
        let port = PortId(all.interfaces.len() as u16);
        let kind = match vlan::read(port, &mut fields, sink) {
            Some(draft) => {
                let kind = Kind::Vlan(draft.unresolved());
                vlans.push(draft);
                kind
            }
            None => Kind::Device(device(&section, &mut fields, &mut all.devices, sink)),
        };
        let vrf = vrfs.of(&mut fields, sink);
        let addresses = addresses(port, vrf, &mut fields, &mut all, sink);
        let mtu_field = fields.take("mtu");
        let mtu = mtu_field.and_then(|field| mtu(&field, &addresses, sink));
        mtus.push(mtu_field.map(|field| field.at()));
        let rp_filter = fields.take("rp-filter").and_then(|field| {
            field.choice(&[("off", RpFilter::Off), ("strict", RpFilter::Strict), ("loose", RpFilter::Loose)], sink)
        });
        let group = fields.take("group").and_then(|field| group(&field, sink));
        let local = host::local(&mut fields, host, sink);
        fields.finish(sink);
        names.push(section.key());
        all.settings.push(PortSettings {
            addresses,
            rp_filter: rp_filter.unwrap_or_default(),
            group: group.unwrap_or(0),
            vrf,
        });
        all.interfaces.push(Interface { name: section.name.to_string(), kind, mtu, local });
    }
    host::check_names(host, &all, &names, sink);
    vlan::resolve(vlans, &mut all, &mtus, sink);
    all
}

/// A name that rules can use: a device's, but not `lo`, and not one that `-i` would read as a pattern.
fn check_name(section: &Field, sink: &mut Sink) {
    let accepts = "up to 15 letters, digits, dots and dashes, such as `lan0`";
    let name = section.name;
    if let Some(why) = bad_device_name(name) {
        sink.error(section.key(), format!("`{name}` cannot name an interface: {why}")).help(accepts);
    } else if name == LOOPBACK {
        sink.error(section.key(), "`lo` cannot name an interface: it stands for the router itself").help(accepts);
    } else if name.ends_with('+') || name.starts_with('!') {
        sink.error(section.key(), format!("`{name}` cannot name an interface: rules would read it as a pattern"))
            .help(accepts);
    }
}

/// The keys of a device.
fn device(section: &Field, fields: &mut Fields, seen: &mut Vec<(String, Range<usize>)>, sink: &mut Sink) -> Device {
    let name = device_name(section, fields, seen, sink);
    let attach = fields.take("attach").and_then(|field| {
        field.choice(&[("auto", Attach::Auto), ("native", Attach::Native), ("generic", Attach::Generic)], sink)
    });
    let copy = fields.take("copy").and_then(|field| {
        field.choice(&[("auto", CopyMode::Auto), ("zero-copy", CopyMode::ZeroCopy), ("copy", CopyMode::Copy)], sink)
    });
    let ring = ring(fields, sink);
    let tx = fields.take("tx").and_then(|field| {
        field.choice(&[("auto", Transmit::Auto), ("ring", Transmit::Ring), ("xdp", Transmit::Xdp)], sink)
    });
    let checksums = fields
        .take("checksums")
        .and_then(|field| field.choice(&[("finish", Checksums::Finish), ("as-they-are", Checksums::AsTheyAre)], sink));
    Device {
        name,
        attach: attach.unwrap_or(Attach::Auto),
        copy: copy.unwrap_or(CopyMode::Auto),
        ring: ring.unwrap_or(2048),
        tx: tx.unwrap_or(Transmit::Auto),
        checksums,
    }
}

/// `device`: the interface's own name where it is not given; none twice.
fn device_name(
    section: &Field,
    fields: &mut Fields,
    seen: &mut Vec<(String, Range<usize>)>,
    sink: &mut Sink,
) -> String {
    let field = fields.take("device");
    let given = field.and_then(|field| {
        let text = field.string("the name of a device, such as \"eth1\"", sink)?;
        if let Some(why) = bad_device_name(text) {
            sink.error(field.at(), format!("`device` cannot be \"{text}\": {why}"))
                .help("a name as `ip link` shows it");
            return None;
        }
        Some((text, field.at()))
    });
    let (device, at) = given.unwrap_or((section.name, section.key()));
    if let Some((_, first)) = seen.iter().find(|(other, _)| other == device) {
        sink.conflict(at.clone(), format!("the device \"{device}\" is used twice"))
            .help("another device")
            .label(first.clone(), "first used here");
    }
    seen.push((device.to_string(), at));
    device.to_string()
}

/// `addresses`: in a VRF none twice, and no network on two ports.
fn addresses(port: PortId, vrf: Option<u32>, fields: &mut Fields, all: &mut Interfaces, sink: &mut Sink) -> Vec<IpNet> {
    let accepts = "an array, such as `addresses = [\"192.168.1.1/24\", \"fd00:1::1/64\"]`";
    let Some(list) = fields.take("addresses").and_then(|field| field.list(accepts, sink)) else { return Vec::new() };
    let mut addresses = Vec::with_capacity(list.len());
    for element in list {
        let Some(net) = interface_address(&element, sink) else { continue };
        if !collides(port, vrf, net, &element, all, sink) {
            addresses.push(net);
        }
        all.addresses.push((port, net, element.at()));
    }
    addresses
}

/// Complains where the address or its network is somewhere else already; answers whether the address is.
fn collides(port: PortId, vrf: Option<u32>, net: IpNet, element: &Field, all: &Interfaces, sink: &mut Sink) -> bool {
    for (other_port, other, place) in &all.addresses {
        // Link-local addresses hold on their link only: every port may have the same.
        if *other_port != port && (is_link_local(net.addr()) || all.vrf(*other_port) != vrf) {
            continue;
        }
        if other.addr() == net.addr() {
            sink.conflict(element.at(), format!("the address {} is given twice", net.addr()))
                .help("another address")
                .label(place.clone(), "first given here");
            return true;
        }
        let host = family_of_net(net).bits();
        if *other_port == port || net.prefix_len() == host || other.prefix_len() == host {
            continue;
        }
        let name = all.name(*other_port);
        if net.trunc() == other.trunc() {
            sink.conflict(element.at(), format!("the network {} is on {name} too", net.trunc()))
                .help("one interface for each network")
                .label(place.clone(), "first given here");
            return false;
        }
        if net.contains(other) || other.contains(&net) {
            sink.warning(element.at(), format!("{} and {} of {name} overlap", net.trunc(), other.trunc()))
                .help("addresses in both are reached by the longer prefix")
                .label(place.clone(), "given here");
        }
    }
    false
}

/// `mtu`: can be had, and fits IPv6 where the port has such addresses.
fn mtu(field: &Field, addresses: &[IpNet], sink: &mut Sink) -> Option<u16> {
    let mtu: u16 = field.integer(68..=65535, sink)?;
    if mtu > JUMBO_MTU {
        sink.conflict(field.at(), format!("packets of {mtu} bytes are too long")).help(format!("at most {JUMBO_MTU}"));
    }
    if mtu < IPV6_MIN_MTU && addresses.iter().any(|net| family_of_net(*net) == Family::V6) {
        sink.conflict(field.at(), format!("IPv6 needs an MTU of 1280, but this is {mtu}"))
            .help("1280 or more, or no IPv6 address on this interface");
    }
    Some(mtu)
}

/// `group`: a number or a name of iproute2.
fn group(field: &Field, sink: &mut Sink) -> Option<u32> {
    let DeValue::String(name) = field.node.get_ref() else { return field.integer(0..=u32::MAX.into(), sink) };
    let names = GROUPS.names();
    let found = names.iter().find(|(_, known)| known == name).map(|(number, _)| *number);
    if found.is_none() {
        field.refuse(format!("a number, or a name of {}", GROUPS.file), sink);
    }
    found
}

/// `ring`: a power of two.
fn ring(fields: &mut Fields, sink: &mut Sink) -> Option<u32> {
    let field = fields.take("ring")?;
    let ring: u32 = field.integer(64..=32768, sink)?;
    if !ring.is_power_of_two() {
        let above = ring.next_power_of_two();
        sink.error(field.at(), format!("`ring` cannot be {ring}: it must be a power of two"))
            .help(format!("{} or {above}", above / 2));
        return None;
    }
    Some(ring)
}
