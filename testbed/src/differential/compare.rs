//! What counts as equal.
//!
//! Frames are equal byte by byte, but for what is random by design:
//!
//! | differs | reason |
//! |---|---|
//! | IPv4 id of packets that the router makes itself | both draw it |
//! | source port or ICMP id that NAT chose by search | both draw where to start; the same choice must be kept, and is answered to on each side |
//! | id of IPv6 fragments | both draw it |
//!
//! Time left of flows may differ by [`SLACK`] seconds. What the traffic leaves out, since Sumun is known to differ:
//!
//! | left out | the kernel | Sumun |
//! |---|---|---|
//! | IPv4 fragments to the router that stay in pieces | are answered half a minute later | too, but a case is shorter |
//! | record route and time stamp options | are filled in, and come back in errors | pass untouched |
//! | IPv6 jumbograms, unknown destination options that want an error, damaged extension headers | parameter problem | silence |
//! | what the router sends to itself (REJECT in OUTPUT of its own packets, its address as a source) | comes in again on lo | is dropped |
//! | a broadcast address as a source | is answered by broadcast | is not answered |
//! | subnet-router anycast addresses | answer with errors too | answer only echo |
//! | `unreachable` and `prohibit` routes of IPv4 | say so at most once a second and host (error_cost) | as often as icmp_ratelimit lets it |
//! | path MTUs that errors about the router's own packets tell | are learned, TCPMSS asks for them; here they are forgotten at once | are not |
//! | source ports below 1024 under rules with a range of such ports | NAT that finds one taken draws another, of the range or not | draws too |
//! | copies by TEE of what is to the router whose way OUTPUT changes | come in again on lo | are dropped |
//! | pings to many of IPv6 whose source INPUT changes, or is not of that link | are answered on their link by whatever route it has | only where the best route leads there |
//! | large pings to the router whose source INPUT changes | are cut for the way that is first found | for the way that they go |
//! | neighbour solicitations whose source SNPT changes in INPUT | are answered once that source is resolved | at once |
//! | errors about large copies by TEE whose source SNPT changes | come from an address of the link that the packet itself leaves by | come from one of the copy's own way |
//! | SNPT and DNPT of packets with another prefix | damage checksums; who notices depends on what was verified before | damage them too, whoever looks notices |
//! | copies by TEE of IPv6 packets to many | come in again, as what the router sends to groups that it is in | do not |
//! | frames to a group's MAC that DNAT leads on, with a rule of `cluster` | are forwarded once the rule has been asked for them | are, whether it was or not |
//! | connlimit of packets in one tick (4 ms) | counts their flow once for each | counts it once |
//! | DCCP | has its checksum damaged by NAT | has it kept right |
//! | PIM to the router | is swallowed by the kernel's multicast routing | is an unknown protocol |
//! | TOS, DSCP and HL in PREROUTING and INPUT of IPv6 | makes local sockets take packets for damaged (CHECKSUM_COMPLETE) | does not |

use super::wire::{ACK, ETHERNET, SYN, family};
use std::collections::BTreeMap;
use std::time::Duration;
use sumun_config::facts::{Family, PortId, proto};
use sumun_dataplane::packet::checksum::Sum;
use sumun_dataplane::packet::parse;

/// Seconds by which the time left of a flow may differ.
const SLACK: i64 = 2;

/// A port that the engine chose: protocol, peer's address and port, and the address that it is a port of. The kernel's is told
/// beside it.
type Choice = (u8, u128, u16, u128, u16);

/// What NAT chose by chance on either side.
#[derive(Default)]
pub struct Choices {
    ports: BTreeMap<Choice, u16>,
    /// The addresses and ports of what came in, of the TCP connection that a choice was last made for.
    begun: BTreeMap<Choice, (u128, u16, u128, u16)>,
    /// A flow to a port that was chosen was given another: the flow tables are not compared then.
    twice: bool,
}

