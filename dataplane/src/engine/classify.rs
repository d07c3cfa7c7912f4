//! Which rules of a long chain can match this packet at all?
//!
//! A long chain asks each rule only of packets that pass one chosen condition of it, its key: a source or destination
//! network, a set of source or destination ports. Packets look their own values up, one look-up for each kind of key, and
//! get a short list of rules each; these lists, and that of the rules without a key, are merged in the order of the chain.
//!
//! ```text
//!  src ─▶ longest prefix ─▶ class ─┐
//!  dst ─▶ longest prefix ─▶ class ─┤   lists of rule numbers, ascending
//!  sport ─▶ page ─▶ class ─────────┼─▶ merged ─▶ candidates ─▶ `Cond::holds` judges them
//!  dport ─▶ page ─▶ class ─────────┤
//!  rules without a key ────────────┘
//! ```
//!
//! Where none of a packet's values is a key, as is so of most, nothing is merged. Addresses outside of the smallest network around
//! all keys are not even looked up.
//!
//! The index only prunes, and never changes what a walk does: a rule is left out only where its key is a condition that
//! says No, and where every condition before that key can only say Yes or No and has no memory. So a rule that is left out
//! would not have matched, dropped the packet or counted in a `limit`. For ports all this is true of packets that have them;
//! for those without (later fragments, cut headers) the rules keyed by ports are asked one by one, for protocols without
//! ports those of them that do not ask for a protocol with ports.
//!
//! Of a rule's possible keys that is taken which the fewest rules of the chain share, so a thousand rules for one port and
//! a thousand sources are told apart by source. A class lists the rules of all networks around it (or of all ranges that
//! overlap in it); keys so broad that the lists would outgrow the chain many times are not used.

use crate::fib::lpm::{Address, Entry, Lpm};
use arrayvec::ArrayVec;
use std::collections::HashMap;
use std::ops::Range;
use sumun_config::facts::{Facts, Family, proto};
use sumun_config::rule::matches::address::Address as Network;
use sumun_config::rule::matches::multiport::Side;
use sumun_config::rule::matches::ports::{L4, Ports};
use sumun_config::rule::matches::tcp::Tcp;
use sumun_config::rule::{Cond, Match};

/// Shorter chains are walked: an index by ports fills 65,536 classes while it is built, and there are rulesets with thousands
/// of short chains.
pub(super) const WORTHWHILE: usize = 8;

/// Rule numbers in all classes of one kind of key together, at most, for each rule of the chain.
const SPREAD: usize = 16;

/// The index of one chain.
#[derive(Debug)]
pub(super) struct Index {
    /// Rules without a key.
    always: Vec<u32>,
    src: Networks,
    dst: Networks,
    sport: PortSets,
    dport: PortSets,
    /// Class of `dport`: rules keyed by ports, for packets whose ports are not known.
    by_ports: u32,
    /// Class of `dport`: those of them that packets of protocols without ports could match.
    without_ports: u32,
}

/// What a packet's values are to an index: a class of each kind of key.
#[derive(Clone, Copy)]
pub(super) struct Classified {
    src: u32,
    dst: u32,
    sport: u32,
    dport: u32,
}

/// Candidates of one packet, in the order of the chain.
pub(super) struct Candidates<'a> {
    /// None is empty.
    lists: ArrayVec<&'a [u32], 5>,
}

/// A condition that can be a rule's key.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Source(u128, u8),
    Destination(u128, u8),
    SourcePorts(Vec<(u16, u16)>),
    DestinationPorts(Vec<(u16, u16)>),
}

