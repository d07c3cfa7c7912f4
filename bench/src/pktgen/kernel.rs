//! Sending with the kernel's own generator, where it is loaded: its commands are written into files of /proc/net/pktgen
//! (Documentation/networking/pktgen.rst). Its frames have a stamp of their own, which the sink does not read.

use super::frame::{DPORT, Families, SPORT, Traffic};
use super::pace::{Limits, Sent};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where its files are, in the network namespace of this thread.
pub const FILES: &str = "/proc/thread-self/net/pktgen";

/// Source ports of a generator; beyond that, flows differ in their addresses too. Odd, so that with a power of two of addresses all
/// pairs have their turn.
const PORTS: u32 = 32_767;

/// The lines that its device's file takes.
pub fn commands(traffic: &Traffic, limits: &Limits) -> Result<String> {
    let hex = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    ensure!(traffic.families != Families::Both, "the kernel's generator sends one family at a time: --family 4 or 6");
    let is_v6 = traffic.families.are_v6()[0];
    let mut text = format!("count {}\ndelay 0\nclone_skb 0\n", limits.count.unwrap_or(0));
    let mut line = |line: &str| writeln!(text, "{line}").expect("a string takes all");
    match traffic.lengths[..] {
        [len] => line(&format!("pkt_size {len}")),
        _ => {
            let count = |len: u32| traffic.lengths.iter().filter(|other| **other == len).count();
            let mut kinds = traffic.lengths.clone();
            kinds.sort_unstable();
            kinds.dedup();
            let weights: Vec<String> = kinds.iter().map(|len| format!("{len},{}", count(*len))).collect();
            line(&format!("imix_weights {}", weights.join(" ")));
        }
    }
    line(&format!("dst_mac {}", hex(traffic.dst_mac)));
    line(&format!("src_mac {}", hex(traffic.src_mac)));
    let ports = traffic.flows.min(PORTS);
    let addresses = traffic.flows.div_ceil(PORTS).next_power_of_two();
    match is_v6 {
        true => {
            ensure!(traffic.flows <= PORTS, "the kernel's generator has at most {PORTS} flows of IPv6");
            line(&format!("src6 {}", traffic.v6.0));
            line(&format!("dst6 {}", traffic.v6.1));
        }
        false => {
            let last = std::net::Ipv4Addr::from(u32::from(traffic.v4.0).wrapping_add(addresses - 1));
            line(&format!("src_min {}\nsrc_max {last}", traffic.v4.0));
            line(&format!("dst_min {0}\ndst_max {0}", traffic.v4.1));
        }
    }
    line(&format!("udp_src_min {SPORT}\nudp_src_max {}", u32::from(SPORT) + ports - 1));
    line(&format!("udp_dst_min {DPORT}\nudp_dst_max {DPORT}"));
    line("flag UDPCSUM");
    if let Some(rate) = limits.rate {
        line(&format!("ratep {}", rate.round().max(1.0)));
    }
    Ok(text)
}

/// Sends, and waits until all is sent. `files` is [`FILES`]; the kernel's thread of this core sends.
pub fn run(
    files: &Path,
    device: &str,
    core: usize,
    traffic: &Traffic,
    limits: &Limits,
    stop: &AtomicBool,
) -> Result<(Sent, Duration)> {
    let pgctrl = files.join("pgctrl");
    ensure!(pgctrl.exists(), "the kernel's generator is not loaded: `modprobe pktgen`");
    let write = |file: &str, line: &str| {
        std::fs::write(files.join(file), line).with_context(|| format!("pktgen: `{line}` into {file}"))
    };
    let (thread, name) = (format!("kpktgend_{core}"), format!("{device}@{core}"));
    write(&thread, "rem_device_all")?;
    write(&thread, &format!("add_device {name}"))?;
    for line in commands(traffic, limits)?.lines() {
        write(&name, line)?;
    }
    let begun = Instant::now();
    let sending = std::thread::scope(|scope| {
        let running = scope.spawn(|| write("pgctrl", "start"));
        while !running.is_finished() {
            if stop.load(Ordering::Relaxed) || begun.elapsed() >= limits.duration {
                write("pgctrl", "stop")?;
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        running.join().map_err(|_| anyhow::anyhow!("the thread that starts pktgen panicked"))?
    });
    let took = begun.elapsed();
    sending?;
    let report = std::fs::read_to_string(files.join(&name)).with_context(|| format!("pktgen: reading {name}"))?;
    write(&thread, "rem_device_all")?;
    let Some(frames) = number(&report, "pkts-sofar: ") else { bail!("pktgen does not tell what it sent:\n{report}") };
    let mean = traffic.lengths.iter().sum::<u32>() as f64 / traffic.lengths.len() as f64;
    let failed = number(&report, "errors: ").unwrap_or(0);
    Ok((Sent { frames, bytes: (frames as f64 * mean) as u64, failed }, took))
}

/// The number behind a name in pktgen's report.
fn number(report: &str, name: &str) -> Option<u64> {
    let rest = &report[report.find(name)? + name.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Sizes, tests::traffic};
    use super::*;

    const LIMITS: Limits = Limits { rate: None, duration: Duration::from_secs(1), count: Some(1000) };

    #[test]
    fn its_commands_say_what_the_options_say() {
        let text = commands(&traffic(Families::V4, Sizes::One(None), 1000), &LIMITS).expect("commands");
        for line in [
            "count 1000",
            "pkt_size 60",
            "dst_mac 02:00:00:00:00:02",
            "src_min 10.255.255.250",
            "src_max 10.255.255.250",
            "dst_min 203.0.113.1",
            "udp_src_min 1024",
            "udp_src_max 2023",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        assert!(!text.contains("ratep"));
        let limits = Limits { rate: Some(250_000.0), count: None, ..LIMITS };
        let text = commands(&traffic(Families::V4, Sizes::Imix, 100_000), &limits).expect("commands");
        for line in ["count 0", "imix_weights 60,7 590,4 1514,1", "ratep 250000", "src_max 10.255.255.253"] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        let text = commands(&traffic(Families::V6, Sizes::One(None), 1), &LIMITS).expect("commands");
        assert!(text.contains("dst6 2001:db8::1\n") && text.contains("pkt_size 80\n"), "{text}");
        assert!(commands(&traffic(Families::Both, Sizes::One(None), 1), &LIMITS).is_err());
    }

    #[test]
    fn its_files_are_written_and_its_report_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let traffic = traffic(Families::V4, Sizes::One(None), 1);
        let stop = AtomicBool::new(false);
        let refused = run(dir.path(), "eth0", 1, &traffic, &LIMITS, &stop).expect_err("no pktgen");
        assert!(refused.to_string().contains("modprobe pktgen"));
        // A file keeps only its last line, the device's one that comes last of all: so the report has to be found elsewhere.
        std::fs::write(dir.path().join("pgctrl"), "").expect("a file");
        let refused = run(dir.path(), "eth0", 1, &traffic, &LIMITS, &stop).expect_err("no report");
        assert!(refused.to_string().contains("does not tell what it sent"));
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).expect("a file");
        assert_eq!((read("kpktgend_1").as_str(), read("pgctrl").as_str()), ("rem_device_all", "start"));
        let report = "Current:\n     pkts-sofar: 12345  errors: 6\n     started: 1us\nResult: OK: 1(c0+d1) usec";
        assert_eq!((number(report, "pkts-sofar: "), number(report, "errors: ")), (Some(12_345), Some(6)));
        assert_eq!(number(report, "gone: "), None);
    }
}
