//! Between the host thread and the workers: bounded rings of frames.
//!
//! Each worker has a ring of what the host sends, which only the host thread fills; all workers share the ring of what goes to the
//! host. A full ring to the host is the worker's drop (`DropReason::HostQueue`); a full ring to a worker keeps the host
//! thread from reading more.

use super::owner::Owner;
use crate::handover::Bell;
use crate::umem::Frame;
use crossbeam_queue::ArrayQueue;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use sumun_config::facts::PortId;

/// Frames that wait for one worker, and for the host.
pub const RING: usize = 1024;

/// A frame that the host sent on a TAP.
#[derive(Debug)]
pub struct Sent {
    /// The port of the TAP.
    pub port: PortId,
    /// As a wire could carry it.
    pub frame: Frame,
    /// Whose socket sent it: only where that is asked for, and known.
    pub owner: Option<Owner>,
}

/// The rings.
#[derive(Debug)]
pub struct Exchange {
    to_workers: Vec<ArrayQueue<Sent>>,
    to_host: ArrayQueue<(PortId, Frame)>,
    bell: Bell,
    asks_for_owners: AtomicBool,
    stop: AtomicBool,
}

impl Exchange {
    /// Empty rings for so many workers.
    pub fn new(workers: usize) -> io::Result<Exchange> {
        Ok(Exchange {
            to_workers: (0..workers).map(|_| ArrayQueue::new(RING)).collect(),
            to_host: ArrayQueue::new(RING),
            bell: Bell::new()?,
            asks_for_owners: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    /// Workers that there are.
    pub fn workers(&self) -> usize {
        self.to_workers.len()
    }

    /// Whether a worker's ring takes another frame.
    pub fn has_room(&self, worker: usize) -> bool {
        self.to_workers.get(worker).is_some_and(|ring| !ring.is_full())
    }

    /// Gives a worker a frame of the host; it comes back where there is no room. Ring the worker's bell after the last one.
    pub fn send(&self, worker: usize, sent: Sent) -> Result<(), Sent> {
        match self.to_workers.get(worker) {
            Some(ring) => ring.push(sent),
            None => Err(sent),
        }
    }

    /// The oldest frame that the host sent to a worker.
    pub fn sent(&self, worker: usize) -> Option<Sent> {
        self.to_workers.get(worker)?.pop()
    }

    /// Whether nothing waits for a worker.
    pub fn has_nothing_for(&self, worker: usize) -> bool {
        self.to_workers.get(worker).is_none_or(ArrayQueue::is_empty)
    }

    /// Leaves a frame for the TAP of a port; it comes back where the ring is full. Ring the bell after the last one.
    pub fn leave(&self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.to_host.push((port, frame)).map_err(|(_, frame)| frame)
    }

    /// The oldest frame for the host.
    pub fn take(&self) -> Option<(PortId, Frame)> {
        self.to_host.pop()
    }

    /// Whether nothing waits for the host.
    pub fn has_nothing_for_host(&self) -> bool {
        self.to_host.is_empty()
    }

    /// Frames in all rings.
    pub fn held(&self) -> usize {
        self.to_host.len() + self.to_workers.iter().map(ArrayQueue::len).sum::<usize>()
    }

    /// Wakes the host thread.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Whether rules ask whose packets are.
    pub fn asks_for_owners(&self) -> bool {
        self.asks_for_owners.load(Ordering::Relaxed)
    }

    /// Says whether the rules in force ask whose packets are.
    pub fn ask_for_owners(&self, asks: bool) {
        self.asks_for_owners.store(asks, Ordering::Relaxed);
    }

    /// Ends the host thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Whether it was told to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
