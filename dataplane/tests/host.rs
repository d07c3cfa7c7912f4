//! The host's own stack behind the TAPs: what it sends passes OUTPUT and POSTROUTING, what INPUT lets through goes to it, with
//! the states and counters of the kernel's local traffic.

mod common;

use common::hostile::{RULES, seeds};
use common::*;
use proptest::prelude::*;
use std::sync::Arc;
use sumun_config::facts::{Family, PortId};
use sumun_config::model::{Host, LocalStack, OtherFrames, RoutesFrom, table};
use sumun_dataplane::fib::{Change, Entry, Kind};
use sumun_dataplane::host::exchange::Sent as FromHost;
use sumun_dataplane::host::owner::Owner;
use sumun_dataplane::neigh::ndp::group_mac;
use sumun_dataplane::packet::checksum::Sum;

const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];

/// A router with TAPs on both ports, or on the LAN alone.
struct Site {
    rig: Rig,
}

impl Site {
    fn new(rules: &str) -> Site {
        Site::with(rules, &[LAN, WAN])
    }

    fn with(rules: &str, taps: &[PortId]) -> Site {
        Site::of(Host::default(), rules, taps)
    }

    fn of(host: Host, rules: &str, taps: &[PortId]) -> Site {
        let mut config = config(rules);
        config.appliance.host = Some(host);
        for (number, interface) in config.appliance.interfaces.iter_mut().enumerate() {
            let has = taps.contains(&PortId(number as u16));
            interface.local = if has { LocalStack::Host } else { LocalStack::Smoltcp };
        }
        let mut rig = Rig::on(&config.appliance, config.policy, 1500);
        rig.engine.attach_host();
        Site { rig }
    }

    /// A frame of the host on the TAP of a port, with its next hop's MAC; what leaves.
    fn says_as(&mut self, port: PortId, bytes: &[u8], owner: Option<Owner>) -> Vec<Sent> {
        let mut frame = self.rig.engine.pool().take().expect("a free frame");
        assert!(frame.set(bytes));
        let mut sent = vec![FromHost { port, frame, owner }];
        self.rig.engine.from_host(self.rig.now, &mut sent);
        assert!(sent.is_empty(), "every frame was taken");
        self.rig.wait(0)
    }

    fn says(&mut self, port: PortId, frame: &[u8]) -> Vec<Sent> {
        self.says_as(port, &by_host(frame), None)
    }

    /// What the host hears.
    fn hears(&mut self) -> Vec<Sent> {
        let frames: Vec<_> = self.rig.engine.take_for_host().expect("TAPs").drain(..).collect();
        let pool = self.rig.engine.pool();
        let heard = |(port, frame): (PortId, sumun_dataplane::umem::Frame)| {
            let bytes = frame.bytes().to_vec();
            pool.give(frame);
            (port, bytes)
        };
        frames.into_iter().map(heard).collect()
    }

    /// Nobody but the host gets this frame from outside; what it hears of it.
    fn gets(&mut self, port: PortId, frame: &[u8]) -> Vec<Sent> {
        assert_eq!(self.rig.send(port, frame), []);
        let heard = self.hears();
        self.rig.assert_census();
        heard
    }
}

/// A frame as the host makes it: from the router's MAC to the next hop's.
fn by_host(frame: &[u8]) -> Vec<u8> {
    [&HOST[..], &ROUTER[..], &frame[12..]].concat()
}

fn to(mac: [u8; 6], frame: &[u8]) -> Vec<u8> {
    [&mac[..], &frame[6..]].concat()
}

