//! Large sets: from their text to being in force, the memory of an element, and what a lookup costs.

use anyhow::{Result, bail, ensure};
use clap::Args;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;
use sumun_config::facts::{Facts, Family};
use sumun_config::set::ask::{Asked, Ends};
use sumun_config::set::save;
use sumun_dataplane::protocol::{SetAnswer, SetRequest, decode, encode};
use sumun_dataplane::set::Sets;
use sumun_dataplane::set::packet::Ifaces;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Elements of each set.
    #[arg(long, default_value_t = 1_000_000)]
    elements: u32,
    /// Lookups of each kind.
    #[arg(long, default_value_t = 2_000_000)]
    lookups: u32,
}

/// A host of 10.0.0.0/8 and its neighbours that no two numbers share.
fn host(n: u32) -> u32 {
    0x0a00_0000 | n.wrapping_mul(2_654_435_761) >> 8
}

/// An element by its number, for IPv4 or IPv6.
fn element(kind: &str, lengths: u32, n: u32) -> String {
    let [a, b, c, d] = host(n).to_be_bytes();
    match kind {
        "hash:ip" => format!("{a}.{b}.{c}.{d}"),
        "hash:ip,port" => format!("{a}.{b}.{c}.{d},tcp:{}", n % 50_000 + 1),
        "hash:net" => format!("{a}.{b}.{c}.{d}/{}", 32 - n % lengths),
        _ => format!("2001:db8:{:x}:{:x}::/{}", n >> 16, n & 0xffff, 64 - n % lengths),
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.elements > 0 && options.lookups > 0, "at least one");
    println!(
        "{:<28} {:>8} {:>8} {:>8} {:>10} {:>8} {:>8}",
        "", "read ms", "send ms", "build ms", "B/element", "hit ns", "miss ns"
    );
    for (kind, lengths) in
        [("hash:ip", 1), ("hash:ip,port", 1), ("hash:net", 1), ("hash:net", 8), ("hash:net", 20), ("hash:net v6", 16)]
    {
        measure(kind, lengths, options)?;
    }
    Ok(())
}

fn measure(kind: &str, lengths: u32, options: &Options) -> Result<()> {
    let count = options.elements;
    let (name, family) = kind.split_once(' ').map_or((kind, "inet"), |(name, _)| (name, "inet6"));
    let mut text = format!("create s {name} family {family} maxelem {}\n", count.max(2));
    for n in 0..count {
        let _ = writeln!(text, "add s {}", element(kind, lengths, n));
    }
    let start = Instant::now();
    let Ok(declared) = save::sets(&text) else { bail!("the set's text has mistakes") };
    let read = milliseconds(start);
    let start = Instant::now();
    let declared: Vec<sumun_config::set::Declaration> = decode(&encode(&declared)?)?;
    let sent = milliseconds(start);
    let sets = Sets::new(7);
    let start = Instant::now();
    let plan = sets.prepare(&declared, 0).map_err(anyhow::Error::msg)?;
    let Some(slot) = plan.slot("s") else { bail!("the set is not there") };
    sets.commit(plan, 1);
    let built = milliseconds(start);
    let list = sets.answer(SetRequest::List { name: None }, &|_| 0, 0).map_err(anyhow::Error::msg)?;
    let SetAnswer::Sets(rows) = list else { bail!("no list of sets") };
    let entries = rows.first().map_or(1, |row| row.entries.max(1));
    let memory = rows.first().map_or(0, |row| row.memory) as f64 / entries as f64;
    let view = sets.view();
    let ifaces = Ifaces::of(std::iter::empty());
    let family = if family == "inet" { Family::V4 } else { Family::V6 };
    let time = |hits: bool| {
        let mut found = 0u32;
        let start = Instant::now();
        for i in 0..options.lookups {
            let n = i.wrapping_mul(48_271) % count;
            let facts = Facts {
                src: match (family, hits) {
                    (Family::V4, true) => host(n).into(),
                    (Family::V4, false) => u128::from(0xc000_0000 | i),
                    (Family::V6, true) => 0x2001_0db8 << 96 | u128::from(n) << 64,
                    (Family::V6, false) => 0x2002 << 112 | u128::from(i) << 64,
                },
                proto: 6,
                dport: (n % 50_000 + 1) as u16,
                has_l4: true,
                ..Facts::blank(family)
            };
            let ends = Ends { count: 2, src: 1 };
            found += u32::from(black_box(&view).test(slot, ends, &Asked::PLAIN, &facts, &ifaces, 0).is_some());
        }
        (start.elapsed().as_nanos() as f64 / f64::from(options.lookups), found)
    };
    let ((hit, hits), (miss, misses)) = (time(true), time(false));
    ensure!(hits == options.lookups && misses == 0, "{hits} hits and {misses} misses that hit");
    let label = if lengths > 1 { format!("{kind}, {lengths} lengths") } else { kind.to_string() };
    println!("{label:<28} {read:>8.0} {sent:>8.0} {built:>8.0} {memory:>10.1} {hit:>8.1} {miss:>8.1}");
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
