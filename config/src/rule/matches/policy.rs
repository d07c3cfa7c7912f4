//! `-m policy`: what IPsec did to the packet, or will do (`xt_policy.c`).
//!
//! Nothing here has to do with IPsec: no packet comes out of a tunnel of the router or goes into one. So the answers are the
//! kernel's for such packets: `--pol none` holds, `--pol ipsec` does not, whatever it says of the policy. ESP and AH that
//! pass through are packets like any other, to be asked for with `-m esp` and `-m ah`.
//!
//! `--dir in` belongs to PREROUTING, INPUT and FORWARD, `--dir out` to FORWARD, OUTPUT and POSTROUTING. With `--strict` a
//! policy is described whole, one element after another with `--next` between them; without, one of its elements.
//!
//! TOML: `{ dir = "in", pol = "none", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, address, protocol, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, GivenOption, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Hook, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The options of one `-m policy`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// `--dir out`
    pub out: bool,
    /// `--strict`
    pub strict: bool,
    /// What is described of the policy; empty is `--pol none`.
    pub elements: Vec<Element>,
}

/// One transformation of a policy; each part is what was asked and whether a `!` stood before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Element {
    /// `--reqid`
    pub reqid: Option<(bool, u32)>,
    /// `--spi`
    pub spi: Option<(bool, u32)>,
    /// `--proto`
    pub proto: Option<(bool, u8)>,
    /// `--mode`, tunnel or transport.
    pub tunnel: Option<(bool, bool)>,
    /// `--tunnel-dst`, an address and the length of a prefix.
    pub dst: Option<(bool, u128, u8)>,
    /// `--tunnel-src`
    pub src: Option<(bool, u128, u8)>,
}

/// Most elements of a policy (`XT_POLICY_MAX_ELEM`).
const MAX_ELEMENTS: usize = 4;
/// Protocol number of IPComp.
const IPCOMP: u8 = 108;

