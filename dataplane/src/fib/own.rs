//! The router's own addresses: which are there, which one speaks for the router, which groups does it listen to?

use super::{Fib, Prefix64};
use sumun_config::facts::{AddrType, Family, PortId};

/// An address of the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// On this port.
    pub port: PortId,
    /// Its family.
    pub family: Family,
    /// The address.
    pub addr: u128,
    /// Length of its network's prefix.
    pub prefix: u8,
}

impl Own {
    /// Whether an address of the same family lies in this one's network.
    pub fn covers(&self, addr: u128) -> bool {
        let mask = self.family.mask(self.prefix);
        self.addr & mask == addr & mask
    }
}

/// IPv6 `fe80::/10`. IPv4 knows no scope of addresses as far as forwarding goes.
pub const fn is_link_local(family: Family, addr: u128) -> bool {
    matches!(family, Family::V6) && addr >> 118 == 0xfe80 >> 6
}

/// Whether a packet may be forwarded with this source (`ip6_forward`): IPv6 link-local, unspecified and loopback sources
/// stay on their link. IPv4 sources were judged by [`Fib::check_source`].
pub const fn is_forwardable_source(family: Family, src: u128) -> bool {
    match family {
        Family::V4 => true,
        Family::V6 => !(is_link_local(family, src) || src <= 1 || src >> 120 == 0xff),
    }
}

/// Whether an IPv6 packet with these addresses may not be on a link at all: what `ip6_rcv_core` drops before PREROUTING.
/// IPv4 looks at addresses only when it routes.
pub const fn is_on_no_link(family: Family, src: u128, dst: u128) -> bool {
    const LOOPBACK: u128 = 1;
    match family {
        Family::V4 => false,
        Family::V6 => {
            let scope = dst >> 112 & 0xf;
            src == LOOPBACK || dst == LOOPBACK || src >> 120 == 0xff || (dst >> 120 == 0xff && scope <= 1)
        }
    }
}

/// Whether an IPv4 address is in 127.0.0.0/8.
pub const fn is_loopback(addr: u128) -> bool {
    addr >> 24 == 127
}

/// The solicited-node group of an IPv6 address (RFC 4291 section 2.7.1).
pub const fn solicited_node(addr: u128) -> u128 {
    0xff02_0000_0000_0000_0000_0001_ff00_0000 | addr & 0xff_ffff
}

/// The link-local address of a MAC (RFC 4291 appendix A, modified EUI-64).
pub(super) const fn link_local_of(mac: [u8; 6]) -> u128 {
    let id = u64::from_be_bytes([mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]]);
    0xfe80 << 112 | id as u128
}

/// Scope as RFC 6724 section 3.1 compares it.
fn scope(addr: u128) -> u8 {
    if addr >> 120 == 0xff {
        (addr >> 112 & 0xf) as u8
    } else if is_link_local(Family::V6, addr) || addr == 1 {
        2
    } else if addr >> 118 == 0xfec0 >> 6 {
        5
    } else {
        14
    }
}

/// Label of the kernel's default policy table (`net/ipv6/addrlabel.c`).
fn label(addr: u128) -> u8 {
    match addr {
        1 => 0,
        _ if addr >> 121 == 0xfc >> 1 => 5,
        _ if addr >> 112 == 0x2002 => 2,
        _ if addr >> 96 == 0x2001_0000 => 6,
        _ if addr >> 100 == 0x2001_0010 >> 4 => 7,
        _ if addr >> 32 == 0xffff => 4,
        _ if addr >> 32 == 0 => 3,
        _ => 1,
    }
}

impl Fib {
    /// All own addresses, port by port, the primary ones of a port first, derived link-local ones last.
    pub fn own_addresses(&self) -> impl Iterator<Item = &Own> {
        self.own.iter().flatten()
    }

    fn own_of(&self, port: PortId, family: Family) -> impl Iterator<Item = &Own> {
        let of_port = port.index().and_then(|i| self.own.get(i)).map_or(&[][..], Vec::as_slice);
        of_port.iter().filter(move |own| own.family == family)
    }

    /// Whether an address is one of the router's own, as seen from a port: on whichever port of its VRF.
    pub fn is_own(&self, family: Family, addr: u128, port: PortId) -> bool {
        self.is_own_in(family, addr, self.vrf_of(port))
    }

    pub(super) fn is_own_in(&self, family: Family, addr: u128, vrf: u16) -> bool {
        match is_link_local(family, addr) {
            true => self.own_addresses().any(|own| own.family == family && own.addr == addr),
            false => self.local(family, addr, vrf).kind == AddrType::Local,
        }
    }

    /// All own addresses of the VRF of a port.
    fn own_beside(&self, port: PortId) -> impl Iterator<Item = &Own> {
        let vrf = self.vrf_of(port);
        self.own_addresses().filter(move |own| self.vrf_of(own.port) == vrf)
    }

    /// Whether an address is one of this port's own.
    pub fn is_own_on(&self, family: Family, addr: u128, port: PortId) -> bool {
        self.own_of(port, family).any(|own| own.addr == addr)
    }

