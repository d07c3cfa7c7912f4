//! `[metrics]`: whether the router shows itself over HTTP, and where.

use super::reader::Fields;
use super::report::Sink;
use crate::model::Metrics;

/// Where it is shown if the section does not say.
const PORT: u16 = 9100;

/// Reads `[metrics]`; without the section nothing is shown.
pub(super) fn read(fields: Option<Fields>, sink: &mut Sink) -> Option<Metrics> {
    let mut fields = fields?;
    let port = fields.take("port").and_then(|field| field.integer(1..=u16::MAX.into(), sink)).unwrap_or(PORT);
    fields.finish(sink);
    Some(Metrics { port })
}
