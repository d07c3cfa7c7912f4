//! The machine of the real process: ports over AF_XDP, a worker for each core, and what control may ask of them.

mod snapshot;
mod telling;

use crate::conntrack::{ExpectationView, FlowView, Stats, Tuple};
use crate::engine::objects::timer::Timer;
use crate::engine::{Engine, Router};
use crate::host::{self, beside::Beside};
use crate::keep::{self, Heart, Opened};
use crate::kernel::{self, Mirror, Place};
use crate::log::LogRing;
use crate::log::writer::Writer;
use crate::page::Press;
use crate::port::af_xdp::{self, Gauge, Mode, Plan, Sending};
use crate::process::Machine;
use crate::protocol::AccountRow;
use crate::protocol::{ConntrackStats, Counters, EventRow, FlowFilter, FlowKey, FlowRow, FlowTuple};
use crate::protocol::{
    ExpectationRow, InvalidCount, MirrorStatus, NeighbourRow, ObjectRequest, PacketRow, PortStatus, RouteCounts,
    RoutesAnswer, RoutesRequest, SetAnswer, SetRequest, TimerRow,
};
use crate::reason::DropReason;
use crate::server::Service;
use crate::server::events::{Hub, Subscription, WAITING, WAITING_PACKETS};
use crate::umem::huge::Reservation;
use crate::worker::{self, Control, Member, Workers};
use anyhow::Context;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use sumun_config::facts::{Dir, Family, PortId};
use sumun_config::model::{Appliance, Interface, Kind, Policy, Vlan};
use telling::{Clock, Handing, Telling, engine_address, row};

/// Opens the ports of an appliance and starts its workers.
pub fn start(appliance: &Appliance) -> anyhow::Result<Box<dyn Machine>> {
    let ports = appliance.interfaces.iter().enumerate();
    let all_frames = ports.filter(|(_, interface)| appliance.gives_all_frames(interface));
    let all_frames: Vec<PortId> = all_frames.map(|(number, _)| PortId(number as u16)).collect();
    let opened = af_xdp::open(Plan {
        interfaces: &appliance.interfaces,
        all_frames: &all_frames,
        workers: appliance.cores.len(),
        beside: appliance.host.iter().count(),
        frames_per_worker: appliance.frames_per_worker,
        frame_size: appliance.frame_size,
    })?;
    let beside = Beside::open(appliance, &opened.links)?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    // Flow hashes and local sequence numbers must not be foreseeable; `RandomState` is seeded by the kernel.
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), wall);
    let Opened { conntrack, heart, adopted, lost, mortal, large } = keep::open(appliance, seed, worker::now());
    if let Some(why) = lost {
        tracing::warn!("no flows are taken over: {}: {why}", appliance.run_dir.join(keep::FILE).display());
    }
    if let Some(why) = mortal {
        tracing::warn!("flows will not live on when this process ends: {why}");
    }
    let large = large.map_or(String::new(), |bytes| format!(", {} MB of it in large pages", bytes >> 20));
    tracing::info!("{} MB for {} flows{large}; {adopted}", conntrack.memory().div_ceil(1 << 20), conntrack.max_flows());
    let router = Router::with(conntrack, appliance, opened.links, seed);
    let [v4, v6] = router.memory_of_ways().map(|bytes| bytes.div_ceil(1 << 20));
    tracing::info!("{v4} MB for the ways of flows over IPv4 and {v6} MB over IPv6");
    let exchange = beside.as_ref().map(|beside| beside.exchange.clone());
    let mut reservations = Vec::new();
    let members = opened.workers.into_iter().zip(&appliance.cores).enumerate().map(|(number, (share, core))| {
        let mut engine = router.engine(number, share.pool);
        reservations.extend(engine.reserve());
        engine.set_wall_clock((wall.as_nanos() as u64).wrapping_sub(worker::now()));
        if exchange.is_some() {
            engine.attach_host();
        }
        Member { core: *core, engine, seats: share.seats }
    });
    let members = members.collect();
    // Before the first frame: a worker that takes a page keeps frames waiting, on some machines for milliseconds.
    reservations.into_iter().for_each(Reservation::run);
    let workers = worker::start_beside(exchange, members, appliance.idle)?;
    if let Err(error) = worker::stand_aside(&appliance.cores) {
        tracing::warn!("the other threads of this process may run on the workers' cores: {error}");
    }
    let control = workers.control();
    let host = match (beside, opened.beside.into_iter().next()) {
        (Some(beside), Some(pool)) => match beside.start(appliance, pool, control.clone()) {
            Ok(host) => Some(host),
            Err(error) => {
                control.stop();
                return Err(error);
            }
        },
        _ => None,
    };
    let mirror = follow(appliance, &router, &control);
    let (hub, packet_hub) = (Hub::new(WAITING), Hub::new(WAITING_PACKETS));
    let service = Arc::new(Answers {
        router,
        appliance: appliance.clone(),
        devices: opened.ports.into_iter().zip(opened.modes).zip(opened.sending).collect(),
        gauges: opened.gauges,
        control,
        host,
        adopted: adopted.flows,
        started: worker::now(),
        mirror,
        hub: hub.clone(),
        packet_hub: packet_hub.clone(),
    });
    let names = appliance.interfaces.iter().map(|i| i.name.clone()).collect();
    let log = Log { writer: Writer::new(&appliance.log), names, lost: 0 };
    let telling = Telling { hub, taken: Vec::new(), lost: 0 };
    let handing = Handing { hub: packet_hub, lost: 0 };
    Ok(Box::new(Running { service, workers, log, heart, telling, handing, press: Press::default() }))
}

