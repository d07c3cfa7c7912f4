//! Fragments: gathered before conntrack in any order, judged as one packet, and sent on as they came.

use anyhow::Result;
use sumun_config::facts::{Family, PortId, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, WAN, of};
use sumun_testbed::differential::script::{Datagram, Icmp, Raw, Script, Step, TELL, Talk, arrives, expect_none};
use sumun_testbed::differential::traffic::own;
use sumun_testbed::differential::wire::{self, Ip, fragment, fragments};

/// A datagram of so many bytes of IP payload, from the client to the server.
fn datagram(talk: &Talk, len: usize) -> Vec<u8> {
    talk.packet(&Datagram(&bytes(len - 8)))
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8).collect()
}

fn arrive(port: PortId, pieces: &[Vec<u8>]) -> Vec<Step> {
    pieces.iter().map(|piece| arrives(port, piece)).collect()
}

/// The pieces of `of` in this order.
fn ordered(of: &[Vec<u8>], order: &[usize]) -> Vec<Step> {
    order.iter().map(|n| arrives(LAN, &of[*n])).collect()
}

fn in_both(make: impl Fn(Family, &Talk) -> Vec<Script>) -> Vec<Script> {
    Family::ALL.into_iter().flat_map(|family| make(family, &Talk::new(family))).collect()
}

fn fragments_in_any_order_are_one_packet(kernel: &mut Kernel) -> Result<()> {
    let scripts = in_both(|family, talk| {
        let script = |name: &str| Script::new(&format!("{name}, {}", family.name()), family, TELL);
        let packet = datagram(talk, 3000);
        let three = fragments(&packet, 1000, 1);
        let two = fragments(&packet, 1600, 1);
        let mut scripts = Vec::new();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            scripts.push(script(&format!("three in the order {order:?}")).steps(ordered(&three, &order)));
        }
        for size in [8, 16, 248, 1232, 1240, 1248, 1256, 1264, 1272, 1280, 1400, 1440, 1480] {
            let len = if size < 100 { 200 } else { 2 * size + 9 };
            let pieces = fragments(&datagram(talk, len), size, 9);
            let fits = pieces.iter().all(|p| p.len() <= 1500);
            if fits {
                scripts.push(script(&format!("pieces of {size}")).steps(arrive(LAN, &pieces)));
            }
        }
        scripts.extend([
            script("an answer in fragments")
                .step(talk.there(&Datagram(b"short")))
                .steps(arrive(WAN, &fragments(&talk.reversed().packet(&Datagram(&bytes(2000))), 1200, 5))),
            script("the same again").steps(arrive(LAN, &three)).steps(arrive(LAN, &three)),
            script("each twice").steps(ordered(&three, &[0, 0, 1, 1, 2, 2])),
            script("the first twice").steps(ordered(&three, &[0, 0, 1, 2])),
            script("the last twice").steps(ordered(&three, &[2, 2, 1, 0])),
            script("the middle twice").steps(ordered(&three, &[1, 0, 1, 2])),
            script("the first is missing, then comes").steps(ordered(&three, &[1, 2, 1, 0])),
            script("another id").steps(ordered(&three, &[0, 1])).step(arrives(LAN, &{
                let mut other = three[2].clone();
                let at = of(family, 5, 47);
                other[at] ^= 1;
                if family == Family::V4 {
                    wire::fix_header(&mut other);
                }
                other
            })),
            script("pieces of two packets in turn").steps({
                let other = fragments(&datagram(&talk.from(6000), 2000), 1000, 2);
                let mut other = other;
                if family == Family::V4 {
                    for piece in &mut other {
                        piece[5] = 2;
                        wire::fix_header(piece);
                    }
                }
                [&three[0], &other[0], &three[1], &other[1], &three[2]].map(|p| arrives(LAN, p))
            }),
            script("larger than the way out allows").steps(arrive(LAN, &fragments(&packet, 1440, 1))),
            script("one that is whole").step(arrives(LAN, &fragment(&datagram(talk, 800), 0, 800, 7))),
            script("damage in the second piece").steps({
                let mut pieces = two.clone();
                pieces.truncate(0);
                let mut damaged = three.clone();
                let last = damaged[1].len() - 1;
                damaged[1][last] ^= 1;
                pieces.extend(damaged);
                arrive(LAN, &pieces)
            }),
        ]);
        scripts
    });
    expect_none(kernel, &scripts)
}

