//! Source validation: may a packet with this source have come in here (`ip_route_input_slow`, `fib_validate_source`)?
//!
//! IPv4 only, as in the kernel: IPv6 looks at addresses when it receives ([`super::is_on_no_link`]) and has no `rp_filter`;
//! [`Fib::has_way_back`], which `rpfilter` asks, answers for both. Realms are found on the same way.

use super::{Fib, Key, LIMITED_BROADCAST, Route, Target, is_link_local, is_loopback, is_on_no_link};
use crate::reason::DropReason;
use sumun_config::facts::{AddrType, Facts, Family, PortId, WayBack};
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
        if matches!(route, Route::Blackhole | Route::Unreachable | Route::Prohibit | Route::NotAPort | Route::None) {
            // What goes nowhere is refused whoever sent it: the way back is not asked.
            return Ok(());
        }
        let mode = key.iif.index().and_then(|i| self.rp_filter.get(i)).copied().unwrap_or_default();
        if mode == RpFilter::Off && !self.v4.has_custom_rules && !self.has_realms {
            // Without a filter only own addresses are refused, which is cheaper to see than a way back.
            let own = self.local(Family::V4, key.src, self.vrf_of(key.iif)).kind == AddrType::Local;
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

    /// Whether `rpfilter` finds a way back to the source of a packet (`rpfilter_lookup_reverse`, `rpfilter_lookup_reverse6`):
    /// only tables are asked, so that a default route leads to groups and to everybody too.
    pub fn has_way_back(&self, facts: &Facts, wanted: WayBack) -> bool {
        let Facts { family, src, dst, iif, tos, mark, .. } = *facts;
        let is_one = match family {
            Family::V4 => dst >> 28 != 0xe && dst != LIMITED_BROADCAST && dst >> 24 != 0,
            Family::V6 => dst >> 120 != 0xff,
        };
        let (from, mark) = (if is_one { dst } else { 0 }, if wanted.by_mark { mark } else { 0 });
        let back = Key { family, src: from, dst: src, iif: PortId::NONE, mark, tos, hash: 0 };
        let target = self.find(&back, self.vrf_of(iif));
        if is_link_local(family, src) {
            return match self.on_link(src, iif) {
                // The anycast address of the link is local too, but no source.
                Route::Local => wanted.to_local && self.is_own_on(family, src, iif),
                Route::None => target.kind == AddrType::Unicast && self.leaves_by(target, iif),
                _ => true,
            };
        }
        match target.kind {
            AddrType::Unicast => wanted.loose || self.leaves_by(target, iif),
            // An IPv6 address of the router is no matter of the port.
            AddrType::Local => wanted.to_local && (wanted.loose || family == Family::V6 || target.port == iif),
            _ => false,
        }
    }

    /// Whether some route has a realm.
    #[inline]
    pub fn has_realms(&self) -> bool {
        self.has_realms
    }

    /// The realms of a packet that came in, whose route this is (`fib_combine_itag`, `set_class_tag`): a source's is the
    /// destination's of the way back to it.
    pub fn realms_in(&self, key: &Key, route: &Route) -> u32 {
        let (to, out) = match *route {
            Route::Via { port, .. } => (self.find(key, self.vrf_of(key.iif)).realm, port),
            _ => (0, PortId::NONE),
        };
        let is_known = key.family == Family::V4 && key.src != 0;
        let back = Key { src: key.dst, dst: key.src, iif: out, mark: 0, hash: 0, ..*key };
        let from = if is_known { self.find(&back, self.vrf_of(key.iif)).realm << 16 } else { 0 };
        if to >> 16 == 0 { from | to } else { to }
    }

    /// The realms of a packet of the router's own that is bound to a port, if it is.
    pub fn realms_out(&self, key: &Key, port: PortId) -> u32 {
        self.find(key, self.vrf_of(port)).realm
    }

    /// Looks the way back up: source and destination change places, and the packet comes from where it would have gone.
    fn back(&self, key: &Key, out: PortId) -> Back {
        if is_link_local(key.family, key.src) {
            return if self.is_own_on(key.family, key.src, key.iif) { Back::Martian } else { Back::Here };
        }
        // Marks do not count on the way back (`src_valid_mark` is off).
        let back = Key { src: key.dst, dst: key.src, iif: out, mark: 0, hash: 0, ..*key };
        let target = self.find(&back, self.vrf_of(key.iif));
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
        on_port(&target.route) || target.ways().iter().any(|way| on_port(&way.route))
    }
}
