//! What names one direction of a flow: five words, compared and hashed as words.
//!
//! Both addresses, both ports, protocol, family and zone fit five `u64`, so an entry keeps its tuples as atomic words and a
//! lookup compares five of them. The hash is keyed and folds 128-bit products (as wyhash and aHash do): who does not know
//! the key cannot choose tuples that share a bucket.

use sumun_config::facts::{Facts, Family, proto};

/// One direction of a flow, as `struct nf_conntrack_tuple`.
///
/// For ICMP and ICMPv6 queries `sport` is the identifier and `dport` is type and code (high and low byte); for enhanced GRE
/// `dport` is the call's identifier. Protocols that
/// have no ports, or whose ports are not known, have zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port, or ICMP identifier.
    pub sport: u16,
    /// Destination port, or ICMP type and code.
    pub dport: u16,
    /// Protocol number.
    pub proto: u8,
    /// Address family.
    pub family: Family,
    /// Conntrack zone.
    pub zone: u16,
}

/// How many words a tuple has.
pub const WORDS: usize = 5;

impl Tuple {
    /// The tuple of a packet with these facts. Makes no check; see [`super::Tracker::track`].
    #[inline]
    pub fn of(facts: &Facts) -> Tuple {
        let (sport, dport) = if has_ports(facts.proto) { (facts.sport, facts.dport) } else { (0, 0) };
        Tuple { src: facts.src, dst: facts.dst, sport, dport, proto: facts.proto, family: facts.family, zone: 0 }
    }

    /// The tuple as words.
    #[inline]
    pub fn words(&self) -> [u64; WORDS] {
        [
            self.src as u64,
            (self.src >> 64) as u64,
            self.dst as u64,
            (self.dst >> 64) as u64,
            u64::from(self.sport)
                | u64::from(self.dport) << 16
                | u64::from(self.proto) << 32
                | u64::from(self.family as u8) << 40
                | u64::from(self.zone) << 48,
        ]
    }

    /// The tuple that has these words.
    #[inline]
    pub fn from_words(w: [u64; WORDS]) -> Tuple {
        Tuple {
            src: u128::from(w[0]) | u128::from(w[1]) << 64,
            dst: u128::from(w[2]) | u128::from(w[3]) << 64,
            sport: w[4] as u16,
            dport: (w[4] >> 16) as u16,
            proto: (w[4] >> 32) as u8,
            family: if (w[4] >> 40) as u8 == Family::V4 as u8 { Family::V4 } else { Family::V6 },
            zone: (w[4] >> 48) as u16,
        }
    }

    /// The tuple of an answer (`nf_ct_invert_tuple`); none for ICMP types that have no answer.
    #[inline]
    pub fn inverted(&self) -> Option<Tuple> {
        let (sport, dport) = match (self.family, self.proto) {
            (Family::V4, proto::ICMP) => (self.sport, answer_v4((self.dport >> 8) as u8)? | (self.dport & 0xff)),
            (Family::V6, proto::ICMPV6) => (self.sport, answer_v6((self.dport >> 8) as u8)? | (self.dport & 0xff)),
            _ => (self.dport, self.sport),
        };
        Some(Tuple { src: self.dst, dst: self.src, sport, dport, ..*self })
    }

    /// Whether the protocol is its family's ICMP.
    #[inline]
    pub fn is_icmp(&self) -> bool {
        match self.family {
            Family::V4 => self.proto == proto::ICMP,
            Family::V6 => self.proto == proto::ICMPV6,
        }
    }
}

/// The ICMP type that answers this one, in the high byte.
fn answer_v4(kind: u8) -> Option<u16> {
    let answer: u8 = match kind {
        8 => 0,
        0 => 8,
        13 => 14,
        14 => 13,
        15 => 16,
        16 => 15,
        17 => 18,
        18 => 17,
        _ => return None,
    };
    Some(u16::from(answer) << 8)
}

