//! `testbed/differential`: Sumun against the kernel, with random rules and traffic.

use anyhow::{Result, bail};
use std::time::Instant;
use sumun_config::facts::Family;
use sumun_testbed::differential::{kernel::Kernel, run};

const USAGE: &str =
    "usage: differential [--rulesets N] [--packets M] [--seed S] [--family 4|6] [--first CASE] [--differences N]";

fn main() -> Result<()> {
    let (mut rulesets, mut packets, mut seed, mut first, mut most) = (100, 100, None, 0, 10);
    let mut families = Family::ALL.to_vec();
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value: Option<u64> = args.next().and_then(|v| v.parse().ok());
        match (name.as_str(), value) {
            ("--rulesets", Some(n)) => rulesets = n,
            ("--packets", Some(n)) => packets = n as usize,
            ("--seed", Some(n)) => seed = Some(n),
            ("--first", Some(n)) => first = n,
            ("--differences", Some(n)) => most = n as usize,
            ("--family", Some(4)) => families = vec![Family::V4],
            ("--family", Some(6)) => families = vec![Family::V6],
            _ => bail!("{USAGE}"),
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = seed.unwrap_or(now.as_secs());
    sumun_testbed::sweep()?;
    let mut kernel = Kernel::new(&format!("{}-diff", std::process::id()))?;
    let mut differences = 0;
    for family in families {
        let began = Instant::now();
        let mut say = |text: &str| println!("{text}");
        let found = run(&mut kernel, seed, family, first..first + rulesets, packets, most, &mut say)?;
        println!(
            "seed {seed}, {}: {} rulesets, {} packets, {} refused by both, {} unsteady, {} differences, {:.1} s",
            family.name(),
            found.rulesets,
            found.packets,
            found.refused,
            found.unsteady,
            found.differences,
            began.elapsed().as_secs_f64()
        );
        differences += found.differences;
    }
    if differences > 0 {
        bail!("{differences} differences");
    }
    Ok(())
}
