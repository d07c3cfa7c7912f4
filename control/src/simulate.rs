//! `sumun simulate`: recorded frames through the very engine that the dataplane runs, without root and without devices.
//!
//! Names of the recording's interfaces are port names. Its time stamps are the clock: between two packets the engine gets
//! the turns that it would have had, so that limits refill and flows expire. A port's MAC is the one that most of its
//! recorded frames are addressed to. Neighbours are taken to exist: every next hop answers at once with a MAC made of its
//! address, so that a packet's fate depends on rules and routes only.
//!
//! The recording is read twice: mistakes in it are told before anything is written.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sumun_config::facts::PortId;
use sumun_config::model::{Checksums, Config};
use sumun_dataplane::conntrack::Invalid;
use sumun_dataplane::engine::trace::{End, Trace};
use sumun_dataplane::engine::{Engine, Router};
use sumun_dataplane::port::pcap::{PcapPort, Reader, Recorded, Tape, Writer};
use sumun_dataplane::port::{Link, Port, links};
use sumun_dataplane::reason::DropReason;
use sumun_dataplane::umem::Pool;

/// What to simulate.
#[derive(Args)]
pub struct Options {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Recorded frames: pcapng, or classic pcap with --port
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Where the frames go that the router sends (an interface for each port) and receives itself (`host`)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The port of packets whose interface has no name
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Print what was asked of each packet
    #[arg(long)]
    trace: Option<Form>,
}

/// How the trace is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// An object a line, for programs.
    Json,
}

/// A line of the JSON trace.
#[derive(Serialize)]
struct Line<'a> {
    packet: usize,
    port: &'a str,
    fate: &'static str,
    reason: Option<&'static str>,
    /// Why conntrack could not place it.
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<&'static str>,
    out: Vec<&'a str>,
    steps: Vec<StepLine<'a>>,
}

#[derive(Serialize)]
struct StepLine<'a> {
    hook: &'static str,
    table: &'static str,
    chain: &'a str,
    rule: Option<u32>,
    verdict: &'a str,
}

/// MAC of a port that no recorded frame is addressed to.
const DEFAULT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where no interface says otherwise.
const DEFAULT_MTU: u16 = 1500;

/// Where the engine's clock stands at the first packet.
const START: u64 = 1_000_000_000;
/// Time between two turns of an engine that has nothing to do.
const TURN: u64 = 10_000_000;
/// Longest time in which every flow must be looked at for expiry: conntrack's clock tells 24 days ahead from behind.
const ROUND: u64 = 10 * 24 * 3600 * 1_000_000_000;
/// Flows that the engine looks at in a turn.
const FLOWS_PER_TURN: u32 = 64;

