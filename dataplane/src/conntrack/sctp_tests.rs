use super::*;
use Dir::{Original, Reply};

/// The kernel's table, a row for each chunk and direction; columns are the states in the order of their numbers.
const TABLE: &[(Dir, u8, &str)] = &[
    //                                 NO CL CW CE ES SS SR SA HS
    (Original, chunk::INIT, "CL CL CW CE ES CL CL SA CW"),
    (Original, chunk::INIT_ACK, "CL CL CW CE ES SS SR SA CL"),
    (Original, chunk::ABORT, "CL CL CL CL CL CL CL CL CL"),
    (Original, chunk::SHUTDOWN, "CL CL CW CE SS SS SR SA CL"),
    (Original, chunk::SHUTDOWN_ACK, "SA CL CW CE ES SA SA SA SA"),
    (Original, chunk::ERROR, "CL CL CW CE ES SS SR SA CL"),
    (Original, chunk::COOKIE_ECHO, "CL CL CE CE ES SS SR SA CL"),
    (Original, chunk::COOKIE_ACK, "CL CL CW CE ES SS SR SA CL"),
    (Original, chunk::SHUTDOWN_COMPLETE, "CL CL CW CE ES SS SR CL CL"),
    (Original, chunk::HEARTBEAT, "HS CL CW CE ES SS SR SA HS"),
    (Original, chunk::HEARTBEAT_ACK, "CL CL CW CE ES SS SR SA HS"),
    (Original, chunk::DATA, "NO CL CW CE ES SS SR SA HS"),
    (Reply, chunk::INIT, "-  CL CW CE ES SS SR SA - "),
    (Reply, chunk::INIT_ACK, "-  CW CW CE ES SS SR SA - "),
    (Reply, chunk::ABORT, "-  CL CL CL CL CL CL CL - "),
    (Reply, chunk::SHUTDOWN, "-  CL CW CE SR SS SR SA - "),
    (Reply, chunk::SHUTDOWN_ACK, "-  CL CW CE ES SA SA SA - "),
    (Reply, chunk::ERROR, "-  CL CW CL ES SS SR SA - "),
    (Reply, chunk::COOKIE_ECHO, "-  CL CW CE ES SS SR SA - "),
    (Reply, chunk::COOKIE_ACK, "-  CL CW ES ES SS SR SA - "),
    (Reply, chunk::SHUTDOWN_COMPLETE, "-  CL CW CE ES SS SR CL - "),
    (Reply, chunk::HEARTBEAT, "-  CL CW CE ES SS SR SA HS"),
    (Reply, chunk::HEARTBEAT_ACK, "-  CL CW CE ES SS SR SA ES"),
];

#[test]
fn the_state_table_is_the_kernels() {
    for (dir, kind, row) in TABLE {
        let short = |state: Option<State>| {
            state.map_or("-", |s| ["NO", "CL", "CW", "CE", "ES", "SS", "SR", "SA", "HS"][s as usize])
        };
        let found: Vec<&str> = State::ALL.iter().map(|s| short(next(*s, *dir, *kind))).collect();
        assert_eq!(found, row.split_whitespace().collect::<Vec<_>>(), "{dir:?} {kind}");
    }
}

#[test]
fn an_association_survives_its_words() {
    for state in State::ALL {
        for doubted in [None, Some(Original), Some(Reply)] {
            let a = Association { state, tags: [1, u32::MAX], doubted };
            assert_eq!(Association::from_words(state as u32, &a.words()), a);
        }
    }
    assert_eq!(Association::from_words(0, &[0; 7]), Association::NEW);
    Association::from_words(u32::MAX, &[u64::MAX; 7]);
}

#[test]
fn chunks_that_are_cut_off_or_never_end_are_refused() {
    let header = [0u8; 12];
    let with = |chunks: &[u8]| Packet::of(&[&header, chunks].concat()).map(|p| p.types);
    assert_eq!(Packet::of(&header[..11]).unwrap_err(), Invalid::Truncated);
    for bad in [&[][..], &[0, 0, 0], &[0, 0, 0, 0], &[0, 0, 0, 4, 0, 0, 0, 0], &[0, 0, 0, 4, 1, 0, 0, 20]] {
        assert_eq!(with(bad), Err(Invalid::SctpChunks), "{bad:?}");
    }
    assert_eq!(with(&[3, 0, 0, 5, 9, 9, 9, 9, 0, 0, 0xff, 0xff]), Ok(1 << 3 | 1));
}
