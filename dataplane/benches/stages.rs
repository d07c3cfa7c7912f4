//! What each stage of the engine costs by itself, through what is public of it: `cargo bench -p sumun-dataplane --bench stages`, or
//! with `-- routes` behind it for a part.
//!
//! *Hot* is the same few packets or addresses again and again, *random* are many in an order that no cache foresees. Samples have
//! their length from here where the first calls are slow ones, by which it would be chosen. What the stages cost together,
//! with bursts and prefetches, `sumun-bench pipeline` tells.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use etherparse::PacketBuilder;
use ipnet::IpNet;
use std::cell::Cell;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use sumun_config::diag::{Source, render};
use sumun_config::facts::{AddrType, Context, Facts, Family, PortId, Surroundings};
use sumun_config::model::{Checksums, Config, Nexthop, Policy, Route, RouteAction, StaticNeighbour, Sysctl, table};
use sumun_config::rule::{Hook, Table};
use sumun_dataplane::conntrack::{Conntrack, Ct, Tracker};
use sumun_dataplane::engine::program::Program;
use sumun_dataplane::fib::{Fib, Key};
use sumun_dataplane::nat::{Manip, NatRange};
use sumun_dataplane::neigh::{Hop, Neighbours, Resolver};
use sumun_dataplane::packet::checksum::Sum;
use sumun_dataplane::packet::{glance, parse};
use sumun_dataplane::port::Link;

fn main() {
    divan::main();
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);
/// A time, in nanoseconds.
const NOW: u64 = 1_000_000_000;
/// Bytes of the Ethernet header.
const L2: usize = 14;

/// A number for each number, with all bits mixed (SplitMix64).
fn mixed(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One after the other, again and again.
struct Turns<'a, T>(&'a [T], Cell<usize>);

impl<'a, T> Turns<'a, T> {
    fn of(all: &'a [T]) -> Turns<'a, T> {
        Turns(all, Cell::new(0))
    }

    fn next(&self) -> &'a T {
        let at = self.1.get();
        self.1.set(if at + 1 == self.0.len() { 0 } else { at + 1 });
        &self.0[at]
    }
}

/// A UDP packet of 64 bytes on the link (IPv6: 66), from client `n`.
fn frame(family: Family, n: u32) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], MAC);
    let (ports, mut frame) = (1024 + (n % 50_000) as u16, Vec::new());
    let written = match family {
        Family::V4 => {
            let (src, dst) = (Ipv4Addr::from(0x0a00_0002 + n / 7), Ipv4Addr::new(203, 0, 113, 1));
            link.ipv4(src.octets(), dst.octets(), 64).udp(ports, 53).write(&mut frame, &[0x5a; 18])
        }
        Family::V6 => {
            let (src, dst) = (0xfd00 << 112 | u128::from(2 + n / 7), 0x2001_0db8_0002 << 80 | 1);
            link.ipv6(u128::to_be_bytes(src), u128::to_be_bytes(dst), 64).udp(ports, 53).write(&mut frame, &[])
        }
    };
    written.expect("a vector takes all");
    frame
}

/// Its facts and its bytes from the IP header on.
fn packet(family: Family, n: u32) -> (Facts, Vec<u8>) {
    let frame = frame(family, n);
    let mut facts = Facts::blank(family);
    parse::frame_into(&frame, LAN, MAC, &mut facts).unwrap_or_else(|why| panic!("{why:?}"));
    (facts, frame[L2..].to_vec())
}

fn links() -> Vec<Link> {
    let link =
        |name: &str| Link { name: name.into(), mac: MAC, mtu: 1500, checksums: Checksums::AsTheyAre, trunk: None };
    ["lan0", "wan0"].map(link).to_vec()
}

fn config(rules: &str) -> Config {
    let text = format!(
        "[dataplane]\ncores = [0]\n[interfaces.lan0]\naddresses = [\"10.255.255.254/8\", \"fd00::ffff/16\"]\n\
         [interfaces.wan0]\naddresses = [\"203.0.113.2/24\", \"2001:db8:2::2/64\"]\n{rules}"
    );
    let source = Source::new("bench.toml", &text);
    match sumun_config::schema::load(&source) {
        Ok((config, _)) => config,
        Err(mistakes) => panic!("{}", render(&source, &mistakes, false)),
    }
}

mod packets {
    use super::*;

    #[divan::bench(args = Family::ALL)]
    fn parse(bencher: Bencher, family: Family) {
        let frame = frame(family, 0);
        let mut facts = Facts::blank(family);
        bencher.bench_local(|| {
            let l3 = parse::frame_into(black_box(&frame), LAN, MAC, &mut facts).ok();
            black_box(&facts);
            l3
        });
    }

    #[divan::bench(args = Family::ALL)]
    fn glance(bencher: Bencher, family: Family) {
        let (frame, mac, keys) = (frame(family, 0), glance::mac(MAC), [mixed(1), mixed(2)]);
        match family {
            Family::V4 => bencher.bench(|| glance::v4(black_box(&frame), LAN, mac).map(|look| look.hash(&keys))),
            Family::V6 => bencher.bench(|| glance::v6(black_box(&frame), LAN, mac).map(|look| look.hash(&keys))),
        }
    }

