//! `[vrfs.NAME]`: routing tables that interfaces can be bound to, as `ip link add NAME type vrf table N` makes them.

use super::reader::{Field, Fields};
use super::report::{Sink, suggest_quoted};
use super::values::bad_device_name;
use crate::facts::LOOPBACK;
use crate::model::{MAX_VRFS, Vrf, table};
use std::ops::Range;

/// The VRFs of the file.
#[derive(Default)]
pub(super) struct Vrfs {
    pub vrfs: Vec<Vrf>,
    /// Names of those whose section has a mistake, which has been told.
    mistaken: Vec<String>,
}

impl Vrfs {
    /// The table of an interface's VRF.
    pub fn of(&self, fields: &mut Fields, sink: &mut Sink) -> Option<u32> {
        let field = fields.take("vrf")?;
        let text = field.string("the name of a VRF, such as \"blue\"", sink)?;
        let found = self.vrfs.iter().find(|vrf| vrf.name == text).map(|vrf| vrf.table);
        if found.is_none() && !self.mistaken.iter().any(|name| name == text) {
            let names: Vec<&str> = self.vrfs.iter().map(|vrf| vrf.name.as_str()).collect();
            let help = match names.is_empty() {
                true => format!("add a section `[vrfs.{text}]` with `table = 100`"),
                false => suggest_quoted(text, &names, '"'),
            };
            sink.conflict(field.at(), format!("there is no VRF \"{text}\"")).help(help);
        }
        found
    }
}

/// Reads `[vrfs]`.
pub(super) fn read(field: Option<Field>, sink: &mut Sink) -> Vrfs {
    let accepts = "a section such as `[vrfs.blue]` with `table = 100`";
    let mut all = Vrfs::default();
    let Some(mut fields) = field.and_then(|field| field.table("[vrfs]", accepts, sink)) else { return all };
    let mut places: Vec<(u32, Range<usize>)> = Vec::new();
    for section in fields.rest() {
        if all.vrfs.len() == MAX_VRFS {
            sink.conflict(section.key(), format!("there are more than {MAX_VRFS} VRFs"));
            break;
        }
        all.mistaken.push(section.name.to_string());
        let Some(mut fields) = section.table(format!("[vrfs.{}]", section.name), accepts, sink) else { continue };
        let field = fields.require("table", "table = 100", sink);
        let number: Option<u32> = field.and_then(|field| field.integer(1..=u32::MAX.into(), sink));
        fields.finish(sink);
        if let Some(why) =
            bad_device_name(section.name).or((section.name == LOOPBACK).then_some("it is the loopback's"))
        {
            sink.error(section.key(), format!("`{}` cannot name a VRF: {why}", section.name))
                .help("up to 15 letters, digits, dots and dashes, such as `blue`");
            continue;
        }
        let (Some(field), Some(number)) = (field, number) else { continue };
        if (table::DEFAULT..=table::LOCAL).contains(&number) {
            sink.conflict(field.at(), format!("the table {number} is the kernel's own, and no VRF's"))
                .help("a number from 1 to 4294967295 other than 253, 254 and 255");
            continue;
        }
        if let Some((_, first)) = places.iter().find(|(other, _)| *other == number) {
            sink.conflict(field.at(), format!("the table {number} is another VRF's"))
                .help("a table for each VRF")
                .label(first.clone(), "first given here");
            continue;
        }
        places.push((number, field.at()));
        all.mistaken.pop();
        all.vrfs.push(Vrf { name: section.name.to_string(), table: number });
    }
    all
}
