//! How many instructions the engine spends on a packet, against figures in the repository: a gate that does not depend on what
//! else the machine does.
//!
//! Each row is a process of its own under `valgrind --tool=callgrind`: it opens flows, runs a round so that all ways are known,
//! and then one whose instructions are counted, the engine's alone. What is left of chance is the key under which the fast
//! path remembers flows, which is random in each process: it moves figures by less than a thousandth. What moves them without
//! a reason in the engine is the compiler: code elsewhere in the package changes what it inlines, which has made 1.8 % once.
//! Another compiler moves them by more, so figures
//! name the one that they are of, and others are given more room. Valgrind shows programs a processor of its own, so that
//! what they choose at run time is the same on all that have AVX2.

use crate::pipeline::bench::{Bench, Settings};
use crate::pipeline::lane::{Unwatched, Watch};
use crate::pipeline::traffic::Spread;
use crate::pipeline::workload::{Packets, Workload, workloads};
use crate::pktgen::frame::{FCS, least};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use sumun_config::facts::Family;

/// What to compare.
#[derive(Args)]
pub struct Options {
    /// The figures.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml"))]
    figures: PathBuf,
    /// Writes them anew.
    #[arg(long)]
    write: bool,
    /// Only rows whose name contains this.
    #[arg(long, conflicts_with = "write")]
    only: Option<String>,
    /// Percent that figures may differ.
    #[arg(long, default_value_t = 3.0)]
    tolerance: f64,
    /// Counts one row, in the process that is watched.
    #[arg(long, hide = true)]
    row: Option<usize>,
}

/// The compiler that this program is of.
const COMPILER: &str = env!("COMPILER");
/// Percent that figures of another compiler may differ.
const OTHER_COMPILER: f64 = 10.0;
/// Known flows of a row.
const FLOWS: u32 = 500;
/// Packets of a round.
const PACKETS: usize = 8192;

/// What is counted.
struct Row {
    name: String,
    workload: Workload,
    family: Family,
    judges_all: bool,
}

/// All of them, in the order of the table.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, prefix) in [(Family::V4, ""), (Family::V6, "IPv6, ")] {
        for workload in workloads() {
            rows.push(Row { name: format!("{prefix}{}", workload.name), workload, family, judges_all: false });
        }
        // The way of the first packets of a flow, and of those that no flow tells.
        for workload in workloads().into_iter().filter(|workload| workload.packets == Packets::BothWays) {
            rows.push(Row {
                name: format!("{prefix}{}, all judged", workload.name),
                workload,
                family,
                judges_all: true,
            });
        }
    }
    rows
}

/// Marks what is counted: valgrind is told the name of the function below.
struct Counted;

impl Watch for Counted {
    fn over(&mut self, work: impl FnOnce()) {
        counted_by_the_gate(work);
    }
}

#[inline(never)]
fn counted_by_the_gate(work: impl FnOnce()) {
    work();
}

/// Does the work of a row. Prints how many packets were counted.
fn probe(row: &Row) -> Result<()> {
    let settings = Settings {
        family: row.family,
        flows: FLOWS,
        packets: PACKETS,
        workers: 1,
        spread: Spread::Rss,
        lengths: vec![least(row.family == Family::V6) - FCS],
        judges_all: row.judges_all,
    };
    let mut bench = Bench::new(&row.workload, &settings)?;
    bench.round(None, || Ok(Unwatched))?;
    let watched = bench.round(None, || Ok(Counted))?;
    let packets: usize = watched.iter().flatten().map(|(_, packets)| packets).sum();
    println!("{packets}");
    Ok(())
}

