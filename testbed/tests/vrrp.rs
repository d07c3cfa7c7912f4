//! Two routers with keepalived behind their TAPs and one address between them: where one loses its link, the other has it.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use sumun_testbed::host::{Host, PREFIX, join};
use sumun_testbed::router::{head_in, wait};
use sumun_testbed::{Beside, Router};

/// keepalived at work.
fn keepalived(host: &Host, dir: &std::path::Path, priority: u32) -> Result<Beside> {
    let config = format!(
        "global_defs {{\n  router_id sumun\n}}\nvrrp_instance shared {{\n  state BACKUP\n  interface lan0\n  virtual_router_id 51\n  \
         priority {priority}\n  advert_int 0.2\n  virtual_ipaddress {{\n    192.168.7.254/24\n  }}\n}}\n"
    );
    let file = dir.join("keepalived.conf");
    std::fs::write(&file, config)?;
    let mut command = host.command("keepalived");
    command.args(["--dont-fork", "--vrrp", "--use-file"]).arg(file);
    Beside::start(command.arg("--pid").arg(dir.join("keepalived.pid")).arg("--vrrp_pid").arg(dir.join("vrrp.pid")))
}

fn config(dir: &std::path::Path, host: &Host, address: &str) -> String {
    format!(
        "{}[host]\nnamespace = \"{}\"\n[interfaces.lan0]\naddresses = [\"{address}/24\"]\n[routes]\nfrom = \"kernel\"\n\
         [filter.INPUT]\npolicy = \"DROP\"\nrules = [\"-p 112 -d 224.0.0.18 -j ACCEPT\", \"-p icmp -j ACCEPT\"]\n",
        head_in(dir, "1"),
        host.name()
    )
}

fn has_address(host: &Host) -> Result<bool> {
    Ok(host.ip("addr show dev lan0")?.contains("192.168.7.254"))
}

#[test]
fn the_shared_address_moves_to_the_router_that_is_left_and_back() -> Result<()> {
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
    for router in [&first, &second] {
        router.run(&["sysctl", "-qw", "net.ipv6.conf.lan0.disable_ipv6=1"])?;
    }
    let dirs = [tempfile::Builder::new().prefix(PREFIX).tempdir()?, tempfile::Builder::new().prefix(PREFIX).tempdir()?];
    let [first_dir, second_dir] = [dirs[0].path(), dirs[1].path()];
    let _one = Router::start_in(&first, first_dir, &config(first_dir, &first_host, "192.168.7.2"))?;
    let _other = Router::start_in(&second, second_dir, &config(second_dir, &second_host, "192.168.7.3"))?;
    for host in [&first_host, &second_host] {
        wait("addresses on the TAP", || Ok(host.ip("addr show dev lan0")?.contains("192.168.7.")))?;
    }
    let _a = keepalived(&first_host, first_dir, 150)?;
    let _b = keepalived(&second_host, second_dir, 100)?;
    let answers = || Ok(client.output(&["ping", "-n", "-c", "1", "-W", "0.1", "192.168.7.254"])?.status.success());
    wait("the first router to have the address", || Ok(has_address(&first_host)? && !has_address(&second_host)?))?;
    wait("an answer of the shared address", answers)?;

    switch.ip("link set p1 down")?;
    let lost = Instant::now();
    wait("an answer of the other router", || Ok(has_address(&second_host)? && answers()?))?;
    let took = lost.elapsed();
    println!("the address answers again {} ms after the link was lost", took.as_millis());
    ensure!(took < Duration::from_secs(5), "{took:?}");
    ensure!(client.ip("neigh show 192.168.7.254")?.contains(&mac(&second)?), "it is the other one's");

    switch.ip("link set p1 up")?;
    wait("the first router to have it again", || Ok(has_address(&first_host)? && !has_address(&second_host)?))?;
    wait("an answer of the first router", answers)?;
    Ok(())
}

/// The MAC of a router's device.
fn mac(router: &Host) -> Result<String> {
    let link = router.ip("-br link show lan0")?;
    link.split_whitespace().nth(2).map(String::from).context("a MAC")
}
