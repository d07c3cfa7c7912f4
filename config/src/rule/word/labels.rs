//! Numbers with names in a file of iproute2: groups of devices, realms of routes.
//!
//! `VALUE[/MASK]` or a name. As iptables does, a value is printed by its name where it has one and no mask. The names are
//! looked up when a rule is read and go with it, so that it is printed the same wherever it comes to.

use crate::rule::option::{Complaint, Word};
use crate::rule::word::{integer, masked, print_masked};
use serde::{Deserialize, Serialize};

/// A kind of number that has names.
pub struct Kind {
    /// For complaints: `a device group`.
    pub what: &'static str,
    /// Where the names are: lines of a number and a name.
    pub file: &'static str,
    /// The name of 0, whatever the file says or whether it is there.
    pub zero: &'static str,
}

/// A value, the bits of it that count, and its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Labelled {
    /// The value, bits outside of the mask included.
    pub value: u32,
    /// Bits that count.
    pub mask: u32,
    /// By what it is printed, where it has a name.
    pub name: Option<Box<str>>,
}

/// Bytes of the longest name that is taken.
const MAX_NAME: usize = 63;

impl Kind {
    /// Numbers and names, that of 0 first.
    pub fn names(&self) -> Vec<(u32, String)> {
        let text = std::fs::read_to_string(self.file).unwrap_or_default();
        let listed = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let number = integer(words.next()?).and_then(|n| u32::try_from(n).ok())?;
            words.next().filter(|name| is_name(name)).map(|name| (number, name.to_string()))
        });
        std::iter::once((0, self.zero.to_string())).chain(listed).collect()
    }

    /// Reads `VALUE[/MASK]` or a name.
    pub fn read(&self, word: &Word) -> Result<Labelled, Complaint> {
        let names = self.names();
        if let Some((value, name)) = names.iter().find(|(_, name)| *name == word.text) {
            return Ok(Labelled { value: *value, mask: u32::MAX, name: Some(name.as_str().into()) });
        }
        if !word.text.starts_with(|c: char| c.is_ascii_digit()) {
            let accepts = format!("a number, VALUE/MASK, or a name of {}", self.file);
            return Err(word.complain(format!("`{}` is not {}", word.text, self.what), accepts));
        }
        let (value, mask) = masked(word, self.what, u32::MAX.into())?;
        let (value, mask) = (value as u32, mask as u32);
        let name = names.into_iter().find(|(number, _)| *number == value && mask == u32::MAX);
        Ok(Labelled { value, mask, name: name.map(|(_, name)| name.into()) })
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'/' | b'!' | b'#');
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

impl Labelled {
    /// Whether a number is meant.
    pub fn is(&self, number: u32) -> bool {
        (self.value ^ number) & self.mask == 0
    }

    /// Writes the name, or the value and where it counts in part its mask.
    pub fn print(&self, out: &mut String) {
        match &self.name {
            Some(name) => out.push_str(name),
            None => print_masked(out, self.value, self.mask, u32::MAX),
        }
    }

    /// Whether it could have been read.
    pub fn verify(&self) -> Result<(), String> {
        match &self.name {
            Some(name) if !is_name(name) || self.mask != u32::MAX => Err(format!("the name {name:?}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_numbers_and_are_printed_for_them() {
        let file = std::env::temp_dir().join(format!("sumun-labels-{}", std::process::id()));
        std::fs::write(&file, "# a comment\n\n0\tzero\n7 seven # of them\n0x10 sixteen\nx y\n8 9\n9 \"q\n")
            .expect("a file");
        let name = Box::leak(file.to_string_lossy().into_owned().into_boxed_str());
        let kind = Kind { what: "a thing", file: name, zero: "none" };
        for (text, expected) in [
            ("none", Some((0, u32::MAX, "none"))),
            ("zero", Some((0, u32::MAX, "zero"))),
            ("0", Some((0, u32::MAX, "none"))),
            ("7", Some((7, u32::MAX, "seven"))),
            ("16", Some((16, u32::MAX, "sixteen"))),
            ("7/0xf", Some((7, 15, "0x7/0xf"))),
            ("8", Some((8, u32::MAX, "0x8"))),
            ("seven/1", None),
            ("9/", None),
            ("y", None),
            ("", None),
            ("4294967296", None),
        ] {
            let found = kind.read(&Word { text: text.to_string(), at: 0..text.len() }).ok();
            let shown = found.map(|found| {
                assert_eq!(found.verify(), Ok(()));
                let mut out = String::new();
                found.print(&mut out);
                (found.value, found.mask, out)
            });
            assert_eq!(shown, expected.map(|(value, mask, text)| (value, mask, text.to_string())), "{text}");
        }
        std::fs::remove_file(&file).expect("it goes");
        let masked = Labelled { value: 1, mask: 1, name: Some("one".into()) };
        assert!(masked.verify().is_err());
        assert!(Labelled { mask: u32::MAX, name: Some("a b".into()), ..masked }.verify().is_err());
    }
}
