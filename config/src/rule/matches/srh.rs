//! `-m srh`: the segment routing header of IPv6 (`ip6t_srh.c`, RFC 8754).
//!
//! A packet without such a header never matches, negated or not, nor does one whose header does not fit the packet, is of another
//! type than 4 or has more segments left than its last entry says. So also for a previous, next or last segment that
//! is not there.
//!
//! The kernel has one number for the comparisons (`eq`, `gt`, `lt`) of a field: several with different numbers are refused. It
//! takes the number of `--srh-tag` as the machine does, little end first: `--srh-tag 1` is tag 256 of the wire.
//!
//! TOML: `{ srh-segs-left-gt = 0, srh-lsid = "2001:db8::/64", jump = "DROP" }`

use super::{Condition, Match, address, headers, not, yes};
use crate::facts::{Context, Facts, Family, proto};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, GivenOption, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a segment routing header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Srh {
    /// The bare `-m srh`: there is a header.
    Header,
    /// `--srh-next-hdr`
    Next(u8),
    /// `--srh-hdr-len-...`, `--srh-segs-left-...`, `--srh-last-entry-...`
    Field(Field, Comparison, u8),
    /// `--srh-tag`, as the machine reads it.
    Tag(u16),
    /// `--srh-psid`, `--srh-nsid`, `--srh-lsid`: address as written and length of the prefix that counts.
    Segment(Segment, u128, u8),
}

/// A byte of the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Field {
    /// Hdr Ext Len
    Length,
    /// Segments Left
    Left,
    /// Last Entry
    LastEntry,
}

/// How it is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Comparison {
    /// It is that.
    Equal,
    /// It is more.
    Greater,
    /// It is less.
    Less,
}

/// Which entry of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Segment {
    /// The one before the active one on the way.
    Previous,
    /// The one after it.
    Next,
    /// The last of the way.
    Last,
}

const FIELDS: [(&str, Field); 3] =
    [("srh-hdr-len", Field::Length), ("srh-segs-left", Field::Left), ("srh-last-entry", Field::LastEntry)];
const COMPARISONS: [(&str, Comparison); 3] =
    [("eq", Comparison::Equal), ("gt", Comparison::Greater), ("lt", Comparison::Less)];
const SEGMENTS: [(&str, Segment); 3] =
    [("srh-psid", Segment::Previous), ("srh-nsid", Segment::Next), ("srh-lsid", Segment::Last)];

const NEXT: usize = 0;
/// The first comparison of the first field; three for each.
const COMPARED: usize = 1;
const TAG: usize = 10;
const SID: usize = 11;

