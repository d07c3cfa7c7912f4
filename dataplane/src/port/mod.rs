//! Ports: where frames come in and go out. The engine knows only this trait.

use crate::umem::{Frame, Pool};
use std::os::fd::RawFd;

pub mod memory;

/// What the engine needs to know of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The interface's name in rules.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u16,
}

/// One worker's end of a port: its own queues, its own rings.
pub trait Port: Send {
    /// Takes up to `most` received frames, appends them to `rx`, and gives the device new empty ones from `pool`.
    fn receive(&mut self, pool: &mut Pool, rx: &mut Vec<Frame>, most: usize);

    /// Takes frames for transmission from the front of `tx`, in order. What does not fit stays in `tx`.
    fn transmit(&mut self, tx: &mut Vec<Frame>);

    /// Makes the device send all that it was given, and gives frames that are sent back to `pool`.
    fn flush(&mut self, pool: &mut Pool);

    /// Frames lent to the device now, for the census.
    fn lent(&self) -> usize;

    /// What poll(2) waits on for received frames; none for ports without a file.
    fn wait_on(&self) -> Vec<RawFd>;

    /// Whether frames given for transmission are still on their way, so that the worker must not sleep for long.
    fn is_sending(&self) -> bool;
}