fn fragments_that_contradict_each_other(kernel: &mut Kernel) -> Result<()> {
    let scripts = in_both(|family, talk| {
        let script = |name: &str| Script::new(&format!("{name}, {}", family.name()), family, TELL);
        let packet = datagram(talk, 2400);
        let longer = datagram(talk, 2480);
        let piece = |at: usize, len: usize| fragment(&packet, at, len, 1);
        let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
            ("overlap by eight", vec![piece(0, 808), piece(800, 800), piece(1600, 800)]),
            ("overlap, the later first", vec![piece(800, 800), piece(0, 808), piece(1600, 800)]),
            ("one within another", vec![piece(0, 1400), piece(800, 400), piece(1400, 1000)]),
            ("one around another", vec![piece(800, 400), piece(0, 1400), piece(1400, 1000)]),
            ("the same start, shorter", vec![piece(0, 800), piece(0, 400), piece(800, 800), piece(1600, 800)]),
            ("the same start, longer", vec![piece(0, 800), piece(0, 1000), piece(800, 800), piece(1600, 800)]),
            ("the same end", vec![piece(1600, 800), piece(2000, 400), piece(0, 1000), piece(1000, 600)]),
            (
                "two ends, the second farther",
                vec![piece(1600, 800), fragment(&longer, 1600, 880, 1), piece(0, 1000), piece(1000, 600)],
            ),
            (
                "two ends, the second nearer",
                vec![fragment(&longer, 1600, 880, 1), piece(1600, 800), piece(0, 1000), piece(1000, 600)],
            ),
            (
                "something behind the end",
                vec![piece(1600, 800), fragment(&longer, 2400, 80, 1), piece(0, 1000), piece(1000, 600)],
            ),
            (
                "the end before something",
                vec![fragment(&longer, 2400, 80, 1), piece(1600, 800), piece(0, 1000), piece(1000, 600)],
            ),
            (
                "after an overlap all comes right",
                vec![piece(0, 808), piece(800, 800), piece(0, 800), piece(800, 800), piece(1600, 800)],
            ),
            ("a duplicate with other bytes", {
                let mut other = piece(800, 800);
                let last = other.len() - 1;
                other[last] ^= 0xff;
                vec![piece(0, 800), piece(800, 800), other, piece(1600, 800)]
            }),
        ];
        let mut scripts: Vec<_> =
            cases.into_iter().map(|(name, pieces)| script(name).steps(arrive(LAN, &pieces))).collect();
        // A length that is no multiple of eight, in the middle.
        let mut odd = fragment(&packet, 0, 800, 1);
        odd.truncate(odd.len() - 3);
        wire::set_length(&mut odd);
        if family == Family::V4 {
            wire::fix_header(&mut odd);
        }
        scripts
            .push(script("an odd piece in the middle").steps(arrive(LAN, &[odd, piece(800, 800), piece(1600, 800)])));
        // Beyond the largest packet.
        let mut far = fragment(&packet, 0, 800, 1);
        match family {
            Family::V4 => {
                far[6..8].copy_from_slice(&0x1ffeu16.to_be_bytes());
                wire::fix_header(&mut far);
            }
            Family::V6 => far[42..44].copy_from_slice(&0xfff0u16.to_be_bytes()),
        }
        scripts.push(
            script("beyond the largest packet")
                .steps(arrive(LAN, &[far, piece(0, 800), piece(800, 800), piece(1600, 800)])),
        );
        // Nothing in it.
        let mut empty = fragment(&packet, 800, 0, 1);
        wire::set_length(&mut empty);
        if family == Family::V4 {
            wire::fix_header(&mut empty);
        }
        scripts.push(
            script("a piece of nothing").steps(arrive(LAN, &[empty, piece(0, 800), piece(800, 800), piece(1600, 800)])),
        );
        scripts
    });
    expect_none(kernel, &scripts)
}

