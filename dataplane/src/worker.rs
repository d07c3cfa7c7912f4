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

use crate::handover::Inbox;
use crate::host::exchange::{Exchange, Sent};
use crate::port::{Port, PortCounts, Seat};
use crate::reason::DropReason;
use crate::umem::{Frame, Pool};
use core_affinity::CoreId;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use sumun_config::facts::PortId;
use sumun_config::model::Idle;

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

struct Worker<F> {
    number: usize,
    engine: F,
    seats: Vec<(PortId, Seat)>,
    shared: Arc<Shared>,
    rx: Vec<Frame>,
    /// What the host sent.
    sent: Vec<Sent>,
    for_host: Vec<(PortId, Frame)>,
    tx: Vec<Frame>,
    /// By port: what others handed over. Empty and without room for those that have no seat.
    handed: Vec<Vec<Frame>>,
    /// By worker: whether it was handed something this turn.
    rang: Vec<bool>,
    /// Sockets that report an error, which are not waited on: that would never sleep.
    broken: Vec<RawFd>,
    sending_sleep: u64,
}

impl<F: Forwarder> Worker<F> {
    fn new(number: usize, member: Member<F>, shared: Arc<Shared>) -> Worker<F> {
        let Member { engine, seats, .. } = member;
        let mut handed: Vec<Vec<Frame>> = (0..ports(&seats)).map(|_| Vec::new()).collect();
        for (port, _) in &seats {
            handed[usize::from(port.0)].reserve(INBOX);
        }
        Worker {
            number,
            engine,
            broken: Vec::new(),
            handed,
            rang: vec![false; shared.inboxes.len()],
            seats,
            shared,
            rx: Vec::with_capacity(BURST),
            sent: Vec::with_capacity(BURST),
            for_host: Vec::with_capacity(BURSTS * BURST),
            tx: Vec::with_capacity(BURSTS * BURST),
            sending_sleep: SENDING_SLEEP.0,
        }
    }

