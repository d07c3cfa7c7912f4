//! Matches on packet bytes, as the kernel judges them: packets that hit and miss, cut ones and such with random bytes pass a chain of
//! rules that only count, in the kernel and in the engine. What comes out must be the same, and all counters.

use anyhow::Result;
use sumun_config::facts::{Family, proto};
use sumun_config::rule::matches;
use sumun_config::rule::matches::bpf::machine::{self, Instruction};
use sumun_config::rule::option::Case;
use sumun_dataplane::packet::parse;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::LAN;
use sumun_testbed::differential::rng::Rng;
use sumun_testbed::differential::script::{Datagram, Icmp, Raw, SYN, Script, Talk, arrives, segment};
use sumun_testbed::differential::wire;

/// Rules of all accepted cases of a match for a family, and further ones.
fn rules(name: &str, family: Family, further: &[&str]) -> Vec<String> {
    let of_cases = matches::EXTENSIONS
        .iter()
        .filter(|extension| extension.name == name)
        .flat_map(|extension| extension.cases)
        .filter_map(|case| match *case {
            Case::Prints(of, text, canonical) if of == family => Some(if canonical == "=" { text } else { canonical }),
            _ => None,
        });
    further.iter().copied().chain(of_cases).map(String::from).collect()
}

/// A packet of the client's with these bytes behind the IP header.
fn packet(family: Family, protocol: u8, bytes: &[u8]) -> Vec<u8> {
    Talk::new(family).packet(&Raw(protocol, bytes))
}

/// The packets, each also cut short at all places behind its IP header, as far as it is still one to Sumun.
fn cut(family: Family, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let header = if family == Family::V4 { 20 } else { 40 };
    let mut all = packets.to_vec();
    for packet in packets {
        for len in header..packet.len().min(header + 64) {
            let mut shorter = packet[..len].to_vec();
            wire::set_length(&mut shorter);
            wire::fix(&mut shorter);
            all.extend(Some(shorter).filter(|packet| parse::ip(family, packet).is_ok()));
        }
    }
    all
}

/// The packets, each also with some bytes behind its IP header changed by chance.
fn scramble(family: Family, packets: &[Vec<u8>], times: usize, rng: &mut Rng) -> Vec<Vec<u8>> {
    let header = if family == Family::V4 { 20 } else { 40 };
    let mut all = packets.to_vec();
    for packet in packets.iter().filter(|packet| packet.len() > header) {
        for _ in 0..times {
            let mut other = packet.clone();
            for _ in 0..1 + rng.below(3) {
                let at = header + rng.below(other.len() - header);
                other[at] = rng.below(256) as u8 >> rng.below(8);
            }
            all.extend(Some(other).filter(|packet| parse::ip(family, packet).is_ok()));
        }
    }
    all
}

fn script(name: &str, family: Family, rules: &[String], packets: &[Vec<u8>]) -> Script {
    let lines: String = rules.iter().map(|rule| format!("-A FORWARD {rule}\n")).collect();
    let text = format!("*mangle\n{lines}COMMIT\n");
    Script::new(name, family, &text).counted().steps(packets.iter().map(|packet| arrives(LAN, packet)))
}

/// What differs; where something does, packet by packet.
fn differences(
    kernel: &mut Kernel,
    name: &str,
    family: Family,
    rules: &[String],
    packets: &[Vec<u8>],
) -> Result<String> {
    let mut text = script(name, family, rules, packets).run(kernel)?;
    if !text.is_empty() {
        for packet in packets {
            let found = script(name, family, rules, std::slice::from_ref(packet)).run(kernel)?;
            if !found.is_empty() {
                text += &format!("{}\n{found}", wire::hex(packet));
            }
        }
    }
    Ok(text)
}

