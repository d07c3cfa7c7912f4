//! AF_XDP ports on real devices: veth pairs in network namespaces. Needs root.
//!
//! ```text
//!  namespace -a        namespace -r (the router's)       namespace -b
//!  a0 10.9.0.1/24 ───── r0  [ bridge of two ports ]  r1 ───── b0 10.9.0.2/24
//! ```
//! The router is here the simplest that there is: what comes in on one port goes out on the other.

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sumun_config::facts::PortId;
use sumun_config::model::{Attach, CopyMode, Device, Idle, Interface, Kind, LocalStack, Transmit};
use sumun_dataplane::port::Seat;
use sumun_dataplane::port::af_xdp::{self, Mode, OpenError, Opened, Plan, Sending};
use sumun_dataplane::protocol::QueueLosses;
use sumun_dataplane::reason::DropReason;
use sumun_dataplane::umem::{Frame, Pool};
use sumun_dataplane::worker::{self, Census, Control, Forwarder, Member, WorkerError};

/// Two ports, and what comes in on one goes out on the other.
struct Bridge {
    pool: Pool,
    tx: [Vec<Frame>; 2],
    worker: usize,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By port.
    frames: [AtomicU64; 2],
    /// By worker.
    workers: [AtomicU64; 2],
    /// Frames that are neither IP nor ARP nor tagged.
    foreign: AtomicU64,
    turns: AtomicU64,
    drops: AtomicU64,
}

