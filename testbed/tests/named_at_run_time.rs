//! What rules remember by name, and the packets that they hand on, as an operator sees them on a running router.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use sumun_testbed::router::{programs, wait};
use sumun_testbed::{Lab, Router};

const RECENT: &str = r#"
[ipv4.filter.FORWARD]
rules = [
    "-m recent --rcheck --name banned --mask 255.255.255.255 --rsource -j DROP",
    "-i lan0 -m recent --set --name seen --mask 255.255.255.255 --rsource",
]
"#;

#[test]
fn addresses_of_recent_are_listed_added_and_removed() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, RECENT)?;
    let recent = |args: &[&str]| router.ask(&[&["recent"], args].concat());
    assert_eq!(recent(&["list"])?, "list of recent banned\nlist of recent seen\n");
    assert!(lab.client1.pings("203.0.113.1", 2));
    let seen = recent(&["list", "seen"])?;
    assert!(seen.starts_with("src=192.168.1.11 ttl: 64 last_seen: ") && seen.contains(" oldest_pkt: 2 "), "{seen}");
    assert_eq!(recent(&["list", "banned"])?, "");

    recent(&["add", "banned", "192.168.1.11"])?;
    assert!(!lab.client1.pings("203.0.113.1", 1));
    assert!(lab.client2.pings("203.0.113.1", 1));
    assert!(recent(&["list", "banned"])?.starts_with("src=192.168.1.11 ttl: 0 "));
    recent(&["remove", "banned", "192.168.1.11"])?;
    assert!(lab.client1.pings("203.0.113.1", 1));
    recent(&["flush", "seen"])?;
    assert_eq!(recent(&["list", "seen"])?, "");

    for (args, says) in [
        (["remove", "banned", "192.168.1.11"].as_slice(), "the list of recent banned does not have 192.168.1.11"),
        (&["list", "nobody"], "no rule has the list of recent `nobody`"),
    ] {
        let output = router.sumun(&[&["recent"], args].concat())?;
        let text = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && text.contains(says), "{text}");
    }
    Ok(())
}

#[test]
fn entries_of_hashlimit_are_listed_by_family() -> Result<()> {
    let lab = Lab::new(1)?;
    let rule = "-i lan0 -m hashlimit --hashlimit-upto 1/min --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name each -j ACCEPT";
    let router = Router::start(&lab, &format!("[filter.FORWARD]\nrules = [\"{rule}\", \"-i lan0 -j DROP\"]\n"))?;
    let each = |flag: &str| router.ask(&["hashlimit", "list", "each", flag]);
    assert!(lab.client1.pings("203.0.113.1", 2));
    assert!(!lab.client1.pings("203.0.113.1", 1), "the burst is over");
    assert!(lab.client2.pings("2001:db8:2::1", 1));
    let (v4, v6) = (each("-4")?, each("-6")?);
    assert!(v4.lines().count() == 1 && v4.contains(" 192.168.1.11:0->0.0.0.0:0 "), "{v4}");
    assert!(v6.lines().count() == 1 && v6.contains("fd00:0001:0000:0000:0000:0000:0000:0012"), "{v6}");
    let names = router.ask(&["hashlimit", "list"])?;
    assert_eq!(names.lines().filter(|line| line.contains("each")).count(), 2, "{names}");
    let output = router.sumun(&["hashlimit", "list", "nothing"])?;
    let text = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(1) && text.contains("`nothing`"), "{text}");
    Ok(())
}

const HANDED: &str = r#"
[ipv4.filter.FORWARD]
rules = [
    "-i lan0 -p icmp -j NFLOG --nflog-group 5 --nflog-prefix \"ping \"",
    "-i lan0 -p icmp -j NFLOG --nflog-group 6",
]
"#;

/// `sumun nflog`, ended when dropped.
struct Listening {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Listening {
    fn start(lab: &Lab, args: &[&str]) -> Result<Listening> {
        let mut command = Command::new(programs().join("sumun"));
        command.arg("nflog").args(args).env("SUMUN_RUN_DIR", lab.path("run")).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Listening { child, lines })
    }

    /// The first line: client1 pings until it comes, since nobody says when the listening began.
    fn hears(&self, lab: &Lab) -> Result<String> {
        let mut line = None;
        wait("a packet", || {
            ensure!(lab.client1.pings("203.0.113.1", 1));
            line = self.lines.recv_timeout(Duration::from_millis(200)).ok();
            Ok(line.is_some())
        })?;
        line.context("no line")
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn packets_of_nflog_are_printed_and_written() -> Result<()> {
    let lab = Lab::new(1)?;
    let router = Router::start(&lab, HANDED)?;
    let line = Listening::start(&lab, &["--group", "5"])?.hears(&lab)?;
    assert!(line.contains(" 5 FORWARD ping IN=lan0 OUT=wan0 "), "{line}");
    assert!(line.contains("SRC=192.168.1.11 DST=203.0.113.1 ") && line.contains("PROTO=ICMP TYPE=8"), "{line}");

    let line = Listening::start(&lab, &["--json", "--group", "6"])?.hears(&lab)?;
    let packet: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!((&packet["group"], &packet["hook"], &packet["prefix"]), (&6.into(), &"FORWARD".into(), &"".into()));
    let hex = packet["packet"].as_str().unwrap_or_default();
    assert!(hex.starts_with("4500") && hex.contains("c0a8010bcb007101"), "{hex}");
    assert_eq!(packet["length"].as_u64(), Some(hex.len() as u64 / 2));

    let file = lab.path("packets.pcapng");
    let name = file.display().to_string();
    let listening = Listening::start(&lab, &["--write", &name])?;
    let read = || lab.router.output(&["tcpdump", "-n", "-r", &name]);
    wait("packets in the file", || {
        ensure!(lab.client1.pings("203.0.113.1", 1));
        Ok(String::from_utf8_lossy(&read()?.stdout).lines().count() >= 2)
    })?;
    drop(listening);
    let text = String::from_utf8(read()?.stdout)?;
    assert!(text.contains("IP 192.168.1.11 > 203.0.113.1: ICMP echo request"), "{text}");
    assert_eq!(router.status()?["generation"], 1);
    Ok(())
}
