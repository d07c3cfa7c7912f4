//! How the dataplane is.

use serde::{Deserialize, Serialize};

/// How the dataplane is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// The generation stored last.
    pub generation: u64,
    /// Every worker runs it.
    pub settled: bool,
    /// A policy has been published; else the initial one runs.
    pub published: bool,
    /// Rules of both families.
    pub rules: u64,
    /// Cores of the workers.
    pub cores: Vec<usize>,
    /// Ports in the order of the configuration.
    pub ports: Vec<PortStatus>,
    /// Flows held.
    pub flows: u32,
    /// Most flows that can be held.
    pub max_flows: u32,
    /// Flows that were taken over from the dataplane before.
    pub adopted_flows: u32,
    /// Bytes of the flow table.
    pub flow_memory: u64,
    /// Routes in force.
    pub routes: RouteCounts,
    /// The kernel's routes, where they are followed.
    pub mirror: Option<MirrorStatus>,
    /// Neighbours held.
    pub neighbours: u32,
}

/// How many routes there are, those that follow from addresses included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RouteCounts {
    /// Of IPv4.
    pub ipv4: u64,
    /// Of IPv6.
    pub ipv6: u64,
}

/// How the kernel's routes are followed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// What is in force is what the kernel has.
    pub synchronised: bool,
    /// How often everything was read.
    pub synchronisations: u64,
    /// How long that took the last time, in milliseconds.
    pub took_ms: u64,
    /// When something changed last, in milliseconds since 1970.
    pub last_change_ms: Option<u64>,
    /// Routes and rules that the dataplane cannot do, by reason.
    pub left_out: Vec<(String, u64)>,
    /// Changes that were refused since everything was read.
    pub refused: u64,
    /// What is wrong.
    pub failure: Option<String>,
}

/// A port and what passed it since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortStatus {
    /// Name in rules.
    pub name: String,
    /// The device.
    pub device: String,
    /// How it is attached, for people: `native, copy`.
    pub mode: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u16,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Its TAP.
    pub tap: Option<TapStatus>,
    /// What the kernel lost between its device and the router, by receive queue; none for a VLAN.
    pub losses: Vec<QueueLosses>,
}

/// What the kernel lost of a receive queue since its port was opened, where the router cannot see it: before it received a frame,
/// or after it sent one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueLosses {
    /// Its number.
    pub queue: u32,
    /// Frames lost for want of an empty one, or because they are longer than one.
    pub dropped: u64,
    /// Frames lost because the receive ring was full: the worker was busy elsewhere.
    pub ring_full: u64,
    /// Times that an empty frame was wanted and there was none. In copy mode each is one of those dropped.
    pub fill_empty: u64,
    /// Empty frames that the kernel refused.
    pub rx_invalid: u64,
    /// Frames to be sent that the kernel refused.
    pub tx_invalid: u64,
}

impl QueueLosses {
    /// Name, and what it means, of each number.
    pub const KINDS: [(&'static str, &'static str); 5] = [
        ("dropped", "no empty frame, or longer than one"),
        ("ring-full", "the worker was busy"),
        ("fill-empty", "times without an empty frame"),
        ("rx-invalid", "empty frames refused"),
        ("tx-invalid", "frames to be sent refused"),
    ];

    /// The numbers in the order of [`QueueLosses::KINDS`].
    pub fn each(&self) -> [u64; 5] {
        [self.dropped, self.ring_full, self.fill_empty, self.rx_invalid, self.tx_invalid]
    }

    /// Whether something was lost or refused.
    pub fn is_any(&self) -> bool {
        self.each() != [0; 5]
    }
}

/// What went over the TAP of a port since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TapStatus {
    /// The network namespace that it is in; none: that of the dataplane.
    pub namespace: Option<String>,
    /// Frames from the host.
    pub from_packets: u64,
    /// Their bytes.
    pub from_bytes: u64,
    /// Frames to the host.
    pub to_packets: u64,
    /// Their bytes.
    pub to_bytes: u64,
    /// What the host sent that was no frame, or was too long.
    pub refused: u64,
    /// Frames that the host's kernel did not take: the TAP is down.
    pub failed: u64,
    /// It is there: nobody has deleted it, or it was made again.
    pub is_there: bool,
    /// How often it was made again.
    pub made_again: u64,
    /// The namespace that the TAP is in has lost its name, or another one has it now.
    pub is_unnamed: bool,
}
