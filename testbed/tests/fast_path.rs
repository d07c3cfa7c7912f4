//! What a flow's packets have in common is replayed, and nothing tells: rules and traffic through three engines, one of which
//! remembers nothing, and one nothing of what rules said.

use anyhow::{Context, Result, ensure};
use sumun_config::facts::Family;
use sumun_testbed::differential::twins::Twins;
use sumun_testbed::differential::{Case, shapes};

/// Packets of a case, before they are repeated.
const PACKETS: usize = 120;

/// Runs cases; the share of packets that were replayed, of a thousand.
fn run(cases: impl Iterator<Item = (String, Case)>) -> Result<u64> {
    let mut all = Twins::default();
    for (name, case) in cases {
        if let Some(twins) = case.run_twice().context(name)? {
            all.packets += twins.packets;
            all.replayed += twins.replayed;
            all.recalled += twins.recalled;
        }
    }
    println!("{} of {} packets were replayed, {} recalled", all.replayed, all.packets, all.recalled);
    // What is replayed by the one is recalled by the other, and more.
    ensure!(all.recalled >= all.replayed, "only {} of {} packets were recalled", all.recalled, all.packets);
    Ok(all.replayed * 1000 / all.packets.max(1))
}

/// Random rules, of which one in so many is left.
fn random(one_in: usize, cases: u64) -> impl Iterator<Item = (String, Case)> {
    Family::ALL.into_iter().flat_map(move |family| {
        (0..cases).map(move |n| {
            let mut case = Case::new(1, family, n, PACKETS);
            case.rules = case.rules.every(one_in);
            (format!("case {n} of {}, one rule in {one_in}", family.name()), case)
        })
    })
}

#[test]
fn under_random_rules_packets_leave_and_count_as_if_each_were_judged() -> Result<()> {
    // Most of these ask for something that changes from packet to packet.
    assert!(run(random(1, 60))? >= 4);
    assert!(run(random(4, 60))? >= 20);
    assert!(run(random(16, 100))? >= 80);
    Ok(())
}

#[test]
fn under_rulesets_as_people_have_them_packets_leave_and_count_as_if_each_were_judged() -> Result<()> {
    let shapes = shapes::all();
    let cases = shapes.iter().flat_map(|shape| {
        [1, 2].map(|seed| (format!("{}, seed {seed}", shape.name), Case::of_shape(shape, seed, PACKETS)))
    });
    assert!(run(cases)? >= 100);
    Ok(())
}
