//! `sumun doctor` before a machine that is set up badly.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Output;
use sumun_testbed::host::Host;
use sumun_testbed::router::{INTERFACES, head, programs, wait};
use sumun_testbed::{Appliance, Beside, Lab, Router, talk};

/// `sumun doctor` inside the router's namespace.
fn doctor(lab: &Lab, config: &str, args: &[&str]) -> Result<Output> {
    let path = lab.path("doctor.toml");
    std::fs::write(&path, config)?;
    let program = programs().join("sumun").display().to_string();
    let path = path.display().to_string();
    lab.router.output(&[&[program.as_str(), "doctor", "--config", path.as_str()][..], args].concat())
}

/// What it finds on the devices of the test, which are all that a test can put in order.
fn findings(lab: &Lab, config: &str, args: &[&str]) -> Result<(Vec<String>, Value)> {
    let output = doctor(lab, config, &[args, &["--json"]].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).with_context(|| format!("{output:?}"))?;
    let rows = report["findings"].as_array().context("no findings")?;
    let of = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_string();
    let about = ["lan0", "wan0", "eth9", "host"];
    let on_devices = rows.iter().filter(|row| about.contains(&of(row, "about").as_str()));
    let lines = on_devices.map(|row| format!("{} {}: {}", of(row, "severity"), of(row, "about"), of(row, "found")));
    Ok((lines.collect(), report))
}

#[test]
fn a_device_that_is_set_up_badly_is_found_and_mended() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = format!("{}{INTERFACES}", head(&lab, "0, 1"));
    let (sound, report) = findings(&lab, &config, &[])?;
    ensure!(sound.is_empty(), "{report:#}");

    lab.router.ip("link set lan0 down")?;
    // A veth with fewer receive queues than its other end sends on takes no XDP program.
    lab.server.run(&["ethtool", "-L", "eth0", "tx", "1"])?;
    lab.router.run(&["ethtool", "-L", "wan0", "rx", "1"])?;
    lab.router.run(&["sysctl", "-qw", "net.ipv6.conf.wan0.disable_ipv6=0"])?;
    let (found, report) = findings(&lab, &config, &[])?;
    let expected = [
        "broken lan0: the device is down",
        "slow wan0: the device has 1 receive queue for 2 workers",
        "note wan0: the kernel speaks IPv6 on this device",
    ];
    ensure!(found == expected, "{report:#}");
    let output = doctor(&lab, &config, &[])?;
    ensure!(output.status.code() == Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("-> ip link set dev lan0 up\n") && text.contains("-> ethtool -L wan0 rx 2\n"), "{text}");

    let (left, report) = findings(&lab, &config, &["--fix"])?;
    ensure!(left.is_empty(), "{report:#}");
    let done = report["done"].as_array().context("nothing done")?;
    ensure!(done.iter().all(|row| row["error"].is_null()) && done.len() >= 3, "{report:#}");
    ensure!(findings(&lab, &config, &[])?.0.is_empty());
    let output = doctor(&lab, &config, &[])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    Ok(())
}

#[test]
fn what_takes_something_away_is_left_to_the_operator() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    lab.router.ip("addr add 198.51.100.1/24 dev wan0")?;
    let config = format!("{}{INTERFACES}\n[interfaces.gone]\ndevice = \"eth9\"\n", head(&lab, "1"));
    let (found, report) = findings(&lab, &config, &["--fix"])?;
    let expected = [
        "broken eth9: there is no such device in this network namespace",
        "broken wan0: the kernel has the address 198.51.100.1 on this device",
    ];
    let mut found = found;
    found.sort();
    ensure!(found == expected, "{report:#}");
    ensure!(lab.router.run(&["ip", "addr", "show", "wan0"])?.contains("198.51.100.1"));
    let output = doctor(&lab, "[dataplane]\ncroes = [1]\n", &[])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}

#[test]
fn a_router_at_work_is_in_order() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    let _router = Router::start(&lab, "")?;
    let (found, report) = findings(&lab, &format!("{}{INTERFACES}", head(&lab, "1")), &[])?;
    ensure!(found.is_empty(), "{report:#}");
    Ok(())
}

/// Whether an offload of a device is on.
fn is_on(host: &Host, device: &str, offload: &str) -> Result<bool> {
    let all = host.run(&["ethtool", "-k", device])?;
    let line = all.lines().find(|line| line.trim().starts_with(offload)).with_context(|| all.clone())?;
    Ok(line.split_whitespace().nth(1) == Some("on"))
}

