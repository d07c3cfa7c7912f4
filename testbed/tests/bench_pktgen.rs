//! `sumun-bench pktgen` between namespaces: what is sent is counted, to the frame.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use sumun_testbed::host::join;
use sumun_testbed::router::{programs, wait};
use sumun_testbed::{Host, sweep};

/// A sender and a receiver, and a kernel that routes between them.
struct Way {
    sender: Host,
    router: Host,
    receiver: Host,
}

impl Way {
    fn new(test: &str) -> Result<Way> {
        sweep()?;
        let host = |name: &str| Host::new(&format!("{}-{test}-{name}", std::process::id()));
        let way = Way { sender: host("from")?, router: host("router")?, receiver: host("to")? };
        join(&way.sender, "out", &way.router, "lan", 1)?;
        join(&way.router, "wan", &way.receiver, "in", 1)?;
        // The sender's device takes XDP frames once the other end's GRO is switched on while both are up.
        way.router.run(&["ethtool", "-K", "lan", "gro", "off"])?;
        way.router.run(&["ethtool", "-K", "lan", "gro", "on"])?;
        way.router.ip("addr add 10.255.0.1/8 dev lan")?;
        way.router.ip("addr add 203.0.113.2/24 dev wan")?;
        way.router.ip("addr add fd00:1::1/64 dev lan nodad")?;
        way.router.ip("addr add 2001:db8:2::2/64 dev wan nodad")?;
        for address in ["203.0.113.1", "2001:db8:2::1"] {
            way.router.ip(&format!("neigh add {address} lladdr 02:00:00:00:00:02 dev wan nud permanent"))?;
        }
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            way.router.run(&["sysctl", "-qw", setting])?;
        }
        Ok(way)
    }

    fn mac(&self) -> Result<String> {
        let link: Value = serde_json::from_str(&self.router.ip("-j link show dev lan")?)?;
        Ok(link[0]["address"].as_str().context("a MAC")?.to_string())
    }

    /// Sends through the router; the report.
    fn pktgen(&self, arguments: &[&str]) -> Result<Value> {
        let mac = self.mac()?;
        let devices =
            ["--from", "out", "--netns", self.sender.name(), "--to", "in", "--to-netns", self.receiver.name()];
        let output = pktgen(&[&devices[..], &["--dst-mac", &mac, "--json"], arguments].concat())?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn pktgen(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(programs().join("sumun-bench"));
    command
        .arg("pktgen")
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .context("sumun-bench")
}

#[test]
fn every_frame_is_counted_once_whatever_way_it_leaves_and_however_long_it_is() -> Result<()> {
    let way = Way::new("exact")?;
    for arguments in [
        "--method live --count 20000 --rate 200k --flows 1000",
        "--method live --count 500 --rate 20k --imix --family both --flows 100",
        "--method live --count 5000 --rate 100k --family 6 --size 1514",
        "--method ring --count 5000 --rate 50k --flows 7",
        "--count 1 --size 64",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let report = way.pktgen(&arguments)?;
        let (sent, received) = (&report["sent"], &report["received"]);
        let count = arguments.iter().skip_while(|word| **word != "--count").nth(1).context("a count")?;
        assert_eq!(sent["frames"].to_string(), *count, "{report}");
        for key in ["frames", "stamped"] {
            assert_eq!(received[key], sent["frames"], "{key} of {report}");
        }
        assert_eq!(received["bytes"], sent["bytes"], "{report}");
        assert_eq!((received["lost"].as_u64(), received["reordered"].as_u64()), (Some(0), Some(0)), "{report}");
        let latency = &received["latency_ns"];
        let at = |name: &str| latency[name].as_f64().unwrap_or(-1.0);
        assert!(
            at("min") > 0.0 && at("min") <= at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"),
            "{report}"
        );
    }
    Ok(())
}

#[test]
fn what_a_filter_drops_is_counted_as_lost() -> Result<()> {
    let way = Way::new("lost")?;
    // Every fourth packet.
    let rule = "iptables -A FORWARD -m statistic --mode nth --every 4 --packet 0 -j DROP";
    way.router.run(&rule.split(' ').collect::<Vec<_>>())?;
    let report = way.pktgen(&["--count", "4000", "--rate", "100k", "--flows", "10"])?;
    assert_eq!(report["received"]["lost"], 1000, "{report}");
    assert_eq!(report["received"]["frames"], 3000, "{report}");
    assert_eq!(report["received"]["reordered"], 0, "{report}");
    Ok(())
}

#[test]
fn a_sink_alone_tells_loss_by_the_sequences_and_ends_when_it_is_told_to() -> Result<()> {
    let way = Way::new("alone")?;
    let rule = "iptables -A FORWARD -m statistic --mode nth --every 4 --packet 0 -j DROP";
    way.router.run(&rule.split(' ').collect::<Vec<_>>())?;
    let mut sink = Command::new(programs().join("sumun-bench"));
    let sink = sink.args(["pktgen", "--to", "in", "--netns", way.receiver.name(), "--duration", "60", "--json"]);
    let sink = sink.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let attached = || Ok(way.receiver.ip("link show dev in")?.contains("xdp"));
    wait("the sink's program", attached)?;
    let mac = way.mac()?;
    let from = ["--from", "out", "--netns", way.sender.name(), "--dst-mac", &mac];
    let output = pktgen(&[&from[..], &["--count", "4000", "--rate", "100k"]].concat())?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && text.contains("sent      4,000 frames") && !text.contains("received"), "{text}");
    let begun = Instant::now();
    kill(Pid::from_raw(sink.id() as i32), Signal::SIGINT)?;
    let output = sink.wait_with_output()?;
    assert!(begun.elapsed() < Duration::from_secs(5));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    // The first packet is gone, and nobody knew of it; the last one is there.
    assert_eq!(report["received"]["frames"], 3000, "{report}");
    assert_eq!(report["received"]["lost"], 999, "{report}");
    assert!(!attached()?, "the program is still there");
    Ok(())
}

