//! The kernel's routes, followed in a namespace of its own. Needs root.
//!
//! ```text
//!  namespace: lan0, wan0 (in place of TAPs) ─ ip(8) changes something ─▶ mirror ─▶ the router's FIB says so
//! ```

use nix::unistd::Uid;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sumun_config::diag::Source;
use sumun_config::facts::{Facts, Family, PortId, number};
use sumun_config::model::{Policy, RoutesFrom};
use sumun_dataplane::engine::Router;
use sumun_dataplane::fib::{Key, Route};
use sumun_dataplane::kernel::{self, Mirror, Place};
use sumun_dataplane::port::Link;

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);

const CONFIG: &str = "[interfaces.lan0]\naddresses = [\"192.0.2.1/24\", \"2001:db8::1/64\"]\n[interfaces.wan0]\n";

/// A namespace with two devices, and a router that follows it.
struct Host {
    name: String,
    router: Arc<Router>,
    mirror: Option<Mirror>,
}

fn policy(text: &str, from: RoutesFrom) -> Policy {
    let (mut config, _) =
        sumun_config::schema::load(&Source::new("mirror.toml", text.to_string())).expect("it is right");
    config.policy.routes_from = from;
    config.policy
}

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("ip(8)");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Host {
    fn new(tag: &str, from: RoutesFrom) -> Host {
        assert!(Uid::effective().is_root(), "needs root for network namespaces");
        let name = format!("sumun-mirror-{}-{tag}", std::process::id());
        ip(&format!("netns add {name}"));
        let (config, _) =
            sumun_config::schema::load(&Source::new("mirror.toml", CONFIG.to_string())).expect("it is right");
        let link = |name: &str| Link {
            name: name.into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            trunk: None,
            checksums: sumun_config::model::Checksums::AsTheyAre,
        };
        let router = Router::new(&config.appliance, vec![link("lan0"), link("wan0")], 1);
        router.publish(policy(CONFIG, from)).expect("it is right");
        let mut host = Host { name, router, mirror: None };
        for setting in ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.addr_gen_mode=1"] {
            let status = Command::new("ip").args(["netns", "exec", &host.name, "sysctl", "-qw", setting]).status();
            assert!(status.expect("sysctl(8)").success());
        }
        for device in ["lan0", "wan0"] {
            host.ip(&format!("link add {device} type veth peer name far-{device}"));
            host.ip(&format!("link set far-{device} up"));
            host.ip(&format!("link set {device} up"));
        }
        host.ip("link set lo up");
        let plan = kernel::Plan {
            router: host.router.clone(),
            wake: Box::new(|| {}),
            devices: vec![None, None],
            host: Some(Place::Named(host.name.clone())),
        };
        host.mirror = Some(kernel::start(plan).expect("a thread"));
        host.until("everything was read", |host| host.state().is_synchronised);
        host
    }

    fn state(&self) -> kernel::State {
        self.mirror.as_ref().expect("it runs").state()
    }

    fn ip(&self, args: &str) -> String {
        ip(&format!("-n {} {args}", self.name))
    }

    /// Many commands of ip(8) at once.
    fn batch(&self, commands: &str) {
        self.batch_of("-4", commands);
    }

    /// The same of a family.
    fn batch_of(&self, family: &str, commands: &str) {
        let mut child = Command::new("ip")
            .args([family, "-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip(8)");
        child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ends").success());
    }

    fn lookup(&self, to: &str) -> Route {
        self.lookup_with(to, 0)
    }

    fn lookup_with(&self, to: &str, tos: u8) -> Route {
        let (family, dst) = number(to.parse().expect("an address"));
        let hash = Facts::blank(family).dst as u32;
        self.router.fib().lookup(&Key { family, src: 0, dst, iif: PortId::NONE, mark: 0, tos, hash })
    }

    /// The gateway that leads there, and its port.
    fn way(&self, to: &str) -> Option<(PortId, Option<IpAddr>)> {
        match self.lookup(to) {
            Route::Via { port, gateway, .. } => {
                let family = if to.contains(':') { Family::V6 } else { Family::V4 };
                Some((port, gateway.map(|gateway| family.address(gateway))))
            }
            _ => None,
        }
    }

    /// Waits until it is so; how long that took.
    fn until(&self, what: &str, is_so: impl Fn(&Host) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}; {:?}", self.state());
            std::thread::sleep(Duration::from_micros(200));
        }
        begun.elapsed()
    }

    fn until_way(&self, to: &str, port: PortId, gateway: &str) -> Duration {
        let wanted = Some((port, Some(gateway.parse().expect("an address"))));
        self.until(&format!("{to} by {gateway}"), |host| host.way(to) == wanted)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.mirror.take());
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

