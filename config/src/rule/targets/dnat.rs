//! `-j DNAT --to-destination RANGE[/BASE] [--random] [--persistent]`: a new destination address, in PREROUTING and OUTPUT of
//! `nat`. With `/BASE` a port keeps its distance: base + n becomes the range's first port + n.
//!
//! TOML: `{ in = "wan0", protocol = "tcp", dport = 80, target = "DNAT", to-destination = "10.0.0.2:8080" }`.

use super::nat::{self, Kind, Nat};
use super::{Target, mark};
use crate::facts::Family;
use crate::rule::Hook;
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};

/// DNAT
pub static EXTENSION: TargetExtension = nat::extension(
    "DNAT",
    Hook::Prerouting.bit() | Hook::Output.bit(),
    &[
        Opt::plain("to-destination", &[]).about(
            "[ADDRESS[-ADDRESS]][:PORT[-PORT[/BASE]]]",
            "the new destination; with a base a port keeps its distance from it",
        ),
        Opt::flag("random", &[]).about("", "chooses the port by chance"),
        Opt::flag("persistent", &[]).about("", "gives a client the same address for all its flows"),
    ],
    build,
    "Gives the flow a new destination address.",
    r#"{ in = "wan0", protocol = "tcp", dport = 80, target = "DNAT", to-destination = "10.0.0.2:8080" }"#,
    &[
        Case::Prints(Family::V4, "-j DNAT --to-destination 1.2.3.4", "="),
        Case::Prints(Family::V4, "-p tcp -j DNAT --to-destination 1.2.3.4:100-200/50", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -j DNAT --to-destination :100-200/http",
            "-p tcp -j DNAT --to-destination :100-200/80",
        ),
        Case::Prints(
            Family::V4,
            "-p tcp -j DNAT --to-destination 1.2.3.4:100-100",
            "-p tcp -j DNAT --to-destination 1.2.3.4:100",
        ),
        Case::Prints(
            Family::V4,
            "-p tcp -j DNAT --to-destination 1.2.3.4:http-alt",
            "-p tcp -j DNAT --to-destination 1.2.3.4:8080",
        ),
        Case::Prints(Family::V4, "-j DNAT --to-destination 1.2.3.4 --random --persistent", "="),
        Case::Prints(Family::V6, "-p tcp -j DNAT --to-destination [2001:db8::1]:80-90/70", "="),
        Case::Prints(Family::V6, "-j DNAT --to-destination 2001:db8::1-2001:db8::9", "="),
        Case::Prints(Family::V6, "-p udp -j DNAT --to-destination :80", "="),
        Case::Refused(Family::V4, "-j DNAT --to-destination 1.2.3.4 ! --random", "cannot be negated"),
        Case::Refused(Family::V4, "-j DNAT --persistent", "needs one of"),
        Case::Refused(Family::V4, "-j DNAT", "needs one of"),
        Case::Refused(Family::V4, "-j DNAT --to-destination 1.2.3.4:80", "needs a protocol that has ports"),
        Case::Refused(Family::V4, "-p tcp -j DNAT --to-destination 1.2.3.4:100/50", "no base"),
        Case::Refused(Family::V4, "-p tcp -j DNAT --to-destination 1.2.3.4:100-200/0", "cannot be 0"),
        Case::Refused(Family::V4, "-p tcp -j DNAT --to-destination 1.2.3.4:", "not a port"),
        Case::Refused(Family::V4, "-j DNAT --to-destination 1.2.3.4 --random-fully", "no option `--random-fully`"),
        Case::Refused(Family::V6, "-j DNAT --to-destination 1.2.3.4", "is an IPv4 address"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    let mut nat = Nat::new(Kind::Dnat);
    let word = given.value(0).ok_or_else(|| mark::needs(given, &EXTENSION.options[..1]))?;
    nat::read_range(given, word, true, &mut nat)?;
    let has = |option| given.get(option).is_some();
    (nat.random, nat.persistent) = (has(1), has(2));
    Ok(Target::Nat(nat))
}
