//! Flows as they are spoken of between the processes: which ones are meant, how they look, what was counted.
//!
//! The dataplane filters: what an operator does not ask for never leaves it. The meaning of each condition is that of the
//! option of conntrack(8) that it is made from.

use super::Counter;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::IpAddr;
use sumun_config::facts::{Family, proto, status};

/// Which flows; what is none is any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlowFilter {
    /// Family.
    pub family: Option<Family>,
    /// Protocol number.
    pub proto: Option<u8>,
    /// As the first packet went.
    pub original: TupleFilter,
    /// As replies come.
    pub reply: TupleFilter,
    /// What the original direction of an ICMP or ICMPv6 flow has.
    pub icmp: IcmpFilter,
    /// Name of the state of a TCP connection or an SCTP association.
    pub state: Option<String>,
    /// Status bits ([`status`]) that are all set.
    pub set: u32,
    /// Status bits of which none is set.
    pub unset: u32,
    /// The flow's mark, under a mask.
    pub mark: Option<Masked>,
    /// Labels, by bit, that it all has.
    pub labels: u128,
    /// The flow's zone, in whichever direction it counts.
    pub zone: Option<u16>,
    /// Its source is rewritten; to one of these addresses, if they are given.
    pub src_nat: Option<Option<IpNet>>,
    /// Its destination is rewritten; to one of these addresses, if they are given.
    pub dst_nat: Option<Option<IpNet>>,
    /// One of the two.
    pub any_nat: Option<Option<IpNet>>,
}

/// What a direction must have; what is none is any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TupleFilter {
    /// Source address.
    pub source: Option<IpNet>,
    /// Destination address.
    pub destination: Option<IpNet>,
    /// Source port, of protocols that have ports.
    pub sport: Option<u16>,
    /// Destination port, of protocols that have ports.
    pub dport: Option<u16>,
    /// Source key of GRE.
    pub srckey: Option<u16>,
    /// Destination key of GRE.
    pub dstkey: Option<u16>,
    /// Zone.
    pub zone: Option<u16>,
}

/// What an ICMP or ICMPv6 query must have; what is none is any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct IcmpFilter {
    /// Type.
    pub kind: Option<u8>,
    /// Code.
    pub code: Option<u8>,
    /// Identifier.
    pub id: Option<u16>,
}

/// A value of which only the bits of a mask count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Masked {
    /// What the bits are.
    pub value: u32,
    /// Which bits.
    pub mask: u32,
}

/// Whether a number is asked for and another one is there.
fn differs<T: PartialEq>(asked: Option<T>, there: T) -> bool {
    asked.is_some_and(|asked| asked != there)
}

fn misses(asked: Option<IpNet>, there: IpAddr) -> bool {
    asked.is_some_and(|net| !net.contains(&there))
}

/// Whether tuples of the protocol have ports.
pub fn has_ports(number: u8) -> bool {
    matches!(number, proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP)
}

impl TupleFilter {
    fn takes(&self, number: u8, tuple: &FlowTuple) -> bool {
        let TupleFilter { source, destination, sport, dport, srckey, dstkey, zone } = *self;
        let ports = (sport.is_none() && dport.is_none())
            || (has_ports(number) && !differs(sport, tuple.sport) && !differs(dport, tuple.dport));
        let keys = (srckey.is_none() && dstkey.is_none())
            || (number == proto::GRE && !differs(srckey, tuple.sport) && !differs(dstkey, tuple.dport));
        !misses(source, tuple.source)
            && !misses(destination, tuple.destination)
            && ports
            && keys
            && !differs(zone, tuple.zone)
    }
}

impl IcmpFilter {
    fn takes(&self, number: u8, tuple: &FlowTuple) -> bool {
        *self == IcmpFilter::default()
            || (matches!(number, proto::ICMP | proto::ICMPV6)
                && !differs(self.kind, (tuple.dport >> 8) as u8)
                && !differs(self.code, tuple.dport as u8)
                && !differs(self.id, tuple.sport))
    }
}

