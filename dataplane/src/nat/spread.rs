//! Which address of a range does a flow get? Always the same for the same source and destination, also after a restart, and the
//! one that the kernel gives (`find_best_ips_proto`): it hashes the addresses without a key and spreads the hash over the range
//! word by word.
//!
//! The hash is the kernel's over the source's four words as they stand in memory on a little-endian machine.

use super::Manip;
use crate::conntrack::Tuple;
use sumun_config::facts::Family;
use sumun_config::jhash::jhash;

/// The address of the range, which is not of one address only.
pub(super) fn address(range: (u128, u128), t: &Tuple, manip: Manip, persistent: bool, zone: u16) -> u128 {
    let (used, [low, high]) = (words_of(t.family), [range.0, range.1].map(|addr| words(addr, t.family)));
    let mut dst = words(t.dst, t.family);
    let start = if persistent { 0 } else { dst[used - 1].swap_bytes() ^ u32::from(zone) };
    let mut hash = jhash(&words(t.src, t.family).map(u32::swap_bytes), start);
    let mut found = [0; 4];
    let mut is_below = false;
    for i in 0..used {
        // Once a word is less than the range's last, those behind it may be anything.
        let (least, span) =
            if is_below { (0, u32::MAX) } else { (low[i], high[i].wrapping_sub(low[i]).wrapping_add(1)) };
        found[i] = least.wrapping_add(((u64::from(hash) * u64::from(span)) >> 32) as u32);
        is_below |= found[i] != high[i];
        if manip == Manip::Dst {
            dst[i] = found[i];
        }
        if !persistent {
            hash ^= dst[i].swap_bytes();
        }
    }
    found[..used].iter().fold(0, |addr, word| addr << 32 | u128::from(*word))
}

fn words_of(family: Family) -> usize {
    match family {
        Family::V4 => 1,
        Family::V6 => 4,
    }
}

/// The words of an address in network order, the first ones of four.
fn words(addr: u128, family: Family) -> [u32; 4] {
    match family {
        Family::V4 => [addr as u32, 0, 0, 0],
        Family::V6 => [96, 64, 32, 0].map(|shift| (addr >> shift) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sumun_config::facts::proto;

    #[test]
    fn the_kernel_gives_the_same_addresses() {
        // As Linux 6.18 did for these pairs.
        let v4 = |src: [u8; 4], dst: [u8; 4], manip, persistent| {
            let [src, dst, low, high] =
                [src, dst, [198, 51, 100, 8], [198, 51, 100, 100]].map(|a| u128::from(u32::from_be_bytes(a)));
            let t = Tuple { src, dst, sport: 1, dport: 2, proto: proto::UDP, family: Family::V4, zone: 0 };
            address((low, high), &t, manip, persistent, 0) & 0xff
        };
        let (client, peer, other) = ([192, 168, 1, 11], [203, 0, 113, 1], [203, 0, 113, 9]);
        assert_eq!([v4(client, peer, Manip::Src, false), v4(client, other, Manip::Src, false)], [69, 27]);
        assert_eq!([v4(client, peer, Manip::Dst, true), v4(client, other, Manip::Dst, true)], [96, 96]);
    }

    proptest! {
        #[test]
        fn addresses_are_of_the_range(low: u128, span: u128, src: u128, dst: u128, v6: bool, source: bool, persistent: bool, zone: u16) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let [low, src, dst] = [low, src, dst].map(|addr| addr & family.ones());
            let high = low.saturating_add(span).min(family.ones());
            let t = Tuple { src, dst, sport: 1, dport: 2, proto: proto::UDP, family, zone };
            let manip = if source { Manip::Src } else { Manip::Dst };
            let found = address((low, high), &t, manip, persistent, zone);
            // Later words are chosen each for itself.
            let first = if v6 { 96 } else { 0 };
            prop_assert!((low >> first..=high >> first).contains(&(found >> first)));
        }
    }
}
