//! What targets do to packets, as the kernel does it: every script runs through the kernel and through the engine, in both
//! families, and at the end the counters of all rules are equal too.

use anyhow::Result;
use std::fmt::Write;
use sumun_config::facts::{Family, proto};
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, WAN, of};
use sumun_testbed::differential::script::{
    ACK, Datagram, FIN, Icmp, PSH, RST, Raw, SYN, Script, Step, Talk, Upper, arrives, expect_none, segment,
};
use sumun_testbed::differential::traffic::own;
use sumun_testbed::differential::wire;

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

fn run(tag: &str, scripts: impl Fn(Family) -> Vec<Script>) -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-{tag}", std::process::id()))?;
    let all: Vec<Script> = Family::ALL.into_iter().flat_map(scripts).map(Script::counted).collect();
    expect_none(&mut kernel, &all)
}

/// A ruleset of one table.
fn table(name: &str, rules: &str) -> String {
    format!("*{name}\n{rules}\nCOMMIT\n")
}

/// Rules that show marks from 0 to 63: each becomes the packet's code point.
fn shown_marks() -> String {
    (0..64).fold(String::new(), |mut rules, mark| {
        let _ = writeln!(rules, "-A POSTROUTING -m mark --mark {mark} -j DSCP --set-dscp {mark}");
        rules
    })
}

fn ping(family: Family) -> Icmp<'static> {
    Icmp(of(family, 8, 128), 0, 0x0102_0003, b"ping")
}

/// Packets of many kinds, both ways.
fn everything(talk: &Talk) -> Vec<Step> {
    let family = talk.family;
    let spi = [&0x1122_3344u32.to_be_bytes()[..], &[0; 20]].concat();
    let ah = [&[proto::UDP, 4, 0, 0][..], &0x1122_3344u32.to_be_bytes(), &[0; 24]].concat();
    let mut quoted = talk.reversed().packet(&Datagram(b"of an error"));
    wire::fix(&mut quoted);
    [
        both(talk, &segment(SYN)),
        both(talk, &Datagram(b"data")),
        both(talk, &ping(family)),
        both(talk, &Raw(proto::ESP, &spi)),
        both(talk, &Raw(proto::AH, &ah)),
        both(talk, &Raw(proto::GRE, &[0, 0, 8, 0, 1, 2, 3, 4])),
        both(talk, &Raw(proto::TCP, &[0x13, 0x88])),
        both(talk, &Icmp(of(family, 3, 1), 1, 0, &quoted)),
        both(talk, &Raw(99, b"unknown")),
    ]
    .concat()
}

/// The client sends it, then the server.
fn both(talk: &Talk, upper: &impl Upper) -> [Step; 2] {
    [talk.there(upper), talk.back(upper)]
}

#[test]
fn marks_by_hash() -> Result<()> {
    let hashes = [
        "--hmark-tuple src,dst,sport,dport,proto --hmark-mod 64 --hmark-rnd 0xfeedcafe",
        "--hmark-tuple src,dst --hmark-mod 10 --hmark-offset 20 --hmark-rnd 7",
        "--hmark-src-prefix 24 --hmark-dst-prefix 9 --hmark-mod 64 --hmark-rnd 1",
        "--hmark-sport-mask 0xff00 --hmark-dport-mask 0xff --hmark-proto-mask 0x3f --hmark-mod 64 --hmark-rnd 2",
        "--hmark-sport-mask 0xff --hmark-sport 0x1200 --hmark-dport 7 --hmark-mod 64 --hmark-rnd 3",
        "--hmark-tuple spi,src --hmark-mod 64 --hmark-rnd 4",
        "--hmark-spi 0x500 --hmark-sport-mask 0xf0 --hmark-dst-prefix 32 --hmark-mod 64 --hmark-rnd 5",
        "--hmark-tuple ct,src,dst,sport,dport,proto --hmark-mod 64 --hmark-rnd 6",
        "--hmark-tuple ct,proto --hmark-src-prefix 16 --hmark-mod 64 --hmark-rnd 8",
    ];
    run("hmark", |family| {
        let talk = Talk::new(family);
        let script = |hash: &str| {
            let rules = table("mangle", &format!("-A PREROUTING -j HMARK {hash}\n{}", shown_marks()));
            Script::new(hash, family, &rules).steps(everything(&talk)).steps(everything(&talk.from(41_000)))
        };
        hashes.iter().map(|hash| script(hash)).collect()
    })
}

