//! Lines of a file as words with their places: quoted as iptables-restore quotes, or as a shell does.

use crate::rule::option::{Complaint, Word};
use std::ops::Range;

/// The words of a line of iptables-restore. Double quotes keep blanks, a backslash in them keeps the next character, and a
/// closing quote ends the word; outside quotes nothing is special.
pub(super) fn restore(text: &str, line: Range<usize>) -> Result<Vec<Word>, Complaint> {
    let mut words = Vec::new();
    let mut word: Option<(usize, String)> = None;
    let mut quote = None;
    let mut chars = text[line.clone()].char_indices();
    while let Some((i, c)) = chars.next() {
        let at = line.start + i;
        match quote {
            Some(_) if c == '"' => {
                quote = None;
                words.extend(word.take().map(|(start, text)| Word { text, at: start..at + 1 }));
            }
            Some(_) => {
                let kept = if c == '\\' { chars.next().map_or(c, |(_, kept)| kept) } else { c };
                word.get_or_insert_with(|| (at, String::new())).1.push(kept);
            }
            None if c == '"' => {
                quote = Some(at);
                word.get_or_insert_with(|| (at, String::new()));
            }
            None if c.is_whitespace() => {
                words.extend(word.take().map(|(start, text)| Word { text, at: start..at }));
            }
            None => word.get_or_insert_with(|| (at, String::new())).1.push(c),
        }
    }
    if let Some(at) = quote {
        return Err(unclosed(at..line.end, '"'));
    }
    words.extend(word.map(|(start, text)| Word { text, at: start..line.end }));
    Ok(words)
}

fn unclosed(at: Range<usize>, quote: char) -> Complaint {
    Complaint {
        at,
        what: "this quote is not closed".to_string(),
        accepts: Some(format!("{quote} at the end of the word")),
    }
}

/// One command of a shell: its words and the comment behind it.
pub(super) struct Simple {
    /// Empty where nothing stands between two separators.
    pub words: Vec<Word>,
    /// Behind a `#` on the same line.
    pub comment: Option<String>,
    /// `|| true` stands behind it.
    pub may_fail: bool,
    /// Where the next one begins.
    pub next: usize,
}

/// Reads one command of a shell from a place on. What a shell would put in place of something, and what is no list of
/// commands, is complained of, with the place behind its line.
pub(super) fn shell(text: &str, start: usize) -> Result<Simple, (Complaint, usize)> {
    let mut shell = Shell { text, at: start, words: Vec::new(), may_fail: false };
    loop {
        let Some(c) = shell.peek() else { return Ok(shell.done(None)) };
        match c {
            '\n' => {
                shell.at += 1;
                return Ok(shell.done(None));
            }
            ';' if !shell.rest().starts_with(";;") => {
                shell.at += 1;
                return Ok(shell.done(None));
            }
            ';' => {
                let at = shell.at..shell.at + 2;
                let what = "`;;` of the shell is not carried out here".to_string();
                let accepts = Some("iptables commands one after the other".to_string());
                return Err((Complaint { at, what, accepts }, shell.line_end()));
            }
            '&' if shell.rest().starts_with("&&") => {
                shell.at += 2;
                return Ok(shell.done(None));
            }
            '#' => {
                let end = shell.line_end();
                let comment = shell.text[shell.at + 1..end].trim().to_string();
                shell.at = end;
                return Ok(shell.done(Some(comment)));
            }
            '\\' if shell.continuation() => {}
            c if c.is_whitespace() => shell.at += c.len_utf8(),
            _ if shell.discarded() || shell.excused() => {}
            _ => match shell.word() {
                Ok(word) => shell.words.push(word),
                Err(complaint) => return Err((complaint, shell.line_end())),
            },
        }
    }
}

struct Shell<'a> {
    text: &'a str,
    at: usize,
    words: Vec<Word>,
    may_fail: bool,
}

