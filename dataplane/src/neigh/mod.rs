//! Neighbours: which MAC has the next hop on this link?
//!
//! ```text
//!            ┌──────────── Neighbours (one, shared) ────────────┐
//!  lookup ──▶│ hash ─▶ chain ─▶ entry: key, MAC and state, timer │◀── static neighbours of the policy
//!            └──────▲───────────────────────────────▲───────────┘
//!        Resolver (one a worker): held packets, timers of the entries it drives ──▶ solicitations, ready or failed packets
//!            ▲
//!        arp, ndp: what messages mean, and how ours look
//! ```
//!
//! States and times are the kernel's (`net/core/neighbour.c`, RFC 4861 section 7.3). Reads take no lock; everything that
//! adds, removes or teaches an entry takes one short lock, which no hit needs. Memory is fixed at the start.

pub mod arp;
pub mod ndp;

mod entry;
mod held;
mod resolver;
mod table;

#[cfg(test)]
mod tests;

pub use entry::{NeighId, State};
pub use resolver::{Event, Hop, Resolver};
pub use table::{Listed, Neighbours};

use sumun_config::facts::{Family, PortId};

/// What a received message says of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// On this link.
    pub port: PortId,
    /// Family of the address.
    pub family: Family,
    /// The neighbour's address.
    pub addr: u128,
    /// Its MAC; none: the known one is confirmed.
    pub mac: Option<[u8; 6]>,
    /// It answered us, so it is reachable; else it is merely known.
    pub confirms: bool,
    /// What happens to another MAC that is known already.
    pub replaces: Replaces,
    /// The neighbour is added where it is not known.
    pub creates: bool,
    /// Whether it says that it is a router; none where the message does not tell.
    pub router: Option<bool>,
}

/// When a MAC takes the place of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaces {
    /// At once.
    Always,
    /// Unless the entry changed within the last second (`locktime`): the first of several ARP answers wins.
    Settled,
    /// Never: the known MAC becomes doubtful instead (an advertisement without the override flag).
    Never,
}
