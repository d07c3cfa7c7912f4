//! The loop over ports in memory.

use super::*;
use crate::port::Port;
use crate::umem::Region;
use crossbeam_queue::ArrayQueue;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// A port whose other end the test holds.
struct Wire {
    incoming: Arc<ArrayQueue<Frame>>,
    outgoing: Arc<ArrayQueue<Frame>>,
    /// Takes nothing for transmission.
    stuck: bool,
}

impl Port for Wire {
    fn receive(&mut self, _: &mut Pool, rx: &mut Vec<Frame>, most: usize) {
        rx.extend(std::iter::from_fn(|| self.incoming.pop()).take(most));
    }

    fn transmit(&mut self, tx: &mut Vec<Frame>) {
        if !self.stuck {
            for frame in tx.drain(..) {
                self.outgoing.push(frame).expect("room");
            }
        }
    }

    fn flush(&mut self, _: &mut Pool) {}

    fn lent(&self) -> usize {
        self.incoming.len() + self.outgoing.len()
    }

    fn wait_on(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn is_sending(&self) -> bool {
        false
    }
}

/// Sends everything on one port, and panics on the word.
struct Sink {
    pool: Pool,
    to: PortId,
    tx: [Vec<Frame>; 2],
    drops: Vec<DropReason>,
    deadline: Option<u64>,
    ticks: Arc<AtomicU64>,
}

impl Forwarder for Sink {
    fn process(&mut self, _: u64, _: PortId, rx: &mut Vec<Frame>) {
        assert!(rx.iter().all(|frame| frame.bytes() != b"panic"), "told to panic");
        self.tx[self.to.0 as usize].append(rx);
    }

    fn refuse(&mut self, _: PortId, reason: DropReason, frame: Frame) {
        self.dropped(reason, frame);
    }

    fn tick(&mut self, now: u64) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
        }
    }

    fn take_tx(&mut self, port: PortId) -> &mut Vec<Frame> {
        &mut self.tx[port.0 as usize]
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn dropped(&mut self, reason: DropReason, frame: Frame) {
        self.drops.push(reason);
        self.pool.give(frame);
    }

    fn next_deadline(&self, _: u64) -> Option<u64> {
        self.deadline
    }

    fn rest(&mut self) {}

    fn resume(&mut self) {}

    fn held(&self) -> usize {
        0
    }
}

/// Two workers, each with the one queue of the port of its own number; worker 0 sends all on port 1. What comes in is
/// put into port 0's wire before the start.
struct Bench {
    members: Vec<Member<Sink>>,
    incoming: Vec<Arc<ArrayQueue<Frame>>>,
    outgoing: Vec<Arc<ArrayQueue<Frame>>>,
    core: usize,
}

fn bench(frames: u32, stuck: bool) -> Bench {
    let core = core_affinity::get_core_ids().expect("cores")[0].id;
    let pools = Pool::deal(Region::cut(frames, 2048), 2);
    let queues = || (0..2).map(|_| Arc::new(ArrayQueue::new(frames as usize))).collect::<Vec<_>>();
    let (incoming, outgoing) = (queues(), queues());
    let members = pools.into_iter().enumerate().map(|(number, pool)| {
        let wire = Wire { incoming: incoming[number].clone(), outgoing: outgoing[number].clone(), stuck };
        let own = Seat::Own(Box::new(wire));
        let (first, second) = if number == 0 { (own, Seat::Via(1)) } else { (Seat::Via(0), own) };
        let seats = vec![(PortId(0), first), (PortId(1), second)];
        let (to, ticks) = (PortId(1), Arc::new(AtomicU64::new(0)));
        Member {
            core,
            engine: Sink { pool, to, tx: Default::default(), drops: Vec::new(), deadline: None, ticks },
            seats,
        }
    });
    Bench { members: members.collect(), incoming, outgoing, core }
}