#[test]
fn bits_of_ecn_and_options_of_tcp() -> Result<()> {
    run("tcpbits", |family| {
        let talk = Talk::new(family);
        let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let odd = [1, 3, 3, 7, 30, 3, 9, 2, 4, 5, 0xb4, 0, 8, 0, 5, 40];
        let segments = [
            segment(SYN | ECE | CWR).seq(1000).options(&syn),
            segment(SYN).seq(1000).options(&odd),
            segment(SYN | CWR).seq(1000).options(&[255, 2, 254, 6, 1, 2, 3, 4]),
        ];
        let steps: Vec<Step> = segments.iter().map(|s| talk.there(s)).collect();
        let data = [
            talk.back(&segment(SYN | ACK | ECE).seq(5000).ack(1001).options(&syn)),
            talk.there(&segment(ACK | PSH | CWR).seq(1001).ack(5001).data(11)),
            talk.there(&Raw(proto::TCP, &[0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0])),
            talk.there(&segment(FIN | ACK | ECE | CWR).seq(1012).ack(5001)),
        ];
        let mut rules = vec![
            "-A FORWARD -p tcp -j TCPOPTSTRIP --strip-options timestamp,sack-permitted,wscale",
            "-A PREROUTING -p tcp -j TCPOPTSTRIP --strip-options 2,254,255,30",
            "-A POSTROUTING -p tcp -j TCPOPTSTRIP --strip-options 3,5,8,30",
            "-A FORWARD -p tcp -j TCPOPTSTRIP",
        ];
        if family == Family::V4 {
            rules.extend([
                "-A FORWARD -p tcp -j ECN --ecn-tcp-remove",
                "-A FORWARD -p tcp -j ECN --ecn-tcp-ece 1 --ecn-tcp-cwr 0",
                "-A PREROUTING -p tcp -j ECN --ecn-tcp-cwr 1",
                "-A PREROUTING -j ECN --ecn-ip-ect 2",
                "-A POSTROUTING -p tcp -j ECN --ecn-tcp-ece 0 --ecn-ip-ect 3",
            ]);
        }
        let script =
            |rule: &&str| Script::new(rule, family, &table("mangle", rule)).steps(steps.clone()).steps(data.clone());
        rules.iter().map(script).collect()
    })
}

#[test]
fn copies_to_another_host() -> Result<()> {
    run("tee", |family| {
        let talk = Talk::new(family);
        let [lan, wan, far] = of(
            family,
            ["192.168.1.13", "203.0.113.10", "198.51.100.7"],
            ["fd00:1::13", "2001:db8:2::10", "2001:db8:77::7"],
        );
        // What becomes of a copy that OUTPUT sends another way than the first is seen where that is not the router itself.
        let tell =
            "-A POSTROUTING -m conntrack --ctstate UNTRACKED -j MARK --set-mark 5\n-A POSTROUTING -m mark --mark 5";
        let reroute = format!(
            "-A OUTPUT -p udp -m conntrack --ctstate UNTRACKED -d {}",
            of(family, "203.0.113.0/24", "2001:db8:2::/64")
        );
        let hop = of(family, "-j TTL --ttl-dec 3", "-j HL --hl-dec 3");
        let mut to_router = talk;
        to_router.server.address = own(family)[0];
        let steps = [
            talk.there(&Datagram(b"question")),
            talk.back(&Datagram(b"answer")),
            to_router.there(&ping(family)),
            to_router.there(&Datagram(b"nobody listens")),
            talk.there(&Datagram(&[7; 1250])),
        ];
        let scripts = [
            format!("-A PREROUTING -j TEE --gateway {lan}\n{tell}"),
            format!("-A PREROUTING -j TEE --gateway {lan}\n{reroute} -j TOS --set-tos 0x20/0xff"),
            format!("-A PREROUTING -j TEE --gateway {lan}\n{reroute} -j MARK --set-mark 1"),
            format!("-A PREROUTING -j TEE --gateway {lan}\n{reroute} {hop}"),
            format!("-A INPUT -j TEE --gateway {wan}\n{tell}"),
            format!("-A FORWARD -j TEE --gateway {wan}\n-A POSTROUTING {hop}"),
            format!("-A POSTROUTING -j TEE --gateway {lan}"),
            format!("-A OUTPUT -j TEE --gateway {lan}\n-A OUTPUT {hop}"),
            format!("-A FORWARD -j TEE --gateway {far}\n-A OUTPUT -j ACCEPT"),
            format!("-A FORWARD -j TEE --gateway {wan} --oif wan0"),
            format!("-A FORWARD -j TEE --gateway {lan}\n-A FORWARD -j TEE --gateway {wan}\n-A OUTPUT -j DROP"),
            format!(
                "-A FORWARD -p udp -g u\n-A u -j TEE --gateway {lan}\n-A u -j RETURN\n-A OUTPUT -j v\n-A v -j v2\n-A v2"
            ),
        ];
        let chains = |rules: &str| if rules.contains("-A u ") { ":u - [0:0]\n:v - [0:0]\n:v2 - [0:0]\n" } else { "" };
        let script = |rules: &String| {
            Script::new(rules, family, &table("mangle", &format!("{}{rules}", chains(rules)))).steps(steps.clone())
        };
        scripts.iter().map(script).collect()
    })
}

