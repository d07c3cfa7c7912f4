//! Packets that wait for a neighbour: a bounded number for each and in total, oldest dropped first.

use super::entry::NeighId;
use hashbrown::HashMap;

const END: u32 = u32::MAX;

/// A waiting packet, in the queue of its neighbour and in the order of arrival of all.
#[derive(Debug)]
struct Slot<T> {
    packet: Option<T>,
    id: NeighId,
    /// The next of the same neighbour; of a free slot, the next free one.
    next: u32,
    older: u32,
    newer: u32,
}

/// The queue of one neighbour.
#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
    len: u32,
}

/// All waiting packets of a worker. Memory is fixed at the start.
#[derive(Debug)]
pub(super) struct Held<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    oldest: u32,
    newest: u32,
    queues: HashMap<NeighId, Queue>,
}

impl<T> Held<T> {
    pub fn new(most: usize) -> Held<T> {
        let none = NeighId { index: 0, seq: 0 };
        let next = |i: usize| if i + 1 < most { i as u32 + 1 } else { END };
        let slot = |i| Slot { packet: None, id: none, next: next(i), older: END, newer: END };
        Held {
            slots: (0..most).map(slot).collect(),
            free: if most == 0 { END } else { 0 },
            oldest: END,
            newest: END,
            // Twice the room, so that removals are cleaned up in place and the map never grows.
            queues: HashMap::with_capacity(2 * most),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queues.values().map(|queue| queue.len as usize).sum()
    }

    /// Queues a packet; the one that had to go for it comes back: the oldest of the neighbour where that has `most`, else
    /// the oldest of all where there is no room.
    pub fn push(&mut self, id: NeighId, packet: T, most: u32) -> Option<T> {
        if most == 0 || self.slots.is_empty() {
            return Some(packet);
        }
        let evicted = match self.queues.get(&id) {
            Some(queue) if queue.len >= most => self.pop(id),
            _ if self.free == END => {
                self.slots.get(self.oldest as usize).map(|slot| slot.id).and_then(|id| self.pop(id))
            }
            _ => None,
        };
        let at = self.free;
        let slot = &mut self.slots[at as usize];
        self.free = slot.next;
        *slot = Slot { packet: Some(packet), id, next: END, older: self.newest, newer: END };
        match self.slots.get_mut(self.newest as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        match self.queues.get_mut(&id) {
            Some(queue) => {
                self.slots[queue.last as usize].next = at;
                queue.last = at;
                queue.len += 1;
            }
            None => {
                self.queues.insert(id, Queue { first: at, last: at, len: 1 });
            }
        }
        evicted
    }

    /// Takes the oldest packet of a neighbour.
    pub fn pop(&mut self, id: NeighId) -> Option<T> {
        let queue = self.queues.get_mut(&id)?;
        let at = queue.first;
        let slot = &mut self.slots[at as usize];
        let (older, newer) = (slot.older, slot.newer);
        let packet = slot.packet.take();
        queue.first = slot.next;
        queue.len -= 1;
        if queue.len == 0 {
            self.queues.remove(&id);
        }
        self.slots[at as usize].next = self.free;
        self.free = at;
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        packet
    }

    /// The newest packet that waits for a neighbour.
    pub fn newest(&self, id: NeighId) -> Option<&T> {
        self.slots.get(self.queues.get(&id)?.last as usize)?.packet.as_ref()
    }

    /// The neighbours that packets wait for.
    pub fn waiting(&self) -> impl Iterator<Item = NeighId> {
        self.queues.keys().copied()
    }
}
