use super::*;
use crate::facts::PacketType;
use crate::rule::matches::harness::Judge;

/// Instructions as text, as in a rule but without their number.
fn program(text: &str) -> Vec<Instruction> {
    let numbers = |part: &str| part.split(' ').map(|n| n.parse::<u32>().expect("a number")).collect::<Vec<_>>();
    let instruction = |part: &str| match numbers(part)[..] {
        [code, jt, jf, k] => Instruction { code: code as u16, jt: jt as u8, jf: jf as u8, k },
        _ => panic!("{part}"),
    };
    text.split(',').map(instruction).collect()
}

fn returns(text: &str, facts: &Facts, l3: &[u8]) -> u32 {
    let program = program(text);
    assert_eq!(check(&program), Ok(()), "{text}");
    let mut judge = Judge::new(facts.family, "");
    judge.random.set(77);
    judge.core = 3;
    let cx = Context { l3, now: 0, wall: 0, around: &judge, cells: &[] };
    run(&program, facts, &cx)
}

const PACKET: [u8; 10] = [0x45, 1, 2, 3, 4, 5, 6, 7, 8, 9];

#[test]
fn instructions_do_what_they_say() {
    for (text, expected) in [
        ("6 0 0 9", 9),
        ("22 0 0 0", 0),
        ("0 0 0 7,22 0 0 0", 7),
        ("32 0 0 1,22 0 0 0", 0x0102_0304),
        ("40 0 0 8,22 0 0 0", 0x0809),
        ("48 0 0 9,22 0 0 0", 9),
        ("1 0 0 3,64 0 0 2,22 0 0 0", 0x0506_0708),
        ("1 0 0 3,72 0 0 2,22 0 0 0", 0x0506),
        ("1 0 0 3,80 0 0 2,22 0 0 0", 5),
        ("128 0 0 0,22 0 0 0", 10),
        ("129 0 0 0,135 0 0 0,22 0 0 0", 10),
        ("177 0 0 0,135 0 0 0,22 0 0 0", 20),
        ("0 0 0 5,2 0 0 3,0 0 0 0,96 0 0 3,22 0 0 0", 5),
        ("1 0 0 5,3 0 0 3,97 0 0 3,135 0 0 0,22 0 0 0", 5),
        ("0 0 0 5,7 0 0 0,0 0 0 1,135 0 0 0,22 0 0 0", 5),
        // A = 200, X = 3, then the operation with each.
        ("0 0 0 200,4 0 0 4294967295,22 0 0 0", 199),
        ("0 0 0 200,20 0 0 201,22 0 0 0", u32::MAX),
        ("0 0 0 200,36 0 0 3,22 0 0 0", 600),
        ("0 0 0 200,52 0 0 3,22 0 0 0", 66),
        ("0 0 0 200,148 0 0 3,22 0 0 0", 2),
        ("0 0 0 200,68 0 0 7,22 0 0 0", 207),
        ("0 0 0 200,84 0 0 15,22 0 0 0", 8),
        ("0 0 0 200,164 0 0 255,22 0 0 0", 55),
        ("0 0 0 200,100 0 0 31,22 0 0 0", 0),
        ("0 0 0 200,116 0 0 3,22 0 0 0", 25),
        ("0 0 0 200,132 0 0 0,22 0 0 0", 200u32.wrapping_neg()),
        ("0 0 0 200,1 0 0 3,12 0 0 0,22 0 0 0", 203),
        ("0 0 0 200,1 0 0 3,28 0 0 0,22 0 0 0", 197),
        ("0 0 0 200,1 0 0 3,44 0 0 0,22 0 0 0", 600),
        ("0 0 0 200,1 0 0 3,60 0 0 0,22 0 0 0", 66),
        ("0 0 0 200,1 0 0 3,156 0 0 0,22 0 0 0", 2),
        ("0 0 0 200,1 0 0 3,76 0 0 0,22 0 0 0", 203),
        ("0 0 0 200,1 0 0 3,92 0 0 0,22 0 0 0", 0),
        ("0 0 0 200,1 0 0 3,172 0 0 0,22 0 0 0", 203),
        ("0 0 0 200,1 0 0 33,108 0 0 0,22 0 0 0", 400),
        ("0 0 0 200,1 0 0 33,124 0 0 0,22 0 0 0", 100),
        ("5 0 0 1,6 0 0 1,6 0 0 2", 2),
        ("0 0 0 5,21 0 1 5,6 0 0 1,6 0 0 2", 1),
        ("0 0 0 5,37 0 1 5,6 0 0 1,6 0 0 2", 2),
        ("0 0 0 5,53 0 1 5,6 0 0 1,6 0 0 2", 1),
        ("0 0 0 5,69 0 1 2,6 0 0 1,6 0 0 2", 2),
        ("0 0 0 5,1 0 0 4,29 0 1 0,6 0 0 1,6 0 0 2", 2),
        ("0 0 0 5,1 0 0 4,45 0 1 0,6 0 0 1,6 0 0 2", 1),
        ("0 0 0 4294967295,1 0 0 4,61 0 1 0,6 0 0 1,6 0 0 2", 1),
        ("0 0 0 5,1 0 0 4,77 0 1 0,6 0 0 1,6 0 0 2", 1),
    ] {
        assert_eq!(returns(text, &Facts::blank(Family::V4), &PACKET), expected, "{text}");
    }
}

