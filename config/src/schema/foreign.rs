//! `[foreign]`: names of interfaces that rules may use although no port has them, so that rules written for another machine,
//! or for docker and the like, can stay as they are. Their conditions never hold.

use super::reader::Fields;
use super::report::Sink;
use super::values::bad_device_name;

/// Reads `[foreign]`: names, or their beginnings with a `+`.
pub(super) fn read(section: Option<Fields>, ports: &[String], sink: &mut Sink) -> Vec<String> {
    let Some(mut fields) = section else { return Vec::new() };
    let example = "an array, such as `interfaces = [\"docker0\", \"veth+\"]`";
    let elements = fields.take("interfaces").and_then(|field| field.list(example, sink)).unwrap_or_default();
    fields.finish(sink);
    let mut names: Vec<String> = Vec::with_capacity(elements.len());
    for element in elements {
        let accepts = "the name of an interface, such as \"docker0\", or its beginning and a plus, such as \"veth+\"";
        let Some(name) = element.string(accepts, sink) else { continue };
        let stem = name.strip_suffix('+').unwrap_or(name);
        if let Some(why) = bad_device_name(stem).filter(|_| name != "+") {
            sink.error(element.at(), format!("\"{name}\" cannot be the name of an interface: {why}")).help(accepts);
        } else if ports.iter().any(|port| port == name) {
            sink.warning(element.at(), format!("\"{name}\" is not foreign: it is a port of this router"));
        } else {
            names.push(name.to_string());
        }
    }
    names
}
