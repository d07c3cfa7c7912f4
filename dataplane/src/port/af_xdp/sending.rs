//! Which way does a burst take: the tx ring of its socket, or XDP ([`super::xmit`])?
//!
//! | `tx` | a burst goes |
//! |---|---|
//! | `ring` | through the ring |
//! | `xdp` | through XDP |
//! | `auto`, a veth with one queue | through XDP from some frames on ([`worthwhile`]), through the ring below: that is quicker there |
//! | `auto`, every other device | through the ring |
//!
//! What would go through XDP takes the ring nevertheless while the device takes no XDP frames ([`super::watch`]), for
//! [`PAUSE`] after a call has failed, and when one of its frames is too long for a page or, with two tags, for the device:
//! the kernel drops those that are longer than the device's MTU, its header and one tag. Zero-copy devices have the ring only.
//!
//! Order is kept: a call leaves nothing in flight, and none is made before all frames have come back from the ring. On a
//! veth both ways end in the same queue of the peer. A hardware device has queues of its own for XDP, which it serves in turn
//! with the others: there two ways would be two orders, so `auto` takes one. With several queues the kernel chooses the
//! peer's by the CPU on the one way and by the queue on the other, so that holds there too. For the same reason the ring of
//! `tx = "xdp"` may overtake on such devices, when it has to step in.

use super::device::Device;
use super::stalled::Stalled;
use super::watch::{Watch, Watched};
use super::xmit::{Lane, fits};
use crate::umem::{Frame, Pool};
use crate::worker::now;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use sumun_config::model::{self, Transmit};

/// Frames from which on a call is cheaper than the ring, on a machine without stalled pools.
const WORTHWHILE: usize = 20;

/// So many stalled pools cost a call what a frame costs the ring more than the call.
const POOLS_OF_A_FRAME: u64 = 64;

/// Frames from which on a call is cheaper than the ring, where so many pools of pages are stalled ([`Stalled`]): the more calls
/// leave such pools behind, the fewer are made.
fn worthwhile(stalled: u64) -> usize {
    WORTHWHILE + (stalled / POOLS_OF_A_FRAME) as usize
}

/// Ethernet header and one tag: what a frame that is sent through XDP may be longer than the MTU (`xdp_ok_fwd_dev`).
const HEADER: usize = 14 + 4;

/// How long no call is made after one has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// How a port sends, for the status.
#[derive(Clone, Debug)]
pub struct Sending {
    how: Transmit,
    takes: Arc<AtomicBool>,
    stalled: Option<Arc<Stalled>>,
}

impl Sending {
    /// `Auto` where both ways are used; and whether the device takes XDP frames now.
    pub fn now(&self) -> (Transmit, bool) {
        (self.how, self.takes.load(Ordering::Relaxed))
    }
}

impl fmt::Display for Sending {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.now() {
            (Transmit::Ring, _) => "ring",
            (Transmit::Auto, true) => match worthwhile(self.stalled.as_ref().map_or(0, |stalled| stalled.pools(now())))
            {
                // Some receiver always keeps a few.
                least if least < 2 * WORTHWHILE => "ring and xdp",
                least => return write!(f, "ring and xdp, from {least} frames on while receivers keep pages"),
            },
            (Transmit::Xdp, true) => "xdp",
            (_, false) => "ring while the device takes no xdp frames",
        })
    }
}

/// What was asked for, where it can be had.
fn choose(wanted: &model::Device, device: &Device, zero_copy: bool) -> Transmit {
    match wanted.tx {
        Transmit::Xdp if zero_copy => {
            tracing::warn!("{}: tx = \"xdp\" is for devices without zero-copy: its tx ring sends", device.name);
            Transmit::Ring
        }
        Transmit::Auto if zero_copy || !device.is_veth() || device.queues != Some(1) => Transmit::Ring,
        asked => asked,
    }
}

/// The ways out of all workers while the ports are opened.
pub(super) struct Outlets {
    sending: Vec<Sending>,
    /// Longest frames that the kernel gives to each device.
    longest: Vec<usize>,
    watch: Option<Arc<Watch>>,
    /// By worker.
    lanes: Vec<Arc<Mutex<Lane>>>,
}

impl Outlets {
    /// Chooses for each port. Whatever is missing for XDP leaves the rings.
    pub(super) fn open(wanted: &[&model::Device], devices: &[Device], zero_copy: bool, workers: usize) -> Outlets {
        let sending = wanted.iter().zip(devices).map(|(wanted, device)| Sending {
            how: choose(wanted, device, zero_copy),
            takes: Arc::default(),
            stalled: None,
        });
        let longest = devices.iter().map(|device| device.mtu as usize + HEADER).collect();
        let mut outlets = Outlets { sending: sending.collect(), longest, watch: None, lanes: Vec::new() };
        if let Err(error) = outlets.equip(devices, workers) {
            outlets.give_up(&error);
        }
        for (sending, device) in outlets.sending.iter().zip(devices) {
            if sending.now() == (Transmit::Xdp, false) {
                tracing::warn!(
                    "{}: tx = \"xdp\", but the device takes no XDP frames: its tx ring sends until it does (a veth does \
                     when its peer's GRO is switched on while both are up, or an XDP program in native mode is on that)",
                    device.name
                );
            }
        }
        outlets
    }

