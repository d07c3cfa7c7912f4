//! What can be wrong when a port is opened, said in one line that names the device and what to do.

use crate::port::VlanError;
use std::io;

/// What a device has to do with a bond. Frames belong to the members, and so do their sockets; who talks LACP to the other end is
/// the kernel, which hears nothing of what a router takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Bonded {
    /// A bond or a team.
    #[error(
        "a bond, whose frames XDP sockets never see: dissolve it and make each member a port with addresses of its own, with routes \
         over all of them (`nexthops`)"
    )]
    Whole,
    /// One of its devices.
    #[error(
        "a member of a bond, which would hear no LACP any more: take it out (`ip link set dev DEVICE nomaster`) and make it a port \
         with addresses of its own"
    )]
    Member,
}

/// Why ports could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such device here.
    #[error(
        "{device}: no such device in this network namespace (`ip link` lists what is here; a device of another namespace \
         is reached by starting there: `ip netns exec NAME ...`)"
    )]
    Missing {
        /// The device.
        device: String,
    },
    /// The device is not up.
    #[error("{device}: the device is down: `ip link set dev {device} up`")]
    Down {
        /// The device.
        device: String,
    },
    /// Not an Ethernet device.
    #[error("{device}: not an Ethernet device (hardware type {kind})")]
    NotEthernet {
        /// The device.
        device: String,
        /// ARPHRD number of the kernel.
        kind: u16,
    },
    /// A bond, or a member of one.
    #[error("{device}: {bonded}")]
    Bonded {
        /// The device.
        device: String,
        /// Which of both.
        bonded: Bonded,
    },
    /// Its packets are longer than any that are taken.
    #[error(
        "{device}: its MTU is {mtu}, and packets have at most {most} bytes here: `ip link set dev {device} mtu {most}`"
    )]
    Mtu {
        /// The device.
        device: String,
        /// IP MTU of the device.
        mtu: u32,
        /// Largest MTU that is taken.
        most: u32,
    },
    /// Its packets do not fit frames of the UMEM, and the kernel does not take them in pieces.
    #[error(
        "{device}: packets of its MTU of {mtu} fit no frame, and this kernel has no AF_XDP multi-buffer, which needs Linux 6.6: \
         lower the MTU to {whole}, or to {paged} with frame-size = 4096",
        whole = 2048 - 256 - 22, paged = 4096 - 256 - 22
    )]
    NoPieces {
        /// The device.
        device: String,
        /// IP MTU of the device.
        mtu: u32,
    },
    /// The port is told an MTU that its device does not have.
    #[error("{device}: mtu = {wanted} is more than the device's own {mtu}: `ip link set dev {device} mtu {wanted}`")]
    MtuAbove {
        /// The device.
        device: String,
        /// IP MTU asked for.
        wanted: u16,
        /// IP MTU of the device.
        mtu: u32,
    },
    /// A VLAN that cannot be.
    #[error(transparent)]
    Vlan(#[from] VlanError),
    /// Somebody else's XDP program is on the device.
    #[error("{device}: an XDP program is attached already: {program}; {remedy}")]
    ProgramAttached {
        /// The device.
        device: String,
        /// Its name and number.
        program: String,
        /// How to get rid of it.
        remedy: String,
    },
    /// Somebody else's AF_XDP socket has the queue.
    #[error(
        "{device}: receive queue {queue} belongs to another AF_XDP socket: stop the process that holds it \
         (`ss --xdp -p` lists them)"
    )]
    QueueBusy {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// Not allowed.
    #[error("{what}: not permitted: run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF")]
    NotPermitted {
        /// What was tried.
        what: String,
    },
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS=y and Linux 5.9 or newer")]
    NoAfXdp,
    /// The UMEM may not be locked.
    #[error(
        "the UMEM of {mib} MiB exceeds the locked-memory limit: raise it (`ulimit -l unlimited`, LimitMEMLOCK=infinity) or \
         lower frames_per_worker"
    )]
    LockedMemory {
        /// Its size.
        mib: u64,
    },
    /// Native mode was asked for and the driver has none.
    #[error(
        "{device}: the driver does not take the XDP program in native mode ({source}): use attach = \"auto\" or \"generic\""
    )]
    NotNative {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Zero-copy was asked for and cannot be had.
    #[error("{device}: zero-copy is not possible ({why}): use copy = \"auto\" or \"copy\"")]
    NotZeroCopy {
        /// The device.
        device: String,
        /// What forbids it.
        why: String,
    },
    /// A ring size that the kernel does not take.
    #[error("{device}: ring = {ring} is not a power of two between 64 and 16384")]
    Ring {
        /// The device.
        device: String,
        /// Entries asked for.
        ring: u32,
    },
    /// The frames do not suffice, or are of a size that the kernel does not take.
    #[error("{0}")]
    Frames(String),
    /// Anything else that the kernel said.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl OpenError {
    /// The kernel refused `what`: for lack of permission, or for a reason of its own.
    pub(super) fn system(what: impl Into<String>, source: io::Error) -> OpenError {
        let what = what.into();
        match source.raw_os_error() {
            Some(nix::libc::EPERM | nix::libc::EACCES) => OpenError::NotPermitted { what },
            _ => OpenError::System { what, source },
        }
    }
}
