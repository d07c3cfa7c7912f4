//! Helpers: whole dialogues of FTP and TFTP through the router, with and without NAT, in both families.

mod common;

use common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use sumun_config::facts::{Family, PortId};

const S: u64 = 1_000_000_000;

/// Only what was asked for from inside, or belongs to it, passes.
const FILTER: &str = r#"
[filter.FORWARD]
policy = "DROP"
rules = [
  "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
  "-m conntrack --ctstate RELATED -j ACCEPT",
  "-p tcp -m tcp --dport 21 -j ACCEPT",
  "-p udp -m udp --dport 69 -j ACCEPT",
]
"#;

const HELPERS: &str = r#"
[raw.PREROUTING]
rules = ["-p tcp -m tcp --dport 21 -j CT --helper ftp", "-p udp -m udp --dport 69 -j CT --helper tftp"]
"#;

const MASQUERADE: &str = r#"
[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE"]
"#;

const DNAT: &str = r#"
[ipv4.nat.PREROUTING]
rules = [
  "-d 203.0.113.2/32 -p tcp -m tcp --dport 21 -j DNAT --to-destination 192.168.1.9",
  "-d 203.0.113.2/32 -p udp -m udp --dport 69 -j DNAT --to-destination 192.168.1.9",
]
[ipv6.nat.PREROUTING]
rules = [
  "-d 2001:db8:2::2/128 -p tcp -m tcp --dport 21 -j DNAT --to-destination fd00:1::9",
  "-d 2001:db8:2::2/128 -p udp -m udp --dport 69 -j DNAT --to-destination fd00:1::9",
]
"#;

/// How client and server see each other.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Plain,
    Masqueraded,
    Published,
}

impl Way {
    const ALL: [Way; 3] = [Way::Plain, Way::Masqueraded, Way::Published];

    fn rules(self, helpers: bool) -> String {
        let nat = match self {
            Way::Plain => "",
            Way::Masqueraded => MASQUERADE,
            Way::Published => DNAT,
        };
        format!("{nat}{FILTER}{}", if helpers { HELPERS } else { "" })
    }

    /// Client and server: where they are, who they are, and who the other seems to be.
    fn ends(self, family: Family) -> [(PortId, u128, u128); 2] {
        let (inner, outer) = ends(family);
        let (_, public) = own(family);
        match self {
            Way::Plain => [(LAN, inner, outer), (WAN, outer, inner)],
            Way::Masqueraded => [(LAN, inner, outer), (WAN, outer, public)],
            Way::Published => [(WAN, outer, public), (LAN, inner, outer)],
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
struct End {
    port: PortId,
    own: u128,
    peer: u128,
    ports: (u16, u16),
    next: u32,
    heard: u32,
}

/// A connection whose ends count as real ones do: what does not fit their numbers fails the test.
struct Connection {
    family: Family,
    ends: [End; 2],
}

/// Numbers and data of a TCP frame.
fn read(frame: &[u8]) -> (u128, u128, u16, u16, u32, u32, Vec<u8>) {
    describe(frame);
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (src, dst) = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            (u32::from(ip.header().source_addr()).into(), u32::from(ip.header().destination_addr()).into())
        }
        NetSlice::Ipv6(ip) => (ip.header().source_addr().to_bits(), ip.header().destination_addr().to_bits()),
        _ => panic!("not IP"),
    };
    match packet.transport.unwrap() {
        TransportSlice::Tcp(h) => (
            src,
            dst,
            h.source_port(),
            h.destination_port(),
            h.sequence_number(),
            h.acknowledgment_number(),
            h.payload().to_vec(),
        ),
        TransportSlice::Udp(h) => (src, dst, h.source_port(), h.destination_port(), 0, 0, h.payload().to_vec()),
        _ => panic!("neither TCP nor UDP"),
    }
}

impl Connection {
    /// Between these ends, not yet opened.
    fn new(family: Family, ends: [(PortId, u128, u128); 2], ports: (u16, u16)) -> Connection {
        let end = |(port, own, peer), ports, next| End { port, own, peer, ports, next, heard: 0 };
        let [a, b] = ends;
        Connection { family, ends: [end(a, ports, 7000), end(b, (ports.1, ports.0), u32::MAX - 50)] }
    }

    fn frame(&self, from: usize, flags: &str, data: &[u8]) -> Vec<u8> {
        let e = &self.ends[from];
        let mut step = ip(self.family, e.own, e.peer, 64).tcp(e.ports.0, e.ports.1, e.next, 30_000);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(e.heard),
                'F' => step.fin(),
                'R' => step.rst(),
                other => panic!("no TCP flag {other}"),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, data).unwrap();
        frame
    }

