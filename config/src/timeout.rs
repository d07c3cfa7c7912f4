//! Time-out policies: other times for the flows that `CT --timeout` chooses than those of `[sysctl]`.
//!
//! A policy is for one protocol's tracker and names the times that it changes by the protocol's states, as nfct(8) does;
//! what it does not name is as in `[sysctl]`. A flow keeps the policy's [`TimeoutPolicy::id`], which follows from the name
//! alone: so it finds its policy again in whatever configuration comes, and has the ordinary times once there is none of the
//! name.

use crate::facts::{Family, proto};
use crate::model::Sysctl;
use crate::rule::Families;
use serde::{Deserialize, Serialize};

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimeoutPolicy {
    /// Its name in rules.
    pub name: String,
    /// Families that may use it.
    pub families: Families,
    /// Whose times these are.
    pub tracker: Tracker,
    /// Indices in [`Tracker::times`], each once, with milliseconds.
    pub times: Vec<(u8, u64)>,
}

/// Who tracks a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Tracker {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmpv6,
    /// SCTP.
    Sctp,
    /// GRE.
    Gre,
    /// Whatever has no tracker of its own.
    Generic,
}

/// A time: its name, and its place among the settings.
pub type Time = (&'static str, fn(&mut Sysctl) -> &mut u64);

/// Trackers by name.
pub const TRACKERS: [(&str, Tracker); 8] = [
    ("tcp", Tracker::Tcp),
    ("udp", Tracker::Udp),
    ("udplite", Tracker::UdpLite),
    ("icmp", Tracker::Icmp),
    ("icmpv6", Tracker::Icmpv6),
    ("sctp", Tracker::Sctp),
    ("gre", Tracker::Gre),
    ("generic", Tracker::Generic),
];

impl Tracker {
    /// The tracker of a protocol number.
    pub fn of(protocol: u8) -> Tracker {
        match protocol {
            proto::TCP => Tracker::Tcp,
            proto::UDP => Tracker::Udp,
            proto::UDPLITE => Tracker::UdpLite,
            proto::ICMP => Tracker::Icmp,
            proto::ICMPV6 => Tracker::Icmpv6,
            proto::SCTP => Tracker::Sctp,
            proto::GRE => Tracker::Gre,
            _ => Tracker::Generic,
        }
    }

    /// The name in the file.
    pub fn name(self) -> &'static str {
        TRACKERS.iter().find(|(_, tracker)| *tracker == self).map_or("", |(name, _)| name)
    }

    /// Families that have it.
    pub fn families(self) -> Families {
        match self {
            Tracker::Icmp => Families::Only(Family::V4),
            Tracker::Icmpv6 => Families::Only(Family::V6),
            _ => Families::Both,
        }
    }

    /// The times that a policy for it can set.
    pub fn times(self) -> &'static [Time] {
        match self {
            Tracker::Tcp => &[
                ("syn_sent", |s| &mut s.nf_conntrack_tcp_timeout_syn_sent),
                ("syn_recv", |s| &mut s.nf_conntrack_tcp_timeout_syn_recv),
                ("established", |s| &mut s.nf_conntrack_tcp_timeout_established),
                ("fin_wait", |s| &mut s.nf_conntrack_tcp_timeout_fin_wait),
                ("close_wait", |s| &mut s.nf_conntrack_tcp_timeout_close_wait),
                ("last_ack", |s| &mut s.nf_conntrack_tcp_timeout_last_ack),
                ("time_wait", |s| &mut s.nf_conntrack_tcp_timeout_time_wait),
                ("close", |s| &mut s.nf_conntrack_tcp_timeout_close),
                ("syn_sent2", |s| &mut s.nf_conntrack_tcp_timeout_syn_sent2),
                ("retrans", |s| &mut s.nf_conntrack_tcp_timeout_max_retrans),
                ("unacknowledged", |s| &mut s.nf_conntrack_tcp_timeout_unacknowledged),
            ],
            Tracker::Udp | Tracker::UdpLite => &[
                ("unreplied", |s| &mut s.nf_conntrack_udp_timeout),
                ("replied", |s| &mut s.nf_conntrack_udp_timeout_stream),
            ],
            Tracker::Icmp => &[("timeout", |s| &mut s.nf_conntrack_icmp_timeout)],
            Tracker::Icmpv6 => &[("timeout", |s| &mut s.nf_conntrack_icmpv6_timeout)],
            Tracker::Sctp => &[
                ("closed", |s| &mut s.nf_conntrack_sctp_timeout_closed),
                ("cookie_wait", |s| &mut s.nf_conntrack_sctp_timeout_cookie_wait),
                ("cookie_echoed", |s| &mut s.nf_conntrack_sctp_timeout_cookie_echoed),
                ("established", |s| &mut s.nf_conntrack_sctp_timeout_established),
                ("shutdown_sent", |s| &mut s.nf_conntrack_sctp_timeout_shutdown_sent),
                ("shutdown_recd", |s| &mut s.nf_conntrack_sctp_timeout_shutdown_recd),
                ("shutdown_ack_sent", |s| &mut s.nf_conntrack_sctp_timeout_shutdown_ack_sent),
                ("heartbeat_sent", |s| &mut s.nf_conntrack_sctp_timeout_heartbeat_sent),
            ],
            Tracker::Gre => &[
                ("unreplied", |s| &mut s.nf_conntrack_gre_timeout),
                ("replied", |s| &mut s.nf_conntrack_gre_timeout_stream),
            ],
            Tracker::Generic => &[("timeout", |s| &mut s.nf_conntrack_generic_timeout)],
        }
    }
}

