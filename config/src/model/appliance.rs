//! What the dataplane process opens at its start.

use super::Vlan;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the dataplane process opens at its start.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Appliance {
    /// Directory (mode 0700) of the sockets `dataplane.sock` and `control.sock` (mode 0600).
    pub run_dir: PathBuf,
    /// Cores of the workers, one worker each.
    pub cores: Vec<usize>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// UMEM frames of each worker.
    pub frames_per_worker: u32,
    /// Bytes of a UMEM frame: 2048 or 4096.
    pub frame_size: u32,
    /// Most flows that conntrack holds (`nf_conntrack_max`).
    pub max_flows: u32,
    /// Flows live on when the dataplane is started again.
    pub keep_flows: bool,
    /// Most neighbours held.
    pub max_neighbours: u32,
    /// Ports, in the order of the file: a [`PortId`](crate::facts::PortId) is an index here.
    pub interfaces: Vec<Interface>,
    /// Filter policy until control has published a ruleset.
    pub initial_policy: crate::rule::Policy,
    /// Where LOG lines go.
    pub log: LogTo,
    /// The host's own stack takes part, by a TAP for each port; none: it does not.
    pub host: Option<Host>,
}

impl Appliance {
    /// Whether an interface has a TAP.
    pub fn has_tap(&self, interface: &Interface) -> bool {
        self.host.is_some() && interface.local == LocalStack::Host
    }

    /// Whether its TAP gets what is neither IP nor ARP.
    pub fn gives_all_frames(&self, interface: &Interface) -> bool {
        let all = self.host.as_ref().is_some_and(|host| host.other_frames == OtherFrames::Tap);
        all && self.has_tap(interface)
    }
}

/// Where the TAPs are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Host {
    /// Network namespace by its name, as `ip netns` shows it; none: that of the dataplane process.
    pub namespace: Option<String>,
    /// Who gets what is neither IP nor ARP.
    pub other_frames: OtherFrames,
}

/// Who gets frames that are neither IPv4, IPv6 nor ARP: LLDP, STP, LACP, ... of a port with a TAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OtherFrames {
    /// The kernel, on the port's device.
    #[default]
    Device,
    /// The host, on the TAP.
    Tap,
}

/// Who is the host behind a port's own addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LocalStack {
    /// The kernel's stack, by a TAP.
    Host,
    /// The router itself: echo and refusals.
    Smoltcp,
}

/// What a worker does when its ports are quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Idle {
    /// Poll on.
    Busy,
    /// After so many microseconds without a packet, sleep in poll(2) until one comes.
    Sleep {
        /// The quiet spell.
        after_us: u32,
    },
}

/// Where the lines of LOG go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LogTo {
    /// syslog(3), facility kern, which journald reads too.
    Syslog,
    /// Appended to a file.
    File(PathBuf),
}

/// A port of the router.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// The name that rules use.
    pub name: String,
    /// A device, or a VLAN of one.
    pub kind: Kind,
    /// IP MTU; the device's where none, of a VLAN its parent's.
    pub mtu: Option<u16>,
    /// Who answers for its addresses.
    pub local: LocalStack,
}

/// What a port is made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A device.
    Device(Device),
    /// What is tagged on another port, which has a device.
    Vlan(Vlan),
}

/// The device of a port, and how it is used.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name; often that of the port.
    pub name: String,
    /// XDP attach mode.
    pub attach: Attach,
    /// AF_XDP copy mode.
    pub copy: CopyMode,
    /// Entries of the rx and tx rings, a power of two.
    pub ring: u32,
    /// How frames are sent.
    pub tx: Transmit,
    /// What becomes of unfinished checksums; where none, that follows from the device's driver.
    pub checksums: Option<Checksums>,
}

impl Interface {
    /// Its device; none for a VLAN.
    pub fn device(&self) -> Option<&Device> {
        match &self.kind {
            Kind::Device(device) => Some(device),
            Kind::Vlan(_) => None,
        }
    }

    /// The VLAN that it is, where it is one.
    pub fn vlan(&self) -> Option<Vlan> {
        match self.kind {
            Kind::Device(_) => None,
            Kind::Vlan(vlan) => Some(vlan),
        }
    }
}

/// How the XDP program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Attach {
    /// Native, else generic.
    Auto,
    /// In the driver or not at all.
    Native,
    /// On skbs.
    Generic,
}

/// How frames get from the device into the UMEM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CopyMode {
    /// Zero-copy, else copy.
    Auto,
    /// By DMA or not at all.
    ZeroCopy,
    /// Copied by the kernel.
    Copy,
}

/// How frames get from the UMEM onto the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Transmit {
    /// Few at once through the tx ring, many through XDP, where that keeps their order; else the tx ring.
    Auto,
    /// Through the tx ring of the AF_XDP socket.
    Ring,
    /// Through XDP wherever the device takes XDP frames.
    Xdp,
}

/// What becomes of a TCP, UDP or SCTP checksum that its sender has left to its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Checksums {
    /// It is finished when the packet comes in.
    Finish,
    /// Nothing.
    AsTheyAre,
}
