//! What a set is: the words behind `ipset create`, or the keys of a `[sets.NAME]` section, which are the same.

use super::{Kind, MAX_TIMEOUT, Part, is_name};
use crate::facts::Family;
use crate::rule::matches::address::parse_address;
use crate::rule::option::{Complaint, Word};
use crate::rule::word::{either, integer, nearest, number, port, split_once};
use serde::{Deserialize, Serialize};

/// Most elements of a bitmap.
const MAX_BITMAP: u64 = 65_536;
/// Most elements that a set can be declared to hold: its table is reserved beforehand.
pub const MAX_ELEMENTS: u32 = 1 << 26;

/// What a set is, without its elements.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// What rules call it.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Family of its addresses; none where it has no addresses.
    pub family: Option<Family>,
    /// Elements have a time-out; seconds of those that give none.
    pub timeout: Option<u32>,
    /// Elements count packets and bytes.
    pub counters: bool,
    /// Elements may have a comment.
    pub comment: bool,
    /// Elements may give marks to packets.
    pub skbinfo: bool,
    /// When it is full, an addition throws some element out.
    pub forceadd: bool,
    /// Length of the prefix that is kept of addresses.
    pub netmask: Option<u8>,
    /// Bits that are kept of addresses.
    pub bitmask: Option<u128>,
    /// Bits that are kept of marks.
    pub markmask: u32,
    /// First and last address or port of a bitmap.
    pub range: (u32, u32),
    /// Of a list:set: shown, without a meaning, as in the kernel.
    pub size: u32,
    /// Most elements.
    pub maxelem: u32,
    /// Shown, without a meaning here: the table has its size from `maxelem`.
    pub hashsize: u32,
    /// Shown, without a meaning here.
    pub bucketsize: u8,
    /// Shown where it was given, without a meaning here.
    pub initval: Option<u32>,
}

/// How an option is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// A word behind it.
    Word,
    /// Nothing.
    Nothing,
}

/// Whether a type has an option.
type Has = fn(Kind) -> bool;

/// Options of `create`, whether they take a word, and which types have them.
const OPTIONS: [(&str, Takes, Has); 15] = [
    ("family", Takes::Word, |kind| kind.has_family() && !kind.is_bitmap()),
    ("range", Takes::Word, Kind::is_bitmap),
    ("hashsize", Takes::Word, is_hash),
    ("maxelem", Takes::Word, is_hash),
    ("bucketsize", Takes::Word, is_hash),
    ("initval", Takes::Word, is_hash),
    ("netmask", Takes::Word, |kind| kind == Kind::BitmapIp || is_masked(kind)),
    ("bitmask", Takes::Word, is_masked),
    ("markmask", Takes::Word, |kind| kind == Kind::HashIpMark),
    ("size", Takes::Word, |kind| kind == Kind::ListSet),
    ("timeout", Takes::Word, |_| true),
    ("counters", Takes::Nothing, |_| true),
    ("comment", Takes::Nothing, |_| true),
    ("skbinfo", Takes::Nothing, |_| true),
    ("forceadd", Takes::Nothing, is_hash),
];

fn is_hash(kind: Kind) -> bool {
    !kind.is_bitmap() && kind != Kind::ListSet
}

fn is_masked(kind: Kind) -> bool {
    matches!(kind, Kind::HashIp | Kind::HashIpPort | Kind::HashNetNet)
}

/// Whether some type has an option of that name, and what it takes.
pub fn takes(option: &str) -> Option<Takes> {
    OPTIONS.iter().find(|(name, ..)| *name == option).map(|(_, takes, _)| *takes)
}

/// An option as it was given; its value where it has one.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its name as written.
    pub option: Word,
    /// The word behind it.
    pub value: Option<Word>,
}

impl Header {
    /// A set with nothing but defaults.
    pub fn new(name: impl Into<String>, kind: Kind) -> Header {
        Header {
            name: name.into(),
            kind,
            family: kind.has_family().then_some(Family::V4),
            timeout: None,
            counters: false,
            comment: false,
            skbinfo: false,
            forceadd: false,
            netmask: None,
            bitmask: None,
            markmask: u32::MAX,
            range: (0, 0),
            size: 8,
            maxelem: 65_536,
            hashsize: 1024,
            bucketsize: 12,
            initval: None,
        }
    }

