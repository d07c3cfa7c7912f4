//! The machine of the real process: ports over AF_XDP, a worker for each core, and what control may ask of them.

use crate::conntrack::{FlowView, Side};
use crate::engine::{Engine, Router};
use crate::log::LogRing;
use crate::log::writer::Writer;
use crate::port::af_xdp::{self, Mode, Plan, Sending};
use crate::process::Machine;
use crate::protocol::{Counter, Counters, FlowRow, FlowTuple, NeighbourRow, PortStatus};
use crate::reason::DropReason;
use crate::server::Service;
use crate::worker::{self, Control, Member, Workers};
use anyhow::Context;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use sumun_config::model::{Appliance, Policy};

/// Opens the ports of an appliance and starts its workers.
pub fn start(appliance: &Appliance) -> anyhow::Result<Box<dyn Machine>> {
    let opened = af_xdp::open(Plan {
        interfaces: &appliance.interfaces,
        workers: appliance.cores.len(),
        frames_per_worker: appliance.frames_per_worker,
        frame_size: appliance.frame_size,
    })?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    // Flow hashes and local sequence numbers must not be foreseeable; `RandomState` is seeded by the kernel.
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), wall);
    let router = Router::new(appliance, opened.links, seed);
    let members = opened.workers.into_iter().zip(&appliance.cores).enumerate().map(|(number, (share, core))| {
        let mut engine = router.engine(number, share.pool);
        engine.set_wall_clock((wall.as_nanos() as u64).wrapping_sub(worker::now()));
        Member { core: *core, engine, seats: share.seats }
    });
    let workers = worker::start(members.collect(), appliance.idle)?;
    let control = workers.control();
    let service = Arc::new(Answers {
        router,
        appliance: appliance.clone(),
        modes: opened.modes,
        sending: opened.sending,
        control,
    });
    let names = appliance.interfaces.iter().map(|i| i.name.clone()).collect();
    let log = Log { writer: Writer::new(&appliance.log), names, lost: 0 };
    Ok(Box::new(Running { service, workers, log }))
}

/// A router at work.
struct Running {
    service: Arc<Answers>,
    workers: Workers<Engine>,
    log: Log,
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
        if self.service.control.is_stopping() {
            return Err("a worker has ended: see above".to_string());
        }
        Ok(())
    }

    fn stop(self: Box<Self>) {
        let Running { service, workers, mut log } = *self;
        service.control.stop();
        if let Err(error) = workers.join() {
            tracing::error!("{error}");
        }
        log.write(&service.router.log);
    }
}

/// What control is told.
struct Answers {
    router: Arc<Router>,
    appliance: Appliance,
    modes: Vec<Mode>,
    sending: Vec<Sending>,
    control: Control,
}

impl Service for Answers {
    fn appliance(&self) -> &Appliance {
        &self.appliance
    }

    fn publish(&self, policy: Policy) -> Result<u64, String> {
        let generation = self.router.publish(policy)?;
        self.control.wake();
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
        let modes = self.modes.iter().zip(&self.sending);
        let links = self.router.links.iter().zip(modes).zip(&self.appliance.interfaces);
        let rows = links.zip(self.router.port_traffic());
        rows.map(|(((link, (mode, sending)), interface), (rx, tx))| PortStatus {
            name: link.name.clone(),
            device: interface.device.clone(),
            mode: describe(mode, sending),
            mac: link.mac,
            mtu: link.mtu,
            rx_packets: rx.packets,
            rx_bytes: rx.bytes,
            tx_packets: tx.packets,
            tx_bytes: tx.bytes,
        })
        .collect()
    }

    fn flow_count(&self) -> u32 {
        self.router.conntrack.count()
    }

    fn flows(&self, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>) {
        let mut rows = Vec::new();
        let next = self.router.conntrack.list_part(from, most, worker::now(), |flow| rows.push(row(flow)));
        (rows, next)
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
    format!("{attach}, {copy}, {} {queues}, tx {sending}", mode.queues)
}

fn row(flow: &FlowView) -> FlowRow {
    let tuple = |side: &Side| FlowTuple {
        source: side.tuple.family.address(side.tuple.src),
        destination: side.tuple.family.address(side.tuple.dst),
        sport: side.tuple.sport,
        dport: side.tuple.dport,
        counter: Some(Counter { packets: side.packets, bytes: side.bytes }),
    };
    FlowRow {
        family: flow.original.tuple.family,
        proto: flow.original.tuple.proto,
        timeout: u64::from(flow.seconds_left()),
        state: flow.state.map(str::to_string),
        original: tuple(&flow.original),
        reply: tuple(&flow.reply),
        status: flow.status,
        mark: flow.mark,
    }
}
