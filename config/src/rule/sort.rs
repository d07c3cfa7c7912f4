//! Sorts the words of a rule or of a whole iptables command: which option belongs to what.
//!
//! As getopt_long does it for iptables: an option belongs to iptables itself, to the rule, or to a match or target loaded
//! before it, of several the newest; only then `-p tcp` makes tcp's options available. A long option may be cut short as
//! long as it stays unique among those known at that point (`--to` of `--to-source`), one-letter ones may share a dash.
//! Before 1.4.3 a `!` stood behind the option that it negates (`-s ! 10.0.0.0/8`): that is understood too.

use super::core;
use super::draft::{self, Draft, Loaded, Owner, Unfit, complain};
use super::general::{Command, GENERAL, General, Second, Verb};
use super::matches;
use super::option::{Complaint, GivenOption, MatchExtension, Opt, Values, Word};
use super::targets;
use crate::facts::Family;
use std::collections::VecDeque;

/// Where the words stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// A rule alone, whose chain is known.
    Rule,
    /// Behind `iptables` on a command line.
    Command,
    /// A line of iptables-restore.
    Restore,
}

/// What a line says beside its rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Line {
    /// The table, where it is named.
    pub table: Option<Word>,
    /// What is to be done.
    pub command: Option<Command>,
    /// It only asks for help or the version.
    pub idle: bool,
}

/// Sorts a rule.
pub(super) fn sort_rule(family: Family, words: &[Word]) -> Result<Draft, Unfit> {
    let mut sorter = Sorter::new(family, words, Form::Rule);
    sorter.sort();
    sorter.finish()
}

/// Sorts a line with its rule, which may be empty. Complaints are about both.
pub(crate) fn sort_line(family: Family, words: &[Word], form: Form) -> (Line, Result<Draft, Unfit>) {
    let mut sorter = Sorter::new(family, words, form);
    sorter.sort();
    sorter.check_command(words);
    let line = std::mem::take(&mut sorter.line);
    match sorter.finish() {
        // iptables-restore passes over it, since both families may be given one file.
        Err(Unfit::Declined(complaint)) if form == Form::Command => (line, Err(Unfit::Wrong(vec![complaint]))),
        fit => (line, fit),
    }
}

/// What an option was found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    General(General),
    Given(Owner, usize),
    /// Of the match that the protocol makes available.
    Implied(usize),
}

/// Sorts the words of one line for one family.
struct Sorter {
    form: Form,
    words: VecDeque<Word>,
    line: Line,
    draft: Draft,
    /// Owners of options in the order loaded, the newest last.
    loaded: Vec<Owner>,
    /// The `!` before the next option.
    bang: Option<Word>,
    /// Something unknown was loaded, so that unknown options say nothing new.
    blind: bool,
    declined: Option<Complaint>,
    complaints: Vec<Complaint>,
}

impl Sorter {
    fn new(family: Family, words: &[Word], form: Form) -> Sorter {
        Sorter {
            form,
            words: words.iter().cloned().collect(),
            line: Line::default(),
            draft: Draft::new(family),
            loaded: Vec::new(),
            bang: None,
            blind: false,
            declined: None,
            complaints: Vec::new(),
        }
    }

    fn sort(&mut self) {
        while let Some(word) = self.words.pop_front() {
            match word.text.as_str() {
                "!" => {
                    if self.bang.is_some() {
                        self.complaints.push(complain(&word.at, "`!` stands twice"));
                    }
                    self.bang = Some(word);
                }
                text if is_option(text) => {
                    self.option(word);
                    self.bang = None;
                }
                _ if self.blind => {}
                text => self.complaints.push(
                    word.complain(format!("`{text}` is not expected here"), "an option, such as -p, --dport or -j"),
                ),
            }
        }
        if let Some(bang) = &self.bang {
            self.complaints.push(bang.complain("nothing follows this `!`", "an option after it"));
        }
    }

    fn finish(self) -> Result<Draft, Unfit> {
        match self.declined {
            Some(complaint) => Err(Unfit::Declined(complaint)),
            None if self.complaints.is_empty() => Ok(self.draft),
            None => Err(Unfit::Wrong(self.complaints)),
        }
    }

