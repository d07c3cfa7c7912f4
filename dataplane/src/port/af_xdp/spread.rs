//! How a device deals packets to its receive queues (RSS), asked without changing anything.

#![allow(unsafe_code, reason = "device ioctls take C structures")]

use super::device::{ask, request};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GRXFHINDIR` of linux/ethtool.h: the table by which hashes become queues.
const ETHTOOL_GRXFHINDIR: u32 = 0x38;
/// `ETHTOOL_GRXFH`: what is hashed.
const ETHTOOL_GRXFH: u32 = 0x29;
/// Bits of what is hashed: the two halves of the ports (`RXH_L4_B_0_1`, `RXH_L4_B_2_3`).
const PORTS: u64 = 1 << 6 | 1 << 7;
/// Entries of the longest table that is read; drivers have up to a few thousand.
const LONGEST: u32 = 1 << 16;

/// The kinds of packets that are asked for: what ethtool(8) calls them, and their `*_FLOW`.
const KINDS: [(&str, u32); 4] = [("tcp4", 0x01), ("udp4", 0x02), ("tcp6", 0x05), ("udp6", 0x06)];

/// How packets are dealt to queues.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// The queue of each hash, modulo the length.
    pub table: Vec<u32>,
    /// Kinds of packets, as ethtool(8) calls them, and whether their ports are hashed beside the addresses.
    pub by_ports: Vec<(&'static str, bool)>,
}

/// `struct ethtool_rxnfc` as far as it is read, and room for the rest.
#[repr(C)]
struct Fields {
    cmd: u32,
    flow: u32,
    data: u64,
    rest: [u64; 24],
}

/// Asks a device of this network namespace; none where it has no such table.
pub fn spread(device: &str) -> Option<Spread> {
    if device.is_empty() || device.len() >= libc::IFNAMSIZ {
        return None;
    }
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut request = request(device);
    // `struct ethtool_rxfh_indir`: the command, the number of entries, and these. With 0 entries it answers their number.
    let mut head = [ETHTOOL_GRXFHINDIR, 0];
    request.ifr_ifru.ifru_data = head.as_mut_ptr().cast();
    ask(&fd, libc::SIOCETHTOOL, &mut request).ok()?;
    let entries = head[1];
    if !(1..=LONGEST).contains(&entries) {
        return None;
    }
    let mut table = vec![0; 2 + entries as usize];
    table[..2].copy_from_slice(&[ETHTOOL_GRXFHINDIR, entries]);
    request.ifr_ifru.ifru_data = table.as_mut_ptr().cast();
    ask(&fd, libc::SIOCETHTOOL, &mut request).ok()?;
    let by_ports = KINDS.iter().filter_map(|&(name, flow)| {
        let mut fields = Fields { cmd: ETHTOOL_GRXFH, flow, data: 0, rest: [0; 24] };
        request.ifr_ifru.ifru_data = (&raw mut fields).cast();
        ask(&fd, libc::SIOCETHTOOL, &mut request).ok()?;
        // A device that hashes nothing of it says 0: then it has no choice.
        (fields.data != 0).then_some((name, fields.data & PORTS == PORTS))
    });
    Some(Spread { by_ports: by_ports.collect(), table: table.split_off(2) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_without_a_table_have_none() {
        for device in ["lo", "", "there-is-none", "a-name-that-is-much-too-long"] {
            assert_eq!(spread(device), None);
        }
    }
}
