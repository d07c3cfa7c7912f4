//! Helpers step by step, as the kernel's do it: every dialogue runs through the kernel and through the engine.

use anyhow::Result;
use sumun_config::facts::{Family, PortId, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, WAN, address, of};
use sumun_testbed::differential::script::{ACK, PSH, RST, SYN, Script, Step, TELL, arrives, expect_none};
use sumun_testbed::differential::traffic::{Answer, hosts};
use sumun_testbed::differential::wire::{self, Ip};

const RAW: &str = "\
*raw
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp -m udp --dport 69 -j CT --helper tftp
COMMIT
";

/// How client and server see each other.
#[derive(Clone, Copy, Debug)]
enum Way {
    Plain,
    Masqueraded,
    Published,
}

const WAYS: [Way; 3] = [Way::Plain, Way::Masqueraded, Way::Published];

/// An end: behind which port it is, its address, and the other's as it sees it.
#[derive(Clone, Copy)]
struct End {
    port: PortId,
    own: u128,
    peer: u128,
}

impl Way {
    fn rules(self, family: Family) -> String {
        let inner = of(family, "192.168.1.12", "fd00:1::12");
        let nat = match self {
            Way::Plain => String::new(),
            Way::Masqueraded => "*nat\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n".into(),
            Way::Published => format!(
                "*nat\n-A PREROUTING -i wan0 -p tcp -m tcp --dport 21 -j DNAT --to-destination {inner}\n-A PREROUTING -i wan0 -p udp -m udp --dport 69 -j DNAT --to-destination {inner}\nCOMMIT\n"
            ),
        };
        format!("{RAW}{TELL}{nat}")
    }

    /// Client and server.
    fn ends(self, family: Family) -> [End; 2] {
        let (inner, outer) = (hosts(family).0[1], hosts(family).1[1]);
        let public = address(of(family, "203.0.113.2", "2001:db8:2::2"));
        let end = |port, own, peer| End { port, own, peer };
        match self {
            Way::Plain => [end(LAN, inner, outer), end(WAN, outer, inner)],
            Way::Masqueraded => [end(LAN, inner, outer), end(WAN, outer, public)],
            Way::Published => [end(WAN, outer, public), end(LAN, inner, outer)],
        }
    }
}

/// A control connection, and what is sent over it.
struct Ftp {
    family: Family,
    ends: [End; 2],
    ports: (u16, u16),
    next: [u32; 2],
    heard: [u32; 2],
}

impl Ftp {
    fn new(family: Family, way: Way) -> Ftp {
        Ftp { family, ends: way.ends(family), ports: (5000, 21), next: [1000, 5000], heard: [0; 2] }
    }

    fn segment(&self, from: usize, flags: u8, options: &[u8], data: &[u8]) -> Step {
        let End { port, own, peer } = self.ends[from];
        let ports = if from == 0 { self.ports } else { (self.ports.1, self.ports.0) };
        let l4 = wire::tcp(ports, self.next[from], self.heard[from], flags, options, data);
        arrives(port, &Ip::new(self.family, own, peer).packet(proto::TCP, &l4, 1))
    }

    fn open(&mut self) -> Vec<Step> {
        let permitted = [4, 2, 1, 1];
        let syn = self.segment(0, SYN, &permitted, b"");
        self.next[0] += 1;
        self.heard[1] = self.next[0];
        let answer = self.segment(1, SYN | ACK, &permitted, b"");
        self.next[1] += 1;
        self.heard[0] = self.next[1];
        vec![syn, answer, self.segment(0, ACK, &[], b"")]
    }

    /// A line, of which `longer` bytes more (or fewer) come to the other end, and its acknowledgement.
    fn says(&mut self, from: usize, text: &str, longer: i32) -> [Step; 2] {
        let data = format!("{text}\r\n");
        let line = self.segment(from, PSH | ACK, &[], data.as_bytes());
        self.next[from] += data.len() as u32;
        self.heard[1 - from] += (data.len() as u32).wrapping_add_signed(longer);
        [line, self.segment(1 - from, ACK, &[], b"")]
    }