/// Follows links, and the kernel's routes where they count. Without that the router still forwards.
fn follow(appliance: &Appliance, router: &Arc<Router>, control: &Control) -> Option<Mirror> {
    let device = |interface: &Interface| {
        let parent = interface.vlan().and_then(|vlan| appliance.interfaces.get(vlan.parent.index()?));
        interface.device().or_else(|| parent?.device()).map(|device| device.name.clone())
    };
    let place = |host: &sumun_config::model::Host| host.namespace.clone().map_or(Place::Own, Place::Named);
    let control = control.clone();
    let plan = kernel::Plan {
        router: router.clone(),
        wake: Box::new(move || control.wake()),
        devices: appliance.interfaces.iter().map(device).collect(),
        host: appliance.host.as_ref().map(place),
    };
    kernel::start(plan).inspect_err(|error| tracing::error!("links are not followed: {error}")).ok()
}

/// A router at work.
struct Running {
    service: Arc<Answers>,
    workers: Workers<Engine>,
    log: Log,
    heart: Heart,
    telling: Telling,
    handing: Handing,
    press: Press,
}

/// Where LOG lines go.
struct Log {
    writer: Writer,
    names: Vec<String>,
    lost: u64,
}

/// Lines written in one round, so that a flood of them delays nothing else.
const LINES: usize = 4096;

impl Log {
    fn write(&mut self, ring: &LogRing) {
        for event in (0..LINES).map_while(|_| ring.pop()) {
            self.writer.write(&event, &self.names);
        }
        self.writer.flush();
        let lost = ring.lost() + self.writer.lost();
        if lost > self.lost {
            tracing::warn!("{} log lines were lost: more came than could be written", lost - self.lost);
            self.lost = lost;
        }
    }
}

impl Machine for Running {
    fn service(&self) -> Arc<dyn Service> {
        self.service.clone()
    }

    fn housekeep(&mut self) -> Result<(), String> {
        self.log.write(&self.service.router.log);
        self.service.router.settle();
        self.service.tell_timers();
        self.heart.beat(worker::now());
        self.telling.tell(&self.service.router);
        self.handing.hand_on(&self.service.router, &self.log.names);
        let (service, lost) = (&self.service, self.log.lost);
        self.press.print(&service.router.board, || service.snapshot(lost));
        if self.service.control.is_stopping() {
            return Err("a worker has ended: see above".to_string());
        }
        Ok(())
    }

    fn stop(self: Box<Self>) {
        let Running { service, workers, mut log, heart, .. } = *self;
        service.control.stop();
        let pool = service.host.as_ref().and_then(host::beside::Running::stop);
        if let Err(error) = workers.join_beside(pool.as_ref()) {
            tracing::error!("{error}");
        }
        log.write(&service.router.log);
        heart.beat(worker::now());
    }
}

/// What control is told.
struct Answers {
    router: Arc<Router>,
    appliance: Appliance,
    /// The ports that have a device, and how each runs and sends.
    devices: Vec<((PortId, Mode), Sending)>,
    gauges: Vec<Gauge>,
    control: Control,
    /// The host's own stack, where it takes part.
    host: Option<host::beside::Running>,
    /// Flows that were taken over at the start.
    adopted: u32,
    /// When all was open.
    started: u64,
    mirror: Option<Mirror>,
    hub: Arc<Hub<EventRow>>,
    packet_hub: Arc<Hub<PacketRow>>,
}

