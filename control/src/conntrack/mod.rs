//! `sumun conntrack`: what operators see of the flows and do to them, with the options and in the format of conntrack(8).

mod filter;
mod line;

use crate::ask::{Control, astray};
use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use filter::Matching;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use sumun_dataplane::protocol::{ConntrackStats, EventKind, EventRow, FlowFilter, FlowRow, Request, Response};

/// The command line after `sumun conntrack`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: Listing,
}

#[derive(Subcommand)]
enum Command {
    /// Print the flows; what `sumun conntrack` alone does too
    List(Listing),
    /// Print one flow, named whole by its original or its reply direction. Exit status 1 where there is none
    Get(Listing),
    /// Delete flows and print them. At least one condition must be given. Exit status 1 where there was none
    Delete(Listing),
    /// Delete all flows
    Flush,
    /// How many flows there are; with conditions, how many of them
    Count(Matching),
    /// Print what happens to flows, from now on until it is interrupted
    Events(Listening),
    /// Print the flows that helpers expect
    Expect {
        /// For programs, one object a line
        #[arg(long)]
        json: bool,
    },
    /// What connection tracking counted: a line for each worker, then the reasons of INVALID
    Stats {
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Listening {
    /// Which events: ALL, NEW, UPDATES, DESTROY
    #[arg(long, short, value_name = "EVENT[,...]", value_delimiter = ',', value_parser = kinds)]
    event_mask: Vec<u8>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Args, Default)]
struct Listing {
    #[command(flatten)]
    matching: Matching,
    #[command(flatten)]
    output: Output,
}

/// How flows are printed.
#[derive(Args, Default, Clone)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// What to print of a flow
    #[arg(long, short, value_name = "WHAT[,...]", value_delimiter = ',')]
    output: Vec<Detail>,
    /// For programs, one object a line: the same as `-o json`
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Detail {
    /// The family too
    Extended,
    /// What tells a flow from those that had the same addresses before
    Id,
    /// Before each event when it was told
    Timestamp,
    /// When the flow began and ended, where `nf_conntrack_timestamp` is on
    Ktimestamp,
    /// Labels, by number
    Labels,
    /// One JSON object a line
    Json,
}

impl Output {
    fn has(&self, detail: Detail) -> bool {
        self.output.contains(&detail)
    }

    fn is_json(&self) -> bool {
        self.json || self.has(Detail::Json)
    }

    /// Prints an event on a line.
    fn print_event(&self, out: &mut impl Write, event: &EventRow) -> anyhow::Result<()> {
        if self.is_json() {
            serde_json::to_writer(&mut *out, &line::event_as_json(event))?;
            return Ok(writeln!(out)?);
        }
        Ok(writeln!(out, "{}", line::event(event, self))?)
    }

