//! `-m eui64`: the last 64 bits of the IPv6 source address are made of the frame's source MAC (`ip6t_eui64.c`).
//!
//! As RFC 4291, appendix A, makes them, but that the bit for "universal" is set and not inverted. A packet that came without a
//! frame is dropped.
//!
//! TOML: `{ match = "eui64", source = "2001:db8::/32", jump = "ACCEPT" }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{Case, Complaint, Given, MatchExtension};
use crate::rule::{Cond, Families, Hook, Outcome};
use serde::{Deserialize, Serialize};

/// The bare `-m eui64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Eui64;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "eui64",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: Hook::Prerouting.bit() | Hook::Input.bit() | Hook::Forward.bit(),
    options: &[],
    build,
    summary: "an IPv6 source address made of the source MAC",
    example: r#"{ match = "eui64", source = "2001:db8::/32", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m eui64", "="),
        Case::Prints(Family::V6, "-s fe80::/10 ! -p tcp -m eui64", "="),
        Case::Prints(Family::V6, "-m eui64 -m eui64", "="),
        Case::Refused(Family::V4, "-m eui64", "there is no match `eui64` for ipv4"),
        Case::Refused(Family::V6, "-m eui64 --eui64 1", "there is no option `--eui64`"),
    ],
};

fn build(_: &Given) -> Result<Vec<Cond>, Complaint> {
    Ok(vec![Cond::new(false, Match::Eui64(Eui64))])
}

impl Condition for Eui64 {
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        if !facts.has_link {
            return Outcome::Hotdrop;
        }
        let [a, b, c, d, e, f] = facts.smac;
        yes(facts.src as u64 == u64::from_be_bytes([a | 2, b, c, 0xff, 0xfe, d, e, f]))
    }

    fn print(&self, _: bool, _: Family, _: &mut String) {}
}

#[cfg(test)]
mod tests {
    use super::super::harness::{outcome, parse_at};
    use super::*;
    use Outcome::{Hotdrop, No, Yes};

    #[test]
    fn the_address_is_compared_with_the_mac() {
        let facts = Facts { smac: [0, 0x11, 0x22, 0x33, 0x44, 0x55], has_link: true, ..Facts::blank(Family::V6) };
        for (host, mac, expected) in [
            (0x0211_22ff_fe33_4455, 0x00, Yes),
            (0x0211_22ff_fe33_4455, 0x02, Yes), // not inverted
            (0x0011_22ff_fe33_4455, 0x02, No),
            (0x0211_22ff_ff33_4455, 0x00, No),
            (0x0211_22ff_fe33_4456, 0x00, No),
        ] {
            let mut facts = Facts { src: 0x2001_0db8 << 96 | host, ..facts };
            facts.smac[0] = mac;
            assert_eq!(outcome("-m eui64", &facts), expected, "{host:x} {mac}");
        }
        assert_eq!(outcome("-m eui64", &Facts { has_link: false, ..facts }), Hotdrop);
    }

    #[test]
    fn what_goes_out_is_not_asked() {
        for (hook, is_allowed) in Hook::ALL.into_iter().zip([true, true, true, false, false]) {
            assert_eq!(parse_at(Family::V6, hook.bit(), "-m eui64").is_ok(), is_allowed, "{}", hook.name());
        }
    }
}
