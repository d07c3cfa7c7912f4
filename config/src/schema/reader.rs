//! How tables and values of a TOML file are read: what is missing, unknown or of the wrong type is complained of, and
//! reading goes on, so that one pass finds all mistakes.
//!
//! A [`Fields`] is a table being read: [`Fields::take`] asks for a key and remembers that it is known; [`Fields::finish`]
//! complains of every key that nobody asked for. A [`Field`] is a key with its value, and reads it as a type. A reader that
//! answers `None` has complained.

use super::report::{Sink, one_of, suggest, suggest_quoted};
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and its place.
pub(super) type Node<'a> = &'a Spanned<DeValue<'a>>;

/// A key and its value.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    /// The key; for an element of an array the key of the array.
    pub name: &'a str,
    /// Where the key stands.
    key: (usize, usize),
    /// The value.
    pub node: Node<'a>,
}

/// A table being read.
pub(super) struct Fields<'a> {
    /// As messages name it: `[interfaces.lan0]`.
    pub title: String,
    /// Where it begins.
    pub at: Range<usize>,
    /// In the order of the file.
    entries: Vec<(Field<'a>, bool)>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The entries of a table, in the order of the file.
    pub fn of(table: &'a DeTable<'a>, title: impl Into<String>, at: Range<usize>) -> Fields<'a> {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, node)| {
                let span = key.span();
                (Field { name: key.get_ref(), key: (span.start, span.end), node }, false)
            })
            .collect();
        entries.sort_by_key(|(field, _)| field.key);
        Fields { title: title.into(), at, entries, known: Vec::new() }
    }

    /// The value of a key, where it is given.
    pub fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let (field, taken) = self.entries.iter_mut().find(|(field, _)| field.name == key)?;
        *taken = true;
        Some(*field)
    }

    /// The value of a key that must be given.
    pub fn require(&mut self, key: &'static str, example: &str, sink: &mut Sink) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            sink.conflict(self.at.clone(), format!("`{key}` is missing in {}", self.title))
                .help(format!("add `{example}`"));
        }
        field
    }

    /// All entries that nobody asked for yet, where the names of keys are the user's.
    pub fn rest(&mut self) -> Vec<Field<'a>> {
        let left = self.entries.iter_mut().filter(|(_, taken)| !*taken);
        left.map(|(field, taken)| {
            *taken = true;
            *field
        })
        .collect()
    }

    /// Complains of the keys that nobody asked for.
    pub fn finish(self, sink: &mut Sink) {
        for (field, taken) in &self.entries {
            if !taken {
                sink.error(field.key(), format!("unknown key `{}` in {}", field.name, self.title))
                    .help(suggest(field.name, &self.known));
            }
        }
    }
}

impl<'a> Field<'a> {
    /// Where the key stands.
    pub fn key(&self) -> Range<usize> {
        self.key.0..self.key.1
    }

    /// Where the value stands.
    pub fn at(&self) -> Range<usize> {
        self.node.span()
    }

    /// An element of this array.
    fn element(&self, node: Node<'a>) -> Field<'a> {
        Field { node, ..*self }
    }

    /// Complains that the value is of another type than `wanted` (with its article).
    pub fn mistyped(&self, wanted: &str, accepts: &str, sink: &mut Sink) {
        let found = kind(self.node.get_ref());
        sink.error(self.at(), format!("`{}` must be {wanted}, but this is {found}", self.name)).help(accepts);
    }

    /// A string.
    pub fn string(&self, accepts: &str, sink: &mut Sink) -> Option<&'a str> {
        let text = self.node.get_ref().as_str();
        if text.is_none() {
            self.mistyped("a string", accepts, sink);
        }
        text
    }

    /// A boolean.
    pub fn boolean(&self, sink: &mut Sink) -> Option<bool> {
        let value = self.node.get_ref().as_bool();
        if value.is_none() {
            self.mistyped("true or false", &format!("`{} = true`", self.name), sink);
        }
        value
    }

