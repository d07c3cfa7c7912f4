//! One AF_XDP socket: the four rings of a device's queue.
//!
//! The kernel is lent frames through the fill ring (to receive into) and the tx ring (to send); it gives them back through
//! the rx and completion rings. What is given back is an address; the token of its frame waits in a slot table by the
//! frame's number. An address whose slot is empty was never lent: it is counted and left alone.
//!
//! xsk-rs can describe a frame only as starting where its UMEM put it, after [`crate::umem::HEADROOM`] bytes, which is
//! where the kernel puts received packets too. So a packet that starts elsewhere is moved within its frame before it is
//! sent: those with a longer or shorter header only, never what is merely forwarded.
//!
//! Where a port has jumbo packets, all queues receive and send in pieces ([`super::pieces`]): [`Queue::receive_pieces`] and
//! [`Queue::send_pieces`] take the place of their plain counterparts, which know nothing of it.

#![allow(unsafe_code, reason = "the rings of xsk-rs trust their caller on which frames are lent")]

use super::pieces::{Gathering, Lost, scatter};
use crate::umem::{Frame, HEADROOM, Pool};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

/// Most descriptors moved between a ring and the slots at once.
const BATCH: usize = 64;

/// Turns of waking the kernel without any progress after which a flush gives up. It is tried again on the next turn of the
/// worker's loop.
const FRUITLESS: u32 = 3;

/// Mark of a piece that is not the last of its packet: `XDP_PKT_CONTD` of linux/if_xdp.h.
const CONTINUED: u32 = 1;

/// Most pieces of a packet that is sent: more than the longest jumbo frame makes, fewer than any kernel refuses.
const MOST_PIECES: usize = 8;

/// With fewer free jumbo frames a queue is not asked for more, until what was received has been sent: as many as a batch of
/// descriptors can be packets.
const ENOUGH_JUMBO: usize = BATCH / 2;

/// Calls for which it is not asked then; after that what is missing is missing.
const PATIENCE: u8 = 4;

/// Frames that the kernel has, by their number.
pub(super) struct Slots {
    slots: Vec<Option<Frame>>,
    lent: usize,
    frame_size: usize,
    /// Addresses that the kernel gave back though they were not lent.
    pub(super) strays: u64,
}

impl Slots {
    pub(super) fn new(frames: u32, frame_size: u32) -> Slots {
        let mut slots = Vec::new();
        slots.resize_with(frames as usize, || None);
        Slots { slots, lent: 0, frame_size: frame_size as usize, strays: 0 }
    }

    #[inline]
    fn lend(&mut self, frame: Frame) {
        let slot = &mut self.slots[frame.index() as usize];
        debug_assert!(slot.is_none(), "a token is unique");
        *slot = Some(frame);
        self.lent += 1;
    }

    /// The token of the frame that this address lies in, and where in the frame.
    #[inline]
    fn back(&mut self, address: usize) -> Option<(Frame, usize)> {
        let frame = self.slots.get_mut(address / self.frame_size).and_then(Option::take);
        match frame {
            Some(frame) => {
                self.lent -= 1;
                Some((frame, address % self.frame_size))
            }
            None => {
                self.strays += 1;
                None
            }
        }
    }

    pub(super) fn lent(&self) -> usize {
        self.lent
    }
}

/// How large the rings of a queue are.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Entries of the fill ring.
    pub(super) fill: u32,
    /// Frames kept in the fill ring.
    pub(super) level: u32,
    /// Entries of the tx ring.
    pub(super) tx: u32,
}

/// Whether the kernel would refuse a packet that it is to take in pieces.
fn is_unsendable(frame: &Frame, slots: &Slots) -> bool {
    frame.is_empty() || frame.len() > MOST_PIECES * (slots.frame_size - HEADROOM)
}

/// The rings of one queue.
pub(super) struct Queue {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// The same socket once more, for whoever asks it what it counted.
    socket: Arc<OwnedFd>,
    umem: Umem,
    sizes: Sizes,
    /// Packets that cannot be sent, until the next flush.
    refused: Vec<Frame>,
    /// The packet that is being received in pieces.
    gathering: Gathering,
    /// Calls that found too few jumbo frames, in a row.
    short: u8,
    /// The packet that is being sent in pieces; empty between calls.
    pieces: Vec<Frame>,
    /// Frames in the tx ring, taken by the kernel or not, that have not come back.
    sending: usize,
    batch: [FrameDesc; BATCH],
    /// Wake-ups that failed for another reason than that the kernel is busy.
    pub(super) failures: u64,
    /// Packets that were empty or too long to send.
    pub(super) unsendable: u64,
}

