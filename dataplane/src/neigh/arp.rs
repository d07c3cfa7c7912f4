//! ARP (RFC 826): what messages ask and teach, and the frames of ours.
//!
//! Judged as `arp_process` does with the sysctls' defaults: an address of the router is answered for on every port
//! (`arp_ignore` 0), to senders that routing would accept there; whoever asks for one is learned; all else only updates
//! neighbours that are known already, gratuitous messages too (`arp_accept` 0). No proxy ARP.

use super::{Learned, Replaces};
use crate::fib::{Fib, Key};
use crate::packet::view::ethertype;
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{AddrType, Family, PacketType, PortId};

/// Bytes of an ARP message for Ethernet and IPv4.
const LEN: usize = 28;
/// Bytes of a frame with one; the device pads it.
const FRAME: usize = 14 + LEN;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Hardware, protocol and the lengths of their addresses: Ethernet, IPv4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// A request or a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// A reply, not a request.
    pub is_reply: bool,
    /// MAC that the sender claims.
    pub sender_mac: [u8; 6],
    /// IPv4 address that the sender claims; 0 in a probe for duplicates.
    pub sender: u32,
    /// MAC of the target; in a request usually zero.
    pub target_mac: [u8; 6],
    /// IPv4 address that is meant.
    pub target: u32,
}

/// The reply that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Own address that was asked for.
    pub addr: u32,
    /// Who asked.
    pub to_mac: [u8; 6],
    /// From which address; 0 for a probe.
    pub to: u32,
}

/// What to do about a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Tell the resolver.
    pub learned: Option<Learned>,
    /// Answer.
    pub reply: Option<Reply>,
}

/// Reads a message from the bytes behind the link header. None: not a request or reply for Ethernet and IPv4, or too short.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let bytes: &[u8; LEN] = bytes.first_chunk()?;
    // IEEE 802 networks (6) count as Ethernet, as RFC 1042 hosts may say so.
    let kind_ok = bytes[..6] == KIND || (bytes[..2] == [0, 6] && bytes[2..6] == KIND[2..]);
    let op = u16::from_be_bytes([bytes[6], bytes[7]]);
    let mac = |at: usize| std::array::from_fn(|i| bytes[at + i]);
    let addr = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    (kind_ok && matches!(op, REQUEST | REPLY)).then(|| Message {
        is_reply: op == REPLY,
        sender_mac: mac(8),
        sender: addr(14),
        target_mac: mac(18),
        target: addr(24),
    })
}

/// Judges a message (the bytes behind the link header) that came in on a port.
pub fn process(bytes: &[u8], port: PortId, pkt_type: PacketType, fib: &Fib) -> Result<Outcome, DropReason> {
    let message = parse(bytes).ok_or(DropReason::Arp)?;
    let Message { is_reply, sender_mac, sender, target_mac, target } = message;
    let is_loopback_or_group = target >> 24 == 127 || target >> 28 == 0xe;
    // RFC 1812 section 3.3.2: never believe that a host has a group address.
    let is_bad_mac = sender_mac[0] & 1 != 0 || sender_mac == [0; 6];
    if is_loopback_or_group || is_bad_mac || pkt_type == PacketType::OtherHost {
        return Err(DropReason::Arp);
    }
    let is_local = fib.addr_type_from(Family::V4, target as u128, port) == AddrType::Local;
    let reply = Some(Reply { addr: target, to_mac: sender_mac, to: sender });
    if sender == 0 {
        // A host looks whether its address is taken (RFC 5227).
        let reply = reply.filter(|_| is_local && !is_reply);
        return Ok(Outcome { learned: None, reply });
    }
    let mut learned = Learned {
        port,
        family: Family::V4,
        addr: sender as u128,
        mac: Some(sender_mac),
        confirms: false,
        replaces: Replaces::Always,
        creates: true,
        router: None,
    };
    if !is_reply && is_local && is_accepted(port, sender, target, fib) {
        return Ok(Outcome { learned: Some(learned), reply });
    }
    let is_gratuitous = sender == target
        && (!is_reply || target_mac == sender_mac)
        && fib.addr_type_from(Family::V4, sender as u128, port) == AddrType::Unicast;
    learned.creates = false;
    learned.confirms = is_reply && pkt_type == PacketType::Host;
    learned.replaces = if is_gratuitous { Replaces::Always } else { Replaces::Settled };
    Ok(Outcome { learned: Some(learned), reply: None })
}

