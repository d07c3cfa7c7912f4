//! `-m addrtype`: what kind of address source and destination are to this router (`xt_addrtype.c`).
//!
//! IPv4 asks the local table: an address is LOCAL, BROADCAST, MULTICAST or else UNICAST, and must be of one of the types
//! listed. IPv6 differs, as in the kernel: UNSPEC, UNICAST and MULTICAST are read off the address and must all be so,
//! then one of LOCAL, ANYCAST and UNREACHABLE, if any is listed, must be what the routes say.
//! `--limit-iface-in` and `-out` ask only about the addresses of that interface; so they belong where there is one.
//!
//! TOML: `{ dst-type = "LOCAL", jump = "ACCEPT" }`

use super::{Asks, Condition, Match, not, yes};
use crate::facts::{AddrType, Context, Facts, Family, PortId};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, GivenOption, MatchExtension, Opt};
use crate::rule::{Cond, Families, Hook, Outcome, word};
use serde::{Deserialize, Serialize};

/// Types asked of one address. The negation stands here and not in the condition, since both sides are one condition:
/// the limit is printed once, behind both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Types {
    /// A bit for each type, by its number.
    pub mask: u16,
    /// A `!` stood before it.
    pub negate: bool,
}

/// Which addresses of the router count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Of {
    /// Those of all interfaces.
    All,
    /// `--limit-iface-in`
    Incoming,
    /// `--limit-iface-out`
    Outgoing,
}

/// The condition: at least one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Addrtype {
    /// `--src-type`
    pub source: Option<Types>,
    /// `--dst-type`
    pub destination: Option<Types>,
    /// The limit.
    pub of: Of,
}

/// Names by their bit. The last three the kernel knows and never finds.
const NAMES: [(&str, u16); 12] = [
    ("UNSPEC", 1 << 0),
    ("UNICAST", 1 << 1),
    ("LOCAL", 1 << 2),
    ("BROADCAST", 1 << 3),
    ("ANYCAST", 1 << 4),
    ("MULTICAST", 1 << 5),
    ("BLACKHOLE", 1 << 6),
    ("UNREACHABLE", 1 << 7),
    ("PROHIBIT", 1 << 8),
    ("THROW", 1 << 9),
    ("NAT", 1 << 10),
    ("XRESOLVE", 1 << 11),
];
const KNOWN: u16 = (1 << 12) - 1;
const UNSPEC: u16 = 1 << 0;
const UNICAST: u16 = 1 << 1;
const LOCAL: u16 = 1 << 2;
const ANYCAST: u16 = 1 << 4;
const MULTICAST: u16 = 1 << 5;
const UNREACHABLE: u16 = 1 << 7;
/// What IPv6 knows.
const IPV6: u16 = UNSPEC | UNICAST | LOCAL | ANYCAST | MULTICAST | UNREACHABLE;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "addrtype",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("src-type", &[]).about("TYPE[,TYPE...]", "the type of the source address"),
        Opt::negatable("dst-type", &[]).about("TYPE[,TYPE...]", "the type of the destination address"),
        Opt::flag("limit-iface-in", &[]).about("", "only addresses of the interface that it came in on count"),
        Opt::flag("limit-iface-out", &[]).about("", "only addresses of the interface that it leaves by count"),
    ],
    build,
    summary: "what kind of address source and destination are to this router",
    example: r#"{ dst-type = "LOCAL", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m addrtype --src-type LOCAL", "="),
        Case::Prints(Family::V4, "-m addrtype --dst-type broadcast,LOCAL", "-m addrtype --dst-type LOCAL,BROADCAST"),
        Case::Prints(Family::V6, "-m addrtype ! --src-type UNICAST --dst-type MULTICAST", "="),
        Case::Prints(
            Family::V4,
            "-m addrtype --src-type UNSPEC,UNICAST,LOCAL,BROADCAST,ANYCAST,MULTICAST,BLACKHOLE,UNREACHABLE,PROHIBIT,THROW,NAT,XRESOLVE",
            "=",
        ),
        Case::Prints(
            Family::V6,
            "-m addrtype --src-type UNREACHABLE,ANYCAST,UNSPEC,MULTICAST",
            "-m addrtype --src-type UNSPEC,ANYCAST,MULTICAST,UNREACHABLE",
        ),
        Case::Refused(Family::V4, "-m addrtype --src-type LOACL", "`LOACL` is not an address type"),
        Case::Prints(Family::V4, "-m addrtype --src-type LOC", "-m addrtype --src-type LOCAL"),
        Case::Refused(Family::V4, "-m addrtype --src-type UN", "`UN` may be `UNSPEC`"),
        Case::Refused(Family::V4, "-m addrtype --src-type LOCAL,", "`` is not an address type"),
        Case::Refused(Family::V4, "-m addrtype", "--src-type"),
        Case::Refused(Family::V6, "-m addrtype --src-type BROADCAST", "BROADCAST"),
        Case::Refused(Family::V6, "-m addrtype --dst-type LOCAL,PROHIBIT", "PROHIBIT"),
        Case::Prints(Family::V4, "-m addrtype --dst-type LOCAL --limit-iface-in", "="),
        Case::Prints(Family::V6, "-m addrtype ! --src-type UNICAST --dst-type LOCAL --limit-iface-out", "="),
        Case::Refused(Family::V4, "-m addrtype --dst-type LOCAL --limit-iface-in --limit-iface-out", "both limits"),
        Case::Refused(Family::V4, "-m addrtype --limit-iface-in", "--src-type"),
        Case::Refused(Family::V4, "-m addrtype --dst-type LOCAL ! --limit-iface-out", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let side = |option| given.get(option).map(|option| parse_types(option, given.family)).transpose();
    let (source, destination) = (side(0)?, side(1)?);
    if source.is_none() && destination.is_none() {
        return Err(given.complain("addrtype asks for --src-type or --dst-type"));
    }
    let of = match (given.get(2), given.get(3)) {
        (None, None) => Of::All,
        (Some(_), Some(second)) => {
            return Err(second.word.complain("both limits in one addrtype", "one of --limit-iface-in and --limit-iface-out"));
        }
        (Some(option), None) => limit(given, option, Of::Incoming, [Hook::Output, Hook::Postrouting])?,
        (None, Some(option)) => limit(given, option, Of::Outgoing, [Hook::Prerouting, Hook::Input])?,
    };
    Ok(vec![Cond::new(false, Match::Addrtype(Addrtype { source, destination, of }))])
}

