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
