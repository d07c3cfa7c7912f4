//! Model checks: what may happen to the flow table when workers and operators meet, in many orders of their steps.
//!
//! `cargo test -p sumun-dataplane --lib --features model conntrack::model` runs each scene under two schedulers of shuttle, a
//! random one and one that tries few but mean preemptions, from fixed seeds. After each run [`Scene::end`] asserts the
//! invariants that every scene shares:
//!
//! - At most one live flow has a tuple, and whoever is live is found by both of its tuples.
//! - The number of flows that is told is the number of live entries.
//! - Every entry is in exactly one place: live, unconfirmed, free, waiting, or in the depot; and no room is lost.
//! - When all flows have ended, the index and the lists of NAT sources are empty.

use super::tests::{A, B, Sample, tcp, udp};
use super::*;
use crate::nat::{Manip, NatRange};
use crate::reason::DropReason;
use shuttle::Runner;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{self, JoinHandle};
use std::collections::HashMap;
use std::sync::Arc;
use sumun_config::facts::{CtState, status};
use sumun_config::model::Sysctl;

const S: u64 = 1_000_000_000;
const OUTER: u128 = 0xcb00_7102;
const WAN: PortId = PortId(1);

/// Tries a scene in many orders.
fn check(scene: impl Fn() + Send + Sync + 'static) {
    const RUNS: usize = 1000;
    let scene = Arc::new(scene);
    let mean = scene.clone();
    Runner::new(RandomScheduler::new_from_seed(1, RUNS), Default::default()).run(move || scene());
    Runner::new(PctScheduler::new_from_seed(2, 3, RUNS), Default::default()).run(move || mean());
}

/// A table and its two workers.
struct Scene {
    shared: Arc<Conntrack>,
    workers: [Worker; 2],
}

/// A worker: one packet a burst unless told otherwise.
struct Worker {
    t: Tracker,
    s: Sysctl,
}

impl Scene {
    fn new(max_flows: u32) -> Scene {
        let shared = Arc::new(Conntrack::new(max_flows, 2, 3));
        let s = Sysctl { nf_conntrack_checksum: false, nf_conntrack_acct: true, ..Sysctl::default() };
        let workers = [0, 1].map(|number| Worker { t: Tracker::new(shared.clone(), number), s: s.clone() });
        Scene { shared, workers }
    }

    /// Both workers do something at once; a third thread is an operator.
    fn race(
        self,
        one: impl FnOnce(&mut Worker) + Send + 'static,
        two: impl FnOnce(&mut Worker) + Send + 'static,
        operator: impl FnOnce(&Conntrack) + Send + 'static,
    ) -> Scene {
        let Scene { shared, workers: [mut a, mut b] } = self;
        let table = shared.clone();
        let a: JoinHandle<Worker> = thread::spawn(move || {
            one(&mut a);
            a
        });
        let b = thread::spawn(move || {
            two(&mut b);
            b
        });
        operator(&table);
        Scene { shared, workers: [a.join().unwrap(), b.join().unwrap()] }
    }

    fn live(&self) -> Vec<u32> {
        (0..self.shared.entries.len() as u32).filter(|id| self.shared.entry(*id).word().life() == Life::Live).collect()
    }

    /// Asserts what must hold after whatever happened, then ends all flows and asserts the rest.
    fn end(mut self) {
        let shared = self.shared.clone();
        let live = self.live();
        let mut tuples = HashMap::new();
        let mut doomed = 0;
        for &id in &live {
            let entry = shared.entry(id);
            doomed += u32::from(entry.word().status() & status::DYING != 0);
            // One that was begun twice and mapped twice is known by its answers only.
            let twice = entry.word().status() & status::NAT_CLASH != 0;
            for dir in [Dir::Original, Dir::Reply].into_iter().filter(|dir| !twice || *dir == Dir::Reply) {
                let words = entry.words(dir);
                assert_eq!(tuples.insert(words, id), None, "two live flows have one tuple");
                let found = shared.find(shared.hasher.hash(&words), &words).map(|(id, dir, _)| (id, dir));
                assert_eq!(found, Some((id, dir)), "a live flow is found by its tuples");
            }
        }
        assert_eq!(shared.count(), live.len() as u32 - doomed, "as many flows are told as are live");
        self.has_each_entry_once(&live);

        shared.flush(0);
        for round in 0..8 {
            for worker in &mut self.workers {
                worker.t.sweep(round * 8 * S, 1024);
                worker.t.quiescent(round * 8 * S);
            }
        }
        assert_eq!((self.live(), shared.count()), (Vec::new(), 0));
        assert!(shared.is_clean() && shared.sources.is_clean(), "nothing is left of flows that ended");
        self.has_each_entry_once(&[]);
    }

