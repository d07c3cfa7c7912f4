//! Programs on the router, behind its TAPs: ssh into it, fetch from it, and rules for what they hear and say.

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{self, MsgFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use sumun_testbed::craft::packet_socket;
use sumun_testbed::router::{INTERFACES, wait};
use sumun_testbed::{Appliance, Beside, Host, Lab, Router};

const RULES: &str = r#"
[filter.INPUT]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
  "-p icmp -j ACCEPT",
  "-p ipv6-icmp -j ACCEPT",
  "-i lan0 -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT",
]

[filter.OUTPUT]
rules = [
  "-o lan0 -p tcp --sport 22 -m conntrack --ctstate ESTABLISHED",
  "-p tcp --dport 8080 -m owner --uid-owner 65534 -j REJECT --reject-with tcp-reset",
]

[ipv4.nat.OUTPUT]
rules = ["-d 198.51.100.80 -p tcp --dport 80 -j DNAT --to-destination 203.0.113.1:8080"]
"#;

/// Packets of the rule in whose line these words are.
fn counted(router: &Router, words: &str) -> Result<u64> {
    let rules = router.ask(&["rules", "--counters"])?;
    let line = rules.lines().find(|line| line.contains(words)).with_context(|| format!("{words}: {rules}"))?;
    line.trim_start_matches('[').split(':').next().and_then(|n| n.parse().ok()).context("a counter")
}

/// A directory that sshd wants. Where it was not there, it goes with this.
struct Empty<'a>(Option<&'a Path>);

impl Empty<'_> {
    fn new(path: &Path) -> Result<Empty<'_>> {
        let is_new = !path.exists();
        std::fs::create_dir_all(path)?;
        Ok(Empty(is_new.then_some(path)))
    }
}

impl Drop for Empty<'_> {
    fn drop(&mut self) {
        self.0.map(std::fs::remove_dir);
    }
}

#[test]
fn ssh_into_the_router_and_fetching_from_it_pass_its_rules() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{RULES}"))?;
    let Appliance { router, host } = &appliance;
    host.ip("route add default via 203.0.113.1")?;

    let path = |name: &str| lab.path(name).display().to_string();
    for key in ["host_key", "user_key"] {
        host.run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path(key)])?;
    }
    let _empty = Empty::new(Path::new("/run/sshd"))?;
    let sshd = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n",
        path("host_key"),
        path("user_key.pub")
    );
    std::fs::write(path("sshd.conf"), sshd)?;
    let _sshd = Beside::start(host.command("/usr/sbin/sshd").args(["-D", "-f", &path("sshd.conf")]))?;
    let _web =
        Beside::start(lab.server.command("python3").args(["-m", "http.server", "8080", "--directory", &path("")]))?;
    std::fs::write(path("page"), "from the server")?;

    let ssh = |from: &Host, to: &str| {
        let key = path("user_key");
        let words =
            ["ssh", "-F", "none", "-i", &key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
        let rest = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=2", to, "echo", "on", "the", "router"];
        from.output(&[&words[..], &rest[..]].concat())
    };
    for to in ["root@192.168.1.1", "root@fd00:1::1"] {
        wait(&format!("ssh to {to}"), || Ok(ssh(&lab.client1, to)?.stdout == b"on the router\n"))?;
    }
    let refused = ssh(&lab.server, "root@203.0.113.2")?;
    ensure!(!refused.status.success(), "INPUT has no rule for ssh from the WAN");
    ensure!(counted(router, "--dport 22")? >= 1);
    ensure!(counted(router, "-A OUTPUT -o lan0 -p tcp")? >= 10);

    let fetch = |as_user: &[&str], url: &str| host.output(&[as_user, &["curl", "-s", "-S", "-m", "3", url]].concat());
    let direct = "http://203.0.113.1:8080/page";
    wait("the web server", || Ok(fetch(&[], direct)?.stdout == b"from the server"))?;
    let mapped = fetch(&[], "http://198.51.100.80/page")?;
    ensure!(mapped.stdout == b"from the server", "DNAT in OUTPUT: {mapped:?}");
    let nobody = fetch(&["setpriv", "--reuid", "65534", "--clear-groups"], direct)?;
    ensure!(nobody.status.code() == Some(7), "refused by its user: {nobody:?}");
    ensure!(counted(router, "--uid-owner 65534")? == 1);

    ensure!(lab.client1.pings("192.168.1.1", 3) && lab.client1.pings("fd00:1::1", 3));
    ensure!(host.pings("203.0.113.1", 3) && host.pings("fd00:1::11", 3));
    Ok(())
}

