//! `-m devgroup`: the group of the interface that the packet came in on or leaves by (`xt_devgroup.c`).
//!
//! Groups are given with `group` in `[interfaces.NAME]`; without it an interface is of group 0, `default`. Names are those of
//! `/etc/iproute2/group`. `--src-group` belongs to PREROUTING, INPUT and FORWARD, `--dst-group` to FORWARD, OUTPUT and
//! POSTROUTING. What the router sends to itself leaves by `lo`, which is of group 0.
//!
//! TOML: `{ src-group = 10, jump = "DROP" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::word::labels::{Kind, Labelled};
use crate::rule::{Cond, Families, Hook, Outcome};
use serde::{Deserialize, Serialize};

/// Which interface, and the groups that are meant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Devgroup {
    /// `--src-group`
    Source(Labelled),
    /// `--dst-group`
    Destination(Labelled),
}

/// Groups of interfaces and their names.
pub const GROUPS: Kind = Kind { what: "a device group", file: "/etc/iproute2/group", zero: "default" };

const SOURCE: usize = 0;
const DESTINATION: usize = 1;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "devgroup",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("src-group", &[]).about("VALUE[/MASK]|NAME", "the group of the incoming interface"),
        Opt::negatable("dst-group", &[]).about("VALUE[/MASK]|NAME", "the group of the outgoing interface"),
    ],
    build,
    summary: "the group of the incoming or outgoing interface",
    example: r#"{ src-group = 10, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m devgroup --src-group 1", "-m devgroup --src-group 0x1"),
        Case::Prints(Family::V4, "-m devgroup --src-group 0", "-m devgroup --src-group default"),
        Case::Prints(Family::V6, "-m devgroup --src-group default", "="),
        Case::Prints(Family::V4, "-m devgroup --src-group 1/0xff", "-m devgroup --src-group 0x1/0xff"),
        Case::Prints(Family::V4, "-m devgroup --src-group 0x10/0x10 ! --dst-group 0x2", "="),
        Case::Prints(Family::V4, "-m devgroup --dst-group 5 --src-group 6", "-m devgroup --src-group 0x6 --dst-group 0x5"),
        Case::Prints(Family::V6, "-m devgroup ! --dst-group 4294967295", "-m devgroup ! --dst-group 0xffffffff"),
        Case::Prints(Family::V4, "-m devgroup --src-group 010", "-m devgroup --src-group 0x8"),
        Case::Prints(Family::V4, "-m devgroup --dst-group 0/0", "-m devgroup --dst-group 0x0/0x0"),
        Case::Refused(Family::V4, "-m devgroup", "devgroup asks for --src-group or --dst-group"),
        Case::Refused(Family::V4, "-m devgroup --src-group nope", "`nope` is not a device group"),
        Case::Refused(Family::V4, "-m devgroup --src-group default/0xff", "`default/0xff` is not a device group"),
        Case::Refused(Family::V4, "-m devgroup --src-group 4294967296", "`4294967296` is not a device group"),
        Case::Refused(Family::V6, "-m devgroup --dst-group 1/", "`1/` is not a device group"),
        Case::Refused(Family::V4, "-m devgroup --dst-group 1 --dst-group 2", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    for (option, hooks) in [(SOURCE, NO_SOURCE), (DESTINATION, NO_DESTINATION)] {
        let Some(option) = given.get(option) else { continue };
        if let Some(hook) = Hook::ALL.into_iter().find(|hook| given.hooks & hooks & hook.bit() != 0) {
            let (name, which) = match option.option {
                SOURCE => ("--src-group", "PREROUTING, INPUT or FORWARD"),
                _ => ("--dst-group", "FORWARD, OUTPUT or POSTROUTING"),
            };
            return Err(option.word.complain(format!("`{name}` cannot be used in {}", hook.name()), which));
        }
        let group = GROUPS.read(&option.values[0])?;
        let test = if option.option == SOURCE { Devgroup::Source(group) } else { Devgroup::Destination(group) };
        conds.push(Cond::new(option.negate, Match::Devgroup(test)));
    }
    match conds.is_empty() {
        true => Err(given.complain("devgroup asks for --src-group or --dst-group")),
        false => Ok(conds),
    }
}

/// Hooks where no interface is known that the packet came in on.
const NO_SOURCE: u8 = Hook::Output.bit() | Hook::Postrouting.bit();
/// Hooks where none is known that it leaves by.
const NO_DESTINATION: u8 = Hook::Prerouting.bit() | Hook::Input.bit();

impl Condition for Devgroup {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        yes(match self {
            Devgroup::Source(group) => group.is(cx.around.group(facts.iif)),
            Devgroup::Destination(group) => group.is(cx.around.group(facts.oif)),
        })
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        let (option, group) = match self {
            Devgroup::Source(group) => (" --src-group ", group),
            Devgroup::Destination(group) => (" --dst-group ", group),
        };
        out.push_str(option);
        group.print(out);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let (Devgroup::Source(group) | Devgroup::Destination(group)) = self;
        group.verify()
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{outcome, parse_at};
    use super::*;
    use crate::facts::PortId;

    #[test]
    fn groups_of_the_packets_interfaces_are_compared_as_far_as_the_mask_goes() {
        for (text, expected) in [
            ("--src-group 0x11", Outcome::Yes),
            ("--src-group 0x12", Outcome::No),
            ("! --src-group 0x12", Outcome::Yes),
            ("--src-group 0x10/0xf0", Outcome::Yes),
            ("--src-group 0x11 --dst-group 0x12", Outcome::Yes),
            ("--src-group 0x11 ! --dst-group 0x12", Outcome::No),
            ("--dst-group 0x21/0x0f", Outcome::No),
        ] {
            let facts = Facts { iif: PortId(1), oif: PortId(2), ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m devgroup {text}"), &facts), expected, "{text}");
        }
    }

    #[test]
    fn a_group_is_asked_only_where_its_interface_is_known() {
        for hook in Hook::ALL {
            for (text, denied) in [("--src-group 1", NO_SOURCE), ("--dst-group 1", NO_DESTINATION)] {
                let answer = parse_at(Family::V4, hook.bit(), &format!("-m devgroup {text}"));
                assert_eq!(answer.is_ok(), denied & hook.bit() == 0, "{text} in {}", hook.name());
            }
        }
    }
}
