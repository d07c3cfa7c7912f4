//! `-m hashlimit`: at most so often from (or to) each address, network or port (`xt_hashlimit.c`, revision 3).
//!
//! A table is known by its name, apart for IPv4 and IPv6. It has an entry for each value of what `--hashlimit-mode` lists,
//! which holds credits: time adds some up to the burst's worth, a packet takes its cost or is above the limit. With a rate
//! in bytes (`512kb/s`) the credit is one second's worth, which the burst lets fill again so often; a packet costs by pieces
//! of 16 bytes. With `--hashlimit-rate-match` nothing is taken: an entry holds as long as it is below the rate.
//!
//! As in the kernel: rules with one name have one table, and it is as the first of them says, whatever rates or modes
//! others have. Jiffies are 4 ms. Ports are those of TCP, UDP, UDP-Lite, SCTP and DCCP and what stands there in ESP and AH
//! (IPv4); other protocols and later IPv6 fragments have port 0; a packet without the bytes is dropped, and so is one for
//! which the table has no room. Entries that were not used for `--hashlimit-htable-expire` ms go at the next multiple of
//! `--hashlimit-htable-gcinterval`.
//!
//! Rules of one table have all `--hashlimit-rate-match` or none. Not as in the kernel: they count all packets or all bytes;
//! a burst whose worth overflows 64 bits is refused always, not only where the kernel notices.
//!
//! TOML: `{ hashlimit-above = "20/sec", hashlimit-mode = "srcip", hashlimit-name = "flood", target = "DROP" }`

use super::connlimit::mask;
use super::limit::{parse_rate, print_rate};
use super::{Condition, Match, yes};
use crate::facts::{Context, Facts, Family};
use crate::object::{self, Kind, Object, Shared};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::word::{self, integer, number};
use crate::rule::{Cond, Families, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One `-m hashlimit`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hashlimit {
    /// Holds above the limit, else below.
    pub above: bool,
    /// The number of the table.
    pub object: u32,
    /// What the rule says of it.
    pub named: Box<Named>,
}

/// A table as a rule names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its family.
    pub family: Family,
    /// What the rule wants it to be.
    pub table: Table,
}

/// How a table has to be: `hashlimit_cfg3` of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// What entries are told apart by: bits of [`MODES`].
    pub mode: u8,
    /// The rate is one of bytes.
    pub bytes: bool,
    /// Nothing is taken from the credit.
    pub rate_match: bool,
    /// Time between packets in microseconds; of bytes, 2³²/16 of what a second may bring.
    pub avg: u64,
    /// Packets that may come at once; of bytes, how often the credit fills at once.
    pub burst: u64,
    /// Seconds over which [`Table::rate_match`] counts; else 0.
    pub interval: u32,
    /// Buckets; 0 for as many as the kernel has.
    pub size: u32,
    /// Most entries; 0 for eight in each bucket.
    pub max: u32,
    /// Milliseconds between collections of entries that are not used.
    pub gc_interval: u32,
    /// Milliseconds after which an entry is not used any more.
    pub expire: u32,
    /// Length of the prefix of a source address that counts.
    pub srcmask: u8,
    /// The same of a destination address.
    pub dstmask: u8,
}

/// Names of what entries are told apart by, in the order in which they are printed, with their bits.
pub const MODES: [(&str, u8); 4] = [("srcip", SRCIP), ("srcport", SRCPORT), ("dstip", DSTIP), ("dstport", DSTPORT)];
/// The source address.
pub const SRCIP: u8 = 1;
/// The source port.
pub const SRCPORT: u8 = 2;
/// The destination address.
pub const DSTIP: u8 = 4;
/// The destination port.
pub const DSTPORT: u8 = 8;

/// Jiffies of a second.
pub const HZ: u64 = 250;
/// Credits that a jiffy adds: `CREDITS_PER_JIFFY`, the power of two below 2⁶⁴ in a day's jiffies.
pub const CREDITS: u64 = 1 << 39;
/// The same where bytes are counted: the power of two below 2³² in a second's jiffies.
pub const BYTE_CREDITS: u64 = 1 << 24;
/// Microseconds, in which the time between packets is given.
const SCALE: u64 = 1_000_000;
/// Bytes that cost the same, as a power of two.
const PIECE: u32 = 4;

