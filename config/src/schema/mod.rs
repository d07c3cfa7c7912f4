//! From TOML to a [`Config`]: all mistakes of a file in one pass.
use self::reader::{Field, Fields};
use self::report::Sink;
use crate::diag::{Diagnostic, Source};
use crate::model::{Appliance, Config, Policy};
use toml::de::DeTable;

mod appliance;
mod interfaces;
mod literal;
mod neighbours;
mod reader;
mod report;
mod routes;
mod rules;
mod syntax;
mod sysctl;
mod values;

/// Reads a whole file: its configuration and warnings, or all that is wrong with it (warnings included), in the order of
/// the file.
pub fn load(source: &Source) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (root, syntax) = DeTable::parse_recoverable(source.text());
    let mut sink = Sink::new(!syntax.is_empty());
    let config = read(root.get_ref(), source, &mut sink);
    syntax::report(syntax, source, &mut sink);
    let broken = sink.has_errors();
    let found = sink.into_sorted();
    if broken { Err(found) } else { Ok((config, found)) }
}

/// Reads the top level.
fn read<'a>(root: &'a DeTable<'a>, source: &Source, sink: &mut Sink) -> Config {
    let mut top = Fields::of(root, "the file", 0..0);
    let mut section = |key: &'static str, sink: &mut Sink| -> Option<Fields<'a>> {
        top.take(key)?.table(format!("[{key}]"), &format!("a section `[{key}]`"), sink)
    };
    let dataplane = section("dataplane", sink);
    let settings = section("sysctl", sink);
    let dataplane = appliance::read(dataplane, sink);
    let interfaces = interfaces::read(top.take("interfaces"), dataplane.frame_size, sink);
    let mut sections = |key: &'static str, sink: &mut Sink| -> Vec<Fields<'a>> {
        top.take(key).map(|field: Field<'a>| field.tables(sink)).unwrap_or_default()
    };
    let neighbours = neighbours::read(sections("neighbours", sink), &interfaces, sink);
    let routes = routes::read(sections("routes", sink), &interfaces, sink);
    let rules = rules::read(sections("rules", sink), &interfaces, &routes, sink);
    let sysctl = sysctl::read(settings, sink);
    let ports = interfaces.names();
    let _ = source;
    let ruleset = crate::ruleset::Ruleset::empty(crate::rule::Policy::Accept);
    top.finish(sink);
    Config {
        appliance: Appliance {
            run_dir: dataplane.run_dir,
            cores: dataplane.cores,
            idle: dataplane.idle,
            frames_per_worker: dataplane.frames,
            frame_size: dataplane.frame_size,
            max_flows: dataplane.max_flows,
            max_neighbours: dataplane.max_neighbours,
            interfaces: interfaces.interfaces,
            initial_policy: dataplane.initial_policy,
            log: dataplane.log,
        },
        policy: Policy {
            ports,
            port_settings: interfaces.settings,
            neighbours,
            routes,
            rules,
            sysctl,
            ruleset,
        },
    }
}