    /// Sends a segment; what the other end gets, whose addresses and numbers must fit. None where nothing comes.
    fn send(&mut self, rig: &mut Rig, from: usize, flags: &str, data: &[u8]) -> Option<Vec<u8>> {
        let sent = rig.send(self.ends[from].port, &self.frame(from, flags, data));
        let syn = u32::from(flags.contains('S'));
        self.ends[from].next = self.ends[from].next.wrapping_add(data.len() as u32 + syn);
        let [(port, frame)] = &sent[..] else {
            assert!(sent.is_empty(), "{:?}", described(&sent));
            return None;
        };
        let (src, dst, sport, dport, seq, ack, got) = read(frame);
        let to = &mut self.ends[1 - from];
        if syn == 1 && !flags.contains('A') {
            // What a first segment comes from is what is answered.
            (to.peer, to.ports.1) = (src, sport);
            to.heard = seq;
        }
        assert_eq!((*port, src, dst, sport, dport), (to.port, to.peer, to.own, to.ports.1, to.ports.0));
        if syn == 1 {
            to.heard = seq;
        }
        assert_eq!(seq, to.heard, "the next byte that the other end waits for: {}", String::from_utf8_lossy(&got));
        if flags.contains('A') {
            assert_eq!(ack, to.next, "all that the other end has sent is acknowledged");
        }
        to.heard = to.heard.wrapping_add(got.len() as u32 + syn);
        Some(got)
    }

    /// The three-way handshake; false where the first segment does not come through.
    fn open(&mut self, rig: &mut Rig) -> bool {
        self.send(rig, 0, "S", b"").is_some()
            && self.send(rig, 1, "SA", b"").is_some()
            && self.send(rig, 0, "A", b"").is_some()
    }

    /// A line from the client (0) or the server (1), acknowledged; what the other end reads.
    fn line(&mut self, rig: &mut Rig, from: usize, text: &str) -> String {
        let got = self.send(rig, from, "A", format!("{text}\r\n").as_bytes()).expect("the line comes through");
        self.send(rig, 1 - from, "A", b"").expect("so does its acknowledgement");
        String::from_utf8(got).unwrap().trim_end().to_string()
    }
}

/// A control connection that has said hello.
fn control(rig: &mut Rig, family: Family, way: Way, sport: u16) -> Connection {
    let mut c = Connection::new(family, way.ends(family), (sport, 21));
    assert!(c.open(rig));
    c.line(rig, 1, "220 ready");
    c.line(rig, 0, "USER anonymous");
    c.line(rig, 1, "331 password");
    c.line(rig, 0, "PASS guest@");
    c.line(rig, 1, "230 welcome");
    c
}

/// Forms of announcement of a family.
fn forms(family: Family) -> &'static [&'static str] {
    match family {
        Family::V4 => &["PORT", "EPRT", "PASV", "EPSV"],
        Family::V6 => &["EPRT", "EPSV"],
    }
}

