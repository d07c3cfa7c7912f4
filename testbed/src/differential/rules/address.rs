//! Who: addresses and interfaces of the network that both routers stand in.

use super::super::rng::Rng;
use super::draw::Place;
use sumun_config::rule::Hook;

const V4: [&str; 12] = [
    "192.168.1.0/24",
    "192.168.1.11/32",
    "192.168.1.1/32",
    "203.0.113.0/24",
    "203.0.113.9/32",
    "203.0.113.2/32",
    "198.51.100.0/25",
    "0.0.0.0/1",
    "192.168.1.255/32",
    "224.0.0.0/4",
    "0.0.0.9/0.0.0.9",
    "255.255.255.255/32",
];
const V6: [&str; 12] = [
    "fd00:1::/64",
    "fd00:1::11/128",
    "fd00:1::1/128",
    "2001:db8:2::/64",
    "2001:db8:2::9/128",
    "2001:db8:2::2/128",
    "2001:db8::/32",
    "fe80::/10",
    "ff00::/8",
    "8000::/1",
    "::9/::f",
    "ff02::1/128",
];

/// `-s`, `-d`, `-i`, `-o`: some of them.
pub(super) fn conditions(place: &Place, rng: &mut Rng) -> Vec<String> {
    let mut conditions = Vec::new();
    for option in ["-s", "-d"] {
        if rng.chance(25) {
            let network = rng.pick(place.of(&V4, &V6));
            conditions.push(format!("{}{option} {network}", not(rng)));
        }
    }
    if rng.chance(20) {
        let options: &[&str] = match () {
            () if place.is_within(&[Hook::Prerouting, Hook::Input]) => &["-i"],
            () if place.is_within(&[Hook::Output, Hook::Postrouting]) => &["-o"],
            () => &["-i", "-o"],
        };
        let port = rng.pick(&["lan0", "wan0", "wan+", "lan0"]);
        conditions.push(format!("{}{} {port}", not(rng), rng.pick(options)));
    }
    conditions
}

/// `! ` now and then.
pub(super) fn not(rng: &mut Rng) -> &'static str {
    if rng.chance(15) { "! " } else { "" }
}