#[test]
fn the_other_end_of_a_veth_is_looked_at_and_mended() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    let head = head(&lab, "1");
    let tagged = "[interfaces.office]\nparent = \"lan0\"\nvlan = 10\n";
    let generic = INTERFACES.replace("[interfaces.wan0]", "[interfaces.wan0]\nattach = \"generic\"");
    let config = format!("{head}{generic}{tagged}");
    lab.switch.run(&["ethtool", "-K", "r", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"])?;
    let (sound, report) = findings(&lab, &config, &[])?;
    ensure!(sound.is_empty(), "{report:#}");

    lab.switch.run(&["ethtool", "-K", "r", "txvlan", "on"])?;
    lab.server.run(&["ethtool", "-K", "eth0", "tx", "on", "tso", "on"])?;
    let (switch, server) = (lab.switch.name(), lab.server.name());
    let (found, report) = findings(&lab, &config, &[])?;
    let whole = format!(
        "broken wan0: its other end, eth0 in `ip netns exec {server}`, does not cut segments, and `attach = \"generic\"` shows \
         them whole"
    );
    let expected = [
        format!("broken lan0: its other end, r in `ip netns exec {switch}`, carries VLAN tags beside its frames"),
        whole,
        format!("note wan0: its other end, eth0 in `ip netns exec {server}`, leaves checksums unfinished"),
    ];
    ensure!(found == expected, "{report:#}");

    let (left, report) = findings(&lab, &config, &["--fix"])?;
    ensure!(left.is_empty(), "{report:#}");
    ensure!(!is_on(&lab.switch, "r", "tx-vlan-offload")? && !is_on(&lab.server, "eth0", "tx-checksumming")?);
    ensure!(!is_on(&lab.server, "eth0", "tcp-segmentation-offload")?);
    Ok(())
}

#[test]
fn the_other_end_of_a_veth_is_found_in_a_namespace_without_a_name() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    let mut container = std::process::Command::new("unshare").args(["--net", "sleep", "30"]).spawn()?;
    let pid = container.id().to_string();
    let look = || -> Result<_> {
        let own = std::fs::read_link("/proc/self/ns/net")?;
        sumun_testbed::router::wait("the container's namespace", || {
            Ok(std::fs::read_link(format!("/proc/{pid}/ns/net"))? != own)
        })?;
        lab.router.ip(&format!("link add eth9 type veth peer name eth0 netns {pid}"))?;
        lab.router.ip("link set eth9 up")?;
        lab.router.run(&["sysctl", "-qw", "net.ipv6.conf.eth9.disable_ipv6=1"])?;
        let config = format!("{}{INTERFACES}\n[interfaces.more]\ndevice = \"eth9\"\ntx = \"ring\"\n", head(&lab, "1"));
        let before = findings(&lab, &config, &[])?;
        Ok((before, findings(&lab, &config, &["--fix"])?))
    };
    let looked = look();
    container.kill()?;
    container.wait()?;
    let ((found, _), (left, report)) = looked?;
    ensure!(
        found == [format!("note eth9: its other end, eth0 in `nsenter -t {pid} -n`, leaves checksums unfinished")],
        "{found:?}"
    );
    ensure!(left.is_empty(), "{report:#}");
    Ok(())
}

