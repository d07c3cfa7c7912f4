use super::*;
use crate::host::vnet;
use crate::packet::sample;
use crate::umem::{Pool, Region};
use proptest::prelude::*;

const ROOM: usize = 1792;
const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

fn cut(offload: Offload, frame: &mut [u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let mut cut = Cut::new(offload, frame, ROOM)?;
    let mut out = Region::cut(1, 2048).remove(0);
    let mut pieces = Vec::new();
    while !cut.is_done() {
        let len = cut.next_len();
        assert!(cut.write(frame, &mut out), "{cut:?}");
        assert_eq!(out.len(), len, "{cut:?}");
        pieces.push(out.bytes().to_vec());
    }
    Ok(pieces)
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn framed(family: Family, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
    [&ETHERNET[..], &kind, packet].concat()
}

struct Case<'a> {
    name: &'a str,
    header: Vec<u8>,
    frame: Vec<u8>,
    expected: Vec<Vec<u8>>,
}

#[test]
fn segments_are_the_kernels_own() {
    let text = include_str!("recorded.txt");
    let mut cases: Vec<Case> = Vec::new();
    let mut name = "";
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "#" => name = line,
            "in" => cases.push(Case { name, header: unhex(words[1]), frame: unhex(words[2]), expected: Vec::new() }),
            _ => cases.last_mut().unwrap().expected.push(unhex(words[1])),
        }
    }
    assert_eq!(cases.len(), 11);
    for Case { name, header, mut frame, expected } in cases {
        let offload = Offload::read(header.as_slice().try_into().unwrap()).unwrap();
        assert_eq!(cut(offload, &mut frame), Ok(expected), "{name}");
    }
}

#[test]
fn a_frame_that_wants_nothing_is_copied() {
    let mut frame = framed(Family::V4, b"not even a packet");
    assert_eq!(cut(Offload::None, &mut frame.clone()), Ok(vec![frame.clone()]));
    assert_eq!(cut(Offload::None, &mut frame[..13]), Err(Refused::Malformed));
    assert_eq!(cut(Offload::None, &mut vec![0; ROOM]).unwrap()[0].len(), ROOM);
    assert_eq!(cut(Offload::None, &mut vec![0; ROOM + 1]), Err(Refused::TooLong));
}

#[test]
fn tags_stay_on_every_segment() {
    let packet = sample::v4(proto::TCP, &sample::tcp(1, 2, 0x18, &[], &[7; 300]));
    let frame = framed(Family::V4, &packet);
    let mut tagged = [&frame[..12], &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 5], &frame[12..]].concat();
    let offload = Offload::Cut { kind: Kind::Tcp4, size: 200, start: 42 };
    let pieces = cut(offload, &mut tagged).unwrap();
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [262, 162]);
    assert!(pieces.iter().all(|piece| piece[..24] == tagged[..24]));
}

#[test]
fn a_cut_goes_on_when_there_is_room_again() {
    let mut pool = Pool::fresh(1, 2048);
    let mut frame = framed(Family::V4, &sample::v4(proto::TCP, &sample::tcp(1, 2, 0x18, &[], &[7; 300])));
    let mut cut = Cut::new(Offload::Cut { kind: Kind::Tcp4, size: 200, start: 34 }, &mut frame, ROOM).unwrap();
    let mut first = pool.take().unwrap();
    assert!(cut.write(&frame, &mut first) && !cut.is_done());
    pool.give(first);
    let mut second = pool.take().unwrap();
    assert!(cut.write(&frame, &mut second) && cut.is_done());
    assert_eq!(second.len(), 54 + 100);
    assert!(!cut.write(&frame, &mut second));
}

