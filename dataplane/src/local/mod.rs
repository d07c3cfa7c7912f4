//! The router as a host: what happens to packets that are for the router itself.
//!
//! A smoltcp interface answers echo requests; for what nobody listens, the engine says so. It is given whole
//! packets at their bare headers (IPv6 extension headers are behind them by then) and accepts any destination, since
//! routing has found it to be local already; answers come from the address that was asked. ICMP errors are not left to
//! it: the engine has the original packet to quote, and the limits. What comes out is the router's own output.
//!
//! Where the settings say so, it also listens to one TCP port and shows the router over HTTP ([`desk`]). Packets of a connection
//! may come in on any worker (that is the device's choice), so connections are the first worker's, and the others leave
//! packets for it ([`board`]).
//!
//! Queue and buffers are fixed when the settings are taken over; nothing is allocated per packet. Neighbour discovery does not
//! come here.

pub mod board;
mod desk;
pub mod http;
mod wire;

use crate::icmp;
use crate::packet::view::{Ipv6, Udp};
use crate::packet::{edit, extension, parse};
use crate::reason::DropReason;
use board::Board;
use desk::Desk;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpEndpoint};
use std::sync::Arc;
use sumun_config::facts::{Facts, Family, PacketType, PortId, proto};
use sumun_config::model::{Metrics, Sysctl};
use wire::Wire;

/// Times that packets are fetched from other workers in one poll.
const ROUNDS: usize = 4;
/// Between two looks at connections, at the least.
const PAUSE: u64 = 1_000_000;

/// The local stack of one worker.
pub struct Local {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    answers: Answers,
    next_id: u16,
    board: Arc<Board>,
    /// The TCP port on which the router shows itself.
    port: Option<u16>,
    /// Who answers there: the first worker only.
    desk: Option<Desk>,
    is_first: bool,
    /// Something was left for the first worker.
    left: bool,
    /// When a connection is to be looked at.
    deadline: Option<u64>,
}

/// What the settings say of answers.
#[derive(Clone, Copy, Debug)]
struct Answers {
    ttl: u8,
    hop_limit: u8,
    ignore_echo: bool,
    ignore_broadcasts: bool,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Local({} waiting)", self.wire.waiting())
    }
}

impl Local {
    /// The stack of this worker with the kernel's default settings; `seed` is for its sequence numbers.
    pub fn new(seed: u64, board: Arc<Board>, worker: usize) -> Local {
        let mut wire = Wire::new();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.set_any_ip(true);
        Local {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            answers: Answers::of(&Sysctl::default()),
            next_id: seed as u16,
            board,
            port: None,
            desk: None,
            is_first: worker == 0,
            left: false,
            deadline: None,
        }
    }

    /// Takes over the settings of a generation. Connections go on where their port is the same.
    pub fn configure(&mut self, sysctl: &Sysctl, metrics: Option<Metrics>) {
        self.answers = Answers::of(sysctl);
        self.port = metrics.map(|metrics| metrics.port);
        if self.is_first && self.desk.as_ref().map(Desk::port) != self.port {
            if let Some(desk) = self.desk.take() {
                desk.close(&mut self.sockets);
            }
            self.desk = self.port.map(|port| Desk::open(port, &mut self.sockets));
            self.deadline = None;
        }
    }

