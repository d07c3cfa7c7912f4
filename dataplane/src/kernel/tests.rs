//! What the kernel of Linux 6.18 told while `ip` did what stands above each line of `recorded.txt`, and bytes that nobody should send.

use super::decode::{self, Continuity, Message, Source};
use super::news::*;
use super::view::{Follows, Learned, View};
use crate::fib::{self, Change, Entry, Key, LinkState, Out, Own, Table};
use proptest::prelude::*;
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{RoutingRule, RuleIif, gateway_family};

const RECORDED: &str = include_str!("recorded.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hexadecimal")).collect()
}

/// The datagrams that came after a command that begins so.
fn recorded(command: &str) -> Vec<Vec<u8>> {
    let mut lines = RECORDED.lines().skip_while(|line| !line.starts_with(&format!("# {command}")));
    assert!(lines.next().is_some(), "nothing was recorded of {command}");
    lines.take_while(|line| !line.starts_with('#')).map(bytes).collect()
}

fn read(bytes: &[u8], source: Source) -> (Vec<Message>, Continuity) {
    let mut messages = Vec::new();
    let continuity = decode::datagram(bytes, source, |message| messages.push(message));
    (messages, continuity)
}

/// The news of a command, without what does not matter.
fn news(command: &str) -> Vec<News> {
    let news =
        recorded(command).into_iter().flat_map(|bytes| read(&bytes, Source::Events).0).map(|message| match message {
            Message::News(news) => news,
            other => panic!("{command}: {other:?}"),
        });
    news.filter(|news| !matches!(news, News::Other | News::Groups)).collect()
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a network")
}

fn hop(gateway: &str, weight: u16) -> Hop {
    Hop { link: 4, gateway: Some(gateway.parse().expect("an address")), weight, onlink: false }
}

fn route(prefix: &str, kind: Kind) -> Route {
    Route { table: 254, prefix: net(prefix), metric: 0, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 3 }
}

#[test]
fn every_recorded_message_can_be_read() {
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        for message in read(&bytes(line), Source::Events).0 {
            assert!(matches!(message, Message::News(_)), "{message:?}");
        }
    }
}

#[test]
fn routes_are_read_with_all_that_they_say() {
    let full = Route {
        metric: 20,
        mtu: Some(1400),
        realm: 3 << 16 | 7,
        protocol: 12,
        ..route("198.51.100.0/24", Kind::Via(vec![hop("192.0.2.2", 1)]))
    };
    assert_eq!(news("ip route add 198.51.100.0"), [News::Route(How::Alone, full)]);
    let second = Route { metric: 20, ..route("198.51.100.0/24", Kind::Via(vec![hop("192.0.2.3", 1)])) };
    assert_eq!(news("ip route append 198.51.100.0"), [News::Route(How::Last, second)]);
    let onlink = Hop { onlink: true, ..hop("198.18.0.1", 1) };
    let multipath = Route { table: 300, ..route("203.0.113.0/24", Kind::Via(vec![hop("192.0.2.2", 3), onlink])) };
    assert_eq!(news("ip route replace 203.0.113.0"), [News::Route(How::Alone, multipath)]);
    let tos = Route { tos: 0x10, ..route("10.1.0.0/16", Kind::Via(vec![hop("192.0.2.2", 1)])) };
    assert_eq!(news("ip route add 10.1.0.0"), [News::Route(How::Alone, tos)]);
    let refusals = [Kind::Blackhole, Kind::Unreachable, Kind::Prohibit, Kind::Throw];
    let refusals = ["10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16"].iter().zip(refusals);
    let refusals: Vec<News> = refusals.map(|(prefix, kind)| News::Route(How::Alone, route(prefix, kind))).collect();
    assert_eq!(news("ip route add blackhole"), refusals);
}

