//! `sumun simulate`: recordings in, recordings and traces out, through the real binary and without a daemon.

use crate::bench::{Place, Ran, arg};
use etherparse::PacketBuilder;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::BufReader;
use std::time::{Duration, Instant};

const ROUTER: [u8; 6] = [2, 0, 0, 0, 9, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 9, 2];
const CLIENT: [u8; 4] = [192, 168, 1, 9];
const SERVER: [u8; 4] = [203, 0, 113, 9];
/// The router's address on lan0.
const LAN: [u8; 4] = [192, 168, 1, 1];
const SECOND: u64 = 1_000_000_000;
/// When recordings begin.
const START: u64 = 1_700_000_000 * SECOND;

const NETWORK: &str = r#"
[dataplane]
max-flows = 1024
[interfaces.lan0]
addresses = ["192.168.1.1/24"]
[interfaces.wan0]
addresses = ["203.0.113.2/24"]
"#;

/// A frame of what was written: interface, nanoseconds after [`START`], bytes.
type Written = (String, u64, Vec<u8>);
/// A frame of a recording: port, nanoseconds after [`START`], bytes.
type Heard = (&'static str, u64, Vec<u8>);

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(HOST, ROUTER).ipv4(src, dst, 64).udp(ports.0, ports.1);
    step.write(&mut frame, b"12345678").unwrap();
    frame
}

fn ping(dst: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HOST, ROUTER)
        .ipv4(CLIENT, dst, 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &HOST, &head, &HOST, &CLIENT, &[0; 6], &target].concat()
}

/// A recording with the ports as named interfaces, in nanoseconds.
fn record(place: &Place, heard: &[Heard]) -> String {
    let path = place.path("in.pcapng");
    let mut file = PcapNgWriter::new(File::create(&path).unwrap()).unwrap();
    let mut names: Vec<&str> = Vec::new();
    for (port, time, bytes) in heard {
        let id = names.iter().position(|name| name == port).unwrap_or_else(|| {
            let options =
                vec![InterfaceDescriptionOption::IfName(Cow::Borrowed(port)), InterfaceDescriptionOption::IfTsResol(9)];
            let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
            file.write_block(&block.into_block()).unwrap();
            names.push(port);
            names.len() - 1
        });
        let block = EnhancedPacketBlock {
            interface_id: id as u32,
            timestamp: Duration::from_nanos(START + time),
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
            options: Vec::new(),
        };
        file.write_block(&block.into_block()).unwrap();
    }
    arg(&path).to_string()
}

/// The frames of a file by the names of their interfaces, and all the names.
fn read(place: &Place, name: &str) -> (Vec<String>, Vec<Written>) {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(place.path(name)).unwrap())).unwrap();
    let (mut names, mut frames): (Vec<String>, Vec<_>) = Default::default();
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                names.push(name.expect("each interface has a name"));
            }
            Block::EnhancedPacket(packet) => {
                let name = names[packet.interface_id as usize].clone();
                frames.push((name, packet.timestamp.as_nanos() as u64 - START, packet.data.to_vec()));
            }
            other => panic!("{other:?}"),
        }
    }
    (names, frames)
}

/// A place with the network and these rules.
fn place(rules: &str) -> Place {
    let place = Place::new();
    place.replace(&format!("{NETWORK}{rules}"));
    place
}

fn simulate(place: &Place, input: &str, more: &[&str]) -> Ran {
    let config = place.config();
    place.sumun(&[&["simulate", "--config", arg(&config), "--in", input], more].concat())
}

