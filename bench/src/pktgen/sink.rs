//! Counts what arrives at a device, and drops it there: bpf/sink.bpf.c, and what its counters mean.

use anyhow::{Context, Result, bail};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use sumun_dataplane::port::af_xdp::live::{self, Aligned, Place};
use sumun_dataplane::port::af_xdp::{Device, survey};

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sink.bpf.o")));

/// As in bpf/sink.bpf.c.
const BUCKETS: usize = 1184;

/// The program on a device; it goes with this.
pub struct Sink {
    counters: Counters,
    /// In the driver, not on skbs.
    pub native: bool,
    _link: OwnedFd,
}

/// The program's counters.
struct Counters {
    counts: MapHandle,
    latencies: MapHandle,
}

/// What was counted, of all CPUs together.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// UDP packets.
    pub packets: u64,
    /// Their bytes, FCS not counted.
    pub bytes: u64,
    /// Those with a stamp of a generator.
    pub stamped: u64,
    /// Left out in the sequences of their flows when a later one came.
    pub missing: u64,
    /// Came after a later one of their flow (RFC 4737 section 3.3).
    pub reordered: u64,
    /// How many packets of its flow the latest of these was behind.
    pub furthest: u64,
    /// Of flows that are not in the table.
    pub untracked: u64,
    /// Their time is of another machine's clock.
    pub foreign: u64,
    /// Packets in each bucket of latencies.
    latencies: Vec<u64>,
}

/// Latencies in nanoseconds; each at most 3 % off.
#[derive(Clone, Copy, Default, PartialEq, Debug, serde::Serialize)]
pub struct Latency {
    /// Least.
    pub min: f64,
    /// Half of all take no longer.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// Most.
    pub max: f64,
}

impl Sink {
    /// Attaches to a device of the caller's network namespace, with room for the order of so many flows.
    pub fn open(device: &Device, flows: u32) -> Result<Sink> {
        let name = &device.name;
        let object =
            load(flows).with_context(|| format!("{name}: loading the sink's XDP program (this needs root)"))?;
        let program = live::program(&object, "sumun_sink")?;
        let attach = |place| live::attach(program.as_fd(), device.index, place);
        let attached = match attach(Place::Native) {
            Ok(link) => Ok((link, true)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(error),
            Err(_) => attach(Place::Generic).map(|link| (link, false)),
        };
        let (link, native) = match attached {
            Ok(attached) => attached,
            Err(error) => match survey(name).and_then(|survey| survey.program) {
                Some(other) => bail!("{}", other.text),
                None => return Err(error).with_context(|| format!("{name}: attaching the sink's XDP program")),
            },
        };
        Ok(Sink { counters: Counters::of(&object)?, native, _link: link })
    }

    /// What was counted so far.
    pub fn tally(&self) -> Result<Tally> {
        self.counters.tally()
    }

    /// UDP packets so far: cheaper than [`Sink::tally`].
    pub fn packets(&self) -> Result<u64> {
        Ok(read(&self.counters.counts, |a, b| a + b)?[0])
    }
}

/// Loads the program with room for the order of so many flows.
fn load(flows: u32) -> Result<Object, libbpf_rs::Error> {
    let mut object = ObjectBuilder::default().open_memory(&OBJECT.0)?;
    for mut map in object.maps_mut() {
        match map.name().to_str() {
            Some("orders") => map.set_max_entries(flows)?,
            Some(name) if name.ends_with(".rodata") => map.set_initial_value(&super::frame::clock().to_ne_bytes())?,
            _ => {}
        }
    }
    object.load()
}

impl Counters {
    fn of(object: &Object) -> Result<Counters> {
        let map = |name: &str| {
            let map = object.maps().find(|map| map.name() == OsStr::new(name)).context("the object lacks a map")?;
            anyhow::Ok(MapHandle::try_from(&map)?)
        };
        Ok(Counters { counts: map("counts")?, latencies: map("latencies")? })
    }

