//! The router's two processes inside a lab.

use crate::{Host, Lab, sweep};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `sumun-dataplane` and `sumun control`, running on one configuration file; killed when dropped.
pub struct Router<'a> {
    host: &'a Host,
    /// Of sockets, configuration and logs.
    dir: &'a Path,
    /// The configuration file.
    pub config: PathBuf,
    dataplane: Option<Child>,
    control: Option<Child>,
}

/// Directory of the built programs: beside this one, or above where this is a test.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let beside = own.parent().expect("a program is in a directory");
    let above = beside.parent().filter(|_| beside.ends_with("deps"));
    above.unwrap_or(beside).to_path_buf()
}

/// What the configuration says first: where sockets are and which core works.
pub fn head(lab: &Lab, cores: &str) -> String {
    head_in(lab.dir.path(), cores)
}

/// The same for a router whose files are in this directory.
pub fn head_in(dir: &Path, cores: &str) -> String {
    format!(
        "[dataplane]\nrun-dir = \"{}\"\ncores = [{cores}]\nlog = \"file:{}\"\n\n",
        dir.join("run").display(),
        dir.join("packets.log").display()
    )
}

/// The interfaces of [`Lab`].
pub const INTERFACES: &str = r#"
[interfaces.lan0]
addresses = ["192.168.1.1/24", "fd00:1::1/64"]

[interfaces.wan0]
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]

[sysctl]
icmp_ratelimit = 0
icmpv6_ratelimit = 0
"#;

