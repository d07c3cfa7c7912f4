//! The index finds what the walk finds, and leaves the same memory behind, whatever rules and packets.

use super::program::{Found, Program};
use proptest::prelude::*;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::diag::{Source, render};
use sumun_config::facts::{AddrType, Context, CtState, Facts, Family, PortId, Surroundings, proto};
use sumun_config::rule::{Hook, Table};

/// Chance that counts how often it was asked.
#[derive(Default)]
struct Chance(Cell<u32>);

impl Surroundings for Chance {
    fn addr_type(&self, _: Family, _: u128, _: PortId) -> AddrType {
        AddrType::Unicast
    }

    fn random(&self) -> u32 {
        self.0.set(self.0.get() + 1);
        self.0.get().wrapping_mul(0x9e37_79b9)
    }

    fn path_mtu(&self, _: &Facts, _: bool) -> u16 {
        1500
    }

    fn port_address(&self, _: PortId, _: Family, _: u128) -> Option<u128> {
        None
    }
}

/// The rules of FORWARD in table filter as programs of both families, each stateful match with its own cell.
fn programs(rules: &[String]) -> [Program; 2] {
    let list: String = rules.iter().map(|rule| format!("{rule:?},\n")).collect();
    let text = format!(
        "[dataplane]\ncores = [0]\n[interfaces.lan0]\naddresses = [\"10.0.0.1/8\"]\n[interfaces.wan0]\n\
         addresses = [\"192.0.2.1/24\"]\n[filter.FORWARD]\nrules = [\n{list}]\n"
    );
    let source = Source::new("rules.toml", &text);
    let config = sumun_config::schema::load(&source).map(|(config, _)| config);
    let mut ruleset = config.unwrap_or_else(|found| panic!("{}", render(&source, &found, false))).policy.ruleset;
    Family::ALL.map(|family| {
        let mut cell = 0;
        let tables = &mut ruleset.families[family.index()];
        for chain in tables.tables.iter_mut().flat_map(|table| &mut table.chains) {
            for number in chain.rules.iter_mut().flat_map(|r| &mut r.conds).filter_map(|c| c.test.cells()) {
                *number = cell;
                cell += 1;
            }
        }
        Program::build(family, tables, || 0)
    })
}

/// Every matching rule in turn, as a chain of rules that only count sees them; then the end. And what that left in memory.
fn run(
    find: impl Fn(u32, &Facts, &Context) -> Found,
    from: u32,
    packets: &[(Facts, Vec<u8>)],
) -> (Vec<Found>, Vec<u64>, u32) {
    let cells: Vec<AtomicU64> = (0..4096).map(|_| AtomicU64::new(0)).collect();
    let chance = Chance::default();
    let mut found = Vec::new();
    for (i, (facts, l3)) in packets.iter().enumerate() {
        let cx = Context { l3, now: 1_000_000 * i as u64, wall: 0, around: &chance, cells: &cells };
        let mut start = from;
        loop {
            let next = find(start, facts, &cx);
            found.push(next);
            match next {
                Found::Rule(at) => start = at + 1,
                Found::End | Found::Hotdrop => break,
            }
        }
    }
    (found, cells.iter().map(|c| c.load(Ordering::Relaxed)).collect(), chance.0.get())
}

fn not() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just("! ")]
}

fn network(option: &'static str) -> impl Strategy<Value = String> {
    let v4 = (0u8..4, 0u8..4, prop_oneof![Just(0u8), Just(8), Just(16), Just(24), Just(32), 1..=32u8])
        .prop_map(|(a, b, len)| format!("10.{a}.{b}.1/{len}"));
    let odd = Just("10.0.0.1/255.0.255.0".to_string());
    (not(), prop_oneof![6 => v4, 1 => odd]).prop_map(move |(not, net)| format!("{not}{option} {net} "))
}

fn ports(option: &'static str) -> impl Strategy<Value = String> {
    (not(), 0u16..40, 0u16..30).prop_map(move |(not, first, more)| format!("{not}--{option} {first}:{} ", first + more))
}

fn rule() -> impl Strategy<Value = String> {
    let maybe = |s: BoxedStrategy<String>| prop_oneof![Just(String::new()), s];
    let l4 = prop_oneof![
        2 => Just(String::new()),
        3 => (prop_oneof![Just("tcp"), Just("udp")], maybe(ports("sport").boxed()), maybe(ports("dport").boxed()))
            .prop_map(|(p, s, d)| format!("-p {p} -m {p} {s}{d}")),
        1 => Just("-p tcp -m tcp --syn --tcp-option 2 ".to_string()),
        1 => (not(), 0u16..30).prop_map(|(not, n)| format!("-p udp -m multiport {not}--dports {n},{}:{} ", n + 3, n + 9)),
        1 => (0u16..30).prop_map(|n| format!("-p tcp -m multiport --ports {n},{} ", n + 1)),
        1 => Just("-p gre ".to_string()),
        1 => Just("! -p tcp ".to_string()),
    ];
    let state = prop_oneof![
        6 => Just(""),
        2 => Just("-m state --state NEW "),
        1 => Just("-m limit --limit 3/sec --limit-burst 2 "),
        1 => Just("-m statistic --mode random --probability 0.5 "),
        1 => Just("-m statistic --mode nth --every 3 --packet 1 "),
        1 => Just("-m mark --mark 1 "),
    ];
    let iface = prop_oneof![3 => Just(""), 1 => Just("-i lan0 "), 1 => Just("! -o wan0 ")];
    (maybe(network("-s").boxed()), maybe(network("-d").boxed()), iface, state, l4, any::<bool>()).prop_map(
        |(src, dst, iface, state, l4, late)| {
            // The protocol is a core condition and comes first; extensions stay in the order written.
            match (l4.split_once(" -m "), late) {
                (Some((protocol, matches)), true) => format!("-4 {src}{dst}{iface}{protocol} {state}-m {matches}"),
                _ => format!("-4 {src}{dst}{iface}{l4}{state}"),
            }
        },
    )
}