    fn has_each_entry_once(&self, live: &[u32]) {
        let (mut all, mut room) = self.shared.depot.inventory();
        for worker in &self.workers {
            let (ids, credit) = worker.t.inventory();
            room += i64::from(credit) + worker.t.pending.len() as i64;
            all.extend(ids);
        }
        all.extend(live);
        all.sort_unstable();
        assert_eq!(all, (0..self.shared.entries.len() as u32).collect::<Vec<_>>(), "every entry is in one place");
        assert_eq!(room + live.len() as i64, i64::from(self.shared.max_flows), "no room is lost");
    }
}

impl Worker {
    /// A whole burst of one packet.
    fn pass(&mut self, p: Sample, now: u64) -> Result<(CtState, Dir), DropReason> {
        let result = self.hold(p, now, |_, _| Ok(()));
        self.t.quiescent(now);
        result
    }

    /// The same without the burst's end; between tracking and confirming something else happens.
    fn hold(
        &mut self,
        mut p: Sample,
        now: u64,
        between: impl FnOnce(&mut Tracker, Flow) -> Result<(), DropReason>,
    ) -> Result<(CtState, Dir), DropReason> {
        let tuple = Tuple::of(&p.facts).words();
        let ct = self.t.track(&mut p.facts, &p.l3, now, &self.s)?;
        let Ct::Flow(flow) = ct else { panic!("{ct:?}: {:?}", self.t.why_invalid()) };
        if let Err(why) = between(&mut self.t, flow) {
            self.t.abandon(ct);
            return Err(why);
        }
        let result = self.t.confirm(ct, &mut p.facts, now);
        // Whoever removed the flow meanwhile: its number is not another flow's before the burst ends. A flow that lost
        // against another was this worker's alone.
        if result.is_ok() && p.facts.ct_status & status::CONFIRMED != 0 && p.facts.ct_dir == flow.dir {
            assert!(self.t.shared.entry(flow.id).is(flow.dir, &tuple) || self.lost(flow), "held in the burst");
        }
        result.map(|()| (p.facts.ct_state, p.facts.ct_dir))
    }

    /// Whether the flow was this worker's own and is free again.
    fn lost(&self, flow: Flow) -> bool {
        self.t.inventory().0.contains(&flow.id)
    }

    /// Maps a new flow's source into a range of ports outside and remembers that the port's address was used.
    fn masquerade(&mut self, p: Sample, ports: (u16, u16), now: u64) -> Result<(CtState, Dir), DropReason> {
        let range = NatRange { addresses: Some((OUTER, OUTER)), ports: Some(ports), ..NatRange::default() };
        let facts = p.facts;
        let result = self.hold(p, now, |t, flow| {
            t.map(flow, Manip::Src, Some(&range), &facts, 7)?;
            t.set_masqueraded(flow, WAN);
            Ok(())
        });
        self.t.quiescent(now);
        result
    }
}

/// Why a packet is dropped whose flow's tuple another flow has.
const TAKEN: [DropReason; 2] = [DropReason::ConntrackClash, DropReason::NatExhausted];

/// Nothing.
fn idle(_: &Conntrack) {}

/// Milliseconds of an unanswered UDP flow.
const UDP: u64 = 30 * S;

