//! The process around the router: from the command line to the exit status.
//!
//! ```text
//!  configuration ─▶ lock and socket ─▶ start the machine ─▶ serve control ─▶ housekeeping ─▶ SIGTERM ─▶ stop
//! ```
//!
//! What the machine is (ports, workers, engine) this module does not know: it gets a function that starts one, and so
//! everything here is tested without devices. The socket is claimed before any device is touched, so that a second
//! instance never disturbs the first. Exit status: 0 after SIGTERM or SIGINT, 2 for a configuration with mistakes, 1 for everything else.

use crate::server::claim::Claim;
use crate::server::{Server, Service, ready};
use anyhow::Context;
use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use sumun_config::diag::{self, Source};
use sumun_config::model::Appliance;
use sumun_config::{rule, schema};

/// The router's dataplane: opens the ports and forwards what the ruleset of `sumun control` allows
#[derive(Parser)]
#[command(name = "sumun-dataplane", version)]
pub struct Args {
    /// The configuration; of it the interfaces and the section `dataplane` are used
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Directory of the sockets, instead of the configuration's
    #[arg(long, value_name = "DIR", env = "SUMUN_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
}

/// A router at work: its ports are open and its workers run.
pub trait Machine {
    /// What answers control.
    fn service(&self) -> Arc<dyn Service>;

    /// What must be done now and then and is not a packet's business, such as writing log lines. Called every
    /// [`HOUSEKEEPING`]; an error says why the router cannot go on.
    fn housekeep(&mut self) -> Result<(), String>;

    /// Ends the workers and gives the devices back.
    fn stop(self: Box<Self>);
}

/// Between two rounds of housekeeping.
pub const HOUSEKEEPING: Duration = Duration::from_millis(20);

/// The whole life of the process. `start` opens the ports and starts the workers.
pub fn run(args: Args, start: impl FnOnce(&Appliance) -> anyhow::Result<Box<dyn Machine>>) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SUMUN_LOG").unwrap_or_else(|_| "info".into());
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color).init();
    let mut appliance = match load(&args.config) {
        Ok(appliance) => appliance,
        Err(failure) => return failure.report(color),
    };
    if let Some(run_dir) = args.run_dir {
        appliance.run_dir = run_dir;
    }
    match signals().and_then(|signals| live(&appliance, signals, start)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

/// Why there is no appliance to open.
enum Unusable {
    Unreadable(String),
    Mistakes(Box<Source>, Vec<diag::Diagnostic>),
}

impl Unusable {
    fn report(self, color: bool) -> ExitCode {
        match self {
            Unusable::Unreadable(reason) => {
                tracing::error!("{reason}");
                ExitCode::from(1)
            }
            Unusable::Mistakes(source, found) => {
                eprint!("{}", diag::render(&source, &found, color));
                ExitCode::from(2)
            }
        }
    }
}

/// The appliance of a configuration. All of the file must be right: half of it would be some other router.
fn load(file: &Path) -> Result<Appliance, Unusable> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| Unusable::Unreadable(format!("cannot read {name}: {error}")))?;
    let source = Source::decode(name, bytes).map_err(|mistake| {
        let (source, found) = *mistake;
        Unusable::Mistakes(Box::new(source), vec![found])
    })?;
    match schema::load(&source) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| tracing::warn!("{}", diag::short(&source, warning)));
            Ok(config.appliance)
        }
        Err(found) => Err(Unusable::Mistakes(Box::new(source), found)),
    }
}

/// Becomes readable at SIGTERM or SIGINT. SIGHUP, which means "read your configuration" to control, must not end the router.
fn signals() -> anyhow::Result<UnixStream> {
    let (end, tell) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, tell.try_clone()?)?;
    }
    signal_hook::flag::register(SIGHUP, Arc::default())?;
    Ok(end)
}

/// From the claim to the clean end, which comes when `end` becomes readable.
fn live(
    appliance: &Appliance,
    end: UnixStream,
    start: impl FnOnce(&Appliance) -> anyhow::Result<Box<dyn Machine>>,
) -> anyhow::Result<()> {
    let claim = Claim::take(&appliance.run_dir, "dataplane", "sumun-dataplane")?;
    let mut machine = start(appliance)?;
    let server = match Server::start(claim, machine.service()) {
        Ok(server) => server,
        Err(error) => {
            machine.stop();
            return Err(error).context("cannot serve control");
        }
    };
    let _ = ready::notify("READY=1");
    let until = match appliance.initial_policy {
        rule::Policy::Drop => "everything is dropped",
        rule::Policy::Accept => "everything is accepted",
    };
    tracing::warn!("no ruleset yet: {until} until `sumun control` publishes one");
    let outcome = keep_house(&mut *machine, &end);
    let _ = ready::notify("STOPPING=1");
    drop(server);
    machine.stop();
    tracing::info!("sumun-dataplane has stopped");
    outcome
}

fn keep_house(machine: &mut dyn Machine, end: &UnixStream) -> anyhow::Result<()> {
    let pause = PollTimeout::try_from(HOUSEKEEPING).context("a pause that poll(2) can count")?;
    loop {
        let ended = match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], pause) {
            Ok(ready) => ready > 0,
            Err(nix::errno::Errno::EINTR) => false,
            Err(errno) => return Err(errno).context("cannot wait for signals"),
        };
        machine.housekeep().map_err(anyhow::Error::msg)?;
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
