//! `[sysctl]`: settings by the names that the kernel gives them.
//!
//! A name may be written short (`nf_conntrack_udp_timeout`) or whole (`"net.netfilter.nf_conntrack_udp_timeout"`, with or
//! without the quotes). A bare number counts in the kernel's unit for that name; a string brings its own unit.

use super::reader::{Field, Fields};
use super::report::{Sink, nearest, one_of};
use crate::model::Sysctl;
use crate::rule::matches::recent::{MAX_ADDRESSES, MAX_PACKETS};
use std::ops::{Range, RangeInclusive};
use toml::de::DeValue;

/// Where a value goes and how it is read.
enum Place {
    /// A time in milliseconds.
    Time(fn(&mut Sysctl) -> &mut u64),
    /// A time in milliseconds of 32 bits.
    Interval(fn(&mut Sysctl) -> &mut u32),
    Flag(fn(&mut Sysctl) -> &mut bool),
    Byte(RangeInclusive<u64>, fn(&mut Sysctl) -> &mut u8),
    Count(RangeInclusive<u64>, fn(&mut Sysctl) -> &mut u16),
    Number(RangeInclusive<u64>, fn(&mut Sysctl) -> &mut u32),
}

/// A setting: its short name, its whole names with the milliseconds that a bare number counts in there, and its place.
struct Setting {
    name: &'static str,
    /// Milliseconds of a bare number under the short name; 0 where the kernel's unit is one that nobody expects.
    unit: u64,
    whole: &'static [(&'static str, u64)],
    place: Place,
}

/// Longest time-out: the whole days that an `int` of jiffies holds at 100 Hz.
pub(crate) const LONGEST_MS: u64 = 248 * 86_400_000;

macro_rules! settings {
    ($($field:ident $unit:literal [$($whole:literal $whole_unit:literal),+] $kind:ident $(($range:expr))?;)*) => {
        &[$(Setting {
            name: stringify!($field),
            unit: $unit,
            whole: &[$(($whole, $whole_unit)),+],
            place: Place::$kind($($range,)? |s| &mut s.$field),
        }),*]
    };
}