/// Most policies of a configuration.
pub const MAX_POLICIES: usize = 256;
/// Bytes of a name: `struct xt_ct_target_info_v1` holds 32 with the terminating zero.
pub const MAX_NAME: usize = 31;

/// What flows keep of a policy's name: never 0. There is room for few bits, so two names may look alike; then the file is
/// refused.
pub fn id(name: &str) -> u16 {
    // FNV-1a (Fowler, Noll, Vo), 32 bits, folded.
    let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16 ^ hash) as u16).max(1)
}

impl TimeoutPolicy {
    /// What flows keep of it.
    pub fn id(&self) -> u16 {
        id(&self.name)
    }

    /// Whether a policy may have this name.
    pub fn is_name(name: &str) -> bool {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good)
    }

    /// The settings of its flows, where others have these.
    pub fn over(&self, settings: &Sysctl) -> Sysctl {
        let mut settings = settings.clone();
        for &(index, value) in &self.times {
            if let Some((_, place)) = self.tracker.times().get(usize::from(index)) {
                *place(&mut settings) = value;
            }
        }
        settings
    }

    /// Why rules of this family with this protocol (and whether it is negated) cannot use it, if so.
    pub fn unfit(&self, family: Family, protocol: Option<(u8, bool)>) -> Option<String> {
        let name = &self.name;
        if !self.families.has(family) {
            return Some(format!("the time-out policy `{name}` is not for {}", family.name()));
        }
        match protocol {
            Some((number, false)) if Tracker::of(number) == self.tracker => None,
            _ if self.tracker == Tracker::Generic => {
                Some(format!("the time-out policy `{name}` is for protocols without a tracker of their own"))
            }
            _ => Some(format!("the time-out policy `{name}` is for protocol {}", self.tracker.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_changes_the_times_that_it_names_and_no_others() {
        let settings = Sysctl::default();
        for (_, tracker) in TRACKERS {
            for (index, (_, place)) in tracker.times().iter().enumerate() {
                let policy = TimeoutPolicy {
                    name: "p".into(),
                    families: Families::Both,
                    tracker,
                    times: vec![(index as u8, 7), (200, 8)],
                };
                let mut over = policy.over(&settings);
                assert_eq!(*place(&mut over), 7);
                let mut same = settings.clone();
                *place(&mut same) = 7;
                assert_eq!(over, same);
            }
        }
    }

    #[test]
    fn what_has_no_tracker_of_its_own_has_the_generic_one() {
        for (number, name) in [
            (1, "icmp"),
            (6, "tcp"),
            (17, "udp"),
            (33, "generic"),
            (47, "gre"),
            (58, "icmpv6"),
            (89, "generic"),
            (132, "sctp"),
            (136, "udplite"),
        ] {
            assert_eq!(Tracker::of(number).name(), name);
        }
    }

    #[test]
    fn names_are_kept_as_numbers_that_stay() {
        let folded = |hash: u32| (hash >> 16 ^ hash) as u16;
        assert_eq!([id(""), id("a"), id("foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968].map(folded));
    }
}
