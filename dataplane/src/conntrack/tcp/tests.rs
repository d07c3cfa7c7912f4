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
