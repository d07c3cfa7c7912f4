//! Names that rules use and that other sections define.

use crate::rule::matches::nfacct::Account;
use crate::rule::matches::recent::Sizes as RecentSizes;
use crate::rule::word::integer;
use crate::set::Declaration;
use crate::timeout::TimeoutPolicy;
use serde::{Deserialize, Serialize};

/// A conntrack label's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Label {
    /// Its bit, below 128.
    pub bit: u8,
    /// Its name.
    pub name: String,
}

impl Label {
    /// Whether a label may have this name: letters, digits and `-`, and no number, which would be a bit.
    pub fn is_name(name: &str) -> bool {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=MAX_LABEL_NAME).contains(&name.len()) && name.bytes().all(good) && integer(name).is_none()
    }
}

/// Bytes of a label's name.
pub const MAX_LABEL_NAME: usize = 63;

/// Names that rules use and other sections of the file define.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Time-out policies.
    pub timeouts: &'a [TimeoutPolicy],
    /// Conntrack labels.
    pub labels: &'a [Label],
    /// Sets.
    pub sets: &'a [Declaration],
    /// Accounts with their quotas.
    pub accounts: &'a [Account],
    /// Those of any whose definition has a mistake, which has been told: a rule with such a name has none.
    pub mistaken: &'a [String],
    /// Sizes of the lists of `recent`.
    pub recent: RecentSizes,
    /// Interfaces that no port is, but rules may name: whole names, or beginnings with a `+`.
    pub foreign: &'a [String],
}

impl Names<'_> {
    /// None at all.
    pub const NONE: Names<'static> = Names {
        timeouts: &[],
        labels: &[],
        sets: &[],
        accounts: &[],
        mistaken: &[],
        foreign: &[],
        recent: RecentSizes::DEFAULT,
    };
}