#[test]
fn what_is_not_there_ends_with_zero() {
    for text in [
        "32 0 0 7,6 0 0 1",
        "40 0 0 9,6 0 0 1",
        "48 0 0 10,6 0 0 1",
        "48 0 0 2147483647,6 0 0 1",
        "48 0 0 2147483648,6 0 0 1",
        "1 0 0 4294967295,80 0 0 0,6 0 0 1",
        "177 0 0 10,6 0 0 1",
        "1 0 0 0,60 0 0 0,6 0 0 1",
        "1 0 0 0,156 0 0 0,6 0 0 1",
        "48 0 0 4292870144,6 0 0 1", // the link header of a packet that has none
        "48 0 0 4293918730,6 0 0 1",
    ] {
        assert_eq!(returns(text, &Facts::blank(Family::V4), &PACKET), 0, "{text}");
    }
}

#[test]
fn negative_offsets_reach_the_link_the_packet_and_what_is_known_of_it() {
    let facts = Facts {
        has_link: true,
        dmac: [1, 2, 3, 4, 5, 6],
        smac: [7, 8, 9, 10, 11, 12],
        mark: 99,
        pkt_type: PacketType::Multicast,
        ..Facts::blank(Family::V6)
    };
    for (text, expected) in [
        ("48 0 0 4293918729,22 0 0 0", 9),
        ("32 0 0 4292870144,22 0 0 0", 0x0102_0304),
        ("32 0 0 4292870154,22 0 0 0", 0x0b0c_86dd),
        ("32 0 0 4292870156,22 0 0 0", 0x86dd_4501),
        ("1 0 0 4293918720,80 0 0 3,22 0 0 0", 3),
        ("40 0 0 4294963200,22 0 0 0", 0x86dd),
        ("32 0 0 4294963204,22 0 0 0", 2),
        ("32 0 0 4294963220,22 0 0 0", 99),
        ("0 0 0 5,1 0 0 6,32 0 0 4294963240,22 0 0 0", 3),
        ("0 0 0 5,32 0 0 4294963244,22 0 0 0", 0),
        ("0 0 0 5,32 0 0 4294963248,22 0 0 0", 0),
        ("0 0 0 5,32 0 0 4294963260,22 0 0 0", 0),
        ("32 0 0 4294963236,22 0 0 0", 3),
        ("32 0 0 4294963256,22 0 0 0", 77),
    ] {
        assert_eq!(returns(text, &facts, &PACKET), expected, "{text}");
    }
}

#[test]
fn memory_must_be_written_on_every_way() {
    for (text, sound) in [
        ("2 0 0 1,96 0 0 1,22 0 0 0", true),
        ("2 0 0 1,96 0 0 2,22 0 0 0", false),
        ("21 0 1 0,2 0 0 1,96 0 0 1,22 0 0 0", false),
        ("2 0 0 1,21 0 1 0,2 0 0 2,96 0 0 1,22 0 0 0", true),
        ("21 0 2 0,2 0 0 1,5 0 0 1,3 0 0 1,96 0 0 1,22 0 0 0", true),
        ("5 0 0 1,2 0 0 1,96 0 0 1,22 0 0 0", false),
    ] {
        assert_eq!(check(&program(text)).is_ok(), sound, "{text}");
    }
}

#[test]
fn codes_of_the_kernel_and_no_others_are_known() {
    // `chk_code_allowed` of the kernel knows so many.
    let known = |code: u16| Instruction { code, jt: 0, jf: 0, k: 1 }.kind().is_some();
    assert_eq!((0..=u16::MAX).filter(|&code| known(code)).count(), 49);
}