/// Most bytes of a name (`NAME_MAX` less one).
const MAX_NAME: usize = 254;
const MAX_BURST: u64 = 1_000_000;
/// Most buckets and most entries that a rule can ask for; more is cut down to it, as the kernel does.
const MAX_SIZE: u32 = 1 << 20;
/// Buckets where the rule does not say: those of a kernel with more than a gigabyte of memory.
const SIZE: u32 = 8192;
const DEFAULT_BURST: u64 = 5;
const GC_INTERVAL: u32 = 1000;
/// Seconds after which an entry with a rate in bytes is not used any more, without and with a burst.
const BYTE_EXPIRE: [u32; 2] = [15, 60];
/// Units of bytes.
const UNITS: [(&str, u64); 3] = [("m", 1 << 20), ("k", 1 << 10), ("", 1)];

const UPTO: usize = 0;
const ABOVE: usize = 1;
const BURST: usize = 2;
const MODE: usize = 3;
const NAME: usize = 4;
const HTABLE_SIZE: usize = 5;
const HTABLE_MAX: usize = 6;
const HTABLE_GCINTERVAL: usize = 7;
const HTABLE_EXPIRE: usize = 8;
const SRCMASK: usize = 9;
const DSTMASK: usize = 10;
const RATE_MATCH: usize = 11;
const RATE_INTERVAL: usize = 12;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "hashlimit",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("hashlimit-upto", &["hashlimit"]).about("RATE", "holds up to so many packets (5/min) or bytes (512kb/s)"),
        Opt::negatable("hashlimit-above", &[]).about("RATE", "holds above that"),
        Opt::plain("hashlimit-burst", &[]).about("COUNT", "so many packets or bytes may come at once; 5 packets where none"),
        Opt::plain("hashlimit-mode", &[]).about("MODE[,MODE...]", "apart for each srcip, srcport, dstip, dstport"),
        Opt::plain("hashlimit-name", &[]).about("NAME", "of the table"),
        Opt::plain("hashlimit-htable-size", &[]).about("BUCKETS", "of the table; 8192 where none"),
        Opt::plain("hashlimit-htable-max", &[]).about("ENTRIES", "most of the table; eight for each bucket where none"),
        Opt::plain("hashlimit-htable-gcinterval", &[]).about("MILLISECONDS", "between collections of unused entries; 1000 where none"),
        Opt::plain("hashlimit-htable-expire", &[]).about("MILLISECONDS", "after which an entry is unused; the rate's unit where none"),
        Opt::plain("hashlimit-srcmask", &[]).about("LENGTH", "of the prefix of the source address that counts"),
        Opt::plain("hashlimit-dstmask", &[]).about("LENGTH", "of the prefix of the destination address that counts"),
        Opt::flag("hashlimit-rate-match", &[]).about("", "compares with the rate and takes nothing"),
        Opt::plain("hashlimit-rate-interval", &[]).about("SECONDS", "over which --hashlimit-rate-match counts"),
    ],
    build,
    summary: "at most so often from or to each address, network or port",
    example: r#"{ hashlimit-above = "20/sec", hashlimit-mode = "srcip", hashlimit-name = "flood", target = "DROP" }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit 5/sec --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-name a",
        ),
        Case::Prints(Family::V6, "-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name a", "="),
        Case::Prints(
            Family::V4,
            "-m hashlimit ! --hashlimit 5 --hashlimit-name a",
            "-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit ! --hashlimit-upto 5/s --hashlimit-name a",
            "-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit ! --hashlimit-above 90/min --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 90/min --hashlimit-burst 5 --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 24/day --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 5 --hashlimit-name a --hashlimit-htable-expire 86400000",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 10001/SECOND --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 10101/sec --hashlimit-burst 5 --hashlimit-name a",
        ),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-upto 1000000/day --hashlimit-burst 5 --hashlimit-name a", "="),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-upto 1000000/sec --hashlimit-burst 1000000 --hashlimit-name a", "="),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 7/h --hashlimit-burst 0x6 --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 7/hour --hashlimit-burst 6 --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 7/s --hashlimit-burst 10kb --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 7/sec --hashlimit-burst 10240 --hashlimit-name a",
        ),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-above 1/day --hashlimit-burst 1 --hashlimit-name a", "="),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-upto 512kb/s --hashlimit-name b", "="),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-upto 10kb/sec --hashlimit-name b", "-m hashlimit --hashlimit-upto 10kb/s --hashlimit-name b"),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-upto 512kb/s --hashlimit-burst 1mb --hashlimit-name b", "="),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 512kb/s --hashlimit-burst 600kb --hashlimit-name b",
            "-m hashlimit --hashlimit-upto 512kb/s --hashlimit-burst 1mb --hashlimit-name b",
        ),
        Case::Prints(Family::V4, "-m hashlimit --hashlimit-above 123456b/s --hashlimit-burst 1mb --hashlimit-name b", "="),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 100b/s --hashlimit-name b",
            "-m hashlimit --hashlimit-above 96b/s --hashlimit-name b",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 5000000b/s --hashlimit-name b",
            "-m hashlimit --hashlimit-above 4883kb/s --hashlimit-name b",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 256mb/s --hashlimit-name b",
            "-m hashlimit --hashlimit-above 257mb/s --hashlimit-name b",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 4096mb/s --hashlimit-name b",
            "-m hashlimit --hashlimit-above 4581298432b/s --hashlimit-name b",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/s --hashlimit-mode dstport,srcport,dstip,srcip,srcip --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip,srcport,dstip,dstport --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/s --hashlimit-mode srcip| --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip,dstip --hashlimit-name a --hashlimit-srcmask 8 --hashlimit-dstmask 0",
            "=",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-srcmask 255.255.0.0 --hashlimit-dstmask 32 --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-name a --hashlimit-srcmask 16",
        ),
        Case::Prints(
            Family::V6,
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name a --hashlimit-srcmask 64",
            "=",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-mode dstip --hashlimit-name a --hashlimit-htable-size 5 --hashlimit-htable-max 6 --hashlimit-htable-gcinterval 7 --hashlimit-htable-expire 8 --hashlimit-dstmask 24",
            "=",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/m --hashlimit-htable-expire 60000 --hashlimit-htable-gcinterval 1000 --hashlimit-htable-size 0 --hashlimit-htable-max 0 --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 5/min --hashlimit-burst 5 --hashlimit-name a",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-upto 5/s --hashlimit-htable-size 1048577 --hashlimit-htable-max 4294967295 --hashlimit-name a",
            "-m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-name a --hashlimit-htable-size 1048576 --hashlimit-htable-max 1048576",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 5/s --hashlimit-rate-match --hashlimit-rate-interval 1 --hashlimit-burst 1 --hashlimit-name r",
            "-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 1 --hashlimit-name r --hashlimit-rate-match",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 5kb/s --hashlimit-rate-match --hashlimit-rate-interval 3 --hashlimit-burst 10kb --hashlimit-name s",
            "-m hashlimit --hashlimit-above 5kb/s --hashlimit-burst 10kb --hashlimit-name s --hashlimit-rate-match --hashlimit-rate-interval 3",
        ),
        Case::Prints(
            Family::V4,
            "-m hashlimit --hashlimit-above 5/day --hashlimit-rate-match --hashlimit-name r",
            "-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name r --hashlimit-htable-expire 86400000 --hashlimit-rate-match --hashlimit-rate-interval 86400",
        ),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/sec", "asks for --hashlimit-name"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-name a", "asks for --hashlimit-upto or --hashlimit-above"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-above 3/s --hashlimit-name a", "cannot stand with"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit 3/s --hashlimit-name a", "given twice"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 1000001/sec --hashlimit-name a", "is too fast"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 0/sec --hashlimit-name a", "`0/sec` is not a rate"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-above 3/ --hashlimit-name a", "`3/` is not a rate"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 3/hours --hashlimit-name a", "`3/hours` is not a rate"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 0x10/s --hashlimit-name a", "`0x10/s` is not a rate"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 3/day --hashlimit-name a", "more than the credits of this rate can say"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 0kb/s --hashlimit-name a", "`0kb/s` is not a rate of bytes"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 15b/s --hashlimit-name a", "`15b/s` is not a rate of bytes"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 40000mb/s --hashlimit-name a", "`40000mb/s` is too fast"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 10KB/s --hashlimit-name a", "`10KB/s` is not a rate"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 7/h --hashlimit-burst 0 --hashlimit-name a", "`0` is not a burst"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 7/s --hashlimit-burst 1000001 --hashlimit-name a", "`1000001` is not a burst"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 7/s --hashlimit-burst 2mb --hashlimit-name a", "`2mb` is not a burst"),
        Case::Refused(
            Family::V4,
            "-m hashlimit --hashlimit-upto 512kb/s --hashlimit-burst 100 --hashlimit-name a",
            "`100` is less than a second's worth",
        ),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s ! --hashlimit-burst 5 --hashlimit-name a", "cannot be negated"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-mode SRCIP --hashlimit-name a", "`SRCIP` is not something"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-mode src --hashlimit-name a", "`src` is not something"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-srcmask 33 --hashlimit-name a", "`33` is not a mask"),
        Case::Refused(Family::V6, "-m hashlimit --hashlimit-upto 5/s --hashlimit-dstmask 129 --hashlimit-name a", "`129` is not a mask"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-htable-size many --hashlimit-name a", "`many` is not a number of buckets"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-htable-max -1 --hashlimit-name a", "`-1` is not a number of entries"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-htable-expire 0 --hashlimit-name a", "`0` is not a number of milliseconds"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-htable-gcinterval 0 --hashlimit-name a", "`0` is not a number of milliseconds"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-rate-match --hashlimit-rate-interval 0 --hashlimit-name a", "`0` is not a number of seconds"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-rate-interval 10 --hashlimit-name a", "asks for --hashlimit-rate-match"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 2000000/day --hashlimit-rate-match --hashlimit-name a", "is too fast for --hashlimit-rate-match"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s ! --hashlimit-rate-match --hashlimit-name a", "cannot be negated"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-name a/b", "`a/b` is not a name"),
        Case::Refused(Family::V4, "-m hashlimit --hashlimit-upto 5/s --hashlimit-name .", "`.` is not a name"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    if let (Some(first), Some(second)) = (given.get(UPTO), given.get(ABOVE)) {
        let what = format!("`{}` cannot stand with `{}`", second.word.text, first.word.text);
        return Err(second.word.complain(what, "one of the two"));
    }
    let Some(option) = given.get(UPTO).or_else(|| given.get(ABOVE)) else {
        return Err(given.complain("hashlimit asks for --hashlimit-upto or --hashlimit-above"));
    };
    let Some(name) = given.value(NAME) else {
        return Err(given.complain("hashlimit asks for --hashlimit-name"));
    };
    let name = object::read_name(name, MAX_NAME)?;
    let milliseconds = |option, default| match given.value(option) {
        Some(word) => number(word, "a number of milliseconds", 1..=u32::MAX.into()).map(|n| n as u32),
        None => Ok(default),
    };
    let size = |option, what| match given.value(option) {
        Some(word) => number(word, what, 0..=u32::MAX.into()).map(|n| MAX_SIZE.min(n as u32)),
        None => Ok(0),
    };
    let len = |option| given.value(option).map_or(Ok(given.family.bits()), |word| mask(word, given.family));
    let rate = &option.values[0];
    let (table, unit) = match parse_bytes(rate)? {
        Some(avg) => of_bytes(given, avg)?,
        None => of_packets(given, rate)?,
    };
    let table = Table {
        mode: given.value(MODE).map_or(Ok(0), parse_mode)?,
        size: size(HTABLE_SIZE, "a number of buckets")?,
        max: size(HTABLE_MAX, "a number of entries")?,
        gc_interval: milliseconds(HTABLE_GCINTERVAL, GC_INTERVAL)?,
        expire: milliseconds(HTABLE_EXPIRE, unit * 1000)?,
        srcmask: len(SRCMASK)?,
        dstmask: len(DSTMASK)?,
        ..table
    };
    let above = (option.option == ABOVE) != option.negate;
    let named = Box::new(Named { name, family: given.family, table });
    Ok(vec![Cond::new(false, Match::Hashlimit(Hashlimit { above, object: 0, named }))])
}

/// What the kernel has for a table of which nothing is said but the rate.
fn plain(given: &Given, bytes: bool, avg: u64, burst: u64, interval: u32) -> Table {
    Table {
        mode: 0,
        bytes,
        rate_match: given.get(RATE_MATCH).is_some(),
        avg,
        burst,
        interval,
        size: 0,
        max: 0,
        gc_interval: GC_INTERVAL,
        expire: 0,
        srcmask: 0,
        dstmask: 0,
    }
}

/// A table with a rate in packets, and the seconds of the rate's unit.
fn of_packets(given: &Given, rate: &Word) -> Result<(Table, u32), Complaint> {
    let (period, unit) = parse_rate(rate, SCALE)?;
    let burst = match given.value(BURST) {
        Some(word) => parse_burst(word)?,
        None => (DEFAULT_BURST, given.word),
    };
    if burst.0 > MAX_BURST {
        return Err(no_burst(burst.1));
    }
    let interval = parse_interval(given, unit as u32)?;
    let avg = if interval == 0 { period } else { period / unit };
    let table = plain(given, false, avg, burst.0, interval);
    if table.rate_match && avg == 0 {
        let what = format!("`{}` is too fast for --hashlimit-rate-match", rate.text);
        return Err(rate.complain(what, format!("at most {SCALE} in its unit of time")));
    }
    if !table.rate_match && table.full().is_none() {
        let most = u64::MAX / table.cost().max(1);
        let accepts = match given.value(BURST) {
            Some(_) => format!("at most {most} packets"),
            None => format!("--hashlimit-burst of at most {most} packets"),
        };
        return Err(burst.1.complain(format!("a burst of {} is more than the credits of this rate can say", burst.0), accepts));
    }
    Ok((table, unit as u32))
}

/// A table with a rate in bytes, and the seconds that an entry stays.
fn of_bytes(given: &Given, avg: u64) -> Result<(Table, u32), Complaint> {
    let interval = parse_interval(given, 1)?;
    let Some(word) = given.value(BURST) else { return Ok((plain(given, true, avg, 0, interval), BYTE_EXPIRE[0])) };
    let (burst, _) = parse_burst(word)?;
    let second = cost_to_bytes(avg);
    match burst.div_ceil(second) {
        _ if burst < second => Err(word.complain(
            format!("`{}` is less than a second's worth", word.text),
            format!("at least {second}b"),
        )),
        times if times > u32::MAX.into() => Err(no_burst(word)),
        times => Ok((plain(given, true, avg, times, interval), BYTE_EXPIRE[1])),
    }
}

/// The seconds over which the rate is compared; 0 where it is not.
fn parse_interval(given: &Given, default: u32) -> Result<u32, Complaint> {
    let given_interval = given.get(RATE_INTERVAL);
    if given.get(RATE_MATCH).is_none() {
        return given_interval.map_or(Ok(0), |option| {
            let what = format!("`{}` asks for --hashlimit-rate-match", option.word.text);
            Err(option.word.complain(what, "--hashlimit-rate-match with it"))
        });
    }
    let Some(word) = given_interval.and_then(|option| option.values.first()) else { return Ok(default) };
    number(word, "a number of seconds", 1..=i32::MAX as u64).map(|n| n as u32)
}

/// What is given of a rate of bytes, `COUNT[k|m]b/s`; none where it is one of packets.
fn parse_bytes(word: &Word) -> Result<Option<u64>, Complaint> {
    let Some((count, unit)) = word.text.split_once("b/") else { return Ok(None) };
    let accepts = "16b/s or more, in b/s, kb/s or mb/s";
    let wrong = || word.complain(format!("`{}` is not a rate of bytes", word.text), accepts);
    let is_second = !unit.is_empty() && "second".starts_with(unit);
    let bytes = scaled(count, false).filter(|_| is_second).ok_or_else(wrong)?;
    if bytes < 1 << PIECE {
        return Err(wrong());
    }
    let cost = bytes_to_cost(bytes).filter(|&cost| byte_cost(cost) != 0);
    cost.map(Some).ok_or_else(|| word.complain(format!("`{}` is too fast", word.text), "less than 32768mb/s"))
}

/// A number with `k` or `m` behind it. Decimal only, unless `any_base`.
fn scaled(text: &str, any_base: bool) -> Option<u64> {
    let (digits, factor) = UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, factor)))?;
    let decimal = digits.bytes().all(|c| c.is_ascii_digit());
    let count = if any_base { integer(digits)? } else { digits.parse().ok().filter(|_| decimal)? };
    count.checked_mul(*factor)
}

