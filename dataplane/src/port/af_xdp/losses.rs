//! What the kernel counts of the frames of a queue that never come to the router, or never leave it.
//!
//! A [`Gauge`] asks the socket itself (XDP_STATISTICS), from whatever thread and only when somebody wants to know: it costs the
//! data path nothing. It holds no socket open: once the port is closed it has nothing to tell.

#![allow(unsafe_code, reason = "the option is a C structure")]

use crate::protocol::QueueLosses;
use nix::libc;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use sumun_config::facts::PortId;

/// Reads the losses of one queue.
#[derive(Debug)]
pub struct Gauge {
    /// The port.
    pub port: PortId,
    /// Which of its receive queues.
    pub queue: u32,
    socket: Weak<OwnedFd>,
}

impl Gauge {
    pub(super) fn new(port: PortId, queue: u32, socket: &Arc<OwnedFd>) -> Gauge {
        Gauge { port, queue, socket: Arc::downgrade(socket) }
    }

    /// What was lost since the port was opened; none once it is closed.
    pub fn read(&self) -> Option<QueueLosses> {
        let socket = self.socket.upgrade()?;
        let mut counts = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        let mut len = size_of::<libc::xdp_statistics>() as libc::socklen_t;
        // SAFETY: the pointers are to the structure of this option and to its size, and both live through the call.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut len,
            )
        };
        // Kernels before 5.9 tell the first three alone, and count a full ring among what was dropped.
        (answer == 0).then_some(QueueLosses {
            queue: self.queue,
            dropped: counts.rx_dropped,
            ring_full: counts.rx_ring_full,
            fill_empty: counts.rx_fill_ring_empty_descs,
            rx_invalid: counts.rx_invalid_descs,
            tx_invalid: counts.tx_invalid_descs,
        })
    }
}
