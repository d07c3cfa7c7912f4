//! `[sets.NAME]`: sets with their elements, from the file or from one that `ipset save` wrote.

use super::literal::Literal;
use super::reader::{Field, Fields};
use super::report::Sink;
use crate::diag::Source;
use crate::rule::option::{Complaint, Word};
use crate::rule::word::{either, nearest};
use crate::set::entry::{self, Purpose};
use crate::set::header::{Given, Takes, takes};
use crate::set::{Declaration, Element, Header, Kind, MAX_NAME, MAX_SETS, is_name, save};
use std::ops::Range;
use std::path::Path;
use toml::de::DeValue;

/// Mistakes of one other file that are told.
const MOST_TOLD: usize = 20;

/// What the sections define.
#[derive(Default)]
pub(super) struct Sets {
    /// In the order of the file.
    pub sets: Vec<Declaration>,
    /// Names of sections with a mistake.
    pub mistaken: Vec<String>,
}

/// Reads the sections.
pub(super) fn read(field: Option<Field>, source: &Source, sink: &mut Sink) -> Sets {
    let mut found = Sets::default();
    let Some(field) = field else { return found };
    let mut places = Vec::new();
    let sections = field.table("[sets]", "sections [sets.NAME]", sink);
    for section in sections.map(|mut sections| sections.rest()).unwrap_or_default() {
        let name = section.name;
        if !is_name(name) {
            sink.error(section.key(), format!("`{name}` cannot be the name of a set"))
                .help(format!("1 to {MAX_NAME} characters without white space"));
        }
        let table = section.table(format!("[sets.{name}]"), "a section with `type`", sink);
        match table.and_then(|table| set(name, section.key(), table, source, sink)) {
            Some(set) if is_name(name) => {
                found.sets.push(set);
                places.push(section.key());
            }
            _ => found.mistaken.push(name.to_string()),
        }
    }
    if found.sets.len() > MAX_SETS {
        sink.error(field.key(), format!("more than {MAX_SETS} sets"));
    }
    names_of_members(&found, &places, sink);
    found
}

/// What a list:set holds must be there, and no list itself.
fn names_of_members(found: &Sets, places: &[Range<usize>], sink: &mut Sink) {
    let lists = found.sets.iter().zip(places).filter(|(set, _)| set.header.kind == Kind::ListSet);
    for (Declaration { header, elements }, at) in lists {
        for name in elements.iter().filter_map(|element| element.extra.as_ref()).map(|extra| &extra.set) {
            let member = found.sets.iter().find(|set| set.header.name == *name);
            let what = match member {
                Some(member) if member.header.kind == Kind::ListSet => format!("a list:set too: `{name}`"),
                None if !found.mistaken.contains(name) => format!("a set that is not there: `{name}`"),
                _ => continue,
            };
            sink.conflict(at.clone(), format!("the set `{}` holds {what}", header.name)).help("sets of other types");
        }
    }
}

/// Reads one section; none where a complaint was made.
fn set(name: &str, key: Range<usize>, mut table: Fields, source: &Source, sink: &mut Sink) -> Option<Declaration> {
    let kind = table.take("type");
    let elements = table.take("elements");
    let from = table.take("from");
    let options = table.rest();
    let file = match &from {
        Some(from) => Some(other_file(from, source, sink)?),
        None => None,
    };
    let saved = file.as_ref().filter(|file| file.text().lines().any(|line| line.trim_start().starts_with("create ")));
    let mut set = match (saved, &from, kind) {
        (Some(file), Some(from), _) => {
            if let Some(more) = kind.iter().chain(&options).next() {
                sink.error(more.key(), format!("`{}` is said by the file already", more.name)).help("`from` alone");
                return None;
            }
            from_saved(name, file, from, sink)?
        }
        (_, _, None) => {
            let what = format!("`type` is missing in [sets.{name}]");
            sink.conflict(key.clone(), what).help("add `type = \"hash:ip\"`");
            return None;
        }
        (_, _, Some(kind)) => Declaration { header: header(name, &key, &kind, &options, sink)?, elements: Vec::new() },
    };
    let mut sound = true;
    if let (None, Some(file), Some(from)) = (saved, &file, &from) {
        sound &= lines(&set.header, file, &mut set.elements, from, sink);
    }
    for field in elements.and_then(|field| field.list("an array of elements", sink)).unwrap_or_default() {
        sound &= element(&set.header, &field, &mut set.elements, source, sink);
    }
    if set.elements.len() > set.header.capacity() as usize {
        let what = format!("the set `{name}` has {} elements", set.elements.len());
        sink.conflict(key, what).help(format!("at most {}, or a larger maxelem", set.header.capacity()));
        sound = false;
    }
    sound.then_some(set)
}