/// A burst in packets or bytes, and its word.
fn parse_burst(word: &Word) -> Result<(u64, &Word), Complaint> {
    let bare = word.text.strip_suffix('b').unwrap_or(&word.text);
    let is_plain = integer(&word.text).is_some();
    let burst = scaled(bare, true).filter(|&burst| burst > 0 && (burst <= MAX_BURST || !is_plain));
    burst.map(|burst| (burst, word)).ok_or_else(|| no_burst(word))
}

fn no_burst(word: &Word) -> Complaint {
    word.complain(format!("`{}` is not a burst", word.text), format!("1 to {MAX_BURST} packets, or bytes such as 100kb"))
}

/// What entries are told apart by.
fn parse_mode(word: &Word) -> Result<u8, Complaint> {
    let names = word.text.split([',', '|']).filter(|name| !name.is_empty());
    let bit = |name: &str| {
        let found = MODES.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
        let what = || format!("`{name}` is not something to tell packets apart by");
        found.ok_or_else(|| word.complain(what(), word::either(MODES.iter().map(|(name, _)| *name))))
    };
    names.map(bit).try_fold(0, |bits, bit| Ok(bits | bit?))
}

/// What a piece of a rate in bytes costs (`bytes_to_cost` of libxt_hashlimit).
fn bytes_to_cost(bytes: u64) -> Option<u64> {
    let pieces = u32::try_from(bytes >> PIECE).ok()?.checked_add(1)?;
    Some(u64::from(u32::MAX / pieces))
}

