//! What `ipset save` writes, and `ipset restore` reads: one command a line.

use super::entry::{self, Purpose, words};
use super::header::{Given, Takes, takes};
use super::{Declaration, Element, Header, Kind};
use crate::rule::option::{Complaint, Word};
use crate::rule::word::nearest;
use std::collections::HashMap;

/// A line of such a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// `create NAME TYPE OPTIONS`
    Create(Header),
    /// `add NAME ELEMENT`: as many as it means.
    Add(String, Vec<Element>),
    /// `del NAME ELEMENT`
    Delete(String, Vec<Element>),
    /// `flush [NAME]`
    Flush(Option<String>),
    /// `destroy [NAME]`
    Destroy(Option<String>),
    /// `swap NAME NAME`
    Swap(String, String),
    /// `rename NAME NAME`
    Rename(String, String),
}

/// Commands, with the names that ipset takes for them too.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("create", &["-N", "--create", "n"]),
    ("add", &["-A", "--add"]),
    ("del", &["-D", "--del"]),
    ("flush", &["-F", "--flush"]),
    ("destroy", &["-X", "--destroy", "x"]),
    ("swap", &["-W", "--swap", "w"]),
    ("rename", &["-E", "--rename", "e"]),
];

/// Reads a line; none where it says nothing. `header` finds the header of a set.
pub fn line<'h>(
    text: &str,
    base: usize,
    header: impl Fn(&str) -> Option<&'h Header>,
) -> Result<Option<Line>, Vec<Complaint>> {
    if text.trim_start().starts_with('#') || text.trim() == "COMMIT" {
        return Ok(None);
    }
    let one = |complaint| vec![complaint];
    let mut words = words(text, base).map_err(one)?;
    words.retain(|word| !matches!(word.text.as_str(), "-exist" | "-!"));
    let Some((command, rest)) = words.split_first() else { return Ok(None) };
    let known = COMMANDS.iter().find(|(name, others)| *name == command.text || others.contains(&command.text.as_str()));
    let name = || -> Result<&Word, Vec<Complaint>> {
        let name =
            rest.first().ok_or_else(|| one(command.complain("the name of a set is missing".to_string(), "NAME")))?;
        entry::set_name(name).map_err(one)?;
        Ok(name)
    };
    let found = |name: &Word| {
        header(&name.text).ok_or_else(|| {
            one(name.complain(format!("there is no set `{}`", name.text), "a set that was created before"))
        })
    };
    let elements = |purpose| {
        let name = name()?;
        let mut elements = Vec::new();
        entry::read(found(name)?, &rest[1..], purpose, &mut |element| elements.push(element)).map_err(
            |mut complaint| {
                if complaint.at.is_empty() {
                    complaint.at = name.at.clone();
                }
                one(complaint)
            },
        )?;
        Ok::<_, Vec<Complaint>>((name.text.clone(), elements))
    };
    let optional = || rest.first().map(|_| name().map(|name| name.text.clone())).transpose();
    let pair = || match rest {
        [from, to] => Ok((from.text.clone(), to.text.clone())),
        _ => Err(one(command.complain(format!("`{}` wants two sets", command.text), "FROM TO"))),
    };
    Ok(Some(match known.map(|(name, _)| *name) {
        Some("create") => Line::Create(create(name()?, &rest[1..])?),
        Some("add") => elements(Purpose::Add).map(|(name, elements)| Line::Add(name, elements))?,
        Some("del") => elements(Purpose::Delete).map(|(name, elements)| Line::Delete(name, elements))?,
        Some("flush") => Line::Flush(optional()?),
        Some("destroy") => Line::Destroy(optional()?),
        Some("swap") => pair().map(|(from, to)| Line::Swap(from, to))?,
        Some("rename") => pair().map(|(from, to)| Line::Rename(from, to))?,
        _ => {
            let names = COMMANDS.iter().map(|(name, _)| *name);
            let accepts = match nearest(&command.text, names.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => crate::rule::word::either(names),
            };
            return Err(one(command.complain(format!("`{}` is not a command of ipset", command.text), accepts)));
        }
    }))
}

