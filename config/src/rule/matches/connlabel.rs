//! `-m connlabel`: labels of the packet's flow, 128 bits (`xt_connlabel.c`). With `--set` a label that is missing is given,
//! and then it is there.
//!
//! A label is a number or a name of `[conntrack.labels]`. A packet without a flow has none.
//!
//! TOML: `{ label = 3, set = true }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::word::{integer, nearest};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--label LABEL [--set]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connlabel {
    /// Number of the bit, below [`LABELS`].
    pub bit: u8,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// It is given to flows that lack it.
    pub set: bool,
}

/// How many labels there are.
pub const LABELS: u8 = 128;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "connlabel",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("label", &[]).about("BIT|NAME", "the flow has this label; names are those of [conntrack.labels]"), Opt::flag("set", &[]).about("", "the flow gets the label")],
    build,
    summary: "labels of the packet's flow",
    example: r#"{ label = 3, set = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-m connlabel --label 3", "-m connlabel --label \"3\""),
        Case::Prints(Family::V6, "-m connlabel ! --label 3 --set", "-m connlabel ! --label \"3\" --set"),
        Case::Prints(Family::V4, "-m connlabel --label 0x10", "-m connlabel --label \"16\""),
        Case::Prints(Family::V4, "-m connlabel --label 127", "-m connlabel --label \"127\""),
        Case::Refused(Family::V4, "-m connlabel --label 128", "`128` is not a label"),
        Case::Prints(Family::V6, "-m connlabel --label 0 --set", "-m connlabel --label \"0\" --set"),
        Case::Refused(Family::V4, "-m connlabel --label 1 ! --set", "cannot be negated"),
        Case::Refused(Family::V4, "-m connlabel --label foo", "`foo` is not a label"),
        Case::Refused(Family::V4, "-m connlabel --set", "connlabel asks for --label"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("connlabel asks for --label")) };
    let word = &option.values[0];
    let labels = given.names.labels;
    let bit = match integer(&word.text) {
        Some(number) => u8::try_from(number).ok().filter(|bit| *bit < LABELS),
        None if given.names.mistaken.contains(&word.text) => Some(0),
        None => labels.iter().find(|label| label.name == word.text).map(|label| label.bit),
    };
    let bit = bit.ok_or_else(|| {
        let near = nearest(&word.text, labels.iter().map(|label| label.name.as_str()));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let accepts = format!("a number from 0 to {}, or a name of [conntrack.labels]{near}", LABELS - 1);
        word.complain(format!("`{}` is not a label", word.text), accepts)
    })?;
    let name = labels.iter().find(|label| label.bit == bit).map(|label| label.name.clone());
    let set = given.get(1).is_some();
    Ok(vec![Cond::new(option.negate, Match::Connlabel(Connlabel { bit, name, set }))])
}

impl Condition for Connlabel {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let Some(flow) = cx.around.flow().filter(|_| facts.has_ct) else { return Outcome::No };
        yes(flow.has_label(self.bit) || self.set && flow.set_label(self.bit))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        let _ = match &self.name {
            Some(name) => write!(out, " --label \"{name}\""),
            None => write!(out, " --label \"{}\"", self.bit),
        };
        if self.set {
            out.push_str(" --set");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.bit >= LABELS {
            return Err(format!("label {}", self.bit));
        }
        match &self.name {
            Some(name) if !crate::model::Label::is_name(name) => Err("a label's name that cannot be".to_string()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{No, Yes};

    #[test]
    fn labels_are_asked_and_given() {
        for (text, expected, after) in [
            ("--label 3", Yes, 8),
            ("! --label 3", No, 8),
            ("--label 4", No, 8),
            ("! --label 4", Yes, 8),
            ("--label 4 --set", Yes, 24),
            ("! --label 127 --set", No, 1 << 127 | 8),
        ] {
            let judge = Judge::new(Family::V4, &format!("-m connlabel {text}"));
            judge.flow.labels.set(8);
            let without = if text.starts_with('!') { Yes } else { No };
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), without, "{text} without a flow");
            assert_eq!(judge.flow.labels.get(), 8);
            assert_eq!(judge.ask(&Facts { has_ct: true, ..Facts::blank(Family::V4) }, &[]), expected, "{text}");
            assert_eq!(judge.flow.labels.get(), after, "{text}");
        }
    }
}
