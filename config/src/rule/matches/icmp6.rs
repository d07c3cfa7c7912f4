//! `-m icmp6`: ICMPv6 type and code (`icmp6_match`), IPv6 only.
//!
//! Written as in `icmp`, with ICMPv6's names. There is no `any`, and 255 is just a type. A later fragment never matches; a
//! header shorter than 8 bytes drops the packet.
//!
//! TOML: `{ protocol = "icmpv6", icmpv6-type = "neighbour-solicitation", jump = "ACCEPT" }`

use super::icmp::{self, Name, Type};
use super::{Condition, Match, not, ports};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--icmpv6-type`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Icmp6(pub Type);

const fn all(name: &'static str, kind: u8) -> Name {
    (name, Type { kind, code: None })
}

const fn one(name: &'static str, kind: u8, code: u8) -> Name {
    (name, Type { kind, code: Some(code) })
}

#[rustfmt::skip]
const NAMES: &[Name] = &[
    all("destination-unreachable", 1),
    one("no-route", 1, 0), one("communication-prohibited", 1, 1), one("beyond-scope", 1, 2),
    one("address-unreachable", 1, 3), one("port-unreachable", 1, 4), one("failed-policy", 1, 5),
    one("reject-route", 1, 6),
    all("packet-too-big", 2),
    all("time-exceeded", 3), all("ttl-exceeded", 3),
    one("ttl-zero-during-transit", 3, 0), one("ttl-zero-during-reassembly", 3, 1),
    all("parameter-problem", 4),
    one("bad-header", 4, 0), one("unknown-header-type", 4, 1), one("unknown-option", 4, 2),
    all("echo-request", 128), all("ping", 128),
    all("echo-reply", 129), all("pong", 129),
    all("router-solicitation", 133),
    all("router-advertisement", 134),
    all("neighbour-solicitation", 135), all("neighbor-solicitation", 135),
    all("neighbour-advertisement", 136), all("neighbor-advertisement", 136),
    all("redirect", 137),
];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "icmp6",
    aliases: &["icmpv6", "ipv6-icmp"],
    families: Families::Only(Family::V6),
    protocol: Some(proto::ICMPV6),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("icmpv6-type", &[]).about("TYPE[/CODE]", "type and code, by number or name")],
    build,
    summary: "type and code of ICMPv6",
    example: r#"{ protocol = "icmpv6", icmpv6-type = "neighbour-solicitation", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type 128", "="),
        Case::Prints(
            Family::V6,
            "-p icmpv6 -m icmpv6 --icmpv6-type ping",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
        ),
        Case::Prints(
            Family::V6,
            "-p ipv6-icmp -m icmp6 --icmpv6-type port-unreachable",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 1/4",
        ),
        Case::Prints(
            Family::V6,
            "-p ipv6-icmp -m icmp6 ! --icmpv6-type destination-unreachable",
            "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1",
        ),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type 137/0", "="),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type 255", "="),
        Case::Refused(Family::V6, "-p ipv6-icmp -m icmp6", "--icmpv6-type"),
        Case::Refused(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type any", "`any` is not an ICMPv6 type"),
        Case::Refused(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type 256", "`256` is not an ICMPv6 type"),
        Case::Refused(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type unknown", "may be `unknown-header-type`"),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type ttl-exceeded", "-p ipv6-icmp -m icmp6 --icmpv6-type 3"),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type failed-policy", "-p ipv6-icmp -m icmp6 --icmpv6-type 1/5"),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type reject-route", "-p ipv6-icmp -m icmp6 --icmpv6-type 1/6"),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type neighbor-solicitation", "-p ipv6-icmp -m icmp6 --icmpv6-type 135"),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type redirect", "-p ipv6-icmp -m icmp6 --icmpv6-type 137"),
        Case::Prints(Family::V6, "-p ipv6-icmp -m icmp6 --icmpv6-type parameter-problem", "-p ipv6-icmp -m icmp6 --icmpv6-type 4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("icmp6 asks for --icmpv6-type")) };
    let found = icmp::parse(&option.values[0], "ICMPv6", NAMES)?;
    Ok(vec![Cond::new(option.negate, Match::Icmp6(Icmp6(found)))])
}

impl Condition for Icmp6 {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        let [kind, code] = facts.dport.to_be_bytes();
        ports::of_header(facts, || self.0.has(kind, code))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --icmpv6-type ", not(negate));
        self.0.print(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{l4, outcome};
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn type_and_code_hit() {
        for (text, kind, code, expected) in [
            ("--icmpv6-type 135", 135, 0, Yes),
            ("--icmpv6-type 135", 136, 0, No),
            ("! --icmpv6-type 135", 136, 0, Yes),
            ("--icmpv6-type 1/4", 1, 4, Yes),
            ("--icmpv6-type 1/4", 1, 3, No),
            ("--icmpv6-type 255", 128, 0, No),
            ("--icmpv6-type 255", 255, 3, Yes),
        ] {
            let facts = l4(Family::V6, proto::ICMPV6, 0, u16::from_be_bytes([kind, code]));
            assert_eq!(outcome(&format!("-p icmpv6 -m icmp6 {text}"), &facts), expected, "{text} {kind}/{code}");
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for (frag_off, expected) in [(0, Hotdrop), (8, Never)] {
            let facts = Facts { proto: proto::ICMPV6, frag_off, ..Facts::blank(Family::V6) };
            assert_eq!(outcome("-p icmpv6 -m icmp6 ! --icmpv6-type 1", &facts), expected);
        }
    }
}
