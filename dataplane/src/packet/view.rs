//! Views of headers: one length check when a view is made, infallible reads after it.
//!
//! A view is a reference to an array of the header's fixed size, so the compiler knows every offset to be inside.

use sumun_config::facts::Family;

/// Offsets, in bytes from the start of the header.
mod field {
    pub mod ethernet {
        pub const DESTINATION: usize = 0;
        pub const SOURCE: usize = 6;
        pub const TYPE: usize = 12;
    }
    pub mod ipv4 {
        pub const VERSION_IHL: usize = 0;
        pub const TOS: usize = 1;
        pub const TOTAL_LENGTH: usize = 2;
        pub const IDENTIFICATION: usize = 4;
        pub const FRAGMENT: usize = 6;
        pub const TTL: usize = 8;
        pub const PROTOCOL: usize = 9;
        pub const CHECKSUM: usize = 10;
        pub const SOURCE: usize = 12;
        pub const DESTINATION: usize = 16;
    }
    pub mod ipv6 {
        pub const VERSION: usize = 0;
        pub const PAYLOAD_LENGTH: usize = 4;
        pub const NEXT_HEADER: usize = 6;
        pub const HOP_LIMIT: usize = 7;
        pub const SOURCE: usize = 8;
        pub const DESTINATION: usize = 24;
    }
    pub mod ports {
        pub const SOURCE: usize = 0;
        pub const DESTINATION: usize = 2;
    }
    pub mod tcp {
        pub const SEQUENCE: usize = 4;
        pub const ACKNOWLEDGEMENT: usize = 8;
        pub const DATA_OFFSET: usize = 12;
        pub const FLAGS: usize = 13;
        pub const WINDOW: usize = 14;
        pub const CHECKSUM: usize = 16;
        pub const URGENT: usize = 18;
    }
    pub mod udp {
        pub const LENGTH: usize = 4;
        pub const CHECKSUM: usize = 6;
    }
    pub mod icmp {
        pub const TYPE: usize = 0;
        pub const CODE: usize = 1;
        pub const CHECKSUM: usize = 2;
        pub const IDENTIFIER: usize = 4;
        pub const SEQUENCE: usize = 6;
    }
}

/// EtherTypes that the router looks at.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
}

/// Bits of the TCP flags byte.
pub mod tcp_flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// Acknowledgement.
    pub const ACK: u8 = 16;
    /// Urgent.
    pub const URG: u8 = 32;
    /// Congestion was seen (RFC 3168).
    pub const ECE: u8 = 64;
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: u8 = 128;
}

/// IPv4 "more fragments" in the fragment word.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// IPv4 "don't fragment" in the fragment word.
pub const DONT_FRAGMENT: u16 = 0x4000;

#[inline]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn long<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

macro_rules! view {
    ($(#[doc = $doc:literal])* $name:ident, $len:literal) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a>(&'a [u8; $len]);

        impl<'a> $name<'a> {
            /// Bytes of the fixed header.
            pub const LEN: usize = $len;

            /// The header at the start of `bytes`, where it is all there.
            #[inline]
            pub fn new(bytes: &'a [u8]) -> Option<Self> {
                bytes.first_chunk().map(Self)
            }
        }
    };
}

view!(
    /// An Ethernet header.
    Ethernet, 14
);
view!(
    /// The fixed part of an IPv4 header.
    Ipv4, 20
);
view!(
    /// An IPv6 header.
    Ipv6, 40
);
view!(
    /// The ports that TCP, UDP, UDP-Lite, SCTP and DCCP start with.
    Ports, 4
);
view!(
    /// The fixed part of a TCP header.
    Tcp, 20
);
view!(
    /// A UDP or UDP-Lite header.
    Udp, 8
);
view!(
    /// The eight bytes that every ICMP and ICMPv6 message starts with.
    Icmp, 8
);

impl Ethernet<'_> {
    /// Destination MAC.
    #[inline]
    pub fn destination(self) -> [u8; 6] {
        std::array::from_fn(|i| self.0[field::ethernet::DESTINATION + i])
    }

    /// Source MAC.
    #[inline]
    pub fn source(self) -> [u8; 6] {
        std::array::from_fn(|i| self.0[field::ethernet::SOURCE + i])
    }

    /// EtherType, or a length below 0x600.
    #[inline]
    pub fn ethertype(self) -> u16 {
        word(self.0, field::ethernet::TYPE)
    }
}

