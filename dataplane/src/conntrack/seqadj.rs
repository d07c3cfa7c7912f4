//! Sequence numbers of a connection in which a helper has made a packet longer or shorter (`nf_conntrack_seqadj.c`).
//!
//! From the changed segment on, what one side sends lies elsewhere for the other: its sequence numbers move by the
//! difference, and what the other side acknowledges moves back. One change can be in the window at a time: of the bytes
//! up to [`Shift::position`] the difference is that before the last change, of those behind it that after it.

use super::tcp::after;
use crate::packet::edit;
use crate::packet::view::Tcp;
use sumun_config::facts::Facts;

const ACK: u8 = 0x10;
const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;
const SACK_BLOCK: usize = 8;

/// By how much the sequence numbers of one side have moved.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Shift {
    /// Sequence number of the segment that was changed last, as its sender counts.
    pub position: u32,
    /// Difference up to there.
    pub before: u32,
    /// Difference behind it.
    pub after: u32,
}

impl Shift {
    /// By how much this number of its sender moves (`nf_ct_seq_offset`).
    #[inline]
    pub fn of(&self, seq: u32) -> u32 {
        if after(seq, self.position) { self.after } else { self.before }
    }

    /// The segment at `seq` has become longer by `change`. Of a repeated segment that is known already.
    pub fn note(&mut self, seq: u32, change: i32) {
        if self.before == self.after || after(seq, self.position) {
            *self = Shift { position: seq, before: self.after, after: self.after.wrapping_add_signed(change) };
        }
    }

    /// What the other side acknowledges, as the sender counts.
    fn undo(&self, ack: u32) -> u32 {
        ack.wrapping_sub(self.of(ack.wrapping_sub(self.before)))
    }
}

/// Moves the numbers of a segment: `own` is the shift of its sender, `other` that of its receiver. False where its options
/// are malformed; it is to be dropped then.
pub(super) fn adjust(l3: &mut [u8], facts: &Facts, own: &Shift, other: &Shift) -> bool {
    let l4 = usize::from(facts.l4_off);
    let header = |l3: &[u8]| {
        l3.get(l4..).and_then(Tcp::new).map(|h| (h.sequence(), h.acknowledgement(), h.flags(), h.header_len()))
    };
    let Some((seq, ack, flags, len)) = header(l3) else { return false };
    edit::set_long(l3, facts, l4 + 4, seq.wrapping_add(own.of(seq)));
    if flags & ACK == 0 {
        return true;
    }
    edit::set_long(l3, facts, l4 + 8, other.undo(ack));
    let (mut at, end) = (l4 + Tcp::LEN, l4 + len);
    if end > l3.len() {
        return false;
    }
    while at < end {
        match l3[at..end] {
            [END, ..] => return true,
            [NOP, ..] => at += 1,
            [kind, len, ..] if len >= 2 && at + usize::from(len) <= end => {
                let next = at + usize::from(len);
                if kind == SACK && (next - at - 2).is_multiple_of(SACK_BLOCK) {
                    for edge in (at + 2..next).step_by(4) {
                        let value = u32::from_be_bytes([l3[edge], l3[edge + 1], l3[edge + 2], l3[edge + 3]]);
                        edit::set_long(l3, facts, edge, other.undo(value));
                    }
                }
                at = next;
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{parse, sample};
    use proptest::prelude::*;
    use sumun_config::facts::{Family, proto};

    #[test]
    fn numbers_behind_a_change_move_and_those_before_it_do_not() {
        let mut shift = Shift::default();
        shift.note(1000, 3);
        assert_eq!([999, 1000, 1001].map(|seq| shift.of(seq)), [0, 0, 3]);
        // The same segment again.
        shift.note(1000, 3);
        assert_eq!(shift, Shift { position: 1000, before: 0, after: 3 });
        shift.note(1100, -5);
        assert_eq!([1100, 1101].map(|seq| shift.of(seq)), [3, 3u32.wrapping_sub(5)]);
        // What the receiver counts is the sender's again.
        assert_eq!(shift.undo(1103), 1100);
        assert_eq!(shift.undo(1120 - 2), 1120);
    }

    #[test]
    fn a_change_across_the_wrap_counts_on() {
        let mut shift = Shift::default();
        shift.note(u32::MAX - 10, 7);
        assert_eq!(shift.of(5), 7);
        assert_eq!(shift.undo(12), 5);
    }

    fn adjusted(options: &[u8], flags: u8, own: &Shift, other: &Shift) -> (bool, Vec<u8>, bool) {
        let mut l3 = sample::packet(Family::V4, proto::TCP, &sample::tcp(1, 2, flags, options, b"data"));
        let facts = parse::ip(Family::V4, &l3).unwrap();
        let fine = adjust(&mut l3, &facts, own, other);
        let ok = parse::l4_checksum_ok(&facts, &l3);
        (fine, l3[20..].to_vec(), ok)
    }

    #[test]
    fn both_numbers_and_selective_blocks_move_with_a_true_checksum() {
        let long = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let base = sample::tcp(1, 2, ACK, &[], b"");
        let (seq, ack) = (long(&base, 4), long(&base, 8));
        let own = Shift { position: seq.wrapping_sub(1), before: 0, after: 9 };
        let other = Shift { position: ack.wrapping_sub(100), before: 0, after: 4 };
        for lead in [&[NOP, NOP][..], &[NOP]] {
            let edges = [ack.wrapping_add(10), ack.wrapping_add(20)];
            let mut options = [lead, &[SACK, 10]].concat();
            edges.iter().for_each(|edge| options.extend(edge.to_be_bytes()));
            options.resize(12, NOP);
            let (fine, l4, ok) = adjusted(&options, ACK, &own, &other);
            assert!(fine && ok);
            let at = 20 + lead.len() + 2;
            let moved = [long(&l4, 4), long(&l4, 8), long(&l4, at), long(&l4, at + 4)];
            assert_eq!(
                moved,
                [seq.wrapping_add(9), ack.wrapping_sub(4), edges[0].wrapping_sub(4), edges[1].wrapping_sub(4)]
            );
        }
    }

    #[test]
    fn an_acknowledgement_that_means_nothing_stays_and_partial_options_are_refused() {
        let shift = Shift { position: 0, before: 5, after: 5 };
        let before = sample::tcp(1, 2, 2, &[], b"data");
        let (fine, l4, ok) = adjusted(&[], 2, &shift, &shift);
        assert!(fine && ok);
        assert_eq!(l4[8..12], before[8..12]);
        for options in [&[3, 9, 1, 1][..], &[1, 1, 1, 3], &[3, 1, 1, 1]] {
            assert!(!adjusted(options, ACK, &shift, &shift).0, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn any_options_keep_the_checksum_true(options in proptest::collection::vec(any::<u8>(), 0..10), a: u32, b: u32) {
            let options: Vec<u8> = options.iter().flat_map(|o| [o % 6, 2 + o % 11, *o, 4]).collect();
            let shift = Shift { position: a, before: b, after: b ^ a };
            prop_assert!(adjusted(&options, ACK, &shift, &shift).2);
        }

        #[test]
        fn what_is_acknowledged_is_what_was_sent(position: u32, before: i16, change: i16, far in 1 << 16..1_000_000u32) {
            let before = u32::from(before.unsigned_abs());
            let mut shift = Shift { position: position.wrapping_sub(1 << 20), before, after: before };
            shift.note(position, change.into());
            let seq = position.wrapping_add(far);
            prop_assert_eq!(shift.undo(seq.wrapping_add(shift.of(seq))), seq);
        }
    }
}