/// RFC 5549, as BGP without addresses of links makes them.
#[test]
fn ipv6_gateways_of_ipv4_routes_are_read() {
    let several = Kind::Via(vec![hop("fe80::8", 2), hop("192.0.2.2", 1)]);
    assert_eq!(news("ip route add 10.8.0.0"), [News::Route(How::Alone, route("10.8.0.0/16", several))]);
    assert_eq!(news("ip nexthop add id 20"), [News::Nexthop(20, Nexthop::Hop(hop("fe80::20", 1)))]);
    assert_eq!(news("ip route add 10.9.0.0"), [News::Route(How::Alone, route("10.9.0.0/16", Kind::Object(20)))]);
}

#[test]
fn an_address_brings_its_routes() {
    let all = news("ip addr add 192.0.2.1/24");
    assert_eq!(all[0], News::Address(Address { link: 4, net: net("192.0.2.1/24"), is_tentative: false }));
    let source = Some("192.0.2.1".parse().expect("an address"));
    let local = Route { table: 255, protocol: 2, source, ..route("192.0.2.1/32", Kind::Local(4)) };
    assert!(all.contains(&News::Route(How::Alone, local)), "{all:?}");
    let link = Kind::Via(vec![Hop { link: 4, gateway: None, weight: 1, onlink: false }]);
    let connected = Route { protocol: 2, source, ..route("192.0.2.0/24", link) };
    assert!(all.contains(&News::Route(How::Alone, connected)), "{all:?}");
}

#[test]
fn next_hops_of_ipv6_come_all_together_and_go_one_by_one() {
    let with = |gateways: &[&str]| Route {
        metric: 30,
        ..route("2001:db8:3::/48", Kind::Via(gateways.iter().map(|gateway| hop(gateway, 1)).collect()))
    };
    assert_eq!(news("ip -6 route add 2001:db8:3::/48"), [News::Route(How::Alone, with(&["2001:db8::2"]))]);
    let both = with(&["2001:db8::3", "2001:db8::2"]);
    assert_eq!(news("ip -6 route append 2001:db8:3::/48"), [News::Route(How::Last, both)]);
    assert_eq!(news("ip -6 route del 2001:db8:3::/48"), [News::NoRoute(with(&["2001:db8::2"]))]);
}

#[test]
fn what_the_dataplane_cannot_do_is_left_out_with_its_reason() {
    let reason = |command: &str| match &news(command)[..] {
        [News::LeftOut(LeftOut { reason, .. })] => *reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason("ip -6 route add 2001:db8:1::/48 from"), Reason::SourceSpecific);
    assert_eq!(reason("ip rule add oif"), Reason::RuleCondition);
    assert_eq!(reason("ip rule add table main suppress_ifgroup"), Reason::RuleSuppress);
}

#[test]
fn nexthop_objects_are_read() {
    let onlink = Hop { onlink: true, ..hop("192.0.2.6", 1) };
    let all = [
        News::Nexthop(7, Nexthop::Hop(hop("192.0.2.7", 1))),
        News::Nexthop(6, Nexthop::Hop(onlink)),
        News::Nexthop(8, Nexthop::Blackhole),
        News::Nexthop(9, Nexthop::Group(vec![(6, 1), (7, 3)])),
    ];
    let mut told = news("ip nexthop add id 7");
    if let Some(News::Nexthop(9, Nexthop::Group(members))) = told.last_mut() {
        members.sort_unstable();
    }
    assert_eq!(told, all);
    assert_eq!(news("ip nexthop del id 8"), [News::NoNexthop(8)]);
    let routes = [route("10.6.0.0/16", Kind::Object(9)), route("10.7.0.0/16", Kind::Blackhole)];
    assert_eq!(news("ip route add 10.6.0.0/16"), routes.map(|route| News::Route(How::Alone, route)));
}

