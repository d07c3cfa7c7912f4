//! What the tests of control share: a dataplane made of memory behind the real server, the real `sumun` binary, and patience.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use sumun_config::diag::Source;
use sumun_config::facts::Family;
use sumun_config::model::{Appliance, Policy};
use sumun_config::schema;
use sumun_dataplane::protocol::AccountRow;
use sumun_dataplane::protocol::{ChainCounters, ConntrackStats, Counter, Counters, FlowFilter, FlowKey, FlowRow};
use sumun_dataplane::protocol::{
    EventKind, EventRow, ExpectationRow, FlowTuple, InvalidCount, NeighbourRow, ObjectRequest, PacketRow, PortStatus,
    TimerRow,
};
use sumun_dataplane::protocol::{RouteCounts, RoutesAnswer, RoutesRequest, SetAnswer, SetRequest};
use sumun_dataplane::reason::DropReason;
use sumun_dataplane::server::claim::Claim;
use sumun_dataplane::server::events::{Hub, Subscription, WAITING};
use sumun_dataplane::server::{Server, Service};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A router that remembers what it was told.
pub struct Memory {
    appliance: Appliance,
    published: Mutex<Vec<Policy>>,
    refuse: Mutex<Option<String>>,
    zeroed: AtomicU64,
    flows: Mutex<Vec<FlowRow>>,
    hub: Arc<Hub<EventRow>>,
    packets: Arc<Hub<PacketRow>>,
}

impl Memory {
    /// All policies that were accepted, oldest first.
    pub fn published(&self) -> Vec<Policy> {
        self.published.lock().unwrap().clone()
    }

    /// The TTL of the policy accepted last: the tests tell policies apart by it.
    pub fn ttl(&self) -> Option<u8> {
        self.published.lock().unwrap().last().map(|p| p.sysctl.ip_default_ttl)
    }

    /// Refuses policies from now on.
    pub fn refuse(&self, reason: &str) {
        *self.refuse.lock().unwrap() = Some(reason.to_string());
    }

    /// Whoever listens to events hears of the first flow: it is new, and more than can be told happened before.
    pub fn tell(&self) {
        let flow = self.flows.lock().unwrap()[0].clone();
        self.hub.publish(&[EventRow { what: EventKind::New, changes: 0, at: 5_000_000_000, flow }], 3);
    }

    /// Whoever listens to packets hears of one of group 5 and one of group 6, and that one was lost before.
    pub fn tell_packets(&self) {
        let packet = |group| PacketRow {
            at: 1_700_000_000_123_456_789,
            group,
            hook: "FORWARD".to_string(),
            prefix: "refused: ".to_string(),
            line: "IN=lan0 OUT=wan0 PRIO=1:10".to_string(),
            len: 1500,
            bytes: vec![0x45, 0, 5, 0xdc],
        };
        self.packets.publish(&[packet(5), packet(6)], 1);
    }

    /// Whether somebody listens to packets.
    pub fn listened_to_packets(&self) -> bool {
        self.packets.kinds() != 0
    }

    /// Kinds of events that somebody listens for.
    pub fn listened(&self) -> u8 {
        self.hub.kinds()
    }

    /// How often the counters were set to zero.
    pub fn zeroed(&self) -> u64 {
        self.zeroed.load(Ordering::Relaxed)
    }
}

impl Service for Memory {
    fn appliance(&self) -> &Appliance {
        &self.appliance
    }

    fn publish(&self, policy: Policy) -> Result<u64, String> {
        if let Some(reason) = &*self.refuse.lock().unwrap() {
            return Err(reason.clone());
        }
        let mut published = self.published.lock().unwrap();
        published.push(policy);
        Ok(published.len() as u64)
    }

    fn generation(&self) -> u64 {
        self.published.lock().unwrap().len() as u64
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let chain = |packets| ChainCounters {
            policy: Counter { packets, bytes: packets * 100 },
            rules: vec![Counter { packets: packets * 2, bytes: packets * 200 }],
        };
        // filter INPUT and FORWARD of IPv4
        counters.families[0][3] = vec![chain(1), chain(7)];
        counters
    }

