//! How many fragments each sender has sent: the measure of `ipfrag_max_dist`.
//!
//! The kernel counts them with its peer (`inet_peer.rid`). Only senders with an incomplete packet matter, so no others are
//! remembered, and their number is bounded by that of the queues.

use std::collections::HashMap;

#[derive(Debug)]
struct Source {
    count: u32,
    queues: u32,
}

/// Senders with incomplete packets.
#[derive(Debug)]
pub(super) struct Sources(HashMap<u128, Source>);

impl Sources {
    /// For so many queues.
    pub fn new(most: usize) -> Sources {
        // Twice the room, so that places of those who left are reused without ever growing.
        Sources(HashMap::with_capacity(2 * most))
    }

    /// A queue opens; its sender's count.
    pub fn enter(&mut self, src: u128) -> u32 {
        let source = self.0.entry(src).or_insert(Source { count: 0, queues: 0 });
        source.queues += 1;
        source.count
    }

    /// A fragment of a sender with an open queue; the count with it.
    pub fn count(&mut self, src: u128) -> u32 {
        match self.0.get_mut(&src) {
            Some(source) => {
                source.count = source.count.wrapping_add(1);
                source.count
            }
            None => 0,
        }
    }

    /// Whether no sender has an open queue.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A queue closes.
    pub fn leave(&mut self, src: u128) {
        if let Some(source) = self.0.get_mut(&src) {
            source.queues -= 1;
            if source.queues == 0 {
                self.0.remove(&src);
            }
        }
    }
}
