//! Questions to the kernel over netlink. Each is asked on a socket of the namespace that the thread is in.

use super::facts::Chain;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator, ParseableParametrized};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::nsid::NsidAttribute;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `RTM_GETLINK` and `RTM_GETNSID`; what answers is called `RTM_NEW...`.
const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const GET_NSID: u16 = 90;
const NEW_NSID: u16 = 88;
/// `NFT_MSG_GETCHAIN` of the subsystem of nftables.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Seconds that an answer may take.
const PATIENCE: i64 = 5;

/// A device of the namespace.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `macvlan`, `tun`; empty for hardware.
    pub kind: String,
    /// Its MAC address.
    pub mac: Vec<u8>,
    /// It is up.
    pub is_up: bool,
    /// Somebody asked it for the frames of others.
    pub is_promiscuous: bool,
    /// The device below it, or at its other end: the number, and the namespace's where that is another one.
    pub other: Option<(u32, Option<i32>)>,
}

/// All devices.
pub fn links() -> io::Result<Vec<Seen>> {
    let mut links = Vec::new();
    // `struct ifinfomsg` without a condition.
    ask(NETLINK_ROUTE, GET_LINK, NLM_F_DUMP, &[0; 16], |payload| {
        if let Ok(RouteNetlinkMessage::NewLink(message)) = RouteNetlinkMessage::parse_with_param(payload, NEW_LINK) {
            let has = |flag| message.header.flags.contains(flag);
            let (is_up, is_promiscuous) = (has(LinkFlags::Up), has(LinkFlags::Promisc));
            let mut seen = Seen { index: message.header.index, is_up, is_promiscuous, ..Seen::default() };
            let (mut other, mut namespace) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => seen.name = name,
                    LinkAttribute::Address(mac) => seen.mac = mac,
                    LinkAttribute::Link(index) => other = Some(index),
                    LinkAttribute::LinkNetNsId(id) => namespace = Some(id),
                    LinkAttribute::LinkInfo(infos) => {
                        for info in infos {
                            if let LinkInfo::Kind(kind) = info {
                                seen.kind = kind.to_string();
                            }
                        }
                    }
                    _ => {}
                }
            }
            seen.other = other.map(|index| (index, namespace));
            links.push(seen);
        }
    })?;
    Ok(links)
}

/// The number by which this namespace calls another one, if it has one.
pub fn number_of(namespace: &File) -> Option<i32> {
    // `struct rtgenmsg`, padded, and NETNSA_FD.
    let mut question = vec![0; 4];
    question.extend(8u16.to_ne_bytes());
    question.extend(3u16.to_ne_bytes());
    question.extend(namespace.as_raw_fd().to_ne_bytes());
    let mut number = None;
    let asked = ask(NETLINK_ROUTE, GET_NSID, NLM_F_ACK, &question, |payload| {
        if let Ok(RouteNetlinkMessage::NewNsId(message)) = RouteNetlinkMessage::parse_with_param(payload, NEW_NSID) {
            for attribute in message.attributes {
                if let NsidAttribute::Id(id) = attribute {
                    number = Some(id);
                }
            }
        }
    });
    number.filter(|number| asked.is_ok() && *number >= 0)
}

/// The base chains of nftables that have rules or drop by themselves, which iptables-nft has made as well. None where the kernel
/// has no nftables.
pub fn chains() -> Vec<Chain> {
    let mut chains = Vec::new();
    // `struct nfgenmsg` of all families. An error means that there are none.
    let _ = ask(NETLINK_NETFILTER, GET_CHAIN, NLM_F_DUMP, &[0; 4], |payload| chains.extend(chain(payload)));
    chains
}

fn chain(payload: &[u8]) -> Option<Chain> {
    /// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
    /// By `NF_INET_*`; what is forwarded never comes to a host behind TAPs.
    const HOOKS: [Option<&str>; 5] = [Some("prerouting"), Some("input"), None, Some("output"), Some("postrouting")];
    /// `NF_ACCEPT`.
    const ACCEPT: u32 = 1;
    let (header, attributes) = payload.split_at_checked(4)?;
    let family = FAMILIES.iter().find(|(number, _)| *number == header[0])?.1;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_string();
    let number = |value: &[u8]| value.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let (mut table, mut name, mut hook, mut policy, mut rules) = (String::new(), String::new(), None, ACCEPT, 0);
    for attribute in NlasIterator::new(attributes).flatten() {
        let value = attribute.value();
        // `enum nft_chain_attributes`, and `enum nft_hook_attributes` in the hook.
        match attribute.kind() {
            1 => table = text(value),
            3 => name = text(value),
            4 => {
                let inside = NlasIterator::new(value).flatten().find(|inner| inner.kind() == 1);
                hook = inside.map(|inner| number(inner.value()));
            }
            5 => policy = number(value),
            6 => rules = number(value),
            _ => {}
        }
    }
    let hook = HOOKS.get(hook? as usize).copied().flatten()?;
    (rules > 0 || policy != ACCEPT).then(|| Chain { family: family.to_string(), table, name, hook: hook.to_string() })
}

/// Asks, and hands on the payload of every answer.
fn ask(protocol: isize, kind: u16, flags: u16, payload: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    let mut request = Vec::with_capacity(16 + payload.len());
    request.extend((16 + payload.len() as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(payload);
    socket.send(&request, 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            match message.message_type() {
                DONE => return Ok(()),
                ERROR => {
                    return match message.payload().first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)) {
                        0 => Ok(()),
                        errno => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
                    };
                }
                _ => each(message.payload()),
            }
            let next = (message.length() as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[next..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute with its padding.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A chain as the kernel tells it.
    fn told(family: u8, hook: Option<u32>, policy: u32, rules: u32) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        bytes.extend(attribute(1, b"filter\0"));
        bytes.extend(attribute(3, b"INPUT\0"));
        if let Some(hook) = hook {
            bytes.extend(attribute(4, &attribute(1, &hook.to_be_bytes())));
            bytes.extend(attribute(5, &policy.to_be_bytes()));
        }
        bytes.extend(attribute(6, &rules.to_be_bytes()));
        bytes
    }

    #[test]
    fn chains_that_judge_what_the_host_gets_and_sends_are_told_apart() {
        let text = |bytes: &[u8]| chain(bytes).map(|chain| chain.to_string());
        assert_eq!(text(&told(2, Some(1), 1, 3)).as_deref(), Some("ip filter INPUT (input)"));
        assert_eq!(text(&told(1, Some(3), 0, 0)).as_deref(), Some("inet filter INPUT (output)"), "it drops");
        assert_eq!(text(&told(10, Some(1), 1, 0)), None, "nothing is judged there");
        assert_eq!(text(&told(2, Some(2), 0, 1)), None, "forwarding");
        assert_eq!(text(&told(2, None, 1, 5)), None, "no base chain");
        assert_eq!(text(&told(7, Some(1), 1, 5)), None, "bridges");
        for end in 0..40 {
            text(&told(2, Some(1), 1, 3)[..end]);
        }
    }

    #[test]
    fn the_devices_of_this_namespace_are_listed() {
        let links = links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index == 1), "{links:?}");
        assert_eq!(number_of(&File::open("/dev/null").unwrap()), None);
    }
}
