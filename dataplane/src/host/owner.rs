//! Whose socket sent a packet of the host? Asked of the kernel (`sock_diag`), for rules with `-m owner`.
//!
//! The kernel knows the socket of a packet while the packet is in its hands; here the packet has left it, and all that is left
//! is to ask which socket has these addresses and ports now. For TCP and UDP that is exact as long as the socket is open. A raw
//! socket or one for pings is told by its protocol alone: if several processes have such sockets, it may be another one. Who has closed the
//! socket right after sending has none any more.
//!
//! The user comes from the kernel. Its groups the kernel does not tell: they are those of a process that has the socket open,
//! which is looked for in `/proc`; where none is found (a process of another PID namespace), the group is that of nobody.
//!
//! One question costs some microseconds, the search some milliseconds on a machine with hundreds of processes; an answer
//! holds for a while, for all packets of the same addresses and ports.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use sumun_config::facts::{Facts, Family, proto};

/// How long an answer holds, in nanoseconds.
const LIFE: u64 = 2_000_000_000;

/// Most answers that are kept.
const MOST: usize = 8192;

/// Processes that are looked at first, because they had sockets before.
const RECENT: usize = 16;

/// Processes that are looked at in one search.
const PROCESSES: usize = 4096;

/// The group of what no process was found for: no rule can name it.
const NOBODY: u32 = u32::MAX;

/// Who has a socket open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The user's other groups.
    pub groups: Arc<[u32]>,
}

/// What makes packets those of one socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Ends {
    family: Family,
    proto: u8,
    src: u128,
    dst: u128,
    sport: u16,
    dport: u16,
}

/// Finds owners. One for each namespace.
pub struct Owners {
    socket: OwnedFd,
    known: HashMap<Ends, (Option<Owner>, u64)>,
    recent: Vec<i32>,
}

impl Owners {
    /// One for the caller's network namespace.
    pub fn open() -> io::Result<Owners> {
        let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        Ok(Owners { socket, known: HashMap::new(), recent: Vec::new() })
    }

    /// Who sent a packet, at `now` nanoseconds, through the device of this number.
    pub fn of(&mut self, facts: &Facts, device: u32, now: u64) -> Option<Owner> {
        let (sport, dport) = if facts.has_l4 { (facts.sport, facts.dport) } else { (0, 0) };
        let Facts { family, proto, src, dst, .. } = *facts;
        let ends = Ends { family, proto, src, dst, sport, dport };
        if let Some((owner, until)) = self.known.get(&ends)
            && *until > now
        {
            return owner.clone();
        }
        let owner = self.ask(&ends, device);
        if self.known.len() >= MOST {
            self.known.retain(|_, (_, until)| *until > now);
            if self.known.len() >= MOST {
                self.known.clear();
            }
        }
        self.known.insert(ends, (owner.clone(), now.saturating_add(LIFE)));
        owner
    }

    fn ask(&mut self, ends: &Ends, device: u32) -> Option<Owner> {
        let (uid, inode) = match ends.proto {
            proto::TCP => self
                .ask_once(&Question::of(ends, device))
                // A connection that is not established yet has no inode of its own: its listener sends for it.
                .filter(|(_, inode)| *inode != 0)
                .or_else(|| self.ask_once(&Question { dst: 0, dport: 0, ..Question::of(ends, device) })),
            // udp_dump_one takes the packet's ends as the receiver sees them.
            proto::UDP | proto::UDPLITE => self.ask_once(&Question::of(ends, device).swapped()),
            _ => self.ask_once(&Question { raw: ends.proto, ..Question::of(ends, device) }),
        }
        .filter(|(_, inode)| *inode != 0)?;
        let (gid, groups) = self.groups(uid, inode).unwrap_or((NOBODY, Arc::new([])));
        Some(Owner { uid, gid, groups })
    }

    /// User and inode of the socket.
    fn ask_once(&self, question: &Question) -> Option<(u32, u32)> {
        let fd = self.socket.as_raw_fd();
        // What was left of an answer that nobody waited for.
        let mut answer = [0; 1024];
        while recv(fd, &mut answer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(fd, &question.request(), MsgFlags::empty()).ok()?;
        // The kernel answers before `send` returns.
        loop {
            match recv(fd, &mut answer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => return read(answer.get(..len)?),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Group and other groups of a process that has a socket open.
    fn groups(&mut self, uid: u32, inode: u32) -> Option<(u32, Arc<[u32]>)> {
        let link = format!("socket:[{inode}]");
        let found = self.recent.iter().position(|pid| has_open(*pid, &link));
        let pid = match found {
            Some(at) => self.recent.remove(at),
            None => search(uid, &link)?,
        };
        self.recent.insert(0, pid);
        self.recent.truncate(RECENT);
        groups_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }
}

/// A process that has a file open: those of the user first.
fn search(uid: u32, link: &str) -> Option<i32> {
    use std::os::unix::fs::MetadataExt;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<i32>().ok()?, entry)));
    let (own, others): (Vec<_>, Vec<_>) = numbers
        .take(PROCESSES)
        .map(|(pid, entry)| (pid, entry.metadata().is_ok_and(|metadata| metadata.uid() == uid)))
        .partition(|(_, is_own)| *is_own);
    own.into_iter().chain(others).map(|(pid, _)| pid).find(|pid| has_open(*pid, link))
}

fn has_open(pid: i32, link: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link))
}

/// Group and other groups in a process's status: the ones that count for files.
fn groups_of(status: &str) -> Option<(u32, Arc<[u32]>)> {
    let numbers = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    let gid = *numbers("Gid:")?.get(3)?;
    Some((gid, numbers("Groups:")?.into()))
}

