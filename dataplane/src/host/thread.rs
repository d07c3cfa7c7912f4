//! The host thread: between TAPs and workers.
//!
//! ```text
//!  TAP ─▶ read a super-frame ─▶ whose? ─▶ cut into frames of the own pool ─▶ ring of a worker, its bell
//!  TAP ◀─ write a super-frame ◀─ join ◀─ ring of frames to the host, the own bell
//! ```
//! One thread, not pinned. It waits in ppoll(2) and takes a bounded number of frames each way in a turn, so that neither way and no TAP
//! starves another. A TAP is read only while there is a frame of packet memory and room in the worker's ring for
//! what comes: otherwise frames wait where they are, and at last in the socket of the program that sends them. All frames of a flow go to
//! one worker, in order.
//!
//! What the kernel does not take (the TAP is down) is gone, and counted. A TAP that somebody deletes is made again.

use super::carrier::{Carrier, Switch};
use super::exchange::{Exchange, Sent};
use super::join::{Join, Run};
use super::owner::{Owner, Owners};
use super::segment::{Cut, Refused, network};
use super::tap::{Home, LONGEST, Tap};
use super::vnet::{self, Offload};
use crate::packet::parse;
use crate::packet::view::Ethernet;
use crate::umem::Pool;
use crate::worker::{Control, now};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use sumun_config::facts::{Facts, PortId};

/// Frames read from one TAP in a turn.
const READS: usize = 32;

/// Frames to TAPs in a turn.
const WRITES: usize = 1024;

/// Turns without a sleep until the state of links is looked at.
const LOOK_EVERY: u32 = 1024;

/// Longest sleep: a bound on what a lost wake-up could do, and between two looks after TAPs.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Nanoseconds between two looks at whether all TAPs are there.
const LOOK_AFTER: u64 = 500_000_000;

/// Sleep while frames wait for packet memory or a ring: nobody tells when there is some again.
const BLOCKED_SLEEP: Duration = Duration::from_micros(100);

/// Bytes of a frame before its IP packet: an Ethernet header and two tags.
const TAGGED: usize = Ethernet::LEN + 8;

/// What went over a TAP.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames from the host, after cutting.
    pub from_frames: AtomicU64,
    /// Their bytes.
    pub from_bytes: AtomicU64,
    /// What the host gave in one piece: frames and super-frames.
    pub reads: AtomicU64,
    /// Frames of the host that made no sense or were too long.
    pub refused: AtomicU64,
    /// Frames to the host, before joining.
    pub to_frames: AtomicU64,
    /// Their bytes.
    pub to_bytes: AtomicU64,
    /// What the host got in one piece.
    pub writes: AtomicU64,
    /// Frames to the host that its kernel did not take: the TAP is down, or gone.
    pub failed: AtomicU64,
    /// The TAP is there.
    pub is_there: AtomicBool,
    /// How often it was made again.
    pub made_again: AtomicU64,
}

/// What the thread works with.
pub struct Plan {
    /// The TAPs.
    pub taps: Vec<Tap>,
    /// Where they are.
    pub home: Home,
    /// Who asks for owners of sockets in the TAPs' namespace.
    pub owners: Owners,
    /// Its frames.
    pub pool: Pool,
    /// The rings.
    pub exchange: Arc<Exchange>,
    /// Wakes workers.
    pub workers: Control,
    /// The state of the ports' links, and the way to show it on the TAPs.
    pub carrier: (Carrier, Switch),
}

/// The running thread.
pub struct HostThread {
    exchange: Arc<Exchange>,
    /// By TAP: its port and what it counted.
    pub counts: Vec<(PortId, Arc<Counts>)>,
    /// The namespace of the TAPs has lost its name.
    pub is_unnamed: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<Pool>>>,
}

