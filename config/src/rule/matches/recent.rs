//! `-m recent`: whether an address was seen lately, and remembering that it is (`xt_recent.c`).
//!
//! A list is known by its name, to rules of both families and all tables. It remembers `ip_list_tot` addresses, each with
//! the times of its last packets (a power of two, as many as the largest `--hitcount` of its rules asks for, or
//! `ip_pkt_list_tot`; 32 where nobody asks) and the TTL of the last one. An address too many drives out the one that was
//! seen longest ago.
//!
//! As in the kernel: the mask of a list is that of its first rule, whatever others say; a list that has an IPv4 mask applies
//! it to the first 32 bits of IPv6 addresses. Times are jiffies of 4 ms, and an address still counts at exactly
//! `--seconds`. `--reap` throws out the address seen longest ago, if it is older than that. The TTL is the one that the
//! packet came with. `--update` remembers the packet where the rule says yes, negated or not. Where the kernel's 32 bits of
//! jiffies overflow (198 days of `--seconds`), this counts on.
//!
//! TOML: `{ in = "wan0", protocol = "tcp", dport = 22, update = true, seconds = 60, hitcount = 4, name = "ssh", target = "DROP" }`

use super::address::{parse_address, print_address};
use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family, PortId};
use crate::model::Sysctl;
use crate::object::{self, Kind, Object, Shared};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::word::number;
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One `-m recent`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recent {
    /// What is asked of the list.
    pub ask: Ask,
    /// Of which.
    pub list: Box<Named>,
    /// The number of the list.
    pub object: u32,
}

/// What a rule asks of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// What is done.
    pub what: What,
    /// A `!` stood before that.
    pub invert: bool,
    /// Only packets of so many seconds count; 0: all that are remembered.
    pub seconds: u32,
    /// So many packets must count; 0: one.
    pub hits: u32,
    /// The packet must have the TTL that is remembered.
    pub ttl: bool,
    /// The address seen longest ago goes, if it is older than `seconds`.
    pub reap: bool,
    /// The destination address, not the source.
    pub destination: bool,
}

/// What is done with the packet's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum What {
    /// Remembered.
    Set,
    /// Looked for.
    Check,
    /// Looked for, and remembered once more where the rule says yes.
    Update,
    /// Forgotten.
    Remove,
}

/// A list as a rule names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What the rule prints, of the width of its family.
    pub mask: u128,
    /// What the rule wants it to be.
    pub list: List,
}

/// How a list has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct List {
    /// Most addresses.
    pub addresses: u32,
    /// Packets of an address that are remembered: a power of two.
    pub packets: u32,
    /// Bits of an address that count, of 128: those of an IPv4 address are the first 32.
    pub mask: u128,
}

/// Sizes of lists, by the names of the kernel module's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// `ip_list_tot`
    pub addresses: u32,
    /// `ip_pkt_list_tot`; 0 where the rules decide.
    pub packets: u32,
}

/// An address in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Its family.
    pub family: Family,
    /// The address.
    pub addr: u128,
    /// The packet's TTL or hop limit, as it came in.
    pub ttl: u8,
}

/// Most addresses of a list.
pub const MAX_ADDRESSES: u32 = 1 << 20;
/// Most packets of an address that `--hitcount` and `ip_pkt_list_tot` may ask for.
pub const MAX_PACKETS: u32 = u16::MAX as u32;
/// Packets that are remembered where nobody says how many.
const PACKETS: u32 = 32;
/// Most bytes of a name.
pub const MAX_NAME: usize = 199;

const NAMES: [(&str, What); 4] =
    [("set", What::Set), ("rcheck", What::Check), ("update", What::Update), ("remove", What::Remove)];