impl Forwarder for Bridge {
    fn process(&mut self, _: u64, port: PortId, rx: &mut Vec<Frame>) {
        self.seen.frames[port.0 as usize].fetch_add(rx.len() as u64, Ordering::Relaxed);
        self.seen.workers[self.worker].fetch_add(rx.len() as u64, Ordering::Relaxed);
        let wanted = [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]];
        let foreign = rx.iter().filter(|frame| !wanted.iter().any(|kind| frame.bytes()[12..14] == *kind)).count();
        self.seen.foreign.fetch_add(foreign as u64, Ordering::Relaxed);
        self.tx[1 - port.0 as usize].append(rx);
    }

    fn refuse(&mut self, _: PortId, reason: DropReason, frame: Frame) {
        self.dropped(reason, frame);
    }

    fn tick(&mut self, _: u64) {
        self.seen.turns.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tx(&mut self, port: PortId) -> &mut Vec<Frame> {
        &mut self.tx[port.0 as usize]
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn dropped(&mut self, _: DropReason, frame: Frame) {
        self.seen.drops.fetch_add(1, Ordering::Relaxed);
        self.pool.give(frame);
    }

    fn next_deadline(&self, _: u64) -> Option<u64> {
        None
    }

    fn rest(&mut self) {}

    fn resume(&mut self) {}

    fn held(&self) -> usize {
        0
    }
}

/// Three namespaces, taken down when dropped. One at a time: routers share two cores, and what one test forks would hold the
/// sockets of another for a moment longer.
struct Site {
    prefix: String,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Site {
    /// `queues` receive and transmit queues on each end.
    fn new(test: &str, queues: u32) -> Site {
        assert!(Uid::effective().is_root(), "these tests make network namespaces and AF_XDP sockets: run them as root");
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let site = Site { prefix: format!("sumun-ports-{test}"), _alone: alone };
        site.remove();
        for end in ["a", "r", "b"] {
            run(&["ip", "netns", "add", &site.name(end)]);
        }
        let queues = queues.to_string();
        for (end, device, port, address) in [("a", "a0", "r0", "10.9.0.1/24"), ("b", "b0", "r1", "10.9.0.2/24")] {
            let (end, router) = (site.name(end), site.name("r"));
            run(&[
                "ip",
                "link",
                "add",
                device,
                "netns",
                &end,
                "numrxqueues",
                &queues,
                "numtxqueues",
                &queues,
                "type",
                "veth",
                "peer",
                "name",
                port,
                "netns",
                &router,
                "numrxqueues",
                &queues,
                "numtxqueues",
                &queues,
            ]);
            // What a local socket sends over a veth has unfinished checksums unless the device is told to finish them.
            run(&["ip", "netns", "exec", &end, "ethtool", "-K", device, "tx", "off", "gso", "off", "tso", "off"]);
            run(&["ip", "-n", &end, "addr", "add", address, "dev", device]);
            run(&["ip", "-n", &end, "link", "set", device, "up"]);
            run(&["ip", "netns", "exec", &router, "sysctl", "-qw", &format!("net.ipv6.conf.{port}.disable_ipv6=1")]);
            run(&["ip", "-n", &router, "link", "set", port, "up"]);
        }
        site
    }

    fn name(&self, end: &str) -> String {
        format!("{}-{end}", self.prefix)
    }

    fn remove(&self) {
        for end in ["a", "r", "b"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(end)]).stderr(Stdio::null()).status();
        }
    }

    /// Runs `work` in a thread that lives in a namespace.
    fn within<T: Send>(&self, end: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.name(end);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&namespace);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, end: &str, arguments: &[&str]) -> String {
        let name = self.name(end);
        run(&[&["ip", "-n", &name], arguments].concat())
    }

    /// Opens both ports of the router.
    fn open(&self, attach: Attach, workers: usize) -> Result<Opened, OpenError> {
        self.within("r", || open(&ports(attach), workers))
    }

    /// Runs the bridge on one thread for each worker.
    fn bridge(&self, attach: Attach, workers: usize) -> Running {
        self.bridge_of(&ports(attach), 2048, workers)
    }

    /// The same of ports that differ from the usual.
    fn bridge_of(&self, interfaces: &[Interface], frame_size: u32, workers: usize) -> Running {
        let plan = Plan { interfaces, all_frames: &[], workers, beside: 0, frames_per_worker: 4096, frame_size };
        let Opened { modes, sending, workers, .. } = self.within("r", || af_xdp::open(plan)).expect("the ports open");
        let seen = Arc::new(Seen::default());
        let cores = core_affinity::get_core_ids().expect("cores");
        let members = workers.into_iter().enumerate().map(|(number, share)| Member {
            core: cores[number % cores.len()].id,
            engine: Bridge { pool: share.pool, tx: Default::default(), worker: number, seen: seen.clone() },
            seats: share.seats,
        });
        let workers = worker::start(members.collect(), Idle::Sleep { after_us: 50 }).expect("workers start");
        let control = workers.control();
        let thread = std::thread::spawn(move || workers.join().map(|(census, _)| census));
        Running { modes, sending, seen, control, thread }
    }

    /// Sends `count` datagrams from a to b and back, a window at a time. Returns how many came back as they were sent.
    fn echo(&self, count: u64, flows: u16) -> u64 {
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                self.within("b", || {
                    let socket = UdpSocket::bind("10.9.0.2:7").expect("a socket");
                    socket.set_read_timeout(Some(Duration::from_millis(1500))).expect("a timeout");
                    let mut bytes = [0; 2000];
                    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                        let _ = socket.send_to(&bytes[..length], from);
                        if length == 1 {
                            return;
                        }
                    }
                })
            });
            let back = self.within("a", || {
                let sockets: Vec<UdpSocket> = (0..flows)
                    .map(|flow| {
                        let socket = UdpSocket::bind(("10.9.0.1", 4000 + flow)).expect("a socket");
                        socket.connect("10.9.0.2:7").expect("an address");
                        socket.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
                        socket
                    })
                    .collect();
                // The first resolves the neighbour, and waits until the other end listens.
                let started = Instant::now();
                let mut bytes = [0; 2000];
                loop {
                    let _ = sockets[0].send(b"hi");
                    if sockets[0].recv(&mut bytes).is_ok() {
                        break;
                    }
                    assert!(started.elapsed() < Duration::from_secs(5), "no frame comes back at all");
                }
                let mut back = 0;
                let mut next = 0;
                while next < count {
                    let window = next..count.min(next + 32);
                    for number in window.clone() {
                        let payload = payload(number);
                        sockets[number as usize % sockets.len()].send(&payload).expect("sent");
                    }
                    for number in window.clone() {
                        // The very first may have been asked for twice, and be late.
                        while let Ok(length) = sockets[number as usize % sockets.len()].recv(&mut bytes) {
                            if bytes[..length] == payload(number) {
                                back += 1;
                                break;
                            }
                            assert_eq!(&bytes[..length], b"hi", "in place of datagram {number}");
                        }
                    }
                    next = window.end;
                }
                let _ = sockets[0].send(b"!");
                back
            });
            server.join().expect("the server ends");
            back
        })
    }
}

impl Site {
    /// Makes both ends take XDP frames, which a veth does when its peer has NAPI, or no longer.
    fn set_gro(&self, state: &str) {
        for (end, device) in [("a", "a0"), ("b", "b0")] {
            run(&["ip", "netns", "exec", &self.name(end), "ethtool", "-K", device, "gro", state]);
        }
    }

