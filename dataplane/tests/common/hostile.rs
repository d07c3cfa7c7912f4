//! Whatever the bytes are: no panic, every frame accounted for. Shared by the property tests and the fuzz target.
//!
//! An input is a program for the router: frames on ports, time, other rules. Every input means something, so that a fuzzer
//! need not learn a grammar.

use super::*;
use std::sync::OnceLock;
use sumun_config::facts::proto;
use sumun_config::model::Policy;
use sumun_config::rule::{self, Families, Reach, Site, Table};
use sumun_config::schema;
use sumun_dataplane::packet::checksum::Sum;
use sumun_dataplane::packet::parse;
use sumun_dataplane::protocol;

/// Rules that look into packets and change them.
pub const RULES: &str = r#"
[raw.PREROUTING]
rules = ["-p tcp -m tcp --tcp-option 5 -j LOG --log-tcp-options --log-tcp-sequence --log-ip-options"]

[mangle.PREROUTING]
rules = ["-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000", "-4 -j TTL --ttl-inc 3", "-6 -j HL --hl-inc 3", "-j TOS --set-tos 0x10"]

[nat.PREROUTING]
rules = ["-4 -p udp -m udp --dport 53 -j DNAT --to-destination 203.0.113.9:5353", "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81"]

[nat.POSTROUTING]
rules = ["-o wan0 -j MASQUERADE --random"]

[filter.FORWARD]
rules = [
  "-m conntrack --ctstate INVALID -j LOG --log-prefix invalid",
  "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
  "-m multiport -p tcp --dports 1:1024 -j REJECT",
  "-m addrtype --dst-type LOCAL -j DROP",
  "-m length --length 0:100 -j ACCEPT",
]
"#;

/// Well-formed frames to start from.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![arp_request(0xc0a8_0109, 0xc0a8_0101), vec![], vec![0xff; 14]];
    for family in Family::ALL {
        let (client, server) = ends(family);
        all.push(udp(family, client, server, (1000, 53), b"query"));
        all.push(udp(family, server, client, (53, 1000), b"answer"));
        all.push(tcp(family, client, server, (1000, 80), "S", b""));
        all.push(tcp(family, client, server, (1000, 443), "PA", &[7; 1400]));
        // Nobody answers for this one: it waits.
        all.push(udp(family, client, server + 60, (1000, 53), b"query"));
        all.push(ping(family, client, server, 1, &[1; 600]));
        // An ICMP error that quotes one of the packets above.
        let quoted = udp(family, client, server, (1000, 53), b"query")[14..].to_vec();
        let mut error = Vec::new();
        let step = ip(family, server, client, 64);
        match family {
            Family::V4 => step.icmpv4_raw(3, 3, [0; 4]).write(&mut error, &quoted),
            Family::V6 => step.icmpv6_raw(1, 4, [0; 4]).write(&mut error, &quoted),
        }
        .expect("a frame");
        all.push(error);
        let own = if family == Family::V4 { 0xc0a8_0101 } else { 0xfd00_0001 << 96 | 1 };
        all.extend(halves(&udp(family, client, server, (1000, 53), &[9; 2000])));
        all.extend(halves(&ping(family, client, own, 1, &[1; 2000])));
    }
    all
}

