//! The standard topology, and what it takes to make and sweep it.

use crate::host::{Host, PREFIX, ip, join};
use anyhow::{Result, ensure};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two clients behind a switch, the router, and a server; both families.
///
/// | host | device | IPv4 | IPv6 |
/// |---|---|---|---|
/// | client1 | eth0 | 192.168.1.11/24 | fd00:1::11/64 |
/// | client2 | eth0 | 192.168.1.12/24 | fd00:1::12/64 |
/// | router | lan0 | 192.168.1.1/24 | fd00:1::1/64 |
/// | router | wan0 | 203.0.113.2/24 | 2001:db8:2::2/64 |
/// | server | eth0 | 203.0.113.1/24 | 2001:db8:2::1/64 |
///
/// The server has routes back to the LAN, so that tests without masquerade work too.
pub struct Lab {
    /// First host of the LAN.
    pub client1: Host,
    /// Second host of the LAN.
    pub client2: Host,
    /// Joins the LAN; a bridge of the kernel.
    pub switch: Host,
    /// Where the dataplane runs.
    pub router: Host,
    /// The outside.
    pub server: Host,
    /// Sockets, configuration and logs of the router's processes.
    pub dir: tempfile::TempDir,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Makes the network. `queues` is the number of RX and TX queues of the router's devices.
    pub fn new(queues: u32) -> Result<Lab> {
        let tag = format!("{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let host = |name: &str| Host::new(&format!("{tag}-{name}"));
        let lab = Lab {
            client1: host("client1")?,
            client2: host("client2")?,
            switch: host("switch")?,
            router: host("router")?,
            server: host("server")?,
            dir: tempfile::Builder::new().prefix(PREFIX).tempdir()?,
        };
        lab.switch.ip("link add br0 type bridge mcast_snooping 0")?;
        lab.switch.ip("link set br0 up")?;
        lab.join(&lab.client1, "eth0", &lab.switch, "c1", 1)?;
        lab.join(&lab.client2, "eth0", &lab.switch, "c2", 1)?;
        lab.join(&lab.router, "lan0", &lab.switch, "r", queues)?;
        lab.join(&lab.router, "wan0", &lab.server, "eth0", queues)?;
        for device in ["c1", "c2", "r"] {
            lab.switch.ip(&format!("link set {device} master br0"))?;
        }
        for (host, last) in [(&lab.client1, "11"), (&lab.client2, "12")] {
            host.ip(&format!("addr add 192.168.1.{last}/24 dev eth0"))?;
            host.ip(&format!("addr add fd00:1::{last}/64 dev eth0 nodad"))?;
            host.ip("route add default via 192.168.1.1")?;
            host.ip("route add default via fd00:1::1")?;
        }
        lab.server.ip("addr add 203.0.113.1/24 dev eth0")?;
        lab.server.ip("addr add 2001:db8:2::1/64 dev eth0 nodad")?;
        lab.server.ip("route add 192.168.1.0/24 via 203.0.113.2")?;
        lab.server.ip("route add fd00:1::/64 via 2001:db8:2::2")?;
        // The devices belong to the dataplane: the kernel's own stack stays silent on them.
        for device in ["lan0", "wan0"] {
            lab.router.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")])?;
        }
        Ok(lab)
    }

    /// From now on the router's devices send through XDP, where they have one queue: a veth learns of its peer's GRO when that is
    /// switched on while both are up.
    pub fn let_frames_leave_through_xdp(&self) -> Result<()> {
        for (host, device) in [(&self.switch, "r"), (&self.server, "eth0")] {
            for gro in ["off", "on"] {
                host.run(&["ethtool", "-K", device, "gro", gro])?;
            }
        }
        Ok(())
    }

    /// The network with two queues, where all that client1 sends comes in on queue 0 of the router's devices, and all that client2
    /// and the server send on queue 1. With two workers the answers to client1 reach another one than its questions.
    pub fn crossed() -> Result<Lab> {
        let lab = Lab::new(2)?;
        let cpus = cpus()?;
        // A frame comes in on the queue of the number that its sender's device sent it on. The switch handles client1's frames
        // on one processor and client2's on another, and each processor sends on its own queue.
        let (first, others) = cpus.split_at(1);
        steer(&lab.switch, "c1", "rx-0/rps_cpus", first)?;
        steer(&lab.switch, "c2", "rx-0/rps_cpus", &others[..1])?;
        send_by_cpu(&lab.switch, "r", [first, others])?;
        send_by_cpu(&lab.server, "eth0", [&[], &cpus])?;
        Ok(lab)
    }

    /// Frames that each queue of a device of the router has received, as the kernel counts them.
    pub fn received(&self, device: &str) -> Result<Vec<u64>> {
        let counters = self.router.run(&["ethtool", "-S", device])?;
        let of = |line: &str| {
            let (name, count) = line.trim().split_once(": ")?;
            (name.starts_with("rx_queue_") && name.ends_with("_xdp_packets")).then(|| count.parse().ok()).flatten()
        };
        Ok(counters.lines().filter_map(of).collect())
    }

    /// Joins two namespaces by a veth pair. Frames of local sockets get whole checksums, as on a wire.
    pub fn join(&self, a: &Host, a_dev: &str, b: &Host, b_dev: &str, queues: u32) -> Result<()> {
        join(a, a_dev, b, b_dev, queues)
    }

    /// A path inside the lab's directory.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

/// The processors whose frames queues 0 and 1 of a device send.
pub fn send_by_cpu(host: &Host, device: &str, queues: [&[usize]; 2]) -> Result<()> {
    steer(host, device, "tx-0/xps_cpus", queues[0])?;
    steer(host, device, "tx-1/xps_cpus", queues[1])
}

/// Writes a set of processors into a setting of a device's queue.
pub fn steer(host: &Host, device: &str, setting: &str, cpus: &[usize]) -> Result<()> {
    let words = cpus.iter().max().map_or(1, |last| last / 32 + 1);
    let word = |n: usize| cpus.iter().filter(|cpu| *cpu / 32 == n).fold(0u32, |bits, cpu| bits | 1 << (cpu % 32));
    let mask: Vec<String> = (0..words).rev().map(|n| format!("{:08x}", word(n))).collect();
    // Only a process that `ip netns exec` started sees the namespace's own /sys.
    host.run(&["sh", "-c", &format!("echo {} > /sys/class/net/{device}/queues/{setting}", mask.join(","))])?;
    Ok(())
}

/// The numbers of the processors, at least two.
pub fn cpus() -> Result<Vec<usize>> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let last: usize = online.trim().rsplit(['-', ',']).next().unwrap_or_default().parse()?;
    ensure!(last > 0, "two workers need two processors");
    Ok((0..=last).collect())
}

/// Deletes namespaces of runs whose process is gone.
pub fn sweep() -> Result<()> {
    for line in ip(&["netns", "list"])?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if owner.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}
