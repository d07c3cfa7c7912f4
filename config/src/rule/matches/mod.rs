//! All matches, one file each.

use super::Outcome;
use crate::facts::{Context, Facts};
use serde::{Deserialize, Serialize};

/// Lists the matches: a new one is a file and a line here.
macro_rules! registry {
    ($($(#[$doc:meta])* $variant:ident($module:ident::$type:ident),)*) => {
        $(pub mod $module;)*

        /// One condition of a match. Options of the same match are separate conditions.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub enum Match {
            $($(#[$doc])* $variant($module::$type),)*
        }

        impl Match {
            /// What this condition says of the packet, before negation.
            #[inline]
            pub fn test(&self, facts: &Facts, cx: &Context) -> Outcome {
                match self {
                    $(Match::$variant(m) => m.test(facts, cx),)*
                }
            }
        }
    };
}

registry! {
    /// `-s`, `-d`.
    Address(address::Address),
    /// `-i`, `-o`.
    Interface(interface::Interface),
    /// `-p`.
    Protocol(protocol::Protocol),
}
