//! `-m dst`: the destination options of an IPv6 packet (`ip6t_hbh.c`).
//!
//! The header is the first of its kind, wherever it stands. `--dst-opts` names its first options, in order and without gaps;
//! a length of 255 is any. See [`super::opts`].
//!
//! TOML: `{ dst-opts = "201:16", jump = "DROP" }`

use super::opts::Options;
use super::{Condition, Match};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, matches::opts};
use serde::{Deserialize, Serialize};

/// One condition on the destination options.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dst(pub Options);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "dst",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("dst-len", &[]).about("BYTES", "length of the header"),
        Opt::plain("dst-opts", &[]).about("TYPE[:BYTES][,...]", "its first options, at most 16"),
    ],
    build,
    summary: "destination options of IPv6",
    example: r#"{ dst-opts = "201:16", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m dst", "="),
        Case::Prints(Family::V6, "-m dst --dst-len 8", "="),
        Case::Prints(Family::V6, "-m dst ! --dst-len 0", "="),
        Case::Prints(Family::V6, "-m dst ! --dst-len 0x10", "-m dst ! --dst-len 16"),
        Case::Prints(Family::V6, "-m dst --dst-len 4294967295", "="),
        Case::Prints(Family::V6, "-m dst --dst-opts 5", "="),
        Case::Prints(Family::V6, "-m dst --dst-opts 5:2,1:4,0", "="),
        Case::Prints(Family::V6, "-m dst --dst-opts 0x5:0x2", "-m dst --dst-opts 5:2"),
        Case::Prints(Family::V6, "-m dst --dst-opts 5:255", "-m dst --dst-opts 5"),
        Case::Prints(Family::V6, "-m dst --dst-opts 255:254", "="),
        Case::Prints(Family::V6, "-m dst --dst-opts 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "="),
        Case::Prints(Family::V6, "-m dst --dst-opts 1:4 ! --dst-len 8", "-m dst ! --dst-len 8 --dst-opts 1:4"),
        Case::Prints(Family::V6, "-m dst --dst-len 8 -m dst --dst-opts 1", "="),
        Case::Refused(Family::V6, "-m dst --dst-len 5:6", "`5:6` is not a length"),
        Case::Refused(Family::V6, "-m dst --dst-len 4294967296", "`4294967296` is not a length"),
        Case::Refused(Family::V6, "-m dst --dst-opts 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "17 options"),
        Case::Refused(Family::V6, "-m dst --dst-opts 0:2", "type 0 has no length"),
        Case::Refused(Family::V6, "-m dst --dst-opts 1,,2", "`` is not a type of option"),
        Case::Refused(Family::V6, "-m dst --dst-opts 5:", "`` is not a length of an option"),
        Case::Refused(Family::V6, "-m dst --dst-opts :5", "`` is not a type of option"),
        Case::Refused(Family::V6, "-m dst --dst-opts 5:1:1", "`1:1` is not a length of an option"),
        Case::Refused(Family::V6, "-m dst --dst-opts pad", "`pad` is not a type of option"),
        Case::Refused(Family::V6, "-m dst ! --dst-opts 5", "cannot be negated"),
        Case::Refused(Family::V6, "-m dst --dst-opts 1 --dst-opts 2", "twice"),
        Case::Refused(Family::V6, "-m dst --dst-opts 5 --dst-not-strict", "there is no option `--dst-not-strict`"),
        Case::Refused(Family::V4, "-m dst --dst-len 8", "there is no match `dst` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let cond = |(negate, options)| Cond::new(negate, Match::Dst(Dst(options)));
    Ok(opts::build(given)?.into_iter().map(cond).collect())
}

impl Condition for Dst {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        self.0.test(proto::DSTOPTS, cx)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print(EXTENSION.name, negate, out);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        self.0.verify()
    }
}
