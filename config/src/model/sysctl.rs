//! Settings by the kernel's names.

use crate::rule::matches::recent::Sizes as RecentSizes;
use serde::{Deserialize, Serialize};

/// Settings by the names of the kernel's sysctls; defaults are the kernel's. Times in milliseconds unless named otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each is the sysctl of its name")]
pub struct Sysctl {
    pub nf_conntrack_tcp_timeout_syn_sent: u64,
    pub nf_conntrack_tcp_timeout_syn_recv: u64,
    pub nf_conntrack_tcp_timeout_established: u64,
    pub nf_conntrack_tcp_timeout_fin_wait: u64,
    pub nf_conntrack_tcp_timeout_close_wait: u64,
    pub nf_conntrack_tcp_timeout_last_ack: u64,
    pub nf_conntrack_tcp_timeout_time_wait: u64,
    pub nf_conntrack_tcp_timeout_close: u64,
    pub nf_conntrack_tcp_timeout_max_retrans: u64,
    pub nf_conntrack_tcp_timeout_unacknowledged: u64,
    /// After SYNs of both sides. No sysctl has this name: only a time-out policy changes it.
    pub nf_conntrack_tcp_timeout_syn_sent2: u64,
    pub nf_conntrack_tcp_loose: bool,
    pub nf_conntrack_tcp_be_liberal: bool,
    /// Repetitions of one ACK from which on a connection has no more than the time-out of this name.
    pub nf_conntrack_tcp_max_retrans: u8,
    pub nf_conntrack_tcp_ignore_invalid_rst: bool,
    pub nf_conntrack_sctp_timeout_closed: u64,
    pub nf_conntrack_sctp_timeout_cookie_wait: u64,
    pub nf_conntrack_sctp_timeout_cookie_echoed: u64,
    pub nf_conntrack_sctp_timeout_established: u64,
    pub nf_conntrack_sctp_timeout_shutdown_sent: u64,
    pub nf_conntrack_sctp_timeout_shutdown_recd: u64,
    pub nf_conntrack_sctp_timeout_shutdown_ack_sent: u64,
    pub nf_conntrack_sctp_timeout_heartbeat_sent: u64,
    pub nf_conntrack_udp_timeout: u64,
    pub nf_conntrack_udp_timeout_stream: u64,
    pub nf_conntrack_icmp_timeout: u64,
    pub nf_conntrack_icmpv6_timeout: u64,
    pub nf_conntrack_gre_timeout: u64,
    pub nf_conntrack_gre_timeout_stream: u64,
    pub nf_conntrack_generic_timeout: u64,
    pub nf_conntrack_checksum: bool,
    pub nf_conntrack_acct: bool,
    /// Flows keep when they began.
    pub nf_conntrack_timestamp: bool,
    /// 0: nobody is told of what happens to flows. Else whoever listens is.
    pub nf_conntrack_events: u8,
    /// Packets of this protocol that are INVALID are logged; 255 is every protocol, 0 none.
    pub nf_conntrack_log_invalid: u8,
    /// Most addresses that a list of `recent` remembers.
    pub ip_list_tot: u32,
    /// Packets of an address that it remembers at least; 0: as many as its rules ask for.
    pub ip_pkt_list_tot: u32,
    pub ip_forward: bool,
    pub ipv6_forwarding: bool,
    pub ip_default_ttl: u8,
    pub ipv6_hop_limit: u8,
    /// Milliseconds between ICMP errors to one destination (`net.ipv4.icmp_ratelimit`); 0 is unlimited.
    pub icmp_ratelimit: u32,
    /// Same for ICMPv6.
    pub icmpv6_ratelimit: u32,
    pub icmp_echo_ignore_all: bool,
    pub icmp_echo_ignore_broadcasts: bool,
    pub accept_source_route: bool,
    /// How long an incomplete IPv4 packet waits for its fragments.
    pub ipfrag_time: u64,
    /// Bytes of packet memory that IPv4 fragments may hold, for each worker.
    pub ipfrag_high_thresh: u32,
    /// Fragments that a sender may send beyond an incomplete packet; 0 is any number.
    pub ipfrag_max_dist: u32,
    /// How long an incomplete IPv6 packet waits.
    pub nf_conntrack_frag6_timeout: u64,
    /// Bytes of packet memory that IPv6 fragments may hold, for each worker.
    pub nf_conntrack_frag6_high_thresh: u32,
    /// 0: hash of addresses; 1: of addresses, protocol and ports.
    pub fib_multipath_hash_policy: u8,
    pub neigh_base_reachable_time: u64,
    pub neigh_delay_first_probe_time: u64,
    pub neigh_retrans_time: u64,
    pub neigh_mcast_solicit: u8,
    pub neigh_ucast_solicit: u8,
    /// Packets held for one unresolved neighbour.
    pub neigh_unres_qlen: u16,
    pub neigh_gc_stale_time: u64,
}