/// Counts what each hook sees of these conditions, in chains of its own: `-i` is not taken in POSTROUTING's itself.
fn counting(table: &str, hooks: &[&str], conditions: &[&str]) -> String {
    let mut text = format!("*{table}\n");
    for hook in hooks {
        let _ = writeln!(text, ":of-{hook} - [0:0]\n-A {hook} -j of-{hook}");
        for condition in conditions {
            let _ = writeln!(text, "-A of-{hook} {condition}");
        }
    }
    text + "COMMIT\n"
}

#[test]
fn where_what_the_router_makes_seems_to_come_from() -> Result<()> {
    run("made", |family| {
        let count =
            counting("security", &["INPUT", "FORWARD", "OUTPUT"], &["-i lan0", "-i wan0", "-o lan0", "-o wan0"])
                + &counting("mangle", &["POSTROUTING"], &["-i lan0", "-i wan0", "-o lan0", "-o wan0"]);
        let talk = Talk::new(family);
        let [lan, wan] = of(family, ["192.168.1.13", "203.0.113.10"], ["fd00:1::13", "2001:db8:2::10"]);
        let mut steps = everything(&talk);
        for mut talk in [talk, talk.reversed()] {
            talk.server.address = own(family)[talk.client.port.0 as usize];
            steps.extend([
                talk.there(&ping(family)),
                talk.there(&segment(SYN)),
                talk.there(&Datagram(b"nobody listens")),
                talk.there(&Raw(99, b"unknown")),
            ]);
            if family == Family::V6 {
                let mut body = talk.server.address.to_be_bytes().to_vec();
                body.extend([1, 1, 2, 0, 0, 0, talk.client.port.0 as u8, 2]);
                let asks = wire::Ip { ttl: 255, ..wire::Ip::new(family, talk.client.address, talk.server.address) };
                steps.push(arrives(talk.client.port, &asks.packet(proto::ICMPV6, &wire::icmp(135, 0, 0, &body), 1)));
            }
        }
        let rules = [
            String::new(),
            table("filter", "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\n-A FORWARD -j REJECT"),
            table("raw", &format!("-A PREROUTING -j TEE --gateway {lan}\n-A PREROUTING -j TEE --gateway {wan}")),
            table("filter", &format!("-A FORWARD -j TEE --gateway {lan}\n-A INPUT -j TEE --gateway {wan} --oif wan0")),
        ];
        let script = |rules: &String| Script::new(rules, family, &format!("{rules}{count}")).steps(steps.clone());
        rules.iter().map(script).collect()
    })
}