fn parse_types(option: &GivenOption, family: Family) -> Result<Types, Complaint> {
    let word = &option.values[0];
    let bits = word::abbreviated_list(word, "an address type", &NAMES)?;
    if family == Family::V6
        && let Some(stranger) = bits.iter().position(|bit| bit & !IPV6 != 0)
    {
        let part = &word::split(word, ',')[stranger];
        let names = NAMES.iter().filter(|(_, bit)| bit & IPV6 != 0).map(|&(name, _)| name);
        return Err(part.complain(format!("no IPv6 address is of type {}", part.text), word::either(names)));
    }
    let mask = bits.into_iter().fold(0, |mask, bit| mask | bit);
    Ok(Types { mask, negate: option.negate })
}

fn limit(given: &Given, option: &GivenOption, of: Of, without: [Hook; 2]) -> Result<Of, Complaint> {
    match without.iter().find(|hook| given.hooks & hook.bit() != 0) {
        None => Ok(of),
        Some(hook) => Err(option.word.complain(
            format!("`{}` in {}, where there is no such interface", option.word.text, hook.name()),
            match of {
                Of::Outgoing => "FORWARD, OUTPUT or POSTROUTING, or chains that only these lead to",
                _ => "PREROUTING, INPUT or FORWARD, or chains that only these lead to",
            },
        )),
    }
}

impl Types {
    #[inline]
    fn hit(self, family: Family, addr: u128, port: PortId, cx: &Context) -> bool {
        let hit = match family {
            Family::V4 => self.mask >> cx.around.addr_type(family, addr, port) as u16 & 1 != 0,
            Family::V6 => self.hit6(addr, port, cx),
        };
        hit != self.negate
    }