    fn option(&mut self, word: Word) {
        let (name, attached) = spell(&word);
        match self.resolve(&word, &name) {
            Some(Found::General(general)) => self.general(general, word, attached),
            Some(Found::Given(owner, option)) => self.give(owner, option, word, attached),
            Some(Found::Implied(option)) => {
                if let Some(extension) = self.draft.protocol_match() {
                    let owner = Owner::Match(self.draft.matches.len());
                    self.loaded.push(owner);
                    self.draft.matches.push(Loaded::new(extension, word.clone()));
                    self.give(owner, option, word, attached);
                }
            }
            None => self.unknown(word, &name),
        }
    }

    /// What an option is, as far as it is known.
    fn resolve(&self, word: &Word, name: &str) -> Option<Found> {
        if !word.text.starts_with("--") {
            let general = GENERAL.iter().find(|o| o.letter.is_some_and(|letter| name.chars().eq([letter])));
            let core = || draft::position(&core::OPTIONS, name).filter(|_| name.len() == 1);
            return general
                .map(|option| Found::General(option.does))
                .or_else(|| core().map(|option| Found::Given(Owner::Core, option)));
        }
        self.resolve_long(name, None).or_else(|| self.resolve_long(name, Some(self.draft.protocol_match()?)))
    }

    /// What a long option is, exactly first, then as the beginning of one name only.
    fn resolve_long(&self, name: &str, implied: Option<&'static MatchExtension>) -> Option<Found> {
        let general = GENERAL.iter().find(|o| o.long == name).map(|o| Found::General(o.does));
        let core = draft::position(&core::OPTIONS, name).map(|option| Found::Given(Owner::Core, option));
        let implied_exactly = implied.and_then(|m| draft::position(m.options, name)).map(Found::Implied);
        let mut newest_first = self.loaded.iter().rev();
        let loaded = newest_first
            .find_map(|&o| draft::position(self.draft.options(o), name).map(|option| Found::Given(o, option)));
        general
            .or(core.filter(|_| core::IPTABLES.contains(&name)))
            .or(implied_exactly)
            .or(loaded)
            .or(core.filter(|_| name.len() > 1))
            .or_else(|| self.begun(name, implied))
    }

    /// The only option whose name begins so.
    fn begun(&self, name: &str, implied: Option<&'static MatchExtension>) -> Option<Found> {
        let begins = |o: &Opt| o.name.starts_with(name) || o.aliases.iter().any(|a| a.len() > 1 && a.starts_with(name));
        let begin =
            |options: &'static [Opt]| options.iter().enumerate().filter(move |(_, o)| begins(o)).map(|(i, _)| i);
        let mut found: Vec<Found> =
            GENERAL.iter().filter(|o| o.long.starts_with(name)).map(|o| Found::General(o.does)).collect();
        found.extend(begin(&core::OPTIONS).map(|option| Found::Given(Owner::Core, option)));
        let mut seen: Vec<*const Opt> = Vec::new();
        for &owner in self.loaded.iter().rev() {
            let options = self.draft.options(owner);
            if !seen.contains(&options.as_ptr()) {
                seen.push(options.as_ptr());
                found.extend(begin(options).map(|option| Found::Given(owner, option)));
            }
        }
        found.extend(implied.into_iter().flat_map(|m| begin(m.options)).map(Found::Implied));
        // Where something unknown was loaded, it may be its option.
        let first = found.first().copied().filter(|_| !name.is_empty() && !self.blind)?;
        found.iter().all(|&other| other == first).then_some(first)
    }

