//! `-j REJECT [--reject-with TYPE]`: answers and drops; in INPUT, FORWARD and OUTPUT of `filter`.

use crate::facts::{Context, Facts};
use crate::rule::Effect;
use serde::{Deserialize, Serialize};

/// How a packet is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the --reject-with word of its name")]
pub enum With {
    IcmpNetUnreachable,
    IcmpHostUnreachable,
    IcmpPortUnreachable,
    IcmpProtoUnreachable,
    IcmpNetProhibited,
    IcmpHostProhibited,
    IcmpAdminProhibited,
    Icmp6NoRoute,
    Icmp6AdmProhibited,
    Icmp6AddrUnreachable,
    Icmp6PortUnreachable,
    Icmp6PolicyFail,
    Icmp6RejectRoute,
    TcpReset,
}

/// The target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reject(pub With);

impl Reject {
    /// See the module.
    #[inline]
    pub fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Reject(self.0)
    }
}
