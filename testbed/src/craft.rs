//! Crafted packets through the router, from two ends that are nobody's addresses: no host's own stack answers in between.
//!
//! The near end is beside client1, the far end beside the server. The router knows both as neighbours
//! ([`Ends::neighbours`]). After each packet a datagram follows that every ruleset of these tests lets pass; what has not come
//! out when that does was dropped. So nothing waits for what does not come.

use crate::Lab;
use crate::differential::net::address;
use crate::differential::wire::{self, ETHERNET, Ip};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use sumun_config::facts::{Family, proto};

/// How long a packet may be on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ports of the datagram that follows each packet.
const MARKER: (u16, u16) = (9, 9);

/// A packet and the end that sends it.
pub type Sent = (End, Vec<u8>);

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Beside client1.
    Near,
    /// Beside the server.
    Far,
}

impl End {
    /// Its address.
    pub fn address(self, family: Family) -> u128 {
        address(match (self, family) {
            (End::Near, Family::V4) => "192.168.1.50",
            (End::Near, Family::V6) => "fd00:1::50",
            (End::Far, Family::V4) => "203.0.113.50",
            (End::Far, Family::V6) => "2001:db8:2::50",
        })
    }

    /// The header of a packet from here to the other end.
    pub fn ip(self, family: Family) -> Ip {
        Ip::new(family, self.address(family), self.other().address(family))
    }

    /// The other one.
    pub fn other(self) -> End {
        match self {
            End::Near => End::Far,
            End::Far => End::Near,
        }
    }
}

/// A device beside an end, and the router's opposite to it.
struct Wire {
    socket: OwnedFd,
    own: [u8; 6],
    router: [u8; 6],
}

/// Both ends.
pub struct Ends {
    near: Wire,
    far: Wire,
}

impl Ends {
    /// Takes hold of the devices.
    pub fn new(lab: &Lab) -> Result<Ends> {
        let mac = |device| lab.router.inside(move || link(device)?.addr().context("no MAC"));
        let wire = |host: &crate::Host, device| {
            let router = mac(device)?;
            host.inside(move || {
                let (socket, own) = packet_socket("eth0")?;
                Ok(Wire { socket, own, router })
            })
        };
        Ok(Ends { near: wire(&lab.client1, "lan0")?, far: wire(&lab.server, "wan0")? })
    }

    /// What the configuration says of the ends.
    pub fn neighbours(&self) -> String {
        let mut text = String::new();
        for family in Family::ALL {
            for (end, wire, port) in [(End::Near, &self.near, "lan0"), (End::Far, &self.far, "wan0")] {
                let (address, mac) =
                    (family.address(end.address(family)), crate::differential::net::mac_text(wire.own));
                text +=
                    &format!("[[neighbours]]\ninterface = \"{port}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n\n");
            }
        }
        text
    }

    fn wire(&self, end: End) -> &Wire {
        match end {
            End::Near => &self.near,
            End::Far => &self.far,
        }
    }

    /// Sends a packet into the router; the packets of its protocol that come out at the other end.
    pub fn send(&self, (from, packet): &Sent) -> Result<Vec<Vec<u8>>> {
        let from = *from;
        let family = wire::family(packet);
        self.put(from, packet)?;
        self.put(from, &from.ip(family).packet(proto::UDP, &wire::udp(MARKER, b"marker"), 0))?;
        let mut out = Vec::new();
        let began = Instant::now();
        let mut buffer = vec![0; 2048];
        loop {
            match socket::recv(self.wire(from.other()).socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(n) if self.is_ours(from.other(), &buffer[..n]) => {
                    let l3 = buffer[ETHERNET..n].to_vec();
                    if l3.windows(6).any(|w| w == b"marker") {
                        return Ok(out);
                    }
                    out.push(l3);
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) if began.elapsed() > PATIENCE => bail!("not even the marker came through"),
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_micros(200)),
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }

    /// Whether a packet comes out at the other end.
    pub fn passes(&self, sent: &Sent) -> Result<bool> {
        Ok(!self.send(sent)?.is_empty())
    }

    fn put(&self, from: End, packet: &[u8]) -> Result<()> {
        let wire = self.wire(from);
        let frame = wire::frame(wire::family(packet), wire.own, wire.router, packet);
        socket::send(wire.socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        Ok(())
    }

    /// From the router, and neither ARP nor neighbour discovery.
    fn is_ours(&self, at: End, frame: &[u8]) -> bool {
        let from_router = frame.get(6..12) == Some(&self.wire(at).router[..]);
        let kind = frame.get(12..14).unwrap_or_default();
        let discovery =
            frame.len() > 54 && kind == [0x86, 0xdd] && frame[20] == proto::ICMPV6 && (133..=137).contains(&frame[54]);
        from_router && kind != [8, 6] && !discovery
    }
}

fn link(device: &str) -> Result<LinkAddr> {
    let of_device = |a: nix::ifaddrs::InterfaceAddress| {
        if a.interface_name == device { a.address?.as_link_addr().copied() } else { None }
    };
    nix::ifaddrs::getifaddrs()?.find_map(of_device).context("the device has no address")
}

/// A socket for the frames of a device, and the device's MAC.
pub fn packet_socket(device: &str) -> Result<(OwnedFd, [u8; 6])> {
    let fd = socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    let address = link(device)?;
    socket::bind(fd.as_raw_fd(), &address)?;
    Ok((fd, address.addr().context("no MAC")?))
}

/// One end of a TCP connection between [`End::Near`] and [`End::Far`], of which segments are made.
#[derive(Clone, Copy)]
pub struct Tcp {
    /// Family of its packets.
    pub family: Family,
    /// Who sends.
    pub from: End,
    /// Source and destination port.
    pub ports: (u16, u16),
}

impl Tcp {
    /// A segment: flags as letters (`S`, `.` for ACK, `R`, `F`, `P`), sequence and acknowledgment number, window, options, and
    /// bytes of payload.
    pub fn segment(&self, flags: &str, seq: u32, ack: u32, window: u16, options: &[u8], len: usize) -> Sent {
        let bits = flags.chars().fold(0, |bits, flag| {
            bits | match flag {
                'F' => 0x01,
                'S' => 0x02,
                'R' => 0x04,
                'P' => 0x08,
                '.' => 0x10,
                other => panic!("no flag is called {other}"),
            }
        });
        let mut l4 = wire::tcp(self.ports, seq, ack, bits, options, &vec![b'x'; len]);
        l4[14..16].copy_from_slice(&window.to_be_bytes());
        (self.from, self.from.ip(self.family).packet(proto::TCP, &l4, 0))
    }
}