impl Index {
    /// The index of a chain: numbers and conditions of its rules, ascending. None where no rule has a key.
    pub fn build<'a>(family: Family, rules: impl Iterator<Item = (u32, &'a [Cond])>) -> Option<Index> {
        let rules: Vec<(u32, &[Cond])> = rules.collect();
        let keys: Vec<Vec<Key>> = rules.iter().map(|(_, conds)| keys_of(family, conds)).collect();
        let mut shared: HashMap<&Key, u32> = HashMap::new();
        for key in keys.iter().flatten() {
            *shared.entry(key).or_default() += 1;
        }
        let (mut src, mut dst) = (Vec::new(), Vec::new());
        let (mut sport, mut dport) = (Vec::new(), Vec::new());
        let mut always = Vec::new();
        for (&(rule, _), keys) in rules.iter().zip(&keys) {
            let best = keys.iter().min_by_key(|key| (shared[key], key.breadth(family)));
            match best {
                Some(&Key::Source(net, len)) => src.push((net, len, rule)),
                Some(&Key::Destination(net, len)) => dst.push((net, len, rule)),
                Some(Key::SourcePorts(set)) => sport.push((set.clone(), rule)),
                Some(Key::DestinationPorts(set)) => dport.push((set.clone(), rule)),
                None => always.push(rule),
            }
        }
        let most = SPREAD * rules.len();
        let src = Networks::build(family, src, most, &mut always);
        let dst = Networks::build(family, dst, most, &mut always);
        let sport = PortSets::build(sport, most, &mut always);
        let mut dport = PortSets::build(dport, most, &mut always);
        if always.len() == rules.len() {
            return None;
        }
        always.sort_unstable();
        let mut by_ports: Vec<u32> = sport.rules.iter().chain(&dport.rules).copied().collect();
        by_ports.sort_unstable();
        let asks_for_ports = |rule: &u32| {
            let at = rules.partition_point(|(number, _)| number < rule);
            rules[at].1.iter().take_while(|cond| is_quiet(cond)).any(wants_ports)
        };
        let without_ports: Vec<u32> = by_ports.iter().copied().filter(|rule| !asks_for_ports(rule)).collect();
        let [by_ports, without_ports] = [by_ports, without_ports].map(|rules| dport.classes.add(&rules));
        Some(Index { always, src, dst, sport, dport, by_ports, without_ports })
    }

    /// The packet's values looked up.
    #[inline(always)]
    pub fn classify(&self, facts: &Facts) -> Classified {
        let (sport, dport) = match (has_ports(facts.proto), facts.has_l4) {
            (true, true) => (self.sport.class(facts.sport), self.dport.class(facts.dport)),
            (true, false) => (0, self.by_ports),
            (false, _) => (0, self.without_ports),
        };
        Classified { src: self.src.class(facts.src), dst: self.dst.class(facts.dst), sport, dport }
    }

    /// The rules from number `start` on that may match.
    #[inline]
    pub fn candidates(&self, of: Classified, start: u32) -> Candidates<'_> {
        let Classified { src, dst, sport, dport } = of;
        let keyed = [
            self.src.classes.list(src),
            self.dst.classes.list(dst),
            self.sport.classes.list(sport),
            self.dport.classes.list(dport),
        ];
        let lists = [&self.always[..]].into_iter().chain(keyed).map(|list| from(list, start));
        Candidates { lists: lists.filter(|list| !list.is_empty()).collect() }
    }

    /// The same for packets whose values are no rule's key, as those of most are.
    #[inline(always)]
    pub fn without_key(&self, start: u32) -> &[u32] {
        from(&self.always, start)
    }
}

/// The rules of a list from number `start` on.
#[inline(always)]
fn from(list: &[u32], start: u32) -> &[u32] {
    match list.first() {
        Some(first) if *first < start => &list[list.partition_point(|rule| *rule < start)..],
        _ => list,
    }
}

impl Classified {
    /// Whether no rule has one of its values as its key.
    #[inline(always)]
    pub fn is_nothing(self) -> bool {
        self.src | self.dst | self.sport | self.dport == 0
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        // Each rule is in one list only.
        let list = self.lists.iter_mut().min_by_key(|list| list.first().copied())?;
        let least = list.split_off_first().copied();
        if list.is_empty() {
            self.lists.retain(|list| !list.is_empty());
        }
        least
    }
}

impl Key {
    /// How many of 2^16 packets it lets pass if their values are random: to choose among keys, so the scale is rough.
    fn breadth(&self, family: Family) -> u32 {
        match self {
            Key::Source(_, len) | Key::Destination(_, len) => {
                // An IPv6 site has 48 bits and an IPv4 host 32: prefixes of either family are compared by half their length.
                let len = if family == Family::V6 { len / 2 } else { *len };
                1 << 16u8.saturating_sub(len)
            }
            Key::SourcePorts(set) | Key::DestinationPorts(set) => {
                set.iter().map(|(first, last)| u32::from(last - first) + 1).sum()
            }
        }
    }
}

