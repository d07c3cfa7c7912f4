//! Addresses, prefixes, MACs and names in their usual spelling.

use super::reader::Field;
use super::report::Sink;
use crate::facts::Family;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Family of an address.
pub(super) fn family_of(address: IpAddr) -> Family {
    crate::facts::number(address).0
}

/// Family of a prefix.
pub(super) fn family_of_net(net: IpNet) -> Family {
    family_of(net.addr())
}

/// All addresses of a family.
pub(super) fn everything(family: Family) -> IpNet {
    let zero = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNet::new_assert(zero, 0)
}

/// How a family is said to people.
pub(super) fn said(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// An address of IPv6 that holds on its link only (fe80::/10).
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Why an address cannot be that of one host, if so.
pub(super) fn not_a_host(address: IpAddr) -> Option<&'static str> {
    let special = match address {
        IpAddr::V4(a) if a.octets()[0] == 0 => "an address of \"this network\", 0.0.0.0/8",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        IpAddr::V4(a) if a.octets()[0] >= 240 => "a reserved address",
        IpAddr::V6(a) if a.is_unspecified() => "the unspecified address",
        a if a.is_multicast() => "a multicast address",
        a if a.is_loopback() => "a loopback address",
        _ => return None,
    };
    Some(special)
}

/// The broadcast address of an IPv4 network that has one (RFC 3021: not with 31 or 32 bits).
pub(super) fn broadcast(net: IpNet) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => Some(IpAddr::V4(net.broadcast())),
        _ => None,
    }
}

/// An address.
pub(super) fn address(field: &Field, example: &str, sink: &mut Sink) -> Option<IpAddr> {
    let text = field.string(&format!("an address, such as \"{example}\""), sink)?;
    let parsed = text.parse();
    if parsed.is_err() {
        let what = match text.split_once('/') {
            Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
                format!("an address without a prefix length, \"{address}\"")
            }
            _ => format!("an address, such as \"{example}\""),
        };
        field.refuse(what, sink);
    }
    parsed.ok()
}

/// An address of one host.
pub(super) fn host(field: &Field, example: &str, sink: &mut Sink) -> Option<IpAddr> {
    let address = address(field, example, sink)?;
    if let Some(why) = not_a_host(address) {
        sink.error(field.at(), format!("`{}` cannot be {address}, {why}", field.name))
            .help(format!("the address of one host, such as \"{example}\""));
        return None;
    }
    Some(address)
}

/// An address with the prefix length of its network; host bits are kept.
pub(super) fn interface_address(field: &Field, sink: &mut Sink) -> Option<IpNet> {
    let accepts = "an address with its prefix length, such as \"192.168.1.1/24\" or \"fd00:1::1/64\"";
    let text = field.string(accepts, sink)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let len = if address.is_ipv4() { 24 } else { 64 };
        sink.error(field.at(), format!("{address} has no prefix length")).help(format!("for example \"{text}/{len}\""));
        return None;
    }
    let Ok(net) = text.parse::<IpNet>() else {
        field.refuse(explain_net(text).unwrap_or_else(|| accepts.to_string()), sink);
        return None;
    };
    if let Some(why) = not_a_host(net.addr()) {
        sink.error(field.at(), format!("{} is {why}", net.addr())).help("the address of one host");
        return None;
    }
    let family = family_of_net(net);
    // The kernel takes it: since 5.14 the lowest IPv4 address is a host's; in IPv6 it is the anycast address of routers.
    if net.prefix_len() < family.bits() - 1 && net.addr() == net.network() {
        sink.warning(field.at(), format!("{} is the lowest address of its network, which is seldom meant", net.addr()))
            .help(format!("another address within {net}"));
    }
    if broadcast(net) == Some(net.addr()) {
        sink.error(field.at(), format!("{} is the broadcast address of {}", net.addr(), net.trunc()))
            .help(format!("another address within {}", net.trunc()));
        return None;
    }
    Some(net)
}

/// A network: host bits must be zero; an address alone is a network of one.
pub(super) fn network(field: &Field, sink: &mut Sink) -> Option<IpNet> {
    let accepts = "a network, such as \"10.0.0.0/8\" or \"2001:db8::/32\"";
    let text = field.string(accepts, sink)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    let Ok(net) = text.parse::<IpNet>() else {
        field.refuse(explain_net(text).unwrap_or_else(|| accepts.to_string()), sink);
        return None;
    };
    if net.addr() != net.network() {
        sink.error(field.at(), format!("{net} has bits set behind its prefix"))
            .help(format!("did you mean \"{}\"?", net.trunc()));
        return None;
    }
    Some(net)
}

/// What is right of `ADDRESS/LENGTH`, and what would be accepted for the rest.
fn explain_net(text: &str) -> Option<String> {
    let (address, len) = text.split_once('/')?;
    let address = address.parse::<IpAddr>().ok()?;
    let bits = family_of(address).bits();
    // A netmask instead of a length.
    if let Ok(mask) = len.parse::<IpAddr>()
        && let Ok(len) = ipnet::ip_mask_to_prefix(mask)
        && len <= bits
    {
        return Some(format!("did you mean \"{address}/{len}\"?"));
    }
    Some(format!("a prefix length from 0 to {bits}"))
}

/// The MAC of one station.
pub(super) fn mac(field: &Field, sink: &mut Sink) -> Option<[u8; 6]> {
    let accepts = "a MAC, such as \"02:00:00:12:34:56\"";
    let text = field.string(accepts, sink)?;
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(value) = part.and_then(|part| u8::from_str_radix(part, 16).ok()) else {
            field.refuse(accepts, sink);
            return None;
        };
        *byte = value;
    }
    if parts.next().is_some() {
        field.refuse(accepts, sink);
        return None;
    }
    let why = if bytes == [0; 6] {
        "all zero"
    } else if bytes[0] & 1 == 1 {
        "a group's"
    } else {
        return Some(bytes);
    };
    sink.error(field.at(), format!("the MAC {text} is {why}, not one station's")).help(accepts);
    None
}

/// Why the kernel would refuse this as the name of a device (`dev_valid_name`), if so.
pub(super) fn bad_device_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > 15 {
        Some("it is longer than 15 bytes")
    } else if name == "." || name == ".." {
        Some("it is a directory")
    } else if name.contains(['/', ':']) || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some("it has a slash, a colon or white space")
    } else {
        None
    }
}
