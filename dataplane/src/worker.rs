//! The poll loop: one thread on each configured core moves bursts between ports and engine.
//!
//! ```text
//! turn:  rx bursts of each port, frames of the host → process → tick → inbox → tx of each port (or hand over) → flush → host
//! ```
//! Below this loop the engine neither waits nor calls the system; here is the only place that sleeps. A worker that has had
//! nothing to do for a while sleeps in ppoll(2) on its sockets and its bell, so an idle router uses no core; it wakes for a
//! frame, for what another worker hands over, for a new generation, for the shutdown, and when the engine's next deadline
//! has come.
//!
//! A worker that panics takes all others down with it: a router that is half there would be worse than one that its
//! supervisor starts anew.

mod turns;

use crate::handover::Inbox;
use crate::host::exchange::{Exchange, Sent};
use crate::port::{PortCounts, Seat};
use crate::reason::DropReason;
use crate::umem::{Frame, Pool};
use core_affinity::CoreId;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use sumun_config::facts::PortId;
use sumun_config::model::Idle;
use turns::Worker;

/// Frames taken from a port at once.
pub const BURST: usize = 64;

/// Frames that wait to be handed to one worker.
pub const INBOX: usize = 1024;

/// Most bursts taken from a port in one turn: while a port has more, what a turn sends grows to what devices take best.
const BURSTS: usize = 4;

/// Tries to place frames in a tx ring, without one being taken, before they are dropped. Each try wakes the kernel until it
/// does not get on.
const TRIES: usize = 4;

/// Longest sleep. Nothing needs it: a bound on what a lost wake-up could do.
const LONGEST_SLEEP: u64 = 1_000_000_000;

/// First and longest sleep while frames are on their way out, whose completion wakes nobody.
const SENDING_SLEEP: (u64, u64) = (50_000, 100_000_000);

/// Turns between two looks at what the ports counted.
const COUNT_EVERY: u32 = 1024;

/// How long the last frames may take to leave at the end.
const LAST_FRAMES: u64 = 100_000_000;

/// What the loop needs of an engine.
pub trait Forwarder: Send {
    /// Takes a burst that came in on `port`; leaves `rx` empty.
    fn process(&mut self, now: u64, port: PortId, rx: &mut Vec<Frame>);

    /// Takes frames that the host sent on the TAPs of ports; leaves `sent` empty.
    fn take_sent(&mut self, _now: u64, sent: &mut Vec<Sent>) {
        for sent in sent.drain(..) {
            self.dropped(DropReason::HostQueue, sent.frame);
        }
    }

    /// Frames for the TAPs of ports, in order; none where the engine has no host beside it.
    fn to_host(&mut self) -> Option<&mut Vec<(PortId, Frame)>> {
        None
    }

    /// Counts a frame that ended while `port` received it, and gives it back to the pool.
    fn refuse(&mut self, port: PortId, reason: DropReason, frame: Frame);

    /// A bounded slice of housekeeping, once a turn.
    fn tick(&mut self, now: u64);

    /// Frames to send on `port`, in order.
    fn take_tx(&mut self, port: PortId) -> &mut Vec<Frame>;

    /// The worker's free frames.
    fn pool(&mut self) -> &mut Pool;

    /// Counts a frame that could not be sent, and gives it back to the pool.
    fn dropped(&mut self, reason: DropReason, frame: Frame);

    /// When `tick` has something to do next, in nanoseconds of the clock that `now` is of.
    fn next_deadline(&self, now: u64) -> Option<u64>;

    /// Frames that the engine keeps from turn to turn (packets that wait for a neighbour), for the census.
    fn held(&self) -> usize;

    /// A worker that shall look at what was left for it elsewhere than in its inbox.
    fn wakes(&mut self) -> Option<usize> {
        None
    }

    /// The worker is about to sleep: it holds nothing that others wait for.
    fn rest(&mut self);

    /// The worker is back from sleep.
    fn resume(&mut self);
}

/// A worker to be.
pub struct Member<F> {
    /// The core that its thread is pinned to.
    pub core: usize,
    /// Its engine.
    pub engine: F,
    /// Its way to each port that has a device.
    pub seats: Vec<(PortId, Seat)>,
}

/// Where all frames were when the workers had stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// Frames that the pools were dealt.
    pub made: usize,
    /// In the pools.
    pub free: usize,
    /// Lent to devices.
    pub lent: usize,
    /// In engines and inboxes.
    pub held: usize,
}