impl Choices {
    /// Whether what came out of both is equal. `input` is what went into the engine.
    pub fn equal(&mut self, input: &[u8], kernel: &[(PortId, Vec<u8>)], engine: &[(PortId, Vec<u8>)]) -> bool {
        if kernel.len() != engine.len() {
            return false;
        }
        let by_port = |side: &[(PortId, Vec<u8>)]| {
            let mut side = side.to_vec();
            side.sort_by_key(|(port, _)| *port);
            side
        };
        by_port(kernel)
            .iter()
            .zip(&by_port(engine))
            .all(|(k, e)| k.0 == e.0 && (k.1 == e.1 || self.is_same(input, &k.1, &e.1)))
    }

    fn is_same(&mut self, input: &[u8], kernel: &[u8], engine: &[u8]) -> bool {
        if kernel.len() != engine.len() {
            return false;
        }
        let (mut kernel, mut engine) = (kernel.to_vec(), engine.to_vec());
        // Ids last: without them the header's checksum no longer holds.
        self.forget_choice(input, &kernel, &engine);
        self.mask_choice(&mut kernel, &mut engine);
        for frame in [&mut kernel, &mut engine] {
            mask_id(input, frame);
            mask_fragment_id(frame);
            self.mask_cut_ping(frame);
        }
        kernel == engine
    }

    /// Takes away the checksum of a ping that an error quotes, where the quote ends before the identifier that NAT chose for it.
    fn mask_cut_ping(&self, frame: &mut [u8]) {
        let Some(l3) = frame.get_mut(ETHERNET..).filter(|l3| l3.len() >= 52) else { return };
        // Where the quote begins, how long its header is, and where that tells the protocol.
        let (icmp, quote, header, at) = match family(l3) {
            Family::V4 => (proto::ICMP, usize::from(l3[0] & 15) * 4 + 8, 20, 9),
            Family::V6 => (proto::ICMPV6, 48, 40, 6),
        };
        let is_cut = (4..8).contains(&l3.len().saturating_sub(quote + header));
        let is_of_ping =
            |l3: &[u8]| l3[at] == icmp && l3[quote + at] == icmp && matches!(l3[quote], 0x45 | 0x60..=0x6f);
        if is_cut && is_of_ping(l3) && self.ports.keys().any(|key| key.0 == icmp) {
            l3[quote - 6..quote - 4].fill(0);
            l3[quote + header + 2..quote + header + 4].fill(0);
        }
    }

    /// Forgets the choice for a flow that is gone, where another one that begins has got the same port.
    fn forget_choice(&mut self, input: &[u8], kernel: &[u8], engine: &[u8]) {
        let parse = |frame: &[u8]| {
            let l3 = frame.get(ETHERNET..)?;
            let f = parse::ip(family(l3), l3).ok().filter(|f| f.has_l4 && f.proto == proto::TCP)?;
            Some((f.src, f.sport, f.dst, f.dport)).filter(|_| f.tcp_flags & (SYN | ACK) == SYN)
        };
        let (Some(from), Some(_), Some((own, sport, peer, dport))) = (parse(input), parse(kernel), parse(engine))
        else {
            return;
        };
        let choice = (proto::TCP, peer, dport, own, sport);
        if self.begun.insert(choice, from).is_some_and(|before| before != from) {
            self.ports.remove(&choice);
        }
    }

    /// Takes away the port that NAT chose, here and in what an error quotes, if it is the same choice as before.
    fn mask_choice(&mut self, kernel: &mut [u8], engine: &mut [u8]) {
        self.mask_packet(kernel, engine, ETHERNET, false);
    }