    #[divan::bench(args = [20, 40, 60, 576, 1500])]
    fn checksum(bencher: Bencher, len: usize) {
        let bytes: Vec<u8> = (0..len as u64).map(|n| mixed(n) as u8).collect();
        bencher.counter(BytesCount::new(len)).bench(|| Sum::new().native(black_box(&bytes)).fold());
    }
}

mod routes {
    use super::*;

    /// The router's own routes, and so many more with lengths as in BGP. One of these for each.
    fn fib(family: Family, count: usize) -> (Fib, Vec<IpNet>) {
        let mut policy: Policy = config("").policy;
        let mut known = HashSet::with_capacity(count);
        let prefixes = (0u64..).map(|n| prefix(family, mixed(n))).filter(|net| known.insert(*net)).take(count);
        let prefixes: Vec<IpNet> = prefixes.collect();
        policy.routes.extend(prefixes.iter().zip(0u32..).map(|(prefix, n)| {
            let gateway: IpAddr = match family {
                Family::V4 => Ipv4Addr::from(0xcb00_7108 + n % 8).into(),
                Family::V6 => Ipv6Addr::from((0x2001_0db8_0002 << 80) + 8 + u128::from(n % 8)).into(),
            };
            let action = RouteAction::Via(vec![Nexthop { port: WAN, gateway: Some(gateway), weight: 1 }]);
            let prefix = *prefix;
            Route { table: table::MAIN, prefix, action, metric: 0, mtu: None, source: None, tos: 0, realm: 0 }
        }));
        (Fib::build(&policy, &links()), prefixes)
    }

    fn prefix(family: Family, chance: u64) -> IpNet {
        let of = |lengths: &[u8]| lengths[(chance >> 56) as usize % lengths.len()];
        let net = match family {
            Family::V4 => {
                let first = 16 + (chance >> 24) as u32 % 100;
                let addr = Ipv4Addr::from(first << 24 | chance as u32 & 0xff_ffff);
                IpNet::new(addr.into(), of(&[24, 24, 24, 24, 24, 23, 22, 22, 20, 16]))
            }
            Family::V6 => {
                let addr = Ipv6Addr::from(u128::from(0x2a00 << 48 | chance & 0xffff_ffff_ffff) << 64);
                IpNet::new(addr.into(), of(&[48, 48, 48, 44, 40, 36, 32, 29]))
            }
        };
        net.expect("a length of the family").trunc()
    }

    fn lookup(bencher: Bencher, family: Family, count: usize, destinations: usize) {
        let (fib, prefixes) = fib(family, count);
        let key = |n| {
            let chance = mixed(n);
            let dst = match prefixes[chance as usize % prefixes.len()].network() {
                IpAddr::V4(net) => u128::from(u32::from(net) | (chance >> 56) as u32),
                IpAddr::V6(net) => u128::from(net) | u128::from(chance),
            };
            Key { family, src: 0, dst, iif: LAN, mark: 0, tos: 0, hash: 0 }
        };
        let keys: Vec<Key> = (0..destinations as u64).map(key).collect();
        let keys = Turns::of(&keys);
        bencher.bench_local(|| fib.lookup(black_box(keys.next())));
    }

    #[divan::bench(args = [1, 100_000, 1_000_000], sample_size = 10_000)]
    fn ipv4_hot(bencher: Bencher, routes: usize) {
        lookup(bencher, Family::V4, routes, 16);
    }

    #[divan::bench(args = [1, 100_000, 1_000_000], sample_size = 10_000)]
    fn ipv4_random(bencher: Bencher, routes: usize) {
        lookup(bencher, Family::V4, routes, 1 << 20);
    }

    #[divan::bench(args = [1, 100_000, 1_000_000], sample_size = 10_000)]
    fn ipv6_hot(bencher: Bencher, routes: usize) {
        lookup(bencher, Family::V6, routes, 16);
    }

    #[divan::bench(args = [1, 100_000, 1_000_000], sample_size = 10_000)]
    fn ipv6_random(bencher: Bencher, routes: usize) {
        lookup(bencher, Family::V6, routes, 1 << 20);
    }
}

mod flows {
    use super::*;

    /// Where the bench of new flows ends: no more than the table has room for.
    const NEW: u32 = 200_000;

    fn tracker(flows: u32) -> Tracker {
        Tracker::new(Arc::new(Conntrack::new(flows, 1, 1)), 0)
    }

    /// Tracks a packet and lets it leave.
    fn pass(tracker: &mut Tracker, facts: &mut Facts, l3: &[u8], s: &Sysctl) -> Ct {
        let ct = tracker.track(facts, l3, NOW, s).expect("a flow");
        tracker.confirm(ct, facts, NOW).expect("room for it");
        tracker.quiescent(NOW);
        ct
    }

