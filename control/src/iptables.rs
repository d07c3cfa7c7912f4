//! `sumun import iptables` and `sumun export iptables`: rules as the text of iptables, in and out.

use crate::ask::{Control, astray};
use crate::candidate;
use crate::show::rules::counter;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use sumun_config::diag::{Diagnostic, Source, render};
use sumun_config::facts::Family;
use sumun_config::firewalld;
use sumun_config::iptables::{self, Import, Surroundings};
use sumun_config::model::{Names, Policy};
use sumun_config::rule::Table;
use sumun_config::ruleset::Ruleset;
use sumun_dataplane::protocol::{self, Counter, Counters};

/// Rules of another firewall as TOML sections on standard output
#[derive(Subcommand)]
pub enum ImportFrom {
    /// What iptables-save or ip6tables-save printed, or a script of iptables commands
    Iptables(ImportArgs),
    /// firewalld's permanent configuration
    Firewalld(FirewalldArgs),
    /// What `ipset save` printed
    Ipset {
        /// The text; `-` is standard input
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct ImportArgs {
    /// Rules of IPv6, where the text does not say it
    #[arg(long, short = '6')]
    ipv6: bool,
    /// The configuration that the rules are for: its ports, and the names that it defines
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The text; `-` is standard input
    file: PathBuf,
}

#[derive(Args)]
pub struct FirewalldArgs {
    /// The configuration that the rules are for: its ports, and the names that it defines
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the services and zones are that come with firewalld
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/firewalld")]
    system: PathBuf,
    /// The folder of the configuration, such as /etc/firewalld
    dir: PathBuf,
}

/// The rules for another firewall
#[derive(Subcommand)]
pub enum ExportTo {
    /// The running rules for iptables-restore
    Iptables(ExportArgs),
}

#[derive(Args)]
pub struct ExportArgs {
    /// The rules of IPv6, for ip6tables-restore
    #[arg(long, short = '6')]
    ipv6: bool,
    /// With packets and bytes of policies and rules
    #[arg(long, short)]
    counters: bool,
    /// The rules of this configuration; needs no daemon
    #[arg(long, value_name = "FILE", conflicts_with = "counters")]
    config: Option<PathBuf>,
}

/// Reads a file, or standard input where it is `-`.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file != Path::new("-") {
        return candidate::read(file).map_err(anyhow::Error::msg);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
    Ok(bytes)
}

/// Understands the text of iptables.
pub fn understand(name: &str, bytes: Vec<u8>, around: Surroundings) -> Result<Import, (Source, Vec<Diagnostic>)> {
    let source = Source::decode(name, bytes).map_err(|mistake| {
        let (source, found) = *mistake;
        (source, vec![found.with_help("text in UTF-8, comments too")])
    })?;
    iptables::read(&source, around).map_err(|found| (source, found))
}

/// `sumun import`
pub fn import(from: &ImportFrom, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let ImportArgs { ipv6, config, file } = match from {
        ImportFrom::Iptables(args) => args,
        ImportFrom::Firewalld(args) => return firewalld(args, out),
        ImportFrom::Ipset { file } => return crate::set::import(file, out),
    };
    let Some(policy) = policy(config.as_deref())? else { return Ok(ExitCode::from(2)) };
    let around = Surroundings {
        family: ipv6.then_some(Family::V6),
        ports: policy.as_ref().map_or(&[], |policy| &policy.ports),
        names: policy.as_ref().map_or(Names::NONE, Policy::names),
    };
    match understand(&file.display().to_string(), read(file)?, around) {
        Ok(import) => {
            out.write_all(import.toml().as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err((source, found)) => {
            eprint!("{}", render(&source, &found, super::color()));
            Ok(ExitCode::from(2))
        }
    }
}

/// What the configuration says that rules are for; none where it has mistakes.
fn policy(config: Option<&Path>) -> anyhow::Result<Option<Option<Policy>>> {
    let Some(config) = config else { return Ok(Some(None)) };
    Ok(super::check(config)?.map(|checked| Some(checked.config.policy)))
}

/// `sumun import firewalld`
fn firewalld(args: &FirewalldArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Some(policy) = policy(args.config.as_deref())? else { return Ok(ExitCode::from(2)) };
    let files = firewalld::Files::open(&args.dir, &args.system).map_err(anyhow::Error::msg)?;
    let ports = policy.as_ref().map_or(&[][..], |policy| &policy.ports);
    match firewalld::toml(files, ports, policy.as_ref().map_or(Names::NONE, Policy::names)) {
        Ok(toml) => {
            out.write_all(toml.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(mistaken) => {
            for (source, found) in mistaken {
                eprint!("{}", render(&source, &found, super::color()));
            }
            Ok(ExitCode::from(2))
        }
    }
}

/// `sumun export`
pub fn export(to: &ExportTo, run_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let ExportTo::Iptables(ExportArgs { ipv6, counters, config }) = to;
    let (ruleset, counted) = match config {
        Some(config) => match super::check(config)? {
            Some(checked) => (checked.config.policy.ruleset, Counters::default()),
            None => return Ok(ExitCode::from(2)),
        },
        None => running(run_dir)?,
    };
    let family = if *ipv6 { Family::V6 } else { Family::V4 };
    let count = |table: Table, chain: usize, rule: Option<usize>| {
        let Counter { packets, bytes } = counter(&counted, family, table, chain, rule);
        (packets, bytes)
    };
    let program = concat!("sumun export v", env!("CARGO_PKG_VERSION"));
    let time = chrono::Local::now().format("%a %b %e %H:%M:%S %Y").to_string();
    let text = iptables::save(&ruleset, family, (program, &time), counters.then_some(&count));
    out.write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What the dataplane runs.
fn running(run_dir: &Path) -> anyhow::Result<(Ruleset, Counters)> {
    match Control::connect(run_dir)?.dataplane(protocol::Request::Rules)? {
        protocol::Response::Rules(rules) => match &rules.policy {
            Some(policy) => Ok((protocol::decode::<Policy>(policy)?.ruleset, rules.counters)),
            None => bail!("no ruleset has been published yet: the initial policy runs"),
        },
        other => bail!(astray(&other)),
    }
}
