//! Rules that remember, step by step, as the kernel does it: every script runs through the kernel and through the engine.

use anyhow::Result;
use std::fmt::Write;
use sumun_config::facts::{Family, PortId, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, WAN, of};
use sumun_testbed::differential::rng::Rng;
use sumun_testbed::differential::script::{Script, Step, arrives, expect_none};
use sumun_testbed::differential::traffic::hosts;
use sumun_testbed::differential::wire::{self, Ip};

/// Bits of the traffic class by which forwarded packets tell which rules they met.
const BITS: [u8; 6] = [0x04, 0x08, 0x10, 0x20, 0x40, 0x80];

/// A UDP datagram from one side to the other.
fn datagram(family: Family, port: PortId, src: u128, dst: u128, ttl: u8, ports: (u16, u16), len: usize) -> Step {
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let ip = Ip { ttl, ..Ip::new(family, src, dst) };
    arrives(port, &ip.packet(proto::UDP, &wire::udp(ports, &payload), 1))
}

/// Rules of `mangle`, each of which tells that it was met, in chains of its choice.
fn telling(rules: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut text = "*mangle\n".to_string();
    for ((chain, rule), bit) in rules.into_iter().zip(BITS) {
        let _ = writeln!(text, "-A {chain} {rule} -j TOS --or-tos {bit:#x}");
    }
    text + "COMMIT\n"
}

/// Rules of a few lists with every option, packets of a few addresses and TTLs, and time in between.
fn recent(family: Family, seed: u64) -> Script {
    let mut rng = Rng::stream(seed, family as u64);
    let name = format!("recent{seed}-{}", family.name());
    let chains = ["PREROUTING", "FORWARD", "POSTROUTING"];
    let rules: Vec<_> = (0..BITS.len()).map(|_| (rng.pick(&chains), one(&mut rng, family, &name))).collect();
    let (lan, wan) = hosts(family);
    let mut script = Script::new(&format!("{name}:\n{}", telling(rules.clone())), family, &telling(rules));
    for round in 0..5 {
        let steps: Vec<Step> = (0..12)
            .map(|_| {
                let (inner, outer, ttl) = (rng.pick(&lan), rng.pick(&wan[1..3]), rng.pick(&[64, 64, 63, 10]));
                match rng.chance(70) {
                    true => datagram(family, LAN, inner, outer, ttl, (5000, 9), 20),
                    false => datagram(family, WAN, outer, inner, ttl, (9, 5000), 20),
                }
            })
            .collect();
        script = script.lead(steps);
        if round < 4 {
            script = script.wait(700);
        }
    }
    script
}

/// One `-m recent` of some list.
fn one(rng: &mut Rng, family: Family, name: &str) -> String {
    let mut rule = "-m recent".to_string();
    let not = if rng.chance(25) { " !" } else { "" };
    let command = rng.pick(&["set", "set", "rcheck", "update", "update", "remove"]);
    let _ = write!(rule, "{not} --{command}");
    if matches!(command, "rcheck" | "update") {
        if rng.chance(70) {
            let _ = write!(rule, " --seconds {}", 1 + rng.below(2));
            rule += if rng.chance(40) { " --reap" } else { "" };
        }
        if rng.chance(60) {
            let _ = write!(rule, " --hitcount {}", rng.pick(&[1, 2, 3, 5, 8]));
        }
        rule += if rng.chance(30) { " --rttl" } else { "" };
    }
    let _ = write!(rule, " --name {name}{}", rng.pick(&["a", "a", "b"]));
    if rng.chance(15) {
        let _ = write!(rule, " --mask {}", of(family, "255.255.255.254", "ffff::ffff:ffff:ffff:fffe"));
    }
    rule + rng.pick(&[" --rsource", " --rdest", ""])
}

#[test]
fn lists_of_recent_answer_as_the_kernel_s() -> Result<()> {
    let mut kernel = Kernel::new("recent")?;
    let scripts = |family| (0..seeds(2)).map(move |seed| recent(family, seed));
    expect_none(&mut kernel, &Family::ALL.map(scripts).into_iter().flatten().collect::<Vec<_>>())
}

