//! A routing table of the size of the Internet's: how long until it is in force, what a change costs after that, and what a
//! lookup costs.
//!
//! Routes come as the mirror of the kernel gives them, in batches, and are in force when [`Router::routes`] returns: workers
//! take them up within a turn. Prefixes have the lengths that BGP tables have, spread over what is routed; they lead to a
//! few next hops. Changes are those of a peer that withdraws or announces, or prefers another next hop.

use crate::HEAP;
use crate::pipeline::{config, links};
use anyhow::{Result, ensure};
use clap::Args;
use ipnet::IpNet;
use serde::Serialize;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;
use sumun_config::facts::{Family, PortId, number};
use sumun_config::model::{RoutesFrom, table};
use sumun_dataplane::engine::Router;
use sumun_dataplane::fib::{Change, Entry, Fib, Hop, Key, Kind, Out};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Routes of IPv4.
    #[arg(long, default_value_t = 1_000_000)]
    ipv4: usize,
    /// Routes of IPv6.
    #[arg(long, default_value_t = 200_000)]
    ipv6: usize,
    /// Single changes, one after the other.
    #[arg(long, default_value_t = 2000)]
    changes: usize,
    /// Changes of a batch.
    #[arg(long, default_value_t = 10_000)]
    batch: usize,
    /// Lookups of each pass.
    #[arg(long, default_value_t = 1 << 20)]
    lookups: usize,
    /// As a JSON object.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    ipv4_routes: usize,
    ipv6_routes: usize,
    load_s: f64,
    held_mb: f64,
    change_median_us: f64,
    change_p99_us: f64,
    batch: usize,
    batch_ms: f64,
    object_us: f64,
    ipv4_random_ns: f64,
    ipv4_hot_ns: f64,
    ipv6_random_ns: f64,
    ipv6_hot_ns: f64,
}

/// Small, fast and the same everywhere (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Lengths of prefixes with their shares of a thousand.
const IPV4_LENGTHS: [(u8, u64); 10] =
    [(24, 600), (22, 120), (23, 105), (21, 50), (20, 45), (19, 27), (18, 15), (17, 9), (16, 15), (14, 14)];
const IPV6_LENGTHS: [(u8, u64); 7] = [(48, 480), (32, 140), (44, 120), (40, 100), (36, 60), (29, 50), (46, 50)];
/// The first 16 bits of what is routed of IPv6.
const IPV6_BLOCKS: [u64; 12] =
    [0x2001, 0x2400, 0x2401, 0x2402, 0x2404, 0x2600, 0x2602, 0x2605, 0x2804, 0x2a00, 0x2a02, 0x2a06];

fn prefix(family: Family, chance: &mut Chance) -> IpNet {
    let lengths: &[(u8, u64)] = if family == Family::V4 { &IPV4_LENGTHS } else { &IPV6_LENGTHS };
    let mut at = chance.below(1000);
    let mut len = lengths[0].0;
    for &(its, share) in lengths {
        if at < share {
            len = its;
            break;
        }
        at -= share;
    }
    let addr = match family {
        Family::V4 => u128::from((1 + chance.below(222)) << 24 | chance.below(1 << 24)),
        Family::V6 => {
            let block = IPV6_BLOCKS[chance.below(IPV6_BLOCKS.len() as u64) as usize];
            // What follows is dense in its upper bits, as registries give it out.
            u128::from(block << 48 | chance.below(1 << 16) << 32 | chance.below(1 << 32)) << 64
        }
    };
    IpNet::new(family.address(addr & family.mask(len)), len).expect("a length of the family")
}

