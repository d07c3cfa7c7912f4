//! Packet memory: one region cut into frames of equal size, and the tokens that own them.
//!
//! A [`Frame`] is move-only and is the only handle to its bytes, so whoever holds it may read and write them and nobody
//! else can. A frame is in exactly one place: free in a [`Pool`], in a burst, held for a neighbour, or lent to the kernel
//! (fill, rx, tx, completion rings). A pool counts what it made, so a census proves that none was lost.

#![allow(unsafe_code, reason = "frames are parts of one shared region; exclusive access follows from the unique token")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes kept free in front of a received or built packet, for tags and longer headers.
pub const HEADROOM: usize = 256;

/// The memory that all frames are cut from. Lives as long as any of its frames.
pub struct Region {
    base: NonNull<u8>,
    layout: Layout,
    frame_size: u32,
    frames: u32,
}

// SAFETY: the region itself is never read or written, only its frames are, and each frame's bytes are reached through its
// one token, which moves between threads as any owned buffer does.
unsafe impl Send for Region {}
// SAFETY: as above; shared access to the region hands out no bytes.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `Region::cut` with this layout; every frame holds an `Arc` of the region, so none is left.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

impl Region {
    /// Allocates `frames` frames of `frame_size` bytes and returns their tokens, in order.
    pub fn cut(frames: u32, frame_size: u32) -> Vec<Frame> {
        let layout = Layout::from_size_align(frames as usize * frame_size as usize, 4096).expect("a size that fits");
        // SAFETY: the layout has a size other than zero, as `frames` and `frame_size` do.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        let region = Arc::new(Region { base, layout, frame_size, frames });
        (0..frames).map(|index| Frame { region: region.clone(), index, start: HEADROOM as u16, len: 0 }).collect()
    }

    /// How many frames the region was cut into.
    pub fn frames(&self) -> u32 {
        self.frames
    }
}

/// One frame: the token and the bounds of the packet in it.
pub struct Frame {
    region: Arc<Region>,
    index: u32,
    start: u16,
    len: u16,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Frame({}, {}+{})", self.index, self.start, self.len)
    }
}

impl Frame {
    /// The packet's bytes, from the Ethernet header on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start + len <= frame_size (kept by every method that sets them) and index < frames, so the range lies in
        // the region; this token is the only access to it, borrowed shared here.
        unsafe { std::slice::from_raw_parts(self.data(), self.len as usize) }
    }

    /// The packet's bytes for writing.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data(), self.len as usize) }
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        let offset = self.index as usize * self.region.frame_size as usize + self.start as usize;
        // SAFETY: within the region, see `bytes`.
        unsafe { self.region.base.as_ptr().add(offset) }
    }

    /// Number of the frame in its region.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Length of the packet in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no packet is in the frame.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most bytes that the packet can have when it starts where it does now.
    pub fn capacity(&self) -> usize {
        self.region.frame_size as usize - self.start as usize
    }

    /// Sets the length, at the end. False and unchanged where the frame is too small. New bytes are whatever was there.
    #[must_use]
    pub fn resize(&mut self, len: usize) -> bool {
        let fits = len <= self.capacity();
        if fits {
            self.len = len as u16;
        }
        fits
    }

    /// Grows the packet at its front by `n` bytes. False and unchanged where there is no headroom.
    #[must_use]
    pub fn push_front(&mut self, n: usize) -> bool {
        let fits = n <= self.start as usize;
        if fits {
            self.start -= n as u16;
            self.len += n as u16;
        }
        fits
    }

    /// Cuts `n` bytes (at most the length) off the front.
    pub fn pull_front(&mut self, n: usize) {
        let n = n.min(self.len as usize) as u16;
        self.start += n;
        self.len -= n;
    }

    /// Empties the frame and restores the headroom.
    pub fn reset(&mut self) {
        self.start = HEADROOM as u16;
        self.len = 0;
    }

    /// Empties the frame and fills it with `bytes`. False and empty where they do not fit.
    #[must_use]
    pub fn set(&mut self, bytes: &[u8]) -> bool {
        self.reset();
        let fits = self.resize(bytes.len());
        if fits {
            self.bytes_mut().copy_from_slice(bytes);
        }
        fits
    }
}

/// Free frames of a worker.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Frame>,
    made: usize,
}

impl Pool {
    /// A pool that owns these frames.
    pub fn new(frames: Vec<Frame>) -> Pool {
        let made = frames.len();
        Pool { free: frames, made }
    }

    /// A pool of fresh memory, for tests, benches and simulation.
    pub fn fresh(frames: u32, frame_size: u32) -> Pool {
        Pool::new(Region::cut(frames, frame_size))
    }

    /// An empty frame with headroom, where one is free.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Takes a frame back.
    #[inline]
    pub fn give(&mut self, mut frame: Frame) {
        frame.reset();
        self.free.push(frame);
    }

    /// Frames free now.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Frames that the pool started with: the sum that a census must find.
    pub fn made(&self) -> usize {
        self.made
    }
}
