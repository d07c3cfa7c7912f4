//! A trunk: one cable to the router that carries several networks, each with its tags, and hosts that know of no tags.
//!
//! ```text
//!  office   eth0 ── p0 ┐
//!  guests   eth0 ── p1 ┤ switch  t0 ── trunk0 ┐
//!  customer eth0 ── p2 ┤                      ├ router
//!  native   eth0 ── p3 ┘        server eth0 ── wan0 ┘
//! ```
//! The switch is BPF programs: what comes in on a host's port gets its tags and leaves on the trunk, what comes in on the trunk
//! with these tags loses them and leaves on the port; without tags it is the native network's. So this needs no VLAN
//! support of the kernel.

use crate::Host;
use crate::host::{PREFIX, join};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network on the trunk. 10.0.N.1 and fd00:N::1 are the router's there, 10.0.N.9 and fd00:N::9 its host's.
pub struct Network {
    /// The host's name; but for `native` the router's interface is called so, too.
    pub name: &'static str,
    /// N in its addresses.
    pub number: u32,
    /// EtherTypes and numbers of its tags, from the outside in.
    pub tags: &'static [(u16, u16)],
}

/// All of them, in the order of the switch's ports.
pub const NETWORKS: [Network; 4] = [
    Network { name: "office", number: 10, tags: &[(0x8100, 10)] },
    Network { name: "guests", number: 20, tags: &[(0x8100, 20)] },
    Network { name: "customer", number: 100, tags: &[(0x88a8, 100), (0x8100, 10)] },
    Network { name: "native", number: 1, tags: &[] },
];

/// The interfaces of the router: VLANs on `trunk0`, and `wan0` with 203.0.113.2/24 and 2001:db8:2::2/64.
pub const INTERFACES: &str = r#"
[interfaces.office]
parent = "trunk0"
vlan = 10
addresses = ["10.0.10.1/24", "fd00:10::1/64"]

[interfaces.guests]
parent = "trunk0"
vlan = 20
mtu = 1400
addresses = ["10.0.20.1/24", "fd00:20::1/64"]

[interfaces.trunk0]
mtu = 1500
addresses = ["10.0.1.1/24", "fd00:1::1/64"]

[interfaces.customer]
parent = "trunk0"
vlan = [100, 10]
vlan-protocol = "802.1ad"
addresses = ["10.0.100.1/24", "fd00:100::1/64"]

[interfaces.wan0]
addresses = ["203.0.113.2/24", "2001:db8:2::2/64"]

[sysctl]
icmp_ratelimit = 0
icmpv6_ratelimit = 0
"#;

