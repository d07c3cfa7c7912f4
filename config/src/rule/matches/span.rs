//! A range of 32-bit numbers, as `--ahspi`, `--espspi`, `--fragid` and others ask for one, and what the headers of IPsec share.

use super::{not, yes};
use crate::rule::option::{Complaint, Given, Word};
use crate::rule::{Outcome, word};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Both ends are in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Span {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
}

impl Span {
    /// `N`, `N:M`, `N:`, `:M` or `:`, each from 0 to `most`; `what` names a number in complaints.
    pub fn parse(word: &Word, what: &str, most: u32) -> Result<Span, Complaint> {
        let (first, last) = word::range(word, ':', what, 0..=most.into())?;
        Ok(Span { first: first as u32, last: last as u32 })
    }

    /// What is asked by the option of that index and whether it is negated; none where every number would do. (Negated that
    /// asks for the impossible: iptables-legacy-save leaves it out and with it the meaning, here it stays.)
    pub fn asked(given: &Given, option: usize, what: &str) -> Result<Option<(bool, Span)>, Complaint> {
        let Some(option) = given.get(option) else { return Ok(None) };
        let span = Span::parse(&option.values[0], what, u32::MAX)?;
        let is_all = (span.first, span.last) == (0, u32::MAX);
        Ok((option.negate || !is_all).then_some((option.negate, span)))
    }

    /// Whether the number is in it.
    #[inline]
    pub fn has(self, number: u32) -> bool {
        self.first <= number && number <= self.last
    }

    /// Writes ` --OPTION FIRST[:LAST]`.
    pub fn print(self, option: &str, negate: bool, out: &mut String) {
        let _ = write!(out, "{} --{option} {}", not(negate), self.first);
        if self.first != self.last {
            let _ = write!(out, ":{}", self.last);
        }
    }

    /// Whether its ends are in order.
    pub fn verify(self) -> Result<(), String> {
        if self.first > self.last { Err("a range that runs backwards".to_string()) } else { Ok(()) }
    }
}

/// One condition on a header that has a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Numbered {
    /// The bare match: there is a header.
    Header,
    /// The number is one of these.
    Is(Span),
}

impl Numbered {
    /// What the option of index 0 asks for, and whether it is negated.
    pub fn build(given: &Given, what: &str) -> Result<(bool, Numbered), Complaint> {
        let asked = Span::asked(given, 0, what)?;
        Ok(asked.map_or((false, Numbered::Header), |(negate, span)| (negate, Numbered::Is(span))))
    }

    /// What this says of the number.
    #[inline]
    pub fn test(self, number: Option<u32>) -> Outcome {
        match self {
            Numbered::Header => Outcome::Yes,
            Numbered::Is(span) => yes(number.is_some_and(|number| span.has(number))),
        }
    }

    /// Writes the option, if there is one.
    pub fn print(self, option: &str, negate: bool, out: &mut String) {
        if let Numbered::Is(span) = self {
            span.print(option, negate, out);
        }
    }

    /// Whether a range is in order.
    pub fn verify(self) -> Result<(), String> {
        match self {
            Numbered::Header => Ok(()),
            Numbered::Is(span) => span.verify(),
        }
    }
}
