//! A rule in iptables syntax, without `-A CHAIN`: `-i lan0 -p tcp --dport 22 -j ACCEPT`.
//!
//! Words are quoted as in a shell and as iptables-save writes them; [`super::sort`] says to what they belong.

use super::build::{self, ParsedRule, Site};
use super::option::{Complaint, Word};
use super::sort::sort_rule;

/// Reads a rule for the families that its site wants. All mistakes that can be told apart are in the answer at once.
pub fn parse_text(text: &str, site: &Site) -> Result<ParsedRule, Vec<Complaint>> {
    let words = words(text, site.base).map_err(|complaint| vec![complaint])?;
    let at = site.base..site.base + text.len();
    build::for_families(site, at, |family| sort_rule(family, &words))
}

/// Splits a rule into words. Double quotes keep blanks, and a backslash in them keeps the next character; single quotes
/// keep everything; outside quotes a backslash keeps the next character too.
fn words(text: &str, base: usize) -> Result<Vec<Word>, Complaint> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        let mut word = String::new();
        let mut quote = None;
        let mut end = text.len();
        while let Some(&(i, c)) = chars.peek() {
            match quote {
                None if c.is_whitespace() => {
                    end = i;
                    break;
                }
                None if c == '"' || c == '\'' => quote = Some((c, i)),
                Some((q, _)) if q == c => quote = None,
                None | Some(('"', _)) if c == '\\' => {
                    chars.next();
                    if let Some(&(_, kept)) = chars.peek() {
                        word.push(kept);
                    }
                }
                _ => word.push(c),
            }
            chars.next();
        }
        if let Some((quote, at)) = quote {
            return Err(Complaint {
                at: base + at..base + text.len(),
                what: "this quote is not closed".to_string(),
                accepts: Some(format!("{quote} at the end of the word")),
            });
        }
        words.push(Word { text: word, at: base + start..base + end });
    }
    Ok(words)
}
