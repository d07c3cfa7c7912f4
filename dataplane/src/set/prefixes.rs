//! Which prefix lengths the elements of a set have: those that a lookup tries, longest first.

use crate::sync::wait;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Lengths from 0 to 128.
const LENGTHS: usize = 129;

/// How many elements have each length. A bit of `present` changes only under the lock, and only together with a count
/// that leaves or reaches zero, so that bits and counts say the same although many threads add and delete.
pub struct Prefixes {
    counts: [AtomicU32; LENGTHS],
    present: [AtomicU64; 3],
    lock: AtomicBool,
}

impl Prefixes {
    /// None.
    pub fn new() -> Prefixes {
        Prefixes {
            counts: [const { AtomicU32::new(0) }; LENGTHS],
            present: [const { AtomicU64::new(0) }; 3],
            lock: AtomicBool::new(false),
        }
    }

    /// The lengths that there are, longest first.
    #[inline]
    pub fn longest_first(&self) -> impl Iterator<Item = u8> + use<> {
        let mut words = [0, 1, 2].map(|i| self.present[i].load(Ordering::Acquire));
        std::iter::from_fn(move || {
            let at = (0..3).rev().find(|at| words[*at] != 0)?;
            let bit = 63 - words[at].leading_zeros();
            words[at] &= !(1 << bit);
            Some((at as u32 * 64 + bit) as u8)
        })
    }

    /// The longest, where there is one.
    pub fn longest(&self) -> Option<u8> {
        self.longest_first().next()
    }

    /// One more of that length.
    pub fn add(&self, len: u8) {
        let Some(count) = self.counts.get(len as usize) else { return };
        let more = |count: u32| (count > 0).then_some(count + 1);
        if count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            return;
        }
        self.locked(|| {
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                self.present[len as usize / 64].fetch_or(1 << (len % 64), Ordering::Release);
            }
        });
    }

    /// One less.
    pub fn remove(&self, len: u8) {
        let Some(count) = self.counts.get(len as usize) else { return };
        let fewer = |count: u32| (count > 1).then(|| count - 1);
        if count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            return;
        }
        self.locked(|| {
            if count.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.present[len as usize / 64].fetch_and(!(1 << (len % 64)), Ordering::Release);
            }
        });
    }

    fn locked(&self, change: impl FnOnce()) {
        let mut times = 0;
        while self.lock.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            times += 1;
            wait(times);
        }
        change();
        self.lock.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_longest_first_and_go_with_their_last_element() {
        let prefixes = Prefixes::new();
        for len in [0, 24, 128, 64, 24, 63] {
            prefixes.add(len);
        }
        assert_eq!(prefixes.longest_first().collect::<Vec<_>>(), [128, 64, 63, 24, 0]);
        for len in [24, 128, 0] {
            prefixes.remove(len);
        }
        assert_eq!(prefixes.longest_first().collect::<Vec<_>>(), [64, 63, 24]);
        prefixes.remove(24);
        assert_eq!(prefixes.longest(), Some(64));
    }
}
