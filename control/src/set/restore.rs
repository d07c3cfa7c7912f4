//! `sumun set restore`: a file of ipset commands, read as a whole before the first of them is done.

use super::{ask, diagnostic, in_pieces, rows, text_of, told};
use crate::ask::Control;
use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use sumun_config::rule::option::Complaint;
use sumun_config::set::Header;
use sumun_config::set::save::{Line, line};
use sumun_dataplane::protocol::SetRequest;

/// Reads the file and does what it says.
pub fn run(control: &mut Control, file: &Path, exist: bool) -> anyhow::Result<ExitCode> {
    let source = match text_of(file)? {
        Ok(source) => source,
        Err(code) => return Ok(code),
    };
    let known = rows(control, None)?.into_iter().map(|row| (row.name, row.header)).collect();
    let commands = match read(source.text(), known) {
        Ok(commands) => commands,
        Err(complaints) => {
            return Ok(told(&source, complaints.into_iter().map(diagnostic).collect()));
        }
    };
    for command in commands {
        match command {
            Line::Create(header) => ask(control, SetRequest::Create { header, exist })?,
            Line::Add(name, elements) => {
                in_pieces(elements, |elements| ask(control, SetRequest::Add { name: name.clone(), elements, exist }))?
            }
            Line::Delete(name, elements) => in_pieces(elements, |elements| {
                ask(control, SetRequest::Delete { name: name.clone(), elements, exist })
            })?,
            Line::Flush(name) => ask(control, SetRequest::Flush { name })?,
            Line::Destroy(name) => ask(control, SetRequest::Destroy { name })?,
            Line::Swap(from, to) => ask(control, SetRequest::Swap { from, to })?,
            Line::Rename(from, to) => ask(control, SetRequest::Rename { from, to })?,
        };
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands of a text; additions to one set that follow each other are one. `known` are the sets that are there.
fn read(text: &str, mut known: HashMap<String, Header>) -> Result<Vec<Line>, Vec<Complaint>> {
    let mut commands: Vec<Line> = Vec::new();
    let mut complaints = Vec::new();
    let mut base = 0;
    for whole in text.split_inclusive('\n') {
        let read = line(whole.trim_end_matches(['\n', '\r']), base, |name| known.get(name));
        base += whole.len();
        let command = match read {
            Ok(None) => continue,
            Ok(Some(command)) => command,
            Err(found) => {
                complaints.extend(found);
                continue;
            }
        };
        match &command {
            Line::Create(header) => drop(known.insert(header.name.clone(), header.clone())),
            Line::Destroy(Some(name)) => drop(known.remove(name)),
            Line::Rename(from, to) => {
                if let Some(header) = known.remove(from) {
                    known.insert(to.clone(), header);
                }
            }
            Line::Swap(from, to) => {
                if let (Some(a), Some(b)) = (known.get(from).cloned(), known.get(to).cloned()) {
                    known.insert(from.clone(), b);
                    known.insert(to.clone(), a);
                }
            }
            Line::Add(..) | Line::Delete(..) | Line::Flush(_) | Line::Destroy(None) => {}
        }
        match (commands.last_mut(), command) {
            (Some(Line::Add(last, all)), Line::Add(name, more)) if *last == name => all.extend(more),
            (Some(Line::Delete(last, all)), Line::Delete(name, more)) if *last == name => all.extend(more),
            (_, command) => commands.push(command),
        }
    }
    if complaints.is_empty() { Ok(commands) } else { Err(complaints) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_that_follow_each_other_are_one() {
        let text = "create new hash:ip\nadd new 192.0.2.1\nadd new 192.0.2.2-192.0.2.3\nswap new old\ndestroy new\n";
        let known = HashMap::from([("old".to_string(), Header::new("old", sumun_config::set::Kind::HashIp))]);
        let commands = read(text, known).unwrap();
        assert_eq!(commands.len(), 4);
        assert!(matches!(&commands[1], Line::Add(name, elements) if name == "new" && elements.len() == 3));
        assert_eq!(commands[2], Line::Swap("new".to_string(), "old".to_string()));
    }

    #[test]
    fn all_mistakes_are_told_with_their_places() {
        let text = "create new hash:ip\nadd new 192.0.2\nadd old 192.0.2.1\nfrob\n";
        let complaints = read(text, HashMap::new()).unwrap_err();
        let places: Vec<&str> = complaints.iter().map(|complaint| &text[complaint.at.clone()]).collect();
        assert_eq!(places, ["192.0.2", "old", "frob"]);
    }
}
