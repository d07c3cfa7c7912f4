//! Sending through BPF_PROG_TEST_RUN with live frames: bpf/pktgen.bpf.c makes every frame in the kernel, on this core, and the
//! device takes them through `ndo_xdp_xmit`. On a veth several times faster than an AF_XDP ring.

use super::frame::{DPORT, SPORT, Traffic};
use super::pace::{Sender, Sent};
use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle, ObjectBuilder};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use sumun_dataplane::port::af_xdp::live::{self, Aligned, Parked};
use sumun_dataplane::port::af_xdp::{Device, survey};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pktgen.bpf.o")));

/// NETDEV_XDP_ACT_NDO_XMIT of linux/netdev.h.
pub const TAKES_FRAMES: u64 = 4;

/// Frames that leave together where there is no pause between them.
const BATCH: u32 = 64;

/// A batch takes about as long as this with a pause between frames.
const BATCH_NS: f64 = 10_000.0;

/// As in bpf/pktgen.bpf.c.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Shape {
    head: [u8; 64],
    ip_sum: u32,
    udp_sum: u32,
    source: u32,
    sport: u16,
    dport: u16,
}

/// As in bpf/pktgen.bpf.c.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Plan {
    shapes: [Shape; 2],
    lengths: [u32; 12],
    length_count: u32,
    flows: u32,
    stride: u32,
    family: [u32; 2],
    clock: u32,
    batch: u32,
    pause: u32,
}

/// As in bpf/pktgen.bpf.c.
#[repr(C)]
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout)]
struct State {
    sent: u64,
    bytes: u64,
    failed: u64,
    due: u64,
    flow: u32,
    round: u32,
    length: u32,
    in_batch: u32,
}

/// A generator on one device.
pub struct Live {
    program: OwnedFd,
    plans: MapHandle,
    states: MapHandle,
    plan: Plan,
    /// What pages are at first: the shortest frame, in zeros.
    page: Vec<u8>,
    _parked: Parked,
}

impl Live {
    /// Loads the program for a device of the caller's network namespace.
    pub fn open(device: &Device, traffic: &Traffic) -> Result<Live> {
        let name = &device.name;
        let features = survey(name).map_or(0, |survey| survey.features);
        ensure!(
            features == 0 || features & TAKES_FRAMES != 0,
            "{name}: the device takes no XDP frames. A veth does when its peer has NAPI: switch that one's GRO on while both are up \
             (`ethtool -K PEER gro on`; where it was on, off first), or attach an XDP program to it. Or use --method ring"
        );
        let loading = || format!("{name}: loading the generator's XDP program (this needs root and Linux 5.18)");
        let object = ObjectBuilder::default().open_memory(&OBJECT.0).and_then(libbpf_rs::OpenObject::load);
        let object = object.with_context(loading)?;
        let map = |name: &str| {
            let map = object.maps().find(|map| map.name() == OsStr::new(name)).context("the object lacks a map")?;
            anyhow::Ok(MapHandle::try_from(&map)?)
        };
        let zero = 0u32.to_ne_bytes();
        map("devices")?
            .update(&zero, &device.index.to_ne_bytes(), MapFlags::ANY)
            .with_context(|| format!("{name}: its driver cannot send XDP frames (no ndo_xdp_xmit)"))?;
        let program = live::program(&object, "sumun_pktgen")?;
        let parked = live::park(program.as_fd()).context("attaching the generator's program to a loopback device")?;
        let mut lengths = [0; 12];
        lengths[..traffic.lengths.len()].copy_from_slice(&traffic.lengths);
        let shapes = [false, true].map(|is_v6| {
            let shape = traffic.shape(is_v6);
            let (ip_sum, udp_sum) = (shape.ip_sum, shape.udp_sum);
            Shape { head: shape.head, ip_sum, udp_sum, source: shape.source, sport: SPORT, dport: DPORT }
        });
        let plan = Plan {
            shapes,
            lengths,
            length_count: traffic.lengths.len() as u32,
            flows: traffic.flows,
            stride: traffic.stride(),
            family: traffic.families.are_v6().map(u32::from),
            clock: traffic.clock.unwrap_or(u32::MAX),
            batch: BATCH,
            pause: 0,
        };
        let shortest = traffic.lengths.iter().min().copied().unwrap_or(60);
        let live = Live {
            program,
            plans: map("plans")?,
            states: map("states")?,
            plan,
            page: vec![0; shortest as usize],
            _parked: parked,
        };
        live.put()?;
        Ok(live)
    }

