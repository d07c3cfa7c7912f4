//! Packet memory: one region cut into frames of equal size, and the tokens that own them.
//!
//! A [`Frame`] is move-only and is the only handle to its bytes, so whoever holds it may read and write them and nobody
//! else can. A frame is in exactly one place: free in a [`Pool`], in a burst, held for a neighbour, or lent to the kernel
//! (fill, rx, tx, completion rings). A pool counts what it made, so a census proves that none was lost.
//!
//! Workers may share one region, so that a frame can be handed from one to another without a copy. Every frame still has
//! its home: the pool that it was dealt to. A pool that is given a foreign frame sends it home through a ring that holds
//! as many frames as that home was dealt, so it cannot overflow.
//!
//! | frame | holds | who has it |
//! |---|---|---|
//! | of the UMEM | what a device takes in one piece | anybody, devices too |
//! | jumbo | what a device with jumbo packets takes, in pieces | workers, from one to the other |
//! | large | the longest IP packet | one worker |

#![allow(unsafe_code, reason = "frames are parts of one shared region; exclusive access follows from the unique token")]

pub mod huge;
pub mod prefetch;
pub mod shared;

use crossbeam_queue::ArrayQueue;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes kept free in front of a received or built packet, for tags and longer headers.
pub const HEADROOM: usize = 256;

/// Size of a large frame: room for the longest IP packet. No device is ever given one.
pub const LARGE: u32 = HEADROOM as u32 + (1 << 16);

/// Longest IP packet that devices send and receive in pieces.
pub const JUMBO_MTU: u32 = 9000;

/// Size of a jumbo frame: room for a packet of [`JUMBO_MTU`] with its tags, and an odd number of cache lines.
pub const JUMBO: u32 = HEADROOM as u32 + 9216 + 64;

/// The largest frame of a UMEM: a page.
const PAGE: u32 = 4096;

/// The memory that all frames are cut from. Lives as long as any of its frames.
pub struct Region {
    base: NonNull<u8>,
    frame_size: u32,
    frames: u32,
    memory: Memory,
}

/// Whose the bytes of a region are.
enum Memory {
    /// Allocated here, with this layout.
    Heap(Layout),
    /// Another owner's, who is kept alive.
    Kept(#[expect(dead_code, reason = "held for its Drop")] Box<dyn Any + Send>),
}

// SAFETY: the region itself is never read or written, only its frames are, and each frame's bytes are reached through its
// one token, which moves between threads as any owned buffer does. The kept owner is Send and only ever dropped.
unsafe impl Send for Region {}
// SAFETY: as above; shared access to the region hands out no bytes, and none to the kept owner.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        if let Memory::Heap(layout) = self.memory {
            // SAFETY: allocated in `Region::cut` with this layout; every frame holds an `Arc` of the region, so none is left.
            unsafe { dealloc(self.base.as_ptr(), layout) }
        }
    }
}

impl Region {
    /// Allocates `frames` frames of `frame_size` bytes and returns their tokens, in order.
    pub fn cut(frames: u32, frame_size: u32) -> Vec<Frame> {
        let layout = Layout::from_size_align(frames as usize * frame_size as usize, 4096).expect("a size that fits");
        // SAFETY: the layout has a size other than zero, as `frames` and `frame_size` do.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Region { base, frame_size, frames, memory: Memory::Heap(layout) }.tokens()
    }

    /// Cuts memory that `owner` keeps mapped (the UMEM of AF_XDP sockets) into frames and returns their tokens, in order.
    ///
    /// # Safety
    /// `base` must be the start of `frames * frame_size` bytes that stay valid for reads and writes until `owner` is
    /// dropped, that all have been initialised, and that nobody reaches but through these tokens - save the kernel, for
    /// frames whose token is lent to it.
    pub unsafe fn wrap(base: NonNull<u8>, frames: u32, frame_size: u32, owner: Box<dyn Any + Send>) -> Vec<Frame> {
        Region { base, frame_size, frames, memory: Memory::Kept(owner) }.tokens()
    }

    fn tokens(self) -> Vec<Frame> {
        let region = Arc::new(self);
        let frame = |index: u32| {
            // SAFETY: index < frames, so the frame's first byte lies in the region.
            let memory = unsafe { region.base.add(index as usize * region.frame_size as usize) };
            Frame { memory, region: region.clone(), index, start: HEADROOM as u16, len: 0 }
        };
        (0..region.frames).map(frame).collect()
    }

    /// How many frames the region was cut into.
    pub fn frames(&self) -> u32 {
        self.frames
    }
}

