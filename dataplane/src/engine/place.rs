//! Where the packet at work stands: packets are large to move.
//!
//! A place always holds a packet. While it is free, that is a hollow one: its frame belongs to nobody and no memory.

use super::packet::Packet;
use crate::umem::{Frame, Region};
use sumun_config::facts::{Facts, Family};

/// Bytes of the hollow frame; nobody writes into it.
const HOLLOW: u32 = 2048;

/// A place for one packet.
pub(super) struct Place {
    packet: Packet,
    /// The hollow frame while the place is taken.
    hollow: Option<Frame>,
    /// Since it was new nothing was written to the packet but its frame, what is known of it, its flow and its way.
    is_plain: bool,
}

impl Place {
    /// A free place.
    pub fn new() -> Place {
        let [frame] = Region::cut(1, HOLLOW).try_into().expect("one frame was cut");
        Place { packet: Packet::new(frame, Facts::blank(Family::V4), 0), hollow: None, is_plain: true }
    }

    /// Puts a packet into the free place, of which nothing is known yet.
    #[inline(always)]
    pub fn put(&mut self, frame: Frame) -> &mut Packet {
        debug_assert!(self.hollow.is_none(), "a packet was left");
        self.hollow = Some(std::mem::replace(&mut self.packet.frame, frame));
        self.packet.renew();
        self.is_plain = false;
        &mut self.packet
    }

    /// Exchanges a packet's frame for the hollow one, to look at a packet that is as it came: what is known of it, its flow and its
    /// way are those of the one before it, and to be replaced. The frame is exchanged back, or the hollow one [kept](Place::keep).
    #[inline(always)]
    pub fn lend(&mut self, frame: &mut Frame) -> &mut Packet {
        debug_assert!(self.hollow.is_none(), "a packet was left");
        std::mem::swap(&mut self.packet.frame, frame);
        if !self.is_plain {
            self.packet.renew();
            self.is_plain = true;
        }
        &mut self.packet
    }

    /// The packet that was lent the place stays there: what its frame was exchanged for.
    pub fn keep(&mut self, hollow: Frame) {
        self.hollow = Some(hollow);
        self.is_plain = false;
    }

    /// The packet.
    #[inline(always)]
    pub fn packet(&mut self) -> &mut Packet {
        &mut self.packet
    }

    /// Takes the frame out of the packet that stands there, which has come to its end.
    #[inline(always)]
    pub fn take_frame(&mut self) -> Option<Frame> {
        Some(std::mem::replace(&mut self.packet.frame, self.hollow.take()?))
    }

    /// Takes the packet out that stands there.
    #[inline(never)]
    pub fn take(&mut self) -> Option<Packet> {
        let hollow = Packet::new(self.hollow.take()?, Facts::blank(Family::V4), 0);
        Some(std::mem::replace(&mut self.packet, hollow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_there_is_taken_out_once() {
        let mut frames = Region::cut(2, 2048);
        let mut place = Place::new();
        assert!(place.take_frame().is_none() && place.take().is_none());
        for text in [b"a", b"b"] {
            let mut frame = frames.pop().expect("two were cut");
            assert!(frame.set(text));
            place.put(frame).l3 = 1;
            let frame = match text {
                b"a" => place.take_frame(),
                _ => place.take().map(|packet| packet.frame),
            };
            assert_eq!(frame.expect("it is there").bytes(), text);
        }
        assert_eq!(place.put(Region::cut(1, 2048).remove(0)).l3, 0);
    }

    #[test]
    fn what_is_lent_the_place_is_plain_and_stays_only_where_it_is_kept() {
        let mut frames = Region::cut(3, 2048);
        let mut place = Place::new();
        let mut next = |text: &[u8]| {
            let mut frame = frames.pop().expect("three were cut");
            assert!(frame.set(text));
            frame
        };
        place.put(next(b"a")).priority = 7;
        assert!(place.take_frame().is_some());
        let mut frame = next(b"b");
        let p = place.lend(&mut frame);
        assert_eq!((p.frame.bytes(), p.priority), (&b"b"[..], 0));
        std::mem::swap(&mut p.frame, &mut frame);
        assert!(frame.bytes() == b"b" && place.take().is_none());
        let mut frame = next(b"c");
        place.lend(&mut frame);
        place.keep(frame);
        assert_eq!(place.take().expect("it was kept").frame.bytes(), b"c");
    }
}
