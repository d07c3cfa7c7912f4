//! The forwarding information base: where does a packet with this key go?
//!
//! A [`Fib`] is built as a whole from a policy and the ports, is immutable, and is swapped with its generation. It holds the
//! configured routes and those that the kernel derives from addresses (`fib_add_ifaddr`, `addrconf`): own addresses, directed
//! broadcasts, subnet-router anycast, connected prefixes, and the link-local address that each port's MAC gives.
//!
//! ```text
//!  key ─▶ groups and broadcast (by the address alone) ─▶ link-local (by the port) ─▶ rules ─▶ tables ─▶ target ─▶ next hop
//! ```
//!
//! Rules are steps: a condition, and a table to look in or a refusal. Steps without a condition that follow each other are
//! one table, merged at build time with the earlier table's word before the later one's, so that the kernel's default
//! (local, main, default) costs one lookup and no rule. Nothing in a policy, however odd, makes `build` or a lookup panic.
//!
//! Leaves to others: ARP and neighbour discovery (`neigh`), the hooks around the decision, what a drop answers.

mod build;
pub(crate) mod lpm;
mod own;
mod rules;
mod source;

#[cfg(test)]
mod tests;

pub use own::{Own, is_forwardable_source, is_link_local, is_on_no_link, solicited_node};

use lpm::Lpm;
use rules::Step;
use sumun_config::facts::{AddrType, Facts, Family, PortId, proto};
use sumun_config::model::RpFilter;

/// What a routing decision looks at (`struct flowi`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Family of both addresses.
    pub family: Family,
    /// Source; 0 where a local sender has not chosen one yet.
    pub src: u128,
    /// Destination.
    pub dst: u128,
    /// Where the packet came in; [`PortId::NONE`] for local output.
    pub iif: PortId,
    /// Netfilter mark.
    pub mark: u32,
    /// TOS byte or traffic class.
    pub tos: u8,
    /// Chooses among equal next hops: [`Fib::flow_hash`].
    pub hash: u32,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// To this router (its anycast addresses too).
    Local,
    /// To everybody on a link, this router included.
    Broadcast {
        /// The link.
        port: PortId,
    },
    /// To a group: [`Fib::listens`] says whether this router is in it.
    Multicast,
    /// Sent on.
    Via {
        /// Leaves here.
        port: PortId,
        /// The next hop; none: the destination itself.
        gateway: Option<u128>,
        /// Largest IP packet on this way.
        mtu: u16,
        /// Source that the router's own packets prefer on this way.
        source: Option<u128>,
    },
    /// Dropped without a word.
    Blackhole,
    /// Refused: host unreachable.
    Unreachable,
    /// Refused: administratively prohibited.
    Prohibit,
    /// No route covers the destination.
    None,
}

/// What a table entry leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Target {
    /// The decision; of a multipath route that of its first next hop.
    route: Route,
    /// `RTN_*` of the entry.
    kind: AddrType,
    /// The port whose address or link the entry stands for; none for `lo` and refusals.
    port: PortId,
    /// First of the next hops of a multipath route, and how many; none where there is one way only.
    first: u32,
    count: u32,
    /// Realms of the route.
    realm: u32,
}

/// One way of a multipath route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Way {
    /// Chosen by the flows whose 31-bit hash is at most this and above the one before (`fib_rebalance`).
    bound: u32,
    route: Route,
}

/// The tables of one family.
#[derive(Debug)]
struct Side<A> {
    steps: Vec<Step<A>>,
    lpms: Vec<Lpm<A>>,
    /// Table 255 alone, for questions about own addresses.
    local: Lpm<A>,
    /// Rules other than the kernel's default ones are there (`fib4_has_custom_rules`).
    has_custom_rules: bool,
}

/// All routes of a generation.
#[derive(Debug)]
pub struct Fib {
    /// Of its publication.
    number: u64,
    v4: Side<u32>,
    v6: Side<u128>,
    /// By the values of the tables; the first means no route.
    targets: Vec<Target>,
    ways: Vec<Way>,
    /// Own addresses by port, in the order of the configuration, the derived link-local ones last.
    own: Vec<Vec<Own>>,
    rp_filter: Vec<RpFilter>,
    has_realms: bool,
    mtu: Vec<u16>,
}

