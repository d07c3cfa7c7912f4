//! Sets as ipset(8) has them: what they are called, what they hold, how they are written.
//!
//! A set has a [`Header`] (type, family, limits, which extras its elements carry) and [`Element`]s. An element is a [`Key`]
//! of fixed size, the same for every type, so that a million of them travel as numbers and never as text. The spelling of
//! both is ipset's: [`entry`] reads elements, [`header`] reads what stands behind `create`, [`mod@print`] writes them back,
//! [`save`] reads what `ipset save` wrote. What a set means for a packet is the dataplane's to say; which of a packet's
//! numbers belong to which type is said here by [`Kind::parts`].

use crate::facts::Family;
use serde::{Deserialize, Serialize};

pub mod ask;
pub mod entry;
pub mod header;
mod icmp;
pub mod print;
pub mod samples;
pub mod save;
pub mod toml;

pub use header::Header;

/// Most bytes of a set's name (`IPSET_MAXNAMELEN` less one).
pub const MAX_NAME: usize = 31;
/// Longest time-out in seconds.
pub const MAX_TIMEOUT: u32 = 2_147_483;
/// Most bytes of a comment.
pub const MAX_COMMENT: usize = 255;
/// Most sets of a policy (`IPSET_INVALID_ID` less one).
pub const MAX_SETS: usize = 65_534;
/// Most sets in a list:set.
pub const MAX_MEMBERS: usize = 4096;

/// The types of sets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// `bitmap:ip`
    BitmapIp,
    /// `bitmap:ip,mac`
    BitmapIpMac,
    /// `bitmap:port`
    BitmapPort,
    /// `hash:ip`
    HashIp,
    /// `hash:mac`
    HashMac,
    /// `hash:ip,mac`
    HashIpMac,
    /// `hash:ip,mark`
    HashIpMark,
    /// `hash:ip,port`
    HashIpPort,
    /// `hash:ip,port,ip`
    HashIpPortIp,
    /// `hash:ip,port,net`
    HashIpPortNet,
    /// `hash:net`
    HashNet,
    /// `hash:net,net`
    HashNetNet,
    /// `hash:net,port`
    HashNetPort,
    /// `hash:net,port,net`
    HashNetPortNet,
    /// `hash:net,iface`
    HashNetIface,
    /// `list:set`
    ListSet,
}

/// What an element is made of, part by part: each takes one `src` or `dst` of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// An address.
    Ip,
    /// A network.
    Net,
    /// A MAC address.
    Mac,
    /// The packet's mark.
    Mark,
    /// Protocol and port.
    Port,
    /// An interface.
    Iface,
    /// Another set.
    Set,
}