#[test]
fn a_connection_to_the_host_passes_input_and_its_answers_output() {
    let rules = r#"
[filter.INPUT]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT"]
[filter.OUTPUT]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED -j ACCEPT"]
[mangle.POSTROUTING]
rules = ["-o lan0 -p tcp --sport 22"]
"#;
    for family in Family::ALL {
        let (client, _) = ends(family);
        let (lan, _) = own(family);
        let mut host = Site::new(rules);
        let syn = tcp(family, client, lan, (1000, 22), "S", b"");
        assert_eq!(host.gets(LAN, &syn), [(LAN, syn)], "as it came");
        let answer = tcp(family, lan, client, (22, 1000), "SA", b"");
        assert_eq!(host.says(LAN, &answer), [(LAN, by_host(&answer))], "untouched, to the MAC that the host knows");
        let ack = tcp(family, client, lan, (1000, 22), "A", b"");
        assert_eq!(host.gets(LAN, &ack), [(LAN, ack)]);
        assert_eq!(host.rig.packets(family, "filter.INPUT"), [1, 1, 0]);
        assert_eq!(host.rig.packets(family, "filter.OUTPUT"), [1, 0]);
        assert_eq!(host.rig.packets(family, "mangle.POSTROUTING"), [1, 1]);
        // Another port is none of the host's: it never hears of it.
        assert_eq!(host.gets(LAN, &tcp(family, client, lan, (1000, 23), "S", b"")), []);
        // And it does not speak of itself.
        assert_eq!(host.says(LAN, &udp(family, lan, client, (5, 7), b"new")), []);
        assert_eq!(host.rig.drops(), [("policy-drop", 2)]);
        assert_eq!(host.rig.router.conntrack.count(), 1);
        host.rig.assert_census();
    }
}

#[test]
fn what_nobody_listens_to_is_the_hosts_to_refuse() {
    for family in Family::ALL {
        let (client, _) = ends(family);
        let (lan, wan) = own(family);
        let mut host = Site::with("", &[WAN]);
        // A port without a TAP: to the TAP that has the address; to the router itself where none has it.
        let ping_wan = ping(family, client, wan, 1, b"data");
        assert_eq!(host.gets(LAN, &ping_wan), [(WAN, ping_wan)]);
        let answered = host.rig.send(LAN, &ping(family, client, lan, 1, b"data"));
        assert_eq!((answered.len(), host.hears().len()), (1, 0));
        let both = &mut Site::new("");
        for frame in [ping(family, client, lan, 1, b"x"), udp(family, client, lan, (5, 7), b"x")] {
            assert_eq!(both.gets(LAN, &frame), [(LAN, frame)]);
        }
        assert_eq!(both.rig.drops(), []);
    }
}

#[test]
fn what_the_host_asks_is_answered_and_mapped_where_output_says_so() {
    let rules = r#"
[ipv4.nat.OUTPUT]
rules = ["-p udp --dport 53 -j DNAT --to-destination 192.168.1.9:5353"]
[ipv6.nat.OUTPUT]
rules = ["-p udp --dport 53 -j DNAT --to-destination [fd00:1::9]:5353"]
[filter.OUTPUT]
rules = ["-o wan0 -m conntrack --ctstate NEW"]
[mangle.POSTROUTING]
rules = ["-o lan0 -m conntrack --ctstate DNAT"]
[filter.INPUT]
rules = ["-i lan0 -m conntrack --ctstate ESTABLISHED"]
"#;
    for family in Family::ALL {
        let (client, server) = ends(family);
        let (_, wan) = own(family);
        let mut host = Site::new(rules);
        let sent = host.says(WAN, &udp(family, wan, server, (1000, 53), b"query"));
        assert_eq!(described(&sent), [said(family, "lan0 udp WAN:1000 > CLIENT:5353 ttl 64")]);
        assert_eq!(sent[0].1[..12], [HOST, ROUTER].concat());
        let answer = host.gets(LAN, &udp(family, client, wan, (5353, 1000), b"answer"));
        assert_eq!(described(&answer), [said(family, "lan0 udp SERVER:53 > WAN:1000 ttl 64")]);
        assert_eq!(host.rig.packets(family, "filter.OUTPUT"), [1, 1]);
        assert_eq!(host.rig.packets(family, "mangle.POSTROUTING"), [1, 1]);
        assert_eq!(host.rig.packets(family, "filter.INPUT"), [1, 1]);
        assert_eq!(host.rig.drops(), []);
    }
}

