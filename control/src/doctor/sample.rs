//! A machine in order, and a configuration for it.

use super::facts::{Device, Facts, Place, Processor, xdp};
use super::{Finding, Findings};
use sumun_config::diag::Source;
use sumun_config::model::{Appliance, Config};
use sumun_config::schema;

/// Two ports, workers on processors 2 and 3.
pub fn appliance() -> Appliance {
    appliance_of("cores = [2, 3]\n", "", "")
}

/// With other lines in `[dataplane]` and for the ports `lan0` (eth1) and `wan0` (eth2).
pub fn appliance_of(dataplane: &str, lan: &str, wan: &str) -> Appliance {
    let text = format!(
        "[dataplane]\n{dataplane}\n[interfaces.lan0]\ndevice = \"eth1\"\naddresses = [\"192.168.1.1/24\"]\n{lan}\n\
         [interfaces.wan0]\ndevice = \"eth2\"\n{wan}\n"
    );
    read(text).appliance
}

/// The same ports, with other sections behind.
pub fn config_of(rest: &str) -> Config {
    read(format!(
        "[dataplane]\ncores = [2, 3]\n[interfaces.lan0]\ndevice = \"eth1\"\naddresses = [\"192.168.1.1/24\"]\n\
         [interfaces.wan0]\ndevice = \"eth2\"\n{rest}\n"
    ))
}

fn read(text: String) -> Config {
    match schema::load(&Source::new("router.toml", text.clone())) {
        Ok((config, _)) => config,
        Err(found) => panic!("{found:?} in {text}"),
    }
}

/// Four processors on four cores of one node, two good network cards.
pub fn facts() -> Facts {
    let processor = |_| Processor { siblings: Vec::new(), governor: Some("performance".into()), node: Some(0) };
    let device = |first: u32| Device {
        up: true,
        ethernet: true,
        driver: Some("ice".into()),
        mtu: 1500,
        xdp: Some(xdp::BASIC | xdp::ZERO_COPY),
        queues: Some((2, 8)),
        channel: "combined",
        ring: Some((2048, 4096)),
        node: Some(0),
        interrupts: [(0, (first, vec![2])), (1, (first + 1, vec![3]))].into(),
        ..Device::default()
    };
    Facts {
        kernel: (6, 12),
        af_xdp: Some(true),
        memory: Some(4 << 30),
        run_dir: Some(Place {
            directory: "/run".into(),
            exists: true,
            in_memory: true,
            free: 1 << 30,
            small_pages: None,
        }),
        online: vec![0, 1, 2, 3],
        allowed: vec![0, 1, 2, 3],
        isolated: vec![2, 3],
        processors: (0..4).map(|n| (n, processor(n))).collect(),
        devices: [("eth1".to_string(), device(40)), ("eth2".to_string(), device(50))].into(),
        ..Facts::default()
    }
}

/// What a group of checks finds, as `severity about: found -> remedy`.
pub fn said(
    check: fn(&Facts, &Appliance, &mut Findings),
    appliance: &Appliance,
    change: impl FnOnce(&mut Facts),
) -> Vec<String> {
    let mut facts = facts();
    change(&mut facts);
    lines(|findings| check(&facts, appliance, findings))
}

/// What a check finds, in the same form.
pub fn lines(check: impl FnOnce(&mut Findings)) -> Vec<String> {
    let mut findings = Findings::default();
    check(&mut findings);
    let line = |f: &Finding| format!("{:?} {}: {} -> {}", f.severity, f.about, f.found, f.remedy.shown());
    findings.0.iter().map(line).collect()
}