fn what_is_gathered_is_one_packet_to_rules_nat_and_the_router_itself(kernel: &mut Kernel) -> Result<()> {
    let scripts = in_both(|family, talk| {
        let script = |name: &str, rules: &str| Script::new(&format!("{name}, {}", family.name()), family, rules);
        let packet = datagram(talk, 2400);
        let pieces = fragments(&packet, 1000, 1);
        let echo = Icmp(of(family, 8, 128), 0, 0x7777_0001, &bytes(2000));
        let mut to_router = *talk;
        to_router.server.address = own(family)[0];
        let error_about = |quoted: &[u8]| talk.reversed().packet(&Icmp(of(family, 3, 1), of(family, 3, 4), 0, quoted));
        let sctp = wire::sctp((5000, 80), 0, &[wire::init(1, 9), bytes(1600)].concat());
        let mut scripts = vec![
            script("by masquerade", &format!("{TELL}*nat\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n"))
                .steps(arrive(LAN, &pieces)),
            script(
                "by masquerade to another port",
                &format!("{TELL}*nat\n-A POSTROUTING -o wan0 -p udp -j MASQUERADE --to-ports 6000\nCOMMIT\n"),
            )
            .steps(arrive(LAN, &pieces)),
            script(
                "its length to rules",
                "*filter\n-A FORWARD -m length --length 1000:65535 -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n",
            )
            .steps(arrive(LAN, &pieces)),
            script("refused", &format!("{TELL}*filter\n-A FORWARD -p udp -j REJECT\nCOMMIT\n"))
                .steps(arrive(LAN, &pieces)),
            script(
                "not tracked, it is gathered all the same",
                &format!("{TELL}*raw\n-A PREROUTING -j NOTRACK\nCOMMIT\n"),
            )
            .steps(arrive(LAN, &pieces)),
            script("a ping through the router", TELL).steps(arrive(LAN, &fragments(&talk.packet(&echo), 1000, 1))),
            script("a ping of the router", TELL).steps(arrive(LAN, &fragments(&to_router.packet(&echo), 1000, 1))),
            script("a datagram to the router", TELL)
                .steps(arrive(LAN, &fragments(&to_router.packet(&Datagram(&bytes(2000))), 1000, 1))),
            script("an error in fragments", TELL)
                .step(talk.there(&Datagram(&bytes(1000))))
                .steps(arrive(WAN, &fragments(&error_about(&talk.packet(&Datagram(&bytes(1000)))), 504, 3))),
            script("an error about a fragment", TELL)
                .steps(arrive(LAN, &pieces))
                .step(arrives(WAN, &error_about(&pieces[0][..of(family, 500, 500)])))
                .step(arrives(WAN, &error_about(&pieces[1][..of(family, 500, 500)]))),
            script("SCTP in fragments", TELL)
                .steps(arrive(LAN, &fragments(&talk.packet(&Raw(proto::SCTP, &sctp)), 800, 1))),
            script("a hop too far", TELL).steps({
                let mut ip = Ip::new(family, talk.client.address, talk.server.address);
                ip.ttl = 1;
                arrive(LAN, &fragments(&ip.packet(proto::UDP, &wire::udp((5000, 80), &bytes(1500)), 1), 800, 1))
            }),
        ];
        if family == Family::V4 {
            let mut ip = Ip::new(family, talk.client.address, talk.server.address);
            ip.df = true;
            let df = |len: usize, size: usize| {
                fragments(&ip.packet(proto::UDP, &wire::udp((5000, 80), &bytes(len)), 1), size, 1)
            };
            let mut mixed = df(2000, 1000);
            mixed[0][6] &= !0x40;
            wire::fix_header(&mut mixed[0]);
            scripts.extend([
                script("not to be fragmented further, and it fits", TELL).steps(arrive(LAN, &df(2000, 1000))),
                script("not to be fragmented further, and it does not fit", TELL).steps(arrive(LAN, &df(2600, 1440))),
                script("not to be fragmented in part", TELL).steps(arrive(LAN, &mixed)),
            ]);
        }
        scripts
    });
    expect_none(kernel, &scripts)
}

fn what_never_becomes_whole_is_forgotten(kernel: &mut Kernel) -> Result<()> {
    let scripts = in_both(|family, talk| {
        let setting = of(family, "ipfrag_time", "nf_conntrack_frag6_timeout");
        let script = |name: &str| Script::new(&format!("{name}, {}", family.name()), family, TELL).set(setting, "1");
        let pieces = fragments(&datagram(talk, 2400), 1000, 1);
        let mut to_router = *talk;
        to_router.server.address = own(family)[0];
        let own = fragments(&to_router.packet(&Datagram(&bytes(2000))), 1000, 1);
        vec![
            script("the last comes too late")
                .steps(ordered(&pieces, &[0, 1]))
                .wait(1300)
                .steps(ordered(&pieces, &[2, 0, 1])),
            script("the first comes too late")
                .steps(ordered(&pieces, &[1, 2]))
                .wait(1300)
                .step(arrives(LAN, &pieces[0]))
                .wait(1300),
            script("to the router itself").step(arrives(LAN, &own[0])).wait(1300),
        ]
    });
    expect_none(kernel, &scripts)
}

#[test]
fn fragments_as_the_kernel_has_it() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-fragments", std::process::id()))?;
    fragments_in_any_order_are_one_packet(&mut kernel)?;
    fragments_that_contradict_each_other(&mut kernel)?;
    what_is_gathered_is_one_packet_to_rules_nat_and_the_router_itself(&mut kernel)?;
    what_never_becomes_whole_is_forgotten(&mut kernel)
}