/// 255.255.255.255.
const LIMITED_BROADCAST: u128 = u32::MAX as u128;

impl Fib {
    /// The routing decision. For IPv6 a link-local destination is sought on the port that the packet came in on; local output
    /// names the link with [`Fib::lookup_on`].
    #[inline]
    pub fn lookup(&self, key: &Key) -> Route {
        // All that is decided by the address alone stands high in both families' ranges: one comparison for the common case.
        match key.family {
            Family::V4 if key.dst >= 0xe000_0000 => {
                if key.dst < 0xf000_0000 {
                    return Route::Multicast;
                }
                if key.dst == LIMITED_BROADCAST {
                    return Route::Broadcast { port: key.iif };
                }
            }
            Family::V6 if key.dst >> 112 >= 0xfe80 => {
                if key.dst >> 120 == 0xff {
                    return Route::Multicast;
                }
                if is_link_local(Family::V6, key.dst) {
                    return self.on_link(key.dst, key.iif);
                }
            }
            _ => {}
        }
        let target = self.find(key);
        if target.count != 0 { self.way(target, key.hash) } else { target.route }
    }

    /// The routing decision of local output that is bound to a port: link-local destinations are sought on that link, all
    /// others as [`Fib::lookup`] does.
    pub fn lookup_on(&self, key: &Key, port: PortId) -> Route {
        if key.family == Family::V6 && is_link_local(key.family, key.dst) {
            return self.on_link(key.dst, port);
        }
        self.lookup(key)
    }

    /// A destination of scope link, seen from a port (`rt6_need_strict`).
    fn on_link(&self, dst: u128, port: PortId) -> Route {
        const NETWORK: u128 = 0xfe80 << 112;
        if self.is_own_on(Family::V6, dst, port) || (port == PortId::NONE && self.is_own(Family::V6, dst)) {
            return Route::Local;
        }
        let Some(&mtu) = port.index().and_then(|i| self.mtu.get(i)) else { return Route::None };
        match dst.prefix64() {
            NETWORK if dst == NETWORK => Route::Local,
            NETWORK => Route::Via { port, gateway: None, mtu, source: self.link_local(port) },
            _ => Route::None,
        }
    }

    /// The entry that the rules and tables find.
    #[inline]
    fn find(&self, key: &Key) -> &Target {
        let value = match key.family {
            Family::V4 => self.v4.find(key),
            Family::V6 => self.v6.find(key),
        };
        self.targets.get(value as usize).unwrap_or(&NOWHERE)
    }

    /// The way of a multipath route that a flow takes (`fib_select_multipath`).
    fn way(&self, target: &Target, hash: u32) -> Route {
        let hash = hash >> 1;
        self.ways_of(target).iter().find(|way| hash <= way.bound).map_or(target.route, |way| way.route)
    }

    fn ways_of(&self, target: &Target) -> &[Way] {
        let first = target.first as usize;
        self.ways.get(first..first + target.count as usize).unwrap_or(&[])
    }

    /// Table 255's entry for an address.
    fn local(&self, family: Family, addr: u128) -> &Target {
        let value = match family {
            Family::V4 => self.v4.local.lookup(addr as u32),
            Family::V6 => self.v6.local.lookup(addr),
        };
        self.targets.get(value as usize).unwrap_or(&NOWHERE)
    }

