//! The devices of the ports: whether they can be ports, and how well.

use super::facts::{Device, Facts, OtherEnd, Peer, xdp};
use super::{Findings, Remedy, Severity};
use sumun_config::model::{Appliance, Attach, CopyMode, Device as Wanted, Interface, Kind, Transmit};
use sumun_dataplane::umem::JUMBO_MTU;

/// The first kernel that tells what drivers can do.
const TELLS: (u32, u32) = (6, 3);
/// The first kernel with packets in pieces (XDP multi-buffer of AF_XDP).
const PIECES: (u32, u32) = (6, 6);
/// Bytes of a frame that are no packet: headroom, Ethernet, two tags.
const OVERHEAD: u32 = 256 + 14 + 8;
/// Entries of a receive ring that outlast a pause of the worker.
const RING: u32 = 512;

/// Offloads that put packets together before the router sees them.
const JOINING: [(&str, &str, &str); 2] = [
    ("rx-lro", "lro", "LRO is on: packets are joined by the device"),
    ("rx-gro-hw", "rx-gro-hw", "hardware GRO is on: packets are joined by the device"),
];

/// The checks of this group.
pub fn check(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    for (interface, wanted) in ports(appliance) {
        match facts.devices.get(&wanted.name) {
            None => findings.add(
                Severity::Broken,
                &wanted.name,
                "there is no such device in this network namespace",
                "the router does not start",
                Remedy::Advice("`ip link` lists what is here; write its name as `device` of the interface".into()),
            ),
            Some(device) => port(facts, appliance, interface, wanted, device, findings),
        }
    }
    zero_copy(facts, appliance, findings);
}

/// The ports with devices.
pub fn ports(appliance: &Appliance) -> impl Iterator<Item = (&Interface, &Wanted)> {
    appliance.interfaces.iter().filter_map(|interface| match &interface.kind {
        Kind::Device(device) => Some((interface, device)),
        Kind::Vlan(_) => None,
    })
}

fn port(
    facts: &Facts,
    appliance: &Appliance,
    interface: &Interface,
    wanted: &Wanted,
    device: &Device,
    findings: &mut Findings,
) {
    let name = wanted.name.as_str();
    if !device.ethernet {
        let advice = Remedy::Advice("use an Ethernet device".into());
        return findings.add(Severity::Broken, name, "this is no Ethernet device", "the router does not start", advice);
    }
    if !device.up {
        let run = Remedy::run(&format!("ip link set dev {name} up"));
        findings.add(Severity::Broken, name, "the device is down", "the router does not start", run);
    }
    if let Some(master) = &device.master {
        findings.add(
            Severity::Broken,
            name,
            format!("the device is a member of {master}"),
            format!("the router takes its frames, {master} gets none any more"),
            Remedy::Command(format!("ip link set dev {name} nomaster")),
        );
    }
    if device.promiscuous {
        findings.add(
            Severity::Slow,
            name,
            "the device is promiscuous",
            "frames for others are taken in and dropped (`other-host`); the router needs none of them, and asks for multicast itself",
            Remedy::run(&format!("ip link set dev {name} promisc off")),
        );
    }
    if let Some(program) = device.program.as_ref().filter(|program| !program.own) {
        findings.add(
            Severity::Broken,
            name,
            "another XDP program is on the device",
            "the router does not start",
            Remedy::Advice(program.text.clone()),
        );
    }
    driver(facts, wanted, device, findings);
    queues(appliance, name, device, findings);
    offloads(appliance, name, device, findings);
    sizes(facts, appliance, interface, name, device, findings);
}

fn driver(facts: &Facts, wanted: &Wanted, device: &Device, findings: &mut Findings) {
    let name = wanted.name.as_str();
    let Some(can) = device.xdp.filter(|_| facts.kernel >= TELLS) else { return };
    let driver = device.driver.as_deref().unwrap_or("of this device");
    if can & xdp::BASIC == 0 && wanted.attach != Attach::Generic {
        let severity = if wanted.attach == Attach::Native { Severity::Broken } else { Severity::Slow };
        findings.add(
            severity,
            name,
            format!("the driver {driver} has no native XDP"),
            "frames go through the kernel's buffers first, which takes several times as long",
            Remedy::Advice("use a card whose driver has it (ice, i40e, ixgbe, mlx5, virtio_net, veth, ...)".into()),
        );
    }
    sending(wanted, device, can, findings);
}