    fn tally(&self) -> Result<Tally> {
        let mut tally = Tally { latencies: read(&self.latencies, |a, b| a + b)?, ..Tally::default() };
        let sums = read(&self.counts, |a, b| a + b)?;
        let [packets, bytes, stamped, missing, reordered, _, untracked, foreign] = sums[..] else {
            bail!("the sink's counters have another layout")
        };
        let most = read(&self.counts, u64::max)?;
        (tally.packets, tally.bytes, tally.stamped, tally.missing) = (packets, bytes, stamped, missing);
        (tally.reordered, tally.furthest, tally.untracked, tally.foreign) = (reordered, most[5], untracked, foreign);
        Ok(tally)
    }
}

/// The one entry of a map of numbers, those of all CPUs together.
fn read(map: &MapHandle, join: impl Fn(u64, u64) -> u64) -> Result<Vec<u64>> {
    let by_cpu = map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)?.context("the sink's map is empty")?;
    let mut all = vec![0; by_cpu.first().map_or(0, Vec::len) / size_of::<u64>()];
    for bytes in by_cpu {
        for (sum, bytes) in all.iter_mut().zip(bytes.as_chunks().0) {
            *sum = join(*sum, u64::from_ne_bytes(*bytes));
        }
    }
    Ok(all)
}

impl Tally {
    /// What was counted since an earlier look; `furthest` is of all time.
    pub fn since(&self, earlier: &Tally) -> Tally {
        Tally {
            packets: self.packets - earlier.packets,
            bytes: self.bytes - earlier.bytes,
            stamped: self.stamped - earlier.stamped,
            missing: self.missing - earlier.missing,
            reordered: self.reordered - earlier.reordered,
            furthest: self.furthest,
            untracked: self.untracked - earlier.untracked,
            foreign: self.foreign - earlier.foreign,
            latencies: self.latencies.iter().zip(&earlier.latencies).map(|(now, then)| now - then).collect(),
        }
    }

    /// Latencies of the stamped packets; none where there are none.
    pub fn latency(&self) -> Option<Latency> {
        let total: u64 = self.latencies.iter().sum();
        if total == 0 {
            return None;
        }
        let at = |share: f64| {
            let rank = ((share * total as f64).ceil() as u64).max(1);
            let mut seen = 0;
            let bucket = self.latencies.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            middle(bucket.unwrap_or(BUCKETS - 1))
        };
        Some(Latency { min: at(0.0), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) })
    }
}