/// Whether a condition says only Yes or No, of packets whose ports are known, and has no memory.
fn is_quiet(cond: &Cond) -> bool {
    match &cond.test {
        Match::Tcp(Tcp::Option(_)) => false,
        Match::Address(_) | Match::Interface(_) | Match::Protocol(_) | Match::Fragment(_) => true,
        Match::Tcp(_) | Match::Udp(_) | Match::Multiport(_) => true,
        Match::Conntrack(_) | Match::State(_) | Match::Mark(_) | Match::Connmark(_) => true,
        _ => false,
    }
}

/// Whether a condition is quiet for every packet, with ports or without.
fn is_always_quiet(cond: &Cond) -> bool {
    is_quiet(cond) && !matches!(cond.test, Match::Tcp(_) | Match::Udp(_) | Match::Multiport(_))
}

/// Whether a condition says No to all protocols without ports.
fn wants_ports(cond: &Cond) -> bool {
    matches!(cond, Cond { negate: false, test: Match::Protocol(protocol), .. } if has_ports(protocol.0))
}

/// Protocols whose ports are facts.
#[inline]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP)
}

/// The conditions of a rule that can be its key.
fn keys_of(family: Family, conds: &[Cond]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut all_quiet = true;
    let mut protocol_first = true;
    for cond in conds.iter().take_while(|cond| is_quiet(cond)) {
        if let Some(key) = key_of(family, cond)
            && (all_quiet || matches!(key, Key::SourcePorts(_) | Key::DestinationPorts(_)))
        {
            keys.push(key);
        }
        all_quiet &= is_always_quiet(cond);
        protocol_first &= all_quiet || !wants_ports(cond);
    }
    if !protocol_first {
        // A rule that asks for ports before it asks for the protocol: `without_ports` would leave it out wrongly.
        keys.retain(|key| matches!(key, Key::Source(..) | Key::Destination(..)));
    }
    keys
}

fn key_of(family: Family, cond: &Cond) -> Option<Key> {
    let set = |ports: &[Ports]| {
        let ranges = ports.iter().map(|p| (p.first, p.last));
        if cond.negate { complement(ranges.collect()) } else { ranges.collect() }
    };
    let (is_source, set) = match &cond.test {
        Match::Address(address) if !cond.negate => {
            let (net, mask) = address.network();
            let len = (family.ones() & mask).count_ones() as u8;
            if len == 0 || family.mask(len) != mask {
                return None;
            }
            return Some(match address {
                Network::Source { .. } => Key::Source(net, len),
                Network::Destination { .. } => Key::Destination(net, len),
            });
        }
        Match::Tcp(Tcp::Source(ports)) => (true, set(&[*ports])),
        Match::Tcp(Tcp::Destination(ports)) => (false, set(&[*ports])),
        Match::Udp(udp) => match udp.0 {
            L4::Header => return None,
            L4::Source(ports) => (true, set(&[ports])),
            L4::Destination(ports) => (false, set(&[ports])),
        },
        Match::Multiport(multiport) => match multiport.side {
            Side::Source => (true, set(&multiport.list)),
            Side::Destination => (false, set(&multiport.list)),
            Side::Either => return None,
        },
        _ => return None,
    };
    Some(if is_source { Key::SourcePorts(set) } else { Key::DestinationPorts(set) })
}

/// All ports that are in none of the ranges.
fn complement(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut rest = Vec::new();
    let mut next = 0u32;
    for (first, last) in ranges {
        if next < u32::from(first) {
            rest.push((next as u16, first - 1));
        }
        next = next.max(u32::from(last) + 1);
    }
    if next <= u32::from(u16::MAX) {
        rest.push((next as u16, u16::MAX));
    }
    rest
}

/// Lists of rules by class; class 0 is empty.
#[derive(Debug)]
struct Classes {
    lists: Vec<u32>,
    /// Of class `n`: from the `n`th to the next.
    bounds: Vec<u32>,
}

