//! What hosts say to each other: TCP transfers whose content is checked, UDP echoes.

use crate::Host;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Answers in a row after which a way counts as mended: one that is lost later was lost for another reason.
const STEADY: usize = 30;

const PATIENCE: Duration = Duration::from_secs(20);

const GREETING: &[u8] = b"welcome";

/// Byte `i` of every transfer: a pattern that repeats after a prime number of bytes, so that no lost or doubled piece fits.
fn pattern(i: usize) -> u8 {
    (i % 65_521 % 251) as u8
}

/// Serves one TCP connection: checks that exactly `len` bytes of the pattern come, answers with their number, and returns
/// the address that the client seemed to have.
pub fn tcp_sink(host: &Host, address: &str, len: usize) -> Result<JoinHandle<Result<SocketAddr>>> {
    let address: SocketAddr = address.parse()?;
    let listener = host.inside(move || Ok(TcpListener::bind(address)?))?;
    Ok(host.spawn(move || {
        let (mut stream, peer) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut got = 0;
        let mut buffer = vec![0; 65_536];
        loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            for (k, byte) in buffer[..n].iter().enumerate() {
                ensure!(*byte == pattern(got + k), "byte {} is wrong", got + k);
            }
            got += n;
        }
        ensure!(got == len, "{got} bytes of {len}");
        stream.write_all(&(got as u64).to_be_bytes())?;
        Ok(peer)
    }))
}

/// Sends `len` bytes of the pattern to a [`tcp_sink`], waits for its answer, and calls `at` before each piece with the number
/// of bytes sent so far.
pub fn tcp_send(stream: &mut TcpStream, len: usize, mut at: impl FnMut(usize)) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut sent = 0;
    while sent < len {
        at(sent);
        let piece: Vec<u8> = (sent..len.min(sent + 65_536)).map(pattern).collect();
        stream.write_all(&piece)?;
        sent += piece.len();
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).context("no answer from the sink")?;
    ensure!(u64::from_be_bytes(answer) == len as u64);
    Ok(())
}

/// Opens a TCP connection from a host; `from` may fix the source port.
pub fn tcp_connect(host: &Host, to: &str, from: Option<SocketAddr>) -> Result<TcpStream> {
    let to: SocketAddr = to.parse()?;
    host.inside(move || match from {
        None => Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?),
        Some(from) => {
            use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
            let family = match from {
                SocketAddr::V4(_) => AddressFamily::Inet,
                SocketAddr::V6(_) => AddressFamily::Inet6,
            };
            let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            use std::os::fd::AsRawFd;
            socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
            socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
            Ok(TcpStream::from(fd))
        }
    })
}

/// A whole transfer from one host to another; returns the client's address as the server saw it.
pub fn tcp_transfer(from: &Host, to: &Host, listen: &str, connect: &str, len: usize) -> Result<IpAddr> {
    let sink = tcp_sink(to, listen, len)?;
    let mut stream = tcp_connect(from, connect, None).with_context(|| format!("connecting to {connect}"))?;
    tcp_send(&mut stream, len, |_| {})?;
    let peer = sink.join().map_err(|_| anyhow::anyhow!("the sink panicked"))??;
    Ok(peer.ip())
}

/// Serves TCP connections one after the other: greets each and closes it, so that what is kept of it (TIME_WAIT) is kept here.
pub fn tcp_greet(host: &Host, address: &str, count: usize) -> Result<JoinHandle<Result<()>>> {
    let address: SocketAddr = address.parse()?;
    let listener = host.inside(move || Ok(TcpListener::bind(address)?))?;
    Ok(host.spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(GREETING)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            ensure!(stream.read(&mut [0])? == 0, "the client only closes");
        }
        Ok(())
    }))
}

/// A connection to [`tcp_greet`], from this address and port. An earlier one from there may take a moment to end.
pub fn tcp_greeted(host: &Host, to: &str, from: SocketAddr) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut stream = loop {
        match tcp_connect(host, to, Some(from)) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    ensure!(heard == GREETING, "the greeting is wrong: {heard:?}");
    Ok(())
}

