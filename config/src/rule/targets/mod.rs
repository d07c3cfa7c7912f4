//! All targets, one file each.

use super::Effect;
use crate::facts::{Context, Facts};
use serde::{Deserialize, Serialize};

/// Lists the targets: a new one is a file and a line here.
macro_rules! registry {
    ($($(#[$doc:meta])* $variant:ident($module:ident::$type:ident),)*) => {
        $(pub mod $module;)*

        /// What a rule does with what it matches.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub enum Target {
            $($(#[$doc])* $variant($module::$type),)*
        }

        impl Target {
            /// What is to be done with the packet.
            #[inline]
            pub fn act(&self, facts: &Facts, cx: &Context) -> Effect<'_> {
                match self {
                    $(Target::$variant(t) => t.act(facts, cx),)*
                }
            }
        }
    };
}

registry! {
    /// ACCEPT, DROP, RETURN, and jumps to user chains.
    Verdict(verdict::Verdict),
    /// REJECT.
    Reject(reject::Reject),
    /// LOG.
    Log(log::Log),
    /// TCPMSS.
    Mss(tcpmss::Mss),
    /// SNAT, DNAT, MASQUERADE, REDIRECT.
    Nat(nat::Nat),
}
