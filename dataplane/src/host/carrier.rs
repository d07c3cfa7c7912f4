//! A port's cable is pulled: the host must see it on the TAP, or routing daemons go on announcing what is not reachable.
//!
//! The kernel tells of links on a netlink socket in the devices' namespace; another one in the TAPs' namespace switches the
//! carrier of a TAP. What is asked and told is the least of rtnetlink: the number of a device and its flags.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// RTMGRP_LINK of linux/rtnetlink.h.
const LINKS: u32 = 1;
/// Length of a netlink header; of it with `ifinfomsg` behind it.
const HEADER: usize = 16;
const LINK: usize = HEADER + 16;
/// Up, and with carrier: IFF_UP and IFF_LOWER_UP of linux/if.h.
const UP: u32 = 1 | 1 << 16;

/// Carries the state of links over to TAPs.
pub struct Carrier {
    news: OwnedFd,
    pairs: Vec<Pair>,
}

/// A device and the TAP of its port.
struct Pair {
    device: u32,
    tap: u32,
    name: String,
    is_up: Option<bool>,
}

/// A way to the TAPs' namespace: made there.
pub struct Switch(OwnedFd);

impl Switch {
    /// A way to the caller's network namespace.
    pub fn open() -> io::Result<Switch> {
        route_socket(0).map(Switch)
    }

    fn set(&self, tap: u32, carrier: Carried) -> nix::Result<()> {
        let mut request = [0; LINK + 8];
        head(&mut request, libc::RTM_NEWLINK, libc::NLM_F_REQUEST);
        request[HEADER + 4..HEADER + 8].copy_from_slice(&tap.to_ne_bytes());
        request[LINK..LINK + 2].copy_from_slice(&5u16.to_ne_bytes());
        request[LINK + 2..LINK + 4].copy_from_slice(&libc::IFLA_CARRIER.to_ne_bytes());
        request[LINK + 4] = carrier as u8;
        send(self.0.as_raw_fd(), &request, MsgFlags::empty())?;
        self.tell(tap)
    }

    /// Makes the kernel tell everybody at once. By itself it tells of lost carriers once a second (`linkwatch_urgent_event`), but
    /// who asks must not hear of another state than others know (`linkwatch_sync_dev` in `rtnl_getlink`, since Linux 6.8).
    fn tell(&self, tap: u32) -> nix::Result<()> {
        let mut request = [0; LINK];
        head(&mut request, libc::RTM_GETLINK, libc::NLM_F_REQUEST);
        request[HEADER + 4..HEADER + 8].copy_from_slice(&tap.to_ne_bytes());
        send(self.0.as_raw_fd(), &request, MsgFlags::empty())?;
        // The answer is there already. Nobody wants to know.
        let mut answer = [0; LINK];
        while recv(self.0.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Carried {
    Off = 0,
    On = 1,
}

impl Carrier {
    /// Listens in the caller's network namespace, which is that of the devices. `pairs` are numbers of devices and of the TAPs of their
    /// ports, with the ports' names.
    pub fn watch(pairs: Vec<(u32, u32, String)>) -> io::Result<Carrier> {
        let carrier = Carrier {
            news: route_socket(LINKS)?,
            pairs: pairs.into_iter().map(|(device, tap, name)| Pair { device, tap, name, is_up: None }).collect(),
        };
        carrier.ask()?;
        Ok(carrier)
    }

    /// Makes the kernel tell of all links.
    fn ask(&self) -> nix::Result<()> {
        let mut request = [0; LINK];
        head(&mut request, libc::RTM_GETLINK, libc::NLM_F_REQUEST | libc::NLM_F_DUMP);
        send(self.news.as_raw_fd(), &request, MsgFlags::empty()).map(drop)
    }

    /// Takes what the kernel has told and switches the TAPs that it concerns. Never waits.
    pub fn follow(&mut self, switch: &Switch) {
        let mut bytes = [0; 1 << 15];
        loop {
            match recv(self.news.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => links(&bytes[..len], |device, flags| self.take(device, flags, switch)),
                // Some of it was lost.
                Err(Errno::ENOBUFS) => {
                    if let Err(error) = self.ask() {
                        tracing::error!("asking for the state of links: {error}");
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The TAP of a number was made again, with another one. It has a carrier.
    pub fn renew(&mut self, old: u32, new: u32, switch: &Switch) {
        for pair in self.pairs.iter_mut().filter(|pair| pair.tap == old) {
            pair.tap = new;
            if pair.is_up == Some(false)
                && let Err(error) = switch.set(new, Carried::Off)
            {
                tracing::error!("{}: switching the carrier of the TAP: {error}", pair.name);
            }
        }
    }

    fn take(&mut self, device: u32, flags: u32, switch: &Switch) {
        let is_up = flags & UP == UP;
        for pair in self.pairs.iter_mut().filter(|pair| pair.device == device && pair.is_up != Some(is_up)) {
            // A TAP has a carrier when it is made.
            let was_up = pair.is_up.replace(is_up).unwrap_or(true);
            if was_up == is_up {
                continue;
            }
            match switch.set(pair.tap, if is_up { Carried::On } else { Carried::Off }) {
                Ok(()) => tracing::info!("{}: the link is {}", pair.name, if is_up { "up" } else { "down" }),
                Err(error) => tracing::error!("{}: switching the carrier of the TAP: {error}", pair.name),
            }
        }
    }
}

impl AsFd for Carrier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

fn route_socket(groups: u32) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

fn head(request: &mut [u8], kind: u16, flags: i32) {
    let len = request.len() as u32;
    request[..4].copy_from_slice(&len.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
}

/// Numbers and flags of the devices in what the kernel tells; a device that is gone is down.
fn links(mut bytes: &[u8], mut each: impl FnMut(u32, u32)) {
    let number = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.first_chunk().copied().map(u32::from_ne_bytes);
    while let (Some(len), Some(kind)) = (number(bytes, 0), number(bytes, 4)) {
        let len = len as usize;
        let Some(message) = bytes.get(..len).filter(|_| len >= HEADER) else { return };
        if let (Some(index), Some(flags)) = (number(message, HEADER + 4), number(message, HEADER + 8)) {
            match kind as u16 {
                libc::RTM_NEWLINK => each(index, flags),
                libc::RTM_DELLINK => each(index, 0),
                _ => {}
            }
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; LINK + 4];
        head(&mut bytes, kind, 0);
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
        bytes[HEADER + 8..HEADER + 12].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    fn told(bytes: &[u8]) -> Vec<(u32, u32)> {
        let mut told = Vec::new();
        links(bytes, |index, flags| told.push((index, flags)));
        told
    }

    #[test]
    fn links_are_found_among_other_messages_and_broken_ones_end_it() {
        let all = [message(libc::RTM_NEWLINK, 3, UP), message(2, 9, 9), message(libc::RTM_DELLINK, 4, UP)].concat();
        assert_eq!(told(&all), [(3, UP), (4, 0)]);
        for len in 0..all.len() {
            assert!(told(&all[..len]).len() < 2);
        }
        let mut short = all.clone();
        short[..4].copy_from_slice(&15u32.to_ne_bytes());
        assert!(told(&short).is_empty());
        assert!(told(&[0; 64]).is_empty());
    }

    #[test]
    fn the_kernel_tells_of_the_loopback() {
        let carrier = Carrier::watch(Vec::new()).unwrap();
        let mut bytes = [0; 1 << 15];
        let len = recv(carrier.news.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        assert!(told(&bytes[..len]).iter().any(|(index, _)| *index == 1));
    }
}
