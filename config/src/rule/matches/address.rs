//! `-s ADDRESS[/MASK]`, `-d ADDRESS[/MASK]`: source and destination address.

use crate::facts::{Context, Facts};
use crate::rule::Outcome;
use serde::{Deserialize, Serialize};

/// Which of the two addresses, and the network it must be in. The mask need not be a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Address {
    /// `-s`
    Source {
        /// Network, host bits zero.
        net: u128,
        /// Bits that count.
        mask: u128,
    },
    /// `-d`
    Destination {
        /// Network, host bits zero.
        net: u128,
        /// Bits that count.
        mask: u128,
    },
}

impl Address {
    /// See the module.
    #[inline]
    pub fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        let hit = match *self {
            Address::Source { net, mask } => facts.src & mask == net,
            Address::Destination { net, mask } => facts.dst & mask == net,
        };
        if hit { Outcome::Yes } else { Outcome::No }
    }
}
