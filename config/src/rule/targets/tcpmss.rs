//! `-j TCPMSS --set-mss N | --clamp-mss-to-pmtu`: the MSS option of TCP SYNs.

use crate::facts::{Context, Facts};
use crate::rule::Effect;
use serde::{Deserialize, Serialize};

/// The new MSS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mss {
    /// `--set-mss`
    Set(u16),
    /// `--clamp-mss-to-pmtu`: the smaller of the path MTUs of both directions, less 40 or 60.
    Clamp,
}

impl Mss {
    /// See the module.
    #[inline]
    pub fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Mss(*self)
    }
}
