//! Words into values: the spellings that matches and targets share, as iptables reads them.
//!
//! Every reader takes a [`Word`] and says with a [`Complaint`] what it found and what it would accept. A word that holds
//! several values is cut with [`split`], so that a complaint points at the one that is wrong.

use super::option::{Complaint, Word};
use std::fmt::{LowerHex, Write};
use std::ops::RangeInclusive;

pub mod labels;
mod services;
pub use services::service;

/// An unsigned number in decimal, hexadecimal (`0x`) or octal (leading `0`), as `xtables_strtoui` reads it.
pub fn integer(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A number within a range; `what` names it in the complaint (`a TTL`).
pub fn number(word: &Word, what: &str, range: RangeInclusive<u64>) -> Result<u64, Complaint> {
    integer(&word.text).filter(|n| range.contains(n)).ok_or_else(|| {
        word.complain(
            format!("`{}` is not {what}", word.text),
            format!("a number from {} to {}", range.start(), range.end()),
        )
    })
}

/// The pieces of a word between separators, each with its own place where the word was written without quotes.
pub fn split(word: &Word, separator: char) -> Vec<Word> {
    let mut start = 0;
    word.text
        .split(separator)
        .map(|piece| {
            let part = part(word, start, piece);
            start += piece.len() + separator.len_utf8();
            part
        })
        .collect()
}

/// The two pieces around the first separator, if there is one.
pub fn split_once(word: &Word, separator: char) -> Option<(Word, Word)> {
    let (left, right) = word.text.split_once(separator)?;
    Some((part(word, 0, left), part(word, left.len() + separator.len_utf8(), right)))
}

fn part(word: &Word, start: usize, piece: &str) -> Word {
    let exact = word.at.len() == word.text.len();
    let at = if exact { word.at.start + start..word.at.start + start + piece.len() } else { word.at.clone() };
    Word { text: piece.to_string(), at }
}

/// `N`, `N<sep>M`, `N<sep>`, `<sep>M` or `<sep>`: a range whose missing ends are those of `bounds`.
pub fn range(word: &Word, separator: char, what: &str, bounds: RangeInclusive<u64>) -> Result<(u64, u64), Complaint> {
    open_range(word, separator, bounds.clone(), |end| number(end, what, bounds.clone()))
}

/// A range as [`range`] reads it, each end read by `read`.
pub fn open_range(
    word: &Word,
    separator: char,
    bounds: RangeInclusive<u64>,
    read: impl Fn(&Word) -> Result<u64, Complaint>,
) -> Result<(u64, u64), Complaint> {
    let Some((low, high)) = split_once(word, separator) else {
        return read(word).map(|n| (n, n));
    };
    let first = if low.text.is_empty() { *bounds.start() } else { read(&low)? };
    let last = if high.text.is_empty() { *bounds.end() } else { read(&high)? };
    ordered(word, separator, first, last)
}

fn ordered(word: &Word, separator: char, first: u64, last: u64) -> Result<(u64, u64), Complaint> {
    if first > last {
        return Err(word.complain(
            format!("`{}` runs backwards: it would match nothing", word.text),
            format!("the smaller end first: `{last}{separator}{first}`"),
        ));
    }
    Ok((first, last))
}

/// A port as a number or a service name of the built-in list.
pub fn port(word: &Word) -> Result<u16, Complaint> {
    if let Some(n) = integer(&word.text).and_then(|n| u16::try_from(n).ok()) {
        return Ok(n);
    }
    service(&word.text).ok_or_else(|| {
        let numeric = word.text.starts_with(|c: char| c.is_ascii_digit());
        let near = if numeric { None } else { nearest(&word.text, services::names()) };
        word.complain(
            format!("`{}` is not a port{}", word.text, if numeric { "" } else { " or a service" }),
            match near {
                Some(name) => format!("a number from 0 to 65535 or a service name; did you mean `{name}`?"),
                None => "a number from 0 to 65535 or a service name".to_string(),
            },
        )
    })
}

/// A port or a range of ports (`22`, `1024:`, `:1023`, `ftp-data:ssh`).
pub fn port_range(word: &Word, separator: char) -> Result<(u16, u16), Complaint> {
    open_range(word, separator, 0..=u16::MAX as u64, |end| port(end).map(u64::from))
        .map(|(first, last)| (first as u16, last as u16))
}

/// `VALUE` or `VALUE/MASK` of at most `max`; the mask is `max` where none is given.
pub fn masked(word: &Word, what: &str, max: u64) -> Result<(u64, u64), Complaint> {
    let accepts = || format!("VALUE or VALUE/MASK, each from 0 to {max:#x}, decimal or 0x hexadecimal");
    let read = |part: &Word| {
        integer(&part.text)
            .filter(|&n| n <= max)
            .ok_or_else(|| part.complain(format!("`{}` is not {what}", word.text), accepts()))
    };
    match split_once(word, '/') {
        None => Ok((read(word)?, max)),
        Some((value, mask)) => Ok((read(&value)?, read(&mask)?)),
    }
}

/// Writes `0xVALUE`, and `/0xMASK` where the mask is not `full`.
pub fn print_masked<T: LowerHex + PartialEq>(out: &mut String, value: T, mask: T, full: T) {
    let _ = write!(out, "{value:#x}");
    if mask != full {
        let _ = write!(out, "/{mask:#x}");
    }
}

/// One of the named values, whatever the case of its letters.
pub fn named<T: Copy>(word: &Word, what: &str, names: &[(&str, T)]) -> Result<T, Complaint> {
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&word.text));
    found.map(|&(_, value)| value).ok_or_else(|| unknown_name(word, what, names))
}

