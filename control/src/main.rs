//! `sumun`: the operator's command line, and with `sumun control` the daemon behind it.
//!
//! Exit status: 0 done, 1 it could not be done, 2 the configuration or the command line has mistakes.

mod ask;
mod candidate;
mod connect;
mod conntrack;
mod daemon;
mod doctor;
mod iptables;
mod message;
mod nflog;
mod objects;
mod pages;
mod routes;
mod set;
mod show;
mod simulate;

use anyhow::{Context, bail};
use ask::{Control, astray};
use clap::{Args, CommandFactory, Parser, Subcommand};
use message::{Apply, Request, Response, Text};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use sumun_config::facts::Family;
use sumun_config::rule::{Table, reference};
use sumun_dataplane::protocol;

/// Router and firewall with netfilter's semantics: its control process and command line
#[derive(Parser)]
#[command(name = "sumun", version, arg_required_else_help = true)]
struct Cli {
    /// Directory of the sockets. Default: /run/sumun; for `control` what the configuration says
    #[arg(long, global = true, value_name = "DIR", env = "SUMUN_RUN_DIR")]
    run_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon: publish the configuration, and again whenever the file changes or on SIGHUP
    Control {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what is wrong with a configuration, all of it at once. Needs no daemon
    Check {
        /// The configuration
        file: PathBuf,
    },
    /// What is wrong on this machine for a configuration, what it does to the router, and the command that mends it. Needs no
    /// daemon. Status 1 where something is broken
    Doctor(doctor::Options),
    /// Run this configuration now, until the watched file changes
    Apply(ApplyArgs),
    /// Send recorded frames through this configuration and show what becomes of them. Needs no daemon and no root
    Simulate(simulate::Options),
    /// Rules of another firewall as TOML sections on standard output. Needs no daemon
    #[command(subcommand)]
    Import(iptables::ImportFrom),
    /// The rules for another firewall, on standard output
    #[command(subcommand)]
    Export(iptables::ExportTo),
    /// How the processes, the ports and the ruleset are
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// The running rules as iptables-save prints them
    Rules(RulesArgs),
    /// The tracked flows, and what happens to them: with the options and in the format of conntrack(8)
    Conntrack(Box<conntrack::Options>),
    /// The sets that rules use, and their elements: with the commands and in the formats of ipset(8)
    #[command(subcommand)]
    Set(set::Command),
    /// The packets that NFLOG rules meet from now on
    Nflog(nflog::Options),
    /// Where packets were dropped and why
    Drops {
        /// Also the reasons that never occurred
        #[arg(long)]
        all: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// What can stand in a rule: all matches and targets with their options, or one of them. Needs no daemon
    Reference {
        /// A match or target
        name: Option<String>,
    },
    /// Set the counters of all rules and policies to zero
    Zero,
    /// What lists of `recent` remember, as /proc/net/xt_recent shows it
    #[command(subcommand)]
    Recent(objects::Recent),
    /// Entries of tables of `hashlimit`, as /proc/net/ipt_hashlimit shows them
    #[command(subcommand)]
    Hashlimit(objects::Hashlimit),
    /// The timers of IDLETIMER: label, seconds left, active or idle
    Timers {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// What rules with `-m nfacct` counted, as nfacct(8) lists it
    Accounts {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// The routes in force, and where a packet would go: with the words and in the format of ip-route(8)
    Routes(routes::Options),
    /// Neighbours (ARP and NDP) as ip-neighbour(8) prints them
    Neighbours {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// What makes a shell complete these commands, on standard output. Needs no daemon
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command. Needs no daemon
    Man {
        /// Where to; it is made where it is not there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Args)]
struct FamilyArgs {
    /// IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
}

impl FamilyArgs {
    fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        }
    }
}

#[derive(Args)]
struct ApplyArgs {
    /// The configuration
    #[arg(required_unless_present_any = ["iptables", "ip6tables"], conflicts_with_all = ["iptables", "ip6tables"])]
    file: Option<PathBuf>,
    /// Leave the configuration, and take the rules of IPv4 from this: what iptables-save printed, or a script of iptables
    /// commands; `-` is standard input
    #[arg(long, value_name = "FILE")]
    iptables: Option<PathBuf>,
    /// The same for IPv6
    #[arg(long, value_name = "FILE")]
    ip6tables: Option<PathBuf>,
}

#[derive(Args)]
struct RulesArgs {
    /// With packets and bytes before each rule, as iptables-save -c
    #[arg(long, short)]
    counters: bool,
    /// This table only
    #[arg(long, short, value_name = "TABLE", value_parser = table)]
    table: Option<Table>,
    #[command(flatten)]
    family: FamilyArgs,
    /// For programs
    #[arg(long)]
    json: bool,
}

fn table(name: &str) -> Result<Table, String> {
    let names = || Table::ALL.map(Table::name).join(", ");
    Table::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| format!("tables are {}", names()))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        // Whoever reads our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sumun: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let run_dir = cli.run_dir.clone().unwrap_or_else(|| PathBuf::from("/run/sumun"));
    let mut out = io::BufWriter::new(io::stdout().lock());
    match cli.command {
        Command::Control { config } => return control(&config, cli.run_dir),
        Command::Check { file } => match check(&file)? {
            Some(checked) => writeln!(out, "{}", show::summary(&checked))?,
            None => return Ok(ExitCode::from(2)),
        },
        Command::Simulate(options) => match check(&options.config)? {
            Some(checked) => simulate::run(&options, checked.config, &mut out)?,
            None => return Ok(ExitCode::from(2)),
        },
        Command::Doctor(options) => {
            let config = match &options.config {
                Some(file) => match check(file)? {
                    Some(checked) => Some(checked.config),
                    None => return Ok(ExitCode::from(2)),
                },
                None => None,
            };
            let code = doctor::run(&options, config.as_ref(), &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Apply(args) => return apply(&run_dir, &args),
        Command::Status { json } => match Control::connect(&run_dir)?.ask(&Request::Status)? {
            Response::Status(status) => {
                show::status::print(&mut out, &status, json)?;
                out.flush()?;
                return Ok(ExitCode::from(status.dataplane.is_err() as u8));
            }
            Response::Failed { reason } => bail!(reason),
            other => bail!(astray(&other)),
        },
        Command::Rules(args) => match Control::connect(&run_dir)?.dataplane(protocol::Request::Rules)? {
            protocol::Response::Rules(rules) => {
                let selection =
                    show::rules::Selection { family: args.family.family(), table: args.table, counters: args.counters };
                show::rules::print(&mut out, &rules, &selection, args.json)?;
            }
            other => bail!(astray(&other)),
        },
        Command::Import(from) => {
            let code = iptables::import(&from, &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Export(to) => {
            let code = iptables::export(&to, &run_dir, &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Conntrack(options) => {
            let code = conntrack::run(&options, &run_dir, &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Set(command) => {
            let code = set::run(&command, &run_dir, &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Nflog(options) => nflog::run(&options, &run_dir, &mut out)?,
        Command::Drops { all, json } => match Control::connect(&run_dir)?.dataplane(protocol::Request::Drops)? {
            protocol::Response::Drops(drops) => show::drops::print(&mut out, &drops, all, json)?,
            other => bail!(astray(&other)),
        },
        Command::Reference { name: None } => write!(out, "{}", reference::page())?,
        Command::Reference { name: Some(name) } => match reference::named(&name) {
            Some(entry) => write!(out, "{entry}")?,
            None => bail!("there is no match or target {name}; there are {}", reference::names().join(", ")),
        },
        Command::Completions { shell } => pages::complete(Cli::command(), shell, &mut out)?,
        Command::Man { directory } => pages::manual(Cli::command(), &directory)?,
        Command::Zero => match Control::connect(&run_dir)?.dataplane(protocol::Request::Zero)? {
            protocol::Response::Done => {}
            other => bail!(astray(&other)),
        },
        Command::Routes(options) => {
            let code = routes::run(&options, &run_dir, &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Recent(what) => objects::ask(what.request(), &run_dir, &mut out)?,
        Command::Hashlimit(what) => objects::ask(what.request(), &run_dir, &mut out)?,
        Command::Timers { json } => match Control::connect(&run_dir)?.dataplane(protocol::Request::Timers)? {
            protocol::Response::Timers(rows) => show::timers::print(&mut out, &rows, json)?,
            other => bail!(astray(&other)),
        },
        Command::Accounts { json } => match Control::connect(&run_dir)?.dataplane(protocol::Request::Accounts)? {
            protocol::Response::Accounts(rows) => show::accounts::print(&mut out, &rows, json)?,
            other => bail!(astray(&other)),
        },
        Command::Neighbours { json } => match Control::connect(&run_dir)?.dataplane(protocol::Request::Neighbours)? {
            protocol::Response::Neighbours(rows) => show::neighbours::print(&mut out, &rows, json)?,
            other => bail!(astray(&other)),
        },
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn control(config: &Path, run_dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SUMUN_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(color()).init();
    match daemon::run(config, run_dir) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(daemon::Failure::Mistakes) => Ok(ExitCode::from(2)),
        Err(daemon::Failure::Other(error)) => Err(error),
    }
}

/// Reads and checks a file, and prints what is to be said of it; none where it cannot be used.
fn check(file: &Path) -> anyhow::Result<Option<candidate::Checked>> {
    let bytes = candidate::read(file).map_err(anyhow::Error::msg)?;
    match candidate::check(&file.display().to_string(), bytes) {
        Ok(checked) => {
            eprint!("{}", checked.render_warnings(color()));
            Ok(Some(checked))
        }
        Err(mistakes) => {
            eprint!("{}", mistakes.render(color()));
            Ok(None)
        }
    }
}

fn apply(run_dir: &Path, args: &ApplyArgs) -> anyhow::Result<ExitCode> {
    let (apply, title) = match &args.file {
        Some(file) => {
            let Some(checked) = check(file)? else { return Ok(ExitCode::from(2)) };
            let name = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
            let text = Text { name: name.display().to_string(), bytes: checked.source.text().as_bytes().to_vec() };
            (Apply::Configuration(text), file.display().to_string())
        }
        None => {
            let files = [(Family::V4, &args.iptables), (Family::V6, &args.ip6tables)];
            if files.iter().all(|(_, file)| file.as_deref() == Some(Path::new("-"))) {
                bail!("standard input cannot be the rules of both families: give one of them as a file");
            }
            let given = files.into_iter().filter_map(|(family, file)| Some((family, file.as_ref()?)));
            let text = |(family, file): (Family, &PathBuf)| {
                let name = file.display().to_string();
                Ok::<_, anyhow::Error>((family, Text { name, bytes: iptables::read(file)? }))
            };
            let texts: Vec<(Family, Text)> = given.map(text).collect::<Result<_, _>>()?;
            let names: Vec<String> = texts.iter().map(|(_, text)| text.name.clone()).collect();
            (Apply::Iptables(texts), format!("the rules of {}", names.join(" and ")))
        }
    };
    match Control::connect(run_dir)?.apply(&apply)? {
        Response::Applied { generation, until, foreign } => {
            if !foreign.is_empty() {
                eprintln!(
                    "Warning: no port has these names, so what the rules ask of them never holds: {}",
                    foreign.join(", ")
                );
            }
            println!("generation {generation} runs {title}");
            if let Some(watched) = until {
                println!("until {watched} changes or sumun control starts anew");
            }
            Ok(ExitCode::SUCCESS)
        }
        Response::Mistakes { text } => {
            eprint!("{text}");
            Ok(ExitCode::from(2))
        }
        Response::Failed { reason } => bail!("not applied: {reason}"),
        other => bail!(astray(&other)),
    }
}

fn color() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
