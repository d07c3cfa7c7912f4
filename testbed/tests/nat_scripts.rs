//! NAT step by step, as the kernel does it: every script runs through the kernel and through the engine, in both families.

use anyhow::Result;
use sumun_config::facts::{Family, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::of;
use sumun_testbed::differential::script::{
    ACK, Datagram, Icmp, RST, Raw, SYN, Script, Step, Talk, Upper, arrives, expect_none, segment,
};
use sumun_testbed::differential::traffic::{Answer, hosts};
use sumun_testbed::differential::wire::{self, Ip};

/// Names that stand for addresses in rules, IPv4 and IPv6: the router's, and others.
const NAMES: [(&str, &str, &str); 8] = [
    ("OUTER", "203.0.113.2", "2001:db8:2::2"),
    ("SPARE", "203.0.113.77", "2001:db8:2::77"),
    ("GATE", "192.168.1.1", "fd00:1::1"),
    ("SERVER", "192.168.1.12", "fd00:1::12"),
    ("PEER", "203.0.113.10", "2001:db8:2::10"),
    ("LAN/NET", "192.168.1.0/24", "fd00:1::/64"),
    ("FAR/NET", "198.51.100.0/24", "2001:db8:5::/64"),
    ("ICMP", "icmp", "ipv6-icmp"),
];

/// Rules of table nat for a family: names become addresses, in brackets where ports follow.
fn nat(family: Family, rules: &str) -> String {
    let mut text = rules.to_string();
    for (name, v4, v6) in NAMES {
        if family == Family::V6 {
            text = text.replace(&format!("{name}:"), &format!("[{v6}]:"));
        }
        text = text.replace(name, of(family, v4, v6));
    }
    format!("*nat\n{text}\nCOMMIT\n")
}

fn script(name: &str, family: Family, rules: &str) -> Script {
    Script::new(name, family, &nat(family, rules))
}

/// A talk with the second and third host of the LAN as clients.
fn others(family: Family) -> [Talk; 2] {
    [1, 2].map(|i| {
        let mut talk = Talk::new(family);
        talk.client.address = hosts(family).0[i];
        talk
    })
}

/// The same to another address.
fn to(mut talk: Talk, address: u128) -> Talk {
    talk.server.address = address;
    talk
}

/// The address of a name.
fn named(family: Family, name: &str) -> u128 {
    let (_, v4, v6) = NAMES.iter().find(|(n, ..)| *n == name).expect("a name");
    sumun_testbed::differential::net::address(of(family, v4, v6))
}

const ANSWER: Answer = Answer::Reply { len: 9 };

fn run(tag: &str, scripts: impl Fn(Family) -> Vec<Script>) -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-{tag}", std::process::id()))?;
    let all: Vec<Script> = Family::ALL.into_iter().flat_map(scripts).collect();
    expect_none(&mut kernel, &all)
}

