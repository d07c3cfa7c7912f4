//! What a comparison came to: for people, and for programs.

use super::contestants::{Arrangement, Contestant, Cores};
use super::measure::median;
use super::rules::Work;
use crate::pktgen::report::grouped;
use serde::Serialize;
use std::fmt;

/// All of it.
#[derive(Default, Serialize)]
pub struct Outcome {
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// What the sink is, for all.
    pub sink: Sink,
    /// Who does not take part.
    pub left_out: Vec<LeftOut>,
    /// While the generator floods.
    pub throughput: Vec<Throughput>,
    /// At half of that.
    pub latency: Vec<Delay>,
}

/// The machine.
#[derive(Default, Serialize)]
pub struct Machine {
    kernel: String,
    processor: String,
    /// How many.
    pub processors: usize,
    /// Of the minute before, by everything else.
    pub load: f64,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            processor: model.unwrap_or(std::env::consts::ARCH).to_string(),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

/// How it was measured.
#[derive(Clone, Copy, Serialize)]
pub struct Settings {
    /// In each, everybody has a turn.
    pub rounds: usize,
    /// Of one measurement.
    pub seconds: f64,
    /// Where generator and router run.
    pub cores: Cores,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { rounds: 0, seconds: 0.0, cores: Cores { generator: 0, router: 1 } }
    }
}

/// What counts at the end, the same for all.
#[derive(Serialize)]
pub struct Sink(&'static str);

impl Default for Sink {
    fn default() -> Sink {
        Sink("native XDP, drop")
    }
}

/// Who does not take part.
#[derive(Serialize)]
pub struct LeftOut {
    /// Who.
    pub contestant: Contestant,
    /// The reason.
    pub why: String,
}

/// What a contestant took.
#[derive(Clone, Serialize)]
pub struct Throughput {
    /// Its work.
    pub work: Work,
    /// Of the generator.
    pub flows: u32,
    /// Who.
    pub contestant: Contestant,
    /// The kernel's best one.
    pub arrangement: Option<Arrangement>,
    /// Millions of packets a second that reached the sink: the median of the rounds.
    pub mpps: f64,
    /// So many times this is what Sumun took.
    pub sumun_is: Option<f64>,
    /// Of each round.
    pub rounds: Vec<f64>,
    /// Its other arrangements.
    pub others: Vec<Other>,
}

/// An arrangement that was not the best.
#[derive(Clone, Serialize)]
pub struct Other {
    arrangement: Option<Arrangement>,
    mpps: f64,
}

impl Other {
    /// Of the packets a second of its rounds.
    pub fn of((arrangement, rates): (Option<Arrangement>, Vec<f64>)) -> Other {
        Other { arrangement, mpps: median(&rates) / 1e6 }
    }
}

/// How long packets took, in the median of the rounds.
#[derive(Clone, Serialize)]
pub struct Delay {
    /// Its work.
    pub work: Work,
    /// Of the generator.
    pub flows: u32,
    /// At half of what this one takes.
    pub half_of: Contestant,
    /// Who.
    pub contestant: Contestant,
    /// Of the kernel.
    pub arrangement: Option<Arrangement>,
    /// The rate.
    pub mpps: f64,
    /// Half of all took no longer.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// Share that did not arrive.
    pub lost: f64,
}

fn how(arrangement: Option<Arrangement>) -> String {
    arrangement.map_or(String::new(), |arrangement| arrangement.to_string())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Machine { kernel, processor, processors, load } = &self.machine;
        let Settings { rounds, seconds, cores } = self.settings;
        writeln!(f, "Linux {kernel}, {processor}, {processors} processors. Generator on core {},", cores.generator)?;
        writeln!(
            f,
            "router on core {}; the kernel also on both, where that is its best. 64-byte UDP over veths,",
            cores.router
        )?;
        writeln!(
            f,
            "sink: native XDP, drop. Medians of {rounds} rounds of {seconds} s, in turns; load before: {load}.\n"
        )?;
        writeln!(f, "| throughput | flows | by | Mpps | rounds | the kernel's best | Sumun |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for row in &self.throughput {
            let Throughput { work, flows, contestant, arrangement, mpps, sumun_is, rounds, .. } = row;
            let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rounds.iter().copied().fold(0.0, f64::max);
            let times = sumun_is.map_or(String::new(), |times| format!("{times:.1} times"));
            let (flows, how) = (grouped(u64::from(*flows)), how(*arrangement));
            writeln!(f, "| {work} | {flows} | {contestant} | {mpps:.3} | {least:.3}-{most:.3} | {how} | {times} |")?;
        }
        if !self.latency.is_empty() {
            writeln!(f, "\n| latency | at half of what | Mpps | by | 50 % | 99 % | 99.9 % | lost |")?;
            writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        }
        for row in &self.latency {
            let Delay { work, half_of, contestant, arrangement, mpps, p50_us, p99_us, p999_us, lost, .. } = row;
            let how = arrangement.map_or(String::new(), |arrangement| format!(" ({arrangement})"));
            let lost = lost * 100.0;
            writeln!(
                f,
                "| {work} | {half_of} takes | {mpps:.3} | {contestant}{how} | {p50_us:.1} µs | {p99_us:.1} µs | {p999_us:.1} µs | {lost:.1} % |"
            )?;
        }
        for LeftOut { contestant, why } in &self.left_out {
            writeln!(f, "\nleft out: {contestant} ({why})")?;
        }
        Ok(())
    }
}