#[test]
fn headers_that_contradict_their_frame_are_refused() {
    let tcp = |kind, size, start| Offload::Cut { kind, size, start };
    let v4 = framed(Family::V4, &sample::v4(proto::TCP, &sample::tcp(1, 2, 0x18, &[], &[7; 3000])));
    let v6 = framed(Family::V6, &sample::v6(proto::UDP, &sample::udp(1, 2, &[7; 3000])));
    let wrong = |offload, frame: &[u8]| cut(offload, &mut frame.to_vec());
    let malformed = Err(Refused::Malformed);
    assert!(wrong(tcp(Kind::Tcp4, 1000, 34), &v4).is_ok());
    assert_eq!(wrong(tcp(Kind::Tcp4, 1000, 33), &v4), malformed, "L4 is not there");
    assert_eq!(wrong(tcp(Kind::Tcp4, 1000, 60000), &v4), malformed);
    assert_eq!(wrong(tcp(Kind::Tcp6, 1000, 34), &v4), malformed, "not IPv6");
    assert_eq!(wrong(tcp(Kind::Udp, 1000, 34), &v4), malformed, "not UDP");
    assert_eq!(wrong(tcp(Kind::Tcp6, 1000, 54), &v6), malformed, "not TCP");
    assert!(wrong(tcp(Kind::Udp, 1000, 54), &v6).is_ok());
    assert_eq!(wrong(tcp(Kind::Tcp4, 2000, 34), &v4), Err(Refused::TooLong));
    assert_eq!(wrong(tcp(Kind::Tcp4, 5000, 34), &v4), Err(Refused::TooLong), "one segment, but a long one");
    assert_eq!(wrong(tcp(Kind::Tcp4, 1000, 34), &v4[..2000]), malformed, "cut off");
    let mut fragment = framed(Family::V4, &sample::v4_with(&[], 0x2000, proto::TCP, &v4[34..]));
    assert_eq!(cut(tcp(Kind::Tcp4, 1000, 34), &mut fragment), malformed);
    let mut offset = v4.clone();
    offset[34 + 12] = 0x40;
    assert_eq!(wrong(tcp(Kind::Tcp4, 1000, 34), &offset), malformed, "a TCP header of 16 bytes");
    for (start, offset) in [(13, 0), (65535, 0), (34, 65535), (v4.len() as u16 - 1, 0)] {
        assert_eq!(wrong(Offload::Sum { start, offset }, &v4), malformed, "{start} {offset}");
    }
}

/// Frames that are right, with the offload that they may have.
fn super_frame() -> impl Strategy<Value = (Offload, Vec<u8>)> {
    let data = proptest::collection::vec(any::<u8>(), 1..6000);
    (data, 1u16..1400, any::<bool>(), any::<bool>(), any::<u8>()).prop_map(|(data, size, is_v6, is_udp, flags)| {
        let family = if is_v6 { Family::V6 } else { Family::V4 };
        let (kind, number, upper) = match (is_udp, family) {
            (true, _) => (Kind::Udp, proto::UDP, sample::udp(1, 2, &data)),
            (false, Family::V4) => (Kind::Tcp4, proto::TCP, sample::tcp(1, 2, flags & !6, &[1, 1, 1, 0], &data)),
            (false, Family::V6) => (Kind::Tcp6, proto::TCP, sample::tcp(1, 2, flags & !6, &[], &data)),
        };
        let start = if is_v6 { 54 } else { 34 };
        let mut packet = sample::packet(family, number, &upper);
        // The host leaves only the sum of the pseudo header.
        let facts = parse::ip(family, &packet).unwrap();
        let sum = Sum::new().pseudo(facts.src, facts.dst, number, upper.len()).fold();
        let at = usize::from(facts.l4_off + kind.sum_offset());
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        (Offload::Cut { kind, size, start }, framed(family, &packet))
    })
}

proptest! {
    #[test]
    fn segments_hold_the_data_in_order_and_every_sum_is_right((offload, mut frame) in super_frame()) {
        let Offload::Cut { kind, size, start } = offload else { unreachable!() };
        let header = if kind == Kind::Udp { 8 } else { usize::from(frame[usize::from(start) + 12] >> 4) * 4 };
        let from = usize::from(start) + header;
        let whole = frame[from..].to_vec();
        let pieces = cut(offload, &mut frame).unwrap();
        prop_assert_eq!(pieces.len(), whole.len().div_ceil(size.into()));
        prop_assert_eq!(pieces.iter().flat_map(|piece| piece[from..].to_vec()).collect::<Vec<u8>>(), whole);
        for (number, piece) in pieces.iter().enumerate() {
            let (family, l3) = network(piece).unwrap();
            let facts = parse::ip(family, &piece[l3..]).unwrap();
            prop_assert_eq!(l3 + usize::from(facts.len), piece.len());
            prop_assert!(parse::l4_checksum_ok(&facts, &piece[l3..]));
            let last = number + 1 == pieces.len();
            prop_assert!(last || facts.tcp_flags & (tcp_flag::PSH | tcp_flag::FIN) == 0);
            prop_assert!(number == 0 || facts.tcp_flags & tcp_flag::CWR == 0);
        }
    }

    #[test]
    fn any_frame_with_any_header_is_survived(header: [u8; vnet::LEN], (good, frame) in super_frame(), at in 0usize..80, value: u8, len in 0usize..200) {
        for offload in [Ok(good), Offload::read(&header)].into_iter().flatten() {
            let mut broken = frame.clone();
            if let Some(byte) = broken.get_mut(at) {
                *byte = value;
            }
            let _ = cut(offload, &mut broken);
            let mut short = frame.clone();
            short.truncate(len);
            let _ = cut(offload, &mut short);
        }
    }
}
