//! `-f`: second and later fragments of an IPv4 packet. (IPv6 has `-m frag` for that.)
//!
//! Without defragmentation before it (only `raw` sees fragments when conntrack runs) such a fragment has no L4 header:
//! port conditions never hold for it. `! -f` holds for whole packets and first fragments.
//!
//! TOML: `{ fragment = true, jump = "DROP" }`

use super::{Asks, Condition, not, yes};
use crate::facts::{Context, Facts, Family};
use crate::rule::Outcome;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The condition; it has no parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fragment;

impl Condition for Fragment {
    #[inline]
    fn test(&self, facts: &Facts, _: &Context) -> Outcome {
        yes(facts.is_later_fragment())
    }

    fn asks(&self) -> Asks {
        Asks::Flow
    }

    fn print(&self, negate: bool, _: Family, out: &mut String) {
        let _ = write!(out, "{} -f", not(negate));
    }

    fn verify(&self, family: Family) -> Result<(), String> {
        match family {
            Family::V4 => Ok(()),
            Family::V6 => Err("-f exists for IPv4 only".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fragments_with_an_offset_are_later_ones() {
        let judge = crate::rule::matches::harness::Judge::new(Family::V4, "");
        let cx = Context { l3: &[], now: 0, wall: 0, around: &judge, cells: &[] };
        for (frag_off, more_frags, hit) in [(0, false, false), (0, true, false), (8, true, true), (1480, false, true)] {
            let facts = Facts { frag_off, more_frags, ..Facts::blank(Family::V4) };
            assert_eq!(Fragment.test(&facts, &cx), yes(hit));
        }
        assert!(Fragment.verify(Family::V6).is_err());
    }
}