fn comma(address: u128, port: u16) -> String {
    let [a, b, c, d] = (address as u32).to_be_bytes();
    format!("{a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
}

/// An address and port as a form writes them.
fn written(form: &str, family: Family, address: u128, port: u16) -> String {
    match (form, family) {
        ("PORT", _) => format!("PORT {}", comma(address, port)),
        ("PASV", _) => format!("227 Entering Passive Mode ({}).", comma(address, port)),
        ("EPRT", Family::V4) => format!("EPRT |1|{}|{port}|", family.address(address)),
        ("EPRT", Family::V6) => format!("EPRT |2|{}|{port}|", family.address(address)),
        _ => format!("229 Entering Extended Passive Mode (|||{port}|)"),
    }
}

/// Address and port that a line names; `own` where it names no address.
fn named(line: &str, own: u128) -> (u128, u16) {
    let numbers = |text: &str| text.split(',').map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>();
    let commas = |text: &str| {
        let n = numbers(text);
        (u128::from(n[0] << 24 | n[1] << 16 | n[2] << 8 | n[3]), (n[4] << 8 | n[5]) as u16)
    };
    match &line[..4] {
        "PORT" => commas(&line[5..]),
        "227 " => commas(line.split(['(', ')']).nth(1).unwrap()),
        "EPRT" => {
            let parts: Vec<&str> = line[5..].split('|').collect();
            let address = match parts[2].parse::<std::net::IpAddr>().unwrap() {
                std::net::IpAddr::V4(a) => a.to_bits().into(),
                std::net::IpAddr::V6(a) => a.to_bits(),
            };
            (address, parts[3].parse().unwrap())
        }
        _ => (own, line.split('|').nth(3).unwrap().parse().unwrap()),
    }
}

/// Announces a data connection to `port` in a form; the connection, as the one that opens it must open it.
fn announce(rig: &mut Rig, c: &mut Connection, form: &str, port: u16) -> Connection {
    let speaker = usize::from(!matches!(form, "PORT" | "EPRT"));
    if speaker == 1 {
        c.line(rig, 0, form);
    }
    let text = written(form, c.family, c.ends[speaker].own, port);
    let heard = c.line(rig, speaker, &text);
    let opener = &c.ends[1 - speaker];
    let (address, to) = named(&heard, opener.peer);
    assert_eq!(address, opener.peer, "{form}: the address is one that the other end can reach");
    let from = if speaker == 0 { 20 } else { 45_000 };
    let listener = &c.ends[speaker];
    let sides = [(opener.port, opener.own, address), (listener.port, listener.own, listener.peer)];
    let mut data = Connection::new(c.family, sides, (from, to));
    data.ends[1].ports.0 = port;
    data
}

#[test]
fn data_connections_of_every_form_come_through_where_the_helper_expects_them() {
    for family in Family::ALL {
        for way in Way::ALL {
            let mut rig = Rig::new(&way.rules(true));
            let mut c = control(&mut rig, family, way, 40_000);
            for (n, form) in forms(family).iter().enumerate() {
                let mut data = announce(&mut rig, &mut c, form, 33_000 + n as u16);
                let expected = rig.router.conntrack.expectations(rig.now);
                assert_eq!(expected.len(), 1, "{way:?} {form}");
                assert!(data.open(&mut rig), "{way:?} {form}");
                assert!(rig.router.conntrack.expectations(rig.now).is_empty(), "it was expected once");
                assert_eq!(data.send(&mut rig, 0, "A", b"some bytes"), Some(b"some bytes".to_vec()));
                assert_eq!(data.send(&mut rig, 1, "A", b"others"), Some(b"others".to_vec()));
                c.line(&mut rig, 1, "226 Transfer complete");
                c.line(&mut rig, 0, "NOOP");
            }
            let related = rig.packets(family, "filter.FORWARD")[1];
            assert_eq!(related, forms(family).len() as u64, "{way:?}: the first packet of each is RELATED");
            assert_eq!(rig.drops(), []);
            rig.assert_census();
        }
    }
}

#[test]
fn without_the_helper_they_do_not() {
    for family in Family::ALL {
        for form in forms(family) {
            let mut rig = Rig::new(&Way::Plain.rules(false));
            let mut c = control(&mut rig, family, Way::Plain, 40_000);
            let mut data = announce(&mut rig, &mut c, form, 33_000);
            assert!(!data.open(&mut rig), "{form}");
            assert_eq!(rig.drops(), [("policy-drop", 1)]);
        }
    }
}

#[test]
fn an_expectation_serves_one_connection_to_one_port_from_one_host() {
    for family in Family::ALL {
        let mut rig = Rig::new(&Way::Plain.rules(true));
        let mut c = control(&mut rig, family, Way::Plain, 40_000);
        let data = announce(&mut rig, &mut c, "EPSV", 33_000);
        let stranger = |port: u16, dport: u16, add: u128| {
            let mut other = Connection::new(family, Way::Plain.ends(family), (port, dport));
            other.ends[0].own += add;
            other
        };
        assert!(!stranger(45_001, 33_001, 0).open(&mut rig), "another port");
        assert!(!stranger(45_001, 33_000, 1).open(&mut rig), "another host");
        let mut data = data;
        assert!(data.open(&mut rig));
        assert!(!stranger(45_002, 33_000, 0).open(&mut rig), "once only");
        assert_eq!(rig.drops(), [("policy-drop", 3)]);
    }
}

#[test]
fn two_clients_behind_one_address_may_name_the_same_port() {
    for family in Family::ALL {
        let way = Way::Masqueraded;
        let mut rig = Rig::new(&way.rules(true));
        let mut first = control(&mut rig, family, way, 40_000);
        let mut second = control(&mut rig, family, way, 40_001);
        let mut one = announce(&mut rig, &mut first, "EPRT", 33_000);
        let mut two = announce(&mut rig, &mut second, "EPRT", 33_000);
        assert_eq!(one.ends[0].ports, (20, 33_000), "the first is kept");
        assert!(two.ends[0].ports.1 > 33_000, "the second moves up");
        assert_eq!(rig.router.conntrack.expectations(rig.now).len(), 2);
        assert!(two.open(&mut rig));
        // The same client and port cannot be reached twice at once, so the first comes from another port of the server.
        one.ends[0].ports.0 = 22;
        one.ends[1].ports.1 = 22;
        assert!(one.open(&mut rig));
        assert_eq!(rig.drops(), []);
    }
}

#[test]
fn a_repeated_line_is_written_the_same_again() {
    let way = Way::Masqueraded;
    let mut rig = Rig::new(&way.rules(true));
    let mut c = control(&mut rig, Family::V4, way, 40_000);
    // Two lines of other lengths before, so that numbers have moved already.
    announce(&mut rig, &mut c, "EPRT", 33_000);
    announce(&mut rig, &mut c, "PORT", 9);
    let text = format!("{}\r\n", written("PORT", Family::V4, c.ends[0].own, 33_500));
    let frame = c.frame(0, "A", text.as_bytes());
    let first = rig.send(LAN, &frame);
    let second = rig.send(LAN, &frame);
    assert_eq!(first, second);
    let (_, _, _, _, seq, _, got) = read(&first[0].1);
    assert_eq!(seq, c.ends[1].heard);
    assert_eq!(named(std::str::from_utf8(&got).unwrap().trim_end(), 0), (own(Family::V4).1, 33_500));
    assert_eq!(rig.router.conntrack.expectations(rig.now).len(), 1, "the same takes the place of the older");
}

#[test]
fn lines_are_read_where_they_begin_and_cut_off_ones_are_dropped() {
    for family in Family::ALL {
        let mut rig = Rig::new(&Way::Plain.rules(true));
        let mut c = control(&mut rig, family, Way::Plain, 40_000);
        let port = written("EPRT", family, c.ends[0].own, 33_000);
        // Inside a line, the words mean nothing.
        c.send(&mut rig, 0, "A", b"STOR ").unwrap();
        c.send(&mut rig, 0, "A", format!("{port}\r\n").as_bytes()).unwrap();
        assert!(rig.router.conntrack.expectations(rig.now).is_empty());
        c.send(&mut rig, 1, "A", b"").unwrap();
        let before = c.ends[0].clone();
        assert_eq!(c.send(&mut rig, 0, "A", &port.as_bytes()[..12]), None);
        assert_eq!(rig.drops(), [("helper-partial", 1)]);
        // Its sender repeats it with the rest.
        c.ends[0] = before;
        c.line(&mut rig, 0, &port);
        assert_eq!(rig.router.conntrack.expectations(rig.now).len(), 1);
        // Another host's address is not followed.
        let foreign = written("EPRT", family, c.ends[0].own + 1, 33_001);
        c.line(&mut rig, 0, &foreign);
        let ports: Vec<u16> = rig.router.conntrack.expectations(rig.now).iter().map(|e| e.tuple.dport).collect();
        assert_eq!(ports, [33_000]);
    }
}

#[test]
fn expectations_end_with_time_with_their_master_and_by_the_limit_of_their_class() {
    for family in Family::ALL {
        let mut rig = Rig::new(&Way::Plain.rules(true));
        let count = |rig: &Rig| rig.router.conntrack.expectations(rig.now).len();
        let mut c = control(&mut rig, family, Way::Plain, 40_000);
        let mut old = announce(&mut rig, &mut c, "EPSV", 33_000);
        announce(&mut rig, &mut c, "EPSV", 33_001);
        assert_eq!(count(&rig), 1, "one of a class: the oldest went");
        assert!(!old.open(&mut rig));
        rig.wait(299 * S);
        assert_eq!(count(&rig), 1);
        rig.wait(S);
        assert_eq!(count(&rig), 0, "five minutes");
        let mut late = announce(&mut rig, &mut c, "EPSV", 33_002);
        rig.router.conntrack.flush(rig.now);
        assert_eq!(count(&rig), 0, "the master is gone");
        assert!(!late.open(&mut rig));
        let mut c = control(&mut rig, family, Way::Plain, 40_002);
        announce(&mut rig, &mut c, "EPSV", 33_003);
        c.send(&mut rig, 1, "R", b"").unwrap();
        for _ in 0..20 {
            rig.wait(S);
        }
        assert_eq!(count(&rig), 0, "reset, and forgotten");
        assert_eq!(rig.router.conntrack.stats().expect_create, rig.router.conntrack.stats().expect_delete);
    }
}

#[test]
fn expected_flows_have_their_masters_mark() {
    let rules = format!(
        "{}\n[mangle.PREROUTING]\nrules = [\"-p tcp -m tcp --dport 21 -j CONNMARK --set-mark 7\"]\n",
        Way::Plain.rules(true)
    );
    let mut rig = Rig::new(&rules);
    let mut c = control(&mut rig, Family::V4, Way::Plain, 40_000);
    let mut data = announce(&mut rig, &mut c, "PASV", 33_000);
    assert!(data.open(&mut rig));
    let mut marks = Vec::new();
    rig.router.conntrack.list(rig.now, |flow| marks.push((flow.original.tuple.dport, flow.mark)));
    marks.sort_unstable();
    assert_eq!(marks, [(21, 7), (33_000, 7)]);
}

#[test]
fn a_tftp_server_answers_from_any_port() {
    for family in Family::ALL {
        for way in Way::ALL {
            let [(port, client, server), (back, host, peer)] = way.ends(family);
            for (helpers, request) in
                [(true, &b"\0\x01file\0octet\0"[..]), (true, b"\0\x02f\0octet\0"), (false, b"\0\x01f\0octet\0")]
            {
                let mut rig = Rig::new(&way.rules(helpers));
                let sent = rig.send(port, &udp(family, client, server, (5000, 69), request));
                let (src, dst, sport, dport, _, _, data) = read(&sent[0].1);
                assert_eq!((src, dst, dport, &data[..]), (peer, host, 69, request));
                assert_eq!(rig.router.conntrack.expectations(rig.now).len(), usize::from(helpers));
                let answer = rig.send(back, &udp(family, host, peer, (44_444, sport), b"\0\x03\0\x01data"));
                if !helpers {
                    assert!(answer.iter().all(|(to, _)| *to != port));
                    continue;
                }
                let (src, dst, sport, dport, _, _, _) = read(&answer[0].1);
                assert_eq!((answer[0].0, src, dst, sport, dport), (port, server, client, 44_444, 5000), "{way:?}");
                let more = rig.send(port, &udp(family, client, server, (5000, 44_444), b"\0\x04\0\x01"));
                assert_eq!(more.len(), 1);
                // Other opcodes announce nothing.
                rig.send(port, &udp(family, client, server, (5001, 69), b"\0\x04\0\x01"));
                assert!(rig.router.conntrack.expectations(rig.now).is_empty());
                assert_eq!(rig.drops(), []);
                rig.assert_census();
            }
        }
    }
}

#[test]
fn expectations_print_as_conntrack_prints_them() {
    let way = Way::Masqueraded;
    let mut rig = Rig::new(&way.rules(true));
    let mut c = control(&mut rig, Family::V4, way, 40_000);
    announce(&mut rig, &mut c, "PORT", 33_000);
    let lines: Vec<String> = rig.router.conntrack.expectations(rig.now).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["300 proto=6 src=203.0.113.9 dst=203.0.113.2 sport=0 dport=33000 mask-src=255.255.255.255 \
             mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.1.9 master-dst=203.0.113.9 sport=40000 \
             dport=21 class=0 helper=ftp"]
    );
}

#[test]
fn hostile_lines_neither_panic_nor_lose_a_frame() {
    let way = Way::Masqueraded;
    let mut rig = Rig::new(&way.rules(true));
    let mut seed = 88172645463325252u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..40u16 {
        let mut c = control(&mut rig, Family::V4, way, 41_000 + round);
        for _ in 0..20 {
            let from = (next() % 2) as usize;
            let head = ["PORT ", "EPRT |1|", "227 (", "229 (|||", "PORT 192,168,1,9,", ""][(next() % 6) as usize];
            let mut data = head.as_bytes().to_vec();
            for _ in 0..next() % 40 {
                data.push(b"0123456789,|()\r\n.:a\xff\0 "[(next() % 22) as usize]);
            }
            data.extend(b"\r\n");
            let before = c.ends.clone();
            let sent = rig.send(c.ends[from].port, &c.frame(from, "A", &data));
            if sent.is_empty() {
                c.ends = before;
            } else {
                let (_, _, _, _, _, _, got) = read(&sent[0].1);
                c.ends[from].next = c.ends[from].next.wrapping_add(data.len() as u32);
                c.ends[1 - from].heard = c.ends[1 - from].heard.wrapping_add(got.len() as u32);
            }
        }
    }
    rig.assert_census();
}
