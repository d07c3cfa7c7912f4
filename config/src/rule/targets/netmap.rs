//! `-j NETMAP --to ADDRESS[/MASK]`: one network onto another of the same size, in all chains of `nat`: the destination in
//! PREROUTING and OUTPUT, the source in POSTROUTING and INPUT. Host bits stay.
//!
//! TOML: `{ in = "wan0", destination = "192.0.2.0/24", target = "NETMAP", to = "10.0.0.0/24" }`.

use super::nat::{self, Kind, Nat};
use super::{Target, mark};
use crate::facts::Family;
use crate::rule::Hook;
use crate::rule::matches::address::parse_prefix;
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension};

/// NETMAP
pub static EXTENSION: TargetExtension = nat::extension(
    "NETMAP",
    Hook::Prerouting.bit() | Hook::Output.bit() | Hook::Postrouting.bit() | Hook::Input.bit(),
    &[Opt::plain("to", &[]).about("ADDRESS[/MASK]", "the network that addresses get")],
    build,
    "Maps a whole network of addresses onto another.",
    r#"{ in = "wan0", destination = "192.0.2.0/24", target = "NETMAP", to = "10.0.0.0/24" }"#,
    &[
        Case::Prints(Family::V4, "-j NETMAP --to 10.0.0.0/24", "="),
        Case::Prints(Family::V4, "-j NETMAP --to 10.0.0.5/24", "-j NETMAP --to 10.0.0.0/24"),
        Case::Prints(Family::V4, "-j NETMAP --to 10.0.0.5", "-j NETMAP --to 10.0.0.5/32"),
        Case::Prints(Family::V4, "-j NETMAP --to 10.0.0.0/255.255.255.0", "-j NETMAP --to 10.0.0.0/24"),
        Case::Prints(Family::V4, "-j NETMAP --to 10.0.0.0/0", "-j NETMAP --to 0.0.0.0/0"),
        Case::Prints(Family::V6, "-j NETMAP --to 2001:db8::/64", "="),
        Case::Prints(Family::V6, "-j NETMAP --to 2001:db8::1/64", "-j NETMAP --to 2001:db8::/64"),
        Case::Prints(Family::V6, "-j NETMAP --to 2001:db8::1", "-j NETMAP --to 2001:db8::1/128"),
        Case::Prints(Family::V6, "-j NETMAP --to 2001:db8::/ffff:ffff::", "-j NETMAP --to 2001:db8::/32"),
        Case::Prints(Family::V6, "-j NETMAP --to ::/0", "="),
        Case::Refused(Family::V4, "-j NETMAP", "needs one of"),
        Case::Refused(Family::V4, "-j NETMAP --to 10.0.0.0/33", "not a mask"),
        Case::Refused(Family::V4, "-j NETMAP --to 10.0.0.0/255.0.255.0", "a mask with gaps"),
        Case::Refused(Family::V4, "-j NETMAP --to foo/24", "is not an IPv4 address"),
        Case::Refused(Family::V4, "-j NETMAP --to 10.0.0.0/24 --random", "no option `--random`"),
        Case::Refused(Family::V6, "-j NETMAP --to 10.0.0.0/24", "is an IPv4 address"),
        Case::Refused(Family::V6, "-j NETMAP --to 2001:db8::/129", "not a mask"),
    ],
);

fn build(given: &Given) -> Result<Target, Complaint> {
    let word = given.value(0).ok_or_else(|| mark::needs(given, EXTENSION.options))?;
    let (addr, length) = parse_prefix(word, given.family)?;
    let mask = given.family.mask(length);
    let first = addr & mask;
    Ok(Target::Nat(Nat { addresses: Some((first, first | given.family.ones() & !mask)), ..Nat::new(Kind::Netmap) }))
}
