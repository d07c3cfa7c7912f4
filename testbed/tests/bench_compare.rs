//! `sumun-bench compare`: all contestants take their turns, figures and pictures are there, and nothing stays behind, however it ends.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use sumun_testbed::host::ip;
use sumun_testbed::router::{programs, wait};
use tempfile::TempDir;

/// A run whose files are in a directory of its own.
struct Run {
    child: Child,
    files: TempDir,
}

impl Run {
    /// With this PATH, where one is given.
    fn start(arguments: &[&str], path: Option<&Path>) -> Result<Run> {
        let files = tempfile::tempdir()?;
        let mut command = Command::new(programs().join("sumun-bench"));
        command.arg("compare").args(arguments).env("TMPDIR", files.path()).env("RUST_BACKTRACE", "0");
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Run { child: command.spawn().context("sumun-bench")?, files })
    }

    fn namespaces(&self) -> Result<usize> {
        let prefix = format!("sumun-{}-", self.child.id());
        Ok(ip(&["netns", "list"])?.lines().filter(|line| line.starts_with(&prefix)).count())
    }

    /// Processes that were told of its files.
    fn processes(&self) -> Result<usize> {
        let files = self.files.path().display().to_string();
        let told = fs::read_dir("/proc")?.flatten().filter(|entry| {
            let told = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&told).contains(&files)
        });
        Ok(told.count())
    }

    /// Waits for its end and looks whether anything is left. Whether it went well, and what it said.
    fn end(mut self) -> Result<(bool, String)> {
        let until = Instant::now() + Duration::from_secs(90);
        while self.child.try_wait()?.is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let in_time = self.child.try_wait()?.is_some();
        let _ = self.child.kill();
        let (namespaces, processes) = (self.namespaces()?, self.processes()?);
        let left: Vec<_> = fs::read_dir(self.files.path())?.flatten().map(|entry| entry.path()).collect();
        let output = self.child.wait_with_output()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ensure!(in_time, "it did not end: {text}");
        ensure!((namespaces, processes) == (0, 0), "{namespaces} namespaces, {processes} processes are left: {text}");
        ensure!(left.is_empty(), "{left:?} are left: {text}");
        Ok((output.status.success(), text))
    }
}

#[test]
fn a_quick_comparison_has_figures_of_all_and_pictures_in_both_forms() -> Result<()> {
    let results = tempfile::tempdir()?;
    let (json, plots) = (results.path().join("figures.json"), results.path().join("plots"));
    let (json, plots) = (json.display().to_string(), plots.display().to_string());
    let (is_well, text) = Run::start(&["--quick", "--json", &json, "--plot", &plots], None)?.end()?;
    ensure!(is_well, "{text}");
    let figures: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let empty = Vec::new();
    let rows = |name: &str| figures[name].as_array().unwrap_or(&empty).clone();
    let works = [
        ("forward", serde_json::json!("forward"), &["sumun", "kernel"][..]),
        ("masquerade", serde_json::json!("masquerade"), &["sumun", "iptables-legacy", "iptables-nft", "nft"]),
        ("rules", serde_json::json!({"rules": 100}), &["sumun", "iptables-legacy", "iptables-nft", "nft"]),
    ];
    for (name, work, contestants) in works {
        for contestant in contestants {
            let of = |row: &&Value| row["work"] == work && row["contestant"] == *contestant;
            let row = rows("throughput").iter().find(of).cloned().with_context(|| format!("{contestant}, {name}"))?;
            ensure!(row["mpps"].as_f64().is_some_and(|mpps| mpps > 0.0), "{row}");
            ensure!(row["arrangement"].is_null() == (*contestant == "sumun"), "{row}");
            ensure!(
                row["others"].as_array().map(Vec::len) == Some(if *contestant == "sumun" { 0 } else { 3 }),
                "{row}"
            );
            let row = rows("latency").iter().find(of).cloned().with_context(|| format!("{contestant}, {name}"))?;
            let (half, most) = (row["p50_us"].as_f64().unwrap_or(0.0), row["p99_us"].as_f64().unwrap_or(0.0));
            ensure!(half > 0.0 && half <= most, "{row}");
        }
    }
    for name in ["rules", "flows", "latency"] {
        let svg = fs::read_to_string(format!("{plots}/{name}.svg"))?;
        ensure!(svg.starts_with("<svg") && svg.contains("Sumun"), "{name}.svg: {svg}");
        let png = fs::read(format!("{plots}/{name}.png"))?;
        ensure!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{name}.png is no PNG");
    }
    ensure!(text.contains("| plain forward | 1,000 | kernel |"), "{text}");
    Ok(())
}

#[test]
fn nothing_stays_behind_an_interrupted_comparison() -> Result<()> {
    let run = Run::start(&["--seconds", "60"], None)?;
    // The dataplane, control and this moment's measurement: the most that there is to clean up.
    wait("Sumun's processes", || Ok(run.processes()? >= 2 && run.namespaces()? >= 6))?;
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(run.child.id() as i32), Signal::SIGINT)?;
    let (is_well, text) = run.end()?;
    ensure!(!is_well && text.contains("interrupted"), "{text}");
    Ok(())
}

#[test]
fn who_is_missing_is_left_out_and_nothing_stays_behind_a_failure() -> Result<()> {
    let tools = tempfile::tempdir()?;
    for tool in ["ip", "ethtool", "sysctl", "sh", "iptables-nft", "iptables-nft-restore"] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().map(|dir| Path::new(dir).join(tool));
        let found = found.into_iter().find(|path| path.exists()).with_context(|| tool.to_string())?;
        symlink(found, tools.path().join(tool))?;
    }
    // It is there, and breaks when it gets its rules.
    let nft = tools.path().join("nft");
    fs::write(&nft, "#!/bin/sh\nif [ \"$1\" = -f ]; then echo out of order >&2; exit 1; fi\n")?;
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755))?;
    let (is_well, text) = Run::start(&["--quick"], Some(tools.path()))?.end()?;
    ensure!(!is_well && text.contains("out of order"), "{text}");
    ensure!(text.contains("iptables-legacy is left out"), "{text}");
    Ok(())
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_reason() -> Result<()> {
    for (arguments, expected) in [
        ("--cores 0", "--cores takes two"),
        ("--cores 0,0", "a core each"),
        ("--cores 0,4095", "no core 4095"),
        ("--rounds 0", "--rounds is from 1"),
        ("--seconds 0", "--seconds is from"),
        ("--flows 0", "--flows are from 1"),
        ("--rules 200000", "--rules are from 1"),
        ("--quick --rounds 3", "cannot be used with"),
        ("--plot /proc/version", "--plot /proc/version"),
    ] {
        let (is_well, text) = Run::start(&arguments.split(' ').collect::<Vec<_>>(), None)?.end()?;
        ensure!(!is_well && text.contains(expected), "{arguments}: `{expected}` is not in: {text}");
    }
    Ok(())
}
