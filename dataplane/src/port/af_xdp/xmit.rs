//! Sending without an skb: how a burst leaves a device that has no AF_XDP zero-copy but takes XDP frames.
//!
//! ```text
//!  frames ── copied into the slots of a mapped BPF array ── BPF_PROG_TEST_RUN, live frames, repeat = n ── device
//!                                                            └ bpf/xmit.bpf.c: next slot → page → redirect
//! ```
//! The tx ring of a copy-mode socket costs the kernel an skb and a softirq for each frame. A call here costs about as much
//! as a dozen frames of the ring, and then a fifth of it a frame. It is synchronous: when it returns, the device has all
//! frames or has dropped them, so the worker's own are free again at once and nothing is in flight.
//!
//! What the kernel does not tell is what became of each frame. A device that could not take one (its peer's ring was full)
//! counts that itself: `tx_queue_*_xdp_xmit_errors` in `ethtool -S` of a veth. That it takes XDP frames at all is asked
//! beforehand and watched ([`super::watch`]). A receiver that keeps a frame for a minute (a socket that nobody reads) makes
//! the kernel log "stalled pool shutdown": the frame's page is of a pool that was made for the call. It is freed later.
//!
//! The program is parked ([`super::live`]).

#![allow(unsafe_code, reason = "maps that are shared with a BPF program")]

use super::live::{self, Aligned, Parked, park};
use super::mapping::{Mapping, map};
use crate::umem::Frame;
use libbpf_rs::{MapCore, MapFlags, ObjectBuilder};
use nix::libc;
use std::ffi::OsStr;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, OwnedFd};

/// The name under which the kernel lists the program.
const NAME: &str = "sumun_xmit";

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/xmit.bpf.o")));

/// Frames of one call.
pub(super) const SLOTS: usize = 256;

/// Bytes of a slot behind its length. A slot is an odd number of cache lines, so that the heads of all slots spread over
/// all sets of the cache.
const SLOT_BYTES: usize = 3132;

/// The shortest and the longest frame that is sent this way: the kernel wants a whole Ethernet header, and what it needs of
/// a page of 4096 bytes besides the frame is some 700.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=3072;

/// Frames that the kernel hands to the device at a time, within a call.
const BATCH: u32 = 64;

/// The first bytes of every page, all of which the program writes anew.
static BLANK: [u8; 4096] = [0; 4096];

/// As in bpf/xmit.bpf.c.
#[repr(C)]
struct Slot {
    len: u32,
    bytes: [u8; SLOT_BYTES],
}

/// As in bpf/xmit.bpf.c.
#[repr(C)]
struct Head {
    next: u32,
    port: u32,
    refused: u32,
}

/// Whether a frame can be sent this way.
pub(super) fn fits(frame: &Frame) -> bool {
    LENGTHS.contains(&frame.len())
}

/// What a call came to.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Frames, from the first on, that the program took.
    pub(super) frames: usize,
    /// Of these, what it could not give to the device: that is gone.
    pub(super) refused: u64,
    /// Why it took no more.
    pub(super) error: Option<io::Error>,
}

/// The way out of one worker, to all devices.
pub(super) struct Lane {
    program: OwnedFd,
    slots: Mapping,
    head: Mapping,
    _parked: Parked,
}

impl Lane {
    /// Loads the program for these devices, by their index in the caller's network namespace.
    pub(super) fn open(devices: &[u32]) -> io::Result<Lane> {
        let failed = |error: libbpf_rs::Error| io::Error::other(error.to_string());
        let mut object = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(failed)?;
        for mut map in object.maps_mut().filter(|map| map.name() == OsStr::new("devices")) {
            map.set_max_entries(devices.len().max(1) as u32).map_err(failed)?;
        }
        let object = object.load().map_err(failed)?;
        let targets = map(&object, "devices")?;
        for (number, index) in devices.iter().enumerate() {
            // The kernel forgets the entry of a device that goes away.
            targets.update(&(number as u32).to_ne_bytes(), &index.to_ne_bytes(), MapFlags::ANY).map_err(failed)?;
        }
        let slots = Mapping::new(map(&object, "slots")?.as_fd(), SLOTS * size_of::<Slot>())?;
        let head = Mapping::new(map(&object, "lane")?.as_fd(), size_of::<Head>())?;
        let program = live::program(&object, NAME)?;
        let parked = park(program.as_fd())?;
        Ok(Lane { program, slots, head, _parked: parked })
    }

    /// Sends frames, all of which [`fits`], in order, on the device that was number `port` of those at [`Lane::open`].
    pub(super) fn send(&mut self, port: u32, frames: &[Frame]) -> Sent {
        let mut sent = Sent::default();
        while sent.frames < frames.len() && sent.error.is_none() {
            let burst = &frames[sent.frames..];
            let burst = &burst[..burst.len().min(SLOTS)];
            let shortest = self.fill(burst);
            self.set(offset_of!(Head, next), 0);
            self.set(offset_of!(Head, refused), 0);
            self.set(offset_of!(Head, port), port);
            sent.error = self.call(burst.len(), shortest).err().filter(|error| {
                // A signal ends the call between two batches: the next one goes on.
                error.raw_os_error() != Some(libc::EINTR)
            });
            sent.frames += (self.get(offset_of!(Head, next)) as usize).min(burst.len());
            sent.refused += u64::from(self.get(offset_of!(Head, refused)));
        }
        sent
    }

    /// Copies frames into the slots. Returns the length of the shortest.
    fn fill(&mut self, frames: &[Frame]) -> usize {
        let mut shortest = *LENGTHS.end();
        for (number, frame) in frames.iter().enumerate() {
            let bytes = frame.bytes();
            debug_assert!(number < SLOTS && fits(frame));
            shortest = shortest.min(bytes.len());
            // SAFETY: the mapping has SLOTS slots; the number is less and the length at most SLOT_BYTES. No reference to the
            // mapping exists, and the program does not run now.
            unsafe {
                let slot = self.slots.base().cast::<Slot>().as_ptr().add(number);
                (&raw mut (*slot).len).write_volatile(bytes.len() as u32);
                (&raw mut (*slot).bytes).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        }
        shortest
    }

    /// Runs the program `count` times, each with a page whose frame has `len` bytes: the program need not size frames that
    /// have just that length.
    fn call(&self, count: usize, len: usize) -> io::Result<()> {
        // The program touches the mapped arrays only, which nobody else does during the call.
        live::run(self.program.as_fd(), &BLANK[..len], count as u32, BATCH)
    }

    fn set(&mut self, member: usize, value: u32) {
        // SAFETY: an aligned member of `Head` in the mapping; no reference to it exists.
        unsafe { self.head.base().byte_add(member).cast::<u32>().write_volatile(value) }
    }

    fn get(&self, member: usize) -> u32 {
        // SAFETY: as in `set`.
        unsafe { self.head.base().byte_add(member).cast::<u32>().read_volatile() }
    }
}