/// Prefixes, each once.
fn prefixes(family: Family, count: usize, chance: &mut Chance) -> Vec<IpNet> {
    let mut known = std::collections::HashSet::with_capacity(count);
    let mut prefixes = Vec::with_capacity(count);
    while prefixes.len() < count {
        let prefix = prefix(family, chance);
        if known.insert(prefix) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

fn route(prefix: IpNet, peer: u64) -> Entry {
    let gateway: IpAddr = match prefix {
        IpNet::V4(_) => format!("203.0.113.{}", 1 + peer).parse(),
        IpNet::V6(_) => format!("2001:db8:2::{}", 1 + peer).parse(),
    }
    .expect("an address");
    let hop = Hop { out: Out::Port(PortId(1)), gateway: Some(gateway), weight: 1, onlink: false };
    let kind = Kind::Via(vec![hop]);
    Entry { table: table::MAIN, prefix, metric: 32, kind, mtu: None, source: None, tos: 0, realm: 0, protocol: 12 }
}

/// Nanoseconds of a lookup, the median of nine passes.
fn lookup(fib: &Fib, destinations: &[(Family, u128)], lookups: usize) -> f64 {
    let pass = || {
        let start = Instant::now();
        for n in 0..lookups {
            let (family, dst) = destinations[n % destinations.len()];
            let key = Key { family, src: 0, dst, iif: PortId(0), mark: 0, tos: 0, hash: 0 };
            black_box(fib.lookup(black_box(&key)));
        }
        start.elapsed().as_nanos() as f64 / lookups as f64
    };
    median((0..9).map(|_| pass()).collect())
}

/// Addresses within the prefixes.
fn destinations(prefixes: &[IpNet], count: usize, chance: &mut Chance) -> Vec<(Family, u128)> {
    let within = |_| {
        let net = prefixes[chance.below(prefixes.len() as u64) as usize];
        let (family, network) = number(net.network());
        let noise = u128::from(chance.next()) << 64 | u128::from(chance.next());
        (family, network | noise & !family.mask(net.prefix_len()) & family.ones())
    };
    (0..count).map(within).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.ipv4 + options.ipv6 > 0 && options.changes > 0, "at least one route and one change");
    let mut chance = Chance(1);
    let v4 = prefixes(Family::V4, options.ipv4, &mut chance);
    let v6 = prefixes(Family::V6, options.ipv6, &mut chance);
    let all: Vec<IpNet> = v4.iter().chain(&v6).copied().collect();

    let mut config = config("", 1 << 10)?;
    config.policy.routes_from = RoutesFrom::Kernel;
    config.policy.routes.clear();
    let router = Router::new(&config.appliance, links(), 1);
    router.publish(config.policy).map_err(anyhow::Error::msg)?;
    let changes: Vec<Change> = all.iter().map(|net| Change::Append(route(*net, chance.below(8)))).collect();
    let before = HEAP.current_usage();
    let start = Instant::now();
    // As a dump comes: many messages at once.
    let mut changes = changes.into_iter().peekable();
    let first: Vec<Change> = changes.by_ref().collect();
    let applied = router.routes(first);
    ensure!(applied.left_out.is_empty(), "{:?}", applied.left_out.first());
    let load_s = start.elapsed().as_secs_f64();
    router.settle();
    let held = HEAP.current_usage().saturating_sub(before);

    let mut times = Vec::with_capacity(options.changes);
    for n in 0..options.changes {
        let net = all[chance.below(all.len() as u64) as usize];
        let change = match n % 3 {
            0 => Change::Remove(Entry { kind: Kind::Via(Vec::new()), ..route(net, 0) }),
            _ => Change::Replace(route(net, chance.below(8))),
        };
        let start = Instant::now();
        router.routes(vec![change]);
        times.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    times.sort_by(f64::total_cmp);
    let (change_median_us, change_p99_us) = (times[times.len() / 2], times[times.len() * 99 / 100]);

    let mut batches = Vec::new();
    for _ in 0..5 {
        let mut one = || {
            let net = all[chance.below(all.len() as u64) as usize];
            Change::Replace(route(net, chance.below(8)))
        };
        let batch: Vec<Change> = (0..options.batch).map(|_| one()).collect();
        let start = Instant::now();
        router.routes(batch);
        batches.push(start.elapsed().as_nanos() as f64 / 1e6);
    }

    // Next hops that many routes share, as FRR sets them.
    let shared = |peer: u64| Change::Nexthops {
        id: 1,
        hops: match route(v4.first().copied().unwrap_or(all[0]), peer).kind {
            Kind::Via(hops) => hops,
            _ => Vec::new(),
        },
    };
    router.routes(vec![shared(0)]);
    let of_object = |net: &IpNet| Change::Replace(Entry { kind: Kind::Object(1), ..route(*net, 0) });
    router.routes(v4.iter().take(options.ipv4 / 2).map(of_object).collect());
    let mut objects = Vec::new();
    for peer in 1..50 {
        let start = Instant::now();
        router.routes(vec![shared(peer % 8)]);
        objects.push(start.elapsed().as_nanos() as f64 / 1e3);
    }

    let fib = router.fib();
    let mut ns = |prefixes: &[IpNet], count: usize| match prefixes.is_empty() {
        true => 0.0,
        false => lookup(&fib, &destinations(prefixes, count, &mut chance), options.lookups),
    };
    let figures = Figures {
        ipv4_routes: options.ipv4,
        ipv6_routes: options.ipv6,
        load_s,
        held_mb: held as f64 / 1e6,
        change_median_us,
        change_p99_us,
        batch: options.batch,
        batch_ms: median(batches),
        object_us: median(objects),
        ipv4_random_ns: ns(&v4, options.lookups),
        ipv4_hot_ns: ns(&v4, 256),
        ipv6_random_ns: ns(&v6, options.lookups),
        ipv6_hot_ns: ns(&v6, 256),
    };
    match options.json {
        true => println!("{}", serde_json::to_string(&figures)?),
        false => print(&figures),
    }
    Ok(())
}

fn print(f: &Figures) {
    println!("{} routes of IPv4 and {} of IPv6, {:.0} MB", f.ipv4_routes, f.ipv6_routes, f.held_mb);
    println!("in force after       {:>10.2} s", f.load_s);
    println!("one change           {:>10.0} us, 99 of 100 below {:.0} us", f.change_median_us, f.change_p99_us);
    println!("{} changes at once {:>8.1} ms", f.batch, f.batch_ms);
    println!("a shared next hop    {:>10.0} us", f.object_us);
    for (family, random, hot) in [("IPv4", f.ipv4_random_ns, f.ipv4_hot_ns), ("IPv6", f.ipv6_random_ns, f.ipv6_hot_ns)]
    {
        println!("a lookup of {family}     {random:>10.1} ns at random, {hot:.1} ns among 256 destinations");
    }
}
