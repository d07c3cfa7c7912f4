//! BIRD on one router, FRR on another, and a Linux router beside them: BGP and OSPF of both families, and lost links.
//!
//! ```text
//!  client ── lan0 │ BIRD │ direct0 ── middle ── direct0 │ FRR │ lan0 ── server
//!                 │      │ around0 ──  linux ── around0 │     │
//! ```
//! One network of the server is known by BGP only, one by OSPF only, in each family.

use anyhow::{Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use sumun_testbed::daemons::{Frr, bird};
use sumun_testbed::host::{PREFIX, join};
use sumun_testbed::router::{head_in, wait};
use sumun_testbed::talk::{udp_echo, udp_unanswered};
use sumun_testbed::{Beside, Host, Router};

/// The server's networks and its addresses in them: by BGP, by OSPF, and the same of IPv6.
const NETWORKS: [(&str, &str); 4] = [
    ("198.51.100.0/24", "198.51.100.1"),
    ("198.18.0.0/15", "198.18.0.1"),
    ("2001:db8:99::/64", "2001:db8:99::1"),
    ("fd00:99::/64", "fd00:99::1"),
];

const RULES: &str = r#"
[routes]
from = "kernel"

[filter.INPUT]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
  "-p icmp -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "! -i lan0 -p tcp --dport 179 -j ACCEPT",
  "! -i lan0 -p ospf -j ACCEPT",
]
"#;

/// A router's configuration: the addresses of its ports.
fn config(dir: &Path, taps: &Host, ports: [(&str, [&str; 2]); 3]) -> String {
    let mut all = format!("{}[host]\nnamespace = \"{}\"\n", head_in(dir, "1"), taps.name());
    for (port, addresses) in ports {
        all += &format!("[interfaces.{port}]\naddresses = {addresses:?}\n");
    }
    all + RULES
}

/// BIRD's configuration. Graceful restart would keep the routes of a lost neighbour for two minutes. Its number, its links, its own network, and of each neighbour its addresses and number.
fn speaks(n: u32, links: [&str; 2], own: &str, neighbours: [([&str; 2], u32); 2]) -> String {
    let mut all = format!("router id 10.0.0.{n};\nprotocol device {{ scan time 1; }}\n{own}");
    for (family, version) in [("ipv4", "v2"), ("ipv6", "v3")] {
        all += &format!(
            "protocol kernel {{ {family} {{ import none; export where source != RTS_DEVICE; }}; merge paths on; }}\n\
             protocol ospf {version} {{ {family} {{ import all; export none; }}; area 0 {{\n\
               interface {:?}, {:?} {{ type ptp; hello 1; dead count 3; }};\n  interface \"lan0\" {{ stub; }};\n}}; }}\n",
            links[0], links[1]
        );
    }
    for (addresses, other) in neighbours {
        for (family, address) in ["ipv4", "ipv6"].iter().zip(addresses) {
            all += &format!(
                "protocol bgp {{ local as 6500{n}; neighbor {address} as 6500{other}; direct; hold time 3; connect delay time 1;\n\
                 connect retry time 1; error wait time 1, 2; graceful restart off;\n\
                 {family} {{ import all; export where source = RTS_DEVICE || source = RTS_BGP; }}; }}\n"
            );
        }
    }
    all
}

/// FRR's configurations.
fn frr(taps: &Host, dir: &Path) -> Result<Frr> {
    let links = |ip: &str, area: &str| -> String {
        let timers = format!("{ip} network point-to-point\n {ip} hello-interval 1\n {ip} dead-interval 3\n");
        ["direct0", "around0"].map(|link| format!("interface {link}\n {timers}{area}exit\n")).concat()
    };
    let ospf = format!(
        "{}router ospf\n ospf router-id 10.0.0.2\n network 10.0.0.0/8 area 0\n network 198.18.0.0/15 area 0\n passive-interface lan0\nexit\n",
        links("ip ospf", "")
    );
    let ospf6 = format!(
        "{}interface lan0\n ipv6 ospf6 area 0\n ipv6 ospf6 passive\nexit\nrouter ospf6\n ospf6 router-id 10.0.0.2\nexit\n",
        links("ipv6 ospf6", " ipv6 ospf6 area 0\n")
    );
    let mut bgp = String::from(
        "router bgp 65002\n bgp router-id 10.0.0.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n timers bgp 1 3\n",
    );
    for (neighbour, other) in [("10.0.1.1", 1), ("10.0.3.3", 3), ("fd00:1::1", 1), ("fd00:3::3", 3)] {
        bgp += &format!(" neighbor {neighbour} remote-as 6500{other}\n neighbor {neighbour} timers connect 1\n");
    }
    bgp += " address-family ipv4 unicast\n  network 198.51.100.0/24\n  no neighbor fd00:1::1 activate\n  \
            no neighbor fd00:3::3 activate\n exit-address-family\n address-family ipv6 unicast\n  network 2001:db8:99::/64\n  \
            neighbor fd00:1::1 activate\n  neighbor fd00:3::3 activate\n exit-address-family\nexit\n";
    Frr::start(
        taps,
        dir,
        "frr",
        "zebra nexthop kernel enable\n",
        &[("bgpd", &bgp), ("ospfd", &ospf), ("ospf6d", &ospf6)],
    )
}

