//! What counts as equal.
//!
//! Frames are equal byte by byte, but for what is random by design:
//!
//! | differs | reason |
//! |---|---|
//! | IPv4 id of packets that the router makes itself | the kernel draws it; Sumun too |
//! | source port or ICMP id that NAT chose by search | both draw where to start; each answers to its own |
//!
//! Time left of flows may differ by [`SLACK`] seconds.

use super::wire::{ETHERNET, family};
use std::collections::BTreeMap;
use sumun_config::facts::{Family, PortId, proto};
use sumun_dataplane::packet::checksum::Sum;
use sumun_dataplane::packet::parse;

/// Seconds by which the time left of a flow may differ.
const SLACK: i64 = 2;

/// Ports that NAT chose: by protocol and peer, the engine's choice to the kernel's.
#[derive(Default)]
pub struct Choices(BTreeMap<(u8, u128, u16, u16), u16>);

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
        mask_id(input, &mut kernel);
        mask_id(input, &mut engine);
        if kernel == engine {
            return true;
        }
        self.mask_choice(&mut kernel, &mut engine);
        kernel == engine
    }

    /// Takes away the port that NAT chose, here and in what an error quotes, if it is the same choice as before.
    fn mask_choice(&mut self, kernel: &mut [u8], engine: &mut [u8]) {
        let at = ETHERNET;
        self.mask_packet(kernel, engine, at);
    }

    fn mask_packet(&mut self, kernel: &mut [u8], engine: &mut [u8], at: usize) {
        let fam = family(&kernel[at..]);
        let (Ok(k), Ok(e)) = (parse::ip(fam, &kernel[at..]), parse::ip(fam, &engine[at..])) else { return };
        if !parse::l4_checksum_ok(&k, &kernel[at..]) || !parse::l4_checksum_ok(&e, &engine[at..]) {
            return;
        }
        if k.proto != e.proto || k.src != e.src || k.dst != e.dst || !k.has_l4 || !e.has_l4 {
            return;
        }
        let l4 = at + usize::from(k.l4_off);
        let same = |choices: &mut BTreeMap<_, _>, peer: u128, port: u16, ours: u16, theirs: u16| {
            *choices.entry((k.proto, peer, port, ours)).or_insert(theirs) == theirs
        };
        let sum = match k.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => return,
        };
        if k.dport == e.dport && k.sport != e.sport && same(&mut self.0, k.dst, k.dport, e.sport, k.sport) {
            for side in [kernel, engine] {
                side[l4..l4 + 2].fill(0);
                side[l4 + sum..l4 + sum + 2].fill(0);
            }
        }
    }

    /// The flow tables' differences, as lines `-` of the kernel and `+` of the engine.
    pub fn flows(&self, kernel: &str, engine: &str) -> Vec<String> {
        let kernel: BTreeMap<String, i64> = kernel.lines().filter_map(|line| flow(line, None)).collect();
        let engine: BTreeMap<String, i64> = engine.lines().filter_map(|line| flow(line, Some(self))).collect();
        let mut differences = Vec::new();
        for (flow, left) in &kernel {
            match engine.get(flow) {
                None => differences.push(format!("- {left} {flow}")),
                Some(ours) if (ours - left).abs() > SLACK => differences.push(format!("~ {left} not {ours}: {flow}")),
                Some(_) => {}
            }
        }
        differences
            .extend(engine.iter().filter(|(f, _)| !kernel.contains_key(*f)).map(|(f, left)| format!("+ {left} {f}")));
        differences
    }
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
    /// Writes the kernel's choice for the engine's into the reply direction of a listed flow.
    fn rename(&self, words: &mut [String]) {
        let Some(protocol) = words.get(1).and_then(|w| w.parse().ok()) else { return };
        let Some(reply) = words.iter().enumerate().filter(|(_, w)| w.starts_with("src=")).map(|(i, _)| i).nth(1) else {
            return;
        };
        let value = |at: usize, name: &str| words.get(at).and_then(|w| w.strip_prefix(name)).map(str::to_string);
        let (Some(src), Some(sport), Some(dport)) =
            (value(reply, "src="), value(reply + 2, "sport="), value(reply + 3, "dport="))
        else {
            return;
        };
        let (Ok(sport), Ok(dport)) = (sport.parse(), dport.parse()) else { return };
        if let Some(theirs) = self.0.get(&(protocol, super::net::address(&src), sport, dport)) {
            words[reply + 3] = format!("dport={theirs}");
        }
    }
}

/// Takes away the id of an IPv4 packet that the router made, where the header's checksum is right.
fn mask_id(input: &[u8], frame: &mut [u8]) {
    let Some(l3) = frame.get_mut(ETHERNET..).filter(|l3| l3.len() >= 20 && l3[0] >> 4 == 4) else { return };
    let header = usize::from(l3[0] & 15) * 4;
    let own = input.len() < ETHERNET + 6 || input[ETHERNET + 4..ETHERNET + 6] != l3[4..6] || l3[9] == proto::ICMP;
    if own && header <= l3.len() && Sum::new().bytes(&l3[..header]).checksum() == 0 {
        l3[4..6].fill(0);
        l3[10..12].fill(0);
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
        } else if matches!(table, "raw" | "mangle" | "nat" | "filter") {
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

/// Whether the kernel sent a redirect, which Sumun never does.
pub fn is_redirect(frame: &[u8]) -> bool {
    frame
        .get(ETHERNET..)
        .is_some_and(|l3| family(l3) == Family::V6 && l3.len() > 40 && l3[6] == proto::ICMPV6 && l3[40] == 137)
}