#[test]
fn what_is_said_about_copies() -> Result<()> {
    run("about", |family| {
        let [lan, wan] = of(family, ["192.168.1.13", "203.0.113.10"], ["fd00:1::13", "2001:db8:2::10"]);
        let far = of(family, "198.51.100.7", "2001:db8:77::7");
        let talk = Talk::new(family);
        let mut to_router = talk;
        to_router.server.address = own(family)[0];
        let large = Datagram(&[7; 1400]);
        let mut steps = vec![talk.there(&large), to_router.there(&large), talk.there(&large), to_router.there(&large)];
        steps.extend([to_router.from(5001).there(&large), to_router.from(5001).there(&ping(family))]);
        // The other own address: not the one of the way back.
        let mut to_other = talk;
        to_other.server.address = own(family)[1];
        steps.push(to_other.from(5003).there(&large));
        if family == Family::V4 {
            // To all of the link, in a frame for the router: the copy's way is its gateway's.
            let mut to_all = talk;
            to_all.server.address = 0xc0a8_01ff;
            steps.push(to_all.from(5002).there(&large));
        }
        let count = counting(
            "security",
            &["OUTPUT"],
            &[
                "-m conntrack --ctstate RELATED",
                "-m conntrack --ctstate INVALID",
                "-m connbytes --connbytes 0 --connbytes-mode packets --connbytes-dir both",
                of(family, "-m realm --realm 0", ""),
                of(family, "-m realm --realm 10", ""),
            ],
        );
        let mut all = Vec::new();
        for (table_name, hook) in [
            ("raw", "PREROUTING"),
            ("nat", "PREROUTING"),
            ("security", "INPUT"),
            ("nat", "INPUT"),
            ("mangle", "FORWARD"),
            ("nat", "POSTROUTING"),
        ] {
            for to in [lan.to_string(), wan.to_string(), format!("{far} --oif wan0")] {
                let redirect = if table_name == "nat" { "" } else { "*nat\n-A PREROUTING -j REDIRECT\nCOMMIT\n" };
                for nat in ["", redirect] {
                    let tee = table(table_name, &format!("-A {hook} -j TEE --gateway {to}"));
                    let again = table("mangle", &format!("-A OUTPUT -j TEE --gateway {lan}"));
                    for again in if nat.is_empty() && table_name == "raw" {
                        vec![String::new(), again]
                    } else {
                        vec![String::new()]
                    } {
                        let rules = format!("{tee}{again}{nat}{}", if table_name == "security" { "" } else { &count });
                        all.push(Script::new(&format!("{tee}{again}{nat}"), family, &rules).steps(steps.clone()));
                    }
                }
            }
        }
        all
    })
}

#[test]
fn resets_to_an_ipv4_address_in_the_place_of_an_ipv6_one() -> Result<()> {
    run("mapped", |family| {
        if family == Family::V4 {
            return Vec::new();
        }
        let mapped = 0xffff_0102_0304;
        let mut steps = Vec::new();
        for server in [own(family)[1], Talk::new(family).client.address] {
            let mut talk = Talk::new(family).reversed();
            (talk.client.address, talk.server.address) = (mapped, server);
            steps.extend([talk.there(&segment(SYN)), talk.there(&Datagram(b"mapped")), talk.there(&ping(family))]);
        }
        let refuse = |chain| table("filter", &format!("-A {chain} -p tcp -j REJECT --reject-with tcp-reset"));
        ["", &refuse("INPUT"), &refuse("FORWARD")]
            .map(|rules| Script::new(rules, family, rules).steps(steps.clone()))
            .into()
    })
}

#[test]
fn resets_whose_sum_is_zero() -> Result<()> {
    run("zero", |family| {
        let to_router = |mut talk: Talk| {
            talk.server.address = own(family)[0];
            talk
        };
        let rules = ["", &table("filter", "-A INPUT -p tcp -j REJECT --reject-with tcp-reset")];
        let scripts = rules.map(|rules| {
            let talk = to_router(Talk::new(family));
            let is_zero = |seq: &u32| {
                let mut reset = talk.reversed().packet(&segment(RST).seq(*seq).window(0));
                wire::fix(&mut reset);
                reset[of(family, 36, 56)..][..2] == [0, 0]
            };
            let seq = (0..=u32::from(u16::MAX)).find(is_zero).unwrap_or_default();
            assert!(is_zero(&seq), "a sum is zero for one number in 65535");
            Script::new(rules, family, rules).steps((0..2).map(|n| talk.there(&segment(ACK).seq(1).ack(seq + n))))
        });
        scripts.into()
    })
}

