//! `sumun set`: the commands of ipset(8) on the running router, with its syntax of elements and its formats.
//!
//! Text is read here, where mistakes can be shown; the dataplane gets elements as numbers. Many elements go in pieces, since
//! a request is a small frame: each piece is done whole or up to the element that cannot be.

mod listing;
mod restore;

use crate::ask::{Control, astray};
use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use sumun_config::diag::{self, Diagnostic, Source};
use sumun_config::rule::option::{Complaint, Word};
use sumun_config::set::entry::{self, Purpose};
use sumun_config::set::toml::toml;
use sumun_config::set::{Element, Header, save};
use sumun_dataplane::protocol::{self, Request, Response, SetAnswer, SetRequest, SetRow};

/// What is to be done with sets.
#[derive(Subcommand)]
pub enum Command {
    /// Add an element, with its options behind it: `add bad 192.0.2.1 timeout 60`
    Add(Change),
    /// Delete an element
    Del(Change),
    /// Whether an element is in a set: exit status 0 or 1
    Test(Change),
    /// Sets and their elements
    List(Listing),
    /// Sets as commands for `restore`
    Save {
        /// This set only
        name: Option<String>,
        /// Elements in order
        #[arg(long, short)]
        sorted: bool,
    },
    /// Do the commands of a file that `save` or ipset wrote, after all of it was read and found right
    Restore {
        /// The file; `-` is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Sets and elements that are there, or missing where they are deleted, are no mistake
        #[arg(long, short = '!')]
        exist: bool,
    },
    /// Make a set: `create bad hash:net timeout 3600 counters`
    Create {
        /// One that is there and is the same is no mistake
        #[arg(long, short = '!')]
        exist: bool,
        /// Its name
        name: String,
        /// Its type and options
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Destroy a set that was created so and that nothing refers to; without a name all of them
    Destroy {
        /// The set
        name: Option<String>,
    },
    /// Delete all elements of a set; without a name of all sets
    Flush {
        /// The set
        name: Option<String>,
    },
    /// Exchange the elements of two sets of one type, between two packets
    Swap {
        /// One
        from: String,
        /// The other
        to: String,
    },
    /// Give a set that was created so another name
    Rename {
        /// The set
        from: String,
        /// Its new name
        to: String,
    },
}

/// An element of a set.
#[derive(Args)]
pub struct Change {
    /// An element that is there, or missing where it is deleted, is no mistake
    #[arg(long, short = '!')]
    exist: bool,
    /// The set
    name: String,
    /// The element and its options
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// How sets are listed.
#[derive(Args)]
pub struct Listing {
    /// This set only
    name: Option<String>,
    /// Without the elements
    #[arg(long, short)]
    terse: bool,
    /// The names only
    #[arg(long, short)]
    names: bool,
    /// Elements in order
    #[arg(long, short)]
    sorted: bool,
    /// As ipset prints them, as commands, or for programs
    #[arg(long, short, value_enum, default_value_t = Format::Plain)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Plain,
    Save,
    Xml,
    Json,
}

/// Does what the command line says.
pub fn run(command: &Command, run_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut control = Control::connect(run_dir)?;
    match command {
        Command::Add(change) => {
            let (name, exist) = (change.name.clone(), change.exist);
            let Some(elements) = read(&mut control, change, Purpose::Add)? else { return Ok(ExitCode::from(2)) };
            in_pieces(elements, |elements| ask(&mut control, SetRequest::Add { name: name.clone(), elements, exist }))
        }
        Command::Del(change) => {
            let (name, exist) = (change.name.clone(), change.exist);
            let Some(elements) = read(&mut control, change, Purpose::Delete)? else { return Ok(ExitCode::from(2)) };
            in_pieces(elements, |elements| {
                ask(&mut control, SetRequest::Delete { name: name.clone(), elements, exist })
            })
        }
        Command::Test(change) => test(&mut control, change),
        Command::List(listing) => listing::list(&mut control, listing, out),
        Command::Save { name, sorted } => {
            let listing =
                Listing { name: name.clone(), terse: false, names: false, sorted: *sorted, output: Format::Save };
            listing::list(&mut control, &listing, out)
        }
        Command::Restore { file, exist } => restore::run(&mut control, file, *exist),
        Command::Create { name, words, exist } => match create(name, words) {
            Ok(header) => ask(&mut control, SetRequest::Create { header, exist: *exist }),
            Err(complaints) => Ok(mistaken(&complaints)),
        },
        Command::Destroy { name } => ask(&mut control, SetRequest::Destroy { name: name.clone() }),
        Command::Flush { name } => ask(&mut control, SetRequest::Flush { name: name.clone() }),
        Command::Swap { from, to } => ask(&mut control, SetRequest::Swap { from: from.clone(), to: to.clone() }),
        Command::Rename { from, to } => ask(&mut control, SetRequest::Rename { from: from.clone(), to: to.clone() }),
    }
}

/// Asks for something to be done.
fn ask(control: &mut Control, request: SetRequest) -> anyhow::Result<ExitCode> {
    match answer(control, request)? {
        SetAnswer::Done => Ok(ExitCode::SUCCESS),
        _ => bail!("sumun-dataplane gave an answer to another question"),
    }
}

fn answer(control: &mut Control, request: SetRequest) -> anyhow::Result<SetAnswer> {
    match control.dataplane(Request::Sets(request))? {
        Response::Sets(answer) => Ok(answer),
        other => bail!(astray(&other)),
    }
}

fn rows(control: &mut Control, name: Option<&str>) -> anyhow::Result<Vec<SetRow>> {
    match answer(control, SetRequest::List { name: name.map(str::to_string) })? {
        SetAnswer::Sets(rows) => Ok(rows),
        _ => bail!("sumun-dataplane gave an answer to another question"),
    }
}

/// Words of the command line as the language of sets knows them.
fn words(words: &[String]) -> Vec<Word> {
    words.iter().map(|text| Word { text: text.clone(), at: 0..text.len() }).collect()
}

/// The elements that a change means; none where they have a mistake, which was told.
fn read(control: &mut Control, change: &Change, purpose: Purpose) -> anyhow::Result<Option<Vec<Element>>> {
    let header: Option<Header> = rows(control, Some(&change.name))?.pop().map(|row| row.header);
    let Some(header) = header else { bail!("the set {} does not exist", change.name) };
    let mut elements = Vec::new();
    match entry::read(&header, &words(&change.words), purpose, &mut |element| elements.push(element)) {
        Ok(()) => Ok(Some(elements)),
        Err(complaint) => {
            mistaken(&[complaint]);
            Ok(None)
        }
    }
}

fn test(control: &mut Control, change: &Change) -> anyhow::Result<ExitCode> {
    let Some(elements) = read(control, change, Purpose::Test)? else { return Ok(ExitCode::from(2)) };
    let Some(element) = elements.into_iter().next() else { bail!("an element is missing") };
    let shown = change.words.first().map_or("", String::as_str);
    match answer(control, SetRequest::Test { name: change.name.clone(), element })? {
        SetAnswer::Tested(true) => {
            eprintln!("{shown} is in set {}.", change.name);
            Ok(ExitCode::SUCCESS)
        }
        SetAnswer::Tested(false) => {
            eprintln!("{shown} is NOT in set {}.", change.name);
            Ok(ExitCode::from(1))
        }
        _ => bail!("sumun-dataplane gave an answer to another question"),
    }
}

fn create(name: &str, given: &[String]) -> Result<Header, Vec<Complaint>> {
    let name = Word { text: name.to_string(), at: 0..name.len() };
    entry::set_name(&name).map_err(|complaint| vec![complaint])?;
    save::create(&name, &words(given))
}

/// `sumun import ipset`: sections of a configuration from what `ipset save` printed.
pub fn import(file: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let source = match text_of(file)? {
        Ok(source) => source,
        Err(code) => return Ok(code),
    };
    match save::sets(source.text()) {
        Ok(sets) => {
            out.write_all(toml(&sets).as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(complaints) => Ok(told(&source, complaints.into_iter().map(diagnostic).collect())),
    }
}

/// A file of ipset's commands; where it is no text, that is told.
fn text_of(file: &Path) -> anyhow::Result<Result<Source, ExitCode>> {
    let (name, bytes) = (file.display().to_string(), crate::iptables::read(file)?);
    Ok(Source::decode(name, bytes).map_err(|mistake| {
        let (source, found) = *mistake;
        told(&source, vec![found.with_help("text in UTF-8, comments too")])
    }))
}

fn diagnostic(complaint: Complaint) -> Diagnostic {
    let found = Diagnostic::error(complaint.at, complaint.what);
    match complaint.accepts {
        Some(accepts) => found.with_help(accepts),
        None => found,
    }
}

/// Mistakes of a text: status 2.
fn told(source: &Source, found: Vec<Diagnostic>) -> ExitCode {
    eprint!("{}", diag::render(source, &found, crate::color()));
    ExitCode::from(2)
}

/// A command line that cannot be meant: status 2.
fn mistaken(complaints: &[Complaint]) -> ExitCode {
    for Complaint { what, accepts, .. } in complaints {
        match accepts {
            Some(accepts) => eprintln!("error: {what}; {accepts}"),
            None => eprintln!("error: {what}"),
        }
    }
    ExitCode::from(2)
}

/// Bytes of elements that go with one request, well below what one may have.
const PIECE: usize = 48 << 10;

/// Hands elements on in pieces that fit into a request.
fn in_pieces(
    elements: Vec<Element>,
    mut send: impl FnMut(Vec<Element>) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let (mut piece, mut size) = (Vec::new(), 0);
    for element in elements {
        let len = protocol::encode(&element)?.len();
        if size + len > PIECE {
            send(std::mem::take(&mut piece))?;
            size = 0;
        }
        size += len;
        piece.push(element);
    }
    if piece.is_empty() { Ok(ExitCode::SUCCESS) } else { send(piece) }
}
