use super::*;
use crate::host::segment::Cut;
use crate::packet::{parse, sample};
use crate::umem::{HEADROOM, Pool, Region};
use proptest::prelude::*;

/// Joins frames; what would be written, each with its virtio header, and the number of frames it was made of.
fn join(frames: &[Vec<u8>], kinds: Kinds) -> Vec<(Vec<u8>, usize)> {
    let mut pool = Pool::fresh(frames.len() as u32 + 1, 2048);
    let (mut written, mut given) = (Vec::new(), Vec::new());
    let mut done = |run: &mut Run| {
        let bytes = run.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        written.push((bytes, run.frames.len()));
        given.append(run.frames());
    };
    let mut join = Join::new(kinds);
    for bytes in frames {
        let mut frame = pool.take().unwrap();
        assert!(frame.set(bytes), "{}", bytes.len());
        join.push(frame, &mut done);
    }
    join.finish(&mut done);
    assert_eq!(given.len(), frames.len());
    written
}

/// Numbers of frames that were joined.
fn counts(frames: &[Vec<u8>]) -> Vec<usize> {
    join(frames, Kinds::TcpAndUdp).into_iter().map(|(_, count)| count).collect()
}

fn framed(packet: Vec<u8>) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], &kind, &packet].concat()
}

const OPTIONS: [u8; 4] = [1, 1, 1, 1];

/// One more segment behind `before` bytes of data and `number` packets, changed at `at` bytes behind the IP header's start.
fn segment(family: Family, number: u16, before: usize, data: usize, flags: u8, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let content: Vec<u8> = (before..before + data).map(|i| (i * 7) as u8).collect();
    let mut packet = sample::packet(family, proto::TCP, &sample::tcp(1, 2, flags, &OPTIONS, &content));
    let l4 = if family == Family::V4 { 20 } else { 40 };
    packet[l4 + 4..l4 + 8].copy_from_slice(&(before as u32).wrapping_sub(1000).to_be_bytes());
    if family == Family::V4 {
        packet[4..6].copy_from_slice(&number.wrapping_sub(1).to_be_bytes());
    }
    change(&mut packet);
    if family == Family::V4 {
        sample::fix_ipv4_header(&mut packet);
    }
    sample::fix_l4(family, &mut packet);
    framed(packet)
}

fn plain(family: Family, number: u16, before: usize, data: usize) -> Vec<u8> {
    segment(family, number, before, data, 0x10, |_| {})
}

/// What comes out of the knife for what is written.
fn cut(written: &[u8]) -> Vec<Vec<u8>> {
    let (header, frame) = written.split_first_chunk::<{ vnet::LEN }>().unwrap();
    let mut frame = frame.to_vec();
    let mut cut = Cut::new(Offload::read(header).unwrap(), &mut frame, 2048 - HEADROOM).unwrap();
    let mut out = Region::cut(1, 2048).remove(0);
    let mut pieces = Vec::new();
    while !cut.is_done() {
        assert!(cut.write(&frame, &mut out));
        pieces.push(out.bytes().to_vec());
    }
    pieces
}

#[test]
fn segments_in_order_are_joined_and_a_short_one_ends_it() {
    for family in Family::ALL {
        let mut frames: Vec<_> = (0..5).map(|i| plain(family, i, usize::from(i) * 100, 100)).collect();
        frames.push(plain(family, 5, 500, 40));
        frames.push(plain(family, 6, 540, 40));
        let written = join(&frames, Kinds::Tcp);
        assert_eq!(written.iter().map(|w| w.1).collect::<Vec<_>>(), [6, 1]);
        assert_eq!(cut(&written[0].0), frames[..6]);
        assert_eq!(written[1].0, [&[0; vnet::LEN][..], &frames[6]].concat(), "alone it is as it was");
        let kind = if family == Family::V4 { Kind::Tcp4 } else { Kind::Tcp6 };
        let start = if family == Family::V4 { 34 } else { 54 };
        let header = Offload::read(written[0].0.first_chunk().unwrap()).unwrap();
        assert_eq!(header, Offload::Cut { kind, size: 100, start });
    }
}

#[test]
fn push_and_fin_end_it_and_are_kept() {
    for family in Family::ALL {
        for flags in [0x18, 0x11, 0x19] {
            let frames = [
                plain(family, 0, 0, 100),
                segment(family, 1, 100, 100, flags, |_| {}),
                plain(family, 2, 200, 100),
                plain(family, 3, 300, 100),
            ];
            let written = join(&frames, Kinds::Tcp);
            assert_eq!(written.iter().map(|w| w.1).collect::<Vec<_>>(), [2, 2]);
            assert_eq!(cut(&written[0].0), frames[..2]);
            let alone = [segment(family, 0, 0, 100, flags, |_| {}), plain(family, 1, 100, 100)];
            assert_eq!(counts(&alone), [1, 1]);
        }
    }
}

