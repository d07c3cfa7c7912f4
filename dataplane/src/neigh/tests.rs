//! The resolver and the table by explicit times, against the kernel's state machine.

use super::*;
use crate::fib::Fib;
use crate::port::Link;
use std::sync::Arc;
use sumun_config::model::{
    Checksums, Policy, PortSettings, RoutingRule, RpFilter, RuleAction, StaticNeighbour, Sysctl, table,
};
use sumun_config::ruleset::Ruleset;

pub const LAN: PortId = PortId(0);
pub const WAN: PortId = PortId(1);

/// A router with 10.0.0.1/24 and 2001:db8::1/64 on LAN, 192.0.2.1/31 and 2001:db8:1::1/64 on WAN with a strict filter.
pub fn fib() -> Fib {
    let addresses = [["10.0.0.1/24", "2001:db8::1/64"], ["192.0.2.1/31", "2001:db8:1::1/64"]];
    let settings = |(list, rp_filter): ([&str; 2], RpFilter)| PortSettings {
        addresses: list.iter().map(|text| text.parse().unwrap()).collect(),
        rp_filter,
        ..Default::default()
    };
    let rule = |(family, priority, table)| RoutingRule::bare(priority, family, RuleAction::Lookup(table));
    let rules = Family::ALL.into_iter().flat_map(|f| [(f, 0, table::LOCAL), (f, 32766, table::MAIN)]);
    let policy = Policy {
        ports: vec!["lan".into(), "wan".into()],
        port_settings: addresses.into_iter().zip([RpFilter::Off, RpFilter::Strict]).map(settings).collect(),
        neighbours: Vec::new(),
        routes_from: Default::default(),
        vrfs: Vec::new(),
        routes: Vec::new(),
        rules: rules.map(rule).collect(),
        sysctl: Sysctl::default(),
        timeouts: Vec::new(),
        labels: Vec::new(),
        sets: Vec::new(),
        fingerprints: Vec::new(),
        accounts: Vec::new(),
        metrics: None,
        ruleset: Ruleset::empty(sumun_config::rule::Policy::Accept),
    };
    let link = |(i, name): (u8, &str)| Link {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, i],
        mtu: 1500,
        checksums: Checksums::AsTheyAre,
        trunk: None,
    };
    Fib::build(&policy, &[(0, "lan"), (1, "wan")].map(link))
}

const MS: u64 = 1_000_000;
const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A worker with packets that are numbers, its clock in milliseconds, and what it was told to do.
struct Bench {
    resolver: Resolver<u32>,
    s: Sysctl,
    now: u64,
}

impl Bench {
    fn new(most: u32) -> Bench {
        Bench::beside(Arc::new(Neighbours::new(most, 7)), 0)
    }

    fn beside(table: Arc<Neighbours>, worker: usize) -> Bench {
        Bench { resolver: Resolver::with_held(table, worker, 8), s: Sysctl::default(), now: 1000 * MS }
    }

    fn lookup(&mut self, addr: u128) -> Hop {
        self.resolver.lookup(LAN, Family::V6, addr, self.now, &self.s)
    }

