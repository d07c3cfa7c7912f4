//! `sumun control`: keeps the dataplane running what the configuration says.
//!
//! One loop does one thing after the other: the file changed, somebody applies another, the dataplane came or went. What
//! was accepted last is `running`; what is right in itself but cannot be published now, because the dataplane is away or
//! was started with other interfaces, is `pending` and gets its turn when a dataplane comes. A file with mistakes is
//! never more than a message. Control holds no state that a successor would need: the dataplane says what it runs.

mod link;
mod serve;
mod watch;

use crate::candidate::{self, Candidate, differences};
use crate::connect::{CONTROL, DATAPLANE};
use crate::message::{Apply, Response, Status, Text};
use anyhow::Context;
use link::Link;
use serve::Command;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sumun_dataplane::protocol;
use sumun_dataplane::server::claim::Claim;
use sumun_dataplane::server::ready;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use watch::Changes;

/// First and longest wait between two attempts to reach the dataplane. A dataplane that comes back must have its ruleset
/// within a second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// Why a candidate does not run.
enum Obstacle {
    /// The dataplane cannot take it now; another one perhaps can.
    Later(String),
    /// The dataplane has refused it.
    Refused(String),
}

impl Obstacle {
    fn reason(self) -> String {
        match self {
            Obstacle::Later(reason) | Obstacle::Refused(reason) => reason,
        }
    }
}

enum Event {
    Stop,
    Hangup,
    Changed,
    Command(Command),
    Linked(Link),
    Unreachable(String),
    Lost,
}

struct Daemon {
    file: PathBuf,
    /// The text that was looked at last; none where there was no file.
    seen: Option<Vec<u8>>,
    dataplane: PathBuf,
    link: Option<Link>,
    next_try: Instant,
    delay: Duration,
    /// An outage is logged once.
    told_away: bool,
    running: Option<Arc<Candidate>>,
    pending: Option<Arc<Candidate>>,
    problem: Option<String>,
    started: Instant,
}

struct Inputs {
    changes: Changes,
    commands: mpsc::Receiver<Command>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// How the daemon ended before it began.
pub enum Failure {
    /// The configuration has mistakes; they have been printed.
    Mistakes,
    /// Something else.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Other(error.into())
    }
}

/// Runs until SIGTERM or SIGINT. The run directory is the configuration's unless another is given.
pub fn run(file: &Path, run_dir: Option<PathBuf>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Watched before it is read, so that no change falls between.
        let changes = Changes::of(file).with_context(|| format!("cannot watch {}", file.display()))?;
        let seen = candidate::read(file).map_err(anyhow::Error::msg)?;
        let checked = candidate::check(&file.display().to_string(), seen.clone()).map_err(|mistakes| {
            mistakes.lines().for_each(|line| tracing::error!("{line}"));
            Failure::Mistakes
        })?;
        checked.warning_lines().for_each(|line| tracing::warn!("{line}"));
        let run_dir = run_dir.unwrap_or_else(|| checked.config.appliance.run_dir.clone());
        let claim = Claim::take(&run_dir, "control", CONTROL.name)?;
        let listener = claim.listener().try_clone()?;
        listener.set_nonblocking(true)?;
        let dataplane = run_dir.join(DATAPLANE.socket);
        let (sender, commands) = mpsc::channel(1);
        tokio::spawn(serve::serve(UnixListener::from_std(listener)?, dataplane.clone(), sender));
        let mut inputs = Inputs {
            changes,
            commands,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let mut daemon = Daemon {
            file: file.to_path_buf(),
            seen: Some(seen),
            dataplane,
            link: None,
            next_try: Instant::now(),
            delay: RETRY.0,
            told_away: false,
            running: None,
            pending: Some(Arc::new(Candidate::of(checked)?)),
            problem: None,
            started: Instant::now(),
        };
        let _ = ready::notify("READY=1");
        tracing::info!(config = %file.display(), run_dir = %run_dir.display(), "sumun control runs");
        while daemon.step(&mut inputs).await {}
        let _ = ready::notify("STOPPING=1");
        tracing::info!("sumun control stops; the dataplane goes on");
        drop(claim);
        Ok(())
    })
}

