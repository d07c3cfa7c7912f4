//! `-m string`: bytes somewhere in the packet (`xt_string.c`, `skb_find_text`).
//!
//! Searched is from `--from` on, counted from the IP header, up to where `--to` says: the whole pattern must stand before it.
//! The algorithm makes no difference to what is found: here the search is always Knuth, Morris and Pratt's, whose time is
//! bounded. `--icase` takes the letters of Latin-1 for equal, as the kernel's `toupper` does.
//!
//! `--hex-string` has bytes in hexadecimal between `|`; outside of them a backslash makes the next character plain.
//!
//! TOML: `{ string = "GET /admin", algo = "bm", from = 40, to = 200, jump = "DROP" }`

use super::{Condition, Match, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt, Word};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is searched for, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Text(pub Box<Search>);

/// See [`Text`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Search {
    /// The bytes, as written.
    pub pattern: Vec<u8>,
    /// `--algo`
    pub algorithm: Algorithm,
    /// `--from`
    pub from: u16,
    /// `--to`
    pub to: u16,
    /// `--icase`
    pub ignore_case: bool,
}

/// The name of an algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Algorithm {
    /// Boyer and Moore's.
    Bm,
    /// Knuth, Morris and Pratt's.
    Kmp,
}

const ALGORITHMS: [(&str, Algorithm); 2] = [("bm", Algorithm::Bm), ("kmp", Algorithm::Kmp)];
/// Most bytes of a pattern (`XT_STRING_MAX_PATTERN_SIZE`).
const MOST: usize = 128;

