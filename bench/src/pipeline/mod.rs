//! The engine alone: bursts of frames in memory go through the complete pipeline, and the time inside the engine is measured.
//!
//! | file | |
//! |---|---|
//! | [`workload`] | what the router has to do |
//! | [`traffic`] | which packets come to which worker |
//! | [`lane`] | one worker: bursts through its engine |
//! | [`mod@bench`] | a workload with its workers, and their rounds |
//! | [`meter`] | what the processor counts |
//! | [`report`] | how it is told |
//!
//! Writing the frames and taking them back is not counted; the clock is read twice a burst. Each workload runs in several
//! rounds that take turns with the others, so that a slow moment of the machine hits all of them; the median round is
//! printed. Several workers share one router, as in the real program, and run at the same time.

use anyhow::{Result, bail, ensure};
use bench::{Bench, Settings};
use clap::Args;
use core_affinity::CoreId;
use meter::Meter;
use sumun_config::facts::Family;
use sumun_dataplane::engine::BURST;
use traffic::Spread;
use workload::{Packets, workloads};

use crate::pktgen::frame::{Families, Sizes, least};
pub use workload::{config, links};

pub mod bench;
pub mod lane;
pub mod meter;
pub mod report;
pub mod traffic;
pub mod workload;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Flows, spread evenly over the packets; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    flows: Vec<u32>,
    /// Only workloads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Family of the packets: 4 or 6.
    #[arg(long, default_value = "4")]
    family: u8,
    /// Bytes of a frame, the link's checksum of 4 bytes counted; the least where it is left out: 64 for IPv4, 66 for IPv6.
    #[arg(long)]
    size: Option<u32>,
    /// Frames of 64, 594 and 1518 bytes, 7:4:1.
    #[arg(long, conflicts_with = "size")]
    imix: bool,
    /// Rounds of each workload; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Packets of each worker in a round.
    #[arg(long, default_value_t = 1_000_000)]
    packets: usize,
    /// Let rules judge every packet, also where its flow tells the answer.
    #[arg(long)]
    judge_all: bool,
    /// Workers, each on a core of its own, that share one router; several numbers are measured in turns.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    workers: Vec<usize>,
    /// How packets are spread over workers.
    #[arg(long, value_enum, default_value_t = Spread::Rss)]
    spread: Spread,
    /// Core to run on; with several workers, the first one.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// One JSON object for each line of the table.
    #[arg(long)]
    json: bool,
}

/// Most flows of a workload: the tables of all workloads and a packet each way of each flow take three gigabytes for each million.
const MOST_FLOWS: u32 = 4_000_000;

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let (family, families) = match options.family {
        4 => (Family::V4, Families::V4),
        6 => (Family::V6, Families::V6),
        other => bail!("--family is 4 or 6, not {other}"),
    };
    ensure!(options.rounds > 0 && options.packets >= BURST, "at least one round of {BURST} packets");
    ensure!(options.flows.iter().all(|flows| (1..=MOST_FLOWS).contains(flows)), "--flows is from 1 to {MOST_FLOWS}");
    let most = options.workers.iter().copied().max().unwrap_or(0);
    ensure!(!options.workers.contains(&0) && most > 0, "--workers is from 1");
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    for core in options.core..options.core.saturating_add(most) {
        ensure!(usable.contains(&CoreId { id: core }), "--core, --workers: there is no core {core} for this process");
    }
    let sizes = if options.imix { Sizes::Imix } else { Sizes::One(options.size) };
    let lengths = sizes.lengths(families, least(family == Family::V6), 1500)?;
    let mut workloads = workloads();
    workloads.retain(|workload| options.only.as_ref().is_none_or(|only| workload.name.contains(only.as_str())));
    ensure!(!workloads.is_empty(), "no workload has that in its name");
    if cfg!(debug_assertions) {
        eprintln!("note: this is a development build: its figures say nothing");
    }
    let counts = Meter::open().inspect_err(|why| eprintln!("note: no cycles, instructions and misses: {why}")).is_ok();
    if !options.json {
        println!("{}", report::heading(most, counts));
    }
    // One number of flows after the other, since the tables of all of them would be gigabytes.
    for (turn, flows) in options.flows.iter().enumerate() {
        // Opening flows asks nothing of those that are there.
        let apply = workloads.iter().filter(|workload| turn == 0 || workload.packets != Packets::New);
        let bench = |workload, workers| {
            let settings = Settings {
                family,
                flows: *flows,
                packets: options.packets,
                workers,
                spread: options.spread,
                lengths: lengths.clone(),
                judges_all: options.judge_all,
            };
            Bench::new(workload, &settings)
        };
        let each = apply.flat_map(|workload| options.workers.iter().map(|workers| bench(workload, *workers)));
        let mut benches: Vec<Bench> = each.collect::<Result<_>>()?;
        benches.iter_mut().try_for_each(|bench| bench.warm_up(options.core))?;
        for _ in 0..options.rounds {
            benches.iter_mut().try_for_each(|bench| bench.time(options.core))?;
        }
        for bench in &mut benches {
            if counts {
                bench.count(options.core)?;
            }
            let figure = bench.figure();
            match options.json {
                true => println!("{}", serde_json::to_string(&figure)?),
                false => println!("{}", figure.line(most)),
            }
        }
    }
    Ok(())
}
