use super::super::Invalid;
use super::*;
use crate::packet::sample;
use Dir::{Original, Reply};

/// The kernel's table, a row for each kind and side; columns are the states in the order of their numbers.
/// `-` is invalid, `.` is ignored.
const TABLE: &[(Dir, Kind, &str)] = &[
    //                      NO SS SR ES FW CW LA TW CL S2
    (Original, Kind::Syn, "SS SS .  .  .  .  .  SS SS S2"),
    (Original, Kind::SynAck, "-  -  SR -  -  -  -  -  -  SR"),
    (Original, Kind::Fin, "-  -  FW FW LA LA LA TW CL - "),
    (Original, Kind::Ack, "ES -  ES ES CW CW TW TW CL - "),
    (Original, Kind::Rst, "-  CL CL CL CL CL CL CL CL CL"),
    (Original, Kind::None, "-  -  -  -  -  -  -  -  -  - "),
    (Reply, Kind::Syn, "-  S2 -  -  -  -  -  SS -  S2"),
    (Reply, Kind::SynAck, "-  SR .  .  .  .  .  .  .  SR"),
    (Reply, Kind::Fin, "-  -  FW FW LA LA LA TW CL - "),
    (Reply, Kind::Ack, "-  .  SR ES CW CW TW TW CL . "),
    (Reply, Kind::Rst, "-  CL CL CL CL CL CL CL CL CL"),
    (Reply, Kind::None, "-  -  -  -  -  -  -  -  -  - "),
];

fn short(next: Next) -> &'static str {
    match next {
        Next::Invalid => "-",
        Next::Ignore => ".",
        Next::To(state) => ["NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2"][state as usize],
    }
}

#[test]
fn the_state_table_is_the_kernels() {
    for (dir, kind, row) in TABLE {
        let found: Vec<&str> = State::ALL.iter().map(|s| short(next(*s, *dir, *kind))).collect();
        assert_eq!(found, row.split_whitespace().collect::<Vec<_>>(), "{dir:?} {kind:?}");
    }
}

#[test]
fn flag_combinations_that_no_sane_sender_makes_are_refused() {
    let good: Vec<u8> = (0..64).filter(|f| f & PSH == 0 && has_valid_flags(*f)).collect();
    assert_eq!(good, [0x02, 0x04, 0x10, 0x11, 0x12, 0x14, 0x22, 0x30, 0x31]);
    assert!(has_valid_flags(ACK | PSH) && has_valid_flags(SYN | ECE | CWR));
    assert!(!has_valid_flags(0) && !has_valid_flags(FIN) && !has_valid_flags(SYN | FIN) && !has_valid_flags(0x3f));
}

#[test]
fn a_connection_survives_its_words() {
    let words = std::array::from_fn(|i| 0x0123_4567_89ab_cdef_u64.rotate_left(8 * i as u32) & [u64::MAX, 0][i / 6]);
    for state in State::ALL {
        let c = Connection::from_words(state as u32, &words);
        assert_eq!((c.state, Connection::from_words(state as u32, &c.words())), (state, c));
    }
    assert_eq!(Connection::from_words(0, &[0; 7]), Connection::NEW);
    Connection::from_words(u32::MAX, &[u64::MAX; 7]);
}

#[test]
fn selective_acknowledgements_are_read_where_they_are_well_formed() {
    let segment = |options: &[u8]| {
        let l4 = sample::tcp(1, 2, ACK, options, b"");
        Segment::of(&l4).unwrap().sack()
    };
    let own = segment(&[]);
    let block = |right: u32| {
        let mut block = vec![1, 1, 5, 10];
        block.extend(own.to_be_bytes());
        block.extend(own.wrapping_add(right).to_be_bytes());
        block
    };
    assert_eq!(segment(&block(100)), own.wrapping_add(100));
    assert_eq!(segment(&block(0x9000_0000)), own, "behind the acknowledgement");
    assert_eq!(segment(&[1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0]), own);
    for malformed in [&[5, 0, 0, 0], &[5, 1, 0, 0], &[5, 12, 0, 0], &[0, 5, 10, 0], &[1, 1, 1, 5], &[5, 2, 1, 1]] {
        assert_eq!(segment(malformed), own, "{malformed:?}");
    }
}