    fn general(&mut self, general: General, word: Word, attached: Option<Word>) {
        if let Some(bang) = &self.bang {
            self.complaints.push(complain(&bang.at, format!("`!` cannot stand before `{}`", word.text)));
        }
        match general {
            General::Family(family) => {
                if family != self.draft.family {
                    self.declined = Some(complain(&word.at, format!("the rule is for {} only", family.name())));
                }
                self.go_on_with(&word, attached);
            }
            General::Counters => self.counters(&word, attached),
            General::Match => {
                if let Some(name) = self.named(&word, attached, "a name", "the name of a match") {
                    self.load(name);
                }
            }
            General::Jump { goto } => {
                if let Some(name) = self.named(&word, attached, "a name", "a target or a chain") {
                    self.jump(&word, name, goto);
                }
            }
            General::Table if self.form != Form::Rule => {
                let name = self.named(&word, attached, "a table", "the name of a table");
                if self.line.table.is_some() && name.is_some() {
                    self.complaints.push(complain(&word.at, format!("`{}` is given twice", word.text)));
                }
                self.line.table = name;
            }
            General::Command(verb) if self.form != Form::Rule => self.command(verb, word, attached),
            General::Wait if self.form == Form::Command => {
                if attached.is_none() && self.operand().is_some_and(|next| next.text.parse::<u32>().is_ok()) {
                    self.words.pop_front();
                }
            }
            General::Listing if self.form != Form::Rule => self.go_on_with(&word, attached),
            General::Modprobe if self.form != Form::Rule => {
                self.named(&word, attached, "a program", "a program");
            }
            General::Help if self.form == Form::Command => self.line.idle = true,
            other => self.misplaced(other, &word),
        }
    }

    /// Options of a line that have no meaning in this form.
    fn misplaced(&mut self, general: General, word: &Word) {
        while self.operand().is_some() {
            self.words.pop_front();
        }
        let what = match general {
            General::Command(_) | General::Table => {
                format!("`{}` cannot stand in a rule: its section says to which chain it belongs", word.text)
            }
            _ => format!("`{}` says how iptables is to run, which has no meaning here", word.text),
        };
        self.complaints.push(complain(&word.at, what));
    }

    /// The value of an option that needs one.
    fn named(&mut self, word: &Word, attached: Option<Word>, wants: &str, accepts: &str) -> Option<Word> {
        let name = attached.or_else(|| self.words.pop_front());
        if name.is_none() {
            self.complaints.push(word.complain(format!("`{}` wants {wants}", word.text), accepts));
        }
        name
    }

    /// The next word where it is no option.
    fn operand(&self) -> Option<&Word> {
        self.words.front().filter(|word| word.text != "!" && !is_option(&word.text))
    }

    /// `-nv` is `-n -v`: what is attached to a letter that takes no value are more of them.
    fn go_on_with(&mut self, word: &Word, attached: Option<Word>) {
        match attached {
            Some(more) if word.text.starts_with("--") => {
                self.complaints.push(complain(&more.at, format!("`{}` takes no value", word.text)));
            }
            Some(more) => self.words.push_front(Word { text: format!("-{}", more.text), at: more.at }),
            None => {}
        }
    }

    /// `PACKETS BYTES` or `PACKETS,BYTES`.
    fn counters(&mut self, word: &Word, attached: Option<Word>) {
        let is_count = |text: &str| text.parse::<u64>().is_ok();
        let first = attached.or_else(|| self.words.pop_front());
        if let Some((packets, bytes)) = first.as_ref().and_then(|first| first.text.split_once(','))
            && is_count(packets)
            && is_count(bytes)
        {
            return;
        }
        let second = self.words.pop_front();
        for count in [first, second] {
            if count.as_ref().is_none_or(|count| !is_count(&count.text)) {
                let at = count.map_or(word.at.clone(), |count| count.at);
                let what = format!("`{}` wants two numbers", word.text);
                self.complaints.push(Complaint { at, what, accepts: None });
                return;
            }
        }
    }

    fn command(&mut self, verb: Verb, word: Word, attached: Option<Word>) {
        let operands = verb.operands();
        let chain = attached.or_else(|| {
            self.operand()?;
            self.words.pop_front()
        });
        if chain.is_none() && operands.chain {
            self.complaints.push(word.complain(format!("`{}` wants a chain", word.text), "the name of a chain"));
        }
        let takes_second = chain.is_some() && operands.second != Second::None && self.operand().is_some();
        let second = if takes_second { self.words.pop_front() } else { None };
        match operands.second {
            Second::Number if second.is_none() => self.complaints.push(
                word.complain(format!("`{}` wants the number of a rule", word.text), "a number behind the chain"),
            ),
            Second::Word(what, accepts) if second.is_none() && chain.is_some() => {
                self.complaints.push(word.complain(format!("`{}` wants {what}", word.text), accepts));
            }
            _ => {}
        }
        let command = Command { word, verb, chain, second };
        match &self.line.command {
            // A listing changes nothing, and zeroing may go with it.
            Some(Command { verb: Verb::List, .. }) | None => self.line.command = Some(command),
            Some(_) if verb == Verb::List => {}
            Some(first) => {
                let what = format!("`{}` cannot stand with `{}`", command.word.text, first.word.text);
                self.complaints.push(command.word.complain(what, "one command a line"));
            }
        }
    }