    fn wait(&mut self, addr: u128) -> NeighId {
        match self.lookup(addr) {
            Hop::Wait(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&mut self, id: NeighId, packet: u32) -> Result<(), u32> {
        self.resolver.hold(id, packet, &self.s)
    }

    /// Events of the time from now until `ms` later, polled every 10 ms, in words with their times relative to the start.
    fn run(&mut self, ms: u64) -> Vec<String> {
        let start = self.now;
        let mut events = Vec::new();
        loop {
            let at = (self.now - start) / MS;
            self.resolver.poll(self.now, &self.s, &mut |event| {
                events.push(match event {
                    Event::Solicit { target, unicast: None, .. } => format!("{at} ask {target}"),
                    Event::Solicit { target, unicast: Some(mac), .. } => format!("{at} probe {target} {:x}", mac[5]),
                    Event::Ready { packet, mac } => format!("{at} ready {packet} {:x}", mac[5]),
                    Event::Failed { packet } => format!("{at} failed {packet}"),
                })
            });
            if self.now - start >= ms * MS {
                return events;
            }
            self.now += 10 * MS;
        }
    }

    fn learn(&mut self, addr: u128, mac: Option<[u8; 6]>, confirms: bool, replaces: Replaces, creates: bool) {
        let learned =
            Learned { port: LAN, family: Family::V6, addr, mac, confirms, replaces, creates, router: Some(false) };
        self.resolver.learn(&learned, self.now, &self.s);
    }

    /// A solicited advertisement with the override flag.
    fn answer(&mut self, addr: u128, mac: [u8; 6]) {
        self.learn(addr, Some(mac), true, Replaces::Always, false);
    }

    /// A solicitation for us.
    fn hear(&mut self, addr: u128, mac: [u8; 6]) {
        self.learn(addr, Some(mac), false, Replaces::Always, true);
    }

    fn state(&self, addr: u128) -> Option<State> {
        self.resolver.table().list(self.now).into_iter().find(|n| n.addr == addr).map(|n| n.state)
    }
}

#[test]
fn an_unknown_neighbour_is_asked_three_times_and_then_failed() {
    let mut bench = Bench::new(16);
    let id = bench.wait(1);
    assert_eq!(bench.hold(id, 100), Ok(()));
    assert_eq!(bench.lookup(1), Hop::Wait(id));
    assert_eq!(bench.run(4000), ["0 ask 1", "1000 ask 1", "2000 ask 1", "3000 failed 100"]);
    assert_eq!(bench.state(1), Some(State::Failed));
    // The next packet starts anew, as in the kernel.
    let id = bench.wait(1);
    assert_eq!(bench.hold(id, 101), Ok(()));
    assert_eq!(bench.run(500), ["0 ask 1"]);
    bench.answer(1, A);
    assert_eq!(bench.run(0), ["0 ready 101 a"]);
}

#[test]
fn packets_go_in_order_when_the_answer_comes() {
    let mut bench = Bench::new(16);
    let id = bench.wait(1);
    for packet in 0..3 {
        assert_eq!(bench.hold(id, packet), Ok(()));
    }
    assert_eq!(bench.run(20), ["0 ask 1"]);
    bench.answer(1, A);
    assert_eq!(bench.lookup(1), Hop::Mac(A));
    assert_eq!(bench.run(2000), ["0 ready 0 a", "0 ready 1 a", "0 ready 2 a"]);
    assert_eq!(bench.state(1), Some(State::Reachable));
    assert_eq!(bench.resolver.held(), 0);
}

#[test]
fn another_workers_resolution_frees_held_packets() {
    let mut one = Bench::new(16);
    let mut two = Bench::beside(one.resolver.table().clone(), 1);
    let id = one.wait(1);
    assert_eq!(two.lookup(1), Hop::Wait(id));
    assert_eq!(two.hold(id, 7), Ok(()));
    assert_eq!(two.run(100), Vec::<String>::new(), "who began it asks");
    assert_eq!(one.run(100), ["0 ask 1"]);
    one.answer(1, A);
    assert_eq!(two.run(0), ["0 ready 7 a"]);
    let id = two.wait(2);
    assert_eq!(one.wait(2), id);
    assert_eq!(one.hold(id, 8), Ok(()));
    assert_eq!(two.run(3500).len(), 3);
    assert_eq!(one.run(10), ["0 failed 8"]);
}

#[test]
fn a_stale_neighbour_in_use_is_probed_and_fails_without_an_answer() {
    let mut bench = Bench::new(16);
    bench.hear(1, A);
    assert_eq!(bench.state(1), Some(State::Stale));
    assert_eq!(bench.run(6000), Vec::<String>::new(), "nobody uses it, nobody probes it");
    assert_eq!(bench.lookup(1), Hop::Mac(A));
    assert_eq!(bench.state(1), Some(State::Delay));
    assert_eq!(bench.run(5500), ["5000 probe 1 a"]);
    assert_eq!((bench.state(1), bench.lookup(1)), (Some(State::Probe), Hop::Mac(A)));
    assert_eq!(bench.run(3000), ["500 probe 1 a", "1500 probe 1 a"]);
    assert_eq!(bench.state(1), Some(State::Failed));
}

#[test]
fn a_probe_that_is_answered_makes_the_neighbour_reachable_again() {
    let mut bench = Bench::new(16);
    bench.hear(1, A);
    bench.lookup(1);
    assert_eq!(bench.run(5100), ["5000 probe 1 a"]);
    bench.learn(1, None, true, Replaces::Never, false);
    assert_eq!(bench.state(1), Some(State::Reachable));
    assert_eq!(bench.run(10_000), Vec::<String>::new());
}

#[test]
fn reachability_ends_between_half_and_one_and_a_half_of_the_base_time() {
    let mut bench = Bench::new(256);
    for addr in 1..=100 {
        bench.hear(addr, A);
        bench.answer(addr, A);
    }
    bench.now += 14_999 * MS;
    let reachable = |bench: &Bench| (1..=100).filter(|&a| bench.state(a) == Some(State::Reachable)).count();
    assert_eq!(reachable(&bench), 100);
    bench.now += 15_000 * MS;
    assert!((30..70).contains(&reachable(&bench)));
    bench.now += 15_001 * MS;
    assert_eq!(reachable(&bench), 0);
    assert_eq!(bench.lookup(1), Hop::Mac(A));
    assert_eq!(bench.state(1), Some(State::Delay));
}

/// RFC 4861 section 7.2.5 and `neigh_update`: state before, message, state and MAC after.
#[test]
fn advertisements_change_states_as_the_kernel_does() {
    use Replaces::{Always, Never, Settled};
    let reachable = |bench: &mut Bench| {
        bench.hear(1, A);
        bench.answer(1, A);
    };
    let stale = |bench: &mut Bench| bench.hear(1, A);
    type Before<'a> = &'a dyn Fn(&mut Bench);
    type Message = (Option<[u8; 6]>, bool, Replaces);
    let cases: [(&str, Before, Message, State, [u8; 6]); 11] = [
        ("same, unsolicited", &reachable, (Some(A), false, Always), State::Reachable, A),
        ("other, unsolicited, override", &reachable, (Some(B), false, Always), State::Stale, B),
        ("other, solicited, override", &reachable, (Some(B), true, Always), State::Reachable, B),
        ("other, no override: doubt", &reachable, (Some(B), false, Never), State::Stale, A),
        ("other, solicited, no override: doubt", &reachable, (Some(B), true, Never), State::Stale, A),
        ("stale, other, no override: nothing", &stale, (Some(B), true, Never), State::Stale, A),
        ("stale, same, solicited", &stale, (Some(A), true, Never), State::Reachable, A),
        ("stale, no MAC, solicited", &stale, (None, true, Never), State::Reachable, A),
        ("stale, no MAC, unsolicited", &stale, (None, false, Never), State::Stale, A),
        ("within the lock time", &reachable, (Some(B), true, Settled), State::Reachable, A),
        ("stale, other, override", &stale, (Some(B), true, Always), State::Reachable, B),
    ];
    for (what, before, (mac, confirms, replaces), state, known) in cases {
        let mut bench = Bench::new(4);
        before(&mut bench);
        bench.learn(1, mac, confirms, replaces, false);
        assert_eq!(bench.state(1), Some(state), "{what}");
        assert_eq!(bench.lookup(1), Hop::Mac(known), "{what}");
    }
    let mut bench = Bench::new(4);
    reachable(&mut bench);
    bench.now += 1001 * MS;
    bench.learn(1, Some(B), true, Settled, false);
    assert_eq!(bench.lookup(1), Hop::Mac(B), "after the lock time");
    bench.learn(2, Some(B), true, Always, false);
    assert_eq!(bench.state(2), None, "strangers are not added");
}

#[test]
fn failed_neighbours_are_revived_by_arp_and_by_solicitations_only() {
    for (family, creates, expected) in [
        (Family::V4, false, State::Reachable),
        (Family::V6, false, State::Failed),
        (Family::V6, true, State::Reachable),
    ] {
        let mut bench = Bench::new(4);
        bench.resolver.lookup(LAN, family, 1, bench.now, &bench.s);
        bench.run(3500);
        assert_eq!(bench.state(1), Some(State::Failed));
        let learned = Learned {
            port: LAN,
            family,
            addr: 1,
            mac: Some(A),
            confirms: true,
            replaces: Replaces::Always,
            creates,
            router: None,
        };
        bench.resolver.learn(&learned, bench.now, &bench.s);
        assert_eq!(bench.state(1), Some(expected), "{family:?} {creates}");
    }
}

#[test]
fn held_packets_are_bounded_for_each_and_in_total() {
    let mut bench = Bench::new(16);
    bench.s.neigh_unres_qlen = 3;
    let (one, two, three) = (bench.wait(1), bench.wait(2), bench.wait(3));
    assert_eq!(
        (0..5).map(|packet| bench.hold(one, packet)).collect::<Vec<_>>(),
        [Ok(()), Ok(()), Ok(()), Err(0), Err(1)]
    );
    for packet in 10..13 {
        assert_eq!(bench.hold(two, packet), Ok(()));
    }
    assert_eq!([20, 21].map(|packet| bench.hold(three, packet)), [Ok(()), Ok(())]);
    assert_eq!(bench.hold(three, 22), Err(2), "eight in total: the oldest of all goes");
    assert_eq!(bench.hold(three, 23), Err(20));
    assert_eq!(bench.resolver.held(), 8);
    bench.answer(2, B);
    let expected = ["0 ask 1", "0 ask 3", "0 ready 10 b", "0 ready 11 b", "0 ready 12 b"];
    assert_eq!(bench.run(0), expected, "what is known by now is not asked for");
    bench.s.neigh_unres_qlen = 0;
    assert_eq!(bench.hold(one, 99), Err(99));
}

#[test]
fn configured_neighbours_stand_above_messages() {
    let mut bench = Bench::new(4);
    let fixed = |last: u16, mac| StaticNeighbour {
        port: LAN,
        address: std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, last).into(),
        mac,
    };
    let id = bench.wait(1);
    assert_eq!(bench.hold(id, 5), Ok(()));
    assert_eq!(bench.resolver.table().set_static(&[fixed(1, A), fixed(2, A)], bench.now), 0);
    assert_eq!(bench.run(0), ["0 ready 5 a"]);
    bench.answer(1, B);
    bench.now += 1_000_000 * MS;
    assert_eq!([1, 2].map(|addr| bench.lookup(addr)), [Hop::Mac(A); 2]);
    assert_eq!(bench.run(10_000), Vec::<String>::new());
    let generation = bench.resolver.table().generation();
    assert_eq!(bench.resolver.table().set_static(&[fixed(2, B)], bench.now), 0);
    assert_ne!(bench.resolver.table().generation(), generation);
    assert_eq!((bench.state(1), bench.lookup(2)), (None, Hop::Mac(B)));
    let many: Vec<_> = (1..=6).map(|last| fixed(last, A)).collect();
    assert_eq!(bench.resolver.table().set_static(&many, bench.now), 2);
}

#[test]
fn what_is_not_used_is_forgotten() {
    let mut bench = Bench::new(16);
    bench.hear(1, A);
    bench.wait(2);
    bench.run(50_000);
    assert_eq!([1, 2].map(|addr| bench.state(addr)), [Some(State::Stale), Some(State::Failed)]);
    bench.run(20_000);
    assert_eq!([1, 2].map(|addr| bench.state(addr)), [None, None]);
    assert_eq!(bench.resolver.next_deadline(bench.now), u64::MAX);
}

#[test]
fn a_full_table_gives_up_failed_ones_then_stale_ones_and_no_others() {
    let mut bench = Bench::new(4);
    for addr in 1..=4 {
        bench.hear(addr, A);
        bench.now += MS;
    }
    bench.answer(1, A);
    bench.answer(2, A);
    bench.wait(9);
    assert_eq!(bench.state(3), None, "the longest unused of the stale ones");
    bench.run(3500);
    assert_eq!(bench.state(9), Some(State::Failed));
    bench.wait(10);
    assert_eq!((bench.state(9), bench.state(4)), (None, Some(State::Stale)));
    bench.answer(10, A);
    bench.answer(4, A);
    assert_eq!(bench.lookup(11), Hop::Full);
    for addr in [1, 2, 4, 10] {
        assert_eq!(bench.lookup(addr), Hop::Mac(A), "{addr}");
    }
}

#[test]
fn a_scan_leaves_neighbours_in_use_alone_and_asks_at_a_bounded_rate() {
    let mut bench = Bench::new(64);
    for addr in 1..=20 {
        bench.hear(addr, A);
        bench.answer(addr, A);
    }
    let mut asked = 0;
    let mut dropped = 0;
    // Four seconds of a thousand new addresses a second, each with a packet.
    for n in 0..4000u128 {
        match bench.lookup(1 << 64 | n) {
            Hop::Wait(id) => dropped += bench.hold(id, n as u32).is_err() as usize,
            Hop::Full => dropped += 1,
            other => panic!("{other:?}"),
        }
        bench.now += MS;
        bench.resolver.poll(bench.now, &bench.s, &mut |event| match event {
            Event::Solicit { .. } => asked += 1,
            Event::Failed { .. } => dropped += 1,
            Event::Ready { .. } => panic!("nobody answers"),
        });
        assert!(bench.resolver.held() <= 8);
    }
    assert_eq!(dropped + bench.resolver.held(), 4000);
    assert!(asked <= 32 * 5, "{asked}");
    for addr in 1..=20 {
        assert_eq!(bench.state(addr), Some(State::Reachable));
    }
    bench.hear(50, B);
    assert_eq!(bench.lookup(50), Hop::Mac(B), "who speaks to the router finds room");
}

#[test]
fn the_same_address_on_another_port_or_family_is_another_neighbour() {
    let mut bench = Bench::new(16);
    bench.hear(1, A);
    assert_eq!(bench.lookup(1), Hop::Mac(A));
    for (port, family) in [(WAN, Family::V6), (LAN, Family::V4)] {
        assert!(matches!(bench.resolver.lookup(port, family, 1, bench.now, &bench.s), Hop::Wait(_)));
    }
}

/// Readers on other threads while entries come, go and change hands: a MAC always belongs to the address asked for. The writer
/// goes on until each reader has had its hits, however the threads are scheduled; the limit turns a hang into a failure.
#[test]
fn readers_never_see_another_neighbours_mac() {
    const HITS: u32 = 2000;
    const ROUNDS: u128 = 20_000_000;
    let table = Arc::new(Neighbours::new(8, 3));
    let mac = |addr: u128| [2, 0, 0, 0, 0, addr as u8];
    let done = std::sync::atomic::AtomicBool::new(false);
    let read = &|worker: usize| {
        let mut bench = Bench::beside(table.clone(), worker);
        let mut hits = 0;
        while hits < HITS && !done.load(std::sync::atomic::Ordering::Relaxed) {
            for addr in 0..32 {
                if let Hop::Mac(found) = bench.lookup(addr) {
                    assert_eq!(found, mac(addr));
                    hits += 1;
                }
            }
            bench.now += MS;
            bench.run(0);
        }
        hits
    };
    std::thread::scope(|scope| {
        let readers = [1, 2].map(|worker| scope.spawn(move || read(worker)));
        let mut bench = Bench::beside(table.clone(), 0);
        for round in 0..ROUNDS {
            if readers.iter().all(|reader| reader.is_finished()) {
                break;
            }
            let addr = round * 7 % 32;
            bench.hear(addr, mac(addr));
            bench.now += 10 * MS;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() >= HITS);
        }
    });
}