    /// A counter of a router's device.
    fn counter(&self, device: &str, name: &str) -> u64 {
        let all = run(&["ip", "netns", "exec", &self.name("r"), "ethtool", "-S", device]);
        let value = all.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("no {name} in {all}")).parse().expect("a number")
    }

    /// Sends datagrams from a to b in windows: each is sent at once, when all before it have arrived. They must arrive
    /// unchanged, in order, and all.
    fn stream(&self, windows: impl Iterator<Item = u64> + Send, length: impl Fn(u64) -> usize + Sync) {
        let (arrived, ready) = (AtomicU64::new(0), AtomicBool::new(false));
        let done = AtomicBool::new(false);
        let bytes = |number: u64| -> Vec<u8> {
            let length = length(number).max(8);
            number
                .to_be_bytes()
                .iter()
                .copied()
                .chain((0..).map(|i: u64| (i * 7 + number) as u8))
                .take(length)
                .collect()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.within("b", || {
                    let socket = UdpSocket::bind("10.9.0.2:7").expect("a socket");
                    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
                    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20))
                        .expect("set");
                    ready.store(true, Ordering::Release);
                    let mut datagram = [0; 4096];
                    while !done.load(Ordering::Relaxed) {
                        let Ok(length) = socket.recv(&mut datagram) else { continue };
                        let number = arrived.load(Ordering::Relaxed);
                        if datagram[..length] != bytes(number) {
                            done.store(true, Ordering::Relaxed);
                            panic!("in place of datagram {number}: {:?}", &datagram[..length.min(8)]);
                        }
                        arrived.store(number + 1, Ordering::Release);
                    }
                })
            });
            self.within("a", || {
                let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
                socket.connect("10.9.0.2:7").expect("an address");
                let ended = |what: u64| {
                    let started = Instant::now();
                    while arrived.load(Ordering::Acquire) < what && !done.load(Ordering::Relaxed) {
                        if started.elapsed() > Duration::from_secs(3) {
                            done.store(true, Ordering::Relaxed);
                            panic!("{} of {what} datagrams arrived", arrived.load(Ordering::Acquire));
                        }
                        std::hint::spin_loop();
                    }
                };
                while !ready.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                let mut sent = 0;
                // The first resolves the neighbour: until then the kernel holds some hundred and drops what is more.
                for window in std::iter::once(1).chain(windows) {
                    for number in sent..sent + window {
                        socket.send(&bytes(number)).expect("sent");
                    }
                    sent += window;
                    ended(sent);
                }
                done.store(true, Ordering::Relaxed);
            });
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A running bridge.
struct Running {
    modes: Vec<Mode>,
    sending: Vec<Sending>,
    seen: Arc<Seen>,
    control: Control,
    thread: JoinHandle<Result<Census, WorkerError>>,
}

impl Running {
    fn stop(self) -> Census {
        self.control.stop();
        let census = self.thread.join().expect("joined").expect("no worker panicked");
        assert!(census.is_complete(), "{census:?}");
        for counts in self.control.port_counts() {
            assert_eq!(counts, Default::default());
        }
        census
    }
}

/// Datagrams of all lengths that the MTU allows, each unlike the others.
fn payload(number: u64) -> Vec<u8> {
    let length = 8 + (number * 37 % 1465) as usize;
    number.to_be_bytes().iter().copied().chain((0..).map(|i: u64| (i * 7 + number) as u8)).take(length).collect()
}

fn interface(device: &str, attach: Attach) -> Interface {
    Interface {
        name: device.into(),
        kind: Kind::Device(Device {
            name: device.into(),
            attach,
            copy: CopyMode::Auto,
            ring: 512,
            tx: Transmit::Auto,
            checksums: None,
        }),
        mtu: None,
        local: LocalStack::Smoltcp,
    }
}

fn device_of(interface: &mut Interface) -> &mut Device {
    match &mut interface.kind {
        Kind::Device(device) => device,
        Kind::Vlan(vlan) => panic!("{vlan:?}"),
    }
}

fn ports(attach: Attach) -> Vec<Interface> {
    vec![interface("r0", attach), interface("r1", attach)]
}

