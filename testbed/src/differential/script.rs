//! Scripts: what happens to one ruleset step by step, through the kernel's router and through the engine.
//!
//! ```text
//!   let talk = Talk::new(Family::V4);
//!   Script::new("a connection opens", Family::V4, TELL)
//!       .set("nf_conntrack_tcp_loose", "0")
//!       .step(talk.there(&segment(SYN).seq(100)))
//!       .step(talk.back(&segment(SYN | ACK).seq(500).ack(101)))
//!       .run(&mut kernel)?
//! ```
//!
//! After each step what came out is compared byte by byte, and the flow table: states, time left, flags, counters. Steps go on
//! after a difference, so one script tells all that differs; a flow that differs is told once. [`TELL`] makes every
//! forwarded packet show what conntrack says of it.

use super::compare::{self, Choices};
use super::kernel::Kernel;
use super::net::{HOST, LAN, ROUTER, WAN};
use super::rules::Rules;
use super::subject::Subject;
use super::traffic::{self, Answer, hosts};
use super::wire::{self, Ip};
use super::{First, RUN, input, show};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use sumun_config::facts::{Family, PortId, proto};

pub use super::wire::{ACK, FIN, PSH, RST, SYN, Segment, URG, segment};

/// Rules that only tell: the traffic class of a forwarded packet becomes its state, with the lowest bit of the DSCP for
/// replies.
pub const TELL: &str = "\
*mangle
-A FORWARD -m conntrack --ctstate INVALID -j TOS --set-tos 0x10/0xff
-A FORWARD -m conntrack --ctstate NEW -j TOS --set-tos 0x20/0xff
-A FORWARD -m conntrack --ctstate ESTABLISHED -j TOS --set-tos 0x40/0xff
-A FORWARD -m conntrack --ctstate RELATED -j TOS --set-tos 0x80/0xff
-A FORWARD -m conntrack --ctstate UNTRACKED -j TOS --set-tos 0xe0/0xff
-A FORWARD -m conntrack --ctdir REPLY -j TOS --or-tos 0x04
COMMIT
";

/// One thing that happens.
#[derive(Clone)]
pub enum Step {
    /// A frame comes in, or somebody answers what came out.
    Traffic(traffic::Step),
    /// Time passes.
    Wait(Duration),
}

/// A ruleset and what happens to it.
#[derive(Clone)]
pub struct Script {
    name: String,
    rules: Rules,
    settings: Vec<(String, String)>,
    sets: String,
    /// Further sections of Sumun's file.
    sections: String,
    /// With the note that was made last before.
    steps: Vec<(String, Step)>,
    /// Numbers of steps after which the flow table is not compared.
    leads: BTreeSet<usize>,
    note: String,
    is_counted: bool,
}

impl Script {
    /// A script that does nothing yet. `rules` is iptables-save's text; chains that it does not name accept.
    pub fn new(name: &str, family: Family, rules: &str) -> Script {
        let rules = Rules::of_text(family, rules);
        Script {
            name: name.into(),
            rules,
            settings: Vec::new(),
            sets: String::new(),
            sections: String::new(),
            steps: Vec::new(),
            leads: BTreeSet::new(),
            note: String::new(),
            is_counted: false,
        }
    }

    /// With the counters of all rules compared at the end.
    pub fn counted(mut self) -> Script {
        self.is_counted = true;
        self
    }

