//! The server over a real socket, with a router made of memory.

use super::events::{Hub, WAITING};
use super::*;
use crate::protocol::{
    AccountRow, ChainCounters, Counter, EventKind, EventRow, ExpectationRow, FlowTuple, HEADER_LEN, PacketRow,
    TupleFilter,
};
use crate::protocol::{RoutesAnswer, RoutesRequest, SetAnswer, SetRequest};
use proptest::prelude::*;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use sumun_config::facts::Family;
use sumun_config::model::{Idle, LogTo, Sysctl};
use sumun_config::rule::Policy as ChainPolicy;
use sumun_config::ruleset::Ruleset;

struct Memory {
    appliance: Appliance,
    generation: AtomicU64,
    zeroed: AtomicUsize,
    flows: Vec<FlowRow>,
    hub: Arc<Hub<EventRow>>,
    packets: Arc<Hub<PacketRow>>,
}

impl Service for Memory {
    fn appliance(&self) -> &Appliance {
        &self.appliance
    }
    fn publish(&self, policy: Policy) -> Result<u64, String> {
        if policy.ports != ["lan0"] {
            return Err("compiled for other ports".to_string());
        }
        Ok(self.generation.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
    fn is_settled(&self) -> bool {
        true
    }
    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        counters.families[0][3].push(ChainCounters { policy: Counter { packets: 7, bytes: 700 }, rules: Vec::new() });
        counters
    }
    fn zero(&self) {
        self.zeroed.fetch_add(1, Ordering::Relaxed);
    }
    fn drops(&self) -> Vec<(DropReason, u64)> {
        vec![(DropReason::Reject, 3)]
    }
    fn ports(&self) -> Vec<PortStatus> {
        vec![PortStatus { name: "lan0".to_string(), rx_packets: 9, ..PortStatus::default() }]
    }
    fn adopted_flows(&self) -> u32 {
        0
    }
    fn flow_memory(&self) -> u64 {
        0
    }
    fn flow_count(&self) -> u32 {
        self.flows.len() as u32
    }
    fn flows(&self, filter: &FlowFilter, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>) {
        let from = (from as usize).min(self.flows.len());
        let end = (from + most).min(self.flows.len());
        let rows = self.flows[from..end].iter().filter(|flow| filter.takes(flow)).cloned().collect();
        (rows, (end < self.flows.len()).then_some(end as u32))
    }
    fn flow(&self, key: &FlowKey) -> Option<FlowRow> {
        self.flows.iter().find(|flow| flow.original == key.tuple).cloned()
    }
    fn delete_flows(&self, filter: &FlowFilter, from: u32, most: usize) -> (Vec<FlowRow>, Option<u32>) {
        self.flows(filter, from, most)
    }
    fn flush_flows(&self) -> u64 {
        self.flows.len() as u64
    }
    fn subscribe(&self, filter: FlowFilter, kinds: u8) -> Result<Subscription<EventRow>, String> {
        self.hub.subscribe_flows(filter, kinds)
    }
    fn subscribe_packets(&self, group: Option<u16>) -> Result<Subscription<PacketRow>, String> {
        self.packets.subscribe_group(group)
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
    fn object(&self, ask: &ObjectRequest) -> Result<Vec<String>, String> {
        match ask {
            ObjectRequest::Names => Ok(vec!["list of recent ssh".to_string()]),
            other => Err(format!("no {other:?}")),
        }
    }

    fn timers(&self) -> Vec<TimerRow> {
        vec![TimerRow { label: "lan".to_string(), left: Some(7), alarm: false }]
    }
    fn accounts(&self) -> Vec<AccountRow> {
        Vec::new()
    }
    fn neighbours(&self) -> Vec<NeighbourRow> {
        let mac = Some([2, 0, 0, 0, 0, 1]);
        let state = "REACHABLE".to_string();
        vec![NeighbourRow { port: "lan0".to_string(), address: IpAddr::V4(Ipv4Addr::LOCALHOST), mac, state }]
    }
}

fn flow(i: u32) -> FlowRow {
    let tuple = |source: u32, destination: u32| FlowTuple {
        source: IpAddr::V4(Ipv4Addr::from(source)),
        destination: IpAddr::V4(Ipv4Addr::from(destination)),
        sport: 1000,
        dport: 53,
        zone: 0,
        counter: None,
    };
    let (original, reply) = (tuple(i, 1), tuple(1, i));
    FlowRow {
        id: i,
        family: Family::V4,
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
    }
}

fn policy(ports: &[&str]) -> Policy {
    Policy {
        ports: ports.iter().map(|p| p.to_string()).collect(),
        port_settings: Vec::new(),
        neighbours: Vec::new(),
        routes_from: Default::default(),
        vrfs: Vec::new(),
        routes: Vec::new(),
        rules: Vec::new(),
        sysctl: Sysctl::default(),
        timeouts: Vec::new(),
        labels: Vec::new(),
        sets: Vec::new(),
        fingerprints: Vec::new(),
        accounts: Vec::new(),
        metrics: None,
        ruleset: Ruleset::empty(ChainPolicy::Accept),
    }
}

struct Bench {
    server: Option<Server>,
    service: Arc<Memory>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn with_flows(flows: u32) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let appliance = Appliance {
            run_dir: dir.path().to_path_buf(),
            cores: vec![0],
            idle: Idle::Busy,
            frames_per_worker: 64,
            frame_size: 2048,
            max_flows: 100,
            keep_flows: true,
            max_neighbours: 10,
            interfaces: Vec::new(),
            initial_policy: ChainPolicy::Drop,
            log: LogTo::Syslog,
            host: None,
        };
        let flows = (0..flows).map(flow).collect();
        let service = Arc::new(Memory {
            appliance,
            generation: AtomicU64::new(0),
            zeroed: AtomicUsize::new(0),
            flows,
            hub: Hub::new(WAITING),
            packets: Hub::new(WAITING),
        });
        let claim = Claim::take(dir.path(), "dataplane", "sumun-dataplane").unwrap();
        Bench { server: Some(Server::start(claim, service.clone()).unwrap()), service, dir }
    }

    fn new() -> Bench {
        Bench::with_flows(0)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("dataplane.sock")
    }

    fn connect(&self) -> Peer {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Peer(stream)
    }
}

struct Peer(UnixStream);

impl Peer {
    fn response(&mut self) -> Option<Response> {
        protocol::read_message(&mut self.0, Kind::Response).unwrap()
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) -> Response {
        protocol::write_frame(&mut self.0, kind, payload).unwrap();
        self.response().unwrap()
    }

