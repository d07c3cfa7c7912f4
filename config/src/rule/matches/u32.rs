//! `-m u32`: words of the packet, computed with and compared (`xt_u32.c`).
//!
//! ```text
//!   0 >> 28 = 4 && 8 & 0xff0000 >> 16 = 6, 17         IPv4, and TCP or UDP
//!   0 >> 22 & 0x3c @ 0 >> 24 = 0                      first byte behind the IPv4 header is 0
//! ```
//!
//! A test begins with the big-endian word at an offset of the packet, from its IP header on. `&`, `<<` and `>>` compute with it
//! from left to right; `@` goes on from as far behind the last such place as the value says, with the word at an offset there.
//! The value must be in one of the ranges behind `=`, and all tests must hold. A word that is not all inside the packet makes
//! the whole false, so that `! --u32` holds.
//!
//! TOML: `{ u32 = "0 >> 22 & 0x3c @ 0 >> 24 = 0", jump = "DROP" }`

use super::span::Span;
use super::{Condition, Match, headers, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Tests that all must hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct U32(pub Box<[Test]>);

/// One test.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Test {
    /// Offset of the first word.
    pub start: u32,
    /// What is done with it, in order.
    pub steps: Vec<Step>,
    /// What it may be then.
    pub values: Vec<Span>,
}

/// An operator and its operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// `&`
    And(u32),
    /// `<<`
    Left(u32),
    /// `>>`
    Right(u32),
    /// `@`
    At(u32),
}

