//! Sumun's router: a pure packet engine and the ports around it.

pub mod conntrack;
pub mod icmp;
pub mod nat;
pub mod packet;
pub mod port;
pub mod reason;
pub mod umem;
