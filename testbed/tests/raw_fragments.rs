//! Fragments as rules see them where nobody gathers them: in a namespace that tracks nothing every piece passes the kernel's table raw.
//! Its counters are what the matches say of the same bytes.

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{self, MsgFlags};
use std::os::fd::AsRawFd;
use std::time::Duration;
use sumun_config::facts::{AddrType, Context, Facts, Family, PortId, Surroundings, proto};
use sumun_config::model::Names;
use sumun_config::rule::option::Case;
use sumun_config::rule::{Families, Hook, Outcome, Reach, Rule, Site, Table, matches, parse_text};
use sumun_dataplane::packet::parse;
use sumun_testbed::Host;
use sumun_testbed::craft::packet_socket;
use sumun_testbed::differential::net::{HOST, ROUTER, mac_text, of};
use sumun_testbed::differential::rng::Rng;
use sumun_testbed::differential::script::{Raw, Talk};
use sumun_testbed::differential::wire;

/// A router of which nothing is asked.
struct Nobody;

impl Surroundings for Nobody {
    fn addr_type(&self, _: Family, _: u128, _: PortId) -> AddrType {
        AddrType::Unicast
    }
    fn random(&self) -> u32 {
        0
    }
    fn path_mtu(&self, _: &Facts, _: bool) -> u16 {
        1500
    }
    fn port_address(&self, _: PortId, _: Family, _: u128) -> Option<u128> {
        None
    }
}

/// Rules of all accepted cases of a match for a family.
fn rules(name: &str, family: Family) -> Vec<&'static str> {
    let extensions = matches::EXTENSIONS.iter().filter(|extension| extension.name == name);
    let cases = extensions.flat_map(|extension| extension.cases);
    cases
        .filter_map(|case| match *case {
            Case::Prints(of, text, canonical) if of == family => Some(if canonical == "=" { text } else { canonical }),
            _ => None,
        })
        .collect()
}

fn understood(family: Family, text: &str) -> Rule {
    let site = Site {
        families: Families::Only(family),
        table: Table::Raw,
        reach: Reach::BuiltIn(Hook::Prerouting),
        ports: &[],
        names: Names::NONE,
        base: 0,
        line: 0,
    };
    let parsed = parse_text(text, &site).unwrap_or_else(|complaints| panic!("{text}: {complaints:?}"));
    parsed.bodies.into_iter().next().expect("a rule").rule
}

/// How often each rule holds for these packets, one after the other; one that is dropped on sight comes to no further rule.
fn expected(family: Family, rules: &[&str], packets: &[Vec<u8>]) -> Vec<u64> {
    let rules: Vec<Rule> = rules.iter().map(|text| understood(family, text)).collect();
    let mut counts = vec![0; rules.len()];
    for packet in packets {
        let facts = parse::ip(family, packet).expect("a packet");
        let cx = Context { l3: packet, now: 0, wall: 0, around: &Nobody, cells: &[] };
        for (rule, count) in rules.iter().zip(&mut counts) {
            let outcome =
                rule.conds.iter().map(|cond| cond.holds(&facts, &cx)).find(|outcome| *outcome != Outcome::Yes);
            match outcome {
                Some(Outcome::Hotdrop) => break,
                Some(_) => {}
                None => *count += 1,
            }
        }
    }
    counts
}

/// First and later pieces of packets with bytes by chance, and of such as have a header that is looked for.
fn pieces(family: Family) -> Vec<Vec<u8>> {
    let mut rng = Rng::stream(5, family as u64);
    let talk = Talk::new(family);
    let protocols = [proto::TCP, proto::UDP, proto::SCTP, proto::DCCP, proto::ESP, proto::IPCOMP, proto::AH];
    let extensions = [proto::MH, proto::ROUTING, proto::DSTOPTS, 59];
    let mut pieces = Vec::new();
    for &protocol in protocols.iter().chain(of(family, &[][..], &extensions)) {
        for id in 0..6 {
            let mut bytes: Vec<u8> = (0..72).map(|_| rng.below(256) as u8 >> rng.below(8)).collect();
            if let proto::ROUTING | proto::DSTOPTS | proto::AH = protocol {
                (bytes[0], bytes[1]) = (17, 2);
            }
            // TCP's data offset, here and where it would be in a later piece.
            for at in [12, 20, 28] {
                bytes[at] = 0x60;
            }
            (bytes[20], bytes[21], bytes[28], bytes[29]) = (2, 4, 2, 4);
            let packet = talk.packet(&Raw(protocol, &bytes));
            for (at, len) in [(0, 48), (0, 8), (8, 64), (16, 48), (24, 8)] {
                let mut piece = wire::fragment(&packet, at, len, id);
                if family == Family::V6 && id > 3 {
                    // What is reserved.
                    piece[41] = (id & 1) as u8;
                    piece[43] |= 2 << (id & 1);
                }
                pieces.extend(Some(piece).filter(|piece| parse::ip(family, piece).is_ok()));
            }
        }
    }
    pieces
}