/// The namespaces.
struct Hosts {
    client: Host,
    server: Host,
    middle: Host,
    linux: Host,
    /// With BIRD: the router, its TAPs.
    one: (Host, Host),
    /// With FRR.
    other: (Host, Host),
}

fn hosts() -> Result<Hosts> {
    let tag = format!("{}-meet", std::process::id());
    let named = |name: &str| Host::new(&format!("{tag}-{name}"));
    let hosts = Hosts {
        client: named("client")?,
        server: named("server")?,
        middle: named("middle")?,
        linux: named("linux")?,
        one: (named("one")?, named("one-host")?),
        other: (named("other")?, named("other-host")?),
    };
    let Hosts { client, server, middle, linux, one: (one, _), other: (other, _) } = &hosts;
    middle.ip("link add br0 type bridge mcast_snooping 0")?;
    middle.ip("link set br0 up")?;
    for (a, a_device, b, b_device) in [
        (client, "eth0", one, "lan0"),
        (server, "eth0", other, "lan0"),
        (one, "direct0", middle, "p1"),
        (other, "direct0", middle, "p2"),
        (one, "around0", linux, "to1"),
        (other, "around0", linux, "to2"),
    ] {
        join(a, a_device, b, b_device, 1)?;
    }
    for router in [one, other] {
        for device in ["lan0", "direct0", "around0"] {
            router.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")])?;
        }
    }
    for (host, device, addresses) in [
        (client, "eth0", ["192.168.1.9/24", "fd00:50::9/64"]),
        (server, "eth0", ["198.18.0.1/15", "fd00:99::1/64"]),
        (server, "lo", ["198.51.100.1/32", "2001:db8:99::1/128"]),
        (linux, "to1", ["10.0.2.3/24", "fd00:2::3/64"]),
        (linux, "to2", ["10.0.3.3/24", "fd00:3::3/64"]),
    ] {
        host.ip(&format!("addr add {} dev {device}", addresses[0]))?;
        host.ip(&format!("addr add {} dev {device} nodad", addresses[1]))?;
    }
    for (host, gateways) in [(client, ["192.168.1.1", "fd00:50::1"]), (server, ["198.18.0.254", "fd00:99::fe"])] {
        for gateway in gateways {
            host.ip(&format!("route add default via {gateway}"))?;
        }
    }
    linux.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    middle_is(&hosts, Middle::Whole)?;
    Ok(hosts)
}

/// What becomes of the link between the two routers.
enum Middle {
    Whole,
    /// It loses everything, and nobody sees it.
    Silent,
    /// Both ends lose their carrier.
    Down,
}

fn middle_is(hosts: &Hosts, state: Middle) -> Result<()> {
    for port in ["p1", "p2"] {
        let change = match state {
            Middle::Whole => "up master br0",
            Middle::Silent => "nomaster",
            Middle::Down => "down",
        };
        hosts.middle.ip(&format!("link set {port} {change}"))?;
    }
    Ok(())
}

/// Waits until all of the networks are reached by this port of the first router, and it says so itself.
fn until_by(router: &Router, device: &str) -> Result<()> {
    for (network, address) in NETWORKS {
        wait(&format!("{network} by {device}"), || {
            let way = router.sumun(&["routes", "get", address])?;
            Ok(String::from_utf8_lossy(&way.stdout).contains(&format!(" dev {device} ")))
        })?;
    }
    Ok(())
}