    #[divan::bench(args = [1, 1000, 100_000, 1_000_000], sample_size = 10_000)]
    fn hit(bencher: Bencher, flows: u32) {
        let (mut tracker, s) = (tracker(flows.max(1024)), Sysctl::default());
        // An odd factor leads to all flows before it leads to one again.
        let mut packets: Vec<_> =
            (0..flows).map(|n| packet(Family::V4, n.wrapping_mul(7919) % flows.next_power_of_two())).collect();
        for (facts, l3) in &mut packets {
            pass(&mut tracker, facts, l3, &s);
        }
        let mut at = 0;
        bencher.bench_local(|| {
            at = if at + 1 >= packets.len() { 0 } else { at + 1 };
            let (facts, l3) = &mut packets[at];
            let ct = tracker.track(facts, l3, NOW, &s);
            tracker.quiescent(NOW);
            ct
        });
    }

    #[divan::bench(sample_count = 100, sample_size = 1000)]
    fn new(bencher: Bencher) {
        let (mut tracker, s, n) = (tracker(NEW), Sysctl::default(), Cell::new(0));
        let next = || {
            n.set((n.get() + 1) % NEW);
            packet(Family::V4, n.get())
        };
        bencher.with_inputs(next).bench_local_values(|(mut facts, l3)| pass(&mut tracker, &mut facts, &l3, &s));
    }

    #[divan::bench(args = Family::ALL)]
    fn rewrite(bencher: Bencher, family: Family) {
        let (mut tracker, s) = (tracker(1024), Sysctl::default());
        let (mut facts, l3) = packet(family, 0);
        let Ok(Ct::Flow(flow)) = tracker.track(&mut facts, &l3, NOW, &s) else { panic!("a flow") };
        let own = if family == Family::V4 { 0xcb00_7102 } else { 0x2001_0db8_0002 << 80 | 2 };
        tracker.map(flow, Manip::Src, Some(&NatRange::at(own)), &facts, 1).expect("a free port");
        tracker.confirm(Ct::Flow(flow), &mut facts, NOW).expect("room for it");
        let fresh = || (facts, l3.clone());
        bencher
            .with_inputs(fresh)
            .bench_local_refs(|(facts, l3)| tracker.translate(flow, Hook::Postrouting, l3, facts));
    }
}

mod rules {
    use super::*;

    /// A router of which rules learn nothing.
    struct Nowhere;

    impl Surroundings for Nowhere {
        fn addr_type(&self, _: Family, _: u128, _: PortId) -> AddrType {
            AddrType::Unicast
        }

        fn random(&self) -> u32 {
            1
        }

        fn path_mtu(&self, _: &Facts, _: bool) -> u16 {
            1500
        }

        fn port_address(&self, _: PortId, _: Family, _: u128) -> Option<u128> {
            None
        }
    }

    /// A packet that no rule matches, of mixed rules.
    #[divan::bench(args = [10, 1000, 10_000, 100_000], sample_size = 10_000)]
    fn classify(bencher: Bencher, count: u32) {
        let rule = |n: u32| match n % 3 {
            0 => format!("'-s 172.{}.{}.0/24 -p tcp --dport {}',\n", n >> 8 & 0xff, n & 0xff, n % 60_000 + 1),
            1 => format!("'-p udp --dport {}',\n", 1024 + n % 60_000),
            _ => format!("'-d 198.{}.{}.{}/32',\n", n >> 16, n >> 8 & 0xff, n & 0xff),
        };
        let rules: String = (0..count).map(rule).collect();
        let config = config(&format!("[ipv4.filter.FORWARD]\nrules = [\n{rules}]\n"));
        let program = Program::build(Family::V4, &config.policy.ruleset.families[Family::V4.index()], || 0);
        let chain = program.entry(Table::Filter, Hook::Forward).expect("a chain");
        let start = program.chain(chain).rules.start;
        let packets: Vec<_> = (0..1000).map(|n| packet(Family::V4, n)).collect();
        let packets = Turns::of(&packets);
        bencher.bench_local(|| {
            let (facts, l3) = packets.next();
            let cx = Context { l3, now: NOW, wall: 0, around: &Nowhere, cells: &[] };
            program.find(chain, start, black_box(facts), &cx)
        });
    }
}

mod neighbours {
    use super::*;

    #[divan::bench(args = [1, 1000], sample_size = 10_000)]
    fn lookup(bencher: Bencher, count: u32) {
        let table = Arc::new(Neighbours::new(4096, 1));
        let address = |n: u32| Ipv4Addr::from(0xcb00_7108 + n);
        let known: Vec<_> =
            (0..count).map(|n| StaticNeighbour { port: WAN, address: address(n).into(), mac: MAC }).collect();
        assert_eq!(table.set_static(&known, NOW), 0, "there is room");
        let (mut resolver, s) = (Resolver::<()>::new(table, 0), Sysctl::default());
        let asked: Vec<u128> =
            (0..count).map(|n| u128::from(u32::from(address(mixed(n.into()) as u32 % count)))).collect();
        let asked = Turns::of(&asked);
        let found = resolver.lookup(WAN, Family::V4, asked.0[0], NOW, &s);
        assert!(matches!(found, Hop::Mac(MAC)), "{found:?}");
        bencher.bench_local(|| resolver.lookup(WAN, Family::V4, black_box(*asked.next()), NOW, &s));
    }
}