/// Runs the recording through a router of this configuration and prints what was asked for.
pub fn run(options: &Options, config: Config, print: &mut impl Write) -> Result<()> {
    let recording = survey(options, &config)?;
    let names: Vec<String> = recording.links.iter().map(|link| link.name.clone()).collect();
    let tape = match &options.out {
        Some(path) => {
            let writer = Writer::new(BufWriter::new(create(path, options)?), &names);
            Some(Tape::new(writer.with_context(|| path.display().to_string())?))
        }
        None => None,
    };
    let mut ports: Vec<_> = (0..names.len()).map(|number| PcapPort::new(number, tape.clone())).collect();
    let appliance = &config.appliance;
    let router = Router::new(appliance, recording.links, 0);
    let frames = appliance.frames_per_worker.max(256);
    let mut engine = router.engine(0, Pool::fresh(frames, appliance.frame_size));
    engine.assume_neighbours();
    engine.set_wall_clock(recording.start.wrapping_sub(START));
    router.publish_at(START, config.policy).map_err(anyhow::Error::msg)?;
    engine.tick(START);

    let mut ends: HashMap<&'static str, usize> = HashMap::new();
    let mut reader = open(options)?;
    let mut count = 0;
    let mut now = START;
    while let Some(recorded) = reader.next_packet().with_context(|| options.input.display().to_string())? {
        let port = names.iter().position(|name| *name == recorded.port).context("the recording changed meanwhile")?;
        // Recordings of several interfaces are not always in order; the clock never goes back.
        let then = recorded.time.saturating_sub(recording.start).saturating_add(START).max(now);
        idle(&mut engine, now, then, appliance.max_flows);
        now = then;
        if let Some(tape) = &tape {
            locked(tape).set_time(recorded.time);
        }
        let trace = step(&mut engine, now, &mut ports, port, &recorded)?;
        let mut sent = Vec::new();
        for (name, port) in names.iter().zip(&mut ports) {
            sent.resize(sent.len() + port.take_sent(), name.as_str());
        }
        if let (Some(tape), Some(path)) = (&tape, &options.out) {
            let mut tape = locked(tape);
            trace.delivered.iter().for_each(|packet| tape.delivered(packet));
            tape.check().with_context(|| path.display().to_string())?;
        }
        let (fate, reason) = fate(&trace);
        *ends.entry(fate).or_default() += 1;
        match options.trace {
            None => {}
            Some(Form::Json) => {
                serde_json::to_writer(&mut *print, &line(count, &recorded, &trace, &sent))?;
                writeln!(print)?;
            }
            Some(Form::Text) => text(print, count, &recorded, &trace, &sent, fate, reason)?,
        }
        count += 1;
    }
    drop(ports);
    if let (Some(tape), Some(path)) = (tape.and_then(Arc::into_inner), &options.out) {
        let tape = tape.into_inner().unwrap_or_else(PoisonError::into_inner);
        let finished = tape.finish().map_err(anyhow::Error::from).and_then(|mut file| Ok(file.flush()?));
        finished.with_context(|| path.display().to_string())?;
    }
    if options.trace.is_none() {
        let mut rows: Vec<_> = ends.into_iter().collect();
        rows.sort_unstable();
        writeln!(print, "{count} packets")?;
        for (fate, packets) in rows {
            writeln!(print, "{packets:>10} {fate}")?;
        }
        for (reason, packets) in router.drops().into_iter().filter(|(_, packets)| *packets > 0) {
            writeln!(print, "{packets:>10} {}: {}", reason.name(), reason.explain().trim())?;
        }
    }
    Ok(())
}

/// The turns of an engine between two packets: one each [`TURN`], but no more than it takes to look at every flow, and
/// every flow at least once each [`ROUND`].
fn idle(engine: &mut Engine, from: u64, to: u64, max_flows: u32) {
    let all = u64::from(max_flows / FLOWS_PER_TURN) + 1;
    let mut now = from;
    while now < to {
        let until = to.min(now.saturating_add(ROUND));
        let turns = ((until - now) / TURN).clamp(1, all);
        for turn in 1..=turns {
            engine.tick(now + ((until - now) as u128 * turn as u128 / turns as u128) as u64);
        }
        now = until;
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One packet in on a port, through the engine, and out: a turn of a worker's loop. What was asked of it.
fn step<W: Write + Send>(
    engine: &mut Engine,
    now: u64,
    ports: &mut [PcapPort<W>],
    port: usize,
    recorded: &Recorded,
) -> Result<Trace> {
    engine.trace();
    let mut rx = Vec::new();
    ports[port].load(recorded.bytes.clone());
    ports[port].receive(engine.pool(), &mut rx, 1);
    if rx.is_empty() {
        let frame = engine.pool().take().context("no frame is free")?;
        engine.dropped(DropReason::FrameTooLong, frame);
    }
    engine.process(now, PortId(port as u16), &mut rx);
    let trace = engine.trace();
    for (number, port) in ports.iter_mut().enumerate() {
        port.transmit(engine.take_tx(PortId(number as u16)));
        port.flush(engine.pool());
    }
    Ok(trace)
}

/// The fate and, of a drop, the reason, by the names of the trace.
fn fate(trace: &Trace) -> (&'static str, Option<&'static str>) {
    match trace.end {
        Some(End::Forwarded) => ("forwarded", None),
        Some(End::Delivered) => ("delivered", None),
        Some(End::Waiting) => ("waiting", None),
        Some(End::Consumed) => ("consumed", None),
        Some(End::Dropped(reason)) => ("dropped", Some(reason.name())),
        None => ("dropped", Some(DropReason::FrameTooLong.name())),
    }
}

fn line<'a>(packet: usize, recorded: &'a Recorded, trace: &'a Trace, sent: &[&'a str]) -> Line<'a> {
    let (fate, reason) = fate(trace);
    let steps = trace.steps.iter().map(|step| StepLine {
        hook: step.hook.name(),
        table: step.table.name(),
        chain: &step.chain,
        rule: step.rule,
        verdict: &step.verdict,
    });
    let invalid = trace.invalid.map(Invalid::name);
    Line { packet, port: &recorded.port, fate, reason, invalid, out: sent.to_vec(), steps: steps.collect() }
}

