//! One process after another with the same file, and files that no process wrote.

use super::*;
use crate::conntrack::tests::{A, B, Sample, tcp, udp};
use crate::conntrack::{Ct, Tracker, tuple::Tuple};
use crate::engine::Router;
use crate::nat::{Manip, NatRange};
use proptest::prelude::*;
use std::sync::Arc;
use sumun_config::facts::{CtState, Dir, status};
use sumun_config::helper::Helper;
use sumun_config::model::{Idle, LogTo, Sysctl};
use sumun_config::rule;

const S: u64 = 1_000_000_000;
const BOOT: &str = "a boot";
const WAN: PortId = PortId(1);
/// The router's address outside.
const OUTER: u128 = 0xcb00_7102;

fn table(max_flows: u32, now: u64) -> Table {
    Table { max_flows, workers: 1, seed: now, now, ports: ["lan0", "wan0"].map(String::from).to_vec() }
}

/// A process from its start on.
struct Life {
    shared: Arc<Conntrack>,
    t: Tracker,
    adopted: Adopted,
    lost: Option<String>,
    mortal: Option<String>,
}

fn live(table: &Table, path: &Path) -> Life {
    let Opened { conntrack, adopted, lost, mortal, .. } = table.open(path, BOOT);
    let shared = Arc::new(conntrack);
    Life { t: Tracker::new(shared.clone(), 0), shared, adopted, lost, mortal }
}

impl Life {
    /// A packet that passes; what it is, and the port that its flow's source has outside. Flows are masqueraded. A packet
    /// that is dropped is INVALID.
    fn pass(&mut self, mut p: Sample, now: u64) -> (CtState, u16) {
        let ct = self.t.track(&mut p.facts, &p.l3, now, &Sysctl::default());
        let Ok(Ct::Flow(flow)) = ct else { return (CtState::Invalid, 0) };
        if self.t.is_unmapped(flow, Manip::Src) && flow.dir == Dir::Original {
            let (addresses, ports) = (Some((OUTER, OUTER)), Some((7000, 7999)));
            let range = NatRange { addresses, ports, random: true, ..NatRange::default() };
            let random = u32::from(p.facts.sport).wrapping_mul(0x9e37_79b1);
            self.t.map(flow, Manip::Src, Some(&range), &p.facts, random).unwrap();
            self.t.set_masqueraded(flow, WAN);
        }
        let source = self.shared.entry(flow.id).tuple(Dir::Reply).dport;
        let confirmed = self.t.confirm(Ct::Flow(flow), &mut p.facts, now);
        self.t.quiescent(now);
        if confirmed.is_ok() { (p.facts.ct_state, source) } else { (CtState::Invalid, 0) }
    }

    fn lines(&self, now: u64) -> Vec<String> {
        let mut lines = Vec::new();
        self.shared.list(now, |view| lines.push(view.to_string()));
        lines.sort();
        lines
    }

    /// Ends all flows and looks whether anything is left of them.
    fn ends_clean(mut self, now: u64) -> bool {
        self.shared.flush(now);
        for round in 0..20 {
            self.t.sweep(now + round * 8 * S, usize::MAX >> 1);
            self.t.quiescent(now + round * 8 * S);
        }
        self.shared.count() == 0 && self.shared.is_clean() && self.shared.sources.is_clean()
    }
}

/// A process that had some flows of three protocols and was killed, and when.
fn killed(path: &Path, flows: u16) -> (Vec<String>, u64) {
    let mut life = live(&table(100, 10 * S), path);
    for n in 0..flows {
        let (_, port) = life.pass(udp(A, 1000 + n, B, 53), 11 * S);
        life.pass(udp(B, 53, OUTER, port), 11 * S);
    }
    let (_, port) = life.pass(tcp(A, 2000, B, 80, 0x02), 11 * S);
    life.pass(tcp(B, 80, OUTER, port, 0x12), 11 * S);
    life.pass(tcp(A, 2000, B, 80, 0x10), 11 * S);
    let lines = life.lines(12 * S);
    // Unconfirmed when the end comes, and dead already.
    let mut p = udp(A, 9, B, 9);
    life.t.track(&mut p.facts, &p.l3, 12 * S, &Sysctl::default()).unwrap();
    life.pass(udp(A, 8, B, 8), 12 * S);
    life.shared.delete(12 * S, |view| view.original.tuple.sport == 8);
    std::mem::forget(life.t);
    (lines, 12 * S)
}

