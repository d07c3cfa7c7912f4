//! Matches on what is around a packet, asked of the kernel and of the engine about the same packets: routes, sockets, clocks,
//! nodes of a cluster, quotas, fingerprints.
//!
//! Each condition sets a bit of the packet's traffic class where it holds, so that what comes out shows all answers.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fmt::Write;
use std::process::Command;
use sumun_config::facts::{Family, PortId, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, WAN, address, of};
use sumun_testbed::differential::script::{SYN, Script, Step, arrives, expect_none, segment};
use sumun_testbed::differential::traffic::{hosts, own};
use sumun_testbed::differential::wire::{self, Ip};

/// Bits of a traffic class that conditions of one ruleset can have.
const BITS: usize = 6;

/// Rulesets of table mangle in which each of these conditions tells in a chain.
fn telling(chain: &str, conditions: &[&str]) -> Vec<String> {
    let rules = |some: &[&str]| {
        let mut text = "*mangle\n".to_string();
        for (bit, condition) in some.iter().enumerate() {
            let _ = writeln!(text, "-A {chain} {condition} -j TOS --or-tos {:#04x}", 0x80 >> bit);
        }
        text + "COMMIT\n"
    };
    conditions.chunks(BITS).map(rules).collect()
}

/// One script for each ruleset, with the same steps.
fn scripts(name: &str, family: Family, rulesets: &[String], steps: &[Step]) -> Vec<Script> {
    let script = |rules: &String| Script::new(name, family, rules).steps(steps.iter().cloned());
    rulesets.iter().map(script).collect()
}

fn kernel(tag: &str) -> Result<Kernel> {
    Kernel::new(&format!("{}-{tag}", std::process::id()))
}

fn datagram(port: PortId, family: Family, src: u128, dst: u128) -> Step {
    arrives(port, &Ip::new(family, src, dst).packet(proto::UDP, &wire::udp((5000, 80), b"around"), 1))
}

#[test]
fn the_way_back_to_a_source() -> Result<()> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let conditions = [
            "-m rpfilter",
            "-m rpfilter --loose",
            "-m rpfilter --accept-local",
            "-m rpfilter --loose --accept-local",
            "-m rpfilter --invert",
            "-m rpfilter --validmark --loose --invert",
        ];
        let (lan, wan) = hosts(family);
        let sources: &[&str] = of(
            family,
            &["10.77.0.5", "8.8.8.8", "10.66.0.1", "10.67.0.1", "198.51.100.7", "192.168.1.77", "203.0.113.77"],
            &["fd77::5", "2a00::8", "fd66::1", "fd67::1", "2001:db8:77::7", "fd00:1::77", "2001:db8:2::77"],
        );
        let mut steps = Vec::new();
        for source in sources.iter().map(|text| address(text)).chain([lan[0], wan[1]]) {
            steps.push(datagram(LAN, family, source, wan[1]));
            steps.push(datagram(WAN, family, source, lan[0]));
        }
        all.extend(scripts("rpfilter", family, &telling("PREROUTING", &conditions), &steps));
    }
    expect_none(&mut kernel("rpfilter")?, &all)
}

#[test]
fn the_node_of_a_cluster() -> Result<()> {
    let node = |node: u32, seed: &str| {
        format!("-m cluster --cluster-total-nodes 5 --cluster-local-node {node} --cluster-hash-seed {seed}")
    };
    let mut conditions: Vec<String> = (1..=5).map(|n| node(n, "0xdeadbeef")).collect();
    conditions.push("-m cluster --cluster-total-nodes 3 ! --cluster-local-node 2 --cluster-hash-seed 7".into());
    conditions.extend((1..=5).map(|n| node(n, "1")));
    conditions.push("-m cluster --cluster-total-nodes 32 --cluster-local-nodemask 0x1f --cluster-hash-seed 9".into());
    let conditions: Vec<&str> = conditions.iter().map(String::as_str).collect();
    let mut all = Vec::new();
    for family in Family::ALL {
        let (lan, wan) = hosts(family);
        // Of IPv6 the kernel looks at the first 32 bits only.
        let (network, step) = of(family, (address("10.77.0.0"), 0x0103), (address("fd77::"), 1 << 97 | 0x0103));
        let mut steps = Vec::new();
        for host in 0..24 {
            let source = network + step * host + 1;
            steps.push(datagram(LAN, family, source, wan[1]));
        }
        // An answer belongs to the node of the first packet; what has no flow to none.
        steps.push(datagram(LAN, family, lan[0], wan[1]));
        let back = Ip::new(family, wan[1], lan[0]).packet(proto::UDP, &wire::udp((80, 5000), b"back"), 1);
        steps.push(arrives(WAN, &back));
        let lost = Ip::new(family, wan[1], lan[0]).packet(of(family, proto::ICMP, proto::ICMPV6), &[0; 3], 1);
        steps.push(arrives(WAN, &lost));
        all.extend(scripts("cluster", family, &telling("FORWARD", &conditions), &steps));
    }
    expect_none(&mut kernel("cluster")?, &all)
}