/// Rules that count UDP at every chain by interface, and by state where that is known.
fn counting() -> String {
    let chains = [
        ("raw", &["PREROUTING", "OUTPUT"][..]),
        ("mangle", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
        ("nat", &["PREROUTING", "INPUT", "POSTROUTING"]),
        ("filter", &["INPUT", "OUTPUT"]),
    ];
    let mut text = String::new();
    for (table, chains) in chains {
        for chain in chains {
            let option = if ["PREROUTING", "INPUT"].contains(chain) { "-i" } else { "-o" };
            let rules = ["lo", "wan0"].map(|name| match table {
                "raw" => format!("\"-p udp {option} {name}\""),
                _ => ["NEW", "ESTABLISHED"]
                    .map(|state| format!("\"-p udp {option} {name} -m conntrack --ctstate {state}\""))
                    .join(", "),
            });
            text += &format!("[{table}.{chain}]\nrules = [{}]\n", rules.join(", "));
        }
    }
    text
}

#[test]
fn output_may_lead_to_a_program_on_the_router_which_hears_it_over_lo() {
    let rules = counting()
        + r#"
[ipv4.nat.OUTPUT]
rules = ["-p udp --dport 53 -j REDIRECT --to-ports 5353", "-p udp --dport 54 -j DNAT --to-destination 192.168.1.1"]
[ipv6.nat.OUTPUT]
rules = ["-p udp --dport 53 -j REDIRECT --to-ports 5353", "-p udp --dport 54 -j DNAT --to-destination fd00:1::1"]
"#;
    for family in Family::ALL {
        let (_, server) = ends(family);
        let (lan, wan) = own(family);
        // The host takes nothing for ::1 that comes on a TAP.
        let redirected = if family == Family::V4 { 0x7f00_0001 } else { wan };
        for (asked, to, port) in [(53, redirected, 5353), (54, lan, 54)] {
            let mut host = Site::new(&rules);
            let (name, from) = (family.address(to), said(family, "SERVER"));
            let heard = |host: &mut Site, what: &str| {
                let heard = host.hears();
                assert!(heard.iter().all(|(_, frame)| frame[..12] == [ROUTER, ROUTER].concat()));
                assert_eq!(described(&heard), [said(family, what)]);
            };
            assert_eq!(host.says(WAN, &udp(family, wan, server, (1000, asked), b"query")), []);
            heard(&mut host, &format!("wan0 udp {from}:1000 > {name}:{port} ttl 64"));
            assert_eq!(host.says(WAN, &udp(family, to, server, (port, 1000), b"answer")), []);
            heard(&mut host, &format!("wan0 udp SERVER:{asked} > WAN:1000 ttl 64"));

            // What the kernel counts of the same over its `lo`.
            let counted = |host: &Site, chain: &str| host.rig.packets(family, chain);
            assert_eq!(counted(&host, "raw.PREROUTING"), [2, 0, 2]);
            for chain in ["mangle.PREROUTING", "mangle.INPUT", "mangle.POSTROUTING", "filter.INPUT"] {
                assert_eq!(counted(&host, chain)[..4], [1, 1, 0, 0], "{chain}");
            }
            for chain in ["mangle.OUTPUT", "filter.OUTPUT"] {
                assert_eq!(counted(&host, chain)[..4], [0, 1, 1, 0], "{chain}");
            }
            // By the address alone `lo` is known only once the flow is.
            let raw = if to == 0x7f00_0001 { [1, 1, 2] } else { [0, 2, 2] };
            assert_eq!(counted(&host, "raw.OUTPUT"), raw);
            assert_eq!(counted(&host, "nat.POSTROUTING")[..4], [1, 0, 0, 0]);
            for chain in ["nat.PREROUTING", "nat.INPUT"] {
                assert_eq!(counted(&host, chain)[..4], [0; 4], "{chain}");
            }
            assert_eq!(host.rig.drops(), []);

            // Nobody listens there: the host says so, and hears it from whom it has asked.
            host.rig.now += 40_000_000_000;
            assert_eq!(host.says(WAN, &udp(family, wan, server, (1001, asked), b"query")), []);
            let query = host.hears().remove(0).1;
            let unreachable = if family == Family::V4 { (3, 3) } else { (1, 4) };
            assert_eq!(host.says(WAN, &error(family, to, server, unreachable, &query)), []);
            let about = format!("about udp WAN:1001 > SERVER:{asked} ttl 64");
            assert_eq!(
                told(&host.hears()),
                [said(family, &format!("wan0 ICMP SERVER > WAN PORT-UNREACHABLE ttl 64 {about}"))]
            );
            assert_eq!(host.rig.drops(), []);
            host.rig.assert_census();
        }
    }
}

#[test]
fn input_may_refuse_what_output_leads_to_the_router_itself() {
    let rules = r#"
[nat.OUTPUT]
rules = ["-p tcp --dport 80 -j REDIRECT --to-ports 8080", "-p udp -j REDIRECT --to-ports 9"]
[filter.INPUT]
rules = ["-i lo -p tcp -j REJECT --reject-with tcp-reset", "-i lo -p udp -j REJECT"]
"#;
    for family in Family::ALL {
        let (_, server) = ends(family);
        let (_, wan) = own(family);
        let mut host = Site::new(rules);
        assert_eq!(host.says(WAN, &tcp(family, wan, server, (1000, 80), "S", b"")), []);
        assert_eq!(described(&host.hears()), [said(family, "wan0 tcp SERVER:80 > WAN:1000 AR ttl 64")]);
        assert_eq!(host.says(WAN, &udp(family, wan, server, (5, 7), b"data")), []);
        let about = "about udp WAN:5 > SERVER:7 ttl 64";
        let refused = said(family, &format!("wan0 ICMP SERVER > WAN PORT-UNREACHABLE ttl 64 {about}"));
        assert_eq!(told(&host.hears()), [refused]);
        assert_eq!(host.rig.drops(), [("reject", 2)]);
        host.rig.assert_census();
    }
}

#[test]
fn the_loopbacks_addresses_never_leave_and_nothing_for_them_comes_in() {
    let mut host =
        Site::new("[ipv4.nat.PREROUTING]\nrules = [\"-p udp --dport 7 -j DNAT --to-destination 127.0.0.1\"]");
    let (client, server) = ends(Family::V4);
    let (lan, _) = own(Family::V4);
    let loopback = 0x7f00_0001;
    assert_eq!(host.says(WAN, &udp(Family::V4, loopback, server, (5353, 1000), b"late")), []);
    for (to, ports) in [(loopback, (5, 9)), (lan, (5, 7)), (loopback, (67, 68))] {
        assert_eq!(host.gets(LAN, &udp(Family::V4, client, to, ports, b"data")), [], "{ports:?}");
    }
    assert_eq!(host.hears(), []);
    assert_eq!(host.rig.drops(), [("martian", 4)]);
    // An own address that no TAP has is nobody's.
    let rules = "[ipv4.nat.OUTPUT]\nrules = [\"-p udp -j DNAT --to-destination 192.168.1.1\"]";
    let mut wan_only = Site::with(rules, &[WAN]);
    let (_, wan) = own(Family::V4);
    assert_eq!(wan_only.says(WAN, &udp(Family::V4, wan, server, (5, 7), b"data")), []);
    assert_eq!((wan_only.hears(), wan_only.rig.drops()), (vec![], vec![("no-listener", 1)]));
    wan_only.rig.assert_census();
    host.rig.assert_census();
}

#[test]
fn input_may_change_who_asks_and_the_answer_finds_back() {
    let rules = r#"
[ipv4.nat.INPUT]
rules = ["-p udp -j SNAT --to-source 192.168.1.77"]
[ipv6.nat.INPUT]
rules = ["-p udp -j SNAT --to-source fd00:1::77"]
"#;
    for family in Family::ALL {
        let (client, _) = ends(family);
        let (lan, _) = own(family);
        let other = client - 9 + if family == Family::V4 { 77 } else { 0x77 };
        let mut host = Site::new(rules);
        let heard = host.gets(LAN, &udp(family, client, lan, (1000, 53), b"query"));
        let name = family.address(other);
        assert_eq!(described(&heard), [said(family, &format!("lan0 udp {name}:1000 > LAN:53 ttl 64"))]);
        let sent = host.says(LAN, &udp(family, lan, other, (53, 1000), b"answer"));
        assert_eq!(described(&sent), [said(family, "lan0 udp LAN:53 > CLIENT:1000 ttl 64")]);
        host.rig.assert_census();
    }
}

#[test]
fn refusals_of_output_come_back_to_the_host_from_whom_it_spoke_to() {
    let rules = r#"
[filter.OUTPUT]
rules = ["-p tcp --dport 80 -j REJECT --reject-with tcp-reset", "-p udp --dport 7 -j REJECT"]
"#;
    for family in Family::ALL {
        let (_, server) = ends(family);
        let (_, wan) = own(family);
        for rules in [rules.to_string(), format!("{rules}[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n")] {
            let mut host = Site::new(&rules);
            assert_eq!(host.says(WAN, &tcp(family, wan, server, (1000, 80), "S", b"")), []);
            assert_eq!(described(&host.hears()), [said(family, "wan0 tcp SERVER:80 > WAN:1000 AR ttl 64")]);
            assert_eq!(host.says(WAN, &udp(family, wan, server, (5, 7), b"data")), []);
            let heard = host.hears();
            let about = "about udp WAN:5 > SERVER:7 ttl 64";
            assert_eq!(
                told(&heard),
                [said(family, &format!("wan0 ICMP SERVER > WAN PORT-UNREACHABLE ttl 64 {about}"))]
            );
            assert_eq!(host.rig.drops(), [("reject", 2)]);
            host.rig.assert_census();
        }
    }
}

#[test]
fn a_mark_of_output_finds_another_way_whose_neighbour_the_router_knows() {
    let rules = r#"
[mangle.OUTPUT]
rules = ["-p udp --dport 9 -j MARK --set-mark 7"]
[[rules]]
priority = 100
fwmark = "7"
table = 100
[[routes]]
to = "default"
via = "192.168.1.9"
table = 100
[[routes]]
to = "default"
via = "fd00:1::9"
table = 100
"#;
    let rules =
        rules.replace("[mangle", "[[rules]]\npriority = 100\nfamily = \"ipv6\"\nfwmark = \"7\"\ntable = 100\n[mangle");
    let rules = rules.replacen(
        "fwmark = \"7\"\ntable = 100\n[[routes",
        "fwmark = \"7\"\nfamily = \"ipv4\"\ntable = 100\n[[routes",
        1,
    );
    for family in Family::ALL {
        let (_, server) = ends(family);
        let (_, wan) = own(family);
        let mut host = Site::new(&rules);
        let other = [2, 0, 0, 0, 0, 0x55];
        for (dport, port, mac) in [(8, WAN, other), (9, LAN, HOST)] {
            let frame = to(other, &by_host(&udp(family, wan, server, (5, dport), b"data")));
            assert_eq!(host.says_as(WAN, &frame, None), [(port, to(mac, &frame))], "{dport}");
        }
    }
}

#[test]
fn rules_know_whose_socket_sent_a_packet() {
    let rules = r#"
[filter.OUTPUT]
rules = [
  "-m owner --socket-exists",
  "-m owner --uid-owner 1000 -j DROP",
  "-m owner --gid-owner 7 --suppl-groups",
  "-m owner --gid-owner 5",
]
"#;
    for family in Family::ALL {
        let (_, server) = ends(family);
        let (_, wan) = own(family);
        let mut host = Site::new(rules);
        let frame = by_host(&udp(family, wan, server, (5, 7), b"data"));
        let of = |uid| Some(Owner { uid, gid: 5, groups: Arc::new([7]) });
        assert_eq!(host.says_as(WAN, &frame, of(1000)), []);
        assert_eq!(host.says_as(WAN, &frame, of(1001)).len(), 1);
        assert_eq!(host.says_as(WAN, &frame, None).len(), 1);
        assert_eq!(host.rig.packets(family, "filter.OUTPUT"), [3, 1, 1, 1, 2]);
    }
}

#[test]
fn the_router_answers_arp_for_its_addresses_and_the_host_hears_all_else() {
    let mut host = Site::new("");
    let (client, own) = (0xc0a8_0109, 0xc0a8_0101);
    let answered = host.rig.send(LAN, &arp_request(client, own));
    assert_eq!((described(&answered).join(""), host.hears()), ("lan0 ARP".to_string(), vec![]));
    // A request for another address, a gratuitous one, an answer.
    let mut reply = to(ROUTER, &arp_request(0xc0a8_0150, own));
    reply[21] = 2;
    reply[32..38].copy_from_slice(&ROUTER);
    for frame in [arp_request(client, 0xc0a8_0163), arp_request(client, client), reply] {
        assert_eq!(host.gets(LAN, &frame), [(LAN, frame)]);
    }
    // The host's own go out as they are.
    let mut asks = arp_request(own, 0xc0a8_0150);
    asks[6..12].copy_from_slice(&ROUTER);
    assert_eq!(host.says_as(LAN, &asks, None), [(LAN, asks)]);
    let lldp = [&[1, 0x80, 0xc2, 0, 0, 0xe][..], &ROUTER, &[0x88, 0xcc], &[7; 60]].concat();
    assert_eq!(host.says_as(WAN, &lldp, None), [(WAN, lldp)]);
    assert_eq!(host.rig.drops(), []);
    host.rig.assert_census();
}

#[test]
fn what_is_neither_ip_nor_arp_is_the_hosts_where_it_wants_that() {
    let to_bridges = [1, 0x80, 0xc2, 0, 0];
    let lldp = [&to_bridges[..], &[0xe], &HOST, &[0x88, 0xcc], &[7; 60]].concat();
    let stp = [&to_bridges[..], &[0], &HOST, &[0, 38, 0x42, 0x42, 3], &[0; 35]].concat();
    let all = Host { other_frames: OtherFrames::Tap, ..Host::default() };
    for (host, taps, heard) in
        [(Host::default(), &[LAN, WAN][..], false), (all.clone(), &[WAN], false), (all, &[LAN], true)]
    {
        let mut host = Site::of(host, "[filter.INPUT]\npolicy = \"DROP\"", taps);
        for frame in [&lldp, &stp] {
            let expected = if heard { vec![(LAN, frame.clone())] } else { vec![] };
            assert_eq!(host.gets(LAN, frame), expected);
        }
        assert_eq!(host.rig.drops(), if heard { vec![] } else { vec![("ethertype", 2)] });
        assert_eq!(host.rig.router.stats[0].delivered.get(), if heard { 2 } else { 0 });
    }
}

/// A message of neighbour discovery.
fn discovery(kind: u8, from: u128, target: u128, to: u128, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.to_be_bytes());
    let sum = Sum::new().pseudo(from, to, 58, message.len()).bytes(&message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&mac[..], &HOST, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]].concat();
    frame.extend(from.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend(message);
    frame
}