impl Default for Sysctl {
    fn default() -> Self {
        const S: u64 = 1000;
        Sysctl {
            nf_conntrack_tcp_timeout_syn_sent: 120 * S,
            nf_conntrack_tcp_timeout_syn_recv: 60 * S,
            nf_conntrack_tcp_timeout_established: 432_000 * S,
            nf_conntrack_tcp_timeout_fin_wait: 120 * S,
            nf_conntrack_tcp_timeout_close_wait: 60 * S,
            nf_conntrack_tcp_timeout_last_ack: 30 * S,
            nf_conntrack_tcp_timeout_time_wait: 120 * S,
            nf_conntrack_tcp_timeout_close: 10 * S,
            nf_conntrack_tcp_timeout_max_retrans: 300 * S,
            nf_conntrack_tcp_timeout_unacknowledged: 300 * S,
            nf_conntrack_tcp_timeout_syn_sent2: 120 * S,
            nf_conntrack_tcp_loose: true,
            nf_conntrack_tcp_be_liberal: false,
            nf_conntrack_tcp_max_retrans: 3,
            nf_conntrack_tcp_ignore_invalid_rst: false,
            nf_conntrack_sctp_timeout_closed: 10 * S,
            nf_conntrack_sctp_timeout_cookie_wait: 3 * S,
            nf_conntrack_sctp_timeout_cookie_echoed: 3 * S,
            nf_conntrack_sctp_timeout_established: 210 * S,
            nf_conntrack_sctp_timeout_shutdown_sent: 3 * S,
            nf_conntrack_sctp_timeout_shutdown_recd: 3 * S,
            nf_conntrack_sctp_timeout_shutdown_ack_sent: 3 * S,
            nf_conntrack_sctp_timeout_heartbeat_sent: 30 * S,
            nf_conntrack_udp_timeout: 30 * S,
            nf_conntrack_udp_timeout_stream: 120 * S,
            nf_conntrack_icmp_timeout: 30 * S,
            nf_conntrack_icmpv6_timeout: 30 * S,
            nf_conntrack_gre_timeout: 30 * S,
            nf_conntrack_gre_timeout_stream: 180 * S,
            nf_conntrack_generic_timeout: 600 * S,
            nf_conntrack_checksum: true,
            nf_conntrack_acct: false,
            nf_conntrack_timestamp: false,
            nf_conntrack_events: 2,
            nf_conntrack_log_invalid: 0,
            ip_list_tot: RecentSizes::DEFAULT.addresses,
            ip_pkt_list_tot: RecentSizes::DEFAULT.packets,
            ip_forward: true,
            ipv6_forwarding: true,
            ip_default_ttl: 64,
            ipv6_hop_limit: 64,
            icmp_ratelimit: 1000,
            icmpv6_ratelimit: 1000,
            icmp_echo_ignore_all: false,
            icmp_echo_ignore_broadcasts: true,
            accept_source_route: false,
            ipfrag_time: 30 * S,
            ipfrag_high_thresh: 4 << 20,
            ipfrag_max_dist: 64,
            nf_conntrack_frag6_timeout: 60 * S,
            nf_conntrack_frag6_high_thresh: 4 << 20,
            fib_multipath_hash_policy: 0,
            neigh_base_reachable_time: 30 * S,
            neigh_delay_first_probe_time: 5 * S,
            neigh_retrans_time: S,
            neigh_mcast_solicit: 3,
            neigh_ucast_solicit: 3,
            neigh_unres_qlen: 101,
            neigh_gc_stale_time: 60 * S,
        }
    }
}