    fn mask_packet(&mut self, kernel: &mut [u8], engine: &mut [u8], at: usize, is_quoted: bool) {
        let fam = family(&kernel[at..]);
        let parse = |frame: &[u8]| match is_quoted {
            true => parse::embedded(fam, &frame[at..]),
            false => parse::ip(fam, &frame[at..]).ok().filter(|f| parse::l4_checksum_ok(f, &frame[at..])),
        };
        let (Some(k), Some(e)) = (parse(kernel), parse(engine)) else { return };
        if k.proto != e.proto || k.src != e.src || k.dst != e.dst || !k.has_l4 || !e.has_l4 {
            return;
        }
        let l4 = at + usize::from(k.l4_off);
        let same = |choices: &mut BTreeMap<Choice, u16>, peer: (u128, u16), own: u128, ours: u16, theirs: u16| {
            *choices.entry((k.proto, peer.0, peer.1, own, ours)).or_insert(theirs) == theirs
        };
        let is_error = matches!((k.proto, kernel[l4]), (proto::ICMP, 3..=5 | 11 | 12) | (proto::ICMPV6, 1..=4));
        if is_error && !is_quoted && kernel.len() > l4 + 28 {
            self.mask_packet(kernel, engine, l4 + 8, true);
            for side in [kernel, engine] {
                side[l4 + 2..l4 + 4].fill(0);
            }
            return;
        }
        // Where the choice and the checksum are.
        let (choice, sum) = match k.proto {
            proto::TCP => (0, 16..18),
            proto::UDP | proto::UDPLITE => (0, 6..8),
            proto::SCTP => (0, 8..12),
            proto::ICMP | proto::ICMPV6 => (4, 2..4),
            _ => return,
        };
        let chosen = match (k.sport == e.sport, k.dport == e.dport) {
            (false, true) => {
                let peer = (k.dst, peer_port(k.proto, k.dport));
                same(&mut self.ports, peer, k.src, e.sport, k.sport).then_some(choice)
            }
            // What goes to the chosen port: its flow was kept from conntrack on this way.
            (true, false) if choice == 0 => {
                same(&mut self.ports, (k.src, k.sport), k.dst, e.dport, k.dport).then_some(2)
            }
            // The same, and as a flow of its own it was given another port.
            (false, false)
                if choice == 0
                    && self.ports.iter().any(|(key, port)| (key.3, key.4, *port) == (e.dst, e.dport, k.dport)) =>
            {
                self.twice = true;
                for side in [&mut *kernel, &mut *engine] {
                    side[l4 + 2..l4 + 4].fill(0);
                }
                Some(0)
            }
            _ => None,
        };
        if let Some(choice) = chosen {
            for side in [kernel, engine] {
                for field in [choice..choice + 2, sum.clone()] {
                    // A quote may end before its checksum.
                    if let Some(field) = side.get_mut(l4 + field.start..l4 + field.end) {
                        field.fill(0);
                    }
                }
            }
        }
    }

    /// The flow tables' differences, as lines `-` of the kernel and `+` of the engine. The kernel's was listed within `late`
    /// after the engine's.
    pub fn flows(&self, kernel: &str, engine: &str, late: Duration) -> Vec<String> {
        // Seconds are told without their fractions.
        let late = late.as_secs() as i64;
        if self.twice {
            return Vec::new();
        }
        let kernel: BTreeMap<String, i64> = kernel.lines().filter_map(|line| flow(line, None)).collect();
        let engine: BTreeMap<String, i64> = engine.lines().filter_map(|line| flow(line, Some(self))).collect();
        let mut differences = Vec::new();
        // A choice that never showed on the wire is paired with the other side's.
        let unseen = |flow: &String, other: &BTreeMap<String, i64>, own: &BTreeMap<String, i64>| {
            let plain = without_choice(flow);
            other.keys().any(|o| !own.contains_key(o) && without_choice(o) == plain)
        };
        for (flow, left) in &kernel {
            match engine.get(flow) {
                None if unseen(flow, &engine, &kernel) => {}
                None => differences.push(format!("- {left} {flow}")),
                Some(ours) if !(-SLACK..=SLACK + late).contains(&(ours - left)) => {
                    differences.push(format!("~ {left} not {ours}: {flow}"))
                }
                Some(_) => {}
            }
        }
        differences.extend(
            engine
                .iter()
                .filter(|(f, left)| {
                    (late == 0 || **left > late) && !kernel.contains_key(*f) && !unseen(f, &kernel, &engine)
                })
                .map(|(f, left)| format!("+ {left} {f}")),
        );
        differences
    }
}

