//! A rule as named fields: `{ in = "lan0", protocol = "tcp", dport = 22, ctstate = ["NEW"], target = "ACCEPT" }`.
//!
//! A field is an option by its long name, with underscores for dashes where liked; `not-` before a name or `!` before a
//! value negates; a list is one word with commas. Nobody needs to name matches: an option belongs to the target, to a match
//! named in `match`, to the protocol's own match, or to the only match that has it. `limit = { limit = "5/s" }` says it
//! outright. Both forms of a rule share the options and the `build` of every match and target, so they accept the same.

use super::build::{self, ParsedRule, Site};
use super::draft::{self, Aim, Draft, Loaded, Owner, Unfit, complain};
use super::option::{Complaint, GivenOption, MatchExtension, Opt, Values, Word};
use super::word::{either, nearest};
use super::{core, matches};
use crate::facts::Family;
use std::ops::Range;

/// A field of a rule. All places are bytes of the file.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name as written.
    pub key: Word,
    /// It is negated outside of its value.
    pub negate: bool,
    /// Its value, or the values of its list: strings without quotes, numbers and booleans as written.
    pub values: Vec<Word>,
    /// The fields of a table, where the value is one.
    pub nested: Option<Vec<Item>>,
}

/// Reads a rule for the families that its site wants; `at` is its place in the file. All mistakes that can be told apart
/// are in the answer at once.
pub fn parse_fields(items: &[Item], at: Range<usize>, site: &Site) -> Result<ParsedRule, Vec<Complaint>> {
    build::for_families(site, at, |family| Sorter::new(family).sort(items))
}

/// Fields that are no conditions.
const GENERAL: [&str; 5] = ["match", "target", "jump", "goto", "family"];

/// The name of a field in the spelling of options, and whether `not-` stood before it.
fn name(item: &Item) -> (String, bool) {
    let name = item.key.text.replace('_', "-");
    match name.strip_prefix("not-") {
        Some(rest) => (rest.to_string(), true),
        None => (name, false),
    }
}

/// Sorts the fields of one rule for one family.
struct Sorter {
    draft: Draft,
    declined: Option<Complaint>,
    complaints: Vec<Complaint>,
}

impl Sorter {
    fn new(family: Family) -> Sorter {
        Sorter { draft: Draft::new(family), declined: None, complaints: Vec::new() }
    }

    fn sort(mut self, items: &[Item]) -> Result<Draft, Unfit> {
        // What says whose an option is comes first, wherever it stands.
        for item in items {
            match name(item) {
                (name, negated) if GENERAL.contains(&name.as_str()) => {
                    self.general(&name, negated || item.negate, item)
                }
                (name, negated) => {
                    if let Some(option) = core_option(&name).filter(|_| item.nested.is_none()) {
                        self.give(Owner::Core, option, negated, item);
                    }
                }
            }
        }
        for item in items {
            let (name, negated) = name(item);
            match &item.nested {
                _ if GENERAL.contains(&name.as_str()) => {}
                Some(nested) => self.nested(&name, item, nested),
                None if core_option(&name).is_some() => {}
                None => {
                    if let Some((owner, option)) = self.owner(&name, item) {
                        self.give(owner, option, negated, item);
                    }
                }
            }
        }
        match self.declined {
            Some(complaint) => Err(Unfit::Declined(complaint)),
            None if self.complaints.is_empty() => Ok(self.draft),
            None => Err(Unfit::Wrong(self.complaints)),
        }
    }

    fn general(&mut self, name: &str, negated: bool, item: &Item) {
        if negated || item.nested.is_some() || item.values.is_empty() {
            let what = format!("`{}` wants a name and cannot be negated", item.key.text);
            self.complaints.push(complain(&item.key.at, what));
            return;
        }
        match (name, item.values.as_slice()) {
            ("match", names) => names.iter().for_each(|name| self.load(name)),
            ("family", [word]) => self.family(word),
            ("goto", [word]) => self.aim(item, word, true),
            (_, [word]) => self.aim(item, word, false),
            (_, [_, second, ..]) => {
                self.complaints.push(second.complain(format!("`{name}` takes one name"), "one name"))
            }
            (_, []) => {}
        }
    }

    fn family(&mut self, word: &Word) {
        let wanted = Family::ALL.into_iter().find(|family| family.name() == word.text);
        match wanted {
            Some(family) if family == self.draft.family => {}
            Some(family) => {
                self.declined = Some(complain(&word.at, format!("the rule is for {} only", family.name())));
            }
            None if word.text == "both" => {}
            None => {
                let what = format!("`{}` is not a family", word.text);
                self.complaints.push(word.complain(what, "ipv4, ipv6 or both"));
            }
        }
    }