    /// A number within a range.
    pub fn integer<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>, sink: &mut Sink) -> Option<T> {
        let accepts = format!("a number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = self.node.get_ref() else {
            self.mistyped("an integer", &accepts, sink);
            return None;
        };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| range.contains(value));
        let value = value.and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            sink.error(self.at(), format!("`{}` cannot be {number}", self.name)).help(accepts);
        }
        value
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, choices: &[(&'static str, T)], sink: &mut Sink) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.string(&one_of(&words, '"'), sink)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            self.refuse(suggest_quoted(text, &words, '"'), sink);
        }
        found.map(|(_, value)| *value)
    }

    /// Complains that the string cannot stand, and says what would be accepted.
    pub fn refuse(&self, accepts: impl Into<String>, sink: &mut Sink) {
        let text = self.node.get_ref().as_str().unwrap_or_default();
        sink.error(self.at(), format!("`{}` cannot be \"{text}\"", self.name)).help(accepts);
    }

    /// The elements of an array.
    pub fn list(&self, accepts: &str, sink: &mut Sink) -> Option<Vec<Field<'a>>> {
        let elements = self.node.get_ref().as_array();
        if elements.is_none() {
            self.mistyped("an array", accepts, sink);
        }
        Some(elements?.iter().map(|node| self.element(node)).collect())
    }

    /// A table.
    pub fn table(&self, title: impl Into<String>, accepts: &str, sink: &mut Sink) -> Option<Fields<'a>> {
        let table = self.node.get_ref().as_table();
        if table.is_none() {
            self.mistyped("a table", accepts, sink);
        }
        Some(Fields::of(table?, title, self.heading()))
    }

    /// The tables of `[[name]]`.
    pub fn tables(&self, sink: &mut Sink) -> Vec<Fields<'a>> {
        let title = format!("[[{}]]", self.name);
        let accepts = format!("one or more `{title}` sections");
        let Some(elements) = self.node.get_ref().as_array() else {
            self.mistyped("an array of tables", &accepts, sink);
            return Vec::new();
        };
        elements.iter().filter_map(|node| self.element(node).table(title.clone(), &accepts, sink)).collect()
    }

    /// Where a table begins: its header; an inline table as a whole.
    fn heading(&self) -> Range<usize> {
        let at = self.at();
        if at.is_empty() { self.key() } else { at }
    }

    /// A span of time in milliseconds: a bare number counts in `unit` milliseconds; with no unit a string is needed.
    pub fn millis(&self, unit: Option<u64>, range: RangeInclusive<u64>, sink: &mut Sink) -> Option<u64> {
        let micros = self.micros(unit.map(|ms| ms * 1000), *range.start() * 1000..=*range.end() * 1000, sink)?;
        Some(micros / 1000)
    }

    /// A span of time in microseconds: a bare number counts in `unit` microseconds; with no unit a string is needed.
    pub fn micros(&self, unit: Option<u64>, range: RangeInclusive<u64>, sink: &mut Sink) -> Option<u64> {
        let accepts = match unit {
            Some(1_000_000) => "a number of seconds, or a time such as \"30s\", \"5m\", \"12h\", \"5d\"",
            Some(_) => "a number of milliseconds, or a time such as \"250ms\", \"1s\"",
            None => "a time with its unit, such as \"50us\", \"250ms\", \"30s\", \"5m\"",
        };
        let value = match (self.node.get_ref(), unit) {
            (DeValue::String(text), _) => parse_micros(text),
            (DeValue::Integer(number), Some(unit)) => {
                u64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| n.checked_mul(unit))
            }
            _ => {
                self.mistyped(if unit.is_some() { "a time" } else { "a time in a string" }, accepts, sink);
                return None;
            }
        };
        match value {
            None => {
                sink.error(self.at(), format!("`{}` cannot be {}", self.name, self.shown())).help(accepts);
                None
            }
            Some(value) if !range.contains(&value) => {
                let (least, most) = (in_words(*range.start()), in_words(*range.end()));
                sink.error(self.at(), format!("`{}` cannot be {}", self.name, self.shown()))
                    .help(format!("a time from {least} to {most}"));
                None
            }
            value => value,
        }
    }

    /// The value as a message quotes it.
    fn shown(&self) -> String {
        match self.node.get_ref() {
            DeValue::String(text) => format!("\"{text}\""),
            DeValue::Integer(number) => number.to_string(),
            other => kind(other).to_string(),
        }
    }
}

/// The type of a value with its article.
pub(super) fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Units of time in microseconds.
const UNITS: [(&str, u64); 7] = [
    ("us", 1),
    ("ms", 1000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// A whole number and a unit: `5d`, `250ms`.
fn parse_micros(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, micros) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*micros)
}

/// A time as one writes it, in the largest unit that fits.
fn in_words(micros: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| micros != 0 && micros.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().rev().find(fits).unwrap_or(&("s", 1));
    format!("{}{name}", micros / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let cases = [
            ("50us", Some(50)),
            ("5d", Some(432_000_000_000)),
            ("30 s", Some(30_000_000)),
            ("2min", Some(120_000_000)),
            ("2m", Some(120_000_000)),
            ("7", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("3 weeks", None),
            ("99999999999999999999s", None),
            ("99999999999999d", None),
        ];
        for (text, micros) in cases {
            assert_eq!(parse_micros(text), micros, "{text}");
        }
    }

    #[test]
    fn times_are_said_in_the_largest_unit_that_fits() {
        let cases = [(0, "0s"), (50, "50us"), (1_500_000, "1500ms"), (60_000_000, "1min"), (86_400_000_000, "1d")];
        for (micros, words) in cases {
            assert_eq!(in_words(micros), words);
        }
    }
}