/// Answers what comes on TCP connections with the same, as many at once as come, until the test ends.
pub fn tcp_echo(host: &Host, address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let listener = host.inside(move || Ok(TcpListener::bind(address)?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    Ok(())
}

/// A UDP socket of a host on this address, which waits five seconds for a datagram.
pub fn udp_bind(host: &Host, address: &str) -> Result<UdpSocket> {
    let address: IpAddr = address.parse()?;
    let socket = host.inside(|| Ok(UdpSocket::bind((address, 0))?))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Sends a datagram each way between two sockets; what comes must be what went.
pub fn udp_both_ways(here: &UdpSocket, there: &UdpSocket, data: &[u8]) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    for (from, to) in [(here, there), (there, here)] {
        from.send_to(data, to.local_addr()?)?;
        let (n, _) = to.recv_from(&mut buffer).with_context(|| format!("{} bytes to {to:?}", data.len()))?;
        ensure!(buffer[..n] == *data, "{} bytes to {to:?}", data.len());
    }
    Ok(())
}

/// Answers `count` datagrams with their own content; returns the senders. `usize::MAX` is until the test ends.
pub fn udp_echo(host: &Host, address: &str, count: usize) -> Result<JoinHandle<Result<Vec<SocketAddr>>>> {
    let address: SocketAddr = address.parse()?;
    let socket = host.inside(move || Ok(UdpSocket::bind(address)?))?;
    socket.set_read_timeout(Some(PATIENCE).filter(|_| count < usize::MAX))?;
    Ok(host.spawn(move || {
        let mut peers = Vec::new();
        let mut buffer = vec![0; 65_536];
        for _ in 0..count {
            let (n, peer) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..n], peer)?;
            if count < usize::MAX {
                peers.push(peer);
            }
        }
        Ok(peers)
    }))
}

/// A UDP socket of a host, connected.
pub fn udp_connect(host: &Host, local: &str, to: &str) -> Result<UdpSocket> {
    let (local, to): (SocketAddr, SocketAddr) = (local.parse()?, to.parse()?);
    let socket = host.inside(move || {
        let socket = UdpSocket::bind(local)?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}

/// Sends a datagram and expects the same back.
pub fn udp_ask(socket: &UdpSocket, text: &[u8]) -> Result<()> {
    socket.send(text)?;
    let mut buffer = vec![0; 65_536];
    let n = socket.recv(&mut buffer)?;
    ensure!(&buffer[..n] == text, "{n} other bytes came back");
    Ok(())
}

/// When the last question without an answer was asked before [`STEADY`] in a row were answered; zero where all were. `asked`: when,
/// and whether it was answered.
pub fn steady_after(asked: impl IntoIterator<Item = (Duration, bool)>) -> Duration {
    let (mut last, mut answered) = (Duration::ZERO, 0);
    for (when, is_answered) in asked {
        match is_answered {
            true => answered += 1,
            // The first question is asked at once.
            false => (last, answered) = (when.max(Duration::from_nanos(1)), 0),
        }
        if answered == STEADY && !last.is_zero() {
            break;
        }
    }
    last
}

/// Asks each of these, all 10 ms and for so long, and tells of each from when on it was answered ([`steady_after`]).
pub fn udp_unanswered(host: &Host, to: &[SocketAddr], lasts: Duration) -> Result<Vec<Duration>> {
    let pause = Duration::from_millis(10);
    let open = |to: &SocketAddr| -> Result<UdpSocket> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let sockets = host.inside(|| to.iter().map(open).collect::<Result<Vec<_>>>())?;
    let (begun, mut asked) = (Instant::now(), Vec::new());
    let mut answered = vec![HashSet::new(); to.len()];
    let hear = |answered: &mut Vec<HashSet<[u8; 4]>>| {
        for (socket, answered) in sockets.iter().zip(answered) {
            let mut number = [0; 4];
            loop {
                match socket.recv(&mut number) {
                    Ok(_) => {
                        answered.insert(number);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // What a router told is no answer.
                    Err(_) => {}
                }
            }
        }
    };
    while begun.elapsed() < lasts {
        let number = (asked.len() as u32).to_be_bytes();
        asked.push((begun.elapsed(), number));
        for socket in &sockets {
            let _ = socket.send(&number);
        }
        std::thread::sleep(pause);
        hear(&mut answered);
    }
    std::thread::sleep(20 * pause);
    hear(&mut answered);
    let last = |answered: &HashSet<[u8; 4]>| {
        steady_after(asked.iter().map(|(when, number)| (*when, answered.contains(number))))
    };
    Ok(answered.iter().map(last).collect())
}