impl Census {
    /// Whether every frame was found, once.
    pub fn is_complete(&self) -> bool {
        self.made == self.free + self.lent + self.held
    }
}

/// Why workers did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The thread may not run there.
    #[error(
        "worker {worker} cannot be pinned to core {core}: the core is missing, offline or not allowed to this process"
    )]
    Core {
        /// Number of the worker.
        worker: usize,
        /// The core.
        core: usize,
    },
    /// The system refused a thread or an eventfd.
    #[error("starting worker {worker}: {source}")]
    System {
        /// Number of the worker.
        worker: usize,
        /// Its answer.
        source: io::Error,
    },
    /// A bug.
    #[error("worker {worker} on core {core} panicked, so all workers were stopped: {message}")]
    Panicked {
        /// Number of the worker.
        worker: usize,
        /// Its core.
        core: usize,
        /// What it said.
        message: String,
    },
}

/// What all workers share.
struct Shared {
    stop: AtomicBool,
    inboxes: Vec<Inbox>,
    /// By port.
    counts: Vec<Counts>,
    /// The way to the host thread, where there is one.
    host: Option<Arc<Exchange>>,
}

#[derive(Default)]
struct Counts {
    strays: AtomicU64,
    failures: AtomicU64,
    unsendable: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring_all();
    }

    fn ring_all(&self) {
        for inbox in &self.inboxes {
            inbox.bell.ring();
        }
    }
}

/// The running threads.
pub struct Workers<F> {
    shared: Arc<Shared>,
    /// Each with its core.
    threads: Vec<(usize, Thread<F>)>,
}

/// A thread returns its worker, or the words of its panic.
type Thread<F> = JoinHandle<Result<Worker<F>, String>>;

/// Wakes and stops workers from anywhere.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    /// Makes every sleeping worker take a turn: there is a new generation.
    pub fn wake(&self) {
        self.0.ring_all();
    }

    /// Makes one worker look at what was left for it before this call.
    pub fn ring(&self, worker: usize) {
        if let Some(inbox) = self.0.inboxes.get(worker) {
            inbox.bell.ring();
        }
    }

    /// Tells all workers to end.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Whether the workers were told to end, or one of them panicked.
    pub fn is_stopping(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    /// What the ports counted so far, by port.
    pub fn port_counts(&self) -> Vec<PortCounts> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.0
            .counts
            .iter()
            .map(|counts| PortCounts {
                strays: read(&counts.strays),
                failures: read(&counts.failures),
                unsendable: read(&counts.unsendable),
                refused: read(&counts.refused),
            })
            .collect()
    }
}

/// Starts one thread for each member. Returns when all run on their cores.
pub fn start<F: Forwarder + 'static>(members: Vec<Member<F>>, idle: Idle) -> Result<Workers<F>, WorkerError> {
    start_beside(None, members, idle)
}

/// The same beside a host thread: they exchange frames.
pub fn start_beside<F: Forwarder + 'static>(
    host: Option<Arc<Exchange>>,
    members: Vec<Member<F>>,
    idle: Idle,
) -> Result<Workers<F>, WorkerError> {
    let ports = members.iter().map(|member| ports(&member.seats)).max().unwrap_or(0);
    // Asking for a core beyond the kernel's set would be a panic in core_affinity.
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    if let Some((worker, member)) = members.iter().enumerate().find(|(_, m)| !usable.contains(&CoreId { id: m.core })) {
        return Err(WorkerError::Core { worker, core: member.core });
    }
    let mut inboxes = Vec::new();
    for worker in 0..members.len() {
        inboxes.push(Inbox::new(INBOX).map_err(|source| WorkerError::System { worker, source })?);
    }
    let counts = (0..ports).map(|_| Counts::default()).collect();
    let shared = Arc::new(Shared { stop: AtomicBool::new(false), inboxes, counts, host });
    let mut workers = Workers { shared: shared.clone(), threads: Vec::new() };
    let (ready, started) = mpsc::channel();
    for (number, member) in members.into_iter().enumerate() {
        let core = member.core;
        let (own, ready) = (shared.clone(), ready.clone());
        let spawned = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let mut worker = Worker::new(number, member, own.clone());
            let pinned = core_affinity::set_for_current(CoreId { id: core });
            // Nobody listens any more when another worker could not start; then `stop` is set already.
            let _ = ready.send((number, core, pinned));
            drop(ready);
            let ran = catch_unwind(AssertUnwindSafe(|| worker.run(idle)));
            ran.map(|()| worker).map_err(|panic| {
                own.stop();
                said(panic)
            })
        });
        match spawned {
            Ok(thread) => workers.threads.push((core, thread)),
            Err(source) => {
                workers.abandon();
                return Err(WorkerError::System { worker: number, source });
            }
        }
    }
    drop(ready);
    for (worker, core, pinned) in started {
        if !pinned {
            workers.abandon();
            return Err(WorkerError::Core { worker, core });
        }
    }
    Ok(workers)
}