    fn zero(&self) {
        self.zeroed.fetch_add(1, Ordering::Relaxed);
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        vec![(DropReason::PolicyDrop, 3)]
    }

    fn ports(&self) -> Vec<PortStatus> {
        let port = |i: &sumun_config::model::Interface| PortStatus {
            name: i.name.clone(),
            device: i.device().map_or(String::new(), |device| device.name.clone()),
            mtu: 1500,
            ..PortStatus::default()
        };
        self.appliance.interfaces.iter().map(port).collect()
    }

    fn adopted_flows(&self) -> u32 {
        0
    }

    fn route_counts(&self) -> RouteCounts {
        RouteCounts { ipv4: 4, ipv6: 6 }
    }

    fn flow_memory(&self) -> u64 {
        0
    }

    fn flow_count(&self) -> u32 {
        self.flows.lock().unwrap().len() as u32
    }

    fn flows(&self, filter: &FlowFilter, _: u32, _: usize) -> (Vec<FlowRow>, Option<u32>) {
        let flows = self.flows.lock().unwrap();
        (flows.iter().filter(|flow| filter.takes(flow)).cloned().collect(), None)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRow> {
        let flows = self.flows.lock().unwrap();
        let is = |flow: &&FlowRow| key.tuple == if key.reply { flow.reply } else { flow.original };
        flows.iter().filter(|flow| flow.proto == key.proto).find(is).cloned()
    }

    fn delete_flows(&self, filter: &FlowFilter, _: u32, _: usize) -> (Vec<FlowRow>, Option<u32>) {
        (self.flows.lock().unwrap().extract_if(.., |flow| filter.takes(flow)).collect(), None)
    }

    fn flush_flows(&self) -> u64 {
        self.flows.lock().unwrap().drain(..).count() as u64
    }

    fn subscribe(&self, filter: FlowFilter, kinds: u8) -> Result<Subscription<EventRow>, String> {
        self.hub.subscribe_flows(filter, kinds)
    }
    fn subscribe_packets(&self, group: Option<u16>) -> Result<Subscription<PacketRow>, String> {
        self.packets.subscribe_group(group)
    }

    fn expectations(&self) -> Vec<ExpectationRow> {
        let master = self.flows.lock().unwrap()[0].original;
        vec![ExpectationRow {
            line: "29 proto=17 src=10.0.1.2 dst=10.0.0.2".to_string(),
            family: Family::V4,
            proto: 17,
            timeout: 29,
            tuple: FlowTuple {
                source: master.destination,
                destination: master.source,
                sport: 0,
                dport: 1000,
                ..master
            },
            mask: "255.255.255.255".parse().unwrap(),
            master,
            helper: "tftp".to_string(),
        }]
    }

    fn conntrack_stats(&self) -> ConntrackStats {
        let worker = vec![("found".to_string(), 1), ("invalid".to_string(), 2)];
        let invalid =
            InvalidCount { reason: "checksum".into(), packets: 2, explanation: "Its checksum is wrong.".into() };
        ConntrackStats { workers: vec![worker], invalid: vec![invalid] }
    }

    fn routes(&self, _: RoutesRequest) -> Result<RoutesAnswer, String> {
        Err("no routes here".to_string())
    }
    fn sets(&self, _: SetRequest) -> Result<SetAnswer, String> {
        Err("no sets here".to_string())
    }

    fn object(&self, ask: &ObjectRequest) -> Result<Vec<String>, String> {
        match ask {
            ObjectRequest::Names => {
                Ok(["list of recent ssh", "ipv6 table of hashlimit flood"].map(String::from).to_vec())
            }
            ObjectRequest::Recent { name, .. } if name != "ssh" => Err(format!("no rule has `{name}`")),
            other => Ok(vec![format!("{other:?}")]),
        }
    }

    fn timers(&self) -> Vec<TimerRow> {
        vec![TimerRow { label: "lan".to_string(), left: Some(7), alarm: false }]
    }
    fn accounts(&self) -> Vec<AccountRow> {
        Vec::new()
    }
    fn neighbours(&self) -> Vec<NeighbourRow> {
        vec![NeighbourRow {
            port: "lan0".to_string(),
            address: "10.0.0.2".parse().unwrap(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            state: "REACHABLE".to_string(),
        }]
    }
}

/// A query to a name server, of each family.
fn flows() -> Vec<FlowRow> {
    let half = |source: &str, destination: &str, sport, dport| FlowTuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        sport,
        dport,
        zone: 0,
        counter: None,
    };
    let flow = |id, family, original, reply| FlowRow {
        id,
        family,
        proto: 17,
        timeout: 30,
        state: None,
        original,
        reply,
        status: 0,
        mark: 0,
        secctx: None,
        labels: 0,
        helper: None,
        start: None,
        stop: None,
    };
    vec![
        flow(1, Family::V4, half("10.0.0.2", "10.0.1.2", 1000, 53), half("10.0.1.2", "10.0.0.2", 53, 1000)),
        flow(2, Family::V6, half("fd00::2", "fd01::2", 1000, 53), half("fd01::2", "fd00::2", 53, 1000)),
    ]
}

/// A directory with a configuration and a run directory.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("router.toml")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// A configuration with these ports whose TTL tells it from others.
    pub fn text(&self, ports: &[&str], ttl: u8) -> String {
        let mut text = format!("[dataplane]\nrun-dir = \"{}\"\n", self.run_dir().display());
        for (i, port) in ports.iter().enumerate() {
            text += &format!("[interfaces.{port}]\naddresses = [\"10.0.{i}.1/24\"]\n");
        }
        text + &format!("[sysctl]\nip_default_ttl = {ttl}\n")
    }

