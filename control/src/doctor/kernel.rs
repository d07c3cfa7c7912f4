//! The kernel, what this process may do, memory and disks.

use super::facts::Facts;
use super::{Findings, Remedy, Severity};
use sumun_config::model::{Appliance, LogTo};

/// The first kernel with all that is needed for AF_XDP sockets that share packet memory.
const OLDEST: (u32, u32) = (5, 10);
/// Bytes of a tracked flow.
const FLOW: u64 = 272;
/// Bytes of flows from which on the size of pages is told of.
const MANY_PAGES: u64 = 128 << 20;
/// Bytes that a log should have left.
const LOG_ROOM: u64 = 64 << 20;

/// The checks of this group.
pub fn check(facts: &Facts, appliance: Option<&Appliance>, findings: &mut Findings) {
    let (major, minor) = facts.kernel;
    if facts.kernel < OLDEST {
        findings.add(
            Severity::Broken,
            "machine",
            format!("the kernel is {major}.{minor}"),
            format!("AF_XDP as the router needs it is there since {}.{}", OLDEST.0, OLDEST.1),
            Remedy::Advice("install a newer kernel".into()),
        );
    } else if facts.af_xdp == Some(false) {
        findings.add(
            Severity::Broken,
            "machine",
            "this kernel has no AF_XDP sockets",
            "the router cannot open its ports",
            Remedy::Advice("install a kernel with CONFIG_XDP_SOCKETS=y".into()),
        );
    }
    if !facts.lacking.is_empty() {
        findings.add(
            Severity::Note,
            "machine",
            format!("you lack {}", facts.lacking.join(", ")),
            "some things cannot be seen, and sumun-dataplane would not start for you",
            Remedy::Advice("run this, and sumun-dataplane, as root".into()),
        );
    }
    if let Some(appliance) = appliance {
        memory(facts, appliance, findings);
        disks(facts, appliance, findings);
    }
}

fn memory(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    // The thread of the TAPs has as many frames as a worker.
    let shares = appliance.cores.len() + appliance.host.iter().count();
    let packets = shares as u64 * u64::from(appliance.frames_per_worker) * u64::from(appliance.frame_size);
    let all = packets + u64::from(appliance.max_flows) * FLOW;
    if let Some(limit) = facts.memlock.filter(|limit| *limit < packets) {
        findings.add(
            Severity::Broken,
            "machine",
            format!("{} MB may be locked, packets need {}", limit >> 20, packets >> 20),
            "the packet memory cannot be registered",
            Remedy::Advice("`LimitMEMLOCK=infinity` in the service's unit, or `ulimit -l unlimited`".into()),
        );
    }
    if let Some(there) = facts.memory.filter(|there| *there < all) {
        findings.add(
            Severity::Broken,
            "machine",
            format!("{} MB of memory are available, packets and flows need {}", there >> 20, all >> 20),
            "the dataplane does not start, or is killed for want of memory",
            Remedy::Advice("lower `frames` or `max-flows` in [dataplane]".into()),
        );
    }
}

