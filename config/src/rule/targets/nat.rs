//! `-j SNAT`, `-j DNAT`, `-j MASQUERADE`, `-j REDIRECT`: the mapping of a flow, in table `nat`.

use crate::facts::{Context, Facts};
use crate::rule::Effect;
use serde::{Deserialize, Serialize};

/// Which mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// New source from the range.
    Snat,
    /// New destination from the range.
    Dnat,
    /// New source: the address of the outgoing port.
    Masquerade,
    /// New destination: the address of the incoming port (PREROUTING), or the loopback address (OUTPUT).
    Redirect,
}

/// A mapping to be chosen from ranges. Where a range is absent that part stays, unless it clashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nat {
    /// Which.
    pub kind: Kind,
    /// First and last address, inclusive.
    pub addresses: Option<(u128, u128)>,
    /// First and last port (or ICMP identifier), inclusive.
    pub ports: Option<(u16, u16)>,
    /// `--to-destination a:p-q/base`: a port keeps its distance from `base`.
    pub port_base: Option<u16>,
    /// `--random`
    pub random: bool,
    /// `--random-fully`
    pub random_fully: bool,
    /// `--persistent`
    pub persistent: bool,
}

impl Nat {
    /// See the module.
    #[inline]
    pub fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Nat(self)
    }
}
