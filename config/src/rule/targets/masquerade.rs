//! `-j MASQUERADE [--to-ports PORTS] [--random] [--random-fully]`: the outgoing port's own address as source, in POSTROUTING
//! of `nat`.
//!
//! TOML: `{ out = "wan0", target = "MASQUERADE" }`.

use super::Target;
use super::nat::{self, Kind, Nat};
use crate::facts::Family;
use crate::rule::Hook;
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};

/// MASQUERADE
pub static EXTENSION: TargetExtension = nat::extension(
    "MASQUERADE",
    Hook::Postrouting.bit(),
    &[
        Opt::plain("to-ports", &[]).about("PORT[-PORT]", "the new source port"),
        Opt::flag("random", &[]).about("", "chooses the port by chance"),
        Opt::flag("random-fully", &[]).about("", "chooses it by chance for every flow"),
    ],
    build,
    "Gives the flow the address of the outgoing interface as source.",
    r#"{ out = "wan0", target = "MASQUERADE" }"#,
    &[
        Case::Prints(Family::V4, "-o wan0 -j MASQUERADE", "="),
        Case::Prints(Family::V4, "-p tcp -j MASQUERADE --to-ports 100-200 --random --random-fully", "="),
        Case::Prints(Family::V4, "-p tcp -j MASQUERADE --to-ports http", "-p tcp -j MASQUERADE --to-ports 80"),
        Case::Prints(Family::V6, "-p udp -j MASQUERADE --to-ports 5-9 --random", "="),
        Case::Refused(Family::V4, "-j MASQUERADE --to-ports 5", "needs a protocol that has ports"),
        Case::Refused(Family::V6, "-p icmpv6 -j MASQUERADE --to-ports 5", "needs a protocol that has ports"),
        Case::Refused(Family::V4, "-p tcp -j MASQUERADE --to-ports 200-100", "backwards"),
        Case::Refused(Family::V4, "-p tcp -j MASQUERADE --to-ports 1:5", "not a port"),
        Case::Prints(Family::V4, "-j MASQUERADE --random", "="),
        Case::Prints(Family::V6, "-j MASQUERADE --random-fully", "="),
        Case::Refused(Family::V4, "-j MASQUERADE ! --random", "cannot be negated"),
        Case::Refused(Family::V4, "-j MASQUERADE --random-fully --random-fully", "given twice"),
        Case::Refused(Family::V4, "-j MASQUERADE --persistent", "no option `--persistent`"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    let mut nat = Nat::new(Kind::Masquerade);
    if let Some(ports) = given.value(0) {
        nat::read_ports(given, ports, false, &mut nat)?;
    }
    (nat.random, nat.random_fully) = (given.get(1).is_some(), given.get(2).is_some());
    Ok(Target::Nat(nat))
}
