//! Conntrack helpers: the protocols whose packets say which flows are to come.
//!
//! A helper is one line of the list here, and a file in the dataplane that reads the packets of its flows. What
//! `CT --helper` and the match `helper` accept follows from the list.

use crate::facts::proto;
use serde::{Deserialize, Serialize};

macro_rules! helpers {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $text:literal, $proto:expr;)*) => {
        /// A helper. Its number is kept with flows: 0 is none.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Helper {
            $($(#[doc = $doc])* $name = $number,)*
        }

        impl Helper {
            /// All of them.
            pub const ALL: &[Helper] = &[$(Helper::$name),*];

            /// The name in rules.
            pub const fn name(self) -> &'static str {
                match self { $(Helper::$name => $text,)* }
            }

            /// The protocol of the flows that it reads.
            pub const fn protocol(self) -> u8 {
                match self { $(Helper::$name => $proto,)* }
            }

            /// The helper of a number that a flow keeps.
            pub const fn from_number(number: u8) -> Option<Helper> {
                match number {
                    $($number => Some(Helper::$name),)*
                    _ => None,
                }
            }
        }
    };
}

helpers! {
    /// FTP (RFC 959, 2428): data connections.
    Ftp = 1, "ftp", proto::TCP;
    /// TFTP (RFC 1350): the transfer behind the request.
    Tftp = 2, "tftp", proto::UDP;
}

/// Helpers of the kernel that are not there.
pub const ABSENT: &[&str] =
    &["RAS", "Q.931", "H.245", "amanda", "h323", "irc", "netbios-ns", "pptp", "sane", "sip", "snmp", "snmp_trap"];

impl Helper {
    /// The helper of this name.
    pub fn named(name: &str) -> Option<Helper> {
        Helper::ALL.iter().copied().find(|helper| helper.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back_to_their_helpers() {
        for helper in Helper::ALL {
            assert_eq!(Helper::from_number(*helper as u8), Some(*helper));
            assert_eq!(Helper::named(helper.name()), Some(*helper));
            assert!(!ABSENT.contains(&helper.name()));
        }
        assert_eq!((Helper::from_number(0), Helper::named("FTP")), (None, None));
    }
}
