//! The forwarding information base: where does a packet with this key go?
//!
//! A [`Fib`] is immutable. Its writable side is a [`Table`], which makes the next one after every batch of changes; the two
//! share what has not changed. It holds the configured routes, those that are mirrored from the kernel, and those that the
//! kernel derives from addresses (`fib_add_ifaddr`, `addrconf`): own addresses, directed broadcasts, subnet-router anycast,
//! connected prefixes, and the link-local address that each port's MAC gives.
//!
//! ```text
//!  key ─▶ groups and broadcast (by the address alone) ─▶ link-local (by the port) ─▶ rules ─▶ tables ─▶ target ─▶ next hop
//! ```
//!
//! Rules are steps: a condition, and a table to look in or a refusal. Steps without a condition that follow each other are
//! one table, merged at build time with the earlier table's word before the later one's, so that the kernel's default
//! (local, main, default) costs one lookup and no rule. Packets of a port in a VRF have steps of their own (`l3mdev`), and own
//! addresses too. Nothing in a policy or a change, however odd, makes a table or a lookup panic.
//!
//! Leaves to others: ARP and neighbour discovery (`neigh`), the hooks around the decision, what a drop answers.

mod derive;
mod entry;
mod half;
mod leads;
mod list;
pub(crate) mod lpm;
mod own;
mod rules;
mod source;
mod table;
pub mod told;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vrf_tests;

pub use entry::{Change, Entry, Hop, Kind, LinkState, Out, protocol};
pub use list::{Listed, Place, Selection};
pub use own::{Own, is_forwardable_source, is_link_local, is_loopback, is_on_no_link, solicited_node};

pub use table::{MAX_OTHERS, Table};

use crate::port::Link;
use leads::Targets;
use lpm::Lpm;
use rules::Step;
use std::sync::Arc;
use sumun_config::facts::{AddrType, Facts, Family, PortId, proto};
use sumun_config::model::{Policy, RpFilter, gateway_family};

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
        /// The next hop, of the family that [`gateway_family`] says; none: the destination itself.
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
    /// Over a device of the host that is no port of the router.
    NotAPort,
    /// No route covers the destination.
    None,
}

/// What a table entry leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    /// The decision; of a multipath route that of its first next hop.
    route: Route,
    /// `RTN_*` of the entry.
    kind: AddrType,
    /// The port whose address or link the entry stands for; none for `lo` and refusals.
    port: PortId,
    /// The next hops of a multipath route; none where there is one way only.
    ways: Option<Arc<[Way]>>,
    /// Realms of the route.
    realm: u32,
}

impl Target {
    fn is_multipath(&self) -> bool {
        self.ways.is_some()
    }

    /// The way that a flow takes (`fib_select_multipath`).
    fn way(&self, hash: u32) -> Route {
        let hash = hash >> 1;
        self.ways().iter().find(|way| hash <= way.bound).map_or(self.route, |way| way.route)
    }

    fn ways(&self) -> &[Way] {
        self.ways.as_deref().unwrap_or(&[])
    }
}

/// One way of a multipath route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Way {
    /// Chosen by the flows whose 31-bit hash is at most this and above the one before (`fib_rebalance`).
    bound: u32,
    route: Route,
}

/// The tables of one family.
#[derive(Debug)]
struct Side<A> {
    /// Of packets in no VRF.
    main: Domain<A>,
    /// By the number of a VRF, less one.
    vrfs: Vec<Domain<A>>,
    /// What steps look in.
    lpms: Vec<Lpm<A>>,
    /// Rules other than the kernel's default ones are there (`fib4_has_custom_rules`).
    has_custom_rules: bool,
}

/// What packets of a VRF, or of none, ask.
#[derive(Debug)]
struct Domain<A> {
    steps: Vec<Step<A>>,
    /// Table 255 alone, or that of the VRF: for questions about own addresses.
    local: Lpm<A>,
}

/// All routes that are in force.
#[derive(Debug)]
pub struct Fib {
    /// Of its publication.
    number: u64,
    v4: Side<u32>,
    v6: Side<u128>,
    /// By the values of the tables; the first means no route.
    targets: Targets,
    /// Own addresses by port: those of the configuration in its order, mirrored ones, the derived link-local one last.
    own: Arc<[Vec<Own>]>,
    groups: Arc<[Vec<(Family, u128)>]>,
    /// Numbers of the VRFs of ports, counted from 1; empty where there is no VRF.
    vrf_of: Vec<u16>,
    rp_filter: Vec<RpFilter>,
    has_realms: bool,
    is_multipath: bool,
    mtu: Vec<u16>,
    /// By [`Family::index`].
    routes: [usize; 2],
}

/// 255.255.255.255.
const LIMITED_BROADCAST: u128 = u32::MAX as u128;

impl Fib {
    /// The FIB of a policy for these ports. Routes and addresses that name a port that is not there are left out.
    pub fn build(policy: &Policy, links: &[Link]) -> Fib {
        let mut table = Table::new(links);
        table.adopt(policy);
        table.fib()
    }

