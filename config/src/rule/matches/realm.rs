//! `-m realm`: the realm of the packet's route (`xt_realm.c`), IPv4 only.
//!
//! Routes get realms with `realm` in `[[routes]]`. A packet has two: that of the route to its destination in the low 16 bits,
//! that of the route back to its source in the high ones; packets to the router have the latter only, its own packets the
//! former. `--realm 10` compares all 32 bits, as the kernel does: it holds where the source has none. `--realm 10/0xffff`
//! asks for the destination alone. Names are those of `/etc/iproute2/rt_realms`.
//!
//! TOML: `{ realm = "10/0xffff", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::word::labels::{Kind, Labelled};
use crate::rule::{Cond, Families, Hook, Outcome};
use serde::{Deserialize, Serialize};

/// `--realm`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Realm(pub Labelled);

/// Realms and their names.
pub const REALMS: Kind = Kind { what: "a realm", file: "/etc/iproute2/rt_realms", zero: "cosmos" };

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "realm",
    aliases: &[],
    families: Families::Only(Family::V4),
    protocol: None,
    tables: &[],
    hooks: Hook::Input.bit() | Hook::Forward.bit() | Hook::Output.bit() | Hook::Postrouting.bit(),
    options: &[Opt::negatable("realm", &[]).about("VALUE[/MASK]|NAME", "the realms of the packet's route")],
    build,
    summary: "the realms of the packet's route",
    example: r#"{ realm = "10/0xffff", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m realm --realm 10", "-m realm --realm 0xa"),
        Case::Prints(Family::V4, "-m realm ! --realm 0x10/0xff", "="),
        Case::Prints(Family::V4, "-m realm --realm cosmos", "="),
        Case::Prints(Family::V4, "-m realm --realm 0", "-m realm --realm cosmos"),
        Case::Prints(Family::V4, "-m realm --realm 10/4294967295", "-m realm --realm 0xa"),
        Case::Prints(Family::V4, "-m realm --realm 0x50000/0xffff0000", "="),
        Case::Prints(Family::V4, "-m realm --realm 4294967295", "-m realm --realm 0xffffffff"),
        Case::Refused(Family::V4, "-m realm", "realm asks for --realm"),
        Case::Refused(Family::V4, "-m realm --realm nope", "`nope` is not a realm"),
        Case::Refused(Family::V4, "-m realm --realm cosmos/0xff", "`cosmos/0xff` is not a realm"),
        Case::Refused(Family::V4, "-m realm --realm 4294967296", "`4294967296` is not a realm"),
        Case::Refused(Family::V6, "-m realm --realm 1", "no match `realm` for ipv6"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("realm asks for --realm")) };
    Ok(vec![Cond::new(option.negate, Match::Realm(Realm(REALMS.read(&option.values[0])?)))])
}

impl Condition for Realm {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        yes(self.0.is(cx.around.realms()))
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        out.push_str(not(negate));
        out.push_str(" --realm ");
        self.0.print(out);
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        self.0.verify()
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;

    #[test]
    fn both_realms_are_compared_as_far_as_the_mask_goes() {
        for (text, realms, expected) in [
            ("--realm 10", 10, Outcome::Yes),
            ("--realm 10", 0x0005_000a, Outcome::No),
            ("--realm 10/0xffff", 0x0005_000a, Outcome::Yes),
            ("--realm 0x5000a", 0x0005_000a, Outcome::Yes),
            ("--realm 0x50000/0xffff0000", 0x0005_0007, Outcome::Yes),
            ("! --realm 10", 0x0005_000a, Outcome::Yes),
            ("--realm cosmos", 0, Outcome::Yes),
        ] {
            let mut judge = Judge::new(Family::V4, &format!("-m realm {text}"));
            judge.realms = realms;
            assert_eq!(judge.ask(&Facts::blank(Family::V4), &[]), expected, "{text} {realms:#x}");
        }
    }
}
