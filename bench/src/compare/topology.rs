//! Where a contestant is measured: a generator, the router, and a sink, joined by veth pairs, each with one queue.
//!
//! ```text
//!  generator: out ── sblan │ router │ sbwan ── in: sink
//!    10.0.0.2 and on        10.255.0.1   203.0.113.2      203.0.113.1
//! ```
//! Neighbours are fixed, so nobody asks for them. Frames go in as XDP frames, made by live frames in the kernel; the sink is an XDP
//! program in native mode that drops them, whoever has sent them.

use crate::pktgen::frame::{Families, Sizes, Traffic, clock};
use crate::pktgen::live::Live;
use crate::pktgen::sink::Sink;
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use sumun_dataplane::port::af_xdp::Device;
use sumun_testbed::Host;
use sumun_testbed::host::{PREFIX, join};

/// The router's device towards the generator.
pub const LAN: &str = "sblan";
/// The router's device towards the sink.
pub const WAN: &str = "sbwan";
/// The router's addresses.
pub const LAN_ADDRESS: &str = "10.255.0.1/8";
/// The router's address towards the sink.
pub const WAN_ADDRESS: &str = "203.0.113.2/24";
/// Where all packets go.
pub const TARGET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The sink's MAC address.
pub const TARGET_MAC: &str = "02:00:00:00:00:02";

/// Three namespaces, what sends and what counts. All of it goes when this is dropped.
pub struct Site {
    /// Where the contestant runs.
    pub router: Host,
    /// Files of the contestant.
    pub dir: tempfile::TempDir,
    /// Counts.
    pub sink: Sink,
    generator: Host,
    _sink: Host,
}

impl Site {
    /// Builds it; the name is part of the namespaces' names.
    pub fn new(name: &str) -> Result<Site> {
        let host = |end: &str| Host::new(&format!("{}-{name}-{end}", std::process::id()));
        let (generator, router, end) = (host("gen")?, host("router")?, host("sink")?);
        join(&generator, "out", &router, LAN, 1)?;
        join(&router, WAN, &end, "in", 1)?;
        // A veth learns of its peer's GRO, and thus that it takes XDP frames, when that is switched on while both are up.
        for gro in ["off", "on"] {
            router.run(&["ethtool", "-K", LAN, "gro", gro])?;
        }
        end.ip(&format!("link set in address {TARGET_MAC}"))?;
        for device in [LAN, WAN] {
            router.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")])?;
        }
        let sink = end.inside(|| Sink::open(&Device::find("in")?, 1 << 17))?;
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        Ok(Site { router, dir, sink, generator, _sink: end })
    }

    /// A generator of so many flows of 64-byte frames, with sequence and time in them or without.
    pub fn generator(&self, flows: u32, stamped: bool) -> Result<Live> {
        let next_hop = self.router.inside(|| Ok(Device::find(LAN)?.mac))?;
        self.generator.inside(|| {
            let device = Device::find("out")?;
            let mut traffic = Traffic {
                src_mac: device.mac,
                dst_mac: next_hop,
                v4: (Ipv4Addr::new(10, 0, 0, 2), TARGET),
                v6: (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
                families: Families::V4,
                lengths: Vec::new(),
                flows,
                clock: stamped.then(clock),
            };
            traffic.size(Sizes::One(Some(64)), device.mtu)?;
            Live::open(&device, &traffic)
        })
    }

    /// A file of the contestant.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of its files.
    pub fn files(&self) -> &Path {
        self.dir.path()
    }
}
