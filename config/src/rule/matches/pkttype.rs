//! `-m pkttype`: how the frame was addressed (`xt_pkttype.c`): to this router, to everybody, to a group, to somebody else.
//!
//! TOML: `{ pkt-type = "broadcast", jump = "DROP" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family, PacketType};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--pkt-type`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pkttype(pub PacketType);

/// The first name of a type is the one printed.
const NAMES: [(&str, PacketType); 7] = [
    ("unicast", PacketType::Host),
    ("broadcast", PacketType::Broadcast),
    ("multicast", PacketType::Multicast),
    ("otherhost", PacketType::OtherHost),
    ("host", PacketType::Host),
    ("bcast", PacketType::Broadcast),
    ("mcast", PacketType::Multicast),
];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "pkttype",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("pkt-type", &[]).about("TYPE", "unicast (or host), broadcast, multicast or otherhost")],
    build,
    summary: "how the frame was addressed",
    example: r#"{ pkt-type = "broadcast", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m pkttype --pkt-type unicast", "="),
        Case::Prints(Family::V6, "-m pkttype ! --pkt-type BCAST", "-m pkttype ! --pkt-type broadcast"),
        Case::Prints(Family::V4, "-m pkttype --pkt-type mcast", "-m pkttype --pkt-type multicast"),
        Case::Prints(Family::V4, "-m pkttype --pkt-type host", "-m pkttype --pkt-type unicast"),
        Case::Prints(Family::V4, "-m pkttype --pkt-type otherhost", "="),
        Case::Refused(Family::V4, "-m pkttype --pkt-type outgoing", "`outgoing` is not a packet type"),
        Case::Refused(Family::V4, "-m pkttype", "--pkt-type"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("pkttype asks for --pkt-type")) };
    let found = word::named(&option.values[0], "a packet type", &NAMES)?;
    Ok(vec![Cond::new(option.negate, Match::Pkttype(Pkttype(found)))])
}

impl Condition for Pkttype {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(facts.pkt_type == self.0)
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let name = match self.0 {
            PacketType::Host => "unicast",
            PacketType::Broadcast => "broadcast",
            PacketType::Multicast => "multicast",
            PacketType::OtherHost => "otherhost",
        };
        let _ = write!(out, "{} --pkt-type {name}", not(negate));
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;

    #[test]
    fn the_frames_addressing_counts() {
        for (text, pkt_type, expected) in [
            ("--pkt-type unicast", PacketType::Host, Outcome::Yes),
            ("--pkt-type unicast", PacketType::OtherHost, Outcome::No),
            ("! --pkt-type unicast", PacketType::Multicast, Outcome::Yes),
            ("--pkt-type broadcast", PacketType::Broadcast, Outcome::Yes),
        ] {
            let facts = Facts { pkt_type, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m pkttype {text}"), &facts), expected, "{text} {pkt_type:?}");
        }
    }
}
