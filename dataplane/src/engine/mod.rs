//! The engine: what one worker does with packets. Pure: frames, time and chance come in, frames and numbers go out.
//!
//! | file | thought |
//! |---|---|
//! | [`order`] | which tables at which hook, as data |
//! | `pipeline` | the way of a packet, on one screen |
//! | `judge` | a packet before a chain |
//! | `targets` | what targets do to it |
//! | [`program`], `classify` | chains as flat arrays; which rules of a long one to ask |
//! | `own` | what the router says and hears itself |
//! | `host` | what the host's own stack sends and gets |
//! | `gather` | fragments on their way to a packet |
//! | `fast`, `memory` | what packets of a flow have in common is remembered |
//! | `notes` | by what a packet meets |
//! | `express` | and replayed: the short way |
//! | `asked` | where rules are asked all the same |
//! | `fate` | how packets end and frames leave |
//! | `lines` | frames in line for their ports |
//! | [`router`], [`generation`], [`running`] | what workers share; publishing without stopping |
//! | [`objects`] | the state that rules share by name |
//! | [`stats`], [`trace`] | what is counted and recorded |

use crate::conntrack::Tracker;
use crate::defrag::Defrag;
use crate::fib::is_on_no_link;
use crate::host::exchange::Sent;
use crate::icmp::RateLimit;
use crate::local::Local;
use crate::neigh::{Event, Resolver};
use crate::packet::fragment;
use crate::packet::parse::{self, NotIp};
use crate::packet::partial;
use crate::reason::DropReason;
use crate::set::View;
use crate::umem::huge::Reservation;
use crate::umem::{Frame, Pool};
use crate::worker::Forwarder;
use around::Rng;
use fast::FastPath;
use fate::Fate;
use lines::Lines;
use packet::Packet;
use place::Place;
use running::Running;
use stats::WorkerStats;
use std::collections::VecDeque;
use std::sync::Arc;
use sumun_config::facts::{Family, PortId};
use sumun_config::model::Checksums;

mod around;
mod asked;
mod classify;
#[cfg(test)]
mod classify_tests;
pub mod contexts;
mod express;
mod fast;
mod fate;
mod gather;
pub mod generation;
mod host;
mod judge;
mod lines;
mod memory;
mod notes;
pub mod objects;
pub mod order;
mod own;
pub mod packet;
mod pipeline;
mod place;
pub mod program;
mod proxy;
pub mod router;
pub mod running;
pub mod stats;
mod targets;
pub mod trace;

pub use fast::Remembered;
pub use router::Router;
pub use trace::Trace;

/// Most packets that are worked on together.
pub const BURST: usize = 64;
/// Flow entries looked at for expiry in one slice.
const SWEEP: usize = 64;
/// Packets that came in fragments and are longer than a frame, at a time.
const LARGE_FRAMES: u32 = 32;
/// Share of a worker's frames that fragments may hold.
const FRAGMENT_SHARE: usize = 4;

/// One worker's engine. Owned by its thread from start to end; everything shared is behind [`Router`].
pub struct Engine {
    router: Arc<Router>,
    worker: usize,
    running: Arc<Running>,
    /// The sets that its rules see.
    sets: Arc<View>,
    pool: Pool,
    /// Frames to send.
    lines: Lines,
    tracker: Tracker,
    fast: FastPath,
    resolver: Resolver<Packet>,
    defrag: Defrag,
    local: Local,
    icmp_limit: RateLimit,
    stats: Arc<WorkerStats>,
    rng: Rng,
    now: u64,
    wall_offset: u64,
    /// Where packets on the long way stand; not here while a burst is worked on.
    stand: Option<Box<Place>>,
    /// The MAC that was asked for last.
    told: (fate::Asked, [u8; 6]),
    /// Chains to come back to.
    returns: Vec<judge::Return>,
    /// Packets of the router's own, waiting for output.
    own: VecDeque<Packet>,
    /// Neighbour discovery messages, waiting for output.
    messages: VecDeque<Packet>,
    /// Fragments of the packet being sent.
    pieces: Vec<Frame>,
    /// What the resolver wants done.
    events: Vec<Event<Packet>>,
    /// Calls of [`Engine::tick`].
    ticks: usize,
    trace: Option<Trace>,
    /// Frames for TAPs; none where nobody serves TAPs.
    to_host: Option<Vec<(PortId, Frame)>>,
    /// Every next hop answers at once.
    assumes_neighbours: bool,
}