#[test]
fn solicitations_for_the_routers_addresses_are_answered_and_the_host_hears_of_all_other_discovery() {
    let (client, _) = ends(Family::V6);
    let (lan, _) = own(Family::V6);
    let all_nodes = 0xff02 << 112 | 1;
    let all_routers = 0xff02 << 112 | 2;
    let rules = "[filter.INPUT]\nrules = [\"-p icmpv6 --icmpv6-type 134 -j DROP\"]";
    let mut host = Site::new(&rules.replace("filter", "ipv6.filter"));
    let asked = discovery(135, client, lan, lan, ROUTER);
    let answered = host.rig.send(LAN, &asked);
    assert_eq!((answered.len(), host.hears()), (1, vec![]));
    let link = 0xfe80 << 112 | 9;
    for frame in [
        discovery(136, client, client, lan, ROUTER),
        discovery(135, client, lan + 5, lan, ROUTER),
        discovery(133, link, 0, all_routers, group_mac(all_routers)),
        discovery(137, link, client, lan, ROUTER),
    ] {
        assert_eq!(host.gets(LAN, &frame), [(LAN, frame.clone())], "{}", frame[54]);
    }
    assert_eq!(host.gets(LAN, &discovery(134, link, 0, all_nodes, group_mac(all_nodes))), [], "INPUT comes first");
    // What the host says goes out.
    let asks = to(group_mac(client), &discovery(135, lan, client, client, HOST));
    let asks = [&asks[..6], &ROUTER, &asks[12..]].concat();
    assert_eq!(host.says_as(LAN, &asks, None), [(LAN, asks)]);
    assert_eq!(host.rig.drops(), [("rule-drop", 1)]);
}