fn text(
    print: &mut impl Write,
    packet: usize,
    recorded: &Recorded,
    trace: &Trace,
    sent: &[&str],
    fate: &str,
    reason: Option<&str>,
) -> Result<()> {
    write!(print, "#{packet} in {} {fate}", recorded.port)?;
    if let Some(reason) = reason {
        write!(print, " ({reason})")?;
    }
    if !sent.is_empty() {
        write!(print, ", out {}", sent.join(" "))?;
    }
    if let Some(why) = trace.invalid {
        write!(print, ", INVALID ({})", why.name())?;
    }
    writeln!(print)?;
    for step in &trace.steps {
        let place = match step.rule {
            Some(rule) => format!("rule {rule}"),
            None => "policy".to_string(),
        };
        let (hook, table) = (step.hook.name(), step.table.name());
        writeln!(print, "    {hook:<11} {table:<8} {} {place}: {}", step.chain, step.verdict)?;
    }
    Ok(())
}

/// How often a MAC was seen, and first as which packet: the commonest wins, the earlier one of equals.
type Rank = (usize, Reverse<usize>);

/// What is known of a recording before its first packet goes in.
struct Recording {
    /// The ports: names and MTUs of the configuration, MACs of the recording.
    links: Vec<Link>,
    /// When its first packet came in, in nanoseconds since 1970.
    start: u64,
}

/// Reads the recording once: every packet must come in on a port of the configuration.
fn survey(options: &Options, config: &Config) -> Result<Recording> {
    let interfaces = &config.appliance.interfaces;
    let accepted = || {
        let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        format!("{} has {}", options.config.display(), names.join(", "))
    };
    let index = |name: &str| interfaces.iter().position(|interface| interface.name == name);
    if let Some(port) = options.port.as_deref().filter(|port| index(port).is_none()) {
        bail!("--port {port}: there is no such interface: {}", accepted());
    }
    let mut addressed: Vec<HashMap<[u8; 6], Rank>> = vec![HashMap::new(); interfaces.len()];
    let mut reader = open(options)?;
    let mut start = None;
    let mut count = 0;
    let input = || options.input.display().to_string();
    while let Some(recorded) = reader.next_packet().with_context(input)? {
        let Some(port) = index(&recorded.port) else {
            bail!("{}: packet {count} came in on {:?}, which is no interface: {}", input(), recorded.port, accepted());
        };
        start.get_or_insert(recorded.time);
        if let Some(mac) = recorded.bytes.first_chunk::<6>().filter(|mac| mac[0] & 1 == 0) {
            let device = interfaces[port].vlan().and_then(|vlan| vlan.parent.index()).unwrap_or(port);
            addressed[device].entry(*mac).or_insert((0, Reverse(count))).0 += 1;
        }
        count += 1;
    }
    let commonest = |macs: &HashMap<[u8; 6], Rank>| macs.iter().max_by_key(|(_, rank)| **rank).map(|(mac, _)| *mac);
    let own = interfaces.iter().zip(&addressed).map(|(interface, macs)| {
        interface.device().map(|device| Link {
            name: interface.name.clone(),
            mac: commonest(macs).unwrap_or(DEFAULT_MAC),
            mtu: interface.mtu.unwrap_or(DEFAULT_MTU),
            checksums: device.checksums.unwrap_or(Checksums::AsTheyAre),
            trunk: None,
        })
    });
    Ok(Recording { links: links(interfaces, own.collect())?, start: start.unwrap_or(0) })
}

fn open(options: &Options) -> Result<Reader<BufReader<File>>> {
    let path = &options.input;
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Reader::new(BufReader::new(file), options.port.clone()).with_context(|| path.display().to_string())
}

/// The file to write, which must not be the one that is read.
fn create(path: &Path, options: &Options) -> Result<File> {
    if path.canonicalize().is_ok_and(|out| options.input.canonicalize().is_ok_and(|input| input == out)) {
        bail!("{}: this is the recording itself: write to another file", path.display());
    }
    File::create(path).with_context(|| path.display().to_string())
}
