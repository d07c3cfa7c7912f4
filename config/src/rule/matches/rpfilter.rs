//! `-m rpfilter`: whether an answer to the packet would leave by the port that it came in on (`ipt_rpfilter.c`,
//! `ip6t_rpfilter.c`). PREROUTING of raw and mangle only.
//!
//! Asked is the route to the source, with the destination as its source where that is unicast. Own addresses, broadcasts and
//! unreachable sources have none; with `--accept-local` own addresses of the port do. IPv4 packets without a source to
//! everybody or to a group of the link pass, as do IPv6 packets without a source.
//!
//! TOML: `{ rpfilter = { invert = true }, jump = "DROP" }`

use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family, WayBack};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Hook, Outcome, Table};
use serde::{Deserialize, Serialize};

/// The options of one `-m rpfilter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rpfilter {
    /// What the way back must be.
    pub wanted: WayBack,
    /// `--invert`: holds where there is none.
    pub invert: bool,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "rpfilter",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[Table::Mangle, Table::Raw],
    hooks: Hook::Prerouting.bit(),
    options: &[
        Opt::flag("loose", &[]).about("", "the way back may leave by any port"),
        Opt::flag("validmark", &[]).about("", "the packet's mark is looked at when the way back is sought"),
        Opt::flag("accept-local", &[]).about("", "the source may be an address of the port"),
        Opt::flag("invert", &[]).about("", "holds for what has no way back"),
    ],
    build,
    summary: "whether an answer would leave by the port that the packet came in on",
    example: r#"{ rpfilter = { invert = true }, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m rpfilter", "="),
        Case::Prints(Family::V6, "-m rpfilter --loose", "="),
        Case::Prints(Family::V4, "-m rpfilter --validmark", "="),
        Case::Prints(Family::V4, "-m rpfilter --accept-local", "="),
        Case::Prints(Family::V6, "-m rpfilter --invert", "="),
        Case::Prints(
            Family::V4,
            "-m rpfilter --invert --accept-local --validmark --loose",
            "-m rpfilter --loose --validmark --accept-local --invert",
        ),
        Case::Refused(Family::V4, "-m rpfilter ! --loose", "cannot be negated"),
        Case::Refused(Family::V4, "-m rpfilter --loose --loose", "given twice"),
        Case::Refused(Family::V6, "-m rpfilter ! --validmark", "cannot be negated"),
        Case::Refused(Family::V4, "-m rpfilter --accept-local lan0", "`lan0` is not expected"),
        Case::Refused(Family::V4, "-m rpfilter ! --invert", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let [loose, by_mark, to_local, invert] = [0, 1, 2, 3].map(|option| given.get(option).is_some());
    let rpfilter = Rpfilter { wanted: WayBack { loose, by_mark, to_local }, invert };
    Ok(vec![Cond::new(false, Match::Rpfilter(rpfilter))])
}

impl Condition for Rpfilter {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let to_many = facts.dst == u32::MAX.into() || facts.dst >> 8 == 0x00e0_0000;
        let passes = match facts.family {
            Family::V4 if facts.src >> 24 == 0 && to_many => true,
            Family::V6 if facts.src == 0 => true,
            _ => cx.around.has_way_back(facts, self.wanted),
        };
        yes(passes != self.invert)
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        let given = [self.wanted.loose, self.wanted.by_mark, self.wanted.to_local, self.invert];
        for (option, _) in EXTENSION.options.iter().zip(given).filter(|(_, given)| *given) {
            out.push_str(" --");
            out.push_str(option.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, parse_at};
    use super::*;

    #[test]
    fn the_way_back_is_asked_unless_there_can_be_none() {
        const LIMITED: u128 = u32::MAX as u128;
        const HOST: u128 = 0x0a00_0001;
        for (family, text, src, dst, expected) in [
            (Family::V4, "", HOST, HOST, Outcome::No),
            (Family::V4, "--invert", HOST, HOST, Outcome::Yes),
            (Family::V4, "--loose", HOST, HOST, Outcome::Yes),
            (Family::V4, "--loose --invert", HOST, HOST, Outcome::No),
            // A host without an address yet, and one that joins a group.
            (Family::V4, "", 0, LIMITED, Outcome::Yes),
            (Family::V4, "", 5, 0xe000_0016, Outcome::Yes),
            (Family::V4, "", 0, 0xe000_0116, Outcome::No),
            (Family::V4, "", 0, HOST, Outcome::No),
            (Family::V4, "", HOST, LIMITED, Outcome::No),
            (Family::V6, "", 0, 0xff02 << 112 | 1, Outcome::Yes),
            (Family::V6, "--invert", 0, 1 << 64, Outcome::No),
            (Family::V6, "", 5, LIMITED, Outcome::No),
        ] {
            let mut judge = Judge::new(family, &format!("-m rpfilter {text}"));
            judge.way_back = |_, wanted| wanted.loose;
            assert_eq!(judge.ask(&Facts { src, dst, ..Facts::blank(family) }, &[]), expected, "{text} {src:x} {dst:x}");
        }
    }

    #[test]
    fn it_stands_in_prerouting_only() {
        for hook in Hook::ALL {
            assert_eq!(parse_at(Family::V4, hook.bit(), "-m rpfilter").is_ok(), hook == Hook::Prerouting);
        }
    }
}
