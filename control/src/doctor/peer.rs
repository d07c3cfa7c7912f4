//! The other end of a veth: what it leaves to its device, and so to the router.

use super::device::{has_vlans, ports};
use super::facts::{Facts, OtherEnd, Peer};
use super::{Findings, Remedy, Severity};
use sumun_config::model::{Appliance, Attach, Checksums, Device as Wanted};

/// What cuts or finishes packets later than a cable would show them: the kernel's name, ethtool's word for it.
const CUTTING: [(&str, &str); 3] =
    [("tx-tcp-segmentation", "tso"), ("tx-tcp6-segmentation", "tso"), ("tx-udp-segmentation", "tx-udp-segmentation")];
const FINISHING: [&str; 3] = ["tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"];
const TAGGING: [&str; 2] = ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];

/// The checks of this group.
pub fn check(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    for (_, wanted) in ports(appliance) {
        let peer = facts.devices.get(&wanted.name).and_then(|device| device.peer.as_ref());
        match peer {
            None => {}
            Some(Peer::Unseen) => unseen(wanted, has_vlans(appliance, &wanted.name), findings),
            Some(Peer::Seen(end)) => seen(wanted, has_vlans(appliance, &wanted.name), end, findings),
        }
    }
}

/// What to look at where this cannot look.
fn unseen(wanted: &Wanted, has_vlans: bool, findings: &mut Findings) {
    let (mut effects, mut words) = (Vec::new(), Vec::new());
    if has_vlans {
        effects.push("unless it writes VLAN tags into frames, they are lost");
        words.extend(["txvlan off", "tx-vlan-stag-hw-insert off"]);
    }
    if wanted.attach == Attach::Generic {
        effects.push("segments that it does not cut are dropped");
        words.extend(["tso off", "tx-udp-segmentation off"]);
    }
    match wanted.checksums {
        Some(Checksums::AsTheyAre) => effects.push("checksums that it leaves unfinished stay wrong"),
        _ => effects.push("checksums inside tunnels that it leaves unfinished stay wrong"),
    }
    words.push("tx off");
    findings.add(
        Severity::Note,
        &wanted.name,
        "the other end of this veth cannot be seen from here",
        effects.join("; "),
        Remedy::Advice(format!("there: `ethtool -K DEVICE {}`", words.join(" "))),
    );
}

fn seen(wanted: &Wanted, has_vlans: bool, end: &OtherEnd, findings: &mut Findings) {
    let OtherEnd { name, prefix, offloads } = end;
    let place = match prefix.trim_end() {
        "" => "this namespace".to_string(),
        prefix => format!("`{prefix}`"),
    };
    let on = |offload: &str| offloads.contains_key(offload);
    let off = |words: &str| Remedy::run(&format!("{prefix}ethtool -K {name} {words}"));
    if has_vlans && TAGGING.iter().any(|offload| on(offload)) {
        findings.add(
            Severity::Broken,
            &wanted.name,
            format!("its other end, {name} in {place}, carries VLAN tags beside its frames"),
            "tagged frames look untagged to the router",
            off("txvlan off tx-vlan-stag-hw-insert off"),
        );
    }
    let mut uncut: Vec<&str> = CUTTING.iter().filter(|(offload, _)| on(offload)).map(|(_, word)| *word).collect();
    uncut.dedup();
    // In native mode the kernel itself forbids that to the other end (veth_xdp_set).
    if wanted.attach == Attach::Generic && !uncut.is_empty() {
        let words: Vec<String> = uncut.iter().map(|word| format!("{word} off")).collect();
        findings.add(
            Severity::Broken,
            &wanted.name,
            format!(
                "its other end, {name} in {place}, does not cut segments, and `attach = \"generic\"` shows them whole"
            ),
            "packets larger than the MTU are dropped: TCP stands still",
            off(&words.join(" ")),
        );
    }
    if FINISHING.iter().any(|offload| on(offload)) {
        let (severity, effect) = match wanted.checksums {
            Some(Checksums::AsTheyAre) => (Severity::Broken, "its receivers drop what the router forwards of it"),
            _ => (Severity::Note, "the router finishes them, which takes time, but not those inside tunnels"),
        };
        findings.add(
            severity,
            &wanted.name,
            format!("its other end, {name} in {place}, leaves checksums unfinished"),
            effect,
            off("tx off"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{appliance, appliance_of, said};
    use super::*;

    const TRUNK: &str = "[interfaces.office]\nparent = \"lan0\"\nvlan = 10";

    /// What is found where the veth eth1 has this end.
    fn found(appliance: &Appliance, peer: Peer) -> Vec<String> {
        said(check, appliance, |facts| facts.device("eth1").peer = Some(peer))
    }

    fn end(offloads: &[&str]) -> Peer {
        Peer::Seen(OtherEnd {
            name: "eth0".into(),
            prefix: "ip netns exec guest ".into(),
            offloads: offloads.iter().map(|name| (name.to_string(), true)).collect(),
        })
    }

    #[test]
    fn an_end_like_a_cable_is_in_order() {
        for appliance in [appliance(), appliance_of("", "attach = \"generic\"", TRUNK)] {
            assert_eq!(found(&appliance, end(&["tx-generic-segmentation", "rx-gro"])), [""; 0]);
        }
    }

    #[test]
    fn checksums_are_finished_at_the_other_end_or_here() {
        let note = found(&appliance(), end(&["tx-checksum-ip-generic"]));
        assert_eq!(
            note,
            ["Note eth1: its other end, eth0 in `ip netns exec guest`, leaves checksums unfinished \
              -> ip netns exec guest ethtool -K eth0 tx off"]
        );
        let wrong = appliance_of("", "checksums = \"as-they-are\"", "");
        assert!(found(&wrong, end(&["tx-checksum-ip-generic"]))[0].starts_with("Broken eth1: its other end"));
    }

    #[test]
    fn segments_must_be_cut_where_the_program_sees_them_whole() {
        let generic = appliance_of("", "attach = \"generic\"", "");
        let both = end(&["tx-tcp-segmentation", "tx-tcp6-segmentation"]);
        assert!(found(&generic, both.clone())[0].ends_with("-> ip netns exec guest ethtool -K eth0 tso off"));
        assert_eq!(found(&appliance(), both), [""; 0], "the kernel forbids it there");
    }

    #[test]
    fn tags_must_be_in_frames() {
        let trunk = appliance_of("", "", TRUNK);
        let beside = found(&trunk, end(&["tx-vlan-hw-insert"]));
        assert!(beside[0].starts_with("Broken eth1: its other end, eth0 in"), "{beside:?}");
        assert!(beside[0].ends_with("-K eth0 txvlan off tx-vlan-stag-hw-insert off"), "{beside:?}");
        assert_eq!(found(&appliance(), end(&["tx-vlan-hw-insert"])), [""; 0]);
    }

    #[test]
    fn what_cannot_be_seen_is_described() {
        let blind = found(&appliance_of("", "", TRUNK), Peer::Unseen);
        assert_eq!(
            blind,
            ["Note eth1: the other end of this veth cannot be seen from here \
              -> there: `ethtool -K DEVICE txvlan off tx-vlan-stag-hw-insert off tx off`"]
        );
    }
}