/// Whether frames may leave through XDP where that is to be. The kernel says it of a veth only when its peer's GRO is switched on
/// while both are up, or when the device itself goes up behind that (`veth_set_features`, `veth_open`), and sends nothing without
/// (`__xdp_enqueue`).
fn sending(wanted: &Wanted, device: &Device, can: u64, findings: &mut Findings) {
    let is_veth = device.driver.as_deref() == Some("veth");
    let is_wanted = match wanted.tx {
        Transmit::Ring => false,
        Transmit::Xdp => true,
        Transmit::Auto => is_veth && device.queues.is_some_and(|(now, _)| now == 1),
    };
    if !is_wanted || can & (xdp::ZERO_COPY | xdp::NDO_XMIT) != 0 {
        return;
    }
    let remedy = match (&device.peer, is_veth) {
        (Some(Peer::Seen(OtherEnd { name, prefix, offloads })), _) => {
            let gro = |word: &str| format!("{prefix}ethtool -K {name} gro {word}");
            match offloads.contains_key("rx-gro") {
                true => Remedy::Command(format!("{} && {}", gro("off"), gro("on"))),
                false => Remedy::run(&gro("on")),
            }
        }
        (_, true) => Remedy::Advice(
            "at its other end, while both are up: `ethtool -K DEVICE gro off`, then `ethtool -K DEVICE gro on`".into(),
        ),
        (_, false) => Remedy::Advice("`tx = \"ring\"`, or a driver that takes frames of XDP".into()),
    };
    findings.add(
        Severity::Slow,
        &wanted.name,
        "the kernel lets no frames leave this device through XDP",
        "they leave through the AF_XDP ring, which takes several times as long for each",
        remedy,
    );
}

/// All ports share packet memory, so one without zero-copy makes it copy for all.
fn zero_copy(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    if facts.kernel < TELLS {
        return;
    }
    let can = |wanted: &Wanted| Some(facts.devices.get(&wanted.name)?.xdp? & xdp::ZERO_COPY != 0);
    let all: Vec<(&Wanted, bool)> = ports(appliance).filter_map(|(_, wanted)| Some((wanted, can(wanted)?))).collect();
    let some_can = all.iter().any(|(wanted, can)| *can && wanted.copy != CopyMode::Copy);
    for (wanted, can) in all {
        let name = &wanted.name;
        if wanted.copy == CopyMode::ZeroCopy && !can {
            findings.add(
                Severity::Broken,
                name,
                "`copy = \"zero-copy\"`, but the driver has no zero-copy",
                "the router does not start",
                Remedy::Advice("`copy = \"auto\"` for this interface".into()),
            );
        } else if some_can && (!can || wanted.copy == CopyMode::Copy) {
            let why = if can { "is told to copy" } else { "has no zero-copy" };
            findings.add(
                Severity::Slow,
                name,
                format!("this device {why}, and others could do without copies"),
                "ports share packet memory: the kernel copies frames of all of them",
                Remedy::Advice("devices of one kind for all ports".into()),
            );
        }
    }
}

fn queues(appliance: &Appliance, name: &str, device: &Device, findings: &mut Findings) {
    let workers = appliance.cores.len() as u32;
    let Some((now, most)) = device.queues else { return };
    let run = |queues: u32| Remedy::run(&format!("ethtool -L {name} {} {queues}", device.channel));
    if now < workers {
        let idle =
            if workers - now == 1 { "a worker gets".to_string() } else { format!("{} workers get", workers - now) };
        let remedy = match most {
            most if most >= workers => run(workers),
            most if most > now => run(most),
            _ => Remedy::Advice(format!("fewer `cores` in [dataplane]: this device has {most}")),
        };
        findings.add(
            Severity::Slow,
            name,
            format!("the device has {now} receive {} for {workers} workers", if now == 1 { "queue" } else { "queues" }),
            format!("{idle} nothing of what comes in here"),
            remedy,
        );
    } else if !now.is_multiple_of(workers) {
        findings.add(
            Severity::Note,
            name,
            format!("the device has {now} receive queues for {workers} workers"),
            "queues are dealt out in turn, so some workers have more to do than others",
            Remedy::run(&format!("ethtool -L {name} {} {}", device.channel, now / workers * workers)),
        );
    }
}

