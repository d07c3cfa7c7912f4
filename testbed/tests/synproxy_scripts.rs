//! SYNPROXY as the kernel does it: every talk is held with the kernel's router and with the engine, and what both say is written
//! down relative to what is random, the cookie and the router's time. The two transcripts are equal, and so are the counters of
//! rules, the flow table and the counters of `/proc/net/stat/synproxy`.

use anyhow::Result;
use std::fmt::Write;
use std::time::Instant;
use sumun_config::facts::{Family, PortId};
use sumun_testbed::differential::compare::{self, Choices};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{HOST, LAN, ROUTER, WAN, address, of};
use sumun_testbed::differential::rules::Rules;
use sumun_testbed::differential::script::{ACK, FIN, PSH, RST, SYN, Segment, Talk, segment};
use sumun_testbed::differential::subject::Subject;
use sumun_testbed::differential::wire::{self, ETHERNET};

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// Numbers at which the client and the server begin.
const CLIENT: u32 = 1000;
const SERVER: u32 = 700_000;
/// The time at which the server begins.
const TIME: u32 = 90_000;
/// What Linux clients offer, at time 50.
const OFFER: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 50, 0, 0, 0, 0, 1, 3, 3, 10];

fn rules(family: Family, options: &str) -> String {
    let (icmp, everything) = (of(family, "icmp", "ipv6-icmp"), "--sack-perm --timestamp --wscale 7 --mss 1460 --ecn");
    let options = if options == "all" { everything } else { options };
    format!(
        "*raw\n-A PREROUTING -i lan0 -p tcp --syn -j CT --notrack\nCOMMIT\n*filter\n\
         -A FORWARD -p {icmp} -j ACCEPT\n\
         -A FORWARD -i lan0 -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY {options}\n\
         -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A OUTPUT -p tcp -m conntrack --ctstate INVALID\n-A OUTPUT -p tcp -m conntrack --ctstate NEW\n\
         -A OUTPUT -p tcp -m conntrack --ctstate ESTABLISHED\n-A OUTPUT -p tcp -m conntrack --ctstate UNTRACKED\nCOMMIT\n"
    )
}

/// A router of either kind.
enum Side<'a> {
    Kernel(&'a mut Kernel),
    Engine(Box<Subject>),
}

/// What came out of a router, as far as talks go by it.
#[derive(Clone, Default)]
struct Seen {
    seq: u32,
    /// Its time, if it has one.
    time: u32,
}

/// A client and a server that talk through a router, and what is written down of it.
struct Stage<'a> {
    side: Side<'a>,
    talk: Talk,
    /// What is random: the number and the time of the last SYN/ACK to the client.
    cookie: Seen,
    text: String,
}

