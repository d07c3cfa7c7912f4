//! `-m udp`: ports of UDP (`xt_tcpudp.c`, `udp_mt`).
//!
//! A later fragment never matches, negated or not; a header cut short drops the packet. Both hold for the bare `-m udp` too.
//!
//! TOML: `{ protocol = "udp", dport = "domain", jump = "ACCEPT" }`

use super::ports::{self, DPORT, SPORT};
use super::{Asks, Condition, Match};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// One condition on a UDP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Udp(pub ports::L4);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "udp",
    aliases: &[],
    families: Families::Both,
    protocol: Some(proto::UDP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[SPORT, DPORT],
    build,
    summary: "ports of UDP",
    example: r#"{ protocol = "udp", dport = "domain", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p udp -m udp --dport 53 --sport 1:", "-p udp -m udp --sport 1:65535 --dport 53"),
        Case::Prints(Family::V6, "-p udp -m udp ! --destination-port domain", "-p udp -m udp ! --dport 53"),
        Case::Prints(Family::V4, "-p udp -m udp --dport 0:65535", "-p udp -m udp"),
        Case::Prints(Family::V4, "-p udp -m udp", "="),
        Case::Refused(Family::V4, "-p udp -m udp --dport 53:52", "runs backwards"),
        Case::Refused(Family::V4, "-p udp -m udp --sport 65536", "`65536` is not a port"),
        Case::Refused(Family::V4, "-p udp -m udp --sport 1,2", "multiport"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    ports::build_lean(given, |l4| Match::Udp(Udp(l4)))
}

impl Condition for Udp {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        self.0.test(facts)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print(negate, out);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        self.0.verify()
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{l4, outcome};
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn ports_hit_within_their_range() {
        for (text, sport, dport, expected) in [
            ("--dport 53", 1, 53, Yes),
            ("--dport 53", 53, 1, No),
            ("! --dport 53", 53, 1, Yes),
            ("--sport 1:5 ! --dport 53", 5, 54, Yes),
            ("--sport 1:5 ! --dport 53", 6, 54, No),
            ("! --dport 0:65535", 1, 2, No),
            ("", 0, 0, Yes),
        ] {
            let facts = l4(Family::V6, proto::UDP, sport, dport);
            assert_eq!(outcome(&format!("-p udp -m udp {text}"), &facts), expected, "{text} {sport} {dport}");
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for (family, frag_off, expected) in
            [(Family::V4, 0, Hotdrop), (Family::V4, 8, Never), (Family::V6, 0, Hotdrop), (Family::V6, 8, Never)]
        {
            let facts = Facts { proto: proto::UDP, frag_off, ..Facts::blank(family) };
            for text in ["", "--dport 53", "! --dport 53"] {
                assert_eq!(outcome(&format!("-p udp -m udp {text}"), &facts), expected, "{text} at {frag_off}");
            }
        }
    }

    #[test]
    fn a_range_that_runs_backwards_does_not_verify() {
        assert!(Udp(ports::L4::Source(ports::Ports { first: 2, last: 1 })).verify(Family::V4).is_err());
    }
}
