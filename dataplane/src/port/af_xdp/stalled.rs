//! How many pools of pages wait in the kernel for receivers to let go of a page?
//!
//! Every call that sends through XDP ([`super::xmit`]) makes the kernel a pool of pages, which goes at its end. Where a receiver
//! still has one of the pages then (a socket that is not read yet, a backlog of another core), the pool stays for a second at
//! least (`page_pool_destroy`, DEFER_TIME), and whenever any pool goes the kernel looks through all that there are
//! (`mem_allocator_disconnect`). With n of them that costs some 10 ns each, for every call: a thousand are little, ten thousand take
//! a core. They are of the whole machine, whoever made them.
//!
//! The kernel tells of them at a tracepoint, where bpf/stalled.bpf.c counts them.

#![allow(unsafe_code, reason = "a map that is shared with a BPF program")]

use super::live::{self, Aligned};
use super::mapping::{Mapping, map};
use libbpf_rs::ObjectBuilder;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/stalled.bpf.o")));

/// As in bpf/stalled.bpf.c.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Bucket {
    time: u64,
    pools: u64,
}

const BUCKETS: usize = 8;
const BUCKET_SHIFT: u32 = 28;

/// Buckets that make a second, but for what is missing of the youngest.
const SECOND: u64 = 4;

/// The counter. Dropping it takes the program out of the kernel.
#[derive(Debug)]
pub(super) struct Stalled {
    buckets: Mapping,
    _link: OwnedFd,
}

impl Stalled {
    /// Begins to count.
    ///
    /// # Errors
    /// The kernel's, also where it has no such tracepoint.
    pub(super) fn watch() -> io::Result<Stalled> {
        let failed = |error: libbpf_rs::Error| io::Error::other(error.to_string());
        let object = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(failed)?.load().map_err(failed)?;
        let buckets = Mapping::new(map(&object, "stalled")?.as_fd(), BUCKETS * size_of::<Bucket>())?;
        let program = live::program(&object, "sumun_stalled")?;
        // SAFETY: the name is a string that ends with a zero, and the program's descriptor is open.
        let fd = unsafe { libbpf_sys::bpf_raw_tracepoint_open(c"page_pool_release".as_ptr(), program.as_raw_fd()) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: the call returned a descriptor that nobody else has.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Stalled { buckets, _link: link })
    }

    /// Pools that wait, as far as the kernel has told of them in the last second before `now`, in nanoseconds of the monotonic
    /// clock.
    pub(super) fn pools(&self, now: u64) -> u64 {
        // SAFETY: the mapping has all of them, its memory begins at a page, and any bytes are numbers. The program may write
        // meanwhile; what is read then is of one moment or another.
        let buckets = unsafe { self.buckets.base().cast::<[Bucket; BUCKETS]>().as_ptr().read_volatile() };
        young(&buckets, now >> BUCKET_SHIFT)
    }
}

/// What was counted in the last second.
fn young(buckets: &[Bucket; BUCKETS], time: u64) -> u64 {
    buckets.iter().filter(|bucket| time.wrapping_sub(bucket.time) < SECOND).map(|bucket| bucket.pools).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_of_the_last_second_count() {
        let mut buckets = [Bucket { time: 0, pools: 0 }; BUCKETS];
        for (time, pools) in [(21, 1), (22, 10), (23, 100), (24, 1_000), (25, 10_000)] {
            buckets[time as usize % BUCKETS] = Bucket { time, pools };
        }
        assert_eq!(young(&buckets, 25), 11_110);
        assert_eq!(young(&buckets, 26), 11_100);
        assert_eq!(young(&buckets, 28), 10_000);
        assert_eq!(young(&buckets, 29), 0);
        // One that the reader's clock has not reached.
        assert_eq!(young(&buckets, 24), 1_111);
    }
}
