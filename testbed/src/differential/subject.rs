//! Sumun's engine over memory frames, in the same network.

use super::net::{ADDRESSES, GROUPS, HOST, MTU, NEIGHBOURS, PORTS, REALMS, ROUTER, ROUTES, SETTINGS, mac_text};
use anyhow::{Result, ensure};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use sumun_config::diag::{Source, render};
use sumun_config::facts::{Family, PortId};
use sumun_config::model::Checksums;
use sumun_config::rule::Table;
use sumun_config::set::print;
use sumun_dataplane::engine::{Engine, Remembered, Router};
use sumun_dataplane::port::Link;
use sumun_dataplane::protocol::{SetAnswer, SetRequest};
use sumun_dataplane::umem::Pool;

/// Chains that nobody jumps to: as in the kernel's router, flows are tracked and mapped whatever the rules are.
const WATCH: &str = "\
[security.watch]
rules = [\"-m conntrack --ctstate NEW\"]
[nat.watch]
rules = []
";

/// When its time begins, in nanoseconds.
const START: u64 = 1_000_000_000;

/// Frames that the engine has: a quarter of them may hold fragments, and a case may leave some hundred unfinished.
const FRAMES: u32 = 2048;

/// The engine with one ruleset; made anew for each.
pub struct Subject {
    router: Arc<Router>,
    engine: Engine,
    began: Instant,
    wall: u64,
}

impl Subject {
    /// A router with these rules (tables of chains, as TOML) in force, or why they are refused.
    pub fn new(rules: &str) -> Result<Subject, String> {
        Subject::with(rules, "")
    }

    /// The same with further lines of `[sysctl]`.
    pub fn with(rules: &str, settings: &str) -> Result<Subject, String> {
        let source = Source::new("differential.toml", format!("{}{settings}{rules}", base()));
        let (config, _) = sumun_config::schema::load(&source).map_err(|mistakes| render(&source, &mistakes, false))?;
        let links = (0..2)
            .map(|i| Link {
                name: PORTS[i].into(),
                mac: ROUTER[i],
                mtu: MTU[i],
                checksums: Checksums::AsTheyAre,
                trunk: None,
            })
            .collect();
        let router = Router::new(&config.appliance, links, 7);
        let engine = router.engine(0, Pool::fresh(FRAMES, 2048));
        router.publish_at(START, config.policy)?;
        let mut subject = Subject { router, engine, began: Instant::now(), wall: 0 };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        subject.set_wall_clock(wall.wrapping_sub(subject.now()));
        subject.engine.tick(subject.now());
        Ok(subject)
    }

    /// From now on remembers no more than that of flows.
    pub fn remember_only(&mut self, what: Remembered) {
        self.engine.remember_only(what);
    }

    /// From now on has the clock of another one.
    pub fn share_time(&mut self, other: &Subject) {
        self.began = other.began;
        self.set_wall_clock(other.wall);
    }

    /// Packets so far whose flow told their way.
    pub fn replayed(&self) -> u64 {
        self.engine.replayed()
    }

    /// Packets so far that rules were asked about and whose flow told the rest.
    pub fn recalled(&self) -> u64 {
        self.engine.recalled()
    }

    /// `wall`: nanoseconds since 1970 when its own time is zero.
    fn set_wall_clock(&mut self, wall: u64) {
        self.wall = wall;
        self.engine.set_wall_clock(wall);
    }

    fn now(&self) -> u64 {
        START + self.began.elapsed().as_nanos() as u64
    }

    fn at(&self, time: Instant) -> u64 {
        START + time.saturating_duration_since(self.began).as_nanos() as u64
    }

    /// One frame in; all frames that come out of it.
    pub fn send(&mut self, port: PortId, bytes: &[u8]) -> Result<Vec<(PortId, Vec<u8>)>> {
        self.send_at(Instant::now(), port, bytes)
    }

    /// One frame in at this time, not before what went in earlier; all frames that come out of it.
    pub fn send_at(&mut self, time: Instant, port: PortId, bytes: &[u8]) -> Result<Vec<(PortId, Vec<u8>)>> {
        let now = self.at(time);
        let Some(mut frame) = self.engine.pool().take() else { anyhow::bail!("no free frame: some were lost") };
        ensure!(frame.set(bytes), "{} bytes do not fit a frame", bytes.len());
        self.engine.process(now, port, &mut vec![frame]);
        Ok(self.settle_at(now))
    }

    /// What was due meanwhile; all frames that come out of it.
    pub fn settle(&mut self) -> Result<Vec<(PortId, Vec<u8>)>> {
        Ok(self.settle_at(self.now()))
    }

    fn settle_at(&mut self, now: u64) -> Vec<(PortId, Vec<u8>)> {
        self.engine.tick(now);
        let mut out = Vec::new();
        for i in 0..PORTS.len() {
            let port = PortId(i as u16);
            let frames: Vec<_> = self.engine.take_tx(port).drain(..).collect();
            for frame in frames {
                out.push((port, frame.bytes().to_vec()));
                self.engine.pool().give(frame);
            }
        }
        out
    }

    /// Every frame must be free again.
    pub fn census(&mut self) -> Result<()> {
        let held = self.engine.held();
        let pool = self.engine.pool();
        ensure!(pool.free() + held == pool.made(), "{} frames of {} are free", pool.free(), pool.made());
        Ok(())
    }

    /// The ruleset with its counters, as iptables-save prints it.
    pub fn rules(&self, family: Family) -> String {
        let counters = self.router.counters();
        let of = |table: Table, chain: usize, rule: Option<usize>| {
            let chain = &counters.families[family.index()][table as usize][chain];
            let counter = rule.map_or(chain.policy, |rule| chain.rules[rule]);
            (counter.packets, counter.bytes)
        };
        self.router.current().policy.ruleset.print(family, Some(&of))
    }

    /// The sets, as `ipset save` prints them.
    pub fn sets(&self, time: Instant) -> Result<String> {
        let now = self.at(time);
        let ask = |request| self.router.answer_sets(request, now).map_err(anyhow::Error::msg);
        let SetAnswer::Sets(rows) = ask(SetRequest::List { name: None })? else { anyhow::bail!("no list of sets") };
        let mut text = String::new();
        for row in rows {
            let _ = writeln!(text, "create {} {} {}", row.name, row.header.kind.name(), print::header(&row.header));
            let mut at = Some(0);
            while let Some(from) = at {
                let SetAnswer::Elements { elements, next } =
                    ask(SetRequest::Elements { name: row.name.clone(), from })?
                else {
                    anyhow::bail!("no elements")
                };
                for element in &elements {
                    let _ = write!(text, "add {} ", row.name);
                    print::element(&row.header, element, &mut text);
                    text.push('\n');
                }
                at = next;
            }
        }
        Ok(text)
    }

    /// The flow table as of this time, as `conntrack -L` prints it.
    pub fn flows(&self, time: Instant) -> String {
        let mut text = String::new();
        self.router.conntrack.list(self.at(time), |flow| {
            let _ = writeln!(text, "{flow}");
        });
        text
    }

    /// What conntrack counted so far.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        self.router.conntrack.stats().each().collect()
    }

    /// Drops so far, by reason.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.router.drops().into_iter().map(|(reason, n)| (reason.name(), n)).collect()
    }
}

