//! Flows of everything but TCP: SCTP's chunks in every state, datagrams, queries, GRE, and what conntrack knows nothing of.

use anyhow::Result;
use sumun_config::facts::{Family, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::of;
use sumun_testbed::differential::script::{Datagram, Icmp, Raw, Script, Step, TELL, Talk, expect_none};
use sumun_testbed::differential::wire::{self, chunk, init};

/// Verification tags of client and server: what the other end writes into its packets.
const TAGS: (u32, u32) = (11, 22);

/// Numbers of chunks.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// A chunk: whether the client sends it, its kind, and the verification tag.
type Sent = (bool, u8, u32);

/// An association that is open.
const OPEN: &[Sent] =
    &[(true, INIT, 0), (false, INIT_ACK, TAGS.0), (true, COOKIE_ECHO, TAGS.1), (false, COOKIE_ACK, TAGS.0)];

/// A way to a state: its name, an association to begin with, and what follows.
type Way = (&'static str, &'static [Sent], &'static [Sent]);

/// Ways to every state.
const STATES: &[Way] = &[
    ("NONE", &[], &[]),
    ("COOKIE_WAIT", &[], &[(true, INIT, 0)]),
    ("COOKIE_WAIT, answered", &[], &[(true, INIT, 0), (false, INIT_ACK, TAGS.0)]),
    ("COOKIE_ECHOED", &[], &[(true, INIT, 0), (false, INIT_ACK, TAGS.0), (true, COOKIE_ECHO, TAGS.1)]),
    ("both ends open", &[], &[(true, INIT, 0), (false, INIT, 0)]),
    ("both ends open, and one answers", &[], &[(true, INIT, 0), (false, INIT, 0), (true, INIT_ACK, TAGS.1)]),
    ("ESTABLISHED", OPEN, &[]),
    ("ESTABLISHED, opened again", OPEN, &[(true, INIT, 0)]),
    ("SHUTDOWN_SENT", OPEN, &[(true, SHUTDOWN, TAGS.1)]),
    ("SHUTDOWN_RECD", OPEN, &[(false, SHUTDOWN, TAGS.0)]),
    ("SHUTDOWN_ACK_SENT", OPEN, &[(true, SHUTDOWN, TAGS.1), (false, SHUTDOWN_ACK, TAGS.0)]),
    ("CLOSED", OPEN, &[(true, SHUTDOWN, TAGS.1), (false, SHUTDOWN_ACK, TAGS.0), (true, SHUTDOWN_COMPLETE, TAGS.1)]),
    ("CLOSED, aborted", OPEN, &[(true, ABORT, TAGS.1)]),
    ("HEARTBEAT_SENT", &[], &[(true, HEARTBEAT, TAGS.1)]),
    ("ESTABLISHED, by a heartbeat", &[], &[(true, HEARTBEAT, TAGS.1), (false, HEARTBEAT_ACK, TAGS.0)]),
];

fn chunks(kind: u8, from_client: bool) -> Vec<u8> {
    match kind {
        INIT | INIT_ACK => init(kind, if from_client { TAGS.0 } else { TAGS.1 }),
        HEARTBEAT | HEARTBEAT_ACK => chunk(kind, 0, &[0, 1, 0, 8, 1, 2, 3, 4]),
        COOKIE_ACK | SHUTDOWN_ACK | SHUTDOWN_COMPLETE | ABORT => chunk(kind, 0, &[]),
        SHUTDOWN => chunk(kind, 0, &[0, 0, 0, 1]),
        _ => chunk(kind, 3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
    }
}

fn sctp(talk: &Talk, from_client: bool, tag: u32, chunks: &[u8]) -> Step {
    let ends = (talk.client.number, talk.server.number);
    match from_client {
        true => talk.there(&Raw(proto::SCTP, &wire::sctp(ends, tag, chunks))),
        false => talk.back(&Raw(proto::SCTP, &wire::sctp((ends.1, ends.0), tag, chunks))),
    }
}

fn sent(talk: &Talk, (from_client, kind, tag): Sent) -> Step {
    sctp(talk, from_client, tag, &chunks(kind, from_client))
}

fn every_chunk_of_sctp_in_every_state(kernel: &mut Kernel) -> Result<()> {
    let mut scripts = Vec::new();
    for (family, tags) in [(Family::V4, 3), (Family::V6, 1)] {
        for (state, open, follows) in STATES {
            let mut script = Script::new(&format!("SCTP, {state}, {}", family.name()), family, TELL);
            let mut port = 5000;
            for kind in (0..=15).chain([0xc1, 200]) {
                for from_client in [true, false] {
                    let right = match (kind, from_client) {
                        (INIT, _) => 0,
                        (_, true) => TAGS.1,
                        (_, false) => TAGS.0,
                    };
                    for tag in [right, 99 - right, if from_client { TAGS.0 } else { TAGS.1 }].into_iter().take(tags) {
                        port += 1;
                        let talk = Talk::new(family).from(port);
                        script = script
                            .note(format!("{state}: chunk {kind}, from the client: {from_client}, tag {tag}"))
                            .lead(open.iter().chain(*follows).map(|s| sent(&talk, *s)))
                            .step(sent(&talk, (from_client, kind, tag)))
                            .lead([sent(&talk, (true, 0, TAGS.1)), sent(&talk, (false, 0, TAGS.0))])
                            .step(sent(&talk, (true, INIT, 0)));
                    }
                }
            }
            scripts.push(script);
        }
    }
    expect_none(kernel, &scripts)
}

fn packets_of_several_chunks_and_of_none(kernel: &mut Kernel) -> Result<()> {
    let talk = Talk::new(Family::V4);
    let opened = |name: &str| Script::new(name, Family::V4, TELL).lead(OPEN.iter().map(|s| sent(&talk, *s)));
    let begins = |name: &str| Script::new(name, Family::V4, TELL);
    let data = || chunks(0, true);
    let with_flags = |kind: u8, flags: u8, tag: u32| sctp(&talk, true, tag, &chunk(kind, flags, &[]));
    expect_none(
        kernel,
        &[
            begins("a cookie with data").lead([sent(&talk, OPEN[0]), sent(&talk, OPEN[1])]).steps([
                sctp(&talk, true, TAGS.1, &[chunks(COOKIE_ECHO, true), data()].concat()),
                sctp(&talk, false, TAGS.0, &[chunks(COOKIE_ACK, false), data()].concat()),
            ]),
            begins("INIT in company").step(sctp(&talk, true, 0, &[init(INIT, 5), data()].concat())),
            begins("INIT behind something").step(sctp(&talk, true, 0, &[data(), init(INIT, 5)].concat())),
            begins("INIT that is cut off").steps((4..20).map(|n| sctp(&talk, true, 0, &init(INIT, 5)[..n]))),
            begins("INIT without a tag").step(sctp(&talk, true, 0, &init(INIT, 0))),
            begins("no chunk at all").step(sctp(&talk, true, 0, &[])),
            begins("a heartbeat without a tag").step(sent(&talk, (true, HEARTBEAT, 0))),
            begins("INIT again and again").steps([1, 2, 3].map(|tag| sctp(&talk, true, 0, &init(INIT, tag)))).steps([
                sctp(&talk, false, 1, &init(INIT_ACK, 22)),
                sctp(&talk, false, 3, &init(INIT_ACK, 22)),
                sctp(&talk, true, 22, &chunks(COOKIE_ECHO, true)),
                sctp(&talk, false, 3, &chunks(COOKIE_ACK, false)),
            ]),
            opened("a chunk of no length").step(sctp(&talk, true, TAGS.1, &[0, 0, 0, 0])),
            opened("a chunk longer than the packet").step(sctp(&talk, true, TAGS.1, &[7, 0, 1, 0, 0, 0, 0, 1])),
            opened("a chunk of odd length, and another").step(sctp(
                &talk,
                true,
                TAGS.1,
                &[&[0, 3, 0, 5, 1, 0, 0, 0][..], &chunk(SHUTDOWN, 0, &[0; 4])].concat(),
            )),
            opened("two that close").step(sctp(
                &talk,
                true,
                TAGS.1,
                &[chunk(SHUTDOWN, 0, &[0; 4]), chunk(ABORT, 0, &[])].concat(),
            )),
            opened("aborted under its own tag").step(with_flags(ABORT, 1, TAGS.0)),
            opened("aborted under the other's tag, which says that it is its own").step(with_flags(ABORT, 1, TAGS.1)),
            opened("complete under its own tag").step(with_flags(SHUTDOWN_COMPLETE, 1, TAGS.0)),
            opened("the other end opens anew").steps([
                sent(&talk, (false, INIT, 0)),
                sctp(&talk, true, TAGS.1, &init(INIT_ACK, 33)),
                sent(&talk, (false, COOKIE_ECHO, 33)),
                sent(&talk, (true, COOKIE_ACK, TAGS.1)),
                sent(&talk, (false, 0, 33)),
            ]),
            opened("heartbeats under a wrong tag").steps([
                sent(&talk, (true, HEARTBEAT, 5)),
                sent(&talk, (false, HEARTBEAT, 6)),
                sent(&talk, (true, HEARTBEAT_ACK, 6)),
                sent(&talk, (false, HEARTBEAT_ACK, TAGS.0)),
                sent(&talk, (true, HEARTBEAT, TAGS.1)),
            ]),
        ],
    )
}

fn datagrams_become_streams(kernel: &mut Kernel) -> Result<()> {
    let mut scripts = Vec::new();
    for family in Family::ALL {
        let talk = Talk::new(family);
        for protocol in [proto::UDP, proto::UDPLITE] {
            let lite = wire::udp((5000, 80), b"there");
            let back = wire::udp((80, 5000), b"back again");
            let (there, back) = (talk.there(&Raw(protocol, &lite)), talk.back(&Raw(protocol, &back)));
            scripts.push(
                Script::new(&format!("protocol {protocol}, {}", family.name()), family, TELL)
                    .set("nf_conntrack_checksum", "0")
                    .steps([there.clone(), there.clone(), back.clone(), there.clone(), back.clone()])
                    .wait(2100)
                    .steps([there.clone(), back.clone()]),
            );
            scripts.push(
                Script::new(&format!("protocol {protocol} that is soon over, {}", family.name()), family, TELL)
                    .set("nf_conntrack_checksum", "0")
                    .set("nf_conntrack_udp_timeout", "1")
                    .steps([there.clone(), back.clone()])
                    .wait(1150)
                    .steps([back, there]),
            );
            let mut script = Script::new(&format!("lengths of protocol {protocol}, {}", family.name()), family, TELL)
                .set("nf_conntrack_checksum", "0");
            for (n, length) in [0u16, 1, 7, 8, 9, 12, 13, 14, 1000, 0xffff].into_iter().enumerate() {
                let mut l4 = wire::udp((5000 + n as u16, 80), b"five.");
                l4[4..6].copy_from_slice(&length.to_be_bytes());
                script = script.note(format!("length {length}")).step(talk.there(&Raw(protocol, &l4)));
            }
            scripts.push(script);
        }
    }
    expect_none(kernel, &scripts)
}

fn queries_and_what_is_none(kernel: &mut Kernel) -> Result<()> {
    let mut scripts = Vec::new();
    for family in Family::ALL {
        let talk = Talk::new(family);
        let message = |kind: u8, code: u8, id: u16| Icmp(kind, code, u32::from(id) << 16 | 1, b"some question here");
        let all: Vec<u8> = of(
            family,
            (0..20).chain([30, 40, 41, 42, 43, 253, 255]).collect(),
            (120..=162).chain([200, 255]).collect(),
        );
        let mut first = Script::new(&format!("every type first, {}", family.name()), family, TELL);
        for kind in &all {
            for code in [0, 1] {
                first = first.note(format!("type {kind}/{code}")).step(talk.there(&message(*kind, code, 600)));
            }
        }
        scripts.push(first);
        for (query, answer) in of(family, vec![(8, 0), (13, 14), (15, 16), (17, 18)], vec![(128, 129), (139, 140)]) {
            let mut script = Script::new(&format!("query {query}, {}", family.name()), family, TELL);
            for (id, kind) in all.iter().enumerate() {
                let id = 1000 + id as u16;
                script = script
                    .note(format!("answered by {kind}"))
                    .lead([talk.there(&message(query, 0, id))])
                    .step(talk.back(&message(*kind, 0, id)))
                    .step(talk.back(&message(answer, 0, id)))
                    .step(talk.there(&message(query, 0, id)));
            }
            script = script
                .note("other codes, other identifiers, the other side asks")
                .step(talk.there(&message(query, 1, 1)))
                .step(talk.back(&message(answer, 1, 1)))
                .step(talk.back(&message(answer, 0, 1)))
                .step(talk.there(&message(query, 0, 2)))
                .step(talk.back(&message(query, 0, 2)))
                .step(talk.there(&message(answer, 0, 2)))
                .step(talk.back(&message(answer, 0, 3)));
            scripts.push(script);
        }
    }
    expect_none(kernel, &scripts)
}

fn gre_and_what_conntrack_knows_nothing_of(kernel: &mut Kernel) -> Result<()> {
    let mut scripts = Vec::new();
    for family in Family::ALL {
        let talk = Talk::new(family);
        let mut gre = Script::new(&format!("GRE, {}", family.name()), family, TELL);
        for l4 in [
            &[0, 0, 8, 0][..],
            &[0, 0, 8, 0, 1, 2, 3, 4],
            &[0x20, 0, 8, 0, 0, 0, 0, 7, 1, 2, 3, 4],
            &[0x30, 1, 0x88, 0x0b, 0, 4, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4],
            &[0x30, 1, 0x88, 0x0b, 0, 4, 0, 10, 0, 0, 0, 1, 1, 2, 3, 4],
            &[0x30, 1, 8, 0, 0, 4, 0, 9, 1, 2, 3, 4],
            &[0x30, 1, 0x88, 0x0b, 0, 4],
            &[0x30, 1, 0x88],
            &[0, 2, 8, 0, 1, 2, 3, 4],
            &[0, 7, 0x88, 0x0b, 1, 2, 3, 4],
            &[],
        ] {
            gre = gre.note(format!("{l4:?}")).steps([
                talk.there(&Raw(proto::GRE, l4)),
                talk.back(&Raw(proto::GRE, l4)),
                talk.there(&Raw(proto::GRE, l4)),
            ]);
        }
        scripts.push(gre);
        let mut others = Script::new(&format!("others, {}", family.name()), family, TELL);
        let dccp = [&[0x13, 0x88, 0, 80, 4, 0, 0, 0, 0, 0, 0, 1][..], &[0; 12]].concat();
        for protocol in [2, 3, 4, proto::DCCP, 41, 46, 50, 88, 89, 103, 112, 115, 200, 255] {
            for len in [0, 1, 4, 8, 12, 24] {
                others = others
                    .note(format!("protocol {protocol}, {len} bytes"))
                    .steps([talk.there(&Raw(protocol, &dccp[..len])), talk.back(&Raw(protocol, &dccp[..len]))]);
            }
        }
        scripts.push(others);
        scripts.push(
            Script::new(&format!("times as they are set, {}", family.name()), family, TELL)
                .set("nf_conntrack_udp_timeout", "44")
                .set("nf_conntrack_icmp_timeout", "55")
                .set("nf_conntrack_icmpv6_timeout", "55")
                .set("nf_conntrack_generic_timeout", "66")
                .set("nf_conntrack_gre_timeout", "77")
                .set("nf_conntrack_gre_timeout_stream", "88")
                .steps([
                    talk.there(&Datagram(b"")),
                    talk.there(&Icmp(of(family, 8, 128), 0, 1, b"")),
                    talk.there(&Raw(89, b"whatever")),
                    talk.there(&Raw(proto::GRE, &[0, 0, 8, 0])),
                    talk.back(&Raw(proto::GRE, &[0, 0, 8, 0])),
                ]),
        );
    }
    expect_none(kernel, &scripts)
}

#[test]
fn protocols_as_the_kernel_has_it() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-protocols", std::process::id()))?;
    every_chunk_of_sctp_in_every_state(&mut kernel)?;
    packets_of_several_chunks_and_of_none(&mut kernel)?;
    datagrams_become_streams(&mut kernel)?;
    queries_and_what_is_none(&mut kernel)?;
    gre_and_what_conntrack_knows_nothing_of(&mut kernel)
}
