//! `-m icmp`: ICMP type and code (`icmp_match`), IPv4 only.
//!
//! A type stands as number, `TYPE/CODE` or name; a name's beginning will do where it is unambiguous, as in iptables. A type
//! without a code takes all codes. `any`, which is also what 255 means, takes every ICMP packet with a header; negated, none.
//! A later fragment never matches; a header shorter than 8 bytes drops the packet.
//!
//! TOML: `{ protocol = "icmp", icmp-type = "echo-request", jump = "ACCEPT" }`

use super::{Condition, Match, not, ports};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A type and a range of codes: one code, or all of 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Type {
    /// The type.
    pub kind: u8,
    /// The code; none takes all.
    pub code: Option<u8>,
}

/// `--icmp-type`; type 255 is any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Icmp(pub Type);

const ANY: u8 = 255;

/// A name of a type, or of a type with a code.
pub type Name = (&'static str, Type);

const fn all(name: &'static str, kind: u8) -> Name {
    (name, Type { kind, code: None })
}

const fn one(name: &'static str, kind: u8, code: u8) -> Name {
    (name, Type { kind, code: Some(code) })
}

#[rustfmt::skip]
const NAMES: &[Name] = &[
    all("any", ANY),
    all("echo-reply", 0), all("pong", 0),
    all("destination-unreachable", 3),
    one("network-unreachable", 3, 0), one("host-unreachable", 3, 1), one("protocol-unreachable", 3, 2),
    one("port-unreachable", 3, 3), one("fragmentation-needed", 3, 4), one("source-route-failed", 3, 5),
    one("network-unknown", 3, 6), one("host-unknown", 3, 7), one("network-prohibited", 3, 9),
    one("host-prohibited", 3, 10), one("TOS-network-unreachable", 3, 11), one("TOS-host-unreachable", 3, 12),
    one("communication-prohibited", 3, 13), one("host-precedence-violation", 3, 14), one("precedence-cutoff", 3, 15),
    all("source-quench", 4),
    all("redirect", 5),
    one("network-redirect", 5, 0), one("host-redirect", 5, 1), one("TOS-network-redirect", 5, 2),
    one("TOS-host-redirect", 5, 3),
    all("echo-request", 8), all("ping", 8),
    all("router-advertisement", 9),
    all("router-solicitation", 10),
    all("time-exceeded", 11), all("ttl-exceeded", 11),
    one("ttl-zero-during-transit", 11, 0), one("ttl-zero-during-reassembly", 11, 1),
    all("parameter-problem", 12),
    one("ip-header-bad", 12, 0), one("required-option-missing", 12, 1),
    all("timestamp-request", 13),
    all("timestamp-reply", 14),
    all("address-mask-request", 17),
    all("address-mask-reply", 18),
];

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "icmp",
    aliases: &[],
    families: Families::Only(Family::V4),
    protocol: Some(proto::ICMP),
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("icmp-type", &[]).about("TYPE[/CODE]", "type and code, by number or name")],
    build,
    summary: "type and code of ICMP",
    example: r#"{ protocol = "icmp", icmp-type = "echo-request", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type 8", "="),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type ping", "-p icmp -m icmp --icmp-type 8"),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type host-unreachable", "-p icmp -m icmp --icmp-type 3/1"),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type TTL-exc", "-p icmp -m icmp --icmp-type 11"),
        Case::Prints(Family::V4, "-p icmp -m icmp ! --icmp-type 3/4", "="),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type 3/0", "="),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type 8/255", "="),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type 5/0x1", "-p icmp -m icmp --icmp-type 5/1"),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type any", "="),
        Case::Prints(Family::V4, "-p icmp -m icmp ! --icmp-type any", "="),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type 255/255", "-p icmp -m icmp --icmp-type any"),
        Case::Refused(Family::V4, "-p icmp -m icmp", "--icmp-type"),
        Case::Refused(Family::V4, "-p icmp -m icmp --icmp-type echo", "`echo` may be `echo-reply` or `echo-request`"),
        Case::Refused(Family::V4, "-p icmp -m icmp --icmp-type 256", "`256` is not an ICMP type"),
        Case::Refused(Family::V4, "-p icmp -m icmp --icmp-type 3/256", "`256` is not an ICMP code"),
        Case::Refused(Family::V4, "-p icmp -m icmp --icmp-type 3/", "`` is not an ICMP code"),
        Case::Refused(Family::V4, "-p icmp -m icmp --icmp-type 3:5", "`3:5` is not an ICMP type"),
        Case::Refused(Family::V4, "-p icmp -m icmp --icmp-type ecko-reply", "`ecko-reply` is not an ICMP type"),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type pong", "-p icmp -m icmp --icmp-type 0"),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type echo-req", "-p icmp -m icmp --icmp-type 8"),
        Case::Prints(Family::V4, "-p icmp -m icmp --icmp-type ttl-exceeded", "-p icmp -m icmp --icmp-type 11"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("icmp asks for --icmp-type")) };
    let mut found = parse(&option.values[0], "ICMP", NAMES)?;
    if found.kind == ANY {
        found.code = None;
    }
    Ok(vec![Cond::new(option.negate, Match::Icmp(Icmp(found)))])
}

