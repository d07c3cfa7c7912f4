//! `sumun doctor` before a machine that is set up badly.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Output;
use sumun_testbed::router::{INTERFACES, head, programs};
use sumun_testbed::{Lab, Router};

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
    let about = ["lan0", "wan0", "eth9"];
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
    let _router = Router::start(&lab, "")?;
    let (found, report) = findings(&lab, &format!("{}{INTERFACES}", head(&lab, "1")), &[])?;
    ensure!(found.is_empty(), "{report:#}");
    Ok(())
}
