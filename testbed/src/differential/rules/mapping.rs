//! Targets of nat, to addresses that somebody has.

use super::super::rng::Rng;
use super::draw::Place;
use super::protocol;
use sumun_config::facts::Family;
use sumun_config::rule::Hook;

pub(super) fn target(place: &Place, conditions: &str, rng: &mut Rng) -> String {
    let ported = matches!(protocol::of(conditions), Some("tcp" | "udp"));
    let with_ports = ported && rng.chance(30);
    if rng.chance(30) || place.hooks.count_ones() != 1 {
        return "-j ACCEPT".into();
    }
    if rng.chance(15) {
        let to = place.of(
            ["198.51.100.0/24", "198.51.100.64/28", "10.9.0.0/16"],
            ["2001:db8:5::/64", "2001:db8:5::/120", "2001:db8:6::/48"],
        );
        return format!("-j NETMAP --to {}", rng.pick(&to));
    }
    let is_destination = place.is_within(&[Hook::Prerouting, Hook::Output]);
    if rng.chance(15) {
        let to = place.of("198.51.100.8-198.51.100.99", "2001:db8:5::8-2001:db8:6:ffff::1");
        let target = if is_destination { "DNAT --to-destination" } else { "SNAT --to-source" };
        let how = if rng.chance(30) { " --persistent" } else { "" };
        return format!("-j {target} {to}{how}");
    }
    if ported && place.is_at(Hook::Prerouting) && rng.chance(15) {
        let ports = rng.pick(&[":8000-8100/50", ":1-65535/2", ":53"]);
        return format!("-j DNAT --to-destination {ports}");
    }
    if is_destination { destination(place, with_ports, rng) } else { source(place, with_ports, rng) }
}

fn source(place: &Place, with_ports: bool, rng: &mut Rng) -> String {
    if place.is_at(Hook::Input) {
        let to = place.of("192.168.1.12", "fd00:1::12");
        return format!("-j SNAT --to-source {}", end(place, to, with_ports.then_some("7000")));
    }
    if rng.chance(50) {
        return format!("-j MASQUERADE{}", if with_ports { " --to-ports 6000-6100" } else { "" });
    }
    let to = place.of(["203.0.113.2", "203.0.113.77", "192.168.1.1"], ["2001:db8:2::2", "2001:db8:2::77", "fd00:1::1"]);
    format!("-j SNAT --to-source {}", end(place, rng.pick(&to), with_ports.then_some("7000-7100")))
}

fn destination(place: &Place, with_ports: bool, rng: &mut Rng) -> String {
    if rng.chance(30) {
        return format!("-j REDIRECT{}", if with_ports { " --to-ports 8080" } else { "" });
    }
    let to = place.of(["192.168.1.12", "203.0.113.9", "192.168.1.1"], ["fd00:1::12", "2001:db8:2::9", "fd00:1::1"]);
    format!("-j DNAT --to-destination {}", end(place, rng.pick(&to), with_ports.then_some("8080")))
}

/// An address, and the ports behind it.
fn end(place: &Place, address: &str, ports: Option<&str>) -> String {
    match (ports, place.family) {
        (None, _) => address.into(),
        (Some(ports), Family::V4) => format!("{address}:{ports}"),
        (Some(ports), Family::V6) => format!("[{address}]:{ports}"),
    }
}
