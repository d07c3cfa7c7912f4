//! Source validation: may a packet with this source have come in here (`ip_route_input_slow`, `fib_validate_source`)?
//!
//! IPv4 only, as in the kernel: IPv6 looks at addresses when it receives ([`super::is_on_no_link`]) and has no `rp_filter`;
//! [`Fib::reverse_path`] answers for both.

use super::{Fib, Key, LIMITED_BROADCAST, Route, Target, is_link_local, is_on_no_link};
use crate::reason::DropReason;
use sumun_config::facts::{AddrType, Family, PortId};
use sumun_config::model::RpFilter;

/// What the way back to a source says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Back {
    /// It leaves by the port that the packet came in on.
    Here,
    /// It leaves elsewhere.
    Elsewhere,
    /// There is none, or it is refused.
    Nowhere,
    /// The source is the router's own, a broadcast or a group.
    Martian,
}

impl Fib {
    /// Judges the addresses of a packet that came in, after its route was found, as `ip_route_input` does: addresses that
    /// may not be on a wire, an own address as the source, and the reverse-path filter of the port.
    pub fn check_source(&self, key: &Key, route: &Route) -> Result<(), DropReason> {
        if key.iif == PortId::NONE {
            return Ok(());
        }
        if key.family == Family::V6 {
            return if is_on_no_link(key.family, key.src, key.dst) { Err(DropReason::Martian) } else { Ok(()) };
        }
        let is_loopback = |addr: u128| addr >> 24 == 127;
        if key.src >> 28 == 0xe || key.src == LIMITED_BROADCAST || is_loopback(key.src) || is_loopback(key.dst) {
            return Err(DropReason::Martian);
        }
        if key.src == 0 {
            // A host without an address yet (DHCP), or one that joins a group on its link (IGMP).
            let is_link_group = key.dst >> 8 == 0xe00000;
            let allowed = key.dst == LIMITED_BROADCAST || key.dst == 0 || is_link_group;
            return if allowed { Ok(()) } else { Err(DropReason::Martian) };
        }
        if key.dst == 0 {
            return Err(DropReason::Martian);
        }
        if matches!(route, Route::Blackhole | Route::Unreachable | Route::Prohibit | Route::None) {
            // What goes nowhere is refused whoever sent it: the way back is not asked.
            return Ok(());
        }
        let mode = key.iif.index().and_then(|i| self.rp_filter.get(i)).copied().unwrap_or_default();
        if mode == RpFilter::Off && !self.v4.has_custom_rules {
            // Without a filter only own addresses are refused, which is cheaper to see than a way back.
            let own = self.local(Family::V4, key.src).kind == AddrType::Local;
            return if own { Err(DropReason::Martian) } else { Ok(()) };
        }
        let out = match *route {
            Route::Via { port, .. } => port,
            _ => PortId::NONE,
        };
        match (self.back(key, out), mode) {
            (Back::Martian, _) => Err(DropReason::Martian),
            (Back::Here, _) | (_, RpFilter::Off) | (Back::Elsewhere, RpFilter::Loose) => Ok(()),
            (Back::Elsewhere, RpFilter::Strict) | (Back::Nowhere, _) => Err(DropReason::ReversePath),
        }
    }

    /// Whether the source of a packet passes a reverse-path filter of this mode, for either family.
    pub fn reverse_path(&self, key: &Key, mode: RpFilter) -> bool {
        match mode {
            RpFilter::Off => true,
            RpFilter::Strict => self.back(key, PortId::NONE) == Back::Here,
            RpFilter::Loose => matches!(self.back(key, PortId::NONE), Back::Here | Back::Elsewhere),
        }
    }

    /// Looks the way back up: source and destination change places, and the packet comes from where it would have gone.
    fn back(&self, key: &Key, out: PortId) -> Back {
        if is_link_local(key.family, key.src) {
            return if self.is_own_on(key.family, key.src, key.iif) { Back::Martian } else { Back::Here };
        }
        // Marks do not count on the way back (`src_valid_mark` is off).
        let back = Key { src: key.dst, dst: key.src, iif: out, mark: 0, hash: 0, ..*key };
        let target = self.find(&back);
        match target.kind {
            AddrType::Unicast if self.leaves_by(target, key.iif) => Back::Here,
            AddrType::Unicast => Back::Elsewhere,
            AddrType::Local | AddrType::Broadcast | AddrType::Anycast | AddrType::Multicast => Back::Martian,
            AddrType::Unspec | AddrType::Blackhole | AddrType::Unreachable | AddrType::Prohibit => Back::Nowhere,
        }
    }

    /// Whether any next hop of an entry is on a port (`fib_info_nh_uses_dev`).
    fn leaves_by(&self, target: &Target, port: PortId) -> bool {
        let on_port = |route: &Route| matches!(route, Route::Via { port: out, .. } if *out == port);
        on_port(&target.route) || self.ways_of(target).iter().any(|way| on_port(&way.route))
    }
}