#[test]
fn groups_and_broadcasts_go_both_ways_by_their_macs() {
    let mut host = Site::new("[mangle.OUTPUT]\nrules = [\"-j MARK --set-mark 1\"]");
    let everybody = [0xff; 6];
    // A host without an address, and what it is offered: to all, or to the address that it does not have yet.
    let discover = to(everybody, &by_host(&udp(Family::V4, 0, 0xffff_ffff, (68, 67), b"discover")));
    assert_eq!(host.says_as(WAN, &discover, None), [(WAN, discover)]);
    let offer = to(everybody, &udp(Family::V4, 0xcb00_7109, 0xffff_ffff, (67, 68), b"offer"));
    assert_eq!(host.gets(WAN, &offer), [(WAN, offer)]);
    for address in [0xcb00_7163, 0x0a00_0001] {
        let offer = udp(Family::V4, 0xcb00_7109, address, (67, 68), b"offer");
        assert_eq!(host.gets(WAN, &offer), [(WAN, offer)]);
    }
    // A lease that somebody behind the router renews passes.
    let renewed = udp(Family::V4, 0xcb00_7109, 0xc0a8_0109, (67, 68), b"ack");
    assert_eq!(host.rig.send(WAN, &renewed).len(), 1);
    assert_eq!(host.hears(), []);
    let hello = to(GROUP, &by_host(&udp(Family::V4, 0xcb00_7102, 0xe000_0005, (5, 5), b"hello")));
    assert_eq!(host.says_as(WAN, &hello, None), [(WAN, hello)]);
    let all = to([1, 0, 0x5e, 0, 0, 1], &udp(Family::V4, 0xcb00_7109, 0xe000_0001, (5, 5), b"all"));
    assert_eq!(host.gets(WAN, &all), [(WAN, all)]);
    let nodes = 0xff02 << 112 | 1;
    let all = to(group_mac(nodes), &udp(Family::V6, 0xfe80 << 112 | 9, nodes, (5, 5), b"all"));
    assert_eq!(host.gets(WAN, &all), [(WAN, all)]);
    assert_eq!(host.rig.drops(), []);
    host.rig.assert_census();
}