fn disks(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    let flows = u64::from(appliance.max_flows) * FLOW;
    if let Some(place) = facts.run_dir.as_ref().filter(|_| appliance.keep_flows) {
        let advice = Remedy::Advice("`run-dir = \"/run/sumun\"` in [dataplane], or `keep-flows = false`".into());
        if !place.in_memory {
            findings.add(
                Severity::Slow,
                "machine",
                format!("run-dir is on the disk of {}", place.directory),
                "flows lie in a file there, and every change of one is written to the disk",
                advice,
            );
        } else if place.free < flows {
            findings.add(
                Severity::Note,
                "machine",
                format!(
                    "{} has {} MB free, the file of flows needs {}",
                    place.directory,
                    place.free >> 20,
                    flows >> 20
                ),
                "flows do not outlive a restart of the dataplane",
                Remedy::Command(format!("mount -o remount,size={}M {}", (flows >> 20) * 2, place.directory)),
            );
        } else if let Some(mount) = place.small_pages.as_ref().filter(|_| flows >= MANY_PAGES) {
            findings.add(
                Severity::Note,
                "machine",
                format!("{mount} has small pages, {} MB of flows lie there", flows >> 20),
                "a packet of a flow that was not met lately waits longer for memory",
                Remedy::Command(format!("mount -o remount,huge=advise {mount}")),
            );
        }
    }
    let LogTo::File(file) = &appliance.log else { return };
    let Some(place) = &facts.log else { return };
    if !place.exists {
        let directory = file.parent().unwrap_or(file).display();
        findings.add(
            Severity::Broken,
            "machine",
            format!("there is no directory {directory}"),
            "what LOG says is lost",
            Remedy::Command(format!("mkdir -p {directory}")),
        );
    } else if place.free < LOG_ROOM {
        findings.add(
            Severity::Note,
            "machine",
            format!("{} has {} MB free for the log", place.directory, place.free >> 20),
            "what LOG says is lost when it is full",
            Remedy::Advice("make room, and have the log rotated".into()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Place;
    use super::super::sample::{appliance, appliance_of, config_of, said as said_by};
    use super::*;

    fn said(appliance: &Appliance, change: impl FnOnce(&mut Facts)) -> Vec<String> {
        said_by(|facts, appliance, findings| check(facts, Some(appliance), findings), appliance, change)
    }

    #[test]
    fn kernels_without_af_xdp_are_told() {
        assert_eq!(said(&appliance(), |_| ()), [""; 0]);
        assert_eq!(
            said(&appliance(), |f| f.kernel = (4, 19)),
            ["Broken machine: the kernel is 4.19 -> install a newer kernel"]
        );
        let found = said(&appliance(), |f| f.af_xdp = Some(false));
        assert!(found[0].starts_with("Broken machine: this kernel has no AF_XDP sockets"), "{found:?}");
        assert_eq!(said(&appliance(), |f| f.af_xdp = None), [""; 0]);
        let found = said(&appliance(), |f| f.lacking = vec!["CAP_BPF"]);
        assert!(found[0].starts_with("Note machine: you lack CAP_BPF"), "{found:?}");
    }

    #[test]
    fn memory_must_suffice() {
        let packets = 2 * 8192 * 2048;
        assert_eq!(said(&appliance(), |f| f.memlock = Some(packets)), [""; 0]);
        let found = said(&appliance(), |f| f.memlock = Some(packets - 1));
        assert!(found[0].starts_with("Broken machine: 31 MB may be locked, packets need 32"), "{found:?}");
        let found = said(&appliance(), |f| f.memory = Some(64 << 20));
        assert!(found[0].starts_with("Broken machine: 64 MB of memory are available"), "{found:?}");
    }

    #[test]
    fn the_frames_of_the_taps_count_too() {
        let hosting = config_of("[host]\nnamespace = \"tame\"").appliance;
        let packets = 3 * 8192 * 2048;
        assert_eq!(said(&hosting, |f| f.memlock = Some(packets)), [""; 0]);
        let found = said(&hosting, |f| f.memlock = Some(packets - 1));
        assert!(found[0].starts_with("Broken machine: 47 MB may be locked, packets need 48"), "{found:?}");
    }

    #[test]
    fn directories_must_be_there_and_in_memory() {
        let place = |in_memory, free| {
            Some(Place { directory: "/var".into(), exists: true, in_memory, free, small_pages: None })
        };
        let found = said(&appliance(), |f| f.run_dir = place(false, 1 << 40));
        assert!(found[0].starts_with("Slow machine: run-dir is on the disk of /var"), "{found:?}");
        let found = said(&appliance(), |f| f.run_dir = place(true, 1 << 20));
        assert!(found[0].starts_with("Note machine: /var has 1 MB free, the file of flows needs 68"), "{found:?}");
        let small = |max_flows: u32| {
            let many = appliance_of(&format!("max-flows = {max_flows}"), "", "");
            said(&many, |f| f.run_dir.as_mut().unwrap().small_pages = Some("/run".into()))
        };
        assert_eq!(small(262_144), [""; 0]);
        assert_eq!(
            small(1_000_000),
            ["Note machine: /run has small pages, 259 MB of flows lie there -> mount -o remount,huge=advise /run"]
        );
        let forgetful = appliance_of("keep-flows = false", "", "");
        assert_eq!(said(&forgetful, |f| f.run_dir = place(false, 0)), [""; 0]);

        let logging = appliance_of("log = \"file:/var/log/sumun/log\"", "", "");
        assert_eq!(said(&logging, |f| f.log = place(false, 1 << 40)), [""; 0]);
        let found = said(&logging, |f| f.log = Some(Place { exists: false, ..place(false, 1 << 40).unwrap() }));
        assert_eq!(found, ["Broken machine: there is no directory /var/log/sumun -> mkdir -p /var/log/sumun"]);
        let found = said(&logging, |f| f.log = place(false, 1 << 20));
        assert!(found[0].starts_with("Note machine: /var has 1 MB free for the log"), "{found:?}");
    }
}