const DIR: usize = 0;
const POL: usize = 1;
const STRICT: usize = 2;
const REQID: usize = 3;
const SPI: usize = 4;
const PROTO: usize = 5;
const MODE: usize = 6;
const TUNNEL_DST: usize = 7;
const TUNNEL_SRC: usize = 8;
const NEXT: usize = 9;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "policy",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::plain("dir", &[]).about("in|out", "the policy that was applied to what came in, or will be to what goes out"),
        Opt::plain("pol", &[]).about("none|ipsec", "whether there is one; ipsec where it is not said"),
        Opt::flag("strict", &[]).about("", "the elements are the whole policy, not one of it"),
        Opt::negatable("reqid", &[]).repeated().about("ID", "an element's id of the request"),
        Opt::negatable("spi", &[]).repeated().about("SPI", "an element's security parameter index"),
        Opt::negatable("proto", &[]).repeated().about("ah|esp|ipcomp", "an element's protocol"),
        Opt::negatable("mode", &[]).repeated().about("tunnel|transport", "an element's mode"),
        Opt::negatable("tunnel-dst", &[]).repeated().about("ADDRESS[/MASK]", "the far end of an element's tunnel"),
        Opt::negatable("tunnel-src", &[]).repeated().about("ADDRESS[/MASK]", "the near end of an element's tunnel"),
        Opt::flag("next", &[]).repeated().about("", "the next element follows"),
    ],
    build,
    summary: "what IPsec did to the packet, or will do: nothing, here",
    example: r#"{ dir = "in", pol = "none", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m policy --dir in --pol none", "="),
        Case::Prints(Family::V6, "-m policy --dir out --pol none", "="),
        Case::Prints(Family::V4, "-m policy --dir out --pol ipsec", "="),
        Case::Prints(Family::V4, "-m policy --dir in", "-m policy --dir in --pol ipsec"),
        Case::Prints(Family::V4, "-m policy --pol ipsec --reqid 5 --dir in", "-m policy --dir in --pol ipsec --reqid 5"),
        Case::Prints(Family::V4, "-m policy --dir in --pol ipsec --strict --reqid 1", "="),
        Case::Prints(
            Family::V4,
            "-m policy --dir in --pol ipsec --reqid 1 --spi 0x10 --proto esp --mode tunnel --tunnel-src 10.0.0.1 --tunnel-dst 10.0.0.2/24",
            "-m policy --dir in --pol ipsec --reqid 1 --spi 0x10 --proto esp --mode tunnel --tunnel-dst 10.0.0.2/24 --tunnel-src 10.0.0.1",
        ),
        Case::Prints(
            Family::V4,
            "-m policy --dir in --pol ipsec --strict --reqid 1 --next --spi 2",
            "-m policy --dir in --pol ipsec --strict --reqid 1 --next --spi 0x2",
        ),
        Case::Prints(
            Family::V4,
            "-m policy --dir in --pol ipsec --strict --reqid 1 --next --spi 0x2 --next --proto ah --next --mode transport",
            "=",
        ),
        Case::Prints(
            Family::V4,
            "-m policy --dir in --pol ipsec --strict ! --reqid 1 ! --spi 0x2 ! --proto ipcomp ! --mode transport \
             ! --tunnel-dst 1.2.3.5 ! --tunnel-src 1.2.3.4",
            "=",
        ),
        Case::Prints(Family::V4, "-m policy --dir in --pol ipsec --proto 50", "-m policy --dir in --pol ipsec --proto esp"),
        Case::Prints(
            Family::V4,
            "-m policy --dir in --pol ipsec --mode tunnel --tunnel-src 1.2.3.4/255.255.255.0",
            "-m policy --dir in --pol ipsec --mode tunnel --tunnel-src 1.2.3.4/24",
        ),
        Case::Prints(
            Family::V4,
            "-m policy --dir in --pol ipsec --reqid 4294967295 --spi 4294967295",
            "-m policy --dir in --pol ipsec --reqid 4294967295 --spi 0xffffffff",
        ),
        Case::Prints(
            Family::V6,
            "-m policy --dir out --pol ipsec --tunnel-src fd00::1 --tunnel-dst fd00::/64 --mode tunnel",
            "-m policy --dir out --pol ipsec --mode tunnel --tunnel-dst fd00::/64 --tunnel-src fd00::1",
        ),
        Case::Prints(
            Family::V6,
            "-m policy --dir out --pol ipsec --mode tunnel --tunnel-src ::1/ffff::",
            "-m policy --dir out --pol ipsec --mode tunnel --tunnel-src ::1/16",
        ),
        Case::Refused(Family::V4, "-m policy", "policy asks for --dir"),
        Case::Refused(Family::V4, "-m policy --pol none", "policy asks for --dir"),
        Case::Refused(Family::V4, "-m policy --dir forward --pol none", "`forward` is not a direction"),
        Case::Refused(Family::V4, "-m policy ! --dir in --pol none", "cannot be negated"),
        Case::Refused(Family::V4, "-m policy --dir in --dir out --pol ipsec", "given twice"),
        Case::Refused(Family::V4, "-m policy --dir in --pol some", "`some` is not a policy"),
        Case::Refused(Family::V4, "-m policy --dir in --pol none --strict", "there is none to describe"),
        Case::Refused(Family::V4, "-m policy --dir in --pol none --reqid 1", "there is none to describe"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --strict", "element 1 of the policy is empty"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --strict --reqid 1 --next", "element 2 of the policy is empty"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --reqid 1 --next --spi 2", "`--next` needs --strict"),
        Case::Refused(
            Family::V4,
            "-m policy --dir in --pol ipsec --strict --spi 1 --next --spi 2 --next --spi 3 --next --spi 4 --next --spi 5",
            "at most 4 elements",
        ),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --reqid 1 --reqid 2", "twice in one element"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --reqid -1", "`-1` is not an id"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --spi 4294967296", "`4294967296` is not an SPI"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --proto tcp", "`tcp` is not a protocol of IPsec"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --mode beet", "`beet` is not a mode"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --tunnel-src 1.2.3.4", "tunnel mode only"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --mode transport --tunnel-dst 1.2.3.4", "tunnel mode only"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec ! --mode tunnel --tunnel-src 1.2.3.4", "tunnel mode only"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --mode tunnel --tunnel-src ::1", "IPv6 address"),
        Case::Refused(Family::V6, "-m policy --dir out --pol ipsec --mode tunnel --tunnel-dst 1.2.3.4", "IPv4 address"),
        Case::Refused(Family::V4, "-m policy --dir in --pol ipsec --mode tunnel --tunnel-src 1.2.3.4/33", "`33` is not a mask"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(dir) = given.value(DIR) else { return Err(given.complain("policy asks for --dir in or --dir out")) };
    let out = word::named(dir, "a direction", &[("in", false), ("out", true)])?;
    let denied = given.hooks & if out { IN_ONLY } else { OUT_ONLY };
    if let Some(hook) = Hook::ALL.into_iter().find(|hook| denied & hook.bit() != 0) {
        let what = format!("`--dir {}` cannot be used in {}", dir.text, hook.name());
        return Err(dir.complain(what, if out { "--dir in" } else { "--dir out" }));
    }
    let none = match given.value(POL) {
        Some(pol) => word::named(pol, "a policy", &[("none", true), ("ipsec", false)])?,
        None => false,
    };
    let strict = given.get(STRICT);
    let described = given.options.iter().find(|o| o.option >= STRICT);
    let elements = match described.filter(|_| none) {
        Some(option) => return Err(option.word.complain("there is none to describe", "--pol ipsec, or no more options")),
        None if none => Vec::new(),
        None => elements(given)?,
    };
    let empty = elements.iter().position(|element| *element == Element::default());
    if let (Some(strict), Some(empty)) = (strict, empty) {
        let accepts = "one of --reqid, --spi, --proto, --mode, --tunnel-src and --tunnel-dst for each element";
        return Err(strict.word.complain(format!("element {} of the policy is empty", empty + 1), accepts));
    }
    Ok(vec![Cond::new(false, Match::Policy(Policy { out, strict: strict.is_some(), elements }))])
}

/// Hooks where nothing goes out yet.
const IN_ONLY: u8 = Hook::Prerouting.bit() | Hook::Input.bit();
/// Hooks where nothing has come in, or not any more.
const OUT_ONLY: u8 = Hook::Output.bit() | Hook::Postrouting.bit();

fn elements(given: &Given) -> Result<Vec<Element>, Complaint> {
    let mut elements = vec![Element::default()];
    for option in given.options.iter().filter(|o| o.option > STRICT) {
        if option.option == NEXT {
            if given.get(STRICT).is_none() {
                return Err(option.word.complain("`--next` needs --strict", "--strict, or one element"));
            }
            if elements.len() == MAX_ELEMENTS {
                return Err(option.word.complain(format!("a policy has at most {MAX_ELEMENTS} elements"), "fewer"));
            }
            elements.push(Element::default());
        } else if let Some(element) = elements.last_mut() {
            describe(element, option, given.family)?;
        }
    }
    for element in &elements {
        let ends = given.options.iter().find(|o| matches!(o.option, TUNNEL_SRC | TUNNEL_DST));
        if let Some(option) = ends.filter(|_| element.mistakes_mode()) {
            let what = format!("`{}` is for tunnel mode only", option.word.text);
            return Err(option.word.complain(what, "--mode tunnel in the same element"));
        }
    }
    Ok(elements)
}

/// Adds an option to its element.
fn describe(element: &mut Element, option: &GivenOption, family: Family) -> Result<(), Complaint> {
    let (negate, value) = (option.negate, &option.values[0]);
    let twice = match option.option {
        REQID => {
            let id = word::number(value, "an id", 0..=u32::MAX.into())? as u32;
            element.reqid.replace((negate, id)).is_some()
        }
        SPI => {
            let spi = word::number(value, "an SPI", 0..=u32::MAX.into())? as u32;
            element.spi.replace((negate, spi)).is_some()
        }
        PROTO => element.proto.replace((negate, parse_proto(value)?)).is_some(),
        MODE => {
            let tunnel = word::named(value, "a mode", &[("transport", false), ("tunnel", true)])?;
            element.tunnel.replace((negate, tunnel)).is_some()
        }
        _ => {
            let (addr, len) = address::parse_prefix(value, family)?;
            let end = if option.option == TUNNEL_DST { &mut element.dst } else { &mut element.src };
            end.replace((negate, addr, len)).is_some()
        }
    };
    match twice {
        true => Err(option.word.complain(format!("`{}` is given twice in one element", option.word.text), "it once")),
        false => Ok(()),
    }
}

fn parse_proto(word: &Word) -> Result<u8, Complaint> {
    let known = protocol::parse_protocol(word).ok().filter(|number| is_ipsec(*number));
    known.ok_or_else(|| word.complain(format!("`{}` is not a protocol of IPsec", word.text), "ah, esp or ipcomp"))
}

fn is_ipsec(number: u8) -> bool {
    matches!(number, proto::AH | proto::ESP | IPCOMP)
}

impl Element {
    /// Ends of a tunnel in what may not be one. Where the mode is not said, iptables takes it for transport.
    fn mistakes_mode(&self) -> bool {
        let (negate, tunnel) = self.tunnel.unwrap_or((false, false));
        (self.src.is_some() || self.dst.is_some()) && negate == tunnel
    }

    fn print(&self, family: Family, out: &mut String) {
        let option = |out: &mut String, negate: bool, name: &str| {
            let _ = write!(out, "{} --{name} ", super::not(negate));
        };
        if let Some((negate, id)) = self.reqid {
            option(out, negate, "reqid");
            let _ = write!(out, "{id}");
        }
        if let Some((negate, spi)) = self.spi {
            option(out, negate, "spi");
            let _ = write!(out, "{spi:#x}");
        }
        if let Some((negate, number)) = self.proto {
            option(out, negate, "proto");
            protocol::print_protocol(out, number);
        }
        if let Some((negate, tunnel)) = self.tunnel {
            option(out, negate, "mode");
            out.push_str(if tunnel { "tunnel" } else { "transport" });
        }
        for (end, name) in [(self.dst, "tunnel-dst"), (self.src, "tunnel-src")] {
            if let Some((negate, addr, len)) = end {
                option(out, negate, name);
                address::print_address(out, family, addr);
                if len != family.bits() {
                    let _ = write!(out, "/{len}");
                }
            }
        }
    }
}

impl Condition for Policy {
    fn test(&self, _: &Facts, _: &Context) -> Outcome {
        yes(self.elements.is_empty())
    }

    fn print(&self, _: bool, family: Family, out: &mut String) {
        out.push_str(if self.out { " --dir out" } else { " --dir in" });
        out.push_str(if self.elements.is_empty() { " --pol none" } else { " --pol ipsec" });
        if self.strict {
            out.push_str(" --strict");
        }
        for (i, element) in self.elements.iter().enumerate() {
            if i > 0 {
                out.push_str(" --next");
            }
            element.print(family, out);
        }
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let most = if self.strict { MAX_ELEMENTS } else { 1 };
        let is_wrong = |element: &Element| {
            let ends = [element.src, element.dst].into_iter().flatten();
            element.mistakes_mode()
                || element.proto.is_some_and(|(_, number)| !is_ipsec(number))
                || ends.into_iter().any(|(_, addr, len)| addr & !family.ones() != 0 || len > family.bits())
                || (self.strict && *element == Element::default())
        };
        if self.elements.len() > most || (self.strict && self.elements.is_empty()) || self.elements.iter().any(is_wrong)
        {
            return Err("an IPsec policy that cannot be written".to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{outcome, parse_at};
    use super::*;

    #[test]
    fn no_packet_has_to_do_with_ipsec() {
        for (text, expected) in [
            ("--dir in --pol none", Outcome::Yes),
            ("--dir out --pol none", Outcome::Yes),
            ("--dir in --pol ipsec", Outcome::No),
            ("--dir in --pol ipsec ! --reqid 1", Outcome::No),
            ("--dir out --pol ipsec --strict --proto esp --next ! --spi 5", Outcome::No),
        ] {
            let facts = Facts { proto: proto::ESP, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m policy {text}"), &facts), expected, "{text}");
        }
    }

    #[test]
    fn a_direction_belongs_to_its_hooks() {
        for hook in Hook::ALL {
            for (dir, denied) in [("in", OUT_ONLY), ("out", IN_ONLY)] {
                let text = format!("-m policy --dir {dir} --pol none");
                let answer = parse_at(Family::V4, hook.bit(), &text);
                assert_eq!(answer.is_ok(), denied & hook.bit() == 0, "{text} in {}", hook.name());
            }
        }
    }

    #[test]
    fn policies_that_cannot_be_written_do_not_verify() {
        let element = Element { spi: Some((false, 1)), ..Element::default() };
        let policy = |strict, elements| Policy { out: false, strict, elements };
        for forged in [
            policy(true, vec![]),
            policy(false, vec![element; 2]),
            policy(true, vec![element; 5]),
            policy(true, vec![Element::default()]),
            policy(false, vec![Element { proto: Some((false, 6)), ..element }]),
            policy(false, vec![Element { src: Some((false, 1, 32)), ..element }]),
            policy(false, vec![Element { src: Some((false, 1, 33)), tunnel: Some((false, true)), ..element }]),
            policy(false, vec![Element { dst: Some((false, 1 << 32, 1)), tunnel: Some((false, true)), ..element }]),
        ] {
            assert!(forged.verify(Family::V4).is_err(), "{forged:?}");
        }
    }
}
