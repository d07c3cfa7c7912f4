//! `-j SNAT --to-source RANGE [--random] [--random-fully] [--persistent]`: a new source address, in POSTROUTING and INPUT of
//! `nat`.
//!
//! TOML: `{ out = "wan0", target = "SNAT", to-source = "192.0.2.10-192.0.2.20" }`.

use super::nat::{self, Kind, Nat};
use super::{Target, mark};
use crate::facts::Family;
use crate::rule::Hook;
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};

/// SNAT
pub static EXTENSION: TargetExtension = nat::extension(
    "SNAT",
    Hook::Postrouting.bit() | Hook::Input.bit(),
    &[
        Opt::plain("to-source", &[]).about(
            "[ADDRESS[-ADDRESS]][:PORT[-PORT]]",
            "the new source; IPv6 addresses in brackets where ports follow",
        ),
        Opt::flag("random", &[]).about("", "chooses the port by chance"),
        Opt::flag("random-fully", &[]).about("", "chooses it by chance for every flow"),
        Opt::flag("persistent", &[]).about("", "gives a client the same address for all its flows"),
    ],
    build,
    "Gives the flow a new source address.",
    r#"{ out = "wan0", target = "SNAT", to-source = "192.0.2.10-192.0.2.20" }"#,
    &[
        Case::Prints(Family::V4, "-j SNAT --to-source 1.2.3.4", "="),
        Case::Prints(Family::V4, "-j SNAT --to 1.2.3.4", "-j SNAT --to-source 1.2.3.4"),
        Case::Prints(Family::V4, "-j SNAT --to-source 1.2.3.4-1.2.3.9", "="),
        Case::Prints(Family::V4, "-j SNAT --to-source 1.2.3.4-1.2.3.4", "-j SNAT --to-source 1.2.3.4"),
        Case::Prints(Family::V4, "-p tcp -j SNAT --to-source 1.2.3.4-1.2.3.5:100-200", "="),
        Case::Prints(Family::V4, "-p udp -j SNAT --to-source :100-200", "="),
        Case::Prints(Family::V4, "-p tcp -j SNAT --to-source 1.2.3.4:5-5", "-p tcp -j SNAT --to-source 1.2.3.4:5"),
        Case::Prints(Family::V4, "-p tcp -j SNAT --to-source 1.2.3.4:ssh", "-p tcp -j SNAT --to-source 1.2.3.4:22"),
        Case::Prints(Family::V4, "-p icmp -j SNAT --to-source 1.2.3.4:100", "="),
        Case::Prints(
            Family::V4,
            "-j SNAT --to-source 1.2.3.4 --random-fully --persistent --random",
            "-j SNAT --to-source 1.2.3.4 --random --random-fully --persistent",
        ),
        Case::Prints(Family::V6, "-j SNAT --to-source 2001:db8::1", "="),
        Case::Prints(Family::V6, "-p tcp -j SNAT --to-source [2001:db8::1]", "-p tcp -j SNAT --to-source 2001:db8::1"),
        Case::Prints(Family::V6, "-p tcp -j SNAT --to-source [2001:db8::1-2001:db8::9]:80-90", "="),
        Case::Prints(Family::V6, "-j SNAT --to-source 2001:db8::1 --random", "="),
        Case::Prints(Family::V4, "-j SNAT --to-source 1.2.3.4 --random-fully", "="),
        Case::Prints(Family::V4, "-j SNAT --to-source 1.2.3.4-1.2.3.9 --persistent", "="),
        Case::Refused(Family::V4, "-j SNAT --to-source 1.2.3.4 --random --random", "given twice"),
        Case::Refused(Family::V4, "-j SNAT --to-source 1.2.3.4 ! --random-fully", "cannot be negated"),
        Case::Refused(Family::V4, "-j SNAT --persistent", "needs one of"),
        Case::Refused(Family::V4, "-j SNAT", "needs one of"),
        Case::Refused(Family::V4, "-j SNAT --random", "needs one of"),
        Case::Refused(Family::V4, "-j SNAT --to-source 1.2.3.4:100", "needs a protocol that has ports"),
        Case::Refused(Family::V4, "-p gre -j SNAT --to-source 1.2.3.4:100", "needs a protocol that has ports"),
        Case::Refused(Family::V4, "-j SNAT --to-source 1.2.3.9-1.2.3.4", "backwards"),
        Case::Refused(Family::V4, "-p tcp -j SNAT --to-source 1.2.3.4:200-100", "backwards"),
        Case::Refused(Family::V4, "-p tcp -j SNAT --to-source 1.2.3.4:70000", "not a port"),
        Case::Refused(Family::V4, "-p tcp -j SNAT --to-source 1.2.3.4:100-200/5", "cannot stand here"),
        Case::Refused(Family::V4, "-j SNAT --to-source foo.example", "is not an IPv4 address"),
        Case::Refused(Family::V4, "-j SNAT --to-source 2001:db8::1", "is an IPv6 address"),
        Case::Refused(Family::V6, "-p tcp -j SNAT --to-source [2001:db8::1]-[2001:db8::9]", "not a range"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    let mut nat = Nat::new(Kind::Snat);
    let word = given.value(0).ok_or_else(|| mark::needs(given, &EXTENSION.options[..1]))?;
    nat::read_range(given, word, false, &mut nat)?;
    let has = |option| given.get(option).is_some();
    (nat.random, nat.random_fully, nat.persistent) = (has(1), has(2), has(3));
    Ok(Target::Nat(nat))
}
