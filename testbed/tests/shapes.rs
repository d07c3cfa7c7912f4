//! Rulesets as people bring them: they load unchanged, come out as iptables-save prints them, and judge every packet as in the
//! kernel.

use anyhow::Result;
use std::collections::BTreeMap;
use sumun_config::diag::{Source, render};
use sumun_config::facts::Family;
use sumun_config::iptables::{self, Surroundings};
use sumun_config::model::Names;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::PORTS;
use sumun_testbed::differential::shapes::{Shape, all};
use sumun_testbed::differential::{Case, Outcome};

/// What iptables-save prints of each table, without counters and comments.
fn tables(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut table = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        }
        let bare = match line.strip_prefix('[') {
            Some(counted) => counted.split_once("] ").map_or(line, |(_, rule)| rule),
            None => line.split(" [").next().filter(|_| line.starts_with(':')).unwrap_or(line),
        };
        tables.entry(table.clone()).or_default().push(bare.to_string());
    }
    tables
}

/// The text read and printed.
fn export(family: Family, text: &str) -> String {
    let source = Source::new("shape", text);
    let ports = PORTS.map(String::from);
    let around = Surroundings { family: Some(family), ports: &ports, names: Names::NONE };
    match iptables::read(&source, around) {
        Ok(imported) => iptables::save(&imported.ruleset, family, ("sumun", "now"), None),
        Err(found) => panic!("{}", render(&source, &found, false)),
    }
}

#[test]
fn rulesets_that_people_bring_come_out_as_iptables_save_prints_them() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-save", std::process::id()))?;
    for shape in all() {
        let Shape { name, family, text } = &shape;
        kernel.load(*family, text)?.unwrap_or_else(|why| panic!("{name}: the kernel refuses it: {why}"));
        let from_kernel = kernel.rules(*family)?;
        let exported = export(*family, text);
        let (ours, theirs) = (tables(&exported), tables(&from_kernel));
        for (table, lines) in &ours {
            for (ours, theirs) in lines.iter().zip(&theirs[table]) {
                assert_eq!(ours, theirs, "{name} {}: {table}", family.name());
            }
            assert_eq!(lines.len(), theirs[table].len(), "{name} {}: {table}", family.name());
        }
        for text in [&exported, &from_kernel] {
            let again = tables(&export(*family, text));
            assert!(ours.iter().all(|(table, lines)| again[table] == *lines), "{name} {}: read again", family.name());
        }
    }
    Ok(())
}

/// Twice where it differs: what the kernel says of its own timers does not come again.
fn judge(kernel: &mut Kernel, shape: &Shape, seed: u64) -> Result<()> {
    let case = Case::of_shape(shape, seed, 400);
    let mut outcome = case.run(kernel)?;
    if matches!(&outcome, Outcome::Differs(why) if !why.contains("refuses")) {
        outcome = case.run(kernel)?;
    }
    match outcome {
        Outcome::Same(packets) => assert!(packets >= 250, "{}: {packets} packets", shape.name),
        Outcome::Refused => panic!("{}: refused by both", shape.name),
        Outcome::Differs(why) => panic!("{} {}, seed {seed}: {why}", shape.name, shape.family.name()),
    }
    Ok(())
}

#[test]
fn rulesets_that_people_bring_judge_every_packet_as_in_the_kernel() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-shapes", std::process::id()))?;
    all().iter().try_for_each(|shape| judge(&mut kernel, shape, 1))
}