#[test]
fn what_cannot_be_sent_is_refused_with_the_reason() -> Result<()> {
    let way = Way::new("refused")?;
    way.router.run(&["ethtool", "-K", "lan", "gro", "off"])?;
    let refusal = |arguments: &str| -> Result<String> {
        let netns = ["--netns", way.sender.name()];
        let output = pktgen(&[&netns[..], &arguments.split_whitespace().collect::<Vec<_>>()].concat())?;
        let text = String::from_utf8(output.stderr)?;
        ensure!(!output.status.success(), "{arguments} went well");
        Ok(text)
    };
    let to = "--dst-mac 02:00:00:00:00:01 --count 1";
    for (arguments, expected) in [
        ("", "--from DEVICE sends, --to DEVICE counts"),
        ("--from out", "--dst-mac is missing"),
        (&format!("--from gone {to}"), "gone: no such device"),
        (&format!("--from out {to} --method live"), "takes no XDP frames"),
        (&format!("--from out {to} --method kernel"), "modprobe pktgen"),
        (&format!("--from out {to} --size 63"), "at least 64 bytes"),
        (&format!("--from out {to} --size 64 --family 6"), "at least 66 bytes"),
        (&format!("--from out {to} --size 1519"), "MTU of 1500"),
        (&format!("--from out {to} --flows 0"), "--flows is from 1"),
        (&format!("--from out {to} --rate fast"), "not a number of frames a second"),
        (&format!("--from out {to} --size 64 --imix"), "cannot be used with"),
        ("--from out --dst-mac 02:00", "not a MAC address"),
        ("--to gone --to-netns nowhere", "no network namespace nowhere"),
    ] {
        let text = refusal(arguments)?;
        ensure!(text.contains(expected), "{arguments}: `{expected}` is not in: {text}");
    }
    // Where the device takes no XDP frames, `auto` says so and takes the ring.
    let from = ["--from", "out", "--netns", way.sender.name(), "--dst-mac", "02:00:00:00:00:01", "--count", "10"];
    let output = pktgen(&from)?;
    let (said, text) = (String::from_utf8(output.stderr)?, String::from_utf8(output.stdout)?);
    assert!(
        output.status.success() && said.contains("its AF_XDP ring sends") && text.contains("(ring)"),
        "{said}{text}"
    );
    Ok(())
}