/// The bytes of a second that a cost stands for (`cost_to_bytes`, `user2rate_bytes`).
fn cost_to_bytes(cost: u64) -> u64 {
    ((u64::from(u32::MAX) / cost.max(1)).max(1) - 1) << PIECE
}

/// The credits that a piece costs (`user2credits_byte`).
fn byte_cost(avg: u64) -> u64 {
    (avg.min(u32::MAX.into()) * HZ * BYTE_CREDITS) >> 32
}

impl Table {
    /// Credits that a packet costs, or a piece of it where bytes are counted.
    pub fn cost(&self) -> u64 {
        if self.bytes { byte_cost(self.avg) } else { self.avg.saturating_mul(HZ * CREDITS / SCALE) }
    }

    /// Most credits that an entry can have, with which it begins. None where they overflow.
    pub fn full(&self) -> Option<u64> {
        match self.bytes {
            true => Some(HZ * BYTE_CREDITS),
            false => self.avg.checked_mul(self.burst)?.checked_mul(HZ * CREDITS / SCALE),
        }
    }

    /// What packets of this length cost together, where bytes are counted (`hashlimit_byte_cost`).
    pub fn cost_of(&self, len: u16) -> u64 {
        let pieces = u64::from(len >> PIECE) + 1;
        (pieces * self.cost()).min(HZ * BYTE_CREDITS)
    }

