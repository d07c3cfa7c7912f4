//! Sets as the kernel has them: the same packets through `-m set` and `-j SET` of both routers, and then the same counters of
//! rules and the same elements with their counters, for every type that the kernel here has.

use anyhow::Result;
use sumun_config::facts::Family;
use sumun_testbed::differential::kernel::Kernel;
use sumun_testbed::differential::net::{LAN, of};
use sumun_testbed::differential::script::{
    Datagram, End, Icmp, Raw, SYN, Script, Step, Talk, Upper, arrives, expect_none, segment,
};
use sumun_testbed::differential::traffic::hosts;
use sumun_testbed::differential::wire;

/// Every host of the LAN to some of the WAN, by several protocols; from the LAN's first host also fragments.
fn traffic(family: Family) -> Vec<Step> {
    let (lan, wan) = hosts(family);
    let mut steps = Vec::new();
    for (i, client) in lan.into_iter().enumerate() {
        for (j, server) in wan.into_iter().enumerate().filter(|(j, _)| *j != 2) {
            let mut talk = Talk::new(family);
            talk.client = End { address: client, number: 5000 + i as u16, ..talk.client };
            talk.server = End { address: server, number: [80, 53, 0, 443][j], ..talk.server };
            let ping = Icmp(of(family, 8, 128), 0, 7, b"ping");
            steps.extend([talk.there(&segment(SYN).seq(1)), talk.there(&Datagram(b"data")), talk.there(&ping)]);
            steps.push(talk.there(&Raw(47, &[0; 16])));
        }
    }
    let talk = Talk::new(family);
    for upper in [&Datagram(&[7; 80]) as &dyn Bytes, &Raw(47, &[7; 80])] {
        let packet = upper.packet(&talk);
        steps.extend(wire::fragments(&packet, 48, 9).iter().map(|fragment| arrives(LAN, fragment)));
    }
    steps
}

/// What a talk can send, whatever it is.
trait Bytes {
    fn packet(&self, talk: &Talk) -> Vec<u8>;
}

impl<T: Upper> Bytes for T {
    fn packet(&self, talk: &Talk) -> Vec<u8> {
        talk.packet(self)
    }
}

/// Names that stand for addresses, IPv4 and IPv6.
const NAMES: [(&str, &str, &str); 12] = [
    ("FIRST", "192.168.1.11", "fd00:1::11"),
    ("SECOND", "192.168.1.12", "fd00:1::12"),
    ("THIRD", "192.168.1.13", "fd00:1::13"),
    ("LAN/NET", "192.168.1.0/24", "fd00:1::/64"),
    ("PAIR/NET", "192.168.1.12/31", "fd00:1::12/127"),
    ("WAN/NET", "203.0.113.0/24", "2001:db8:2::/64"),
    ("WIDE/NET", "192.0.0.0/3", "2000::/3"),
    ("PEER", "203.0.113.10", "2001:db8:2::10"),
    ("NEXT", "203.0.113.1", "2001:db8:2::1"),
    ("FAMILY", "inet", "inet6"),
    ("PING", "icmp:echo-request", "ipv6-icmp:echo-request"),
    ("HALF/NET", "128.0.0.0/1", "8000::/1"),
];

fn named(family: Family, text: &str) -> String {
    NAMES.iter().fold(text.to_string(), |text, (name, v4, v6)| text.replace(name, of(family, v4, v6)))
}

/// A script of the same traffic through these rules of mangle with these sets.
fn script(name: &str, family: Family, sets: &str, rules: &str) -> Script {
    let rules = format!("*mangle\n{}\nCOMMIT\n", named(family, rules));
    Script::new(name, family, &rules).sets(&named(family, sets)).lead(traffic(family))
}

fn run(tag: &str, scripts: impl Fn(Family) -> Vec<Script>) -> Result<()> {
    let mut kernel = Kernel::new(&format!("{}-sets-{tag}", std::process::id()))?;
    let all: Vec<Script> = Family::ALL.into_iter().flat_map(scripts).collect();
    expect_none(&mut kernel, &all)
}

/// A rule of FORWARD for each way of asking a set.
fn asks(set: &str, ends: &[&str]) -> String {
    let options =
        ["", " --return-nomatch", " ! --update-counters", " --packets-gt 1", " --packets-lt 4 --bytes-gt 100"];
    let mut rules = Vec::new();
    for ends in ends {
        rules.extend(options.iter().map(|option| format!("-A FORWARD -m set --match-set {set} {ends}{option}")));
        rules.push(format!("-A FORWARD -m set ! --match-set {set} {ends} ! --packets-eq 3"));
    }
    rules.join("\n")
}

const PAIRS: [&str; 6] = ["src", "dst", "src,src", "src,dst", "dst,src", "dst,dst,dst"];
const TRIPLES: [&str; 5] = ["src,dst", "src,dst,dst", "dst,dst,src", "src,src,dst", "src,dst,dst,src"];

