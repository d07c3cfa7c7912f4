//! `sumun nflog`: the packets that NFLOG rules meet, as lines, as JSON or as a pcapng file.

use crate::ask::Control;
use anyhow::Context;
use chrono::{DateTime, Local, SecondsFormat};
use clap::Args;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use sumun_dataplane::port::pcap::Notes;
use sumun_dataplane::protocol::PacketRow;

/// The packets that NFLOG rules meet from now on
#[derive(Args)]
pub struct Options {
    /// Of this group only
    #[arg(long, short, value_name = "NUMBER")]
    group: Option<u16>,
    /// Write them into this pcapng file, each with its group, hook and prefix as comment, instead of printing lines
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// For programs, one object a line
    #[arg(long, conflicts_with = "write")]
    json: bool,
}

/// Does what the command line says, until the dataplane ends.
pub fn run(options: &Options, run_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let mut control = Control::connect(run_dir)?;
    let file = options.write.as_deref();
    let cannot = || format!("cannot write {}", file.unwrap_or(Path::new("")).display());
    let begin = |path: &Path| Notes::new(BufWriter::new(File::create(path)?));
    let mut notes = file.map(begin).transpose().with_context(cannot)?;
    control.packets(options.group, |packets, lost| {
        for packet in &packets {
            match &mut notes {
                Some(notes) => {
                    notes.write(packet.at, packet.len, &packet.bytes, &comment(packet)).with_context(cannot)?
                }
                None if options.json => writeln!(out, "{}", as_json(packet))?,
                None => writeln!(out, "{}", line(packet))?,
            }
        }
        if lost > 0 {
            eprintln!("{lost} packets were lost: more came than could be told");
        }
        if let Some(notes) = &mut notes {
            notes.flush().with_context(cannot)?;
        }
        Ok(out.flush()?)
    })
}

fn time(packet: &PacketRow) -> String {
    let time = DateTime::from_timestamp_nanos(packet.at as i64).with_timezone(&Local);
    time.to_rfc3339_opts(SecondsFormat::Micros, false)
}

fn line(packet: &PacketRow) -> String {
    let PacketRow { group, hook, prefix, line, .. } = packet;
    format!("{} {group} {hook} {prefix}{line}", time(packet))
}

fn comment(packet: &PacketRow) -> String {
    let PacketRow { group, hook, prefix, line, .. } = packet;
    format!("{prefix}group={group} hook={hook} {line}")
}

fn as_json(packet: &PacketRow) -> serde_json::Value {
    let hex: String = packet.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serde_json::json!({
        "time": time(packet),
        "group": packet.group,
        "hook": packet.hook,
        "prefix": packet.prefix,
        "line": packet.line,
        "length": packet.len,
        "packet": hex,
    })
}