    /// Whether an address is the subnet-router anycast address of a network of this port (RFC 4291 section 2.6.1).
    pub fn is_anycast_on(&self, addr: u128, port: PortId) -> bool {
        self.own_of(port, Family::V6).any(|own| own.prefix < 127 && own.addr & Family::V6.mask(own.prefix) == addr)
    }

    /// The link-local address that a port speaks NDP with: a configured one before the derived one.
    pub fn link_local(&self, port: PortId) -> Option<u128> {
        self.own_of(port, Family::V6).find(|own| is_link_local(Family::V6, own.addr)).map(|own| own.addr)
    }

    /// The address that the router uses on a port towards an address; none where it has none of the family.
    ///
    /// IPv4 as `inet_select_addr`: the port's first address whose network covers `towards`, else its first, else the first
    /// of any port. Both look at ports of the same VRF only. IPv6 as `ipv6_dev_get_saddr` with the rules of RFC 6724 that can differ here: same address, scope,
    /// outgoing port, label, longest common prefix.
    pub fn port_address(&self, port: PortId, family: Family, towards: u128) -> Option<u128> {
        match family {
            Family::V4 => self
                .own_of(port, family)
                .find(|own| own.covers(towards))
                .or_else(|| self.own_of(port, family).next())
                .or_else(|| self.own_beside(port).find(|own| own.family == family))
                .map(|own| own.addr),
            Family::V6 => {
                let wanted = scope(towards);
                // A source for the link or for a group is never borrowed from another port.
                let elsewhere = wanted > 2 && towards >> 120 != 0xff;
                let rank = |own: &Own| {
                    let its = scope(own.addr);
                    // The smallest scope that reaches is best; among those that do not reach, the largest.
                    let by_scope = if its >= wanted { 32 - its as i16 } else { its as i16 - 32 };
                    let common = (own.addr ^ towards).leading_zeros().min(own.prefix as u32);
                    (own.addr == towards, by_scope, own.port == port, label(own.addr) == label(towards), common)
                };
                let candidates =
                    self.own_beside(port).filter(|own| own.family == family && (elsewhere || own.port == port));
                // The first of equals wins, where `max_by_key` would take the last.
                let mut best: Option<&Own> = None;
                for own in candidates {
                    if best.is_none_or(|other| rank(own) > rank(other)) {
                        best = Some(own);
                    }
                }
                best.map(|own| own.addr)
            }
        }
    }

    /// The address to which REDIRECT brings packets that came in on a port: its first; where the destination's scope is less
    /// than the world, its first of that scope (`nf_nat_redirect_ipv4`, `nf_nat_redirect_ipv6`).
    pub fn first_address(&self, port: PortId, family: Family, dst: u128) -> Option<u128> {
        let wanted = Some(scope(dst)).filter(|scope| family == Family::V6 && matches!(scope, 1 | 2 | 5));
        self.own_of(port, family).find(|own| wanted.is_none_or(|wanted| scope(own.addr) == wanted)).map(|own| own.addr)
    }

    /// Whether the router is a member of a group on a port: 224.0.0.1; all-nodes, all-routers, and the solicited-node
    /// groups of the port's unicast and anycast addresses; and those that the host's programs have joined.
    pub fn listens(&self, family: Family, group: u128, port: PortId) -> bool {
        let joined = port.index().and_then(|i| self.groups.get(i)).map_or(&[][..], Vec::as_slice);
        let key = (family.index(), group);
        joined.binary_search_by_key(&key, |(family, group)| (family.index(), *group)).is_ok()
            || self.listens_itself(family, group, port)
    }

    fn listens_itself(&self, family: Family, group: u128, port: PortId) -> bool {
        const ALL_SYSTEMS: u128 = 0xe000_0001;
        const SOLICITED: u128 = solicited_node(0);
        match family {
            Family::V4 => group == ALL_SYSTEMS,
            Family::V6 if group & !0xff_ffff == SOLICITED => {
                let low = group & 0xff_ffff;
                self.own_of(port, family).any(|own| {
                    let anycast = own.addr & family.mask(own.prefix);
                    own.addr & 0xff_ffff == low || (own.prefix < 127 && anycast & 0xff_ffff == low)
                })
            }
            Family::V6 => {
                const NODES: [u128; 2] = [0xff01 << 112 | 1, 0xff02 << 112 | 1];
                const ROUTERS: [u128; 3] = [0xff01 << 112 | 2, 0xff02 << 112 | 2, 0xff05 << 112 | 2];
                NODES.contains(&group) || ROUTERS.contains(&group)
            }
        }
    }

    /// The subnet-router anycast address of an own address, where it has one.
    pub(super) fn anycast_of(own: &Own) -> Option<u128> {
        let network = own.addr & own.family.mask(own.prefix);
        (own.family == Family::V6 && own.prefix < 127 && network != 0 && own.addr.prefix64() != 0).then_some(network)
    }
}
