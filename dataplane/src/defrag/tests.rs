//! Whatever comes in whatever order: what comes together is the packet that was cut, and nothing stays behind.

use super::*;
use crate::packet::sample::fix_ipv4_header;
use proptest::prelude::*;
use sumun_config::facts::proto;

/// Units of eight bytes that a packet has at most.
const UNITS: u32 = 12;
const MINUTE: u64 = 60_000_000_000;

/// The byte at a place of every packet.
fn byte(at: u32) -> u8 {
    (at * 7 % 251) as u8
}

/// A fragment of the packet with this identification: from and to in units of eight bytes.
fn fragment(family: Family, id: u16, start: u32, end: u32, more: bool) -> Vec<u8> {
    let data = (start * 8..end * 8).map(byte);
    match family {
        Family::V4 => {
            let len = (20 + (end - start) * 8) as u16;
            let word = start as u16 | if more { 0x2000 } else { 0 };
            let mut packet = vec![0x45, 0];
            for word in [len, id, word, 0x4000 | u16::from(proto::TCP), 0] {
                packet.extend(word.to_be_bytes());
            }
            packet.extend([10, 0, 0, 1 + (id % 3) as u8, 10, 0, 0, 9]);
            packet.extend(data);
            fix_ipv4_header(&mut packet);
            packet
        }
        Family::V6 => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((8 + (end - start) as u16 * 8).to_be_bytes());
            packet.extend([proto::FRAGMENT, 64]);
            packet.extend([0x20; 32]);
            packet.extend([proto::TCP, 0]);
            packet.extend(((start as u16 * 8) | u16::from(more)).to_be_bytes());
            packet.extend(u32::from(id).to_be_bytes());
            packet.extend(data);
            packet
        }
    }
}

struct Bench {
    defrag: Defrag,
    pool: Pool,
    sysctl: Sysctl,
}

impl Bench {
    fn new(most: usize) -> Bench {
        let mut pool = Pool::fresh(64, 2048);
        pool.add_large(2);
        Bench { defrag: Defrag::new(most), pool, sysctl: Sysctl::default() }
    }

    /// What becomes of a fragment: the whole packet's data where it was the last one missing.
    fn send(&mut self, family: Family, packet: &[u8], now: u64) -> Result<Option<Vec<u8>>, DropReason> {
        let mut frame = self.pool.take().expect("a frame");
        assert!(frame.set(packet));
        let facts = parse::ip(family, packet).expect("a fragment");
        let place = self.defrag.place(
            Whose { user: User::Prerouting, vrf: 0 },
            &facts,
            packet,
            frame.size(),
            now,
            &self.sysctl,
        );
        let outcome = match place {
            Ok(Place::Waits(ticket)) => {
                self.defrag.hold(ticket, frame, 0);
                self.bury();
                return Ok(None);
            }
            Ok(Place::Completes(ticket)) => {
                self.bury();
                self.defrag.complete(ticket, packet, &facts, &mut self.pool).map(|whole| {
                    let data = whole.frame.bytes()[whole.facts.l4_off as usize..].to_vec();
                    self.pool.give(whole.frame);
                    Some(data)
                })
            }
            // IPv4 has no fragment that is a whole packet.
            Ok(Place::Passes) if !facts.is_fragment() => Ok(None),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => Err(reason),
        };
        self.bury();
        self.pool.give(frame);
        outcome
    }

    fn bury(&mut self) {
        while let Some((_, frame)) = self.defrag.ended() {
            self.pool.give(frame);
        }
    }

    fn assert_census(&self) {
        assert_eq!(self.pool.free() + self.defrag.held(), self.pool.made());
    }

    /// Everything is late, and nothing is left of it.
    fn assert_clean_after(&mut self, now: u64) {
        while let Some(late) = self.defrag.late(now) {
            if let Some(late) = late {
                self.pool.give(late.frame);
            }
            self.bury();
        }
        assert_eq!(self.defrag.held(), 0);
        assert!(self.defrag.keys.is_empty() && self.defrag.sources.is_empty());
        assert_eq!(self.defrag.free.len(), self.defrag.queues.len());
        assert!(self.defrag.pieces.are_all_free());
        assert_eq!(self.defrag.next_deadline(), None);
        self.assert_census();
    }
}