#[test]
fn what_ip_does_holds_in_the_router() {
    let host = Host::new("all", RoutesFrom::Kernel);
    // The configuration's addresses are on the device, with the kernel's routes.
    host.until("addresses", |host| host.ip("addr show dev lan0").contains("2001:db8::1/64"));
    host.until("the network", |host| host.way("192.0.2.9") == Some((LAN, None)));
    host.until("an own address", |host| host.lookup("192.0.2.1") == Route::Local);
    host.ip("route add 198.51.100.0/24 via 192.0.2.2 metric 20 proto bird");
    host.until_way("198.51.100.1", LAN, "192.0.2.2");
    host.ip("route replace 198.51.100.0/24 via 192.0.2.3 metric 20");
    host.until_way("198.51.100.1", LAN, "192.0.2.3");
    host.ip("route add 198.51.100.0/24 via 192.0.2.4 metric 10");
    host.until_way("198.51.100.1", LAN, "192.0.2.4");
    host.ip("route del 198.51.100.0/24 via 192.0.2.4 metric 10");
    host.until_way("198.51.100.1", LAN, "192.0.2.3");
    host.ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
    host.until_way("2001:db8:1::1", LAN, "2001:db8::2");
    host.ip("-6 route append 2001:db8:1::/48 via 2001:db8::3");
    host.ip("-6 route del 2001:db8:1::/48 via 2001:db8::2");
    host.until_way("2001:db8:1::1", LAN, "2001:db8::3");
    for (kind, route) in
        [("blackhole", Route::Blackhole), ("prohibit", Route::Prohibit), ("unreachable", Route::Unreachable)]
    {
        host.ip(&format!("route replace {kind} 203.0.113.0/24"));
        host.until(kind, |host| host.lookup("203.0.113.1") == route);
    }
    // Nexthop objects, and a group that changes below its route.
    host.ip("nexthop add id 7 via 192.0.2.7 dev lan0");
    host.ip("nexthop add id 9 group 7");
    host.ip("route add 10.6.0.0/16 nhid 9");
    host.until_way("10.6.0.1", LAN, "192.0.2.7");
    host.ip("nexthop replace id 7 via 192.0.2.8 dev lan0");
    host.until_way("10.6.0.1", LAN, "192.0.2.8");
    // Rules.
    host.ip("route add 10.7.0.0/16 via 192.0.2.2 table 300");
    assert_eq!(host.way("10.7.0.1"), None);
    host.ip("rule add to 10.7.0.0/16 table 300");
    host.until_way("10.7.0.1", LAN, "192.0.2.2");
    host.ip("rule del to 10.7.0.0/16 table 300");
    host.until("no rule", |host| host.way("10.7.0.1").is_none());
    // What leads elsewhere, and what cannot be done.
    host.ip("route add 10.8.0.0/16 dev far-wan0");
    host.until("not a port", |host| host.lookup("10.8.0.1") == Route::NotAPort);
    host.ip("rule add table main suppress_ifgroup 5");
    host.until("left out", |host| !host.state().left_out.is_empty());
    // An address of somebody else, such as a DHCP client.
    host.ip("addr add 198.18.0.1/24 dev wan0");
    host.until("a new own address", |host| host.lookup("198.18.0.1") == Route::Local);
    host.ip("addr del 198.18.0.1/24 dev wan0");
    host.until("it is gone", |host| host.lookup("198.18.0.1") == Route::None);
}

