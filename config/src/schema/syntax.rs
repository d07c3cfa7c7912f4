//! Mistakes of TOML itself, as toml's parser finds them while it goes on behind the first.
//!
//! Much of what it finds then is fallout of an earlier mistake: only the first of a line is shown, and where an array or an
//! inline table is never closed, nothing behind the place at which that showed.

use super::report::Sink;
use crate::diag::{Diagnostic, Source};
use std::collections::HashSet;
use std::ops::Range;
use toml::de::Error;

/// Adds the parser's complaints, and takes back those of `sink` that they explain.
pub(super) fn report(mut errors: Vec<Error>, source: &Source, sink: &mut Sink) {
    if errors.is_empty() {
        return;
    }
    errors.sort_by_key(|error| place(error).start);
    let unclosed = errors.iter().find(|error| is_unclosed(error)).map(place);
    if let Some(end) = &unclosed
        && let Some(first) = errors.iter().position(|error| error.message().starts_with("missing comma"))
    {
        let shown = place(&errors[first]).start;
        let outside = |at: usize| at <= shown || at > end.start;
        errors.retain(|error| outside(place(error).start));
        sink.retain(|found| outside(found.at.start));
    }
    let mut lines = HashSet::new();
    errors.retain(|error| lines.insert(source.line(place(error).start)));
    // What was recovered on a broken line is a guess.
    sink.retain(|found| !lines.contains(&source.line(found.at.start)) && !found.at.is_empty());
    for error in &errors {
        sink.push(diagnostic(error, source, unclosed.is_some()));
    }
}

/// Where an error is.
fn place(error: &Error) -> Range<usize> {
    error.span().unwrap_or_default()
}

/// Something that goes over lines was not closed before the file ended.
fn is_unclosed(error: &Error) -> bool {
    let message = error.message();
    message.starts_with("unclosed array") || message.starts_with("unclosed inline table")
}

/// In our words where they say more.
fn diagnostic(error: &Error, source: &Source, unclosed: bool) -> Diagnostic {
    let at = place(error);
    let (message, expected) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, Some(expected)),
        None => (error.message(), None),
    };
    let message = match (message, source.text().get(at.clone())) {
        ("duplicate key", Some(key)) => {
            return Diagnostic::error(at, format!("the key `{key}` is given twice")).with_help("remove one of the two");
        }
        (message, _) => format!("this is not TOML: {message}"),
    };
    let help = match expected {
        Some(_) if unclosed && message.contains("missing comma") => {
            "a comma, or the closing bracket: something is not closed here".to_string()
        }
        Some("literal string") => "text in quotes, or a number".to_string(),
        Some(expected) => format!("expected {expected}"),
        None => return Diagnostic::error(at, message),
    };
    Diagnostic::error(at, message).with_help(help)
}
