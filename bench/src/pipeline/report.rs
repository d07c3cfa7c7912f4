//! How figures are told: as lines of a table, or of JSON.

use super::bench::Settings;
use super::meter::Counts;
use serde::Serialize;
use sumun_config::facts::Family;

/// A line of the result.
#[derive(Serialize)]
pub struct Figure {
    workload: &'static str,
    family: u8,
    flows: u32,
    workers: usize,
    /// Bytes of frames with the link's checksum, on average.
    bytes: f64,
    /// Of a worker, in the median round.
    ns_per_packet: f64,
    /// Of all workers together.
    mpps: f64,
    slowest_ns: f64,
    fastest_ns: f64,
    /// Of each worker its own median; none of one that has no packets.
    ns_of_workers: Vec<Option<f64>>,
    #[serde(flatten)]
    counts: Counts,
}

impl Figure {
    /// Of rounds, of which there is at least one.
    pub fn new(
        workload: &'static str,
        flows: u32,
        settings: &Settings,
        rounds: &[Vec<Option<f64>>],
        counts: Counts,
    ) -> Figure {
        let mut mpps: Vec<f64> =
            rounds.iter().map(|round| round.iter().flatten().map(|ns| 1000.0 / ns).sum()).collect();
        mpps.sort_by(f64::total_cmp);
        let at_work = rounds[0].iter().flatten().count() as f64;
        let ns = |mpps: f64| 1000.0 * at_work / mpps;
        let of_worker = |worker: usize| {
            let times: Option<Vec<f64>> = rounds.iter().map(|round| round[worker]).collect();
            times.map(median)
        };
        let bytes: u32 = settings.lengths.iter().map(|len| len + crate::pktgen::frame::FCS).sum();
        let median = mpps[(mpps.len() - 1) / 2];
        Figure {
            workload,
            family: if settings.family == Family::V4 { 4 } else { 6 },
            flows,
            workers: settings.workers,
            bytes: f64::from(bytes) / settings.lengths.len() as f64,
            ns_per_packet: ns(median),
            mpps: median,
            slowest_ns: ns(mpps[0]),
            fastest_ns: ns(mpps[mpps.len() - 1]),
            ns_of_workers: (0..settings.workers).map(of_worker).collect(),
            counts,
        }
    }

    /// As a line under [`heading`] of so many workers at most.
    pub fn line(&self, most: usize) -> String {
        let mut line = format!(
            "{:<36} {:>9} {:>10.1} {:>8.2} {:>8.1}-{:<8.1}",
            self.workload, self.flows, self.ns_per_packet, self.mpps, self.fastest_ns, self.slowest_ns
        );
        if most > 1 {
            let each = self.ns_of_workers.iter().map(|ns| ns.map_or("    -".into(), |ns| format!("{ns:>5.1}")));
            line += &format!(" {:<1$}", each.collect::<Vec<_>>().join(" "), of_each(most));
        }
        let Counts { cycles, instructions, cache_misses, branch_misses } = self.counts;
        let told = [(cycles, 0), (instructions, 0), (cache_misses, 2), (branch_misses, 2)];
        if told.iter().any(|(count, _)| count.is_some()) {
            for (count, digits) in told {
                line += &count.map_or(format!(" {:>12}", "-"), |count| format!(" {count:>12.digits$}"));
            }
        }
        line.trim_end().to_string()
    }
}

/// Above the lines.
pub fn heading(most: usize, counts: bool) -> String {
    let mut line =
        format!("{:<36} {:>9} {:>10} {:>8} {:>17}", "workload", "flows", "ns/packet", "Mpps", "fastest-slowest");
    if most > 1 {
        line += &format!(" {:<1$}", "of each", of_each(most));
    }
    if counts {
        for what in ["cycles", "instructions", "cache misses", "mispredicted"] {
            line += &format!(" {what:>12}");
        }
    }
    line.trim_end().to_string()
}

/// Width of the times of each worker.
fn of_each(workers: usize) -> usize {
    (workers * 6 - 1).max(7)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
