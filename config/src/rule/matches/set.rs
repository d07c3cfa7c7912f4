//! `-m set`: whether a packet is in a set (`xt_set.c`, `ip_set_core.c`).
//!
//! The ends say what of the packet makes the element: as many as the set's type has parts, or the set is never matched;
//! more are of no account. A packet that cannot make an element (a later fragment where a port is needed, an address out
//! of a bitmap's range) is in no set. `--return-nomatch` asks for elements with `nomatch`; the counters of the element that
//! is found count the packet unless it is told otherwise, and are compared after that.
//!
//! TOML: `{ match-set = "bad src", target = "DROP" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::word::number;
use crate::rule::{Cond, Families, Outcome};
use crate::set::ask::{Asked, Compare, Named};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--match-set NAME ENDS` and what stands behind it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Set(Box<Inner>);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Inner {
    named: Named,
    asked: Asked,
}

const MATCH: usize = 0;
const RETURN_NOMATCH: usize = 1;
const UPDATE: usize = 2;
const UPDATE_SUB: usize = 3;
const PACKETS: [usize; 3] = [4, 5, 6];
const BYTES: [usize; 3] = [7, 8, 9];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "set",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable_pair("match-set", &["set"]).about("SET ENDS", "is the packet in the set, by these of its ends"),
        Opt::flag("return-nomatch", &[]).about("", "elements with nomatch are what is looked for"),
        Opt::negatable_flag("update-counters", &[]).about("", "the element counts the packet; so it is unless negated"),
        Opt::negatable_flag("update-subcounters", &[])
            .about("", "elements of sets in a list:set count the packet; so it is unless negated"),
        Opt::negatable("packets-eq", &[]).about("NUMBER", "the element has counted so many packets"),
        Opt::plain("packets-lt", &[]).about("NUMBER", "the element has counted fewer packets"),
        Opt::plain("packets-gt", &[]).about("NUMBER", "the element has counted more packets"),
        Opt::negatable("bytes-eq", &[]).about("NUMBER", "the element has counted so many bytes"),
        Opt::plain("bytes-lt", &[]).about("NUMBER", "the element has counted fewer bytes"),
        Opt::plain("bytes-gt", &[]).about("NUMBER", "the element has counted more bytes"),
    ],
    build,
    summary: "whether the packet is in a set",
    example: r#"{ match-set = ["ports", "dst"], protocol = "tcp", target = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m set --match-set hosts4 src", "="),
        Case::Prints(Family::V6, "-m set --match-set hosts6 dst", "="),
        Case::Prints(Family::V4, "-m set ! --match-set nets4 src,dst", "="),
        Case::Prints(Family::V4, "-m set --match-set ports src,dst,src,dst,src,dst", "="),
        Case::Prints(Family::V6, "-m set --match-set ports dst", "="),
        Case::Prints(Family::V6, "-m set --match-set lists src,src", "="),
        Case::Prints(Family::V4, "-m set --set hosts4 src", "-m set --match-set hosts4 src"),
        Case::Prints(Family::V4, "-m set ! --match-set nets4 src --return-nomatch", "="),
        Case::Prints(Family::V4, "-m set --match-set nets4 src ! --update-counters", "="),
        Case::Prints(Family::V4, "-m set --match-set lists src ! --update-subcounters", "="),
        Case::Prints(Family::V4, "-m set --match-set nets4 src --update-counters", "-m set --match-set nets4 src"),
        Case::Prints(Family::V4, "-m set --match-set nets4 src --update-subcounters", "-m set --match-set nets4 src"),
        Case::Prints(
            Family::V4,
            "-m set --packets-gt 1 ! --match-set nets4 src ! --update-counters --return-nomatch",
            "-m set ! --match-set nets4 src --return-nomatch ! --update-counters --packets-gt 1",
        ),
        Case::Prints(Family::V4, "-m set --match-set services4 dst,dst --packets-eq 3 --bytes-gt 10", "="),
        Case::Prints(Family::V4, "-m set --match-set services4 dst,dst ! --packets-eq 3 ! --bytes-eq 10", "="),
        Case::Prints(
            Family::V4,
            "-m set --match-set services4 dst,dst --packets-lt 0x10",
            "-m set --match-set services4 dst,dst --packets-lt 16",
        ),
        Case::Prints(Family::V4, "-m set --match-set services4 dst,dst --bytes-eq 0", "="),
        Case::Prints(Family::V4, "-m set --match-set hosts4 src --bytes-lt 18446744073709551615", "="),
        Case::Prints(Family::V4, "-m set --match-set hosts4 src -m set ! --match-set services4 dst,dst", "="),
        Case::Refused(Family::V4, "-m set", "asks for --match-set"),
        Case::Refused(Family::V4, "-m set --packets-eq 3", "asks for --match-set"),
        Case::Refused(Family::V4, "-m set --match-set hosts4", "--match-set"),
        Case::Refused(Family::V4, "-m set --match-set nowhere src", "there is no set `nowhere`"),
        Case::Refused(Family::V4, "-m set --set nowhere src", "there is no set `nowhere`"),
        Case::Refused(Family::V4, "-m set --match-set hosts6 src", "is not one of ipv4"),
        Case::Refused(Family::V6, "-m set --match-set nets4 src", "is not one of ipv6"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 source", "`source` is neither src nor dst"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 SRC", "`SRC` is neither"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src,", "`` is neither"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src,src,src,src,src,src,src", "more than 6 ends"),
        Case::Refused(Family::V4, "-m set --match-set thisnameismuchlongerthanthirtyon src", "longer than"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src --match-set nets4 src", "given twice"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src ! --return-nomatch", "cannot be negated"),
        Case::Refused(Family::V4, "-m set ! --update-counters", "asks for --match-set"),
        Case::Refused(Family::V4, "-m set ! --update-subcounters", "asks for --match-set"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src --packets-eq 3 --packets-gt 10", "cannot stand with"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src --bytes-lt 3 --bytes-gt 10", "cannot stand with"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src ! --packets-lt 5", "cannot be negated"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src ! --bytes-gt 5", "cannot be negated"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src --packets-eq many", "`many` is not a number of packets"),
        Case::Refused(Family::V4, "-m set --match-set hosts4 src --bytes-eq -1", "`-1` is not a number of bytes"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(MATCH) else { return Err(given.complain("set asks for --match-set")) };
    let named = Named::parse(given, &option.values[0], &option.values[1])?;
    let updates = |option| given.get(option).is_none_or(|given| !given.negate);
    let asked = Asked {
        return_nomatch: given.get(RETURN_NOMATCH).is_some(),
        update_counters: updates(UPDATE),
        update_subcounters: updates(UPDATE_SUB),
        packets: compare(given, PACKETS, "a number of packets")?,
        bytes: compare(given, BYTES, "a number of bytes")?,
    };
    Ok(vec![Cond::new(option.negate, Match::Set(Set(Box::new(Inner { named, asked }))))])
}

/// The comparison that one of three options asks for.
fn compare(given: &Given, options: [usize; 3], what: &str) -> Result<Option<Compare>, Complaint> {
    let asked: Vec<_> = options.into_iter().filter_map(|option| given.get(option)).collect();
    if let [first, second, ..] = asked.as_slice() {
        let what = format!("`{}` cannot stand with `{}`", second.word.text, first.word.text);
        return Err(second.word.complain(what, "one of the three"));
    }
    let Some(option) = asked.first() else { return Ok(None) };
    let value = number(&option.values[0], what, 0..=u64::MAX)?;
    Ok(Some(match options.iter().position(|of| *of == option.option) {
        Some(1) => Compare::Less(value),
        Some(2) => Compare::Greater(value),
        _ if option.negate => Compare::Unequal(value),
        _ => Compare::Equal(value),
    }))
}

impl Set {
    /// The set that is asked.
    pub fn named(&self) -> &Named {
        &self.0.named
    }

    /// The same, for the router that gives it its slot.
    pub fn named_mut(&mut self) -> &mut Named {
        &mut self.0.named
    }
}

impl Condition for Set {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        yes(cx.around.in_set(&self.0.named, &self.0.asked, facts).is_some())
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let Inner { named, asked } = &*self.0;
        let _ = write!(out, "{} --match-set", not(negate));
        named.print(out);
        let flags = [
            (asked.return_nomatch, " --return-nomatch"),
            (!asked.update_counters, " ! --update-counters"),
            (!asked.update_subcounters, " ! --update-subcounters"),
        ];
        flags.iter().filter(|(given, _)| *given).for_each(|(_, text)| out.push_str(text));
        for (what, compare) in [("packets", asked.packets), ("bytes", asked.bytes)] {
            let _ = match compare {
                None => Ok(()),
                Some(Compare::Equal(value)) => write!(out, " --{what}-eq {value}"),
                Some(Compare::Unequal(value)) => write!(out, " ! --{what}-eq {value}"),
                Some(Compare::Less(value)) => write!(out, " --{what}-lt {value}"),
                Some(Compare::Greater(value)) => write!(out, " --{what}-gt {value}"),
            };
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        self.0.named.verify()
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use crate::set::SkbInfo;
    use Outcome::{No, Yes};

    #[test]
    fn a_packet_is_in_the_set_or_not_and_negation_turns_that_round() {
        for (text, found, expected) in [
            ("--match-set hosts4 src", true, Yes),
            ("--match-set hosts4 src", false, No),
            ("! --match-set hosts4 src", true, No),
            ("! --match-set hosts4 src", false, Yes),
        ] {
            let judge = Judge::new(Family::V4, &format!("-m set {text}"));
            judge.in_set.set(found.then(SkbInfo::default));
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text} {found}");
        }
    }
}
