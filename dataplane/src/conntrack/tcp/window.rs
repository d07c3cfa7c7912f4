//! Windows: does a segment lie in what its receiver announced, and does it acknowledge what was sent (`tcp_in_window`)?
//!
//! The bounds are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), with selective
//! acknowledgements. A segment is good when
//!
//! ```text
//!   I    seq        <= the highest that the receiver ever allowed
//!   II   seq + len  >= what its sender has sent, less the receiver's widest window
//!   III  sack       <= what the receiver has sent
//!   IV   sack       >= what the receiver has sent, less the sender's widest window (66000 at least)
//! ```

use super::super::Invalid;
use super::segment::Offer;
use super::{Connection, Kind, Segment, State, after, before};
use sumun_config::facts::Dir;

/// Bits of [`Side::flags`], with the kernel's numbers.
pub(super) mod flag {
    pub const WINDOW_SCALE: u8 = 0x01;
    pub const SACK_PERMITTED: u8 = 0x02;
    /// It was the first to close.
    pub const CLOSE_INIT: u8 = 0x04;
    /// Its segments are not held against its windows.
    pub const BE_LIBERAL: u8 = 0x08;
    /// It sent something that was not acknowledged yet.
    pub const UNACKNOWLEDGED: u8 = 0x10;
    /// [`super::Side::max_ack`] is known.
    pub const MAX_ACK: u8 = 0x20;
}

/// Least distance that an acknowledgement may lag behind.
const MAX_LAG: u32 = 66000;

/// One end of a connection as sender.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Side {
    /// After the highest that it has sent.
    pub end: u32,
    /// The highest that it may send: what the other side acknowledged plus the window of that.
    pub max_end: u32,
    /// The widest window that it ever announced; zero: nothing was seen of it.
    pub max_win: u32,
    /// The highest that it acknowledged.
    pub max_ack: u32,
    /// By what its windows are shifted.
    pub scale: u8,
    pub flags: u8,
}

impl Side {
    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Takes over what a SYN offers. One without any options leaves what was known.
    pub fn take(&mut self, offer: Option<Offer>) {
        let Some(offer) = offer else { return };
        self.scale = offer.scale.unwrap_or(0);
        self.flags = self.flags & flag::BE_LIBERAL | flags_of(offer);
    }

    /// Forgets everything but that windows do not matter.
    pub fn reset(&mut self) {
        *self = Side { flags: self.flags & flag::BE_LIBERAL, ..Side::default() };
    }

    /// A SYN or SYN/ACK of this side begins its sequence numbers.
    fn open(&mut self, other: &mut Side, dir: Dir, seg: &Segment) {
        self.end = seg.end;
        self.max_end = seg.end;
        self.max_win = u32::from(seg.window).max(1);
        self.take(seg.offer());
        // RFC 7323 1.3: both sides must offer scaling, or nobody scales.
        if dir == Dir::Reply && !(self.has(flag::WINDOW_SCALE) && other.has(flag::WINDOW_SCALE)) {
            self.scale = 0;
            other.scale = 0;
        }
    }

    /// How far an acknowledgement of this side may lag.
    #[inline]
    fn lag(&self) -> u32 {
        self.max_win.max(MAX_LAG)
    }
}

/// The flags that say what was offered.
pub(super) fn flags_of(offer: Offer) -> u8 {
    (if offer.scale.is_some() { flag::WINDOW_SCALE } else { 0 }) | (if offer.sack { flag::SACK_PERMITTED } else { 0 })
}

/// What the windows say of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// It is good, or not held against them.
    In,
    /// It is old, or a little too much: let it pass, and believe nothing of it.
    Ignore,
    /// It is not the connection's.
    Out(Invalid),
}