const STRING: usize = 0;
const HEX_STRING: usize = 1;
const ALGO: usize = 2;
const FROM: usize = 3;
const TO: usize = 4;
const ICASE: usize = 5;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "string",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::negatable("string", &[]).about("TEXT", "text that is searched for"),
        Opt::negatable("hex-string", &[]).about("TEXT", "the same with bytes as |0d 0a|"),
        Opt::plain("algo", &[]).about("bm|kmp", "how it is searched for; what is found is the same"),
        Opt::plain("from", &[]).about("OFFSET", "first byte that is searched, from the IP header on"),
        Opt::plain("to", &[]).about("OFFSET", "byte before which the text must end"),
        Opt::flag("icase", &[]).about("", "capital and small letters are the same"),
    ],
    build,
    summary: "bytes somewhere in the packet",
    example: r#"{ string = "GET /admin", algo = "bm", from = 40, to = 200, jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m string --string abc --algo bm", r#"-m string --string "abc" --algo bm"#),
        Case::Prints(Family::V6, "-m string --algo kmp ! --string abc", r#"-m string ! --string "abc" --algo kmp"#),
        Case::Prints(
            Family::V4,
            "-m string --icase --to 0x20 --from 010 --algo kmp --string abc",
            r#"-m string --string "abc" --algo kmp --from 8 --to 32 --icase"#,
        ),
        Case::Prints(
            Family::V4,
            "-m string --string abc --algo kmp --from 0 --to 65535",
            r#"-m string --string "abc" --algo kmp"#,
        ),
        Case::Prints(Family::V4, r#"-m string --string "abc" --algo kmp --from 65535"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "abc" --algo kmp --to 0"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "abc" --algo kmp --from 5 --to 5"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "a b.|c" --algo bm"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "a\"b\\c" --algo bm"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "a'b" --algo bm"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "|61|" --algo bm"#, "="),
        Case::Prints(Family::V4, r#"-m string --string "ab\\" --algo bm"#, r#"-m string --hex-string "|61625c|" --algo bm"#),
        Case::Prints(Family::V4, "-m string --string ü --algo bm", r#"-m string --hex-string "|c3bc|" --algo bm"#),
        Case::Prints(Family::V4, "-m string --string \"a\tb\" --algo bm", r#"-m string --hex-string "|610962|" --algo bm"#),
        Case::Prints(Family::V4, r#"-m string ! --hex-string "|00ff|" --algo bm --from 3"#, "="),
        Case::Prints(Family::V4, r#"-m string --hex-string "|00 FF 0a|" --algo bm"#, r#"-m string --hex-string "|00ff0a|" --algo bm"#),
        Case::Prints(Family::V4, r#"-m string --hex-string "|  61 6263|d" --algo bm"#, r#"-m string --string "abcd" --algo bm"#),
        Case::Prints(Family::V4, r#"-m string --hex-string "a|00|b|01|" --algo bm"#, r#"-m string --hex-string "|61006201|" --algo bm"#),
        Case::Prints(Family::V4, r#"-m string --hex-string "a\\|b\\c" --algo bm"#, r#"-m string --string "a|bc" --algo bm"#),
        Case::Prints(Family::V4, "-m string --hex-string plain --algo bm", r#"-m string --string "plain" --algo bm"#),
        Case::Prints(
            Family::V4,
            "-m string --string 01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567 --algo bm",
            "-m string --string \"01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567\" --algo bm",
        ),
        Case::Refused(
            Family::V4,
            "-m string --string 012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678 --algo bm",
            "129 bytes",
        ),
        Case::Refused(Family::V4, "-m string", "--string or --hex-string"),
        Case::Refused(Family::V4, "-m string --algo bm", "--string or --hex-string"),
        Case::Refused(Family::V4, "-m string --string abc", "string asks for --algo"),
        Case::Refused(Family::V4, "-m string --string abc --hex-string |00| --algo bm", "--string and --hex-string"),
        Case::Refused(Family::V4, r#"-m string --string "" --algo bm"#, "nothing to search for"),
        Case::Refused(Family::V4, "-m string --string abc --algo BM", "`BM` is not an algorithm"),
        Case::Refused(Family::V4, "-m string --string abc --algo fsm", "`fsm` is not an algorithm"),
        Case::Refused(Family::V4, "-m string --string abc --algo bm --from 65536", "`65536` is not an offset"),
        Case::Refused(Family::V4, "-m string --string abc --algo bm --to far", "`far` is not an offset"),
        Case::Refused(Family::V4, "-m string --string abc --algo bm --from 10 --to 5", "ends before it begins"),
        Case::Refused(Family::V4, "-m string --string abc --algo bm ! --icase", "cannot be negated"),
        Case::Refused(Family::V4, "-m string --string abc --algo bm --icase --icase", "twice"),
        Case::Refused(Family::V4, "-m string --hex-string |0 --algo bm", "`|` without its end"),
        Case::Refused(Family::V4, "-m string --hex-string |00 --algo bm", "`|` without its end"),
        Case::Refused(Family::V4, "-m string --hex-string |001| --algo bm", "two hexadecimal digits"),
        Case::Refused(Family::V4, "-m string --hex-string |0g| --algo bm", "two hexadecimal digits"),
        Case::Refused(Family::V4, r#"-m string --hex-string "|61  62|" --algo bm"#, "two hexadecimal digits"),
        Case::Refused(Family::V4, "-m string --hex-string || --algo bm", "two hexadecimal digits"),
        Case::Refused(Family::V4, r#"-m string --hex-string "a\\" --algo bm"#, "backslash at the end"),
        Case::Refused(Family::V4, r#"-m string --hex-string "" --algo bm"#, "nothing to search for"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let (option, pattern) = match (given.get(STRING), given.get(HEX_STRING)) {
        (Some(_), Some(hex)) => return Err(hex.word.complain("--string and --hex-string in one match", "one of the two")),
        (Some(plain), None) => (plain, plain.values[0].text.as_bytes().to_vec()),
        (None, Some(hex)) => (hex, unhex(&hex.values[0])?),
        (None, None) => return Err(given.complain("string asks for --string or --hex-string")),
    };
    if !(1..=MOST).contains(&pattern.len()) {
        let what = match pattern.len() {
            0 => "nothing to search for".to_string(),
            len => format!("a text of {len} bytes"),
        };
        return Err(option.values[0].complain(what, format!("1 to {MOST} bytes")));
    }
    let Some(algo) = given.value(ALGO) else { return Err(given.complain("string asks for --algo")) };
    let named = ALGORITHMS.iter().find(|(name, _)| *name == algo.text);
    let Some(&(_, algorithm)) = named else {
        return Err(algo.complain(format!("`{}` is not an algorithm", algo.text), "bm or kmp"));
    };
    let offset = |index, default: u16| match given.value(index) {
        Some(value) => word::number(value, "an offset", 0..=u16::MAX.into()).map(|n| n as u16),
        None => Ok(default),
    };
    let (from, to) = (offset(FROM, 0)?, offset(TO, u16::MAX)?);
    if from > to {
        return Err(given.complain(format!("what is searched ends before it begins: from {from} to {to}")));
    }
    let ignore_case = given.get(ICASE).is_some();
    let search = Search { pattern, algorithm, from, to, ignore_case };
    Ok(vec![Cond::new(option.negate, Match::String(Text(search.into())))])
}

/// The bytes of a `--hex-string`.
fn unhex(word: &Word) -> Result<Vec<u8>, Complaint> {
    let complain = |what: &str| Err(word.complain(what, "text with bytes in hexadecimal between bars: `GET|0d 0a|`"));
    let mut bytes = Vec::new();
    let mut rest = word.text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = match (first, behind) {
            (b'\\', [plain, behind @ ..]) => {
                bytes.push(*plain);
                behind
            }
            (b'\\', []) => return complain("a backslash at the end"),
            (b'|', block) => {
                let Some(end) = block.iter().position(|&byte| byte == b'|') else {
                    return complain("a `|` without its end");
                };
                let Some(block_bytes) = hex_block(&block[..end]) else {
                    return complain("bytes that are not two hexadecimal digits each, with one blank between at most");
                };
                bytes.extend(block_bytes);
                let behind = &block[end + 1..];
                // iptables takes what follows at once for plain, whatever it is.
                if let [b'|' | b'\\', ..] = behind {
                    return complain("a `|` or a backslash right behind a block");
                }
                behind
            }
            (byte, behind) => {
                bytes.push(*byte);
                behind
            }
        };
    }
    Ok(bytes)
}

/// The bytes between two bars: at least one.
fn hex_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut rest = &block[block.iter().take_while(|&&byte| byte == b' ').count()..];
    let mut bytes = Vec::new();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    loop {
        let &[high, low, ref behind @ ..] = rest else { return None };
        bytes.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = behind.strip_prefix(b" ").unwrap_or(behind);
        if rest.is_empty() {
            return Some(bytes);
        }
    }
}

/// The kernel's `toupper`: of ASCII and Latin-1. It has 0xdf and 0xff for small letters too.
fn upper(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | 0xdf..=0xf6 | 0xf8..=0xff => byte - 32,
        _ => byte,
    }
}

impl Search {
    /// Whether the pattern is in the text: Knuth, Morris and Pratt's search.
    fn is_in(&self, text: &[u8]) -> bool {
        let fold = |byte: u8| if self.ignore_case { upper(byte) } else { byte };
        let pattern = self.pattern.get(..self.pattern.len().min(MOST)).unwrap_or_default();
        // How much of the pattern's beginning its first bytes end with.
        let mut borders = [0u8; MOST];
        let step = |borders: &[u8; MOST], mut had: usize, byte: u8| {
            loop {
                if fold(pattern[had]) == byte {
                    return had + 1;
                }
                if had == 0 {
                    return 0;
                }
                had = borders[had - 1].into();
            }
        };
        let mut had = 0;
        for i in 1..pattern.len() {
            had = step(&borders, had, fold(pattern[i]));
            borders[i] = had as u8;
        }
        let mut had = 0;
        !pattern.is_empty()
            && text.iter().any(|&byte| {
                had = step(&borders, had, fold(byte));
                had == pattern.len()
            })
    }
}

impl Condition for Text {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let end = cx.l3.len().min(self.0.to.into());
        yes(self.0.is_in(cx.l3.get(self.0.from.into()..end).unwrap_or_default()))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let Search { pattern, algorithm, from, to, ignore_case } = &*self.0;
        let _ = write!(out, "{} --", not(negate));
        let printable = pattern.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if printable && pattern.last() != Some(&b'\\') {
            out.push_str("string \"");
            for &byte in pattern {
                if let b'"' | b'\\' = byte {
                    out.push('\\');
                }
                out.push(byte.into());
            }
            out.push('"');
        } else {
            out.push_str("hex-string \"|");
            for byte in pattern {
                let _ = write!(out, "{byte:02x}");
            }
            out.push_str("|\"");
        }
        let named = ALGORITHMS.iter().find(|(_, a)| a == algorithm);
        let _ = write!(out, " --algo {}", named.map_or("", |(name, _)| name));
        if *from != 0 {
            let _ = write!(out, " --from {from}");
        }
        if *to != u16::MAX {
            let _ = write!(out, " --to {to}");
        }
        if *ignore_case {
            out.push_str(" --icase");
        }
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let Search { pattern, from, to, .. } = &*self.0;
        if !(1..=MOST).contains(&pattern.len()) {
            return Err(format!("a text of {} bytes", pattern.len()));
        }
        if from > to { Err("a search that ends before it begins".to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{No, Yes};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    fn ask(text: &str, l3: &[u8]) -> Outcome {
        Judge::new(Family::V4, &format!("-m string {text}")).ask(&Facts::blank(Family::V4), l3)
    }

    #[test]
    fn text_is_found_where_it_is_whole_inside_of_what_is_searched() {
        for (text, expected) in [
            ("--string abc", Yes),
            ("! --string abc", No),
            ("--string abd", No),
            ("! --string abd", Yes),
            ("--string abc --from 2", Yes),
            ("--string abc --from 3", No),
            ("--string abc --to 5", Yes),
            ("--string abc --to 4", No),
            ("--string abc --from 2 --to 5", Yes),
            ("--string abc --from 5 --to 5", No),
            ("--string abc --from 65535", No),
            ("--string ABC", No),
            ("--string ABC --icase", Yes),
            ("--hex-string |787961|", Yes),
            ("--hex-string |626300|", No),
        ] {
            for algo in ["bm", "kmp"] {
                assert_eq!(ask(&format!("{text} --algo {algo}"), b"xyabcaz"), expected, "{text}");
            }
        }
        assert_eq!(ask("--string a --algo bm", &[]), No);
    }

    #[test]
    fn letters_of_latin_1_are_folded_as_the_kernel_folds_them() {
        for (hex, byte, expected) in [
            ("e9", 0xc9, Yes),
            ("c9", 0xe9, Yes),
            ("f7", 0xd7, No),
            ("d7", 0xf7, No),
            ("df", 0xdf, Yes),
            ("ff", 0xff, Yes),
            ("ff", 0xdf, No),
            ("40", 0x60, No),
        ] {
            assert_eq!(ask(&format!("--hex-string |{hex}| --algo kmp --icase"), &[byte]), expected, "{hex} {byte:x}");
        }
    }

    #[test]
    fn what_the_parser_cannot_make_does_not_verify() {
        let search = Search { pattern: vec![1], algorithm: Algorithm::Bm, from: 0, to: 9, ignore_case: false };
        let text = |search: Search| Text(Box::new(search));
        assert!(text(search.clone()).verify(Family::V4).is_ok());
        assert!(text(Search { pattern: Vec::new(), ..search.clone() }).verify(Family::V4).is_err());
        assert!(text(Search { pattern: vec![0; 129], ..search.clone() }).verify(Family::V4).is_err());
        assert!(text(Search { from: 10, ..search }).verify(Family::V4).is_err());
    }

    proptest! {
        #[test]
        fn the_search_finds_what_is_there(
            pattern in proptest::collection::vec(b'a'..=b'b', 1..9),
            text in proptest::collection::vec(b'a'..=b'b', 0..64),
            capitals in any::<u64>(),
        ) {
            let there = text.windows(pattern.len()).any(|window| window == pattern);
            let search = Search { pattern, algorithm: Algorithm::Kmp, from: 0, to: 9, ignore_case: false };
            prop_assert_eq!(search.is_in(&text), there);
            let text: Vec<u8> = text.iter().enumerate().map(|(i, b)| b & !((capitals >> i & 1) as u8 * 32)).collect();
            prop_assert_eq!(Search { ignore_case: true, ..search }.is_in(&text), there);
        }
    }
}
