//! Sumun's router: a pure packet engine and the ports around it.

pub mod fib;
pub mod icmp;
pub mod local;
pub mod log;
pub mod neigh;
pub mod packet;
pub mod port;
pub mod reason;
pub mod umem;
