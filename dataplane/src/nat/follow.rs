//! The mapping of a flow that a helper expected: like its master's (`nf_nat_follow_master`).

use super::{Manip, NatRange};
use crate::conntrack::{Flow, Follow, Tracker};
use crate::reason::DropReason;
use sumun_config::facts::{Facts, Family};

impl Tracker {
    /// Maps both ends of a new flow: it comes from where the packets of its master's direction seem to come from, and goes
    /// to the end and the port that were meant. The chains of table nat never see it.
    ///
    /// # Errors
    /// [`DropReason::NatExhausted`]: no free tuple was found.
    pub(crate) fn follow(&mut self, flow: Flow, master: u32, follow: Follow, random: u32) -> Result<(), DropReason> {
        let other = self.shared.entry(master).tuple(follow.dir.other());
        let to = |address, ports| NatRange { addresses: Some((address, address)), ports, ..NatRange::default() };
        // Nothing of it is mapped yet.
        let facts = Facts::blank(Family::V4);
        self.map(flow, Manip::Src, Some(&to(other.dst, None)), &facts, random)?;
        let port = Some((follow.port, follow.port));
        self.map(flow, Manip::Dst, Some(&to(other.src, port)), &facts, random)
    }
}
