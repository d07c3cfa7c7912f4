//! Operators at work on a router's flows: listing, deleting and listening while traffic runs, against the kernel's conntrack(8).

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sumun_testbed::router::{INTERFACES, head, programs, wait};
use sumun_testbed::{Lab, Router, talk};

const RULES: &str = r#"
nf_conntrack_acct = 1

[ipv4.nat.PREROUTING]
rules = ["-p tcp -m tcp --dport 8080 -j DNAT --to-destination 203.0.113.1:80"]

[mangle.FORWARD]
rules = [
  "-p udp -m udp --dport 54 -j CONNMARK --set-mark 7",
  "-p udp -m udp --sport 55 -j CONNMARK --set-mark 9",
]

[filter.FORWARD]
rules = ["-m conntrack --ctstate INVALID -j DROP"]
"#;

/// A program that writes into a file of the lab until it is stopped.
struct Writing<'a> {
    lab: &'a Lab,
    name: &'a str,
    child: Child,
}

impl<'a> Writing<'a> {
    fn start(lab: &'a Lab, name: &'a str, mut command: Command) -> Result<Writing<'a>> {
        let file = File::create(lab.path(name))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).spawn()?;
        Ok(Writing { lab, name, child })
    }

    fn lines(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.lab.path(self.name))?;
        Ok(text.lines().map(str::to_string).collect())
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sumun(lab: &Lab, args: &[&str]) -> Command {
    let mut command = Command::new(programs().join("sumun"));
    command.args(args).env("SUMUN_RUN_DIR", lab.path("run"));
    command
}

/// Makes flows to port 9999 until whoever listens has said a line.
fn until_it_listens(lab: &Lab, listener: &Writing) -> Result<()> {
    wait("a first event", || {
        talk::udp_connect(&lab.client1, "0.0.0.0:0", "203.0.113.1:9999")?.send(b"anybody?")?;
        Ok(!listener.lines()?.is_empty())
    })
}

/// A ping, datagrams, connections that are closed, mapped and refused.
fn dialogue(lab: &Lab) -> Result<()> {
    ensure!(lab.client1.pings("203.0.113.1", 1), "no ping");
    for (port, times) in [(53, 2), (54, 1), (55, 2)] {
        let echo = talk::udp_echo(&lab.server, &format!("203.0.113.1:{port}"), times)?;
        let socket =
            talk::udp_connect(&lab.client1, &format!("192.168.1.11:50{port}"), &format!("203.0.113.1:{port}"))?;
        for _ in 0..times {
            talk::udp_ask(&socket, b"hello")?;
        }
        echo.join().expect("no panic")?;
    }
    let listener = lab.server.inside(|| Ok(TcpListener::bind("203.0.113.1:80")?))?;
    for (to, port) in [("203.0.113.1:80", 6001), ("192.168.1.1:8080", 6002)] {
        let accepting = listener.try_clone()?;
        let server = lab.server.spawn(move || {
            let (mut stream, _) = accepting.accept()?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            // Until the end has been acknowledged on its own.
            std::thread::sleep(Duration::from_millis(300));
            Ok(heard)
        });
        let mut stream = talk::tcp_connect(&lab.client1, to, Some(format!("192.168.1.11:{port}").parse()?))?;
        stream.write_all(b"hello")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let heard = server.join().expect("no panic")?;
        ensure!(heard == b"hello", "{heard:?}");
        stream.read_to_end(&mut Vec::new())?;
    }
    let refused = talk::tcp_connect(&lab.client1, "203.0.113.1:81", Some("192.168.1.11:6003".parse()?));
    ensure!(refused.is_err(), "nothing listens on port 81");
    Ok(())
}

/// The lines without what no two routers have alike: identifiers of pings, seconds left at a deletion, and the one
/// second that is missing where the kernel's clock ticked between the packet and its event (all time-outs here end in 0).
fn comparable(lines: &[String]) -> Vec<String> {
    let lines = lines.iter().filter(|line| !line.contains("9999"));
    let same = |word: &str| match word.parse::<u32>() {
        Ok(seconds) if seconds % 10 == 9 => (seconds + 1).to_string(),
        _ if word.starts_with("id=") => "id=N".to_string(),
        _ => word.to_string(),
    };
    let line = |line: &String| {
        let line = line.split(" [USERSPACE]").next().unwrap_or_default();
        let mut words: Vec<String> = line.split(' ').map(same).collect();
        if line.starts_with("[DESTROY]")
            && let Some(at) = (1..words.len()).filter(|at| words[*at].parse::<u32>().is_ok()).nth(1)
        {
            words[at] = "LEFT".to_string();
        }
        words.join(" ")
    };
    lines.map(line).collect()
}

