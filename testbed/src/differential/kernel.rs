//! The kernel's router: a namespace with two devices, whose other ends are packet sockets of ours.
//!
//! A frame that is sent into a veth device is worked on before the system call returns, as a rule. To be sure of it a marker
//! follows each frame, an ARP request, which no rule sees: what came out before its answer belongs to the frame. That holds
//! because the queue that veth devices share on a CPU is first in, first out; so the sender stays on one CPU.

use super::net::{ADDRESSES, GROUPS, HOST, MARKER, MTU, NEIGHBOURS, PORTS, REALMS, ROUTER, ROUTES, SYSCTLS, mac_text};
use super::wire::arp_request;
use crate::Host;
use crate::craft::packet_socket;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::socket::{self, MsgFlags};
use nix::unistd::Pid;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};
use sumun_config::facts::{Family, PortId};

/// Most time that a marker takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Matches and targets that share what they remember by its name.
const NAMED: [&str; 7] = ["-m recent", "-m hashlimit", "-m quota", "-m nfacct", "RATEEST", "-m rateest", "IDLETIMER"];

/// No rules, but for what keeps conntrack watching.
const EMPTY: &str = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n\
    *security\n:watch - [0:0]\n-A watch -m conntrack --ctstate NEW\nCOMMIT\n";

/// The kernel's router. One for a run.
pub struct Kernel {
    router: Host,
    /// The far ends of the router's devices; holds them in being.
    _outside: Host,
    sockets: [OwnedFd; 2],
    marker: Vec<u8>,
    /// Families whose rules have objects.
    with_objects: Vec<Family>,
    buffer: Vec<u8>,
}

