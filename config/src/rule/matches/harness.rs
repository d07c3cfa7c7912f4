//! For tests of matches: rule text to conditions, and a judge that asks them about packets.

use super::nfacct::Standing;
use super::osf::Fingerprint;
use super::rateest::Rate;
use super::{Asks, EXTENSIONS, Match};
use crate::facts::{
    AddrType, ConnectionKey, Context, Dir, Ends, Facts, Family, FlowFacts, PortId, Socket, Surroundings, WayBack,
};
use crate::helper::Helper;
use crate::rule::option::{Case, Complaint};
use crate::rule::{self, Cond, Families, Hook, Outcome, Reach, Rule, Site, Table, parse_text, targets};
use crate::set::ask::{Asked, Named};
use crate::set::{SkbInfo, samples};
use proptest::prelude::any;
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU64;

/// The conditions of a rule in a user chain of `mangle` that these hooks lead to.
pub fn parse_at(family: Family, hooks: u8, text: &str) -> Result<Vec<Cond>, Complaint> {
    let ports = ["lan0", "lan1", "wan0", "eth0"].map(String::from);
    let site = Site {
        families: Families::Only(family),
        table: Table::Mangle,
        reach: Reach::User(hooks),
        ports: &ports,
        names: samples::names(),
        base: 0,
        line: 0,
    };
    match parse_text(text, &site) {
        Ok(parsed) => Ok(parsed.bodies.into_iter().next().expect("a rule of the family").rule.conds),
        Err(complaints) => Err(complaints.into_iter().next().expect("a complaint")),
    }
}

/// The same in a chain of any hook.
pub fn parse(family: Family, text: &str) -> Result<Vec<Cond>, Complaint> {
    parse_at(family, 0, text)
}

/// Conditions back to text.
pub fn print(family: Family, conds: Vec<Cond>) -> String {
    rule::print(&Rule { conds, target: None, line: 0 }, family, |_| "")
}

/// Some conditions, their memory and the router around them.
pub struct Judge {
    pub conds: Vec<Cond>,
    cells: Vec<AtomicU64>,
    /// The clock.
    pub now: Cell<u64>,
    /// The clock on the wall.
    pub wall: Cell<u64>,
    /// What the next random number is.
    pub random: Cell<u32>,
    /// What an address is.
    pub addr_type: fn(u128, PortId) -> AddrType,
    /// The flow of packets that have one.
    pub flow: SampleFlow,
    /// Connections under any key.
    pub connections: Cell<Option<u32>>,
    /// The core.
    pub core: u32,
    /// The realms of the packet's route.
    pub realms: u32,
    /// Whether there is such a way back.
    pub way_back: fn(&Facts, WayBack) -> bool,
    /// What estimators say.
    pub rates: [Rate; 2],
    /// Who sent the packet.
    pub socket: Socket<'static>,
    /// Whether packets are in any set, and what they are given there.
    pub in_set: Cell<Option<SkbInfo>>,
    /// Of operating systems.
    pub fingerprints: Vec<Fingerprint>,
    /// What was logged.
    pub notes: RefCell<String>,
    /// How the quota of any account stands.
    pub standing: Standing,
}

/// A flow that is as the test says.
#[derive(Default)]
pub struct SampleFlow {
    /// By direction.
    pub ends: [Ends; 2],
    /// Packets and bytes, by direction.
    pub counters: [(u64, u64); 2],
    /// Milliseconds.
    pub left: u32,
    /// By bit.
    pub labels: Cell<u128>,
    /// Of its master.
    pub helper: Option<Helper>,
}

impl FlowFacts for SampleFlow {
    fn ends(&self, dir: Dir) -> Ends {
        self.ends[dir as usize]
    }
    fn counters(&self, dir: Dir) -> Option<(u64, u64)> {
        Some(self.counters[dir as usize])
    }
    fn left(&self) -> u32 {
        self.left
    }
    fn has_label(&self, bit: u8) -> bool {
        self.labels.get() >> bit & 1 != 0
    }
    fn set_label(&self, bit: u8) -> bool {
        self.labels.set(self.labels.get() | 1 << bit);
        true
    }
    fn master_helper(&self) -> Option<Helper> {
        self.helper
    }
}

