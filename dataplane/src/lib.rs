//! Sumun's router: a pure packet engine and the ports around it.

pub mod handover;
pub mod port;
pub mod reason;
pub mod umem;
pub mod worker;