const SETTINGS: &[Setting] = settings! {
    nf_conntrack_tcp_timeout_syn_sent 1000 ["net.netfilter.nf_conntrack_tcp_timeout_syn_sent" 1000] Time;
    nf_conntrack_tcp_timeout_syn_recv 1000 ["net.netfilter.nf_conntrack_tcp_timeout_syn_recv" 1000] Time;
    nf_conntrack_tcp_timeout_established 1000 ["net.netfilter.nf_conntrack_tcp_timeout_established" 1000] Time;
    nf_conntrack_tcp_timeout_fin_wait 1000 ["net.netfilter.nf_conntrack_tcp_timeout_fin_wait" 1000] Time;
    nf_conntrack_tcp_timeout_close_wait 1000 ["net.netfilter.nf_conntrack_tcp_timeout_close_wait" 1000] Time;
    nf_conntrack_tcp_timeout_last_ack 1000 ["net.netfilter.nf_conntrack_tcp_timeout_last_ack" 1000] Time;
    nf_conntrack_tcp_timeout_time_wait 1000 ["net.netfilter.nf_conntrack_tcp_timeout_time_wait" 1000] Time;
    nf_conntrack_tcp_timeout_close 1000 ["net.netfilter.nf_conntrack_tcp_timeout_close" 1000] Time;
    nf_conntrack_tcp_timeout_max_retrans 1000 ["net.netfilter.nf_conntrack_tcp_timeout_max_retrans" 1000] Time;
    nf_conntrack_tcp_timeout_unacknowledged 1000 ["net.netfilter.nf_conntrack_tcp_timeout_unacknowledged" 1000] Time;
    nf_conntrack_tcp_loose 0 ["net.netfilter.nf_conntrack_tcp_loose" 0] Flag;
    nf_conntrack_tcp_be_liberal 0 ["net.netfilter.nf_conntrack_tcp_be_liberal" 0] Flag;
    nf_conntrack_tcp_max_retrans 0 ["net.netfilter.nf_conntrack_tcp_max_retrans" 0] Byte(0..=255);
    nf_conntrack_tcp_ignore_invalid_rst 0 ["net.netfilter.nf_conntrack_tcp_ignore_invalid_rst" 0] Flag;
    nf_conntrack_sctp_timeout_closed 1000 ["net.netfilter.nf_conntrack_sctp_timeout_closed" 1000] Time;
    nf_conntrack_sctp_timeout_cookie_wait 1000 ["net.netfilter.nf_conntrack_sctp_timeout_cookie_wait" 1000] Time;
    nf_conntrack_sctp_timeout_cookie_echoed 1000 ["net.netfilter.nf_conntrack_sctp_timeout_cookie_echoed" 1000] Time;
    nf_conntrack_sctp_timeout_established 1000 ["net.netfilter.nf_conntrack_sctp_timeout_established" 1000] Time;
    nf_conntrack_sctp_timeout_shutdown_sent 1000 ["net.netfilter.nf_conntrack_sctp_timeout_shutdown_sent" 1000] Time;
    nf_conntrack_sctp_timeout_shutdown_recd 1000 ["net.netfilter.nf_conntrack_sctp_timeout_shutdown_recd" 1000] Time;
    nf_conntrack_sctp_timeout_shutdown_ack_sent 1000 ["net.netfilter.nf_conntrack_sctp_timeout_shutdown_ack_sent" 1000] Time;
    nf_conntrack_sctp_timeout_heartbeat_sent 1000 ["net.netfilter.nf_conntrack_sctp_timeout_heartbeat_sent" 1000] Time;
    nf_conntrack_udp_timeout 1000 ["net.netfilter.nf_conntrack_udp_timeout" 1000] Time;
    nf_conntrack_udp_timeout_stream 1000 ["net.netfilter.nf_conntrack_udp_timeout_stream" 1000] Time;
    nf_conntrack_icmp_timeout 1000 ["net.netfilter.nf_conntrack_icmp_timeout" 1000] Time;
    nf_conntrack_icmpv6_timeout 1000 ["net.netfilter.nf_conntrack_icmpv6_timeout" 1000] Time;
    nf_conntrack_gre_timeout 1000 ["net.netfilter.nf_conntrack_gre_timeout" 1000] Time;
    nf_conntrack_gre_timeout_stream 1000 ["net.netfilter.nf_conntrack_gre_timeout_stream" 1000] Time;
    nf_conntrack_generic_timeout 1000 ["net.netfilter.nf_conntrack_generic_timeout" 1000] Time;
    nf_conntrack_checksum 0 ["net.netfilter.nf_conntrack_checksum" 0] Flag;
    nf_conntrack_acct 0 ["net.netfilter.nf_conntrack_acct" 0] Flag;
    nf_conntrack_timestamp 0 ["net.netfilter.nf_conntrack_timestamp" 0] Flag;
    nf_conntrack_events 0 ["net.netfilter.nf_conntrack_events" 0] Byte(0..=2);
    nf_conntrack_log_invalid 0 ["net.netfilter.nf_conntrack_log_invalid" 0] Byte(0..=255);
    ip_list_tot 0 ["xt_recent.ip_list_tot" 0] Number(1..=MAX_ADDRESSES as u64);
    ip_pkt_list_tot 0 ["xt_recent.ip_pkt_list_tot" 0] Number(0..=MAX_PACKETS as u64);
    ip_forward 0 ["net.ipv4.ip_forward" 0, "net.ipv4.conf.all.forwarding" 0] Flag;
    ipv6_forwarding 0 ["net.ipv6.conf.all.forwarding" 0] Flag;
    ip_default_ttl 0 ["net.ipv4.ip_default_ttl" 0] Byte(1..=255);
    ipv6_hop_limit 0 ["net.ipv6.conf.all.hop_limit" 0, "net.ipv6.conf.default.hop_limit" 0] Byte(1..=255);
    icmp_ratelimit 1 ["net.ipv4.icmp_ratelimit" 1] Interval;
    icmpv6_ratelimit 1 ["net.ipv6.icmp.ratelimit" 1] Interval;
    icmp_echo_ignore_all 0 ["net.ipv4.icmp_echo_ignore_all" 0] Flag;
    icmp_echo_ignore_broadcasts 0 ["net.ipv4.icmp_echo_ignore_broadcasts" 0] Flag;
    accept_source_route 0 ["net.ipv4.conf.all.accept_source_route" 0] Flag;
    ipfrag_time 1000 ["net.ipv4.ipfrag_time" 1000] Time;
    ipfrag_high_thresh 0 ["net.ipv4.ipfrag_high_thresh" 0] Number(0..=u32::MAX as u64);
    ipfrag_max_dist 0 ["net.ipv4.ipfrag_max_dist" 0] Number(0..=i32::MAX as u64);
    nf_conntrack_frag6_timeout 1000 ["net.netfilter.nf_conntrack_frag6_timeout" 1000] Time;
    nf_conntrack_frag6_high_thresh 0 ["net.netfilter.nf_conntrack_frag6_high_thresh" 0] Number(0..=u32::MAX as u64);
    fib_multipath_hash_policy 0 ["net.ipv4.fib_multipath_hash_policy" 0] Byte(0..=1);
    neigh_base_reachable_time 1000 [
        "net.ipv4.neigh.default.base_reachable_time" 1000, "net.ipv4.neigh.default.base_reachable_time_ms" 1,
        "net.ipv6.neigh.default.base_reachable_time" 1000, "net.ipv6.neigh.default.base_reachable_time_ms" 1
    ] Time;
    neigh_delay_first_probe_time 1000 [
        "net.ipv4.neigh.default.delay_first_probe_time" 1000, "net.ipv6.neigh.default.delay_first_probe_time" 1000
    ] Time;
    neigh_retrans_time 0 [
        "net.ipv4.neigh.default.retrans_time_ms" 1, "net.ipv6.neigh.default.retrans_time_ms" 1
    ] Time;
    neigh_mcast_solicit 0 [
        "net.ipv4.neigh.default.mcast_solicit" 0, "net.ipv6.neigh.default.mcast_solicit" 0
    ] Byte(1..=255);
    neigh_ucast_solicit 0 [
        "net.ipv4.neigh.default.ucast_solicit" 0, "net.ipv6.neigh.default.ucast_solicit" 0
    ] Byte(0..=255);
    neigh_unres_qlen 0 [
        "net.ipv4.neigh.default.unres_qlen" 0, "net.ipv6.neigh.default.unres_qlen" 0
    ] Count(0..=1024);
    neigh_gc_stale_time 1000 [
        "net.ipv4.neigh.default.gc_stale_time" 1000, "net.ipv6.neigh.default.gc_stale_time" 1000
    ] Time;
};