impl Queue {
    pub(super) fn new(
        rings: (TxQueue, RxQueue, FillQueue, CompQueue),
        socket: Arc<OwnedFd>,
        umem: Umem,
        sizes: Sizes,
    ) -> Queue {
        let (tx, rx, fill, completion) = rings;
        Queue {
            rx,
            tx,
            fill,
            completion,
            socket,
            umem,
            sizes,
            refused: Vec::with_capacity(sizes.tx as usize),
            gathering: Gathering::Nothing,
            short: 0,
            pieces: Vec::with_capacity(BATCH),
            sending: 0,
            batch: [FrameDesc::default(); BATCH],
            failures: 0,
            unsendable: 0,
        }
    }

    /// The socket.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is closed when the last of its rings is dropped, so not while `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// The socket, for who asks it and keeps no hold on it.
    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Appends up to `most` received packets to `rx`.
    pub(super) fn receive(&mut self, slots: &mut Slots, rx: &mut Vec<Frame>, most: usize) -> usize {
        let batch = &mut self.batch[..most.min(BATCH)];
        // SAFETY: the socket belongs to the one UMEM that all frames are from; the descriptors are only written.
        let n = unsafe { self.rx.consume(batch) };
        for descriptor in &batch[..n] {
            if let Some((mut frame, start)) = slots.back(descriptor.addr()) {
                if !frame.place(start, descriptor.lengths().data()) {
                    slots.strays += 1;
                    frame.reset();
                }
                rx.push(frame);
            }
        }
        n
    }

    /// As [`Queue::receive`], of a socket whose packets may come in pieces. Those that end here are appended to `lost`.
    pub(super) fn receive_pieces(
        &mut self,
        slots: &mut Slots,
        pool: &mut Pool,
        rx: &mut Vec<Frame>,
        lost: &mut Vec<Lost>,
        most: usize,
    ) -> usize {
        let mut packets = 0;
        while packets < most {
            if pool.free_jumbo() < ENOUGH_JUMBO && self.short < PATIENCE {
                self.short += 1;
                break;
            }
            self.short = 0;
            let wanted = BATCH.min(most - packets);
            // SAFETY: as in `receive`.
            let n = unsafe { self.rx.consume(&mut self.batch[..wanted]) };
            for descriptor in &self.batch[..n] {
                let Some((mut frame, start)) = slots.back(descriptor.addr()) else { continue };
                if !frame.place(start, descriptor.lengths().data()) {
                    slots.strays += 1;
                    frame.reset();
                }
                match self.gathering.add(frame, descriptor.has_more_frames(), pool) {
                    None => continue,
                    Some(Ok(whole)) => rx.push(whole),
                    Some(Err(end)) => lost.push(end),
                }
                packets += 1;
            }
            if n < wanted {
                break;
            }
        }
        packets
    }

    /// Gives the kernel empty frames until the fill ring is full, and wakes the driver where it asks for it.
    pub(super) fn refill(&mut self, slots: &mut Slots, descriptors: &[FrameDesc], pool: &mut Pool) {
        let missing = self.sizes.level.saturating_sub(self.sizes.fill - self.fill.nb_free(self.sizes.fill)) as usize;
        // A ring that is nearly full is left alone: one store to it for each packet would cost more than it brings.
        if missing >= BATCH.min(self.sizes.level as usize / 2) {
            let mut left = missing;
            while left > 0 {
                let mut n = 0;
                while n < left.min(BATCH) {
                    let Some(frame) = pool.take() else { break };
                    self.batch[n] = descriptors[frame.index() as usize];
                    slots.lend(frame);
                    n += 1;
                }
                if n == 0 {
                    break;
                }
                // SAFETY: these frames' tokens lie in the slots from now on, so nobody touches their bytes until the
                // kernel has given them back. There is room for all of them, as asked above.
                let taken = unsafe { self.fill.produce(&self.batch[..n]) };
                debug_assert_eq!(taken, n);
                left -= n;
            }
        }
        if self.fill.needs_wakeup() && self.fill.wakeup(self.rx.fd_mut(), 0).is_err() {
            self.failures += 1;
        }
    }

    /// Moves packets from the front of `tx` into the ring while it has room.
    pub(super) fn send(&mut self, slots: &mut Slots, descriptors: &[FrameDesc], tx: &mut Vec<Frame>) {
        let room = self.tx.nb_free(tx.len() as u32) as usize;
        let count = room.min(tx.len());
        let mut frames = tx.drain(..count);
        while frames.len() > 0 {
            let mut n = 0;
            for mut frame in frames.by_ref().take(BATCH) {
                // What the kernel would refuse it would also not give back: no bytes, or more than fit behind the headroom,
                // which is more than any MTU that was accepted when the port was opened.
                if frame.is_empty() || !frame.align() {
                    self.refused.push(frame);
                    continue;
                }
                self.batch[n] = self.describe(descriptors, &frame);
                slots.lend(frame);
                n += 1;
            }
            self.produce(n);
        }
    }