    /// Packets or bytes of an interval, for [`Table::rate_match`]; and how many may come at once.
    pub fn rate(&self) -> (u64, u64) {
        match self.bytes {
            true => {
                let rate = cost_to_bytes(self.avg);
                (rate, rate.saturating_mul(self.burst.max(1)))
            }
            false => {
                let rate = SCALE / self.avg.max(1);
                (rate, self.burst.saturating_add(rate))
            }
        }
    }

    /// Buckets that the table has.
    pub fn buckets(&self) -> u32 {
        if self.size == 0 { SIZE } else { self.size }
    }

    /// Entries that it has room for.
    pub fn entries(&self) -> u32 {
        if self.max == 0 { 8 * self.buckets() } else { self.max.max(self.buckets()) }
    }
}

impl Shared for Table {
    fn join(&mut self, other: &Table) -> Result<(), String> {
        let counts = |table: &Table| match (table.bytes, table.rate_match) {
            (false, false) => "takes packets",
            (false, true) => "compares the rate of packets",
            (true, false) => "takes bytes",
            (true, true) => "compares the rate of bytes",
        };
        let (first, second) = (counts(self), counts(other));
        if first == second { Ok(()) } else { Err(format!("one rule {first}, another {second}")) }
    }

    fn goes_on_from(&self, before: &Table) -> bool {
        self == before
    }