    fn load(&mut self, name: &Word) {
        match draft::find_match(self.draft.family, &name.text) {
            Some(extension) => self.draft.matches.push(Loaded::new(extension, name.clone())),
            None => self.complaints.push(draft::unknown_match(name, self.draft.family)),
        }
    }

    fn aim(&mut self, item: &Item, word: &Word, goto: bool) {
        if self.draft.aim.is_some() {
            let what = "the rule has a target already".to_string();
            self.complaints.push(item.key.complain(what, "one target, jump or goto"));
            return;
        }
        match draft::aim(self.draft.family, word.clone(), goto) {
            Ok(aim) => self.draft.aim = Some(aim),
            Err(complaint) => self.complaints.push(complaint),
        }
    }

    /// The options of a match or target that is named.
    fn nested(&mut self, name: &str, item: &Item, nested: &[Item]) {
        let owner = match draft::find_match(self.draft.family, name) {
            Some(extension) => self.load_implied(extension, &item.key),
            None => match self.target_named(&item.key) {
                Some(owner) => owner,
                None => {
                    self.complaints.push(draft::unknown_match(&item.key, self.draft.family));
                    return;
                }
            },
        };
        if item.negate {
            self.complaints.push(complain(&item.key.at, "a table cannot be negated: negate the options in it"));
        }
        for field in nested {
            let (name, negated) = self::name(field);
            let options = self.draft.options(owner);
            match draft::position(options, &name) {
                Some(option) => self.give(owner, option, negated, field),
                None => {
                    let what = format!("`{}` has no option `{}`", item.key.text, field.key.text);
                    let accepts = draft::suggest(&name, options.iter().map(|o| o.name));
                    self.complaints.push(Complaint { at: field.key.at.clone(), what, accepts });
                }
            }
        }
    }

    /// The target, where a table has its name; the table alone makes it the target.
    fn target_named(&mut self, key: &Word) -> Option<Owner> {
        let extension = draft::find_target(self.draft.family, &key.text)?;
        match &self.draft.aim {
            None => {
                self.draft.aim = Some(Aim::Target(Loaded::new(extension, key.clone())));
                Some(Owner::Target)
            }
            Some(Aim::Target(target)) if std::ptr::eq(target.extension, extension) => Some(Owner::Target),
            Some(_) => None,
        }
    }

    /// Whose option a field is; complains where that cannot be said.
    fn owner(&mut self, name: &str, item: &Item) -> Option<(Owner, usize)> {
        let loaded = (0..self.draft.matches.len()).rev().map(Owner::Match);
        for owner in [Owner::Target].into_iter().chain(loaded) {
            if let Some(option) = draft::position(self.draft.options(owner), name) {
                return Some((owner, option));
            }
        }
        let family = self.draft.family;
        // The name of a match that has one option only stands for that option.
        if let Some(extension) = draft::find_match(family, name).filter(|m| m.options.len() == 1) {
            return Some((self.load_implied(extension, &item.key), 0));
        }
        let protocol = core::protocol(&self.draft.core).filter(|&(_, negated)| !negated).map(|(number, _)| number);
        let having =
            |m: &&&'static MatchExtension| m.families.has(family) && draft::position(m.options, name).is_some();
        let having: Vec<&'static MatchExtension> = matches::EXTENSIONS.iter().filter(having).copied().collect();
        let own = protocol.and_then(|number| draft::own_match(family, number));
        let fitting: Vec<_> =
            having.iter().copied().filter(|m| m.protocol.is_none() || m.protocol == protocol).collect();
        let chosen = [
            own.filter(|own| fitting.iter().any(|m| std::ptr::eq(*m, *own))),
            fitting.iter().copied().find(|m| m.name == name),
            fitting.first().copied().filter(|_| fitting.len() == 1),
        ];
        if let Some(extension) = chosen.into_iter().flatten().next() {
            let option = draft::position(extension.options, name)?;
            return Some((self.load_implied(extension, &item.key), option));
        }
        self.complaints.push(match (fitting.as_slice(), having.as_slice()) {
            ([], []) => self.unknown(name, item),
            ([], wrong) => {
                let protocols = wrong.iter().filter_map(|m| matches::protocol::name(m.protocol?));
                let what = format!("`{}` needs a protocol that has it", item.key.text);
                item.key.complain(what, format!("protocol = {}", either(protocols)))
            }
            (several, _) => {
                let names = either(several.iter().map(|m| m.name));
                let what = format!("`{}` could be an option of {names}", item.key.text);
                let value = item.values.first().map_or("...", |value| value.text.as_str());
                item.key.complain(
                    what,
                    format!("the match outright, such as {} = {{ {name} = \"{value}\" }}", several[0].name),
                )
            }
        });
        None
    }