/// `fib_table_lookup`, `fib4_rule_match`, `fib4_rule_suppress` and `fib6_rule_suppress` of the kernel that runs.
#[test]
fn routes_by_tos_and_rules_that_suppress_lead_where_the_kernel_s_own_answer_is() {
    let host = Host::new("tos", RoutesFrom::Kernel);
    host.until("the network", |host| host.way("192.0.2.9") == Some((LAN, None)));
    host.until("the other network", |host| host.way("2001:db8::9") == Some((LAN, None)));
    let mut state = 0x9e37_79b9_u32;
    let mut roll = |sides: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % sides
    };
    let tables = ["main", "100", "101"];
    let mut commands = String::new();
    for _ in 0..150 {
        let (table, tos) = (tables[roll(3) as usize], [0, 0, 8, 0x10, 0x20][roll(5) as usize]);
        let (len, low) = ([0, 8, 12, 16, 24, 32][roll(6) as usize], roll(4));
        let net = std::net::Ipv4Addr::from_bits(
            (0x0a00_0000 | low << 20 | low << 16 | roll(3) << 8 | roll(3)) & !(u32::MAX.checked_shr(len).unwrap_or(0)),
        );
        let what = match roll(8) {
            0 => format!("blackhole {net}/{len}"),
            1 => format!("throw {net}/{len}"),
            2 => format!("prohibit {net}/{len}"),
            _ => format!("{net}/{len} via 192.0.2.{}", 2 + roll(200)),
        };
        commands += &format!("route replace {what} tos {tos:#x} metric {} table {table}\n", 1 + roll(2));
    }
    for (priority, rule) in [
        (100, "table main suppress_prefixlength 0"),
        (110, "table 100 tos 0x10 suppress_prefixlength 12"),
        (120, "to 10.0.0.0/9 table 101 suppress_prefixlength 16"),
        (130, "not tos 0x08 table 100"),
        (140, "table 101 suppress_prefixlength 40"),
    ] {
        commands += &format!("rule add pref {priority} {rule}\n");
    }
    host.batch(&commands);
    let mut commands = String::new();
    for i in 0..60 {
        let (table, len, low) = (tables[roll(3) as usize], [0, 16, 32, 48, 64][roll(5) as usize], roll(3));
        let net = std::net::Ipv6Addr::from_bits(
            (0x2001_0db8_u128 << 96 | u128::from(low) << 80 | u128::from(roll(2)) << 64)
                & !(u128::MAX.checked_shr(len).unwrap_or(0)),
        );
        let what = if roll(6) == 0 { "blackhole".to_string() } else { String::new() };
        let via = if what.is_empty() { format!("via 2001:db8::{:x}", 2 + i) } else { String::new() };
        commands += &format!("route replace {what} {net}/{len} {via} metric {} table {table}\n", 100 + roll(2));
    }
    for (priority, rule) in
        [(100, "table main suppress_prefixlength 32"), (110, "table 100 suppress_prefixlength 48"), (120, "table 101")]
    {
        commands += &format!("rule add pref {priority} {rule}\n");
    }
    host.batch_of("-6", &commands);
    // Who has this one has all that was told before.
    host.ip("route add 10.254.0.1/32 via 192.0.2.254");
    host.until_way("10.254.0.1", LAN, "192.0.2.254");
    let mut questions: Vec<(String, u8)> = Vec::new();
    for _ in 0..400 {
        let low = roll(4);
        let to = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low << 20 | low << 16 | roll(3) << 8 | roll(4));
        questions.push((to.to_string(), [0, 8, 0x10, 0x20, 0x30, 0x14][roll(6) as usize]));
    }
    for _ in 0..100 {
        let to = 0x2001_0db8_u128 << 96 | u128::from(roll(4)) << 80 | u128::from(roll(3)) << 64 | 9;
        questions.push((std::net::Ipv6Addr::from_bits(to).to_string(), 0));
    }
    let mut kinds = std::collections::BTreeMap::new();
    for (to, tos) in questions {
        let output = Command::new("ip")
            .args(["-n", &host.name, "route", "get", &to, "tos", &format!("{tos:#x}")])
            .output()
            .expect("ip(8)");
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let expected = match () {
            () if error.contains("Invalid argument") => "Blackhole".to_string(),
            () if error.contains("Permission denied") => "Prohibit".to_string(),
            () if error.contains("Network is unreachable") => "None".to_string(),
            () => said.split_whitespace().skip_while(|word| *word != "via").nth(1).unwrap_or("link").to_string(),
        };
        let found = match host.lookup_with(&to, tos) {
            Route::Via { gateway: Some(gateway), .. } => {
                let family = if to.contains(':') { Family::V6 } else { Family::V4 };
                family.address(gateway).to_string()
            }
            Route::Via { .. } => "link".to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{to} with TOS {tos:#x}: {said}{error}");
        *kinds.entry(expected.split('.').next().unwrap_or_default().to_string()).or_insert(0) += 1;
    }
    assert!(kinds.len() >= 4, "{kinds:?}");
}

#[test]
fn what_the_kernel_flushes_without_a_word_goes_too() {
    let host = Host::new("flush", RoutesFrom::Kernel);
    host.until("the network", |host| host.way("192.0.2.9") == Some((LAN, None)));
    host.ip("addr add 198.18.0.1/24 dev wan0");
    host.ip("route add 10.1.0.0/16 via 198.18.0.2 metric 10");
    host.ip("route add 10.1.0.0/16 via 192.0.2.2 metric 20");
    host.until_way("10.1.0.1", WAN, "198.18.0.2");
    let read = host.state().synchronisations;
    host.ip("link set wan0 down");
    let took = host.until_way("10.1.0.1", LAN, "192.0.2.2");
    println!("another way {took:?} after `ip link set down` had ended");
    host.until("everything is read again", |host| host.state().synchronisations > read);
    // The route is gone for good, as in the kernel.
    host.ip("link set wan0 up");
    host.until("the network is back", |host| host.way("198.18.0.9") == Some((WAN, None)));
    assert_eq!(host.way("10.1.0.1"), Some((LAN, Some("192.0.2.2".parse().expect("an address")))));
    assert!(!host.ip("route show 10.1.0.0/16").contains("198.18.0.2"));
}

#[test]
fn the_configuration_s_addresses_follow_a_new_policy_and_come_back_with_the_link() {
    let host = Host::new("dress", RoutesFrom::File);
    let has = |host: &Host, address: &str| host.ip("addr show dev lan0").contains(address);
    host.until("addresses", |host| has(host, "192.0.2.1/24") && has(host, "2001:db8::1/64"));
    host.ip("addr add 198.18.0.1/24 dev lan0");
    let other = CONFIG.replace("192.0.2.1/24", "192.0.2.77/24");
    host.router.publish(policy(&other, RoutesFrom::File)).expect("it is right");
    host.mirror.as_ref().expect("it runs").nudge();
    host.until("the other address", |host| has(host, "192.0.2.77/24") && !has(host, "192.0.2.1/24"));
    assert!(has(&host, "198.18.0.1/24"), "what somebody else put there stays");
    host.ip("link set lan0 down");
    host.ip("link set lan0 up");
    host.until("the IPv6 address is back", |host| has(host, "2001:db8::1/64"));
    host.router.publish(policy(&other, RoutesFrom::Kernel)).expect("it is right");
    host.mirror.as_ref().expect("it runs").nudge();
    host.until("the other's address is the router's own", |host| host.lookup("198.18.0.1") == Route::Local);
}

#[test]
fn groups_and_neighbours_of_the_host_are_known() {
    let host = Host::new("groups", RoutesFrom::Kernel);
    let (family, group) = number("224.0.0.251".parse().expect("a group"));
    assert!(!host.router.fib().listens(family, group, LAN));
    host.ip("addr add 239.1.2.3/32 dev lan0 autojoin");
    let (family, group) = number("239.1.2.3".parse().expect("a group"));
    host.until("the group", |host| host.router.fib().listens(family, group, LAN));
    assert!(!host.router.fib().listens(family, group, WAN));
    host.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev lan0 nud permanent");
    let known = |host: &Host| host.router.neighbours.list(0).iter().any(|n| n.mac == Some([2, 0, 0, 0, 0, 9]));
    host.until("the neighbour", known);
    host.ip("neigh del 192.0.2.9 dev lan0");
    host.until("it is forgotten", |host| !known(host));
}

/// `SUMUN_ROUTES=500000` for the whole of it.
#[test]
fn a_large_table_loads_and_a_change_afterwards_holds_at_once() {
    let count: u32 = std::env::var("SUMUN_ROUTES").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    let host = Host::new("large", RoutesFrom::Kernel);
    host.until("the network", |host| host.way("192.0.2.9") == Some((LAN, None)));
    let prefix = |i: u32| std::net::Ipv4Addr::from_bits(0x1400_0000 + (i << 8));
    let line = |i: u32| format!("route add {}/24 via 192.0.2.{} proto bird\n", prefix(i), 2 + i % 200);
    let commands: String = (0..count).map(line).collect();
    let begun = Instant::now();
    host.batch(&commands);
    let loaded = begun.elapsed();
    let last = prefix(count - 1).to_string();
    let is_all = |host: &Host| host.router.fib().routes() > count as usize && host.way(&last).is_some();
    let behind = host.until("all of them", is_all);
    println!("{count} routes: ip(8) took {loaded:?}, the router had them {behind:?} later");
    let mut worst = Duration::ZERO;
    for round in 0..10 {
        host.ip(&format!("route replace {}/24 via 192.0.2.{}", prefix(7), 210 + round));
        worst = worst.max(host.until_way(&prefix(7).to_string(), LAN, &format!("192.0.2.{}", 210 + round)));
    }
    println!("a change held at most {worst:?} after ip(8) had ended");
    assert!(worst < Duration::from_millis(500), "{worst:?}");
    let read = host.state().synchronisations;
    host.ip("link set wan0 down");
    host.until("everything is read again", |host| host.state().synchronisations > read);
    println!("reading everything took {:?}", host.state().took);
    assert!(host.router.fib().routes() >= count as usize);
}
