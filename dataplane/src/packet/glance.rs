//! A glance at a frame: is it an ordinary packet, and whose?
//!
//! Ordinary is a whole packet of TCP or UDP that is sent to this port's own address, has no options or extension headers, is
//! well formed as far as [`parse`](super::parse) asks, and may go on for at least one more hop. Of such a packet its
//! two ends, its protocol, its TOS and the port that it came in on are read in a few wide loads, as they stand in the packet:
//! whoever has seen them before knows the rest ([`Glance`]), and how the packet leaves ([`Change`]).
//!
//! `N` is the number of 64-bit words of both addresses: [`V4`] or [`V6`]. Checksums are summed in the processor's own byte
//! order ([`Sum::native`]).

use super::checksum::Sum;
use super::view::Ethernet;
use crate::conntrack::Tuple;
use sumun_config::facts::{Facts, Family, PortId, proto};
use zerocopy::{FromBytes, IntoBytes};

/// Words of both addresses of IPv4.
pub const V4: usize = 1;
/// Words of both addresses of IPv6.
pub const V6: usize = 4;

/// Bytes of the link's header.
const L2: usize = Ethernet::LEN;
/// What one hop less adds to the sum of the word that holds the TTL: old complemented and new, added up.
const HOP: u16 = !u16::from_ne_bytes([1, 0]);

/// The sum of two words in ones' complement: the carry comes round.
#[inline(always)]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Adds to the sum that a checksum is of (RFC 1624).
#[inline(always)]
fn grow(check: &mut [u8; 2], by: u16) {
    *check = (!add(!u16::from_ne_bytes(*check), by)).to_ne_bytes();
}

/// What an ordinary packet shows at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance<const N: usize> {
    /// Source and destination.
    pub addresses: [u64; N],
    /// Ports in bits 0-31, protocol in 32-39, TOS or traffic class in 40-47, the port that it came in on in 48-63.
    pub rest: u64,
}

/// What becomes of the packets of one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes)]
#[repr(C)]
pub struct Change<const N: usize> {
    addresses: [u64; N],
    ports: [u8; 4],
    /// What is added to the sum of the IPv4 header, the hop counted.
    header: u16,
    /// What is added to the upper layer's; zero: the ends stay as they are.
    upper: u16,
}

#[inline(always)]
fn long<const L: usize>(bytes: &[u8; L], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Flags of a TCP segment.
#[inline(always)]
pub fn tcp_flags(upper: &[u8]) -> u8 {
    upper.get(13).copied().unwrap_or(0)
}

/// Both parts of a MAC that are compared at once.
pub type Mac = (u32, u16);

/// A MAC as [`v4`] and [`v6`] compare it.
pub fn mac(mac: [u8; 6]) -> Mac {
    let [a, b, c, d, e, f] = mac;
    (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]))
}

#[inline(always)]
fn is_to<const L: usize>(header: &[u8; L], mac: Mac, ethertype: [u8; 2]) -> bool {
    let (front, rest) = (header[..4].first_chunk(), [header[4], header[5]]);
    front.copied().map(u32::from_ne_bytes) == Some(mac.0)
        && u16::from_ne_bytes(rest) == mac.1
        && [header[12], header[13]] == ethertype
}

#[inline(always)]
fn rest(ports: [u8; 4], protocol: u8, tos: u8, iif: PortId) -> u64 {
    u64::from(u32::from_ne_bytes(ports)) | u64::from(protocol) << 32 | u64::from(tos) << 40 | u64::from(iif.0) << 48
}

/// Least bytes of an upper layer's header; none where it has no ports that count here.
#[inline(always)]
fn least(protocol: u8) -> Option<usize> {
    match protocol {
        proto::UDP => Some(8),
        proto::TCP => Some(20),
        _ => None,
    }
}

