//! The host's own stack: TAPs, and what goes between them and the workers.

pub mod beside;
pub mod carrier;
pub mod exchange;
pub mod join;
pub mod owner;
pub mod segment;
pub mod tap;
pub mod thread;
pub mod vnet;
