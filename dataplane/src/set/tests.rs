//! Each type against a model that looks at every element, and what several threads may do to one set.

use super::content::{Content, Found, Refused};
use super::extras::Carried;
use super::packet::Ifaces;
use super::*;
use crate::protocol::{SetAnswer, SetRequest};
use proptest::prelude::*;
use sumun_config::facts::{Family, PortId};
use sumun_config::set::{Key, Part, iface_mask, iface_number, mac_number};

const SECOND: u64 = 1_000_000_000;
const PORTS: [&str; 3] = ["lan0", "lan1", "wan0"];

fn ifaces() -> Ifaces {
    Ifaces::of(PORTS.into_iter())
}

fn ends(src: u8) -> Ends {
    Ends { count: 3, src: src & 7 }
}

/// A few addresses that share prefixes of many lengths.
fn addr(family: Family, pick: u8) -> u128 {
    let v4 = [0x0a00_0001, 0x0a00_0002, 0x0a00_0081, 0x0a00_0101, 0x0a01_0001, 0x0b00_0001, 0xc000_0201, 0x0a00_0003];
    let low: u128 = v4[pick as usize % v4.len()];
    if family == Family::V4 { low } else { low << 96 | u128::from(pick % 3) }
}

fn packet(family: Family, picks: [u8; 4]) -> Facts {
    let [src, dst, port, link] = picks;
    Facts {
        src: addr(family, src),
        dst: addr(family, dst),
        proto: if port & 1 == 0 { 6 } else { 17 },
        sport: 1000 + u16::from(port % 3),
        dport: 80 + u16::from(port % 2),
        has_l4: true,
        mark: u32::from(link % 3),
        smac: [2, 0, 0, 0, 0, link % 3],
        dmac: [2, 0, 0, 0, 1, link % 2],
        has_link: link != 7,
        iif: PortId(u16::from(link % 3)),
        oif: PortId(u16::from(link % 2)),
        len: 100,
        ..Facts::blank(family)
    }
}

/// An element that has something to do with such packets.
fn element(header: &Header, picks: [u8; 4], lens: [u8; 2], nomatch: bool) -> Element {
    let family = header.family.unwrap_or(Family::V4);
    let facts = packet(family, picks);
    let len = |pick: u8| [family.bits(), family.bits() - 1, 24, 16, 8, 1][pick as usize % 6];
    let mut element = Element { nomatch: nomatch && header.kind.has_nets(), ..Element::default() };
    let mut key = Key::default();
    for (i, part) in header.kind.parts().iter().enumerate() {
        key = match part {
            Part::Ip if i == 0 => Key { a: facts.src & header.mask(), ..key },
            Part::Net if i == 0 => key.with_a(family, facts.src & header.mask(), len(lens[0])),
            Part::Ip => Key { b: facts.dst, ..key },
            Part::Net => key.with_b(
                family,
                facts.dst & if header.kind == Kind::HashNetNet { header.mask() } else { u128::MAX },
                len(lens[1]),
            ),
            Part::Mac if header.kind == Kind::BitmapIpMac => {
                element.extra.get_or_insert_default().mac = (picks[3] & 1 == 0).then(|| mac_number(facts.smac));
                key
            }
            Part::Mac => key.with_mac(mac_number(facts.smac)),
            Part::Mark => key.with_mark(facts.mark & header.markmask),
            Part::Port if header.kind == Kind::BitmapPort => key.with_port(0, facts.dport),
            Part::Port => key.with_port(facts.proto, facts.dport),
            Part::Iface => {
                element.wildcard = picks[3] & 4 != 0;
                let name = if element.wildcard { "lan" } else { PORTS[picks[3] as usize % 3] };
                key.with_iface(iface_number(name), false)
            }
            Part::Set => key,
        };
    }
    element.key = key;
    element
}

/// What the model knows of an element.
#[derive(Clone)]
struct Known {
    element: Element,
    /// None is for ever.
    until: Option<u64>,
    packets: u64,
    mac: Option<u64>,
    seconds: u32,
}

/// A list of elements in which everything is found by looking at all of them.
struct Model {
    header: Header,
    elements: Vec<Known>,
}

impl Model {
    fn alive(known: &Known, now: u64) -> bool {
        known.until.is_none_or(|until| now <= until)
    }

