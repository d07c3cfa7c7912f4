//! A workload under way: its router, its workers, and their rounds.

use super::lane::{Clock, Lane, MORE, Meeting, Unwatched, Watch};
use super::meter::{Counts, Meter};
use super::report::Figure;
use super::traffic::{self, Spread};
use super::workload::{LAN, Packets, WAN, Workload, links};
use crate::frames;
use anyhow::{Context, Result, anyhow};
use core_affinity::CoreId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::facts::Family;
use sumun_dataplane::engine::{BURST, Remembered, Router};
use sumun_dataplane::umem::{Pool, Region};

/// Frames of each worker.
const FRAMES: u32 = 4096;
/// How often a packet has come by until its way is known: its place is marked, what it meets is noted, and once more where its
/// answer has moved its flow on.
const SEEN: usize = 3;

/// How a workload is run.
#[derive(Clone)]
pub struct Settings {
    pub family: Family,
    /// Of known flows; each packet opens one where the workload says so.
    pub flows: u32,
    /// Of each worker in a round.
    pub packets: usize,
    pub workers: usize,
    pub spread: Spread,
    /// Bytes of frames without the link's checksum, in turn.
    pub lengths: Vec<u32>,
    /// Rules judge every packet.
    pub judges_all: bool,
}

/// A workload that is being measured.
pub struct Bench {
    name: &'static str,
    settings: Settings,
    packets: Packets,
    lanes: Vec<Lane>,
    /// Of the engines, in nanoseconds.
    clock: Arc<AtomicU64>,
    /// Nanoseconds a packet of each worker, of each round.
    rounds: Vec<Vec<Option<f64>>>,
    counts: Counts,
}

impl Bench {
    /// Builds the router and opens the flows.
    pub fn new(workload: &Workload, settings: &Settings) -> Result<Bench> {
        let Settings { family, workers, .. } = *settings;
        // Room enough that the table is not swept for want of it.
        let most = match workload.packets {
            Packets::New => (workers * (settings.packets + settings.packets / MORE + 2 * BURST)) as u32,
            _ => settings.flows,
        };
        let config = workload.config(family, (most + most / 4).max(1 << 16), workers)?;
        let router: Arc<Router> = Router::new(&config.appliance, links(), 1);
        let pools = Pool::deal(Region::cut(FRAMES * workers as u32, 2048), workers);
        let opens = (workload.packets == Packets::New).then_some(family);
        let clock = Arc::new(AtomicU64::new(1_000_000_000));
        let lane = |(number, pool)| {
            let mut engine = router.engine(number, pool);
            if settings.judges_all || workload.judges_all {
                engine.remember_only(Remembered::Ways);
            }
            Lane::new(number, workers, engine, &settings.lengths, opens, clock.clone())
        };
        let lanes: Vec<Lane> = pools.into_iter().enumerate().map(lane).collect();
        router.publish(config.policy).map_err(anyhow::Error::msg)?;
        let mut bench = Bench {
            name: workload.name,
            settings: settings.clone(),
            packets: workload.packets,
            lanes,
            clock,
            rounds: Vec::new(),
            counts: Counts::default(),
        };
        bench.lanes.iter_mut().for_each(Lane::tick);
        if opens.is_none() {
            bench.open(workload).with_context(|| workload.name)?;
        }
        Ok(bench)
    }

    /// Opens every flow, and answers it where both ways are measured, before anything is.
    fn open(&mut self, workload: &Workload) -> Result<()> {
        let Settings { family, flows, workers, spread, .. } = self.settings;
        for n in 0..flows {
            let packet = frames::outbound(n, workload.destination(family, n));
            let lane = traffic::worker(&packet, workers);
            let sent = self.lanes[lane].send(LAN, &packet)?;
            self.lanes[lane].traffic.add(LAN, packet);
            if self.packets == Packets::BothWays {
                let answer = frames::answer(&sent).context("a packet to answer")?;
                let lane = if spread == Spread::Rss { traffic::worker(&answer, workers) } else { lane };
                self.lanes[lane].send(WAN, &answer)?;
                self.lanes[lane].traffic.add(WAN, answer);
            }
        }
        self.lanes.iter_mut().for_each(|lane| lane.traffic.shuffle());
        Ok(())
    }

    /// A round of all workers at the same time, each on a core of its own from `core` on. What watched each, and how many
    /// packets it saw; none of workers without packets.
    pub fn round<W: Watch + Send>(
        &mut self,
        core: Option<usize>,
        watch: impl Fn() -> Result<W> + Sync,
    ) -> Result<Vec<Option<(W, usize)>>> {
        let packets = self.settings.packets;
        let meeting = Meeting::new(self.lanes.iter().filter(|lane| !lane.is_idle()).count());
        let run = |lane: &mut Lane, number: usize| {
            if let Some(core) = core {
                core_affinity::set_for_current(CoreId { id: core + number });
            }
            // The others wait at the meeting in any case.
            let mut watch = watch();
            let seen = match &mut watch {
                Ok(watch) => lane.round(packets, &meeting, watch)?,
                Err(_) => lane.round(0, &meeting, &mut Unwatched)?,
            };
            Ok((watch?, seen))
        };
        let (run, name) = (&run, self.name);
        let outcome = std::thread::scope(|scope| {
            let lanes = self.lanes.iter_mut().enumerate();
            let start = lanes.map(|(number, lane)| match lane.is_idle() {
                true => None,
                false => Some(scope.spawn(move || run(lane, number))),
            });
            let threads: Vec<_> = start.collect();
            let end = |thread: std::thread::ScopedJoinHandle<Result<_>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked"))).with_context(|| name)
            };
            threads.into_iter().map(|thread| thread.map(end).transpose()).collect()
        });
        self.settle();
        outcome
    }

    /// Flows of this round are gone before the next one where each opens its own.
    fn settle(&mut self) {
        if self.packets == Packets::New {
            self.clock.fetch_add(1_000_000_000_000, Ordering::Relaxed);
            for _ in 0..self.settings.packets / BURST * 4 {
                self.lanes.iter_mut().for_each(Lane::tick);
            }
        }
    }

    /// Rounds that do not count: every packet comes by until the way of its like is known.
    pub fn warm_up(&mut self, core: usize) -> Result<()> {
        let cycle = self.lanes.iter().map(|lane| lane.traffic.cycle()).max().unwrap_or(0);
        let rounds = (SEEN * cycle).div_ceil(self.settings.packets).max(1);
        (0..rounds).try_for_each(|_| self.round(Some(core), || Ok(Unwatched)).map(drop))
    }

    /// A round that is timed.
    pub fn time(&mut self, core: usize) -> Result<()> {
        let nanoseconds = |(clock, seen): (Clock, usize)| clock.spent.as_nanos() as f64 / seen as f64;
        let watched = self.round(Some(core), || Ok(Clock::default()))?;
        self.rounds.push(watched.into_iter().map(|lane| lane.map(nanoseconds)).collect());
        Ok(())
    }

    /// A round in which the processor counts.
    pub fn count(&mut self, core: usize) -> Result<()> {
        let watched = self.round(Some(core), Meter::open)?;
        let counts: Vec<Counts> =
            watched.into_iter().flatten().map(|(meter, seen)| meter.counts(seen)).collect::<Result<_>>()?;
        self.counts = Counts::mean(&counts);
        Ok(())
    }

    /// What came of it.
    pub fn figure(&self) -> Figure {
        let flows = match self.packets {
            Packets::New => (self.settings.packets * self.settings.workers) as u32,
            _ => self.settings.flows,
        };
        Figure::new(self.name, flows, &self.settings, &self.rounds, self.counts)
    }
}