/// Bytes before the segments.
const FIXED: usize = 8;
/// The type of the routing header.
const SEGMENT_ROUTING: u8 = 4;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "srh",
    aliases: &[],
    families: Families::Only(Family::V6),
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("srh-next-hdr", &[]).about("N", "number of the next header"),
        Opt::negatable("srh-hdr-len-eq", &[]).about("N", "length of the header in units of 8 bytes, less one"),
        Opt::negatable("srh-hdr-len-gt", &[]).about("N", "the length is more"),
        Opt::negatable("srh-hdr-len-lt", &[]).about("N", "the length is less"),
        Opt::negatable("srh-segs-left-eq", &[]).about("N", "segments left"),
        Opt::negatable("srh-segs-left-gt", &[]).about("N", "more segments are left"),
        Opt::negatable("srh-segs-left-lt", &[]).about("N", "fewer segments are left"),
        Opt::negatable("srh-last-entry-eq", &[]).about("N", "index of the last entry"),
        Opt::negatable("srh-last-entry-gt", &[]).about("N", "the index is more"),
        Opt::negatable("srh-last-entry-lt", &[]).about("N", "the index is less"),
        Opt::negatable("srh-tag", &[]).about("N", "tag, bytes exchanged"),
        Opt::negatable("srh-psid", &[]).about("ADDRESS[/MASK]", "previous segment"),
        Opt::negatable("srh-nsid", &[]).about("ADDRESS[/MASK]", "next segment"),
        Opt::negatable("srh-lsid", &[]).about("ADDRESS[/MASK]", "last segment"),
    ],
    build,
    summary: "the segment routing header of IPv6",
    example: r#"{ srh-segs-left-gt = 0, srh-lsid = "2001:db8::/64", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V6, "-m srh", "="),
        Case::Prints(Family::V6, "-m srh --srh-next-hdr 0x11", "-m srh --srh-next-hdr 17"),
        Case::Prints(Family::V6, "-m srh ! --srh-next-hdr 17", "="),
        Case::Prints(Family::V6, "-m srh --srh-hdr-len-eq 8", "="),
        Case::Prints(Family::V6, "-m srh --srh-hdr-len-gt 8", "="),
        Case::Prints(Family::V6, "-m srh ! --srh-hdr-len-lt 8", "="),
        Case::Prints(Family::V6, "-m srh --srh-segs-left-eq 1", "="),
        Case::Prints(Family::V6, "-m srh ! --srh-segs-left-gt 1", "="),
        Case::Prints(Family::V6, "-m srh --srh-segs-left-lt 1", "="),
        Case::Prints(Family::V6, "-m srh ! --srh-last-entry-eq 4", "="),
        Case::Prints(Family::V6, "-m srh --srh-last-entry-gt 4", "="),
        Case::Prints(Family::V6, "-m srh --srh-last-entry-lt 4", "="),
        Case::Prints(Family::V6, "-m srh --srh-tag 0", "="),
        Case::Prints(Family::V6, "-m srh ! --srh-tag 0xffff", "-m srh ! --srh-tag 65535"),
        Case::Prints(Family::V6, "-m srh --srh-psid ::/0", "="),
        Case::Prints(Family::V6, "-m srh ! --srh-psid a::1/64", "="),
        Case::Prints(Family::V6, "-m srh --srh-nsid a::1", "-m srh --srh-nsid a::1/128"),
        Case::Prints(Family::V6, "-m srh --srh-lsid a::1/ffff::", "-m srh --srh-lsid a::1/16"),
        Case::Prints(
            Family::V6,
            "-m srh --srh-lsid c::/64 ! --srh-nsid b::/64 --srh-psid a::/64 --srh-tag 3 --srh-last-entry-lt 6 ! --srh-last-entry-eq 6 --srh-segs-left-gt 9 --srh-hdr-len-lt 3 --srh-next-hdr 17",
            "-m srh --srh-next-hdr 17 --srh-hdr-len-lt 3 --srh-segs-left-gt 9 ! --srh-last-entry-eq 6 --srh-last-entry-lt 6 --srh-tag 3 --srh-psid a::/64 ! --srh-nsid b::/64 --srh-lsid c::/64",
        ),
        Case::Refused(Family::V6, "-m srh --srh-next-hdr udp", "`udp` is not a number of a header"),
        Case::Refused(Family::V6, "-m srh --srh-hdr-len-eq 256", "`256` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-hdr-len-gt 1:2", "`1:2` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-hdr-len-lt many", "`many` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-segs-left-eq -1", "`-1` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-segs-left-gt 256", "`256` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-segs-left-lt 256", "`256` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-last-entry-eq 256", "`256` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-last-entry-gt 256", "`256` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-last-entry-lt 256", "`256` is not a value of this field"),
        Case::Refused(Family::V6, "-m srh --srh-hdr-len-gt 7 --srh-hdr-len-lt 9", "different numbers for one field"),
        Case::Refused(Family::V6, "-m srh --srh-tag 65536", "`65536` is not a tag"),
        Case::Refused(Family::V6, "-m srh --srh-psid 1.2.3.4", "`1.2.3.4` is an IPv4 address"),
        Case::Refused(Family::V6, "-m srh --srh-psid a::/129", "`129` is not a mask"),
        Case::Refused(Family::V6, "-m srh --srh-nsid c::1,d::1", "`c::1,d::1` is several addresses"),
        Case::Refused(Family::V6, "-m srh --srh-lsid a::1/ffff::ffff", "a mask with gaps"),
        Case::Refused(Family::V6, "-m srh --srh-lsid here", "`here` is not an IPv6 address"),
        Case::Refused(Family::V4, "-m srh", "there is no match `srh` for ipv4"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let mut conds = Vec::new();
    let mut push = |option: &GivenOption, test| conds.push(Cond::new(option.negate, Match::Srh(test)));
    if let Some(option) = given.get(NEXT) {
        let next = word::number(&option.values[0], "a number of a header", 0..=u8::MAX.into())?;
        push(option, Srh::Next(next as u8));
    }
    for (i, (_, field)) in FIELDS.into_iter().enumerate() {
        let mut before = None;
        for (j, (_, comparison)) in COMPARISONS.into_iter().enumerate() {
            let Some(option) = given.get(COMPARED + 3 * i + j) else { continue };
            let value = word::number(&option.values[0], "a value of this field", 0..=u8::MAX.into())? as u8;
            if before.is_some_and(|before| before != value) {
                let what = "different numbers for one field, of which the kernel has one";
                return Err(option.word.complain(what, "the same number, or a second `-m srh`"));
            }
            before = Some(value);
            push(option, Srh::Field(field, comparison, value));
        }
    }
    if let Some(option) = given.get(TAG) {
        let tag = word::number(&option.values[0], "a tag", 0..=u16::MAX.into())?;
        push(option, Srh::Tag(tag as u16));
    }
    for (i, (_, segment)) in SEGMENTS.into_iter().enumerate() {
        let Some(option) = given.get(SID + i) else { continue };
        let (address, length) = address::parse_prefix(&option.values[0], Family::V6)?;
        push(option, Srh::Segment(segment, address, length));
    }
    if conds.is_empty() {
        conds.push(Cond::new(false, Match::Srh(Srh::Header)));
    }
    Ok(conds)
}

