//! `-p PROTOCOL`: the upper-layer protocol by number; `-p all` writes no condition.

use crate::facts::{Context, Facts};
use crate::rule::Outcome;
use serde::{Deserialize, Serialize};

/// The protocol number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Protocol(pub u8);

impl Protocol {
    /// See the module.
    #[inline]
    pub fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        if facts.proto == self.0 { Outcome::Yes } else { Outcome::No }
    }
}