/// What became of each packet: `fate/reason/out` of the JSON trace.
fn fates(place: &Place, heard: &[Heard]) -> Vec<String> {
    let ran = simulate(place, &record(place, heard), &["--trace", "json"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let short = |line: serde_json::Value| {
        let out: Vec<&str> = line["out"].as_array().unwrap().iter().map(|port| port.as_str().unwrap()).collect();
        format!("{} {} {}", line["fate"].as_str().unwrap(), line["reason"].as_str().unwrap_or("-"), out.join("+"))
    };
    ran.out.lines().map(|line| short(serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn forwarded_packets_leave_with_the_macs_and_times_of_the_recording() {
    let place = place("[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n");
    let input = record(
        &place,
        &[
            ("lan0", 0, udp(CLIENT, SERVER, (1000, 53))),
            ("lan0", 5, ping(LAN)),
            ("wan0", 9, udp(SERVER, [203, 0, 113, 2], (53, 1000))),
        ],
    );
    let out = place.path("out.pcapng");
    let ran = simulate(&place, &input, &["--out", arg(&out)]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.out, "3 packets\n         1 delivered\n         2 forwarded\n");
    let (names, frames) = read(&place, "out.pcapng");
    assert_eq!(names, ["lan0", "wan0", "host"]);
    let seen: Vec<_> =
        frames.iter().map(|(port, time, frame)| (port.as_str(), *time, &frame[6..12], &frame[26..34])).collect();
    let router = &ROUTER[..];
    assert_eq!(
        seen,
        [
            ("wan0", 0, router, &[203, 0, 113, 2, 203, 0, 113, 9][..]),
            ("lan0", 5, router, &[192, 168, 1, 1, 192, 168, 1, 9]),
            ("host", 5, &HOST, &[192, 168, 1, 9, 192, 168, 1, 1]),
            ("lan0", 9, router, &[203, 0, 113, 9, 192, 168, 1, 9]),
        ]
    );
    // A next hop's MAC is made of its address.
    assert_eq!(frames[0].2[..6], [2, 0, 203, 0, 113, 9]);
}

#[test]
fn json_trace_is_a_line_for_each_packet_with_all_that_was_asked() {
    // Table nat is asked where some rule maps, on whichever hook.
    let rules = "[nat.OUTPUT]\nrules = [\"-j REDIRECT\"]\n[filter.FORWARD]\nrules = [\"-p udp --dport 53 -j dns\", \"-j DROP\"]\n";
    let place = place(&format!("{rules}[filter.dns]\nrules = [\"-i lan0\", \"-i lan0 -j ACCEPT\"]\n"));
    let input =
        record(&place, &[("lan0", 0, udp(CLIENT, SERVER, (1000, 53))), ("lan0", 1, udp(CLIENT, SERVER, (1000, 54)))]);
    let ran = simulate(&place, &input, &["--trace", "json"]);
    let step = |hook: &str, table: &str, chain: &str, rule: &str, verdict: &str| {
        format!(r#"{{"hook":"{hook}","table":"{table}","chain":"{chain}","rule":{rule},"verdict":"{verdict}"}}"#)
    };
    let accepts = |hook: &str, table: &str| step(hook, table, hook, "null", "ACCEPT");
    let start = [
        accepts("PREROUTING", "raw"),
        accepts("PREROUTING", "mangle"),
        accepts("PREROUTING", "nat"),
        accepts("FORWARD", "mangle"),
    ];
    let first = [
        step("FORWARD", "filter", "FORWARD", "1", "dns"),
        step("FORWARD", "filter", "dns", "1", "CONTINUE"),
        step("FORWARD", "filter", "dns", "2", "ACCEPT"),
        accepts("FORWARD", "security"),
        accepts("POSTROUTING", "mangle"),
        accepts("POSTROUTING", "nat"),
    ];
    let second = [step("FORWARD", "filter", "FORWARD", "2", "DROP")];
    let expected = [
        format!(
            r#"{{"packet":0,"port":"lan0","fate":"forwarded","reason":null,"out":["wan0"],"steps":[{}]}}"#,
            [&start[..], &first].concat().join(",")
        ),
        format!(
            r#"{{"packet":1,"port":"lan0","fate":"dropped","reason":"rule-drop","out":[],"steps":[{}]}}"#,
            [&start[..], &second].concat().join(",")
        ),
    ];
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn text_trace_says_the_same_for_people() {
    let place = place("[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-p udp --dport 53 -j ACCEPT\"]\n");
    let heard = [("lan0", 0, udp(CLIENT, SERVER, (1000, 53))), ("lan0", 1, udp(CLIENT, SERVER, (1000, 54)))];
    let ran = simulate(&place, &record(&place, &heard), &["--trace", "text"]);
    let parts = [
        "#0 in lan0 forwarded, out wan0\n",
        "    PREROUTING  raw      PREROUTING policy: ACCEPT\n",
        "    FORWARD     filter   FORWARD rule 1: ACCEPT\n",
        "#1 in lan0 dropped (policy-drop)\n",
        "    FORWARD     filter   FORWARD policy: DROP\n",
    ];
    for part in parts {
        assert!(ran.out.contains(part), "{part:?} is not in\n{}", ran.out);
    }
}

#[test]
fn arp_requests_are_answered_with_the_mac_of_the_recording() {
    let place = place("");
    let out = place.path("out.pcapng");
    let foreign = {
        let mut frame = udp(CLIENT, SERVER, (1, 2));
        frame[5] = 0x77;
        frame
    };
    // The first frame is to somebody else: the router is the one that most frames are to.
    let heard = [
        ("lan0", 0, foreign),
        ("lan0", 1, arp_request(LAN)),
        ("lan0", 2, ping(LAN)),
        ("lan0", 3, ping(LAN)),
        ("lan0", 4, arp_request([192, 168, 1, 77])),
    ];
    let ran = simulate(&place, &record(&place, &heard), &["--out", arg(&out), "--trace", "json"]);
    let fates: Vec<String> =
        ran.out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["fate"].to_string()).collect();
    assert_eq!(fates, ["\"dropped\"", "\"consumed\"", "\"delivered\"", "\"delivered\"", "\"consumed\""]);
    let (_, frames) = read(&place, "out.pcapng");
    let (port, time, reply) = &frames[0];
    assert_eq!((port.as_str(), *time), ("lan0", 1));
    let expected = [&HOST[..], &ROUTER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &ROUTER, &LAN, &HOST, &CLIENT].concat();
    assert_eq!(reply[..42], expected);
    assert_eq!(frames.len(), 5, "one ARP reply, two echo replies, two deliveries: {frames:?}");
}

#[test]
fn time_stamps_refill_limits() {
    let place = place(
        "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-m limit --limit 1/second --limit-burst 2 -j ACCEPT\"]\n",
    );
    let at = |time: u64| ("lan0", time, udp(CLIENT, SERVER, (1000, 53)));
    let heard = [
        at(0),
        at(1),
        at(2),
        at(SECOND + 10_000_000),
        at(SECOND + 20_000_000),
        at(100 * SECOND),
        at(100 * SECOND),
        at(100 * SECOND),
    ];
    let passed: Vec<bool> = fates(&place, &heard).iter().map(|fate| fate.starts_with("forwarded")).collect();
    assert_eq!(passed, [true, true, false, true, false, true, true, false]);
}

#[test]
fn time_stamps_expire_flows() {
    let place = place(
        "[filter.FORWARD]\npolicy = \"DROP\"\nrules = [\"-i lan0 -j ACCEPT\", \"-m conntrack --ctstate ESTABLISHED -j ACCEPT\"]\n",
    );
    let day = 24 * 3600 * SECOND;
    let ask = |time| ("lan0", time, udp(CLIENT, SERVER, (1000, 53)));
    let answer = |time| ("wan0", time, udp(SERVER, CLIENT, (53, 1000)));
    // nf_conntrack_udp_timeout is 30 s. 30 days are more than conntrack's 32-bit clock can tell from the past.
    let heard = [ask(0), answer(29 * SECOND), ask(day), answer(day + 31 * SECOND), ask(2 * day), answer(32 * day)];
    let passed: Vec<bool> = fates(&place, &heard).iter().map(|fate| fate.starts_with("forwarded")).collect();
    assert_eq!(passed, [true, true, true, false, true, false]);
}

#[test]
fn time_that_goes_back_stands_still() {
    let place = place("");
    let heard = [("lan0", SECOND, udp(CLIENT, SERVER, (1, 2))), ("lan0", 0, udp(CLIENT, SERVER, (1, 2)))];
    assert_eq!(fates(&place, &heard), ["forwarded - wan0", "forwarded - wan0"]);
}

#[test]
fn refusals_and_errors_leave_by_the_port_of_the_offender() {
    let place = place("[filter.FORWARD]\nrules = [\"-p udp --dport 7 -j REJECT\"]\n");
    let mut old = udp(CLIENT, SERVER, (1, 2));
    old[22] = 1;
    // The IPv4 header checksum of a TTL that is 63 lower.
    let sum = u16::from_be_bytes([old[24], old[25]]) as u32 + 63 * 256;
    let sum = (sum & 0xffff) as u16 + (sum >> 16) as u16;
    old[24..26].copy_from_slice(&sum.to_be_bytes());
    let heard = [
        ("lan0", 0, udp(CLIENT, SERVER, (1000, 7))),
        ("lan0", 1, old),
        ("lan0", 2, udp(CLIENT, [8, 8, 8, 8], (1000, 53))),
        ("lan0", 3, vec![0xff; 20]),
        ("lan0", 4, vec![2; 20_000]),
    ];
    assert_eq!(
        fates(&place, &heard),
        [
            "dropped reject lan0",
            "dropped ttl-expired lan0",
            "dropped no-route lan0",
            "dropped ethertype ",
            "dropped frame-too-long "
        ]
    );
}

#[test]
fn tagged_frames_are_those_of_vlans_and_go_out_tagged() {
    let place = Place::new();
    place.replace(
        r#"
        [interfaces.office]
        parent = "trunk0"
        vlan = [100, 10]
        vlan-protocol = "802.1ad"
        addresses = ["192.168.1.1/24"]
        [interfaces.trunk0]
        [interfaces.wan0]
        parent = "trunk0"
        vlan = 20
        addresses = ["203.0.113.2/24"]
        [nat.POSTROUTING]
        rules = ["-o wan0 -j MASQUERADE"]
        "#,
    );
    let tagged = |tags: &[u8], frame: Vec<u8>| [&frame[..12], tags, &frame[12..]].concat();
    let (office, wan) = ([0x88, 0xa8, 0, 100, 0x81, 0, 0, 10], [0x81, 0, 0, 20]);
    let heard = [
        ("trunk0", 0, tagged(&office, udp(CLIENT, SERVER, (1000, 53)))),
        ("trunk0", 1, tagged(&wan, udp(SERVER, [203, 0, 113, 2], (53, 1000)))),
        ("trunk0", 2, tagged(&wan[..], ping(LAN))),
        ("trunk0", 3, tagged(&[0x81, 0, 0, 21], ping(LAN))),
        // As tcpdump records a VLAN device of the kernel.
        ("office", 4, udp(CLIENT, SERVER, (1000, 53))),
    ];
    let out = place.path("out.pcapng");
    let ran = simulate(&place, &record(&place, &heard), &["--out", arg(&out), "--trace", "text"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for line in ["dropped", "unknown-vlan"] {
        assert!(ran.out.contains(line), "{line} is not in {}", ran.out);
    }
    let (names, frames) = read(&place, "out.pcapng");
    assert_eq!(names, ["office", "trunk0", "wan0", "host"]);
    let seen: Vec<_> = frames
        .iter()
        .filter(|(port, ..)| port != "host")
        .map(|(port, time, frame)| (port.as_str(), *time, frame[6..].strip_prefix(&ROUTER).unwrap().to_vec()))
        .map(|(port, time, rest)| (port, time, rest[..4].to_vec(), rest[4] != 8))
        .collect();
    assert_eq!(
        seen,
        [
            ("trunk0", 0, wan.to_vec(), false),
            ("trunk0", 1, office[..4].to_vec(), true),
            // The client's address lies in the office: the answer leaves there.
            ("trunk0", 2, office[..4].to_vec(), true),
            ("trunk0", 4, wan.to_vec(), false),
        ]
    );
}

#[test]
fn classic_pcap_comes_in_on_the_port_that_is_named() {
    let place = place("");
    let path = place.path("in.pcap");
    let mut file = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    let frame = udp(CLIENT, SERVER, (1000, 53));
    file.write_packet(&PcapPacket::new(Duration::from_nanos(START), frame.len() as u32, &frame)).unwrap();
    drop(file);
    let ran = simulate(&place, arg(&path), &["--port", "lan0"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "1 packets\n         1 forwarded\n"), "{ran:?}");
    let ran = simulate(&place, arg(&path), &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("in.pcap: this is a classic pcap file") && ran.err.contains("--port NAME"), "{ran:?}");
    let ran = simulate(&place, arg(&path), &["--port", "lan7"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("--port lan7: there is no such interface") && ran.err.contains("has lan0, wan0"),
        "{ran:?}"
    );
}

#[test]
fn bad_files_are_told_in_one_line_with_their_name() {
    let place = place("");
    let good = fs::read(record(&place, &[("lan0", 0, ping(LAN)), ("eth7", 1, ping(LAN))])).unwrap();
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty", b"", "empty: neither pcapng nor pcap"),
        ("short", b"\x0a\x0d", "short: neither pcapng nor pcap"),
        ("text", b"[interfaces.lan0]\naddresses = []\n", "text: neither pcapng nor pcap"),
        ("head", &good[..20], "head: packet 0: the file ends within a block"),
        ("cut", &good[..good.len() - 9], "cut: packet 1: the file ends within a block"),
        ("alien", &good, "alien: packet 1 came in on \"eth7\", which is no interface: "),
    ];
    for (name, bytes, words) in cases {
        let path = place.path(name);
        fs::write(&path, bytes).unwrap();
        let out = place.path("never");
        let ran = simulate(&place, arg(&path), &["--out", arg(&out)]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{name}: {ran:?}");
        assert!(ran.err.contains(words) && ran.err.lines().count() == 1, "{name}: {ran:?}");
        assert!(!out.exists(), "{name}: nothing is written");
    }
    let ran = simulate(&place, "/nowhere/in.pcapng", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("sumun: /nowhere/in.pcapng: No such file"), "{ran:?}");
    let input = record(&place, &[("lan0", 0, ping(LAN))]);
    let ran = simulate(&place, &input, &["--out", "/nowhere/out.pcapng"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("sumun: /nowhere/out.pcapng: No such file"), "{ran:?}");
    let before = fs::read(&input).unwrap();
    let ran = simulate(&place, &input, &["--out", &input]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("this is the recording itself"), "{ran:?}");
    assert_eq!(fs::read(&input).unwrap(), before, "the recording is untouched");
}

#[test]
fn configuration_mistakes_are_shown_and_exit_2() {
    let place = place("[filter.FORWARD]\nrules = [\"-p udp --dprot 53 -j ACCEPT\"]\n");
    let ran = simulate(&place, &record(&place, &[("lan0", 0, ping(LAN))]), &[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.err.contains("--dprot"), "{ran:?}");
}

#[test]
fn a_hundred_thousand_packets_take_seconds() {
    let place = place("[nat.POSTROUTING]\nrules = [\"-o wan0 -j MASQUERADE\"]\n");
    let frames: Vec<Heard> =
        (0..100_000u64).map(|i| ("lan0", i * 1_000_000, udp(CLIENT, SERVER, (i as u16, 53)))).collect();
    let input = record(&place, &frames);
    let out = place.path("out.pcapng");
    let start = Instant::now();
    let ran = simulate(&place, &input, &["--out", arg(&out)]);
    let took = start.elapsed();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("100000 packets\n"), "{ran:?}");
    assert!(took < Duration::from_secs(30), "{took:?}, far from what it takes on an idle machine");
}