/// What the kernel as router says of the dialogue.
fn kernels(lab: &Lab) -> Result<Vec<String>> {
    for (device, address) in [("lan0", "192.168.1.1/24"), ("wan0", "203.0.113.2/24")] {
        lab.router.ip(&format!("addr add {address} dev {device}"))?;
    }
    for rule in [
        "-t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 203.0.113.1:80",
        "-t mangle -A FORWARD -p udp --dport 54 -j CONNMARK --set-mark 7",
        "-t mangle -A FORWARD -p udp --sport 55 -j CONNMARK --set-mark 9",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
    ] {
        let args: Vec<&str> = std::iter::once("iptables-legacy").chain(rule.split(' ')).collect();
        lab.router.run(&args)?;
    }
    for setting in ["net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_events=1", "net.netfilter.nf_conntrack_acct=1"]
    {
        lab.router.run(&["sysctl", "-qw", setting])?;
    }
    let mut command = lab.router.command("conntrack");
    command.args(["-E", "-f", "ipv4"]);
    let listener = Writing::start(lab, "events", command)?;
    until_it_listens(lab, &listener)?;
    dialogue(lab)?;
    lab.router.run(&["conntrack", "-D", "-p", "udp", "--orig-port-dst", "55"])?;
    wait("the deletion is told", || {
        Ok(listener.lines()?.iter().any(|l| l.starts_with("[DESTROY] udp") && l.contains("dport=55")))
    })?;
    listener.lines()
}

#[test]
fn events_are_those_of_the_kernel_for_the_same_dialogue() -> Result<()> {
    let kernel = kernels(&Lab::new(1)?)?;
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, RULES)?;
    let listener = Writing::start(&lab, "events", sumun(&lab, &["conntrack", "events", "-f", "ipv4"]))?;
    until_it_listens(&lab, &listener)?;
    dialogue(&lab)?;
    let deleted = router.ask(&["conntrack", "delete", "-p", "udp", "--orig-port-dst", "55"])?;
    ensure!(deleted.lines().count() == 1, "{deleted}");
    wait("the deletion is told", || {
        Ok(listener.lines()?.iter().any(|l| l.starts_with("[DESTROY] udp") && l.contains("dport=55")))
    })?;
    let (ours, theirs) = (comparable(&listener.lines()?), comparable(&kernel));
    assert_eq!(ours, theirs, "ours on the left");
    assert!(ours.len() > 20, "{ours:#?}");
    Ok(())
}

