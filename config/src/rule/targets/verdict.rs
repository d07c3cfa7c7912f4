//! `-j ACCEPT`, `-j DROP`, `-j RETURN`, `-j CHAIN`, `-g CHAIN`.

use crate::facts::{Context, Facts};
use crate::rule::Effect;
use serde::{Deserialize, Serialize};

/// The built-in verdicts and jumps; a chain is the index within its table ([`crate::ruleset::Chains`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// This table is satisfied.
    Accept,
    /// The packet ends here.
    Drop,
    /// Back to the calling chain.
    Return,
    /// `-j CHAIN`
    Jump(u32),
    /// `-g CHAIN`
    Goto(u32),
}

impl Verdict {
    /// See the module.
    #[inline]
    pub fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        match *self {
            Verdict::Accept => Effect::Accept,
            Verdict::Drop => Effect::Drop,
            Verdict::Return => Effect::Return,
            Verdict::Jump(chain) => Effect::Jump(chain),
            Verdict::Goto(chain) => Effect::Goto(chain),
        }
    }
}