impl Answers {
    fn row(&self, flow: &FlowView, clock: &Clock) -> FlowRow {
        row(flow, &self.router.contexts, clock)
    }

    /// The device that a port's frames are on, and how it runs or which of them are the port's.
    fn place(&self, port: PortId, interface: &Interface) -> (String, String) {
        match &interface.kind {
            Kind::Device(device) => {
                let found = self.devices.iter().find(|((of, _), _)| *of == port);
                let mode = found.map(|((_, mode), sending)| describe(mode, sending));
                (device.name.clone(), mode.unwrap_or_default())
            }
            Kind::Vlan(Vlan { parent, tags }) => {
                let parent = parent.index().and_then(|index| self.appliance.interfaces.get(index));
                let (name, device) = parent.map_or(("", None), |parent| (parent.name.as_str(), parent.device()));
                (device.map_or(String::new(), |device| device.name.clone()), format!("VLAN {tags} of {name}"))
            }
        }
    }
}

impl Service for Answers {
    fn appliance(&self) -> &Appliance {
        &self.appliance
    }

    fn publish(&self, policy: Policy) -> Result<u64, String> {
        let generation = self.router.publish(policy)?;
        if let Some(host) = &self.host {
            host.follow(&self.router.current().policy);
        }
        self.control.wake();
        self.mirror.iter().for_each(Mirror::nudge);
        Ok(generation)
    }

    fn generation(&self) -> u64 {
        self.router.generation()
    }

    fn is_settled(&self) -> bool {
        self.router.is_settled()
    }

    fn counters(&self) -> Counters {
        self.router.counters()
    }

    fn zero(&self) {
        self.router.zero();
        self.control.wake();
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        self.router.drops()
    }

    fn ports(&self) -> Vec<PortStatus> {
        let links = self.router.links.iter().zip(&self.appliance.interfaces);
        let rows = links.zip(self.router.port_traffic()).enumerate();
        rows.map(|(number, ((link, interface), (rx, tx)))| {
            let (device, mode) = self.place(PortId(number as u16), interface);
            PortStatus {
                name: link.name.clone(),
                device,
                mode,
                mac: link.mac,
                mtu: link.mtu,
                rx_packets: rx.packets,
                rx_bytes: rx.bytes,
                tx_packets: tx.packets,
                tx_bytes: tx.bytes,
                tap: self.host.as_ref().and_then(|host| host.status(PortId(number as u16))),
                losses: self
                    .gauges
                    .iter()
                    .filter(|gauge| gauge.port.0 == number as u16)
                    .filter_map(Gauge::read)
                    .collect(),
            }
        })
        .collect()
    }

    fn flow_count(&self) -> u32 {
        self.router.conntrack.count()
    }

    fn route_counts(&self) -> RouteCounts {
        let fib = self.router.fib();
        let of = |family| fib.routes_of(family) as u64;
        RouteCounts { ipv4: of(Family::V4), ipv6: of(Family::V6) }
    }

    fn mirror(&self) -> Option<MirrorStatus> {
        let state = self.mirror.as_ref()?.state();
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        state.is_mirrored.then(|| MirrorStatus {
            synchronised: state.is_synchronised,
            synchronisations: state.synchronisations,
            took_ms: state.took.as_millis() as u64,
            last_change_ms: state.last_change.map(since),
            left_out: state.left_out.iter().map(|(reason, count)| (reason.text().to_string(), *count)).collect(),
            refused: state.refused,
            failure: state.failure,
        })
    }

    fn adopted_flows(&self) -> u32 {
        self.adopted
    }

    fn flow_memory(&self) -> u64 {
        self.router.conntrack.memory() as u64
    }

