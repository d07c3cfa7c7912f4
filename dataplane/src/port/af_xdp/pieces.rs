//! Packets that are longer than a frame of the UMEM: how do they come in and go out in pieces?
//!
//! The kernel writes such a packet into several frames and marks all but the last as continued (XDP_PKT_CONTD); it takes
//! one for sending in the same way. The engine sees packets in one piece: here they are copied into a jumbo frame when they
//! come in, and out of it when they go. A packet that cannot be put together ends as a whole, with a reason; none goes on
//! in part.

use crate::reason::DropReason;
use crate::umem::{Frame, Pool};

/// A packet that ended here, in part or whole.
pub(super) type Lost = (DropReason, Frame);

/// The packet that a queue is receiving.
#[derive(Debug, Default)]
pub(super) enum Gathering {
    /// None: the next piece is a first one.
    #[default]
    Nothing,
    /// Its beginning.
    Begun(Frame),
    /// Something of a packet that has ended already.
    Ended(Lost),
}

impl Gathering {
    /// Takes the next piece, and whether more of its packet follow. With its last piece the packet comes back, or its end. Frames
    /// that are not needed any more go to the pool.
    pub(super) fn add(&mut self, piece: Frame, is_continued: bool, pool: &mut Pool) -> Option<Result<Frame, Lost>> {
        *self = match std::mem::take(self) {
            Gathering::Nothing if !is_continued => return Some(Ok(piece)),
            Gathering::Nothing => match pool.take_jumbo() {
                Some(whole) => Gathering::Begun(whole).joined(piece, pool),
                None => Gathering::Ended((DropReason::NoFrame, piece)),
            },
            begun => begun.joined(piece, pool),
        };
        if is_continued {
            return None;
        }
        match std::mem::take(self) {
            Gathering::Nothing => None,
            Gathering::Begun(whole) => Some(Ok(whole)),
            Gathering::Ended(lost) => Some(Err(lost)),
        }
    }

    /// With one more piece.
    fn joined(self, piece: Frame, pool: &mut Pool) -> Gathering {
        let next = match self {
            Gathering::Begun(mut whole) => match whole.append(piece.bytes()) {
                true => Gathering::Begun(whole),
                false => Gathering::Ended((DropReason::FrameTooLong, whole)),
            },
            other => other,
        };
        pool.give(piece);
        next
    }

    /// Frames held, for the census.
    pub(super) fn held(&self) -> usize {
        match self {
            Gathering::Nothing => 0,
            Gathering::Begun(_) | Gathering::Ended(_) => 1,
        }
    }
}

/// Copies a packet into frames of the UMEM, in order, appended to `out`. False where the pool has too few, and nothing is done.
#[must_use]
pub(super) fn scatter(packet: &[u8], pool: &mut Pool, out: &mut Vec<Frame>) -> bool {
    let (before, mut left) = (out.len(), packet);
    while !left.is_empty() {
        let Some(mut frame) = pool.take() else {
            out.drain(before..).for_each(|frame| pool.give(frame));
            return false;
        };
        let (piece, rest) = left.split_at(left.len().min(frame.capacity()));
        let fits = frame.set(piece);
        debug_assert!(fits);
        out.push(frame);
        left = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::{HEADROOM, JUMBO, Region};

    const ROOM: usize = 2048 - HEADROOM;

    fn pool(frames: u32, jumbo: u32) -> Pool {
        let mut pools = Pool::deal(Region::cut(frames, 2048), 1);
        Pool::deal_jumbo(&mut pools, jumbo);
        pools.remove(0)
    }

    fn packet(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    /// Adds a packet's pieces one by one; what the last one brings.
    fn gather(gathering: &mut Gathering, pieces: Vec<Frame>, pool: &mut Pool) -> Result<Frame, Lost> {
        let last = pieces.len() - 1;
        let mut ended = None;
        for (number, piece) in pieces.into_iter().enumerate() {
            assert!(ended.is_none());
            ended = gathering.add(piece, number < last, pool);
        }
        ended.expect("the last piece ends it")
    }

    #[test]
    fn what_is_scattered_comes_together_again() {
        let mut pool = pool(8, 1);
        for len in [1, 60, ROOM, ROOM + 1, 9018, JUMBO as usize - HEADROOM] {
            let (mut pieces, mut gathering) = (Vec::new(), Gathering::default());
            assert!(scatter(&packet(len), &mut pool, &mut pieces));
            assert_eq!(pieces.len(), len.div_ceil(ROOM));
            let whole = gather(&mut gathering, pieces, &mut pool).expect("whole");
            assert_eq!((whole.bytes(), whole.is_jumbo()), (&packet(len)[..], len > ROOM));
            pool.give(whole);
            assert_eq!((pool.free(), gathering.held()), (pool.made(), 0));
        }
    }

    #[test]
    fn a_packet_is_scattered_whole_or_not_at_all() {
        let mut pool = pool(5, 0);
        let mut out = Vec::new();
        assert!(!scatter(&packet(9018), &mut pool, &mut out));
        assert_eq!((out.len(), pool.free()), (0, 5));
        assert!(scatter(&packet(5 * ROOM), &mut pool, &mut out));
    }

    #[test]
    fn a_packet_with_too_many_pieces_ends_and_the_next_one_is_whole() {
        let mut pool = pool(12, 1);
        let (mut pieces, mut gathering) = (Vec::new(), Gathering::default());
        assert!(scatter(&packet(11 * ROOM), &mut pool, &mut pieces));
        let (reason, frame) = gather(&mut gathering, pieces, &mut pool).expect_err("too long");
        assert_eq!(reason, DropReason::FrameTooLong);
        assert_eq!(pool.free() + 1, pool.made());
        pool.give(frame);
        let mut pieces = Vec::new();
        assert!(scatter(&packet(4000), &mut pool, &mut pieces));
        assert!(gather(&mut gathering, pieces, &mut pool).is_ok_and(|whole| whole.bytes() == packet(4000)));
    }

    #[test]
    fn without_a_jumbo_frame_the_whole_packet_ends() {
        let mut pool = pool(12, 1);
        let kept = pool.take_jumbo().expect("one");
        let (mut pieces, mut gathering) = (Vec::new(), Gathering::default());
        assert!(scatter(&packet(9018), &mut pool, &mut pieces));
        let (reason, frame) = gather(&mut gathering, pieces, &mut pool).expect_err("no frame");
        assert_eq!((reason, frame.is_lendable()), (DropReason::NoFrame, true));
        pool.give(frame);
        let short = pool.take().expect("a frame");
        assert!(matches!(gathering.add(short, false, &mut pool), Some(Ok(_))), "the next packet is another one");
        drop(kept);
    }

    #[test]
    fn a_packet_that_is_not_all_there_yet_is_held() {
        let mut pool = pool(12, 1);
        let (mut pieces, mut gathering) = (Vec::new(), Gathering::default());
        assert!(scatter(&packet(9018), &mut pool, &mut pieces));
        for piece in pieces {
            assert!(gathering.add(piece, true, &mut pool).is_none());
            assert_eq!((gathering.held(), pool.free() < pool.made()), (1, true));
        }
    }
}