impl Stage<'_> {
    /// A frame goes in; all that comes out is written down.
    fn send(&mut self, port: PortId, packet: &[u8]) -> Vec<Seen> {
        let p = usize::from(port.0);
        let frame = wire::frame(wire::family(packet), HOST[p], ROUTER[p], packet);
        let out = match &mut self.side {
            Side::Kernel(kernel) => kernel.send(port, &frame),
            Side::Engine(subject) => subject.send(port, &frame),
        };
        let out = out.expect("the router works");
        let _ = writeln!(self.text, "{}", wire::describe(&frame).split(" seq").next().unwrap_or_default());
        let mut by_port = out;
        by_port.sort_by_key(|(port, _)| *port);
        by_port.iter().map(|(port, frame)| self.write(*port, &frame[ETHERNET..])).collect()
    }

    /// Writes down a packet that came out.
    fn write(&mut self, port: PortId, l3: &[u8]) -> Seen {
        let family = wire::family(l3);
        let facts = sumun_dataplane::packet::parse::ip(family, l3).expect("a packet");
        assert!(sumun_dataplane::packet::parse::l4_checksum_ok(&facts, l3), "{}", wire::hex(l3));
        let l4 = &l3[usize::from(facts.l4_off)..usize::from(facts.len)];
        let long = |at: usize| u32::from_be_bytes([l4[at], l4[at + 1], l4[at + 2], l4[at + 3]]);
        let header = usize::from(l4[12] >> 4) * 4;
        let mut options = l4[20..header].to_vec();
        let stamps = options.windows(2).position(|w| w == [8, 10]).filter(|_| facts.proto == 6);
        let stamp = |at: usize| stamps.map_or(0, |s| long(20 + s + at));
        let window = u16::from_be_bytes([l4[14], l4[15]]);
        if l4[13] & (SYN | ACK) == SYN | ACK && port == LAN && window == 0 {
            self.cookie = Seen { seq: long(4), time: stamp(2) & !0x3f };
        }
        let (cookie, time) = (self.cookie.seq, self.cookie.time);
        let number = |n: u32| match n.wrapping_sub(cookie) as i32 {
            near @ -100_000..=100_000 => format!("cookie{near:+}"),
            _ => n.to_string(),
        };
        let when = |n: u32| match n.wrapping_sub(time) as i32 {
            near @ -300..=300 if time != 0 => format!("time{near:+}"),
            // The server's time, moved once more than it should.
            _ if time != 0 && (n.wrapping_sub(TIME).wrapping_sub(TIME).wrapping_add(time) as i32).abs() < 300 => {
                format!("2*TIME-time{:+}", n.wrapping_sub(TIME).wrapping_sub(TIME).wrapping_add(time) as i32)
            }
            _ => n.to_string(),
        };
        let mut times = String::new();
        if let Some(at) = stamps {
            times = format!(" at {} answers {}", when(stamp(2)), when(stamp(6)));
            options[at + 2..at + 10].fill(0);
        }
        let flags: String = (0..8).filter(|i| l4[13] & 1 << i != 0).map(|i| b"FSRPAUEC"[i] as char).collect();
        let mut blocks = String::new();
        if let Some(at) = options.windows(2).position(|w| w == [5, 10]) {
            blocks = format!(" sack {}-{}", number(long(20 + at + 2)), number(long(20 + at + 6)));
            options[at + 2..at + 10].fill(0);
        }
        let _ = writeln!(
            self.text,
            "  {}: {}:{} > {}:{} {flags} seq {} ack {} win {} options {}{times}{blocks} data {} ttl {} tos {} id {} df {}",
            port.0,
            family.address(facts.src),
            facts.sport,
            family.address(facts.dst),
            facts.dport,
            number(long(4)),
            number(long(8)),
            window,
            wire::hex(&options),
            l4.len() - header,
            facts.ttl,
            facts.tos,
            facts.ip_id,
            facts.dont_frag,
        );
        Seen { seq: long(4), time: stamp(2) }
    }

    fn client(&mut self, segment: &Segment) -> Vec<Seen> {
        self.send(LAN, &self.talk.packet(segment))
    }

    fn server(&mut self, segment: &Segment) -> Vec<Seen> {
        self.send(WAN, &self.talk.reversed().packet(segment))
    }

    /// The number that acknowledges the cookie.
    fn told(&self) -> u32 {
        self.cookie.seq.wrapping_add(1)
    }

    /// A client's SYN with these options; what it is told is remembered.
    fn syn(&mut self, flags: u8, options: &[u8]) {
        self.client(&segment(SYN | flags).seq(CLIENT).options(options).window(64_000));
    }

    /// The options of a client that has timestamps, at this time of its own.
    fn stamps(&self, now: u32, bits: u32) -> Vec<u8> {
        stamps(now, self.cookie.time | bits)
    }

    /// A connection that is open on both sides.
    fn open(&mut self) {
        self.syn(0, &OFFER);
        let options = self.stamps(51, 0x1a);
        self.client(&segment(ACK).seq(CLIENT + 1).ack(self.told()).window(500).options(&options));
        let options =
            [&[2, 4, 5, 0xb4, 4, 2, 8, 10][..], &TIME.to_be_bytes(), &51u32.to_be_bytes(), &[1, 3, 3, 4]].concat();
        self.server(&segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).window(30_000).options(&options));
    }
}

fn stamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