#[test]
fn packets_are_in_the_same_sets() -> Result<()> {
    run("match", |family| {
        let case = |name, sets: &str, ends: &[&str]| script(name, family, sets, &asks("s", ends));
        vec![
            case(
                "hash:ip",
                "create s hash:ip family FAMILY counters\nadd s FIRST\nadd s PEER packets 2 bytes 90\n",
                &PAIRS,
            ),
            case(
                "hash:ip of networks",
                &format!("create s hash:ip family FAMILY netmask {} counters\nadd s FIRST\n", of(family, 30, 126)),
                &PAIRS,
            ),
            case(
                "hash:net",
                "create s hash:net family FAMILY counters\nadd s LAN/NET\nadd s PAIR/NET nomatch\nadd s THIRD\nadd s WIDE/NET\n",
                &PAIRS,
            ),
            case("an empty hash:net", "create s hash:net family FAMILY counters\n", &["src"]),
            case(
                "hash:ip,port",
                "create s hash:ip,port family FAMILY counters\nadd s FIRST,tcp:5000\nadd s PEER,tcp:443\nadd s NEXT,udp:80\n\
                 add s SECOND,PING\nadd s PEER,gre:0\nadd s FIRST,gre:0\n",
                &PAIRS,
            ),
            case(
                "hash:ip,port,ip",
                "create s hash:ip,port,ip family FAMILY counters\nadd s FIRST,tcp:80,NEXT\nadd s THIRD,PING,PEER\n\
                 add s PEER,udp:443,FIRST\n",
                &TRIPLES,
            ),
            case(
                "hash:ip,port,net",
                "create s hash:ip,port,net family FAMILY counters\nadd s FIRST,tcp:80,WAN/NET\n\
                 add s FIRST,tcp:80,NEXT nomatch\nadd s SECOND,udp:443,HALF/NET\nadd s FIRST,udp:443,HALF/NET nomatch\n",
                &TRIPLES,
            ),
            case(
                "hash:net,port",
                "create s hash:net,port family FAMILY counters\nadd s LAN/NET,tcp:80\nadd s PAIR/NET,tcp:80 nomatch\n\
                 add s THIRD,tcp:80\nadd s WAN/NET,udp:443\nadd s LAN/NET,gre:0\n",
                &PAIRS,
            ),
            case(
                "hash:net,iface",
                "create s hash:net,iface family FAMILY counters\nadd s LAN/NET,lan0\nadd s PAIR/NET,wan0\nadd s THIRD,lan0 nomatch\n\
                 add s WAN/NET,wan wildcard\nadd s FIRST,la wildcard\n",
                &PAIRS,
            ),
            case(
                "hash:net,iface of everything",
                of(
                    family,
                    "create s hash:net,iface family inet counters\nadd s 0.0.0.0/0,lan0\n",
                    "create s hash:net,iface family inet6 counters\nadd s ::/0,lan0\n",
                ),
                &PAIRS,
            ),
            case("bitmap:port", "create s bitmap:port range 50-6000 counters\nadd s 80\nadd s 5000-5001\n", &PAIRS),
            script(
                "list:set",
                family,
                "create a hash:ip family FAMILY counters\nadd a FIRST\ncreate b hash:ip,port family FAMILY counters\n\
                 add b SECOND,udp:443\nadd b FIRST,tcp:80\ncreate n hash:net family FAMILY counters\nadd n LAN/NET nomatch\n\
                 create s list:set counters\nadd s a\nadd s b\nadd s n\n",
                &(asks("s", &PAIRS)
                    + "\n-A FORWARD -m set --match-set s src,dst ! --update-subcounters\n\
                       -A FORWARD -m set --match-set s src,dst ! --update-subcounters ! --update-counters"),
            ),
        ]
    })
}

#[test]
fn ipv4_has_bitmaps_too() -> Result<()> {
    run("bitmaps", |family| {
        if family == Family::V6 {
            return Vec::new();
        }
        let case = |name, sets: &str, ends: &[&str]| script(name, family, sets, &asks("s", ends));
        vec![
            case("bitmap:ip", "create s bitmap:ip range 192.168.1.0/24 counters\nadd s FIRST\nadd s THIRD\n", &PAIRS),
            case(
                "bitmap:ip of networks",
                "create s bitmap:ip range 192.168.0.0/16 netmask 30 counters\nadd s FIRST\n",
                &PAIRS,
            ),
            case(
                "bitmap:ip,mac",
                "create s bitmap:ip,mac range 192.168.1.0/24 counters\nadd s FIRST\nadd s SECOND,02:00:00:00:00:99\n",
                &PAIRS,
            ),
            case(
                "bitmap:ip,mac with time",
                "create s bitmap:ip,mac range 192.168.1.0/24 timeout 100\nadd s FIRST\nadd s SECOND timeout 50\n\
                 add s THIRD timeout 0\n",
                &["src,src"],
            ),
            case(
                "hash:ip with gaps in its mask",
                "create s hash:ip bitmask 255.255.0.255 counters\nadd s FIRST\nadd s PEER\n",
                &PAIRS,
            ),
            script(
                "stations are added",
                family,
                "create s bitmap:ip,mac range 192.168.1.0/24 counters timeout 60\n",
                "-A FORWARD -p tcp -j SET --add-set s src,src\n-A FORWARD -m set --match-set s src,src",
            ),
        ]
    })
}