/// The ICMPv6 type that answers this one, in the high byte: echo, and node information (RFC 4620).
fn answer_v6(kind: u8) -> Option<u16> {
    let answer: u8 = match kind {
        128 => 129,
        129 => 128,
        139 => 140,
        140 => 139,
        _ => return None,
    };
    Some(u16::from(answer) << 8)
}

/// Whether tuples of the protocol carry ports (or what stands for them).
#[inline]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::ICMP | proto::ICMPV6)
}

/// A keyed hash of tuples.
#[derive(Clone, Copy)]
pub struct Hasher {
    keys: [u64; 6],
}

impl Hasher {
    /// The hash that belongs to a seed.
    pub fn new(seed: u64) -> Hasher {
        let mut state = seed;
        Hasher { keys: std::array::from_fn(|_| split_mix(&mut state)) }
    }

    /// Hashes the words of a tuple; all 64 bits are good.
    #[inline]
    pub fn hash(&self, w: &[u64; WORDS]) -> u64 {
        let k = &self.keys;
        let a = fold(w[0] ^ k[0], w[2] ^ k[1]);
        let b = fold(w[1] ^ k[2], w[3] ^ k[3]);
        fold(a ^ w[4] ^ k[4], b ^ k[5])
    }

    /// Hashes a source (address, port, protocol, zone) for the table of NAT sources.
    #[inline]
    pub fn hash_source(&self, t: &Tuple) -> u64 {
        self.hash(&Tuple { dst: 0, dport: 0, ..*t }.words())
    }
}

/// Both halves of the 128-bit product, folded.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads a seed over keys.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple() -> impl Strategy<Value = Tuple> {
        (any::<u128>(), any::<u128>(), any::<u16>(), any::<u16>(), any::<u8>(), any::<bool>(), any::<u16>()).prop_map(
            |(src, dst, sport, dport, proto, v4, zone)| {
                let family = if v4 { Family::V4 } else { Family::V6 };
                Tuple { src: src & family.ones(), dst: dst & family.ones(), sport, dport, proto, family, zone }
            },
        )
    }

    proptest! {
        #[test]
        fn words_hold_the_whole_tuple(t in tuple()) {
            prop_assert_eq!(Tuple::from_words(t.words()), t);
        }

        #[test]
        fn inverting_twice_is_the_same(t in tuple()) {
            if let Some(i) = t.inverted() {
                prop_assert_eq!(i.inverted(), Some(t));
            }
        }
    }

    #[test]
    fn icmp_queries_invert_to_their_answers_and_keep_the_identifier() {
        for (family, proto, pairs) in [
            (Family::V4, proto::ICMP, &[(8u8, 0u8), (13, 14), (15, 16), (17, 18)][..]),
            (Family::V6, proto::ICMPV6, &[(128, 129), (139, 140)][..]),
        ] {
            for &(query, answer) in pairs {
                let t = Tuple { src: 1, dst: 2, sport: 77, dport: u16::from(query) << 8, proto, family, zone: 0 };
                let expected = Tuple { src: 2, dst: 1, dport: u16::from(answer) << 8, ..t };
                assert_eq!(t.inverted(), Some(expected));
                assert_eq!(expected.inverted(), Some(t));
            }
        }
        let error = Tuple { src: 1, dst: 2, sport: 0, dport: 3 << 8, proto: proto::ICMP, family: Family::V4, zone: 0 };
        assert_eq!(error.inverted(), None);
    }

    #[test]
    fn hashes_spread_over_buckets_in_high_and_low_bits() {
        let hasher = Hasher::new(7);
        let (mut high, mut low) = ([0u32; 256], [0u32; 256]);
        for i in 0..65536u32 {
            let t = Tuple {
                src: 0x0a000000 + u128::from(i >> 8),
                dst: 0xc0a80001,
                sport: 1024 + (i & 0xff) as u16,
                dport: 80,
                proto: 6,
                family: Family::V4,
                zone: 0,
            };
            let h = hasher.hash(&t.words());
            high[(h >> 56) as usize] += 1;
            low[(h & 0xff) as usize] += 1;
        }
        for n in high.iter().chain(&low) {
            assert!((160..=352).contains(n), "{n} of 256 expected");
        }
    }
}
