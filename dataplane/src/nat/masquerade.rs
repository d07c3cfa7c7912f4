//! MASQUERADE: a mapping that is good only as long as the port has the address, and the route leads out of the port.

use crate::conntrack::{Flow, Tracker};
use crate::reason::DropReason;
use sumun_config::facts::{Dir, PortId, status};

impl Tracker {
    /// Writes down that a new flow was given the address of a port (`masq_index`).
    pub fn set_masqueraded(&mut self, flow: Flow, port: PortId) {
        self.shared.note_masquerade(flow.id, Some(port));
    }

    /// A packet of a mapped flow is about to leave by a port (`nf_nat_oif_changed`): out of another one than it was
    /// masqueraded on, its source would be a stranger's. Then the flow ends, and its next packet begins it anew.
    ///
    /// # Errors
    /// The packet is to be dropped.
    #[inline]
    pub fn stay_masqueraded(&mut self, flow: Flow, bits: u32, port: PortId) -> Result<(), DropReason> {
        if bits & status::SRC_NAT == 0 || flow.dir == Dir::Reply || flow.related {
            return Ok(());
        }
        match self.shared.masqueraded_on(flow.id) {
            Some(on) if on != port => {
                self.remove(flow.id);
                Err(DropReason::MasqueradeMoved)
            }
            _ => Ok(()),
        }
    }
}