const LOOPED: &str = r#"
[filter.INPUT]
policy = "DROP"
rules = ["-i lo -p tcp -j ACCEPT", "-p icmp -j ACCEPT", "-p ipv6-icmp -j ACCEPT"]

[filter.OUTPUT]
rules = ["-o lo -p tcp --sport 8081"]

[ipv4.nat.OUTPUT]
rules = [
  "-d 198.51.100.80 -p tcp --dport 80 -j REDIRECT --to-ports 8081",
  "-d 198.51.100.81 -p tcp --dport 80 -j DNAT --to-destination 192.168.1.1:8082",
]

[ipv6.nat.OUTPUT]
rules = [
  "-d 2001:db8:9::80 -p tcp --dport 80 -j REDIRECT --to-ports 8082",
  "-d 2001:db8:9::81 -p tcp --dport 80 -j DNAT --to-destination [fd00:1::1]:8082",
]
"#;

#[test]
fn output_leads_programs_to_others_on_the_router() -> Result<()> {
    let lab = Lab::new(1)?;
    let appliance = Appliance::start(&lab, &format!("{INTERFACES}{LOOPED}"))?;
    let Appliance { router, host } = &appliance;
    host.ip("route add default via 203.0.113.1")?;
    host.ip("-6 route add default via 2001:db8:2::1")?;
    let page: Vec<u8> = (0..4u32 << 20).map(|i| (i ^ i >> 9) as u8).collect();
    std::fs::write(lab.path("page"), &page)?;
    let dir = lab.path("").display().to_string();
    let serve = |port: &str, bind: &str| {
        Beside::start(host.command("python3").args(["-m", "http.server", port, "--bind", bind, "--directory", &dir]))
    };
    // One that hears nothing but 127.0.0.1, and one for all addresses of both families.
    let _servers = [serve("8081", "127.0.0.1")?, serve("8082", "::")?];
    let fetch = |at: &str| host.output(&["curl", "-s", "-S", "-m", "5", &format!("http://{at}/page")]);
    for at in ["198.51.100.80", "198.51.100.81", "[2001:db8:9::80]", "[2001:db8:9::81]"] {
        wait(&format!("the page at {at}"), || Ok(fetch(at)?.stdout == page))?;
    }
    ensure!(fetch("198.51.100.82")?.status.code() == Some(28), "nobody redirects that, and nobody is there");
    ensure!(counted(router, "-A INPUT -i lo")? > 10 && counted(router, "-A OUTPUT -o lo")? > 100);
    let flows = router.flows(&["dst=198.51.100.80", "dport=80", "src=127.0.0.1", "sport=8081"])?;
    ensure!(!flows.is_empty(), "{}", router.ask(&["conntrack"])?);
    Ok(())
}

#[test]
fn frames_of_other_protocols_go_to_the_tap_where_it_is_to_have_them_and_from_it_always() -> Result<()> {
    let to_bridges = [1, 0x80, 0xc2, 0, 0];
    for (about_host, wanted) in [("", false), ("other-frames = \"tap\"", true)] {
        let lab = Lab::new(1)?;
        let appliance = Appliance::start_on(&lab, "1", about_host, INTERFACES)?;
        let ends = [
            appliance.host.inside(|| packet_socket("wan0"))?,
            lab.server.inside(|| packet_socket("eth0"))?,
            lab.router.inside(|| packet_socket("wan0"))?,
        ];
        let frame = |last: u8, from: [u8; 6], kind: [u8; 2]| {
            [&to_bridges[..], &[last], &from, &kind, &[0x42, 0x42, 3, last], &[7; 60]].concat()
        };
        // LLDP and a spanning tree's.
        for (last, kind) in [(0xe, [0x88, 0xcc]), (0, [0, 63])] {
            let [tap, server, device] = &ends;
            let here = frame(last, server.1, kind);
            socket::send(server.0.as_raw_fd(), &here, MsgFlags::empty())?;
            ensure!(hears(&tap.0, &here)? == wanted && hears(&device.0, &here)? != wanted, "{here:02x?}");
            let there = frame(last, tap.1, kind);
            socket::send(tap.0.as_raw_fd(), &there, MsgFlags::empty())?;
            ensure!(hears(&server.0, &there)?, "{there:02x?}");
        }
        ensure!(appliance.router.dropped("ethertype")? == 0);
    }
    Ok(())
}

/// Whether a packet socket gets this frame within a moment.
fn hears(socket: &OwnedFd, wanted: &[u8]) -> Result<bool> {
    let until = Instant::now() + Duration::from_millis(500);
    let mut buffer = [0; 2048];
    while Instant::now() < until {
        match socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) if buffer[..len] == *wanted => return Ok(true),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(false)
}