impl Kernel {
    /// Makes the network and waits until the kernel has no more to say of its own.
    pub fn new(tag: &str) -> Result<Kernel> {
        stay_on_this_core()?;
        let router = Host::new(&format!("{tag}-kernel"))?;
        let outside = Host::new(&format!("{tag}-outside"))?;
        outside.run(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])?;
        for (i, port) in PORTS.iter().enumerate() {
            let outer = format!("out{i}");
            let (mac, peer) = (mac_text(ROUTER[i]), mac_text(HOST[i]));
            let pair = ["link", "add", port, "netns", router.name(), "address", &mac, "type", "veth"];
            crate::host::ip(
                &[&pair[..], &["peer", "name", &outer, "netns", outside.name(), "address", &peer]].concat(),
            )?;
            for (host, device) in [(&router, *port), (&outside, outer.as_str())] {
                host.run(&[
                    "ethtool", "-K", device, "rx", "off", "tx", "off", "gso", "off", "tso", "off", "gro", "off",
                ])?;
                host.ip(&format!("link set {device} arp {} up", if device == *port { "on" } else { "off" }))?;
            }
            router.ip(&format!("link set {port} mtu {} allmulticast on group {}", MTU[i], GROUPS[i]))?;
        }
        let mut kernel = Kernel {
            sockets: outside.inside(|| Ok([packet_socket("out0")?.0, packet_socket("out1")?.0]))?,
            router,
            _outside: outside,
            marker: arp_request(HOST[0], MARKER.0, MARKER.1),
            with_objects: Vec::new(),
            buffer: vec![0; 65_536],
        };
        kernel.configure()?;
        // What the kernel says as its devices come up: it joins its groups, and says so again within two seconds.
        std::thread::sleep(Duration::from_millis(2500));
        while kernel.receive(0)?.is_some() || kernel.receive(1)?.is_some() {}
        Ok(kernel)
    }

    fn configure(&self) -> Result<()> {
        for (port, address) in ADDRESSES {
            self.router.ip(&format!("addr add {address} dev {} {}", PORTS[port], broadcast(address)))?;
        }
        for (port, address) in NEIGHBOURS {
            self.router.ip(&format!("neigh replace {address} lladdr {} dev {}", mac_text(HOST[port]), PORTS[port]))?;
        }
        for (to, kind, via) in ROUTES {
            let via = if via.is_empty() { String::new() } else { format!("via {via}") };
            let flag = if to.contains(':') { "-6" } else { "-4" };
            let realm =
                REALMS.iter().find(|realm| realm.0 == to).map_or(String::new(), |realm| format!("realm {}", realm.1));
            self.router.ip(&format!("{flag} route add {kind} {to} {via} {realm}"))?;
        }
        // Conntrack watches a namespace from the first rule that asks it; the security table is nobody else's here.
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            self.router.run(&[program, "-w", "-t", "security", "-N", "watch"])?;
            let rule = ["-A", "watch", "-m", "conntrack", "--ctstate", "NEW"];
            self.router.run(&[&[program, "-w", "-t", "security"], &rule[..]].concat())?;
        }
        for setting in SYSCTLS {
            self.router.run(&["sysctl", "-qw", setting])?;
        }
        // The kernel cannot be told not to send IPv6 redirects, which Sumun never does: they end before any table sees them.
        for command in [
            "add table ip6 quiet",
            "add chain ip6 quiet output { type filter hook output priority -450; }",
            "add rule ip6 quiet output icmpv6 type nd-redirect drop",
        ] {
            self.router.run(&["nft", command])?;
        }
        // Of the whole machine where the kernel is older; then its default has to do.
        for setting in ["net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.icmp_msgs_burst=100000"] {
            let _ = self.router.run(&["sysctl", "-qw", setting]);
        }
        Ok(())
    }

    /// Puts a ruleset in force, as text of iptables-save with counters, and forgets all flows and what was learned of paths.
    pub fn load(&mut self, family: Family, rules: &str) -> Result<Result<(), String>> {
        self.give_up_neighbours(family)?;
        self.forget_objects()?;
        if let Err(why) = self.restore(family, rules)? {
            return Ok(Err(why));
        }
        if NAMED.iter().any(|name| rules.contains(name)) {
            self.with_objects.push(family);
        }
        self.router.output(&["conntrack", "-F"])?;
        self.forget_paths(family)?;
        Ok(Ok(()))
    }

    /// Replaces the tables that the text has.
    fn restore(&self, family: Family, rules: &str) -> Result<Result<(), String>> {
        let mut command = self.router.command(program(family, "restore"));
        let mut child =
            command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no standard input")?.write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            let number = why.split(&[' ', '\n']).filter_map(|word| word.parse().ok()).next_back();
            let line = number.and_then(|n: usize| rules.lines().nth(n.wrapping_sub(1))).unwrap_or_default();
            return Ok(Err(format!("{}: {line}", why.lines().next().unwrap_or_default())));
        }
        Ok(Ok(()))
    }

    /// Lets go of what rules of both families share by name, whose memory would be found again by rules that name it anew.
    fn forget_objects(&mut self) -> Result<()> {
        for family in std::mem::take(&mut self.with_objects) {
            self.restore(family, EMPTY)?.map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// Ends the search for neighbours that do not answer: what it has to say is said now, and not in the case to
    /// come, whose rules would count it.
    fn give_up_neighbours(&mut self, family: Family) -> Result<()> {
        self.router.ip(family_flag(family, "-4 neigh flush all", "-6 neigh flush all"))?;
        self.settle()?;
        Ok(())
    }

    /// Forgets what errors told of path MTUs.
    pub fn forget_paths(&self, family: Family) -> Result<()> {
        self.router.ip(family_flag(family, "-4 route flush cache", "-6 route flush cache"))?;
        Ok(())
    }

    /// Makes these sets and no others, from the text of `ipset save`. No rule may know any of those before.
    pub fn make_sets(&self, text: &str) -> Result<()> {
        // Lists let go of their sets first.
        self.router.run(&["ipset", "flush"])?;
        self.router.run(&["ipset", "destroy"])?;
        self.restore_sets(&["restore"], text)
    }

    /// Does commands of ipset; what they make may be there. What the rules in force have to count is counted before.
    pub fn fill_sets(&mut self, family: Family, commands: &str) -> Result<()> {
        self.give_up_neighbours(family)?;
        self.restore_sets(&["-exist", "restore"], commands)
    }

    fn restore_sets(&self, args: &[&str], text: &str) -> Result<()> {
        let mut child = self.router.command("ipset").args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ipset: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The sets, as `ipset save` prints them.
    pub fn sets(&self) -> Result<String> {
        self.router.run(&["ipset", "save"])
    }

    /// Runs a command in the router's namespace.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.router.run(args)
    }

    /// The ruleset with its counters, as iptables-save prints it.
    pub fn rules(&self, family: Family) -> Result<String> {
        self.router.run(&[program(family, "save"), "-c"])
    }

    /// The flow table, as `conntrack -L` prints it.
    pub fn flows(&self, family: Family) -> Result<String> {
        self.router.run(&["conntrack", "-L", "-f", family_flag(family, "ipv4", "ipv6")])
    }

    /// The same out of the kernel's own file, in far less time, where it has one.
    pub fn flows_at_once(&self, family: Family) -> Result<String> {
        let file = self.router.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/nf_conntrack")));
        let Ok(text) = file? else { return self.flows(family) };
        let name = family_flag(family, "ipv4", "ipv6");
        // The kernel forgot DCCP's name and ports, the program did not.
        let text = text.replace("unknown  33 ", "dccp     33 ");
        let listed = |line: &str| {
            let ports = if line.contains("dccp") { " sport=0 dport=0" } else { "" };
            let words = line.split_whitespace().skip(2).filter_map(as_listed);
            let words: Vec<_> = words.map(|w| if w.starts_with("dst=") { w + ports } else { w }).collect();
            words.join(" ") + "\n"
        };
        Ok(text.lines().filter(|line| line.starts_with(name)).map(listed).collect())
    }

    /// A file of the router's own in `/proc/net`.
    pub fn proc_net(&self, name: &str) -> Result<String> {
        let path = format!("/proc/thread-self/net/{name}");
        self.router.inside(|| std::fs::read_to_string(&path).with_context(|| path.clone()))
    }

    /// Puts a setting of the router by its short name; what it was.
    pub fn set(&self, name: &str, value: &str) -> Result<String> {
        let folder = if name.starts_with("nf_") { "netfilter" } else { "ipv4" };
        let path = format!("/proc/sys/net/{folder}/{name}");
        self.router.inside(|| {
            let before = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            std::fs::write(&path, value).with_context(|| path.clone())?;
            Ok(before.trim().to_string())
        })
    }

    /// One frame in; all frames that come out of it.
    pub fn send(&mut self, port: PortId, frame: &[u8]) -> Result<Vec<(PortId, Vec<u8>)>> {
        self.transmit(port.0 as usize, frame)?;
        self.settle()
    }

    /// All frames that came out since the last time.
    pub fn settle(&mut self) -> Result<Vec<(PortId, Vec<u8>)>> {
        let marker = std::mem::take(&mut self.marker);
        let sent = self.transmit(0, &marker);
        self.marker = marker;
        sent?;
        let mut out = Vec::new();
        let began = Instant::now();
        loop {
            match self.receive(0)? {
                Some(frame) if is_answer(&frame) => break,
                Some(frame) => out.push((PortId(0), frame)),
                None if began.elapsed() > PATIENCE => bail!("the kernel's router did not answer the marker"),
                None => std::thread::yield_now(),
            }
        }
        while let Some(frame) = self.receive(1)? {
            out.push((PortId(1), frame));
        }
        Ok(out)
    }

    fn transmit(&self, port: usize, frame: &[u8]) -> Result<()> {
        let sent = socket::send(self.sockets[port].as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("sending {} bytes", frame.len()))?;
        ensure!(sent == frame.len());
        Ok(())
    }

    fn receive(&mut self, port: usize) -> Result<Option<Vec<u8>>> {
        match socket::recv(self.sockets[port].as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(n) => Ok(Some(self.buffer[..n].to_vec())),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).context("receiving"),
        }
    }
}