/// Keeps the calling thread, and those that it starts from now on, off the workers' cores: what control, the log or the kernel's
/// routes cost now and then would be a pause for a worker's packets. Where there are no other cores all stays as it is.
pub fn stand_aside(cores: &[usize]) -> io::Result<()> {
    let this = Pid::from_raw(0);
    let mut others = sched_getaffinity(this)?;
    for core in cores.iter().copied().filter(|core| *core < CpuSet::count()) {
        others.unset(core)?;
    }
    if (0..CpuSet::count()).any(|core| others.is_set(core) == Ok(true)) {
        sched_setaffinity(this, &others)?;
    }
    Ok(())
}

/// The words of a panic.
fn said(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "no message".into(), |words| words.to_string()),
    }
}

impl<F: Forwarder + 'static> Workers<F> {
    /// Ends those that run already, because not all could be started.
    fn abandon(self) {
        self.shared.stop();
        for (_, thread) in self.threads {
            // What it has to say does not matter any more.
            let _ = thread.join();
        }
    }

    /// Wakes and stops the workers from elsewhere.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// Waits until all workers have ended, which they do when told to stop, and counts the frames. The devices are detached
    /// when this returns. A frame that is missing is logged as an error.
    pub fn join(self) -> Result<(Census, Vec<F>), WorkerError> {
        self.join_beside(None)
    }

    /// The same where there was a host thread, which has ended before: `host` is its pool.
    pub fn join_beside(self, host: Option<&Pool>) -> Result<(Census, Vec<F>), WorkerError> {
        let mut ended = Vec::new();
        let mut panicked = None;
        for (worker, (core, thread)) in self.threads.into_iter().enumerate() {
            match thread.join().unwrap_or_else(|panic| Err(said(panic))) {
                Ok(worker) => ended.push(worker),
                Err(message) => {
                    panicked.get_or_insert(WorkerError::Panicked { worker, core, message });
                }
            }
        }
        if let Some(panicked) = panicked {
            return Err(panicked);
        }
        let mut census = Census { made: 0, free: 0, lent: 0, held: 0 };
        if let Some(pool) = host {
            census.made += pool.made();
            census.free += pool.free();
        }
        if let Some(exchange) = &self.shared.host {
            census.held += exchange.held();
        }
        for worker in &mut ended {
            worker.count();
            census.made += worker.engine.pool().made();
            census.free += worker.engine.pool().free();
            census.held += worker.engine.held() + worker.handed.iter().map(Vec::len).sum::<usize>();
            census.held += worker.engine.to_host().map_or(0, |frames| frames.len());
            for (port, seat) in &worker.seats {
                census.held += worker.engine.take_tx(*port).len();
                census.lent += if let Seat::Own(port) = seat { port.lent() } else { 0 };
            }
        }
        census.held += self.shared.inboxes.iter().map(Inbox::len).sum::<usize>();
        if !census.is_complete() {
            tracing::error!("frames were lost or counted twice: {census:?}");
        }
        for (port, counts) in Control(self.shared).port_counts().into_iter().enumerate() {
            if counts.strays > 0 {
                tracing::error!("port {port}: the device gave back {} frames that it was not lent", counts.strays);
            }
        }
        Ok((census, ended.into_iter().map(|worker| worker.engine).collect()))
    }
}

/// Numbers that ports with these seats have: their vectors' length.
fn ports(seats: &[(PortId, Seat)]) -> usize {
    seats.iter().map(|(port, _)| usize::from(port.0) + 1).max().unwrap_or(0)
}

/// The clock of the data path: monotonic, in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests;