/// One frame: the token and the bounds of the packet in it.
pub struct Frame {
    /// Its first byte, in the region.
    memory: NonNull<u8>,
    region: Arc<Region>,
    index: u32,
    start: u16,
    len: u16,
}

// SAFETY: the one access to its bytes, which lie in a region that may be sent itself.
unsafe impl Send for Frame {}
// SAFETY: bytes are written through an exclusive borrow only.
unsafe impl Sync for Frame {}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Frame({}, {}+{})", self.index, self.start, self.len)
    }
}

impl Frame {
    /// The packet's bytes, from the Ethernet header on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: start + len <= frame_size (kept by every method that sets them), so the range lies in the frame's memory; this
        // token is the only access to it, borrowed shared here.
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
        // SAFETY: within the frame's memory, see `bytes`.
        unsafe { self.memory.as_ptr().add(self.start as usize) }
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
        (self.region.frame_size as usize - self.start as usize).min(u16::MAX as usize)
    }

    /// Bytes of memory that the frame is.
    #[inline]
    pub fn size(&self) -> usize {
        self.region.frame_size as usize
    }

    /// Whether it is longer than any device takes.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.region.frame_size >= LARGE
    }

    /// Whether it is of the memory that devices share, so that it can be lent to one.
    #[inline]
    pub fn is_lendable(&self) -> bool {
        self.region.frame_size <= PAGE
    }

    /// Whether it is a jumbo frame.
    #[inline]
    pub fn is_jumbo(&self) -> bool {
        !self.is_lendable() && !self.is_large()
    }

    /// Adds bytes at the end. False and unchanged where they do not fit.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let len = self.len();
        let fits = self.resize(len + bytes.len());
        if fits {
            self.bytes_mut()[len..].copy_from_slice(bytes);
        }
        fits
    }

    /// Where in the frame the packet starts.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Says where a packet lies that somebody else wrote into the frame. False and unchanged where that is not within it.
    #[must_use]
    pub fn place(&mut self, start: usize, len: usize) -> bool {
        let fits = start.checked_add(len).is_some_and(|end| end <= self.region.frame_size as usize);
        let fits = fits && start.max(len) <= u16::MAX as usize;
        if fits {
            self.start = start as u16;
            self.len = len as u16;
        }
        fits
    }

    /// Moves the packet within its frame so that it starts after [`HEADROOM`] bytes. False and unchanged where it is too
    /// long for that.
    #[must_use]
    pub fn align(&mut self) -> bool {
        if self.start as usize == HEADROOM {
            return true;
        }
        let (start, len) = (self.start as usize, self.len as usize);
        let fits = HEADROOM + len <= self.region.frame_size as usize;
        if fits && self.place(0, (start + len).max(HEADROOM + len)) {
            self.bytes_mut().copy_within(start..start + len, HEADROOM);
            self.start = HEADROOM as u16;
            self.len = len as u16;
        }
        fits
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

    /// Cuts off what is behind the first `len` bytes.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len) as u16;
    }

    /// Grows the packet at its front by `n` bytes. False and unchanged where there is no headroom.
    #[must_use]
    pub fn push_front(&mut self, n: usize) -> bool {
        let fits = n <= self.start as usize && n + self.len as usize <= u16::MAX as usize;
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
    /// Jumbo frames, of a region of their own, where a port needs them.
    jumbo: Option<Jumbo>,
    /// Free large frames, of memory of their own.
    large: Vec<Frame>,
    made: usize,
    home: Option<Home>,
}

/// Jumbo frames of a worker.
#[derive(Debug)]
struct Jumbo {
    free: Vec<Frame>,
    made: usize,
    home: Home,
}

/// Which frames of a shared region a pool was dealt, and the ways home of all others.
#[derive(Debug)]
struct Home {
    worker: usize,
    /// Frames dealt to each pool: frame `i` belongs to pool `i / each`.
    each: usize,
    /// By worker: foreign frames on their way home. Each ring holds as many as its pool was dealt.
    returns: Arc<[ArrayQueue<Frame>]>,
}

impl Home {
    /// Deals frames out evenly: what each worker gets, and how it sends the others' home.
    fn deal(mut frames: Vec<Frame>, workers: usize) -> Vec<(Vec<Frame>, Home)> {
        let all = frames.len();
        let each = (all / workers.max(1)).max(1);
        let share = |worker: usize| if worker + 1 < workers { each } else { all - each * (workers - 1) };
        let returns: Arc<[_]> = (0..workers).map(|worker| ArrayQueue::new(share(worker).max(1))).collect();
        let part = |worker: usize| {
            let mut free: Vec<Frame> = Vec::with_capacity(all);
            free.extend(frames.drain(..share(worker)));
            (free, Home { worker, each, returns: returns.clone() })
        };
        (0..workers).map(part).collect()
    }