/// Starts the thread.
pub fn start(plan: Plan) -> io::Result<HostThread> {
    let exchange = plan.exchange.clone();
    let mut host = Host::new(plan);
    let counts = host.lanes.iter().map(|lane| (lane.tap.port, lane.counts.clone())).collect();
    let is_unnamed = host.is_unnamed.clone();
    let thread = std::thread::Builder::new().name("host".into()).spawn(move || {
        host.run();
        host.end()
    })?;
    Ok(HostThread { exchange, counts, is_unnamed, thread: Mutex::new(Some(thread)) })
}

impl HostThread {
    /// Ends the thread; its frames come back, the first time. The TAPs are gone then.
    pub fn stop(&self) -> Option<Pool> {
        self.exchange.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread?.join().inspect_err(|_| tracing::error!("the host thread panicked")).ok()
    }
}

struct Host {
    lanes: Vec<Lane>,
    /// By port: its lane.
    lane_of: Vec<Option<usize>>,
    home: Home,
    is_unnamed: Arc<AtomicBool>,
    owners: Owners,
    pool: Pool,
    exchange: Arc<Exchange>,
    workers: Control,
    carrier: (Carrier, Switch),
    hasher: RandomState,
}

/// A TAP, and what is on its way through.
struct Lane {
    tap: Tap,
    join: Join,
    buffer: Box<[u8]>,
    /// Bytes of the longest frame that may leave on its port, with its tags.
    room: usize,
    /// What was read and is not cut to the end.
    waiting: Option<Waiting>,
    counts: Arc<Counts>,
    /// Somebody has deleted the TAP: it will never give or take a frame again.
    is_gone: bool,
    /// Why it could not be made again, as it was last said.
    said: Option<String>,
}

struct Waiting {
    cut: Cut,
    len: usize,
    worker: usize,
    owner: Option<Owner>,
}

/// How a turn of a lane ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Empty,
    /// There may be more.
    Busy,
    /// No packet memory, or no room in a ring.
    Blocked,
}

impl Host {
    fn new(plan: Plan) -> Host {
        let Plan { taps, home, owners, mut pool, exchange, workers, carrier } = plan;
        let ports = taps.iter().filter_map(|tap| tap.port.index()).max().map_or(0, |last| last + 1);
        let mut lane_of = vec![None; ports];
        for (number, tap) in taps.iter().enumerate() {
            if let Some(port) = tap.port.index() {
                lane_of[port] = Some(number);
            }
        }
        let mut usual = 0;
        if let Some(frame) = pool.take() {
            usual = frame.capacity();
            pool.give(frame);
        }
        let lanes = taps.into_iter().map(|tap| Lane::new(tap, usual)).collect();
        let (is_unnamed, hasher) = (Arc::default(), RandomState::new());
        Host { lanes, lane_of, home, is_unnamed, owners, pool, exchange, workers, carrier, hasher }
    }

