//! Which packets come to which worker, and in which order.
//!
//! A device with several queues hashes what it receives: addresses and ports decide the queue, and so the worker (RSS). Behind a
//! masquerade an answer has other ones than what it answers, so that of two workers one has half of the answers of the
//! other's flows.

use super::workload::{LAN, WAN};
use crate::frames::Template;
use clap::ValueEnum;
use sumun_config::facts::PortId;

/// Who gets which packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Spread {
    /// Each packet goes where the hash of its own addresses and ports leads, as devices do it.
    Rss,
    /// Answers go to the worker of what they answer.
    Flows,
}

/// Microsoft's key, which most drivers have as their default.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];
/// Entries of the table from hashes to queues, dealt out in turn.
const TABLE: u32 = 128;

/// The hash of addresses and ports (Toeplitz): for each bit that is set, the 32 bits of the key from there on. At most 36 bytes.
fn toeplitz(ends: &[u8]) -> u32 {
    let mut hash = 0;
    for (at, byte) in ends.iter().enumerate() {
        let window = KEY[at..at + 5].iter().fold(0, |word, key| word << 8 | u64::from(*key));
        for bit in 0..8 {
            if byte & 0x80 >> bit != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

/// The worker that a device gives the packet to.
pub fn worker(packet: &Template, workers: usize) -> usize {
    (toeplitz(packet.ends()) % TABLE) as usize % workers
}

/// A worker's packets of known flows: one for each, by port, in the order in which they come.
#[derive(Default)]
pub struct Traffic {
    sides: [Side; 2],
    /// The side that is next.
    next: usize,
}

#[derive(Default)]
struct Side {
    packets: Vec<Template>,
    at: usize,
}

impl Traffic {
    /// One more.
    pub fn add(&mut self, port: PortId, packet: Template) {
        self.sides[usize::from(port == WAN)].packets.push(packet);
    }

    /// Not in the order in which flows were made, which is the order in which they lie in memory.
    pub fn shuffle(&mut self) {
        self.sides.iter_mut().for_each(|side| shuffle(&mut side.packets));
    }

    /// Whether nothing comes to this worker.
    pub fn is_empty(&self) -> bool {
        self.cycle() == 0
    }

    /// So many packets, and all have come by.
    pub fn cycle(&self) -> usize {
        let [one, other] = [0, 1].map(|side: usize| self.sides[side].packets.len());
        if one == 0 || other == 0 { one + other } else { 2 * one.max(other) }
    }

    /// The port whose turn it is, and its packets again and again: both have theirs by turns. Not where it is empty.
    pub fn burst(&mut self) -> (PortId, impl Iterator<Item = &Template>) {
        if self.sides[self.next].packets.is_empty() {
            self.next ^= 1;
        }
        let port = [LAN, WAN][self.next];
        let Side { packets, at } = &mut self.sides[self.next];
        self.next ^= 1;
        let packets = &packets[..];
        let next = move || {
            let packet = packets.get(*at)?;
            *at = if *at + 1 == packets.len() { 0 } else { *at + 1 };
            Some(packet)
        };
        (port, std::iter::from_fn(next))
    }
}

/// Fisher and Yates' shuffle, the same each time.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, ((state >> 33) % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{outbound, server};
    use sumun_config::facts::Family;

    #[test]
    fn hashes_are_those_of_devices() {
        // From "Verifying the RSS Hash Calculation" in Microsoft's documentation of RSS.
        assert_eq!(toeplitz(&[66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6]), 0x51cc_c178);
        let mut v6 = 0x3ffe_2501_0200_1fff_0000_0000_0000_0007u128.to_be_bytes().to_vec();
        v6.extend_from_slice(&0x3ffe_2501_0200_0003_0000_0000_0000_0001u128.to_be_bytes());
        v6.extend_from_slice(&[0x0a, 0xea, 0x06, 0xe6]);
        assert_eq!(toeplitz(&v6), 0x4020_7d3d);
    }

    #[test]
    fn flows_are_spread_evenly() {
        for family in Family::ALL {
            let of_first = (0..10_000).filter(|n| worker(&outbound(*n, server(family)), 2) == 0).count();
            assert!((4_500..5_500).contains(&of_first), "{of_first} of 10,000");
        }
    }

    #[test]
    fn few_packets_fill_bursts_and_both_ports_have_their_turn() {
        let packet = |n| outbound(n, server(Family::V4));
        let mut traffic = Traffic::default();
        assert!(traffic.is_empty());
        traffic.add(WAN, packet(1));
        for _ in 0..2 {
            let (port, packets) = traffic.burst();
            assert_eq!((port, packets.take(64).count()), (WAN, 64));
        }
        assert_eq!(traffic.cycle(), 1);
        for n in 2..5 {
            traffic.add(LAN, packet(n));
        }
        assert_eq!(traffic.cycle(), 6, "both ports have their turn");
        traffic.next = 0;
        let (port, packets) = traffic.burst();
        let ends: Vec<_> = packets.take(4).map(|packet| packet.ends().to_vec()).collect();
        assert_eq!((port, &ends[0]), (LAN, &ends[3]));
        assert_eq!(traffic.burst().0, WAN);
        let (port, mut packets) = traffic.burst();
        assert_eq!((port, packets.next().map(|packet| packet.ends().to_vec())), (LAN, Some(ends[1].clone())));
    }
}
