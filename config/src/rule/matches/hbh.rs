//! `-m hbh`: the hop-by-hop options of an IPv6 packet (`ip6t_hbh.c`).
//!
//! The header is the first of its kind, wherever it stands. `--hbh-opts` names its first options, in order and without gaps;
//! a length of 255 is any. See [`super::opts`].
//!
//! TOML: `{ hbh-opts = "5:2", jump = "DROP" }`

use super::opts::Options;
use super::{Condition, Match};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, matches::opts};
use serde::{Deserialize, Serialize};

/// One condition on the hop-by-hop options.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hbh(pub Options);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "hbh",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("hbh-len", &[]).about("BYTES", "length of the header"),
        Opt::plain("hbh-opts", &[]).about("TYPE[:BYTES][,...]", "its first options, at most 16"),
    ],
    build,
    summary: "hop-by-hop options of IPv6",
    example: r#"{ hbh-opts = "5:2", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m hbh", "="),
        Case::Prints(Family::V6, "-m hbh --hbh-len 8", "="),
        Case::Prints(Family::V6, "-m hbh ! --hbh-len 8", "="),
        Case::Prints(Family::V6, "-m hbh --hbh-len 010", "-m hbh --hbh-len 8"),
        Case::Prints(Family::V6, "-m hbh --hbh-opts 5:2", "="),
        Case::Prints(Family::V6, "-m hbh --hbh-opts 0x5:0x2,1,0", "-m hbh --hbh-opts 5:2,1,0"),
        Case::Prints(Family::V6, "-m hbh --hbh-opts 5:255", "-m hbh --hbh-opts 5"),
        Case::Prints(Family::V6, "-m hbh --hbh-opts 5:0", "="),
        Case::Prints(Family::V6, "-m hbh --hbh-opts 1:4 --hbh-len 8", "-m hbh --hbh-len 8 --hbh-opts 1:4"),
        Case::Refused(Family::V6, "-m hbh --hbh-len 4294967296", "`4294967296` is not a length"),
        Case::Refused(Family::V6, "-m hbh --hbh-len eight", "`eight` is not a length"),
        Case::Refused(Family::V6, "-m hbh --hbh-opts 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "17 options"),
        Case::Refused(Family::V6, "-m hbh --hbh-opts 0:2", "type 0 has no length"),
        Case::Refused(Family::V6, "-m hbh --hbh-opts 1,", "`` is not a type of option"),
        Case::Refused(Family::V6, "-m hbh --hbh-opts alert", "`alert` is not a type of option"),
        Case::Refused(Family::V6, "-m hbh ! --hbh-opts 5:2", "cannot be negated"),
        Case::Refused(Family::V6, "-m hbh --hbh-opts 5 --hbh-not-strict", "there is no option `--hbh-not-strict`"),
        Case::Refused(Family::V4, "-m hbh --hbh-len 8", "there is no match `hbh` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let cond = |(negate, options)| Cond::new(negate, Match::Hbh(Hbh(options)));
    Ok(opts::build(given)?.into_iter().map(cond).collect())
}

impl Condition for Hbh {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        self.0.test(proto::HOPOPTS, cx)
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        self.0.print(EXTENSION.name, negate, out);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        self.0.verify()
    }
}
