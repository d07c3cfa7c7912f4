//! `[accounts.NAME]` and `[osf]`: quotas of what rules count together, and the file of fingerprints.

use super::reader::{Field, Fields};
use super::report::Sink;
use crate::rule::matches::nfacct::{Account, MAX_NAME, Quota, is_name};
use crate::rule::matches::osf::{self, Fingerprint};

/// Reads `[accounts]`.
pub(super) fn read(fields: Option<Fields>, sink: &mut Sink) -> Vec<Account> {
    let sections = fields.map(|mut fields| fields.rest()).unwrap_or_default();
    sections.into_iter().filter_map(|field| account(&field, sink)).collect()
}

fn account(field: &Field, sink: &mut Sink) -> Option<Account> {
    if !is_name(field.name) {
        sink.error(field.key(), format!("`{}` cannot be the name of an account", field.name))
            .help(format!("up to {MAX_NAME} bytes"));
    }
    let title = format!("[accounts.{}]", field.name);
    let mut table = field.table(title, "a section with `quota-bytes` or `quota-packets`", sink)?;
    let [bytes, packets] = ["quota-bytes", "quota-packets"].map(|key| table.take(key));
    let at = table.at.clone();
    table.finish(sink);
    let quota = match (bytes, packets) {
        (Some(bytes), None) => bytes.integer(0..=u64::MAX, sink).map(Quota::Bytes),
        (None, Some(packets)) => packets.integer(0..=u64::MAX, sink).map(Quota::Packets),
        (Some(_), Some(packets)) => {
            sink.conflict(packets.key(), "an account has one quota").help("`quota-bytes` or `quota-packets`");
            None
        }
        (None, None) => {
            sink.conflict(at, "this account has no quota")
                .help("add `quota-bytes` or `quota-packets`, or leave it out");
            None
        }
    };
    Some(Account { name: field.name.to_string(), quota: quota? })
}

/// Reads `[osf]` and the file that it names.
pub(super) fn fingerprints(fields: Option<Fields>, sink: &mut Sink) -> Vec<Fingerprint> {
    let Some(mut fields) = fields else { return Vec::new() };
    let found = fields.require("fingerprints", "fingerprints = \"/usr/share/xtables/pf.os\"", sink).and_then(|field| {
        let path = field.string("the path of a file such as \"/usr/share/xtables/pf.os\"", sink)?;
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(why) => {
                sink.error(field.at(), format!("\"{path}\" cannot be read: {why}"))
                    .help("the path of a file that is there");
                return None;
            }
        };
        match osf::read(&text) {
            Ok(found) => Some(found),
            Err((line, why)) => {
                sink.error(field.at(), format!("line {line} of \"{path}\" is no fingerprint: {why}"))
                    .help("WINDOW:TTL:DF:LENGTH:OPTIONS:GENRE:VERSION:SUBTYPE:DETAILS");
                None
            }
        }
    });
    fields.finish(sink);
    found.unwrap_or_default()
}