    /// Makes what the chosen ways need.
    fn equip(&mut self, devices: &[Device], workers: usize) -> io::Result<()> {
        let chosen = || self.sending.iter().zip(devices).filter(|(sending, _)| sending.how != Transmit::Ring);
        let watched: Vec<Watched> = chosen().map(|(sending, device)| (device.index, sending.takes.clone())).collect();
        if watched.is_empty() {
            return Ok(());
        }
        // Workers beyond the number of queues hand their frames over.
        let senders = chosen().map(|(_, device)| device.queues.map_or(workers, |queues| workers.min(queues as usize)));
        let indices: Vec<u32> = devices.iter().map(|device| device.index).collect();
        let lanes = (0..senders.max().unwrap_or(0)).map(|_| Ok(Arc::new(Mutex::new(Lane::open(&indices)?))));
        self.lanes = lanes.collect::<io::Result<_>>()?;
        let mut choosing = self.sending.iter_mut().filter(|sending| sending.how == Transmit::Auto).peekable();
        if choosing.peek().is_some() {
            match Stalled::watch().map(Arc::new) {
                Ok(stalled) => {
                    choosing.for_each(|sending| sending.stalled = Some(stalled.clone()));
                }
                Err(error) => tracing::info!(
                    "the kernel does not tell of pages that receivers keep, which makes sending through XDP dear: {error}"
                ),
            }
        }
        self.watch = Some(Arc::new(Watch::start(watched)?));
        Ok(())
    }

    fn give_up(&mut self, error: &io::Error) {
        if self.sending.iter().any(|sending| sending.how == Transmit::Xdp) {
            tracing::warn!("frames cannot be sent through XDP, the tx rings send: {error}");
        } else {
            tracing::info!("frames are sent through the tx rings only: {error}");
        }
        self.sending.iter_mut().for_each(|sending| sending.how = Transmit::Ring);
    }

    /// The way of a worker past the ring of a port.
    pub(super) fn express(&self, worker: usize, port: usize) -> Option<Express> {
        if self.sending[port].how == Transmit::Ring {
            return None;
        }
        Some(Express {
            lane: self.lanes.get(worker)?.clone(),
            port: port as u32,
            least: if self.sending[port].how == Transmit::Auto { WORTHWHILE } else { 1 },
            stalled: self.sending[port].stalled.clone(),
            longest: self.longest[port],
            takes: self.sending[port].takes.clone(),
            paused: None,
            failures: 0,
            refused: 0,
            _watch: self.watch.clone()?,
        })
    }

    /// What was chosen.
    pub(super) fn sending(self) -> Vec<Sending> {
        self.sending
    }
}

/// One worker's way past the tx ring of one port.
pub(super) struct Express {
    /// The worker's, for all its ports: nobody waits for it ever.
    lane: Arc<Mutex<Lane>>,
    port: u32,
    /// Fewer frames take the ring.
    least: usize,
    /// More of them do where it tells of many.
    stalled: Option<Arc<Stalled>>,
    /// Longer ones do, too.
    longest: usize,
    takes: Arc<AtomicBool>,
    /// No call before this.
    paused: Option<Instant>,
    /// Calls that failed.
    pub(super) failures: u64,
    /// Frames that were lost because there is no such device any more.
    pub(super) refused: u64,
    _watch: Arc<Watch>,
}

impl Express {
    /// Whether these frames should not go through the ring.
    pub(super) fn suits(&mut self, frames: &[Frame]) -> bool {
        if frames.len() < self.least || !self.takes.load(Ordering::Relaxed) {
            return false;
        }
        if self.paused.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        self.paused = None;
        if let Some(stalled) = &self.stalled
            && frames.len() < worthwhile(stalled.pools(now()))
        {
            return false;
        }
        frames.iter().all(|frame| frame.len() <= self.longest && fits(frame))
    }

    /// Sends frames from the front of `frames`, and gives them back to the pool. What could not be sent stays.
    pub(super) fn send(&mut self, frames: &mut Vec<Frame>, pool: &mut Pool) {
        let sent = self.lane.lock().unwrap_or_else(PoisonError::into_inner).send(self.port, frames);
        frames.drain(..sent.frames).for_each(|frame| pool.give(frame));
        self.refused += sent.refused;
        if let Some(error) = sent.error {
            tracing::warn!("sending through XDP failed, the tx ring steps in for {PAUSE:?}: {error}");
            self.failures += 1;
            self.paused = Some(Instant::now() + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_pools_are_stalled_the_more_frames_a_call_must_have() {
        let least = [0, 63, 64, 6_400, 64_000].map(worthwhile);
        assert_eq!(least, [20, 20, 21, 120, 1_020]);
    }
}