impl Daemon {
    /// Waits for what comes next and does it; false at the end.
    async fn step(&mut self, inputs: &mut Inputs) -> bool {
        match self.next(inputs).await {
            Event::Stop => return false,
            Event::Hangup => self.reload().await,
            Event::Changed => {
                inputs.changes.follow();
                if std::fs::read(&self.file).ok() != self.seen {
                    self.reload().await;
                }
            }
            Event::Command(Command::Apply(apply, reply)) => {
                let _ = reply.send(self.apply(apply).await);
            }
            Event::Command(Command::Status(dataplane, reply)) => {
                let _ = reply.send(self.status(dataplane));
            }
            Event::Linked(link) => self.linked(link).await,
            Event::Unreachable(reason) => {
                if !std::mem::replace(&mut self.told_away, true) {
                    tracing::warn!("{reason}; waiting for it");
                }
                self.next_try = Instant::now() + self.delay;
                self.delay = (self.delay * 2).min(RETRY.1);
            }
            Event::Lost => {
                tracing::warn!("sumun-dataplane has closed the connection");
                self.lose();
            }
        }
        true
    }

    async fn next(&self, inputs: &mut Inputs) -> Event {
        tokio::select! {
            _ = inputs.terminate.recv() => Event::Stop,
            _ = inputs.interrupt.recv() => Event::Stop,
            _ = inputs.hangup.recv() => Event::Hangup,
            _ = inputs.changes.next() => Event::Changed,
            Some(command) = inputs.commands.recv() => Event::Command(command),
            event = self.dataplane_event() => event,
        }
    }

    async fn dataplane_event(&self) -> Event {
        match &self.link {
            Some(link) => {
                link.closed().await;
                Event::Lost
            }
            None => {
                sleep_until(self.next_try).await;
                match Link::open(&self.dataplane).await {
                    Ok(link) => Event::Linked(link),
                    Err(reason) => Event::Unreachable(reason),
                }
            }
        }
    }

    fn lose(&mut self) {
        self.link = None;
        self.delay = RETRY.0;
        self.next_try = Instant::now();
        self.told_away = false;
    }

    /// A dataplane is there: it gets the newest candidate that it can take.
    async fn linked(&mut self, link: Link) {
        tracing::info!(pid = link.hello.pid, generation = link.hello.generation, "sumun-dataplane is there");
        self.link = Some(link);
        self.delay = RETRY.0;
        self.told_away = false;
        if let Some(newest) = self.pending.clone() {
            match self.propose(&newest).await {
                Ok(_) => return self.settle(newest),
                Err(obstacle) => self.keep_for_later(newest, obstacle),
            }
        }
        if let Some(last) = self.running.clone().filter(|_| self.link.is_some())
            && let Err(obstacle) = self.propose(&last).await
        {
            self.complain(&last.name, obstacle.reason());
        }
    }

    /// The candidate runs, and nothing newer waits.
    fn settle(&mut self, candidate: Arc<Candidate>) {
        self.running = Some(candidate);
        self.pending = None;
        self.problem = None;
    }

    /// The candidate does not run now.
    fn keep_for_later(&mut self, candidate: Arc<Candidate>, obstacle: Obstacle) {
        let name = candidate.name.clone();
        self.pending = matches!(obstacle, Obstacle::Later(_)).then_some(candidate);
        self.complain(&name, obstacle.reason());
    }