#[test]
fn fragments_are_gathered_for_the_hooks_and_fit_the_link_behind_them() {
    let rules = "[filter.INPUT]\nrules = [\"-m length --length 2000:3000\"]\n[filter.OUTPUT]\nrules = [\"-m length --length 2000:3000\"]";
    for family in Family::ALL {
        let (client, _) = ends(family);
        let (lan, _) = own(family);
        let mut host = Site::new(rules);
        let [first, last] = halves(&ping(family, client, lan, 1, &[7; 2000]));
        assert_eq!(host.gets(LAN, &first), []);
        let heard = host.gets(LAN, &last);
        assert_eq!(heard.len(), 2, "in two pieces");
        assert!(heard.iter().all(|(port, frame)| *port == LAN && frame.len() <= 1514 && frame[..6] == ROUTER));
        let counted = if family == Family::V4 { [1, 1] } else { [0, 2] };
        assert_eq!(host.rig.packets(family, "filter.INPUT"), counted, "IPv6 gathers behind INPUT");
        let [first, last] = halves(&ping(family, lan, client, 1, &[7; 2000]));
        assert_eq!(host.says(LAN, &first), []);
        let sent = host.says(LAN, &last);
        // Fragments of IPv6 get another identification when they are made anew.
        let plain = |frame: &[u8]| {
            let mut frame = frame.to_vec();
            if family == Family::V6 {
                frame[14 + 40 + 4..][..4].fill(0);
            }
            (LAN, frame)
        };
        let sent: Vec<_> = sent.iter().map(|(port, frame)| (*port, plain(frame).1)).collect();
        assert_eq!(sent, [plain(&by_host(&first)), plain(&by_host(&last))]);
        assert_eq!(host.rig.packets(family, "filter.OUTPUT"), [1, 1]);
        host.rig.assert_census();
    }
}

