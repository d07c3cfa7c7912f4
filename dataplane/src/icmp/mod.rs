//! What the router says when it does not deliver: ICMP errors of both families and TCP resets.
//!
//! Three questions, one file each: [`due`] - may this packet be answered at all; [`build`] - what bytes does the answer
//! have; [`rate`] - how many answers. All are pure; where the answer leaves is the engine's concern, for which it is a
//! packet of its own that goes through OUTPUT and POSTROUTING.

pub mod build;
pub mod due;
pub mod rate;

pub use build::{Segment, build_error, build_tcp_reset};
pub use due::{is_due, is_reject_due, is_reset_due};
pub use rate::RateLimit;

use sumun_config::facts::Family;
use sumun_config::rule::targets::reject::With;

/// What went wrong with a packet. The family of the packet picks type and code: RFC 792, 1191, 1812 and RFC 4443.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// Fragments did not come in time.
    FragReassembly,
    /// There is no route.
    NetUnreachable,
    /// The next hop does not answer, or the route says unreachable.
    HostUnreachable,
    /// Nobody speaks this protocol here.
    ProtoUnreachable,
    /// Nobody listens on this port.
    PortUnreachable,
    /// Larger than the path allows: fragmentation needed, or packet too big.
    FragNeeded {
        /// Bytes that fit.
        mtu: u16,
    },
    /// The network is prohibited.
    NetProhibited,
    /// The host is prohibited.
    HostProhibited,
    /// Communication is prohibited by a filter.
    AdminProhibited,
    /// The source may not leave its link (IPv6 only).
    BeyondScope,
    /// The source address fails an ingress or egress policy.
    PolicyFail,
    /// The route to the destination rejects.
    RejectRoute,
    /// A field of a header is wrong.
    ParamProblem {
        /// Which kind of problem: 0 and 1 with IPv4, 0 to 2 with IPv6.
        code: u8,
        /// Offset of the field from the IP header.
        pointer: u32,
    },
    /// There is a better first hop for this host.
    Redirect {
        /// The better hop (IPv4 only: redirects of IPv6 are neighbour discovery).
        gateway: u32,
    },
}

impl Error {
    /// The error that a REJECT asks for; none for a TCP reset.
    pub const fn of_reject(with: With) -> Option<Error> {
        Some(match with {
            With::IcmpNetUnreachable | With::Icmp6NoRoute => Error::NetUnreachable,
            With::IcmpHostUnreachable | With::Icmp6AddrUnreachable => Error::HostUnreachable,
            With::IcmpPortUnreachable | With::Icmp6PortUnreachable => Error::PortUnreachable,
            With::IcmpProtoUnreachable => Error::ProtoUnreachable,
            With::IcmpNetProhibited => Error::NetProhibited,
            With::IcmpHostProhibited => Error::HostProhibited,
            With::IcmpAdminProhibited | With::Icmp6AdmProhibited => Error::AdminProhibited,
            With::Icmp6PolicyFail => Error::PolicyFail,
            With::Icmp6RejectRoute => Error::RejectRoute,
            With::TcpReset => return None,
        })
    }

    /// Whether [`RateLimit`] applies: the defaults of `icmp_ratemask`, and never to path-MTU discovery.
    pub const fn is_limited(self) -> bool {
        !matches!(self, Error::FragNeeded { .. } | Error::Redirect { .. })
    }

    /// Type, code and the second four bytes of the message.
    pub const fn message(self, family: Family) -> (u8, u8, u32) {
        match family {
            Family::V4 => match self {
                Error::NetUnreachable => (3, 0, 0),
                Error::HostUnreachable => (3, 1, 0),
                Error::ProtoUnreachable => (3, 2, 0),
                Error::PortUnreachable => (3, 3, 0),
                Error::FragNeeded { mtu } => (3, 4, mtu as u32),
                Error::NetProhibited => (3, 9, 0),
                Error::HostProhibited => (3, 10, 0),
                Error::AdminProhibited | Error::BeyondScope | Error::PolicyFail | Error::RejectRoute => (3, 13, 0),
                Error::Redirect { gateway } => (5, 1, gateway),
                Error::TimeExceeded => (11, 0, 0),
                Error::FragReassembly => (11, 1, 0),
                Error::ParamProblem { code, pointer } => (12, code, pointer << 24),
            },
            Family::V6 => match self {
                Error::NetUnreachable => (1, 0, 0),
                Error::NetProhibited | Error::HostProhibited | Error::AdminProhibited => (1, 1, 0),
                Error::BeyondScope => (1, 2, 0),
                Error::HostUnreachable | Error::Redirect { .. } => (1, 3, 0),
                Error::PortUnreachable => (1, 4, 0),
                Error::PolicyFail => (1, 5, 0),
                Error::RejectRoute => (1, 6, 0),
                Error::FragNeeded { mtu } => (2, 0, mtu as u32),
                Error::TimeExceeded => (3, 0, 0),
                Error::FragReassembly => (3, 1, 0),
                // RFC 4443 section 3.4: unrecognised next header. Where that stands, the builder knows.
                Error::ProtoUnreachable => (4, 1, 6),
                Error::ParamProblem { code, pointer } => (4, code, pointer),
            },
        }
    }
}
