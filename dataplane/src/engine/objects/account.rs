//! An account: packets and bytes that all rules of its name have counted (`nfnetlink_acct.c`).

use crate::conntrack::tuple::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};
use sumun_config::rule::matches::nfacct::{Limits, Quota, Standing};

/// The counters of an account. Workers add to them at once, each packet exactly once.
#[derive(Debug)]
pub struct Account {
    packets: AtomicU64,
    bytes: AtomicU64,
    quota: Option<Quota>,
}

impl Account {
    /// An account for which nothing was counted yet.
    pub fn new(limits: &Limits, _: Hasher) -> Account {
        Account { packets: AtomicU64::new(0), bytes: AtomicU64::new(0), quota: limits.quota }
    }

    /// Counts a packet of so many bytes of IP; how the quota stands then (`nfnl_acct_update`, `nfnl_acct_overquota`).
    #[inline]
    pub fn count(&self, len: u16) -> Standing {
        // The counters guard no other memory: Relaxed is enough.
        let packets = self.packets.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let bytes = self.bytes.fetch_add(len.into(), Ordering::Relaxed).wrapping_add(len.into());
        let is_beyond = match self.quota {
            None => return Standing::NoQuota,
            Some(Quota::Packets(quota)) => packets > quota,
            Some(Quota::Bytes(quota)) => bytes > quota,
        };
        if is_beyond { Standing::Beyond } else { Standing::Within }
    }

    /// Packets and bytes.
    pub fn counted(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Whether more was counted than its quota allows.
    pub fn is_beyond(&self) -> bool {
        let (packets, bytes) = self.counted();
        match self.quota {
            None => false,
            Some(Quota::Packets(quota)) => packets > quota,
            Some(Quota::Bytes(quota)) => bytes > quota,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(quota: Option<Quota>, lengths: &[u16]) -> Vec<Standing> {
        let account = Account::new(&Limits { quota }, Hasher::new(1));
        let standings = lengths.iter().map(|len| account.count(*len)).collect();
        assert_eq!(account.counted(), (lengths.len() as u64, lengths.iter().map(|len| u64::from(*len)).sum()));
        standings
    }

    #[test]
    fn a_quota_is_used_up_by_what_exceeds_it() {
        use Standing::{Beyond, NoQuota, Within};
        assert_eq!(standings(None, &[20, 1500]), [NoQuota, NoQuota]);
        assert_eq!(standings(Some(Quota::Packets(2)), &[20, 20, 20]), [Within, Within, Beyond]);
        assert_eq!(standings(Some(Quota::Bytes(100)), &[60, 40, 20]), [Within, Within, Beyond]);
        assert_eq!(standings(Some(Quota::Bytes(0)), &[20]), [Beyond]);
    }

    #[test]
    fn several_workers_together_are_within_the_quota_exactly_so_often() {
        let account = Account::new(&Limits { quota: Some(Quota::Packets(1000)) }, Hasher::new(1));
        let within: usize = std::thread::scope(|scope| {
            let worker = || (0..1000).filter(|_| account.count(20) == Standing::Within).count();
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|t| t.join().expect("a worker ends")).sum()
        });
        assert_eq!(within, 1000);
        assert_eq!(account.counted(), (3000, 60_000));
    }
}