    fn state(&self) -> Result<State> {
        let bytes = self.states.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?.context("the generator's state")?;
        let Ok(state) = State::read_from_bytes(&bytes) else { bail!("the generator's state has another layout") };
        Ok(state)
    }

    fn put(&self) -> Result<()> {
        Ok(self.plans.update(&0u32.to_ne_bytes(), self.plan.as_bytes(), MapFlags::ANY)?)
    }
}

impl Sender for Live {
    /// From here on down, a call for one frame costs less than waiting in the kernel. Far above it calls for one frame each would
    /// slow the whole machine down: where a receiver keeps the frame until after the call, the kernel keeps the call's pool
    /// of pages for a second, and looks through all such pools whenever one goes (`mem_allocator_disconnect`).
    fn slowest_pace(&self) -> f64 {
        2_000.0
    }

    fn pace(&mut self, rate: Option<f64>) -> Result<()> {
        let batch = |rate: f64| ((rate * BATCH_NS / 1e9) as u32).clamp(1, BATCH);
        (self.plan.pause, self.plan.batch) = match rate {
            Some(rate) => ((256e9 / rate).round().max(1.0) as u32, batch(rate)),
            None => (0, BATCH),
        };
        self.put()
    }

    fn send(&mut self, count: u32) -> Result<()> {
        if self.plan.pause > 0 {
            // A call begins with a new batch.
            let mut state = self.state()?;
            state.in_batch = 0;
            self.states.update(&0u32.to_ne_bytes(), state.as_bytes(), MapFlags::ANY)?;
        }
        match live::run(self.program.as_fd(), &self.page, count, self.plan.batch) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other.context("running the generator's program (live frames need Linux 5.18)"),
        }
    }

    fn sent(&self) -> Result<Sent> {
        let state = self.state()?;
        Ok(Sent { frames: state.sent, bytes: state.bytes, failed: state.failed })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Families, Sizes, Writer, tests};
    use super::*;
    use libbpf_rs::ProgramInput;

    /// Runs the program once on a page that a receiver has left behind, and returns the frame that it made.
    fn made(object: &mut libbpf_rs::Object, page: &[u8]) -> Vec<u8> {
        let program = object.progs_mut().next().expect("a program");
        let mut out = vec![0; 4096];
        let input = ProgramInput { data_in: Some(page), data_out: Some(&mut out), ..ProgramInput::default() };
        let output = program.test_run(input).expect("it runs");
        let made = output.data.expect("a frame").to_vec();
        assert_eq!(output.return_value, 4, "XDP_REDIRECT");
        made
    }

    #[test]
    fn the_kernel_makes_the_frames_that_this_program_makes_on_dirty_pages_too() {
        assert!(nix::unistd::Uid::effective().is_root(), "this test loads an XDP program: run it as root");
        for families in [Families::V4, Families::V6, Families::Both] {
            for sizes in [Sizes::One(None), Sizes::One(Some(66)), Sizes::Imix] {
                let traffic = tests::traffic(families, sizes, 40_000);
                let device =
                    Device { name: "lo".into(), index: 1, mac: [0; 6], mtu: 1500, queues: None, driver: String::new() };
                let live = Live::open(&device, &traffic).expect("it loads");
                let object = ObjectBuilder::default().open_memory(&OBJECT.0).expect("an object");
                let mut object = object.load().expect("loaded");
                for map in object.maps() {
                    let value = match map.name().to_str() {
                        Some("plans") => live.plan.as_bytes().to_vec(),
                        Some("devices") => 1u32.to_ne_bytes().to_vec(),
                        _ => continue,
                    };
                    map.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY).expect("set");
                }
                let mut writer = Writer::new(&traffic);
                let mut frame = Vec::new();
                for _ in 0..300 {
                    // What lies behind headers and stamp no receiver changes.
                    let made = made(&mut object, &[&[0xee; 60][..], &vec![0; live.page.len() - 60]].concat());
                    tests::check(&made);
                    let headers = if made[12] == 8 { 42 } else { 62 };
                    // The time is the kernel's.
                    let time = made
                        .get(headers + 12..headers + 18)
                        .map_or(0, |bytes| bytes.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)));
                    writer.write(time, &mut frame);
                    assert_eq!(made, frame);
                }
            }
        }
    }
}
