//! All measurements of a point: everybody is set up, and then each has a turn in every round, so that a slow moment of the machine
//! hits all of them.

use super::contestants::{Arrangement, Contestant};
use super::measure::{Paced, Window, latency, median, throughput};
use super::outcome::{Delay, Other, Outcome, Settings, Throughput};
use super::rules::Work;
use super::topology::Site;
use crate::pktgen::live::Live;
use anyhow::{Context, Result};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use sumun_testbed::Router;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// What the router does.
    pub work: Work,
    /// Of the generator.
    pub flows: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}, {} flows", self.work, self.flows)
    }
}

/// An arrangement of the kernel that reaches less than this of the best one in the first round is not tried again.
const CHANCE: f64 = 0.85;

/// Flows that are opened in a second of the warm-up, at least.
const OPENED: f64 = 400_000.0;

/// A contestant on its site.
struct Entry<'a> {
    contestant: Contestant,
    site: &'a Site,
    _router: Option<Router<'a>>,
    flood: Live,
    stamped: Live,
    /// Packets a second, by arrangement and round.
    tried: Vec<(Option<Arrangement>, Vec<f64>)>,
}

impl Entry<'_> {
    fn arrange(&self, arrangement: Option<Arrangement>, window: Window) -> Result<()> {
        arrangement.map_or(Ok(()), |arrangement| arrangement.apply(&self.site.router, window.cores))
    }

    fn round(&mut self, window: Window) -> Result<()> {
        for at in 0..self.tried.len() {
            self.arrange(self.tried[at].0, window)?;
            let rate = throughput(self.site, &mut self.flood, window)
                .with_context(|| format!("measuring {}", self.contestant))?;
            self.tried[at].1.push(rate);
        }
        Ok(())
    }

    /// The best first.
    fn sort(&mut self) {
        self.tried.sort_by(|(_, a), (_, b)| median(b).total_cmp(&median(a)));
    }

    fn best(&self) -> f64 {
        self.tried.first().map_or(0.0, |(_, rates)| median(rates))
    }

    /// How it is arranged while its latency is measured: its best, and where that is the generator's core, on a core of its own
    /// as Sumun is. On the generator's core a router that stops also stops the frames that would have waited for it.
    fn arrangements(&self) -> Vec<Option<Arrangement>> {
        match self.tried.first() {
            Some((Some(Arrangement::Inline), _)) => vec![Some(Arrangement::Inline), Some(Arrangement::Rps)],
            Some((best, _)) => vec![*best],
            None => Vec::new(),
        }
    }

    fn latency(&mut self, arrangement: Option<Arrangement>, rate: f64, window: Window) -> Result<Paced> {
        self.arrange(arrangement, window)?;
        latency(self.site, &mut self.stamped, rate, window)
            .with_context(|| format!("measuring the latency of {}", self.contestant))
    }
}

/// Measures a point and adds what it came to.
pub fn measure(
    point: Point,
    here: &[Contestant],
    settings: Settings,
    with_latency: bool,
    stop: &AtomicBool,
    outcome: &mut Outcome,
) -> Result<()> {
    let Settings { rounds, seconds, cores } = settings;
    let contestants = Contestant::of(point.work).iter().filter(|contestant| here.contains(contestant));
    let sites = contestants.map(|contestant| {
        let site = Site::new(&contestant.to_string().to_lowercase()).context("building the network")?;
        anyhow::Ok((*contestant, site))
    });
    let sites: Vec<(Contestant, Site)> = sites.collect::<Result<_>>()?;
    let mut entries = Vec::new();
    for (contestant, site) in &sites {
        let router =
            contestant.start(site, point.work, cores).with_context(|| format!("setting {contestant} up: {point}"))?;
        let arrangements: Vec<Option<Arrangement>> = match contestant {
            Contestant::Sumun => vec![None],
            _ => Arrangement::ALL.map(Some).to_vec(),
        };
        entries.push(Entry {
            contestant: *contestant,
            site,
            _router: router,
            flood: site.generator(point.flows, false)?,
            stamped: site.generator(point.flows, true)?,
            tried: arrangements.into_iter().map(|arrangement| (arrangement, Vec::new())).collect(),
        });
    }
    let warm_up = Duration::from_secs_f64(0.1 + f64::from(point.flows) / OPENED);
    let window = Window { warm_up, lasts: Duration::from_secs_f64(seconds), cores, stop };
    let mut others: Vec<Vec<Other>> = entries.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        entries.iter_mut().try_for_each(|entry| entry.round(window))?;
        if round > 0 {
            continue;
        }
        for (entry, others) in entries.iter_mut().zip(&mut others) {
            entry.sort();
            let least = entry.best() * CHANCE;
            let chance = entry.tried.partition_point(|(_, rates)| median(rates) >= least).max(1);
            others.extend(entry.tried.drain(chance..).map(Other::of));
        }
    }
    entries.iter_mut().for_each(Entry::sort);
    let sumun = entries.iter().find(|entry| entry.contestant == Contestant::Sumun).map_or(0.0, Entry::best);
    for (entry, mut others) in entries.iter().zip(others) {
        others.extend(entry.tried[1..].iter().cloned().map(Other::of));
        let (arrangement, rates) = &entry.tried[0];
        let mpps: Vec<f64> = rates.iter().map(|rate| rate / 1e6).collect();
        let is_peer = entry.contestant != Contestant::Sumun;
        outcome.throughput.push(Throughput {
            work: point.work,
            flows: point.flows,
            contestant: entry.contestant,
            arrangement: *arrangement,
            mpps: median(&mpps),
            sumun_is: is_peer.then(|| sumun / entry.best().max(1.0)),
            rounds: mpps,
            others,
        });
    }
    if with_latency {
        latencies(point, &mut entries, rounds, window, outcome)?;
    }
    Ok(())
}

/// Every contestant at half of what it takes, and Sumun at the same rate, in turns.
fn latencies(point: Point, entries: &mut [Entry], rounds: usize, window: Window, outcome: &mut Outcome) -> Result<()> {
    let sumun = entries.iter().position(|entry| entry.contestant == Contestant::Sumun);
    for at in 0..entries.len() {
        let rate = entries[at].best() / 2.0;
        if rate < 1.0 {
            continue;
        }
        let mut who: Vec<(usize, Option<Arrangement>)> =
            entries[at].arrangements().into_iter().map(|arrangement| (at, arrangement)).collect();
        who.extend(sumun.filter(|sumun| *sumun != at).map(|sumun| (sumun, None)));
        let mut paced: Vec<Vec<Paced>> = who.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for ((entry, arrangement), paced) in who.iter().zip(&mut paced) {
                paced.push(entries[*entry].latency(*arrangement, rate, window)?);
            }
        }
        for ((entry, arrangement), paced) in who.iter().zip(paced) {
            let of = |part: fn(&Paced) -> f64| median(&paced.iter().map(part).collect::<Vec<_>>());
            outcome.latency.push(Delay {
                work: point.work,
                flows: point.flows,
                half_of: entries[at].contestant,
                contestant: entries[*entry].contestant,
                arrangement: *arrangement,
                mpps: rate / 1e6,
                p50_us: of(|paced| paced.latency.p50 / 1e3),
                p99_us: of(|paced| paced.latency.p99 / 1e3),
                p999_us: of(|paced| paced.latency.p999 / 1e3),
                lost: of(|paced| paced.lost),
            });
        }
    }
    Ok(())
}
