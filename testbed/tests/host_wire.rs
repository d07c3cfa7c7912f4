//! Two TAPs and the host thread between them, without an engine: what one kernel sends another one gets, cut and joined on the way.

use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sumun_config::facts::PortId;
use sumun_config::model::Idle;
use sumun_dataplane::engine::Engine;
use sumun_dataplane::host::carrier::{Carrier, Switch};
use sumun_dataplane::host::exchange::Exchange;
use sumun_dataplane::host::owner::Owners;
use sumun_dataplane::host::tap::{Home, TapError};
use sumun_dataplane::host::thread::{self, Counts, HostThread, Plan};
use sumun_dataplane::port::Link;
use sumun_dataplane::umem::Pool;
use sumun_dataplane::worker;
use sumun_testbed::host::{Host, PREFIX};
use sumun_testbed::talk;

/// Two hosts with a TAP each, and what carries frames from one to the other.
struct Wire {
    a: Host,
    b: Host,
    thread: Option<HostThread>,
    stop: Arc<AtomicBool>,
    mover: Option<std::thread::JoinHandle<Pool>>,
    frames: usize,
}

const ADDRESSES: [(&str, &str); 2] = [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")];

fn link(name: &str, last: u8) -> Link {
    Link {
        name: name.into(),
        mac: [2, 0, 0, 0, 9, last],
        mtu: 1500,
        checksums: sumun_config::model::Checksums::AsTheyAre,
        trunk: None,
    }
}

impl Wire {
    fn new(name: &str) -> Result<Wire> {
        let host = |side: &str| Host::new(&format!("{}-{name}-{side}", std::process::id()));
        let (a, b) = (host("a")?, host("b")?);
        let home = Home::of(Some(a.name()))?;
        let (mut taps, switch) = home.open(&[(PortId(0), &link("wire0", 1))], Switch::open)?;
        let (more, owners) = Home::of(Some(b.name()))?.open(&[(PortId(1), &link("wire1", 2))], Owners::open)?;
        taps.extend(more);
        for (host, device, which) in [(&a, "wire0", 1), (&b, "wire1", 2)] {
            host.ip(&format!("addr add 10.9.0.{which}/24 dev {device}"))?;
            host.ip(&format!("addr add fd09::{which}/64 dev {device} nodad"))?;
        }
        let exchange = Arc::new(Exchange::new(1)?);
        let workers = worker::start::<Engine>(Vec::new(), Idle::Busy)?;
        let frames = 4096;
        let plan = Plan {
            taps,
            home,
            owners: owners?,
            pool: Pool::fresh(frames as u32, 2048),
            exchange: exchange.clone(),
            workers: workers.control(),
            carrier: (Carrier::watch(Vec::new())?, switch?),
        };
        let thread = thread::start(plan)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        // A worker that sends every frame to the other port. It gives what does not fit back to a pool of its own, to be counted.
        let mover = std::thread::spawn(move || {
            let mut lost = Pool::new(Vec::new());
            while !ended.load(Ordering::Relaxed) {
                let mut moved = false;
                for _ in 0..64 {
                    let Some(sent) = exchange.sent(0) else { break };
                    moved = true;
                    if let Err(frame) = exchange.leave(PortId(1 - sent.port.0), sent.frame) {
                        lost.give(frame);
                    }
                }
                if moved {
                    exchange.bell().ring();
                } else {
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
            lost
        });
        Ok(Wire { a, b, thread: Some(thread), stop, mover: Some(mover), frames })
    }

    fn counts(&self, port: usize) -> &Counts {
        &self.thread.as_ref().expect("it runs").counts[port].1
    }

    /// Sends that much from `a` to `b` over one connection; what comes must be what went.
    fn transfer(&self, from: &str, to: &str, len: usize) -> Result<()> {
        let to = SocketAddr::new(to.parse()?, 5001).to_string();
        let peer = talk::tcp_transfer(&self.a, &self.b, &to, &to, len)?;
        ensure!(peer == from.parse::<IpAddr>()?, "{peer}");
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.mover.take().map(|mover| mover.join().expect("no panic").free());
        let pool = self.thread.take().and_then(|thread| thread.stop());
        if let (Some(pool), Some(lost)) = (pool, lost)
            && !std::thread::panicking()
        {
            assert!(pool.free() + lost <= self.frames, "no frame is made up");
        }
    }
}

#[test]
fn streams_arrive_whole_and_in_super_frames() -> Result<()> {
    let wire = Wire::new("stream")?;
    for (a, b) in ADDRESSES {
        wire.transfer(a, b, 20 << 20)?;
    }
    let (from, to) = (wire.counts(0), wire.counts(1));
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (reads, frames) = (read(&from.reads), read(&from.from_frames));
    ensure!(frames > 10 * reads, "{frames} frames in {reads} reads: the kernel leaves cutting to us");
    let (writes, joined) = (read(&to.writes), read(&to.to_frames));
    ensure!(joined > 2 * writes, "{joined} frames in {writes} writes");
    ensure!(read(&from.refused) + read(&to.refused) + read(&to.failed) == 0);
    Ok(())
}

#[test]
fn datagrams_of_all_sizes_arrive() -> Result<()> {
    let wire = Wire::new("datagram")?;
    for (a, b) in ADDRESSES {
        let (a, b): (IpAddr, IpAddr) = (a.parse()?, b.parse()?);
        let receiver = wire.b.inside(|| Ok(UdpSocket::bind((b, 0))?))?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let sender = wire.a.inside(|| Ok(UdpSocket::bind((a, 0))?))?;
        let there: SocketAddr = receiver.local_addr()?;
        let mut buffer = vec![0; 1 << 16];
        // The longest come in fragments.
        for len in [0, 1, 18, 1000, 1452, 1472, 1473, 4000, 20_000] {
            let data: Vec<u8> = (0..len).map(|i| (i * 3) as u8).collect();
            sender.send_to(&data, there)?;
            let (n, from) = receiver.recv_from(&mut buffer).with_context(|| format!("{len} bytes to {there}"))?;
            ensure!(from == sender.local_addr()? && buffer[..n] == data, "{len} bytes to {there}: {n}");
        }
    }
    Ok(())
}

#[test]
fn taps_are_as_the_port_says_and_go_with_the_process() -> Result<()> {
    let wire = Wire::new("device")?;
    let shown = wire.a.ip("link show wire0")?;
    ensure!(shown.contains("02:00:00:00:09:01") && shown.contains("mtu 1500") && shown.contains("LOWER_UP"), "{shown}");
    let features = wire.a.run(&["ethtool", "-k", "wire0"])?;
    for feature in ["tx-checksumming: on", "tcp-segmentation-offload: on", "tx-tcp6-segmentation: on"] {
        ensure!(features.contains(feature), "{feature}: {features}");
    }
    // The name is taken now, and a namespace that is not there cannot be entered.
    let again = Home::of(Some(wire.a.name()))?.open(&[(PortId(0), &link("wire0", 1))], || ()).err();
    ensure!(matches!(again, Some(TapError::Taken { .. })), "{again:?}");
    let lost = Home::of(Some("sumun-no-such-namespace")).err();
    ensure!(matches!(lost, Some(TapError::Namespace { .. })), "{lost:?}");
    // While the TAP is down nothing is lost silently, and it works again afterwards.
    wire.b.ip("link set wire1 down")?;
    ensure!(!wire.a.pings("10.9.0.2", 1));
    ensure!(wire.counts(1).failed.load(Ordering::Relaxed) > 0);
    wire.b.ip("link set wire1 up")?;
    ensure!(wire.a.pings("10.9.0.2", 3));
    let device = wire.a.name().to_string();
    ensure!(device.starts_with(PREFIX));
    Ok(())
}
