//! Where complaints are gathered while a file is read, and how they suggest what was meant.

use crate::diag::{Diagnostic, Label, Severity};
use std::ops::Range;

/// All complaints about a file so far.
pub(super) struct Sink {
    found: Vec<Diagnostic>,
    /// The file is broken TOML: what is missing or does not fit together may be the fault of that, and is not complained of.
    broken: bool,
}

/// A complaint just made, for more words on it; none where it was held back.
pub(super) struct Complaint<'s>(Option<&'s mut Diagnostic>);

impl Sink {
    /// No complaints yet, about a file whose TOML is `broken` or not.
    pub fn new(broken: bool) -> Sink {
        Sink { found: Vec::new(), broken }
    }

    /// Complains of something that makes the file unusable.
    pub fn error(&mut self, at: Range<usize>, message: impl Into<String>) -> Complaint<'_> {
        self.push(Diagnostic::error(at, message))
    }

    /// Complains that something is missing, or that two places of the file do not fit together.
    pub fn conflict(&mut self, at: Range<usize>, message: impl Into<String>) -> Complaint<'_> {
        if self.broken { Complaint(None) } else { self.error(at, message) }
    }

    /// Complains of something that is probably not meant.
    pub fn warning(&mut self, at: Range<usize>, message: impl Into<String>) -> Complaint<'_> {
        if self.broken {
            return Complaint(None);
        }
        self.push(Diagnostic::warning(at, message))
    }

    /// Adds a complaint.
    pub fn push(&mut self, diagnostic: Diagnostic) -> Complaint<'_> {
        self.found.push(diagnostic);
        Complaint(self.found.last_mut())
    }

    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// Forgets the complaints that `keep` refuses.
    pub fn retain(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.found.retain(keep);
    }

    /// All of them in the order of the file, each once.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| (d.at.start, d.at.end));
        self.found.dedup();
        self.found
    }
}

impl Complaint<'_> {
    /// Says what would be accepted.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.help = Some(help.into());
        }
        self
    }

    /// Points at another place.
    pub fn label(mut self, at: Range<usize>, message: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.labels.push(Label { at, message: message.into() });
        }
        self
    }
}

/// Which of `known` was probably meant by `word`.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Beyond this length no name is near, and the comparison costs the product of both lengths.
    if word.len() > 64 {
        return None;
    }
    let near = |name: &&'k str| {
        let likeness = strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase());
        let bound = (name.len().max(word.len()) / 3).max(1);
        (likeness <= bound).then_some((likeness, *name))
    };
    known.iter().filter_map(near).min_by_key(|(likeness, _)| *likeness).map(|(_, name)| name)
}

/// ``did you mean `mtu`?``, or the list of what is known.
pub(super) fn suggest(word: &str, known: &[&str]) -> String {
    suggest_quoted(word, known, '`')
}

/// The same in another quote.
pub(super) fn suggest_quoted(word: &str, known: &[&str], quote: char) -> String {
    match nearest(word, known) {
        Some(name) => format!("did you mean {quote}{name}{quote}?"),
        None => one_of(known, quote),
    }
}

/// `one of ...`, in quotes.
pub(super) fn one_of(known: &[&str], quote: char) -> String {
    let quoted: Vec<String> = known.iter().map(|name| format!("{quote}{name}{quote}")).collect();
    match quoted.as_slice() {
        [] => "nothing is accepted here".to_string(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        let known = ["addresses", "device", "mtu", "rp-filter"];
        let cases = [
            ("adresses", "did you mean `addresses`?"),
            ("rp_filter", "did you mean `rp-filter`?"),
            ("MTU", "did you mean `mtu`?"),
            ("speed", "one of `addresses`, `device`, `mtu`, `rp-filter`"),
        ];
        for (word, help) in cases {
            assert_eq!(suggest(word, &known), help);
        }
    }
}