    fn unknown(&self, name: &str, item: &Item) -> Complaint {
        let family = self.draft.family;
        if let Some(extension) = draft::find_match(family, name) {
            let options = either(extension.options.iter().map(|o| o.name));
            let what = format!("`{}` is a match and wants its options", item.key.text);
            return item.key.complain(what, options);
        }
        let loaded = (0..self.draft.matches.len()).map(Owner::Match).chain([Owner::Core, Owner::Target]);
        let near_by = loaded.flat_map(|owner| self.draft.options(owner));
        let all = matches::EXTENSIONS.iter().filter(|m| m.families.has(family)).flat_map(|m| m.options);
        let names = near_by.chain(all).map(|o| o.name).chain(["in", "out"]).chain(GENERAL);
        Complaint {
            at: item.key.at.clone(),
            what: format!("there is no field `{}`", item.key.text),
            accepts: nearest(name, names).map(|near| format!("did you mean `{near}`?")),
        }
    }

    fn load_implied(&mut self, extension: &'static MatchExtension, word: &Word) -> Owner {
        let loaded = self.draft.matches.iter().position(|m| std::ptr::eq(m.extension, extension));
        Owner::Match(loaded.unwrap_or_else(|| {
            self.draft.matches.push(Loaded::new(extension, word.clone()));
            self.draft.matches.len() - 1
        }))
    }

    fn give(&mut self, owner: Owner, option: usize, negated: bool, item: &Item) {
        let described = self.draft.options(owner)[option];
        let negate = negated ^ item.negate;
        match values(&described, negate, item) {
            Ok(Some((negate, values))) => {
                self.draft.give(owner, GivenOption { option, negate, word: item.key.clone(), values });
            }
            Ok(None) => {}
            Err(complaint) => self.complaints.push(complaint),
        }
    }
}

fn core_option(name: &str) -> Option<usize> {
    draft::position(&core::OPTIONS, name).filter(|_| name.len() > 1)
}

/// The words of an option and whether it is negated; none where a flag is switched off.
fn values(option: &Opt, negate: bool, item: &Item) -> Result<Option<(bool, Vec<Word>)>, Complaint> {
    let wrong = |what: &str, accepts: &str| {
        let at = item.values.first().map_or(item.key.at.start, |v| v.at.start)
            ..item.values.last().map_or(item.key.at.end, |v| v.at.end);
        Err(Complaint { at, what: format!("`{}` {what}", item.key.text), accepts: Some(accepts.to_string()) })
    };
    if item.nested.is_some() {
        return wrong("is no table", "a value");
    }
    match option.values {
        Values::None => match item.values.iter().map(|v| v.text.as_str()).collect::<Vec<_>>().as_slice() {
            [] | ["true"] => Ok(Some((negate, Vec::new()))),
            ["false"] if option.negatable => Ok(Some((!negate, Vec::new()))),
            ["false"] => Ok(None),
            _ => wrong("is given or not", "true or false"),
        },
        Values::Optional if matches!(item.values.as_slice(), [word] if word.text == "true") => {
            Ok(Some((negate, Vec::new())))
        }
        Values::Optional | Values::One => match joined(&item.values) {
            None => wrong("wants a value", "a value"),
            Some(word) => {
                let (banged, word) = unbanged(option, word);
                Ok(Some((negate ^ banged, vec![word])))
            }
        },
        Values::Two => {
            let words = match item.values.as_slice() {
                [both] => {
                    let (banged, both) = unbanged(option, both.clone());
                    let halves =
                        both.text.split_whitespace().map(|text| Word { text: text.to_string(), at: both.at.clone() });
                    (negate ^ banged, halves.collect())
                }
                [first, second] => {
                    let (banged, first) = unbanged(option, first.clone());
                    (negate ^ banged, vec![first, second.clone()])
                }
                _ => (negate, Vec::new()),
            };
            if words.1.len() == 2 { Ok(Some(words)) } else { wrong("wants two values", "a list of two strings") }
        }
    }
}

/// The values of a list as one word with commas.
fn joined(values: &[Word]) -> Option<Word> {
    let (first, last) = (values.first()?, values.last()?);
    if values.len() == 1 {
        return Some(first.clone());
    }
    let text = values.iter().map(|v| v.text.as_str()).collect::<Vec<_>>().join(",");
    Some(Word { text, at: first.at.start..last.at.end })
}

/// A word without the `!` before it, where that negates.
fn unbanged(option: &Opt, word: Word) -> (bool, Word) {
    match word.text.strip_prefix('!') {
        Some(rest) if option.negatable => {
            let text = rest.trim_start().to_string();
            (true, Word { text, at: word.at })
        }
        _ => (false, word),
    }
}
