//! What the kernel knows of a network device: number, address, MTU, state, queues. And a hold on it while the router uses it.
//!
//! Everything is asked with ioctls on a socket, which sees the caller's network namespace. /sys/class/net is not used: it
//! shows the namespace in which /sys was mounted.

#![allow(unsafe_code, reason = "device ioctls and packet memberships take C structures")]

use super::error::{Bonded, OpenError};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

/// What is asked of a device once, when its port is opened.
#[derive(Debug)]
pub struct Device {
    /// What it is called in this network namespace.
    pub name: String,
    /// Its number there.
    pub index: u32,
    /// Its own address.
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u32,
    /// Receive queues, where the driver tells.
    pub queues: Option<u32>,
    /// Name of its driver; empty where it tells none.
    pub driver: String,
}

/// `ETHTOOL_GCHANNELS` of linux/ethtool.h, and its answer.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `ETHTOOL_GDRVINFO`, and its answer.
const ETHTOOL_GDRVINFO: u32 = 0x3;

#[repr(C)]
struct Driver {
    cmd: u32,
    name: [u8; 32],
    rest: [u8; 160],
}

/// What a device has to do with a bond, by its driver and flags; none for most.
fn bonded(driver: &str, flags: i32) -> Option<Bonded> {
    match driver {
        "bonding" | "team" => Some(Bonded::Whole),
        _ if flags & libc::IFF_SLAVE != 0 => Some(Bonded::Member),
        _ => None,
    }
}

impl Device {
    /// Looks a device up, and refuses what can never be a port: no device, one that is down, one that is not Ethernet, a bond.
    pub fn find(name: &str) -> Result<Device, OpenError> {
        let failed = |what: &str, error: io::Error| match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => OpenError::Missing { device: name.into() },
            _ => OpenError::system(format!("{name}: {what}"), error),
        };
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|error| OpenError::system("opening a socket for device ioctls", error.into()))?;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(OpenError::Missing { device: name.into() });
        }
        let mut request = request(name);
        ask(&fd, libc::SIOCGIFINDEX, &mut request).map_err(|error| failed("reading its index", error))?;
        // SAFETY: SIOCGIFINDEX fills this member of the union.
        let index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        ask(&fd, libc::SIOCGIFHWADDR, &mut request).map_err(|error| failed("reading its address", error))?;
        // SAFETY: SIOCGIFHWADDR fills this member of the union.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(OpenError::NotEthernet { device: name.into(), kind: address.sa_family });
        }
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        ask(&fd, libc::SIOCGIFMTU, &mut request).map_err(|error| failed("reading its MTU", error))?;
        // SAFETY: SIOCGIFMTU fills this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu } as u32;
        ask(&fd, libc::SIOCGIFFLAGS, &mut request).map_err(|error| failed("reading its flags", error))?;
        // SAFETY: SIOCGIFFLAGS fills this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if flags as i32 & libc::IFF_UP == 0 {
            return Err(OpenError::Down { device: name.into() });
        }
        let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
        request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        let queues = match ask(&fd, libc::SIOCETHTOOL, &mut request) {
            Ok(()) => Some((channels.rx + channels.combined).max(1)),
            Err(_) => None,
        };
        let mut driver = Driver { cmd: ETHTOOL_GDRVINFO, name: [0; 32], rest: [0; 160] };
        request.ifr_ifru.ifru_data = (&raw mut driver).cast();
        let tells = ask(&fd, libc::SIOCETHTOOL, &mut request).is_ok();
        let driver = driver.name.split(|byte| *byte == 0).next().filter(|_| tells).unwrap_or_default();
        let driver = String::from_utf8_lossy(driver).into_owned();
        match bonded(&driver, flags as i32) {
            Some(bonded) => Err(OpenError::Bonded { device: name.into(), bonded }),
            None => Ok(Device { name: name.into(), index, mac, mtu, queues, driver }),
        }
    }

    /// Whether it is one end of a veth pair.
    pub(super) fn is_veth(&self) -> bool {
        self.driver == "veth"
    }

    /// Whether its frames may come from sockets of a host that left their checksums to it.
    pub(super) fn is_virtual(&self) -> bool {
        ["veth", "virtio_net", "tun"].contains(&self.driver.as_str())
    }

    /// Makes the device receive all multicast, which neighbour discovery needs (a router listens to a solicited-node group
    /// for each of its addresses). Ends with the socket that is returned, so it cannot outlive the process.
    pub(super) fn receive_multicast(&self) -> Result<OwnedFd, OpenError> {
        let what = || format!("{}: asking for all multicast", self.name);
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|error| OpenError::system(what(), error.into()))?;
        let membership = libc::packet_mreq {
            mr_ifindex: self.index as i32,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the pointer and length describe a packet_mreq that lives through the call.
        let answer = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size_of::<libc::packet_mreq>() as u32,
            )
        };
        if answer < 0 { Err(OpenError::system(what(), io::Error::last_os_error())) } else { Ok(fd) }
    }
}

/// An interface request that names the device.
pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

/// Asks with one of the device ioctls.
pub(super) fn ask(fd: &OwnedFd, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every number used here takes a pointer to an ifreq; SIOCETHTOOL follows `ifru_data`, which then points to
    // the structure of its command.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), number as _, &raw mut *request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bonds_and_their_members_are_told_by_driver_and_flags() {
        let up = libc::IFF_UP | libc::IFF_BROADCAST;
        for (driver, flags, expected) in [
            ("bonding", up | libc::IFF_MASTER, Some(Bonded::Whole)),
            ("team", up, Some(Bonded::Whole)),
            ("ixgbe", up | libc::IFF_SLAVE, Some(Bonded::Member)),
            ("ixgbe", up, None),
            ("", up, None),
        ] {
            assert_eq!(bonded(driver, flags), expected, "{driver}");
        }
        let told = OpenError::Bonded { device: "bond0".into(), bonded: Bonded::Whole }.to_string();
        assert!(told.starts_with("bond0: a bond, whose frames XDP sockets never see: "), "{told}");
    }
}