/// A frame that came in on a port of this MAC as an ordinary packet of IPv4.
#[inline(always)]
pub fn v4(frame: &[u8], iif: PortId, mac: Mac) -> Option<Glance<V4>> {
    const IP: usize = 20;
    let h: &[u8; L2 + IP + 8] = frame.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([h[16], h[17]]));
    let least = least(h[23])?;
    let is_ordinary = is_to(h, mac, [0x08, 0x00])
        && h[14] == 0x45
        // More fragments, or an offset.
        && u16::from_ne_bytes([h[20], h[21]]) & u16::from_ne_bytes([0x3f, 0xff]) == 0
        && h[22] > 1
        && len >= IP + least
        && L2 + len <= frame.len();
    let header: &[u8; IP] = h[L2..].first_chunk()?;
    (is_ordinary && Sum::new().native(header).is_valid())
        .then(|| Glance { addresses: [long(h, 26)], rest: rest([h[34], h[35], h[36], h[37]], h[23], h[15], iif) })
}

/// A frame that came in on a port of this MAC as an ordinary packet of IPv6.
#[inline(always)]
pub fn v6(frame: &[u8], iif: PortId, mac: Mac) -> Option<Glance<V6>> {
    const IP: usize = 40;
    let h: &[u8; L2 + IP + 8] = frame.first_chunk()?;
    let len = IP + usize::from(u16::from_be_bytes([h[18], h[19]]));
    let least = least(h[20])?;
    let is_ordinary = is_to(h, mac, [0x86, 0xdd])
        && h[14] >> 4 == 6
        && h[21] > 1
        && len >= IP + least
        && len <= usize::from(u16::MAX)
        && L2 + len <= frame.len();
    is_ordinary.then(|| Glance {
        addresses: std::array::from_fn(|i| long(h, 22 + 8 * i)),
        rest: rest([h[54], h[55], h[56], h[57]], h[20], h[14] << 4 | h[15] >> 4, iif),
    })
}

impl<const N: usize> Glance<N> {
    /// Bytes of the IP header.
    const IP: usize = if N == V4 { 20 } else { 40 };

    /// TCP or UDP.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.rest >> 32) as u8
    }

    /// A keyed number that is the same for packets that look the same; all bits are good.
    #[inline(always)]
    pub fn hash(&self, keys: &[u64; 2]) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let ends = self.addresses.iter().fold(keys[1], |all, word| fold(all ^ word, keys[0] | 1));
        fold(ends, self.rest ^ keys[0])
    }

    /// What a frame shows that was found ordinary before, and had this [`Glance::rest`]; and the bytes of its IP packet.
    #[inline(always)]
    pub fn again(frame: &[u8], rest: u64) -> (Glance<N>, u16) {
        let v4: Option<&[u8; L2 + 28]> = frame.first_chunk().filter(|_| N == V4);
        let v6: Option<&[u8; L2 + 48]> = frame.first_chunk().filter(|_| N == V6);
        let (addresses, len) = match (v4, v6) {
            (Some(h), _) => (std::array::from_fn(|i| long(h, 26 + 8 * i % 8)), u16::from_be_bytes([h[16], h[17]])),
            (_, Some(h)) => (
                std::array::from_fn(|i| long(h, 22 + 8 * i % 32)),
                u16::from_be_bytes([h[18], h[19]]).saturating_add(40),
            ),
            _ => ([0; N], 0),
        };
        (Glance { addresses, rest }, len)
    }

    /// Its upper layer, in the frame with so many bytes of IP.
    #[inline(always)]
    pub fn upper(frame: &[u8], len: u16) -> &[u8] {
        frame.get(L2 + Self::IP..L2 + usize::from(len)).unwrap_or_default()
    }

    /// The family of such packets.
    pub const FAMILY: Family = if N == V4 { Family::V4 } else { Family::V6 };

    /// The tuple of such packets.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        let half = |at: usize| match N {
            V4 => u128::from((u64::from_be(self.addresses[0]) >> (32 * (1 - at))) as u32),
            _ => {
                let word = |i: usize| u128::from(u64::from_be(self.addresses[(2 * at + i) % N]));
                word(0) << 64 | word(1)
            }
        };
        let [a, b, c, d] = (self.rest as u32).to_ne_bytes();
        Tuple {
            src: half(0),
            dst: half(1),
            sport: u16::from_be_bytes([a, b]),
            dport: u16::from_be_bytes([c, d]),
            proto: self.protocol(),
            family: Self::FAMILY,
            zone: 0,
        }
    }

    /// Whether the checksum of its upper layer is right; a datagram without one is.
    #[inline(always)]
    pub fn is_sum_right(&self, upper: &[u8]) -> bool {
        let is_udp = self.protocol() == proto::UDP;
        if is_udp && upper.get(6..8).is_some_and(|check| check == [0, 0]) {
            return true;
        }
        let sum = Sum::new()
            .native(self.addresses.as_bytes())
            .word(u16::from_ne_bytes([0, self.protocol()]))
            .word((upper.len() as u16).to_be());
        sum.native(upper).is_valid()
    }
}

