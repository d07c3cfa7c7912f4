//! TAPs: how the host's own stack has a device for each port.
//!
//! A TAP has the port's name, MAC and MTU, and is made in the namespace that the configuration names. It is there as long as
//! the [`Tap`] is: when the process ends, however it ends, it is gone, and with it its addresses and routes. Who may, can delete it
//! before: then it can be made again ([`Home::make`]).
//!
//! The kernel gives it all offloads that [`segment`](super::segment) can do and takes what [`join`](super::join) makes.

use super::join::{Kinds, Run};
use super::vnet;
use crate::port::Link;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::uio::writev;
use nix::unistd::read;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use sumun_config::facts::PortId;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// The kernel's door to TAPs.
const DOOR: &str = "/dev/net/tun";

/// Bytes of the longest frame that a TAP gives, with its virtio header: two tags and an IP packet.
pub const LONGEST: usize = vnet::LEN + 14 + 8 + 65_535;

/// A TAP of a port.
pub struct Tap {
    /// The port.
    pub port: PortId,
    /// What it was made like: the port.
    pub link: Link,
    /// Its number in its namespace.
    pub index: u32,
    /// What it takes as super-frames.
    pub kinds: Kinds,
    device: SyncDevice,
}

/// Why there are no TAPs.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The namespace is not there.
    #[error("there is no network namespace `{name}` for the TAPs ({source}): `ip netns add {name}` makes it")]
    Namespace {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel has no TAPs.
    #[error("{DOOR} is missing, so there are no TAPs: load the module `tun`, or leave out [host]")]
    NoDoor,
    /// The process may not make TAPs.
    #[error("making the TAP `{name}` is not permitted: it takes CAP_NET_ADMIN and access to {DOOR}")]
    NotPermitted {
        /// Its name.
        name: String,
    },
    /// Another device has its name.
    #[error(
        "the TAP of the port `{name}` would have the name of a device that is there already, in {place}: give the interface \
         another name, or TAPs a namespace of their own ([host] namespace)"
    )]
    Taken {
        /// Its name.
        name: String,
        /// The namespace.
        place: String,
    },
    /// Anything else.
    #[error("making the TAP `{name}`: {source}")]
    System {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The namespace that TAPs are in. It outlives its name.
pub struct Home {
    /// Its name, and the namespace; none: that of the process.
    named: Option<(String, File)>,
}

impl Home {
    /// The namespace of this name, or the process's own.
    pub fn of(namespace: Option<&str>) -> Result<Home, TapError> {
        let open = |name: &str| match File::open(PathBuf::from(NAMESPACES).join(name)) {
            Ok(file) => Ok((name.to_string(), file)),
            Err(source) => Err(TapError::Namespace { name: name.to_string(), source }),
        };
        Ok(Home { named: namespace.map(open).transpose()? })
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.named.as_ref().map(|(name, _)| name.as_str())
    }

    /// Makes a TAP for each of these ports and runs `then` there: sockets that it opens are of that namespace.
    pub fn open<T: Send>(
        &self,
        links: &[(PortId, &Link)],
        then: impl FnOnce() -> T + Send,
    ) -> Result<(Vec<Tap>, T), TapError> {
        if !Path::new(DOOR).exists() {
            return Err(TapError::NoDoor);
        }
        self.inside(|| {
            let taps =
                links.iter().map(|(port, link)| make(*port, link, self.name())).collect::<Result<Vec<_>, _>>()?;
            Ok((taps, then()))
        })
    }

    /// Makes a TAP like this one.
    pub fn make(&self, like: &Tap) -> Result<Tap, TapError> {
        self.inside(|| make(like.port, &like.link, self.name()))
    }

    /// Whether programs that ask for the namespace by its name come to another one, or to none.
    pub fn has_lost_its_name(&self) -> bool {
        let Some((name, file)) = &self.named else { return false };
        let known = file.metadata().map(|known| (known.dev(), known.ino()));
        let named = std::fs::metadata(PathBuf::from(NAMESPACES).join(name)).map(|named| (named.dev(), named.ino()));
        known.ok() != named.ok()
    }

    /// Runs code on a thread of the namespace. A thread that has been there is never used for anything else.
    fn inside<T: Send>(&self, code: impl FnOnce() -> Result<T, TapError> + Send) -> Result<T, TapError> {
        let Some((name, file)) = &self.named else { return code() };
        let lost = |source: io::Error| TapError::Namespace { name: name.to_string(), source };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, || {
                setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| lost(errno.into()))?;
                code()
            });
            let ended = thread.map_err(lost)?.join();
            ended.unwrap_or_else(|_| Err(lost(io::Error::other("the thread that went there panicked"))))
        })
    }
}

fn make(port: PortId, link: &Link, namespace: Option<&str>) -> Result<Tap, TapError> {
    let name = link.name.clone();
    let place = || namespace.map_or_else(|| "this network namespace".into(), |name| format!("the namespace `{name}`"));
    // A TAP of this name that belongs to nobody would be taken over, with all that somebody had set up on it.
    if if_nametoindex(name.as_str()).is_ok() {
        return Err(TapError::Taken { name, place: place() });
    }
    let failed = |source: io::Error| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => TapError::NotPermitted { name: name.clone() },
        Some(Errno::EBUSY | Errno::EEXIST) => TapError::Taken { name: name.clone(), place: place() },
        _ => TapError::System { name: name.clone(), source },
    };
    let device = DeviceBuilder::new().name(&name).layer(Layer::L2).offload(true).mtu(link.mtu).mac_addr(link.mac);
    let device = device.enable(true).build_sync().map_err(failed)?;
    device.set_nonblocking(true).map_err(failed)?;
    let index = device.if_index().map_err(failed)?;
    // What OUTPUT redirects goes to 127.0.0.1; what comes from outside for that address ends in the engine.
    if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1") {
        tracing::warn!("{name}: REDIRECT in OUTPUT will not reach programs on 127.0.0.1: route_localnet: {error}");
    }
    let kinds = if device.udp_gso() { Kinds::TcpAndUdp } else { Kinds::Tcp };
    Ok(Tap { port, link: link.clone(), index, kinds, device })
}

impl Tap {
    /// Reads one frame with its virtio header in front; `buffer` has [`LONGEST`] bytes. None where none waits.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match read(&self.device, buffer) {
                Ok(len) => return Ok(Some(len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Writes what a run is, in one piece.
    pub fn write(&self, run: &Run) -> io::Result<()> {
        let slices = run.slices();
        loop {
            match writev(&self.device, &slices) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
