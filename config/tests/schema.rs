//! What `schema::load` accepts and refuses.

use ipnet::IpNet;
use proptest::prelude::*;
use std::net::IpAddr;
use sumun_config::diag::{self, Diagnostic, Source};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::*;
use sumun_config::rule;
use sumun_config::ruleset::Ruleset;
use sumun_config::schema::load;

const ROUTER: &str = include_str!("../../testbed/router.toml");

const NETWORK: &str = r#"
[interfaces.lan0]
addresses = ["192.168.1.1/24", "fd00:1::1/64"]
[interfaces.wan0]
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]
"#;

/// The file of a case, with interfaces where it has none.
fn source(text: &str) -> Source {
    let own = text.contains("interfaces");
    Source::new("router.toml", format!("{text}{}", if own { "" } else { NETWORK }))
}

fn lines(source: &Source, found: &[Diagnostic]) -> Vec<String> {
    found.iter().map(|d| diag::short(source, d).replace("router.toml:", "")).collect()
}

/// The cases of mistakes.txt: files and what is said of them.
#[test]
fn mistakes_are_all_said_with_their_place_and_what_would_be_accepted() {
    let cases = include_str!("mistakes.txt").split("====\n").skip(1);
    let mut wrong = String::new();
    let mut count = 0;
    for case in cases {
        let (expected, text): (Vec<&str>, Vec<&str>) = case.lines().partition(|line| line.starts_with("=> "));
        let source = source(&text.iter().map(|line| format!("{line}\n")).collect::<String>());
        let found = match load(&source) {
            Ok((_, warnings)) => warnings,
            Err(found) => found,
        };
        let found: Vec<String> = lines(&source, &found).into_iter().map(|line| format!("=> {line}")).collect();
        if found != expected {
            wrong.push_str(&format!("{}\n{}\n====\n", text.join("\n"), found.join("\n")));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "these cases say something else now:\n{wrong}");
    assert!(count >= 60, "{count} cases");
}

fn config(text: &str) -> Config {
    let source = source(text);
    match load(&source) {
        Ok((config, warnings)) => {
            assert_eq!(lines(&source, &warnings), [""; 0], "warnings");
            config
        }
        Err(found) => panic!("{}", diag::render(&source, &found, false)),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn interfaces_alone_are_a_configuration_with_the_defaults() {
    let config = config("");
    let port = |name: &str| Interface {
        name: name.to_string(),
        kind: Kind::Device(Device {
            name: name.to_string(),
            attach: Attach::Auto,
            copy: CopyMode::Auto,
            ring: 2048,
            tx: Transmit::Auto,
            checksums: None,
        }),
        mtu: None,
        local: LocalStack::Smoltcp,
    };
    let appliance = Appliance {
        run_dir: "/run/sumun".into(),
        cores: vec![0],
        idle: Idle::Sleep { after_us: 50 },
        frames_per_worker: 8192,
        frame_size: 2048,
        max_flows: 262_144,
        keep_flows: true,
        max_neighbours: 1024,
        interfaces: vec![port("lan0"), port("wan0")],
        initial_policy: rule::Policy::Drop,
        log: LogTo::Syslog,
        host: None,
    };
    assert_eq!(config.appliance, appliance);
    let settings = |a: &str, b: &str| PortSettings {
        addresses: vec![net(a), net(b)],
        rp_filter: RpFilter::Off,
        ..Default::default()
    };
    assert_eq!(config.policy.ports, ["lan0", "wan0"]);
    assert_eq!(
        config.policy.port_settings,
        [settings("192.168.1.1/24", "fd00:1::1/64"), settings("203.0.113.2/24", "2001:db8:2::2/64")]
    );
    assert_eq!(config.policy.sysctl, Sysctl::default());
    assert_eq!(config.policy.ruleset, Ruleset::empty(rule::Policy::Accept));
    assert_eq!((config.policy.routes, config.policy.neighbours), (vec![], vec![]));
}

#[test]
fn every_setting_of_the_dataplane_is_read() {
    let config = config(
        r#"
        [dataplane]
        run-dir = "/tmp/s"
        cores = [3, 0x1]
        idle = "busy"
        frames = 16_384
        frame-size = 4096
        max-flows = 10
        keep-flows = false
        max-neighbours = 20
        initial-policy = "ACCEPT"
        log = "file:/var/log/sumun.log"
        [interfaces.b]
        device = "eth1"
        rp-filter = "strict"
        attach = "native"
        copy = "zero-copy"
        mtu = 3000
        ring = 64
        tx = "xdp"
        [interfaces.a]
        rp-filter = "loose"
        attach = "generic"
        copy = "copy"
        tx = "ring"
        "#,
    );
    let a = &config.appliance;
    assert_eq!((a.run_dir.to_str(), a.cores.as_slice(), a.idle), (Some("/tmp/s"), &[3, 1][..], Idle::Busy));
    assert_eq!((a.frames_per_worker, a.frame_size, a.max_flows, a.max_neighbours), (16384, 4096, 10, 20));
    assert!(!a.keep_flows);
    assert_eq!((a.initial_policy, &a.log), (rule::Policy::Accept, &LogTo::File("/var/log/sumun.log".into())));
    let b = &a.interfaces[0];
    let device = b.device().unwrap();
    assert_eq!((b.name.as_str(), device.name.as_str(), b.mtu, device.ring), ("b", "eth1", Some(3000), 64));
    assert_eq!((device.attach, device.copy, device.tx), (Attach::Native, CopyMode::ZeroCopy, Transmit::Xdp));
    assert_eq!(a.interfaces[1].device().unwrap().tx, Transmit::Ring);
    assert_eq!(config.policy.ports, ["b", "a"], "in the order of the file");
    let filters: Vec<RpFilter> = config.policy.port_settings.iter().map(|port| port.rp_filter).collect();
    assert_eq!(filters, [RpFilter::Strict, RpFilter::Loose]);
}

#[test]
fn vlans_are_resolved_to_the_ports_that_have_their_devices() {
    let config = config(
        r#"
        [interfaces.office]
        parent = "trunk0"
        vlan = 10
        [interfaces.trunk0]
        device = "eth1"
        [interfaces.customer]
        parent = "trunk0"
        vlan = [100, 4094]
        vlan-protocol = "802.1ad"
        mtu = 1496
        addresses = ["10.0.0.1/24"]
        rp-filter = "strict"
        [[routes]]
        to = "default"
        via = "10.0.0.2"
        "#,
    );
    let [office, trunk, customer] = config.appliance.interfaces.as_slice() else { panic!("three interfaces") };
    let vlan = |outer, inner, protocol| Vlan { parent: PortId(1), tags: Tags { protocol, outer, inner } };
    assert_eq!((office.vlan(), office.mtu), (Some(vlan(10, None, TagProtocol::Customer)), None));
    assert_eq!((trunk.vlan(), trunk.device().map(|device| device.name.as_str())), (None, Some("eth1")));
    assert_eq!(customer.vlan(), Some(vlan(100, Some(4094), TagProtocol::Service)));
    assert_eq!((customer.mtu, customer.device()), (Some(1496), None));
    let tags = [office, customer].map(|port| port.vlan().unwrap().tags.to_string());
    assert_eq!(tags, ["802.1Q 10", "802.1ad 100, 802.1Q 4094"]);
    assert_eq!(config.policy.port_settings[2].rp_filter, RpFilter::Strict);
    let RouteAction::Via(hops) = &config.policy.routes[0].action else { panic!("no route") };
    assert_eq!(hops[0].port, PortId(2));
}

#[test]
fn ports_have_taps_where_the_host_takes_part() {
    let ports = r#"
        [interfaces.a]
        device = "eth0"
        [interfaces.b]
        device = "eth1"
        local = "smoltcp"
        "#;
    for (section, host, first) in [
        ("", None, LocalStack::Smoltcp),
        ("[host]", Some(Host::default()), LocalStack::Host),
        (
            "[host]\nnamespace = 'box'\nother-frames = 'tap'",
            Some(Host { namespace: Some("box".into()), other_frames: OtherFrames::Tap }),
            LocalStack::Host,
        ),
        ("[host]\nother-frames = 'device'", Some(Host::default()), LocalStack::Host),
    ] {
        let appliance = config(&format!("{section}{ports}")).appliance;
        assert_eq!(appliance.host, host, "{section}");
        let locals: Vec<LocalStack> = appliance.interfaces.iter().map(|interface| interface.local).collect();
        assert_eq!(locals, [first, LocalStack::Smoltcp], "{section}");
    }
    let beside = config("[host]\nnamespace = 'box'\n[interfaces.a]\n[interfaces.b]\nlocal = 'host'").appliance;
    assert!(beside.interfaces.iter().all(|interface| interface.local == LocalStack::Host), "names are free elsewhere");
}

#[test]
fn routes_are_resolved_to_ports() {
    let (lan, wan) = (PortId(0), PortId(1));
    let via = |port, gateway: &str| Nexthop { port, gateway: Some(addr(gateway)), weight: 1 };
    let route = |prefix: &str, hops: Vec<Nexthop>| {
        let metric = if prefix.contains(':') { 1024 } else { 0 };
        let (prefix, action) = (net(prefix), RouteAction::Via(hops));
        Route { table: table::MAIN, prefix, action, metric, mtu: None, source: None, tos: 0, realm: 0 }
    };
    let cases = [
        (r#"to = "default", via = "203.0.113.1""#, route("0.0.0.0/0", vec![via(wan, "203.0.113.1")])),
        (r#"to = "default", via = "fd00:1::9""#, route("::/0", vec![via(lan, "fd00:1::9")])),
        (r#"to = "::/0", via = "fe80::1", dev = "wan0""#, route("::/0", vec![via(wan, "fe80::1")])),
        (r#"to = "0.0.0.0/0", via = "fe80::1", dev = "wan0""#, route("0.0.0.0/0", vec![via(wan, "fe80::1")])),
        (r#"to = "10.0.0.0/8", via = "fd00:1::9""#, route("10.0.0.0/8", vec![via(lan, "fd00:1::9")])),
        (
            r#"to = "10.1.2.3", dev = "wan0""#,
            route("10.1.2.3/32", vec![Nexthop { port: wan, gateway: None, weight: 1 }]),
        ),
        (
            r#"to = "10.0.0.0/8", via = "198.51.100.1", dev = "lan0", onlink = true"#,
            route("10.0.0.0/8", vec![via(lan, "198.51.100.1")]),
        ),
        (
            r#"to = "10.0.0.0/8", via = "203.0.113.1", table = "default", metric = 7, mtu = 1400, source = "192.168.1.1""#,
            Route {
                table: table::DEFAULT,
                metric: 7,
                mtu: Some(1400),
                source: Some(addr("192.168.1.1")),
                ..route("10.0.0.0/8", vec![via(wan, "203.0.113.1")])
            },
        ),
        (
            r#"to = "10.0.0.0/8", table = "100", nexthops = [{ via = "203.0.113.1" }, { via = "192.168.1.2", weight = 256 }]"#,
            Route {
                table: 100,
                ..route("10.0.0.0/8", vec![via(wan, "203.0.113.1"), Nexthop { weight: 256, ..via(lan, "192.168.1.2") }])
            },
        ),
        (
            r#"to = "10.0.0.0/8", type = "blackhole""#,
            Route { action: RouteAction::Blackhole, ..route("10.0.0.0/8", vec![]) },
        ),
        (
            r#"to = "fc00::/7", type = "prohibit", metric = 5"#,
            Route { action: RouteAction::Prohibit, metric: 5, ..route("fc00::/7", vec![]) },
        ),
    ];
    for (text, route) in cases {
        assert_eq!(config(&format!("routes = [{{ {text} }}]")).policy.routes, [route], "{text}");
    }
}

#[test]
fn a_gateway_may_be_on_a_link_that_a_route_says() {
    let routes = config(
        r#"routes = [
            { to = "10.0.0.0/8", via = "198.51.100.1" },
            { to = "198.51.100.1", dev = "wan0" },
        ]"#,
    )
    .policy
    .routes;
    let hop = Nexthop { port: PortId(1), gateway: Some(addr("198.51.100.1")), weight: 1 };
    assert_eq!(routes[0].action, RouteAction::Via(vec![hop]));
}

fn shown(rules: &[RoutingRule]) -> Vec<(u32, Family, RuleAction)> {
    rules.iter().map(|rule| (rule.priority, rule.family, rule.action)).collect()
}

/// Addresses and gateways mean what they mean in their VRF.
#[test]
fn interfaces_in_vrfs_may_have_the_same_addresses() {
    let config = config(
        r#"
        [vrfs.red]
        table = 100
        [vrfs.blue]
        table = 200
        [interfaces.a]
        vrf = "red"
        addresses = ["10.0.0.1/24"]
        [interfaces.b]
        vrf = "blue"
        addresses = ["10.0.0.1/24"]
        [interfaces.c]
        addresses = ["10.0.0.2/24"]
        [[routes]]
        to = "default"
        via = "10.0.0.9"
        table = 200
        source = "10.0.0.1"
        [[routes]]
        to = "default"
        via = "10.0.0.1"
        [[routes]]
        to = "192.0.2.0/24"
        via = "10.0.0.9"
        dev = "a"
        table = 200
        "#,
    );
    let vrf = |name: &str, table| Vrf { name: name.to_string(), table };
    assert_eq!(config.policy.vrfs, [vrf("red", 100), vrf("blue", 200)]);
    let vrfs: Vec<_> = config.policy.port_settings.iter().map(|settings| settings.vrf).collect();
    assert_eq!(vrfs, [Some(100), Some(200), None]);
    let port = |route: &Route| match &route.action {
        RouteAction::Via(hops) => hops[0].port,
        other => panic!("{other:?}"),
    };
    let ports: Vec<_> = config.policy.routes.iter().map(port).collect();
    assert_eq!(ports, [PortId(1), PortId(2), PortId(0)]);
    assert_eq!(config.policy.verify(), Ok(()));
}

#[test]
fn routes_come_from_the_kernel_where_the_file_says_so() {
    let config = config("[host]\nnamespace = \"host\"\n[routes]\nfrom = \"kernel\"\n");
    assert_eq!(config.policy.routes_from, RoutesFrom::Kernel);
    assert_eq!(config.policy.routes, []);
    assert_eq!(config.policy.rules.len(), 2 * RoutingRule::KERNEL.len());
}

#[test]
fn routing_rules_join_those_of_the_kernel_in_order() {
    use Family::{V4, V6};
    use RuleAction::{Lookup, Prohibit};
    let rules = config(
        r#"rules = [
            { priority = 40000, action = "prohibit" },
            { priority = 0, family = "ipv6", table = "main" },
            { priority = 100, from = "10.0.0.0/8", to = "all", iif = "lo", fwmark = "0x101/0xfff", tos = 16, not = true, table = "local" },
        ]"#,
    )
    .policy
    .rules;
    let expected = [
        (0, V6, Lookup(table::MAIN)),
        (0, V4, Lookup(table::LOCAL)),
        (100, V4, Lookup(table::LOCAL)),
        (32766, V4, Lookup(table::MAIN)),
        (32766, V6, Lookup(table::MAIN)),
        (32767, V4, Lookup(table::DEFAULT)),
        (32767, V6, Lookup(table::DEFAULT)),
        (40000, V4, Prohibit),
        (40000, V6, Prohibit),
    ];
    assert_eq!(shown(&rules), expected);
    let full = RoutingRule {
        priority: 100,
        family: V4,
        not: true,
        from: Some(net("10.0.0.0/8")),
        to: None,
        iif: Some(RuleIif::Local),
        fwmark: Some((0x101, 0xfff)),
        tos: Some((16, 0x1c)),
        suppress: None,
        action: Lookup(table::LOCAL),
    };
    assert_eq!(rules[2], full);
}

#[test]
fn routes_and_rules_may_ask_for_a_tos_and_rules_may_suppress() {
    let policy = config(
        r#"routes = [
            { to = "10.0.0.0/8", via = "203.0.113.1" },
            { to = "10.0.0.0/8", via = "203.0.113.9", tos = 16 },
        ]
        rules = [
            { priority = 100, table = "main", suppress-prefixlength = 0 },
            { priority = 200, tos = 0xb8, table = "main" },
            { priority = 300, family = "ipv4", dscp = 4, table = "main" },
        ]"#,
    )
    .policy;
    assert_eq!(policy.verify(), Ok(()));
    assert_eq!([policy.routes[0].tos, policy.routes[1].tos], [0, 16]);
    let of = |priority| policy.rules.iter().filter(move |rule| rule.priority == priority);
    assert!(of(100).all(|rule| rule.suppress == Some(0)) && of(100).count() == 2);
    assert!(of(200).all(|rule| rule.tos == Some((0xb8, 0xfc))));
    // TOS 16 would be (16, 0x1c): its upper three bits do not count.
    assert!(of(300).all(|rule| rule.tos == Some((16, 0xfc))));
}

#[test]
fn settings_have_the_kernels_names_and_units() {
    type Get = fn(&Sysctl) -> u64;
    let cases: [(&str, Get, u64); 13] = [
        ("nf_conntrack_tcp_timeout_established = 432000", |s| s.nf_conntrack_tcp_timeout_established, 432_000_000),
        ("nf_conntrack_tcp_timeout_established = \"5d\"", |s| s.nf_conntrack_tcp_timeout_established, 432_000_000),
        ("net.netfilter.nf_conntrack_udp_timeout = 7", |s| s.nf_conntrack_udp_timeout, 7000),
        ("\"net.netfilter.nf_conntrack_udp_timeout\" = \"250ms\"", |s| s.nf_conntrack_udp_timeout, 250),
        ("net.ipv4.ip_forward = 0", |s| s.ip_forward.into(), 0),
        ("ip_forward = false", |s| s.ip_forward.into(), 0),
        ("net.ipv6.conf.all.forwarding = false", |s| s.ipv6_forwarding.into(), 0),
        ("icmp_ratelimit = 100", |s| s.icmp_ratelimit.into(), 100),
        ("net.ipv6.icmp.ratelimit = \"2s\"", |s| s.icmpv6_ratelimit.into(), 2000),
        ("neigh_retrans_time = \"300ms\"", |s| s.neigh_retrans_time, 300),
        ("net.ipv4.neigh.default.retrans_time_ms = 300", |s| s.neigh_retrans_time, 300),
        ("net.ipv4.neigh.default.base_reachable_time = 60", |s| s.neigh_base_reachable_time, 60_000),
        ("neigh_unres_qlen = 3", |s| s.neigh_unres_qlen.into(), 3),
    ];
    for (line, get, value) in cases {
        assert_eq!(get(&config(&format!("[sysctl]\n{line}\n")).policy.sysctl), value, "{line}");
    }
}

#[test]
fn neighbours_are_read() {
    let text = r#"neighbours = [{ interface = "wan0", address = "fe80::5", mac = "02-00-00-00-00-AB" }]"#;
    let expected = StaticNeighbour { port: PortId(1), address: addr("fe80::5"), mac: [2, 0, 0, 0, 0, 0xab] };
    assert_eq!(config(text).policy.neighbours, [expected]);
}

/// The filter table of a family as iptables-save prints its chains and rules.
fn printed(config: &Config, family: Family) -> Vec<String> {
    let chains = &config.policy.ruleset.of(family).tables[rule::Table::Filter as usize].chains;
    let name = |index: u32| chains[index as usize].name.as_str();
    let mut lines = Vec::new();
    for chain in chains {
        lines.push(format!(":{} {:?}", chain.name, chain.policy));
        let rules = chain.rules.iter();
        lines.extend(rules.map(|rule| format!("{}: -A {} {}", rule.line, chain.name, rule::print(rule, family, name))));
    }
    lines
}

#[test]
fn chains_serve_the_families_of_their_section() {
    let config = config(
        r#"[filter.FORWARD]
policy = "DROP"
rules = [
    "-i lan0 -j mine",
    "-s 10.0.0.0/8 -j ACCEPT",
    { protocol = "tcp", dport = 22, target = "ACCEPT" },
]
[ipv4.filter.INPUT]
policy = "DROP"
[filter.mine]
rules = ["""
    -p udp \
    -m comment --comment \"a b\" \
    -j DROP"""]
"#,
    );
    let v4 = [
        ":INPUT Some(Drop)",
        ":FORWARD Some(Drop)",
        "4: -A FORWARD -i lan0 -j mine",
        "5: -A FORWARD -s 10.0.0.0/8 -j ACCEPT",
        "6: -A FORWARD -p tcp -m tcp --dport 22 -j ACCEPT",
        ":OUTPUT Some(Accept)",
        ":mine None",
        "11: -A mine -p udp -m comment --comment \"a b\" -j DROP",
    ];
    assert_eq!(printed(&config, Family::V4), v4);
    let mut v6 = v4.to_vec();
    v6[0] = ":INPUT Some(Accept)";
    v6.remove(3);
    assert_eq!(printed(&config, Family::V6), v6);
}

#[test]
fn both_forms_of_a_rule_mean_the_same() {
    let cases = [
        (r#""-i lan0 -j ACCEPT""#, r#"{ in = "lan0", target = "ACCEPT" }"#),
        (r#""! -i lan0 -j DROP""#, r#"{ in = "!lan0", target = "DROP" }"#),
        (r#""-p tcp --dport 1024:2048""#, r#"{ protocol = "tcp", dport = "1024:2048" }"#),
        (r#""-p tcp --syn -j DROP""#, r#"{ protocol = "tcp", syn = true, target = "DROP" }"#),
        (r#""-p tcp ! --syn -j DROP""#, r#"{ protocol = "tcp", syn = false, target = "DROP" }"#),
        (
            r#""-p tcp --tcp-flags SYN,RST SYN -j DROP""#,
            r#"{ protocol = "tcp", tcp-flags = ["SYN,RST", "SYN"], target = "DROP" }"#,
        ),
        (r#""-m conntrack --ctstate NEW,RELATED""#, r#"{ ctstate = ["NEW", "RELATED"] }"#),
        (r#""-p tcp -m multiport --dports 22,80""#, r#"{ protocol = "tcp", dports = [22, 0x50] }"#),
        (r#""-m comment --comment '!x' -j DROP""#, r#"{ comment = "!x", target = "DROP" }"#),
        (
            r#""-j REJECT --reject-with icmp-port-unreachable""#,
            r#"{ target = "REJECT", reject-with = "icmp-port-unreachable" }"#,
        ),
    ];
    for (text, fields) in cases {
        let of = |rule: &str| config(&format!("[ipv4.filter.FORWARD]\nrules = [{rule}]\n")).policy.ruleset;
        assert_eq!(of(text), of(fields), "{text}");
    }
}

#[test]
fn a_configuration_survives_postcard() {
    let (config, _) = load(&Source::new("router.toml", ROUTER)).unwrap();
    let bytes = postcard::to_stdvec(&config).unwrap();
    assert_eq!(postcard::from_bytes::<Config>(&bytes).unwrap(), config);
}

#[test]
fn the_example_of_the_testbed_has_no_mistakes() {
    config(ROUTER);
}

#[test]
fn the_example_of_the_reference_has_no_mistakes() {
    let head = include_str!("../src/schema/mod.rs");
    let lines = head.lines().map_while(|line| line.strip_prefix("//!"));
    let example = lines.skip_while(|line| *line != " ```toml").skip(1).take_while(|line| *line != " ```");
    let text: String = example.map(|line| format!("{line}\n")).collect();
    assert!(text.lines().count() > 60);
    config(&text);
}

/// 100,000 rules for both families are read in seconds, and so are as many complaints printed short.
#[test]
fn large_files_are_read_in_time_that_grows_with_their_size() {
    let rules = |option: &str| {
        let rule = |n: u32| format!("    \"-s 10.{}.{}.0/24 -p tcp {option} {n} -j DROP\",\n", n >> 8 & 255, n & 255);
        let rules: String = (0..100_000).map(|n| rule(n % 65536)).collect();
        source(&format!("[ipv4.filter.FORWARD]\nrules = [\n{rules}]\n"))
    };
    let start = std::time::Instant::now();
    let (config, _) = load(&rules("--dport")).unwrap();
    let forward = &config.policy.ruleset.of(Family::V4).tables[rule::Table::Filter as usize].chains[1];
    assert_eq!((forward.name.as_str(), forward.rules.len()), ("FORWARD", 100_000));
    assert_eq!(forward.rules[99_999].line, 100_002);
    let wrong = rules("--dprot");
    let found = load(&wrong).unwrap_err();
    assert_eq!(found.len(), 100_000);
    assert!(diag::short(&wrong, &found[99_999]).starts_with("router.toml:100002:"));
    // A second when optimized; the bound only refuses what is quadratic.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn any_text_is_answered_without_a_panic(text in "[a-z0-9=\\[\\]{}\"'., \\\\\n#-]{0,200}") {
        answer(&text);
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match Source::decode("f", bytes) {
            Ok(source) => answer(source.text()),
            Err(wrong) => assert!(!diag::render(&wrong.0, &[wrong.1], false).is_empty()),
        }
    }

    #[test]
    fn a_damaged_example_is_answered_without_a_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\"\\[\\]{}=.,\n a-z0-9/:!-]{0,4}"), 1..4)
    ) {
        let mut text = ROUTER.to_string();
        for (at, len, with) in cuts {
            let start = text.floor_char_boundary(at.index(text.len()));
            let end = text.ceil_char_boundary((start + len).min(text.len()));
            text.replace_range(start..end, &with);
        }
        answer(&text);
    }
}

proptest! {
    #[test]
    fn any_rule_is_answered_without_a_panic(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..12), quote in prop::sample::select(&["'", "\"", "'''", "\"\"\""][..])
    ) {
        let escaped = if quote.starts_with('"') { words.join(" ").replace('"', "\\u0022") } else { words.join(" ") };
        answer(&format!("[filter.FORWARD]\nrules = [{quote}{escaped}{quote}]\n[interfaces.lan0]\n"));
    }
}

/// Words that rules are made of, and some that break them.
const WORDS: &[&str] = &[
    "-s",
    "-d",
    "-i",
    "-o",
    "-p",
    "-m",
    "-j",
    "-g",
    "!",
    "--dport",
    "--sport",
    "--ctstate",
    "--tcp-flags",
    "--comment",
    "--log-prefix",
    "--to-destination",
    "--icmp-type",
    "--syn",
    "-f",
    "-4",
    "-6",
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "lan0",
    "10.0.0.0/8",
    "fd00::/8",
    "22",
    "1024:2048",
    "99999",
    "NEW,ESTABLISHED",
    "SYN,RST",
    "ACCEPT",
    "DROP",
    "LOG",
    "REJECT",
    "DNAT",
    "conntrack",
    "comment",
    "multiport",
    "\"a b\"",
    "\"",
    "é",
    "-",
    "--",
    "=",
    "0x10/0xff",
    "+",
    "",
    ",",
    "/",
];

/// Loads the text, and prints whatever is said of it.
fn answer(text: &str) {
    let source = Source::new("f", text);
    let found = match load(&source) {
        Ok((_, warnings)) => warnings,
        Err(found) => {
            assert!(!found.is_empty());
            found
        }
    };
    for diagnostic in &found {
        assert!(!diag::short(&source, diagnostic).contains('\n'));
        assert!(diagnostic.at.end <= text.len(), "{diagnostic:?} is beyond the text");
    }
    assert!(found.is_empty() || !diag::render(&source, &found, false).is_empty());
}

#[test]
fn timeout_policies_and_labels_are_known_to_rules() {
    let config = config(
        r#"
        [conntrack.timeouts.short]
        protocol = "tcp"
        family = "ipv4"
        established = "10m"
        close = 5
        [conntrack.labels]
        customer = 3
        guest = 100
        [raw.PREROUTING]
        rules = ["-p tcp -j CT --zone 4 --timeout short --helper ftp"]
        [mangle.FORWARD]
        rules = ["-m connlabel --label guest --set", "-m connlabel ! --label 3", { label = 7 }]
        "#,
    );
    let policy = config.policy;
    policy.verify().expect("what a file says can be");
    let timeouts = &policy.timeouts;
    assert_eq!((timeouts.len(), timeouts[0].name.as_str()), (1, "short"));
    let over = timeouts[0].over(&policy.sysctl);
    assert_eq!((over.nf_conntrack_tcp_timeout_established, over.nf_conntrack_tcp_timeout_close), (600_000, 5_000));
    assert_eq!(policy.labels.len(), 2);
    let v4 = policy.ruleset.print(Family::V4, None);
    for rule in [
        "-A PREROUTING -p tcp -j CT --helper ftp --timeout short --zone 4\n",
        "-A FORWARD -m connlabel --label \"guest\" --set\n",
        "-A FORWARD -m connlabel ! --label \"customer\"\n",
        "-A FORWARD -m connlabel --label \"7\"\n",
    ] {
        assert!(v4.contains(rule), "{rule}{v4}");
    }
    // The policy is for IPv4, so the rule is.
    assert!(!policy.ruleset.print(Family::V6, None).contains("-j CT"));
    let mut forged = policy.clone();
    forged.timeouts.clear();
    assert!(forged.verify().unwrap_err().contains("no time-out policy"));
    let mut forged = policy.clone();
    forged.timeouts[0].tracker = sumun_config::timeout::Tracker::Udp;
    assert!(forged.verify().unwrap_err().contains("cannot be"));
    let mut forged = policy;
    forged.labels[0].bit = 128;
    assert!(forged.verify().is_err());
}

#[test]
fn metrics_are_shown_where_the_section_is() {
    assert_eq!(config("").policy.metrics, None);
    assert_eq!(config("[metrics]\n").policy.metrics, Some(Metrics { port: 9100 }));
    assert_eq!(config("[metrics]\nport = 80\n").policy.metrics, Some(Metrics { port: 80 }));
    let broken = Policy { metrics: Some(Metrics { port: 0 }), ..config("").policy };
    assert_eq!(broken.verify(), Err("metrics cannot be on port 0".to_string()));
}