    /// The type of an address as `addrtype` asks for it; with a port, of the addresses of that port only.
    ///
    /// IPv4 as `inet_addr_type` and `inet_dev_addr_type`: only table 255 is asked, so that an address without a route is
    /// unicast. IPv6 as `match_lookup_rt6`: local and anycast before unreachable before unicast; the kernel takes a local
    /// IPv6 address for unicast as well, which one value cannot say.
    pub fn addr_type(&self, family: Family, addr: u128, port: PortId) -> AddrType {
        match family {
            Family::V4 => {
                if addr == 0 || addr == LIMITED_BROADCAST {
                    return AddrType::Broadcast;
                }
                if addr >> 28 == 0xe {
                    return AddrType::Multicast;
                }
                let target = self.local(family, addr);
                match target.kind {
                    kind @ (AddrType::Local | AddrType::Broadcast) if port == PortId::NONE || port == target.port => {
                        kind
                    }
                    _ => AddrType::Unicast,
                }
            }
            Family::V6 => {
                if addr == 0 {
                    return AddrType::Unspec;
                }
                if addr >> 120 == 0xff {
                    return AddrType::Multicast;
                }
                let own =
                    if port == PortId::NONE { self.is_own(family, addr) } else { self.is_own_on(family, addr, port) };
                if own {
                    return AddrType::Local;
                }
                let key = Key { family, src: 0, dst: addr, iif: PortId::NONE, mark: 0, tos: 0, hash: 0 };
                if is_link_local(family, addr) {
                    let port = if port == PortId::NONE { PortId(0) } else { port };
                    return match self.on_link(addr, port) {
                        Route::Local => AddrType::Anycast,
                        Route::None => AddrType::Unreachable,
                        _ => AddrType::Unicast,
                    };
                }
                match self.find(&key).kind {
                    AddrType::Local if port == PortId::NONE => AddrType::Local,
                    AddrType::Anycast => AddrType::Anycast,
                    AddrType::Unicast | AddrType::Local => AddrType::Unicast,
                    _ => AddrType::Unreachable,
                }
            }
        }
    }

    /// The hash that keeps a flow on one way of a multipath route (`fib_multipath_hash`, `rt6_multipath_hash`).
    ///
    /// `policy` is `fib_multipath_hash_policy`: 0 hashes the addresses (IPv6: protocol and flow label too), 1 the addresses,
    /// the protocol and the ports. Fragments have no ports here, so that all of a packet go one way.
    pub fn flow_hash(facts: &Facts, policy: u8) -> u32 {
        let rest = match (policy, facts.family) {
            (0, Family::V4) => 0,
            (0, Family::V6) => (facts.proto as u64) << 32 | facts.flow_label as u64,
            _ => {
                let has_ports =
                    matches!(facts.proto, proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP);
                let ports = match has_ports && facts.has_l4 && !facts.is_fragment() {
                    true => (facts.sport as u64) << 16 | facts.dport as u64,
                    false => 0,
                };
                (facts.proto as u64) << 32 | ports
            }
        };
        let mut hash = 0x9e37_79b9_7f4a_7c15u64;
        for word in [facts.src as u64, (facts.src >> 64) as u64, facts.dst as u64, (facts.dst >> 64) as u64, rest] {
            // A full 64 by 64 bit product folded onto itself mixes every bit into every other.
            let product = (hash ^ word) as u128 * 0xd6e8_feb8_6659_fd93u128;
            hash = (product as u64) ^ (product >> 64) as u64;
            hash = hash.wrapping_add(0xa076_1d64_78bd_642f);
        }
        (hash ^ hash >> 32) as u32
    }

    /// Whether any route has several next hops, so that a key's hash means something.
    #[inline]
    pub fn is_multipath(&self) -> bool {
        !self.ways.is_empty()
    }

    /// The number of its publication.
    #[inline]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The same as a publication of this number.
    pub fn numbered(self, number: u64) -> Fib {
        Fib { number, ..self }
    }

    /// Bytes of memory that the tables hold.
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + size_of_val(&*self.targets) + size_of_val(&*self.ways)
    }
}

/// What an address without a route leads to.
const NOWHERE: Target =
    Target { route: Route::None, kind: AddrType::Unspec, port: PortId::NONE, first: 0, count: 0, realm: 0 };

/// The network half of an IPv6 address.
trait Prefix64 {
    fn prefix64(self) -> u128;
}

impl Prefix64 for u128 {
    fn prefix64(self) -> u128 {
        self & !(u64::MAX as u128)
    }
}
