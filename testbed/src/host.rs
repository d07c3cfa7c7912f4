//! A network namespace: commands and sockets inside it.

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::process::{Command, Output, Stdio};

/// What every namespace of this project is called first.
pub const PREFIX: &str = "sumun-";

/// A namespace, deleted when dropped.
pub struct Host {
    name: String,
}

impl Host {
    /// Makes a namespace with the loopback up and the settings that make tests deterministic.
    pub fn new(name: &str) -> Result<Host> {
        let host = Host { name: format!("{PREFIX}{name}") };
        ip(&["netns", "add", &host.name])?;
        host.ip("link set lo up")?;
        for setting in [
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.default.router_solicitations=0",
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
        ] {
            host.run(&["sysctl", "-qw", setting])?;
        }
        Ok(host)
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip ARGS` inside; the arguments are split at blanks.
    pub fn ip(&self, args: &str) -> Result<String> {
        let mut command = vec!["ip"];
        command.extend(args.split_whitespace());
        self.run(&command)
    }

    /// A command that is ready to start inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        command
    }

    /// Runs a command inside, with whatever end.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        self.command(args[0]).args(&args[1..]).output().with_context(|| format!("{args:?}"))
    }

    /// Runs a command inside and returns what it prints; an error where it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{}: {args:?}: {}{}",
            self.name,
            text,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Runs code on a thread of this namespace: sockets that it opens belong here.
    pub fn inside<T: Send>(&self, code: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.name, code)
    }

    /// Starts a thread of this namespace that outlives the call.
    pub fn spawn<T: Send + 'static>(
        &self,
        code: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T>> {
        let path = format!("/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let file = File::open(&path).with_context(|| path.clone())?;
            setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
            code()
        })
    }

    /// Whether `ping` gets all of `count` answers.
    pub fn pings(&self, address: &str, count: u32) -> bool {
        let count = count.to_string();
        let report = self.run(&["ping", "-n", "-q", "-i", "0.05", "-W", "2", "-c", &count, address]);
        report.is_ok_and(|report| report.contains(" 0% packet loss"))
    }

    /// Whether an address answers one ping within a second; an error where there is no ping.
    pub fn pings_once(&self, address: &str) -> Result<bool> {
        Ok(self.output(&["ping", "-n", "-q", "-c", "1", "-W", "1", address])?.status.success())
    }

    /// Whether an address answers all of so many pings with this many bytes of data.
    pub fn pings_with(&self, address: &str, count: u32, bytes: usize) -> bool {
        let (count, bytes) = (count.to_string(), bytes.to_string());
        let ping = ["ping", "-n", "-q", "-i", "0.05", "-W", "2", "-M", "dont", "-c", &count, "-s", &bytes, address];
        self.run(&ping).is_ok_and(|report| report.contains(" 0% packet loss"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Runs code on a thread of the network namespace that ip(8) knows by this name.
pub fn inside<T: Send>(namespace: &str, code: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{namespace}");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let file = File::open(&path).with_context(|| path.clone())?;
            setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
            code()
        });
        match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the code inside {namespace} panicked"),
        }
    })
}

/// `ip` outside of all namespaces of this project.
pub fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("ip")?;
    ensure!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Joins two namespaces by a veth pair. Frames of local sockets get whole checksums, as on a wire.
pub fn join(a: &Host, a_dev: &str, b: &Host, b_dev: &str, queues: u32) -> Result<()> {
    let queues = queues.to_string();
    let mut args = vec!["link", "add", a_dev, "netns", a.name(), "numrxqueues", &queues, "numtxqueues", &queues];
    args.extend(["type", "veth", "peer", "name", b_dev, "netns", b.name()]);
    args.extend(["numrxqueues", &queues, "numtxqueues", &queues]);
    ip(&args)?;
    for (host, device) in [(a, a_dev), (b, b_dev)] {
        host.run(&["ethtool", "-K", device, "tx", "off", "gso", "off", "tso", "off", "gro", "on"])?;
        host.ip(&format!("link set {device} up"))?;
    }
    Ok(())
}