/// A listed flow without the port or id that answers come to.
fn without_choice(flow: &str) -> String {
    let mut words: Vec<&str> = flow.split(' ').collect();
    if let Some(at) = words.iter().rposition(|w| w.starts_with("dport=") || w.starts_with("id=")) {
        words.remove(at);
    }
    words.join(" ")
}

/// A line of `conntrack -L` without what says nothing, and the seconds left.
fn flow(line: &str, choices: Option<&Choices>) -> Option<(String, i64)> {
    let mut words: Vec<String> = line.split_whitespace().map(String::from).collect();
    let left = words.get(2)?.parse().ok()?;
    words.remove(2);
    words.retain(|w| !w.starts_with("use="));
    if let Some(choices) = choices {
        choices.rename(&mut words);
    }
    Some((words.join(" "), left))
}

impl Choices {
    /// Writes the kernel's choices for the engine's into a listed flow: into the direction of its answers as a rule, and into
    /// both where it was begun towards a port that NAT chose for another.
    fn rename(&self, words: &mut [String]) {
        let Some(protocol) = words.get(1).and_then(|w| w.parse().ok()) else { return };
        let sides: Vec<usize> =
            words.iter().enumerate().filter(|(_, w)| w.starts_with("src=")).map(|(at, _)| at).collect();
        for side in sides {
            let value = |at: usize, name: &str| words.get(side + at).and_then(|w| w.strip_prefix(name));
            let number = |at: usize, name: &str| value(at, name).and_then(|text| text.parse().ok());
            let (Some(src), Some(dst)) = (value(0, "src="), value(1, "dst=")) else { continue };
            let [src, dst] = [src, dst].map(super::net::address);
            let renamed = match (number(2, "sport="), number(3, "dport="), number(4, "id=")) {
                (Some(sport), Some(dport), _) => {
                    let to = self
                        .ports
                        .get(&(protocol, src, sport, dst, dport))
                        .map(|theirs| (3, format!("dport={theirs}")));
                    to.or_else(|| {
                        self.ports.get(&(protocol, dst, dport, src, sport)).map(|theirs| (2, format!("sport={theirs}")))
                    })
                }
                (_, _, Some(id)) => {
                    self.ports.get(&(protocol, src, 0, dst, id)).map(|theirs| (4, format!("id={theirs}")))
                }
                _ => None,
            };
            if let Some((at, word)) = renamed {
                words[side + at] = word;
            }
        }
    }
}

/// The peer's port; type and code of ICMP are none.
fn peer_port(protocol: u8, dport: u16) -> u16 {
    if matches!(protocol, proto::ICMP | proto::ICMPV6) { 0 } else { dport }
}

/// Takes away the id of an IPv4 packet that the router made, where the header's checksum is right, and of one that is quoted.
fn mask_id(input: &[u8], frame: &mut [u8]) {
    let Some(l3) = frame.get_mut(ETHERNET..).filter(|l3| l3.len() >= 20 && l3[0] >> 4 == 4) else { return };
    let header = usize::from(l3[0] & 15) * 4;
    let own = input.len() < ETHERNET + 6 || input[ETHERNET + 4..ETHERNET + 6] != l3[4..6] || l3[9] == proto::ICMP;
    // An error that quotes what the router said: the id and the checksum over it make up for each other.
    let quote = header + 8;
    if l3[9] == proto::ICMP && l3.len() >= quote + 20 && l3[quote] >> 4 == 4 && l3[quote + 9] == proto::ICMP {
        l3[quote + 4..quote + 6].fill(0);
        l3[quote + 10..quote + 12].fill(0);
    }
    if own && header <= l3.len() && Sum::new().bytes(&l3[..header]).checksum() == 0 {
        l3[4..6].fill(0);
        l3[10..12].fill(0);
    }
}

