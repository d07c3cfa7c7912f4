//! `sumun-bench pipeline`: every workload runs with few flows and with several workers, and tells figures that fit together.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Command, Stdio};
use sumun_testbed::router::programs;

const WORKLOADS: [&str; 11] = [
    "plain forward",
    "plain forward, 100,000 routes",
    "five hooks with conntrack",
    "conntrack and masquerade",
    "masquerade, 1,000 rules",
    "masquerade, 10,000 rules",
    "stateless, all judged, 10 rules",
    "stateless, all judged, 1,000 rules",
    "stateless, all judged, 10,000 rules",
    "masquerade, new flows",
    "masquerade, new flows, 10,000 rules",
];

/// Whether it went well, and what was on both outputs.
fn pipeline(arguments: &str) -> Result<(bool, String, String)> {
    let mut command = Command::new(programs().join("sumun-bench"));
    command.arg("pipeline").args(arguments.split_whitespace()).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    let output = command.output().context("sumun-bench")?;
    let [told, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status.success(), told, said))
}

/// The lines of a run with `--json`.
fn figures(arguments: &str) -> Result<(Vec<Value>, String)> {
    let (is_well, told, said) = pipeline(&format!("--json {arguments}"))?;
    ensure!(is_well, "{arguments}: {said}");
    Ok((told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?, said))
}

fn number(figure: &Value, key: &str) -> Result<f64> {
    figure[key].as_f64().with_context(|| format!("{key} of {figure}"))
}

#[test]
fn every_workload_runs_from_one_flow_on_with_two_workers_and_frames_of_many_lengths() -> Result<()> {
    let (figures, said) = figures("--flows 1,3,200 --packets 640 --rounds 2 --workers 2 --imix")?;
    for (flows, names) in [(1, &WORKLOADS[..]), (3, &WORKLOADS[..9]), (200, &WORKLOADS[..9])] {
        for name in names {
            let flows = if name.contains("new flows") { 1280 } else { flows };
            let of = |figure: &&Value| figure["workload"] == *name && figure["flows"] == flows;
            let figure = figures.iter().find(of).with_context(|| format!("{name}, {flows} flows"))?;
            ensure!(figure["workers"] == 2 && figure["family"] == 4, "{figure}");
            ensure!((number(figure, "bytes")? - (7.0 * 64.0 + 4.0 * 594.0 + 1518.0) / 12.0).abs() < 1e-6, "{figure}");
            let empty = Vec::new();
            let each: Vec<f64> =
                figure["ns_of_workers"].as_array().unwrap_or(&empty).iter().filter_map(Value::as_f64).collect();
            ensure!(figure["ns_of_workers"].as_array().map(Vec::len) == Some(2), "{figure}");
            ensure!(if flows > 3 { each.len() == 2 } else { (1..=2).contains(&each.len()) }, "{figure}");
            let (ns, mpps) = (number(figure, "ns_per_packet")?, number(figure, "mpps")?);
            ensure!(
                each.iter().all(|ns| *ns > 0.0) && (mpps - 1000.0 * each.len() as f64 / ns).abs() < 1e-6,
                "{figure}"
            );
            ensure!(number(figure, "fastest_ns")? <= ns && ns <= number(figure, "slowest_ns")?, "{figure}");
            // Where the processor does not count, that is said, and nothing is made up.
            let counts = ["cycles", "instructions"].map(|key| figure.get(key).and_then(Value::as_f64));
            ensure!(
                counts.iter().all(|count| count.is_some_and(|count| count > 0.0) != said.contains("note: no cycles")),
                "{figure} {said}"
            );
        }
    }
    assert_eq!(figures.len(), 11 + 9 + 9);
    Ok(())
}

#[test]
fn answers_stay_with_the_worker_of_their_flow_where_that_is_wanted() -> Result<()> {
    for (spread, expected) in [("rss", 2), ("flows", 1)] {
        let run = "--flows 1 --packets 640 --rounds 1 --workers 2 --only hooks --spread";
        let (figures, _) = figures(&format!("{run} {spread}"))?;
        let at_work =
            |figure: &Value| figure["ns_of_workers"].as_array().into_iter().flatten().filter(|ns| ns.is_f64()).count();
        assert_eq!(figures.iter().map(at_work).collect::<Vec<_>>(), [expected], "{spread}");
    }
    Ok(())
}

#[test]
fn one_worker_judges_every_packet_of_both_families_where_that_is_wanted() -> Result<()> {
    for (family, size, bytes) in [(4, "", 64.0), (6, "", 66.0), (4, "--size 1518", 1518.0), (6, "--size 71", 71.0)] {
        let run = format!("--flows 100 --packets 640 --rounds 1 --only 1,000 --judge-all --family {family} {size}");
        let (figures, _) = figures(&run)?;
        assert_eq!(figures.len(), 2, "{figures:?}");
        for figure in &figures {
            ensure!(number(figure, "bytes")? == bytes && number(figure, "ns_per_packet")? > 0.0, "{figure}");
            ensure!(figure["family"] == family && figure["workers"] == 1, "{figure}");
        }
    }
    Ok(())
}

#[test]
fn the_table_has_a_line_for_each_workload_and_the_times_of_each_worker() -> Result<()> {
    let (is_well, told, said) = pipeline("--flows 10 --packets 128 --rounds 3 --workers 1,2")?;
    ensure!(is_well, "{said}");
    let (heading, lines) = told.split_once('\n').context("a heading")?;
    ensure!(heading.starts_with("workload") && heading.contains("of each"), "{told}");
    for (at, line) in lines.lines().enumerate() {
        let (name, times) = (WORKLOADS[at / 2], line.split_whitespace().rev().take_while(|word| !word.contains('-')));
        ensure!(line.starts_with(&format!("{name}  ")) && times.count() == at % 2 + 1, "{name}: {line}");
    }
    ensure!(lines.lines().count() == 2 * WORKLOADS.len() && said.contains("development build"), "{told}{said}");
    Ok(())
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_reason() -> Result<()> {
    for (arguments, expected) in [
        ("--flows 0", "--flows is from 1"),
        ("--flows 4000001", "--flows is from 1 to 4000000"),
        ("--packets 63", "at least one round of 64 packets"),
        ("--rounds 0", "at least one round"),
        ("--workers 1,0", "--workers is from 1"),
        ("--core 4095", "no core 4095"),
        ("--workers 4096", "there is no core"),
        ("--family 5", "--family is 4 or 6"),
        ("--size 63", "at least 64 bytes"),
        ("--size 64 --family 6", "at least 66 bytes"),
        ("--size 1519", "MTU of 1500"),
        ("--size 64 --imix", "cannot be used with"),
        ("--only nothing", "no workload has that"),
    ] {
        let (is_well, told, said) = pipeline(arguments)?;
        ensure!(!is_well && said.contains(expected), "{arguments}: `{expected}` is not in: {told}{said}");
    }
    Ok(())
}