    fn same(known: &Known, key: &Key) -> bool {
        let stored = &known.element.key;
        let mask = if known.element.wildcard { iface_mask(stored.b) } else { u128::MAX };
        (stored.a, stored.rest) == (key.a, key.rest) && (stored.b ^ key.b) & mask == 0
    }

    fn until(&self, seconds: u32, now: u64) -> Option<u64> {
        (self.header.timeout.is_some() && seconds > 0).then(|| now + u64::from(seconds) * SECOND)
    }

    fn add(&mut self, element: &Element, carried: &Carried, exist: bool, now: u64) -> Result<(), Refused> {
        let seconds = carried.timeout.or(self.header.timeout).unwrap_or(0);
        let until = self.until(seconds, now);
        let station = self.header.kind == Kind::BitmapIpMac;
        if let Some(at) = self.elements.iter().position(|known| Model::same(known, &element.key)) {
            if let (true, None, Some(mac)) = (station, self.elements[at].mac, carried.mac) {
                let stored = self.elements[at].seconds;
                let own = carried.timeout.filter(|seconds| Some(*seconds) != self.header.timeout);
                let until = self.until(own.unwrap_or(stored), now);
                let known = &mut self.elements[at];
                (known.mac, known.until, known.packets) = (Some(mac), until, carried.packets.unwrap_or(0));
                return Ok(());
            }
            if !exist && Model::alive(&self.elements[at], now) {
                return Err(Refused::Exists);
            }
            let known = &mut self.elements[at];
            known.packets = carried.packets.unwrap_or(known.packets);
            known.mac = carried.mac.or(known.mac);
            (known.until, known.seconds) = (until.filter(|_| !station || known.mac.is_some()), seconds);
            (known.element.nomatch, known.element.wildcard) = (carried.nomatch, carried.wildcard);
            return Ok(());
        }
        let full = |model: &Model| model.elements.len() >= model.header.capacity() as usize;
        if full(self) {
            self.elements.retain(|known| Model::alive(known, now));
        }
        if full(self) {
            return Err(Refused::Full);
        }
        let waits = station && carried.mac.is_none();
        self.elements.push(Known {
            element: element.clone(),
            until: until.filter(|_| !waits),
            packets: carried.packets.unwrap_or(0),
            mac: carried.mac,
            seconds,
        });
        Ok(())
    }

    fn delete(&mut self, key: &Key, now: u64) -> Result<(), Refused> {
        let is = |known: &Known| Model::same(known, key) && Model::alive(known, now);
        let at = self.elements.iter().position(is).ok_or(Refused::Missing)?;
        self.elements.remove(at);
        Ok(())
    }

    /// Whether the addresses and everything but the interface of a packet are in the element.
    fn holds(&self, known: &Known, ends: Ends, facts: &Facts) -> bool {
        let header = &self.header;
        let key = &known.element.key;
        let family = header.family.unwrap_or(Family::V4);
        let mut second = false;
        header.kind.parts().iter().enumerate().all(|(i, part)| {
            let src = ends.is_src(i);
            let host = if src { facts.src } else { facts.dst };
            let port = if src { facts.sport } else { facts.dport };
            let mac = if src { facts.smac } else { facts.dmac };
            match part {
                Part::Ip | Part::Net => {
                    let (net, len) = if second { (key.b, key.len_b()) } else { (key.a, key.len_a()) };
                    let own = if !second || header.kind == Kind::HashNetNet { header.mask() } else { u128::MAX };
                    second = true;
                    let mask = if *part == Part::Net { family.mask(len) } else { family.ones() };
                    host & own & mask == net
                }
                Part::Port if header.kind == Kind::BitmapPort => port == key.port(),
                Part::Port => (facts.proto, port) == (key.proto(), key.port()),
                Part::Mac if header.kind == Kind::BitmapIpMac => {
                    facts.has_link && known.mac.is_none_or(|own| own == mac_number(mac))
                }
                Part::Mac => facts.has_link && mac_number(mac) == key.mac(),
                Part::Mark => facts.mark & header.markmask == key.mark(),
                Part::Iface | Part::Set => true,
            }
        })
    }

