//! A rule in iptables syntax, without `-A CHAIN`: `-i lan0 -p tcp --dport 22 -j ACCEPT`.
//!
//! Words are quoted as in a shell and as iptables-save writes them. An option belongs to what offers it: the target, or
//! the match loaded last that has it; `-p tcp` makes tcp's options available where nothing else has the name. A long
//! option may be cut short as long as it stays unique (`--to` of `--to-source`), as getopt_long allows.

use super::build::{self, ParsedRule, Site};
use super::draft::{self, Draft, Loaded, Owner, Unfit, complain};
use super::option::{Complaint, GivenOption, Opt, Values, Word};
use super::{core, matches, targets};
use crate::facts::Family;

/// Reads a rule for the families that its site wants. All mistakes that can be told apart are in the answer at once.
pub fn parse_text(text: &str, site: &Site) -> Result<ParsedRule, Vec<Complaint>> {
    let words = words(text, site.base).map_err(|complaint| vec![complaint])?;
    let at = site.base..site.base + text.len();
    build::for_families(site, at, |family| Sorter::new(family, &words).sort())
}

/// Splits a rule into words. Double quotes keep blanks, and a backslash in them keeps the next character; single quotes
/// keep everything; outside quotes a backslash keeps the next character too.
fn words(text: &str, base: usize) -> Result<Vec<Word>, Complaint> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        let mut word = String::new();
        let mut quote = None;
        let mut end = text.len();
        while let Some(&(i, c)) = chars.peek() {
            match quote {
                None if c.is_whitespace() => {
                    end = i;
                    break;
                }
                None if c == '"' || c == '\'' => quote = Some((c, i)),
                Some((q, _)) if q == c => quote = None,
                None | Some(('"', _)) if c == '\\' => {
                    chars.next();
                    if let Some(&(_, kept)) = chars.peek() {
                        word.push(kept);
                    }
                }
                _ => word.push(c),
            }
            chars.next();
        }
        if let Some((quote, at)) = quote {
            return Err(Complaint {
                at: base + at..base + text.len(),
                what: "this quote is not closed".to_string(),
                accepts: Some(format!("{quote} at the end of the word")),
            });
        }
        words.push(Word { text: word, at: base + start..base + end });
    }
    Ok(words)
}

/// An option as it stands in the text: its name without dashes, and the value attached to it (`--dport=22`, `-ilan0`).
struct Spelled<'a> {
    name: &'a str,
    attached: Option<Word>,
}

/// Options that are no conditions.
#[derive(Clone, Copy)]
enum General {
    Match,
    Jump { goto: bool },
    Family(Family),
    Counters,
}

const GENERAL: &[(&str, General)] = &[
    ("match", General::Match),
    ("m", General::Match),
    ("jump", General::Jump { goto: false }),
    ("j", General::Jump { goto: false }),
    ("goto", General::Jump { goto: true }),
    ("g", General::Jump { goto: true }),
    ("ipv4", General::Family(Family::V4)),
    ("4", General::Family(Family::V4)),
    ("ipv6", General::Family(Family::V6)),
    ("6", General::Family(Family::V6)),
    ("set-counters", General::Counters),
    ("c", General::Counters),
];

/// Sorts the words of one rule for one family.
struct Sorter<'a> {
    words: &'a [Word],
    next: usize,
    draft: Draft,
    /// Owners of options in the order loaded, the newest last.
    loaded: Vec<Owner>,
    /// The `!` before the next option.
    bang: Option<&'a Word>,
    /// Something unknown was loaded, so that unknown options say nothing new.
    blind: bool,
    declined: Option<Complaint>,
    complaints: Vec<Complaint>,
}

