//! Sumun's router: a pure packet engine and the ports around it.

pub mod conntrack;
pub mod engine;
pub mod fib;
pub mod handover;
pub mod icmp;
pub mod local;
pub mod log;
pub mod machine;
pub mod nat;
pub mod neigh;
pub mod packet;
pub mod port;
pub mod process;
pub mod protocol;
pub mod reason;
pub mod server;
pub mod umem;
pub mod worker;