/// Holds a talk with both routers; what differs, as text.
fn differs(
    kernel: &mut Kernel,
    name: &str,
    family: Family,
    text: &str,
    loose: &str,
    play: &dyn Fn(&mut Stage),
) -> Result<String> {
    let rules = Rules::of_text(family, text);
    if let Err(why) = kernel.load(family, &rules.restore())? {
        anyhow::bail!("{name}: the kernel refuses the rules: {why}");
    }
    let before = kernel.set("nf_conntrack_tcp_loose", loose)?;
    let counted = counts(kernel)?;
    let subject =
        Subject::with(&rules.toml(), &format!("nf_conntrack_tcp_loose = {loose}\n")).map_err(anyhow::Error::msg)?;
    let stage = |side| Stage { side, talk: Talk::new(family), cookie: Seen::default(), text: String::new() };
    let mut ours = stage(Side::Engine(Box::new(subject)));
    let mut theirs = stage(Side::Kernel(kernel));
    play(&mut theirs);
    play(&mut ours);
    let theirs = theirs.text;
    let Side::Engine(mut subject) = ours.side else { unreachable!("it was made so") };
    subject.census()?;
    let mut found = String::new();
    if theirs != ours.text {
        let _ = writeln!(found, "--- kernel\n{theirs}--- sumun\n{}", ours.text);
    }
    for line in compare::rules(&kernel.rules(family)?, &subject.rules(family)) {
        let _ = writeln!(found, "{line}");
    }
    let time = Instant::now();
    let flows = [kernel.flows_at_once(family)?, subject.flows(time)];
    for line in Choices::default().flows(&flows[0], &flows[1], time.elapsed()) {
        let _ = writeln!(found, "{line}");
    }
    let now = counts(kernel)?;
    for (i, name) in COUNTS.iter().enumerate() {
        let ours = subject.counts().iter().find(|(n, _)| n == name).map_or(0, |(_, n)| *n);
        if now[i] - counted[i] != ours {
            let _ = writeln!(found, "{name}: {} and {ours}", now[i] - counted[i]);
        }
    }
    kernel.set("nf_conntrack_tcp_loose", &before)?;
    if !found.is_empty() {
        found = format!("== {name}, {}\n{found}", family.name());
    }
    Ok(found)
}

const COUNTS: [&str; 5] = ["syn_received", "cookie_invalid", "cookie_valid", "cookie_retrans", "conn_reopened"];

/// What `/proc/net/stat/synproxy` says, summed over processors.
fn counts(kernel: &Kernel) -> Result<[u64; 5]> {
    let text = kernel.proc_net("stat/synproxy")?;
    let mut sums = [0; 5];
    for line in text.lines().skip(1) {
        for (sum, word) in sums.iter_mut().zip(line.split_whitespace().skip(1)) {
            *sum += u64::from_str_radix(word, 16)?;
        }
    }
    Ok(sums)
}

/// What a talk is called, its options or rules, and the talk.
type Play = (&'static str, &'static str, fn(&mut Stage));

fn run(tag: &str, plays: &[Play]) -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-{tag}", std::process::id()))?;
    let mut found = String::new();
    for family in Family::ALL {
        for (name, options, play) in plays {
            found += &differs(&mut kernel, name, family, &rules(family, options), "0", play)?;
        }
    }
    assert!(found.is_empty(), "\n{found}");
    Ok(())
}

