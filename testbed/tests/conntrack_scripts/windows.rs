//! TCP's windows: what lies within by one and what does not, on every edge, with and without scaling, across the wrap.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::script::{ACK, FIN, PSH, RST, SYN, Script, Step, TELL, Talk, expect_none, segment};

/// Options of a SYN: whether selective acknowledgements are permitted, and the scale.
type Offer = (bool, Option<u8>);

fn options((sack, scale): Offer) -> Vec<u8> {
    let mut options = vec![2, 4, 5, 0xb4];
    if sack {
        options.extend([4, 2, 1, 1]);
    }
    if let Some(scale) = scale {
        options.extend([3, 3, scale, 1]);
    }
    options
}

/// A selective acknowledgement of what lies between.
fn sack(left: u32, right: u32) -> Vec<u8> {
    [&[1, 1, 5, 10], &left.to_be_bytes()[..], &right.to_be_bytes()].concat()
}

/// A connection whose ends announce windows of 1000 and 2000, unscaled.
struct Opened {
    talk: Talk,
    /// The next number of the client and of the server.
    client: u32,
    server: u32,
}

const WINDOWS: (u16, u16) = (1000, 2000);

impl Opened {
    /// Where the client starts at `isn`, and the server a thousand before.
    fn new(port: u16, isn: u32) -> Opened {
        let talk = Talk::new(Family::V4).from(port);
        Opened { talk, client: isn.wrapping_add(1), server: isn.wrapping_sub(999) }
    }

    fn open(&self, client: Offer, server: Offer) -> [Step; 5] {
        let Opened { talk, client: c, server: s } = self;
        let (cw, sw) = WINDOWS;
        [
            talk.there(&segment(SYN).seq(c.wrapping_sub(1)).window(cw).options(&options(client))),
            talk.back(&segment(SYN | ACK).seq(s.wrapping_sub(1)).ack(*c).window(sw).options(&options(server))),
            talk.there(&segment(ACK).seq(*c).ack(*s).window(cw)),
            talk.there(&segment(ACK | PSH).seq(*c).ack(*s).window(cw).data(100)),
            talk.back(&segment(ACK | PSH).seq(*s).ack(c.wrapping_add(100)).window(sw).data(50)),
        ]
    }

    /// What both ends say after that.
    fn go_on(&self) -> [Step; 2] {
        let (c, s) = (self.client.wrapping_add(100), self.server.wrapping_add(50));
        [
            self.talk.there(&segment(ACK).seq(c).ack(s).window(WINDOWS.0)),
            self.talk.back(&segment(ACK).seq(s).ack(c).window(WINDOWS.1)),
        ]
    }
}

/// Every edge of the windows after [`Opened::open`], by one: as distances from the next number of the sender (`true`: that
/// of the sequence numbers) or the receiver (the acknowledgements). `own` and `other` are the widest windows.
fn edges(own: u32, other: u32) -> Vec<(bool, i64)> {
    let lag = own.max(66_000);
    let (own, other, lag) = (i64::from(own), i64::from(other), i64::from(lag));
    let around = |at: i64| [at - 1, at, at + 1];
    let sequence = [around(other), around(-other), around(0)].concat();
    let acknowledged = [around(0), around(-lag), around(-own)].concat();
    sequence.into_iter().map(|by| (true, by)).chain(acknowledged.into_iter().map(|by| (false, by))).collect()
}

fn every_edge_of_the_windows(kernel: &mut Kernel) -> Result<()> {
    let offers: &[(Offer, Offer)] = &[
        ((false, None), (false, None)),
        ((true, None), (true, None)),
        ((true, Some(7)), (true, Some(2))),
        ((true, Some(7)), (true, None)),
        ((false, None), (false, Some(3))),
        ((false, Some(0)), (false, Some(15))),
    ];
    let mut scripts = Vec::new();
    for (n, (client, server)) in offers.iter().enumerate() {
        // The numbers wrap in some, in the middle of what is sent.
        let isn = [1_000_000, 0xffff_ff80][n % 2];
        {
            let both = client.1.is_some() && server.1.is_some();
            let scaled =
                |window: u16, (_, scale): Offer| u32::from(window) << if both { scale.unwrap_or(0).min(14) } else { 0 };
            let windows = (scaled(WINDOWS.0, *client), scaled(WINDOWS.1, *server));
            let mut script = Script::new(&format!("{client:?} {server:?} from {isn}"), Family::V4, TELL);
            let mut port = 5000;
            for from_client in [true, false] {
                let (own, other) = if from_client { windows } else { (windows.1, windows.0) };
                for (of_sequence, by) in edges(own, other) {
                    for (flags, len) in [(ACK, 0), (ACK, 2), (FIN | ACK, 0), (RST | ACK, 0)] {
                        port += 1;
                        let c = Opened::new(port, isn);
                        let (seq, ack) = (c.client.wrapping_add(100), c.server.wrapping_add(50));
                        let (seq, ack) = if from_client { (seq, ack) } else { (ack, seq) };
                        let moved = |n: u32, is: bool| if is { n.wrapping_add(by as u32) } else { n };
                        let s = segment(flags).seq(moved(seq, of_sequence)).ack(moved(ack, !of_sequence)).data(len);
                        let s = s.window(if from_client { WINDOWS.0 } else { WINDOWS.1 });
                        let step = if from_client { c.talk.there(&s) } else { c.talk.back(&s) };
                        script = script
                            .note(format!(
                                "client: {from_client}, sequence: {of_sequence}, {by:+}, flags {flags:#x}, {len} bytes"
                            ))
                            .lead(c.open(*client, *server))
                            .lead([step])
                            .steps(c.go_on());
                    }
                }
            }
            scripts.push(script);
        }
    }
    expect_none(kernel, &scripts)
}