impl<'a> Shell<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn line_end(&self) -> usize {
        self.rest().find('\n').map_or(self.text.len(), |end| self.at + end)
    }

    fn done(self, comment: Option<String>) -> Simple {
        Simple { words: self.words, comment, may_fail: self.may_fail, next: self.at }
    }

    /// Steps over a backslash at the end of a line.
    fn continuation(&mut self) -> bool {
        let skipped = ["\\\n", "\\\r\n"].into_iter().find(|ending| self.rest().starts_with(ending));
        self.at += skipped.map_or(0, str::len);
        skipped.is_some()
    }

    /// Steps over output that goes to /dev/null: it changes no rules.
    fn discarded(&mut self) -> bool {
        let rest = self.rest();
        let number = rest.strip_prefix(['1', '2', '&']).unwrap_or(rest);
        let to = number.strip_prefix(">>").or_else(|| number.strip_prefix('>'));
        let target =
            to.map(|to| to.strip_prefix("&1").or_else(|| to.trim_start_matches(' ').strip_prefix("/dev/null")));
        let Some(Some(after)) = target else { return false };
        let ends = after.chars().next().is_none_or(|c| c.is_whitespace() || c == ';' || c == '&' || c == '>');
        if ends {
            self.at = self.text.len() - after.len();
        }
        ends
    }

    /// Steps over `|| true`: the command may fail.
    fn excused(&mut self) -> bool {
        let Some(rest) = self.rest().strip_prefix("||") else { return false };
        let rest = rest.trim_start_matches([' ', '\t']);
        let Some(after) = rest.strip_prefix("true").or_else(|| rest.strip_prefix(':')) else { return false };
        let ends = after.chars().next().is_none_or(|c| c.is_whitespace() || c == ';');
        if ends {
            self.at = self.text.len() - after.len();
            self.may_fail = true;
        }
        ends
    }

    /// One word, quotes and all.
    fn word(&mut self) -> Result<Word, Complaint> {
        let start = self.at;
        let mut word = String::new();
        while let Some(c) = self.peek() {
            match c {
                c if c.is_whitespace() || c == ';' => break,
                '\\' if self.continuation() => {}
                '\\' => {
                    self.at += 1;
                    self.keep(&mut word);
                }
                '\'' => self.single(&mut word)?,
                '"' => self.double(&mut word)?,
                '&' if self.rest().starts_with("&&") => break,
                _ => {
                    self.refuse(start, &word)?;
                    self.keep(&mut word);
                }
            }
        }
        Ok(Word { text: word, at: start..self.at })
    }

    /// Takes the next character as it is.
    fn keep(&mut self, word: &mut String) {
        if let Some(c) = self.peek() {
            word.push(c);
            self.at += c.len_utf8();
        }
    }

    fn single(&mut self, word: &mut String) -> Result<(), Complaint> {
        let from = self.at + 1;
        let Some(len) = self.text[from..].find('\'') else { return Err(unclosed(self.at..self.line_end(), '\'')) };
        word.push_str(&self.text[from..from + len]);
        self.at = from + len + 1;
        Ok(())
    }

    fn double(&mut self, word: &mut String) -> Result<(), Complaint> {
        let open = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => {
                    self.at = open;
                    return Err(unclosed(open..self.line_end(), '"'));
                }
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('\\') if self.continuation() => {}
                Some('\\') => {
                    if self.text[self.at + 1..].starts_with(['$', '`', '"', '\\']) {
                        self.at += 1;
                    }
                    self.keep(word);
                }
                Some('$' | '`') => return self.refuse(open, word),
                Some(_) => self.keep(word),
            }
        }
    }

    /// Complains of what a shell would not take as it stands.
    fn refuse(&self, start: usize, word: &str) -> Result<(), Complaint> {
        let rest = self.rest();
        let end = |len: usize| self.at..self.at + len;
        let advice = "run the script, then import what iptables-save prints";
        let complain =
            |at, what: String| Err(Complaint { at, what, accepts: Some(format!("the value itself; or {advice}")) });
        let name = |from: &str| from.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(from.len());
        match rest.chars().next() {
            Some('$') if rest.starts_with("$(") => complain(end(2), "the output of `$(...)` is not known here".into()),
            Some('$') if rest.starts_with("$'") => complain(end(2), "`$'...'` is not read here".into()),
            Some('$') => {
                let brace = rest.starts_with("${");
                let from = if brace { 2 } else { 1 };
                let len = from + name(&rest[from..]) + usize::from(brace && rest.contains('}'));
                let len = len.clamp(1, rest.len());
                let shown = rest.get(..len).unwrap_or("$");
                complain(end(shown.len()), format!("the variable `{shown}` is not known here"))
            }
            Some('`') => complain(end(1), "the output of a command in backquotes is not known here".into()),
            Some('{') if rest[..name_end(rest)].contains([',', '}']) && !word.contains('{') => {
                complain(end(1), "`{...}` would be several words".into())
            }
            Some(c @ ('|' | '&' | '<' | '>' | '(' | ')')) => {
                let what = match rest {
                    _ if rest.starts_with("||") => "what is done when a command fails is not read here".to_string(),
                    _ => format!("`{c}` is not read here: a line is one command of iptables"),
                };
                let at = if word.is_empty() { end(1) } else { start..self.at + 1 };
                Err(Complaint {
                    at,
                    what,
                    accepts: Some(format!("iptables commands one after the other; or {advice}")),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Where a word ends that has no quotes.
fn name_end(rest: &str) -> usize {
    rest.find(char::is_whitespace).unwrap_or(rest.len())
}
