//! Bytes and what they say: views of headers, parsing, rewriting, checksums.
//!
//! Everything here works on plain slices, so that the engine, conntrack, the simulator and tests use the same code.
//! Nothing here panics, whatever the bytes are.

pub mod checksum;
pub mod crc32c;
pub mod edit;
pub mod extension;
pub mod fragment;
pub mod glance;
pub mod mangle;
pub mod mss;
pub mod options;
pub mod parse;
pub mod partial;
pub mod tcp_bits;
pub mod view;
pub mod vlan;

#[cfg(test)]
pub(crate) mod sample;