/// A type by number, `TYPE/CODE` or (the unambiguous beginning of) a name.
pub fn parse(word: &Word, protocol: &str, names: &[Name]) -> Result<Type, Complaint> {
    if word.text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return word::abbreviated(word, names)?.ok_or_else(|| unknown(word, protocol, "type", names));
    }
    let byte = |part: &Word, field: &str| match word::integer(&part.text).and_then(|n| u8::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => Err(unknown(part, protocol, field, names)),
    };
    Ok(match word::split_once(word, '/') {
        None => Type { kind: byte(word, "type")?, code: None },
        Some((kind, code)) => Type { kind: byte(&kind, "type")?, code: Some(byte(&code, "code")?) },
    })
}

fn unknown(word: &Word, protocol: &str, field: &str, names: &[Name]) -> Complaint {
    let near = word::nearest(&word.text, names.iter().map(|&(name, _)| name));
    let accepts = match (field, near) {
        ("code", _) => "a number from 0 to 255".to_string(),
        (_, Some(near)) => format!("a name, a number from 0 to 255, or TYPE/CODE; did you mean `{near}`?"),
        (_, None) => "a name such as echo-request, a number from 0 to 255, or TYPE/CODE".to_string(),
    };
    word.complain(format!("`{}` is not an {protocol} {field}", word.text), accepts)
}

impl Type {
    /// Whether a packet of that type and code is of this one.
    #[inline]
    pub fn has(self, kind: u8, code: u8) -> bool {
        self.kind == kind && self.code.is_none_or(|c| c == code)
    }

    /// Writes `TYPE[/CODE]`.
    pub fn print(self, out: &mut String) {
        let _ = write!(out, "{}", self.kind);
        if let Some(code) = self.code {
            let _ = write!(out, "/{code}");
        }
    }
}

impl Condition for Icmp {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        let [kind, code] = facts.dport.to_be_bytes();
        ports::of_header(facts, || self.0.kind == ANY || self.0.has(kind, code))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --icmp-type ", not(negate));
        if self.0.kind == ANY { out.push_str("any") } else { self.0.print(out) }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self.0 {
            Type { kind: ANY, code: Some(_) } => Err("a code of any ICMP type".to_string()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{l4, outcome};
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn type_and_code_hit() {
        for (text, kind, code, expected) in [
            ("--icmp-type 8", 8, 0, Yes),
            ("--icmp-type 8", 8, 7, Yes),
            ("--icmp-type 8", 0, 0, No),
            ("! --icmp-type 8", 0, 0, Yes),
            ("--icmp-type 3/4", 3, 4, Yes),
            ("--icmp-type 3/4", 3, 3, No),
            ("! --icmp-type 3/4", 3, 3, Yes),
            ("--icmp-type 3/0", 3, 1, No),
            ("--icmp-type any", 42, 7, Yes),
            ("! --icmp-type any", 42, 7, No),
        ] {
            let facts = l4(Family::V4, proto::ICMP, 0, u16::from_be_bytes([kind, code]));
            assert_eq!(outcome(&format!("-p icmp -m icmp {text}"), &facts), expected, "{text} {kind}/{code}");
        }
    }

    #[test]
    fn fragments_never_match_and_what_lacks_its_header_is_dropped() {
        for (frag_off, expected) in [(0, Hotdrop), (8, Never)] {
            let facts = Facts { proto: proto::ICMP, frag_off, ..Facts::blank(Family::V4) };
            for text in ["--icmp-type any", "! --icmp-type 8"] {
                assert_eq!(outcome(&format!("-p icmp -m icmp {text}"), &facts), expected);
            }
        }
    }
}
