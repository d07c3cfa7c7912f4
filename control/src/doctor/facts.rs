//! What was seen of a machine. What could not be seen is `None`, and no check speaks of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use sumun_dataplane::port::af_xdp::Spread;

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
    /// Where the TAPs are or will be; none where there are to be none.
    pub host: Option<HostSide>,
}

/// The namespace of the TAPs.
#[derive(Clone, Debug, Default)]
pub struct HostSide {
    /// It is there and can be entered. Where it is not, nothing else is known.
    pub is_there: bool,
    /// The kernel has TAPs.
    pub has_taps: bool,
    /// Its `lo` is up.
    pub loopback: bool,
    /// Its devices by name.
    pub links: BTreeMap<String, HostLink>,
    /// Rules of netfilter that judge what programs there get and send.
    pub chains: Vec<Chain>,
    /// Settings below /proc/sys/net that could be read.
    pub settings: BTreeMap<String, String>,
    /// Programs that run there, by name: those that set routes.
    pub programs: Vec<String>,
}

/// A device in the namespace of the TAPs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostLink {
    /// `tun`, `macvlan` and so on; empty for hardware.
    pub kind: String,
    /// Its MAC address.
    pub mac: Vec<u8>,
    /// The device that it is on.
    pub below: Option<String>,
}

/// Rules of netfilter.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name; empty for a table of iptables-legacy.
    pub name: String,
    /// Its hook, or `legacy`.
    pub hook: String,
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Chain { family, table, name, hook } = self;
        if name.is_empty() {
            write!(f, "{family} {table} ({hook})")
        } else {
            write!(f, "{family} {table} {name} ({hook})")
        }
    }
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// It is where this process cannot look.
    Unseen,
    /// It was looked at.
    Seen(OtherEnd),
}

/// What was seen there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OtherEnd {
    /// The device.
    pub name: String,
    /// What comes before a command so that it is run there, with a blank behind; empty for this namespace.
    pub prefix: String,
    /// Offloads that are on, by the kernel's names, and whether each can be switched off.
    pub offloads: BTreeMap<String, bool>,
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
    /// Where it is a tmpfs that is mounted for small pages only: its mount point.
    pub small_pages: Option<String>,
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
    /// How it deals packets to queues, where it has a table for that.
    pub spread: Option<Spread>,
    /// Somebody asked it for the frames of others.
    pub promiscuous: bool,
    /// Its other end, where it is a veth.
    pub peer: Option<Peer>,
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
    /// The device takes frames that others redirect to it.
    pub const NDO_XMIT: u64 = 4;
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
