//! `-j CLASSIFY --set-class MAJOR:MINOR`: the packet's priority (`skb->priority`), in FORWARD, OUTPUT and POSTROUTING.
//!
//! In the kernel a queueing discipline takes it for a class. The router has none: it is shown by traces and NFLOG.
//! Both numbers are hexadecimal, with or without `0x`.
//! TOML: `{ out = "wan0", protocol = "udp", target = "CLASSIFY", set-class = "1:10" }`.

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::{Effect, Families, Hook};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The new priority: the major number in the upper half, the minor one in the lower.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Classify(pub u32);

/// CLASSIFY
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "CLASSIFY",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: Hook::Forward.bit() | Hook::Output.bit() | Hook::Postrouting.bit(),
    options: &[Opt::plain("set-class", &[]).about("MAJOR:MINOR", "sets the packet's priority; both hexadecimal")],
    build,
    summary: "Sets the packet's priority.",
    example: r#"{ out = "wan0", protocol = "udp", target = "CLASSIFY", set-class = "1:10" }"#,
    cases: &[
        Case::Prints(Family::V4, "-j CLASSIFY --set-class 1:ffff", "-j CLASSIFY --set-class 0001:ffff"),
        Case::Prints(Family::V4, "-j CLASSIFY --set-class 0x1:0xFFff", "-j CLASSIFY --set-class 0001:ffff"),
        Case::Prints(Family::V6, "-j CLASSIFY --set-class ffff:0001", "="),
        Case::Prints(Family::V4, "-j CLASSIFY --set-class 0:0", "-j CLASSIFY --set-class 0000:0000"),
        Case::Prints(Family::V6, "-o wan0 -j CLASSIFY --set-class 1:20", "-o wan0 -j CLASSIFY --set-class 0001:0020"),
        Case::Refused(Family::V4, "-j CLASSIFY", "CLASSIFY needs --set-class"),
        Case::Refused(Family::V4, "-j CLASSIFY --set-class 1", "`1` is not a class"),
        Case::Refused(Family::V4, "-j CLASSIFY --set-class 1:", "`1:` is not a class"),
        Case::Refused(Family::V4, "-j CLASSIFY --set-class :1", "`:1` is not a class"),
        Case::Refused(Family::V4, "-j CLASSIFY --set-class g:2", "`g:2` is not a class"),
        Case::Refused(Family::V4, "-j CLASSIFY ! --set-class 1:2", "cannot be negated"),
        Case::Refused(Family::V4, "-j CLASSIFY --set-class 1:2 --set-class 1:3", "given twice"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let word = given.required(0, "set-class")?;
    let (major, minor) = word.text.split_once(':').ok_or_else(|| malformed(word))?;
    Ok(Target::Classify(Classify(half(word, major)? << 16 | half(word, minor)?)))
}

fn half(word: &Word, digits: &str) -> Result<u32, Complaint> {
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(digits);
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u16::from_str_radix(digits, 16).ok().filter(|_| is_hex);
    number.map(u32::from).ok_or_else(|| malformed(word))
}

fn malformed(word: &Word) -> Complaint {
    word.complain(format!("`{}` is not a class", word.text), "MAJOR:MINOR, each from 0 to ffff, hexadecimal: `1:10`")
}

impl Action for Classify {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Priority(self.0)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let _ = write!(out, " --set-class {:04x}:{:04x}", self.0 >> 16, self.0 & 0xffff);
    }
}