    /// Takes a packet for the router. `own` is the router's address that answers: the packet's destination, or where that
    /// is a group or a broadcast address, an address of the port it came in on.
    ///
    /// A [`Refusal`] that comes back says that nobody listens; the engine sends it if it is due. Otherwise the answer, if
    /// any, comes with the next [`poll`](Local::poll).
    pub fn input(&mut self, l3: &[u8], facts: &Facts, own: u128) -> Result<Option<Refusal>, DropReason> {
        if facts.is_fragment() {
            return Err(DropReason::LocalFragment);
        }
        let next = Ipv6::new(l3).map_or(proto::NONE, Ipv6::next_header);
        if facts.family == Family::V6 && facts.has_options && extension::has_segments_left(l3, next) {
            return Err(DropReason::Ipv6Extension);
        }
        let is_group = own != facts.dst;
        match facts.proto {
            proto::ICMP if facts.family == Family::V4 => self.admit_echo(facts, 8, is_group)?,
            // The kernel's icmp_echo_ignore_broadcasts is of IPv4 only.
            proto::ICMPV6 if facts.family == Family::V6 => self.admit_echo(facts, 128, false)?,
            _ if is_group => return Err(DropReason::NoListener),
            // Not from a frame to all of the link (`tcp_v4_rcv`).
            proto::TCP if facts.has_l4 && facts.pkt_type == PacketType::Host && self.port == Some(facts.dport) => {
                return self.hand_in(l3, facts, own).map(|()| None);
            }
            proto::TCP if facts.has_l4 && facts.pkt_type == PacketType::Host => return Ok(Some(Refusal::Reset)),
            proto::UDP | proto::UDPLITE if facts.has_l4 && is_datagram_whole(facts, l3) => {
                return Ok(Some(Refusal::Error(icmp::Error::PortUnreachable)));
            }
            proto::TCP | proto::UDP | proto::UDPLITE => return Err(DropReason::NoListener),
            // Somebody is there for group membership: who else is on the link.
            proto::IGMP if facts.family == Family::V4 => return Err(DropReason::NoListener),
            proto::NONE if facts.family == Family::V6 => return Err(DropReason::NoListener),
            _ => return Ok(Some(Refusal::Error(icmp::Error::ProtoUnreachable))),
        }
        self.wire.enqueue(facts.iif, |slot| wire::write_bare(l3, facts, own, slot)).map(|()| None)
    }

    /// A segment for who shows the router.
    fn hand_in(&mut self, l3: &[u8], facts: &Facts, own: u128) -> Result<(), DropReason> {
        if self.is_first {
            return self.wire.enqueue(facts.iif, |slot| wire::write_bare(l3, facts, own, slot));
        }
        self.board.leave(facts.iif, |letter| wire::write_bare(l3, facts, own, letter))?;
        self.left = true;
        Ok(())
    }

    /// Whether something was left for the first worker since the last time.
    pub fn has_left(&mut self) -> bool {
        std::mem::take(&mut self.left)
    }

    fn admit_echo(&self, facts: &Facts, request: u8, is_broadcast: bool) -> Result<(), DropReason> {
        let is_request = facts.icmp() == Some((request, 0));
        let is_ignored = self.answers.ignore_echo || is_broadcast && self.answers.ignore_broadcasts;
        if is_request && !is_ignored { Ok(()) } else { Err(DropReason::NoListener) }
    }

    /// Processes what waits and hands every IP packet that the router wants to send to `out`, with the port on which came in
    /// what it answers: the link of a destination that has no other.
    #[inline]
    pub fn poll(&mut self, now: u64, out: &mut dyn FnMut(&[u8], PortId)) {
        if self.wire.waiting() > 0 || self.has_letters() || self.deadline.is_some_and(|at| at <= now) {
            self.work(now, out);
        }
    }

    fn has_letters(&self) -> bool {
        self.is_first && self.board.has_letters()
    }

