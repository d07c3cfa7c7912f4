//! Flows and packets as control is told of them: rows, and the events that workers leave for who listens.

use crate::conntrack::{FlowEvent, FlowView, Happened, Side};
use crate::engine::Router;
use crate::engine::contexts::Contexts;
use crate::log::{self, PacketEvent};
use crate::protocol::{Counter, EventKind, EventRow, FlowRow, FlowTuple, PacketRow};
use crate::server::events::Hub;
use crate::worker;
use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// One moment on two clocks.
pub(super) struct Clock {
    /// Nanoseconds of the workers' clock.
    pub mono: u64,
    /// Nanoseconds since 1970.
    wall: u64,
}

impl Clock {
    pub fn now() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { mono: worker::now(), wall: wall.as_nanos() as u64 }
    }

    /// When something was, since 1970.
    fn wall(&self, mono: u64) -> u64 {
        self.wall.saturating_sub(self.mono.saturating_sub(mono))
    }
}

/// What happened to flows, on its way from the workers to who listens.
pub(super) struct Telling {
    pub hub: Arc<Hub<EventRow>>,
    pub taken: Vec<FlowEvent>,
    pub lost: u64,
}

impl Telling {
    /// Hands on what happened since the last time.
    pub fn tell(&mut self, router: &Router) {
        let conntrack = &router.conntrack;
        let kinds = match router.current().policy.sysctl.nf_conntrack_events {
            0 => 0,
            _ => self.hub.kinds(),
        };
        if !conntrack.listen(kinds) {
            return;
        }
        conntrack.take_events(&mut self.taken);
        let lost = conntrack.lost_events();
        if self.taken.is_empty() && lost == self.lost {
            return;
        }
        let clock = Clock::now();
        let events: Vec<EventRow> =
            self.taken.drain(..).map(|event| event_row(&event, &router.contexts, &clock)).collect();
        self.hub.publish(&events, lost - self.lost);
        self.lost = lost;
    }
}

/// Packets of NFLOG, on their way from the workers to who listens.
pub(super) struct Handing {
    pub hub: Arc<Hub<PacketRow>>,
    pub lost: u64,
}

impl Handing {
    /// Hands on what came since the last time.
    pub fn hand_on(&mut self, router: &Router, names: &[String]) {
        let ring = &router.packets;
        ring.listen(self.hub.kinds() != 0);
        let lost = ring.lost();
        if !ring.is_wanted() && lost == self.lost {
            return;
        }
        let packets: Vec<PacketRow> = ring.take().map(|event| packet_row(&event, &router.contexts, names)).collect();
        if !packets.is_empty() || lost != self.lost {
            self.hub.publish(&packets, lost - self.lost);
            self.lost = lost;
        }
    }
}

fn packet_row(event: &PacketEvent, contexts: &Contexts, names: &[String]) -> PacketRow {
    let prefix = event.line.prefix_text();
    let mut line = log::line(&event.line, names)[prefix.len()..].to_string();
    // Writing to a String cannot fail.
    if event.priority != 0 {
        let _ = write!(line, "PRIO={:x}:{:x} ", event.priority >> 16, event.priority & 0xffff);
    }
    if let Some(context) = contexts.name(event.context) {
        let _ = write!(line, "SECCTX={context} ");
    }
    PacketRow {
        at: event.line.wall,
        group: event.group,
        hook: event.hook.name().to_string(),
        prefix,
        line: line.trim_end().to_string(),
        len: event.line.packet_len(),
        bytes: event.bytes().to_vec(),
    }
}

fn event_row(event: &FlowEvent, contexts: &Contexts, clock: &Clock) -> EventRow {
    let mut flow = row(&event.flow, contexts, clock);
    let what = match event.what {
        Happened::New => EventKind::New,
        Happened::Update => EventKind::Update,
        Happened::Destroy => {
            flow.stop = flow.start.map(|_| clock.wall);
            EventKind::Destroy
        }
    };
    EventRow { what, changes: event.changes, at: clock.wall, flow }
}

/// An address as the engine has it.
pub(super) fn engine_address(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

pub(super) fn row(flow: &FlowView, contexts: &Contexts, clock: &Clock) -> FlowRow {
    let counted = flow.original.packets | flow.reply.packets != 0;
    let tuple = |side: &Side| FlowTuple {
        source: side.tuple.family.address(side.tuple.src),
        destination: side.tuple.family.address(side.tuple.dst),
        sport: side.tuple.sport,
        dport: side.tuple.dport,
        zone: side.tuple.zone,
        counter: counted.then_some(Counter { packets: side.packets, bytes: side.bytes }),
    };
    FlowRow {
        id: flow.id,
        family: flow.original.tuple.family,
        proto: flow.original.tuple.proto,
        timeout: u64::from(flow.seconds_left()),
        state: flow.state.map(Cow::Borrowed),
        original: tuple(&flow.original),
        reply: tuple(&flow.reply),
        status: flow.status,
        mark: flow.mark,
        secctx: contexts.name(flow.secmark).map(|context| context.to_string()),
        labels: u128::from(flow.labels[0]) | u128::from(flow.labels[1]) << 64,
        helper: flow.helper.map(|helper| Cow::Borrowed(helper.name())),
        start: (flow.start != 0).then(|| clock.wall(flow.start)),
        stop: None,
    }
}
