//! A worker's turns: the loop itself, and how it sends and sleeps.

use super::{
    BURST, BURSTS, COUNT_EVERY, Forwarder, INBOX, LAST_FRAMES, LONGEST_SLEEP, Member, SENDING_SLEEP, Shared, TRIES,
    now, ports,
};
use crate::host::exchange::Sent;
use crate::port::{Port, PortCounts, Seat};
use crate::reason::DropReason;
use crate::umem::Frame;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use sumun_config::facts::PortId;
use sumun_config::model::Idle;

/// One worker.
pub(super) struct Worker<F> {
    number: usize,
    pub engine: F,
    pub seats: Vec<(PortId, Seat)>,
    shared: Arc<Shared>,
    rx: Vec<Frame>,
    /// What the host sent.
    sent: Vec<Sent>,
    for_host: Vec<(PortId, Frame)>,
    tx: Vec<Frame>,
    /// By port: what others handed over. Empty and without room for those that have no seat.
    pub handed: Vec<Vec<Frame>>,
    /// By worker: whether it was handed something this turn.
    rang: Vec<bool>,
    /// Sockets that report an error, which are not waited on: that would never sleep.
    broken: Vec<RawFd>,
    sending_sleep: u64,
}

impl<F: Forwarder> Worker<F> {
    pub fn new(number: usize, member: Member<F>, shared: Arc<Shared>) -> Worker<F> {
        let Member { engine, seats, .. } = member;
        let mut handed: Vec<Vec<Frame>> = (0..ports(&seats)).map(|_| Vec::new()).collect();
        for (port, _) in &seats {
            handed[usize::from(port.0)].reserve(INBOX);
        }
        Worker {
            number,
            engine,
            broken: Vec::new(),
            handed,
            rang: vec![false; shared.inboxes.len()],
            seats,
            shared,
            rx: Vec::with_capacity(BURST),
            sent: Vec::with_capacity(BURST),
            for_host: Vec::with_capacity(BURSTS * BURST),
            tx: Vec::with_capacity(BURSTS * BURST),
            sending_sleep: SENDING_SLEEP.0,
        }
    }