#[test]
fn nothing_is_behind_the_end_of_options() -> Result<()> {
    run("ends", |family| {
        if family == Family::V6 {
            return Vec::new();
        }
        let talk = Talk::new(family);
        let mut steps = Vec::new();
        for (n, options) in
            [&[0, 9, 9, 9][..], &[1, 1, 0, 7], &[148, 4, 0, 0, 1, 0, 5, 5], &[0, 0, 0, 0], &[1, 1, 1, 1]]
                .iter()
                .enumerate()
        {
            for (ttl, to) in [(64, talk.server.address), (64, own(family)[0]), (1, talk.server.address)] {
                let mut ip = wire::Ip::new(family, talk.client.address, to);
                (ip.ttl, ip.options) = (ttl, options.to_vec());
                steps.push(arrives(LAN, &ip.packet(proto::UDP, &wire::udp((5000 + n as u16, 80), b"options"), 1)));
                steps.push(arrives(LAN, &ip.packet(proto::ICMP, &wire::icmp(8, 0, 0x0102_0003, b"ping"), 1)));
            }
        }
        let rules = [
            "",
            "*filter\n-A FORWARD -j REJECT\n-A INPUT -j REJECT\nCOMMIT\n",
            "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
            "*raw\n-A PREROUTING -j TEE --gateway 192.168.1.13\nCOMMIT\n",
            "*filter\n-A FORWARD -j TEE --gateway 192.168.1.13\nCOMMIT\n",
        ];
        rules.map(|rules| Script::new(rules, family, rules).steps(steps.clone())).into()
    })
}

#[test]
fn copies_of_what_came_in_fragments_leave_in_fragments() -> Result<()> {
    run("tee-pieces", |family| {
        let gateway = of(family, "203.0.113.10", "2001:db8:2::10");
        let mut to_router = Talk::new(family).reversed();
        to_router.server.address = own(family)[1];
        let mut scripts = Vec::new();
        for hook in ["PREROUTING", "INPUT", "FORWARD"] {
            for (talk, port) in [(Talk::new(family), LAN), (to_router, WAN)] {
                for size in [504, 1000, 1240] {
                    let rules = format!("-A {hook} -m conntrack --ctstate NEW -j TEE --gateway {gateway}");
                    let mut steps = Vec::new();
                    for df in [false, true] {
                        let mut packet = talk.packet(&Datagram(&[7; 2000]));
                        if df && family == Family::V4 {
                            packet[6] |= 0x40;
                            wire::fix_header(&mut packet);
                        }
                        let pieces = wire::fragments(&packet, size, 5 + u32::from(df));
                        steps.extend(pieces.iter().map(|piece| arrives(port, piece)));
                    }
                    scripts
                        .push(Script::new(&format!("{size} {rules}"), family, &table("mangle", &rules)).steps(steps));
                }
                // What one packet came in says nothing of the next one's copy.
                let rules = format!("-A {hook} -m length --length 1601: -j TEE --gateway {gateway}");
                let mut steps = Vec::new();
                for (size, len) in [(1000, 1548), (256, 1552), (1000, 1548), (256, 1560), (256, 1700)] {
                    let pieces = wire::fragments(&talk.packet(&Datagram(&vec![7; len])), size, 50 + steps.len() as u32);
                    steps.extend(pieces.iter().map(|piece| arrives(port, piece)));
                }
                scripts.push(Script::new(&rules, family, &table("mangle", &rules)).steps(steps));
            }
        }
        scripts
    })
}

#[test]
fn copies_of_what_the_router_says_are_cut_to_their_way() -> Result<()> {
    run("tee-large", |family| {
        let mut to_router = Talk::new(family);
        to_router.server.address = own(family)[0];
        let gateway = of(family, "203.0.113.10", "2001:db8:2::10");
        let steps = [1200, 1400].map(|len| to_router.there(&Icmp(of(family, 8, 128), 0, 0x0102_0003, &vec![7; len])));
        ["OUTPUT", "POSTROUTING"]
            .map(|hook| format!("-A {hook} -j TEE --gateway {gateway}"))
            .map(|rules| Script::new(&rules, family, &table("mangle", &rules)).steps(steps.clone()))
            .into()
    })
}