impl<const N: usize> Change<N> {
    /// No change but the hop.
    pub const NONE: Change<N> = Change { addresses: [0; N], ports: [0; 4], header: HOP, upper: 0 };

    /// The change of packets that look so into packets with the ends of these facts.
    pub fn of(glance: &Glance<N>, to: &Facts) -> Change<N> {
        let mut addresses = [0; N];
        match addresses.as_mut_bytes() {
            bytes if N == V4 => {
                bytes[..4].copy_from_slice(&(to.src as u32).to_be_bytes());
                bytes[4..].copy_from_slice(&(to.dst as u32).to_be_bytes());
            }
            bytes => {
                bytes[..16].copy_from_slice(&to.src.to_be_bytes());
                bytes[16..].copy_from_slice(&to.dst.to_be_bytes());
            }
        }
        let ([a, b], [c, d]) = (to.sport.to_be_bytes(), to.dport.to_be_bytes());
        let (ports, old) = ([a, b, c, d], (glance.rest as u32).to_ne_bytes());
        // Less the old, more the new, in ones' complement (RFC 1624).
        let header = Sum::new().native(glance.addresses.map(|word| !word).as_bytes()).native(addresses.as_bytes());
        let upper = Sum::new().word(header.fold()).native(&old.map(|byte| !byte)).native(&ports);
        Change { addresses, ports, header: add(header.fold(), HOP), upper: upper.fold() }
    }

    /// Changes a frame that was glanced at and has not changed since: one hop less, and the other ends where there are any.
    #[inline(always)]
    pub fn apply(&self, frame: &mut [u8]) {
        match N {
            V4 => {
                let Some(h) = frame.first_chunk_mut::<{ L2 + 20 }>() else { return };
                h[22] = h[22].wrapping_sub(1);
                if let Some(check) = h[24..].first_chunk_mut() {
                    grow(check, self.header);
                }
            }
            _ => {
                if let Some(hops) = frame.get_mut(21) {
                    *hops = hops.wrapping_sub(1);
                }
            }
        }
        if self.upper != 0 {
            self.apply_ends(frame);
        }
    }

    /// The other ends alone, of a frame that has lost its hop already.
    #[inline]
    pub fn apply_late(&self, frame: &mut [u8]) {
        // Where there are other ends, their sum is not zero.
        if self.upper == 0 {
            return;
        }
        if N == V4
            && let Some(h) = frame.first_chunk_mut::<{ L2 + 20 }>()
            && let Some(check) = h[24..].first_chunk_mut()
        {
            grow(check, add(self.header, !HOP));
        }
        self.apply_ends(frame);
    }