/// Pins this thread, and what it starts, to the core that it runs on.
fn stay_on_this_core() -> Result<()> {
    let mut core = CpuSet::new();
    core.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &core).context("pinning")
}

/// A word of the kernel's file of flows as `conntrack -L` prints it; none where it leaves it out.
fn as_listed(word: &str) -> Option<String> {
    match word.split_once('=') {
        Some(("zone", "0") | ("timeout" | "stream_timeout", _)) => None,
        Some((name @ ("src" | "dst"), address)) => {
            let address: Option<std::net::IpAddr> = address.parse().ok();
            Some(format!("{name}={}", address?))
        }
        _ => Some(word.into()),
    }
}

/// The marker's answer: an ARP reply to whom no packet is ever sent.
fn is_answer(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[38..42] == MARKER.0.to_be_bytes()
}

fn program(family: Family, verb: &str) -> &'static str {
    match (family, verb) {
        (Family::V4, "save") => "iptables-legacy-save",
        (Family::V4, _) => "iptables-legacy-restore",
        (Family::V6, "save") => "ip6tables-legacy-save",
        (Family::V6, _) => "ip6tables-legacy-restore",
    }
}

fn family_flag(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    super::net::of(family, v4, v6)
}

fn broadcast(address: &str) -> &'static str {
    if address.contains(':') { "nodad" } else { "broadcast +" }
}
