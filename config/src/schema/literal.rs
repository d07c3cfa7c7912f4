//! Where the characters of a string stand in the file: a mistake in the middle of a rule is pointed at there.
//!
//! A TOML string may be written with escapes, over several lines, or with the line ends cut away by a backslash. A
//! [`Literal`] keeps the pieces of the value with their places. It is built from the text of the file, and believes it only
//! where that gives exactly the value that the parser gave.

use std::ops::Range;

/// A piece of a string's value and where it is written. A verbatim piece has as many bytes here as there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    value: usize,
    value_len: usize,
    file: usize,
    file_len: usize,
}

/// The places of a string's characters.
pub(super) struct Literal {
    pieces: Vec<Piece>,
    /// The whole, quotes included.
    whole: Range<usize>,
}

impl Literal {
    /// The literal at `whole` of the file `text`, which means `value`.
    pub fn new(text: &str, whole: Range<usize>, value: &str) -> Literal {
        let pieces = text.get(whole.clone()).and_then(|raw| pieces(raw, whole.start));
        let length = |pieces: &Vec<Piece>| pieces.iter().map(|piece| piece.value_len).sum::<usize>();
        let pieces = pieces.filter(|pieces| length(pieces) == value.len()).unwrap_or_default();
        Literal { pieces, whole }
    }

    /// The place in the file of a part of the value. An empty part is a point.
    pub fn place(&self, part: Range<usize>) -> Range<usize> {
        let Some(start) = self.start(part.start) else { return self.whole.clone() };
        match part.end.checked_sub(1).filter(|last| *last >= part.start).and_then(|last| self.end(last)) {
            Some(end) => start..end,
            None => start..start,
        }
    }

    /// The place of the value where it stands in the file as it is.
    pub fn verbatim(&self) -> Option<Range<usize>> {
        match self.pieces.as_slice() {
            [piece] if piece.value_len == piece.file_len => Some(piece.file..piece.file + piece.file_len),
            _ => None,
        }
    }

    /// The place of the value where it stands in the file as it is, else of the whole literal.
    pub fn content(&self) -> Range<usize> {
        self.verbatim().unwrap_or_else(|| self.whole.clone())
    }

    /// Where the character at an offset of the value begins; behind the last one is the end of the value.
    fn start(&self, offset: usize) -> Option<usize> {
        match self.piece(offset) {
            Some(piece) if piece.value_len == piece.file_len => Some(piece.file + offset - piece.value),
            Some(piece) => Some(piece.file),
            None => self.pieces.last().map(|piece| piece.file + piece.file_len),
        }
    }

    /// Where the character that holds the byte at an offset of the value ends.
    fn end(&self, offset: usize) -> Option<usize> {
        match self.piece(offset) {
            Some(piece) if piece.value_len == piece.file_len => Some(piece.file + offset + 1 - piece.value),
            Some(piece) => Some(piece.file + piece.file_len),
            None => self.pieces.last().map(|piece| piece.file + piece.file_len),
        }
    }

    fn piece(&self, offset: usize) -> Option<&Piece> {
        let index = self.pieces.partition_point(|piece| piece.value + piece.value_len <= offset);
        self.pieces.get(index)
    }
}

/// The pieces of a literal that stands at `base`.
fn pieces(raw: &str, base: usize) -> Option<Vec<Piece>> {
    let quoted = |quote: &str| {
        let inner = raw.strip_prefix(quote)?.strip_suffix(quote)?;
        Some((inner, base + quote.len()))
    };
    // A newline right behind the opening quotes is not part of the value.
    let multiline = |(inner, base): (&'_ str, usize)| {
        let cut = if inner.starts_with("\r\n") { 2 } else { usize::from(inner.starts_with('\n')) };
        (inner.len() - cut, base + cut)
    };
    if raw.starts_with("'''") {
        let (len, base) = multiline(quoted("'''")?);
        return Some(vec![Piece { value: 0, value_len: len, file: base, file_len: len }]);
    }
    if raw.starts_with('\'') {
        let (inner, base) = quoted("'")?;
        return Some(vec![Piece { value: 0, value_len: inner.len(), file: base, file_len: inner.len() }]);
    }
    if raw.starts_with("\"\"\"") {
        let (inner, start) = quoted("\"\"\"")?;
        let (len, base) = multiline((inner, start));
        return escaped(&inner[inner.len() - len..], base);
    }
    let (inner, base) = quoted("\"")?;
    escaped(inner, base)
}