/// Middle of a bucket's nanoseconds.
fn middle(bucket: usize) -> f64 {
    match bucket / 32 {
        0 => bucket as f64,
        power => {
            let width = 2f64.powi(power as i32 - 1);
            (bucket % 32 + 32) as f64 * width + (width - 1.0) / 2.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Families, Sizes, Writer, clock, tests::traffic};
    use super::*;
    use libbpf_rs::ProgramInput;

    /// A program that is attached nowhere, and frames of two flows for it: the first of flow 0, of flow 1, the second of 0...
    struct Bench {
        object: Object,
        frames: Vec<Vec<u8>>,
    }

    impl Bench {
        fn new(families: Families, clock: u32) -> Bench {
            assert!(nix::unistd::Uid::effective().is_root(), "this test loads an XDP program: run it as root");
            let mut traffic = traffic(families, Sizes::One(None), 2);
            traffic.clock = Some(clock);
            let mut writer = Writer::new(&traffic);
            let frames = (0..40).map(|_| {
                let mut frame = Vec::new();
                writer.write(0, &mut frame);
                frame
            });
            Bench { object: load(2).expect("it loads"), frames: frames.collect() }
        }

        /// What the program says to a frame: 1 is XDP_DROP, 2 XDP_PASS.
        fn receive(&mut self, frame: &[u8]) -> u32 {
            let program = self.object.progs_mut().next().expect("a program");
            let input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
            program.test_run(input).expect("it runs").return_value
        }

        fn tally(&self) -> Tally {
            Counters::of(&self.object).expect("maps").tally().expect("a tally")
        }
    }

    #[test]
    fn loss_and_order_are_judged_flow_by_flow() {
        for families in [Families::V4, Families::V6, Families::Both] {
            let mut bench = Bench::new(families, clock());
            // Even frames are flow 0's. It loses 4, 14 and 16, and 8 comes after 10 and 12; 10 comes twice. Flow 1 has all in order.
            for n in [0, 1, 2, 3, 6, 5, 10, 12, 7, 8, 9, 10, 18, 11] {
                let frame = bench.frames[n].clone();
                assert_eq!(bench.receive(&frame), 1);
            }
            let tally = bench.tally();
            assert_eq!((tally.packets, tally.stamped, tally.untracked, tally.foreign), (14, 14, 0, 0));
            assert_eq!(tally.bytes, bench.frames[0].len() as u64 * 14);
            assert_eq!((tally.missing, tally.reordered, tally.furthest), (1 + 1 + 2, 2, 3));
            assert!(tally.latency().is_some());
            assert_eq!(tally.since(&tally), Tally { furthest: 3, latencies: vec![0; BUCKETS], ..Tally::default() });
        }
    }

    #[test]
    fn stamps_of_another_machine_have_an_order_and_no_latency() {
        let mut bench = Bench::new(Families::V4, clock() ^ 1);
        for n in [0, 2, 1] {
            let frame = bench.frames[n].clone();
            bench.receive(&frame);
        }
        let tally = bench.tally();
        assert_eq!((tally.stamped, tally.missing, tally.foreign), (3, 0, 3));
        assert_eq!(tally.latency(), None);
    }

    #[test]
    fn what_is_not_udp_goes_on_to_the_kernel_and_other_udp_is_counted_alone() {
        let mut bench = Bench::new(Families::V4, clock());
        let mut changed = |at: usize, byte: u8| {
            let mut frame = bench.frames[0].clone();
            frame[at] = byte;
            bench.receive(&frame)
        };
        // ARP, TCP; another payload, a later fragment.
        assert_eq!((changed(13, 6), changed(23, 6), changed(42, 0), changed(21, 1)), (2, 2, 1, 1));
        let tally = bench.tally();
        assert_eq!((tally.packets, tally.stamped), (2, 0));
    }

    /// As bpf/sink.bpf.c puts a latency into a bucket.
    fn bucket(ns: u64) -> usize {
        let shift = (ns >> 5).checked_ilog2().map_or(0, |power| power + u32::from(ns >= 32));
        match ns {
            0..32 => ns as usize,
            _ => ((shift - 1) * 32) as usize + (ns >> (shift - 1)) as usize,
        }
    }

    #[test]
    fn a_bucket_is_at_most_three_percent_off() {
        let mut last = 0;
        for ns in (0..5000).chain((12..40).map(|power| (1u64 << power) * 13 / 8)) {
            let bucket = bucket(ns);
            assert!(bucket < BUCKETS, "{ns}");
            assert!(ns > 5000 || bucket >= last, "{ns}");
            last = bucket;
            assert!((middle(bucket) - ns as f64).abs() <= ns as f64 / 64.0 + 0.5, "{ns}: {}", middle(bucket));
        }
    }

    #[test]
    fn percentiles_are_of_the_packets_not_of_the_buckets() {
        let mut tally = Tally { latencies: vec![0; BUCKETS], ..Tally::default() };
        assert_eq!(tally.latency(), None);
        for (ns, count) in [(10, 500), (20, 490), (31, 9), (1000, 1)] {
            tally.latencies[bucket(ns)] = count;
        }
        let latency = tally.latency().expect("packets");
        assert_eq!((latency.min, latency.p50, latency.p90, latency.p99, latency.p999), (10.0, 10.0, 20.0, 20.0, 31.0));
        assert!((latency.max - 1000.0).abs() < 16.0);
    }
}
