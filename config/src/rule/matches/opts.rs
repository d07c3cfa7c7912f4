//! Options of IPv6: what `dst` and `hbh` share (`ip6t_hbh.c`).
//!
//! A packet without the header never matches, negated or not; one whose headers are cut short is dropped.

use super::{headers, not, yes};
use crate::facts::Context;
use crate::rule::option::{Complaint, Given, Word};
use crate::rule::{Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One condition on a header of options.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Options {
    /// The bare match: there is such a header.
    Header,
    /// Bytes of the header.
    Length(u32),
    /// Its first options, in order.
    First(Box<[Kind]>),
}

/// What one option must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kind {
    /// Its type.
    pub kind: u8,
    /// Bytes of its value; [`ANY`] are any.
    pub length: u8,
}

/// The length that stands for any.
const ANY: u8 = 255;
/// The option that has no length.
const PAD1: u8 = 0;
/// Most options in a rule (`IP6T_OPTS_OPTSNR`).
const MOST: usize = 16;

/// What the options of index 0, the length, and of index 1, the list, ask for, and whether it is negated.
pub fn build(given: &Given) -> Result<Vec<(bool, Options)>, Complaint> {
    let mut asked = Vec::new();
    if let Some(option) = given.get(0) {
        let length = word::number(&option.values[0], "a length", 0..=u32::MAX.into())?;
        asked.push((option.negate, Options::Length(length as u32)));
    }
    if let Some(list) = given.value(1) {
        let kinds = word::split(list, ',').iter().map(kind).collect::<Result<Vec<_>, _>>()?;
        if kinds.len() > MOST {
            return Err(list.complain(format!("{} options", kinds.len()), format!("at most {MOST}")));
        }
        asked.push((false, Options::First(kinds.into())));
    }
    if asked.is_empty() {
        asked.push((false, Options::Header));
    }
    Ok(asked)
}

fn kind(part: &Word) -> Result<Kind, Complaint> {
    let byte = |word: &Word, what| word::number(word, what, 0..=255).map(|n| n as u8);
    let Some((kind, length)) = word::split_once(part, ':') else {
        return Ok(Kind { kind: byte(part, "a type of option")?, length: ANY });
    };
    let (kind, length) = (byte(&kind, "a type of option")?, byte(&length, "a length of an option")?);
    if kind == PAD1 {
        return Err(part.complain("the option of type 0 has no length", "`0` alone"));
    }
    Ok(Kind { kind, length })
}

/// Whether the header begins with options like these. One that goes beyond the header may only be the last asked for.
fn begins_with(kinds: &[Kind], mut options: &[u8]) -> bool {
    for (i, asked) in kinds.iter().enumerate() {
        let len = match *options {
            [PAD1, ..] if asked.kind == PAD1 => 1,
            [kind, length, ..] if kind == asked.kind && kind != PAD1 => {
                if asked.length != ANY && asked.length != length {
                    return false;
                }
                usize::from(length) + 2
            }
            _ => return false,
        };
        match options.get(len..) {
            Some(rest) => options = rest,
            None => return i + 1 == kinds.len(),
        }
    }
    true
}

impl Options {
    /// What this says of the first header of that kind in the packet.
    pub fn test(&self, kind: u8, cx: &Context) -> Outcome {
        let header = match headers::extension(cx.l3, kind, 2) {
            Ok(header) => header,
            Err(outcome) => return outcome,
        };
        let length = headers::extension_len(kind, header.get(1).copied().unwrap_or(0));
        // A packet smaller than the length says never matches, negated or not.
        let Some(whole) = header.get(..length) else { return Outcome::Never };
        match self {
            Options::Header => Outcome::Yes,
            Options::Length(asked) => yes(length == *asked as usize),
            Options::First(kinds) => yes(begins_with(kinds, whole.get(2..).unwrap_or_default())),
        }
    }

    /// Writes the option; those of `dst` and `hbh` are named after the match.
    pub fn print(&self, name: &str, negate: bool, out: &mut String) {
        match self {
            Options::Header => {}
            Options::Length(length) => {
                let _ = write!(out, "{} --{name}-len {length}", not(negate));
            }
            Options::First(kinds) => {
                let _ = write!(out, " --{name}-opts ");
                for (i, Kind { kind, length }) in kinds.iter().enumerate() {
                    let _ = write!(out, "{}{kind}", if i == 0 { "" } else { "," });
                    if *length != ANY {
                        let _ = write!(out, ":{length}");
                    }
                }
            }
        }
    }

