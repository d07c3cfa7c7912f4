//! TCP's state table: from every state, every kind of segment from both sides, with what each leaves behind.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::script::{
    ACK, FIN, PSH, RST, SYN, Script, Step, TELL, Talk, URG, expect_none, segment,
};

/// Who sends a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Client,
    Server,
}
use Side::{Client, Server};

/// A segment: who sends it, flags, sequence and acknowledgement number.
type Sent = (Side, u8, u32, u32);

/// A connection that is open; both ends have said one number.
const OPEN: &[Sent] = &[(Client, SYN, 1000, 0), (Server, SYN | ACK, 5000, 1001), (Client, ACK, 1001, 5001)];

/// A way to a state: its name, a connection to begin with, what follows, and the next number of client and server.
type Way = (&'static str, &'static [Sent], &'static [Sent], u32, u32);

/// Ways to every state.
const STATES: &[Way] = &[
    ("NONE", &[], &[], 1000, 5000),
    ("SYN_SENT", &[], &[(Client, SYN, 1000, 0)], 1001, 5000),
    ("SYN_SENT2", &[], &[(Client, SYN, 1000, 0), (Server, SYN, 5000, 0)], 1001, 5001),
    ("SYN_RECV", &[], &[(Client, SYN, 1000, 0), (Server, SYN | ACK, 5000, 1001)], 1001, 5001),
    (
        "SYN_RECV, opened from both sides",
        &[],
        &[(Client, SYN, 1000, 0), (Server, SYN, 5000, 0), (Client, SYN | ACK, 1000, 5001)],
        1001,
        5001,
    ),
    ("SYN_SENT, challenged", &[], &[(Client, SYN, 1000, 0), (Server, ACK, 7000, 800)], 1001, 5001),
    ("ESTABLISHED", OPEN, &[], 1001, 5001),
    ("ESTABLISHED, picked up", &[], &[(Client, ACK, 1001, 5001)], 1001, 5001),
    ("ESTABLISHED, picked up and answered", &[], &[(Client, ACK, 1001, 5001), (Server, ACK, 5001, 1001)], 1001, 5001),
    ("ESTABLISHED, a SYN let pass", OPEN, &[(Client, SYN, 90000, 0)], 1001, 5001),
    ("ESTABLISHED, a SYN challenged", OPEN, &[(Client, SYN, 90000, 0), (Server, ACK, 5001, 1001)], 1001, 5001),
    ("FIN_WAIT", OPEN, &[(Client, FIN | ACK, 1001, 5001)], 1002, 5001),
    ("FIN_WAIT, by the server", OPEN, &[(Server, FIN | ACK, 5001, 1001)], 1001, 5002),
    ("CLOSE_WAIT", OPEN, &[(Client, FIN | ACK, 1001, 5001), (Server, ACK, 5001, 1002)], 1002, 5001),
    ("LAST_ACK", OPEN, &[(Client, FIN | ACK, 1001, 5001), (Server, FIN | ACK, 5001, 1002)], 1002, 5002),
    (
        "LAST_ACK, a SYN let pass",
        OPEN,
        &[(Client, FIN | ACK, 1001, 5001), (Server, FIN | ACK, 5001, 1002), (Client, SYN, 90000, 0)],
        1002,
        5002,
    ),
    (
        "TIME_WAIT",
        OPEN,
        &[(Client, FIN | ACK, 1001, 5001), (Server, FIN | ACK, 5001, 1002), (Client, ACK, 1002, 5002)],
        1002,
        5002,
    ),
    (
        "TIME_WAIT, closed by the server",
        OPEN,
        &[(Server, FIN | ACK, 5001, 1001), (Client, FIN | ACK, 1001, 5002), (Server, ACK, 5002, 1002)],
        1002,
        5002,
    ),
    ("CLOSE, reset by the server", OPEN, &[(Server, RST, 5001, 0)], 1001, 5001),
    ("CLOSE, reset by the client", OPEN, &[(Client, RST | ACK, 1001, 5001)], 1001, 5001),
    ("refused", &[], &[(Client, SYN, 1000, 0), (Server, RST | ACK, 0, 1001)], 1001, 5001),
    (
        "CLOSE, reset by the client while it opens",
        &[],
        &[(Client, SYN, 1000, 0), (Server, SYN | ACK, 5000, 1001), (Client, RST, 1001, 0)],
        1001,
        5001,
    ),
];

/// Every kind of segment.
const KINDS: &[(&str, u8)] = &[
    ("SYN", SYN),
    ("SYN/ACK", SYN | ACK),
    ("FIN", FIN | ACK),
    ("ACK", ACK),
    ("RST", RST),
    ("RST/ACK", RST | ACK),
    ("nothing", 0),
];

/// Numbers that a segment may carry, as distances from what its receiver expects: sequence and acknowledgement.
const EXPECTED: (i64, i64) = (0, 0);
const NUMBERS: &[(i64, i64)] = &[EXPECTED, (100_000, 0), (-1, 0), (1, 0), (0, 1), (0, -1), (100_000, 200_000)];

fn sent(talk: &Talk, (side, flags, seq, ack): Sent) -> Step {
    let segment = segment(flags).seq(seq).ack(ack);
    match side {
        Client => talk.there(&segment),
        Server => talk.back(&segment),
    }
}

/// From every state, in a connection of its own, every segment with these numbers; then both ends go on as if
/// nothing had been, and the client opens again.
fn table(family: Family, numbers: &[(i64, i64)], settings: &[(&str, &str)]) -> Vec<Script> {
    let scripts = STATES.iter().map(|(state, open, follows, client, server)| {
        let mut script = Script::new(&format!("{settings:?}, {state}"), family, TELL);
        for (name, value) in settings {
            script = script.set(name, value);
        }
        let mut port = 5000;
        for (kind, flags) in KINDS {
            for side in [Client, Server] {
                for (seq, ack) in numbers {
                    port += 1;
                    let talk = Talk::new(family).from(port);
                    let (own, other) = if side == Client { (*client, *server) } else { (*server, *client) };
                    let far = |from: u32, by: i64| from.wrapping_add(by as u32);
                    let ack = if flags & ACK == 0 { 0 } else { far(other, *ack) };
                    script = script
                        .note(format!("{state}, {kind} of the {side:?} {seq:+}"))
                        .lead(open.iter().chain(*follows).map(|s| sent(&talk, *s)))
                        .step(sent(&talk, (side, *flags, far(own, *seq), ack)))
                        .lead([
                            sent(&talk, (Client, ACK, *client, *server)),
                            sent(&talk, (Server, ACK, *server, *client)),
                        ])
                        .step(sent(&talk, (Client, SYN, 400_000, 0)));
                }
            }
        }
        script
    });
    scripts.collect()
}

fn every_segment_in_every_state(kernel: &mut Kernel) -> Result<()> {
    expect_none(kernel, &table(Family::V4, NUMBERS, &[]))?;
    expect_none(kernel, &table(Family::V6, &[EXPECTED], &[]))
}

fn every_segment_in_every_state_as_settings_have_it(kernel: &mut Kernel) -> Result<()> {
    for setting in [
        ("nf_conntrack_tcp_loose", "0"),
        ("nf_conntrack_tcp_be_liberal", "1"),
        ("nf_conntrack_tcp_ignore_invalid_rst", "1"),
        ("nf_conntrack_tcp_max_retrans", "0"),
    ] {
        expect_none(kernel, &table(Family::V4, &[EXPECTED, (100_000, 200_000)], &[setting]))?;
    }
    Ok(())
}

fn every_combination_of_flags(kernel: &mut Kernel) -> Result<()> {
    let mut scripts = Vec::new();
    for (state, open) in [("nothing", &[][..]), ("an open connection", OPEN)] {
        let mut script = Script::new(&format!("flags on {state}"), Family::V4, TELL);
        for flags in 0..=255u8 {
            // The sane ones are told apart by the table above.
            let talk = Talk::new(Family::V4).from(5000 + u16::from(flags));
            script = script
                .note(format!("flags {flags:#04x}"))
                .lead(open.iter().map(|s| sent(&talk, *s)))
                .step(talk.there(&segment(flags).seq(1001).ack(5001)))
                .step(talk.back(&segment(flags).seq(5001).ack(1001)));
        }
        scripts.push(script);
    }
    expect_none(kernel, &scripts)
}

fn what_is_repeated_shortens_the_life_of_a_connection(kernel: &mut Kernel) -> Result<()> {
    let talk = Talk::new(Family::V4);
    let again = |n: usize, step: Step| std::iter::repeat_n(step, n);
    let data = talk.there(&segment(ACK | PSH).seq(1001).ack(5001).data(10));
    let urgent = talk.there(&segment(ACK | URG).seq(1001).ack(5001).data(10));
    let script = |name: &str| Script::new(name, Family::V4, TELL);
    expect_none(
        kernel,
        &[
            script("a SYN is repeated").steps(again(5, sent(&talk, OPEN[0]))),
            script("a SYN/ACK is repeated").step(sent(&talk, OPEN[0])).steps(again(5, sent(&talk, OPEN[1]))),
            script("the last ACK of the opening is repeated").steps(talk.open()).steps(again(6, sent(&talk, OPEN[2]))),
            script("data that nobody acknowledges").steps(talk.open()).step(data.clone()),
            script("data is repeated").steps(talk.open()).steps(again(6, data.clone())),
            script("data is repeated, then acknowledged")
                .steps(talk.open())
                .steps(again(6, urgent))
                .step(talk.back(&segment(ACK).seq(5001).ack(1011)))
                .step(talk.there(&segment(ACK).seq(1011).ack(5001))),
            script("data is repeated, and nothing is too often")
                .set("nf_conntrack_tcp_max_retrans", "200")
                .steps(talk.open())
                .steps(again(6, data.clone())),
            script("acknowledgements are repeated with other windows").steps(talk.open()).steps(
                [100, 200, 200, 200, 200, 200, 300]
                    .map(|window| talk.back(&segment(ACK).seq(5001).ack(1001).window(window))),
            ),
            script("times are what they are set to")
                .set("nf_conntrack_tcp_timeout_syn_sent", "77")
                .set("nf_conntrack_tcp_timeout_syn_recv", "55")
                .set("nf_conntrack_tcp_timeout_established", "1000")
                .set("nf_conntrack_tcp_timeout_unacknowledged", "200")
                .set("nf_conntrack_tcp_timeout_max_retrans", "100")
                .steps(talk.open())
                .steps(again(6, data)),
        ],
    )
}

fn a_flow_goes_when_its_time_is_over(kernel: &mut Kernel) -> Result<()> {
    let talk = Talk::new(Family::V4);
    let script = Script::new("a refused connection is forgotten", Family::V4, TELL)
        .set("nf_conntrack_tcp_timeout_close", "1")
        .set("nf_conntrack_tcp_timeout_syn_sent", "1")
        .steps(talk.open())
        .step(sent(&talk, (Server, RST, 5001, 0)))
        .step(sent(&talk.from(6000), OPEN[0]))
        .wait(1200)
        .step(sent(&talk.from(6000), OPEN[1]))
        .step(sent(&talk, (Server, ACK, 5001, 1001)));
    expect_none(kernel, &[script])
}

#[test]
fn tcp_as_the_kernel_has_it() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-tcp", std::process::id()))?;
    every_segment_in_every_state(&mut kernel)?;
    every_segment_in_every_state_as_settings_have_it(&mut kernel)?;
    every_combination_of_flags(&mut kernel)?;
    what_is_repeated_shortens_the_life_of_a_connection(&mut kernel)?;
    a_flow_goes_when_its_time_is_over(&mut kernel)
}