const SECONDS: usize = 4;
const REAP: usize = 5;
const HITCOUNT: usize = 6;
const RTTL: usize = 7;
const NAME: usize = 8;
const MASK: usize = 9;
const RSOURCE: usize = 10;
const RDEST: usize = 11;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "recent",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable_flag("set", &[]).about("", "remembers the address; always holds"),
        Opt::negatable_flag("rcheck", &[]).about("", "holds where the address is remembered"),
        Opt::negatable_flag("update", &[]).about("", "the same, and remembers it once more where it holds"),
        Opt::negatable_flag("remove", &[]).about("", "the same, and forgets it"),
        Opt::plain("seconds", &[]).about("SECONDS", "only packets of so many seconds count"),
        Opt::flag("reap", &[]).about("", "forgets the address seen longest ago if it is older than --seconds"),
        Opt::plain("hitcount", &[]).about("PACKETS", "so many packets must count"),
        Opt::flag("rttl", &[]).about("", "the packet must have the TTL that is remembered"),
        Opt::plain("name", &[]).about("NAME", "of the list; DEFAULT where none"),
        Opt::plain("mask", &[]).about("NETMASK", "bits of the address that count"),
        Opt::flag("rsource", &[]).about("", "the source address, as without it"),
        Opt::flag("rdest", &[]).about("", "the destination address"),
    ],
    build,
    summary: "whether an address was seen lately, and remembering that it is",
    example: r#"{ protocol = "tcp", syn = true, update = true, seconds = 60, hitcount = 4, name = "ssh", target = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m recent --set", "-m recent --set --name DEFAULT --mask 255.255.255.255 --rsource"),
        Case::Prints(Family::V4, "-m recent ! --set --rsource", "-m recent ! --set --name DEFAULT --mask 255.255.255.255 --rsource"),
        Case::Prints(
            Family::V6,
            "-m recent --set --name six",
            "-m recent --set --name six --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource",
        ),
        Case::Prints(
            Family::V4,
            "-m recent --rcheck --rdest --rttl --reap --hitcount 4 --seconds 60 --name ssh",
            "-m recent --rcheck --seconds 60 --reap --hitcount 4 --rttl --name ssh --mask 255.255.255.255 --rdest",
        ),
        Case::Prints(
            Family::V4,
            "-m recent ! --rcheck --hitcount 4",
            "-m recent ! --rcheck --hitcount 4 --name DEFAULT --mask 255.255.255.255 --rsource",
        ),
        Case::Prints(
            Family::V4,
            "-m recent --update --seconds 0x10",
            "-m recent --update --seconds 16 --name DEFAULT --mask 255.255.255.255 --rsource",
        ),
        Case::Prints(
            Family::V4,
            "-m recent ! --update --seconds 5 --reap --rttl",
            "-m recent ! --update --seconds 5 --reap --rttl --name DEFAULT --mask 255.255.255.255 --rsource",
        ),
        Case::Prints(
            Family::V4,
            "-m recent --update --hitcount 0",
            "-m recent --update --name DEFAULT --mask 255.255.255.255 --rsource",
        ),
        Case::Prints(
            Family::V4,
            "-m recent --rcheck --hitcount 65535 --seconds 2147483647",
            "-m recent --rcheck --seconds 2147483647 --hitcount 65535 --name DEFAULT --mask 255.255.255.255 --rsource",
        ),
        Case::Prints(
            Family::V4,
            "-m recent --remove --mask 255.255.255.0",
            "-m recent --remove --name DEFAULT --mask 255.255.255.0 --rsource",
        ),
        Case::Prints(Family::V4, "-m recent ! --remove --name a..b --mask 0.0.0.0 --rsource", "="),
        Case::Prints(Family::V4, "-m recent --set --name x --mask 255.0.255.0 --rdest", "="),
        Case::Prints(Family::V6, "-m recent --rcheck --name x --mask ffff:ffff:: --rdest", "="),
        Case::Prints(
            Family::V4,
            "-m recent --rcheck --rsource --rdest",
            "-m recent --rcheck --name DEFAULT --mask 255.255.255.255 --rdest",
        ),
        Case::Prints(
            Family::V4,
            "-m recent --rcheck --rdest --rsource",
            "-m recent --rcheck --name DEFAULT --mask 255.255.255.255 --rsource",
        ),
        Case::Refused(Family::V4, "-m recent", "asks for --set, --rcheck, --update or --remove"),
        Case::Refused(Family::V4, "-m recent --name x", "asks for --set"),
        Case::Refused(Family::V4, "-m recent --seconds 4", "asks for --set"),
        Case::Refused(Family::V4, "-m recent --rcheck --update", "`--update` cannot stand with `--rcheck`"),
        Case::Refused(Family::V4, "-m recent --set --remove", "`--remove` cannot stand with `--set`"),
        Case::Refused(Family::V4, "-m recent --set --seconds 5", "`--seconds` cannot stand with `--set`"),
        Case::Refused(Family::V4, "-m recent --set --rttl", "`--rttl` cannot stand with `--set`"),
        Case::Refused(Family::V4, "-m recent --remove --hitcount 3", "`--hitcount` cannot stand with `--remove`"),
        Case::Refused(Family::V4, "-m recent --rcheck --reap", "`--reap` asks for --seconds"),
        Case::Refused(Family::V4, "-m recent --rcheck --seconds 0", "`0` is not a number of seconds"),
        Case::Refused(Family::V4, "-m recent --rcheck --seconds 2147483648", "`2147483648` is not a number of seconds"),
        Case::Refused(Family::V4, "-m recent --rcheck --seconds 1m", "`1m` is not a number of seconds"),
        Case::Refused(Family::V4, "-m recent --rcheck ! --seconds 4", "`--seconds` cannot be negated"),
        Case::Refused(Family::V4, "-m recent --rcheck --hitcount 65536", "`65536` is not a number of packets"),
        Case::Refused(Family::V4, "-m recent --rcheck --hitcount -1", "`-1` is not a number of packets"),
        Case::Refused(Family::V4, "-m recent --rcheck --name a/b", "`a/b` is not a name"),
        Case::Refused(Family::V4, "-m recent --rcheck --name ..", "`..` is not a name"),
        Case::Refused(Family::V4, "-m recent --rcheck --mask ffff::", "`ffff::`"),
        Case::Refused(Family::V6, "-m recent --rcheck --mask 255.0.0.0", "`255.0.0.0`"),
        Case::Refused(Family::V4, "-m recent --rcheck --rdest --rdest", "given twice"),
        Case::Refused(Family::V4, "-m recent --rcheck ! --rsource", "cannot be negated"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut asked = given.options.iter().filter(|o| o.option < NAMES.len());
    let Some(command) = asked.next() else {
        return Err(given.complain("recent asks for --set, --rcheck, --update or --remove"));
    };
    let what = NAMES[command.option].1;
    let unfit = given.options.iter().find(|o| match o.option {
        SECONDS | REAP | HITCOUNT | RTTL => matches!(what, What::Set | What::Remove),
        _ => false,
    });
    if let Some(other) = asked.next().or(unfit) {
        let found = format!("`{}` cannot stand with `{}`", other.word.text, command.word.text);
        return Err(other.word.complain(found, "one of the two"));
    }
    let count = |option, what: &str, range| match given.value(option) {
        Some(word) => number(word, what, range).map(|n| n as u32),
        None => Ok(0),
    };
    let seconds = count(SECONDS, "a number of seconds", 1..=i32::MAX as u64)?;
    let hits = count(HITCOUNT, "a number of packets", 0..=MAX_PACKETS.into())?;
    if let Some(reap) = given.get(REAP).filter(|_| seconds == 0) {
        return Err(reap.word.complain("`--reap` asks for --seconds", "--seconds with it"));
    }
    let side = given.options.iter().rfind(|o| matches!(o.option, RSOURCE | RDEST));
    let ask = Ask {
        what,
        invert: command.negate,
        seconds,
        hits,
        ttl: given.get(RTTL).is_some(),
        reap: given.get(REAP).is_some(),
        destination: side.is_some_and(|side| side.option == RDEST),
    };
    let name = given.value(NAME).map_or(Ok("DEFAULT".to_string()), |word| object::read_name(word, MAX_NAME))?;
    let mask = given.value(MASK).map_or(Ok(given.family.ones()), |word| parse_address(word, given.family))?;
    let list = List {
        addresses: given.names.recent.addresses,
        packets: given.names.recent.packets(hits),
        mask: wide(given.family, mask) | !wide(given.family, given.family.ones()),
    };
    let list = Box::new(Named { name, mask, list });
    Ok(vec![Cond::new(false, Match::Recent(Recent { ask, list, object: 0 }))])
}