fn offloads(appliance: &Appliance, name: &str, device: &Device, findings: &mut Findings) {
    let is_on = |offload: &str| device.offloads.contains_key(offload);
    let off = |offload: &str, short: &str| match device.offloads.get(offload) {
        Some(true) => Remedy::run(&format!("ethtool -K {name} {short} off")),
        _ => Remedy::Advice("the driver cannot switch it off: use another device".into()),
    };
    for (offload, short, found) in JOINING {
        if is_on(offload) {
            let effect = "frames larger than the MTU are dropped, or the XDP program is refused";
            findings.add(Severity::Broken, name, found, effect, off(offload, short));
        }
    }
    let has_vlans = has_vlans(appliance, name);
    for offload in ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"] {
        // A veth keeps the tags that are in its frames.
        if is_on(offload) && device.driver.as_deref() != Some("veth") {
            let short = if offload == "rx-vlan-hw-parse" { "rxvlan" } else { offload };
            findings.add(
                if has_vlans { Severity::Broken } else { Severity::Note },
                name,
                "the device takes VLAN tags off",
                "tagged frames look untagged to the router",
                off(offload, short),
            );
        }
    }
    if !has_vlans {
        return;
    }
    for offload in ["rx-vlan-filter", "rx-vlan-stag-filter"] {
        if is_on(offload) && device.driver.as_deref() != Some("veth") {
            findings.add(
                Severity::Broken,
                name,
                "the device drops VLANs that the kernel does not know",
                "tagged frames do not arrive",
                off(offload, offload),
            );
        }
    }
}

/// Whether there are VLANs on a device.
pub fn has_vlans(appliance: &Appliance, name: &str) -> bool {
    appliance.interfaces.iter().any(|other| match &other.kind {
        Kind::Vlan(vlan) => parent(appliance, vlan.parent.0).is_some_and(|parent| parent == name),
        Kind::Device(_) => false,
    })
}

/// The device of a port by its number.
fn parent(appliance: &Appliance, port: u16) -> Option<&str> {
    match &appliance.interfaces.get(usize::from(port))?.kind {
        Kind::Device(device) => Some(&device.name),
        Kind::Vlan(_) => None,
    }
}

