//! What the router shows of itself without being asked by control: the page's numbers, and timers that run out.

use super::Answers;
use crate::engine::stats::{Count, Traffic, WorkerStats};
use crate::page::{Snapshot, Work};
use crate::server::Service;
use crate::worker;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Answers {
    /// All that the router shows of itself now.
    pub(super) fn snapshot(&self, lost_lines: u64) -> Snapshot {
        let at = worker::now();
        let router = &self.router;
        let work = |(stats, core): (&Arc<WorkerStats>, &usize)| {
            let packets = |traffic: &[Traffic]| traffic.iter().map(|traffic| traffic.packets.get()).sum();
            Work {
                core: *core,
                received: packets(&stats.rx),
                replayed: stats.replayed.get(),
                sent: packets(&stats.tx),
                delivered: stats.delivered.get(),
                consumed: stats.consumed.get(),
                originated: stats.originated.get() + stats.pieces.get(),
                dropped: stats.drops.iter().map(Count::get).sum(),
            }
        };
        let mut neighbours = BTreeMap::new();
        for row in self.neighbours() {
            *neighbours.entry((row.port, row.state)).or_insert(0) += 1;
        }
        let generation = router.current();
        Snapshot {
            at,
            uptime_ms: at.saturating_sub(self.started) / 1_000_000,
            generation: generation.number,
            settled: router.is_settled(),
            rules: crate::server::count_rules(&generation.policy),
            routes: self.route_counts(),
            ports: self.ports(),
            port_counts: self.control.port_counts(),
            workers: router.stats.iter().zip(&router.cores).map(work).collect(),
            drops: router.drops(),
            flows: router.conntrack.count(),
            max_flows: router.conntrack.max_flows(),
            conntrack: self.conntrack_stats(),
            neighbours,
            lost_lines,
            answers: std::array::from_fn(|status| router.board.answers[status].get()),
            turned_away: router.board.turned_away.get(),
        }
    }

    /// Says which timers of IDLETIMER have run out.
    pub(super) fn tell_timers(&self) {
        let (generation, now) = (self.router.current(), worker::now());
        for (label, _) in generation.objects.timers().filter(|(_, timer)| timer.runs_out(now)) {
            tracing::info!(label, "an idle timer has run out");
        }
    }
}
