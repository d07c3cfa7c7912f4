//! `sumun-bench`: what the router can do on this machine.

use clap::{Parser, Subcommand};

mod compare;
mod frames;
mod gate;
mod pipeline;
mod pktgen;
mod routes;
mod ruleset;
mod sets;

/// Tells what is held of memory; the engine allocates nothing on the way of a packet.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

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
    /// Instructions of the engine for a packet, counted by valgrind, against the figures of the repository.
    Gate(gate::Options),
    /// Sends frames on a device, counts what arrives at a device, or both: loss, order, latency.
    Pktgen(pktgen::Options),
    /// The same network, rules and traffic through Sumun and through the kernel, in turns.
    Compare(compare::Options),
    /// A large ruleset: how long until it is in force, and the memory it takes.
    Ruleset(ruleset::Options),
    /// A large routing table: how long until it is in force, what a change costs, and what a lookup costs.
    Routes(routes::Options),
    /// Large sets: how long until they are in force, the memory of an element, and what a lookup costs.
    Sets(sets::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Pipeline(options) => pipeline::run(&options),
        Command::Gate(options) => gate::run(&options),
        Command::Pktgen(options) => pktgen::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Ruleset(options) => ruleset::run(&options),
        Command::Routes(options) => routes::run(&options),
        Command::Sets(options) => sets::run(&options),
    }
}
