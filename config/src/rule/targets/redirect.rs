//! `-j REDIRECT [--to-ports PORTS] [--random]`: to this router itself, in PREROUTING and OUTPUT of `nat`: the incoming port's
//! own address, or the loopback address for what the router sends, becomes the destination.
//!
//! TOML: `{ protocol = "udp", dport = 53, target = "REDIRECT", to-ports = 5353 }`.

use super::Target;
use super::nat::{self, Kind, Nat};
use crate::facts::Family;
use crate::rule::Hook;
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};

/// REDIRECT
pub static EXTENSION: TargetExtension = nat::extension(
    "REDIRECT",
    Hook::Prerouting.bit() | Hook::Output.bit(),
    &[
        Opt::plain("to-ports", &[]).about("PORT[-PORT]", "the new destination port"),
        Opt::flag("random", &[]).about("", "chooses the port by chance"),
    ],
    build,
    "Sends the flow to the router itself.",
    r#"{ protocol = "udp", dport = 53, target = "REDIRECT", to-ports = 5353 }"#,
    &[
        Case::Prints(Family::V4, "-j REDIRECT", "="),
        Case::Prints(Family::V4, "-p tcp -j REDIRECT --to-ports 100-200 --random", "="),
        Case::Prints(Family::V6, "-p tcp -j REDIRECT --to-ports http", "-p tcp -j REDIRECT --to-ports 80"),
        Case::Refused(Family::V4, "-j REDIRECT --to-ports 5", "needs a protocol that has ports"),
        Case::Refused(Family::V4, "-p tcp -j REDIRECT --to-ports 9-5", "backwards"),
        Case::Refused(Family::V4, "-p tcp -j REDIRECT --to-ports 100-200/50", "cannot stand here"),
        Case::Prints(Family::V6, "-j REDIRECT --random", "="),
        Case::Refused(Family::V4, "-j REDIRECT ! --random", "cannot be negated"),
        Case::Refused(Family::V4, "-j REDIRECT --persistent", "no option `--persistent`"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    let mut nat = Nat::new(Kind::Redirect);
    if let Some(ports) = given.value(0) {
        nat::read_ports(given, ports, false, &mut nat)?;
    }
    nat.random = given.get(1).is_some();
    Ok(Target::Nat(nat))
}