#[test]
fn packets_change_the_same_sets() -> Result<()> {
    run("change", |family| {
        let case = |name, sets: &str, rules: &str| script(name, family, sets, rules);
        let add = |kind: &str, elements: &str, ends: &str| {
            let sets = format!("create s {kind} family FAMILY counters timeout 90\n{elements}");
            let rules = format!("-A FORWARD -j SET --add-set s {ends}\n-A FORWARD -m set --match-set s {ends}");
            script(&format!("{kind} is added to"), family, &sets, &rules)
        };
        vec![
            add("hash:ip", "", "src"),
            add("hash:ip", "add s FIRST timeout 0\n", "src"),
            add("hash:ip maxelem 2", "", "src"),
            add("hash:net", "", "src"),
            add("hash:net", "add s WIDE/NET\nadd s WAN/NET\n", "src"),
            add("hash:net", "add s PAIR/NET nomatch\n", "src"),
            add("hash:ip,port", "", "dst,dst"),
            add("hash:ip,port,ip", "", "src,dst,dst"),
            add("hash:ip,port,net", "add s FIRST,tcp:80,WAN/NET\n", "src,dst,dst"),
            add("hash:net,port", "add s LAN/NET,tcp:80\n", "src,dst"),
            add("hash:net,iface", "", "src,src"),
            add("hash:net,iface", "add s WAN/NET,lan0\n", "src,dst"),
            add("hash:ip", "", "dst,src"),
            case(
                "with --exist elements begin anew",
                "create s hash:ip family FAMILY counters timeout 90\n",
                "-A FORWARD -p tcp -j SET --add-set s src\n-A FORWARD -m set --match-set s src\n\
                 -A FORWARD -p udp -j SET --add-set s src --exist --timeout 0",
            ),
            case(
                "elements are deleted",
                "create s hash:net family FAMILY counters\nadd s LAN/NET\nadd s FIRST\nadd s SECOND nomatch\n",
                "-A FORWARD -m set --match-set s src\n-A FORWARD -p udp -j SET --del-set s src",
            ),
            case(
                "one is added and another one deleted",
                "create s hash:ip family FAMILY counters\ncreate t hash:ip family FAMILY\nadd t FIRST\nadd t SECOND\n",
                "-A FORWARD -p udp -j SET --add-set s src --del-set t src\n-A FORWARD -m set --match-set t src",
            ),
            case(
                "ports are added",
                "create s bitmap:port range 0-6000 counters\n",
                "-A FORWARD -j SET --add-set s dst\n-A FORWARD -m set --match-set s dst",
            ),
            case(
                "the first set of a list that takes it",
                "create a hash:ip,port,ip family FAMILY\ncreate b hash:ip family FAMILY counters maxelem 2\n\
                 create c hash:net family FAMILY counters\ncreate s list:set\nadd s a\nadd s b\nadd s c\n",
                "-A FORWARD -p tcp -j SET --add-set s src,dst\n-A FORWARD -m set --match-set s src\n\
                 -A FORWARD -p udp -j SET --del-set s src",
            ),
            case(
                "too few ends change nothing",
                "create s hash:ip,port family FAMILY counters\n",
                "-A FORWARD -j SET --add-set s src",
            ),
            case(
                "elements give marks",
                "create s hash:net family FAMILY skbinfo\nadd s LAN/NET skbmark 0x5/0xff\nadd s SECOND skbmark 0x70\n\
                 add s THIRD nomatch skbmark 0x9\ncreate l list:set skbinfo\nadd l s skbmark 0x600/0xf00\n",
                "-A FORWARD -j MARK --set-mark 0xfff\n-A FORWARD -j SET --map-set s src --map-mark\n\
                 -A FORWARD -m set --match-set s src -m mark --mark 0xf05\n-A FORWARD -m set --match-set s src -m mark --mark 0x70\n\
                 -A FORWARD -p udp -j SET --map-set l src --map-mark --map-prio --map-queue\n\
                 -A FORWARD -m set --match-set s src -m mark --mark 0x605\n\
                 -A FORWARD -m set ! --match-set s src -m mark --mark 0xfff",
            ),
        ]
    })
}

#[test]
fn time_is_over_at_the_same_moment() -> Result<()> {
    run("time", |family| {
        let rules = "-A FORWARD -m set --match-set s src\n-A FORWARD -m set ! --match-set s src";
        let sets = "create s hash:net family FAMILY timeout 1\nadd s FIRST\nadd s LAN/NET timeout 3\nadd s SECOND timeout 0 nomatch\n";
        vec![
            script("elements end", family, sets, rules)
                .wait(1200)
                .lead(traffic(family))
                .wait(2200)
                .lead(traffic(family)),
        ]
    })
}