#[test]
fn connections_open_talk_and_close_as_with_the_kernel() -> Result<()> {
    run(
        "talk",
        &[
            ("all options", "all", |s| {
                s.open();
                let options = s.stamps(60, 0x1a);
                s.client(&segment(ACK | PSH).seq(CLIENT + 1).ack(s.told()).options(&options).data(100));
                s.server(&segment(ACK).seq(SERVER + 1).ack(CLIENT + 101).options(&stamps(TIME + 10, 60)));
                s.server(
                    &segment(ACK | PSH).seq(SERVER + 1).ack(CLIENT + 101).options(&stamps(TIME + 20, 60)).data(40),
                );
                let told = s.told();
                let sack = [&[1, 1, 5, 10][..], &(told + 20).to_be_bytes(), &(told + 40).to_be_bytes()].concat();
                let options = [s.stamps(70, 0), sack].concat();
                s.client(&segment(ACK).seq(CLIENT + 101).ack(told).options(&options));
                s.client(&segment(FIN | ACK).seq(CLIENT + 101).ack(told + 40));
                s.server(&segment(FIN | ACK).seq(SERVER + 41).ack(CLIENT + 102));
                s.client(&segment(ACK).seq(CLIENT + 102).ack(told + 41));
            }),
            ("no options at all", "", |s| {
                s.syn(0, &[]);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()));
                s.server(&segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).window(9000));
                s.client(&segment(ACK | PSH).seq(CLIENT + 1).ack(s.told()).data(10));
                s.server(&segment(ACK).seq(SERVER + 1).ack(CLIENT + 11).data(20));
            }),
            ("a client that offers everything to a rule that offers an MSS", "--mss 1300", |s| {
                s.syn(ECE | CWR, &OFFER);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&stamps(51, 0)));
                s.server(
                    &segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).options(&[2, 4, 1, 0, 1, 3, 3, 7]).window(9000),
                );
            }),
            ("a client that offers an MSS to a rule that offers everything", "all", |s| {
                s.syn(0, &[2, 4, 3, 0]);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()));
            }),
            ("timestamps alone", "--timestamp", |s| {
                s.syn(0, &OFFER);
                let options = s.stamps(51, 0xf);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options));
            }),
            ("the other options without timestamps", "--sack-perm --wscale 5 --ecn", |s| s.syn(ECE | CWR, &OFFER)),
            ("congestion notification", "--timestamp --ecn --wscale 3", |s| {
                s.syn(ECE | CWR, &OFFER);
                let options = s.stamps(51, 0x2a);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options));
                s.server(&segment(SYN | ACK | ECE).seq(SERVER).ack(CLIENT + 1).options(&stamps(TIME, 51)));
            }),
            ("a server without timestamps", "all", |s| {
                s.syn(0, &OFFER);
                let options = s.stamps(51, 0x1a);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options).window(77));
                s.server(&segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).options(&[2, 4, 5, 0]).window(30_000));
                let options = s.stamps(52, 0x1a);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options).data(5));
            }),
            ("a scale of fifteen", "--timestamp --wscale 15", |s| {
                s.syn(0, &[8, 10, 0, 0, 0, 50, 0, 0, 0, 0, 3, 3, 15, 0]);
                s.syn(0, &[8, 10, 0, 0, 0, 50, 0, 0, 0, 0, 3, 3, 15, 0, 0, 0]);
            }),
        ],
    )
}

#[test]
fn what_is_not_a_cookie_and_what_comes_again_goes_as_with_the_kernel() -> Result<()> {
    run(
        "odd",
        &[
            ("wrong cookies", "all", |s| {
                s.syn(0, &OFFER);
                let told = s.told();
                s.client(&segment(ACK).seq(CLIENT + 1).ack(told.wrapping_add(1 << 20)));
                s.client(&segment(ACK).seq(CLIENT).ack(told.wrapping_add(4)));
                s.client(&segment(ACK).seq(CLIENT + 1).ack(told.wrapping_sub(1 << 26)));
                s.client(&segment(ACK | PSH).seq(CLIENT + 7).ack(12345).data(9));
                s.talk = s.talk.from(5001);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(told));
            }),
            ("neither a SYN nor an acknowledgement", "all", |s| {
                s.syn(0, &OFFER);
                let told = s.told();
                for flags in [FIN | ACK, RST, RST | ACK, SYN | ACK, SYN | FIN, 0] {
                    s.client(&segment(flags).seq(CLIENT + 1).ack(told));
                }
            }),
            ("data with the cookie", "all", |s| {
                s.syn(0, &OFFER);
                let options = s.stamps(51, 0x1a);
                s.client(&segment(ACK | PSH).seq(CLIENT + 1).ack(s.told()).options(&options).data(30));
            }),
            ("a damaged SYN", "all", |s| {
                let mut packet = s.talk.packet(&segment(SYN).seq(CLIENT));
                *packet.last_mut().expect("not empty") ^= 1;
                s.send(LAN, &packet);
            }),
            ("malformed options", "all", |s| {
                s.syn(0, &[2, 4, 5, 0xb4, 4, 2, 3, 9]);
                s.syn(0, &[2, 3, 5, 8, 10, 0, 0, 0]);
                s.syn(0, &[0, 0, 0, 0, 2, 4, 5, 0xb4]);
                s.syn(0, &[1, 1, 1, 2]);
            }),
            ("SYNs again", "all", |s| {
                s.syn(0, &OFFER);
                s.syn(0, &OFFER);
                s.open();
                s.syn(0, &OFFER);
            }),
            ("the acknowledgement again, before the server has answered and after", "all", |s| {
                s.syn(0, &OFFER);
                let ack = segment(ACK).seq(CLIENT + 1).ack(s.told()).window(500).options(&s.stamps(51, 0x1a));
                s.client(&ack);
                s.client(&ack);
                let syn = segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).options(&stamps(TIME, 51));
                s.server(&syn);
                s.client(&ack);
                s.server(&syn);
            }),
            ("a probe before the server has answered", "all", |s| {
                s.syn(0, &[2, 4, 5, 0, 1, 1, 4, 2]);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()));
                s.client(&segment(ACK).seq(CLIENT).ack(s.told()));
                s.client(&segment(ACK).seq(CLIENT).ack(s.told()).data(1));
            }),
            ("a probe of a client with a small MSS", "all", |s| {
                s.syn(0, &[2, 4, 1, 0]);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()));
                s.client(&segment(ACK).seq(CLIENT).ack(s.told()));
                s.server(&segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1));
                s.client(&segment(ACK).seq(CLIENT).ack(s.told()));
            }),
            ("a server that refuses", "all", |s| {
                s.syn(0, &OFFER);
                let options = s.stamps(51, 0x1a);
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options));
                s.server(&segment(RST | ACK).seq(0).ack(CLIENT + 1));
                s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options));
            }),
            ("a server that resets in the middle", "all", |s| {
                s.open();
                s.server(&segment(ACK | PSH).seq(SERVER + 1).ack(CLIENT + 1).options(&stamps(TIME + 20, 60)).data(40));
                s.server(&segment(RST).seq(SERVER + 41));
                s.server(&segment(RST).seq(SERVER + 41));
            }),
            ("a client that resets and comes again", "all", |s| {
                s.open();
                s.client(&segment(RST).seq(CLIENT + 1));
                // What the client would acknowledge now is in the old connection's window or not, by chance.
                s.syn(0, &OFFER);
            }),
        ],
    )
}