    fn work(&mut self, now: u64, out: &mut dyn FnMut(&[u8], PortId)) {
        let time = Instant::from_micros((now / 1000) as i64);
        if let Some(desk) = &mut self.desk {
            desk.reopen(&mut self.sockets);
        }
        for _ in 0..ROUNDS {
            self.fetch();
            if self.wire.waiting() == 0 {
                break;
            }
            self.hear(now, time, out);
        }
        let due = match &mut self.desk {
            Some(desk) => desk.serve(now, &mut self.sockets, &self.board),
            None => None,
        };
        loop {
            self.interface.poll_egress(time, &mut self.wire, &mut self.sockets);
            if !self.send(out) {
                break;
            }
        }
        let timer = match &self.desk {
            Some(_) => self.interface.poll_at(time, &self.sockets),
            None => None,
        };
        let timer = timer.map(|at| u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000));
        self.deadline = timer.into_iter().chain(due).min().map(|at| at.max(now + PAUSE));
    }

    /// Takes in what other workers left.
    fn fetch(&mut self) {
        while self.is_first && self.wire.has_room() {
            let wire = &mut self.wire;
            let fetched = self.board.take(|port, packet| {
                // There is room, and slots are longer than letters.
                let _ = wire.enqueue(port, |slot| {
                    slot[..packet.len()].copy_from_slice(packet);
                    Ok(packet.len())
                });
            });
            if !fetched {
                break;
            }
        }
    }

    /// Lets smoltcp have what waits, packet by packet.
    fn hear(&mut self, now: u64, time: Instant, out: &mut dyn FnMut(&[u8], PortId)) {
        while let Some(packet) = self.wire.next() {
            if let Some(desk) = &mut self.desk
                && wire::opens_connection(packet)
                && !desk.make_room(now, &mut self.sockets)
            {
                self.board.turned_away.add(1);
                self.wire.skip();
                continue;
            }
            self.interface.poll_ingress_single(time, &mut self.wire, &mut self.sockets);
            if let Some(desk) = &mut self.desk {
                desk.note(now, self.wire.asked_on, &self.sockets);
            }
            self.send(out);
        }
    }

    /// When [`poll`](Local::poll) should be called next, if nothing comes in before; `now` where something waits.
    pub fn next_deadline(&self, now: u64) -> Option<u64> {
        if self.wire.waiting() > 0 || self.has_letters() {
            return Some(now);
        }
        self.deadline.map(|at| at.max(now))
    }

    /// Hands over the packet that smoltcp wrote, if it did, with the header fields that a Linux host would give it.
    fn send(&mut self, out: &mut dyn FnMut(&[u8], PortId)) -> bool {
        let Wire { asked_tos, asked_on, .. } = self.wire;
        let Some(packet) = self.wire.take_sent() else { return false };
        let family = if packet.first().is_some_and(|first| first >> 4 == 6) { Family::V6 } else { Family::V4 };
        let Ok(mut facts) = parse::ip(family, packet) else { return true };
        let hops = match family {
            Family::V4 => self.answers.ttl,
            Family::V6 => self.answers.hop_limit,
        };
        // `icmp_reply` copies the whole TOS byte; a TCP socket has its own, which is 0.
        let (tos, link) = match (facts.proto, &self.desk) {
            (proto::TCP, Some(desk)) if asked_on == PortId::NONE => {
                let client = IpEndpoint::new(family.address(facts.dst).into(), facts.dport);
                (0, desk.link_of(client, &self.sockets))
            }
            (proto::TCP, _) => (0, asked_on),
            _ => (asked_tos, asked_on),
        };
        edit::set_ttl(packet, &mut facts, hops);
        edit::set_tos(packet, &mut facts, tos);
        edit::allow_fragments(packet, &mut facts, self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        out(packet, link);
        true
    }
}

impl Answers {
    fn of(sysctl: &Sysctl) -> Answers {
        Answers {
            ttl: sysctl.ip_default_ttl,
            hop_limit: sysctl.ipv6_hop_limit,
            ignore_echo: sysctl.icmp_echo_ignore_all,
            ignore_broadcasts: sysctl.icmp_echo_ignore_broadcasts,
        }
    }
}

/// How the router says that nobody listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// With an ICMP error.
    Error(icmp::Error),
    /// With a TCP reset.
    Reset,
}

/// Whether a datagram may be delivered: IPv6 wants a checksum (`udp6_csum_init`), which conntrack does not ask for.
fn is_datagram_whole(facts: &Facts, l3: &[u8]) -> bool {
    let has_sum = || l3.get(usize::from(facts.l4_off)..).and_then(Udp::new).is_some_and(|udp| udp.checksum() != 0);
    parse::l4_checksum_ok(facts, l3) && (facts.family == Family::V4 || has_sum())
}

