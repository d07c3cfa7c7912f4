//! VLAN ports: which tags do their frames have, on which port's device?

use crate::facts::PortId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a port without a device of its own is: frames with these tags on the parent's device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Vlan {
    /// The port whose device has the frames.
    pub parent: PortId,
    /// Their tags.
    pub tags: Tags,
}

/// The tags of a frame, from the outside in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Tags {
    /// Kind of the outer tag; the inner one is always of 802.1Q.
    pub protocol: TagProtocol,
    /// Number in the outer tag, or in the only one: 1 to 4094.
    pub outer: u16,
    /// Number in the inner tag, where there are two.
    pub inner: Option<u16>,
}

/// Kind of a tag, as the kernel names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
pub enum TagProtocol {
    /// 802.1Q, EtherType 0x8100.
    #[default]
    Customer,
    /// 802.1ad, EtherType 0x88a8.
    Service,
}

impl TagProtocol {
    /// Both.
    pub const ALL: [TagProtocol; 2] = [TagProtocol::Customer, TagProtocol::Service];

    /// As `ip link` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            TagProtocol::Customer => "802.1Q",
            TagProtocol::Service => "802.1ad",
        }
    }

    /// The EtherType that a tag begins with.
    pub const fn ethertype(self) -> u16 {
        match self {
            TagProtocol::Customer => 0x8100,
            TagProtocol::Service => 0x88a8,
        }
    }

    /// The kind of tag with this EtherType.
    pub const fn of(ethertype: u16) -> Option<TagProtocol> {
        match ethertype {
            0x8100 => Some(TagProtocol::Customer),
            0x88a8 => Some(TagProtocol::Service),
            _ => None,
        }
    }
}

impl fmt::Display for TagProtocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Tags {
    /// The numbers that a VLAN can have.
    pub const NUMBERS: std::ops::RangeInclusive<u16> = 1..=4094;

    /// Bytes of the tags of a frame.
    pub const fn bytes(&self) -> usize {
        if self.inner.is_some() { 8 } else { 4 }
    }
}

/// For people: `802.1Q 10`, `802.1ad 100, 802.1Q 10`.
impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Tags { protocol, outer, inner } = self;
        write!(f, "{protocol} {outer}")?;
        match inner {
            Some(inner) => write!(f, ", {} {inner}", TagProtocol::Customer),
            None => Ok(()),
        }
    }
}
