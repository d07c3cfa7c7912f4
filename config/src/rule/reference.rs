//! The reference of the rule language, written from the registry: every match and target with its options.
//!
//! Markdown, which a terminal shows as well as a browser. `config/REFERENCE.md` is the whole page.

use super::option::{Case, Extension, Opt, Values};
use super::targets::absent;
use super::{Families, Hook, core, matches, targets};
use std::fmt::Write;

/// The whole page.
pub fn page() -> String {
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "\n## Conditions of every rule\n");
    options(&mut text, &core::OPTIONS);
    let _ = writeln!(text, "\n## Matches\n");
    sorted(matches::EXTENSIONS).iter().for_each(|extension| entry(&mut text, extension, Kind::Match));
    let _ = writeln!(text, "\n## Targets\n");
    sorted(targets::EXTENSIONS).iter().for_each(|extension| entry(&mut text, extension, Kind::Target));
    text
}

/// What the page says of the matches and targets of a name, or why they are refused; none where nobody knows the name.
pub fn named(name: &str) -> Option<String> {
    let mut text = String::new();
    let is_of =
        |own: &str, aliases: &[&str]| std::iter::once(&own).chain(aliases).any(|n| n.eq_ignore_ascii_case(name));
    for extension in sorted(matches::EXTENSIONS).iter().filter(|e| is_of(e.name, e.aliases)) {
        entry(&mut text, extension, Kind::Match);
    }
    for extension in sorted(targets::EXTENSIONS).iter().filter(|e| is_of(e.name, e.aliases)) {
        entry(&mut text, extension, Kind::Target);
    }
    let lists = [("match", absent::MATCHES), ("target", absent::ABSENT), ("target", absent::FORGOTTEN)];
    for (kind, list) in lists {
        for absent in list.iter().filter(|absent| absent.name.eq_ignore_ascii_case(name)) {
            let _ = writeln!(
                text,
                "### {}\n\nRefused: {}. Instead: {}.\n",
                absent.name,
                absent.refusal(kind),
                absent.instead
            );
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The names that [`named`] knows.
pub fn names() -> Vec<&'static str> {
    let of_matches = matches::EXTENSIONS.iter().map(|extension| extension.name);
    let mut names: Vec<_> = of_matches.chain(targets::EXTENSIONS.iter().map(|extension| extension.name)).collect();
    names.sort_unstable_by_key(|name| name.to_lowercase());
    names.dedup();
    names
}

const HEAD: &str = "\
# Matches and targets

What can stand in a rule. A rule is text as iptables takes it, or a TOML table of the same options (`dport` for `--dport`, `\"!22\"` \
for `! --dport 22`); both may stand in one chain. `[!]` says that an option can be negated. Each entry ends with an example as TOML \
and one as `iptables-save` prints it. Written by `sumun reference`; `sumun reference NAME` shows one entry.
";

#[derive(Clone, Copy)]
enum Kind {
    Match,
    Target,
}

fn sorted<T>(extensions: &[&'static Extension<T>]) -> Vec<&'static Extension<T>> {
    let mut sorted = extensions.to_vec();
    sorted.sort_by_key(|extension| (extension.name.to_lowercase(), extension.name));
    sorted
}

fn entry<T>(text: &mut String, extension: &Extension<T>, kind: Kind) {
    let _ = writeln!(text, "### {}{}\n", extension.name, only(extension.families, " (", ")"));
    let mut summary = extension.summary.trim_end_matches('.').chars();
    let first = summary.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let _ = writeln!(text, "{first}{}.\n", summary.as_str());
    let _ = writeln!(text, "{}\n", place(extension, kind));
    options(text, extension.options);
    if !extension.options.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "```toml\n{}\n```", extension.example);
    if let Some(example) = example(extension) {
        let _ = writeln!(text, "```\n{example}\n```");
    }
    text.push('\n');
}

/// `-m NAME` or `-j NAME`, and where that may stand.
fn place<T>(extension: &Extension<T>, kind: Kind) -> String {
    let letter = match kind {
        Kind::Match => 'm',
        Kind::Target => 'j',
    };
    let mut place = format!("`-{letter} {}`", extension.name);
    for alias in extension.aliases {
        let _ = write!(place, ", `-{letter} {alias}`");
    }
    if let Some(protocol) = extension.protocol.and_then(matches::protocol::name) {
        let _ = write!(place, "; needs `-p {protocol}`");
    }
    let tables: Vec<_> = extension.tables.iter().map(|table| table.name()).collect();
    match tables.as_slice() {
        [] => place += "; in every table",
        [one] => place = format!("{place}; in table {one}"),
        several => place = format!("{place}; in tables {}", several.join(", ")),
    }
    let hooks: Vec<_> = Hook::ALL.iter().filter(|hook| extension.hooks & hook.bit() != 0).map(|h| h.name()).collect();
    if hooks.len() < Hook::ALL.len() {
        place = format!("{place}; in {}", hooks.join(", "));
    }
    place + &only(extension.families, "; ", " only") + "."
}

fn only(families: Families, before: &str, after: &str) -> String {
    match families {
        Families::Both => String::new(),
        Families::Only(family) => format!("{before}{}{after}", if family.bits() == 32 { "IPv4" } else { "IPv6" }),
    }
}

fn options(text: &mut String, options: &[Opt]) {
    if options.is_empty() {
        return;
    }
    text.push_str("| option | meaning |\n|---|---|\n");
    for option in options {
        let not = if option.negatable { "[!] " } else { "" };
        let value = match (option.value, option.values) {
            ("", Values::None) => String::new(),
            ("", _) => " VALUE".into(),
            (value, _) => format!(" {}", value.replace('|', "\\|")),
        };
        let spelled = |name: &str| format!("{}{name}", if name.len() == 1 { "-" } else { "--" });
        let others: String = option.aliases.iter().map(|alias| format!(", `{}`", spelled(alias))).collect();
        let about = option.about.replace('|', "\\|");
        let _ = writeln!(text, "| `{not}{}{value}`{others} | {about} |", spelled(option.name));
    }
}

/// A case as iptables-save prints it: the first that shows an option, where there are any.
fn example<T>(extension: &Extension<T>) -> Option<&'static str> {
    let printed = |case: &Case| match *case {
        Case::Prints(_, text, "=") => Some(text),
        Case::Prints(_, _, canonical) => Some(canonical),
        Case::Refused(..) => None,
    };
    let shows = |text: &str| extension.options.is_empty() || text.contains("--");
    let all = || extension.cases.iter().filter_map(printed);
    all().find(|text| shows(text)).or_else(|| all().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_where_they_stand_and_what_their_options_are() {
        let text = named("Multiport").expect("an entry");
        for part in ["### multiport\n", "`-m multiport`; in every table.", "| `[!] --dports ", "```toml\n{"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(named("nonesuch"), None);
        let refused = "### LED\n\nRefused: the target LED lights a LED";
        assert!(named("led").is_some_and(|text| text.starts_with(refused)));
        assert!(page().contains(&text));
        assert!(names().iter().all(|name| named(name).is_some()));
    }
}
