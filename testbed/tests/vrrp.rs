//! Two routers with keepalived behind their TAPs and one address between them: where one loses its link, the other has it.
//!
//! `SUMUN_FAILOVERS=11 cargo test -p sumun-testbed --test vrrp -- --nocapture` for a median.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use sumun_testbed::host::{Host, PREFIX, join};
use sumun_testbed::router::{head_in, wait};
use sumun_testbed::{Beside, Router};

/// Shared by both, by family, and how `ping` is told.
const SHARED: [(&str, &str); 2] = [("192.168.7.254", "-4"), ("fd00:7::fe", "-6")];

/// keepalived at work. Only VRRP 3 knows parts of a second.
fn keepalived(host: &Host, dir: &std::path::Path, priority: u32) -> Result<Beside> {
    let mut config = String::from("global_defs {\n  router_id sumun\n  vrrp_version 3\n}\n");
    for (id, addresses) in [(51, "192.168.7.254/24"), (52, "fe80::7:fe/64\n    fd00:7::fe/64")] {
        config += &format!(
            "vrrp_instance shared{id} {{\n  state BACKUP\n  interface lan0\n  virtual_router_id {id}\n  priority {priority}\n  \
             advert_int 0.2\n  virtual_ipaddress {{\n    {addresses}\n  }}\n}}\n"
        );
    }
    let file = dir.join("keepalived.conf");
    std::fs::write(&file, config)?;
    let mut command = host.command("keepalived");
    command.args(["--dont-fork", "--vrrp", "--use-file"]).arg(file);
    Beside::start(command.arg("--pid").arg(dir.join("keepalived.pid")).arg("--vrrp_pid").arg(dir.join("vrrp.pid")))
}

fn config(dir: &std::path::Path, host: &Host, n: u32) -> String {
    format!(
        "{}[host]\nnamespace = \"{}\"\n[interfaces.lan0]\naddresses = [\"192.168.7.{n}/24\", \"fd00:7::{n}/64\"]\n\
         [routes]\nfrom = \"kernel\"\n[filter.INPUT]\npolicy = \"DROP\"\n\
         rules = [\"-p 112 -j ACCEPT\", \"-p icmp -j ACCEPT\", \"-p ipv6-icmp -j ACCEPT\"]\n",
        head_in(dir, "1"),
        host.name()
    )
}

/// Whether a host has the shared addresses: all of them, none, or some.
fn has_addresses(host: &Host) -> Result<Option<bool>> {
    let there = host.ip("addr show dev lan0")?;
    let count = SHARED.iter().filter(|(address, _)| there.contains(&format!(" {address}/"))).count();
    Ok([(0, false), (SHARED.len(), true)].iter().find(|(all, _)| *all == count).map(|(_, has)| *has))
}

#[test]
fn the_shared_address_moves_to_the_router_that_is_left_and_back() -> Result<()> {
    let count: usize = std::env::var("SUMUN_FAILOVERS").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let tag = format!("{}-vrrp", std::process::id());
    let named = |name: &str| Host::new(&format!("{tag}-{name}"));
    let (client, switch) = (named("client")?, named("switch")?);
    let (first, second) = (named("first")?, named("second")?);
    let (first_host, second_host) = (named("first-host")?, named("second-host")?);
    switch.ip("link add br0 type bridge mcast_snooping 0")?;
    switch.ip("link set br0 up")?;
    for (host, device, port) in [(&client, "eth0", "p0"), (&first, "lan0", "p1"), (&second, "lan0", "p2")] {
        join(host, device, &switch, port, 1)?;
        switch.ip(&format!("link set {port} master br0"))?;
    }
    client.ip("addr add 192.168.7.11/24 dev eth0")?;
    client.ip("addr add fd00:7::11/64 dev eth0 nodad")?;
    for router in [&first, &second] {
        router.run(&["sysctl", "-qw", "net.ipv6.conf.lan0.disable_ipv6=1"])?;
    }
    let dirs = [tempfile::Builder::new().prefix(PREFIX).tempdir()?, tempfile::Builder::new().prefix(PREFIX).tempdir()?];
    let [first_dir, second_dir] = [dirs[0].path(), dirs[1].path()];
    let _one = Router::start_in(&first, first_dir, &config(first_dir, &first_host, 2))?;
    let _other = Router::start_in(&second, second_dir, &config(second_dir, &second_host, 3))?;
    for host in [&first_host, &second_host] {
        wait("addresses on the TAP", || Ok(host.ip("addr show dev lan0")?.contains("fd00:7::")))?;
    }
    let _a = keepalived(&first_host, first_dir, 150)?;
    let _b = keepalived(&second_host, second_dir, 100)?;
    let answers = |(address, family): (&str, &str)| -> Result<bool> {
        Ok(client.output(&["ping", family, "-n", "-c", "1", "-W", "0.05", address])?.status.success())
    };
    let whole = || -> Result<()> {
        wait("the first router to have the addresses", || {
            Ok(has_addresses(&first_host)? == Some(true) && has_addresses(&second_host)? == Some(false))
        })?;
        SHARED.iter().try_for_each(|shared| wait("an answer of the first router", || answers(*shared)))
    };
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..count {
        for (shared, all) in SHARED.into_iter().zip(&mut all) {
            whole()?;
            switch.ip("link set p1 down")?;
            let lost = Instant::now();
            wait("an answer of the other router", || answers(shared))?;
            all.push(lost.elapsed());
            wait("the other router to have the addresses", || Ok(has_addresses(&second_host)? == Some(true)))?;
            wait("the client to know", || {
                Ok(client.ip(&format!("neigh show {}", shared.0))?.contains(&mac(&second)?))
            })?;
            switch.ip("link set p1 up")?;
        }
    }
    whole()?;
    for ((address, _), all) in SHARED.into_iter().zip(&mut all) {
        all.sort_unstable();
        let (median, worst) = (all[all.len() / 2], all[all.len() - 1]);
        println!("{address} answers again {median:?} after the link was lost (median of {count}; at most {worst:?})");
        ensure!(worst < Duration::from_secs(4), "{all:?}");
    }
    Ok(())
}

/// The MAC of a router's device.
fn mac(router: &Host) -> Result<String> {
    let link = router.ip("-br link show lan0")?;
    link.split_whitespace().nth(2).map(String::from).context("a MAC")
}