    fn run(&mut self) {
        let (mut turns, mut due) = (0u32, 0);
        while !self.exchange.is_stopping() {
            let now = now();
            if now >= due {
                due = now + LOOK_AFTER;
                self.look_after_taps();
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(LOOK_EVERY) {
                self.carrier.0.follow(&self.carrier.1);
            }
            let mut busy = self.deliver();
            let mut blocked = false;
            for number in 0..self.lanes.len() {
                let ended = self.collect(number, now);
                busy |= ended == Ended::Busy;
                blocked |= ended == Ended::Blocked;
            }
            if !busy {
                self.sleep(if blocked { BLOCKED_SLEEP } else { LONGEST_SLEEP });
            }
        }
    }

    /// Makes TAPs again that somebody has deleted, and tells whether their namespace can still be found.
    fn look_after_taps(&mut self) {
        let is_unnamed = self.home.has_lost_its_name();
        if self.is_unnamed.swap(is_unnamed, Ordering::Relaxed) != is_unnamed {
            let name = self.home.name().unwrap_or_default();
            match is_unnamed {
                true => tracing::error!(
                    "the name {name} is no longer that of the namespace of the TAPs: they and the programs there stay, and so do \
                     its routes; who comes by the name does not reach them until sumun-dataplane is started again"
                ),
                false => tracing::info!("the name {name} is that of the namespace of the TAPs again"),
            }
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_gone) {
            let name = &lane.tap.link.name;
            match self.home.make(&lane.tap) {
                Ok(tap) => {
                    tracing::warn!("the TAP {name} is made again");
                    self.carrier.0.renew(lane.tap.index, tap.index, &self.carrier.1);
                    (lane.tap, lane.is_gone, lane.said) = (tap, false, None);
                    lane.counts.is_there.store(true, Ordering::Relaxed);
                    lane.counts.made_again.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let why = error.to_string();
                    if lane.said.as_ref() != Some(&why) {
                        tracing::error!("the TAP {name} cannot be made again, which is tried further: {why}");
                        lane.said = Some(why);
                    }
                }
            }
        }
    }

    /// What is still on its way to the host is given up: the TAPs go now.
    fn end(mut self) -> Pool {
        while let Some((_, frame)) = self.exchange.take() {
            self.pool.give(frame);
        }
        self.pool
    }

    /// Takes what workers have for the host. Whether there was something.
    fn deliver(&mut self) -> bool {
        let mut taken = 0;
        while taken < WRITES
            && let Some((port, frame)) = self.exchange.take()
        {
            taken += 1;
            let lane = port.index().and_then(|port| self.lane_of.get(port)).copied().flatten();
            let Some(Lane { tap, join, counts, .. }) = lane.and_then(|lane| self.lanes.get_mut(lane)) else {
                // The engine sends only to ports with a TAP.
                self.pool.give(frame);
                continue;
            };
            join.push(frame, &mut |run| write(tap, run, &mut self.pool, counts));
        }
        if taken > 0 {
            for Lane { tap, join, counts, .. } in &mut self.lanes {
                join.finish(&mut |run| write(tap, run, &mut self.pool, counts));
            }
        }
        taken > 0
    }

    /// Takes what the host sends on one TAP.
    fn collect(&mut self, number: usize, now: u64) -> Ended {
        for _ in 0..READS {
            if !self.hand_over(number) {
                return Ended::Blocked;
            }
            let lane = &mut self.lanes[number];
            if lane.is_gone {
                return Ended::Empty;
            }
            let len = match lane.tap.read(&mut lane.buffer) {
                Ok(Some(len)) => len,
                Ok(None) => return Ended::Empty,
                Err(error) => {
                    lane.is_gone = true;
                    lane.counts.is_there.store(false, Ordering::Relaxed);
                    tracing::error!("the TAP {} is gone: {error}", lane.tap.link.name);
                    return Ended::Empty;
                }
            };
            lane.counts.reads.fetch_add(1, Ordering::Relaxed);
            let facts = facts(&lane.buffer[vnet::LEN.min(len)..len]);
            let owner = match &facts {
                Some(facts) if self.exchange.asks_for_owners() => self.owners.of(facts, lane.tap.index, now),
                _ => None,
            };
            let worker = self.worker(facts.as_ref(), number);
            let lane = &mut self.lanes[number];
            match cut(&mut lane.buffer[..len], lane.room) {
                Ok(cut) => lane.waiting = Some(Waiting { cut, len, worker, owner }),
                Err(why) => {
                    lane.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("a frame of {len} bytes from the TAP {} is refused: {why}", lane.tap.link.name);
                }
            }
        }
        if self.hand_over(number) { Ended::Busy } else { Ended::Blocked }
    }

    /// Gives a worker all pieces of what was read. False where there is no room for some of them now.
    fn hand_over(&mut self, number: usize) -> bool {
        let lane = &mut self.lanes[number];
        let Some(waiting) = &mut lane.waiting else { return true };
        let (mut frames, mut bytes, mut fits) = (0, 0, true);
        while !waiting.cut.is_done() {
            let has_room = self.exchange.has_room(waiting.worker);
            let frame = if has_room { self.pool.take_for(waiting.cut.next_len()) } else { None };
            let Some(mut frame) = frame else {
                fits = false;
                break;
            };
            if !waiting.cut.write(&lane.buffer[vnet::LEN..waiting.len], &mut frame) {
                // `Cut::new` has seen that all pieces fit.
                self.pool.give(frame);
                break;
            }
            frames += 1;
            bytes += frame.len() as u64;
            let sent = Sent { port: lane.tap.port, frame, owner: waiting.owner.clone() };
            if let Err(sent) = self.exchange.send(waiting.worker, sent) {
                // Only this thread fills the ring, and there was room.
                self.pool.give(sent.frame);
            }
        }
        if frames > 0 {
            self.workers.ring(waiting.worker);
            lane.counts.from_frames.fetch_add(frames, Ordering::Relaxed);
            lane.counts.from_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        if fits {
            lane.waiting = None;
        }
        fits
    }

    /// The worker that gets a packet: always the same one for all packets of a flow, and for all fragments of a packet.
    fn worker(&self, facts: Option<&Facts>, lane: usize) -> usize {
        let workers = self.exchange.workers();
        if workers < 2 {
            return 0;
        }
        let Some(facts) = facts else { return lane % workers };
        let is_fragment = facts.more_frags || facts.frag_off != 0;
        let ports = if is_fragment { (0, 0) } else { (facts.sport, facts.dport) };
        self.hasher.hash_one((facts.src, facts.dst, facts.proto, ports)) as usize % workers
    }

    fn sleep(&mut self, most: Duration) {
        let bell = self.exchange.bell();
        bell.lie_down();
        if self.exchange.has_nothing_for_host() && !self.exchange.is_stopping() {
            let mut fds = vec![PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
            let open = self.lanes.iter().filter(|lane| !lane.is_gone && lane.waiting.is_none());
            fds.push(PollFd::new(self.carrier.0.as_fd(), PollFlags::POLLIN));
            fds.extend(open.map(|lane| PollFd::new(lane.tap.as_fd(), PollFlags::POLLIN)));
            let woken = ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None);
            let news = fds[1].any() == Some(true);
            match woken {
                Ok(_) if news => self.carrier.0.follow(&self.carrier.1),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!("ppoll: {error}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        bell.get_up();
    }
}

impl Lane {
    /// `usual` are the bytes that any frame of packet memory has room for: a host that was told of a larger MTU than the port's
    /// hears by ICMP what fits.
    fn new(tap: Tap, usual: usize) -> Lane {
        Lane {
            join: Join::new(tap.kinds),
            room: usual.max(usize::from(tap.link.mtu) + TAGGED),
            tap,
            buffer: vec![0; LONGEST].into(),
            waiting: None,
            counts: Arc::new(Counts { is_there: AtomicBool::new(true), ..Counts::default() }),
            is_gone: false,
            said: None,
        }
    }
}

/// Writes a run to its TAP and gives its frames back.
fn write(tap: &Tap, run: &mut Run, pool: &mut Pool, counts: &Counts) {
    let written = tap.write(run);
    let (frames, mut bytes) = (run.frames().len() as u64, 0);
    for frame in run.frames().drain(..) {
        bytes += frame.len() as u64;
        pool.give(frame);
    }
    match written {
        Ok(()) => {
            counts.writes.fetch_add(1, Ordering::Relaxed);
            counts.to_frames.fetch_add(frames, Ordering::Relaxed);
            counts.to_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Err(_) => {
            counts.failed.fetch_add(frames, Ordering::Relaxed);
        }
    }
}

/// Reads the virtio header of what a TAP gave, and looks at the frame behind it.
fn cut(bytes: &mut [u8], room: usize) -> Result<Cut, Refused> {
    let (header, frame) = bytes.split_first_chunk_mut::<{ vnet::LEN }>().ok_or(Refused::Malformed)?;
    let offload = Offload::read(header).map_err(|_| Refused::Malformed)?;
    Cut::new(offload, frame, room)
}

/// What an IP packet says of itself.
fn facts(frame: &[u8]) -> Option<Facts> {
    let (family, l3) = network(frame)?;
    parse::ip(family, frame.get(l3..)?).ok()
}