    /// As [`Queue::send`], of a socket that takes packets in pieces. A packet goes whole or stays, with all behind it.
    pub(super) fn send_pieces(
        &mut self,
        slots: &mut Slots,
        descriptors: &[FrameDesc],
        tx: &mut Vec<Frame>,
        pool: &mut Pool,
    ) {
        let mut room = self.tx.nb_free(self.sizes.tx) as usize;
        let mut count = 0;
        for frame in tx.iter_mut() {
            let before = self.pieces.len();
            let entries = if is_unsendable(frame, slots) {
                0
            } else if frame.is_lendable() && frame.align() {
                1
            } else if scatter(frame.bytes(), pool, &mut self.pieces) {
                self.pieces.len() - before
            } else {
                break;
            };
            if entries > room {
                self.pieces.drain(before..).for_each(|piece| pool.give(piece));
                break;
            }
            room -= entries;
            count += 1;
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut scattered = pieces.drain(..);
        let mut n = 0;
        for frame in tx.drain(..count) {
            if n + MOST_PIECES > BATCH {
                self.produce(n);
                n = 0;
            }
            if is_unsendable(&frame, slots) {
                self.refused.push(frame);
                continue;
            }
            if frame.is_lendable() && frame.start() == HEADROOM {
                self.batch[n] = self.describe(descriptors, &frame);
                slots.lend(frame);
                n += 1;
                continue;
            }
            let mut left = frame.len();
            while left > 0
                && let Some(piece) = scattered.next()
            {
                left -= piece.len().min(left);
                let mut descriptor = self.describe(descriptors, &piece);
                descriptor.set_options(if left > 0 { CONTINUED } else { 0 });
                self.batch[n] = descriptor;
                slots.lend(piece);
                n += 1;
            }
            pool.give(frame);
        }
        self.produce(n);
        debug_assert!(scattered.next().is_none());
        drop(scattered);
        self.pieces = pieces;
    }

    /// How xsk-rs describes the packet in a frame that is aligned.
    fn describe(&self, descriptors: &[FrameDesc], frame: &Frame) -> FrameDesc {
        let mut descriptor = descriptors[frame.index() as usize];
        // SAFETY: the descriptor is of this frame, whose token the caller has: nobody else reaches its bytes.
        let (_, mut data) = unsafe { self.umem.frame_mut(&mut descriptor) };
        data.cursor().set_pos(frame.len());
        descriptor
    }

    /// Puts the first `n` descriptors of the batch, for which there is room, into the tx ring.
    fn produce(&mut self, n: usize) {
        // SAFETY: these frames' tokens lie in the slots from now on, as in `refill`.
        let taken = unsafe { self.tx.produce(&self.batch[..n]) };
        debug_assert_eq!(taken, n);
        self.sending += n;
    }

    /// Wakes the kernel until it has taken all that is in the tx ring or does not get on, and returns sent frames to the pool.
    ///
    /// In copy mode one wake-up sends at most 32 frames (TX_BATCH_SIZE in net/xdp/xsk.c) and then says EAGAIN.
    pub(super) fn flush(&mut self, slots: &mut Slots, pool: &mut Pool) {
        for frame in self.refused.drain(..) {
            self.unsendable += 1;
            pool.give(frame);
        }
        if self.sending == 0 {
            return;
        }
        let mut waiting = self.waiting();
        let mut fruitless = 0;
        while waiting > 0 && fruitless < FRUITLESS {
            if self.tx.needs_wakeup() && self.tx.wakeup().is_err() {
                self.failures += 1;
                break;
            }
            self.complete(slots, pool);
            let now = self.waiting();
            fruitless = if now < waiting { 0 } else { fruitless + 1 };
            waiting = now;
        }
        self.complete(slots, pool);
    }

    /// Frames in the tx ring that the kernel has not taken yet.
    fn waiting(&mut self) -> u32 {
        self.sizes.tx.saturating_sub(self.tx.nb_free_exact())
    }

    fn complete(&mut self, slots: &mut Slots, pool: &mut Pool) {
        loop {
            // SAFETY: as in `receive`.
            let n = unsafe { self.completion.consume(&mut self.batch) };
            for descriptor in &self.batch[..n] {
                if let Some((frame, _)) = slots.back(descriptor.addr()) {
                    pool.give(frame);
                }
            }
            self.sending = self.sending.saturating_sub(n);
            if n < BATCH {
                return;
            }
        }
    }

    /// Frames that are neither lent nor elsewhere: of a packet that is not all there, and of packets that cannot be sent.
    pub(super) fn held(&self) -> usize {
        self.refused.len() + self.gathering.held()
    }

    /// Whether frames are on their way.
    pub(super) fn is_sending(&self) -> bool {
        self.sending > 0
    }
}
