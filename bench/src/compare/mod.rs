//! `sumun-bench compare`: the same network, rules and traffic through Sumun and through the kernel, in turns, in one run.
//!
//! | file | |
//! |---|---|
//! | [`topology`] | where a contestant is measured |
//! | [`rules`] | what it has to do, in its language |
//! | [`contestants`] | who takes part, and how the kernel is spread over the cores |
//! | [`priority`] | what else runs, and how little it shall take |
//! | [`measure`] | one measurement |
//! | [`turns`] | all measurements of a point, in turns |
//! | [`outcome`], [`plot`] | table, JSON, pictures |

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use contestants::{Contestant, Cores};
use nix::unistd::Uid;
use outcome::{LeftOut, Machine, Outcome, Settings};
use priority::Priority;
use rules::Work;
use std::path::PathBuf;
use turns::Point;

pub mod contestants;
pub mod measure;
pub mod outcome;
pub mod plot;
pub mod priority;
pub mod rules;
pub mod topology;
pub mod turns;

/// Flows where their number is not what varies.
const FLOWS: u32 = 1000;

/// What to compare.
#[derive(Args)]
pub struct Options {
    /// Numbers of rules.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000", value_name = "N,N")]
    rules: Vec<u32>,
    /// Numbers of flows, of conntrack and masquerade.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,100000", value_name = "N,N")]
    flows: Vec<u32>,
    /// Rounds; in each all have their turn, and the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// The generator's core and the router's.
    #[arg(long, value_delimiter = ',', default_value = "0,1", value_name = "A,B")]
    cores: Vec<usize>,
    /// Few points, one short round: whether all of it works. The figures mean little.
    #[arg(long, conflicts_with_all = ["rules", "flows", "rounds", "seconds"])]
    quick: bool,
    /// Writes all figures, of every round, into a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws throughput by rules and by flows, and latency, into a directory, as SVG and PNG.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

impl Options {
    fn settings(&self) -> Result<Settings> {
        let [generator, router] = self.cores[..] else { bail!("--cores takes two: the generator's and the router's") };
        let known = core_affinity::get_core_ids().unwrap_or_default();
        for core in [generator, router] {
            ensure!(known.iter().any(|known| known.id == core), "--cores: there is no core {core} for this process");
        }
        ensure!(generator != router, "--cores: generator and router need a core each");
        ensure!(self.rounds > 0 && self.rounds <= 1000, "--rounds is from 1 to 1000");
        ensure!(self.seconds >= 0.05 && self.seconds <= 60.0, "--seconds is from 0.05 to 60");
        let within = |numbers: &[u32], most| numbers.iter().all(|number| (1..=most).contains(number));
        ensure!(within(&self.rules, 100_000), "--rules are from 1 to 100000");
        ensure!(within(&self.flows, 1 << 17), "--flows are from 1 to 131072");
        let cores = Cores { generator, router };
        Ok(match self.quick {
            true => Settings { rounds: 1, seconds: 0.1, cores },
            false => Settings { rounds: self.rounds, seconds: self.seconds, cores },
        })
    }

    fn points(&self) -> Vec<Point> {
        let (rules, flows) = match self.quick {
            true => (&[100][..], &[FLOWS][..]),
            false => (&self.rules[..], &self.flows[..]),
        };
        let masquerade = flows.iter().map(|flows| Point { work: Work::Masquerade, flows: *flows });
        let rules = rules.iter().map(|rules| Point { work: Work::Rules(*rules), flows: FLOWS });
        std::iter::once(Point { work: Work::Forward, flows: FLOWS }).chain(masquerade).chain(rules).collect()
    }
}

/// Whether latencies are measured there, too: at one point of each kind of work.
fn has_latency(point: Point, points: &[Point]) -> bool {
    let alike = |other: &&Point| std::mem::discriminant(&other.work) == std::mem::discriminant(&point.work);
    // The usual number of flows, or of rules, or what is nearest to it.
    let distance = |other: &Point| match other.work {
        Work::Rules(count) => count.abs_diff(1000),
        Work::Forward | Work::Masquerade => other.flows.abs_diff(FLOWS),
    };
    points.iter().filter(alike).min_by_key(|other| distance(other)) == Some(&point)
}

/// Measures, prints, writes and draws.
pub fn run(options: &Options) -> Result<()> {
    let settings = options.settings()?;
    ensure!(Uid::effective().is_root(), "compare needs root: it makes network namespaces and loads XDP programs");
    if let Some(dir) = &options.plot {
        std::fs::create_dir_all(dir).with_context(|| format!("--plot {}", dir.display()))?;
    }
    if cfg!(debug_assertions) {
        eprintln!("note: this is a development build, and so is the Sumun beside it: its figures say nothing");
    }
    let machine = Machine::this();
    if machine.load > machine.processors as f64 / 4.0 {
        eprintln!(
            "note: other programs are at work here (load {}): figures are lower for it, and latencies higher",
            machine.load
        );
    }
    let _priority = Priority::raise();
    let stop = crate::pktgen::pace::stop_on_signals()?;
    sumun_testbed::sweep()?;
    let (here, left_out) = contestants::roll_call()?;
    for LeftOut { contestant, why } in &left_out {
        ensure!(*contestant != Contestant::Sumun, "{why}");
        eprintln!("note: {contestant} is left out: {why}");
    }
    let mut outcome = Outcome { machine, settings, left_out, ..Outcome::default() };
    let points = options.points();
    for point in &points {
        eprintln!("{point} ...");
        let with_latency = has_latency(*point, &points);
        turns::measure(*point, &here, settings, with_latency, &stop, &mut outcome)?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&outcome)?)
            .with_context(|| format!("--json {}", file.display()))?;
    }
    if let Some(dir) = &options.plot {
        plot::draw(&outcome, dir)?;
    }
    print!("{outcome}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_measured_once_for_each_kind_of_work() {
        let rules = [10, 100, 2000, 10_000].map(|rules| Point { work: Work::Rules(rules), flows: FLOWS });
        let flows = [1, 900, 100_000].map(|flows| Point { work: Work::Masquerade, flows });
        let points = [&[Point { work: Work::Forward, flows: FLOWS }][..], &flows, &rules].concat();
        let chosen: Vec<bool> = points.iter().map(|point| has_latency(*point, &points)).collect();
        assert_eq!(chosen, [true, false, true, false, false, true, false, false]);
    }
}
