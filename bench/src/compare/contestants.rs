//! Who takes part, how each is set up on its site, and how the kernel may be arranged over the cores.

use super::outcome::LeftOut;
use super::priority::prefer;
use super::rules::{self, Work};
use super::topology::{LAN, LAN_ADDRESS, Site, TARGET, TARGET_MAC, WAN, WAN_ADDRESS};
use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use std::fmt;
use sumun_testbed::lab::steer;
use sumun_testbed::router::{Router, head_in, programs};
use sumun_testbed::{Host, host::PREFIX};

/// What can route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// The programs beside this one, one worker.
    Sumun,
    /// The kernel without a rule.
    Kernel,
    /// The kernel with iptables' own tables.
    IptablesLegacy,
    /// The kernel with iptables' rules in nf_tables.
    IptablesNft,
    /// The kernel with nf_tables and sets.
    Nft,
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Contestant::Sumun => "Sumun",
            Contestant::Kernel => "kernel",
            Contestant::IptablesLegacy => "iptables-legacy",
            Contestant::IptablesNft => "iptables-nft",
            Contestant::Nft => "nft",
        })
    }
}

/// Which core does the kernel's work; the generator is on a core of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrangement {
    /// The generator's, in softirqs.
    Inline,
    /// The other one, by receive packet steering.
    Rps,
    /// Both, by receive packet steering.
    RpsBoth,
    /// The other one, in a NAPI thread.
    Threaded,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Arrangement; 4] =
        [Arrangement::Inline, Arrangement::Rps, Arrangement::RpsBoth, Arrangement::Threaded];

    /// Arranges a router's kernel so.
    pub fn apply(self, router: &Host, cores: Cores) -> Result<()> {
        let cpus = match self {
            Arrangement::Rps => vec![cores.router],
            Arrangement::RpsBoth => vec![cores.generator, cores.router],
            Arrangement::Inline | Arrangement::Threaded => Vec::new(),
        };
        steer(router, LAN, "rx-0/rps_cpus", &cpus)?;
        let is_threaded = self == Arrangement::Threaded;
        // Only a process that `ip netns exec` started sees the namespace's own /sys.
        let write = format!("echo {} > /sys/class/net/{LAN}/threaded", u8::from(is_threaded));
        router.run(&["sh", "-c", &write])?;
        if is_threaded { pin_threads(cores.router) } else { Ok(()) }
    }
}

impl fmt::Display for Arrangement {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Arrangement::Inline => "inline",
            Arrangement::Rps => "RPS",
            Arrangement::RpsBoth => "RPS, both cores",
            Arrangement::Threaded => "NAPI thread",
        })
    }
}

/// The two cores of a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Cores {
    /// The generator's.
    pub generator: usize,
    /// The router's.
    pub router: usize,
}

/// Puts the NAPI threads of this bench's devices on a core. They are named after their device.
fn pin_threads(core: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(core).context("a core's number")?;
    let mut found = false;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with(&format!("napi/{LAN}")) {
            sched_setaffinity(Pid::from_raw(pid), &cpus).with_context(|| format!("pinning {}", name.trim()))?;
            prefer(pid);
            found = true;
        }
    }
    ensure!(found, "the kernel made no NAPI thread");
    Ok(())
}

impl Contestant {
    /// Who can do this work.
    pub fn of(work: Work) -> &'static [Contestant] {
        match work {
            Work::Forward => &[Contestant::Sumun, Contestant::Kernel],
            Work::Masquerade | Work::Rules(_) => {
                &[Contestant::Sumun, Contestant::IptablesLegacy, Contestant::IptablesNft, Contestant::Nft]
            }
        }
    }

    /// Whether it takes part here; an error says why not.
    pub fn check(self, probe: &Host) -> Result<()> {
        match self {
            Contestant::Sumun => {
                for program in ["sumun", "sumun-dataplane"] {
                    let path = programs().join(program);
                    ensure!(path.exists(), "{} is missing: cargo build --release", path.display());
                }
            }
            Contestant::Kernel => {}
            Contestant::IptablesLegacy => drop(probe.run(&["iptables-legacy", "-L", "-n"])?),
            Contestant::IptablesNft => drop(probe.run(&["iptables-nft", "-L", "-n"])?),
            Contestant::Nft => drop(probe.run(&["nft", "list", "ruleset"])?),
        }
        Ok(())
    }

    /// Sets it up on its site. What is returned are Sumun's processes, which end when it is dropped.
    pub fn start<'a>(self, site: &'a Site, work: Work, cores: Cores) -> Result<Option<Router<'a>>> {
        let router = &site.router;
        if self == Contestant::Sumun {
            let config = format!("{}{}", head_in(site.files(), &cores.router.to_string()), rules::toml(work));
            return Ok(Some(Router::start_in(router, site.files(), &config)?));
        }
        router.ip(&format!("addr add {LAN_ADDRESS} dev {LAN}"))?;
        router.ip(&format!("addr add {WAN_ADDRESS} dev {WAN}"))?;
        router.ip(&format!("neigh add {TARGET} lladdr {TARGET_MAC} dev {WAN} nud permanent"))?;
        router.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        let (text, command) = match self {
            Contestant::Sumun | Contestant::Kernel => return Ok(None),
            Contestant::IptablesLegacy => (rules::iptables(work), &["iptables-legacy-restore"][..]),
            Contestant::IptablesNft => (rules::iptables(work), &["iptables-nft-restore"][..]),
            Contestant::Nft => (rules::nft(work), &["nft", "-f"][..]),
        };
        let file = site.path("rules");
        std::fs::write(&file, text)?;
        router.run(&[command, &[&file.display().to_string()]].concat())?;
        Ok(None)
    }
}

/// The contestants that take part, and those that do not, with the reason in a line.
pub fn roll_call() -> Result<(Vec<Contestant>, Vec<LeftOut>)> {
    let probe = Host::new(&format!("{}-probe", std::process::id()))?;
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    let all =
        [Contestant::Sumun, Contestant::Kernel, Contestant::IptablesLegacy, Contestant::IptablesNft, Contestant::Nft];
    for contestant in all {
        match contestant.check(&probe) {
            Ok(()) => here.push(contestant),
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                missing.push(LeftOut { contestant, why: last.trim_start_matches(PREFIX).to_string() });
            }
        }
    }
    Ok((here, missing))
}
