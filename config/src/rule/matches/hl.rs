//! `-m hl`: the hop limit (`xt_hl.c`, `hl_mt6`), IPv6 only. IPv4 has `-m ttl`.
//!
//! Compared as `ttl` compares.
//!
//! TOML: `{ protocol = "icmpv6", hl-eq = 255, jump = "ACCEPT" }`

use super::ttl::{self, Compare};
use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// `--hl-eq`, `--hl-lt`, `--hl-gt`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hl(pub Compare);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "hl",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("hl-eq", &["hl"]).about("N", "hop limit"), Opt::plain("hl-lt", &[]).about("N", "it is less"), Opt::plain("hl-gt", &[]).about("N", "it is more")],
    build,
    summary: "the hop limit",
    example: r#"{ protocol = "icmpv6", hl-eq = 255, jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m hl --hl 255", "-m hl --hl-eq 255"),
        Case::Prints(Family::V6, "-m hl ! --hl-eq 3", "="),
        Case::Prints(Family::V6, "-m hl --hl-lt 3", "="),
        Case::Prints(Family::V6, "-m hl --hl-gt 3", "="),
        Case::Refused(Family::V6, "-m hl --hl-eq many", "`many` is not a hop limit"),
        Case::Refused(Family::V6, "-m hl --hl-lt 3 --hl-gt 1", "two comparisons"),
        Case::Refused(Family::V6, "-m hl", "--hl-eq"),
        Case::Refused(Family::V6, "-m hl ! --hl-lt 64", "cannot be negated"),
        Case::Refused(Family::V6, "-m hl ! --hl-gt 64", "cannot be negated"),
        Case::Refused(Family::V6, "-m hl --hl-gt 256", "`256` is not a hop limit"),
        Case::Refused(Family::V4, "-m hl --hl-eq 64", "there is no match `hl` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (negate, compare) = ttl::parse(given, "a hop limit")?;
    Ok(vec![Cond::new(negate, Match::Hl(Hl(compare)))])
}

impl Condition for Hl {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(self.0.has(facts.ttl))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print("hl", negate, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;

    #[test]
    fn the_hop_limit_is_compared() {
        for (text, hop_limit, expected) in [
            ("--hl-eq 255", 255, Outcome::Yes),
            ("--hl-eq 255", 254, Outcome::No),
            ("! --hl-eq 255", 254, Outcome::Yes),
            ("--hl-lt 2", 1, Outcome::Yes),
            ("--hl-gt 2", 2, Outcome::No),
        ] {
            let facts = Facts { ttl: hop_limit, ..Facts::blank(Family::V6) };
            assert_eq!(outcome(&format!("-m hl {text}"), &facts), expected, "{text} {hop_limit}");
        }
    }
}