#[test]
fn flows_are_listed_deleted_and_counted_under_traffic() -> Result<()> {
    let lab = Lab::new(1)?;
    let config =
        format!("{}{INTERFACES}nf_conntrack_timestamp = 1\nnf_conntrack_log_invalid = 6\n{RULES}", head(&lab, "1"));
    let router = Router::start_with(&lab, &config)?;
    let listener = Writing::start(&lab, "events", sumun(&lab, &["conntrack", "events", "-p", "udp", "-o", "json"]))?;
    until_it_listens(&lab, &listener)?;

    // A flow that is deleted while its datagrams go on is another flow from the next one on.
    let echo = talk::udp_echo(&lab.server, "203.0.113.1:54", usize::MAX)?;
    let socket = talk::udp_connect(&lab.client1, "192.168.1.11:5000", "203.0.113.1:54")?;
    let enough = Arc::new(AtomicBool::new(false));
    let talking = std::thread::spawn({
        let enough = enough.clone();
        move || -> Result<usize> {
            let mut times = 0;
            while !enough.load(Ordering::Relaxed) {
                talk::udp_ask(&socket, b"tick")?;
                times += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(times)
        }
    });
    let name = ["-p", "udp", "-s", "192.168.1.11", "-d", "203.0.113.1", "--sport", "5000", "--dport", "54"];
    let with = |command: &[&'static str]| -> Vec<&'static str> { [command, &name[..]].concat() };
    let mut ids = Vec::new();
    for _ in 0..5 {
        let mut got = String::new();
        wait("the flow is there", || {
            // An answer that was on its way when the flow was deleted begins one the other way round.
            router.sumun(&["conntrack", "delete", "-p", "udp", "-s", "203.0.113.1", "--sport", "54"])?;
            let output = router.sumun(&with(&["conntrack", "get", "-o", "json"]))?;
            got = String::from_utf8(output.stdout)?;
            Ok(output.status.success())
        })?;
        let flow: Value = serde_json::from_str(&got)?;
        ensure!(flow["mark"] == 7 && flow["start"].is_number(), "{flow}");
        let deleted = router.sumun(&with(&["conntrack", "delete", "-o", "json", "-m", "7"]))?;
        ensure!(deleted.status.success(), "{deleted:?}");
        ids.push(serde_json::from_slice::<Value>(&deleted.stdout)?["id"].clone());
        std::thread::sleep(Duration::from_millis(20));
    }
    enough.store(true, Ordering::Relaxed);
    let times = talking.join().expect("no panic").context("the dialogue went on")?;
    ensure!(times > 5, "{times} questions were answered");
    // It ends when nobody has asked for a while.
    drop(echo);
    for (n, id) in ids.iter().enumerate() {
        ensure!(!ids[..n].contains(id), "two flows have the same id: {ids:?}");
        let told = |kind: &str| -> Result<bool> {
            let lines = listener.lines()?;
            let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            Ok(events.into_iter().any(|event| event["event"] == kind && event["flow"]["id"] == *id))
        };
        wait("its birth and its end are told", || Ok(told("new")? && told("destroy")?))?;
    }

    // A connection that is not mapped goes on when all flows are forgotten: it is picked up in the middle.
    let len = 4_000_000;
    let sink = talk::tcp_sink(&lab.server, "203.0.113.1:90", len)?;
    let mut stream = talk::tcp_connect(&lab.client2, "203.0.113.1:90", Some("192.168.1.12:7000".parse()?))?;
    let mut flushed = Ok(());
    talk::tcp_send(&mut stream, len, |at| {
        if flushed.is_ok() && at % 1_000_000 < 10_000 {
            flushed = router.ask(&["conntrack", "flush"]).map(drop);
        }
    })?;
    sink.join().expect("no panic")?;
    flushed?;

    // Filters, and what is counted.
    let sink = talk::tcp_sink(&lab.server, "203.0.113.1:91", 1000)?;
    talk::tcp_send(&mut talk::tcp_connect(&lab.client2, "203.0.113.1:91", None)?, 1000, |_| {})?;
    sink.join().expect("no panic")?;
    assert!(lab.client2.pings("2001:db8:2::1", 2));
    for (filter, lines) in [
        (&["-6", "-p", "icmpv6"][..], 1),
        (&["-p", "tcp", "-s", "192.168.1.0/24", "--dport", "91"], 1),
        (&["-p", "tcp", "--state", "SYN_SENT"], 0),
        (&["-p", "icmpv6", "-u", "SEEN_REPLY", "--icmp-type", "128"], 1),
        (&["-j"], 0),
    ] {
        let listed = router.ask(&[&["conntrack", "list", "-o", "extended"], filter].concat())?;
        assert_eq!(listed.lines().count(), lines, "{filter:?}: {listed}");
        let counted = router.ask(&[&["conntrack", "count"], filter].concat())?;
        assert_eq!(counted.trim(), lines.to_string(), "{filter:?}");
    }
    let stamped = router.ask(&["conntrack", "list", "-6", "-o", "ktimestamp"])?;
    ensure!(stamped.contains("delta-time=") && stamped.contains(" [start="), "{stamped}");
    let stats: Value = serde_json::from_str(&router.ask(&["conntrack", "stats", "--json"])?)?;
    ensure!(stats["workers"][0]["insert"].as_u64().is_some_and(|n| n > 5), "{stats}");
    ensure!(router.ask(&["conntrack", "stats"])?.starts_with("cpu=0   \tfound="), "as conntrack -S");

    // A segment out of nowhere is INVALID, counted and logged with its reason.
    lab.client1.run(&["python3", "-c", STRAY])?;
    let why = || -> Result<u64> {
        let stats: Value = serde_json::from_str(&router.ask(&["conntrack", "stats", "--json"])?)?;
        Ok(stats["invalid"]["tcp-new"].as_u64().unwrap_or(0))
    };
    wait("it is counted", || Ok(why()? > 0))?;
    let line = "nf_ct_proto_6: tcp-new IN= OUT= SRC=192.168.1.11 DST=203.0.113.1 ";
    wait("it is logged", || Ok(std::fs::read_to_string(lab.path("packets.log")).unwrap_or_default().contains(line)))?;
    Ok(())
}

/// Sends one SYN ACK that answers nothing.
const STRAY: &str = r#"
import socket, struct
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
src, dst = socket.inet_aton("192.168.1.11"), socket.inet_aton("203.0.113.1")
tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x12, 100, 0, 0)
data = src + dst + struct.pack("!BBH", 0, 6, len(tcp)) + tcp
total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
raw.sendto(tcp[:16] + struct.pack("!H", ~total & 0xffff) + tcp[18:], ("203.0.113.1", 0))
"#;