    /// Whether the parser could have made it.
    pub fn verify(&self) -> Result<(), String> {
        let Options::First(kinds) = self else { return Ok(()) };
        if !(1..=MOST).contains(&kinds.len()) {
            return Err(format!("a list of {} options", kinds.len()));
        }
        match kinds.iter().any(|kind| kind.kind == PAD1 && kind.length != ANY) {
            true => Err("the option of type 0 with a length".to_string()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use crate::facts::{Facts, Family, proto};
    use Outcome::{Hotdrop, Never, No, Yes};

    fn ask(text: &str, l3: &[u8]) -> [Outcome; 2] {
        [("hbh", proto::HOPOPTS), ("dst", proto::DSTOPTS)].map(|(name, kind)| {
            let mut l3 = l3.to_vec();
            l3[6] = kind;
            let text = text.replace("NAME", name);
            Judge::new(Family::V6, &format!("-m {name} {text}")).ask(&Facts::blank(Family::V6), &l3)
        })
    }

    #[test]
    fn length_and_first_options_are_compared() {
        // router alert, PadN of 2, Pad1, an option of 5 bytes: 16 bytes
        let options = [6, 1, 5, 2, 0, 0, 1, 0, 0, 0x1e, 5, 1, 2, 3, 4, 5];
        for (text, expected) in [
            ("", Yes),
            ("--NAME-len 16", Yes),
            ("! --NAME-len 16", No),
            ("--NAME-len 1", No),
            ("! --NAME-len 0", Yes),
            ("--NAME-opts 5", Yes),
            ("--NAME-opts 5:2", Yes),
            ("--NAME-opts 5:3", No),
            ("--NAME-opts 6", No),
            ("--NAME-opts 5,1:0,0,30:5", Yes),
            ("--NAME-opts 5,1,0,30,0", No),
            ("--NAME-opts 5,0", No),
            ("--NAME-opts 5,1,0,30:5 --NAME-len 16", Yes),
            ("--NAME-opts 5,1,0,30:5 --NAME-len 8", No),
        ] {
            assert_eq!(ask(text, &headers::packet(0, &options)), [expected; 2], "{text}");
        }
    }

    #[test]
    fn an_option_that_goes_too_far_may_be_the_last() {
        let options = [6, 0, 1, 200, 0, 0, 0, 0];
        for (text, expected) in [("1", Yes), ("1:200", Yes), ("1,0", No)] {
            assert_eq!(ask(&format!("--NAME-opts {text}"), &headers::packet(0, &options)), [expected; 2], "{text}");
        }
        assert_eq!(ask("--NAME-opts 1:0,1", &headers::packet(0, &[6, 0, 1, 0, 1, 0, 0, 1])), [Yes; 2]);
        assert_eq!(ask("--NAME-opts 1,1,0,1", &headers::packet(0, &[6, 0, 1, 0, 1, 0, 0, 1])), [No; 2]);
    }

    #[test]
    fn without_the_header_nothing_matches_and_half_of_it_drops() {
        for text in ["", "! --NAME-len 3", "--NAME-opts 0"] {
            let mut l3 = headers::packet(43, &[6, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(Judge::new(Family::V6, "-m dst").ask(&Facts::blank(Family::V6), &l3), Never);
            l3.truncate(41);
            assert_eq!(ask(text, &l3), [Hotdrop; 2], "{text}");
            assert_eq!(ask(text, &headers::packet(0, &[6, 1, 0, 0, 0, 0, 0, 0])), [Never; 2], "{text}");
        }
    }

    #[test]
    fn what_the_parser_cannot_make_does_not_verify() {
        let list = |kinds: Vec<Kind>| Options::First(kinds.into()).verify();
        assert!(list(vec![Kind { kind: 1, length: 4 }]).is_ok());
        assert!(list(Vec::new()).is_err());
        assert!(list(vec![Kind { kind: 1, length: ANY }; 17]).is_err());
        assert!(list(vec![Kind { kind: 0, length: 4 }]).is_err());
    }
}
