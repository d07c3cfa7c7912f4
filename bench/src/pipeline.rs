//! The engine alone: bursts of frames in memory go through the complete pipeline, and the time inside the engine is measured.
//!
//! Writing the frames and taking them back is not counted; the clock is read twice a burst. Each workload runs in several
//! rounds that take turns with the others, so that a slow moment of the machine hits all of them; the median round is
//! printed.

use crate::frames::{self, HOST_MAC, ROUTER_MAC, Template};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sumun_config::diag::{Source, render};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::{Checksums, Config};
use sumun_dataplane::engine::{BURST, Engine, Router};
use sumun_dataplane::port::Link;
use sumun_dataplane::umem::Pool;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Flows, spread evenly over the packets; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    flows: Vec<u32>,
    /// Only workloads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Family of the packets: 4 or 6.
    #[arg(long, default_value = "4")]
    family: u8,
    /// Rounds of each workload; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Packets in a round.
    #[arg(long, default_value_t = 1_000_000)]
    packets: usize,
    /// Let rules judge every packet, also where its flow tells the answer.
    #[arg(long)]
    judge_all: bool,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// One JSON object for each line of the table.
    #[arg(long)]
    json: bool,
}

/// A line of the result.
#[derive(Serialize)]
struct Figure {
    workload: &'static str,
    flows: u32,
    ns_per_packet: f64,
    mpps: f64,
    slowest_ns: f64,
    fastest_ns: f64,
}

/// Name, rules, and whether half of the packets are answers.
struct Workload {
    name: &'static str,
    rules: String,
    both_ways: bool,
    /// Every packet opens a new flow.
    new_flows: bool,
}

fn workloads() -> Vec<Workload> {
    let stateful = "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\", \"-i lan0 -j ACCEPT\"]\n";
    let masquerade = "[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n";
    // Judged for every packet: nothing lets established flows pass early. No packet uses the ports and addresses that are named.
    let many = |n: u32| {
        let mut text = "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\n".to_string();
        for i in 0..n {
            text += &match i % 3 {
                0 => format!(
                    "\"-4 -s 172.{}.{}.0/24 -p tcp -m tcp --dport {} -j DROP\",\n",
                    16 + i / 256 % 16,
                    i % 256,
                    i % 60_000 + 1
                ),
                1 => format!("\"-p udp -m udp --dport {} -j DROP\",\n", 52_000 + i % 10_000),
                _ => format!("\"-4 -d 198.51.{}.{}/32 -j DROP\",\n", i / 256 % 256, i % 256),
            };
        }
        text + "\"-m conntrack --ctstate ESTABLISHED,NEW -j ACCEPT\",\n]\n"
    };
    let workload = |name, rules: String, both_ways, new_flows| Workload { name, rules, both_ways, new_flows };
    vec![
        workload("plain forward", String::new(), false, false),
        workload("five hooks with conntrack", stateful.into(), true, false),
        workload("conntrack and masquerade", format!("{stateful}{masquerade}"), true, false),
        workload("masquerade, 1,000 rules", format!("{}{masquerade}", many(1000)), true, false),
        workload("masquerade, 10,000 rules", format!("{}{masquerade}", many(10_000)), true, false),
        workload("masquerade, new flows", format!("{stateful}{masquerade}"), false, true),
    ]
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let family = match options.family {
        4 => Family::V4,
        6 => Family::V6,
        other => bail!("--family is 4 or 6, not {other}"),
    };
    ensure!(options.rounds > 0 && options.packets >= BURST, "at least one round of {BURST} packets");
    if !core_affinity::set_for_current(core_affinity::CoreId { id: options.core }) {
        eprintln!("note: cannot pin to core {}", options.core);
    }
    ensure!(options.flows.iter().all(|flows| (1..=MOST_FLOWS).contains(flows)), "--flows is from 1 to {MOST_FLOWS}");
    let mut workloads = workloads();
    workloads.retain(|workload| options.only.as_ref().is_none_or(|only| workload.name.contains(only.as_str())));
    ensure!(!workloads.is_empty(), "no workload has that in its name");
    if !options.json {
        println!("{:<28} {:>9} {:>10} {:>8} {:>17}", "workload", "flows", "ns/packet", "Mpps", "fastest-slowest");
    }
    // One number of flows after the other, since the tables of all of them would be gigabytes.
    for (turn, flows) in options.flows.iter().enumerate() {
        // Opening flows asks nothing of those that are there.
        let apply = workloads.iter().filter(|workload| turn == 0 || !workload.new_flows);
        let mut benches: Vec<Bench> =
            apply.map(|workload| Bench::new(workload, family, *flows, options)).collect::<Result<_>>()?;
        for _ in 0..options.rounds {
            for bench in &mut benches {
                bench.round(options.packets)?;
            }
        }
        for bench in &mut benches {
            print(&bench.figure(), options.json)?;
        }
    }
    Ok(())
}

