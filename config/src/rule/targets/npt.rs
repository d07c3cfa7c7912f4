//! `-j SNPT|DNPT --src-pfx PREFIX --dst-pfx PREFIX`: another prefix for the source (POSTROUTING, INPUT) or the destination
//! (PREROUTING, OUTPUT), in table `mangle` of IPv6. Without state, and neutral to checksums (RFC 6296): one word behind the
//! prefix makes up for the difference.
//!
//! Every packet that comes here is translated, whatever its prefix was. As in the kernel the longer of the two prefixes
//! says how many bits are replaced. An address with no word to adjust is answered with a parameter problem and dropped.
//! TOML: `{ out = "wan0", source = "fd00:1::/48", target = "SNPT", src-pfx = "fd00:1::/48", dst-pfx = "2001:db8:1::/48" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::matches::address::{parse_prefix, print_network};
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::{Effect, Families, Hook, Table};
use serde::{Deserialize, Serialize};

/// Which address is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum End {
    /// SNPT
    Source,
    /// DNPT
    Destination,
}

/// A prefix: its bits, all others zero, and their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Prefix {
    /// The bits, from the top.
    pub bits: u128,
    /// How many; at most 64.
    pub length: u8,
}

/// The target: which address, and the prefix that becomes another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Npt {
    /// Which address.
    pub end: End,
    /// `--src-pfx`: what addresses have.
    pub from: Prefix,
    /// `--dst-pfx`: what they get.
    pub to: Prefix,
}

/// Most bits of a prefix.
const LONGEST: u8 = 64;

static OPTIONS: [Opt; 2] = [Opt::plain("src-pfx", &[]).about("PREFIX", "what addresses have; at most 64 bits"), Opt::plain("dst-pfx", &[]).about("PREFIX", "what they get; at most 64 bits")];

const fn extension(
    name: &'static str,
    hooks: u8,
    build: fn(&Given) -> Result<Target, Complaint>,
    example: &'static str,
    cases: &'static [Case],
) -> TargetExtension {
    TargetExtension {
        name,
        aliases: &[],
        families: Families::Only(Family::V6),
        protocol: None,
        tables: &[Table::Mangle],
        hooks,
        options: &OPTIONS,
        build,
        summary: "Gives the address another prefix, without state (NPTv6).",
        example,
        cases,
    }
}

/// SNPT
pub static SNPT: TargetExtension = extension(
    "SNPT",
    Hook::Postrouting.bit() | Hook::Input.bit(),
    |given| build(given, End::Source),
    r#"{ out = "wan0", source = "fd00:1::/48", target = "SNPT", src-pfx = "fd00:1::/48", dst-pfx = "2001:db8:1::/48" }"#,
    &[
        Case::Prints(Family::V6, "-j SNPT --src-pfx fd00::/64 --dst-pfx 2001:db8::/64", "="),
        Case::Prints(Family::V6, "-j SNPT --src-pfx fd00::/48 --dst-pfx 2001:db8::/56", "="),
        Case::Prints(
            Family::V6,
            "-j SNPT --dst-pfx 2001:db8::/64 --src-pfx fd00::/ffff::",
            "-j SNPT --src-pfx fd00::/16 --dst-pfx 2001:db8::/64",
        ),
        Case::Refused(Family::V6, "-j SNPT", "SNPT needs --src-pfx"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx fd00::/64", "SNPT needs --dst-pfx"),
        Case::Refused(Family::V6, "-j SNPT --dst-pfx fd00::/48", "SNPT needs --src-pfx"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx fd00::1/64 --dst-pfx 2001:db8::/64", "bits behind its prefix"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx fd00:1::/16 --dst-pfx 2001:db8::/64", "bits behind its prefix"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx fd00::/65 --dst-pfx 2001:db8::/64", "longer than 64 bits"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx fd00:: --dst-pfx 2001:db8::/64", "longer than 64 bits"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx fd00::/129 --dst-pfx 2001:db8::/64", "not a mask"),
        Case::Refused(Family::V6, "-j SNPT --src-pfx 1.2.3.0/24 --dst-pfx 2001:db8::/64", "is an IPv4 address"),
        Case::Refused(Family::V4, "-j SNPT --src-pfx fd00::/64 --dst-pfx 2001:db8::/64", "no target `SNPT` for ipv4"),
    ],
);

/// DNPT
pub static DNPT: TargetExtension = extension(
    "DNPT",
    Hook::Prerouting.bit() | Hook::Output.bit(),
    |given| build(given, End::Destination),
    r#"{ in = "wan0", destination = "2001:db8:1::/48", target = "DNPT", src-pfx = "2001:db8:1::/48", dst-pfx = "fd00:1::/48" }"#,
    &[
        Case::Prints(Family::V6, "-j DNPT --src-pfx 2001:db8::/64 --dst-pfx fd00::/64", "="),
        Case::Prints(Family::V6, "-j DNPT --src-pfx 2001:db8::/32 --dst-pfx fd00::/8", "="),
        Case::Refused(Family::V6, "-j DNPT", "DNPT needs --src-pfx"),
        Case::Refused(Family::V6, "-j DNPT --src-pfx fd00::/64 --dst-pfx 2001:db8::/65", "longer than 64 bits"),
    ],
);

fn build(given: &Given, end: End) -> Result<Target, Complaint> {
    let prefix = |option, name| given.required(option, name).and_then(read);
    Ok(Target::Npt(Npt { end, from: prefix(0, "src-pfx")?, to: prefix(1, "dst-pfx")? }))
}

fn read(word: &Word) -> Result<Prefix, Complaint> {
    let (bits, length) = parse_prefix(word, Family::V6)?;
    let prefix = Prefix { bits, length };
    let accepts = "a prefix of at most 64 bits such as 2001:db8:1::/48";
    if length > LONGEST {
        return Err(word.complain(format!("`{}` is longer than 64 bits", word.text), accepts));
    }
    match prefix.is_sound() {
        true => Ok(prefix),
        false => Err(word.complain(format!("`{}` has bits behind its prefix", word.text), accepts)),
    }
}

impl Prefix {
    fn is_sound(self) -> bool {
        self.length <= LONGEST && self.bits & !Family::V6.mask(self.length) == 0
    }
}

impl Action for Npt {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Npt(self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(match self.end {
            End::Source => &SNPT,
            End::Destination => &DNPT,
        })
    }

    fn print(&self, family: Family, out: &mut String) {
        for (option, prefix) in [(" --src-pfx ", self.from), (" --dst-pfx ", self.to)] {
            out.push_str(option);
            print_network(out, family, prefix.bits, family.mask(prefix.length.min(family.bits())));
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self.from.is_sound() && self.to.is_sound() {
            true => Ok(()),
            false => Err("a prefix that cannot be".into()),
        }
    }
}