    fn hit6(self, addr: u128, port: PortId, cx: &Context) -> bool {
        let multicast = addr >> 120 == 0xff;
        let mapped = addr >> 32 == 0xffff;
        let unspecified = addr == 0;
        if self.mask & MULTICAST != 0 && !multicast
            || self.mask & UNICAST != 0 && (multicast || mapped || unspecified)
            || self.mask & UNSPEC != 0 && !unspecified
        {
            return false;
        }
        if self.mask & (LOCAL | ANYCAST | UNREACHABLE) == 0 {
            return true;
        }
        let found = match cx.around.addr_type(Family::V6, addr, port) {
            AddrType::Local => LOCAL,
            AddrType::Anycast => ANYCAST,
            AddrType::Unspec | AddrType::Blackhole | AddrType::Unreachable | AddrType::Prohibit => UNREACHABLE,
            AddrType::Unicast | AddrType::Broadcast | AddrType::Multicast => 0,
        };
        self.mask & found != 0
    }

    fn print(self, option: &str, out: &mut String) {
        out.push_str(not(self.negate));
        out.push_str(option);
        let set = NAMES.iter().filter(|(_, bit)| self.mask & bit != 0);
        for (i, (name, _)) in set.enumerate() {
            out.push(if i > 0 { ',' } else { ' ' });
            out.push_str(name);
        }
    }
}

