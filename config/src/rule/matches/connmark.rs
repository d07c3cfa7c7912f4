//! `-m connmark`: the mark of the packet's flow (`xt_connmark.c`): `ctmark & MASK == VALUE`.
//!
//! A packet without a flow never matches, negated or not.
//!
//! TOML: `{ connmark = "1", jump = "ACCEPT" }`

use super::mark::{self, Mark};
use super::{Asks, Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};

/// `--mark VALUE[/MASK]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connmark(pub Mark);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "connmark",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("mark", &[]).about("VALUE[/MASK]", "the mark of the packet's flow, as far as the mask goes")],
    build,
    summary: "the mark of the packet's flow",
    example: r#"{ connmark = "1", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m connmark --mark 1", "-m connmark --mark 0x1"),
        Case::Prints(Family::V6, "-m connmark ! --mark 0x10/0xff", "="),
        Case::Prints(Family::V4, "-m connmark --mark 0x100/0xff", "="),
        Case::Prints(Family::V4, "-m connmark ! --mark 4294967295/010", "-m connmark ! --mark 0xffffffff/0x8"),
        Case::Refused(Family::V6, "-m connmark --mark 1/2/3", "is not a mark"),
        Case::Refused(Family::V4, "-m connmark --mark 4294967296", "`4294967296` is not a mark"),
        Case::Refused(Family::V4, "-m connmark --mark one", "`one` is not a mark"),
        Case::Refused(Family::V4, "-m connmark", "connmark asks for --mark"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    mark::parse(given).map(|(negate, mark)| vec![Cond::new(negate, Match::Connmark(Connmark(mark)))])
}

impl Condition for Connmark {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        if facts.has_ct { yes(self.0.has(facts.ct_mark)) } else { Outcome::Never }
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print_option(negate, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{Never, No, Yes};

    #[test]
    fn the_flows_mark_counts_and_without_a_flow_nothing_does() {
        for (text, has_ct, expected) in [
            ("--mark 0x10", true, Yes),
            ("--mark 0x11", true, No),
            ("! --mark 0x11", true, Yes),
            ("--mark 0x110/0xff0", true, No),
            ("--mark 0/0", false, Never),
            ("! --mark 0x11", false, Never),
        ] {
            let facts = Facts { has_ct, ct_mark: 0x10, mark: 0x11, ..Facts::blank(Family::V6) };
            assert_eq!(outcome(&format!("-m connmark {text}"), &facts), expected, "{text}");
        }
    }
}