#[test]
fn what_bird_and_frr_tell_each_other_is_forwarded_by_and_goes_round_lost_links() -> Result<()> {
    let hosts = hosts()?;
    let dir = || tempfile::Builder::new().prefix(PREFIX).tempdir();
    let (one_dir, other_dir, linux_dir) = (dir()?, dir()?, dir()?);
    let (one_dir, other_dir) = (one_dir.path(), other_dir.path());
    let ports = [
        ("lan0", ["192.168.1.1/24", "fd00:50::1/64"]),
        ("direct0", ["10.0.1.1/24", "fd00:1::1/64"]),
        ("around0", ["10.0.2.1/24", "fd00:2::1/64"]),
    ];
    let one = Router::start_in(&hosts.one.0, one_dir, &config(one_dir, &hosts.one.1, ports))?;
    let ports = [
        ("lan0", ["198.18.0.254/15", "fd00:99::fe/64"]),
        ("direct0", ["10.0.1.2/24", "fd00:1::2/64"]),
        ("around0", ["10.0.3.2/24", "fd00:3::2/64"]),
    ];
    let other = Router::start_in(&hosts.other.0, other_dir, &config(other_dir, &hosts.other.1, ports))?;
    for taps in [&hosts.one.1, &hosts.other.1] {
        wait("addresses on the TAPs", || Ok(taps.ip("addr")?.matches("inet6 fd00:").count() == 3))?;
    }
    let taps = &hosts.other.1;
    taps.ip("route add 198.51.100.0/24 via 198.18.0.1")?;
    taps.ip("route add 2001:db8:99::/64 via fd00:99::1")?;
    let own = "protocol direct { ipv4; ipv6; interface \"lan0\"; }\n";
    let neighbours = [(["10.0.1.2", "fd00:1::2"], 2), (["10.0.2.3", "fd00:2::3"], 3)];
    let _bird = bird(&hosts.one.1, one_dir, "bird", &speaks(1, ["direct0", "around0"], own, neighbours))?;
    let _frr = frr(taps, other_dir)?;
    let neighbours = [(["10.0.2.1", "fd00:2::1"], 1), (["10.0.3.2", "fd00:3::2"], 2)];
    let _linux: Beside = bird(&hosts.linux, linux_dir.path(), "bird", &speaks(3, ["to1", "to2"], "", neighbours))?;

    until_by(&one, "direct0")?;
    for network in ["192.168.1.0/24 ", "fd00:50::/64 "] {
        wait("the way back", || Ok(other.ask(&["routes"])?.contains(network)))?;
    }
    // zebra's routes go over nexthop objects, and one over a group of two: the link of the others is as far by each.
    ensure!(taps.ip("route show proto bgp")?.contains(" nhid "));
    wait("a route with two ways", || {
        let routes = other.ask(&["routes"])?;
        let both =
            routes.split("10.0.2.0/24 ").nth(1).map_or(Vec::new(), |rest| rest.lines().skip(1).take(2).collect());
        Ok(["nexthop via 10.0.1.1 dev direct0", "nexthop via 10.0.3.3 dev around0"]
            .iter()
            .all(|way| both.iter().any(|line| line.contains(way))))
    })?;
    for router in [&one, &other] {
        let mirror = &router.status()?["mirror"];
        ensure!(mirror["left_out"].as_object().is_none_or(|reasons| reasons.is_empty()), "{mirror}");
    }

    let addresses = NETWORKS.map(|(_, address)| std::net::SocketAddr::new(address.parse().expect("an address"), 5353));
    for address in addresses {
        udp_echo(&hosts.server, &address.to_string(), usize::MAX)?;
    }
    for (state, name, most) in [
        (Middle::Silent, "falls silent", Duration::from_secs(5)),
        (Middle::Down, "is set down", Duration::from_secs(2)),
    ] {
        until_by(&one, "direct0")?;
        wait("answers of all", || {
            let lost = udp_unanswered(&hosts.client, &addresses, Duration::from_millis(200))?;
            Ok(lost.iter().all(|lost| lost.is_zero()))
        })?;
        let begun = Instant::now();
        middle_is(&hosts, state)?;
        let took = udp_unanswered(&hosts.client, &addresses, most + Duration::from_secs(1))?;
        println!("the link {name}: answers are missing for {took:?} (BGP and OSPF of IPv4, of IPv6)");
        ensure!(took.iter().all(|took| *took < most), "{took:?} after {:?}", begun.elapsed());
        until_by(&one, "around0")?;
        middle_is(&hosts, Middle::Whole)?;
    }
    Ok(())
}
