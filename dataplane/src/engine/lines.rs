//! Frames in line for their ports, and how many and how long they are: counted once a burst.

use super::BURST;
use super::stats::WorkerStats;
use crate::port::Link;
use crate::umem::Frame;
use sumun_config::facts::PortId;
use sumun_config::model::Vlan;

/// The lines of a worker, by port.
pub(super) struct Lines {
    lines: Box<[Line]>,
    /// Those with something to count.
    busy: Vec<PortId>,
}

struct Line {
    /// None for a VLAN: its frames are in line for its parent.
    frames: Vec<Frame>,
    /// Since they were counted last.
    packets: u64,
    bytes: u64,
    vlan: Option<Vlan>,
}

impl Lines {
    /// Empty ones.
    pub fn new(links: &[Link]) -> Lines {
        let line = |link: &Link| {
            let frames = Vec::with_capacity(if link.trunk.is_none() { 4 * BURST } else { 0 });
            Line { frames, packets: 0, bytes: 0, vlan: link.trunk }
        };
        Lines { lines: links.iter().map(line).collect(), busy: Vec::with_capacity(links.len()) }
    }

    /// Counts a whole Ethernet frame that is to be put in line.
    #[inline]
    pub fn count(&mut self, port: usize, frame: &Frame) {
        let line = &mut self.lines[port];
        if line.packets == 0 {
            self.busy.push(PortId(port as u16));
        }
        line.packets += 1;
        line.bytes += frame.len() as u64;
    }

    /// Raises the counters of what came in line since the last time.
    #[inline]
    pub fn settle(&mut self, stats: &WorkerStats) {
        for port in self.busy.drain(..) {
            let line = &mut self.lines[port.0 as usize];
            stats.tx[port.0 as usize].add(line.packets, line.bytes);
            (line.packets, line.bytes) = (0, 0);
        }
    }

    /// The frames in line for a port.
    ///
    /// # Errors
    /// It is a VLAN: its frames are tagged, and then in line for its parent.
    #[inline(always)]
    pub fn of(&mut self, port: usize) -> Result<&mut Vec<Frame>, Vlan> {
        let line = &mut self.lines[port];
        match line.vlan {
            None => Ok(&mut line.frames),
            Some(vlan) => Err(vlan),
        }
    }

    /// All that there is in line for a port. For a VLAN that is nothing.
    #[inline]
    pub fn take(&mut self, port: usize) -> &mut Vec<Frame> {
        &mut self.lines[port].frames
    }

    /// Whether there is such a port.
    #[inline]
    pub fn has(&self, port: usize) -> bool {
        port < self.lines.len()
    }
}
