//! Neighbour discovery (RFC 4861): solicitations and advertisements, judged and built.
//!
//! Messages come from INPUT, after their ICMPv6 was parsed; they are judged as `ndisc_rcv` does. The router answers for the
//! addresses of the very port that was asked on, unlike ARP. Router discovery and redirects are none of its business yet.

use super::{Learned, Replaces};
use crate::fib::{Fib, solicited_node};
use crate::packet::checksum::Sum;
use crate::packet::view::ethertype;
use crate::reason::DropReason;
use crate::umem::Frame;
use sumun_config::facts::{Facts, Family, PortId, proto};

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Option: MAC of the sender.
const SOURCE_MAC: u8 = 1;
/// Option: MAC of the target.
const TARGET_MAC: u8 = 2;
/// Flags of an advertisement.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Type, code, checksum, flags, target.
const FIXED: usize = 24;
/// A MAC option.
const OPTION: usize = 8;
const ALL_NODES: u128 = 0xff02 << 112 | 1;

/// The advertisement that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advert {
    /// Own address that was asked for.
    pub target: u128,
    /// Source: the target, unless that is an anycast address.
    pub source: u128,
    /// To this address.
    pub to: u128,
    /// At this MAC.
    pub to_mac: [u8; 6],
    /// It answers a solicitation of somebody who has an address.
    pub solicited: bool,
    /// It replaces what is known.
    pub overrides: bool,
    /// It carries our MAC.
    pub with_mac: bool,
}

/// What to do about a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Tell the resolver.
    pub learned: Option<Learned>,
    /// Answer.
    pub advert: Option<Advert>,
}

/// Whether a packet is of neighbour discovery (RFC 4861 section 4): types 133 to 137.
pub fn is_ndp(facts: &Facts) -> bool {
    facts.family == Family::V6 && facts.icmp().is_some_and(|(kind, _)| (ROUTER_SOLICITATION..=REDIRECT).contains(&kind))
}

/// Judges a message that came in on a port; `l3` is the packet from its IP header on.
pub fn process(l3: &[u8], facts: &Facts, port: PortId, fib: &Fib) -> Result<Outcome, DropReason> {
    let message = l3.get(facts.l4_off as usize..facts.len as usize).ok_or(DropReason::Arp)?;
    let Some((kind, 0)) = facts.icmp() else { return Err(DropReason::Arp) };
    // A hop limit of 255 proves that the sender is on the link; fragments are refused as RFC 6980 says.
    let is_sum_right = Sum::new().pseudo(facts.src, facts.dst, proto::ICMPV6, message.len()).bytes(message).is_valid();
    if !is_ndp(facts) || facts.ttl != 255 || facts.is_fragment() || !is_sum_right {
        return Err(DropReason::Arp);
    }
    match kind {
        SOLICITATION => solicited(message, facts, port, fib),
        ADVERTISEMENT => advertised(message, facts, port, fib),
        _ => Some(Outcome::default()),
    }
    .ok_or(DropReason::Arp)
}

/// Target address and the MAC of the first option of a kind. None for what RFC 4861 sections 7.1.1 and 7.1.2 refuse.
fn target_and_mac(message: &[u8], kind: u8) -> Option<(u128, Option<[u8; 6]>)> {
    let (fixed, mut options) = message.split_first_chunk::<FIXED>()?;
    let target = u128::from_be_bytes(std::array::from_fn(|i| fixed[8 + i]));
    if target >> 120 == 0xff {
        return None;
    }
    let mut mac = None;
    while !options.is_empty() {
        let len = *options.get(1)? as usize * 8;
        let (option, rest) = options.split_at_checked(len).filter(|_| len != 0)?;
        if option[0] == kind && mac.is_none() {
            let its: [u8; 6] = option[2..].try_into().ok()?;
            // A group is nobody's MAC.
            if its[0] & 1 != 0 {
                return None;
            }
            mac = Some(its);
        }
        options = rest;
    }
    Some((target, mac))
}