    fn test(&mut self, ends: Ends, facts: &Facts, now: u64) -> Found {
        let lens = |known: &Known| (known.element.key.len_a(), known.element.key.len_b());
        let held = self.elements.iter().enumerate().filter(|(_, known)| self.holds(known, ends, facts));
        let mut candidates: Vec<(usize, (u8, u8))> = held.map(|(i, known)| (i, lens(known))).collect();
        candidates.sort_by_key(|(_, lens)| std::cmp::Reverse(*lens));
        let port = if ends.is_src(1) { facts.iif } else { facts.oif };
        let name = iface_number(PORTS[port.0 as usize]);
        let mut passed = None;
        for (i, (len, _)) in candidates {
            if passed.is_some_and(|passed| passed != len) {
                return Found::No;
            }
            let iface = self.header.kind == Kind::HashNetIface;
            if iface && !Model::same(&self.elements[i], &Key { b: name, ..self.elements[i].element.key }) {
                passed = Some(len);
                continue;
            }
            let known = &mut self.elements[i];
            if self.header.kind == Kind::BitmapIpMac && known.mac.is_none() {
                let mac = mac_number(if ends.is_src(1) { facts.smac } else { facts.dmac });
                let (seconds, header) = (known.seconds, self.header.clone());
                let until = Model { header, elements: Vec::new() }.until(seconds, now);
                (known.mac, known.packets, known.until) = (Some(mac), 1, until);
                return Found::Yes(SkbInfo::default());
            }
            if !Model::alive(known, now) {
                continue;
            }
            known.packets += 1;
            let nomatch = known.element.nomatch;
            return if nomatch { Found::Nomatch(SkbInfo::default()) } else { Found::Yes(SkbInfo::default()) };
        }
        Found::No
    }

    /// The elements and the packets that they counted.
    fn list(&self, now: u64) -> Vec<(Key, bool, Option<u64>, u64)> {
        let alive = self.elements.iter().filter(|known| Model::alive(known, now));
        let mut list: Vec<_> =
            alive.map(|known| (known.element.key, known.element.nomatch, known.mac, known.packets)).collect();
        list.sort_by_key(|(key, ..)| (key.a, key.b, key.rest));
        list
    }
}

fn list(content: &Content, now: u64) -> Vec<(Key, bool, Option<u64>, u64)> {
    let (elements, next) = content.list(0, usize::MAX, now);
    assert_eq!(next, None);
    let row = |element: &Element| {
        let extra = element.extra.as_deref().cloned().unwrap_or_default();
        (element.key, element.nomatch, extra.mac, extra.packets.unwrap_or(0))
    };
    let mut list: Vec<_> = elements.iter().map(row).collect();
    list.sort_by_key(|(key, ..)| (key.a, key.b, key.rest));
    list
}

