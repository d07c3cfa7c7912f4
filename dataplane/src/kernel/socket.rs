//! Netlink sockets of the network namespace that the thread is in when it opens them.

use super::decode::{self, Continuity, Message, Source};
use super::news::News;
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Bytes that wait for the thread at most: a few hundred thousand routes that come at once.
const WAITING: usize = 64 << 20;
/// Bytes of the largest datagram: the kernel dumps as much as fits, at most 32 KiB.
const DATAGRAM: usize = 1 << 16;
/// How long an answer may take, in milliseconds.
const PATIENCE: u16 = 10_000;

/// What can be told without being asked (`RTNLGRP_*`).
pub mod group {
    /// Devices.
    pub const LINK: u32 = 1;
    /// Neighbours.
    pub const NEIGHBOUR: u32 = 3;
    /// Everything else that is mirrored: addresses, routes and rules of both families, nexthop objects.
    pub const ROUTING: [u32; 7] = [5, 7, 8, 9, 11, 19, 32];
    /// Groups joined; older kernels do not tell.
    pub const MULTICAST: [u32; 2] = [37, 38];
}

/// What can be dumped (`RTM_GET*`).
pub mod get {
    pub use super::super::nexthop::GET as NEXTHOPS;
    /// Devices.
    pub const LINKS: u16 = 18;
    /// Addresses.
    pub const ADDRESSES: u16 = 22;
    /// Routes.
    pub const ROUTES: u16 = 26;
    /// Neighbours.
    pub const NEIGHBOURS: u16 = 30;
    /// Rules.
    pub const RULES: u16 = 34;
}

/// Something is missing from what was told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel had more to tell than the socket could hold.
    #[error("the kernel told more than could wait")]
    Overrun,
    /// The dump is not of one moment.
    #[error("it changed while it was read")]
    Interrupted,
    /// Anything else.
    #[error("netlink: {0}")]
    System(#[from] io::Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        match errno {
            Errno::ENOBUFS => Failure::Overrun,
            errno => Failure::System(errno.into()),
        }
    }
}

/// A netlink socket.
pub struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// A socket that is told of these groups; one that the kernel does not know is left out.
    pub fn open(groups: &[u32]) -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        // Beyond rmem_max where that is allowed, else as far as it goes.
        if setsockopt(&socket, sockopt::RcvBufForce, &WAITING).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &WAITING)?;
        }
        for &group in groups {
            match socket.add_membership(group) {
                Err(_) if group::MULTICAST.contains(&group) => {}
                result => result?,
            }
        }
        Ok(Netlink { socket, buffer: vec![0; DATAGRAM], sequence: 0 })
    }

    /// Takes one datagram, if one waits: its messages, and whether there was one.
    pub fn take(&mut self, each: impl FnMut(Message)) -> Result<bool, Failure> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
            Ok(len) if len > self.buffer.len() => Err(Failure::Overrun),
            Ok(len) => {
                decode::datagram(&self.buffer[..len], Source::Events, each);
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Dumps one kind of thing (of [`get`]).
    pub fn dump(&mut self, kind: u16, family: AddressFamily, mut each: impl FnMut(News)) -> Result<(), Failure> {
        self.sequence += 1;
        // `struct ifaddrmsg` and `nhmsg`, and what the others begin with. The kernel refuses what is behind a `nhmsg`.
        let mut payload = match kind {
            get::ADDRESSES | get::NEXTHOPS => vec![0; 8],
            _ => vec![0; 12],
        };
        if kind == get::LINKS {
            // Without counters, which would be most of it.
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            payload = vec![0; netlink_packet_core::Emitable::buffer_len(&message)];
            netlink_packet_core::Emitable::emit(&message, &mut payload);
        }
        payload[0] = u8::from(family);
        let mut request = Vec::with_capacity(16 + payload.len());
        request.extend((16 + payload.len() as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(payload);
        self.socket.send(&request, 0)?;
        let (mut whole, mut end) = (Continuity::Whole, None);
        while end.is_none() {
            let len = self.receive()?;
            let continuity = decode::datagram(&self.buffer[..len], Source::Dump, |message| match message {
                Message::News(news) => each(news),
                Message::Done => end = Some(Ok(())),
                Message::Answer(errno) => end = Some(Err(io::Error::from_raw_os_error(errno).into())),
                Message::Overrun => end = Some(Err(Failure::Overrun)),
                Message::Unreadable(why) => tracing::debug!("a netlink message of a dump: {why}"),
            });
            if continuity == Continuity::Interrupted {
                whole = continuity;
            }
        }
        match (end, whole) {
            (Some(Ok(())), Continuity::Interrupted) => Err(Failure::Interrupted),
            (end, _) => end.unwrap_or(Ok(())),
        }
    }

    /// Waits for a datagram that answers.
    fn receive(&mut self) -> Result<usize, Failure> {
        loop {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(PATIENCE)) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => return Err(Failure::Overrun),
                Ok(len) => return Ok(len),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Puts an address on a device, or leaves it there.
    pub fn add_address(&mut self, link: u32, net: IpNet) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewAddress(address(link, net));
        self.request(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address from a device.
    pub fn remove_address(&mut self, link: u32, net: IpNet) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelAddress(address(link, net)), NLM_F_REQUEST | NLM_F_ACK)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::from(message));
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = None;
        while answer.is_none() {
            let len = self.receive().map_err(io::Error::other)?;
            decode::datagram(&self.buffer[..len], Source::Events, |message| match message {
                Message::Answer(0) => answer = Some(Ok(())),
                Message::Answer(errno) => answer = Some(Err(io::Error::from_raw_os_error(errno))),
                _ => {}
            });
        }
        answer.unwrap_or(Ok(()))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn address(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    message.header.family = if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message.attributes.push(AddressAttribute::Local(net.addr()));
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()))
        }
        IpNet::V4(_) => {}
        // The engine answers for the address already: nobody else can have it.
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}
