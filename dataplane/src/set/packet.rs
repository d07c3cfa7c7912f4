//! What a packet is to a set: the ends that a rule names become the parts of an element (`*_kadt` of each type).

use sumun_config::facts::{Facts, Family, LOOPBACK, PortId, proto};
use sumun_config::set::ask::Ends;
use sumun_config::set::{Header, Key, Kind, Part, iface_number, mac_number};

/// Names of the router's ports, as numbers.
pub struct Ifaces(Box<[u128]>);

impl Ifaces {
    /// Of ports in their order.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Ifaces {
        Ifaces(names.map(iface_number).collect())
    }

    fn name(&self, port: PortId) -> Option<u128> {
        match port {
            PortId::LOOPBACK => Some(iface_number(LOOPBACK)),
            _ => self.0.get(port.index()?).copied(),
        }
    }
}

/// The packet's key with whole addresses; none where it cannot be in such a set. For bitmap:ip,mac the MAC address is part
/// of the key.
#[inline]
pub fn packet_key(header: &Header, ends: Ends, facts: &Facts, ifaces: &Ifaces) -> Option<Key> {
    let kind = header.kind;
    let parts = kind.parts();
    if usize::from(ends.count) < parts.len() || header.family.is_some_and(|family| family != facts.family) {
        return None;
    }
    let mut key = Key::default();
    let mut second = false;
    for (i, part) in parts.iter().enumerate() {
        let src = ends.is_src(i);
        match part {
            Part::Ip | Part::Net => {
                let addr = if src { facts.src } else { facts.dst };
                match second {
                    true if kind == Kind::HashNetNet => key.b = addr & header.mask(),
                    true => key.b = addr,
                    false => key.a = addr & header.mask(),
                }
                second = true;
            }
            Part::Port => {
                let (proto, port) = port(facts, src)?;
                key = match kind {
                    Kind::BitmapPort => {
                        let fits = matches!(proto, proto::TCP | proto::UDP);
                        let inside = (header.range.0..=header.range.1).contains(&port.into());
                        Key::default().with_port(0, (fits && inside).then_some(port)?)
                    }
                    _ => key.with_port(proto, port),
                };
            }
            Part::Mac => {
                // The kernel has no Ethernet header to look at where the packet is the router's own.
                let mac = mac_number(if src { facts.smac } else { facts.dmac });
                key = key.with_mac(Some(mac).filter(|mac| facts.has_link && (*mac != 0 || kind == Kind::BitmapIpMac))?);
            }
            Part::Mark => key = key.with_mark(facts.mark & header.markmask),
            Part::Iface => key = key.with_iface(ifaces.name(if src { facts.iif } else { facts.oif })?, false),
            Part::Set => return None,
        }
    }
    match kind {
        Kind::HashIp if key.a == 0 => None,
        Kind::BitmapIp | Kind::BitmapIpMac => {
            // Whole addresses are compared with the range, which begins and ends with whole networks.
            let inside = (u128::from(header.range.0)..=u128::from(header.range.1)).contains(&key.a);
            inside.then_some(key)
        }
        _ => Some(key),
    }
}

/// Protocol and port, or what stands for it (`ip_set_get_ip4_port`, `ip_set_get_ip6_port`): later fragments have none, but
/// an IPv4 one of a protocol without ports needs none.
fn port(facts: &Facts, src: bool) -> Option<(u8, u16)> {
    let end = if src { facts.sport } else { facts.dport };
    match facts.proto {
        0 => None,
        _ if facts.is_later_fragment() && facts.family == Family::V6 => None,
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP => facts.has_l4.then_some((facts.proto, end)),
        proto::ICMP | proto::ICMPV6 if facts.icmp().is_some() || facts.has_l4 => Some((facts.proto, facts.dport)),
        proto::ICMP | proto::ICMPV6 => None,
        proto => Some((proto, 0)),
    }
}