impl Ipv4<'_> {
    /// Version: 4.
    #[inline]
    pub fn version(self) -> u8 {
        self.0[field::ipv4::VERSION_IHL] >> 4
    }

    /// Bytes of the header with options, as it says itself.
    #[inline]
    pub fn header_len(self) -> usize {
        usize::from(self.0[field::ipv4::VERSION_IHL] & 0xf) * 4
    }

    /// TOS byte.
    #[inline]
    pub fn tos(self) -> u8 {
        self.0[field::ipv4::TOS]
    }

    /// Bytes of the packet, as it says itself.
    #[inline]
    pub fn total_len(self) -> u16 {
        word(self.0, field::ipv4::TOTAL_LENGTH)
    }

    /// Identification.
    #[inline]
    pub fn id(self) -> u16 {
        word(self.0, field::ipv4::IDENTIFICATION)
    }

    /// Flags and fragment offset.
    #[inline]
    pub fn fragment(self) -> u16 {
        word(self.0, field::ipv4::FRAGMENT)
    }

    /// Time to live.
    #[inline]
    pub fn ttl(self) -> u8 {
        self.0[field::ipv4::TTL]
    }

    /// Protocol number.
    #[inline]
    pub fn protocol(self) -> u8 {
        self.0[field::ipv4::PROTOCOL]
    }

    /// Header checksum.
    #[inline]
    pub fn checksum(self) -> u16 {
        word(self.0, field::ipv4::CHECKSUM)
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> u32 {
        long(self.0, field::ipv4::SOURCE)
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> u32 {
        long(self.0, field::ipv4::DESTINATION)
    }
}

impl Ipv6<'_> {
    /// Version: 6.
    #[inline]
    pub fn version(self) -> u8 {
        self.0[field::ipv6::VERSION] >> 4
    }

    /// Traffic class.
    #[inline]
    pub fn traffic_class(self) -> u8 {
        (word(self.0, field::ipv6::VERSION) >> 4) as u8
    }

    /// Flow label.
    #[inline]
    pub fn flow_label(self) -> u32 {
        long(self.0, field::ipv6::VERSION) & 0xf_ffff
    }

    /// Bytes of the packet. Packets that are longer than this can say are refused before, embedded ones were never that long.
    #[inline]
    pub fn total_len(self) -> u16 {
        (Self::LEN as u16).saturating_add(self.payload_len())
    }

    /// Bytes behind this header, as it says itself.
    #[inline]
    pub fn payload_len(self) -> u16 {
        word(self.0, field::ipv6::PAYLOAD_LENGTH)
    }

    /// Number of the header behind this one.
    #[inline]
    pub fn next_header(self) -> u8 {
        self.0[field::ipv6::NEXT_HEADER]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(self) -> u8 {
        self.0[field::ipv6::HOP_LIMIT]
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> u128 {
        u128::from_be_bytes(std::array::from_fn(|i| self.0[field::ipv6::SOURCE + i]))
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> u128 {
        u128::from_be_bytes(std::array::from_fn(|i| self.0[field::ipv6::DESTINATION + i]))
    }
}

impl Ports<'_> {
    /// Source port.
    #[inline]
    pub fn source(self) -> u16 {
        word(self.0, field::ports::SOURCE)
    }

    /// Destination port.
    #[inline]
    pub fn destination(self) -> u16 {
        word(self.0, field::ports::DESTINATION)
    }
}

impl Tcp<'_> {
    /// Source port.
    #[inline]
    pub fn source(self) -> u16 {
        word(self.0, field::ports::SOURCE)
    }

    /// Destination port.
    #[inline]
    pub fn destination(self) -> u16 {
        word(self.0, field::ports::DESTINATION)
    }

    /// Sequence number.
    #[inline]
    pub fn sequence(self) -> u32 {
        long(self.0, field::tcp::SEQUENCE)
    }

    /// Acknowledgement number.
    #[inline]
    pub fn acknowledgement(self) -> u32 {
        long(self.0, field::tcp::ACKNOWLEDGEMENT)
    }

    /// Bytes of the header with options, as it says itself.
    #[inline]
    pub fn header_len(self) -> usize {
        usize::from(self.0[field::tcp::DATA_OFFSET] >> 4) * 4
    }

    /// The four bits between data offset and flags.
    #[inline]
    pub fn reserved(self) -> u8 {
        self.0[field::tcp::DATA_OFFSET] & 0xf
    }

    /// Flags ([`tcp_flag`]).
    #[inline]
    pub fn flags(self) -> u8 {
        self.0[field::tcp::FLAGS]
    }

    /// Window, unscaled.
    #[inline]
    pub fn window(self) -> u16 {
        word(self.0, field::tcp::WINDOW)
    }

    /// Checksum.
    #[inline]
    pub fn checksum(self) -> u16 {
        word(self.0, field::tcp::CHECKSUM)
    }

    /// Urgent pointer.
    #[inline]
    pub fn urgent(self) -> u16 {
        word(self.0, field::tcp::URGENT)
    }
}

impl Udp<'_> {
    /// Source port.
    #[inline]
    pub fn source(self) -> u16 {
        word(self.0, field::ports::SOURCE)
    }

    /// Destination port.
    #[inline]
    pub fn destination(self) -> u16 {
        word(self.0, field::ports::DESTINATION)
    }

    /// Length of header and data; of UDP-Lite the checksum's coverage.
    #[inline]
    pub fn length(self) -> u16 {
        word(self.0, field::udp::LENGTH)
    }

    /// Checksum; zero is none.
    #[inline]
    pub fn checksum(self) -> u16 {
        word(self.0, field::udp::CHECKSUM)
    }
}

impl Icmp<'_> {
    /// Message type.
    #[inline]
    pub fn kind(self) -> u8 {
        self.0[field::icmp::TYPE]
    }

    /// Message code.
    #[inline]
    pub fn code(self) -> u8 {
        self.0[field::icmp::CODE]
    }

    /// Checksum.
    #[inline]
    pub fn checksum(self) -> u16 {
        word(self.0, field::icmp::CHECKSUM)
    }

    /// Identifier of echo and the like.
    #[inline]
    pub fn id(self) -> u16 {
        word(self.0, field::icmp::IDENTIFIER)
    }

    /// Sequence number of echo and the like; MTU of fragmentation needed.
    #[inline]
    pub fn sequence(self) -> u16 {
        word(self.0, field::icmp::SEQUENCE)
    }

    /// The second four bytes as one number: MTU of packet too big, gateway of redirect.
    #[inline]
    pub fn rest(self) -> u32 {
        long(self.0, field::icmp::IDENTIFIER)
    }
}

/// Whether messages of this ICMP (or ICMPv6) type carry an identifier: queries and their answers.
#[inline]
pub const fn icmp_has_id(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 0 | 8 | 13..=18),
        Family::V6 => matches!(kind, 128 | 129 | 139 | 140),
    }
}
