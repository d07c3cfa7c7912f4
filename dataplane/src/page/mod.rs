//! What the router shows of itself over HTTP: a status page for people, and its numbers for Prometheus.
//!
//! A [`Snapshot`] is taken by the housekeeping thread; both forms are pure functions of it.

mod metrics;
mod overview;

use crate::local::board::{Board, Pages};
use crate::local::http::{Answer, Status};
use crate::port::PortCounts;
use crate::protocol::{ConntrackStats, PortStatus, RouteCounts};
use crate::reason::{Class, DropReason};
use std::collections::BTreeMap;

/// All that is shown, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nanoseconds of the workers' clock.
    pub at: u64,
    /// Milliseconds since the process was started.
    pub uptime_ms: u64,
    /// The generation in force; 0 is the initial policy.
    pub generation: u64,
    /// Whether all workers run it.
    pub settled: bool,
    /// Rules of it.
    pub rules: u64,
    /// Routes in force.
    pub routes: RouteCounts,
    /// The ports with their traffic.
    pub ports: Vec<PortStatus>,
    /// What else ports have counted, in the same order.
    pub port_counts: Vec<PortCounts>,
    /// What each worker did.
    pub workers: Vec<Work>,
    /// Packets dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Tracked flows.
    pub flows: u32,
    /// Most flows that there can be.
    pub max_flows: u32,
    /// What connection tracking counted.
    pub conntrack: ConntrackStats,
    /// How many neighbours there are, by port and state.
    pub neighbours: BTreeMap<(String, String), u64>,
    /// Lines of LOG that were lost.
    pub lost_lines: u64,
    /// Answers over HTTP, by status.
    pub answers: [u64; Status::ALL.len()],
    /// Connections that found no place.
    pub turned_away: u64,
}

/// What one worker did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Its core.
    pub core: usize,
    /// Packets that came in.
    pub received: u64,
    /// Those of them whose flow told their way.
    pub replayed: u64,
    /// Packets put in line to be sent.
    pub sent: u64,
    /// Packets for the router itself.
    pub delivered: u64,
    /// Packets that the engine itself was meant by.
    pub consumed: u64,
    /// Packets of the router's own.
    pub originated: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// The name of a class of drops.
fn class(reason: DropReason) -> &'static str {
    match reason.class() {
        Class::Policy => "policy",
        Class::Error => "error",
        Class::Overload => "overload",
    }
}

/// Makes pages, one after the other: rates are of the time since the one before.
#[derive(Debug, Default)]
pub struct Press {
    before: Option<Snapshot>,
}

impl Press {
    /// Pins new pages where somebody waits for them.
    pub fn print(&mut self, board: &Board, snapshot: impl FnOnce() -> Snapshot) {
        if !board.is_due() {
            return;
        }
        let now = snapshot();
        let overview = overview::render(&now, self.before.as_ref());
        let pages = Pages {
            made: now.at,
            overview: Answer::new(Status::Ok, "text/html; charset=utf-8", &overview),
            metrics: Answer::new(Status::Ok, metrics::CONTENT_TYPE, &metrics::render(&now)),
        };
        board.pin(pages);
        self.before = Some(now);
    }
}

#[cfg(test)]
pub(crate) mod sample {
    use super::*;
    use crate::protocol::{InvalidCount, QueueLosses, TapStatus};

    /// A router with a port of each kind, at second 100, or a second later with more traffic.
    pub fn snapshot(second: u64) -> Snapshot {
        let port = |name: &str, scale: u64| PortStatus {
            name: name.to_string(),
            device: format!("{name}-dev"),
            mode: "native, copy, 1 queue, tx ring".to_string(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            rx_packets: scale * second,
            rx_bytes: 100 * scale * second,
            tx_packets: 2 * scale * second,
            tx_bytes: 1_000_000 * scale * second,
            tap: (name == "lan0").then(|| TapStatus { is_there: true, made_again: 2, ..TapStatus::default() }),
            losses: vec![
                QueueLosses::default(),
                QueueLosses { queue: 1, ring_full: if scale == 10 { 17 } else { 0 }, ..QueueLosses::default() },
            ],
        };
        let drops = DropReason::ALL.iter().map(|r| (*r, if *r == DropReason::PolicyDrop { 7 } else { 0 })).collect();
        let work =
            Work { core: 3, received: 10, replayed: 3, sent: 6, delivered: 2, consumed: 1, originated: 4, dropped: 5 };
        Snapshot {
            at: second * 1_000_000_000,
            uptime_ms: 1000 * second,
            generation: 12,
            settled: true,
            rules: 34,
            routes: RouteCounts { ipv4: 4, ipv6: 6 },
            ports: vec![port("lan0", 1), port("wan0", 10)],
            port_counts: vec![PortCounts { refused: 9, ..PortCounts::default() }, PortCounts::default()],
            workers: vec![work],
            drops,
            flows: 56,
            max_flows: 1000,
            conntrack: ConntrackStats {
                workers: vec![vec![("insert".to_string(), 60), ("early_drop".to_string(), 2)]],
                invalid: vec![InvalidCount { reason: "tcp-window".into(), packets: 3, explanation: "Beyond.".into() }],
            },
            neighbours: [(("lan0".to_string(), "REACHABLE".to_string()), 5)].into(),
            lost_lines: 8,
            answers: [1, 0, 2, 0, 0, 0, 0],
            turned_away: 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_made_only_where_somebody_waits() {
        let (board, mut press) = (Board::new(1), Press::default());
        press.print(&board, || panic!("nobody asked"));
        assert!(!board.is_due());
    }
}
