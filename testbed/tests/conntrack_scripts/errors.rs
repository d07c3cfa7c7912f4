//! ICMP errors: every type and code about flows of every protocol, from both sides, with and without NAT, and those that are
//! not what they say.

use anyhow::Result;
use sumun_config::facts::{Family, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, WAN, of};
use sumun_testbed::differential::script::{
    ACK, Datagram, Icmp, Raw, SYN, Script, Step, TELL, Talk, Upper, arrives, expect_none, segment,
};
use sumun_testbed::differential::traffic::{Answer, hosts};
use sumun_testbed::differential::wire::{self, Ip};

/// What is mapped: nothing, the client, or the server.
const MAPPINGS: [(&str, &str, &str); 3] = [
    ("no NAT", "", ""),
    (
        "MASQUERADE",
        "*nat\n-A POSTROUTING -o wan0 -p tcp -j MASQUERADE --to-ports 6000\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n",
        "*nat\n-A POSTROUTING -o wan0 -p tcp -j MASQUERADE --to-ports 6000\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n",
    ),
    (
        "DNAT",
        "*nat\n-A PREROUTING -i lan0 -p udp -j DNAT --to-destination 203.0.113.10:8080\n-A PREROUTING -i lan0 -j DNAT --to-destination 203.0.113.10\nCOMMIT\n",
        "*nat\n-A PREROUTING -i lan0 -p udp -j DNAT --to-destination [2001:db8:2::10]:8080\n-A PREROUTING -i lan0 -j DNAT --to-destination 2001:db8:2::10\nCOMMIT\n",
    ),
];

/// Types and codes of errors, with the second word, and what is no error.
fn kinds(family: Family) -> Vec<(u8, u8, u32)> {
    let v4 = [
        (3, 0..17),
        (4, 0..2),
        (5, 0..4),
        (11, 0..3),
        (12, 0..3),
        (1, 0..1),
        (2, 0..1),
        (7, 0..1),
        (19, 0..1),
        (41, 0..1),
    ];
    let v6 = [(1, 0..9), (2, 0..2), (3, 0..3), (4, 0..4), (0, 0..1), (5, 0..1), (100, 0..1), (127, 0..1), (160, 0..1)];
    let with_words = |(kind, code)| {
        let word = match (family, kind, code) {
            (Family::V4, 3, 4) => 1280,
            (Family::V4, 5, _) => 0xc0a8_0101,
            (Family::V4, 12, _) => 9 << 24,
            (Family::V6, 2, _) => 1280,
            (Family::V6, 4, _) => 6,
            _ => 0,
        };
        (kind, code, word)
    };
    let all = |ranges: &[(u8, std::ops::Range<u8>)]| {
        ranges.iter().flat_map(|(kind, codes)| codes.clone().map(|code| (*kind, code))).map(with_words).collect()
    };
    of(family, all(&v4), all(&v6))
}

/// What a flow begins with, by name: protocol and the bytes of its first packet.
fn beginnings(family: Family) -> Vec<(&'static str, Vec<u8>)> {
    let talk = Talk::new(family);
    let echo = Icmp(of(family, 8, 128), 0, 0x1234_0001, b"echo echo");
    vec![
        ("TCP", talk.packet(&segment(SYN).seq(1000))),
        ("UDP", talk.packet(&Datagram(b"some datagram"))),
        ("echo", talk.packet(&echo)),
        ("SCTP", talk.packet(&Raw(proto::SCTP, &wire::sctp((5000, 80), 0, &wire::init(1, 77))))),
        ("UDP-Lite", talk.packet(&Raw(proto::UDPLITE, &wire::udp((5000, 80), b"light")))),
        ("GRE", talk.packet(&Raw(proto::GRE, &[0, 0, 8, 0, 1, 2, 3, 4]))),
        ("PPTP's GRE", talk.packet(&Raw(proto::GRE, &[0x20, 1, 0x88, 0x0b, 0, 4, 0, 9, 1, 2, 3, 4]))),
        ("another protocol", talk.packet(&Raw(200, b"whatever it is"))),
    ]
}

fn error(kind: u8, code: u8, rest: u32, from: Option<u128>, quote: usize) -> Answer {
    Answer::Error { kind, code, rest, from, quote }
}

/// An opening for each protocol and mapping, and after it what `with` adds: the packet that came out is one step back, the
/// answer, where the server gives one, too.
fn about_all(family: Family, with: impl Fn(Script, usize) -> Script) -> Vec<Script> {
    let mut scripts = Vec::new();
    for (mapping, v4, v6) in MAPPINGS {
        for (name, packet) in beginnings(family) {
            let script = Script::new(
                &format!("{name}, {mapping}, {}", family.name()),
                family,
                &(TELL.to_string() + of(family, v4, v6)),
            );
            // The kernel takes every checksum of UDP-Lite for wrong: it counts in the number of UDP.
            let checked = if name == "UDP-Lite" { "0" } else { "1" };
            let script = script.set("nf_conntrack_checksum", checked);
            let script = with(script.note("about the first packet").step(arrives(LAN, &packet)), 1);
            let to = script.len();
            let reply = match name {
                "TCP" => Answer::Segment { seq: 5000, ack: 1001, flags: SYN | ACK, len: 0 },
                _ => Answer::Reply { len: 12 },
            };
            let script = script.note("about the answer").answer(to, reply);
            scripts.push(with(script, 1));
        }
    }
    scripts
}