fn print(figure: &Figure, json: bool) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(figure)?),
        false => println!(
            "{:<28} {:>9} {:>10.1} {:>8.2} {:>8.1}-{:<8.1}",
            figure.workload, figure.flows, figure.ns_per_packet, figure.mpps, figure.fastest_ns, figure.slowest_ns
        ),
    }
    Ok(())
}

/// Most flows of a workload: the tables of all workloads and a packet each way of each flow take two gigabytes for each million.
const MOST_FLOWS: u32 = 4_000_000;

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);

struct Bench {
    name: &'static str,
    flows: u32,
    family: Family,
    engine: Engine,
    now: u64,
    /// Frames and the port that they come in on, in the order in which they are sent.
    traffic: Vec<(PortId, Template)>,
    at: usize,
    new_flows: bool,
    /// Nanoseconds a packet of each round.
    rounds: Vec<f64>,
}

impl Bench {
    fn new(workload: &Workload, family: Family, flows: u32, options: &Options) -> Result<Bench> {
        let packets = options.packets;
        let most = if workload.new_flows { (packets + BURST) as u32 } else { flows };
        // Room enough that the table is not swept for want of it.
        let config = config(&workload.rules, (most + most / 4).max(1 << 16))?;
        let router: Arc<Router> = Router::new(&config.appliance, links(), 1);
        let mut engine = router.engine(0, Pool::fresh(4096, 2048));
        if options.judge_all {
            engine.judge_all();
        }
        router.publish(config.policy).map_err(anyhow::Error::msg)?;
        let mut bench = Bench {
            name: workload.name,
            flows: if workload.new_flows { packets as u32 } else { flows },
            family,
            now: 1_000_000_000,
            traffic: Vec::new(),
            at: 0,
            new_flows: workload.new_flows,
            rounds: Vec::new(),
            engine,
        };
        bench.engine.tick(bench.now);
        if workload.new_flows {
            return Ok(bench);
        }
        // Every flow is opened, and answered where both ways are measured, before anything is.
        let (mut lan, mut wan) = (Vec::new(), Vec::new());
        for n in 0..flows {
            let template = frames::outbound(family, n);
            let sent = bench.send(LAN, &template)?;
            lan.push((LAN, template));
            if workload.both_ways {
                let answer = frames::answer(&sent).context("a packet to answer")?;
                bench.send(WAN, &answer)?;
                wan.push((WAN, answer));
            }
        }
        // Not in the order in which the flows were made, which is the order in which they lie in memory.
        for side in [&mut lan, &mut wan] {
            shuffle(side);
        }
        // Bursts come from one port: all of the LAN's 64, then 64 of the WAN's.
        let mut sides = [lan.chunks(BURST), wan.chunks(BURST)];
        while let (Some(chunk), next) = (sides[0].next(), sides[1].next()) {
            bench.traffic.extend_from_slice(chunk);
            bench.traffic.extend_from_slice(next.unwrap_or_default());
        }
        Ok(bench)
    }

    /// One packet through the engine; what comes out.
    fn send(&mut self, port: PortId, template: &Template) -> Result<Vec<u8>> {
        let mut frame = self.engine.pool().take().context("a free frame")?;
        ensure!(frame.set(template.bytes()));
        self.engine.process(self.now, port, &mut vec![frame]);
        for out in [LAN, WAN] {
            if let Some(frame) = self.engine.take_tx(out).pop() {
                let sent = frame.bytes().to_vec();
                self.engine.pool().give(frame);
                return Ok(sent);
            }
        }
        bail!("{}: a packet of the preparation was not forwarded", self.name)
    }

