//! Sets and elements as ipset(8) prints them.

use super::{Element, Extra, Header, Key, Kind, Part, icmp, iface_name};
use crate::facts::{Family, proto};
use crate::rule::matches::address::print_address;
use crate::rule::matches::protocol::print_protocol;
use std::fmt::Write;

/// What stands behind the type in `ipset save`, and behind `Header:` in `ipset list`.
pub fn header(header: &Header) -> String {
    let mut out: Vec<String> = Vec::new();
    let kind = header.kind;
    let family = header.family.unwrap_or(Family::V4);
    let address = |addr: u128| {
        let mut text = String::new();
        print_address(&mut text, family, addr);
        text
    };
    if kind.is_bitmap() {
        let (first, last) = header.range;
        out.push(match kind {
            Kind::BitmapPort => format!("range {first}-{last}"),
            _ => format!("range {}-{}", address(first.into()), address(last.into())),
        });
    } else if kind == Kind::ListSet {
        out.push(format!("size {}", header.size));
    } else {
        if kind.has_family() {
            out.push(format!("family {}", if family == Family::V4 { "inet" } else { "inet6" }));
        }
        if kind == Kind::HashIpMark {
            out.push(format!("markmask {:#010x}", header.markmask));
        }
        out.push(format!("hashsize {} maxelem {}", header.hashsize, header.maxelem));
    }
    let masks = [
        header.netmask.map(|len| format!("netmask {len}")),
        header.bitmask.map(|mask| format!("bitmask {}", address(mask))),
    ];
    // The younger of the types that have masks print them last.
    let late = matches!(kind, Kind::HashIpPort | Kind::HashNetNet);
    if !late {
        out.extend(masks.iter().flatten().cloned());
    }
    out.extend(header.timeout.map(|seconds| format!("timeout {seconds}")));
    let flags = [
        (header.counters, "counters"),
        (header.comment, "comment"),
        (header.skbinfo, "skbinfo"),
        (header.forceadd, "forceadd"),
    ];
    out.extend(flags.iter().filter(|(given, _)| *given).map(|(_, name)| name.to_string()));
    if !kind.is_bitmap() && kind != Kind::ListSet {
        out.push(format!("bucketsize {}", header.bucketsize));
        out.extend(header.initval.map(|value| format!("initval {value:#010x}")));
    }
    if late {
        out.extend(masks.into_iter().flatten());
    }
    out.join(" ")
}

/// The element alone: `192.0.2.1,tcp:80`.
pub fn key(header: &Header, key: &Key, extra: Option<&Extra>, out: &mut String) {
    let family = header.family.unwrap_or(Family::V4);
    let mut second = false;
    for (i, part) in header.kind.parts().iter().enumerate() {
        if i > 0 && !(header.kind == Kind::BitmapIpMac && extra.is_none_or(|extra| extra.mac.is_none())) {
            out.push(',');
        }
        match part {
            Part::Ip | Part::Net => {
                let (addr, len) = if second { (key.b, key.len_b()) } else { (key.a, key.len_a()) };
                second = true;
                print_address(out, family, addr);
                if *part == Part::Net && len != family.bits() {
                    let _ = write!(out, "/{len}");
                }
            }
            Part::Mac if header.kind == Kind::BitmapIpMac => {
                if let Some(mac) = extra.and_then(|extra| extra.mac) {
                    print_mac(out, mac);
                }
            }
            Part::Mac => print_mac(out, key.mac()),
            Part::Mark => {
                let _ = write!(out, "{:#010x}", key.mark());
            }
            Part::Port if header.kind == Kind::BitmapPort => {
                let _ = write!(out, "{}", key.port());
            }
            Part::Port => port(out, family, key),
            Part::Iface => {
                let physdev = if key.is_physdev() { "physdev:" } else { "" };
                let _ = write!(out, "{physdev}{}", iface_name(key.b));
            }
            Part::Set => out.push_str(extra.map_or("", |extra| &extra.set)),
        }
    }
}

fn port(out: &mut String, family: Family, key: &Key) {
    let number = key.port();
    print_protocol(out, key.proto());
    let icmp = match family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    };
    let [kind, code] = number.to_be_bytes();
    let _ = match icmp::name(family, number).filter(|_| key.proto() == icmp) {
        Some(name) => write!(out, ":{name}"),
        None if key.proto() == icmp => write!(out, ":{kind}/{code}"),
        None => write!(out, ":{number}"),
    };
}

fn print_mac(out: &mut String, mac: u64) {
    let [_, _, a, b, c, d, e, f] = mac.to_be_bytes();
    let _ = write!(out, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{f:02X}");
}

/// The element with all that it carries, as behind `add NAME` in `ipset save` and on a line of `ipset list`.
pub fn element(header: &Header, element: &Element, out: &mut String) {
    let extra = element.extra.as_deref();
    key(header, &element.key, extra, out);
    let none = Extra::default();
    let extra = extra.unwrap_or(&none);
    if header.timeout.is_some()
        && let Some(seconds) = extra.timeout
    {
        let _ = write!(out, " timeout {seconds}");
    }
    if element.nomatch {
        out.push_str(" nomatch");
    }
    if element.wildcard {
        out.push_str(" wildcard");
    }
    if header.counters && (extra.packets.is_some() || extra.bytes.is_some()) {
        let _ = write!(out, " packets {} bytes {}", extra.packets.unwrap_or(0), extra.bytes.unwrap_or(0));
    }
    if let Some(comment) = extra.comment.as_deref().filter(|_| header.comment) {
        let _ = write!(out, " comment \"{comment}\"");
    }
    let skb = extra.skb;
    if header.skbinfo && (skb.mark, skb.mask) != (0, 0) {
        let _ = write!(out, " skbmark {:#x}", skb.mark);
        if skb.mask != u32::MAX {
            let _ = write!(out, "/{:#x}", skb.mask);
        }
    }
    if header.skbinfo && skb.prio != 0 {
        let _ = write!(out, " skbprio {:x}:{:x}", skb.prio >> 16, skb.prio & 0xffff);
    }
    if header.skbinfo && skb.queue != 0 {
        let _ = write!(out, " skbqueue {}", skb.queue);
    }
}