impl<'a> Sorter<'a> {
    fn new(family: Family, words: &'a [Word]) -> Sorter<'a> {
        Sorter {
            words,
            next: 0,
            draft: Draft::new(family),
            loaded: Vec::new(),
            bang: None,
            blind: false,
            declined: None,
            complaints: Vec::new(),
        }
    }

    fn sort(mut self) -> Result<Draft, Unfit> {
        while let Some(word) = self.take() {
            match word.text.as_str() {
                "!" => match self.bang.replace(word) {
                    Some(_) => self.complaints.push(complain(&word.at, "`!` stands twice")),
                    None => continue,
                },
                text if text.len() > 1 && text.starts_with('-') => {
                    self.option(word);
                    self.bang = None;
                }
                _ if self.blind => {}
                text => self.complaints.push(
                    word.complain(format!("`{text}` is not expected here"), "an option, such as -p, --dport or -j"),
                ),
            }
        }
        if let Some(bang) = self.bang {
            self.complaints.push(bang.complain("nothing follows this `!`", "an option after it"));
        }
        match self.declined {
            Some(complaint) => Err(Unfit::Declined(complaint)),
            None if self.complaints.is_empty() => Ok(self.draft),
            None => Err(Unfit::Wrong(self.complaints)),
        }
    }

    fn take(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    fn option(&mut self, word: &'a Word) {
        let spelled = spell(word);
        if let Some(&(_, general)) = GENERAL.iter().find(|(name, _)| *name == spelled.name && is_dashed(word, name)) {
            self.general(general, word, spelled.attached);
            return;
        }
        match self.resolve(word, spelled.name) {
            Some((owner, option)) => self.give(owner, option, word, spelled.attached),
            None => self.unknown(word, spelled.name),
        }
    }

    fn general(&mut self, general: General, word: &'a Word, attached: Option<Word>) {
        if let Some(bang) = self.bang {
            self.complaints.push(complain(&bang.at, format!("`!` cannot stand before `{}`", word.text)));
        }
        match general {
            General::Family(family) => {
                if family != self.draft.family {
                    self.declined = Some(complain(&word.at, format!("the rule is for {} only", family.name())));
                }
            }
            General::Counters => {
                let counts = [attached.or_else(|| self.take().cloned()), self.take().cloned()];
                for count in counts {
                    if count.as_ref().is_none_or(|count| count.text.parse::<u64>().is_err()) {
                        let at = count.map_or(word.at.clone(), |count| count.at);
                        self.complaints.push(Complaint {
                            at,
                            what: format!("`{}` wants two numbers", word.text),
                            accepts: None,
                        });
                        return;
                    }
                }
            }
            General::Match => match attached.or_else(|| self.take().cloned()) {
                Some(name) => self.load(name),
                None => {
                    self.complaints.push(word.complain(format!("`{}` wants a name", word.text), "the name of a match"))
                }
            },
            General::Jump { goto } => match attached.or_else(|| self.take().cloned()) {
                Some(name) => self.jump(word, name, goto),
                None => {
                    self.complaints.push(word.complain(format!("`{}` wants a name", word.text), "a target or a chain"))
                }
            },
        }
    }

    fn load(&mut self, name: Word) {
        match draft::find_match(self.draft.family, &name.text) {
            Some(extension) => {
                self.loaded.push(Owner::Match(self.draft.matches.len()));
                self.draft.matches.push(Loaded::new(extension, name));
            }
            None => {
                self.blind = true;
                self.complaints.push(draft::unknown_match(&name, self.draft.family));
            }
        }
    }

    fn jump(&mut self, word: &Word, name: Word, goto: bool) {
        if self.draft.aim.is_some() {
            self.complaints.push(word.complain("the rule has a target already", "one -j or -g"));
            return;
        }
        match draft::aim(self.draft.family, name, goto) {
            Ok(aim) => {
                self.loaded.push(Owner::Target);
                self.draft.aim = Some(aim);
            }
            Err(complaint) => {
                self.blind = true;
                self.complaints.push(complaint);
            }
        }
    }

    /// Whose option a name is: exactly first, then as the beginning of one name only.
    fn resolve(&mut self, word: &Word, name: &str) -> Option<(Owner, usize)> {
        if let Some(option) = draft::position(&core::OPTIONS, name).filter(|_| is_dashed(word, name)) {
            return Some((Owner::Core, option));
        }
        if !word.text.starts_with("--") {
            return None;
        }
        let owners: Vec<Owner> = self.loaded.iter().rev().copied().collect();
        let exact = |owner: &Owner| draft::position(self.draft.options(*owner), name).map(|option| (*owner, option));
        if let Some(found) = owners.iter().find_map(exact) {
            return Some(found);
        }
        let own = self.draft.protocol_match();
        let by_protocol = own.and_then(|extension| draft::position(extension.options, name));
        if let (Some(extension), Some(option)) = (own, by_protocol) {
            return Some((self.load_implied(extension, word), option));
        }
        let mut begun: Vec<(Option<Owner>, usize)> = Vec::new();
        let mut collect = |owner: Option<Owner>, options: &[Opt]| {
            let starts = |o: &Opt| o.name.starts_with(name) || o.aliases.iter().any(|a| a.starts_with(name));
            begun.extend(options.iter().enumerate().filter(|(_, o)| starts(o)).map(|(i, _)| (owner, i)));
        };
        collect(Some(Owner::Core), &core::OPTIONS);
        owners.iter().for_each(|&owner| collect(Some(owner), self.draft.options(owner)));
        collect(None, own.map_or(&[], |extension| extension.options));
        match (begun.as_slice(), own) {
            (&[(Some(owner), option)], _) => Some((owner, option)),
            (&[(None, option)], Some(extension)) => Some((self.load_implied(extension, word), option)),
            _ => None,
        }
    }

    fn load_implied(&mut self, extension: &'static super::option::MatchExtension, word: &Word) -> Owner {
        let owner = Owner::Match(self.draft.matches.len());
        self.loaded.push(owner);
        self.draft.matches.push(Loaded::new(extension, word.clone()));
        owner
    }

    fn give(&mut self, owner: Owner, option: usize, word: &Word, attached: Option<Word>) {
        let described = self.draft.options(owner)[option];
        let mut negate = self.bang.is_some();
        let mut values: Vec<Word> = attached.into_iter().collect();
        let wanted = match described.values {
            Values::None => 0,
            Values::One => 1,
            Values::Two => 2,
        };
        if values.len() > wanted {
            self.complaints.push(complain(&values[0].at, format!("`--{}` takes no value", described.name)));
            return;
        }
        // The old place of a negation, after the option.
        if wanted > 0
            && values.is_empty()
            && described.negatable
            && self.words.get(self.next).is_some_and(|w| w.text == "!")
        {
            self.next += 1;
            negate = true;
        }
        while values.len() < wanted {
            match self.take() {
                Some(value) => values.push(value.clone()),
                None => {
                    let count = if wanted == 1 { "a value".to_string() } else { format!("{wanted} values") };
                    self.complaints.push(word.complain(format!("`{}` wants {count}", word.text), "a word after it"));
                    return;
                }
            }
        }
        self.draft.give(owner, GivenOption { option, negate, word: word.clone(), values });
    }

    /// An option that nothing loaded has. Words that are no options are taken for its values.
    fn unknown(&mut self, word: &Word, name: &str) {
        let values = |w: &&Word| w.text != "!" && !(w.text.len() > 1 && w.text.starts_with('-'));
        self.next += self.words[self.next..].iter().take_while(values).count();
        if self.blind {
            return;
        }
        let owners = owners(self.draft.family, name);
        let accepts = match owners.as_slice() {
            [] => {
                let loaded = self.loaded.iter().flat_map(|&owner| self.draft.options(owner));
                let own = self.draft.protocol_match().into_iter().flat_map(|m| m.options);
                let known = core::OPTIONS.iter().chain(loaded).chain(own).map(|o| o.name);
                super::word::nearest(name, known).map(|near| format!("did you mean `--{near}`?"))
            }
            some => Some(format!(
                "it belongs to {}: write that before it",
                super::word::either(some.iter().map(String::as_str))
            )),
        };
        self.complaints.push(Complaint {
            at: word.at.clone(),
            what: format!("there is no option `{}` here", word.text),
            accepts,
        });
    }
}

/// What must stand before an option of that name, for each match and target that has one.
fn owners(family: Family, name: &str) -> Vec<String> {
    let matches =
        matches::EXTENSIONS.iter().filter(|m| m.families.has(family) && draft::position(m.options, name).is_some());
    let named = matches.map(|m| match m.protocol.and_then(matches::protocol::name) {
        Some(protocol)
            if draft::own_match(family, m.protocol.unwrap_or(0)).is_some_and(|own| std::ptr::eq(own, *m)) =>
        {
            format!("-p {protocol}")
        }
        _ => format!("-m {}", m.name),
    });
    let targets =
        targets::EXTENSIONS.iter().filter(|t| t.families.has(family) && draft::position(t.options, name).is_some());
    named.chain(targets.map(|t| format!("-j {}", t.name))).collect()
}

/// Whether a name is dashed as its length asks: one dash before one letter, two before more.
fn is_dashed(word: &Word, name: &str) -> bool {
    word.text.starts_with("--") == (name.len() > 1)
}

fn spell(word: &Word) -> Spelled<'_> {
    let place = |start: usize| match word.at.len() == word.text.len() {
        true => word.at.start + start..word.at.end,
        false => word.at.clone(),
    };
    let attached = |start: usize, text: &str| Word { text: text.to_string(), at: place(start) };
    match word.text.strip_prefix("--") {
        Some(long) => match long.split_once('=') {
            Some((name, value)) => Spelled { name, attached: Some(attached(name.len() + 3, value)) },
            None => Spelled { name: long, attached: None },
        },
        None => {
            let letter = word.text[1..].chars().next().map_or(0, char::len_utf8);
            let (name, value) = word.text[1..].split_at(letter);
            Spelled { name, attached: (!value.is_empty()).then(|| attached(1 + letter, value)) }
        }
    }
}