fn every_error_about_every_protocol_from_both_sides(kernel: &mut Kernel) -> Result<()> {
    for family in Family::ALL {
        let other = hosts(family).1[0];
        let scripts = about_all(family, |script, back| {
            kinds(family).into_iter().enumerate().fold(script, |script, (n, (kind, code, rest))| {
                let from = (n % 2 == 1).then_some(other);
                script.answer(back + n, error(kind, code, rest, from, 1200))
            })
        });
        expect_none(kernel, &scripts)?;
    }
    Ok(())
}

fn quotes_of_every_length(kernel: &mut Kernel) -> Result<()> {
    for family in Family::ALL {
        let kind = of(family, 11, 3);
        let scripts = about_all(family, |script, back| {
            (0..of(family, 50, 70)).fold(script, |script, n| script.answer(back + n, error(kind, 0, 0, None, n)))
        });
        expect_none(kernel, &scripts)?;
    }
    Ok(())
}

fn errors_that_are_not_what_they_say(kernel: &mut Kernel) -> Result<()> {
    for family in Family::ALL {
        let talk = Talk::new(family);
        let (lan, wan) = hosts(family);
        let header = of(family, 20, 40);
        let unreachable = of(family, (3, 1), (1, 3));
        let first = talk.packet(&Datagram(b"the datagram in question"));
        // An error from the server about `quote`, to the client.
        let about = |quote: &[u8]| talk.back(&Icmp(unreachable.0, unreachable.1, 0, quote));
        let changed = |at: usize, to: u8| {
            let mut quote = first.clone();
            quote[at] = to;
            quote
        };
        let with_first =
            |name: &str| Script::new(&format!("{name}, {}", family.name()), family, TELL).step(arrives(LAN, &first));
        let damaged = |step: Step| match step {
            Step::Traffic(sumun_testbed::differential::traffic::Step::Fresh { port, mut frame }) => {
                let last = frame.len() - 1;
                frame[last] ^= 1;
                Step::Traffic(sumun_testbed::differential::traffic::Step::Fresh { port, frame })
            }
            other => other,
        };
        let elsewhere = Ip::new(family, talk.server.address, lan[1]);
        let icmp = of(family, proto::ICMP, proto::ICMPV6);
        let inner_error = talk.reversed().packet(&Icmp(unreachable.0, unreachable.1, 0, &first));
        let mut scripts =
            vec![
                with_first("every byte of the quoted headers is another")
                    .steps((0..header + 8).map(|at| about(&changed(at, first[at].wrapping_add(1)))))
                    .steps((0..header + 8).map(|at| about(&changed(at, first[at] ^ 0x80)))),
                with_first("its own checksum is wrong").step(damaged(about(&first))),
                with_first("it goes to somebody else").step(arrives(
                    WAN,
                    &elsewhere.packet(icmp, &wire::icmp(unreachable.0, unreachable.1, 0, &first), 1),
                )),
                with_first("it comes from the client's own side").step(talk.there(&Icmp(
                    unreachable.0,
                    unreachable.1,
                    0,
                    &first,
                ))),
                with_first("an error about an error").step(about(&inner_error)).step(talk.there(&Icmp(
                    unreachable.0,
                    unreachable.1,
                    0,
                    &inner_error,
                ))),
                with_first("about the answer that never came").step(talk.there(&Icmp(
                    unreachable.0,
                    unreachable.1,
                    0,
                    &talk.reversed().packet(&Datagram(b"no")),
                ))),
                Script::new("about nothing", family, TELL).step(about(&first)),
                Script::new("about an echo reply that nobody asked for", family, TELL)
                    .step(about(&talk.packet(&Icmp(of(family, 0, 129), 0, 7 << 16, b"x")))),
                Script::new("from somebody on the way", family, TELL).step(arrives(LAN, &first)).step(arrives(
                    WAN,
                    &Ip::new(family, wan[2], talk.client.address).packet(
                        icmp,
                        &wire::icmp(unreachable.0, unreachable.1, 0, &first),
                        1,
                    ),
                )),
            ];
        if family == Family::V4 {
            for (name, word) in
                [("a first fragment", 0x2000u16), ("a later fragment", 0x0010), ("a last fragment", 0x2010)]
            {
                let mut quote = first.clone();
                quote[6..8].copy_from_slice(&word.to_be_bytes());
                wire::fix_header(&mut quote);
                scripts.push(with_first(&format!("about {name}")).step(about(&quote)));
            }
            let mut with_options = Ip::new(family, talk.client.address, talk.server.address);
            with_options.options = vec![1, 1, 1, 0];
            let (protocol, l4) = Datagram(b"the datagram in question").bytes(family, (5000, 80));
            scripts.push(with_first("with options quoted").step(about(&with_options.packet(protocol, &l4, 1))));
        }
        expect_none(kernel, &scripts)?;
    }
    Ok(())
}

#[test]
fn errors_as_the_kernel_has_it() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-errors", std::process::id()))?;
    every_error_about_every_protocol_from_both_sides(&mut kernel)?;
    quotes_of_every_length(&mut kernel)?;
    errors_that_are_not_what_they_say(&mut kernel)
}
