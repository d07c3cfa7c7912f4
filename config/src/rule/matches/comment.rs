//! `-m comment`: a note that always holds (`xt_comment.c`).
//!
//! At most 255 bytes. It is kept, so that listings show it; a control character other than a tab, which a listing could not show, is
//! refused.
//!
//! TOML: `{ comment = "printers of the second floor", jump = "ACCEPT" }`

use super::{Asks, Condition, Match};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, MatchExtension, Opt};
use crate::rule::{Cond, Families, Outcome, word};
use serde::{Deserialize, Serialize};

/// Most bytes of a comment.
pub const MAX: usize = 255;

/// The note.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Comment(pub Box<str>);

/// The description.
pub static EXTENSION: MatchExtension = MatchExtension {
    name: "comment",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[Opt::plain("comment", &[]).about("TEXT", "says something of the rule; asks nothing")],
    build,
    summary: "a note; it always holds",
    example: r#"{ comment = "printers of the second floor", jump = "ACCEPT" }"#,
    cases: &[
        Case::Prints(Family::V4, "-m comment --comment foo", "="),
        Case::Prints(Family::V6, r#"-m comment --comment "foo bar""#, "="),
        Case::Prints(Family::V4, r#"-m comment --comment "a_b-c""#, "-m comment --comment a_b-c"),
        Case::Prints(Family::V4, "-m comment --comment a.b", r#"-m comment --comment "a.b""#),
        Case::Prints(Family::V4, r#"-m comment --comment "it\'s \"so\" \\""#, "="),
        Case::Prints(Family::V4, "-m comment --comment é", r#"-m comment --comment "é""#),
        Case::Prints(Family::V4, r#"-m comment --comment """#, "="),
        Case::Refused(Family::V4, "-m comment", "--comment"),
        Case::Prints(Family::V4, "-m comment --comment \"a\tb\"", "="),
        Case::Refused(Family::V4, "-m comment --comment \"a\nb\"", "a control character"),
    ],
};

fn build(given: &Given) -> Result<Vec<Cond>, Complaint> {
    let Some(word) = given.value(0) else { return Err(given.complain("comment asks for --comment")) };
    let comment = Comment(word.text.as_str().into());
    match comment.verify(given.family) {
        Ok(()) => Ok(vec![Cond::new(false, Match::Comment(comment))]),
        Err(what) => Err(word.complain(what, format!("one line of at most {MAX} bytes"))),
    }
}

impl Condition for Comment {
    #[inline]
    fn test(&self, _: &Facts, _: &Context) -> Outcome {
        Outcome::Yes
    }

    fn print(&self, _: bool, _: Family, out: &mut String) {
        out.push_str(" --comment ");
        word::print_text(out, &self.0);
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        if self.0.len() > MAX {
            return Err(format!("a comment of {} bytes", self.0.len()));
        }
        if self.0.contains(|c: char| c.is_control() && c != '\t') {
            return Err("a comment with a control character".to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{outcome, parse};
    use super::*;

    #[test]
    fn a_comment_always_holds() {
        assert_eq!(outcome("-m comment --comment x", &Facts::blank(Family::V4)), Outcome::Yes);
    }

    #[test]
    fn a_comment_is_as_long_as_the_kernel_allows() {
        for (length, accepted) in [(255, true), (256, false)] {
            let text = format!("-m comment --comment {}", "a".repeat(length));
            assert_eq!(parse(Family::V4, &text).is_ok(), accepted, "{length}");
            assert_eq!(Comment("a".repeat(length).into()).verify(Family::V4).is_ok(), accepted);
        }
    }
}
