//! The real `sumun` binary, as daemon and as command line, over a dataplane made of memory.

mod bench;
mod cli;
mod daemon;
mod simulate;