/// Longest interval: an `int` of milliseconds.
const LONGEST_INTERVAL: u64 = i32::MAX as u64;

/// Whether settings of whatever origin are ones that a file could give: the engine adds these times to its clock.
pub(crate) fn verify(sysctl: &Sysctl) -> Result<(), String> {
    let mut sysctl = sysctl.clone();
    if sysctl.nf_conntrack_tcp_timeout_syn_sent2 > LONGEST_MS {
        return Err("a time for SYN_SENT2 that is too long".to_string());
    }
    for setting in SETTINGS {
        let (value, range) = match &setting.place {
            Place::Time(place) => (*place(&mut sysctl), 0..=LONGEST_MS),
            Place::Interval(place) => (u64::from(*place(&mut sysctl)), 0..=LONGEST_INTERVAL),
            Place::Byte(range, place) => (u64::from(*place(&mut sysctl)), range.clone()),
            Place::Count(range, place) => (u64::from(*place(&mut sysctl)), range.clone()),
            Place::Number(range, place) => (u64::from(*place(&mut sysctl)), range.clone()),
            Place::Flag(_) => continue,
        };
        if !range.contains(&value) {
            return Err(format!("{} is {value}: {} to {} can be", setting.name, range.start(), range.end()));
        }
    }
    Ok(())
}

/// Sysctls that people look for: set elsewhere in the file, or of something that the router does not do.
const ELSEWHERE: &[(&str, &str)] = &[
    ("nf_conntrack_max", "this is `max-flows` in [dataplane]"),
    ("nf_conntrack_buckets", "the table of flows has its size from `max-flows` in [dataplane]"),
    ("nf_conntrack_expect_max", "how many flows can be expected follows from `max-flows` in [dataplane]"),
    ("nf_conntrack_count", "this can only be read: `sumun conntrack count`"),
    ("nf_conntrack_helper", "helpers are given to flows by rules, as in kernels since 6.0: `-j CT --helper`"),
    ("nf_conntrack_frag6_low_thresh", "it means nothing, as in kernels since 4.17"),
    ("nf_hooks_lwtunnel", "there are no lightweight tunnels"),
    ("nf_log", "where lines go is `log` in [dataplane]"),
    ("nf_log_all_netns", "where lines go is `log` in [dataplane]"),
    ("rp_filter", "this is `rp-filter` of an interface"),
    ("mtu", "this is `mtu` of an interface"),
    ("gc_thresh3", "this is `max-neighbours` in [dataplane]"),
    ("send_redirects", "redirects are never sent"),
];