impl Classes {
    fn new() -> Classes {
        Classes { lists: Vec::new(), bounds: vec![0, 0] }
    }

    /// Adds the class of these rules.
    fn add(&mut self, rules: &[u32]) -> u32 {
        if rules.is_empty() {
            return 0;
        }
        let start = self.lists.len();
        self.lists.extend_from_slice(rules);
        self.lists[start..].sort_unstable();
        self.bounds.push(self.lists.len() as u32);
        self.bounds.len() as u32 - 2
    }

    #[inline]
    fn list(&self, class: u32) -> &[u32] {
        let class = class as usize;
        &self.lists[self.bounds[class] as usize..self.bounds[class + 1] as usize]
    }
}

/// Rules keyed by a network.
#[derive(Debug)]
struct Networks {
    /// A network around all of them, and its mask; nothing is in it where there are none.
    outer: (u128, u128),
    table: Table,
    classes: Classes,
}

#[derive(Debug)]
enum Table {
    Empty,
    V4(Lpm<u32>),
    V6(Lpm<u128>),
}

impl Networks {
    /// From networks, lengths and rules; rules of networks that are too broad go to `others`.
    fn build(family: Family, rules: Vec<(u128, u8, u32)>, most: usize, others: &mut Vec<u32>) -> Networks {
        let mut groups: HashMap<(u128, u8), Vec<u32>> = HashMap::new();
        for (net, len, rule) in rules {
            groups.entry((net, len)).or_default().push(rule);
        }
        let mut groups: Vec<((u128, u8), Vec<u32>)> = groups.into_iter().collect();
        groups.sort_unstable();
        // The rules of all networks around each one, for the shortest length from which on they are not too many.
        let spread = |shortest: u8| {
            let mut around: Vec<(u128, u8, usize)> = Vec::new();
            let mut total = 0;
            for ((net, len), rules) in groups.iter().filter(|((_, len), _)| *len >= shortest) {
                while around.pop_if(|(outer, len, _)| net & family.mask(*len) != *outer).is_some() {}
                let sum = around.last().map_or(0, |(_, _, sum)| *sum) + rules.len();
                around.push((*net, *len, sum));
                total += sum;
            }
            total
        };
        let shortest = (1..=family.bits()).find(|shortest| spread(*shortest) <= most).unwrap_or(u8::MAX);
        let (kept, broad): (Vec<_>, Vec<_>) = groups.iter().partition(|((_, len), _)| *len >= shortest);
        others.extend(broad.iter().flat_map(|(_, rules)| rules));
        let mut classes = Classes::new();
        let mut around: Vec<(u128, u8, Vec<u32>)> = Vec::new();
        let mut found = Vec::new();
        for ((net, len), rules) in kept {
            while around.pop_if(|(outer, len, _)| net & family.mask(*len) != *outer).is_some() {}
            let mut all = around.last().map_or(Vec::new(), |(_, _, rules)| rules.clone());
            all.extend(rules);
            found.push((*net, *len, classes.add(&all)));
            around.push((*net, *len, all));
        }
        let outer = outer(family, found.iter().map(|(net, len, _)| (*net, *len)));
        let table = match family {
            _ if found.is_empty() => Table::Empty,
            Family::V4 => Table::V4(table(found)),
            Family::V6 => Table::V6(table(found)),
        };
        Networks { outer, table, classes }
    }

    #[inline(always)]
    fn class(&self, addr: u128) -> u32 {
        let (net, mask) = self.outer;
        if addr & mask == net { self.class_within(addr) } else { 0 }
    }

    #[inline(never)]
    fn class_within(&self, addr: u128) -> u32 {
        match &self.table {
            Table::Empty => 0,
            Table::V4(lpm) => lpm.lookup(addr as u32),
            Table::V6(lpm) => lpm.lookup(addr),
        }
    }
}

/// The smallest network around these, and its mask. Where there are none, no address is in it.
fn outer(family: Family, networks: impl Iterator<Item = (u128, u8)>) -> (u128, u128) {
    let common = networks.reduce(|(net, len), (other, others)| {
        let differs = family.bits() - (u128::BITS - (net ^ other).leading_zeros()) as u8;
        (net, len.min(others).min(differs))
    });
    common.map_or((1, 0), |(net, len)| (net & family.mask(len), family.mask(len)))
}