#[test]
fn the_namespace_of_the_taps_is_looked_at_and_mended() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    let host = Host::new(&format!("{}-host", lab.router.name().trim_start_matches(sumun_testbed::host::PREFIX)))?;
    let config = |name: &str| {
        let head = head(&lab, "1");
        format!("{head}[host]\nnamespace = \"{name}\"\n{INTERFACES}[routes]\nfrom = \"kernel\"\n")
    };
    host.run(&["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
    let (sound, report) = findings(&lab, &config(host.name()), &[])?;
    ensure!(sound.is_empty(), "{report:#}");

    let none = format!("{}-none", host.name());
    let (found, report) = findings(&lab, &config(&none), &[])?;
    ensure!(
        found == [format!("broken host: there is no network namespace {none}, or it cannot be entered")],
        "{report:#}"
    );

    host.ip("link set lo down")?;
    host.ip("link add wan0 type bridge")?;
    for setting in ["ipv6.conf.all.forwarding=0", "ipv6.conf.default.disable_ipv6=1", "ipv4.conf.all.rp_filter=1"] {
        host.run(&["sysctl", "-qw", &format!("net.{setting}")])?;
    }
    host.run(&[
        "nft",
        "add table ip own; add chain ip own in { type filter hook input priority 0; }; add rule ip own in drop",
    ])?;
    host.run(&["nft", "add table ip quiet; add chain ip quiet in { type filter hook input priority 0; }"])?;
    let (found, report) = findings(&lab, &config(host.name()), &[])?;
    let expected = [
        "broken host: a bridge has the name of the TAP wan0",
        "broken host: IPv6 is switched off at lan0",
        "slow host: `lo` is down in the TAPs' namespace",
        "slow host: the kernel's reverse-path filter is strict at lan0, wan0",
        "note host: the kernel's netfilter has rules in the TAPs' namespace: ip own in (input)",
        "note host: router advertisements are believed at wan0",
    ];
    ensure!(found == expected, "{report:#}");
    let (left, report) = findings(&lab, &config(host.name()), &["--fix"])?;
    // What may take something away is left to the operator.
    let expected =
        [expected[0], expected[3], expected[4], "note host: router advertisements are believed at lan0, wan0"];
    ensure!(left == expected, "{report:#}");
    for row in report["findings"].as_array().context("rows")?.iter().filter(|row| row["about"] == "host") {
        let remedy = row["remedy"].as_str().context("a remedy")?;
        let output = std::process::Command::new("sh").args(["-c", remedy]).output()?;
        ensure!(output.status.success(), "{remedy}: {output:?}");
    }
    let (left, report) = findings(&lab, &config(host.name()), &[])?;
    ensure!(left.is_empty(), "{report:#}");
    Ok(())
}

#[test]
fn what_runs_beside_the_taps_is_looked_at() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.let_frames_leave_through_xdp()?;
    let rest = format!("{INTERFACES}[routes]\nfrom = \"kernel\"\n");
    let appliance = Appliance::start(&lab, &rest)?;
    let host = &appliance.host;
    host.run(&["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
    let kernel = std::fs::read_to_string(&appliance.router.config)?;
    let (sound, report) = findings(&lab, &kernel, &[])?;
    ensure!(sound.is_empty(), "{report:#}");

    // keepalived's `use_vmac` makes such a device.
    host.ip("link add vrrp.51 link lan0 address 00:00:5e:00:01:33 type macvlan mode private")?;
    let (found, report) = findings(&lab, &kernel, &[])?;
    ensure!(
        found == ["broken host: vrrp.51 on the TAP lan0 has a MAC address of its own (00:00:5e:00:01:33)"],
        "{report:#}"
    );
    host.ip("link del vrrp.51")?;

    // A daemon of this name sets routes; here it only sleeps.
    let bird = lab.path("bird");
    std::fs::copy("/bin/sleep", &bird)?;
    let _bird = Beside::start(host.command(&bird.display().to_string()).arg("60"))?;
    sumun_testbed::router::wait("the daemon to be seen", || {
        let file = kernel.replace("[routes]\nfrom = \"kernel\"\n", "");
        let unheard = "broken host: bird runs in the TAPs' namespace, and routes come from the configuration";
        Ok(findings(&lab, &file, &[])?.0 == [unheard])
    })?;
    let (sound, report) = findings(&lab, &kernel, &[])?;
    ensure!(sound.is_empty(), "{report:#}");
    Ok(())
}

#[test]
fn a_veth_sends_through_xdp_as_soon_as_the_kernel_lets_it() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = format!("{}{INTERFACES}", head(&lab, "1"));
    let router = Router::start_with(&lab, &format!("{config}[filter.FORWARD]\npolicy = \"ACCEPT\"\n"))?;
    let sends = |wanted: &str| {
        wait(wanted, || {
            let ports = router.status()?["ports"].clone();
            let modes =
                ports.as_array().context("no ports")?.iter().map(|port| port["mode"].as_str().unwrap_or_default());
            Ok(modes.into_iter().all(|mode| mode.ends_with(wanted)))
        })
    };
    // The peers had GRO before they were up, and the kernel has not noticed.
    sends("tx ring while the device takes no xdp frames")?;
    let (found, report) = findings(&lab, &config, &[])?;
    let expected =
        ["lan0", "wan0"].map(|name| format!("slow {name}: the kernel lets no frames leave this device through XDP"));
    ensure!(found == expected, "{report:#}");
    let text = doctor(&lab, &config, &[])?.stdout;
    let gro = |word: &str| format!("ip netns exec {} ethtool -K r gro {word}", lab.switch.name());
    let remedy = format!("-> {} && {}", gro("off"), gro("on"));
    ensure!(String::from_utf8_lossy(&text).contains(&remedy), "{report:#}");

    lab.let_frames_leave_through_xdp()?;
    sends("tx ring and xdp")?;
    let (found, report) = findings(&lab, &config, &[])?;
    ensure!(found.is_empty(), "{report:#}");
    let to = "203.0.113.1:7001";
    talk::tcp_transfer(&lab.client1, &lab.server, to, to, 16 << 20)?;

    lab.switch.run(&["ethtool", "-K", "r", "gro", "off"])?;
    lab.server.run(&["ethtool", "-K", "eth0", "gro", "off"])?;
    sends("tx ring while the device takes no xdp frames")?;
    let to = "203.0.113.1:7002";
    talk::tcp_transfer(&lab.client1, &lab.server, to, to, 1 << 20)?;
    Ok(())
}
