//! What follows from addresses: the routes that the kernel makes for them (`fib_add_ifaddr` for IPv4, `addrconf` for IPv6).
//!
//! Link-local prefixes are not in the tables, since which link they mean depends on the port: [`Fib::lookup`] knows them.

use super::entry::{Entry, Hop, Kind, Out, protocol};
use super::own::link_local_of;
use super::{Fib, Own, is_link_local};
use ipnet::IpNet;
use std::collections::HashSet;
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::table;

/// Metric of routes that the kernel derives from IPv6 addresses (`IP6_RT_PRIO_ADDRCONF`).
const CONNECTED_V6: u32 = 256;

/// Own addresses of a port: as given, each once, then the link-local one that the MAC gives.
pub(super) fn own_addresses(port: PortId, addresses: impl Iterator<Item = Own>, mac: [u8; 6]) -> Vec<Own> {
    let derived = Own { port, family: Family::V6, addr: link_local_of(mac), prefix: 64 };
    let mut known = HashSet::new();
    addresses.chain([derived]).filter(|own| known.insert((own.family, own.addr))).collect()
}

/// A configured address of a port.
pub(super) fn own(port: PortId, net: IpNet) -> Own {
    let (family, addr) = number(net.addr());
    Own { port, family, addr, prefix: net.prefix_len() }
}

/// The routes of the loopback addresses and of these addresses, by port; `vrf` is the table of a port's VRF.
pub(super) fn routes(addresses: &[Vec<Own>], vrf: impl Fn(PortId) -> Option<u32>) -> Vec<Entry> {
    let mut routes = Vec::new();
    let mut add = |table, family: Family, addr: u128, len, metric, kind, source: Option<u128>| {
        let Ok(prefix) = IpNet::new(family.address(addr), len) else { return };
        let source = source.map(|source| family.address(source));
        let protocol = protocol::KERNEL;
        routes.push(Entry { table, prefix, metric, kind, mtu: None, source, tos: 0, realm: 0, protocol });
    };
    let lo = PortId::NONE;
    add(table::LOCAL, Family::V4, 127 << 24, 8, 0, Kind::Local(lo), None);
    add(table::LOCAL, Family::V4, 0x7fff_ffff, 32, 0, Kind::Broadcast(lo), None);
    add(table::LOCAL, Family::V6, 1, 128, 0, Kind::Local(lo), None);
    for own in addresses {
        for (i, address) in own.iter().enumerate() {
            let Own { port, family, addr, prefix } = *address;
            if is_link_local(family, addr) {
                continue;
            }
            let (local, main) = vrf(port).map_or((table::LOCAL, table::MAIN), |table| (table, table));
            // Where IPv4 puts what it prefers as a source, `ip route` shows it.
            let source = Some(addr).filter(|_| family == Family::V4);
            add(local, family, addr, family.bits(), 0, Kind::Local(port), source);
            // The first address of a network is the primary one: its prefix route and broadcast are there already for the
            // others, and the others' packets have its source.
            let primary = own[..i].iter().find(|other| {
                other.family == family && other.prefix == prefix && other.covers(addr) && family == Family::V4
            });
            if primary.is_none() && !(family == Family::V4 && prefix == 32) {
                let (metric, source) = match family {
                    Family::V4 => (0, Some(addr)),
                    Family::V6 => (CONNECTED_V6, None),
                };
                let hop = Hop { out: Out::Port(port), gateway: None, weight: 1, onlink: false };
                add(main, family, addr & family.mask(prefix), prefix, metric, Kind::Via(vec![hop]), source);
            }
            if primary.is_none() && family == Family::V4 && prefix < 31 {
                // The lowest address of a network is unicast since Linux 5.14.
                let broadcast = addr | !family.mask(prefix) & family.ones();
                add(local, family, broadcast, 32, 0, Kind::Broadcast(port), source);
            }
            if let Some(anycast) = Fib::anycast_of(address) {
                add(local, family, anycast, family.bits(), 0, Kind::Anycast(port), None);
            }
        }
    }
    routes
}