fn sizes(
    facts: &Facts,
    appliance: &Appliance,
    interface: &Interface,
    name: &str,
    device: &Device,
    findings: &mut Findings,
) {
    let most = appliance.frame_size - OVERHEAD;
    if let Some(mtu) = interface.mtu.filter(|mtu| u32::from(*mtu) > device.mtu) {
        findings.add(
            Severity::Broken,
            name,
            format!("`mtu = {mtu}`, but the device has {}", device.mtu),
            "the router does not start",
            Remedy::run(&format!("ip link set dev {name} mtu {mtu}")),
        );
    } else if device.mtu > most && facts.kernel < PIECES {
        let remedy = match appliance.frame_size {
            ..4096 if device.mtu <= 4096 - OVERHEAD => Remedy::Advice("`frame-size = 4096` in [dataplane]".into()),
            _ => Remedy::Command(format!("ip link set dev {name} mtu {most}")),
        };
        findings.add(
            Severity::Broken,
            name,
            format!("the device has an MTU of {}, a frame of the router holds packets of {most}", device.mtu),
            "the router does not start: this kernel has no packets in pieces (Linux 6.6)",
            remedy,
        );
    } else if device.mtu > JUMBO_MTU.max(most) {
        findings.add(
            Severity::Broken,
            name,
            format!("the device has an MTU of {}, the router takes packets of {JUMBO_MTU}", device.mtu),
            "the router does not start",
            Remedy::Command(format!("ip link set dev {name} mtu {JUMBO_MTU}")),
        );
    }
    if let Some((now, max)) = device.ring.filter(|(now, max)| *now < RING && max > now) {
        let wanted = max.min(2048);
        findings.add(
            Severity::Slow,
            name,
            format!("the receive ring has {now} entries of {max}"),
            "bursts are lost while a worker is busy",
            Remedy::run(&format!("ethtool -G {name} rx {wanted}")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Program;
    use super::super::sample::{appliance, appliance_of, said};
    use super::*;

    /// What is found on eth1 after a change.
    fn found(appliance: &Appliance, change: impl FnOnce(&mut Device)) -> Vec<String> {
        said(check, appliance, |facts| change(facts.device("eth1")))
    }

    #[test]
    fn devices_must_be_there_up_and_free() {
        assert_eq!(found(&appliance(), |_| ()), [""; 0]);
        let missing = said(check, &appliance(), |facts| {
            facts.devices.remove("eth2");
        });
        assert!(missing[0].starts_with("Broken eth2: there is no such device"), "{missing:?}");
        let down = found(&appliance(), |d| d.up = false);
        assert_eq!(down, ["Broken eth1: the device is down -> ip link set dev eth1 up"]);
        let member = found(&appliance(), |d| d.master = Some("br0".into()));
        assert_eq!(member, ["Broken eth1: the device is a member of br0 -> ip link set dev eth1 nomaster"]);
        let program = |own| Program { own, text: "stop it".into() };
        let taken = found(&appliance(), |d| d.program = Some(program(false)));
        assert_eq!(taken, ["Broken eth1: another XDP program is on the device -> stop it"]);
        assert_eq!(found(&appliance(), |d| d.program = Some(program(true))), [""; 0]);
        let tunnel = found(&appliance(), |d| d.ethernet = false);
        assert!(tunnel[0].starts_with("Broken eth1: this is no Ethernet device"), "{tunnel:?}");
    }

    #[test]
    fn drivers_are_known_by_what_they_can_do() {
        let generic = said(check, &appliance(), |f| f.devices.values_mut().for_each(|d| d.xdp = Some(0)));
        assert!(generic[0].starts_with("Slow eth1: the driver ice has no native XDP"), "{generic:?}");
        assert_eq!(generic.len(), 2, "{generic:?}");
        let old = said(check, &appliance(), |f| {
            f.kernel = (6, 1);
            f.device("eth1").xdp = Some(0);
        });
        assert_eq!(old, [""; 0], "that kernel does not tell");
        let native = appliance_of("", "attach = \"native\"", "");
        let none = said(check, &native, |f| f.devices.values_mut().for_each(|d| d.xdp = Some(0)));
        assert!(none[0].starts_with("Broken eth1: the driver ice has no native XDP"), "{none:?}");
    }

    /// What is found on a veth that takes no frames of XDP, whose other end has these offloads.
    fn found_on_veth(offloads: &[&str]) -> Vec<String> {
        let end = OtherEnd {
            name: "eth0".into(),
            prefix: "ip netns exec guest ".into(),
            offloads: offloads.iter().map(|name| (name.to_string(), true)).collect(),
        };
        said(check, &appliance_of("cores = [2]", "", "tx = \"ring\""), |facts| {
            for device in facts.devices.values_mut() {
                (device.driver, device.xdp, device.queues) = (Some("veth".into()), Some(xdp::BASIC), Some((1, 1)));
                device.peer = Some(Peer::Seen(end.clone()));
            }
        })
    }

    #[test]
    fn a_device_must_take_the_frames_that_are_to_leave_through_xdp() {
        let on_veths = |lan: &str, can: u64, queues: u32| {
            said(check, &appliance_of("cores = [2]", lan, ""), |facts| {
                for device in facts.devices.values_mut() {
                    (device.driver, device.xdp, device.queues) =
                        (Some("veth".into()), Some(can), Some((queues, queues)));
                }
            })
        };
        let found = on_veths("", xdp::BASIC, 1);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("Slow eth1: the kernel lets no frames leave this device through XDP"),
            "{found:?}"
        );
        assert!(found[0].contains("gro on"), "{found:?}");
        assert_eq!(on_veths("", xdp::BASIC | xdp::NDO_XMIT, 1), [""; 0]);
        assert_eq!(on_veths("tx = \"ring\"", xdp::BASIC, 1).len(), 1, "wan0's alone");
        assert_eq!(on_veths("", xdp::BASIC, 2), [""; 0], "several queues have the ring only");
        let found = on_veths("tx = \"xdp\"", xdp::BASIC, 2);
        assert_eq!(found.len(), 1, "{found:?}");
        for (offloads, remedy) in [
            (
                &["rx-gro"][..],
                "ip netns exec guest ethtool -K eth0 gro off && ip netns exec guest ethtool -K eth0 gro on",
            ),
            (&[], "ip netns exec guest ethtool -K eth0 gro on"),
        ] {
            let found = found_on_veth(offloads);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].ends_with(&format!("-> {remedy}")), "{found:?}");
        }
    }

    #[test]
    fn one_device_that_copies_makes_all_copy() {
        let one = found(&appliance(), |d| d.xdp = Some(xdp::BASIC));
        assert_eq!(one.len(), 1, "{one:?}");
        assert!(one[0].starts_with("Slow eth1: this device has no zero-copy, and others could"), "{one:?}");
        let told = found(&appliance_of("", "copy = \"copy\"", ""), |_| ());
        assert!(told[0].starts_with("Slow eth1: this device is told to copy"), "{told:?}");
        let wanted = found(&appliance_of("", "copy = \"zero-copy\"", ""), |d| d.xdp = Some(xdp::BASIC));
        assert!(wanted[0].starts_with("Broken eth1: `copy = \"zero-copy\"`, but"), "{wanted:?}");
    }

    #[test]
    fn queues_are_enough_for_the_workers() {
        let appliance = appliance_of("cores = [2, 3]", "", "");
        let found = |queues| found(&appliance, |d| d.queues = Some(queues));
        assert_eq!(found((4, 8)), [""; 0]);
        assert_eq!(
            found((1, 8)),
            ["Slow eth1: the device has 1 receive queue for 2 workers -> ethtool -L eth1 combined 2"]
        );
        assert!(found((1, 1))[0].ends_with("-> fewer `cores` in [dataplane]: this device has 1"));
        assert_eq!(
            found((5, 8)),
            ["Note eth1: the device has 5 receive queues for 2 workers -> ethtool -L eth1 combined 4"]
        );
    }

    #[test]
    fn offloads_that_change_frames_are_off() {
        let on = |offload: &str, can| {
            found(&appliance(), |d| {
                d.offloads.insert(offload.into(), can);
            })
        };
        assert_eq!(on("rx-gro", true), [""; 0], "GRO of the kernel comes later");
        assert!(on("rx-lro", true)[0].ends_with("-> ethtool -K eth1 lro off"));
        assert!(on("rx-lro", true)[0].starts_with("Broken"));
        assert!(on("rx-gro-hw", true)[0].ends_with("-> ethtool -K eth1 rx-gro-hw off"));
        assert!(on("rx-lro", false)[0].ends_with("use another device"));
        let tags = on("rx-vlan-hw-parse", true);
        assert_eq!(tags, ["Note eth1: the device takes VLAN tags off -> ethtool -K eth1 rxvlan off"]);
        let trunk = appliance_of("", "", "[interfaces.office]\nparent = \"lan0\"\nvlan = 10");
        let both = found(&trunk, |d| {
            d.offloads = [("rx-vlan-filter".to_string(), true), ("rx-vlan-hw-parse".to_string(), true)].into();
        });
        assert!(both[0].starts_with("Broken eth1: the device takes VLAN tags off"), "{both:?}");
        assert_eq!(
            both[1],
            "Broken eth1: the device drops VLANs that the kernel does not know -> ethtool -K eth1 rx-vlan-filter off"
        );
        let veth = |d: &mut Device| {
            d.driver = Some("veth".into());
            d.offloads.insert("rx-vlan-hw-parse".into(), true);
        };
        assert_eq!(found(&appliance(), veth), [""; 0]);
        assert_eq!(found(&trunk, veth), [""; 0]);
    }

    #[test]
    fn jumbo_packets_are_in_order_where_the_kernel_has_packets_in_pieces() {
        for mtu in [1771, 3000, 9000] {
            assert_eq!(found(&appliance(), |d| d.mtu = mtu), [""; 0]);
        }
    }

    #[test]
    fn frames_for_others_are_not_asked_for() {
        let all = found(&appliance(), |d| d.promiscuous = true);
        assert_eq!(all, ["Slow eth1: the device is promiscuous -> ip link set dev eth1 promisc off"]);
    }

    #[test]
    fn packets_and_bursts_fit() {
        let old = |mtu| {
            said(check, &appliance(), |facts| {
                facts.kernel = (6, 5);
                facts.device("eth1").mtu = mtu;
            })
        };
        assert!(old(9000)[0].ends_with("a frame of the router holds packets of 1770 -> ip link set dev eth1 mtu 1770"));
        assert!(old(3000)[0].ends_with("-> `frame-size = 4096` in [dataplane]"), "{:?}", old(3000));
        let above = found(&appliance_of("", "mtu = 1600", ""), |_| ());
        assert_eq!(above, ["Broken eth1: `mtu = 1600`, but the device has 1500 -> ip link set dev eth1 mtu 1600"]);
        let huge = found(&appliance(), |d| d.mtu = 9001);
        assert!(huge[0].ends_with("the router takes packets of 9000 -> ip link set dev eth1 mtu 9000"), "{huge:?}");
        let ring = found(&appliance(), |d| d.ring = Some((256, 4096)));
        assert_eq!(ring, ["Slow eth1: the receive ring has 256 entries of 4096 -> ethtool -G eth1 rx 2048"]);
        assert_eq!(found(&appliance(), |d| d.ring = Some((256, 256))), [""; 0]);
    }
}