/// The header, where it is a sound one.
fn header(l3: &[u8]) -> Option<&[u8]> {
    let header = headers::extension(l3, proto::ROUTING, FIXED).ok()?;
    let &[_, len, SEGMENT_ROUTING, left, last, ..] = header else { return None };
    let is_whole = header.len() >= headers::extension_len(proto::ROUTING, len);
    (is_whole && left <= last).then_some(header)
}

/// An entry of the list; the kernel does not look whether it is in the header, but in the packet.
fn segment(header: &[u8], which: Segment) -> Option<u128> {
    let &[_, _, _, left, last, ..] = header else { return None };
    let index = match which {
        Segment::Previous if left == last => return None,
        Segment::Previous => usize::from(left) + 1,
        Segment::Next => usize::from(left).checked_sub(1)?,
        Segment::Last => 0,
    };
    header.get(FIXED + 16 * index..)?.first_chunk().map(|bytes| u128::from_be_bytes(*bytes))
}

impl Condition for Srh {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let Some(header) = header(cx.l3) else { return Outcome::Never };
        let &[next, len, _, left, last, _, tag, tag_low, ..] = header else { return Outcome::Never };
        match *self {
            Srh::Header => Outcome::Yes,
            Srh::Next(asked) => yes(next == asked),
            Srh::Field(field, comparison, asked) => {
                let value = match field {
                    Field::Length => len,
                    Field::Left => left,
                    Field::LastEntry => last,
                };
                yes(match comparison {
                    Comparison::Equal => value == asked,
                    Comparison::Greater => value > asked,
                    Comparison::Less => value < asked,
                })
            }
            Srh::Tag(asked) => yes(u16::from_le_bytes([tag, tag_low]) == asked),
            Srh::Segment(which, address, length) => match segment(header, which) {
                Some(found) => yes((found ^ address) & Family::V6.mask(length.min(128)) == 0),
                None => Outcome::Never,
            },
        }
    }

    fn print(&self, negate: bool, family: Family, out: &mut String) {
        fn name<T: PartialEq>(names: [(&'static str, T); 3], wanted: T) -> &'static str {
            names.into_iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
        }
        let not = not(negate);
        let _ = match *self {
            Srh::Header => Ok(()),
            Srh::Next(next) => write!(out, "{not} --srh-next-hdr {next}"),
            Srh::Field(field, comparison, value) => {
                write!(out, "{not} --{}-{} {value}", name(FIELDS, field), name(COMPARISONS, comparison))
            }
            Srh::Tag(tag) => write!(out, "{not} --srh-tag {tag}"),
            Srh::Segment(which, address, length) => {
                let _ = write!(out, "{not} --{} ", name(SEGMENTS, which));
                address::print_address(out, family, address);
                write!(out, "/{length}")
            }
        };
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        match self {
            Srh::Segment(_, _, length @ 129..) => Err(format!("a prefix of {length} bits")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{Never, No, Yes};

    fn ask(text: &str, l3: &[u8]) -> Outcome {
        Judge::new(Family::V6, &format!("-m srh {text}")).ask(&Facts::blank(Family::V6), l3)
    }

    /// Three segments, a::1 the last of the way.
    fn packet(kind: u8, left: u8, last: u8) -> Vec<u8> {
        let mut chain = vec![17, 6, kind, left, last, 0, 0x12, 0x34];
        for segment in 1..=3u128 {
            chain.extend((0xa << 112 | segment).to_be_bytes());
        }
        headers::packet(43, &chain)
    }

    #[test]
    fn fields_and_segments_are_compared() {
        let l3 = packet(4, 1, 2);
        for (text, expected) in [
            ("", Yes),
            ("--srh-next-hdr 17", Yes),
            ("! --srh-next-hdr 17", No),
            ("--srh-hdr-len-eq 6", Yes),
            ("--srh-hdr-len-gt 6", No),
            ("! --srh-hdr-len-lt 6", Yes),
            ("--srh-segs-left-eq 1", Yes),
            ("--srh-segs-left-gt 0", Yes),
            ("--srh-segs-left-lt 1", No),
            ("--srh-last-entry-eq 2", Yes),
            ("! --srh-last-entry-gt 1", No),
            ("--srh-last-entry-lt 3", Yes),
            ("--srh-tag 0x3412", Yes),
            ("--srh-tag 0x1234", No),
            ("--srh-psid a::3", Yes),
            ("--srh-psid a::2", No),
            ("--srh-nsid a::1", Yes),
            ("! --srh-nsid a::1", No),
            ("--srh-lsid a::1", Yes),
            ("--srh-lsid a::ffff/64", Yes),
            ("--srh-lsid b::1/8", Yes),
            ("! --srh-lsid b::1/16", Yes),
            ("--srh-lsid ::/0", Yes),
        ] {
            assert_eq!(ask(text, &l3), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_sound_or_not_there_never_matches() {
        for text in ["", "! --srh-next-hdr 5", "! --srh-lsid b::1"] {
            assert_eq!(ask(text, &packet(0, 1, 2)), Never, "{text}");
            assert_eq!(ask(text, &packet(4, 3, 2)), Never, "{text}");
            assert_eq!(ask(text, &packet(4, 1, 2)[..95]), Never, "{text}");
            assert_eq!(ask(text, &packet(4, 1, 2)[..41]), Never, "{text}");
            assert_eq!(ask(text, &headers::packet(17, &[0; 20])), Never, "{text}");
        }
        assert_eq!(ask("! --srh-psid b::1", &packet(4, 2, 2)), Never);
        assert_eq!(ask("! --srh-nsid b::1", &packet(4, 0, 2)), Never);
        assert_eq!(ask("! --srh-psid b::1", &packet(4, 2, 9)), Never);
        assert!(Srh::Segment(Segment::Last, 0, 129).verify(Family::V6).is_err());
    }
}
