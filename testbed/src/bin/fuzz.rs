//! The fuzz target, for `testbed/fuzz`: one of the entry points of the dataplane's hostile tests, chosen by `SUMUN_FUZZ`.
//!
//! `engine`: frames, time and rules as the input says. `policy`: a policy that an enemy sends, and packets for it. `text`: a
//! configuration and the text of a rule. With `SUMUN_FUZZ_SEEDS` it writes inputs to start from into that directory and ends.

#![no_main]

#[allow(missing_docs, reason = "the tests' own")]
#[path = "../../../dataplane/tests/common/mod.rs"]
mod common;

use common::hostile;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::OnceLock;

/// What is fuzzed: the entry point and its seeds.
type Entry = (fn(&[u8]), fn() -> Vec<Vec<u8>>);

fn entry() -> Entry {
    static ENTRY: OnceLock<Entry> = OnceLock::new();
    *ENTRY.get_or_init(|| match std::env::var("SUMUN_FUZZ").as_deref() {
        Ok("engine") => (hostile::engine, hostile::engine_seeds),
        Ok("policy") => (hostile::policy, hostile::policy_seeds),
        Ok("text") => (hostile::text, hostile::text_seeds),
        _ => panic!("SUMUN_FUZZ says what to fuzz: engine, policy or text"),
    })
}

/// Writes the seeds where they are asked for.
fn prepare() {
    let Some(into) = std::env::var_os("SUMUN_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (i, seed) in (entry().1)().iter().enumerate() {
        let file = into.join(format!("seed-{i:02}"));
        std::fs::write(&file, seed).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    std::process::exit(0);
}

fuzz_target!(init: prepare(), |input: &[u8]| (entry().0)(input));