impl Kind {
    /// All types, with their names.
    pub const ALL: [(&'static str, Kind); 16] = [
        ("bitmap:ip", Kind::BitmapIp),
        ("bitmap:ip,mac", Kind::BitmapIpMac),
        ("bitmap:port", Kind::BitmapPort),
        ("hash:ip", Kind::HashIp),
        ("hash:mac", Kind::HashMac),
        ("hash:ip,mac", Kind::HashIpMac),
        ("hash:ip,mark", Kind::HashIpMark),
        ("hash:ip,port", Kind::HashIpPort),
        ("hash:ip,port,ip", Kind::HashIpPortIp),
        ("hash:ip,port,net", Kind::HashIpPortNet),
        ("hash:net", Kind::HashNet),
        ("hash:net,net", Kind::HashNetNet),
        ("hash:net,port", Kind::HashNetPort),
        ("hash:net,port,net", Kind::HashNetPortNet),
        ("hash:net,iface", Kind::HashNetIface),
        ("list:set", Kind::ListSet),
    ];

    /// Names of before ipset 6, which it still takes.
    const OLD: [(&'static str, Kind); 8] = [
        ("ipmap", Kind::BitmapIp),
        ("macipmap", Kind::BitmapIpMac),
        ("portmap", Kind::BitmapPort),
        ("iphash", Kind::HashIp),
        ("nethash", Kind::HashNet),
        ("ipporthash", Kind::HashIpPort),
        ("ipportiphash", Kind::HashIpPortIp),
        ("setlist", Kind::ListSet),
    ];

    /// The type of a name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().chain(&Kind::OLD).find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// The revision that `ipset list` shows: that of the newest kernel module.
    pub fn revision(self) -> u8 {
        match self {
            Kind::HashNetPort | Kind::HashIpPortNet | Kind::HashNetIface => 8,
            Kind::HashIpPort | Kind::HashNet => 7,
            Kind::HashIp | Kind::HashIpPortIp => 6,
            Kind::HashNetNet => 4,
            Kind::HashIpMark | Kind::HashNetPortNet | Kind::BitmapIp | Kind::BitmapIpMac | Kind::BitmapPort => 3,
            Kind::ListSet => 3,
            Kind::HashMac | Kind::HashIpMac => 1,
        }
    }

    /// The parts of its elements.
    pub fn parts(self) -> &'static [Part] {
        use Part::*;
        match self {
            Kind::BitmapIp | Kind::HashIp => &[Ip],
            Kind::BitmapIpMac | Kind::HashIpMac => &[Ip, Mac],
            Kind::BitmapPort => &[Port],
            Kind::HashMac => &[Mac],
            Kind::HashIpMark => &[Ip, Mark],
            Kind::HashIpPort => &[Ip, Port],
            Kind::HashIpPortIp => &[Ip, Port, Ip],
            Kind::HashIpPortNet => &[Ip, Port, Net],
            Kind::HashNet => &[Net],
            Kind::HashNetNet => &[Net, Net],
            Kind::HashNetPort => &[Net, Port],
            Kind::HashNetPortNet => &[Net, Port, Net],
            Kind::HashNetIface => &[Net, Iface],
            Kind::ListSet => &[Set],
        }
    }

    /// How many `src` and `dst` a rule must give for it.
    pub fn dimension(self) -> usize {
        self.parts().len()
    }

    /// Whether its elements have a network, so that `nomatch` has a meaning.
    pub fn has_nets(self) -> bool {
        self.parts().contains(&Part::Net)
    }

    /// Whether it is a bitmap over a range.
    pub fn is_bitmap(self) -> bool {
        matches!(self, Kind::BitmapIp | Kind::BitmapIpMac | Kind::BitmapPort)
    }

    /// Whether it is for packets of one family only.
    pub fn has_family(self) -> bool {
        !matches!(self, Kind::BitmapPort | Kind::HashMac | Kind::ListSet)
    }
}

/// What identifies an element. Addresses are right-aligned numbers, as everywhere; parts that its type has not are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Key {
    /// The first address, host bits cleared.
    pub a: u128,
    /// The second address, or the name of an interface ([`iface_number`]).
    pub b: u128,
    /// Everything else: see [`Key::port`] and the like.
    pub rest: u64,
}

/// Bit of [`Key::rest`]: the interface is a port of a bridge.
const PHYSDEV: u64 = 1;

impl Key {
    /// Of a port: the number, or type and code of ICMP.
    pub fn port(&self) -> u16 {
        self.rest as u16
    }

    /// Protocol of the port.
    pub fn proto(&self) -> u8 {
        (self.rest >> 16) as u8
    }

    /// The MAC address, as a number.
    pub fn mac(&self) -> u64 {
        self.rest & 0xffff_ffff_ffff
    }

    /// The mark.
    pub fn mark(&self) -> u32 {
        self.rest as u32
    }

    /// The interface is a port of a bridge.
    pub fn is_physdev(&self) -> bool {
        self.rest & PHYSDEV != 0
    }

    /// Length of the first prefix.
    pub fn len_a(&self) -> u8 {
        (self.rest >> 48) as u8
    }

    /// Length of the second prefix.
    pub fn len_b(&self) -> u8 {
        (self.rest >> 56) as u8
    }

    /// With a port.
    pub fn with_port(mut self, proto: u8, port: u16) -> Key {
        self.rest = self.rest & !0xff_ffff | u64::from(proto) << 16 | u64::from(port);
        self
    }

    /// With a MAC address.
    pub fn with_mac(mut self, mac: u64) -> Key {
        self.rest = self.rest & !0xffff_ffff_ffff | mac & 0xffff_ffff_ffff;
        self
    }

    /// With a mark.
    pub fn with_mark(mut self, mark: u32) -> Key {
        self.rest = self.rest & !0xffff_ffff | u64::from(mark);
        self
    }

    /// With an interface.
    pub fn with_iface(mut self, name: u128, physdev: bool) -> Key {
        self.b = name;
        self.rest = self.rest & !PHYSDEV | if physdev { PHYSDEV } else { 0 };
        self
    }

    /// With a first network.
    pub fn with_a(mut self, family: Family, addr: u128, len: u8) -> Key {
        self.a = addr & family.mask(len.min(family.bits()));
        self.rest = self.rest & !(0xff << 48) | u64::from(len) << 48;
        self
    }

