//! The fragments of one packet, in order of their places, and the rules for one more (`inet_frag_queue_insert`).
//!
//! As in the kernel, a fragment that lies within a *run* is a duplicate and ends alone: a run is what came in order, each
//! fragment behind the one before. Any other overlap ends the packet, even if all its bytes are known from two runs.

use super::Key;
use super::piece::Fragment;
use crate::packet::fragment::MOST_PIECES;
use crate::umem::Frame;
use sumun_config::facts::{Facts, Family};

/// No piece, no queue.
pub(super) const NONE: u32 = u32::MAX;

/// One fragment in line.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Its frame and where the IP header starts in it; none for the fragment that completed the packet.
    frame: Option<(Frame, u16)>,
    /// Place of its data.
    pub start: u32,
    end: u32,
    /// Bytes in front of its data, from the IP header.
    pub skip: u16,
    /// Not in order behind the one before it.
    starts_run: bool,
    next: u32,
}

impl Piece {
    /// Bytes of its data.
    pub fn size(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// All pieces of a worker, of fixed number.
#[derive(Debug)]
pub(super) struct Pieces {
    all: Box<[Piece]>,
    free: Vec<u32>,
}

/// The fragments of a packet so far.
#[derive(Debug)]
pub(super) struct Queue {
    pub key: Option<Key>,
    /// Nanoseconds.
    pub deadline: u64,
    pub older: u32,
    pub younger: u32,
    /// Fragments that the sender had sent when the last one of this queue came.
    pub sender_count: u32,
    /// What is known of the first fragment, once it has come.
    pub head: Facts,
    pub has_first: bool,
    has_last: bool,
    /// Bytes of data as far as known.
    pub len: u32,
    /// Bytes of data that are there.
    meat: u32,
    /// Largest fragment.
    pub largest: u16,
    /// Largest with DF.
    pub largest_unfragmentable: u16,
    pub header_len: u16,
    pub named_at: u16,
    pub next_header: u8,
    /// ECN fields seen, one bit each.
    ecn_seen: u8,
    pieces: u16,
    head_piece: u32,
    tail_piece: u32,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            key: None,
            deadline: 0,
            older: NONE,
            younger: NONE,
            sender_count: 0,
            head: Facts::blank(Family::V4),
            has_first: false,
            has_last: false,
            len: 0,
            meat: 0,
            largest: 0,
            largest_unfragmentable: 0,
            header_len: 0,
            named_at: 0,
            next_header: 0,
            ecn_seen: 0,
            pieces: 0,
            head_piece: NONE,
            tail_piece: NONE,
        }
    }
}

/// What became of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Added {
    /// It is in line, as this piece.
    At(u32),
    /// All of it was there.
    Known,
    Overlaps,
    /// It has no data, or data beyond the last fragment's, or another end than it.
    Contradicts,
    /// The packet has as many fragments as it may.
    Full,
}

impl Queue {
    /// No fragment has come yet.
    pub fn restart(&mut self, deadline: u64) {
        let Queue { key, older, younger, sender_count, .. } = *self;
        *self = Queue { key, deadline, older, younger, sender_count, ..Queue::default() };
    }

    /// All data is there.
    pub fn is_whole(&self) -> bool {
        self.has_first && self.has_last && self.meat == self.len
    }

    /// Whether any fragment is in line.
    pub fn holds_any(&self) -> bool {
        self.tail_piece != NONE
    }

    /// The first piece in line.
    pub fn first(&self) -> u32 {
        self.head_piece
    }

    /// Bits that the ECN field of the whole gets (`ip_frag_ecn_table`, RFC 3168 section 5.3): congestion on any is
    /// congestion on all. None where ECN-capable fragments are mixed with others.
    pub fn ecn(&self) -> Option<u8> {
        const NOT_CAPABLE: u8 = 1;
        const CONGESTION: u8 = 1 << 3;
        match self.ecn_seen {
            seen if seen & NOT_CAPABLE != 0 && seen != NOT_CAPABLE => None,
            seen if seen & CONGESTION != 0 && seen != CONGESTION => Some(3),
            _ => Some(0),
        }
    }

