//! Ports: where frames come in and go out. The engine knows only this trait.

use crate::reason::DropReason;
use crate::umem::{Frame, Pool};
use std::os::fd::BorrowedFd;
use sumun_config::model::{Checksums, Interface, Vlan};

pub mod af_xdp;
pub mod memory;
pub mod pcap;

/// What the engine needs to know of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The interface's name in rules.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u16,
    /// What becomes of unfinished checksums of what it receives.
    pub checksums: Checksums,
    /// A VLAN: its frames, tagged so, are those of another port's device. None for a port with a device of its own.
    pub trunk: Option<Vlan>,
}

/// Why a VLAN cannot be a port.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VlanError {
    /// Its packets would not fit its parent's device.
    #[error("{name}: mtu = {wanted} is more than its parent's {mtu}")]
    Mtu {
        /// The interface.
        name: String,
        /// IP MTU asked for.
        wanted: u16,
        /// IP MTU of the parent.
        mtu: u16,
    },
    /// There is no device that has its frames.
    #[error("{name}: its parent has no device")]
    NoParent {
        /// The interface.
        name: String,
    },
}

/// The links of all ports: `own` are those of ports with a device, at their places; the VLANs on them follow.
pub fn links(interfaces: &[Interface], own: Vec<Option<Link>>) -> Result<Vec<Link>, VlanError> {
    let link = |(interface, link): (&Interface, &Option<Link>)| {
        let name = interface.name.clone();
        if let Some(link) = link {
            return Ok(link.clone());
        }
        let vlan = interface.vlan();
        let parent = vlan.and_then(|vlan| own.get(vlan.parent.index()?)?.as_ref());
        match (parent, interface.mtu) {
            (None, _) => Err(VlanError::NoParent { name }),
            (Some(Link { mtu, .. }), Some(wanted)) if wanted > *mtu => Err(VlanError::Mtu { name, wanted, mtu: *mtu }),
            (Some(parent), wanted) => {
                Ok(Link { name, mtu: wanted.unwrap_or(parent.mtu), trunk: vlan, ..parent.clone() })
            }
        }
    };
    interfaces.iter().zip(&own).map(link).collect()
}

/// One worker's end of a port: its own queues, its own rings.
pub trait Port: Send {
    /// Takes up to `most` received frames, appends them to `rx`, and gives the device new empty ones from `pool`.
    fn receive(&mut self, pool: &mut Pool, rx: &mut Vec<Frame>, most: usize);

    /// A frame that ended while it was received, and why, until there is no more.
    fn lost(&mut self) -> Option<(DropReason, Frame)> {
        None
    }

    /// Takes frames for transmission from the front of `tx`, in order. What does not fit stays in `tx`.
    fn transmit(&mut self, tx: &mut Vec<Frame>);

    /// Makes the device send all that it was given, and gives frames that are sent back to `pool`.
    fn flush(&mut self, pool: &mut Pool);

    /// Frames lent to the device now, for the census.
    fn lent(&self) -> usize;

    /// What poll(2) waits on for received frames; none for ports without a file.
    fn wait_on(&self) -> Vec<BorrowedFd<'_>>;

    /// Whether frames given for transmission are still on their way, so that the worker must not sleep for long.
    fn is_sending(&self) -> bool;

    /// Moves what the port counted since the last time into `counts`.
    fn count(&mut self, _counts: &mut PortCounts) {}
}

/// A worker's way to a port that has a device.
pub enum Seat {
    /// It has an end of its own.
    Own(Box<dyn Port>),
    /// It hands frames to this worker, which has one.
    Via(usize),
}

/// What a port counts besides packets: none of it happens while all is well.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PortCounts {
    /// Frames given back by the device that it was never lent.
    pub strays: u64,
    /// Times that the device could not be woken, or that frames could not be sent through XDP and went to its ring.
    pub failures: u64,
    /// Packets that were empty or longer than the device takes.
    pub unsendable: u64,
    /// Frames given to the kernel to be sent through XDP that it had no device for: they are lost.
    pub refused: u64,
}