/// A comma-separated list of named values.
pub fn named_list<T: Copy>(word: &Word, what: &str, names: &[(&str, T)]) -> Result<Vec<T>, Complaint> {
    split(word, ',').iter().map(|part| named(part, what, names)).collect()
}

/// A comma-separated list of named values that may be abbreviated, as iptables lets one write `EST,REL`.
pub fn abbreviated_list<T: Copy>(word: &Word, what: &str, names: &[(&str, T)]) -> Result<Vec<T>, Complaint> {
    let read = |part: &Word| abbreviated(part, names)?.ok_or_else(|| unknown_name(part, what, names));
    split(word, ',').iter().map(read).collect()
}

/// The named value whose name, or whose name alone begins so; none where no name does.
pub fn abbreviated<T: Copy>(word: &Word, names: &[(&str, T)]) -> Result<Option<T>, Complaint> {
    if let Some(&(_, value)) = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&word.text)) {
        return Ok(Some(value));
    }
    let begins =
        |name: &str| name.get(..word.text.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(&word.text));
    let candidates: Vec<&(&str, T)> = names.iter().filter(|(name, _)| !word.text.is_empty() && begins(name)).collect();
    match candidates[..] {
        [] => Ok(None),
        [only] => Ok(Some(only.1)),
        _ => {
            let list: Vec<String> = candidates.iter().map(|(name, _)| format!("`{name}`")).collect();
            let what = format!("`{}` may be {}", word.text, either(list.iter().map(String::as_str)));
            Err(word.complain(what, "the whole name"))
        }
    }
}

fn unknown_name<T>(word: &Word, what: &str, names: &[(&str, T)]) -> Complaint {
    let list = names.iter().map(|&(name, _)| name);
    let accepts = match nearest(&word.text, list.clone()) {
        Some(near) => format!("{}; did you mean `{near}`?", either(list)),
        None => either(list),
    };
    word.complain(format!("`{}` is not {what}", word.text), accepts)
}

/// `a`, `a or b`, `a, b or c`.
pub fn either<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        None => String::new(),
        Some((only, [])) => only.to_string(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Most names that a word is compared with.
const MOST_COMPARED: usize = 1000;

/// The name that was probably meant: the nearest by edits, or else one that begins like what was written.
pub fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    // Among tens of thousands of names one is told apart by so little that it says nothing, and takes long to find.
    let names = names.take(MOST_COMPARED);
    let text = text.to_ascii_lowercase();
    let edits = names
        .clone()
        .map(|name| (strsim::osa_distance(&text, &name.to_ascii_lowercase()), name))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, name)| distance <= (name.len().min(text.len()) / 3).max(1) && text.len() > 1);
    let begins = |name: &&str| text.len() > 1 && name.to_ascii_lowercase().starts_with(&text);
    edits.map(|(_, name)| name).or_else(|| names.clone().find(begins))
}

