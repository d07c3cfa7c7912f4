//! Targets of raw and mangle: what changes a packet, its marks, or how it is tracked.

use super::super::rng::Rng;
use super::draw::Place;
use sumun_config::facts::Family;
use sumun_config::rule::Hook;

/// What TCPMSS asks for.
const SYN: &str = "-p tcp -m tcp --tcp-flags SYN,RST SYN";

pub(super) fn of_raw(rng: &mut Rng) -> String {
    match rng.below(100) {
        0..30 => rng.pick(&["-j CT --notrack", "-j NOTRACK", "-j DROP"]).into(),
        30..60 => {
            let how = ["", " --zone 1", " --zone mark", " --zone-orig 2", " --zone-reply 3", " --ctevents new"];
            format!("-j CT{}", rng.pick(&how))
        }
        _ => "-j ACCEPT".into(),
    }
}

pub(super) fn of_mangle(place: &Place, rng: &mut Rng) -> String {
    match rng.below(14) {
        0..=2 => {
            let how = [
                "--set-xmark 0x1/0xffffffff",
                "--set-xmark 0x10/0xf0",
                "--or-mark 0x2",
                "--and-mark 0xfe",
                "--xor-mark 0x3",
            ];
            format!("-j MARK {}", rng.pick(&how))
        }
        3..=5 => {
            let how = [
                "--save-mark",
                "--restore-mark",
                "--set-xmark 0x1/0xffffffff",
                "--set-xmark 0x20/0xf0",
                "--save-mark --nfmask 0xf --ctmask 0xf",
                "--restore-mark --nfmask 0xff --ctmask 0xf0",
            ];
            format!("-j CONNMARK {}", rng.pick(&how))
        }
        6..=8 if harms_sums(place) => "-j ACCEPT".into(),
        6 => format!("-j DSCP --set-dscp {}", rng.pick(&["0x0a", "0x2e", "0x00"])),
        7 => format!("-j TOS --set-tos {}", rng.pick(&["0x10/0x3f", "0x04/0xff", "0x08/0x08"])),
        8 => {
            let how = rng.pick(&["-set 64", "-set 1", "-inc 1", "-dec 1", "-dec 63"]);
            place.of(format!("-j TTL --ttl{how}"), format!("-j HL --hl{how}"))
        }
        9 if place.is_within(&[Hook::Forward, Hook::Output, Hook::Postrouting]) => {
            format!("{SYN} -j TCPMSS --clamp-mss-to-pmtu")
        }
        10 => format!("{SYN} -j TCPMSS --set-mss {}", rng.pick(&[536, 1200, 1400, 1460])),
        11 => "-j DROP".into(),
        12 if place.family == Family::V6 => prefix(place, rng).into(),
        _ => "-j ACCEPT".into(),
    }
}

/// In IPv6 what changes the header behind the back of what the kernel has summed in software (CHECKSUM_COMPLETE) does not say so:
/// local sockets then take the packet for damaged.
pub(super) fn harms_sums(place: &Place) -> bool {
    place.family == Family::V6 && (place.is_at(Hook::Prerouting) || place.is_at(Hook::Input))
}

/// What is mapped lies behind the gateway: it has no neighbours to be asked for. Checksums are kept right for the own prefix
/// only, and what asks for them behind conntrack and NAT differs.
fn prefix(place: &Place, rng: &mut Rng) -> &'static str {
    match () {
        () if place.is_within(&[Hook::Prerouting, Hook::Output]) => rng.pick(&[
            "-d 2001:db8:5::/64 -j DNPT --src-pfx 2001:db8:5::/64 --dst-pfx fd00:1::/64",
            "-d 2001:db8:6:100::/56 -j DNPT --src-pfx 2001:db8:6:100::/56 --dst-pfx fd00:1::/48",
            "-d 2001:db8:2::/48 -j DNPT --src-pfx 2001:db8:2::/48 --dst-pfx 2001:db8:7::/48",
        ]),
        () if place.is_within(&[Hook::Input]) => {
            "-s fd00:1::/64 -j SNPT --src-pfx fd00:1::/64 --dst-pfx 2001:db8:5::/64"
        }
        () if place.is_within(&[Hook::Postrouting]) => rng.pick(&[
            "-s fd00:1::/64 -j SNPT --src-pfx fd00:1::/64 --dst-pfx 2001:db8:5::/64",
            "-s fd00:1::/64 -j SNPT --src-pfx fd00:1::/48 --dst-pfx 2001:db8:6:100::/56",
        ]),
        () => "-j ACCEPT",
    }
}