#[test]
fn segments_that_are_not_whole_are_refused() {
    let whole = sample::tcp(1, 2, ACK, &[1, 1, 1, 1], b"");
    for len in 0..whole.len() {
        assert_eq!(Segment::of(&whole[..len]).unwrap_err(), Invalid::Truncated, "{len}");
    }
    let mut short = whole.clone();
    short[12] = 0x40;
    assert_eq!(Segment::of(&short).unwrap_err(), Invalid::Truncated);
}

/// A connection from SYN to the last ACK: scaled windows, data both ways, a hole and its SACK, both FINs.
fn conversation() -> Vec<(Dir, Vec<u8>)> {
    const SYN_OPTIONS: &[u8] = &[2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1];
    let segment = |dir, flags, seq: u32, ack: u32, window: u16, options: &[u8], len: usize| {
        let mut l4 = sample::tcp(1, 2, flags, options, &vec![0; len]);
        l4[4..8].copy_from_slice(&seq.to_be_bytes());
        l4[8..12].copy_from_slice(&ack.to_be_bytes());
        l4[14..16].copy_from_slice(&window.to_be_bytes());
        (dir, l4)
    };
    let sack = [[1, 1, 5, 10].as_slice(), &4901u32.to_be_bytes(), &6301u32.to_be_bytes()].concat();
    let push = ACK | PSH;
    vec![
        segment(Original, SYN, 1000, 0, 64_000, SYN_OPTIONS, 0),
        segment(Reply, SYN | ACK, 7000, 1001, 65_000, SYN_OPTIONS, 0),
        segment(Original, ACK, 1001, 7001, 501, &[], 0),
        segment(Original, push, 1001, 7001, 501, &[], 1000),
        segment(Reply, ACK, 7001, 2001, 509, &[], 0),
        segment(Reply, push, 7001, 2001, 509, &[], 1300),
        segment(Original, push, 2001, 8301, 480, &[], 1500),
        segment(Original, push, 4901, 8301, 480, &[], 1400),
        segment(Reply, ACK, 8301, 3501, 490, &sack, 0),
        segment(Original, push, 3501, 8301, 480, &[], 1400),
        segment(Reply, ACK, 8301, 6301, 490, &[], 0),
        segment(Original, FIN | ACK, 6301, 8301, 480, &[], 0),
        segment(Reply, ACK, 8301, 6302, 490, &[], 0),
        segment(Reply, FIN | ACK, 8301, 6302, 490, &[], 0),
        segment(Original, ACK, 6302, 8302, 480, &[], 0),
    ]
}

/// The worker may be killed while it writes the words, or before the state: the packet was not sent, so it comes again.
#[test]
fn a_connection_goes_on_from_words_that_a_packet_had_changed_only_in_part() {
    let packets = conversation();
    let s = Sysctl::default();
    let judge = |(state, words, mut bits): (u32, [u64; 7], u32), (dir, l4): &(Dir, Vec<u8>)| {
        let mut c = Connection::from_words(state, &words);
        let step = c.judge(*dir, &Segment::of(l4).unwrap(), &mut bits, &s);
        // The tracker sets it once the packet is accepted.
        let seen = if *dir == Reply { sumun_config::facts::status::SEEN_REPLY } else { 0 };
        (step, (c.state as u32, c.words(), bits | seen))
    };
    let mut old = (0, [0; 7], 0);
    for (i, packet) in packets.iter().enumerate() {
        let (step, new) = judge(old, packet);
        assert!(matches!(step, super::super::Step::Moved { .. }), "packet {i}: {step:?}");
        // A first packet that is killed has left no flow.
        let cuts = if i == 0 { 0..0 } else { 0..9 };
        for cut in cuts {
            let words = std::array::from_fn(|n| if n < cut { new.1[n] } else { old.1[n] });
            let mut torn = if cut == 8 { new } else { (old.0, words, old.2) };
            for (k, packet) in packets[i..].iter().enumerate() {
                let (step, next) = judge(torn, packet);
                let said = matches!(step, super::super::Step::Moved { .. } | super::super::Step::Ignored);
                assert!(said, "packet {i} cut at {cut}, then packet {}: {step:?}", i + k);
                torn = next;
            }
            assert_eq!(State::from_bits(torn.0), State::TimeWait, "packet {i} cut at {cut}");
        }
        old = new;
    }
}
