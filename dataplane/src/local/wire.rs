//! The link between engine and smoltcp: a ring of slots on the way in, one buffer on the way out. All of it fixed.

use crate::packet::view::{Ipv4, Ipv6, Tcp, tcp_flag};
use crate::packet::{edit, mss};
use crate::reason::DropReason;
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use sumun_config::facts::{Facts, Family, PortId, proto};

/// Packets that may wait to be processed.
pub(super) const SLOTS: usize = 64;
/// Bytes of a slot: no frame holds a longer packet.
pub(super) const SLOT: usize = 4096;

/// The device that smoltcp sees.
pub(super) struct Wire {
    slots: Box<[[u8; SLOT]]>,
    lens: [usize; SLOTS],
    ports: [PortId; SLOTS],
    first: usize,
    waiting: usize,
    out: Box<[u8]>,
    /// Length of the packet in `out`, until it is handed over.
    sent: Option<usize>,
    /// TOS byte of the packet that is being answered.
    pub asked_tos: u8,
    /// Where it came in.
    pub asked_on: PortId,
}

impl Wire {
    pub fn new() -> Wire {
        Wire {
            slots: vec![[0; SLOT]; SLOTS].into(),
            lens: [0; SLOTS],
            ports: [PortId::NONE; SLOTS],
            first: 0,
            waiting: 0,
            out: vec![0; SLOT].into(),
            sent: None,
            asked_tos: 0,
            asked_on: PortId::NONE,
        }
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether another packet may come.
    pub fn has_room(&self) -> bool {
        self.waiting < SLOTS
    }

    /// Puts the packet that `write` writes, and whose length it says, behind those that wait.
    pub fn enqueue(
        &mut self,
        port: PortId,
        write: impl FnOnce(&mut [u8]) -> Result<usize, DropReason>,
    ) -> Result<(), DropReason> {
        if !self.has_room() {
            return Err(DropReason::LocalQueue);
        }
        let at = (self.first + self.waiting) % SLOTS;
        self.lens[at] = write(&mut self.slots[at])?;
        self.ports[at] = port;
        self.waiting += 1;
        Ok(())
    }

    /// The packet that is next.
    pub fn next(&self) -> Option<&[u8]> {
        (self.waiting > 0).then(|| &self.slots[self.first][..self.lens[self.first]])
    }

    /// Lets it go.
    pub fn skip(&mut self) {
        self.first = (self.first + 1) % SLOTS;
        self.waiting -= 1;
    }

    /// The packet that smoltcp wrote, if it did.
    pub fn take_sent(&mut self) -> Option<&mut [u8]> {
        self.sent.take().and_then(|len| self.out.get_mut(..len))
    }
}

/// Writes a packet without IPv6 extension headers, addressed to `own`, and answers its length. Whoever opens a connection is
/// asked in segments that fit every path: the router keeps no path MTUs.
pub(super) fn write_bare(l3: &[u8], facts: &Facts, own: u128, into: &mut [u8]) -> Result<usize, DropReason> {
    /// What is left of IPv6's least MTU behind the headers.
    const MSS: u16 = 1220;
    let (len, l4_off) = (usize::from(facts.len), usize::from(facts.l4_off));
    let header_len = match facts.family {
        Family::V4 => l4_off,
        Family::V6 => Ipv6::LEN,
    };
    let header = l3.get(..header_len).ok_or(DropReason::IpHeader)?;
    let upper = l3.get(l4_off..len).ok_or(DropReason::IpHeader)?;
    let bare_len = header_len + upper.len();
    let slot = into.get_mut(..bare_len).ok_or(DropReason::LocalQueue)?;
    slot[..header_len].copy_from_slice(header);
    slot[header_len..].copy_from_slice(upper);
    let mut bare = Facts { l4_off: header_len as u16, len: bare_len as u16, ..*facts };
    if facts.family == Family::V6 {
        slot[4..6].copy_from_slice(&(upper.len() as u16).to_be_bytes());
        slot[6] = facts.proto;
    }
    if own != facts.dst {
        edit::set_destination(slot, &mut bare, own);
    }
    if is_syn(facts.proto, &slot[header_len..]) {
        mss::lower_mss(&mut slot[header_len..], MSS);
    }
    Ok(bare_len)
}

/// Whether this is the first segment of a connection.
pub(super) fn is_syn(protocol: u8, l4: &[u8]) -> bool {
    let flags = |tcp: Tcp| tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST);
    protocol == proto::TCP && Tcp::new(l4).map(flags) == Some(tcp_flag::SYN)
}

/// Whether this packet, as [`write_bare`] wrote it, wants to open a connection.
pub(super) fn opens_connection(packet: &[u8]) -> bool {
    let (protocol, l4) = match Ipv6::new(packet) {
        Some(ip) if packet[0] >> 4 == 6 => (ip.next_header(), Ipv6::LEN),
        _ => match Ipv4::new(packet) {
            Some(ip) => (ip.protocol(), ip.header_len()),
            None => return false,
        },
    };
    is_syn(protocol, packet.get(l4..).unwrap_or_default())
}

/// A packet on its way into smoltcp.
pub(super) struct Incoming<'a>(&'a [u8]);

/// The buffer that smoltcp may write one packet into.
pub(super) struct Outgoing<'a> {
    out: &'a mut [u8],
    sent: &'a mut Option<usize>,
}

impl Device for Wire {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        if self.waiting == 0 || self.sent.is_some() {
            return None;
        }
        let at = self.first;
        self.skip();
        let packet = &self.slots[at][..self.lens[at]];
        self.asked_on = self.ports[at];
        self.asked_tos = match packet {
            [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
            [_, tos, ..] => *tos,
            _ => 0,
        };
        Some((Incoming(packet), Outgoing { out: &mut self.out, sent: &mut self.sent }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        self.asked_tos = 0;
        self.asked_on = PortId::NONE;
        self.sent.is_none().then_some(Outgoing { out: &mut self.out, sent: &mut self.sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = SLOT;
        capabilities
    }
}

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        // smoltcp keeps to the MTU, which is the size of the buffer.
        let len = len.min(self.out.len());
        *self.sent = Some(len);
        f(&mut self.out[..len])
    }
}
