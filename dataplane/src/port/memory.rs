//! A port in memory: what tests and benches feed and read.

use super::Port;
use crate::umem::{Frame, Pool};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// Two queues of frames.
#[derive(Debug, Default)]
pub struct MemoryPort {
    /// Frames that the router will receive.
    pub incoming: VecDeque<Frame>,
    /// Frames that the router sent.
    pub outgoing: VecDeque<Frame>,
}

impl Port for MemoryPort {
    fn receive(&mut self, _: &mut Pool, rx: &mut Vec<Frame>, most: usize) {
        let n = most.min(self.incoming.len());
        rx.extend(self.incoming.drain(..n));
    }

    fn transmit(&mut self, tx: &mut Vec<Frame>) {
        self.outgoing.extend(tx.drain(..));
    }

    fn flush(&mut self, _: &mut Pool) {}

    fn lent(&self) -> usize {
        self.incoming.len() + self.outgoing.len()
    }

    fn wait_on(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn is_sending(&self) -> bool {
        false
    }
}