impl<'a> Router<'a> {
    /// Writes the configuration (rules after [`head`] and [`INTERFACES`]), starts both processes and waits for the ruleset.
    pub fn start(lab: &'a Lab, rules: &str) -> Result<Router<'a>> {
        Router::start_with(lab, &format!("{}{INTERFACES}{rules}", head(lab, "1")))
    }

    /// The same with two workers: queue 0 of each device is worker 0's, queue 1 is worker 1's.
    pub fn start_two(lab: &'a Lab, rules: &str) -> Result<Router<'a>> {
        Router::start_with(lab, &format!("{}{INTERFACES}{rules}", head(lab, "0, 1")))
    }

    /// The same with a whole configuration.
    pub fn start_with(lab: &'a Lab, config: &str) -> Result<Router<'a>> {
        Router::start_in(&lab.router, lab.dir.path(), config)
    }

    /// The same in any namespace, with the files in this directory.
    pub fn start_in(host: &'a Host, dir: &'a Path, config: &str) -> Result<Router<'a>> {
        sweep()?;
        let path = dir.join("router.toml");
        std::fs::write(&path, config)?;
        let mut router = Router { host, dir, config: path, dataplane: None, control: None };
        router.start_dataplane()?;
        router.start_control()?;
        router.wait_for_generation(1)?;
        Ok(router)
    }

    /// Starts `sumun-dataplane` and waits for its socket to answer.
    pub fn start_dataplane(&mut self) -> Result<()> {
        self.dataplane = Some(self.launch("sumun-dataplane", &["--config"], "dataplane.log")?);
        let socket = self.dir.join("run/dataplane.sock");
        wait("the dataplane's socket", || {
            self.check_alive()?;
            Ok(socket.exists())
        })
    }

    /// Starts `sumun control`.
    pub fn start_control(&mut self) -> Result<()> {
        self.control = Some(self.launch("sumun", &["control", "--config"], "control.log")?);
        let socket = self.dir.join("run/control.sock");
        wait("control's socket", || {
            self.check_alive()?;
            Ok(socket.exists())
        })
    }

    fn launch(&self, program: &str, args: &[&str], log: &str) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.dir.join(log))?;
        // The child becomes the program itself (`ip netns exec` execs), so its id is the program's.
        let mut command = self.host.command(&programs().join(program).display().to_string());
        command.args(args).arg(&self.config);
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).spawn().context(program.to_string())
    }

    fn check_alive(&mut self) -> Result<()> {
        for (name, child) in [("dataplane", &mut self.dataplane), ("control", &mut self.control)] {
            if let Some(child) = child
                && let Some(status) = child.try_wait()?
            {
                let log = std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
                bail!("{name} ended with {status}:\n{log}");
            }
        }
        Ok(())
    }

    /// Waits until all workers run this generation or a later one.
    pub fn wait_for_generation(&mut self, number: u64) -> Result<()> {
        wait("the generation", || {
            self.check_alive()?;
            let Ok(status) = self.status() else { return Ok(false) };
            Ok(status["generation"].as_u64().is_some_and(|g| g >= number) && status["settled"] == Value::Bool(true))
        })
    }

    /// `sumun ARGS`, with whatever end.
    pub fn sumun(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(programs().join("sumun"));
        command.args(args).env("SUMUN_RUN_DIR", self.dir.join("run")).stdin(Stdio::null());
        command.output().context("sumun")
    }

    /// `sumun ARGS` that has to succeed; what it prints.
    pub fn ask(&self, args: &[&str]) -> Result<String> {
        let output = self.sumun(args)?;
        ensure!(output.status.success(), "sumun {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `sumun status --json` says of the dataplane.
    pub fn status(&self) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.ask(&["status", "--json"])?)?;
        Ok(status["dataplane"].clone())
    }

    /// Packets dropped for a reason, by its name.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let drops: Value = serde_json::from_str(&self.ask(&["drops", "--all", "--json"])?)?;
        let row = drops.as_array().and_then(|rows| rows.iter().find(|r| r["reason"] == reason));
        row.and_then(|r| r["packets"].as_u64()).with_context(|| format!("no reason {reason} in {drops}"))
    }

    /// The flows in which all of these occur, as `conntrack -L` prints them.
    pub fn flows(&self, parts: &[&str]) -> Result<Vec<String>> {
        let all = self.ask(&["conntrack"])?;
        Ok(all.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(String::from).collect())
    }

    /// Writes new rules into the configuration file without telling anybody.
    pub fn rewrite(&self, rules: &str) -> Result<()> {
        let text = format!("{}{INTERFACES}{rules}", head_in(self.dir, "1"));
        let new = self.config.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.config)?;
        Ok(())
    }

    /// Sends a signal to the dataplane and waits for its end.
    pub fn end_dataplane(&mut self, signal: Signal) -> Result<()> {
        end(self.dataplane.take(), signal)
    }

    /// Ends the dataplane; every frame must be found then.
    pub fn end_whole(mut self) -> Result<()> {
        self.end_dataplane(Signal::SIGTERM)?;
        let log = self.log("dataplane.log");
        ensure!(!log.contains("frames were lost") && !log.contains("not lent"), "{log}");
        Ok(())
    }

    /// Sends a signal to control and waits for its end.
    pub fn end_control(&mut self, signal: Signal) -> Result<()> {
        end(self.control.take(), signal)
    }

    /// Process id of the dataplane.
    pub fn dataplane_pid(&self) -> u32 {
        self.dataplane.as_ref().map_or(0, Child::id)
    }

    /// A log of one of the processes.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }
}

fn end(child: Option<Child>, signal: Signal) -> Result<()> {
    let Some(mut child) = child else { return Ok(()) };
    kill(Pid::from_raw(child.id() as i32), signal)?;
    let until = Instant::now() + Duration::from_secs(10);
    while child.try_wait()?.is_none() {
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            bail!("did not end within 10 s of {signal}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Polls until it is so, for at most 15 seconds.
pub fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(15);
    while !is_so()? {
        if Instant::now() > until {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether a path exists; for [`wait`].
pub fn exists(path: &Path) -> Result<bool> {
    Ok(path.exists())
}

impl Drop for Router<'_> {
    fn drop(&mut self) {
        let _ = self.end_control(Signal::SIGTERM);
        let _ = self.end_dataplane(Signal::SIGTERM);
        if std::thread::panicking() {
            for log in ["dataplane.log", "control.log"] {
                eprintln!("--- {log}\n{}", self.log(log));
            }
        }
    }
}