    /// Reads the file again and publishes it, if it is right.
    async fn reload(&mut self) {
        let name = self.file.display().to_string();
        let text = match candidate::read(&self.file) {
            Ok(text) => text,
            Err(reason) => {
                self.seen = None;
                return self.complain(&name, reason);
            }
        };
        self.seen = Some(text.clone());
        let checked = match candidate::check(&name, text) {
            Ok(checked) => checked,
            Err(mistakes) => {
                mistakes.lines().for_each(|line| tracing::error!("{line}"));
                return self.complain(&name, mistakes.count());
            }
        };
        checked.warning_lines().for_each(|line| tracing::warn!("{line}"));
        let candidate = match Candidate::of(checked) {
            Ok(candidate) => Arc::new(candidate),
            Err(error) => return self.complain(&name, error.to_string()),
        };
        match self.propose(&candidate).await {
            Ok(_) => self.settle(candidate),
            Err(obstacle) => self.keep_for_later(candidate, obstacle),
        }
    }

    fn complain(&mut self, name: &str, reason: String) {
        tracing::error!("{name} is not in force: {reason}");
        self.problem = Some(format!("{name} is not in force: {reason}"));
    }

    /// Makes the dataplane run the candidate, unless it does already; answers the generation.
    async fn propose(&mut self, candidate: &Candidate) -> Result<u64, Obstacle> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(Link::open(&self.dataplane).await.map_err(Obstacle::Later)?),
        };
        let differences = differences(&link.hello.appliance, &candidate.appliance);
        if !differences.is_empty() {
            let what = differences.join(", ");
            return Err(Obstacle::Later(format!("needs a restart of sumun-dataplane: {what} changed")));
        }
        if link.hello.digest == Some(candidate.digest) {
            tracing::info!(generation = link.hello.generation, "{} is what sumun-dataplane runs", candidate.title());
        } else {
            match link.publish(&candidate.payload).await {
                Ok(protocol::Response::Accepted { generation }) => {
                    link.hello.generation = generation;
                    link.hello.digest = Some(candidate.digest);
                    tracing::info!(generation, "{} runs", candidate.title());
                }
                Ok(protocol::Response::Refused { reason }) => {
                    return Err(Obstacle::Refused(format!("sumun-dataplane refuses it: {reason}")));
                }
                Ok(_) => {
                    self.lose();
                    return Err(Obstacle::Later("sumun-dataplane gave an answer to another question".to_string()));
                }
                Err(reason) => {
                    self.lose();
                    return Err(Obstacle::Later(reason));
                }
            }
        }
        Ok(link.hello.generation)
    }

    /// What is to be applied, and the names of interfaces in its rules that no port has.
    fn candidate(&self, apply: Apply) -> Result<(Candidate, Vec<String>), Response> {
        match apply {
            Apply::Configuration(Text { name, bytes }) => {
                let checked = candidate::check(&name, bytes)
                    .map_err(|mistakes| Response::Mistakes { text: mistakes.render(false) })?;
                let candidate =
                    Candidate::of(checked).map_err(|error| Response::Failed { reason: error.to_string() })?;
                Ok((candidate, Vec::new()))
            }
            Apply::Iptables(texts) => match self.running.as_ref().or(self.pending.as_ref()) {
                Some(base) => base.with_rules(texts),
                None => Err(Response::Failed { reason: "no configuration runs that these rules could be for".into() }),
            },
        }
    }

    async fn apply(&mut self, apply: Apply) -> Response {
        let (candidate, foreign) = match self.candidate(apply) {
            Ok((candidate, foreign)) => (Arc::new(candidate), foreign),
            Err(response) => return response,
        };
        match self.propose(&candidate).await {
            Ok(generation) => {
                let name = candidate.title();
                self.settle(candidate);
                let own = self.file.canonicalize().unwrap_or_else(|_| self.file.clone());
                let until = (own != Path::new(&name)).then(|| self.file.display().to_string());
                Response::Applied { generation, until, foreign }
            }
            Err(obstacle) => Response::Failed { reason: obstacle.reason() },
        }
    }

    fn status(&self, dataplane: Result<protocol::Status, String>) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            config: self.file.display().to_string(),
            running: self.running.as_ref().map(|c| c.title()),
            problem: self.problem.clone(),
            dataplane,
        }
    }
}