impl Judge {
    /// Of these conditions.
    pub fn new(family: Family, text: &str) -> Judge {
        let mut conds = parse(family, text).unwrap_or_else(|c| panic!("{text}: {} ({:?})", c.what, c.accepts));
        let mut cells = Vec::new();
        for cond in &mut conds {
            cond.test.set_objects(&[0, 1]);
            if let Some(cell) = cond.test.cells() {
                *cell = cells.len() as u32;
                cells.push(AtomicU64::new(0));
            }
        }
        Judge {
            conds,
            cells,
            now: Cell::new(0),
            wall: Cell::new(0),
            random: Cell::new(0),
            addr_type: |_, _| AddrType::Unicast,
            flow: SampleFlow::default(),
            connections: Cell::new(None),
            core: 0,
            realms: 0,
            way_back: |_, _| true,
            rates: [Rate::default(); 2],
            socket: Socket::None,
            in_set: Cell::new(None),
            fingerprints: Vec::new(),
            notes: RefCell::default(),
            standing: Standing::NoQuota,
        }
    }

    /// What they say together of a packet.
    pub fn ask(&self, facts: &Facts, l3: &[u8]) -> Outcome {
        let cx = Context { l3, now: self.now.get(), wall: self.wall.get(), around: self, cells: &self.cells };
        for cond in &self.conds {
            match cond.holds(facts, &cx) {
                Outcome::Yes => {}
                other => return other,
            }
        }
        Outcome::Yes
    }
}

impl Surroundings for Judge {
    fn rate(&self, estimator: u32, _: u64) -> Rate {
        self.rates[estimator as usize]
    }
    fn addr_type(&self, _: Family, addr: u128, port: PortId) -> AddrType {
        (self.addr_type)(addr, port)
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn path_mtu(&self, _: &Facts, _: bool) -> u16 {
        1500
    }
    fn port_address(&self, _: PortId, _: Family, _: u128) -> Option<u128> {
        None
    }
    fn flow(&self) -> Option<&dyn FlowFacts> {
        Some(&self.flow)
    }
    fn core(&self) -> u32 {
        self.core
    }
    fn group(&self, port: PortId) -> u32 {
        // Ports 0, 1, 2 are of the groups 0x10, 0x11, 0x12.
        port.index().map_or(0, |i| 0x10 + i as u32)
    }
    fn realms(&self) -> u32 {
        self.realms
    }
    fn has_way_back(&self, facts: &Facts, wanted: WayBack) -> bool {
        (self.way_back)(facts, wanted)
    }
    fn socket(&self) -> Socket<'_> {
        self.socket
    }
    fn in_set(&self, _: &Named, _: &Asked, _: &Facts) -> Option<SkbInfo> {
        self.in_set.get()
    }
    fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }
    fn note(&self, _: &Facts, _: &[u8], text: std::fmt::Arguments) {
        self.notes.borrow_mut().push_str(&text.to_string());
    }
    fn account(&self, _: u32, _: u16) -> Standing {
        self.standing
    }
    fn connections(&self, _: &ConnectionKey, _: &Facts, _: &[u8]) -> Option<u32> {
        self.connections.get()
    }
}

/// What the conditions say of a packet known by its facts alone.
pub fn outcome(text: &str, facts: &Facts) -> Outcome {
    Judge::new(facts.family, text).ask(facts, &[])
}

/// Facts of a packet with an L4 header of the protocol and these ports.
pub fn l4(family: Family, proto: u8, sport: u16, dport: u16) -> Facts {
    Facts { proto, sport, dport, has_l4: true, ..Facts::blank(family) }
}

#[test]
fn names_of_extensions_are_unique_in_a_family() {
    for (i, a) in EXTENSIONS.iter().enumerate() {
        for b in &EXTENSIONS[i + 1..] {
            if !Family::ALL.iter().any(|&family| a.families.has(family) && b.families.has(family)) {
                continue;
            }
            let clash = |name: &str| b.name == name || b.aliases.contains(&name);
            assert!(!clash(a.name) && !a.aliases.iter().any(|n| clash(n)), "{} and {}", a.name, b.name);
        }
    }
}

