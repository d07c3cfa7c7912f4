//! Nexthop objects (`ip nexthop`), which the netlink crates do not know yet: `struct nhmsg` and its attributes.

use super::news::{Hop, News, Nexthop, Reason};
use netlink_packet_core::{DecodeError, NlasIterator};
use std::net::IpAddr;

/// `RTM_NEWNEXTHOP`.
pub const NEW: u16 = 104;
/// `RTM_DELNEXTHOP`.
pub const DEL: u16 = 105;
/// `RTM_GETNEXTHOP`.
pub const GET: u16 = 106;

/// Bytes of `struct nhmsg`: family, scope, protocol, reserved, flags.
const HEADER: usize = 8;
const ID: u16 = 1;
const GROUP: u16 = 2;
const GROUP_TYPE: u16 = 3;
const BLACKHOLE: u16 = 4;
const OIF: u16 = 5;
const GATEWAY: u16 = 6;
const ENCAP_TYPE: u16 = 7;
const ENCAP: u16 = 8;
const FDB: u16 = 11;
/// `NEXTHOP_GRP_TYPE_MPATH`.
const MULTIPATH: u16 = 0;
/// Bytes of `struct nexthop_grp`: id, low and high byte of the weight less one, reserved.
const MEMBER: usize = 8;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;

/// Reads a message about a nexthop object.
pub fn decode(kind: u16, payload: &[u8]) -> Result<News, DecodeError> {
    let short = || DecodeError::from("a nexthop that is too short");
    let (header, attributes) = payload.split_at_checked(HEADER).ok_or_else(short)?;
    let flags = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let mut hop = Hop { link: 0, gateway: None, weight: 1, onlink: flags & ONLINK != 0 };
    let (mut id, mut group, mut is_blackhole, mut unfit) = (0, None, false, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            ID => id = u32(value).ok_or_else(short)?,
            OIF => hop.link = u32(value).ok_or_else(short)?,
            GATEWAY => hop.gateway = Some(address(value).ok_or_else(short)?),
            BLACKHOLE => is_blackhole = true,
            GROUP => group = Some(value.chunks_exact(MEMBER).map(member).collect::<Vec<_>>()),
            GROUP_TYPE if value.first_chunk().is_none_or(|bytes| u16::from_ne_bytes(*bytes) != MULTIPATH) => {
                unfit = Some(Reason::ResilientGroup);
            }
            ENCAP | ENCAP_TYPE => unfit = Some(Reason::Encapsulation),
            FDB => unfit = Some(Reason::BridgeNexthop),
            _ => {}
        }
    }
    if id == 0 {
        return Err("a nexthop without a number".into());
    }
    if kind == DEL {
        return Ok(News::NoNexthop(id));
    }
    let what = match (unfit, group) {
        (Some(reason), _) => Nexthop::Unfit(reason),
        (None, Some(members)) => Nexthop::Group(members),
        (None, None) if is_blackhole => Nexthop::Blackhole,
        (None, None) => Nexthop::Hop(hop),
    };
    Ok(News::Nexthop(id, what))
}

fn member(bytes: &[u8]) -> (u32, u32) {
    let id = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (id, u32::from(u16::from_le_bytes([bytes[4], bytes[5]])) + 1)
}

fn u32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(value).ok().map(IpAddr::from);
    v4().or_else(v6)
}