/// The namespaces.
pub struct Trunk {
    /// One host of each of [`NETWORKS`].
    pub hosts: Vec<Host>,
    /// What tags.
    pub switch: Host,
    /// Where the dataplane runs.
    pub router: Host,
    /// The outside, 203.0.113.1 and 2001:db8:2::1. It has no way back to the networks of the trunk.
    pub server: Host,
    /// Sockets, configuration and logs of the router's processes.
    pub dir: tempfile::TempDir,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Trunk {
    /// Makes the namespaces and the switch.
    pub fn new() -> Result<Trunk> {
        let tag = format!("{}-t{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let host = |name: &str| Host::new(&format!("{tag}-{name}"));
        let trunk = Trunk {
            hosts: NETWORKS.iter().map(|network| host(network.name)).collect::<Result<_>>()?,
            switch: host("switch")?,
            router: host("router")?,
            server: host("server")?,
            dir: tempfile::Builder::new().prefix(PREFIX).tempdir()?,
        };
        let Trunk { switch, router, server, .. } = &trunk;
        join(router, "trunk0", switch, "t0", 1)?;
        join(router, "wan0", server, "eth0", 1)?;
        server.ip("addr add 203.0.113.1/24 dev eth0")?;
        server.ip("addr add 2001:db8:2::1/64 dev eth0 nodad")?;
        // A veth counts one tag beside its MTU; the other one of a full-sized frame with two is beyond it.
        router.ip("link set trunk0 mtu 1504")?;
        switch.ip("link set t0 mtu 1504")?;
        // As on a wire: tags are in the frame, not beside it.
        switch.run(&["ethtool", "-K", "t0", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"])?;
        for (number, (host, Network { number: net, .. })) in trunk.hosts.iter().zip(NETWORKS).enumerate() {
            let port = format!("p{number}");
            join(host, "eth0", switch, &port, 1)?;
            switch.run(&["ethtool", "-K", &port, "gro", "off"])?;
            for (address, default) in [
                (format!("10.0.{net}.9/24"), format!("10.0.{net}.1")),
                (format!("fd00:{net}::9/64"), format!("fd00:{net}::1")),
            ] {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                host.ip(&format!("addr add {address} dev eth0 {nodad}"))?;
                host.ip(&format!("route add default via {default}"))?;
            }
        }
        // What guests send fits their network.
        trunk.host("guests").ip("link set eth0 mtu 1400")?;
        // The devices belong to the dataplane and to the switch: the kernel's own stack stays silent on them.
        for (host, device) in [(router, "trunk0"), (router, "wan0"), (switch, "t0")] {
            host.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")])?;
        }
        trunk.program()?;
        Ok(trunk)
    }

    /// The host of a network.
    pub fn host(&self, network: &str) -> &Host {
        let number = NETWORKS.iter().position(|known| known.name == network).expect("a network of the trunk");
        &self.hosts[number]
    }

    /// Compiles the switch's programs and puts them on its ports.
    fn program(&self) -> Result<()> {
        let (source, object) = (self.dir.path().join("switch.c"), self.dir.path().join("switch.o"));
        let index = |device: &str| -> Result<u32> {
            // "7: p0@if3: <...": what `ip -o` begins with.
            let line = self.switch.ip(&format!("-o link show dev {device}"))?;
            line.split(':').next().unwrap_or_default().parse().with_context(|| line.clone())
        };
        let ports = (0..NETWORKS.len()).map(|number| index(&format!("p{number}"))).collect::<Result<Vec<_>>>()?;
        std::fs::write(&source, text(&ports, index("t0")?)?)?;
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
        let own = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let compiled = Command::new(&clang)
            .args(["-O2", "-Wall", "-Werror", "-target", "bpf", "-I", &own, "-c"])
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .output()
            .context(clang)?;
        ensure!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let object = object.to_string_lossy();
        let devices = (0..NETWORKS.len()).map(|number| format!("p{number}")).chain(["t0".to_string()]);
        for device in devices {
            self.switch.run(&["tc", "qdisc", "add", "dev", &device, "clsact"])?;
            self.switch.run(&[
                "tc", "filter", "add", "dev", &device, "ingress", "bpf", "da", "obj", &object, "sec", &device,
            ])?;
        }
        Ok(())
    }
}

/// The programs in C: a section for each device.
fn text(ports: &[u32], trunk: u32) -> Result<String> {
    let mut out = String::from(HEAD);
    let mut leave = String::new();
    for (number, (port, Network { tags, .. })) in ports.iter().zip(NETWORKS).enumerate() {
        let push: String =
            tags.iter().rev().map(|(kind, id)| format!("push(skb, __builtin_bswap16({kind:#x}), {id}); ")).collect();
        writeln!(out, "SECTION(p{number}) {{ {push}return redirect({trunk}, 0); }}")?;
        match tags {
            [] => writeln!(leave, "\tif (!skb->vlan_present) return redirect({port}, 0);")?,
            [one] => writeln!(leave, "\tif ({}) {{ pop(skb); return redirect({port}, 0); }}", is(one))?,
            [outer, inner, ..] => writeln!(
                leave,
                "\tif ({}) {{ pop(skb); if ({}) {{ pop(skb); return redirect({port}, 0); }} return TC_ACT_SHOT; }}",
                is(outer),
                is(inner)
            )?,
        }
    }
    write!(out, "SECTION(t0) {{\n{leave}\treturn TC_ACT_SHOT;\n}}\n")?;
    Ok(out)
}

/// Whether the outermost tag is this one.
fn is((kind, id): &(u16, u16)) -> String {
    format!("skb->vlan_present && (skb->vlan_tci & 0xfff) == {id} && skb->vlan_proto == __builtin_bswap16({kind:#x})")
}

const HEAD: &str = r#"#include <linux/bpf.h>
#include <linux/pkt_cls.h>
static long (*push)(struct __sk_buff *skb, __be16 kind, __u16 tag) = (void *)BPF_FUNC_skb_vlan_push;
static long (*pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*redirect)(__u32 device, __u64 flags) = (void *)BPF_FUNC_redirect;
#define SECTION(name) __attribute__((section(#name), used)) int at_##name(struct __sk_buff *skb)
char granted[] __attribute__((section("license"), used)) = "Apache-2.0";
"#;