#[test]
fn what_differs_is_not_joined() {
    for family in Family::ALL {
        let l4 = if family == Family::V4 { 20 } else { 40 };
        let second =
            |change: &dyn Fn(&mut [u8])| [plain(family, 0, 0, 100), segment(family, 1, 100, 100, 0x10, change)];
        assert_eq!(counts(&second(&|_| {})), [2]);
        let set = |at: usize, value: u8| counts(&second(&|packet| packet[at] = value));
        assert_eq!(set(l4 + 7, 1), [1, 1], "sequence");
        assert_eq!(set(l4 + 11, 1), [1, 1], "acknowledgement");
        assert_eq!(set(l4 + 12, 0x61), [1, 1], "a reserved bit");
        assert_eq!(set(l4 + 14, 9), [1, 1], "window");
        assert_eq!(set(l4 + 19, 1), [1, 1], "urgent pointer");
        assert_eq!(set(l4 + 20, 0), [1, 1], "options");
        assert_eq!(set(l4 + 1, 9), [1, 1], "port");
        for flags in [0x02, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
            assert_eq!(set(l4 + 13, flags), [1, 1], "flags {flags:x}");
        }
        let ecn = [0u16, 1].map(|i| segment(family, i, usize::from(i) * 100, 100, 0x50, |_| {}));
        assert_eq!(counts(&ecn), [2], "ECE on both");
        match family {
            Family::V4 => {
                assert_eq!(set(1, 3), [1, 1], "CE");
                assert_eq!(set(8, 3), [1, 1], "TTL");
                assert_eq!(set(5, 7), [1, 1], "identification");
                assert_eq!(set(6, 0), [1, 1], "DF");
                assert_eq!(set(6, 0x20), [1, 1], "a fragment");
                assert_eq!(set(15, 9), [1, 1], "address");
            }
            Family::V6 => {
                assert_eq!(set(1, 0x33), [1, 1], "CE");
                assert_eq!(set(3, 0), [1, 1], "flow label");
                assert_eq!(set(7, 3), [1, 1], "hop limit");
                assert_eq!(set(23, 9), [1, 1], "address");
            }
        }
        let mut station = second(&|_| {});
        station[1][3] = 9;
        assert_eq!(counts(&station), [1, 1], "MAC");
        let longer = [plain(family, 0, 0, 100), plain(family, 1, 100, 101)];
        assert_eq!(counts(&longer), [1, 1]);
        let empty = [plain(family, 0, 0, 100), plain(family, 1, 100, 0), plain(family, 2, 100, 100)];
        assert_eq!(counts(&empty), [1, 1, 1], "an acknowledgement keeps its place");
    }
}

#[test]
fn damaged_data_is_not_joined() {
    for family in Family::ALL {
        for damaged in [0, 1] {
            let mut frames = [plain(family, 0, 0, 100), plain(family, 1, 100, 100)];
            *frames[damaged].last_mut().unwrap() ^= 1;
            assert_eq!(counts(&frames), [1, 1]);
        }
    }
    let mut header = [plain(Family::V4, 0, 0, 100), plain(Family::V4, 1, 100, 100)];
    header[1][14 + 8] ^= 1;
    header[0][14 + 8] ^= 1;
    assert_eq!(counts(&header), [1, 1], "of the IPv4 header");
}

#[test]
fn identifications_of_packets_with_df_may_stand_still() {
    let with = |ids: [u16; 3], df: u8| {
        let change = |id: u16| {
            move |packet: &mut [u8]| {
                packet[4..6].copy_from_slice(&id.to_be_bytes());
                packet[6] = df;
            }
        };
        let one = |i: usize| segment(Family::V4, 0, i * 100, 100, 0x10, change(ids[i]));
        counts(&[one(0), one(1), one(2)])
    };
    assert_eq!(with([0, 0, 0], 0x40), [3]);
    assert_eq!(with([7, 8, 9], 0x40), [3]);
    assert_eq!(with([7, 8, 9], 0), [3]);
    assert_eq!(with([0xffff, 0, 1], 0), [3]);
    assert_eq!(with([7, 7, 8], 0x40), [2, 1]);
    assert_eq!(with([7, 8, 8], 0x40), [2, 1]);
    assert_eq!(with([0, 0, 0], 0), [1, 1, 1]);
    assert_eq!(with([9, 8, 7], 0x40), [1, 1, 1]);
}

#[test]
fn flows_that_alternate_are_joined_each_for_itself() {
    let frames: Vec<Vec<u8>> = (0..24u16)
        .map(|i| segment(Family::V4, i / 8, usize::from(i / 8) * 100, 100, 0x10, |packet| packet[21] = (i % 8) as u8))
        .collect();
    assert_eq!(counts(&frames), [3; 8]);
}

#[test]
fn padding_is_left_out() {
    let mut frames = [plain(Family::V4, 0, 0, 2), plain(Family::V4, 1, 2, 2), plain(Family::V4, 2, 4, 1)];
    let whole = frames.clone();
    for frame in &mut frames {
        frame.resize(60, 0);
    }
    let written = join(&frames, Kinds::Tcp);
    assert_eq!(written[0].1, 3);
    assert_eq!(cut(&written[0].0), whole);
}