/// Takes away the id of an IPv6 fragment, and of one that an error quotes.
fn mask_fragment_id(frame: &mut [u8]) {
    const FRAGMENT: u8 = 44;
    const QUOTE: usize = 48;
    let Some(l3) = frame.get_mut(ETHERNET..).filter(|l3| l3.len() >= QUOTE && l3[0] >> 4 == 6) else { return };
    match l3[6] {
        FRAGMENT => l3[44..48].fill(0),
        proto::ICMPV6 if l3[40] < 128 && l3.len() >= QUOTE + 48 && l3[QUOTE + 6] == FRAGMENT => {
            l3[QUOTE + 44..QUOTE + 48].fill(0);
            l3[42..44].fill(0);
        }
        _ => {}
    }
}

/// Lines of two rulesets with counters that differ.
pub fn rules(kernel: &str, engine: &str) -> Vec<String> {
    let (kernel, engine) = (sections(kernel), sections(engine));
    let mut differences = Vec::new();
    for (chain, lines) in &kernel {
        let none = Vec::new();
        let ours = engine.get(chain).unwrap_or(&none);
        for i in 0..lines.len().max(ours.len()) {
            let (k, e) = (lines.get(i), ours.get(i));
            if k != e {
                differences.extend(k.map(|k| format!("- {chain}: {k}")));
                differences.extend(e.map(|e| format!("+ {chain}: {e}")));
            }
        }
    }
    differences
}

/// The lines of each chain, by table and chain.
fn sections(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else {
            let mut words = line.split(' ');
            let chain = match words.next() {
                Some(first) if first.starts_with(':') => &first[1..],
                Some(first) if first.starts_with('[') => words.nth(1).unwrap_or_default(),
                _ => continue,
            };
            sections.entry(format!("{table} {chain}")).or_default().push(line.to_string());
        }
    }
    sections
}

/// What only one of two listings of sets has, of elements as of headers.
pub fn sets(kernel: &str, engine: &str) -> Vec<String> {
    let (kernel, engine) = (listed(kernel), listed(engine));
    only("-", &kernel, &engine).chain(only("+", &engine, &kernel)).collect()
}

/// Lines that another list does not have, with a sign.
pub fn only<'a>(sign: &'a str, of: &'a [String], other: &'a [String]) -> impl Iterator<Item = String> + 'a {
    of.iter().filter(|line| !other.contains(line)).map(move |line| format!("{sign} {line}"))
}

/// Sets without what differs by nature: the order of elements, the seed of a hash, and the second that has just begun.
fn listed(sets: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in sets.lines() {
        let mut words = line.split(' ').peekable();
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            kept.push(word.to_string());
            let value = |words: &mut std::iter::Peekable<std::str::Split<char>>| words.next().unwrap_or("").to_string();
            match word {
                "initval" => {
                    kept.pop();
                    value(&mut words);
                }
                "timeout" if line.starts_with("add") => {
                    let running = value(&mut words) != "0";
                    kept.push(if running { "running" } else { "0" }.to_string());
                }
                _ => {}
            }
        }
        lines.push(kept.join(" "));
    }
    // Members of lists keep their order.
    let lists: Vec<String> =
        lines.iter().filter_map(|l| Some(l.strip_prefix("create ")?.split_once(" list:set")?.0.into())).collect();
    let of_list = |line: &String| lists.iter().any(|list| line.starts_with(&format!("add {list} ")));
    let (lists, mut others): (Vec<String>, Vec<String>) = lines.into_iter().partition(of_list);
    others.sort();
    let lists = lists.into_iter().enumerate().map(|(at, line)| format!("{at}: {line}"));
    others.into_iter().chain(lists).collect()
}

/// Whether a frame tells of a path's MTU.
pub fn tells_path_mtu(frame: &[u8]) -> bool {
    frame.get(ETHERNET..).is_some_and(|l3| {
        let at = usize::from(l3.first().map_or(0, |b| b & 15)) * 4;
        match family(l3) {
            Family::V4 => l3.get(9) == Some(&proto::ICMP) && l3.get(at..at + 2) == Some(&[3, 4]),
            Family::V6 => l3.get(6) == Some(&proto::ICMPV6) && l3.get(40) == Some(&2),
        }
    })
}
