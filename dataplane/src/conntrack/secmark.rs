//! Security contexts of flows, by number: what CONNSECMARK saves and restores.
//!
//! They lie beside the flows' lines, in an array that is made when the first ruleset with a CONNSECMARK is published, so that
//! routers without one pay nothing. They do not outlive the process: their numbers do not either.

use super::{Conntrack, Ct, Tracker, change};
use crate::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

/// By entry, the number of the flow's context; zero is none.
pub(super) type Marks = OnceLock<Box<[AtomicU32]>>;

impl Conntrack {
    /// From now on flows can have contexts. Takes four bytes for each flow that there can be.
    pub fn keep_contexts(&self) {
        self.secmarks.get_or_init(|| (0..self.entries.len()).map(|_| AtomicU32::new(0)).collect());
    }

    fn secmark(&self, id: u32) -> Option<&AtomicU32> {
        self.secmarks.get().and_then(|marks| marks.get(id as usize))
    }

    /// The number of the flow's context; zero is none.
    pub(super) fn secmark_of(&self, id: u32) -> u32 {
        self.secmark(id).map_or(0, |mark| mark.load(Ordering::Relaxed))
    }

    /// The context of an entry that begins a new flow: none, or its master's.
    #[inline]
    pub(super) fn begin_secmark(&self, id: u32, number: u32) {
        if let Some(mark) = self.secmark(id)
            && mark.load(Ordering::Relaxed) != number
        {
            mark.store(number, Ordering::Relaxed);
        }
    }
}

impl Tracker {
    /// The number of the context of the packet's flow; zero is none.
    pub fn secmark(&self, ct: Ct) -> u32 {
        match ct {
            Ct::Flow(flow) => self.shared.secmark_of(flow.id),
            _ => 0,
        }
    }

    /// Gives the packet's flow a context where it has none (`secmark_save`).
    pub fn save_secmark(&self, ct: Ct, number: u32) {
        let Ct::Flow(flow) = ct else { return };
        let Some(mark) = self.shared.secmark(flow.id) else { return };
        if mark.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.changed(flow.id, change::SECMARK);
        }
    }
}