#[test]
fn flows_and_mappings_live_on_in_the_next_process_and_the_one_after_it() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let (before, mut now) = killed(&path, 3);
    assert_eq!(before.len(), 4);
    for n in 0..3u16 {
        now += S;
        let mut life = live(&table(100, now), &path);
        assert_eq!((life.lost.take(), life.mortal.take()), (None, None));
        assert_eq!((life.adopted.flows, life.adopted.unsound), (4, 0), "{}", life.adopted);
        assert_eq!((life.shared.count(), life.lines(now).len()), (4, 4));
        // Answers find the flow, and a further flow of a source gets the source's mapping.
        let port = |sport: u16| {
            let t = Tuple { src: A, dst: B, sport, dport: 53, ..Tuple::of(&udp(A, 1, B, 1).facts) };
            life.shared
                .sources
                .find(&life.shared, &t, life.shared.hasher.hash_source(&t), |_, _| true)
                .expect("a mapping")
                .1
        };
        let mapped = port(1000);
        assert_eq!(life.pass(udp(B, 53, OUTER, mapped), now).0, CtState::Established);
        assert_eq!(life.pass(udp(A, 1000, B, 53), now), (CtState::Established, mapped));
        assert_eq!(life.pass(tcp(A, 2000, B, 80, 0x10), now).0, CtState::Established);
        assert_eq!(life.pass(udp(A, 3000 + n, B, 99), now).0, CtState::New, "there is room for others");
        life.shared.delete(now, |view| view.original.tuple.dport == 99);
        if n == 2 {
            assert!(life.ends_clean(now));
        }
    }
}

#[test]
fn a_flow_whose_tuples_are_one_lives_on() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    // A host that reaches itself under the router's address.
    let packet = || udp(A, 1000, OUTER, 1000);
    {
        let mut life = live(&table(100, 10 * S), &path);
        let mut p = packet();
        let ct = life.t.track(&mut p.facts, &p.l3, 11 * S, &Sysctl::default()).unwrap();
        let Ct::Flow(flow) = ct else { panic!("{ct:?}") };
        for (manip, addr) in [(Manip::Dst, A), (Manip::Src, OUTER)] {
            let range = NatRange { addresses: Some((addr, addr)), ..NatRange::default() };
            life.t.map(flow, manip, Some(&range), &p.facts, 1).unwrap();
        }
        life.t.confirm(ct, &mut p.facts, 11 * S).unwrap();
        std::mem::forget(life.t);
    }
    let mut life = live(&table(100, 12 * S), &path);
    assert_eq!((life.adopted.flows, life.adopted.unsound), (1, 0), "{}", life.adopted);
    let mut p = packet();
    life.t.track(&mut p.facts, &p.l3, 12 * S, &Sysctl::default()).unwrap();
    assert_eq!((p.facts.ct_state, p.facts.ct_dir), (CtState::Established, Dir::Reply));
    life.t.quiescent(12 * S);
    assert!(life.ends_clean(13 * S));
}

#[test]
fn mappings_outlive_the_rules_that_chose_them_from_process_to_process() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let appliance = Appliance {
        run_dir: tmp.path().to_path_buf(),
        cores: vec![0],
        idle: Idle::Busy,
        frames_per_worker: 64,
        frame_size: 2048,
        max_flows: 100,
        keep_flows: true,
        max_neighbours: 10,
        interfaces: Vec::new(),
        initial_policy: rule::Policy::Drop,
        log: LogTo::Syslog,
        host: None,
    };
    let is_mapping = |conntrack| {
        let router = Router::with(conntrack, &appliance, Vec::new(), 7);
        // The same policy, which has no rules, once more.
        router.zero();
        router.current().needs.map(|needs| (needs.tracking, needs.nat))
    };
    assert_eq!(is_mapping(table(100, 10 * S).open(&path, BOOT).conntrack), [(false, false); 2]);
    let (_, now) = killed(&path, 1);
    assert_eq!(is_mapping(table(100, now).open(&path, BOOT).conntrack), [(true, true); 2]);
}

#[test]
fn time_goes_on_between_processes() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let (_, now) = killed(&path, 1);
    let life = live(&table(100, now + 25 * S), &path);
    let line = life.lines(now + 25 * S).into_iter().find(|l| l.starts_with("udp")).expect("it has 4 seconds left");
    assert!(line.starts_with("udp      17 4 "), "{line}");
    drop(life);
    let life = live(&table(100, now + 60 * S), &path);
    assert_eq!((life.adopted.flows, life.adopted.over), (1, 1), "the connection stays: {}", life.adopted);
}

#[test]
fn a_smaller_table_keeps_the_assured_and_a_larger_one_all() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let (_, now) = killed(&path, 7);
    let life = live(&table(3, now), &path);
    assert_eq!((life.adopted.flows, life.adopted.surplus), (3, 5));
    assert!(life.lines(now).iter().any(|l| l.starts_with("tcp")), "{:?}", life.lines(now));
    drop(life);
    let life = live(&table(5000, now), &path);
    assert_eq!((life.adopted.flows, life.shared.max_flows()), (3, 5000));
    assert!(life.ends_clean(now));
}