fn open(interfaces: &[Interface], workers: usize) -> Result<Opened, OpenError> {
    af_xdp::open(Plan { interfaces, all_frames: &[], workers, beside: 0, frames_per_worker: 4096, frame_size: 2048 })
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    setns(file, CloneFlags::CLONE_NEWNET).expect("entered");
}

fn run(command: &[&str]) -> String {
    let output =
        Command::new(command[0]).args(&command[1..]).output().unwrap_or_else(|e| panic!("{}: {e}", command[0]));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn ten_thousand_frames_pass_each_way_and_all_frames_are_found_again() {
    let site = Site::new("pass", 1);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(running.modes, [Mode { native: true, zero_copy: false, queues: 1, jumbo: false }; 2]);
    assert_eq!(site.echo(10_000, 1), 10_000);
    let seen = running.seen.clone();
    let census = running.stop();
    assert!(seen.frames.iter().all(|frames| frames.load(Ordering::Relaxed) >= 10_000));
    assert_eq!(seen.drops.load(Ordering::Relaxed), 0);
    assert_eq!(census.made, 4096);
}

/// The usual ports, which send as told.
fn sending(tx: Transmit) -> Vec<Interface> {
    let mut ports = ports(Attach::Auto);
    ports.iter_mut().for_each(|port| device_of(port).tx = tx);
    ports
}

#[test]
fn a_hundred_thousand_frames_leave_through_xdp_complete_and_in_order() {
    let site = Site::new("xmit", 1);
    site.set_gro("on");
    let running = site.bridge_of(&sending(Transmit::Xdp), 2048, 1);
    assert_eq!(running.sending[1].to_string(), "xdp");
    // Now and then all lengths, else the shortest that a datagram here can have and the one that is copied by itself.
    let length = |number: u64| {
        if number.is_multiple_of(8) { (number * 37 % 1472) as usize } else { 18 - (number % 3 * 5) as usize }
    };
    site.stream(std::iter::repeat_n(200, 500), length);
    assert!(site.counter("r1", "tx_queue_0_xdp_xmit") >= 100_000);
    assert_eq!(site.counter("r1", "tx_queue_0_xdp_xmit_errors"), 0);
    assert_eq!(running.stop().made, 4096);
}

#[test]
fn few_frames_take_the_ring_and_many_xdp_and_none_overtakes() {
    let site = Site::new("mixed", 1);
    site.set_gro("on");
    let running = site.bridge_of(&sending(Transmit::Auto), 2048, 1);
    assert_eq!(running.sending[1].to_string(), "ring and xdp");
    site.stream((0..3_000).map(|i: u64| if i % 5 < 2 { 1 + i % 24 } else { 100 }), |number| (number % 1400) as usize);
    let by_xdp = site.counter("r1", "tx_queue_0_xdp_xmit");
    let all = running.seen.frames[0].load(Ordering::Relaxed);
    println!("{by_xdp} of {all} through XDP");
    // How many come together is the worker's speed; that both ways were taken is what makes order a question.
    assert!(by_xdp >= 20 && by_xdp < all, "{by_xdp} of {all} through XDP");
    running.stop();
}

#[test]
fn frames_that_no_page_holds_take_the_ring() {
    let site = Site::new("long", 1);
    for (end, device) in [("a", "a0"), ("b", "b0"), ("r", "r0"), ("r", "r1")] {
        site.ip(end, &["link", "set", device, "mtu", "3400"]);
    }
    site.set_gro("on");
    let running = site.bridge_of(&sending(Transmit::Xdp), 4096, 1);
    // 3072 bytes of frame are the limit: 42 are headers.
    site.stream(
        std::iter::repeat_n(20, 200),
        |number| if number % 100 < 60 { 3030 } else { 3031 + number as usize % 300 },
    );
    // 2,400 datagrams are short enough; a burst that has a long one takes the ring whole. Hosts say some things of their own.
    let by_xdp = site.counter("r1", "tx_queue_0_xdp_xmit");
    assert!((1_000..2_450).contains(&by_xdp), "{by_xdp} through XDP");
    running.stop();
}

#[test]
fn the_ring_steps_in_while_the_peer_takes_no_xdp_frames() {
    let site = Site::new("nonapi", 1);
    let running = site.bridge_of(&sending(Transmit::Xdp), 2048, 1);
    let turns = |wanted: bool| {
        let deadline = Instant::now() + Duration::from_secs(3);
        while running.sending[1].now() != (Transmit::Xdp, wanted) {
            assert!(Instant::now() < deadline, "not noticed: {}", running.sending[1]);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let mut before = 0;
    for gro in ["off", "on", "off", "on"] {
        site.set_gro(gro);
        turns(gro == "on");
        site.stream(std::iter::repeat_n(50, 40), |_| 100);
        let by_xdp = site.counter("r1", "tx_queue_0_xdp_xmit");
        assert_eq!(by_xdp - before >= 2_000, gro == "on", "gro {gro}: {by_xdp} after {before}");
        before = by_xdp;
    }
    running.stop();
}

#[test]
fn auto_takes_the_ring_where_two_ways_might_be_two_orders() {
    let site = Site::new("orders", 2);
    site.set_gro("on");
    let chosen = |tx| site.within("r", || open(&sending(tx), 1)).expect("opens").sending[0].to_string();
    assert_eq!([chosen(Transmit::Auto), chosen(Transmit::Ring), chosen(Transmit::Xdp)], ["ring", "ring", "xdp"]);
}

#[test]
fn a_killed_router_leaves_no_program_to_send_with() {
    let site = Site::new("killtx", 1);
    let mut holder = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "hold_the_ports_until_killed", "--nocapture"])
        .env("SUMUN_PORTS_HOLD", site.name("r"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("holding"))), "it holds the ports");
    let mut programs = Vec::new();
    for file in std::fs::read_dir(format!("/proc/{}/fdinfo", holder.id())).expect("its files").flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        programs.extend(text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()));
    }
    let alive = || -> Vec<String> {
        let all = libbpf_rs::query::ProgInfoIter::default().filter(|program| programs.contains(&program.id));
        all.map(|program| program.name.to_string_lossy().into_owned()).collect()
    };
    assert!(alive().iter().any(|name| name == "sumun_xmit"), "{:?}", alive());
    assert!(!site.ip("r", &["link", "show", "lo"]).contains("xdp"), "nothing is on the loopback device");
    kill(Pid::from_raw(holder.id() as i32), Signal::SIGKILL).expect("killed");
    holder.wait().expect("ended");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !alive().is_empty() {
        assert!(Instant::now() < deadline, "{:?} stays", alive());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn all_frames_are_found_again_when_stopped_amid_a_flood() {
    let site = Site::new("flood", 1);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(site.echo(1, 1), 1);
    let done = AtomicBool::new(false);
    let seen = running.seen.clone();
    std::thread::scope(|scope| {
        for end in ["a", "b"] {
            let (site, done) = (&site, &done);
            scope.spawn(move || {
                site.within(end, || {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                    let to = if end == "a" { "10.9.0.2:9" } else { "10.9.0.1:9" };
                    while !done.load(Ordering::Relaxed) {
                        let _ = socket.send_to(&[7; 1000], to);
                    }
                })
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        let census = running.stop();
        done.store(true, Ordering::Relaxed);
        assert_eq!(census.made, 4096);
    });
    assert!(seen.frames.iter().all(|frames| frames.load(Ordering::Relaxed) > 1_000), "a flood it was");
}

#[test]
fn what_the_kernel_loses_before_the_router_is_counted_by_queue_and_reason() {
    let site = Site::new("lost", 1);
    run(&["ip", "netns", "exec", &site.name("a"), "sysctl", "-qw", "net.ipv6.conf.a0.disable_ipv6=1"]);
    site.ip("a", &["neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "a0"]);
    let mut interfaces = ports(Attach::Auto);
    interfaces.iter_mut().for_each(|port| device_of(port).ring = 64);
    let Opened { gauges, mut workers, .. } = site.within("r", || open(&interfaces, 1)).expect("the ports open");
    assert_eq!(
        gauges.iter().map(|gauge| (gauge.port, gauge.queue)).collect::<Vec<_>>(),
        [(PortId(0), 0), (PortId(1), 0)]
    );
    let share = &mut workers[0];
    let Seat::Own(port) = &mut share.seats[0].1 else { panic!("one worker has all ports") };
    // A worker that is busy: empty frames are there, and what comes in is not fetched.
    let mut fetched = Vec::new();
    let mut lost_of = |datagrams: u64, expected: QueueLosses| {
        port.receive(&mut share.pool, &mut fetched, 0);
        site.within("a", || {
            let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
            for _ in 0..datagrams {
                socket.send_to(&[7; 100], "10.9.0.2:9").expect("sent");
            }
        });
        let deadline = Instant::now() + Duration::from_secs(2);
        while gauges[0].read() != Some(expected) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(gauges[0].read(), Some(expected));
    };
    lost_of(64, QueueLosses::default());
    // The ring is full, whatever else is there.
    lost_of(50, QueueLosses { ring_full: 50, ..QueueLosses::default() });
    drop(workers);
    assert_eq!(gauges[0].read(), None, "the port is closed");
}

#[test]
fn frames_that_come_where_no_empty_one_is_are_counted() {
    let site = Site::new("want", 1);
    run(&["ip", "netns", "exec", &site.name("a"), "sysctl", "-qw", "net.ipv6.conf.a0.disable_ipv6=1"]);
    site.ip("a", &["neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "a0"]);
    // No worker has given the device a frame yet.
    let opened = site.open(Attach::Auto, 1).expect("the ports open");
    site.within("a", || {
        let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        for _ in 0..30 {
            socket.send_to(&[7; 100], "10.9.0.2:9").expect("sent");
        }
    });
    let expected = QueueLosses { dropped: 30, fill_empty: 30, ..QueueLosses::default() };
    let deadline = Instant::now() + Duration::from_secs(2);
    while opened.gauges[0].read() != Some(expected) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(opened.gauges[0].read(), Some(expected));
    assert_eq!(opened.gauges[1].read(), Some(QueueLosses::default()));
}

#[test]
fn a_device_that_goes_away_leaves_the_worker_asleep_and_the_census_whole() {
    let site = Site::new("gone", 1);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(site.echo(100, 1), 100);
    site.ip("r", &["link", "del", "r1"]);
    site.within("a", || {
        let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        for _ in 0..2_000 {
            let _ = socket.send_to(&[7; 100], "10.9.0.2:9");
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    let before = running.seen.turns.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(500));
    let turns = running.seen.turns.load(Ordering::Relaxed) - before;
    assert!(turns < 20_000, "{turns} turns in half a second without a frame");
    running.control.stop();
    let census = running.thread.join().expect("joined").expect("no worker panicked");
    assert!(census.is_complete(), "{census:?}");
}

#[test]
fn generic_mode_passes_frames_too() {
    let site = Site::new("generic", 1);
    let running = site.bridge(Attach::Generic, 1);
    assert_eq!(running.modes, [Mode { native: false, zero_copy: false, queues: 1, jumbo: false }; 2]);
    assert_eq!(site.echo(1_000, 1), 1_000);
    running.stop();
}

#[test]
fn auto_falls_back_to_generic_where_the_driver_refuses() {
    let site = Site::new("fallback", 1);
    // A bridge has no native XDP, and does not tell how many queues it has.
    site.ip("r", &["link", "add", "r2", "numrxqueues", "3", "numtxqueues", "3", "type", "bridge"]);
    site.ip("r", &["link", "set", "r2", "up"]);
    let opened = site.within("r", || open(&[interface("r2", Attach::Auto)], 1)).expect("opens");
    assert_eq!(opened.modes, [Mode { native: false, zero_copy: false, queues: 3, jumbo: false }]);
    drop(opened);
    let refused = site.within("r", || open(&[interface("r2", Attach::Native)], 1)).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::NotNative { .. }), "{refused}");
}

#[test]
fn two_queues_are_served_by_two_workers() {
    let site = Site::new("queues", 2);
    let running = site.bridge(Attach::Auto, 2);
    assert_eq!(running.modes, [Mode { native: true, zero_copy: false, queues: 2, jumbo: false }; 2]);
    assert_eq!(site.echo(4_000, 16), 4_000);
    assert_eq!(running.stop().made, 8192);
}

#[test]
fn one_worker_serves_all_queues() {
    let site = Site::new("both", 2);
    let running = site.bridge(Attach::Auto, 1);
    assert_eq!(running.modes[0].queues, 2);
    assert_eq!(site.echo(2_000, 16), 2_000);
    running.stop();
}

#[test]
fn a_worker_without_a_queue_hands_its_frames_over() {
    let site = Site::new("over", 1);
    // Replace r1 by a device of two queues: worker 1 receives on r1's second queue only and must send on r0 through worker 0.
    site.ip("b", &["link", "del", "b0"]);
    let (b, r) = (site.name("b"), site.name("r"));
    run(&[
        "ip",
        "link",
        "add",
        "b0",
        "netns",
        &b,
        "numrxqueues",
        "2",
        "numtxqueues",
        "2",
        "type",
        "veth",
        "peer",
        "name",
        "r1",
        "netns",
        &r,
        "numrxqueues",
        "2",
        "numtxqueues",
        "2",
    ]);
    run(&["ip", "netns", "exec", &b, "ethtool", "-K", "b0", "tx", "off", "gso", "off", "tso", "off"]);
    site.ip("b", &["addr", "add", "10.9.0.2/24", "dev", "b0"]);
    site.ip("b", &["link", "set", "b0", "up"]);
    site.ip("r", &["link", "set", "r1", "up"]);
    let running = site.bridge(Attach::Auto, 2);
    assert_eq!(running.modes.iter().map(|mode| mode.queues).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(site.echo(4_000, 32), 4_000);
    assert!(running.seen.workers[1].load(Ordering::Relaxed) >= 100, "worker 1 had frames to hand over");
    assert_eq!(running.seen.drops.load(Ordering::Relaxed), 0);
    running.stop();
}

#[test]
fn what_is_not_for_the_router_reaches_the_kernel() {
    let site = Site::new("lldp", 1);
    let running = site.bridge(Attach::Auto, 1);
    // Two bridges of the kernel that speak STP, which is neither IP nor ARP: the one behind r0 takes the other for the
    // designated bridge of that link as soon as it hears it.
    let bridge = |end, priority| {
        let timers = ["stp_state", "1", "hello_time", "100", "forward_delay", "200", "priority", priority];
        site.ip(end, &[&["link", "add", "br0", "type", "bridge"], &timers[..]].concat());
        site.ip(end, &["link", "set", "br0", "up"]);
    };
    bridge("a", "4096");
    bridge("r", "8192");
    site.ip("r", &["link", "set", "r0", "master", "br0"]);
    site.ip("a", &["link", "set", "a0", "master", "br0"]);
    let hears = || site.ip("r", &["-d", "link", "show", "r0"]).contains("designated_bridge 1000.");
    let deadline = Instant::now() + Duration::from_secs(8);
    while !hears() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(hears(), "no STP frame reached the kernel");
    assert_eq!(running.seen.foreign.load(Ordering::Relaxed), 0, "the router got what is not for it");
    running.stop();
}

#[test]
fn an_idle_worker_sleeps() {
    let site = Site::new("idle", 1);
    let running = site.bridge(Attach::Auto, 1);
    std::thread::sleep(Duration::from_millis(300));
    let before = running.seen.turns.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(500));
    let turns = running.seen.turns.load(Ordering::Relaxed) - before;
    println!("idle: {turns} turns in half a second");
    // Each wake-up (a stray neighbour packet, the longest sleep) brings some turns of 50 µs; a busy loop has a million.
    assert!(turns < 20_000, "{turns} turns in half a second without a frame");
    let started = Instant::now();
    running.stop();
    assert!(started.elapsed() < Duration::from_secs(2), "a sleeping worker is told to stop and does");
}

#[test]
fn nothing_stays_on_the_device_after_closing() {
    let site = Site::new("detach", 1);
    for attach in [Attach::Auto, Attach::Generic] {
        let running = site.bridge(attach, 1);
        assert!(site.ip("r", &["link", "show", "r0"]).contains("xdp"));
        running.stop();
        let mut after = site.ip("r", &["-d", "link", "show"]);
        let patience = Instant::now();
        // The kernel lets go of a socket's memberships with its last reference, which may be a moment later.
        while after.contains("allmulti 1") && patience.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
            after = site.ip("r", &["-d", "link", "show"]);
        }
        assert!(!after.contains("xdp") && !after.contains("allmulti 1"), "{after}");
    }
    // And what is half open when it fails is closed as well.
    site.ip("r", &["link", "set", "r1", "down"]);
    assert!(site.open(Attach::Auto, 1).is_err());
    assert!(!site.ip("r", &["link", "show"]).contains("xdp"));
}

#[test]
fn a_killed_router_leaves_nothing_behind_and_is_started_anew() {
    let site = Site::new("killed", 1);
    for _ in 0..3 {
        let mut holder = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "hold_the_ports_until_killed", "--nocapture"])
            .env("SUMUN_PORTS_HOLD", site.name("r"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let mut lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("holding"))), "it holds the ports");
        let refused = site.open(Attach::Auto, 1).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("another sumun-dataplane runs on this device"), "{refused}");
        kill(Pid::from_raw(holder.id() as i32), Signal::SIGKILL).expect("killed");
        holder.wait().expect("ended");
        let running = site.bridge(Attach::Auto, 1);
        assert_eq!(site.echo(100, 1), 100);
        running.stop();
    }
    assert!(!site.ip("r", &["link", "show"]).contains("xdp"));
}

#[test]
fn without_the_privilege_it_says_what_is_missing() {
    let site = Site::new("caps", 1);
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("ip")
        .args(["netns", "exec", &site.name("r"), "setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(program)
        .args(["--exact", "hold_the_ports_until_killed", "--nocapture"])
        .env("SUMUN_PORTS_HOLD", "")
        .stdin(Stdio::null())
        .output()
        .expect("a second process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("refused: r0: loading the XDP program: not permitted: run as root"), "{said}");
}

/// Not a test of its own: the process that the tests above start.
#[test]
fn hold_the_ports_until_killed() {
    let Ok(namespace) = std::env::var("SUMUN_PORTS_HOLD") else { return };
    if !namespace.is_empty() {
        enter(&namespace);
    }
    match open(&ports(Attach::Auto), 1) {
        Ok(_opened) => {
            println!("holding");
            // Ends with its parent, should that not come to kill it.
            let _ = std::io::stdin().read(&mut [0]);
        }
        Err(error) => println!("refused: {error}"),
    }
}

#[test]
fn what_is_wrong_with_a_device_is_said_in_one_line() {
    let site = Site::new("errors", 1);
    let refused = |device: &str, change: &dyn Fn(&mut Interface)| {
        let mut interface = interface(device, Attach::Auto);
        change(&mut interface);
        let error = site.within("r", || open(&[interface], 1)).map(|_| ()).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.starts_with(device), "{error}");
        error
    };
    let unchanged = |_: &mut Interface| {};
    assert!(refused("absent0", &unchanged).contains("no such device in this network namespace"));
    assert!(refused("a0", &unchanged).contains("no such device in this network namespace"));
    assert!(refused("a-name-that-is-too-long", &unchanged).contains("no such device"));
    site.ip("r", &["link", "set", "lo", "up"]);
    assert!(refused("lo", &unchanged).contains("not an Ethernet device"));
    site.ip("r", &["link", "set", "r0", "down"]);
    assert!(refused("r0", &unchanged).contains("ip link set dev r0 up"));
    site.ip("r", &["link", "set", "r0", "up"]);
    assert!(refused("r0", &|interface| interface.mtu = Some(1501)).contains("more than the device's own 1500"));
    assert!(refused("r0", &|interface| device_of(interface).ring = 500).contains("not a power of two"));
    assert!(
        refused("r0", &|interface| device_of(interface).copy = CopyMode::ZeroCopy)
            .contains("zero-copy is not possible")
    );
    site.ip("r", &["link", "set", "r0", "mtu", "9001"]);
    let error = refused("r0", &unchanged);
    assert!(error.contains("9001") && error.contains("ip link set dev r0 mtu 9000"), "{error}");
    site.ip("r", &["link", "set", "r0", "mtu", "1500"]);
    let few = site.within("r", || {
        af_xdp::open(Plan {
            interfaces: &ports(Attach::Auto),
            all_frames: &[],
            workers: 1,
            beside: 0,
            frames_per_worker: 64,
            frame_size: 2048,
        })
    });
    assert!(few.map(|_| ()).unwrap_err().to_string().contains("at least 128"));
}

#[test]
fn a_device_with_a_foreign_program_is_refused_with_the_way_out() {
    let site = Site::new("foreign", 1);
    let directory = tempfile::tempdir().expect("a directory");
    let (source, object) = (directory.path().join("pass.c"), directory.path().join("pass.o"));
    std::fs::write(&source, "__attribute__((section(\"xdp\"))) int foreign(void *ctx) { return 2; }").expect("written");
    run(&[
        "clang",
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-c",
        source.to_str().expect("utf-8"),
        "-o",
        object.to_str().expect("utf-8"),
    ]);
    for mode in ["xdp", "xdpgeneric"] {
        site.ip("r", &["link", "set", "dev", "r0", mode, "obj", object.to_str().expect("utf-8"), "sec", "xdp"]);
        let error = site.open(Attach::Auto, 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("ip link set dev r0 {mode} off")), "{error}");
        site.ip("r", &["link", "set", "dev", "r0", mode, "off"]);
        site.open(Attach::Auto, 1).expect("opens now");
    }
}