/// Instructions a packet of row `number`.
fn count(number: usize, dir: &Path) -> Result<f64> {
    let file = dir.join(number.to_string());
    let output = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--toggle-collect=*counted_by_the_gate*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["gate", "--row", &number.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("valgrind, of Debian's package of that name")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {}: {}", output.status, said.trim());
    let packets: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("a number of packets")?;
    let told = std::fs::read_to_string(&file).context("what callgrind writes")?;
    let total = told.lines().find_map(|line| line.strip_prefix("totals: ")).context("callgrind tells no total")?;
    let instructions: f64 = total.trim().parse().context("callgrind's total")?;
    ensure!(instructions > 0.0, "no instruction was counted: was this program stripped of its symbols?");
    Ok(instructions / packets)
}

/// The same of these rows, as many at a time as there are processors.
fn count_all(numbers: &[usize]) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir()?;
    let next = AtomicUsize::new(0);
    let counts: Mutex<Vec<Option<Result<f64>>>> = Mutex::new(numbers.iter().map(|_| None).collect());
    let work = || {
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(number) = numbers.get(at)
        {
            let count = count(*number, dir.path());
            counts.lock().expect("nobody panics with it")[at] = Some(count);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let counts = counts.into_inner().expect("nobody panics with it");
    counts.into_iter().map(|count| count.unwrap_or_else(|| bail!("it was not counted"))).collect()
}

/// The figures of the repository.
#[derive(Deserialize)]
struct Figures {
    compiler: String,
    /// Instructions a packet, by row.
    instructions: BTreeMap<String, f64>,
}

/// Counts, and compares or writes.
pub fn run(options: &Options) -> Result<()> {
    let rows = rows();
    if let Some(number) = options.row {
        return probe(rows.get(number).context("no such row")?);
    }
    let is_meant = |row: &Row| options.only.as_ref().is_none_or(|only| row.name.contains(only.as_str()));
    let numbers: Vec<usize> = (0..rows.len()).filter(|number| is_meant(&rows[*number])).collect();
    ensure!(!numbers.is_empty(), "no row has that in its name");
    ensure!(!cfg!(debug_assertions), "this is a development build: `testbed/gate` builds what is counted");
    let counts = count_all(&numbers)?;
    let counted: Vec<(&str, f64)> = numbers.iter().map(|number| rows[*number].name.as_str()).zip(counts).collect();
    if options.write {
        return std::fs::write(&options.figures, text(&counted)).context(options.figures.display().to_string());
    }
    let text = std::fs::read_to_string(&options.figures).context(options.figures.display().to_string())?;
    let figures: Figures = toml::from_str(&text).context(options.figures.display().to_string())?;
    let verdict = judge(&figures, &counted, options.tolerance);
    print!("{}", verdict.table);
    ensure!(verdict.is_well, "some packets take more instructions than `{}` says", options.figures.display());
    Ok(())
}

/// What stands in the file.
fn text(counted: &[(&str, f64)]) -> String {
    let mut text = format!(
        "# Instructions of the engine for a packet, as callgrind counts them: `testbed/gate --write` writes them.\n\
         compiler = \"{COMPILER}\"\n\n[instructions]\n"
    );
    for (name, count) in counted {
        let _ = writeln!(text, "\"{name}\" = {count:.1}");
    }
    text
}

/// The outcome of a comparison.
struct Verdict {
    table: String,
    is_well: bool,
}

/// Compares.
fn judge(figures: &Figures, counted: &[(&str, f64)], tolerance: f64) -> Verdict {
    let is_same = figures.compiler == COMPILER;
    let tolerance = if is_same { tolerance } else { tolerance.max(OTHER_COMPILER) };
    let mut table = format!("{:<50} {:>8} {:>8} {:>8}\n", "instructions a packet", "figure", "now", "change");
    let (mut is_well, mut is_less) = (true, false);
    for (name, now) in counted {
        let Some(figure) = figures.instructions.get(*name) else {
            let _ = writeln!(table, "{name:<50} {:>8} {now:>8.1}           NOT KNOWN", "-");
            is_well = false;
            continue;
        };
        let change = (now / figure - 1.0) * 100.0;
        let note = match change {
            _ if change > tolerance => "  MORE",
            _ if change < -tolerance => "  less",
            _ => "",
        };
        (is_well, is_less) = (is_well && change <= tolerance, is_less || change < -tolerance);
        let _ = writeln!(table, "{name:<50} {figure:>8.1} {now:>8.1} {change:>+7.1}%{note}");
    }
    if !is_same {
        let _ = writeln!(
            table,
            "the figures are of {}, this program of {COMPILER}: {tolerance} % are let pass",
            figures.compiler
        );
    }
    if is_well && is_less {
        table += "the figures may be lowered: `testbed/gate --write`\n";
    }
    Verdict { table, is_well }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(compiler: &str) -> Figures {
        let instructions = [("plain", 100.0), ("masquerade", 200.0)].map(|(name, figure)| (name.to_string(), figure));
        Figures { compiler: compiler.into(), instructions: instructions.into() }
    }

    #[test]
    fn more_instructions_fail_and_less_are_told() {
        let verdict = judge(&figures(COMPILER), &[("plain", 101.9), ("masquerade", 197.0)], 2.0);
        assert!(verdict.is_well && !verdict.table.contains("lowered"), "{}", verdict.table);
        let verdict = judge(&figures(COMPILER), &[("plain", 102.1), ("masquerade", 200.0)], 2.0);
        assert!(!verdict.is_well && verdict.table.contains("+2.1%  MORE"), "{}", verdict.table);
        let verdict = judge(&figures(COMPILER), &[("plain", 100.0), ("masquerade", 190.0)], 2.0);
        assert!(verdict.is_well && verdict.table.contains("-5.0%  less"), "{}", verdict.table);
        assert!(verdict.table.contains("may be lowered"), "{}", verdict.table);
    }

    #[test]
    fn another_compiler_has_more_room_and_is_named() {
        let verdict = judge(&figures("rustc 1.0.0"), &[("plain", 109.0)], 2.0);
        assert!(verdict.is_well && verdict.table.contains("rustc 1.0.0"), "{}", verdict.table);
        assert!(!judge(&figures("rustc 1.0.0"), &[("plain", 111.0)], 2.0).is_well);
    }

    #[test]
    fn a_row_without_a_figure_fails() {
        let verdict = judge(&figures(COMPILER), &[("new", 1.0)], 2.0);
        assert!(!verdict.is_well && verdict.table.contains("NOT KNOWN"), "{}", verdict.table);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let read: Figures = toml::from_str(&text(&[("plain, IPv6", 12.34)])).expect("TOML");
        assert_eq!((read.compiler.as_str(), read.instructions["plain, IPv6"]), (COMPILER, 12.3));
    }

    #[test]
    fn every_row_has_a_figure_and_every_figure_a_row() {
        let text = include_str!("../instructions.toml");
        let figures: Figures = toml::from_str(text).expect("TOML");
        let names: std::collections::BTreeSet<String> = rows().into_iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows().len(), "names are their own");
        assert!(figures.instructions.keys().eq(names.iter()), "`testbed/gate --write`");
    }
}
