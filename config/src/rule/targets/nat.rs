//! The mapping of a flow, in table `nat`: what SNAT, DNAT, MASQUERADE, REDIRECT and NETMAP have in common. Each has its own file.
//!
//! A mapping is chosen for the first packet of a flow and holds for its life. A range is written
//! `ADDRESS[-ADDRESS][:PORT[-PORT[/BASE]]]`; IPv6 addresses stand in brackets where ports follow.

use super::{Action, Target, dnat, masquerade, netmap, redirect, snat};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{Case, Complaint, Given, Opt, TargetExtension, Word};
use crate::rule::matches::address::{parse_address, print_address, print_network};
use crate::rule::word::{port, split_once};
use crate::rule::{Cond, Effect, Families, Match, Table};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Which mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// New source from the range.
    Snat,
    /// New destination from the range.
    Dnat,
    /// New source: the address of the outgoing port.
    Masquerade,
    /// New destination: the address of the incoming port (PREROUTING), or the loopback address (OUTPUT).
    Redirect,
    /// The network part becomes that of the range: of the destination in PREROUTING and OUTPUT, else of the source.
    Netmap,
}

/// A mapping to be chosen from ranges. Where a range is absent that part stays, unless it clashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nat {
    /// Which.
    pub kind: Kind,
    /// First and last address, inclusive.
    pub addresses: Option<(u128, u128)>,
    /// First and last port (or ICMP identifier), inclusive.
    pub ports: Option<(u16, u16)>,
    /// `--to-destination a:p-q/base`: a port keeps its distance from `base`.
    pub port_base: Option<u16>,
    /// `--random`
    pub random: bool,
    /// `--random-fully`
    pub random_fully: bool,
    /// `--persistent`
    pub persistent: bool,
}

impl Nat {
    /// A mapping of that kind that leaves everything as it is.
    pub const fn new(kind: Kind) -> Nat {
        Nat { kind, addresses: None, ports: None, port_base: None, random: false, random_fully: false, persistent: false }
    }
}

/// A description with what all mappings share filled in.
#[allow(clippy::too_many_arguments, reason = "the fields of a description, by position, for five statics only")]
pub(super) const fn extension(
    name: &'static str,
    hooks: u8,
    options: &'static [Opt],
    build: fn(&Given) -> Result<Target, Complaint>,
    summary: &'static str,
    example: &'static str,
    cases: &'static [Case],
) -> TargetExtension {
    TargetExtension {
        name,
        aliases: &[],
        families: Families::Both,
        protocol: None,
        tables: &[Table::Nat],
        hooks,
        options,
        build,
        summary,
        example,
        cases,
    }
}

/// Protocols whose ports, or ICMP identifiers, iptables lets be mapped to a range; ICMPv6 is not among them.
const WITH_PORTS: [u8; 5] = [proto::TCP, proto::UDP, proto::SCTP, proto::DCCP, proto::ICMP];

const NEEDS_PORTS: &str = "a mapping to ports needs a protocol that has ports";

/// Reads `ADDRESS[-ADDRESS][:PORTS]` into the mapping. `shift` allows `/BASE` behind a range of ports.
pub(super) fn read_range(given: &Given, word: &Word, shift: bool, nat: &mut Nat) -> Result<(), Complaint> {
    let (addresses, ports) = cut(word, given.family)?;
    if let Some(addresses) = addresses {
        let (first, last) = match split_once(&addresses, '-') {
            Some((first, last)) => (parse_address(&first, given.family)?, parse_address(&last, given.family)?),
            None => parse_address(&addresses, given.family).map(|a| (a, a))?,
        };
        if first > last {
            return Err(addresses.complain("the range of addresses runs backwards", "the smaller address first"));
        }
        nat.addresses = Some((first, last));
    }
    if let Some(ports) = ports {
        read_ports(given, &ports, shift, nat)?;
    }
    Ok(())
}

/// Cuts a range into addresses and ports.
fn cut(word: &Word, family: Family) -> Result<(Option<Word>, Option<Word>), Complaint> {
    let text = word.text.as_str();
    let accepts = match family {
        Family::V4 => "ADDRESS[-ADDRESS][:PORT[-PORT]]",
        Family::V6 => "ADDRESS[-ADDRESS], [ADDRESS[-ADDRESS]]:PORT[-PORT], or :PORT[-PORT]",
    };
    let malformed = || word.complain(format!("`{text}` is not a range to map to"), accepts);
    let (addresses, ports) = match (family, text.strip_prefix('[')) {
        (Family::V6, Some(bracketed)) => match bracketed.split_once(']').ok_or_else(malformed)? {
            (addresses, "") => (addresses, None),
            (addresses, rest) => (addresses, Some(rest.strip_prefix(':').ok_or_else(malformed)?)),
        },
        (Family::V6, None) if text.starts_with(':') && !text.starts_with("::") => ("", Some(&text[1..])),
        (Family::V6, None) => (text, None),
        (Family::V4, _) if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
        (Family::V4, _) => match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        },
    };
    if addresses.is_empty() && ports.is_none() {
        return Err(malformed());
    }
    let part = |text: &str| Word { text: text.to_string(), at: word.at.clone() };
    Ok(((!addresses.is_empty()).then(|| part(addresses)), ports.map(part)))
}