/// Which socket is asked for: `inet_diag_req_v2` of linux/inet_diag.h.
#[derive(Clone, Copy)]
struct Question {
    family: Family,
    proto: u8,
    /// Protocol of a raw socket.
    raw: u8,
    src: u128,
    dst: u128,
    sport: u16,
    dport: u16,
    device: u32,
}

/// SOCK_DIAG_BY_FAMILY of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// Length of a netlink header; of a request; offset of user and inode in an answer.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const UID: usize = HEADER + 64;

impl Question {
    fn of(ends: &Ends, device: u32) -> Question {
        let Ends { family, proto, src, dst, sport, dport } = *ends;
        Question { family, proto, raw: 0, src, dst, sport, dport, device }
    }

    fn swapped(self) -> Question {
        Question { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..self }
    }

    fn request(&self) -> [u8; HEADER + REQUEST] {
        let mut bytes = [0; HEADER + REQUEST];
        bytes[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        let request = &mut bytes[HEADER..];
        let (family, addresses) = match self.family {
            Family::V4 => (libc::AF_INET, [self.src << 96, self.dst << 96]),
            Family::V6 => (libc::AF_INET6, [self.src, self.dst]),
        };
        request[0] = family as u8;
        (request[1], request[3]) = if self.raw == 0 { (self.proto, 0) } else { (libc::IPPROTO_RAW as u8, self.raw) };
        // All states.
        request[4..8].fill(0xff);
        request[8..10].copy_from_slice(&self.sport.to_be_bytes());
        request[10..12].copy_from_slice(&self.dport.to_be_bytes());
        request[12..28].copy_from_slice(&addresses[0].to_be_bytes());
        request[28..44].copy_from_slice(&addresses[1].to_be_bytes());
        request[44..48].copy_from_slice(&self.device.to_ne_bytes());
        // No cookie.
        request[48..56].fill(0xff);
        bytes
    }
}

/// User and inode in an answer; none where it is an error.
fn read(answer: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| answer.get(at..at + 4)?.first_chunk().copied().map(u32::from_ne_bytes);
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY {
        return None;
    }
    Some((number(UID)?, number(UID + 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{getgid, getgroups, getuid};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    const LOOPBACK: u32 = 1;

    fn facts(family: Family, proto: u8, src: (u128, u16), dst: (u128, u16)) -> Facts {
        let mut facts = Facts::blank(family);
        (facts.proto, facts.has_l4) = (proto, true);
        (facts.src, facts.sport, facts.dst, facts.dport) = (src.0, src.1, dst.0, dst.1);
        facts
    }

    fn me() -> Owner {
        let groups = getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        Owner { uid: getuid().as_raw(), gid: getgid().as_raw(), groups }
    }

    const ENDS: [(Family, u128, &str); 2] = [(Family::V4, 0x7f00_0001, "127.0.0.1:0"), (Family::V6, 1, "[::1]:0")];

    #[test]
    fn sockets_of_connections_have_their_process_for_owner() {
        let mut owners = Owners::open().unwrap();
        for (family, own, text) in ENDS {
            let listener = TcpListener::bind(text).unwrap();
            let there = listener.local_addr().unwrap();
            let stream = TcpStream::connect(there).unwrap();
            let (client, server) = ((own, stream.local_addr().unwrap().port()), (own, there.port()));
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(owners.of(&facts(family, proto::TCP, client, server), LOOPBACK, 0), Some(me()), "{text}");
            assert_eq!(owners.of(&facts(family, proto::TCP, server, client), LOOPBACK, 0), Some(me()));
            // What a listener says before there is a connection.
            let nobody = (own, 1);
            assert_eq!(owners.of(&facts(family, proto::TCP, server, nobody), LOOPBACK, 0), Some(me()));
            assert_eq!(owners.of(&facts(family, proto::TCP, (own, 1), nobody), LOOPBACK, 0), None);
            drop((accepted, stream, listener));
        }
    }

    #[test]
    fn sockets_of_datagrams_have_their_process_for_owner_and_an_answer_holds_for_a_while() {
        let mut owners = Owners::open().unwrap();
        for (family, own, text) in ENDS {
            let one = UdpSocket::bind(text).unwrap();
            let any = UdpSocket::bind(if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            for (socket, life) in [(one, 0), (any, 0)] {
                let from = (own, socket.local_addr().unwrap().port());
                let packet = facts(family, proto::UDP, from, (own, 53));
                assert_eq!(owners.of(&packet, LOOPBACK, life), Some(me()), "{text}");
                drop(socket);
                assert_eq!(owners.of(&packet, LOOPBACK, life + LIFE - 1), Some(me()), "{text}");
                assert_eq!(owners.of(&packet, LOOPBACK, life + LIFE), None, "{text}");
            }
        }
    }

    #[test]
    fn the_groups_are_those_that_count_for_files() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        let (gid, groups) = groups_of(status).unwrap();
        assert_eq!((gid, &groups[..]), (8, &[9, 10][..]));
        assert!(groups_of("Gid:\t5\t6\t7\t8\nGroups:\t \n").unwrap().1.is_empty());
        assert!(groups_of("Gid:\t5\n").is_none() && groups_of("").is_none());
    }

    #[test]
    fn broken_answers_are_survived() {
        let mut answer = vec![0; 88];
        answer[4] = BY_FAMILY as u8;
        assert_eq!(read(&answer), Some((0, 0)));
        assert_eq!(read(&answer[..87]), None);
        assert_eq!(read(&[]), None);
        answer[4] = 2;
        assert_eq!(read(&answer), None);
    }
}