    /// A line has a command, and a rule only where the command takes one.
    fn check_command(&mut self, words: &[Word]) {
        let Some(command) = &self.line.command else {
            let quiet = self.line.idle || self.declined.is_some() || !self.complaints.is_empty();
            if let Some(first) = words.first().filter(|_| !quiet) {
                let what = "there is no command here";
                self.complaints
                    .push(first.complain(what, "one such as -A CHAIN, -I CHAIN, -N CHAIN or -P CHAIN POLICY"));
            }
            return;
        };
        let by_number = command.verb == Verb::Delete && command.second.is_some();
        if command.verb.operands().rule && !by_number {
            return;
        }
        let given = self.draft.core.first().map(|o| &o.word);
        let loaded = self.draft.matches.first().map(|m| &m.word);
        let aim = self.draft.aim.as_ref().map(draft::Aim::word);
        if let Some(word) = given.or(loaded).or(aim) {
            let what = format!("`{}` takes no rule, but this is one", command.word.text);
            self.complaints.push(Complaint { at: word.at.clone(), what, accepts: None });
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

    fn give(&mut self, owner: Owner, option: usize, word: Word, attached: Option<Word>) {
        let described = self.draft.options(owner)[option];
        let mut negate = self.bang.is_some();
        let mut values: Vec<Word> = attached.into_iter().collect();
        let wanted = match described.values {
            Values::None => 0,
            Values::Optional => usize::from(!values.is_empty() || self.operand().is_some()),
            Values::One => 1,
            Values::Two => 2,
        };
        if values.len() > wanted {
            if word.text.starts_with("--") {
                self.complaints.push(complain(&values[0].at, format!("`--{}` takes no value", described.name)));
                return;
            }
            self.go_on_with(&word, values.pop());
        }
        let old_bang = wanted > 0 && values.is_empty() && described.negatable;
        if old_bang && self.words.front().is_some_and(|next| next.text == "!") {
            self.words.pop_front();
            negate = true;
        }
        while values.len() < wanted {
            match self.words.pop_front() {
                Some(value) => values.push(value),
                None => {
                    let count = if wanted == 1 { "a value".to_string() } else { format!("{wanted} values") };
                    self.complaints.push(word.complain(format!("`{}` wants {count}", word.text), "a word after it"));
                    return;
                }
            }
        }
        self.draft.give(owner, GivenOption { option, negate, word, values });
    }

    /// An option that nothing loaded has. Words that are no options are taken for its values.
    fn unknown(&mut self, word: Word, name: &str) {
        while self.operand().is_some() {
            self.words.pop_front();
        }
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

fn is_option(text: &str) -> bool {
    text.len() > 1 && text.starts_with('-')
}

/// The name of an option without dashes, and the value attached to it (`--dport=22`, `-ilan0`).
fn spell(word: &Word) -> (String, Option<Word>) {
    let place = |start: usize| match word.at.len() == word.text.len() {
        true => word.at.start + start..word.at.end,
        false => word.at.clone(),
    };
    let attached = |start: usize, text: &str| Word { text: text.to_string(), at: place(start) };
    match word.text.strip_prefix("--") {
        Some(long) => match long.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(attached(name.len() + 3, value))),
            None => (long.to_string(), None),
        },
        None => {
            let letter = word.text[1..].chars().next().map_or(0, char::len_utf8);
            let (name, value) = word.text[1..].split_at(letter);
            (name.to_string(), (!value.is_empty()).then(|| attached(1 + letter, value)))
        }
    }
}
