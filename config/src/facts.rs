//! What a rule may look at: the facts about one packet at one point of its way.
//!
//! The engine parses a frame once into a [`Facts`] and keeps it true while the packet is routed, tracked and
//! rewritten; matches and targets read it and nothing else. Facts own no bytes, so that frame and facts can change
//! independently; the few matches that need raw header bytes (TCP options, say) get them from [`Context::l3`].
//!
//! Addresses of both families are one `u128`: an IPv4 address stands in the low 32 bits, so one code path serves both.

use crate::helper::Helper;
use crate::rule::matches::nfacct::Standing;
use crate::rule::matches::osf::Fingerprint;
use crate::rule::matches::rateest::Rate;
use crate::rule::matches::recent::{Ask, Sighting};
use crate::set::SkbInfo;
use crate::set::ask::{Asked, Change, Named};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers of the IP header (IANA) that the engine knows by name.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: no next header.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DSTOPTS: u8 = 60;
    /// IPv6 hop-by-hop options.
    pub const HOPOPTS: u8 = 0;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
    /// IP payload compression.
    pub const IPCOMP: u8 = 108;
    /// Mobility header of IPv6.
    pub const MH: u8 = 135;

    /// Whether this is an IPv6 extension header behind which there is another header.
    #[inline]
    pub const fn is_extension(next: u8) -> bool {
        matches!(next, HOPOPTS | ROUTING | FRAGMENT | AH | DSTOPTS)
    }
}

/// Address family of a packet, a rule or a route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// Bits of an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// 0 for IPv4, 1 for IPv6: the index of per-family arrays.
    pub const fn index(self) -> usize {
        match self {
            Family::V4 => 0,
            Family::V6 => 1,
        }
    }

    /// All ones over the width of an address.
    pub const fn ones(self) -> u128 {
        match self {
            Family::V4 => u32::MAX as u128,
            Family::V6 => u128::MAX,
        }
    }

    /// The netmask of a prefix of `len` bits (`len` at most [`Family::bits`]), right-aligned as addresses are.
    pub const fn mask(self, len: u8) -> u128 {
        let host = self.bits() - len;
        let cleared = if host >= 128 { 0 } else { u128::MAX << host };
        self.ones() & cleared
    }

    /// The engine's number back to an address of this family.
    pub fn address(self, addr: u128) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(addr as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(addr)),
        }
    }

    /// `ipv4` or `ipv6`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }
}

/// An address as the engine computes with it: its family and its number, right-aligned.
pub fn number(addr: IpAddr) -> (Family, u128) {
    match addr {
        IpAddr::V4(a) => (Family::V4, u32::from(a) as u128),
        IpAddr::V6(a) => (Family::V6, u128::from(a)),
    }
}

/// A port of the router: the index of its interface in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: the `iif` of local output, the `oif` before routing.
    pub const NONE: PortId = PortId(u16::MAX);

    /// `lo`: over which the router's host hears of what OUTPUT has led to an own address. No port of the configuration.
    pub const LOOPBACK: PortId = PortId(u16::MAX - 1);

    /// The port as an index, where there is one.
    pub fn index(self) -> Option<usize> {
        (self.0 < PortId::LOOPBACK.0).then_some(self.0 as usize)
    }
}

/// The name of the interface that stands for the router itself, as in the kernel.
pub const LOOPBACK: &str = "lo";

/// Direction of a packet relative to the first packet of its flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Dir {
    /// As the first packet went.
    #[default]
    Original = 0,
    /// The other way.
    Reply = 1,
}

impl Dir {
    /// The other direction.
    pub const fn other(self) -> Dir {
        match self {
            Dir::Original => Dir::Reply,
            Dir::Reply => Dir::Original,
        }
    }
}

/// A packet's conntrack state: one bit each, with the values of `XT_CONNTRACK_STATE_*` so that masks read the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[repr(u16)]
pub enum CtState {
    /// Cannot be placed, malformed, or refused by its protocol's tracker.
    Invalid = 1,
    /// A reply has been seen (either direction).
    Established = 2,
    /// An ICMP error about a tracked flow, or an expected flow.
    Related = 4,
    /// First packets of a flow; no reply yet.
    New = 8,
    /// Raw said NOTRACK.
    Untracked = 64,
}