/// Reads `[sysctl]`; what is not given has the kernel's default.
pub(super) fn read(fields: Option<Fields>, sink: &mut Sink) -> Sysctl {
    let mut sysctl = Sysctl::default();
    let mut given = Vec::new();
    if let Some(mut fields) = fields {
        flatten(fields.rest(), "", &mut given);
    }
    let mut seen: Vec<(&str, Range<usize>)> = Vec::new();
    for (name, field) in given {
        let Some((setting, unit)) = find(&name) else {
            unknown(&name, &field, sink);
            continue;
        };
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == setting.name) {
            sink.conflict(field.key(), format!("`{}` is given twice", setting.name))
                .help("remove one of the two")
                .label(first.clone(), "first given here");
        }
        seen.push((setting.name, field.key()));
        set(&mut sysctl, setting, unit, &field, sink);
    }
    sysctl
}

/// The leaves of nested tables with their dotted names: `net.ipv4.ip_forward = 1` is a table in a table to TOML.
fn flatten<'a>(fields: Vec<Field<'a>>, prefix: &str, into: &mut Vec<(String, Field<'a>)>) {
    for field in fields {
        let name = format!("{prefix}{}", field.name);
        match field.node.get_ref() {
            DeValue::Table(table) => flatten(Fields::of(table, "", field.at()).rest(), &format!("{name}."), into),
            _ => into.push((name, field)),
        }
    }
}

/// The setting of a name, and the unit of a bare number under that name.
fn find(name: &str) -> Option<(&'static Setting, u64)> {
    SETTINGS.iter().find_map(|setting| {
        if setting.name == name {
            return Some((setting, setting.unit));
        }
        let (_, unit) = setting.whole.iter().find(|(whole, _)| *whole == name)?;
        Some((setting, *unit))
    })
}

/// Complains of an unknown name.
fn unknown(name: &str, field: &Field, sink: &mut Sink) {
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| name.split('.').any(|part| part == *other));
    let names: Vec<&str> = if name.contains('.') {
        SETTINGS.iter().flat_map(|setting| setting.whole.iter().map(|(whole, _)| *whole)).collect()
    } else {
        SETTINGS.iter().map(|setting| setting.name).collect()
    };
    let help = match (elsewhere, nearest(name, &names)) {
        (Some((_, where_or_why)), _) => where_or_why.to_string(),
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => one_of(&SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>(), '`'),
    };
    sink.error(field.key(), format!("unknown setting `{name}` in [sysctl]")).help(help);
}

/// Reads the value and puts it in its place.
fn set(sysctl: &mut Sysctl, setting: &Setting, unit: u64, field: &Field, sink: &mut Sink) {
    let unit = (unit != 0).then_some(unit);
    match &setting.place {
        Place::Time(place) => {
            if let Some(value) = field.millis(unit, 0..=LONGEST_MS, sink) {
                *place(sysctl) = value;
            }
        }
        Place::Interval(place) => {
            if let Some(value) = field.millis(unit, 0..=LONGEST_INTERVAL, sink) {
                *place(sysctl) = value as u32;
            }
        }
        Place::Flag(place) => {
            if let Some(value) = flag(field, sink) {
                *place(sysctl) = value;
            }
        }
        Place::Byte(range, place) => {
            if let Some(value) = field.integer(range.clone(), sink) {
                *place(sysctl) = value;
            }
        }
        Place::Number(range, place) => {
            if let Some(value) = field.integer(range.clone(), sink) {
                *place(sysctl) = value;
            }
        }
        Place::Count(range, place) => {
            if let Some(value) = field.integer(range.clone(), sink) {
                *place(sysctl) = value;
            }
        }
    }
}

/// A switch: a boolean, or 0 and 1 as in the kernel.
fn flag(field: &Field, sink: &mut Sink) -> Option<bool> {
    match field.node.get_ref() {
        DeValue::Integer(_) => field.integer::<u8>(0..=1, sink).map(|value| value == 1),
        _ => field.boolean(sink),
    }
}