/// Rules of a few tables with every option. Times are such that a few milliseconds more or less change nothing: what
/// refills within a script does so in a pause, and entries are collected in a pause or not at all.
fn hashlimit(family: Family, seed: u64) -> Script {
    let mut rng = Rng::stream(seed, 100 + family as u64);
    let counted = [0, 1]
        .map(|_| rng.pick(&[Counted::Packets, Counted::Packets, Counted::Bytes, Counted::Rate, Counted::ByteRate]));
    let name = format!("hashlimit{seed}-{}", family.name());
    let chains = ["PREROUTING", "FORWARD", "POSTROUTING"];
    let rules: Vec<_> = (0..BITS.len())
        .map(|_| {
            let table = rng.below(2);
            let named = format!("{name}{table}");
            (rng.pick(&chains), limit(&mut rng, family, counted[table], &named))
        })
        .collect();
    let text = telling(rules);
    let lengths: &[usize] = if counted.contains(&Counted::ByteRate) { &[428] } else { &[48, 48, 428] };
    let (lan, wan) = hosts(family);
    let mut script = Script::new(&format!("{name}:\n{text}"), family, &text);
    for round in 0..3 {
        for _ in 0..20 {
            let (inner, outer) = (rng.pick(&lan[..2]), rng.pick(&wan[1..3]));
            let len = rng.pick(lengths) - usize::from(of(family, 28u8, 48));
            let ports = rng.pick(&[(5000, 9), (5000, 10), (5001, 9)]);
            let step = match rng.chance(80) {
                true => datagram(family, LAN, inner, outer, 64, ports, len),
                false => datagram(family, WAN, outer, inner, 64, (ports.1, ports.0), len),
            };
            script = script.lead([step]);
        }
        if round < 2 {
            script = script.wait(1100);
        }
    }
    script
}

/// What a table counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Packets,
    Bytes,
    Rate,
    ByteRate,
}

/// One `-m hashlimit`.
fn limit(rng: &mut Rng, family: Family, counted: Counted, name: &str) -> String {
    let (rates, bursts): (&[&str], &[&str]) = match counted {
        Counted::Packets => (&["10/min", "5/sec", "1/sec", "7/hour"], &["", "1", "2", "3"]),
        Counted::Bytes => (&["512b/s", "16b/s"], &["", "1kb", "2kb", "5kb"]),
        Counted::Rate => (&["4/sec", "3/sec"], &["", "1", "2"]),
        Counted::ByteRate => (&["2kb/s"], &["", "4kb"]),
    };
    let how = rng.pick(&["upto", "above"]);
    let mut rule = format!("-m hashlimit --hashlimit-{how} {} --hashlimit-name {name}", rng.pick(rates));
    let mut option = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(rule, " --hashlimit-{name} {value}");
        }
    };
    option("burst", rng.pick(bursts));
    option(
        "mode",
        rng.pick(&[
            "",
            "srcip",
            "srcip",
            "dstip",
            "srcip,dstip",
            "srcport",
            "dstport,srcip",
            "srcip,srcport,dstip,dstport",
        ]),
    );
    if rng.chance(30) {
        option("srcmask", rng.pick(&["0", of(family, "30", "126"), of(family, "31", "127")]));
    }
    if rng.chance(30) {
        option("dstmask", rng.pick(&["0", of(family, "8", "32"), of(family, "24", "64")]));
    }
    let (expire, gc) = rng.pick(&[("60000", ""), ("60000", "500"), ("200", "50")]);
    option("htable-expire", expire);
    option("htable-gcinterval", gc);
    if rng.chance(40) {
        let (size, max) = rng.pick(&[("1", "2"), ("2", "1"), ("3", ""), ("16", "3")]);
        option("htable-size", size);
        option("htable-max", max);
    }
    match counted {
        Counted::Rate | Counted::ByteRate => rule + " --hashlimit-rate-match",
        Counted::Packets | Counted::Bytes => rule,
    }
}

#[test]
fn tables_of_hashlimit_answer_as_the_kernel_s() -> Result<()> {
    let mut kernel = Kernel::new("hashlimit")?;
    let scripts = |family| (0..seeds(2)).map(move |seed| hashlimit(family, seed));
    expect_none(&mut kernel, &Family::ALL.map(scripts).into_iter().flatten().collect::<Vec<_>>())
}

/// How many scripts of a kind: more by the environment.
fn seeds(few: u64) -> u64 {
    std::env::var("SUMUN_SCRIPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

#[test]
fn the_address_seen_longest_ago_makes_room_as_in_the_kernel() -> Result<()> {
    let mut kernel = Kernel::new("recent-full")?;
    let rules = |name: &str| {
        telling([
            ("FORWARD", format!("-m recent --rcheck --name {name}")),
            ("FORWARD", format!("-m recent --update --hitcount 2 --name {name}")),
            ("FORWARD", format!("-p udp -m udp --dport 9 -m recent --set --name {name}")),
        ])
    };
    let script = |family: Family| {
        let (lan, wan) = hosts(family);
        let from = |i: u128, port| datagram(family, LAN, lan[0] + 0x20 + i, wan[1], 64, (5000, port), 20);
        let first = (0..100).map(|i| from(i, 9));
        // 3 and 4 are seen again, so that others go before them.
        let again = [3, 4].map(|i| from(i, 9));
        let more = (100..104).map(|i| from(i, 9));
        let asked = (0..10).chain(98..106).map(|i| from(i, 10));
        let name = format!("full-{}", family.name());
        Script::new(&name, family, &rules(&name)).lead(first.chain(again).chain(more).chain(asked))
    };
    expect_none(&mut kernel, &Family::ALL.map(script))
}
