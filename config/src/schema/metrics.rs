//! `[metrics]`: whether the router shows itself over HTTP, and where.

use super::interfaces::Interfaces;
use super::reader::Fields;
use super::report::Sink;
use crate::model::{LocalStack, Metrics};

/// Where it is shown if the section does not say.
const PORT: u16 = 9100;

/// Reads `[metrics]`; without the section nothing is shown.
pub(super) fn read(fields: Option<Fields>, interfaces: &Interfaces, sink: &mut Sink) -> Option<Metrics> {
    let mut fields = fields?;
    let port = fields.take("port").and_then(|field| field.integer(1..=u16::MAX.into(), sink)).unwrap_or(PORT);
    let at = fields.at.clone();
    fields.finish(sink);
    let all = &interfaces.interfaces;
    if !all.is_empty() && all.iter().all(|interface| interface.local == LocalStack::Host) {
        sink.warning(
            at,
            "what is for the router goes to the host's own stack on all interfaces, so nobody gets an answer",
        )
        .help("`local = \"smoltcp\"` for an interface");
    }
    Some(Metrics { port })
}