/// An address as a list has it: 128 bits, of which an IPv4 address is the first 32.
fn wide(family: Family, addr: u128) -> u128 {
    addr << (128 - u32::from(family.bits()))
}

impl Sizes {
    /// Those of the kernel.
    pub const DEFAULT: Sizes = Sizes { addresses: 100, packets: 0 };

    /// Those that the settings give.
    pub fn of(sysctl: &Sysctl) -> Sizes {
        Sizes { addresses: sysctl.ip_list_tot, packets: sysctl.ip_pkt_list_tot }
    }

    /// Packets of an address that a list remembers for a rule that wants so many.
    fn packets(&self, hits: u32) -> u32 {
        match (self.packets, hits) {
            (least, hits) if hits < least => least.next_power_of_two(),
            (_, 0) => PACKETS,
            (_, hits) => hits.next_power_of_two(),
        }
    }
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes::DEFAULT
    }
}

impl List {
    /// The address that stands for this one in the list.
    pub fn masked(&self, family: Family, addr: u128) -> u128 {
        addr & self.mask >> (128 - u32::from(family.bits()))
    }
}

impl Shared for List {
    fn join(&mut self, other: &List) -> Result<(), String> {
        self.packets = self.packets.max(other.packets);
        Ok(())
    }

    fn goes_on_from(&self, before: &List) -> bool {
        // One that remembers more than is asked for stays, as in the kernel.
        self.addresses == before.addresses && self.mask == before.mask && self.packets <= before.packets
    }