    #[inline(always)]
    fn apply_ends(&self, frame: &mut [u8]) {
        let (at, is_udp) = match N {
            V4 => (26, frame.get(23) == Some(&proto::UDP)),
            _ => (22, frame.get(20) == Some(&proto::UDP)),
        };
        let upper = at + size_of_val(&self.addresses);
        let sum = upper + if is_udp { 6 } else { 16 };
        let Some(h) = frame.get_mut(..sum + 2) else { return };
        h[at..upper].copy_from_slice(self.addresses.as_bytes());
        h[upper..upper + 4].copy_from_slice(&self.ports);
        let Some(check) = h.last_chunk_mut() else { return };
        if is_udp && *check == [0; 2] {
            return;
        }
        grow(check, self.upper);
        if is_udp && *check == [0; 2] {
            *check = [0xff; 2];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::sample::{self, packet};
    use crate::packet::{edit, parse};
    use proptest::prelude::*;
    use sumun_config::facts::PacketType;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PORT: PortId = PortId(3);

    fn framed(family: Family, packet: &[u8]) -> Vec<u8> {
        let kind: [u8; 2] = if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
        [&MAC[..], &[2, 0, 0, 0, 0, 9], &kind, packet].concat()
    }

    /// A frame of TCP or UDP.
    fn frames() -> impl Strategy<Value = (Family, Vec<u8>)> {
        let data = proptest::collection::vec(any::<u8>(), 0..60);
        (any::<(bool, bool)>(), any::<(u16, u16)>(), data).prop_map(|((v6, udp), (sport, dport), data)| {
            let (family, protocol) =
                (if v6 { Family::V6 } else { Family::V4 }, if udp { proto::UDP } else { proto::TCP });
            let l4 = match udp {
                true => sample::udp(sport, dport, &data),
                false => sample::tcp(sport, dport, 16, &[], &data),
            };
            (family, framed(family, &packet(family, protocol, &l4)))
        })
    }

    fn facts(frame: &[u8]) -> Option<Facts> {
        match parse::frame(frame, PORT, MAC) {
            parse::Parsed::Ip { facts, .. } => Some(facts),
            _ => None,
        }
    }

    fn is_ordinary(f: &Facts) -> bool {
        let is_whole = f.has_l4 && !f.is_fragment() && !f.has_options;
        matches!(f.proto, proto::TCP | proto::UDP) && is_whole && f.ttl > 1 && f.pkt_type == PacketType::Host
    }

    /// Words of an address pair as they stand in a packet.
    fn words<const N: usize>(family: Family, src: u128, dst: u128) -> [u64; N] {
        let bytes = match family {
            Family::V4 => [(src as u32).to_be_bytes(), (dst as u32).to_be_bytes()].concat(),
            Family::V6 => [src.to_be_bytes(), dst.to_be_bytes()].concat(),
        };
        std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|j| bytes[8 * i + j])))
    }

    fn told<const N: usize>(f: &Facts) -> Glance<N> {
        let [a, b] = f.sport.to_be_bytes();
        let [c, d] = f.dport.to_be_bytes();
        Glance { addresses: words(f.family, f.src, f.dst), rest: rest([a, b, c, d], f.proto, f.tos, f.iif) }
    }

    fn changed<const N: usize>(frame: &[u8], glance: &Glance<N>, f: &Facts, to: Option<&Tuple>) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let change = to.map_or(Change::NONE, |to| {
            let Tuple { src, dst, sport, dport, .. } = *to;
            Change::of(glance, &Facts { src, dst, sport, dport, ..*f })
        });
        let mut in_steps = frame.clone();
        change.apply(&mut frame);
        // The hop first, and the ends on the way out.
        Change::<N>::NONE.apply(&mut in_steps);
        change.apply_late(&mut in_steps);
        assert_eq!(frame, in_steps);
        frame
    }

    /// What a glance says must be what parsing says, whatever the bytes are.
    fn assert_as_parsed(frame: &[u8]) {
        let (v4, v6) = (v4(frame, PORT, mac(MAC)), v6(frame, PORT, mac(MAC)));
        if let Some(family) = v4.map(|_| Family::V4).or(v6.map(|_| Family::V6)) {
            let mut read = Facts::blank(family);
            assert!(matches!(parse::ordinary_into(family, frame, PORT, &mut read), Ok(14)));
            assert_eq!(format!("{:?}", Some(read)), format!("{:?}", facts(frame)));
        }
        match facts(frame) {
            Some(f) if is_ordinary(&f) && f.family == Family::V4 => {
                assert_eq!((v4, v6), (Some(told(&f)), None));
                assert_eq!(
                    (v4.map(|seen| seen.tuple()), Glance::again(frame, told::<V4>(&f).rest)),
                    (Some(Tuple::of(&f)), (told::<V4>(&f), f.len))
                );
            }
            Some(f) if is_ordinary(&f) => {
                assert_eq!((v4, v6), (None, Some(told(&f))));
                assert_eq!(
                    (v6.map(|seen| seen.tuple()), Glance::again(frame, told::<V6>(&f).rest)),
                    (Some(Tuple::of(&f)), (told::<V6>(&f), f.len))
                );
            }
            other => assert_eq!((v4, v6), (None, None), "{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn it_sees_what_parsing_finds_in_the_same_frames(
            (_, mut frame) in frames(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            (cut, sums) in any::<(Option<prop::sample::Index>, bool)>(),
        ) {
            assert_as_parsed(&frame);
            for (at, value) in damage {
                // The headers are where damage tells.
                let at = at.index(60.min(frame.len()));
                frame[at] = value;
            }
            if sums && frame[12..14] == [8, 0] {
                sample::fix_ipv4_header(&mut frame[14..]);
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            assert_as_parsed(&frame);
        }

        #[test]
        fn a_change_is_the_edits_of_its_packet(
            (family, mut frame) in frames(),
            (src, dst) in any::<(u128, u128)>(),
            (sport, dport) in any::<(u16, u16)>(),
            (is_mapped, unsummed, damage) in any::<(bool, bool, u16)>(),
        ) {
            let known = facts(&frame).unwrap();
            let sum = 14 + usize::from(known.l4_off) + if known.proto == proto::UDP { 6 } else { 16 };
            let check = if unsummed { 0 } else { u16::from_be_bytes([frame[sum], frame[sum + 1]]).wrapping_add(damage) };
            frame[sum..sum + 2].copy_from_slice(&check.to_be_bytes());
            let narrow = |wide: u128| if family == Family::V4 { u128::from(wide as u32) } else { wide };
            let to = Tuple { src: narrow(src), dst: narrow(dst), sport, dport, ..Tuple::of(&known) };
            let to = is_mapped.then_some(&to);
            let at_once = match family {
                Family::V4 => changed(&frame, &v4(&frame, PORT, mac(MAC)).unwrap(), &known, to),
                Family::V6 => changed(&frame, &v6(&frame, PORT, mac(MAC)).unwrap(), &known, to),
            };
            let mut now = known;
            match to {
                Some(to) => {
                    let packet = &mut frame[14..];
                    edit::set_dport(packet, &mut now, to.dport);
                    edit::set_destination(packet, &mut now, to.dst);
                    edit::decrement_ttl(packet, &mut now);
                    edit::set_sport(packet, &mut now, to.sport);
                    edit::set_source(packet, &mut now, to.src);
                }
                None => edit::decrement_ttl(&mut frame[14..], &mut now),
            }
            prop_assert_eq!(at_once, frame);
        }

        #[test]
        fn sums_are_right_where_parsing_finds_them_right((family, mut frame) in frames(), damage in any::<Option<(prop::sample::Index, u8)>>()) {
            if let Some((at, value)) = damage {
                let behind = 14 + if family == Family::V4 { 20 } else { 40 } + 4;
                let at = behind + at.index(frame.len() - behind);
                frame[at] = value;
            }
            let known = facts(&frame).unwrap();
            let right = parse::l4_checksum_ok(&known, &frame[14..]);
            let (len, seen) = match family {
                Family::V4 => {
                    let (seen, len) = Glance::<V4>::again(&frame, told::<V4>(&known).rest);
                    (len, seen.is_sum_right(Glance::<V4>::upper(&frame, len)))
                }
                Family::V6 => {
                    let (seen, len) = Glance::<V6>::again(&frame, told::<V6>(&known).rest);
                    (len, seen.is_sum_right(Glance::<V6>::upper(&frame, len)))
                }
            };
            prop_assert_eq!((len, seen), (known.len, right));
        }
    }
}