/// Whether routing would take a packet from this sender to this target (`ip_route_input` in `arp_process`).
fn is_accepted(port: PortId, sender: u32, target: u32, fib: &Fib) -> bool {
    let (src, dst) = (sender as u128, target as u128);
    let key = Key { family: Family::V4, src, dst, iif: port, mark: 0, tos: 0, hash: 0 };
    let route = fib.lookup(&key);
    route == crate::fib::Route::Local && fib.check_source(&key, &route).is_ok()
}

/// Writes a request for `target` as an Ethernet frame: to everybody, or as a probe to one MAC. False where it does not fit.
#[must_use]
pub fn request(frame: &mut Frame, mac: [u8; 6], source: u32, target: u32, unicast: Option<[u8; 6]>) -> bool {
    let to = unicast.unwrap_or(EVERYBODY);
    frame.set(&message(REQUEST, to, (mac, source), ([0; 6], target)))
}

/// Writes a reply as an Ethernet frame. False where it does not fit.
#[must_use]
pub fn reply(frame: &mut Frame, mac: [u8; 6], reply: &Reply) -> bool {
    frame.set(&message(REPLY, reply.to_mac, (mac, reply.addr), (reply.to_mac, reply.to)))
}

/// Writes a gratuitous request that tells a link of an own address (RFC 5227 section 2.3). False where it does not fit.
#[must_use]
pub fn announce(frame: &mut Frame, mac: [u8; 6], addr: u32) -> bool {
    frame.set(&message(REQUEST, EVERYBODY, (mac, addr), ([0; 6], addr)))
}

