//! How many errors the router sends: token buckets per destination, and one over all.
//!
//! As the kernel's `inet_peer_xrlim_allow` and `icmp_global_allow`. Memory is fixed: destinations share a table of small
//! sets, in which the least recently answered gives way. A destination that lost its place starts with a full bucket
//! again, which the bucket over all keeps harmless.

use sumun_config::facts::Family;

const SETS: usize = 256;
const WAYS: usize = 4;
/// Answers that a quiet destination may get at once (`XRLIM_BURST_FACTOR`).
const BURST: u64 = 6;
/// `icmp_msgs_per_sec`.
const PER_SECOND: u64 = 1000;
/// `icmp_msgs_burst`.
const BURST_OVER_ALL: u64 = 50;
const SECOND: u64 = 1_000_000_000;

/// What is known of one destination. `tokens` are nanoseconds saved since `last`.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    family: Option<Family>,
    dst: u128,
    last: u64,
    tokens: u64,
}

/// The limits of one worker.
#[derive(Debug)]
pub struct RateLimit {
    buckets: Box<[[Bucket; WAYS]]>,
    last: u64,
    tokens: u64,
}

impl Default for RateLimit {
    fn default() -> Self {
        RateLimit::new()
    }
}

impl RateLimit {
    /// Nothing answered yet.
    pub fn new() -> RateLimit {
        let empty = Bucket { family: None, dst: 0, last: 0, tokens: 0 };
        RateLimit { buckets: vec![[empty; WAYS]; SETS].into(), last: 0, tokens: BURST_OVER_ALL * SECOND }
    }

    /// Whether an error may be sent to `dst` now, with `interval_ms` between errors in the long run; zero is unlimited.
    pub fn allow(&mut self, family: Family, dst: u128, now: u64, interval_ms: u32) -> bool {
        if interval_ms == 0 {
            return true;
        }
        // In units of a second's share, so that nothing is lost to rounding.
        let earned = now.saturating_sub(self.last).saturating_mul(PER_SECOND);
        self.tokens = self.tokens.saturating_add(earned).min(BURST_OVER_ALL * SECOND);
        self.last = self.last.max(now);
        if self.tokens < SECOND || !self.allow_destination(family, dst, now, u64::from(interval_ms) * 1_000_000) {
            return false;
        }
        self.tokens -= SECOND;
        true
    }

    fn allow_destination(&mut self, family: Family, dst: u128, now: u64, interval: u64) -> bool {
        let set = &mut self.buckets[set_of(dst)];
        let at = match set.iter().position(|b| b.family == Some(family) && b.dst == dst) {
            Some(at) => at,
            None => {
                let stale = |b: &Bucket| (b.family.is_some(), b.last);
                let at = (0..WAYS).min_by_key(|at| stale(&set[*at])).unwrap_or(0);
                set[at] = Bucket { family: Some(family), dst, last: now, tokens: BURST * interval };
                at
            }
        };
        let bucket = &mut set[at];
        let earned = now.saturating_sub(bucket.last);
        bucket.last = bucket.last.max(now);
        bucket.tokens = bucket.tokens.saturating_add(earned).min(BURST * interval);
        let allowed = bucket.tokens >= interval;
        if allowed {
            bucket.tokens -= interval;
        }
        allowed
    }
}

fn set_of(dst: u128) -> usize {
    let folded = (dst >> 64) as u64 ^ dst as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_destination_gets_a_burst_and_then_one_an_interval() {
        let mut limit = RateLimit::new();
        let start = 77 * SECOND;
        let sent = (0..20).filter(|_| limit.allow(Family::V4, 1, start, 1000)).count();
        assert_eq!(sent, 6);
        assert!(!limit.allow(Family::V4, 1, start + 999 * MS, 1000));
        assert!(limit.allow(Family::V4, 1, start + 1000 * MS, 1000));
        assert!(!limit.allow(Family::V4, 1, start + 1000 * MS, 1000));
        assert!(limit.allow(Family::V6, 1, start + 1000 * MS, 1000));
        assert!(limit.allow(Family::V4, 2, start + 1000 * MS, 1000));
        let sent = (0..20).filter(|_| limit.allow(Family::V4, 1, start + 3600 * SECOND, 1000)).count();
        assert_eq!(sent, 6);
    }

    #[test]
    fn all_destinations_together_get_a_thousand_a_second() {
        let mut limit = RateLimit::new();
        let burst = (0..10_000u128).filter(|dst| limit.allow(Family::V4, *dst, SECOND, 1000)).count();
        assert_eq!(burst, 50);
        let sent = (0..100_000u128).filter(|i| limit.allow(Family::V4, 1 << 20 | i, SECOND + *i as u64 * 10_000, 1000));
        assert_eq!(sent.count(), 999);
    }

    #[test]
    fn zero_is_unlimited() {
        let mut limit = RateLimit::new();
        assert!((0..1000).all(|_| limit.allow(Family::V6, 9, 0, 0)));
    }

    #[test]
    fn time_that_stands_or_goes_back_earns_nothing() {
        let mut limit = RateLimit::new();
        assert_eq!((0..10u64).filter(|i| limit.allow(Family::V4, 1, SECOND - i, 1000)).count(), 6);
    }
}