#[test]
fn the_socket_that_sent_it() -> Result<()> {
    let conditions = [
        "-m owner --socket-exists",
        "-m owner ! --socket-exists",
        "-m owner --uid-owner 0",
        "-m owner ! --uid-owner 0-5",
        "-m owner ! --gid-owner 7 --suppl-groups",
        "-m cgroup --cgroup 0",
        "-m cgroup ! --cgroup 5",
        "-m owner ! --socket-exists ! --uid-owner 0",
        "-m policy --dir out --pol none",
        "-m devgroup --dst-group 0x10/0x10",
    ];
    let refuse = |family: Family| {
        let icmp = of(family, "icmp-port-unreachable", "icmp6-port-unreachable");
        format!(
            "*filter\n-A INPUT -p tcp -m tcp --dport 81 -j REJECT --reject-with tcp-reset\n\
             -A INPUT -p udp -m udp --dport 81 -j REJECT --reject-with {icmp}\nCOMMIT\n"
        )
    };
    let mut all = Vec::new();
    for family in Family::ALL {
        let (lan, wan) = hosts(family);
        let router = own(family)[0];
        let to_router = |protocol, l4: &[u8]| arrives(LAN, &Ip::new(family, lan[0], router).packet(protocol, l4, 1));
        let ping = wire::icmp(of(family, 8, 128), 0, 0x0001_0001, b"ping");
        let expired = Ip { ttl: 1, ..Ip::new(family, lan[0], wan[1]) };
        let steps = [
            to_router(of(family, proto::ICMP, proto::ICMPV6), &ping),
            to_router(proto::UDP, &wire::udp((5000, 80), b"closed")),
            to_router(proto::UDP, &wire::udp((5000, 81), b"rejected")),
            to_router(proto::TCP, &segment(SYN).seq(1).bytes((5000, 80))),
            to_router(proto::TCP, &segment(SYN).seq(1).bytes((5000, 81))),
            arrives(LAN, &expired.packet(proto::UDP, &wire::udp((5000, 80), b"expired"), 1)),
            datagram(LAN, family, lan[0], wan[1]),
        ];
        for chain in ["OUTPUT", "POSTROUTING"] {
            let rulesets: Vec<String> =
                telling(chain, &conditions).into_iter().map(|rules| rules + &refuse(family)).collect();
            all.extend(scripts("owner", family, &rulesets, &steps));
        }
    }
    expect_none(&mut kernel("owner")?, &all)
}

