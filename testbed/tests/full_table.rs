//! A neighbour tells a large table by BGP: how long until the router has it, what does it cost, and does forwarding go on?
//!
//! `SUMUN_ROUTES=500000 cargo test -p sumun-testbed --test full_table -- --nocapture` for the size of the internet's.

use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sumun_testbed::daemons::bird;
use sumun_testbed::router::INTERFACES;
use sumun_testbed::{Appliance, Host, Lab, Router};

const REST: &str = r#"
[routes]
from = "kernel"

[filter.INPUT]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-p ipv6-icmp -j ACCEPT", "-i wan0 -p tcp --dport 179 -j ACCEPT"]
"#;

fn prefix(i: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x1400_0000 + (i << 8))
}

fn speaker(own: &str, own_as: u32, peer: &str, peer_as: u32, channel: &str, rest: &str) -> String {
    format!(
        "router id {own};\nprotocol device {{ scan time 60; }}\n{rest}\nprotocol bgp peer {{\n  local {own} as {own_as};\n  \
         neighbor {peer} as {peer_as};\n  hold time 30;\n  connect delay time 1;\n  connect retry time 1;\n  graceful restart off;\n  \
         ipv4 {{ {channel} }};\n}}\n"
    )
}

/// IPv4 routes that are in force.
fn routes(router: &Router) -> Result<u64> {
    router.status()?["routes"]["ipv4"].as_u64().context("a number of routes")
}

/// Waits until it is so; how long that took.
fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < Duration::from_secs(120), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(begun.elapsed())
}

/// Memory of the dataplane, in kilobytes.
fn memory(router: &Router) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", router.dataplane_pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Pings every 10 ms until it is enough: how many went out, and how many answers are missing.
fn pings(from: &Host, to: &str, is_enough: &AtomicBool) -> Result<(u64, u64)> {
    let (mut sent, mut lost) = (0, 0);
    while !is_enough.load(Ordering::Relaxed) {
        let report = from.output(&["ping", "-n", "-q", "-i", "0.01", "-W", "10", "-c", "50", to])?.stdout;
        let report = String::from_utf8_lossy(&report).into_owned();
        let received = report.split(" received").next().and_then(|text| text.rsplit(' ').next());
        sent += 50;
        lost += 50 - received.and_then(|count| count.parse::<u64>().ok()).with_context(|| report.clone())?;
    }
    Ok((sent, lost))
}

#[test]
fn a_large_table_of_bgp_comes_and_goes_while_forwarding_goes_on() -> Result<()> {
    let wanted: Option<u32> = std::env::var("SUMUN_ROUTES").ok().and_then(|count| count.parse().ok());
    let count = wanted.unwrap_or(20_000);
    let lab = Lab::new(1)?;
    let Appliance { router, host } = &Appliance::start(&lab, &format!("{INTERFACES}{REST}"))?;
    let last = Ipv4Addr::from_bits(prefix(count - 1).to_bits() + 1).to_string();
    lab.server.ip(&format!("addr add {last}/32 dev lo"))?;
    until("the server is reached", || lab.client1.pings_once("203.0.113.1"))?;
    ensure!(!lab.client1.pings_once(&last)?);
    let (before, base) = (memory(router)?, routes(router)?);

    let mut table = String::new();
    for i in 0..count {
        writeln!(table, "route {}/24 blackhole;", prefix(i))?;
    }
    std::fs::write(lab.path("table.conf"), table)?;
    let table = format!("protocol static {{ ipv4;\ninclude \"{}\";\n}}", lab.path("table.conf").display());
    let far = speaker("203.0.113.1", 65001, "203.0.113.2", 65002, "import none; export all;", &table);
    let near = "protocol kernel { ipv4 { import none; export all; }; }";
    let near = speaker("203.0.113.2", 65002, "203.0.113.1", 65001, "import all; export none;", near);

    let is_enough = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let train = scope.spawn(|| pings(&lab.client1, "203.0.113.1", &is_enough));
        let measured = (|| -> Result<()> {
            let _near = bird(host, lab.dir.path(), "near", &near)?;
            let neighbour = bird(&lab.server, lab.dir.path(), "far", &far)?;
            until("the first", || Ok(routes(router)? > base))?;
            let took = until("all of them", || Ok(routes(router)? == base + u64::from(count)))?;
            println!("{count} routes by BGP: all in force {took:?} after the first");
            println!("memory of the dataplane: {} MB, {} MB before", memory(router)? >> 10, before >> 10);
            let way = router.ask(&["routes", "get", &last])?;
            ensure!(way.contains("via 203.0.113.1 dev wan0"), "{way}");
            ensure!(lab.client1.pings_once(&last)?, "{last} is reached");
            drop(neighbour);
            until("the first to go", || Ok(routes(router)? < base + u64::from(count)))?;
            let took = until("none of them", || Ok(routes(router)? == base))?;
            println!("all gone {took:?} after the first");
            Ok(())
        })();
        is_enough.store(true, Ordering::Relaxed);
        let (sent, lost) = train.join().expect("no panic")?;
        println!("of {sent} pings through the router {lost} have no answer");
        measured?;
        // Where it is measured the figure is told, and says enough.
        ensure!(lost == 0 || wanted.is_some(), "{lost} of {sent}: {}", router.ask(&["drops"])?);
        Ok(())
    })?;
    let mirror = &router.status()?["mirror"];
    ensure!(mirror["synchronised"].as_bool() == Some(true) && mirror["refused"].as_u64() == Some(0), "{mirror}");
    Ok(())
}
