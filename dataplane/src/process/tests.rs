//! The life of the process with a machine that only counts.

use super::*;
use crate::protocol::AccountRow;
use crate::protocol::{
    self, ConntrackStats, Counters, FlowFilter, FlowKey, FlowRow, Kind, NeighbourRow, ObjectRequest, PortStatus,
};
use crate::protocol::{
    EventRow, ExpectationRow, PacketRow, Request, Response, RoutesAnswer, RoutesRequest, SetAnswer, SetRequest,
    TimerRow,
};
use crate::reason::DropReason;
use crate::server::events::Subscription;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use sumun_config::model::{Idle, LogTo, Policy};

struct Still(Appliance);

impl Service for Still {
    fn appliance(&self) -> &Appliance {
        &self.0
    }
    fn publish(&self, _: Policy) -> Result<u64, String> {
        Ok(1)
    }
    fn generation(&self) -> u64 {
        0
    }
    fn is_settled(&self) -> bool {
        true
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
    fn zero(&self) {}
    fn drops(&self) -> Vec<(DropReason, u64)> {
        Vec::new()
    }
    fn ports(&self) -> Vec<PortStatus> {
        Vec::new()
    }
    fn adopted_flows(&self) -> u32 {
        0
    }
    fn flow_memory(&self) -> u64 {
        0
    }
    fn flow_count(&self) -> u32 {
        0
    }
    fn flows(&self, _: &FlowFilter, _: u32, _: usize) -> (Vec<FlowRow>, Option<u32>) {
        (Vec::new(), None)
    }
    fn flow(&self, _: &FlowKey) -> Option<FlowRow> {
        None
    }
    fn delete_flows(&self, _: &FlowFilter, _: u32, _: usize) -> (Vec<FlowRow>, Option<u32>) {
        (Vec::new(), None)
    }
    fn flush_flows(&self) -> u64 {
        0
    }
    fn subscribe(&self, _: FlowFilter, _: u8) -> Result<Subscription<EventRow>, String> {
        Err("nothing happens here".to_string())
    }
    fn subscribe_packets(&self, _: Option<u16>) -> Result<Subscription<PacketRow>, String> {
        Err("nothing happens here".to_string())
    }
    fn expectations(&self) -> Vec<ExpectationRow> {
        Vec::new()
    }
    fn conntrack_stats(&self) -> ConntrackStats {
        ConntrackStats::default()
    }
    fn routes(&self, _: RoutesRequest) -> Result<RoutesAnswer, String> {
        Err("no routes here".to_string())
    }
    fn sets(&self, _: SetRequest) -> Result<SetAnswer, String> {
        Err("no sets here".to_string())
    }
    fn object(&self, _: &ObjectRequest) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    fn timers(&self) -> Vec<TimerRow> {
        vec![TimerRow { label: "lan".to_string(), left: Some(7), alarm: false }]
    }
    fn accounts(&self) -> Vec<AccountRow> {
        Vec::new()
    }
    fn neighbours(&self) -> Vec<NeighbourRow> {
        Vec::new()
    }
}

#[derive(Default)]
struct Seen {
    started: AtomicUsize,
    kept: AtomicUsize,
    stopped: AtomicUsize,
}

struct Counting {
    appliance: Appliance,
    seen: Arc<Seen>,
    fails: bool,
}

impl Machine for Counting {
    fn service(&self) -> Arc<dyn Service> {
        Arc::new(Still(self.appliance.clone()))
    }
    fn housekeep(&mut self) -> Result<(), String> {
        self.seen.kept.fetch_add(1, Ordering::Relaxed);
        if self.fails { Err("worker 0 has died".to_string()) } else { Ok(()) }
    }
    fn stop(self: Box<Self>) {
        self.seen.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

fn appliance(run_dir: &Path) -> Appliance {
    Appliance {
        run_dir: run_dir.to_path_buf(),
        cores: vec![0],
        idle: Idle::Busy,
        frames_per_worker: 64,
        frame_size: 2048,
        max_flows: 100,
        keep_flows: true,
        max_neighbours: 10,
        interfaces: Vec::new(),
        initial_policy: rule::Policy::Drop,
        log: LogTo::Syslog,
        host: None,
    }
}

/// A process in a thread: what it saw, and the end to pull.
struct Life {
    seen: Arc<Seen>,
    end: UnixStream,
    thread: JoinHandle<anyhow::Result<()>>,
}

fn life(run_dir: &Path, fails: bool) -> Life {
    let seen = Arc::new(Seen::default());
    let (theirs, end) = UnixStream::pair().unwrap();
    let appliance = appliance(run_dir);
    let thread = thread::spawn({
        let seen = seen.clone();
        move || {
            live(&appliance, theirs, |appliance| {
                seen.started.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(Counting { appliance: appliance.clone(), seen, fails }))
            })
        }
    });
    Life { seen, end, thread }
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn process_serves_keeps_house_and_stops_when_told() {
    let tmp = tempfile::tempdir().unwrap();
    let mut life = life(tmp.path(), false);
    let socket = tmp.path().join("dataplane.sock");
    eventually("the socket is there", || UnixStream::connect(&socket).is_ok());
    let mut peer = UnixStream::connect(&socket).unwrap();
    protocol::write_frame(&mut peer, Kind::Request, &protocol::encode(&Request::Hello).unwrap()).unwrap();
    let hello = protocol::read_message(&mut peer, Kind::Response).unwrap();
    assert!(matches!(hello, Some(Response::Hello(hello)) if hello.appliance == appliance(tmp.path())));
    eventually("house is kept", || life.seen.kept.load(Ordering::Relaxed) >= 2);
    life.end.write_all(b"!").unwrap();
    life.thread.join().unwrap().unwrap();
    assert_eq!(life.seen.stopped.load(Ordering::Relaxed), 1);
    assert!(!socket.exists());
}

#[test]
fn second_process_touches_no_device() {
    let tmp = tempfile::tempdir().unwrap();
    let mut first = life(tmp.path(), false);
    eventually("the first runs", || first.seen.kept.load(Ordering::Relaxed) > 0);
    let second = life(tmp.path(), false);
    let error = second.thread.join().unwrap().unwrap_err();
    assert!(error.to_string().starts_with("sumun-dataplane is already running"), "{error}");
    assert_eq!(second.seen.started.load(Ordering::Relaxed), 0);
    first.end.write_all(b"!").unwrap();
    first.thread.join().unwrap().unwrap();
}

#[test]
fn machine_that_cannot_go_on_is_stopped_and_told() {
    let tmp = tempfile::tempdir().unwrap();
    let life = life(tmp.path(), true);
    let error = life.thread.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "worker 0 has died");
    assert_eq!(life.seen.stopped.load(Ordering::Relaxed), 1);
}

#[test]
fn configuration_with_mistakes_is_not_half_used() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("router.toml");
    assert!(matches!(load(&file), Err(Unusable::Unreadable(_))));
    std::fs::write(&file, "[interfaces.lan0]\naddresses = [\"10.0.0.1/24\"]\n[[routes]]\nto = \"nowhere\"\n").unwrap();
    assert!(matches!(load(&file), Err(Unusable::Mistakes(..))));
    std::fs::write(&file, "[interfaces.lan0]\naddresses = [\"10.0.0.1/24\"]\n").unwrap();
    assert!(load(&file).is_ok_and(|appliance| appliance.interfaces[0].name == "lan0"));
}
