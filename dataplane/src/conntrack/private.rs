//! What a protocol's tracker keeps of a flow beyond the state word: windows of TCP, verification tags of SCTP.
//!
//! One cache line for each entry. Packets of a flow may come in on several workers at once and each changes several words
//! together, so whoever reads them to change them holds the line's flag, as the kernel holds `ct->lock`: for some
//! nanoseconds, and nobody else wants it but a worker that has a packet of the same flow at the same moment. A router with
//! one worker does without. Protocols whose state fits the state word (UDP, ICMP) never touch the line.

use super::Invalid;
use super::index::{Held, Spin};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many words a protocol has.
pub(crate) const PRIVATE: usize = 7;

/// What comes of a packet of a protocol that has private words. The words have changed with it in every case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is not part of the flow.
    Invalid {
        /// Why.
        why: Invalid,
        /// Both sides have tried to end the connection outside of its windows: what is known of it is of no use, and it
        /// must not live for days.
        ends: bool,
    },
    /// It is let pass, and nothing is believed of it.
    Ignored,
    /// The flow is over and this begins another: forget the old, look again.
    Reopen,
    /// It was a reset, and the only thing ever seen of the other side: the flow ends at once.
    Refused,
    /// The flow goes on.
    Moved {
        /// Milliseconds that it has from now; none leaves its time as it is.
        timeout: Option<u64>,
    },
}

impl Step {
    /// It is not part of the flow, and nothing more.
    pub(super) const fn invalid(why: Invalid) -> Step {
        Step::Invalid { why, ends: false }
    }
}

/// The private words of one flow.
#[derive(Default)]
#[cfg_attr(not(feature = "model"), derive(zerocopy::FromBytes))]
#[repr(C, align(64))]
pub(crate) struct Private {
    words: [AtomicU64; PRIVATE],
    flag: Spin,
    /// By how much the server's timestamps are ahead of those that SYNPROXY told the client.
    pub stamps: AtomicU32,
}

impl Private {
    /// Waits until nobody else holds the words; they are held until the guard is dropped.
    #[inline]
    pub fn hold(&self) -> Held<'_> {
        self.flag.hold()
    }

    /// The words. To be held, unless there is only one worker.
    #[inline]
    pub fn words(&self) -> [u64; PRIVATE] {
        std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed))
    }

    /// Replaces the words that changed. To be held, unless there is only one worker.
    #[inline]
    pub fn change(&self, old: &[u64; PRIVATE], new: &[u64; PRIVATE]) {
        for (cell, (old, new)) in self.words.iter().zip(old.iter().zip(new)) {
            if old != new {
                cell.store(*new, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_words_are_one_cache_line() {
        assert_eq!((size_of::<Private>(), align_of::<Private>()), (64, 64));
    }

    #[test]
    fn what_one_stores_another_reads() {
        let private = Private::default();
        let old = private.words();
        let new = [1, 0, 3, 4, 0, 6, u64::MAX];
        {
            let _held = private.hold();
            private.change(&old, &new);
        }
        let _held = private.hold();
        assert_eq!(private.words(), new);
    }
}