fn header(name: &str, key: &Range<usize>, kind: &Field, options: &[Field], sink: &mut Sink) -> Option<Header> {
    let names = Kind::ALL.iter().map(|(name, _)| *name);
    let text = kind.string("a type such as \"hash:net\"", sink)?;
    let Some(kind) = Kind::named(text) else {
        let near = nearest(text, names.clone()).map(|near| format!("did you mean \"{near}\"?"));
        kind.refuse(near.unwrap_or_else(|| either(names)), sink);
        return None;
    };
    let mut sound = true;
    let mut given = Vec::new();
    for field in options {
        let option = Word { text: field.name.to_string(), at: field.key() };
        match takes(field.name) {
            Some(Takes::Nothing) => match field.boolean(sink) {
                Some(true) => given.push(Given { option, value: None }),
                Some(false) => {}
                None => sound = false,
            },
            _ => match scalar(field) {
                Some(text) => given.push(Given { option, value: Some(Word { text, at: field.at() }) }),
                None => {
                    field.mistyped("a string or a number", "a string or a number", sink);
                    sound = false;
                }
            },
        }
    }
    let whole = Word { text: name.to_string(), at: key.clone() };
    match Header::read(name, kind, &given, &whole) {
        Ok(header) => sound.then_some(header),
        Err(complaints) => {
            complaints.into_iter().for_each(|complaint| complain(complaint, sink));
            None
        }
    }
}

/// A string, or a number as it would be one.
fn scalar(field: &Field) -> Option<String> {
    match field.node.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        _ => None,
    }
}

fn complain(complaint: Complaint, sink: &mut Sink) {
    let Complaint { at, what, accepts } = complaint;
    let told = sink.error(at, what);
    if let Some(accepts) = accepts {
        told.help(accepts);
    }
}

/// Reads an element of the array; whether it was right.
fn element(header: &Header, field: &Field, elements: &mut Vec<Element>, source: &Source, sink: &mut Sink) -> bool {
    let Some(text) = scalar(field) else {
        field.mistyped("a string", &entry::shape(header.kind), sink);
        return false;
    };
    let read = entry::words(&text, 0)
        .and_then(|words| entry::read(header, &words, Purpose::Add, &mut |element| elements.push(element)));
    let Err(complaint) = read else { return true };
    let at = match field.node.get_ref().as_str() {
        Some(text) => Literal::new(source.text(), field.at(), text).place(complaint.at.clone()),
        None => field.at(),
    };
    complain(Complaint { at, ..complaint }, sink);
    false
}

/// The file that `from` names, beside the configuration unless its path is absolute.
fn other_file(from: &Field, source: &Source, sink: &mut Sink) -> Option<Source> {
    let path = from.string("the path of a file that `ipset save` wrote, or of one element a line", sink)?;
    let path = Path::new(source.name()).parent().unwrap_or(Path::new("")).join(path);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(Source::new(path.display().to_string(), text)),
        Err(error) => {
            sink.error(from.at(), format!("cannot read {}: {error}", path.display()))
                .help("the path of a file, beside this one unless it is absolute");
            None
        }
    }
}

/// The set of a file that `ipset save` wrote: that of the name, or the only one.
fn from_saved(name: &str, file: &Source, from: &Field, sink: &mut Sink) -> Option<Declaration> {
    let mut sets = match save::sets(file.text()) {
        Ok(sets) => sets,
        Err(complaints) => {
            tell(&complaints, file, from, sink);
            return None;
        }
    };
    let at = match sets.iter().position(|set| set.header.name == name) {
        Some(at) => at,
        None if sets.len() == 1 => 0,
        None => {
            let names = either(sets.iter().map(|set| set.header.name.as_str()));
            sink.error(from.at(), format!("{} has no set `{name}`", file.name()))
                .help(format!("a section for {names}"));
            return None;
        }
    };
    let mut set = sets.swap_remove(at);
    set.header.name = name.to_string();
    Some(set)
}

/// Reads one element a line; whether all were right.
fn lines(header: &Header, file: &Source, elements: &mut Vec<Element>, from: &Field, sink: &mut Sink) -> bool {
    let mut complaints = Vec::new();
    let mut base = 0;
    for line in file.text().split_inclusive('\n') {
        let read = match line.trim_start().starts_with('#') {
            true => Ok(()),
            false => entry::words(line.trim_end(), base).and_then(|words| {
                // `add NAME` may stand before it.
                let words = match words.as_slice() {
                    [] => return Ok(()),
                    [add, _, rest @ ..] if add.text == "add" => rest,
                    all => all,
                };
                entry::read(header, words, Purpose::Add, &mut |element| elements.push(element))
            }),
        };
        if let Err(mut complaint) = read {
            if complaint.at.is_empty() {
                complaint.at = base..base + line.trim_end().len();
            }
            complaints.push(complaint);
        }
        base += line.len();
    }
    tell(&complaints, file, from, sink);
    complaints.is_empty()
}

/// Tells mistakes of another file, each with its place there.
fn tell(complaints: &[Complaint], file: &Source, from: &Field, sink: &mut Sink) {
    for Complaint { at, what, accepts } in complaints.iter().take(MOST_TOLD) {
        let (line, column) = file.position(at.start);
        let told = sink.error(from.at(), format!("{}:{line}:{column}: {what}", file.name()));
        if let Some(accepts) = accepts {
            told.help(accepts.clone());
        }
    }
    if let Some(more) = complaints.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        sink.error(from.at(), format!("{}: {more} more mistakes", file.name()));
    }
}