    /// Prints a flow on a line.
    fn print(&self, out: &mut impl Write, flow: &FlowRow) -> anyhow::Result<()> {
        if self.is_json() {
            serde_json::to_writer(&mut *out, &line::as_json(flow))?;
            return Ok(writeln!(out)?);
        }
        Ok(writeln!(out, "{}", line::line(flow, self))?)
    }
}

/// Does what the command line says.
pub fn run(options: &Options, run_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let control = || Control::connect(run_dir);
    match &options.command {
        None => list(&mut control()?, &options.list, out),
        Some(Command::List(listing)) => list(&mut control()?, listing, out),
        Some(Command::Get(listing)) => get(control, listing, out),
        Some(Command::Delete(listing)) => delete(control, listing, out),
        Some(Command::Flush) => flush(&mut control()?),
        Some(Command::Count(matching)) => count(&mut control()?, matching, out),
        Some(Command::Events(listening)) => events(&mut control()?, listening, out),
        Some(Command::Expect { json }) => expect(&mut control()?, *json, out),
        Some(Command::Stats { json }) => stats(&mut control()?, *json, out),
    }
}

fn list(control: &mut Control, listing: &Listing, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let ask = |filter, from| Request::Conntrack { filter, from };
    let shown = control.flows(&listing.matching.filter(), ask, |flow| listing.output.print(out, &flow))?;
    out.flush()?;
    eprintln!("{shown} flow entries have been shown.");
    Ok(ExitCode::SUCCESS)
}

fn get(
    control: impl FnOnce() -> anyhow::Result<Control>,
    listing: &Listing,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let key = match listing.matching.key() {
        Ok(key) => key,
        Err(mistake) => return Ok(mistaken(&mistake)),
    };
    // Conditions beyond the key hold too; the zone is in it.
    let filter = FlowFilter { zone: None, ..listing.matching.filter() };
    match control()?.dataplane(Request::Flow(key))? {
        Response::Flows { flows, .. } => match flows.iter().find(|flow| filter.takes(flow)) {
            Some(flow) => listing.output.print(out, flow)?,
            None => bail!("there is no such flow"),
        },
        other => bail!(astray(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(
    control: impl FnOnce() -> anyhow::Result<Control>,
    listing: &Listing,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let filter = listing.matching.filter();
    if filter == FlowFilter::default() {
        return Ok(mistaken("delete which flows? Give a condition such as `-s 192.0.2.1`; `flush` deletes all"));
    }
    let ask = |filter, from| Request::DeleteFlows { filter, from };
    let deleted = control()?.flows(&filter, ask, |flow| listing.output.print(out, &flow))?;
    out.flush()?;
    eprintln!("{deleted} flow entries have been deleted.");
    Ok(ExitCode::from(u8::from(deleted == 0)))
}

fn flush(control: &mut Control) -> anyhow::Result<ExitCode> {
    match control.dataplane(Request::FlushFlows)? {
        Response::Count(_) => eprintln!("connection tracking table has been emptied."),
        other => bail!(astray(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn count(control: &mut Control, matching: &Matching, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match control.dataplane(Request::CountFlows(matching.filter()))? {
        Response::Count(count) => writeln!(out, "{count}")?,
        other => bail!(astray(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn events(control: &mut Control, listening: &Listening, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Listening { event_mask, listing } = listening;
    let kinds = if event_mask.is_empty() { EventKind::ALL } else { event_mask.iter().fold(0, |all, kind| all | kind) };
    control.events(listing.matching.filter(), kinds, |events, lost| {
        events.iter().try_for_each(|event| listing.output.print_event(out, event))?;
        if lost > 0 {
            eprintln!("{lost} events were lost: more happened than could be told");
        }
        Ok(out.flush()?)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn expect(control: &mut Control, json: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match control.dataplane(Request::Expectations)? {
        Response::Expectations(rows) => {
            for row in &rows {
                match json {
                    true => writeln!(out, "{}", line::expectation_as_json(row))?,
                    false => writeln!(out, "{}", row.line)?,
                }
            }
            out.flush()?;
            eprintln!("{} expectations have been shown.", rows.len());
        }
        other => bail!(astray(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The kinds of events of a word of `--event-mask`.
fn kinds(word: &str) -> Result<u8, String> {
    let kinds = [
        ("ALL", EventKind::ALL),
        ("NEW", EventKind::New.bit()),
        ("UPDATES", EventKind::Update.bit()),
        ("DESTROY", EventKind::Destroy.bit()),
    ];
    let found = kinds.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, bits)| *bits).ok_or_else(|| format!("events are {}", kinds.map(|(name, _)| name).join(", ")))
}

fn stats(control: &mut Control, json: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match control.dataplane(Request::ConntrackStats)? {
        Response::ConntrackStats(stats) if json => {
            serde_json::to_writer_pretty(&mut *out, &stats_as_json(&stats))?;
            writeln!(out)?;
        }
        Response::ConntrackStats(stats) => print_stats(out, &stats)?,
        other => bail!(astray(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// A command line that cannot be meant: status 2, as clap's own complaints.
fn mistaken(what: &str) -> ExitCode {
    eprintln!("error: {what}");
    ExitCode::from(2)
}

/// The lines of `conntrack -S`, and the reasons of INVALID that occurred.
fn print_stats(out: &mut impl Write, stats: &ConntrackStats) -> anyhow::Result<()> {
    for (number, worker) in stats.workers.iter().enumerate() {
        write!(out, "cpu={number:<4}\t")?;
        for (name, value) in worker {
            write!(out, "{name}={value} ")?;
        }
        writeln!(out)?;
    }
    for why in stats.invalid.iter().filter(|why| why.packets > 0) {
        writeln!(out, "invalid {:<20} {:>12}  {}", why.reason, why.packets, why.explanation)?;
    }
    Ok(())
}

fn stats_as_json(stats: &ConntrackStats) -> serde_json::Value {
    let worker = |(number, counts): (usize, &Vec<(String, u64)>)| {
        let mut object = serde_json::Map::new();
        object.insert("worker".to_string(), number.into());
        object.extend(counts.iter().map(|(name, value)| (name.clone(), (*value).into())));
        serde_json::Value::Object(object)
    };
    let invalid: serde_json::Map<_, _> =
        stats.invalid.iter().map(|why| (why.reason.clone(), why.packets.into())).collect();
    serde_json::json!({
        "workers": stats.workers.iter().enumerate().map(worker).collect::<Vec<_>>(),
        "invalid": invalid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumun_dataplane::protocol::InvalidCount;

    #[test]
    fn counters_are_printed_as_conntrack_prints_them() {
        let worker = |n| vec![("found".to_string(), n), ("invalid".to_string(), 2 * n)];
        let why = |reason: &str, packets| InvalidCount {
            reason: reason.to_string(),
            packets,
            explanation: "For people.".to_string(),
        };
        let stats = ConntrackStats {
            workers: vec![worker(0), worker(1)],
            invalid: vec![why("checksum", 0), why("tcp-new", 2)],
        };
        let mut out = Vec::new();
        print_stats(&mut out, &stats).unwrap();
        let expected = "cpu=0   \tfound=0 invalid=0 \ncpu=1   \tfound=1 invalid=2 \n\
                        invalid tcp-new                         2  For people.\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let json = stats_as_json(&stats);
        assert_eq!((&json["workers"][1]["invalid"], &json["invalid"]["tcp-new"]), (&2.into(), &2.into()));
    }
}