    fn of(&self, frame: &Frame) -> usize {
        (frame.index as usize / self.each).min(self.returns.len() - 1)
    }

    /// Sends a frame home, or puts it to the free ones where that is here.
    #[inline]
    fn give(&self, frame: Frame, free: &mut Vec<Frame>) {
        let owner = self.of(&frame);
        if owner == self.worker {
            free.push(frame);
        } else if let Err(frame) = self.returns[owner].push(frame) {
            // The ring holds all that its pool was dealt, so this cannot be; the frame is kept rather than lost.
            free.push(frame);
        }
    }

    /// Fetches the frames that other workers sent home.
    #[cold]
    fn collect(&self, free: &mut Vec<Frame>) {
        while let Some(frame) = self.returns[self.worker].pop() {
            free.push(frame);
        }
    }

    /// Frames on their way home.
    fn on_their_way(&self) -> usize {
        self.returns[self.worker].len()
    }
}

impl Pool {
    /// A pool that owns these frames.
    pub fn new(frames: Vec<Frame>) -> Pool {
        let made = frames.len();
        Pool { free: frames, jumbo: None, large: Vec::new(), made, home: None }
    }

    /// A pool of fresh memory, for tests, benches and simulation.
    pub fn fresh(frames: u32, frame_size: u32) -> Pool {
        Pool::new(Region::cut(frames, frame_size))
    }

    /// Deals all frames of one region out to `workers` pools, evenly. Frames find back to the pool that they were dealt to
    /// from any of these.
    pub fn deal(frames: Vec<Frame>, workers: usize) -> Vec<Pool> {
        let parts = Home::deal(frames, workers).into_iter();
        parts.map(|(free, home)| Pool { home: Some(home), ..Pool::new(free) }).collect()
    }

    /// Adds so many jumbo frames to each of the pools between which frames go.
    pub fn deal_jumbo(pools: &mut [Pool], each: u32) {
        let frames = Region::cut(each * pools.len() as u32, JUMBO);
        let parts = Home::deal(frames, pools.len());
        for (pool, (free, home)) in pools.iter_mut().zip(parts) {
            pool.made += free.len();
            pool.jumbo = Some(Jumbo { made: free.len(), free, home });
        }
    }

    /// Adds so many large frames. They never leave the worker.
    pub fn add_large(&mut self, frames: u32) {
        self.large.extend(Region::cut(frames, LARGE));
        self.made += frames as usize;
    }

    /// An empty frame for a packet of `len` bytes, jumbo or large only where it must be.
    pub fn take_for(&mut self, len: usize) -> Option<Frame> {
        let frame = self.take()?;
        if frame.capacity() >= len {
            return Some(frame);
        }
        self.give(frame);
        match self.take_jumbo() {
            Some(frame) if frame.capacity() >= len => Some(frame),
            other => {
                other.into_iter().for_each(|frame| self.give(frame));
                self.large.pop()
            }
        }
    }

    /// An empty jumbo frame.
    pub fn take_jumbo(&mut self) -> Option<Frame> {
        let jumbo = self.jumbo.as_mut()?;
        if jumbo.free.is_empty() {
            jumbo.home.collect(&mut jumbo.free);
        }
        jumbo.free.pop()
    }

    /// Jumbo frames that are free now.
    pub fn free_jumbo(&self) -> usize {
        self.jumbo.as_ref().map_or(0, |jumbo| jumbo.free.len() + jumbo.home.on_their_way())
    }

    /// Whether one more jumbo frame may be kept for longer than it takes to send it: half of them are for what passes.
    pub fn may_keep(&self, frame: &Frame) -> bool {
        !frame.is_jumbo() || self.jumbo.as_ref().is_some_and(|jumbo| self.free_jumbo() >= jumbo.made / 2)
    }

