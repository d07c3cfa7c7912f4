//! Three namespaces with veths between them, and a router of two ports on them.

use nix::sched::{CloneFlags, setns};
use nix::unistd::Uid;
use std::fs::File;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sumun_config::facts::PortId;
use sumun_config::model::{Attach, CopyMode, Device, Idle, Interface, Kind, LocalStack, Transmit};
use sumun_dataplane::port::af_xdp::{self, Mode, OpenError, Opened, Plan, Sending};
use sumun_dataplane::reason::DropReason;
use sumun_dataplane::umem::{Frame, Pool};
use sumun_dataplane::worker::{self, Census, Control, Forwarder, Member, WorkerError};

/// Two ports, and what comes in on one goes out on the other.
pub struct Bridge {
    pub pool: Pool,
    pub tx: [Vec<Frame>; 2],
    pub worker: usize,
    pub seen: Arc<Seen>,
}

#[derive(Default)]
pub struct Seen {
    /// By port.
    pub frames: [AtomicU64; 2],
    /// By worker.
    pub workers: [AtomicU64; 2],
    /// Frames that are neither IP nor ARP nor tagged.
    pub foreign: AtomicU64,
    pub turns: AtomicU64,
    pub drops: AtomicU64,
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
pub struct Site {
    pub prefix: String,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Site {
    /// `queues` receive and transmit queues on each end.
    pub fn new(test: &str, queues: u32) -> Site {
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

    pub fn name(&self, end: &str) -> String {
        format!("{}-{end}", self.prefix)
    }

    pub fn remove(&self) {
        for end in ["a", "r", "b"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(end)]).stderr(Stdio::null()).status();
        }
    }

    /// Runs `work` in a thread that lives in a namespace.
    pub fn within<T: Send>(&self, end: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.name(end);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&namespace);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn ip(&self, end: &str, arguments: &[&str]) -> String {
        let name = self.name(end);
        run(&[&["ip", "-n", &name], arguments].concat())
    }

    /// Opens both ports of the router.
    pub fn open(&self, attach: Attach, workers: usize) -> Result<Opened, OpenError> {
        self.within("r", || open(&ports(attach), workers))
    }

    /// Runs the bridge on one thread for each worker.
    pub fn bridge(&self, attach: Attach, workers: usize) -> Running {
        self.bridge_of(&ports(attach), 2048, workers)
    }

    /// The same of ports that differ from the usual.
    pub fn bridge_of(&self, interfaces: &[Interface], frame_size: u32, workers: usize) -> Running {
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
    pub fn echo(&self, count: u64, flows: u16) -> u64 {
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
    pub fn set_gro(&self, state: &str) {
        for (end, device) in [("a", "a0"), ("b", "b0")] {
            run(&["ip", "netns", "exec", &self.name(end), "ethtool", "-K", device, "gro", state]);
        }
    }

    /// A counter of a router's device.
    pub fn counter(&self, device: &str, name: &str) -> u64 {
        let all = run(&["ip", "netns", "exec", &self.name("r"), "ethtool", "-S", device]);
        let value = all.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("no {name} in {all}")).parse().expect("a number")
    }

    /// Sends datagrams from a to b in windows: each is sent at once, when all before it have arrived. They must arrive
    /// unchanged, in order, and all.
    pub fn stream(&self, windows: impl Iterator<Item = u64> + Send, length: impl Fn(u64) -> usize + Sync) {
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
pub struct Running {
    pub modes: Vec<Mode>,
    pub sending: Vec<Sending>,
    pub seen: Arc<Seen>,
    pub control: Control,
    pub thread: JoinHandle<Result<Census, WorkerError>>,
}

impl Running {
    pub fn stop(self) -> Census {
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
pub fn payload(number: u64) -> Vec<u8> {
    let length = 8 + (number * 37 % 1465) as usize;
    number.to_be_bytes().iter().copied().chain((0..).map(|i: u64| (i * 7 + number) as u8)).take(length).collect()
}

pub fn interface(device: &str, attach: Attach) -> Interface {
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

pub fn device_of(interface: &mut Interface) -> &mut Device {
    match &mut interface.kind {
        Kind::Device(device) => device,
        Kind::Vlan(vlan) => panic!("{vlan:?}"),
    }
}

pub fn ports(attach: Attach) -> Vec<Interface> {
    vec![interface("r0", attach), interface("r1", attach)]
}

pub fn open(interfaces: &[Interface], workers: usize) -> Result<Opened, OpenError> {
    af_xdp::open(Plan { interfaces, all_frames: &[], workers, beside: 0, frames_per_worker: 4096, frame_size: 2048 })
}

pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    setns(file, CloneFlags::CLONE_NEWNET).expect("entered");
}

pub fn run(command: &[&str]) -> String {
    let output =
        Command::new(command[0]).args(&command[1..]).output().unwrap_or_else(|e| panic!("{}: {e}", command[0]));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
