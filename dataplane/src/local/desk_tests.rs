//! Clients of the status page, each a TCP stack of its own, before the local stack of a router.

use super::board::{Board, Pages};
use super::desk::PLACES;
use super::http::{Answer, Status};
use super::*;
use smoltcp::iface::SocketHandle;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{IpAddress, IpCidr};
use std::collections::VecDeque;

const PORT: u16 = 9100;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// A link that the test carries packets over.
#[derive(Default)]
struct Link {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.incoming.pop_front()?), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// A router's local stack for each worker, and one client host.
struct Bench {
    now: u64,
    board: Arc<Board>,
    workers: Vec<Local>,
    interface: Interface,
    sockets: SocketSet<'static>,
    link: Link,
    /// Ports that packets went out for, and the TOS of each.
    sent: Vec<(PortId, u8)>,
}

impl Bench {
    fn new(workers: usize) -> Bench {
        let board = Arc::new(Board::new(workers));
        let mut link = Link::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, 1), 24)).unwrap();
            addresses.push(IpCidr::new(IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64)).unwrap();
        });
        let mut stacks: Vec<Local> = (0..workers).map(|worker| Local::new(7, board.clone(), worker)).collect();
        for stack in &mut stacks {
            stack.configure(&Sysctl::default(), Some(Metrics { port: PORT }));
        }
        let sockets = SocketSet::new(Vec::new());
        Bench { now: SECOND, board, workers: stacks, interface, sockets, link, sent: Vec::new() }
    }

    /// A client that connects; its answer may have a megabyte.
    fn connect(&mut self, address: IpAddress, port: u16) -> SocketHandle {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; 1 << 20]), SocketBuffer::new(vec![0; 4096]));
        socket.connect(self.interface.context(), (address, PORT), port).unwrap();
        self.sockets.add(socket)
    }

    fn say(&mut self, client: SocketHandle, text: &str) {
        assert_eq!(self.sockets.get_mut::<Socket>(client).send_slice(text.as_bytes()), Ok(text.len()));
    }

    fn state(&self, client: SocketHandle) -> State {
        self.sockets.get::<Socket>(client).state()
    }

    fn heard(&mut self, client: SocketHandle) -> String {
        let socket = self.sockets.get_mut::<Socket>(client);
        let mut text = String::new();
        while socket.can_recv() {
            text += socket.recv(|bytes| (bytes.len(), String::from_utf8_lossy(bytes).into_owned())).as_deref().unwrap();
        }
        text
    }

    /// Lets time go by, carrying packets: what the client sends comes in on port 3 of the last worker. Pages are made for who
    /// asks.
    fn run(&mut self, for_ns: u64) {
        let end = self.now + for_ns;
        while self.now < end {
            self.now += MS;
            let time = Instant::from_micros((self.now / 1000) as i64);
            self.interface.poll(time, &mut self.link, &mut self.sockets);
            for packet in self.link.outgoing.drain(..) {
                let family = if packet[0] >> 4 == 6 { Family::V6 } else { Family::V4 };
                let mut facts = parse::ip(family, &packet).unwrap();
                facts.iif = PortId(3);
                let stack = self.workers.last_mut().unwrap();
                if stack.input(&packet, &facts, facts.dst) == Ok(Some(Refusal::Reset)) {
                    panic!("refused");
                }
            }
            if self.board.is_due() {
                let page = |text: &str| Answer::new(Status::Ok, "text/plain", &text.repeat(10_000));
                self.board.pin(Pages { made: self.now, overview: page("overview "), metrics: page("metric ") });
            }
            for stack in self.workers.iter_mut().rev() {
                stack.poll(self.now, &mut |packet, port| {
                    let family = if packet[0] >> 4 == 6 { Family::V6 } else { Family::V4 };
                    let facts = parse::ip(family, packet).unwrap();
                    assert!(parse::l4_checksum_ok(&facts, packet));
                    assert!(facts.len <= 1280, "{}", facts.len);
                    self.sent.push((port, facts.tos));
                    self.link.incoming.push_back(packet.to_vec());
                });
            }
        }
    }

    fn answered(&self, status: Status) -> u64 {
        self.board.answers[status as usize].get()
    }
}