    fn round(&mut self, packets: usize) -> Result<()> {
        let mut spent = Duration::ZERO;
        let (mut sent, mut came) = (0, 0);
        let mut rx = Vec::with_capacity(BURST);
        let mut fresh = 0;
        while sent < packets {
            let port = if self.new_flows { LAN } else { self.traffic[self.at].0 };
            while rx.len() < BURST {
                let mut frame = self.engine.pool().take().context("a free frame")?;
                if self.new_flows {
                    let n = (self.rounds.len() * packets + fresh) as u32;
                    fresh += 1;
                    ensure!(frame.set(frames::outbound(self.family, n).bytes()));
                } else {
                    let (of, template) = &self.traffic[self.at];
                    if *of != port {
                        self.engine.pool().give(frame);
                        break;
                    }
                    ensure!(frame.set(template.bytes()));
                    self.at = (self.at + 1) % self.traffic.len();
                }
                rx.push(frame);
            }
            sent += rx.len();
            self.now += 64 * 100;
            let start = Instant::now();
            self.engine.process(self.now, port, &mut rx);
            self.engine.tick(self.now);
            spent += start.elapsed();
            for out in [LAN, WAN] {
                while let Some(frame) = self.engine.take_tx(out).pop() {
                    came += 1;
                    self.engine.pool().give(frame);
                }
            }
        }
        ensure!(came == sent, "{}: {sent} packets went in, {came} came out", self.name);
        if self.new_flows {
            // Flows of this round are gone before the next one.
            self.now += 1_000_000_000_000;
            for _ in 0..packets / BURST * 4 {
                self.engine.tick(self.now);
            }
        }
        self.rounds.push(spent.as_nanos() as f64 / sent as f64);
        Ok(())
    }

    fn figure(&mut self) -> Figure {
        self.rounds.sort_by(f64::total_cmp);
        let median = self.rounds[self.rounds.len() / 2];
        Figure {
            workload: self.name,
            flows: self.flows,
            ns_per_packet: median,
            mpps: 1000.0 / median,
            fastest_ns: self.rounds[0],
            slowest_ns: self.rounds[self.rounds.len() - 1],
        }
    }
}

/// Fisher and Yates' shuffle, the same each time.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, ((state >> 33) % (i as u64 + 1)) as usize);
    }
}

/// The ports of that router.
pub fn links() -> Vec<Link> {
    ["lan0", "wan0"]
        .map(|name| Link {
            name: name.into(),
            mac: ROUTER_MAC,
            mtu: 1500,
            checksums: Checksums::AsTheyAre,
            trunk: None,
        })
        .to_vec()
}

/// The two-port router of every workload.
pub fn config(rules: &str, max_flows: u32) -> Result<Config> {
    let mac = HOST_MAC.map(|b| format!("{b:02x}")).join(":");
    let text = format!(
        r#"
[dataplane]
cores = [0]
max-flows = {max_flows}

[interfaces.lan0]
addresses = ["10.255.255.254/8", "fd00::ffff/16"]

[interfaces.wan0]
addresses = ["203.0.113.2/24", "203.0.113.3/24", "2001:db8:2::2/64"]

[[neighbours]]
interface = "wan0"
address = "203.0.113.1"
mac = "{mac}"

[[neighbours]]
interface = "wan0"
address = "2001:db8:2::1"
mac = "{mac}"

[[neighbours]]
interface = "lan0"
address = "10.255.255.253"
mac = "{mac}"

[[neighbours]]
interface = "lan0"
address = "fd00::fffe"
mac = "{mac}"

[[routes]]
to = "10.0.0.0/9"
via = "10.255.255.253"

[[routes]]
to = "fd00::/17"
via = "fd00::fffe"

{rules}
"#
    );
    let source = Source::new("bench.toml", &text);
    match sumun_config::schema::load(&source) {
        Ok((config, _)) => Ok(config),
        Err(mistakes) => bail!("{}", render(&source, &mistakes, false)),
    }
}