    fn verify(&self) -> Result<(), String> {
        if !(1..=MAX_ADDRESSES).contains(&self.addresses) {
            return Err(format!("{} addresses", self.addresses));
        }
        if !self.packets.is_power_of_two() || self.packets > MAX_PACKETS.next_power_of_two() {
            return Err(format!("{} packets for each address", self.packets));
        }
        Ok(())
    }

    fn memory(&self) -> u64 {
        u64::from(self.addresses) * (64 + 8 * u64::from(self.packets))
    }
}

impl Condition for Recent {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        // After the routing decision the TTL of a forwarded packet is one less than it was.
        let is_forwarded = facts.oif != PortId::NONE && facts.iif != PortId::NONE;
        let seen = Sighting {
            family: facts.family,
            addr: if self.ask.destination { facts.dst } else { facts.src },
            ttl: facts.ttl.wrapping_add(u8::from(is_forwarded)),
        };
        yes(cx.around.recent(self.object, &self.ask, &seen, cx.now))
    }

    fn print(&self, _: bool, family: Family, out: &mut String) {
        let Ask { what, invert, seconds, hits, ttl, reap, destination } = self.ask;
        let command = NAMES.iter().find(|(_, other)| *other == what).map_or("", |(name, _)| name);
        let _ = write!(out, "{} --{command}", super::not(invert));
        if seconds != 0 {
            let _ = write!(out, " --seconds {seconds}");
        }
        if reap {
            out.push_str(" --reap");
        }
        if hits != 0 {
            let _ = write!(out, " --hitcount {hits}");
        }
        if ttl {
            out.push_str(" --rttl");
        }
        let _ = write!(out, " --name {} --mask ", self.list.name);
        print_address(out, family, self.list.mask);
        out.push_str(if destination { " --rdest" } else { " --rsource" });
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let Ask { what, seconds, hits, ttl, reap, .. } = self.ask;
        let bare = seconds == 0 && hits == 0 && !ttl;
        if matches!(what, What::Set | What::Remove) && !bare || reap && seconds == 0 {
            return Err("options of recent that do not go together".to_string());
        }
        if seconds > i32::MAX as u32 || hits > MAX_PACKETS {
            return Err(format!("recent with {seconds} seconds and {hits} packets"));
        }
        let Named { name, mask, list } = &*self.list;
        if !object::is_name(name, MAX_NAME) || mask & !family.ones() != 0 {
            return Err("a list of recent with a name or mask that it cannot have".to_string());
        }
        if hits > list.packets {
            return Err(format!("{hits} packets are wanted of a list that remembers {}", list.packets));
        }
        list.verify()
    }

    fn objects(&self) -> Vec<(Object, u32)> {
        let Named { name, list, .. } = &*self.list;
        vec![(Object { name: name.clone(), family: None, kind: Kind::Recent(*list) }, self.object)]
    }

    fn set_objects(&mut self, numbers: &[u32]) {
        self.object = numbers.first().copied().unwrap_or(self.object);
    }
}