/// Names in rules of [`with_nat`], IPv4 and IPv6.
const NAMES: [(&str, &str, &str); 3] = [
    ("GATE", "192.168.1.1", "fd00:1::1"),
    ("SERVER", "203.0.113.9", "2001:db8:2::9"),
    ("OUTER", "203.0.113.2", "2001:db8:2::2"),
];

/// The rules with these in table nat.
fn with_nat(family: Family, nat: &str, hook: &str) -> String {
    let mut text = format!(
        "{}*nat\n{nat}\nCOMMIT\n",
        rules(family, "all").replace("-A FORWARD -i lan0", &format!("-A {hook} -i lan0"))
    );
    for (name, v4, v6) in NAMES {
        text = text.replace(name, of(family, v4, v6));
    }
    text
}

/// A connection of a client that speaks to this address, with a server that sees that one: data both ways.
fn converse(s: &mut Stage, to: &str, from: &str) {
    let named = |name: &str| {
        let (_, v4, v6) = NAMES.iter().find(|(n, ..)| *n == name).expect("a name");
        address(of(s.talk.family, v4, v6))
    };
    let (to, from) = (named(to), if from.is_empty() { s.talk.client.address } else { named(from) });
    let server = s.talk.server.address;
    s.talk.server.address = to;
    let client = s.talk.client.address;
    let back = |s: &mut Stage, segment: &Segment| {
        let mut talk = s.talk;
        (talk.client.address, talk.server.address) = (from, server);
        s.send(WAN, &talk.reversed().packet(segment));
    };
    s.syn(0, &OFFER);
    let options = s.stamps(51, 0x1a);
    s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).window(500).options(&options));
    back(s, &segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).window(30_000).options(&stamps(TIME, 51)));
    let options = s.stamps(60, 0x1a);
    s.client(&segment(ACK | PSH).seq(CLIENT + 1).ack(s.told()).options(&options).data(100));
    back(s, &segment(ACK | PSH).seq(SERVER + 1).ack(CLIENT + 101).options(&stamps(TIME + 20, 60)).data(40));
    assert_eq!(s.talk.client.address, client);
}

