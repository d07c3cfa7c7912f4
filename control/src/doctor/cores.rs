//! The processors of the workers: whether they are there, and theirs alone.

use super::device::ports;
use super::facts::Facts;
use super::{Findings, Remedy, Severity};
use sumun_config::model::{Appliance, Idle};

/// The checks of this group.
pub fn check(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    let cores = &appliance.cores;
    for core in cores.iter().copied() {
        if !facts.online.contains(&core) {
            findings.add(
                Severity::Broken,
                "machine",
                format!("there is no processor {core}, or it is offline"),
                "the router does not start",
                Remedy::Advice(format!("`cores` in [dataplane] out of {}", list(&facts.online))),
            );
        } else if !facts.allowed.contains(&core) {
            findings.add(
                Severity::Broken,
                "machine",
                format!("programs started from here may not use processor {core}"),
                "the router does not start, unless a service manager allows it more",
                Remedy::Advice(format!(
                    "`AllowedCPUs=` in the service's unit, or `cores` out of {}",
                    list(&facts.allowed)
                )),
            );
        } else {
            processor(facts, core, cores, findings);
        }
    }
    shared(facts, appliance, findings);
    interrupts(facts, appliance, findings);
}

fn processor(facts: &Facts, core: usize, cores: &[usize], findings: &mut Findings) {
    let Some(processor) = facts.processors.get(&core) else { return };
    if let Some(sibling) = processor.siblings.iter().find(|sibling| cores.contains(sibling) && **sibling > core) {
        findings.add(
            Severity::Slow,
            "machine",
            format!("workers share a core: processors {core} and {sibling} are two threads of one"),
            "each of the two does about half",
            Remedy::Advice("one thread of each core in `cores`".into()),
        );
    }
    if let Some(governor) = processor.governor.as_deref().filter(|governor| *governor != "performance") {
        findings.add(
            Severity::Slow,
            "machine",
            format!("processor {core} follows the frequency governor {governor}"),
            "a worker that has slept begins slowly",
            Remedy::Set {
                file: format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"),
                text: "performance".into(),
            },
        );
    }
}

/// What other programs do to the workers.
fn shared(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    let cores = &appliance.cores;
    let open: Vec<usize> = cores.iter().copied().filter(|core| !facts.isolated.contains(core)).collect();
    let others = facts.online.iter().any(|core| !cores.contains(core));
    if !others && appliance.idle == Idle::Busy {
        findings.add(
            Severity::Slow,
            "machine",
            "workers that never sleep have all processors",
            "control, the log and all other programs wait for them, and they for those",
            Remedy::Advice("leave a processor out of `cores`, or `idle = \"sleep\"`".into()),
        );
    } else if !open.is_empty() && others {
        findings.add(
            Severity::Note,
            "machine",
            format!("other programs may run on the workers' processors {}", list(&open)),
            "now and then a worker waits for them, for milliseconds",
            Remedy::Advice(format!("boot with `isolcpus={0} nohz_full={0}`", list(cores))),
        );
    }
    if facts.irqbalance {
        findings.add(
            Severity::Slow,
            "machine",
            "irqbalance runs",
            "it moves the interrupts of queues between processors, those of workers too",
            Remedy::Command("systemctl disable --now irqbalance".into()),
        );
    }
}

