//! `-j SET`: adds the packet to a set, deletes it from one, or takes from its element what it gives to packets
//! (`xt_set.c`, revision 3). Then the next rule.
//!
//! First the addition, then the deletion, then the mapping. An element that is added counts the packet at once where its
//! set has counters; one that is there stays as it is, unless `--exist` begins its time and its counters anew. Traffic class
//! and queue belong to the kernel's queues of a device: there are none here, so nothing comes of `--map-prio` and
//! `--map-queue`. TOML: `{ target = "SET", add-set = ["seen", "src"], exist = true, timeout = 60 }`

use super::{Action, Target};
use crate::facts::{Context, Facts, Family};
use crate::rule::option::{ANY_HOOK, Case, Complaint, Given, Opt, TargetExtension};
use crate::rule::word::number;
use crate::rule::{Effect, Families, Hook};
use crate::set::MAX_TIMEOUT;
use crate::set::ask::{Asked, Change, Named};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Set(Box<Inner>);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Inner {
    add: Option<Named>,
    exist: bool,
    timeout: Option<u32>,
    delete: Option<Named>,
    map: Option<Named>,
    map_mark: bool,
    map_prio: bool,
    map_queue: bool,
}

const ADD: usize = 0;
const EXIST: usize = 1;
const TIMEOUT: usize = 2;
const DELETE: usize = 3;
const MAP: usize = 4;
const MAP_MARK: usize = 5;
const MAP_PRIO: usize = 6;
const MAP_QUEUE: usize = 7;

