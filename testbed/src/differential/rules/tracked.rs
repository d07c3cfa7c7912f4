//! What conntrack knows: states, tuples, marks, labels, traffic, helpers.

use super::super::rng::Rng;
use super::address::not;
use super::draw::Place;

const STATES: [&str; 9] =
    ["NEW", "RELATED,ESTABLISHED", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "SNAT", "DNAT", "INVALID,NEW"];
const MARKS: [&str; 5] = ["0x1", "0x2", "0x1/0x1", "0x0/0xf", "0x10/0xf0"];

pub(super) fn condition(place: &Place, rng: &mut Rng) -> Option<String> {
    let no = not(rng);
    Some(match rng.below(13) {
        0..=2 => format!("-m conntrack {no}--ctstate {}", rng.pick(&STATES)),
        3 => format!("-m state {no}--state {}", rng.pick(&["NEW", "ESTABLISHED", "INVALID,UNTRACKED"])),
        4 => {
            let status = rng.pick(&["ASSURED", "SEEN_REPLY", "CONFIRMED", "NONE", "EXPECTED"]);
            format!("-m conntrack {no}--ctstatus {status}")
        }
        5 => format!("-m conntrack {no}--ctproto {}", rng.pick(&[6, 17, 132])),
        6 => format!("-m conntrack --ctdir {}", rng.pick(&["ORIGINAL", "REPLY"])),
        7 => format!("-m mark {no}--mark {}", rng.pick(&MARKS)),
        8 => format!("-m connmark {no}--mark {}", rng.pick(&MARKS)),
        9 => format!("-m connlabel {no}--label {}{}", rng.below(3), rng.pick(&["", " --set"])),
        10 => {
            let what = rng.pick(&["packets", "bytes", "avgpkt"]);
            let dir = rng.pick(&["original", "reply", "both"]);
            let range = rng.pick(&["1:2", "60", "0:100", "2"]);
            format!("-m connbytes {no}--connbytes {range} --connbytes-mode {what} --connbytes-dir {dir}")
        }
        11 => tuple(place, rng),
        _ => format!("-m helper {no}--helper ftp"),
    })
}

fn tuple(place: &Place, rng: &mut Rng) -> String {
    let end = rng.pick(&["origsrc", "origdst", "replsrc", "repldst"]);
    if rng.chance(50) {
        return format!("-m conntrack {}--ct{end}port {}", not(rng), rng.pick(&["0:1023", "53", "1024:65535"]));
    }
    let networks = place.of(["192.168.1.0/24", "203.0.113.9"], ["fd00:1::/64", "2001:db8:2::9"]);
    format!("-m conntrack {}--ct{end} {}", not(rng), rng.pick(&networks))
}
