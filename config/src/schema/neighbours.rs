//! `[[neighbours]]`: neighbours that are known beforehand.

use super::interfaces::Interfaces;
use super::reader::Fields;
use super::report::Sink;
use super::values::{host, is_link_local, mac};
use crate::model::StaticNeighbour;

/// Reads `[[neighbours]]`.
pub(super) fn read(sections: Vec<Fields>, interfaces: &Interfaces, sink: &mut Sink) -> Vec<StaticNeighbour> {
    let mut neighbours: Vec<StaticNeighbour> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for mut fields in sections {
        let at = fields.at.clone();
        let port = fields.require("interface", "interface = \"lan0\"", sink);
        let port = port.and_then(|field| interfaces.find(&field, sink));
        let address_field = fields.require("address", "address = \"192.168.1.10\"", sink);
        let address = address_field.and_then(|field| host(&field, "192.168.1.10", sink));
        let mac_field = fields.require("mac", "mac = \"02:00:00:12:34:56\"", sink);
        let mac = mac_field.and_then(|field| mac(&field, sink));
        fields.finish(sink);
        let (Some(port), Some(address), Some(field)) = (port, address, address_field) else { continue };
        if interfaces.owns(address, interfaces.vrf(port)) && !is_link_local(address) {
            sink.conflict(field.at(), format!("{address} is the router's own address"))
                .help("the address of another host");
            continue;
        }
        if let Some(first) = places.insert((port, address), at) {
            sink.conflict(field.at(), format!("the neighbour {address} is given twice"))
                .help("one MAC for each neighbour")
                .label(first, "first given here");
            continue;
        }
        let mut networks = interfaces.addresses.iter().filter(|(of, ..)| *of == port);
        if !is_link_local(address) && !networks.any(|(_, net, _)| net.contains(&address)) {
            let name = interfaces.name(port);
            sink.warning(field.at(), format!("{address} is on no network of {name}"))
                .help(format!("it serves only routes with `dev = \"{name}\"`"));
        }
        if let Some(mac) = mac {
            neighbours.push(StaticNeighbour { port, address, mac });
        }
    }
    neighbours
}