    pub fn run(&mut self, idle: Idle) {
        let mut quiet_since = None;
        let mut turns = 0u32;
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = now();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(COUNT_EVERY) {
                self.count();
            }
            if self.turn(now) {
                quiet_since = None;
                self.sending_sleep = SENDING_SLEEP.0;
                continue;
            }
            let since = *quiet_since.get_or_insert(now);
            match idle {
                Idle::Sleep { after_us } if now - since >= after_us as u64 * 1000 => self.sleep(now),
                _ => std::hint::spin_loop(),
            }
        }
        let end = now() + LAST_FRAMES;
        while now() < end && (self.turn_out() || self.is_sending()) {}
    }

    /// One turn of the loop. Whether there was anything to do.
    fn turn(&mut self, now: u64) -> bool {
        let mut busy = false;
        for _ in 0..BURSTS {
            let mut more = false;
            for (id, seat) in &mut self.seats {
                if let Seat::Own(port) = seat {
                    port.receive(self.engine.pool(), &mut self.rx, BURST);
                    while let Some((reason, frame)) = port.lost() {
                        busy = true;
                        self.engine.refuse(*id, reason, frame);
                    }
                    more |= self.rx.len() >= BURST;
                    if !self.rx.is_empty() {
                        busy = true;
                        self.engine.process(now, *id, &mut self.rx);
                    }
                }
            }
            if !more {
                break;
            }
        }
        busy |= self.hear_host(now);
        self.engine.tick(now);
        self.turn_out() || busy
    }

    /// Takes what the host sent. Whether there was something.
    fn hear_host(&mut self, now: u64) -> bool {
        let Some(exchange) = &self.shared.host else { return false };
        let mut busy = false;
        for _ in 0..BURSTS {
            self.sent.extend((0..BURST).map_while(|_| exchange.sent(self.number)));
            let more = self.sent.len() >= BURST;
            if !self.sent.is_empty() {
                busy = true;
                self.engine.take_sent(now, &mut self.sent);
            }
            if !more {
                break;
            }
        }
        busy
    }

    /// Leaves for the host what is for it. What does not fit is dropped.
    fn tell_host(&mut self) {
        let Some(exchange) = &self.shared.host else { return };
        let Some(frames) = self.engine.to_host().filter(|frames| !frames.is_empty()) else { return };
        std::mem::swap(frames, &mut self.for_host);
        for (port, frame) in self.for_host.drain(..) {
            if let Err(frame) = exchange.leave(port, frame) {
                self.engine.dropped(DropReason::HostQueue, frame);
            }
        }
        exchange.bell().ring();
    }

    /// The sending half of a turn. Whether there was anything to send.
    fn turn_out(&mut self) -> bool {
        let mut busy = self.open_inbox();
        for (id, seat) in &mut self.seats {
            std::mem::swap(self.engine.take_tx(*id), &mut self.tx);
            busy |= !self.tx.is_empty();
            match seat {
                Seat::Own(port) => {
                    send(port.as_mut(), &mut self.engine, &mut self.handed[usize::from(id.0)]);
                    send(port.as_mut(), &mut self.engine, &mut self.tx);
                    port.flush(self.engine.pool());
                }
                Seat::Via(worker) => {
                    let inbox = &self.shared.inboxes[*worker];
                    self.rang[*worker] |= !self.tx.is_empty();
                    for frame in self.tx.drain(..) {
                        if let Err(frame) = inbox.leave(*id, frame) {
                            self.engine.dropped(DropReason::Handover, frame);
                        }
                    }
                }
            }
        }
        self.tell_host();
        if let Some(worker) = self.engine.wakes() {
            self.rang[worker] = true;
        }
        for (worker, rang) in self.rang.iter_mut().enumerate() {
            if std::mem::take(rang) {
                self.shared.inboxes[worker].bell.ring();
            }
        }
        busy
    }

    /// Sorts what others handed over by port.
    fn open_inbox(&mut self) -> bool {
        let inbox = &self.shared.inboxes[self.number];
        let mut count = 0;
        while count < 4 * BURST
            && let Some((port, frame)) = inbox.take()
        {
            count += 1;
            match port.index().and_then(|port| self.handed.get_mut(port)) {
                Some(handed) => handed.push(frame),
                None => self.engine.dropped(DropReason::Handover, frame),
            }
        }
        count > 0
    }

    fn is_sending(&self) -> bool {
        self.seats.iter().any(|(_, seat)| matches!(seat, Seat::Own(port) if port.is_sending()))
    }

    /// Sleeps until there may be something to do.
    fn sleep(&mut self, now: u64) {
        self.count();
        let mut most = LONGEST_SLEEP;
        if self.is_sending() {
            most = self.sending_sleep;
            self.sending_sleep = (2 * self.sending_sleep).min(SENDING_SLEEP.1);
        }
        let inbox = &self.shared.inboxes[self.number];
        inbox.bell.lie_down();
        // Behind the bell: what others left for the engine makes this now.
        if let Some(deadline) = self.engine.next_deadline(now) {
            most = most.min(deadline.saturating_sub(now));
        }
        let host_is_quiet = self.shared.host.as_ref().is_none_or(|exchange| exchange.has_nothing_for(self.number));
        if most > 0 && inbox.is_empty() && host_is_quiet && !self.shared.stop.load(Ordering::Acquire) {
            let before = self.broken.len();
            self.engine.rest();
            wait(inbox.bell.as_fd(), &self.seats, &mut self.broken, Duration::from_nanos(most));
            self.engine.resume();
            if self.broken.len() > before {
                tracing::error!("worker {}: an AF_XDP socket no longer works: is its device gone?", self.number);
            }
        }
        inbox.bell.get_up();
    }

    /// Publishes what the ports counted.
    pub fn count(&mut self) {
        for (id, seat) in &mut self.seats {
            let Seat::Own(port) = seat else { continue };
            let counts = &self.shared.counts[usize::from(id.0)];
            let mut new = PortCounts::default();
            port.count(&mut new);
            if new != PortCounts::default() {
                counts.strays.fetch_add(new.strays, Ordering::Relaxed);
                counts.failures.fetch_add(new.failures, Ordering::Relaxed);
                counts.unsendable.fetch_add(new.unsendable, Ordering::Relaxed);
                counts.refused.fetch_add(new.refused, Ordering::Relaxed);
            }
        }
    }
}

/// Places a burst in the port's ring; what does not fit after some tries is dropped. Leaves `tx` empty.
fn send<F: Forwarder>(port: &mut dyn Port, engine: &mut F, tx: &mut Vec<Frame>) {
    let mut fruitless = 0;
    while fruitless < TRIES {
        if tx.is_empty() {
            return;
        }
        let before = tx.len();
        port.transmit(tx);
        fruitless = if tx.len() < before { 0 } else { fruitless + 1 };
        if !tx.is_empty() {
            port.flush(engine.pool());
        }
    }
    for frame in tx.drain(..) {
        engine.dropped(DropReason::TxRing, frame);
    }
}

/// Waits for a frame, the bell, or the time. Adds the sockets that can never have a frame again to `broken`.
fn wait(bell: BorrowedFd, seats: &[(PortId, Seat)], broken: &mut Vec<RawFd>, most: Duration) {
    let mut fds = vec![PollFd::new(bell, PollFlags::POLLIN)];
    for (_, seat) in seats {
        let Seat::Own(port) = seat else { continue };
        let sockets = port.wait_on().into_iter().filter(|fd| !broken.contains(&fd.as_raw_fd()));
        fds.extend(sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    }
    match ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None) {
        Ok(0) | Err(Errno::EINTR) => {}
        Ok(_) => {
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
            let found = fds[1..].iter().filter(|fd| fd.revents().is_some_and(|events| events.intersects(gone)));
            broken.extend(found.map(|fd| fd.as_fd().as_raw_fd()));
        }
        Err(error) => {
            tracing::error!("ppoll: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