impl Router {
    /// Bytes that workers take together to remember the ways of flows once that is in use, by [`Family::index`].
    ///
    /// [`Family::index`]: sumun_config::facts::Family::index
    pub fn memory_of_ways(&self) -> [usize; 2] {
        FastPath::memory(self.conntrack.entries())
    }

    /// The engine of a worker, with the frames that it may use.
    pub fn engine(self: &Arc<Self>, worker: usize, mut pool: Pool) -> Engine {
        let defrag = Defrag::new(pool.made() / FRAGMENT_SHARE);
        pool.add_large(LARGE_FRAMES);
        let running = Arc::new(self.oldest());
        let seed = self.seed.wrapping_add(worker as u64);
        let mut engine = Engine {
            worker,
            pool,
            lines: Lines::new(&self.links),
            tracker: Tracker::new(self.conntrack.clone(), worker),
            fast: FastPath::new(self.conntrack.entries().div_ceil(self.stats.len())),
            resolver: Resolver::new(self.neighbours.clone(), worker),
            defrag,
            local: Local::new(seed, self.board.clone(), worker),
            icmp_limit: RateLimit::new(),
            stats: self.stats[worker].clone(),
            rng: Rng::new(seed),
            now: 0,
            wall_offset: 0,
            stand: Some(Box::new(Place::new())),
            told: (fate::Asked::NOBODY, [0; 6]),
            returns: Vec::new(),
            own: VecDeque::with_capacity(BURST),
            messages: VecDeque::with_capacity(BURST),
            pieces: Vec::with_capacity(fragment::MOST_PIECES),
            events: Vec::with_capacity(BURST),
            ticks: worker,
            trace: None,
            to_host: None,
            assumes_neighbours: false,
            router: self.clone(),
            running,
            sets: self.sets.view(),
        };
        engine.prepare();
        engine.arrive();
        engine
    }
}

impl Engine {
    /// Takes a burst that came in on a port through the router. `now` is monotonic, in nanoseconds, and never goes back.
    pub fn process(&mut self, now: u64, port: PortId, rx: &mut Vec<Frame>) {
        self.now = now;
        self.tracker.set_time(now);
        self.adopt();
        let g = self.running.clone();
        let mut stand = self.stand.take().unwrap_or_else(|| Box::new(Place::new()));
        while !rx.is_empty() {
            let n = rx.len().min(BURST);
            if self.tracker.is_overtaken() {
                self.fast.forget(now);
            }
            self.meet(&g, port, &mut rx[..n]);
            let sights = std::mem::take(&mut self.fast.sights);
            for (sight, frame) in sights.iter().zip(rx.drain(..n)) {
                self.pass(&g, sight, frame, &mut stand);
            }
            self.fast.sights = sights;
            self.fast.settle(&g.banks[self.worker], &self.stats, now);
        }
        self.stand = Some(stand);
        self.poll_local(&g);
        self.lines.settle(&self.stats);
        self.tracker.quiescent(now);
    }