/// The network as configuration.
fn base() -> String {
    let mut text = "[dataplane]\ncores = [0]\nmax-flows = 4096\nmax-neighbours = 64\n".to_string();
    for (i, port) in PORTS.iter().enumerate() {
        let own: Vec<_> = ADDRESSES.iter().filter(|a| a.0 == i).map(|a| format!("\"{}\"", a.1)).collect();
        let _ = writeln!(
            text,
            "[interfaces.{port}]\naddresses = [{}]\nmtu = {}\nrp-filter = \"off\"\ngroup = {}",
            own.join(","),
            MTU[i],
            GROUPS[i]
        );
    }
    for (port, address) in NEIGHBOURS {
        let (interface, mac) = (PORTS[port], mac_text(HOST[port]));
        let _ = writeln!(text, "[[neighbours]]\ninterface = \"{interface}\"\naddress = \"{address}\"\nmac = \"{mac}\"");
    }
    for (to, kind, via) in ROUTES {
        let how = if via.is_empty() { format!("type = \"{kind}\"") } else { format!("via = \"{via}\"") };
        let realm = REALMS.iter().find(|realm| realm.0 == to);
        let realm = realm.map_or(String::new(), |realm| format!("realm = \"{}\"", realm.1));
        let _ = writeln!(text, "[[routes]]\nto = \"{to}\"\n{how}\n{realm}");
    }
    text + WATCH + "[sysctl]\n" + SETTINGS
}