fn what_windows_do_in_a_dialogue(kernel: &mut Kernel) -> Result<()> {
    let plain = (true, Some(2));
    let c = Opened::new(5000, 1_000_000);
    let (cn, sn) = (c.client + 100, c.server + 50);
    let begin = |name: &str| Script::new(name, Family::V4, TELL).steps(c.open(plain, plain));
    let there = |s| c.talk.there(&s);
    let back = |s| c.talk.back(&s);
    expect_none(
        kernel,
        &[
            begin("a keepalive probe of the client, with and without a byte").steps([
                there(segment(ACK).seq(cn - 1).ack(sn)),
                back(segment(ACK).seq(sn).ack(cn)),
                there(segment(ACK).seq(cn - 1).ack(sn).data(1)),
                back(segment(ACK).seq(sn).ack(cn)),
            ]),
            begin("a keepalive probe of the server")
                .steps([back(segment(ACK).seq(sn - 1).ack(cn)), there(segment(ACK).seq(cn).ack(sn))]),
            begin("the window closes, is probed, and opens").steps([
                back(segment(ACK).seq(sn).ack(cn).window(0)),
                there(segment(ACK).seq(cn).ack(sn).data(1)),
                back(segment(ACK).seq(sn).ack(cn).window(0)),
                there(segment(ACK).seq(cn).ack(sn).data(1)),
                there(segment(ACK).seq(cn).ack(sn).data(1)),
                there(segment(ACK).seq(cn + 8000).ack(sn).data(1)),
                there(segment(ACK).seq(cn + 8001).ack(sn).data(1)),
                back(segment(ACK).seq(sn).ack(cn + 1).window(500)),
                there(segment(ACK).seq(cn + 1).ack(sn).data(100)),
            ]),
            begin("the window shrinks").steps([
                back(segment(ACK).seq(sn).ack(cn).window(10)),
                there(segment(ACK).seq(cn).ack(sn).data(1000)),
                there(segment(ACK).seq(cn + 7000).ack(sn).data(1000)),
                back(segment(ACK).seq(sn).ack(cn + 1000).window(10)),
            ]),
            begin("selective acknowledgements of what was sent and of what was not").steps([
                there(segment(ACK).seq(cn).ack(sn).data(1000)),
                there(segment(ACK).seq(cn + 1000).ack(sn).data(1000)),
                back(segment(ACK).seq(sn).ack(cn).options(&sack(cn + 1000, cn + 2000))),
                back(segment(ACK).seq(sn).ack(cn).options(&sack(cn + 1000, cn + 2001))),
                back(segment(ACK).seq(sn).ack(cn).options(&sack(cn - 100_000, cn - 90_000))),
                back(segment(ACK).seq(sn).ack(cn - 70_000).options(&sack(cn, cn + 500))),
                back(segment(ACK).seq(sn).ack(cn - 70_000)),
                back(segment(ACK).seq(sn).ack(cn).options(&[1, 1, 5, 9, 0, 0, 0, 0, 0, 0, 0, 0])),
                back(segment(ACK).seq(sn).ack(cn).options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])),
                back(segment(ACK).seq(sn).ack(cn).options(&[5, 200, 0, 0])),
                back(segment(ACK).seq(sn).ack(cn).options(&[3, 0, 0, 0])),
            ]),
            Script::new("selective acknowledgements that were not permitted", Family::V4, TELL)
                .steps(c.open((false, None), (false, None)))
                .steps([
                    there(segment(ACK).seq(cn).ack(sn).data(1000)),
                    back(segment(ACK).seq(sn).ack(cn).options(&sack(cn + 500, cn + 1001))),
                    back(segment(ACK).seq(sn).ack(cn - 70_000).options(&sack(cn + 500, cn + 1000))),
                ]),
            begin("data is sent again, in part and in whole, and overlapping").steps([
                there(segment(ACK).seq(cn).ack(sn).data(100)),
                there(segment(ACK).seq(cn).ack(sn).data(100)),
                there(segment(ACK).seq(cn + 50).ack(sn).data(100)),
                there(segment(ACK).seq(cn - 50).ack(sn).data(300)),
                back(segment(ACK).seq(sn).ack(cn + 250)),
                back(segment(ACK).seq(sn).ack(cn + 251)),
            ]),
            begin("ends that skip what was lost before us").steps([
                there(segment(ACK).seq(cn + 500).ack(sn).data(100)),
                back(segment(ACK).seq(sn).ack(cn)),
                back(segment(ACK).seq(sn).ack(cn + 600)),
                back(segment(ACK).seq(sn).ack(cn + 601)),
            ]),
            Script::new("data with the SYN, and with the SYN/ACK", Family::V4, TELL).steps([
                there(segment(SYN).seq(1000).options(&options(plain)).data(30)),
                back(segment(SYN | ACK).seq(5000).ack(1031).options(&options(plain)).data(20)),
                there(segment(ACK).seq(1031).ack(5021)),
                there(segment(ACK).seq(1031).ack(5022)),
            ]),
            Script::new("a SYN/ACK that acknowledges something else", Family::V4, TELL).steps([
                there(segment(SYN).seq(1000).window(100)),
                back(segment(SYN | ACK).seq(5000).ack(1002)),
                back(segment(SYN | ACK).seq(5000).ack(1000)),
                back(segment(SYN | ACK).seq(5000).ack(1001)),
                back(segment(SYN | ACK).seq(6000).ack(1001)),
                there(segment(ACK).seq(1001).ack(5001)),
                back(segment(SYN | ACK).seq(5000).ack(1001)),
            ]),
            Script::new("SYNs that offer something else each time", Family::V4, TELL).steps([
                there(segment(SYN).seq(1000).options(&options((true, Some(7))))),
                there(segment(SYN).seq(2000).options(&options((false, None)))),
                there(segment(SYN).seq(3000).window(0)),
                back(segment(SYN | ACK).seq(5000).ack(3001).options(&options((true, Some(7))))),
                there(segment(ACK).seq(3001).ack(5001)),
                there(segment(ACK).seq(3001 + 65_535).ack(5001).data(1)),
                there(segment(ACK).seq(3001 + 65_536).ack(5001).data(1)),
                there(segment(ACK).seq(3001 + (65_535 << 7)).ack(5001).data(1)),
            ]),
            Script::new("both ends open", Family::V4, TELL).steps([
                there(segment(SYN).seq(1000).window(100).options(&options((true, Some(3))))),
                back(segment(SYN).seq(5000).window(100).options(&options((true, Some(1))))),
                there(segment(SYN | ACK).seq(1000).ack(5001).window(100).options(&options((true, Some(3))))),
                back(segment(SYN | ACK).seq(5000).ack(1001).window(100).options(&options((true, Some(1))))),
                there(segment(ACK).seq(1001).ack(5001)),
                there(segment(ACK).seq(1001 + 200).ack(5001).data(1)),
                there(segment(ACK).seq(1001 + 201).ack(5001).data(1)),
                back(segment(ACK).seq(5001 + 800).ack(1001).data(1)),
                back(segment(ACK).seq(5001 + 801).ack(1001).data(1)),
            ]),
            begin("in the middle of nothing").steps([
                c.talk.from(7000).there(&segment(ACK | PSH).seq(1000).ack(5000).data(100)),
                c.talk.from(7000).there(&segment(ACK | PSH).seq(900_000).ack(5000).data(100)),
                c.talk.from(7000).back(&segment(ACK | PSH).seq(5000).ack(1100).data(100)),
                c.talk.from(7000).back(&segment(ACK | PSH).seq(700_000).ack(1100).data(100)),
            ]),
            begin("liberal").set("nf_conntrack_tcp_be_liberal", "1").steps([
                there(segment(ACK).seq(cn + 900_000).ack(sn).data(100)),
                back(segment(ACK).seq(sn).ack(cn + 5_000_000)),
                back(segment(RST).seq(sn + 5_000_000)),
            ]),
            begin("many ends that are not in the window").steps([
                there(segment(FIN | ACK).seq(cn + 900_000).ack(sn)),
                back(segment(FIN | ACK).seq(sn + 900_000).ack(cn)),
                there(segment(RST | ACK).seq(cn + 900_000).ack(sn)),
            ]),
        ],
    )
}

#[test]
fn windows_as_the_kernel_has_it() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-windows", std::process::id()))?;
    every_edge_of_the_windows(&mut kernel)?;
    what_windows_do_in_a_dialogue(&mut kernel)
}