impl Condition for Addrtype {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        let port = match self.of {
            Of::All => PortId::NONE,
            Of::Incoming => facts.iif,
            Of::Outgoing => facts.oif,
        };
        let hit = |types: Option<Types>, addr| types.is_none_or(|types| types.hit(facts.family, addr, port, cx));
        yes(hit(self.source, facts.src) && hit(self.destination, facts.dst))
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        if let Some(types) = self.source {
            types.print(" --src-type", out);
        }
        if let Some(types) = self.destination {
            types.print(" --dst-type", out);
        }
        match self.of {
            Of::All => {}
            Of::Incoming => out.push_str(" --limit-iface-in"),
            Of::Outgoing => out.push_str(" --limit-iface-out"),
        }
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let known = if family == Family::V6 { IPV6 } else { KNOWN };
        let mut sides = [self.source, self.destination].into_iter().flatten().peekable();
        if sides.peek().is_none() {
            return Err("addrtype of no address".to_string());
        }
        if sides.any(|types| types.mask == 0 || types.mask & !known != 0) {
            return Err("unknown address types".to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, parse_at, print};
    use super::*;
    use Outcome::{No, Yes};

    fn ask(family: Family, text: &str, addr: u128, addr_type: fn(u128, PortId) -> AddrType) -> Outcome {
        let mut judge = Judge::new(family, &format!("-m addrtype {text}"));
        judge.addr_type = addr_type;
        judge.ask(&Facts { src: addr, dst: 99, iif: PortId(1), oif: PortId(2), ..Facts::blank(family) }, &[])
    }

    #[test]
    fn ipv4_addresses_are_of_one_of_the_types() {
        let types: fn(u128, PortId) -> AddrType = |addr, _| match addr {
            1 => AddrType::Local,
            2 => AddrType::Broadcast,
            _ => AddrType::Unicast,
        };
        for (text, addr, expected) in [
            ("--src-type LOCAL", 1, Yes),
            ("--src-type LOCAL", 2, No),
            ("--src-type LOCAL,BROADCAST", 2, Yes),
            ("! --src-type LOCAL", 2, Yes),
            ("! --src-type LOCAL", 1, No),
            ("--src-type LOCAL --dst-type UNICAST", 1, Yes),
            ("--src-type LOCAL ! --dst-type UNICAST", 1, No),
            ("--dst-type UNICAST", 1, Yes),
            ("--src-type THROW,NAT,XRESOLVE", 1, No),
        ] {
            assert_eq!(ask(Family::V4, text, addr, types), expected, "{text} {addr}");
        }
    }

    #[test]
    fn ipv6_types_read_off_the_address_must_all_be_so() {
        let group = 0xff02_u128 << 112 | 1;
        let unicast = 0x2001_0db8_u128 << 96 | 1;
        let mapped = 0xffff_0a00_0001;
        for (text, addr, found, expected) in [
            ("--src-type MULTICAST", group, AddrType::Multicast, Yes),
            ("--src-type MULTICAST", unicast, AddrType::Unicast, No),
            ("--src-type MULTICAST,UNICAST", group, AddrType::Multicast, No),
            ("--src-type UNICAST", unicast, AddrType::Unicast, Yes),
            ("--src-type UNICAST", unicast, AddrType::Local, Yes),
            ("--src-type UNICAST", mapped, AddrType::Unicast, No),
            ("--src-type UNICAST", 0, AddrType::Unspec, No),
            ("--src-type UNSPEC", 0, AddrType::Unspec, Yes),
            ("--src-type UNICAST,LOCAL", unicast, AddrType::Unicast, No),
            ("--src-type UNICAST,LOCAL", unicast, AddrType::Local, Yes),
            ("! --src-type UNICAST,LOCAL", unicast, AddrType::Unicast, Yes),
            ("--src-type LOCAL", unicast, AddrType::Local, Yes),
            ("--src-type LOCAL,ANYCAST", unicast, AddrType::Anycast, Yes),
            ("--src-type UNREACHABLE", unicast, AddrType::Prohibit, Yes),
            ("--src-type UNREACHABLE", unicast, AddrType::Unspec, Yes),
            ("--src-type UNREACHABLE", unicast, AddrType::Unicast, No),
        ] {
            let types: fn(u128, PortId) -> AddrType = match found {
                AddrType::Local => |_, _| AddrType::Local,
                AddrType::Anycast => |_, _| AddrType::Anycast,
                AddrType::Multicast => |_, _| AddrType::Multicast,
                AddrType::Prohibit => |_, _| AddrType::Prohibit,
                AddrType::Unspec => |_, _| AddrType::Unspec,
                _ => |_, _| AddrType::Unicast,
            };
            assert_eq!(ask(Family::V6, text, addr, types), expected, "{text} {addr:x} {found:?}");
        }
    }

    #[test]
    fn a_limit_asks_about_one_interface_and_belongs_where_it_is() {
        for (text, hooks, port) in [
            ("-m addrtype --src-type LOCAL", 0b11111, PortId::NONE),
            ("-m addrtype --src-type LOCAL --limit-iface-in", 0b00111, PortId(1)),
            ("-m addrtype --src-type UNICAST ! --dst-type LOCAL --limit-iface-out", 0b11100, PortId(2)),
        ] {
            let conds = parse_at(Family::V4, hooks, text).unwrap();
            assert_eq!(print(Family::V4, conds.clone()), text);
            let mut judge = Judge::new(Family::V4, "");
            judge.addr_type = |_, port| match port {
                PortId::NONE => AddrType::Unspec,
                PortId(1) => AddrType::Local,
                _ => AddrType::Unicast,
            };
            let cx = Context { l3: &[], now: 0, wall: 0, around: &judge, cells: &[] };
            let facts = Facts { iif: PortId(1), oif: PortId(2), ..Facts::blank(Family::V4) };
            assert_eq!(conds[0].holds(&facts, &cx), yes(port != PortId::NONE), "{text}");
        }
        for (text, hook) in [("--limit-iface-in", Hook::Postrouting), ("--limit-iface-out", Hook::Input)] {
            let text = format!("-m addrtype --src-type LOCAL {text}");
            let complaint = parse_at(Family::V4, hook.bit() | Hook::Forward.bit(), &text).unwrap_err();
            assert!(complaint.what.contains(hook.name()), "{}", complaint.what);
        }
    }

    #[test]
    fn types_that_the_family_does_not_have_do_not_verify() {
        let types = |mask| Addrtype { source: Some(Types { mask, negate: false }), destination: None, of: Of::All };
        assert!(types(0).verify(Family::V4).is_err() && types(1 << 12).verify(Family::V4).is_err());
        assert!(types(1 << 3).verify(Family::V4).is_ok() && types(1 << 3).verify(Family::V6).is_err());
        assert!(Addrtype { source: None, ..types(1) }.verify(Family::V4).is_err());
    }
}
