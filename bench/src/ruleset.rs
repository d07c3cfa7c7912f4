//! A large ruleset from its text to being in force: read and checked, sent, checked again as from an enemy, published.
//!
//! These are the steps between `sumun apply` and the first packet that is judged by it, less the copying between the
//! processes. Each runs in several rounds; the medians are printed, and what the process holds of memory for it.

use crate::HEAP;
use crate::pipeline::{config, links};
use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;
use std::time::Instant;
use sumun_config::model::Policy;
use sumun_dataplane::engine::Router;
use sumun_dataplane::protocol::{decode, encode};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Rules, in one chain.
    #[arg(long, default_value_t = 100_000)]
    rules: u32,
    /// Elements of a set that some of the rules ask.
    #[arg(long, default_value_t = 100_000)]
    elements: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// As a JSON object.
    #[arg(long)]
    json: bool,
}

/// Milliseconds, and bytes.
#[derive(Serialize, Default)]
struct Figures {
    rules: u32,
    elements: u32,
    text_bytes: usize,
    compile_ms: f64,
    encode_ms: f64,
    sent_bytes: usize,
    decode_ms: f64,
    publish_ms: f64,
    republish_ms: f64,
    held_bytes: usize,
}

/// Rules of the kinds that long rulesets have: addresses with ports, states, MACs, lists of ports, and a set.
fn text(rules: u32, elements: u32) -> String {
    let mut text = format!("[sets.many]\ntype = \"hash:net\"\nmaxelem = {}\nelements = [\n", elements.max(1));
    for n in 0..elements {
        let [_, a, b, c] = (n.wrapping_mul(2_654_435_761) >> 4).to_be_bytes();
        let _ = writeln!(text, "'100.{a}.{b}.{c}/{}',", 32 - n % 8);
    }
    text += "]\n[ipv4.filter.FORWARD]\npolicy = \"DROP\"\nrules = [\n";
    for n in 0..rules {
        let [_, a, b, c] = n.wrapping_mul(2_654_435_761).to_be_bytes();
        let port = n % 60_000 + 1;
        let _ = match n % 5 {
            0 => writeln!(text, "'-s 10.{a}.{b}.{c}/32 -p tcp -m tcp --dport {port} -j ACCEPT',"),
            1 => writeln!(text, "'-d 10.{a}.{b}.0/24 -i lan0 -p udp -m multiport --dports 53,{port} -j DROP',"),
            2 => writeln!(
                text,
                "'-s 172.{a}.{b}.{c}/32 -m conntrack --ctstate NEW -j REJECT --reject-with icmp-port-unreachable',"
            ),
            3 => writeln!(text, "'-d 10.{a}.{b}.{c}/32 -m set --match-set many src -j DROP',"),
            _ => {
                writeln!(text, "'-s 10.{a}.{b}.{c}/32 -m mac --mac-source 02:00:00:{a:02x}:{b:02x}:{c:02x} -j ACCEPT',")
            }
        };
    }
    text + "]\n"
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "at least one round");
    let text = text(options.rules, options.elements);
    let mut times: [Vec<f64>; 5] = Default::default();
    let mut figures =
        Figures { rules: options.rules, elements: options.elements, text_bytes: text.len(), ..Figures::default() };
    for _ in 0..options.rounds {
        let start = Instant::now();
        let config = config(&text, 1 << 16)?;
        times[0].push(milliseconds(start));
        let start = Instant::now();
        let bytes = encode(&config.policy)?;
        times[1].push(milliseconds(start));
        figures.sent_bytes = bytes.len();
        drop(config.policy);
        let start = Instant::now();
        let held = HEAP.current_usage();
        let policy: Policy = decode(&bytes)?;
        times[2].push(milliseconds(start));
        let held = HEAP.current_usage() - held;
        let again = policy.clone();
        let before = HEAP.current_usage();
        let router = Router::new(&config.appliance, links(), 1);
        let empty = HEAP.current_usage() - before;
        let start = Instant::now();
        router.publish(policy).map_err(anyhow::Error::msg)?;
        times[3].push(milliseconds(start));
        figures.held_bytes = held + HEAP.current_usage() - before - empty;
        // As a file is put in force again after one rule was changed: counters of the others go on.
        let start = Instant::now();
        router.publish(again).map_err(anyhow::Error::msg)?;
        times[4].push(milliseconds(start));
    }
    let [compile, encode, decode, publish, republish] = times.map(median);
    figures = Figures {
        compile_ms: compile,
        encode_ms: encode,
        decode_ms: decode,
        publish_ms: publish,
        republish_ms: republish,
        ..figures
    };
    match options.json {
        true => println!("{}", serde_json::to_string(&figures)?),
        false => print(&figures),
    }
    Ok(())
}

fn print(f: &Figures) {
    let mb = |bytes: f64| bytes / 1e6;
    println!("{} rules, {} elements of a set, {:.1} MB of text", f.rules, f.elements, mb(f.text_bytes as f64));
    for (step, ms) in [
        ("read, check, compile", f.compile_ms),
        ("encode", f.encode_ms),
        ("decode", f.decode_ms),
        ("verify, build, publish", f.publish_ms),
        ("the same once more", f.republish_ms),
    ] {
        println!("{step:<24} {ms:>8.1} ms");
    }
    println!("{:.1} MB sent, {:.1} MB held by the dataplane", mb(f.sent_bytes as f64), mb(f.held_bytes as f64));
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