#[test]
fn mapped_connections_go_as_with_the_kernel() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-nat", std::process::id()))?;
    let plays: [(&str, Play); 4] = [
        ("FORWARD", ("masqueraded", "-A POSTROUTING -o wan0 -j MASQUERADE", |s| converse(s, "SERVER", "OUTER"))),
        (
            "INPUT",
            (
                "to the router, which leads its own packets on",
                "-A OUTPUT -d GATE -p tcp --dport 80 -j DNAT --to-destination SERVER",
                |s| converse(s, "GATE", ""),
            ),
        ),
        (
            "INPUT",
            (
                "the same, masqueraded",
                "-A OUTPUT -d GATE -p tcp --dport 80 -j DNAT --to-destination SERVER\n-A POSTROUTING -o wan0 -j MASQUERADE",
                |s| converse(s, "GATE", "OUTER"),
            ),
        ),
        (
            "INPUT",
            (
                "led on before the router answers, which is too late for what is not tracked",
                "-A PREROUTING -d GATE -p tcp --dport 80 -j DNAT --to-destination SERVER",
                |s| {
                    s.talk.server.address = address(of(s.talk.family, "192.168.1.1", "fd00:1::1"));
                    s.syn(0, &OFFER);
                },
            ),
        ),
    ];
    let mut found = String::new();
    for family in Family::ALL {
        for (hook, (name, nat, play)) in plays {
            found += &differs(&mut kernel, name, family, &with_nat(family, nat, hook), "0", &play)?;
        }
    }
    assert!(found.is_empty(), "\n{found}");
    Ok(())
}

#[test]
fn syns_that_are_tracked_and_answers_that_are_refused_go_as_with_the_kernel() -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-tracked", std::process::id()))?;
    let all = "-j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460";
    let mut found = String::new();
    let play = |s: &mut Stage| {
        s.syn(0, &OFFER);
        let options = s.stamps(51, 0x1a);
        s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).window(500).options(&options));
        s.server(&segment(SYN | ACK).seq(SERVER).ack(CLIENT + 1).options(&stamps(TIME, 51)));
        s.client(&segment(ACK).seq(CLIENT + 1).ack(s.told()).options(&options).data(3));
        s.server(&segment(ACK).seq(SERVER + 1).ack(CLIENT + 4).options(&stamps(TIME + 20, 60)).data(4));
    };
    let conntrack = "-m conntrack --ctstate";
    let texts = [
        (
            "SYNs are tracked",
            format!("*filter\n-A FORWARD -i lan0 -p tcp {conntrack} NEW,INVALID,UNTRACKED {all}\nCOMMIT\n"),
            "0",
        ),
        ("everything is the proxy's", format!("*filter\n-A FORWARD -p tcp {all}\nCOMMIT\n"), "0"),
        ("connections are picked up", format!("*filter\n-A FORWARD -i lan0 -p tcp --syn {all}\nCOMMIT\n"), "1"),
        (
            "OUTPUT drops what conntrack cannot place",
            rules(Family::V4, "all").replace(
                "-A OUTPUT -p tcp -m conntrack --ctstate INVALID\n",
                "-A OUTPUT -p tcp -m conntrack --ctstate INVALID -j DROP\n",
            ),
            "0",
        ),
        (
            "OUTPUT drops what begins",
            rules(Family::V4, "all").replace(
                "-A OUTPUT -p tcp -m conntrack --ctstate NEW\n",
                "-A OUTPUT -p tcp -m conntrack --ctstate NEW -j DROP\n",
            ),
            "0",
        ),
        (
            "OUTPUT refuses what begins",
            rules(Family::V4, "all").replace(
                "-A OUTPUT -p tcp -m conntrack --ctstate ESTABLISHED\n",
                "-A OUTPUT -p tcp -o wan0 -m conntrack --ctstate ESTABLISHED -j DROP\n",
            ),
            "0",
        ),
        (
            "raw has its say in OUTPUT",
            rules(Family::V4, "all").replace(
                "COMMIT\n*filter",
                "-A OUTPUT -p tcp -o lan0 -j CT --notrack\n-A OUTPUT -p tcp -o wan0 -j CT --zone 7\nCOMMIT\n*filter",
            ),
            "0",
        ),
        (
            "a connection has a mark and its packets a traffic class",
            rules(Family::V4, "all")
                + "*mangle\n-A OUTPUT -p tcp -j CONNMARK --set-mark 5\n-A POSTROUTING -p tcp -j TOS --set-tos 0x10\nCOMMIT\n",
            "0",
        ),
    ];
    for family in Family::ALL {
        for (name, text, loose) in &texts {
            let text = of(family, text.clone(), text.replace("-p icmp", "-p ipv6-icmp"));
            found += &differs(&mut kernel, name, family, &text, loose, &play)?;
        }
    }
    assert!(found.is_empty(), "\n{found}");
    Ok(())
}