    /// Ethernet and IP headers to facts; an [ordinary packet](crate::packet::glance) needs no check. Whether there is a packet
    /// now; ARP and what is malformed ends here.
    #[inline(always)]
    fn parse(&mut self, g: &Running, port: PortId, ordinary: Option<Family>, frame: Frame, stand: &mut Place) -> bool {
        let Packet { frame, facts, l3, .. } = stand.put(frame);
        let link = &self.router.links[port.0 as usize];
        let parsed = match ordinary {
            Some(family) => parse::ordinary_into(family, frame.bytes(), port, facts),
            None => parse::frame_into(frame.bytes(), port, link.mac, facts),
        };
        let other = match parsed {
            Ok(at) if !is_on_no_link(facts.family, facts.src, facts.dst) => {
                *l3 = at;
                if link.checksums == Checksums::Finish {
                    partial::finish(&mut frame.bytes_mut()[at as usize..], facts);
                }
                return true;
            }
            Ok(_) => NotIp::Drop(DropReason::Martian),
            Err(other) => other,
        };
        if let Some(frame) = stand.take_frame() {
            match other {
                NotIp::Arp { l3 } => self.arp(g, port, l3 as usize, frame),
                NotIp::Tagged => self.refuse_frame(DropReason::UnknownVlan, frame),
                NotIp::Drop(DropReason::EtherType) => self.other(port, frame),
                NotIp::Drop(reason) => self.refuse_frame(reason, frame),
            }
        }
        false
    }

    /// A frame that never becomes a packet.
    pub(super) fn refuse_frame(&mut self, reason: DropReason, frame: Frame) {
        if let Some(trace) = &mut self.trace {
            trace.end = Some(trace::End::Dropped(reason));
        }
        self.discard(reason, frame);
    }

    /// A slice of what has to be done without packets: new generations, neighbours, expiry, the local stack.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        self.adopt();
        let g = self.running.clone();
        let mut events = std::mem::take(&mut self.events);
        self.resolver.poll(now, &g.policy.sysctl, &mut |event| events.push(event));
        self.fast.atlas.move_on();
        for event in events.drain(..) {
            self.neighbour_event(&g, event);
        }
        self.events = events;
        self.give_up_fragments(&g);
        self.tracker.sweep(now, SWEEP);
        self.ticks = self.ticks.wrapping_add(1);
        g.objects.tick(self.ticks, now);
        self.poll_local(&g);
        self.lines.settle(&self.stats);
        self.tracker.quiescent(now);
    }

    fn neighbour_event(&mut self, g: &Running, event: Event<Packet>) {
        match event {
            Event::Ready { packet, mac } => self.finish(g, packet, Ok(Fate::Send { mac })),
            Event::Failed { packet } => {
                self.unreachable(g, &packet);
                self.finish(g, packet, Err(DropReason::NeighbourFailed));
            }
            Event::Solicit { port, family, target, unicast } => self.solicit(g, port, family, target, unicast),
        }
        self.settle(g);
    }

    /// Steps to the newest generation and routes, carrying this worker's counters along.
    #[inline]
    fn adopt(&mut self) {
        if self.router.generation() != self.running.number || self.router.routes_number() != self.running.fib.number() {
            self.step();
        }
        // Behind the generation: sets that its rules know are in the view by then.
        if self.router.sets.number() != self.sets.number() {
            self.sets = self.router.sets.view();
        }
    }

    #[cold]
    fn step(&mut self) {
        let before = self.running.number;
        let (generations, fib) = self.router.after(before);
        let mut generation = self.running.generation.clone();
        for next in generations {
            next.banks[self.worker].carry_from(&generation.banks[self.worker], &next.carry);
            generation = next;
        }
        self.running = Arc::new(Running { generation, fib });
        self.fast.forget(self.now);
        if self.running.number != before {
            self.prepare();
        }
        self.arrive();
    }

    /// Says what this worker runs from now on: what the router frees because of it is no longer held here.
    fn arrive(&self) {
        self.stats.generation.set(self.running.number);
        self.stats.routes.set(self.running.fib.number());
    }

    /// What follows from a generation: own addresses, room for its deepest jumps.
    fn prepare(&mut self) {
        let g = &self.running;
        let depth = g.programs.iter().map(|p| p.depth()).max().unwrap_or(0);
        // What TEE copies is judged while the rule that copies it waits.
        self.returns.reserve(2 * depth);
        self.local.configure(&g.policy.sysctl, g.policy.metrics);
        self.tracker.set_timeouts(g.timeouts.clone());
    }

    /// Frames to send on a port, in order. The worker takes them out.
    pub fn take_tx(&mut self, port: PortId) -> &mut Vec<Frame> {
        self.lines.take(port.0 as usize)
    }

    /// Free frames.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Takes back a frame that a port could not send.
    pub fn dropped(&mut self, reason: DropReason, frame: Frame) {
        self.discard(reason, frame);
    }

    /// When [`Engine::tick`] has something to do again, if nothing comes in.
    pub fn next_deadline(&self, now: u64) -> Option<u64> {
        let others = self.defrag.next_deadline().into_iter().chain(self.local.next_deadline(now));
        Some(others.fold(self.resolver.next_deadline(now), u64::min))
    }

    /// Frames held inside the engine, for the census: those that wait for a neighbour or for other fragments.
    pub fn held(&self) -> usize {
        self.resolver.held() + self.defrag.held()
    }

    /// Sets the wall clock: nanoseconds since 1970 when the monotonic clock is at zero.
    pub fn set_wall_clock(&mut self, offset: u64) {
        self.wall_offset = offset;
    }

    /// From now on records what is asked of packets; gives what was recorded since the last call.
    pub fn trace(&mut self) -> Trace {
        self.trace.replace(Trace::default()).unwrap_or_default()
    }

    /// From now on remembers no more than that of flows: the same is done, and it takes longer. For benches and tests.
    pub fn remember_only(&mut self, what: Remembered) {
        self.fast.remember_only(what, self.now);
    }

    /// What is to be done for the memory of ways to be there before a packet needs it.
    pub fn reserve(&self) -> Vec<Reservation> {
        self.fast.reserve().collect()
    }

    /// Packets so far whose flow told their way.
    pub fn replayed(&self) -> u64 {
        self.stats.replayed.get()
    }

    /// Packets so far that rules were asked about and whose flow told the rest.
    pub fn recalled(&self) -> u64 {
        self.fast.recalled
    }

    /// From now on takes every next hop to exist, with a MAC made of its address: for simulation.
    pub fn assume_neighbours(&mut self) {
        self.assumes_neighbours = true;
    }
}

