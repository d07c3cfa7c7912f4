//! How does a frame get to another worker, and how is a sleeping worker woken?
//!
//! Each worker has one [`Inbox`]: a bounded ring of frames that others want sent on a port of which only this worker has a
//! queue, and a [`Bell`]. A full ring is the sender's drop (`DropReason::Handover`).
//!
//! No wake-up is lost: whoever leaves work looks at `asleep` only after the work is visible, and the sleeper looks for work
//! only after `asleep` is visible. With a sequentially consistent fence between the two steps on either side at least one of them sees the other.

use crate::umem::Frame;
use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use sumun_config::facts::PortId;

/// Wakes one worker out of its sleep.
#[derive(Debug)]
pub struct Bell {
    event: EventFd,
    asleep: AtomicBool,
}

impl Bell {
    /// A bell whose worker is awake.
    pub fn new() -> io::Result<Bell> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Bell { event, asleep: AtomicBool::new(false) })
    }

    /// Makes sure that the worker looks at what was left for it before this call. Costs a system call only if it sleeps.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            // It fails only when the counter is at its end, and then the worker is woken already.
            let _ = self.event.write(1);
        }
    }

    /// Announces that the worker is about to sleep. It must look for work once more after this.
    pub fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake again.
    pub fn get_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        // It fails only when nobody has rung.
        let _ = self.event.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What other workers want a worker to send.
#[derive(Debug)]
pub struct Inbox {
    frames: ArrayQueue<(PortId, Frame)>,
    /// Wakes the worker.
    pub bell: Bell,
}

impl Inbox {
    /// An empty inbox of so many frames.
    pub fn new(capacity: usize) -> io::Result<Inbox> {
        Ok(Inbox { frames: ArrayQueue::new(capacity.max(1)), bell: Bell::new()? })
    }

    /// Leaves a frame to be sent on `port`; the frame comes back where the inbox is full. Ring the bell after the last one.
    pub fn leave(&self, port: PortId, frame: Frame) -> Result<(), Frame> {
        self.frames.push((port, frame)).map_err(|(_, frame)| frame)
    }

    /// The oldest frame.
    pub fn take(&self) -> Option<(PortId, Frame)> {
        self.frames.pop()
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}
