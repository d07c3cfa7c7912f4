//! The router's host where it is not at its best: slow, without one of its TAPs; and where two workers serve it.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;
use sumun_testbed::router::{INTERFACES, wait};
use sumun_testbed::talk::{self, udp_bind, udp_both_ways};
use sumun_testbed::{Appliance, Lab, Router};

const OPEN: &str = "[filter.FORWARD]\npolicy = \"ACCEPT\"\n";

const ADDRESSES: [(&str, &str); 2] = [("192.168.1.1", "192.168.1.11"), ("fd00:1::1", "fd00:1::11")];

/// Why frames end when there are too many.
const OVERLOAD: [&str; 4] = ["host-queue", "handover", "no-frame", "tx-ring"];

#[test]
fn two_workers_serve_the_host_and_lose_nothing() -> Result<()> {
    let lab = Lab::new(2)?;
    let appliance = Appliance::start_on(&lab, "0, 1", "", &format!("{INTERFACES}{OPEN}"))?;
    for (own, client) in ADDRESSES {
        // Many flows, both ways, each datagram answered before the next.
        for flow in 0..32u8 {
            let (here, there) = (udp_bind(&appliance.host, own)?, udp_bind(&lab.client1, client)?);
            for round in 0..4u8 {
                udp_both_ways(&here, &there, &[flow, round, 7])
                    .with_context(|| format!("flow {flow}, round {round}"))?;
            }
        }
        for (from, to, address) in [(&appliance.host, &lab.client1, client), (&lab.client1, &appliance.host, own)] {
            for port in 7100..7104 {
                let to_whom = SocketAddr::new(address.parse()?, port).to_string();
                talk::tcp_transfer(from, to, &to_whom, &to_whom, 2 << 20)?;
            }
        }
    }
    let metrics = appliance.router.status()?;
    let tap = &metrics["ports"][0]["tap"];
    ensure!(tap["refused"] == 0 && tap["failed"] == 0, "{tap}");
    for reason in OVERLOAD {
        ensure!(appliance.router.dropped(reason)? == 0, "{reason}");
    }
    appliance.router.end_whole()
}

/// strace(1), which makes the host thread's writes to TAPs slow.
struct Slow(Child);

impl Slow {
    fn down(router: &Router) -> Result<Slow> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", router.dataplane_pid()))?;
        let mut named = tasks.flatten().filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "host")
        });
        let thread = named.next().context("no host thread")?.file_name();
        let mut command = std::process::Command::new("strace");
        command.args(["-q", "-o", "/dev/null", "-e", "trace=writev", "-e", "inject=writev:delay_enter=400000", "-p"]);
        let child = command.arg(&thread).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("strace")?;
        let slow = Slow(child);
        let status = format!("/proc/{}/task/{}/status", router.dataplane_pid(), thread.to_string_lossy());
        wait("strace", || Ok(!std::fs::read_to_string(&status)?.contains("TracerPid:\t0\n")))?;
        Ok(slow)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn a_slow_host_loses_what_it_cannot_take_and_forwarding_goes_on() -> Result<()> {
    const SENT: u64 = 4000;
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{OPEN}"))?;
    let Appliance { router, host } = &appliance;
    ensure!(lab.client1.pings("203.0.113.1", 1) && lab.client1.pings("192.168.1.1", 1));
    let slow = Slow::down(router)?;
    let socket = udp_bind(&lab.client1, "192.168.1.11")?;
    for number in 0..SENT {
        // Another size each time, so that the host gets each by itself.
        socket.send_to(&vec![1; 1 + number as usize % 500], "192.168.1.1:9")?;
        if number % 32 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // A thousand wait in the ring, and what the thread had in hands; the rest is dropped.
    wait("what the host does not take", || {
        let dropped = router.dropped("host-queue")?;
        Ok((SENT - 1024 - 1024..=SENT - 1024).contains(&dropped))
    })?;
    ensure!(lab.client1.pings("203.0.113.1", 20), "what is forwarded is not kept up");
    let to = "203.0.113.1:7001";
    talk::tcp_transfer(&lab.client1, &lab.server, to, to, 8 << 20)?;
    for reason in ["handover", "no-frame", "tx-ring"] {
        ensure!(router.dropped(reason)? == 0, "{reason}");
    }
    drop(slow);
    wait("the host", || host.pings_once("192.168.1.11"))?;
    ensure!(lab.client1.pings("192.168.1.1", 20));
    appliance.router.end_whole()
}

#[test]
fn a_tap_that_is_deleted_ends_alone() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{OPEN}"))?;
    let Appliance { router, host } = &appliance;
    ensure!(lab.client1.pings("192.168.1.1", 1));
    // While another device has its name it cannot be made again.
    let batch = lab.path("batch");
    std::fs::write(&batch, "link del lan0\nlink add lan0 type veth peer name other\nlink set lan0 up\n")?;
    host.run(&["ip", "-batch", &batch.display().to_string()])?;
    wait("the word of it", || Ok(router.log("dataplane.log").contains("the TAP lan0 is gone")))?;
    // Nobody answers there any more, and nobody else suffers.
    ensure!(!lab.client1.pings_once("192.168.1.1")?);
    ensure!(lab.client1.pings("203.0.113.1", 3) && lab.server.pings("203.0.113.2", 3) && host.pings("203.0.113.1", 3));
    let tap = router.status()?["ports"][0]["tap"].clone();
    ensure!(tap["failed"].as_u64().is_some_and(|failed| failed >= 1), "{tap}");
    // Nor does the thread turn in circles about it.
    let spent = || -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", router.dataplane_pid()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let before = spent()?;
    std::thread::sleep(Duration::from_secs(1));
    let after = spent()?;
    ensure!(after - before < 50, "{} ticks in a second", after - before);
    appliance.router.end_whole()
}
