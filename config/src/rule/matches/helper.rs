//! `-m helper`: which helper announced the packet's flow (`xt_helper.c`).
//!
//! Asked is the helper of the flow that this one is RELATED to; the flow of the helper itself has none. Without a flow, or
//! without a master that has a helper, the answer is no. An empty name is any helper. As in the kernel, a name matches
//! whose beginning is the helper's: `ftp-2121` is `ftp`.
//!
//! TOML: `{ helper = "ftp", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};

/// `--helper NAME`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Helper {
    /// At most 29 bytes; empty is any.
    pub name: String,
}

/// Bytes of a name that the kernel has room for.
const MAX_NAME: usize = 29;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "helper",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("helper", &[]).about("NAME", "the helper that announced the flow; empty is any")],
    build,
    summary: "the helper that announced the packet's flow",
    example: r#"{ helper = "ftp", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m helper --helper ftp", "="),
        Case::Prints(Family::V6, "-m helper ! --helper tftp", "="),
        Case::Prints(Family::V4, "-m helper --helper ftp-2121", "="),
        Case::Prints(Family::V4, "-m helper --helper \"\"", "="),
        Case::Prints(Family::V4, "-m helper --helper x.y", "-m helper --helper \"x.y\""),
        Case::Refused(Family::V4, "-m helper", "helper asks for --helper"),
        Case::Refused(
            Family::V4,
            "-m helper --helper nonsense-name-that-is-very-long",
            "longer than 29 bytes",
        ),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("helper asks for --helper")) };
    let word = &option.values[0];
    if word.text.len() > MAX_NAME {
        return Err(word.complain(format!("the name `{}` is longer than {MAX_NAME} bytes", word.text), "a helper's name"));
    }
    Ok(vec![Cond::new(option.negate, Match::Helper(Helper { name: word.text.clone() }))])
}

impl Condition for Helper {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let helper = cx.around.flow().filter(|_| facts.has_ct).and_then(|flow| flow.master_helper());
        yes(helper.is_some_and(|helper| self.name.is_empty() || self.name.starts_with(helper.name())))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        out.push_str(" --helper ");
        word::print_text(out, &self.name);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.name.len() > MAX_NAME { Err("a name that is too long".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use crate::helper::Helper as Known;
    use Outcome::{No, Yes};

    #[test]
    fn the_masters_helper_is_asked() {
        for (text, helper, expected) in [
            ("--helper ftp", Some(Known::Ftp), Yes),
            ("--helper ftp-2121", Some(Known::Ftp), Yes),
            ("--helper tftp", Some(Known::Ftp), No),
            ("! --helper tftp", Some(Known::Ftp), Yes),
            ("--helper \"\"", Some(Known::Tftp), Yes),
            ("--helper \"\"", None, No),
            ("! --helper ftp", None, Yes),
        ] {
            let mut judge = Judge::new(Family::V4, &format!("-m helper {text}"));
            judge.flow.helper = helper;
            assert_eq!(judge.ask(&Facts { has_ct: true, ..Facts::blank(Family::V4) }, &[]), expected, "{text}");
            let without = if text.starts_with('!') { Yes } else { No };
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), without, "{text} without a flow");
        }
    }
}