/// SET
pub static EXTENSION: TargetExtension = TargetExtension {
    name: "SET",
    aliases: &[],
    families: Families::Both,
    protocol: None,
    tables: &[],
    hooks: ANY_HOOK,
    options: &[
        Opt::pair("add-set", &[]).about("SET ENDS", "adds the packet to the set, by these of its ends"),
        Opt::flag("exist", &[]).about("", "an element that is there begins anew"),
        Opt::plain("timeout", &[]).about("SECONDS", "of the added element, instead of the set's own; 0 is for ever"),
        Opt::pair("del-set", &[]).about("SET ENDS", "deletes the packet from the set"),
        Opt::pair("map-set", &[]).about("SET ENDS", "takes from the packet's element what it gives to packets"),
        Opt::flag("map-mark", &[]).about("", "the mark"),
        Opt::flag("map-prio", &[]).about("", "the traffic class"),
        Opt::flag("map-queue", &[]).about("", "the queue of the device"),
    ],
    build,
    summary: "Adds the packet to a set, deletes it from one, or takes a mark from its element.",
    example: r#"{ target = "SET", add-set = ["ports", "dst"], exist = true }"#,
    cases: &[
        Case::Prints(Family::V4, "-j SET --add-set hosts4 src", "="),
        Case::Prints(Family::V6, "-j SET --add-set hosts6 src,dst", "="),
        Case::Prints(Family::V4, "-j SET --add-set hosts4 src --exist", "="),
        Case::Prints(Family::V4, "-j SET --add-set hosts4 src --timeout 0", "="),
        Case::Prints(
            Family::V4,
            "-j SET --timeout 5 --add-set hosts4 src --exist",
            "-j SET --add-set hosts4 src --exist --timeout 5",
        ),
        Case::Prints(Family::V4, "-j SET --add-set hosts4 src --timeout 0x10", "-j SET --add-set hosts4 src --timeout 16"),
        Case::Prints(Family::V4, "-j SET --add-set hosts4 src --timeout 4294967294", "="),
        Case::Prints(Family::V4, "-j SET --del-set services4 src,dst", "="),
        Case::Prints(
            Family::V4,
            "-j SET --del-set services4 src,dst --add-set hosts4 src",
            "-j SET --add-set hosts4 src --del-set services4 src,dst",
        ),
        Case::Prints(Family::V4, "-j SET --map-set hosts4 src --map-mark", "="),
        Case::Prints(Family::V4, "-j SET --map-mark --map-set hosts4 src", "-j SET --map-set hosts4 src --map-mark"),
        Case::Prints(Family::V4, "-j SET --map-set hosts4 src --map-mark --map-prio --map-queue", "="),
        Case::Prints(Family::V6, "-j SET --add-set hosts6 src --exist --map-set nets6 dst --map-queue", "="),
        Case::Prints(Family::V4, "-j SET --map-set hosts4 src --map-prio", "="),
        Case::Refused(Family::V4, "-j SET", "needs --add-set, --del-set or --map-set"),
        Case::Refused(Family::V4, "-j SET --exist", "needs --add-set, --del-set or --map-set"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4", "--add-set"),
        Case::Refused(Family::V4, "-j SET --add-set nowhere src", "there is no set `nowhere`"),
        Case::Refused(Family::V4, "-j SET --add-set hosts6 src", "is not one of ipv4"),
        Case::Refused(Family::V6, "-j SET --del-set hosts4 src", "is not one of ipv6"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 both", "`both` is neither src nor dst"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 src --add-set hosts4 dst", "given twice"),
        Case::Refused(Family::V4, "-j SET --del-set hosts4 src --exist", "`--exist` is for --add-set"),
        Case::Refused(Family::V4, "-j SET --del-set hosts4 src --timeout 3", "`--timeout` is for --add-set"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 src --timeout soon", "`soon` is not a time-out"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 src --timeout 4294967295", "is not a time-out"),
        Case::Refused(Family::V4, "-j SET --map-set hosts4 src", "needs --map-mark, --map-prio or --map-queue"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 src --map-mark", "`--map-mark` is for --map-set"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 src --map-prio", "`--map-prio` is for --map-set"),
        Case::Refused(Family::V4, "-j SET --add-set hosts4 src --map-queue", "`--map-queue` is for --map-set"),
        Case::Refused(Family::V4, "-j SET --map-set hosts4 src,src,src,src,src,src,src --map-mark", "more than 6 ends"),
    ],
};

fn build(given: &Given) -> Result<Target, Complaint> {
    let named = |option| match given.get(option) {
        Some(found) => Named::parse(given, &found.values[0], &found.values[1]).map(Some),
        None => Ok(None),
    };
    let (add, delete, map) = (named(ADD)?, named(DELETE)?, named(MAP)?);
    if add.is_none() && delete.is_none() && map.is_none() {
        return Err(given.complain("SET needs --add-set, --del-set or --map-set"));
    }
    for (needed, options, name) in
        [(&add, &[EXIST, TIMEOUT][..], "--add-set"), (&map, &[MAP_MARK, MAP_PRIO, MAP_QUEUE][..], "--map-set")]
    {
        if let Some(alone) = options.iter().find_map(|option| given.get(*option)).filter(|_| needed.is_none()) {
            let what = format!("`--{}` is for {name}", EXTENSION.options[alone.option].name);
            return Err(alone.word.complain(what, format!("{name} SET ENDS")));
        }
    }
    let flag = |option| given.get(option).is_some();
    if map.is_some() && !(flag(MAP_MARK) || flag(MAP_PRIO) || flag(MAP_QUEUE)) {
        return Err(given.complain("--map-set needs --map-mark, --map-prio or --map-queue"));
    }
    let timeout = |word| number(word, "a time-out", 0..=u64::from(u32::MAX - 1)).map(|seconds| seconds as u32);
    let inner = Inner {
        add,
        exist: flag(EXIST),
        timeout: given.value(TIMEOUT).map(timeout).transpose()?,
        delete,
        map,
        map_mark: flag(MAP_MARK),
        map_prio: flag(MAP_PRIO),
        map_queue: flag(MAP_QUEUE),
    };
    // As the kernel: marks are for mangle, classes and queues for where packets go out.
    if inner.map.is_some() && given.table != crate::rule::Table::Mangle {
        let what = format!("--map-set cannot be used in table {}", given.table.name());
        return Err(given.complain(what));
    }
    let denied = given.hooks & inner.hooks_refused();
    if denied != 0 {
        return Err(given.complain("--map-prio and --map-queue are for FORWARD, OUTPUT and POSTROUTING only"));
    }
    Ok(Target::Set(Set(Box::new(inner))))
}

impl Inner {
    fn hooks_refused(&self) -> u8 {
        match self.map_prio || self.map_queue {
            true => Hook::Prerouting.bit() | Hook::Input.bit(),
            false => 0,
        }
    }
}

impl Set {
    /// The sets that it names.
    pub fn named(&self) -> impl Iterator<Item = &Named> {
        let Inner { add, delete, map, .. } = &*self.0;
        [add, delete, map].into_iter().flatten()
    }

    /// The same, for the router that gives them their slots.
    pub fn named_mut(&mut self) -> impl Iterator<Item = &mut Named> {
        let Inner { add, delete, map, .. } = &mut *self.0;
        [add, delete, map].into_iter().flatten()
    }

    /// Whether it may stand in this table.
    pub fn fits(&self, table: crate::rule::Table) -> bool {
        self.0.map.is_none() || table == crate::rule::Table::Mangle
    }
}

impl Action for Set {
    fn act(&self, facts: &Facts, cx: &Context) -> Effect<'_> {
        let inner = &*self.0;
        if let Some(named) = &inner.add {
            let timeout = inner.timeout.map(|seconds| seconds.min(MAX_TIMEOUT));
            cx.around.change_set(named, Change::Add { exist: inner.exist, timeout }, facts);
        }
        if let Some(named) = &inner.delete {
            cx.around.change_set(named, Change::Delete, facts);
        }
        match inner.map.as_ref().and_then(|named| cx.around.in_set(named, &Asked::PLAIN, facts)) {
            Some(skb) if inner.map_mark => Effect::Mark((facts.mark & !skb.mask) ^ skb.mark),
            _ => Effect::Continue,
        }
    }

    fn changes_packets(&self) -> bool {
        self.0.map.is_some()
    }

    fn extension(&self, _: Family) -> Option<&'static TargetExtension> {
        Some(&EXTENSION)
    }

    fn print(&self, _: Family, out: &mut String) {
        let inner = &*self.0;
        let set = |option: &str, named: &Option<Named>, out: &mut String| {
            if let Some(named) = named {
                let _ = write!(out, " --{option}-set");
                named.print(out);
            }
        };
        let flag = |given: bool, option: &str, out: &mut String| {
            if given {
                let _ = write!(out, " --{option}");
            }
        };
        set("add", &inner.add, out);
        flag(inner.exist, "exist", out);
        if let Some(seconds) = inner.timeout {
            let _ = write!(out, " --timeout {seconds}");
        }
        set("del", &inner.delete, out);
        set("map", &inner.map, out);
        flag(inner.map_mark, "map-mark", out);
        flag(inner.map_prio, "map-prio", out);
        flag(inner.map_queue, "map-queue", out);
    }

    fn refused_hooks(&self) -> u8 {
        self.0.hooks_refused()
    }

    fn verify(&self, _: Family) -> Result<(), String> {
        let inner = &*self.0;
        let flags = inner.map_mark || inner.map_prio || inner.map_queue;
        let adds = inner.exist || inner.timeout.is_some();
        if self.named().next().is_none() || inner.map.is_some() != flags || adds && inner.add.is_none() {
            return Err("SET without a set".to_string());
        }
        self.named().try_for_each(Named::verify)
    }
}
