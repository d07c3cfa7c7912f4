//! What is wrong with a file, where, and what would be accepted instead.
//!
//! A [`Diagnostic`] points at bytes of one [`Source`]. It is printed in two forms: [`render`] shows the text pointed at,
//! for people; [`short`] is one line, `file:line:column: error: what; help`, for editors, logs and tests. Lines and columns
//! count from 1, columns in characters. Spans may be wrong or beyond the text without harm: both forms clamp them.

use crate::rule::option::Complaint;
use ariadne::{Color, Config, IndexType, Label as Mark, Report, ReportKind};
use std::fmt;
use std::ops::Range;

/// A text and the name it is known by, usually a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    name: String,
    text: String,
    /// Offsets at which lines begin.
    lines: Vec<usize>,
}

impl Source {
    /// A source of that name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { name: name.into(), text, lines }
    }

    /// A source of bytes as read from a file. Bytes that are not UTF-8 are replaced, and the first of them is complained of.
    pub fn decode(name: impl Into<String>, bytes: Vec<u8>) -> Result<Source, Box<(Source, Diagnostic)>> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Source::new(name, text)),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes()[at];
                let source = Source::new(name, String::from_utf8_lossy(error.as_bytes()));
                let end = at + char::REPLACEMENT_CHARACTER.len_utf8();
                let diagnostic = Diagnostic::error(at..end, format!("the byte 0x{byte:02x} is not UTF-8"))
                    .with_help("TOML files are UTF-8 text");
                Err(Box::new((source, diagnostic)))
            }
        }
    }

    /// The name as given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> u32 {
        self.lines.partition_point(|start| *start <= offset) as u32
    }

    /// Line and column of a byte offset, from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let offset = self.boundary(offset);
        let line = self.line(offset);
        let start = self.lines[line as usize - 1];
        (line, self.text[start..offset].chars().count() as u32 + 1)
    }

    /// The nearest offset at or before `offset` at which a character begins or the text ends.
    fn boundary(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset)
    }

    /// The span, made to lie within the text and to show something: where it is empty or at the end, the character there or
    /// the last one that is no white space.
    fn visible(&self, at: &Range<usize>) -> Range<usize> {
        let start = self.boundary(at.start);
        let end = self.text.ceil_char_boundary(at.end);
        if start < end {
            return start..end;
        }
        let rest = self.text[start..].chars().next().filter(|c| *c != '\n' && *c != '\r');
        if let Some(c) = rest {
            return start..start + c.len_utf8();
        }
        let before = self.text[..start].trim_end();
        let last = before.char_indices().next_back().map_or(0, |(at, _)| at);
        last..before.len()
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but probably means something else than its writer thinks.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// Another place of the file that has to do with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// Bytes of the text.
    pub at: Range<usize>,
    /// What is there.
    pub message: String,
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Bytes of the text.
    pub at: Range<usize>,
    /// What was found and why it cannot stand.
    pub message: String,
    /// What would be accepted.
    pub help: Option<String>,
    /// Other places that have to do with it.
    pub labels: Vec<Label>,
}

impl Diagnostic {
    /// An error without help.
    pub fn error(at: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, at, message: message.into(), help: None, labels: Vec::new() }
    }

    /// A warning without help.
    pub fn warning(at: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(at, message) }
    }

    /// The same with what would be accepted.
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl From<Complaint> for Diagnostic {
    fn from(complaint: Complaint) -> Diagnostic {
        Diagnostic { help: complaint.accepts, ..Diagnostic::error(complaint.at, complaint.what) }
    }
}

/// One line without a line break: `file:line:column: error: what; help`.
pub fn short(source: &Source, diagnostic: &Diagnostic) -> String {
    let (line, column) = source.position(diagnostic.at.start);
    let Diagnostic { severity, message, help, .. } = diagnostic;
    let mut text = format!("{}:{line}:{column}: {severity}: {}", source.name, message.escape_line());
    if let Some(help) = help {
        text.push_str("; ");
        text.push_str(&help.escape_line());
    }
    text
}