struct Kernel {
    router: Host,
    outside: Host,
}

impl Kernel {
    fn new(tag: &str) -> Result<Kernel> {
        let router = Host::new(&format!("{tag}-raw"))?;
        let outside = Host::new(&format!("{tag}-rawout"))?;
        outside.run(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])?;
        let (mac, peer) = (mac_text(ROUTER[0]), mac_text(HOST[0]));
        let pair = ["link", "add", "lan0", "netns", router.name(), "address", &mac, "type", "veth"];
        let other = ["peer", "name", "out0", "netns", outside.name(), "address", &peer];
        sumun_testbed::host::ip(&[&pair[..], &other].concat())?;
        router.ip("link set lan0 up")?;
        outside.ip("link set out0 up")?;
        Ok(Kernel { router, outside })
    }

    /// How often each rule held.
    fn counts(&self, family: Family, rules: &[&str], packets: &[Vec<u8>]) -> Result<Vec<u64>> {
        let lines: String = rules.iter().map(|rule| format!("-A PREROUTING {rule}\n")).collect();
        let text = format!("*raw\n-A PREROUTING\n{lines}COMMIT\n");
        let program = of(family, "iptables-legacy", "ip6tables-legacy");
        self.router.run(&["sh", "-c", &format!("{program}-restore -w <<'END'\n{text}END\n")])?;
        let socket = self.outside.inside(|| packet_socket("out0"))?.0;
        for packet in packets {
            let frame = wire::frame(family, HOST[0], ROUTER[0], packet);
            socket::send(socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        }
        for _ in 0..100 {
            let saved = self.router.run(&[&format!("{program}-save"), "-c", "-t", "raw"])?;
            let count = |line: &str| line.strip_prefix('[')?.split_once(':')?.0.parse::<u64>().ok();
            let counts: Vec<u64> = saved.lines().filter_map(count).collect();
            let (seen, counts) = counts.split_first().context("a rule")?;
            if *seen == packets.len() as u64 {
                return Ok(counts.to_vec());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the kernel did not see all packets")
    }
}

#[test]
fn pieces_are_judged_as_by_the_kernel() -> Result<()> {
    let kernel = Kernel::new(&std::process::id().to_string())?;
    let mut wrong = Vec::new();
    let names = [
        "frag",
        "ah",
        "esp",
        "ipcomp",
        "tcpmss",
        "tcp",
        "udp",
        "sctp",
        "dccp",
        "mh",
        "rt",
        "srh",
        "dst",
        "hbh",
        "ipv6header",
    ];
    for family in Family::ALL {
        let pieces = pieces(family);
        for name in names {
            let rules = rules(name, family);
            if (family, name) == (Family::V6, "frag") {
                let held = expected(family, &rules, &pieces).into_iter().filter(|count| *count > 0).count();
                assert!(held >= 10, "{held} of {} rules hold for a piece", rules.len());
            }
            // One after the other where there is a difference, so that it can be told.
            if kernel.counts(family, &rules, &pieces)? != expected(family, &rules, &pieces) {
                for piece in &pieces {
                    let one = std::slice::from_ref(piece);
                    let (real, ours) = (kernel.counts(family, &rules, one)?, expected(family, &rules, one));
                    let differ = rules.iter().zip(real.iter().zip(&ours)).filter(|(_, (real, ours))| real != ours);
                    wrong.extend(differ.map(|(rule, counts)| format!("{rule}: {counts:?} of {}", wire::hex(piece))));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