const V4: IpAddress = IpAddress::v4(10, 0, 0, 2);
const V6: IpAddress = IpAddress::v6(0xfe80, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn pages_are_shown_over_both_families_and_their_link() {
    for workers in [1, 2] {
        for (n, address) in [V4, V6].into_iter().enumerate() {
            let mut bench = Bench::new(workers);
            let client = bench.connect(address, 1000 + n as u16);
            bench.run(20 * MS);
            assert_eq!(bench.state(client), State::Established);
            bench.say(client, "GET /met");
            bench.run(20 * MS);
            bench.say(client, "rics HTTP/1.1\r\n\r\n");
            bench.run(200 * MS);
            let text = bench.heard(client);
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
            assert_eq!(text.matches("metric ").count(), 10_000);
            assert_eq!(bench.state(client), State::CloseWait, "the router has closed");
            assert!(bench.sent.iter().all(|sent| *sent == (PortId(3), 0)));
            assert_eq!(bench.answered(Status::Ok), 1);
        }
    }
}

#[test]
fn a_page_serves_who_asks_within_a_second() {
    let mut bench = Bench::new(1);
    let mut made = Vec::new();
    for port in 0..20 {
        let client = bench.connect(V4, 1000 + port);
        bench.run(10 * MS);
        bench.say(client, "HEAD / HTTP/1.1\r\n\r\n");
        bench.run(90 * MS);
        assert!(bench.heard(client).ends_with("\r\n\r\n"));
        made.push(bench.board.is_due());
    }
    assert_eq!(bench.answered(Status::Ok), 20);
    assert!(made.iter().all(|due| !due));
}

#[test]
fn what_is_no_request_is_refused() {
    let cases = [
        ("GET /x HTTP/1.1\r\n\r\n", Status::NotFound),
        ("PUT / HTTP/1.1\r\n\r\n", Status::NotAllowed),
        ("\u{16}\u{3}\u{1}\u{0}", Status::BadRequest),
    ];
    let mut bench = Bench::new(1);
    for (n, (text, status)) in cases.into_iter().enumerate() {
        let client = bench.connect(V4, 2000 + n as u16);
        bench.run(10 * MS);
        bench.say(client, text);
        bench.run(30 * MS);
        let answer = bench.heard(client);
        assert!(answer.starts_with(&format!("HTTP/1.1 {}\r\n", status.line())), "{answer}");
        assert_eq!(bench.answered(status), 1);
    }
}

#[test]
fn who_says_too_much_or_too_little_is_refused_in_time() {
    let mut bench = Bench::new(1);
    let [silent, slow, long, half] = [3000, 3001, 3002, 3003].map(|port| bench.connect(V4, port));
    bench.run(10 * MS);
    bench.say(long, &format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(3000)));
    bench.say(half, "GET /");
    bench.run(20 * MS);
    bench.sockets.get_mut::<Socket>(half).close();
    for _ in 0..60 {
        if bench.state(slow) == State::Established {
            bench.say(slow, "G");
        }
        bench.run(100 * MS);
    }
    assert!(bench.heard(silent).starts_with("HTTP/1.1 408 "));
    // `GGG...` is a method that goes on.
    assert!(bench.heard(slow).starts_with("HTTP/1.1 408 "));
    assert!(bench.heard(long).starts_with("HTTP/1.1 431 "));
    assert_eq!(bench.heard(half), "");
    assert!(matches!(bench.state(half), State::TimeWait | State::Closed));
}

