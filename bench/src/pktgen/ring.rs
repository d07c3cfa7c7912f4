//! Sending through an AF_XDP ring: frames are made here and leave through the tx ring of the device's first queue, by the port
//! that the router has.

use super::frame::{Traffic, Writer};
use super::pace::{Sender, Sent};
use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use sumun_config::model::{Attach, CopyMode, Interface, Kind, LocalStack, Transmit};
use sumun_dataplane::port::af_xdp::{Plan, open};
use sumun_dataplane::port::{Port, Seat};
use sumun_dataplane::umem::{Frame, Pool};

/// Frames that are made before the kernel is woken.
const BURST: u32 = 64;

/// Times in a row that the kernel may send nothing.
const FRUITLESS: u32 = 100_000;

/// A generator on one device. The device's IP frames come here meanwhile and go nowhere.
pub struct Ring {
    port: Box<dyn Port>,
    pool: Pool,
    writer: Writer,
    sent: Sent,
    burst: Vec<Frame>,
    bytes: Vec<u8>,
    /// Frames that came in.
    came: Vec<Frame>,
}

impl Ring {
    /// Binds a socket to a device of the caller's network namespace.
    pub fn open(device: &str, traffic: &Traffic) -> Result<Ring> {
        let kind = Kind::Device(sumun_config::model::Device {
            name: device.into(),
            attach: Attach::Auto,
            copy: CopyMode::Auto,
            ring: 1024,
            tx: Transmit::Ring,
            checksums: None,
        });
        let interfaces = [Interface { name: device.into(), kind, mtu: None, local: LocalStack::Smoltcp }];
        let longest = traffic.lengths.iter().max().copied().unwrap_or(0);
        let frame_size = if longest > 1500 + 14 { 4096 } else { 2048 };
        let plan = Plan {
            interfaces: &interfaces,
            all_frames: &[],
            workers: 1,
            beside: 0,
            frames_per_worker: 8192,
            frame_size,
        };
        let share = open(plan)?.workers.pop().context("no share of the frames")?;
        let Some((_, Seat::Own(port))) = share.seats.into_iter().next() else { bail!("{device}: no queue to send on") };
        Ok(Ring {
            port,
            pool: share.pool,
            writer: Writer::new(traffic),
            sent: Sent::default(),
            burst: Vec::new(),
            bytes: Vec::new(),
            came: Vec::new(),
        })
    }
}

impl Sender for Ring {
    fn slowest_pace(&self) -> f64 {
        f64::INFINITY
    }

    fn pace(&mut self, _: Option<f64>) -> Result<()> {
        Ok(())
    }

    fn send(&mut self, count: u32) -> Result<()> {
        let mut left = count;
        let mut fruitless = 0;
        while left > 0 || !self.burst.is_empty() {
            while left > 0 && (self.burst.len() as u32) < BURST.min(count) {
                let Some(mut frame) = self.pool.take() else { break };
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
                self.writer.write(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64, &mut self.bytes);
                ensure!(frame.set(&self.bytes), "a frame of {} bytes does not fit the packet memory", self.bytes.len());
                self.burst.push(frame);
                left -= 1;
            }
            let before = self.burst.len();
            let bytes: u64 = self.burst.iter().map(|frame| frame.len() as u64).sum();
            self.port.transmit(&mut self.burst);
            self.port.flush(&mut self.pool);
            let taken = before - self.burst.len();
            self.sent.frames += taken as u64;
            self.sent.bytes += bytes - self.burst.iter().map(|frame| frame.len() as u64).sum::<u64>();
            fruitless = if taken > 0 { 0 } else { fruitless + 1 };
            ensure!(fruitless < FRUITLESS, "the device's tx ring does not get empty");
            self.port.receive(&mut self.pool, &mut self.came, BURST as usize);
            self.came.drain(..).for_each(|frame| self.pool.give(frame));
        }
        Ok(())
    }

    fn sent(&self) -> Result<Sent> {
        Ok(self.sent)
    }
}