#[test]
fn ports_are_known_by_name() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let (_, now) = killed(&path, 1);
    let ports = |names: &[&str]| Table { ports: names.iter().map(|n| n.to_string()).collect(), ..table(100, now) };
    let life = live(&ports(&["dmz0", "lan0", "wan0"]), &path);
    assert_eq!(life.adopted.flows, 2);
    assert_eq!(life.shared.masqueraded_on(0), Some(PortId(2)));
    drop(life);
    let life = live(&ports(&["lan0", "dmz0"]), &path);
    assert_eq!((life.adopted.flows, life.adopted.homeless), (0, 2));
}

#[test]
fn a_process_that_dies_at_its_start_takes_nothing_away() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let (_, now) = killed(&path, 1);
    drop(table(100, now).make(&path.with_extension("new"), BOOT).unwrap());
    let life = live(&table(100, now), &path);
    assert_eq!(life.adopted.flows, 2);
    assert!(!path.with_extension("new").exists());
}

#[test]
fn where_no_file_can_be_the_router_runs_and_says_that_its_flows_are_mortal() {
    let tmp = tempfile::tempdir().unwrap();
    let mut life = live(&table(100, S), &tmp.path().join("missing").join(FILE));
    assert!(life.mortal.as_ref().is_some_and(|why| why.starts_with("cannot reserve 0 MB in ")), "{:?}", life.mortal);
    assert_eq!(life.pass(udp(A, 1, B, 2), S).0, CtState::New);
    let huge = Table { ports: vec!["x".repeat(1 << 16)], ..table(100, S) };
    let life = live(&huge, &tmp.path().join(FILE));
    assert!(life.mortal.is_some_and(|why| why.ends_with("the names of the ports are too long")));
}