#[test]
fn frames_that_packets_are_put_together_in_stay_with_the_worker() {
    // An MTU above a frame's size, and no jumbo frame left.
    let mut config = config("");
    config.appliance.host = Some(Host::default());
    for interface in &mut config.appliance.interfaces {
        interface.local = LocalStack::Host;
    }
    let mut host = Site { rig: Rig::on(&config.appliance, config.policy, 4000) };
    host.rig.engine.attach_host();
    let (_, server) = ends(Family::V4);
    let [first, last] = halves(&ping(Family::V4, server, own(Family::V4).1, 1, &[7; 2400]));
    assert_eq!(host.gets(WAN, &first), []);
    assert_eq!(host.rig.send(WAN, &last), []);
    assert_eq!(host.hears(), []);
    assert_eq!(host.rig.drops(), [("host-queue", 1)]);
}

#[test]
fn output_may_lead_to_an_address_of_the_hosts_lo() {
    const ON_LO: u128 = 0x0aff_0001;
    let mut config =
        config("[nat.OUTPUT]\nrules = [\"-4 -p udp --dport 53 -j DNAT --to-destination 10.255.0.1:5353\"]\n");
    config.policy.routes_from = RoutesFrom::Kernel;
    config.policy.neighbours.clear();
    config.appliance.host = Some(Host::default());
    for interface in &mut config.appliance.interfaces {
        interface.local = LocalStack::Host;
    }
    let mut host = Site { rig: Rig::on(&config.appliance, config.policy, 1500) };
    host.rig.engine.attach_host();
    let (prefix, kind) = ("10.255.0.1/32".parse().unwrap(), Kind::Local(PortId::NONE));
    let local =
        Entry { table: table::LOCAL, prefix, metric: 0, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 2 };
    assert_eq!(host.rig.router.routes(vec![Change::Append(local)]).left_out, []);
    let (_, server) = ends(Family::V4);
    assert_eq!(host.says(WAN, &udp(Family::V4, own(Family::V4).1, server, (1000, 53), b"query")), []);
    assert_eq!(host.rig.drops(), []);
    assert_eq!(described(&host.hears()), ["wan0 udp 203.0.113.9:1000 > 10.255.0.1:5353 ttl 64"]);
    assert_eq!(host.says(WAN, &udp(Family::V4, ON_LO, server, (5353, 1000), b"answer")), []);
    assert_eq!(described(&host.hears()), ["wan0 udp 203.0.113.9:53 > 203.0.113.2:1000 ttl 64"]);
}