impl Forwarder for Engine {
    fn process(&mut self, now: u64, port: PortId, rx: &mut Vec<Frame>) {
        Engine::process(self, now, port, rx);
    }

    fn take_sent(&mut self, now: u64, sent: &mut Vec<Sent>) {
        Engine::from_host(self, now, sent);
    }

    fn to_host(&mut self) -> Option<&mut Vec<(PortId, Frame)>> {
        Engine::take_for_host(self)
    }

    fn refuse(&mut self, port: PortId, reason: DropReason, frame: Frame) {
        self.stats.rx[port.0 as usize].count(frame.len());
        self.refuse_frame(reason, frame);
    }

    fn tick(&mut self, now: u64) {
        Engine::tick(self, now);
    }

    fn take_tx(&mut self, port: PortId) -> &mut Vec<Frame> {
        Engine::take_tx(self, port)
    }

    fn pool(&mut self) -> &mut Pool {
        Engine::pool(self)
    }

    fn dropped(&mut self, reason: DropReason, frame: Frame) {
        self.discard(reason, frame);
    }

    fn next_deadline(&self, now: u64) -> Option<u64> {
        Engine::next_deadline(self, now)
    }

    fn held(&self) -> usize {
        Engine::held(self)
    }

    fn wakes(&mut self) -> Option<usize> {
        self.local.has_left().then_some(0)
    }

    fn rest(&mut self) {
        self.tracker.offline();
    }

    fn resume(&mut self) {
        self.tracker.online();
    }
}