#[test]
fn idle_clients_give_way_to_new_ones_and_places_come_back() {
    let mut bench = Bench::new(1);
    for port in 0..PLACES as u16 {
        bench.connect(V4, 4000 + port);
    }
    bench.run(100 * MS);
    let early = bench.connect(V4, 5000);
    bench.run(100 * MS);
    assert_eq!(bench.state(early), State::SynSent, "all places are taken, and by new ones");
    assert!(bench.board.turned_away.get() >= 1);
    bench.run(2 * SECOND);
    assert_eq!(bench.state(early), State::Established, "it has asked again");
    for round in 0..4 {
        let clients: Vec<SocketHandle> = (0..50).map(|n| bench.connect(V4, 6000 + 100 * round + n)).collect();
        bench.run(1500 * MS);
        for client in &clients {
            bench.say(*client, "GET / HTTP/1.1\r\n\r\n");
        }
        bench.run(SECOND);
        for client in clients {
            assert_eq!(bench.heard(client).matches("overview ").count(), 10_000);
            bench.sockets.get_mut::<Socket>(client).close();
        }
        bench.run(20 * MS);
    }
}

#[test]
fn a_connection_that_is_reset_before_it_began_leaves_no_trace() {
    let mut bench = Bench::new(1);
    for port in 0..2 * PLACES as u16 {
        let scan = bench.connect(V4, 11_000 + port);
        bench.run(2 * MS);
        bench.sockets.get_mut::<Socket>(scan).abort();
        bench.run(MS);
    }
    bench.run(6 * SECOND);
    assert_eq!(bench.answered(Status::Timeout), 0);
    let client = bench.connect(V4, 12_000);
    bench.run(20 * MS);
    bench.say(client, "HEAD / HTTP/1.1\r\n\r\n");
    bench.run(50 * MS);
    assert!(bench.heard(client).starts_with("HTTP/1.1 200 "));
}

#[test]
fn clients_that_do_not_read_are_left_in_the_end() {
    let mut bench = Bench::new(1);
    let mut socket = Socket::new(SocketBuffer::new(vec![0; 2000]), SocketBuffer::new(vec![0; 4096]));
    socket.connect(bench.interface.context(), (V4, PORT), 7000).unwrap();
    let client = bench.sockets.add(socket);
    bench.run(10 * MS);
    bench.say(client, "GET / HTTP/1.1\r\n\r\n");
    bench.run(31 * SECOND);
    assert_eq!(bench.state(client), State::Closed, "it was reset");
}

#[test]
fn the_port_follows_the_settings() {
    let mut bench = Bench::new(1);
    let client = bench.connect(V4, 8000);
    bench.run(10 * MS);
    let local = &mut bench.workers[0];
    local.configure(&Sysctl::default(), Some(Metrics { port: PORT }));
    bench.say(client, "GET /x HTTP/1.1\r\n\r\n");
    bench.run(50 * MS);
    assert!(bench.heard(client).starts_with("HTTP/1.1 404 "), "connections outlive a generation");
    let local = &mut bench.workers[0];
    local.configure(&Sysctl::default(), None);
    assert_eq!(local.next_deadline(0), None);
    let syn = crate::packet::sample::v4(proto::TCP, &crate::packet::sample::tcp(1000, PORT, 2, &[2, 4, 5, 0xb4], b""));
    let facts = parse::ip(Family::V4, &syn).unwrap();
    assert_eq!(local.input(&syn, &facts, facts.dst), Ok(Some(Refusal::Reset)));
}

#[test]
fn a_quiet_stack_wants_nothing() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.workers[0].next_deadline(5), None);
    let client = bench.connect(V4, 9000);
    bench.run(10 * MS);
    assert!(bench.workers[0].next_deadline(bench.now).is_some(), "the request must come in time");
    bench.say(client, "GET / HTTP/1.1\r\n\r\n");
    bench.run(100 * MS);
    bench.heard(client);
    bench.sockets.get_mut::<Socket>(client).close();
    bench.run(15 * SECOND);
    assert_eq!(bench.workers[0].next_deadline(5), None);
}
