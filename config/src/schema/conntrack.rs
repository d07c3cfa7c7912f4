//! `[conntrack]`: names that rules use of flows: time-out policies and labels.

use super::reader::Fields;
use super::report::{Sink, suggest};
use super::sysctl::LONGEST_MS;
use crate::facts::Family;
use crate::model::{Label, MAX_LABEL_NAME};
use crate::rule::Families;
use crate::rule::matches::connlabel::LABELS;
use crate::timeout::{MAX_NAME, MAX_POLICIES, TRACKERS, TimeoutPolicy};
use std::ops::Range;

/// What the section defines.
#[derive(Default)]
pub(super) struct Conntrack {
    /// Time-out policies.
    pub timeouts: Vec<TimeoutPolicy>,
    /// Names of labels.
    pub labels: Vec<Label>,
    /// Names of either whose definition has a mistake.
    pub mistaken: Vec<String>,
}

/// Reads the section.
pub(super) fn read(fields: Option<Fields>, sink: &mut Sink) -> Conntrack {
    let mut found = Conntrack::default();
    let Some(mut fields) = fields else { return found };
    if let Some(field) = fields.take("timeouts") {
        let policies = field.table("[conntrack.timeouts]", "sections [conntrack.timeouts.NAME]", sink);
        let mut places: Vec<(u16, Range<usize>)> = Vec::new();
        for field in policies.map(|mut policies| policies.rest()).unwrap_or_default() {
            let key = field.key();
            if !TimeoutPolicy::is_name(field.name) {
                sink.error(key.clone(), format!("`{}` cannot be the name of a time-out policy", field.name))
                    .help(format!("up to {MAX_NAME} letters, digits, `-`, `_` and `.`"));
            }
            let title = format!("[conntrack.timeouts.{}]", field.name);
            let table = field.table(title, "a section with `protocol` and times", sink);
            let Some(policy) = table.and_then(|table| policy(field.name, &key, table, sink)) else {
                found.mistaken.push(field.name.to_string());
                continue;
            };
            if let Some((_, first)) = places.iter().find(|(id, _)| *id == policy.id()) {
                sink.conflict(key.clone(), "this name looks to flows like another one's")
                    .help("another name")
                    .label(first.clone(), "the other one");
            }
            places.push((policy.id(), key));
            found.timeouts.push(policy);
        }
        if found.timeouts.len() > MAX_POLICIES {
            sink.error(field.key(), format!("more than {MAX_POLICIES} time-out policies"));
        }
    }
    if let Some(field) = fields.take("labels") {
        let labels = field.table("[conntrack.labels]", "names with their bits", sink);
        labels.into_iter().for_each(|table| read_labels(table, &mut found, sink));
    }
    fields.finish(sink);
    found
}

/// Reads a policy.
fn policy(name: &str, key: &Range<usize>, mut table: Fields, sink: &mut Sink) -> Option<TimeoutPolicy> {
    let families = [("ipv4", Families::Only(Family::V4)), ("ipv6", Families::Only(Family::V6))];
    let family = table.take("family").map(|field| (field.choice(&families, sink), field.at()));
    let tracker = table.require("protocol", "protocol = \"tcp\"", sink).and_then(|field| field.choice(&TRACKERS, sink));
    let given = table.rest();
    // Which times there are follows from the protocol.
    let tracker = tracker?;
    let mut families = tracker.families();
    if let Some((Some(chosen), at)) = family {
        match (chosen, families) {
            (Families::Only(a), Families::Only(b)) if a != b => {
                sink.conflict(at, format!("{} has no flows of {}", tracker.name(), a.name())).help(b.name());
            }
            _ => families = chosen,
        }
    }
    let known: Vec<&str> = tracker.times().iter().map(|(name, _)| *name).collect();
    let mut times = Vec::new();
    for field in &given {
        match known.iter().position(|known| *known == field.name) {
            Some(index) => {
                times.extend(field.millis(Some(1000), 0..=LONGEST_MS, sink).map(|millis| (index as u8, millis)));
            }
            None => {
                sink.error(field.key(), format!("{} has no time `{}`", tracker.name(), field.name))
                    .help(suggest(field.name, &known));
            }
        }
    }
    if given.is_empty() {
        sink.conflict(key.clone(), format!("the time-out policy `{name}` sets no time"))
            .help(super::report::one_of(&known, '`'));
    }
    Some(TimeoutPolicy { name: name.to_string(), families, tracker, times })
}

/// Reads the names of labels.
fn read_labels(mut table: Fields, found: &mut Conntrack, sink: &mut Sink) {
    let mut places: Vec<Range<usize>> = Vec::new();
    for field in table.rest() {
        if !Label::is_name(field.name) {
            sink.error(field.key(), format!("`{}` cannot be the name of a label", field.name))
                .help(format!("up to {MAX_LABEL_NAME} letters, digits and `-`, and no number"));
        }
        let Some(bit) = field.integer::<u8>(0..=u64::from(LABELS) - 1, sink) else {
            found.mistaken.push(field.name.to_string());
            continue;
        };
        if let Some(first) = found.labels.iter().position(|label| label.bit == bit) {
            sink.conflict(field.key(), format!("the label {bit} has two names"))
                .help("one of the two")
                .label(places[first].clone(), "named here");
            found.mistaken.push(field.name.to_string());
            continue;
        }
        places.push(field.key());
        found.labels.push(Label { bit, name: field.name.to_string() });
    }
}