    fn ask(&mut self, request: &Request) -> Response {
        self.send(Kind::Request, &protocol::encode(request).unwrap())
    }

    fn publish(&mut self, policy: &Policy) -> Response {
        self.send(Kind::Publish, &protocol::encode(policy).unwrap())
    }
}

#[test]
fn hello_says_what_runs_before_and_after_a_publish() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    let hello = |peer: &mut Peer| match peer.ask(&Request::Hello) {
        Response::Hello(hello) => (hello.generation, hello.digest, hello.appliance),
        other => panic!("{other:?}"),
    };
    assert_eq!(hello(&mut peer), (0, None, bench.service.appliance.clone()));
    assert_eq!(peer.publish(&policy(&["lan0"])), Response::Accepted { generation: 1 });
    let digest = Digest::of(&protocol::encode(&policy(&["lan0"])).unwrap());
    assert_eq!(hello(&mut peer), (1, Some(digest), bench.service.appliance.clone()));
    assert_eq!(hello(&mut bench.connect()).1, Some(digest), "and to a control process that comes later");
}

#[test]
fn refused_policy_changes_nothing_and_the_connection_goes_on() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    peer.publish(&policy(&["lan0"]));
    let refused = Response::Refused { reason: "compiled for other ports".to_string() };
    assert_eq!(peer.publish(&policy(&["wan0"])), refused);
    assert!(matches!(peer.send(Kind::Publish, b"\xff\xff\xff"), Response::Refused { .. }));
    let mut trailing = protocol::encode(&policy(&["lan0"])).unwrap();
    trailing.push(0);
    assert!(matches!(peer.send(Kind::Publish, &trailing), Response::Refused { .. }));
    match peer.ask(&Request::Rules) {
        Response::Rules(rules) => {
            assert_eq!(rules.generation, 1);
            assert_eq!(protocol::decode::<Policy>(&rules.policy.unwrap()).unwrap(), policy(&["lan0"]));
            assert_eq!(rules.counters, bench.service.counters());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_question_gets_its_answer() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    match peer.ask(&Request::Status) {
        Response::Status(status) => {
            assert_eq!((status.generation, status.published, status.settled), (0, false, true));
            assert_eq!((status.ports, status.neighbours), (bench.service.ports(), 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(peer.ask(&Request::Zero), Response::Done);
    assert_eq!(bench.service.zeroed.load(Ordering::Relaxed), 1);
    match peer.ask(&Request::Drops) {
        Response::Drops(drops) => {
            assert_eq!(drops.len(), DropReason::ALL.len());
            let seen: Vec<_> = drops.iter().filter(|d| d.packets > 0).map(|d| (&d.reason[..], d.packets)).collect();
            assert_eq!(seen, [("reject", 3)]);
        }
        other => panic!("{other:?}"),
    }
    let names = Response::Lines(vec!["list of recent ssh".to_string()]);
    assert_eq!(peer.ask(&Request::Object(ObjectRequest::Names)), names);
    let other = ObjectRequest::Hashlimit { name: "x".to_string(), family: Family::V4 };
    assert!(matches!(peer.ask(&Request::Object(other)), Response::Refused { .. }));
    assert_eq!(peer.ask(&Request::Neighbours), Response::Neighbours(bench.service.neighbours()));
    assert_eq!(peer.ask(&Request::Timers), Response::Timers(bench.service.timers()));
}

#[test]
fn second_policy_at_a_time_is_refused_whole() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    let publishing = lock(&bench.server.as_ref().unwrap().shared.publishing);
    assert_eq!(peer.publish(&policy(&["lan0"])), refused("another policy is being published"));
    drop(publishing);
    assert_eq!(peer.publish(&policy(&["lan0"])), Response::Accepted { generation: 1 });
}

#[test]
fn flows_come_in_pages_and_filtered() {
    let bench = Bench::with_flows(20_000);
    let mut peer = bench.connect();
    let mut list = |filter: FlowFilter| {
        let (mut all, mut from, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(at) = from {
            match peer.ask(&Request::Conntrack { filter: filter.clone(), from: at }) {
                Response::Flows { flows, next } => {
                    all.extend(flows);
                    from = next;
                    pages += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        (all, pages)
    };
    let (all, pages) = list(FlowFilter::default());
    assert_eq!((all, pages), (bench.service.flows.clone(), 3));
    let original = TupleFilter { source: Some(IpAddr::V4(Ipv4Addr::from(19_999)).into()), ..TupleFilter::default() };
    let one = FlowFilter { original, ..FlowFilter::default() };
    assert_eq!(list(one.clone()), (vec![flow(19_999)], 1));
    assert_eq!(list(FlowFilter { proto: Some(6), ..FlowFilter::default() }).0, []);
    assert_eq!(peer.ask(&Request::CountFlows(FlowFilter::default())), Response::Count(20_000));
    assert_eq!(peer.ask(&Request::CountFlows(one.clone())), Response::Count(1));
    let deleted = peer.ask(&Request::DeleteFlows { filter: one, from: 0 });
    assert_eq!(deleted, Response::Flows { flows: vec![flow(19_999)], next: None });
    assert_eq!(peer.ask(&Request::FlushFlows), Response::Count(20_000));
}

fn event(what: EventKind, i: u32) -> EventRow {
    EventRow { what, changes: 0, at: 1, flow: flow(i) }
}

/// The next events, and how many were lost, of a peer that listens.
fn heard(peer: &mut Peer) -> (Vec<EventRow>, u64) {
    loop {
        match peer.response() {
            Some(Response::Events { events, lost: 0 }) if events.is_empty() => {}
            Some(Response::Events { events, lost }) => return (events, lost),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn events_go_to_whoever_listens_for_them() {
    let bench = Bench::new();
    let hub = &bench.service.hub;
    hub.publish(&[event(EventKind::New, 1)], 0);
    let listen = |filter, kinds| {
        let mut peer = bench.connect();
        let ready = peer.ask(&Request::Events { filter, kinds });
        assert_eq!(ready, Response::Events { events: Vec::new(), lost: 0 });
        peer
    };
    let mut all = listen(FlowFilter::default(), EventKind::ALL);
    let original = TupleFilter { source: Some(IpAddr::V4(Ipv4Addr::from(2)).into()), ..TupleFilter::default() };
    let mut one = listen(FlowFilter { original, ..FlowFilter::default() }, EventKind::Destroy.bit());
    assert_eq!(hub.kinds(), EventKind::ALL);
    let events = [event(EventKind::New, 2), event(EventKind::Destroy, 3), event(EventKind::Destroy, 2)];
    hub.publish(&events, 5);
    assert_eq!(heard(&mut all), (events.to_vec(), 5));
    assert_eq!(heard(&mut one), (events[2..].to_vec(), 5));
    drop(all);
    let deadline = Instant::now() + Duration::from_secs(20);
    while hub.kinds() != EventKind::Destroy.bit() {
        assert!(Instant::now() < deadline, "who has gone listens for ever");
        thread::yield_now();
    }
}

#[test]
fn who_listens_too_slowly_is_told_how_much_it_missed() {
    let hub = Hub::new(WAITING);
    let subscription = hub.subscribe_flows(FlowFilter::default(), EventKind::ALL).unwrap();
    let event = [event(EventKind::Update, 1)];
    (0..WAITING + 7).for_each(|_| hub.publish(&event, 0));
    let (mut events, mut lost) = (0, 0);
    while events < WAITING {
        let (some, missed) = subscription.wait(Duration::ZERO);
        events += some.len();
        lost += missed;
    }
    assert_eq!((events, lost), (WAITING, 7));
    assert_eq!(subscription.wait(Duration::ZERO), (Vec::new(), 0));
}

#[test]
fn no_more_than_so_many_listen() {
    let hub = Hub::new(WAITING);
    let subscribe = || hub.subscribe_flows(FlowFilter::default(), EventKind::ALL);
    let listeners: Vec<_> = (0..super::events::MOST_LISTENERS).map(|_| subscribe().unwrap()).collect();
    assert_eq!(subscribe().map(|_| ()).unwrap_err(), "8 listen to events already");
    drop(listeners);
    assert_eq!(hub.kinds(), 0);
    assert!(subscribe().is_ok());
}

#[test]
fn unknown_request_is_refused_and_the_connection_goes_on() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    for payload in [&b""[..], b"\x7f", b"\xff\xff\xff\xff\xff", b"\x00 and more"] {
        assert!(matches!(peer.send(Kind::Request, payload), Response::Refused { .. }), "{payload:?}");
    }
    assert!(matches!(peer.ask(&Request::Hello), Response::Hello(_)));
}

#[test]
fn frames_that_cannot_be_told_apart_are_refused_and_the_connection_closed() {
    let bench = Bench::new();
    let good = Header { kind: Kind::Request, len: 1 }.bytes();
    let with = |at: usize, byte: u8| {
        let mut header = good;
        header[at] = byte;
        header
    };
    let cases: [(&str, [u8; HEADER_LEN]); 4] = [
        ("does not speak", with(0, b'G')),
        ("version", with(4, 99)),
        ("unknown kind", with(6, 9)),
        ("longer than", with(11, 0x7f)),
    ];
    for (says, header) in cases {
        let mut peer = bench.connect();
        peer.0.write_all(&header).unwrap();
        match peer.response() {
            Some(Response::Refused { reason }) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(peer.0.read(&mut [0; 1]).unwrap(), 0, "closed");
    }
}

#[test]
fn connections_beyond_the_limit_are_refused_until_one_closes() {
    let bench = Bench::new();
    let mut peers: Vec<Peer> = (0..MOST_CONNECTIONS).map(|_| bench.connect()).collect();
    for peer in &mut peers {
        peer.ask(&Request::Hello);
    }
    assert_eq!(bench.connect().response(), Some(refused("too many connections")));
    drop(peers.pop());
    let deadline = Instant::now() + Duration::from_secs(20);
    while lock(&bench.server.as_ref().unwrap().shared.connections).len() >= MOST_CONNECTIONS {
        assert!(Instant::now() < deadline, "the place is never free");
        thread::yield_now();
    }
    assert!(matches!(bench.connect().ask(&Request::Hello), Response::Hello(_)));
}

#[test]
fn dropping_the_server_ends_its_connections_and_threads() {
    let mut bench = Bench::new();
    let mut peer = bench.connect();
    peer.ask(&Request::Hello);
    drop(bench.server.take());
    assert_eq!(peer.response(), None);
    assert!(!bench.socket().exists());
    assert_eq!(Arc::strong_count(&bench.service), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn server_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u16..4) {
        let bench = Bench::new();
        let mut peer = bench.connect();
        let mut header = Header { kind: Kind::Request, len: bytes.len() as u32 }.bytes();
        header[6..8].copy_from_slice(&kind.to_le_bytes());
        // Framed, then raw; the server may close at any point.
        let _ = peer.0.write_all(&header).and_then(|_| peer.0.write_all(&bytes)).and_then(|_| peer.0.write_all(&bytes));
        let _ = peer.0.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        let _ = peer.0.read_to_end(&mut answers);
        prop_assert!(matches!(bench.connect().ask(&Request::Hello), Response::Hello(_)));
    }
}