/// Writes a word as iptables-save does: bare where it consists of letters, digits, `_` and `-`, else in double quotes with
/// a backslash before `"`, `\` and `'`.
pub fn print_text(out: &mut String, text: &str) {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(bare) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.to_string(), at: 10..10 + text.len() }
    }

    #[test]
    fn integers_are_decimal_hexadecimal_or_octal_and_never_signed() {
        for (text, value) in [
            ("0", Some(0)),
            ("22", Some(22)),
            ("0x16", Some(22)),
            ("0X1f", Some(31)),
            ("010", Some(8)),
            ("08", None),
            ("+1", None),
            ("-1", None),
            ("0x", None),
            ("", None),
            (" 1", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(integer(text), value, "{text:?}");
        }
    }

    #[test]
    fn ranges_have_open_ends_and_never_run_backwards() {
        for (text, value) in [
            ("5", Some((5, 5))),
            ("5:7", Some((5, 7))),
            (":7", Some((0, 7))),
            ("1024:", Some((1024, 65535))),
            (":", Some((0, 65535))),
            ("ftp:ssh", Some((21, 22))),
            ("7:5", None),
            ("5:70000", None),
            ("5:6:7", None),
        ] {
            assert_eq!(port_range(&word(text), ':').ok(), value, "{text:?}");
        }
    }

    #[test]
    fn complaints_point_at_the_piece_that_is_wrong_and_say_what_was_meant() {
        let complaint = port_range(&word("22:htps"), ':').unwrap_err();
        assert_eq!(complaint.at, 13..17);
        assert_eq!(complaint.what, "`htps` is not a port or a service");
        assert!(complaint.accepts.unwrap().ends_with("did you mean `https`?"));
        let quoted = Word { text: "22:htps".into(), at: 0..9 };
        assert_eq!(port_range(&quoted, ':').unwrap_err().at, 0..9);
    }

    #[test]
    fn names_may_be_abbreviated_where_it_is_clear_what_is_meant() {
        let names = [("UNSPEC", 0), ("UNICAST", 1), ("LOCAL", 2)];
        for (text, value) in [("LOC,unic", Some(vec![2, 1])), ("UN", None), ("", None), ("LOCALE", None)] {
            assert_eq!(abbreviated_list(&word(text), "a type", &names).ok(), value, "{text}");
        }
        let complaint = abbreviated_list(&word("LOCAL,UN"), "a type", &names).unwrap_err();
        assert_eq!((complaint.what.as_str(), complaint.at), ("`UN` may be `UNSPEC` or `UNICAST`", 16..18));
        let complaint = abbreviated_list(&word("LCOAL"), "a type", &names).unwrap_err();
        assert_eq!(complaint.accepts.unwrap(), "UNSPEC, UNICAST or LOCAL; did you mean `LOCAL`?");
    }

    #[test]
    fn masked_values_stand_with_or_without_their_mask() {
        for (text, value) in [
            ("1", Some((1, 0xffff_ffff))),
            ("0x10/0xff", Some((0x10, 0xff))),
            ("1/", None),
            ("/1", None),
            ("4294967296", None),
            ("1/2/3", None),
        ] {
            assert_eq!(masked(&word(text), "a mark", u32::MAX as u64).ok(), value, "{text:?}");
        }
    }

    #[test]
    fn text_is_quoted_as_iptables_save_quotes_it() {
        for (text, printed) in [
            ("a_b-C9", "a_b-C9"),
            ("a.b", "\"a.b\""),
            ("foo bar", "\"foo bar\""),
            ("it's", "\"it\\'s\""),
            ("a\\b\"", "\"a\\\\b\\\"\""),
            ("", "\"\""),
        ] {
            let mut out = String::new();
            print_text(&mut out, text);
            assert_eq!(out, printed);
        }
    }
}