    fn hello(&mut self) -> Vec<Step> {
        let mut steps = self.open();
        for (from, text) in [(1, "220 ready"), (0, "USER x"), (1, "230 welcome")] {
            steps.extend(self.says(from, text, 0));
        }
        steps
    }
}

fn comma(address: u128, port: u16) -> String {
    let [a, b, c, d] = (address as u32).to_be_bytes();
    format!("{a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
}

/// The line that announces a port, as its speaker says it and as it is heard.
fn line(form: &str, family: Family, own: u128, seen: u128, port: u16, mapped: bool) -> (String, i32) {
    let text = |address: u128, long: bool| match (form, family) {
        ("PORT", _) => format!("PORT {}", comma(address, port)),
        ("PASV", _) => format!("227 Entering Passive Mode ({}).", comma(address, port)),
        ("EPRT", Family::V4) => format!("EPRT |1|{}|{port}|", family.address(address)),
        ("EPRT", Family::V6) => {
            let short = family.address(address).to_string();
            let len = if long { 39 } else { short.len() };
            format!("EPRT |2|{short:<len$}|{port}|")
        }
        _ => format!("229 Entering Extended Passive Mode (|||{port}|)"),
    };
    let said = text(own, false);
    let heard = text(seen, mapped);
    let longer = heard.len() as i32 - said.len() as i32;
    (said, if mapped { longer } else { 0 })
}

fn forms(family: Family) -> &'static [&'static str] {
    of(family, &["PORT", "EPRT", "PASV", "EPSV"], &["EPRT", "EPSV"])
}

/// The data connection of a form, opened by a SYN and answered.
fn data(script: Script, ftp: &Ftp, form: &str, port: u16, from: u16) -> Script {
    let opener = usize::from(matches!(form, "PORT" | "EPRT"));
    let End { port: at, own, peer } = ftp.ends[opener];
    let segment = |seq: u32, ack: u32, flags: u8| {
        let l4 = wire::tcp((from, port), seq, ack, flags, &[], b"");
        arrives(at, &Ip::new(ftp.family, own, peer).packet(proto::TCP, &l4, 1))
    };
    script
        .step(segment(3000, 0, SYN))
        .answer(1, Answer::Segment { seq: 9000, ack: 3001, flags: SYN | ACK, len: 0 })
        .step(segment(3001, 9001, ACK))
        .step(segment(3001, 9001, RST | ACK))
}

/// A dialogue with a data connection of every form.
fn dialogue(family: Family, way: Way) -> Script {
    let mut ftp = Ftp::new(family, way);
    let mut script = Script::new(&format!("{way:?} {}", family.name()), family, &way.rules(family)).steps(ftp.hello());
    let mapped = !matches!(way, Way::Plain);
    for (n, form) in forms(family).iter().enumerate() {
        let port = 33_000 + n as u16;
        let speaker = usize::from(!matches!(*form, "PORT" | "EPRT"));
        let (text, longer) = line(form, family, ftp.ends[speaker].own, ftp.ends[1 - speaker].peer, port, mapped);
        script = script.note(*form).steps(ftp.says(speaker, &text, longer));
        let from = if speaker == 0 { 20 } else { 45_000 };
        script = data(script, &ftp, form, port, from);
        // Once only: the second is a stranger.
        script = data(script, &ftp, form, port, from + 1);
        for (from, text) in [(1 - speaker, "200 ok"), (speaker, "NOOP"), (1, "226 done")] {
            script = script.steps(ftp.says(from, text, 0));
        }
        let ack = ftp.heard[0];
        let block: Vec<u8> = [&[1u8, 1, 5, 10][..], &(ack + 10).to_be_bytes(), &(ack + 20).to_be_bytes()].concat();
        let back = ftp.heard[1];
        let other: Vec<u8> = [&[1u8, 1, 5, 10][..], &(back + 10).to_be_bytes(), &(back + 20).to_be_bytes()].concat();
        script = script.note("selective").step(ftp.segment(0, ACK, &block, b"")).step(ftp.segment(1, ACK, &other, b""));
    }
    script
}

