//! What was seen of a machine. What could not be seen is `None`, and no check speaks of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A machine.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kernel's version: 6, 1.
    pub kernel: (u32, u32),
    /// Whether it has AF_XDP sockets.
    pub af_xdp: Option<bool>,
    /// Capabilities that this process lacks and the dataplane needs.
    pub lacking: Vec<&'static str>,
    /// Bytes that this process may lock; none without limit.
    pub memlock: Option<u64>,
    /// Bytes of memory that are free or can be freed.
    pub memory: Option<u64>,
    /// Where the directory of the sockets lies.
    pub run_dir: Option<Place>,
    /// Where the log of LOG lies.
    pub log: Option<Place>,
    /// Processors that are online.
    pub online: Vec<usize>,
    /// Processors that this process may use.
    pub allowed: Vec<usize>,
    /// Processors that are kept free of other programs.
    pub isolated: Vec<usize>,
    /// What each processor is like.
    pub processors: BTreeMap<usize, Processor>,
    /// irqbalance runs.
    pub irqbalance: bool,
    /// Devices by name.
    pub devices: BTreeMap<String, Device>,
}

/// A place for files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// The directory, or where that is not there the one above it.
    pub directory: String,
    /// Whether the directory itself is there.
    pub exists: bool,
    /// In memory rather than on a disk.
    pub in_memory: bool,
    /// Bytes that fit.
    pub free: u64,
}

/// A processor.
#[derive(Clone, Debug, Default)]
pub struct Processor {
    /// Others on the same core.
    pub siblings: Vec<usize>,
    /// The frequency governor.
    pub governor: Option<String>,
    /// The NUMA node.
    pub node: Option<usize>,
}

/// A network device.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// It is up.
    pub up: bool,
    /// It is Ethernet.
    pub ethernet: bool,
    /// Its driver.
    pub driver: Option<String>,
    /// The bridge, bond or team that it is a member of.
    pub master: Option<String>,
    /// IP MTU.
    pub mtu: u32,
    /// What the driver can do for XDP, as bits; none where the kernel does not tell.
    pub xdp: Option<u64>,
    /// An XDP program on it: what is said of it.
    pub program: Option<Program>,
    /// Receive queues now, and how many are possible.
    pub queues: Option<(u32, u32)>,
    /// Which kind of channel these are: `combined` or `rx`.
    pub channel: &'static str,
    /// Entries of the receive ring now, and how many are possible.
    pub ring: Option<(u32, u32)>,
    /// Offloads that are on, by the kernel's names, and whether each can be switched off.
    pub offloads: BTreeMap<String, bool>,
    /// The kernel's own addresses on it.
    pub addresses: Vec<IpAddr>,
    /// IPv6 makes addresses by itself on it.
    pub ipv6: bool,
    /// The NUMA node.
    pub node: Option<usize>,
    /// Interrupts by queue: the number and the processors that may handle it.
    pub interrupts: BTreeMap<usize, (u32, Vec<usize>)>,
}

/// An XDP program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// It is the router's own.
    pub own: bool,
    /// What it is and how to get rid of it.
    pub text: String,
}

/// Bits of [`Device::xdp`], as `enum netdev_xdp_act` of the kernel has them.
pub mod xdp {
    /// Programs run in the driver.
    pub const BASIC: u64 = 1;
    /// AF_XDP without copying.
    pub const ZERO_COPY: u64 = 8;
}

#[cfg(test)]
impl Facts {
    /// A device that is there.
    pub fn device(&mut self, name: &str) -> &mut Device {
        self.devices.get_mut(name).expect("the device is there")
    }
}