#[test]
fn a_condition_is_small() {
    assert!(size_of::<Match>() <= 64, "{}", size_of::<Match>());
}

#[test]
fn what_a_flow_fixes_asks_for_nothing_of_a_packet() {
    for (family, text, asks) in [
        (Family::V4, "-p tcp", Asks::Flow),
        (Family::V4, "-p tcp -m tcp --sport 1 --dport 2", Asks::Flow),
        (Family::V4, "-p tcp -m tcp --syn", Asks::TcpFlags),
        (Family::V4, "-p tcp -m tcp --tcp-option 2", Asks::Packet),
        (Family::V6, "-p udp -m udp --dport 53", Asks::Flow),
        (Family::V4, "-p tcp -m multiport --ports 1,2", Asks::Flow),
        (Family::V4, "-m conntrack --ctstate NEW --ctproto tcp --ctdir REPLY", Asks::Flow),
        (Family::V4, "-m conntrack --ctorigsrc 1.2.3.4 --ctrepldstport 5", Asks::Flow),
        (Family::V4, "-m conntrack --ctexpire 5", Asks::Packet),
        (Family::V4, "-m connbytes --connbytes 5 --connbytes-mode bytes --connbytes-dir both", Asks::Packet),
        (Family::V4, "-m connlabel --label 5", Asks::Packet),
        (Family::V4, "-m connlimit --connlimit-above 5", Asks::Packet),
        (Family::V4, "-m helper --helper ftp", Asks::Flow),
        (Family::V4, "-m conntrack --ctstatus ASSURED", Asks::Flow),
        (Family::V4, "-m state --state NEW", Asks::Flow),
        (Family::V4, "-m iprange --src-range 1.1.1.1", Asks::Flow),
        (Family::V4, "-m addrtype --src-type LOCAL", Asks::Flow),
        (Family::V4, "-m comment --comment x", Asks::Flow),
        (Family::V4, "-p icmp -m icmp --icmp-type 8", Asks::Packet),
        (Family::V6, "-p icmpv6 -m icmp6 --icmpv6-type 128", Asks::Packet),
        (Family::V4, "-m mark --mark 1", Asks::Flow),
        (Family::V4, "-m connmark --mark 1", Asks::Flow),
        (Family::V4, "-m mac --mac-source 1:2:3:4:5:6", Asks::Packet),
        (Family::V4, "-m pkttype --pkt-type host", Asks::Flow),
        (Family::V4, "-m limit", Asks::Packet),
        (Family::V4, "-m statistic --mode random --probability 0.5", Asks::Packet),
        (Family::V4, "-m length --length 1", Asks::Packet),
        (Family::V4, "-m ttl --ttl-eq 1", Asks::Packet),
        (Family::V6, "-m hl --hl-eq 1", Asks::Packet),
        (Family::V4, "-m tos --tos 1", Asks::Flow),
        (Family::V4, "-m dscp --dscp 1", Asks::Flow),
        (Family::V4, "-m ecn --ecn-ip-ect 1", Asks::Flow),
        (Family::V4, "-p tcp -m ecn --ecn-tcp-ece", Asks::TcpFlags),
        (Family::V4, "-f", Asks::Flow),
        (Family::V4, "-m set --match-set hosts4 src", Asks::Packet),
    ] {
        let conds = parse(family, text).expect("a rule");
        assert!(conds.iter().filter(|c| c.test.extension().is_some()).all(|c| c.test.asks() == asks), "{text}");
    }
}

/// A rule as the parser makes it, wherever it takes the text first.
fn somewhere(family: Family, text: &str) -> Option<(Table, Hook, Rule)> {
    let ports = ["lan0", "lan1", "wan0", "eth0"].map(String::from);
    let places = Table::ALL.into_iter().flat_map(|table| table.hooks().iter().map(move |&hook| (table, hook)));
    places.into_iter().find_map(|(table, hook)| {
        let site = Site {
            families: Families::Only(family),
            table,
            reach: Reach::BuiltIn(hook),
            ports: &ports,
            names: samples::names(),
            base: 0,
            line: 0,
        };
        let rule = parse_text(text, &site).ok()?.bodies.into_iter().next()?.rule;
        Some((table, hook, rule))
    })
}