    fn run(&mut self, idle: Idle) {
        let mut quiet_since = None;
        let mut turns = 0u32;
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = now();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(COUNT_EVERY) {
                self.count();
            }
            if self.turn(now) {
                quiet_since = None;
                self.sending_sleep = SENDING_SLEEP.0;
                continue;
            }
            let since = *quiet_since.get_or_insert(now);
            match idle {
                Idle::Sleep { after_us } if now - since >= after_us as u64 * 1000 => self.sleep(now),
                _ => std::hint::spin_loop(),
            }
        }
        let end = now() + LAST_FRAMES;
        while now() < end && (self.turn_out() || self.is_sending()) {}
    }

    /// One turn of the loop. Whether there was anything to do.
    fn turn(&mut self, now: u64) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS {
            let mut more = false;
            for (id, seat) in &mut self.seats {
                if let Seat::Own(port) = seat {
                    port.receive(self.engine.pool(), &mut self.rx, BURST);
                    while let Some((reason, frame)) = port.lost() {
                        busy = true;
                        self.engine.refuse(*id, reason, frame);
                    }
                    more |= self.rx.len() >= BURST;
                    if !self.rx.is_empty() {
                        busy = true;
                        self.engine.process(now, *id, &mut self.rx);
                    }
                }
            }
            if !more {
                break;
            }
        }
        busy |= self.hear_host(now);
        self.engine.tick(now);
        self.turn_out() || busy
    }

    /// Takes what the host sent. Whether there was something.
    fn hear_host(&mut self, now: u64) -> bool {
        let Some(exchange) = &self.shared.host else { return false };
        let mut busy = false;
        for _ in 0..BURSTS {
            self.sent.extend((0..BURST).map_while(|_| exchange.sent(self.number)));
            let more = self.sent.len() >= BURST;
            if !self.sent.is_empty() {
                busy = true;
                self.engine.take_sent(now, &mut self.sent);
            }
            if !more {
                break;
            }
        }
        busy
    }

    /// Leaves for the host what is for it. What does not fit is dropped.
    fn tell_host(&mut self) {
        let Some(exchange) = &self.shared.host else { return };
        let Some(frames) = self.engine.to_host().filter(|frames| !frames.is_empty()) else { return };
        std::mem::swap(frames, &mut self.for_host);
        for (port, frame) in self.for_host.drain(..) {
            if let Err(frame) = exchange.leave(port, frame) {
                self.engine.dropped(DropReason::HostQueue, frame);
            }
        }
        exchange.bell().ring();
    }

    /// The sending half of a turn. Whether there was anything to send.
    fn turn_out(&mut self) -> bool {
        let mut busy = self.open_inbox();
        for (id, seat) in &mut self.seats {
            std::mem::swap(self.engine.take_tx(*id), &mut self.tx);
            busy |= !self.tx.is_empty();
            match seat {
                Seat::Own(port) => {
                    send(port.as_mut(), &mut self.engine, &mut self.handed[usize::from(id.0)]);
                    send(port.as_mut(), &mut self.engine, &mut self.tx);
                    port.flush(self.engine.pool());
                }
                Seat::Via(worker) => {
                    let inbox = &self.shared.inboxes[*worker];
                    self.rang[*worker] |= !self.tx.is_empty();
                    for frame in self.tx.drain(..) {
                        if let Err(frame) = inbox.leave(*id, frame) {
                            self.engine.dropped(DropReason::Handover, frame);
                        }
                    }
                }
            }
        }
        self.tell_host();
        if let Some(worker) = self.engine.wakes() {
            self.rang[worker] = true;
        }
        for (worker, rang) in self.rang.iter_mut().enumerate() {
            if std::mem::take(rang) {
                self.shared.inboxes[worker].bell.ring();
            }
        }
        busy
    }

    /// Sorts what others handed over by port.
    fn open_inbox(&mut self) -> bool {
        let inbox = &self.shared.inboxes[self.number];
        let mut count = 0;
        while count < 4 * BURST
            && let Some((port, frame)) = inbox.take()
        {
            count += 1;
            match port.index().and_then(|port| self.handed.get_mut(port)) {
                Some(handed) => handed.push(frame),
                None => self.engine.dropped(DropReason::Handover, frame),
            }
        }
        count > 0
    }

    fn is_sending(&self) -> bool {
        self.seats.iter().any(|(_, seat)| matches!(seat, Seat::Own(port) if port.is_sending()))
    }

    /// Sleeps until there may be something to do.
    fn sleep(&mut self, now: u64) {
        self.count();
        let mut most = LONGEST_SLEEP;
        if self.is_sending() {
            most = self.sending_sleep;
            self.sending_sleep = (2 * self.sending_sleep).min(SENDING_SLEEP.1);
        }
        let inbox = &self.shared.inboxes[self.number];
        inbox.bell.lie_down();
        // Behind the bell: what others left for the engine makes this now.
        if let Some(deadline) = self.engine.next_deadline(now) {
            most = most.min(deadline.saturating_sub(now));
        }
        let host_is_quiet = self.shared.host.as_ref().is_none_or(|exchange| exchange.has_nothing_for(self.number));
        if most > 0 && inbox.is_empty() && host_is_quiet && !self.shared.stop.load(Ordering::Acquire) {
            let before = self.broken.len();
            self.engine.rest();
            wait(inbox.bell.as_fd(), &self.seats, &mut self.broken, Duration::from_nanos(most));
            self.engine.resume();
            if self.broken.len() > before {
                tracing::error!("worker {}: an AF_XDP socket no longer works: is its device gone?", self.number);
            }
        }
        inbox.bell.get_up();
    }

    /// Publishes what the ports counted.
    fn count(&mut self) {
        for (id, seat) in &mut self.seats {
            let Seat::Own(port) = seat else { continue };
            let counts = &self.shared.counts[usize::from(id.0)];
            let mut new = PortCounts::default();
            port.count(&mut new);
            if new != PortCounts::default() {
                counts.strays.fetch_add(new.strays, Ordering::Relaxed);
                counts.failures.fetch_add(new.failures, Ordering::Relaxed);
                counts.unsendable.fetch_add(new.unsendable, Ordering::Relaxed);
                counts.refused.fetch_add(new.refused, Ordering::Relaxed);
            }
        }
    }
}

/// Places a burst in the port's ring; what does not fit after some tries is dropped. Leaves `tx` empty.
fn send<F: Forwarder>(port: &mut dyn Port, engine: &mut F, tx: &mut Vec<Frame>) {
    let mut fruitless = 0;
    while fruitless < TRIES {
        if tx.is_empty() {
            return;
        }
        let before = tx.len();
        port.transmit(tx);
        fruitless = if tx.len() < before { 0 } else { fruitless + 1 };
        if !tx.is_empty() {
            port.flush(engine.pool());
        }
    }
    for frame in tx.drain(..) {
        engine.dropped(DropReason::TxRing, frame);
    }
}

/// Waits for a frame, the bell, or the time. Adds the sockets that can never have a frame again to `broken`.
fn wait(bell: BorrowedFd, seats: &[(PortId, Seat)], broken: &mut Vec<RawFd>, most: Duration) {
    let mut fds = vec![PollFd::new(bell, PollFlags::POLLIN)];
    for (_, seat) in seats {
        let Seat::Own(port) = seat else { continue };
        let sockets = port.wait_on().into_iter().filter(|fd| !broken.contains(&fd.as_raw_fd()));
        fds.extend(sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    }
    match ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None) {
        Ok(0) | Err(Errno::EINTR) => {}
        Ok(_) => {
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
            let found = fds[1..].iter().filter(|fd| fd.revents().is_some_and(|events| events.intersects(gone)));
            broken.extend(found.map(|fd| fd.as_fd().as_raw_fd()));
        }
        Err(error) => {
            tracing::error!("ppoll: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The clock of the data path: monotonic, in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests;