    /// Reads the options of a set; all that is wrong with them. `at` is pointed at where something is missing.
    pub fn read(name: &str, kind: Kind, given: &[Given], at: &Word) -> Result<Header, Vec<Complaint>> {
        let mut header = Header::new(name, kind);
        let mut complaints = Vec::new();
        // The family first: the spelling of masks follows from it.
        let is_family = |given: &&Given| given.option.text == "family";
        let ordered = given.iter().filter(is_family).chain(given.iter().filter(|given| !is_family(given)));
        let mut seen: Vec<&str> = Vec::new();
        for given in ordered {
            let name = given.option.text.as_str();
            if seen.contains(&name) && given.value.is_some() {
                complaints.push(given.option.complain(format!("`{name}` is given twice"), "it once"));
            } else if let Err(complaint) = header.set(given) {
                complaints.push(complaint);
            }
            seen.push(name);
        }
        if kind.is_bitmap() && !seen.contains(&"range") {
            complaints.push(at.complain(format!("{} needs a range", kind.name()), "range FROM-TO"));
        }
        if complaints.is_empty()
            && let Err((what, accepts)) = header.normalize()
        {
            complaints.push(at.complain(what, accepts));
        }
        if complaints.is_empty() { Ok(header) } else { Err(complaints) }
    }

    fn set(&mut self, given: &Given) -> Result<(), Complaint> {
        let Given { option, value } = given;
        let Some((name, takes, _)) = OPTIONS.iter().find(|(name, _, has)| *name == option.text && has(self.kind))
        else {
            return Err(self.unknown(option));
        };
        let word = match (takes, value) {
            (Takes::Word, Some(word)) => word,
            (Takes::Word, None) => return Err(option.complain(format!("`{name}` wants a value"), "a word behind it")),
            (Takes::Nothing, _) => {
                *match *name {
                    "counters" => &mut self.counters,
                    "comment" => &mut self.comment,
                    "skbinfo" => &mut self.skbinfo,
                    _ => &mut self.forceadd,
                } = true;
                return Ok(());
            }
        };
        let whole = 0..=u64::from(u32::MAX);
        match *name {
            "family" => self.family = Some(family(word)?),
            "range" => self.range = self.parse_range(word)?,
            "hashsize" => {
                let asked = number(word, "a size of a hash", whole)?;
                self.hashsize = asked.clamp(64, 1 << 31).next_power_of_two() as u32;
            }
            // 0 is the default, as in the kernel.
            "maxelem" => match number(word, "a number of elements", 0..=u64::from(MAX_ELEMENTS))? {
                0 => {}
                most => self.maxelem = most as u32,
            },
            "bucketsize" => {
                let asked = number(word, "a size of buckets", 0..=255)?;
                self.bucketsize = (asked.clamp(2, 12) as u8).next_multiple_of(2);
            }
            "initval" => self.initval = Some(number(word, "an initial value", whole)? as u32),
            "netmask" => {
                let most = self.family.map_or(32, Family::bits);
                self.netmask = Some(number(word, "a length of a prefix", 1..=u64::from(most))? as u8);
            }
            "bitmask" => {
                let mask = parse_address(word, self.family.unwrap_or(Family::V4))?;
                if mask == 0 {
                    return Err(word.complain("a mask without a bit".to_string(), "a mask such as 255.255.0.255"));
                }
                self.bitmask = Some(mask);
            }
            "markmask" => self.markmask = number(word, "a mask of marks", 1..=u64::from(u32::MAX))? as u32,
            "size" => self.size = number(word, "a size of a list", whole)?.max(4) as u32,
            _ => self.timeout = Some(timeout(word)?),
        }
        Ok(())
    }

    fn unknown(&self, option: &Word) -> Complaint {
        let own = OPTIONS.iter().filter(|(.., has)| has(self.kind)).map(|(name, ..)| *name);
        let accepts = match nearest(&option.text, own.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => either(own),
        };
        option.complain(format!("{} has no option `{}`", self.kind.name(), option.text), accepts)
    }

    /// The range of a bitmap.
    fn parse_range(&self, word: &Word) -> Result<(u32, u32), Complaint> {
        let end = |word: &Word| match self.kind {
            Kind::BitmapPort => port(word).map(u32::from),
            _ => parse_address(word, Family::V4).map(|addr| addr as u32),
        };
        let bare = match split_once(word, ':') {
            Some((_, ports)) if self.kind == Kind::BitmapPort => ports,
            _ => word.clone(),
        };
        if let Some((from, to)) = split_once(&bare, '-') {
            let (from, to) = (end(&from)?, end(&to)?);
            return Ok((from.min(to), from.max(to)));
        }
        if self.kind != Kind::BitmapPort && bare.text.contains('/') {
            let (addr, len) = crate::rule::matches::address::parse_prefix(&bare, Family::V4)?;
            let mask = Family::V4.mask(len);
            return Ok(((addr & mask) as u32, (addr | !mask) as u32));
        }
        let accepts = if self.kind == Kind::BitmapPort { "FROM-TO" } else { "FROM-TO or ADDRESS/LENGTH" };
        Err(word.complain(format!("`{}` is not a range", word.text), accepts))
    }

