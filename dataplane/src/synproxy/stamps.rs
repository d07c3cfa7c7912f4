//! Timestamps of a connection whose server counts otherwise than the router did in its place.

use crate::packet::edit;
use crate::packet::view::Tcp;
use sumun_config::facts::{Dir, Facts};

const END: u8 = 0;
const NOP: u8 = 1;
const STAMPS: u8 = 8;

/// Moves what the server says its time is to what the client was told, by `offset`, and what the client answers back
/// (`synproxy_tstamp_adjust`). The first timestamps of a segment count; malformed options before them leave it as it is.
pub fn move_timestamps(l3: &mut [u8], facts: &Facts, dir: Dir, offset: u32) {
    let l4 = usize::from(facts.l4_off);
    let Some(len) = l3.get(l4..).and_then(Tcp::new).map(Tcp::header_len) else { return };
    let (mut at, end) = (l4 + Tcp::LEN, (l4 + len).min(l3.len()));
    while at < end {
        match l3[at..end] {
            [NOP, ..] => at += 1,
            [STAMPS, 10, a, b, c, d, e, f, g, h, ..] => {
                return match dir {
                    Dir::Reply => {
                        edit::set_long(l3, facts, at + 2, u32::from_be_bytes([a, b, c, d]).wrapping_sub(offset));
                    }
                    Dir::Original => {
                        edit::set_long(l3, facts, at + 6, u32::from_be_bytes([e, f, g, h]).wrapping_add(offset));
                    }
                };
            }
            [kind, len, ..] if kind != END && len >= 2 => at += usize::from(len),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{parse, sample};
    use proptest::prelude::*;
    use sumun_config::facts::{Family, proto};

    fn moved(options: &[u8], dir: Dir, offset: u32) -> Vec<u8> {
        let mut l3 = sample::packet(Family::V4, proto::TCP, &sample::tcp(1, 2, 0x10, options, b"data"));
        let facts = parse::ip(Family::V4, &l3).unwrap();
        move_timestamps(&mut l3, &facts, dir, offset);
        assert!(parse::l4_checksum_ok(&facts, &l3));
        l3[40..40 + options.len()].to_vec()
    }

    #[test]
    fn the_servers_time_moves_one_way_and_its_echo_the_other() {
        let options = |value: u32, echo: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat();
        assert_eq!(moved(&options(100, 50), Dir::Reply, 30), options(70, 50));
        assert_eq!(moved(&options(50, 70), Dir::Original, 30), options(50, 100));
        assert_eq!(moved(&options(10, 50), Dir::Reply, 30), options(10u32.wrapping_sub(30), 50));
        let odd = [&[1, 8, 10][..], &100u32.to_be_bytes(), &50u32.to_be_bytes(), &[0]].concat();
        assert_eq!(moved(&odd, Dir::Reply, 256)[3..7], 100u32.wrapping_sub(256).to_be_bytes());
    }

    #[test]
    fn what_is_no_timestamp_stays() {
        for options in [
            &[][..],
            &[0, 8, 10, 0],
            &[8, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
            &[3, 0, 8, 10],
            &[5, 40, 1, 1],
            &[1, 1, 1, 8],
        ] {
            assert_eq!(moved(options, Dir::Reply, 7), options);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(options in proptest::collection::vec(any::<u8>(), 0..10), offset: u32, original: bool) {
            let options: Vec<u8> = options.iter().flat_map(|o| [o % 9, 2 + o % 11, *o, 4]).collect();
            moved(&options, if original { Dir::Original } else { Dir::Reply }, offset);
        }
    }
}
