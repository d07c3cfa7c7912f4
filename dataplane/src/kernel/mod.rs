//! The kernel's routing, followed.

pub mod decode;
pub mod news;
mod nexthop;
