//! Network address translation: what a flow's addresses become, and how they are written into its packets.
//!
//! A mapping is chosen once, for the first packet of a flow ([`Tracker::map`], `nf_nat_setup_info`), and then is nothing but
//! the difference between the flow's original tuple and its reply tuple: what packets of one direction become is the inverse
//! of what is expected the other way. [`Tracker::translate`] (`nf_nat_packet`) writes it at each hook; where a flow has no
//! mapping that is one test of a status bit.
//!
//! With several workers a mapped flow's replies may reach another worker than its originals: both see the same table, so it
//! is correct; choosing ports such that both reach the same one needs the devices' RSS mapping and is not done.
//!
//! [`Tracker::map`]: crate::conntrack::Tracker::map
//! [`Tracker::translate`]: crate::conntrack::Tracker::translate

mod choose;
mod follow;
mod masquerade;
pub(crate) mod prefix;
mod rewrite;
mod source;
mod spread;

pub(crate) use source::Sources;

use sumun_config::facts::{Dir, status};
use sumun_config::rule::Hook;
use sumun_config::rule::targets::nat::Nat;

/// Which end of a packet is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manip {
    /// The source: POSTROUTING and INPUT.
    Src,
    /// The destination: PREROUTING and OUTPUT.
    Dst,
}

impl Manip {
    /// What is mapped at a hook (`HOOK2MANIP`); nothing at FORWARD.
    #[inline]
    pub const fn at(hook: Hook) -> Option<Manip> {
        match hook {
            Hook::Prerouting | Hook::Output => Some(Manip::Dst),
            Hook::Postrouting | Hook::Input => Some(Manip::Src),
            Hook::Forward => None,
        }
    }

    /// The other end.
    pub const fn other(self) -> Manip {
        match self {
            Manip::Src => Manip::Dst,
            Manip::Dst => Manip::Src,
        }
    }

    /// The status bit that says that the flow's original direction is mapped at this end.
    #[inline]
    pub const fn bit(self) -> u32 {
        match self {
            Manip::Src => status::SRC_NAT,
            Manip::Dst => status::DST_NAT,
        }
    }

    /// The status bit that says that a mapping of this end was chosen.
    pub const fn done(self) -> u32 {
        match self {
            Manip::Src => status::SRC_NAT_DONE,
            Manip::Dst => status::DST_NAT_DONE,
        }
    }

    /// The bit that tells whether packets of a direction change at this end: replies change at the other end.
    #[inline]
    pub const fn bit_for(self, dir: Dir) -> u32 {
        match dir {
            Dir::Original => self.bit(),
            Dir::Reply => self.other().bit(),
        }
    }
}

/// From what a mapping is chosen: a target's ranges with the addresses filled in (MASQUERADE and REDIRECT know theirs only
/// when the packet is there).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatRange {
    /// First and last address; none keeps the address.
    pub addresses: Option<(u128, u128)>,
    /// First and last port or ICMP identifier; none keeps it where that is possible.
    pub ports: Option<(u16, u16)>,
    /// A port keeps its distance from this one, in `ports`.
    pub port_base: Option<u16>,
    /// The port is chosen at random.
    pub random: bool,
    /// The port is chosen at random. The kernel draws one number for both kinds.
    pub random_fully: bool,
    /// The address depends on the source only.
    pub persistent: bool,
}

impl NatRange {
    /// The range of a target, with these addresses where it has none of its own.
    pub fn of(target: &Nat, addresses: Option<(u128, u128)>) -> NatRange {
        NatRange {
            addresses: target.addresses.or(addresses),
            ports: target.ports,
            port_base: target.port_base,
            random: target.random,
            random_fully: target.random_fully,
            persistent: target.persistent,
        }
    }

    /// NETMAP: the target's network with the host bits of this address.
    pub fn in_network(target: &Nat, host: u128) -> NatRange {
        let addresses = target.addresses.map(|(first, last)| first | host & (first ^ last)).map(|addr| (addr, addr));
        NatRange { addresses, ..NatRange::default() }
    }

    /// This address and no other.
    pub fn at(address: u128) -> NatRange {
        NatRange { addresses: Some((address, address)), ..NatRange::default() }
    }

    fn is_random(&self) -> bool {
        self.random || self.random_fully
    }
}

#[cfg(test)]
mod tests;
