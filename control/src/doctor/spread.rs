//! RSS: whether every worker gets its part of what comes in.

use super::device::ports;
use super::facts::{Facts, Spread};
use super::{Findings, Remedy, Severity};
use sumun_config::model::Appliance;

/// The checks of this group.
pub fn check(facts: &Facts, appliance: &Appliance, findings: &mut Findings) {
    let workers = appliance.cores.len();
    for (_, wanted) in ports(appliance) {
        let Some(device) = facts.devices.get(&wanted.name) else { continue };
        let (Some(spread), Some((queues, _))) = (&device.spread, device.queues) else { continue };
        // With one queue there is nothing to deal; that it is too few is said elsewhere.
        if workers < 2 || queues < 2 || spread.table.is_empty() {
            continue;
        }
        dealing(&wanted.name, queues as usize, workers, spread, findings);
        fields(&wanted.name, spread, findings);
    }
}

/// The table: queue q belongs to worker q modulo the workers.
fn dealing(name: &str, queues: usize, workers: usize, spread: &Spread, findings: &mut Findings) {
    let workers = workers.min(queues);
    let mut shares = vec![0; workers];
    for queue in &spread.table {
        shares[*queue as usize % workers] += 1;
    }
    let (most, least) = (shares.iter().max().copied().unwrap_or(0), shares.iter().min().copied().unwrap_or(0));
    // A table of 128 for 3 queues has 43, 43 and 42: that is as even as can be.
    if most <= least + spread.table.len().div_ceil(8) {
        return;
    }
    let share = |part: usize| part * 100 / spread.table.len();
    let (found, effect) = match shares.iter().filter(|share| **share == 0).count() {
        0 => (
            format!("its RSS table gives one worker {} % of the flows, another {} %", share(most), share(least)),
            "one worker is busy before others".to_string(),
        ),
        idle => (
            format!("its RSS table gives {idle} of {workers} workers nothing"),
            "what comes in here is the work of the others alone".to_string(),
        ),
    };
    // As many queues as share out evenly: with one more, a worker has twice what another has.
    let even = queues / workers * workers;
    findings.add(Severity::Slow, name, found, effect, Remedy::run(&format!("ethtool -X {name} equal {even}")));
}

/// What is hashed.
fn fields(name: &str, spread: &Spread, findings: &mut Findings) {
    for (kind, by_ports) in &spread.by_ports {
        if *by_ports {
            continue;
        }
        let words = format!("ethtool -N {name} rx-flow-hash {kind} sdfn");
        let (severity, effect, remedy) = match kind.starts_with("tcp") {
            true => (Severity::Slow, "all connections between two hosts are one worker's", Remedy::run(&words)),
            // Only the first fragment has ports. A worker puts together what comes to itself.
            false => (
                Severity::Note,
                "all flows between two hosts (QUIC, tunnels) are one worker's. With ports some devices (igb, ixgbe) deal the \
                 fragments of a packet to several workers, and it is lost",
                Remedy::Command(words),
            ),
        };
        findings.add(severity, name, format!("RSS does not look at the ports of {kind}"), effect, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{appliance, appliance_of, said};
    use super::*;

    /// What is found where eth1 has so many queues and this table.
    fn found(appliance: &Appliance, queues: u32, table: &[u32], by_ports: &[(&'static str, bool)]) -> Vec<String> {
        let spread = Spread { table: table.to_vec(), by_ports: by_ports.to_vec() };
        said(check, appliance, |facts| {
            facts.device("eth1").queues = Some((queues, 8));
            facts.device("eth1").spread = Some(spread);
        })
    }

    /// The table that drivers begin with.
    fn even(queues: u32) -> Vec<u32> {
        (0..128).map(|hash| hash % queues).collect()
    }

    #[test]
    fn every_worker_gets_its_part() {
        for queues in [2, 4, 6, 8] {
            assert_eq!(found(&appliance(), queues, &even(queues), &[("tcp4", true), ("udp4", true)]), [""; 0]);
        }
        let three = appliance_of("cores = [1, 2, 3]", "", "");
        assert_eq!(found(&three, 3, &even(3), &[]), [""; 0], "43, 43 and 42 of 128");
        assert_eq!(
            found(&appliance(), 2, &[0; 128], &[]),
            ["Slow eth1: its RSS table gives 1 of 2 workers nothing -> ethtool -X eth1 equal 2"]
        );
        // Queues 0 and 2 are both the first worker's.
        let first: Vec<u32> = (0..128).map(|hash| hash % 2 * 2).collect();
        assert!(found(&appliance(), 4, &first, &[])[0].ends_with("-> ethtool -X eth1 equal 4"));
        assert!(found(&appliance(), 3, &even(3), &[])[0].ends_with("-> ethtool -X eth1 equal 2"), "86 and 42 of 128");
        let uneven: Vec<u32> = (0..128).map(|hash| u32::from(hash % 4 == 0)).collect();
        assert!(found(&appliance(), 2, &uneven, &[])[0].contains("one worker 75 % of the flows, another 25 %"));
    }

    #[test]
    fn one_worker_or_one_queue_has_nothing_to_deal() {
        assert_eq!(found(&appliance_of("cores = [2]", "", ""), 4, &[0; 128], &[("tcp4", false)]), [""; 0]);
        assert_eq!(found(&appliance(), 1, &[0; 128], &[("tcp4", false)]), [""; 0]);
    }

    #[test]
    fn ports_are_part_of_the_hash() {
        let poor = found(&appliance(), 2, &even(2), &[("tcp4", false), ("udp4", false), ("udp6", true)]);
        assert_eq!(
            poor,
            [
                "Slow eth1: RSS does not look at the ports of tcp4 -> ethtool -N eth1 rx-flow-hash tcp4 sdfn",
                "Note eth1: RSS does not look at the ports of udp4 -> ethtool -N eth1 rx-flow-hash udp4 sdfn",
            ]
        );
    }
}