#[test]
fn queues_that_nobody_listens_to() -> Result<()> {
    run("queue", |family| {
        let talk = Talk::new(family);
        let spare = of(family, "203.0.113.77", "2001:db8:2::77");
        let rules = [
            table("filter", "-A FORWARD -p udp -j NFQUEUE --queue-num 3\n-A FORWARD -p tcp -j QUEUE\n-A FORWARD"),
            table(
                "filter",
                ":FORWARD DROP [0:0]\n-A FORWARD -p udp -j NFQUEUE --queue-balance 0:3 --queue-bypass\n-A FORWARD",
            ),
            table(
                "mangle",
                "-A PREROUTING -p udp -j NFQUEUE --queue-balance 1:2 --queue-cpu-fanout --queue-bypass\n-A PREROUTING -j NFQUEUE",
            ),
            table(
                "nat",
                &format!("-A POSTROUTING -p udp -j NFQUEUE --queue-bypass\n-A POSTROUTING -j SNAT --to-source {spare}"),
            ),
            table("nat", &format!("-A PREROUTING -p udp -j NFQUEUE\n-A POSTROUTING -j SNAT --to-source {spare}")),
        ];
        let script = |rules: &String| {
            Script::new(rules, family, rules)
                .step(talk.there(&Datagram(b"one")))
                .step(talk.there(&Datagram(b"two")))
                .step(talk.back(&Datagram(b"answer")))
                .step(talk.there(&Datagram(b"three")))
                .step(talk.there(&segment(SYN).seq(1000)))
                .step(talk.there(&ping(family)))
        };
        rules.iter().map(script).collect()
    })
}

#[test]
fn targets_that_only_note_something_and_go_on() -> Result<()> {
    run("notes", |family| {
        let talk = Talk::new(family);
        let rules = [
            table("raw", "-A PREROUTING -p udp -j TRACE\n-A PREROUTING -p udp\n-A OUTPUT -j TRACE\n-A OUTPUT"),
            table(
                "mangle",
                "-A FORWARD -j CLASSIFY --set-class 1:10\n-A POSTROUTING -j CHECKSUM --checksum-fill\n-A POSTROUTING",
            ),
            table(
                "filter",
                "-A FORWARD -j AUDIT --type drop\n-A FORWARD -j NFLOG --nflog-group 5 --nflog-prefix x\n-A FORWARD",
            ),
            table("mangle", "-A FORWARD -j CONNSECMARK --save\n-A FORWARD -j CONNSECMARK --restore\n-A FORWARD"),
        ];
        rules.iter().map(|rules| Script::new(rules, family, rules).steps(everything(&talk))).collect()
    })
}

#[test]
fn marks_of_flows_move_on_their_way() -> Result<()> {
    run("shifts", |family| {
        let talk = Talk::new(family);
        let rules = [
            "-A PREROUTING -j CONNMARK --set-mark 0x3 --left-shift-mark 2\n-A PREROUTING -j CONNMARK --restore-mark",
            "-A PREROUTING -j MARK --set-mark 0xf0\n-A PREROUTING -j CONNMARK --save-mark --right-shift-mark 4 --ctmask 0xff\n\
             -A PREROUTING -j CONNMARK --restore-mark --left-shift-mark 1 --nfmask 0xff",
            "-A PREROUTING -j CONNMARK --set-xmark 0x1/0x0 --left-shift-mark 1\n-A PREROUTING -j CONNMARK --restore-mark --mask 0x3f",
        ];
        let script = |rules: &&str| {
            Script::new(rules, family, &table("mangle", &format!("{rules}\n{}", shown_marks())))
                .step(talk.there(&Datagram(b"one")))
                .step(talk.back(&Datagram(b"two")))
                .step(talk.there(&Datagram(b"three")))
                .step(arrives(talk.client.port, &talk.from(6000).packet(&ping(family))))
        };
        rules.iter().map(script).collect()
    })
}
