//! Routing daemons of Debian in a namespace, on the configuration of a test.

use crate::router::wait;
use crate::{Beside, Host};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// BIRD at work. Its files are `NAME.conf`, `NAME.log` and `NAME.ctl` in this directory.
pub fn bird(host: &Host, dir: &Path, name: &str, config: &str) -> Result<Beside> {
    let path = |end: &str| dir.join(format!("{name}.{end}"));
    std::fs::write(path("conf"), format!("log \"{}\" all;\n{config}", path("log").display()))?;
    Beside::start(host.command("bird").arg("-f").arg("-c").arg(path("conf")).arg("-s").arg(path("ctl")))
}

/// FRR at work: zebra and daemons of protocols. Their files are in `NAME/` in this directory.
pub struct Frr {
    /// They end before zebra, which takes their routes away.
    _protocols: Vec<Beside>,
    _zebra: Beside,
}

impl Frr {
    /// Starts zebra, waits for its socket, and starts the others (`bgpd`, `ospfd`), each with its configuration.
    pub fn start(host: &Host, dir: &Path, name: &str, zebra: &str, protocols: &[(&str, &str)]) -> Result<Frr> {
        let own = dir.join(name);
        // They leave root for the user frr.
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
        let mut install = Command::new("install");
        let made = install.args(["-d", "-o", "frr", "-g", "frr"]).arg(&own).status().context("install")?;
        ensure!(made.success(), "there is no user frr");
        let start = |daemon: &str, config: &str| {
            let path = |end: &str| own.join(format!("{daemon}.{end}"));
            std::fs::write(path("conf"), format!("log file {}\n{config}", path("log").display()))?;
            let mut command = host.command(&format!("/usr/lib/frr/{daemon}"));
            command.args(["-P", "0", "-f"]).arg(path("conf")).arg("-i").arg(path("pid"));
            Beside::start(command.arg("-z").arg(own.join("zebra.api")).arg("--vty_socket").arg(&own))
        };
        let zebra = start("zebra", zebra)?;
        wait("zebra's socket", || Ok(own.join("zebra.api").exists()))?;
        let protocols = protocols.iter().map(|(daemon, config)| start(daemon, config)).collect::<Result<_>>()?;
        Ok(Frr { _protocols: protocols, _zebra: zebra })
    }
}