#[test]
fn rules_are_read() {
    let rule = Rule {
        family: Family::V4,
        priority: 50,
        not: false,
        from: Some(net("192.0.2.0/24")),
        to: None,
        iif: Some("lan0".into()),
        fwmark: Some((0x10, 0xff)),
        tos: Some((0x10, 0x1c)),
        suppress: None,
        action: RuleAction::Lookup(300),
    };
    assert_eq!(news("ip rule add from 192.0.2.0/24"), [News::Rule(rule.clone())]);
    assert_eq!(news("ip rule del pref 50"), [News::NoRule(rule)]);
    let not = match &news("ip rule add not to")[..] {
        [News::Rule(rule)] => rule.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((not.not, not.to, not.action, not.fwmark), (true, Some(net("10.0.0.0/8")), RuleAction::Blackhole, None));
    let tos_and_suppress = |command: &str| match &news(command)[..] {
        [News::Rule(rule)] => (rule.tos, rule.suppress),
        other => panic!("{other:?}"),
    };
    assert_eq!(tos_and_suppress("ip rule add table main suppress_prefixlength 0"), (None, Some(0)));
    assert_eq!(tos_and_suppress("ip rule add dscp 4 "), (Some((0x10, 0xfc)), None));
    assert_eq!(tos_and_suppress("ip rule add dscp 40/0x38"), (Some((0xa0, 0xe0)), None));
}

#[test]
fn neighbours_are_read() {
    let state = NeighbourState::Permanent;
    let mac = Some([2, 0, 0, 0, 0, 9]);
    let neighbour = Neighbour { link: 4, address: "192.0.2.9".parse().expect("an address"), mac, state };
    assert_eq!(news("ip neigh add"), [News::Neighbour(neighbour)]);
    assert!(news("ip neigh del").iter().any(|news| matches!(news, News::NoNeighbour(_))));
}

/// A view of a host whose `lan0` is port 1, and a FIB that follows it.
struct Host {
    view: View,
    table: Table,
}

impl Host {
    fn new() -> Host {
        let links = ["wan0", "lan0"].map(|name| crate::port::Link {
            name: name.into(),
            mac: [2; 6],
            mtu: 1500,
            trunk: None,
            checksums: sumun_config::model::Checksums::AsTheyAre,
        });
        let mut table = Table::new(&links);
        table.from_kernel();
        Host { view: View::new(["wan0", "lan0"].into_iter(), Follows::Routes), table }
    }

    fn does(&mut self, command: &str) -> Vec<Change> {
        news(command).into_iter().for_each(|news| self.view.take(news));
        let changes = self.view.changes();
        self.table.apply(changes.clone());
        changes
    }
}

fn entry(prefix: &str, kind: fib::Kind) -> Entry {
    Entry { table: 254, prefix: net(prefix), metric: 0, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 3 }
}

fn via(gateway: &str, weight: u16, onlink: bool) -> fib::Hop {
    fib::Hop { out: Out::Port(PortId(1)), gateway: Some(gateway.parse().expect("an address")), weight, onlink }
}

#[test]
fn a_view_speaks_of_ports_and_tells_what_is_told_twice_once() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    let (family, addr) = number("192.0.2.1".parse().expect("an address"));
    let own = Change::Address(Own { port: PortId(1), family, addr, prefix: 24 });
    assert!(host.does("ip addr add 192.0.2.1/24").contains(&own));
    assert!(!host.does("ip addr add 192.0.2.1/24").contains(&own));
    let count = host.table.len();
    assert_eq!(count, 3 + 3, "the three of the loopback; connected, local, broadcast");
    let replaced = Change::Replace(Entry {
        metric: 20,
        mtu: Some(1400),
        realm: 3 << 16 | 7,
        protocol: 12,
        ..entry("198.51.100.0/24", fib::Kind::Via(vec![via("192.0.2.2", 1, false)]))
    });
    assert_eq!(host.does("ip route add 198.51.100.0"), [replaced]);
    for _ in 0..2 {
        host.does("ip route append 198.51.100.0");
        host.does("ip -6 route add 2001:db8:3::/48");
        host.does("ip -6 route append 2001:db8:3::/48");
        assert_eq!(host.table.len(), count + 3);
    }
    host.does("ip -6 route del 2001:db8:3::/48");
    assert_eq!(host.table.len(), count + 3, "one next hop is left");
}