/// Bits of [`Facts::ct_status`], with the values of the kernel's `IPS_*`.
pub mod status {
    /// Expected by a helper.
    pub const EXPECTED: u32 = 1;
    /// Packets seen both ways.
    pub const SEEN_REPLY: u32 = 2;
    /// Never dropped early.
    pub const ASSURED: u32 = 4;
    /// Its first packet has left the router.
    pub const CONFIRMED: u32 = 8;
    /// Source is rewritten in the original direction.
    pub const SRC_NAT: u32 = 16;
    /// Destination is rewritten in the original direction.
    pub const DST_NAT: u32 = 32;
    /// A helper has changed the length of its packets.
    pub const SEQ_ADJUST: u32 = 64;
    /// The source mapping has been chosen (a null binding counts).
    pub const SRC_NAT_DONE: u32 = 128;
    /// The destination mapping has been chosen (a null binding counts).
    pub const DST_NAT_DONE: u32 = 256;
    /// Being removed.
    pub const DYING: u32 = 512;
    /// Its time-out never changes.
    pub const FIXED_TIMEOUT: u32 = 1024;
    /// Not a flow but what CT of table raw asks for one.
    pub const TEMPLATE: u32 = 2048;
    /// Begun twice and mapped twice: only its answers are known by it (`IPS_NAT_CLASH`).
    pub const NAT_CLASH: u32 = 1 << 12;
    /// A rule gave it a helper.
    pub const HELPER: u32 = 8192;
    /// Beyond its mapping the flow has something of what few flows have: a helper, a time-out policy, chosen events,
    /// labels. The engine's own; for the kernel this bit is another.
    pub const EXTRA: u32 = 1 << 14;
    /// SYNPROXY opened it in its server's place. The engine's own; for the kernel this bit is another.
    pub const PROXIED: u32 = 1 << 15;
}

/// How a frame was addressed on its link, as `skb->pkt_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum PacketType {
    /// To this port's own address.
    Host,
    /// To everybody.
    Broadcast,
    /// To a group.
    Multicast,
    /// To somebody else.
    OtherHost,
}

/// All that a rule may know of a packet without reading its bytes. Numbers are in host byte order.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// IP source address.
    pub src: u128,
    /// IP destination address.
    pub dst: u128,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Upper-layer protocol, behind all IPv6 extension headers that could be skipped.
    pub proto: u8,
    /// Source port (TCP, UDP, UDP-Lite, SCTP, DCCP), or ICMP identifier; 0 where `has_l4` is false.
    pub sport: u16,
    /// Destination port; for ICMP and ICMPv6 type in the high and code in the low byte; 0 where `has_l4` is false.
    pub dport: u16,
    /// The fixed part of the L4 header is all there and this is not a later fragment.
    pub has_l4: bool,
    /// TCP flags byte (CWR ECE URG ACK PSH RST SYN FIN, high to low), 0 for others.
    pub tcp_flags: u8,
    /// TOS byte or traffic class, ECN bits included.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP length in bytes: IPv4 total length; IPv6 40 + payload length. What counters and `length` count.
    pub len: u16,
    /// Bytes of the L3 header: IPv4 with options; IPv6 with the extension headers up to the upper layer (`thoff`).
    pub l4_off: u16,
    /// Fragment offset in bytes; 0 for whole packets and first fragments.
    pub frag_off: u16,
    /// More fragments follow.
    pub more_frags: bool,
    /// IPv4 Don't Fragment.
    pub dont_frag: bool,
    /// IPv4 identification, 0 for IPv6.
    pub ip_id: u16,
    /// IPv6 flow label, 0 for IPv4.
    pub flow_label: u32,
    /// The IPv6 packet has extension headers, the IPv4 packet options.
    pub has_options: bool,
    /// Source MAC of the frame; all zero for local output.
    pub smac: [u8; 6],
    /// Destination MAC of the frame.
    pub dmac: [u8; 6],
    /// Whether the packet came with a link header (false for local output).
    pub has_link: bool,
    /// How the frame was addressed.
    pub pkt_type: PacketType,
    /// Where the packet came in; [`PortId::NONE`] at OUTPUT, and at POSTROUTING of local output.
    pub iif: PortId,
    /// Where it goes; [`PortId::NONE`] at PREROUTING and INPUT.
    pub oif: PortId,
    /// Netfilter mark (`skb->mark`).
    pub mark: u32,
    /// Conntrack state; [`CtState::Invalid`] where there is no flow and it was not untracked.
    pub ct_state: CtState,
    /// Direction within the flow.
    pub ct_dir: Dir,
    /// Status bits of the flow ([`status`]), 0 where there is none.
    pub ct_status: u32,
    /// The flow's mark, 0 where there is none.
    pub ct_mark: u32,
    /// The flow's protocol, which for an ICMP error is not the packet's; 0 where there is no flow.
    pub ct_proto: u8,
    /// Whether the packet belongs to a flow (not INVALID, not UNTRACKED).
    pub has_ct: bool,
}