impl FlowFilter {
    /// Whether the flow is one of them.
    pub fn takes(&self, flow: &FlowRow) -> bool {
        !differs(self.family, flow.family)
            && !differs(self.proto, flow.proto)
            && self.original.takes(flow.proto, &flow.original)
            && self.reply.takes(flow.proto, &flow.reply)
            && self.icmp.takes(flow.proto, &flow.original)
            && self.state.as_deref().is_none_or(|state| flow.state.as_deref() == Some(state))
            && flow.status & self.set == self.set
            && flow.status & self.unset == 0
            && self.mark.is_none_or(|m| flow.mark & m.mask == m.value)
            && flow.labels & self.labels == self.labels
            && !differs(self.zone, flow.zone())
            && self.src_nat.is_none_or(|net| flow.has_src_nat(net))
            && self.dst_nat.is_none_or(|net| flow.has_dst_nat(net))
            && self.any_nat.is_none_or(|net| flow.has_src_nat(net) || flow.has_dst_nat(net))
    }
}

/// A flow for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRow {
    /// Tells it from flows that were or will be.
    pub id: u32,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Protocol number.
    pub proto: u8,
    /// Seconds until it is forgotten.
    pub timeout: u64,
    /// State of a protocol that has states, as conntrack(8) prints it.
    pub state: Option<Cow<'static, str>>,
    /// As the first packet went.
    pub original: FlowTuple,
    /// As replies come.
    pub reply: FlowTuple,
    /// Bits of [`status`].
    pub status: u32,
    /// The flow's mark.
    pub mark: u32,
    /// Its security context.
    pub secctx: Option<String>,
    /// Labels, by bit.
    pub labels: u128,
    /// Name of its helper.
    pub helper: Option<Cow<'static, str>>,
    /// When it entered the table, in nanoseconds since 1970; none where that is not kept.
    pub start: Option<u64>,
    /// When it left the table.
    pub stop: Option<u64>,
}

impl FlowRow {
    /// The flow's zone; zero is none.
    pub fn zone(&self) -> u16 {
        self.original.zone.max(self.reply.zone)
    }

    fn has_src_nat(&self, to: Option<IpNet>) -> bool {
        self.status & status::SRC_NAT != 0 && !misses(to, self.reply.destination)
    }

    fn has_dst_nat(&self, to: Option<IpNet>) -> bool {
        self.status & status::DST_NAT != 0 && !misses(to, self.reply.source)
    }
}

/// One direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowTuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port, or ICMP identifier.
    pub sport: u16,
    /// Destination port, or ICMP type and code as in [`sumun_config::facts::Facts::dport`].
    pub dport: u16,
    /// Zone in which the direction is looked up.
    pub zone: u16,
    /// What was counted; none where accounting is off.
    pub counter: Option<Counter>,
}

/// One direction of one flow, whole: what names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowKey {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Protocol number.
    pub proto: u8,
    /// The direction; its counters do not count.
    pub tuple: FlowTuple,
    /// It is the reply direction.
    pub reply: bool,
}

/// A flow that is expected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExpectationRow {
    /// As `conntrack -L expect` prints it.
    pub line: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Protocol number.
    pub proto: u8,
    /// Seconds until it is forgotten.
    pub timeout: u64,
    /// Its first packet; of the source only what the mask says.
    pub tuple: FlowTuple,
    /// Which bits of the source address count.
    pub mask: IpAddr,
    /// The original direction of the flow that it belongs to.
    pub master: FlowTuple,
    /// Name of the helper that expects it.
    pub helper: String,
}

/// Something happened to a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// What.
    pub what: EventKind,
    /// What changed, by the bits of [`crate::conntrack::change`].
    pub changes: u32,
    /// When it was told, in nanoseconds since 1970.
    pub at: u64,
    /// The flow, as it was right after that.
    pub flow: FlowRow,
}

/// What happened to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EventKind {
    /// It entered the table.
    New,
    /// It changed.
    Update,
    /// It left the table.
    Destroy,
}

impl EventKind {
    /// All kinds, as a set of bits.
    pub const ALL: u8 = 7;

    /// Its bit in a set of kinds.
    pub const fn bit(self) -> u8 {
        match self {
            EventKind::New => 1,
            EventKind::Update => 2,
            EventKind::Destroy => 4,
        }
    }
}

/// What connection tracking counted since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConntrackStats {
    /// For each worker its counters, by name, in order.
    pub workers: Vec<Vec<(String, u64)>>,
    /// Packets that were INVALID, of all workers.
    pub invalid: Vec<InvalidCount>,
}

/// How many packets were INVALID for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InvalidCount {
    /// Name of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// One line for people.
    pub explanation: String,
}