#[test]
fn groups_of_nexthop_objects_are_told_as_what_they_are_made_of() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    let changes = host.does("ip nexthop add id 7");
    let Some(Change::Nexthops { id: 9, hops }) = changes.last() else { panic!("{changes:?}") };
    let mut weights: Vec<u16> = hops.iter().map(|hop| hop.weight).collect();
    weights.sort_unstable();
    assert_eq!(weights, [1, 3]);
    host.view.take(News::NoNexthop(7));
    let left = Change::Nexthops { id: 9, hops: vec![via("192.0.2.6", 1, true)] };
    assert_eq!(host.view.changes(), [Change::NoNexthops { id: 7 }, left]);
    assert_eq!(host.view.doubt(), None);
    host.does("ip nexthop add id 7");
    assert!(host.view.doubt().is_some(), "routes over the old one may have been flushed");
}

/// Where an IPv4 packet goes, for hashes over the whole range.
fn gateways(table: &mut Table, to: &str) -> Vec<(Family, u128)> {
    let (family, dst) = number(to.parse().expect("an address"));
    let fib = table.fib();
    let mut found: Vec<(Family, u128)> = (0..8)
        .map(|eighth| Key { family, src: 0, dst, iif: PortId(0), mark: 0, tos: 0, hash: eighth << 29 })
        .filter_map(|key| match fib.lookup(&key) {
            fib::Route::Via { gateway: Some(gateway), .. } => Some((gateway_family(family, gateway), gateway)),
            _ => None,
        })
        .collect();
    found.dedup();
    found
}

#[test]
fn ipv4_packets_go_by_ipv6_gateways_also_after_everything_was_read_again() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    let number = |text: &str| number(text.parse().expect("an address"));
    let several = [number("fe80::8"), number("192.0.2.2")];
    let commands = ["ip nexthop add id 20", "ip route add 10.8.0.0", "ip route add 10.9.0.0"];
    let main = || Change::Rule(RoutingRule::bare(32766, Family::V4, sumun_config::model::RuleAction::Lookup(254)));
    host.table.apply(vec![main()]);
    for command in commands {
        host.does(command);
    }
    assert_eq!(gateways(&mut host.table, "10.8.0.1"), several);
    assert_eq!(gateways(&mut host.table, "10.9.0.1"), [number("fe80::20")]);
    host.table.apply(vec![Change::Forget, main()]);
    assert_eq!(gateways(&mut host.table, "10.8.0.1"), []);
    let mut view = View::new(["wan0", "lan0"].into_iter(), Follows::Routes);
    for bytes in ["ip link set lan0 up"].iter().chain(&commands).flat_map(|command| recorded(command)) {
        for message in read(&bytes, Source::Dump).0 {
            if let Message::News(news) = message {
                view.take(news);
            }
        }
    }
    assert_eq!(host.table.apply(view.changes()), []);
    assert_eq!(gateways(&mut host.table, "10.8.0.1"), several);
    assert_eq!(gateways(&mut host.table, "10.9.0.1"), [number("fe80::20")]);
}

#[test]
fn a_device_that_is_set_down_is_told_and_casts_doubt() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    assert_eq!(host.view.doubt(), None);
    let down = Change::Link { port: PortId(1), state: LinkState::Down };
    assert!(host.does("ip link set lan0 down").contains(&down));
    assert!(host.view.doubt().is_some());
    host.does("ip link del lan0");
    assert!(host.view.device(PortId(1)).is_none());
}