    /// Checks what options say together, and makes equal what means the same.
    fn normalize(&mut self) -> Result<(), (String, &'static str)> {
        if self.netmask.is_some() && self.bitmask.is_some() {
            return Err(("netmask and bitmask cannot stand together".to_string(), "one of the two"));
        }
        let family = self.family.unwrap_or(Family::V4);
        self.netmask = self.netmask.filter(|len| *len != family.bits());
        self.bitmask = self.bitmask.filter(|mask| *mask != family.ones());
        if let (Kind::BitmapIp, Some(len)) = (self.kind, self.netmask) {
            let mask = family.mask(len) as u32;
            let (first, last) = self.range;
            self.range = (first & mask, last | !mask);
        }
        match self.kind.is_bitmap() && self.bits() > MAX_BITMAP {
            true => Err((format!("a range of {} elements", self.bits()), "at most 65536 elements")),
            false => Ok(()),
        }
    }

    /// How many elements a bitmap's range has.
    fn bits(&self) -> u64 {
        let host = self.netmask.map_or(0, |len| 32 - u32::from(len.min(32)));
        (u64::from(self.range.1).saturating_sub(u64::from(self.range.0)) >> host) + 1
    }

    /// Most elements that it can hold.
    pub fn capacity(&self) -> u32 {
        match self.kind {
            kind if kind.is_bitmap() => self.bits().min(MAX_BITMAP) as u32,
            Kind::ListSet => super::MAX_MEMBERS as u32,
            _ => self.maxelem,
        }
    }

    /// The bits that are kept of its addresses.
    pub fn mask(&self) -> u128 {
        let family = self.family.unwrap_or(Family::V4);
        match (self.bitmask, self.netmask) {
            (Some(mask), _) => mask,
            (None, Some(len)) => family.mask(len.min(family.bits())),
            (None, None) => family.ones(),
        }
    }

    /// Whether elements of the other could be swapped in: same type and family.
    pub fn is_like(&self, other: &Header) -> bool {
        self.kind == other.kind && self.family == other.family
    }

    /// Whether a header decoded from untrusted bytes is one that the parser could have made.
    pub fn verify(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("the set {:?} has {what}", self.name));
        if !is_name(&self.name) {
            return Err(format!("{:?} cannot be the name of a set", self.name));
        }
        let family = match (self.kind.has_family(), self.family) {
            (true, Some(family)) if !(self.kind.is_bitmap() && family == Family::V6) => family,
            (false, None) => Family::V4,
            _ => return wrong("a family that its type has not"),
        };
        let masks = self.netmask.is_some() || self.bitmask.is_some();
        if masks && !(is_masked(self.kind) || self.kind == Kind::BitmapIp && self.bitmask.is_none()) {
            return wrong("a mask that its type has not");
        }
        let foreign = self.bitmask.is_some_and(|mask| mask == 0 || mask & !family.ones() != 0);
        if foreign || self.netmask.is_some_and(|len| !(1..=family.bits()).contains(&len)) {
            return wrong("a mask that is not one of its family");
        }
        if self.timeout.is_some_and(|seconds| seconds > MAX_TIMEOUT) {
            return wrong("too long a time-out");
        }
        if !(1..=MAX_ELEMENTS).contains(&self.maxelem) {
            return wrong("more elements than can be");
        }
        let (first, last) = self.range;
        let ports = self.kind == Kind::BitmapPort && last > u32::from(u16::MAX);
        if self.kind.is_bitmap() && (first > last || ports || self.bits() > MAX_BITMAP) {
            return wrong("a range that cannot be");
        }
        Ok(())
    }

    /// Whether its elements have such a part.
    pub fn has(&self, part: Part) -> bool {
        self.kind.parts().contains(&part)
    }
}

fn family(word: &Word) -> Result<Family, Complaint> {
    match word.text.as_str() {
        "inet" | "ipv4" | "-4" => Ok(Family::V4),
        "inet6" | "ipv6" | "-6" => Ok(Family::V6),
        other => Err(word.complain(format!("`{other}` is not a family"), "inet or inet6")),
    }
}

/// Seconds of a time-out.
pub(super) fn timeout(word: &Word) -> Result<u32, Complaint> {
    let seconds = integer(&word.text).filter(|seconds| *seconds <= u64::from(MAX_TIMEOUT));
    seconds.map(|seconds| seconds as u32).ok_or_else(|| {
        let accepts = format!("seconds from 0 (for ever) to {MAX_TIMEOUT}");
        word.complain(format!("`{}` is not a time-out", word.text), accepts)
    })
}
