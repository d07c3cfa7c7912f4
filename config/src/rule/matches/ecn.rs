//! `-m ecn`: explicit congestion notification (`xt_ecn.c`): ECT of the IP header, ECE and CWR of TCP's.
//!
//! The TCP bits need `-p tcp`; without a whole TCP header they never match, negated or not.
//!
//! TOML: `{ protocol = "tcp", ecn-tcp-ece = true, jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on congestion notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ecn {
    /// `--ecn-tcp-ece`
    Ece,
    /// `--ecn-tcp-cwr`
    Cwr,
    /// `--ecn-ip-ect`, 0 to 3.
    Ect(u8),
}

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// An option without a word that `!` may negate.
const fn bit(name: &'static str, about: &'static str) -> Opt {
    Opt::negatable_flag(name, &[]).about("", about)
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "ecn",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        bit("ecn-tcp-ece", "flag ECE of TCP"),
        bit("ecn-tcp-cwr", "flag CWR of TCP"),
        Opt::negatable("ecn-ip-ect", &[]).about("N", "the two bits of the IP header, 0 to 3"),
    ],
    build,
    summary: "explicit congestion notification",
    example: r#"{ protocol = "tcp", ecn-tcp-ece = true, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -m ecn --ecn-tcp-cwr", "="),
        Case::Prints(Family::V6, "-p tcp -m ecn --ecn-tcp-ece", "="),
        Case::Prints(Family::V4, "-m ecn --ecn-ip-ect 1", "="),
        Case::Prints(Family::V4, "-m ecn ! --ecn-ip-ect 0", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -m ecn --ecn-ip-ect 2 ! --ecn-tcp-cwr ! --ecn-tcp-ece",
            "-p tcp -m ecn ! --ecn-tcp-ece ! --ecn-tcp-cwr --ecn-ip-ect 2",
        ),
        Case::Refused(Family::V4, "-m ecn --ecn-tcp-ece", "`-p tcp`"),
        Case::Refused(Family::V4, "! -p tcp -m ecn --ecn-tcp-cwr", "`-p tcp`"),
        Case::Refused(Family::V4, "-m ecn --ecn-ip-ect 4", "`4` is not a value of ECT"),
        Case::Refused(Family::V4, "-m ecn", "--ecn-ip-ect"),
        Case::Prints(Family::V6, "-m ecn --ecn-ip-ect 0x3", "-m ecn --ecn-ip-ect 3"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    for (option, test) in [(0, Ecn::Ece), (1, Ecn::Cwr)] {
        let Some(option) = given.get(option) else { continue };
        if given.protocol != Some((proto::TCP, false)) {
            let what = format!("`{}` looks at TCP's header, which asks for `-p tcp`", option.word.text);
            return Err(option.word.complain(what, "`-p tcp` in the same rule"));
        }
        conds.push(Cond::new(option.negate, Match::Ecn(test)));
    }
    if let Some(option) = given.get(2) {
        let ect = word::number(&option.values[0], "a value of ECT", 0..=3)?;
        conds.push(Cond::new(option.negate, Match::Ecn(Ecn::Ect(ect as u8))));
    }
    if conds.is_empty() {
        return Err(given.complain("ecn asks for --ecn-tcp-ece, --ecn-tcp-cwr or --ecn-ip-ect"));
    }
    Ok(conds)
}

impl Condition for Ecn {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        match *self {
            Ecn::Ect(ect) => yes(facts.tos & 3 == ect),
            _ if !facts.has_l4 => Outcome::Never,
            Ecn::Ece => yes(facts.tcp_flags & ECE != 0),
            Ecn::Cwr => yes(facts.tcp_flags & CWR != 0),
        }
    }

    fn asks(&self) -> Asks {
        match self {
            Ecn::Ect(_) => Asks::Flow,
            Ecn::Ece | Ecn::Cwr => Asks::TcpFlags,
        }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        let _ = match self {
            Ecn::Ece => write!(out, " --ecn-tcp-ece"),
            Ecn::Cwr => write!(out, " --ecn-tcp-cwr"),
            Ecn::Ect(ect) => write!(out, " --ecn-ip-ect {ect}"),
        };
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Ecn::Ect(4..) => Err("an ECT above 3".to_string()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{l4, outcome};
    use super::*;
    use Outcome::{Never, No, Yes};

    #[test]
    fn bits_of_both_headers_hit() {
        for (text, tos, flags, expected) in [
            ("-p tcp -m ecn --ecn-tcp-ece", 0, 0x52, Yes),
            ("-p tcp -m ecn --ecn-tcp-ece", 0, 0x92, No),
            ("-p tcp -m ecn ! --ecn-tcp-cwr", 0, 0x52, Yes),
            ("-p tcp -m ecn --ecn-tcp-cwr", 0, 0x92, Yes),
            ("-m ecn --ecn-ip-ect 2", 0xfe, 0, Yes),
            ("-m ecn --ecn-ip-ect 2", 0xfd, 0, No),
            ("-m ecn ! --ecn-ip-ect 0", 0xfd, 0, Yes),
        ] {
            let facts = Facts { tos, tcp_flags: flags, ..l4(Family::V4, proto::TCP, 1, 2) };
            assert_eq!(outcome(text, &facts), expected, "{text}");
        }
        let fragment = Facts { proto: proto::TCP, frag_off: 8, ..Facts::blank(Family::V4) };
        assert_eq!(outcome("-p tcp -m ecn ! --ecn-tcp-ece", &fragment), Never);
        assert!(Ecn::Ect(4).verify(Family::V4).is_err());
    }
}