/// Reads `PORT[-PORT[/BASE]]` into the mapping.
pub(super) fn read_ports(given: &Given, word: &Word, shift: bool, nat: &mut Nat) -> Result<(), Complaint> {
    let has_ports = matches!(given.protocol, Some((protocol, false)) if WITH_PORTS.contains(&protocol));
    if !has_ports {
        return Err(word.complain(NEEDS_PORTS, "-p tcp, udp, sctp, dccp or icmp in the rule"));
    }
    let (range, base) = match split_once(word, '/') {
        Some((range, base)) if shift => (range, Some(base)),
        Some((_, base)) => return Err(base.complain(format!("`/{}` cannot stand here", base.text), "PORT or PORT-PORT")),
        None => (word.clone(), None),
    };
    // The name of a service may hold a dash.
    let whole = port(&range);
    let (first, last) = match (whole, split_once(&range, '-')) {
        (Ok(one), _) => (one, one),
        (Err(_), Some((first, last))) => (port(&first)?, port(&last)?),
        (Err(complaint), None) => return Err(complaint),
    };
    if first > last {
        return Err(range.complain("the range of ports runs backwards", format!("{last}-{first}")));
    }
    nat.ports = Some((first, last));
    if let Some(base) = base {
        let from = port(&base)?;
        if first == last {
            return Err(base.complain("a single port has no base", "PORT-PORT/BASE"));
        }
        if from == 0 {
            return Err(base.complain("the base of a port shift cannot be 0", "a port from 1 to 65535"));
        }
        nat.port_base = Some(from);
    }
    Ok(())
}

impl Action for Nat {
    #[inline]
    fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Nat(self)
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(match self.kind {
            Kind::Snat => &snat::EXTENSION,
            Kind::Dnat => &dnat::EXTENSION,
            Kind::Masquerade => &masquerade::EXTENSION,
            Kind::Redirect => &redirect::EXTENSION,
            Kind::Netmap => &netmap::EXTENSION,
        })
    }

    fn print(&self, family: Family, out: &mut String) {
        if let (Kind::Netmap, Some((first, last))) = (self.kind, self.addresses) {
            out.push_str(" --to ");
            return print_network(out, family, first, family.ones() & !(first ^ last));
        }
        let option = match self.kind {
            Kind::Snat => " --to-source ",
            Kind::Dnat => " --to-destination ",
            Kind::Masquerade | Kind::Redirect if self.ports.is_some() => " --to-ports ",
            Kind::Masquerade | Kind::Redirect | Kind::Netmap => "",
        };
        out.push_str(option);
        let brackets = family == Family::V6 && self.addresses.is_some() && self.ports.is_some();
        if let Some((first, last)) = self.addresses {
            out.push_str(if brackets { "[" } else { "" });
            print_address(out, family, first);
            if last != first {
                out.push('-');
                print_address(out, family, last);
            }
            out.push_str(if brackets { "]" } else { "" });
        }
        if let Some((first, last)) = self.ports {
            let colon = if matches!(self.kind, Kind::Snat | Kind::Dnat) { ":" } else { "" };
            let _ = write!(out, "{colon}{first}");
            if last != first {
                let _ = write!(out, "-{last}");
            }
            if let Some(base) = self.port_base {
                let _ = write!(out, "/{base}");
            }
        }
        for (set, option) in [(self.random, " --random"), (self.random_fully, " --random-fully"), (self.persistent, " --persistent")] {
            out.push_str(if set { option } else { "" });
        }
    }

    fn misses(&self, conds: &[Cond]) -> Option<&'static str> {
        let with_ports = |cond: &Cond| !cond.negate && matches!(cond.test, Match::Protocol(protocol) if WITH_PORTS.contains(&protocol.0));
        (self.ports.is_some() && !conds.iter().any(with_ports)).then_some(NEEDS_PORTS)
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let given = self.addresses.is_some() || self.ports.is_some();
        let options = match self.kind {
            Kind::Snat => given && self.port_base.is_none(),
            Kind::Dnat => given && !self.random_fully,
            Kind::Masquerade => self.addresses.is_none() && self.port_base.is_none() && !self.persistent,
            Kind::Redirect => self.addresses.is_none() && self.port_base.is_none() && !self.persistent && !self.random_fully,
            Kind::Netmap => {
                let is_network = |(first, last): (u128, u128)| {
                    let host = first ^ last;
                    first & host == 0 && host & host.wrapping_add(1) == 0
                };
                let bare = Nat { addresses: self.addresses, ..Nat::new(Kind::Netmap) };
                *self == bare && self.addresses.is_some_and(is_network)
            }
        };
        let addresses = self.addresses.is_none_or(|(first, last)| first <= last && last <= family.ones());
        let ports = self.ports.is_none_or(|(first, last)| first <= last);
        let base = self.port_base.is_none_or(|base| base != 0 && self.ports.is_some_and(|(first, last)| first < last));
        if options && addresses && ports && base { Ok(()) } else { Err(format!("a {:?} mapping that cannot be", self.kind)) }
    }
}