/// All of them, each with the text it points at, in the order given.
pub fn render(source: &Source, diagnostics: &[Diagnostic], color: bool) -> String {
    let config = Config::new().with_color(color).with_index_type(IndexType::Byte).with_cross_gap(false);
    let shown = ariadne::Source::from(source.text.as_str());
    let mut out = Vec::new();
    for diagnostic in diagnostics {
        let (kind, hue) = match diagnostic.severity {
            Severity::Error => (ReportKind::Error, Color::Red),
            Severity::Warning => (ReportKind::Warning, Color::Yellow),
        };
        let at = source.visible(&diagnostic.at);
        let mut report = Report::build(kind, (source.name.as_str(), at.clone()))
            .with_config(config)
            .with_message(&diagnostic.message)
            .with_label(Mark::new((source.name.as_str(), at)).with_color(hue));
        for label in &diagnostic.labels {
            let mark = Mark::new((source.name.as_str(), source.visible(&label.at)));
            report = report.with_label(mark.with_message(&label.message).with_color(Color::Blue));
        }
        if let Some(help) = &diagnostic.help {
            report = report.with_help(help);
        }
        if report.finish().write((source.name.as_str(), &shown), &mut out).is_err() {
            out.extend_from_slice(short(source, diagnostic).as_bytes());
            out.push(b'\n');
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Text of the file that is quoted in a message must not break the line.
trait EscapeLine {
    fn escape_line(&self) -> String;
}

impl EscapeLine for String {
    fn escape_line(&self) -> String {
        let mut text = String::with_capacity(self.len());
        for c in self.chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source = Source::new("f", "a\nbü = 1\r\n\nz");
        let cases = [(0, (1, 1)), (1, (1, 2)), (2, (2, 1)), (5, (2, 3)), (4, (2, 2)), (11, (3, 1)), (12, (4, 1))];
        for (offset, position) in cases {
            assert_eq!(source.position(offset), position, "offset {offset}");
        }
        assert_eq!(source.position(1000), (4, 2), "beyond the end is the end");
        assert_eq!(Source::new("f", "").position(0), (1, 1));
    }

    #[test]
    fn short_is_one_line_with_help() {
        let source = Source::new("router.toml", "[dataplane]\nidel = 1\n");
        let wrong = Diagnostic::error(12..16, "unknown key `idel`\n").with_help("did you mean `idle`?");
        assert_eq!(short(&source, &wrong), "router.toml:2:1: error: unknown key `idel`\\n; did you mean `idle`?");
    }

    #[test]
    fn render_shows_place_text_and_help() {
        let source = Source::new("router.toml", "[dataplane]\nidel = 1\n");
        let mut wrong = Diagnostic::error(12..16, "unknown key `idel`").with_help("did you mean `idle`?");
        wrong.labels.push(Label { at: 0..11, message: "in this table".to_string() });
        let text = render(&source, &[wrong], false);
        for part in ["router.toml:2:1", "unknown key `idel`", "idel = 1", "in this table", "did you mean `idle`?"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn any_span_renders() {
        for text in ["", "\n", "ü", "a = 1\n\n\n", "x\r\n", "\u{2028}y"] {
            let source = Source::new("f", text);
            for (start, end) in [(0, 0), (0, 1), (1, 1), (1, 2), (0, 99), (7, 7), (99, 120), (3, 1)] {
                let wrong = Diagnostic::warning(start..end, "odd");
                assert!(render(&source, std::slice::from_ref(&wrong), true).contains("odd"));
                assert!(short(&source, &wrong).contains("warning: odd"));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_pointed_at() {
        let (source, wrong) = *Source::decode("f", b"a = 1\nb = \xff\xfe".to_vec()).unwrap_err();
        assert_eq!(short(&source, &wrong), "f:2:5: error: the byte 0xff is not UTF-8; TOML files are UTF-8 text");
        assert_eq!(Source::decode("f", b"a".to_vec()), Ok(Source::new("f", "a")));
    }
}