    /// Puts a fragment in its place.
    pub fn add(&mut self, fragment: &Fragment, facts: &Facts, pieces: &mut Pieces) -> Added {
        let Fragment { start, end, .. } = *fragment;
        if !fragment.more {
            if end < self.len || (self.has_last && end != self.len) {
                return Added::Contradicts;
            }
            self.has_last = true;
            self.len = end;
        } else if end > self.len {
            if self.has_last {
                return Added::Contradicts;
            }
            self.len = end;
        }
        if end == start {
            return Added::Contradicts;
        }
        let (before, after, starts_run) = match self.find_place(start, end, pieces) {
            Ok(place) => place,
            Err(added) => return added,
        };
        if usize::from(self.pieces) == MOST_PIECES {
            return Added::Full;
        }
        let piece = Piece { frame: None, start, end, skip: fragment.skip, starts_run, next: after };
        let Some(at) = pieces.take(piece) else { return Added::Full };
        match before {
            NONE => self.head_piece = at,
            before => pieces.all[before as usize].next = at,
        }
        if after == NONE {
            self.tail_piece = at;
        }
        self.pieces += 1;
        self.meat += end - start;
        self.ecn_seen |= 1 << fragment.ecn;
        self.largest = self.largest.max(fragment.size);
        if fragment.dont_frag {
            self.largest_unfragmentable = self.largest_unfragmentable.max(fragment.size);
        }
        if start == 0 {
            self.has_first = true;
            self.head = *facts;
            self.header_len = fragment.header_len;
            self.named_at = fragment.named_at;
            self.next_header = fragment.next_header;
        }
        Added::At(at)
    }

    /// Between which pieces it goes, and whether it starts a run there.
    fn find_place(&self, start: u32, end: u32, pieces: &Pieces) -> Result<(u32, u32, bool), Added> {
        let Some(tail) = pieces.all.get(self.tail_piece as usize) else { return Ok((NONE, NONE, true)) };
        if tail.end < end {
            return match start.cmp(&tail.end) {
                std::cmp::Ordering::Less => Err(Added::Overlaps),
                std::cmp::Ordering::Equal => Ok((self.tail_piece, NONE, false)),
                std::cmp::Ordering::Greater => Ok((self.tail_piece, NONE, true)),
            };
        }
        let (mut before, mut at) = (NONE, self.head_piece);
        while at != NONE {
            let run_start = pieces.all[at as usize].start;
            if end <= run_start {
                return Ok((before, at, true));
            }
            let mut last = at;
            while let Some(next) = pieces.following_of_run(last) {
                last = next;
            }
            let run_end = pieces.all[last as usize].end;
            if start < run_end {
                return Err(if start >= run_start && end <= run_end { Added::Known } else { Added::Overlaps });
            }
            before = last;
            at = pieces.all[last as usize].next;
        }
        Ok((before, NONE, true))
    }

    /// Takes the first piece out of line: its frame, where it has one. None when there is no piece.
    pub fn pop(&mut self, pieces: &mut Pieces) -> Option<Option<(Frame, u16)>> {
        let at = self.head_piece;
        if at == NONE {
            return None;
        }
        let piece = std::mem::take(&mut pieces.all[at as usize]);
        pieces.free.push(at);
        self.head_piece = piece.next;
        if piece.next == NONE {
            self.tail_piece = NONE;
        }
        self.pieces -= 1;
        Some(piece.frame)
    }
}

impl Pieces {
    /// So many, all free.
    pub fn new(most: usize) -> Pieces {
        // One more than frames are held: the fragment that completes a packet is never held.
        let most = most + 1;
        Pieces { all: (0..most).map(|_| Piece::default()).collect(), free: (0..most as u32).rev().collect() }
    }

    fn take(&mut self, piece: Piece) -> Option<u32> {
        let at = self.free.pop()?;
        self.all[at as usize] = piece;
        Some(at)
    }

    /// Gives a piece its frame.
    pub fn put(&mut self, at: u32, frame: Frame, l3: u16) {
        self.all[at as usize].frame = Some((frame, l3));
    }

    /// The IP packet of a held piece.
    pub fn l3(&self, at: u32) -> &[u8] {
        let frame = self.all.get(at as usize).and_then(|piece| piece.frame.as_ref());
        frame.and_then(|(frame, l3)| frame.bytes().get(*l3 as usize..)).unwrap_or_default()
    }

    /// The pieces of a queue in order.
    pub fn of<'a>(&'a self, queue: &Queue) -> impl Iterator<Item = (u32, &'a Piece)> {
        let mut at = queue.head_piece;
        std::iter::from_fn(move || {
            let piece = self.all.get(at as usize)?;
            Some((std::mem::replace(&mut at, piece.next), piece))
        })
    }

    /// Whether no piece is in line anywhere.
    #[cfg(test)]
    pub fn are_all_free(&self) -> bool {
        self.free.len() == self.all.len()
    }

    fn following_of_run(&self, at: u32) -> Option<u32> {
        let next = self.all[at as usize].next;
        (next != NONE && !self.all[next as usize].starts_run).then_some(next)
    }
}
