//! What a helper keeps of its flows.
//!
//! One line of a fixed pool; a flow for which none is left goes on without its helper. Who reads and changes the words holds
//! the private line of the flow ([`super::private`]), and so does who gives the line back: with the flow's number still in
//! it nobody else's line is touched.

use crate::sync::atomic::{AtomicU32, Ordering};

/// Words that a helper keeps of a flow.
pub(crate) const MEMORY: usize = 6;

/// The line of one flow.
pub(crate) struct Helped {
    /// Number of the flow; [`super::NONE`] while nobody has it.
    owner: AtomicU32,
    memory: [AtomicU32; MEMORY],
}

impl Default for Helped {
    fn default() -> Helped {
        Helped { owner: AtomicU32::new(super::NONE), memory: Default::default() }
    }
}

impl Helped {
    /// A flow begins; nothing is known of it.
    pub fn take(&self, owner: u32) {
        self.remember(&[0; MEMORY]);
        self.owner.store(owner, Ordering::Release);
    }

    /// The flow has ended.
    pub fn give(&self) {
        self.owner.store(super::NONE, Ordering::Release);
    }

    /// Whether it is this flow's.
    #[inline]
    pub fn is_of(&self, id: u32) -> bool {
        self.owner.load(Ordering::Acquire) == id
    }

    /// The helper's words.
    pub fn memory(&self) -> [u32; MEMORY] {
        std::array::from_fn(|i| self.memory[i].load(Ordering::Relaxed))
    }

    /// Replaces the helper's words.
    pub fn remember(&self, words: &[u32; MEMORY]) {
        for (cell, word) in self.memory.iter().zip(words) {
            cell.store(*word, Ordering::Relaxed);
        }
    }
}
