//! `-i NAME[+]`, `-o NAME[+]`: incoming and outgoing interface.
//!
//! Names are resolved to ports when the ruleset is compiled, so a test is one bit of a set.

use crate::facts::{Context, Facts, PortId};
use crate::rule::Outcome;
use serde::{Deserialize, Serialize};

/// Most ports that a router can have.
pub const MAX_PORTS: usize = 256;

/// A set of ports, and whether the router itself (`lo`) is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PortSet([u64; MAX_PORTS / 64]);

impl PortSet {
    /// Adds a port.
    pub fn insert(&mut self, port: PortId) {
        if let Some(i) = port.index() {
            self.0[i / 64] |= 1 << (i % 64);
        }
    }

    /// Whether the port is in the set; [`PortId::NONE`] never is.
    #[inline]
    pub fn contains(&self, port: PortId) -> bool {
        let i = port.0 as usize;
        i < MAX_PORTS && self.0[i / 64] >> (i % 64) & 1 != 0
    }
}

/// Which side, the name as written, and the ports that it means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Interface {
    /// `-i`
    In {
        /// As written, with its `+`.
        name: String,
        /// The ports so named.
        ports: PortSet,
    },
    /// `-o`
    Out {
        /// As written, with its `+`.
        name: String,
        /// The ports so named.
        ports: PortSet,
    },
}

impl Interface {
    /// See the module.
    #[inline]
    pub fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        let hit = match self {
            Interface::In { ports, .. } => ports.contains(facts.iif),
            Interface::Out { ports, .. } => ports.contains(facts.oif),
        };
        if hit { Outcome::Yes } else { Outcome::No }
    }
}
