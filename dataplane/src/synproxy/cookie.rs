//! SYN cookies: a sequence number that nobody can guess who has not seen it, with the minute and the MSS in it.
//!
//! The number is that of `secure_tcp_syn_cookie`: a hash of the connection, its client's number, the minute in the upper byte, and
//! in the lower 24 bits the place of the MSS in a table, under a hash of the minute. It is good in its minute and the one after.
//! The hash is keyed by what the process got from the kernel at its start: cookies of a process before are none.

use std::hash::{BuildHasher, RandomState};
use sumun_config::facts::Family;

/// What an MSS is rounded down to (`msstab`).
const MSS: [[u16; 4]; 2] = [[536, 1300, 1440, 1460], [1280 - 60, 1480 - 60, 1500 - 60, 9000 - 60]];
/// Bits below the minute.
const BITS: u32 = 24;
const MASK: u32 = (1 << BITS) - 1;
/// Minutes after which a cookie is too old.
const MAX_AGE: u32 = 2;
/// Nanoseconds.
const MINUTE: u64 = 60_000_000_000;

/// Makes and checks cookies. One for a router.
#[derive(Debug, Default)]
pub struct Cookies([RandomState; 2]);

/// The ends of a connection as its client sends: addresses and ports.
pub type Ends = (u128, u128, u16, u16);

impl Cookies {
    fn hash(&self, ends: &Ends, minute: u32, which: usize) -> u32 {
        self.0[which].hash_one((ends, minute)) as u32
    }

    /// The sequence number that answers a SYN of this number that offers this MSS.
    pub fn make(&self, family: Family, ends: &Ends, seq: u32, mss: u16, now: u64) -> u32 {
        let minute = (now / MINUTE) as u32;
        let place = MSS[family.index()].iter().rposition(|least| *least <= mss).unwrap_or(0) as u32;
        let hidden = self.hash(ends, minute, 1).wrapping_add(place) & MASK;
        self.hash(ends, 0, 0).wrapping_add(seq).wrapping_add(minute << BITS).wrapping_add(hidden)
    }

    /// The MSS in a cookie that answered a SYN of this number; none where it is none, or too old.
    pub fn check(&self, family: Family, ends: &Ends, seq: u32, cookie: u32, now: u64) -> Option<u16> {
        let minute = (now / MINUTE) as u32;
        let rest = cookie.wrapping_sub(self.hash(ends, 0, 0)).wrapping_sub(seq);
        let age = minute.wrapping_sub(rest >> BITS) & (u32::MAX >> BITS);
        if age >= MAX_AGE {
            return None;
        }
        let place = rest.wrapping_sub(self.hash(ends, minute.wrapping_sub(age), 1)) & MASK;
        MSS[family.index()].get(place as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = (0x0a00_0001, 0x0a00_0002, 5000, 80);

    #[test]
    fn a_cookie_gives_its_mss_back_for_a_minute_at_least_and_two_at_most() {
        let cookies = Cookies::default();
        for (family, offered, kept) in [
            (Family::V4, 0, 536),
            (Family::V4, 536, 536),
            (Family::V4, 1299, 536),
            (Family::V4, 1300, 1300),
            (Family::V4, 1459, 1440),
            (Family::V4, 1460, 1460),
            (Family::V4, u16::MAX, 1460),
            (Family::V6, 0, 1220),
            (Family::V6, 1440, 1440),
            (Family::V6, 8940, 8940),
        ] {
            // Across the wrap of the eight bits that hold the minute too.
            for minute in [0, 7, 255, 256, 1 << 20] {
                let made = minute * MINUTE + MINUTE - 1;
                let cookie = cookies.make(family, &ENDS, 77, offered, made);
                let check = |now| cookies.check(family, &ENDS, 77, cookie, now);
                assert_eq!(check(made), Some(kept));
                assert_eq!(check(made + MINUTE), Some(kept));
                assert_eq!(check(made + MINUTE + 1), None, "two minutes have begun since");
            }
        }
    }

    #[test]
    fn what_was_not_made_for_a_connection_is_no_cookie_of_it() {
        let cookies = Cookies::default();
        let now = 1000 * MINUTE;
        let cookie = cookies.make(Family::V4, &ENDS, 77, 1460, now);
        let (src, dst, sport, dport) = ENDS;
        let others = [
            (src + 1, dst, sport, dport),
            (src, dst + 1, sport, dport),
            (src, dst, sport + 1, dport),
            (dst, src, dport, sport),
        ];
        for ends in others {
            assert_eq!(cookies.check(Family::V4, &ends, 77, cookie, now), None);
        }
        assert_eq!(cookies.check(Family::V4, &ENDS, 78, cookie, now), Some(1440), "a keep-alive takes the MSS below");
        assert_eq!(cookies.check(Family::V4, &ENDS, 76, cookie, now), None);
        assert_eq!(Cookies::default().check(Family::V4, &ENDS, 77, cookie, now), None);
        let guessed = (0..100_000u32)
            .filter(|n| cookies.check(Family::V4, &ENDS, 77, n.wrapping_mul(0x9e37_79b9), now).is_some());
        assert!(guessed.count() <= 1, "eight numbers in 2^32 are good");
    }
}