/// Other rules to swap to.
const OTHERS: &[&str] = &[
    "",
    r#"
[filter.INPUT]
policy = "DROP"
rules = ["-m limit --limit 3/second -j ACCEPT", "-p tcp -j REJECT --reject-with tcp-reset"]

[filter.FORWARD]
policy = "DROP"
rules = ["-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-j deeper"]

[filter.deeper]
rules = ["-m statistic --mode nth --every 3 --packet 0 -j RETURN", "-i lan0 -j ACCEPT"]

[nat.POSTROUTING]
rules = ["-4 -o wan0 -p udp -j SNAT --to-source 203.0.113.2-203.0.113.3:1024-1030", "-6 -o wan0 -j MASQUERADE"]

[nat.OUTPUT]
rules = ["-4 -p icmp -j DNAT --to-destination 192.168.1.9"]
"#,
    r#"
[raw.PREROUTING]
rules = ["-p tcp -j CT --notrack", "-p udp -j NOTRACK"]

[mangle.POSTROUTING]
rules = ["-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "-j DSCP --set-dscp 46", "-4 -j TTL --ttl-set 1"]

[mangle.OUTPUT]
rules = ["-j MARK --set-mark 3", "-j CONNMARK --save-mark"]

[sysctl]
nf_conntrack_tcp_loose = false
nf_conntrack_checksum = false
icmp_echo_ignore_all = true
"#,
    r#"
[[routes]]
to = "198.51.100.0/24"
mtu = 576
nexthops = [{ via = "203.0.113.9", weight = 3 }, { via = "192.168.1.9" }]

[[routes]]
to = "default"
via = "2001:db8:2::9"
table = 7

[[routes]]
to = "10.0.0.0/8"
type = "prohibit"
"#,
];

/// What an input still has to say.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// As many bytes as there are, up to `n`.
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Makes the checksums of a frame right where there is a packet in it, so that it gets past the first check.
pub fn repair(frame: &mut [u8]) {
    let Some(l3) = frame.get_mut(14..) else { return };
    let family = match l3.first().map(|b| b >> 4) {
        Some(4) => Family::V4,
        Some(6) => Family::V6,
        _ => return,
    };
    let header = usize::from(l3[0] & 0xf) * 4;
    if family == Family::V4 && (20..=l3.len()).contains(&header) {
        l3[10..12].fill(0);
        let check = Sum::new().bytes(&l3[..header]).checksum();
        l3[10..12].copy_from_slice(&check.to_be_bytes());
    }
    let Ok(facts) = parse::ip(family, l3) else { return };
    if !facts.has_l4 {
        return;
    }
    let pseudo = Sum::new().pseudo(facts.src, facts.dst, facts.proto, usize::from(facts.len - facts.l4_off));
    let (at, start) = match facts.proto {
        proto::TCP => (16, pseudo),
        proto::UDP => (6, pseudo),
        proto::ICMP => (2, Sum::new()),
        proto::ICMPV6 => (2, pseudo),
        _ => return,
    };
    let l4 = &mut l3[usize::from(facts.l4_off)..usize::from(facts.len)];
    if l4.len() >= at + 2 {
        l4[at..at + 2].fill(0);
        let check = start.bytes(l4).checksum();
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
}

/// A frame as the input says: a seed with changes, or bytes of its own.
fn frame(input: &mut Input) -> Option<(PortId, Vec<u8>)> {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let seeds = SEEDS.get_or_init(seeds);
    let how = input.byte()?;
    let port = if how & 1 == 0 { LAN } else { WAN };
    let mut frame = match how & 2 {
        0 => seeds[usize::from(input.byte()?) % seeds.len()].clone(),
        _ => {
            let len = usize::from(input.word()?) % 1700;
            input.bytes(len).to_vec()
        }
    };
    for _ in 0..(how >> 2 & 7) {
        let (at, byte) = (usize::from(input.word()?), input.byte()?);
        if let Some(place) = at.checked_rem(frame.len()) {
            frame[place] = byte;
        }
    }
    if how & 0x20 != 0 {
        frame.resize(usize::from(input.word()?) % 1700, 0xa5);
    }
    if how & 0x40 == 0 {
        repair(&mut frame);
    }
    Some((port, frame))
}

/// The configurations to swap to, parsed once.
fn others() -> &'static [Policy] {
    static POLICIES: OnceLock<Vec<Policy>> = OnceLock::new();
    POLICIES.get_or_init(|| [RULES].iter().chain(OTHERS).map(|rules| policy_of(rules)).collect())
}

fn policy_of(rules: &str) -> Policy {
    // A file may have its own [sysctl], which the base has too.
    let (rules, sysctl) = rules.split_once("[sysctl]\n").unwrap_or((rules, ""));
    config(&format!("{sysctl}{rules}")).policy
}

/// Runs the rest of an input on a router; the census must hold after every step.
pub fn drive(rig: &mut Rig, input: &mut Input) {
    while let Some(what) = input.byte() {
        match what % 8 {
            0..=3 => {
                let Some((port, frame)) = frame(input) else { break };
                rig.send(port, &frame);
            }
            4 => {
                let mut frames = Vec::new();
                for _ in 0..what >> 3 {
                    let Some((_, frame)) = frame(input) else { break };
                    frames.push(frame);
                }
                rig.burst(if what & 8 == 0 { LAN } else { WAN }, &frames);
            }
            5 => {
                let Some(time) = input.word() else { break };
                rig.wait(u64::from(time) << (what >> 3));
            }
            6 => {
                let policies = others();
                let policy = policies[usize::from(what >> 3) % policies.len()].clone();
                rig.router.publish(policy).expect("it verifies");
            }
            _ => {
                rig.router.zero();
            }
        }
        rig.now += 1_000_000;
        rig.assert_census();
    }
}

/// Lets everything that waits come to its end, and counts for the last time.
pub fn wind_down(rig: &mut Rig) {
    // Packets wait for neighbours, then fragments for others, then what is said of those for neighbours.
    for patience in [0, 60_000_000_000] {
        rig.wait(patience);
        for _ in 0..40 {
            rig.wait(500_000_000);
        }
    }
    rig.assert_census();
}

/// An input as a program for a router with rules that look everywhere.
pub fn engine(bytes: &[u8]) {
    let mut rig = Rig::of(others()[0].clone());
    drive(&mut rig, &mut Input(bytes));
    wind_down(&mut rig);
    assert_eq!(rig.engine.held(), 0, "packets that still wait");
}

/// An input as a policy that an enemy sends, and packets for it. What decodes and verifies must run.
pub fn policy(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(len) = input.word() else { return };
    let Ok(mut policy) = protocol::decode::<Policy>(input.bytes(usize::from(len))) else { return };
    // Which ports there are is no secret.
    policy.ports = ["lan0", "wan0"].map(String::from).to_vec();
    let mut rig = Rig::of(others()[0].clone());
    if rig.router.publish(policy.clone()).is_err() {
        return;
    }
    let encoded = protocol::encode(&policy).expect("what was decoded can be encoded");
    assert_eq!(protocol::decode::<Policy>(&encoded).expect("and decoded again"), policy);
    for family in Family::ALL {
        policy.ruleset.print(family, None);
    }
    rig.wait(1_000_000);
    for frame in seeds() {
        for port in [LAN, WAN] {
            rig.send(port, &frame);
            rig.assert_census();
        }
    }
    drive(&mut rig, &mut input);
    rig.wait(1 << 40);
    rig.assert_census();
}

/// An input as a configuration, and as the text of a rule. What is accepted verifies, and reads back as it prints.
pub fn text(bytes: &[u8]) {
    let source = match Source::decode("fuzz.toml", bytes.to_vec()) {
        Ok(source) => source,
        Err(mistake) => {
            render(&mistake.0, &[mistake.1], false);
            return;
        }
    };
    match schema::load(&source) {
        Ok((config, warnings)) => {
            render(&source, &warnings, false);
            let policy = config.policy;
            policy.verify().expect("what the file says can run");
            policy.ruleset.verify(policy.ports.len()).expect("what the file says can run");
            let encoded = protocol::encode(&policy).expect("it can be encoded");
            assert_eq!(protocol::decode::<Policy>(&encoded).expect("it can be decoded"), policy);
        }
        Err(mistakes) => {
            render(&source, &mistakes, false);
        }
    }
    let ports = ["lan0", "wan0"].map(String::from);
    for family in Family::ALL {
        for table in Table::ALL {
            let families = Families::Only(family);
            let site = Site {
                families,
                table,
                reach: Reach::User(0),
                ports: &ports,
                names: Default::default(),
                base: 0,
                line: 0,
            };
            let Ok(parsed) = rule::parse_text(source.text(), &site) else { continue };
            for body in parsed.bodies.iter().filter(|body| body.jump.is_none()) {
                let text = rule::print(&body.rule, family, |_| "chain");
                let again = rule::parse_text(&text, &site)
                    .unwrap_or_else(|complaints| panic!("{:?} prints {text:?}: {complaints:?}", source.text()));
                assert_eq!(again.bodies[0].rule, body.rule, "{text}");
            }
        }
    }
}

/// Inputs of [`policy`] to start from: policies that are in order.
pub fn policy_seeds() -> Vec<Vec<u8>> {
    let input = |policy: &Policy| {
        let encoded = protocol::encode(policy).expect("a policy");
        let len = u16::try_from(encoded.len()).expect("a small policy");
        [&len.to_be_bytes()[..], &encoded, &[0, 0, 4, 1, 1, 9]].concat()
    };
    let of_rule = |(table, chain, rule): &(&str, &str, &str)| {
        let rules = format!("[{table}.{chain}]\nrules = ['{rule}']\n");
        input(&policy_of(&rules))
    };
    others().iter().map(input).chain(SINGLE.iter().map(of_rule)).collect()
}

/// Rules that exercise one match or target each.
pub const SINGLE: &[(&str, &str, &str)] = &[
    ("filter", "FORWARD", "-m addrtype --src-type UNICAST --limit-iface-in -j ACCEPT"),
    ("filter", "FORWARD", "-m connmark --mark 1/3 -m mark --mark 2 -j DROP"),
    ("filter", "FORWARD", "-p dccp --dport 5"),
    ("filter", "FORWARD", "-m dscp --dscp 46 -m tos --tos 0x10/0xff"),
    ("filter", "FORWARD", "-p tcp -m ecn --ecn-tcp-cwr --ecn-ip-ect 1"),
    ("filter", "FORWARD", "-m length --length 20:100"),
    ("filter", "FORWARD", "-m limit --limit 5/minute --limit-burst 7 -j LOG --log-prefix a --log-uid --log-macdecode"),
    ("filter", "FORWARD", "-m mac --mac-source 02:00:00:00:00:02"),
    ("filter", "FORWARD", "-m pkttype --pkt-type multicast"),
    ("filter", "FORWARD", "-p sctp --dport 5"),
    ("filter", "FORWARD", "-m statistic --mode random --probability 0.5"),
    ("filter", "FORWARD", "-4 -m ttl --ttl-lt 65"),
    ("filter", "FORWARD", "-6 -m hl --hl-gt 3 -j REJECT --reject-with icmp6-port-unreachable"),
    ("filter", "FORWARD", "-p udp -m multiport --ports 1,2:5,53 -j REJECT"),
    ("filter", "FORWARD", "-m conntrack --ctstate NEW,DNAT --ctdir ORIGINAL --ctproto 17"),
    ("filter", "FORWARD", "-4 -m iprange --src-range 192.168.1.1-192.168.1.200"),
    ("mangle", "FORWARD", "-4 -j TTL --ttl-dec 1"),
    ("mangle", "PREROUTING", "-j CONNMARK --restore-mark"),
    ("nat", "PREROUTING", "-p tcp -j REDIRECT --to-ports 1-9 --random"),
    ("nat", "PREROUTING", "-6 -p tcp -j DNAT --to-destination [fd00:1::9-fd00:1::10]:5-9"),
    ("nat", "POSTROUTING", "-4 -j SNAT --to-source 203.0.113.2-203.0.113.9 --persistent"),
];

/// Inputs of [`text`] to start from.
pub fn text_seeds() -> Vec<Vec<u8>> {
    let whole = include_str!("../../../testbed/router.toml");
    let rules = SINGLE.iter().map(|(_, _, rule)| rule.to_string());
    let files =
        [RULES].iter().chain(OTHERS).map(|rules| format!("[interfaces.lan0]\naddresses = [\"10.0.0.1/8\"]\n{rules}"));
    [whole.to_string()].into_iter().chain(rules).chain(files).map(String::into_bytes).collect()
}

/// Inputs of [`engine`] to start from: each seed frame alone, there and back.
pub fn engine_seeds() -> Vec<Vec<u8>> {
    (0..seeds().len() as u8).map(|seed| vec![0, 0, seed, 5, 1, 0, 0, 1, seed, 14, 0, 0, seed]).collect()
}
