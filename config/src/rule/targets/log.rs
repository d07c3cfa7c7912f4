//! `-j LOG`: a line in the kernel's format; the packet goes on.

use crate::facts::{Context, Facts};
use crate::rule::Effect;
use serde::{Deserialize, Serialize};

/// What the line contains.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Log {
    /// syslog level, 0 to 7.
    pub level: u8,
    /// Stands before the line; at most 29 bytes.
    pub prefix: String,
    /// `--log-tcp-sequence`
    pub tcp_sequence: bool,
    /// `--log-tcp-options`
    pub tcp_options: bool,
    /// `--log-ip-options`
    pub ip_options: bool,
    /// `--log-uid`
    pub uid: bool,
    /// `--log-macdecode`
    pub macdecode: bool,
}

impl Log {
    /// See the module.
    #[inline]
    pub fn act(&self, _: &Facts, _: &Context) -> Effect<'_> {
        Effect::Log(self)
    }
}