#[test]
fn rules_speak_of_ports_or_are_none_of_ours() {
    let mut host = Host::new();
    let changes = host.does("ip rule add from 192.0.2.0/24");
    let [Change::Rule(RoutingRule { iif, .. })] = changes[..] else { panic!("{changes:?}") };
    assert_eq!(iif, Some(RuleIif::Port(PortId(1))));
    let [Change::Rule(RoutingRule { iif, .. })] = host.does("ip -6 rule add iif lo")[..] else { panic!("a rule") };
    assert_eq!(iif, Some(RuleIif::Local));
    let foreign = |iif: &str| Rule {
        family: Family::V4,
        priority: 1,
        not: false,
        from: None,
        to: None,
        iif: Some(iif.into()),
        fwmark: None,
        tos: None,
        suppress: None,
        action: RuleAction::Lookup(7),
    };
    host.view.take(News::Rule(foreign("docker0")));
    assert_eq!(host.view.changes(), []);
    host.does("ip rule add oif");
    assert_eq!(host.view.left_out().into_iter().collect::<Vec<_>>(), [(Reason::RuleCondition, 1)]);
}

#[test]
fn what_is_not_from_a_device_that_is_no_port_is_every_packet() {
    let mut host = Host::new();
    let rule = Rule {
        family: Family::V4,
        priority: 100,
        not: true,
        from: Some(net("10.0.0.0/8")),
        to: None,
        iif: Some("docker0".into()),
        fwmark: Some((1, 1)),
        tos: None,
        suppress: None,
        action: RuleAction::Lookup(7),
    };
    let all = RoutingRule::bare(100, Family::V4, sumun_config::model::RuleAction::Lookup(7));
    host.view.take(News::Rule(rule.clone()));
    assert_eq!(host.view.changes(), [Change::Rule(all.clone())]);
    host.view.take(News::NoRule(rule));
    assert_eq!(host.view.changes(), [Change::NoRule(all)]);
}

#[test]
fn a_route_in_place_of_another_leaves_those_behind_it() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    let count = host.table.len();
    let route = |last: u8| route("10.0.0.0/8", Kind::Via(vec![hop(&format!("192.0.2.{last}"), 1)]));
    let mut takes = |news: News| {
        host.view.take(news);
        let changes = host.view.changes();
        host.table.apply(changes);
        host.table.len() - count
    };
    assert_eq!(takes(News::Route(How::Alone, route(2))), 1);
    assert_eq!(takes(News::Route(How::Last, route(3))), 2);
    // `ip route replace`: the kernel has 192.0.2.4 now, and 192.0.2.3 behind it.
    assert_eq!(takes(News::Route(How::Instead, route(4))), 2);
    assert_eq!(takes(News::NoRoute(route(4))), 1);
    assert_eq!(takes(News::NoRoute(route(3))), 0);
    // Of IPv6 all next hops go.
    let hops = |last: &[u8]| last.iter().map(|last| hop(&format!("2001:db8::{last}"), 1)).collect();
    let route =
        |last: &[u8]| Route { prefix: net("2001:db8:5::/48"), ..self::route("10.0.0.0/8", Kind::Via(hops(last))) };
    assert_eq!(takes(News::Route(How::Alone, route(&[2]))), 1);
    assert_eq!(takes(News::Route(How::Last, route(&[3]))), 2);
    assert_eq!(takes(News::Route(How::Instead, route(&[4]))), 1);
}

#[test]
fn what_replaces_a_route_that_is_left_out_stands_before_the_others() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    let count = host.table.len();
    let left_out = |tos| LeftOut { what: What::Route(254, net("10.0.0.0/8"), tos, 0), reason: Reason::Encapsulation };
    let via = |gateway: &str| route("10.0.0.0/8", Kind::Via(vec![hop(gateway, 1)]));
    let mut table_after = |news: News| {
        host.view.take(news);
        let changes = host.view.changes();
        host.table.apply(changes);
        (host.table.len() - count, host.view.left_out().len())
    };
    assert_eq!(table_after(News::LeftOut(left_out(0))), (0, 1));
    // `ip route append`: the kernel has both.
    assert_eq!(table_after(News::Route(How::Last, via("192.0.2.2"))), (1, 1));
    // `ip route replace`: of both the first one goes.
    assert_eq!(table_after(News::Route(How::Instead, via("192.0.2.3"))), (2, 0));
    assert_eq!(table_after(News::NoRoute(via("192.0.2.3"))), (1, 0));
    // One for another TOS is not replaced.
    assert_eq!(table_after(News::LeftOut(left_out(0x10))), (1, 1));
    assert_eq!(table_after(News::Route(How::Instead, via("192.0.2.4"))), (1, 1));
}

