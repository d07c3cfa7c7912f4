//! Which devices take XDP frames now? The kernel says it of each (NETDEV_XDP_ACT_NDO_XMIT) and tells when that changes.
//!
//! It does change: a veth takes them only while its peer has NAPI, that is GRO or an XDP program in native mode, and
//! drops them without a word otherwise. The kernel's word comes late, though: it looks at the peer when GRO is switched while
//! both are up, and when the device itself goes up (`veth_set_features`, `veth_open`). A peer that has switched GRO on
//! while it was down is not known to have it, and the kernel refuses what is sent (`__xdp_enqueue`); one that has switched it off so is
//! thought to have it still. So a thread listens to what the kernel announces and asks anew. Between a change and
//! this thread's noticing it lie some microseconds, in which frames may be lost as they are when a link goes down.
//! Kernels before 6.3 do not tell; there no device takes XDP frames as far as we are concerned.

#![allow(unsafe_code, reason = "netlink sockets and libbpf's query")]

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A device, by its index, and whether it takes XDP frames.
pub(super) type Watched = (u32, Arc<AtomicBool>);

/// The listening thread. Dropping this ends it.
pub(super) struct Watch {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Asks once and then listens, in the caller's network namespace.
    pub(super) fn start(devices: Vec<Watched>) -> io::Result<Watch> {
        let news = subscribe()?;
        devices.iter().for_each(ask);
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let told = stop.clone();
        let thread =
            std::thread::Builder::new().name("xdp-watch".into()).spawn(move || listen(&news, &told, &devices))?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It fails only when the counter is at its end, and then the thread is told already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

fn listen(news: &OwnedFd, stop: &EventFd, devices: &[Watched]) {
    let mut bytes = [0; 8192];
    loop {
        let mut fds = [PollFd::new(news.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[1].any() == Some(true) => return,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!("waiting for news of devices: {error}; frames go through the tx rings from now on");
                return devices.iter().for_each(|(_, takes)| takes.store(false, Ordering::Relaxed));
            }
        }
        // What it says does not matter, nor whether some of it was lost: all devices are asked.
        while recv(news.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok() {}
        devices.iter().for_each(ask);
    }
}

/// NETDEV_XDP_ACT_NDO_XMIT of linux/netdev.h.
const TAKES_FRAMES: u64 = 4;

/// Asks the kernel whether a device takes XDP frames.
fn ask((index, takes): &Watched) {
    let mut options =
        libbpf_sys::bpf_xdp_query_opts { sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    // SAFETY: the options live through the call and say their own size.
    let answer = unsafe { libbpf_sys::bpf_xdp_query(*index as i32, 0, &raw mut options) };
    let now = answer == 0 && options.feature_flags & TAKES_FRAMES != 0;
    takes.store(now, Ordering::Relaxed);
}

/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY and the attributes of linux/genetlink.h.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;

/// Headers of netlink and of generic netlink.
const HEADERS: usize = 16 + 4;

/// A socket that hears of changes: of the group "mgmt" of the family "netdev".
fn subscribe() -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let name = b"netdev\0";
    let len = HEADERS + 4 + name.len().next_multiple_of(4);
    let mut request = Vec::with_capacity(len);
    request.extend_from_slice(&(len as u32).to_ne_bytes());
    request.extend_from_slice(&CONTROL.to_ne_bytes());
    request.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[GET_FAMILY, 1, 0, 0]);
    request.extend_from_slice(&(4 + name.len() as u16).to_ne_bytes());
    request.extend_from_slice(&FAMILY_NAME.to_ne_bytes());
    request.extend_from_slice(name);
    request.resize(len, 0);
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 8192];
    let len = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let group = group(&answer[..len], b"mgmt\0")
        .ok_or_else(|| io::Error::other("this kernel does not tell which devices take XDP frames (Linux 6.3 does)"))?;
    // SAFETY: the pointer and length describe a number that lives through the call.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            size_of::<u32>() as u32,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// The number of a multicast group in an answer to GET_FAMILY.
fn group(answer: &[u8], name: &[u8]) -> Option<u32> {
    let groups = attributes(answer.get(HEADERS..)?).find(|(kind, _)| *kind == GROUPS)?.1;
    attributes(groups).find_map(|(_, group)| {
        let member = |wanted| attributes(group).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let id = member(GROUP_ID)?.first_chunk().copied().map(u32::from_ne_bytes)?;
        (member(GROUP_NAME)? == name).then_some(id)
    })
}

/// The attributes in a netlink payload.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The two highest bits are flags.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_group_is_found_among_others_and_broken_answers_have_none() {
        let one = |name: &[u8], id: u32| [attribute(GROUP_NAME, name), attribute(GROUP_ID, &id.to_ne_bytes())].concat();
        let groups = [attribute(1, &one(b"page-pool\0", 4)), attribute(0x8002, &one(b"mgmt\0", 5))].concat();
        let answer =
            [vec![0; HEADERS], attribute(FAMILY_NAME, b"netdev\0"), attribute(0x8000 | GROUPS, &groups)].concat();
        assert_eq!(group(&answer, b"mgmt\0"), Some(5));
        assert_eq!(group(&answer, b"page-pool\0"), Some(4));
        assert_eq!(group(&answer, b"other\0"), None);
        for len in 0..answer.len() {
            let cut = group(&answer[..len], b"mgmt\0");
            assert!(cut.is_none(), "{len}: {cut:?}");
        }
        assert_eq!(group(&[0; 64], b"mgmt\0"), None);
    }
}