impl Facts {
    /// Facts of nothing in particular: a 20-byte packet of the family from and to nowhere. A start for builders and tests.
    pub const fn blank(family: Family) -> Facts {
        Facts {
            src: 0,
            dst: 0,
            family,
            proto: 0,
            sport: 0,
            dport: 0,
            has_l4: false,
            tcp_flags: 0,
            tos: 0,
            ttl: 64,
            len: match family {
                Family::V4 => 20,
                Family::V6 => 40,
            },
            l4_off: match family {
                Family::V4 => 20,
                Family::V6 => 40,
            },
            frag_off: 0,
            more_frags: false,
            dont_frag: false,
            ip_id: 0,
            flow_label: 0,
            has_options: false,
            smac: [0; 6],
            dmac: [0; 6],
            has_link: false,
            pkt_type: PacketType::Host,
            iif: PortId::NONE,
            oif: PortId::NONE,
            mark: 0,
            ct_state: CtState::Invalid,
            ct_dir: Dir::Original,
            ct_status: 0,
            ct_mark: 0,
            ct_proto: 0,
            has_ct: false,
        }
    }

    /// As before conntrack has placed the packet.
    pub fn forget_flow(&mut self) {
        let blank = Facts::blank(self.family);
        *self = Facts {
            ct_state: blank.ct_state,
            ct_dir: blank.ct_dir,
            ct_status: blank.ct_status,
            ct_mark: blank.ct_mark,
            ct_proto: blank.ct_proto,
            has_ct: blank.has_ct,
            ..*self
        };
    }

    /// ICMP or ICMPv6 type and code, where the packet has them.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let icmp = match self.family {
            Family::V4 => proto::ICMP,
            Family::V6 => proto::ICMPV6,
        };
        (self.proto == icmp && self.has_l4).then_some(((self.dport >> 8) as u8, self.dport as u8))
    }

    /// A fragment that is not the first: it has no L4 header.
    pub fn is_later_fragment(&self) -> bool {
        self.frag_off != 0
    }

    /// Part of a fragmented packet.
    pub fn is_fragment(&self) -> bool {
        self.frag_off != 0 || self.more_frags
    }
}

/// What kind of address an address is to this router: the kernel's `RTN_*` as `addrtype` names them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum AddrType {
    /// No route.
    Unspec = 0,
    /// Reached through a route.
    Unicast = 1,
    /// This router's own.
    Local = 2,
    /// A broadcast address of an attached network.
    Broadcast = 3,
    /// An anycast address.
    Anycast = 4,
    /// A group.
    Multicast = 5,
    /// Routed to a blackhole.
    Blackhole = 6,
    /// Routed to unreachable.
    Unreachable = 7,
    /// Routed to prohibit.
    Prohibit = 8,
}