#[test]
fn clocks_bridges_groups_and_policies() -> Result<()> {
    let conditions = [
        "-m time --datestart 2020",
        "-m time --datestop 2020",
        "-m time --timestart 0:00 --timestop 12:00",
        "-m time --timestart 12:00:01 --timestop 23:59:59",
        "-m time --timestart 12:00 --timestop 6:00",
        "-m time --weekdays Mon,Wed,Fri",
        "-m time ! --weekdays Mon,Wed,Fri",
        "-m time --timestart 23:59:59 --timestop 23:59:58 --weekdays Mon,Wed,Fri --contiguous",
        "-m time --monthdays 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "-m time ! --monthdays 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "-m time --monthdays 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 --kerneltz",
        "-m physdev --physdev-in lan0",
        "-m physdev ! --physdev-in lan0",
        "-m physdev ! --physdev-is-in ! --physdev-out lan+ --physdev-is-bridged",
        "-m physdev ! --physdev-is-bridged ! --physdev-is-in",
        "-m policy --dir in --pol none",
        "-m policy --dir in --pol ipsec ! --reqid 3",
        "-m policy --dir out --pol ipsec --strict --proto esp --next ! --spi 5",
        "-m devgroup --src-group 1",
        "-m devgroup ! --src-group 1",
        "-m devgroup --src-group 0x12 --dst-group 1",
        "-m devgroup --dst-group 0x10/0x10",
        "-m quota --quota 100",
        "-m quota ! --quota 100",
    ];
    let mut all = Vec::new();
    for family in Family::ALL {
        let (lan, wan) = hosts(family);
        let both = [datagram(LAN, family, lan[0], wan[1]), datagram(WAN, family, wan[1], lan[0])];
        let steps: Vec<Step> = (0..3).flat_map(|_| both.clone()).collect();
        all.extend(scripts("surroundings", family, &telling("FORWARD", &conditions), &steps));
    }
    expect_none(&mut kernel("surround")?, &all)
}

#[test]
fn realms_of_routes() -> Result<()> {
    let conditions = [
        "-m realm --realm 10",
        "-m realm --realm 10/0xffff",
        "-m realm --realm 20/0xffff",
        "-m realm --realm 0xa0000/0xffff0000",
        "-m realm --realm 0x50000/0xffff0000",
        "-m realm ! --realm cosmos",
        "-m realm --realm 0x140000/0xffff0000",
        "-m realm --realm 0/0xffff",
        "-m realm --realm 0/0xffff0000",
    ];
    let family = Family::V4;
    let inner = [address("192.168.1.11"), address("10.77.0.5")];
    let outer = [address("203.0.113.9"), address("8.8.8.8")];
    let mut steps = Vec::new();
    for inner in inner {
        for outer in outer {
            steps.push(datagram(LAN, family, inner, outer));
            steps.push(datagram(WAN, family, outer, inner));
        }
    }
    let ping = wire::icmp(8, 0, 0x0001_0001, b"ping");
    for (port, source, router) in [(LAN, inner[0], 0), (LAN, inner[1], 0), (WAN, outer[0], 1), (WAN, outer[1], 1)] {
        steps.push(arrives(port, &Ip::new(family, source, own(family)[router]).packet(proto::ICMP, &ping, 1)));
    }
    let mut all = Vec::new();
    for chain in ["INPUT", "FORWARD", "OUTPUT", "POSTROUTING"] {
        all.extend(scripts(&format!("realms in {chain}"), family, &telling(chain, &conditions), &steps));
    }
    expect_none(&mut kernel("realms")?, &all)
}

/// Fingerprints of systems that there are not, for as long as the kernel has them.
struct Fingerprints(tempfile::NamedTempFile);

const SYSTEMS: &str = "\
S4:64:1:60:M*,S,T,N,W7:SumunS:1::a multiple of the MSS
*:64:1:44:M*:SumunAny:1::any window
T2:128:0:48:M1460,N,N,S:SumunT:1:x:a multiple of the MTU
%8192:64:0:40:.:SumunPercent:1::a multiple
65535:64:1:64:M*,N,W3,N,N,T,S,E:SumunLong:1::all options
";

impl Fingerprints {
    fn load() -> Result<Fingerprints> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), SYSTEMS)?;
        let fingerprints = Fingerprints(file);
        fingerprints.tell(&[])?;
        Ok(fingerprints)
    }

    fn tell(&self, options: &[&str]) -> Result<()> {
        let path = self.0.path();
        let output = Command::new("nfnl_osf").arg("-f").arg(path).args(options).output().context("nfnl_osf")?;
        anyhow::ensure!(output.status.success(), "nfnl_osf: {output:?}");
        Ok(())
    }
}

impl Drop for Fingerprints {
    fn drop(&mut self) {
        let _ = self.tell(&["-d"]);
    }
}