/// `ndisc_recv_ns`.
fn solicited(message: &[u8], facts: &Facts, port: PortId, fib: &Fib) -> Option<Outcome> {
    let (target, mac) = target_and_mac(message, SOURCE_MAC)?;
    let is_probe = facts.src == 0;
    if is_probe && (mac.is_some() || facts.dst & !0xff_ffff != solicited_node(0)) {
        return None;
    }
    let is_own = fib.is_own_on(Family::V6, target, port);
    if !is_own && !fib.is_anycast_on(target, port) {
        return Some(Outcome::default());
    }
    let source = if is_own { Some(target) } else { fib.link_local(port) };
    if is_probe {
        // Somebody tries an address that we have (RFC 4862 section 5.4.3): tell everybody.
        let advert = source.map(|source| Advert {
            target,
            source,
            to: ALL_NODES,
            to_mac: group_mac(ALL_NODES),
            solicited: false,
            overrides: is_own,
            with_mac: true,
        });
        return Some(Outcome { learned: None, advert });
    }
    let is_multicast = facts.dst >> 120 == 0xff;
    let learned = mac.filter(|_| !fib.is_own_on(Family::V6, facts.src, port)).map(|mac| Learned {
        port,
        family: Family::V6,
        addr: facts.src,
        mac: Some(mac),
        confirms: false,
        replaces: Replaces::Always,
        creates: true,
        router: None,
    });
    let advert = source.map(|source| Advert {
        target,
        source,
        to: facts.src,
        // A unicast solicitation need not carry the sender's MAC: its frame does.
        to_mac: mac.unwrap_or(facts.smac),
        solicited: true,
        overrides: is_own && is_multicast,
        with_mac: is_multicast,
    });
    Some(Outcome { learned, advert })
}

/// `ndisc_recv_na`.
fn advertised(message: &[u8], facts: &Facts, port: PortId, fib: &Fib) -> Option<Outcome> {
    let (target, mac) = target_and_mac(message, TARGET_MAC)?;
    let flags = message[4];
    let is_solicited = flags & SOLICITED != 0;
    if is_solicited && facts.dst >> 120 == 0xff {
        return None;
    }
    if fib.is_own_on(Family::V6, target, port) {
        return Some(Outcome::default());
    }
    let learned = Learned {
        port,
        family: Family::V6,
        addr: target,
        mac,
        confirms: is_solicited,
        replaces: if flags & OVERRIDE != 0 { Replaces::Always } else { Replaces::Never },
        creates: false,
        router: Some(flags & ROUTER != 0),
    };
    Some(Outcome { learned: Some(learned), advert: None })
}

/// The Ethernet group of an IPv6 group (RFC 2464 section 7).
pub const fn group_mac(group: u128) -> [u8; 6] {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    [0x33, 0x33, a, b, c, d]
}

/// Writes a solicitation for `target` as an Ethernet frame: to its solicited-node group, or as a probe to one MAC. `source` is
/// the port's link-local address. False where it does not fit.
#[must_use]
pub fn solicit(frame: &mut Frame, mac: [u8; 6], source: u128, target: u128, unicast: Option<[u8; 6]>) -> bool {
    let (to, to_mac) = match unicast {
        Some(to_mac) => (target, to_mac),
        None => (solicited_node(target), group_mac(solicited_node(target))),
    };
    // RFC 4861 section 4.3: no MAC with the unspecified address.
    let option = (source != 0).then_some((SOURCE_MAC, mac));
    write(frame, (mac, to_mac), (source, to), SOLICITATION, 0, target, option)
}

/// Writes an advertisement as an Ethernet frame. False where it does not fit.
#[must_use]
pub fn advertise(frame: &mut Frame, mac: [u8; 6], advert: &Advert) -> bool {
    let solicited = if advert.solicited { SOLICITED } else { 0 };
    let overrides = if advert.overrides { OVERRIDE } else { 0 };
    let option = advert.with_mac.then_some((TARGET_MAC, mac));
    let flags = ROUTER | solicited | overrides;
    write(frame, (mac, advert.to_mac), (advert.source, advert.to), ADVERTISEMENT, flags, advert.target, option)
}