#[test]
fn a_super_frame_is_not_longer_than_an_ip_packet() {
    for family in Family::ALL {
        let frames: Vec<_> = (0..60u16).map(|i| plain(family, i, usize::from(i) * 1400, 1400)).collect();
        assert_eq!(counts(&frames), [46, 14]);
        let small: Vec<_> = (0..100u16).map(|i| plain(family, i, usize::from(i), 1)).collect();
        assert_eq!(counts(&small), [64, 36]);
    }
}

#[test]
fn datagrams_of_one_size_are_joined_where_the_tap_takes_them() {
    for family in Family::ALL {
        let one = |i: u16, len| {
            let mut packet = sample::packet(family, proto::UDP, &sample::udp(1, 2, &vec![i as u8; len]));
            if family == Family::V4 {
                packet[4..6].copy_from_slice(&i.to_be_bytes());
                sample::fix_ipv4_header(&mut packet);
            }
            framed(packet)
        };
        let frames = [one(0, 50), one(1, 50), one(2, 20), one(3, 50), one(4, 60)];
        let written = join(&frames, Kinds::TcpAndUdp);
        assert_eq!(written.iter().map(|w| w.1).collect::<Vec<_>>(), [3, 1, 1]);
        assert_eq!(cut(&written[0].0), frames[..3]);
        assert_eq!(join(&frames, Kinds::Tcp).len(), 5);
        let mut unsummed = [one(0, 50), one(1, 50)];
        let at = if family == Family::V4 { 40 } else { 60 };
        unsummed.iter_mut().for_each(|frame| frame[at..at + 2].fill(0));
        assert_eq!(counts(&unsummed), [1, 1], "without a checksum");
    }
}

#[test]
fn other_frames_pass() {
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 46]].concat();
    let frames = [plain(Family::V4, 0, 0, 9), arp.clone(), vec![1, 2, 3], plain(Family::V4, 1, 9, 9)];
    let written = join(&frames, Kinds::Tcp);
    assert_eq!(written.iter().map(|w| w.1).collect::<Vec<_>>(), [1, 1, 2], "ARP is no part of a flow");
    assert_eq!(written[0].0[vnet::LEN..], arp);
}

proptest! {
    #[test]
    fn cutting_again_gives_the_very_same_frames(
        family in prop_oneof![Just(Family::V4), Just(Family::V6)],
        lens in proptest::collection::vec((prop_oneof![4 => Just(300usize), 1 => 0usize..1000], prop_oneof![6 => Just(0x10u8), 1 => any::<u8>()], 0u8..8), 1..80),
    ) {
        let (mut sent, mut frames) = ([0usize; 2], Vec::new());
        let mut number = [0u16; 2];
        for (len, flags, odd) in lens {
            let flow = usize::from(odd & 1);
            let shift = usize::from(odd == 7);
            frames.push(segment(family, number[flow], sent[flow] + shift, len, flags, |packet| {
                packet[if family == Family::V4 { 21 } else { 41 }] = flow as u8;
                if odd == 6 && family == Family::V4 { packet[6] = 0; }
            }));
            number[flow] += 1;
            sent[flow] += len;
        }
        let written = join(&frames, Kinds::TcpAndUdp);
        prop_assert_eq!(written.iter().map(|w| w.1).sum::<usize>(), frames.len());
        let again: Vec<Vec<u8>> = written.iter().flat_map(|(bytes, _)| cut(bytes)).collect();
        let of = |frames: &[Vec<u8>], flow: u8| -> Vec<Vec<u8>> {
            let at = if family == Family::V4 { 35 } else { 55 };
            frames.iter().filter(|frame| frame[at] == flow).cloned().collect()
        };
        for flow in [0, 1] {
            prop_assert_eq!(of(&again, flow), of(&frames, flow));
        }
        for (bytes, _) in &written {
            let header: &[u8; vnet::LEN] = bytes.first_chunk().unwrap();
            if let Offload::Cut { kind, size, .. } = Offload::read(header).unwrap() {
                let (_, frame) = bytes.split_at(vnet::LEN);
                let facts = parse::ip(family, &frame[L3..]).unwrap();
                prop_assert!(usize::from(facts.len) == frame.len() - L3 && size > 0 && kind != Kind::Udp);
            }
        }
    }

    #[test]
    fn any_frames_are_survived(frames in proptest::collection::vec((any::<bool>(), proptest::collection::vec((0usize..70, any::<u8>()), 0..3), 0usize..100), 1..20)) {
        let frames: Vec<Vec<u8>> = frames.into_iter().enumerate().map(|(i, (is_v6, changes, len))| {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let mut frame = plain(family, i as u16, i * 30, 30);
            for (at, value) in changes {
                frame[at] = value;
            }
            frame.truncate(if len < 20 { len } else { frame.len() });
            frame
        }).collect();
        let written = join(&frames, Kinds::TcpAndUdp);
        prop_assert_eq!(written.iter().map(|w| w.1).sum::<usize>(), frames.len());
    }
}