#[test]
fn fingerprints_of_systems() -> Result<()> {
    let fingerprints = Fingerprints::load()?;
    let conditions = [
        "-p tcp -m osf --genre SumunS",
        "-p tcp -m osf ! --genre SumunAny",
        "-p tcp -m osf --genre SumunT --ttl 1",
        "-p tcp -m osf --genre SumunPercent --ttl 2",
        "-p tcp -m osf --genre SumunLong",
        "-p tcp -m osf --genre SumunAny --ttl 2 --log 1",
    ];
    let family = Family::V4;
    let (lan, wan) = hosts(family);
    let mss = |mss: u16| vec![2, 4, (mss >> 8) as u8, mss as u8];
    let stamp = [8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
    let linux = |size| [&mss(size)[..], &[4, 2], &stamp, &[1, 3, 3, 9]].concat();
    let windows = |size| [&mss(size)[..], &[1, 1, 4, 2]].concat();
    let long = [&mss(1400)[..], &[1, 3, 3, 2, 1, 1], &stamp, &[4, 2, 0, 0]].concat();
    let other = [&[1, 1, 1, 1][..], &[1, 1, 4, 2]].concat();
    let syns: Vec<(Vec<u8>, u16, bool, u8)> = vec![
        (linux(1460), 4 * 1460, true, 64),
        (linux(1400), 4 * 1400, true, 64),
        (linux(1400), 4 * 1448, true, 64),
        (linux(1400), 4 * 1401, true, 64),
        (linux(1460), 4 * 1460, false, 64),
        (linux(1460), 4 * 1460, true, 63),
        (mss(1460), 77, true, 64),
        (mss(1460), 77, true, 65),
        (windows(1000), 2 * 1040, false, 128),
        (windows(1000), 2 * 1040, false, 100),
        (windows(1000), 2 * 1040, false, 129),
        (windows(1000), 2 * 1500, false, 128),
        (Vec::new(), 16_384, false, 3),
        (Vec::new(), 0, false, 64),
        (Vec::new(), 5, false, 64),
        (long.clone(), 65_535, true, 64),
        (long, 65_534, true, 64),
        (other, 2 * 1500, false, 128),
    ];
    let mut steps = Vec::new();
    for (options, window, df, ttl) in syns {
        let l4 = segment(SYN).seq(1).window(window).options(&options).bytes((5000, 80));
        let ip = Ip { df, ttl, ..Ip::new(family, lan[0], wan[1]) };
        steps.push(arrives(LAN, &ip.packet(proto::TCP, &l4, 1)));
    }
    let section = format!("[osf]\nfingerprints = \"{}\"\n", fingerprints.0.path().display());
    let mut all = Vec::new();
    for chain in ["PREROUTING", "FORWARD"] {
        let told = scripts("osf", family, &telling(chain, &conditions), &steps);
        all.extend(told.into_iter().map(|script| script.section(&section)));
    }
    expect_none(&mut kernel("osf")?, &all)
}

#[test]
fn accounts_and_the_core_of_the_sender() -> Result<()> {
    // The engine's worker is on core 0 too.
    let mut core = CpuSet::new();
    core.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &core)?;
    let mut kernel = kernel("accounts")?;
    let mut all = Vec::new();
    for family in Family::ALL {
        let [plain, few, small] = ["plain", "few", "small"].map(|name| format!("{name}-{}", family.name()));
        kernel.command(&["nfacct", "add", &plain])?;
        kernel.command(&["nfacct", "add", &few, "packet", "3"])?;
        kernel.command(&["nfacct", "add", &small, "byte", "100"])?;
        let named = |name: &str| format!("-m nfacct --nfacct-name {name}");
        let conditions = [
            named(&plain),
            named(&few),
            named(&small),
            format!("-p udp {}", named(&few)),
            "-m cpu --cpu 0".into(),
            "-m cpu ! --cpu 0".into(),
        ];
        let rules = telling("FORWARD", &conditions.each_ref().map(String::as_str));
        let (lan, wan) = hosts(family);
        let both = [datagram(LAN, family, lan[0], wan[1]), datagram(WAN, family, wan[1], lan[0])];
        let sections = format!("[accounts.{few}]\nquota-packets = 3\n[accounts.{small}]\nquota-bytes = 100\n");
        let steps = (0..3).flat_map(|_| both.clone());
        all.push(Script::new("accounts", family, &rules.concat()).section(&sections).counted().steps(steps));
    }
    expect_none(&mut kernel, &all)
}