fn write(
    frame: &mut Frame,
    (from_mac, to_mac): ([u8; 6], [u8; 6]),
    (from, to): (u128, u128),
    kind: u8,
    flags: u8,
    target: u128,
    option: Option<(u8, [u8; 6])>,
) -> bool {
    let mut bytes = [0; ETHERNET + IPV6 + FIXED + OPTION];
    let len = FIXED + if option.is_some() { OPTION } else { 0 };
    bytes[..6].copy_from_slice(&to_mac);
    bytes[6..12].copy_from_slice(&from_mac);
    bytes[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    let ip = &mut bytes[ETHERNET..];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    ip[6] = proto::ICMPV6;
    ip[7] = 255;
    ip[8..24].copy_from_slice(&from.to_be_bytes());
    ip[24..40].copy_from_slice(&to.to_be_bytes());
    let message = &mut ip[IPV6..][..len];
    message[0] = kind;
    message[4] = flags;
    message[8..24].copy_from_slice(&target.to_be_bytes());
    if let Some((option, mac)) = option {
        message[24] = option;
        message[25] = 1;
        message[26..32].copy_from_slice(&mac);
    }
    let sum = Sum::new().pseudo(from, to, proto::ICMPV6, len).bytes(message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.set(&bytes[..ETHERNET + IPV6 + len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neigh::tests::{LAN, WAN, fib};
    use crate::packet::parse;
    use crate::umem::Pool;

    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0];

    fn ip(text: &str) -> u128 {
        text.parse::<std::net::Ipv6Addr>().unwrap().into()
    }

    /// A message of another host.
    struct Sent {
        from: u128,
        to: u128,
        kind: u8,
        flags: u8,
        target: u128,
        option: Option<(u8, [u8; 6])>,
    }

    fn ns(from: &str, to: &str, target: &str, mac: Option<[u8; 6]>) -> Sent {
        let option = mac.map(|mac| (SOURCE_MAC, mac));
        Sent { from: ip(from), to: ip(to), kind: SOLICITATION, flags: 0, target: ip(target), option }
    }

    fn na(to: &str, flags: u8, target: &str, mac: Option<[u8; 6]>) -> Sent {
        let option = mac.map(|mac| (TARGET_MAC, mac));
        Sent { from: ip(target), to: ip(to), kind: ADVERTISEMENT, flags, target: ip(target), option }
    }

    impl Sent {
        fn judge(&self, port: PortId) -> Result<Outcome, DropReason> {
            self.judge_changed(port, |_| {})
        }

        /// Judges the message after bytes of the packet were changed and its length and checksum made right again.
        fn judge_changed(&self, port: PortId, change: impl Fn(&mut Vec<u8>)) -> Result<Outcome, DropReason> {
            let mut pool = Pool::fresh(1, 2048);
            let mut frame = pool.take().unwrap();
            let Sent { from, to, kind, flags, target, option } = *self;
            assert!(write(&mut frame, (HOST, OWN), (from, to), kind, flags, target, option));
            let mut l3 = frame.bytes()[ETHERNET..].to_vec();
            change(&mut l3);
            let payload = (l3.len() - IPV6) as u16;
            l3[4..6].copy_from_slice(&payload.to_be_bytes());
            l3[42..44].fill(0);
            let sum = Sum::new().pseudo(from, to, proto::ICMPV6, payload as usize).bytes(&l3[IPV6..]).checksum();
            l3[42..44].copy_from_slice(&sum.to_be_bytes());
            judge_bytes(&l3, port)
        }
    }

    fn judge_bytes(l3: &[u8], port: PortId) -> Result<Outcome, DropReason> {
        let mut facts = parse::ip(Family::V6, l3)?;
        facts.smac = HOST;
        process(l3, &facts, port, &fib())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The layout of RFC 4861 sections 4.3 and 4.6.1 with the groups of RFC 4291 and RFC 2464.
    #[test]
    fn a_solicitation_has_the_layout_of_the_rfc() {
        let mut pool = Pool::fresh(1, 2048);
        let mut frame = pool.take().unwrap();
        assert!(solicit(&mut frame, OWN, ip("fe80::ff:fe00:0"), ip("2001:db8::12:3456"), None));
        let expected = "3333ff123456 020000000000 86dd 60000000 0020 3a ff \
            fe80000000000000000000fffe000000 ff0200000000000000000001ff123456 \
            87 00 e394 00000000 20010db8000000000000000000123456 01 01 020000000000";
        let expected: String = expected.split_whitespace().collect();
        assert_eq!(hex(frame.bytes()), expected);

        assert!(solicit(&mut frame, OWN, ip("fe80::ff:fe00:0"), ip("2001:db8::7"), Some(HOST)));
        assert_eq!(hex(&frame.bytes()[..6]), "020000000077");
        assert_eq!(hex(&frame.bytes()[38..54]), "20010db8000000000000000000000007");
        assert!(solicit(&mut frame, OWN, 0, ip("2001:db8::7"), None));
        assert_eq!(frame.len(), ETHERNET + IPV6 + FIXED);
    }

    #[test]
    fn an_advertisement_says_that_we_are_a_router() {
        let mut pool = Pool::fresh(1, 2048);
        let mut frame = pool.take().unwrap();
        let outcome = ns("fe80::7", "ff02::1:ff00:1", "2001:db8::1", Some(HOST)).judge(LAN).unwrap();
        assert!(advertise(&mut frame, OWN, &outcome.advert.unwrap()));
        let bytes = frame.bytes();
        assert_eq!(hex(&bytes[..14]), "02000000007702000000000086dd");
        assert_eq!(hex(&bytes[14 + 8..14 + 40]), "20010db8000000000000000000000001fe800000000000000000000000000007");
        assert_eq!((bytes[54], bytes[58]), (136, ROUTER | SOLICITED | OVERRIDE));
        assert_eq!(hex(&bytes[62..]), "20010db80000000000000000000000010201020000000000");
        let facts = parse::ip(Family::V6, &bytes[14..]).unwrap();
        assert!(parse::l4_checksum_ok(&facts, &bytes[14..]));
    }

    #[test]
    fn what_the_rfc_refuses_is_dropped() {
        let group = "ff02::1:ff00:1";
        let good = ns("fe80::7", group, "2001:db8::1", Some(HOST));
        assert!(good.judge(LAN).is_ok());
        type Change = fn(&mut Vec<u8>);
        let changes: [(&str, Change); 8] = [
            ("hop limit", |l3| l3[7] = 254),
            ("code", |l3| l3[41] = 1),
            ("option of length zero", |l3| l3[65] = 0),
            ("option beyond the end", |l3| l3[65] = 2),
            ("half an option", |l3| l3.truncate(65)),
            ("MAC option of the wrong length", |l3| {
                l3[65] = 2;
                l3.extend([0; 8]);
            }),
            ("MAC of a group", |l3| l3[66] = 0x33),
            ("too short", |l3| l3.truncate(40 + 23)),
        ];
        for (what, change) in changes {
            assert_eq!(good.judge_changed(LAN, change), Err(DropReason::Arp), "{what}");
        }
        for (what, sent) in [
            ("target is a group", ns("fe80::7", group, "ff02::1", Some(HOST))),
            ("probe with a MAC", ns("::", group, "2001:db8::1", Some(HOST))),
            ("probe to unicast", ns("::", "2001:db8::1", "2001:db8::1", None)),
            ("solicited advertisement to a group", na("ff02::1", SOLICITED, "2001:db8::7", Some(HOST))),
            ("advertised group", na("fe80::ff:fe00:0", 0, "ff02::7", Some(HOST))),
        ] {
            assert_eq!(sent.judge(LAN), Err(DropReason::Arp), "{what}");
        }
        let mut pool = Pool::fresh(1, 2048);
        let mut frame = pool.take().unwrap();
        assert!(solicit(&mut frame, HOST, ip("fe80::7"), ip("2001:db8::1"), None));
        let mut l3 = frame.bytes()[ETHERNET..].to_vec();
        assert!(judge_bytes(&l3, LAN).is_ok());
        l3[43] ^= 1;
        assert_eq!(judge_bytes(&l3, LAN), Err(DropReason::Arp), "checksum");
    }

    #[test]
    fn solicitations_are_answered_for_addresses_of_the_port() {
        let group = "ff02::1:ff00:1";
        for (what, sent, port, expected) in [
            ("own address", ns("fe80::7", group, "2001:db8::1", Some(HOST)), LAN, Some((true, true, true))),
            (
                "link-local address",
                ns("fe80::7", "ff02::1:ff00:0", "fe80::ff:fe00:0", Some(HOST)),
                LAN,
                Some((true, true, true)),
            ),
            ("unicast probe", ns("fe80::7", "2001:db8::1", "2001:db8::1", Some(HOST)), LAN, Some((true, false, false))),
            ("unicast without MAC", ns("fe80::7", "2001:db8::1", "2001:db8::1", None), LAN, Some((true, false, false))),
            ("anycast", ns("fe80::7", "ff02::1:ff00:0", "2001:db8::", Some(HOST)), LAN, Some((true, false, true))),
            ("duplicate address probe", ns("::", group, "2001:db8::1", None), LAN, Some((false, true, true))),
            ("another port's address", ns("fe80::7", group, "2001:db8::1", Some(HOST)), WAN, None),
            ("somebody else's", ns("fe80::7", group, "2001:db8::9", Some(HOST)), LAN, None),
        ] {
            let outcome = sent.judge(port).unwrap();
            assert_eq!(outcome.advert.map(|a| (a.solicited, a.overrides, a.with_mac)), expected, "{what}");
            let learned = outcome.learned.map(|l| (l.addr, l.mac, l.confirms, l.creates, l.replaces));
            let expected = (expected.is_some() && sent.option.is_some()).then_some((
                sent.from,
                Some(HOST),
                false,
                true,
                Replaces::Always,
            ));
            assert_eq!(learned, expected, "{what}");
            if let Some(advert) = outcome.advert {
                let to = if sent.from == 0 { (ALL_NODES, [0x33, 0x33, 0, 0, 0, 1]) } else { (sent.from, HOST) };
                assert_eq!((advert.to, advert.to_mac), to, "{what}");
                assert!(fib().is_own_on(Family::V6, advert.source, LAN), "{what}");
            }
        }
    }

    #[test]
    fn advertisements_teach_by_their_flags() {
        let us = "fe80::ff:fe00:0";
        for (flags, mac, confirms, replaces, router) in [
            (SOLICITED | OVERRIDE, Some(HOST), true, Replaces::Always, false),
            (SOLICITED, None, true, Replaces::Never, false),
            (OVERRIDE | ROUTER, Some(HOST), false, Replaces::Always, true),
            (0, Some(HOST), false, Replaces::Never, false),
        ] {
            let outcome = na(us, flags, "2001:db8::7", mac).judge(LAN).unwrap();
            let router = Some(router);
            let addr = ip("2001:db8::7");
            let learned =
                Learned { port: LAN, family: Family::V6, addr, mac, confirms, replaces, creates: false, router };
            assert_eq!(outcome, Outcome { learned: Some(learned), advert: None }, "{flags:#x}");
        }
        let ours = na("ff02::1", OVERRIDE, "2001:db8::1", Some(HOST)).judge(LAN);
        assert_eq!(ours, Ok(Outcome::default()), "a claim on our own address teaches nothing");
    }

    #[test]
    fn router_discovery_and_redirects_are_taken_and_ignored() {
        for kind in [133, 134, 137] {
            let sent = Sent { kind, ..ns("fe80::7", "ff02::2", "2001:db8::1", None) };
            assert_eq!(sent.judge(LAN), Ok(Outcome::default()), "{kind}");
        }
    }
}
