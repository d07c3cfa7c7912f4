//! `sumun doctor`: what is wrong on this machine for a configuration, what it does to the router, and the command that mends it.
//!
//! [`gather`] looks at the machine and fills in [`Facts`]; the checks, one file for each group, are pure functions of them and
//! of the configuration. With `--fix` the commands that are safe are run: those that lose no address and no connection of
//! the kernel's, stop nothing and write no file that outlives the boot. Then the machine is looked at again.

mod beyond;
mod cores;
mod device;
mod facts;
mod fix;
mod gather;
mod host;
mod kernel;
mod netlink;
mod peer;
#[cfg(test)]
mod sample;
mod spread;
mod stack;

use clap::Args;
use facts::Facts;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use sumun_config::model::Config;

/// `sumun doctor`.
#[derive(Args)]
pub struct Options {
    /// The configuration; without it the machine alone is looked at
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run the commands that are safe, and say which
    #[arg(long)]
    pub fix: bool,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The router does not start, or loses packets.
    Broken,
    /// It works, and could do better.
    Slow,
    /// Worth knowing.
    Note,
}

/// Something that was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The device, `machine`, or `host` for the namespace of the TAPs.
    pub about: String,
    /// What was found.
    pub found: String,
    /// What it does to the router.
    pub effect: String,
    /// What mends it.
    pub remedy: Remedy,
}

/// What mends something.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Remedy {
    /// A command that `--fix` may run.
    Run(Vec<String>),
    /// Text for a file of /proc or /sys that `--fix` may write.
    Set {
        /// The file.
        file: String,
        /// What it shall hold.
        text: String,
    },
    /// A command that the operator decides on: it takes something away.
    Command(String),
    /// Something else to do.
    Advice(String),
}

impl Remedy {
    /// A command that may be run, by its words.
    fn run(words: &str) -> Remedy {
        Remedy::Run(words.split_whitespace().map(String::from).collect())
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Remedy::Run(words) => words.join(" "),
            Remedy::Set { file, text } => format!("echo {text} > {file}"),
            Remedy::Command(text) | Remedy::Advice(text) => text.clone(),
        }
    }

    /// Whether `--fix` carries it out.
    pub fn is_safe(&self) -> bool {
        matches!(self, Remedy::Run(_) | Remedy::Set { .. })
    }
}

/// Findings as they come.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        about: &str,
        found: impl Into<String>,
        effect: impl Into<String>,
        remedy: Remedy,
    ) {
        let (about, found, effect) = (about.to_string(), found.into(), effect.into());
        self.0.push(Finding { severity, about, found, effect, remedy });
    }
}

/// All that is to be said, the worst first.
fn examine(facts: &Facts, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = Findings::default();
    kernel::check(facts, config.map(|config| &config.appliance), &mut findings);
    if let Some(config) = config {
        for check in [device::check, peer::check, spread::check, stack::check, cores::check] {
            check(facts, &config.appliance, &mut findings);
        }
        host::check(facts, config, &mut findings);
    }
    findings.0.sort_by_key(|finding| finding.severity);
    findings.0
}

/// Looks, mends where that is asked for, and says what is left. Status 1 where something is broken still.
pub fn run(options: &Options, config: Option<&Config>, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut findings = examine(&gather::gather(config)?, config);
    let mut done = Vec::new();
    if options.fix {
        // What one command mends may be what another needs: a device must be up before its queues can change.
        for _ in 0..3 {
            let before = done.len();
            for finding in findings.iter().filter(|finding| finding.remedy.is_safe()) {
                if !done.iter().any(|(remedy, _): &(Remedy, _)| *remedy == finding.remedy) {
                    done.push((finding.remedy.clone(), fix::carry_out(&finding.remedy)));
                }
            }
            findings = examine(&gather::gather(config)?, config);
            if done.len() == before {
                break;
            }
        }
    }
    if options.json {
        let rows: Vec<serde_json::Value> = findings.iter().map(as_json).collect();
        let done: Vec<serde_json::Value> = done
            .iter()
            .map(|(remedy, outcome)| serde_json::json!({ "command": remedy.shown(), "error": outcome.as_ref().err() }))
            .collect();
        serde_json::to_writer_pretty(&mut *out, &serde_json::json!({ "done": done, "findings": rows }))?;
        writeln!(out)?;
    } else {
        for (remedy, outcome) in &done {
            match outcome {
                Ok(()) => writeln!(out, "done     {}", remedy.shown())?,
                Err(why) => writeln!(out, "FAILED   {}: {why}", remedy.shown())?,
            }
        }
        print(out, &findings)?;
    }
    let broken = findings.iter().any(|finding| finding.severity == Severity::Broken);
    Ok(ExitCode::from(broken as u8))
}

fn as_json(finding: &Finding) -> serde_json::Value {
    serde_json::json!({
        "severity": finding.severity,
        "about": finding.about,
        "found": finding.found,
        "effect": finding.effect,
        "remedy": finding.remedy.shown(),
        "fix": finding.remedy.is_safe(),
    })
}

fn print(out: &mut impl Write, findings: &[Finding]) -> std::io::Result<()> {
    if findings.is_empty() {
        return writeln!(out, "nothing is wrong");
    }
    for finding in findings {
        let severity = match finding.severity {
            Severity::Broken => "BROKEN",
            Severity::Slow => "slow",
            Severity::Note => "note",
        };
        writeln!(out, "{severity:<8} {}: {}", finding.about, finding.found)?;
        writeln!(out, "         {}", finding.effect)?;
        writeln!(out, "         -> {}", finding.remedy.shown())?;
    }
    let safe = findings.iter().filter(|finding| finding.remedy.is_safe()).count();
    if safe > 0 {
        writeln!(out, "`sumun doctor --fix` does {safe} of these")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::sample::{config_of, facts};
    use super::*;

    #[test]
    fn a_machine_in_order_has_no_findings() {
        assert_eq!(examine(&facts(), Some(&config_of(""))), []);
        let mut out = Vec::new();
        print(&mut out, &[]).unwrap();
        assert_eq!(out, b"nothing is wrong\n");
    }

    #[test]
    fn findings_come_with_effect_and_command_the_worst_first() {
        let mut facts = facts();
        facts.device("eth1").up = false;
        facts.irqbalance = true;
        let findings = examine(&facts, Some(&config_of("")));
        let mut out = Vec::new();
        print(&mut out, &findings).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("BROKEN   eth1: the device is down\n"), "{text}");
        assert!(text.contains("         -> ip link set dev eth1 up\nslow     machine: irqbalance"), "{text}");
        assert!(text.ends_with("`sumun doctor --fix` does 1 of these\n"), "{text}");
        assert_eq!(as_json(&findings[0])["fix"], true);
        assert_eq!(as_json(&findings[0])["severity"], "broken");
    }
}
