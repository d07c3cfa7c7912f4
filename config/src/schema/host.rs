//! `[host]` and `local` of an interface: where the TAPs of the host's own stack are, and who has one.

use super::interfaces::Interfaces;
use super::reader::Fields;
use super::report::Sink;
use crate::model::{Host, LocalStack, OtherFrames};
use std::ops::Range;

/// Reads `[host]`.
pub(super) fn read(fields: Option<Fields>, sink: &mut Sink) -> Option<Host> {
    let mut fields = fields?;
    let accepts = "a name as `ip netns` shows it, such as \"host\"";
    let namespace = fields.take("namespace").and_then(|field| {
        let name = field.string(accepts, sink)?;
        // What `ip netns add` takes: it is the name of a file.
        let is_name =
            !name.is_empty() && name.len() < 256 && !name.contains(['/', '\0']) && !matches!(name, "." | "..");
        if !is_name {
            field.refuse(accepts, sink);
        }
        is_name.then(|| name.to_string())
    });
    let choices = [("device", OtherFrames::Device), ("tap", OtherFrames::Tap)];
    let other_frames = fields.take("other-frames").and_then(|field| field.choice(&choices, sink)).unwrap_or_default();
    fields.finish(sink);
    Some(Host { namespace, other_frames })
}

/// `local` of an interface.
pub(super) fn local(fields: &mut Fields, host: Option<&Host>, sink: &mut Sink) -> LocalStack {
    let usual = if host.is_some() { LocalStack::Host } else { LocalStack::Smoltcp };
    let Some(field) = fields.take("local") else { return usual };
    let choices = [("host", LocalStack::Host), ("smoltcp", LocalStack::Smoltcp)];
    let Some(local) = field.choice(&choices, sink) else { return usual };
    if local == LocalStack::Host && host.is_none() {
        sink.conflict(field.at(), "there is no section `[host]`, so no interface has a TAP")
            .help("add `[host]`, or `local = \"smoltcp\"`");
        return usual;
    }
    local
}

/// No TAP has the name of a device that is beside it. `names` are the places of the interfaces' names.
pub(super) fn check_names(host: Option<&Host>, all: &Interfaces, names: &[Range<usize>], sink: &mut Sink) {
    // In another namespace the names are free; that it is another one shows when the TAPs are made.
    if host.is_none_or(|host| host.namespace.is_some()) {
        return;
    }
    for (interface, at) in all.interfaces.iter().zip(names) {
        let taken = all.devices.iter().find(|(device, _)| *device == interface.name);
        let Some((_, place)) = taken.filter(|_| interface.local == LocalStack::Host) else { continue };
        let name = &interface.name;
        let complaint = sink
            .conflict(
                at.clone(),
                format!("the TAP of this interface would be called `{name}`, as the device is already"),
            )
            .help("another name with `device = \"...\"`, `namespace` in [host], or `local = \"smoltcp\"`");
        if place != at {
            complaint.label(place.clone(), "this device");
        }
    }
}
