//! The atomics of the flow table: std's, or those of a model checker.
//!
//! With the feature `model` every access is a point at which shuttle may let another thread run, and the tests in
//! `conntrack::model` try many such orders; without it this is std and nothing else. What is checked are interleavings:
//! shuttle takes every ordering for the strongest, so what an acquire or release is for is argued where it stands.

#[cfg(feature = "model")]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(feature = "model"))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

/// Waits for another thread, which has nanoseconds' work; called again and again, with how often.
#[cfg(not(feature = "model"))]
#[inline]
pub(crate) fn wait(times: u32) {
    if times.is_multiple_of(4096) {
        // The other was preempted: it needs the core more than we do.
        std::thread::yield_now();
    }
    std::hint::spin_loop();
}

/// Lets another thread run.
#[cfg(feature = "model")]
pub(crate) fn wait(_: u32) {
    shuttle::thread::yield_now();
}