fn interrupts(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    let cores = &appliance.cores;
    for (_, wanted) in ports(appliance) {
        let Some(device) = facts.devices.get(&wanted.name) else { continue };
        for (queue, (number, allowed)) in &device.interrupts {
            let own = cores[queue % cores.len()];
            // Elsewhere than on a worker is fine, and so is its own.
            if let Some(other) = cores.iter().find(|core| **core != own && allowed.as_slice() == [**core]) {
                findings.add(
                    Severity::Slow,
                    &wanted.name,
                    format!("processor {other} handles the interrupt of queue {queue}, processor {own} its packets"),
                    "one worker is interrupted for another's packets",
                    Remedy::Set { file: format!("/proc/irq/{number}/smp_affinity_list"), text: own.to_string() },
                );
            }
        }
        let node_of = |core: &usize| facts.processors.get(core).and_then(|processor| processor.node);
        let Some(node) = device.node else { continue };
        let far: Vec<usize> = cores.iter().copied().filter(|core| node_of(core).is_some_and(|n| n != node)).collect();
        if !far.is_empty() {
            findings.add(
                Severity::Slow,
                &wanted.name,
                format!("the device is at node {node}, processors {} are not", list(&far)),
                "every packet crosses the link between the nodes",
                Remedy::Advice(format!("`cores` of node {node}, or the card in another slot")),
            );
        }
    }
}

/// Numbers as the kernel lists them: `0-2,5`.
fn list(numbers: &[usize]) -> String {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let text =
        |(first, last): (usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::sample::{appliance, appliance_of, said};
    use super::*;

    fn found(change: impl FnOnce(&mut Facts)) -> Vec<String> {
        said(check, &appliance(), change)
    }

    #[test]
    fn workers_have_processors() {
        assert_eq!(found(|_| ()), [""; 0]);
        let offline = found(|f| {
            f.online.pop();
        });
        assert_eq!(
            offline,
            ["Broken machine: there is no processor 3, or it is offline -> `cores` in [dataplane] out of 0-2"]
        );
        let forbidden = found(|f| f.allowed = vec![0, 1, 2]);
        assert!(forbidden[0].starts_with("Broken machine: programs started from here may not use processor 3"));
        let siblings = found(|f| {
            f.processors.get_mut(&2).unwrap().siblings = vec![3];
            f.processors.get_mut(&3).unwrap().siblings = vec![2];
        });
        assert_eq!(siblings.len(), 1, "{siblings:?}");
        assert!(siblings[0].starts_with("Slow machine: workers share a core: processors 2 and 3"));
    }

    #[test]
    fn processors_run_at_full_speed_and_for_workers_alone() {
        let slow = found(|f| f.processors.get_mut(&2).unwrap().governor = Some("powersave".into()));
        assert!(slow[0].ends_with("echo performance > /sys/devices/system/cpu/cpu2/cpufreq/scaling_governor"));
        assert_eq!(found(|f| f.processors.get_mut(&2).unwrap().governor = None), [""; 0]);
        let open = found(|f| f.isolated = vec![3]);
        assert!(open[0].starts_with("Note machine: other programs may run on the workers' processors 2 -> boot with"));
        assert!(found(|f| f.irqbalance = true)[0].starts_with("Slow machine: irqbalance runs"));
        let busy = appliance_of("cores = [0, 1, 2, 3]\nidle = \"busy\"", "", "");
        let all = said(check, &busy, |f| f.devices.clear());
        assert!(all[0].starts_with("Slow machine: workers that never sleep have all processors"), "{all:?}");
    }

    #[test]
    fn interrupts_and_memory_are_near() {
        let wrong = found(|f| drop(f.device("eth1").interrupts.insert(0, (40, vec![3]))));
        assert_eq!(
            wrong,
            ["Slow eth1: processor 3 handles the interrupt of queue 0, processor 2 its packets \
              -> echo 2 > /proc/irq/40/smp_affinity_list"]
        );
        assert_eq!(found(|f| drop(f.device("eth1").interrupts.insert(0, (40, vec![0])))), [""; 0]);
        assert_eq!(found(|f| drop(f.device("eth1").interrupts.insert(0, (40, vec![0, 1, 2, 3])))), [""; 0]);
        let far = found(|f| f.device("eth2").node = Some(1));
        assert!(far[0].starts_with("Slow eth2: the device is at node 1, processors 2-3 are not"), "{far:?}");
        assert_eq!(found(|f| f.device("eth2").node = None), [""; 0]);
    }
}