    fn flows(&self, filter: &FlowFilter, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>) {
        let (mut rows, clock) = (Vec::new(), Clock::now());
        let next = self.router.conntrack.list_part(from, most, clock.mono, |flow| {
            rows.extend(Some(self.row(flow, &clock)).filter(|row| filter.takes(row)));
        });
        (rows, next)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRow> {
        let tuple = Tuple {
            src: engine_address(key.tuple.source),
            dst: engine_address(key.tuple.destination),
            sport: key.tuple.sport,
            dport: key.tuple.dport,
            proto: key.proto,
            family: key.family,
            zone: key.tuple.zone,
        };
        let (dir, clock) = (if key.reply { Dir::Reply } else { Dir::Original }, Clock::now());
        self.router.conntrack.get(&tuple, dir, clock.mono).map(|flow| self.row(&flow, &clock))
    }

    fn delete_flows(&self, filter: &FlowFilter, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>) {
        let (mut rows, clock) = (Vec::new(), Clock::now());
        let conntrack = &self.router.conntrack;
        let takes = |flow: &FlowView| filter.takes(&self.row(flow, &clock));
        let next = conntrack.delete_part(from, most, clock.mono, takes, |flow| rows.push(self.row(flow, &clock)));
        (rows, next)
    }

    fn flush_flows(&self) -> u64 {
        self.router.conntrack.flush(worker::now()) as u64
    }

    fn subscribe(&self, filter: FlowFilter, kinds: u8) -> Result<Subscription<EventRow>, String> {
        if self.router.current().policy.sysctl.nf_conntrack_events == 0 {
            return Err("nf_conntrack_events is 0: nobody is told of what happens to flows".to_string());
        }
        let subscription = self.hub.subscribe_flows(filter, kinds)?;
        self.router.conntrack.listen(self.hub.kinds());
        Ok(subscription)
    }

    fn subscribe_packets(&self, group: Option<u16>) -> Result<Subscription<PacketRow>, String> {
        let subscription = self.packet_hub.subscribe_group(group)?;
        self.router.packets.listen(true);
        Ok(subscription)
    }

    fn expectations(&self) -> Vec<ExpectationRow> {
        let tuple = |tuple: &Tuple| FlowTuple {
            source: tuple.family.address(tuple.src),
            destination: tuple.family.address(tuple.dst),
            sport: tuple.sport,
            dport: tuple.dport,
            zone: tuple.zone,
            counter: None,
        };
        let row = |there: &ExpectationView| ExpectationRow {
            line: there.to_string(),
            family: there.tuple.family,
            proto: there.tuple.proto,
            timeout: u64::from(there.left / 1000),
            tuple: tuple(&there.tuple),
            mask: there.tuple.family.address(there.mask.src),
            master: tuple(&there.master),
            helper: there.helper.name().to_string(),
        };
        self.router.conntrack.expectations(worker::now()).iter().map(row).collect()
    }

    fn accounts(&self) -> Vec<AccountRow> {
        self.router.accounts()
    }

    fn conntrack_stats(&self) -> ConntrackStats {
        let conntrack = &self.router.conntrack;
        let names = |stats: Stats| stats.each().map(|(name, value)| (name.to_string(), value)).collect();
        let invalid = conntrack.invalid().map(|(why, packets)| InvalidCount {
            reason: why.name().to_string(),
            packets,
            explanation: why.explain().trim().to_string(),
        });
        ConntrackStats {
            workers: conntrack.stats_of_workers().into_iter().map(names).collect(),
            invalid: invalid.collect(),
        }
    }

    fn routes(&self, request: RoutesRequest) -> Result<RoutesAnswer, String> {
        crate::fib::told::answer(&self.router, request)
    }

    fn sets(&self, request: SetRequest) -> Result<SetAnswer, String> {
        let answer = self.router.answer_sets(request, worker::now());
        self.control.wake();
        answer
    }

    fn object(&self, ask: &ObjectRequest) -> Result<Vec<String>, String> {
        self.router.current().objects.answer(ask, worker::now())
    }

    fn timers(&self) -> Vec<TimerRow> {
        let (generation, now) = (self.router.current(), worker::now());
        let row = |(label, timer): (&str, &Timer)| TimerRow {
            label: label.to_string(),
            left: timer.left(now),
            alarm: timer.is_alarm(),
        };
        generation.objects.timers().map(row).collect()
    }

    fn neighbours(&self) -> Vec<NeighbourRow> {
        let name = |port: usize| self.router.links.get(port).map_or_else(String::new, |link| link.name.clone());
        let rows = self.router.neighbours.list(worker::now()).into_iter();
        rows.map(|n| NeighbourRow {
            port: n.port.index().map_or_else(String::new, name),
            address: n.family.address(n.addr),
            mac: n.mac,
            state: n.state.name().to_string(),
        })
        .collect()
    }
}

fn describe(mode: &Mode, sending: &Sending) -> String {
    let attach = if mode.native { "native" } else { "generic" };
    let copy = if mode.zero_copy { "zero-copy" } else { "copy" };
    let queues = if mode.queues == 1 { "queue" } else { "queues" };
    let jumbo = if mode.jumbo { ", jumbo" } else { "" };
    format!("{attach}, {copy}{jumbo}, {} {queues}, tx {sending}", mode.queues)
}