#[derive(Clone, Debug)]
enum Op {
    Add { picks: [u8; 4], lens: [u8; 2], nomatch: bool, exist: bool, timeout: Option<u32> },
    Delete { picks: [u8; 4], lens: [u8; 2] },
    Test { picks: [u8; 4], src: u8 },
    Wait(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let picks = || proptest::array::uniform4(0..8u8);
    let lens = || proptest::array::uniform2(0..6u8);
    prop_oneof![
        4 => (picks(), lens(), proptest::bool::weighted(0.2), any::<bool>(), proptest::option::of(0..5u32))
            .prop_map(|(picks, lens, nomatch, exist, timeout)| Op::Add { picks, lens, nomatch, exist, timeout }),
        2 => (picks(), lens()).prop_map(|(picks, lens)| Op::Delete { picks, lens }),
        6 => (picks(), 0..8u8).prop_map(|(picks, src)| Op::Test { picks, src }),
        1 => (0..4u8).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_type_is_as_a_model_that_looks_at_every_element(
        kind in 0..15usize,
        v6: bool,
        timeout in proptest::option::of(0..4u32),
        maxelem in 1..40u32,
        narrow: bool,
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut header = Header::new("s", Kind::ALL[kind].1);
        if header.family.is_some() && !header.kind.is_bitmap() && v6 {
            header.family = Some(Family::V6);
        }
        // Which of two interfaces of a network is met first is not said; without time and wildcards it does not matter.
        let iface = header.kind == Kind::HashNetIface;
        header.timeout = timeout.filter(|_| !iface);
        header.counters = true;
        header.maxelem = maxelem;
        header.range = if header.kind == Kind::BitmapPort { (0, 100) } else { (0x0a00_0000, 0x0a00_ffff) };
        if narrow && matches!(header.kind, Kind::HashIp | Kind::HashIpPort | Kind::HashNetNet) {
            header.netmask = Some(20);
        }
        if narrow {
            header.markmask = if header.kind == Kind::HashIpMark { 1 } else { u32::MAX };
        }
        let family = header.family.unwrap_or(Family::V4);
        let content = Content::new(header.clone(), 42).unwrap();
        let mut model = Model { header: header.clone(), elements: Vec::new() };
        let ifaces = ifaces();
        let mut now = SECOND;
        for op in ops {
            match op {
                Op::Add { picks, lens, nomatch, exist, timeout } => {
                    let mut element = element(&header, picks, lens, nomatch);
                    if header.timeout.is_some() {
                        element.extra.get_or_insert_default().timeout = timeout;
                    }
                    let near = |known: &Known| (known.element.key.a, known.element.key.rest) == (element.key.a, element.key.rest);
                    if entry::verify(&header, &element).is_err() || element.wildcard && model.elements.iter().any(near) {
                        continue;
                    }
                    let carried = Carried::of(&element);
                    let (a, b) = (content.add(&element.key, &carried, exist, now), model.add(&element, &carried, exist, now));
                    prop_assert_eq!(a, b, "add {:?}", element);
                }
                Op::Delete { picks, lens } => {
                    let element = element(&header, picks, lens, false);
                    prop_assert_eq!(content.delete(&element.key, now), model.delete(&element.key, now), "delete {:?}", element);
                }
                Op::Test { picks, src } => {
                    let facts = packet(family, picks);
                    let (a, b) = (content.test(ends(src), &Asked::PLAIN, &facts, &ifaces, now), model.test(ends(src), &facts, now));
                    prop_assert_eq!(a, b, "test {:?} {}", facts, src);
                }
                Op::Wait(seconds) => {
                    now += u64::from(seconds) * SECOND;
                    if seconds == 3 {
                        content.sweep(usize::MAX, now);
                        model.elements.retain(|known| Model::alive(known, now));
                    }
                }
            }
            prop_assert_eq!(list(&content, now), model.list(now));
        }
    }
}

#[test]
fn a_station_that_is_added_again_before_its_mac_is_known_waits_for_it_all_the_same() {
    let mut header = Header::new("s", Kind::BitmapIpMac);
    (header.timeout, header.range) = (Some(1), (0x0a00_0000, 0x0a00_ffff));
    let content = Content::new(header, 1).unwrap();
    let facts = packet(Family::V4, [1, 0, 0, 0]);
    let key = Key { a: facts.src, ..Key::default() };
    for exist in [false, true] {
        content.add(&key, &Carried::default(), exist, SECOND).unwrap();
    }
    let test = |now| content.test(ends(3), &Asked::PLAIN, &facts, &ifaces(), now) == Found::Yes(SkbInfo::default());
    assert_eq!(
        [60, 61, 62].map(|second| test(second * SECOND)),
        [true, true, false],
        "a second from its first packet on"
    );
}

/// So many hosts, one after the other.
fn hosts(from: u32, count: u32) -> impl Iterator<Item = Key> {
    (from..from + count).map(|host| Key { a: host.into(), ..Key::default() })
}

#[test]
fn elements_that_two_threads_add_are_there_once_and_no_more_than_may_be() {
    let mut header = Header::new("s", Kind::HashIp);
    header.maxelem = 30_000;
    let content = Content::new(header, 1).unwrap();
    let add = || hosts(1, 40_000).filter(|key| content.add(key, &Carried::default(), false, 0).is_ok()).count();
    let added: usize = std::thread::scope(|scope| {
        let threads = [scope.spawn(add), scope.spawn(add)];
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((added, content.len()), (30_000, 30_000));
    let (elements, _) = content.list(0, usize::MAX, 0);
    let distinct: std::collections::HashSet<u128> = elements.iter().map(|element| element.key.a).collect();
    assert_eq!(distinct.len(), 30_000);
}

#[test]
fn who_looks_up_finds_what_stays_while_others_add_and_delete() {
    let mut header = Header::new("s", Kind::HashNetNet);
    header.family = Some(Family::V6);
    header.counters = true;
    let content = Content::new(header, 1).unwrap();
    let key = |n: u128| Key::default().with_a(Family::V6, n << 64, 64).with_b(Family::V6, n << 96, 32);
    (0..500).for_each(|n| content.add(&key(n), &Carried::default(), false, 0).unwrap());
    let looked = 20_000u64;
    std::thread::scope(|scope| {
        for thread in 0..2u128 {
            let content = &content;
            scope.spawn(move || {
                for round in 0..40_000u128 {
                    let passing = key(1000 + thread * 300 + round % 300);
                    let _ = content.add(&passing, &Carried::default(), true, 0);
                    let _ = content.delete(&key(1000 + (1 - thread) * 300 + (round * 7) % 300), 0);
                }
            });
        }
        for i in 0..looked {
            let n = u128::from(i % 500);
            let facts = Facts { src: n << 64 | 5, dst: n << 96 | 7, ..Facts::blank(Family::V6) };
            let found = content.test(Ends { count: 2, src: 1 }, &Asked::PLAIN, &facts, &ifaces(), 0);
            assert_eq!(found, Found::Yes(SkbInfo::default()), "{n}");
        }
    });
    let counted: u64 = list(&content, 0).iter().filter(|(key, ..)| key.a >> 64 < 500).map(|row| row.3).sum();
    assert_eq!(counted, looked);
}

/// What no rule refers to.
fn ask(sets: &Sets, request: SetRequest) -> SetAnswer {
    sets.answer(request, &|_| 0, 0).unwrap()
}

/// Puts a declared set `hosts` with one address in force, and all workers have taken it up.
fn apply(sets: &Sets, generation: u64, address: u128) {
    let element = Element { key: Key { a: address, ..Key::default() }, ..Element::default() };
    let hosts = Declaration { header: Header::new("hosts", Kind::HashIp), elements: vec![element] };
    sets.commit(sets.prepare(&[hosts], 0).unwrap(), generation);
    sets.settle(generation, 0);
}

#[test]
fn a_list_that_control_created_keeps_its_sets_where_they_are_declared_anew() {
    let sets = Sets::new(1);
    apply(&sets, 1, 5);
    let create = |name, kind| SetRequest::Create { header: Header::new(name, kind), exist: false };
    ask(&sets, create("staged", Kind::ListSet));
    let extra = Extra { set: "hosts".into(), ..Extra::default() };
    let member = Element { extra: Some(Box::new(extra)), ..Element::default() };
    ask(&sets, SetRequest::Add { name: "staged".into(), elements: vec![member], exist: false });
    apply(&sets, 2, 6);
    ask(&sets, create("other", Kind::HashIp));
    let SetAnswer::Sets(rows) = ask(&sets, SetRequest::List { name: None }) else { panic!("no sets") };
    let rows: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.entries, row.references)).collect();
    assert_eq!(rows, [("hosts", 1, 1), ("other", 0, 0), ("staged", 1, 0)]);
    let asked = SetRequest::Elements { name: "staged".into(), from: 0 };
    let SetAnswer::Elements { elements, .. } = ask(&sets, asked) else { panic!("no elements") };
    let names: Vec<_> = elements.iter().map(|element| element.extra.as_ref().unwrap().set.as_str()).collect();
    assert_eq!(names, ["hosts"]);
    let slot = sets.unchanged().slot("staged").unwrap();
    let facts = |src| Facts { src, ..Facts::blank(Family::V4) };
    let is_in = |src| sets.view().test(slot, ends(1), &Asked::PLAIN, &facts(src), &ifaces(), 0).is_some();
    assert_eq!([5, 6].map(is_in), [false, true]);
    let destroy = |name: &str| sets.answer(SetRequest::Destroy { name: Some(name.into()) }, &|_| 0, 0).is_ok();
    assert_eq!(["other", "staged", "hosts"].map(destroy), [true, true, false], "hosts is declared");
}

#[test]
fn a_set_is_freed_by_housekeeping_and_not_by_the_worker_that_sees_it_last() {
    let sets = Sets::new(1);
    ask(&sets, SetRequest::Create { header: Header::new("hosts", Kind::HashIp), exist: false });
    let worker = sets.view();
    let set = Arc::downgrade(worker.slots[0].as_ref().unwrap());
    ask(&sets, SetRequest::Destroy { name: None });
    sets.settle(0, 0);
    assert!(worker.set(0).is_some(), "its packets meet it yet");
    drop(worker);
    assert!(set.upgrade().is_some(), "that was nothing");
    sets.settle(0, 0);
    assert!(set.upgrade().is_none());
}