/// Reads what stands behind `create NAME`.
pub fn create(name: &Word, words: &[Word]) -> Result<Header, Vec<Complaint>> {
    let Some((kind, mut rest)) = words.split_first() else {
        return Err(vec![name.complain(format!("the type of `{}` is missing", name.text), entry::kinds())]);
    };
    let Some(known) = Kind::named(&kind.text) else {
        let accepts = match nearest(&kind.text, Kind::ALL.iter().map(|(name, _)| *name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => entry::kinds(),
        };
        return Err(vec![kind.complain(format!("`{}` is not a type of sets", kind.text), accepts)]);
    };
    let mut given = Vec::new();
    while let Some((option, behind)) = rest.split_first() {
        rest = behind;
        let bare = option.text.trim_start_matches('-');
        if bare == "4" || bare == "6" {
            let family = Word { text: "family".to_string(), at: option.at.clone() };
            given.push(Given { option: family, value: Some(option.clone()) });
            continue;
        }
        let option = Word { text: bare.to_string(), at: option.at.clone() };
        let value = match (bare, takes(bare)) {
            // Of long ago; ipset takes and ignores them.
            ("probes" | "resize" | "gc", _) => {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            (_, Some(Takes::Word)) => rest.split_first().map(|(value, behind)| {
                rest = behind;
                value.clone()
            }),
            _ => None,
        };
        given.push(Given { option, value });
    }
    Header::read(&name.text, known, &given, kind)
}

/// Reads a whole text of `create` and `add`: its sets in order, or all that is wrong with it.
pub fn sets(text: &str) -> Result<Vec<Declaration>, Vec<Complaint>> {
    let mut sets: Vec<Declaration> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut complaints = Vec::new();
    let mut base = 0;
    for whole_line in text.split_inclusive('\n') {
        let (start, line_text) = (base, whole_line.trim_end_matches(['\n', '\r']));
        base += whole_line.len();
        let header = |name: &str| index.get(name).map(|&i| &sets[i].header);
        let whole = Word { text: line_text.to_string(), at: start..start + line_text.len() };
        match line(line_text, start, header) {
            Ok(None) => {}
            Ok(Some(Line::Create(header))) => {
                if index.insert(header.name.clone(), sets.len()).is_some() {
                    complaints
                        .push(whole.complain(format!("the set `{}` is there twice", header.name), "another name"));
                }
                sets.push(Declaration { header, elements: Vec::new() });
            }
            Ok(Some(Line::Add(name, elements))) => {
                if let Some(set) = index.get(&name).and_then(|&i| sets.get_mut(i)) {
                    set.elements.extend(elements);
                }
            }
            Ok(Some(_)) => {
                let what = "this command changes sets that are there already".to_string();
                complaints.push(whole.complain(what, "create and add; `sumun set restore` takes all commands"));
            }
            Err(found) => complaints.extend(found),
        }
    }
    for Declaration { header, elements } in &sets {
        if elements.len() > header.capacity() as usize {
            let what = format!("the set `{}` has {} elements", header.name, elements.len());
            let accepts = format!("at most {}, or a larger maxelem", header.capacity());
            complaints.push(Complaint { at: 0..0, what, accepts: Some(accepts) });
        }
    }
    if complaints.is_empty() { Ok(sets) } else { Err(complaints) }
}

/// Writes sets so that [`sets`] reads the same.
pub fn print(sets: &[Declaration]) -> String {
    let mut out = String::new();
    for Declaration { header, elements } in sets {
        out.push_str(&format!("create {} {} {}\n", header.name, header.kind.name(), super::print::header(header)));
        for element in elements {
            out.push_str(&format!("add {} ", header.name));
            super::print::element(header, element, &mut out);
            out.push('\n');
        }
    }
    out
}
