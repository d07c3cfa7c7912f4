//! `-m mac`: the source MAC of the frame (`xt_mac.c`); in PREROUTING, INPUT and FORWARD.
//!
//! A packet without a link header (the router's own) never matches, negated or not.
//!
//! TOML: `{ mac-source = "00:11:22:aa:bb:cc", jump = "ACCEPT" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Hook, Outcome};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// `--mac-source`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "mac",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: Hook::Prerouting.bit() | Hook::Input.bit() | Hook::Forward.bit(),
    options: &[Opt::negatable("mac-source", &[]).about("XX:XX:XX:XX:XX:XX", "the MAC of who sent the frame")],
    build,
    summary: "the source MAC of the frame",
    example: r#"{ mac-source = "00:11:22:aa:bb:cc", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(
            Family::V4,
            "-m mac --mac-source 00:11:22:aa:BB:cc",
            "-m mac --mac-source 00:11:22:aa:bb:cc",
        ),
        Case::Prints(Family::V6, "-m mac ! --mac-source 0:1:2:3:4:5", "-m mac ! --mac-source 00:01:02:03:04:05"),
        Case::Prints(Family::V4, "-m mac --mac-source ff:ff:ff:ff:ff:ff", "="),
        Case::Refused(Family::V4, "-m mac --mac-source 00:11:22:33:44", "is not a MAC address"),
        Case::Refused(Family::V4, "-m mac --mac-source 00-11-22-33-44-55", "is not a MAC address"),
        Case::Refused(Family::V4, "-m mac --mac-source 00:11:22:33:44:gg", "is not a MAC address"),
        Case::Refused(Family::V4, "-m mac --mac-source 00:11:22:33:44:+5", "is not a MAC address"),
        Case::Refused(Family::V4, "-m mac", "--mac-source"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("mac asks for --mac-source")) };
    let mac = parse(&option.values[0])?;
    Ok(vec![Cond::new(option.negate, Match::Mac(Mac(mac)))])
}

/// Six bytes of one or two hexadecimal digits, with colons between.
pub fn parse(word: &Word) -> Result<[u8; 6], Complaint> {
    let byte = |text: &str| {
        let digits = matches!(text.len(), 1 | 2) && text.chars().all(|c| c.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    let bytes: Option<Vec<u8>> = word.text.split(':').map(byte).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        word.complain(format!("`{}` is not a MAC address", word.text), "six hexadecimal bytes such as 00:11:22:aa:bb:cc")
    })
}

impl Condition for Mac {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        if facts.has_link { yes(facts.smac == self.0) } else { Outcome::Never }
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let [a, b, c, d, e, f] = self.0;
        let _ = write!(out, "{} --mac-source {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}", not(negate));
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::outcome;
    use super::*;
    use Outcome::{Never, No, Yes};

    #[test]
    fn the_source_of_the_frame_counts_and_without_a_frame_nothing_does() {
        for (text, has_link, expected) in [
            ("--mac-source 2:0:0:0:0:1", true, Yes),
            ("--mac-source 2:0:0:0:0:2", true, No),
            ("! --mac-source 2:0:0:0:0:2", true, Yes),
            ("--mac-source 2:0:0:0:0:1", false, Never),
            ("! --mac-source 2:0:0:0:0:2", false, Never),
        ] {
            let facts =
                Facts { smac: [2, 0, 0, 0, 0, 1], dmac: [2, 0, 0, 0, 0, 2], has_link, ..Facts::blank(Family::V4) };
            assert_eq!(outcome(&format!("-m mac {text}"), &facts), expected, "{text} {has_link}");
        }
    }
}