#[test]
fn a_route_that_is_left_out_takes_the_place_of_the_one_before() {
    let mut host = Host::new();
    host.does("ip link set lan0 up");
    let count = host.table.len();
    host.view.take(News::Route(How::Alone, route("10.0.0.0/8", Kind::Via(vec![hop("192.0.2.2", 1)]))));
    let changes = host.view.changes();
    host.table.apply(changes);
    assert_eq!((host.table.len(), host.view.left_out().len()), (count + 1, 0));
    // `ip route replace 10.0.0.0/8 encap ...` is told with NLM_F_REPLACE in place of NLM_F_EXCL.
    let mut told = recorded("ip route add 10.0.0.0/8 encap").remove(0);
    told[7] = told[7] & !0x02 | 0x01;
    let messages = read(&told, Source::Events).0;
    let [Message::News(news @ News::LeftOutInstead(_))] = &messages[..] else { panic!("{messages:?}") };
    host.view.take(news.clone());
    let changes = host.view.changes();
    host.table.apply(changes);
    assert_eq!(host.table.len(), count, "the router has no route, as it cannot have the kernel's");
    assert_eq!(host.view.left_out().into_iter().collect::<Vec<_>>(), [(Reason::Encapsulation, 1)]);
    // For another TOS it stands beside it.
    host.view.take(News::Route(How::Alone, route("10.0.0.0/8", Kind::Via(vec![hop("192.0.2.2", 1)]))));
    let what = What::Route(254, net("10.0.0.0/8"), 0x10, 0);
    host.view.take(News::LeftOutInstead(LeftOut { what, reason: Reason::Encapsulation }));
    let changes = host.view.changes();
    host.table.apply(changes);
    assert_eq!(host.table.len(), count + 1);
}

#[test]
fn a_port_in_a_vrf_is_bound_to_its_table() {
    let mut host = Host::new();
    let link = |index, name: &str, master, vrf| {
        News::Link(Link { index, name: name.into(), is_up: true, has_carrier: true, mtu: 1500, master, vrf })
    };
    host.view.take(link(4, "lan0", Some(9), None));
    host.view.take(link(9, "blue", None, Some(100)));
    assert!(host.view.changes().contains(&Change::Vrf { port: PortId(1), table: Some(100) }));
    host.view.take(link(4, "lan0", None, None));
    assert_eq!(host.view.changes(), [Change::Vrf { port: PortId(1), table: None }]);
}

#[test]
fn neighbours_of_what_is_no_port_are_none_of_ours() {
    let mut host = Host::new();
    host.does("ip neigh add");
    assert_eq!(host.view.neighbours(), []);
    host.does("ip link set lan0 up");
    host.does("ip neigh add");
    assert!(matches!(host.view.neighbours()[..], [(PortId(1), Learned::Is(_))]));
}

proptest! {
    #[test]
    fn hostile_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes, Source::Dump);
    }

    #[test]
    fn damaged_messages_do_no_harm(at in any::<prop::sample::Index>(), hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let lines: Vec<&str> = RECORDED.lines().filter(|line| !line.starts_with('#') && line.len() < 1000).collect();
        let mut bytes = bytes(lines[at.index(lines.len())]);
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut host = Host::new();
        for source in [Source::Events, Source::Dump] {
            for message in read(&bytes, source).0 {
                if let Message::News(news) = message {
                    host.view.take(news);
                }
            }
            let changes = host.view.changes();
            host.table.apply(changes);
            host.table.fib();
        }
    }
}