    /// Writes the configuration as an editor does: a new file takes the place of the old one.
    pub fn write(&self, ttl: u8) {
        self.replace(&self.text(&["lan0", "wan0"], ttl));
    }

    pub fn replace(&self, text: &str) {
        let new = self.path("router.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.config()).unwrap();
    }

    /// A dataplane that was started with these ports.
    pub fn dataplane(&self, ports: &[&str]) -> Dataplane {
        let source = Source::new("dataplane", self.text(ports, 64));
        let (config, _) = schema::load(&source).expect("the tests' own configuration");
        let memory = Arc::new(Memory {
            appliance: config.appliance,
            published: Mutex::new(Vec::new()),
            refuse: Mutex::new(None),
            zeroed: AtomicU64::new(0),
            flows: Mutex::new(flows()),
            hub: Hub::new(WAITING),
            packets: Hub::new(WAITING),
        });
        let claim = Claim::take(&self.run_dir(), "dataplane", "sumun-dataplane").unwrap();
        Dataplane { _server: Server::start(claim, memory.clone()).unwrap(), memory }
    }

    /// `sumun` with these arguments, to its end.
    pub fn sumun(&self, args: &[&str]) -> Ran {
        Ran::of(self.command().args(args).output().unwrap())
    }

    /// `sumun` with these arguments, running.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sumun"));
        command.env("SUMUN_RUN_DIR", self.run_dir()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// `sumun control`, which may end at once.
    pub fn control(&self) -> Control {
        let log = self.path("control.log");
        let file = File::create(&log).unwrap();
        let mut command = self.command();
        command.args(["control", "--config"]).arg(self.config()).stderr(file).stdout(Stdio::null());
        Control { child: command.spawn().unwrap(), log }
    }

    /// `sumun control` that serves its socket.
    pub fn running_control(&self) -> Control {
        let control = self.control();
        control.logs("sumun control runs");
        control
    }
}

/// A dataplane that runs until it is dropped.
pub struct Dataplane {
    _server: Server,
    pub memory: Arc<Memory>,
}

/// A control process; killed when dropped.
pub struct Control {
    child: Child,
    log: PathBuf,
}

impl Control {
    /// Waits until the log has these words.
    pub fn logs(&self, words: &str) {
        eventually(&format!("the log says {words:?}"), || fs::read_to_string(&self.log).unwrap().contains(words));
    }

    /// The whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> ExitStatus {
        let mut status = None;
        eventually("control ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}
