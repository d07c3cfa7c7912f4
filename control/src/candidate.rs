//! From a file to something that the dataplane can run, and whether a running dataplane can take it.

use crate::iptables;
use crate::message::{Response, Text};
use std::collections::BTreeSet;
use std::path::Path;
use sumun_config::diag::{self, Diagnostic, Source};
use sumun_config::facts::Family;
use sumun_config::iptables::Surroundings;
use sumun_config::model::{Appliance, Config, Policy};
use sumun_config::schema;
use sumun_dataplane::protocol::{self, Digest};

/// A configuration that was read and checked, and what its reader should know of it.
pub struct Checked {
    /// The file.
    pub source: Source,
    /// What it says.
    pub config: Config,
    /// Not wrong, but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// A file that cannot be used: all of its mistakes.
pub struct Mistakes {
    /// The file.
    pub source: Source,
    /// At least one.
    pub found: Vec<Diagnostic>,
}

/// Parses and validates.
pub fn check(name: &str, bytes: Vec<u8>) -> Result<Checked, Mistakes> {
    let source = Source::decode(name, bytes).map_err(|mistake| {
        let (source, found) = *mistake;
        Mistakes { source, found: vec![found] }
    })?;
    match schema::load(&source) {
        Ok((config, warnings)) => Ok(Checked { source, config, warnings }),
        Err(found) => Err(Mistakes { source, found }),
    }
}

impl Mistakes {
    /// With the text pointed at, for people.
    pub fn render(&self, color: bool) -> String {
        diag::render(&self.source, &self.found, color)
    }

    /// One line each, for logs.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.found.iter().map(|mistake| diag::short(&self.source, mistake))
    }

    /// How many, and how to see them.
    pub fn count(&self) -> String {
        let mistakes = match self.found.len() {
            1 => "1 mistake".to_string(),
            n => format!("{n} mistakes"),
        };
        format!("{mistakes} (`sumun check {}` shows them)", self.source.name())
    }
}

impl Checked {
    /// The warnings, one line each, for logs.
    pub fn warning_lines(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().map(|warning| diag::short(&self.source, warning))
    }

    /// The warnings with the text pointed at, for people.
    pub fn render_warnings(&self, color: bool) -> String {
        diag::render(&self.source, &self.warnings, color)
    }
}

/// A checked configuration, encoded for publishing.
pub struct Candidate {
    /// Where it came from.
    pub name: String,
    /// Where the rules of each family came from, where that is another file.
    rules: [Option<String>; 2],
    /// What the dataplane must have been started with.
    pub appliance: Appliance,
    /// The policy as it is sent.
    pub payload: Vec<u8>,
    /// Tells it from others.
    pub digest: Digest,
}

impl Candidate {
    /// Encodes the policy; fails only where it is larger than any that can be sent.
    pub fn of(checked: Checked) -> Result<Candidate, protocol::FrameError> {
        let Config { appliance, policy } = checked.config;
        let payload = protocol::encode(&policy)?;
        protocol::Header::of(protocol::Kind::Publish, payload.len())?;
        let name = checked.source.name().to_string();
        Ok(Candidate { name, rules: [None, None], appliance, digest: Digest::of(&payload), payload })
    }

    /// The same with rules of some families from the text of iptables, and the names of interfaces in them that no port has.
    pub fn with_rules(&self, texts: Vec<(Family, Text)>) -> Result<(Candidate, Vec<String>), Response> {
        let failed = |reason: String| Response::Failed { reason };
        let mut policy: Policy = protocol::decode(&self.payload).map_err(|error| failed(error.to_string()))?;
        let mut rules = self.rules.clone();
        let mut given: Vec<Family> = texts.iter().map(|(family, _)| *family).collect();
        let mut foreign = BTreeSet::new();
        for (family, Text { name, bytes }) in texts {
            let around = Surroundings { family: Some(family), ports: &policy.ports, names: policy.names() };
            let import = iptables::understand(&name, bytes, around)
                .map_err(|(source, found)| Response::Mistakes { text: diag::render(&source, &found, false) })?;
            let also: Vec<Family> = import.families.iter().copied().filter(|&other| other != family).collect();
            if let Some(other) = also.iter().find(|other| given.contains(other)) {
                return Err(failed(format!(
                    "{name} has rules of {} too, but another file is given for them",
                    other.name()
                )));
            }
            given.extend(&also);
            let families: Vec<Family> = also.into_iter().chain([family]).collect();
            policy.ruleset = policy.ruleset.with_rules_of(&import.ruleset, &families).map_err(failed)?;
            families.iter().for_each(|family| rules[family.index()] = Some(name.clone()));
            foreign.extend(import.foreign);
        }
        let payload = protocol::encode(&policy).map_err(|error| failed(error.to_string()))?;
        let appliance = self.appliance.clone();
        let (name, digest) = (self.name.clone(), Digest::of(&payload));
        Ok((Candidate { name, rules, appliance, digest, payload }, foreign.into_iter().collect()))
    }

    /// Its file, and those of its rules where they are others.
    pub fn title(&self) -> String {
        let families = Family::ALL.iter().zip(&self.rules);
        let others: Vec<String> =
            families.filter_map(|(family, file)| Some(format!("{} of {}", file.as_ref()?, family.name()))).collect();
        if others.is_empty() {
            self.name.clone()
        } else {
            format!("{} with the rules {}", self.name, others.join(", "))
        }
    }
}

/// The settings that differ between what runs and what is wanted, by name. Each of them is read only when the dataplane starts.
/// The run directory is not among them: whoever speaks to the dataplane has found it.
pub fn differences(running: &Appliance, wanted: &Appliance) -> Vec<&'static str> {
    let Appliance {
        run_dir: _,
        cores,
        idle,
        frames_per_worker,
        frame_size,
        max_flows,
        keep_flows,
        max_neighbours,
        interfaces,
        initial_policy,
        log,
        host,
    } = wanted;
    [
        ("cores", running.cores != *cores),
        ("idle policy", running.idle != *idle),
        ("frames per worker", running.frames_per_worker != *frames_per_worker),
        ("frame size", running.frame_size != *frame_size),
        ("maximum of flows", running.max_flows != *max_flows),
        ("keeping of flows", running.keep_flows != *keep_flows),
        ("maximum of neighbours", running.max_neighbours != *max_neighbours),
        ("interfaces", running.interfaces != *interfaces),
        ("initial policy", running.initial_policy != *initial_policy),
        ("log", running.log != *log),
        ("host", running.host != *host),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

/// Reads a file of any name.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}