/// Most tests, numbers before a `=` and ranges behind it (`XT_U32_MAXSIZE`).
const MOST: usize = 10;

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "u32",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::negatable("u32", &[]).about("TESTS", "OFFSET[OP N]...=N[:N][,...], joined by &&; OP is &, <<, >> or @")],
    build,
    summary: "words of the packet, computed with and compared",
    example: r#"{ u32 = "0 >> 22 & 0x3c @ 0 >> 24 = 0", jump = "DROP" }"#,
    cases: &[
        Case::Prints(Family::V4, r#"-m u32 --u32 "0x0=0x0""#, "="),
        Case::Prints(Family::V4, "-m u32 --u32 0=0", r#"-m u32 --u32 "0x0=0x0""#),
        Case::Prints(Family::V6, r#"-m u32 ! --u32 "0>>28=6""#, r#"-m u32 ! --u32 "0x0>>0x1c=0x6""#),
        Case::Prints(
            Family::V4,
            r#"-m u32 --u32 "0>>28=4&&8&0xff0000>>16=6,17""#,
            r#"-m u32 --u32 "0x0>>0x1c=0x4&&0x8&0xff0000>>0x10=0x6,0x11""#,
        ),
        Case::Prints(
            Family::V4,
            r#"-m u32 --u32 "6&0xFF=1 && 4 & 0x3FFF=0 && 0>>22&0x3C @ 0>>24=0""#,
            r#"-m u32 --u32 "0x6&0xff=0x1&&0x4&0x3fff=0x0&&0x0>>0x16&0x3c@0x0>>0x18=0x0""#,
        ),
        Case::Prints(Family::V4, r#"-m u32 --u32 " 0 = 1 : 2 , 3 ""#, r#"-m u32 --u32 "0x0=0x1:0x2,0x3""#),
        Case::Prints(Family::V4, r#"-m u32 --u32 "010<<31=5:5""#, r#"-m u32 --u32 "0x8<<0x1f=0x5""#),
        Case::Prints(Family::V4, r#"-m u32 --u32 "+1=0X1F""#, r#"-m u32 --u32 "0x1=0x1f""#),
        Case::Prints(Family::V4, r#"-m u32 --u32 "4294967295=0:4294967295""#, r#"-m u32 --u32 "0xffffffff=0x0:0xffffffff""#),
        Case::Prints(
            Family::V4,
            r#"-m u32 --u32 "0x0@0x1@0x2@0x3@0x4@0x5@0x6@0x7@0x8@0x9=0x0,0x1,0x2,0x3,0x4,0x5,0x6,0x7,0x8,0x9""#,
            "=",
        ),
        Case::Prints(
            Family::V4,
            r#"-m u32 --u32 "0x0=0x1&&0x1=0x1&&0x2=0x1&&0x3=0x1&&0x4=0x1&&0x5=0x1&&0x6=0x1&&0x7=0x1&&0x8=0x1&&0x9=0x1""#,
            "=",
        ),
        Case::Prints(Family::V4, r#"-m u32 --u32 "0x0=0x1" -m u32 ! --u32 "0x1=0x1""#, "="),
        Case::Refused(Family::V4, "-m u32", "u32 asks for --u32"),
        Case::Refused(Family::V4, r#"-m u32 --u32 """#, "a number is missing at the end"),
        Case::Refused(Family::V4, "-m u32 --u32 0", "a test without `=`"),
        Case::Refused(Family::V4, "-m u32 --u32 0=", "a number is missing at the end"),
        Case::Refused(Family::V4, "-m u32 --u32 =5", "a number is missing before `=5`"),
        Case::Refused(Family::V4, "-m u32 --u32 0==5", "a number is missing before `=5`"),
        Case::Refused(Family::V4, "-m u32 --u32 0=5&&", "a number is missing at the end"),
        Case::Refused(Family::V4, "-m u32 --u32 0=5&1=1", "`&1=1`"),
        Case::Refused(Family::V4, "-m u32 --u32 0=5||1=1", "`||1=1`"),
        Case::Refused(Family::V4, r#"-m u32 --u32 "0 5=5""#, "`5=5`"),
        Case::Refused(Family::V4, r#"-m u32 --u32 "0> >5=5""#, "`> >5=5`"),
        Case::Refused(Family::V4, "-m u32 --u32 0=,5", "a number is missing before `,5`"),
        Case::Refused(Family::V4, "-m u32 --u32 0=5:", "a number is missing at the end"),
        Case::Refused(Family::V4, "-m u32 --u32 0=08", "`08` is not a number"),
        Case::Refused(Family::V4, "-m u32 --u32 0=-1", "a number is missing before `-1`"),
        Case::Refused(Family::V4, "-m u32 --u32 4294967296=1", "`4294967296` is not a number"),
        Case::Refused(Family::V4, "-m u32 --u32 0<<32=0", "a shift by 32 bits"),
        Case::Refused(Family::V4, "-m u32 --u32 0=5:3", "runs backwards"),
        Case::Refused(Family::V4, "-m u32 --u32 0=1,2,3,4,5,6,7,8,9,10,11", "more than 10 values"),
        Case::Refused(Family::V4, "-m u32 --u32 0&1&2&3&4&5&6&7&8&9&10=1", "more than 10 numbers"),
        Case::Refused(
            Family::V4,
            "-m u32 --u32 0=1&&1=1&&2=1&&3=1&&4=1&&5=1&&6=1&&7=1&&8=1&&9=1&&10=1",
            "more than 10 tests",
        ),
        Case::Refused(Family::V4, "-m u32 --u32 0=1 --u32 1=1", "twice"),
    ],
};

const GRAMMAR: &str = "tests such as `6&0xff=6&&0>>22&0x3c@0=0:5,9`: numbers with &, <<, >> and @, then = and values";

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(option) = given.get(0) else { return Err(given.complain("u32 asks for --u32")) };
    let word = &option.values[0];
    let tests = Reader { rest: word.text.trim_start() }.tests().map_err(|what| word.complain(what, GRAMMAR))?;
    Ok(vec![Cond::new(option.negate, Match::U32(U32(tests.into())))])
}

/// What is left to read; blanks before it are gone.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn tests(&mut self) -> Result<Vec<Test>, String> {
        let mut tests = Vec::new();
        loop {
            if tests.len() == MOST {
                return Err(format!("more than {MOST} tests"));
            }
            tests.push(self.test()?);
            if self.rest.is_empty() {
                return Ok(tests);
            }
            if !self.takes("&&") {
                return Err(format!("`{}` can follow no value", self.rest));
            }
        }
    }

    fn test(&mut self) -> Result<Test, String> {
        let mut test = Test { start: self.number()?, steps: Vec::new(), values: Vec::new() };
        while !self.takes("=") {
            let make: fn(u32) -> Step = if self.takes("&") {
                Step::And
            } else if self.takes("<<") {
                Step::Left
            } else if self.takes(">>") {
                Step::Right
            } else if self.takes("@") {
                Step::At
            } else if self.rest.is_empty() {
                return Err("a test without `=`".to_string());
            } else {
                return Err(format!("`{}` begins with no operator", self.rest));
            };
            if test.steps.len() + 1 == MOST {
                return Err(format!("more than {MOST} numbers before a `=`"));
            }
            test.steps.push(make(self.number()?));
        }
        loop {
            if test.values.len() == MOST {
                return Err(format!("more than {MOST} values in a test"));
            }
            let first = self.number()?;
            let last = if self.takes(":") { self.number()? } else { first };
            test.values.push(Span { first, last });
            if !self.takes(",") {
                return test.verify().map(|()| test);
            }
        }
    }

    fn takes(&mut self, sign: &str) -> bool {
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest).trim_start();
        rest.is_some()
    }

    /// A number as strtoul(3) reads it, which takes a `+`.
    fn number(&mut self) -> Result<u32, String> {
        let unsigned = self.rest.strip_prefix('+').unwrap_or(self.rest);
        let end = unsigned.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(unsigned.len());
        let (number, rest) = unsigned.split_at(end);
        if number.is_empty() {
            return Err(match self.rest {
                "" => "a number is missing at the end".to_string(),
                rest => format!("a number is missing before `{rest}`"),
            });
        }
        self.rest = rest.trim_start();
        let value = word::integer(number).and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| format!("`{number}` is not a number of 32 bits"))
    }
}

impl Test {
    /// The value that is compared; none where a word is not inside of the packet.
    fn value(&self, l3: &[u8]) -> Option<u32> {
        let mut base = 0u32;
        let mut value = headers::word_at(l3, self.start as usize)?;
        for step in &self.steps {
            value = match *step {
                Step::And(number) => value & number,
                Step::Left(number) => value.checked_shl(number)?,
                Step::Right(number) => value.checked_shr(number)?,
                Step::At(number) => {
                    base = base.checked_add(value)?;
                    headers::word_at(l3, (base as usize).checked_add(number as usize)?)?
                }
            };
        }
        Some(value)
    }

    fn verify(&self) -> Result<(), String> {
        if self.values.is_empty() || self.values.len() > MOST || self.steps.len() >= MOST {
            return Err("a test with too many numbers, or none to compare with".to_string());
        }
        for step in &self.steps {
            if let Step::Left(number @ 32..) | Step::Right(number @ 32..) = step {
                return Err(format!("a shift by {number} bits, of 32"));
            }
        }
        self.values.iter().try_for_each(|span| span.verify())
    }

    fn print(&self, out: &mut String) {
        let _ = write!(out, "{:#x}", self.start);
        for step in &self.steps {
            let (sign, number) = match step {
                Step::And(number) => ("&", number),
                Step::Left(number) => ("<<", number),
                Step::Right(number) => (">>", number),
                Step::At(number) => ("@", number),
            };
            let _ = write!(out, "{sign}{number:#x}");
        }
        for (i, Span { first, last }) in self.values.iter().enumerate() {
            let _ = write!(out, "{}{first:#x}", if i == 0 { "=" } else { "," });
            if first != last {
                let _ = write!(out, ":{last:#x}");
            }
        }
    }
}

impl Condition for U32 {
    fn test(&self, _: &Facts, cx: &Context) -> Outcome {
        let holds =
            |test: &Test| test.value(cx.l3).is_some_and(|value| test.values.iter().any(|span| span.has(value)));
        yes(self.0.iter().all(holds))
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} --u32 \"", not(negate));
        for (i, test) in self.0.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { "&&" });
            test.print(out);
        }
        out.push('"');
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.0.is_empty() || self.0.len() > MOST {
            return Err(format!("{} tests", self.0.len()));
        }
        self.0.iter().try_for_each(Test::verify)
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::Judge;
    use super::*;
    use Outcome::{No, Yes};

    const PACKET: [u8; 12] = [0x45, 0, 0, 12, 0, 0, 0, 4, 0xde, 0xad, 0xbe, 0xef];

    fn ask(text: &str, l3: &[u8]) -> Outcome {
        Judge::new(Family::V4, &format!("-m u32 {text}")).ask(&Facts::blank(Family::V4), l3)
    }

    #[test]
    fn words_are_computed_with_from_left_to_right_and_compared() {
        for (text, expected) in [
            ("0=0x4500000c", Yes),
            ("0=0x4500000d", No),
            ("0>>28=4", Yes),
            ("0>>24&0xf=5", Yes),
            ("0&0xff<<4=0xc0", Yes),
            ("0<<28=0xc0000000", Yes),
            ("1=0x000c00", Yes),
            ("8=0xdeadbeef", Yes),
            ("8=1:5,0xdead0000:0xdeadffff", Yes),
            ("8=1:5,7", No),
            ("4@4=0xdeadbeef", Yes),
            ("4@0@0=0", No), // 4, then the word there is 4 as well, then the word at 8
            ("4@0@0=0xdeadbeef", Yes),
            ("4@0&1@4=0xdeadbeef", Yes), // 4 + (4 & 1) + 4
            ("0>>28=4&&8=0xdeadbeef", Yes),
            ("0>>28=4&&8=0", No),
            ("0>>28=5&&8=0xdeadbeef", No),
        ] {
            assert_eq!(ask(&format!("--u32 \"{text}\""), &PACKET), expected, "{text}");
            let negated = if expected == Yes { No } else { Yes };
            assert_eq!(ask(&format!("! --u32 \"{text}\""), &PACKET), negated, "! {text}");
        }
    }

    #[test]
    fn what_is_not_in_the_packet_is_false() {
        for text in ["9=0:0xffffffff", "0xffffffff=0:0xffffffff", "8@0=0:0xffffffff", "4@5=0:0xffffffff", "4@0xffffffff=0:0xffffffff", "8@0@0=0:0xffffffff"] {
            assert_eq!(ask(&format!("--u32 {text}"), &PACKET), No, "{text}");
            assert_eq!(ask(&format!("! --u32 {text}"), &PACKET), Yes, "{text}");
        }
        for len in 0..4 {
            assert_eq!(ask("--u32 0=0:0xffffffff", &PACKET[..len]), No, "{len}");
        }
    }

    #[test]
    fn what_the_parser_cannot_make_does_not_verify() {
        let test = Test { start: 0, steps: Vec::new(), values: vec![Span { first: 0, last: 0 }] };
        assert!(U32([test.clone()].into()).verify(Family::V4).is_ok());
        let broken = [
            U32(Box::new([])),
            U32(vec![test.clone(); 11].into()),
            U32([Test { values: Vec::new(), ..test.clone() }].into()),
            U32([Test { values: vec![Span { first: 2, last: 1 }], ..test.clone() }].into()),
            U32([Test { steps: vec![Step::Right(32)], ..test.clone() }].into()),
            U32([Test { steps: vec![Step::And(0); 10], ..test }].into()),
        ];
        for tests in broken {
            assert!(tests.verify(Family::V4).is_err(), "{tests:?}");
        }
    }
}
