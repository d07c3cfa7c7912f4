//! What does the kernel leave undone in a frame that a TAP gives or takes? The header `virtio_net_hdr` says it.
//!
//! With offloads on, the host's stack sends TCP and UDP in pieces of up to 64 kilobytes with a checksum that only covers the
//! pseudo header, and says where to cut and where to sum. It takes the same. [`Offload`] is what such a header means; one
//! that means nothing is [`Malformed`].

/// Bytes of the header, in the machine's own byte order.
pub const LEN: usize = 10;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM.
const NEEDS_SUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_TCPV4, TCPV6, UDP_L4 and the bit ECN.
const NONE: u8 = 0;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP: u8 = 5;
const ECN: u8 = 0x80;

/// What has to be done with a frame before it is one that a wire could carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Nothing.
    None,
    /// The Internet checksum of all from `start` on belongs at `start + offset`.
    Sum {
        /// Offset of the L4 header in the frame.
        start: u16,
        /// Offset of the checksum in the L4 header.
        offset: u16,
    },
    /// It is to be cut into segments, each with its own sums.
    Cut {
        /// What is cut.
        kind: Kind,
        /// Bytes of data of each segment, save the last, which may have fewer.
        size: u16,
        /// Offset of the L4 header in the frame.
        start: u16,
    },
}

/// What a super-frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams over either.
    Udp,
}

/// A header that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a virtio header that makes no sense: {0:02x?}")]
pub struct Malformed(pub [u8; LEN]);

impl Kind {
    /// Offset of the checksum in the L4 header.
    pub const fn sum_offset(self) -> u16 {
        match self {
            Kind::Tcp4 | Kind::Tcp6 => 16,
            Kind::Udp => 6,
        }
    }
}

impl Offload {
    /// What a header says.
    pub fn read(header: &[u8; LEN]) -> Result<Offload, Malformed> {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (size, start, offset) = (word(4), word(6), word(8));
        let summed = header[0] & NEEDS_SUM != 0;
        let kind = match header[1] & !ECN {
            NONE if summed => return Ok(Offload::Sum { start, offset }),
            NONE => return Ok(Offload::None),
            TCP4 => Kind::Tcp4,
            TCP6 => Kind::Tcp6,
            UDP => Kind::Udp,
            _ => return Err(Malformed(*header)),
        };
        if !summed || size == 0 || offset != kind.sum_offset() {
            return Err(Malformed(*header));
        }
        Ok(Offload::Cut { kind, size, start })
    }

    /// The header that says this of a frame whose headers are `headers` bytes long.
    pub fn write(self, headers: u16) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let (kind, size, start, offset) = match self {
            Offload::None => return bytes,
            Offload::Sum { start, offset } => (NONE, 0, start, offset),
            Offload::Cut { kind, size, start } => {
                let number = match kind {
                    Kind::Tcp4 => TCP4,
                    Kind::Tcp6 => TCP6,
                    Kind::Udp => UDP,
                };
                (number, size, start, kind.sum_offset())
            }
        };
        bytes[..2].copy_from_slice(&[NEEDS_SUM, kind]);
        for (at, word) in [(2, headers), (4, size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let cut = |kind| Offload::Cut { kind, size: 1448, start: 34 };
        let all =
            [Offload::None, Offload::Sum { start: 34, offset: 6 }, cut(Kind::Tcp4), cut(Kind::Tcp6), cut(Kind::Udp)];
        for offload in all {
            assert_eq!(Offload::read(&offload.write(66)), Ok(offload));
        }
    }

    #[test]
    fn the_ecn_bit_says_nothing_new_and_nonsense_is_refused() {
        let good = Offload::Cut { kind: Kind::Tcp4, size: 1448, start: 34 };
        let mut header = good.write(66);
        header[1] |= ECN;
        assert_eq!(Offload::read(&header), Ok(good));
        let wrong = |at: usize, value: u8| {
            let mut header = good.write(66);
            header[at..=at].fill(value);
            Offload::read(&header)
        };
        assert!(wrong(0, 0).is_err(), "cut, but not summed");
        for kind in [2, 3, 6, 0x7f] {
            assert!(wrong(1, kind).is_err(), "{kind}");
        }
        assert!(wrong(8, 6).is_err(), "no TCP checksum is there");
        assert!(Offload::read(&Offload::Cut { kind: Kind::Udp, size: 0, start: 34 }.write(42)).is_err());
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header: [u8; LEN]) {
            if let Ok(offload) = Offload::read(&header) {
                prop_assert_eq!(Offload::read(&offload.write(0)), Ok(offload));
            }
        }
    }
}
