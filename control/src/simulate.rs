//! `sumun simulate`: recorded frames through the very engine that the dataplane runs, without root and without devices.
//!
//! Names of the recording's interfaces are port names; its time stamps are the clock. A port's MAC is the one that its
//! recorded frames are addressed to. Neighbours are taken to exist: every next hop answers at once with a MAC made of its
//! address, so that a packet's fate depends on rules and routes only.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use sumun_config::facts::PortId;
use sumun_config::model::Config;
use sumun_dataplane::engine::trace::{End, Trace};
use sumun_dataplane::engine::{Engine, Router};
use sumun_dataplane::port::Link;
use sumun_dataplane::port::pcap::{Reader, Recorded, Writer};
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

/// Runs the recording through a router of this configuration and prints what was asked for.
pub fn run(options: &Options, config: Config, print: &mut impl Write) -> Result<()> {
    let links = links(options, &config)?;
    let ports: HashMap<String, PortId> =
        links.iter().enumerate().map(|(i, link)| (link.name.clone(), PortId(i as u16))).collect();
    let names: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
    let mut writer = match &options.out {
        Some(path) => {
            Some(Writer::new(BufWriter::new(create(path)?), &names).with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let appliance = &config.appliance;
    let router = Router::new(appliance, links, 0);
    let frames = appliance.frames_per_worker.max(256);
    let mut engine = router.engine(0, Pool::fresh(frames, appliance.frame_size));
    engine.assume_neighbours();
    router.publish(config.policy).map_err(anyhow::Error::msg)?;

    let mut ends: HashMap<&'static str, usize> = HashMap::new();
    let mut reader = open(options)?;
    let mut count = 0;
    let mut now = 0;
    while let Some(recorded) = reader.next_packet().with_context(|| options.input.display().to_string())? {
        let Some(port) = ports.get(&recorded.port) else {
            bail!(
                "{}: packet {count} came in on {:?}, which is no interface of {}: it has {}",
                options.input.display(),
                recorded.port,
                options.config.display(),
                names.join(", ")
            );
        };
        // Recordings of several interfaces are not always in order; the clock never goes back.
        now = recorded.time.max(now);
        let (trace, sent) = step(&mut engine, &names, now, *port, &recorded, writer.as_mut())?;
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
    if let Some(writer) = writer {
        writer.finish()?.flush()?;
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

/// One packet through the engine: what was asked of it, and the ports on which frames left.
fn step<'n, W: Write>(
    engine: &mut Engine,
    names: &'n [String],
    now: u64,
    port: PortId,
    recorded: &Recorded,
    mut writer: Option<&mut Writer<W>>,
) -> Result<(Trace, Vec<&'n str>)> {
    engine.tick(now);
    engine.trace();
    let mut frame = engine.pool().take().context("no frame is free")?;
    match frame.set(&recorded.bytes) {
        true => engine.process(now, port, &mut vec![frame]),
        false => engine.dropped(DropReason::FrameTooLong, frame),
    }
    let trace = engine.trace();
    let mut sent = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let frames: Vec<_> = engine.take_tx(PortId(i as u16)).drain(..).collect();
        for frame in frames {
            sent.push(name.as_str());
            if let Some(writer) = writer.as_deref_mut() {
                writer.sent(i, now, frame.bytes())?;
            }
            engine.pool().give(frame);
        }
    }
    if let Some(writer) = writer {
        for packet in &trace.delivered {
            writer.delivered(now, packet)?;
        }
    }
    Ok((trace, sent))
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
    Line { packet, port: &recorded.port, fate, reason, out: sent.to_vec(), steps: steps.collect() }
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

/// The ports: names and MTUs of the configuration, MACs of the recording.
fn links(options: &Options, config: &Config) -> Result<Vec<Link>> {
    let mut macs: HashMap<String, [u8; 6]> = HashMap::new();
    let mut reader = open(options)?;
    while let Some(recorded) = reader.next_packet().with_context(|| options.input.display().to_string())? {
        if let Some(mac) = recorded.bytes.first_chunk::<6>().filter(|mac| mac[0] & 1 == 0) {
            macs.entry(recorded.port).or_insert(*mac);
        }
    }
    Ok(config
        .appliance
        .interfaces
        .iter()
        .map(|interface| Link {
            name: interface.name.clone(),
            mac: macs.get(&interface.name).copied().unwrap_or(DEFAULT_MAC),
            mtu: interface.mtu.unwrap_or(DEFAULT_MTU),
        })
        .collect())
}

fn open(options: &Options) -> Result<Reader<BufReader<File>>> {
    let path = &options.input;
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Reader::new(BufReader::new(file), options.port.clone()).with_context(|| path.display().to_string())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| path.display().to_string())
}