fn spans() -> impl Strategy<Value = Vec<(u16, u32, u32, bool)>> {
    let span = (0u16..5, 0..UNITS, 1u32..5, prop::bool::weighted(0.8));
    let span =
        span.prop_map(|(id, start, len, more)| (id, start, (start + len).min(UNITS), more && start + len < UNITS));
    prop::collection::vec(span, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_together_is_what_was_cut(spans in spans(), most in 1usize..20) {
        for family in Family::ALL {
            let mut bench = Bench::new(most);
            for (i, (id, start, end, more)) in spans.iter().enumerate() {
                if let Ok(Some(data)) = bench.send(family, &fragment(family, *id, *start, *end, *more), i as u64) {
                    let expected: Vec<u8> = (0..data.len() as u32).map(byte).collect();
                    prop_assert_eq!(data, expected);
                }
                bench.assert_census();
                prop_assert!(bench.defrag.held() <= most);
            }
            bench.assert_clean_after(2 * MINUTE);
        }
    }

    #[test]
    fn any_order_makes_the_packet_whole(
        cuts in prop::collection::btree_set(1..UNITS, 1..10),
        order in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        for family in Family::ALL {
            let mut bench = Bench::new(16);
            let edges: Vec<u32> = [0].into_iter().chain(cuts.iter().copied()).chain([UNITS]).collect();
            let mut left: Vec<_> = edges.windows(2).map(|w| (w[0], w[1], w[1] < UNITS)).collect();
            let mut whole = None;
            for at in &order {
                if left.is_empty() {
                    break;
                }
                let (start, end, more) = left.swap_remove(at.index(left.len()));
                prop_assert_eq!(&whole, &None);
                whole = bench.send(family, &fragment(family, 1, start, end, more), 0).expect("it fits");
            }
            prop_assert_eq!(whole, Some((0..UNITS * 8).map(byte).collect::<Vec<u8>>()));
            bench.assert_clean_after(0);
        }
    }
}

#[test]
fn a_packet_has_so_many_fragments_and_no_more() {
    let mut bench = Bench::new(1000);
    let mut pool = Pool::fresh(400, 512);
    std::mem::swap(&mut bench.pool, &mut pool);
    for i in 0..MOST_PIECES as u32 {
        assert_eq!(bench.send(Family::V4, &fragment(Family::V4, 1, 2 * i, 2 * i + 1, true), 0), Ok(None));
    }
    assert_eq!(bench.defrag.held(), MOST_PIECES);
    let one_more = fragment(Family::V4, 1, 900, 901, true);
    assert_eq!(bench.send(Family::V4, &one_more, 0), Err(DropReason::FragmentQueue));
    bench.assert_clean_after(0);
}

#[test]
fn the_threshold_is_in_bytes_of_packet_memory_and_zero_refuses_all() {
    let mut bench = Bench::new(100);
    bench.sysctl.ipfrag_high_thresh = 3 * 2048;
    bench.sysctl.nf_conntrack_frag6_high_thresh = 0;
    for id in 0..3 {
        assert_eq!(bench.send(Family::V4, &fragment(Family::V4, id, 0, 1, true), 0), Ok(None));
    }
    assert_eq!(bench.send(Family::V4, &fragment(Family::V4, 9, 0, 1, true), 0), Err(DropReason::FragmentQueue));
    assert_eq!(bench.send(Family::V6, &fragment(Family::V6, 1, 0, 1, true), 0), Err(DropReason::FragmentQueue));
    bench.assert_clean_after(MINUTE);
}

#[test]
fn without_a_large_frame_a_long_packet_ends_and_nothing_is_lost() {
    let mut bench = Bench::new(32);
    let taken: Vec<_> = (0..2).map(|_| bench.pool.take_for(4000).expect("a large frame")).collect();
    let long = |start, more| fragment(Family::V4, 1, start, start + 150, more);
    assert_eq!(bench.send(Family::V4, &long(0, true), 0), Ok(None));
    assert_eq!(bench.send(Family::V4, &long(150, false), 0), Err(DropReason::NoFrame));
    for frame in taken {
        bench.pool.give(frame);
    }
    bench.assert_clean_after(0);
    assert_eq!(bench.send(Family::V4, &long(0, true), 0), Ok(None));
    assert!(bench.send(Family::V4, &long(150, false), 0).is_ok_and(|whole| whole.is_some()));
}
