//! `sumun-dataplane`: see the library.

use clap::Parser;
use std::process::ExitCode;
use sumun_dataplane::{machine, process};

fn main() -> ExitCode {
    process::run(process::Args::parse(), machine::start)
}