/// What a rule may ask of the router around it. Not on the common path: few matches use it.
pub trait Surroundings {
    /// The type of an address, as the FIB sees it; with `port`, of the addresses of that port only.
    fn addr_type(&self, family: Family, addr: u128, port: PortId) -> AddrType;
    /// A uniformly random number.
    fn random(&self) -> u32;
    /// The path MTU towards the packet's destination (`reply` false) or back to its source (`reply` true), in bytes of IP.
    fn path_mtu(&self, facts: &Facts, reply: bool) -> u16;
    /// The first address of the port, as the kernel's `inet_select_addr` would choose towards `towards`; for MASQUERADE and REDIRECT.
    fn port_address(&self, port: PortId, family: Family, towards: u128) -> Option<u128>;
    /// The packet's flow, where it has one.
    fn flow(&self) -> Option<&dyn FlowFacts> {
        None
    }
    /// The core that handles the packet.
    fn core(&self) -> u32 {
        0
    }
    /// The group of a port.
    fn group(&self, _port: PortId) -> u32 {
        0
    }
    /// The realms of the packet's route: its source's in the high 16 bits, its destination's in the low ones (`tclassid`).
    fn realms(&self) -> u32 {
        0
    }
    /// Whether the reverse-path filter of `rpfilter` lets the packet pass.
    fn has_way_back(&self, _facts: &Facts, _wanted: WayBack) -> bool {
        true
    }
    /// Fingerprints of operating systems.
    fn fingerprints(&self) -> &[Fingerprint] {
        &[]
    }
    /// Logs the packet, with this text before its line.
    fn note(&self, _facts: &Facts, _l3: &[u8], _text: fmt::Arguments) {}
    /// Counts a packet for an account, by its number, and says how the account's quota stands then.
    fn account(&self, _number: u32, _len: u16) -> Standing {
        Standing::NoQuota
    }
    /// Who sent the packet.
    fn socket(&self) -> Socket<'_> {
        Socket::None
    }
    /// Whether the packet is in a set, and what its element gives to packets.
    fn in_set(&self, _named: &Named, _asked: &Asked, _facts: &Facts) -> Option<SkbInfo> {
        None
    }
    /// Adds the packet to a set, or deletes it from one.
    fn change_set(&self, _named: &Named, _change: Change, _facts: &Facts) {}
    /// How many connections are known under a key, the packet's own included; none where they cannot be counted.
    fn connections(&self, _key: &ConnectionKey, _facts: &Facts, _l3: &[u8]) -> Option<u32> {
        None
    }
    /// Counts a packet of so many bytes for an estimator, by its number.
    fn count_for(&self, _estimator: u32, _bytes: u16, _now: u64) {}
    /// What an estimator says.
    fn rate(&self, _estimator: u32, _now: u64) -> Rate {
        Rate::default()
    }
    /// Starts a timer anew, by its number.
    fn start_timer(&self, _timer: u32, _seconds: u32, _now: u64) {}
    /// Whether a list of `recent`, by its number, says yes; it remembers the packet where the rule wants that.
    fn recent(&self, _list: u32, _ask: &Ask, _seen: &Sighting, _now: u64) -> bool {
        false
    }
    /// Whether what the packet belongs to is below the limit of a table of `hashlimit`, by its number; none where that cannot
    /// be said and the packet is to be dropped.
    fn hashlimit(&self, _table: u32, _facts: &Facts, _cx: &Context) -> Option<bool> {
        None
    }
}

/// What a way back must be for `rpfilter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WayBack {
    /// It may leave by any port.
    pub loose: bool,
    /// The packet's mark is looked at, on its way.
    pub by_mark: bool,
    /// The source may be an address of the router.
    pub to_local: bool,
}

/// The socket that a packet of the router's own belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket<'a> {
    /// None.
    None,
    /// The router's own, which no process has open.
    Kernel,
    /// One of a process.
    Of {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// The user's other groups.
        groups: &'a [u32],
    },
}

/// What a rule may ask of the packet's flow beyond the `ct_*` of the facts.
pub trait FlowFacts {
    /// Addresses and ports of a direction, as its packets come in.
    fn ends(&self, dir: Dir) -> Ends;
    /// Packets and bytes of a direction; none of the template of a flow, which nothing is counted for.
    fn counters(&self, dir: Dir) -> Option<(u64, u64)>;
    /// Milliseconds that it has left; none before its first packet has left the router.
    fn left(&self) -> u32;
    /// Whether it has the label of this bit.
    fn has_label(&self, bit: u8) -> bool;
    /// Gives it a label; false where it cannot have one.
    fn set_label(&self, bit: u8) -> bool;
    /// The helper of the flow that announced this one.
    fn master_helper(&self) -> Option<Helper>;
}

/// The ends of one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port, or what stands for it in the flow's tuple.
    pub sport: u16,
    /// Destination port, or what stands for it.
    pub dport: u16,
}

/// What connections are counted under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionKey {
    /// The rule that counts: the number of its cell.
    pub cell: u32,
    /// Family of the address.
    pub family: Family,
    /// The masked address.
    pub addr: u128,
}

/// What evaluation of a rule gets beside the facts.
pub struct Context<'a> {
    /// The packet from its IP header on, as long as the IP length says.
    pub l3: &'a [u8],
    /// Monotonic time in nanoseconds.
    pub now: u64,
    /// Wall-clock time in nanoseconds since 1970, for `time`.
    pub wall: u64,
    /// The router around the rule.
    pub around: &'a dyn Surroundings,
    /// The memory of stateful matches (`limit`, `statistic --mode nth`): each such match owns the cells from its number on.
    pub cells: &'a [std::sync::atomic::AtomicU64],
}
