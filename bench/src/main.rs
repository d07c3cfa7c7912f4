//! `sumun-bench`: what the router can do on this machine.

use clap::{Parser, Subcommand};

mod frames;
mod pipeline;

#[derive(Parser)]
#[command(name = "sumun-bench", version, about = "What the router can do on this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The engine alone, on one core, over memory ports: no device, no kernel.
    Pipeline(pipeline::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Pipeline(options) => pipeline::run(&options),
    }
}