    /// With a setting on both sides, by the kernel's short name.
    pub fn set(mut self, name: &str, value: &str) -> Script {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// With these sets on both sides, in the text of `ipset save`. At the end they are compared, and the counters of rules.
    pub fn sets(mut self, text: &str) -> Script {
        self.sets = text.into();
        self
    }

    /// With another section of Sumun's file, for what the kernel is told in a way of its own.
    pub fn section(mut self, text: &str) -> Script {
        self.sections.push_str(text);
        self
    }

    /// What the steps from here on are about, for whoever reads a difference.
    pub fn note(mut self, note: impl Into<String>) -> Script {
        self.note = note.into();
        self
    }

    /// One step more.
    pub fn step(mut self, step: Step) -> Script {
        self.steps.push((self.note.clone(), step));
        self
    }

    /// Several steps more.
    pub fn steps(self, steps: impl IntoIterator<Item = Step>) -> Script {
        steps.into_iter().fold(self, Script::step)
    }

    /// Several steps that lead to what the script is about: what comes out of them is compared, the flow table is not.
    pub fn lead(self, steps: impl IntoIterator<Item = Step>) -> Script {
        steps.into_iter().fold(self, |mut script, step| {
            script = script.step(step);
            script.leads.insert(script.steps.len() - 1);
            script
        })
    }

    /// A step more: somebody answers the first packet that came out at the step so many steps before.
    pub fn answer(self, before: usize, with: Answer) -> Script {
        let to = self.steps.len().checked_sub(before).unwrap_or_else(|| panic!("{}: nothing to answer", self.name));
        self.step(Step::Traffic(traffic::Step::Answer { to, with }))
    }

    /// A step more: time passes.
    pub fn wait(self, milliseconds: u64) -> Script {
        self.step(Step::Wait(Duration::from_millis(milliseconds)))
    }

    /// Number of steps so far.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Runs it on both; all differences as text, empty where there is none.
    pub fn run(&self, kernel: &mut Kernel) -> Result<String> {
        let mut before = Vec::new();
        for (name, value) in &self.settings {
            before.push((name, kernel.set(name, value)?));
        }
        let result = self.compare(kernel).with_context(|| self.name.clone());
        for (name, value) in before.iter().rev() {
            kernel.set(name, value)?;
        }
        result
    }

    fn compare(&self, kernel: &mut Kernel) -> Result<String> {
        let family = self.rules.family;
        if !self.sets.is_empty() {
            for family in Family::ALL {
                kernel.load(family, &Rules::of_text(family, "").restore())?.map_err(anyhow::Error::msg)?;
            }
            kernel.make_sets(&self.sets)?;
        }
        if let Err(why) = kernel.load(family, &self.rules.restore())? {
            bail!("the kernel refuses the rules: {why}");
        }
        let settings: String = self.settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let folder = tempfile::tempdir()?;
        let rules = self.rules.toml() + &sections(&self.sets, folder.path())? + &self.sections;
        let mut subject =
            Subject::with(&rules, &settings).map_err(|why| anyhow::anyhow!("Sumun refuses them: {why}"))?;
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let mut choices = Choices::default();
        let mut earlier: Vec<First> = vec![[None, None]; self.steps.len()];
        let (mut told, mut text) = (BTreeSet::new(), String::new());
        for (n, (note, step)) in self.steps.iter().enumerate() {
            let mut found = String::new();
            let (what, sent, from_kernel, from_engine) = match step {
                Step::Wait(time) => {
                    std::thread::sleep(*time);
                    (format!("{time:?} pass"), Vec::new(), kernel.settle()?, subject.settle()?)
                }
                Step::Traffic(step) => {
                    let [Some(k), Some(e)] = [0, 1].map(|side| input(Some(step), &earlier, side, run)) else {
                        let _ = writeln!(text, "{}: step {n} ({note}): nothing to answer", self.name);
                        continue;
                    };
                    let time = Instant::now();
                    (wire::describe(&k.1), e.1.clone(), kernel.send(k.0, &k.1)?, subject.send_at(time, e.0, &e.1)?)
                }
            };
            if !choices.equal(&sent, &from_kernel, &from_engine) {
                show(&mut found, "kernel", &from_kernel);
                show(&mut found, "sumun", &from_engine);
            }
            earlier[n] = [from_kernel.into_iter().next(), from_engine.into_iter().next()];
            if !self.leads.contains(&n) {
                let time = Instant::now();
                let flows = [kernel.flows_at_once(family)?, subject.flows(time)];
                let flows = flows.map(|flows| without_helpers(&flows));
                for line in choices.flows(&flows[0], &flows[1], time.elapsed()) {
                    if told.insert(line.clone()) {
                        let _ = writeln!(found, "    {line}");
                    }
                }
            }
            if !found.is_empty() {
                let _ = write!(text, "{}: step {n} ({note}): {what}\n{found}", self.name);
            }
        }
        if self.is_counted {
            for line in compare::rules(&kernel.rules(family)?, &subject.rules(family)) {
                let _ = writeln!(text, "{}: {line}", self.name);
            }
        }
        subject.census()?;
        if !self.sets.is_empty() {
            let (asked, ours) = (asking(&kernel.rules(family)?), asking(&subject.rules(family)));
            let mut found: Vec<String> = compare::only("-", &asked, &ours).collect();
            found.extend(compare::only("+", &ours, &asked));
            found.extend(compare::sets(&kernel.sets()?, &subject.sets(Instant::now())?));
            if !found.is_empty() {
                let _ = writeln!(text, "{}: at the end\n    {}", self.name, found.join("\n    "));
            }
        }
        Ok(text)
    }
}

/// Rules that ask sets or change them, with their counters.
fn asking(rules: &str) -> Vec<String> {
    rules.lines().filter(|line| line.contains("-m set") || line.contains("-j SET")).map(str::to_string).collect()
}

/// Sections of the configuration for these sets, which read them from a file in this folder.
fn sections(sets: &str, folder: &std::path::Path) -> Result<String> {
    let file = folder.join("sets.ipset");
    std::fs::write(&file, sets)?;
    let names = sets.lines().filter_map(|line| line.strip_prefix("create ")?.split(' ').next());
    Ok(names.map(|name| format!("[sets.{name}]\nfrom = \"{}\"\n", file.display())).collect())
}

/// What is above IP in a packet.
pub trait Upper {
    /// Its protocol, and its bytes, for these ports; checksums are filled in later.
    fn bytes(&self, family: Family, ports: (u16, u16)) -> (u8, Vec<u8>);
}

impl Upper for Segment {
    fn bytes(&self, _: Family, ports: (u16, u16)) -> (u8, Vec<u8>) {
        (proto::TCP, self.bytes(ports))
    }
}

/// A UDP datagram with this payload.
pub struct Datagram<'a>(pub &'a [u8]);

