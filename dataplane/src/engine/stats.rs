//! What a worker counts: packets and bytes of ports, rules and policies, and how every packet ended.
//!
//! Each worker writes its own numbers and nobody else does, so adding is a load and a store, not a locked instruction;
//! others read them whenever they like. A sum over workers is exact once the workers are quiet.

use crate::reason::DropReason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer and any readers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owner may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets it; only the owner may call it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: Count,
    /// Bytes: IP length for rules, frame length for ports.
    pub bytes: Count,
}

impl Traffic {
    /// Counts several packets.
    #[inline]
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    /// Counts one packet.
    #[inline]
    pub fn count(&self, bytes: usize) {
        self.packets.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// The counters of all rules and policies of a generation, for one worker.
#[derive(Debug)]
pub struct Bank(Box<[Traffic]>);

impl Bank {
    /// All zero.
    pub fn new(slots: usize) -> Bank {
        Bank((0..slots).map(|_| Traffic::default()).collect())
    }

    /// The counter of a slot.
    #[inline]
    pub fn slot(&self, slot: u32) -> &Traffic {
        &self.0[slot as usize]
    }

    /// Takes over the numbers of the bank before it: `carry` names the old slot of each new one.
    pub fn carry_from(&self, old: &Bank, carry: &[Option<u32>]) {
        for (new, from) in self.0.iter().zip(carry) {
            if let Some(from) = from.and_then(|slot| old.0.get(slot as usize)) {
                new.packets.set(from.packets.get());
                new.bytes.set(from.bytes.get());
            }
        }
    }
}

/// What one worker counts apart from rules. Every packet has one fate, so at rest these are equal: received, originated and
/// pieces together; sent, delivered, consumed, dropped and still held (for a neighbour, for other fragments) together.
#[derive(Debug)]
pub struct WorkerStats {
    /// By [`DropReason`] as index.
    pub drops: Box<[Count]>,
    /// Received, by port.
    pub rx: Box<[Traffic]>,
    /// Put in line for transmission, by port. What the device had no room for afterwards is counted as dropped too
    /// ([`DropReason::TxRing`], [`DropReason::Handover`]).
    pub tx: Box<[Traffic]>,
    /// Packets handed to the local stack.
    pub delivered: Count,
    /// Packets that the engine itself was meant by (ARP, neighbour discovery), and fragments that became part of another.
    pub consumed: Count,
    /// Packets that the router made itself (answers, errors), or would have with a free frame.
    pub originated: Count,
    /// Fragments beyond the first of packets that were fragmented on their way out.
    pub pieces: Count,
    /// Packets whose flow told their way ([`super::fast`]).
    pub replayed: Count,
    /// The generation that the worker runs.
    pub generation: Count,
    /// The number of the routes that the worker runs.
    pub routes: Count,
}

impl WorkerStats {
    /// All zero, for a router of so many ports.
    pub fn new(ports: usize) -> WorkerStats {
        let traffic = || (0..ports).map(|_| Traffic::default()).collect();
        WorkerStats {
            drops: DropReason::ALL.iter().map(|_| Count::default()).collect(),
            rx: traffic(),
            tx: traffic(),
            delivered: Count::default(),
            consumed: Count::default(),
            originated: Count::default(),
            pieces: Count::default(),
            replayed: Count::default(),
            generation: Count::default(),
            routes: Count::default(),
        }
    }

    /// Counts a packet that ended for this reason.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }
}