/// Bytes with one or two of them changed, left out or put in.
fn damaged(bytes: &[u8], random: &mut impl FnMut() -> usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random() % 2 {
        let at = random() % bytes.len().max(1);
        let value = [0, 1, 2, 0x1f, 0x20, 0x3f, 0x7f, 0x80, 0x81, 0xff, random() as u8][random() % 11];
        match random() % 8 {
            0 => drop(bytes.drain(at..(at + 1).min(bytes.len()))),
            1 => bytes.insert(at, value),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value),
        }
    }
    bytes
}

/// Asks the conditions and the target of a rule, whatever they are, about packets of some bytes.
fn judged(family: Family, mut rule: Rule, random: &mut impl FnMut() -> usize) {
    let judge = Judge::new(family, "");
    let cells = [AtomicU64::new(random() as u64)];
    for cond in &mut rule.conds {
        cond.test.set_objects(&[0, 1]);
        cond.test.cells().into_iter().for_each(|cell| *cell = 0);
    }
    for _ in 0..4 {
        let l3: Vec<u8> = (0..random() % 96).map(|_| random() as u8).collect();
        let facts = Facts {
            proto: random() as u8,
            l4_off: (random() % 64) as u16,
            frag_off: (random() % 2) as u16,
            has_l4: random().is_multiple_of(2),
            has_ct: random().is_multiple_of(2),
            has_link: random().is_multiple_of(2),
            ..Facts::blank(family)
        };
        let cx = Context { l3: &l3, now: random() as u64, wall: random() as u64, around: &judge, cells: &cells };
        for cond in &rule.conds {
            let _ = cond.holds(&facts, &cx);
        }
        let _ = rule.target.as_ref().map(|target| target.act(&facts, &cx));
    }
}

#[test]
fn what_damage_leaves_of_a_rule_is_refused_or_judged_without_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize
    };
    let matches = EXTENSIONS.iter().flat_map(|extension| extension.cases);
    let targets = targets::EXTENSIONS.iter().flat_map(|extension| extension.cases);
    let mut passed = 0;
    for case in matches.chain(targets) {
        let Case::Prints(family, text, _) = *case else { continue };
        let Some((table, hook, rule)) = somewhere(family, text) else { continue };
        let bytes = postcard::to_stdvec(&rule).expect("a rule travels");
        for _ in 0..40 {
            let Ok(rule) = postcard::from_bytes::<Rule>(&damaged(&bytes, &mut random)) else { continue };
            let _ = rule::print(&rule, family, |_| "chain");
            let target = rule.target.as_ref().map(|target| target.verify(family, table, hook.bit(), &rule.conds));
            let sound = rule.conds.iter().all(|cond| cond.test.verify(family).is_ok());
            if sound && target.is_none_or(|answer| answer.is_ok()) {
                passed += 1;
                judged(family, rule, &mut random);
            }
        }
    }
    assert!(passed > 1000, "{passed} damaged rules were judged");
}

proptest::proptest! {
    /// Bytes of an untrusted sender and packets of an untrusted sender: an answer, and nothing else.
    #[test]
    fn any_bytes_that_decode_are_judged_without_a_panic(
        bytes in proptest::collection::vec(0u8.., 0..64),
        l3 in proptest::collection::vec(0u8.., 0..96),
        (v6, has_l4, has_ct, has_link) in any::<(bool, bool, bool, bool)>(),
        (proto, tcp_flags, frag_off, l4_off) in any::<(u8, u8, u16, u16)>(),
        now in any::<u64>(),
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        if let Ok(cond) = postcard::from_bytes::<Cond>(&bytes) {
            let facts = Facts { proto, tcp_flags, frag_off, l4_off, has_l4, has_ct, has_link, ..Facts::blank(family) };
            let judge = Judge::new(family, "");
            let cells = [AtomicU64::new(now)];
            let cx = Context { l3: &l3, now, wall: 0, around: &judge, cells: &cells };
            let outcome = cond.holds(&facts, &cx);
            proptest::prop_assert!(outcome != Outcome::Yes || cond.test.cell().is_none_or(|cell| cell == 0));
            let mut text = String::new();
            cond.test.print(cond.negate, family, &mut text);
            let _ = cond.test.verify(family);
        }
    }
}
