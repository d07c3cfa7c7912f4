//! The network that both routers stand in: the same addresses, routes, neighbours and settings for the kernel and the engine.

use sumun_config::facts::{Family, PortId};

/// The ports of the router, in the order of their ids.
pub const PORTS: [&str; 2] = ["lan0", "wan0"];
/// The port with 192.168.1.1/24 and fd00:1::1/64, MTU 1500.
pub const LAN: PortId = PortId(0);
/// The port with 203.0.113.2/24 and 2001:db8:2::2/64, MTU 1300.
pub const WAN: PortId = PortId(1);
/// MTU by port.
pub const MTU: [u16; 2] = [1500, 1300];
/// The router's MAC by port.
pub const ROUTER: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];
/// The hosts' MAC by port.
pub const HOST: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 1, 2]];
/// Who sends the marker frame on the LAN.
pub const MARKER: (u32, u32) = (0xc0a8_01c8, 0xc0a8_0101);

/// Settings of the router, as `[sysctl]` has them.
pub const SETTINGS: &str = "\
icmp_ratelimit = 0
icmpv6_ratelimit = 0
nf_conntrack_acct = 1
";

/// The same for the kernel, and what the engine always does.
pub const SYSCTLS: [&str; 28] = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.lan0.accept_dad=0",
    "net.ipv6.conf.wan0.accept_dad=0",
    "net.ipv6.conf.all.router_solicitations=0",
    "net.ipv6.conf.default.router_solicitations=0",
    "net.ipv6.auto_flowlabels=0",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.lan0.rp_filter=0",
    "net.ipv4.conf.wan0.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.conf.lan0.send_redirects=0",
    "net.ipv4.conf.wan0.send_redirects=0",
    "net.ipv4.conf.all.accept_source_route=0",
    "net.ipv4.conf.lan0.accept_source_route=0",
    "net.ipv4.conf.wan0.accept_source_route=0",
    "net.ipv4.conf.all.accept_redirects=0",
    "net.netfilter.nf_conntrack_acct=1",
    // What stays in pieces is to say so in no later case.
    "net.netfilter.nf_conntrack_frag6_timeout=36000",
    "net.netfilter.nf_conntrack_frag6_high_thresh=400000000",
    "net.netfilter.nf_conntrack_log_invalid=0",
    "net.netfilter.nf_conntrack_tcp_be_liberal=0",
];

/// Addresses and prefix lengths: port, address.
pub const ADDRESSES: [(usize, &str); 4] =
    [(0, "192.168.1.1/24"), (0, "fd00:1::1/64"), (1, "203.0.113.2/24"), (1, "2001:db8:2::2/64")];

/// Neighbours that are known: port, address.
pub const NEIGHBOURS: [(usize, &str); 19] = [
    (0, "192.168.1.11"),
    (0, "192.168.1.12"),
    (0, "192.168.1.13"),
    (0, "192.168.1.200"),
    (0, "fd00:1::11"),
    (0, "fd00:1::12"),
    (0, "fd00:1::13"),
    (1, "203.0.113.1"),
    (1, "203.0.113.9"),
    (1, "203.0.113.10"),
    (1, "2001:db8:2::1"),
    (1, "2001:db8:2::9"),
    (1, "2001:db8:2::10"),
    (1, "fe80::9"),
    (0, "fe80::9"),
    (0, "fe80::ff:fe00:101"),
    (1, "fe80::ff:fe00:1"),
    (1, "203.0.113.77"),
    (1, "2001:db8:2::77"),
];

/// Routes as `ip route` takes them, and as `[[routes]]` does: destination, type, gateway.
pub const ROUTES: [(&str, &str, &str); 10] = [
    ("0.0.0.0/0", "unicast", "203.0.113.1"),
    ("::/0", "unicast", "2001:db8:2::1"),
    ("10.66.0.0/16", "unreachable", ""),
    ("10.67.0.0/16", "blackhole", ""),
    ("10.68.0.0/16", "prohibit", ""),
    ("fd66::/32", "unreachable", ""),
    ("fd67::/32", "blackhole", ""),
    ("fd68::/32", "prohibit", ""),
    ("10.77.0.0/16", "unicast", "192.168.1.12"),
    ("fd77::/32", "unicast", "fd00:1::12"),
];

/// Realms of routes, by their destination.
pub const REALMS: [(&str, &str); 2] = [("0.0.0.0/0", "10"), ("10.77.0.0/16", "5/20")];

/// Groups of the ports.
pub const GROUPS: [u32; 2] = [1, 0x12];

/// A MAC as text.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// An address by its text.
pub fn address(text: &str) -> u128 {
    match text.parse().unwrap_or_else(|_| panic!("{text} is an address")) {
        std::net::IpAddr::V4(a) => u128::from(u32::from(a)),
        std::net::IpAddr::V6(a) => a.into(),
    }
}

/// One of two texts.
pub fn of<T>(family: Family, v4: T, v6: T) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}
