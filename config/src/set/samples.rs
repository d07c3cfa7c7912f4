//! Sets that the cases of `-m set` and `-j SET` name: whoever feeds these cases to something makes these sets first.

use super::{Declaration, Header, Kind};
use crate::facts::Family;
use crate::model::Names;
use std::sync::LazyLock;

static SETS: LazyLock<Vec<Declaration>> = LazyLock::new(|| {
    let set = |name: &str, kind: Kind, family: Family| {
        let mut header = Header::new(name, kind);
        header.family = header.family.map(|_| family);
        if kind == Kind::BitmapIpMac {
            header.range = (0x0a00_0000, 0x0a00_00ff);
        }
        if kind == Kind::BitmapPort {
            header.range = (0, 1023);
        }
        Declaration { header, elements: Vec::new() }
    };
    vec![
        set("hosts4", Kind::HashIp, Family::V4),
        set("hosts6", Kind::HashIp, Family::V6),
        set("nets4", Kind::HashNet, Family::V4),
        set("nets6", Kind::HashNet, Family::V6),
        set("services4", Kind::HashIpPort, Family::V4),
        set("services6", Kind::HashIpPort, Family::V6),
        set("triples4", Kind::HashIpPortNet, Family::V4),
        set("links4", Kind::HashNetIface, Family::V4),
        set("stations4", Kind::BitmapIpMac, Family::V4),
        set("ports", Kind::BitmapPort, Family::V4),
        set("lists", Kind::ListSet, Family::V4),
    ]
});

/// The sets.
pub fn sets() -> &'static [Declaration] {
    &SETS
}

/// Names that rules may use where these sets are.
pub fn names() -> Names<'static> {
    Names { sets: sets(), ..Names::NONE }
}