/// Lines that are cut off, repeated, hidden, or name others.
fn oddities(family: Family, way: Way) -> Script {
    let mut ftp = Ftp::new(family, way);
    let name = format!("odd lines, {way:?} {}", family.name());
    let mut script = Script::new(&name, family, &way.rules(family)).steps(ftp.hello());
    let mapped = !matches!(way, Way::Plain);
    let client = ftp.ends[0].own;
    let seen = ftp.ends[1].peer;
    for text in [
        "PORT",
        "PORT ",
        "PORT 1",
        "PORT 1,2,3,4,5",
        "PORT 1,2,3,4,5,6,7\r\n",
        "port x\r\n",
        "EPRT |",
        "EPRT |1|1.2.3.4|0|\r\n",
        "EPRT |3|1.2.3.4|5|\r\n",
        "EPRT |2|::g|5|\r\n",
        "EPRT 111.2.3.4151\r\n",
        "P",
    ] {
        script = script.note(text).step(ftp.segment(0, PSH | ACK, &[], text.as_bytes()));
    }
    for text in ["2", "227 no\r\n", "227 1,2,3\r\n", "229 (|||\r\n", "229 none\r\n", "229 (|||0|)\r\n"] {
        script = script.note(text).step(ftp.segment(1, PSH | ACK, &[], text.as_bytes()));
    }
    let (text, longer) = line("EPRT", family, client, seen, 33_000, mapped);
    script = script.note("twice the same").step(ftp.segment(0, PSH | ACK, &[], format!("{text}\r\n").as_bytes()));
    script = script.steps(ftp.says(0, &text, longer));
    let (foreign, _) = line("EPRT", family, client + 1, client + 1, 33_001, false);
    script = script.note("of another").steps(ftp.says(0, &foreign, 0));
    let (text, longer) = line("EPRT", family, client, seen, 33_002, mapped);
    script = script.note("the newer one counts").steps(ftp.says(0, &text, longer));
    script = data(script, &ftp, "EPRT", 33_000, 20);
    data(script, &ftp, "EPRT", 33_002, 21)
}

fn tftp(family: Family, way: Way) -> Script {
    let [client, server] = way.ends(family);
    let datagram = |end: &End, ports, data: &[u8]| {
        arrives(end.port, &Ip::new(family, end.own, end.peer).packet(proto::UDP, &wire::udp(ports, data), 1))
    };
    let name = format!("tftp, {way:?} {}", family.name());
    let mut script = Script::new(&name, family, &way.rules(family));
    for (n, opcode) in [1u8, 2, 3, 9].into_iter().enumerate() {
        let port = 5000 + n as u16;
        script = script
            .note(format!("opcode {opcode}"))
            .step(datagram(&client, (port, 69), &[0, opcode, b'f', 0]))
            .step(datagram(&server, (44_000, port), &[0, 3, 0, 1, 7]))
            .step(datagram(&client, (port, 44_000), &[0, 4, 0, 1]))
            .step(datagram(&server, (44_001, port), &[0, 3, 0, 1, 7]));
    }
    script
}

fn run(tag: &str, script: fn(Family, Way) -> Script) -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-{tag}", std::process::id()))?;
    let all: Vec<Script> = Family::ALL.into_iter().flat_map(|family| WAYS.map(|way| script(family, way))).collect();
    expect_none(&mut kernel, &all)?;
    let rules = kernel.rules(Family::V6)?;
    let related = rules.lines().find(|rule| rule.contains("--ctstate RELATED")).expect("the rule that tells");
    assert!(!related.starts_with("[0:0]"), "the kernel's helper has expected something: {rules}");
    Ok(())
}

#[test]
fn ftp_dialogues_of_every_form() -> Result<()> {
    run("ftp", dialogue)
}

#[test]
fn ftp_lines_that_are_cut_off_repeated_or_of_another() -> Result<()> {
    run("odd", oddities)
}

#[test]
fn tftp_requests() -> Result<()> {
    run("tftp", tftp)
}