#[test]
fn ports_are_chosen() -> Result<()> {
    run("ports", |family| {
        let talk = Talk::new(family);
        let [second, third] = others(family);
        let data = Datagram(b"question");
        let masquerade = "-A POSTROUTING -o wan0 -j MASQUERADE";
        vec![
            script("a free port is kept, a taken one is not", family, masquerade)
                .step(talk.there(&data))
                .answer(1, ANSWER)
                .step(second.there(&data))
                .answer(1, ANSWER)
                .step(second.from(80).there(&data))
                .step(third.from(80).there(&data))
                .answer(1, ANSWER)
                .step(second.from(700).there(&data))
                .step(third.from(700).there(&data))
                .answer(1, ANSWER),
            script("the only port of a range is taken", family, "-A POSTROUTING -p udp -j SNAT --to-source OUTER:7000\n-A POSTROUTING -p tcp -j SNAT --to-source OUTER:7000")
                .step(talk.there(&data))
                .answer(1, ANSWER)
                .step(second.there(&data))
                .step(talk.there(&segment(SYN).seq(1000)))
                .step(second.there(&segment(SYN).seq(1000)))
                .step(to(second, hosts(family).1[2]).there(&data)),
            script("a range is full", family, "-A POSTROUTING -p udp -j SNAT --to-source OUTER:7000-7001")
                .step(talk.there(&data))
                .step(second.there(&data))
                .step(third.there(&data))
                .step(third.from(7000).there(&data)),
            script("a source keeps its mapping for another destination", family, "-A POSTROUTING -p udp -j SNAT --to-source OUTER:7000-7000")
                .step(talk.there(&data))
                .step(to(talk, hosts(family).1[0]).there(&data)),
            script("a port in the range is kept", family, "-A POSTROUTING -p udp -j SNAT --to-source OUTER:4000-6000")
                .step(talk.there(&data))
                .step(second.there(&data))
                .answer(1, ANSWER),
            script("flows without a rule give way", family, "-A POSTROUTING -s LAN/NET -o wan0 -p udp -j SNAT --to-source SPARE")
                .step(talk.there(&data))
                .step({
                    let mut own = talk;
                    own.client.address = named(family, "SPARE");
                    own.there(&data)
                }),
            script("ports are shifted", family, "-A PREROUTING -p udp --dport 80:99 -j DNAT --to-destination PEER:2000-2019/80")
                .step(talk.there(&data))
                .answer(1, ANSWER)
                .step({
                    let mut high = talk;
                    high.server.number = 99;
                    high.there(&data)
                }),
            script("a range of destination ports begins at its first", family, "-A PREROUTING -p udp --dport 80 -j DNAT --to-destination PEER:2000-2019")
                .step(talk.there(&data))
                .answer(1, ANSWER)
                .step(second.there(&data)),
            script("identifiers of pings are chosen", family, masquerade)
                .step(talk.there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping")))
                .answer(1, ANSWER)
                .step(second.there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping")))
                .answer(1, ANSWER),
            script("identifiers are mapped into a range", family, of(family, "-A POSTROUTING -p icmp -j SNAT --to-source OUTER:500", "-A POSTROUTING -j SNAT --to-source OUTER"))
                .step(talk.there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping")))
                .answer(1, ANSWER),
        ]
    })
}

#[test]
fn a_connection_that_is_over_gives_its_port_to_a_new_one() -> Result<()> {
    run("reuse", |family| {
        let talk = Talk::new(family);
        let [second, _] = others(family);
        let rules = "-A POSTROUTING -p tcp -j SNAT --to-source OUTER:7000";
        let reset = |talk: Talk, seq: u32| [talk.there(&segment(SYN).seq(seq)), talk.there(&segment(RST).seq(seq + 1))];
        let close = |script: Script, talk: Talk, seq: u32| {
            let [syn, rst] = reset(talk, seq);
            script
                .step(syn)
                .answer(1, Answer::Segment { seq: 9000, ack: seq + 1, flags: SYN | ACK, len: 0 })
                .step(talk.there(&segment(ACK).seq(seq + 1).ack(9001)))
                .step(rst)
        };
        let over = |name: &str| close(script(name, family, rules), talk, 5000);
        vec![
            over("to one that is ahead").step(second.there(&segment(SYN).seq(6000))),
            over("not to one that is behind").step(second.there(&segment(SYN).seq(1000))),
            over("not to one that does not begin").step(second.there(&segment(ACK).seq(6000).ack(1))),
            script("nor does one that goes on", family, rules)
                .step(talk.there(&segment(SYN).seq(5000)))
                .step(second.there(&segment(SYN).seq(6000))),
        ]
    })
}

#[test]
fn addresses_are_spread_over_a_range() -> Result<()> {
    run("spread", |family| {
        let range = of(family, "198.51.100.8-198.51.100.100", "2001:db8:5::8-2001:db8:6:ffff::1");
        let small = of(family, "198.51.100.8-198.51.100.11", "2001:db8:5::8-2001:db8:5::9");
        let clients = || {
            (0..4u16).flat_map(move |n| {
                hosts(family).0.map(move |client| {
                    let mut talk = Talk::new(family).from(5000 + n);
                    talk.client.address = client;
                    to(talk, hosts(family).1[usize::from(n)]).there(&Datagram(b"question"))
                })
            })
        };
        let mut scripts = Vec::new();
        for range in [range, small] {
            for rule in [
                "-A POSTROUTING -j SNAT --to-source RANGE",
                "-A POSTROUTING -j SNAT --to-source RANGE --persistent",
                "-A PREROUTING -j DNAT --to-destination RANGE",
                "-A PREROUTING -j DNAT --to-destination RANGE --persistent",
            ] {
                let rule = rule.replace("RANGE", range);
                scripts.push(script(&rule, family, &rule).steps(clients()));
            }
        }
        scripts
    })
}

#[test]
fn both_ends_are_mapped() -> Result<()> {
    run("ends", |family| {
        let talk = Talk::new(family);
        let data = Datagram(b"question");
        let dnat = "-A PREROUTING -d OUTER -p udp --dport 80 -j DNAT --to-destination SERVER:8080\n-A PREROUTING -d OUTER -p tcp --dport 80 -j DNAT --to-destination SERVER:8080\n";
        let hairpin = to(talk, named(family, "OUTER"));
        let ask = |talk: Talk| (talk.there(&data), talk.there(&segment(SYN).seq(1000)));
        let (udp, tcp) = ask(hairpin);
        let (from_udp, from_tcp) = {
            let mut outside = hairpin;
            outside.client = talk.server;
            outside.client.number = 4000;
            ask(outside)
        };
        let syn_ack = Answer::Segment { seq: 9000, ack: 1001, flags: SYN | ACK, len: 0 };
        vec![
            script("a published server", family, dnat).step(from_udp).answer(1, ANSWER).step(from_tcp).answer(1, syn_ack.clone()),
            script("hairpin", family, &format!("{dnat}-A POSTROUTING -o lan0 -s LAN/NET -j MASQUERADE"))
                .step(udp.clone())
                .answer(1, ANSWER)
                .step(tcp)
                .answer(1, syn_ack),
            script("hairpin without a source mapping", family, dnat).step(udp).answer(1, ANSWER),
            script("the router itself", family, "-A PREROUTING -p udp -j REDIRECT --to-ports 9\n-A PREROUTING -p tcp -j REDIRECT\n-A PREROUTING -j REDIRECT")
                .step(talk.there(&data))
                .step(talk.there(&segment(SYN).seq(1000)))
                .step(talk.there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping"))),
            script("a source on its way in", family, "-A INPUT -j SNAT --to-source SERVER")
                .step(to(talk, named(family, "GATE")).there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping")))
                .step(to(talk, named(family, "GATE")).there(&data))
                .step(to(talk, named(family, "GATE")).there(&segment(SYN).seq(1000))),
            script("networks are mapped on their way out", family, "-A POSTROUTING -o wan0 -j NETMAP --to FAR/NET")
                .step(talk.there(&data))
                .answer(1, ANSWER)
                .step(others(family)[0].there(&segment(SYN).seq(1000)))
                .step(talk.there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping")))
                .answer(1, ANSWER),
            script("networks are mapped on their way in", family, "-A PREROUTING -d FAR/NET -j NETMAP --to LAN/NET")
                .step({
                    let mut outside = talk.reversed();
                    let host = hosts(family).0[1];
                    outside.server.address = named_net(family) | host & 0xff;
                    outside.there(&data)
                })
                .answer(1, ANSWER),
            script("networks are mapped for the router itself", family, "-A INPUT -j NETMAP --to FAR/NET")
                .step(to(talk, named(family, "GATE")).there(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping")))
                .step(to(talk, named(family, "GATE")).there(&data)),
        ]
    })
}

/// The first address of FAR/NET.
fn named_net(family: Family) -> u128 {
    sumun_testbed::differential::net::address(of(family, "198.51.100.0", "2001:db8:5::"))
}

/// A datagram of UDP-Lite whose checksum covers all of it.
fn lite(talk: &Talk, payload: &[u8]) -> Vec<u8> {
    checked(talk, proto::UDPLITE, &wire::udp((talk.client.number, talk.server.number), payload), 6)
}

/// A packet of a protocol with an Internet checksum over a pseudo header.
fn checked(talk: &Talk, protocol: u8, l4: &[u8], at: usize) -> Vec<u8> {
    use sumun_dataplane::packet::checksum::Sum;
    let mut l4 = l4.to_vec();
    l4[at..at + 2].fill(0);
    let sum = Sum::new().pseudo(talk.client.address, talk.server.address, protocol, l4.len()).bytes(&l4).checksum();
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ip::new(talk.family, talk.client.address, talk.server.address).packet(protocol, &l4, 1)
}

/// An SCTP packet with an INIT chunk.
fn sctp(talk: &Talk) -> Vec<u8> {
    let mut l4 = [talk.client.number.to_be_bytes(), talk.server.number.to_be_bytes()].concat();
    l4.extend([0; 8]);
    l4.extend([1, 0, 0, 20, 1, 2, 3, 4, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let crc = sumun_dataplane::packet::crc32c::sctp(&l4).expect("a header");
    l4[8..12].copy_from_slice(&crc);
    Ip::new(talk.family, talk.client.address, talk.server.address).packet(proto::SCTP, &l4, 1)
}

#[test]
fn protocols_are_mapped_each_in_its_way() -> Result<()> {
    run("protocols", |family| {
        let talk = Talk::new(family);
        let [second, _] = others(family);
        let masquerade = "-A POSTROUTING -o wan0 -j MASQUERADE";
        let ported = |protocol: &str| format!("-A POSTROUTING -p {protocol} -j SNAT --to-source OUTER:7000");
        let mut unchecked = talk.packet(&Datagram(b"question"));
        let check = of(family, 26, 46);
        unchecked[check..check + 2].fill(0);
        let gre = [0, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let pptp = |call: u16| {
            let mut l4 = vec![0x30, 1, 0x88, 0x0b, 0, 4];
            l4.extend(call.to_be_bytes());
            l4.extend([0, 0, 0, 1, 0xff, 3, 0xc0, 0x21]);
            l4
        };
        vec![
            script("a checksum of zero", family, &ported("udp")).step(arrives(talk.client.port, &unchecked)),
            script("UDP-Lite", family, masquerade)
                .set("nf_conntrack_checksum", "0")
                .step(arrives(talk.client.port, &lite(&talk, b"question")))
                .step(arrives(talk.client.port, &lite(&second, b"question"))),
            script("SCTP", family, &ported("sctp"))
                .step(arrives(talk.client.port, &sctp(&talk)))
                .step(arrives(talk.client.port, &sctp(&second))),
            script("GRE has no ports: a second client finds no room", family, masquerade)
                .step(talk.there(&Raw(proto::GRE, &gre)))
                .answer(1, ANSWER)
                .step(second.there(&Raw(proto::GRE, &gre))),
            script("enhanced GRE keeps its call", family, masquerade)
                .step(talk.there(&Raw(proto::GRE, &pptp(7))))
                .step(second.there(&Raw(proto::GRE, &pptp(8))))
                .step(second.there(&Raw(proto::GRE, &pptp(7)))),
            script("ESP and others", family, masquerade)
                .step(talk.there(&Raw(proto::ESP, b"12345678")))
                .answer(1, ANSWER)
                .step(second.there(&Raw(proto::ESP, b"12345678")))
                .step(talk.there(&Raw(99, b"12345678")))
                .answer(1, ANSWER),
        ]
    })
}

#[test]
fn errors_go_through_mappings() -> Result<()> {
    run("errors", |family| {
        let talk = Talk::new(family);
        let rules = "-A PREROUTING -d OUTER -j DNAT --to-destination PEER\n-A POSTROUTING -o wan0 -j MASQUERADE";
        let both = to(talk, named(family, "OUTER"));
        let error = |kind, code, rest, from, quote| Answer::Error { kind, code, rest, from, quote };
        let (unreachable, exceeded) = of(family, (3, 11), (1, 3));
        let packets = [
            ("UDP", both.packet(&Datagram(b"question"))),
            ("TCP", both.packet(&segment(SYN).seq(1000))),
            ("ping", both.packet(&Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping"))),
            ("GRE", both.packet(&Raw(proto::GRE, &[0, 0, 8, 0, 1, 2, 3, 4]))),
            ("UDP-Lite", lite(&both, b"question")),
            ("ESP", both.packet(&Raw(proto::ESP, b"12345678"))),
        ];
        let router = hosts(family).1[2];
        packets
            .iter()
            .map(|(name, packet)| {
                let answer = match *name {
                    "TCP" => Answer::Segment { seq: 9000, ack: 1001, flags: SYN | ACK, len: 0 },
                    _ => ANSWER,
                };
                script(&format!("errors about {name}"), family, rules)
                    .set("nf_conntrack_checksum", if *name == "UDP-Lite" { "0" } else { "1" })
                    .step(arrives(both.client.port, packet))
                    .answer(1, error(unreachable, 3, 0, None, 1000))
                    .answer(2, error(exceeded, 0, 0, Some(router), 1000))
                    .answer(3, error(unreachable, 1, 0, Some(router), of(family, 28, 48)))
                    .answer(4, answer)
                    .answer(1, error(unreachable, 3, 0, None, 1000))
                    .answer(2, error(exceeded, 0, 0, Some(hosts(family).0[2]), 1000))
            })
            .collect()
    })
}

#[test]
fn prefixes_are_translated_without_state() -> Result<()> {
    run("prefixes", |family| {
        if family == Family::V4 {
            return Vec::new();
        }
        let talk = Talk::new(family);
        let rules = |from: &str, to: &str| {
            format!(
                "*mangle\n-A FORWARD -m conntrack --ctstate NEW\n-A POSTROUTING -s {from} -o wan0 -j SNPT --src-pfx {from} --dst-pfx {to}\n-A PREROUTING -d {to} -i wan0 -j DNPT --src-pfx {to} --dst-pfx {from}\nCOMMIT\n"
            )
        };
        let error = |kind, from| Answer::Error { kind, code: 0, rest: 0, from, quote: 1000 };
        let both = |name: &str, from: &str, to: &str| {
            Script::new(name, family, &rules(from, to))
                .step(talk.there(&Datagram(b"question")))
                .answer(1, ANSWER)
                .answer(2, error(1, None))
                .answer(3, error(3, Some(hosts(family).1[0])))
                .step(talk.there(&segment(SYN).seq(1000)))
                .answer(1, Answer::Segment { seq: 9000, ack: 1001, flags: SYN | ACK, len: 0 })
                .step(talk.there(&Icmp(128, 0, 0x0007_0001, b"ping")))
                .answer(1, ANSWER)
        };
        let from = |address: &str| {
            let mut talk = talk;
            talk.client.address = sumun_testbed::differential::net::address(address);
            talk.there(&Datagram(b"question"))
        };
        vec![
            both("prefixes of 64 bits", "fd00:1::/64", "2001:db8:5::/64"),
            both("prefixes of 48 bits", "fd00:1::/48", "2001:db8:5::/48"),
            both("a longer one outside", "fd00:1::/48", "2001:db8:5:100::/56"),
            both("a longer one inside", "fd00:1::/64", "2001:db8:5::/48"),
            both("odd lengths", "fd00::/20", "2001:db8::/37"),
            Script::new("words of all ones are passed over", family, &rules("fd00:1::/64", "2001:db8:5::/64"))
                .step(from("fd00:1::ffff:1:2:3"))
                .step(from("fd00:1::ffff:ffff:2:3"))
                .step(from("fd00:1::ffff:ffff:ffff:3")),
            Script::new("a word that would be all ones is zero", family, &rules("fd00:1::/48", "fd00:1::/48"))
                .step(from("fd00:1:0:ffff::11")),
            Script::new("an address without room for the adjustment", family, &rules("fd00:1::/64", "2001:db8:5::/64"))
                .step(from("fd00:1::ffff:ffff:ffff:ffff")),
        ]
    })
}

/// Rules of table raw that put what comes in on the LAN into zones by its traffic class, and the rules of nat.
fn zoned(family: Family, option: &str, rules: &str) -> String {
    let rule = |class, zone| format!("-A PREROUTING -i lan0 -m tos --tos {class}/0xff -j CT {option} {zone}\n");
    format!("*raw\n{}{}COMMIT\n{}", rule("0x08", 1), rule("0x10", 2), nat(family, rules))
}

/// The client sends in a traffic class.
fn classed(talk: Talk, tos: u8, upper: &impl Upper) -> Step {
    let (protocol, l4) = upper.bytes(talk.family, (talk.client.number, talk.server.number));
    let header = Ip { tos, ..Ip::new(talk.family, talk.client.address, talk.server.address) };
    arrives(talk.client.port, &header.packet(protocol, &l4, 1))
}

#[test]
fn zones_may_have_the_same_addresses_behind_one_mapping() -> Result<()> {
    run("zones", |family| {
        let talk = Talk::new(family);
        let (data, syn) = (Datagram(b"question"), segment(SYN).seq(1000));
        let accepts = Answer::Segment { seq: 9000, ack: 1001, flags: SYN | ACK, len: 0 };
        let ping = Icmp(of(family, 8, 128), 0, 0x0007_0001, b"ping");
        let both = |name: &str, option: &str, rules: &str| {
            let mut script = Script::new(name, family, &zoned(family, option, rules));
            for class in [0x08, 0x10, 0x08, 0x00] {
                script = script
                    .step(classed(talk, class, &data))
                    .answer(1, ANSWER)
                    .step(classed(talk, class, &ping))
                    .answer(1, ANSWER)
                    .step(classed(talk, class, &syn))
                    .answer(1, accepts.clone());
            }
            script
        };
        let error = Answer::Error { kind: of(family, 3, 1), code: 0, rest: 0, from: None, quote: 1000 };
        vec![
            both("answers are in no zone", "--zone-orig", "-A POSTROUTING -o wan0 -j MASQUERADE"),
            both("answers are in no zone, nor mapped", "--zone-orig", "-A POSTROUTING -s SPARE -j MASQUERADE"),
            both("the question is in no zone", "--zone-reply", "-A POSTROUTING -o wan0 -j MASQUERADE"),
            both("both are in the zone", "--zone", "-A POSTROUTING -o wan0 -j MASQUERADE"),
            both("a published server", "--zone-orig", "-A PREROUTING -i lan0 -j DNAT --to-destination PEER"),
            Script::new(
                "an error finds the zone of what it quotes",
                family,
                &zoned(family, "--zone-orig", "-A POSTROUTING -o wan0 -j MASQUERADE"),
            )
            .step(classed(talk, 0x08, &data))
            .step(classed(talk, 0x10, &data))
            .answer(1, error.clone())
            .answer(3, error),
        ]
    })
}