/// Holds a segment against the windows and moves them. `liberal`: none is refused for where it lies.
#[inline]
pub(super) fn fit(c: &mut Connection, dir: Dir, seg: &Segment, liberal: bool) -> Fit {
    let state = c.state;
    let [original, reply] = &mut c.sides;
    let (sender, receiver) = match dir {
        Dir::Original => (original, reply),
        Dir::Reply => (reply, original),
    };
    let (mut seq, mut end, mut ack) = (seg.seq, seg.end, seg.ack);
    let mut sack = if receiver.has(flag::SACK_PERMITTED) { seg.sack() } else { ack };
    (ack, sack) = (ack.wrapping_sub(seg.moved), sack.wrapping_sub(seg.moved));

    if sender.max_win == 0 {
        if seg.is_syn() {
            sender.open(receiver, dir, seg);
            if !seg.has_ack() {
                // Simultaneous open.
                return Fit::In;
            }
        } else {
            learn(sender, receiver, seg, sack);
        }
    } else if seg.is_syn() && after(end, sender.end) && matches!(state, State::SynSent | State::SynRecv) {
        // Another try from higher up: it may differ in everything.
        sender.open(receiver, dir, seg);
        if dir == Dir::Reply && !seg.has_ack() {
            return Fit::In;
        }
    }

    // Some stacks set ACK in a reset and acknowledge nothing.
    if !seg.has_ack() || (seg.is_rst() && ack == 0) {
        ack = receiver.end;
        sack = ack;
    }
    if seg.is_rst() && seq == 0 && state == State::SynSent {
        // Answers a SYN.
        seq = sender.end;
        end = seq;
    }

    let liberal = liberal || sender.has(flag::BE_LIBERAL);
    let refused = |fit| if liberal { Fit::In } else { fit };
    let lowest_ack = receiver.end.wrapping_sub(sender.lag()).wrapping_sub(1);
    let lowest_end = sender.end.wrapping_sub(receiver.max_win).wrapping_sub(1);
    if !before(seq, sender.max_end.wrapping_add(1)) {
        let over = end.wrapping_sub(sender.max_end).wrapping_add(1);
        if receiver.max_win != 0
            && after(end, lowest_end)
            && after(sack, lowest_ack)
            && over <= receiver.max_win
            && before(sack, receiver.end.wrapping_add(1))
        {
            // More than the window, as some send. If it gets through, its acknowledgement must not be refused.
            sender.end = end;
            sender.flags |= flag::UNACKNOWLEDGED;
            return refused(Fit::Ignore);
        }
        return refused(Fit::Out(Invalid::TcpSequence));
    }
    if !before(sack, receiver.end.wrapping_add(1)) {
        return refused(Fit::Out(Invalid::TcpAcknowledgement));
    }
    // Sent again and acknowledged long ago, or an acknowledgement that was long on its way.
    if (receiver.max_win != 0 && !after(end, lowest_end)) || !after(sack, lowest_ack) {
        return refused(Fit::Ignore);
    }

    let window = u32::from(seg.window) << if seg.is_syn() { 0 } else { sender.scale };
    update(sender, receiver, seg, window, end, ack, sack);
    if seg.kind == Kind::Ack {
        c.count_retransmission(dir, seq, ack, end, seg.window);
    }
    Fit::In
}

/// In the middle of a connection: makes the best of a segment.
#[cold]
fn learn(sender: &mut Side, receiver: &mut Side, seg: &Segment, sack: u32) {
    sender.end = seg.end;
    sender.max_win = (u32::from(seg.window) << sender.scale).max(1);
    sender.max_end = seg.end.wrapping_add(sender.max_win);
    if receiver.max_win == 0 {
        // Nothing seen of it: let III and IV pass until then.
        receiver.end = sack;
        receiver.max_end = sack;
    } else if sack == receiver.end.wrapping_add(1) {
        // Most likely the answer to a keep-alive.
        receiver.end = sack;
    }
}

/// Moves the windows by a good segment.
#[inline]
fn update(sender: &mut Side, receiver: &mut Side, seg: &Segment, window: u32, end: u32, ack: u32, sack: u32) {
    sender.max_win = sender.max_win.max(window.wrapping_add(sack.wrapping_sub(ack)));
    if after(end, sender.end) {
        sender.end = end;
        sender.flags |= flag::UNACKNOWLEDGED;
    }
    if seg.has_ack() && (!sender.has(flag::MAX_ACK) || after(ack, sender.max_ack)) {
        sender.max_ack = ack;
        sender.flags |= flag::MAX_ACK;
    }
    if receiver.max_win != 0 && after(end, sender.max_end) {
        receiver.max_win = receiver.max_win.wrapping_add(end.wrapping_sub(sender.max_end));
    }
    let allowed = sack.wrapping_add(window);
    if after(allowed, receiver.max_end.wrapping_sub(1)) {
        // A window of zero lets one byte pass: a probe.
        receiver.max_end = allowed.wrapping_add(u32::from(window == 0));
    }
    if ack == receiver.end {
        receiver.flags &= !flag::UNACKNOWLEDGED;
    }
}