    /// With a second network.
    pub fn with_b(mut self, family: Family, addr: u128, len: u8) -> Key {
        self.b = addr & family.mask(len.min(family.bits()));
        self.rest = self.rest & !(0xff << 56) | u64::from(len) << 56;
        self
    }
}

/// Six bytes of a MAC address as a number.
pub fn mac_number(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The name of an interface as a number: its bytes from the highest down, then zeros. 0 is no name.
pub fn iface_number(name: &str) -> u128 {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name.bytes().take(15)).for_each(|(to, byte)| *to = byte);
    u128::from_be_bytes(bytes)
}

/// The name back, up to its first zero.
pub fn iface_name(number: u128) -> String {
    String::from_utf8_lossy(number.to_be_bytes().split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The bits of [`iface_number`] that a name has: those that a wildcard compares.
pub fn iface_mask(number: u128) -> u128 {
    let used = 16 - number.trailing_zeros().min(128) / 8;
    if used == 0 { 0 } else { u128::MAX << (128 - 8 * used) }
}

/// A member of a set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Element {
    /// Which.
    pub key: Key,
    /// Packets that it holds for are as if they were not in the set.
    pub nomatch: bool,
    /// The interface is the beginning of a name.
    pub wildcard: bool,
    /// What few elements have.
    pub extra: Option<Box<Extra>>,
}

/// What an element carries besides its key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Extra {
    /// Seconds left; 0 is for ever; none is what its set gives.
    pub timeout: Option<u32>,
    /// Counted packets.
    pub packets: Option<u64>,
    /// Counted bytes.
    pub bytes: Option<u64>,
    /// For people.
    pub comment: Option<String>,
    /// What `--map-set` gives to packets.
    pub skb: SkbInfo,
    /// bitmap:ip,mac: the MAC address, as a number.
    pub mac: Option<u64>,
    /// list:set: the member's name.
    pub set: String,
    /// list:set: the member that it stands next to, and whether before it.
    pub beside: Option<(bool, String)>,
}

/// What an element gives to packets (`skbinfo`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SkbInfo {
    /// Bits of the mark to set.
    pub mark: u32,
    /// Bits of the mark to clear before; `skbmark` without a mask clears all.
    pub mask: u32,
    /// Traffic class, major number in the upper half.
    pub prio: u32,
    /// Queue of the device.
    pub queue: u16,
}

/// A set as the configuration declares it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Declaration {
    /// What it is.
    pub header: Header,
    /// What it holds at first.
    pub elements: Vec<Element>,
}

impl Declaration {
    /// Whether a declaration decoded from untrusted bytes is one that the parser could have made. The elements are checked
    /// when they are added.
    pub fn verify(&self) -> Result<(), String> {
        self.header.verify()
    }
}

/// Whether a set may have this name.
pub fn is_name(name: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '"';
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_key_has_its_own_bits() {
        let key =
            Key::default().with_a(Family::V4, 0x0a01_02ff, 24).with_b(Family::V4, 0xc0a8_ffff, 16).with_port(17, 53);
        assert_eq!((key.a, key.b, key.len_a(), key.len_b()), (0x0a01_0200, 0xc0a8_0000, 24, 16));
        assert_eq!((key.proto(), key.port()), (17, 53));
        let mac = mac_number([2, 0, 0, 0, 0, 1]);
        assert_eq!(Key::default().with_a(Family::V6, 1, 128).with_mac(mac).mac(), mac);
        assert_eq!(Key::default().with_mark(u32::MAX).mark(), u32::MAX);
    }

    #[test]
    fn names_of_interfaces_are_numbers_and_back() {
        for name in ["", "e", "eth0", "abcdefghijklmno"] {
            assert_eq!(iface_name(iface_number(name)), name);
        }
        let begins = |name: &str, with: &str| iface_number(name) & iface_mask(iface_number(with)) == iface_number(with);
        assert!(begins("eth0", "eth") && begins("eth", "eth") && begins("eth0", ""));
        assert!(!begins("et", "eth") && !begins("veth0", "eth"));
    }

    #[test]
    fn names_of_types_are_found() {
        for (name, kind) in Kind::ALL {
            assert_eq!((Kind::named(name), kind.name()), (Some(kind), name));
        }
        assert_eq!(Kind::named("nethash"), Some(Kind::HashNet));
        assert_eq!(Kind::named("hash:frob"), None);
    }
}
