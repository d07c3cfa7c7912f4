//! A router with a host of its own behind its TAPs, and programs that run beside it.

use crate::host::Host;
use crate::router::{head, wait};
use crate::{Lab, Router};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A router whose TAPs are in a namespace of their own.
pub struct Appliance<'a> {
    /// Its two processes. Ends before the namespace goes.
    pub router: Router<'a>,
    /// Where its TAPs are, and its programs live.
    pub host: Host,
}

impl Appliance<'_> {
    /// Starts it with this configuration behind the section `[host]`, and waits until its LAN addresses are on the TAP.
    pub fn start<'a>(lab: &'a Lab, rest: &str) -> Result<Appliance<'a>> {
        Appliance::start_on(lab, "1", "", rest)
    }

    /// The same with workers on these cores, and these lines in `[host]`.
    pub fn start_on<'a>(lab: &'a Lab, cores: &str, about_host: &str, rest: &str) -> Result<Appliance<'a>> {
        let host = Host::new(&format!("{}-host", lab.router.name().trim_start_matches(crate::host::PREFIX)))?;
        let config = format!("{}[host]\nnamespace = \"{}\"\n{about_host}\n{rest}", head(lab, cores), host.name());
        let router = Router::start_with(lab, &config)?;
        wait("addresses on the TAP", || {
            let there = host.ip("addr show dev lan0")?;
            Ok(["192.168.1.1/24", "fd00:1::1/64"].iter().all(|address| there.contains(address)))
        })?;
        Ok(Appliance { router, host })
    }
}

/// A program that runs beside the router, and ends with this.
pub struct Beside(Child);

impl Beside {
    /// Starts it; what it prints is nobody's business.
    pub fn start(command: &mut Command) -> Result<Beside> {
        let name = format!("{command:?}");
        Ok(Beside(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context(name)?))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
