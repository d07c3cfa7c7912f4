//! `-m multiport`: lists of ports (`xt_multiport.c`), up to 15 with a range counting two.
//!
//! For TCP, UDP, UDP-Lite, SCTP and DCCP, which all begin with the two ports: only these four bytes are asked for, so a
//! header cut short behind them still matches. Without them the packet is dropped; a later fragment never matches.
//! `--ports` holds where either port is listed. The list is kept as written; one `-m multiport` has one list.
//!
//! TOML: `{ protocol = "tcp", dports = ["ssh", 80, "8000:8099"], jump = "ACCEPT" }`

use super::ports::Ports;
use super::{Asks, Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Most ports in a list, a range counting two.
pub const MAX: usize = 15;

/// Which ports are looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Side {
    /// `--sports`
    Source,
    /// `--dports`
    Destination,
    /// `--ports`
    Either,
}

/// A list of ports and ranges.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Multiport {
    /// Which of the packet's ports.
    pub side: Side,
    /// In the order written; a single port has equal ends.
    pub list: Box<[Ports]>,
}

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "multiport",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("sports", &["source-ports"]).about("PORT[,PORT|,PORT:PORT...]", "the source port is one of these"),
        Opt::negatable("dports", &["destination-ports"]).about("PORT[,PORT|,PORT:PORT...]", "the destination port is one of these"),
        Opt::negatable("ports", &["port"]).about("PORT[,PORT|,PORT:PORT...]", "either port is one of these"),
    ],
    build,
    summary: "lists of ports",
    example: r#"{ protocol = "tcp", dports = ["ssh", 80, "8000:8099"], jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-p tcp -m multiport --dports 1,2,3", "="),
        Case::Prints(
            Family::V4,
            "-p tcp -m multiport --dports 1,22:23,ssh,0x50",
            "-p tcp -m multiport --dports 1,22:23,22,80",
        ),
        Case::Prints(Family::V6, "-p tcp -m multiport ! --source-ports 1", "-p tcp -m multiport ! --sports 1"),
        Case::Prints(Family::V4, "-p udp -m multiport ! --sports 53,67:68", "="),
        Case::Refused(Family::V6, "-p udp -m multiport --sports 65536", "`65536` is not a port"),
        Case::Prints(Family::V4, "-p sctp -m multiport --port 1", "-p sctp -m multiport --ports 1"),
        Case::Prints(Family::V4, "-p dccp -m multiport --dports 0:65535", "="),
        Case::Prints(Family::V4, "-p udplite -m multiport --ports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15", "="),
        Case::Refused(
            Family::V4,
            "-p tcp -m multiport --ports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15:16",
            "16 ports in a list",
        ),
        Case::Refused(Family::V4, "-p tcp -m multiport --ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "16 ports"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports 23:22", "runs backwards"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports 3:3", "`3:3` is one port"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports 22:ssh", "`22:ssh` is one port"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports :5", "`:5` lacks an end"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports 1,,2", "`` is not a port"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports htpp", "`htpp` is not a port or a service"),
        Case::Refused(Family::V4, "-p tcp -m multiport", "one of --sports"),
        Case::Refused(Family::V4, "-p tcp -m multiport --dports 1 --sports 2", "two lists"),
        Case::Refused(Family::V4, "-p icmp -m multiport --dports 1", "has no ports"),
        Case::Refused(Family::V4, "! -p tcp -m multiport --dports 1", "`! -p tcp`"),
        Case::Refused(Family::V4, "-m multiport --dports 1", "-p"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    const ACCEPTED: [u8; 5] = [proto::TCP, proto::UDP, proto::UDPLITE, proto::SCTP, proto::DCCP];
    let protocols = Some("`-p tcp`, udp, udplite, sctp or dccp".to_string());
    let refuse = |what: String| Complaint { accepts: protocols, ..given.complain(what) };
    match given.protocol {
        None => return Err(refuse("multiport asks for a protocol with -p".to_string())),
        Some((number, negated)) => {
            let mut name = String::new();
            super::protocol::print_protocol(&mut name, number);
            if negated {
                return Err(refuse(format!("multiport with `! -p {name}`, which may be a protocol without ports")));
            }
            if !ACCEPTED.contains(&number) {
                return Err(refuse(format!("{name} has no ports for multiport")));
            }
        }
    }
    let option = match given.options {
        [one] => one,
        [] => return Err(given.complain("multiport asks for one of --sports, --dports or --ports")),
        [_, second, ..] => {
            return Err(second.word.complain("two lists in one multiport", "one, and `-m multiport` again for another"));
        }
    };
    let side = [Side::Source, Side::Destination, Side::Either][option.option];
    let list = parse_list(&option.values[0])?;
    Ok(vec![Cond::new(option.negate, Match::Multiport(Multiport { side, list }))])
}

fn parse_list(word: &Word) -> Result<Box<[Ports]>, Complaint> {
    let list = word::split(word, ',').iter().map(parse_item).collect::<Result<Box<[Ports]>, _>>()?;
    match slots(&list) {
        n if n > MAX => Err(word.complain(
            format!("{n} ports in a list, a range counting two"),
            format!("at most {MAX}; a second rule for the others"),
        )),
        _ => Ok(list),
    }
}

fn parse_item(word: &Word) -> Result<Ports, Complaint> {
    let accepts = "a port, or a range FIRST:LAST with both ends written";
    match word::split_once(word, ':') {
        Some((a, b)) if a.text.is_empty() || b.text.is_empty() => {
            return Err(word.complain(format!("`{}` lacks an end", word.text), accepts));
        }
        _ => {}
    }
    let (first, last) = word::port_range(word, ':')?;
    if first == last && word.text.contains(':') {
        return Err(word.complain(format!("`{}` is one port written as a range", word.text), format!("`{first}`")));
    }
    Ok(Ports { first, last })
}

/// How many of the kernel's 15 places a list takes.
fn slots(list: &[Ports]) -> usize {
    list.iter().map(|p| if p.first == p.last { 1 } else { 2 }).sum()
}

/// The packet's two ports, also where the rest of its L4 header is cut off.
#[inline]
fn ports_of(facts: &Facts, l3: &[u8]) -> Option<(u16, u16)> {
    if facts.has_l4 {
        return Some((facts.sport, facts.dport));
    }
    let header = l3.get(facts.l4_off as usize..)?;
    let (&[a, b, c, d], _) = header.split_first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

impl Condition for Multiport {
    #[inline]
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        if facts.is_later_fragment() {
            return Outcome::Never;
        }
        let Some((sport, dport)) = ports_of(facts, cx.l3) else { return Outcome::Hotdrop };
        let listed = |port| self.list.iter().any(|p| p.has(port));
        yes(match self.side {
            Side::Source => listed(sport),
            Side::Destination => listed(dport),
            Side::Either => listed(sport) || listed(dport),
        })
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let option = match self.side {
            Side::Source => "sports",
            Side::Destination => "dports",
            Side::Either => "ports",
        };
        let _ = write!(out, "{} --{option} ", not(negate));
        for (i, ports) in self.list.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{}", ports.first);
            if ports.first != ports.last {
                let _ = write!(out, ":{}", ports.last);
            }
        }
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match slots(&self.list) {
            1..=MAX => self.list.iter().try_for_each(|p| p.verify()),
            n => Err(format!("a multiport list of {n} ports")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Judge, l4, outcome};
    use super::*;
    use Outcome::{Hotdrop, Never, No, Yes};

    #[test]
    fn listed_ports_hit_on_their_side() {
        for (text, sport, dport, expected) in [
            ("--dports 22,80,8000:8099", 1, 80, Yes),
            ("--dports 22,80,8000:8099", 1, 8000, Yes),
            ("--dports 22,80,8000:8099", 1, 8099, Yes),
            ("--dports 22,80,8000:8099", 80, 8100, No),
            ("! --dports 22,80", 80, 23, Yes),
            ("! --dports 22,80", 80, 22, No),
            ("--sports 22", 22, 1, Yes),
            ("--sports 22", 1, 22, No),
            ("--ports 22", 1, 22, Yes),
            ("--ports 22", 22, 1, Yes),
            ("--ports 22", 1, 1, No),
            ("! --ports 22", 1, 22, No),
        ] {
            let facts = l4(Family::V4, proto::TCP, sport, dport);
            assert_eq!(outcome(&format!("-p tcp -m multiport {text}"), &facts), expected, "{text} {sport} {dport}");
        }
    }

    #[test]
    fn four_bytes_of_header_are_enough_and_fewer_drop() {
        let judge = Judge::new(Family::V4, "-p tcp -m multiport --dports 22");
        let mut l3 = [0; 24];
        l3[23] = 22;
        let facts = Facts { proto: proto::TCP, ..Facts::blank(Family::V4) };
        assert_eq!(judge.ask(&facts, &l3), Yes);
        assert_eq!(judge.ask(&facts, &l3[..23]), Hotdrop);
        assert_eq!(judge.ask(&Facts { frag_off: 8, ..facts }, &l3), Never);
    }

    #[test]
    fn lists_that_the_parser_could_not_make_do_not_verify() {
        let list = |n: usize| Multiport { side: Side::Either, list: vec![Ports { first: 1, last: 2 }; n].into() };
        assert!(list(0).verify(Family::V4).is_err());
        assert!(list(7).verify(Family::V4).is_ok());
        assert!(list(8).verify(Family::V4).is_err());
        let backwards = Multiport { side: Side::Source, list: [Ports { first: 2, last: 1 }].into() };
        assert!(backwards.verify(Family::V6).is_err());
    }
}