/// Puts frames of worker 0 on port 0's wire.
fn arrive(bench: &mut Bench, count: usize, bytes: &[u8]) {
    for _ in 0..count {
        let mut frame = bench.members[0].engine.pool.take().expect("a frame");
        assert!(frame.set(bytes));
        bench.incoming[0].push(frame).expect("room");
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const SLEEPY: Idle = Idle::Sleep { after_us: 0 };

#[test]
fn frames_for_another_workers_port_are_handed_over_in_order_and_none_is_lost() {
    let mut bench = bench(400, false);
    for number in 0..200u8 {
        arrive(&mut bench, 1, &[number]);
    }
    let outgoing = bench.outgoing[1].clone();
    let workers = start(bench.members, SLEEPY).unwrap();
    until("all frames are sent", || outgoing.len() == 200);
    workers.control().stop();
    let (census, engines) = workers.join().unwrap();
    assert_eq!(census, Census { made: 400, free: 200, lent: 200, held: 0 });
    assert!(engines.iter().all(|engine| engine.drops.is_empty()));
    let sent: Vec<u8> = std::iter::from_fn(|| outgoing.pop()).map(|frame| frame.bytes()[0]).collect();
    assert_eq!(sent, (0..200).collect::<Vec<u8>>());
}

#[test]
fn what_a_stuck_port_does_not_take_is_dropped_and_comes_home() {
    let mut bench = bench(256, true);
    arrive(&mut bench, 100, b"x");
    let incoming = bench.incoming[0].clone();
    let workers = start(bench.members, SLEEPY).unwrap();
    until("all frames are taken", || incoming.is_empty());
    std::thread::sleep(Duration::from_millis(20));
    workers.control().stop();
    let (census, engines) = workers.join().unwrap();
    assert_eq!(census, Census { made: 256, free: 256, lent: 0, held: 0 });
    assert_eq!(engines[0].drops, []);
    assert_eq!(engines[1].drops, [DropReason::TxRing; 100]);
}

#[test]
fn a_full_inbox_is_a_drop_of_the_sender() {
    let inbox = Inbox::new(2).unwrap();
    let mut frames = Region::cut(3, 2048).into_iter();
    assert!(inbox.leave(PortId(1), frames.next().unwrap()).is_ok());
    assert!(inbox.leave(PortId(1), frames.next().unwrap()).is_ok());
    assert_eq!(inbox.leave(PortId(1), frames.next().unwrap()).unwrap_err().index(), 2);
    assert_eq!((inbox.take().unwrap().1.index(), inbox.len()), (0, 1));
}

#[test]
fn a_panic_stops_all_workers_and_says_where() {
    let mut bench = bench(16, false);
    arrive(&mut bench, 1, b"panic");
    let core = bench.core;
    let workers = start(bench.members, SLEEPY).unwrap();
    let control = workers.control();
    let Err(error) = workers.join() else { panic!("joined without an error") };
    assert!(control.is_stopping());
    let expected = format!("worker 0 on core {core} panicked, so all workers were stopped: told to panic");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_core_that_is_not_there_is_an_error() {
    let mut bench = bench(16, false);
    bench.members[1].core = 4095;
    let Err(error) = start(bench.members, SLEEPY) else { panic!("started") };
    assert!(matches!(error, WorkerError::Core { worker: 1, core: 4095 }), "{error}");
}

#[test]
fn a_sleeping_worker_wakes_for_the_bell_and_for_a_deadline_only() {
    let mut bench = bench(16, false);
    let ticks = bench.members[0].engine.ticks.clone();
    let due = now() + 300_000_000;
    bench.members[0].engine.deadline = Some(due);
    let workers = start(bench.members, SLEEPY).unwrap();
    until("the deadline has passed", || now() > due + 50_000_000);
    let slept = ticks.load(Ordering::Relaxed);
    assert!((2..50).contains(&slept), "{slept} turns until the deadline");
    // The longest sleep is a second: many more turns than seconds are the bell's.
    let started = Instant::now();
    let mut rings = 0;
    while started.elapsed() < Duration::from_millis(500) {
        workers.control().wake();
        rings += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let woken = ticks.load(Ordering::Relaxed) - slept;
    assert!(woken >= 5 && woken <= 3 * rings + 10, "{woken} turns for {rings} rings");
    workers.control().stop();
    workers.join().unwrap();
}

#[test]
fn the_other_threads_keep_off_the_workers_cores_where_there_are_others() {
    let allowed = || {
        let set = sched_getaffinity(Pid::from_raw(0)).expect("cores");
        (0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect::<Vec<_>>()
    };
    std::thread::spawn(move || {
        let all = allowed();
        stand_aside(&all).expect("as it is");
        assert_eq!(allowed(), all, "there is nowhere else");
        if let [worker, others @ ..] = &all[..]
            && !others.is_empty()
        {
            stand_aside(&[*worker, usize::MAX]).expect("aside");
            assert_eq!(allowed(), others);
            assert_eq!(std::thread::spawn(allowed).join().expect("no panic"), others);
        }
    })
    .join()
    .expect("no panic");
}
