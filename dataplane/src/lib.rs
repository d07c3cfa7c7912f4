//! Sumun's router: a pure packet engine and the ports around it.

pub mod fib;
pub mod neigh;
pub mod port;
pub mod reason;
pub mod umem;
