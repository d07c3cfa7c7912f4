//! No option without its meaning, a case that is accepted and one that is refused.

use super::option::{Case, Extension, Opt};
use super::{core, matches, targets};

/// Options whose words something else defines: a section of the file, or the kernel.
const DEFINED: &[(&str, &str)] = &[("CT", "timeout"), ("bpf", "object-pinned")];

/// At least so many cases there are.
const CASES: usize = 900;

fn is_written(option: &Opt, text: &str) -> bool {
    let mut words = text.split([' ', '=', '\n']).filter_map(|word| word.strip_prefix("--"));
    words.any(|word| word == option.name || option.aliases.contains(&word))
}

fn missing<T>(extension: &Extension<T>) -> Vec<String> {
    let mut missing = Vec::new();
    for option in extension.options {
        let name = format!("{} --{}", extension.name, option.name);
        let shows = |case: &Case, accepted: bool| match *case {
            Case::Prints(_, text, canonical) => accepted && (is_written(option, text) || is_written(option, canonical)),
            Case::Refused(_, text, _) => !accepted && is_written(option, text),
        };
        for (accepted, what) in [(true, "accepted"), (false, "refused")] {
            let is_defined = accepted && DEFINED.contains(&(extension.name, option.name));
            if !is_defined && !extension.cases.iter().any(|case| shows(case, accepted)) {
                missing.push(format!("{name}: no case that is {what}"));
            }
        }
        missing.extend(unexplained(option).map(|what| format!("{name}: {what}")));
    }
    missing
}

fn unexplained(option: &Opt) -> Option<&'static str> {
    let takes = option.values != super::option::Values::None;
    match (option.about, option.value) {
        ("", _) => Some("no meaning"),
        (_, "") if takes => Some("no name for its value"),
        (_, value) if !takes && !value.is_empty() => Some("a name for a value that it does not take"),
        _ => None,
    }
}

#[test]
fn every_option_has_its_meaning_and_cases_of_both_kinds() {
    let mut all: Vec<String> = matches::EXTENSIONS.iter().flat_map(|extension| missing(extension)).collect();
    all.extend(targets::EXTENSIONS.iter().flat_map(|extension| missing(extension)));
    all.extend(core::OPTIONS.iter().filter_map(|o| unexplained(o).map(|what| format!("--{}: {what}", o.name))));
    assert!(all.is_empty(), "{}:\n{}", all.len(), all.join("\n"));
}

#[test]
fn the_cases_are_many() {
    let of_matches: usize = matches::EXTENSIONS.iter().map(|extension| extension.cases.len()).sum();
    let of_targets: usize = targets::EXTENSIONS.iter().map(|extension| extension.cases.len()).sum();
    assert!(of_matches + of_targets >= CASES, "{of_matches} of matches and {of_targets} of targets");
}
