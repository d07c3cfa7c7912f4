//! A worker in the bench: its engine, and the packets that come to it.

use super::traffic::Traffic;
use super::workload::{LAN, WAN};
use crate::frames::{self, Template};
use anyhow::{Context, Result, bail, ensure};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use sumun_config::facts::{Family, PortId};
use sumun_dataplane::engine::{BURST, Engine};
use sumun_dataplane::umem::Frame;

/// Looks at the engine while it works.
pub trait Watch {
    /// Does the work of one burst.
    fn over(&mut self, work: impl FnOnce());
}

/// Tells how long that took.
#[derive(Default)]
pub struct Clock {
    pub spent: Duration,
}

impl Watch for Clock {
    #[inline(always)]
    fn over(&mut self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.spent += start.elapsed();
    }
}

/// Does not look.
pub struct Unwatched;

impl Watch for Unwatched {
    fn over(&mut self, work: impl FnOnce()) {
        work();
    }
}

/// Part of a round's packets, at most, with which a worker waits for others.
pub const MORE: usize = 8;

/// Nanoseconds that a burst of one worker takes by the engine's clock.
const A_BURST: u64 = 64 * 100;

/// Where workers wait for each other.
pub struct Meeting {
    start: Barrier,
    /// Those that are not through yet.
    busy: AtomicUsize,
}

impl Meeting {
    /// Of so many workers.
    pub fn new(workers: usize) -> Meeting {
        Meeting { start: Barrier::new(workers), busy: AtomicUsize::new(workers) }
    }
}

/// Lets the others end, however a worker ends.
struct Leaves<'a>(&'a Meeting);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker.
pub struct Lane {
    number: usize,
    of: usize,
    engine: Engine,
    /// Packets of flows that are known.
    pub traffic: Traffic,
    /// Where every packet opens a flow: of this family, and so many were opened.
    new: Option<(Family, u32)>,
    /// Bytes of frames, in turn, and whose turn it is.
    lengths: Vec<usize>,
    length: usize,
    rx: Vec<Frame>,
    /// The clock of all workers, in nanoseconds: flows whose packets come to several of them live by it. Bursts move it.
    clock: Arc<AtomicU64>,
}

impl Lane {
    /// Worker `number` of so many.
    pub fn new(
        number: usize,
        of: usize,
        engine: Engine,
        lengths: &[u32],
        opens: Option<Family>,
        clock: Arc<AtomicU64>,
    ) -> Lane {
        Lane {
            number,
            of,
            engine,
            traffic: Traffic::default(),
            new: opens.map(|family| (family, 0)),
            lengths: lengths.iter().map(|len| *len as usize).collect(),
            length: 0,
            rx: Vec::with_capacity(BURST),
            clock,
        }
    }

    /// Whether nothing comes to it.
    pub fn is_idle(&self) -> bool {
        self.new.is_none() && self.traffic.is_empty()
    }

    /// One packet through the engine; what comes out.
    pub fn send(&mut self, port: PortId, template: &Template) -> Result<Vec<u8>> {
        let mut frame = self.engine.pool().take().context("a free frame")?;
        ensure!(frame.set(template.bytes()), "a packet is longer than a frame");
        self.engine.process(self.clock.load(Ordering::Relaxed), port, &mut vec![frame]);
        for out in [LAN, WAN] {
            if let Some(frame) = self.engine.take_tx(out).pop() {
                let sent = frame.bytes().to_vec();
                self.engine.pool().give(frame);
                return Ok(sent);
            }
        }
        bail!("a packet of the preparation was not forwarded")
    }

    /// Housekeeping without packets.
    pub fn tick(&mut self) {
        self.engine.tick(self.clock.load(Ordering::Relaxed));
    }

    /// At least so many packets, watched, at the same time as others: who is through goes on, unwatched and not for ever, until
    /// all are. Returns how many were watched.
    pub fn round(&mut self, packets: usize, meeting: &Meeting, watch: &mut impl Watch) -> Result<usize> {
        let mut watched = 0;
        meeting.start.wait();
        let leaves = Leaves(meeting);
        while watched < packets {
            watched += self.burst(watch)?;
        }
        drop(leaves);
        let mut more = 0;
        while more < packets / MORE && meeting.busy.load(Ordering::Relaxed) > 0 {
            more += self.burst(&mut Unwatched)?;
        }
        Ok(watched)
    }

    fn burst(&mut self, watch: &mut impl Watch) -> Result<usize> {
        let Lane { engine, traffic, new, lengths, length, rx, clock, .. } = self;
        let mut write = |template: &Template| {
            let mut frame = engine.pool().take().context("a free frame")?;
            ensure!(template.write(&mut frame, lengths[*length]), "a packet is longer than a frame");
            *length = if *length + 1 == lengths.len() { 0 } else { *length + 1 };
            rx.push(frame);
            Ok(())
        };
        let port = match new {
            Some((family, opened)) => {
                for _ in 0..BURST {
                    let n = *opened * self.of as u32 + self.number as u32;
                    write(&frames::outbound(n, frames::server(*family)))?;
                    *opened += 1;
                }
                LAN
            }
            None => {
                let (port, packets) = traffic.burst();
                packets.take(BURST).try_for_each(write)?;
                port
            }
        };
        let sent = rx.len();
        let step = A_BURST / self.of as u64;
        let now = clock.fetch_add(step, Ordering::Relaxed) + step;
        watch.over(|| {
            engine.process(now, port, rx);
            engine.tick(now);
        });
        let mut came = 0;
        for out in [LAN, WAN] {
            while let Some(frame) = engine.take_tx(out).pop() {
                came += 1;
                engine.pool().give(frame);
            }
        }
        ensure!(came == sent, "{sent} packets went in, {came} came out");
        Ok(sent)
    }
}