#[test]
fn a_file_that_cannot_be_used_is_told_of_once_and_replaced() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let (_, now) = killed(&path, 1);
    let good = fs::read(&path).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        bytes
    };
    let head = |change: fn(&mut Head)| {
        let mut head: Head = postcard::from_bytes(&good[PREFIX..]).unwrap();
        change(&mut head);
        let mut bytes = good.clone();
        let new = head.bytes().unwrap();
        bytes[..new.len()].copy_from_slice(&new);
        bytes
    };
    for (bytes, why) in [
        (Vec::new(), "its head cannot be read"),
        (good[..HEAD - 1].to_vec(), "its head cannot be read"),
        (vec![0; good.len()], "it is not a file of flows"),
        (with(8, 1), "it has version 3 and this program writes version 2"),
        (with(12, 1), "its head is damaged"),
        (with(15, 0xff), "its head is damaged"),
        (with(PREFIX, 1), "its head is damaged"),
        (head(|head| head.boot = "another".to_string()), "the machine was started since"),
        (head(|head| head.sizes[2] += 8), "another release wrote it"),
        (head(|head| head.lines += 1), " instead of "),
        (head(|head| head.lines = u32::MAX), " instead of "),
        (good[..good.len() - 1].to_vec(), " instead of "),
        (with(BEAT + 7, 0x40), "it is of another time"),
    ] {
        fs::write(&path, &bytes).unwrap();
        let life = live(&table(100, now), &path);
        let said = life.lost.unwrap_or_default();
        assert!(said.contains(why), "{said} instead of {why}");
        assert_eq!((life.adopted, life.mortal), (Adopted::default(), None));
    }
    fs::write(&path, &good).unwrap();
    let life = live(&table(100, now + OLDEST + S), &path);
    assert_eq!(life.lost.as_deref(), Some("it is of another time"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(live(&table(100, now), &path).mortal.is_some());
}

/// Where the lines of the first flow begin in a file of `table(100, _)`.
fn places() -> [usize; 3] {
    let lines = Lines::needed(100, 1) as usize;
    let [entry, private, _] = Lines::SIZES.map(|size| size as usize);
    [HEAD, HEAD + lines * entry, HEAD + lines * (entry + private)]
}

#[test]
fn what_no_process_can_have_written_is_not_taken_over() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join(FILE);
    let mut life = live(&table(100, 10 * S), &path);
    let (_, port) = life.pass(tcp(A, 2000, B, 80, 0x02), 11 * S);
    life.pass(tcp(B, 80, OUTER, port, 0x12), 11 * S);
    drop(life);
    let good = fs::read(&path).unwrap();
    let [entry, private, cold] = places();
    let (word, original, reply) = (entry, entry + 48, entry + 88);
    for (what, at, flip) in [
        ("a bit of status that no flow has", word, status::DYING | 1 << 11),
        ("not confirmed", word, status::CONFIRMED),
        ("mapped, but no mapping was chosen", word, status::SRC_NAT_DONE),
        ("differing tuples without a mapping", word, status::SRC_NAT),
        ("a state that TCP has not", word + 4, 0x10),
        ("no state", word + 4, 2),
        ("an address longer than its family's", original + 8, 1),
        ("a family that is none", original + 32 + 4, 0x8000),
        ("another protocol in the reply", reply + 32 + 4, 1),
        ("another destination in the reply", reply, 1),
        ("another port in the reply", reply + 32, 1),
        ("a window scale that is none", private + 48, 0x10),
        ("a kind of segment that is none", private + 52, 0x0800),
        ("a byte of the windows that means nothing", private + 52, 1 << 24),
        ("masqueraded on a port that cannot be", cold + 4, 1 << 20),
    ] {
        let mut bytes = good.clone();
        let old = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        bytes[at..at + 4].copy_from_slice(&(old ^ flip).to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let life = live(&table(100, 12 * S), &path);
        let Adopted { flows, over, unsound, .. } = life.adopted;
        let expected = if flip & status::DYING != 0 { (0, 1, 0) } else { (0, 0, 1) };
        assert_eq!((flows, over, unsound), expected, "{what}");
    }
    // What few flows have: a helper that reads their protocol stays, another does not, and nothing counts without its bit.
    for (extra, helper, expected) in [(0x40, 1, (1, Some(Helper::Ftp))), (0x40, 2, (0, None)), (0, 77, (1, None))] {
        let mut bytes = good.clone();
        bytes[word + 1] |= extra;
        bytes[cold + 28] = helper;
        fs::write(&path, &bytes).unwrap();
        let life = live(&table(100, 12 * S), &path);
        assert_eq!((life.adopted.flows, life.shared.cold(0).helper()), expected);
    }
    // The same flow in two lines.
    let mut twice = good.clone();
    for (at, size) in places().into_iter().zip(Lines::SIZES) {
        let size = size as usize;
        twice.copy_within(at..at + size, at + size);
    }
    fs::write(&path, &twice).unwrap();
    let life = live(&table(100, 12 * S), &path);
    assert_eq!((life.adopted.flows, life.adopted.unsound), (1, 1));
    assert!(life.ends_clean(12 * S));
}

/// Whatever was taken over, it can be listed, met by packets, and ended, and nothing is left of it.
fn is_safe(path: &Path, now: u64) -> Result<(), TestCaseError> {
    let mut life = live(&table(100, now), path);
    prop_assert_eq!(life.shared.count(), life.adopted.flows);
    prop_assert_eq!(life.lines(now).len() as u32, life.adopted.flows);
    for n in 0..4 {
        life.pass(udp(A, 1000 + n, B, 53), now);
    }
    for flags in [0x02, 0x10, 0x11, 0x04] {
        life.pass(tcp(A, 2000, B, 80, flags), now);
        life.pass(tcp(B, 80, OUTER, 7000, flags), now);
    }
    prop_assert!(life.ends_clean(now));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_in_place_of_lines_are_safe(seed in any::<u64>(), live_ones in any::<bool>()) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(FILE);
        let (_, now) = killed(&path, 3);
        let mut bytes = fs::read(&path).unwrap();
        let mut state = seed;
        for chunk in bytes[HEAD..].chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&(state ^ state >> 29).to_le_bytes());
        }
        if live_ones {
            for line in 0..Lines::needed(100, 1) as usize {
                let word = HEAD + line * 128 + 40;
                bytes[word] |= status::CONFIRMED as u8;
                bytes[word + 2] = bytes[word + 2] & !3 | 2;
            }
        }
        fs::write(&path, &bytes).unwrap();
        is_safe(&path, now)?;
    }

    #[test]
    fn flipped_bits_in_flows_are_safe(flips in prop::collection::vec((0usize..3, 0usize..8 * 512), 1..24)) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(FILE);
        let (_, now) = killed(&path, 3);
        let mut bytes = fs::read(&path).unwrap();
        for (kind, bit) in flips {
            let at = places()[kind] + bit / 8 % (4 * Lines::SIZES[kind] as usize);
            bytes[at] ^= 1 << (bit % 8);
        }
        fs::write(&path, &bytes).unwrap();
        is_safe(&path, now)?;
    }

    #[test]
    fn random_heads_are_safe(at in 0usize..256, noise in prop::collection::vec(any::<u8>(), 1..64)) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(FILE);
        let (_, now) = killed(&path, 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at..at + noise.len()].copy_from_slice(&noise);
        fs::write(&path, &bytes).unwrap();
        is_safe(&path, now)?;
    }
}