fn message(op: u16, to: [u8; 6], sender: ([u8; 6], u32), target: ([u8; 6], u32)) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&sender.0);
    frame[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
    frame[14..20].copy_from_slice(&KIND);
    frame[20..22].copy_from_slice(&op.to_be_bytes());
    frame[22..28].copy_from_slice(&sender.0);
    frame[28..32].copy_from_slice(&sender.1.to_be_bytes());
    frame[32..38].copy_from_slice(&target.0);
    frame[38..42].copy_from_slice(&target.1.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neigh::tests::{LAN, WAN, fib};
    use crate::umem::Pool;

    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0];

    fn ip(text: &str) -> u32 {
        text.parse::<std::net::Ipv4Addr>().unwrap().into()
    }

    fn arp(op: u16, sender: &str, target_mac: [u8; 6], target: &str) -> Vec<u8> {
        message(op, EVERYBODY, (HOST, ip(sender)), (target_mac, ip(target)))[14..].to_vec()
    }

    /// The layout of RFC 826 for Ethernet (1), IPv4 (0x0800), lengths 6 and 4.
    #[test]
    fn frames_have_the_layout_of_the_rfc() {
        let mut pool = Pool::fresh(1, 2048);
        let mut frame = pool.take().unwrap();
        assert!(request(&mut frame, OWN, ip("10.0.0.1"), ip("10.0.0.7"), None));
        let expected =
            "ffffffffffff 020000000000 0806 0001 0800 06 04 0001 020000000000 0a000001 000000000000 0a000007";
        assert_eq!(hex(frame.bytes()), expected.replace(' ', ""));
        assert!(request(&mut frame, OWN, ip("10.0.0.1"), ip("10.0.0.7"), Some(HOST)));
        assert_eq!(hex(&frame.bytes()[..6]), "020000000077");
        assert!(reply(&mut frame, OWN, &Reply { addr: ip("10.0.0.1"), to_mac: HOST, to: ip("10.0.0.7") }));
        let expected =
            "020000000077 020000000000 0806 0001 0800 06 04 0002 020000000000 0a000001 020000000077 0a000007";
        assert_eq!(hex(frame.bytes()), expected.replace(' ', ""));
        assert!(announce(&mut frame, OWN, ip("10.0.0.1")));
        let expected =
            "ffffffffffff 020000000000 0806 0001 0800 06 04 0001 020000000000 0a000001 000000000000 0a000001";
        assert_eq!(hex(frame.bytes()), expected.replace(' ', ""));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn malformed_messages_are_dropped() {
        let good = arp(REQUEST, "10.0.0.7", [0; 6], "10.0.0.1");
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        for (what, bytes) in [
            ("nothing", vec![]),
            ("cut short", good[..27].to_vec()),
            ("hardware", with(1, 7)),
            ("protocol", with(3, 6)),
            ("MAC length", with(4, 8)),
            ("address length", with(5, 16)),
            ("operation", with(7, 3)),
            ("sender is a group", with(8, 1)),
            ("for loopback", with(24, 127)),
            ("for a group", with(24, 224)),
        ] {
            assert_eq!(process(&bytes, LAN, PacketType::Broadcast, &fib()), Err(DropReason::Arp), "{what}");
        }
        assert_eq!(process(&good, LAN, PacketType::OtherHost, &fib()), Err(DropReason::Arp));
        assert!(process(&with(1, 6), LAN, PacketType::Broadcast, &fib()).is_ok());
    }

    /// Each message, and: is it answered, does it create, confirm, replace at once; none where nothing is learned.
    #[test]
    fn messages_are_judged_as_arp_process_does() {
        use PacketType::{Broadcast, Host};
        let fib = fib();
        for (what, bytes, port, pkt_type, answered, learned) in [
            ("request for us", arp(REQUEST, "10.0.0.7", [0; 6], "10.0.0.1"), LAN, Broadcast, true, Some("create")),
            ("on another port", arp(REQUEST, "10.0.0.7", [0; 6], "192.0.2.1"), LAN, Broadcast, true, Some("create")),
            (
                "sender of another link",
                arp(REQUEST, "172.16.0.7", [0; 6], "10.0.0.1"),
                LAN,
                Broadcast,
                true,
                Some("create"),
            ),
            (
                "refused by the reverse path",
                arp(REQUEST, "10.0.0.7", [0; 6], "192.0.2.1"),
                WAN,
                Broadcast,
                false,
                Some("settled"),
            ),
            (
                "our own address as sender",
                arp(REQUEST, "10.0.0.1", [0; 6], "10.0.0.1"),
                LAN,
                Broadcast,
                false,
                Some("settled"),
            ),
            ("unicast probe for us", arp(REQUEST, "10.0.0.7", OWN, "10.0.0.1"), LAN, Host, true, Some("create")),
            (
                "request for another",
                arp(REQUEST, "10.0.0.7", [0; 6], "10.0.0.8"),
                LAN,
                Broadcast,
                false,
                Some("settled"),
            ),
            ("duplicate address probe", arp(REQUEST, "0.0.0.0", [0; 6], "10.0.0.1"), LAN, Broadcast, true, None),
            ("probe for another", arp(REQUEST, "0.0.0.0", [0; 6], "10.0.0.8"), LAN, Broadcast, false, None),
            ("reply to us", arp(REPLY, "10.0.0.7", OWN, "10.0.0.1"), LAN, Host, false, Some("confirm settled")),
            ("broadcast reply", arp(REPLY, "10.0.0.7", OWN, "10.0.0.1"), LAN, Broadcast, false, Some("settled")),
            ("gratuitous request", arp(REQUEST, "10.0.0.7", [0; 6], "10.0.0.7"), LAN, Broadcast, false, Some("")),
            ("gratuitous reply", arp(REPLY, "10.0.0.7", HOST, "10.0.0.7"), LAN, Broadcast, false, Some("")),
            ("its target MAC differs", arp(REPLY, "10.0.0.7", OWN, "10.0.0.7"), LAN, Broadcast, false, Some("settled")),
        ] {
            let outcome = process(&bytes, port, pkt_type, &fib).unwrap();
            assert_eq!(outcome.reply.is_some(), answered, "{what}");
            let said = outcome.learned.map(|learned| {
                assert_eq!((learned.port, learned.mac), (port, Some(HOST)), "{what}");
                let mut words = Vec::new();
                words.extend(learned.creates.then_some("create"));
                words.extend(learned.confirms.then_some("confirm"));
                words.extend((learned.replaces == Replaces::Settled).then_some("settled"));
                words.join(" ")
            });
            assert_eq!(said.as_deref(), learned, "{what}");
        }
    }

    #[test]
    fn a_reply_goes_back_to_who_asked() {
        let bytes = arp(REQUEST, "10.0.0.7", [0; 6], "10.0.0.1");
        let outcome = process(&bytes, LAN, PacketType::Broadcast, &fib()).unwrap();
        assert_eq!(outcome.reply, Some(Reply { addr: ip("10.0.0.1"), to_mac: HOST, to: ip("10.0.0.7") }));
    }
}