#[test]
fn two_first_packets_of_one_flow_make_one_flow_and_both_pass() {
    check(|| {
        let scene = Scene::new(4).race(
            |w| assert!(w.pass(udp(A, 1, B, 53), 0).is_ok()),
            |w| assert!(w.pass(udp(A, 1, B, 53), 0).is_ok()),
            idle,
        );
        let view = scene.shared.flow_of(&udp(A, 1, B, 53).facts, 0).unwrap().0;
        assert_eq!((scene.shared.count(), view.original.packets, view.reply.packets), (1, 2, 0));
        scene.end();
    });
}

#[test]
fn two_first_packets_against_each_other_make_one_flow_that_is_answered() {
    check(|| {
        let scene = Scene::new(4).race(
            |w| assert!(w.pass(udp(A, 1, B, 53), 0).is_ok()),
            |w| assert!(w.pass(udp(B, 53, A, 1), 0).is_ok()),
            idle,
        );
        let view = scene.shared.flow_of(&udp(A, 1, B, 53).facts, 0).unwrap().0;
        assert_eq!((scene.shared.count(), view.original.packets, view.reply.packets), (1, 1, 1));
        assert!(view.status & status::SEEN_REPLY != 0);
        scene.end();
    });
}

#[test]
fn of_two_syns_at_once_at_most_one_is_dropped() {
    check(|| {
        let scene = Scene::new(4).race(
            |w| assert!(!matches!(w.pass(tcp(A, 1, B, 80, 2), 0), Err(why) if why != DropReason::ConntrackClash)),
            |w| assert!(!matches!(w.pass(tcp(A, 1, B, 80, 2), 0), Err(why) if why != DropReason::ConntrackClash)),
            idle,
        );
        assert_eq!((scene.shared.count(), scene.shared.stats().insert), (1, 1));
        scene.end();
    });
}

#[test]
fn a_flow_that_expires_while_it_is_used_ends_or_lives_but_is_never_two() {
    check(|| {
        let mut scene = Scene::new(4);
        scene.workers[0].pass(udp(A, 1, B, 53), 0).unwrap();
        scene
            .race(
                |w| assert!(w.pass(udp(A, 1, B, 53), UDP - S).is_ok()),
                |w| {
                    w.t.sweep(UDP + S, 64);
                    assert!(w.pass(udp(A, 1, B, 53), UDP + S).is_ok());
                },
                idle,
            )
            .end();
    });
}

#[test]
fn operators_delete_what_workers_use_and_remove() {
    check(|| {
        let mut scene = Scene::new(4);
        scene.workers[0].pass(udp(A, 1, B, 53), 0).unwrap();
        scene
            .race(
                |w| assert!(w.pass(udp(A, 1, B, 53), 0).is_ok()),
                |w| {
                    assert!(w.pass(udp(B, 53, A, 1), 0).is_ok());
                    w.t.sweep(UDP / 2, 64);
                },
                |table| {
                    table.flush(0);
                    table.list(0, |view| assert_eq!(view.original.tuple.inverted(), Some(view.reply.tuple)));
                    table.delete(0, |view| view.original.tuple.sport == 1);
                },
            )
            .end();
    });
}

/// A connection that both sides have closed.
fn closed(worker: &mut Worker) {
    const FIN: u8 = 0x11;
    for (p, seq, ack) in [
        (tcp(A, 1, B, 80, 0x02), 0, 0),
        (tcp(B, 80, A, 1, 0x12), 0, 1),
        (tcp(A, 1, B, 80, 0x10), 1, 1),
        (tcp(A, 1, B, 80, FIN), 1, 1),
        (tcp(B, 80, A, 1, FIN), 1, 2),
        (tcp(A, 1, B, 80, 0x10), 2, 2),
    ] {
        worker.pass(super::tests::tcp_at(p, seq, ack), 0).unwrap();
    }
}

#[test]
fn a_tuple_in_time_wait_that_two_workers_reopen_is_one_new_flow() {
    check(|| {
        let mut scene = Scene::new(4);
        closed(&mut scene.workers[0]);
        let again = || super::tests::tcp_at(tcp(A, 1, B, 80, 0x02), 1000, 0);
        let known = [DropReason::ConntrackClash, DropReason::ConntrackDrop];
        let scene = scene.race(
            move |w| assert!(!matches!(w.pass(again(), S), Err(why) if !known.contains(&why))),
            move |w| assert!(!matches!(w.pass(again(), S), Err(why) if !known.contains(&why))),
            idle,
        );
        let (view, _) = scene.shared.flow_of(&tcp(A, 1, B, 80, 2).facts, S).expect("one of them began it");
        assert_eq!((view.state, scene.shared.count()), (Some("SYN_SENT"), 1));
        scene.end();
    });
}