/// A rule for one match after the other and the packets for them; panics with all differences.
fn expect_none(tag: &str, trials: impl Fn(Family) -> Vec<(&'static str, Vec<String>, Vec<Vec<u8>>)>) -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-{tag}", std::process::id()))?;
    let mut text = String::new();
    for family in Family::ALL {
        for (name, rules, packets) in trials(family) {
            text += &differences(&mut kernel, name, family, &rules, &packets)?;
        }
    }
    assert!(text.is_empty(), "\n{text}");
    Ok(())
}

const SPIS: [u32; 9] = [0, 1, 5, 6, 7, 16, 256, 0xffff_fff0, u32::MAX];

#[test]
fn headers_of_ipsec() -> Result<()> {
    expect_none("ipsec", |family| {
        let of = |protocol, bytes: &dyn Fn(u32) -> Vec<u8>| -> Vec<Vec<u8>> {
            cut(family, &SPIS.map(|spi| packet(family, protocol, &bytes(spi))))
        };
        let esp = of(proto::ESP, &|spi| [&spi.to_be_bytes()[..], &[0; 8]].concat());
        let ipcomp = of(proto::IPCOMP, &|cpi| [&[6, 0][..], &(cpi as u16).to_be_bytes(), &[1; 4]].concat());
        let mut ah: Vec<_> = of(proto::AH, &|spi| [&[17, 1, 0, 0][..], &spi.to_be_bytes(), &[0; 20]].concat());
        for (reserved, len) in [(1, 1), (0, 4), (0, 0)] {
            ah.push(packet(family, proto::AH, &[&[17, len, 0, reserved, 0, 0, 0, 5][..], &[0; 32]].concat()));
        }
        vec![
            ("esp", rules("esp", family, &["-p esp -m esp ! --espspi :5 -m esp --espspi :255"]), esp),
            ("ipcomp", rules("ipcomp", family, &["-p ipcomp -m ipcomp --ipcompspi 0:255"]), ipcomp),
            ("ah", rules("ah", family, &[]), ah),
        ]
    })
}

#[test]
fn tcp_and_its_mss() -> Result<()> {
    expect_none("mss", |family| {
        let talk = Talk::new(family);
        let with = |options: &[u8]| talk.packet(&segment(SYN).options(options));
        let mut packets = vec![
            with(&[]),
            with(&[2, 4, 5, 0xb4]),
            with(&[2, 4, 0, 5]),
            with(&[2, 4, 0, 5, 2, 4, 0, 6]),
            with(&[1, 1, 2, 4, 0, 6, 0, 0]),
            with(&[0, 2, 4, 0, 6, 0, 0, 0]),
            with(&[2, 3, 5, 2, 4, 0, 6, 1]),
            with(&[9, 0, 2, 4, 0, 200, 0, 0]),
            with(&[9, 200, 2, 4, 0, 200, 0, 0]),
            with(&[1, 1, 1, 2]),
            with(&[1, 1, 2, 4]),
        ];
        packets = scramble(family, &cut(family, &packets), 2, &mut Rng::stream(1, family as u64));
        let further = ["-p tcp -m tcpmss --mss 5", "-p tcp -m tcpmss ! --mss 6:200", "-p tcp -m tcpmss --mss 0"];
        let tcp = ["-p tcp -m tcp --tcp-option 2", "-p tcp -m tcp ! --tcp-option 9", "-p tcp -m tcp --tcp-option 3"];
        vec![
            ("tcpmss", rules("tcpmss", family, &further), packets.clone()),
            ("tcp", rules("tcp", family, &tcp), packets),
        ]
    })
}

#[test]
fn words_strings_and_programs() -> Result<()> {
    expect_none("words", |family| {
        let talk = Talk::new(family);
        let data = |bytes: &[u8]| talk.packet(&Datagram(bytes));
        let mut rng = Rng::stream(2, family as u64);
        let mut packets = vec![
            data(b""),
            data(b"abc"),
            data(b"xyzABCabcxyz"),
            data(b"GET /admin HTTP/1.1\r\n\r\n"),
            data(&[0, 1, 0xff, 0x0a, 0xc3, 0xbc, 0xe9, 0xc9, 0xdf, 0xff, 0xd7, 0xf7]),
            data(b"a b.|c a\"b\\c a'b |61| ab\\ a\tb plain a|bc"),
            talk.packet(&segment(SYN)),
            talk.packet(&Icmp(8, 0, 1, b"ping")),
            packet(family, 59, b""),
            packet(family, 253, b"\x01"),
        ];
        packets.extend((0..30).map(|_| {
            let text: Vec<u8> = (0..rng.below(60)).map(|_| rng.pick(b"aAbB")).collect();
            data(&text)
        }));
        let mut strings = rules("string", family, &[]);
        let mut words = rules("u32", family, &[]);
        let mut programs = rules("bpf", family, &[]);
        for _ in 0..60 {
            let pattern: String = (0..1 + rng.below(7)).map(|_| rng.pick(b"aAbB") as char).collect();
            let (algo, icase) = (rng.pick(&["bm", "kmp"]), rng.pick(&["", " --icase"]));
            let (from, to) = (rng.below(80), 80 + rng.below(60));
            strings.push(format!("-m string --string {pattern} --algo {algo} --from {from} --to {to}{icase}"));
            words.push(format!("-m u32 --u32 \"{}\"", random_test(&mut rng)));
            programs.push(format!("-m bpf --bytecode \"{}\"", random_program(&mut rng)));
        }
        for hex in ["e9", "c9", "d7", "f7", "ff"] {
            strings.push(format!("-m string --hex-string |{hex}| --algo kmp --icase --from 28"));
        }
        vec![("string", strings, packets.clone()), ("u32", words, packets.clone()), ("bpf", programs, packets)]
    })
}

/// A test of `u32` that has a chance to hold.
fn random_test(rng: &mut Rng) -> String {
    let mut text = rng.below(44).to_string();
    for _ in 0..rng.below(5) {
        text += &match rng.below(4) {
            0 => format!("&{:#x}", 0xffu64 << rng.below(24)),
            1 => format!("<<{}", rng.below(32)),
            2 => format!(">>{}", rng.below(32)),
            _ => format!("&0x3f@{}", rng.below(24)),
        };
    }
    format!("{text}=0:{:#x}", 1u64 << rng.below(33) >> 1)
}

/// A program that the kernel takes.
fn random_program(rng: &mut Rng) -> String {
    const CODES: [u16; 49] = [
        0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x01, 0x61, 0x81, 0xb1, 0x02, 0x03, 0x04, 0x0c, 0x14,
        0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94, 0x9c, 0xa4, 0xac,
        0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16, 0x07, 0x87,
    ];
    loop {
        let len = 2 + rng.below(14);
        let mut program: Vec<Instruction> = (1..len)
            .map(|_| Instruction {
                code: rng.pick(&CODES),
                jt: rng.below(4) as u8,
                jf: rng.below(4) as u8,
                k: match rng.below(8) {
                    0 => rng.below(1 << 32) as u32,
                    1 => 0xffe0_0000 + rng.below(20) as u32,
                    2 => 0xfff0_0000 + rng.below(50) as u32,
                    3 => rng.pick(&[0xffff_f000u32, 0xffff_f004, 0xffff_f028, 0xffff_f030]),
                    _ => rng.below(40) as u32,
                },
            })
            .collect();
        // One bit of what it has found is told.
        program.push(Instruction { code: 0x54, jt: 0, jf: 0, k: 1 << rng.below(12) });
        program.push(Instruction { code: 0x16, jt: 0, jf: 0, k: 0 });
        if machine::check(&program).is_ok() {
            let lines = program.iter().map(|i| format!(",{} {} {} {}", i.code, i.jt, i.jf, i.k));
            return lines.fold(program.len().to_string(), |text, line| text + &line);
        }
    }
}

#[test]
fn chunks_of_sctp_and_options_of_dccp() -> Result<()> {
    expect_none("chunks", |family| {
        let sctp = |chunks: &[u8]| packet(family, proto::SCTP, &wire::sctp((5000, 80), 0, chunks));
        let chunk = wire::chunk;
        let mut packets = vec![
            sctp(&wire::init(1, 7)),
            sctp(&chunk(0, 2, &[0; 16])),
            sctp(&chunk(0, 3, &[0; 16])),
            sctp(&chunk(0, 1, &[0; 16])),
            sctp(&chunk(0, 15, &[0; 16])),
            sctp(&[chunk(3, 0, &[0; 12]), chunk(0, 0, &[1; 12])].concat()),
            sctp(&[chunk(3, 0, &[0; 12]), chunk(1, 0, &[1; 16])].concat()),
            sctp(&chunk(6, 1, &[])),
            sctp(&chunk(6, 0, &[])),
            sctp(&chunk(14, 1, &[])),
            sctp(&chunk(14, 0, &[])),
            sctp(&[chunk(10, 0, &[0; 4]), chunk(0x40, 2, &[0; 16]), chunk(0xc1, 0, &[0; 4])].concat()),
            sctp(&[0, 2, 0, 5, 9, 0, 0, 0, 3, 0, 0, 4]),
            sctp(&[3, 0, 0, 1]),
            sctp(&[3, 0, 0, 0]),
            sctp(&[3, 0, 0xff, 0xff]),
            sctp(&[]),
        ];
        let mut rng = Rng::stream(3, family as u64);
        packets = scramble(family, &cut(family, &packets), 1, &mut rng);
        let types = [
            "all DATA,SACK",
            "any INIT",
            "any ALL",
            "all NONE",
            "only NONE",
            "only ALL",
            "only DATA,SACK",
            "any DATA:b",
        ];
        let types: Vec<_> = types.iter().map(|types| format!("-p sctp -m sctp --chunk-types {types}")).collect();
        let types: Vec<_> = types.iter().map(String::as_str).collect();

        let dccp = |kind: u8, long: u8, offset: u8, behind: &[u8]| {
            let header = [0x13, 0x88, 0, 80, offset, 0, 0, 0, kind << 1 | long, 0, 0, 1];
            packet(family, proto::DCCP, &[&header[..], behind].concat())
        };
        let mut datagrams = Vec::new();
        for kind in 0..16 {
            for long in 0..2 {
                datagrams.push(dccp(
                    kind,
                    long,
                    9,
                    &[5, 3, 0, 5, 3, 1, 5, 3, 0, 1, 5, 3, 1, 0, 2, 5, 1, 5, 5, 0, 1, 1, 255, 3],
                ));
                datagrams.push(dccp(kind, long, 7, &[0, 0, 0, 1, 255, 2, 0, 5, 3, 1, 2, 9, 9, 9, 9, 9]));
                datagrams.push(dccp(kind, long, 5 + kind, &[5; 16]));
            }
        }
        datagrams = scramble(family, &datagrams, 1, &mut rng);
        let options = [
            "-p dccp -m dccp --dccp-option 1",
            "-p dccp -m dccp ! --dccp-option 9",
            "-p dccp -m dccp --dccp-types DATA",
            "-p dccp -m dccp --dccp-types INVALID",
        ];
        vec![("sctp", rules("sctp", family, &types), packets), ("dccp", rules("dccp", family, &options), datagrams)]
    })
}

/// Extension headers of IPv6 with UDP behind them.
fn extended(kind: u8, headers: &[u8]) -> Vec<u8> {
    packet(Family::V6, kind, &[headers, &wire::udp((5000, 80), b"data")].concat())
}

/// A routing header with these addresses, the next header UDP.
fn routing(kind: u8, left: u8, last: u8, tag: u16, addresses: &[u128]) -> Vec<u8> {
    let mut header = vec![17, addresses.len() as u8 * 2, kind, left, last, 0];
    header.extend(tag.to_be_bytes());
    addresses.iter().for_each(|address| header.extend(address.to_be_bytes()));
    header
}

#[test]
fn extension_headers() -> Result<()> {
    expect_none("extension", |family| {
        if family == Family::V4 {
            return Vec::new();
        }
        let mut rng = Rng::stream(4, 0);
        let options = [
            &[17, 0, 1, 4, 0, 0, 0, 0][..],
            &[17, 0, 5, 2, 0, 0, 1, 0],
            &[17, 0, 0, 1, 3, 0, 0, 0],
            &[17, 1, 5, 2, 0, 0, 0, 1, 4, 0, 0, 0, 0, 1, 1, 0],
            &[17, 0, 5, 0, 5, 0, 1, 0],
            &[17, 0, 1, 0, 1, 2, 0, 0],
        ];
        let hbh: Vec<_> = options.iter().map(|header| extended(proto::HOPOPTS, header)).collect();
        let dst: Vec<_> = options.iter().map(|header| extended(proto::DSTOPTS, header)).collect();
        let dst = scramble(family, &cut(family, &dst), 2, &mut rng);
        let mut routes = vec![
            extended(proto::ROUTING, &routing(0, 0, 0, 0, &[])),
            extended(proto::ROUTING, &routing(2, 1, 0, 0, &[1])),
        ];
        for (left, last, tag) in
            [(0, 0, 0), (1, 2, 0x0300), (2, 2, 3), (3, 2, 1), (9, 8, 0x1000), (1, 4, 0xffff), (0, 6, 7)]
        {
            for kind in [0, 4, 5] {
                for addresses in [
                    &[1][..],
                    &[1, 2, 3],
                    &[1, 0x2001_0db8 << 96 | 2],
                    &[2, 1],
                    &[0xa << 112 | 1, 0xb << 112, 0xc << 112 | 9],
                ] {
                    routes.push(extended(proto::ROUTING, &routing(kind, left, last, tag, addresses)));
                }
            }
        }
        let routes = scramble(family, &cut(family, &routes[..6]), 1, &mut rng)
            .into_iter()
            .chain(scramble(family, &routes[6..], 1, &mut rng))
            .collect::<Vec<_>>();
        let frag = |reserved, low, id: u8| extended(proto::FRAGMENT, &[17, reserved, 0, low, 0, 0, 0, id]);
        let atomic: Vec<_> =
            [(0, 0, 5), (1, 0, 5), (0, 2, 66), (0, 4, 2), (0, 0, 9)].map(|(r, l, id)| frag(r, l, id)).to_vec();
        let mh = |next, kind| packet(family, proto::MH, &[next, 0, kind, 0, 0, 0, 0, 0]);
        let mobile: Vec<_> = (0..12).map(|kind| mh(59, kind)).chain([mh(6, 1), mh(17, 5)]).collect();
        let mut all = [&dst[..], &hbh, &routes, &atomic].concat();
        all.push(packet(family, 59, b"rest"));
        all.push(packet(family, proto::ESP, &[1; 8]));
        all.push(packet(family, proto::DSTOPTS, &[59, 0, 1, 4, 0, 0, 0, 0]));
        all.push(packet(family, proto::DSTOPTS, &[50, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]));
        all.push(packet(family, proto::DSTOPTS, &[50, 0, 1, 4, 0, 0, 0, 0, 1]));
        all.push(extended(proto::AH, &[17, 1, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0]));
        all.push(extended(
            proto::HOPOPTS,
            &[60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0],
        ));
        let headers = [
            "-m ipv6header --header dst,prot",
            "-m ipv6header --header hop,prot",
            "-m ipv6header ! --header route,prot",
            "-m ipv6header --header dst,none",
            "-m ipv6header --header dst,esp",
            "-m ipv6header --header esp",
            "-m ipv6header --header none",
            "-m ipv6header --header frag,prot",
            "-m ipv6header --header hop,dst --soft",
            "-m ipv6header ! --header hop,dst --soft",
            "-m ipv6header ! --header auth --soft",
        ];
        let srh = [
            "-m srh --srh-psid ::/0",
            "-m srh ! --srh-psid ::3",
            "-m srh --srh-nsid a::1",
            "-m srh --srh-lsid ::1/127",
            "-m srh --srh-segs-left-gt 1",
            "-m srh --srh-tag 768",
        ];
        let rt = [
            "-m rt --rt-type 0 --rt-0-addrs ::1,::2,::3",
            "-m rt --rt-type 0 --rt-0-addrs ::1,::3 --rt-0-not-strict",
            "-m rt --rt-type 0 --rt-0-addrs ::1 --rt-0-not-strict",
            "-m rt ! --rt-segsleft 1:2",
            "-m rt ! --rt-type 0",
        ];
        vec![
            (
                "dst",
                rules("dst", family, &["-m dst --dst-opts 1:4", "-m dst --dst-opts 0,1:3", "-m dst --dst-opts 1:0,1"]),
                dst,
            ),
            ("hbh", rules("hbh", family, &["-m hbh --hbh-opts 1:4", "-m hbh --hbh-opts 5,1:4,1"]), hbh),
            ("rt", rules("rt", family, &rt), routes.clone()),
            ("srh", rules("srh", family, &srh), routes),
            ("frag", rules("frag", family, &[]), atomic),
            ("mh", rules("mh", family, &[]), cut(family, &mobile)),
            ("ipv6header", rules("ipv6header", family, &headers), all),
        ]
    })
}

#[test]
fn an_address_of_the_mac() -> Result<()> {
    expect_none("eui64", |family| {
        let mut talk = Talk::new(family);
        let mut packets = vec![talk.packet(&Datagram(b"x"))];
        for host in [0x0000_00ff_fe00_0002u128, 0x0200_00ff_fe00_0002, 0x0200_00ff_fe00_0003] {
            talk.client.address = talk.client.address >> 64 << 64 | host;
            packets.push(talk.packet(&Datagram(b"x")));
        }
        if family == Family::V4 { Vec::new() } else { vec![("eui64", rules("eui64", family, &[]), packets)] }
    })
}