fn packet() -> impl Strategy<Value = (Facts, Vec<u8>)> {
    let protocol = prop_oneof![
        3 => Just(proto::TCP),
        3 => Just(proto::UDP),
        1 => Just(proto::ICMP),
        1 => Just(proto::GRE),
        1 => Just(proto::UDPLITE)
    ];
    let address = || (0u128..4, 0u128..4, 0u128..2).prop_map(|(a, b, c)| 0x0a00_0000 | a << 16 | b << 8 | c);
    let fragment = prop_oneof![8 => Just(0u16), 1 => Just(8u16), 1 => Just(1480u16)];
    let bytes = prop::collection::vec(any::<u8>(), 60);
    ((address(), address()), protocol, (0u16..45, 0u16..45), fragment, (0u8..8, 0u16..2, 0u16..2), any::<u16>(), bytes)
        .prop_map(|((src, dst), proto, (sport, dport), frag_off, (has_l4, iif, mark), flags, l3)| {
            let has_l4 = frag_off == 0 && has_l4 > 0 && proto != proto::GRE;
            let (sport, dport) = if has_l4 { (sport, dport) } else { (0, 0) };
            let facts = Facts {
                src,
                dst,
                proto,
                sport,
                dport,
                has_l4,
                frag_off,
                tcp_flags: if proto == proto::TCP { flags as u8 } else { 0 },
                len: l3.len() as u16,
                iif: PortId(iif),
                oif: PortId(1 - iif),
                mark: mark.into(),
                ct_state: if flags & 0x100 == 0 { CtState::New } else { CtState::Established },
                has_ct: true,
                ..Facts::blank(Family::V4)
            };
            (facts, l3)
        })
}

fn forward(program: &Program) -> (u32, u32) {
    let chain = program.entry(Table::Filter, Hook::Forward).expect("FORWARD of filter");
    (chain, program.chain(chain).rules.start)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_index_finds_what_a_walk_finds(
        rules in prop::collection::vec(rule(), 12..80),
        packets in prop::collection::vec(packet(), 1..80),
        skip in 0u32..12,
    ) {
        let [program, _] = programs(&rules);
        let (chain, first) = forward(&program);
        let from = first + skip;
        let indexed = run(|start, facts, cx| program.find(chain, start, facts, cx), from, &packets);
        let walked = run(|start, facts, cx| program.find_by_walk(chain, start, facts, cx), from, &packets);
        prop_assert_eq!(indexed, walked);
    }
}

#[test]
fn nested_ipv6_networks_are_told_apart() {
    let rules: Vec<String> = (0..=128).map(|len| format!("-6 -s 2001:db8::1/{len}")).collect();
    let [_, program] = programs(&rules);
    let (chain, first) = forward(&program);
    let packets: Vec<(Facts, Vec<u8>)> = (0..128)
        .map(|bit| Facts { src: (0x2001_0db8 << 96 | 1) ^ 1u128 << bit, ..Facts::blank(Family::V6) })
        .map(|facts| (facts, Vec::new()))
        .collect();
    let indexed = run(|start, facts, cx| program.find(chain, start, facts, cx), first, &packets);
    assert_eq!(indexed, run(|start, facts, cx| program.find_by_walk(chain, start, facts, cx), first, &packets));
}

#[test]
fn a_thousand_rules_ask_a_stranger_next_to_nothing() {
    let rules: Vec<String> = (0..1000)
        .map(|i| match i % 4 {
            0 => format!("-4 -s 172.16.{}.0/24 -p tcp -m tcp --dport 22 -j DROP", i / 4),
            1 => format!("-4 -p udp -m udp --dport {} -j DROP", 10_000 + i),
            2 => format!("-4 -d 198.51.100.{}/32 -j DROP", i / 4),
            _ => format!("-4 -p tcp -m state --state NEW -m multiport --dports {},{} -j DROP", i, 30_000 + i),
        })
        .collect();
    let [program, _] = programs(&rules);
    let (chain, _) = forward(&program);
    let stranger =
        Facts { src: 1, dst: 2, proto: proto::TCP, sport: 1, dport: 1, has_l4: true, ..Facts::blank(Family::V4) };
    assert_eq!(program.asked(chain, &stranger), 0);
    let ping = Facts { proto: proto::ICMP, dport: 8 << 8, ..stranger };
    assert_eq!(program.asked(chain, &ping), 0);
    let known = Facts { src: 0xac10_0501, dport: 10_001, proto: proto::UDP, ..stranger };
    assert_eq!(program.asked(chain, &known), 2);
    let headless = Facts { has_l4: false, ..stranger };
    assert_eq!(program.asked(chain, &headless), 500);
}

#[test]
fn keys_that_overlap_everywhere_do_not_outgrow_the_chain() {
    let rules: Vec<String> =
        (0..2000).map(|i| format!("-4 -p tcp -m tcp --dport {}:{} -j DROP", i, 60_000 - i)).collect();
    let [program, _] = programs(&rules);
    let (chain, first) = forward(&program);
    let middle = Facts { proto: proto::TCP, dport: 30_000, has_l4: true, ..Facts::blank(Family::V4) };
    let outside = Facts { dport: 65_000, ..middle };
    for (facts, expected) in [(middle, Found::Rule(first)), (outside, Found::End)] {
        let cx = Context { l3: &[], now: 0, wall: 0, around: &Chance::default(), cells: &[] };
        assert_eq!(program.find(chain, first, &facts, &cx), expected);
    }
}
