//! What else a packet shows: kinds of addresses, ranges, length, hops, class of service, sender's MAC, fragments.

use super::super::rng::Rng;
use super::address::not;
use super::draw::Place;
use sumun_config::rule::Hook;

const WAYS_IN: [Hook; 3] = [Hook::Prerouting, Hook::Input, Hook::Forward];
const WAYS_OUT: [Hook; 2] = [Hook::Output, Hook::Postrouting];

pub(super) fn condition(place: &Place, rng: &mut Rng) -> Option<String> {
    let no = not(rng);
    let side = rng.pick(&["src", "dst"]);
    Some(match rng.below(10) {
        0 => address_type(place, rng),
        1 => format!("-m length {no}--length {}", rng.pick(&["0:60", "60", "100:1000", "1253:65535", "28"])),
        2 => hops(place, rng),
        3 => format!("-m dscp {no}--dscp {}", rng.pick(&["0x00", "0x0a", "0x2e"])),
        4 => format!("-m tos {no}--tos {}", rng.pick(&["0x00/0xff", "0x10/0x3f", "0x04/0x04"])),
        5 => {
            let range = place.of(
                ["192.168.1.10-192.168.1.12", "203.0.113.2-203.0.113.9"],
                ["fd00:1::10-fd00:1::12", "2001:db8:2::2-2001:db8:2::9"],
            );
            format!("-m iprange {no}--{side}-range {}", rng.pick(&range))
        }
        6 => format!("-m pkttype {no}--pkt-type {}", rng.pick(&["unicast", "broadcast", "multicast"])),
        7 if place.is_within(&WAYS_IN) => {
            format!("-m mac {no}--mac-source {}", rng.pick(&["02:00:00:00:00:02", "02:00:00:00:01:02"]))
        }
        8 => format!("-m ecn {no}--ecn-ip-ect {}", rng.below(4)),
        9 if place.of(true, false) => format!("{no}-f"),
        _ => return None,
    })
}

fn address_type(place: &Place, rng: &mut Rng) -> String {
    let types = place.of(
        ["LOCAL", "BROADCAST", "MULTICAST", "UNICAST", "LOCAL,BROADCAST", "BLACKHOLE", "UNREACHABLE"],
        ["LOCAL", "MULTICAST", "UNICAST", "UNSPEC", "LOCAL", "ANYCAST", "UNICAST"],
    );
    let limit = match rng.chance(30) {
        true if place.is_within(&WAYS_IN) => " --limit-iface-in",
        true if place.is_within(&WAYS_OUT) => " --limit-iface-out",
        _ => "",
    };
    format!("-m addrtype {}--{}-type {}{limit}", not(rng), rng.pick(&["src", "dst"]), rng.pick(&types))
}

fn hops(place: &Place, rng: &mut Rng) -> String {
    let name = place.of("ttl", "hl");
    match rng.pick(&["-eq 63", "-eq 64", "-lt 10", "-gt 63", "-eq 1"]) {
        what if what.starts_with("-eq") => format!("-m {name} {}--{name}{what}", not(rng)),
        what => format!("-m {name} --{name}{what}"),
    }
}
