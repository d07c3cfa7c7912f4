//! `[dataplane]`: what the dataplane process opens at its start.

use super::reader::{Field, Fields};
use super::report::Sink;
use crate::model::{Idle, LogTo};
use crate::rule::Policy;
use std::path::PathBuf;

/// [`crate::model::Appliance`] without the interfaces.
pub(super) struct Dataplane {
    pub run_dir: PathBuf,
    pub cores: Vec<usize>,
    pub idle: Idle,
    pub frames: u32,
    pub frame_size: u32,
    pub max_flows: u32,
    pub keep_flows: bool,
    pub max_neighbours: u32,
    pub initial_policy: Policy,
    pub log: LogTo,
}

/// Quiet microseconds before a worker sleeps.
const IDLE_AFTER: u32 = 50;

impl Default for Dataplane {
    fn default() -> Self {
        Dataplane {
            run_dir: PathBuf::from("/run/sumun"),
            cores: vec![0],
            idle: Idle::Sleep { after_us: IDLE_AFTER },
            frames: 8192,
            frame_size: 2048,
            max_flows: 262_144,
            keep_flows: true,
            max_neighbours: 1024,
            initial_policy: Policy::Drop,
            log: LogTo::Syslog,
        }
    }
}

/// Chain policies as they are written.
pub(super) const POLICIES: [(&str, Policy); 2] = [("ACCEPT", Policy::Accept), ("DROP", Policy::Drop)];

/// Reads `[dataplane]`; what is not given has its default.
pub(super) fn read(fields: Option<Fields>, sink: &mut Sink) -> Dataplane {
    let mut dataplane = Dataplane::default();
    let Some(mut fields) = fields else { return dataplane };
    if let Some(dir) = fields.take("run-dir").and_then(|field| absolute(field, None, sink)) {
        dataplane.run_dir = dir;
    }
    if let Some(cores) = cores(&mut fields, sink) {
        dataplane.cores = cores;
    }
    dataplane.idle = idle(&mut fields, sink);
    let mut number = |key, range, place: &mut u32| {
        if let Some(value) = fields.take(key).and_then(|field| field.integer(range, sink)) {
            *place = value;
        }
    };
    number("frames", 256..=1 << 22, &mut dataplane.frames);
    number("max-flows", 1..=1 << 28, &mut dataplane.max_flows);
    number("max-neighbours", 1..=1 << 20, &mut dataplane.max_neighbours);
    if let Some(field) = fields.take("frame-size")
        && let Some(size) = field.integer::<u32>(0..=u32::MAX.into(), sink)
    {
        if size == 2048 || size == 4096 {
            dataplane.frame_size = size;
        } else {
            sink.error(field.at(), format!("`frame-size` cannot be {size}")).help("2048 or 4096");
        }
    }
    if let Some(keep) = fields.take("keep-flows").and_then(|field| field.boolean(sink)) {
        dataplane.keep_flows = keep;
    }
    if let Some(policy) = fields.take("initial-policy").and_then(|field| field.choice(&POLICIES, sink)) {
        dataplane.initial_policy = policy;
    }
    if let Some(log) = log(&mut fields, sink) {
        dataplane.log = log;
    }
    fields.finish(sink);
    dataplane
}

/// `cores`: at least one, none twice.
fn cores(fields: &mut Fields, sink: &mut Sink) -> Option<Vec<usize>> {
    let field = fields.take("cores")?;
    let list = field.list("an array of core numbers, such as `cores = [1, 2]`", sink)?;
    if list.is_empty() {
        sink.error(field.at(), "`cores` is empty").help("at least one core for a worker to run on");
        return None;
    }
    let mut cores: Vec<(usize, Field)> = Vec::with_capacity(list.len());
    for element in list {
        // The kernel's largest NR_CPUS is 8192.
        let Some(core) = element.integer(0..=8191, sink) else { continue };
        match cores.iter().find(|(other, _)| *other == core) {
            Some((_, first)) => {
                sink.error(element.at(), format!("core {core} is given twice"))
                    .help("each core runs one worker")
                    .label(first.at(), "first given here");
            }
            None => cores.push((core, element)),
        }
    }
    Some(cores.into_iter().map(|(core, _)| core).collect())
}

/// `idle` and `idle-after`.
fn idle(fields: &mut Fields, sink: &mut Sink) -> Idle {
    let busy = fields.take("idle").and_then(|field| field.choice(&[("busy", true), ("sleep", false)], sink));
    let after = fields.take("idle-after");
    let after_us = after.and_then(|field| field.micros(None, 1..=1_000_000, sink)).map_or(IDLE_AFTER, |us| us as u32);
    if busy != Some(true) {
        return Idle::Sleep { after_us };
    }
    if let Some(after) = after {
        sink.warning(after.key(), "`idle-after` has no effect with `idle = \"busy\"`").help("remove one of the two");
    }
    Idle::Busy
}

/// `log`.
fn log(fields: &mut Fields, sink: &mut Sink) -> Option<LogTo> {
    let field = fields.take("log")?;
    let accepts = "\"syslog\" or \"file:/var/log/sumun.log\"";
    match field.string(accepts, sink)? {
        "syslog" => Some(LogTo::Syslog),
        text => match text.strip_prefix("file:") {
            Some(path) => absolute(field, Some(path), sink).map(LogTo::File),
            None => {
                field.refuse(accepts, sink);
                None
            }
        },
    }
}

/// A path from the root: the processes run in directories of their own. `part` is the path where it is not the whole string.
fn absolute(field: Field, part: Option<&str>, sink: &mut Sink) -> Option<PathBuf> {
    let text = match part {
        Some(part) => part,
        None => field.string("a path, such as \"/run/sumun\"", sink)?,
    };
    if !text.starts_with('/') || text.contains('\0') {
        field.refuse("a path that begins with `/`", sink);
        return None;
    }
    Some(PathBuf::from(text))
}