#[test]
fn a_flow_that_is_dropped_early_while_it_is_used_gives_its_room_away_once() {
    check(|| {
        let mut scene = Scene::new(2);
        scene.workers[0].pass(udp(A, 1, B, 53), 0).unwrap();
        scene.workers[1].pass(udp(A, 2, B, 53), 0).unwrap();
        let known = |result| !matches!(result, Err(why) if why != DropReason::ConntrackFull);
        let scene = scene.race(
            move |w| {
                assert!(known(w.pass(udp(A, 3, B, 53), 0)));
                assert!(known(w.pass(udp(A, 1, B, 53), 0)));
            },
            move |w| {
                assert!(known(w.pass(udp(B, 53, A, 1), 0)));
                assert!(known(w.pass(udp(A, 4, B, 53), 0)));
            },
            idle,
        );
        assert!(scene.shared.count() <= 2);
        scene.end();
    });
}

#[test]
fn a_number_that_is_held_in_a_burst_does_not_become_another_flow() {
    check(|| {
        let mut scene = Scene::new(4);
        scene.workers[0].pass(udp(A, 1, B, 53), 0).unwrap();
        scene.workers[0].t.offline();
        scene
            .race(
                |w| {
                    w.t.online();
                    let tuple = Tuple::of(&udp(A, 1, B, 53).facts).words();
                    let held = w.hold(udp(A, 1, B, 53), 0, |t, flow| {
                        for _ in 0..4 {
                            thread::yield_now();
                            assert!(t.shared.entry(flow.id).is(flow.dir, &tuple), "another flow's by now");
                        }
                        Ok(())
                    });
                    assert!(held.is_ok());
                    w.t.quiescent(0);
                },
                |w| {
                    // Removes it, and uses whatever is free again as fast as it may.
                    w.t.sweep(UDP + S, 64);
                    for port in 2..12 {
                        w.t.quiescent(UDP + S);
                        assert!(w.pass(udp(A, port, B, 54), UDP + S).is_ok());
                    }
                },
                idle,
            )
            .end();
    });
}

#[test]
fn two_workers_that_choose_the_same_port_map_one_flow_to_it() {
    for ports in [(7000, 7000), (7000, 7001)] {
        check(move || {
            let scene = Scene::new(4).race(
                move |w| {
                    let result = w.masquerade(udp(A, 1, B, 53), ports, 0);
                    assert!(!matches!(result, Err(why) if !TAKEN.contains(&why)));
                },
                move |w| {
                    let result = w.masquerade(udp(A + 1, 1, B, 53), ports, 0);
                    assert!(!matches!(result, Err(why) if !TAKEN.contains(&why)));
                },
                idle,
            );
            let most = u32::from(ports.1 - ports.0) + 1;
            let count = scene.shared.count();
            assert!((1..=most).contains(&count), "{count} flows");
            scene.end();
        });
    }
}

#[test]
fn no_flow_masqueraded_with_an_address_that_is_gone_outlives_the_second_look() {
    check(|| {
        let gone = |port: PortId, _, addr| port == WAN && addr == OUTER;
        let scene = Scene::new(4).race(
            |w| {
                // The other's packet may look like its answer and be there first.
                let result = w.masquerade(udp(A, 1, B, 53), (7000, 7000), 0);
                assert!(!matches!(result, Err(why) if !TAKEN.contains(&why)));
            },
            |w| assert!(!matches!(w.pass(udp(B, 53, OUTER, 7000), 0), Err(why) if !TAKEN.contains(&why))),
            move |table| {
                table.forget_masqueraded(0, gone);
            },
        );
        scene.shared.forget_masqueraded(0, gone);
        scene.shared.list(0, |view| assert_ne!(view.reply.tuple.dst, OUTER, "{view}"));
        scene.end();
    });
}