    /// The number of a port's VRF, 0 for none.
    #[inline]
    pub fn vrf_of(&self, port: PortId) -> u16 {
        if self.vrf_of.is_empty() {
            return 0;
        }
        port.index().and_then(|i| self.vrf_of.get(i)).copied().unwrap_or(0)
    }

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
        let target = self.find(key, self.vrf_of(key.iif));
        if target.ways.is_some() { target.way(key.hash) } else { target.route }
    }

    /// The routing decision of local output that is bound to a port: link-local destinations are sought on that link, all
    /// others as [`Fib::lookup`] does, in the port's VRF.
    pub fn lookup_on(&self, key: &Key, port: PortId) -> Route {
        if key.family == Family::V6 && is_link_local(key.family, key.dst) {
            return self.on_link(key.dst, port);
        }
        match self.vrf_of(port) {
            0 => self.lookup(key),
            _ if key.dst >= 0xe000_0000 && key.family == Family::V4 || key.dst >> 120 == 0xff => self.lookup(key),
            vrf => self.find(key, vrf).way(key.hash),
        }
    }

    /// A destination of scope link, seen from a port (`rt6_need_strict`).
    fn on_link(&self, dst: u128, port: PortId) -> Route {
        const NETWORK: u128 = 0xfe80 << 112;
        if self.is_own_on(Family::V6, dst, port) || (port == PortId::NONE && self.is_own(Family::V6, dst, port)) {
            return Route::Local;
        }
        let Some(&mtu) = port.index().and_then(|i| self.mtu.get(i)) else { return Route::None };
        match dst.prefix64() {
            NETWORK if dst == NETWORK => Route::Local,
            NETWORK => Route::Via { port, gateway: None, mtu, source: self.link_local(port) },
            _ => Route::None,
        }
    }

    /// The entry that the rules and tables find for a packet of this VRF.
    #[inline]
    fn find(&self, key: &Key, vrf: u16) -> &Target {
        let value = match key.family {
            Family::V4 => self.v4.find(key, vrf),
            Family::V6 => self.v6.find(key, vrf),
        };
        self.targets.get(value)
    }

    /// What the table of own addresses of a VRF has for an address.
    fn local(&self, family: Family, addr: u128, vrf: u16) -> &Target {
        let value = match family {
            Family::V4 => self.v4.domain(vrf).local.lookup(addr as u32),
            Family::V6 => self.v6.domain(vrf).local.lookup(addr),
        };
        self.targets.get(value)
    }

    /// The type of an address as `addrtype` asks for it; with a port, of the addresses of that port only.
    ///
    /// IPv4 as `inet_addr_type` and `inet_dev_addr_type`: only table 255 is asked, so that an address without a route is
    /// unicast. IPv6 as `match_lookup_rt6`: local and anycast before unreachable before unicast; the kernel takes a local
    /// IPv6 address for unicast as well, which one value cannot say.
    pub fn addr_type(&self, family: Family, addr: u128, port: PortId) -> AddrType {
        self.type_of(family, addr, port, self.vrf_of(port))
    }

    /// The same as seen from a port: of all addresses of its VRF (`inet_addr_type_dev_table`).
    pub fn addr_type_from(&self, family: Family, addr: u128, port: PortId) -> AddrType {
        self.type_of(family, addr, PortId::NONE, self.vrf_of(port))
    }

    fn type_of(&self, family: Family, addr: u128, port: PortId, vrf: u16) -> AddrType {
        match family {
            Family::V4 => {
                if addr == 0 || addr == LIMITED_BROADCAST {
                    return AddrType::Broadcast;
                }
                if addr >> 28 == 0xe {
                    return AddrType::Multicast;
                }
                let target = self.local(family, addr, vrf);
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
                let own = if port == PortId::NONE {
                    self.is_own_in(family, addr, vrf)
                } else {
                    self.is_own_on(family, addr, port)
                };
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
                match self.find(&key, vrf).kind {
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
        self.is_multipath
    }

    /// How many routes there are, those of addresses included.
    pub fn routes(&self) -> usize {
        self.routes.iter().sum()
    }

    /// How many of them are of a family.
    pub fn routes_of(&self, family: Family) -> usize {
        self.routes[family.index()]
    }

    /// Whether both have the same own addresses, because the one was made from the other.
    pub fn shares_addresses(&self, other: &Fib) -> bool {
        Arc::ptr_eq(&self.own, &other.own)
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
        self.v4.bytes() + self.v6.bytes() + self.targets.bytes()
    }
}

/// The address of a packet's own family towards which it goes: its next hop, or its destination where the next hop is of the
/// other family (`rt_nexthop`).
pub fn towards(family: Family, gateway: Option<u128>, dst: u128) -> u128 {
    gateway.filter(|gateway| gateway_family(family, *gateway) == family).unwrap_or(dst)
}

/// What an address without a route leads to.
const NOWHERE: Target = Target { route: Route::None, kind: AddrType::Unspec, port: PortId::NONE, ways: None, realm: 0 };

/// The network half of an IPv6 address.
trait Prefix64 {
    fn prefix64(self) -> u128;
}

impl Prefix64 for u128 {
    fn prefix64(self) -> u128 {
        self & !(u64::MAX as u128)
    }
}