fn table<A: Address>(networks: Vec<(u128, u8, u32)>) -> Lpm<A> {
    let mut entries: Vec<Entry<A>> =
        networks.into_iter().map(|(net, len, value)| Entry { key: A::of(net), len, value }).collect();
    entries.sort_unstable();
    Lpm::build(&entries)
}

/// Ports of a page.
const PAGE: usize = 256;

/// Rules keyed by sets of ports.
#[derive(Debug)]
struct PortSets {
    /// By the port's high byte; equal pages are one.
    roots: Vec<u16>,
    /// Classes, by page and the port's low byte.
    pages: Vec<u32>,
    classes: Classes,
    /// All rules that are in.
    rules: Vec<u32>,
}

impl PortSets {
    /// From sets and rules; rules of sets that are too broad go to `others`.
    fn build(mut rules: Vec<(Vec<(u16, u16)>, u32)>, most: usize, others: &mut Vec<u32>) -> PortSets {
        let width = |set: &[(u16, u16)]| set.iter().map(|(first, last)| usize::from(last - first) + 1).sum::<usize>();
        rules.sort_by_cached_key(|(set, rule)| (width(set), *rule));
        let mut intervals = intervals(&rules);
        while total(&rules, &intervals) > most {
            let broad = rules.split_off(rules.len() - rules.len().div_ceil(4));
            others.extend(broad.into_iter().map(|(_, rule)| rule));
            intervals = self::intervals(&rules);
        }
        let mut classes = Classes::new();
        if rules.is_empty() {
            return PortSets { roots: Vec::new(), pages: Vec::new(), classes, rules: Vec::new() };
        }
        let mut ports = vec![0u32; 1 << 16];
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        let mut within: Vec<Vec<u32>> = vec![Vec::new(); intervals.len()];
        for (set, rule) in &rules {
            for interval in set.iter().flat_map(|range| covered(&intervals, *range)) {
                // The ranges of one set may overlap.
                if within[interval].last() != Some(rule) {
                    within[interval].push(*rule);
                }
            }
        }
        for (i, rules) in within.iter().enumerate().filter(|(_, rules)| !rules.is_empty()) {
            let class = *known.entry(rules.clone()).or_insert_with(|| classes.add(rules));
            let end = intervals.get(i + 1).map_or(1 << 16, |next| *next as usize);
            ports[intervals[i] as usize..end].fill(class);
        }
        let (mut roots, mut pages) = (Vec::new(), Vec::new());
        let mut numbers: HashMap<&[u32], u16> = HashMap::new();
        for page in ports.chunks(PAGE) {
            let next = numbers.len() as u16;
            roots.push(*numbers.entry(page).or_insert_with(|| {
                pages.extend_from_slice(page);
                next
            }));
        }
        PortSets { roots, pages, classes, rules: rules.into_iter().map(|(_, rule)| rule).collect() }
    }

    #[inline(always)]
    fn class(&self, port: u16) -> u32 {
        let Some(page) = self.roots.get(usize::from(port >> 8)) else { return 0 };
        self.pages[usize::from(*page) * PAGE + usize::from(port & 0xff)]
    }
}

/// Where runs of ports begin that the same sets contain.
fn intervals(rules: &[(Vec<(u16, u16)>, u32)]) -> Vec<u32> {
    let mut starts = vec![0];
    for (first, last) in rules.iter().flat_map(|(set, _)| set) {
        starts.extend([u32::from(*first), u32::from(*last) + 1]);
    }
    starts.retain(|start| *start <= u32::from(u16::MAX));
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// The intervals of a range.
fn covered(intervals: &[u32], (first, last): (u16, u16)) -> Range<usize> {
    let at = |port: u32| intervals.partition_point(|start| *start < port);
    at(first.into())..at(u32::from(last) + 1)
}

/// How many rules all intervals have together.
fn total(rules: &[(Vec<(u16, u16)>, u32)], intervals: &[u32]) -> usize {
    rules.iter().flat_map(|(set, _)| set).map(|range| covered(intervals, *range).len()).sum()
}