#[test]
fn where_nobody_serves_taps_what_is_for_the_host_ends_as_delivered() {
    let mut host = Site::new("");
    let (client, _) = ends(Family::V4);
    let (lan, _) = own(Family::V4);
    let mut config = config("");
    config.appliance.host = Some(Host::default());
    config.appliance.interfaces.iter_mut().for_each(|interface| interface.local = LocalStack::Host);
    let mut rig = Rig::on(&config.appliance, config.policy, 1500);
    assert_eq!(rig.send(LAN, &ping(Family::V4, client, lan, 1, b"data")), []);
    assert!(rig.engine.take_for_host().is_none());
    assert_eq!(rig.router.stats[0].delivered.get(), 1);
    rig.assert_census();
    host.rig.assert_census();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_of_the_host_make_the_engine_panic_or_lose_a_frame(
        frames in prop::collection::vec(
            (prop::sample::select(seeds()), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
             any::<bool>(), any::<bool>()),
            1..50,
        )
    ) {
        let mut host = Site::new(RULES);
        for (mut frame, changes, from_host, on_lan) in frames {
            for (at, byte) in changes {
                if frame.len() > 12 {
                    let at = 12 + at.index(frame.len() - 12);
                    frame[at] = byte;
                }
            }
            let port = if on_lan { LAN } else { WAN };
            match from_host {
                true => { host.says_as(port, &frame, None); }
                false => { host.rig.send(port, &frame); }
            }
            host.hears();
            host.rig.now += 50_000_000;
            host.rig.assert_census();
        }
        for patience in [0, 60_000_000_000] {
            host.rig.wait(patience);
            for _ in 0..40 {
                host.rig.wait(500_000_000);
                host.hears();
            }
        }
        host.rig.assert_census();
        prop_assert_eq!(host.rig.engine.held(), 0);
    }
}