impl Upper for Datagram<'_> {
    fn bytes(&self, _: Family, ports: (u16, u16)) -> (u8, Vec<u8>) {
        (proto::UDP, wire::udp(ports, self.0))
    }
}

/// A protocol and its bytes as they are.
pub struct Raw<'a>(pub u8, pub &'a [u8]);

impl Upper for Raw<'_> {
    fn bytes(&self, _: Family, _: (u16, u16)) -> (u8, Vec<u8>) {
        (self.0, self.1.to_vec())
    }
}

/// An ICMP or ICMPv6 message: type, code, second word, payload.
pub struct Icmp<'a>(pub u8, pub u8, pub u32, pub &'a [u8]);

impl Upper for Icmp<'_> {
    fn bytes(&self, family: Family, _: (u16, u16)) -> (u8, Vec<u8>) {
        let protocol = super::net::of(family, proto::ICMP, proto::ICMPV6);
        (protocol, wire::icmp(self.0, self.1, self.2, self.3))
    }
}

/// One end of a talk.
#[derive(Clone, Copy)]
pub struct End {
    /// The port of the router that it is behind.
    pub port: PortId,
    /// Its address.
    pub address: u128,
    /// Its port number.
    pub number: u16,
}

/// Two ends that talk through the router.
#[derive(Clone, Copy)]
pub struct Talk {
    /// Its family.
    pub family: Family,
    /// Who begins.
    pub client: End,
    /// Who answers.
    pub server: End,
}

impl Talk {
    /// A client on the LAN, port 5000, with a server on the WAN, port 80.
    pub fn new(family: Family) -> Talk {
        let (lan, wan) = hosts(family);
        let end = |port, address, number| End { port, address, number };
        Talk { family, client: end(LAN, lan[0], 5000), server: end(WAN, wan[1], 80) }
    }

    /// The same from another port of the client.
    pub fn from(mut self, number: u16) -> Talk {
        self.client.number = number;
        self
    }

    /// The same with the ends changed over.
    pub fn reversed(self) -> Talk {
        Talk { client: self.server, server: self.client, ..self }
    }

    /// A packet of the client's, without a frame.
    pub fn packet(&self, upper: &impl Upper) -> Vec<u8> {
        let (protocol, l4) = upper.bytes(self.family, (self.client.number, self.server.number));
        Ip::new(self.family, self.client.address, self.server.address).packet(protocol, &l4, 1)
    }

    /// The client sends.
    pub fn there(&self, upper: &impl Upper) -> Step {
        arrives(self.client.port, &self.packet(upper))
    }

    /// The server sends.
    pub fn back(&self, upper: &impl Upper) -> Step {
        self.reversed().there(upper)
    }

    /// Opens a TCP connection: three segments. The client begins at 1000, the server at 5000; both have said one number
    /// (their SYN) then.
    pub fn open(&self) -> [Step; 3] {
        [
            self.there(&segment(SYN).seq(1000)),
            self.back(&segment(SYN | ACK).seq(5000).ack(1001)),
            self.there(&segment(ACK).seq(1001).ack(5001)),
        ]
    }
}

/// A packet comes in on a port.
pub fn arrives(port: PortId, packet: &[u8]) -> Step {
    let p = port.0 as usize;
    let frame = wire::frame(wire::family(packet), HOST[p], ROUTER[p], packet);
    Step::Traffic(traffic::Step::Fresh { port, frame })
}

/// Runs scripts one after the other; panics with all differences if there are any.
pub fn expect_none(kernel: &mut Kernel, scripts: &[Script]) -> Result<()> {
    let mut text = String::new();
    for script in scripts {
        text += &script.run(kernel)?;
    }
    assert!(text.is_empty(), "\n{text}");
    Ok(())
}

/// Flows without the names of their helpers, which the kernel's file does not tell.
fn without_helpers(flows: &str) -> String {
    let told =
        |line: &str| line.split(' ').filter(|word| !word.starts_with("helper=")).collect::<Vec<_>>().join(" ") + "\n";
    flows.lines().map(told).collect()
}
