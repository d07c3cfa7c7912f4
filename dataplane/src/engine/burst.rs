//! The packets that are worked on together, each where it stands: packets are large to move.
//!
//! A place always holds a packet. While it is free, that is a hollow one: its frame belongs to nobody and no memory.

use super::packet::Packet;
use crate::umem::{Frame, Pool};
use sumun_config::facts::{Facts, Family};

/// Bytes of a hollow frame; nobody writes into it.
const HOLLOW: u32 = 2048;

/// Places for packets, of which the first ones are taken.
#[derive(Default)]
pub(super) struct Burst {
    places: Vec<Packet>,
    taken: usize,
    /// Hollow frames of the places that are taken.
    hollow: Vec<Frame>,
}

impl Burst {
    /// So many places.
    pub fn new(places: usize) -> Burst {
        let mut pool = Pool::fresh(places as u32, HOLLOW);
        let hollow = std::iter::from_fn(|| pool.take());
        let places: Vec<Packet> = hollow.map(|frame| Packet::new(frame, Facts::blank(Family::V4), 0)).collect();
        Burst { taken: 0, hollow: Vec::with_capacity(places.len()), places }
    }

    /// Takes a place for a packet of which nothing is known yet; the frame again where none is free.
    #[inline(always)]
    pub fn add(&mut self, frame: Frame) -> Result<&mut Packet, Frame> {
        let Some(place) = self.places.get_mut(self.taken) else { return Err(frame) };
        self.taken += 1;
        self.hollow.push(std::mem::replace(&mut place.frame, frame));
        place.renew();
        Ok(place)
    }

    /// Frees the place that was taken last.
    pub fn take_back(&mut self) -> Option<Frame> {
        self.taken = self.taken.checked_sub(1)?;
        Some(std::mem::replace(&mut self.places[self.taken].frame, self.hollow.pop()?))
    }

    /// The packets.
    #[inline]
    pub fn packets(&self) -> &[Packet] {
        &self.places[..self.taken]
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.taken
    }

    /// One of them.
    #[inline]
    pub fn packet(&mut self, at: usize) -> Option<&mut Packet> {
        self.places.get_mut(at)
    }

    /// Takes the frame out of a packet that has come to its end. To be called once for each that [`Burst::take`] is not.
    #[inline(always)]
    pub fn take_frame(&mut self, at: usize) -> Option<Frame> {
        let hollow = self.hollow.pop()?;
        Some(std::mem::replace(&mut self.places.get_mut(at)?.frame, hollow))
    }

    /// Takes a packet out.
    #[inline(never)]
    pub fn take(&mut self, at: usize) -> Option<Packet> {
        let hollow = self.hollow.pop()?;
        Some(std::mem::replace(self.places.get_mut(at)?, Packet::new(hollow, Facts::blank(Family::V4), 0)))
    }

    /// All were taken out: all places are free.
    #[inline]
    pub fn clear(&mut self) {
        debug_assert!(self.hollow.is_empty(), "a packet was left");
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_in_order_and_frames_come_out_as_they_went_in() {
        let mut pool = Pool::fresh(3, 2048);
        let mut burst = Burst::new(2);
        for (at, text) in [b"a", b"b"].into_iter().enumerate() {
            let mut frame = pool.take().unwrap();
            assert!(frame.set(text));
            burst.add(frame).unwrap().l3 = at as u16 + 1;
        }
        let refused = burst.add(pool.take().unwrap()).unwrap_err();
        pool.give(refused);
        assert_eq!(burst.packets().iter().map(|p| p.l3).collect::<Vec<_>>(), [1, 2]);
        let frame = burst.take_frame(0).unwrap();
        assert_eq!(frame.bytes(), b"a");
        let packet = burst.take(1).unwrap();
        assert_eq!((packet.l3, packet.frame.bytes()), (2, &b"b"[..]));
        burst.clear();
        assert_eq!(burst.len(), 0);
        pool.give(frame);
        assert_eq!(burst.add(packet.frame).unwrap().l3, 0);
        pool.give(burst.take_back().unwrap());
        assert_eq!((burst.len(), pool.free()), (0, 3));
    }
}