#[cfg(test)]
mod desk_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample::{self, V6_DST, V6_SRC, packet, v4, v6};
    use proptest::prelude::*;

    const OWN: u128 = 0x0a00_0002;

    fn local() -> Local {
        Local::new(1, Arc::new(Board::new(1)), 0)
    }

    fn own(family: Family) -> u128 {
        match family {
            Family::V4 => OWN,
            Family::V6 => V6_DST,
        }
    }

    fn deliver(local: &mut Local, family: Family, bytes: &[u8]) -> Result<Option<Refusal>, DropReason> {
        local.input(bytes, &parse::ip(family, bytes).unwrap(), own(family))
    }

    fn answers(local: &mut Local) -> Vec<(Facts, Vec<u8>)> {
        let mut out = Vec::new();
        local.poll(1_000_000, &mut |bytes, _| {
            let family = if bytes[0] >> 4 == 4 { Family::V4 } else { Family::V6 };
            let facts = parse::ip(family, bytes).unwrap();
            assert!(parse::l4_checksum_ok(&facts, bytes));
            out.push((facts, bytes.to_vec()));
        });
        out
    }

    #[test]
    fn echo_requests_are_answered_from_the_address_asked() {
        let mut local = local();
        for data in [0, 1, 56, 1472, 3000] {
            let ping = v4(proto::ICMP, &sample::icmp(8, 0, 0x0007_0001, &vec![0x5a; data]));
            assert_eq!(deliver(&mut local, Family::V4, &ping), Ok(None));
            let [(facts, bytes)] = &answers(&mut local)[..] else { panic!("one answer") };
            assert_eq!((facts.src, facts.dst, facts.icmp(), facts.sport), (OWN, 0x0a00_0001, Some((0, 0)), 7));
            assert_eq!((facts.tos, facts.ttl, facts.dont_frag, usize::from(facts.len)), (0x10, 64, false, 28 + data));
            assert_eq!(bytes[26..], ping[26..]);

            let ping = v6(proto::ICMPV6, &sample::icmpv6(128, 0, 0x0007_0001, &vec![0x5a; data]));
            assert_eq!(deliver(&mut local, Family::V6, &ping), Ok(None));
            let [(facts, bytes)] = &answers(&mut local)[..] else { panic!("one answer") };
            assert_eq!((facts.src, facts.dst, facts.icmp(), facts.sport), (V6_DST, V6_SRC, Some((129, 0)), 7));
            assert_eq!((facts.tos, facts.ttl), (0xb8, 64));
            assert_eq!(bytes[46..], ping[46..]);
        }
    }

    #[test]
    fn any_number_of_own_addresses_answers() {
        let mut local = local();
        for address in 1..=100u128 {
            let mut ping = v4(proto::ICMP, &sample::icmp(8, 0, 1, b""));
            let mut facts = parse::ip(Family::V4, &ping).unwrap();
            edit::set_destination(&mut ping, &mut facts, 0xc0a8_0000 | address);
            assert_eq!(local.input(&ping, &facts, facts.dst), Ok(None));
            assert_eq!(answers(&mut local)[0].0.src, 0xc0a8_0000 | address);
        }
    }

    #[test]
    fn tcp_to_a_closed_port_is_reset() {
        let mut local = local();
        for family in Family::ALL {
            let syn = packet(family, proto::TCP, &sample::tcp(1000, 80, 2, &[2, 4, 5, 0xb4], b""));
            assert_eq!(deliver(&mut local, family, &syn), Ok(Some(Refusal::Reset)));
            let mut facts = parse::ip(family, &syn).unwrap();
            facts.pkt_type = PacketType::Broadcast;
            assert_eq!(local.input(&syn, &facts, own(family)), Err(DropReason::NoListener));
            assert!(answers(&mut local).is_empty());
        }
    }

    #[test]
    fn udp_and_unknown_protocols_are_refused() {
        let mut local = local();
        for family in Family::ALL {
            let udp = packet(family, proto::UDP, &sample::udp(1, 2, b"x"));
            assert_eq!(deliver(&mut local, family, &udp), Ok(Some(Refusal::Error(icmp::Error::PortUnreachable))));
            let mut wrong = udp.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(deliver(&mut local, family, &wrong), Err(DropReason::NoListener));
            let other = packet(family, 99, b"x");
            assert_eq!(deliver(&mut local, family, &other), Ok(Some(Refusal::Error(icmp::Error::ProtoUnreachable))));
        }
        let mut unsummed = v6(proto::UDP, &sample::udp(1, 2, b"x"));
        unsummed[46..48].fill(0);
        assert_eq!(deliver(&mut local, Family::V6, &unsummed), Err(DropReason::NoListener));
        assert_eq!(deliver(&mut local, Family::V6, &v6(proto::NONE, &[])), Err(DropReason::NoListener));
        let igmp = packet(Family::V4, proto::IGMP, &[0x16, 0, 0, 0, 224, 0, 0, 9]);
        assert_eq!(deliver(&mut local, Family::V4, &igmp), Err(DropReason::NoListener));
        assert!(answers(&mut local).is_empty());
    }

    #[test]
    fn other_icmp_fragments_and_groups_are_dropped() {
        let mut local = local();
        for kind in [0, 3, 5, 9, 11, 13] {
            let message = v4(proto::ICMP, &sample::icmp(kind, 0, 0, &[0; 28]));
            assert_eq!(deliver(&mut local, Family::V4, &message), Err(DropReason::NoListener), "{kind}");
        }
        let first = sample::v4_with(&[], 0x2000, proto::ICMP, &sample::icmp(8, 0, 1, b""));
        assert_eq!(deliver(&mut local, Family::V4, &first), Err(DropReason::LocalFragment));
        let syn = v4(proto::TCP, &sample::tcp(1, 2, 2, &[], b""));
        let facts = parse::ip(Family::V4, &syn).unwrap();
        assert_eq!(local.input(&syn, &facts, 0x0a00_0009), Err(DropReason::NoListener));
        assert!(answers(&mut local).is_empty());
    }

    #[test]
    fn pings_to_groups_are_answered_as_the_settings_say() {
        let mut local = local();
        let own = 0x0a00_0009;
        let ping = v4(proto::ICMP, &sample::icmp(8, 0, 1, b"abc"));
        let facts = parse::ip(Family::V4, &ping).unwrap();
        assert_eq!(local.input(&ping, &facts, own), Err(DropReason::NoListener));
        local.configure(&Sysctl { icmp_echo_ignore_broadcasts: false, ip_default_ttl: 99, ..Sysctl::default() }, None);
        assert_eq!(local.input(&ping, &facts, own), Ok(None));
        let answer = answers(&mut local)[0].0;
        assert_eq!((answer.src, answer.ttl), (own, 99));

        let ping = v6(proto::ICMPV6, &sample::icmpv6(128, 0, 1, b"abc"));
        let facts = parse::ip(Family::V6, &ping).unwrap();
        assert_eq!(local.input(&ping, &facts, 5), Ok(None));
        assert_eq!(answers(&mut local)[0].0.src, 5);
        local.configure(&Sysctl { icmp_echo_ignore_all: true, ..Sysctl::default() }, None);
        assert_eq!(local.input(&ping, &facts, facts.dst), Err(DropReason::NoListener));
    }

    #[test]
    fn extension_headers_and_options_do_not_hide_the_request() {
        let mut local = local();
        let echo = sample::icmpv6(128, 0, 1, b"abc");
        for next in [proto::HOPOPTS, proto::DSTOPTS] {
            let ping = v6(next, &[&[proto::ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &echo].concat());
            assert_eq!(deliver(&mut local, Family::V6, &ping), Ok(None));
            assert_eq!(answers(&mut local)[0].0.icmp(), Some((129, 0)));
        }
        let route = |left| v6(proto::ROUTING, &[&[proto::ICMPV6, 0, 4, left, 0, 0, 0, 0][..], &echo].concat());
        assert_eq!(deliver(&mut local, Family::V6, &route(0)), Ok(None));
        assert_eq!(answers(&mut local).len(), 1);
        assert_eq!(deliver(&mut local, Family::V6, &route(1)), Err(DropReason::Ipv6Extension));
        let ping = sample::v4_with(&[1, 1, 1, 0], 0, proto::ICMP, &sample::icmp(8, 0, 1, b"abc"));
        assert_eq!(deliver(&mut local, Family::V4, &ping), Ok(None));
        assert_eq!(answers(&mut local).len(), 1);
    }

    #[test]
    fn the_queue_is_bounded_and_keeps_order() {
        let mut local = local();
        for round in 0..3 {
            for id in 0..wire::SLOTS as u32 {
                let ping = v4(proto::ICMP, &sample::icmp(8, 0, id << 16 | round, b""));
                assert_eq!(deliver(&mut local, Family::V4, &ping), Ok(None));
            }
            let ping = v4(proto::ICMP, &sample::icmp(8, 0, 0, b""));
            assert_eq!(deliver(&mut local, Family::V4, &ping), Err(DropReason::LocalQueue));
            assert_eq!(local.next_deadline(77), Some(77));
            let ids: Vec<u16> = answers(&mut local).iter().map(|(facts, _)| facts.sport).collect();
            assert_eq!(ids, (0..wire::SLOTS as u16).collect::<Vec<_>>());
            assert_eq!(local.next_deadline(77), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_packet_is_survived(l4 in proptest::collection::vec(any::<u8>(), 0..100), proto in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), any::<u8>()], is_v6: bool, own: u32) {
            let mut local = local();
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let bytes = packet(family, proto, &l4);
            if let Ok(facts) = parse::ip(family, &bytes) {
                let _ = local.input(&bytes, &facts, facts.dst);
                let _ = local.input(&bytes, &facts, own.into());
                local.poll(0, &mut |bytes, _| assert!(parse::ip(family, bytes).is_ok()));
            }
        }
    }
}