/// The pieces of text with escapes.
fn escaped(text: &str, base: usize) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let (mut value, mut at) = (0, 0);
    while at < text.len() {
        let verbatim = text[at..].find('\\').unwrap_or(text.len() - at);
        if verbatim > 0 {
            pieces.push(Piece { value, value_len: verbatim, file: base + at, file_len: verbatim });
            value += verbatim;
            at += verbatim;
            continue;
        }
        let (file_len, value_len) = escape(&text[at + 1..])?;
        let file_len = file_len + 1;
        pieces.push(Piece { value, value_len, file: base + at, file_len });
        value += value_len;
        at += file_len;
    }
    Some(pieces)
}

/// Bytes of the escape behind a backslash, and of what it means.
fn escape(rest: &str) -> Option<(usize, usize)> {
    let hex = |digits: usize| {
        let code = u32::from_str_radix(rest.get(1..1 + digits)?, 16).ok()?;
        Some((1 + digits, char::from_u32(code)?.len_utf8()))
    };
    match rest.chars().next()? {
        'b' | 't' | 'n' | 'f' | 'r' | 'e' | '"' | '\\' => Some((1, 1)),
        'x' => hex(2),
        'u' => hex(4),
        'U' => hex(8),
        // A backslash at the end of a line joins it with the next word.
        ' ' | '\t' | '\r' | '\n' => Some((rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len(), 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toml::de::DeTable;

    /// The literal of the file `k = RAW`, and its value.
    fn literal(raw: &str) -> (String, Literal, String) {
        let file = format!("k = {raw}");
        let table = DeTable::parse(&file).unwrap();
        let node = &table.get_ref()["k"];
        let value = node.get_ref().as_str().unwrap().to_string();
        let literal = Literal::new(&file, node.span(), &value);
        (file.clone(), literal, value)
    }

    #[test]
    fn a_word_of_the_value_is_found_in_every_form_of_string() {
        let cases = [
            (r#""-p tcp -j WORD""#, "WORD"),
            (r#"'-p tcp -j WORD'"#, "WORD"),
            (r#""--comment \"a b\" -j WORD""#, "WORD"),
            (r#""\u00e9\t\x41 \U0001F600 WORD x""#, "WORD"),
            ("'''\n-p tcp\n-j WORD'''", "WORD"),
            ("'''\r\n-p tcp\r\n-j WORD\r\n'''", "WORD"),
            ("\"\"\"\n-p tcp \\\n     -j WORD \\\n\"\"\"", "WORD"),
            ("\"\"\"-p tcp \\  \n\n  -j WORD\"\"\"\"", "WORD"),
            ("\"\"\"a \"\" WORD\"\"\"", "WORD"),
        ];
        for (raw, word) in cases {
            let (file, literal, value) = literal(raw);
            let at = value.find(word).unwrap();
            assert_eq!(&file[literal.place(at..at + word.len())], word, "{raw}");
        }
    }

    #[test]
    fn an_escape_is_pointed_at_as_it_is_written() {
        let (file, literal, value) = literal(r#""a \"b\" c""#);
        assert_eq!(value, "a \"b\" c");
        assert_eq!(&file[literal.place(2..5)], r#"\"b\""#);
        assert_eq!(&file[literal.place(2..3)], r#"\""#);
        assert_eq!(literal.place(7..7), 14..14, "the end is before the closing quote");
        assert_eq!(&file[literal.content()], r#""a \"b\" c""#);
    }

    #[test]
    fn a_verbatim_value_stands_between_its_quotes() {
        let (file, literal, value) = literal("\"1024:2048\"");
        assert_eq!(&file[literal.content()], value);
    }

    proptest! {
        #[test]
        fn every_character_of_a_basic_string_is_found(parts in prop::collection::vec("[a-zé ]{1,4}|\\\\n|\\\\\"|\\\\u00e9|\\\\x41|\\\\\\\\", 0..20)) {
            let raw = format!("\"{}\"", parts.concat());
            let (file, literal, value) = literal(&raw);
            let mut last = 0;
            for (at, c) in value.char_indices() {
                let place = literal.place(at..at + c.len_utf8());
                let written = &file[place.clone()];
                prop_assert!(written == c.to_string() || written.starts_with('\\'), "{written:?} is not {c:?}");
                prop_assert!(place.start >= last);
                last = place.end;
            }
        }
    }
}