    fn verify(&self) -> Result<(), String> {
        let Table { mode, avg, burst, interval, .. } = *self;
        if mode >= 1 << MODES.len() || self.size > MAX_SIZE || self.max > MAX_SIZE {
            return Err(format!("mode {mode}, {} buckets, {} entries", self.size, self.max));
        }
        if self.expire == 0 || self.gc_interval == 0 {
            return Err("entries that never stay or are never collected".to_string());
        }
        if self.srcmask.max(self.dstmask) > 128 {
            return Err(format!("prefixes of {} and {} bits", self.srcmask, self.dstmask));
        }
        let is_rate = match (self.bytes, self.rate_match) {
            (true, _) => cost_to_bytes(avg) > 0 && avg <= u32::MAX.into() && burst <= u32::MAX.into() && self.cost() > 0,
            (false, true) => avg > 0 && avg <= u32::MAX.into() && (1..=MAX_BURST).contains(&burst),
            (false, false) => avg > 0 && (1..=MAX_BURST).contains(&burst) && self.full().is_some(),
        };
        if !is_rate || self.rate_match != (interval > 0) || interval > i32::MAX as u32 {
            return Err(format!("a rate of {avg} with a burst of {burst} over {interval} seconds"));
        }
        Ok(())
    }

    fn memory(&self) -> u64 {
        72 * u64::from(self.entries()) + 4 * u64::from(self.buckets())
    }
}

