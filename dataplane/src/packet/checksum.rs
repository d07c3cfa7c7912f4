//! The Internet checksum: summing (RFC 1071), updating in place (RFC 1624), and the pseudo headers of both families.
//!
//! Words are big-endian numbers in host order. A checksum of zero and one of 0xffff are the same number in ones'
//! complement; only UDP tells them apart, and [`edit`](super::edit) sees to that.

/// Bytes from which on they are summed many at once.
const LONG: usize = 128;

/// A running ones'-complement sum: modulo 0xffff a carry out of 64 bits is worth one. Only the last piece that is added may have
/// an odd length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Sum {
        Sum(0)
    }

    #[inline(always)]
    const fn plus(self, n: u64) -> Sum {
        let (sum, carry) = self.0.overflowing_add(n);
        Sum(sum + carry as u64)
    }

    /// Adds bytes; an odd last byte is padded with zero (RFC 1071 section 4.1).
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        // A sum of swapped words is the swapped sum (RFC 1071 section 2).
        self.plus(u64::from(u16::from_be(Sum::new().native(bytes).fold())))
    }

    /// Adds bytes as words of the processor's own order. A sum of such words can be folded, compared with other such sums, and
    /// tells whether it is valid, as any other.
    #[inline]
    pub fn native(self, bytes: &[u8]) -> Sum {
        if bytes.len() < LONG {
            return self.native_short(bytes);
        }
        // 32-bit words are as good as 16-bit ones modulo 0xffff, and 2^32 of them fit before the sum could overflow.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = 0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        sum += match *rest {
            [] => 0,
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a, b, c, ..] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
        };
        self.plus(sum)
    }

    /// The same for few bytes: fewer instructions, one after the other.
    #[inline]
    fn native_short(self, bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<8>();
        let sum = words.iter().fold(self, |sum, word| sum.plus(u64::from_ne_bytes(*word)));
        if rest.is_empty() {
            return sum;
        }
        let last = match bytes.last_chunk::<8>() {
            // The bytes before the rest are shifted out.
            Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        sum.plus(last.to_le())
    }

    /// Adds a 16-bit word.
    #[inline]
    pub const fn word(self, word: u16) -> Sum {
        self.plus(word as u64)
    }

    /// Adds a 128-bit field, or a shorter one that is right-aligned in it.
    #[inline]
    pub const fn wide(self, value: u128) -> Sum {
        const LOW: u128 = 0xffff_ffff;
        let pairs = ((value >> 96) + (value >> 64 & LOW) + (value >> 32 & LOW) + (value & LOW)) as u64;
        self.plus(pairs)
    }

    /// Adds the pseudo header of an upper-layer packet of `len` bytes: RFC 768 and RFC 9293 for IPv4, RFC 8200 section 8.1.
    #[inline]
    pub const fn pseudo(self, src: u128, dst: u128, proto: u8, len: usize) -> Sum {
        // Both families add the same things: IPv6 only spreads protocol and length over wider fields.
        self.wide(src).wide(dst).plus(proto as u64 + len as u64)
    }

    /// The sum as one 16-bit word. Zero only for nothing but zeros.
    #[inline]
    pub const fn fold(self) -> u16 {
        // The upper half of a number and its halves swapped is their sum, with the carry that comes round.
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }

    /// The checksum: what a checksum field holds.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether bytes that include their checksum are right.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The checksum after one 16-bit word changed: RFC 1624 equation 3.
#[inline]
pub const fn replace(check: u16, old: u16, new: u16) -> u16 {
    Sum::new().word(!check).word(!old).word(new).checksum()
}

/// The checksum after an aligned field of 32 or 128 bits changed.
#[inline]
pub const fn replace_wide(check: u16, old: u128, new: u128) -> u16 {
    replace(check, Sum::new().wide(old).fold(), Sum::new().wide(new).fold())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn updates_the_example_of_rfc_1624() {
        // Section 4: the header with checksum 0xdd2f whose word 0x5555 becomes 0x3285 has checksum 0x0000.
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn checks_a_known_header() {
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert!(Sum::new().bytes(&header).is_valid());
    }

    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn sums_as_by_the_book(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::new().bytes(&bytes).fold(), by_the_book(&bytes));
        }

        #[test]
        fn an_update_is_a_recomputation(mut words in proptest::array::uniform8(any::<u16>()), at in 0usize..8, new: u16) {
            let check = words.iter().fold(Sum::new().word(1), |s, w| s.word(*w)).checksum();
            let updated = replace(check, words[at], new);
            words[at] = new;
            let again = words.iter().fold(Sum::new().word(1), |s, w| s.word(*w)).checksum();
            prop_assert_eq!(updated, again);
        }

        #[test]
        fn wide_updates_are_recomputations(old: u128, new: u128, rest in 1u16..) {
            let check = Sum::new().word(rest).wide(old).checksum();
            prop_assert_eq!(replace_wide(check, old, new), Sum::new().word(rest).wide(new).checksum());
        }
    }
}
