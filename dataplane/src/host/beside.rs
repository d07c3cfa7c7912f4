//! Everything of the host that is beside the workers, in the order in which it starts and ends.
//!
//! TAPs first, since they may be refused; then workers, which get the rings; then the thread, which wakes workers. It ends before the
//! frames are counted.

use super::carrier::{Carrier, Switch};
use super::exchange::Exchange;
use super::owner::Owners;
use super::tap::{Home, Tap};
use super::thread::{self, HostThread, Plan};
use crate::port::Link;
use crate::protocol::TapStatus;
use crate::umem::Pool;
use crate::worker::Control;
use anyhow::Context;
use nix::net::if_::if_nametoindex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sumun_config::facts::PortId;
use sumun_config::model::{Appliance, Interface, Policy};
use sumun_config::rule::Match;

/// TAPs that are there, with nobody to read them yet.
pub struct Beside {
    /// The rings.
    pub exchange: Arc<Exchange>,
    taps: Vec<Tap>,
    owners: Owners,
    switch: Switch,
    home: Home,
}

/// The host at work.
pub struct Running {
    exchange: Arc<Exchange>,
    thread: HostThread,
    namespace: Option<String>,
}

impl Beside {
    /// Makes the TAPs of an appliance; none where no port has one. `links` are those of its ports.
    pub fn open(appliance: &Appliance, links: &[Link]) -> anyhow::Result<Option<Beside>> {
        let Some(host) = &appliance.host else { return Ok(None) };
        let ports = appliance.interfaces.iter().zip(links).enumerate();
        let wanted: Vec<(PortId, &Link)> = ports
            .filter(|(_, (interface, _))| appliance.has_tap(interface))
            .map(|(number, (_, link))| (PortId(number as u16), link))
            .collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let home = Home::of(host.namespace.as_deref())?;
        let (taps, sockets) = home.open(&wanted, || std::io::Result::Ok((Owners::open()?, Switch::open()?)))?;
        let (owners, switch) = sockets.context("opening netlink sockets in the TAPs' network namespace")?;
        let exchange = Arc::new(Exchange::new(appliance.cores.len()).context("making an eventfd")?);
        Ok(Some(Beside { exchange, taps, owners, switch, home }))
    }

    /// Starts the thread. `pool` are its frames, `workers` those that it wakes.
    pub fn start(self, appliance: &Appliance, pool: Pool, workers: Control) -> anyhow::Result<Running> {
        let Beside { exchange, taps, owners, switch, home } = self;
        let namespace = home.name().map(String::from);
        let pairs = taps.iter().filter_map(|tap| {
            let device = device(appliance, appliance.interfaces.get(tap.port.index()?)?)?;
            Some((if_nametoindex(device).ok()?, tap.index, tap.link.name.clone()))
        });
        let carrier = Carrier::watch(pairs.collect()).context("listening to the state of links")?;
        let carrier = (carrier, switch);
        let plan = Plan { taps, home, owners, pool, exchange: exchange.clone(), workers, carrier };
        let thread = thread::start(plan).context("starting the host thread")?;
        Ok(Running { exchange, thread, namespace })
    }
}

impl Running {
    /// A new policy is in force.
    pub fn follow(&self, policy: &Policy) {
        self.exchange.ask_for_owners(asks_for_owners(policy));
    }

    /// The TAP of a port, where it has one.
    pub fn status(&self, port: PortId) -> Option<TapStatus> {
        let (_, counts) = self.thread.counts.iter().find(|(of, _)| *of == port)?;
        Some(TapStatus {
            namespace: self.namespace.clone(),
            from_packets: counts.from_frames.load(Ordering::Relaxed),
            from_bytes: counts.from_bytes.load(Ordering::Relaxed),
            to_packets: counts.to_frames.load(Ordering::Relaxed),
            to_bytes: counts.to_bytes.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            is_there: counts.is_there.load(Ordering::Relaxed),
            made_again: counts.made_again.load(Ordering::Relaxed),
            is_unnamed: self.thread.is_unnamed.load(Ordering::Relaxed),
        })
    }

    /// Ends the thread: the TAPs are gone, its frames come back.
    pub fn stop(&self) -> Option<Pool> {
        self.thread.stop()
    }
}

/// The device that a port's frames are on: of a VLAN its parent's.
fn device<'a>(appliance: &'a Appliance, interface: &'a Interface) -> Option<&'a str> {
    let on = match interface.vlan() {
        Some(vlan) => appliance.interfaces.get(vlan.parent.index()?)?,
        None => interface,
    };
    on.device().map(|device| device.name.as_str())
}

/// Whether a rule asks whose socket sent a packet.
fn asks_for_owners(policy: &Policy) -> bool {
    let mut chains = policy.ruleset.families.iter().flat_map(|family| &family.tables).flat_map(|table| &table.chains);
    chains.any(|chain| {
        let mut conds = chain.rules.iter().flat_map(|rule| &rule.conds);
        conds.any(|cond| matches!(cond.test, Match::Owner(_)))
    })
}