impl Condition for Hashlimit {
    fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
        match cx.around.hashlimit(self.object, facts, cx) {
            Some(is_below) => yes(is_below != self.above),
            None => Outcome::Hotdrop,
        }
    }

    fn print(&self, _: bool, family: Family, out: &mut String) {
        let Named { name, table, .. } = &*self.named;
        out.push_str(if self.above { " --hashlimit-above" } else { " --hashlimit-upto" });
        let unit = match table.bytes {
            true => print_bytes(out, table),
            false => {
                let unit = print_rate(out, table.avg, SCALE);
                let _ = write!(out, " --hashlimit-burst {}", table.burst);
                unit as u32
            }
        };
        if table.mode != 0 {
            let names: Vec<&str> = MODES.iter().filter(|(_, bit)| table.mode & bit != 0).map(|(name, _)| *name).collect();
            let _ = write!(out, " --hashlimit-mode {}", names.join(","));
        }
        let _ = write!(out, " --hashlimit-name {name}");
        let bits = u32::from(family.bits());
        for (option, value, default) in [
            ("htable-size", table.size, 0),
            ("htable-max", table.max, 0),
            ("htable-gcinterval", table.gc_interval, GC_INTERVAL),
            ("htable-expire", table.expire, unit.saturating_mul(1000)),
            ("srcmask", table.srcmask.into(), bits),
            ("dstmask", table.dstmask.into(), bits),
        ] {
            if value != default {
                let _ = write!(out, " --hashlimit-{option} {value}");
            }
        }
        if table.rate_match {
            out.push_str(" --hashlimit-rate-match");
            if table.interval != 1 {
                let _ = write!(out, " --hashlimit-rate-interval {}", table.interval);
            }
        }
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        let Named { name, family: own, table } = &*self.named;
        if !object::is_name(name, MAX_NAME) || *own != family {
            return Err("a table of hashlimit with a name or family that it cannot have".to_string());
        }
        if table.srcmask.max(table.dstmask) > family.bits() {
            return Err(format!("prefixes of {} and {} bits", table.srcmask, table.dstmask));
        }
        table.verify()
    }

    fn objects(&self) -> Vec<(Object, u32)> {
        let Named { name, family, table } = &*self.named;
        vec![(Object { name: name.clone(), family: Some(*family), kind: Kind::Hashlimit(*table) }, self.object)]
    }

    fn set_objects(&mut self, numbers: &[u32]) {
        self.object = numbers.first().copied().unwrap_or(self.object);
    }
}

/// Writes a rate of bytes and its burst as `print_bytes` of libxt_hashlimit does; the seconds that an entry stays. A burst
/// that libxt_hashlimit would round to another one is written in a smaller unit. As there, a rate of 4 GB and more is not
/// tried in larger units.
fn print_bytes(out: &mut String, table: &Table) -> u32 {
    let second = cost_to_bytes(table.avg);
    let is_it = |&&(_, size): &&(&str, u64)| {
        second >= size && bytes_to_cost(second & u64::from(!(size as u32 - 1))) == Some(table.avg)
    };
    let (name, size) = UNITS.iter().find(is_it).unwrap_or(&UNITS[2]);
    let _ = write!(out, " {}{name}b/s", second / size);
    if table.burst == 0 {
        return BYTE_EXPIRE[0];
    }
    let burst = second.saturating_mul(table.burst);
    let is_it = |&&(_, size): &&(&str, u64)| (burst & !(size - 1)).div_ceil(second.max(1)) == table.burst;
    let (name, size) = UNITS.iter().filter(|(_, size)| burst >= *size).find(is_it).unwrap_or(&UNITS[2]);
    let _ = write!(out, " --hashlimit-burst {}{name}b", burst / size);
    BYTE_EXPIRE[1]
}