    /// An empty frame with headroom, where one is free.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty()
            && let Some(home) = &self.home
        {
            home.collect(&mut self.free);
        }
        self.free.pop()
    }

    /// Takes a frame back, or sends it home.
    #[inline]
    pub fn give(&mut self, mut frame: Frame) {
        frame.reset();
        if !frame.is_lendable() {
            return self.give_long(frame);
        }
        match &self.home {
            Some(home) => home.give(frame, &mut self.free),
            None => self.free.push(frame),
        }
    }

    #[cold]
    fn give_long(&mut self, frame: Frame) {
        match &mut self.jumbo {
            Some(jumbo) if frame.is_jumbo() => jumbo.home.give(frame, &mut jumbo.free),
            _ => self.large.push(frame),
        }
    }

    /// Frames free now, with those that lie in the ring home.
    pub fn free(&self) -> usize {
        let home = self.home.as_ref().map_or(0, Home::on_their_way);
        self.free.len() + home + self.free_jumbo() + self.large.len()
    }

    /// Frames that the pool started with: the sum that a census must find.
    pub fn made(&self) -> usize {
        self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_frame_finds_its_way_home() {
        let mut pools = Pool::deal(Region::cut(7, 2048), 3);
        assert_eq!(pools.iter().map(Pool::made).collect::<Vec<_>>(), [2, 2, 3]);
        let mut abroad: Vec<Frame> = Vec::new();
        while let Some(frame) = pools[2].take() {
            abroad.push(frame);
        }
        assert_eq!(pools[2].free(), 0);
        for frame in abroad {
            pools[0].give(frame);
        }
        assert_eq!(pools.iter().map(Pool::free).collect::<Vec<_>>(), [2, 2, 3]);
        assert!(pools[2].take().is_some_and(|frame| frame.index() >= 4));
    }

    #[test]
    fn a_packet_gets_a_large_frame_only_where_it_must_and_that_comes_back_apart() {
        let mut pool = Pool::fresh(1, 2048);
        pool.add_large(1);
        let small = pool.take_for(2048 - HEADROOM).expect("a frame");
        assert!(!small.is_large());
        assert!(pool.take_for(1).is_none(), "large frames are for large packets");
        pool.give(small);
        let mut large = pool.take_for(65_535).expect("a large frame");
        assert!(large.is_large() && large.resize(65_535) && !large.resize(65_536));
        assert!(!large.push_front(1), "lengths have 16 bits");
        assert_eq!((pool.free(), pool.made()), (1, 2));
        pool.give(large);
        assert_eq!(pool.free(), 2);
        assert!(pool.take().is_some_and(|frame| !frame.is_large()));
        assert!(pool.take().is_none());
    }

    #[test]
    fn jumbo_frames_find_home_too_and_half_of_them_are_for_what_passes() {
        let mut pools = Pool::deal(Region::cut(4, 2048), 2);
        pools[1].add_large(1);
        Pool::deal_jumbo(&mut pools, 2);
        let frame = pools[1].take_for(JUMBO_MTU as usize).expect("a jumbo frame");
        assert!(frame.is_jumbo() && !frame.is_lendable() && !frame.is_large());
        assert!(pools[1].may_keep(&frame));
        let other = pools[1].take_for(3000).expect("another");
        assert!(!pools[1].may_keep(&other), "none is left for what passes");
        assert!(pools[1].take_jumbo().is_none());
        assert!(pools[1].take_for(3000).is_some_and(|frame| frame.is_large()), "then a large one");
        pools[0].give(frame);
        pools[0].give(other);
        assert_eq!((pools[0].free_jumbo(), pools[1].free_jumbo()), (2, 2));
        assert!(pools[1].take_jumbo().is_some(), "it has come home");
    }

    #[test]
    fn what_is_appended_stays_within_the_frame() {
        let mut frame = Region::cut(1, 2048).remove(0);
        assert!(frame.set(b"one") && frame.append(b"two"));
        assert!(!frame.append(&[0; 2048 - HEADROOM - 5]));
        assert_eq!(frame.bytes(), b"onetwo");
    }

    #[test]
    fn frames_cannot_be_placed_outside_themselves() {
        let mut frame = Region::cut(1, 2048).remove(0);
        assert!(frame.set(b"kept"));
        assert!(!frame.place(2047, 2));
        assert!(!frame.place(usize::MAX, 2));
        assert_eq!(frame.bytes(), b"kept");
        assert!(frame.place(2047, 1));
        assert_eq!((frame.start(), frame.len()), (2047, 1));
    }

    #[test]
    fn align_restores_the_headroom_and_keeps_the_bytes() {
        let mut frame = Region::cut(1, 2048).remove(0);
        assert!(frame.set(b"..packet"));
        frame.pull_front(2);
        assert!(frame.align());
        assert_eq!((frame.start(), frame.bytes()), (HEADROOM, &b"packet"[..]));
        assert!(frame.push_front(4));
        assert!(frame.align());
        assert_eq!((frame.start(), &frame.bytes()[4..]), (HEADROOM, &b"packet"[..]));
        assert!(frame.place(0, 2048));
        assert!(!frame.align());
        assert_eq!((frame.start(), frame.len()), (0, 2048));
    }
}
